"""What a training run shows: its logs, its pace, a line per epoch, and where it failed."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cherimoya.training.options import TrainingOptions

if TYPE_CHECKING:
	from cherimoya.training.evaluation import Examples

COLUMNS = (
	"Epoch",
	"Iteration",
	"Training Time",
	"Validation Time",
	"Training MNLL",
	"Training Count MSE",
	"Validation MNLL",
	"Validation Profile Pearson",
	"Validation Count Pearson",
	"Validation Count MSE",
	"Saved?",
)

_PACE_STEPS, _PACE_SECONDS = 20, 10.0
_NAMED_EXAMPLES = 8
_REMEDY = (
	"The best weights so far are kept. Look for extreme, negative or missing signal there, lower muon_lr and adam_lr, "
	"or train in float32"
)


class Logs:
	"""The two logs of a run: a header at once, and a line that is on the disk after each epoch."""

	def __init__(self, paths: dict[str, str], n_groups: int) -> None:
		per_group = [f"Validation {kind} Pearson {g}" for g in range(n_groups) for kind in ("Profile", "Count")]
		self.columns = {paths["log"]: list(COLUMNS), paths["detailed_log"]: [*COLUMNS, *per_group]}
		for path, columns in self.columns.items():
			self._append(path, columns, mode="w")

	def write(self, row: dict[str, Any]) -> dict[str, Any]:
		"""Append an epoch to both logs; the row as the detailed one has it."""
		for path, columns in self.columns.items():
			kept = {column: row[column] for column in columns}
			self._append(path, [_cell(value) for value in kept.values()], mode="a")
		return kept

	@staticmethod
	def _append(path: str, cells: Sequence[str], *, mode: str) -> None:
		"""Write a line and wait until it is on the disk."""
		with open(path, mode, encoding="utf-8") as file:
			file.write("\t".join(cells) + "\n")
			file.flush()
			os.fsync(file.fileno())


class Pace:
	"""Says once, early, how long a step takes and when the run should end."""

	def __init__(
		self, say: Callable[[str], None], *, n_epochs: int, steps_per_epoch: int, n_validation_steps: int
	) -> None:
		self.say = say
		# A validation batch is a forward pass alone: about a third of a training step.
		self.total = n_epochs * (steps_per_epoch + n_validation_steps / 3)
		self.epoch = steps_per_epoch + n_validation_steps / 3
		self.last = min(_PACE_STEPS, steps_per_epoch)
		self.times: list[float] = [time.monotonic()]
		self.done = False

	def step(self) -> None:
		"""Note the end of a step."""
		if self.done:
			return
		self.times.append(time.monotonic())
		n = len(self.times) - 1
		if n < self.last and (n < 2 or self.times[-1] - self.times[0] < _PACE_SECONDS):
			return
		# The first step also warms up workers and memory, so it tells little unless it is alone.
		first = min(1, n - 1)
		seconds = (self.times[-1] - self.times[first]) / (n - first)
		end = datetime.now() + timedelta(seconds=seconds * max(0.0, self.total - n))
		self.say(
			f"{seconds:.3g} s per step, about {duration(seconds * self.epoch)} per epoch; "
			f"all epochs would end about {end:%H:%M on %d %B} ({duration(seconds * self.total)} in all)"
		)
		self.done = True


def duration(seconds: float) -> str:
	"""A length of time for people: ``42 s``, ``3 min 20 s``, ``5 h 12 min``."""
	if seconds < 9.95:
		return f"{seconds:.1f} s"
	seconds = round(seconds)
	if seconds < 60:
		return f"{seconds} s"
	if seconds < 3600:
		return f"{seconds // 60} min {seconds % 60:02d} s"
	return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


def _cell(value: Any) -> str:
	"""A value of a log: six digits that can be read back."""
	if isinstance(value, bool) or not isinstance(value, float):
		return str(value)
	return f"{value:.6g}"


def opening(
	model: nn.Module,
	device: torch.device,
	options: TrainingOptions,
	n_epochs: int,
	steps_per_epoch: int,
	n_validation: int,
) -> str:
	"""What is about to happen."""
	where = str(device)
	if device.type == "cuda":
		where = f"{device} ({torch.cuda.get_device_name(device)})"
	elif device.type == "cpu":
		where = f"cpu ({torch.get_num_threads()} threads)"
	n_parameters = sum(parameter.numel() for parameter in model.parameters())
	return (
		f"training {n_parameters:,} parameters on {where}, {options.dtype}: {steps_per_epoch} steps of up to "
		f"{options.batch_size} examples per epoch, at most {n_epochs} epochs; {n_validation:,} validation loci"
	)


def epoch_line(row: dict[str, Any], n_epochs: int, select_on: str) -> str:
	"""An epoch in a line."""
	saved = f" (best {select_on} so far, saved)" if row["Saved?"] else ""
	return (
		f"epoch {row['Epoch']} of {n_epochs}: training MNLL {row['Training MNLL']:.1f}, "
		f"count MSE {row['Training Count MSE']:.3f}; validation MNLL {row['Validation MNLL']:.1f}, "
		f"profile Pearson {row['Validation Profile Pearson']:.3f}, count Pearson "
		f"{row['Validation Count Pearson']:.3f}, count MSE {row['Validation Count MSE']:.3f}; "
		f"{duration(row['Training Time'] + row['Validation Time'])}{saved}"
	)


def non_finite_message(
	loader: Iterable, epoch: int, index: int, step: int, losses: Sequence[float], suspects: Sequence[int]
) -> str:
	"""Where the training loss stopped being finite, with what examples, and what to do."""
	loss, profile, count = losses
	return (
		f"the loss is not finite at step {step} (epoch {epoch}, batch {index}): training loss {loss}, profile loss "
		f"{profile}, count loss {count}; examples: {_batch_names(loader, epoch, index, suspects)}. {_REMEDY}"
	)


def non_finite_validation_message(examples: "Examples", epoch: int, step: int, suspects: Sequence[int]) -> str:
	"""The same for the loss on the validation loci."""
	if examples.windows is None:
		names = [f"number {i}" for i in suspects[:_NAMED_EXAMPLES]]
	else:
		loci = examples.windows.loci
		names = [f"{loci.chroms[i]}:{loci.starts[i]}-{loci.ends[i]}" for i in suspects[:_NAMED_EXAMPLES]]
	return (
		f"the validation loss is not finite after step {step} (epoch {epoch}); examples: "
		f"{_listed(names, len(suspects))}. {_REMEDY}"
	)


def _batch_names(loader: Iterable, epoch: int, index: int, examples: Sequence[int]) -> str:
	"""Examples of a batch: their loci if the loader knows its windows, else their places in the batch."""
	shown = examples[:_NAMED_EXAMPLES]
	windows = getattr(loader, "peak_windows", None), getattr(loader, "negative_windows", None)
	if windows[0] is None:
		return _listed([f"number {i} of the batch" for i in shown], len(examples))
	plan = loader.dataset.plan(epoch)
	names = []
	for i in shown:
		place = index * loader.batch_sampler.batch_size + i
		kind = "peak" if plan.is_peak[place] else "negative"
		loci, row = windows[0 if plan.is_peak[place] else 1].loci, plan.rows[place]
		names.append(f"{kind} {loci.chroms[row]}:{loci.starts[row]}-{loci.ends[row]}")
	return _listed(names, len(examples))


def _listed(names: Sequence[str], n: int) -> str:
	"""The names, and how many more there are of n."""
	return ", ".join(names) + (f" and {n - len(names)} more" if n > len(names) else "")
