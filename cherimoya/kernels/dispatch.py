"""Which implementation runs: pure functions of what is known about a call, to be tested and asked for."""

from typing import Literal, NamedTuple

import torch

ConvNormPath = Literal["cpu", "reference"]
BlockPath = Literal["cpu", "modules"]


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
	"""

	device: str
	dtypes: tuple[torch.dtype, ...]
	plain: bool = True
	autocast: bool = False
	compiling: bool = False


def conv_norm_path(call: Call) -> ConvNormPath:
	"""``"cpu"``: hand-written gradient, any floating type; ``"reference"``: plain torch on every other device."""
	return "cpu" if call.device == "cpu" and not call.compiling else "reference"


def block_path(call: Call) -> BlockPath:
	"""``"cpu"``: the whole block at once; ``"modules"``: conv + norm by `conv_norm_path`, then the submodules."""
	one_type = len(set(call.dtypes)) == 1 and call.dtypes[0] in (torch.float32, torch.float64)
	whole = call.device == "cpu" and one_type and call.plain and not call.autocast and not call.compiling
	return "cpu" if whole else "modules"
