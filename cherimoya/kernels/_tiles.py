"""Device functions that more than one kernel uses. A tile is rows (positions) × columns (channels), always float32.

Loads are converted to float32 at once; what lies outside the sequence or the channels is 0. Row and column offsets
inside an example are 32-bit, so an example holds less than 2³¹ / 5 values; offsets between examples are 64-bit.
"""

import triton
import triton.language as tl

# Length and dilation would otherwise be specialised on 1 and on multiples of 16: three compilations for a model's
# blocks, where one is as fast, since every offset is a multiple of C, which is known at compile time.
RUNTIME = ["dilation", "L", "tiles", "stat_tiles", "n_examples", "splits", "total_tiles", "parts", "size"]


# Whether kernels defined in this process are run by Triton's interpreter (TRITON_INTERPRET=1 at import).
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def round_bits(v, DROP: tl.constexpr):
	"""float32 rounded to the nearest value whose DROP last bits are 0; NaN is left alone, it could carry over."""
	bits = v.to(tl.int32, bitcast=True)
	rounded = ((bits + (1 << (DROP - 1))) & -(1 << DROP)).to(tl.float32, bitcast=True)
	return tl.where(v == v, rounded, v)


@triton.jit
def convert(v, TYPE: tl.constexpr):
	"""A value as TYPE, to the nearest; the interpreter by itself would cut bfloat16 off."""
	if INTERPRETED and TYPE == tl.bfloat16:
		return round_bits(v, 16).to(tl.bfloat16)
	else:
		return v.to(TYPE)


@triton.jit
def load_tile(x_ptr, rows, cols, L, C: tl.constexpr):
	"""x[rows, cols] of one example, 0 outside."""
	inside = ((rows >= 0) & (rows < L))[:, None] & (cols < C)[None, :]
	return tl.load(x_ptr + rows[:, None] * C + cols[None, :], mask=inside, other=0.0).to(tl.float32)


