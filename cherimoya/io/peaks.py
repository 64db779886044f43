"""The loader of training batches: windows around peaks and negatives, mixed by the sampler."""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from cherimoya.io._prefetch import prefetch
from cherimoya.io.batches import CompactBatch
from cherimoya.io.sampler import EpochBatchSampler, PeakNegativeSampler, collate, collate_compact
from cherimoya.io.storage import hash_ahead
from cherimoya.io.windows import Accounting, Widths, Windows, load_windows, open_sources, plan_windows


def PeakGenerator(
	peaks: Any,
	negatives: Any,
	sequences: Any,
	signals: Any,
	controls: Any = None,
	chroms: Sequence[str] | None = None,
	in_window: int = 2114,
	out_window: int = 1000,
	max_jitter: int = 50,
	negative_ratio: float = 0.1,
	reverse_complement: bool = True,
	shuffle: bool = True,
	min_counts: float | None = None,
	max_counts: float | None = None,
	summits: bool = False,
	exclusion_lists: Any = None,
	random_state: int | None = None,
	pin_memory: bool = True,
	num_workers: int = 1,
	batch_size: int = 64,
	verbose: bool = False,
	*,
	absolute: bool = False,
	cache: str | os.PathLike | None = None,
	progress: Callable[[str], None] | None = None,
	compact: bool = False,
	prefetch_factor: int = 2,
	rank: int = 0,
	world_size: int = 1,
) -> torch.utils.data.DataLoader:
	"""The DataLoader over a PeakNegativeSampler of the windows around peaks and negatives.

	Each pass over the loader is the next epoch; `loader.batch_sampler.set_epoch(e)` picks one. What it yields does not
	depend on the number of workers, nor, example by example, on the batch size.

	Parameters
	----------
	peaks, negatives: path, list of paths, DataFrame-like, or Loci
		Loci; negatives may be None when negative_ratio is 0, and are not read then.
	sequences: path, mapping, or Genome
		The genome.
	signals: path, list in groups, or Tracks
		What is to be predicted, one channel a file.
	controls: path, list in groups, Tracks, or None
		Control tracks, read over the input window.
	chroms: list of str, or None
		Chromosomes or regions to train on; None takes all.
	in_window, out_window: int, default 2114 and 1000
		Widths of the input and of the output, in bp.
	max_jitter: int, default 50
		Most shift of a peak's window to either side, in bp.
	negative_ratio: float, default 0.1
		Negatives an epoch for each peak.
	reverse_complement, shuffle: bool, default True
		See :class:`PeakNegativeSampler`.
	min_counts, max_counts: float, or None
		Bounds on the counts of peaks; negatives are not filtered by counts.
	summits: bool, default False
		Centre peaks at their summits; negatives always at their middles.
	exclusion_lists: like peaks, or None
		Regions whose loci are dropped.
	random_state: int or None, default None
		The seed; None draws one.
	pin_memory: bool, default True
		Keep batches in page-locked memory when there is a GPU to copy them to.
	num_workers: int, default 1
		Processes that gather batches; 0 gathers them in this one.
	batch_size: int, default 64
		Examples a batch.
	verbose: bool, default False
		Show a progress bar on a terminal while reading.
	absolute: bool, default False
		Take the absolute values of negative signals.
	cache: path, "auto" or None, default None
		Where the windows are kept; see :func:`cherimoya.io.windows.extract_windows`.
	progress: callable or None, default None
		Called with lines of text on what the load needs and waits for.
	compact: bool, default False
		Yield :class:`cherimoya.io.batches.CompactBatch`, a tenth of the size, which
		:func:`cherimoya.io.batches.to_device` encodes on the device of the model.
	prefetch_factor: int, default 2
		Batches that each process, or with num_workers=0 a thread of this one, makes ahead of their use; 0 for none is
		allowed with num_workers=0 alone.
	rank, world_size: int, default 0 and 1
		Which share of each batch this process takes, of how many; see :class:`EpochBatchSampler`.

	Returns
	-------
	torch.utils.data.DataLoader
		It yields `(X, y, labels)`, or `(X, X_ctl, y, labels)` with controls, and has the attributes `accounting`
		({"peaks": Accounting, "negatives": Accounting}), `signal_groups`, `control_groups`, `n_control_tracks`,
		`peak_windows` and `negative_windows` (None when negatives are not read).

	Raises
	------
	ValueError
		An argument is out of range; the message names it.
	InputError
		An input cannot be used, or no peak or negative is left.
	"""
	for name, value, least in (
		("negative_ratio", negative_ratio, 0),
		("max_jitter", max_jitter, 0),
		("num_workers", num_workers, 0),
		("batch_size", batch_size, 1),
		("prefetch_factor", prefetch_factor, min(num_workers, 1)),
	):
		if not value >= least:
			raise ValueError(f"{name} must be at least {least}, got {value}")
	if negative_ratio > 0 and negatives is None:
		raise ValueError(f"negative_ratio is {negative_ratio}, but negatives is None; give negatives, or set it to 0")
	sources = open_sources(sequences, signals, controls, absolute=absolute)
	hash_ahead(sources, peaks, cache)
	shared = {"chroms": chroms, "exclusion_lists": exclusion_lists}
	bounds = {"min_counts": min_counts, "max_counts": max_counts, "summits": summits, "drop_outliers": True}
	plans = [plan_windows(peaks, sources, Widths.checked(in_window, out_window, max_jitter), **bounds, **shared)]
	if negative_ratio > 0:
		plans.append(plan_windows(negatives, sources, Widths.checked(in_window, out_window, 0), **shared))
	peak_windows, *others = load_windows(plans, cache=cache, verbose=verbose, progress=progress)
	negative_windows = others[0] if others else None
	sampler = _sampler(
		peak_windows,
		negative_windows,
		negative_ratio=negative_ratio,
		reverse_complement=reverse_complement,
		shuffle=shuffle,
		random_state=random_state,
	)
	loader = _Loader(
		sampler,
		EpochBatchSampler(sampler, batch_size, rank, world_size),
		num_workers=num_workers,
		pinned=pin_memory and torch.cuda.is_available(),
		compact=compact,
		n_ahead=prefetch_factor,
	)
	loader.accounting = {
		"peaks": peak_windows.accounting,
		"negatives": Accounting() if negative_windows is None else negative_windows.accounting,
	}
	loader.signal_groups = peak_windows.signal_groups
	loader.control_groups = peak_windows.control_groups
	loader.n_control_tracks = sum(peak_windows.control_groups)
	loader.peak_windows, loader.negative_windows = peak_windows, negative_windows
	return loader


