"""The truth table of which implementation runs, and that blocks follow it."""

import importlib.util
import subprocess
import sys

import pytest
import torch
from torch import nn

from cherimoya.cheri import HAS_TRITON, CheriBlock
from cherimoya.kernels import cpu, dispatch
from cherimoya.kernels.dispatch import Call, block_path, conv_norm_path

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16


def _gpu(*dtypes, capability=(9, 0), triton=True, shape=(512, 1024, 128), **options):
	"""A call on a GPU with Triton; the type of the input is that of the weights unless there are two."""
	return Call("cuda", (dtypes[0], dtypes[-1]), capability=capability, triton=triton, shape=shape, **options)


CASES = {
	"cpu float32": (Call("cpu", (F32, F32)), "cpu", "cpu"),
	"cpu float64": (Call("cpu", (F64, F64)), "cpu", "cpu"),
	"cpu bfloat16": (Call("cpu", (BF16, BF16)), "cpu", "modules"),
	"cpu float16": (Call("cpu", (F16, F16)), "cpu", "modules"),
	"cpu mixed": (Call("cpu", (BF16, F32)), "cpu", "modules"),
	"cpu wide weights": (Call("cpu", (F32, F64)), "cpu", "modules"),
	"cpu autocast": (Call("cpu", (F32, F32), autocast=True), "cpu", "modules"),
	"cpu hooked": (Call("cpu", (F32, F32), plain=False), "cpu", "modules"),
	"cpu compiling": (Call("cpu", (F32, F32), compiling=True), "reference", "modules"),
	"cuda": (Call("cuda", (F32, F32)), "reference", "modules"),
	"cuda bfloat16": (Call("cuda", (BF16, BF16)), "reference", "modules"),
	"mps": (Call("mps", (F32, F32)), "reference", "modules"),
	"h200 gradients off": (_gpu(F32), "triton", "inference"),
	"h200 training": (_gpu(F32, grad=True), "triton", "training"),
	"h200 bfloat16": (_gpu(BF16), "triton", "inference"),
	"h200 float16 training": (_gpu(F16, grad=True), "triton", "training"),
	"h200 float64": (_gpu(F64), "reference", "modules"),
	"h200 wide weights": (_gpu(F32, F64), "reference", "modules"),
	"h200 mixed": (_gpu(BF16, F32), "triton", "modules"),
	"h200 mixed in autocast": (_gpu(BF16, F32, autocast=True, autocast_dtype=BF16, grad=True), "triton", "training"),
	"h200 float32 in autocast": (_gpu(F32, autocast=True, autocast_dtype=F16), "triton", "inference"),
	"h200 the other half in autocast": (_gpu(F16, F32, autocast=True, autocast_dtype=BF16), "triton", "modules"),
	"h200 autocast to float64": (_gpu(F32, autocast=True, autocast_dtype=F64), "triton", "modules"),
	"h200 compiling": (_gpu(BF16, compiling=True, grad=True), "triton", "training"),
	"h200 hooked": (_gpu(F32, plain=False), "triton", "modules"),
	"h200 without triton": (_gpu(F32, triton=False), "reference", "modules"),
	"a100": (_gpu(F32, capability=(8, 0)), "triton", "inference"),
	"b200": (_gpu(F32, capability=(10, 0)), "triton", "inference"),
	"turing": (_gpu(F16, capability=(7, 5)), "reference", "modules"),
	"h200 8 channels": (_gpu(F32, shape=(1, 1, 8)), "triton", "inference"),
	"h200 4 channels": (_gpu(F32, shape=(2, 9, 4)), "triton", "modules"),
	"h200 256 channels": (_gpu(F32, shape=(2, 9, 256)), "triton", "inference"),
	"h200 512 channels": (_gpu(F32, shape=(2, 9, 512)), "triton", "modules"),
	"h200 no examples": (_gpu(F32, shape=(0, 9, 96)), "triton", "inference"),
	"h200 a whole chromosome": (_gpu(F32, shape=(1, 2**24, 96)), "reference", "modules"),
	"rocm": (_gpu(F32, capability=None), "reference", "modules"),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_truth_table(case):
	call, conv_norm, block = CASES[case]
	assert conv_norm_path(call) == conv_norm
	assert block_path(call) == block


def test_triton_is_found_where_it_is_installed():
	assert HAS_TRITON is (importlib.util.find_spec("triton") is not None)


STEP = """
import torch
from cherimoya import cheri
from cherimoya.kernels import check
block, x = cheri.CheriBlock(8, 2), torch.randn(2, 9, 8, requires_grad=True)
block(x).sum().backward()
cheri.fused_dilated_conv_norm(x, block.conv_weight, 2).sum().backward()
"""


def _python(code):
	done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
	assert done.returncode == 0, done.stderr
	return done.stdout


def test_nothing_on_the_cpu_imports_triton():
	assert _python(f"import sys\n{STEP}\nprint('triton' in sys.modules)") == "False\n"


def test_everything_works_without_triton():
	code = f"import sys\nsys.modules['triton'] = None\n{STEP}"
	code += "print(cheri.HAS_TRITON, hasattr(cheri, 'FusedDilatedConvNormFunc'), check.main([]))"
	assert _python(code) == "Triton is not installed: blocks run in plain torch\nFalse False 0\n"


def test_a_call_is_described_as_it_is(monkeypatch):
	seen = []
	monkeypatch.setattr(dispatch, "block_path", lambda call: seen.append(call) or "modules")
	block, x = CheriBlock(8, 2), torch.randn(2, 10, 8, dtype=BF16)
	with torch.autocast("cpu", dtype=BF16):
		block.path(x)
	with torch.no_grad():
		block.path(x.float())
	mixed, plain = seen
	assert mixed == Call(
		"cpu", (BF16, F32, F32, F32), autocast=True, triton=HAS_TRITON, grad=True, shape=(2, 10, 8), autocast_dtype=BF16
	)
	assert plain == Call("cpu", (F32,) * 4, triton=HAS_TRITON, shape=(2, 10, 8))


def test_a_device_without_autocast_has_its_shapes():
	block, x = CheriBlock(8, 2).to("meta"), torch.empty(2, 10, 8, device="meta")
	assert block.path(x) == "modules"
	assert block(x).shape == (2, 10, 8)


def _subclass(block):
	class Other(nn.Linear):
		pass

	block.linear2 = Other(16, 8, bias=False)


CHANGES = {
	"hook on activation": lambda b: b.activation.register_forward_hook(lambda *a: None),
	"pre-hook on linear1": lambda b: b.linear1.register_forward_pre_hook(lambda *a: None),
	"backward hook on linear2": lambda b: b.linear2.register_full_backward_hook(lambda *a: None),
	"another activation": lambda b: setattr(b, "activation", nn.ReLU()),
	"the other GELU": lambda b: setattr(b, "activation", nn.GELU()),
	"a bias": lambda b: setattr(b, "linear1", nn.Linear(8, 16)),
	"a subclass": _subclass,
}


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_block_that_was_changed_calls_its_submodules(change, monkeypatch):
	block, x = CheriBlock(8, 2), torch.randn(2, 10, 8)
	assert block.path(x) == "cpu"
	CHANGES[change](block)
	assert block.path(x) == "modules"
	monkeypatch.setattr(cpu.Block, "apply", None)
	y = cpu.ConvNorm.apply(x, block.conv_weight, 2, 1e-3)
	expected = x + 0.15 * block.linear2(block.activation(block.linear1(y)))
	torch.testing.assert_close(block(x), expected)


def test_both_paths_agree_in_value_and_gradient():
	block = CheriBlock(8, 2)
	with torch.no_grad():
		for p in block.parameters():
			p.mul_(20)
	x = torch.randn(3, 11, 8, requires_grad=True)
	results = []
	for path in ("cpu", "modules"):
		if path == "modules":
			block.activation.register_forward_hook(lambda *a: None)
		assert block.path(x) == path
		out = block(x)
		results.append([out, *torch.autograd.grad(out.square().sum(), [x, *block.parameters()])])
	for a, b in zip(*results, strict=True):
		torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_autocast_takes_the_modules_and_gives_finite_gradients():
	block, x = CheriBlock(8, 2), torch.randn(2, 10, 8, requires_grad=True)
	with torch.autocast("cpu", dtype=torch.bfloat16):
		assert block.path(x) == "modules"
		out = block(x)
	gradients = torch.autograd.grad(out.float().square().sum(), [x, *block.parameters()])
	assert all(g.isfinite().all() and g.abs().sum() > 0 for g in gradients)


def test_in_place_needs_gradients_off():
	block, x = CheriBlock(8, 2), torch.randn(2, 10, 8)
	kept = x.clone()
	expected = block(x, inplace=True)  # gradients are on: x stays
	assert torch.equal(x, kept)
	with torch.no_grad():
		out = block(x, inplace=True)
	assert out.data_ptr() == x.data_ptr()
	assert torch.equal(out, expected)
