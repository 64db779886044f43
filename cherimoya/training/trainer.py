"""A step of training, a pass of validation, and the state of both: what changes a model, without any file."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from cherimoya.ema import EMA
from cherimoya.errors import InputError, ToolError
from cherimoya.losses import _mixture_loss
from cherimoya.training.distributed import ALONE, Ranks, places_in_batch
from cherimoya.training.evaluation import Examples, count_measures, group_counts, profile_measures
from cherimoya.training.monitor import Pace, non_finite_message, non_finite_validation_message
from cherimoya.training.optimizers import build_optimizers, build_schedulers
from cherimoya.training.options import TrainingOptions
from cherimoya.training.state import Progress, load_into

_FREEZE_BELOW = 1.0


class StopAsked(Exception):
	"""Between two steps, or two batches of validation, it was found that the run is to stop."""


class BatchLosses(NamedTuple):
	"""The losses of a batch, over all ranks.

	Attributes
	----------
	training, profile, count: float
		What is minimised; and the two losses, means over groups.
	n_peaks, n_examples: int
		What the profile and the count loss are means over.
	suspects: list of int
		The examples that made a loss not finite; empty if all losses are.
	"""

	training: float
	profile: float
	count: float
	n_peaks: int
	n_examples: int
	suspects: list[int]


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


@dataclass
class Trainer:
	"""A model with what changes it: optimizers, schedules, average, and the state of the loss weights.

	Attributes
	----------
	model: cherimoya.Cherimoya
		On `device`.
	options: TrainingOptions
	device: torch.device
	n_steps: int
		Optimizer steps taken.
	ranks: Ranks
		Those that train together.
	frozen: bool
		Whether the loss weights are constants by now.
	"""

	model: nn.Module
	options: TrainingOptions
	device: torch.device
	ranks: Ranks = ALONE
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

	def state_dict(self) -> dict[str, Any]:
		"""All that the next step depends on, as plain data and tensors."""
		gradient = self.model.lw0.grad
		return {
			"model": {name: tensor.detach() for name, tensor in self.model.state_dict().items()},
			"ema": self.ema.state_dict(),
			"optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
			"schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
			"scaler": self.scaler.state_dict(),
			"n_steps": self.n_steps,
			"frozen": self.frozen,
			# At the end of an epoch it decides whether the loss weights are frozen.
			"lw0_gradient": None if gradient is None else gradient.detach().clone(),
		}

	def load_state_dict(self, state: dict[str, Any], path: str) -> None:
		"""Take what `state_dict` gave; InputError, naming the file `path`, if it does not fit."""
		load_into(self.model, state["model"], path, "weights")
		load_into(self.ema, state["ema"], path, "average of the weights")
		for kind in ("optimizers", "schedulers"):
			if len(getattr(self, kind)) != len(state[kind]):
				raise InputError(f"{path}: it has {len(state[kind])} {kind}, and this run {len(getattr(self, kind))}")
			for target, part in zip(getattr(self, kind), state[kind], strict=True):
				load_into(target, part, path, f"state of the {kind}")
		load_into(self.scaler, state["scaler"], path, "gradient scale")
		self.n_steps = state["n_steps"]
		if state["frozen"] and not self.frozen:
			self._freeze()
		if state["lw0_gradient"] is not None:
			self.model.lw0.grad = state["lw0_gradient"].to(self.device)

	def reschedule(self) -> None:
		"""Take the rates of the next step from the schedules, which may be others than those of the step before."""
		for optimizer, scheduler in zip(self.optimizers, self.schedulers, strict=True):
			for group, base, factor in zip(
				optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
			):
				group["lr"] = base * factor(scheduler.last_epoch)

	def autocast(self) -> AbstractContextManager:
		"""The precision of the forward pass."""
		if self.options.dtype == "float32":
			return nullcontext()
		return torch.autocast(self.device.type, dtype=getattr(torch, self.options.dtype))

	def train_epoch(
		self, batches: Iterator, loader: Iterable, progress: Progress, pace: Pace, stop: Callable[[], bool]
	) -> None:
		"""Step through the batches of an epoch that are left, and note them in `progress`.

		Raises
		------
		StopAsked
			After a step, once `stop` says so on any rank.
		ToolError
			A loss was not finite.
		"""
		self.model.train()
		began = time.monotonic()
		for index, batch in enumerate(batches, start=progress.batch):
			losses = self.step(self._on_device(batch))
			if losses.suspects:
				text = non_finite_message(loader, progress.epoch, index, self.n_steps, losses)
				raise self.ranks.everywhere(ToolError(text))
			progress.sums.add(losses.profile, losses.count, losses.n_peaks, losses.n_examples)
			progress.batch = index + 1
			now = time.monotonic()
			progress.sums.seconds += now - began
			began = now
			pace.step(losses.n_examples)
			if self.ranks.any(stop()):
				raise StopAsked
		self._freeze_if_flat()

	def _on_device(self, batch: Any) -> list[torch.Tensor]:
		"""The tensors of a batch where the model is; a `cherimoya.io.batches.CompactBatch` is encoded there."""
		if hasattr(batch, "encode"):
			return list(batch.to(self.device).encode())
		tensors = list(batch) if isinstance(batch, tuple | list) else [batch]
		if len(tensors) not in (3, 4) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
			found = ", ".join(type(tensor).__name__ for tensor in tensors)
			raise InputError(
				"a batch of the training data must be the tensors (X, y, labels) or (X, X_ctl, y, labels), labels "
				f"being 1 for a peak and 0 for background, got {found}; give a DataLoader of such batches"
			)
		return [tensor.to(self.device, non_blocking=True) for tensor in tensors]

	def step(self, tensors: list[torch.Tensor]) -> BatchLosses:
		"""One step on a batch, if its losses are finite."""
		losses = self._gradients(tensors)
		if not losses.suspects:
			self._move()
		return losses

	def _gradients(self, tensors: list[torch.Tensor]) -> BatchLosses:
		"""Forward and backward of a batch, part by part: the gradients add up to those of the whole batch's loss."""
		for optimizer in self.optimizers:
			optimizer.zero_grad(set_to_none=True)
		labels = tensors[-1]
		n_peaks, n_examples = self._count(labels)
		total, suspects = torch.zeros(3, dtype=torch.float64), []
		parts = zip(*(tensor.chunk(self.options.gradient_accumulation) for tensor in tensors), strict=True)
		start = 0
		for part in parts if len(labels) else ():
			first = self.ranks.is_last and start == 0
			values, loss = self._part_losses(part, n_peaks=n_peaks, n_examples=n_examples, first=first)
			if not bool(torch.isfinite(values).all()):
				total, suspects = values.double(), [start + i for i in self._suspects(part)]
				break
			self.scaler.scale(loss).backward()
			total += values.double()
			start += len(part[-1])
		if not len(labels):  # else the scaler would not know its scale when it looks at the sum of the gradients
			self.scaler.scale(torch.zeros((), device=self.device))
		total, suspects = self._over_ranks(total, suspects, len(labels))
		return BatchLosses(*total.tolist(), int(n_peaks), n_examples, suspects)

	def _count(self, labels: torch.Tensor) -> tuple[torch.Tensor, int]:
		"""Peaks and examples of a batch, over all ranks."""
		n_peaks = (labels == 1).sum()
		if self.ranks.alone:
			return n_peaks, len(labels)
		counts = self.ranks.add(torch.tensor([int(n_peaks), len(labels)]))
		return counts[0].to(labels.device), int(counts[1])

	def _over_ranks(self, losses: torch.Tensor, suspects: list[int], n: int) -> tuple[torch.Tensor, list[int]]:
		"""Add up gradients and losses over the ranks; the suspects by their places in the whole batch."""
		if self.ranks.alone:
			return losses, suspects
		found = torch.tensor([len(suspects)], dtype=torch.float64)
		parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
		*losses, found = self.ranks.add_gradients(parameters, torch.cat([losses, found]))
		if found:
			suspects = places_in_batch(self.ranks.gather((n, suspects)))
		return torch.stack(losses), suspects

	def _part_losses(
		self, part: Sequence[torch.Tensor], *, n_peaks: torch.Tensor, n_examples: int, first: bool
	) -> tuple[torch.Tensor, torch.Tensor]:
		"""What a part of a batch of so many peaks and examples adds to the batch's losses; and to what is minimised.

		The profile loss is a mean over peaks and the count loss over all examples, so each is weighted by the part's
		share of them; what the loss weights cost by themselves is counted once, in the first part.
		"""
		X, *X_ctl, y, labels = part
		with self.autocast():
			logits, log_counts = self.model(X, *X_ctl)
		profile, count = _mixture_loss(
			y.float(), logits.float(), log_counts.float(), labels=labels, signal_groups=self.model.signal_groups
		)
		profile = profile * ((labels == 1).sum() / n_peaks.clamp_min(1))
		count = count * (len(labels) / n_examples)
		loss = training_loss(
			profile,
			count,
			self.model.lw0,
			self.model.lw1,
			loss_weights=self.options.loss_weights,
			frozen=self.frozen or not first,
		)
		return torch.stack([loss.detach(), profile.detach().mean(), count.detach().mean()]).cpu(), loss

	@torch.no_grad()
	def _suspects(self, part: Sequence[torch.Tensor]) -> list[int]:
		"""The examples that are not finite, or whose predictions are not; all of them if none is."""
		X, *X_ctl, y, _ = part
		with self.autocast():
			outputs = self.model(X, *X_ctl)
		bad = ~_all_finite(X, *X_ctl, y, *outputs)
		return torch.nonzero(bad).flatten().tolist() or list(range(len(y)))

	def _move(self) -> None:
		"""Move the weights, the rates and the average; gradients that overflowed float16 move none of them."""
		if not self._finish_gradients():
			self.scaler.update()
			return
		for optimizer in self.optimizers:
			self.scaler.step(optimizer)
		self.scaler.update()
		for scheduler in self.schedulers:
			scheduler.step()
		t = self.n_steps
		self.ema.update(self.model, decay=min(self.options.ema_decay, (1 + t) / (10 + t)))
		self.n_steps += 1

	def _finish_gradients(self) -> bool:
		"""Undo the scale of the gradients and clip them; whether they are finite, where that is looked at."""
		limit, scaled = self.options.gradient_clip, self.scaler.is_enabled()
		if limit is None and not scaled:
			return True
		for optimizer in self.optimizers:
			self.scaler.unscale_(optimizer)
		parameters = [p for o in self.optimizers for group in o.param_groups for p in group["params"]]
		parameters = [p for p in parameters if p.grad is not None]
		norm = nn.utils.get_total_norm([p.grad for p in parameters])
		if scaled and not bool(torch.isfinite(norm)):
			return False
		if limit is not None:
			nn.utils.clip_grads_with_norm_(parameters, limit, norm)
		return True

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
	def validate(self, examples: Examples, epoch: int, stop: Callable[[], bool]) -> dict[str, Any]:
		"""The columns of the logs about validation, of the weights that the model has now; the same on all ranks.

		Raises
		------
		StopAsked
			After a batch, once `stop` says so on any rank.
		ToolError
			The loss is not finite.
		"""
		began = time.monotonic()
		groups = self.model.signal_groups
		shares = self.ranks.gather(self._validate_share(examples, stop))
		if any(share is None for share in shares):
			raise StopAsked
		whole = _Validated(*(torch.cat(parts) for parts in zip(*shares, strict=True)))
		mnll = whole.mnll.sum(0) / len(examples)  # (shares, G) -> (G,)
		counts = count_measures(whole.predicted, whole.observed)
		per_group = [torch.nanmean(part) for part in whole.pearson.split(groups, dim=1)]
		profile_pearson = torch.stack(per_group)  # (G,)
		loss = validation_loss(mnll, counts["count_mse"].double(), loss_weights=self.options.loss_weights)
		if not bool(torch.isfinite(loss)):
			suspects = torch.nonzero(~whole.finite).flatten().tolist() or list(range(len(examples)))
			text = non_finite_validation_message(examples, epoch, self.n_steps, suspects)
			raise self.ranks.everywhere(ToolError(text))
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
		# What epoch is the best, and whether the run is over, follow from it: on machines that differ, too.
		return self.ranks.from_first(row)

	def _validate_share(self, examples: Examples, stop: Callable[[], bool]) -> "_Validated | None":
		"""What this rank finds on its share of the examples; None once `stop` says so."""
		self.model.eval()
		groups = self.model.signal_groups
		mnll = torch.zeros(1, len(groups), dtype=torch.float64)
		nothing = torch.zeros(0, sum(groups)), torch.zeros(0, len(groups)), torch.zeros(0, len(groups))
		parts = [(*nothing, torch.zeros(0, dtype=torch.bool))]  # for a rank without a share
		among = self.ranks.share(len(examples))
		for X, X_ctl, y in examples.batches(self.options.batch_size, self.device, among=among):
			with self.autocast():
				logits, log_counts = self.model(X) if X_ctl is None else self.model(X, X_ctl)
			logits, log_counts = logits.float(), log_counts.float()
			profile, _ = _mixture_loss(y, logits, log_counts, signal_groups=groups)
			mnll += profile.cpu().double() * len(y)
			pearson = profile_measures(logits, y, groups, measures=("profile_pearson",))["profile_pearson"]
			observed, predicted = group_counts(y, groups).cpu(), log_counts.cpu()
			parts.append((pearson, observed, predicted, _all_finite(y, logits, log_counts)))
			if stop():
				return None
		return _Validated(mnll, *(torch.cat(column) for column in zip(*parts, strict=True)))


class _Validated(NamedTuple):
	"""What was found on n validation loci.

	Attributes
	----------
	mnll: torch.Tensor of float64, shape=(shares, G)
		Sums over the loci of each rank.
	pearson: torch.Tensor, shape=(n, T)
		Of the profiles.
	observed, predicted: torch.Tensor, shape=(n, G)
		Counts, and predicted log(1 + counts).
	finite: torch.Tensor of bool, shape=(n,)
	"""

	mnll: torch.Tensor
	pearson: torch.Tensor
	observed: torch.Tensor
	predicted: torch.Tensor
	finite: torch.Tensor


def _all_finite(*tensors: torch.Tensor) -> torch.Tensor:
	"""Whether all values of each example are finite in all tensors, (n,), on the CPU."""
	return torch.stack([torch.isfinite(tensor).flatten(1).all(1) for tensor in tensors]).all(0).cpu()
