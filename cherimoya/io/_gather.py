"""The arrays of windows: read in chunks, by several processes, into memory or into the files of a cache.

Loads of the same sources, such as those of peaks and negatives, are read together, so that each place of a file is read
once. Values are kept in the smallest of `DTYPES` that holds every one of them exactly. A chunk is some megabytes, and
no process holds more than one, so memory does not grow with the number of loci.
"""

import os
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cherimoya.io._workers import n_cores, spread
from cherimoya.io.genome import Genome
from cherimoya.io.tracks import LARGEST_GAP, Tracks, cut, group_totals, stretches

DTYPES = (np.uint8, np.int16, np.float16, np.float32)
"""What values are kept as: the first of these that is exact for all values of an array."""

_CHUNK = 1 << 23  # bytes of a chunk, as float32
_PIECE = 1 << 20  # bytes of a file that are moved at a time, which stay in a core's own cache
_HEADER = 128  # bytes of a file before its rows
#: Seconds per base, about, of sequence and of a bigWig, and per byte of windows; a process pays off from so many.
_SEQUENCE_COST, _TRACK_COST, _WINDOW_COST, _WORTH_A_PROCESS = 1.5e-9, 1.5e-9, 2e-10, 0.4
_SAMPLED = 64
_MOVERS = 4
_ANY = (1 << len(DTYPES)) - 1


class Arrays(NamedTuple):
	"""Codes (n, W), signals (n, T, out) and controls (n, Tc, W) of n loci; None where there are no tracks."""

	codes: np.ndarray
	signals: np.ndarray | None
	controls: np.ndarray | None


class Sources(NamedTuple):
	"""What windows are read from."""

	genome: Genome
	tracks: Tracks | None
	controls: Tracks | None


class Widths(NamedTuple):
	"""The widths of windows, in bp."""

	in_window: int
	out_window: int
	max_jitter: int

	@classmethod
	def checked(cls, in_window: int, out_window: int, max_jitter: int) -> "Widths":
		"""The widths; ValueError names the one that makes no sense."""
		widths = cls(in_window, out_window, max_jitter)
		for name, value, least in zip(cls._fields, widths, (1, 1, 0), strict=True):
			if int(value) != value or value < least:
				raise ValueError(f"{name} must be a whole number of at least {least}, got {value}")
		return widths

	def inputs(self, mids: np.ndarray) -> tuple[np.ndarray, int]:
		"""The first base and the width of each window of sequences and controls."""
		return mids - self.in_window // 2 - self.max_jitter, self.in_window + 2 * self.max_jitter

	def outputs(self, mids: np.ndarray) -> tuple[np.ndarray, int]:
		"""The first base and the width of each window of signals."""
		return mids - self.out_window // 2 - self.max_jitter, self.out_window + 2 * self.max_jitter


@dataclass(frozen=True)
class Request:
	"""Windows to be read.

	Attributes
	----------
	chroms, mids: numpy.ndarray, shape=(n,)
		Chromosome and middle of each.
	sources: Sources
	widths: Widths
	"""

	chroms: np.ndarray
	mids: np.ndarray
	sources: Sources
	widths: Widths

	def __len__(self) -> int:
		return len(self.mids)

	@property
	def shapes(self) -> Arrays:
		"""The shape of each array."""
		n, (_, tracks, controls) = len(self), self.sources
		wide, out = (lot(self.mids)[1] for lot in (self.widths.inputs, self.widths.outputs))
		return Arrays(
			(n, wide),
			None if tracks is None else (n, len(tracks.paths), out),
			None if controls is None else (n, len(controls.paths), wide),
		)

	def n_bytes(self, value_bytes: int = 4) -> int:
		"""Bytes of all arrays, with so many for each value of a track."""
		codes, *tracks = (0 if shape is None else int(np.prod(shape, dtype=np.int64)) for shape in self.shapes)
		return codes + value_bytes * sum(tracks)

	def content(self) -> list | None:
		"""What decides the arrays, as JSON can hold it; None when a source is remote, so that nobody knows."""
		from hashlib import sha256

		chroms = self.chroms.tolist()
		used = sorted(set(chroms))
		sources = [source.content_key(used) for source in self.sources if source is not None]
		if None in sources:
			return None
		sources.append([self.sources.tracks is not None, self.sources.controls is not None])
		places = sha256("\0".join(chroms).encode())
		places.update(np.ascontiguousarray(self.mids, dtype="<i8"))
		return [sources, *self.widths, len(self), places.hexdigest()]


