"""``cherimoya fit``: train a model, then evaluate it on the held-out loci."""

import argparse
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cherimoya.errors import SettingsError
from cherimoya_cli.measuring import measure, read_negatives, read_peaks, splits_of, write
from cherimoya_cli.utils import resolve_device, say, settings_from_args, versions, write_json

if TYPE_CHECKING:
	import torch
	from torch.utils.data import DataLoader

	from cherimoya import Cherimoya
	from cherimoya.io import Windows
	from cherimoya.training import History


class Loaded(NamedTuple):
	"""A new model, what trains it, and what validates it."""

	model: "Cherimoya"
	training: "DataLoader"
	validation: "Windows"


def run(args: argparse.Namespace) -> int:
	"""Load loci, train, write a record, evaluate; returns the exit code."""
	settings = settings_from_args("fit", args)
	device = resolve_device(settings.device)
	settings = with_seed(settings)
	loaded = load(settings)
	history = train(loaded, settings, device)
	accounting = {
		"training": loaded.training.accounting["peaks"],
		"training_negatives": loaded.training.accounting["negatives"],
		"validation": loaded.validation.accounting,
	}
	if settings.evaluate:
		accounting |= evaluate(loaded, settings, device)
	write_json(f"{settings.name}.fit.record.json", record(loaded, history, accounting, settings, device))
	return 0


def with_seed(settings: Any) -> Any:
	"""The settings with a seed: their own, or one that is drawn and shown."""
	if settings.random_state is not None:
		return settings
	settings.random_state = secrets.randbits(31)
	say(f"random_state is null, so a seed was drawn: {settings.random_state}")
	return settings


def load(settings: Any) -> Loaded:
	"""The training and validation loci, accounted for on the terminal, and a model of their shape."""
	from cherimoya.io import Genome, PeakGenerator

	check_counts_per_track(settings)
	training = PeakGenerator(
		settings.loci,
		settings.negatives,
		Genome(settings.sequences, chrom_aliases=settings.chrom_aliases),
		settings.signals,
		settings.controls,
		chroms=settings.training_chroms,
		in_window=settings.in_window,
		out_window=settings.out_window,
		max_jitter=settings.max_jitter,
		negative_ratio=settings.negative_ratio,
		reverse_complement=settings.reverse_complement,
		min_counts=settings.min_counts,
		max_counts=settings.max_counts,
		summits=settings.summits,
		exclusion_lists=settings.exclusion_lists,
		random_state=settings.random_state,
		num_workers=settings.num_workers,
		batch_size=settings.batch_size,
		verbose=settings.verbose,
		absolute=settings.absolute_signals,
	)
	if settings.verbose:
		say(training.accounting["peaks"].table("Training loci"))
	if settings.verbose and training.negative_windows is not None:
		say(training.accounting["negatives"].table("Training negatives"))
	validation = read_peaks(settings, settings.validation_chroms, title="Validation loci")
	return Loaded(build_model(settings, training), training, validation)


def check_counts_per_track(settings: Any) -> None:
	"""SettingsError when strands of a pair, which are swapped together, are each to have a count of their own."""
	from cherimoya.io import parse_groups

	_, groups = parse_groups(settings.signals)
	if not settings.single_count_output and max(groups) > 1:
		raise SettingsError(
			f"{settings.source}: single_count_output is false, but signals has a group of {max(groups)} tracks, and "
			"the tracks of a group share one count; set single_count_output to true, or list each track by itself and "
			"set reverse_complement to false"
		)


def build_model(settings: Any, training: "DataLoader") -> "Cherimoya":
	"""A new model that turns in_window into out_window, with the channels of the data."""
	from cherimoya import Cherimoya

	return Cherimoya(
		n_filters=settings.n_filters,
		n_layers=settings.n_layers,
		n_control_tracks=training.n_control_tracks,
		expansion=settings.expansion,
		residual_scale=settings.residual_scale,
		name=Path(settings.name).name,
		trimming=(settings.in_window - settings.out_window) // 2,
		signal_groups=training.signal_groups,
		profile_kernel_size=settings.profile_kernel_size,
		random_state=settings.random_state,
	)


def train(loaded: Loaded, settings: Any, device: "torch.device") -> "History":
	"""Train the model in place; it ends with its best weights."""
	from cherimoya.training import fit

	return fit(
		loaded.model,
		loaded.training,
		loaded.validation,
		options=settings.training_options(),
		name=settings.name,
		device=device,
		progress=say if settings.verbose else None,
		bar=settings.verbose and sys.stderr.isatty(),
	)


def evaluate(loaded: Loaded, settings: Any, device: "torch.device") -> dict[str, Any]:
	"""Measure the best weights on validation and test loci, write the files, and account for the test loci."""
	from cherimoya.training import fit_baselines

	baselines = fit_baselines(loaded.training.peak_windows)
	accounting = {}
	for split in splits_of(settings):
		held_out = split.chroms is not settings.validation_chroms
		windows = read_peaks(settings, split.chroms, title=split.title) if held_out else loaded.validation
		negatives = read_negatives(settings, split.chroms, title=f"{split.title}: negatives")
		measured = measure(loaded.model, windows, negatives, baselines, settings, device)
		write(measured, split, settings, model_file=f"{settings.name}.torch")
		if held_out:
			accounting["test"] = windows.accounting
	return accounting


def record(
	loaded: Loaded, history: "History", accounting: dict[str, Any], settings: Any, device: "torch.device"
) -> dict[str, Any]:
	"""What was done, for the report and for doing it again."""
	model = loaded.model
	return {
		"accounting": {name: account.to_dict() for name, account in accounting.items()},
		"seed": settings.random_state,
		"device": str(device),
		"versions": versions(),
		"epochs": len(history.rows),
		"best_epoch": history.best_epoch,
		"best_score": history.best_score,
		"stopped_early": history.stopped_early,
		"steps": history.n_steps,
		"seconds": round(history.seconds, 3),
		"seconds_per_epoch": round(history.seconds / len(history.rows), 3),
		"n_parameters": sum(parameter.numel() for parameter in model.parameters()),
		"signal_groups": list(model.signal_groups),
		"n_control_tracks": model.n_control_tracks,
		"settings": settings.model_dump(mode="json"),
	}
