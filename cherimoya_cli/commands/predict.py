"""``cherimoya predict``: predictions of a trained model at loci or over regions, as bigWigs, a table and arrays."""

import argparse
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cherimoya.errors import InputError, missing_extra
from cherimoya.groups import group_slices
from cherimoya_cli.chunks import (
	Parts,
	Shard,
	Stream,
	add_chunk_arguments,
	at_work,
	blocks,
	chunk_flags,
	chunk_length,
	identity_of_results,
	save_hdf5,
	save_streams,
	work_through,
)
from cherimoya_cli.inference import (
	Progress,
	check_finite,
	check_signals,
	load_model,
	load_tiles,
	load_windows,
	model_path,
	observed_tracks,
	publish_together,
)
from cherimoya_cli.measuring import accounting_path, write_accounting
from cherimoya_cli.utils import resolve_device, say, settings_from_args

if TYPE_CHECKING:
	from collections.abc import Callable, Iterator

	import numpy as np
	import torch

	from cherimoya.io.windows import Windows

_BLOCK = 512  # loci or tiles whose values are held as numbers of double precision at a time
_MEASURES = ("profile_pearson", "profile_jsd")


class Loaded(NamedTuple):
	"""What a prediction needs: a model (zeros stand in for missing controls), windows, and the genome's sizes."""

	model: "torch.nn.Module"
	windows: "Windows"
	chrom_sizes: "Mapping[str, int]"

	@property
	def starts(self) -> "np.ndarray":
		"""The first base of each output window, shape (n,)."""
		return self.windows.midpoints - self.windows.out_window // 2


# ---- names of files ---------------------------------------------------------------------------------


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


def arrays_path(values: Mapping[str, Any]) -> str | None:
	"""The file of logits and log counts; None if none is wanted."""
	chosen = values["output_format"]
	if chosen == "auto":
		chosen = "npz" if values["regions"] is None else None
	return None if chosen is None else f"{values['name']}.predictions.{'h5' if chosen == 'hdf5' else 'npz'}"


def output_paths(values: Mapping[str, Any], signal_groups: Sequence[int]) -> list[str]:
	"""All files: bigWigs, the table, the account, and the arrays if they are wanted."""
	name, arrays = values["name"], arrays_path(values)
	paths = [*prediction_paths(name, signal_groups), f"{name}.predictions.tsv", accounting_path(name, "predict")]
	return paths if arrays is None else [*paths, arrays]


def outputs(values: Mapping[str, Any]) -> list[str]:
	"""The files that the command leaves, from its resolved settings; without signals one channel is taken."""
	groups = [1 if isinstance(group, str) else len(group) for group in values["signals"] or [""]]
	return output_paths(values, groups)


# ---- the command ------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
	"""The flags of the command."""
	add_chunk_arguments(parser, "predict")


def run(args: argparse.Namespace) -> int:
	"""Load a model and windows, predict in chunks, write; returns the exit code."""
	settings = settings_from_args("predict", args, flags=chunk_flags(args))
	if settings.output_format == "hdf5" and find_spec("h5py") is None:
		raise missing_extra("h5py", extra="hdf5", needed_for="output_format hdf5")
	device = resolve_device(settings.device)
	loaded = load(settings, device)
	identity = identity_of_results(settings, loaded.windows, unused=unused(settings))
	what = ("locus", "loci") if settings.regions is None else ("tile", "tiles")
	parts = Parts(f"{settings.name}.predictions.parts", "predict", identity, device, what=what)
	shard, n = Shard.of(settings.shard), len(loaded.windows)
	with at_work(parts, shard, merge=args.merge):
		if args.merge:
			parts.check_whole(n, settings.batch_size)
		else:
			rows = shard.rows(n, settings.batch_size)
			parts.take_over(settings.resume, rows, alone=shard.count == 1)
			compute(loaded, parts, rows, settings)
			if shard.count > 1:
				say(f"Shard {shard}: {len(rows):,} of {n:,} {what[1]} are predicted; once all are, run with --merge")
				return 0
		write(loaded, parts, settings)
		parts.clear()
	return 0


