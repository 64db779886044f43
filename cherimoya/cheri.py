"""The Cheri block: dilated depthwise convolution, normalisation and a two-layer perceptron, around a residual.

`HAS_TRITON` says whether Triton is installed, so that blocks on an NVIDIA GPU run its kernels. Nothing else imports
Triton; `FusedDilatedConvNormFunc`, which needs it, is imported when it is asked for.
"""

import importlib.util
from typing import Any

import torch
from torch import nn

from cherimoya.kernels import cpu, dispatch, reference
from cherimoya.kernels.reference import conv_norm as _cheri_conv_norm_cpu

__all__ = ["HAS_TRITON", "CheriBlock", "_cheri_conv_norm_cpu", "fused_dilated_conv_norm"]

HAS_TRITON = importlib.util.find_spec("triton") is not None


def __getattr__(name: str) -> Any:
	if name == "FusedDilatedConvNormFunc" and HAS_TRITON:
		from cherimoya.kernels.conv_norm import FusedDilatedConvNormFunc

		return FusedDilatedConvNormFunc
	raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _describe(x: torch.Tensor, *weights: torch.Tensor, plain: bool = True) -> dispatch.Call:
	"""What the choice of an implementation depends on."""
	device = x.device.type
	autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
	return dispatch.Call(
		device=device,
		dtypes=(x.dtype, *(w.dtype for w in weights)),
		plain=plain,
		autocast=autocast,
		compiling=torch.compiler.is_compiling(),
		capability=dispatch.capability(x.device),
		triton=HAS_TRITON,
		grad=torch.is_grad_enabled() and any(t.requires_grad for t in (x, *weights)),
		shape=tuple(x.shape),
		autocast_dtype=torch.get_autocast_dtype(device) if autocast else None,
	)


def fused_dilated_conv_norm(x: torch.Tensor, w: torch.Tensor, dilation: int) -> torch.Tensor:
	"""Dilated depthwise convolution and normalisation of each example over all its positions and channels.

	y = (z − mean_n) / sqrt(var_n + 1e-3) with z[n,l,c] = w[0,c]·x[n,l−d,c] + w[1,c]·x[n,l,c] + w[2,c]·x[n,l+d,c],
	zero outside the sequence. Statistics are float32 whatever the type (float64 for float64). `_cheri_conv_norm_cpu`
	is the definition; on the CPU the gradient is hand-written and can be taken once.

	Parameters
	----------
	x: torch.Tensor, shape=(N, L, C)
		Of any floating-point type and memory layout.
	w: torch.Tensor, shape=(3, C)
		The taps at −d, 0 and +d.
	dilation: int
		d, in positions; may exceed L.

	Returns
	-------
	y: torch.Tensor, shape=(N, L, C), dtype of x

	Raises
	------
	ValueError
		If shapes do not fit, a tensor is not floating point, or dilation is below 1.
	"""
	reference.check_conv_norm(x, w, dilation)
	path = dispatch.conv_norm_path(_describe(x, w))
	if path == "cpu":
		return cpu.ConvNorm.apply(x, w, dilation, reference.EPS)
	if path == "triton":
		from cherimoya.kernels import conv_norm

		return conv_norm.conv_norm(x, w, dilation, reference.EPS)[0]
	return reference.conv_norm(x, w, dilation)


class Linear(nn.Linear):
	"""A linear layer whose weights its owner draws; torch's own draws would come from the global generator."""

	def reset_parameters(self) -> None:
		"""Draw nothing."""


