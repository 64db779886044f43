"""Contributions of a trained model point at the motif of the protein: real CTCF data, and how the benchmark counts."""

import importlib.util
from itertools import product
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def ctcf():
	"""The benchmark, whose parts are used here."""
	spec = importlib.util.spec_from_file_location("ctcf_motif", ROOT / "benchmarks" / "ctcf_motif.py")
	module = importlib.util.module_from_spec(spec)
	spec.loader.exec_module(module)
	return module


@pytest.mark.slow
def test_contributions_of_a_trained_model_point_at_ctcf(ctcf, shared, tmp_path):
	pytest.importorskip("pyBigWig")
	model = ctcf.train(shared, tmp_path, epochs=12)
	peaks = ctcf.strongest_peaks(shared, tmp_path, 50, apart=200)
	background = ctcf.held_out(tmp_path / "negatives.bed", shared, tmp_path)
	contributions, _ = ctcf.contributions_of(model, peaks, 120)
	motifs = ctcf.read_motifs(shared / "data" / "motifs" / "JASPAR2026_CORE_vertebrates_non-redundant.meme.gz")
	motifs = {name: motifs[name] for name in [*list(motifs)[:40], ctcf.MOTIF]}
	regions, test = ctcf.Regions.of(peaks, background, 120), ctcf.in_test(peaks)
	found = ctcf.compare(regions, contributions, motifs, test, np.random.default_rng(0))

	chosen = found["chosen"]
	for method in ("saturation_mutagenesis", "deep_lift_shap"):
		matching = chosen[method]["matching"]
		assert matching > 0.5 and chosen[method]["p"] < 1e-6, (method, chosen)
		for control in ("every_window", "shuffled_contributions", "untrained"):
			assert matching > 3 * chosen[control]["matching"], (method, control, chosen)
		assert found["test_region"][method]["matching"] > 3 * chosen["every_window"]["matching"]
	assert found["shuffled_matrices"]["mean_matching"] < chosen["saturation_mutagenesis"]["matching"] / 3
	assert found["all_matrices"]["rank"] == 1
	assert found["agreement"]["spearman_median"] > 0.4 and found["agreement"]["same_window"] > 0.7
	assert abs(found["agreement"]["spearman_with_another_peak"]) < 0.2


# How the benchmark counts, where the answer is known.

MATRIX = np.array([[0.97, 0.01, 0.01, 0.01], [0.01, 0.97, 0.01, 0.01], [0.4, 0.1, 0.4, 0.1], [0.0, 0.0, 0.0, 1.0]])
UNIFORM = np.full(4, 0.25)


def test_scan_scores_both_strands(ctcf):
	matrix = ctcf.log_odds(MATRIX, UNIFORM)
	codes = np.random.default_rng(0).integers(0, 5, (3, 23)).astype(np.uint8)  # N as well
	found = ctcf.scan(codes, matrix)
	assert found.shape == (3, 20)
	for i, start in product(range(3), range(20)):
		window = codes[i, start : start + 4]
		complement = np.where(window < 4, 3 - window, 4)[::-1]
		strands = [sum(matrix[j, base] for j, base in enumerate(bases)) for bases in (window, complement)]
		assert found[i, start] == pytest.approx(max(strands))


def test_motifs_are_read_by_id_and_name(ctcf, tmp_path):
	import gzip

	rows = "\n".join(" ".join(map(str, row)) for row in MATRIX)
	one, two = (f"letter-probability matrix: alength= 4 w= {width} nsites= 9 E= 0" for width in (4, 1))
	text = f"MEME version 4\n\nMOTIF M1 ONE\n{one}\n{rows}\nURL x\n\nMOTIF M2 TWO\n{two}\n1 0 0 0\n"
	with gzip.open(tmp_path / "motifs.meme.gz", "wt") as file:
		file.write(text)
	found = ctcf.read_motifs(tmp_path / "motifs.meme.gz")
	assert list(found) == ["M1 ONE", "M2 TWO"]
	np.testing.assert_array_equal(found["M1 ONE"], MATRIX)
	np.testing.assert_array_equal(found["M2 TWO"], [[1, 0, 0, 0]])


@pytest.mark.parametrize("width", [4, 15, 16, 33])
@pytest.mark.parametrize("strand", ["forward", "reverse"])
def test_a_matrix_matches_the_window_that_it_lies_in_the_middle_of(ctcf, width, strand):
	rng = np.random.default_rng(1)
	planted = rng.integers(0, 4, width).astype(np.uint8)
	frequencies = np.eye(4)[planted]
	codes = rng.integers(0, 4, (2, 100 + 2 * ctcf.MARGIN)).astype(np.uint8)
	start = 40  # of the window; the motif's own is `ahead` further on
	ahead = (ctcf.MOTIF_WIDTH - width) // 2
	at = ctcf.MARGIN + start + ahead
	codes[0, at : at + width] = planted if strand == "forward" else 3 - planted[::-1]
	background = rng.integers(0, 4, (50, codes.shape[1])).astype(np.uint8)
	matches, threshold = ctcf.Regions(codes, background, UNIFORM).matches(frequencies)
	assert matches.shape == (2, 100 - ctcf.MOTIF_WIDTH + 1)
	best = np.flatnonzero(matches[0] == matches[0].max())
	if width > 4:  # four bases are found by chance as well
		np.testing.assert_array_equal(best, np.arange(start - ctcf.FLANK, start + ctcf.FLANK + 1))
		assert matches[0].max() > threshold > matches[1].max() - 2 * width
	assert start in best


def test_the_strongest_bases_are_those_with_the_largest_sum(ctcf):
	contributions = np.zeros((2, 60))
	contributions[0, 20:35] = 1
	contributions[1, [3, 17]] = 5  # both fit into one window of 15
	contributions[1, 40:55] = 0.6
	np.testing.assert_array_equal(ctcf.strongest(contributions), [20, 3])


@pytest.mark.parametrize(
	("hits", "rates", "expected"),
	[([1, 1], [0.1, 0.2], 0.02), ([1, 0], [0.1, 0.2], 0.28), ([0, 0], [0.1, 0.2], 1.0), ([1], [0.3], 0.3)],
	ids=["both", "one of two", "none", "single"],
)
def test_probability_of_matches_by_chance(ctcf, hits, rates, expected):
	assert ctcf.chance(np.array(hits, dtype=float), np.array(rates)) == pytest.approx(expected)


def test_summaries_of_the_best_and_of_all_windows(ctcf):
	matches = np.array([[0.0, 1.0, 5.0, 5.0], [2.0, 0.0, 1.0, -1.0]])
	rng = np.random.default_rng(0)
	best = ctcf.summary(matches, matches.argmax(axis=1)[:, None], 3.0, rng)
	assert best["matching"] == 0.5 and best["median_bits"] == 3.5
	assert best["auroc"] == pytest.approx(((2 + 4) / 2 / 4 + (3 + 4) / 2 / 4) / 2)
	every = ctcf.summary(matches, np.broadcast_to(np.arange(4), (2, 4)), 3.0, rng)
	assert every["matching"] == 0.25 and every["auroc"] == pytest.approx(0.5)


def test_agreement_of_equal_and_of_unrelated_contributions(ctcf):
	rng = np.random.default_rng(0)
	a = rng.normal(size=(20, 100))
	equal, unrelated = ctcf.agreement(a, 3 * a + 1), ctcf.agreement(a, rng.normal(size=(20, 100)))
	assert equal["spearman_median"] == pytest.approx(1) and equal["same_window"] == 1
	assert abs(unrelated["spearman_median"]) < 0.1 and abs(equal["spearman_with_another_peak"]) < 0.1
