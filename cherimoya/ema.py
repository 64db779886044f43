"""Exponential moving average of a model's weights."""

from typing import Any

import torch
from torch import nn


class EMA:
	"""Shadow copies of a model's weights that follow them slowly: shadow = decay·shadow + (1 − decay)·weight.

	The copies cover the floating-point parameters that require a gradient when the object is made. Weights are swapped
	in place, through torch, so their version counters move and anything derived from them can notice.

	Parameters
	----------
	model: torch.nn.Module
	decay: float
		Between 0 and 1. Default 0.999.

	Attributes
	----------
	shadow: dict[str, torch.Tensor]
		The averages, by parameter name.
	"""

	def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
		_check_decay(decay)
		self.decay = decay
		self.shadow = {
			name: p.detach().clone()
			for name, p in model.named_parameters()
			if p.requires_grad and p.is_floating_point()
		}
		self._backup: dict[str, torch.Tensor] | None = None

	@torch.no_grad()
	def update(self, model: nn.Module, *, decay: float | None = None) -> None:
		"""Move the averages towards the model's present weights.

		Parameters
		----------
		model: torch.nn.Module
			The one this was made from.
		decay: float or None
			For this update alone, as a ramp needs it. None (default): the object's own.

		Raises
		------
		RuntimeError
			While the averages are swapped in: they would be averaged with themselves.
		"""
		if self._backup is not None:
			raise RuntimeError("EMA.update was called while the averages are in the model; call restore(model) first")
		if decay is not None:
			_check_decay(decay)
		weight = 1.0 - (self.decay if decay is None else decay)
		parameters = self._parameters(model)
		shadows = list(self.shadow.values())
		moved = [parameters[n].detach().to(device=s.device, dtype=s.dtype) for n, s in self.shadow.items()]
		if shadows:
			torch._foreach_lerp_(shadows, moved, weight)

	@torch.no_grad()
	def apply_shadow(self, model: nn.Module) -> None:
		"""Put the averages into the model and keep its own weights aside; RuntimeError if they already are."""
		if self._backup is not None:
			raise RuntimeError("EMA.apply_shadow was called twice; call restore(model) in between")
		parameters = self._parameters(model)
		self._backup = {name: p.detach().clone() for name, p in parameters.items()}
		for name, p in parameters.items():
			p.copy_(self.shadow[name])

	@torch.no_grad()
	def restore(self, model: nn.Module) -> None:
		"""Put the model's own weights back; RuntimeError if the averages are not in it."""
		if self._backup is None:
			raise RuntimeError("EMA.restore was called without apply_shadow")
		for name, p in self._parameters(model).items():
			p.copy_(self._backup[name])
		self._backup = None

	def state_dict(self) -> dict[str, Any]:
		"""The decay and the averages, as plain data that `load_state_dict` takes back."""
		return {"decay": self.decay, "shadow": {name: s.clone() for name, s in self.shadow.items()}}

	def load_state_dict(self, state: dict[str, Any]) -> None:
		"""Take the decay and the averages from `state_dict`; ValueError if they are of another model."""
		shadow = state["shadow"]
		if {n: s.shape for n, s in shadow.items()} != {n: s.shape for n, s in self.shadow.items()}:
			raise ValueError(
				"these averages belong to another model: names or shapes of its parameters differ; "
				"use the state saved with this model"
			)
		_check_decay(state["decay"])
		self.decay = state["decay"]
		for name, s in self.shadow.items():
			s.copy_(shadow[name])

	def _parameters(self, model: nn.Module) -> dict[str, nn.Parameter]:
		"""The model's parameters that have an average; ValueError if one is missing or has another shape."""
		parameters = {name: p for name, p in model.named_parameters() if name in self.shadow}
		wrong = [n for n, s in self.shadow.items() if n not in parameters or parameters[n].shape != s.shape]
		if wrong:
			raise ValueError(
				f"the model has no parameter of the averaged shape named {', '.join(wrong)}; "
				"use the model that this EMA was made from"
			)
		return parameters


def _check_decay(decay: float) -> None:
	"""ValueError unless decay is in [0, 1]."""
	if not 0 <= decay <= 1:
		raise ValueError(f"decay must be between 0 and 1, got {decay}")
