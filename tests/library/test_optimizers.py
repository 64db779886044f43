"""Which optimizer takes which parameter, and the learning rates of every step."""

import math

import pytest
import torch

from cherimoya import Cherimoya
from cherimoya.training import TrainingOptions, build_optimizers, build_schedulers, planned_epochs, split_parameters


def _model(**kwargs):
	return Cherimoya(**{"n_filters": 4, "n_layers": 2, "random_state": 0, **kwargs})


def test_every_parameter_is_in_exactly_one_optimizer():
	model = _model(signal_groups=[1, 2], n_control_tracks=2)
	muon, adam = split_parameters(model)
	assert sorted(map(id, muon + adam)) == sorted(map(id, model.parameters()))


def test_muon_takes_the_projections_of_the_blocks_and_nothing_else():
	model = _model(n_layers=3)
	names = {id(parameter): name for name, parameter in model.named_parameters()}
	muon, _ = split_parameters(model)
	expected = {f"blocks.{i}.linear{k}.weight" for i in range(3) for k in (1, 2)}
	assert {names[id(parameter)] for parameter in muon} == expected


def test_optimizers_read_every_option():
	options = TrainingOptions(muon_lr=0.5, muon_wd=0.25, adam_lr=0.125, adam_wd=0.0625)
	muon, adam = build_optimizers(_model(), options)
	assert isinstance(muon, torch.optim.Muon)
	assert isinstance(adam, torch.optim.AdamW)
	assert [(g["lr"], g["weight_decay"]) for g in muon.param_groups] == [(0.5, 0.25)]
	assert [(g["lr"], g["weight_decay"]) for g in adam.param_groups] == [(0.125, 0.0625)]


def _rates(options, *, n_epochs, steps_per_epoch):
	"""The rates (Muon, AdamW) that the steps of a run take."""
	optimizers = build_optimizers(_model(), options)
	schedulers = build_schedulers(optimizers, options, n_epochs=n_epochs, steps_per_epoch=steps_per_epoch)
	rates = []
	for _ in range(n_epochs * steps_per_epoch + 1):
		rates.append([optimizer.param_groups[0]["lr"] for optimizer in optimizers])
		for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
			optimizer.step()
			scheduler.step()
	return torch.tensor(rates, dtype=torch.float64)  # (steps + 1, 2)


@pytest.mark.parametrize(
	("warmup", "epochs", "per_epoch", "warmup_steps"),
	[
		pytest.param(5, 20, 3, 15, id="default_warmup"),
		pytest.param(0, 4, 7, 0, id="no_warmup"),
		pytest.param(1, 2, 1, 1, id="one_step_per_epoch"),
		pytest.param(9, 10, 2, 18, id="one_epoch_of_decay"),
		pytest.param(5, 5, 4, 10, id="warmup_as_long_as_the_run"),
		pytest.param(50, 3, 5, 7, id="warmup_longer_than_the_run"),
	],
)
def test_rates_follow_the_closed_form(warmup, epochs, per_epoch, warmup_steps):
	options = TrainingOptions(muon_lr=0.02, adam_lr=0.004, n_warmup_epochs=warmup)
	rates = _rates(options, n_epochs=epochs, steps_per_epoch=per_epoch)
	total = epochs * per_epoch
	for column, peak in enumerate((0.02, 0.004)):
		warm = [peak * (0.01 + 0.99 * t / warmup_steps) for t in range(warmup_steps)]
		length = total - warmup_steps
		cosine = [1e-5 + (peak - 1e-5) * 0.5 * (1 + math.cos(math.pi * t / length)) for t in range(length + 1)]
		expected = torch.tensor(warm + cosine, dtype=torch.float64)
		torch.testing.assert_close(rates[:, column], expected, rtol=1e-9, atol=0)
	if warmup_steps:
		assert rates[0, 0] == pytest.approx(0.01 * 0.02)
	torch.testing.assert_close(rates[-1], torch.tensor([1e-5, 1e-5], dtype=torch.float64))


def test_a_rate_below_the_final_one_never_rises_in_the_decay():
	options = TrainingOptions(muon_lr=1e-6, adam_lr=1e-6, n_warmup_epochs=1)
	rates = _rates(options, n_epochs=3, steps_per_epoch=2)
	assert rates.max() == pytest.approx(1e-6)


@pytest.mark.parametrize(
	("floor", "expected"),
	[
		pytest.param(None, 50, id="no_floor"),
		pytest.param(100, 50, id="floor_below"),
		pytest.param(501, 51, id="floor_just_above"),
		pytest.param(20_000, 2_000, id="floor_far_above"),
	],
)
def test_a_floor_on_steps_plans_more_epochs(floor, expected):
	assert planned_epochs(TrainingOptions(max_epochs=50, min_total_steps=floor), steps_per_epoch=10) == expected
