"""Measures of a model on loci against direct computations, and the two baselines."""

import math

import numpy as np
import pytest
import torch

from cherimoya import Cherimoya
from cherimoya.errors import InputError
from cherimoya.performance import auprc, auroc, calculate_performance_measures
from cherimoya.training import check_fits_data, evaluate, fit_baselines, write_performance

stats = pytest.importorskip("scipy.stats")

OUT, TRIMMING = 40, 53
PROFILE = ["profile_mnll", "profile_jsd", "profile_pearson", "profile_spearman"]
COUNTS = ["count_pearson", "count_spearman", "count_mse"]
ALL = ["all_count_pearson", "all_count_spearman", "all_count_mse", "auroc", "auprc"]


def _model(**kwargs):
	model = Cherimoya(**{"n_filters": 6, "n_layers": 2, "trimming": TRIMMING, "random_state": 0, **kwargs})
	with torch.no_grad():
		for parameter in model.parameters():
			parameter.mul_(8)  # far from the start, so that predictions differ between loci
	return model


def _data(n=11, channels=3, controls=0, seed=0):
	"""One-hot sequences, controls (or None) and counts, one channel of one locus without any."""
	generator = torch.Generator().manual_seed(seed)
	codes = torch.randint(0, 4, (n, OUT + 2 * TRIMMING), generator=generator)
	X = torch.nn.functional.one_hot(codes, 4).transpose(1, 2).float()
	y = torch.poisson(0.3 + 2 * torch.rand(n, channels, OUT, generator=generator), generator=generator)
	y[2:3, 0] = 0
	X_ctl = torch.poisson(torch.full((n, controls, X.shape[-1]), 0.2), generator=generator) if controls else None
	return X, X_ctl, y


def _totals(y, groups):
	return torch.stack([part.sum((1, 2)) for part in y.split(groups, dim=1)], dim=1)


@pytest.fixture(scope="module")
def measured():
	"""A model of groups (1, 2) on peaks and negatives, and its predictions in one batch."""
	model = _model(signal_groups=[1, 2])
	X, _, y = _data()
	X_neg, _, y_neg = _data(n=7, seed=1)
	with torch.no_grad():
		outputs = [model(X), model(X_neg)]
	return evaluate(model, (X, y), (X_neg, y_neg), batch_size=4), y, y_neg, outputs


def test_rows_have_their_columns_in_order(measured):
	assert [list(row) for row in measured[0].rows] == [PROFILE + COUNTS + ALL] * 2
	model, (X, _, y) = _model(signal_groups=[1, 2]), _data()
	assert [list(row) for row in evaluate(model, (X, y)).rows] == [PROFILE + COUNTS] * 2


def test_profile_measures_are_means_without_nan(measured):
	evaluation, y, _, ((logits, log_counts), _) = measured
	whole = calculate_performance_measures(logits, y, log_counts, signal_groups=[1, 2])
	assert np.isnan(evaluation.profile["profile_jsd"]).sum() == 1
	for name in PROFILE:
		np.testing.assert_allclose(evaluation.profile[name], whole[name].numpy(), rtol=1e-5, atol=1e-6)
		for g, channels in enumerate((slice(0, 1), slice(1, 3))):
			expected = np.nanmean(whole[name][:, channels].numpy())
			assert evaluation.rows[g][name] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("group", [0, 1])
