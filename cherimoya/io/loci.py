"""Loci: intervals of a genome, from BED-like files or tables, checked once and kept as arrays.

Coordinates are 0-based and half open, as in BED; chromosome names are always text.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from cherimoya.errors import InputError, SettingsError, join_problems
from cherimoya.io._files import check_exists, is_remote, read_bytes, replacing
from cherimoya.io.names import ChromNames

_SKIPPED = ("#", "track", "browser")
_REGION = re.compile(r"^(?P<chrom>.+):(?P<start>\d[\d,]*)-(?P<end>\d[\d,]*)?$")
_COLUMNS = ("chrom", "start", "end")
_LONGEST_NAME = 64  # letters of a chromosome's name, where a file is read column by column
_SUMMIT_NAMES = ("summit", "peak")


@dataclass(frozen=True)
class Loci:
	"""A checked table of intervals.

	Attributes
	----------
	chroms: numpy.ndarray of str objects, shape=(n,)
		Chromosome names.
	starts, ends: numpy.ndarray of int64, shape=(n,)
		0-based, half-open intervals; 0 <= start < end.
	summits: numpy.ndarray of int64, shape=(n,)
		Offset of the summit from the start, in bp; -1 where it is unknown.
	files: tuple of str
		Where the loci came from.
	file_index: numpy.ndarray of int32, shape=(n,)
		Which of `files` each locus came from.
	"""

	chroms: np.ndarray
	starts: np.ndarray
	ends: np.ndarray
	summits: np.ndarray
	files: tuple[str, ...]
	file_index: np.ndarray

	def __len__(self) -> int:
		return len(self.starts)

	def __getitem__(self, index: np.ndarray | slice) -> "Loci":
		return Loci(
			chroms=self.chroms[index],
			starts=self.starts[index],
			ends=self.ends[index],
			summits=self.summits[index],
			files=self.files,
			file_index=self.file_index[index],
		)

	def renamed(self, names: ChromNames) -> "Loci":
		"""The same loci with a genome's names of chromosomes; InputError when two names of a file become one."""
		if not names.active:
			return self
		chroms = self.chroms.copy()
		for i, file in enumerate(self.files):
			rows = np.flatnonzero(self.file_index == i)
			renaming = names.renaming(dict.fromkeys(chroms[rows].tolist()), file)
			chroms[rows] = [renaming[chrom] for chrom in chroms[rows]]
		return replace(self, chroms=chroms)


class Region(NamedTuple):
	"""A chromosome, or a part of one; `end` None means up to the chromosome's end."""

	chrom: str
	start: int
	end: int | None


class _Problems:
	"""Findings of one source: for each kind its count and its first place."""

	def __init__(self, source: str) -> None:
		self.source = source
		self.found: dict[str, list] = {}

	def add(self, kind: str, place: str) -> None:
		"""Note one finding; only the first place of a kind is kept."""
		entry = self.found.setdefault(kind, [0, place])
		entry[0] += 1

	def lines(self) -> list[str]:
		"""One sentence for each kind of finding."""
		return [f"{self.source}: {kind.format(n=n)} (first: {place})" for kind, (n, place) in self.found.items()]


_TOO_FEW = "{n} line(s) have fewer than 3 columns; a BED line is chromosome, start, end, separated by tabs or spaces"
_NOT_INT = (
	"{n} line(s) have a start or end that is not a whole number; mend them, or put # before a line of column names"
)
_NEGATIVE = "{n} interval(s) have a negative start; BED starts count from 0; fix or remove them"
_EMPTY_INTERVAL = "{n} interval(s) have start >= end; fix or remove them"
_NO_SUMMIT = (
	"{n} interval(s) have no summit, though summits are to be used: the 10th column must be the summit's offset from "
	"the start, as in narrowPeak; give such a file, or set summits to false"
)
_BAD_SUMMIT = "{n} interval(s) have a summit outside of the interval; fix them, or set summits to false"


