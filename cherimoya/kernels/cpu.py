"""The block on the CPU, with hand-written gradients; `reference` defines what it computes.

Work goes through a few examples at a time, so that the intermediate tensors of a chunk stay in cache and their
memory is used again; nothing of the batch's size is written except the result. The backward recomputes those
intermediates from x, which is all that is saved. Formulas and passes are in README.md beside this file.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from cherimoya.kernels.reference import statistics_dtype

_aten = torch.ops.aten

# Values of x in a chunk, four examples of (2114, 96): larger ones leave the cache, and get their memory anew each time;
# smaller ones mean more parallel regions, each of which waits for a thread that is not running where cores are busy.
_CHUNK_VALUES = 800_000
# An example above this many values is a chunk by itself, however many threads there are.
_LARGE_EXAMPLE = 4_000_000
# Hidden values that a thread takes at once through the perceptron, chosen likewise for the copies that GELU makes.
_STRIP_VALUES = 250_000

# gelu_tanh(h) = p·(1 + tanh(p + KAPPA·p³)) / (2·LAMBDA), where p = LAMBDA·h: both factors go into the weights.
LAMBDA = math.sqrt(2 / math.pi)
KAPPA = 0.044715 / LAMBDA**2


def _chunks(shape: torch.Size) -> tuple[int, Iterator[slice]]:
	"""Examples per chunk, and the chunks; normalisation runs one thread an example, so as many as threads."""
	n, values = shape[0], max(1, shape[1] * shape[2])
	threads = 1 if values > _LARGE_EXAMPLE else torch.get_num_threads()
	size = max(1, min(n, max(threads, _CHUNK_VALUES // values)))
	return size, (slice(i, min(i + size, n)) for i in range(0, n, size))


def _strip_rows(n: int, keep: tuple[int, int], hidden: int) -> int:
	"""The most rows of a strip of n examples or fewer."""
	return min(n * (keep[1] - keep[0]), max(1, _STRIP_VALUES * torch.get_num_threads() // hidden))


def _strips(n: int, length: int, keep: tuple[int, int], hidden: int) -> Iterator[tuple[slice, slice]]:
	"""The rows that go through the perceptron together: among all positions of n examples, and among kept ones."""
	start, stop = keep
	whole = stop - start == length
	count = n * length if whole else stop - start
	pieces = -(-count // max(1, _strip_rows(n, keep, hidden)))  # of about one size, none above the most
	size = -(-count // max(1, pieces)) or 1
	for i in range(1 if whole else n):
		before, before_kept = i * length + start, i * count
		for first in range(0, count, size):
			last = min(first + size, count)
			yield slice(before + first, before + last), slice(before_kept + first, before_kept + last)


def _conv(
	x: torch.Tensor, w: torch.Tensor, dilation: int, out: torch.Tensor, *, base: torch.Tensor | None = None
) -> torch.Tensor:
	"""`reference.dilated_conv` into out, plus base where there is one."""
	if base is None:
		torch.mul(x, w[1], out=out)
	else:
		torch.addcmul(base, x, w[1], out=out)
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


def _tanh(p: torch.Tensor, square: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
	"""tanh(p + KAPPA·p³) into out, by way of p² in square, which may be out itself."""
	torch.mul(p, p, out=square)
	return torch.addcmul(p, p, square, value=KAPPA, out=out).tanh_()


def gelu_(p: torch.Tensor, work: torch.Tensor) -> torch.Tensor:
	"""2·LAMBDA·gelu_tanh(p / LAMBDA) into p; work, of p's shape, is overwritten.

	These few passes take less time than torch's one, whose tanh is not the vectorised library's.
	"""
	return p.addcmul_(p, _tanh(p, work, work))


def gelu_gradient(p: torch.Tensor, square: torch.Tensor, tanh: torch.Tensor) -> torch.Tensor:
	"""The derivative of `gelu_` by p, less one, into p, which holds the result of `gelu_`; square is p², overwritten.

	With a = p·(1 + t), it is 1 + t + p·(1 − t²)·(1 + 3·KAPPA·p²) = 1 + t + a·(1 − t)·(1 + 3·KAPPA·p²).
	"""
	r = p.addcmul_(p, tanh, value=-1)
	return r.addcmul_(r, square, value=3 * KAPPA).add_(tanh)


def block_forward(
	x: torch.Tensor,
	conv_weight: torch.Tensor,
	weight1: torch.Tensor,
	weight2: torch.Tensor,
	dilation: int,
	residual_scale: float,
	eps: float,
	keep: tuple[int, int] | None = None,
	*,
	out: torch.Tensor,
) -> torch.Tensor:
	"""`reference.block` at the positions [start, stop) of keep, or at all, into out, without autograd.

	out is contiguous, of shape (N, stop - start, C); it may be x itself where all positions are kept.
	"""
	(_, length, channels), hidden = x.shape, len(weight1)
	keep = keep or (0, length)
	size, chunks = _chunks(x.shape)
	z = torch.empty(size, length, channels, dtype=x.dtype)
	h, t = torch.empty(2, _strip_rows(size, keep, hidden), hidden, dtype=x.dtype)
	up, down = (weight1 * LAMBDA).t(), (weight2 * (residual_scale / (2 * LAMBDA))).t()  # (C, H), (H, C)
	for chunk in chunks:
		xi = x[chunk]
		y, _, _ = _norm(_conv(xi, conv_weight, dilation, z[: len(xi)]), eps)
		xf, yf, of = xi.reshape(-1, channels), y.view(-1, channels), out[chunk].view(-1, channels)  # (n * L, C)
		for rows, kept in _strips(len(xi), length, keep, hidden):
			n = rows.stop - rows.start
			p = torch.mm(yf[rows], up, out=h[:n])  # (rows, C) -> (rows, H)
			torch.addmm(xf[rows], gelu_(p, t[:n]), down, out=of[kept])  # -> (rows, C)
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
		keep: tuple[int, int] | None = None,
	) -> torch.Tensor:
		"""The block's output at the positions [start, stop) of keep, shape (N, stop - start, C); None: at all."""
		keep = keep or (0, x.shape[1])
		out = torch.empty(x.shape[0], keep[1] - keep[0], x.shape[2], dtype=x.dtype)
		block_forward(x, conv_weight, weight1, weight2, dilation, residual_scale, eps, keep, out=out)
		ctx.save_for_backward(x, conv_weight, weight1, weight2)
		ctx.settings = dilation, residual_scale, eps, keep
		return out

	@staticmethod
	@once_differentiable
	def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
		"""Gradients of x and the three weights, those that are needed."""
		x, conv_weight, weight1, weight2 = ctx.saved_tensors
		need_x, need_conv, *_ = needed = ctx.needs_input_grad[:4]
		dilation, residual_scale, eps, keep = ctx.settings
		_, length, channels = x.shape
		size, chunks = _chunks(x.shape)
		z, dy = torch.empty(2, size, length, channels, dtype=x.dtype)
		perceptron = _PerceptronGradients(weight1, weight2, residual_scale, needed, size, keep)
		flipped = conv_weight.flip(0)
		dx = torch.empty(x.shape, dtype=x.dtype) if need_x else None
		dw = _TapGradients(size, length, channels, dilation, x.dtype) if need_conv else None
		for rows in chunks:
			xi, gi = x[rows], g[rows].contiguous()
			n = len(xi)
			y, mean, rstd = _norm(_conv(xi, conv_weight, dilation, z[:n]), eps)
			perceptron.add(y, gi, dy[:n])
			if not (need_x or need_conv):
				continue
			dz = _norm_backward(dy[:n], z[:n], mean, rstd)
			if dw is not None:
				dw.add(dz, xi)
			if dx is None:
				continue
			if gi.shape == xi.shape:
				_conv(dz, flipped, dilation, dx[rows], base=gi)
			else:
				_conv(dz, flipped, dilation, dx[rows])[:, slice(*keep)].add_(gi)
		return dx, None if dw is None else dw.total(), perceptron.d1, perceptron.d2, None, None, None, None


