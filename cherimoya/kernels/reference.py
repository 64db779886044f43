"""The block's definition in plain torch: what every other implementation must agree with.

Everything here is differentiable by autograd, as often as one likes, on any device and in any floating-point
type. Shapes: x is channels last, (N, L, C).
"""

import torch
import torch.nn.functional as F

EPS = 1e-3


def statistics_dtype(*tensors: torch.Tensor) -> torch.dtype:
	"""The type of taps and statistics: float32, or float64 where a tensor is float64."""
	return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def check_conv_norm(x: torch.Tensor, w: torch.Tensor, dilation: int) -> None:
	"""ValueError, naming the shapes, unless x is (N, L, C), w is (3, C), both floating point, and dilation >= 1."""
	problems = []
	if x.ndim != 3:
		problems.append(f"x must have shape (N, L, C), got {tuple(x.shape)}")
	if w.ndim != 2 or w.shape[0] != 3:
		problems.append(f"w must have shape (3, C), got {tuple(w.shape)}")
	elif x.ndim == 3 and w.shape[1] != x.shape[2]:
		problems.append(
			f"x has {x.shape[2]} channels, shape {tuple(x.shape)}, but w has {w.shape[1]}, {tuple(w.shape)}"
		)
	if not (x.is_floating_point() and w.is_floating_point()):
		problems.append(f"x and w must be floating point, got {x.dtype} and {w.dtype}")
	if dilation < 1:
		problems.append(f"dilation must be at least 1, got {dilation}")
	if problems:
		raise ValueError("; ".join(problems))


def dilated_conv(x: torch.Tensor, w: torch.Tensor, dilation: int) -> torch.Tensor:
	"""Three taps per channel: z[n,l,c] = w[0,c]·x[n,l−d,c] + w[1,c]·x[n,l,c] + w[2,c]·x[n,l+d,c], zero outside.

	Parameters
	----------
	x: torch.Tensor, shape=(N, L, C)
		The input.
	w: torch.Tensor, shape=(3, C)
		The taps at −d, 0 and +d.
	dilation: int
		d, in positions; may exceed L, where only the middle tap is left.

	Returns
	-------
	z: torch.Tensor, shape=(N, L, C)
	"""
	z = x * w[1]
	if dilation >= x.shape[1]:
		return z
	left = F.pad(x[:, :-dilation], (0, 0, dilation, 0))  # (N, L - d, C) -> (N, L, C)
	right = F.pad(x[:, dilation:], (0, 0, 0, dilation))  # (N, L - d, C) -> (N, L, C)
	return z + left * w[0] + right * w[2]


def conv_norm(x: torch.Tensor, w: torch.Tensor, dilation: int, eps: float = EPS) -> torch.Tensor:
	"""Dilated depthwise convolution, then normalisation of each example over all its positions and channels.

	y = (z − mean_n) / sqrt(var_n + eps), where z is `dilated_conv` and mean_n, var_n (biased, in a second pass
	over the centred values) are over the L·C values of example n, in float32 whatever the type (float64 for float64).

	Parameters
	----------
	x: torch.Tensor, shape=(N, L, C)
		The input, of any floating-point type.
	w: torch.Tensor, shape=(3, C)
		The taps at −d, 0 and +d.
	dilation: int
		d, in positions.
	eps: float
		Added to the variance. Default 1e-3.

	Returns
	-------
	y: torch.Tensor, shape=(N, L, C), dtype of x

	Raises
	------
	ValueError
		If shapes do not fit, a tensor is not floating point, or dilation is below 1.
	"""
	check_conv_norm(x, w, dilation)
	dtype = statistics_dtype(x, w)
	z = dilated_conv(x.to(dtype), w.to(dtype), dilation)
	z = z - z.mean((1, 2), keepdim=True)
	variance = z.square().mean((1, 2), keepdim=True)  # (N, L, C) -> (N, 1, 1)
	return (z * (variance + eps).rsqrt()).to(x.dtype)


def block(
	x: torch.Tensor,
	conv_weight: torch.Tensor,
	weight1: torch.Tensor,
	weight2: torch.Tensor,
	dilation: int,
	residual_scale: float,
	eps: float = EPS,
) -> torch.Tensor:
	"""The whole block: x + residual_scale · W2·gelu_tanh(W1·conv_norm(x)).

	Parameters
	----------
	x: torch.Tensor, shape=(N, L, C)
		The input.
	conv_weight: torch.Tensor, shape=(3, C)
		The taps at −d, 0 and +d.
	weight1: torch.Tensor, shape=(H, C)
		W1, into the hidden layer.
	weight2: torch.Tensor, shape=(C, H)
		W2, out of it.
	dilation: int
		d, in positions.
	residual_scale: float
		Factor of what is added to x.
	eps: float
		Added to the variance. Default 1e-3.

	Returns
	-------
	out: torch.Tensor, shape=(N, L, C)

	References
	----------
	Liu et al. (2022), "A ConvNet for the 2020s", section 2 (the block this one is adapted from).
	"""
	y = conv_norm(x, conv_weight, dilation, eps)
	h = F.gelu(F.linear(y, weight1), approximate="tanh")  # (N, L, C) -> (N, L, H)
	return x + residual_scale * F.linear(h, weight2)  # (N, L, H) -> (N, L, C)
