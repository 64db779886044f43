"""``cherimoya evaluate``: measure a trained model, beside baselines, on the held-out loci."""

import argparse
from typing import TYPE_CHECKING, Any, NamedTuple

from cherimoya_cli.inference import load_model, model_path
from cherimoya_cli.measuring import (
	Measured,
	Split,
	check_model_fits,
	measure,
	read_negatives,
	read_peaks,
	read_training,
	splits_of,
	write,
)
from cherimoya_cli.utils import resolve_device, say, settings_from_args

if TYPE_CHECKING:
	import torch

	from cherimoya import Cherimoya
	from cherimoya.io import Windows
	from cherimoya.training import Baselines


class Loaded(NamedTuple):
	"""A model, the loci of each split with their negatives, and the baselines."""

	model: "Cherimoya"
	splits: "list[tuple[Split, Windows, Windows | None]]"
	baselines: "Baselines | None"


def run(args: argparse.Namespace) -> int:
	"""Load a model and loci, measure, write; returns the exit code."""
	settings = settings_from_args("evaluate", args)
	device = resolve_device(settings.device)
	loaded = load(settings, device)
	for split, measured in compute(loaded, settings, device):
		write(measured, split, settings, model_file=model_path(settings))
	return 0


def load(settings: Any, device: "torch.device") -> Loaded:
	"""The model, the loci of every split, and the baselines fitted on the training loci; all checked."""
	from cherimoya.training import fit_baselines

	model = load_model(settings, device)
	check_model_fits(model, settings, source=model_path(settings))
	say(f"Evaluating {model_path(settings)} on {device}")
	splits = []
	for split in splits_of(settings):
		windows = read_peaks(settings, split.chroms, title=split.title)
		splits.append((split, windows, read_negatives(settings, split.chroms, title=f"{split.title}: negatives")))
	baselines = None
	if settings.baselines:
		training = read_training(settings)
		if len(training):
			baselines = fit_baselines(training)
		else:
			say("note: no baselines, because no locus is on training_chroms; set training_chroms to have them")
	return Loaded(model, splits, baselines)


def compute(loaded: Loaded, settings: Any, device: "torch.device") -> list[tuple[Split, Measured]]:
	"""The measures of every split."""
	return [
		(split, measure(loaded.model, windows, negatives, loaded.baselines, settings, device))
		for split, windows, negatives in loaded.splits
	]
