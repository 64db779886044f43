"""``cherimoya predict``: predictions of a trained model at loci, as bigWigs of expected counts and as arrays."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cherimoya.errors import InputError
from cherimoya.groups import group_slices
from cherimoya_cli.inference import (
	Progress,
	check_finite,
	check_signals,
	load_model,
	load_windows,
	model_path,
	publish_together,
	save_arrays,
)
from cherimoya_cli.measuring import accounting_path, write_accounting
from cherimoya_cli.utils import resolve_device, say, settings_from_args

if TYPE_CHECKING:
	from collections.abc import Mapping

	import torch

	from cherimoya.interpret.predict import Prediction
	from cherimoya.io.windows import Windows


class Loaded(NamedTuple):
	"""What a prediction needs: a model (zeros stand in for missing controls), windows, and the genome's sizes."""

	model: "torch.nn.Module"
	windows: "Windows"
	chrom_sizes: "Mapping[str, int]"


def prediction_paths(name: str, signal_groups: Sequence[int]) -> list[str]:
	"""The bigWig of each channel, in the order of the channels.

	``{name}.predictions.bw`` for a single channel. Otherwise the group's number, from 0, comes before ``.bw`` where
	there are several groups, then ``+`` and ``-`` for the channels of a pair, or their numbers where a group has
	more than two: ``{name}.predictions.+.bw``, ``{name}.predictions.1.bw``, ``{name}.predictions.0.-.bw``.
	"""
	paths = []
	for g, size in enumerate(signal_groups):
		group = f".{g}" if len(signal_groups) > 1 else ""
		channels = {1: [""], 2: [".+", ".-"]}.get(size, [f".{c}" for c in range(size)])
		paths += [f"{name}.predictions{group}{channel}.bw" for channel in channels]
	return paths


def run(args: argparse.Namespace) -> int:
	"""Load a model and windows, predict, write; returns the exit code."""
	settings = settings_from_args("predict", args)
	device = resolve_device(settings.device)
	loaded = load(settings, device)
	prediction = compute(loaded, settings)
	write(loaded, prediction, settings)
	return 0


def load(settings: Any, device: "torch.device") -> Loaded:
	"""The model and the windows that it predicts, checked against each other."""
	model = load_model(settings, device)
	check_signals(settings, model)
	width = settings.in_window - 2 * model.trimming
	if width != settings.out_window:
		raise InputError(
			f"{model_path(settings)}: this model cuts {model.trimming} bp from each side, so an in_window of "
			f"{settings.in_window} bp gives {width} bp, and out_window is {settings.out_window}; set in_window to "
			f"{settings.out_window + 2 * model.trimming}, or out_window to {width}"
		)
	model, windows, genome = load_windows(settings, model, "Loci to predict")
	return Loaded(model, windows, genome.chrom_sizes)


def compute(loaded: Loaded, settings: Any) -> "Prediction":
	"""Logits and log counts of every window."""
	from cherimoya.interpret.predict import predict

	model, windows, _ = loaded
	prediction = predict(
		model,
		windows.codes,
		windows.controls,
		batch_size=settings.batch_size,
		dtype=settings.dtype,
		verbose=settings.verbose,
		progress=Progress("predict") if settings.verbose else None,
	)
	check_finite(prediction.log_counts.expm1() + prediction.logits.sum(dim=(1, 2)).unsqueeze(-1), "counts", settings)
	return prediction


def write(loaded: Loaded, prediction: "Prediction", settings: Any) -> None:
	"""One bigWig per channel and one .npz, which appear together when all are complete."""
	from cherimoya.interpret.predict import expected_counts
	from cherimoya.io.tracks import write_bigwig

	model, windows, chrom_sizes = loaded
	chroms = windows.loci.chroms
	starts = windows.midpoints - settings.out_window // 2
	bigwigs = prediction_paths(settings.name, model.signal_groups)
	paths = [*bigwigs, f"{settings.name}.predictions.npz", accounting_path(settings.name, "predict")]
	with publish_together(paths) as temporary:
		for group, channels in enumerate(group_slices(model.signal_groups)):
			expected = expected_counts(
				prediction.logits[:, channels],
				prediction.log_counts[:, group : group + 1],
				[channels.stop - channels.start],
			)
			for path, values in zip(temporary[channels], expected.unbind(dim=1), strict=True):
				write_bigwig(path, chrom_sizes, chroms, starts, values.numpy())
		write_accounting(temporary[-1], {"loci": windows.accounting})
		save_arrays(
			temporary[-2],
			logits=prediction.logits.numpy(),
			log_counts=prediction.log_counts.numpy(),
			chrom=chroms.astype(str),
			start=starts,
			end=starts + settings.out_window,
		)
	say(f"Wrote predictions at {len(windows):,} loci to {', '.join(paths)}")
