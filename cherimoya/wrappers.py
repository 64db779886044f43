"""Views of a model that return the one tensor that attribution and design tools want.

Each wraps a model that takes ``(X, X_ctl=None)`` and returns (logits, log counts): a `Cherimoya` or a `ControlWrapper`.
"""

from typing import TYPE_CHECKING

import torch
from torch import nn

from cherimoya.groups import group_slices

if TYPE_CHECKING:
	from cherimoya.interpret._batches import Array
	from cherimoya.interpret.predict import Prediction


class View(nn.Module):
	"""What the wrappers share: a model, and prediction of many sequences batch by batch."""

	def __init__(self, model: nn.Module) -> None:
		super().__init__()
		self.model = model
		self.signal_groups = model.signal_groups

	def predict(
		self,
		X: "Array",
		X_ctl: "Array | None" = None,
		batch_size: int | None = None,
		device: str | torch.device | None = None,
		dtype: str | torch.dtype | None = None,
		verbose: bool = False,
	) -> "torch.Tensor | Prediction":
		"""What `forward` returns, of many sequences, on the CPU; see `Cherimoya.predict` for the parameters."""
		from cherimoya.interpret.predict import predict

		return predict(self, X, X_ctl, batch_size=batch_size, device=device, dtype=dtype, verbose=verbose)


class ControlWrapper(View):
	"""A model that fills in missing controls with zeros, and is otherwise the model.

	Parameters
	----------
	model: Cherimoya

	Attributes
	----------
	signal_groups: tuple[int, ...]
		The model's.
	n_control_tracks: int
		The model's.
	"""

	def __init__(self, model: nn.Module) -> None:
		super().__init__(model)
		self.n_control_tracks = model.n_control_tracks

	def forward(self, X: torch.Tensor, X_ctl: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
		"""Logits (N, T, out) and log counts (N, G) for X of shape (N, 4, L); X_ctl None stands for zeros."""
		if X_ctl is None and self.n_control_tracks:
			dtype = X.dtype if X.is_floating_point() else torch.float32
			X_ctl = torch.zeros(X.shape[0], self.n_control_tracks, X.shape[-1], dtype=dtype, device=X.device)
		return self.model(X, X_ctl)


class Product(nn.Module):
	"""The elementwise product of two tensors as a module, so that an attribution rule can be attached to it."""

	def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
		"""The product of two tensors of shapes that broadcast."""
		return left * right


class ProfileWrapper(View):
	"""One number for a profile: Σ softmax(v)·v, its centred logits v = logits − mean weighted by its probabilities.

	Parameters
	----------
	model: Cherimoya or ControlWrapper
	group: int or None
		Take this group's channels, flattened with their positions. None (default): all channels, as one.

	Raises
	------
	ValueError
		If there is no such group.
	"""

	def __init__(self, model: nn.Module, group: int | None = None) -> None:
		_check_group(model, group)
		super().__init__(model)
		self.group = group
		self._channels = slice(None) if group is None else group_slices(model.signal_groups)[group]
		self.softmax = nn.Softmax(dim=-1)
		self.product = Product()

	def forward(self, X: torch.Tensor, X_ctl: torch.Tensor | None = None) -> torch.Tensor:
		"""The value of each example, shape (N, 1), for X of shape (N, 4, L) and the model's controls X_ctl."""
		logits, _ = self.model(X, X_ctl)
		logits = logits[:, self._channels].flatten(1)  # (N, T, out) -> (N, T * out)
		logits = logits - logits.mean(dim=1, keepdim=True)
		return self.product(logits, self.softmax(logits)).sum(dim=1, keepdim=True)  # -> (N, 1)


class LogCountWrapper(View):
	"""The predicted log(1 + counts) alone.

	Parameters
	----------
	model: Cherimoya or ControlWrapper
	group: int or None
		Take this group. None (default): all.

	Raises
	------
	ValueError
		If there is no such group.
	"""

	def __init__(self, model: nn.Module, group: int | None = None) -> None:
		_check_group(model, group)
		super().__init__(model)
		self.group = group

	def forward(self, X: torch.Tensor, X_ctl: torch.Tensor | None = None) -> torch.Tensor:
		"""Log counts, (N, G), or (N, 1) of one group, for X of shape (N, 4, L) and the model's controls X_ctl."""
		_, log_counts = self.model(X, X_ctl)
		return log_counts if self.group is None else log_counts[:, self.group : self.group + 1]  # (N, G) -> (N, 1)


class ExpectedCountsWrapper(View):
	"""Expected reads at each position: a group's predicted count times the softmax over its channels and positions.

	Parameters
	----------
	model: Cherimoya or ControlWrapper
	"""

	def __init__(self, model: nn.Module) -> None:
		super().__init__(model)
		self.softmax = nn.Softmax(dim=-1)
		self.product = Product()

	def forward(self, X: torch.Tensor, X_ctl: torch.Tensor | None = None) -> torch.Tensor:
		"""Expected counts (N, T, out) for X (N, 4, L) and controls X_ctl; each group sums to expm1 of its log count."""
		logits, log_counts = self.model(X, X_ctl)
		expected = []
		for g, channels in enumerate(group_slices(self.signal_groups)):
			group = logits[:, channels]
			shares = self.softmax(group.flatten(1))  # (N, t, out) -> (N, t * out)
			counts = torch.expm1(log_counts[:, g : g + 1])  # (N, 1)
			expected.append(self.product(shares, counts).view(group.shape))
		return torch.cat(expected, dim=1)


def _check_group(model: nn.Module, group: int | None) -> None:
	"""ValueError unless group is None or one of the model's."""
	n_groups = len(model.signal_groups)
	if group is not None and not 0 <= group < n_groups:
		raise ValueError(
			f"group must be between 0 and {n_groups - 1}, the model's groups, or None for all, got {group}"
		)
