"""The training loop: batches in; the best averaged weights, a log, and a state to go on from out."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from pydantic import ValidationError
from torch import nn
from tqdm import tqdm

from cherimoya.checkpoint import save_checkpoint
from cherimoya.errors import CherimoyaError, InputError, Interrupted, SettingsError, join_problems
from cherimoya.training import state as states
from cherimoya.training.distributed import ALONE, Ranks, check_shares
from cherimoya.training.evaluation import Examples
from cherimoya.training.monitor import Board, Logs, Pace, epoch_line, opening, summary_writer
from cherimoya.training.optimizers import planned_epochs
from cherimoya.training.options import TrainingOptions
from cherimoya.training.state import Progress, Resume
from cherimoya.training.trainer import StopAsked, Trainer
from cherimoya.training.transfer import freeze

if TYPE_CHECKING:
	from cherimoya.io import Windows

_SCORES = {
	"count_pearson": ("Validation Count Pearson", 1.0),
	"profile_pearson": ("Validation Profile Pearson", 1.0),
	"profile_mnll": ("Validation MNLL", -1.0),
	"count_mse": ("Validation Count MSE", -1.0),
	"loss": ("Validation Loss", -1.0),
}


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
		Wall time of the whole run, that of earlier processes which it went on from included.
	n_steps: int
		Optimizer steps taken.
	stopped_early: bool
		Whether ``early_stopping`` ended the run before its last planned epoch.
	paths: dict of str to str
		The files written: ``best``, ``final``, ``log``, ``detailed_log``, ``checkpoint``.
	resumed_at: int or None
		The epoch that this call went on from; None if it began anew.
	"""

	rows: list[dict[str, Any]]
	best_epoch: int
	best_score: float
	seconds: float
	n_steps: int
	stopped_early: bool
	paths: dict[str, str]
	resumed_at: int | None = None


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
	resume: Resume = False,
	identity: Mapping[str, Any] | None = None,
	stop: Callable[[], bool] | None = None,
	tensorboard: str | os.PathLike | None = None,
	ranks: Ranks | None = None,
	**overrides: Any,
) -> History:
	"""Train a model, keeping the averaged weights that do best on the validation loci.

	Each step draws one batch, takes `training_loss`, steps every optimizer and schedule, and moves the
	average of the weights with decay ``min(ema_decay, (1 + t) / (10 + t))`` at step t. After each epoch
	the averaged weights are validated, written if they are the best so far, and a line is added to the
	logs. Once the mean absolute gradient of ``lw0`` at the last step of an epoch is below 1, ``lw0`` and
	``lw1`` are frozen. On one CPU and a fixed number of threads, equal inputs give equal bits. The global
	random state is neither read nor moved (the examples' randomness is that of `training_data`).

	At the end of each epoch, and when `stop` says so, all that the rest of the run depends on is written to
	``{name}.checkpoint``. A run that goes on from there, on the CPU with the same number of threads, ends with the bits
	of one that was never interrupted. That asks of `training_data` that it can be told the epoch (as the loaders of
	`cherimoya.io.PeakGenerator` can), or that it draws from generators of its own and keeps no workers between epochs.

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
	resume: bool or "auto"
		What to do with the ``{name}.checkpoint`` that is there. False (default): begin anew. "auto": go on from it if
		it is of this very run, and begin anew if not; a run that had ended is not trained again. True: go on from it,
		or fail if it is of another run; `max_epochs`, `min_total_steps`, `early_stopping` and `gradient_accumulation`
		may be others than they were.
	identity: mapping or None
		Further plain values that a run must share to be the same, such as the settings of its data. Default None.
	stop: callable or None
		Asked after each step; once it returns True the state is written, and `Interrupted` raised. Default None.
	tensorboard: str, path or None
		A folder for TensorBoard's curves. Default None: none.
	ranks: Ranks or None
		The processes that train together, as `cherimoya.training.join` gives them; all call this with the same
		arguments, but for `device`, and for `training_data`, of whose batches each has its share. The first writes the
		files, and its weights are those that all begin with. Default None: this process trains by itself.
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
		The data do not fit the model, there are none, a file cannot be written, or with ``resume=True`` the checkpoint
		is of another run.
	MissingExtraError
		`tensorboard` is given, and that package is not installed.
	Interrupted
		`stop` returned True, on any rank; the message says from where the run can go on.
	ToolError
		The loss was not finite. The message names the step and its examples; the best weights so far
		stay in ``{name}.torch``, and the state after the last good epoch in ``{name}.checkpoint``. Or ranks were not
		given the same data, or their weights came to differ.
	LostRanksError
		Another rank ended. The run can be gone on with, also by another number of ranks.
	"""
	started = time.monotonic()
	options = _resolve_options(options, overrides)
	device = torch.device(device)
	_check_groups(model, signal_groups)
	if tensorboard is not None:
		summary_writer()
	ranks = ALONE if ranks is None else ranks
	ranks.copy_from_first(model)
	with ranks.together():
		check_shares(training_data, ranks)
		examples = Examples.of(validation)
		steps_per_epoch = _count_batches(training_data)
		paths = _output_paths(model.name if name is None else name, writes=ranks.is_first)
		_check_examples(model, examples)
		n_epochs = planned_epochs(options, steps_per_epoch)
		whole = states.identity(model, options, training_data, examples, identity)
	ranks.check_same("the settings or data", whole, "give all ranks the same, and the same seed")
	with ranks.together():
		found, here = states.Found(None, []), states.environment(device, ranks.size)
		if ranks.is_first:
			found = states.find(paths["checkpoint"], whole, here, resume, n_epochs=n_epochs)
	found = ranks.from_first(found)
	say = progress if progress is not None and ranks.is_first else (lambda text: None)
	for notice in found.notices:
		say(notice)

	trainable = [parameter.requires_grad for parameter in model.parameters()]
	try:
		freeze(model, options.freeze)
		model.to(device)
		trainer = Trainer(model, options, device, ranks)
		trainer.prepare(optimizers, schedulers, n_epochs=n_epochs, steps_per_epoch=steps_per_epoch)
		run = _Run(trainer, training_data, examples, paths, whole, n_epochs, say, started=started)
		say(opening(model, device, options, n_epochs, steps_per_epoch, len(examples), ranks.size))
		if found.state is not None:
			run.restore(found.state, own_schedules=schedulers is None)
		run.pace = Pace(
			say,
			n_epochs=n_epochs,
			steps_per_epoch=steps_per_epoch,
			n_validation_steps=math.ceil(len(examples) / options.batch_size / ranks.size),
			every=None if bar else 60.0,
		)
		return run.to_the_end(stop or (lambda: False), tensorboard, bar=bar and ranks.is_first)
	finally:
		for parameter, flag in zip(model.parameters(), trainable, strict=True):
			parameter.requires_grad_(flag)


