"""bigWig files in groups: windows, what is refused, and writing."""

import itertools
import pickle
import shutil

import numpy as np
import pytest

from cherimoya.errors import InputError, MissingFileError
from cherimoya.io.tracks import Tracks, group_totals, parse_groups, write_bigwig

pyBigWig = pytest.importorskip("pyBigWig")

SIZES = {"chr1": 3000, "chr2": 1000}


@pytest.mark.parametrize(
	"signals, paths, groups",
	[
		("a.bw", ["a.bw"], (1,)),
		(["a.bw", "b.bw"], ["a.bw", "b.bw"], (1, 1)),
		(["a.bw", ["b.+.bw", "b.-.bw"]], ["a.bw", "b.+.bw", "b.-.bw"], (1, 2)),
		([["a", "b"], "c", ["d", "e", "f"]], ["a", "b", "c", "d", "e", "f"], (2, 1, 3)),
	],
)
def test_groups(signals, paths, groups):
	assert parse_groups(signals) == (paths, groups)


@pytest.mark.parametrize("signals", [[], [[]], [["a.bw", ["b.bw"]]], [["a.bw", 3]]], ids=str)
def test_groups_that_are_refused(signals):
	with pytest.raises(InputError, match="signals"):
		parse_groups(signals)


@pytest.fixture
def values():
	rng = np.random.default_rng(1)
	return {chrom: rng.poisson(0.3, size=size).astype(np.float32) for chrom, size in SIZES.items()}


@pytest.fixture
def bigwig(tmp_path, make_bigwig, values):
	return make_bigwig(tmp_path / "a.bw", SIZES, values)


def test_windows_are_the_values_with_gaps_as_zero(tmp_path, make_bigwig, values, bigwig):
	other = {"chr1": np.zeros(3000), "chr2": values["chr2"] * 2.5}
	tracks = Tracks([str(bigwig), str(make_bigwig(tmp_path / "b.bw", SIZES, other))])
	chroms, starts = ["chr2", "chr1", "chr1", "chr2"], [0, 2900, 0, 7]
	windows = tracks.windows(chroms, starts, 100)
	assert windows.dtype == np.float32 and windows.shape == (4, 2, 100)
	for i, (chrom, start) in enumerate(zip(chroms, starts, strict=True)):
		assert np.array_equal(windows[i, 0], values[chrom][start : start + 100])
		assert np.array_equal(windows[i, 1], other[chrom][start : start + 100].astype(np.float32))
	assert tracks.chrom_sizes == SIZES
	assert tracks.windows([], [], 100).shape == (0, 2, 100)


def test_sums_are_those_of_the_windows_per_group(bigwig, monkeypatch):
	tracks = Tracks([str(bigwig), [str(bigwig), str(bigwig)]])
	chroms, starts = np.array(["chr1"] * 30, dtype=object), np.arange(30) * 90
	slow = tracks.windows(chroms, starts, 90).sum(axis=-1, dtype=np.float64)
	assert np.array_equal(tracks.sums(chroms, starts, 90), np.stack([slow[:, 0], slow[:, 1] + slow[:, 2]], axis=1))


@pytest.mark.parametrize("groups", [(1, 2, 1), (4,), (1, 1, 1, 1), (3, 1)], ids=str)
def test_group_totals(groups):
	values = np.random.default_rng(0).random((5, 4, 7), dtype=np.float32)
	first = np.cumsum([0, *groups])
	expected = [values[:, a:b].astype(np.float64).sum(axis=(1, 2)) for a, b in itertools.pairwise(first)]
	assert np.allclose(group_totals(values, groups), np.stack(expected, axis=1), rtol=1e-12)


def test_a_file_without_any_value_reads_as_zero(tmp_path, make_bigwig):
	tracks = Tracks(make_bigwig(tmp_path / "e.bw", SIZES, {}))
	assert not tracks.windows(["chr1"], [5], 10).any()


def test_negative_values_are_an_error_unless_asked_for(tmp_path, make_bigwig, values):
	values["chr2"][700] = -3
	path = make_bigwig(tmp_path / "a.bw", SIZES, values)
	with pytest.raises(InputError) as caught:
		Tracks(path).windows(["chr1", "chr2"], [0, 650], 100)
	for text in (str(path), "negative value -3", "chr2:700", "absolute_signals"):
		assert text in str(caught.value)
	assert Tracks(path, absolute=True).windows(["chr2"], [700], 1).item() == 3
	assert Tracks(Tracks(path), absolute=True).windows(["chr2"], [700], 1).item() == 3


def test_infinite_values_are_an_error(tmp_path, make_bigwig, values):
	values["chr2"][700] = np.inf
	with pytest.raises(InputError, match="infinite value"):
		Tracks(make_bigwig(tmp_path / "a.bw", SIZES, values)).windows(["chr2"], [650], 100)


