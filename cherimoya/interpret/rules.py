"""DeepLIFT's rules for every operation of the model: how a difference from a reference is passed back, exactly.

A multiplier m says how much of a difference in the output belongs to a unit of difference in a value: a function f
with f(x) - f(x0) = Σ m·(x - x0). A linear operation passes multipliers back as it does gradients. The others:

- one value to one value: the secant (f(x) - f(x0)) / (x - x0), the rescale rule;
- a product a·b: m·(b + b0)/2 to a and m·(a + a0)/2 to b, as Δ(a·b) = Δa·(b + b0)/2 + Δb·(a + a0)/2;
- normalisation and softmax: chains of these, see `block_multipliers` and `softmax_multipliers`.

Chained, they are exact for the whole model: the contributions of all bases sum to the difference of its outputs. One
sequence meets many references at a time. What of a pair the way back needs, secants above all, is worked out on the
way forward, while both activations are at hand; no graph is kept.

References
----------
Shrikumar, Greenside & Kundaje (2017), "Learning important features through propagating activation differences", ICML,
section 3.5.1 (rescale), and its supplement (products).
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F

from cherimoya.cheri import CheriBlock
from cherimoya.cherimoya import Cherimoya
from cherimoya.kernels.reference import EPS

_aten = torch.ops.aten

# Values of x in a chunk of references on the CPU, so that its intermediate tensors are used again from cache.
_CHUNK_VALUES = 400_000


class BlockRule(NamedTuple):
	"""What a block's rule keeps of R pairs; u is the centred convolution z - mean(z), r = 1 / sqrt(mean(u²) + eps).

	Attributes
	----------
	secant: torch.Tensor, shape=(R, L, H)
		Of the GELU.
	centred: torch.Tensor, shape=(R, L, C)
		u + u0.
	rstd: torch.Tensor, shape=(1, 1, 1)
		r.
	rstd0: torch.Tensor, shape=(R, 1, 1)
		r0.
	"""

	secant: torch.Tensor
	centred: torch.Tensor
	rstd: torch.Tensor
	rstd0: torch.Tensor


class Trace(NamedTuple):
	"""A sequence and R references on their way through the model.

	Attributes
	----------
	stem: torch.Tensor, shape=(R, L, C)
		Secants of the stem's GELU.
	blocks: list of BlockRule
	x: torch.Tensor, shape=(1, L, C)
		What the heads see of the sequence.
	x0: torch.Tensor, shape=(R, L, C)
		And of the references.
	"""

	stem: torch.Tensor
	blocks: list[BlockRule]
	x: torch.Tensor
	x0: torch.Tensor


def trace(model: Cherimoya, X: torch.Tensor, X0: torch.Tensor) -> Trace:
	"""A sequence (1, 4, L) and its references (R, 4, L) up to the heads."""
	p, p0 = _stem(model, X), _stem(model, X0)
	x, x0 = _gelu(p), torch.empty_like(p0)
	slope = _scaled_slope(p)
	for rows in _chunks(p0):
		_gelu(p0[rows], out=x0[rows])
		_secant(p, x, slope, p0[rows], x0[rows], out=p0[rows])
	blocks = []
	for block in model.blocks:
		x, rule = trace_block(block, x, x0)
		blocks.append(rule)
	return Trace(p0, blocks, x, x0)


def trace_block(block: CheriBlock, x: torch.Tensor, x0: torch.Tensor) -> tuple[torch.Tensor, BlockRule]:
	"""The block's output for x (1, L, C), with what its rule needs; x0 (R, L, C) is overwritten by its output."""
	_, length, channels = x.shape
	up, down = block.linear1.weight.t(), (block.linear2.weight * block.residual_scale).t()  # (C, H), (H, C)
	y, _, rstd = _norm(block, x)
	h = _product(y.view(-1, channels), up).view(1, length, -1)  # (L, C) -> (1, L, H)
	a = _gelu(h)
	slope, u = _scaled_slope(h), y / rstd
	rule = BlockRule(
		x0.new_empty(len(x0), length, h.shape[-1]), torch.empty_like(x0), rstd, rstd.new_empty(len(x0), 1, 1)
	)
	for rows in _chunks(x0):
		y0, _, rule.rstd0[rows] = _norm(block, x0[rows])
		h0 = _product(y0.view(-1, channels), up).view(len(y0), length, -1)  # (r * L, C) -> (r, L, H)
		a0 = _gelu(h0)
		_add_product(x0[rows], a0, down)
		_secant(h, a, slope, h0, a0, out=rule.secant[rows])
		torch.addcdiv(u, y0, rule.rstd0[rows], out=rule.centred[rows])
	return _add_product(x.clone(), a, down), rule


