"""Jobs on this machine: as many at once as its devices and its memory allow, each a process of its own."""

import os
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from cherimoya.errors import CherimoyaError, SettingsError
from cherimoya.memory import available_memory
from cherimoya_cli.batch.attempt import LEAVE_SECONDS, PIPELINE, POLL_SECONDS, Attempt
from cherimoya_cli.batch.jobs import Job
from cherimoya_cli.batch.memory import GIGABYTE, estimate_memory, room_for
from cherimoya_cli.batch.progress import duration, score_in_words
from cherimoya_cli.batch.records import (
	DONE,
	FAILED,
	Hold,
	Record,
	digest_of,
	held_up,
	is_due,
	is_elsewhere,
	read_record,
	take_hold,
	write_record,
)
from cherimoya_cli.stopping import signals_heard
from cherimoya_cli.utils import resolve_device, say, warn

if TYPE_CHECKING:
	from cherimoya_cli.settings import BatchSettings

LOOK_SECONDS = 2.0
"""How often a job that another process has, and the memory, are looked at again."""

REST_SECONDS = 8.0
"""How long a job whose process was killed rests, for what is left of it to end."""


@dataclass(frozen=True)
class Slot:
	"""A place for one job at a time: a device, and what a process needs to be told to use it."""

	device: str
	overrides: tuple[str, ...] = ()
	environment: dict[str, str] = field(default_factory=dict)

	@property
	def gpu(self) -> bool:
		"""Whether the device is a GPU with memory of its own."""
		return self.device.startswith("cuda")


def find_slots(device: str, jobs_per_device: int) -> list[Slot]:
	"""The places for jobs on this machine, those of different devices first.

	Parameters
	----------
	device: str
		As in a pipeline, or ``"*"`` for all GPUs.
	jobs_per_device: int
		Jobs at once on each.

	Raises
	------
	SettingsError
		A device is not on this machine.
	"""
	if device == "*":
		slots = _gpu_slots()
	elif device in ("auto", "cuda"):
		slots = [Slot(str(resolve_device(device)))]
	else:
		slots = [Slot(device if device == "cpu" else str(resolve_device(device)))]
	from cherimoya.io._workers import n_cores

	slots = slots * jobs_per_device
	threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, n_cores() // len(slots)))}
	return [replace(slot, environment={**threads, **slot.environment}) for slot in slots]


def _gpu_slots() -> list[Slot]:
	"""A place on each GPU; each process sees its own alone."""
	import torch

	count = torch.cuda.device_count() if torch.cuda.is_available() else 0
	if not count:
		raise SettingsError('device is "*", all GPUs of this machine, but torch finds none here; set device to "cpu"')
	visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
	names = visible if len(visible) >= count else [str(i) for i in range(count)]
	return [Slot(f"cuda:{i}", ("device=cuda",), {"CUDA_VISIBLE_DEVICES": names[i].strip()}) for i in range(count)]


@dataclass
class _Running:
	"""A job that was started, where, and the memory that it may take."""

	attempt: Attempt
	slot: Slot
	need: int


@dataclass
class LocalExecutor:
	"""Runs jobs on this machine; see `cherimoya_cli.batch.executors.Executor`.

	A job that fails leaves the others alone. One whose process is killed is started again, up to `max_attempts` times,
	and then with twice the room in memory. SIGINT and SIGTERM stop all jobs in order; a second signal kills them.

	Attributes
	----------
	device: str
		As in a pipeline, or ``"*"`` for all GPUs.
	jobs_per_device: int
		Jobs at once on each device. Default is 1.
	max_attempts: int
		How often a job that is killed is started. Default is 3.
	job_memory, max_memory: int or None, bytes
		What a job takes (None: estimated), and what all may take together (None: what is free).
	program: sequence of str
		What to run in place of ``cherimoya pipeline``.
	"""

	device: str = "auto"
	jobs_per_device: int = 1
	max_attempts: int = 3
	job_memory: int | None = None
	max_memory: int | None = None
	program: Sequence[str] = PIPELINE
	name: str = "local"

	@classmethod
	def from_settings(cls, settings: "BatchSettings", device: str) -> "LocalExecutor":
		"""The executor that the settings of a batch describe."""
		memory, most = settings.job_memory, settings.max_memory
		return cls(
			device=device,
			jobs_per_device=settings.jobs_per_device,
			max_attempts=settings.max_attempts,
			job_memory=None if memory is None else int(memory * GIGABYTE),
			max_memory=None if most is None else int(most * GIGABYTE),
		)

	def check(self) -> None:
		"""Look for the devices, and compare the GPU kernels with their definition, which else each job would do.

		Raises
		------
		SettingsError
			A device is not on this machine.
		ToolError
			A kernel is wrong.
		"""
		if any(slot.gpu for slot in self.slots()):
			from cherimoya_cli.preflight import check_kernels

			check_kernels()

	def slots(self) -> list[Slot]:
		"""The places for jobs."""
		return find_slots(self.device, self.jobs_per_device)

	def run(self, jobs: Sequence[Job]) -> int:
		"""Run jobs to their ends; returns 0, 4 if some failed, 130 or 143 if it was interrupted."""
		with signals_heard() as heard:
			return _Run(self, jobs, heard).run()

	def need_of(self, job: Job, slot: Slot) -> int:
		"""Bytes of memory that a job takes there."""
		return estimate_memory(job, gpu=slot.gpu) if self.job_memory is None else self.job_memory


