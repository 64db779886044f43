"""``cherimoya attribute``: the contribution of each base to a prediction."""

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from cherimoya_cli.chunks import (
	Parts,
	Shard,
	Stream,
	add_chunk_arguments,
	at_work,
	blocks,
	chunk_flags,
	chunk_length,
	draw_seed,
	identity_of_results,
	save_streams,
	stopping_soon,
	work_through,
)
from cherimoya_cli.inference import (
	Progress,
	check_finite,
	check_outputs,
	check_signals,
	load_model,
	load_windows,
	publish_together,
)
from cherimoya_cli.measuring import accounting_path, write_accounting
from cherimoya_cli.utils import resolve_device, say, settings_from_args, warn

if TYPE_CHECKING:
	from collections.abc import Callable, Iterator, Mapping

	import numpy as np
	import torch

	from cherimoya.io.windows import Accounting, Windows


_OF_REFERENCES = frozenset({"references", "n_shuffles", "random_state", "n_steps"})
_BLOCK = 1024  # sequences that are written at a time


class Loaded(NamedTuple):
	"""What an attribution reads.

	Attributes
	----------
	model: torch.nn.Module
		Zeros stand in for missing controls.
	windows: Windows
		The loci that could be scored; with signals if they are to be ranked by them.
	chrom_sizes: mapping of str to int
	"""

	model: "torch.nn.Module"
	windows: "Windows"
	chrom_sizes: "Mapping[str, int]"


class Chosen(NamedTuple):
	"""The n loci to score.

	Attributes
	----------
	windows: Windows
		These and others.
	rows: numpy.ndarray of int, shape=(n,)
		Which of the windows they are.
	mask: numpy.ndarray of bool, shape=(n_given,)
		Which of all loci given they are.
	accounting: Accounting
	start, end: int
		The scored positions within the input window.
	"""

	windows: "Windows"
	rows: "np.ndarray"
	mask: "np.ndarray"
	accounting: "Accounting"
	start: int
	end: int

	def __len__(self) -> int:
		return len(self.rows)

	def codes(self, rows: "range | slice") -> "np.ndarray":
		"""Base codes of some of them, shape (m, in_window); a copy."""
		return self.windows.codes[self.rows[rows.start : rows.stop]]

	def controls(self, rows: range) -> "np.ndarray | None":
		"""Controls of some of them, shape (m, tracks, in_window); a copy, or None."""
		controls = self.windows.controls
		return None if controls is None else controls[self.rows[rows.start : rows.stop]]


def outputs(values: "Mapping[str, Any]") -> list[str]:
	"""The files that the command leaves, from its settings.

	One-hot sequences, scores, mask, coordinates, the bigWig of contributions, and the account.
	"""
	stem = f"{values['name']}.attributions"
	return [
		values["ohe_filename"] or f"{stem}.ohe.npz",
		values["attr_filename"] or f"{stem}.attr.npz",
		values["idx_filename"] or f"{stem}.idxs.npy",
		f"{stem}.bed",
		f"{stem}.bw",
		accounting_path(values["name"], "attribute"),
	]


def add_arguments(parser: argparse.ArgumentParser) -> None:
	"""The flags of the command."""
	add_chunk_arguments(parser, "attribute")


def run(args: argparse.Namespace) -> int:
	"""Load a model and windows, score every base in chunks, write; returns the exit code."""
	settings = settings_from_args("attribute", args, flags=chunk_flags(args))
	folder = f"{settings.name}.attributions.parts"
	if needs_shuffles(settings):
		draw_seed(settings, folder, merge=args.merge)
	check_outputs(settings, outputs(vars(settings)))
	device = resolve_device(settings.device)
	loaded = load(settings, device)
	parts = Parts(folder, "attribute", identity(loaded, settings), device)
	shard, unit = Shard.of(settings.shard), sequences_at_a_time(settings)
	n = min(len(loaded.windows), settings.max_loci or len(loaded.windows))
	with at_work(parts, shard, merge=args.merge):
		rows = shard.rows(n, unit)
		if args.merge:
			parts.check_whole(n, unit)
		else:
			parts.take_over(settings.resume, rows, alone=shard.count == 1)
		chosen = choose(loaded, parts, settings)
		if not args.merge:
			compute(loaded.model, chosen, parts, rows, settings)
			if shard.count > 1:
				say(f"Shard {shard}: {len(rows):,} of {n:,} loci are scored; once all are, run with --merge")
				return 0
		check_deltas(parts, n, settings)
		write(chosen, loaded.chrom_sizes, parts, settings)
		parts.clear()
	return 0


