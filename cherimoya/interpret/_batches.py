"""What prediction and attribution share: the model's state while it runs, sizes of batches, and arrays to batches."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import numpy as np
import torch

from cherimoya.errors import InputError, SettingsError
from cherimoya.io.genome import one_hot
from cherimoya.memory import available_memory

Array = np.ndarray | torch.Tensor
T = TypeVar("T")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# The largest batch that is chosen: a CPU gains nothing beyond it, and a GPU is long busy.
LARGEST_BATCH = {"cpu": 64, "cuda": 512}
# The share of free memory that a batch may take by its estimate: others use a CPU's memory too.
_SHARES = {"cpu": 0.25, "cuda": 0.8}
# What torch says besides its OutOfMemoryError: its CPU allocator on Linux and on Windows, cuBLAS, and Apple's GPU.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED", "out of memory")


@contextmanager
def evaluating(model: torch.nn.Module, device: str | torch.device | None) -> Iterator[torch.device]:
	"""Put the model in evaluation mode on `device` (None: where it is), and put back its place and modes after."""
	home = model_device(model)
	device = home if device is None else to_device(device)
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


def to_device(device: str | torch.device) -> torch.device:
	"""The device of that name; SettingsError if there is none."""
	try:
		place = torch.device(device)
	except RuntimeError:
		raise SettingsError(f'device must be "cpu", "cuda", "cuda:1" or "mps", got "{device}"') from None
	if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
		raise SettingsError(f'device is "{device}", but torch finds no such GPU here; give "cpu", or leave it out')
	return place


def model_device(model: torch.nn.Module) -> torch.device:
	"""The device of the model's weights; the CPU for a model without weights."""
	parameter = next(model.parameters(), None)
	return torch.device("cpu") if parameter is None else parameter.device


def parameter_dtype(model: torch.nn.Module) -> torch.dtype:
	"""The dtype of the model's weights, which its inputs take; float32 for a model without weights."""
	parameter = next(model.parameters(), None)
	return torch.float32 if parameter is None else parameter.dtype


def bytes_per_example(model: torch.nn.Module, length: int) -> int:
	"""Memory that one sequence takes in a forward pass without gradients, estimated from above.

	A block that runs module by module holds up to six tensors of (L, C), its input, what is before and after the
	normalization, and its output before and after the residual among them, and three of (L, H), its hidden layer
	around GELU; a profile head of width k holds the products of its taps, (L, T * k), twice. The sum is
	L * (4 + tracks + 6 * C + 3 * H + 2 * T * k) numbers. The fused paths hold half of it or less.

	Parameters
	----------
	model: torch.nn.Module
		A `Cherimoya`, or a module that holds one. For any other the width of its widest weight, eight times, is taken.
	length: int
		L, bp.

	Returns
	-------
	int
		Bytes.
	"""
	size = max(4, parameter_dtype(model).itemsize)
	for module in model.modules():
		if all(hasattr(module, name) for name in ("n_filters", "expansion", "n_outputs", "profile_kernel_size")):
			channels = 4 + module.n_control_tracks + (6 + 3 * module.expansion) * module.n_filters
			return size * length * (channels + 2 * module.n_outputs * module.profile_kernel_size)
	return size * length * 8 * max((max(p.shape[:2]) for p in model.parameters() if p.ndim > 1), default=4)


def choose_batch_size(
	model: torch.nn.Module, length: int, *, batch_size: int | None, device: torch.device, factor: float = 1.0
) -> int:
	"""The batch size that was asked for, or one that fits the memory that is free.

	Parameters
	----------
	model: torch.nn.Module
		The model, on `device`.
	length: int
		L, bp of a sequence.
	batch_size: int or None
		What was asked for; None to choose min(cap, share of the free memory / `bytes_per_example`): at most 64 on a
		CPU, of whose available memory a quarter may be used, and 512 on a GPU, of whose free memory 80 % may.
	device: torch.device
		Where the model runs.
	factor: float
		How many times as much as a forward pass a method holds for a sequence, such as 2 for a sequence and its
		reference. Default is 1.

	Returns
	-------
	int
		At least 1.

	Raises
	------
	SettingsError
		If the batch size that was asked for is not a whole number of at least 1.
	"""
	if batch_size is not None:
		if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
			raise SettingsError(
				f"batch_size must be a whole number of at least 1, or None to choose one, got {batch_size!r}"
			)
		return int(batch_size)
	kind = "cpu" if device.type == "cpu" else "cuda"
	free = free_memory(device)
	if free is None:
		return LARGEST_BATCH["cpu"]
	fitting = int(_SHARES[kind] * free / (factor * bytes_per_example(model, length)))
	return max(1, min(LARGEST_BATCH[kind], fitting))


def free_memory(device: torch.device) -> int | None:
	"""Bytes that are free on a device, with those that torch holds and does not use; None if unknown."""
	if device.type == "cuda":
		unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
		return torch.cuda.mem_get_info(device)[0] + unused
	return available_memory()


def in_batches(
	n: int, batch_size: int, compute: Callable[[slice], T], *, device: torch.device, what: str = "sequence"
) -> Iterator[tuple[slice, T]]:
	"""What `compute` gives for each batch of rows; one that does not fit in memory is halved, as are later ones.

	Parameters
	----------
	n: int
		Rows.
	batch_size: int
		Rows at a time, at first.
	compute: callable
		Takes a slice of rows.
	device: torch.device
		Where it runs.
	what: str
		What a row is, for the message. Default is "sequence".

	Yields
	------
	tuple[slice, T]
		The rows, and their result.

	Raises
	------
	InputError
		If a single row does not fit.
	"""
	first = 0
	while first < n:
		rows = slice(first, min(first + batch_size, n))
		result, failure = _attempt(compute, rows)
		if failure is None:
			yield rows, result
			first = rows.stop
			continue
		if device.type == "cuda":
			torch.cuda.empty_cache()
		if rows.stop - first == 1:
			raise InputError(
				f"{what} {first} alone does not fit in the memory of {device} ({failure}); give shorter sequences, "
				"free memory that other programs use, or run on another device"
			)
		batch_size = (rows.stop - first) // 2


def is_out_of_memory(error: BaseException) -> bool:
	"""Whether an error says that memory ran out, on whichever device."""
	if isinstance(error, torch.OutOfMemoryError | MemoryError):
		return True
	return isinstance(error, RuntimeError) and any(text in str(error) for text in _OUT_OF_MEMORY)


def check_arrays(X: Array, X_ctl: Array | None) -> None:
	"""Refuse sequences that are neither one-hot nor base codes, and controls that do not fit them."""
	for name, x in (("X", X), ("X_ctl", X_ctl)):
		# Arrays of files, such as those of h5py, are like NumPy's.
		if not hasattr(x, "ndim") and not (x is None and name == "X_ctl"):
			raise InputError(f"{name} must be an array or a tensor, got {type(x).__name__}; convert it first")
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


def _attempt(compute: Callable[[slice], T], rows: slice) -> tuple[T | None, str | None]:
	"""The result and None, or None and what was said when memory ran out.

	The error itself ends here: its traceback holds on to every tensor of the batch that failed.
	"""
	try:
		return compute(rows), None
	except (RuntimeError, MemoryError) as error:
		if not is_out_of_memory(error):
			raise
		return None, str(error).strip().split("\n")[0] or type(error).__name__
