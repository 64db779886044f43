"""The arrays of windows: read in chunks, by several processes, into memory or into the files of a cache.

Values are kept in the smallest of `DTYPES` that holds every one of them exactly. A chunk is some megabytes, and no
process holds more than one, so memory does not grow with the number of loci.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from cherimoya.io._workers import n_cores, spread
from cherimoya.io.genome import Genome
from cherimoya.io.tracks import LARGEST_GAP, Tracks, cut, group_totals, stretches

DTYPES = (np.uint8, np.int16, np.float16, np.float32)
"""What values are kept as: the first of these that is exact for all values of an array."""

_CHUNK = 1 << 24  # bytes of a chunk, as float32
#: Seconds per base, about, of sequence and of a bigWig, and per byte of windows; a process pays off from so many.
_SEQUENCE_COST, _TRACK_COST, _WINDOW_COST, _WORTH_A_PROCESS = 1.5e-9, 1.5e-9, 2e-10, 0.4
_SAMPLED = 64
_WRITERS = 4


class Arrays(NamedTuple):
	"""Codes (n, W), signals (n, T, out) and controls (n, Tc, W) of n loci; None where there are no tracks."""

	codes: np.ndarray
	signals: np.ndarray | None
	controls: np.ndarray | None


class Part(NamedTuple):
	"""A chunk that was read: its arrays (or their types, when they are in a file), and totals, (m, T), of signals."""

	arrays: Arrays
	totals: np.ndarray | None


@dataclass(frozen=True)
class Request:
	"""Windows to be read.

	Attributes
	----------
	chroms, mids: numpy.ndarray, shape=(n,)
		Chromosome and middle of each.
	genome: Genome
	tracks, controls: Tracks or None
	in_window, out_window, max_jitter: int
		In bp.
	"""

	chroms: np.ndarray
	mids: np.ndarray
	genome: Genome
	tracks: Tracks | None
	controls: Tracks | None
	in_window: int
	out_window: int
	max_jitter: int

	def __len__(self) -> int:
		return len(self.mids)

	def some(self, rows: np.ndarray) -> "Request":
		"""The same for some of the loci."""
		return Request(
			self.chroms[rows],
			self.mids[rows],
			self.genome,
			self.tracks,
			self.controls,
			self.in_window,
			self.out_window,
			self.max_jitter,
		)

	@property
	def shapes(self) -> Arrays:
		"""The shape of each array."""
		n, wide = len(self), 2 * self.max_jitter
		return Arrays(
			(n, self.in_window + wide),
			None if self.tracks is None else (n, len(self.tracks.paths), self.out_window + wide),
			None if self.controls is None else (n, len(self.controls.paths), self.in_window + wide),
		)

	def n_bytes(self, value_bytes: int = 4) -> int:
		"""Bytes of all arrays, with so many for each value of a track."""
		codes, *tracks = (0 if shape is None else int(np.prod(shape, dtype=np.int64)) for shape in self.shapes)
		return codes + value_bytes * sum(tracks)

	def content(self) -> list | None:
		"""What decides the arrays, as JSON can hold it; None when a source is remote, so that nobody knows."""
		from hashlib import sha256

		used = sorted(set(self.chroms.tolist()))
		given = [source for source in (self.genome, self.tracks, self.controls) if source is not None]
		sources = [source.content_key(used) for source in given]
		if None in sources:
			return None
		sources.append([self.tracks is not None, self.controls is not None])
		places = sha256("\0".join(self.chroms.tolist()).encode())
		places.update(np.ascontiguousarray(self.mids, dtype="<i8"))
		return [sources, self.in_window, self.out_window, self.max_jitter, len(self), places.hexdigest()]

	def default_workers(self) -> int:
		"""A process a core, but no more than pay for their start."""
		n_tracks = sum(0 if tracks is None else len(tracks.paths) for tracks in (self.tracks, self.controls))
		seconds = self._bases_read() * (_SEQUENCE_COST + n_tracks * _TRACK_COST) + self.n_bytes() * _WINDOW_COST
		return max(1, min(n_cores(), int(seconds / _WORTH_A_PROCESS)))

	def _bases_read(self) -> int:
		"""About how many bases the files are read over: the windows, and the gaps that are read over."""
		most, total = self.shapes.codes[1] + LARGEST_GAP, 0
		for chrom in set(self.chroms.tolist()):
			total += most + int(np.minimum(np.diff(np.sort(self.mids[self.chroms == chrom])), most).sum())
		return total


def smallest_exact(values: np.ndarray) -> np.ndarray:
	"""The values, which are not negative, in the first of `DTYPES` that holds each exactly."""
	if values.dtype == DTYPES[0]:
		return values
	top = values.max(initial=0)
	for dtype in DTYPES[:-1]:
		info = np.finfo(dtype) if dtype is np.float16 else np.iinfo(dtype)
		if top <= info.max:
			small = values.astype(dtype)
			if np.array_equal(small, values):
				return small
	return values


def value_bytes(request: Request) -> int:
	"""Bytes that a value of a track will most likely take, judged by a few loci."""
	rows = np.unique(np.linspace(0, len(request) - 1, _SAMPLED).astype(np.int64))
	arrays = _read(request.some(rows)).arrays
	return max((a.dtype.itemsize for a in arrays[1:] if a is not None), default=0)


def into_memory(request: Request, *, workers: int, bar: bool) -> tuple[Arrays, np.ndarray | None]:
	"""The arrays, values as float32, and the totals of each signal over the central out_window, (n, T)."""
	shapes = request.shapes
	dtypes = (np.uint8, np.float32, np.float32)
	arrays = Arrays(*(None if s is None else np.empty(s, dtype=d) for s, d in zip(shapes, dtypes, strict=True)))
	totals = None if request.tracks is None else np.empty(shapes.signals[:2])
	chunks = _chunks(request)
	work = partial(_read_chunk, _sources(request))
	for i, part in _results(work, request, chunks, workers=workers, bar=bar):
		for whole, piece in zip((*arrays, totals), (*part.arrays, part.totals), strict=True):
			if whole is not None:
				whole[chunks[i]] = piece
	return arrays, totals


def into_files(
	request: Request,
	folder: Path,
	choose: Callable[[np.ndarray | None], np.ndarray],
	*,
	workers: int,
	bar: bool,
) -> dict[str, str]:
	"""Write codes.npy, signals.npy and controls.npy of the chosen loci, and totals.npy of all, into a folder.

	Parameters
	----------
	request: Request
		What to read.
	folder: Path
		An empty folder.
	choose: callable
		From the totals of all loci, (n, T), which of them are kept, (n,).
	workers: int
		Processes.
	bar: bool
		Show a progress bar on a terminal.

	Returns
	-------
	dict of str to str
		The type of each array.
	"""
	# The name is a new one: a process whose parent was killed must not write among the parts of another run.
	parts = Path(tempfile.mkdtemp(prefix="parts.", dir=folder))
	chunks = _chunks(request)
	totals = None if request.tracks is None else np.empty(request.shapes.signals[:2])
	dtypes: list[Arrays | None] = [None] * len(chunks)
	work = partial(_write_chunk, _sources(request), str(parts))
	for i, part in _results(work, request, chunks, workers=workers, bar=bar):
		if totals is not None:
			totals[chunks[i]] = part.totals
		dtypes[i] = part.arrays
	kept = choose(totals)
	found = [_kept_dtypes(parts, i, kept[rows], dtypes[i]) for i, rows in enumerate(chunks)]
	final = {}
	for k, (name, shape) in enumerate(zip(Arrays._fields, request.shapes, strict=True)):
		if shape is not None:
			final[name] = (np.result_type(np.uint8, *(seen[k] for seen in found)), (int(kept.sum()), *shape[1:]))
	_merge(folder, parts, chunks, kept, final)
	if totals is not None:
		with open(folder / "totals.npy", "wb") as file:
			_save(file, totals)
	shutil.rmtree(parts)
	return {name: str(dtype) for name, (dtype, _) in final.items()}


def keep(array: np.ndarray | None, kept: np.ndarray) -> np.ndarray | None:
	"""The kept rows, moved to the front of the array itself, piece by piece."""
	if array is None or kept.all():
		return array
	step = max(1, _CHUNK // max(1, array[:1].nbytes))
	end = 0
	for first in range(0, len(array), step):
		piece = array[first : first + step][kept[first : first + step]]
		array[end : end + len(piece)] = piece
		end += len(piece)
	return array[:end]


# ---- chunks ---------------------------------------------------------------------------------------------------------


def _chunks(request: Request) -> list[np.ndarray]:
	"""The rows of each chunk: neighbours on one chromosome, from left to right."""
	step = max(16, _CHUNK * len(request) // max(1, request.n_bytes()))
	chunks = []
	for chrom in request.genome.chrom_sizes:
		rows = np.flatnonzero(request.chroms == chrom)
		rows = rows[np.argsort(request.mids[rows], kind="stable")]
		chunks += [rows[first : first + step] for first in range(0, len(rows), step)]
	return chunks


def _sources(request: Request) -> Request:
	"""The request without its loci, for the processes that read."""
	return request.some(np.zeros(0, dtype=np.int64))


def _tasks(request: Request, chunks: Sequence[np.ndarray]) -> list[tuple[str, np.ndarray, int]]:
	"""What a process has to know of each chunk: its chromosome, the middles, and its number."""
	return [(request.chroms[rows[0]], request.mids[rows], i) for i, rows in enumerate(chunks)]


def _read_chunk(sources: Request, task: tuple[str, np.ndarray, int]) -> Part:
	"""The arrays of a chunk."""
	chrom, mids, _ = task
	chroms = np.full(len(mids), chrom, dtype=object)
	return _read(
		Request(
			chroms,
			mids,
			sources.genome,
			sources.tracks,
			sources.controls,
			sources.in_window,
			sources.out_window,
			sources.max_jitter,
		)
	)


def _write_chunk(sources: Request, folder: str, task: tuple[str, np.ndarray, int]) -> Part:
	"""Write the arrays of a chunk to a file; its totals, and the types of the arrays."""
	part = _read_chunk(sources, task)
	with open(_part_path(folder, task[2]), "wb") as file:
		for array in part.arrays:
			if array is not None:
				_save(file, array)
	return Part(Arrays(*(None if a is None else a.dtype for a in part.arrays)), part.totals)


def _part_path(folder: str | Path, i: int) -> str:
	"""Where the chunk with a number lies until it is merged."""
	return os.path.join(folder, f"{i}.npys")


def _read(request: Request) -> Part:
	"""The arrays of some loci, each in its smallest type."""
	jitter, width = request.max_jitter, request.in_window + 2 * request.max_jitter
	starts = request.mids - request.in_window // 2 - jitter
	codes = np.empty((len(request), width), dtype=np.uint8)
	for chrom in dict.fromkeys(request.chroms.tolist()):
		mine = np.flatnonzero(request.chroms == chrom)
		mine = mine[np.argsort(starts[mine], kind="stable")]
		for piece in stretches([(starts[mine], width)]):
			first = int(piece.starts[0])
			bases = request.genome.read(chrom, first, int(piece.ends[-1]))
			codes[mine[piece.rows[0]]] = cut(bases, piece.starts - first, width)
	signals = controls = totals = None
	if request.tracks is not None:
		out = request.mids - request.out_window // 2 - jitter
		values = request.tracks.small_windows(request.chroms, out, request.out_window + 2 * jitter)
		totals = group_totals(values[:, :, jitter : jitter + request.out_window], (1,) * values.shape[1])
		signals = smallest_exact(values)
	if request.controls is not None:
		controls = smallest_exact(request.controls.small_windows(request.chroms, starts, width))
	return Part(Arrays(codes, signals, controls), totals)


def _results(
	work: Callable[..., Part], request: Request, chunks: Sequence[np.ndarray], *, workers: int, bar: bool
) -> Iterator[tuple[int, Part]]:
	"""The number of each chunk and what `work` makes of it, as they are done; with a bar over loci on a terminal."""
	from tqdm import tqdm

	with (
		tqdm(total=len(request), unit="loci", desc="reading windows", disable=None if bar else True, delay=2) as shown,
		closing(spread(work, _tasks(request, chunks), workers)) as results,
	):
		for i, result in results:
			yield i, result
			shown.update(len(chunks[i]))


# ---- files ----------------------------------------------------------------------------------------------------------


def _save(file: BinaryIO, array: np.ndarray) -> None:
	"""Write an array as .npy; unlike numpy's own writer, this one tells a full disk by its error number."""
	_write_header(file, array.dtype, array.shape)
	file.write(memoryview(np.ascontiguousarray(array)).cast("B") if array.size else b"")


