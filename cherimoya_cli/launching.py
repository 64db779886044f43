"""Training on several devices: which they are, one process for each, and what to say when one of them ends.

Imports the standard library alone; what needs more is imported inside the functions.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cherimoya.errors import SettingsError, ToolError
from cherimoya_cli import process
from cherimoya_cli.stopping import GRACE_SECONDS, LAST_SECONDS, signals_heard
from cherimoya_cli.utils import resolve_device, warn

if TYPE_CHECKING:
	import torch

	from cherimoya.training import Ranks

LOST = 75
"""The exit code of a rank that was started here and lost the others; which of them failed is told here."""

POLL_SECONDS = 0.05
LEAVE_SECONDS = GRACE_SECONDS + LAST_SECONDS + 3.0
"""How long ranks may take to end once they were asked to, or another has ended."""

SPEAK_SECONDS = 1.0
"""How long the first rank has to tell an error before another ends, at which torchrun ends them all."""

_TAIL_LINES = 40
_STOPPED = (130, 143)


def refuse_ranks(command: str, remedy: str = "") -> None:
	"""SettingsError when torchrun started several processes of a command that is one; the first of them tells it.

	Parameters
	----------
	command: str
		The command or step.
	remedy: str
		What to do apart from starting it by itself. Default is nothing else.
	"""
	size = os.environ.get("WORLD_SIZE", "1")
	if "RANK" not in os.environ or size == "1":
		return
	if os.environ["RANK"] != "0":
		time.sleep(SPEAK_SECONDS)
		raise SystemExit(SettingsError.exit_code)
	raise SettingsError(
		f"torchrun, or what else sets RANK and WORLD_SIZE, has started {size} processes of 'cherimoya {command}', "
		f"which is one, and would do the same work {size} times; start it by itself{remedy.format(size=size)}"
	)


# ---- which devices ----------------------------------------------------------------------------------


def resolve_devices(settings: Any) -> list["torch.device"]:
	"""The devices that the settings `devices` and `device` name, one for each process.

	Parameters
	----------
	settings: FitSettings, or an object with its keys
		The settings.

	Raises
	------
	SettingsError
		A device is not on this machine, is named twice, or cannot be shared out among processes.
	"""
	import torch

	devices, first = settings.devices, resolve_device(settings.device)
	gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
	if isinstance(devices, list):
		return _listed(devices, settings, gpus)
	if devices == "*":
		every = [torch.device("cuda", i) for i in range(gpus)]
		return every if every and first.type == "cuda" and first.index is None else [first]
	if devices in (None, 1):
		return [first]
	if first.type == "mps" or (first.type == "cuda" and first.index is not None):
		raise SettingsError(
			f'devices is {devices}, but device is "{settings.device}", which is a single one; set device to "auto", '
			'"cuda" or "cpu", or devices to null'
		)
	if first.type == "cpu":
		return [first] * devices
	if devices > gpus:
		raise SettingsError(
			f'devices is {devices}, but torch finds {_number(gpus)} here; lower it, or set devices to "*" for all'
		)
	return [torch.device("cuda", i) for i in range(devices)]


def _number(gpus: int) -> str:
	"""How many GPUs there are, in words."""
	return f"{gpus or 'no'} GPU{'s' if gpus > 1 else ''}"


def _listed(names: Sequence[str], settings: Any, gpus: int) -> list["torch.device"]:
	"""The devices of a list."""
	import torch

	found = [torch.device(name) for name in names]
	missing = [str(device) for device in found if device.type == "cuda" and device.index >= gpus]
	if missing:
		raise SettingsError(
			f"devices has {', '.join(missing)}, but torch finds {_number(gpus)} here; name those that there are, or "
			'set devices to "*" for all'
		)
	kinds = {device.type for device in found}
	wanted = None if settings.device == "auto" else resolve_device(settings.device).type
	if len(kinds) > 1:
		raise SettingsError(f"devices has {' and '.join(sorted(kinds))}; name devices of one kind")
	if wanted is not None and kinds != {wanted}:
		raise SettingsError(
			f'devices is {list(names)}, but device is "{settings.device}"; set device to "auto", or devices to null'
		)
	if kinds == {"cuda"} and len(set(found)) < len(found):
		raise SettingsError(f"devices is {list(names)}, in which a GPU is named twice; name each once")
	return found


def device_of_rank(settings: Any, local_rank: int, local_size: int) -> "torch.device":
	"""The device of a rank: one of `devices`, else the GPU of its number, else the CPU.

	Raises
	------
	SettingsError
		There are not as many devices as ranks on this machine.
	"""
	import torch

	devices = resolve_devices(settings)
	if len(devices) == local_size:
		device = devices[local_rank]
		return torch.device("cuda", 0) if device == torch.device("cuda") else device
	if len(devices) > 1:
		raise SettingsError(
			f"{local_size} processes were started on this machine, but devices names {len(devices)} devices; start as "
			"many, or set devices to null"
		)
	if devices[0].type == "cpu":
		return devices[0]
	gpus = torch.cuda.device_count()
	if devices[0].index is not None or devices[0].type != "cuda" or local_size > gpus:
		raise SettingsError(
			f"{local_size} processes were started on this machine, and each needs a device of its own, but device is "
			f'"{settings.device}" and torch finds {_number(gpus)}; start fewer, or set device to "cuda" or "cpu"'
		)
	return torch.device("cuda", local_rank)


# ---- one process for each ---------------------------------------------------------------------------


@dataclass
class _Rank:
	"""A rank that was started: its number, device and process, the last it said, and whether it was ended here."""

	number: int
	device: str
	process: subprocess.Popen
	tail: deque[str] = field(default_factory=lambda: deque(maxlen=_TAIL_LINES))
	reader: threading.Thread | None = None
	ended_here: bool = False

	def listen(self) -> None:
		"""Keep the last that it says, to the end."""
		with self.process.stderr as stream:
			self.tail.extend(stream)

	def signal(self, number: int) -> None:
		"""Send it a signal if it is there."""
		if self.process.poll() is None:
			self.ended_here = True
			self.process.send_signal(number)


def launch(arguments: Sequence[str], devices: Sequence["torch.device"]) -> int:
	"""Run a command once for each device, as ranks that find each other, to the end of all.

	The first rank has this process's output. SIGINT and SIGTERM are passed on, so that all stop at the same step. When
	a rank fails the others are ended.

	Parameters
	----------
	arguments: sequence of str
		Of ``python -m cherimoya_cli``.
	devices: sequence of torch.device
		More than one.

	Returns
	-------
	code: int
		The exit code of the ranks: 0, 130 or 143, or that of the one that failed, which has said why.

	Raises
	------
	ToolError
		A rank was killed, or ended without a word.
	"""
	with tempfile.TemporaryDirectory(prefix="cherimoya-ranks-") as folder, signals_heard() as heard:
		ranks: list[_Rank] = []
		try:
			for i, device in enumerate(devices):
				ranks.append(_start(arguments, i, str(device), len(devices), folder))
			_wait(ranks, heard)
		finally:
			for rank in ranks:
				rank.signal(signal.SIGKILL)
				rank.process.wait()
				if rank.reader is not None:
					rank.reader.join(timeout=1)
	return _outcome(ranks, heard)


def _start(arguments: Sequence[str], number: int, device: str, size: int, folder: str) -> _Rank:
	"""Start one rank; it ends when this process does."""
	child = subprocess.Popen(
		[
			*(sys.executable, "-I", "-S", process.__file__, str(os.getpid())),
			*(sys.executable, "-m", "cherimoya_cli", *arguments),
		],
		env=_environment(number, size, folder),
		stdin=subprocess.DEVNULL,
		stdout=None if number == 0 else subprocess.DEVNULL,
		stderr=None if number == 0 else subprocess.PIPE,
		start_new_session=True,  # Ctrl-C at a terminal is passed on once, not heard twice
		text=True,
		errors="replace",
	)
	rank = _Rank(number, device, child)
	if child.stderr is not None:
		rank.reader = threading.Thread(target=rank.listen, daemon=True)
		rank.reader.start()
	return rank


def _environment(number: int, size: int, folder: str) -> dict[str, str]:
	"""The variables of a rank; torch's names, and a file in place of an address and port."""
	from cherimoya.io._workers import n_cores
	from cherimoya.training.distributed import RENDEZVOUS

	environment = {
		"OMP_NUM_THREADS": str(max(1, n_cores() // size)),
		"GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",
		**os.environ,
		"RANK": str(number),
		"LOCAL_RANK": str(number),
		"WORLD_SIZE": str(size),
		"LOCAL_WORLD_SIZE": str(size),
		RENDEZVOUS: str(Path(folder) / "store"),
	}
	return environment


def is_launched() -> bool:
	"""Whether this process is a rank that `launch` started."""
	from cherimoya.training.distributed import RENDEZVOUS, is_rank

	return is_rank() and RENDEZVOUS in os.environ


def _wait(ranks: Sequence[_Rank], heard: list[int]) -> None:
	"""Wait for the end of all, passing on signals; once one has failed or stopped, or was asked to, not for long."""
	passed, deadline, asked = 0, float("inf"), False
	while any(rank.process.poll() is None for rank in ranks):
		for number in heard[passed:]:
			for rank in ranks:
				if rank.process.poll() is None:
					rank.process.send_signal(number)
		if len(heard) > passed or (deadline == float("inf") and _first_failed(ranks)):
			# Ranks that heard a signal have a time limit of their own.
			deadline, asked = time.monotonic() + LEAVE_SECONDS, bool(heard)
		passed = len(heard)
		if time.monotonic() > deadline:
			for rank in ranks:
				rank.signal(signal.SIGKILL if asked else signal.SIGTERM)
			deadline, asked = time.monotonic() + LEAVE_SECONDS, True
		time.sleep(POLL_SECONDS)


def _first_failed(ranks: Sequence[_Rank]) -> bool:
	"""Whether one has ended, and not well."""
	return any(rank.process.poll() not in (None, 0) for rank in ranks)


def _outcome(ranks: Sequence[_Rank], heard: Sequence[int]) -> int:
	"""The exit code of all, or ToolError on the rank that is to blame."""
	failed = [rank for rank in ranks if rank.process.returncode != 0]
	if not failed:
		return 0
	own = [rank for rank in failed if not rank.ended_here and rank.process.returncode != LOST]
	culprit = next((rank for rank in own if rank.process.returncode not in _STOPPED), None)
	if heard and (culprit is None or culprit.process.returncode in (-signal.SIGINT, -signal.SIGTERM)):
		return 128 + heard[0]
	if culprit is None:
		stopped = [rank.process.returncode for rank in own]
		if stopped:
			return max(stopped)
		culprit = failed[0]
	code = culprit.process.returncode
	for line in culprit.tail:
		warn(line.rstrip("\n"))
	if code in (2, 3, 4):  # it has said why
		return code
	how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
	if code == LOST:
		how = "lost the others"
	hint = "; the system does so when memory runs out" if code == -signal.SIGKILL else ""
	raise ToolError(
		f"rank {culprit.number} of {len(ranks)} (process {culprit.process.pid}, {culprit.device}) {how}{hint}; the "
		"other ranks were ended. Training can go on from where it was last saved: give the same command again, also "
		"with another number of devices"
	)


def _signal_name(number: int) -> str:
	"""SIGKILL for 9, and so on."""
	try:
		return signal.Signals(number).name
	except ValueError:
		return f"signal {number}"


@contextmanager
def quiet(flag: bool) -> Iterator[None]:
	"""Print nothing in the block if so wanted: the first rank speaks for all."""
	if not flag:
		yield
		return
	before = sys.stdout, sys.stderr
	with open(os.devnull, "w", encoding="utf-8") as nowhere:
		sys.stdout = sys.stderr = nowhere
		try:
			yield
		finally:
			sys.stdout, sys.stderr = before


def as_rank(work: "Callable[[Ranks], Callable[[], int] | None]") -> int:
	"""Do the work of a command as the rank that this process is; returns the exit code.

	What ranks but the first print is dropped, and an error that all have is told by the first.

	Parameters
	----------
	work: callable
		Takes the `cherimoya.training.Ranks`, and returns what this rank is to do once all have left each other, if
		anything; that returns the exit code.
	"""
	from cherimoya.errors import CherimoyaError, LostRanksError
	from cherimoya.training import join

	rank = os.environ.get("RANK")
	try:
		with join() as ranks, quiet(not ranks.is_first):
			rest = work(ranks)
	except LostRanksError:
		if not is_launched():
			raise
		return LOST
	except CherimoyaError as error:
		if rank == "0" or not getattr(error, "on_all_ranks", False):
			raise
		if not is_launched():
			time.sleep(SPEAK_SECONDS)
		return error.exit_code
	return 0 if rest is None else rest()
