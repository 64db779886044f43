"""Tiles: regions of a genome covered by windows that overlap, and values of windows blended into values of bases.

An output window is predicted from an input window that reaches (in_window - out_window) / 2 bases further to each side.
Input windows lie inside the chromosome, so the bases nearer to its ends have no prediction.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from cherimoya.errors import InputError, SettingsError, join_problems
from cherimoya.io._bigwig_writer import BigWigWriter
from cherimoya.io._files import replacing
from cherimoya.io._scan import scan
from cherimoya.io.genome import Genome
from cherimoya.io.loci import Loci, Region, overlaps_any, rename_regions, rows_by_chrom
from cherimoya.io.tracks import Tracks, cut
from cherimoya.io.windows import Accounting, Windows, exclusions_of

ALL = "*"
"""The region that stands for all chromosomes."""
REASONS = ("chromosome not in bigWig", "off the edge", "excluded", "unknown bases")
"""Why a tile is left out; a chromosome that is too short for a window counts as one tile, off the edge."""


class Piece(NamedTuple):
	"""Values of neighbouring bases: the first of them, counted from 0, and the values, float32, shape=(T, m)."""

	chrom: str
	start: int
	values: np.ndarray


# ---- where tiles are --------------------------------------------------------------------------------


def tile_starts(start: int, end: int, width: int, overlap: int) -> np.ndarray:
	"""The starts of tiles that cover [start, end), end - start >= width; the last one is moved inside.

	Neighbours share `overlap` bases, 0 <= overlap < width, and the last two at least so many.

	Returns
	-------
	numpy.ndarray of int64, shape=(n,)
		In ascending order; the first is `start`, and the last is `end` - `width`.
	"""
	starts = np.arange(start, end - width, width - overlap, dtype=np.int64)
	return np.append(starts, end - width)


def tile_weights(width: int, overlap: int) -> np.ndarray:
	"""The weight of each base of a tile in the blend, shape=(width,), float64.

	w(l) = min(1, (l + 1) / (overlap + 1), (width - l) / (overlap + 1)): a trapezoid whose flanks are as wide as the
	overlap, or a triangle where the overlap is more than half of the width. The weights of two neighbours that share
	at most half of their bases sum to 1.
	"""
	near = np.arange(1, width + 1) / (overlap + 1)
	return np.minimum(1.0, np.minimum(near, near[::-1]))


def check_overlap(overlap: int | None, out_window: int) -> int:
	"""The overlap in bp, half of the output window for None; SettingsError unless 0 <= overlap < out_window."""
	overlap = out_window // 2 if overlap is None else overlap
	if not 0 <= overlap < out_window:
		raise SettingsError(f"overlap must be at least 0 and below out_window ({out_window} bp), got {overlap}")
	return overlap


def spans_to_tile(
	regions: Sequence[str | Region], genome: Genome, *, in_window: int, out_window: int
) -> tuple[list[Region], list[str]]:
	"""The bases of regions that can be predicted, by the genome's order, each once, and chromosomes that are too short.

	A region is cut to the bases that output windows can cover, and widened around its middle where it is shorter than
	one of them; regions that overlap or touch are joined.

	Raises
	------
	InputError
		A region is not on the genome.
	"""
	regions = rename_regions(regions, genome.names)
	_check_regions(regions, genome)
	left = in_window // 2 - out_window // 2
	right = in_window - out_window - left
	spans: list[Region] = []
	short: list[str] = []
	for chrom, size in genome.chrom_sizes.items():
		ours = [region for region in regions if region.chrom in (chrom, ALL)]
		if ours and size < in_window:
			short.append(chrom)
			continue
		last = size - right - out_window  # where an output window may begin, at most
		wide = []
		for region in ours:
			end = size if region.end is None else region.end
			lo, hi = max(region.start, left), min(end, size - right)
			if hi - lo < out_window:
				lo = min(max((region.start + end) // 2 - out_window // 2, left), last)
				hi = lo + out_window
			wide.append((chrom, lo, hi))
		spans += _joined(wide)
	return spans, short


def _check_regions(regions: Sequence[Region], genome: Genome) -> None:
	"""InputError, naming each, for regions that the genome does not have."""
	problems = []
	for chrom, start, end in regions:
		size = genome.chrom_sizes.get(chrom)
		if chrom == ALL:
			if len(regions) > 1:
				problems.append(f'regions: "{ALL}" is all chromosomes; give it alone, or name chromosomes')
		elif size is None:
			known = ", ".join(list(genome.chrom_sizes)[:5]) + (", …" if len(genome.chrom_sizes) > 5 else "")
			problems.append(f"regions: {genome.name} has no chromosome {chrom}; it has {known}")
		elif max(start + 1, end or 0) > size:
			place = f"{chrom}:{start:,}-{'' if end is None else f'{end:,}'}"
			problems.append(
				f"regions: {place} leaves the chromosome, which has {size:,} bp in {genome.name}; shorten it"
			)
	if problems:
		raise InputError(join_problems(dict.fromkeys(problems)))


def _joined(spans: Iterable[tuple[str, int, int]]) -> list[Region]:
	"""Intervals of one chromosome in order, those joined that overlap or touch."""
	found: list[Region] = []
	for chrom, lo, hi in sorted(spans):
		if found and lo <= found[-1].end:
			found[-1] = found[-1]._replace(end=max(hi, found[-1].end))
		else:
			found.append(Region(chrom, lo, hi))
	return found


def tile_windows(
	regions: Sequence[str | Region],
	sequences: Any,
	signals: Any = None,
	controls: Any = None,
	*,
	in_window: int = 2114,
	out_window: int = 1000,
	overlap: int | None = None,
	max_n_perc: float = 0.1,
	exclusion_lists: Any = None,
	absolute: bool = False,
	workers: int | None = None,
) -> Windows:
	"""Windows that tile regions, whose arrays are read from the files whenever a part of them is taken.

	Parameters
	----------
	regions: list of str or Region
		Chromosomes, or parts such as ``chr2:10,000-50,000`` (0-based, half open); ``["*"]`` is all chromosomes.
	sequences, signals, controls:
		As for :func:`cherimoya.io.windows.extract_windows`.
	in_window, out_window: int, default 2114 and 1000
		Widths of the input and of the output, in bp.
	overlap: int or None, default None
		Bases of their outputs that neighbours share; None is half of `out_window`.
	max_n_perc: float, default 0.1
		Tiles of which a larger fraction of the input window is unknown (N) are left out.
	exclusion_lists: like loci, or None
		Tiles whose input window overlaps one of these regions are left out.
	absolute: bool, default False
		Take the absolute values of negative signals.
	workers: int or None, default None
		Processes that look for unknown bases; None takes as many as are worth it.

	Returns
	-------
	Windows
		Tiles in the order of the genome; `loci` are the output windows. `codes`, `signals` and `controls` give NumPy
		arrays for a slice or for numbers of rows. `accounting` counts tiles, by :data:`REASONS`.

	Raises
	------
	InputError
		A region is not on the genome, a file cannot be read, or no tile is left.
	SettingsError
		The overlap is not below `out_window`.
	"""
	overlap = check_overlap(overlap, out_window)
	genome = sequences if isinstance(sequences, Genome) else Genome(sequences)
	tracks, control_tracks = (
		None if given is None else Tracks(given, absolute=absolute, names=genome.names) for given in (signals, controls)
	)
	spans, short = spans_to_tile(regions, genome, in_window=in_window, out_window=out_window)
	pieces = [tile_starts(span.start, span.end, out_window, overlap) for span in spans]
	counts = [len(piece) for piece in pieces]
	chroms = np.repeat(np.array([span.chrom for span in spans], dtype=object), counts)
	starts = np.concatenate([*pieces, np.empty(0, dtype=np.int64)])

	left = in_window // 2 - out_window // 2
	reason = np.full(len(starts), -1, dtype=np.int8)
	known = [t.chrom_sizes for t in (tracks, control_tracks) if t is not None]
	_leave_out(reason, ~_of_chroms(chroms, lambda chrom: all(chrom in sizes for sizes in known)), REASONS[0])
	_leave_out(reason, _excluded(chroms, starts - left, in_window, exclusions_of(genome, exclusion_lists)), REASONS[2])
	_leave_out(reason, _unknown(genome, chroms, starts - left, in_window, reason < 0, workers) > max_n_perc, REASONS[3])
	kept = reason < 0
	dropped = {name: int((reason == i).sum()) for i, name in enumerate(REASONS)}
	dropped["off the edge"] += len(short)
	accounting = Accounting(len(starts) + len(short), int(kept.sum()), dropped)
	if not kept.any():
		raise InputError(
			f"{genome.name}: no tile of the regions is left; where the tiles went:\n{accounting.table()}\n"
			"Choose other regions, or change max_n_perc, the exclusion lists, or the tracks that left them out."
		)
	chroms, starts = chroms[kept], starts[kept]
	for t in (tracks, control_tracks):
		if t is not None:
			t.check_sizes({chrom: genome.chrom_sizes[chrom] for chrom in set(chroms.tolist())}, genome.name)
	n = len(starts)
	return Windows(
		codes=_Codes(genome, chroms, starts - left, in_window),
		signals=None if tracks is None else _Values(tracks, chroms, starts, out_window),
		controls=None if control_tracks is None else _Values(control_tracks, chroms, starts - left, in_window),
		loci=Loci(chroms, starts, starts + out_window, np.full(n, -1), ("regions",), np.zeros(n, dtype=np.int32)),
		mask=kept,
		accounting=accounting,
		signal_groups=() if tracks is None else tracks.groups,
		control_groups=() if control_tracks is None else control_tracks.groups,
		in_window=in_window,
		out_window=out_window,
		max_jitter=0,
	)


def _leave_out(reason: np.ndarray, mask: np.ndarray, name: str) -> None:
	"""Note `name` as the reason of the masked tiles that have none yet."""
	reason[(reason < 0) & mask] = REASONS.index(name)


def _of_chroms(chroms: np.ndarray, holds: Callable[[str], bool]) -> np.ndarray:
	"""What holds of the chromosome of each tile, asked once a chromosome, shape=(n,)."""
	answers = {chrom: holds(chrom) for chrom in dict.fromkeys(chroms.tolist())}
	return np.array([answers[chrom] for chrom in chroms.tolist()], dtype=bool)


def _excluded(chroms: np.ndarray, starts: np.ndarray, width: int, exclusions: Loci | None) -> np.ndarray:
	"""Whether each window overlaps an exclusion region, shape=(n,)."""
	mask = np.zeros(len(starts), dtype=bool)
	if exclusions is None:
		return mask
	rows = rows_by_chrom(chroms)
	for chrom, theirs in rows_by_chrom(exclusions.chroms).items():
		ours = rows.get(chrom, theirs[:0])
		mask[ours] = overlaps_any(
			exclusions.starts[theirs], exclusions.ends[theirs], starts[ours], starts[ours] + width
		)
	return mask


def _unknown(
	genome: Genome, chroms: np.ndarray, starts: np.ndarray, width: int, among: np.ndarray, workers: int | None
) -> np.ndarray:
	"""The fraction of unknown bases of those windows that are `among` the asked, else 0, shape=(n,)."""
	fractions = np.zeros(len(starts))
	rows = {chrom: some[among[some]] for chrom, some in rows_by_chrom(chroms).items()}
	wanted = {chrom: starts[some] for chrom, some in rows.items() if len(some)}
	for chrom, found in scan(genome, None, wanted, in_window=width, out_window=width, workers=workers).items():
		fractions[rows[chrom]] = 1 - found.known / width
	return fractions


# ---- what they hold ---------------------------------------------------------------------------------


class _Codes:
	"""Base codes of windows, shape (n, width), uint8, read when some of them are taken."""

	dtype = np.dtype(np.uint8)

	def __init__(self, genome: Genome, chroms: np.ndarray, starts: np.ndarray, width: int) -> None:
		self.genome, self.chroms, self.starts, self.width = genome, chroms, starts, width
		self.shape = (len(starts), width)

	def __len__(self) -> int:
		return len(self.starts)

	def __getitem__(self, index: "slice | np.ndarray") -> np.ndarray:
		chroms, starts = self.chroms[index], self.starts[index]
		codes = np.empty((len(starts), self.width), dtype=np.uint8)
		for first, stop in _runs(chroms, starts, self.width):  # what overlaps is read once
			begin, end = int(starts[first:stop].min()), int(starts[first:stop].max()) + self.width
			bases = self.genome.read(chroms[first], begin, end)
			codes[first:stop] = cut(bases, starts[first:stop] - begin, self.width)
		return codes


class _Values:
	"""Values of tracks over windows, shape (n, T, width), float32, read when some of them are taken."""

	dtype = np.dtype(np.float32)

	def __init__(self, tracks: Tracks, chroms: np.ndarray, starts: np.ndarray, width: int) -> None:
		self.tracks, self.chroms, self.starts, self.width = tracks, chroms, starts, width
		self.shape = (len(starts), len(tracks.paths), width)

	def __len__(self) -> int:
		return len(self.starts)

	def __getitem__(self, index: "slice | np.ndarray") -> np.ndarray:
		return self.tracks.windows(self.chroms[index], self.starts[index], self.width)


# ---- from tiles to bases ----------------------------------------------------------------------------


class _Pending:
	"""Weighted sums over bases that later tiles may still add to."""

	def __init__(self, chrom: str, start: int, n_channels: int) -> None:
		self.chrom, self.start = chrom, start
		self.total, self.weight = np.zeros((n_channels, 0)), np.zeros(0)

	@property
	def end(self) -> int:
		"""The base after the last."""
		return self.start + len(self.weight)

	def widen(self, end: int) -> None:
		"""Make room up to a base."""
		more = max(0, end - self.end)
		self.total = np.pad(self.total, ((0, 0), (0, more)))
		self.weight = np.pad(self.weight, (0, more))

	def add(self, start: int, values: np.ndarray, weights: np.ndarray) -> None:
		"""Add a tile's values, shape (T, width)."""
		place = slice(start - self.start, start - self.start + len(weights))
		self.total[:, place] += weights * values
		self.weight[place] += weights

	def take(self, end: int) -> Piece:
		"""The weighted means of the bases before `end`, which are let go."""
		n = end - self.start
		done = Piece(self.chrom, self.start, (self.total[:, :n] / self.weight[:n]).astype(np.float32))
		self.start, self.total, self.weight = end, self.total[:, n:], self.weight[n:]
		return done


