"""The CPU implementation (`kernels.cpu`) against its definition (`kernels.reference`) in float64."""

from collections.abc import Iterator

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cherimoya import Cherimoya
from cherimoya.cheri import CheriBlock, _cheri_conv_norm_cpu, fused_dilated_conv_norm
from cherimoya.kernels import cpu, reference

# (N, L, C, d): ones, odd numbers, d = L, d > L, no examples, several chunks
SHAPES = [
	(1, 1, 1, 1),
	(1, 1, 5, 3),
	(2, 7, 3, 1),
	(3, 5, 4, 5),
	(2, 9, 2, 64),
	(1, 33, 17, 32),
	(5, 130, 6, 16),
	(0, 8, 4, 2),
	(7, 61, 13, 4),
]
EPS, SCALE = 1e-3, 0.15
BLOCK_NAMES = ("x", "conv_weight", "weight1", "weight2")


@pytest.fixture(params=["one chunk", "chunks of a few"])
def chunking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
	"""Everything in one chunk and strip, or as many examples a chunk as there are threads, in strips of a few rows."""
	monkeypatch.setattr(cpu, "_CHUNK_VALUES", 10**9 if request.param == "one chunk" else 1)
	monkeypatch.setattr(cpu, "_STRIP_VALUES", 10**9 if request.param == "one chunk" else 20)


@pytest.fixture
def nan_memory() -> Iterator[None]:
	"""torch.empty gives NaN, so that reading what nobody wrote shows."""
	before = torch.are_deterministic_algorithms_enabled()
	torch.use_deterministic_algorithms(True)
	yield
	torch.use_deterministic_algorithms(before)


