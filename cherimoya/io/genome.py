"""Sequences of a genome, from FASTA files or arrays, as one byte a base.

The codes are A, C, G, T = 0, 1, 2, 3 and 4 for every other IUPAC letter, whose one-hot column is all zero.
A FASTA file is plain or bgzipped. Chromosomes are read whole, one at a time; the one read last is kept.

References
----------
The BGZF block format and the .fai index: SAM/BAM format specification, section 4.1, and the faidx(5) manual.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np

from cherimoya.errors import InputError
from cherimoya.io._files import (
	GZIP_MAGIC,
	cache_folder,
	check_exists,
	check_state,
	content_key,
	file_state,
	is_remote,
	replacing,
)
from cherimoya.io.names import Aliases, ChromNames

if TYPE_CHECKING:
	import torch

_BAD = 255
_CHUNK = 1 << 24


def _code_table() -> np.ndarray:
	"""The code of each byte: a base, 4, or a character that is no base."""
	table = np.full(256, _BAD, dtype=np.uint8)
	for letter in "RYSWKMBDHVNU":
		table[[ord(letter), ord(letter.lower())]] = 4
	for code, letter in enumerate("ACGT"):
		table[[ord(letter), ord(letter.lower())]] = code
	return table


_CODES = _code_table()


class Record(NamedTuple):
	"""One record of a FASTA file: `length` bases in the bytes [`first`, `last`) of the unzipped text."""

	length: int
	first: int
	last: int
	line_bases: int
	line_bytes: int


class Genome:
	"""The chromosomes of a FASTA file, or of arrays, as base codes.

	Parameters
	----------
	source: path, mapping of chromosome to array or text, or Genome
		A FASTA file, plain or bgzipped, in any case. Its index `.fai` is used, and made when missing: beside the
		file, or else in the user's cache folder. In a mapping, values are text, codes of shape (length,), or one-hot
		arrays of shape (4, length) or (length, 4).
	chrom_aliases: bool, mapping or path, default False
		Which other names loci, tracks and regions may use for these chromosomes; see
		:class:`cherimoya.io.names.ChromNames`. A Genome keeps its own unless others are given.

	Attributes
	----------
	chrom_sizes: dict of str to int
		Lengths in bp, in the order of the file.
	name: str
		The path, or "arrays".
	names: ChromNames
		What turns names in other files into those of this genome.

	Raises
	------
	InputError
		The file is not FASTA, is truncated, is gzipped rather than bgzipped, or does not fit its index.
	"""

	def __init__(
		self, source: "str | os.PathLike | Mapping[str, Any] | Genome", *, chrom_aliases: Aliases = False
	) -> None:
		self._last: tuple[str, np.ndarray] | None = None
		self._records: dict[str, Record] = {}
		self._arrays: dict[str, np.ndarray] | None = None
		self._file: _Plain | _Blocked | None = None
		self._state: tuple[int, int, int] | None = None
		if isinstance(source, Genome):
			self.name = source.name
			self.chrom_sizes = source.chrom_sizes
			self._records, self._arrays, self._last = source._records, source._arrays, source._last
			self._file, self._state = source._file, source._state
		elif isinstance(source, Mapping):
			self.name = "arrays"
			self._arrays = {str(chrom): _as_codes(str(chrom), value) for chrom, value in source.items()}
			self.chrom_sizes = {chrom: len(codes) for chrom, codes in self._arrays.items()}
		else:
			self.name = os.fspath(source)
			self._file = _open(self.name)
			self._state = file_state(self.name)
			self._records = _read_index(self._file)
			self.chrom_sizes = {chrom: record.length for chrom, record in self._records.items()}
		if isinstance(source, Genome) and chrom_aliases is False:
			self.names = source.names
		else:
			self.names = ChromNames(self.chrom_sizes, chrom_aliases, source=self.name)

	def codes(self, chrom: str, start: int = 0, end: int | None = None) -> np.ndarray:
		"""The codes of the bases [start, end) of a chromosome, to its end by default.

		Returns
		-------
		numpy.ndarray of uint8, shape=(end - start,)
			A view that is not to be written to.

		Raises
		------
		InputError
			There is no such chromosome, the interval leaves it, or a character is no base.
		"""
		if chrom not in self.chrom_sizes:
			raise InputError(f"{self.name}: has no chromosome {chrom!r}; it has {_some(self.chrom_sizes)}")
		size = self.chrom_sizes[chrom]
		end = size if end is None else end
		if not 0 <= start <= end <= size:
			raise InputError(f"{self.name}: {chrom}:{start}-{end} is not within the chromosome's {size:,} bp")
		if self._file is None:
			return self._arrays[chrom][start:end]
		if self._last is None or self._last[0] != chrom:
			self._last = None  # free the one before first
			codes = _read_record(self._file, chrom, self._records[chrom])
			codes.flags.writeable = False
			self._last = (chrom, codes)
		return self._last[1][start:end]

	def read(self, chrom: str, start: int, end: int) -> np.ndarray:
		"""As :meth:`codes`, reading these bases alone and keeping none: for a few stretches of large chromosomes."""
		record = self._records.get(chrom)
		if record is None or not record.line_bases or not 0 <= start <= end <= record.length:
			return self.codes(chrom, start, end)
		first, last = (
			record.first + at // record.line_bases * record.line_bytes + at % record.line_bases for at in (start, end)
		)
		return _decode(self._file, chrom, (first, last), start, end - start)

	def content_key(self, chroms: Iterable[str]) -> list | None:
		"""What decides the bases of these chromosomes: the file's content, or a hash of the arrays.

		InputError when the file is not that which was opened.
		"""
		if self._file is not None:
			check_state(self._file.path, self._state)
			return content_key(self._file.path)
		chroms = sorted(chroms)
		return [[chrom, sha256(np.ascontiguousarray(self._arrays[chrom])).hexdigest()] for chrom in chroms]

	def __getstate__(self) -> dict[str, Any]:
		"""The genome without the chromosome read last, which another process may not need."""
		return {**self.__dict__, "_last": None}


def one_hot(codes: "np.ndarray | torch.Tensor", dtype: "torch.dtype | None" = None) -> "torch.Tensor":
	"""One-hot encode base codes.

	Parameters
	----------
	codes: numpy.ndarray or torch.Tensor of uint8, shape=(n, L)
		A, C, G, T = 0, 1, 2, 3; anything else gives a column of zeros.
	dtype: torch.dtype or None, default None
		The type of the result; None is torch.float32.

	Returns
	-------
	torch.Tensor, shape=(n, 4, L)
		On the device of `codes`.
	"""
	import torch

	dtype = torch.float32 if dtype is None else dtype
	if isinstance(codes, torch.Tensor) and codes.device.type != "cpu":
		bases = torch.arange(4, dtype=codes.dtype, device=codes.device)
		return (codes.unsqueeze(-2) == bases.unsqueeze(-1)).to(dtype)  # (n, 1, L) == (4, 1) -> (n, 4, L)
	codes = codes.numpy() if isinstance(codes, torch.Tensor) else np.asarray(codes)
	# numpy compares bytes several times as fast as torch; base by base, as what it finds then stays in the cache.
	kind = np.float32 if dtype == torch.float32 else np.uint8
	hot = np.empty((*codes.shape[:-1], 4, codes.shape[-1]), dtype=kind)
	for base in range(4):
		hot[..., base, :] = (codes == base).view(np.uint8)  # (n, L) -> (n, 1 of 4, L)
	return torch.from_numpy(hot).to(dtype)


def _as_codes(chrom: str, value: Any) -> np.ndarray:
	"""The codes of a chromosome given as text, codes or one-hot array."""
	if isinstance(value, str):
		value = value.encode("ascii", "replace")
	if isinstance(value, (bytes, bytearray)):
		codes = _CODES[np.frombuffer(bytes(value), dtype=np.uint8)]
		if len(codes) and codes.max() > 4:
			offset = int(np.argmax(codes > 4))
			raise InputError(f"sequence {chrom!r}: {chr(value[offset])!r} at offset {offset} is no base")
		return codes
	array = np.asarray(value)
	if array.ndim == 2 and 4 in array.shape:
		array = array if array.shape[0] == 4 else array.T  # (L, 4) -> (4, L)
		if not (np.isin(array, (0, 1)).all() and (array.sum(axis=0) <= 1).all()):
			raise InputError(f"sequence {chrom!r}: a one-hot array must hold at most one 1 per position and else 0")
		return np.where(array.sum(axis=0) == 1, array.argmax(axis=0), 4).astype(np.uint8)  # (4, L) -> (L,)
	if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
		raise InputError(
			f"sequence {chrom!r}: must be text, integer codes of shape (L,) or one-hot of shape (4, L), "
			f"got {array.dtype} of shape {array.shape}"
		)
	if len(array) and not (array.min() >= 0 and array.max() <= 4):
		raise InputError(f"sequence {chrom!r}: codes must be 0 to 4, got {array.min()} to {array.max()}")
	return array.astype(np.uint8)


def _some(names: Mapping[str, Any]) -> str:
	"""The first few names, for a message."""
	shown = ", ".join(list(names)[:6])
	return f"{shown}, … ({len(names)} in all)" if len(names) > 6 else shown or "none"


# ---- the file -------------------------------------------------------------------------------------------------------


class _Plain:
	"""A plain file, read by the offset of bytes."""

	def __init__(self, path: str) -> None:
		self.path = path
		self.size = os.path.getsize(path)

	def read(self, first: int, last: int) -> bytearray:
		"""The bytes [first, last); a bytearray, which is translated a third faster than bytes are."""
		data = bytearray(max(0, last - first))
		with open(self.path, "rb", buffering=0) as file:
			file.seek(first)
			n = 0
			while n < len(data) and (more := file.readinto(memoryview(data)[n:])):
				n += more
		del data[n:]
		return data

	def chunks(self) -> Iterator[bytes]:
		"""The whole file, piece by piece."""
		with open(self.path, "rb") as file:
			while chunk := file.read(_CHUNK):
				yield chunk


class _Blocked:
	"""A bgzipped file, read by the offset of the unzipped bytes; its blocks are found by their headers."""

	def __init__(self, path: str) -> None:
		self.path = path
		starts, sizes, totals = [], [], []
		with open(path, "rb") as file:
			end = os.path.getsize(path)
			at = 0
			while at < end:
				size = _block_size(file, at)
				if size is None or at + size > end:
					raise InputError(
						f"{path}: the bgzip data are truncated or broken at byte {at:,}; get the file again"
					)
				file.seek(at + size - 4)
				totals.append(struct.unpack("<I", file.read(4))[0])
				starts.append(at)
				sizes.append(size)
				at += size
		if not totals or totals[-1]:
			# The format ends with an empty block, so that a cut between two blocks shows.
			raise InputError(f"{path}: the bgzip data end too early (no end-of-file block); get the file again")
		self.starts, self.sizes = starts, sizes
		self.offsets = np.cumsum([0, *totals])
		self.size = int(self.offsets[-1])

	def _blocks(self, first: int, last: int) -> Iterator[bytes]:
		"""The unzipped blocks numbered [first, last)."""
		with open(self.path, "rb") as file:
			for i in range(first, last):
				file.seek(self.starts[i])
				data = file.read(self.sizes[i])
				try:
					yield zlib.decompress(data, wbits=31)
				except zlib.error as error:
					raise InputError(
						f"{self.path}: the bgzip block at byte {self.starts[i]:,} is broken ({error}); get it again"
					) from None

	def read(self, first: int, last: int) -> bytes:
		"""The unzipped bytes [first, last)."""
		i = int(np.searchsorted(self.offsets, first, side="right")) - 1
		j = int(np.searchsorted(self.offsets, last, side="left"))
		data = b"".join(self._blocks(i, j))
		skip = first - int(self.offsets[i])
		return data[skip : skip + last - first]

	def chunks(self) -> Iterator[bytes]:
		"""The whole text, piece by piece; blocks are joined, as each holds at most 64 KB."""
		for i in range(0, len(self.starts), 256):
			yield b"".join(self._blocks(i, min(i + 256, len(self.starts))))


def _block_size(file: BinaryIO, at: int) -> int | None:
	"""The size in bytes of the BGZF block at `at`, from its header; None when there is none."""
	file.seek(at)
	header = file.read(12)
	if len(header) < 12 or header[:4] != b"\x1f\x8b\x08\x04":
		return None
	extra = file.read(struct.unpack("<H", header[10:12])[0])
	while len(extra) >= 6:
		length = struct.unpack("<H", extra[2:4])[0]
		if extra[:2] == b"BC" and length == 2:
			return struct.unpack("<H", extra[4:6])[0] + 1
		extra = extra[4 + length :]
	return None


def _open(path: str) -> _Plain | _Blocked:
	"""The file, plain or bgzipped; ordinary gzip, which cannot be read at random, is an error with its remedy."""
	if is_remote(path):
		raise InputError(
			f"{path}: sequences are read at random places and must be a local file; download the FASTA (and its .fai) "
			"and name the copy"
		)
	check_exists(path, what="sequences")
	with open(path, "rb") as file:
		start = file.read(2)
		if start != GZIP_MAGIC:
			return _Plain(path)
		if _block_size(file, 0) is None:
			raise InputError(
				f"{path}: is gzipped, which cannot be read at random places; unzip it, or convert it with: "
				f"gunzip -c {path} | bgzip > NEW.fa.gz"
			)
	return _Blocked(path)


def _read_record(file: _Plain | _Blocked, chrom: str, record: Record) -> np.ndarray:
	"""The codes of one record, shape=(length,)."""
	return _decode(file, chrom, (record.first, record.last), 0, record.length)


def _decode(file: _Plain | _Blocked, chrom: str, text: tuple[int, int], start: int, length: int) -> np.ndarray:
	"""The codes of `length` bases of a record from base `start` on, which are the bytes [text[0], text[1]).

	Piece by piece, so that a large chromosome is in memory once, and not also as text.
	"""
	codes, n, n_bad, place = np.empty(length, dtype=np.uint8), 0, 0, ""
	for first in range(*text, _CHUNK):
		data = file.read(first, min(first + _CHUNK, text[1]))
		piece = np.frombuffer(data.translate(_CODES.tobytes(), b"\r\n"), dtype=np.uint8)
		if len(piece) and piece.max() > 4:
			bad = np.flatnonzero(piece > 4)
			character = chr(data.translate(None, b"\r\n")[bad[0]])
			place = place or f"{character!r} at offset {start + n + int(bad[0]):,}"
			n_bad += len(bad)
		codes[n : n + len(piece)] = piece[: max(0, length - n)]
		n += len(piece)
	if place:
		raise InputError(
			f"{file.path}: record {chrom!r} holds {place}, which is no base "
			f"({n_bad} such character(s) there); only A, C, G, T and IUPAC letters are allowed: mend it"
		)
	if n != length:
		raise InputError(
			f"{file.path}: record {chrom!r} has {n:,} bases where its index says {length:,}; "
			f"the file is truncated, or changed after it was indexed: get it again, or delete {file.path}.fai"
		)
	return codes


# ---- the index ------------------------------------------------------------------------------------------------------


def _read_index(file: _Plain | _Blocked) -> dict[str, Record]:
	"""The records of a FASTA file by name: from its .fai, or else by reading all of it once and writing the .fai."""
	path = file.path
	for place in (Path(f"{path}.fai"), _cached_index(path)):
		if place.is_file():
			records = _parse_fai(place, path)
			_check_index(file, records, place)
			return records
	records = _scan(file)
	_write_fai(path, records)
	return records


def _cached_index(path: str) -> Path:
	"""Where the index lies when the FASTA's own folder cannot be written; a changed file gets another place."""
	status = os.stat(path)
	key = f"{os.path.abspath(path)}\0{status.st_size}\0{status.st_mtime_ns}"
	return cache_folder() / f"{sha256(key.encode()).hexdigest()[:32]}.fai"


