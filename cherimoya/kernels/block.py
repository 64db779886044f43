"""The whole block in Triton, forward and backward; `reference.block` defines it.

Forward, after `statistics` of conv + norm: one kernel computes z again, normalises it, and takes it through both
products and the residual, a slice of hidden units at a time. Training saves x and two numbers an example.

Backward, two kernels that compute the hidden activations again:

- `hidden_gradient`: dy, with the sums of dy and dy·y for each tile;
- `weight_gradient`: programs hold one slice of hidden units of dW1 and dW2 in registers and go over a range of tiles;
  the programs of a range take turns at turning a tile's dy into dx and the sums of dw.

C is held as two tiles, C = C0 + C1 (see `_tuning.split_channels`), so that 96 channels do not cost those of 128.
"""

from typing import Any

import torch
import triton
import triton.language as tl

from cherimoya.kernels import _tuning
from cherimoya.kernels._tiles import (
	INTERPRETED,
	RUNTIME,
	dz_tile,
	gelu_slope,
	load_tap,
	load_tile,
	load_weight,
	merge_statistics,
	merge_sums,
	norm_tile,
	operand,
	store_tile,
)
from cherimoya.kernels.conv_norm import capability, launch, launch_gradient, launch_statistics, launch_sum

# Triton 3.5 fails to compile two products into one accumulator for compute capability 10: C is padded there instead.
_OLD = tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 6)
_TRITON = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def block_tile(acc, x_ptr, out_ptr, rows, cols, L, C: tl.constexpr, scale):
	"""The output x + scale·acc at rows and columns."""
	store_tile(out_ptr, load_tile(x_ptr, rows, cols, L, C) + scale * acc, rows, cols, L, C)


@triton.jit(do_not_specialize=RUNTIME)
def forward_kernel(
	x_ptr,
	w_ptr,
	w1_ptr,
	w2_ptr,
	partial_ptr,
	stats_ptr,
	out_ptr,
	dilation,
	L,
	tiles,
	stat_tiles,
	n_examples,
	scale,
	eps,
	C: tl.constexpr,
	H: tl.constexpr,
	C0: tl.constexpr,
	C1: tl.constexpr,
	STAT_L: tl.constexpr,
	BLOCK_L: tl.constexpr,
	BLOCK_H: tl.constexpr,
	BLOCK_T: tl.constexpr,
	ROUND: tl.constexpr,
	DOT: tl.constexpr,
):
	"""The output x + scale · W2·gelu(W1·y), and stats[:, n]: mean and reciprocal deviation of example n."""
	pid = tl.program_id(0)
	n, t = pid // tiles, pid % tiles
	mean, rstd = merge_statistics(
		partial_ptr + n * stat_tiles, n_examples * stat_tiles, stat_tiles, L, C, eps, STAT_L, BLOCK_T
	)
	if t == 0:
		tl.store(stats_ptr + n, mean)
		tl.store(stats_ptr + n_examples + n, rstd)
	base = n.to(tl.int64) * L * C
	x_ptr += base
	rows = t * BLOCK_L + tl.arange(0, BLOCK_L)
	cols0 = tl.arange(0, C0)
	y0 = operand(norm_tile(x_ptr, w_ptr, rows, cols0, dilation, L, C, mean, rstd), ROUND, DOT)
	acc0 = tl.zeros([BLOCK_L, C0], tl.float32)
	if C1 > 0:
		cols1 = C0 + tl.arange(0, C1)
		y1 = operand(norm_tile(x_ptr, w_ptr, rows, cols1, dilation, L, C, mean, rstd), ROUND, DOT)
		acc1 = tl.zeros([BLOCK_L, C1], tl.float32)
	for j in range(0, H, BLOCK_H):
		hidden = j + tl.arange(0, BLOCK_H)
		h = tl.dot(y0, tl.trans(load_weight(w1_ptr, hidden, cols0, H, C, ROUND, DOT)))
		if C1 > 0:
			h = tl.dot(y1, tl.trans(load_weight(w1_ptr, hidden, cols1, H, C, ROUND, DOT)), h)
		a, _ = gelu_slope(h)
		a = operand(a, ROUND, DOT)
		acc0 = tl.dot(a, tl.trans(load_weight(w2_ptr, cols0, hidden, C, H, ROUND, DOT)), acc0)
		if C1 > 0:
			acc1 = tl.dot(a, tl.trans(load_weight(w2_ptr, cols1, hidden, C, H, ROUND, DOT)), acc1)
	block_tile(acc0, x_ptr, out_ptr + base, rows, cols0, L, C, scale)
	if C1 > 0:
		block_tile(acc1, x_ptr, out_ptr + base, rows, cols1, L, C, scale)


