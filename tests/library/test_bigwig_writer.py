"""The writer of bigWigs, read back by pyBigWig: values, chromosomes, summaries, and zoom levels."""

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cherimoya.errors import InputError
from cherimoya.io import _bigwig_writer, write_bigwig
from cherimoya.io._bigwig_writer import REDUCTIONS, BigWigWriter
from cherimoya.io.tracks import Tracks

pyBigWig = pytest.importorskip("pyBigWig")


def write(path, sizes, lots):
	with BigWigWriter(path, sizes) as file:
		for chrom, start, values in lots:
			file.add(chrom, start, np.asarray(values, dtype=np.float32))
	return str(path)


@st.composite
def tracks(draw):
	"""Sizes of chromosomes, and values in order with gaps between some."""
	sizes = {f"chr{name}": draw(st.integers(1, 400)) for name in draw(st.permutations("AZ9"))}
	lots = []
	for chrom, size in sizes.items():
		at = draw(st.integers(0, size))
		while at < size:
			n = draw(st.integers(1, min(120, size - at)))
			seed = draw(st.integers(0, 99))
			lots.append((chrom, at, np.random.default_rng(seed).normal(size=n).astype(np.float32)))
			at += n + draw(st.sampled_from([0, 0, 1, 70]))
	return sizes, lots


@settings(max_examples=40)
@given(
	made=tracks(),
	per_block=st.sampled_from([3, 50, 8_192]),
	per_node=st.sampled_from([2, 256]),
	at_once=st.sampled_from([1, 5, 4_096]),
)
def test_values_come_back_however_they_are_divided(tmp_path, made, per_block, per_node, at_once):
	sizes, lots = made
	expected = {chrom: np.full(size, np.nan, dtype=np.float32) for chrom, size in sizes.items()}
	for chrom, start, values in lots:
		expected[chrom][start : start + len(values)] = values
	with pytest.MonkeyPatch.context() as patch:
		patch.setattr(_bigwig_writer, "_PER_BLOCK", per_block)
		patch.setattr(_bigwig_writer, "_PER_NODE", per_node)
		patch.setattr(_bigwig_writer, "_ZOOMS_PER_BLOCK", 2)
		patch.setattr(_bigwig_writer, "_BINS_AT_ONCE", at_once)
		path = write(tmp_path / "a.bw", sizes, lots)
		again = [(c, s + i, v[i : i + 7]) for c, s, v in lots for i in range(0, len(v), 7)]
		data = (tmp_path / "a.bw").read_bytes()
		write(tmp_path / "b.bw", sizes, again)
	assert (tmp_path / "b.bw").read_bytes() == data
	with pyBigWig.open(path) as file:
		assert list(file.chroms().items()) == list(sizes.items())
		everything = np.concatenate([v[~np.isnan(v)] for v in expected.values()]).astype(float)
		header = file.header()
		assert header["nBasesCovered"] == len(everything)
		for chrom, size in sizes.items():
			found = file.values(chrom, 0, size, numpy=True)
			found = found if len(found) else np.full(size, np.nan, dtype=np.float32)
			assert np.array_equal(found, expected[chrom], equal_nan=True)
			for exact in (False, True):  # from the zoom levels, and from the values
				known = expected[chrom][~np.isnan(expected[chrom])].astype(float)
				mean, high = (file.stats(chrom, type=kind, exact=exact)[0] for kind in ("mean", "max"))
				if len(known):
					assert mean == pytest.approx(known.mean(), abs=1e-4) and high == pytest.approx(
						known.max(), abs=1e-6
					)
				else:
					assert mean is None
	for chrom, size in sizes.items():  # the quick reader of this package reads them too
		found = Tracks(path, absolute=True).windows([chrom], [0], size)[0, 0]
		assert np.array_equal(found, np.abs(np.nan_to_num(expected[chrom])))


@st.composite
def points(draw):
	"""Sizes of chromosomes, and values in order: some of single bases apart, some side by side, by turns."""
	sizes = {f"chr{name}": draw(st.integers(1, 900)) for name in draw(st.permutations("AZ9"))}
	lots = []
	for chrom, size in sizes.items():
		rng = np.random.default_rng(draw(st.integers(0, 99)))
		where = np.flatnonzero(rng.random(size) < draw(st.sampled_from([0.01, 0.2, 1.0])))
		values = rng.poisson(2, len(where)).astype(np.float32)
		cuts = sorted(draw(st.lists(st.integers(0, len(where)), max_size=3)))
		for first, last in itertools.pairwise([0, *cuts, len(where)]):
			some, kind = where[first:last], draw(st.sampled_from(["points", "both"]))
			lots.append((chrom, some, values[first:last], kind))
	return sizes, lots