def _parse_fai(place: Path, path: str) -> dict[str, Record]:
	"""The records of a .fai file: name, length, offset, bases a line and bytes a line, separated by tabs."""
	records = {}
	try:
		for line in place.read_text(encoding="utf-8").splitlines():
			name, *numbers = line.split("\t")
			length, first, line_bases, line_bytes = map(int, numbers[:4])
			whole, rest = divmod(length, line_bases) if length else (0, 0)
			records[name] = Record(length, first, first + whole * line_bytes + rest, line_bases, line_bytes)
	except (ValueError, ZeroDivisionError):
		raise InputError(f"{place}: is not an index of a FASTA file; delete it, and it is made again") from None
	if not records:
		raise InputError(f"{place}: the index of {path} is empty; delete it, and it is made again")
	return records


def _check_index(file: _Plain | _Blocked, records: dict[str, Record], place: Path) -> None:
	"""Raise InputError unless the first and the last record of the index are where it says."""
	names = [min(records, key=lambda n: records[n].first), max(records, key=lambda n: records[n].first)]
	last = max(records.values(), key=lambda r: r.first)
	for name in names:
		header = f">{name}".encode()
		# A header's description is seldom long; what lies before it does not matter.
		before = file.read(max(0, records[name].first - 4096), records[name].first)
		*others, line = before.rstrip(b"\r\n").split(b"\n")
		cut = len(before) == 4096 and not others
		if not before.endswith(b"\n") or not (cut or line.split()[:1] == [header]):
			raise InputError(
				f"{file.path}: record {name!r} is not where the index {place} says; the file is truncated or changed "
				f"since it was indexed: get it again, or delete {place}"
			)
	if last.last > file.size or file.read(last.last, file.size).strip():
		raise InputError(
			f"{file.path}: has {file.size:,} bytes of text, but the index {place} ends at {last.last:,}; the file is "
			f"truncated or changed since it was indexed: get it again, or delete {place}"
		)


