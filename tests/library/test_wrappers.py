"""Wrappers: their formulas, and their predictions of many sequences."""

import numpy as np
import pytest
import torch
from torch import nn

from cherimoya import Cherimoya, ControlWrapper, ExpectedCountsWrapper, LogCountWrapper, ProfileWrapper

LENGTH = 40


def _model(n_control_tracks: int = 0) -> Cherimoya:
	"""Groups of 1 and 2 channels, weights large enough to give profiles a shape."""
	model = Cherimoya(
		n_filters=5, n_layers=2, signal_groups=[1, 2], n_control_tracks=n_control_tracks, trimming=8, random_state=0
	)
	with torch.no_grad():
		for p in model.parameters():
			p.mul_(20) if p.ndim > 1 else None
		model.linear.bias.fill_(3)
	return model.eval()


def _one_hot(n: int = 3) -> torch.Tensor:
	codes = np.random.default_rng(0).integers(0, 4, size=(n, LENGTH))
	return torch.from_numpy(np.eye(4, dtype=np.float32)[codes]).transpose(1, 2).contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8], ids=str)
def test_control_wrapper_fills_in_zeros(dtype):
	model, X = _model(2), _one_hot()
	wrapped = ControlWrapper(model)
	assert wrapped.signal_groups == (1, 2)
	assert wrapped.n_control_tracks == 2
	for found, expected in zip(wrapped(X.to(dtype)), model(X, torch.zeros(3, 2, LENGTH)), strict=True):
		assert torch.equal(found, expected)
	controls = torch.ones(3, 2, LENGTH)
	for found, expected in zip(wrapped(X, controls), model(X, controls), strict=True):
		assert torch.equal(found, expected)


def test_control_wrapper_of_a_model_without_controls_is_the_model():
	model, X = _model(), _one_hot()
	for found, expected in zip(ControlWrapper(model)(X), model(X), strict=True):
		assert torch.equal(found, expected)


@pytest.mark.parametrize("group", [None, 0, 1])
def test_profile_wrapper_is_its_formula(group):
	model, X = _model(), _one_hot()
	channels = {None: slice(0, 3), 0: slice(0, 1), 1: slice(1, 3)}[group]
	logits = model(X)[0].detach().double().numpy()[:, channels].reshape(3, -1)
	v = logits - logits.mean(1, keepdims=True)
	p = np.exp(v) / np.exp(v).sum(1, keepdims=True)
	found = ProfileWrapper(model, group)(X)
	assert found.shape == (3, 1)
	np.testing.assert_allclose(found.detach().numpy()[:, 0], (v * p).sum(1), rtol=1e-5)


@pytest.mark.parametrize(("group", "columns"), [(None, [0, 1]), (0, [0]), (1, [1])], ids=str)
def test_log_count_wrapper(group, columns):
	model, X = _model(), _one_hot()
	assert torch.equal(LogCountWrapper(model, group)(X), model(X)[1][:, columns])


def test_expected_counts_sum_to_each_groups_count():
	model, X = _model(), _one_hot()
	expected = ExpectedCountsWrapper(model)(X)
	logits, log_counts = model(X)
	assert expected.shape == logits.shape
	totals = torch.stack([expected[:, :1].sum((1, 2)), expected[:, 1:].sum((1, 2))], dim=1)
	torch.testing.assert_close(totals, torch.expm1(log_counts))
	shares = logits[:, 1:].flatten(1).softmax(1).view(3, 2, -1)
	torch.testing.assert_close(expected[:, 1:], shares * torch.expm1(log_counts[:, 1])[:, None, None])


@pytest.mark.parametrize("wrapper", [ProfileWrapper, LogCountWrapper], ids=lambda w: w.__name__)
@pytest.mark.parametrize("group", [-1, 2])
def test_a_group_that_is_not_there(wrapper, group):
	with pytest.raises(ValueError, match=f"between 0 and 1.*got {group}"):
		wrapper(_model(), group)


@pytest.mark.parametrize("wrapper", [ProfileWrapper, ExpectedCountsWrapper], ids=lambda w: w.__name__)
def test_softmax_and_product_can_be_hooked(wrapper):
	wrapped = wrapper(_model())
	seen: list[str] = []
	for module in wrapped.children():
		if not isinstance(module, Cherimoya):
			module.register_forward_hook(lambda m, a, out: seen.append(type(m).__name__))
	wrapped(_one_hot())
	assert {"Softmax", "Product"} == set(seen)
	assert any(isinstance(m, nn.Softmax) for m in wrapped.modules())


@pytest.mark.parametrize("wrapper", [ProfileWrapper, LogCountWrapper, ExpectedCountsWrapper], ids=lambda w: w.__name__)
def test_controls_pass_through_every_wrapper(wrapper):
	model, X = _model(1), _one_hot()
	controls = torch.rand(3, 1, LENGTH)
	assert torch.equal(wrapper(model)(X, controls), wrapper(ControlWrapper(model))(X, controls))
	assert torch.equal(wrapper(model)(X, controls * 0), wrapper(ControlWrapper(model))(X))


@pytest.mark.parametrize("wrapper", [ProfileWrapper, LogCountWrapper, ExpectedCountsWrapper], ids=lambda w: w.__name__)
@pytest.mark.parametrize("n_control_tracks", [0, 2])
def test_predict_is_forward_batch_by_batch(wrapper, n_control_tracks):
	model, X = _model(n_control_tracks).train(), _one_hot(5)
	controls = (torch.rand(5, 2, LENGTH),) if n_control_tracks else ()
	view = wrapper(model)
	found = view.predict(X.to(torch.int8), *controls, batch_size=2)
	assert view.training and model.training and not found.requires_grad
	torch.testing.assert_close(found, view(X, *controls).detach(), rtol=1e-5, atol=1e-5)


def test_predict_of_a_control_wrapper_gives_both_outputs():
	model, X = _model(2), _one_hot(5)
	found = ControlWrapper(model).predict(X, batch_size=2)
	logits, log_counts = model(X, torch.zeros(5, 2, LENGTH))
	torch.testing.assert_close(found.logits, logits.detach(), rtol=1e-5, atol=1e-5)
	torch.testing.assert_close(found.log_counts, log_counts.detach(), rtol=1e-5, atol=1e-5)