class _PerceptronGradients:
	"""The gradients of the perceptron's weights, summed over chunks, and of its input, for those that are needed."""

	def __init__(
		self,
		weight1: torch.Tensor,
		weight2: torch.Tensor,
		residual_scale: float,
		needed: tuple[bool, ...],
		size: int,
		keep: tuple[int, int],
	) -> None:
		need_x, need_conv, need1, need2 = needed
		self.need_input = need_x or need_conv
		self.d1 = torch.zeros_like(weight1) if need1 else None
		self.d2 = torch.zeros_like(weight2) if need2 else None
		self.scale = residual_scale / (2 * LAMBDA)
		self.up, self.down = weight1 * LAMBDA, weight2 * self.scale  # (H, C), (C, H)
		self.keep = keep
		self.memory = torch.empty(4, _strip_rows(size, keep, len(weight1)), len(weight1), dtype=weight1.dtype)

	def add(self, y: torch.Tensor, g: torch.Tensor, dy: torch.Tensor) -> None:
		"""Sum a chunk's gradients, y and dy of shape (n, L, C), g at the kept positions; dy is overwritten."""
		(n, length, channels), (start, stop) = y.shape, self.keep
		yf, gf, dyf = y.view(-1, channels), g.view(-1, channels), dy.view(-1, channels)  # (n, L, C) -> (n * L, C)
		dy[:, :start] = 0
		dy[:, stop:] = 0
		for rows, kept in _strips(n, length, self.keep, len(self.up)):
			self._add(yf[rows], gf[kept], dyf[rows])

	def _add(self, y: torch.Tensor, g: torch.Tensor, dy: torch.Tensor) -> None:
		"""The same of one strip of rows, each of shape (rows, C)."""
		p, square, t, dp = self.memory[:, : len(y)]
		torch.mm(y, self.up.t(), out=p)  # (rows, C) -> (rows, H)
		a = p.addcmul_(p, _tanh(p, square, t))
		if self.d2 is not None:
			self.d2.addmm_(g.t(), a, alpha=self.scale)
		if self.d1 is None and not self.need_input:
			return
		torch.mm(g, self.down, out=dp)  # (rows, C) -> (rows, H)
		dp.addcmul_(dp, gelu_gradient(a, square, t))
		if self.d1 is not None:
			self.d1.addmm_(dp.t(), y, alpha=LAMBDA)
		if self.need_input:
			torch.mm(dp, self.up, out=dy)  # (rows, H) -> (rows, C)