def _scan(file: _Plain | _Blocked) -> dict[str, Record]:
	"""The records of a FASTA file, by reading all of it once.

	Lines are found with numpy: within a record all lines but the last should be equally long, which .fai demands;
	line_bases is 0 for a record where they are not, and such a file gets no .fai.
	"""
	records: dict[str, Record] = {}
	name: str | None = None
	first = at = 0
	lines: list[np.ndarray] = []  # offsets of the line ends of the current record
	tail = b""  # a line that the chunk has cut
	crlf = False

	def finish(end: int) -> None:
		if name is None:
			return
		records[name] = _measure(
			file.path, name, first, end, np.concatenate(lines) if lines else np.empty(0, int), crlf
		)

	for chunk in file.chunks():
		data = tail + chunk
		cut = data.rfind(b"\n") + 1
		tail, data = data[cut:], data[:cut]
		if at == 0 and name is None and data:
			_check_start(file.path, data)
			crlf = data[: data.find(b"\n")].endswith(b"\r")
		array = np.frombuffer(data, dtype=np.uint8)
		ends = np.flatnonzero(array == ord("\n"))
		begins = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
		headers = np.flatnonzero(array[begins] == ord(">")) if len(begins) else ends
		done = 0
		for h in headers:
			lines.append(ends[done:h] + at)
			finish(at + int(begins[h]))
			name = _record_name(file.path, data[begins[h] : ends[h]], records)
			first, lines, done = at + int(ends[h]) + 1, [], h + 1
		lines.append(ends[done:] + at)
		at += len(data)
	if tail:
		if at == 0:
			_check_start(file.path, tail)
		if tail.startswith(b">"):
			finish(at)
			name = _record_name(file.path, tail, records)
			first, lines = at + len(tail), []
	finish(at + len(tail))
	if not records:
		raise InputError(f"{file.path}: holds no FASTA record; give a FASTA file with lines >name and bases")
	return records


