"""Scan a genome: the base composition, and the counts, of many windows, in pieces, over processes.

A piece is some Mb of a chromosome: its bases are read straight from the FASTA's bytes, looked at once, and let go, so
memory does not grow with the genome. What a window holds does not depend on the pieces or the processes.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from cherimoya.io._workers import n_cores, spread
from cherimoya.io.genome import Genome
from cherimoya.io.tracks import Tracks

_PIECE = 1 << 21  # bases of a piece
_BLOCK = 1 << 18  # bytes that stay in a core's own cache
_IUPAC = np.isin(np.arange(256), np.frombuffer(b"ACGTRYSWKMBDHVNUacgtryswkmbdhvnu", dtype=np.uint8))
_LETTERS = np.frombuffer(b"ACGTN", dtype=np.uint8)
#: Seconds per base, about, of sequence and of each bigWig; a process pays off from so many seconds of work.
_SEQUENCE_COST, _TRACK_COST, _WORTH_A_PROCESS = 1.5e-9, 12e-9, 1.0


class Composition(NamedTuple):
	"""What windows hold: bases that are C or G, bases that are any of ACGT, shape=(n,); counts, (n, G), or None."""

	gc: np.ndarray
	known: np.ndarray
	totals: np.ndarray | None

	@property
	def gc_content(self) -> np.ndarray:
		"""The fraction of C and G among the known bases; NaN where none is known."""
		return np.divide(self.gc, self.known, out=np.full(self.known.shape, np.nan), where=self.known > 0)


class _Job(NamedTuple):
	"""One piece: the windows, by their starts in ascending order, and which ones of the chromosome they are."""

	chrom: str
	starts: np.ndarray
	rows: np.ndarray


class _Source(NamedTuple):
	"""What is read, and over which widths."""

	genome: Genome
	tracks: Tracks | None
	in_window: int
	out_window: int

	def measure(self, job: _Job) -> Composition:
		"""The composition of the windows of one piece."""
		first, last = int(job.starts[0]), int(job.starts[-1]) + self.in_window
		strong, known = _base_flags(self.genome, job.chrom, first, last)
		sums = (_window_sums(flags, job.starts - first, self.in_window) for flags in (strong, known))
		return Composition(*sums, None if self.tracks is None else self._totals(job))

	def _totals(self, job: _Job) -> np.ndarray:
		"""The counts of each group over the central out_window, shape=(n, G)."""
		starts = job.starts + self.in_window // 2 - self.out_window // 2
		# Outputs may be wider than inputs; at a chromosome's ends such a window is moved inside.
		starts = np.clip(starts, 0, max(0, self.tracks.chrom_sizes[job.chrom] - self.out_window))
		return self.tracks.sums(np.full(len(starts), job.chrom, dtype=object), starts, self.out_window)


def scan(
	genome: Genome,
	tracks: Tracks | None,
	windows: Mapping[str, np.ndarray],
	*,
	in_window: int,
	out_window: int,
	workers: int | None = None,
	verbose: bool = False,
) -> dict[str, Composition]:
	"""The composition of windows.

	Parameters
	----------
	genome: Genome
		Where the bases come from.
	tracks: Tracks or None
		Where the counts come from.
	windows: mapping of str to numpy.ndarray of int64, shape=(n,)
		For each chromosome the starts of its windows, in any order.
	in_window, out_window: int
		Width of the windows, and of the central part whose counts are taken, in bp.
	workers: int or None, default None
		Processes; None is one per core, or this one alone where that is quicker.
	verbose: bool, default False
		Show a progress bar on a terminal.

	Returns
	-------
	dict of str to Composition
		In the order of the windows given.
	"""
	source = _Source(genome, tracks, in_window, out_window)
	jobs = [job for chrom, starts in windows.items() for job in _jobs(chrom, starts)]
	results = {chrom: _empty(len(starts), tracks) for chrom, starts in windows.items()}
	workers = _n_workers(source, jobs, workers)
	for i, found in _with_bar(spread(source.measure, jobs, workers), len(jobs), verbose=verbose):
		for whole, part in zip(results[jobs[i].chrom], found, strict=True):
			if whole is not None:
				whole[jobs[i].rows] = part
	return results


def _empty(n: int, tracks: Tracks | None) -> Composition:
	"""Arrays for the results of a chromosome."""
	totals = None if tracks is None else np.empty((n, len(tracks.groups)))
	return Composition(np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int64), totals)


def _jobs(chrom: str, starts: np.ndarray) -> Iterator[_Job]:
	"""The windows of a chromosome in pieces."""
	order = np.argsort(starts, kind="stable")
	pieces = starts[order] // _PIECE
	for rows in np.split(order, np.flatnonzero(np.diff(pieces)) + 1):
		if len(rows):
			yield _Job(chrom, starts[rows], rows)


def _with_bar(
	measured: Iterator[tuple[int, Composition]], total: int, *, verbose: bool
) -> Iterator[tuple[int, Composition]]:
	"""The same with a progress bar, if wanted."""
	if not verbose:
		return measured
	from tqdm import tqdm

	return iter(tqdm(measured, total=total, unit="pieces", desc="scanning the genome", disable=None, delay=1))


def _n_workers(source: _Source, jobs: list[_Job], wanted: int | None) -> int:
	"""How many processes to use: as asked, or as pays off."""
	if source.genome.name == "arrays":
		return 1  # they would be copied to each process
	if wanted is None:
		bases = sum(int(job.starts[-1] - job.starts[0]) for job in jobs)
		n_tracks = 0 if source.tracks is None else len(source.tracks.paths)
		seconds = bases * (_SEQUENCE_COST + n_tracks * _TRACK_COST)
		wanted = min(n_cores(), int(seconds / _WORTH_A_PROCESS))
	return max(1, min(wanted, len(jobs)))


# ---- bases ----------------------------------------------------------------------------------------------------------


def _base_flags(genome: Genome, chrom: str, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
	"""Whether each base of an interval is C or G, and whether it is one of ACGT: two of uint8, shape=(end - start,)."""
	letters = _letters(genome, chrom, start, end)
	if letters is not None:
		strong, known = _flags(letters)
		if known.all() or _IUPAC[letters[known == 0]].all():
			return strong, known
	# Anything unusual: this reads the chromosome with care, and raises where something is wrong with it.
	return _flags(_LETTERS[genome.codes(chrom, start, end)])


def _letters(genome: Genome, chrom: str, start: int, end: int) -> np.ndarray | None:
	"""The letters of an interval from the file's bytes, shape=(end - start,); None where lines are not as indexed."""
	record = genome._records.get(chrom)
	if record is None or not 0 < record.line_bases < record.line_bytes or not start < end:
		return None
	width, stride = record.line_bases, record.line_bytes
	first, last = start // width, (end - 1) // width
	at = record.first + first * stride
	data = genome._file.read(at, record.first + last * stride + (end - 1) % width + 1)
	data = np.frombuffer(data, dtype=np.uint8)
	whole, rest = last - first, (end - 1) % width + 1
	if len(data) != whole * stride + rest:
		return None
	lines = data[: whole * stride].reshape(whole, stride)
	# A line end among the letters is no IUPAC letter, and so is found later.
	ends = lines[:, width:]
	if not ((ends == ord("\n")) | (ends == ord("\r"))).all():
		return None
	letters = np.empty(whole * width + rest, dtype=np.uint8)
	letters[: whole * width].reshape(whole, width)[:] = lines[:, :width]
	letters[whole * width :] = data[whole * stride :]
	return letters[start - first * width :]


