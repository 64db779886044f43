"""The two optimizers, which parameters each takes, and their learning rates over time."""

import math
from functools import partial

import torch
from torch import nn

from cherimoya.training.muon import Muon
from cherimoya.training.options import TrainingOptions

WARMUP_START = 0.01  # the share of the peak rate that the first step takes
FINAL_RATE = 1e-5  # what the cosine decays to

_MUON_SUFFIXES = ("linear1.weight", "linear2.weight")


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
	"""The parameters that Muon takes and those that AdamW takes; each that is trained is in exactly one.

	Muon orthogonalises the update of a matrix that maps features to features, so it takes the two
	projections of each block (``blocks.{i}.linear1.weight``, ``blocks.{i}.linear2.weight``) and
	nothing else. AdamW takes the stem, the heads, biases, ``conv_weight`` and the loss weights.

	Parameters
	----------
	model: nn.Module
		A `cherimoya.Cherimoya`, or any module with blocks of those names.

	Returns
	-------
	muon, adam: list of nn.Parameter
		In the order of ``model.named_parameters()``; those without ``requires_grad`` are in neither.
	"""
	muon, adam = [], []
	for name, parameter in model.named_parameters():
		if not parameter.requires_grad:
			continue
		is_projection = name.startswith("blocks.") and name.endswith(_MUON_SUFFIXES)
		(muon if is_projection else adam).append(parameter)
	return muon, adam


def build_optimizers(model: nn.Module, options: TrainingOptions) -> tuple[torch.optim.Optimizer, ...]:
	"""Muon over the blocks' projections and AdamW over everything else.

	Weight decay is decoupled in both, and applies to all parameters of an optimizer: AdamW's 0.2
	reaches the loss weights ``lw0`` and ``lw1`` too until they are frozen.

	Parameters
	----------
	model: nn.Module
		The model, already on its device.
	options: TrainingOptions
		Read: ``muon_lr``, ``muon_wd``, ``adam_lr``, ``adam_wd``.

	Returns
	-------
	optimizers: tuple of torch.optim.Optimizer
		Muon, then AdamW. Muon is left out for a model without blocks.

	References
	----------
	Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
	Loshchilov and Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2.
	"""
	muon, adam = split_parameters(model)
	optimizers: list[torch.optim.Optimizer] = []
	if muon:
		optimizers.append(Muon(muon, lr=options.muon_lr, weight_decay=options.muon_wd))
	if adam:
		optimizers.append(torch.optim.AdamW(adam, lr=options.adam_lr, weight_decay=options.adam_wd))
	return tuple(optimizers)


def planned_epochs(options: TrainingOptions, steps_per_epoch: int) -> int:
	"""Epochs to plan for: ``max_epochs``, raised until ``min_total_steps`` steps fit in them."""
	if options.min_total_steps is None:
		return options.max_epochs
	return max(options.max_epochs, math.ceil(options.min_total_steps / steps_per_epoch))


def warmup_cosine(step: int, *, peak: float, n_warmup: int, n_total: int) -> float:
	"""The learning rate of one step.

	With W = `n_warmup`, N = `n_total` and p = `peak`:
	``p * (0.01 + 0.99 * step / W)`` while ``step < W``, then
	``e + (p - e) * (1 + cos(pi * (step - W) / (N - W))) / 2`` with ``e = min(1e-5, p)``.

	Parameters
	----------
	step: int
		Steps taken before this one; beyond `n_total` the rate stays at its last value.
	peak: float
		The rate at the end of the warm-up.
	n_warmup, n_total: int, steps
		Length of the warm-up and of the whole run.

	Returns
	-------
	rate: float
	"""
	if step < n_warmup:
		return peak * (WARMUP_START + (1 - WARMUP_START) * step / n_warmup)
	final = min(FINAL_RATE, peak)
	progress = min(1.0, (step - n_warmup) / max(1, n_total - n_warmup))
	return final + (peak - final) * (1 + math.cos(math.pi * progress)) / 2


def warmup_steps(options: TrainingOptions, *, n_epochs: int, steps_per_epoch: int) -> int:
	"""Steps of warm-up: ``n_warmup_epochs``, or half of a run that is not longer than its warm-up."""
	if options.n_warmup_epochs >= n_epochs:
		return n_epochs * steps_per_epoch // 2
	return options.n_warmup_epochs * steps_per_epoch


def build_schedulers(
	optimizers: tuple[torch.optim.Optimizer, ...], options: TrainingOptions, *, n_epochs: int, steps_per_epoch: int
) -> tuple[torch.optim.lr_scheduler.LRScheduler, ...]:
	"""One schedule for each optimizer: linear warm-up from 1 % of its rate, then cosine decay to 1e-5.

	They are stepped once per batch, a partial last batch included.

	Parameters
	----------
	optimizers: tuple of torch.optim.Optimizer
		Their present learning rates are the peaks.
	options: TrainingOptions
		Read: ``n_warmup_epochs``. If it is not below `n_epochs`, half of the steps are warm-up.
	n_epochs: int
		Epochs planned.
	steps_per_epoch: int
		Batches in an epoch.

	Returns
	-------
	schedulers: tuple of torch.optim.lr_scheduler.LambdaLR
		In the order of `optimizers`.
	"""
	n_warmup = warmup_steps(options, n_epochs=n_epochs, steps_per_epoch=steps_per_epoch)
	n_total = n_epochs * steps_per_epoch
	schedulers = []
	for optimizer in optimizers:
		factors = [
			partial(_factor, peak=group["lr"], n_warmup=n_warmup, n_total=n_total) for group in optimizer.param_groups
		]
		schedulers.append(torch.optim.lr_scheduler.LambdaLR(optimizer, factors))
	return tuple(schedulers)


def _factor(step: int, *, peak: float, n_warmup: int, n_total: int) -> float:
	"""The rate of a step as a share of the peak."""
	return warmup_cosine(step, peak=peak, n_warmup=n_warmup, n_total=n_total) / peak