@triton.jit(do_not_specialize=RUNTIME)
def hidden_gradient_kernel(
	x_ptr,
	w_ptr,
	w1_ptr,
	w2_ptr,
	g_ptr,
	stats_ptr,
	dy_ptr,
	moments_ptr,
	dilation,
	L,
	tiles,
	n_examples,
	scale,
	C: tl.constexpr,
	H: tl.constexpr,
	C0: tl.constexpr,
	C1: tl.constexpr,
	BLOCK_L: tl.constexpr,
	BLOCK_H: tl.constexpr,
	ROUND: tl.constexpr,
	DOT: tl.constexpr,
):
	"""The gradient at y, dy = scale · W1ᵀ·((W2ᵀ·g) ⊙ gelu'(W1·y)), and moments[:, n, t]: sums of dy and dy·y."""
	pid = tl.program_id(0)
	n, t = pid // tiles, pid % tiles
	mean, rstd = tl.load(stats_ptr + n), tl.load(stats_ptr + n_examples + n)
	base = n.to(tl.int64) * L * C
	x_ptr += base
	g_ptr += base
	dy_ptr += base
	rows = t * BLOCK_L + tl.arange(0, BLOCK_L)
	cols0 = tl.arange(0, C0)
	y0 = operand(norm_tile(x_ptr, w_ptr, rows, cols0, dilation, L, C, mean, rstd), ROUND, DOT)
	g0 = operand(load_tile(g_ptr, rows, cols0, L, C), ROUND, DOT)
	acc0 = tl.zeros([BLOCK_L, C0], tl.float32)
	if C1 > 0:
		cols1 = C0 + tl.arange(0, C1)
		y1 = operand(norm_tile(x_ptr, w_ptr, rows, cols1, dilation, L, C, mean, rstd), ROUND, DOT)
		g1 = operand(load_tile(g_ptr, rows, cols1, L, C), ROUND, DOT)
		acc1 = tl.zeros([BLOCK_L, C1], tl.float32)
	for j in range(0, H, BLOCK_H):
		hidden = j + tl.arange(0, BLOCK_H)
		w10 = load_weight(w1_ptr, hidden, cols0, H, C, ROUND, DOT)
		h = tl.dot(y0, tl.trans(w10))
		da = tl.dot(g0, load_weight(w2_ptr, cols0, hidden, C, H, ROUND, DOT))
		if C1 > 0:
			w11 = load_weight(w1_ptr, hidden, cols1, H, C, ROUND, DOT)
			h = tl.dot(y1, tl.trans(w11), h)
			da = tl.dot(g1, load_weight(w2_ptr, cols1, hidden, C, H, ROUND, DOT), da)
		_, slope = gelu_slope(h)
		dh = operand(scale * da * slope, ROUND, DOT)
		acc0 = tl.dot(dh, w10, acc0)
		if C1 > 0:
			acc1 = tl.dot(dh, w11, acc1)
	store_tile(dy_ptr, acc0, rows, cols0, L, C)
	first = tl.sum(acc0)
	second = tl.sum(acc0 * norm_tile(x_ptr, w_ptr, rows, cols0, dilation, L, C, mean, rstd))
	if C1 > 0:
		store_tile(dy_ptr, acc1, rows, cols1, L, C)
		first += tl.sum(acc1)
		second += tl.sum(acc1 * norm_tile(x_ptr, w_ptr, rows, cols1, dilation, L, C, mean, rstd))
	tl.store(moments_ptr + pid, first)
	tl.store(moments_ptr + n_examples * tiles + pid, second)


