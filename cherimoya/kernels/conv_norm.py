"""Dilated convolution + normalisation in Triton, forward and backward; `reference.conv_norm` defines it.

Four kernels, no atomics, and partial results merged in the order of their tiles:

- `statistics`: mean and centred sum of squares of z for each tile of an example;
- `normalise`: merges them, computes z again and writes y;
- `moments`: sums of g and g·y for each tile;
- `gradient`: dz at l−d, l and l+d, from there dx and, over each program's tiles, the sums of dw.

Passes and bytes are in README.md.
"""

import contextlib
from typing import Any

import torch
import triton
import triton.language as tl
from torch.autograd.function import once_differentiable

from cherimoya.kernels import _tuning, dispatch
from cherimoya.kernels._tiles import (
	INTERPRETED,
	RUNTIME,
	conv_tile,
	convert,
	dz_tile,
	load_tap,
	load_tile,
	merge_statistics,
	merge_sums,
	norm_tile,
	store_tile,
)
from cherimoya.kernels.reference import EPS, check_conv_norm


@triton.jit(do_not_specialize=RUNTIME)
def statistics_kernel(
	x_ptr,
	w_ptr,
	partial_ptr,
	dilation,
	L,
	tiles,
	n_examples,
	C: tl.constexpr,
	BLOCK_L: tl.constexpr,
	BLOCK_C: tl.constexpr,
):
	"""partial[0, n, t] and partial[1, n, t]: mean and centred sum of squares of z over tile t of example n."""
	pid = tl.program_id(0)
	n, t = pid // tiles, pid % tiles
	x_ptr += n.to(tl.int64) * L * C
	rows = t * BLOCK_L + tl.arange(0, BLOCK_L)
	n_rows = tl.minimum(L - t * BLOCK_L, BLOCK_L)
	count, mean, squares = 0.0, 0.0, 0.0
	for c in tl.static_range(0, C, BLOCK_C):
		cols = c + tl.arange(0, BLOCK_C)
		inside = (rows < L)[:, None] & (cols < C)[None, :]
		z = tl.where(inside, conv_tile(x_ptr, w_ptr, rows, cols, dilation, L, C), 0.0)
		here = (n_rows * min(BLOCK_C, C - c)).to(tl.float32)
		z_mean = tl.sum(z) / here
		centred = tl.where(inside, z - z_mean, 0.0)
		delta, total = z_mean - mean, count + here
		squares += tl.sum(centred * centred) + delta * delta * (count * here / total)
		mean += delta * (here / total)
		count = total
	tl.store(partial_ptr + pid, mean)
	tl.store(partial_ptr + n_examples * tiles + pid, squares)


@triton.jit(do_not_specialize=RUNTIME)
def normalise_kernel(
	x_ptr,
	w_ptr,
	partial_ptr,
	stats_ptr,
	y_ptr,
	dilation,
	L,
	tiles,
	n_examples,
	eps,
	C: tl.constexpr,
	BLOCK_L: tl.constexpr,
	BLOCK_C: tl.constexpr,
	BLOCK_T: tl.constexpr,
):
	"""y, and stats[0, n], stats[1, n]: mean and reciprocal deviation of example n."""
	pid = tl.program_id(0)
	n, t = pid // tiles, pid % tiles
	mean, rstd = merge_statistics(partial_ptr + n * tiles, n_examples * tiles, tiles, L, C, eps, BLOCK_L, BLOCK_T)
	if t == 0:
		tl.store(stats_ptr + n, mean)
		tl.store(stats_ptr + n_examples + n, rstd)
	base = n.to(tl.int64) * L * C
	rows = t * BLOCK_L + tl.arange(0, BLOCK_L)
	for c in tl.static_range(0, C, BLOCK_C):
		cols = c + tl.arange(0, BLOCK_C)
		y = norm_tile(x_ptr + base, w_ptr, rows, cols, dilation, L, C, mean, rstd)
		store_tile(y_ptr + base, y, rows, cols, L, C)


@triton.jit(do_not_specialize=RUNTIME)
def moments_kernel(
	x_ptr,
	w_ptr,
	g_ptr,
	stats_ptr,
	moments_ptr,
	dilation,
	L,
	tiles,
	n_examples,
	C: tl.constexpr,
	BLOCK_L: tl.constexpr,
	BLOCK_C: tl.constexpr,
):
	"""moments[0, n, t] and moments[1, n, t]: sums of g and of g·y over tile t of example n."""
	pid = tl.program_id(0)
	n, t = pid // tiles, pid % tiles
	mean, rstd = tl.load(stats_ptr + n), tl.load(stats_ptr + n_examples + n)
	base = n.to(tl.int64) * L * C
	rows = t * BLOCK_L + tl.arange(0, BLOCK_L)
	first, second = 0.0, 0.0
	for c in tl.static_range(0, C, BLOCK_C):
		cols = c + tl.arange(0, BLOCK_C)
		g = load_tile(g_ptr + base, rows, cols, L, C)
		first += tl.sum(g)
		second += tl.sum(g * norm_tile(x_ptr + base, w_ptr, rows, cols, dilation, L, C, mean, rstd))
	tl.store(moments_ptr + pid, first)
	tl.store(moments_ptr + n_examples * tiles + pid, second)