@triton.jit
def store_tile(out_ptr, value, rows, cols, L, C: tl.constexpr):
	"""out[rows, cols] = value, in out's type, for rows and columns that exist."""
	inside = ((rows >= 0) & (rows < L))[:, None] & (cols < C)[None, :]
	tl.store(out_ptr + rows[:, None] * C + cols[None, :], convert(value, out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def load_tap(w_ptr, tap: tl.constexpr, cols, C: tl.constexpr):
	"""w[tap, cols], 0 outside."""
	return tl.load(w_ptr + tap * C + cols, mask=cols < C, other=0.0).to(tl.float32)


@triton.jit
def conv_tile(x_ptr, w_ptr, rows, cols, dilation, L, C: tl.constexpr):
	"""The convolution w[0]·x[l−d] + w[1]·x[l] + w[2]·x[l+d] at rows and columns; the caller masks rows outside."""
	z = load_tap(w_ptr, 1, cols, C)[None, :] * load_tile(x_ptr, rows, cols, L, C)
	z += load_tap(w_ptr, 0, cols, C)[None, :] * load_tile(x_ptr, rows - dilation, cols, L, C)
	z += load_tap(w_ptr, 2, cols, C)[None, :] * load_tile(x_ptr, rows + dilation, cols, L, C)
	return z


@triton.jit
def norm_tile(x_ptr, w_ptr, rows, cols, dilation, L, C: tl.constexpr, mean, rstd):
	"""The normalised y = (z − mean)·rstd at rows and columns, 0 outside."""
	inside = ((rows >= 0) & (rows < L))[:, None] & (cols < C)[None, :]
	return tl.where(inside, (conv_tile(x_ptr, w_ptr, rows, cols, dilation, L, C) - mean) * rstd, 0.0)


@triton.jit
def dz_tile(x_ptr, w_ptr, dy_ptr, rows, cols, dilation, L, C: tl.constexpr, mean, rstd, m1, m2):
	"""The gradient at z, dz = rstd·(dy − m1 − y·m2) at rows and columns, 0 outside."""
	inside = ((rows >= 0) & (rows < L))[:, None] & (cols < C)[None, :]
	y = norm_tile(x_ptr, w_ptr, rows, cols, dilation, L, C, mean, rstd)
	return tl.where(inside, rstd * (load_tile(dy_ptr, rows, cols, L, C) - m1 - y * m2), 0.0)


@triton.jit
def merge_statistics(
	partial_ptr, n_values, tiles, L, C: tl.constexpr, eps, BLOCK_L: tl.constexpr, BLOCK_T: tl.constexpr
):
	"""Mean and reciprocal deviation of an example from each tile's mean (first) and centred sum of squares (second).

	The order is that of the tiles, the same whoever merges. Means are added as differences from the first tile's, so
	that a mean far above the deviation costs no digits.
	"""
	first = tl.load(partial_ptr)
	shift = 0.0
	for start in range(0, tiles, BLOCK_T):
		t = start + tl.arange(0, BLOCK_T)
		count = (tl.maximum(tl.minimum(L - t * BLOCK_L, BLOCK_L), 0) * C).to(tl.float32)
		means = tl.load(partial_ptr + t, mask=t < tiles, other=0.0)
		shift += tl.sum(tl.where(t < tiles, count * (means - first), 0.0))
	mean = first + shift / (L * C)
	squares = 0.0
	for start in range(0, tiles, BLOCK_T):
		t = start + tl.arange(0, BLOCK_T)
		count = (tl.maximum(tl.minimum(L - t * BLOCK_L, BLOCK_L), 0) * C).to(tl.float32)
		delta = tl.load(partial_ptr + t, mask=t < tiles, other=0.0) - mean
		inner = tl.load(partial_ptr + n_values + t, mask=t < tiles, other=0.0)
		squares += tl.sum(tl.where(t < tiles, inner + count * delta * delta, 0.0))
	return mean, 1.0 / tl.sqrt(squares / (L * C) + eps)


@triton.jit
def merge_sums(partial_ptr, tiles, BLOCK_T: tl.constexpr):
	"""The sum of an example's tiles, in their order."""
	total = 0.0
	for start in range(0, tiles, BLOCK_T):
		t = start + tl.arange(0, BLOCK_T)
		total += tl.sum(tl.load(partial_ptr + t, mask=t < tiles, other=0.0))
	return total


@triton.jit
def operand(v, ROUND: tl.constexpr, DOT: tl.constexpr):
	"""An operand of tl.dot: v rounded to ROUND, held as DOT (the same, except in the interpreter).

	float32 is rounded to the nearest TF32 here, since the tensor cores would cut the low bits off instead, which
	biases every product.
	"""
	if ROUND == tl.float32:
		return round_bits(v, 13)
	else:
		return convert(v, ROUND).to(DOT)


@triton.jit
def load_weight(w_ptr, rows, cols, R: tl.constexpr, C: tl.constexpr, ROUND: tl.constexpr, DOT: tl.constexpr):
	"""w[rows, cols] of an (R, C) matrix as an operand, converted as it is loaded; 0 outside."""
	inside = (rows < R)[:, None] & (cols < C)[None, :]
	return operand(
		tl.load(w_ptr + rows[:, None] * C + cols[None, :], mask=inside, other=0.0).to(tl.float32), ROUND, DOT
	)


@triton.jit
def gelu_slope(h):
	"""GELU (tanh form) and its derivative, h·s and s + h·s·(1 − s)·2u'.

	s = σ(2u), u = √(2/π)·(h + 0.044715·h³).
	"""
	square = h * h
	s = tl.sigmoid(1.5957691216057308 * h * (1.0 + 0.044715 * square))
	return h * s, s + h * s * (1.0 - s) * 1.5957691216057308 * (1.0 + 0.134145 * square)
