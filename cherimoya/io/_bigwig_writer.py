"""Writes bigWig files of values at single bases, as they come: memory does not grow with what is written.

References
----------
The layout of bigWig files: Kent et al. 2010, Bioinformatics 26(17), 2204-2207, supplementary tables 5 to 19.
"""

import itertools
import os
import struct
import tempfile
import zlib
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import BinaryIO

import numpy as np

_MAGIC, _CHROMS_MAGIC, _INDEX_MAGIC = 0x888FFC26, 0x78CA8C91, 0x2468ACE0
_VARIABLE_STEP, _FIXED_STEP = 2, 3
_LEVEL = 2  # of compression; more takes twice as long for these values, and gains nothing
_PER_BLOCK = 8_192  # values of a block; half of that where each comes with its position
_ZOOMS_PER_BLOCK = 1_024
_PER_NODE = 256  # children of a node of a tree
_BINS_AT_ONCE = 4_096  # that the zoom levels take; a lot costs them time however small it is
_SUMMARY = struct.Struct("<Q4d")
REDUCTIONS = tuple(32 * 4**level for level in range(10))
"""Bases of a zoom level's bins; those wider than every chromosome are left out, but for the first."""

_PLACE = np.dtype([("chrom", "<u4"), ("start", "<u4"), ("end_chrom", "<u4"), ("end", "<u4")])
_LEAF = np.dtype([*((name, _PLACE[name]) for name in _PLACE.names), ("offset", "<u8"), ("size", "<u8")])
_INNER = np.dtype([*((name, _PLACE[name]) for name in _PLACE.names), ("offset", "<u8")])
_BIN = np.dtype(
	[
		*((name, "<i8") for name in ("chrom", "start", "end", "valid")),
		*((name, "<f8") for name in ("min", "max", "sum", "squares")),
	]
)
_ZOOM = np.dtype(
	[
		*((name, "<u4") for name in ("chrom", "start", "end", "valid")),
		*((name, "<f4") for name in ("min", "max", "sum", "squares")),
	]
)


class _Entries:
	"""Blocks: the bases [start, end) of a chromosome that each is about, and where it lies; 40 bytes a block."""

	def __init__(self) -> None:
		self._numbers = array("q")

	def __len__(self) -> int:
		return len(self._numbers) // 5

	def add(self, chrom: int, start: int, end: int, offset: int, size: int) -> None:
		"""Note another block, which lies behind the others."""
		self._numbers.extend((chrom, start, end, offset, size))

	def leaves(self, shift: int) -> np.ndarray:
		"""The leaves of an index, for blocks that have moved by so many bytes."""
		chrom, start, end, offset, size = np.array(self._numbers, dtype=np.int64).reshape(-1, 5).T
		leaves = np.zeros(len(self), dtype=_LEAF)
		for name, column in zip(_LEAF.names, (chrom, start, chrom, end, offset + shift, size), strict=True):
			leaves[name] = column
		return leaves