def _inputs(shape: tuple[int, int, int, int], dtype: torch.dtype, expansion: int = 2) -> list[torch.Tensor]:
	n, length, channels, _ = shape
	g = torch.Generator().manual_seed(sum(shape))
	sizes = [(n, length, channels), (3, channels), (expansion * channels, channels), (channels, expansion * channels)]
	return [torch.randn(s, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for s in sizes]


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
	"""Relative error ‖found − expected‖ / ‖expected‖; absolute where nothing is expected but zeros."""
	difference = (found.double() - expected.double()).norm().item()
	return difference / max(expected.double().norm().item(), 1e-8) if expected.numel() else difference


def _compare(shape, dtype, function, oracle, inputs, limit):
	"""Output and every gradient of function on inputs, against the oracle on the same values in float64."""
	exact = [t.detach().double().requires_grad_() for t in inputs]
	expected, found = oracle(*exact), function(*inputs)
	assert found.dtype == dtype
	assert found.shape == expected.shape
	g = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
	gradients = torch.autograd.grad(found, inputs, g)
	expected_gradients = torch.autograd.grad(expected, exact, g.double())
	scale = max(e.norm().item() for e in expected_gradients)
	assert _error(found, expected) <= limit
	for name, f, e in zip(BLOCK_NAMES, gradients, expected_gradients, strict=False):
		assert f.shape == e.shape
		# with one value to an example the gradient is zero up to rounding: measure it against the others
		tiny = e.norm().item() < 1e-6 * scale or shape[1] * shape[2] == 1
		assert (f.double() - e).norm().item() <= limit * max(scale, 1) if tiny else _error(f, e) <= limit, name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_conv_norm_matches_float64(shape, chunking, nan_memory):
	_compare(
		shape,
		torch.float32,
		lambda x, w: fused_dilated_conv_norm(x, w, shape[3]),
		lambda x, w: reference.conv_norm(x, w, shape[3]),
		_inputs(shape, torch.float32)[:2],
		1e-5,
	)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_block_matches_float64(shape, chunking, nan_memory):
	_compare(
		shape,
		torch.float32,
		lambda *a: cpu.Block.apply(*a, shape[3], SCALE, EPS),
		lambda *a: reference.block(*a, shape[3], SCALE),
		_inputs(shape, torch.float32, expansion=3),
		1e-5,
	)


@pytest.mark.parametrize("keep", [None, (1, 7)], ids=["whole", "window"])
def test_a_last_chunk_whose_strips_are_longer(keep, nan_memory, monkeypatch):
	"""Three examples make two strips of 12 rows, and the two of the last chunk one of 16."""
	threads = torch.get_num_threads()
	monkeypatch.setattr(cpu, "_CHUNK_VALUES", 3 * 8 * 4)
	monkeypatch.setattr(cpu, "_STRIP_VALUES", 16 * 8 // threads)
	window = slice(*keep) if keep else slice(None)
	inputs = _inputs((5, 8, 4, 2), torch.float32)
	_compare(
		(5, 8, 4, 2),
		torch.float32,
		lambda *a: cpu.Block.apply(*a, 2, SCALE, EPS, keep),
		lambda *a: reference.block(*a, 2, SCALE)[:, window],
		inputs,
		1e-5,
	)


@pytest.mark.parametrize("limit", [1, 7, 40, 10**6])
@pytest.mark.parametrize(("length", "keep"), [(1, (0, 1)), (9, (0, 9)), (9, (2, 7)), (9, (4, 4))])
def test_strips_cover_the_rows_once_and_none_is_above_the_most(length, keep, limit, monkeypatch):
	monkeypatch.setattr(cpu, "_STRIP_VALUES", limit)
	for size in range(1, 8):
		most = cpu._strip_rows(size, keep, 3)
		for n in range(1, size + 1):
			strips = list(cpu._strips(n, length, keep, 3))
			rows = [i for among_all, _ in strips for i in range(among_all.start, among_all.stop)]
			kept = [i for _, among_kept in strips for i in range(among_kept.start, among_kept.stop)]
			assert rows == [e * length + i for e in range(n) for i in range(*keep)]
			assert kept == list(range(len(rows)))
			assert all(among_all.stop - among_all.start <= most for among_all, _ in strips)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_block_without_gradients_is_the_same_in_place_and_out_of_place(shape, chunking, nan_memory):
	x, *weights = (t.detach() for t in _inputs(shape, torch.float32))
	expected = cpu.Block.apply(x, *weights, shape[3], SCALE, EPS)
	overwritten = x.clone()
	cpu.block_forward(overwritten, *weights, shape[3], SCALE, EPS, out=overwritten)
	assert torch.equal(overwritten, expected)


@pytest.mark.parametrize(
	("shape", "keep"),
	[
		((3, 20, 6, 4), (7, 13)),
		((3, 20, 6, 4), (0, 11)),
		((2, 9, 2, 64), (4, 9)),
		((7, 61, 13, 4), (30, 31)),
		((0, 8, 4, 2), (1, 3)),
	],
	ids=str,
)
def test_positions_that_nobody_needs_are_left_out_and_the_rest_is_the_same(shape, keep, chunking, nan_memory):
	_compare(
		shape,
		torch.float32,
		lambda *a: cpu.Block.apply(*a, shape[3], SCALE, EPS, keep),
		lambda *a: reference.block(*a, shape[3], SCALE)[:, slice(*keep)],
		_inputs(shape, torch.float32),
		1e-5,
	)


@pytest.mark.parametrize("path", ["cpu", "modules"])
def test_a_block_keeps_the_positions_asked_for_on_every_path(path):
	block = CheriBlock(6, 4)
	if path == "modules":
		block.linear1.register_forward_hook(lambda *_: None)
	x = torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(0))
	assert block.path(x) == path
	with torch.no_grad():
		for inplace in (False, True):
			found = block(x.clone(), keep=(5, 12), inplace=inplace)
			torch.testing.assert_close(found, block(x)[:, 5:12], rtol=1e-6, atol=1e-6)


def test_a_model_sees_the_same_with_and_without_a_listener_at_its_last_block():
	model = Cherimoya(n_filters=8, n_layers=3, random_state=0, profile_kernel_size=5)
	X = torch.eye(4)[torch.randint(0, 4, (3, 150), generator=torch.Generator().manual_seed(0))].transpose(1, 2)
	expected = model(X)
	shapes = []
	model.blocks[-1].register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
	for found, e in zip(model(X), expected, strict=True):
		torch.testing.assert_close(found, e, rtol=1e-5, atol=1e-6)
	assert shapes == [(3, 150, 8)]


def test_gelu_is_the_tanh_form_and_its_gradient_too():
	exact = torch.linspace(-12, 12, 4001, dtype=torch.float64).requires_grad_()
	expected = torch.nn.functional.gelu(exact, approximate="tanh")
	(slope,) = torch.autograd.grad(expected.sum(), exact)
	p = (exact.detach() * cpu.LAMBDA).float()
	square, t = torch.empty(2, *p.shape)
	a = p.addcmul_(p, cpu._tanh(p, square, t))
	torch.testing.assert_close(a.double() / (2 * cpu.LAMBDA), expected.detach(), rtol=1e-6, atol=1e-6)
	found = (1 + cpu.gelu_gradient(a, square, t).double()) / 2
	torch.testing.assert_close(found, slope, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.bfloat16, 1e-2), (torch.float16, 1e-2)], ids=str)
