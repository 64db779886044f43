"""Tiles of regions: where they are, what they hold, and how their values become values of bases."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cherimoya import Cherimoya, ControlWrapper
from cherimoya.errors import InputError, SettingsError
from cherimoya.interpret.predict import expected_counts, predict, predict_regions
from cherimoya.io.genome import Genome
from cherimoya.io.loci import Region
from cherimoya.io.tiling import (
	Piece,
	blend,
	spans_to_tile,
	tile_starts,
	tile_weights,
	tile_windows,
	write_pieces,
)
from cherimoya.io.tracks import Tracks

IN, OUT = 60, 20
SIZES = {"chr1": 400, "chr2": 200, "short": 59, "just": 60}


@pytest.fixture(scope="module")
def genome():
	rng = np.random.default_rng(0)
	codes = {chrom: rng.integers(0, 4, size).astype(np.uint8) for chrom, size in SIZES.items()}
	codes["chr1"][200:260] = 4
	return Genome(codes)


def make_model(groups=(2, 1), **options):
	options = {"n_filters": 4, "n_layers": 2, "trimming": (IN - OUT) // 2, **options}
	return Cherimoya(signal_groups=list(groups), random_state=0, **options)


# Where tiles are.


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_tiles_cover_a_span_and_share_what_they_should(data):
	width = data.draw(st.integers(1, 30))
	overlap = data.draw(st.integers(0, width - 1))
	start = data.draw(st.integers(0, 50))
	end = start + width + data.draw(st.integers(0, 200))
	starts = tile_starts(start, end, width, overlap)
	assert starts[0] == start and starts[-1] == end - width
	steps = np.diff(starts)
	assert (steps[:-1] == width - overlap).all() and (steps > 0).all() and (steps <= width - overlap).all()
	assert len(starts) == 1 + math.ceil((end - start - width) / (width - overlap))


@pytest.mark.parametrize(
	("overlap", "expected"),
	[
		pytest.param(0, [1] * 6, id="none"),
		pytest.param(1, [1 / 2, 1, 1, 1, 1, 1 / 2], id="one"),
		pytest.param(3, [1 / 4, 2 / 4, 3 / 4, 3 / 4, 2 / 4, 1 / 4], id="half"),
		pytest.param(5, [1 / 6, 2 / 6, 3 / 6, 3 / 6, 2 / 6, 1 / 6], id="most"),
	],
)
def test_weights(overlap, expected):
	np.testing.assert_allclose(tile_weights(6, overlap), expected)


@pytest.mark.parametrize("width", [1, 2, 7, 1000])
def test_weights_of_neighbours_sum_to_one(width):
	for overlap in {0, 1, width // 3, width // 2} - {width}:
		weights = tile_weights(width, overlap)
		shared = weights[width - overlap :] + weights[:overlap]
		np.testing.assert_allclose(shared, 1)
		assert (weights[overlap : width - overlap] == 1).all()


@pytest.mark.parametrize(
	("regions", "expected"),
	[
		pytest.param(["chr2"], [("chr2", 20, 180)], id="a chromosome, but for its ends"),
		pytest.param(["chr2:50-100"], [("chr2", 50, 100)], id="a part"),
		pytest.param(["chr2:50-55"], [("chr2", 42, 62)], id="widened to a window"),
		pytest.param(["chr2:0-10"], [("chr2", 20, 40)], id="at the beginning"),
		pytest.param(["chr2:195-"], [("chr2", 160, 180)], id="at the end"),
		pytest.param(["chr2:0-30"], [("chr2", 20, 40)], id="less than a window is left of it"),
		pytest.param(["chr2:80-120", "chr2:40-80"], [("chr2", 40, 120)], id="side by side"),
		pytest.param(["chr2:80-120", "chr2:40-100", "chr2:90-95"], [("chr2", 40, 120)], id="overlapping"),
		pytest.param(["chr2:60-62", "chr2:55-100"], [("chr2", 51, 100)], id="widened beyond the one before"),
		pytest.param(["chr2:40-60", "chr1:0-50"], [("chr1", 20, 50), ("chr2", 40, 60)], id="by the genome's order"),
		pytest.param(["just"], [("just", 20, 40)], id="a chromosome of one window"),
		pytest.param(["*"], [("chr1", 20, 380), ("chr2", 20, 180), ("just", 20, 40)], id="all"),
	],
)
def test_spans(genome, regions, expected):
	spans, short = spans_to_tile(regions, genome, in_window=IN, out_window=OUT)
	assert [tuple(span) for span in spans] == expected
	assert short == (["short"] if regions == ["*"] else [])


@pytest.mark.parametrize(
	("regions", "words"),
	[
		pytest.param(["chr9"], ["no chromosome chr9", "chr1, chr2"], id="unknown"),
		pytest.param(["chr2:100-201"], ["chr2:100-201", "200 bp", "shorten it"], id="beyond the end"),
		pytest.param(["chr2:200-"], ["chr2:200-", "200 bp"], id="from the end on"),
		pytest.param(["*", "chr2"], ["give it alone"], id="all and one"),
		pytest.param(["chr9", "chr2:0-300"], ["2 problems", "chr9", "chr2:0-300"], id="all problems at once"),
	],
)
def test_regions_that_are_not_there(genome, regions, words):
	with pytest.raises(InputError) as error:
		tile_windows(regions, genome, in_window=IN, out_window=OUT)
	for word in words:
		assert word in str(error.value)


def test_aliases():
	genome = Genome({"chr1": np.zeros(100, dtype=np.uint8)}, chrom_aliases=True)
	assert len(tile_windows(["1"], genome, in_window=IN, out_window=OUT, overlap=0)) == 3


def test_tiles_that_are_left_out(genome, tmp_path, make_bigwig):
	"""For unknown bases, an exclusion list, a chromosome that is too short, or that a track lacks."""
	tracks = make_bigwig(tmp_path / "a.bw", {"chr1": 400, "chr2": 200}, {"chr1": np.ones(400), "chr2": np.ones(200)})
	exclusion = tmp_path / "exclusion.bed"
	exclusion.write_text("chr2\t0\t5\n")
	options = {"in_window": IN, "out_window": OUT, "overlap": 0}
	windows = tile_windows(["*"], genome, tracks, exclusion_lists=exclusion, max_n_perc=0.1, **options)
	starts = range(20, 380, 20)
	kept = [s for s in starts if (genome.codes("chr1")[s - 20 : s + 40] == 4).mean() <= 0.1]
	assert len(kept) < len(starts)
	assert windows.loci.starts[windows.loci.chroms == "chr1"].tolist() == kept
	assert windows.loci.starts[windows.loci.chroms == "chr2"].tolist() == list(
		range(40, 180, 20)
	)  # the first reads 0-60
	expected = {
		"chromosome not in bigWig": 1,
		"off the edge": 1,
		"excluded": 1,
		"unknown bases": len(starts) - len(kept),
	}
	assert windows.accounting.dropped == expected
	assert windows.accounting.given == windows.accounting.kept + sum(expected.values())
	assert windows.mask.sum() == len(windows)
	everything = tile_windows(["*"], genome, max_n_perc=1, **options)
	assert everything.accounting.dropped["unknown bases"] == 0


@pytest.mark.parametrize(
	("regions", "options", "words"),
	[
		pytest.param(["short"], {}, ["no tile", "off the edge", "1"], id="too short"),
		pytest.param(["chr1:220-240"], {}, ["no tile", "unknown bases"], id="unknown bases"),
	],
)
def test_no_tile_left(genome, regions, options, words):
	with pytest.raises(InputError) as error:
		tile_windows(regions, genome, in_window=IN, out_window=OUT, **options)
	for word in words:
		assert word in str(error.value)


@pytest.mark.parametrize("overlap", [-1, OUT, OUT + 1])
def test_overlaps_that_cannot_be(genome, overlap):
	with pytest.raises(SettingsError, match="overlap must be at least 0 and below out_window"):
		tile_windows(["chr2"], genome, in_window=IN, out_window=OUT, overlap=overlap)


# What they hold.


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "bgzip"])
def test_arrays_are_read_when_they_are_taken(tmp_path, make_fasta, make_bigwig, compressed):
	rng = np.random.default_rng(1)
	sequences = {chrom: "".join(rng.choice(list("ACGTN"), size)) for chrom, size in (("chr2", 300), ("chr1", 5_000))}
	path = make_fasta(tmp_path / "genome.fa", sequences)
	if compressed:
		pysam = pytest.importorskip("pysam")
		pysam.tabix_compress(str(path), str(path) + ".gz")
		path = f"{path}.gz"
	sizes = {chrom: len(text) for chrom, text in sequences.items()}
	values = {chrom: rng.integers(0, 9, size).astype(float) for chrom, size in sizes.items()}
	track = make_bigwig(tmp_path / "a.bw", sizes, values)
	windows = tile_windows(
		["*"], path, [[track, track]], [track], in_window=IN, out_window=OUT, overlap=7, max_n_perc=1
	)
	assert windows.signal_groups == (2,) and windows.codes.shape == (len(windows), IN)
	rows = np.array([0, 3, len(windows) - 1, 5])
	for index in (slice(2, 40), slice(None), slice(0, 0), rows):
		codes, signals, controls = windows.codes[index], windows.signals[index], windows.controls[index]
		picked = np.arange(len(windows))[index]
		assert len(codes) == len(signals) == len(controls) == len(picked)
		for i, row in enumerate(picked):
			chrom, start = windows.loci.chroms[row], windows.loci.starts[row]
			expected = ["ACGTN".index(base) for base in sequences[chrom][start - 20 : start + 40]]
			assert codes[i].tolist() == expected
			assert signals[i, 1].tolist() == values[chrom][start : start + OUT].tolist()
			assert controls[i, 0].tolist() == values[chrom][start - 20 : start + 40].tolist()
	assert (windows.midpoints - OUT // 2 == windows.loci.starts).all()


# From tiles to bases.


def by_formula(chroms, starts, values, overlap):
	"""Weighted means, base by base."""
	width = values.shape[-1]
	total, weight = {}, {}
	for chrom, start, tile in zip(chroms, starts, values, strict=True):
		for place in range(width):
			w = min(1, (place + 1) / (overlap + 1), (width - place) / (overlap + 1))
			key = (chrom, start + place)
			total[key] = total.get(key, 0) + w * tile[:, place]
			weight[key] = weight.get(key, 0) + w
	return {key: total[key] / weight[key] for key in total}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_blend_is_the_formula_whatever_the_blocks(data):
	width = data.draw(st.integers(1, 8))
	overlap = data.draw(st.integers(0, width - 1))
	steps = data.draw(st.lists(st.integers(0, 2 * width), min_size=1, max_size=12))
	starts = np.cumsum(steps)
	turn = data.draw(st.integers(0, len(starts)))
	chroms = np.array(["chr2"] * turn + ["chr1"] * (len(starts) - turn), dtype=object)
	starts[turn:] -= starts[turn] if turn < len(starts) else 0
	values = np.random.default_rng(len(starts)).random((len(starts), 2, width))
	expected = by_formula(chroms, starts, values, overlap)
	whole = None
	for size in (1, 3, len(starts)):
		blocks = (values[first : first + size] for first in range(0, len(starts), size))
		found, last = {}, None
		for chrom, start, stretch in blend(chroms, starts, blocks, overlap=overlap):
			assert stretch.dtype == np.float32 and stretch.shape[1] > 0
			assert last is None or chrom != last[0] or start >= last[1]
			last = (chrom, start + stretch.shape[1])
			found |= {(chrom, start + i): stretch[:, i] for i in range(stretch.shape[1])}
		assert found.keys() == expected.keys()
		for key, value in expected.items():
			np.testing.assert_allclose(found[key], value, rtol=1e-6)
		bits = {key: value.tobytes() for key, value in found.items()}
		assert whole is None or bits == whole
		whole = bits


def test_tiles_that_agree_keep_their_values_and_sums():
	"""A blend of what does not depend on the tile is that; without overlap nothing is changed at all."""
	truth = np.random.default_rng(0).random((1, 500)).astype(np.float32)
	for overlap in (0, 1, 10, 19):
		starts = tile_starts(0, 500, 20, overlap)
		values = np.stack([truth[:, start : start + 20] for start in starts])
		pieces = list(blend(np.array(["a"] * len(starts), dtype=object), starts, [values], overlap=overlap))
		np.testing.assert_allclose(np.concatenate([piece.values for piece in pieces], axis=1), truth, rtol=1e-6)


def test_pieces_are_written_as_they_come(tmp_path):
	pyBigWig = pytest.importorskip("pyBigWig")
	rng = np.random.default_rng(0)
	pieces = [
		Piece("chr2", 3, rng.random((2, 7)).astype(np.float32)),
		Piece("chr2", 10, rng.random((2, 1)).astype(np.float32)),
		Piece("chr1", 0, rng.random((2, 70)).astype(np.float32)),
	]
	sizes = {"chr2": 30, "chrUnused": 10, "chr1": 70}
	paths = [tmp_path / "a.bw", tmp_path / "b.bw"]
	assert write_pieces(paths, sizes, pieces) == 78
	for t, path in enumerate(paths):
		with pyBigWig.open(str(path)) as file:
			assert file.chroms() == sizes
			found = file.values("chr2", 0, 30, numpy=True)
			assert np.flatnonzero(~np.isnan(found)).tolist() == list(range(3, 11))
			assert np.array_equal(found[3:11], np.concatenate([pieces[0].values[t], pieces[1].values[t]]))
			assert np.array_equal(file.values("chr1", 0, 70, numpy=True), pieces[2].values[t])
	bad = [Piece("chr2", 0, np.array([[1.0], [np.inf]], dtype=np.float32))]
	with pytest.raises(InputError, match="chr2:0 on are not finite"):
		write_pieces([tmp_path / "c.bw", tmp_path / "d.bw"], sizes, bad)
	assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bw", "b.bw"]


# In Python.


@pytest.mark.parametrize("overlap", [0, 6, None])
def test_predictions_of_regions(genome, overlap):
	model = make_model()
	pieces = list(predict_regions(model, genome, ["chr2", "chr1:20-180"], in_window=IN, overlap=overlap, batch_size=7))
	assert [piece.chrom for piece in pieces] == sorted(piece.chrom for piece in pieces)
	assert {(piece.chrom, piece.values.shape[0]) for piece in pieces} == {("chr1", 3), ("chr2", 3)}
	windows = tile_windows(["chr2", "chr1:20-180"], genome, in_window=IN, out_window=OUT, overlap=overlap)
	prediction = predict(model, windows.codes[:], batch_size=7)
	values = expected_counts(*prediction, [2, 1]).numpy()
	used = OUT // 2 if overlap is None else overlap
	expected = by_formula(windows.loci.chroms, windows.loci.starts, values, used)
	found = {(c, s + i): v[:, i] for c, s, v in pieces for i in range(v.shape[1])}
	assert found.keys() == expected.keys()
	for key, value in expected.items():
		np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-7)
	if overlap == 0:  # the bases of a tile sum to its counts, group by group
		for i, start in enumerate(windows.loci.starts[windows.loci.chroms == "chr1"]):
			total = sum(found["chr1", start + k] for k in range(OUT))
			counts = torch.expm1(prediction.log_counts[i])
			np.testing.assert_allclose([total[0] + total[1], total[2]], counts, rtol=1e-4)


def test_controls_of_regions(genome, tmp_path, make_bigwig):
	sizes = {"chr1": 400, "chr2": 200}
	values = {chrom: np.random.default_rng(2).integers(0, 5, size).astype(float) for chrom, size in sizes.items()}
	track = make_bigwig(tmp_path / "control.bw", sizes, values)
	model = make_model((1,), n_control_tracks=1)
	found = [
		np.concatenate([p.values for p in predict_regions(m, genome, ["chr2"], in_window=IN, controls=c)], axis=1)
		for m, c in ((model, [track]), (model, Tracks([track])), (ControlWrapper(model), None))
	]
	assert np.array_equal(found[0], found[1]) and not np.allclose(found[0], found[2])
	with pytest.raises(InputError, match="takes 1 control track"):
		next(predict_regions(model, genome, ["chr2"], in_window=IN))


def test_a_window_that_is_too_short(genome):
	with pytest.raises(InputError, match="cuts 20 bp from each side"):
		next(predict_regions(make_model(), genome, [Region("chr2", 0, None)], in_window=40))