def block_multipliers(block: CheriBlock, rule: BlockRule, m: torch.Tensor) -> torch.Tensor:
	"""Multipliers at a block's input from those at its output, in their place.

	Normalisation is y = u·r with u = z - mean(z) and r = (mean(u²) + eps)^(-1/2), so with N = L·C values

		m_u = m_y·(r + r0)/2 + k·(u + u0)/N,   k = Σ m_y·(u + u0)/2 · Δr/Δvar,   Δr/Δvar = -r²·r0² / (r + r0),

	from the product rule for u·r and for u·u, and the secant of r in closed form; then m_z = m_u - mean(m_u). Each
	position's multiplier depends on every other position, as the normalisation does.

	Parameters
	----------
	block: CheriBlock
		Whose weights are used.
	rule: BlockRule
		Of `trace_block`.
	m: torch.Tensor, shape=(R, L, C)
		At the output; overwritten.

	Returns
	-------
	torch.Tensor, shape=(R, L, C)
		m, now at the input.
	"""
	channels, values = m.shape[2], m[0].numel()
	down = block.linear2.weight * block.residual_scale  # (C, H)
	for rows in _chunks(m):
		secant, centred, r, r0 = rule.secant[rows], rule.centred[rows], rule.rstd, rule.rstd0[rows]
		m_h = _product(m[rows].view(-1, channels), down).mul_(secant.view(-1, len(block.linear1.weight)))
		m_y = _product(m_h, block.linear1.weight).view(centred.shape)  # (r * L, H) -> (r, L, C)
		dots = [torch.dot(a.view(-1), b.view(-1)) for a, b in zip(m_y, centred, strict=True)]  # Σ m_y·(u + u0)
		slope = (r + r0) / 2
		centre = m_y.mean((1, 2), keepdim=True) * -slope
		m_z = torch.addcmul(centre, m_y, slope)
		m_z.addcmul_(centred, torch.stack(dots).view(-1, 1, 1) * (r * r0).square() / (r + r0) / (-2 * values))
		_add_transposed_conv(m[rows], m_z, block.conv_weight, block.dilation)
	return m


