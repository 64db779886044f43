"""FASTA files, plain and bgzipped, and arrays as base codes; one-hot encoding."""

import gzip
import os
import pickle
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch

from cherimoya.errors import InputError, MissingFileError
from cherimoya.io._scan import scan
from cherimoya.io.genome import Genome, one_hot

SEQUENCES = {
	"chr1": "ACGTNacgtnRYSWKMBDHVU" + "ACGT" * 40,
	"chr2": "G",
	"1": "TTTTTCCCCC" * 6,
	"chrEmptyEnd": "ACG" * 41,
}


def _bgzip(data: bytes, *, block: int = 100) -> bytes:
	"""The data in the blocked gzip format, written from its description, with the empty block at the end."""
	out = b""
	for piece in [*(data[i : i + block] for i in range(0, len(data), block)), b""]:
		deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
		body = deflate.compress(piece) + deflate.flush()
		header = struct.pack("<4BI2BH2BHH", 31, 139, 8, 4, 0, 0, 255, 6, 66, 67, 2, len(body) + 25)
		out += header + body + struct.pack("<II", zlib.crc32(piece), len(piece))
	return out


def _slow_codes(sequence: str) -> list[int]:
	return ["ACGT".index(b) if b in "ACGT" else 4 for b in sequence.upper()]


def _text(sequences: dict[str, str], width: int = 10, newline: str = "\n") -> bytes:
	lines = []
	for name, s in sequences.items():
		lines += [f">{name} of no meaning", *(s[i : i + width] for i in range(0, len(s), width))]
	return (newline.join(lines) + newline).encode()


LAYOUTS = {
	"lines": _text(SEQUENCES),
	"one line": _text(SEQUENCES, width=10_000),
	"a base a line": _text(SEQUENCES, width=1),
	"windows line ends": _text(SEQUENCES, newline="\r\n"),
	"no final newline": _text(SEQUENCES)[:-1],
	"blank lines at the end": _text(SEQUENCES) + b"\n\n",
	"blank lines between": _text(SEQUENCES).replace(b"\n>", b"\n\n>"),
	"uneven lines": _text(SEQUENCES).replace(b"TTTTTCCCCC\n", b"TTT\nTTCCCC\nC\n"),
}


@pytest.mark.parametrize("indexed", [False, True], ids=["first time", "with its index"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "bgzipped"])
@pytest.mark.parametrize("content", LAYOUTS.values(), ids=LAYOUTS)
def test_codes_of_every_layout(tmp_path, content, packed, indexed):
	path = tmp_path / ("a.fa.gz" if packed else "a.fa")
	path.write_bytes(_bgzip(content) if packed else content)
	if indexed:
		Genome(path)
	genome = Genome(path)
	assert genome.chrom_sizes == {name: len(s) for name, s in SEQUENCES.items()}
	for name, sequence in SEQUENCES.items():
		assert genome.codes(name).tolist() == _slow_codes(sequence)
		assert genome.codes(name, 0, 1).dtype == np.uint8
	assert genome.codes("chr1", 3, 17).tolist() == _slow_codes(SEQUENCES["chr1"])[3:17]
	assert genome.name == str(path)
	anew = pickle.loads(pickle.dumps(genome))  # which has kept no chromosome
	for name, sequence in SEQUENCES.items():
		for start in (0, 1, 9, 10, 11, 99):
			for end in {start, start + 1, start + 10, start + 21, len(sequence) - 1, len(sequence)}:
				if start <= end <= len(sequence):
					assert anew.read(name, start, end).tolist() == _slow_codes(sequence)[start:end]


def test_reading_a_stretch_names_what_is_wrong_there(tmp_path):
	path = tmp_path / "a.fa"
	path.write_bytes(_text({"chr1": "ACGT" * 10 + "!" + "ACGT" * 10}))
	genome = Genome(path)
	assert genome.read("chr1", 0, 40).tolist() == [0, 1, 2, 3] * 10
	with pytest.raises(InputError, match=r"'!' at offset 40,"):
		genome.read("chr1", 33, 55)
	with pytest.raises(InputError, match=r"chr1:33-82 is not within"):
		genome.read("chr1", 33, 82)
	with pytest.raises(InputError, match=r"has no chromosome 'chr2'"):
		genome.read("chr2", 0, 1)