def read_loci(source: Any, *, summits: bool = False) -> Loci:
	"""Read loci from files or tables and check them.

	Parameters
	----------
	source: str, path, list of them, DataFrame-like, or Loci
		BED with at least 3 columns or narrowPeak, plain or gzipped, columns separated by tabs or spaces; empty lines,
		comments and `track`/`browser` lines are skipped. A table has columns `chrom`, `start` and `end` (else its
		first three are taken), and `summit` or `peak` (else its 10th).
	summits: bool, default False
		Demand the summit of each locus: the 10th column, its offset from the start in bp.

	Returns
	-------
	Loci
		In the order given, files one after the other.

	Raises
	------
	InputError
		All that is wrong, with file, first line and count of each kind. MissingFileError when files are missing.
	"""
	if isinstance(source, Loci):
		loci = [source]
		problems = _check_summits(source) if summits else []
	else:
		sources = _as_list(source)
		loci, problems, missing = [], [], None
		for part in sources:
			try:
				loci.append(_read_one(part, summits=summits))
			except FileNotFoundError as error:
				missing = error
				problems.append(str(error))
			except InputError as error:
				problems.append(str(error))
		if missing is not None and len(problems) == 1:
			raise missing
	if problems:
		raise InputError(join_problems(line for problem in problems for line in problem.split("\n")))
	return loci[0] if len(loci) == 1 else _concatenate(loci)


def read_exclusions(source: Any) -> Loci | None:
	"""The regions of exclusion lists, read like loci; None for None or an empty list."""
	if source is None or (isinstance(source, (list, tuple)) and not source):
		return None
	return read_loci(source)


def midpoints(loci: Loci, *, summits: bool = False) -> np.ndarray:
	"""The middle of each locus, start + (end - start) // 2; with `summits` start + summit.

	Parameters
	----------
	loci: Loci
		n loci.
	summits: bool
		Whether the summit is the middle. Default is False.

	Returns
	-------
	numpy.ndarray of int64, shape=(n,)

	Raises
	------
	InputError
		With `summits`, a locus has none; the message names the file and how many.
	"""
	if not summits:
		return loci.starts + (loci.ends - loci.starts) // 2
	problems = _check_summits(loci)
	if problems:
		raise InputError(join_problems(problems))
	return loci.starts + loci.summits


def parse_region(text: str) -> Region:
	"""A region from text: `chr8`, `chr22:33,000,000-37,000,000` or `chr22:37000000-`; 0-based, half open.

	Raises
	------
	SettingsError
		The text is empty, or the region's start is not below its end.
	"""
	text = str(text).strip()
	match = _REGION.match(text)
	if not text:
		raise SettingsError("a region must name a chromosome, got an empty text; write chr8 or chr22:33000000-37000000")
	if not match:
		return Region(text, 0, None)
	start = int(match["start"].replace(",", ""))
	end = int(match["end"].replace(",", "")) if match["end"] else None
	if end is not None and start >= end:
		raise SettingsError(f"region {text!r}: start {start:,} is not below end {end:,}; regions are start-end")
	return Region(match["chrom"], start, end)


def parse_regions(texts: str | Sequence[str | Region]) -> list[Region]:
	"""The regions of a list of texts; a single text is a list of one."""
	texts = [texts] if isinstance(texts, str) else texts
	return [t if isinstance(t, Region) else parse_region(t) for t in texts]


def rename_regions(regions: Sequence[str | Region], names: ChromNames) -> list[Region]:
	"""The regions with a genome's names of chromosomes."""
	return [region._replace(chrom=names.resolve(region.chrom)) for region in parse_regions(regions)]


def overlapping_regions(a: Sequence[str | Region], b: Sequence[str | Region]) -> list[tuple[Region, Region]]:
	"""The pairs of a region of `a` and one of `b` that share a base."""
	return [(x, y) for x in parse_regions(a) for y in parse_regions(b) if _overlap(x, y)]


def write_bed(
	path: str | os.PathLike, chroms: Sequence[str], starts: Sequence[int], ends: Sequence[int], *columns: Sequence
) -> None:
	"""Write a BED file of three columns and any further ones; it appears under its name only when whole.

	Parameters
	----------
	path: str or os.PathLike
		The file.
	chroms, starts, ends: sequence, shape=(n,)
		0-based, half-open intervals, written in this order.
	*columns: sequence, shape=(n,)
		What stands behind them.

	Raises
	------
	ValueError
		The columns differ in length.
	"""
	arrays = [np.asarray(c) for c in (chroms, starts, ends, *columns)]
	if len({len(a) for a in arrays}) != 1:
		raise ValueError(f"all columns must have one length, got {[len(a) for a in arrays]}")
	with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
		file.writelines("\t".join(map(str, row)) + "\n" for row in zip(*(a.tolist() for a in arrays), strict=True))


