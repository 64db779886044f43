"""What runs the jobs of a batch: the interface, and the choice between those that there are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from cherimoya_cli.batch.jobs import Job

if TYPE_CHECKING:
	from cherimoya_cli.settings import BatchSettings


class Executor(Protocol):
	"""Something that runs jobs, each as ``cherimoya pipeline -p {name}.pipeline.json``.

	An executor starts jobs by `cherimoya_cli.batch.attempt.Attempt`, in the process that is to watch over the pipeline
	(on the node, for a cluster), which keeps the job's record. Before that it takes the job's lock by
	`cherimoya_cli.batch.records.take_hold`, and passes over a job whose lock another process has, or whose record says,
	once the lock is taken, that it is no longer due (`cherimoya_cli.batch.records.is_due`).

	Attributes
	----------
	name: str
		Its name in the key `executor`.
	"""

	name: str

	def check(self) -> None:
		"""Raise what keeps it from working at all, before anything is written.

		Raises
		------
		MissingExtraError
			A package that it needs is not installed.
		SettingsError
			A setting cannot be met here.
		ToolError
			A program that it needs is not there.
		"""

	def run(self, jobs: Sequence[Job]) -> int:
		"""See to the end of jobs, or hand them to a scheduler that will.

		Jobs may be in any state but done and failed: waiting, stopped, lost, and also queued or running, where the
		executor finds out by itself (from locks, or its scheduler) whether somebody is still at work on them.

		Parameters
		----------
		jobs: sequence of Job
			Those that are due, in the order of their samples; their JSONs are written.

		Returns
		-------
		code: int
			0 if all are done or handed over, 4 if some failed, 130 or 143 if it was interrupted, in which case its jobs
			were stopped in order.
		"""


def make_executor(settings: "BatchSettings", device: str) -> Executor:
	"""The executor that the settings name; imports that one alone.

	Parameters
	----------
	settings: BatchSettings
		The settings of the batch.
	device: str
		Where jobs run, ``"*"`` for all GPUs; their JSONs say "auto" then.
	"""
	if settings.executor == "slurm":
		from cherimoya_cli.batch.slurm import SlurmExecutor

		return SlurmExecutor(settings)
	from cherimoya_cli.batch.local import LocalExecutor

	return LocalExecutor.from_settings(settings, device)
