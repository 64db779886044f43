"""Signal tracks: reading windows of bigWig files, in groups, and writing bigWigs.

Gaps of a bigWig read as 0. The values of a track are counts, so negative ones are an error unless asked for.

References
----------
The layout of bigWig files: Kent et al. 2010, Bioinformatics 26(17), 2204-2207, supplementary tables 5 to 17.
"""

import itertools
import os
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from cherimoya.errors import InputError, join_problems
from cherimoya.io._bigwig import BigWig, Unusual
from cherimoya.io._bigwig_writer import BigWigWriter
from cherimoya.io._files import check_exists, check_state, content_key, file_state, is_remote, replacing
from cherimoya.io._workers import n_cores
from cherimoya.io.loci import rows_by_chrom
from cherimoya.io.names import ChromNames

Signals = str | os.PathLike | Sequence["str | os.PathLike | Sequence[str | os.PathLike]"]

_BIGWIG_MAGIC = 0x888FFC26
_BIGBED_MAGIC = 0x8789F2EB
_INDEX_MAGIC = 0x2468ACE0
LARGEST_GAP = 32_768
"""Bases between windows that are read over."""
_LONGEST_STRETCH = 1 << 20
_FREE_GAP = 1 << 18  # bases between windows that cost next to nothing, where only blocks with windows are read


def parse_groups(signals: Signals) -> tuple[list[str], tuple[int, ...]]:
	"""The files and the group sizes of signals given in groups.

	Parameters
	----------
	signals: path, or list of paths and lists of paths
		`["a.bw", ["b.+.bw", "b.-.bw"]]` is one unstranded and one stranded group; a flat list of n files is n
		unstranded groups.

	Returns
	-------
	paths: list of str
		All files, group by group.
	groups: tuple of int
		The number of files of each group.

	Raises
	------
	InputError
		An entry is neither a path nor a list of paths, or there is none.
	"""
	signals = [signals] if isinstance(signals, (str, os.PathLike)) else signals
	paths: list[str] = []
	groups: list[int] = []
	for entry in signals:
		group = [entry] if isinstance(entry, (str, os.PathLike)) else list(entry or ())
		bad = [member for member in group if not isinstance(member, (str, os.PathLike))]
		if bad or not group:
			raise InputError(
				f"signals: {entry!r} is neither a path nor a list of paths; write "
				'["a.bw", ["b.+.bw", "b.-.bw"]] for one unstranded and one stranded group'
			)
		paths += [os.fspath(member) for member in group]
		groups.append(len(group))
	if not paths:
		raise InputError("signals: an empty list was given; name at least one bigWig file")
	return paths, tuple(groups)