def overlaps_any(chrom_starts: np.ndarray, chrom_ends: np.ndarray, los: np.ndarray, his: np.ndarray) -> np.ndarray:
	"""Whether each interval [lo, hi) shares a base with any of the intervals of the same chromosome.

	Returns
	-------
	numpy.ndarray of bool, shape=(len(los),)
	"""
	# An interval misses all others iff as many end at or before lo as start before hi.
	ended = np.searchsorted(np.sort(chrom_ends), los, side="right")
	started = np.searchsorted(np.sort(chrom_starts), his, side="left")
	return started > ended


def rows_by_chrom(chroms: np.ndarray) -> dict[str, np.ndarray]:
	"""The rows of each chromosome, ascending, by the chromosomes as they first come; one pass, however many they are.

	Parameters
	----------
	chroms: numpy.ndarray of str, shape=(n,)
		The chromosome of each row.

	Returns
	-------
	dict of str to numpy.ndarray of int64
	"""
	numbers: dict[str, int] = {}
	column = [numbers.setdefault(chrom, len(numbers)) for chrom in chroms.tolist()]
	counts = np.bincount(np.array(column, dtype=np.int64), minlength=len(numbers))
	rows = np.split(np.argsort(np.array(column, dtype=np.int64), kind="stable"), np.cumsum(counts[:-1]))
	return dict(zip(numbers, rows, strict=False))


def _overlap(a: Region, b: Region) -> bool:
	"""Whether two regions share a base."""
	a_end = float("inf") if a.end is None else a.end
	b_end = float("inf") if b.end is None else b.end
	return a.chrom == b.chrom and a.start < b_end and b.start < a_end


def _as_list(source: Any) -> list:
	"""The source as a list of single sources; an empty list is an error."""
	if isinstance(source, (str, os.PathLike)) or _is_table(source):
		return [source]
	if isinstance(source, Sequence):
		if not source:
			raise InputError("loci: an empty list was given; name at least one BED file")
		return list(source)
	raise InputError(f"loci must be a path, a list of paths or a table with columns, got {type(source).__name__}")


def _is_table(source: Any) -> bool:
	"""Whether the source behaves like a data frame: named columns to index by."""
	return hasattr(source, "columns") or isinstance(source, Mapping)


def _read_one(source: Any, *, summits: bool) -> Loci:
	"""The loci of one file or table."""
	if isinstance(source, Loci):
		return read_loci(source, summits=summits)
	if _is_table(source):
		return _read_table(source, summits=summits)
	if not isinstance(source, (str, os.PathLike)):
		raise InputError(f"loci must be a path, a list of paths or a table, got a list with {type(source).__name__}")
	return _read_file(os.fspath(source), summits=summits)


def _read_file(path: str, *, summits: bool) -> Loci:
	"""The loci of one BED file."""
	if is_remote(path):
		raise InputError(f"{path}: files of loci are read from disk; download this one and name the copy")
	check_exists(path, what="loci")
	data = read_bytes(path, what="loci")
	regular = _read_regular(data, path, summits=summits)
	if regular is not None:
		return regular
	try:
		text = data.decode("utf-8")
	except UnicodeDecodeError:
		raise InputError(f"{path}: is not a text file; loci are BED or narrowPeak files, plain or gzipped") from None
	problems = _Problems(path)
	chroms, starts, ends, offsets = [], [], [], []
	for number, line in enumerate(text.splitlines(), start=1):
		if not line.strip() or line.startswith("#") or line.split(None, 1)[0] in _SKIPPED:
			continue
		fields = line.rstrip().split("\t") if "\t" in line else line.split()
		row = _parse_row(fields, f"line {number}", problems, summits=summits)
		if row is not None:
			chroms.append(row[0])
			starts.append(row[1])
			ends.append(row[2])
			offsets.append(row[3])
	if problems.found:
		raise InputError("\n".join(problems.lines()))
	if not chroms:
		raise InputError(
			f"{path}: holds no intervals; give a BED file with at least one line of chromosome, start, end"
		)
	return _loci(chroms, starts, ends, offsets, path)


