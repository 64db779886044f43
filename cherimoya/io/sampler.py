"""Which examples an epoch holds, and how they are gathered. No files: arrays in, batches out.

What example (seed, epoch, index) is depends on those three alone. The whole plan of an epoch (which peak or negative
stands where, with which jitter, flipped or not) is a pure function of seed and epoch, so workers need no messages.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from cherimoya.groups import check_signal_groups, reverse_complement_order
from cherimoya.io.genome import one_hot

_STREAMS = ("order", "places", "negatives", "jitters", "flips")


@dataclass(frozen=True)
class EpochPlan:
	"""One epoch, position by position; n examples.

	Attributes
	----------
	rows: numpy.ndarray of int64, shape=(n,)
		The peak, or the negative, at each position.
	is_peak: numpy.ndarray of bool, shape=(n,)
	jitters: numpy.ndarray of int64, shape=(n,)
		Where in its widened window a peak's window starts; 0 for negatives.
	flips: numpy.ndarray of bool, shape=(n,)
		Which examples are reverse complemented.
	"""

	rows: np.ndarray
	is_peak: np.ndarray
	jitters: np.ndarray
	flips: np.ndarray


def plan_epoch(
	seed: int,
	epoch: int,
	*,
	n_peaks: int,
	n_negatives: int,
	n_drawn: int,
	max_jitter: int,
	reverse_complement: bool,
	shuffle: bool,
) -> EpochPlan:
	"""The plan of one epoch: every peak once, and `n_drawn` of the negatives, drawn with replacement.

	Each kind of choice has its own stream of random numbers, so that one setting does not change what another draws.
	"""
	streams = {
		name: np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch, k])))
		for k, name in enumerate(_STREAMS)
	}
	n = n_peaks + n_drawn
	is_peak = np.ones(n, dtype=bool)
	is_peak[streams["places"].permutation(n)[:n_drawn]] = False
	rows = np.empty(n, dtype=np.int64)
	rows[is_peak] = streams["order"].permutation(n_peaks) if shuffle else np.arange(n_peaks)
	rows[~is_peak] = streams["negatives"].integers(0, n_negatives, size=n_drawn) if n_drawn else 0
	jitters = streams["jitters"].integers(0, 2 * max_jitter + 1, size=n)
	jitters[~is_peak] = 0
	flips = streams["flips"].random(n) < 0.5 if reverse_complement else np.zeros(n, dtype=bool)
	return EpochPlan(rows, is_peak, jitters, flips)


class Examples(list):
	"""A list of examples, as the default collation wants, that also has them as one batch of tensors."""

	def __init__(self, batch: tuple[torch.Tensor, ...]) -> None:
		super().__init__(zip(*batch, strict=True))
		self.batch = batch


def collate(examples: Examples) -> tuple[torch.Tensor, ...]:
	"""The batch that the examples were cut from; nothing is copied."""
	return examples.batch


class PeakNegativeSampler(torch.utils.data.Dataset):
	"""Peaks, each once an epoch and jittered, mixed with negatives drawn with replacement.

	`sampler[(epoch, index)]` names an epoch; a bare `sampler[index]` is of the current epoch, and an index smaller
	than the one before it starts the next. Items are `(X, y, label)`, or `(X, X_ctl, y, label)` with controls, where
	label is 1 for a peak and 0 for a negative.

	Parameters
	----------
	peak_sequences: torch.Tensor, shape=(n, 4, in_window + 2 * max_jitter)
		One-hot sequences, or base codes as uint8 of shape (n, in_window + 2 * max_jitter).
	peak_signals: torch.Tensor, shape=(n, T, out_window + 2 * max_jitter)
		Counts per base.
	negative_sequences: torch.Tensor, shape=(m, 4, in_window), or None
		The same for negatives, which are not jittered; wider windows, such as those of peaks, are cut to their centre.
	negative_signals: torch.Tensor, shape=(m, T, out_window), or None
	peak_controls: torch.Tensor, shape=(n, Tc, in_window + 2 * max_jitter), or None
	negative_controls: torch.Tensor, shape=(m, Tc, in_window), or None
	negative_ratio: float, default 0.1
		Negatives an epoch for each peak: int(n_peaks * negative_ratio) of them.
	in_window, out_window: int, default 2114 and 1000
		Widths of the input and of the output, in bp.
	max_jitter: int, default 0
		A peak's window starts at a place uniform in 0, …, 2 * max_jitter of its widened window.
	reverse_complement: bool, default False
		Flip each example with probability 1/2: the sequence is reversed and complemented, signals and controls are
		reversed along positions, and their channels within each group.
	shuffle: bool, default True
		Draw a new order of the peaks each epoch; else they come in the order given.
	random_state: int or None, default None
		The seed; None draws one, once, and keeps it in the attribute `random_state`.
	signal_groups, control_groups: sequence of int, or None
		Channels of each group; None takes all channels as one group.

	Raises
	------
	ValueError
		An argument is out of range or a shape does not fit; the message names it.
	"""

	def __init__(
		self,
		peak_sequences: torch.Tensor,
		peak_signals: torch.Tensor,
		negative_sequences: torch.Tensor | None,
		negative_signals: torch.Tensor | None,
		peak_controls: torch.Tensor | None = None,
		negative_controls: torch.Tensor | None = None,
		negative_ratio: float = 0.1,
		in_window: int = 2114,
		out_window: int = 1000,
		max_jitter: int = 0,
		reverse_complement: bool = False,
		shuffle: bool = True,
		random_state: int | None = None,
		*,
		signal_groups: Sequence[int] | None = None,
		control_groups: Sequence[int] | None = None,
	) -> None:
		_check_options(negative_ratio, in_window, out_window, max_jitter, random_state)
		self.peaks = _Arrays.of(peak_sequences, peak_signals, peak_controls)
		self.negatives = _Arrays.of(negative_sequences, negative_signals, negative_controls)
		self.n_peaks = self.peaks.check("peak", in_window, out_window, (2 * max_jitter,))
		self.n_negatives = self.negatives.check("negative", in_window, out_window, (0, 2 * max_jitter))
		if negative_ratio > 0 and not self.n_negatives:
			raise ValueError(
				f"negative_ratio is {negative_ratio}, but there are no negatives; give some or set it to 0"
			)
		if self.n_negatives:
			self.peaks.check_same_channels(self.negatives)
		self.negative_ratio, self.max_jitter = negative_ratio, max_jitter
		self.in_window, self.out_window = in_window, out_window
		self.reverse_complement, self.shuffle = reverse_complement, shuffle
		self.random_state = int(np.random.SeedSequence().generate_state(1)[0]) if random_state is None else random_state
		self.signal_groups = _groups("signal_groups", signal_groups, self.peaks.signals.shape[1])
		n_controls = 0 if self.peaks.controls is None else self.peaks.controls.shape[1]
		self.control_groups = _groups("control_groups", control_groups, n_controls)
		self._epoch, self._last_index = 0, -1
		self._planned: tuple[int, EpochPlan] | None = None

	def __len__(self) -> int:
		return self.n_peaks + int(self.n_peaks * self.negative_ratio)

	@property
	def epoch(self) -> int:
		"""The current epoch, which a bare index is of."""
		return self._epoch

	def set_epoch(self, epoch: int) -> None:
		"""Make `epoch` the current one."""
		self._epoch, self._last_index = int(epoch), -1

	@property
	def peak_ordering(self) -> np.ndarray:
		"""The peaks in the order of the current epoch, int64, shape=(n_peaks,)."""
		plan = self.plan(self._epoch)
		return plan.rows[plan.is_peak]

	def plan(self, epoch: int) -> EpochPlan:
		"""The plan of an epoch; the last one is kept."""
		if self._planned is None or self._planned[0] != epoch:
			plan = plan_epoch(
				self.random_state,
				epoch,
				n_peaks=self.n_peaks,
				n_negatives=self.n_negatives,
				n_drawn=len(self) - self.n_peaks,
				max_jitter=self.max_jitter,
				reverse_complement=self.reverse_complement,
				shuffle=self.shuffle,
			)
			self._planned = (epoch, plan)
		return self._planned[1]

	def __getitem__(self, index: int | tuple[int, int]) -> tuple:
		*tensors, label = self.batch([index])
		return (*(t[0] for t in tensors), int(label[0]))

	def __getitems__(self, indices: Sequence[int | tuple[int, int]]) -> Examples:
		"""Several examples at once, gathered with vectorised indexing."""
		return Examples(self.batch(indices))

	def batch(self, indices: Sequence[int | tuple[int, int]]) -> tuple[torch.Tensor, ...]:
		"""The examples as tensors: X (m, 4, in_window), X_ctl (m, Tc, in_window) if any, y (m, T, out_window), labels.

		Raises
		------
		IndexError
			An index is outside of 0, …, len - 1.
		"""
		pairs = [self._resolve(index) for index in indices]
		# Mostly one epoch; a batch that spans two is gathered in two parts, in order.
		parts = [
			self._gather(epoch, np.array([i for _, i in group], dtype=np.int64))
			for epoch, group in itertools.groupby(pairs, key=lambda pair: pair[0])
		]
		return parts[0] if len(parts) == 1 else tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))

	def _resolve(self, index: int | tuple[int, int]) -> tuple[int, int]:
		"""The (epoch, index) that an index names; a bare one may start the next epoch."""
		named = isinstance(index, (tuple, list))
		epoch, position = (int(v) for v in index) if named else (self._epoch, int(index))
		if not 0 <= position < len(self):
			raise IndexError(f"index {position} is outside of the epoch's {len(self)} examples")
		if epoch < 0:
			raise IndexError(f"epoch must be at least 0, got {epoch}")
		if not named:
			if position < self._last_index:
				self._epoch += 1
			self._last_index = position
			epoch = self._epoch
		return epoch, position

	def _gather(self, epoch: int, positions: np.ndarray) -> tuple[torch.Tensor, ...]:
		"""The examples at `positions` of one epoch as a batch."""
		plan = self.plan(epoch)
		rows, jitters = torch.from_numpy(plan.rows[positions]), torch.from_numpy(plan.jitters[positions])
		is_peak, flips = torch.from_numpy(plan.is_peak[positions]), torch.from_numpy(plan.flips[positions])
		X = self._windows("sequences", rows, jitters, is_peak, self.in_window)
		X = one_hot(X) if X.ndim == 2 else X.float()  # (m, in) -> (m, 4, in)
		X[flips] = X[flips].flip(1, 2)  # A, C, G, T reversed is T, G, C, A: the complement
		y = self._windows("signals", rows, jitters, is_peak, self.out_window).float()
		_flip(y, flips, self.signal_groups)
		labels = is_peak.long()
		if self.peaks.controls is None:
			return X, y, labels
		X_ctl = self._windows("controls", rows, jitters, is_peak, self.in_window).float()
		_flip(X_ctl, flips, self.control_groups)
		return X, X_ctl, y, labels

	def _windows(
		self, name: str, rows: torch.Tensor, jitters: torch.Tensor, is_peak: torch.Tensor, width: int
	) -> torch.Tensor:
		"""The windows of peaks and negatives in one new tensor, shape=(m, …, width)."""
		peaks, negatives = getattr(self.peaks, name), getattr(self.negatives, name)
		out = peaks.new_empty((len(rows), *peaks.shape[1:-1], width))
		out[is_peak] = _cut(peaks, rows[is_peak], jitters[is_peak], width)
		if not is_peak.all():
			spare = (negatives.shape[-1] - width) // 2
			out[~is_peak] = negatives[rows[~is_peak], ..., spare : spare + width].to(out.dtype)
		return out


class EpochBatchSampler:
	"""Batches of (epoch, index) pairs in order; each pass over it is the next epoch.

	Parameters
	----------
	sampler: PeakNegativeSampler
		Its current epoch follows, so that `peak_ordering` is that of the pass under way.
	batch_size: int
		Examples a batch; the last one of an epoch may hold fewer.
	"""

	def __init__(self, sampler: PeakNegativeSampler, batch_size: int) -> None:
		if batch_size < 1:
			raise ValueError(f"batch_size must be at least 1, got {batch_size}")
		self.sampler, self.batch_size = sampler, batch_size
		self._next = 0

	def set_epoch(self, epoch: int) -> None:
		"""Let the next pass be `epoch`."""
		if epoch < 0:
			raise ValueError(f"epoch must be at least 0, got {epoch}")
		self._next = int(epoch)

	def __len__(self) -> int:
		return -(-len(self.sampler) // self.batch_size)

	def __iter__(self) -> Iterator[list[tuple[int, int]]]:
		# A generator: loaders may ask for an iterator twice and use one, and only the used one may count as an epoch.
		epoch, self._next = self._next, self._next + 1
		self.sampler.set_epoch(epoch)
		n = len(self.sampler)
		for first in range(0, n, self.batch_size):
			yield [(epoch, i) for i in range(first, min(first + self.batch_size, n))]


@dataclass(frozen=True)
class _Arrays:
	"""The sequences, signals and controls of peaks or of negatives."""

	sequences: torch.Tensor | None
	signals: torch.Tensor | None
	controls: torch.Tensor | None

	@classmethod
	def of(cls, *arrays: Any) -> "_Arrays":
		"""Tensors of arrays; None stays None."""
		return cls(*(None if a is None else torch.as_tensor(a) for a in arrays))

	def check(self, kind: str, in_window: int, out_window: int, spares: tuple[int, ...]) -> int:
		"""The number of loci; ValueError unless widths are the window plus one of `spares` and lengths agree."""
		if self.sequences is None or not len(self.sequences):
			if kind == "peak":
				raise ValueError("peak_sequences must hold at least one peak")
			return 0
		if self.signals is None:
			raise ValueError(f"{kind}_signals must be given with {kind}_sequences")
		dims = {"sequences": 2 if self.sequences.dtype == torch.uint8 and self.sequences.ndim == 2 else 3}
		for name, window in (("sequences", in_window), ("signals", out_window), ("controls", in_window)):
			tensor = getattr(self, name)
			if tensor is None:
				continue
			widths = [window + spare for spare in spares]
			fits = tensor.ndim == dims.get(name, 3) and tensor.shape[-1] in widths
			fits &= len(tensor) == len(self.sequences)
			if not fits or (name == "sequences" and tensor.ndim == 3 and tensor.shape[1] != 4):
				shape = ("4" if name == "sequences" else "channels", " or ".join(map(str, widths)))
				raise ValueError(
					f"{kind}_{name} must have shape ({len(self.sequences)}, {', '.join(shape)}), got {[*tensor.shape]}"
				)
		return len(self.sequences)

	def check_same_channels(self, other: "_Arrays") -> None:
		"""Raise ValueError unless the negatives have the channels of the peaks."""
		for name in ("sequences", "signals", "controls"):
			a, b = getattr(self, name), getattr(other, name)
			if (a is None) != (b is None):
				raise ValueError(f"negative_{name} and peak_{name} must both be given, or neither")
			if a is not None and a.shape[1:-1] != b.shape[1:-1]:
				raise ValueError(
					f"negative_{name} must have the channels of peak_{name}, {tuple(a.shape[1:-1])}, "
					f"got {tuple(b.shape[1:-1])}"
				)


def _cut(array: torch.Tensor, rows: torch.Tensor, offsets: torch.Tensor, width: int) -> torch.Tensor:
	"""array[row, …, offset : offset + width] for each row and offset at once: shape=(m, …, width)."""
	if array.shape[-1] == width:
		return array[rows]
	windows = array.unfold(-1, width, 1)  # (n, …, L) -> (n, …, L - width + 1, width), a view
	if array.ndim == 2:
		return windows[rows, offsets]
	return windows[rows, :, offsets]  # advanced indices around a slice put their axis first: (m, channels, width)


def _flip(values: torch.Tensor, flips: torch.Tensor, groups: Sequence[int]) -> None:
	"""Reverse positions, and channels within each group, of the flipped examples in place, shape=(m, T, L)."""
	order = torch.tensor(reverse_complement_order(groups))
	values[flips] = values[flips][:, order].flip(-1)


def _groups(name: str, groups: Sequence[int] | None, n_channels: int) -> tuple[int, ...]:
	"""The checked groups of `n_channels` channels; None is one group of them all."""
	if groups is None or not n_channels:
		return (n_channels,) if n_channels else ()
	groups = check_signal_groups(groups)
	if sum(groups) != n_channels:
		raise ValueError(f"{name} {list(groups)} must add up to the {n_channels} channels there are, not {sum(groups)}")
	return groups


def _check_options(
	negative_ratio: float, in_window: int, out_window: int, max_jitter: int, random_state: int | None
) -> None:
	"""Raise ValueError naming the first argument that is out of range."""
	if not negative_ratio >= 0:
		raise ValueError(f"negative_ratio must be at least 0, got {negative_ratio}")
	widths = (("in_window", in_window, 1), ("out_window", out_window, 1), ("max_jitter", max_jitter, 0))
	for name, value, least in widths:
		if value < least:
			raise ValueError(f"{name} must be at least {least}, got {value}")
	if random_state is not None and (int(random_state) != random_state or random_state < 0):
		raise ValueError(f"random_state must be None or a whole number of at least 0, got {random_state}")
