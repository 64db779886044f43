"""Fine-tuning: weights of a trained model for a new one, and parts of it that stay as they are."""

import os
import re
from collections.abc import Sequence

import torch
from torch import nn

from cherimoya.checkpoint import check_state_dict, load_checkpoint
from cherimoya.errors import InputError, SettingsError, join_problems

# What must be the same in both models, with what it is where a file does not say.
_SAME = {"n_filters": None, "n_layers": None, "expansion": 2, "residual_scale": 0.15}
_HEADS = {"profile_head": "fconv", "count_head": "linear"}
_BLOCKS = re.compile(r"blocks(?:\.(\d+)(?:-(\d+))?)?")


def init_from(model: nn.Module, path: str | os.PathLike) -> list[str]:
	"""Give a new model the weights of a checkpoint, of this package or of a published release since 0.1.0.

	The stem and the blocks are taken in any case. The profile head is taken if both models have the same groups of
	channels, control tracks and width of the head; the count head and the loss weights if they have the same groups,
	and both have controls or neither. A head that is not taken keeps the weights of the model. The windows may differ.

	Parameters
	----------
	model: cherimoya.Cherimoya
		Changed in place.
	path: str or path
		A ``.torch`` file.

	Returns
	-------
	new: list of str
		The heads that were not taken, each with the reason; empty if all weights come from the file.

	Raises
	------
	MissingFileError, InputError
		There is no such file, it is no checkpoint, or its shape is not the model's; the message says what to set.
	"""
	checkpoint = load_checkpoint(path)
	config, state = checkpoint[0], checkpoint[1]
	problems = [
		f"it has {key} {config.get(key, default)}, and the new model {getattr(model, key)}; "
		f"set {key} to {config.get(key, default)}"
		for key, default in _SAME.items()
		if config.get(key, default) != getattr(model, key)
	]
	if problems:
		raise InputError(f"{path}: cannot begin from this model: {join_problems(problems)}")
	ours = model.state_dict()
	shapes = {"groups": _groups(config, state), "controls": config.get("n_control_tracks", 0)}
	new = _new_heads(model, shapes, config["profile_kernel_size"])
	skipped = tuple(f"{_HEADS[head]}." for head in new) + (("lw",) if "count_head" in new else ())
	taken = {name: tensor.to(ours[name].dtype) for name, tensor in state.items() if not name.startswith(skipped)}
	expected = {name: tensor for name, tensor in ours.items() if not name.startswith(skipped)}
	check_state_dict(path, expected, taken)
	model.load_state_dict({**ours, **taken})
	return [f"the {head.replace('_', ' ')} is new: {reason}" for head, reason in new.items()]


def _groups(config: dict, state: dict[str, torch.Tensor]) -> list[int]:
	"""The groups of channels of a checkpoint; old files have one group, or one for each channel."""
	if config.get("signal_groups") is not None:
		return list(config["signal_groups"])
	n_outputs, n_groups = state["fconv.weight"].shape[0], state["linear.weight"].shape[0]
	return [n_outputs] if n_groups == 1 else [1] * n_groups


def _new_heads(model: nn.Module, theirs: dict, kernel: int) -> dict[str, str]:
	"""The heads whose weights are no use for the model, each with the reason."""
	groups, controls = list(model.signal_groups), model.n_control_tracks
	new = {}
	if theirs["groups"] != groups:
		return dict.fromkeys(_HEADS, f"the file's groups of signals are {theirs['groups']}, this model's {groups}")
	if theirs["controls"] != controls:
		new["profile_head"] = f"the file's model has {theirs['controls']} control tracks, this one {controls}"
	elif kernel != model.profile_kernel_size:
		new["profile_head"] = f"the file's profile_kernel_size is {kernel}, this model's {model.profile_kernel_size}"
	if bool(theirs["controls"]) != bool(controls):
		new["count_head"] = new["profile_head"]
	return new


def parameters_of(model: nn.Module, parts: Sequence[str]) -> list[nn.Parameter]:
	"""The parameters of some parts of a model.

	Parameters
	----------
	model: cherimoya.Cherimoya
		The model.
	parts: sequence of str
		``"stem"``, ``"blocks"``, one block (``"blocks.2"``), a range of them (``"blocks.0-3"``, both ends included),
		``"profile_head"`` or ``"count_head"``.

	Returns
	-------
	parameters: list of nn.Parameter
		Each once.

	Raises
	------
	SettingsError
		A part is unknown, or the model has no such block.
	"""
	prefixes, problems = [], []
	for part in parts:
		blocks = _BLOCKS.fullmatch(part)
		if part == "stem" or part in _HEADS:
			prefixes.append(_HEADS.get(part, "iconv") + ".")
		elif blocks is None:
			problems.append(
				f"freeze has '{part}', which is no part of the model; choose from stem, blocks, blocks.2, blocks.0-3, "
				"profile_head and count_head"
			)
		elif blocks[1] is None:
			prefixes.append("blocks.")
		else:
			first, last = int(blocks[1]), int(blocks[2] or blocks[1])
			if not first <= last < len(model.blocks):
				problems.append(f"freeze has '{part}', but the blocks are 0 to {len(model.blocks) - 1}")
			prefixes += [f"blocks.{i}." for i in range(first, last + 1)]
	if problems:
		raise SettingsError(join_problems(problems))
	return [parameter for name, parameter in model.named_parameters() if name.startswith(tuple(prefixes))]


def freeze(model: nn.Module, parts: Sequence[str] | None) -> None:
	"""Turn off the gradient of some parts of a model; SettingsError for unknown parts, or if nothing is left."""
	if not parts:
		return
	for parameter in parameters_of(model, parts):
		parameter.requires_grad_(False)
	left = [name for name, p in model.named_parameters() if p.requires_grad and not name.startswith("lw")]
	if not left:
		raise SettingsError(f"freeze is {list(parts)}, which is all of the model; leave out what is to be trained")
