"""What became of each job, as a file beside its results, and the lock that lets one process at a time run it.

Whether a job runs is told by its lock, which the system frees when the last process that holds it has ended, however it
ended. The record is for people and other machines: who runs it, since when, and how it ended.

Imports the standard library alone.
"""

import errno
import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from cherimoya.errors import InputError
from cherimoya_cli.batch.jobs import Job

WAITING, QUEUED, RUNNING, STOPPED, LOST, FAILED, DONE = (
	"waiting",
	"queued",
	"running",
	"stopped",
	"lost",
	"failed",
	"done",
)
STATES = {
	WAITING: "not started yet, or to be run again",
	QUEUED: "handed to a cluster's scheduler",
	RUNNING: "at work",
	STOPPED: "interrupted, at a limit of time for example; the next run goes on from there",
	LOST: "killed, or its machine went away; the next run goes on from what was saved",
	FAILED: "ended with an error; 'retry' runs it again",
	DONE: "finished",
}
"""The states of a job, and what they mean."""

HEARTBEAT_SECONDS = 30.0
"""How often a running job's record is touched."""

SILENT_SECONDS = 300.0
"""A job on another machine that was not heard of for so long is taken for lost."""


@dataclass(frozen=True)
class Record:
	"""What became of a job.

	Attributes
	----------
	state: str
		One of `STATES`.
	settings: str
		Digest of the pipeline's settings that it ran with, so that changed ones are noticed.
	attempts: int
		How often it was started.
	executor: str
		Who runs it: "local" or "slurm".
	ticket: str or None
		The scheduler's name of it, such as ``"1234_5"``.
	device, host: str
		Where it runs.
	pid, pid_started: int or None
		The pipeline's process, and when it started, in clock ticks since the machine did, which tells it from a later
		process of the same number.
	started, ended: float or None, seconds
		Of the last attempt, since 1970.
	seconds: float
		That all attempts took together.
	exit_code: int or None
		Of the last attempt; negative: killed by that signal.
	step: str or None
		The step that it was in when it ended.
	reason: str
		Why it did not end well, in a line.
	score: dict
		Measures of the trained model on held-out loci.
	"""

	state: str = WAITING
	settings: str = ""
	attempts: int = 0
	executor: str = ""
	ticket: str | None = None
	device: str = ""
	host: str = ""
	pid: int | None = None
	pid_started: int | None = None
	started: float | None = None
	ended: float | None = None
	seconds: float = 0.0
	exit_code: int | None = None
	step: str | None = None
	reason: str = ""
	score: Mapping[str, Any] = field(default_factory=dict)


_FIELDS = frozenset(item.name for item in fields(Record))


def read_record(job: Job) -> Record:
	"""The record of a job; that of a waiting job if there is none, or none that can be read."""
	try:
		with open(job.record_path, encoding="utf-8") as handle:
			content = json.load(handle)
	except (OSError, ValueError):
		return Record()
	if not isinstance(content, dict) or content.get("state") not in STATES:
		return Record()
	return Record(**{key: value for key, value in content.items() if key in _FIELDS})


def write_record(job: Job, record: Record) -> None:
	"""Write the record of a job, whole or not at all."""
	temporary = f"{job.record_path}.{os.getpid()}.tmp"
	try:
		with open(temporary, "w", encoding="utf-8") as handle:
			json.dump(asdict(record), handle, indent="\t")
			handle.write("\n")
		os.replace(temporary, job.record_path)
	except OSError as error:
		Path(temporary).unlink(missing_ok=True)
		raise InputError(
			f"{job.record_path}: cannot be written ({error.strerror}); check the folder's permissions and the disk"
		) from error


def digest(text: str) -> str:
	"""A short text that stands for a pipeline's settings."""
	return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of(job: Job) -> str:
	"""The digest of the pipeline JSON that a job has now, and of its preparation's; nothing if one cannot be read."""
	text = ""
	try:
		for path in (job.json_path, *([job.preparation.json_path] if job.preparation else [])):
			with open(path, encoding="utf-8") as handle:
				text += handle.read()
	except (OSError, ValueError):
		return ""
	return digest(text)