@pytest.mark.parametrize("where", ["file", "arrays"])
def test_the_content_key_is_of_the_bases_and_not_of_the_place(tmp_path, make_fasta, where):
	def key(sequences, name="a.fa"):
		source = make_fasta(tmp_path / name, sequences) if where == "file" else sequences
		return Genome(source).content_key(["chr1"])

	first = key({"chr1": "ACGT"})
	assert key({"chr1": "ACGT"}, "b.fa") == first != key({"chr1": "ACGA"}, "c.fa")


def test_the_index_is_that_of_samtools(tmp_path):
	path = tmp_path / "a.fa"
	path.write_bytes(b">one first\nACGTA\nCG\n>two\nAC\nAC\nA\n")
	Genome(path)
	# name, bases, offset, bases a line, bytes a line
	assert (tmp_path / "a.fa.fai").read_text() == "one\t7\t11\t5\t6\ntwo\t5\t25\t2\t3\n"


def test_the_index_goes_to_the_cache_where_it_cannot_lie_beside_the_file(tmp_path, monkeypatch):
	monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
	path = tmp_path / "a.fa"
	path.write_bytes(_text(SEQUENCES))
	(tmp_path / "a.fa.fai" / "in the way").mkdir(parents=True)
	assert Genome(path).codes("chr2").tolist() == [2]
	(cached,) = (tmp_path / "cache" / "cherimoya").iterdir()
	before = cached.stat().st_mtime_ns
	assert Genome(path).codes("chr2").tolist() == [2]
	assert cached.stat().st_mtime_ns == before


@pytest.mark.parametrize(
	"content, expected",
	[
		(gzip.compress(_text(SEQUENCES)), ["gzipped", "bgzip"]),
		(_bgzip(_text(SEQUENCES))[:-1], ["truncated"]),
		(_bgzip(_text(SEQUENCES))[:-28], ["end too early"]),
		(_bgzip(_text(SEQUENCES))[:250], ["truncated"]),
		(b"chr1\t0\t10\n", ["not FASTA", "chr1"]),
		(b"no newline", ["not FASTA"]),
		(b"\x89PNG\r\n\x1a\n\x00\x00", ["not FASTA"]),
		(b"", ["no FASTA record"]),
		(b"\n\n", ["not FASTA"]),
		(b">a\nAC\n>a\nAC\n", ["two records", "'a'"]),
		(b">a\nAC\n>b\n", ["'b' has no bases"]),
		(b">a\nAC\n>b", ["'b' has no bases"]),
		(b">a\n>b\nAC\n", ["'a' has no bases"]),
		(b"> \nAC\n", ["no name"]),
	],
	ids=[
		"gzip",
		"cut bgzip",
		"no last block",
		"half",
		"bed",
		"text",
		"png",
		"nothing",
		"blank",
		"twice",
		"empty record",
		"only a name",
		"first empty",
		"nameless",
	],
)
def test_files_that_are_refused(tmp_path, content, expected):
	path = tmp_path / "a.fa"
	path.write_bytes(content)
	with pytest.raises(InputError) as caught:
		Genome(path)
	assert str(path) in str(caught.value)
	for text in expected:
		assert text in str(caught.value)
	assert os.listdir(tmp_path) == ["a.fa"]


@pytest.mark.parametrize("line, offset, character", [("ACGT!", 14, "!"), ("ACGTE", 14, "E"), ("AC GT", 12, " ")])
def test_a_character_that_is_no_base_is_named_with_its_offset(tmp_path, line, offset, character):
	path = tmp_path / "a.fa"
	path.write_text(f">fine\nACGT\n>bad\nAAAAA\nAAAAA\n{line}\n")
	genome = Genome(path)
	assert len(genome.codes("fine")) == 4
	with pytest.raises(InputError) as caught:
		genome.codes("bad")
	for text in (str(path), "'bad'", repr(character), f"offset {offset}"):
		assert text in str(caught.value)


