"""Integrated gradients: against a fine sum by definition, and how closely contributions sum to the difference."""

import numpy as np
import pytest
import torch

from cherimoya import Cherimoya, ControlWrapper, LogCountWrapper, ProfileWrapper
from cherimoya.errors import InputError, SettingsError
from cherimoya.interpret.attribution import projected_contributions
from cherimoya.interpret.integrated_gradients import integrated_gradients
from cherimoya.interpret.references import dinucleotide_shuffle

LENGTH = 47


def make_model(n_control_tracks: int = 0) -> Cherimoya:
	model = Cherimoya(
		n_filters=5, n_layers=2, n_control_tracks=n_control_tracks, signal_groups=[1, 2], trimming=9, random_state=3
	)
	with torch.no_grad():
		for parameter in model.parameters():
			parameter.mul_(12)
	return model.double()


def make_codes(n: int = 2) -> np.ndarray:
	codes = np.random.default_rng(5).integers(0, 4, (n, LENGTH)).astype(np.uint8)
	codes[1::2, 20:22] = 4
	return codes


def one_hot(codes: np.ndarray | torch.Tensor) -> torch.Tensor:
	"""(..., L) -> (..., 4, L)"""
	return (torch.as_tensor(codes).unsqueeze(-2) == torch.arange(4).unsqueeze(-1)).double()


@pytest.mark.parametrize("group", [None, 1], ids=["all groups", "group 1"])
@pytest.mark.parametrize("output", ["counts", "profile"])
def test_against_a_fine_sum_along_the_path(output: str, group: int | None) -> None:
	model, codes = make_model(), make_codes()
	X, references = one_hot(codes), one_hot(dinucleotide_shuffle(codes, 2))
	wrapper = (LogCountWrapper if output == "counts" else ProfileWrapper)(model, group)
	expected, steps = torch.zeros_like(X), 150
	for k in range(2):
		m = torch.zeros_like(X)
		for step in range(steps):
			between = torch.lerp(references[:, k], X, (step + 0.5) / steps).requires_grad_()
			m += torch.autograd.grad(wrapper(between).sum(), between)[0] / steps
		for base in range(4):
			bases = torch.zeros_like(X)
			bases[:, base] = 1
			expected[:, base] += (m * (bases - references[:, k])).sum(1) / 2
	found = integrated_gradients(model, codes, output=output, group=group, n_shuffles=2, n_steps=24)
	assert expected.abs().max() > 1e-3
	torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("output", ["counts", "profile"])
def test_contributions_sum_to_the_difference_the_closer_the_more_steps(output: str) -> None:
	model, codes = make_model(), make_codes()
	errors = []
	for n_steps in (1, 4, 40):
		found = integrated_gradients(
			model, codes, output=output, n_steps=n_steps, references="zeros", return_deltas=True
		)
		errors.append(found.completeness_error / float(found.differences.abs().mean()))
	assert errors[2] < 1e-4 and errors[2] < errors[1] / 5 < errors[0] / 5
	sums = projected_contributions(found.scores, one_hot(codes)).sum(1)
	torch.testing.assert_close(sums, (found.differences + found.deltas)[:, 0])


@pytest.mark.parametrize("output", ["counts", "profile"])
def test_controls_stay_along_the_path(output: str) -> None:
	model, codes = make_model(2), make_codes()
	X_ctl = 9 * torch.rand(2, 2, LENGTH, generator=torch.Generator().manual_seed(0))
	options = {"output": output, "n_shuffles": 2, "n_steps": 20, "return_deltas": True}
	found = integrated_gradients(model, codes, X_ctl, **options)
	assert found.completeness_error < 1e-3 * float(found.differences.abs().mean())
	zeros = integrated_gradients(model, codes, X_ctl * 0, **options).scores
	assert torch.equal(integrated_gradients(ControlWrapper(model), codes, **options).scores, zeros)
	assert torch.equal(found.scores, zeros) == (output == "counts")


def test_shape_of_the_calls() -> None:
	model, codes, progress = make_model().train(), make_codes(3), []
	options = {"n_shuffles": 5, "n_steps": 3}
	expected = integrated_gradients(model, codes, **options)
	found = integrated_gradients(
		model,
		one_hot(codes),
		batch_size=2,
		start=7,
		end=30,
		progress=lambda *counts: progress.append(counts),
		**options,
	)
	torch.testing.assert_close(found, expected[..., 7:30], rtol=1e-9, atol=1e-12)
	assert progress[-1] == (15, 15) and len(progress) == 9
	projected = integrated_gradients(model, codes, hypothetical=False, **options)
	assert torch.equal(projected, expected * one_hot(codes))
	assert model.training and all(p.grad is None and p.requires_grad for p in model.parameters())
	assert not expected.requires_grad
	assert not torch.equal(integrated_gradients(model, codes, random_state=1, **options), expected)
	assert integrated_gradients(model, codes[:0], **options).shape == (0, 4, LENGTH)


def test_gradients_of_weights_are_not_worked_out(monkeypatch: pytest.MonkeyPatch) -> None:
	from cherimoya.kernels import cpu

	needed = []
	backward = cpu.Block.backward

	def seen(ctx, g):
		needed.append(tuple(ctx.needs_input_grad[:4]))
		return backward(ctx, g)

	monkeypatch.setattr(cpu.Block, "backward", staticmethod(seen))
	integrated_gradients(make_model(), make_codes(1), n_shuffles=1, n_steps=1)
	assert needed == [(True, False, False, False)] * 2


@pytest.mark.parametrize(
	("options", "error", "words"),
	[
		({"output": "logits"}, SettingsError, '"counts" or "profile"'),
		({"group": 2}, SettingsError, "2 signal groups, 0 to 1"),
		({"n_steps": 0}, SettingsError, "n_steps"),
		({"references": torch.zeros(2, 3, 4, 9)}, InputError, r"\(2, R, 4, 47\)"),
		({"end": LENGTH + 1}, SettingsError, f"<= {LENGTH}"),
	],
	ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_arguments(options: dict, error: type[Exception], words: str) -> None:
	with pytest.raises(error, match=words):
		integrated_gradients(make_model(), make_codes(), **options)