def needs_shuffles(settings: Any) -> bool:
	"""Whether sequences are compared with shuffles of theirs."""
	return settings.algorithm != "saturation_mutagenesis" and settings.references == "shuffles"


def load(settings: Any, device: "torch.device") -> Loaded:
	"""The model, and the windows that could be scored, checked against each other."""
	from cherimoya.interpret.attribution import check_group

	model = load_model(settings, device)
	check_signals(settings, model)
	check_group(model, settings.group)
	signals = settings.signals if settings.max_loci else None
	model, windows, genome = load_windows(settings, model, "Loci to attribute", signals=signals)
	return Loaded(model, windows, genome.chrom_sizes)


def identity(loaded: Loaded, settings: Any) -> dict[str, Any]:
	"""All that decides the results."""
	unused = _OF_REFERENCES if settings.algorithm == "saturation_mutagenesis" else frozenset()
	if not settings.max_loci:
		unused |= {"signals"}
	return identity_of_results(settings, loaded.windows, unused=unused)


def choose(loaded: Loaded, parts: Parts, settings: Any) -> Chosen:
	"""The loci to score: all, or the strongest, which are the same for all shards."""
	import numpy as np

	windows = loaded.windows
	rows, mask, accounting = np.arange(len(windows)), windows.mask, windows.accounting
	if settings.max_loci is not None and settings.max_loci < len(windows):
		rows = parts.ranking(lambda: strongest(loaded, settings))
		mask = mask.copy()
		left_out = np.setdiff1d(np.arange(len(windows)), rows)
		mask[np.flatnonzero(mask)[left_out]] = False
		accounting = accounting.without(windows.loci[left_out], "beyond max_loci")
		say(accounting.table(f"Loci to attribute, with max_loci {settings.max_loci:,}"))
	width = settings.attr_window or settings.in_window
	start = settings.in_window // 2 - width // 2  # both windows are [mid - w // 2, mid + (w + 1) // 2)
	return Chosen(replace(windows, signals=None), rows, mask, accounting, start, start + width)


def strongest(loaded: Loaded, settings: Any) -> "np.ndarray":
	"""The rows of the `max_loci` strongest windows, in order."""
	import numpy as np

	ranking = np.argsort(-strengths(loaded, settings), kind="stable")
	return np.sort(ranking[: settings.max_loci])


def strengths(loaded: Loaded, settings: Any) -> "np.ndarray":
	"""What `max_loci` ranks loci by, shape (n,): observed counts, or predicted ones without signals."""
	model, windows, _ = loaded
	if windows.signals is not None:
		say(f"Keeping the {settings.max_loci:,} loci with the highest observed counts")
		return windows.counts().sum(axis=1)  # (n, G) -> (n,)
	from cherimoya.interpret.predict import predict
	from cherimoya.wrappers import LogCountWrapper

	say(f"Keeping the {settings.max_loci:,} loci with the highest predicted counts, as no signals are given")
	options = {"batch_size": settings.batch_size, "dtype": settings.dtype}
	log_counts = stopping_soon(
		lambda advance: predict(LogCountWrapper(model), windows.codes, windows.controls, progress=advance, **options),
		Progress("rank") if settings.verbose else None,
		len(windows),
	)
	check_finite(log_counts, "predicted counts", settings)
	return log_counts.double().expm1().sum(dim=1).numpy()  # (n, G) -> (n,)