def stem_multipliers(model: Cherimoya, secant: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
	"""Multipliers at the one-hot sequences, (R, 4, L), from those after the stem, (R, L, C), which are overwritten.

	A matrix product gives what each position sends through every tap; a position receives the sum over a diagonal.
	"""
	n, length, channels = m.shape
	width = model.iconv.kernel_size[0]
	taps = model.iconv.weight.flip(-1).transpose(1, 2).reshape(channels, width * 4)  # (C, 4, k) -> (C, k * 4)
	out = m.new_empty(n, length, 4)
	for rows in _chunks(m):
		sent = _product(m[rows].mul_(secant[rows]).view(-1, channels), taps).view(-1, length, width * 4)
		padded = F.pad(sent, (0, 0, width // 2, width // 2))  # -> (r, L + k - 1, k * 4)
		strides = (padded.stride(0), width * 4, width * 4 + 4, 1)
		torch.sum(padded.as_strided((len(sent), length, width, 4), strides), 2, out=out[rows])  # -> (r, L, 4)
	return out.transpose(1, 2)


def counts_head(
	model: Cherimoya, traced: Trace, X_ctl: torch.Tensor | None, group: int | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
	"""Log counts of the sequence (1,) and its references (R,), and multipliers where the head begins, (R, L, C)."""
	weight = model.linear.weight if group is None else model.linear.weight[group : group + 1]  # (g, C (+ 1))
	start, stop = model.trimming, traced.x.shape[1] - model.trimming
	columns = slice(None) if group is None else slice(group, group + 1)
	controls = None if X_ctl is None else X_ctl[..., start:stop]
	f, f0 = (
		model._count_head(x[:, start:stop], None if controls is None else controls.expand(len(x), -1, -1))
		for x in (traced.x, traced.x0)
	)
	m = torch.zeros_like(traced.x0)
	m[:, start:stop] = weight[:, : model.n_filters].sum(0) / (stop - start)
	return f[:, columns].sum(1), f0[:, columns].sum(1), m


def profile_head(
	model: Cherimoya, traced: Trace, X_ctl: torch.Tensor | None, channels: slice
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
	"""`ProfileWrapper`'s value of the sequence (1,) and of its references (R,), and multipliers where the head begins.

	With v the centred logits and p = softmax(v), the value is Σ p·v: the product rule, then `softmax_multipliers`.
	"""
	length, k = traced.x.shape[1], model.profile_kernel_size
	start, stop = model.trimming, length - model.trimming
	margin = min(start, k // 2)
	window = slice(start - margin, stop + margin)
	wide = None if X_ctl is None else X_ctl[..., window]
	logits, logits0 = (
		model._profile_head(x[:, window], None if wide is None else wide.expand(len(x), -1, -1), margin)[:, channels]
		.flatten(1)  # (n, t, out) -> (n, t * out)
		.to(x.dtype)
		for x in (traced.x, traced.x0)
	)
	v, v0 = logits - logits.mean(1, keepdim=True), logits0 - logits0.mean(1, keepdim=True)
	p, p0 = v.softmax(1), v0.softmax(1)
	m = (p + p0) / 2 + softmax_multipliers(v, v0, (v + v0) / 2)
	m = (m - m.mean(1, keepdim=True)).unflatten(1, (-1, stop - start))  # -> (R, t, out)
	weight = model.fconv.weight[channels, : model.n_filters]  # (t, C, k)
	m = F.conv_transpose1d(m, weight).to(m.dtype)[..., k // 2 - margin : stop - start + k // 2 + margin]
	padded = torch.zeros_like(traced.x0)
	padded[:, window] = m.transpose(1, 2)  # (R, C, out + 2 * margin) -> (R, out + 2 * margin, C)
	return (p * v).sum(1), (p0 * v0).sum(1), padded


def softmax_multipliers(v: torch.Tensor, v0: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
	"""Multipliers at the logits from those at their softmax p = exp(v - s), where s = log Σ exp(v).

	With L(a, b) = (a - b) / (log a - log b), the logarithmic mean, the secants of exp and log give

		Δp_i = L(p_i, p0_i)·(Δv_i - Δs),   Δs = Σ_j w_j·Δv_j,   w_j = L(e^v_j, e^v0_j) / L(e^s, e^s0).

	Both means lie between their arguments and the w sum to 1 at most, so that logits of any size are safe.

	Parameters
	----------
	v, v0: torch.Tensor, shape=(1 or R, K) and (R, K)
		Logits of the sequence and of the references.
	m: torch.Tensor, shape=(R, K)
		At the softmax.

	Returns
	-------
	torch.Tensor, shape=(R, K)
	"""
	s, s0 = v.logsumexp(1, keepdim=True), v0.logsumexp(1, keepdim=True)
	m = m * log_mean_exp(v - s, v0 - s0)
	shares = log_mean_exp(v - torch.maximum(s, s0), v0 - torch.maximum(s, s0))
	return m - shares / _decay((s - s0).abs()) * m.sum(1, keepdim=True)


def log_mean_exp(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
	"""(e^a - e^b) / (a - b), and e^a where they are equal, without cancellation."""
	return torch.maximum(a, b).exp() * _decay((a - b).abs())


def _decay(d: torch.Tensor) -> torch.Tensor:
	"""(1 - e^-d) / d of d >= 0; 1 at 0."""
	return torch.where(d == 0, 1, -torch.expm1(-d) / torch.where(d == 0, 1, d))


def _secant(
	x: torch.Tensor, y: torch.Tensor, slope: torch.Tensor, x0: torch.Tensor, y0: torch.Tensor, *, out: torch.Tensor
) -> None:
	"""(y - y0) / (x - x0), or the derivative where x - x0 is tiny, into out; x0 and y0 are lost where out is not they.

	As (Δy·Δx + t²·y') / (Δx² + t²), for which no branch is needed: the quotient where |Δx| is well above t, the
	derivative well below. The rounding of y makes an error of eps·|y| / |Δx| in the quotient, and the derivative's is
	about |Δx| / 2: with t = sqrt(eps) / 4 neither is above 1e-3, for the few values near t. Sums stay exact: multiplied
	by Δx, what is changed is below t²·|y''| / 2, less than the rounding of y. `slope` is t²·y' (`_scaled_slope`).
	"""
	dx = torch.sub(x, x0, out=x0)
	numerator = torch.addcmul(slope, torch.sub(y, y0), dx)
	torch.div(numerator, torch.addcmul(_threshold(x), dx, dx), out=out)


def _threshold(x: torch.Tensor) -> torch.Tensor:
	"""t² = eps / 16 of the type, as a tensor."""
	return torch.full((), torch.finfo(x.dtype).eps / 16, dtype=x.dtype, device=x.device)


def _scaled_slope(x: torch.Tensor) -> torch.Tensor:
	"""t² times the derivative of GELU."""
	slope = torch.full_like(x, torch.finfo(x.dtype).eps / 16)
	return _aten.gelu_backward(slope, x, approximate="tanh")


def _gelu(x: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
	return F.gelu(x, approximate="tanh") if out is None else _aten.gelu.out(x, approximate="tanh", out=out)


def _stem(model: Cherimoya, X: torch.Tensor) -> torch.Tensor:
	"""The stem before its GELU, (n, 4, L) -> (n, L, C)."""
	X = X.unsqueeze(2).contiguous(memory_format=torch.channels_last)  # (n, 4, L) -> (n, 4, 1, L)
	weight = model.iconv.weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)  # (C, 4, k) -> (C, 4, 1, k)
	p = F.conv2d(X, weight, model.iconv.bias, padding=(0, weight.shape[-1] // 2))  # -> (n, C, 1, L)
	return p.squeeze(2).transpose(1, 2).contiguous().to(weight.dtype)  # (n, C, 1, L) -> (n, L, C)


def _norm(block: CheriBlock, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
	"""A block's convolution, normalised, with its mean and reciprocal deviation."""
	w, d = block.conv_weight, block.dilation
	z = x * w[1]
	if d < x.shape[1]:
		z[:, d:].addcmul_(x[:, :-d], w[0])
		z[:, :-d].addcmul_(x[:, d:], w[2])
	return torch.native_layer_norm(z, z.shape[1:], None, None, EPS)


def _add_transposed_conv(out: torch.Tensor, m: torch.Tensor, w: torch.Tensor, dilation: int) -> None:
	"""Add to out what the convolution with taps w sends back to its input."""
	out.addcmul_(m, w[1])
	if dilation < m.shape[1]:
		out[:, :-dilation].addcmul_(m[:, dilation:], w[0])
		out[:, dilation:].addcmul_(m[:, :-dilation], w[2])


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
	"""A matrix product, which autocast may make in another type."""
	return torch.mm(a, b).to(a.dtype)


def _add_product(x: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
	"""Add a·b to x, in the place of x; (r, L, H) times (H, C) to (r, L, C)."""
	flat, a = x.view(-1, x.shape[-1]), a.view(-1, a.shape[-1])
	if torch.is_autocast_enabled(x.device.type):
		flat += _product(a, b)
	else:
		flat.addmm_(a, b)
	return x


def _chunks(x: torch.Tensor) -> Iterator[slice]:
	"""References to take at a time: on the CPU as many as cache holds, and as many as threads for the normalisation."""
	n = len(x)
	size = n
	if x.device.type == "cpu":
		size = max(1, torch.get_num_threads(), _CHUNK_VALUES // max(1, x[0].numel()))
	return (slice(i, min(i + size, n)) for i in range(0, n, max(1, size)))