@pytest.mark.parametrize(
	"change",
	[
		lambda text: text[:-30],
		lambda text: text + b"ACGT\n",
		lambda text: b">new\nACGTACGT\n" + text,
		lambda text: text[:60],
	],
	ids=["cut", "longer", "another record first", "most is gone"],
)
def test_a_file_that_does_not_fit_its_index(tmp_path, change):
	path = tmp_path / "a.fa"
	path.write_bytes(_text(SEQUENCES))
	Genome(path)
	path.write_bytes(change(_text(SEQUENCES)))
	with pytest.raises(InputError, match="truncated or changed"):
		Genome(path)


@pytest.mark.parametrize("text", ["", "chr1\tx\t1\t2\t3\n", "chr1\t1\n"], ids=["empty", "words", "columns"])
def test_a_broken_index_is_named(tmp_path, text):
	path = tmp_path / "a.fa"
	path.write_bytes(_text(SEQUENCES))
	(tmp_path / "a.fa.fai").write_text(text)
	with pytest.raises(InputError, match=r"a\.fa\.fai.*delete it"):
		Genome(path)


def test_places_that_are_not_there(tmp_path, make_fasta):
	with pytest.raises(MissingFileError, match="no such file"):
		Genome(tmp_path / "none.fa")
	with pytest.raises(InputError, match="is a folder"):
		Genome(tmp_path)
	genome = Genome(make_fasta(tmp_path / "a.fa", {"chr1": "ACGT"}))
	with pytest.raises(InputError, match=r"no chromosome 'chr9'.*chr1"):
		genome.codes("chr9")
	with pytest.raises(InputError, match="not within"):
		genome.codes("chr1", 2, 5)


@pytest.mark.parametrize(
	"value",
	[
		"ACGTNt",
		b"acgtnT",
		np.array([0, 1, 2, 3, 4, 3]),
		one_hot(np.array([[0, 1, 2, 3, 4, 3]]))[0].numpy(),
		one_hot(np.array([[0, 1, 2, 3, 4, 3]]))[0].numpy().T,
	],
	ids=["text", "bytes", "codes", "(4, L)", "(L, 4)"],
)
def test_arrays(value):
	genome = Genome({"chr1": value})
	assert genome.codes("chr1").tolist() == [0, 1, 2, 3, 4, 3]
	assert Genome(genome).codes("chr1", 1, 3).tolist() == [1, 2]
	assert genome.chrom_sizes == {"chr1": 6}


@pytest.mark.parametrize(
	"value, expected",
	[
		("AC!T", "offset 2"),
		(np.array([0, 5]), "codes must be"),
		(np.array([0.5, 1.0]), "must be text"),
		(np.full((4, 3), 0.25), "one-hot"),
		(np.ones((4, 3), dtype=int), "one-hot"),
	],
	ids=["character", "code", "floats", "fractions", "several ones"],
)
def test_arrays_that_are_refused(value, expected):
	with pytest.raises(InputError, match=expected):
		Genome({"chr1": value})


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64, torch.int8, torch.bfloat16], ids=str)
def test_one_hot(dtype):
	hot = one_hot(torch.tensor([[0, 1, 4], [3, 2, 0]], dtype=torch.uint8), dtype)
	assert hot.shape == (2, 4, 3) and hot.dtype == (dtype or torch.float32)
	assert hot[0].int().tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
	assert hot[1].int().tolist() == [[0, 0, 1], [0, 0, 0], [0, 1, 0], [1, 0, 0]]


def test_the_yeast_genome_agrees_with_its_unzipped_text(shared):
	path = shared / "data" / "yeast_atac_sacCer3" / "sacCer3.fa.gz"
	records = gzip.decompress(path.read_bytes()).decode().split(">")[1:]
	genome = Genome(path)
	assert len(genome.chrom_sizes) == len(records) == 17
	for record in records:
		name, _, body = record.partition("\n")
		sequence = body.replace("\n", "").upper().encode()
		codes = np.searchsorted(np.frombuffer(b"ACGT", dtype=np.uint8), np.frombuffer(sequence, dtype=np.uint8))
		assert set(sequence) <= set(b"ACGT")
		assert np.array_equal(genome.codes(name.split()[0]), codes)


