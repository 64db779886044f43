"""Muon over all matrices of one shape at once."""

from collections.abc import Callable
from typing import Any

import torch


def orthogonalize(
	updates: torch.Tensor, *, coefficients: tuple[float, float, float], steps: int, eps: float, dtype: torch.dtype
) -> torch.Tensor:
	"""Each matrix with its singular values brought near one, by Newton and Schulz's iteration.

	X starts as the matrix over its Frobenius norm, and becomes aX + (bXXᵀ + c(XXᵀ)²)X at every step.

	Parameters
	----------
	updates: torch.Tensor, shape=(k, m, n)
		One matrix for each of k parameters.
	coefficients: tuple of three floats
		a, b and c.
	steps: int
		Of the iteration.
	eps: float
		The least norm that a matrix is divided by.
	dtype: torch.dtype
		What the iteration is computed in.

	Returns
	-------
	torch.Tensor, shape=(k, m, n), of that dtype

	References
	----------
	Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
	"""
	a, b, c = coefficients
	tall = updates.shape[1] > updates.shape[2]
	X = (updates.transpose(1, 2) if tall else updates).to(dtype, copy=True)  # (k, m, n) with m <= n
	for matrix in X:
		matrix.div_(matrix.norm().clamp(min=eps))
	for _ in range(steps):
		gram = torch.bmm(X, X.transpose(1, 2))  # (k, m, n) -> (k, m, m)
		gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
		X = torch.baddbmm(X, gram, X, beta=a)  # -> (k, m, n)
	return X.transpose(1, 2) if tall else X


class Muon(torch.optim.Muon):
	"""`torch.optim.Muon`, with the matrices of one shape orthogonalised together instead of one by one.

	Its settings, its state and the steps it takes are those of `torch.optim.Muon`, except that on the CPU the
	iteration runs in float32: bfloat16, which torch takes everywhere, is slow there, and off by a hundredth.
	"""

	@torch.no_grad()
	def step(self, closure: Callable[[], Any] | None = None) -> Any:
		"""Take one step, of the parameters that have a gradient.

		Parameters
		----------
		closure: callable or None
			Computes the loss and the gradients, with gradients enabled. Default None: they are there.

		Returns
		-------
		What the closure returns, or None.
		"""
		loss = None
		if closure is not None:
			with torch.enable_grad():
				loss = closure()
		for group in self.param_groups:
			parameters: list[torch.Tensor] = []
			gradients: list[torch.Tensor] = []
			momenta: list[torch.Tensor] = []
			self._init_group(group, parameters, gradients, momenta)
			if parameters:
				_step(group, parameters, gradients, momenta)
		return loss


def _step(
	group: dict[str, Any],
	parameters: list[torch.Tensor],
	gradients: list[torch.Tensor],
	momenta: list[torch.Tensor],
) -> None:
	"""Move the momenta and the parameters of a group."""
	momentum, lr = group["momentum"], float(group["lr"])
	torch._foreach_lerp_(momenta, gradients, 1 - momentum)
	updates = torch._foreach_lerp(gradients, momenta, momentum) if group["nesterov"] else momenta
	torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
	alike: dict[tuple, list[int]] = {}
	for i, update in enumerate(updates):
		alike.setdefault((update.shape, update.device, update.dtype), []).append(i)
	for (shape, device, dtype), places in alike.items():
		orthogonal = orthogonalize(
			torch.stack([updates[i] for i in places]),
			coefficients=group["ns_coefficients"],
			steps=group["ns_steps"],
			eps=group["eps"],
			dtype=torch.promote_types(dtype, torch.float32) if device.type == "cpu" else torch.bfloat16,
		)
		rate = _rate(lr, group["adjust_lr_fn"], shape)
		torch._foreach_add_([parameters[i] for i in places], list(orthogonal.to(dtype)), alpha=-rate)


def _rate(lr: float, adjustment: str | None, shape: torch.Size) -> float:
	"""The rate of a matrix of a shape, for either of the adjustments that torch has."""
	rows, columns = shape
	if adjustment == "match_rms_adamw":
		return 0.2 * lr * max(rows, columns) ** 0.5
	return lr * max(1.0, rows / columns) ** 0.5
