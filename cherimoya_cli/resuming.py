"""What makes a run of ``fit`` the one that an interrupted one was: its settings, its files, and its seed."""

import json
from pathlib import Path
from typing import Any

from cherimoya.errors import InputError

# Settings that decide where results go and what is measured afterwards, but no step of training.
_BESIDE_TRAINING = frozenset({"name", "evaluate", "resume", "tensorboard", "test_chroms", "test_loci", "folds"})


def identity_of(settings: Any) -> dict[str, Any]:
	"""The settings that training depends on, files by their contents: the same for two runs that are the same.

	Parameters
	----------
	settings: FitSettings
		The settings, with a seed.

	Returns
	-------
	identity: dict
		Plain values by key; a file is ``{"content": "sha256:..."}``, or its URL.
	"""
	from cherimoya_cli.plan import INDIFFERENT
	from cherimoya_cli.settings import input_files

	left_out = INDIFFERENT | _BESIDE_TRAINING
	values = {key: value for key, value in settings.model_dump(mode="json").items() if key not in left_out}
	files: dict[str, list[str]] = {}
	for key, path in input_files(settings):
		files.setdefault(key, []).append(_content(path))
	return values | {key: contents for key, contents in files.items() if key not in left_out}


def _content(path: str) -> str:
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
