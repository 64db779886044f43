"""Launch configurations by kernel, C, type and shared memory; README.md says what justifies each row."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import torch


class Config(NamedTuple):
	"""How a kernel is launched.

	Attributes
	----------
	rows: int
		Positions in a tile.
	cols: int
		Channels (conv + norm) or hidden units (block) that a program works on at a time.
	warps, stages: int
		Warps of a program, and depth of the pipeline that loads weights.
	padded: bool
		Hold C as one tile, padded to a power of two, instead of as two; costs products, saves registers. Default False.
	"""

	rows: int
	cols: int
	warps: int
	stages: int
	padded: bool = False


# Programs that the reductions over examples are split into: enough for the 132 multiprocessors of an H200, few enough
# that partial weight gradients stay small beside x. A constant, so that sums add up alike on every GPU.
PROGRAMS = 132
# Rows of a partial result that a program adds up at a time.
PARTS = 32
# Tiles whose partial sums a program merges at a time.
MERGE = 64
# Rows that a program of `weight_gradient` turns into dx at a time, beside the weight gradients it holds.
TAIL = 16

_ELEMENTWISE = ("statistics", "normalise", "moments", "gradient")
_override: dict[str, Config] = {}


def next_power_of_2(n: int) -> int:
	"""The smallest power of two that is at least n."""
	return 1 << max(0, n - 1).bit_length()


def split_channels(channels: int, padded: bool = False) -> tuple[int, int]:
	"""C as a sum of two tile widths, each a power of two from 16 or 0: 96 is 64 + 32, not 128 (as it is when padded).

	Examples
	--------
	>>> split_channels(96), split_channels(128), split_channels(40), split_channels(8)
	((64, 32), (128, 0), (32, 16), (16, 0))
	"""
	whole = next_power_of_2(max(16, channels))
	if whole <= 16 or channels == whole or padded:
		return whole, 0
	rest = max(16, next_power_of_2(channels - whole // 2))
	return (whole, 0) if rest >= whole // 2 else (whole // 2, rest)


def column_block(channels: int) -> int:
	"""Width of a column tile of the kernels without products: of 64 to 16, the largest that wastes as little as 16."""
	padded = -(-channels // 16) * 16
	return next(block for block in (64, 32, 16) if padded % block == 0)


def config(kernel: str, channels: int, dtype: torch.dtype, capability: tuple[int, int]) -> Config:
	"""The launch configuration of a kernel.

	Parameters
	----------
	kernel: str
		``"statistics"``, ``"normalise"``, ``"moments"``, ``"gradient"`` (conv + norm); ``"forward"``,
		``"hidden_gradient"``, ``"weight_gradient"`` (the block).
	channels: int
		C.
	dtype: torch.dtype
		The type of the products' operands.
	capability: tuple[int, int]
		Compute capability of the device.

	Returns
	-------
	config: Config
	"""
	if kernel in _override:
		return _override[kernel]
	if kernel in _ELEMENTWISE:
		return Config(32 if kernel == "gradient" else 64, column_block(channels), 4, 2)
	width = sum(split_channels(channels))
	size = "small" if width <= 64 else "medium" if width <= 128 else "large"
	held = "four" if dtype == torch.float32 else "two"
	# The matrix units of data-centre GPUs from 9.0 read operands from shared memory, which leaves registers free.
	exact = f"{kernel} {size} {held} {width}" if capability in ((9, 0), (10, 0), (10, 3)) else ""
	hopper = f"{kernel} {size} {held} hopper" if capability == (9, 0) else ""
	return next(_BLOCK[key] for key in (exact, hopper, f"{kernel} {size} {held}") if key in _BLOCK)


# By kernel, C padded (small: up to 64, medium: up to 128, large: up to 256), bytes of an operand of the products, and,
# where it matters, GPU or width. Each row is the largest tile found that compiles without spills for compute
# capabilities 8.0, 9.0 and 10.0 within 99 KB of shared memory (benchmarks/kernel_resources.json); not timed yet.
_BLOCK = {
	"forward small two": Config(64, 64, 4, 2),
	"forward small four": Config(64, 32, 4, 2),
	"forward medium two": Config(128, 32, 8, 2),
	"forward medium four": Config(64, 32, 8, 2),
	"forward medium four hopper": Config(128, 32, 8, 1),
	"forward large two": Config(32, 32, 8, 2),
	"forward large four": Config(32, 16, 8, 2),
	"hidden_gradient small two": Config(64, 32, 4, 2),
	"hidden_gradient small four": Config(64, 32, 4, 2),
	"hidden_gradient medium two": Config(64, 32, 8, 2),
	"hidden_gradient medium four": Config(32, 32, 8, 2, padded=True),
	"hidden_gradient medium four 96": Config(64, 32, 8, 2),
	"hidden_gradient large two": Config(32, 32, 8, 2),
	"hidden_gradient large four": Config(32, 16, 8, 1),
	"weight_gradient small two": Config(32, 32, 4, 2),
	"weight_gradient small four": Config(32, 16, 4, 2),
	"weight_gradient medium two": Config(32, 64, 8, 2, padded=True),
	"weight_gradient medium two 96": Config(64, 64, 8, 1),
	"weight_gradient medium four": Config(32, 32, 8, 1, padded=True),
	"weight_gradient large two": Config(32, 32, 8, 1, padded=True),
	"weight_gradient large four": Config(16, 16, 8, 1, padded=True),
}


@contextlib.contextmanager
def override(**configs: Config) -> Iterator[None]:
	"""Use these configurations inside a with-block, such as while measuring which is the fastest."""
	before = dict(_override)
	_override.update(configs)
	try:
		yield
	finally:
		_override.clear()
		_override.update(before)
