"""Which optimizer takes which parameter, and the learning rates of every step."""

import copy
import math

import pytest
import torch

from cherimoya import Cherimoya
from cherimoya.training import TrainingOptions, build_optimizers, build_schedulers, planned_epochs, split_parameters
from cherimoya.training.muon import Muon, orthogonalize


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


def _definition(matrix, *, steps=5):
	"""Newton and Schulz's iteration on one matrix, in float64, as torch's documentation gives it."""
	X = matrix.double()
	X = X.T if X.shape[0] > X.shape[1] else X
	X = X / X.norm()
	for _ in range(steps):
		A = X @ X.T
		X = 3.4445 * X + (-4.7750 * A + 2.0315 * A @ A) @ X
	return X.T if matrix.shape[0] > matrix.shape[1] else X


def _matrices(*shapes, seed=0):
	generator = torch.Generator().manual_seed(seed)
	return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


SHAPES = [(6, 12), (12, 6), (6, 12), (5, 5), (12, 6), (1, 7)]


def _run(optimizer, parameters, n_steps=4):
	"""Steps with gradients that depend on the step alone."""
	for t in range(n_steps):
		for i, p in enumerate(parameters):
			p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * t + i))
		optimizer.step()
	return [p.detach().clone() for p in parameters]


@pytest.mark.parametrize("nesterov", [True, False], ids=["nesterov", "plain"])
def test_muon_steps_by_its_definition(nesterov):
	parameters = _matrices(*SHAPES)
	expected = [p.detach().double() for p in parameters]
	momenta = [torch.zeros_like(e) for e in expected]
	for t in range(4):
		for i, e in enumerate(expected):
			g = torch.randn(e.shape, generator=torch.Generator().manual_seed(100 * t + i)).double()
			momenta[i] = 0.95 * momenta[i] + 0.05 * g
			update = _definition(0.05 * g + 0.95 * momenta[i] if nesterov else momenta[i])
			expected[i] = e * (1 - 0.02 * 0.1) - 0.02 * max(1, e.shape[0] / e.shape[1]) ** 0.5 * update
	found = _run(Muon(parameters, lr=0.02, weight_decay=0.1, nesterov=nesterov), parameters)
	for f, e in zip(found, expected, strict=True):
		torch.testing.assert_close(f.double(), e, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("adjustment", [None, "original", "match_rms_adamw"])
def test_muon_is_torchs_up_to_the_rounding_of_bfloat16(adjustment):
	runs = []
	for kind in (torch.optim.Muon, Muon):
		parameters = _matrices(*SHAPES)
		start = [p.detach().clone() for p in parameters]
		end = _run(kind(parameters, lr=0.02, weight_decay=0.1, adjust_lr_fn=adjustment), parameters)
		runs.append([e - s for e, s in zip(end, start, strict=True)])
	for theirs, ours in zip(*runs, strict=True):
		assert 0 < (ours - theirs).norm() < 0.03 * theirs.norm()


@pytest.mark.parametrize("shape", [(6, 12), (12, 6), (96, 192)], ids=str)
def test_matrices_together_are_orthogonalized_as_torch_does_it_one_by_one(shape):
	parameters = _matrices(shape, shape, shape)
	updates = torch.stack([p.detach() for p in parameters])
	for p in parameters:
		p.grad = p.detach().clone()
	torch.optim.Muon(parameters, lr=1.0, momentum=0.0, weight_decay=1.0, nesterov=False).step()
	expected = torch.stack([-p.detach() for p in parameters]) / max(1, shape[0] / shape[1]) ** 0.5
	settings = {"coefficients": (3.4445, -4.7750, 2.0315), "steps": 5, "eps": 1e-7}
	found = orthogonalize(updates, **settings, dtype=torch.bfloat16)
	torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=1e-3)
	exact = torch.stack([_definition(u) for u in updates])
	torch.testing.assert_close(
		orthogonalize(updates, **settings, dtype=torch.float32).double(), exact, rtol=1e-4, atol=1e-5
	)


def test_muon_goes_on_from_its_own_state_and_from_torchs_bit_for_bit():
	parameters = _matrices(*SHAPES)
	optimizer = Muon(parameters, lr=0.02)
	_run(optimizer, parameters)
	for kind in (torch.optim.Muon, Muon):  # there and back
		copies = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
		other = kind(copies, lr=1.0)
		other.load_state_dict(optimizer.state_dict())
		again = Muon(copies, lr=3.0)
		again.load_state_dict(other.state_dict())
		originals = [torch.nn.Parameter(p.detach().clone()) for p in parameters]
		straight = Muon(originals, lr=1.0)
		straight.load_state_dict(copy.deepcopy(optimizer.state_dict()))
		for a, b in zip(_run(again, copies), _run(straight, originals), strict=True):
			assert torch.equal(a, b)


def test_muon_leaves_what_has_no_gradient_and_calls_a_closure():
	still, moved = _matrices((3, 4), (3, 4))
	before = still.detach().clone()

	def loss():
		moved.grad = None
		value = (moved**2).sum()
		value.backward()
		return value

	optimizer = Muon([still, moved], lr=0.1)
	first = optimizer.step(loss)
	assert optimizer.step(loss) < first
	assert torch.equal(still, before)
	assert set(optimizer.state) == {moved}
	Muon([still], lr=0.1).step()  # none at all


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
