"""Training on several devices: processes, called ranks, that take the same steps on shares of the same batches.

Each rank holds the whole model. A batch of n examples is shared out, rank r of R taking those from n * r // R to
n * (r + 1) // R. Each weights its losses by the peaks and examples of the whole batch, so that the gradients of the
ranks add up to that of the batch; they are added in one piece, and every rank then takes the same step with the same
bits. The nets are compact: all gradients together are a few megabytes, for which hiding the exchange behind the
backward pass, as `torch.nn.parallel.DistributedDataParallel` does with means over equal shares, would gain little.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed, nn

from cherimoya.errors import CherimoyaError, LostRanksError, SettingsError, ToolError

RENDEZVOUS = "CHERIMOYA_RENDEZVOUS"
"""The variable that names a file through which the ranks of one machine may find each other."""

TIMEOUT = 900.0
"""How long a rank waits for the others, in seconds: they may load more slowly. Ranks that end are noticed at once."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Ranks:
	"""One process among those that train together; `ALONE` if it is the only one.

	Attributes
	----------
	rank, size: int
		Which one it is, from 0, of how many.
	local_rank, local_size: int
		The same among those of this machine.
	alone: bool
		Whether there is no group of processes; nothing is exchanged then. A group may have one member.
	"""

	rank: int = 0
	size: int = 1
	local_rank: int = 0
	local_size: int = 1
	alone: bool = True

	@property
	def is_first(self) -> bool:
		"""Whether this is rank 0, which writes and speaks for all."""
		return self.rank == 0

	@property
	def is_last(self) -> bool:
		"""Whether this is the last rank, whose share of a batch is never empty."""
		return self.rank == self.size - 1

	def share(self, n: int) -> range:
		"""The rank's share of n things, which may be empty; those of all ranks are the n in order."""
		return range(n * self.rank // self.size, n * (self.rank + 1) // self.size)

	# ---- exchange: every rank calls, in the same order ------------------------------------------------

	def add(self, values: torch.Tensor) -> torch.Tensor:
		"""The sums over the ranks of some values, on the CPU."""
		if self.alone:
			return values
		values = values.detach().cpu().clone()
		with self._exchange():
			distributed.all_reduce(values)
		return values

	def any(self, flag: bool) -> bool:
		"""Whether a flag is set on any rank."""
		return flag if self.alone else bool(self.add(torch.tensor([int(flag)])))

	def add_gradients(self, parameters: Iterable[nn.Parameter], values: torch.Tensor) -> torch.Tensor:
		"""Give each parameter the sum over the ranks of its gradients, none counting as 0.

		All ranks get the same bits. Exchanged in float32.

		Parameters
		----------
		parameters: iterable of torch.nn.Parameter
			The same on all ranks, all on one device.
		values: torch.Tensor, shape=(k,)
			Further numbers to be added up.

		Returns
		-------
		sums: torch.Tensor of float64, shape=(k,)
			Of the values, on the CPU.
		"""
		parameters = list(parameters)
		if self.alone:
			return values
		parts = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1).float() for p in parameters]
		device = parts[0].device if parts else values.device
		flat = torch.cat([*parts, values.to(device, torch.float32)])
		with self._exchange():
			distributed.all_reduce(flat)
			*gradients, sums = flat.split([len(part) for part in parts] + [len(values)])
			sums = sums.cpu().double()  # where a GPU that lost the others would say so
		for parameter, gradient in zip(parameters, gradients, strict=True):
			parameter.grad = gradient.view(parameter.shape).to(parameter.dtype)
		return sums

	def gather(self, value: Value) -> list[Value]:
		"""The values of all ranks, in order; of anything that can be pickled."""
		if self.alone:
			return [value]
		values: list[Any] = [None] * self.size
		with self._exchange():
			distributed.all_gather_object(values, value)
		return values

	def from_first(self, value: Value) -> Value:
		"""The value of rank 0; those of the others are not looked at."""
		if self.alone:
			return value
		values = [value if self.is_first else None]
		with self._exchange():
			distributed.broadcast_object_list(values, src=0)
		return values[0]

	def copy_from_first(self, model: nn.Module) -> None:
		"""Begin with the weights of rank 0, as `torch.nn.parallel.DistributedDataParallel` does."""
		if self.alone:
			return
		with torch.no_grad():
			for tensor in model.state_dict().values():
				values = tensor.detach().cpu().contiguous()
				with self._exchange():
					distributed.broadcast(values, src=0)
				tensor.copy_(values)

	@contextmanager
	def together(self) -> Iterator[None]:
		"""Leave the block with all ranks, or if it fails on some, raise the error of the first of those on all.

		Errors other than `CherimoyaError` are not passed on. Within the block nothing is to be exchanged.
		"""
		error = None
		try:
			yield
		except CherimoyaError as found:
			if self.alone:
				raise
			error = found
		errors = [e for e in self.gather(error) if e is not None]
		if errors:
			raise self.everywhere(errors[0])

	def everywhere(self, error: CherimoyaError) -> CherimoyaError:
		"""Note of an error that all ranks raise it, so that it is enough if rank 0 tells it."""
		error.on_all_ranks = not self.alone
		return error

	def check_same(self, what: str, value: Any, remedy: str) -> None:
		"""ToolError on all ranks unless they have the same value."""
		values = self.gather(value)
		others = [rank for rank, other in enumerate(values) if other != values[0]]
		if others:
			raise self.everywhere(ToolError(f"{what} of rank {others[0]} differ from those of rank 0; {remedy}"))

	@contextmanager
	def _exchange(self) -> Iterator[None]:
		"""LostRanksError if the others cannot be reached."""
		try:
			yield
		except CherimoyaError:
			raise
		except (RuntimeError, OSError) as error:
			raise LostRanksError(
				f"rank {self.rank} of {self.size} has lost the others ({str(error).splitlines()[0][:200]}); one of "
				"them has ended or hangs: see what it printed"
			) from error


