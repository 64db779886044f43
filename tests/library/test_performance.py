"""Measures against SciPy, and against definitions written out where SciPy has none."""

import numpy as np
import pytest
import torch
from scipy import ndimage, spatial, special, stats

from cherimoya import performance
from cherimoya.performance import (
	auprc,
	auroc,
	calculate_performance_measures,
	jensen_shannon_distance,
	mean_squared_error,
	pearson_corr,
	smooth_gaussian1d,
	spearman_corr,
)


def _pairs(seed: int = 0) -> dict[str, tuple[np.ndarray, np.ndarray]]:
	rng = np.random.default_rng(seed)
	a = rng.normal(size=(4, 3, 51))
	return {
		"correlated": (a, a + rng.normal(size=a.shape)),
		"ties": (rng.poisson(0.7, size=(5, 40)).astype(float), rng.poisson(0.7, size=(5, 40)).astype(float)),
		"far from zero": (1e4 + a, 1e4 - a),
		"tiny": (a * 1e-30, a**3 * 1e-30),
		"two values": (rng.normal(size=(6, 2)), rng.normal(size=(6, 2))),
	}


@pytest.mark.parametrize("case", _pairs(), ids=str)
def test_pearson_matches_scipy(case):
	x, y = _pairs()[case]
	expected = np.reshape(
		[stats.pearsonr(a, b)[0] for a, b in zip(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), strict=True)],
		x.shape[:-1],
	)
	np.testing.assert_allclose(pearson_corr(torch.from_numpy(x), torch.from_numpy(y)).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("case", _pairs(), ids=str)
def test_spearman_matches_scipy(case):
	x, y = _pairs()[case]
	expected = np.reshape(
		[stats.spearmanr(a, b)[0] for a, b in zip(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), strict=True)],
		x.shape[:-1],
	)
	np.testing.assert_allclose(spearman_corr(torch.from_numpy(x), torch.from_numpy(y)).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6 + 0.3])
@pytest.mark.parametrize("corr", [pearson_corr, spearman_corr], ids=["pearson", "spearman"])
def test_a_constant_side_correlates_at_zero(corr, value):
	x, constant = torch.randn(3, 1000), torch.full((3, 1000), value)
	assert torch.equal(corr(x, constant), torch.zeros(3))
	assert torch.equal(corr(constant, x), torch.zeros(3))
	assert torch.equal(corr(constant, constant), torch.zeros(3))
	assert torch.equal(corr(x[:, :1], x[:, 1:2]), torch.zeros(3))  # one value is constant


@pytest.mark.parametrize("corr", [pearson_corr, spearman_corr], ids=["pearson", "spearman"])
def test_what_is_undefined_is_nan(corr):
	x, y = torch.randn(2, 6), torch.randn(2, 6)
	x[0, 2] = torch.nan
	r = corr(x, y)
	assert r[0].isnan() and r[1].isfinite()
	assert corr(torch.zeros(2, 0), torch.zeros(2, 0)).isnan().all()


def test_mean_squared_error():
	x, y = np.random.default_rng(0).normal(size=(2, 3, 17))
	found = mean_squared_error(torch.from_numpy(x), torch.from_numpy(y))
	np.testing.assert_allclose(found.numpy(), ((x - y) ** 2).mean(-1), rtol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 300.0, -300.0])
def test_jsd_is_the_square_of_scipys(offset):
	rng = np.random.default_rng(0)
	logits, counts = rng.normal(size=(4, 2, 60)) * 3 + offset, rng.poisson(0.5, size=(4, 2, 60))
	counts[1, 0], counts[1, 0, 5] = 0, 3
	found = jensen_shannon_distance(torch.from_numpy(logits), torch.from_numpy(counts))
	expected = spatial.distance.jensenshannon(special.softmax(logits, axis=-1), counts, axis=-1) ** 2
	np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
	assert (found <= np.log(2)).all()


def test_jsd_without_counts_is_nan():
	found = jensen_shannon_distance(torch.zeros(2, 5), torch.tensor([[0.0] * 5, [1.0] * 5]))
	assert found[0].isnan()
	assert found[1] == 0


