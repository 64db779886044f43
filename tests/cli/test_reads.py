"""Reads to bigWigs and to MACS3's input, against counts made one read at a time."""

import gzip
import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from cherimoya.errors import InputError, MissingFileError, SettingsError
from cherimoya.io.genome import Genome
from cherimoya_cli import peaks, reads, signals

SIZES = {"chr1": 400, "chr2": 150}
UNKNOWN = "chrUn"


@pytest.fixture(scope="module")
def fasta(tmp_path_factory, make_fasta):
	rng = np.random.default_rng(0)
	return make_fasta(
		tmp_path_factory.mktemp("genome") / "g.fa", {c: "".join(rng.choice(list("ACGT"), n)) for c, n in SIZES.items()}
	)


def random_reads(n=300, seed=1):
	"""(chrom, start, end, strand) with some on a chromosome that the FASTA lacks and some at the edges."""
	rng = np.random.default_rng(seed)
	rows = [("chr1", 0, 1, "+"), ("chr1", 399, 400, "-"), ("chr1", 398, 400, "+"), ("chr2", 0, 2, "-")]
	for _ in range(n):
		chrom = rng.choice(["chr1", "chr1", "chr2", UNKNOWN])
		size = SIZES.get(str(chrom), 100)
		start = int(rng.integers(0, size - 30))
		rows.append((str(chrom), start, start + int(rng.integers(1, 31)), str(rng.choice(["+", "-"]))))
	return rows


def random_pairs(n=200, seed=2):
	"""Fragments (chrom, start, end) and the lengths of their two mates."""
	rng = np.random.default_rng(seed)
	rows = []
	for _ in range(n):
		chrom = str(rng.choice(["chr1", "chr1", "chr2", UNKNOWN]))
		start = int(rng.integers(0, SIZES.get(chrom, 100) - 80))
		length = int(rng.integers(20, 80))
		rows.append((chrom, start, start + length, int(rng.integers(5, length)), int(rng.integers(5, length))))
	return rows


def expected(ends, pos_shift, neg_shift, stranded):
	"""Counts of (chrom, position, strand), a read at a time: the definition."""
	total = Counter()
	for chrom, position, strand in ends:
		position += pos_shift if strand == "+" else neg_shift
		if chrom in SIZES and 0 <= position < SIZES[chrom]:
			total[chrom, position, strand if stranded else "."] += 1
	return total


def ends_of_reads(rows):
	return [(c, s, "+") if strand == "+" else (c, e - 1, "-") for c, s, e, strand in rows]


def ends_of_fragments(rows):
	return [end for c, s, e, *_ in rows for end in ((c, s, "+"), (c, e - 1, "-"))]


def from_bigwigs(paths):
	"""Every value that is not 0, as counts of (chrom, position, strand)."""
	import pyBigWig

	total = {}
	for path, strand in zip(paths, "." if len(paths) == 1 else "+-", strict=True):
		with pyBigWig.open(path) as handle:
			assert list(handle.chroms().items()) == list(SIZES.items())
			for chrom, size in SIZES.items():
				values = np.nan_to_num(handle.values(chrom, 0, size, numpy=True))
				total |= {(chrom, int(p), strand): values[p] for p in np.flatnonzero(values)}
	return total


def write_lines(path, rows):
	text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
	path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
	return path


def write_alignments(path, records, fasta):
	"""SAM, BAM or CRAM of records (chrom, start, cigar, flag, template length)."""
	pysam = pytest.importorskip("pysam")
	names = [*SIZES, UNKNOWN]
	header = {"HD": {"VN": "1.6"}, "SQ": [{"SN": c, "LN": SIZES.get(c, 100)} for c in names]}
	mode = {".sam": "w", ".bam": "wb", ".cram": "wc"}[path.suffix]
	with pysam.AlignmentFile(str(path), mode, header=header, reference_filename=str(fasta)) as handle:
		for i, (chrom, start, cigar, flag, template) in enumerate(records):
			read = pysam.AlignedSegment(handle.header)
			read.query_name, read.flag, read.cigarstring = f"r{i}", flag, cigar
			read.reference_id, read.reference_start = names.index(chrom), start
			read.query_sequence = "A" * read.infer_query_length()
			read.template_length, read.mapping_quality = template, 30
			if flag & 0x1:
				read.next_reference_id, read.next_reference_start = read.reference_id, start
			handle.write(read)
	return path


