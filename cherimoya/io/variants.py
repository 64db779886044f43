"""Variants: VCF files, or tables of chromosome, position and two alleles, read as a stream and checked.

Positions count from 1, as in VCF, in both kinds of files.

References
----------
The Variant Call Format specification, version 4.3, sections 1 and 5; the BGZF block format: SAM/BAM format
specification, section 4.1.
"""

import gzip
import io
import os
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, TextIO

from cherimoya.errors import InputError, join_problems
from cherimoya.io._files import GZIP_MAGIC, check_exists, check_state, file_state, is_remote

NO_ALTERNATE = "no alternate allele"
SYMBOLIC = "symbolic allele"
BREAKEND = "breakend"
LETTERS = "letters other than ACGT"

_VCF_COLUMNS = ["chrom", "pos", "id", "ref", "alt"]
_NEEDED = ("chrom", "pos", "ref", "alt")
_BASES = frozenset("ACGT")
_LARGEST_BLOCK = 65_280  # bytes of text in a BGZF block, as htslib has it
_END_OF_FILE = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")

_TOO_FEW = "{n} line(s) have fewer columns than the header names; mend or remove them"
_BAD_POSITION = "{n} line(s) have a position that is not a whole number from 0; positions count from 1, as in VCF"
_EMPTY = "{n} line(s) have no chromosome or no reference allele; fill them in, or remove the lines"


class Allele(NamedTuple):
	"""One alternate allele of a variant.

	Attributes
	----------
	chrom: str
		As the file has it.
	position: int
		Of the first base of `ref`, counted from 1.
	name: str
		The ID; "." where there is none.
	ref, alt: str
		The two alleles, in capitals.
	"""

	chrom: str
	position: int
	name: str
	ref: str
	alt: str

	def __str__(self) -> str:
		ref, alt = (text if len(text) <= 12 else f"{text[:9]}..." for text in (self.ref, self.alt))
		return f"{self.chrom}:{self.position} {ref}>{alt}"


class Record(NamedTuple):
	"""A line of a file of variants: its number, its columns as they are, and its alleles."""

	line: int
	fields: list[str]
	alleles: list[Allele]


class VariantFile:
	"""A file of variants, read anew by each iteration, a line at a time.

	Parameters
	----------
	path: path
		A VCF, or a table whose header names the columns `chrom`, `pos`, `ref` and `alt` (and `id`, if there are IDs),
		separated by tabs or else by spaces. Plain, gzipped or bgzipped. Several alternate alleles of a line are
		separated by commas.

	Attributes
	----------
	path: str
	is_vcf: bool
	header: list of str
		The lines above the variants, without their ends.
	columns: list of str
		The names of the columns, in small letters.

	Raises
	------
	InputError
		The file is neither; MissingFileError when it is not there.
	"""

	def __init__(self, path: str | os.PathLike) -> None:
		self.path = os.fspath(path)
		if is_remote(self.path):
			raise InputError(f"{self.path}: variants are read from disk; download the file and name the copy")
		check_exists(self.path, what="variants")
		_check_compression(self.path)
		self._state = file_state(self.path)
		self.header: list[str] = []
		self.columns: list[str] = []
		for _, text in self._lines():
			if text.strip():
				self.header.append(text)
				if not text.startswith("##"):
					self.columns = [name.lower() for name in _split(text.removeprefix("#"), "\t" in text)]
					break
		self.is_vcf = bool(self.header) and self.header[0].startswith("##fileformat=VCF")
		if self.columns and self.header[-1].startswith("#CHROM\t") and self.columns[:5] == _VCF_COLUMNS:
			self.is_vcf = True
		self._tabs = bool(self.header) and "\t" in self.header[-1]
		self._check_columns()
		self._places = [self.columns.index(name) for name in _NEEDED]
		self._name = self.columns.index("id") if "id" in self.columns else None

	def _check_columns(self) -> None:
		"""InputError unless the header names what is needed, once."""
		lacking = [name for name in _NEEDED if self.columns.count(name) != 1]
		if self.is_vcf and self.columns[:5] != _VCF_COLUMNS:
			raise InputError(
				f"{self.path}: this VCF has no line of column names that begins with #CHROM, POS, ID, REF and ALT, "
				"separated by tabs; put it above the variants"
			)
		if lacking:
			found = f"has the columns {', '.join(self.columns[:8])}" if self.columns else "is empty"
			raise InputError(
				f"{self.path}: {found}, where {', '.join(lacking)} must be, once; give a VCF with its header, or a "
				f"table whose first line names the columns {', '.join(_NEEDED)} (and id)"
			)

	def __iter__(self) -> Iterator[Record]:
		"""The lines of variants.

		Raises
		------
		InputError
			At the end, for all lines that are malformed together, which are left out; or the file was changed, or is
			truncated.
		"""
		check_state(self.path, self._state)
		problems: dict[str, list] = {}
		lines = self._lines()
		above = len(self.header)
		for number, text in lines:
			if not text.strip():
				continue
			if above:
				above -= 1
				continue
			record = self._record(number, text)
			if isinstance(record, Record):
				yield record
			else:
				problems.setdefault(record, [0, f"line {number}, {' '.join(text.split())[:60]!r}"])[0] += 1
		if problems:
			raise InputError(
				join_problems(
					f"{self.path}: {kind.format(n=n)} (first: {place})" for kind, (n, place) in problems.items()
				)
			)

	def alleles(self) -> Iterator[Allele]:
		"""Every alternate allele, in the order of the file."""
		for record in self:
			yield from record.alleles

	def _record(self, number: int, text: str) -> Record | str:
		"""A line of variants, or what is wrong with it."""
		fields = _split(text, self._tabs)
		if len(fields) <= max(self._places):
			return _TOO_FEW
		chrom, position, ref, alts = (fields[place] for place in self._places)
		if not (position.isascii() and position.isdigit() and len(position) < 19):
			return _BAD_POSITION
		if not chrom or ref in ("", "."):
			return _EMPTY
		name = fields[self._name] if self._name is not None and self._name < len(fields) else "."
		ref = ref.upper()
		# The case of symbolic alleles, and of the names in breakends, matters; that of bases does not.
		split = [alt if any(sign in alt for sign in "<[]") else alt.upper() for alt in alts.split(",")]
		return Record(number, fields, [Allele(chrom, int(position), name or ".", ref, alt or ".") for alt in split])

	def _lines(self) -> Iterator[tuple[int, str]]:
		"""The number and the text of each line, without its end."""
		with open(self.path, "rb") as file:
			zipped = file.read(2) == GZIP_MAGIC
		try:
			with gzip.open(self.path, "rb") if zipped else open(self.path, "rb") as file:
				for number, line in enumerate(file, start=1):
					text = line.decode("utf-8-sig" if number == 1 else "utf-8")
					yield number, text.rstrip("\r\n")
		except UnicodeDecodeError:
			raise InputError(f"{self.path}: is not a text file; variants are a VCF or a table") from None
		except (EOFError, zlib.error, gzip.BadGzipFile) as error:
			raise InputError(
				f"{self.path}: the gzip data are broken or truncated ({error}); get the file again"
			) from None


