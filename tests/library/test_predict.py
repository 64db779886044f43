"""Batched prediction gives what the model gives, whatever the dtype and the batch size, and leaves the model alone."""

import numpy as np
import pytest
import torch

from cherimoya import Cherimoya, ControlWrapper, ExpectedCountsWrapper
from cherimoya.errors import InputError, SettingsError
from cherimoya.interpret.predict import Prediction, expected_counts, predict

LENGTH, OUT = 121, 23  # 46 + 1 + 2 = 49 bases are cut from each side


def make_model(groups: tuple[int, ...] = (1, 2), n_control_tracks: int = 0) -> Cherimoya:
	model = Cherimoya(
		n_filters=6, n_layers=2, n_control_tracks=n_control_tracks, signal_groups=list(groups), random_state=1
	)
	with torch.no_grad():  # larger weights than the initial ones, so that predictions differ
		for parameter in model.parameters():
			parameter.mul_(8)
	return model


def make_codes(n: int = 7, seed: int = 0) -> np.ndarray:
	codes = np.random.default_rng(seed).integers(0, 4, (n, LENGTH)).astype(np.uint8)
	codes[1::3, 60] = 4
	return codes


def to_one_hot(codes: np.ndarray) -> torch.Tensor:
	return torch.from_numpy(codes[:, None] == np.arange(4)[:, None]).float()  # (n, L) -> (n, 4, L)


def read_only(codes: np.ndarray) -> np.ndarray:
	codes.flags.writeable = False
	return codes


INPUTS = {
	"float32": to_one_hot,
	"float16": lambda codes: to_one_hot(codes).half(),
	"float64": lambda codes: to_one_hot(codes).double(),
	"int8": lambda codes: to_one_hot(codes).to(torch.int8),
	"bool": lambda codes: to_one_hot(codes).bool(),
	"numpy int8": lambda codes: to_one_hot(codes).numpy().astype(np.int8),
	"codes": torch.from_numpy,
	"numpy codes": lambda codes: codes,
	"read-only codes": read_only,
	"not contiguous": lambda codes: to_one_hot(codes).transpose(1, 2).contiguous().transpose(1, 2),
}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_predictions_are_those_of_the_model(kind: str, batch_size: int) -> None:
	model = make_model()
	codes = make_codes()
	with torch.no_grad():
		logits, log_counts = model(to_one_hot(codes))
	result = predict(model, INPUTS[kind](codes), batch_size=batch_size)
	assert isinstance(result, Prediction)
	assert result.logits.shape == (7, 3, OUT) and result.log_counts.shape == (7, 2)
	torch.testing.assert_close(result.logits, logits, rtol=1e-5, atol=1e-5)
	torch.testing.assert_close(result.log_counts, log_counts, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("as_numpy", [False, True], ids=["tensor", "array"])
def test_controls_reach_the_model(as_numpy: bool) -> None:
	model = make_model(n_control_tracks=2)
	X = to_one_hot(make_codes())
	X_ctl = torch.rand(7, 2, LENGTH, generator=torch.Generator().manual_seed(0)) * 9
	with torch.no_grad():
		logits, log_counts = model(X, X_ctl)
	result = predict(model, X, X_ctl.numpy() if as_numpy else X_ctl, batch_size=4)
	torch.testing.assert_close(result.logits, logits, rtol=1e-5, atol=1e-5)
	torch.testing.assert_close(result.log_counts, log_counts, rtol=1e-5, atol=1e-5)
	zeros = predict(ControlWrapper(model), X, batch_size=4)
	with torch.no_grad():
		expected = model(X, torch.zeros_like(X_ctl))
	torch.testing.assert_close(zeros.log_counts, expected[1], rtol=1e-5, atol=1e-5)
	assert not torch.allclose(zeros.log_counts, result.log_counts)


def test_the_model_is_left_as_it_was() -> None:
	model = make_model().train()
	model.iconv.eval()
	modes = [module.training for module in model.modules()]
	seen = []
	model.register_forward_pre_hook(lambda module, _: seen.append((module.training, torch.is_grad_enabled())))
	result = predict(model, make_codes(), batch_size=4)
	assert seen == [(False, False)] * 2
	assert [module.training for module in model.modules()] == modes
	assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
	weight = torch.ones((), requires_grad=True)  # results are plain tensors, which autograd may use
	(result.logits * weight).sum().backward()
	assert weight.grad is not None
	model(to_one_hot(make_codes()))[1].sum().backward()
	assert model.linear.weight.grad is not None


def test_modes_come_back_after_an_error() -> None:
	model = make_model().train()
	with pytest.raises(ValueError):
		predict(model, make_codes()[:, :98])
	assert model.training


def test_one_batch_at_a_time() -> None:
	model = make_model()
	sizes, progress = [], []
	model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
	predict(model, make_codes(11), batch_size=4, progress=lambda *counts: progress.append(counts))
	assert sizes == [4, 4, 3]
	assert progress == [(4, 11), (8, 11), (11, 11)]


def test_no_sequences_give_empty_predictions() -> None:
	result = predict(make_model(), make_codes()[:0])
	assert result.logits.shape == (0, 3, OUT) and result.log_counts.shape == (0, 2)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "float16"], ids=str)