@dataclass
class _Run:
	"""A training run with its files; whatever is written is written here, by the first rank.

	Attributes
	----------
	trainer: Trainer
	loader: torch.utils.data.DataLoader
	examples: Examples
		To validate on.
	paths: dict of str to str
		The files.
	identity: dict
		See `cherimoya.training.state.identity`.
	n_epochs: int
		Planned.
	say: callable
		Takes a line for the user.
	started: float
		When this process began, by `time.monotonic`.
	progress: Progress
	random_states: list of torch.Tensor
		Of the loader, as the epoch under way began.
	resumed_at: int or None
		The epoch that this process went on from.
	"""

	trainer: Trainer
	loader: Iterable
	examples: Examples
	paths: dict[str, str]
	identity: dict[str, Any]
	n_epochs: int
	say: Callable[[str], None]
	started: float
	progress: Progress = field(default_factory=Progress)
	random_states: list[torch.Tensor] = field(default_factory=list)
	resumed_at: int | None = None
	seconds_before: float = 0.0
	pace: Pace = field(init=False)

	@property
	def writes(self) -> bool:
		"""Whether this process writes the files."""
		return self.trainer.ranks.is_first

	def restore(self, state: dict[str, Any], *, own_schedules: bool) -> None:
		"""Go on from a state; InputError if it does not fit after all."""
		path = self.paths["checkpoint"]
		self.trainer.load_state_dict(state["trainer"], path)
		if own_schedules and state["n_epochs"] != self.n_epochs:
			self.trainer.reschedule()
		self.progress = Progress.of(state["progress"])
		self.resumed_at, self.seconds_before = self.progress.epoch, self.progress.seconds
		states.set_random_states(self.loader, state["random_states"])
		best = self.progress.best_state
		if best and self.writes:
			# A process that was killed may have replaced it after this state was written.
			save_checkpoint(self.paths["best"], self.trainer.model.config, best)
		if not self.is_over():
			self.say(f"resuming from {self.progress.describe()} ({path})")

	def to_the_end(self, stop: Callable[[], bool], tensorboard: str | os.PathLike | None, *, bar: bool) -> History:
		"""Train, validate, keep the best and log, epoch after epoch; leaves the best weights in the model."""
		progress = self.progress
		if self.writes:
			states.remove_leftovers(self.paths.values())
		logs = Logs(self.paths, self.trainer.model.n_groups, progress.rows, writes=self.writes)
		board = Board(tensorboard, progress.epoch) if tensorboard is not None and self.writes else None
		if self.is_over():
			self.say(
				f"{self.paths['checkpoint']} is of this run, which ended after epoch {progress.epoch - 1}: there is "
				"nothing to train (resume: false trains anew)"
			)
			self._save_averaged("final")
		else:
			self.random_states = states.random_states(self.loader)
			self.save()  # so that a folder that cannot be written is found now, and the seed is known if this is killed
		try:
			while not self.is_over():
				self._epoch(logs, board, stop, bar=bar)
		except StopAsked:
			self.save()
			raise self.trainer.ranks.everywhere(self._interrupted(progress.describe())) from None
		except RuntimeError as error:
			# Signals that end this process often end those that prepare its batches first, which torch reports so.
			if isinstance(error, CherimoyaError) or not stop():
				raise
			raise self._interrupted("where it was last saved") from error
		finally:
			if board is not None:
				board.close()
		return self._history()

	def is_over(self) -> bool:
		"""Whether all epochs are done, or none was better than the best for as long as the user waits."""
		patience, last = self.trainer.options.early_stopping, self.progress.epoch - 1
		return last + 1 >= self.n_epochs or (
			last >= 0 and patience is not None and last - self.progress.best_epoch >= patience
		)

	def _epoch(self, logs: Logs, board: Board | None, stop: Callable[[], bool], *, bar: bool) -> None:
		"""One epoch, or what is left of it."""
		trainer, progress, options = self.trainer, self.progress, self.trainer.options
		self.random_states = states.random_states(self.loader)
		self.pace.start_epoch(progress.epoch, progress.batch)
		trainer.train_epoch(_batches(self.loader, progress, bar=bar), self.loader, progress, self.pace, stop)
		self._check_ranks()
		trainer.ema.apply_shadow(trainer.model)
		try:
			validated = trainer.validate(self.examples, progress.epoch, stop)
			saved = self._keep_if_best(validated)
		finally:
			trainer.ema.restore(trainer.model)
		figures = {**progress.sums.figures(), **validated}
		row = {"Epoch": progress.epoch, "Iteration": trainer.n_steps, **figures, "Saved?": saved}
		progress.rows.append(logs.write(row))
		if board is not None:
			board.write(row, [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers])
		progress.next_epoch()
		if self.is_over():
			self._save_averaged("final")
		self.random_states = states.random_states(self.loader)
		self.save()
		self.say(epoch_line(row, self.n_epochs, options.select_on))

	def _check_ranks(self) -> None:
		"""ToolError unless the weights of all ranks, and their averages, are the same bits."""
		trainer = self.trainer
		if trainer.ranks.alone:
			return
		tensors = [*trainer.model.state_dict().values(), *trainer.ema.shadow.values()]
		trainer.ranks.check_same(
			f"after epoch {self.progress.epoch} the weights",
			states.content(tensors),
			f"{self.paths['checkpoint']} holds the state before it. A device or the connection between devices is "
			"faulty, or the ranks run on machines that differ",
		)

	def _keep_if_best(self, validated: dict[str, Any]) -> bool:
		"""Save the weights that the model has now if no epoch before was better; whether they were saved."""
		progress, model = self.progress, self.trainer.model
		column, sign = _SCORES[self.trainer.options.select_on]
		score = sign * validated[column]
		if not score > progress.best_score and progress.best_state:
			return False
		progress.best_score = score if math.isfinite(score) else -math.inf
		progress.best_epoch = progress.epoch
		progress.best_state = {key: value.detach().clone() for key, value in model.state_dict().items()}
		if self.writes:
			model.save(self.paths["best"])
		return True

	def _save_averaged(self, which: str) -> None:
		"""Save the averaged weights as they are now."""
		if not self.writes:
			return
		self.trainer.ema.apply_shadow(self.trainer.model)
		try:
			self.trainer.model.save(self.paths[which])
		finally:
			self.trainer.ema.restore(self.trainer.model)

	def save(self) -> None:
		"""Write the state; if that fails, the one before is kept. All ranks wait until it is done."""
		self.progress.seconds = self.seconds_before + time.monotonic() - self.started
		with self.trainer.ranks.together():
			if self.writes:
				states.write(self.paths["checkpoint"], self._state())

	def _state(self) -> dict[str, Any]:
		"""All that the rest of the run depends on; the number of ranks is not among it."""
		return {
			"identity": self.identity,
			"environment": states.environment(self.trainer.device, self.trainer.ranks.size),
			"finished": self.is_over(),
			"n_epochs": self.n_epochs,
			"progress": self.progress.state_dict(),
			"trainer": self.trainer.state_dict(),
			"random_states": self.random_states,
		}

	def _interrupted(self, place: str) -> Interrupted:
		"""What to say when the run was asked to stop."""
		return Interrupted(f"training can go on from {place}, which {self.paths['checkpoint']} holds")

	def _history(self) -> History:
		"""What the run did, once it is over."""
		progress, model, options = self.progress, self.trainer.model, self.trainer.options
		model.load_state_dict(progress.best_state)
		model.eval()
		rows, best = progress.rows, progress.best_epoch
		stopped = len(rows) < self.n_epochs
		if stopped:
			self.say(f"stopped early: {options.early_stopping} epochs without a better {options.select_on}")
		column, _ = _SCORES[options.select_on]
		score = rows[best][column] if column in rows[best] else -progress.best_score
		self.say(f"best: epoch {best}, with {options.select_on} {score:.3f}; {self.paths['best']} holds it")
		seconds = self.seconds_before + time.monotonic() - self.started
		return History(rows, best, score, seconds, self.trainer.n_steps, stopped, self.paths, self.resumed_at)


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