@pytest.mark.parametrize("chrom, start", [("chr1", -1), ("chr1", 2901), ("chr9", 0)])
def test_windows_outside_are_an_error(bigwig, chrom, start):
	with pytest.raises(InputError, match=f"cannot read {chrom}:{start}"):
		Tracks(bigwig).windows([chrom], [start], 100)


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9])
def test_a_truncated_file_is_refused(tmp_path, bigwig, fraction):
	data = bigwig.read_bytes()
	cut = tmp_path / "cut.bw"
	cut.write_bytes(data[: int(len(data) * fraction)])
	with pytest.raises(InputError, match=r"cut\.bw: .*truncated|cut\.bw: is not a bigWig"):
		Tracks(cut).windows(["chr1"], [0], 3000)


def test_a_file_cut_anywhere_is_refused_or_reads_right(tmp_path, bigwig, values):
	data = bigwig.read_bytes()
	refused = 0
	for size in range(0, len(data), 173):
		cut = tmp_path / "cut.bw"
		cut.write_bytes(data[:size])
		try:
			assert np.array_equal(Tracks(cut).windows(["chr1"], [0], 3000)[0, 0], values["chr1"])
		except InputError:
			refused += 1
	assert refused > 0.9 * len(data) / 173


@pytest.mark.parametrize(
	"content, expected",
	[
		(b"", "not a bigWig"),
		(b"chr1\t0\t10\t3.5\n" * 20, "not a bigWig"),
		(0x8789F2EB.to_bytes(4, "little") + bytes(100), "bigBed"),
		(0x888FFC26.to_bytes(4, "little") + bytes(20), "truncated"),
	],
	ids=["empty", "bedGraph", "bigBed", "header only"],
)
def test_files_that_are_no_bigwig(tmp_path, content, expected):
	path = tmp_path / "a.bw"
	path.write_bytes(content)
	with pytest.raises(InputError, match=expected):
		Tracks(path)


def test_all_bad_files_are_named_at_once(tmp_path, bigwig):
	bad = tmp_path / "bad.bw"
	bad.write_bytes(b"text")
	with pytest.raises(InputError) as caught:
		Tracks([str(bigwig), str(bad), str(tmp_path / "none.bw")])
	assert "bad.bw" in str(caught.value) and "none.bw" in str(caught.value) and "a.bw" not in str(caught.value)
	with pytest.raises(MissingFileError):
		Tracks(tmp_path / "none.bw")


def test_chromosomes_are_those_of_all_files_and_other_lengths_are_an_error(tmp_path, make_bigwig, bigwig):
	other = make_bigwig(tmp_path / "b.bw", {"chr3": 10, "chr1": 2500}, {"chr1": np.ones(2500)})
	tracks = Tracks([str(bigwig), str(other)])
	assert tracks.chrom_sizes == {"chr1": 2500}
	tracks.check_sizes({"chr2": 1000}, "g.fa")
	with pytest.raises(InputError, match=r"b\.bw: chr1 has 2,500 bp, but 3,000 bp in g\.fa .*different assemblies"):
		tracks.check_sizes({"chr1": 3000}, "g.fa")


def _read(path, chrom):
	with pyBigWig.open(str(path)) as file:
		return np.array(file.values(chrom, 0, file.chroms(chrom)))


def test_write_bigwig_averages_overlaps_and_keeps_the_header(tmp_path):
	path = tmp_path / "out.bw"
	sizes = {"chr2": 60, "chr1": 40, "chrUnused": 5}
	rng = np.random.default_rng(3)
	chroms = ["chr1", "chr2", "chr1", "chr1", "chr2", "chr1"]
	starts = [30, 50, 0, 4, 0, 10]
	values = rng.random((6, 10)).astype(np.float32)
	write_bigwig(path, sizes, chroms, starts, values)
	with pyBigWig.open(str(path)) as file:
		assert file.chroms() == sizes
	for chrom, size in list(sizes.items())[:2]:
		total, depth = np.zeros(size), np.zeros(size)
		for c, s, v in zip(chroms, starts, values, strict=True):
			if c == chrom:
				total[s : s + 10] += v
				depth[s : s + 10] += 1
		expected = np.divide(total, depth, out=np.full(size, np.nan), where=depth > 0)
		assert np.allclose(_read(path, chrom), expected, rtol=1e-6, equal_nan=True)
	assert Tracks(path).windows(["chr1"], [20], 10).sum() == 0


def test_write_bigwig_of_nothing_can_be_read(tmp_path):
	write_bigwig(tmp_path / "out.bw", {"chr1": 50}, [], [], np.empty((0, 10)))
	assert Tracks(tmp_path / "out.bw").windows(["chr1"], [0], 50).sum() == 0


