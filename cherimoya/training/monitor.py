"""What a training run shows: its logs, its pace, a line per epoch, and where it failed."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from cherimoya.errors import CherimoyaError, InputError, missing_extra
from cherimoya.io._files import replacing
from cherimoya.training.options import TrainingOptions

if TYPE_CHECKING:
	from cherimoya.training.evaluation import Examples
	from cherimoya.training.trainer import BatchLosses

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
_REPORT_SECONDS = 60.0
_NAMED_EXAMPLES = 8
_REMEDY = (
	"The best weights so far are kept. Look for extreme, negative or missing signal there, lower muon_lr and adam_lr, "
	"set gradient_clip, or train in float32"
)


class Logs:
	"""The two logs of a run: a header and the epochs so far, and a line that is on the disk after each epoch.

	Parameters
	----------
	paths: dict of str to str
		With the keys log and detailed_log.
	n_groups: int
		Groups of signals.
	rows: iterable of dict
		Epochs so far.
	writes: bool
		Whether this process writes the files; of several ranks one does. Default True.
	"""

	def __init__(
		self, paths: dict[str, str], n_groups: int, rows: Iterable[dict[str, Any]] = (), *, writes: bool = True
	) -> None:
		per_group = [f"Validation {kind} Pearson {g}" for g in range(n_groups) for kind in ("Profile", "Count")]
		self.columns = {paths["log"]: list(COLUMNS), paths["detailed_log"]: [*COLUMNS, *per_group]}
		rows = list(rows)
		self.writes = writes
		for path, columns in self.columns.items() if writes else ():
			lines = [_line(columns), *(_line(row[column] for column in columns) for row in rows)]
			with _saying(path), replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
				file.writelines(lines)

	def write(self, row: dict[str, Any]) -> dict[str, Any]:
		"""Append an epoch to both logs; the row as the detailed one has it."""
		for path, columns in self.columns.items():
			kept = {column: row[column] for column in columns}
			if not self.writes:
				continue
			with _saying(path), open(path, "a", encoding="utf-8") as file:
				file.write(_line(kept.values()))
				file.flush()
				os.fsync(file.fileno())
		return kept


@contextmanager
def _saying(path: str) -> Iterator[None]:
	"""InputError, naming the file, when it cannot be written."""
	try:
		yield
	except OSError as error:
		if isinstance(error, CherimoyaError):
			raise
		raise InputError(
			f"{path}: cannot be written ({error.strerror or error}); "
			"check that the folder exists, that you may write to it, and that the disk is not full"
		) from error


class Pace:
	"""Says how long a step takes and when the run should end: once, early, and then every minute where asked to.

	Parameters
	----------
	say: callable
		Takes a line.
	n_epochs, steps_per_epoch, n_validation_steps: int
		The size of the run.
	every: float or None, seconds
		Between two lines; None for the first line alone.
	"""

	def __init__(
		self,
		say: Callable[[str], None],
		*,
		n_epochs: int,
		steps_per_epoch: int,
		n_validation_steps: int,
		every: float | None = _REPORT_SECONDS,
	) -> None:
		self.say, self.every = say, every
		self.steps_per_epoch = steps_per_epoch
		# A validation batch is a forward pass alone: about a third of a training step.
		self.epoch = steps_per_epoch + n_validation_steps / 3
		self.total = n_epochs * self.epoch
		self.last = min(_PACE_STEPS, steps_per_epoch)
		self.first = True
		self.start_epoch(0, 0)

	def start_epoch(self, epoch: int, batch: int) -> None:
		"""Note the start of an epoch, or the batch at which it is gone on with."""
		self.number, self.batch = epoch, batch
		self.times, self.sizes = [time.monotonic()], [0]

	def step(self, n_examples: int) -> None:
		"""Note the end of a step on so many examples."""
		self.batch += 1
		self.times.append(time.monotonic())
		self.sizes.append(n_examples)
		if self.first:
			self._first_line()
		elif self.every is not None and self.times[-1] - self.times[0] >= self.every:
			seconds, rate = self._rates(0)
			self.say(
				f"epoch {self.number}, step {self.batch} of {self.steps_per_epoch}: {seconds:.3g} s per step, "
				f"{rate:.3g} examples/s; {self._end(seconds)}"
			)
			self.times, self.sizes = self.times[-1:], [0]

	def _first_line(self) -> None:
		"""Say the pace once a few steps have shown it."""
		n = len(self.times) - 1
		if n < min(self.last, self.steps_per_epoch - self.batch + n) and (
			n < 2 or self.times[-1] - self.times[0] < _PACE_SECONDS
		):
			return
		# The first step also warms up workers and memory, so it tells little unless it is alone.
		seconds, rate = self._rates(min(1, n - 1))
		self.say(
			f"{seconds:.3g} s per step ({rate:.3g} examples/s), about {duration(seconds * self.epoch)} per epoch; "
			f"{self._end(seconds)} ({duration(seconds * self.total)} in all)"
		)
		self.first = False
		self.times, self.sizes = self.times[-1:], [0]

	def _rates(self, first: int) -> tuple[float, float]:
		"""Seconds per step and examples per second of the steps noted, the `first` few left out."""
		elapsed = max(self.times[-1] - self.times[first], 1e-9)
		return elapsed / (len(self.times) - 1 - first), sum(self.sizes[first + 1 :]) / elapsed

	def _end(self, seconds: float) -> str:
		"""When the run should end if a step takes so long."""
		left = self.total - self.number * self.epoch - self.batch
		end = datetime.now() + timedelta(seconds=seconds * max(0.0, left))
		return f"all epochs would end about {end:%H:%M on %d %B}"


class Board:
	"""A folder of events that TensorBoard shows: each number of the log over the epochs.

	Parameters
	----------
	folder: path
		Made if missing.
	epoch: int
		The first epoch that will be written; what the folder has from there on is not shown any more.

	Raises
	------
	MissingExtraError
		The package tensorboard is not installed.
	InputError
		The folder cannot be written.
	"""

	def __init__(self, folder: str | os.PathLike, epoch: int) -> None:
		writer = summary_writer()
		with _saying(os.fspath(folder)):
			self.writer = writer(os.fspath(folder), purge_step=epoch)

	def write(self, row: dict[str, Any], rates: Sequence[float]) -> None:
		"""Add an epoch, and the learning rate of each optimizer at its end."""
		numbers = {key: value for key, value in row.items() if isinstance(value, float) and math.isfinite(value)}
		for name, value in numbers.items():
			kind, _, measure = name.partition(" ")
			self.writer.add_scalar(f"{kind}/{measure}", value, row["Epoch"])
		for i, rate in enumerate(rates):
			self.writer.add_scalar(f"Rate/{i}", rate, row["Epoch"])
		self.writer.flush()

	def close(self) -> None:
		"""Write what is left."""
		self.writer.close()


def summary_writer() -> Any:
	"""The class that writes events, torch's; MissingExtraError without the package tensorboard."""
	if find_spec("tensorboard") is None:
		raise missing_extra("tensorboard", extra="tensorboard", needed_for="the setting tensorboard")
	from torch.utils.tensorboard import SummaryWriter

	return SummaryWriter


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


def _line(cells: Iterable[Any]) -> str:
	"""A line of a log."""
	return "\t".join(map(_cell, cells)) + "\n"


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
	n_ranks: int = 1,
) -> str:
	"""What is about to happen."""
	where = str(device)
	if device.type == "cuda":
		where = f"{device} ({torch.cuda.get_device_name(device)})"
	elif device.type == "cpu":
		n_threads = torch.get_num_threads()
		where = f"cpu ({n_threads} thread{'s' * (n_threads > 1)})"
	where += f" and {n_ranks - 1} more" if n_ranks > 1 else ""
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


def non_finite_message(loader: Iterable, epoch: int, index: int, step: int, losses: "BatchLosses") -> str:
	"""Where the training loss stopped being finite, with what examples, and what to do."""
	return (
		f"the loss is not finite at step {step} (epoch {epoch}, batch {index}): training loss {losses.training}, "
		f"profile loss {losses.profile}, count loss {losses.count}; "
		f"examples: {_batch_names(loader, epoch, index, losses.suspects)}. {_REMEDY}"
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