def _read_regular(data: bytes, path: str, *, summits: bool) -> Loci | None:
	"""The loci of a file whose lines are all alike and right, column by column at once; None for any other file.

	What it returns is what reading line by line gives, which is several times as slow and tells what is wrong.
	"""
	at = 0
	while data[at : at + 1] == b"#" or data[at : at + 10].split(None, 1)[:1] in ([b"track"], [b"browser"]):
		at = data.find(b"\n", at) + 1 or len(data)
	data = data[at:]
	data = data if data.endswith(b"\n") else data + b"\n"
	text = np.frombuffer(data, dtype=np.uint8)
	n_columns = data.count(b"\t", 0, data.find(b"\n")) + 1
	marks = np.flatnonzero(text < ord(" "))
	# Other characters that split or trim texts, and spaces at the ends of lines, need a closer look.
	if n_columns < 3 or len(marks) % n_columns or not data.isascii():
		return None
	marks = marks.reshape(-1, n_columns)
	tabs, ends = marks[:, :-1], marks[:, -1]
	if (text[tabs] != ord("\t")).any() or (text[ends] != ord("\n")).any() or (text[ends - 1] <= ord(" ")).any():
		return None
	begins = np.concatenate([[0], ends[:-1] + 1])
	if (tabs[:, 0] <= begins).any():
		return None
	chroms = _column_of_names(data, text, begins, tabs[:, 0])
	starts, stops = (
		_column_of_numbers(text, tabs[:, i] + 1, tabs[:, i + 1] if i + 2 < n_columns else ends) for i in (0, 1)
	)
	if chroms is None or starts is None or stops is None or (starts >= stops).any():
		return None
	offsets = np.full(len(ends), -1, dtype=np.int64)
	if n_columns == 10 or (summits and n_columns > 10):
		offsets = _column_of_numbers(text, tabs[:, 8] + 1, tabs[:, 9] if n_columns > 10 else ends)
		if offsets is None:
			return None
	if summits and ((offsets < 0) | (offsets >= stops - starts)).any():
		return None
	offsets[offsets >= stops - starts] = -1
	return Loci(chroms, starts, stops, offsets, (path,), np.zeros(len(ends), dtype=np.int32))