class _Run:
	"""One run over a list of jobs: what waits, what runs here, and what other processes have."""

	def __init__(self, executor: LocalExecutor, jobs: Sequence[Job], heard: list[int]) -> None:
		self.executor, self.heard = executor, heard
		self.free = executor.slots()
		self.waiting = deque(jobs)
		self.running: list[_Running] = []
		self.later: list[tuple[float, Job]] = []  # killed, or at work elsewhere: looked at again at a time
		self.preparing = {job for job in jobs if job.prepares}  # and have not ended
		self.held: dict[Job, list[Job]] = {}  # what waits for one of them
		self.kills: Counter[str] = Counter()
		self.n_jobs, self.n_ended, self.n_failed = len(jobs), 0, 0
		self.next_look = 0.0
		self.told: set[str] = set()

	def run(self) -> int:
		"""Go on until nothing is left to do, or a signal comes."""
		try:
			while self.waiting or self.running or self.later:
				if self.heard:
					warn(f"Stopping {len(self.running)} jobs; what they have finished is kept")
					self.end_all()
					return 128 + self.heard[0]
				self.reap()
				self.wake()
				while self.free and self.waiting and time.monotonic() >= self.next_look and self.start_next():
					pass
				time.sleep(POLL_SECONDS)
		finally:
			self.end_all()
		return 4 if self.n_failed else 0

	def start_next(self) -> bool:
		"""Start the job whose turn it is, unless it needs none or is at work elsewhere; False if there is no room."""
		job = self.waiting[0]
		if job.preparation in self.preparing:
			self.held.setdefault(job.preparation, []).append(self.waiting.popleft())
			return True
		try:
			hold = take_hold(job)
			if hold is None:
				return self.postpone(job)
			try:
				record = read_record(job)
				if is_elsewhere(job, record):
					return self.postpone(job)
				if not is_due(record, digest_of(job)):  # another process has seen to it in the meantime
					return self.ended(job, record)
				if (blocked := held_up(job, record)) is not None:
					write_record(job, blocked)
					return self.ended(job, blocked)
				need = self.executor.need_of(job, self.free[0]) * 2 ** self.kills[job.name]
				if not self.has_room(job, need):
					return False
				self.waiting.popleft()
				slot = self.free.pop(0)
				self.start(job, hold, slot, need)
				hold = None  # the attempt's from here on
			finally:
				if hold is not None:
					hold.release()
		except CherimoyaError as error:
			if self.waiting and self.waiting[0] is job:
				self.waiting.popleft()
			self.give_up(job, str(error))
		return True

	def start(self, job: Job, hold: Hold, slot: Slot, need: int) -> None:
		"""Start a job in a slot."""
		try:
			attempt = Attempt(
				job,
				hold,
				executor=self.executor.name,
				device=slot.device,
				program=self.executor.program,
				overrides=slot.overrides,
				environment=slot.environment,
			)
		except BaseException:
			self.free.append(slot)
			hold.release()
			raise
		self.running.append(_Running(attempt, slot, need))
		say(f"{job.name}: started on {slot.device} (process {attempt.process.pid})")

	def has_room(self, job: Job, need: int) -> bool:
		"""Whether the memory suffices for one more job; if not, it is looked at again in a while."""
		running = {item.attempt.process.pid: item.need for item in self.running}
		if room_for(need, running, free=available_memory(), limit=self.executor.max_memory):
			return True
		self.next_look = time.monotonic() + LOOK_SECONDS
		if job.name not in self.told:
			self.told.add(job.name)
			say(f"{job.name}: waits for memory; it takes about {need / GIGABYTE:.1f} GB")
		return False

	def reap(self) -> None:
		"""See which jobs have ended, and how."""
		for item in list(self.running):
			job = item.attempt.job
			try:
				record = item.attempt.poll()
			except CherimoyaError as error:  # its record cannot be written
				self.forget(item)
				self.give_up(job, str(error))
				continue
			if record is None:
				continue
			self.forget(item)
			if record.state in (DONE, FAILED):
				self.ended(job, record, f" on {item.slot.device}")
				continue
			self.kills[job.name] += 1
			how = record.reason or f"ended by a signal (exit code {record.exit_code})"
			if self.kills[job.name] < self.executor.max_attempts:
				warn(f"{job.name}: {how}; it will go on from what it has saved")
				self.later.append((time.monotonic() + REST_SECONDS, job))
				continue
			reason = f"{how}, {self.kills[job.name]} times in a row" if self.kills[job.name] > 1 else how
			record = replace(record, state=FAILED, reason=reason)
			write_record(job, record)
			self.ended(job, record)

	def forget(self, item: _Running) -> None:
		"""Give back the slot of a job that has ended."""
		self.running.remove(item)
		self.free.append(item.slot)
		self.next_look = 0.0

	def ended(self, job: Job, record: Record, where: str = "") -> bool:
		"""Count a job that is done, failed or cannot start, and say so."""
		if self.waiting and self.waiting[0] is job:
			self.waiting.popleft()
		self.n_ended += 1
		head = f"[{self.n_ended}/{self.n_jobs}] {job.name}:"
		if record.state == DONE:
			say(f"{head} done in {duration(record.seconds)}{where}{score_in_words(record.score)}")
		else:
			self.n_failed += 1
			step = f" in the step {record.step}" if record.step else ""
			warn(f"{head} {record.state}{step}: {record.reason}")
		self.let_go(job)
		return True

	def give_up(self, job: Job, reason: str) -> None:
		"""Count a job that cannot even be recorded."""
		self.n_ended += 1
		self.n_failed += 1
		warn(f"[{self.n_ended}/{self.n_jobs}] {job.name}: failed: {reason}")
		self.let_go(job)

	def let_go(self, job: Job) -> None:
		"""Put what waits for a job that has ended next in turn: it starts, or is told why not."""
		self.preparing.discard(job)
		self.waiting.extendleft(reversed(self.held.pop(job, [])))

	def postpone(self, job: Job) -> bool:
		"""Look again later at a job that another process has."""
		self.waiting.popleft()
		self.later.append((time.monotonic() + LOOK_SECONDS, job))
		if job.name not in self.told:
			self.told.add(job.name)
			record = read_record(job)
			say(f"{job.name}: is at work already (process {record.pid or '?'} on {record.host or 'this machine'})")
		return True

	def wake(self) -> None:
		"""Let jobs wait for their turn whose time has come."""
		now = time.monotonic()
		ready = [job for due, job in self.later if due <= now]
		if ready:
			self.later = [(due, job) for due, job in self.later if due > now]
			self.waiting.extendleft(reversed(ready))

	def end_all(self) -> None:
		"""Stop all running jobs in order; those that do not end in time, or at a second signal, are killed."""
		for item in self.running:
			item.attempt.ask_to_stop()
		deadline = time.monotonic() + LEAVE_SECONDS
		while self.running:
			for item in list(self.running):
				over = time.monotonic() > deadline or len(self.heard) > 1
				try:
					ended = (item.attempt.kill() if over else item.attempt.poll()) is not None
				except (
					CherimoyaError
				) as error:  # its record cannot be written; the others are to end in order all the same
					warn(f"{item.attempt.job.name}: {error}")
					ended = True
				if ended:
					self.running.remove(item)
			time.sleep(POLL_SECONDS if self.running else 0)
