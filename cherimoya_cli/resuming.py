"""What a run of ``fit`` begins from: another model, or an interrupted run of the same settings, files and seed."""

import json
from pathlib import Path
from typing import Any

from cherimoya.errors import InputError

# Settings that decide where results go and what is measured afterwards, but no step of training.
_BESIDE_TRAINING = frozenset({"name", "evaluate", "resume", "tensorboard", "test_chroms", "test_loci", "folds"})


def check_beginning(settings: Any) -> None:
	"""Find out before any data are read whether init_from and freeze can be used.

	Parameters
	----------
	settings: FitSettings, or an object with its keys
		The settings.

	Raises
	------
	MissingFileError, InputError
		The model to begin from cannot be read, or has another shape.
	SettingsError
		A part that is to be frozen does not exist.
	"""
	if settings.init_from is None and settings.freeze is None:
		return
	from cherimoya import Cherimoya
	from cherimoya.training import init_from
	from cherimoya.training.transfer import freeze

	shape = {key: getattr(settings, key) for key in ("n_filters", "n_layers", "expansion", "residual_scale")}
	model = Cherimoya(**shape, random_state=0)
	if settings.init_from is not None:
		init_from(model, settings.init_from)
	freeze(model, settings.freeze)


def identity_of(settings: Any, *, left_out: frozenset[str] = _BESIDE_TRAINING) -> dict[str, Any]:
	"""The settings that results depend on, files by their contents: the same for two runs that are the same.

	Parameters
	----------
	settings: FitSettings
		The settings, with a seed.
	left_out: frozenset of str
		Settings that do not matter, besides those that never do. Default is what matters to no step of training.

	Returns
	-------
	identity: dict
		Plain values by key; a file is ``{"content": "sha256:..."}``, or its URL.
	"""
	from cherimoya_cli.plan import INDIFFERENT
	from cherimoya_cli.settings import input_files

	left_out = INDIFFERENT | left_out
	values = {key: value for key, value in settings.model_dump(mode="json").items() if key not in left_out}
	for key in {key for key, _ in input_files(settings)} - left_out:
		values[key] = _contents(values[key])
	return values


def _contents(value: Any) -> Any:
	"""A value with each path replaced by what its file holds; lists, which are groups of tracks, stay lists."""
	if isinstance(value, list):
		return [_contents(item) for item in value]
	return content_of(value) if isinstance(value, str) else value


def content_of(path: str) -> str:
	"""A text that stands for what a file holds, wherever it is."""
	from cherimoya.io._files import identify

	known = identify(path)
	if known is None:
		raise InputError(f"{path}: no such file any more; put it back")
	return f"sha256:{known['sha256']}" if "sha256" in known else known["url"]


def seed_to_go_on_with(settings: Any) -> int | None:
	"""The seed that an earlier run drew, if it was interrupted before its record was written; else None."""
	from cherimoya.training import state

	if not settings.resume or not Path(f"{settings.name}.checkpoint").exists():
		return None
	try:
		seed = state.read(f"{settings.name}.checkpoint")["identity"].get("random_state")
	except InputError:
		return None  # what is wrong with it is said when training begins
	return None if seed == _recorded_seed(settings.name) else seed


def _recorded_seed(name: str) -> int | None:
	"""The seed of the last run that was done with everything."""
	try:
		return json.loads(Path(f"{name}.fit.record.json").read_text(encoding="utf-8")).get("seed")
	except (OSError, ValueError, AttributeError):
		return None