def reads_file(kind, folder, fasta, rows):
	if kind in ("bam", "sam", "cram"):
		known = [row for row in rows if kind != "cram" or row[0] != UNKNOWN]  # CRAM needs each reference's bases
		records = [(c, s, f"{e - s}M", 0x10 if strand == "-" else 0, 0) for c, s, e, strand in known]
		return write_alignments(folder / f"r.{kind}", records, fasta)
	return write_lines(folder / f"r.{kind}", [(c, s, e, ".", 0, strand) for c, s, e, strand in rows])


def pairs_file(kind, folder, fasta, rows):
	if kind == "bam":
		records = []
		for c, s, e, left, right in rows:
			records += [(c, s, f"{left}M", 0x63, e - s), (c, e - right, f"{right}M", 0x93, s - e)]
		return write_alignments(folder / "p.bam", records, fasta)
	if kind == "bedpe10":
		lines = [(c, s, s + a, c, e - b, e, "n", 0, "+", "-") for c, s, e, a, b in rows]
		return write_lines(folder / "p.bedpe", lines)
	if kind == "bedpe6":
		return write_lines(folder / "p.bedpe.gz", [(c, e - b, e, c, s, s + a) for c, s, e, a, b in rows])
	if kind == "fragments":
		return write_lines(folder / "p.tsv.gz", [(c, s, e, "ACGT-1", 7) for c, s, e, *_ in rows])
	return write_lines(folder / "p.bed", [(c, s, e) for c, s, e, *_ in rows])


def convert(folder, fasta, files, **options):
	values = {
		"name": str(folder / "x"),
		"sequences": str(fasta),
		"chrom_aliases": False,
		"signals": [str(f) for f in files],
		"controls": None,
		"unstranded": False,
		"fragments": False,
		"pos_shift": 0,
		"neg_shift": 0,
		"scale_factor": 1.0,
		"read_depth": False,
		"n_jobs": 1,
		"verbose": True,
	}
	return signals.make_signals({**values, **options})


@pytest.mark.parametrize("shifts", [(0, 0), (4, -4), (-3, 5), (500, 0)], ids=str)
@pytest.mark.parametrize("stranded", [True, False], ids=["stranded", "unstranded"])
@pytest.mark.parametrize("kind", ["bed", "bed.gz", "bam", "sam", "cram"])
def test_reads_count_at_their_5_prime_end(tmp_path, fasta, kind, stranded, shifts):
	rows = random_reads()
	path = reads_file(kind, tmp_path, fasta, rows)
	record = convert(
		tmp_path, fasta, [path], unstranded=not stranded, pos_shift=shifts[0], neg_shift=shifts[1], n_jobs=2
	)
	want = expected(ends_of_reads(rows), *shifts, stranded)
	assert from_bigwigs(record["signals"][0]["outputs"]) == want
	account = record["signals"][0]["files"][0]
	known = sum(row[0] in SIZES for row in rows)
	assert account["used"] == known
	assert account["dropped"]["chromosome not in FASTA"] == (0 if kind == "cram" else len(rows) - known)
	assert account["beyond"] == known - sum(want.values())


@pytest.mark.parametrize("shifts", [(0, 0), (4, -4)], ids=str)
@pytest.mark.parametrize("stranded", [True, False], ids=["stranded", "unstranded"])
@pytest.mark.parametrize("kind", ["bam", "bedpe10", "bedpe6", "fragments", "bed3"])
def test_fragments_count_at_both_ends(tmp_path, fasta, kind, stranded, shifts):
	rows = random_pairs()
	path = pairs_file(kind, tmp_path, fasta, rows)
	record = convert(
		tmp_path, fasta, [path], fragments=True, unstranded=not stranded, pos_shift=shifts[0], neg_shift=shifts[1]
	)
	assert from_bigwigs(record["signals"][0]["outputs"]) == expected(ends_of_fragments(rows), *shifts, stranded)
	account = record["signals"][0]["files"][0]
	assert (account["unit"], account["given"]) == ("fragments", len(rows))


