"""``cherimoya evaluate``: measure a trained model, beside baselines, on the held-out loci."""

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from cherimoya_cli.inference import load_model, model_path
from cherimoya_cli.measuring import (
	Measured,
	Split,
	accounting_path,
	check_model_fits,
	check_splits_apart,
	measure,
	read_negatives,
	read_peaks,
	read_training,
	splits_of,
	write,
	write_accounting,
)
from cherimoya_cli.utils import resolve_device, say, settings_from_args

if TYPE_CHECKING:
	import torch

	from cherimoya import Cherimoya
	from cherimoya.io import Accounting, Windows
	from cherimoya.training import Baselines


class Loaded(NamedTuple):
	"""A model, the loci of each split with their negatives, and the baselines."""

	model: "Cherimoya"
	splits: "list[tuple[Split, Windows, Windows | None]]"
	baselines: "Baselines | None"


def outputs(values: Mapping[str, Any]) -> list[str]:
	"""The files that the command leaves, from its settings: measures of each split, and the account."""
	stems = [values["name"]]
	if values["chroms"] is None and (values["test_chroms"] or values["test_loci"]):
		stems.append(f"{values['name']}.test")
	ends = ["performance.tsv", "performance.json", "evaluation.npz", *["baselines.tsv"] * values["baselines"]]
	return [*(f"{stem}.{end}" for stem in stems for end in ends), accounting_path(values["name"], "evaluate")]


def run(args: argparse.Namespace) -> int:
	"""Load a model and loci, measure, write; returns the exit code."""
	settings = settings_from_args("evaluate", args)
	device = resolve_device(settings.device)
	loaded = load(settings, device)
	for split, measured in compute(loaded, settings, device):
		write(measured, split, settings, model_file=model_path(settings))
	write_accounting(accounting_path(settings.name, "evaluate"), accounts(loaded))
	return 0


def load(settings: Any, device: "torch.device") -> Loaded:
	"""The model, the loci of every split, and the baselines fitted on the training loci; all checked."""
	from cherimoya.training import fit_baselines

	model = load_model(settings, device)
	check_model_fits(model, settings, source=model_path(settings))
	say(f"Evaluating {model_path(settings)} on {device}")
	check_splits_apart(settings)
	splits = [(s, read_peaks(settings, s), read_negatives(settings, s)) for s in splits_of(settings)]
	baselines = None
	if settings.baselines:
		training = read_training(settings)
		if len(training):
			baselines = fit_baselines(training)
		else:
			say("note: no baselines, because no training locus is left; mend training_chroms to have them")
	return Loaded(model, splits, baselines)


def accounts(loaded: Loaded) -> "dict[str, Accounting]":
	"""Where the loci of each split and its background went."""
	found = {}
	for split, windows, negatives in loaded.splits:
		found[split.part] = windows.accounting
		if negatives is not None:
			found[f"{split.part}_negatives"] = negatives.accounting
	return found


def compute(loaded: Loaded, settings: Any, device: "torch.device") -> list[tuple[Split, Measured]]:
	"""The measures of every split."""
	return [
		(split, measure(loaded.model, windows, negatives, loaded.baselines, settings, device))
		for split, windows, negatives in loaded.splits
	]