def unused(settings: Any) -> frozenset[str]:
	"""Settings that decide nothing of what the model predicts, beside the others."""
	beside = {"signals", "absolute_signals"}
	return frozenset(beside | ({"overlap", "max_n_perc"} if settings.regions is None else {"loci", "summits"}))


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
	signals = observed_tracks(settings)
	if settings.regions is None:
		model, windows, genome = load_windows(settings, model, "Loci to predict", signals=signals)
	else:
		model, windows, genome = load_tiles(settings, model, "Tiles to predict", signals=signals)
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
		check_finite(sums, "counts", settings, rows=parts.rows)
		return {"logits": prediction.logits.numpy(), "log_counts": prediction.log_counts.numpy()}

	n_bytes = 4 * sum(model.signal_groups) * settings.out_window
	# Zipped logits take most of what they take unzipped; the values of bases in bigWigs, less.
	copies = (1 if arrays_path(vars(settings)) else 0) + 0.5
	parts.check_room(rows, row_bytes=n_bytes, result_bytes=int(copies * n_bytes * len(rows)))
	length = chunk_length(settings.chunk_size, settings.batch_size, passes=1, n_bytes=n_bytes)
	progress = Progress("predict") if settings.verbose else None
	work_through(parts, rows, length, compute_some, count=len, progress=progress)


# ---- what is written --------------------------------------------------------------------------------


def write(loaded: Loaded, parts: Parts, settings: Any) -> None:
	"""A bigWig for each channel, the table, the account and the arrays, which appear together when all are complete."""
	n, groups = len(loaded.windows), loaded.model.signal_groups
	paths = output_paths(vars(settings), groups)
	with publish_together(paths) as temporary:
		bigwigs, (table, account, *arrays) = temporary[: sum(groups)], temporary[sum(groups) :]
		if settings.regions is None:
			write_loci(bigwigs, loaded, parts, settings)
		else:
			n_bases = write_regions(bigwigs, loaded, parts, settings)
			say(f"{n_bases:,} bases have a prediction")
		write_table(table, loaded, parts)
		write_accounting(account, {parts.rows: loaded.windows.accounting})
		for path in arrays:
			write_arrays(path, loaded, parts, hdf5=settings.output_format == "hdf5")
	say(f"Wrote predictions at {n:,} {parts.rows} to {', '.join(paths)}")


def write_loci(paths: Sequence[Path], loaded: Loaded, parts: Parts, settings: Any) -> None:
	"""A bigWig for each channel; loci that overlap are averaged."""
	from cherimoya.io.tracks import write_bigwig

	model, windows, chrom_sizes = loaded
	n, starts = len(windows), loaded.starts
	for group, channels in enumerate(group_slices(model.signal_groups)):
		shape = (n, channels.stop - channels.start, settings.out_window)
		with parts.spool(shape, expected_of_group(parts, n, group, channels)) as expected:
			for c, path in enumerate(paths[channels]):
				write_bigwig(path, chrom_sizes, windows.loci.chroms, starts, expected[:, c])


def expected_of_group(parts: Parts, n: int, group: int, channels: slice) -> "Iterator[np.ndarray]":
	"""The expected counts of a group's channels, (m, c, out_window), some loci at a time."""
	import torch

	from cherimoya.interpret.predict import expected_counts

	for _, (logits, log_counts) in parts.read(n, "logits", "log_counts"):
		for some in blocks(len(logits), _BLOCK):
			own = torch.from_numpy(logits[some, channels])
			yield expected_counts(own, torch.from_numpy(log_counts[some, group : group + 1]), [own.shape[1]]).numpy()


def write_regions(paths: Sequence[Path], loaded: Loaded, parts: Parts, settings: Any) -> int:
	"""A bigWig for each channel, tiles blended; the number of bases that have a value."""
	from cherimoya.io.tiling import blend, check_overlap, write_pieces

	windows, overlap = loaded.windows, check_overlap(settings.overlap, settings.out_window)
	pieces = blend(windows.loci.chroms, loaded.starts, expected_of_tiles(loaded, parts), overlap=overlap)
	return write_pieces(paths, loaded.chrom_sizes, pieces)


def expected_of_tiles(loaded: Loaded, parts: Parts) -> "Iterator[np.ndarray]":
	"""The expected counts of all channels, (m, T, out_window), some tiles at a time."""
	import torch

	from cherimoya.interpret.predict import expected_counts

	for _, (logits, log_counts) in parts.read(len(loaded.windows), "logits", "log_counts"):
		for some in blocks(len(logits), _BLOCK):
			found = torch.from_numpy(logits[some]), torch.from_numpy(log_counts[some])
			yield expected_counts(*found, loaded.model.signal_groups).numpy()