def blend(chroms: Sequence[str], starts: np.ndarray, blocks: Iterable[np.ndarray], *, overlap: int) -> Iterator[Piece]:
	"""Blend the values of tiles into values of bases, with no more than a block of tiles in memory.

	The value of channel c at base x is the weighted mean over the tiles t that cover it,

	E[c, x] = sum over t of w(x - s_t) * E_t[c, x - s_t] / sum over t of w(x - s_t),

	with s_t the start of a tile and w the weights of :func:`tile_weights`.

	Parameters
	----------
	chroms: sequence of str, shape=(n,)
		The chromosome of each tile; those of one chromosome are together.
	starts: numpy.ndarray of int, shape=(n,)
		The first base of each tile, in ascending order within a chromosome.
	blocks: iterable of numpy.ndarray, shape=(m, T, width)
		The values of the tiles, some at a time, n in all.
	overlap: int
		The bases that neighbours share, in bp, which makes the weights.

	Yields
	------
	Piece
		From left to right, chromosome by chromosome; bases that no tile covers are left out.
	"""
	pending: _Pending | None = None
	row = 0
	for values in blocks:
		m, n_channels, width = values.shape
		weights = tile_weights(width, overlap)
		for first, stop in _runs(chroms[row : row + m], starts[row : row + m], width):
			chrom, begin = chroms[row + first], int(starts[row + first])
			if pending is not None and (pending.chrom != chrom or begin > pending.end):
				yield pending.take(pending.end)
				pending = None
			if pending is None:
				pending = _Pending(chrom, begin, n_channels)
			elif begin > pending.start:  # no later tile begins before this one
				yield pending.take(begin)
			pending.widen(int(starts[row + stop - 1]) + width)
			for i in range(first, stop):
				pending.add(int(starts[row + i]), values[i], weights)
		row += m
	if pending is not None:
		yield pending.take(pending.end)