@triton.jit(do_not_specialize=RUNTIME)
def gradient_kernel(
	x_ptr,
	w_ptr,
	dy_ptr,
	g_ptr,
	stats_ptr,
	moments_ptr,
	dx_ptr,
	dw_ptr,
	dilation,
	L,
	tiles,
	stat_tiles,
	n_examples,
	splits,
	C: tl.constexpr,
	BLOCK_L: tl.constexpr,
	BLOCK_C: tl.constexpr,
	BLOCK_T: tl.constexpr,
	NEED_X: tl.constexpr,
	NEED_W: tl.constexpr,
	RESIDUAL: tl.constexpr,
):
	"""Gradients dx = w[0]·dz[l+d] + w[1]·dz[l] + w[2]·dz[l−d] (+ g), and dw[split]: sums of dz[l]·x[l−d], x[l], x[l+d].

	A program takes one range of tiles over all examples and BLOCK_C channels.
	"""
	split = tl.program_id(0)
	cols = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
	total = n_examples * tiles
	each = (total + splits - 1) // splits
	left = tl.zeros([BLOCK_L, BLOCK_C], tl.float32)
	middle = tl.zeros([BLOCK_L, BLOCK_C], tl.float32)
	right = tl.zeros([BLOCK_L, BLOCK_C], tl.float32)
	for tile in range(split * each, tl.minimum(split * each + each, total)):
		n, t = tile // tiles, tile % tiles
		mean, rstd = tl.load(stats_ptr + n), tl.load(stats_ptr + n_examples + n)
		m1 = merge_sums(moments_ptr + n * stat_tiles, stat_tiles, BLOCK_T) / (L * C)
		m2 = merge_sums(moments_ptr + (n_examples + n) * stat_tiles, stat_tiles, BLOCK_T) / (L * C)
		base = n.to(tl.int64) * L * C
		x, dy = x_ptr + base, dy_ptr + base
		rows = t * BLOCK_L + tl.arange(0, BLOCK_L)
		dz = dz_tile(x, w_ptr, dy, rows, cols, dilation, L, C, mean, rstd, m1, m2)
		if NEED_X:
			dx = load_tap(w_ptr, 1, cols, C)[None, :] * dz
			after = dz_tile(x, w_ptr, dy, rows + dilation, cols, dilation, L, C, mean, rstd, m1, m2)
			dx += load_tap(w_ptr, 0, cols, C)[None, :] * after
			before = dz_tile(x, w_ptr, dy, rows - dilation, cols, dilation, L, C, mean, rstd, m1, m2)
			dx += load_tap(w_ptr, 2, cols, C)[None, :] * before
			if RESIDUAL:
				dx += load_tile(g_ptr + base, rows, cols, L, C)
			store_tile(dx_ptr + base, dx, rows, cols, L, C)
		if NEED_W:
			left += dz * load_tile(x, rows - dilation, cols, L, C)
			middle += dz * load_tile(x, rows, cols, L, C)
			right += dz * load_tile(x, rows + dilation, cols, L, C)
	if NEED_W:
		dw_ptr += split * 3 * C
		tl.store(dw_ptr + cols, tl.sum(left, 0), mask=cols < C)
		tl.store(dw_ptr + C + cols, tl.sum(middle, 0), mask=cols < C)
		tl.store(dw_ptr + 2 * C + cols, tl.sum(right, 0), mask=cols < C)


@triton.jit(do_not_specialize=RUNTIME)
def sum_kernel(partial_ptr, out_ptr, parts, size, scale, BLOCK_P: tl.constexpr, BLOCK: tl.constexpr):
	"""out[i] = scale · Σ_p partial[p, i], parts in their order."""
	i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
	total = tl.zeros([BLOCK], tl.float32)
	for start in range(0, parts, BLOCK_P):
		p = start + tl.arange(0, BLOCK_P)
		inside = (p < parts)[:, None] & (i < size)[None, :]
		total += tl.sum(tl.load(partial_ptr + p[:, None].to(tl.int64) * size + i[None, :], mask=inside, other=0.0), 0)
	tl.store(out_ptr + i, convert(scale * total, out_ptr.dtype.element_ty), mask=i < size)