def test_count_measures_agree_with_scipy(measured, group):
	evaluation, y, y_neg, ((_, log_counts), (_, log_counts_neg)) = measured
	row = evaluation.rows[group]
	observed = torch.log1p(_totals(y, [1, 2]))[:, group].numpy()
	predicted = log_counts[:, group].numpy()
	assert row["count_pearson"] == pytest.approx(stats.pearsonr(observed, predicted).statistic, abs=1e-5)
	assert row["count_spearman"] == pytest.approx(stats.spearmanr(observed, predicted).statistic, abs=1e-5)
	assert row["count_mse"] == pytest.approx(((observed - predicted) ** 2).mean(), rel=1e-4)
	observed = np.concatenate([observed, torch.log1p(_totals(y_neg, [1, 2]))[:, group].numpy()])
	predicted = np.concatenate([predicted, log_counts_neg[:, group].numpy()])
	assert row["all_count_pearson"] == pytest.approx(stats.pearsonr(observed, predicted).statistic, abs=1e-5)
	assert row["all_count_mse"] == pytest.approx(((observed - predicted) ** 2).mean(), rel=1e-4)
	labels = torch.tensor([1.0] * 11 + [0.0] * 7)
	assert row["auroc"] == pytest.approx(float(auroc(torch.from_numpy(predicted), labels)), abs=1e-6)
	assert row["auprc"] == pytest.approx(float(auprc(torch.from_numpy(predicted), labels)), abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_the_batch_size_changes_nothing(measured, batch_size):
	(X, _, y), (X_neg, _, y_neg) = _data(), _data(n=7, seed=1)
	model = _model(signal_groups=[1, 2])
	again = evaluate(model, (X, y), (X_neg, y_neg), batch_size=batch_size)
	for row, expected in zip(again.rows, measured[0].rows, strict=True):
		assert row == pytest.approx(expected, rel=1e-4)


def test_per_locus_counts(measured):
	evaluation, y, y_neg, ((_, log_counts), (_, log_counts_neg)) = measured
	np.testing.assert_array_equal(evaluation.observed_counts, _totals(y, [1, 2]).numpy())
	np.testing.assert_array_equal(evaluation.negative_observed_counts, _totals(y_neg, [1, 2]).numpy())
	np.testing.assert_allclose(evaluation.predicted_log_counts, log_counts.numpy(), rtol=1e-4, atol=1e-5)
	np.testing.assert_allclose(evaluation.negative_predicted_log_counts, log_counts_neg.numpy(), rtol=1e-4, atol=1e-5)


def test_example_loci_are_the_best_median_and_worst_of_the_richer_half(measured):
	evaluation, y, _, _ = measured
	totals = y.sum((1, 2)).numpy()
	pearson = evaluation.profile["profile_pearson"].mean(1)
	rich = np.flatnonzero(totals >= np.sort(totals)[(len(totals) - 1) // 2])
	order = rich[np.argsort(-pearson[rich], kind="stable")]
	assert evaluation.example_index.tolist() == [order[0], order[(len(order) - 1) // 2], order[-1]]
	np.testing.assert_array_equal(evaluation.example_observed, y[evaluation.example_index].numpy())


def test_expected_counts_of_the_examples_sum_to_the_predicted_counts(measured):
	evaluation = measured[0]
	index = evaluation.example_index
	sums = _totals(torch.from_numpy(evaluation.example_predicted), [1, 2]).numpy()
	np.testing.assert_allclose(sums, np.expm1(evaluation.predicted_log_counts[index]).clip(0), rtol=1e-4, atol=1e-5)


def test_one_locus_is_best_median_and_worst():
	X, _, y = _data(n=1)
	assert evaluate(_model(signal_groups=[3]), (X, y)).example_index.tolist() == [0, 0, 0]


class TestReverseComplement:
	GROUPS, CONTROL_GROUPS = (1, 2, 1), (2, 1)

	def _swap(self, y):
		"""Channels of groups (1, 2, 1) as seen from the other strand."""
		return y[:, [0, 2, 1, 3]].flip(-1)

	def test_the_average_is_the_same_from_both_strands(self):
		model = _model(signal_groups=self.GROUPS, n_control_tracks=3)
		X, X_ctl, y = _data(channels=4, controls=3)
		options = {"reverse_complement_average": True, "control_groups": self.CONTROL_GROUPS}
		forward = evaluate(model, (X, X_ctl, y), **options)
		backward = evaluate(model, (X.flip(1, 2), X_ctl[:, [1, 0, 2]].flip(-1), self._swap(y)), **options)
		np.testing.assert_allclose(backward.predicted_log_counts, forward.predicted_log_counts, rtol=1e-4, atol=1e-5)
		for name in PROFILE:
			flipped = forward.profile[name][:, [0, 2, 1, 3]]
			np.testing.assert_allclose(backward.profile[name], flipped, rtol=1e-3, atol=1e-5)

	def test_it_is_the_mean_of_both_strands(self):
		model = _model(signal_groups=self.GROUPS)
		X, _, y = _data(channels=4)
		with torch.no_grad():
			(logits, counts), (other, other_counts) = model(X), model(X.flip(1, 2))
		averaged = evaluate(model, (X, y), reverse_complement_average=True)
		mean = (counts + other_counts) / 2
		np.testing.assert_allclose(averaged.predicted_log_counts, mean.numpy(), rtol=1e-4, atol=1e-5)
		logits = (logits + self._swap(other)) / 2
		expected = calculate_performance_measures(logits, y, mean, signal_groups=list(self.GROUPS))
		np.testing.assert_allclose(averaged.profile["profile_mnll"], expected["profile_mnll"].numpy(), rtol=1e-4)

	def test_control_groups_must_add_up(self):
		model, (X, X_ctl, y) = _model(n_control_tracks=3), _data(channels=1, controls=3)
		with pytest.raises(InputError, match=r"control_groups \[2\] do not add up to the 3"):
			evaluate(model, (X, X_ctl, y), control_groups=[2], reverse_complement_average=True)


@pytest.mark.parametrize(
	("model", "change", "message"),
	[
		pytest.param({}, lambda X, c, y: (X[:0], y[:0]), "no loci to evaluate on", id="no_loci"),
		pytest.param({"n_control_tracks": 2}, lambda X, c, y: (X, y), "takes 2 control.*give 2 in controls", id="none"),
		pytest.param({}, lambda X, c, y: (X, c, y), "takes 0 control.*set controls to null", id="not_wanted"),
		pytest.param({"signal_groups": [2]}, lambda X, c, y: (X, y), "predicts 2 channels.*have 1", id="channels"),
		pytest.param({}, lambda X, c, y: (X[..., :100], y), "in_window is 100, too short", id="short"),
		pytest.param({}, lambda X, c, y: (X, y[..., :38]), "set in_window to 144, or out_window to 40", id="out"),
	],
)
def test_a_model_that_does_not_fit_the_data(model, change, message):
	X, X_ctl, y = _data(channels=1, controls=1)
	with pytest.raises(InputError, match=message):
		evaluate(_model(**model), change(X, X_ctl, y))


def test_the_source_of_a_misfit_is_named():
	X, _, y = _data(channels=2)
	with pytest.raises(InputError, match=r"^yeast\.torch: the model predicts 1 channels"):
		check_fits_data(_model(), (X, y), source="yeast.torch")


@pytest.fixture(scope="module")
def windows(tiny_genome):
	"""Stranded and unstranded windows with jitter, peaks of chr1 and of chr2, and negatives of chr2."""
	from cherimoya.io import extract_windows

	signals = [str(tiny_genome.signal), [str(tiny_genome.plus), str(tiny_genome.minus)]]
	options = {"in_window": OUT + 2 * TRIMMING, "out_window": OUT}
	return [
		extract_windows(loci, tiny_genome.fasta, signals, chroms=[chrom], max_jitter=jitter, **options)
		for loci, chrom, jitter in (
			(tiny_genome.peaks, "chr1", 9),
			(tiny_genome.peaks, "chr2", 9),
			(tiny_genome.negatives, "chr2", 0),
		)
	]


class TestWindows:
	def test_windows_are_their_centres_as_tensors(self, windows):
		_, peaks, negatives = windows
		model = _model(signal_groups=[1, 2])
		centre = peaks.centre()
		expected = evaluate(model, (centre.X(), centre.y()), (negatives.X(), negatives.y()))
		found = evaluate(model, peaks, negatives)
		assert [list(row.values()) for row in found.rows] == [list(row.values()) for row in expected.rows]

	def test_other_groups_of_as_many_channels_do_not_fit(self, windows):
		with pytest.raises(InputError, match=r"groups of \[3\] channels, but the signals make groups of \[1, 2\]"):
			evaluate(_model(signal_groups=[3]), windows[1])

	def test_count_baseline_is_least_squares_on_composition(self, windows):
		training, peaks, _ = windows
		baselines = fit_baselines(training)
		features, target = [], []
		for part in (training.centre(), peaks.centre()):
			text = ["".join("ACGTN"[c] for c in row) for row in part.codes]
			features.append([[1, (t.count("G") + t.count("C")) / len(t), t.count("CG") / (len(t) - 1)] for t in text])
			target.append(np.log1p(part.counts()))
		solution = np.linalg.pinv(np.array(features[0])) @ target[0]
		np.testing.assert_allclose(baselines.coefficients, solution, rtol=1e-6, atol=1e-8)
		predicted = np.array(features[1]) @ solution
		np.testing.assert_allclose(baselines.log_counts(peaks), predicted, rtol=1e-4)
		row = baselines.evaluate(peaks)[1]
		assert row["count_mse"] == pytest.approx(((predicted - target[1])[:, 1] ** 2).mean(), rel=1e-4)
		assert row["count_pearson"] == pytest.approx(np.corrcoef(predicted[:, 1], target[1][:, 1])[0, 1], abs=1e-4)

	def test_profile_baseline_is_the_mean_training_profile(self, windows):
		training, peaks, _ = windows
		baselines = fit_baselines(training)
		total = training.centre().signals.sum(0) + 1
		np.testing.assert_allclose(baselines.profile, total / total.sum(1, keepdims=True), rtol=1e-6)
		y = peaks.centre().y()
		logits = torch.log(torch.from_numpy(baselines.profile)).float().expand_as(y)
		expected = calculate_performance_measures(logits, y, torch.zeros(len(y), 2), signal_groups=[1, 2])
		for g, channels in enumerate((slice(0, 1), slice(1, 3))):
			for name in PROFILE:
				value = baselines.evaluate(peaks)[g][name]
				assert value == pytest.approx(np.nanmean(expected[name][:, channels].numpy()), rel=1e-4)

	def test_negatives_join_the_count_fit_alone(self, windows):
		training, peaks, negatives = windows
		alone, both = fit_baselines(training), fit_baselines(training, negatives)
		np.testing.assert_array_equal(alone.profile, both.profile)
		assert not np.allclose(alone.coefficients, both.coefficients)
		assert list(both.evaluate(peaks, negatives)[0]) == PROFILE + COUNTS + ALL

	def test_baselines_of_other_windows(self, windows):
		training, peaks, _ = windows
		with pytest.raises(InputError, match="use the same signals and out_window"):
			fit_baselines(training).evaluate(_narrow(peaks))

	def test_no_training_loci(self, windows):
		with pytest.raises(InputError, match="no training loci"):
			fit_baselines(windows[0][:0])


def _narrow(windows):
	"""The same windows with fewer output positions."""
	from dataclasses import replace

	centre = windows.centre()
	return replace(centre, signals=centre.signals[..., 2:-2], out_window=OUT - 4)


def test_performance_is_written_as_a_table(tmp_path):
	rows = [{"a": 1.0, "b": math.nan}, {"a": 1 / 3, "b": 12345.678}]
	write_performance(tmp_path / "x.tsv", rows)
	assert (tmp_path / "x.tsv").read_text() == "a\tb\n1\tnan\n0.333333\t12345.7\n"
	assert [path.name for path in tmp_path.iterdir()] == ["x.tsv"]


def test_batches_that_do_not_fit_are_halved():
	"""In evaluation as in prediction: the measures are those of smaller batches."""
	(X, _, y), (X_neg, _, y_neg) = _data(n=20), _data(n=9, seed=1)
	expected = evaluate(_model(signal_groups=[1, 2]), (X, y), (X_neg, y_neg), batch_size=3)
	model, sizes = _model(signal_groups=[1, 2]), []

	def check(_, inputs):
		sizes.append(len(inputs[0]))
		if sizes[-1] > most:
			raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

	model.register_forward_pre_hook(check)
	most = 3
	found = evaluate(model, (X, y), (X_neg, y_neg), batch_size=13)
	assert sizes == [13, 6, *[3] * 6, 2, *(9, 4, 2, 2, 2, 2, 1), 3]  # peaks, negatives, and the examples
	for row, other in zip(found.rows, expected.rows, strict=True):
		assert row == pytest.approx(other, rel=1e-5)
	most = 0
	with pytest.raises(InputError, match="locus 0 alone does not fit in the memory of cpu"):
		evaluate(model, (X, y), batch_size=4)
