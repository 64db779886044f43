"""What ``fit`` and ``evaluate`` share: measuring a model and its baselines on splits, and the files of that."""

import hashlib
from dataclasses import replace
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
	from cherimoya.io import Accounting, Genome, Loci, Windows
	from cherimoya.io.parts import Spans
	from cherimoya.training import Baselines, Evaluation

PARTS = ("training", "validation", "test")
SIGNIFICANT = ("profile_pearson", "profile_jsd", "count_pearson", "count_spearman", "count_mse", "auroc")


class Split(NamedTuple):
	"""Loci to measure on.

	Attributes
	----------
	part: str
		"training", "validation", "test" or "chosen", as accounts name it.
	title: str
		Its name for people.
	chroms: list of str or None
		Chromosomes or regions; None takes all loci of the files.
	prefix: str
		Beginning of the files' names.
	loci: list of str
		The files of loci.
	"""

	part: str
	title: str
	chroms: list[str] | None
	prefix: str
	loci: list[str]


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


def split_of(settings: Any, part: str) -> Split:
	"""The training, validation or test split: files of its own, or the loci on its chromosomes."""
	own = getattr(settings, f"{part}_loci")
	title = f"{part.capitalize()} loci"
	prefix = settings.name if part != "test" else f"{settings.name}.test"
	if own is not None:
		return Split(part, title, None, prefix, own)
	return Split(part, title, getattr(settings, f"{part}_chroms"), prefix, settings.loci)


def splits_of(settings: Any) -> list[Split]:
	"""The splits to measure on: the chromosomes chosen, or else validation and (if there is one) test."""
	if getattr(settings, "chroms", None):
		return [Split("chosen", "Chosen loci", settings.chroms, settings.name, all_loci(settings))]
	splits = [split_of(settings, "validation")]
	if settings.test_loci if by_loci(settings) else settings.test_chroms:
		splits.append(split_of(settings, "test"))
	return splits


def by_loci(settings: Any) -> bool:
	"""Whether files of loci, rather than chromosomes, make the splits."""
	return settings.training_loci is not None


def all_loci(settings: Any) -> list[str]:
	"""The files of all loci: those of `loci`, else of every split."""
	if settings.loci is not None:
		return settings.loci
	files = (getattr(settings, f"{part}_loci") or [] for part in PARTS)
	return list(dict.fromkeys(path for part in files for path in part))


def open_genome(settings: Any) -> "Genome":
	"""The genome, with the names that other files may use for its chromosomes."""
	from cherimoya.io import Genome

	return Genome(settings.sequences, chrom_aliases=settings.chrom_aliases)


def part_spans(settings: Any, genome: "Genome") -> "dict[str, Spans]":
	"""The input windows of each split that is given by loci, those of training with their jitter."""
	from cherimoya.io import read_loci
	from cherimoya.io.parts import input_spans

	spans = {}
	for part in PARTS:
		files = getattr(settings, f"{part}_loci")
		if files is not None:
			spans[part] = input_spans(
				read_loci(files, summits=settings.summits).renamed(genome.names),
				settings.in_window,
				max_jitter=getattr(settings, "max_jitter", 0) if part == "training" else 0,
				summits=settings.summits,
			)
	return spans


def check_splits_apart(settings: Any, genome: "Genome | None" = None) -> None:
	"""InputError when input windows of loci of two splits overlap, unless that is allowed."""
	from cherimoya.io.parts import shared_windows

	if not by_loci(settings) or settings.allow_shared_windows:
		return
	spans = part_spans(settings, genome or open_genome(settings))
	problems = []
	for first, second, n, (one, other) in shared_windows(spans):
		problems.append(
			f"{', '.join(getattr(settings, f'{first}_loci'))}: {n:,} of {len(spans[first].starts):,} {first} windows "
			f"overlap a {second} window (first: {one} and {other}, of "
			f"{', '.join(getattr(settings, f'{second}_loci'))}); a base may be in one split only: move or remove those "
			"loci, or set allow_shared_windows to true"
		)
	if problems:
		raise InputError(join_problems(problems))


def background_of(settings: Any, split: Split, genome: "Genome") -> "tuple[Any, Loci | None]":
	"""The background loci of a split, and those that belong to no part of it by themselves.

	Where splits are made by chromosomes, all are given, and the chromosomes choose. Where they are given by loci, a
	background locus belongs to the split of the nearest locus; one whose window overlaps a locus, or a background
	locus, of another split belongs to none.

	Returns
	-------
	loci, others: Loci (or files), Loci or None
		The background of the split, and the rest.
	"""
	from cherimoya.io import read_loci
	from cherimoya.io.parts import divide, input_spans

	if not by_loci(settings) or split.part == "chosen":
		return settings.negatives, None
	loci = read_loci(settings.negatives).renamed(genome.names)
	parts = part_spans(settings, genome)
	owner = divide(input_spans(loci, settings.in_window), list(parts.values()), apart=not settings.allow_shared_windows)
	ours = owner == list(parts).index(split.part)
	return loci[ours], loci[~ours]


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


def read_peaks(settings: Any, split: Split) -> "Windows":
	"""The windows of the loci of a split, accounted for on the terminal; the bounds on counts apply."""
	return _read(
		settings,
		split.loci,
		split.chroms,
		title=split.title,
		summits=settings.summits,
		min_counts=settings.min_counts,
		max_counts=settings.max_counts,
	)


def read_training(settings: Any) -> "Windows":
	"""The windows of the training loci, outliers dropped as for training; there may be none."""
	split = split_of(settings, "training")
	return _read(
		settings,
		split.loci,
		split.chroms,
		title="Training loci, for the baselines",
		summits=settings.summits,
		min_counts=settings.min_counts,
		max_counts=settings.max_counts,
		drop_outliers=True,
		allow_empty=True,
	)


def read_negatives(settings: Any, split: Split) -> "Windows | None":
	"""The windows of the background loci of a split; None without background loci."""
	if settings.negatives is None:
		return None
	loci, others = background_of(settings, split, open_genome(settings))
	if len(loci) == 0:
		say(f"{split.title}: none of the {len(others):,} background loci belongs to this split")
		return None
	title = f"{split.title}: negatives"
	return _read(settings, loci, split.chroms, title=title, others=others, allow_empty=True)


def _read(
	settings: Any, loci: Any, chroms: list[str] | None, *, title: str, others: "Loci | None" = None, **options: Any
) -> "Windows":
	"""Windows without jitter, with signals and controls; `others` are accounted for as being in another split."""
	from cherimoya.io import extract_windows

	windows = extract_windows(
		loci,
		open_genome(settings),
		settings.signals,
		settings.controls,
		in_window=settings.in_window,
		out_window=settings.out_window,
		chroms=chroms,
		exclusion_lists=settings.exclusion_lists,
		absolute=settings.absolute_signals,
		verbose=settings.verbose,
		cache=settings.cache,
		progress=say if settings.verbose else None,
		**options,
	)
	if others is not None:
		windows = replace(windows, accounting=windows.accounting.with_others(others, "in another split"))
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

	background = negatives if negatives is not None and len(negatives) else None
	evaluation = evaluate(
		model,
		windows,
		background,
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
		baselines.evaluate(windows, background),
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
		"loci": list(split.loci),
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