def is_due(record: Record, settings: str) -> bool:
	"""Whether ``run`` is to see to a job: not if it is done or failed with the settings (a digest) that it has now."""
	return record.state not in (DONE, FAILED) or record.settings != settings


def held_up(job: Job, record: Record) -> Record | None:
	"""What becomes of a job that is to start while its preparation is not done; None if it can start.

	Parameters
	----------
	job: Job
		The job, which is locked.
	record: Record
		Its record.

	Returns
	-------
	record: Record or None
		Of a job that failed, if its preparation did, else of one that waits; `reason` says for which.
	"""
	first = job.preparation
	if first is None:
		return None
	made = read_record(first)
	ended = not is_due(made, digest_of(first))
	if ended and made.state == DONE:
		return None
	reason = f"it needs the files that the job {first.name} makes, which "
	if ended:
		reason += f"failed{f' in the step {made.step}' if made.step else ''}: {made.reason}"
	else:
		reason += "is to be run again" if made.state in (DONE, FAILED) else f"is not done ({made.state})"
	state = FAILED if ended else WAITING
	return replace(record, state=state, settings=digest_of(job), exit_code=None, step=None, reason=reason)


# ---- who runs it ------------------------------------------------------------------------------------


class Hold:
	"""The lock of a job. A process that is given its `fd` keeps the lock until that process has ended too."""

	def __init__(self, fd: int) -> None:
		self.fd = fd

	def release(self) -> None:
		"""Close this process's part of the lock."""
		if self.fd >= 0:
			os.close(self.fd)
			self.fd = -1


def take_hold(job: Job) -> Hold | None:
	"""Lock a job; None if a process has it.

	Raises
	------
	InputError
		The folder cannot be written to, or its file system has no locks.
	"""
	try:
		fd = os.open(job.lock_path, os.O_RDWR | os.O_CREAT, 0o666)
	except OSError as error:
		raise InputError(f"{job.lock_path}: cannot be written ({error.strerror}); check the folder") from error
	try:
		fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
	except OSError as error:
		os.close(fd)
		if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
			return None
		raise InputError(
			f"{job.lock_path}: cannot be locked ({error.strerror}), so that two processes might run one job; choose a "
			"folder in name whose file system has locks"
		) from error
	return Hold(fd)


def reset(job: Job) -> None:
	"""Let a failed, stopped or lost job wait for its turn again; the number of its attempts and their time stay.

	One that another process has, or has ended well meanwhile, is left as it is.
	"""
	hold = take_hold(job)
	if hold is None:
		return
	try:
		record = read_record(job)
		if record.state in (FAILED, STOPPED, LOST):
			write_record(job, replace(record, state=WAITING, ticket=None, exit_code=None, step=None, reason=""))
	finally:
		hold.release()


def process_started(pid: int) -> int | None:
	"""When a process of this machine started, in clock ticks since the machine did; None where that is not known."""
	try:
		with open(f"/proc/{pid}/stat", "rb") as handle:
			fields_ = handle.read().rpartition(b")")[2].split()
		return None if fields_[0] in (b"Z", b"X") else int(fields_[19])
	except (OSError, IndexError, ValueError):
		return None


def is_alive(job: Job, record: Record, *, now: float | None = None) -> bool:
	"""Whether a job whose record says that it is running does run, without touching its lock.

	Parameters
	----------
	job: Job
		The job.
	record: Record
		Its record.
	now: float or None, seconds since 1970
		The time; None for now.
	"""
	if record.host == socket.gethostname() and record.pid is not None and os.path.isdir("/proc/self"):
		return process_started(record.pid) == record.pid_started
	return heard_of(job) > (time.time() if now is None else now) - SILENT_SECONDS


def heard_of(job: Job) -> float:
	"""When a job's record was last touched, in seconds since 1970."""
	try:
		return os.stat(job.record_path).st_mtime
	except OSError:
		return 0.0


def is_elsewhere(job: Job, record: Record) -> bool:
	"""Whether another machine was at work on a job a short while ago: not every file system shares its locks."""
	return record.state == RUNNING and record.host != socket.gethostname() and is_alive(job, record)
