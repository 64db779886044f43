"""Reading files of variants, and writing bgzipped text."""

import gzip
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from cherimoya.errors import InputError, MissingFileError
from cherimoya.io.variants import (
	BREAKEND,
	LETTERS,
	NO_ALTERNATE,
	SYMBOLIC,
	Allele,
	VariantFile,
	open_output,
	unfit,
)

HEADER = "##fileformat=VCFv4.3\n##contig=<ID=chr1>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
BODY = "chr1\t10\trs1\tA\tG\t.\tPASS\t.\nchr1\t12\t.\tac\tA,act,<DEL>\t9\t.\tAC=1\n2\t1\tx;y\tT\t*\t.\t.\t.\n"
EXPECTED = [
	Allele("chr1", 10, "rs1", "A", "G"),
	Allele("chr1", 12, ".", "AC", "A"),
	Allele("chr1", 12, ".", "AC", "ACT"),
	Allele("chr1", 12, ".", "AC", "<DEL>"),
	Allele("2", 1, "x;y", "T", "*"),
]


def bgzip(path: Path, text: str) -> Path:
	with open_output(path, compressed=True) as file:
		file.write(text)
	return path


def written(folder: Path, kind: str, text: str) -> Path:
	"""The text as a file of a kind."""
	path = folder / "variants.vcf"
	if kind == "bgzipped":
		return bgzip(path, text)
	data = text.replace("\n", "\r\n") if kind == "CRLF" else text
	data = ("﻿" + data if kind == "byte order mark" else data).encode()
	path.write_bytes(gzip.compress(data) if kind == "gzipped" else data)
	return path


@pytest.mark.parametrize("kind", ["plain", "gzipped", "bgzipped", "CRLF", "byte order mark"])
def test_vcf(tmp_path, kind):
	file = VariantFile(written(tmp_path, kind, HEADER + BODY))
	assert file.is_vcf
	assert list(file.alleles()) == EXPECTED
	assert list(file.alleles()) == EXPECTED  # each pass begins anew
	assert [record.line for record in file] == [4, 5, 6]
	assert file.header == HEADER.splitlines()


@pytest.mark.parametrize(
	("text", "names"),
	[
		("chrom\tpos\tref\talt\nchr1\t10\tA\tG,T\n", [".", "."]),
		("#chrom\tpos\tref\talt\nchr1\t10\tA\tG,T\n", [".", "."]),
		("chrom pos ref alt\n\nchr1   10 A G,T\n", [".", "."]),
		("score\tALT\tREF\tID\tPOS\tCHROM\n1.5\tG,T\tA\trs5\t10\tchr1\n", ["rs5", "rs5"]),
	],
	ids=["tabs", "with a hash", "spaces", "other order"],
)
def test_table(tmp_path, text, names):
	path = tmp_path / "table.tsv"
	path.write_text(text)
	file = VariantFile(path)
	assert not file.is_vcf
	assert list(file.alleles()) == [Allele("chr1", 10, name, "A", alt) for name, alt in zip(names, "GT", strict=True)]


@pytest.mark.parametrize(
	("ref", "alt", "reason"),
	[
		("A", "G", None),
		("A", "AGGT", None),
		("ACG", "TT", None),
		("A", ".", NO_ALTERNATE),
		("A", "A", NO_ALTERNATE),
		("A", "*", SYMBOLIC),
		("A", "<DEL>", SYMBOLIC),
		("A", "<INS:ME:ALU>", SYMBOLIC),
		("G", "G]17:198982]", BREAKEND),
		("T", "[13:123457[T", BREAKEND),
		("T", ".T", BREAKEND),
		("T", "T.", BREAKEND),
		("N", "A", LETTERS),
		("A", "R", LETTERS),
		("A", "", NO_ALTERNATE),
	],
)
def test_unfit(ref, alt, reason):
	assert unfit(Allele("chr1", 10, ".", ref, alt)) == reason