class Load(NamedTuple):
	"""Windows to be read, and what becomes of them.

	Attributes
	----------
	request: Request
	choose: callable
		From the totals of all loci, (n, T), which of them are kept, (n,).
	folder: Path or None
		An empty folder for codes.npy, signals.npy and controls.npy of the chosen loci, and totals.npy of all; None
		for memory.
	"""

	request: Request
	choose: Callable[[np.ndarray | None], np.ndarray]
	folder: Path | None


class Loaded(NamedTuple):
	"""What was read: in memory the arrays, values as float32, and the totals of each signal over the central
	out_window, (n, T); in a folder the type of each array.
	"""

	arrays: Arrays | None = None
	totals: np.ndarray | None = None
	dtypes: dict[str, str] | None = None


def gather(loads: Sequence[Load], *, workers: int | None, bar: bool) -> list[Loaded]:
	"""Read the windows of one or more loads, all of the same sources.

	Parameters
	----------
	loads: sequence of Load
		What to read.
	workers: int or None
		Processes; None is one a core, but no more than pay for their start.
	bar: bool
		Show a progress bar on a terminal.
	"""
	requests = [load.request for load in loads]
	tasks = _tasks(requests)
	sinks = [_Memory(load) if load.folder is None else _Files(load) for load in loads]
	work = partial(_do, requests[0].sources, [r.widths for r in requests], [sink.parts for sink in sinks])
	workers = _default_workers(requests, tasks) if workers is None else workers
	for i, parts in _results(work, tasks, workers=workers, bar=bar):
		for sink, rows, part in zip(sinks, tasks[i].rows, parts, strict=True):
			sink.put(rows, part)
	return [sink.finish() for sink in sinks]


def value_bytes(request: Request) -> int:
	"""Bytes that a value of a track will most likely take, judged by a few loci."""
	rows = np.unique(np.linspace(0, len(request) - 1, _SAMPLED).astype(np.int64))
	some = Request(request.chroms[rows], request.mids[rows], request.sources, request.widths)
	(found,) = gather([Load(some, lambda _: np.ones(len(rows), dtype=bool), None)], workers=1, bar=False)
	return max((smallest_exact(a).dtype.itemsize for a in found.arrays[1:] if a is not None), default=0)


def smallest_exact(values: np.ndarray) -> np.ndarray:
	"""The values, which are not negative, shape=(n, …), in the first of `DTYPES` that holds each exactly."""
	return values.astype(DTYPES[_first(_fitting(values))], copy=False)


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


class _Task(NamedTuple):
	"""A chunk: neighbours on one chromosome, from left to right; their rows and middles in each request."""

	chrom: str
	rows: list[np.ndarray]
	mids: list[np.ndarray]


class _Part(NamedTuple):
	"""What was read of a request in a chunk.

	Attributes
	----------
	arrays: Arrays
		The values, or, when they are in a file, their types.
	totals: numpy.ndarray, shape=(m, T), or None
		Of the signals.
	fits: Arrays of numpy.ndarray of uint8, shape=(m,)
		For each locus which of `DTYPES` hold its values exactly: bit k stands for number k.
	"""

	arrays: Arrays
	totals: np.ndarray | None
	fits: Arrays