def _runs(chroms: np.ndarray, starts: np.ndarray, width: int) -> Iterator[tuple[int, int]]:
	"""The tiles that touch the one before them, as (first, stop) of each run."""
	breaks = (chroms[1:] != chroms[:-1]) | (np.abs(np.diff(starts)) > width)
	edges = [0, *(np.flatnonzero(breaks) + 1).tolist(), len(starts)] if len(starts) else []
	return pairwise(edges)


def write_pieces(paths: Sequence[str], chrom_sizes: Mapping[str, int], pieces: Iterable[Piece]) -> int:
	"""Write values of bases to bigWigs, a file for each channel, as they come; the bases written.

	Parameters
	----------
	paths: sequence of path, length T
		The files; they appear under their names only when whole.
	chrom_sizes: mapping of str to int
		All chromosomes of the headers, in their order.
	pieces: iterable of Piece
		In the order of the header, and from left to right.

	Raises
	------
	InputError
		A value is not finite.
	"""
	n_bases = 0
	with ExitStack() as stack:
		temporary = [stack.enter_context(replacing(path)) for path in paths]
		files = [stack.enter_context(BigWigWriter(path, chrom_sizes)) for path in temporary]
		for chrom, start, values in pieces:
			if not np.isfinite(values).all():
				raise InputError(f"{paths[0]}: values from {chrom}:{start} on are not finite")
			for file, channel in zip(files, values, strict=True):
				file.add(chrom, start, channel)
			n_bases += values.shape[1]
	return n_bases