def sequences_at_a_time(settings: Any) -> int:
	"""How many neighbouring loci share batches, so that a chunk is to hold all of them."""
	if settings.algorithm != "saturation_mutagenesis":
		return 1
	from cherimoya.interpret.attribution import sequences_per_block

	return sequences_per_block(settings.batch_size, start=0, end=settings.attr_window or settings.in_window)


def compute(model: "torch.nn.Module", chosen: Chosen, parts: Parts, rows: range, settings: Any) -> None:
	"""Leave parts with the hypothetical scores, (m, 4, attr_window), of some of the loci."""
	options = {
		"output": "profile" if settings.output == "profile" else "counts",
		"group": settings.group,
		"start": chosen.start,
		"end": chosen.end,
		"batch_size": settings.batch_size,
		"dtype": settings.dtype,
	}
	mutate = settings.algorithm == "saturation_mutagenesis"
	work = (substitute if mutate else compare)(model, chosen, rows, settings, options)
	progress = Progress("attribute", "predictions" if mutate else "pairs") if settings.verbose else None
	n_bytes = 16 * (chosen.end - chosen.start)
	unit = sequences_at_a_time(settings)
	length = chunk_length(settings.chunk_size, unit, passes=work.passes, n_bytes=n_bytes)
	work_through(parts, rows, length, work.compute, count=work.count, progress=progress)


class Work(NamedTuple):
	"""An algorithm on its loci: the arrays of some, what it counts to for them, and the passes that a locus takes."""

	compute: "Callable[[range, Callable[[int, int], None]], dict[str, np.ndarray]]"
	count: "Callable[[range], int]"
	passes: int


def substitute(
	model: "torch.nn.Module", chosen: Chosen, rows: range, settings: Any, options: "Mapping[str, Any]"
) -> Work:
	"""Saturation mutagenesis."""
	from cherimoya.interpret.attribution import n_predictions, saturation_mutagenesis

	def compute_some(rows: range, advance: "Callable[[int, int], None]") -> "dict[str, np.ndarray]":
		codes, controls = chosen.codes(rows), chosen.controls(rows)
		scores = saturation_mutagenesis(model, codes, controls, progress=advance, **options)
		check_finite(scores, "contributions", settings)
		return {"scores": scores.numpy()}

	def count(rows: range) -> int:
		places = (range(rows.start + at.start, rows.start + at.stop) for at in blocks(len(rows), _BLOCK))
		return sum(n_predictions(chosen.codes(some), start=chosen.start, end=chosen.end) for some in places)

	width = chosen.end - chosen.start
	say(f"Saturation mutagenesis of {len(rows):,} loci, {width:,} bp each: {count(rows):,} predictions")
	return Work(compute_some, count, 1 + 3 * width)


def compare(model: "torch.nn.Module", chosen: Chosen, rows: range, settings: Any, options: "Mapping[str, Any]") -> Work:
	"""DeepLIFT/SHAP or integrated gradients."""
	n_references = settings.n_shuffles if needs_shuffles(settings) else 1
	options = {
		**options,
		"references": None if needs_shuffles(settings) else "zeros",
		"n_shuffles": settings.n_shuffles,
		"random_state": settings.random_state or 0,
		"return_deltas": True,
	}
	if settings.algorithm == "deep_lift_shap":
		from cherimoya.interpret.deep_lift_shap import deep_lift_shap as attribute

		passes = 2 * n_references
	else:
		from cherimoya.interpret.integrated_gradients import integrated_gradients as attribute

		options["n_steps"] = settings.n_steps
		passes = 3 * settings.n_steps * n_references

	def compute_some(rows: range, advance: "Callable[[int, int], None]") -> "dict[str, np.ndarray]":
		found = attribute(model, chosen.codes(rows), chosen.controls(rows), progress=advance, **options)
		check_finite(found.scores, "contributions", settings)
		return {name: array.numpy() for name, array in found._asdict().items()}

	title = "DeepLIFT/SHAP" if settings.algorithm == "deep_lift_shap" else "Integrated gradients"
	against = f"{settings.n_shuffles:,} shuffles each" if needs_shuffles(settings) else "zeros"
	say(f"{title} of {len(rows):,} loci, {chosen.end - chosen.start:,} bp each, against {against}")
	return Work(compute_some, lambda rows: len(rows) * n_references, passes)


