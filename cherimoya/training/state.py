"""The state of a run: where it is, what it has found, and the one file from which it can be gone on with.

A state is plain data and tensors, written whole by `cherimoya.checkpoint.save_atomically` and read without running
anything that is in it. It names the run that it is of, its *identity*: the options, the shape and the first weights of
the model, and samples of the data. Only a run of the same identity goes on from it.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from cherimoya.checkpoint import _read, save_atomically
from cherimoya.errors import CherimoyaError, InputError
from cherimoya.training.evaluation import Examples
from cherimoya.training.options import TrainingOptions

FORMAT = 1

Resume = bool | Literal["auto"]

# What may change where a run is to go on in any case: it decides how long a run is, or how its batches are computed.
CHANGEABLE = frozenset({"max_epochs", "min_total_steps", "early_stopping", "gradient_accumulation"})

_SAMPLED_EXAMPLES = 64
_DIFFERENCES_SHOWN = 4
_CONTENT = "sha256:"


@dataclass
class EpochSums:
	"""Sums over the examples of an epoch so far, out of which its training figures are made.

	Attributes
	----------
	profile: float
		Profile losses of the peaks, means over groups.
	count: float
		Count losses of all examples, means over groups.
	n_peaks, n_examples: int
	seconds: float
		Time spent on them.
	"""

	profile: float = 0.0
	count: float = 0.0
	n_peaks: int = 0
	n_examples: int = 0
	seconds: float = 0.0

	def add(self, profile: float, count: float, n_peaks: int, n_examples: int) -> None:
		"""Take in a batch: its mean losses, and over how many examples they are means."""
		self.profile += profile * n_peaks
		self.count += count * n_examples
		self.n_peaks += n_peaks
		self.n_examples += n_examples

	def figures(self) -> dict[str, float]:
		"""The columns of the log about training, means over the examples."""
		return {
			"Training Time": self.seconds,
			"Training MNLL": self.profile / self.n_peaks if self.n_peaks else math.nan,
			"Training Count MSE": self.count / self.n_examples,
		}


@dataclass
class Progress:
	"""Where a run is, and what it has found.

	Attributes
	----------
	epoch: int
		The epoch under way, from 0.
	batch: int
		Batches of it that are done.
	sums: EpochSums
		Of those batches.
	best_score: float
		The best epoch's value of what is selected on, negated where less is better.
	best_epoch: int
	best_state: dict of str to torch.Tensor
		The averaged weights after it; empty before the end of the first epoch.
	rows: list of dict
		The lines of the detailed log.
	seconds: float
		Wall time of the run in all processes that worked on it.
	"""

	epoch: int = 0
	batch: int = 0
	sums: EpochSums = field(default_factory=EpochSums)
	best_score: float = -math.inf
	best_epoch: int = 0
	best_state: dict[str, torch.Tensor] = field(default_factory=dict)
	rows: list[dict[str, Any]] = field(default_factory=list)
	seconds: float = 0.0

	def next_epoch(self) -> None:
		"""Move to the start of the next epoch."""
		self.epoch, self.batch, self.sums = self.epoch + 1, 0, EpochSums()

	def state_dict(self) -> dict[str, Any]:
		"""All of it as plain data and tensors on the CPU."""
		best = {name: tensor.detach().cpu() for name, tensor in self.best_state.items()}
		plain = {name: value for name, value in vars(self).items() if name not in ("best_state", "sums")}
		return {**plain, "sums": asdict(self.sums), "best_state": best, "rows": [dict(row) for row in self.rows]}

	@classmethod
	def of(cls, state: Mapping[str, Any]) -> "Progress":
		"""What `state_dict` gave."""
		return cls(**{**state, "sums": EpochSums(**state["sums"])})

	def describe(self) -> str:
		"""Where it is, in words."""
		return f"epoch {self.epoch}" + (f", batch {self.batch}" if self.batch else "")


# ---- the identity of a run --------------------------------------------------------------------------


def identity(
	model: nn.Module,
	options: TrainingOptions,
	loader: Iterable,
	examples: Examples,
	more: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
	"""What makes a run the one that it is, name by name: two runs that agree in all of it take the same steps.

	Parameters
	----------
	model: cherimoya.Cherimoya
		With the weights that the run begins with.
	options: TrainingOptions
		All fields count.
	loader: torch.utils.data.DataLoader
		Of a `cherimoya.io.PeakGenerator`, some examples of the first epoch are hashed; of tensors in a TensorDataset,
		all; of other data sets only the sizes are known.
	examples: Examples
		The validation loci, of which some are hashed.
	more: Mapping or None
		Further plain values that must be the same, such as the settings that the data were read with.

	Returns
	-------
	identity: dict
		Plain values; texts that start with ``sha256:`` stand for contents.
	"""
	weights = (tensor for _, tensor in sorted(model.state_dict().items()))
	shape = {key: value for key, value in model.config.items() if key not in ("name", "verbose")}
	values = {
		**options.model_dump(mode="json"),
		**shape,
		**(more or {}),
		"training steps per epoch": len(loader),  # type: ignore[arg-type]
		"training examples": _length(getattr(loader, "dataset", None)),
		"training data": content(_training_samples(loader)),
		"validation loci": len(examples),
		"validation data": content(_validation_samples(examples)),
		"first weights": content(weights),
	}
	return json.loads(json.dumps(values))


def content(tensors: Iterable[torch.Tensor | None]) -> str:
	"""A hash of the values, types and shapes of tensors."""
	digest = hashlib.sha256()
	for tensor in tensors:
		if tensor is None:
			digest.update(b"none")
			continue
		array = tensor.detach().cpu().contiguous()
		digest.update(f"{array.dtype} {tuple(array.shape)}".encode())
		digest.update(array.reshape(-1).view(torch.uint8).numpy().data)
	return _CONTENT + digest.hexdigest()


def _length(dataset: Any) -> int | None:
	"""The number of examples, where it is known."""
	return len(dataset) if hasattr(dataset, "__len__") else None


def _training_samples(loader: Iterable) -> Iterator[torch.Tensor]:
	"""Examples that stand for the training data."""
	dataset = getattr(loader, "dataset", None)
	if hasattr(dataset, "batch") and hasattr(dataset, "plan"):
		yield from dataset.batch([(0, int(i)) for i in _spread(len(dataset))])
		plan = dataset.plan(1)  # the order of another epoch: of all loci, and of another draw from the same seed
		yield from (torch.from_numpy(values) for values in vars(plan).values())
	elif isinstance(dataset, torch.utils.data.TensorDataset):
		yield from dataset.tensors


def _validation_samples(examples: Examples) -> Iterator[torch.Tensor | None]:
	"""Examples that stand for the validation data."""
	yield from examples.take([int(i) for i in _spread(len(examples))])


def _spread(n: int) -> np.ndarray:
	"""Some of n places, evenly spread, the first and the last among them."""
	return np.unique(np.linspace(0, n - 1, min(n, _SAMPLED_EXAMPLES)).round().astype(int))


def differences(before: Mapping[str, Any], now: Mapping[str, Any], *, ignored: Iterable[str] = ()) -> list[str]:
	"""In what two identities differ, in words: what was chosen first, then what follows from it."""
	texts = []
	for key in dict.fromkeys((*now, *before)):
		old, new = before.get(key), now.get(key)
		if old == new or key in ignored:
			continue
		contents = any(_CONTENT in json.dumps(value) for value in (old, new))
		texts.append(f"other {key}" if contents else f"{key} was {json.dumps(old)}, is {json.dumps(new)}")
	return texts


def environment(device: torch.device, n_ranks: int = 1) -> dict[str, Any]:
	"""What rounding depends on."""
	from cherimoya import __version__

	return {
		"cherimoya": __version__,
		"torch": str(torch.__version__),
		"device": device.type,
		"threads": torch.get_num_threads(),
		"ranks": n_ranks,
	}


# ---- the generators of other loaders ----------------------------------------------------------------


def names_epochs(loader: Iterable) -> bool:
	"""Whether the loader can be told which epoch comes next, as that of `cherimoya.io.PeakGenerator`."""
	return hasattr(getattr(loader, "batch_sampler", None), "set_epoch")


def random_states(loader: Iterable) -> list[torch.Tensor]:
	"""What a loader draws from: its own generators, or else torch's global one; nothing if it names epochs."""
	if names_epochs(loader):
		return []
	return [generator.get_state() for generator in _generators(loader)] or [torch.get_rng_state()]


