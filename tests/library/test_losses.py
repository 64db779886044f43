"""The training loss against torch's and SciPy's distributions."""

import numpy as np
import pytest
import torch
from scipy.stats import multinomial

from cherimoya.losses import _mixture_loss


def _data(n: int, channels: int, length: int, n_groups: int, seed: int = 0):
	rng = np.random.default_rng(seed)
	y = torch.from_numpy(rng.poisson(1.2, size=(n, channels, length)).astype(np.float32))
	logits = torch.from_numpy(rng.normal(size=(n, channels, length)).astype(np.float32) * 2)
	return y, logits, torch.from_numpy(rng.normal(size=(n, n_groups)).astype(np.float32) + 3)


def _direct(y, logits, log_counts, groups):
	"""Profile and count loss of each group and example, by SciPy in float64."""
	n, start = len(y), 0
	profile, count = np.zeros((n, len(groups))), np.zeros((n, len(groups)))
	for g, size in enumerate(groups):
		for i in range(n):
			k = y[i, start : start + size].numpy().astype(np.float64).ravel()
			v = logits[i, start : start + size].numpy().astype(np.float64).ravel()
			p = np.exp(v - v.max()) / np.exp(v - v.max()).sum()
			profile[i, g] = -multinomial.logpmf(k, k.sum(), p)
			count[i, g] = (log_counts[i, g].item() - np.log1p(k.sum())) ** 2
		start += size
	return profile, count


GROUPS = {"one channel": [1], "a pair": [2], "mixed": [1, 2, 3], "a count a channel": [1, 1]}


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("case", GROUPS, ids=str)
def test_groups_match_scipy(case, n):
	groups = GROUPS[case]
	y, logits, log_counts = _data(n, sum(groups), 23, len(groups))
	profile, count = _mixture_loss(y, logits, log_counts, signal_groups=groups)
	expected_profile, expected_count = _direct(y, logits, log_counts, groups)
	assert profile.shape == count.shape == (len(groups),)
	np.testing.assert_allclose(profile.numpy(), expected_profile.mean(0), rtol=1e-5)
	np.testing.assert_allclose(count.numpy(), expected_count.mean(0), rtol=1e-5)


def test_without_groups_all_channels_are_one_and_results_are_scalars():
	y, logits, log_counts = _data(4, 3, 17, 1)
	profile, count = _mixture_loss(y, logits, log_counts)
	expected_profile, expected_count = _direct(y, logits, log_counts, [3])
	assert profile.shape == count.shape == ()
	assert profile.item() == pytest.approx(expected_profile.mean(), rel=1e-5)
	assert count.item() == pytest.approx(expected_count.mean(), rel=1e-5)
	flat = _mixture_loss(y, logits, log_counts[:, 0])
	assert torch.equal(flat[0], profile) and torch.equal(flat[1], count)


def test_labels_leave_negatives_out_of_the_profile_alone():
	groups, labels = [1, 2], torch.tensor([1, 0, 1, 0, 0])
	y, logits, log_counts = _data(5, 3, 17, 2)
	logits[1] = torch.inf  # would show in any sum that takes a negative in
	y[3] = 0
	profile, count = _mixture_loss(y, logits, log_counts, labels=labels, signal_groups=groups)
	expected_profile, expected_count = _direct(y, torch.nan_to_num(logits), log_counts, groups)
	np.testing.assert_allclose(profile.numpy(), expected_profile[[0, 2]].mean(0), rtol=1e-5)
	np.testing.assert_allclose(count.numpy(), expected_count.mean(0), rtol=1e-5)


def test_a_batch_without_peaks_has_a_profile_loss_of_zero_and_finite_gradients():
	y, logits, log_counts = _data(3, 2, 9, 1)
	logits.requires_grad_(), log_counts.requires_grad_()
	profile, count = _mixture_loss(y, logits, log_counts, labels=torch.zeros(3))
	assert profile.item() == 0
	(profile + count).backward()
	assert not logits.grad.any()
	assert log_counts.grad.abs().min() > 0


def test_gradients_match_torch_distributions():
	y, logits, log_counts = _data(3, 2, 11, 1)
	logits.requires_grad_(), log_counts.requires_grad_()
	found = torch.autograd.grad(sum(_mixture_loss(y, logits, log_counts)), [logits, log_counts])
	nll = [
		-torch.distributions.Multinomial(int(k.sum()), logits=v.flatten()).log_prob(k.flatten())
		for k, v in zip(y, logits, strict=True)
	]
	mse = (log_counts[:, 0] - y.sum((1, 2)).log1p()).square()
	expected = torch.autograd.grad((torch.stack(nll) + mse).mean(), [logits, log_counts])
	for f, e in zip(found, expected, strict=True):
		torch.testing.assert_close(f, e, rtol=1e-5, atol=1e-6)


def test_gradcheck():
	y, logits, log_counts = (t.double() for t in _data(3, 3, 6, 2))
	inputs = logits.requires_grad_(), log_counts.requires_grad_()
	labels = torch.tensor([1, 0, 1])
	assert torch.autograd.gradcheck(lambda a, b: _mixture_loss(y, a, b, labels, [1, 2]), inputs)


def test_large_counts_keep_their_precision():
	"""A million reads: the terms are of 1e7, their sum of 1e3."""
	rng = np.random.default_rng(0)
	p = rng.dirichlet(np.ones(200))
	y = torch.from_numpy(rng.multinomial(1_000_000, p).astype(np.float32)).view(1, 1, -1)
	logits = torch.from_numpy(np.log(p)).float().view(1, 1, -1)
	profile, _ = _mixture_loss(y, logits, torch.zeros(1, 1))
	expected, _ = _direct(y, logits, torch.zeros(1, 1), [1])
	assert profile.item() == pytest.approx(expected.mean(), rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_raised_to_float32(dtype):
	y, logits, log_counts = _data(3, 2, 11, 1)
	found = _mixture_loss(y, logits.to(dtype), log_counts.to(dtype))
	expected = _mixture_loss(y, logits.to(dtype).float(), log_counts.to(dtype).float())
	for f, e in zip(found, expected, strict=True):
		assert f.dtype == torch.float32
		assert torch.equal(f, e)


def test_integer_counts():
	y, logits, log_counts = _data(3, 2, 11, 1)
	for f, e in zip(_mixture_loss(y.int(), logits, log_counts), _mixture_loss(y, logits, log_counts), strict=True):
		assert torch.equal(f, e)


BAD = {
	"lengths": ((2, 1, 5), (2, 1, 6), (2, 1), None, None, r"\(2, 1, 5\) and \(2, 1, 6\)"),
	"groups": ((2, 3, 5), (2, 3, 5), (2, 1), None, [2], "add up to 2 channels, but y has 3"),
	"counts": ((2, 3, 5), (2, 3, 5), (2, 1), None, [1, 2], r"\(2, 2\).*got \(2, 1\)"),
	"labels": ((2, 3, 5), (2, 3, 5), (2, 1), (3,), None, r"labels must have shape \(2,\), got \(3,\)"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_shapes_that_do_not_fit_are_named(case):
	y, logits, log_counts, labels, groups, message = BAD[case]
	labels = None if labels is None else torch.ones(labels)
	with pytest.raises(ValueError, match=message):
		_mixture_loss(torch.ones(y), torch.ones(logits), torch.ones(log_counts), labels, groups)