@pytest.mark.parametrize(("sigma", "width"), [(7, 81), (1.5, 9), (3, 1), (40, 201)], ids=str)
def test_smoothing_matches_scipy(sigma, width):
	x = np.random.default_rng(0).poisson(1, size=(3, 2, 90)).astype(float)
	found = smooth_gaussian1d(torch.from_numpy(x), sigma, width)
	kernel = np.zeros(width)
	kernel[width // 2] = 1
	kernel = ndimage.gaussian_filter1d(kernel, sigma, mode="constant", radius=width // 2)
	expected = ndimage.convolve1d(x, kernel / kernel.sum(), mode="constant")
	np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("sigma", "width", "message"), [(7, 80, "odd"), (7, -1, "odd"), (0, 81, "positive")], ids=str)
def test_smoothing_names_bad_settings(sigma, width, message):
	with pytest.raises(ValueError, match=message):
		smooth_gaussian1d(torch.zeros(1, 9), sigma, width)


def _average_precision(scores, labels):
	"""Σ (R_i − R_{i−1}) P_i over the distinct scores, counted out."""
	area, recall = 0.0, 0.0
	for threshold in sorted(set(scores), reverse=True):
		called = scores >= threshold
		hits = (labels[called] == 1).sum()
		area += (hits / (labels == 1).sum() - recall) * hits / called.sum()
		recall = hits / (labels == 1).sum()
	return area


SCORES = {
	"spread": np.random.default_rng(0).normal(size=60),
	"ties": np.random.default_rng(1).integers(0, 4, size=60).astype(float),
	"all equal": np.zeros(60),
}


@pytest.mark.parametrize("case", SCORES, ids=str)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_areas_match_their_definitions(case, share):
	scores = SCORES[case]
	labels = (np.random.default_rng(2).random(60) < share).astype(int)
	labels[:2] = 1, 0
	s, l = torch.from_numpy(scores), torch.from_numpy(labels)
	u = stats.mannwhitneyu(scores[labels == 1], scores[labels == 0]).statistic
	assert auroc(s, l).item() == pytest.approx(u / (labels.sum() * (1 - labels).sum()), abs=1e-6)
	assert auprc(s, l).item() == pytest.approx(_average_precision(scores, labels), abs=1e-6)


def test_perfect_and_reversed_scores():
	labels = torch.tensor([0, 0, 1, 1])
	scores = torch.tensor([0.1, 0.2, 0.3, 0.4])
	assert (auroc(scores, labels), auprc(scores, labels)) == (1, 1)
	assert auroc(-scores, labels) == 0
	assert auprc(-scores, labels).item() == pytest.approx((1 / 3 + 2 / 4) / 2)


def test_areas_without_both_classes_are_nan():
	scores = torch.randn(4)
	assert auroc(scores, torch.ones(4)).isnan() and auroc(scores, torch.zeros(4)).isnan()
	assert auprc(scores, torch.ones(4)) == 1 and auprc(scores, torch.zeros(4)).isnan()
	assert auroc(torch.full((4,), torch.nan), torch.tensor([0, 1, 0, 1])).isnan()
	with pytest.raises(ValueError, match=r"\(4,\) and \(3,\)"):
		auroc(scores, torch.ones(3))


def _evaluation(n=7, channels=3, length=50, n_groups=2, seed=0):
	rng = np.random.default_rng(seed)
	logits = torch.from_numpy(rng.normal(size=(n, channels, length))).float() * 2
	counts = torch.from_numpy(rng.poisson(1.5, size=(n, channels, length))).float()
	return logits, counts, torch.from_numpy(rng.normal(size=(n, n_groups))).float() + 4


@pytest.mark.parametrize("values_at_once", [1, 400, 10**9])
def test_measures_match_scipy(values_at_once, monkeypatch):
	monkeypatch.setattr(performance, "_VALUES_AT_ONCE", values_at_once)
	logits, counts, log_counts = _evaluation()
	logits[2, 1] -= 2000  # probabilities of the others stay, whatever is added to all
	logits[3, 0, 7] -= 2000  # a probability that underflows
	found = calculate_performance_measures(logits, counts, log_counts, signal_groups=[1, 2])
	assert list(found) == [*performance.PROFILE_MEASURES, *performance.COUNT_MEASURES]
	log_p = special.log_softmax(logits.double().numpy(), axis=-1)
	p, y = np.exp(log_p), counts.double().numpy()
	for i in range(7):
		for t in range(3):
			mnll = -(special.gammaln(y[i, t].sum() + 1) + (y * log_p - special.gammaln(y + 1))[i, t].sum())
			assert found["profile_mnll"][i, t].item() == pytest.approx(mnll, rel=1e-5)
			if (i, t) != (3, 0):
				assert mnll == pytest.approx(-stats.multinomial.logpmf(y[i, t], y[i, t].sum(), p[i, t]), rel=1e-6)
			assert found["profile_pearson"][i, t].item() == pytest.approx(stats.pearsonr(p[i, t], y[i, t])[0], abs=1e-6)
			assert found["profile_spearman"][i, t].item() == pytest.approx(
				stats.spearmanr(p[i, t], y[i, t])[0], abs=1e-6
			)
			jsd = spatial.distance.jensenshannon(p[i, t], y[i, t]) ** 2
			assert found["profile_jsd"][i, t].item() == pytest.approx(jsd, abs=1e-6)
	for g, channels in enumerate([slice(0, 1), slice(1, 3)]):
		observed, predicted = np.log1p(y[:, channels].sum((1, 2))), log_counts[:, g].double().numpy()
		assert found["count_pearson"][g].item() == pytest.approx(stats.pearsonr(observed, predicted)[0], abs=1e-6)
		assert found["count_spearman"][g].item() == pytest.approx(stats.spearmanr(observed, predicted)[0], abs=1e-6)
		assert found["count_mse"][g].item() == pytest.approx(((observed - predicted) ** 2).mean(), rel=1e-5)


def test_log_probabilities_and_logits_measure_the_same():
	logits, counts, log_counts = _evaluation()
	a = calculate_performance_measures(logits, counts, log_counts, signal_groups=[1, 2])
	b = calculate_performance_measures(logits.log_softmax(-1), counts, log_counts, signal_groups=[1, 2])
	for name in a:
		torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6)


