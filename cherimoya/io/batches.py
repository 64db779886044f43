"""Batches as they lie in memory, a byte a base and counts in few bytes, and their encoding where the model is.

An encoded batch of 64 examples of 2114 bp is 2.7 MB; the compact one is about a tenth of it, which is what has to move
from a process, or to a GPU.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from cherimoya.io.genome import one_hot

_TENSORS = ("sequences", "signals", "controls", "labels")


@dataclass(frozen=True)
class CompactBatch:
	"""m examples, reverse complemented where they are to be, before :func:`encode_batch`.

	Attributes
	----------
	sequences: torch.Tensor of uint8, shape=(m, in_window)
		Base codes, A, C, G, T = 0 to 3 and anything else no base; or one-hot of any type, shape=(m, 4, in_window).
	signals: torch.Tensor, shape=(m, T, out_window)
		Counts in the type that the windows have.
	controls: torch.Tensor, shape=(m, Tc, in_window), or None
	labels: torch.Tensor of int64, shape=(m,)
		1 for a peak, 0 for a negative.
	"""

	sequences: torch.Tensor
	signals: torch.Tensor
	controls: torch.Tensor | None
	labels: torch.Tensor

	def __len__(self) -> int:
		return len(self.labels)

	def __getitem__(self, index: slice) -> "CompactBatch":
		return self._with(lambda tensor: tensor[index])

	def to(self, device: str | torch.device, non_blocking: bool = True) -> "CompactBatch":
		"""The batch on another device; `non_blocking` as in ``torch.Tensor.to``, True by default."""
		return self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))

	def pin_memory(self) -> "CompactBatch":
		"""The batch in page-locked memory."""
		return self._with(torch.Tensor.pin_memory)

	def encode(self) -> tuple[torch.Tensor, ...]:
		"""See :func:`encode_batch`."""
		return encode_batch(self)

	def _with(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "CompactBatch":
		"""The batch with each of its tensors changed."""
		return replace(self, **{k: None if (v := getattr(self, k)) is None else change(v) for k in _TENSORS})

	@staticmethod
	def join(parts: "Sequence[CompactBatch]") -> "CompactBatch":
		"""Several batches of one data set, one after the other."""
		if len(parts) == 1:
			return parts[0]
		columns = {k: [getattr(part, k) for part in parts] for k in _TENSORS}
		return CompactBatch(**{k: None if v[0] is None else torch.cat(v) for k, v in columns.items()})


def encode_batch(batch: CompactBatch) -> tuple[torch.Tensor, ...]:
	"""The examples as a model takes them, on the device of the batch.

	Parameters
	----------
	batch: CompactBatch
		m examples.

	Returns
	-------
	tuple of torch.Tensor
		X, one-hot float32 of shape (m, 4, in_window); with controls X_ctl, float32 of shape (m, Tc, in_window); y,
		float32 of shape (m, T, out_window); and the labels.
	"""
	X = one_hot(batch.sequences) if batch.sequences.ndim == 2 else batch.sequences.float()  # (m, in) -> (m, 4, in)
	controls = () if batch.controls is None else (_as_float(batch.controls),)
	return X, *controls, _as_float(batch.signals), batch.labels


def _as_float(values: torch.Tensor) -> torch.Tensor:
	"""The values as float32; numpy converts small whole numbers several times as fast as torch does on a CPU."""
	if values.device.type != "cpu" or values.dtype not in (torch.uint8, torch.int16):
		return values.float()
	return torch.from_numpy(values.numpy().astype(np.float32))


def to_device(batch: "CompactBatch | Sequence[torch.Tensor]", device: str | torch.device) -> tuple[torch.Tensor, ...]:
	"""A batch of a loader on a device, encoded there if it is compact.

	Parameters
	----------
	batch: CompactBatch or sequence of torch.Tensor
		What the loader yields.
	device: str or torch.device
		The device.

	Returns
	-------
	tuple of torch.Tensor
		``(X, y, labels)``, or ``(X, X_ctl, y, labels)`` with controls: shapes (N, 4, in_window), (N, Tc, in_window),
		(N, T, out_window) and (N,).
	"""
	if isinstance(batch, CompactBatch):
		return batch.to(device).encode()
	return tuple(tensor.to(device, non_blocking=True) for tensor in batch)