def _column_of_names(data: bytes, text: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray | None:
	"""The names in [begins, ends) as str objects, one object for equal neighbours; None where one is no plain name."""
	if (ends - begins).max() > _LONGEST_NAME:
		return None
	places = begins[:, None] + np.arange(int((ends - begins).max()))
	letters = np.where(places < ends[:, None], text[np.minimum(places, len(text) - 1)], 0)
	new = np.flatnonzero(np.append(True, (letters[1:] != letters[:-1]).any(axis=1)))
	found = [data[begins[i] : ends[i]].decode("ascii") for i in new.tolist()]
	if any(" " in name or name.startswith("#") or name in _SKIPPED for name in found):
		return None
	names = np.empty(len(new), dtype=object)
	names[:] = found
	return np.repeat(names, np.diff(new, append=len(begins)))


def _column_of_numbers(text: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray | None:
	"""The whole numbers in [begins, ends), int64; None where one holds anything but digits, or too many."""
	widths = ends - begins
	if widths.min() < 1 or widths.max() > 18:
		return None
	values = np.zeros(len(begins), dtype=np.int64)
	for k in range(int(widths.max())):
		# A column has mostly numbers of like widths; those that have ended are left as they are.
		digits = text[np.minimum(begins + k, ends - 1)] - np.uint8(ord("0"))
		if digits.max() > 9:
			return None
		values = np.where(k < widths, 10 * values + digits, values)
	return values


def _parse_row(fields: list[str], place: str, problems: _Problems, *, summits: bool) -> tuple | None:
	"""(chrom, start, end, summit) of one line; None, with the problem noted, when it is unfit."""
	if len(fields) < 3:
		problems.add(_TOO_FEW, f"{place}, {' '.join(fields)[:60]!r}")
		return None
	chrom, start, end = (field.strip() for field in fields[:3])
	if not (_is_int(start) and _is_int(end)):
		problems.add(_NOT_INT, f"{place}, {chrom}:{start}-{end}")
		return None
	first, last = int(start), int(end)
	if first < 0:
		problems.add(_NEGATIVE, f"{place}, {chrom}:{first}-{last}")
	if first >= last:
		problems.add(_EMPTY_INTERVAL, f"{place}, {chrom}:{first}-{last}")
	# Unless asked for, the 10th column is taken for a summit in narrowPeak only: in BED12 it means another thing.
	known = len(fields) >= 10 if summits else len(fields) == 10
	offset = int(fields[9]) if known and _is_int(fields[9].strip()) else -1
	if summits and offset < 0:
		problems.add(_NO_SUMMIT, f"{place}, {chrom}:{first}-{last}")
	elif offset >= last - first > 0:
		if summits:
			problems.add(_BAD_SUMMIT, f"{place}, {chrom}:{first}-{last}, summit {offset}")
		offset = -1
	return chrom, first, last, offset


def _read_table(table: Any, *, summits: bool) -> Loci:
	"""The loci of a data frame or mapping of columns."""
	names = list(table.columns) if hasattr(table, "columns") else list(table)
	lower = {str(name).lower(): name for name in reversed(names)}
	if all(name in lower for name in _COLUMNS):
		chosen = [lower[name] for name in _COLUMNS]
	elif len(names) >= 3:
		chosen = names[:3]
	else:
		raise InputError(f"table of loci: has columns {names}; at least chrom, start and end are needed")
	named = next((lower[name] for name in _SUMMIT_NAMES if name in lower), None)
	tenth = named if named is not None else names[9] if len(names) == 10 or (summits and len(names) > 10) else None
	columns = [np.asarray(table[name]).tolist() for name in chosen]
	tail = np.asarray(table[tenth]).tolist() if tenth is not None else [-1] * len(columns[0])
	if not columns[0]:
		raise InputError("table of loci: holds no rows; give at least one interval")
	problems = _Problems("table of loci")
	rows = []
	for i, (chrom, start, end, offset) in enumerate(zip(*columns, tail, strict=True)):
		fields = [_text(chrom), _text(start), _text(end), *[""] * 6, _text(offset)]
		rows.append(_parse_row(fields, f"row {i}", problems, summits=summits))
	if problems.found:
		raise InputError("\n".join(problems.lines()))
	return _loci(*map(list, zip(*rows, strict=True)), "table")


def _text(value: Any) -> str:
	"""A value of a table as it would stand in a BED file; whole floats lose their point."""
	if isinstance(value, float) and value.is_integer():
		value = int(value)
	return str(value)


def _is_int(text: str) -> bool:
	"""Whether the text is a plain whole number, perhaps negative, that fits into 64 bits."""
	digits = text[1:] if text[:1] == "-" else text
	return digits.isascii() and digits.isdigit() and len(digits) < 19


def _check_summits(loci: Loci) -> list[str]:
	"""A problem if any summit is unknown."""
	unknown = np.flatnonzero(loci.summits < 0)
	if not len(unknown):
		return []
	i = unknown[0]
	place = f"{loci.chroms[i]}:{loci.starts[i]}-{loci.ends[i]}"
	name = loci.files[loci.file_index[i]] if loci.files else "loci"
	return [f"{name}: {_NO_SUMMIT.format(n=len(unknown))} (first: {place})"]


def _loci(chroms: list, starts: list, ends: list, summits: list, name: str) -> Loci:
	"""Loci of one source from lists."""
	array = np.empty(len(chroms), dtype=object)
	array[:] = chroms
	return Loci(
		chroms=array,
		starts=np.array(starts, dtype=np.int64),
		ends=np.array(ends, dtype=np.int64),
		summits=np.array(summits, dtype=np.int64),
		files=(name,),
		file_index=np.zeros(len(chroms), dtype=np.int32),
	)


def _concatenate(parts: list[Loci]) -> Loci:
	"""Several loci one after the other."""
	offsets = np.cumsum([0, *(len(p.files) for p in parts[:-1])])
	return Loci(
		chroms=np.concatenate([p.chroms for p in parts]),
		starts=np.concatenate([p.starts for p in parts]),
		ends=np.concatenate([p.ends for p in parts]),
		summits=np.concatenate([p.summits for p in parts]),
		files=tuple(name for p in parts for name in p.files),
		file_index=np.concatenate([p.file_index + np.int32(k) for p, k in zip(parts, offsets, strict=True)]),
	)