def set_random_states(loader: Iterable, states: list[torch.Tensor]) -> None:
	"""Put back what `random_states` gave."""
	if names_epochs(loader):
		return
	generators = _generators(loader)
	for generator, state in zip(generators, states, strict=False):
		generator.set_state(state)
	if not generators and states:
		torch.set_rng_state(states[0])


def _generators(loader: Iterable) -> list[torch.Generator]:
	"""The generators of a loader and its samplers, each once."""
	batch_sampler = getattr(loader, "batch_sampler", None)
	owners = (loader, getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None))
	found = [getattr(owner, "generator", None) for owner in owners]
	return list({id(g): g for g in found if isinstance(g, torch.Generator)}.values())


# ---- the file ---------------------------------------------------------------------------------------


def write(path: str | os.PathLike, state: Mapping[str, Any]) -> None:
	"""Write a state whole or not at all; InputError if that is not possible, and the state before is kept."""
	save_atomically({"format": FORMAT, **state}, path)


def read(path: str | os.PathLike) -> dict[str, Any]:
	"""Read a state on the CPU, without running anything that is in it.

	Raises
	------
	MissingFileError
		There is no such file.
	InputError
		It is no state of a run, is damaged, or of another version's format.
	"""
	state = _read(Path(path))
	if not isinstance(state, dict) or "format" not in state or "progress" not in state:
		raise InputError(f"{path}: not the state of a training run; remove it, or set resume to false")
	if state["format"] != FORMAT:
		raise InputError(
			f"{path}: written in format {state['format']}, and this version reads {FORMAT}; "
			"go on with the version that wrote it, or set resume to false"
		)
	return state


