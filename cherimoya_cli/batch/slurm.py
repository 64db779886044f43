"""The executor ``slurm``: jobs of a batch as job arrays of a cluster, submitted through submitit.

``run`` submits and ends; Slurm has the queue. On a node submitit calls `PipelineTask`, which starts the pipeline and
keeps the job's record. At the time limit and at pre-emption the pipeline is asked to save what it has, and the job is
requeued by submitit's handler of signals, or by Slurm; it goes on from there when its turn comes again.
"""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cherimoya.errors import SettingsError, ToolError, join_problems, missing_extra
from cherimoya_cli.batch.attempt import PIPELINE, Attempt
from cherimoya_cli.batch.jobs import Job
from cherimoya_cli.batch.local import REST_SECONDS
from cherimoya_cli.batch.records import (
	FAILED,
	LOST,
	QUEUED,
	RUNNING,
	STOPPED,
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
from cherimoya_cli.utils import say

if TYPE_CHECKING:
	from submitit.helpers import DelayedSubmission

	from cherimoya_cli.settings import BatchSettings

PROGRAMS = ("sbatch", "srun", "squeue", "scontrol")
"""Programs of Slurm that are called."""

OURS = frozenset({"array", "dependency", "error", "open_mode", "output", "requeue", "signal", "wrap"})
"""Options of sbatch that `sbatch_options` cannot have, because requeueing and records depend on them."""

REMEDY = "mend partition, time_limit, gpus, cpus, job_memory or sbatch_options"
"""What to do when Slurm takes no job."""

HOLD_SECONDS = 30.0
"""How long a job waits for the lock of the process that ran it before, or of the one that writes its ticket."""

DEFAULT_ARRAY = 1001
"""The tasks of an array where Slurm does not tell how many it takes."""

_ANSWER_SECONDS = 60
_LOOK_SECONDS = 1.0


# ---- submitting -------------------------------------------------------------------------------------


class Part(NamedTuple):
	"""One job array: how many jobs it has, how many of them run at once, and the array that it waits for, by number."""

	size: int
	at_once: int
	after: int | None


def divide(n_jobs: int, at_once: int | None, largest: int) -> list[Part]:
	"""Split jobs into arrays as large as Slurm takes, which run side by side and share out `at_once`.

	If there are more arrays than `at_once`, some wait for the end of others.

	Parameters
	----------
	n_jobs: int
		The jobs, 1 or more.
	at_once: int or None
		The most jobs that run at once; None for no limit.
	largest: int
		The most tasks of an array.
	"""
	number = math.ceil(n_jobs / largest)
	sizes = [n_jobs // number + (i < n_jobs % number) for i in range(number)]
	if at_once is None:
		return [Part(size, size, None) for size in sizes]
	lanes = min(number, at_once)
	shares = [at_once // lanes + (i < at_once % lanes) for i in range(lanes)]
	return [Part(size, min(size, shares[i % lanes]), i - lanes if i >= lanes else None) for i, size in enumerate(sizes)]


class SlurmExecutor:
	"""Hands jobs to Slurm; see `cherimoya_cli.batch.executors.Executor`.

	Parameters
	----------
	settings: BatchSettings
		The batch's.
	program: sequence of str
		What to run in place of ``cherimoya pipeline``.
	"""

	name = "slurm"

	def __init__(self, settings: "BatchSettings", program: Sequence[str] = PIPELINE) -> None:
		self.settings, self.program = settings, program

	def check(self) -> None:
		"""Raise what keeps jobs from being submitted: submitit, a program of Slurm, or an option that Slurm refuses.

		Raises
		------
		MissingExtraError
			submitit is not installed.
		SettingsError
			An option is not the user's to set, or Slurm refuses them.
		ToolError
			Slurm is not there.
		"""
		try:
			import submitit  # noqa: F401
		except ImportError:
			raise missing_extra("submitit", extra="cluster", needed_for='executor "slurm"') from None
		missing = [program for program in PROGRAMS if shutil.which(program) is None]
		if missing:
			raise ToolError(
				f'executor "slurm" needs Slurm\'s {", ".join(missing)}, which this machine has not; give the command '
				'where jobs are submitted from, or set executor to "local"'
			)
		taken = sorted(OURS & self._options().keys())
		if taken:
			raise SettingsError(
				join_problems(f"sbatch_options.{key}: is set by the batch itself; leave it out" for key in taken)
			)
		largest_array()
		self._try_options()

	def run(self, jobs: Sequence[Job]) -> int:
		"""Submit the jobs that Slurm does not have yet; 0 once it has all of them.

		Raises
		------
		ToolError
			Slurm refused an array; those before it are submitted, and their jobs' records say so.
		"""
		known = tickets()
		ready = [job for job in jobs if not self._is_seen_to(job, known)]
		if len(ready) < len(jobs):
			say(f"{len(jobs) - len(ready):,} of {len(jobs):,} jobs are in Slurm's queue already, or have just ended.")
		if not ready:
			return 0
		folder = self._new_folder()
		first, others = ([job for job in ready if job.prepares is prepares] for prepares in (True, False))
		ids = self._submit_arrays(first, (), folder)
		ids += self._submit_arrays(others, [*ids, *_preparing(others, known)], folder)
		say(
			f"Slurm has {len(ready):,} job{'s' if len(ready) > 1 else ''} ({', '.join(ids)}). 'cherimoya batch status' "
			f"shows how far they are, and 'scancel {' '.join(ids)}' ends them; what Slurm has to say is in {folder}."
		)
		return 0

	def _submit_arrays(self, jobs: Sequence[Job], before: Iterable[str], folder: Path) -> list[str]:
		"""Submit jobs as arrays that wait for the end of others; the numbers of theirs."""
		ids: list[str] = []
		start = 0
		for part in divide(len(jobs), self.settings.jobs_at_once, largest_array()) if jobs else ():
			members = jobs[start : start + part.size]
			after = [*before, *([] if part.after is None else [ids[part.after]])]
			ids.append(self._submit(members, part, after, folder))
			start += part.size
		return ids

	def _is_seen_to(self, job: Job, known: Iterable[str]) -> bool:
		"""Whether Slurm has a job, another process is at work on it, or it has ended since it was found to be due."""
		record = read_record(job)
		if record.ticket in known and record.state in (QUEUED, RUNNING, STOPPED, LOST):
			return True
		hold = take_hold(job)
		if hold is None:
			return True
		record = read_record(job)
		hold.release()
		return not is_due(record, digest_of(job)) or (record.ticket is None and is_elsewhere(job, record))

	def _submit(self, jobs: Sequence[Job], part: Part, after: Sequence[str], folder: Path) -> str:
		"""Submit one array; each job's record says so. The array's number."""
		from submitit import SlurmExecutor as Submitter

		parameters = self._parameters(jobs, part, after)
		before = {job: read_record(job) for job in jobs}
		for job, record in before.items():
			write_record(job, queued(record, None))
		try:
			submitter = Submitter(folder, max_num_timeout=self.settings.max_requeues)
			submitter.update_parameters(**parameters)
			task = PipelineTask(self.settings.max_attempts, self.settings.cpus, self.program)
			submitted = submitter.map_array(task, jobs)
		except Exception as error:  # submitit raises what sbatch had to say as errors of its own
			for job, record in before.items():
				write_record(job, record)
			gpus = parameters.get("gpus_per_node")
			asked = f" (each with {gpus} GPU{'s' if gpus > 1 else ''})" if gpus else ""
			raise ToolError(f"Slurm did not take {len(jobs):,} jobs{asked}: {_said(error)}; {REMEDY}") from error
		for job, handle in zip(jobs, submitted, strict=True):
			_note_ticket(job, handle.job_id)
		return submitted[0].job_id.partition("_")[0]

	def _parameters(self, jobs: Sequence[Job], part: Part, after: Sequence[str]) -> dict[str, Any]:
		"""What submitit is to ask Slurm for."""
		settings = self.settings
		wanted: dict[str, Any] = {
			"job_name": Path(settings.name).name,
			"time": math.ceil(settings.time_limit * 60),
			"partition": settings.partition,
			"cpus_per_task": settings.cpus,
			"gpus_per_node": self._gpus(jobs) or None,
			"mem": None if settings.job_memory is None else f"{math.ceil(settings.job_memory * 1000)}M",
			"signal_delay_s": settings.stop_before,
			"array_parallelism": part.at_once,
			"dependency": f"afterany:{':'.join(after)}" if after else None,
			"stderr_to_stdout": True,
			"additional_parameters": {"requeue": True, **self._options()},
		}
		return {key: value for key, value in wanted.items() if value is not None}

	def _gpus(self, jobs: Sequence[Job]) -> int:
		"""The GPUs of each job of an array; none where reads become peaks and bigWigs."""
		if all(job.prepares for job in jobs):
			return 0
		return int(wants_gpu(jobs)) if self.settings.gpus is None else self.settings.gpus

	def _options(self) -> dict[str, Any]:
		"""The user's options of sbatch, by the names that submitit has for them; those that are false are left out."""
		options = self.settings.sbatch_options or {}
		return {key.lstrip("-").replace("-", "_"): value for key, value in options.items() if value is not False}

	def _try_options(self) -> None:
		"""Raise SettingsError if Slurm would not take a job with these options; submits none."""
		settings = self.settings
		words = [f"--time={math.ceil(settings.time_limit * 60)}", f"--cpus-per-task={settings.cpus}"]
		words += [f"--partition={settings.partition}"] if settings.partition else []
		words += [f"--gpus-per-node={settings.gpus}"] if settings.gpus else []
		words += [f"--mem={math.ceil(settings.job_memory * 1000)}M"] if settings.job_memory else []
		for key, value in self._options().items():
			name = f"--{key.replace('_', '-')}"
			words.append(name if value is True else f"{name}={value}")
		done = ask_slurm(["sbatch", "--test-only", *words, "--wrap=true"])
		if done.returncode != 0:
			raise SettingsError(
				f"Slurm refuses the batch's jobs ({' '.join(words)}): {_one_line(done.stderr)}; {REMEDY}"
			)

	def _new_folder(self) -> Path:
		"""A folder for the files of a submission, which Slurm's log files need to be there beforehand."""
		stem = f"{self.settings.name}.slurm/{time.strftime('%Y%m%d-%H%M%S')}"
		for number in range(1000):
			folder = Path(stem if number == 0 else f"{stem}-{number}")
			try:
				folder.mkdir(parents=True)
				return folder
			except FileExistsError:
				continue
			except OSError as error:
				raise ToolError(
					f"{folder}: cannot be made ({error.strerror}); choose another folder in name"
				) from error
		raise ToolError(f"{stem}: is there a thousand times; remove what is old")


def queued(record: Record, ticket: str | None) -> Record:
	"""A job's record once Slurm has it."""
	return replace(
		record, state=QUEUED, executor=SlurmExecutor.name, ticket=ticket, device="", host="", pid=None, reason=""
	)


def _preparing(jobs: Iterable[Job], known: Iterable[str]) -> list[str]:
	"""The arrays in Slurm's queue that make the files of jobs."""
	firsts = dict.fromkeys(job.preparation for job in jobs if job.preparation is not None)
	tickets_ = (read_record(first).ticket for first in firsts)
	return list(dict.fromkeys(ticket.partition("_")[0] for ticket in tickets_ if ticket in known))


def _note_ticket(job: Job, ticket: str) -> None:
	"""Write Slurm's name of a job into its record, unless it runs already and has done so itself."""
	hold = take_hold(job)
	if hold is None:
		return
	try:
		record = read_record(job)
		if record.state == QUEUED and record.ticket is None:
			write_record(job, queued(record, ticket))
	finally:
		hold.release()


def wants_gpu(jobs: Iterable[Job]) -> bool:
	"""Whether the settings of any of the jobs leave room for a GPU."""
	for job in jobs:
		with open(job.json_path, encoding="utf-8") as handle:
			if json.load(handle).get("device", "auto") != "cpu":
				return True
	return False


# ---- asking Slurm -----------------------------------------------------------------------------------


def ask_slurm(argv: Sequence[str]) -> subprocess.CompletedProcess:
	"""Run a program of Slurm; ToolError if it does not answer."""
	try:
		return subprocess.run(argv, capture_output=True, text=True, timeout=_ANSWER_SECONDS, stdin=subprocess.DEVNULL)
	except (OSError, subprocess.TimeoutExpired) as error:
		raise ToolError(f"{argv[0]} does not answer ({_said(error)}); is Slurm at work? 'sinfo' shows it") from error


def tickets() -> frozenset[str]:
	"""Slurm's names of this user's jobs that wait, run or are about to end, such as ``"12_3"`` and ``"12"``."""
	done = ask_slurm(["squeue", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"])
	if done.returncode != 0:
		raise ToolError(f"squeue failed: {_one_line(done.stderr)}; is Slurm at work? 'sinfo' shows it")
	return frozenset(done.stdout.split())


def largest_array() -> int:
	"""How many tasks Slurm takes in an array."""
	done = ask_slurm(["scontrol", "show", "config"])
	if done.returncode != 0:
		raise ToolError(f"scontrol failed: {_one_line(done.stderr)}; is Slurm at work? 'sinfo' shows it")
	found = re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE)
	return max(1, int(found[1])) if found else DEFAULT_ARRAY


def is_running(ticket: str) -> bool:
	"""Whether Slurm means a job to go on: not if it was cancelled, or is being requeued already."""
	try:
		done = ask_slurm(["scontrol", "show", "job", "--oneliner", ticket])
	except ToolError:
		return False
	return re.search(r"\bJobState=RUNNING\b", done.stdout) is not None


def _said(error: BaseException) -> str:
	"""What an error says, in a line."""
	return _one_line(str(error)) or type(error).__name__


def _one_line(text: str) -> str:
	"""A text on one line."""
	return " ".join(text.split())


# ---- on a node --------------------------------------------------------------------------------------


class PipelineTask:
	"""What submitit calls on a node: a job's pipeline, from start to end.

	Ends the process with the pipeline's exit code if that is not 0, so that Slurm shows the job as failed.

	Parameters
	----------
	max_attempts: int
		How often the pipeline is started if it is killed.
	cpus: int
		Cores that the job has.
	program: sequence of str
		What to run in place of ``cherimoya pipeline``.
	"""

	def __init__(self, max_attempts: int, cpus: int, program: Sequence[str] = PIPELINE) -> None:
		self.max_attempts, self.cpus, self.program = max_attempts, cpus, tuple(program)
		self._attempt: Attempt | None = None

	def __getstate__(self) -> dict[str, Any]:
		return {**self.__dict__, "_attempt": None}

	def __call__(self, job: Job) -> None:
		"""Run a job, unless it is done or another process has it."""
		ticket = own_ticket()
		hold = wait_for_hold(job)
		if hold is None:
			say(f"{job.name}: another process is at work on it")
			return
		record = read_record(job)
		if not is_due(record, digest_of(job)) or (record.ticket != ticket and is_elsewhere(job, record)):
			hold.release()
			say(f"{job.name}: is {record.state}")
			return
		if (blocked := held_up(job, record)) is not None:
			write_record(job, blocked)
			hold.release()
			say(f"{job.name}: {blocked.state}, {blocked.reason}")
			sys.exit(ToolError.exit_code)
		with _listening() as ears:
			record = self._run_to_end(job, hold, ticket, ears)
		say(f"{job.name}: {record.state}" + (f", {record.reason}" if record.reason else ""))
		if record.exit_code:
			sys.exit(record.exit_code if record.exit_code > 0 else 128 - record.exit_code)

	def checkpoint(self, job: Job) -> "DelayedSubmission | None":
		"""Stop in order; submitit calls this before it requeues the job. None if the job has ended."""
		from submitit.helpers import DelayedSubmission

		if self._attempt is None:  # the signal came before the pipeline was started
			return DelayedSubmission(self, job)
		record = self._attempt.poll() or self._attempt.stop()
		if record.state != STOPPED:
			return None
		write_record(job, queued(record, record.ticket))
		return DelayedSubmission(self, job)

	def _run_to_end(self, job: Job, hold: Hold | None, ticket: str, ears: "Ears") -> Record:
		"""Run the pipeline, and again if it is killed, up to `max_attempts` times."""
		for kills in range(1, self.max_attempts + 1):
			if hold is None:
				raise ToolError(f"{job.lock_path}: is locked although the pipeline ended; look for its processes")
			record = self._run(job, hold, ticket, ears)
			if record.state != LOST:
				return record
			if kills < self.max_attempts:
				say(f"{job.name}: {record.reason}; it will go on from what it has saved")
				time.sleep(REST_SECONDS)
				hold = wait_for_hold(job)
		reason = f"{record.reason}, {kills} times in a row" if kills > 1 else record.reason
		record = replace(record, state=FAILED, reason=reason)
		write_record(job, record)
		return record

	def _run(self, job: Job, hold: Hold, ticket: str, ears: "Ears") -> Record:
		"""Start the pipeline once and watch over it; SystemExit if the job was requeued."""
		cores = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(self.cpus)}
		# Slurm sends its signals to all processes of a job; this one is for submitit alone, and would end the others.
		signal.pthread_sigmask(signal.SIG_BLOCK, {ears.limit})
		try:
			self._attempt = attempt = Attempt(
				job,
				hold,
				executor=SlurmExecutor.name,
				device=device_of(os.environ),
				ticket=ticket,
				program=self.program,
				environment=cores,
			)
		finally:
			signal.pthread_sigmask(signal.SIG_UNBLOCK, {ears.limit})
		while (record := attempt.wait(_LOOK_SECONDS)) is None and not ears.heard:
			pass
		if record is not None and record.state != STOPPED:
			return record
		if ears.limit in ears.heard or is_running(ticket):
			self._requeue(job, ears)
		return attempt.poll() or attempt.stop()

	def _requeue(self, job: Job, ears: "Ears") -> None:
		"""Let submitit stop the job and requeue it, which ends this process; return if it will not be requeued."""
		try:
			ears.requeue(ears.limit, None)
		except Exception as error:
			record = self._attempt.poll() or self._attempt.stop()
			if record.state == STOPPED:
				write_record(job, replace(record, reason=_said(error)))


class Ears(NamedTuple):
	"""The signal of a time limit, what submitit does at it, and the signals that were heard."""

	limit: int
	requeue: Callable[[int, Any], Any]
	heard: list[int]


@contextmanager
def _listening() -> Iterator[Ears]:
	"""Note SIGTERM and submitit's signal, to be seen to between two looks at the pipeline rather than within one."""
	limit = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
	heard: list[int] = []
	before = {number: signal.getsignal(number) for number in (limit, signal.SIGTERM)}
	ears = Ears(limit, before[limit], heard)
	for number in before:
		signal.signal(number, lambda got, _frame: heard.append(got))
	try:
		yield ears
	finally:
		for number, handler in before.items():
			signal.signal(number, handler)


def wait_for_hold(job: Job) -> Hold | None:
	"""Lock a job, waiting a while for processes that are about to end; None if one goes on having it."""
	deadline = time.monotonic() + HOLD_SECONDS
	while (hold := take_hold(job)) is None and time.monotonic() < deadline:
		time.sleep(0.2)
	return hold


def own_ticket() -> str:
	"""Slurm's name of the job that this process belongs to."""
	array = os.environ.get("SLURM_ARRAY_JOB_ID")
	return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]


def device_of(environment: Mapping[str, str]) -> str:
	"""The GPUs that Slurm gave a job, for its record."""
	gpus = environment.get("CUDA_VISIBLE_DEVICES", "")
	return f"cuda:{gpus}" if gpus not in ("", "NoDevFiles") else "cpu"
