"""The reference against its formulas written out as loops."""

import math

import numpy as np
import pytest
import torch

from cherimoya.kernels import reference

SHAPES = [(1, 1, 1, 1), (2, 7, 3, 2), (1, 5, 4, 5), (3, 4, 2, 9)]


def _loops(x: np.ndarray, w: np.ndarray, d: int, eps: float) -> np.ndarray:
	"""conv_norm in float64, value by value."""
	n, length, channels = x.shape
	y = np.zeros_like(x)
	for i in range(n):
		z = np.zeros((length, channels))
		for l in range(length):
			for tap, at in enumerate((l - d, l, l + d)):
				if 0 <= at < length:
					z[l] += w[tap] * x[i, at]
		y[i] = (z - z.mean()) / math.sqrt(z.var() + eps)
	return y


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_conv_norm_is_its_formula(shape):
	n, length, channels, d = shape
	rng = np.random.default_rng(0)
	x, w = rng.normal(size=(n, length, channels)), rng.normal(size=(3, channels))
	found = reference.conv_norm(torch.from_numpy(x), torch.from_numpy(w), d, eps=1e-3).numpy()
	np.testing.assert_allclose(found, _loops(x, w, d, 1e-3), rtol=1e-11, atol=1e-11)


def test_block_is_its_formula():
	rng = np.random.default_rng(1)
	x, w = rng.normal(size=(2, 6, 3)), rng.normal(size=(3, 3))
	w1, w2 = rng.normal(size=(5, 3)), rng.normal(size=(3, 5))
	h = _loops(x, w, 2, 1e-3) @ w1.T
	h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
	found = reference.block(*map(torch.from_numpy, (x, w, w1, w2)), 2, 0.3).numpy()
	np.testing.assert_allclose(found, x + 0.3 * h @ w2.T, rtol=1e-11, atol=1e-11)


def test_reference_can_be_differentiated_twice():
	g = torch.Generator().manual_seed(0)
	x = torch.randn(2, 5, 3, dtype=torch.float64, generator=g, requires_grad=True)
	w = torch.randn(3, 3, dtype=torch.float64, generator=g, requires_grad=True)
	assert torch.autograd.gradgradcheck(lambda x, w: reference.conv_norm(x, w, 2), (x, w))


BAD = {
	"two dimensions": (torch.zeros(4, 3), torch.zeros(3, 3), 1, r"x must have shape \(N, L, C\), got \(4, 3\)"),
	"two taps": (torch.zeros(1, 4, 3), torch.zeros(2, 3), 1, r"w must have shape \(3, C\), got \(2, 3\)"),
	"other channels": (torch.zeros(1, 4, 3), torch.zeros(3, 5), 1, r"3 channels.*\(1, 4, 3\).*5.*\(3, 5\)"),
	"integers": (torch.zeros(1, 4, 3, dtype=torch.int64), torch.zeros(3, 3), 1, "floating point.*int64"),
	"dilation 0": (torch.zeros(1, 4, 3), torch.zeros(3, 3), 0, "dilation must be at least 1, got 0"),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_wrong_arguments_are_named(case):
	x, w, d, message = BAD[case]
	with pytest.raises(ValueError, match=message):
		reference.conv_norm(x, w, d)
