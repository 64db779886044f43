"""One start of a job on this machine: the pipeline as a process, its record kept while it runs and when it ends.

Every executor runs jobs through this, here or on a node of a cluster.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from cherimoya.errors import ToolError
from cherimoya_cli import process
from cherimoya_cli.batch.jobs import Job
from cherimoya_cli.batch.progress import current_step, read_score, tail_of, why_failed
from cherimoya_cli.batch.records import (
	DONE,
	FAILED,
	HEARTBEAT_SECONDS,
	LOST,
	RUNNING,
	STOPPED,
	Hold,
	Record,
	digest_of,
	process_started,
	read_record,
	write_record,
)
from cherimoya_cli.stopping import GRACE_SECONDS, LAST_SECONDS

PIPELINE = (sys.executable, "-m", "cherimoya_cli", "pipeline")
"""The program of a job, to which ``-p {name}.pipeline.json`` is added."""

LEAVE_SECONDS = 2 * (GRACE_SECONDS + LAST_SECONDS) + 3.0
"""How long a pipeline and its step may take to end once they were asked to."""

POLL_SECONDS = 0.2


def command_of(job: Job, program: Sequence[str] = PIPELINE, overrides: Sequence[str] = ()) -> list[str]:
	"""The command of a job; overrides are texts ``key=value``."""
	return [*program, "-p", job.json_path, *(word for override in overrides for word in ("--set", override))]


class Attempt:
	"""A job that was started here.

	Its record says ``running`` until `poll` or `wait` notices the end, and what became of it from then on. The job's
	lock belongs to the pipeline's process too, so that it is held until both have ended. If this process is killed, the
	pipeline is asked to stop, and saves what it has (on Linux).

	Parameters
	----------
	job: Job
		The job; its ``{name}.pipeline.json`` is there.
	hold: Hold
		Its lock; released when the attempt has ended.
	executor: str
		Who runs it, for the record.
	device: str
		Where, for the record. Default is "".
	ticket: str or None
		A scheduler's name of it, for the record. Default is None.
	program: sequence of str
		What to run in place of ``cherimoya pipeline``.
	overrides: sequence of str
		Texts ``key=value`` that beat the JSON, such as ``"device=cuda"``.
	environment: mapping of str to str
		Variables that differ from this process's.

	Raises
	------
	InputError
		The record or the log cannot be written.
	"""

	def __init__(
		self,
		job: Job,
		hold: Hold,
		*,
		executor: str,
		device: str = "",
		ticket: str | None = None,
		program: Sequence[str] = PIPELINE,
		overrides: Sequence[str] = (),
		environment: Mapping[str, str] | None = None,
	) -> None:
		self.job, self._hold = job, hold
		self.asked: int | None = None
		before = replace(read_record(job), settings=digest_of(job))  # before the pipeline reads them: they may change
		argv = command_of(job, program, overrides)
		with open(job.log_path, "ab") as log:
			log.write(f"$ {process.shell_line(argv)}\n".encode())
			log.flush()
			self._log_start = log.tell()
			self.process = subprocess.Popen(
				[sys.executable, "-I", "-S", process.__file__, str(os.getpid()), *argv],
				stdin=subprocess.DEVNULL,
				stdout=log,
				stderr=subprocess.STDOUT,
				env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
				pass_fds=(hold.fd,),
				start_new_session=True,  # Ctrl-C at a terminal is passed on once, not heard twice
			)
		self._begun = self._beaten = time.monotonic()
		self.record = replace(
			before,
			state=RUNNING,
			attempts=before.attempts + 1,
			executor=executor,
			ticket=ticket,
			device=device,
			host=socket.gethostname(),
			pid=self.process.pid,
			pid_started=process_started(self.process.pid),
			started=time.time(),
			ended=None,
			exit_code=None,
			step=None,
			reason="",
			score={},
		)
		try:
			write_record(job, self.record)
		except BaseException:
			self.process.kill()
			self.process.wait()
			raise

	def poll(self) -> Record | None:
		"""The final record if the attempt has ended; None while it runs. Call it every second or so."""
		code = self.process.poll()
		if code is None:
			self._beat()
			return None
		if self.record.state == RUNNING:
			self._conclude(code)
		return self.record

	def wait(self, seconds: float | None = None) -> Record | None:
		"""As `poll`, but wait up to so many seconds for the end; None waits for as long as it takes."""
		deadline = None if seconds is None else time.monotonic() + seconds
		while (record := self.poll()) is None and (deadline is None or time.monotonic() < deadline):
			time.sleep(POLL_SECONDS)
		return record

	def ask_to_stop(self, number: int = signal.SIGTERM) -> None:
		"""Ask the pipeline to save what it has and end; its state will be ``stopped``."""
		self.asked = number
		if self.process.poll() is None:
			self.process.send_signal(number)

	def stop(self, number: int = signal.SIGTERM) -> Record:
		"""Ask for a stop and wait for it; what does not end in `LEAVE_SECONDS` is killed. The final record."""
		self.ask_to_stop(number)
		return self.wait(LEAVE_SECONDS) or self.kill()

	def kill(self) -> Record:
		"""End the pipeline where it is; its steps are ended by the system (on Linux). The final record."""
		self.asked = self.asked or signal.SIGKILL
		self.process.kill()
		self.process.wait()
		record = self.poll()
		if record is None:
			raise ToolError(f"{self.job.name}: process {self.process.pid} does not end; end it by hand")
		return record

	def _beat(self) -> None:
		"""Show other machines that the job is at work."""
		if time.monotonic() - self._beaten >= HEARTBEAT_SECONDS:
			self._beaten = time.monotonic()
			try:
				os.utime(self.job.record_path)
			except OSError:
				pass  # the record was removed, or the disk is away for a moment

	def _conclude(self, code: int) -> None:
		"""Write the final record, and let the lock go."""
		seconds = time.monotonic() - self._begun
		record = replace(
			self.record, ended=time.time(), seconds=round(self.record.seconds + seconds, 3), exit_code=code, pid=None
		)
		if code == 0:
			record = replace(record, state=DONE, score=read_score(self.job.prefix))
		elif self.asked is not None or code in (130, 143):
			record = replace(record, state=STOPPED, step=current_step(self.job.prefix))
		elif code < 0:
			record = replace(record, state=LOST, step=current_step(self.job.prefix), reason=_killed_by(-code))
		else:
			step, reason = why_failed(self._printed())
			record = replace(record, state=FAILED, step=step, reason=reason)
		self.record = record
		try:
			write_record(self.job, record)
		finally:
			self._hold.release()

	def _printed(self) -> str:
		"""The end of what this attempt printed."""
		try:
			size = os.stat(self.job.log_path).st_size - self._log_start
		except OSError:
			return ""
		# tail_of leaves out the line that it begins in, here the end of that before
		return tail_of(self.job.log_path, min(size + 1, 65_536)) if size > 0 else ""


def _killed_by(number: int) -> str:
	"""What a signal that ended a process means."""
	try:
		name = signal.Signals(number).name
	except ValueError:
		name = f"signal {number}"
	hint = "; the system does so when memory runs out" if number == signal.SIGKILL else ""
	return f"killed by {name}{hint}"