class BigWigWriter:
	"""Writes values of single bases, from left to right, chromosome by chromosome.

	Parameters
	----------
	path: path
		The file; it is of no use before :meth:`close`.
	chrom_sizes: mapping of str to int
		All chromosomes, in the order in which they are written.
	"""

	def __init__(self, path: str, chrom_sizes: Mapping[str, int]) -> None:
		self.sizes = {str(chrom): int(size) for chrom, size in chrom_sizes.items()}
		self._numbers = {chrom: i for i, chrom in enumerate(self.sizes)}
		self._file = open(path, "wb")
		self._at = (-1, 0)  # the chromosome, and the base after the last one
		self._begin = 0
		self._waiting: list[np.ndarray] = []
		self._n_waiting = 0
		self._entries = _Entries()
		self._bins: list[np.ndarray] = []  # for the zoom levels
		self._n_bins = 0
		self._summary = [0, np.inf, -np.inf, 0.0, 0.0]
		widest = max(self.sizes.values())
		reductions = [reduction for reduction in REDUCTIONS if reduction < max(widest, REDUCTIONS[0] + 1)]
		self._zooms = _Zoom.levels(reductions, os.path.dirname(os.path.abspath(path)))
		self._summary_at = 64 + 24 * len(self._zooms)
		self._chroms_at = self._summary_at + _SUMMARY.size
		self._file.write(bytes(self._chroms_at))
		self._file.write(_chrom_tree(self.sizes, self._chroms_at))
		self._data_at = self._file.tell()
		self._file.write(bytes(8))

	def __enter__(self) -> "BigWigWriter":
		return self

	def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
		try:
			if kind is None:
				self.close()
		finally:
			self.abandon()

	def add(self, chrom: str, start: int, values: np.ndarray) -> None:
		"""Add the values of the bases from `start` on, shape=(n,), which come after those that were added before.

		Raises
		------
		ValueError
			They are not in order, or leave the chromosome.
		"""
		number, end = self._placed(chrom, start, start + len(values))
		if not len(values):
			return
		if (number, start) != self._at:
			self._write_waiting(all_of_it=True)
			self._begin = start
		self._at = (number, end)
		self._waiting.append(np.asarray(values, dtype="<f4"))
		self._n_waiting += len(values)
		self._write_waiting()

	def add_points(self, chrom: str, positions: np.ndarray, values: np.ndarray) -> None:
		"""Add the values of bases that lie apart, shape=(n,), after those that were added before; many at a time.

		Raises
		------
		ValueError
			They are not in order, or leave the chromosome.
		"""
		positions = np.asarray(positions, dtype=np.int64)
		if not len(positions):
			return
		self._write_waiting(all_of_it=True)
		self._at = self._placed(chrom, int(positions[0]), int(positions[-1]) + 1)
		self._begin = self._at[1]
		if (np.diff(positions) < 1).any():
			raise ValueError(f"the positions on {chrom} are not in order")
		values = np.asarray(values, dtype="<f4")
		size = max(1, _PER_BLOCK // 2)
		for first in range(0, len(positions), size):
			self._write_points(positions[first : first + size], values[first : first + size])

	def close(self) -> None:
		"""Write the indexes, the zoom levels and the header."""
		self._write_waiting(all_of_it=True)
		self._hand_on()
		for zoom in self._zooms:
			zoom.flush()
		file = self._file
		index_at = file.tell()
		file.write(_index(self._entries.leaves(0), index_at, file.tell(), 1))
		zooms = b""
		for zoom in self._zooms:
			zoom_at = file.tell()
			leaves = zoom.copy_to(file)
			zooms += struct.pack("<II2Q", zoom.reduction, 0, zoom_at, file.tell())
			file.write(_index(leaves, file.tell(), file.tell(), _ZOOMS_PER_BLOCK))
		file.write(struct.pack("<I", _MAGIC))
		file.seek(self._data_at)
		file.write(struct.pack("<Q", len(self._entries)))
		file.seek(0)
		largest = max(24 + 4 * _PER_BLOCK, _ZOOM.itemsize * _ZOOMS_PER_BLOCK)
		places = (self._chroms_at, self._data_at, index_at, 0, 0, 0, self._summary_at, largest, 0)
		file.write(struct.pack("<IHHQQQHHQQIQ", _MAGIC, 4, len(self._zooms), *places))
		file.write(zooms)
		n, low, high, total, squares = self._summary
		file.write(_SUMMARY.pack(n, *((low, high, total, squares) if n else (0.0, 0.0, 0.0, 0.0))))
		file.close()
		self.abandon()

	def abandon(self) -> None:
		"""Close the files, whatever was written; what a full disk does not take any more is given up."""
		for file in (self._file, *self._zooms):
			with suppress(OSError):
				file.close()

	def _placed(self, chrom: str, start: int, end: int) -> tuple[int, int]:
		"""The number of the chromosome and the base after the last one of [start, end), if it can come next."""
		number = self._numbers[chrom]
		if (number, start) < self._at or start < 0 or end > self.sizes[chrom]:
			raise ValueError(f"{chrom}:{start}-{end} is not after what was added before, or leaves the chromosome")
		return number, end

	def _write_waiting(self, *, all_of_it: bool = False) -> None:
		"""Write the values that fill blocks, or all; what a block holds does not depend on how values came."""
		if self._n_waiting < _PER_BLOCK and not (all_of_it and self._n_waiting):
			return
		values = np.concatenate(self._waiting)
		n = len(values) if all_of_it else len(values) // _PER_BLOCK * _PER_BLOCK
		for first in range(0, n, _PER_BLOCK):
			self._write_block(values[first : min(first + _PER_BLOCK, n)])
		self._waiting = [values[n:]]
		self._n_waiting = len(values) - n

	def _write_block(self, values: np.ndarray) -> None:
		"""Write the values of neighbouring bases."""
		start, end = self._begin, self._begin + len(values)
		edges = np.arange((start // REDUCTIONS[0] + 1) * REDUCTIONS[0], end, REDUCTIONS[0])
		edges = np.concatenate([[start], edges])
		bins = _bins(self._at[0], edges, np.append(edges[1:], end), edges - start, values)
		self._write(start, end, 1, _FIXED_STEP, values, bins)
		self._begin = end

	def _write_points(self, positions: np.ndarray, values: np.ndarray) -> None:
		"""Write the values of bases that lie apart."""
		start, end = int(positions[0]), int(positions[-1]) + 1
		first = np.concatenate([[0], np.flatnonzero(np.diff(positions // REDUCTIONS[0])) + 1])
		ends = positions[np.append(first[1:], len(positions)) - 1] + 1
		bins = _bins(self._at[0], positions[first], ends, first, values)
		columns = np.stack([positions.astype("<u4"), values.view("<u4")], axis=1)  # (n,) -> (n, 2)
		self._write(start, end, 0, _VARIABLE_STEP, columns, bins)

	def _write(self, start: int, end: int, step: int, kind: int, content: np.ndarray, bins: np.ndarray) -> None:
		"""Write a block, and let the summary and the zoom levels know what it holds."""
		chrom = self._at[0]
		head = struct.pack("<5I2BH", chrom, start, end, step, 1, kind, 0, len(content))
		data = zlib.compress(head + content.tobytes(), _LEVEL)
		self._entries.add(chrom, start, end, self._file.tell(), len(data))
		self._file.write(data)
		n, low, high, total, squares = self._summary
		self._summary = [
			n + len(content),
			min(low, float(bins["min"].min())),
			max(high, float(bins["max"].max())),
			total + float(bins["sum"].sum()),
			squares + float(bins["squares"].sum()),
		]
		self._bins.append(bins)
		self._n_bins += len(bins)
		if self._n_bins >= _BINS_AT_ONCE:
			self._hand_on()

	def _hand_on(self) -> None:
		"""Let the zoom levels have the bins."""
		if self._bins:
			self._zooms[0].add(_together(self._bins))
		self._bins, self._n_bins = [], 0


class _Zoom:
	"""A zoom level: bins of bases and what they hold, written to a file of their own until the data are complete."""

	def __init__(self, reduction: int, coarser: "_Zoom | None", folder: str) -> None:
		self.reduction, self.coarser = reduction, coarser
		self._spool = tempfile.TemporaryFile(dir=folder)
		self._entries = _Entries()
		self._open = np.empty(0, dtype=_BIN)  # the last bin, which may go on
		self._waiting = np.empty(0, dtype=_ZOOM)
		self._n = 0

	@classmethod
	def levels(cls, reductions: Sequence[int], folder: str) -> "list[_Zoom]":
		"""Levels that hand on what they hold, the finest first."""
		found: list[_Zoom] = []
		for reduction in reversed(reductions):
			found.insert(0, cls(reduction, found[0] if found else None, folder))
		return found

	def add(self, bins: np.ndarray) -> None:
		"""Take bins that are finer, or parts of this level's, in order."""
		bins = _joined(_together([self._open, bins]), self.reduction)
		self._open = bins[-1:]
		self._done(bins[:-1])

	def flush(self) -> None:
		"""Take the last bin as complete; the finer levels were flushed before."""
		self._done(self._open)
		self._open = self._open[:0]
		self._write(len(self._waiting))

	def copy_to(self, file: BinaryIO) -> np.ndarray:
		"""Write the level's blocks to a file, after their number; the leaves of their index there."""
		file.write(struct.pack("<I", self._n))
		start = file.tell()
		self._spool.seek(0)
		while data := self._spool.read(1 << 20):
			file.write(data)
		return self._entries.leaves(start)

	def close(self) -> None:
		"""Let go of the file of its own."""
		self._spool.close()

	def _done(self, bins: np.ndarray) -> None:
		"""Write complete bins, a block at a time and none of two chromosomes, and hand them on."""
		if not len(bins):
			return
		if self.coarser is not None:
			self.coarser.add(bins)
		packed = np.empty(len(bins), dtype=_ZOOM)
		for name in _ZOOM.names:
			packed[name] = bins[name]
		cuts = (np.flatnonzero(np.diff(bins["chrom"])) + 1).tolist()
		for first, last in itertools.pairwise([0, *cuts, len(packed)]):
			if len(self._waiting) and self._waiting[0]["chrom"] != packed[first]["chrom"]:
				self._write(len(self._waiting))
			self._waiting = _together([self._waiting, packed[first:last]])
			self._write(len(self._waiting) // _ZOOMS_PER_BLOCK * _ZOOMS_PER_BLOCK)

	def _write(self, n: int) -> None:
		"""Write the first n of the bins that wait."""
		for first in range(0, n, _ZOOMS_PER_BLOCK):
			bins = self._waiting[first : min(first + _ZOOMS_PER_BLOCK, n)]
			data = zlib.compress(bins.tobytes(), _LEVEL)
			place = int(bins[0]["chrom"]), int(bins[0]["start"]), int(bins[-1]["end"])
			self._entries.add(*place, self._spool.tell(), len(data))
			self._spool.write(data)
		self._n += n
		self._waiting = self._waiting[n:]


def _bins(chrom: int, starts: np.ndarray, ends: np.ndarray, first: np.ndarray, values: np.ndarray) -> np.ndarray:
	"""Bins from their bases [starts, ends), the first value of each, and the values."""
	values = values.astype(np.float64)
	bins = np.empty(len(first), dtype=_BIN)
	bins["chrom"], bins["start"], bins["end"] = chrom, starts, ends
	bins["valid"] = np.diff(first, append=len(values))
	bins["min"], bins["max"] = np.minimum.reduceat(values, first), np.maximum.reduceat(values, first)
	bins["sum"], bins["squares"] = np.add.reduceat(values, first), np.add.reduceat(values**2, first)
	return bins


def _together(lots: Sequence[np.ndarray]) -> np.ndarray:
	"""Lots of one type, with fields, one after the other; numpy is slow to find the type of the result by itself."""
	return np.concatenate(lots, dtype=lots[0].dtype)


def _joined(bins: np.ndarray, reduction: int) -> np.ndarray:
	"""Bins put together that fall into one of a level's."""
	number = bins["start"] // reduction
	first = np.concatenate([[0], np.flatnonzero((np.diff(number) != 0) | (np.diff(bins["chrom"]) != 0)) + 1])
	if len(first) == len(bins):
		return bins
	joined = bins[first]
	joined["end"] = bins["end"][np.append(first[1:], len(bins)) - 1]
	for name, function in (("min", np.minimum), ("max", np.maximum)):
		joined[name] = function.reduceat(bins[name], first)
	for name in ("valid", "sum", "squares"):
		joined[name] = np.add.reduceat(bins[name], first)
	return joined


def _chrom_tree(sizes: Mapping[str, int], at: int) -> bytes:
	"""The B+ tree of chromosomes, by their names, for the offset at which it is written."""
	width = max(len(chrom.encode()) for chrom in sizes)
	items = sorted((chrom.encode(), struct.pack("<II", i, size)) for i, (chrom, size) in enumerate(sizes.items()))
	per_node = min(_PER_NODE, len(items))
	head = struct.pack("<4I2Q", _CHROMS_MAGIC, per_node, width, 8, len(items), 0)
	levels = [[items[i : i + per_node] for i in range(0, len(items), per_node)]]
	while len(levels[0]) > 1:  # the first name below each node; its place follows
		above = [(node[0][0], b"") for node in levels[0]]
		levels.insert(0, [above[i : i + per_node] for i in range(0, len(above), per_node)])
	tree, size = bytearray(), 4 + per_node * (width + 8)
	below = at + len(head)
	for depth, level in enumerate(levels):
		below += size * len(level)
		child = 0
		for node in level:
			data = struct.pack("<BBH", depth == len(levels) - 1, 0, len(node))
			for name, value in node:
				data += name.ljust(width, b"\0") + (value or struct.pack("<Q", below + size * child))
				child += 1
			tree += data.ljust(size, b"\0")
	return head + tree


def _index(leaves: np.ndarray, at: int, data_end: int, per_block: int) -> bytes:
	"""The R tree of blocks, for the offset at which it is written."""
	levels = [leaves]
	while len(levels[0]) > _PER_NODE:
		groups = np.arange(0, len(levels[0]), _PER_NODE)
		last = np.minimum(groups + _PER_NODE, len(levels[0])) - 1
		above = np.zeros(len(groups), dtype=_INNER)
		above["chrom"], above["start"] = levels[0]["chrom"][groups], levels[0]["start"][groups]
		above["end_chrom"], above["end"] = levels[0]["end_chrom"][last], levels[0]["end"][last]
		levels.insert(0, above)
	place = (
		(leaves["chrom"][0], leaves["start"][0], leaves["end_chrom"][-1], leaves["end"][-1]) if len(leaves) else [0] * 4
	)
	head = struct.pack("<IIQ4IQII", _INDEX_MAGIC, _PER_NODE, len(leaves), *place, data_end, per_block, 0)
	tree, below = bytearray(), at + len(head)
	for depth, level in enumerate(levels):
		nodes = [level[i : i + _PER_NODE].copy() for i in range(0, len(level), _PER_NODE)] or [level]
		below += sum(4 + node.nbytes for node in nodes)
		child = below
		for node in nodes:
			if depth < len(levels) - 1:
				under = levels[depth + 1]
				step = 4 + _PER_NODE * under.dtype.itemsize
				node["offset"] = child + step * np.arange(len(node))
				child += step * len(node)
			tree += struct.pack("<BBH", depth == len(levels) - 1, 0, len(node)) + node.tobytes()
	return head + tree
