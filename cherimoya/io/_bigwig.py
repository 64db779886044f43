"""Reads bigWig files with numpy: only the blocks that windows need, into the smallest type that holds their values.

Counts are sparse, so it is the values that are unpacked and put into their places, instead of every base. What is
unusual, or broken, raises :class:`Unusual`; the caller then asks pyBigWig, which reads anything or says what is wrong.

References
----------
The layout of bigWig files: Kent et al. 2010, Bioinformatics 26(17), 2204-2207, supplementary tables 5 to 17.
"""

import itertools
import os
import struct
import weakref
import zlib
from collections.abc import Iterator

import numpy as np

_MAGIC, _CHROMS_MAGIC, _INDEX_MAGIC = 0x888FFC26, 0x78CA8C91, 0x2468ACE0
_BED_GRAPH, _VARIABLE_STEP, _FIXED_STEP = 1, 2, 3
_MOST_LEVELS = 64
_WASTE = 1 << 16  # bytes between blocks that are read rather than jumped over
_SPARSE = 8  # bases for each one with a value, from which on values are put in place one by one


class Unusual(Exception):
	"""The file, or a part of it, is not what this reader knows."""


class _Blocks:
	"""The blocks of one chromosome, from left to right: the bases [starts, ends) and the bytes that each holds."""

	def __init__(self, leaves: np.ndarray) -> None:
		self.starts, self.ends = leaves["start"].astype(np.int64), leaves["end"].astype(np.int64)
		self.offsets, self.sizes = leaves["offset"].astype(np.int64), leaves["size"].astype(np.int64)
		if (self.starts[1:] < self.ends[:-1]).any():
			raise Unusual("blocks overlap")

	def holding(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
		"""The numbers of the blocks that share a base with a window; the windows' starts are sorted."""
		ends = np.sort(ends)
		first = int(np.searchsorted(self.ends, starts[0], side="right"))
		last = int(np.searchsorted(self.starts, ends[-1], side="left"))
		begun = np.searchsorted(starts, self.ends[first:last], side="left")
		over = np.searchsorted(ends, self.starts[first:last], side="right")
		return first + np.flatnonzero(begun > over)


class BigWig:
	"""A bigWig file on disk.

	Parameters
	----------
	path: str
		The file. Its index is read when the first window is.
	"""

	def __init__(self, path: str) -> None:
		self._file = os.open(path, os.O_RDONLY)
		weakref.finalize(self, os.close, self._file)
		self._index: dict[str, np.ndarray] | str | None = None  # the leaves of each chromosome, or why there are none
		self._blocks: tuple[str, _Blocks | None] = ("", None)  # of the chromosome that was read last
		self._buffer = 0
		self._last: tuple[int, tuple[np.ndarray, ...]] = (-1, ())  # where a block lies, and what it holds

	def stretch(self, chrom: str, starts: np.ndarray, ends: np.ndarray, *, absolute: bool) -> np.ndarray:
		"""The values from the first base of the windows to the last, which are right where there is a window.

		Parameters
		----------
		chrom: str
			The chromosome, as the file calls it.
		starts: numpy.ndarray of int64, shape=(n,)
			The first base of each window, in ascending order.
		ends: numpy.ndarray of int64, shape=(n,)
			The base behind the last one of each window.
		absolute: bool
			Take absolute values.

		Returns
		-------
		numpy.ndarray, shape=(ends.max() - starts[0],)
			uint8 where that holds all values that were read exactly, else float32; 0 in gaps and for NaN.

		Raises
		------
		Unusual
			This reader cannot tell the values.
		"""
		first, last = int(starts[0]), int(ends.max())
		blocks = self._blocks_of(chrom)
		numbers = () if blocks is None else blocks.holding(starts, ends)
		if not len(numbers):
			return np.zeros(last - first, dtype=np.uint8)
		begins, ends, values = (
			np.concatenate(column) for column in zip(*self._entries_of(blocks, numbers), strict=True)
		)
		if (begins[1:] < ends[:-1]).any() or (begins >= ends).any():
			raise Unusual("values overlap, or have no base")
		return _spread(begins, ends, np.abs(values) if absolute else values, first, last)

	def _read(self, at: int, size: int) -> bytes:
		"""Some bytes of the file, all of them."""
		data = os.pread(self._file, size, at)
		if len(data) < size:
			raise Unusual("the file ends too early")
		return data

	# ---- the index ----

	def _blocks_of(self, chrom: str) -> _Blocks | None:
		"""The blocks of a chromosome; None where there is none. The index is read once, even where it is unusual."""
		if self._index is None:
			try:
				self._index = self._read_index()
			except Unusual as error:
				self._index = str(error)
		if isinstance(self._index, str):
			raise Unusual(self._index)
		if self._blocks[0] != chrom:
			leaves = self._index.get(chrom)
			self._blocks = (chrom, None if leaves is None else _Blocks(leaves))
		return self._blocks[1]

	def _read_index(self) -> dict[str, np.ndarray]:
		"""The leaves of the index, for each chromosome that has any."""
		header = self._read(0, 64)
		magic, chroms_at, index_at = struct.unpack("<I4xQ8xQ", header[:32])
		(self._buffer,) = struct.unpack("<I", header[52:56])
		if magic != _MAGIC or not index_at:
			raise Unusual("there is no index")
		names = self._chrom_names(chroms_at)
		inner = [("chrom", "<u4"), ("start", "<u4"), ("end_chrom", "<u4"), ("end", "<u4"), ("offset", "<u8")]
		leaf = [*inner, ("size", "<u8")]
		if struct.unpack("<I", self._read(index_at, 4))[0] != _INDEX_MAGIC:
			raise Unusual("the index is another one")
		nodes = self._leaves(index_at + 48, np.dtype(leaf), np.dtype(inner))
		leaves = np.concatenate(nodes)
		if (leaves["chrom"] != leaves["end_chrom"]).any():
			raise Unusual("a block is of several chromosomes")
		chroms = leaves["chrom"]
		if (chroms[1:] < chroms[:-1]).any():
			leaves = leaves[np.argsort(chroms, kind="stable")]
		numbers, first = np.unique(leaves["chrom"], return_index=True)
		bounds = itertools.pairwise([*first.tolist(), len(leaves)])
		pairs = zip(numbers.tolist(), bounds, strict=True)
		return {names.get(number, ""): leaves[begin:end] for number, (begin, end) in pairs}

	def _chrom_names(self, at: int) -> dict[int, str]:
		"""The name of each chromosome by its number."""
		magic, _, key, value = struct.unpack("<IIII", self._read(at, 16))
		if magic != _CHROMS_MAGIC or value != 8 or not 0 < key < 1 << 16:
			raise Unusual("the chromosomes are kept in another way")
		leaf = np.dtype([("name", f"S{key}"), ("number", "<u4"), ("size", "<u4")])
		inner = np.dtype([("name", f"S{key}"), ("offset", "<u8")])
		items = [item for node in self._leaves(at + 32, leaf, inner) for item in node.tolist()]
		return {number: name.decode("utf-8", "replace") for name, number, _ in items}

	def _leaves(self, at: int, leaf: np.dtype, inner: np.dtype) -> list[np.ndarray]:
		"""The items of the leaves of a tree, leaf by leaf from left to right."""
		found, level = [], [at]
		for _ in range(_MOST_LEVELS):
			below: list[int] = []
			for node in level:
				is_leaf, _, count = struct.unpack("<BBH", self._read(node, 4))
				kind = leaf if is_leaf else inner
				items = np.frombuffer(self._read(node + 4, count * kind.itemsize), dtype=kind)
				if is_leaf:
					found.append(items)
				else:
					below += items["offset"].tolist()
			if not below:
				return found
			if found:
				raise Unusual("leaves are at several depths")
			level = below
		raise Unusual("the tree does not end")

	# ---- the values ----

	def _entries_of(self, blocks: _Blocks, numbers: np.ndarray) -> "list[tuple[np.ndarray, ...]]":
		"""What some blocks hold; the last one is kept, as it is mostly the first of the next stretch."""
		known, entries = self._last
		again = known == int(blocks.offsets[numbers[0]])
		found = [entries] if again else []
		found += [self._entries(data) for data in self._unpacked(blocks, numbers[int(again) :])]
		self._last = (int(blocks.offsets[numbers[-1]]), found[-1])
		return found

	def _unpacked(self, blocks: _Blocks, numbers: np.ndarray) -> Iterator[bytes]:
		"""The content of some blocks; those that lie side by side are read at once."""
		if not len(numbers):
			return
		offsets, ends = blocks.offsets[numbers], (blocks.offsets + blocks.sizes)[numbers]
		between = offsets[1:] - ends[:-1]
		cuts = np.flatnonzero((between < 0) | (between > _WASTE)) + 1
		starts, stops = offsets.tolist(), ends.tolist()
		for first, last in itertools.pairwise([0, *cuts.tolist(), len(starts)]):
			begin = starts[first]
			data = memoryview(self._read(begin, stops[last - 1] - begin))
			for start, stop in zip(starts[first:last], stops[first:last], strict=True):
				yield self._unzipped(data[start - begin : stop - begin])

	def _unzipped(self, data: memoryview) -> bytes | memoryview:
		"""A block, unzipped if the file is."""
		if not self._buffer:
			return data
		try:
			return zlib.decompress(data, bufsize=self._buffer)
		except zlib.error as error:
			raise Unusual(f"a block is broken ({error})") from None

	def _entries(self, data: bytes | memoryview) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
		"""What a block holds: where each value begins and ends, int64 or uint32, and the values, float32."""
		if len(data) < 24:
			raise Unusual("a block is too short")
		begin, step, span, kind, count = struct.unpack("<4xI4xIIBxH", data[:24])
		width = {_BED_GRAPH: 3, _VARIABLE_STEP: 2, _FIXED_STEP: 1}.get(kind)
		if width is None or len(data) < 24 + 4 * width * count:
			raise Unusual("a block is of another kind, or too short")
		columns = np.frombuffer(data, dtype="<u4", offset=24, count=width * count).reshape(count, width)
		if kind == _FIXED_STEP:
			starts = begin + step * np.arange(count, dtype=np.int64)
		else:
			starts = columns[:, 0]
		ends = columns[:, 1] if kind == _BED_GRAPH else starts + np.int64(span)
		return starts, ends, columns[:, -1].view("<f4")


def _small(values: np.ndarray) -> np.ndarray:
	"""The values, 0 for NaN, as uint8 where that is exact, else float32."""
	if np.isnan(values.min(initial=0)):
		values = np.where(np.isnan(values), np.float32(0), values)
	if values.min(initial=0) < 0 or values.max(initial=0) > 255:
		return values
	small = values.astype(np.uint8)
	return small if (small == values).all() else values


def _spread(begins: np.ndarray, ends: np.ndarray, values: np.ndarray, first: int, last: int) -> np.ndarray:
	"""Values, sorted and apart, in their places in [first, last): uint8 where that is exact, else float32."""
	inside = slice(np.searchsorted(ends, first, side="right"), np.searchsorted(begins, last, side="left"))
	begins, ends = (edges[inside].astype(np.int64) - first for edges in (begins, ends))
	begins[:1], ends[-1:] = np.maximum(begins[:1], 0), np.minimum(ends[-1:], last - first)
	values = _small(values[inside])
	lengths = ends - begins
	covered = int(lengths.sum())
	if covered * _SPARSE < last - first or covered == len(lengths):
		out = np.zeros(last - first, dtype=values.dtype)
		if covered > len(lengths):  # base by base
			begins = np.repeat(begins + lengths - np.cumsum(lengths), lengths) + np.arange(covered)
			values = np.repeat(values, lengths)
		out[begins] = values
		return out
	# Gaps and values by turns: the gap before each value, the value, and the gap behind the last one.
	edges = np.stack([begins, ends], axis=1).ravel()
	lengths = np.diff(edges, prepend=0, append=last - first)
	turns = np.zeros(len(lengths), dtype=values.dtype)
	turns[1::2] = values
	return np.repeat(turns, lengths)
