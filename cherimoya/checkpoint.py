"""Checkpoint files: written atomically, read without running anything that is in them.

A checkpoint is ``{"config": {constructor arguments}, "state_dict": {name: tensor}}`` in torch's zip format. Files of
the published releases 0.1.x to 0.3.x are read too; what they leave out is worked out from their weights.
"""

import contextlib
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cherimoya.errors import InputError, MissingFileError, join_problems

# Keys that any release has written to its config, with the constructor's name for each.
_CONFIG_KEYS = (
	"n_filters",
	"n_layers",
	"n_outputs",
	"n_control_tracks",
	"expansion",
	"residual_scale",
	"name",
	"trimming",
	"single_count_output",
	"verbose",
	"signal_groups",
	"profile_kernel_size",
)
_REQUIRED_KEYS = ("n_filters", "n_layers")
# How torch's files start: its zip format, and pickles, its format before 1.6.
_STARTS = (b"PK\x03\x04", b"\x80")
_LEARNED_LOSS_WEIGHTS = ("lw0", "lw1")


class Checkpoint(NamedTuple):
	"""What a checkpoint file holds.

	Attributes
	----------
	config: dict[str, Any]
		Constructor arguments, with ``profile_kernel_size`` read from the weights where the file does not record it.
	state_dict: dict[str, torch.Tensor]
		Weights on the CPU; ``lw0`` and ``lw1`` have one value a group.
	format: str
		Which releases write files like this one, such as ``"published release 0.2 or 0.3"``.
	"""

	config: dict[str, Any]
	state_dict: dict[str, torch.Tensor]
	format: str


def save_atomically(obj: Any, path: str | os.PathLike) -> None:
	"""torch.save to a temporary file in the same folder, flush it to disk, then rename it to its final name.

	Parameters
	----------
	obj: Any
		What torch.save takes.
	path: str or os.PathLike
		The file's final name.

	Raises
	------
	InputError
		If the folder does not exist or cannot be written to, or the disk is full. The temporary file is removed, and
		an earlier file of that name is left as it was.
	"""
	path = Path(path)
	temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
	try:
		with open(temporary, "wb") as file:  # in a container, a process that was killed often had this one's number
			torch.save(obj, file)
			file.flush()
			os.fsync(file.fileno())
		os.replace(temporary, path)
	except BaseException as error:
		with contextlib.suppress(OSError):
			temporary.unlink()
		# torch wraps what goes wrong while it writes its zip file in a RuntimeError.
		if isinstance(error, (OSError, RuntimeError)):
			raise InputError(
				f"{path}: cannot be written ({getattr(error, 'strerror', None) or error}); "
				"check that the folder exists, that you may write to it, and that the disk is not full"
			) from error
		raise
	_sync_folder(path.parent)


def save_checkpoint(path: str | os.PathLike, config: Mapping[str, Any], state_dict: Mapping[str, torch.Tensor]) -> None:
	"""Write a checkpoint atomically, its tensors on the CPU.

	Parameters
	----------
	path: str or os.PathLike
		The file's final name.
	config: Mapping[str, Any]
		Constructor arguments: numbers, strings, booleans, None, and lists of them.
	state_dict: Mapping[str, torch.Tensor]
		Weights by name.

	Raises
	------
	InputError
		If the file cannot be written.
	"""
	weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state_dict.items()}
	save_atomically({"config": dict(config), "state_dict": weights}, path)


def load_checkpoint(path: str | os.PathLike) -> Checkpoint:
	"""Read a checkpoint of this package, or of a published release since 0.1.0, on the CPU.

	Parameters
	----------
	path: str or os.PathLike
		A ``.torch`` file.

	Returns
	-------
	Checkpoint
		Its config, weights and format.

	Raises
	------
	MissingFileError
		If there is no such file.
	InputError
		If the file is not a checkpoint, is cut short, holds pickled code (which is not run), or has config keys that
		this version does not know.
	"""
	path = Path(path)
	contents = _read(path)
	if not isinstance(contents, dict) or not {"config", "state_dict"} <= contents.keys():
		keys = ", ".join(sorted(map(str, contents))) if isinstance(contents, dict) else ""
		found = f"a dictionary of {keys}" if keys else f"a {type(contents).__name__}"
		raise InputError(
			f"{path}: not a Cherimoya checkpoint: it holds {_shorten(found)} instead of 'config' and 'state_dict'; "
			"give a file written by Cherimoya.save"
		)
	config, state_dict = contents["config"], contents["state_dict"]
	problems = _config_problems(config) + _state_problems(state_dict)
	if problems:
		raise InputError(f"{path}: {join_problems(problems)}")
	config, state_dict, written_by = dict(config), dict(state_dict), _format(config)
	config.setdefault("profile_kernel_size", state_dict["fconv.weight"].shape[-1])
	# Release 0.1.x learned one weight for all outputs; each group starts from it here.
	n_groups = state_dict["linear.weight"].shape[0]
	for name in _LEARNED_LOSS_WEIGHTS:
		if name in state_dict and state_dict[name].shape == (1,):
			state_dict[name] = state_dict[name].expand(n_groups).clone()  # (1,) -> (G,)
	return Checkpoint(config, state_dict, written_by)