ALONE = Ranks()
"""A process that trains by itself."""


def is_rank() -> bool:
	"""Whether the environment says that this process is one of several, as that of torchrun does."""
	return "RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def join(*, timeout: float = TIMEOUT) -> Iterator[Ranks]:
	"""Be one of the ranks that the environment names, until the block ends.

	``RANK``, ``WORLD_SIZE``, ``LOCAL_RANK``, ``LOCAL_WORLD_SIZE``, ``MASTER_ADDR`` and ``MASTER_PORT`` are as torchrun
	sets them; a file named by ``CHERIMOYA_RENDEZVOUS`` may stand for the last two. Tensors on GPUs are exchanged by
	nccl, those on CPUs by gloo. A group of processes that exists already is used and left.

	Parameters
	----------
	timeout: float, seconds
		How long a rank waits for the others. Default `TIMEOUT`.

	Yields
	------
	ranks: Ranks
		`ALONE` if the environment names no ranks and there is no group.

	Raises
	------
	SettingsError
		The environment is incomplete or contradicts itself, or torch is built without distributed training.
	LostRanksError
		The others cannot be reached.
	"""
	if not distributed.is_available() and is_rank():
		raise SettingsError(
			"this build of torch cannot train in several processes; install another, or unset RANK and WORLD_SIZE"
		)
	ours = not (distributed.is_available() and distributed.is_initialized())
	if ours and not is_rank():
		yield ALONE
		return
	ranks = _of_environment() if ours else _of_group()
	if ours:
		nccl = torch.cuda.is_available() and distributed.is_nccl_available()
		file = os.environ.get(RENDEZVOUS)
		with ranks._exchange():
			distributed.init_process_group(
				"cpu:gloo,cuda:nccl" if nccl else "gloo",
				init_method="env://" if file is None else f"file://{file}",
				rank=ranks.rank,
				world_size=ranks.size,
				timeout=timedelta(seconds=timeout),
			)
	lost = False
	try:
		yield ranks
	except LostRanksError:
		lost = True
		raise
	finally:
		if ours and not lost:  # a group that lost a member may wait for it in vain
			distributed.destroy_process_group()


def _of_environment() -> Ranks:
	"""What the environment says, checked."""
	rank, size = _number("RANK"), _number("WORLD_SIZE")
	local = _number("LOCAL_RANK", rank), _number("LOCAL_WORLD_SIZE", size)
	if not (0 <= rank < size and 0 <= local[0] < local[1]):
		raise SettingsError(
			f"the environment names rank {rank} of {size}, locally {local[0]} of {local[1]}; ranks count from 0: start "
			"them with torchrun or the setting devices, or unset RANK and WORLD_SIZE to train by one process"
		)
	missing = [key for key in ("MASTER_ADDR", "MASTER_PORT") if key not in os.environ]
	if missing and RENDEZVOUS not in os.environ:
		raise SettingsError(
			f"the environment sets RANK and WORLD_SIZE, but not {' and '.join(missing)}; start the ranks with torchrun "
			"or the setting devices, or unset RANK and WORLD_SIZE to train by one process"
		)
	return Ranks(rank, size, *local, alone=False)


def _number(key: str, default: int | None = None) -> int:
	"""A variable of the environment as a whole number."""
	text = os.environ.get(key)
	if text is None and default is not None:
		return default
	try:
		return int(text or "")
	except ValueError:
		raise SettingsError(f"the environment sets {key} to '{text}', which is no whole number") from None


def _of_group() -> Ranks:
	"""The place of this process in the group that exists."""
	rank, size = distributed.get_rank(), distributed.get_world_size()
	return Ranks(rank, size, _number("LOCAL_RANK", rank), _number("LOCAL_WORLD_SIZE", size), alone=False)


def check_shares(loader: Iterable, ranks: Ranks) -> None:
	"""SettingsError if a loader can be seen to share out its batches otherwise than among these ranks."""
	batches = getattr(loader, "batch_sampler", None)
	found = getattr(batches, "rank", ranks.rank), getattr(batches, "world_size", ranks.size)
	if found != (ranks.rank, ranks.size):
		raise SettingsError(
			f"the training data are share {found[0]} of {found[1]}, but this is rank {ranks.rank} of {ranks.size}; "
			f"make them with PeakGenerator(rank={ranks.rank}, world_size={ranks.size})"
		)


def places_in_batch(shares: Sequence[tuple[int, Sequence[int]]]) -> list[int]:
	"""Places in a whole batch out of (size, places) of each rank's share."""
	places, start = [], 0
	for size, found in shares:
		places += [start + i for i in found]
		start += size
	return places
