"""The Triton kernels in Triton's interpreter against float64; collected by the process that test_interpreted starts.

The interpreter runs every program of a kernel in Python, one after the other. It shows what is computed and what is
read and written, not what a GPU alone shows: races, rounding in tensor cores, and speed.
"""

import contextlib
import os

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
	pytest.skip("needs TRITON_INTERPRET=1 before Triton is imported", allow_module_level=True)

from cherimoya.cheri import CheriBlock, fused_dilated_conv_norm
from cherimoya.kernels import _tuning, block, conv_norm, dispatch, reference

# The interpreter of Triton before 3.6 does this to NumPy's arrays; from NumPy 2.4 it cannot run there.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0:DeprecationWarning")

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
DTYPES = [F32, BF16, F16]
# N, L, C, dilation, expansion, and rows in a tile where those of the table would take the interpreter minutes.
SHAPES = {
	"one position": (1, 1, 8, 1, 2, None),
	"odd": (2, 65, 16, 3, 1, None),
	"dilation beyond": (3, 130, 40, 200, 2, 128),
	"two column tiles": (2, 257, 96, 16, 2, 256),
	"wide": (2, 128, 128, 4, 3, 64),
	"hidden not a power of two": (1, 33, 24, 32, 3, None),
}
SLOW = {
	"a model's window": (1, 2114, 96, 256, 2, 512),
	"256 channels": (1, 40, 256, 7, 1, None),
	"48 channels, expansion 5": (2, 70, 48, 69, 5, None),
}
CONV_NORM_SHAPES = {**SHAPES, "five channels": (2, 9, 5, 2, 1, None), "512 channels": (1, 70, 512, 8, 1, None)}