class Found(NamedTuple):
	"""A state to go on from, or None, and what the user should know about it."""

	state: dict[str, Any] | None
	notices: list[str]


def find(
	path: str | os.PathLike, now: Mapping[str, Any], here: Mapping[str, Any], resume: Resume, *, n_epochs: int
) -> Found:
	"""The state that a run is to go on from.

	Parameters
	----------
	path: str or path
		Where it would be.
	now: Mapping
		The run's `identity`.
	here: Mapping
		Its `environment`.
	resume: bool or "auto"
		False: none. "auto": the file's if it is of this very run; if not, it is put aside as
		``{name}.previous.checkpoint``, unless that run had ended. True: the file's, with the changes that
		`CHANGEABLE` names; an error if it does not fit.
	n_epochs: int
		Epochs planned.

	Returns
	-------
	found: Found

	Raises
	------
	InputError
		With True, if the file is not of this run or cannot be read.
	"""
	if not resume or not os.path.exists(path):
		return Found(None, [])
	try:
		state = read(path)
	except InputError as error:
		if resume != "auto":
			raise
		return Found(None, [f"{error}. {_aside(path)} Training anew."])
	progress, before = state["progress"], {"ranks": 1, **state["environment"]}
	other = differences(state["identity"], now, ignored=CHANGEABLE if resume is True else ())
	if len(progress["rows"]) > n_epochs:
		other.append(f"{len(progress['rows'])} epochs are done, and {n_epochs} planned")
	if other and resume is True:
		raise InputError(
			f"{path}: of another run: {_listed(other)}; go back to what was, set resume to false to train anew, "
			"or choose another name"
		)
	if other:
		kept = "That run had ended." if state["finished"] else _aside(path)
		return Found(None, [f"{path} is of another run: {_listed(other)}. {kept} Training anew."])
	moved = [f"{key} was {before[key]}, is {here[key]}" for key in here if before.get(key) != here[key]]
	if moved and state["finished"] and resume == "auto":
		return Found(None, [f"{path} is of this run, but {_listed(moved)}. Training anew."])
	notices = [f"{_listed(moved)}: the results will be equal to rounding, not bit by bit"] if moved else []
	changed = differences(state["identity"], now)
	if changed:
		notices.append(f"{_listed(changed)}: rates follow the new schedule from here on")
	return Found(state, notices)


def _aside(path: str | os.PathLike) -> str:
	"""Keep a state that the run will not use; says where."""
	path = Path(path)
	kept = path.with_name(f"{path.name.removesuffix('.checkpoint')}.previous.checkpoint")
	try:
		os.replace(path, kept)
	except OSError as error:
		raise InputError(
			f"{path}: cannot be renamed ({error.strerror or error}); check the folder's permissions"
		) from None
	return f"It is kept as {kept}."


def _listed(texts: list[str]) -> str:
	"""The first few of them."""
	more = len(texts) - _DIFFERENCES_SHOWN
	return "; ".join(texts[:_DIFFERENCES_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def remove_leftovers(paths: Iterable[str | os.PathLike]) -> None:
	"""Remove the temporary files that processes which were killed while they wrote these files have left."""
	for path in map(Path, paths):
		for leftover in path.parent.glob(f".{_literal(path.name)}.*.tmp"):
			owner = leftover.name.removesuffix(".tmp").rsplit(".", 1)[-1]
			if owner.isdigit() and not _is_alive(int(owner)):
				leftover.unlink(missing_ok=True)


def _literal(name: str) -> str:
	"""A name as a pattern that matches it alone."""
	return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _is_alive(pid: int) -> bool:
	"""Whether there is a process of this number."""
	try:
		os.kill(pid, 0)
	except ProcessLookupError:
		return False
	except OSError:
		return True
	return True


def load_into(target: Any, state: Mapping[str, Any], path: str | os.PathLike, what: str) -> None:
	"""``target.load_state_dict(state)``; InputError, naming the file, if they do not fit."""
	try:
		target.load_state_dict(state)
	except CherimoyaError:
		raise
	except Exception as error:  # optimizers and schedules raise whatever comes
		raise InputError(
			f"{path}: its {what} does not fit ({str(error).splitlines()[0]}); set resume to false to train anew"
		) from error
