"""``cherimoya fit``: train a model, then evaluate it on the held-out loci."""

import argparse
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cherimoya.errors import Interrupted, SettingsError
from cherimoya_cli.launching import as_rank, device_of_rank, is_launched, launch, quiet, resolve_devices
from cherimoya_cli.measuring import (
	accounting_path,
	background_of,
	check_splits_apart,
	measure,
	open_genome,
	read_negatives,
	read_peaks,
	split_of,
	splits_of,
	write,
	write_accounting,
)
from cherimoya_cli.resuming import check_beginning, identity_of, seed_to_go_on_with
from cherimoya_cli.stopping import OutOfTime, leave_signals_to_parent, stop_on_signals
from cherimoya_cli.utils import say, settings_from_args, versions, write_json

if TYPE_CHECKING:
	import torch
	from torch.utils.data import DataLoader

	from cherimoya import Cherimoya
	from cherimoya.io import Windows
	from cherimoya.training import History, Ranks


class Loaded(NamedTuple):
	"""A new model, what trains it, and what validates it."""

	model: "Cherimoya"
	training: "DataLoader"
	validation: "Windows"


def outputs(values: Mapping[str, Any]) -> list[str]:
	"""The files that the command leaves, from its settings: models, logs, record, account, and measures if wanted."""
	from cherimoya_cli.commands import evaluate

	name = values["name"]
	own = [f"{name}.{end}" for end in ("torch", "final.torch", "log", "detailed.log", "fit.record.json")]
	own.append(accounting_path(name, "fit"))
	if not values["evaluate"]:
		return own
	measured = evaluate.outputs({"chroms": None, "baselines": True, **values})
	return own + [path for path in measured if path != accounting_path(name, "evaluate")]


def run(args: argparse.Namespace) -> int:
	"""Load loci, train, write a record, evaluate; on several devices a process for each does; returns the exit code."""
	from cherimoya.training.distributed import ALONE, is_rank

	if is_rank():
		return as_rank(lambda ranks: run_rank(args, ranks))
	settings = settings_from_args("fit", args)
	devices = resolve_devices(settings)
	if len(devices) == 1:
		return train_as(ALONE, settings, devices[0])()
	check_board(settings)
	check_beginning(settings)
	return launch(["fit", *_arguments(args)], devices)


def _arguments(args: argparse.Namespace) -> list[str]:
	"""The arguments once more."""
	named = [] if args.parameters is None else ["-p", args.parameters]
	return [*named, *(word for text in args.overrides for word in ("--set", text))]


def run_rank(args: argparse.Namespace, ranks: "Ranks") -> Callable[[], int] | None:
	"""What this process, one of several, does; returns what is left for the first to do."""
	import torch

	with ranks.together(), quiet(is_launched()):  # the process that started this one has shown the notices
		settings = settings_from_args("fit", args)
		device = device_of_rank(settings, ranks.local_rank, ranks.local_size)
	if device.type == "cuda":
		torch.cuda.set_device(device)  # this process has no other
	return train_as(ranks, settings, device)


def train_as(ranks: "Ranks", settings: Any, device: "torch.device") -> Callable[[], int] | None:
	"""Load and train; returns what is left for the first rank to do when the others have gone."""
	with ranks.together():
		check_board(settings)
		check_beginning(settings)
		settings = with_seed(settings)
	settings.random_state = ranks.from_first(settings.random_state)
	with ranks.together():
		loaded = load(settings, compact=device.type != "cpu", ranks=ranks)
	history = train(loaded, settings, device, ranks)
	devices = ranks.gather(str(device))
	return partial(finish, loaded, history, settings, device, devices) if ranks.is_first else None


def finish(loaded: Loaded, history: "History", settings: Any, device: "torch.device", devices: Sequence[str]) -> int:
	"""Evaluate and write a record; returns the exit code."""
	accounting = {
		"training": loaded.training.accounting["peaks"],
		"training_negatives": loaded.training.accounting["negatives"],
		"validation": loaded.validation.accounting,
	}
	if settings.evaluate:
		accounting |= evaluate(loaded, settings, device)
	write_json(f"{settings.name}.fit.record.json", record(loaded, history, accounting, settings, devices))
	write_accounting(accounting_path(settings.name, "fit"), accounting)
	return 0


def with_seed(settings: Any) -> Any:
	"""The settings with a seed: their own, or one that is drawn and shown."""
	if settings.random_state is not None:
		return settings
	settings.random_state = seed_to_go_on_with(settings)
	if settings.random_state is not None:
		say(f"random_state is null; the seed of the run that was interrupted is taken: {settings.random_state}")
		return settings
	settings.random_state = secrets.randbits(31)
	say(f"random_state is null, so a seed was drawn: {settings.random_state}")
	return settings


def check_board(settings: Any) -> None:
	"""MissingExtraError, before any work, if TensorBoard is wanted and is not installed."""
	if settings.tensorboard:
		from cherimoya.training.monitor import summary_writer

		summary_writer()