def _flags(letters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
	"""Whether each letter, in either case, is C or G, and whether it is one of ACGT, as uint8 of 0 and 1."""
	strong, known = np.empty(len(letters), dtype=bool), np.empty(len(letters), dtype=bool)
	masked, equal = np.empty(_BLOCK, dtype=np.uint8), np.empty(_BLOCK, dtype=bool)
	for at in range(0, len(letters), _BLOCK):
		part = letters[at : at + _BLOCK]
		n, s, k = len(part), strong[at : at + _BLOCK], known[at : at + _BLOCK]
		# In ASCII, C and G differ in bit 2, upper and lower case in bit 5.
		np.equal(np.bitwise_and(part, 0xDB, out=masked[:n]), ord("C"), out=s)
		np.bitwise_and(part, 0xDF, out=masked[:n])
		for letter in b"AT":
			np.equal(masked[:n], letter, out=equal[:n])
			np.logical_or(s if letter == ord("A") else k, equal[:n], out=k)
	return strong.view(np.uint8), known.view(np.uint8)


def _window_sums(flags: np.ndarray, starts: np.ndarray, width: int) -> np.ndarray:
	"""The sum of the flags, uint8 of 0 and 1, over windows of one width, shape=(n,) int64."""
	windows = np.lib.stride_tricks.sliding_window_view(flags, width)
	dtype = np.uint16 if width < 1 << 16 else np.uint32
	step = max(1, _BLOCK // width)
	sums = np.empty(len(starts), dtype=np.int64)
	for at in range(0, len(starts), step):
		sums[at : at + step] = windows[starts[at : at + step]].sum(axis=1, dtype=dtype)
	return sums
