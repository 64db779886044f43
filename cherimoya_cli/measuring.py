"""What ``fit`` and ``evaluate`` share: measuring a model and its baselines on splits, and the files of that."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cherimoya.errors import InputError, join_problems
from cherimoya_cli.inference import publish_together, save_arrays
from cherimoya_cli.utils import say, versions, write_json, write_text

if TYPE_CHECKING:
	from collections.abc import Mapping

	import numpy as np
	import torch

	from cherimoya import Cherimoya
	from cherimoya.io import Accounting, Windows
	from cherimoya.training import Baselines, Evaluation

SIGNIFICANT = ("profile_pearson", "profile_jsd", "count_pearson", "count_spearman", "count_mse", "auroc")


class Split(NamedTuple):
	"""Loci to measure on: a name for people, chromosomes or regions, and the prefix of the files."""

	title: str
	chroms: list[str] | None
	prefix: str


class Measured(NamedTuple):
	"""A split's loci and what the model and the baselines make of them."""

	windows: "Windows"
	negatives: "Windows | None"
	evaluation: "Evaluation"
	baseline_rows: list[dict[str, float]] | None
	baseline_log_counts: "np.ndarray | None"
	baseline_profile_pearson: "np.ndarray | None"


def accounting_path(name: str, step: str) -> str:
	"""The table of where the loci of a step went."""
	return f"{name}.{step}.accounting.tsv"


def write_accounting(path: str | Path, accounts: "Mapping[str, Accounting]") -> None:
	"""Write where the loci of each split went, whole or not at all.

	Parameters
	----------
	path: str or Path
		The file, tab-separated with the columns split, file ("all", then each of several files of loci), reason
		("given", the reasons of `cherimoya.io.windows.REASONS`, "kept") and count.
	accounts: mapping of str to Accounting
		The account of each split or set of loci, by its name.
	"""
	lines = ["split\tfile\treason\tcount"]
	for split, account in accounts.items():
		lines += [f"{split}\t{file}\t{reason}\t{count}" for file, reason, count in account.rows()]
	write_text(path, "\n".join(lines) + "\n")


def splits_of(settings: Any) -> list[Split]:
	"""The splits to measure on: the chromosomes chosen, or else validation and (if there is one) test."""
	if getattr(settings, "chroms", None):
		return [Split("Chosen loci", settings.chroms, settings.name)]
	splits = [Split("Validation loci", settings.validation_chroms, settings.name)]
	if settings.test_chroms:
		splits.append(Split("Test loci", settings.test_chroms, f"{settings.name}.test"))
	return splits


def check_model_fits(model: "Cherimoya", settings: Any, *, source: str) -> None:
	"""InputError, naming the model's file, unless the model fits the settings; reads no data."""
	from cherimoya.io import parse_groups
	from cherimoya.training import fit_problems

	_, groups = parse_groups(settings.signals)
	controls = parse_groups(settings.controls)[0] if settings.controls is not None else []
	problems = fit_problems(
		model,
		in_window=settings.in_window,
		out_window=settings.out_window,
		signal_groups=groups,
		n_controls=len(controls),
	)
	if problems:
		raise InputError(f"{source}: " + join_problems(problems))


def read_peaks(settings: Any, chroms: list[str] | None, *, title: str) -> "Windows":
	"""The windows of the loci of a split, accounted for on the terminal; the bounds on counts apply."""
	return _read(
		settings,
		settings.loci,
		chroms,
		title=title,
		summits=settings.summits,
		min_counts=settings.min_counts,
		max_counts=settings.max_counts,
	)


def read_training(settings: Any) -> "Windows":
	"""The windows of the training loci, outliers dropped as for training; there may be none."""
	return _read(
		settings,
		settings.loci,
		settings.training_chroms,
		title="Training loci, for the baselines",
		summits=settings.summits,
		min_counts=settings.min_counts,
		max_counts=settings.max_counts,
		drop_outliers=True,
		allow_empty=True,
	)


def read_negatives(settings: Any, chroms: list[str] | None, *, title: str) -> "Windows | None":
	"""The windows of the background loci of a split; None if there are none."""
	if settings.negatives is None:
		return None
	windows = _read(settings, settings.negatives, chroms, title=title, allow_empty=True)
	return windows if len(windows) else None


def _read(settings: Any, loci: Any, chroms: list[str] | None, *, title: str, **options: Any) -> "Windows":
	"""Windows without jitter, with signals and controls."""
	from cherimoya.io import Genome, extract_windows

	windows = extract_windows(
		loci,
		Genome(settings.sequences, chrom_aliases=settings.chrom_aliases),
		settings.signals,
		settings.controls,
		in_window=settings.in_window,
		out_window=settings.out_window,
		chroms=chroms,
		exclusion_lists=settings.exclusion_lists,
		absolute=settings.absolute_signals,
		verbose=settings.verbose,
		**options,
	)
	if settings.verbose:
		say(windows.accounting.table(title))
	return windows