def test_autocast_results_are_float32_and_near(dtype: str | torch.dtype) -> None:
	model, X = make_model(), make_codes()
	exact, rounded = predict(model, X), predict(model, X, dtype=dtype)
	assert rounded.logits.dtype == rounded.log_counts.dtype == torch.float32
	assert 0 < (rounded.logits - exact.logits).abs().max() < 0.05 * exact.logits.abs().max()


def test_weights_in_float64_predict_in_float64() -> None:
	result = predict(make_model().double(), make_codes())
	assert result.logits.dtype == result.log_counts.dtype == torch.float64


@pytest.mark.parametrize(
	("X", "X_ctl", "words"),
	[
		(torch.zeros(2, 5, LENGTH), None, r"got shape \(2, 5, 121\)"),
		(torch.zeros(2, LENGTH), None, "dtype torch.float32"),
		(torch.zeros(LENGTH, dtype=torch.uint8), None, r"got shape \(121,\)"),
		(torch.zeros(2, 4, LENGTH), torch.zeros(3, 1, LENGTH), "n = 2"),
		(torch.zeros(2, 4, LENGTH), torch.zeros(2, 1, OUT), "whole input window"),
	],
	ids=["five channels", "floating codes", "one dimension", "rows of controls", "length of controls"],
)
def test_bad_arrays(X: torch.Tensor, X_ctl: torch.Tensor | None, words: str) -> None:
	with pytest.raises(InputError, match=words):
		predict(make_model(), X, X_ctl)


def test_unknown_dtype() -> None:
	with pytest.raises(SettingsError, match="float8"):
		predict(make_model(), make_codes(), dtype="float8")


@pytest.mark.parametrize("groups", [(1,), (2,), (1, 1), (2, 1, 3)], ids=str)
def test_expected_counts(groups: tuple[int, ...]) -> None:
	model, X = make_model(groups), to_one_hot(make_codes())
	prediction = predict(model, X)
	expected = expected_counts(*prediction, groups)
	with torch.no_grad():
		torch.testing.assert_close(expected, ExpectedCountsWrapper(model)(X), rtol=1e-4, atol=1e-5)
	start = 0
	for g, size in enumerate(groups):
		totals = expected[:, start : start + size].double().sum(dim=(1, 2))
		torch.testing.assert_close(totals, torch.expm1(prediction.log_counts[:, g].double()), rtol=1e-5, atol=1e-6)
		start += size


@pytest.mark.parametrize(
	("groups", "words"),
	[
		((2,), r"logits of shape \(n, 2, out\)"),
		((1, 1, 1), r"log counts of shape \(n, 3\)"),
		((), "at least one group"),
	],
	ids=["channels", "groups", "none"],
)
def test_expected_counts_of_other_groups(groups: tuple[int, ...], words: str) -> None:
	with pytest.raises(ValueError, match=words):
		expected_counts(torch.zeros(4, 3, OUT), torch.zeros(4, 2), groups)