@pytest.mark.parametrize("kind", ["bam", "bedpe10"])
def test_pairs_read_by_read_count_each_mate(tmp_path, fasta, kind):
	rows = random_pairs()
	record = convert(tmp_path, fasta, [pairs_file(kind, tmp_path, fasta, rows)])
	assert from_bigwigs(record["signals"][0]["outputs"]) == expected(ends_of_fragments(rows), 0, 0, True)
	assert record["signals"][0]["files"][0]["given"] == 2 * len(rows)


def test_tn5_cut_of_one_fragment(tmp_path, fasta):
	"""Half-open fragment 100-160 of raw ATAC-seq: cuts at 104 and at 155 (end - 5)."""
	path = write_lines(tmp_path / "f.bed", [("chr1", 100, 160)])
	record = convert(tmp_path, fasta, [path], fragments=True, unstranded=True, pos_shift=4, neg_shift=-4)
	assert from_bigwigs(record["signals"][0]["outputs"]) == {("chr1", 104, "."): 1, ("chr1", 155, "."): 1}


ALIGNMENTS = {
	"clips and a deletion": ("5S10M3D5M", 0, (50, "+"), None),
	"reverse, a deletion and a clip": ("10M3D5M4S", 0x10, (67, "-"), None),
	"a skipped intron": ("10M20N10M", 0x10, (89, "-"), None),
	"marked duplicate": ("10M", 0x400, (50, "+"), None),
	"unmapped": ("10M", 0x4, None, "unmapped"),
	"secondary": ("10M", 0x100, None, "secondary or supplementary"),
	"supplementary": ("10M", 0x800, None, "secondary or supplementary"),
	"failed checks": ("10M", 0x200, None, "failed quality checks"),
}


@pytest.mark.parametrize("case", ALIGNMENTS)
def test_flags_and_cigars(tmp_path, fasta, case):
	cigar, flag, end, reason = ALIGNMENTS[case]
	path = write_alignments(tmp_path / "r.bam", [("chr1", 50, cigar, flag, 0), ("chr2", 3, "4M", 0, 0)], fasta)
	record = convert(tmp_path, fasta, [path])
	want = {("chr2", 3, "+"): 1} | ({("chr1", *end): 1} if end else {})
	assert from_bigwigs(record["signals"][0]["outputs"]) == want
	account = record["signals"][0]["files"][0]
	assert {r: n for r, n in account["dropped"].items() if n} == ({reason: 1} if reason else {})
	assert account["marked_duplicates"] == bool(flag & 0x400)


def test_only_proper_pairs_are_fragments(tmp_path, fasta):
	records = [
		("chr1", 10, "10M", 0x63, 50),
		("chr1", 50, "10M", 0x93, -50),
		("chr1", 70, "10M", 0x41, 0),  # paired, not proper
		("chr1", 80, "10M", 0x0, 0),  # single
		("chr1", 90, "10M", 0x163, 40),  # a secondary alignment of a pair
	]
	path = write_alignments(tmp_path / "p.bam", records, fasta)
	record = convert(tmp_path, fasta, [path], fragments=True)
	assert from_bigwigs(record["signals"][0]["outputs"]) == {("chr1", 10, "+"): 1, ("chr1", 59, "-"): 1}
	dropped = record["signals"][0]["files"][0]["dropped"]
	assert (dropped["not a proper pair"], dropped["secondary or supplementary"]) == (2, 1)


def test_replicates_are_pooled_and_nested_lists_are_experiments(tmp_path, fasta):
	one = write_lines(tmp_path / "a.bed", [("chr1", 5, 9, ".", 0, "+")])
	two = write_lines(tmp_path / "b.bed", [("chr1", 5, 9, ".", 0, "+"), ("chr2", 5, 9, ".", 0, "-")])
	pooled = convert(tmp_path, fasta, [one, two], n_jobs=None)
	assert from_bigwigs(pooled["signals"][0]["outputs"]) == {("chr1", 5, "+"): 2, ("chr2", 8, "-"): 1}
	apart = convert(tmp_path, fasta, [], signals=[[str(one)], str(two)], controls=[str(one)], unstranded=True)
	assert [group["outputs"] for group in apart["signals"]] == [[f"{tmp_path}/x.0.bw"], [f"{tmp_path}/x.1.bw"]]
	assert apart["controls"][0]["outputs"] == [f"{tmp_path}/x.control.bw"]
	assert from_bigwigs(apart["signals"][1]["outputs"]) == {("chr1", 5, "."): 1, ("chr2", 8, "."): 1}


