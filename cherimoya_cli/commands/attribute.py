"""``cherimoya attribute``: the contribution of each base to a prediction, by saturation mutagenesis."""

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from cherimoya.errors import SettingsError
from cherimoya_cli.inference import (
	Progress,
	check_finite,
	check_outputs,
	check_signals,
	load_model,
	load_windows,
	publish_together,
	save_arrays,
)
from cherimoya_cli.measuring import accounting_path, write_accounting
from cherimoya_cli.utils import resolve_device, say, settings_from_args

if TYPE_CHECKING:
	from collections.abc import Mapping

	import numpy as np
	import torch

	from cherimoya.io.windows import Windows


class Loaded(NamedTuple):
	"""What an attribution needs.

	Attributes
	----------
	model: torch.nn.Module
		Zeros stand in for missing controls.
	windows: Windows
		The n loci to score.
	mask: numpy.ndarray of bool, shape=(n_given,)
		Which of all loci given those are.
	start, end: int
		The scored positions within the input window.
	chrom_sizes: mapping of str to int
	"""

	model: "torch.nn.Module"
	windows: "Windows"
	mask: "np.ndarray"
	start: int
	end: int
	chrom_sizes: "Mapping[str, int]"


def attribution_paths(settings: Any) -> list[str]:
	"""The outputs: one-hot sequences, scores, mask, coordinates, the bigWig of contributions, and the account."""
	stem = f"{settings.name}.attributions"
	return [
		settings.ohe_filename or f"{stem}.ohe.npz",
		settings.attr_filename or f"{stem}.attr.npz",
		settings.idx_filename or f"{stem}.idxs.npy",
		f"{stem}.bed",
		f"{stem}.bw",
		accounting_path(settings.name, "attribute"),
	]


def run(args: argparse.Namespace) -> int:
	"""Load a model and windows, score every base, write; returns the exit code."""
	settings = settings_from_args("attribute", args)
	check_algorithm(settings)
	check_outputs(settings, attribution_paths(settings))
	device = resolve_device(settings.device)
	loaded = load(settings, device)
	scores = compute(loaded, settings)
	write(loaded, scores, settings)
	return 0


def check_algorithm(settings: Any) -> None:
	"""Refuse an algorithm that is declared for the sake of files of the published package, and is not there."""
	if settings.algorithm != "saturation_mutagenesis":
		raise SettingsError(
			f'{settings.source}: algorithm "{settings.algorithm}" is not available yet; set algorithm to '
			'"saturation_mutagenesis", which needs no reference sequences'
		)


def load(settings: Any, device: "torch.device") -> Loaded:
	"""The model, and the windows to score, checked against each other."""
	import numpy as np

	from cherimoya.interpret.attribution import check_group

	model = load_model(settings, device)
	check_signals(settings, model)
	check_group(model, settings.group)
	signals = settings.signals if settings.max_loci else None
	model, windows, genome = load_windows(settings, model, "Loci to attribute", signals=signals)

	mask = windows.mask.copy()
	if settings.max_loci is not None and settings.max_loci < len(windows):
		ranking = np.argsort(-strengths(model, windows, settings), kind="stable")
		rows = np.sort(ranking[: settings.max_loci])
		left_out = ranking[settings.max_loci :]
		mask[np.flatnonzero(mask)[left_out]] = False
		accounting = windows.accounting.without(windows.loci[left_out], "beyond max_loci")
		windows = replace(windows[rows], accounting=accounting)
		say(accounting.table(f"Loci to attribute, with max_loci {settings.max_loci:,}"))
	width = settings.attr_window or settings.in_window
	start = settings.in_window // 2 - width // 2  # both windows are [mid - w // 2, mid + (w + 1) // 2)
	return Loaded(model, windows, mask, start, start + width, genome.chrom_sizes)


def strengths(model: "torch.nn.Module", windows: "Windows", settings: Any) -> "np.ndarray":
	"""What `max_loci` ranks loci by, shape (n,): observed counts, or predicted ones without signals."""
	if windows.signals is not None:
		say(f"Keeping the {settings.max_loci:,} loci with the highest observed counts")
		return windows.counts().sum(axis=1)  # (n, G) -> (n,)
	from cherimoya.interpret.predict import predict

	say(f"Keeping the {settings.max_loci:,} loci with the highest predicted counts, as no signals are given")
	prediction = predict(
		model,
		windows.codes,
		windows.controls,
		batch_size=settings.batch_size,
		verbose=settings.verbose,
		progress=Progress("predict") if settings.verbose else None,
	)
	return prediction.log_counts.double().expm1().sum(dim=1).numpy()  # (n, G) -> (n,)


def compute(loaded: Loaded, settings: Any) -> "torch.Tensor":
	"""Hypothetical scores, shape (n, 4, attr_window)."""
	from cherimoya.interpret.attribution import n_predictions, saturation_mutagenesis

	windows, start, end = loaded.windows, loaded.start, loaded.end
	passes = n_predictions(windows.codes, start=start, end=end)
	say(f"Saturation mutagenesis of {len(windows):,} loci, {end - start:,} bp each: {passes:,} predictions")
	scores = saturation_mutagenesis(
		loaded.model,
		windows.codes,
		windows.controls,
		output="profile" if settings.output == "profile" else "counts",
		group=settings.group,
		start=start,
		end=end,
		batch_size=settings.batch_size,
		dtype=settings.dtype,
		verbose=settings.verbose,
		progress=Progress("attribute") if settings.verbose else None,
	)
	check_finite(scores, "contributions", settings)
	return scores


def write(loaded: Loaded, scores: "torch.Tensor", settings: Any) -> None:
	"""Sequences, scores, mask, coordinates and the bigWig, which appear together when all are complete."""
	import numpy as np
	import torch

	from cherimoya.interpret.attribution import projected_contributions
	from cherimoya.io.genome import one_hot
	from cherimoya.io.loci import write_bed
	from cherimoya.io.tracks import write_bigwig

	windows, start, end = loaded.windows, loaded.start, loaded.end
	bases = one_hot(windows.codes[:, start:end], dtype=torch.int8)  # (n, W) -> (n, 4, end - start)
	chroms = windows.loci.chroms
	starts = windows.midpoints - settings.in_window // 2 + start
	paths = attribution_paths(settings)
	with publish_together(paths) as (ohe_path, attr_path, mask_path, bed_path, bigwig_path, table_path):
		write_accounting(table_path, {"loci": windows.accounting})
		save_arrays(ohe_path, bases.numpy())
		save_arrays(attr_path, scores.numpy())
		with open(mask_path, "wb") as file:
			np.save(file, loaded.mask)
		write_bed(bed_path, chroms, starts, starts + (end - start))
		contributions = projected_contributions(scores, bases)
		write_bigwig(bigwig_path, loaded.chrom_sizes, chroms, starts, contributions.numpy())
	say(f"Wrote contributions at {len(windows):,} loci to {', '.join(paths)}")
