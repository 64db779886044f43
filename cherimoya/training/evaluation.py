"""Measures of a model on loci, and of the two baselines that it has to beat."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from cherimoya.errors import InputError, join_problems
from cherimoya.groups import reverse_complement_order
from cherimoya.interpret._batches import in_batches
from cherimoya.io._files import replacing
from cherimoya.performance import COUNT_MEASURES, PROFILE_MEASURES, auprc, auroc, calculate_performance_measures

if TYPE_CHECKING:
	from cherimoya.io import Windows

PSEUDOCOUNT = 1.0


@dataclass(frozen=True)
class Examples:
	"""Sequences, controls and signals to compute measures on, in batches, whatever they came as.

	Attributes
	----------
	windows: cherimoya.io.Windows or None
		Where they come from; the rest is None then, and batches are encoded when they are taken.
	X: torch.Tensor or None, shape=(n, 4, L)
	X_ctl: torch.Tensor or None, shape=(n, n_control_tracks, L)
	y: torch.Tensor or None, shape=(n, T, out)
	"""

	windows: "Windows | None" = None
	X: torch.Tensor | None = None
	X_ctl: torch.Tensor | None = None
	y: torch.Tensor | None = None

	@classmethod
	def of(cls, source: "Windows | tuple[torch.Tensor, ...]") -> "Examples":
		"""Take windows (their centres), ``(X, y)`` or ``(X, X_ctl, y)``; InputError for anything else."""
		if isinstance(source, tuple | list):
			return cls._of_tensors(source)
		if not hasattr(source, "signals"):
			raise InputError(f"expected windows, (X, y) or (X, X_ctl, y), got {type(source).__name__}")
		if source.signals is None:
			raise InputError("these windows have no signals; extract them with signals=...")
		return cls(windows=source.centre())

	@classmethod
	def _of_tensors(cls, tensors: Sequence[torch.Tensor]) -> "Examples":
		"""Take ``(X, y)`` or ``(X, X_ctl, y)``."""
		if len(tensors) not in (2, 3):
			raise InputError(f"expected (X, y) or (X, X_ctl, y), got {len(tensors)} tensors")
		tensors = [None if tensor is None else torch.as_tensor(tensor) for tensor in tensors]
		lengths = [len(tensor) for tensor in tensors if tensor is not None]
		if len(set(lengths)) > 1:
			raise InputError(f"X, X_ctl and y must hold the same loci, but hold {lengths} of them")
		return cls(X=tensors[0], X_ctl=tensors[1] if len(tensors) == 3 else None, y=tensors[-1])

	def __len__(self) -> int:
		return self.shape[0]

	@property
	def shape(self) -> tuple[int, int, int]:
		"""n, T and out."""
		return tuple(self.y.shape if self.windows is None else self.windows.signals.shape)

	@property
	def in_window(self) -> int:
		"""L."""
		return self.X.shape[-1] if self.windows is None else self.windows.codes.shape[-1]

	@property
	def n_controls(self) -> int:
		"""Control channels."""
		controls = self.X_ctl if self.windows is None else self.windows.controls
		return 0 if controls is None else controls.shape[1]

	def batches(
		self, batch_size: int, device: torch.device | str = "cpu", *, among: range | None = None
	) -> Iterator[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]]:
		"""Batches of (X, X_ctl, y) in order, as float32 on the device; of all examples, or those `among` a range."""
		among = range(len(self)) if among is None else among
		for start in among[::batch_size]:
			yield self.take(slice(start, min(start + batch_size, among.stop)), device)

	def take(
		self, index: slice | list[int], device: torch.device | str = "cpu"
	) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
		"""(X, X_ctl, y) of some examples, as float32 on the device."""
		if self.windows is None:
			parts = self.X[index], None if self.X_ctl is None else self.X_ctl[index], self.y[index]
		else:
			parts = self.windows.X(index), self.windows.X_ctl(index), self.windows.y(index)
		X, X_ctl, y = (None if part is None else part.to(device, torch.float32) for part in parts)
		return X, X_ctl, y

	def problems(self, model: nn.Module) -> list[str]:
		"""In what the examples do not fit the model; see `fit_problems`."""
		groups = tuple(model.signal_groups) if self.shape[1] == model.n_outputs else (1,) * self.shape[1]
		return fit_problems(
			model,
			in_window=self.in_window,
			out_window=self.shape[-1],
			signal_groups=groups if self.windows is None else self.windows.signal_groups,
			n_controls=self.n_controls,
		)

	def observed(self, signal_groups: Sequence[int], *, batch_size: int = 1024) -> torch.Tensor:
		"""Observed counts of each group, (n, G), float32."""
		parts = []
		for start in range(0, len(self), batch_size):
			index = slice(start, start + batch_size)
			parts.append(group_counts(self.y[index] if self.windows is None else self.windows.y(index), signal_groups))
		return torch.cat(parts).float()


def fit_problems(
	model: nn.Module, *, in_window: int, out_window: int, signal_groups: Sequence[int], n_controls: int
) -> list[str]:
	"""In what data do not fit a model, each with its remedy; an empty list if they do.

	Parameters
	----------
	model: cherimoya.Cherimoya
		The model that is to read them.
	in_window, out_window: int, bp
		Widths of the sequences and of the signals.
	signal_groups: sequence of int
		Channels of each group of the signals.
	n_controls: int
		Control channels.
	"""
	problems = []
	cut = 2 * model.trimming
	trims = f"the model cuts {model.trimming} bp from each side"
	if in_window <= cut:
		problems.append(
			f"in_window is {in_window}, too short: {trims}; "
			f"set in_window to {out_window + cut} for an out_window of {out_window}"
		)
	elif in_window - cut != out_window:
		problems.append(
			f"an in_window of {in_window} gives predictions of {in_window - cut} bp ({trims}), but out_window is "
			f"{out_window}; set in_window to {out_window + cut}, or out_window to {in_window - cut}"
		)
	if sum(signal_groups) != model.n_outputs:
		problems.append(
			f"the model predicts {model.n_outputs} channels, but the signals have {sum(signal_groups)}; "
			"give as many signals as the model was trained on"
		)
	elif tuple(signal_groups) != tuple(model.signal_groups):
		problems.append(
			f"the model predicts groups of {list(model.signal_groups)} channels, but the signals make groups of "
			f"{list(signal_groups)}; give the signals that the model was trained on, in the same order and nesting"
		)
	if n_controls != model.n_control_tracks:
		problems.append(
			f"the model takes {model.n_control_tracks} control tracks, but {n_controls} were given; "
			+ (f"give {model.n_control_tracks} in controls" if model.n_control_tracks else "set controls to null")
		)
	return problems


def check_fits_data(model: nn.Module, windows: "Windows | tuple[torch.Tensor, ...]", *, source: str = "model") -> None:
	"""InputError, naming `source` (such as the model's file), unless the examples fit the model."""
	problems = Examples.of(windows).problems(model)
	if problems:
		raise InputError(f"{source}: " + join_problems(problems))


def profile_measures(
	logits: torch.Tensor,
	y: torch.Tensor,
	signal_groups: Sequence[int],
	*,
	measures: Sequence[str] = PROFILE_MEASURES,
) -> dict[str, torch.Tensor]:
	"""Profile measures of a batch, on the softmax over positions of each channel; each (n, T), on the CPU."""
	logps = torch.log_softmax(logits.float(), dim=-1)
	dummy = logps.new_zeros(len(logps), len(signal_groups))
	result = calculate_performance_measures(logps, y, dummy, measures=list(measures), signal_groups=list(signal_groups))
	return {name: result[name].cpu() for name in measures}


def count_measures(log_counts: torch.Tensor, counts: torch.Tensor) -> dict[str, torch.Tensor]:
	"""Count measures over all loci, on log(1 + counts); each (G,).

	Parameters
	----------
	log_counts: torch.Tensor, shape=(n, G)
		Predicted log(1 + counts).
	counts: torch.Tensor, shape=(n, G)
		Observed counts.
	"""
	observed = counts.unsqueeze(-1).float()  # (n, G) -> (n, G, 1)
	result = calculate_performance_measures(
		torch.zeros_like(observed),
		observed,
		log_counts.float(),
		measures=list(COUNT_MEASURES),
		signal_groups=[1] * counts.shape[1],
	)
	return {name: result[name] for name in COUNT_MEASURES}


class Evaluation(NamedTuple):
	"""A model's measures on loci; n loci, m negatives, T channels, G groups.

	Attributes
	----------
	rows: list of dict
		One per group: ``profile_mnll, profile_jsd, profile_pearson, profile_spearman`` (means over loci and
		the channels of the group, leaving out NaN), ``count_pearson, count_spearman, count_mse``; and, with
		negatives, ``all_count_pearson, all_count_spearman, all_count_mse, auroc, auprc`` over both.
	signal_groups: tuple of int
	profile: dict of str to np.ndarray, shape=(n, T)
		The four profile measures of each locus.
	observed_counts, predicted_log_counts: np.ndarray, shape=(n, G)
	negative_observed_counts, negative_predicted_log_counts: np.ndarray or None, shape=(m, G)
	example_index: np.ndarray, shape=(3,)
		The loci with the best, the median and the worst profile Pearson (mean over channels) among those
		with at least the median count (summed over channels): sparse loci tell little about a profile.
	example_observed, example_predicted: np.ndarray, shape=(3, T, out)
		Their observed and expected counts.
	"""

	rows: list[dict[str, float]]
	signal_groups: tuple[int, ...]
	profile: dict[str, np.ndarray]
	observed_counts: np.ndarray
	predicted_log_counts: np.ndarray
	negative_observed_counts: np.ndarray | None
	negative_predicted_log_counts: np.ndarray | None
	example_index: np.ndarray
	example_observed: np.ndarray
	example_predicted: np.ndarray


def evaluate(
	model: nn.Module,
	windows: "Windows | tuple[torch.Tensor, ...]",
	negatives: "Windows | tuple[torch.Tensor, ...] | None" = None,
	*,
	batch_size: int = 64,
	device: torch.device | str = "cpu",
	dtype: str = "float32",
	reverse_complement_average: bool = False,
	control_groups: Sequence[int] | None = None,
) -> Evaluation:
	"""Measure a model on peaks, and on peaks against negatives.

	Memory holds one batch of predictions at a time, and per-locus numbers of all.

	Parameters
	----------
	model: cherimoya.Cherimoya
		Left on `device`, in evaluation mode.
	windows: cherimoya.io.Windows or tuple of tensors
		The peaks: windows with signals (their centres are used), ``(X, y)`` or ``(X, X_ctl, y)``.
	negatives: the same, or None
		Background loci.
	batch_size: int, loci
		Default 64. A batch that does not fit in memory is halved.
	device: torch.device or str
		Default "cpu".
	dtype: str
		"float32" (default), or "bfloat16" or "float16" for autocast.
	reverse_complement_average: bool
		Average the logits and log counts with those of the reverse complement, whose channels are swapped
		within each group only. Default False.
	control_groups: sequence of int or None
		Channels per group of controls, for their reverse complement. Default None: those of the windows,
		or each channel a group of its own for tensors.

	Returns
	-------
	evaluation: Evaluation

	Raises
	------
	InputError
		The data do not fit the model, there are no loci, or a single one does not fit in memory.
	"""
	device = torch.device(device)
	examples = Examples.of(windows)
	background = None if negatives is None else Examples.of(negatives)
	_check(model, examples, background)
	model.to(device).eval()
	forward = _Forward(model, device, dtype, reverse_complement_average, _control_groups(examples, control_groups))

	profile: dict[str, list[torch.Tensor]] = {name: [] for name in PROFILE_MEASURES}
	observed, predicted = [], []
	for measures, batch_counts, batch_log_counts in forward.over(examples, batch_size, profiles=True):
		for name, values in measures.items():
			profile[name].append(values)
		observed.append(batch_counts)
		predicted.append(batch_log_counts)
	per_locus = {name: torch.cat(parts) for name, parts in profile.items()}  # (n, T) each
	counts, log_counts = torch.cat(observed), torch.cat(predicted)  # (n, G)
	away, away_log = _background_counts(forward, background, batch_size)
	index = _example_loci(per_locus["profile_pearson"], counts)
	shown, expected = _example_profiles(forward, examples, index)
	return Evaluation(
		rows=_rows(per_locus, counts, log_counts, away, away_log, model.signal_groups),
		signal_groups=tuple(model.signal_groups),
		profile={name: values.numpy() for name, values in per_locus.items()},
		observed_counts=counts.numpy(),
		predicted_log_counts=log_counts.numpy(),
		negative_observed_counts=None if away is None else away.numpy(),
		negative_predicted_log_counts=None if away_log is None else away_log.numpy(),
		example_index=index,
		example_observed=shown,
		example_predicted=expected,
	)


@dataclass(frozen=True)
class _Forward:
	"""A model's predictions without gradients, averaged over both strands where wanted."""

	model: nn.Module
	device: torch.device
	dtype: str
	both_strands: bool
	control_groups: tuple[int, ...]

	@torch.no_grad()
	def __call__(self, X: torch.Tensor, X_ctl: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
		"""Logits (n, T, out) and log counts (n, G), float32, on the device."""
		logits, log_counts = self._once(X, X_ctl)
		if not self.both_strands:
			return logits, log_counts
		order = reverse_complement_order(self.control_groups)
		flipped = None if X_ctl is None else X_ctl[:, order].flip(-1)
		# A, C, G, T reversed is T, G, C, A: flipping both axes is the reverse complement.
		other, other_counts = self._once(X.flip(1, 2), flipped)
		other = other[:, reverse_complement_order(self.model.signal_groups)].flip(-1)
		return (logits + other) / 2, (log_counts + other_counts) / 2

	def over(
		self, examples: Examples, batch_size: int, *, profiles: bool
	) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]]:
		"""For each batch the profile measures if wanted, (n, T) each, and counts and log counts (n, G), on the CPU.

		A batch that does not fit in memory is halved, as are later ones.
		"""
		groups = self.model.signal_groups

		def compute(rows: slice) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
			X, X_ctl, y = examples.take(rows, self.device)
			logits, log_counts = self(X, X_ctl)
			measures = profile_measures(logits, y, groups) if profiles else {}
			return measures, group_counts(y, groups).cpu(), log_counts.cpu()

		for _, found in in_batches(len(examples), batch_size, compute, device=self.device, what="locus"):
			yield found

	def _once(self, X: torch.Tensor, X_ctl: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
		"""One forward pass."""
		half = self.dtype != "float32"
		with torch.autocast(self.device.type, dtype=getattr(torch, self.dtype)) if half else nullcontext():
			logits, log_counts = self.model(X) if X_ctl is None else self.model(X, X_ctl)
		return logits.float(), log_counts.float()


def group_counts(y: torch.Tensor, signal_groups: Sequence[int]) -> torch.Tensor:
	"""Total counts of each group: (n, T, out) -> (n, G)."""
	return torch.stack([part.sum((1, 2)) for part in y.split(list(signal_groups), dim=1)], dim=1)


def _check(model: nn.Module, examples: Examples, background: Examples | None) -> None:
	"""InputError unless there are loci and all of them fit the model."""
	problems = ["there are no loci to evaluate on; give at least one"] if len(examples) == 0 else []
	problems += examples.problems(model)
	if background is not None:
		problems += [f"negatives: {problem}" for problem in background.problems(model)]
	if problems:
		raise InputError(join_problems(problems))


def _control_groups(examples: Examples, control_groups: Sequence[int] | None) -> tuple[int, ...]:
	"""The groups of the control channels."""
	n_channels = examples.n_controls
	if control_groups is None:
		control_groups = getattr(examples.windows, "control_groups", None) or (1,) * n_channels
	if sum(control_groups) != n_channels:
		raise InputError(f"control_groups {list(control_groups)} do not add up to the {n_channels} control channels")
	return tuple(control_groups)


def _background_counts(
	forward: _Forward, background: Examples | None, batch_size: int
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
	"""Observed counts and predicted log counts (m, G) of the negatives; None without any."""
	if background is None or len(background) == 0:
		return None, None
	observed, predicted = [], []
	for _, counts, log_counts in forward.over(background, batch_size, profiles=False):
		observed.append(counts)
		predicted.append(log_counts)
	return torch.cat(observed), torch.cat(predicted)


def _rows(
	per_locus: Mapping[str, torch.Tensor],
	counts: torch.Tensor,
	log_counts: torch.Tensor,
	away: torch.Tensor | None,
	away_log: torch.Tensor | None,
	signal_groups: Sequence[int],
) -> list[dict[str, float]]:
	"""The measures of each group as plain numbers."""
	on_peaks = count_measures(log_counts, counts)
	on_all = {} if away is None else count_measures(torch.cat([log_counts, away_log]), torch.cat([counts, away]))
	split = {name: values.split(list(signal_groups), dim=1) for name, values in per_locus.items()}
	rows = []
	for g in range(len(signal_groups)):
		row = {name: float(torch.nanmean(split[name][g].double())) for name in PROFILE_MEASURES}
		row |= {name: float(on_peaks[name][g]) for name in COUNT_MEASURES}
		if away is not None:
			row |= {f"all_{name}": float(on_all[name][g]) for name in COUNT_MEASURES}
			scores = torch.cat([log_counts[:, g], away_log[:, g]])
			labels = torch.cat([torch.ones(len(counts)), torch.zeros(len(away))])
			row |= {"auroc": float(auroc(scores, labels)), "auprc": float(auprc(scores, labels))}
		rows.append(row)
	return rows


def _example_loci(pearson: torch.Tensor, counts: torch.Tensor) -> np.ndarray:
	"""Indices of the best, median and worst profile among the loci with at least the median count."""
	mean = torch.nanmean(pearson, dim=1).nan_to_num(nan=-math.inf)  # (n, T) -> (n,)
	total = counts.sum(1)
	# torch's median is the lower one of the middle two, so that a locus always qualifies.
	enough = torch.nonzero(total >= total.median()).flatten()
	order = enough[torch.argsort(mean[enough], descending=True, stable=True)]
	return order[[0, (len(order) - 1) // 2, len(order) - 1]].numpy()


def _example_profiles(forward: _Forward, examples: Examples, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
	"""Observed and expected counts (3, T, out) of the example loci."""
	X, X_ctl, y = examples.take(index.tolist(), forward.device)
	logits, log_counts = forward(X, X_ctl)
	groups = list(forward.model.signal_groups)
	parts = []
	for g, part in enumerate(logits.split(groups, dim=1)):
		shares = torch.softmax(part.flatten(1), dim=1).view_as(part)  # over channels and positions jointly
		parts.append(shares * torch.expm1(log_counts[:, g])[:, None, None].clamp(min=0))
	return y.cpu().numpy(), torch.cat(parts, dim=1).cpu().numpy()


@dataclass(frozen=True)
class Baselines:
	"""What a model has to beat: counts from base composition alone, and one profile for every locus.

	Attributes
	----------
	coefficients: np.ndarray, shape=(3, G)
		Least-squares weights of (1, GC, CpG) for log(1 + counts).
	profile: np.ndarray, shape=(T, out)
		The mean training profile of each channel, which sums to 1.
	signal_groups: tuple of int
	n_training: int
		Peaks that it was fitted on.
	"""

	coefficients: np.ndarray
	profile: np.ndarray
	signal_groups: tuple[int, ...]
	n_training: int

	def log_counts(self, windows: "Windows") -> np.ndarray:
		"""Predicted log(1 + counts), shape (n, G), from the bases of the input windows."""
		return (_composition(windows.centre().codes) @ self.coefficients).astype(np.float32)

	def evaluate(
		self, windows: "Windows", negatives: "Windows | None" = None, *, batch_size: int = 256
	) -> list[dict[str, float]]:
		"""The rows that `evaluate` gives for a model, for these baselines."""
		examples = Examples.of(windows)
		if len(examples) == 0:
			raise InputError("there are no loci to evaluate the baselines on; give at least one")
		if examples.shape[1:] != self.profile.shape:
			raise InputError(
				f"the baselines were fitted on {self.profile.shape[0]} channels of {self.profile.shape[1]} bp, but "
				f"these loci have {examples.shape[1]} of {examples.shape[2]} bp; use the same signals and out_window"
			)
		profile = self._profile_measures(examples, PROFILE_MEASURES, batch_size)
		away = away_log = None
		if negatives is not None and len(negatives):
			away = Examples.of(negatives).observed(self.signal_groups)
			away_log = torch.from_numpy(self.log_counts(negatives))
		return _rows(
			profile,
			examples.observed(self.signal_groups),
			torch.from_numpy(self.log_counts(windows)),
			away,
			away_log,
			self.signal_groups,
		)

	def profile_pearson(self, windows: "Windows", *, batch_size: int = 256) -> np.ndarray:
		"""Pearson correlation of the mean training profile with each locus's profile, shape (n, T)."""
		measures = self._profile_measures(Examples.of(windows), ("profile_pearson",), batch_size)
		return measures["profile_pearson"].numpy()

	def _profile_measures(
		self, examples: Examples, measures: Sequence[str], batch_size: int
	) -> dict[str, torch.Tensor]:
		"""Profile measures of each locus, (n, T) each."""
		logits = torch.log(torch.from_numpy(self.profile)).float()
		parts: dict[str, list[torch.Tensor]] = {name: [] for name in measures}
		for _, _, y in examples.batches(batch_size):
			batch = profile_measures(logits.expand_as(y), y, self.signal_groups, measures=measures)
			for name, values in batch.items():
				parts[name].append(values)
		return {name: torch.cat(values) for name, values in parts.items()}


def fit_baselines(training: "Windows", negatives: "Windows | None" = None) -> Baselines:
	"""Fit both baselines on training loci.

	Counts: ordinary least squares of log(1 + counts of a group) on an intercept, the GC content and the
	CpG content of the input window (shares of its known bases, and of its known neighbouring pairs).
	Profile: the sum over peaks of the counts at each position, plus a pseudocount of 1, normalised over
	the positions of each channel.

	Parameters
	----------
	training: cherimoya.io.Windows
		Training peaks with signals; only their centres (without jitter) are used.
	negatives: cherimoya.io.Windows or None
		Training negatives; they join the count fit, and not the profile. Default None.

	Returns
	-------
	baselines: Baselines

	Raises
	------
	InputError
		There are no training peaks, or they have no signals.
	"""
	examples = Examples.of(training)
	if len(examples) == 0:
		raise InputError("there are no training loci to fit the baselines on; give at least one")
	groups = training.signal_groups
	features = [_composition(training.centre().codes)]
	counts = [examples.observed(groups)]
	if negatives is not None and len(negatives):
		features.append(_composition(negatives.centre().codes))
		counts.append(Examples.of(negatives).observed(groups))
	target = np.log1p(torch.cat(counts).double().numpy())  # (n + m, G)
	coefficients, *_ = np.linalg.lstsq(np.concatenate(features), target, rcond=None)
	total = examples.windows.signals.sum(0, dtype=np.float64) + PSEUDOCOUNT  # (n, T, out) -> (T, out)
	return Baselines(coefficients, total / total.sum(-1, keepdims=True), tuple(groups), len(examples))


def _composition(codes: np.ndarray) -> np.ndarray:
	"""Intercept, GC content and CpG content of base codes: (n, L) -> (n, 3)."""
	features = np.ones((len(codes), 3))
	for i, sequence in enumerate(codes):
		known = sequence < 4
		pairs = known[:-1] & known[1:]
		features[i, 1] = np.count_nonzero((sequence == 1) | (sequence == 2)) / max(1, np.count_nonzero(known))
		cpg = np.count_nonzero((sequence[:-1] == 1) & (sequence[1:] == 2))
		features[i, 2] = cpg / max(1, np.count_nonzero(pairs))
	return features


def write_performance(path: str | os.PathLike, rows: Sequence[Mapping[str, float]]) -> None:
	"""Write measures as tab-separated text: a header, and a line per group; atomic."""
	columns = list(rows[0])
	lines = ["\t".join(columns), *("\t".join(f"{row[column]:.6g}" for column in columns) for row in rows)]
	with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
		file.write("\n".join(lines) + "\n")
