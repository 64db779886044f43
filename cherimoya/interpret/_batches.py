"""What prediction and attribution share: the model's state while it runs, and arrays to batches."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch

from cherimoya.errors import InputError, SettingsError
from cherimoya.io.genome import one_hot

Array = np.ndarray | torch.Tensor
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@contextmanager
def evaluating(model: torch.nn.Module, device: str | torch.device | None) -> Iterator[torch.device]:
	"""Put the model in evaluation mode on `device` (None: where it is), and put back its place and modes after."""
	parameter = next(model.parameters(), None)
	home = torch.device("cpu") if parameter is None else parameter.device
	device = home if device is None else torch.device(device)
	modes = [(module, module.training) for module in model.modules()]
	model.eval()
	try:
		if device != home:
			model.to(device)
		yield device
	finally:
		if device != home:
			model.to(home)
		for module, mode in modes:
			module.training = mode


def autocast(device: torch.device, dtype: str | torch.dtype | None) -> AbstractContextManager:
	"""Autocast to bfloat16 or float16; nothing for None and float32."""
	name = "float32" if dtype is None else str(dtype).removeprefix("torch.")
	if name not in _DTYPES:
		raise SettingsError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype}")
	return nullcontext() if name == "float32" else torch.autocast(device.type, dtype=_DTYPES[name])


def parameter_dtype(model: torch.nn.Module) -> torch.dtype:
	"""The dtype of the model's weights, which its inputs take; float32 for a model without weights."""
	parameter = next(model.parameters(), None)
	return torch.float32 if parameter is None else parameter.dtype


def check_arrays(X: Array, X_ctl: Array | None) -> None:
	"""Refuse sequences that are neither one-hot nor base codes, and controls that do not fit them."""
	if not (X.ndim == 3 and X.shape[1] == 4) and not (X.ndim == 2 and _is_uint8(X)):
		raise InputError(
			f"X must be one-hot of shape (n, 4, L), or uint8 base codes of shape (n, L), "
			f"got shape {tuple(X.shape)} and dtype {X.dtype}"
		)
	if X_ctl is not None and (X_ctl.ndim != 3 or len(X_ctl) != len(X) or X_ctl.shape[-1] != X.shape[-1]):
		raise InputError(
			f"X_ctl must have shape (n, tracks, L) with the n = {len(X)} and L = {X.shape[-1]} of X, "
			f"got {tuple(X_ctl.shape)}; controls cover the whole input window"
		)


def to_tensor(x: Array) -> torch.Tensor:
	"""A tensor of an array; an array is copied, since torch warns of memory that it may not write (a memory map)."""
	return x if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x))


def to_batch(
	X: Array, X_ctl: Array | None, rows: slice, *, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None]:
	"""Some rows as one-hot (m, 4, L) and controls (m, tracks, L) on the device; base codes travel as bytes."""
	X_batch = to_tensor(X[rows]).to(device)
	if X_batch.ndim == 2:
		X_batch = one_hot(X_batch, dtype=dtype)  # (m, L) -> (m, 4, L)
	X_ctl_batch = None if X_ctl is None else to_tensor(X_ctl[rows]).to(device, dtype)
	return X_batch.to(dtype), X_ctl_batch


def _is_uint8(X: Array) -> bool:
	return X.dtype in (np.uint8, torch.uint8)