@pytest.mark.parametrize(("options", "value"), [({"scale_factor": 0.5}, 0.5), ({"read_depth": True}, 0.25)])
def test_scale(tmp_path, fasta, options, value):
	path = write_lines(tmp_path / "f.bed", [("chr1", 10, 20), ("chr1", 30, 40)])
	record = convert(tmp_path, fasta, [path], fragments=True, unstranded=True, **options)
	assert set(from_bigwigs(record["signals"][0]["outputs"]).values()) == {value}


def test_a_bigwig_of_many_parts_holds_every_count(tmp_path, monkeypatch):
	"""Values and sums of zoom levels, as pyBigWig reads them; an unknown chromosome of the counts is passed over."""
	import pyBigWig

	monkeypatch.setattr(signals, "ENTRIES_AT_ONCE", 1_000)
	rng = np.random.default_rng(2)
	sizes, counts = {"chrB": 400_000, "chrEmpty": 7, "chrA": 90_000}, {}
	for chrom in ("chrA", "chrB", "chrOther"):
		positions = np.unique((rng.random(9_500) ** 2 * sizes.get(chrom, 50)).astype(np.uint32))
		counts[chrom] = positions, rng.poisson(3, len(positions)) + 1
	signals.write_signal(tmp_path / "x.bw", sizes, counts, scale=0.3)
	assert [path.name for path in tmp_path.iterdir()] == ["x.bw"]
	with pyBigWig.open(str(tmp_path / "x.bw")) as handle:
		assert list(handle.chroms().items()) == list(sizes.items())
		for chrom in sizes:
			positions, values = counts.get(chrom, (np.empty(0), np.empty(0)))
			scaled = (values * 0.3).astype(np.float32).astype(float)
			expected = [(p, p + 1, v) for p, v in zip(positions.tolist(), scaled.tolist(), strict=True)]
			assert list(handle.intervals(chrom) or ()) == expected
			mean = handle.stats(chrom, type="mean")[0]
			assert mean == (pytest.approx(scaled.mean(), rel=1e-6) if len(scaled) else None)


def test_nothing_is_left_of_a_bigwig_that_cannot_be_written(tmp_path):
	(tmp_path / "x.bw").write_bytes(b"before")
	wrong = {"chr1": (np.array([3, 50], dtype=np.uint32), np.array([1, 1]))}
	with pytest.raises(ValueError, match="leaves the chromosome"):
		signals.write_signal(tmp_path / "x.bw", {"chr1": 50}, wrong)
	assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


def test_one_core_reads_files_in_turn(tmp_path, fasta, monkeypatch):
	paths = [write_lines(tmp_path / f"{name}.bed", [("chr1", 5, 9, ".", 0, "+")]) for name in "ab"]
	monkeypatch.setattr("cherimoya.io._workers.n_cores", lambda: 1)
	monkeypatch.setattr(signals, "ProcessPoolExecutor", None)  # a call of it fails
	assert convert(tmp_path, fasta, paths, n_jobs=8)["signals"][0]["ends_counted"] == 2


def test_chunks_do_not_change_counts(tmp_path, fasta, monkeypatch, capsys):
	rows = random_reads(50)
	path = reads_file("bed", tmp_path, fasta, rows)
	monkeypatch.setattr(reads, "CHUNK_ROWS", 7)
	monkeypatch.setattr(reads, "PROGRESS_READS", 20)
	record = convert(tmp_path, fasta, [path], unstranded=True)
	assert "reads so far" in capsys.readouterr().out
	assert from_bigwigs(record["signals"][0]["outputs"]) == expected(ends_of_reads(rows), 0, 0, False)


@pytest.mark.parametrize(
	("lines", "layout"),
	[
		([("chr1", 1, 5)], "bed"),
		([("chr1", 1, 5, "name", 7)], "fragments"),
		([("chr1", 1, 5, "name", "x")], "bed"),
		([("chr1", 1, 5, "n", 0, "-")], "bed_stranded"),
		([("chr1", 1, 5, "n", 0, ".")], "bed"),
		([("chr1", 1, 5, "chr1", 9, 12)], "bedpe"),
		([(".", -1, -1, "chr1", 9, 12, "n", 0, "+", "-")], "bedpe_stranded"),
		([("# header",), ("track name=x",), ("chr1", 1, 5, "n", 0, "+")], "bed_stranded"),
	],
)
def test_layouts(tmp_path, lines, layout):
	assert reads.detect_layout(str(write_lines(tmp_path / "x.bed", lines))) == layout