def table_columns(n_groups: int, *, observed: bool) -> list[str]:
	"""The names of the table's columns after chrom, start and end.

	``predicted_counts`` for each signal group, and where there are signals ``observed_counts``, ``profile_pearson`` and
	``profile_jsd``; the group's number, from 0, follows where there are several: ``predicted_counts.1``.
	"""
	names = ["predicted_counts", *(("observed_counts", *_MEASURES) if observed else ())]
	return [f"{name}.{group}" if n_groups > 1 else name for group in range(n_groups) for name in names]


def write_table(path: Path, loaded: Loaded, parts: Parts) -> None:
	"""Counts of each locus or tile, beside the observed ones where there are signals."""
	windows, starts = loaded.windows, loaded.starts
	columns = table_columns(len(loaded.model.signal_groups), observed=windows.signals is not None)
	with path.open("w", encoding="utf-8") as file:
		file.write("\t".join(["chrom", "start", "end", *columns]) + "\n")
		for rows, values in values_of_rows(loaded, parts):
			places = zip(windows.loci.chroms[rows].tolist(), starts[rows].tolist(), values.tolist(), strict=True)
			for chrom, start, numbers in places:
				texts = ("" if number != number else f"{number:.6g}" for number in numbers)  # nothing where it is NaN
				file.write("\t".join([chrom, str(start), str(start + windows.out_window), *texts]) + "\n")


def values_of_rows(loaded: Loaded, parts: Parts) -> "Iterator[tuple[slice, np.ndarray]]":
	"""The numbers of the table, some loci or tiles at a time: rows, and an array of shape (m, columns)."""
	import numpy as np

	n, signals = len(loaded.windows), loaded.windows.signals
	names = ("log_counts",) if signals is None else ("log_counts", "logits")
	for place, (log_counts, *logits) in parts.read(n, *names):
		for some in blocks(len(log_counts), _BLOCK):
			rows = slice(place.start + some.start, place.start + some.stop)
			found = [np.expm1(log_counts[some].astype(np.float64))]  # (m, G) each
			if logits:
				found += compare(logits[0][some], signals[rows], loaded.model.signal_groups)
			yield rows, np.stack(found, axis=-1).reshape(len(found[0]), -1)  # (m, G, k) -> (m, G * k)


def compare(logits: "np.ndarray", observed: "np.ndarray", groups: Sequence[int]) -> "list[np.ndarray]":
	"""Observed counts, and the measures of the profile averaged over the channels that have counts, (m, G) each.

	Parameters
	----------
	logits, observed: numpy.ndarray, shape=(m, T, out_window)
		Predicted logits, and observed signals.
	groups: sequence of int
		Channels of each group.
	"""
	import numpy as np
	import torch

	from cherimoya.io.tracks import group_totals, sum_groups
	from cherimoya.training.evaluation import profile_measures

	observed = np.asarray(observed, dtype=np.float32)
	measured = profile_measures(torch.from_numpy(logits), torch.from_numpy(observed), groups, measures=_MEASURES)
	found = [group_totals(observed, groups)]
	for name in _MEASURES:
		values = measured[name].double().numpy()  # (m, T)
		known = sum_groups((~np.isnan(values)).astype(np.float64), groups)  # (m, T) -> (m, G)
		total = sum_groups(np.nan_to_num(values), groups)
		found.append(np.divide(total, known, out=np.full(known.shape, np.nan), where=known > 0))
	return found


def write_arrays(path: Path, loaded: Loaded, parts: Parts, *, hdf5: bool) -> None:
	"""Logits and log counts, what was observed where there are signals, and where the loci or tiles are."""
	import numpy as np

	model, windows, _ = loaded
	n, starts = len(windows), loaded.starts
	shapes = {"logits": (n, sum(model.signal_groups), windows.out_window), "log_counts": (n, len(model.signal_groups))}
	arrays: dict[str, Stream | np.ndarray] = {
		name: Stream(shape, (array for _, (array,) in parts.read(n, name))) for name, shape in shapes.items()
	}
	if windows.signals is not None:
		observed = (np.asarray(windows.signals[rows], dtype=np.float32) for rows in blocks(n, _BLOCK))
		arrays["observed"] = Stream(shapes["logits"], observed)
	arrays |= {"chrom": windows.loci.chroms.astype(str), "start": starts, "end": starts + windows.out_window}
	if hdf5:
		attributes = {
			"in_window": windows.in_window,
			"out_window": windows.out_window,
			"signal_groups": model.signal_groups,
		}
		save_hdf5(path, attributes, **arrays)
	else:
		save_streams(path, **arrays)