def unfit(allele: Allele) -> str | None:
	"""Why an allele is not one sequence of known bases in place of another, or None.

	One of `NO_ALTERNATE`, `SYMBOLIC` (``<DEL>``, ``*``), `BREAKEND` and `LETTERS`.
	"""
	alt = allele.alt
	if alt in ("", "."):
		return NO_ALTERNATE
	if alt.startswith("<") or alt == "*":
		return SYMBOLIC
	if "[" in alt or "]" in alt or alt[0] == "." or alt[-1] == ".":
		return BREAKEND
	if not _BASES.issuperset(allele.ref) or not _BASES.issuperset(alt):
		return LETTERS
	if allele.ref == alt:
		return NO_ALTERNATE
	return None


def open_output(path: str | os.PathLike, *, compressed: bool) -> TextIO:
	"""A text file to write to; compressed with bgzip, which tabix can index, if asked for."""
	if not compressed:
		return open(path, "w", encoding="utf-8", newline="\n")
	blocks = io.BufferedWriter(_BlockWriter(open(path, "wb")), _LARGEST_BLOCK)
	return io.TextIOWrapper(blocks, encoding="utf-8", newline="\n", write_through=False)


class _BlockWriter(io.RawIOBase):
	"""Writes what it is given as BGZF blocks, and the empty block at the end."""

	def __init__(self, file: BinaryIO) -> None:
		self._file = file

	def writable(self) -> bool:
		"""It is."""
		return True

	def write(self, data: "bytes | memoryview") -> int:
		"""Write some bytes, at least one block of them."""
		data = bytes(data)
		for first in range(0, len(data), _LARGEST_BLOCK):
			self._file.write(_block(data[first : first + _LARGEST_BLOCK]))
		return len(data)

	def close(self) -> None:
		"""End the file."""
		if not self.closed:
			try:
				self._file.write(_END_OF_FILE)
			finally:
				self._file.close()
				super().close()


def _block(data: bytes) -> bytes:
	"""A BGZF block of some bytes: a gzip member whose extra field BC holds its size less one."""
	deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
	body = deflate.compress(data) + deflate.flush()
	size = len(body) + 18 + 8
	header = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + struct.pack("<H", size - 1)
	return header + body + struct.pack("<II", zlib.crc32(data), len(data))


def _check_compression(path: str) -> None:
	"""InputError for a BCF, or for bgzipped text that was cut off between two blocks."""
	with open(path, "rb") as file:
		start = file.read(18)
		if start[:2] != GZIP_MAGIC:
			is_bcf = start.startswith(b"BCF")
		else:
			if start[12:14] == b"BC":
				file.seek(max(0, os.path.getsize(path) - len(_END_OF_FILE)))
				if file.read() != _END_OF_FILE:
					raise InputError(f"{path}: the bgzip data end too early (no end-of-file block); get the file again")
			try:
				with gzip.open(path, "rb") as unzipped:
					is_bcf = unzipped.read(3) == b"BCF"
			except (EOFError, zlib.error, gzip.BadGzipFile) as error:
				raise InputError(
					f"{path}: the gzip data are broken or truncated ({error}); get the file again"
				) from None
	if is_bcf:
		raise InputError(f"{path}: is a BCF, not a VCF; convert it with: bcftools view -Oz -o NEW.vcf.gz {path}")


def _split(text: str, tabs: bool) -> list[str]:
	"""The columns of a line."""
	return [field.strip() for field in text.split("\t")] if tabs else text.split()