def _write_header(file: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> None:
	"""Write the header of a .npy file."""
	header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
	np.lib.format.write_array_header_1_0(file, header)


def _kept_dtypes(parts: Path, i: int, kept: np.ndarray, dtypes: Arrays) -> Arrays:
	"""The types that the kept loci of a chunk need: a dropped outlier's large values shall not widen those of all."""
	if kept.all() or all(dtype in (None, np.uint8) for dtype in dtypes):
		return dtypes
	with open(_part_path(parts, i), "rb") as part:
		return Arrays(*(None if d is None else smallest_exact(np.load(part)[kept]).dtype for d in dtypes))


def _merge(
	folder: Path,
	parts: Path,
	chunks: Sequence[np.ndarray],
	kept: np.ndarray,
	final: dict[str, tuple[np.dtype, tuple[int, ...]]],
) -> None:
	"""Write the kept rows of the chunks to their places in the final files; a chunk is removed once it is there."""
	places = np.cumsum(kept) - 1
	files = {name: _Rows(folder / f"{name}.npy", dtype, shape) for name, (dtype, shape) in final.items()}

	def move(i: int) -> None:
		path, chosen = _part_path(parts, i), kept[chunks[i]]
		with open(path, "rb") as part:
			for file in files.values():  # in the order of Arrays
				file.write(places[chunks[i][chosen]], np.load(part)[chosen])
		os.unlink(path)

	try:
		with ThreadPoolExecutor(min(_WRITERS, n_cores())) as pool:  # neither reading nor writing holds the lock
			for _ in pool.map(move, range(len(chunks))):
				pass
	finally:
		for file in files.values():
			file.close()


class _Rows:
	"""A .npy file that is written some rows at a time.

	Rows are written rather than mapped: on a full disk a write is an error, and a mapping kills the process.
	"""

	def __init__(self, path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
		self.dtype, self.row_bytes = dtype, int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
		with open(path, "wb") as file:
			_write_header(file, dtype, shape)
			self.start = file.tell()
			file.truncate(self.start + shape[0] * self.row_bytes)
		self.file = os.open(path, os.O_WRONLY)

	def write(self, places: np.ndarray, values: np.ndarray) -> None:
		"""Write rows to their places."""
		values = np.ascontiguousarray(values, dtype=self.dtype)
		cuts = np.flatnonzero(np.diff(places) != 1) + 1
		for first, last in zip([0, *cuts], [*cuts, len(places)], strict=True):
			data = memoryview(values[first:last]).cast("B") if last > first else b""
			at = self.start + int(places[first]) * self.row_bytes if last > first else 0
			while len(data):
				written = os.pwrite(self.file, data, at)
				data, at = data[written:], at + written

	def close(self) -> None:
		"""Close the file."""
		os.close(self.file)
