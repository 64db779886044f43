"""Which examples an epoch holds, and how they are gathered. No files: arrays in, batches out.

What example (seed, epoch, index) is depends on those three alone. The whole plan of an epoch (which peak or negative
stands where, with which jitter, flipped or not) is a pure function of seed and epoch, so workers need no messages.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from cherimoya.groups import check_signal_groups, reverse_complement_order
from cherimoya.io._sharing import SharedArray
from cherimoya.io.batches import CompactBatch

_AHEAD_BYTES = 1 << 21  # as much as fits into a core's cache
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


class Positions(Sequence):
	"""The positions [first, last) of an epoch: pairs (epoch, position) that take no time to make or send."""

	__slots__ = ("epoch", "first", "last")

	def __init__(self, epoch: int, first: int, last: int) -> None:
		self.epoch, self.first, self.last = epoch, first, last

	def __len__(self) -> int:
		return self.last - self.first

	def __getitem__(self, index: int) -> tuple[int, int]:
		return self.epoch, range(self.first, self.last)[index]

	def __repr__(self) -> str:
		return f"Positions({self.epoch}, {self.first}, {self.last})"


class Examples(Sequence):
	"""Examples one by one, as the default collation wants them, that are also one batch.

	Parameters
	----------
	compact: CompactBatch
		The examples.
	"""

	def __init__(self, compact: CompactBatch) -> None:
		self.compact = compact
		self._items: list[tuple] | None = None

	@property
	def batch(self) -> tuple[torch.Tensor, ...]:
		"""The examples as a batch of encoded tensors."""
		return self.compact.encode()

	def __len__(self) -> int:
		return len(self.compact)

	def __getitem__(self, index: int) -> tuple:
		if self._items is None:
			*tensors, labels = self.batch
			self._items = list(zip(*(tensor.unbind() for tensor in tensors), labels.tolist(), strict=True))
		return self._items[index]


def collate(examples: Examples) -> tuple[torch.Tensor, ...]:
	"""The examples as a batch of encoded tensors, `(X, y, labels)` or `(X, X_ctl, y, labels)`."""
	return examples.batch


def collate_compact(examples: Examples) -> CompactBatch:
	"""The examples as a batch that is yet to be encoded."""
	return examples.compact


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
		self.signal_groups = _groups("signal_groups", signal_groups, self.peaks["signals"].shape[1])
		n_controls = 0 if self.peaks["controls"] is None else self.peaks["controls"].shape[1]
		self.control_groups = _groups("control_groups", control_groups, n_controls)
		self._epoch, self._last_index = 0, -1
		self._planned: tuple[int, EpochPlan] | None = None
		self._ahead = _NONE_AHEAD
		self._n_ahead = _AHEAD_BYTES // self._bytes_of_one()

	def __getstate__(self) -> dict[str, Any]:
		# A process makes its own plans and blocks, which take longer to send.
		return {**self.__dict__, "_planned": None, "_ahead": _NONE_AHEAD}

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
		planned = self._planned
		if planned is None or planned[0] != epoch:
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
			return plan  # another thread may plan another epoch by now
		return planned[1]

	def __getitem__(self, index: int | tuple[int, int]) -> tuple:
		*tensors, label = self.batch([index])
		return (*(t[0] for t in tensors), int(label[0]))

	def __getitems__(self, indices: Sequence[int | tuple[int, int]]) -> Examples:
		"""Several examples at once, gathered with vectorised indexing."""
		return Examples(self.compact_batch(indices))

	def batch(self, indices: Sequence[int | tuple[int, int]]) -> tuple[torch.Tensor, ...]:
		"""The examples as tensors: X (m, 4, in_window), X_ctl (m, Tc, in_window) if any, y (m, T, out_window), labels.

		Raises
		------
		IndexError
			An index is outside of 0, …, len - 1.
		"""
		return self.compact_batch(indices).encode()

	def compact_batch(self, indices: Sequence[int | tuple[int, int]]) -> CompactBatch:
		"""The examples before they are encoded; see :meth:`batch`."""
		if isinstance(indices, Positions):
			return self._in_order(indices)
		pairs = [self._resolve(index) for index in indices]
		# Mostly one epoch; a batch that spans two is gathered in two parts, in order.
		parts = [
			self._gather(epoch, np.array([i for _, i in group], dtype=np.int64))
			for epoch, group in itertools.groupby(pairs, key=lambda pair: pair[0])
		]
		return CompactBatch.join(parts) if parts else self._gather(self._epoch, slice(0, 0))

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

	def _bytes_of_one(self) -> int:
		"""The size of one example in a compact batch."""
		arrays = [(self.peaks[k], w) for k, w in (("sequences", self.in_window), ("signals", self.out_window))]
		arrays += [(self.peaks["controls"], self.in_window)] if self.peaks["controls"] is not None else []
		return sum(int(np.prod(a.shape[1:-1])) * width * a.dtype.itemsize for a, width in arrays)

	def _in_order(self, positions: Positions) -> CompactBatch:
		"""The examples at consecutive positions; one batch after the other comes out of larger blocks."""
		epoch, first, last = positions.epoch, positions.first, positions.last
		if not 0 <= first <= last <= len(self):
			raise IndexError(f"{positions} leaves the epoch's {len(self)} examples")
		ahead = self._ahead
		follows = (epoch, first) == (ahead.epoch, ahead.at)
		if not follows or last > ahead.start + len(ahead.block):
			end = min(max(last, first + self._n_ahead), len(self)) if follows else last
			ahead = _Ahead(epoch, first, last, self._gather(epoch, slice(first, end)))
		# What was handed out is never handed out again: a batch is its owner's to change.
		self._ahead = ahead._replace(at=last)
		return ahead.block[first - ahead.start : last - ahead.start]

	def _gather(self, epoch: int, positions: np.ndarray | slice) -> CompactBatch:
		"""The examples at `positions` of one epoch."""
		plan = self.plan(epoch)
		rows, is_peak = plan.rows[positions], plan.is_peak[positions]
		places = _Places(
			rows=np.where(is_peak, rows, 0),
			offsets=plan.jitters[positions],
			others=np.flatnonzero(~is_peak),
			other_rows=rows[~is_peak],
		)
		flips = np.flatnonzero(plan.flips[positions])
		sequences = self._windows("sequences", places, self.in_window)
		_reverse_complement(sequences, flips)
		signals = self._windows("signals", places, self.out_window)
		_reverse(signals, flips, self.signal_groups)
		controls = None
		if self.peaks["controls"] is not None:
			controls = self._windows("controls", places, self.in_window)
			_reverse(controls, flips, self.control_groups)
		labels = is_peak.astype(np.int64)
		return CompactBatch(
			*(None if a is None else torch.from_numpy(a) for a in (sequences, signals, controls, labels))
		)

	def _windows(self, name: str, places: "_Places", width: int) -> np.ndarray:
		"""The windows of peaks and negatives in one new array, shape=(m, …, width)."""
		out, negatives = self.peaks.cut(name, places.rows, places.offsets, width), self.negatives[name]
		if negatives is not None:
			out = out.astype(np.result_type(out, negatives), copy=False)
			if len(places.others):
				spare = (negatives.shape[-1] - width) // 2
				out[places.others] = negatives[places.other_rows, ..., spare : spare + width]
		return out


class EpochBatchSampler:
	"""Batches of (epoch, index) pairs in order; each pass over it is the next epoch.

	With several ranks each global batch of `batch_size` examples is shared out in order: rank r of R gets those from
	n * r // R to n * (r + 1) // R of its n. Shares differ by at most one example, and all ranks take the same number of
	steps; in the last, smaller batch of an epoch a rank's share may be empty, and its batch then has no examples.

	Parameters
	----------
	sampler: PeakNegativeSampler
		Its current epoch follows, so that `peak_ordering` is that of the pass under way.
	batch_size: int
		Examples of a batch, over all ranks; the last one of an epoch may hold fewer.
	rank: int, default 0
		Which share of each batch this is.
	world_size: int, default 1
		The number of ranks.

	Raises
	------
	ValueError
		An argument is out of range; the message names it.
	"""

	def __init__(self, sampler: PeakNegativeSampler, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
		if batch_size < 1:
			raise ValueError(f"batch_size must be at least 1, got {batch_size}")
		if world_size < 1:
			raise ValueError(f"world_size must be at least 1, got {world_size}")
		if not 0 <= rank < world_size:
			raise ValueError(f"rank must be at least 0 and below world_size, {world_size}, got {rank}")
		self.sampler, self.batch_size = sampler, batch_size
		self.rank, self.world_size = rank, world_size
		self._next = (0, 0)

	def set_epoch(self, epoch: int) -> None:
		"""Let the next pass be `epoch`."""
		self.start_at(epoch, 0)

	def start_at(self, epoch: int, batch: int) -> None:
		"""Let the next pass be `epoch` from its batch number `batch`, from 0, on; passes after it are whole."""
		if epoch < 0:
			raise ValueError(f"epoch must be at least 0, got {epoch}")
		if not 0 <= batch <= len(self):
			raise ValueError(f"batch must be at least 0 and at most {len(self)}, got {batch}")
		self._next = (int(epoch), int(batch))

	def __len__(self) -> int:
		return -(-len(self.sampler) // self.batch_size)

	def __iter__(self) -> Iterator[Positions]:
		# A generator: loaders may ask for an iterator twice and use one, and only the used one may count as an epoch.
		epoch, start = self._next
		self._next = (epoch + 1, 0)
		self.sampler.set_epoch(epoch)
		for batch in range(start, len(self)):
			yield self._share(epoch, batch)

	def _share(self, epoch: int, batch: int) -> Positions:
		"""The rank's part of one batch."""
		first = batch * self.batch_size
		n = min(self.batch_size, len(self.sampler) - first)
		start, end = (first + n * r // self.world_size for r in (self.rank, self.rank + 1))
		return Positions(epoch, start, end)


class _Ahead(NamedTuple):
	"""A block of examples gathered at once: from position `start` of an epoch, and handed out up to `at`."""

	epoch: int
	start: int
	at: int
	block: CompactBatch | None


_NONE_AHEAD = _Ahead(-1, 0, 0, None)


class _Places(NamedTuple):
	"""Where the m examples of a batch come from.

	Attributes
	----------
	rows, offsets: numpy.ndarray of int64, shape=(m,)
		The peak of each, and where in its widened window its window starts; 0 for negatives, which replace it then.
	others, other_rows: numpy.ndarray of int64, shape=(number of negatives,)
		The examples that are negatives, and which ones.
	"""

	rows: np.ndarray
	offsets: np.ndarray
	others: np.ndarray
	other_rows: np.ndarray


@dataclass(frozen=True)
class _Arrays:
	"""The sequences, signals and controls of peaks or of negatives; `arrays["signals"]` is an array, or None."""

	sequences: SharedArray | None
	signals: SharedArray | None
	controls: SharedArray | None

	@classmethod
	def of(cls, *sources: Any) -> "_Arrays":
		"""The arrays of tensors or arrays; None stays None."""
		return cls(*(None if source is None else SharedArray(source) for source in sources))

	def __getitem__(self, name: str) -> np.ndarray | None:
		held = getattr(self, name)
		return None if held is None else held.array

	def cut(self, name: str, rows: np.ndarray, offsets: np.ndarray, width: int) -> np.ndarray:
		"""array[row, …, offset : offset + width] for each row and offset at once: a new array, shape=(m, …, width)."""
		array = self[name]
		if array.shape[-1] == width:
			return array[rows]
		# (n, …, L) -> (n, …, L - width + 1, width), a view. Indices around an ellipsis put their axis first.
		windows = np.lib.stride_tricks.sliding_window_view(array, width, axis=-1)
		return windows[rows, ..., offsets, :]

	def check(self, kind: str, in_window: int, out_window: int, spares: tuple[int, ...]) -> int:
		"""The number of loci; ValueError unless widths are the window plus one of `spares` and lengths agree."""
		sequences = self["sequences"]
		if sequences is None or not len(sequences):
			if kind == "peak":
				raise ValueError("peak_sequences must hold at least one peak")
			return 0
		if self.signals is None:
			raise ValueError(f"{kind}_signals must be given with {kind}_sequences")
		dims = {"sequences": 2 if sequences.dtype == np.uint8 and sequences.ndim == 2 else 3}
		for name, window in (("sequences", in_window), ("signals", out_window), ("controls", in_window)):
			array = self[name]
			if array is None:
				continue
			widths = [window + spare for spare in spares]
			fits = array.ndim == dims.get(name, 3) and array.shape[-1] in widths
			fits &= len(array) == len(sequences)
			if not fits or (name == "sequences" and array.ndim == 3 and array.shape[1] != 4):
				shape = ("4" if name == "sequences" else "channels", " or ".join(map(str, widths)))
				raise ValueError(
					f"{kind}_{name} must have shape ({len(sequences)}, {', '.join(shape)}), got {[*array.shape]}"
				)
		return len(sequences)

	def check_same_channels(self, other: "_Arrays") -> None:
		"""Raise ValueError unless the negatives have the channels of the peaks."""
		for name in ("sequences", "signals", "controls"):
			a, b = self[name], other[name]
			if (a is None) != (b is None):
				raise ValueError(f"negative_{name} and peak_{name} must both be given, or neither")
			if a is not None and a.shape[1:-1] != b.shape[1:-1]:
				raise ValueError(
					f"negative_{name} must have the channels of peak_{name}, {a.shape[1:-1]}, got {b.shape[1:-1]}"
				)


def _reverse_complement(sequences: np.ndarray, rows: np.ndarray) -> None:
	"""Reverse complement some of the sequences, in place: codes of shape (m, L), or one-hot of shape (m, 4, L)."""
	if len(rows):
		reverse = _reversed(sequences[rows])
		# 0, 1, 2, 3 become 3, 2, 1, 0; and 4, which is no base, becomes 7, which is none either.
		sequences[rows] = reverse ^ np.uint8(3) if sequences.ndim == 2 else reverse


def _reverse(values: np.ndarray, rows: np.ndarray, groups: Sequence[int]) -> None:
	"""Reverse positions, and channels within each group, of some of the examples, in place; shape=(m, T, L)."""
	if len(rows):
		reverse = _reversed(values[rows])
		# All channels are reversed by now: of those, the channels that stand where the groups want them.
		order = [values.shape[1] - 1 - channel for channel in reverse_complement_order(groups)]
		values[rows] = reverse if len(groups) == 1 else reverse[:, order]


def _reversed(rows: np.ndarray) -> np.ndarray:
	"""A copy with all axes but the first reversed; torch takes many bytes at a time, but knows few types."""
	kind = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}[rows.dtype.itemsize]
	flat = torch.from_numpy(rows.reshape(len(rows), -1).view(kind))
	return flat.flip(1).numpy().view(rows.dtype).reshape(rows.shape)


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
