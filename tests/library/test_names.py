"""The other names of chromosomes: which are taken for the same, and what is refused."""

import numpy as np
import pytest

from cherimoya.errors import InputError
from cherimoya.io.genome import Genome
from cherimoya.io.loci import read_loci
from cherimoya.io.names import ChromNames, alike
from cherimoya.io.negatives import gc_matched_negatives
from cherimoya.io.tracks import Tracks
from cherimoya.io.windows import extract_windows

SIZES = {"chr1": 600, "chrM": 300}
PLAIN = {"1": 600, "MT": 300}


@pytest.mark.parametrize(
	("aliases", "names"),
	[
		(False, {"1": "1", "chr1": "chr1", "MT": "MT"}),
		(True, {"1": "chr1", "chr1": "chr1", "CHR1": "chr1", "MT": "chrM", "chrMT": "chrM", "Mito": "chrM", "2": "2"}),
		({"1": "chr1"}, {"1": "chr1", "MT": "MT", "CHR1": "CHR1"}),
		({"chr1": "1", "NC_012920.1": "chrM"}, {"1": "chr1", "NC_012920.1": "chrM"}),
	],
	ids=["none", "true", "mapping", "mapping both ways"],
)
def test_names(aliases, names):
	found = ChromNames(SIZES, aliases)
	assert {name: found.resolve(name) for name in names} == names
	assert found.active == any(name != chrom for name, chrom in names.items())


def test_a_table_of_names(tmp_path):
	path = tmp_path / "names.tsv"
	path.write_text("# UCSC\tEnsembl\tRefSeq\nchr1\t1\tNC_000001.11\n\nchr9\t9\nMT\tchrM\n")
	names = ChromNames(SIZES, path)
	assert [names.resolve(n) for n in ("1", "NC_000001.11", "MT", "9")] == ["chr1", "chr1", "chrM", "9"]


@pytest.mark.parametrize(
	("chroms", "aliases", "words"),
	[
		(["1", "chr1"], True, ["'1' and 'chr1'", "g.fa", "as a table"]),
		(["chrM", "chrMT"], True, ["'chrM' and 'chrMT'", "name 'mt'"]),
		(["1", "chr1"], {"1": "chr1"}, ["'1' and 'chr1' are both chromosomes of g.fa"]),
		(["chr1", "chr2"], "x\tchr1\nx\tchr2\n", ["names.tsv", "'chr1' and 'chr2'", "name 'x'"]),
		(["chr1"], "chr1\t1\nchr2\n", ["names.tsv: line 2 has one name ('chr2')"]),
		(["chr1"], {"a": "b"}, ["chrom_aliases: none of its names is a chromosome of g.fa", "a, b and chr1"]),
		(["chr1"], "# nothing\n", ["names.tsv: holds no names"]),
		(["chr1"], b"\xff\xfe\x00", ["names.tsv: is not a text file"]),
		(["chr1"], None, ["names.tsv: no such file (chrom_aliases)"]),
	],
	ids=[
		"both",
		"two mitochondria",
		"mapped both",
		"one name, two",
		"one column",
		"nobody",
		"empty",
		"binary",
		"missing",
	],
)
def test_names_that_are_refused(tmp_path, chroms, aliases, words):
	if not isinstance(aliases, bool | dict):
		path = tmp_path / "names.tsv"
		if aliases is not None:
			path.write_bytes(aliases.encode() if isinstance(aliases, str) else aliases)
		aliases = path
	with pytest.raises(InputError) as caught:
		ChromNames(chroms, aliases, source="g.fa")
	assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
	("ours", "theirs", "expected"),
	[
		(["1", "2"], ["chr1"], True),
		(["MT"], ["chrM"], True),
		(["1", "chr2"], ["chr1", "chr2"], False),
		(["a"], ["b"], False),
	],
	ids=str,
)
def test_alike(ours, theirs, expected):
	assert alike(ours, theirs) is expected


@pytest.fixture(scope="module")
def world(tmp_path_factory, make_bigwig):
	"""The same data under the names of two schemes."""
	folder = tmp_path_factory.mktemp("names")
	rng = np.random.default_rng(5)
	bases = {chrom: "".join(rng.choice(list("ACGT"), size=size)) for chrom, size in SIZES.items()}
	values = {chrom: rng.poisson(1, size=size).astype(np.float32) for chrom, size in SIZES.items()}
	paths = {}
	for scheme, sizes in (("ucsc", SIZES), ("ensembl", PLAIN)):
		renamed = {new: values[old] for old, new in zip(SIZES, sizes, strict=True)}
		paths[scheme] = str(make_bigwig(folder / f"{scheme}.bw", sizes, renamed))
	return bases, paths