@settings(max_examples=20)
@given(made=points(), per_block=st.sampled_from([1, 6, 8_192]))
def test_points_come_back_and_neither_gaps_nor_stretches_between_matter(tmp_path, made, per_block):
	sizes, lots = made
	expected = {chrom: np.full(size, np.nan, dtype=np.float32) for chrom, size in sizes.items()}
	with pytest.MonkeyPatch.context() as patch:
		patch.setattr(_bigwig_writer, "_PER_BLOCK", per_block)
		patch.setattr(_bigwig_writer, "_ZOOMS_PER_BLOCK", 2)
		with BigWigWriter(tmp_path / "a.bw", sizes) as file:
			for chrom, some, values, kind in lots:
				expected[chrom][some] = values
				alone = len(some) if kind == "points" else len(some) // 2
				file.add_points(chrom, some[:alone].astype(np.uint32), values[:alone])
				for position, value in zip(some[alone:].tolist(), values[alone:], strict=True):
					file.add(chrom, position, np.array([value]))
	everything = np.concatenate([v[~np.isnan(v)] for v in expected.values()]).astype(float)
	with pyBigWig.open(str(tmp_path / "a.bw")) as file:
		header = file.header()
		assert header["nBasesCovered"] == len(everything) and header["sumData"] == everything.sum()
		for chrom, size in sizes.items():
			known = [(i, i + 1, float(v)) for i, v in enumerate(expected[chrom]) if not np.isnan(v)]
			assert list(file.intervals(chrom) or ()) == known
			for kind, function in (("mean", np.mean), ("max", np.max), ("coverage", lambda v, n=size: len(v) / n)):
				found = file.stats(chrom, type=kind)[0]
				if known:
					assert found == pytest.approx(function([v for *_, v in known]), abs=1e-5)
	for chrom, size in sizes.items():  # the quick reader of this package reads them too
		found = Tracks(tmp_path / "a.bw").windows([chrom], [0], size)[0, 0]
		assert np.array_equal(found, np.nan_to_num(expected[chrom]))


def test_zoom_levels_hold_what_they_should(tmp_path):
	rng = np.random.default_rng(0)
	size = 150_000
	values = rng.random(size).astype(np.float32)
	path = write(tmp_path / "a.bw", {"chr1": size}, [("chr1", 0, values[:70_000]), ("chr1", 90_000, values[90_000:])])
	covered = np.concatenate([np.ones(70_000), np.zeros(20_000), np.ones(60_000)]).astype(bool)
	with pyBigWig.open(path) as file:
		assert file.header()["nLevels"] == sum(reduction < size for reduction in REDUCTIONS)
		for n_bins in (3, 15, 60, 500):
			edges = np.linspace(0, size, n_bins + 1).astype(int)
			for kind, function in (("mean", np.mean), ("max", np.max), ("min", np.min)):
				found = file.stats("chr1", nBins=n_bins, type=kind)
				for k, (first, last) in enumerate(itertools.pairwise(edges)):
					some = values[first:last][covered[first:last]]
					if len(some) == last - first:  # zoom levels are as exact as their bins
						assert found[k] == pytest.approx(function(some.astype(float)), abs=0.05)


@pytest.mark.parametrize("per_node", [256, 5], ids=["two levels", "five levels"])
def test_many_chromosomes_and_an_order_of_their_own(tmp_path, monkeypatch, per_node):
	"""More than a node of the tree of names holds, in an order that is not that of the names."""
	monkeypatch.setattr(_bigwig_writer, "_PER_NODE", per_node)
	rng = np.random.default_rng(1)
	sizes = {f"scaffold_{i}": int(rng.integers(5, 60)) for i in rng.permutation(1_000)}
	lots = [(chrom, 2, rng.random(size - 2)) for i, (chrom, size) in enumerate(sizes.items()) if i % 3]
	path = write(tmp_path / "a.bw", sizes, lots)
	with pyBigWig.open(path) as file:
		assert list(file.chroms().items()) == list(sizes.items())
		for chrom, start, values in lots:
			found = file.values(chrom, start, sizes[chrom], numpy=True)
			assert np.array_equal(found, np.asarray(values, dtype=np.float32))
			assert file.stats(chrom, type="max")[0] == pytest.approx(np.max(values))  # of the zoom levels
	chrom, start, values = lots[-1]
	found = Tracks(path).windows([chrom], [start], len(values))[0, 0]
	assert np.array_equal(found, np.asarray(values, dtype=np.float32))


