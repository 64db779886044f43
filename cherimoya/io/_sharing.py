"""Arrays that several processes use without copying them."""

import mmap
import os
from typing import Any

import numpy as np
import torch

from cherimoya.errors import InputError


class SharedArray:
	"""An array that other processes get without its data: as the file it is mapped from, or in shared memory.

	A memory-mapped array, or a view of one, is sent to a process as its file's path and place. Any other array is held
	as a tensor, which torch's multiprocessing moves to shared memory when it is first sent.

	Attributes
	----------
	array: numpy.ndarray
	"""

	def __init__(self, source: Any) -> None:
		self._tensor = None
		if isinstance(source, np.ndarray) and _file_of(source) is not None:
			self.array = source.view(np.ndarray)
			return
		if isinstance(source, np.ndarray) and not source.flags.writeable:
			source = source.copy()  # tensors can be written to
		self._hold(torch.as_tensor(source).detach().cpu())

	def _hold(self, tensor: torch.Tensor) -> None:
		"""Keep a tensor; one of a type that numpy lacks becomes float32, which holds all its values."""
		self._tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
		self.array = self._tensor.numpy()

	def __getstate__(self) -> dict[str, Any]:
		if self._tensor is not None:
			return {"tensor": self._tensor}
		path, at = _file_of(self.array)
		return {
			"path": path,
			"at": at,
			"dtype": self.array.dtype,
			"shape": self.array.shape,
			"strides": self.array.strides,
		}

	def __setstate__(self, state: dict[str, Any]) -> None:
		self._tensor = None
		if "tensor" in state:
			self._hold(state["tensor"])
		else:
			self.array = _mapped_again(**state)


def _file_of(array: np.ndarray) -> tuple[str, int] | None:
	"""The file that the array is mapped from, and the offset there of its first element; None if it is not."""
	if not array.size:
		return None
	owner: Any = array
	while owner is not None and not (isinstance(owner, np.memmap) and owner.filename is not None):
		owner = getattr(owner, "base", None)
	if owner is None:
		return None
	# Views inherit the offset of the whole array, so the place is found by the address. Mappings start on a page.
	first = np.frombuffer(owner._mmap, dtype=np.uint8).__array_interface__["data"][0]
	start = owner.offset - owner.offset % mmap.ALLOCATIONGRANULARITY
	return os.path.abspath(owner.filename), start + array.__array_interface__["data"][0] - first


def _mapped_again(path: str, at: int, dtype: np.dtype, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
	"""The array of a place of a file, mapped read-only."""
	spans = [(n - 1) * stride for n, stride in zip(shape, strides, strict=True)]
	before = -sum(span for span in spans if span < 0)
	size = before + sum(span for span in spans if span > 0) + dtype.itemsize
	try:
		data = np.memmap(path, dtype=np.uint8, mode="r", offset=at - before, shape=(size,))
	except (OSError, ValueError) as error:
		raise InputError(
			f"{path}: the windows that a loading process needs cannot be opened ({error}); keep the cache while a run "
			"uses it, and start the run again"
		) from None
	return np.ndarray(shape, dtype, buffer=data, offset=before, strides=strides)