@triton.jit
def tail_tile(
	left, middle, right, x, w_ptr, dy, g, dx, start, cols, dilation, L, C: tl.constexpr, mean, rstd, m1, m2,
	BLOCK_L: tl.constexpr, TAIL_L: tl.constexpr,
):  # fmt: skip
	"""Turn a tile's dy into dx, TAIL_L rows at a time; returns the sums of dw with those of the tile added."""
	for r in range(0, BLOCK_L, TAIL_L):
		rows = start + r + tl.arange(0, TAIL_L)
		dz = dz_tile(x, w_ptr, dy, rows, cols, dilation, L, C, mean, rstd, m1, m2)
		left += tl.sum(dz * load_tile(x, rows - dilation, cols, L, C), 0)
		middle += tl.sum(dz * load_tile(x, rows, cols, L, C), 0)
		right += tl.sum(dz * load_tile(x, rows + dilation, cols, L, C), 0)
		out = load_tile(g, rows, cols, L, C) + load_tap(w_ptr, 1, cols, C)[None, :] * dz
		after = dz_tile(x, w_ptr, dy, rows + dilation, cols, dilation, L, C, mean, rstd, m1, m2)
		out += load_tap(w_ptr, 0, cols, C)[None, :] * after
		before = dz_tile(x, w_ptr, dy, rows - dilation, cols, dilation, L, C, mean, rstd, m1, m2)
		out += load_tap(w_ptr, 2, cols, C)[None, :] * before
		store_tile(dx, out, rows, cols, L, C)
	return left, middle, right


@triton.jit
def store_taps(dw_ptr, left, middle, right, cols, C: tl.constexpr):
	"""dw[0], dw[1], dw[2] at columns."""
	tl.store(dw_ptr + cols, left, mask=cols < C)
	tl.store(dw_ptr + C + cols, middle, mask=cols < C)
	tl.store(dw_ptr + 2 * C + cols, right, mask=cols < C)


@triton.jit
def store_slice(dw1_ptr, dw2_ptr, dw1, dw2, hidden, cols, C: tl.constexpr, H: tl.constexpr):
	"""A slice of the gradients of W1, (H, C), and W2, (C, H), both held as hidden × columns."""
	inside = (hidden < H)[:, None] & (cols < C)[None, :]
	tl.store(dw1_ptr + hidden[:, None] * C + cols[None, :], dw1, mask=inside)
	tl.store(dw2_ptr + cols[None, :] * H + hidden[:, None], dw2, mask=inside)


