"""Which implementation runs: pure functions of what is known about a call, to be tested and asked for."""

from typing import Literal, NamedTuple

import torch

ConvNormPath = Literal["cpu", "triton", "reference"]
BlockPath = Literal["cpu", "training", "inference", "modules"]

# What the Triton kernels take: loads and products of these types, on tensor cores that know them all.
TRITON_TYPES = (torch.float32, torch.bfloat16, torch.float16)
TRITON_CAPABILITY = (8, 0)
# Offsets inside an example are 32-bit, and taps reach two dilations (of at most L) to either side.
TRITON_VALUES = 2**31 // 5
# The channels that a program holds at once, and the widths at which that pays.
BLOCK_CHANNELS = (8, 256)


class Call(NamedTuple):
	"""What the choice depends on.

	Attributes
	----------
	device: str
		Device type, such as ``"cpu"``.
	dtypes: tuple[torch.dtype, ...]
		Of the input, then of every weight.
	plain: bool
		The block's submodules are the ones it was built with, and nobody hooked them. Default True.
	autocast: bool
		Automatic mixed precision is on for this device. Default False.
	compiling: bool
		torch.compile is tracing, and can fuse plain operations better than it can see into ours. Default False.
	capability: tuple[int, int] | None
		Compute capability of an NVIDIA GPU; None for every other device. Default None.
	triton: bool
		Triton is installed. Default False.
	grad: bool
		A gradient will be wanted: gradients are enabled, and one of the tensors requires one. Default False.
	shape: tuple[int, int, int]
		(N, L, C) of the input. Default (1, 1, 1).
	autocast_dtype: torch.dtype | None
		The type that autocast computes products in; None when it is off. Default None.
	"""

	device: str
	dtypes: tuple[torch.dtype, ...]
	plain: bool = True
	autocast: bool = False
	compiling: bool = False
	capability: tuple[int, int] | None = None
	triton: bool = False
	grad: bool = False
	shape: tuple[int, int, int] = (1, 1, 1)
	autocast_dtype: torch.dtype | None = None


def _takes_triton(call: Call) -> bool:
	"""Whether the device, the types and the size of an example are ones that the kernels can take."""
	if call.device != "cuda" or not call.triton or call.capability is None or call.capability < TRITON_CAPABILITY:
		return False
	return all(d in TRITON_TYPES for d in call.dtypes) and call.shape[1] * call.shape[2] < TRITON_VALUES


def conv_norm_path(call: Call) -> ConvNormPath:
	"""How conv + norm is computed.

	``"cpu"``: hand-written gradient, any floating type; ``"triton"``: kernels, forward and backward, on NVIDIA GPUs
	from compute capability 8.0; ``"reference"``: plain torch, everywhere else.
	"""
	if call.device == "cpu" and not call.compiling:
		return "cpu"
	return "triton" if _takes_triton(call) else "reference"


def block_path(call: Call) -> BlockPath:
	"""How a block is computed.

	``"cpu"``: the whole block at once, with a hand-written gradient; ``"training"`` and ``"inference"``: the whole
	block in Triton, with or without what the backward needs; ``"modules"``: conv + norm by `conv_norm_path`, then
	the submodules one by one.
	"""
	if not call.plain:
		return "modules"
	one_type = len(set(call.dtypes)) == 1
	if call.device == "cpu":
		wide = call.dtypes[0] in (torch.float32, torch.float64)
		return "cpu" if one_type and wide and not call.autocast and not call.compiling else "modules"
	channels = call.shape[2]
	if not _takes_triton(call) or not BLOCK_CHANNELS[0] <= channels <= BLOCK_CHANNELS[1]:
		return "modules"
	if call.autocast:
		# The submodules' output would be of another type where x is of neither type.
		if call.autocast_dtype not in TRITON_TYPES or call.dtypes[0] not in (torch.float32, call.autocast_dtype):
			return "modules"
	elif not one_type:
		return "modules"
	return "training" if call.grad else "inference"


def capability(device: torch.device) -> tuple[int, int] | None:
	"""Compute capability of an NVIDIA GPU, None for any other device."""
	if device.type != "cuda" or torch.version.cuda is None:
		return None
	properties = torch.cuda.get_device_properties(device)
	return properties.major, properties.minor
