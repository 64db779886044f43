"""Splits: reading places, finding what they share, proposing a split."""

import itertools
import math

import pytest

from cherimoya.io.loci import overlapping_regions, parse_region
from cherimoya_cli.splits import as_json, parse_places, propose_split, shared_places, split_problems, suits

YEAST = {
	"chrI": 230218,
	"chrII": 813184,
	"chrIII": 316620,
	"chrIV": 1531933,
	"chrV": 576874,
	"chrVI": 270161,
	"chrVII": 1090940,
	"chrVIII": 562643,
	"chrIX": 439888,
	"chrX": 745751,
	"chrXI": 666816,
	"chrXII": 1078177,
	"chrXIII": 924431,
	"chrXIV": 784333,
	"chrXV": 1091291,
	"chrXVI": 948066,
	"chrM": 85779,
}
GENOMES = {
	"yeast": YEAST,
	"four": {"a": 100, "b": 90, "c": 80, "d": 70},
	"contigs": {"1": 1000, "2": 900, "3": 800, "4": 700, "X": 600, "MT": 16, **{f"KI{i}": 3 for i in range(50)}},
	"fly": {"2L": 23, "2R": 25, "3L": 28, "3R": 32, "4": 1, "X": 23, "Y": 3},
	"one": {"chr22": 50_818_468},
	"three": {"a": 300, "b": 200, "c": 100},
	"plasmid": {"chromosome": 4_600_000, "pA": 9000},
	"organelle only": {"chrM": 16569},
}
PLACES = [
	"chr8",
	"chr8:0-10",
	"chr8:10-20",
	"chr8:9-11",
	"chr22:33,000,000-37,000,000",
	"chr22:37000000-",
	"HLA-A*01:01:02",
]


def bases(places, sizes):
	for place in places:
		yield place.chrom, place.start, min(place.end, sizes[place.chrom])


@pytest.mark.parametrize("genome", GENOMES)
def test_a_proposed_split_is_one(genome):
	sizes = GENOMES[genome]
	split = propose_split(sizes)
	parsed = {name: parse_places(places)[0] for name, places in split._asdict().items()}
	assert all(split) and not shared_places(parsed)
	problems, notices = split_problems({key: (value, False) for key, value in split._asdict().items()}, sizes, "g.fa")
	assert not problems and not notices
	total = sum(sizes.values())
	share = {key: sum(end - start for _, start, end in bases(value, sizes)) / total for key, value in parsed.items()}
	assert share["training"] > 0.5
	assert 0.05 < share["validation"] < 0.25 and 0.05 < share["test"] < 0.3


def test_organelles_sex_chromosomes_and_contigs_are_not_held_out():
	split = propose_split(GENOMES["contigs"])
	places = [place for part in split for place in part]
	assert "MT" not in places and not any(place.startswith("KI") for place in places)
	assert "X" in split.training and "1" in split.training


def test_a_proposal_in_the_words_of_the_json():
	assert as_json(propose_split({"a": 100})) == (
		'"training_chroms": ["a:0-75"], "validation_chroms": ["a:75-85"], "test_chroms": ["a:85-100"]'
	)


@pytest.mark.parametrize("text", PLACES)
def test_places_read_as_the_library_reads_them(text):
	(place,), faults = parse_places([text])
	region = parse_region(text)
	assert not faults
	assert (place.chrom, place.start, place.end) == (
		region.chrom,
		region.start,
		math.inf if region.end is None else region.end,
	)


@pytest.mark.parametrize(("a", "b"), list(itertools.product(PLACES, PLACES)))
def test_shared_places_are_those_of_the_library(a, b):
	ours = shared_places({"x": parse_places([a])[0], "y": parse_places([b])[0]})
	assert bool(ours) == bool(overlapping_regions([a], [b]))


@pytest.mark.parametrize("text", ["", " ", "chr8:5-5", "chr8:7-2"])
def test_places_that_cannot_be_read(text):
	places, faults = parse_places([text, "chr1"])
	assert len(faults) == 1 and [place.chrom for place in places] == ["chr1"]


def test_a_split_without_a_chromosome_of_the_genome():
	parts = {
		"training_chroms": (["chr2", "chr4"], True),
		"validation_chroms": (["chrV"], False),
		"test_chroms": (["chr1"], False),
	}
	problems, _ = split_problems(parts, YEAST, "yeast.fa")
	assert len(problems) == 1
	assert (
		"training_chroms (the default, for hg38: chr2, chr4) and test_chroms (chr1) have no chromosome of yeast.fa"
		in problems[0]
	)
	assert (
		"chrI, chrII" in problems[0] and "and 11 more" in problems[0] and as_json(propose_split(YEAST)) in problems[0]
	)


def test_a_split_that_is_partly_there_is_noticed():
	parts = {"training_chroms": (["chrII", "chr9"], False), "test_chroms": (["chrI:500000-600000", "chrV"], False)}
	problems, notices = split_problems(parts, YEAST, "yeast.fa")
	assert not problems
	assert [notice.split(": ")[-1] for notice in notices] == ["chr9", "chrI:500000-600000"]


def test_which_genomes_a_split_suits():
	assert suits([["chr1", "chr2"], ["chr3"]], {"chr2": 1, "chr3": 1})
	assert not suits([["chr1"], ["chr3"]], {"chr2": 1, "chr3": 1})