def test_a_record_beyond_four_gigabytes(tmp_path):
	"""Offsets of 64 bits, with an index that is given; the file is a sparse one."""
	path, far = tmp_path / "a.fa", 5 << 30
	with open(path, "wb") as file:
		file.write(b">one\nACGTA\nCG\n")
		file.seek(far)
		file.write(b"\n>two\nTTGCA\nAC\n")
	(tmp_path / "a.fa.fai").write_text(f"one\t7\t5\t5\t6\ntwo\t7\t{far + 6}\t5\t6\n")
	genome = Genome(path)
	assert genome.codes("two").tolist() == [3, 3, 2, 1, 0, 0, 1]
	assert genome.read("two", 3, 7).tolist() == [1, 0, 0, 1]
	found = scan(genome, None, {"two": np.array([1, 2])}, in_window=5, out_window=5, workers=1)["two"]
	assert found.gc.tolist() == [2, 3] and found.known.tolist() == [5, 5]


def test_an_index_of_many_records_is_that_of_few(tmp_path):
	"""An assembly's scaffolds: more than a piece of the file holds, with lines of their own width."""
	sizes = {f"scaffold_{i}": 5 + i % 90 for i in range(3_000)}
	lines = [(name, "ACGTN" * 20) for name in sizes]
	text = "".join(f">{name} a description\n{bases[: sizes[name]]}\n" for name, bases in lines)
	(tmp_path / "a.fa").write_text(text)
	with pytest.MonkeyPatch.context() as patch:
		patch.setattr("cherimoya.io.genome._CHUNK", 1_000)
		genome = Genome(tmp_path / "a.fa")
	assert genome.chrom_sizes == sizes
	again = Genome(tmp_path / "a.fa")  # from its index
	for name in ("scaffold_0", "scaffold_1234", "scaffold_2999"):
		assert (
			again.codes(name).tolist()
			== genome.codes(name).tolist()
			== [*range(5)] * (sizes[name] // 5) + [*range(sizes[name] % 5)]
		)


@pytest.mark.parametrize("kind", ["plain", "bgzipped"])
def test_a_record_of_many_pieces(tmp_path, make_fasta, monkeypatch, kind):
	monkeypatch.setattr("cherimoya.io.genome._CHUNK", 7)
	letters = "".join(np.random.default_rng(0).choice(list("ACGTN"), 203))
	path = make_fasta(tmp_path / "a.fa", {"chr1": letters, "chr2": "TT"}, width=60)
	if kind == "bgzipped":
		path.write_bytes(_bgzip(path.read_bytes()))
	genome = Genome(path)
	assert genome.codes("chr1").tolist() == ["ACGTN".index(letter) for letter in letters]
	assert genome.read("chr1", 55, 123).tolist() == genome.codes("chr1", 55, 123).tolist()


def test_what_is_no_base_is_counted_over_all_pieces(tmp_path, make_fasta, monkeypatch):
	monkeypatch.setattr("cherimoya.io.genome._CHUNK", 7)
	path = make_fasta(tmp_path / "a.fa", {"chr1": "A" * 40 + "!" + "C" * 30 + "??" + "G" * 9})
	with pytest.raises(InputError, match=r"'chr1' holds '!' at offset 40, .*\(3 such character"):
		Genome(path).codes("chr1")


def test_a_chromosome_is_in_memory_once(tmp_path, make_fasta, monkeypatch):
	monkeypatch.setattr("cherimoya.io.genome._CHUNK", 1 << 16)
	genome = Genome(make_fasta(tmp_path / "a.fa", {"chr1": "ACGT" * 500_000}))
	tracemalloc.start()
	genome.codes("chr1")
	peak = tracemalloc.get_traced_memory()[1]
	tracemalloc.stop()
	assert peak < 1.3 * 2_000_000
