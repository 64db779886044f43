"""``cherimoya predict``: predictions of a trained model at loci, as bigWigs of expected counts and as arrays."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cherimoya.errors import InputError
from cherimoya.groups import group_slices
from cherimoya_cli.chunks import (
	Parts,
	Shard,
	Stream,
	add_chunk_arguments,
	at_work,
	chunk_flags,
	chunk_length,
	identity_of_results,
	save_streams,
	work_through,
)
from cherimoya_cli.inference import (
	Progress,
	check_finite,
	check_signals,
	load_model,
	load_windows,
	model_path,
	publish_together,
)
from cherimoya_cli.measuring import accounting_path, write_accounting
from cherimoya_cli.utils import resolve_device, say, settings_from_args

if TYPE_CHECKING:
	from collections.abc import Callable, Iterator, Mapping

	import numpy as np
	import torch

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
	"""The flags of the command."""
	add_chunk_arguments(parser, "predict")


def run(args: argparse.Namespace) -> int:
	"""Load a model and windows, predict in chunks, write; returns the exit code."""
	settings = settings_from_args("predict", args, flags=chunk_flags(args))
	device = resolve_device(settings.device)
	loaded = load(settings, device)
	identity = identity_of_results(settings, loaded.windows, unused=frozenset({"signals"}))
	parts = Parts(f"{settings.name}.predictions.parts", "predict", identity, device)
	shard, n = Shard.of(settings.shard), len(loaded.windows)
	with at_work(parts, shard, merge=args.merge):
		if args.merge:
			parts.check_whole(n, settings.batch_size)
		else:
			rows = shard.rows(n, settings.batch_size)
			parts.take_over(settings.resume, rows, alone=shard.count == 1)
			compute(loaded, parts, rows, settings)
			if shard.count > 1:
				say(f"Shard {shard}: {len(rows):,} of {n:,} loci are predicted; once all are, run with --merge")
				return 0
		write(loaded, parts, settings)
		parts.clear()
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


def compute(loaded: Loaded, parts: Parts, rows: range, settings: Any) -> None:
	"""Leave parts with the logits and log counts of some of the windows."""
	from cherimoya.interpret.predict import predict

	model, windows, _ = loaded

	def compute_some(rows: range, advance: "Callable[[int, int], None]") -> "dict[str, np.ndarray]":
		place = slice(rows.start, rows.stop)
		prediction = predict(
			model,
			windows.codes[place],
			None if windows.controls is None else windows.controls[place],
			batch_size=settings.batch_size,
			dtype=settings.dtype,
			progress=advance,
		)
		sums = prediction.log_counts.expm1() + prediction.logits.sum(dim=(1, 2)).unsqueeze(-1)
		check_finite(sums, "counts", settings)
		return {"logits": prediction.logits.numpy(), "log_counts": prediction.log_counts.numpy()}

	n_bytes = 4 * sum(model.signal_groups) * settings.out_window
	length = chunk_length(settings.chunk_size, settings.batch_size, passes=1, n_bytes=n_bytes)
	progress = Progress("predict") if settings.verbose else None
	work_through(parts, rows, length, compute_some, count=len, progress=progress)


def write(loaded: Loaded, parts: Parts, settings: Any) -> None:
	"""One bigWig per channel and one .npz, which appear together when all are complete."""
	from cherimoya.io.tracks import write_bigwig

	model, windows, chrom_sizes = loaded
	n, chroms = len(windows), windows.loci.chroms
	starts = windows.midpoints - settings.out_window // 2
	bigwigs = prediction_paths(settings.name, model.signal_groups)
	paths = [*bigwigs, f"{settings.name}.predictions.npz", accounting_path(settings.name, "predict")]
	shapes = {"logits": (n, sum(model.signal_groups), settings.out_window), "log_counts": (n, len(model.signal_groups))}
	with publish_together(paths) as temporary:
		for group, channels in enumerate(group_slices(model.signal_groups)):
			shape = (n, channels.stop - channels.start, settings.out_window)
			with parts.spool(shape, expected_of_group(parts, n, group, channels)) as expected:
				for c, path in enumerate(temporary[channels]):
					write_bigwig(path, chrom_sizes, chroms, starts, expected[:, c])
		write_accounting(temporary[-1], {"loci": windows.accounting})
		save_streams(
			temporary[-2],
			**{name: Stream(shape, (array for _, (array,) in parts.read(n, name))) for name, shape in shapes.items()},
			chrom=chroms.astype(str),
			start=starts,
			end=starts + settings.out_window,
		)
	say(f"Wrote predictions at {n:,} loci to {', '.join(paths)}")


def expected_of_group(parts: Parts, n: int, group: int, channels: slice) -> "Iterator[np.ndarray]":
	"""The expected counts of a group's channels, (m, c, out_window), a part at a time."""
	import torch

	from cherimoya.interpret.predict import expected_counts

	for _, (logits, log_counts) in parts.read(n, "logits", "log_counts"):
		logits, log_counts = torch.from_numpy(logits[:, channels]), torch.from_numpy(log_counts[:, group : group + 1])
		yield expected_counts(logits, log_counts, [logits.shape[1]]).numpy()