@pytest.mark.parametrize(
	("signals_", "groups"),
	[
		("a.bam", [["a.bam"]]),
		(["a.bam", "b.bam"], [["a.bam", "b.bam"]]),
		([["a.bam", "b.bam"], "c.bam"], [["a.bam", "b.bam"], ["c.bam"]]),
		(None, []),
	],
	ids=str,
)
def test_read_groups(signals_, groups):
	assert reads.read_groups(signals_) == groups


def bad_file(tmp_path, case):
	path = tmp_path / "bad.bed"
	if case == "truncated gzip":
		path = tmp_path / "bad.bed.gz"
		path.write_bytes(gzip.compress(b"chr1\t1\t5\t.\t0\t+\n" * 5000)[:-40])
	elif case == "truncated BAM":
		path = tmp_path / "bad.bam"
		path.write_bytes(b"BAM\1 not really")
	elif case == "binary":
		path.write_bytes(b"\xff\xfe\x00\x81")
	elif case != "missing":
		text = {
			"empty": "# nothing\n",
			"words": "hello world again\n",
			"late strand": "chr1\t1\t5\t.\t0\t+\nchr1\t1\t5\t.\t0\t.\n",
			"start after end": "chr1\t1\t5\t.\t0\t+\nchr1\t9\t9\t.\t0\t+\n",
			"no number": "chr1\t1\t5\t.\t0\t+\nchr1\tx\t9\t.\t0\t+\n",
			"short line": "chr1\t1\t5\t.\t0\t+\nchr1\t1\n",
			"no strand": "chr1\t1\t5\n",
			"other names": "1\t1\t5\t.\t0\t+\n",
			"all beyond": "chr1\t500\t505\t.\t0\t+\n",
		}[case]
		path.write_text(text)
	return path


@pytest.mark.parametrize(
	("case", "error", "words"),
	[
		("missing", MissingFileError, ["does not exist"]),
		("empty", InputError, ["no reads", "at least one line"]),
		("words", InputError, ["line 1", "BED"]),
		("late strand", InputError, ["line 2", "strand '.'", "+ or -"]),
		("start after end", InputError, ["line 2", "9-9", "fix or remove"]),
		("no number", InputError, ["line 2", "'x'", "whole numbers"]),
		("short line", InputError, ["line 2", "2 columns", "fix or remove"]),
		("no strand", SettingsError, ["fragments to true", "six columns"]),
		("other names", InputError, ["reads name 1", "FASTA names chr1, chr2", "rename"]),
		("all beyond", InputError, ["no read can be counted", "off the chromosome"]),
		("truncated gzip", InputError, ["truncated or damaged"]),
		("truncated BAM", InputError, ["cannot be read as alignments"]),
		("binary", InputError, ["not a text file"]),
	],
)
def test_bad_reads(tmp_path, fasta, case, error, words):
	path = bad_file(tmp_path, case)
	with pytest.raises(error) as caught:
		convert(tmp_path, fasta, [path])
	assert path.name in str(caught.value)
	assert [word for word in words if word not in str(caught.value)] == []
	assert list(tmp_path.glob("x*")) == []


def test_single_reads_are_no_fragments(tmp_path, fasta):
	path = write_alignments(tmp_path / "r.bam", [("chr1", 50, "10M", 0, 0)], fasta)
	with pytest.raises(SettingsError, match=r"proper pair; set fragments to false"):
		convert(tmp_path, fasta, [path], fragments=True)


# Peaks.


@pytest.mark.parametrize(
	("options", "unit"),
	[
		({"unstranded": True, "fragments": True, "pos_shift": 4, "neg_shift": -4}, "cuts"),
		({"unstranded": True, "pos_shift": 4}, "cuts"),
		({"pos_shift": 4}, "reads"),
		({"fragments": True}, "fragments"),
		({"paired_end": True}, "fragments"),
		({}, "reads"),
	],
	ids=str,
)
def test_unit_of_pile_up(options, unit):
	values = {"unstranded": False, "fragments": False, "paired_end": False, "pos_shift": 0, "neg_shift": 0, **options}
	assert peaks.choose_unit("auto", **values) == unit
	assert peaks.choose_unit("reads", **values) == "reads"