class _Loader(torch.utils.data.DataLoader):
	"""A DataLoader whose batches are compact on their way between processes, and encoded where they are used."""

	def __init__(
		self,
		sampler: PeakNegativeSampler,
		batches: EpochBatchSampler,
		*,
		num_workers: int,
		pinned: bool,
		compact: bool,
		n_ahead: int,
	) -> None:
		super().__init__(
			sampler,
			batch_sampler=batches,
			# Memory is pinned before a batch gets here, and what is to be pinned are the tensors that are yielded.
			collate_fn=collate if pinned and not compact else collate_compact,
			num_workers=num_workers,
			persistent_workers=num_workers > 0,
			prefetch_factor=n_ahead if num_workers else None,
			pin_memory=pinned,
			generator=torch.Generator(),  # a loader draws a seed for its workers: not out of the global generator
		)
		self.compact = compact
		self._n_ahead = 0 if num_workers else n_ahead

	def __iter__(self) -> Iterator[CompactBatch | tuple[torch.Tensor, ...]]:
		return prefetch(map(self._finished, self._batches()), self._n_ahead)

	def _finished(self, batch: CompactBatch | tuple[torch.Tensor, ...]) -> CompactBatch | tuple[torch.Tensor, ...]:
		"""A batch as it is yielded."""
		return batch.encode() if isinstance(batch, CompactBatch) and not self.compact else batch

	def _batches(self) -> Iterator[CompactBatch | tuple[torch.Tensor, ...]]:
		"""The batches as they are made; those of this process go around the loader, which takes a while for each."""
		if self.num_workers or self.pin_memory:
			return super().__iter__()
		return map(self.dataset.compact_batch, self.batch_sampler)


def _sampler(peaks: Windows, negatives: Windows | None, **options: Any) -> PeakNegativeSampler:
	"""The sampler over windows; the arrays are shared, not copied."""
	others = (None, None, None) if negatives is None else (negatives.codes, negatives.signals, negatives.controls)
	return PeakNegativeSampler(
		peaks.codes,
		peaks.signals,
		others[0],
		others[1],
		peaks.controls,
		others[2],
		in_window=peaks.in_window,
		out_window=peaks.out_window,
		max_jitter=peaks.max_jitter,
		signal_groups=peaks.signal_groups,
		control_groups=peaks.control_groups or None,
		**options,
	)