def board_folder(settings: Any) -> str | None:
	"""The folder for TensorBoard, or None."""
	return f"{settings.name}.tensorboard" if settings.tensorboard is True else settings.tensorboard or None


def load(settings: Any, *, compact: bool, ranks: "Ranks") -> Loaded:
	"""The training and validation loci, accounted for on the terminal, and a model of their shape.

	Compact batches are encoded where the model is, so that less has to be copied to a GPU. Each of several ranks has
	its share of every batch.
	"""
	from cherimoya.io import PeakGenerator

	check_counts_per_track(settings)
	genome = open_genome(settings)
	check_splits_apart(settings, genome)
	split = split_of(settings, "training")
	negatives, others = background_of(settings, split, genome) if settings.negative_ratio > 0 else (None, None)
	training = PeakGenerator(
		split.loci,
		negatives,
		genome,
		settings.signals,
		settings.controls,
		chroms=split.chroms,
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
		cache=settings.cache,
		progress=say if settings.verbose else None,
		compact=compact,
		rank=ranks.rank,
		world_size=ranks.size,
	)
	training.worker_init_fn = leave_signals_to_parent
	if others is not None:
		training.accounting["negatives"] = training.accounting["negatives"].with_others(others, "in another split")
	if settings.verbose:
		say(training.accounting["peaks"].table("Training loci"))
	if settings.verbose and training.negative_windows is not None:
		say(training.accounting["negatives"].table("Training negatives"))
	validation = read_peaks(settings, split_of(settings, "validation"))
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
	"""A model that turns in_window into out_window, with the channels of the data; new, or begun from another."""
	from cherimoya import Cherimoya

	model = Cherimoya(
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
	if settings.init_from is not None:
		from cherimoya.training import init_from

		new = init_from(model, settings.init_from)
		say(f"The weights begin from {settings.init_from}" + "".join(f"\n  {text}" for text in new))
	return model


def train(loaded: Loaded, settings: Any, device: "torch.device", ranks: "Ranks") -> "History":
	"""Train the model in place; it ends with its best weights. Interrupted, with the state saved, on a signal."""
	from cherimoya.training import fit

	with stop_on_signals() as stop:
		try:
			history = fit(
				loaded.model,
				loaded.training,
				loaded.validation,
				options=settings.training_options(),
				name=settings.name,
				device=device,
				progress=say if settings.verbose else None,
				bar=settings.verbose and sys.stderr.isatty(),
				resume=settings.resume,
				identity=identity_of(settings),
				stop=stop,
				tensorboard=board_folder(settings),
				ranks=ranks,
			)
			if ranks.any(stop()):
				text = f"training is over ({settings.name}.checkpoint), and what follows is left"
				raise ranks.everywhere(Interrupted(text))
			return history
		except Interrupted as interrupted:
			interrupted.exit_code = stop.exit_code
			raise
		except OutOfTime:
			interrupted = Interrupted(f"training can go on from where it was last saved ({settings.name}.checkpoint)")
			interrupted.exit_code = stop.exit_code
			raise interrupted from None


def evaluate(loaded: Loaded, settings: Any, device: "torch.device") -> dict[str, Any]:
	"""Measure the best weights on validation and test loci, write the files, and account for the loci."""
	from cherimoya.training import fit_baselines

	baselines = fit_baselines(loaded.training.peak_windows)
	accounting = {}
	for split in splits_of(settings):
		windows = loaded.validation if split.part == "validation" else read_peaks(settings, split)
		negatives = read_negatives(settings, split)
		measured = measure(loaded.model, windows, negatives, baselines, settings, device)
		write(measured, split, settings, model_file=f"{settings.name}.torch")
		accounting[split.part] = windows.accounting
		if negatives is not None:
			accounting[f"{split.part}_negatives"] = negatives.accounting
	return accounting


def record(
	loaded: Loaded, history: "History", accounting: dict[str, Any], settings: Any, devices: Sequence[str]
) -> dict[str, Any]:
	"""What was done, for the report and for doing it again."""
	model = loaded.model
	return {
		"accounting": {name: account.to_dict() for name, account in accounting.items()},
		"seed": settings.random_state,
		"device": devices[0],
		"devices": list(devices),
		"versions": versions(),
		"epochs": len(history.rows),
		"best_epoch": history.best_epoch,
		"best_score": history.best_score,
		"stopped_early": history.stopped_early,
		"resumed_at": history.resumed_at,
		"steps": history.n_steps,
		"seconds": round(history.seconds, 3),
		"seconds_per_epoch": round(history.seconds / len(history.rows), 3),
		"n_parameters": sum(parameter.numel() for parameter in model.parameters()),
		"signal_groups": list(model.signal_groups),
		"n_control_tracks": model.n_control_tracks,
		"settings": settings.model_dump(mode="json"),
	}