@pytest.mark.parametrize(
	("content", "fragments"),
	[
		(b"", ("is empty", "chrom, pos, ref, alt")),
		(b"chr1\t10\tA\tG\n", ("has the columns chr1, 10, a, g", "give a VCF with its header")),
		(b"chrom\tpos\tpos\tref\talt\n", ("where pos must be, once",)),
		(b"##fileformat=VCFv4.2\nchr1\t5\t.\tA\tG\n", ("no line of column names that begins with #CHROM",)),
		((HEADER + "chr1\t5\t.\tA\n").encode(), ("1 line(s) have fewer columns", "line 4, 'chr1 5 . A'")),
		(
			(HEADER + BODY + "chr1\tfive\t.\tA\tG\nchr1\t-1\t.\tA\tG\n").encode(),
			("2 line(s) have a position", "line 7"),
		),
		(
			(HEADER + "chr1\t5\t.\t\tG\n\t5\t.\tA\tG\nchr1\tx\t.\tA\tG\n").encode(),
			("2 problems", "2 line(s)", "line 6"),
		),
		(b"chrom\tpos\tref\talt\n\xff\xfe\t1\tA\tC\n", ("is not a text file",)),
		(b"BCF\2\2", ("is a BCF", "bcftools view")),
		(gzip.compress(b"BCF\2\2"), ("is a BCF", "bcftools view")),
		(gzip.compress((HEADER + BODY).encode())[:-20], ("gzip data are broken or truncated",)),
	],
	ids=[
		"empty",
		"no header",
		"a column twice",
		"VCF without names",
		"too few columns",
		"bad positions",
		"several problems",
		"not text",
		"BCF",
		"zipped BCF",
		"truncated",
	],
)
def test_malformed(tmp_path, content, fragments):
	path = tmp_path / "variants.vcf"
	path.write_bytes(content)
	with pytest.raises(InputError) as caught:
		list(VariantFile(path))
	for fragment in (str(path), *fragments):
		assert fragment in str(caught.value)


def test_other_files(tmp_path):
	with pytest.raises(MissingFileError, match="no such file"):
		VariantFile(tmp_path / "absent.vcf")
	with pytest.raises(InputError, match="read from disk"):
		VariantFile("https://example.org/a.vcf.gz")
	path = written(tmp_path, "plain", HEADER + BODY)
	file = VariantFile(path)
	path.write_text(HEADER)
	with pytest.raises(InputError, match="was changed"):
		list(file)


def test_bgzipped_text_cut_between_blocks(tmp_path):
	path = bgzip(tmp_path / "a.vcf.gz", HEADER + BODY)
	path.write_bytes(path.read_bytes()[:-28])
	with pytest.raises(InputError, match="no end-of-file block"):
		VariantFile(path)


def test_bgzip(tmp_path):
	"""Blocks follow one another by their sizes, hold at most 64 KiB, and the last one is empty."""
	text = "".join(f"line {i} of a text that does not fit into a block\n" for i in range(5_000))
	data = bgzip(tmp_path / "text.gz", text).read_bytes()
	assert gzip.decompress(data).decode() == text
	sizes, at = [], 0
	while at < len(data):
		assert data[at : at + 4] == b"\x1f\x8b\x08\x04" and data[at + 12 : at + 14] == b"BC"
		size = struct.unpack("<H", data[at + 16 : at + 18])[0] + 1
		sizes.append(struct.unpack("<I", data[at + size - 4 : at + size])[0])
		at += size
	assert at == len(data) and sizes[-1] == 0 and sum(sizes) == len(text) and 2**15 < max(sizes) <= 2**16
	plain = tmp_path / "text"
	with open_output(plain, compressed=False) as file:
		file.write(text)
	assert plain.read_bytes() == text.encode()


def test_memory_does_not_grow(tmp_path):
	"""Lines are read one at a time: 40 times the file takes no more memory."""
	peaks = []
	for n in (500, 20_000):
		path = tmp_path / f"{n}.vcf"
		path.write_text(HEADER + "".join(f"chr1\t{i}\trs{i}\tA\tG\t.\t.\tSOME={i}\n" for i in range(1, n + 1)))
		tracemalloc.start()
		assert sum(1 for _ in VariantFile(path).alleles()) == n
		peaks.append(tracemalloc.get_traced_memory()[1])
		tracemalloc.stop()
	assert peaks[1] < 1.5 * peaks[0]


def test_imports_are_light():
	"""Reading variants needs the standard library alone."""
	program = "import sys; import cherimoya.io.variants; assert not {'torch', 'numpy'} & sys.modules.keys()"
	subprocess.run([sys.executable, "-c", program], check=True)