class CheriBlock(nn.Module):
	"""One block: out = x + residual_scale · W2·gelu_tanh(W1·conv_norm(x)), without biases.

	On the CPU, and in Triton on NVIDIA GPUs, the whole block is one operation with a hand-written gradient that saves
	nothing of the batch's size but its input. A block whose submodules were replaced or hooked calls those submodules
	one by one instead, as does one that runs under autocast on the CPU; `path` tells which.

	Parameters
	----------
	n_filters: int
		C, the number of channels.
	dilation: int
		Distance between the taps of the convolution, in positions.
	expansion: int
		H / C, the relative width of the hidden layer. Default 2.
	residual_scale: float
		Factor of the block's contribution; fixed, never learned. Default 0.15.

	Attributes
	----------
	conv_weight: torch.nn.Parameter, shape=(3, C)
	linear1, linear2: torch.nn.Linear
		Weights of shape (H, C) and (C, H).
	activation: torch.nn.GELU
	"""

	def __init__(self, n_filters: int, dilation: int, expansion: int = 2, residual_scale: float = 0.15) -> None:
		super().__init__()
		self.n_filters = n_filters
		self.dilation = dilation
		self.expansion = expansion
		self.residual_scale = float(residual_scale)
		self.conv_weight = nn.Parameter(torch.empty(3, n_filters, device="cpu"))
		self.linear1 = Linear(n_filters, expansion * n_filters, bias=False, device="cpu")
		self.linear2 = Linear(expansion * n_filters, n_filters, bias=False, device="cpu")
		self.activation = nn.GELU(approximate="tanh")
		self.reset_parameters()

	def reset_parameters(self, generator: torch.Generator | None = None) -> None:
		"""Draw every weight from a truncated normal of std 0.02; without a generator, from one seeded by the system."""
		if generator is None:
			generator = torch.Generator()
			generator.seed()
		for weight in (self.conv_weight, self.linear1.weight, self.linear2.weight):
			nn.init.trunc_normal_(weight, std=0.02, generator=generator)

	def path(self, x: torch.Tensor) -> dispatch.BlockPath:
		"""Which implementation `forward` takes for x; see `dispatch.block_path`."""
		weights = (self.conv_weight, self.linear1.weight, self.linear2.weight)
		return dispatch.block_path(_describe(x, *weights, plain=self._is_plain()))

	def forward(self, x: torch.Tensor, *, inplace: bool = False, keep: tuple[int, int] | None = None) -> torch.Tensor:
		"""The block's output.

		Parameters
		----------
		x: torch.Tensor, shape=(N, L, C)
			Of the weights' type, or of another under autocast.
		inplace: bool
			x may be overwritten, if gradients are off; saves memory and the time to get it. Default False.
		keep: tuple[int, int] or None
			The positions [start, stop) that are wanted, 0 <= start <= stop <= L; the perceptron leaves the others
			out where it can. Default None: all.

		Returns
		-------
		out: torch.Tensor, shape=(N, stop - start, C), dtype of x

		Raises
		------
		ValueError
			If x does not have C channels in its last of three dimensions.
		"""
		path = "modules" if x.ndim != 3 else self.path(x)
		if path != "modules":
			reference.check_conv_norm(x, self.conv_weight, self.dilation)
			weights = (self.conv_weight, self.linear1.weight, self.linear2.weight)
			settings = (self.dilation, self.residual_scale, reference.EPS)
			if path != "cpu":
				out = self._triton(x, weights, settings, path)
				return out if keep is None else out[:, slice(*keep)]
			if inplace and keep is None and x.is_contiguous() and not torch.is_grad_enabled():
				return cpu.block_forward(x, *weights, *settings, out=x)
			return cpu.Block.apply(x, *weights, *settings, keep)
		y = fused_dilated_conv_norm(x, self.conv_weight, self.dilation)
		if keep is not None:
			x, y = x[:, slice(*keep)], y[:, slice(*keep)]  # (N, L, C) -> (N, stop - start, C)
		h = self.activation(self.linear1(y))  # (N, L, C) -> (N, L, H)
		return torch.add(x, self.linear2(h), alpha=self.residual_scale)  # (N, L, H) -> (N, L, C)

	@staticmethod
	def _triton(
		x: torch.Tensor, weights: tuple[torch.Tensor, ...], settings: tuple[int, float, float], path: dispatch.BlockPath
	) -> torch.Tensor:
		"""The block's output from the kernels; the operands of its products are of the type that autocast asks for."""
		from cherimoya.kernels import block

		device = x.device.type
		dot = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
		# Going through torch's dispatcher takes as long as launching a kernel, and inference has no use for it.
		direct = path == "inference" and type(x) is torch.Tensor and not torch.compiler.is_compiling()
		function = block.block_forward if direct else block.block
		return function(x, *weights, *settings, dot)[0]

	def extra_repr(self) -> str:
		"""The settings that no submodule shows."""
		return f"n_filters={self.n_filters}, dilation={self.dilation}, residual_scale={self.residual_scale}"

	def _is_plain(self) -> bool:
		"""Whether each submodule is of the type it was built with, without hooks that a fused block would pass over."""
		linear = {type(self.linear1), type(self.linear2)} <= {Linear, nn.Linear}
		gelu = type(self.activation) is nn.GELU and self.activation.approximate == "tanh"
		if not (linear and gelu) or self.linear1.bias is not None or self.linear2.bias is not None:
			return False
		return not any(
			m._forward_hooks or m._forward_pre_hooks or m._backward_hooks or m._backward_pre_hooks
			for m in (self.linear1, self.linear2, self.activation)
		)
