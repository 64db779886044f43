"""The training loop: batches in, the best averaged weights and a log out."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import nn
from tqdm import tqdm

from cherimoya.ema import EMA
from cherimoya.errors import InputError, SettingsError, ToolError, join_problems
from cherimoya.losses import _mixture_loss
from cherimoya.training.evaluation import Examples, count_measures, group_counts, profile_measures
from cherimoya.training.monitor import (
	Logs,
	Pace,
	epoch_line,
	non_finite_message,
	non_finite_validation_message,
	opening,
)
from cherimoya.training.optimizers import build_optimizers, build_schedulers, planned_epochs
from cherimoya.training.options import TrainingOptions

if TYPE_CHECKING:
	from cherimoya.io import Windows

_SCORES = {
	"count_pearson": ("Validation Count Pearson", 1.0),
	"profile_pearson": ("Validation Profile Pearson", 1.0),
	"profile_mnll": ("Validation MNLL", -1.0),
	"count_mse": ("Validation Count MSE", -1.0),
	"loss": ("Validation Loss", -1.0),
}

_FREEZE_BELOW = 1.0


class History(NamedTuple):
	"""What a training run did.

	Attributes
	----------
	rows: list of dict
		One per epoch, with the columns of ``{name}.detailed.log``.
	best_epoch: int
		The epoch, from 0, whose weights ``{name}.torch`` holds.
	best_score: float
		Its value of the measure that ``select_on`` names, as the log shows it.
	seconds: float
		Wall time of the whole run.
	n_steps: int
		Optimizer steps taken.
	stopped_early: bool
		Whether ``early_stopping`` ended the run before its last planned epoch.
	paths: dict of str to str
		The files written: ``best``, ``final``, ``log``, ``detailed_log``.
	"""

	rows: list[dict[str, Any]]
	best_epoch: int
	best_score: float
	seconds: float
	n_steps: int
	stopped_early: bool
	paths: dict[str, str]


def training_loss(
	profile: torch.Tensor,
	count: torch.Tensor,
	lw0: torch.Tensor,
	lw1: torch.Tensor,
	*,
	loss_weights: tuple[float, float] | None = None,
	frozen: bool = False,
) -> torch.Tensor:
	"""One number to minimise out of the profile and count losses of each group.

	With learned weights, ``w0 = 1 / (2 lw0^2)`` and ``w1 = 1 / (2 lw1^2)``:
	``sum(w0 * profile) + sum(w1 * count) + sum(log(lw0)^2) + sum(log(lw1)^2)``. The squared logarithms
	keep both weights positive and the loss bounded below. They disappear once the weights are frozen.
	With fixed weights: ``sum(loss_weights[0] * profile) + sum(loss_weights[1] * count)``.

	Parameters
	----------
	profile, count: torch.Tensor, shape=(G,)
		The two results of `cherimoya.losses._mixture_loss`.
	lw0, lw1: torch.Tensor, shape=(G,)
		The model's learned weights.
	loss_weights: tuple of float or None
		Fixed weights of the two losses. Default None: learned.
	frozen: bool
		Whether `lw0` and `lw1` are constants by now. Default False.

	Returns
	-------
	loss: torch.Tensor, shape=()

	References
	----------
	Kendall, Gal and Cipolla, "Multi-task learning using uncertainty to weigh losses", CVPR 2018,
	equation 10, with a squared logarithm as the regulariser.
	"""
	if loss_weights is not None:
		return loss_weights[0] * profile.sum() + loss_weights[1] * count.sum()
	loss = (profile / (2 * lw0**2)).sum() + (count / (2 * lw1**2)).sum()
	if frozen:
		return loss
	return loss + (torch.log(lw0) ** 2).sum() + (torch.log(lw1) ** 2).sum()


def validation_loss(
	profile: torch.Tensor, count: torch.Tensor, *, loss_weights: tuple[float, float] | None = None
) -> torch.Tensor:
	"""One number to compare epochs by, which does not depend on what the loss weights have become.

	The training loss with learned weights falls as the weights adapt, however little the model improves. Minimised
	over a weight w, ``loss / (2 w^2) + log(w)`` is ``log(loss) / 2`` and a constant, so epochs are compared by
	``sum(log(profile)) + sum(log(count))``; with fixed weights by their weighted sum, as in training.

	Parameters
	----------
	profile, count: torch.Tensor, shape=(G,)
		The validation losses of each group.
	loss_weights: tuple of float or None
		Fixed weights of the two losses. Default None: learned.

	Returns
	-------
	loss: torch.Tensor, shape=()

	References
	----------
	Kendall, Gal and Cipolla, "Multi-task learning using uncertainty to weigh losses", CVPR 2018, equation 7.
	"""
	if loss_weights is not None:
		return loss_weights[0] * profile.sum() + loss_weights[1] * count.sum()
	least = torch.finfo(torch.float32).tiny
	return profile.clamp_min(least).log().sum() + count.clamp_min(least).log().sum()


def fit(
	model: nn.Module,
	training_data: Iterable,
	validation: "Windows | tuple[torch.Tensor, ...]",
	*,
	options: TrainingOptions | None = None,
	name: str | os.PathLike | None = None,
	device: str | torch.device = "cpu",
	optimizers: Sequence[torch.optim.Optimizer] | None = None,
	schedulers: Sequence[torch.optim.lr_scheduler.LRScheduler] | None = None,
	signal_groups: Sequence[int] | None = None,
	progress: Callable[[str], None] | None = None,
	bar: bool = False,
	**overrides: Any,
) -> History:
	"""Train a model, keeping the averaged weights that do best on the validation loci.

	Each step draws one batch, takes `training_loss`, steps every optimizer and schedule, and moves the
	average of the weights with decay ``min(ema_decay, (1 + t) / (10 + t))`` at step t. After each epoch
	the averaged weights are validated, written if they are the best so far, and a line is added to the
	logs. Once the mean absolute gradient of ``lw0`` at the last step of an epoch is below 1, ``lw0`` and
	``lw1`` are frozen. On one CPU and a fixed number of threads, equal inputs give equal bits. The global
	random state is neither read nor moved (the examples' randomness is that of `training_data`).

	Parameters
	----------
	model: cherimoya.Cherimoya
		Trained in place; it ends with the best averaged weights, in evaluation mode.
	training_data: torch.utils.data.DataLoader
		Of ``(X, y, label)`` or ``(X, X_ctl, y, label)``, as `cherimoya.io.PeakGenerator` makes;
		X (N, 4, L), X_ctl (N, n_control_tracks, L), y (N, T, out), label (N,) with 1 for a peak.
	validation: cherimoya.io.Windows or tuple of tensors
		Peaks to validate on: windows, ``(X, y)`` or ``(X, X_ctl, y)``.
	options: TrainingOptions or None
		How to train. Default None: `TrainingOptions()`.
	name: str, path or None
		Prefix of the files written, which may include a folder. Default None: ``model.name``.
	device: str or torch.device
		Where to train. Default "cpu".
	optimizers: sequence of torch.optim.Optimizer or None
		Default None: `build_optimizers`.
	schedulers: sequence of torch.optim.lr_scheduler.LRScheduler or None
		Stepped once per batch. Default None: `build_schedulers`.
	signal_groups: sequence of int or None
		Channels per group; must be the model's. Default None: the model's.
	progress: callable or None
		Called with a line of text: the device and size of the run, its pace and likely end, and each
		epoch. Default None: silence.
	bar: bool
		Whether to draw a progress bar of each epoch on stderr. Default False.
	**overrides
		Fields of `TrainingOptions` that replace those of `options`.

	Returns
	-------
	history: History

	Raises
	------
	SettingsError
		An option is unknown or out of range, or the groups are not the model's.
	InputError
		The data do not fit the model, there are none, or the output folder cannot be written to.
	ToolError
		The loss was not finite. The message names the step and its examples; the best weights so far
		stay in ``{name}.torch``.
	"""
	started = time.monotonic()
	options = _resolve_options(options, overrides)
	device = torch.device(device)
	_check_groups(model, signal_groups)
	examples = Examples.of(validation)
	steps_per_epoch = _count_batches(training_data)
	paths = _output_paths(model.name if name is None else name)
	_check_examples(model, examples)

	n_epochs = planned_epochs(options, steps_per_epoch)
	trainable = [parameter.requires_grad for parameter in model.parameters()]
	model.to(device)
	trainer = _Trainer(model, options, device)
	trainer.prepare(optimizers, schedulers, n_epochs=n_epochs, steps_per_epoch=steps_per_epoch)
	say = progress if progress is not None else (lambda text: None)
	say(opening(model, device, options, n_epochs, steps_per_epoch, len(examples)))
	pace = Pace(
		say, n_epochs=n_epochs, steps_per_epoch=steps_per_epoch, n_validation_steps=_n_batches(examples, options)
	)
	try:
		history = _epochs(trainer, training_data, examples, paths, pace, say, n_epochs=n_epochs, bar=bar)
	finally:
		for parameter, flag in zip(model.parameters(), trainable, strict=True):
			parameter.requires_grad_(flag)
	return history._replace(seconds=time.monotonic() - started)


def _epochs(
	trainer: "_Trainer",
	loader: Iterable,
	examples: Examples,
	paths: dict[str, str],
	pace: "Pace",
	say: Callable[[str], None],
	*,
	n_epochs: int,
	bar: bool,
) -> History:
	"""Train, validate, keep the best and log, epoch after epoch; leaves the best weights in the model."""
	model, options = trainer.model, trainer.options
	column, sign = _SCORES[options.select_on]
	logs = Logs(paths, model.n_groups)
	rows: list[dict[str, Any]] = []
	best_score, best_epoch, best_state = -math.inf, 0, {}
	for epoch in range(n_epochs):
		trained = trainer.train_epoch(_batches(loader, epoch, bar=bar), loader, epoch, pace)
		trainer.ema.apply_shadow(model)
		try:
			validated = trainer.validate(examples, epoch)
			score = sign * validated[column]
			saved = score > best_score or not best_state
			if saved:
				best_score, best_epoch = (score if math.isfinite(score) else -math.inf), epoch
				best_state = {key: value.detach().clone() for key, value in model.state_dict().items()}
				model.save(paths["best"])
			if epoch == n_epochs - 1 or _is_over(options, epoch, best_epoch):
				model.save(paths["final"])
		finally:
			trainer.ema.restore(model)
		row = {"Epoch": epoch, "Iteration": trainer.n_steps, **trained, **validated, "Saved?": saved}
		rows.append(logs.write(row))
		say(epoch_line(row, n_epochs, options.select_on))
		if _is_over(options, epoch, best_epoch):
			break
	model.load_state_dict(best_state)
	model.eval()
	stopped = len(rows) < n_epochs
	if stopped:
		say(
			f"stopped early: {options.early_stopping} epochs without a better {options.select_on}; "
			f"the best was epoch {best_epoch}"
		)
	value = rows[best_epoch][column] if column in rows[best_epoch] else -best_score
	return History(rows, best_epoch, value, 0.0, trainer.n_steps, stopped, paths)


@dataclass
class _Trainer:
	"""A model with what changes it: optimizers, schedules, average, and the state of the loss weights."""

	model: nn.Module
	options: TrainingOptions
	device: torch.device
	n_steps: int = 0
	frozen: bool = False
	optimizers: tuple[torch.optim.Optimizer, ...] = ()
	schedulers: tuple[torch.optim.lr_scheduler.LRScheduler, ...] = ()
	ema: EMA = field(init=False)
	scaler: torch.amp.GradScaler = field(init=False)

	def prepare(
		self,
		optimizers: Sequence[torch.optim.Optimizer] | None,
		schedulers: Sequence[torch.optim.lr_scheduler.LRScheduler] | None,
		*,
		n_epochs: int,
		steps_per_epoch: int,
	) -> None:
		"""Build what was not given."""
		if self.options.loss_weights is not None:
			self._freeze()
		self.optimizers = build_optimizers(self.model, self.options) if optimizers is None else tuple(optimizers)
		if schedulers is None:
			schedulers = build_schedulers(
				self.optimizers, self.options, n_epochs=n_epochs, steps_per_epoch=steps_per_epoch
			)
		self.schedulers = tuple(schedulers)
		self.ema = EMA(self.model, decay=self.options.ema_decay)
		# Only 16-bit floats have too small an exponent for gradients.
		self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.options.dtype == "float16")

	def autocast(self) -> AbstractContextManager:
		"""The precision of the forward pass."""
		if self.options.dtype == "float32":
			return nullcontext()
		return torch.autocast(self.device.type, dtype=getattr(torch, self.options.dtype))

	def train_epoch(self, batches: Iterator, loader: Iterable, epoch: int, pace: "Pace") -> dict[str, float]:
		"""Step through the batches of an epoch; the columns of the log about training, means over its examples."""
		began = time.monotonic()
		self.model.train()
		sums = torch.zeros(2, dtype=torch.float64)
		n_peaks = n_examples = 0
		for index, batch in enumerate(batches):
			tensors = [tensor.to(self.device, non_blocking=True) for tensor in batch]
			losses, labels = self._losses(tensors)
			if not all(math.isfinite(x) for x in losses.tolist()):
				suspects = self._suspects(tensors)
				raise ToolError(non_finite_message(loader, epoch, index, self.n_steps, losses.tolist(), suspects))
			self._step()
			peaks, n = int((labels == 1).sum()), len(labels)
			n_peaks, n_examples = n_peaks + peaks, n_examples + n
			sums += losses[1:].double() * torch.tensor([peaks, n], dtype=torch.float64)
			pace.step()
		self._freeze_if_flat()
		return {
			"Training Time": time.monotonic() - began,
			"Training MNLL": float(sums[0]) / n_peaks if n_peaks else math.nan,
			"Training Count MSE": float(sums[1]) / n_examples,
		}

	def _losses(self, tensors: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
		"""Forward and backward; (training loss, profile loss, count loss) as means over groups, and the labels."""
		X, *X_ctl, y, labels = tensors
		for optimizer in self.optimizers:
			optimizer.zero_grad(set_to_none=True)
		with self.autocast():
			logits, log_counts = self.model(X, *X_ctl)
		profile, count = _mixture_loss(
			y.float(), logits.float(), log_counts.float(), labels=labels, signal_groups=self.model.signal_groups
		)
		loss = self._loss(profile, count)
		values = torch.stack([loss.detach(), profile.detach().mean(), count.detach().mean()]).cpu()
		if bool(torch.isfinite(values).all()):
			self.scaler.scale(loss).backward()
		return values, labels.cpu()

	@torch.no_grad()
	def _suspects(self, tensors: list[torch.Tensor]) -> list[int]:
		"""The examples of a batch that are not finite, or whose predictions are not; all of them if none is."""
		X, *X_ctl, y, _ = tensors
		with self.autocast():
			outputs = self.model(X, *X_ctl)
		bad = ~_all_finite(X, *X_ctl, y, *outputs)
		return torch.nonzero(bad).flatten().tolist() or list(range(len(y)))

	def _loss(self, profile: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
		"""The training loss with the present loss weights."""
		return training_loss(
			profile,
			count,
			self.model.lw0,
			self.model.lw1,
			loss_weights=self.options.loss_weights,
			frozen=self.frozen,
		)

	def _step(self) -> None:
		"""Move the weights, the rates and the average; a step that the scaler refuses moves none of them."""
		scale = self.scaler.get_scale()
		for optimizer in self.optimizers:
			self.scaler.step(optimizer)
		self.scaler.update()
		if self.scaler.get_scale() < scale:
			return
		for scheduler in self.schedulers:
			scheduler.step()
		t = self.n_steps
		self.ema.update(self.model, decay=min(self.options.ema_decay, (1 + t) / (10 + t)))
		self.n_steps += 1

	def _freeze_if_flat(self) -> None:
		"""Freeze the loss weights once the gradient of the profile's is small."""
		gradient = self.model.lw0.grad
		if not self.frozen and gradient is not None and float(gradient.abs().mean()) < _FREEZE_BELOW:
			self._freeze()

	def _freeze(self) -> None:
		"""Make constants of the loss weights: no gradient, so that no optimizer moves or decays them."""
		self.frozen = True
		for weight in (self.model.lw0, self.model.lw1):
			weight.requires_grad_(False)
			weight.grad = None

	@torch.no_grad()
	def validate(self, examples: Examples, epoch: int) -> dict[str, Any]:
		"""The columns of the logs about validation, of the weights that the model has now; ToolError if not finite."""
		began = time.monotonic()
		self.model.eval()
		groups = self.model.signal_groups
		mnll = torch.zeros(len(groups), dtype=torch.float64)
		pearson, observed, predicted, finite = [], [], [], []
		for X, X_ctl, y in examples.batches(self.options.batch_size, self.device):
			with self.autocast():
				logits, log_counts = self.model(X) if X_ctl is None else self.model(X, X_ctl)
			logits, log_counts = logits.float(), log_counts.float()
			profile, _ = _mixture_loss(y, logits, log_counts, signal_groups=groups)
			mnll += profile.cpu().double() * len(y)
			pearson.append(profile_measures(logits, y, groups, measures=("profile_pearson",))["profile_pearson"])
			observed.append(group_counts(y, groups).cpu())
			predicted.append(log_counts.cpu())
			finite.append(_all_finite(y, logits, log_counts))
		mnll = mnll / len(examples)
		counts = count_measures(torch.cat(predicted), torch.cat(observed))
		per_group = [torch.nanmean(part) for part in torch.cat(pearson).split(groups, dim=1)]
		profile_pearson = torch.stack(per_group)  # (G,)
		loss = validation_loss(mnll, counts["count_mse"].double(), loss_weights=self.options.loss_weights)
		if not bool(torch.isfinite(loss)):
			suspects = torch.nonzero(~torch.cat(finite)).flatten().tolist() or list(range(len(examples)))
			raise ToolError(non_finite_validation_message(examples, epoch, self.n_steps, suspects))
		row = {
			"Validation Time": time.monotonic() - began,
			"Validation MNLL": float(mnll.mean()),
			"Validation Profile Pearson": float(torch.nanmean(profile_pearson)),
			"Validation Count Pearson": float(torch.nanmean(counts["count_pearson"])),
			"Validation Count MSE": float(counts["count_mse"].mean()),
			"Validation Loss": float(loss),
		}
		for g in range(len(groups)):
			row[f"Validation Profile Pearson {g}"] = float(profile_pearson[g])
			row[f"Validation Count Pearson {g}"] = float(counts["count_pearson"][g])
		return row


def _all_finite(*tensors: torch.Tensor) -> torch.Tensor:
	"""Whether all values of each example are finite in all tensors, (n,), on the CPU."""
	return torch.stack([torch.isfinite(tensor).flatten(1).all(1) for tensor in tensors]).all(0).cpu()


def _resolve_options(options: TrainingOptions | None, overrides: dict[str, Any]) -> TrainingOptions:
	"""The options with the overrides in them; SettingsError that lists every one that is wrong."""
	known = list(TrainingOptions.model_fields)
	problems = []
	for key in overrides:
		if key not in known:
			near = get_close_matches(key, known, n=1)
			problems.append(f"fit has no option '{key}'" + (f"; did you mean '{near[0]}'?" if near else ""))
	if problems:
		raise SettingsError(join_problems(problems))
	# A subclass may carry more settings than concern training.
	base = {key: getattr(options, key) for key in known} if options is not None else {}
	try:
		return TrainingOptions(**{**base, **overrides})
	except ValidationError as error:
		raise SettingsError(
			join_problems(
				f"fit's option '{'.'.join(map(str, e['loc']))}' is {e['input']!r}: {e['msg'][:1].lower()}{e['msg'][1:]}"
				for e in error.errors()
			)
		) from None


def _check_groups(model: nn.Module, signal_groups: Sequence[int] | None) -> None:
	"""SettingsError unless the groups are the model's."""
	if signal_groups is not None and tuple(signal_groups) != tuple(model.signal_groups):
		raise SettingsError(
			f"signal_groups is {list(signal_groups)}, but the model has {list(model.signal_groups)}; "
			f"build it with Cherimoya(signal_groups={list(signal_groups)})"
		)


def _check_examples(model: nn.Module, examples: Examples) -> None:
	"""InputError unless there are validation examples, and they fit the model."""
	problems = ["there are no validation loci; give at least one"] if len(examples) == 0 else []
	problems += examples.problems(model)
	if problems:
		raise InputError("validation data: " + join_problems(problems))


def _count_batches(loader: Iterable) -> int:
	"""Batches in an epoch; InputError when there are none."""
	n = len(loader)  # type: ignore[arg-type]
	if n == 0:
		raise InputError("there are no training examples; give at least one locus to train on")
	return n


def _n_batches(examples: Examples, options: TrainingOptions) -> int:
	"""Batches of a pass over the validation examples."""
	return math.ceil(len(examples) / options.batch_size)


def _output_paths(name: str | os.PathLike) -> dict[str, str]:
	"""The files of a run; InputError unless they can be written."""
	name = os.fspath(name)
	folder = Path(name).parent
	if not folder.is_dir():
		raise InputError(f"{name}: the folder '{folder}' does not exist; create it or choose another name")
	if not os.access(folder, os.W_OK):
		raise InputError(f"{name}: the folder '{folder}' cannot be written to; choose another name")
	return {
		"best": f"{name}.torch",
		"final": f"{name}.final.torch",
		"log": f"{name}.log",
		"detailed_log": f"{name}.detailed.log",
	}


def _batches(loader: Iterable, epoch: int, *, bar: bool) -> Iterator:
	"""The batches of an epoch, by name of the epoch where the loader can, with a bar where wanted."""
	set_epoch = getattr(getattr(loader, "batch_sampler", None), "set_epoch", None)
	if set_epoch is not None:
		set_epoch(epoch)
	if not bar:
		return iter(loader)
	return iter(tqdm(loader, desc=f"epoch {epoch}", unit="step", leave=False, delay=2))


def _is_over(options: TrainingOptions, epoch: int, best_epoch: int) -> bool:
	"""Whether no epoch was better than the best for as long as the user waits."""
	return options.early_stopping is not None and epoch - best_epoch >= options.early_stopping