def measure(
	model: "Cherimoya",
	windows: "Windows",
	negatives: "Windows | None",
	baselines: "Baselines | None",
	settings: Any,
	device: "torch.device",
) -> Measured:
	"""Measure a model and the baselines on the loci of a split."""
	from cherimoya.training import evaluate

	evaluation = evaluate(
		model,
		windows,
		negatives,
		batch_size=settings.batch_size,
		device=device,
		dtype=settings.dtype,
		reverse_complement_average=getattr(settings, "reverse_complement_average", False),
	)
	if baselines is None:
		return Measured(windows, negatives, evaluation, None, None, None)
	return Measured(
		windows,
		negatives,
		evaluation,
		baselines.evaluate(windows, negatives),
		baselines.log_counts(windows),
		baselines.profile_pearson(windows),
	)


def write(measured: Measured, split: Split, settings: Any, *, model_file: str) -> None:
	"""Write the files of a split, which appear together when all are complete, and show the measures."""
	from cherimoya.training import write_performance

	prefix = split.prefix
	paths = [f"{prefix}.performance.tsv", f"{prefix}.performance.json", f"{prefix}.evaluation.npz"]
	if measured.baseline_rows is not None:
		paths.append(f"{prefix}.baselines.tsv")
	with publish_together(paths) as temporary:
		write_performance(temporary[0], measured.evaluation.rows)
		write_json(temporary[1], _record(measured, split, settings, model_file))
		save_arrays(temporary[2], **_arrays(measured))
		if measured.baseline_rows is not None:
			write_performance(temporary[3], measured.baseline_rows)
	say(summary(measured, split))
	say(f"Wrote {', '.join(paths)}")


def summary(measured: Measured, split: Split) -> str:
	"""The measures that matter most, beside those of the baselines, as aligned text."""
	rows = measured.evaluation.rows
	several = len(rows) > 1
	lines = [f"{split.title}: {len(measured.windows):,}" + (" (by group of signals)" if several else "")]
	head = f"  {'measure':<16}" + (f"{'group':>7}" if several else "") + f"{'model':>10}"
	lines.append(head + (f"{'baseline':>10}" if measured.baseline_rows is not None else ""))
	for g, row in enumerate(rows):
		for name in SIGNIFICANT:
			if name not in row:
				continue
			line = f"  {name:<16}" + (f"{g:>7}" if several else "") + f"{row[name]:>10.4f}"
			lines.append(line + (f"{measured.baseline_rows[g][name]:>10.4f}" if measured.baseline_rows else ""))
	return "\n".join(lines)


def _record(measured: Measured, split: Split, settings: Any, model_file: str) -> dict[str, Any]:
	"""What is needed to make the measures again."""
	negatives = measured.negatives
	return {
		"split": split.title,
		"loci": list(settings.loci),
		"negatives": settings.negatives,
		"chroms": split.chroms,
		"accounting": {
			"loci": measured.windows.accounting.to_dict(),
			"negatives": None if negatives is None else negatives.accounting.to_dict(),
		},
		"n_loci": len(measured.windows),
		"n_negatives": 0 if negatives is None else len(negatives),
		"model": {"path": model_file, "sha256": sha256(model_file)},
		"signal_groups": list(measured.evaluation.signal_groups),
		"versions": versions(),
		"settings": settings.model_dump(mode="json"),
	}


def _arrays(measured: Measured) -> "dict[str, np.ndarray]":
	"""Per-locus numbers and the example profiles."""
	windows, evaluation = measured.windows, measured.evaluation
	starts = windows.midpoints - windows.out_window // 2
	arrays = {
		"chrom": windows.loci.chroms.astype(str),
		"start": starts,
		"end": starts + windows.out_window,
		"signal_groups": evaluation.signal_groups,
		"observed_counts": evaluation.observed_counts,
		"predicted_log_counts": evaluation.predicted_log_counts,
		"profile_pearson": evaluation.profile["profile_pearson"],
		"profile_jsd": evaluation.profile["profile_jsd"],
		"example_index": evaluation.example_index,
		"example_observed": evaluation.example_observed,
		"example_predicted": evaluation.example_predicted,
	}
	if evaluation.negative_observed_counts is not None:
		arrays["negative_observed_counts"] = evaluation.negative_observed_counts
		arrays["negative_predicted_log_counts"] = evaluation.negative_predicted_log_counts
	if measured.baseline_log_counts is not None:
		arrays["baseline_predicted_log_counts"] = measured.baseline_log_counts
		arrays["baseline_profile_pearson"] = measured.baseline_profile_pearson
	return arrays


def sha256(path: str) -> str:
	"""The SHA-256 of a file, in hexadecimal."""
	return hashlib.sha256(Path(path).read_bytes()).hexdigest()