def launch(kernel: Any, grid: tuple[int, ...], tensors: dict[str, torch.Tensor], **arguments: Any) -> None:
	"""Run a kernel on its tensors' device; tensors by parameter name, for whoever counts what a launch touches."""
	device = next(iter(tensors.values())).device
	with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
		# Triton warns about a default of its own unless it is told about fused multiply-add.
		kernel[grid](**tensors, **arguments, enable_fp_fusion=True)


def capability(x: torch.Tensor) -> tuple[int, int]:
	"""Compute capability of x's device; that of the H200 where kernels are interpreted."""
	return dispatch.capability(x.device) or (9, 0)


def launch_sum(partial: torch.Tensor, out: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
	"""Write scale · partial.sum(0), to out, in the order of the parts; out may be of another type."""
	parts, size = partial.shape[0], partial[0].numel()
	block = 64 if not INTERPRETED.value else 4096
	launch(
		sum_kernel,
		(triton.cdiv(size, block),),
		{"partial_ptr": partial, "out_ptr": out},
		parts=parts,
		size=size,
		scale=scale,
		BLOCK_P=_tuning.PARTS,
		BLOCK=block,
	)
	return out


def launch_statistics(x: torch.Tensor, w: torch.Tensor, dilation: int) -> tuple[torch.Tensor, int, int]:
	"""Means and centred sums of squares, shape (2, N, tiles), with the tiles of an example and the rows of each."""
	n, length, channels = x.shape
	config = _tuning.config("statistics", channels, x.dtype, capability(x))
	tiles = triton.cdiv(length, config.rows)
	partial = torch.empty(2, n, tiles, dtype=torch.float32, device=x.device)
	launch(
		statistics_kernel,
		(n * tiles,),
		{"x_ptr": x, "w_ptr": w, "partial_ptr": partial},
		dilation=dilation,
		L=length,
		tiles=tiles,
		n_examples=n,
		C=channels,
		BLOCK_L=config.rows,
		BLOCK_C=config.cols,
		num_warps=config.warps,
	)
	return partial, tiles, config.rows


def launch_gradient(
	x: torch.Tensor,
	w: torch.Tensor,
	dy: torch.Tensor,
	stats: torch.Tensor,
	moments: torch.Tensor,
	dilation: int,
	*,
	residual: torch.Tensor | None,
	need_x: bool,
	need_w: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
	"""dx, plus residual if given, and dw; an empty tensor for the one that is not needed."""
	n, length, channels = x.shape
	config = _tuning.config("gradient", channels, x.dtype, capability(x))
	tiles, blocks = triton.cdiv(length, config.rows), triton.cdiv(channels, config.cols)
	# A part of dw is small (3·C values): several programs per multiprocessor can have one, over a few tiles at least.
	splits = max(1, min(n * tiles // 4, 8 * _tuning.PROGRAMS // blocks))
	dx = torch.empty_like(x) if need_x else x.new_empty(0)
	partial = x.new_empty(splits if need_w else 0, 3, channels, dtype=torch.float32)
	launch(
		gradient_kernel,
		(splits, blocks),
		{
			"x_ptr": x,
			"w_ptr": w,
			"dy_ptr": dy,
			"g_ptr": dy if residual is None else residual,
			"stats_ptr": stats,
			"moments_ptr": moments,
			"dx_ptr": dx,
			"dw_ptr": partial,
		},
		dilation=dilation,
		L=length,
		tiles=tiles,
		stat_tiles=moments.shape[2],
		n_examples=n,
		splits=splits,
		C=channels,
		BLOCK_L=config.rows,
		BLOCK_C=config.cols,
		BLOCK_T=_tuning.MERGE,
		NEED_X=need_x,
		NEED_W=need_w,
		RESIDUAL=residual is not None,
		num_warps=config.warps,
	)
	return dx, launch_sum(partial, torch.empty_like(w)) if need_w else w.new_empty(0)


@torch.library.custom_op("cherimoya::conv_norm", mutates_args=())
def conv_norm(x: torch.Tensor, w: torch.Tensor, dilation: int, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
	"""`reference.conv_norm` and its statistics; differentiable once, in x and w.

	An operation of its own to torch, which torch.compile neither looks into nor splits.

	Parameters
	----------
	x: torch.Tensor, shape=(N, L, C)
		Of type float32, bfloat16 or float16, on a GPU.
	w: torch.Tensor, shape=(3, C)
		The taps at −d, 0 and +d, of any of these types.
	dilation: int
		d, in positions; may exceed L.
	eps: float
		Added to the variance.

	Returns
	-------
	y: torch.Tensor, shape=(N, L, C), dtype of x
	stats: torch.Tensor, shape=(2, N), float32
		Mean and reciprocal deviation of each example's convolution.
	"""
	x, w = x.contiguous(), w.contiguous()
	n, length, channels = x.shape
	y, stats = torch.empty_like(x), x.new_empty(2, n, dtype=torch.float32)
	if x.numel() == 0:
		return y, stats.zero_()
	dilation = min(dilation, length)  # the outer taps are outside from there on; keeps offsets small
	partial, tiles, rows = launch_statistics(x, w, dilation)
	config = _tuning.config("normalise", channels, x.dtype, capability(x))
	launch(
		normalise_kernel,
		(n * tiles,),
		{"x_ptr": x, "w_ptr": w, "partial_ptr": partial, "stats_ptr": stats, "y_ptr": y},
		dilation=dilation,
		L=length,
		tiles=tiles,
		n_examples=n,
		eps=eps,
		C=channels,
		BLOCK_L=rows,
		BLOCK_C=config.cols,
		BLOCK_T=_tuning.MERGE,
		num_warps=config.warps,
	)
	return y, stats


@conv_norm.register_fake
def _(x: torch.Tensor, w: torch.Tensor, dilation: int, eps: float) -> tuple[torch.Tensor, torch.Tensor]:
	return x.new_empty(x.shape), x.new_empty(2, x.shape[0], dtype=torch.float32)


@torch.library.custom_op("cherimoya::conv_norm_backward", mutates_args=())
def conv_norm_backward(
	g: torch.Tensor,
	x: torch.Tensor,
	w: torch.Tensor,
	stats: torch.Tensor,
	dilation: int,
	need_x: bool,
	need_w: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
	"""Gradients dx and dw; an empty tensor for the one that is not needed."""
	g, x, w = g.contiguous(), x.contiguous(), w.contiguous()
	n, length, channels = x.shape
	if x.numel() == 0:
		return x.new_zeros(x.shape if need_x else 0), w.new_zeros(w.shape if need_w else 0)
	dilation = min(dilation, length)
	config = _tuning.config("moments", channels, x.dtype, capability(x))
	tiles = triton.cdiv(length, config.rows)
	moments = x.new_empty(2, n, tiles, dtype=torch.float32)
	launch(
		moments_kernel,
		(n * tiles,),
		{"x_ptr": x, "w_ptr": w, "g_ptr": g, "stats_ptr": stats, "moments_ptr": moments},
		dilation=dilation,
		L=length,
		tiles=tiles,
		n_examples=n,
		C=channels,
		BLOCK_L=config.rows,
		BLOCK_C=config.cols,
		num_warps=config.warps,
	)
	return launch_gradient(x, w, g, stats, moments, dilation, residual=None, need_x=need_x, need_w=need_w)


@conv_norm_backward.register_fake
def _(
	g: torch.Tensor,
	x: torch.Tensor,
	w: torch.Tensor,
	stats: torch.Tensor,
	dilation: int,
	need_x: bool,
	need_w: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
	return x.new_empty(x.shape if need_x else 0), w.new_empty(w.shape if need_w else 0)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
	"""Keep x, w and two numbers an example for the backward."""
	x, w, ctx.dilation, _ = inputs
	ctx.save_for_backward(x, w, output[1])


def _backward(ctx: Any, g: torch.Tensor, _: torch.Tensor | None = None) -> tuple[torch.Tensor | None, ...]:
	"""Gradients of x and w, those that are needed."""
	need_x, need_w = ctx.needs_input_grad[:2]
	dx, dw = conv_norm_backward(g, *ctx.saved_tensors, ctx.dilation, need_x, need_w)
	return dx if need_x else None, dw if need_w else None, None, None


conv_norm.register_autograd(_backward, setup_context=_save)


class FusedDilatedConvNormFunc(torch.autograd.Function):
	"""`conv_norm` for those who call autograd functions: `FusedDilatedConvNormFunc.apply(x, w, dilation)`."""

	@staticmethod
	def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor, dilation: int, eps: float = EPS) -> torch.Tensor:
		"""The normalised values, shape (N, L, C), in x's type; arguments and errors are those of the reference."""
		check_conv_norm(x, w, dilation)
		y, stats = conv_norm(x, w, dilation, eps)
		_save(ctx, (x, w, dilation, eps), (y, stats))
		return y

	@staticmethod
	@once_differentiable
	def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
		"""Gradients of x and w, those that are needed."""
		return _backward(ctx, g)
