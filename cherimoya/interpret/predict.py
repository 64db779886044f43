"""Predictions of a model, batch by batch."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from tqdm import tqdm

from cherimoya.errors import InputError
from cherimoya.groups import check_signal_groups, group_slices
from cherimoya.interpret._batches import (
	Array,
	autocast,
	check_arrays,
	choose_batch_size,
	evaluating,
	in_batches,
	is_out_of_memory,
	parameter_dtype,
	to_batch,
)

if TYPE_CHECKING:
	from cherimoya.io.loci import Region
	from cherimoya.io.tiling import Piece

_TILES = 1024  # predicted at a time, about


class Prediction(NamedTuple):
	"""What a model predicts for n sequences.

	Attributes
	----------
	logits: torch.Tensor, shape=(n, T, out)
		Profile logits of each channel.
	log_counts: torch.Tensor, shape=(n, G)
		log(1 + counts) of each signal group, natural logarithm.
	"""

	logits: torch.Tensor
	log_counts: torch.Tensor


def predict(
	model: torch.nn.Module,
	X: Array,
	X_ctl: Array | None = None,
	*,
	batch_size: int | None = None,
	device: str | torch.device | None = None,
	dtype: str | torch.dtype | None = None,
	verbose: bool = False,
	progress: Callable[[int, int], None] | None = None,
) -> "Prediction | torch.Tensor":
	"""Predict profiles and counts of many sequences, with one batch on the device at a time.

	The model runs in evaluation mode and without gradients; its mode and its device are put back afterwards.

	Parameters
	----------
	model: torch.nn.Module
		A model that returns (logits, log counts): `Cherimoya`, or `ControlWrapper`. Or a view that returns one tensor:
		`ExpectedCountsWrapper`, `LogCountWrapper`, `ProfileWrapper`.
	X: torch.Tensor or numpy.ndarray, shape=(n, 4, L) or (n, L)
		One-hot sequences of any dtype, or uint8 base codes (A, C, G, T = 0 to 3, anything else 4). May be a
		memory-mapped array.
	X_ctl: torch.Tensor or numpy.ndarray, shape=(n, tracks, L), optional
		Control signal over the input window, for a model with control tracks.
	batch_size: int, optional
		Sequences per forward pass. Default is None: as many as fit in the memory that is free, by an estimate from
		above, and at most 64 on a CPU and 512 on a GPU. A batch that does not fit after all is halved. Results
		depend on it by float32 rounding alone.
	device: str or torch.device, optional
		Where to run. Default is the device that the model is on.
	dtype: str or torch.dtype, optional
		"bfloat16" or "float16" to run under autocast. Default is None: the dtype of the weights.
	verbose: bool
		Whether to show a progress bar, on a terminal only. Default is False.
	progress: callable, optional
		Called after each batch with the number of sequences done and to do.

	Returns
	-------
	Prediction or torch.Tensor
		`logits`, shape=(n, T, out), and `log_counts`, shape=(n, G), on the CPU, in float32 at least. For a view, the
		one tensor that it returns, shape=(n, ...).

	Raises
	------
	InputError
		When X or X_ctl have the wrong shape or dtype, or a single sequence does not fit in memory.
	SettingsError
		When batch_size, device or dtype are none that can be used.
	"""
	check_arrays(X, X_ctl)
	n = len(X)
	results: list[torch.Tensor] = []
	with evaluating(model, device) as place, tqdm(total=n, unit="seq", disable=None if verbose else True) as bar:
		size = choose_batch_size(model, X.shape[-1], batch_size=batch_size, device=place)
		single = False

		def compute(rows: slice) -> list[torch.Tensor]:
			nonlocal single
			with torch.inference_mode(), autocast(place, dtype):
				outputs = model(*_arguments(*to_batch(X, X_ctl, rows, device=place, dtype=parameter_dtype(model))))
			single = isinstance(outputs, torch.Tensor)
			return [y.cpu() for y in ((outputs,) if single else outputs)]

		# Without sequences, an empty batch gives the shapes.
		batches = in_batches(n, size, compute, device=place) if n else [(slice(0, 0), compute(slice(0, 0)))]
		for rows, outputs in batches:
			results = results or [_allocate(n, y) for y in outputs]
			for result, y in zip(results, outputs, strict=True):
				result[rows] = y
			bar.update(rows.stop - rows.start)
			if progress is not None:
				progress(rows.stop, n)
	return results[0] if single else Prediction(*results)


def expected_counts(logits: torch.Tensor, log_counts: torch.Tensor, signal_groups: Sequence[int]) -> torch.Tensor:
	"""Expected counts of each channel and position: how a group's predicted count is spread over its profile.

	For a group g with channels c: E[n, c, l] = softmax over (c, l) jointly of logits[n, c, l], times
	expm1(log_counts[n, g]). The sum over a group is its predicted count (slightly below zero where a model
	predicts log counts below zero).

	Parameters
	----------
	logits: torch.Tensor, shape=(n, T, out)
		Profile logits.
	log_counts: torch.Tensor, shape=(n, G)
		log(1 + counts) of each group.
	signal_groups: sequence of int
		Channels per group; they sum to T.

	Returns
	-------
	torch.Tensor, shape=(n, T, out)

	Raises
	------
	ValueError
		When the groups do not fit the shapes.
	"""
	groups = check_signal_groups(signal_groups)
	if logits.ndim != 3 or logits.shape[1] != sum(groups) or log_counts.shape != (len(logits), len(groups)):
		raise ValueError(
			f"signal groups {list(groups)} need logits of shape (n, {sum(groups)}, out) and log counts of shape "
			f"(n, {len(groups)}), got {tuple(logits.shape)} and {tuple(log_counts.shape)}"
		)
	expected = torch.empty_like(logits)
	for g, channels in enumerate(group_slices(groups)):
		shares = logits[:, channels].flatten(1).softmax(dim=-1)  # (n, c, out) -> (n, c * out)
		totals = torch.expm1(log_counts[:, g]).unsqueeze(-1)  # (n,) -> (n, 1)
		expected[:, channels] = (shares * totals).unflatten(1, (-1, logits.shape[-1]))  # -> (n, c, out)
	return expected


def predict_regions(
	model: torch.nn.Module,
	sequences: Any,
	regions: "Sequence[str | Region]",
	*,
	controls: Any = None,
	in_window: int = 2114,
	overlap: int | None = None,
	max_n_perc: float = 0.1,
	exclusion_lists: Any = None,
	batch_size: int = 64,
	device: str | torch.device | None = None,
	dtype: str | torch.dtype | None = None,
) -> "Iterator[Piece]":
	"""Predict expected counts per base over regions of a genome, in overlapping tiles that are blended.

	Memory holds about a thousand tiles at a time, however long the regions are.

	Parameters
	----------
	model: torch.nn.Module
		A `Cherimoya`, or a `ControlWrapper` around one that has zeros for its controls.
	sequences: path, mapping, or Genome
		See :class:`cherimoya.io.genome.Genome`.
	regions: list of str or Region
		Chromosomes, or parts such as ``chr2:10,000-50,000`` (0-based, half open); ``["*"]`` is all chromosomes.
	controls: path, list in groups, Tracks, or None
		Control tracks of a model that was trained with some. Default is None.
	in_window: int
		Length of the sequences that the model reads, in bp; its predictions are 2 * trimming shorter. Default is 2114.
	overlap: int, optional
		Bases that the outputs of neighbouring tiles share, in bp. Default is None: half of an output.
	max_n_perc: float
		Tiles of which a larger fraction of the input is unknown (N) are left out. Default is 0.1.
	exclusion_lists: path, list of paths, or Loci, optional
		Tiles whose input overlaps one of these regions are left out.
	batch_size: int
		Tiles per forward pass. Default is 64.
	device, dtype: optional
		As for `predict`.

	Yields
	------
	Piece
		``chrom``, ``start`` (from 0) and ``values``, float32, shape=(T, m): the expected counts of neighbouring bases,
		blended as :func:`cherimoya.io.tiling.blend` says, in the genome's order. Bases that no tile covers are missing:
		those nearer than the trimming to an end of their chromosome, and those of tiles that are left out.

	Raises
	------
	InputError
		A region is not on the genome, no tile is left, or the window or the controls do not fit the model.
	"""
	from cherimoya.io.tiling import blend, check_overlap, tile_windows
	from cherimoya.io.tracks import Tracks

	inner = getattr(model, "model", model)
	out_window = in_window - 2 * inner.trimming
	if out_window < 1:
		raise InputError(
			f"in_window is {in_window} bp, too short: the model cuts {inner.trimming} bp from each side; give more"
		)
	wanted = inner.n_control_tracks if inner is model else 0
	tracks = None if controls is None else Tracks(controls)
	if wanted != (0 if tracks is None else len(tracks.paths)):
		raise InputError(
			f"this model takes {wanted} control track{'s' * (wanted != 1)}, and controls holds "
			f"{0 if tracks is None else len(tracks.paths)}; give as many, or wrap the model in ControlWrapper for zeros"
		)
	windows = tile_windows(
		regions,
		sequences,
		controls=tracks,
		in_window=in_window,
		out_window=out_window,
		overlap=overlap,
		max_n_perc=max_n_perc,
		exclusion_lists=exclusion_lists,
	)

	def expected() -> Iterator[Any]:
		step = -(-_TILES // batch_size) * batch_size  # whole batches, so that blocks do not change them
		for first in range(0, len(windows), step):
			rows = slice(first, min(first + step, len(windows)))
			X_ctl = None if tracks is None else windows.controls[rows]
			options = {"batch_size": batch_size, "device": device, "dtype": dtype}
			yield expected_counts(*predict(model, windows.codes[rows], X_ctl, **options), inner.signal_groups).numpy()

	overlap = check_overlap(overlap, out_window)
	yield from blend(windows.loci.chroms, windows.loci.starts, expected(), overlap=overlap)


def _arguments(X: torch.Tensor, X_ctl: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
	"""The model's arguments: models without controls may take one only."""
	return (X,) if X_ctl is None else (X, X_ctl)


def _allocate(n: int, y: torch.Tensor) -> torch.Tensor:
	"""Memory on the CPU for n results like those of a batch y; InputError if there is not enough."""
	dtype = torch.promote_types(y.dtype, torch.float32)
	try:
		return torch.empty(n, *y.shape[1:], dtype=dtype)
	except RuntimeError as error:
		if not is_out_of_memory(error):
			raise
		size = n * y[0].numel() * dtype.itemsize / 1e9
		raise InputError(
			f"the predictions of {n:,} sequences take {size:,.1f} GB, which this machine does not have; "
			"predict fewer at a time, and keep of each part what is needed"
		) from error