def _check_start(path: str, data: bytes) -> None:
	"""Raise InputError unless the text starts like FASTA."""
	if not data.lstrip().startswith(b">"):
		start = data.lstrip()[:20]
		raise InputError(
			f"{path}: is not FASTA (it starts with {start!r}, not with '>'); give a plain or bgzipped FASTA"
		)


def _record_name(path: str, line: bytes, records: Mapping[str, Record]) -> str:
	"""The name on a header line: its first word."""
	words = line[1:].decode("utf-8", "replace").split()
	if not words:
		raise InputError(f"{path}: record {len(records) + 1} has no name; write >name")
	if words[0] in records:
		raise InputError(f"{path}: two records are named {words[0]!r}; rename or remove one")
	return words[0]


def _measure(path: str, name: str, first: int, end: int, line_ends: np.ndarray, crlf: bool) -> Record:
	"""The record whose text is the bytes [first, end), its lines ending at `line_ends`."""
	extra = 2 if crlf else 1
	if end > first and (not len(line_ends) or line_ends[-1] != end - 1):
		line_ends = np.append(line_ends, end - 1 + extra)  # the last line has no end of its own
	widths = np.diff(line_ends, prepend=first - 1) - extra
	length = int(widths.sum())
	if length <= 0:
		raise InputError(f"{path}: record {name!r} has no bases; the file is truncated, or the record is to be removed")
	blank = np.flatnonzero(widths > 0)[-1]  # lines after the last one with bases hold nothing
	body = widths[: blank + 1]
	regular = (body[:-1] == body[0]).all() and body[-1] <= body[0] and (widths >= 0).all()
	return Record(length, first, end, int(body[0]) if regular else 0, int(body[0]) + extra if regular else 0)


def _write_fai(path: str, records: Mapping[str, Record]) -> None:
	"""Write the index beside the FASTA, else into the cache folder, else nowhere: it only saves time."""
	if any(r.line_bases == 0 for r in records.values()):
		return
	text = "".join(f"{name}\t{r.length}\t{r.first}\t{r.line_bases}\t{r.line_bytes}\n" for name, r in records.items())
	beside, cached = Path(f"{path}.fai"), _cached_index(path)
	for place in (beside, cached):
		try:
			if place is cached:
				place.parent.mkdir(parents=True, exist_ok=True)
			with replacing(place) as temporary:
				Path(temporary).write_text(text, encoding="utf-8")
			return
		except (OSError, InputError):
			continue