@pytest.mark.parametrize(
	("unit", "layouts", "given", "call"),
	[
		("reads", ["bam", "bam"], None, ("BAM", False)),
		("reads", ["bed_stranded"], None, ("BED", False)),
		("reads", ["bam", "bed_stranded"], None, ("BED", True)),
		("reads", ["cram"], None, ("BED", True)),
		("reads", ["bedpe_stranded"], None, ("BED", True)),
		("fragments", ["bam"], None, ("BAMPE", False)),
		("fragments", ["bed", "bed_stranded"], None, ("BEDPE", False)),
		("fragments", ["fragments"], None, ("FRAG", False)),
		("fragments", ["fragments", "bed"], None, ("BEDPE", True)),
		("fragments", ["bedpe"], None, ("BEDPE", True)),
		("cuts", ["bam"], None, ("BED", True)),
		("fragments", ["bed"], "BED", ("BED", False)),
	],
	ids=str,
)
def test_macs_format(unit, layouts, given, call):
	assert peaks.choose_call(unit, layouts, given_format=given)[:2] == call


@pytest.fixture(scope="module")
def enriched(tmp_path_factory, make_fasta):
	"""A FASTA of 60 kb and fragments, many of them around five places, so that MACS3 has something to find."""
	folder = tmp_path_factory.mktemp("enriched")
	rng = np.random.default_rng(5)
	fasta = make_fasta(folder / "g.fa", {"chrB": "".join(rng.choice(list("ACGT"), 60_000)), "chrA": "ACGTN" * 400})
	centres = [9_000, 20_000, 31_000, 42_000, 53_000]
	mids = np.concatenate([rng.normal(c, 60, 250) for c in centres] + [rng.uniform(500, 59_500, 900)]).astype(int)
	mids.sort()
	lengths = rng.integers(80, 160, len(mids))
	rows = [("chrB", int(m - n // 2), int(m - n // 2 + n)) for m, n in zip(mids, lengths, strict=True)]
	control = [("chrB", int(s), int(s) + 120) for s in np.sort(rng.integers(0, 59_000, 800))]
	return folder, fasta, rows, control, centres


PEAK_CASES = {
	"fragments, cuts": ("bed3", {"fragments": True, "unstranded": True, "pos_shift": 4, "neg_shift": -4}),
	"fragments, whole": ("bed3", {"fragments": True}),
	"fragments with barcodes": ("fragments", {"fragments": True}),
	"both mates": ("bedpe10", {"fragments": True, "callpeaks_unit": "fragments"}),
	"single reads, own arguments": ("bed6", {"callpeaks_arguments": ["--nomodel", "--extsize", "120"]}),
}


def test_the_genome_size_is_counted_in_pieces(tmp_path, make_fasta, monkeypatch):
	monkeypatch.setattr(peaks, "_PIECE", 7)
	genome = Genome(make_fasta(tmp_path / "a.fa", {"chr1": "ACGTN" * 9 + "NNacgt", "chr2": "NN", "chr3": "GATTACA"}))
	assert peaks.known_bases(genome) == 36 + 4 + 7


@pytest.mark.parametrize("summits", [False, True], ids=["peaks", "summits"])
@pytest.mark.parametrize("case", PEAK_CASES)
def test_peaks(enriched, tmp_path, case, summits, capfd):
	pytest.importorskip("MACS3")
	_, fasta, rows, control, centres = enriched
	kind, options = PEAK_CASES[case]
	paths = []
	for name, fragments in (("t", rows), ("c", control)):
		lines = {
			"bed3": fragments,
			"fragments": [(c, s, e, f"B{i}", 2) for i, (c, s, e) in enumerate(fragments)],
			"bedpe10": [(c, s, s + 40, c, e - 40, e, "n", 0, "+", "-") for c, s, e in fragments],
			"bed6": [
				row for c, s, e in fragments for row in ((c, s, s + 40, ".", 0, "+"), (c, e - 40, e, ".", 0, "-"))
			],
		}[kind]
		paths.append(str(write_lines(tmp_path / f"{name}.bed.gz", lines)))
	given = {"name": str(tmp_path / "x"), "sequences": str(fasta), "signals": paths[:1], "controls": paths[1:]}
	given |= {"summits": summits, **options}
	(tmp_path / "x.peaks.json").write_text(json.dumps(given))
	command = [sys.executable, "-m", "cherimoya_cli.peaks", "-p", str(tmp_path / "x.peaks.json")]
	run = subprocess.run(command, capture_output=True, text=True)
	assert run.returncode == 0, run.stderr
	assert "--call-summits" in run.stdout if summits else "--call-summits" not in run.stdout
	assert "-g 61600" in run.stdout  # the bases of the FASTA that are known
	assert run.stderr == ""
	table = [line.split("\t") for line in (tmp_path / "x_peaks.narrowPeak").read_text().splitlines()]
	found = [int(row[1]) + int(row[9]) for row in table]
	assert all(min(abs(f - c) for f in found) < 150 for c in centres)
	assert [int(row[1]) for row in table] == sorted(int(row[1]) for row in table)
	assert not (tmp_path / "x.peaks.tmp").exists()


def test_a_genome_size_that_is_another_genomes_is_noted(enriched, tmp_path):
	pytest.importorskip("MACS3")
	_, fasta, rows, _, _ = enriched
	path = write_lines(tmp_path / "t.bed", rows)
	given = {"name": str(tmp_path / "x"), "sequences": str(fasta), "signals": [str(path)], "fragments": True}
	(tmp_path / "x.peaks.json").write_text(json.dumps({**given, "callpeaks_gsize": "hs"}))
	command = [sys.executable, "-m", "cherimoya_cli.peaks", "-p", str(tmp_path / "x.peaks.json")]
	run = subprocess.run(command, capture_output=True, text=True)
	assert run.returncode == 0
	assert "note: callpeaks_gsize is hs" in run.stderr and "62,000 bp" in run.stderr


@pytest.mark.parametrize(
	("options", "code", "words"),
	[
		({"callpeaks_gsize": 1e12, "callpeaks_q": 1e-300}, 3, ["found no peak", "callpeaks_gsize", "callpeaks_q"]),
		({"callpeaks_arguments": ["--no-such-flag"]}, 4, ["macs3 callpeak failed", "no-such-flag"]),
		({"callpeaks_format": "BAM"}, 4, ["macs3 callpeak failed", "t.bed"]),
	],
	ids=["no peaks", "unknown flag", "wrong format"],
)
def test_peaks_that_fail(enriched, tmp_path, options, code, words):
	pytest.importorskip("MACS3")
	_, fasta, rows, _, _ = enriched
	path = write_lines(tmp_path / "t.bed", rows)
	given = {"name": str(tmp_path / "x"), "sequences": str(fasta), "signals": [str(path)], "fragments": True, **options}
	(tmp_path / "x.peaks.json").write_text(json.dumps(given))
	command = [sys.executable, "-m", "cherimoya_cli.peaks", "-p", str(tmp_path / "x.peaks.json")]
	run = subprocess.run(command, capture_output=True, text=True)
	assert run.returncode == code, run.stderr
	assert [word for word in words if word not in run.stderr] == []
	assert "cherimoya_cli/" not in run.stderr  # no traceback of ours
	assert sorted(p.name for p in tmp_path.iterdir()) == ["t.bed", "x.peaks.json"]


def test_bigwig_of_real_bam_equals_a_plain_count(shared, tmp_path):
	"""Real paired 50-bp reads: every 5' end, shifted, counted one by one."""
	pysam = pytest.importorskip("pysam")
	import pyBigWig

	data = shared / "data" / "yeast_atac_tiny"
	total = Counter()
	with pysam.AlignmentFile(str(data / "tiny_real.bam")) as handle:
		for read in handle.fetch(until_eof=True):
			if not read.flag & (0x4 | 0x100 | 0x200 | 0x800):
				position = read.reference_end - 5 if read.is_reverse else read.reference_start + 4
				total[read.reference_name, position] += 1
	record = convert(
		tmp_path, data / "tiny.fa.gz", [data / "tiny_real.bam"], unstranded=True, pos_shift=4, neg_shift=-4
	)
	with pyBigWig.open(record["signals"][0]["outputs"][0]) as handle:
		found = {(c, p): v for c in handle.chroms() for p, _, v in handle.intervals(c) or ()}
	assert found == {key: n for key, n in total.items() if key[1] >= 0}