def _tasks(requests: Sequence[Request]) -> list[_Task]:
	"""The chunks of all requests."""
	names = list(requests[0].sources.genome.chrom_sizes)
	numbers = {name: i for i, name in enumerate(names)}
	chroms = np.array([numbers[chrom] for r in requests for chrom in r.chroms.tolist()], dtype=np.int64)
	mids = np.concatenate([r.mids for r in requests])
	rows = np.concatenate([np.arange(len(r)) for r in requests])
	lots = np.repeat(np.arange(len(requests)), [len(r) for r in requests])
	order = np.lexsort((mids, chroms))
	size = np.array([r.n_bytes() // max(1, len(r)) for r in requests])[lots[order]]
	chunks = np.cumsum(size) // _CHUNK
	new = np.flatnonzero(np.diff(chunks) | np.diff(chroms[order])) + 1
	tasks = []
	for group in np.split(order, new) if len(order) else ():
		mine = [group[lots[group] == k] for k in range(len(requests))]
		tasks.append(_Task(names[chroms[group[0]]], [rows[some] for some in mine], [mids[some] for some in mine]))
	return tasks


def _default_workers(requests: Sequence[Request], tasks: Sequence[_Task]) -> int:
	"""A process a core, but no more than pay for their start."""
	most, bases = max(r.widths.inputs(r.mids)[1] for r in requests) + LARGEST_GAP, 0
	for task in tasks:  # the windows, and the gaps that are read over
		bases += most + int(np.minimum(np.diff(np.sort(np.concatenate(task.mids))), most).sum())
	n_tracks = sum(0 if tracks is None else len(tracks.paths) for tracks in requests[0].sources[1:])
	seconds = bases * (_SEQUENCE_COST + n_tracks * _TRACK_COST) + sum(r.n_bytes() for r in requests) * _WINDOW_COST
	return max(1, min(n_cores(), int(seconds / _WORTH_A_PROCESS)))


def _results(
	work: Callable[[_Task], list[_Part]], tasks: Sequence[_Task], *, workers: int, bar: bool
) -> Iterator[tuple[int, list[_Part]]]:
	"""The number of each chunk and what was read of it, as they are done; with a bar over loci on a terminal."""
	from tqdm import tqdm

	sizes = [sum(map(len, task.rows)) for task in tasks]
	with (
		tqdm(total=sum(sizes), unit="loci", desc="reading windows", disable=None if bar else True, delay=2) as shown,
		closing(spread(work, tasks, workers)) as results,
	):
		for i, parts in results:
			yield i, parts
			shown.update(sizes[i])


def _do(sources: Sources, widths: Sequence[Widths], folders: Sequence[str | None], task: _Task) -> list[_Part]:
	"""Read a chunk, and write what belongs into files there; what a process does."""
	parts = _read(sources, task.chrom, list(zip(task.mids, widths, strict=True)))
	found = zip(parts, folders, task.rows, strict=True)
	return [part if folder is None else _written(part, folder, rows) for part, folder, rows in found]


def _read(sources: Sources, chrom: str, lots: Sequence[tuple[np.ndarray, Widths]]) -> list[_Part]:
	"""The windows of several lots of middles, in ascending order, on one chromosome."""
	inputs = [widths.inputs(mids) for mids, widths in lots]
	outputs = [widths.outputs(mids) for mids, widths in lots]
	nothing: list[np.ndarray | None] = [None] * len(lots)
	codes = _read_codes(sources.genome, chrom, inputs)
	signals = nothing if sources.tracks is None else sources.tracks.read(chrom, outputs)
	controls = nothing if sources.controls is None else sources.controls.read(chrom, inputs)
	return [_part(*arrays, lots[k][1]) for k, arrays in enumerate(zip(codes, signals, controls, strict=True))]


def _read_codes(genome: Genome, chrom: str, windows: Sequence[tuple[np.ndarray, int]]) -> list[np.ndarray]:
	"""The base codes of several lots of windows, each place being read once."""
	codes = [np.empty((len(starts), width), dtype=np.uint8) for starts, width in windows]
	for piece in stretches(windows):
		first = int(piece.starts[0])
		bases = genome.read(chrom, first, int(piece.ends.max()))
		for array, (starts, width), rows in zip(codes, windows, piece.rows, strict=True):
			if rows.start < rows.stop:
				array[rows] = cut(bases, starts[rows] - first, width)
	return codes


def _part(codes: np.ndarray, signals: np.ndarray | None, controls: np.ndarray | None, widths: Widths) -> _Part:
	"""The arrays, each in its smallest type, and what is to be known of them."""
	totals = None
	if signals is not None:
		centre = signals[:, :, widths.max_jitter : widths.max_jitter + widths.out_window]
		totals = group_totals(centre, (1,) * signals.shape[1])
	arrays = Arrays(codes, signals, controls)
	fits = Arrays(*(None if array is None else _fitting(array) for array in arrays))
	small = (None if a is None else a.astype(DTYPES[_first(f)], copy=False) for a, f in zip(arrays, fits, strict=True))
	return _Part(Arrays(*small), totals, fits)


def _fitting(values: np.ndarray) -> np.ndarray:
	"""For each row of values, none of them negative, which of `DTYPES` hold all exactly, shape=(n,); see `_Part`."""
	if values.dtype == DTYPES[0]:
		return np.full(len(values), _ANY, dtype=np.uint8)
	fits = np.full(len(values), 1 << DTYPES.index(values.dtype.type), dtype=np.uint8)
	axes = tuple(range(1, values.ndim))
	top = values.max(axis=axes, initial=0)
	for k, dtype in enumerate(DTYPES):
		info = np.iinfo(dtype) if np.issubdtype(dtype, np.integer) else np.finfo(dtype)
		rows = np.flatnonzero(top <= info.max)
		fits[rows[(values[rows].astype(dtype) == values[rows]).all(axis=axes)]] |= 1 << k
	return fits


def _first(fits: np.ndarray) -> int:
	"""The number of the first of `DTYPES` that holds all rows exactly."""
	common = int(np.bitwise_and.reduce(fits, initial=_ANY))
	return (common & -common).bit_length() - 1


# ---- where they go --------------------------------------------------------------------------------------------------


class _Memory:
	"""Arrays in memory, values as float32."""

	parts = None

	def __init__(self, load: Load) -> None:
		self.choose, shapes = load.choose, load.request.shapes
		dtypes = (np.uint8, np.float32, np.float32)
		self.arrays = Arrays(
			*(None if s is None else np.empty(s, dtype=d) for s, d in zip(shapes, dtypes, strict=True))
		)
		self.totals = None if shapes.signals is None else np.empty(shapes.signals[:2])

	def put(self, rows: np.ndarray, part: _Part) -> None:
		"""Take what was read of some rows."""
		for whole, piece in zip((*self.arrays, self.totals), (*part.arrays, part.totals), strict=True):
			if whole is not None:
				whole[rows] = piece

	def finish(self) -> Loaded:
		"""The arrays of the loci that are kept."""
		kept = self.choose(self.totals)
		return Loaded(Arrays(*(keep(array, kept) for array in self.arrays)), self.totals)


class _Files:
	"""Arrays in the files of a folder.

	The processes write each row to its place in a file of the type that its chunk needs. In the end the rows that are
	kept are moved together, in one type; mostly all of them are in its file already.
	"""

	def __init__(self, load: Load) -> None:
		self.choose, self.shapes, self.folder = load.choose, load.request.shapes, load.folder
		# The name is a new one: a process whose parent was killed must not write among the files of another run.
		self.parts = tempfile.mkdtemp(prefix="parts.", dir=self.folder)
		self.totals = None if self.shapes.signals is None else np.empty(self.shapes.signals[:2])
		n = self.shapes.codes[0]
		self.fits = Arrays(*(np.full(n, _ANY, dtype=np.uint8) for _ in Arrays._fields))
		self.kinds = Arrays(*(np.zeros(n, dtype=np.uint8) for _ in Arrays._fields))

	def put(self, rows: np.ndarray, part: _Part) -> None:
		"""Note what was written of some rows."""
		if self.totals is not None:
			self.totals[rows] = part.totals
		for k, dtype in enumerate(part.arrays):
			if dtype is not None:
				self.fits[k][rows], self.kinds[k][rows] = part.fits[k], DTYPES.index(dtype.type)

	def finish(self) -> Loaded:
		"""Leave the files of the loci that are kept."""
		kept = self.choose(self.totals)
		given = [k for k, shape in enumerate(self.shapes) if shape is not None]
		final = {k: _first(self.fits[k][kept]) for k in given}
		with ThreadPoolExecutor(min(_MOVERS, n_cores())) as pool:  # neither reading nor writing holds the lock
			for k, done in [(k, pool.submit(self._settle, k, final[k], kept)) for k in given]:
				os.rename(done.result(), self.folder / f"{Arrays._fields[k]}.npy")
		if self.totals is not None:
			with _Rows(self.folder / "totals.npy", self.totals.dtype, self.totals.shape[1:]) as file:
				file.write(0, self.totals)
				file.finish(len(self.totals))
		shutil.rmtree(self.parts)
		return Loaded(dtypes={Arrays._fields[k]: str(np.dtype(DTYPES[final[k]])) for k in given})

	def _settle(self, k: int, final: int, kept: np.ndarray) -> str:
		"""Move the rows of an array that are kept to the front of the file of one type; its path."""
		return _settle(self.parts, Arrays._fields[k], self.shapes[k][1:], kept, self.kinds[k], final)


def _written(part: _Part, folder: str, rows: np.ndarray) -> _Part:
	"""What is left to know of a part once its rows are in their files."""
	for name, array in zip(Arrays._fields, part.arrays, strict=True):
		if array is not None:
			kind = DTYPES.index(array.dtype.type)
			with _Rows(_path(folder, name, kind), array.dtype, array.shape[1:]) as file:
				for run in _runs(rows):
					file.write(int(rows[run.start]), array[run])
	return part._replace(arrays=Arrays(*(None if a is None else a.dtype for a in part.arrays)))


def _settle(folder: str, name: str, shape: tuple[int, ...], kept: np.ndarray, kinds: np.ndarray, final: int) -> str:
	"""Move the rows that are kept to the front of the file of one of `DTYPES`; its path.

	Parameters
	----------
	folder, name: str
		Where the files are, and of which array.
	shape: tuple of int
		The shape of a row.
	kept: numpy.ndarray of bool, shape=(n,)
		Which rows are kept.
	kinds: numpy.ndarray of uint8, shape=(n,)
		In the file of which type each row is.
	final: int
		The number of the type that all are to have.
	"""
	# That type comes first: the rows of its file must be read before others are written over them.
	used = [final, *(k for k in np.unique(kinds[kept]).tolist() if k != final)]
	places, n = np.cumsum(kept) - 1, len(kept)
	moved = ~kept | (kinds != final)
	with ExitStack() as stack:
		files = {k: stack.enter_context(_Rows(_path(folder, name, k), DTYPES[k], shape)) for k in used}
		target = files[final]
		step = max(1, _PIECE // max(1, target.row_bytes))
		for first in range(int(np.argmax(moved)) if moved.any() else n, n, step):  # what lies before stays as it is
			last = min(first + step, n)
			for k, file in files.items():
				rows = np.flatnonzero(kept[first:last] & (kinds[first:last] == k))
				values = file.read(first, last) if len(rows) else None
				for run in _runs(rows):
					begin, end = int(rows[run.start]), int(rows[run.stop - 1]) + 1
					target.write(int(places[first + begin]), values[begin:end])
		target.finish(int(kept.sum()))
	return target.path


def _runs(numbers: np.ndarray) -> Iterator[slice]:
	"""The slices of ascending numbers that follow each other without a gap."""
	if len(numbers):
		cuts = (np.flatnonzero(np.diff(numbers) != 1) + 1).tolist()
		yield from map(slice, [0, *cuts], [*cuts, len(numbers)])


def _path(folder: str, name: str, kind: int) -> str:
	"""The file of an array's rows of one of `DTYPES`."""
	return os.path.join(folder, f"{name}.{kind}")


class _Rows:
	"""A .npy file whose rows are written in any order.

	Rows are written rather than mapped: on a full disk a write is an error, and a mapping kills the process.
	"""

	def __init__(self, path: str | os.PathLike, dtype: np.dtype | type, shape: tuple[int, ...]) -> None:
		self.path, self.dtype, self.shape = os.fspath(path), np.dtype(dtype), shape
		self.row_bytes = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
		self.file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)

	def __enter__(self) -> "_Rows":
		return self

	def __exit__(self, *_: object) -> None:
		self.close()

	def write(self, place: int, values: np.ndarray) -> None:
		"""Write rows from a place on."""
		values = np.ascontiguousarray(values, dtype=self.dtype)
		self._write(_HEADER + place * self.row_bytes, memoryview(values).cast("B") if values.size else b"")

	def read(self, first: int, last: int) -> np.ndarray:
		"""The rows from a first to before a last one; some that were never written may hold anything."""
		values = np.empty((last - first, *self.shape), dtype=self.dtype)
		data, at = memoryview(values).cast("B") if values.size else b"", _HEADER + first * self.row_bytes
		while len(data) and (n := os.preadv(self.file, [data], at)):
			data, at = data[n:], at + n
		return values

	def finish(self, n: int) -> None:
		"""Make it a file of n rows."""
		os.ftruncate(self.file, _HEADER + n * self.row_bytes)
		about = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (n, *self.shape)}
		text = repr(about).ljust(_HEADER - 11).encode("ascii") + b"\n"
		self._write(0, memoryview(np.lib.format.magic(1, 0) + struct.pack("<H", len(text)) + text))

	def _write(self, at: int, data: memoryview | bytes) -> None:
		"""Write all of some bytes."""
		while len(data):
			n = os.pwrite(self.file, data, at)
			data, at = data[n:], at + n

	def close(self) -> None:
		"""Close the file."""
		os.close(self.file)