def check_deltas(parts: Parts, n: int, settings: Any) -> None:
	"""Warn of pairs whose contributions miss the difference of the outputs by more than `warning_threshold`."""
	import numpy as np

	if settings.algorithm == "saturation_mutagenesis":
		return
	missed = n_pairs = 0
	largest = total = 0.0
	for _, (deltas, differences) in parts.read(n, "deltas", "differences"):
		missed += int((np.abs(deltas) > settings.warning_threshold).sum())
		n_pairs += deltas.size
		largest = max(largest, float(np.abs(deltas).max()))
		total += float(np.abs(differences).sum())
	if missed:
		remedy = "a dtype of float32" if settings.algorithm == "deep_lift_shap" else "more n_steps, or deep_lift_shap,"
		warn(
			f"note: contributions miss the difference from a reference by more than warning_threshold "
			f"({settings.warning_threshold:g}) in {missed:,} of {n_pairs:,} pairs, by {largest:.2g} at most "
			f"(differences are {total / n_pairs:.2g} on average); {remedy} may help"
		)


def write(chosen: Chosen, chrom_sizes: "Mapping[str, int]", parts: Parts, settings: Any) -> None:
	"""Sequences, scores, mask, coordinates and the bigWig, which appear together when all are complete."""
	import numpy as np

	from cherimoya.io.loci import write_bed
	from cherimoya.io.tracks import write_bigwig

	n, width = len(chosen), chosen.end - chosen.start
	chroms = chosen.windows.loci.chroms[chosen.rows]
	starts = chosen.windows.midpoints[chosen.rows] - settings.in_window // 2 + chosen.start
	paths = outputs(vars(settings))
	with publish_together(paths) as (ohe_path, attr_path, mask_path, bed_path, bigwig_path, table_path):
		write_accounting(table_path, {"loci": chosen.accounting})
		sequences = (bases(chosen, rows) for rows in blocks(n, _BLOCK))
		save_streams(ohe_path, arr_0=Stream((n, 4, width), sequences))
		save_streams(attr_path, arr_0=Stream((n, 4, width), (scores for _, (scores,) in parts.read(n, "scores"))))
		with open(mask_path, "wb") as file:
			np.save(file, chosen.mask)
		write_bed(bed_path, chroms, starts, starts + width)
		with parts.spool((n, width), contributions(chosen, parts)) as values:
			write_bigwig(bigwig_path, chrom_sizes, chroms, starts, values)
	say(f"Wrote contributions at {n:,} loci to {', '.join(paths)}")


def bases(chosen: Chosen, rows: slice) -> "np.ndarray":
	"""One-hot bases of the scored positions of some loci, shape (m, 4, attr_window)."""
	import torch

	from cherimoya.io.genome import one_hot

	codes = chosen.codes(rows)[:, chosen.start : chosen.end]  # (m, in_window) -> (m, attr_window)
	return one_hot(codes, dtype=torch.int8).numpy()


def contributions(chosen: Chosen, parts: Parts) -> "Iterator[np.ndarray]":
	"""Contributions of the bases that are there, (m, attr_window), some loci at a time."""
	from cherimoya.interpret.attribution import projected_contributions

	for rows, (scores,) in parts.read(len(chosen), "scores"):
		for some in blocks(len(scores), _BLOCK):
			place = slice(rows.start + some.start, rows.start + some.stop)
			yield projected_contributions(scores[some], bases(chosen, place)).numpy()