@pytest.mark.parametrize("shape", [(2, 33, 17, 4), (3, 5, 4, 9)], ids=str)
def test_conv_norm_in_half_precision(shape, dtype, limit, chunking):
	_compare(
		shape,
		dtype,
		lambda x, w: fused_dilated_conv_norm(x, w, shape[3]),
		lambda x, w: reference.conv_norm(x, w, shape[3]),
		_inputs(shape, dtype)[:2],
		limit,
	)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 6, 3, 2), (2, 4, 3, 4), (1, 3, 2, 7)], ids=str)
def test_gradcheck(shape, chunking):
	x, w, w1, w2 = _inputs(shape, torch.float64)
	assert torch.autograd.gradcheck(lambda x, w: fused_dilated_conv_norm(x, w, shape[3]), (x, w))
	assert torch.autograd.gradcheck(lambda *a: cpu.Block.apply(*a, shape[3], SCALE, EPS), (x, w, w1, w2))


@pytest.mark.parametrize("function", [_cheri_conv_norm_cpu, fused_dilated_conv_norm], ids=["reference", "cpu"])
def test_mean_of_a_hundred_deviations(function):
	g = torch.Generator().manual_seed(0)
	x = torch.randn(3, 500, 24, generator=g) + 100
	w = torch.tensor([[0.0], [1.0], [0.0]]).expand(3, 24).contiguous()
	expected = reference.conv_norm(x.double(), w.double(), 8)
	assert abs(x.double().mean() / x.double().std()) > 99
	assert _error(function(x, w, 8), expected) <= 1e-4


def test_layouts_that_are_not_contiguous():
	g = torch.Generator().manual_seed(0)
	_, w, w1, w2 = _inputs((3, 20, 6, 4), torch.float32)
	wide = torch.randn(3, 6, 40, generator=g)
	strided = wide.transpose(1, 2)[:, ::2].requires_grad_()  # (3, 40, 6) -> (3, 20, 6)
	plain = strided.detach().contiguous().requires_grad_()
	for function in (
		lambda x, w=w: fused_dilated_conv_norm(x, w.t().contiguous().t(), 4),
		lambda x: cpu.Block.apply(x, w, w1, w2, 4, SCALE, EPS),
	):
		found, expected = function(strided), function(plain)
		torch.testing.assert_close(found, expected, rtol=0, atol=0)
		# a sum's gradient is one number seen everywhere; a transpose's has other strides
		for reduce in (torch.sum, lambda t: (t.transpose(1, 2) * wide[..., :20]).sum()):
			(a,) = torch.autograd.grad(reduce(found), strided, retain_graph=True)
			(b,) = torch.autograd.grad(reduce(expected), plain, retain_graph=True)
			torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("needed", range(4), ids=BLOCK_NAMES)