@triton.jit(do_not_specialize=RUNTIME)
def weight_gradient_kernel(
	x_ptr,
	w_ptr,
	w1_ptr,
	w2_ptr,
	g_ptr,
	stats_ptr,
	dy_ptr,
	moments_ptr,
	dx_ptr,
	dw_ptr,
	dw1_ptr,
	dw2_ptr,
	dilation,
	L,
	tiles,
	stat_tiles,
	n_examples,
	splits,
	scale,
	C: tl.constexpr,
	H: tl.constexpr,
	C0: tl.constexpr,
	C1: tl.constexpr,
	BLOCK_L: tl.constexpr,
	BLOCK_H: tl.constexpr,
	BLOCK_T: tl.constexpr,
	TAIL_L: tl.constexpr,
	TAIL: tl.constexpr,
	ROUND: tl.constexpr,
	DOT: tl.constexpr,
):
	"""dw1[split], dw2[split]: sums over a range of tiles of dhᵀ·y and gᵀ·gelu(h); with TAIL also dx and sums of dw."""
	part, split = tl.program_id(0), tl.program_id(1)
	slices: tl.constexpr = (H + BLOCK_H - 1) // BLOCK_H
	hidden = part * BLOCK_H + tl.arange(0, BLOCK_H)
	cols0 = tl.arange(0, C0)
	w10 = tl.trans(load_weight(w1_ptr, hidden, cols0, H, C, ROUND, DOT))
	w20 = load_weight(w2_ptr, cols0, hidden, C, H, ROUND, DOT)
	dw1_0 = tl.zeros([BLOCK_H, C0], tl.float32)
	dw2_0 = tl.zeros([BLOCK_H, C0], tl.float32)
	left0 = tl.zeros([C0], tl.float32)
	middle0 = tl.zeros([C0], tl.float32)
	right0 = tl.zeros([C0], tl.float32)
	if C1 > 0:
		cols1 = C0 + tl.arange(0, C1)
		w11 = tl.trans(load_weight(w1_ptr, hidden, cols1, H, C, ROUND, DOT))
		w21 = load_weight(w2_ptr, cols1, hidden, C, H, ROUND, DOT)
		dw1_1 = tl.zeros([BLOCK_H, C1], tl.float32)
		dw2_1 = tl.zeros([BLOCK_H, C1], tl.float32)
		left1 = tl.zeros([C1], tl.float32)
		middle1 = tl.zeros([C1], tl.float32)
		right1 = tl.zeros([C1], tl.float32)
	total = n_examples * tiles
	each = (total + splits - 1) // splits
	for tile in range(split * each, tl.minimum(split * each + each, total)):
		n, t = tile // tiles, tile % tiles
		mean, rstd = tl.load(stats_ptr + n), tl.load(stats_ptr + n_examples + n)
		base = n.to(tl.int64) * L * C
		x, g = x_ptr + base, g_ptr + base
		rows = t * BLOCK_L + tl.arange(0, BLOCK_L)
		y0 = operand(norm_tile(x, w_ptr, rows, cols0, dilation, L, C, mean, rstd), ROUND, DOT)
		g0 = operand(load_tile(g, rows, cols0, L, C), ROUND, DOT)
		h = tl.dot(y0, w10)
		da = tl.dot(g0, w20)
		if C1 > 0:
			y1 = operand(norm_tile(x, w_ptr, rows, cols1, dilation, L, C, mean, rstd), ROUND, DOT)
			g1 = operand(load_tile(g, rows, cols1, L, C), ROUND, DOT)
			h = tl.dot(y1, w11, h)
			da = tl.dot(g1, w21, da)
		a, slope = gelu_slope(h)
		a = tl.trans(operand(a, ROUND, DOT))
		dh = tl.trans(operand(scale * da * slope, ROUND, DOT))
		dw1_0 = tl.dot(dh, y0, dw1_0)
		dw2_0 = tl.dot(a, g0, dw2_0)
		if C1 > 0:
			dw1_1 = tl.dot(dh, y1, dw1_1)
			dw2_1 = tl.dot(a, g1, dw2_1)
		if TAIL:
			if tile % slices == part:
				dy, dx = dy_ptr + base, dx_ptr + base
				m1 = merge_sums(moments_ptr + n * stat_tiles, stat_tiles, BLOCK_T) / (L * C)
				m2 = merge_sums(moments_ptr + (n_examples + n) * stat_tiles, stat_tiles, BLOCK_T) / (L * C)
				left0, middle0, right0 = tail_tile(
					left0, middle0, right0, x, w_ptr, dy, g, dx, t * BLOCK_L, cols0, dilation, L, C,
					mean, rstd, m1, m2, BLOCK_L, TAIL_L,
				)  # fmt: skip
				if C1 > 0:
					left1, middle1, right1 = tail_tile(
						left1, middle1, right1, x, w_ptr, dy, g, dx, t * BLOCK_L, cols1, dilation, L, C,
						mean, rstd, m1, m2, BLOCK_L, TAIL_L,
					)  # fmt: skip
	dw1_ptr += split * H * C
	dw2_ptr += split * H * C
	dw_ptr += (split * slices + part) * 3 * C
	store_slice(dw1_ptr, dw2_ptr, dw1_0, dw2_0, hidden, cols0, C, H)
	if C1 > 0:
		store_slice(dw1_ptr, dw2_ptr, dw1_1, dw2_1, hidden, cols1, C, H)
	if TAIL:
		store_taps(dw_ptr, left0, middle0, right0, cols0, C)
		if C1 > 0:
			store_taps(dw_ptr, left1, middle1, right1, cols1, C)


def _sizes(x: torch.Tensor, hidden: int, dot: torch.dtype, padded: bool) -> dict[str, Any]:
	"""The compile-time arguments that every kernel of the block has."""
	channels = x.shape[2]
	c0, c1 = _tuning.split_channels(channels, padded or (_OLD and capability(x)[0] == 10))
	held = tl.float32 if INTERPRETED.value else _TRITON[dot]
	return {"C": channels, "H": hidden, "C0": c0, "C1": c1, "ROUND": _TRITON[dot], "DOT": held}


