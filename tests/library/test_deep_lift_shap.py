"""DeepLIFT/SHAP: against an obvious version by autograd, its sums, and what would break them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cherimoya import Cherimoya, ControlWrapper, LogCountWrapper, ProfileWrapper
from cherimoya.errors import InputError, SettingsError
from cherimoya.interpret import rules
from cherimoya.interpret._contrast import Attribution
from cherimoya.interpret.attribution import projected_contributions
from cherimoya.interpret.deep_lift_shap import deep_lift_shap, tangermeme_rules
from cherimoya.interpret.references import dinucleotide_shuffle

LENGTH = 63
EPS = 1e-3


def make_model(groups: tuple[int, ...] = (1, 2), n_control_tracks: int = 0, **options: int) -> Cherimoya:
	"""Weights large enough that every non-linearity bends."""
	settings = {"n_filters": 5, "n_layers": 3, "trimming": 9, "random_state": 3, **options}
	model = Cherimoya(n_control_tracks=n_control_tracks, signal_groups=list(groups), **settings)
	generator = torch.Generator().manual_seed(0)
	with torch.no_grad():
		for parameter in model.parameters():
			parameter.mul_(20).add_(0.1 * torch.randn(parameter.shape, generator=generator))
	return model


def make_codes(n: int = 2, length: int = LENGTH) -> np.ndarray:
	codes = np.random.default_rng(5).integers(0, 4, (n, length)).astype(np.uint8)
	codes[1::2, length // 2 : length // 2 + 2] = 4
	return codes


def one_hot(codes: np.ndarray | torch.Tensor, dtype: torch.dtype = torch.float64) -> torch.Tensor:
	"""(..., L) -> (..., 4, L)"""
	return (torch.as_tensor(codes).unsqueeze(-2) == torch.arange(4).unsqueeze(-1)).to(dtype)


# The obvious version: every operation once for x and once for its reference, with a rule as its gradient for x.


class Secant(torch.autograd.Function):
	"""f(x), with (f(x) - f(x0)) / (x - x0) for a gradient; the derivative where both are equal."""

	@staticmethod
	def forward(ctx, f, x, x0):
		with torch.enable_grad():
			at = x.detach().requires_grad_()
			(slope,) = torch.autograd.grad(f(at).sum(), at)
		same = (x - x0).abs() < 1e-12
		ctx.save_for_backward(torch.where(same, slope, (f(x) - f(x0)) / torch.where(same, 1, x - x0)))
		return f(x)

	@staticmethod
	def backward(ctx, g):
		return None, g * ctx.saved_tensors[0], None


class Multiply(torch.autograd.Function):
	"""a·b, with (b + b0) / 2 and (a + a0) / 2 for gradients."""

	@staticmethod
	def forward(ctx, a, b, a0, b0):
		ctx.save_for_backward((b + b0) / 2, (a + a0) / 2)
		ctx.shapes = a.shape, b.shape
		return a * b

	@staticmethod
	def backward(ctx, g):
		a, b = ((g * mean).sum_to_size(shape) for mean, shape in zip(ctx.saved_tensors, ctx.shapes, strict=True))
		return a, b, None, None


def both(f: Callable, x: torch.Tensor, x0: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
	return Secant.apply(f, x, x0), f(x0)


def linear(f: Callable, *pair: torch.Tensor) -> tuple[torch.Tensor, ...]:
	return tuple(f(x) for x in pair)


def multiply(a: tuple, b: tuple) -> tuple[torch.Tensor, torch.Tensor]:
	return Multiply.apply(a[0], b[0], a[1], b[1]), a[1] * b[1]


def gelu(x: torch.Tensor) -> torch.Tensor:
	return F.gelu(x, approximate="tanh")


def block_by_definition(block, x: tuple) -> tuple[torch.Tensor, torch.Tensor]:
	w, d = block.conv_weight.t()[:, None], block.dilation  # (3, C) -> (C, 1, 3)
	z = linear(lambda a: F.conv1d(a.transpose(1, 2), w, padding=d, dilation=d, groups=len(w)).transpose(1, 2), *x)
	u = linear(lambda a: a - a.mean((1, 2), keepdim=True), *z)
	variance = linear(lambda a: a.mean((1, 2), keepdim=True), *multiply(u, u))
	y = multiply(u, both(lambda a: (a + EPS).rsqrt(), *variance))
	h = both(gelu, *linear(block.linear1, *y))
	return tuple(a + block.residual_scale * block.linear2(b) for a, b in zip(x, h, strict=True))


def multipliers_by_definition(
	model: Cherimoya, x: torch.Tensor, x0: torch.Tensor, x_ctl: torch.Tensor | None, output: str, group: int | None
) -> torch.Tensor:
	"""m of one sequence and one reference, (1, 4, L)."""
	x = x.clone().requires_grad_()
	pair = both(gelu, *linear(lambda a: F.conv1d(a, model.iconv.weight, model.iconv.bias, padding=10), x, x0))
	pair = linear(lambda a: a.transpose(1, 2), *pair)
	for block in model.blocks:
		pair = block_by_definition(block, pair)
	window = slice(model.trimming, LENGTH - model.trimming)
	if output == "counts":
		rows = slice(None) if group is None else slice(group, group + 1)
		f = model.linear(_with_total(pair[0][:, window].mean(1), x_ctl, window))[:, rows].sum()
	else:
		features = linear(lambda a: torch.cat([a.transpose(1, 2), *([] if x_ctl is None else [x_ctl])], dim=1), *pair)
		pad = model.profile_kernel_size // 2
		logits = linear(
			lambda a: F.conv1d(a, model.fconv.weight, model.fconv.bias, padding=pad)[..., window], *features
		)
		first = [0, *np.cumsum(model.signal_groups)]
		channels = slice(None) if group is None else slice(first[group], first[group + 1])
		v = linear(lambda a: a[:, channels].flatten(1) - a[:, channels].flatten(1).mean(1, keepdim=True), *logits)
		sums = linear(lambda a: a.sum(1, keepdim=True), *both(torch.exp, *v))
		logs = both(torch.log, *sums)
		p = both(torch.exp, *(a - b for a, b in zip(v, logs, strict=True)))
		f = multiply(v, p)[0].sum()
	return torch.autograd.grad(f, x)[0]


def _with_total(features: torch.Tensor, x_ctl: torch.Tensor | None, window: slice) -> torch.Tensor:
	if x_ctl is None:
		return features
	return torch.cat([features, torch.log1p(x_ctl[..., window].sum((1, 2)))[:, None]], dim=1)


def by_definition(model, X, references, X_ctl=None, output="counts", group=None) -> torch.Tensor:
	"""Hypothetical scores, (n, 4, L)."""
	scores = torch.zeros_like(X)
	for i in range(len(X)):
		for x0 in references[i]:
			x_ctl = None if X_ctl is None else X_ctl[i : i + 1]
			m = multipliers_by_definition(model, X[i : i + 1], x0[None], x_ctl, output, group)[0]
			for base in range(4):
				bases = F.one_hot(torch.full((LENGTH,), base), 4).t()
				scores[i, base] += (m * (bases - x0)).sum(0) / len(references[i])
	return scores


@pytest.mark.parametrize("kernel", [1, 5], ids=lambda k: f"head {k}")
@pytest.mark.parametrize("tracks", [0, 2], ids=lambda n: f"{n} controls")
@pytest.mark.parametrize("group", [None, 0, 1], ids=["all groups", "group 0", "group 1"])
@pytest.mark.parametrize("output", ["counts", "profile"])
def test_against_the_definition(output: str, group: int | None, tracks: int, kernel: int) -> None:
	model = make_model(n_control_tracks=tracks, profile_kernel_size=kernel).double()
	codes = make_codes()
	X, references = one_hot(codes), one_hot(dinucleotide_shuffle(codes, 3))
	X_ctl = torch.rand(2, tracks, LENGTH, generator=torch.Generator().manual_seed(0)).double() if tracks else None
	expected = by_definition(model, X, references, X_ctl, output, group)
	found = deep_lift_shap(model, X, X_ctl, output=output, group=group, references=references)
	assert expected.abs().max() > 1e-3
	torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max()))


@pytest.mark.parametrize("output", ["counts", "profile"])
def test_in_single_precision(output: str) -> None:
	model, codes = make_model(), make_codes()
	found = deep_lift_shap(model, codes, output=output, n_shuffles=4)
	exact = deep_lift_shap(model.double(), codes, output=output, n_shuffles=4)
	assert found.dtype == torch.float32 and exact.dtype == torch.float64
	assert (found - exact).abs().max() < 1e-4 * exact.abs().max()


# Completeness: contributions sum to the difference of the outputs.


def check_complete(attribution: Attribution, limit: float) -> None:
	assert attribution.differences.abs().max() > 0
	assert attribution.completeness_error <= limit * float(attribution.differences.abs().mean())


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.float64, 1e-11)], ids=str)
@pytest.mark.parametrize("length", [19, 20, 41, 130], ids=lambda n: f"{n} bp")
@pytest.mark.parametrize("output", ["counts", "profile"])
def test_contributions_sum_to_the_difference(output: str, length: int, dtype: torch.dtype, limit: float) -> None:
	model, codes = make_model().to(dtype), make_codes(3, length)
	if output == "profile" and length == 19:
		model = make_model((2,)).to(dtype)  # of one value a profile has no shape
	attribution = deep_lift_shap(model, codes, output=output, return_deltas=True, n_shuffles=5)
	check_complete(attribution, limit)
	wrapper = (LogCountWrapper if output == "counts" else ProfileWrapper)(model)
	with torch.no_grad():
		f = wrapper(one_hot(codes, dtype)).sum(1)
		f0 = wrapper(one_hot(dinucleotide_shuffle(codes, 5), dtype).flatten(0, 1)).sum(1).view(3, 5)
	size = float(f.abs().max())
	torch.testing.assert_close(attribution.differences, (f[:, None] - f0).double(), rtol=limit, atol=limit * size)
	sums = projected_contributions(attribution.scores, one_hot(codes)).sum(1)
	torch.testing.assert_close(sums, (f - f0.mean(1)).double(), rtol=limit, atol=limit * size)


@pytest.mark.parametrize("output", ["counts", "profile"])
def test_a_trained_model_is_explained_exactly(output: str) -> None:
	model, codes = Cherimoya(n_filters=8, n_layers=3, trimming=9, random_state=0), make_codes(16)
	X = one_hot(codes, torch.float32)
	optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
	losses = []
	for _ in range(30):  # the number of As, and a profile that has them at its left
		logits, log_counts = model(X)
		target = X[:, :1, 9:-9] * torch.linspace(2, 0, LENGTH - 18)
		loss = F.mse_loss(logits, target) + F.mse_loss(log_counts[:, 0], X[:, 0].sum(1).log1p())
		optimizer.zero_grad()
		loss.backward()
		optimizer.step()
		losses.append(loss.item())
	assert losses[-1] < losses[0] / 4
	check_complete(deep_lift_shap(model, codes, output=output, n_shuffles=5, return_deltas=True), 1e-4)
	check_complete(deep_lift_shap(model.double(), codes, output=output, n_shuffles=5, return_deltas=True), 1e-11)


@pytest.mark.parametrize("output", ["counts", "profile"])
def test_controls_are_shared_with_references(output: str) -> None:
	model, codes = make_model(n_control_tracks=2).double(), make_codes()
	X_ctl = 9 * torch.rand(2, 2, LENGTH, generator=torch.Generator().manual_seed(0))
	for wrapped, controls in ((model, X_ctl), (ControlWrapper(model), X_ctl), (ControlWrapper(model), None)):
		attribution = deep_lift_shap(wrapped, codes, controls, output=output, n_shuffles=3, return_deltas=True)
		check_complete(attribution, 1e-11)
	zeros = deep_lift_shap(model, codes, X_ctl * 0, output=output, n_shuffles=3)
	assert torch.equal(zeros, attribution.scores)
	assert (deep_lift_shap(model, codes, X_ctl, output=output, n_shuffles=3) == zeros).all() == (output == "counts")


@pytest.mark.parametrize("size", [1.0, 30.0, 1_000.0])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.float64, 1e-12)], ids=str)
def test_softmax_of_logits_of_any_size(size: float, dtype: torch.dtype, limit: float) -> None:
	generator = torch.Generator().manual_seed(1)
	v, v0 = (size * torch.randn(n, 50, generator=generator, dtype=dtype) for n in (1, 7))
	v0[0] = v[0]  # no difference
	v0[1, 3:] = v[0, 3:]
	m = torch.randn(7, 50, generator=generator, dtype=dtype)
	passed = rules.softmax_multipliers(v, v0, m)
	assert passed.isfinite().all()
	difference = (m * (v.softmax(1) - v0.softmax(1))).sum(1)
	torch.testing.assert_close((passed * (v - v0)).sum(1), difference, rtol=0, atol=limit * max(size, 10))


def test_equal_sequences_get_gradients() -> None:
	"""Where x is its reference every secant is a derivative, and multipliers are the gradient."""
	model, codes = make_model().double(), make_codes(1)
	X = one_hot(codes).requires_grad_()
	(gradient,) = torch.autograd.grad(LogCountWrapper(model)(X).sum(), X)
	scores = deep_lift_shap(model, codes, references=codes[:, None])
	expected = gradient - (gradient * X.detach()).sum(1, keepdim=True)
	torch.testing.assert_close(scores, expected.detach(), rtol=1e-6, atol=1e-9)


WRONG = {
	"normalisation as if its statistics were fixed": ("centred", lambda rule: rule._replace(centred=rule.centred * 0)),
	"derivative of the reference's deviation": ("rstd", lambda rule: rule._replace(rstd=rule.rstd0)),
	"gradient instead of the secant": ("secant", lambda rule: rule._replace(secant=torch.full_like(rule.secant, 0.5))),
}


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_a_wrong_rule_is_noticed(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
	model, codes = make_model().double(), make_codes()
	right = rules.trace_block

	def wrong(*args):
		x, rule = right(*args)
		return x, WRONG[case][1](rule)

	check_complete(deep_lift_shap(model, codes, n_shuffles=3, return_deltas=True), 1e-11)
	monkeypatch.setattr(rules, "trace_block", wrong)
	attribution = deep_lift_shap(model, codes, n_shuffles=3, return_deltas=True)
	assert attribution.completeness_error > 0.01 * float(attribution.differences.abs().mean())


def test_a_wrong_softmax_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
	monkeypatch.setattr(
		rules, "softmax_multipliers", lambda v, v0, m: v.softmax(1) * (m - (v.softmax(1) * m).sum(1, True))
	)
	attribution = deep_lift_shap(make_model(), make_codes(), output="profile", n_shuffles=3, return_deltas=True)
	assert attribution.completeness_error > 0.01 * float(attribution.differences.abs().mean())


# The shape of the calls.


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100])
def test_batches_do_not_matter(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
	model, codes = make_model().double(), make_codes(3)
	expected = deep_lift_shap(model, codes, n_shuffles=7)
	monkeypatch.setattr(rules, "_CHUNK_VALUES", 1)  # one reference at a time, as far as there are no more threads
	monkeypatch.setattr("cherimoya.interpret._contrast._SEQUENCES", 2)
	progress = []
	found = deep_lift_shap(
		model, codes, n_shuffles=7, batch_size=batch_size, progress=lambda *counts: progress.append(counts)
	)
	torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
	assert progress[-1] == (21, 21) and len(progress) == 3 * -(-7 // batch_size)


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
	model, X = Cherimoya(n_filters=4, n_layers=2, random_state=0), torch.eye(4)[torch.arange(150) % 4].T[None]
	expected = deep_lift_shap(model, X, n_shuffles=7)
	trace, sizes = rules.trace, []

	def limited(model: Cherimoya, x: torch.Tensor, x0: torch.Tensor) -> rules.Trace:
		sizes.append(len(x0))
		if len(x0) > 2:
			raise torch.OutOfMemoryError("too large")
		return trace(model, x, x0)

	monkeypatch.setattr(rules, "trace", limited)
	assert torch.allclose(deep_lift_shap(model, X, n_shuffles=7), expected, rtol=1e-5, atol=1e-9)
	assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]


def test_inputs_of_every_kind_agree() -> None:
	model, codes = make_model(), make_codes(3)
	references = dinucleotide_shuffle(codes, 20)
	expected = deep_lift_shap(model, codes)
	assert expected.shape == (3, 4, LENGTH) and not expected.is_inference()
	for X in (torch.from_numpy(codes), one_hot(codes), one_hot(codes).to(torch.int8).numpy()):
		assert torch.equal(deep_lift_shap(model, X), expected)
	for given in (references, references.numpy(), one_hot(references, torch.int8), one_hot(references).numpy()):
		assert torch.equal(deep_lift_shap(model, codes, references=given), expected)
	part = deep_lift_shap(model, codes, start=11, end=42)
	assert torch.equal(part, expected[..., 11:42])
	assert torch.equal(deep_lift_shap(model, codes[1:2]), expected[1:2])
	projected = deep_lift_shap(model, codes, hypothetical=False)
	assert torch.equal(projected, expected * one_hot(codes, torch.float32))
	assert not torch.equal(deep_lift_shap(model, codes, random_state=1), expected)
	empty = deep_lift_shap(model, codes[:0], start=3, end=9, return_deltas=True)
	assert empty.scores.shape == (0, 4, 6) and empty.deltas.shape == (0, 20) and empty.completeness_error == 0
	zeros = deep_lift_shap(model, codes, references="zeros")
	assert torch.equal(zeros, deep_lift_shap(model, codes, references=torch.zeros(3, 1, 4, LENGTH)))


def test_the_model_is_left_as_it_was() -> None:
	model, codes = make_model().train(), make_codes()
	before = {name: value.clone() for name, value in model.state_dict().items()}
	deep_lift_shap(model, codes, output="profile", n_shuffles=2)
	assert model.training and all(parameter.grad is None for parameter in model.parameters())
	assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16], ids=str)
def test_under_autocast(dtype: str | torch.dtype) -> None:
	model, codes = make_model(), make_codes()
	exact = deep_lift_shap(model, codes, n_shuffles=3)
	found = deep_lift_shap(model, codes, n_shuffles=3, dtype=dtype)
	assert found.dtype == torch.float32 and not torch.equal(found, exact)
	assert (found - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("output", ["counts", "profile"])
def test_on_a_gpu(output: str) -> None:
	model, codes = make_model().double(), make_codes()
	exact = deep_lift_shap(model, codes, output=output)
	found = deep_lift_shap(model, codes, output=output, device="cuda", return_deltas=True)
	check_complete(found, 1e-11)
	torch.testing.assert_close(found.scores, exact, rtol=1e-7, atol=1e-9 * float(exact.abs().max()))


@pytest.mark.parametrize(
	("options", "error", "words"),
	[
		({"output": "logits"}, SettingsError, '"counts" or "profile"'),
		({"group": 2}, SettingsError, "2 signal groups, 0 to 1"),
		({"start": 9, "end": 9}, SettingsError, "got 9 and 9"),
		({"n_shuffles": 0}, SettingsError, "n_shuffles"),
		({"batch_size": 0}, SettingsError, "batch_size"),
		({"references": "ones"}, SettingsError, "zeros"),
		({"references": torch.zeros(2, 3, 4, 9)}, InputError, r"\(2, R, 4, 63\)"),
		({"references": torch.zeros(2, 0, 4, LENGTH)}, InputError, r"got shape \(2, 0, 4, 63\)"),
		({"X": torch.full((2, 4, LENGTH), 0.25)}, InputError, "sequence 0, position 0"),
		({"X_ctl": torch.zeros(2, 1, LENGTH)}, InputError, "no control tracks"),
		({"model": LogCountWrapper(make_model())}, InputError, "got LogCountWrapper"),
		({"X": make_codes(2, 18)}, InputError, "cuts 9 positions"),
	],
	ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_arguments(options: dict, error: type[Exception], words: str) -> None:
	options = {"model": make_model(), "X": make_codes(), **options}
	with pytest.raises(error, match=words):
		deep_lift_shap(**options)


# The same by tangermeme.


@pytest.mark.parametrize("group", [None, 1], ids=["all groups", "group 1"])
@pytest.mark.parametrize("output", ["counts", "profile"])
def test_tangermeme_agrees(output: str, group: int | None) -> None:
	module = pytest.importorskip("tangermeme.deep_lift_shap")
	model, codes = make_model((2,) if group is None else (1, 2)).double(), make_codes(1)
	references = one_hot(dinucleotide_shuffle(codes, 4))
	wrapper = (LogCountWrapper if output == "counts" else ProfileWrapper)(model, group)
	options = {"references": references, "hypothetical": True, "device": "cpu", "warning_threshold": 1e-10}
	found = module.deep_lift_shap(wrapper, one_hot(codes), additional_nonlinear_ops=tangermeme_rules(), **options)
	expected = deep_lift_shap(model, codes, output=output, group=group, references=references)
	torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7 * float(expected.abs().max()))
	with pytest.warns(RuntimeWarning, match="[Cc]onvergence"):
		module.deep_lift_shap(wrapper, one_hot(codes), **options)


# Checkpoints of published releases.

KINDS = {"0.1.0": "per_track", "0.2.0": "grouped", "0.3.1": "grouped"}
NAMES = [
	f"v{version}.{kind}"
	for version, other in KINDS.items()
	for kind in ("small", "controls", "stranded", "default", "wide", other)
]
QUICK = ("v0.1.0.small", "v0.2.0.controls", "v0.3.1.grouped", "v0.3.1.stranded")


@pytest.mark.parametrize(
	"name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_published_checkpoints_are_explained_exactly(name: str, shared: Path) -> None:
	folder = shared / "fixtures" / "checkpoints"
	model, arrays = Cherimoya.load(folder / f"{name}.torch"), np.load(folder / f"{name}.npz")
	X, X_ctl = arrays["X"], arrays["X_ctl"] if "X_ctl" in arrays else None
	for output in ("counts", "profile"):
		for group in (None, *range(len(model.signal_groups))):
			options = {"output": output, "group": group, "n_shuffles": 3, "return_deltas": True}
			check_complete(deep_lift_shap(model.float(), X, X_ctl, **options), 1e-3)
			check_complete(deep_lift_shap(model.double(), X, X_ctl, **options), 1e-10)
