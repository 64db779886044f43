"""The model: its definition, shapes, arguments, gradients and randomness."""

import copy
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cherimoya import Cherimoya
from cherimoya.kernels import reference

SMALL = {"n_filters": 6, "n_layers": 3, "random_state": 0, "trimming": 9}


def _one_hot(n: int, length: int, seed: int = 0) -> torch.Tensor:
	"""Random sequences, shape (n, 4, length), float32."""
	codes = np.random.default_rng(seed).integers(0, 4, size=(n, length))
	return torch.from_numpy(np.eye(4, dtype=np.float32)[codes]).transpose(1, 2).contiguous()


def _controls(n: int, channels: int, length: int) -> torch.Tensor:
	return torch.from_numpy(np.random.default_rng(9).poisson(1.5, size=(n, channels, length)).astype(np.float32))


def _enlarged(model: Cherimoya, factor: float = 15.0) -> Cherimoya:
	"""Weights large enough for every part to matter to the output, biases that are not zero."""
	generator = torch.Generator().manual_seed(3)
	with torch.no_grad():
		for p in model.parameters():
			p.mul_(factor) if p.ndim > 1 else p.add_(torch.randn(p.shape, generator=generator) * 0.1)
	return model


def _definition(model: Cherimoya, X: torch.Tensor, X_ctl: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
	"""The forward of the specification, step by step, with none of the model's own layout."""
	gelu = torch.nn.GELU(approximate="tanh")
	x = gelu(F.conv1d(X, model.iconv.weight, model.iconv.bias, padding=10)).transpose(1, 2)
	for i, b in enumerate(model.blocks):
		x = reference.block(x, b.conv_weight, b.linear1.weight, b.linear2.weight, 2**i, model.residual_scale)
	x = x.transpose(1, 2)
	stop = x.shape[2] - model.trimming
	both = x if X_ctl is None else torch.cat([x, X_ctl], dim=1)
	k = model.profile_kernel_size
	logits = F.conv1d(both, model.fconv.weight, model.fconv.bias, padding=k // 2)[:, :, model.trimming : stop]
	features = x[:, :, model.trimming : stop].mean(2)
	if X_ctl is not None:
		features = torch.cat([features, X_ctl[:, :, model.trimming : stop].sum((1, 2))[:, None].log1p()], dim=1)
	return logits, model.linear(features)


MODELS = {
	"plain": ({}, 40),
	"shortest window": ({}, 19),
	"dilation beyond the sequence": ({"n_layers": 7}, 33),
	"wide head": ({"profile_kernel_size": 7}, 41),
	"head wider than the trimming": ({"profile_kernel_size": 25}, 41),
	"head wider than the sequence": ({"profile_kernel_size": 75}, 21),
	"no trimming": ({"trimming": 0, "profile_kernel_size": 5}, 12),
	"controls": ({"n_control_tracks": 2}, 40),
	"controls, wide head, groups": ({"n_control_tracks": 3, "profile_kernel_size": 25, "signal_groups": [1, 2]}, 43),
	"a count a channel": ({"n_outputs": 3, "single_count_output": False}, 37),
	"stranded, expansion 3": ({"n_outputs": 2, "expansion": 3, "residual_scale": 0.4}, 31),
	"one filter": ({"n_filters": 1, "n_layers": 1}, 23),
}


@pytest.mark.parametrize("case", MODELS, ids=str)
def test_forward_and_gradients_match_the_definition(case):
	arguments, length = MODELS[case]
	model = _enlarged(Cherimoya(**{**SMALL, **arguments}))
	exact = copy.deepcopy(model).double()
	X = _one_hot(3, length).requires_grad_()
	X_ctl = _controls(3, model.n_control_tracks, length) if model.n_control_tracks else None
	X64 = X.detach().double().requires_grad_()
	found = model(X, X_ctl)
	expected = _definition(exact, X64, None if X_ctl is None else X_ctl.double())
	own64 = exact(X64, X_ctl)
	assert found[0].shape == (3, model.n_outputs, length - 2 * model.trimming)
	assert found[1].shape == (3, model.n_groups)

	generator = torch.Generator().manual_seed(5)
	weights = [torch.randn(t.shape, generator=generator) for t in found]
	names, parameters = zip(*[(n, p) for n, p in model.named_parameters() if n not in ("lw0", "lw1")], strict=True)
	parameters64 = [dict(exact.named_parameters())[n] for n in names]
	for f, e, o in zip(found, expected, own64, strict=True):
		assert (f.double() - e).norm() <= 1e-5 * e.norm()
		assert (o - e).norm() <= 1e-12 * e.norm()
	gradients = torch.autograd.grad(sum((t * w).sum() for t, w in zip(found, weights, strict=True)), [X, *parameters])
	exact_gradients = torch.autograd.grad(
		sum((t * w.double()).sum() for t, w in zip(expected, weights, strict=True)), [X64, *parameters64]
	)
	for name, f, e in zip(("X", *names), gradients, exact_gradients, strict=True):
		assert (f.double() - e).norm() <= 1e-5 * max(e.norm(), 1e-3), name


def test_gradcheck_of_the_whole_model():
	model = _enlarged(Cherimoya(n_filters=2, n_layers=2, trimming=3, n_control_tracks=1, random_state=0), 8).double()
	X = _one_hot(2, 9).double().requires_grad_()
	assert torch.autograd.gradcheck(lambda X: model(X, _controls(2, 1, 9)), (X,))


def test_default_model():
	model = Cherimoya(random_state=0)
	assert (model.n_filters, model.n_layers, model.trimming, model.name) == (96, 9, 557, "cherimoya.96.9")
	assert model.signal_groups == (1,)
	assert 335_000 < sum(p.numel() for p in model.parameters()) < 345_000
	assert not any(b.residual_scale != 0.15 or b.linear1.bias is not None for b in model.blocks)
	with torch.no_grad():
		logits, log_counts = model(_one_hot(1, 2114))
	assert logits.shape == (1, 1, 1000)
	assert log_counts.shape == (1, 1)


def test_parameter_names_are_the_checkpoint_contract():
	names = set(Cherimoya(n_layers=2).state_dict())
	block = {f"blocks.{i}.{n}" for i in range(2) for n in ("conv_weight", "linear1.weight", "linear2.weight")}
	heads = {f"{m}.{p}" for m in ("iconv", "fconv", "linear") for p in ("weight", "bias")}
	assert names == block | heads | {"lw0", "lw1"}


GROUPS = {
	"default": ({}, (1,)),
	"stranded": ({"n_outputs": 2}, (2,)),
	"a count a channel": ({"n_outputs": 3, "single_count_output": False}, (1, 1, 1)),
	"groups": ({"signal_groups": [1, 2, 2]}, (1, 2, 2)),
	"groups and their sum": ({"signal_groups": [1, 2], "n_outputs": 3}, (1, 2)),
	"groups of one and a count a channel": ({"signal_groups": [1, 1], "single_count_output": False}, (1, 1)),
}


@pytest.mark.parametrize("case", GROUPS, ids=str)
def test_signal_groups(case):
	arguments, groups = GROUPS[case]
	model = Cherimoya(**SMALL, **arguments)
	assert (model.signal_groups, model.n_outputs, model.n_groups) == (groups, sum(groups), len(groups))
	assert model.lw0.shape == model.lw1.shape == (len(groups),)


BAD_ARGUMENTS = {
	"groups against outputs": ({"signal_groups": [1, 2], "n_outputs": 2}, "n_outputs is 2.*add up to 3"),
	"groups against one count a channel": ({"signal_groups": [2], "single_count_output": False}, "single_count_output"),
	"empty group": ({"signal_groups": [0]}, r"at least one channel each, got \[0\]"),
	"groups that are no list": ({"signal_groups": 2}, "at least one channel each, got 2"),
	"groups of words": ({"signal_groups": ["a"]}, r"at least one channel each, got \['a'\]"),
	"even head": ({"profile_kernel_size": 4}, "profile_kernel_size must be odd, got 4"),
	"no filters": ({"n_filters": 0}, "n_filters must be a whole number of at least 1, got 0"),
	"half a layer": ({"n_layers": 1.5}, "n_layers.*1.5"),
	"negative trimming": ({"trimming": -1}, "trimming.*at least 0, got -1"),
	"two at once": ({"n_filters": 0, "expansion": 0}, "(?s)2 problems.*n_filters.*expansion"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS, ids=str)
def test_bad_arguments_are_named(case):
	arguments, message = BAD_ARGUMENTS[case]
	with pytest.raises(ValueError, match=message):
		Cherimoya(**{**SMALL, **arguments})


BAD_INPUTS = {
	"channels last": (0, torch.zeros(2, 40, 4), None, r"\(N, 4, L\), got \(2, 40, 4\)"),
	"two dimensions": (0, torch.zeros(4, 40), None, r"\(N, 4, L\), got \(4, 40\)"),
	"an array": (0, torch.zeros(2, 4, 40).numpy(), None, "X must be a tensor, got ndarray.*call predict"),
	"controls in an array": (
		1,
		torch.zeros(2, 4, 40),
		torch.zeros(2, 1, 40).numpy(),
		"X_ctl must be a tensor, got ndarray",
	),
	"too short": (0, torch.zeros(2, 4, 18), None, r"\(2, 4, 18\).*cuts 9.*more than 18"),
	"controls missing": (2, torch.zeros(2, 4, 40), None, r"2 control tracks.*\(2, 2, 40\)"),
	"controls not wanted": (0, torch.zeros(2, 4, 40), torch.zeros(2, 1, 40), r"no control tracks.*\(2, 1, 40\)"),
	"too few controls": (2, torch.zeros(2, 4, 40), torch.zeros(2, 1, 40), r"\(2, 2, 40\).*got \(2, 1, 40\)"),
	"controls of the output": (2, torch.zeros(2, 4, 40), torch.zeros(2, 2, 22), r"\(2, 2, 40\).*got \(2, 2, 22\)"),
}


@pytest.mark.parametrize("case", BAD_INPUTS, ids=str)
def test_bad_inputs_name_the_shapes(case):
	n_control_tracks, X, X_ctl, message = BAD_INPUTS[case]
	model = Cherimoya(**SMALL, n_control_tracks=n_control_tracks)
	with pytest.raises(ValueError, match=message):
		model(X, X_ctl)


@pytest.mark.parametrize(
	"dtype", [torch.int8, torch.uint8, torch.bool, torch.int64, torch.float64, torch.bfloat16], ids=str
)
def test_inputs_of_any_number_type_are_converted(dtype):
	model, X = Cherimoya(**SMALL), _one_hot(2, 40)
	for found, expected in zip(model(X.to(dtype)), model(X), strict=True):
		assert torch.equal(found, expected)
		assert found.dtype == torch.float32


def test_no_examples():
	logits, log_counts = Cherimoya(**SMALL, profile_kernel_size=5)(torch.zeros(0, 4, 40))
	assert logits.shape == (0, 1, 22)
	assert log_counts.shape == (0, 1)


def test_without_gradients_the_result_is_the_same_and_inputs_stay():
	model, X = _enlarged(Cherimoya(**SMALL, n_control_tracks=1)), _one_hot(3, 40)
	X_ctl = _controls(3, 1, 40)
	kept = X.clone(), X_ctl.clone()
	expected = model(X, X_ctl)
	with torch.no_grad():
		found = model(X, X_ctl)
	with torch.inference_mode():
		inferred = model(X, X_ctl)
	for f, i, e in zip(found, inferred, expected, strict=True):
		torch.testing.assert_close(f, e)
		torch.testing.assert_close(i, e)
	assert torch.equal(X, kept[0])
	assert torch.equal(X_ctl, kept[1])


def test_hooks_see_every_block_even_without_gradients():
	model, X = _enlarged(Cherimoya(**SMALL)), _one_hot(2, 40)
	seen: list[torch.Tensor] = []
	for block in model.blocks:
		block.register_forward_hook(lambda m, a, out: seen.append(out))
	model(X)
	with_gradients = [t.detach().clone() for t in seen]
	seen.clear()
	with torch.no_grad():
		model(X)
	for a, b in zip(seen, with_gradients, strict=True):
		torch.testing.assert_close(a, b)


def test_random_state_decides_the_weights_and_leaves_the_global_generator():
	torch.manual_seed(1)
	before = torch.get_rng_state()
	a, b, c = (Cherimoya(**{**SMALL, "random_state": s}).state_dict() for s in (0, 0, 1))
	d, e = (Cherimoya(**{**SMALL, "random_state": None}).state_dict() for _ in range(2))
	assert torch.equal(torch.get_rng_state(), before)
	for name in ("iconv.weight", "blocks.1.conv_weight", "blocks.2.linear2.weight", "fconv.weight", "linear.weight"):
		assert torch.equal(a[name], b[name])
		assert not torch.equal(a[name], c[name])
		assert not torch.equal(d[name], e[name])


def test_initial_weights():
	model = Cherimoya(random_state=0, signal_groups=[1, 2])
	for name, p in model.named_parameters():
		if name in ("lw0", "lw1"):
			assert torch.equal(p, torch.ones(2))
		elif name.endswith("bias"):
			assert not p.any()
		elif p.numel() > 1000:
			assert abs(p.std().item() - 0.02) < 0.001, name
			assert abs(p.mean().item()) < 0.002, name


def test_autocast_gives_finite_gradients_and_precise_counts():
	model, X = _enlarged(Cherimoya(**SMALL, profile_kernel_size=5)), _one_hot(4, 60)
	expected = model(X)
	with torch.autocast("cpu", dtype=torch.bfloat16):
		logits, log_counts = model(X)
	assert log_counts.dtype == torch.float32
	assert (logits.float() - expected[0]).norm() < 0.05 * expected[0].norm()
	assert (log_counts - expected[1]).norm() < 0.05 * expected[1].norm()
	(logits.float().square().mean() + log_counts.square().mean()).backward()
	for name, p in model.named_parameters():
		if name not in ("lw0", "lw1"):
			assert p.grad.isfinite().all() and p.grad.any(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_model_in_half_precision_runs(dtype):
	model, X = Cherimoya(**SMALL), _one_hot(2, 60)
	expected = model(X)
	logits, log_counts = model.to(dtype)(X)
	assert logits.dtype == log_counts.dtype == dtype
	assert (log_counts.float() - expected[1]).abs().max() < 0.02
	assert (logits.float() - expected[0]).abs().max() < 0.02


def test_compile_is_lazy_and_copies_use_their_own_weights():
	model = Cherimoya(**SMALL, compile=True)
	assert model._compiled is None
	calls = []
	model._compiled = lambda X, X_ctl: calls.append("original")
	model(_one_hot(2, 40))
	assert calls == ["original"]
	assert copy.deepcopy(model)._compiled is None
	assert "compile" not in model.config


@pytest.mark.slow
@pytest.mark.skipif(
	shutil.which("c++") is None and shutil.which("g++") is None, reason="torch.compile needs a compiler"
)
@pytest.mark.filterwarnings("ignore")
def test_compiled_model_agrees():
	model, plain, X = Cherimoya(**SMALL, compile=True), Cherimoya(**SMALL), _one_hot(2, 40)
	_enlarged(model), _enlarged(plain)
	found, expected = model(X), plain(X)
	for f, e in zip(found, expected, strict=True):
		torch.testing.assert_close(f, e, rtol=1e-4, atol=1e-5)
	sum(t.square().sum() for t in found).backward()
	sum(t.square().sum() for t in expected).backward()
	torch.testing.assert_close(model.iconv.weight.grad, plain.iconv.weight.grad, rtol=1e-3, atol=1e-4)


def test_fit_and_predict_pass_everything_on(monkeypatch):
	training = pytest.importorskip("cherimoya.training")
	predict = pytest.importorskip("cherimoya.interpret.predict")
	model = Cherimoya(**SMALL)
	monkeypatch.setattr(training, "fit", lambda *a, **k: (a, k), raising=False)
	monkeypatch.setattr(predict, "predict", lambda *a, **k: (a, k))
	assert model.fit("data", "validation", device="cpu") == ((model, "data", "validation"), {"device": "cpu"})
	arguments, options = model.predict("X", batch_size=3)
	assert arguments == (model, "X", None)
	assert options == {"batch_size": 3, "device": None, "dtype": None, "verbose": False}