def rows(one, mito, *, first=100):
	return {"chrom": [one, one, mito], "start": [first, 300, 100], "end": [first + 20, 320, 140]}


def test_windows_are_the_same_under_other_names(world):
	"""Loci, signals, controls, exclusion lists and chosen regions, all in another scheme than the FASTA."""
	bases, paths = world
	options = {"in_window": 60, "out_window": 40, "max_jitter": 5}
	plain = extract_windows(
		rows("chr1", "chrM"),
		Genome(bases),
		paths["ucsc"],
		paths["ucsc"],
		chroms=["chr1:0-500", "chrM"],
		exclusion_lists={"chrom": ["chr1"], "start": [110], "end": [120]},
		**options,
	)
	renamed = extract_windows(
		rows("1", "MT"),
		Genome(bases, chrom_aliases=True),
		paths["ensembl"],
		Tracks(paths["ensembl"]),
		chroms=["1:0-500", "MT"],
		exclusion_lists={"chrom": ["1"], "start": [110], "end": [120]},
		**options,
	)
	assert plain.accounting == renamed.accounting and plain.accounting.dropped["excluded"] == 1
	assert renamed.loci.chroms.tolist() == ["chr1", "chrM"]
	for name in ("codes", "signals", "controls", "mask"):
		np.testing.assert_array_equal(getattr(plain, name), getattr(renamed, name))


def test_negatives_are_the_same_under_other_names(world):
	bases, paths = world
	options = {"in_window": 40, "out_window": 20, "bin_width": 0.5, "beta": 10}
	plain = gc_matched_negatives(rows("chr1", "chrM"), Genome(bases), signals=paths["ucsc"], **options)
	excluded = {"chrom": ["1"], "start": [0], "end": [200]}
	genome = Genome(bases, chrom_aliases=True)
	renamed = gc_matched_negatives(rows("1", "MT"), genome, signals=paths["ensembl"], chroms=["1", "MT"], **options)
	assert renamed.loci.chroms.tolist() == plain.loci.chroms.tolist()
	np.testing.assert_array_equal(renamed.loci.starts, plain.loci.starts)
	left = gc_matched_negatives(
		rows("1", "MT", first=260), genome, chroms=["1"], exclusion_lists=excluded, n=3, **options
	)
	assert left.removed["excluded"] == 5 and set(left.loci.chroms) == {"chr1"} and left.loci.starts.min() >= 200


def test_without_aliases_the_error_names_the_setting(world):
	bases, paths = world
	with pytest.raises(InputError, match=r"loci say 1, MT and the FASTA says chr1, chrM.*set chrom_aliases to true"):
		extract_windows(rows("1", "MT"), bases, in_window=60, out_window=40)
	with pytest.raises(InputError, match=r"list says 1 and arrays says chr1, chrM.*set chrom_aliases to true"):
		extract_windows(
			rows("chr1", "chrM"),
			bases,
			in_window=60,
			out_window=40,
			exclusion_lists={"chrom": ["1"], "start": [110], "end": [120]},
		)
	with pytest.raises(InputError, match=r"bigWig says 1, MT .*set chrom_aliases to true"):
		extract_windows(rows("chr1", "chrM"), bases, paths["ensembl"], in_window=60, out_window=40)


def test_a_file_with_both_names_is_refused(tmp_path, make_bed, make_bigwig):
	genome = Genome({"chr1": "A" * 100}, chrom_aliases=True)
	path = make_bed(tmp_path / "x.bed", [("1", 5, 9), ("chr1", 5, 9)])
	with pytest.raises(InputError, match=r"x\.bed: has both '1' and 'chr1'"):
		read_loci(path).renamed(genome.names)
	# Each file may have a scheme of its own.
	files = [make_bed(tmp_path / f"{chrom}.bed", [(chrom, 5, 9)]) for chrom in ("1", "chr1")]
	assert set(read_loci(files).renamed(genome.names).chroms) == {"chr1"}
	both = make_bigwig(tmp_path / "x.bw", {"1": 100, "chr1": 100}, {"1": np.ones(9)})
	with pytest.raises(InputError, match=r"x\.bw: has both '1' and 'chr1'"):
		Tracks(both, names=genome.names)