@pytest.mark.parametrize("room", [1_000, 60_000, 150_000], ids=["chromosomes", "data", "zoom levels"])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, room):
	"""The limit on the size of files stands for the disk: what is written beyond it fails in the same way."""
	resource = pytest.importorskip("resource")
	path = tmp_path / "a.bw"
	values = np.random.default_rng(0).normal(size=40_000).astype(np.float32)
	limits = resource.getrlimit(resource.RLIMIT_FSIZE)
	with pytest.raises(InputError, match=r"a\.bw: cannot be written \(File too large\); make room"):
		resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
		try:
			write_bigwig(path, {"chr1": 40_000, "chr2": 10}, ["chr1"], [0], values[None])
		finally:
			resource.setrlimit(resource.RLIMIT_FSIZE, limits)
	assert not list(tmp_path.iterdir())


def test_nothing_to_write(tmp_path):
	path = write(tmp_path / "a.bw", {"chr1": 50}, [])
	with pyBigWig.open(path) as file:
		assert file.chroms() == {"chr1": 50} and file.header()["nBasesCovered"] == 0
	assert Tracks(path).windows(["chr1"], [0], 50).sum() == 0


@pytest.mark.parametrize(
	("lots", "place"),
	[
		([("chr1", 0, 3), ("chr2", 0, 1)], "chr2:0-1"),
		([("chr2", 5, 3), ("chr2", 7, 1)], "chr2:7-8"),
		([("chr2", 8, 3)], "chr2:8-11"),
		([("chr2", -1, 3)], "chr2:-1-2"),
	],
	ids=["chromosomes", "bases", "beyond the end", "before the start"],
)
def test_what_is_not_in_order_is_refused(tmp_path, lots, place):
	with pytest.raises(ValueError, match=f"{place} is not after"):
		write(tmp_path / "a.bw", {"chr2": 10, "chr1": 10}, [(chrom, start, np.ones(n)) for chrom, start, n in lots])


@pytest.mark.parametrize(
	("lots", "words"),
	[
		([[5, 5]], "positions on chr2 are not in order"),
		([[1, 4, 3, 5]], "positions on chr2 are not in order"),
		([[1, 4], [4]], "chr2:4-5 is not after"),
		([[8, 10]], "chr2:8-11 is not after"),
	],
	ids=["twice", "back", "before the last", "beyond the end"],
)
def test_points_that_are_not_in_order_are_refused(tmp_path, lots, words):
	with pytest.raises(ValueError, match=words), BigWigWriter(tmp_path / "a.bw", {"chr2": 10}) as file:
		for positions in lots:
			file.add_points("chr2", np.array(positions), np.ones(len(positions)))


def test_memory_does_not_grow_with_what_is_written(tmp_path):
	rng = np.random.default_rng(0)
	peaks = []
	for n in (10, 40):
		tracemalloc.start()
		with BigWigWriter(tmp_path / "a.bw", {"chr1": n * 20_000}) as file:
			for i in range(n):
				file.add("chr1", i * 20_000, rng.random(20_000).astype(np.float32))
		peaks.append(tracemalloc.get_traced_memory()[1])
		tracemalloc.stop()
	assert peaks[1] - peaks[0] < 30 * 20_000  # a byte a base, for lists of blocks; zoom levels in memory take 14


def test_memory_does_not_grow_with_points(tmp_path):
	peaks = []
	for n in (3, 12):
		tracemalloc.start()
		with BigWigWriter(tmp_path / "a.bw", {"chr1": n * 1_000_000}) as file:
			for i in range(n):
				file.add_points("chr1", np.arange(i * 1_000_000, (i + 1) * 1_000_000, 50), np.ones(20_000))
		peaks.append(tracemalloc.get_traced_memory()[1])
		tracemalloc.stop()
	assert peaks[1] - peaks[0] < 4 * 9 * 20_000  # four bytes a value; zoom levels in memory take more than 32
