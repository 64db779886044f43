"""The block on the CPU, with hand-written gradients; `reference` defines what it computes.

Work goes through a few examples at a time, so that the intermediate tensors of a chunk stay in cache and their
memory is used again; nothing of the batch's size is written except the result. The backward recomputes those
intermediates from x, which is all that is saved. Formulas and passes are in README.md beside this file.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from cherimoya.kernels.reference import statistics_dtype

_aten = torch.ops.aten

# Values of x in a chunk, eight examples of (2114, 96). On two idle cores chunks of 1 to 16 examples take about the
# same time; on busy ones every parallel region waits for a thread that is not running, and fewer regions are faster.
_CHUNK_VALUES = 1_600_000
# An example above this many values is a chunk by itself, however many threads there are.
_LARGE_EXAMPLE = 4_000_000


def _chunks(shape: torch.Size) -> tuple[int, Iterator[slice]]:
	"""Examples per chunk, and the chunks; normalisation runs one thread an example, so as many as threads."""
	n, values = shape[0], max(1, shape[1] * shape[2])
	threads = 1 if values > _LARGE_EXAMPLE else torch.get_num_threads()
	size = max(1, min(n, max(threads, _CHUNK_VALUES // values)))
	return size, (slice(i, min(i + size, n)) for i in range(0, n, size))


def _conv(x: torch.Tensor, w: torch.Tensor, dilation: int, out: torch.Tensor) -> torch.Tensor:
	"""`reference.dilated_conv` into out."""
	torch.mul(x, w[1], out=out)
	if dilation < x.shape[1]:
		out[:, dilation:].addcmul_(x[:, :-dilation], w[0])
		out[:, :-dilation].addcmul_(x[:, dilation:], w[2])
	return out


def _norm(z: torch.Tensor, eps: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
	"""Each example normalised over positions and channels, with its mean and reciprocal deviation."""
	return torch.native_layer_norm(z, z.shape[1:], None, None, eps)


def _norm_backward(dy: torch.Tensor, z: torch.Tensor, mean: torch.Tensor, rstd: torch.Tensor) -> torch.Tensor:
	"""The gradient at z: rstd·(dy − mean(dy) − y·mean(dy·y)), with y = (z − mean)·rstd."""
	mask = [True, False, False]
	return _aten.native_layer_norm_backward(dy, z, z.shape[1:], mean, rstd, None, None, mask)[0]


class _TapGradients:
	"""Sums dz·x of the three taps over examples position by position, and over positions once at the end."""

	def __init__(self, size: int, length: int, channels: int, dilation: int, dtype: torch.dtype) -> None:
		self.dilation = dilation
		self.sums = torch.zeros(3, size, length, channels, dtype=dtype)

	def add(self, dz: torch.Tensor, x: torch.Tensor) -> None:
		n, d = len(x), self.dilation
		self.sums[1, :n].addcmul_(dz, x)
		if d < x.shape[1]:
			self.sums[0, :n, d:].addcmul_(dz[:, d:], x[:, :-d])
			self.sums[2, :n, :-d].addcmul_(dz[:, :-d], x[:, d:])

	def total(self) -> torch.Tensor:
		return self.sums.sum((1, 2))  # (3, size, L, C) -> (3, C)


class ConvNorm(torch.autograd.Function):
	"""`reference.conv_norm` with its gradient; saves x and w alone."""

	@staticmethod
	def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor, dilation: int, eps: float) -> torch.Tensor:
		"""The normalised values, shape (N, L, C), in x's type."""
		dtype = statistics_dtype(x, w)
		taps = w.to(dtype)
		size, chunks = _chunks(x.shape)
		out = torch.empty(x.shape, dtype=x.dtype)
		z = torch.empty((size, *x.shape[1:]), dtype=dtype)
		for rows in chunks:
			xi = x[rows].to(dtype)
			out[rows] = _norm(_conv(xi, taps, dilation, z[: len(xi)]), eps)[0]
		ctx.save_for_backward(x, w)
		ctx.dilation, ctx.eps = dilation, eps
		return out

	@staticmethod
	@once_differentiable
	def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
		"""Gradients of x and w, those that are needed."""
		x, w = ctx.saved_tensors
		need_x, need_w = ctx.needs_input_grad[:2]
		dtype = statistics_dtype(x, w)
		taps, flipped = w.to(dtype), w.to(dtype).flip(0)
		size, chunks = _chunks(x.shape)
		z = torch.empty((size, *x.shape[1:]), dtype=dtype)
		dx = torch.empty(x.shape, dtype=x.dtype) if need_x else None
		dw = _TapGradients(size, *x.shape[1:], ctx.dilation, dtype) if need_w else None
		for rows in chunks:
			xi = x[rows].to(dtype)
			zi = _conv(xi, taps, ctx.dilation, z[: len(xi)])
			_, mean, rstd = _norm(zi, ctx.eps)
			dz = _norm_backward(g[rows].to(dtype).contiguous(), zi, mean, rstd)
			if dw is not None:
				dw.add(dz, xi)
			if dx is not None:  # zi has been used: its memory holds the chunk of dx before it is cast
				dx[rows] = _conv(dz, flipped, ctx.dilation, zi)
		return dx, None if dw is None else dw.total().to(w.dtype), None, None