@pytest.mark.parametrize(
	"chroms, starts, values, error, expected",
	[
		(["chr9"], [0], np.ones((1, 5)), InputError, "does not have: chr9"),
		(["chr1"], [-1], np.ones((1, 5)), InputError, "leave their chromosome"),
		(["chr1"], [46], np.ones((1, 5)), InputError, "chr1:46-51"),
		(["chr1"], [0], np.full((1, 5), np.nan), InputError, "not finite"),
		(["chr1"], [0, 1], np.ones((1, 5)), ValueError, "shape"),
		(["chr1"], [0], np.ones(5), ValueError, "shape"),
	],
	ids=["chromosome", "before", "after", "nan", "lengths", "dimensions"],
)
def test_write_bigwig_refuses_and_leaves_nothing(tmp_path, chroms, starts, values, error, expected):
	with pytest.raises(error, match=expected):
		write_bigwig(tmp_path / "out.bw", {"chr1": 50}, chroms, starts, values)
	assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
	path = tmp_path / "out.bw"
	write_bigwig(path, {"chr1": 50}, ["chr1"], [0], np.ones((1, 5)))
	before = path.read_bytes()

	def fail(*args):
		raise KeyboardInterrupt

	monkeypatch.setattr("cherimoya.io.tracks._merged", fail)
	with pytest.raises(KeyboardInterrupt):
		write_bigwig(path, {"chr1": 50}, ["chr1"], [0], np.ones((1, 5)))
	assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["out.bw"]


def test_windows_far_apart_and_in_any_order(tmp_path, make_bigwig):
	"""Windows are read in stretches; here are gaps and spans on both sides of what one stretch holds."""
	rng = np.random.default_rng(2)
	sizes = {"chr2": 50_000, "chr1": 2_500_000}
	values = {c: np.where(rng.random(s) < 0.01, rng.integers(1, 9, s), 0).astype(np.float32) for c, s in sizes.items()}
	tracks = Tracks(make_bigwig(tmp_path / "a.bw", sizes, values))
	for gap in (1, 30_000, 32_868, 32_869, 100_000):
		starts = np.arange(0, 2_499_900, gap)[:2_000]
		chroms = np.array(["chr1"] * len(starts) + ["chr2"] * 3, dtype=object)
		starts = np.concatenate([starts, [49_900, 0, 0]])
		order = rng.permutation(len(starts))
		windows = tracks.windows(chroms[order], starts[order], 100)
		for i, k in enumerate(order):
			assert np.array_equal(windows[i, 0], values[chroms[k]][starts[k] : starts[k] + 100])


def test_tracks_read_the_same_in_another_process(bigwig):
	tracks = Tracks([bigwig, [bigwig, bigwig]], absolute=True)
	again = pickle.loads(pickle.dumps(tracks))
	assert again.groups == tracks.groups and again.chrom_sizes == tracks.chrom_sizes and again.absolute
	chrom, size = next(iter(tracks.chrom_sizes.items()))
	assert np.array_equal(again.windows([chrom], [0], size), tracks.windows([chrom], [0], size))


def test_the_content_key_tells_values_apart_and_remote_files_have_none(tmp_path, make_bigwig, bigwig):
	chrom = next(iter(Tracks(bigwig).chrom_sizes))
	key = Tracks(bigwig).content_key([chrom])
	copy = shutil.copyfile(bigwig, tmp_path / "copy.bw")
	assert Tracks(copy).content_key([chrom]) == key != Tracks(bigwig, absolute=True).content_key([chrom])
	other = make_bigwig(tmp_path / "other.bw", {chrom: 50}, {chrom: np.ones(50)})
	assert Tracks(other).content_key([chrom]) != key
	tracks = Tracks(bigwig)
	tracks.paths = ["https://example.org/a.bw"]
	assert tracks.content_key([chrom]) is None


@pytest.mark.parametrize("gap", [0, 60, 10_000])
@pytest.mark.parametrize("quick", [True, False], ids=["quick", "pyBigWig"])
def test_windows_do_not_depend_on_what_is_read_at_once(bigwig, values, monkeypatch, gap, quick):
	for name in ("LARGEST_GAP", "_FREE_GAP"):
		monkeypatch.setattr(f"cherimoya.io.tracks.{name}", gap)
	monkeypatch.setattr("cherimoya.io.tracks._LONGEST_STRETCH", 1500)
	tracks = Tracks(bigwig)
	if not quick:
		tracks._quick = [None]
	starts = np.random.default_rng(5).integers(0, 2900, size=40)
	found = tracks.small_windows(["chr1"] * 40, starts, 100)
	assert found.dtype == (np.uint8 if quick else np.float32)
	assert np.array_equal(found[:, 0], np.stack([values["chr1"][start : start + 100] for start in starts]))