def _table(shapes):
	"""Parameters of a test: quick shapes, and the slow ones marked so."""
	return [*shapes, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


@pytest.fixture(autouse=True)
def fresh_memory_is_nan(monkeypatch):
	"""Whatever asks for memory without writing it gets NaN, so that reading it shows."""
	for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
		real = getattr(owner, name)

		def filled(*args, _real=real, **kwargs):
			out = _real(*args, **kwargs)
			return out.fill_(float("nan")) if out.is_floating_point() else out

		monkeypatch.setattr(owner, name, filled)


@contextlib.contextmanager
def tiles_of(rows):
	"""Tiles of that many rows in every kernel, or those of the table for None."""
	if rows is None:
		yield
		return
	small = dict.fromkeys(("forward", "hidden_gradient", "weight_gradient"), _tuning.Config(rows, 64, 4, 1))
	whole = dict.fromkeys(("statistics", "normalise", "moments", "gradient"), _tuning.Config(rows, 64, 4, 1))
	with _tuning.override(**small, **whole), pytest.MonkeyPatch.context() as patch:
		patch.setattr(_tuning, "TAIL", rows // 2)
		yield


def error(found, expected):
	"""‖found − expected‖ / ‖expected‖ in float64; infinite where a value is not finite."""
	difference = (found.detach().double() - expected).norm() / expected.norm().clamp_min(1e-300)
	return difference.item() if found.isfinite().all() else float("inf")


def make(shape, dtype=F32, *, shifted=False, weights=F32):
	"""x, conv_weight, W1, W2 and g, from a fixed seed; with shifted, convolutions of mean 100 times their deviation."""
	n, length, channels, _, expansion, _ = shape
	generator = torch.Generator().manual_seed(sum(shape[:5]))
	draw = lambda *size: torch.randn(size, generator=generator)  # noqa: E731
	x, w = draw(n, length, channels), draw(3, channels)
	if shifted:
		x, w = x + 100, w * 1e-3 + torch.tensor([0.0, 1.0, 0.0])[:, None]
	w1 = draw(channels * expansion, channels) / channels**0.5
	w2 = draw(channels, channels * expansion) / (channels * expansion) ** 0.5
	return [x.to(dtype), *(t.to(weights) for t in (w, w1, w2)), draw(n, length, channels).to(dtype)]


def with_gradients(function, tensors, g):
	"""The output and the gradients of the tensors."""
	tensors = [t.detach().requires_grad_() for t in tensors]
	out = function(*tensors)
	return [out.detach(), *torch.autograd.grad(out, tensors, g)]


def oracle(function, tensors, g):
	"""The same in float64."""
	return with_gradients(function, [t.double() for t in tensors], g.double())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", _table(CONV_NORM_SHAPES))
def test_conv_norm(name, dtype):
	shape = {**CONV_NORM_SHAPES, **SLOW}[name]
	x, w, _, _, g = make(shape, dtype)
	with tiles_of(shape[5]):
		found = with_gradients(lambda x, w: conv_norm.FusedDilatedConvNormFunc.apply(x, w, shape[3]), (x, w), g)
	expected = oracle(lambda x, w: reference.conv_norm(x, w, shape[3]), (x, w), g)
	assert [t.dtype for t in found] == [dtype, dtype, F32]
	assert [error(*pair) for pair in zip(found, expected, strict=True)] < [1e-5 if dtype == F32 else 1e-2] * 3


@pytest.mark.parametrize("name", ["odd", "dilation beyond", "two column tiles"])
def test_conv_norm_with_a_mean_of_100_deviations(name):
	shape = SHAPES[name]
	x, w, _, _, g = make(shape, shifted=True)
	shape = (*shape[:3], min(shape[3], 2), *shape[4:])
	z = reference.dilated_conv(x.double(), w.double(), shape[3])
	assert z.mean() / z.std() > 50
	with tiles_of(shape[5]):
		found = with_gradients(lambda x, w: conv_norm.FusedDilatedConvNormFunc.apply(x, w, shape[3]), (x, w), g)
	expected = oracle(lambda x, w: reference.conv_norm(x, w, shape[3]), (x, w), g)
	assert max(error(*pair) for pair in zip(found, expected, strict=True)) < 1e-4


def _block(shape, dot, scale=0.5):
	return lambda *tensors: block.block(*tensors, shape[3], scale, 1e-3, dot)[0]


def _reference(shape, scale=0.5):
	return lambda *tensors: reference.block(*tensors, shape[3], scale)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", _table(SHAPES))
def test_block(name, dtype):
	shape = {**SHAPES, **SLOW}[name]
	*tensors, g = make(shape, dtype)
	with tiles_of(shape[5]):
		found = with_gradients(_block(shape, dtype), tensors, g)
	expected = oracle(_reference(shape), tensors, g)
	assert [t.dtype for t in found] == [dtype, dtype, F32, F32, F32]
	errors = [error(*pair) for pair in zip(found, expected, strict=True)]
	assert max(errors) < (1e-3 if dtype == F32 else 1e-2), errors


@pytest.mark.parametrize("weights", [BF16, F16], ids=str)
def test_block_with_weights_of_the_input_type(weights):
	shape = SHAPES["odd"]
	*tensors, g = make(shape, weights, weights=weights)
	found = with_gradients(_block(shape, weights), tensors, g)
	expected = oracle(_reference(shape), tensors, g)
	assert {t.dtype for t in found} == {weights}
	assert max(error(*pair) for pair in zip(found, expected, strict=True)) < 1e-2


def test_block_with_a_mean_of_100_deviations():
	shape = (2, 65, 16, 1, 2, None)
	*tensors, g = make(shape, shifted=True)
	found = with_gradients(_block(shape, F32), tensors, g)
	expected = oracle(_reference(shape), tensors, g)
	branch = (found[0].double() - tensors[0].double(), expected[0] - tensors[0].double())
	assert error(*branch) < 1e-3  # beside x, of norm 100, an error of the branch would not show
	assert max(error(*pair) for pair in zip(found[1:], expected[1:], strict=True)) < 1e-3


@pytest.mark.parametrize("needs", ["1000", "0100", "0010", "0001", "1100", "0011", "1010"], ids=str)
def test_gradients_that_are_not_needed_are_not_computed(needs):
	shape = (2, 20, 24, 3, 2, None)
	*tensors, g = make(shape)
	expected = oracle(_reference(shape), tensors, g)[1:]
	leaves = [t.detach().requires_grad_(need == "1") for t, need in zip(tensors, needs, strict=True)]
	out = _block(shape, F32)(*leaves)
	out.backward(g)
	for leaf, need, right in zip(leaves, needs, expected, strict=True):
		assert leaf.grad is None if need == "0" else error(leaf.grad, right) < 1e-3


@pytest.mark.parametrize("needs", ["10", "01"])
def test_conv_norm_gradients_that_are_not_needed_are_not_computed(needs):
	shape = (2, 20, 24, 3, 1, None)
	x, w, _, _, g = make(shape)
	expected = oracle(lambda x, w: reference.conv_norm(x, w, 3), (x, w), g)[1:]
	leaves = [t.detach().requires_grad_(need == "1") for t, need in zip((x, w), needs, strict=True)]
	conv_norm.FusedDilatedConvNormFunc.apply(*leaves, 3).backward(g)
	for leaf, need, right in zip(leaves, needs, expected, strict=True):
		assert leaf.grad is None if need == "0" else error(leaf.grad, right) < 1e-5


def test_layouts_do_not_matter():
	shape = (2, 20, 24, 3, 2, None)
	*tensors, g = make(shape)
	expected = with_gradients(_block(shape, F32), tensors, g)
	strided = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in (*tensors, g)]
	assert not any(t.is_contiguous() for t in strided)
	found = with_gradients(_block(shape, F32), strided[:4], strided[4])
	assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
	y = conv_norm.FusedDilatedConvNormFunc.apply(tensors[0], tensors[1], 3)
	assert torch.equal(conv_norm.FusedDilatedConvNormFunc.apply(strided[0], strided[1], 3), y)
	expanded = tensors[0][:1].expand(2, -1, -1)
	assert torch.equal(conv_norm.FusedDilatedConvNormFunc.apply(expanded, tensors[1], 3)[1], y[0])


@pytest.mark.parametrize("size", [(0, 9), (2, 0)], ids=["no examples", "no positions"])
def test_nothing_in_nothing_out(size):
	shape = (*size, 16, 3, 2, None)
	*tensors, g = make(shape)
	found = with_gradients(_block(shape, F32), tensors, g)
	assert [t.shape for t in found] == [tensors[0].shape, *(t.shape for t in tensors)]
	assert all((t == 0).all() for t in found)
	found = with_gradients(lambda x, w: conv_norm.FusedDilatedConvNormFunc.apply(x, w, 3), tensors[:2], g)
	assert [t.shape for t in found] == [tensors[0].shape, *(t.shape for t in tensors[:2])]
	assert all((t == 0).all() for t in found)


@pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_what_is_not_finite_spreads_over_its_example_alone(value):
	shape = (2, 70, 24, 3, 2, None)
	*tensors, g = make(shape)
	clean = with_gradients(_block(shape, F32), tensors, g)
	tensors[0][0, 66, 1] = value
	found = with_gradients(_block(shape, F32), tensors, g)
	for a, b in zip(found[:2], clean[:2], strict=True):
		assert a[0].isnan().all()
		assert torch.equal(a[1], b[1])
	assert all(t.isnan().any() for t in found[2:])
	y = conv_norm.FusedDilatedConvNormFunc.apply(*tensors[:2], 3)
	assert y[0].isnan().all() and y[1].isfinite().all()


def test_an_example_does_not_depend_on_the_others():
	shape = (3, 70, 24, 3, 2, None)
	*tensors, _ = make(shape)
	out = _block(shape, F32)(*tensors)
	assert torch.equal(_block(shape, F32)(tensors[0][2:], *tensors[1:]), out[2:])


def test_two_runs_agree_bit_for_bit():
	shape = (2, 70, 24, 3, 2, None)
	*tensors, g = make(shape)
	first, second = (with_gradients(_block(shape, F32), tensors, g) for _ in range(2))
	assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_what_is_saved_is_the_input_and_two_numbers_an_example():
	shape = (2, 70, 24, 3, 2, None)
	*tensors, _ = make(shape)
	saved = []
	leaves = [t.requires_grad_() for t in tensors]
	with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
		_block(shape, F32)(*leaves)
	others = [t for t in saved if t.data_ptr() not in {leaf.data_ptr() for leaf in leaves}]
	assert len(saved) == 5 and [t.shape for t in others] == [(2, 2)]  # mean and reciprocal deviation of two examples


def test_gradients_can_be_taken_once():
	x, w, *_ = make((1, 5, 8, 1, 1, None))
	y = conv_norm.FusedDilatedConvNormFunc.apply(x.requires_grad_(), w, 1)
	(dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
	with pytest.raises(RuntimeError, match="once_differentiable"):
		dx.sum().backward()
	y, _ = conv_norm.conv_norm(x, w, 1, 1e-3)
	(dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
	with pytest.raises(RuntimeError, match="no autograd formula"):
		dx.sum().backward()


def test_wrong_arguments_are_named():
	with pytest.raises(ValueError, match=r"3 channels.*5"):
		conv_norm.FusedDilatedConvNormFunc.apply(torch.zeros(1, 4, 3), torch.zeros(3, 5), 1)


@pytest.fixture
def on_kernels(monkeypatch):
	"""Blocks and conv + norm choose as they would on an H200, for tensors on the CPU."""

	def as_on_a_gpu(choose):
		return lambda call: choose(call._replace(device="cuda", capability=(9, 0), triton=True))

	monkeypatch.setattr(dispatch, "block_path", as_on_a_gpu(dispatch.block_path))
	monkeypatch.setattr(dispatch, "conv_norm_path", as_on_a_gpu(dispatch.conv_norm_path))


def _cheri_block(channels=24, dilation=3):
	made = CheriBlock(channels, dilation)
	generator = torch.Generator().manual_seed(0)
	with torch.no_grad():
		for p in made.parameters():
			p.copy_(torch.randn(p.shape, generator=generator) / p.shape[-1] ** 0.5)
	return made


def _as_modules(made, x, g):
	"""What the block gives in float64, with the gradient of every parameter."""
	weights = [x, *made.parameters()]
	return oracle(lambda *t: reference.block(*t, made.dilation, made.residual_scale), weights, g)


def test_a_block_takes_the_kernels(on_kernels, monkeypatch):
	made, x, g = _cheri_block(), torch.randn(2, 20, 24), torch.randn(2, 20, 24)
	expected = _as_modules(made, x, g)
	x.requires_grad_()
	assert made.path(x) == "training"
	out = made(x)
	assert "cherimoya_block" in out.grad_fn.name()
	found = [out, *torch.autograd.grad(out, [x, *made.parameters()], g)]
	assert max(error(*pair) for pair in zip(found, expected, strict=True)) < 1e-3
	with torch.no_grad():
		assert made.path(x) == "inference"
		assert torch.equal(made(x), out)
		monkeypatch.setattr(block, "block", None)  # inference does not go through torch's dispatcher
		assert torch.equal(made(x), out)
	with torch.inference_mode():
		assert torch.equal(made(x), out)


def test_a_hooked_block_takes_the_kernels_for_conv_and_norm(on_kernels):
	made, x, g = _cheri_block(), torch.randn(2, 20, 24), torch.randn(2, 20, 24)
	made.activation.register_forward_hook(lambda *a: None)
	assert made.path(x) == "modules"
	found = with_gradients(made, [x], g)
	expected = _as_modules(made, x, g)
	assert max(error(*pair) for pair in zip(found, expected[:2], strict=True)) < 1e-5
	y = fused_dilated_conv_norm(x.requires_grad_(), made.conv_weight, 3)
	assert "cherimoya_conv_norm" in y.grad_fn.name()


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_autocast(on_kernels, dtype, monkeypatch):
	made, x = _cheri_block(), torch.randn(2, 20, 24).to(dtype)
	g = torch.randn(2, 20, 24)
	expected = _as_modules(made, x, g)
	x.requires_grad_()
	seen = []
	real = block.block
	monkeypatch.setattr(block, "block", lambda *a: seen.append(a[-1]) or real(*a))
	with torch.autocast("cpu", dtype=BF16):
		out = made(x)
		rival = _modules(made, x)
	assert seen == [BF16] and out.dtype == rival.dtype == dtype
	found = [out, *torch.autograd.grad(out, [x, *made.parameters()], g.to(dtype))]
	assert max(error(*pair) for pair in zip(found, expected, strict=True)) < 1e-2


def _modules(made, x):
	y = reference.conv_norm(x, made.conv_weight, made.dilation)
	return torch.add(x, made.linear2(made.activation(made.linear1(y))), alpha=made.residual_scale)


def test_gradients_accumulate_and_steps_are_seen(on_kernels):
	made, x, g = _cheri_block(), torch.randn(2, 20, 24), torch.randn(2, 20, 24)
	made(x).backward(g)
	once = [p.grad.clone() for p in made.parameters()]
	made(x).backward(g)
	for p, single in zip(made.parameters(), once, strict=True):
		torch.testing.assert_close(p.grad, 2 * single)
	torch.optim.SGD(made.parameters(), lr=1e-3).step()
	made.linear1.weight.data.mul_(2)
	assert error(made(x), _as_modules(made, x, g)[0]) < 1e-3


def test_compile_sees_one_opaque_operation(on_kernels):
	made, x, g = _cheri_block(), torch.randn(2, 20, 24), torch.randn(2, 20, 24)
	expected = _as_modules(made, x, g)
	compiled = torch.compile(made, backend="aot_eager", fullgraph=True)
	x.requires_grad_()
	out = compiled(x)
	found = [out, *torch.autograd.grad(out, [x, *made.parameters()], g)]
	assert max(error(*pair) for pair in zip(found, expected, strict=True)) < 1e-3
	with torch.no_grad():
		assert error(compiled(x), expected[0]) < 1e-3


def test_operations_keep_their_promises_to_torch():
	x, w, w1, w2, g = make((2, 9, 16, 2, 1, None))
	tests = ("test_schema", "test_faketensor")
	torch.library.opcheck(conv_norm.conv_norm, (x, w, 2, 1e-3), test_utils=tests)
	torch.library.opcheck(block.block, (x, w, w1, w2, 2, 0.5, 1e-3, BF16), test_utils=tests)
	_, stats = conv_norm.conv_norm(x, w, 2, 1e-3)
	for needs in ((True, True), (True, False), (False, True)):
		torch.library.opcheck(conv_norm.conv_norm_backward, (g, x, w, stats, 2, *needs), test_utils=tests)
		torch.library.opcheck(block.block_backward, (g, x, w, w1, w2, stats, 2, 0.5, BF16, *needs), test_utils=tests)