class Tracks:
	"""Several bigWig files read together.

	Parameters
	----------
	signals: path, or list of paths and lists of paths
		See :func:`parse_groups`.
	absolute: bool, default False
		Take the absolute values of negative ones, as some files of minus strands hold them.
	names: ChromNames or None, default None
		Turns the files' names of chromosomes into a genome's (`Genome.names`); None leaves them as they are.

	Attributes
	----------
	paths: list of str
		The files, group by group; one channel each.
	groups: tuple of int
		The number of channels of each group.
	chrom_sizes: dict of str to int
		The chromosomes that all files have, with the smallest of their lengths, in the order of the first file.

	Raises
	------
	InputError
		A file is missing, truncated or not a bigWig; all such files are named.
	"""

	_hashing: "list[Future] | None" = None

	def __init__(self, signals: "Signals | Tracks", *, absolute: bool = False, names: ChromNames | None = None) -> None:
		if isinstance(signals, Tracks):
			self.paths, self.groups, self.absolute = signals.paths, signals.groups, signals.absolute or absolute
			self._files, self._states, self._quick = signals._files, signals._states, signals._quick
			self._take_names(signals.names if names is None else names)
			return
		self.paths, self.groups = parse_groups(signals)
		self.absolute = absolute
		self._files, problems, missing = [], [], None
		for path in self.paths:
			try:
				self._files.append(_open(path))
			except FileNotFoundError as error:
				missing = error
				problems.append(str(error))
			except InputError as error:
				problems.append(str(error))
		if problems:
			raise missing if missing is not None and len(problems) == 1 else InputError(join_problems(problems))
		self._states = [file_state(path) for path in self.paths]
		self._quick = _quick_readers(self.paths)
		self._take_names(names)

	def _take_names(self, names: ChromNames | None) -> None:
		"""Learn the chromosomes of each file, by a genome's names: their lengths, and what the file calls them."""
		self.names = names
		self._sizes: list[dict[str, int]] = []
		self._called: list[dict[str, str]] = []
		for path, file in zip(self.paths, self._files, strict=True):
			sizes = {str(chrom): int(size) for chrom, size in file.chroms().items()}
			renaming = names.renaming(sizes, path) if names is not None and names.active else {c: c for c in sizes}
			self._sizes.append({renaming[chrom]: size for chrom, size in sizes.items()})
			self._called.append({renaming[chrom]: chrom for chrom in sizes})
		self.chrom_sizes = {
			chrom: min(sizes[chrom] for sizes in self._sizes)
			for chrom in self._sizes[0]
			if all(chrom in sizes for sizes in self._sizes)
		}

	def content_key(self, chroms: Iterable[str]) -> list | None:
		"""What decides the values on these chromosomes: contents of files, what they call them, whether absolute.

		None when a file is remote: what it holds may change. InputError when one is not that which was opened.
		"""
		for path, state in zip(self.paths, self._states, strict=True):
			check_state(path, state)
		self.hash_ahead()
		files, self._hashing = [key.result() for key in self._hashing], None
		called = [[names[chrom] for chrom in sorted(chroms)] for names in self._called]
		return None if None in files else [files, called, self.absolute]

	def hash_ahead(self) -> None:
		"""Begin to hash the files, in threads, for the next :meth:`content_key`, which takes the results."""
		if self._hashing is None:
			pool = ThreadPoolExecutor(min(len(self.paths), n_cores()))  # hashing lets go of the interpreter's lock
			self._hashing = [pool.submit(content_key, path) for path in self.paths]
			pool.shutdown(wait=False)

	def __getstate__(self) -> dict[str, Any]:
		"""The tracks without their open files, which another process opens itself."""
		return {k: v for k, v in self.__dict__.items() if k not in ("_files", "_quick", "_hashing")}

	def __setstate__(self, state: dict[str, Any]) -> None:
		self.__dict__.update(state)
		self._files = [_open(path) for path in self.paths]
		self._quick = _quick_readers(self.paths)
		for path, before in zip(self.paths, self._states, strict=True):
			check_state(path, before)

	def check_sizes(self, chrom_sizes: Mapping[str, int], name: str) -> None:
		"""Raise InputError when a file has a chromosome of `chrom_sizes` in another length: another assembly."""
		problems = []
		for path, sizes in zip(self.paths, self._sizes, strict=True):
			wrong = [chrom for chrom, size in chrom_sizes.items() if chrom in sizes and sizes[chrom] != size]
			if wrong:
				chrom = wrong[0]
				problems.append(
					f"{path}: {chrom} has {sizes[chrom]:,} bp, but {chrom_sizes[chrom]:,} bp in {name} "
					f"({len(wrong)} chromosome(s) differ); the files are of different assemblies: use files of one"
				)
		if problems:
			raise InputError(join_problems(problems))

	def windows(self, chroms: Sequence[str], starts: Sequence[int], width: int) -> np.ndarray:
		"""The values of all tracks over windows of one width.

		Parameters
		----------
		chroms: sequence of str, shape=(n,)
			The chromosome of each window.
		starts: sequence of int, shape=(n,)
			The first base of each window.
		width: int
			The width of each window in bp.

		Returns
		-------
		numpy.ndarray of float32, shape=(n, T, width)
			Gaps and NaN are 0.

		Raises
		------
		InputError
			A window leaves its chromosome, a value is negative or infinite, or a file cannot be read there.
		"""
		return self.small_windows(chroms, starts, width).astype(np.float32, copy=False)

	def small_windows(self, chroms: Sequence[str], starts: Sequence[int], width: int) -> np.ndarray:
		"""As :meth:`windows`, but of uint8 where the values of all tracks are whole numbers of at most 255."""
		starts = np.asarray(starts, dtype=np.int64)
		chroms = np.asarray(chroms, dtype=object)
		values = np.empty((len(starts), len(self.paths), width), dtype=np.uint8)
		for chrom, rows in rows_by_chrom(chroms).items():
			rows = rows[np.argsort(starts[rows], kind="stable")]
			(found,) = self.read(chrom, [(starts[rows], width)])
			values = values.astype(np.result_type(values, found), copy=False)
			values[rows] = found
		return values

	def read(self, chrom: str, windows: "Sequence[tuple[np.ndarray, int]]") -> list[np.ndarray]:
		"""As :meth:`small_windows` for several lots of windows on one chromosome, each place being read once.

		Parameters
		----------
		chrom: str
			The chromosome.
		windows: sequence of (starts, width)
			The first base of each window of a lot, in ascending order, and their width in bp.

		Returns
		-------
		list of numpy.ndarray, shape=(n, T, width)
			For each lot, uint8 where that holds all its values exactly, else float32.
		"""
		found = [np.empty((len(starts), len(self.paths), width), dtype=np.uint8) for starts, width in windows]
		pieces = list(stretches(windows, _FREE_GAP))
		for t in range(len(self.paths)):
			for starts, width in windows:
				self._check_places(t, chrom, starts, width)
			for piece in pieces:
				stretch = self._stretch(t, chrom, piece.starts, piece.ends)
				for k, ((starts, width), rows) in enumerate(zip(windows, piece.rows, strict=True)):
					if rows.start < rows.stop:
						found[k] = found[k].astype(np.result_type(found[k], stretch), copy=False)
						found[k][rows, t] = cut(stretch, starts[rows] - piece.starts[0], width)
			for values, (starts, _) in zip(found, windows, strict=True):
				if values.dtype != np.uint8:
					self._check_values(values[:, t], t, chrom, starts)
		return found

	def sums(self, chroms: Sequence[str], starts: Sequence[int], width: int) -> np.ndarray:
		"""The total of each group over windows of one width, shape=(n, G), float64; see :meth:`windows`."""
		starts = np.asarray(starts, dtype=np.int64)
		totals = np.empty((len(starts), len(self.groups)))
		step = max(1, (1 << 24) // max(1, width * len(self.paths)))  # 64 MB of float32 at a time
		for first in range(0, len(starts), step):
			part = slice(first, first + step)
			totals[part] = group_totals(self.small_windows(chroms[part], starts[part], width), self.groups)
		return totals

	def _check_places(self, t: int, chrom: str, starts: np.ndarray, width: int) -> None:
		"""Raise InputError for the first window that the file's chromosome does not hold."""
		size = self._sizes[t].get(chrom, -1)
		outside = np.flatnonzero((starts < 0) | (starts + width > size))
		if len(outside):
			start = starts[outside[0]]
			found = "has no such chromosome" if size < 0 else f"the chromosome has {size:,} bp"
			raise InputError(f"{self.paths[t]}: cannot read {chrom}:{start}-{start + width}, {found}")

	def _stretch(self, t: int, chrom: str, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
		"""The values of one track over a stretch, right where there are windows; their starts are sorted."""
		quick = self._quick[t]
		if quick is not None:
			try:
				return quick.stretch(self._called[t][chrom], starts, ends, absolute=self.absolute)
			except Unusual:
				pass
		ends = np.maximum.accumulate(ends)
		values = np.zeros(int(ends[-1] - starts[0]), dtype=np.float32)
		for group in np.split(np.arange(len(starts)), np.flatnonzero(starts[1:] > ends[:-1] + LARGEST_GAP) + 1):
			first, last = int(starts[group[0]]), int(ends[group[-1]])
			values[first - int(starts[0]) : last - int(starts[0])] = self._values(t, chrom, first, last)
		return values

	def _values(self, t: int, chrom: str, start: int, end: int) -> np.ndarray:
		"""The values of one track over one interval, 0 in gaps; absolute ones if asked for."""
		try:
			values = self._files[t].values(self._called[t][chrom], start, end, numpy=True)
		except RuntimeError as error:
			raise InputError(
				f"{self.paths[t]}: {chrom}:{start}-{end} cannot be read ({error}); the file is broken: make it again"
			) from None
		if not len(values):  # a file without any value
			return np.zeros(end - start, dtype=np.float32)
		np.putmask(values, np.isnan(values), np.float32(0))
		return np.abs(values) if self.absolute else values

	def _check_values(self, values: np.ndarray, t: int, chrom: str, starts: np.ndarray) -> None:
		"""Raise InputError for the first value, shape=(n, width), that is negative or infinite."""
		if not values.size or (values.min() >= 0 and np.isfinite(values.max())):
			return
		i, j = np.argwhere((values < 0) | ~np.isfinite(values))[0]
		negative = values[i, j] < 0
		remedy = (
			"set absolute_signals to true to take absolute values, or mend the file"
			if negative
			else "make the file again"
		)
		raise InputError(
			f"{self.paths[t]}: {'negative' if negative else 'infinite'} value {values[i, j]:g} at "
			f"{chrom}:{starts[i] + j} (0-based), but counts are expected; {remedy}"
		)


class Stretch(NamedTuple):
	"""Windows of one chromosome that are read in one go.

	Attributes
	----------
	starts, ends: numpy.ndarray of int64, shape=(n,)
		The windows, by their starts in ascending order.
	rows: list of slice
		Which windows of each lot they are.
	"""

	starts: np.ndarray
	ends: np.ndarray
	rows: list[slice]


def stretches(windows: Sequence[tuple[np.ndarray, int]], gap: int = LARGEST_GAP) -> Iterator[Stretch]:
	"""Yield the windows of several lots, (starts in ascending order, width), in stretches at most a gap apart.

	A read costs as much as some 40 kb of values, so it pays to read over small gaps.
	"""
	starts = np.concatenate([starts for starts, _ in windows])
	if not len(starts):
		return
	ends = np.concatenate([starts + width for starts, width in windows])
	lots = np.repeat(np.arange(len(windows)), [len(lot) for lot, _ in windows])
	order = np.argsort(starts, kind="stable")
	starts, ends, lots = starts[order], ends[order], lots[order]
	new = np.flatnonzero(starts[1:] > np.maximum.accumulate(ends)[:-1] + gap) + 1
	before = [0] * len(windows)
	heads = np.zeros(len(starts), dtype=np.int64)
	heads[new] = new
	heads = np.maximum.accumulate(heads)  # the first window of each one's stretch
	pieces = (starts - starts[heads]) // _LONGEST_STRETCH
	cuts = np.flatnonzero((np.diff(heads) > 0) | (np.diff(pieces) > 0)) + 1
	for first, last in itertools.pairwise([0, *cuts.tolist(), len(starts)]):
		piece = slice(first, last)
		counts = np.bincount(lots[piece], minlength=len(windows)).tolist()
		rows = [slice(at, at + n) for at, n in zip(before, counts, strict=True)]
		before = [at.stop for at in rows]
		yield Stretch(starts[piece], ends[piece], rows)


def cut(values: np.ndarray, offsets: np.ndarray, width: int) -> np.ndarray:
	"""values[offset : offset + width] for each offset, none of which may leave the values: shape=(n, width)."""
	values = np.ascontiguousarray(values)  # a broadcast array is no buffer
	n, step = len(values) - width + 1, values.strides[0]
	return np.ndarray((n, width), values.dtype, buffer=values, strides=(step, step))[offsets]


def group_totals(values: np.ndarray, groups: Sequence[int]) -> np.ndarray:
	"""Sum over positions and over the channels of each group: shape=(n, T, L) to (n, G), in float64."""
	exact = np.uint32 if values.dtype == np.uint8 else np.float64  # 32 bits hold the sum of 16 Mb of bytes
	totals = values.sum(axis=-1, dtype=exact).astype(np.float64, copy=False)  # (n, T, L) -> (n, T)
	return sum_groups(totals, groups)  # (n, T) -> (n, G)


def sum_groups(per_channel: np.ndarray, groups: Sequence[int]) -> np.ndarray:
	"""Sum over the channels of each group: shape=(n, T) to (n, G)."""
	first = np.cumsum([0, *groups[:-1]])
	return np.add.reduceat(per_channel, first, axis=1)  # (n, T) -> (n, G)


def write_bigwig(
	path: str | os.PathLike,
	chrom_sizes: Mapping[str, int],
	chroms: Sequence[str],
	starts: Sequence[int],
	values: Any,
) -> None:
	"""Write windows of per-base values as a bigWig; where windows overlap, their values are averaged.

	Parameters
	----------
	path: path
		The file to write; it appears under its name only when whole.
	chrom_sizes: mapping of str to int
		All chromosomes of the header, in its order.
	chroms: sequence of str, shape=(n,)
		The chromosome of each window.
	starts: sequence of int, shape=(n,)
		The first base of each window.
	values: array, shape=(n, W)
		The values of each window.

	Raises
	------
	InputError
		A window is not on a chromosome of the header, or a value is not finite.
	"""
	values = np.asarray(values)
	chroms = np.asarray(chroms, dtype=object)
	starts = np.asarray(starts, dtype=np.int64)
	if values.ndim != 2 or not len(values) == len(chroms) == len(starts):
		raise ValueError(
			f"values must have shape (n, W) with n chroms and starts, got {values.shape}, {len(chroms)}, {len(starts)}"
		)
	_check_windows(path, chrom_sizes, chroms, starts, values)
	with replacing(path) as temporary, BigWigWriter(temporary, chrom_sizes) as file:
		rows = rows_by_chrom(chroms)
		for chrom in (chrom for chrom in chrom_sizes if chrom in rows):
			where = rows[chrom]
			where = where[np.argsort(starts[where], kind="stable")]
			for start, mean in _merged(starts[where], values, where):
				file.add(chrom, int(start), mean)


def _check_windows(
	path: str | os.PathLike, sizes: Mapping[str, int], chroms: np.ndarray, starts: np.ndarray, values: np.ndarray
) -> None:
	"""Raise InputError for windows that the header's chromosomes do not hold, or values that are not finite."""
	problems = []
	unknown = sorted(set(chroms.tolist()) - set(sizes))
	if unknown:
		problems.append(f"{path}: windows on chromosomes that the genome does not have: {', '.join(unknown[:6])}")
	ends = np.array([sizes.get(chrom, np.iinfo(np.int64).max) for chrom in chroms], dtype=np.int64)
	outside = np.flatnonzero((starts < 0) | (starts + values.shape[1] > ends))
	if len(outside):
		i = outside[0]
		problems.append(
			f"{path}: {len(outside)} window(s) leave their chromosome "
			f"(first: {chroms[i]}:{starts[i]}-{starts[i] + values.shape[1]})"
		)
	parts = (values[first : first + 4096] for first in range(0, len(values), 4096))  # they may be mapped from a file
	broken = sum(int((~np.isfinite(part)).sum()) for part in parts)
	if broken:
		problems.append(f"{path}: {broken} value(s) are not finite")
	if problems:
		raise InputError(join_problems(problems))


def _merged(starts: np.ndarray, values: np.ndarray, rows: np.ndarray) -> Iterator[tuple]:
	"""Yield (start, mean values as float32) of each stretch of touching windows; `starts` are sorted."""
	width = values.shape[1]
	if not len(starts) or not width:
		return
	breaks = np.flatnonzero(np.diff(starts) > width) + 1
	for part in np.split(np.arange(len(starts)), breaks):
		first = starts[part[0]]
		length = int(starts[part[-1]] - first) + width
		total = np.zeros(length)
		depth = np.zeros(length, dtype=np.int32)
		for k in part:
			window = slice(int(starts[k] - first), int(starts[k] - first) + width)
			total[window] += values[rows[k]]
			depth[window] += 1
		yield first, (total / depth).astype(np.float32)


def _quick_readers(paths: Sequence[str]) -> list[BigWig | None]:
	"""The quick reader of each file; None for those that are not on disk."""
	return [None if is_remote(path) else BigWig(path) for path in paths]


def _open(path: str) -> Any:
	"""The file opened with pyBigWig, after checks that tell what is wrong with it."""
	import pyBigWig

	if is_remote(path):
		check_streams(path)
	else:
		check_exists(path, what="signal")
		_check_layout(path)
	try:
		file = pyBigWig.open(path)
	except RuntimeError as error:
		reason = str(error).strip().split("\n")[0]
		raise InputError(f"{path}: cannot be opened as bigWig ({reason}); make or get the file again") from None
	if not file.isBigWig():
		raise InputError(f"{path}: is not a bigWig file; signals are bigWig files")
	return file


def check_streams(path: str) -> None:
	"""Raise InputError where pyBigWig was built without what it needs to read a URL."""
	import pyBigWig

	if not pyBigWig.remote:
		raise InputError(
			f"{path}: this pyBigWig cannot read files over the network, as it was built without libcurl; download the "
			"file and name the copy, or install a build that can (bioconda's, or one from source beside libcurl)"
		)


def _check_layout(path: str) -> None:
	"""Raise InputError unless the header, the index and the data the index points to lie within the file.

	The library that reads bigWigs opens some truncated files without complaint, or with a line on stderr.
	"""
	size = os.path.getsize(path)
	with open(path, "rb") as file:
		header = file.read(64)
		magic = struct.unpack("<I", header[:4])[0] if len(header) >= 4 else None
		order = "<"
		if magic is not None and struct.unpack(">I", header[:4])[0] == _BIGWIG_MAGIC:
			order, magic = ">", _BIGWIG_MAGIC
		if magic == _BIGBED_MAGIC:
			raise InputError(f"{path}: is a bigBed file, not a bigWig; signals are bigWig files of counts per base")
		if magic != _BIGWIG_MAGIC:
			raise InputError(f"{path}: is not a bigWig file (it starts with {header[:8]!r}); signals are bigWig files")
		truncated = InputError(f"{path}: the bigWig is truncated ({size:,} bytes); make or get the file again")
		if len(header) < 64:
			raise truncated
		n_zooms = struct.unpack(f"{order}H", header[6:8])[0]
		chroms_at, data_at, index_at = struct.unpack(f"{order}QQQ", header[8:32])
		if index_at == 0 and size <= data_at + 12:
			return  # no value was ever written, so there is no index
		zooms = file.read(24 * n_zooms)
		if chroms_at + 32 > size or len(zooms) < 24 * n_zooms:
			raise truncated
		# A level of zoom: its reduction, 4 bytes, and the offsets of its data and of its index.
		for at in (index_at, *(index for *_, index in struct.iter_unpack(f"{order}IIQQ", zooms))):
			if not _index_fits(file, order, at, size):
				raise truncated


def _index_fits(file: BinaryIO, order: str, at: int, size: int) -> bool:
	"""Whether the index at an offset, and the data that its last entry points to, lie within the file's size."""
	file.seek(at)
	header = file.read(48)
	if len(header) < 48 or struct.unpack(f"{order}I", header[:4])[0] != _INDEX_MAGIC:
		return False
	while True:  # down the last branch, which is written last
		node = file.read(4)
		if len(node) < 4:
			return False
		is_leaf, _, count = struct.unpack(f"{order}BBH", node)
		item = 32 if is_leaf else 24
		items = file.read(count * item)
		if len(items) < count * item:
			return False
		if not count:
			return True
		last = struct.unpack(f"{order}QQ" if is_leaf else f"{order}Q", items[-item + 16 :])
		if is_leaf:
			return sum(last) <= size
		file.seek(last[0])