def block_forward(
	x: torch.Tensor,
	conv_weight: torch.Tensor,
	weight1: torch.Tensor,
	weight2: torch.Tensor,
	dilation: int,
	residual_scale: float,
	eps: float,
	dot: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
	"""The block's output and its statistics, unseen by autograd; `block` is the same as an operation of torch.

	Parameters
	----------
	x: torch.Tensor, shape=(N, L, C)
		Of type float32, bfloat16 or float16, on a GPU.
	conv_weight: torch.Tensor, shape=(3, C)
		The taps at −d, 0 and +d. Weights are of any of these types, and converted as they are loaded.
	weight1: torch.Tensor, shape=(H, C)
		W1, into the hidden layer.
	weight2: torch.Tensor, shape=(C, H)
		W2, out of it.
	dilation: int
		d, in positions; may exceed L.
	residual_scale: float
		Factor of what is added to x.
	eps: float
		Added to the variance.
	dot: torch.dtype
		Type that the operands of the products are rounded to; float32 means TF32. Sums are float32.

	Returns
	-------
	out: torch.Tensor, shape=(N, L, C), dtype of x
	stats: torch.Tensor, shape=(2, N), float32
		Mean and reciprocal deviation of each example's convolution.
	"""
	x, w, w1, w2 = (t.contiguous() for t in (x, conv_weight, weight1, weight2))
	(n, length, channels), hidden = x.shape, w1.shape[0]
	out, stats = torch.empty_like(x), x.new_empty(2, n, dtype=torch.float32)
	if x.numel() == 0:
		return out, stats.zero_()
	dilation = min(dilation, length)
	partial, stat_tiles, stat_rows = launch_statistics(x, w, dilation)
	config = _tuning.config("forward", channels, dot, capability(x))
	tiles = triton.cdiv(length, config.rows)
	launch(
		forward_kernel,
		(n * tiles,),
		{
			"x_ptr": x,
			"w_ptr": w,
			"w1_ptr": w1,
			"w2_ptr": w2,
			"partial_ptr": partial,
			"stats_ptr": stats,
			"out_ptr": out,
		},
		dilation=dilation,
		L=length,
		tiles=tiles,
		stat_tiles=stat_tiles,
		n_examples=n,
		scale=residual_scale,
		eps=eps,
		STAT_L=stat_rows,
		BLOCK_L=config.rows,
		BLOCK_H=config.cols,
		BLOCK_T=_tuning.MERGE,
		num_warps=config.warps,
		num_stages=config.stages,
		**_sizes(x, hidden, dot, config.padded),
	)
	return out, stats


# Differentiable once, in x and the weights; torch.compile neither looks into it nor splits it.
block = torch.library.custom_op("cherimoya::block", mutates_args=())(block_forward)


@block.register_fake
def _(
	x: torch.Tensor,
	conv_weight: torch.Tensor,
	weight1: torch.Tensor,
	weight2: torch.Tensor,
	dilation: int,
	residual_scale: float,
	eps: float,
	dot: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
	return x.new_empty(x.shape), x.new_empty(2, x.shape[0], dtype=torch.float32)


def _launch_hidden_gradient(
	g: torch.Tensor,
	x: torch.Tensor,
	weights: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
	stats: torch.Tensor,
	dilation: int,
	residual_scale: float,
	dot: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
	"""dy, shape (N, L, C), and moments, shape (2, N, tiles)."""
	(n, length, channels), hidden = x.shape, weights[1].shape[0]
	config = _tuning.config("hidden_gradient", channels, dot, capability(x))
	tiles = triton.cdiv(length, config.rows)
	dy, moments = torch.empty_like(x), x.new_empty(2, n, tiles, dtype=torch.float32)
	launch(
		hidden_gradient_kernel,
		(n * tiles,),
		{
			"x_ptr": x,
			"w_ptr": weights[0],
			"w1_ptr": weights[1],
			"w2_ptr": weights[2],
			"g_ptr": g,
			"stats_ptr": stats,
			"dy_ptr": dy,
			"moments_ptr": moments,
		},
		dilation=dilation,
		L=length,
		tiles=tiles,
		n_examples=n,
		scale=residual_scale,
		BLOCK_L=config.rows,
		BLOCK_H=config.cols,
		num_warps=config.warps,
		num_stages=config.stages,
		**_sizes(x, hidden, dot, config.padded),
	)
	return dy, moments


@torch.library.custom_op("cherimoya::block_backward", mutates_args=())
def block_backward(
	g: torch.Tensor,
	x: torch.Tensor,
	conv_weight: torch.Tensor,
	weight1: torch.Tensor,
	weight2: torch.Tensor,
	stats: torch.Tensor,
	dilation: int,
	residual_scale: float,
	dot: torch.dtype,
	need_input: bool,
	need_weights: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
	"""Gradients dx and dw if need_input, dW1 and dW2 if need_weights; empty tensors for those that are not needed."""
	g, x, w, w1, w2 = (t.contiguous() for t in (g, x, conv_weight, weight1, weight2))
	shapes = _gradient_shapes(x, w, w1, w2, need_input, need_weights)
	if x.numel() == 0:
		return tuple(t.new_zeros(s) for t, s in zip((x, w, w1, w2), shapes, strict=True))
	(n, length, channels), hidden = x.shape, w1.shape[0]
	dilation = min(dilation, length)
	if need_input:
		dy, moments = _launch_hidden_gradient(g, x, (w, w1, w2), stats, dilation, residual_scale, dot)
	else:
		dy, moments = g, stats[:, :, None]
	if not need_weights:
		dx, dw = launch_gradient(x, w, dy, stats, moments, dilation, residual=g, need_x=True, need_w=True)
		return dx, dw, w1.new_empty(0), w2.new_empty(0)
	config = _tuning.config("weight_gradient", channels, dot, capability(x))
	tiles, slices = triton.cdiv(length, config.rows), triton.cdiv(hidden, config.cols)
	splits = max(1, min(n * tiles, _tuning.PROGRAMS // slices))
	dx = x.new_empty(shapes[0])
	dw = x.new_empty(splits * slices if need_input else 0, 3, channels, dtype=torch.float32)
	dw1 = x.new_empty(splits, hidden, channels, dtype=torch.float32)
	dw2 = x.new_empty(splits, channels, hidden, dtype=torch.float32)
	launch(
		weight_gradient_kernel,
		(slices, splits),
		{
			"x_ptr": x,
			"w_ptr": w,
			"w1_ptr": w1,
			"w2_ptr": w2,
			"g_ptr": g,
			"stats_ptr": stats,
			"dy_ptr": dy,
			"moments_ptr": moments,
			"dx_ptr": dx,
			"dw_ptr": dw,
			"dw1_ptr": dw1,
			"dw2_ptr": dw2,
		},
		dilation=dilation,
		L=length,
		tiles=tiles,
		stat_tiles=moments.shape[2],
		n_examples=n,
		splits=splits,
		scale=residual_scale,
		BLOCK_L=config.rows,
		BLOCK_H=config.cols,
		BLOCK_T=_tuning.MERGE,
		TAIL_L=min(_tuning.TAIL, config.rows),
		TAIL=need_input,
		num_warps=config.warps,
		num_stages=config.stages,
		**_sizes(x, hidden, dot, config.padded),
	)
	return (
		dx,
		launch_sum(dw, torch.empty_like(w)) if need_input else w.new_empty(0),
		launch_sum(dw1, torch.empty_like(w1)),
		launch_sum(dw2, torch.empty_like(w2), residual_scale),
	)


def _gradient_shapes(
	x: torch.Tensor, w: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor, need_input: bool, need_weights: bool
) -> list[tuple[int, ...]]:
	"""Shapes of dx, dw, dW1 and dW2; (0,) for those that are not needed."""
	needed = (need_input, need_input, need_weights, need_weights)
	return [tuple(t.shape) if need else (0,) for t, need in zip((x, w, w1, w2), needed, strict=True)]


@block_backward.register_fake
def _(
	g: torch.Tensor,
	x: torch.Tensor,
	conv_weight: torch.Tensor,
	weight1: torch.Tensor,
	weight2: torch.Tensor,
	stats: torch.Tensor,
	dilation: int,
	residual_scale: float,
	dot: torch.dtype,
	need_input: bool,
	need_weights: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
	tensors = (x, conv_weight, weight1, weight2)
	shapes = _gradient_shapes(*tensors, need_input, need_weights)
	return tuple(t.new_empty(s) for t, s in zip(tensors, shapes, strict=True))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
	"""Keep x, the weights and two numbers an example for the backward."""
	*tensors, dilation, residual_scale, _, dot = inputs
	ctx.save_for_backward(*tensors, output[1])
	ctx.settings = dilation, residual_scale, dot


def _backward(ctx: Any, g: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
	"""Gradients of x and the three weights, those that are needed."""
	needs = ctx.needs_input_grad[:4]
	need_input, need_weights = needs[0] or needs[1], needs[2] or needs[3]
	gradients = block_backward(g, *ctx.saved_tensors, *ctx.settings, need_input, need_weights)
	kept = (gradient if need else None for gradient, need in zip(gradients, needs, strict=True))
	return *kept, None, None, None, None


block.register_autograd(_backward, setup_context=_save)