def test_labels_split_peaks_from_all():
	logits, counts, log_counts = _evaluation(n=12)
	labels = torch.tensor([1, 0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 1])
	found = calculate_performance_measures(logits, counts, log_counts, signal_groups=[1, 2], labels=labels)
	peaks = labels == 1
	alone = calculate_performance_measures(logits[peaks], counts[peaks], log_counts[peaks], signal_groups=[1, 2])
	every = calculate_performance_measures(logits, counts, log_counts, signal_groups=[1, 2])
	assert list(found) == [*performance.PROFILE_MEASURES, *performance.COUNT_MEASURES, *performance.LABEL_MEASURES]
	for name, value in alone.items():
		assert torch.equal(found[name], value), name
	for name in performance.COUNT_MEASURES:
		assert torch.equal(found[f"all_{name}"], every[name]), name
	for g in range(2):
		assert found["auroc"][g] == auroc(log_counts[:, g], labels)
		assert found["auprc"][g] == auprc(log_counts[:, g], labels)


@pytest.mark.parametrize("which", [(), ("profile_jsd",), ("count_mse", "profile_pearson"), ("auroc",)], ids=str)
def test_only_the_measures_asked_for(which):
	labels = torch.tensor([1, 0, 1, 1, 0, 1, 0])
	every = calculate_performance_measures(*_evaluation(), signal_groups=[1, 2], labels=labels)
	found = calculate_performance_measures(*_evaluation(), signal_groups=[1, 2], labels=labels, measures=which)
	assert set(found) == set(which)
	for name, value in found.items():
		assert torch.equal(value, every[name])


@pytest.mark.parametrize(("n_groups", "expected"), [(1, (3,)), (3, (1, 1, 1))], ids=["one", "a channel each"])
def test_groups_follow_from_the_predicted_counts(n_groups, expected):
	data = _evaluation(n_groups=n_groups)
	found = calculate_performance_measures(*data)
	given = calculate_performance_measures(*data, signal_groups=expected)
	assert all(torch.equal(found[name], given[name]) for name in given)
	assert found["count_mse"].shape == (len(expected),)


def test_smoothing_applies_to_the_side_it_is_asked_for():
	logits, counts, log_counts = _evaluation(length=120)
	p = smooth_gaussian1d(logits.double().softmax(-1), 3, 21)
	p = p / p.sum(-1, keepdim=True)
	smooth = smooth_gaussian1d(counts.double(), 3, 21)
	options = {"kernel_sigma": 3, "kernel_width": 21, "signal_groups": [1, 2]}
	both = calculate_performance_measures(
		logits, counts, log_counts, smooth_true=True, smooth_predictions=True, **options
	)
	true = calculate_performance_measures(logits, counts, log_counts, smooth_true=True, **options)
	plain = calculate_performance_measures(logits, counts, log_counts, signal_groups=[1, 2])
	torch.testing.assert_close(both["profile_pearson"], pearson_corr(p, smooth))
	torch.testing.assert_close(both["profile_jsd"], jensen_shannon_distance(p.log(), smooth))
	torch.testing.assert_close(true["profile_pearson"], pearson_corr(logits.softmax(-1), smooth), rtol=1e-4, atol=1e-5)
	expected = calculate_performance_measures(p.log(), counts, log_counts, **options)
	only = calculate_performance_measures(logits, counts, log_counts, smooth_predictions=True, **options)
	torch.testing.assert_close(only["profile_mnll"], expected["profile_mnll"])
	assert torch.equal(both["count_mse"], plain["count_mse"])
	assert not torch.equal(both["profile_pearson"], plain["profile_pearson"])


def test_no_examples():
	found = calculate_performance_measures(torch.zeros(0, 2, 9), torch.zeros(0, 2, 9), torch.zeros(0, 1))
	assert found["profile_jsd"].shape == (0, 2)
	assert found["count_pearson"].isnan().all() and found["count_mse"].isnan().all()


BAD = {
	"unknown": ({"measures": ["profile_jds"]}, "profile_jds; choose from.*profile_jsd"),
	"text": ({"measures": "profile_jsd"}, r"write \['profile_jsd'\]"),
	"needs labels": ({"measures": ["auroc"]}, "auroc.*need labels"),
	"groups": ({"signal_groups": [2]}, "add up to 2 channels, but logps has 3"),
	"counts": ({"signal_groups": [1, 1, 1]}, r"pred_log_counts must have shape \(7, 3\).*got \(7, 2\)"),
	"labels": ({"labels": torch.ones(3)}, r"labels must have shape \(7,\)"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_arguments_are_named(case):
	arguments, message = BAD[case]
	with pytest.raises(ValueError, match=message):
		calculate_performance_measures(*_evaluation(), **{"signal_groups": [1, 2], **arguments})