def block_forward(
	x: torch.Tensor,
	conv_weight: torch.Tensor,
	weight1: torch.Tensor,
	weight2: torch.Tensor,
	dilation: int,
	residual_scale: float,
	eps: float,
	*,
	out: torch.Tensor,
) -> torch.Tensor:
	"""`reference.block` into out, contiguous and of x's shape, without autograd; out may be x itself."""
	(_, length, channels), hidden = x.shape, len(weight1)
	size, chunks = _chunks(x.shape)
	z = torch.empty(size, length, channels, dtype=x.dtype)
	h = torch.empty(size * length, hidden, dtype=x.dtype)
	up, down = weight1.t(), (weight2 * residual_scale).t()  # (C, H), (H, C)
	for rows in chunks:
		xi = x[rows]
		y, _, _ = _norm(_conv(xi, conv_weight, dilation, z[: len(xi)]), eps)
		hi = torch.mm(y.view(-1, channels), up, out=h[: len(xi) * length])  # (n, L, C) -> (n * L, H)
		_aten.gelu_(hi, approximate="tanh")
		torch.addmm(xi.reshape(-1, channels), hi, down, out=out[rows].view(-1, channels))  # -> (n * L, C)
	return out


class Block(torch.autograd.Function):
	"""`reference.block` with its gradient; saves x and the weights alone. All tensors float32, or all float64."""

	@staticmethod
	def forward(
		ctx: Any,
		x: torch.Tensor,
		conv_weight: torch.Tensor,
		weight1: torch.Tensor,
		weight2: torch.Tensor,
		dilation: int,
		residual_scale: float,
		eps: float,
	) -> torch.Tensor:
		"""The block's output, shape (N, L, C)."""
		out = torch.empty(x.shape, dtype=x.dtype)
		block_forward(x, conv_weight, weight1, weight2, dilation, residual_scale, eps, out=out)
		ctx.save_for_backward(x, conv_weight, weight1, weight2)
		ctx.settings = dilation, residual_scale, eps
		return out

	@staticmethod
	@once_differentiable
	def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
		"""Gradients of x and the three weights, those that are needed."""
		x, conv_weight, weight1, weight2 = ctx.saved_tensors
		need_x, need_conv, need1, need2 = ctx.needs_input_grad[:4]
		dilation, residual_scale, eps = ctx.settings
		(_, length, channels), hidden = x.shape, len(weight1)
		size, chunks = _chunks(x.shape)
		z, dy = torch.empty(2, size, length, channels, dtype=x.dtype)
		h, a = torch.empty(2, size * length, hidden, dtype=x.dtype)
		up, down, flipped = weight1.t(), weight2 * residual_scale, conv_weight.flip(0)
		d1 = torch.zeros_like(weight1) if need1 else None
		d2 = torch.zeros_like(weight2) if need2 else None
		dx = torch.empty(x.shape, dtype=x.dtype) if need_x else None
		dw = _TapGradients(size, length, channels, dilation, x.dtype) if need_conv else None
		for rows in chunks:
			xi, gi = x[rows], g[rows].contiguous()
			n, gf = len(xi), gi.view(-1, channels)  # gf: (n * L, C)
			zi, hi, ai = z[:n], h[: n * length], a[: n * length]
			y, mean, rstd = _norm(_conv(xi, conv_weight, dilation, zi), eps)
			yf = y.view(-1, channels)  # (n, L, C) -> (n * L, C)
			torch.mm(yf, up, out=hi)  # -> (n * L, H)
			if d2 is not None:
				_aten.gelu.out(hi, approximate="tanh", out=ai)
				d2.addmm_(gf.t(), ai, alpha=residual_scale)
			if not (need_x or need_conv or need1):
				continue
			torch.mm(gf, down, out=ai)
			_aten.gelu_backward.grad_input(ai, hi, approximate="tanh", grad_input=ai)
			if d1 is not None:
				d1.addmm_(ai.t(), yf)
			if not (need_x or need_conv):
				continue
			dyi = dy[:n]
			torch.mm(ai, weight1, out=dyi.view(-1, channels))  # (n * L, H) -> (n * L, C)
			dz = _norm_backward(dyi, zi, mean, rstd)
			if dw is not None:
				dw.add(dz, xi)
			if dx is not None:
				torch.add(gi, _conv(dz, flipped, dilation, dyi), out=dx[rows])
		return dx, None if dw is None else dw.total(), d1, d2, None, None, None
