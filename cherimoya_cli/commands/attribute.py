"""``cherimoya attribute``: the contribution of each base to a prediction."""

import argparse
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

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
from cherimoya_cli.utils import resolve_device, say, settings_from_args, warn

if TYPE_CHECKING:
	from collections.abc import Mapping

	import numpy as np
	import torch

	from cherimoya.interpret import Attribution
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
	draw_seed(settings)
	check_outputs(settings, attribution_paths(settings))
	device = resolve_device(settings.device)
	loaded = load(settings, device)
	scores = compute(loaded, settings)
	write(loaded, scores, settings)
	return 0


def draw_seed(settings: Any) -> None:
	"""Put a seed into the settings when they leave it open and shuffles need one, and say it."""
	if settings.random_state is None and needs_shuffles(settings):
		settings.random_state = secrets.randbits(31)
		say(f"random_state is null, so a seed was drawn: {settings.random_state}")


def needs_shuffles(settings: Any) -> bool:
	"""Whether sequences are compared with shuffles of theirs."""
	return settings.algorithm != "saturation_mutagenesis" and settings.references == "shuffles"


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
	options = {
		"output": "profile" if settings.output == "profile" else "counts",
		"group": settings.group,
		"start": loaded.start,
		"end": loaded.end,
		"batch_size": settings.batch_size,
		"dtype": settings.dtype,
		"verbose": settings.verbose,
	}
	mutate = settings.algorithm == "saturation_mutagenesis"
	scores = (substitute if mutate else compare)(loaded, settings, options)
	check_finite(scores, "contributions", settings)
	return scores


def substitute(loaded: Loaded, settings: Any, options: "Mapping[str, Any]") -> "torch.Tensor":
	"""Scores by saturation mutagenesis."""
	from cherimoya.interpret.attribution import n_predictions, saturation_mutagenesis

	windows, start, end = loaded.windows, loaded.start, loaded.end
	passes = n_predictions(windows.codes, start=start, end=end)
	say(f"Saturation mutagenesis of {len(windows):,} loci, {end - start:,} bp each: {passes:,} predictions")
	progress = Progress("attribute") if settings.verbose else None
	return saturation_mutagenesis(loaded.model, windows.codes, windows.controls, progress=progress, **options)


def compare(loaded: Loaded, settings: Any, options: "Mapping[str, Any]") -> "torch.Tensor":
	"""Scores by DeepLIFT/SHAP or integrated gradients, with a warning where they do not add up."""
	windows = loaded.windows
	options = {
		**options,
		"references": None if needs_shuffles(settings) else "zeros",
		"n_shuffles": settings.n_shuffles,
		"random_state": settings.random_state or 0,
		"return_deltas": True,
		"progress": Progress("attribute", "pairs") if settings.verbose else None,
	}
	if settings.algorithm == "deep_lift_shap":
		from cherimoya.interpret.deep_lift_shap import deep_lift_shap as attribute
	else:
		from cherimoya.interpret.integrated_gradients import integrated_gradients as attribute

		options["n_steps"] = settings.n_steps
	title = "DeepLIFT/SHAP" if settings.algorithm == "deep_lift_shap" else "Integrated gradients"
	against = f"{settings.n_shuffles:,} shuffles each" if needs_shuffles(settings) else "zeros"
	say(f"{title} of {len(windows):,} loci, {loaded.end - loaded.start:,} bp each, against {against}")
	attribution = attribute(loaded.model, windows.codes, windows.controls, **options)
	check_deltas(attribution, settings)
	return attribution.scores


def check_deltas(attribution: "Attribution", settings: Any) -> None:
	"""Warn of pairs whose contributions miss the difference of the outputs by more than `warning_threshold`."""
	missed = int((attribution.deltas.abs() > settings.warning_threshold).sum())
	if missed:
		remedy = "a dtype of float32" if settings.algorithm == "deep_lift_shap" else "more n_steps, or deep_lift_shap,"
		warn(
			f"note: contributions miss the difference from a reference by more than warning_threshold "
			f"({settings.warning_threshold:g}) in {missed:,} of {attribution.deltas.numel():,} pairs, by "
			f"{attribution.completeness_error:.2g} at most (differences are "
			f"{float(attribution.differences.abs().mean()):.2g} on average); {remedy} may help"
		)


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
