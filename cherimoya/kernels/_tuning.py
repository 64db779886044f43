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
	"""

	rows: int
	cols: int
	warps: int
	stages: int


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


def split_channels(channels: int) -> tuple[int, int]:
	"""C as a sum of two tile widths, each a power of two from 16 or 0: 96 is 64 + 32, not 128.

	Examples
	--------
	>>> split_channels(96), split_channels(128), split_channels(40), split_channels(8)
	((64, 32), (128, 0), (32, 16), (16, 0))
	"""
	whole = next_power_of_2(max(16, channels))
	if whole <= 16 or channels == whole:
		return whole, 0
	rest = max(16, next_power_of_2(channels - whole // 2))
	return (whole, 0) if rest >= whole // 2 else (whole // 2, rest)


def column_block(channels: int) -> int:
	"""Width of a column tile of the kernels without products: of 128 to 16, the largest that wastes as little as 16."""
	padded = -(-channels // 16) * 16
	return next(block for block in (128, 64, 32, 16) if padded % block == 0)


def shared_memory(capability: tuple[int, int]) -> int:
	"""Bytes of shared memory that one program can have, by compute capability."""
	sizes = {(8, 0): 163, (8, 7): 163, (9, 0): 227, (10, 0): 227, (10, 3): 227, (11, 0): 227}
	return sizes.get(capability, 99) * 1024


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
	wide = dtype == torch.float32
	width = sum(split_channels(channels))
	small = shared_memory(capability) < 160 * 1024
	return _block_config(kernel, width, wide, small)


def _block_config(kernel: str, width: int, wide: bool, small: bool) -> Config:
	"""A row of the block's table: by padded width, operands of four bytes, and shared memory of about 100 KB."""
	if width <= 64:
		return Config(64, 32 if wide else 64, 4, 2)
	if width <= 128:
		if kernel == "weight_gradient":
			return Config(32 if wide or small else 64, 32 if wide or small else 64, 8, 2)
		return Config(64, 16 if wide and small else 32 if wide or small else 64, 4 if not wide else 8, 2)
	return Config(32 if wide else 64, 16 if wide or small else 32, 8, 1 if wide or small else 2)


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