def test_a_gradient_alone_is_the_one_among_all(needed):
	inputs = _inputs((3, 20, 6, 4), torch.float32)
	g = torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(1))
	every = torch.autograd.grad(cpu.Block.apply(*inputs, 4, SCALE, EPS), inputs, g)
	alone = [t.detach().requires_grad_(i == needed) for i, t in enumerate(inputs)]
	(found,) = torch.autograd.grad(cpu.Block.apply(*alone, 4, SCALE, EPS), alone[needed], g)
	assert torch.equal(found, every[needed])
	if needed < 2:
		out = fused_dilated_conv_norm(*alone[:2], 4)
		assert torch.autograd.grad(out, alone[needed], g)[0].shape == alone[needed].shape


def test_what_is_not_needed_is_not_computed(monkeypatch):
	"""Without a gradient of the taps no sums for them are made, and without one of x or the taps no norm is undone."""
	calls = []
	monkeypatch.setattr(cpu, "_TapGradients", lambda *a: calls.append("taps"))
	monkeypatch.setattr(cpu, "_norm_backward", lambda *a: calls.append("norm"))
	x, w, w1, w2 = (t.detach() for t in _inputs((3, 20, 6, 4), torch.float32))
	cpu.Block.apply(x, w, w1.requires_grad_(), w2.requires_grad_(), 4, SCALE, EPS).sum().backward()
	assert calls == []
	assert w1.grad is not None


@pytest.mark.parametrize("wanted", [False, True], ids=["weights", "weights and sequence"])
def test_the_stem_computes_no_gradient_of_a_sequence_that_nobody_asked_for(wanted):
	masks = []

	class Listen(TorchDispatchMode):
		def __torch_dispatch__(self, function, types, args=(), kwargs=None):
			if function is torch.ops.aten.convolution_backward.default and args[2].shape[1] == 4:
				masks.append(args[-1])
			return function(*args, **(kwargs or {}))

	model = Cherimoya(n_filters=4, n_layers=2, random_state=0)
	X = torch.eye(4).repeat(1, 1, 30).requires_grad_(wanted)
	with Listen():
		sum(t.sum() for t in model(X)).backward()
	assert masks == [[wanted, True, True]]


def test_a_second_derivative_is_refused():
	x, w, _, _ = _inputs((2, 6, 3, 2), torch.float64)
	(g,) = torch.autograd.grad(fused_dilated_conv_norm(x, w, 2).square().sum(), x, create_graph=True)
	with pytest.raises(RuntimeError, match="differentiate twice"):
		g.sum().backward()


def test_two_runs_agree_bit_for_bit():
	runs = []
	for _ in range(2):
		inputs = _inputs((9, 61, 13, 4), torch.float32)
		out = cpu.Block.apply(*inputs, 4, SCALE, EPS)
		runs.append([out, *torch.autograd.grad(out.square().sum(), inputs)])
	assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_nan_and_infinity_stay_in_their_example(value):
	x, w, w1, w2 = (t.detach() for t in _inputs((3, 20, 6, 4), torch.float32))
	x[1, 3, 2] = value
	for out in (fused_dilated_conv_norm(x, w, 4), cpu.Block.apply(x, w, w1, w2, 4, SCALE, EPS)):
		assert out[1].isnan().all()
		assert out[[0, 2]].isfinite().all()


def test_the_block_saves_its_input_and_nothing_of_that_size():
	block = CheriBlock(8, 4)
	x = torch.randn(3, 50, 8, requires_grad=True)
	saved: list[torch.Tensor] = []
	with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
		block(x)
	large = [t for t in saved if t.numel() >= x.numel()]
	assert [t.data_ptr() for t in large] == [x.data_ptr()]