def _output_paths(name: str | os.PathLike, *, writes: bool = True) -> dict[str, str]:
	"""The files of a run; InputError unless they can be written by the process that writes them."""
	name = os.fspath(name)
	folder = Path(name).parent
	if writes and not folder.is_dir():
		raise InputError(f"{name}: the folder '{folder}' does not exist; create it or choose another name")
	if writes and not os.access(folder, os.W_OK):
		raise InputError(f"{name}: the folder '{folder}' cannot be written to; choose another name")
	return {
		"best": f"{name}.torch",
		"final": f"{name}.final.torch",
		"log": f"{name}.log",
		"detailed_log": f"{name}.detailed.log",
		"checkpoint": f"{name}.checkpoint",
	}


def _batches(loader: Iterable, progress: Progress, *, bar: bool) -> Iterator:
	"""The batches of an epoch that are left, with a bar where wanted.

	The loader is told the epoch, and the batch to begin with, where it can be; else it is let go over those that are
	done, so that it draws what it drew for them.
	"""
	skipped, total = progress.batch, len(loader)  # type: ignore[arg-type]
	batch_sampler = getattr(loader, "batch_sampler", None)
	if skipped == total and states.names_epochs(loader):
		return iter(())
	if skipped and hasattr(batch_sampler, "start_at"):
		batch_sampler.start_at(progress.epoch, skipped)
		skipped = 0
	elif states.names_epochs(loader):
		batch_sampler.set_epoch(progress.epoch)
	batches = islice(loader, skipped, None)
	if not bar:
		return batches
	shown = tqdm(
		batches,
		desc=f"epoch {progress.epoch}",
		unit="step",
		leave=False,
		delay=2,
		total=total,
		initial=progress.batch,
	)
	return iter(shown)
