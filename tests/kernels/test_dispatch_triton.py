"""What the launch table and the launches promise: tile widths, bytes of device memory, nothing hidden ever stored."""

import pytest
import torch

pytest.importorskip("triton")

from cherimoya import cheri
from cherimoya.kernels import _tuning, block, conv_norm

F32, BF16 = torch.float32, torch.bfloat16
KERNELS = ("statistics", "normalise", "moments", "gradient", "forward", "hidden_gradient", "weight_gradient")


def test_the_autograd_function_is_public_where_triton_is_installed():
	assert cheri.HAS_TRITON
	assert cheri.FusedDilatedConvNormFunc is conv_norm.FusedDilatedConvNormFunc


@pytest.mark.parametrize("channels", [8, 16, 24, 40, 48, 80, 96, 112, 128, 160, 192, 256])
def test_tiles_hold_the_channels_without_waste(channels):
	c0, c1 = _tuning.split_channels(channels)
	assert channels <= c0 + c1 <= max(16, min(1.34 * channels, channels + 16))
	assert all(c == 0 or (c >= 16 and c & (c - 1) == 0) for c in (c0, c1))
	assert c0 + c1 <= sum(_tuning.split_channels(channels, padded=True)) == max(16, _tuning.next_power_of_2(channels))
	assert -(-channels // _tuning.column_block(channels)) * _tuning.column_block(channels) < channels + 16


def test_96_channels_cost_those_of_96():
	assert sum(_tuning.split_channels(96)) == 96
	assert _tuning.column_block(96) * 3 == 96
	assert not _tuning.config("forward", 96, BF16, (9, 0)).padded
	assert not _tuning.config("hidden_gradient", 96, BF16, (9, 0)).padded
	assert not _tuning.config("weight_gradient", 96, BF16, (9, 0)).padded


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (9, 0), (10, 0), (12, 0)], ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
def test_every_width_type_and_gpu_has_a_configuration(kernel, capability):
	for channels in range(8, 257):
		for dtype in (F32, BF16, torch.float16):
			found = _tuning.config(kernel, channels, dtype, capability)
			assert found.rows >= 16 and found.cols >= 16 and found.warps in (4, 8)


def test_an_override_ends_with_its_block():
	ours = _tuning.Config(16, 16, 1, 1)
	before = _tuning.config("forward", 96, BF16, (9, 0))
	with pytest.raises(ZeroDivisionError), _tuning.override(forward=ours):
		assert _tuning.config("forward", 96, BF16, (9, 0)) == ours
		raise ZeroDivisionError
	assert _tuning.config("forward", 96, BF16, (9, 0)) == before


class Traffic:
	"""Launches recorded instead of run: bytes of every distinct tensor a launch reads or writes, each counted once."""

	def __init__(self):
		self.bytes, self.tensors = 0, []

	def __call__(self, kernel, grid, tensors, **arguments):
		distinct = {t.data_ptr(): t for t in tensors.values() if t.numel()}
		self.tensors += [(kernel.__name__, name, t) for name, t in tensors.items()]
		self.bytes += sum(t.numel() * t.element_size() for t in distinct.values())


@pytest.fixture
def traffic(monkeypatch):
	found = Traffic()
	monkeypatch.setattr(conv_norm, "launch", found)
	monkeypatch.setattr(block, "launch", found)
	return found


def _inputs(n, length, channels, dtype):
	x, g = torch.empty(2, n, length, channels, dtype=dtype)
	weights = (torch.empty(3, channels), torch.empty(2 * channels, channels), torch.empty(channels, 2 * channels))
	return x, g, weights, torch.empty(2, n)


SHAPES = [(512, 1024, 128), (64, 2114, 128), (64, 2114, 96), (256, 2114, 64)]
PASSES = pytest.mark.parametrize(
	("operation", "limit"),
	[("conv_norm", 3.1), ("conv_norm_backward", 5.2), ("forward", 3.1), ("backward", 8.0), ("backward to x", 7.1)],
)


@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@PASSES
def test_passes_over_device_memory(traffic, shape, dtype, operation, limit):
	x, g, weights, stats = _inputs(*shape, dtype)
	if operation == "conv_norm":
		conv_norm.conv_norm(x, weights[0], 4, 1e-3)
	elif operation == "conv_norm_backward":
		conv_norm.conv_norm_backward(g, x, weights[0], stats, 4, True, True)
	elif operation == "forward":
		block.block(x, *weights, 4, 0.15, 1e-3, dtype)
	else:
		block.block_backward(g, x, *weights, stats, 4, 0.15, dtype, True, operation == "backward")
	passes = traffic.bytes / (x.numel() * x.element_size())
	assert 0.9 * int(limit - 0.1) <= passes <= limit


def test_hidden_activations_are_never_stored(traffic):
	n, length, channels = shape = (64, 2114, 96)
	x, g, weights, stats = _inputs(*shape, BF16)
	block.block(x, *weights, 4, 0.15, 1e-3, BF16)
	block.block_backward(g, x, *weights, stats, 4, 0.15, BF16, True, True)
	for kernel, name, tensor in traffic.tensors:
		assert tensor.numel() <= n * length * channels, f"{kernel} {name}"