def check_state_dict(
	path: str | os.PathLike, expected: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]
) -> None:
	"""InputError, naming every tensor that is missing, unknown or of another shape than its config asks for."""
	problems = [f"the weights lack '{n}' of shape {tuple(t.shape)}" for n, t in expected.items() if n not in found]
	problems += [f"the weights hold '{n}', which this model does not have" for n in found if n not in expected]
	problems += [
		f"'{n}' has shape {tuple(found[n].shape)}, but the config asks for {tuple(t.shape)}"
		for n, t in expected.items()
		if n in found and found[n].shape != t.shape
	]
	if problems:
		raise InputError(
			f"{path}: the weights do not fit the config: {join_problems(problems)}; "
			"the file was altered or comes from another program, so save the model again"
		)


def _read(path: Path) -> Any:
	"""The file's contents by torch's restricted unpickler; InputError for whatever it will not read."""
	if not path.exists():
		raise MissingFileError(f"{path}: no such file; check the path of the model")
	if path.is_dir():
		raise InputError(f"{path}: a folder, not a checkpoint; give the model's .torch file")
	try:
		with open(path, "rb") as file:
			start = file.read(4)
		if not start.startswith(_STARTS):
			raise ValueError("it starts as neither a zip file nor a pickle")
		with warnings.catch_warnings():
			warnings.simplefilter("ignore")  # about pickles that torch did not write, which end in an error here
			return torch.load(path, map_location="cpu", weights_only=True)
	except PermissionError as error:
		raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
	except pickle.UnpicklingError as error:
		raise InputError(
			f"{path}: refused, because it holds pickled code or objects, and loading those could run anything; "
			"only files written by Cherimoya.save are read, so load it with the program that wrote it "
			"and save the model there"
		) from error
	except Exception as error:  # a damaged file may fail in any way: zip, pickle, index or decoding errors
		raise _unreadable(path, error) from error


def _format(config: Mapping[str, Any]) -> str:
	"""Which releases write a config of these keys: 0.2 added groups, and we the head's width."""
	if "profile_kernel_size" in config:
		return "format of this package"
	return "published release 0.2 or 0.3" if "signal_groups" in config else "published release 0.1"


def _unreadable(path: Path, error: Exception) -> InputError:
	"""The error for a file that is empty, cut short, or no torch file at all."""
	size = path.stat().st_size
	first = _shorten(str(error).strip().split("\n")[0]) or type(error).__name__
	return InputError(
		f"{path}: not a readable checkpoint ({size:,} bytes; {first}); "
		"it may be cut short or of another format, so copy or save it again"
	)


def _shorten(text: str, limit: int = 160) -> str:
	"""At most limit characters of a text."""
	return text if len(text) <= limit else text[: limit - 1] + "…"


def _config_problems(config: Any) -> list[str]:
	"""What is wrong with a config's keys."""
	if not isinstance(config, dict):
		return [f"'config' is a {type(config).__name__}, not a dictionary of constructor arguments"]
	problems = [f"its config lacks '{key}'" for key in _REQUIRED_KEYS if key not in config]
	unknown = [repr(key) for key in config if key not in _CONFIG_KEYS]
	if unknown:
		problems.append(
			f"its config has keys that this version does not know: {', '.join(unknown)}; "
			"it was probably written by a later version, so upgrade cherimoya"
		)
	return problems


def _state_problems(state_dict: Any) -> list[str]:
	"""What is wrong with a state_dict before a model is built from it."""
	if not isinstance(state_dict, dict):
		return [f"'state_dict' is a {type(state_dict).__name__}, not a dictionary of tensors"]
	wrong = [repr(name) for name, tensor in state_dict.items() if not isinstance(tensor, torch.Tensor)]
	if wrong:
		return [f"'state_dict' has entries that are no tensors: {', '.join(wrong)}"]
	needed = {"iconv.weight": 3, "fconv.weight": 3, "linear.weight": 2}
	return [
		f"the weights lack a '{name}' of {ndim} dimensions"
		for name, ndim in needed.items()
		if name not in state_dict or state_dict[name].ndim != ndim
	]


def _sync_folder(folder: Path) -> None:
	"""Make a rename last through a crash, on systems where a folder can be opened."""
	try:
		descriptor = os.open(folder, os.O_RDONLY)
	except OSError:
		return
	try:
		os.fsync(descriptor)
	except OSError:
		pass
	finally:
		os.close(descriptor)
