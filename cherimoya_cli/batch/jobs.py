"""The jobs of a batch: one pipeline each, in a folder of its own, and the index that lists them.

Imports the standard library alone, so that looking at thousands of jobs takes a moment.
"""

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from cherimoya.errors import InputError, MissingFileError, SettingsError, join_problems
from cherimoya_cli.utils import write_text

INDEX_VERSION = 1


@dataclass(frozen=True)
class Job:
	"""One pipeline of a batch. Its files are ``{batch}/{name}/{name}.*``.

	Attributes
	----------
	batch: str
		The batch's `name`, which its jobs' folders lie in.
	sample: str
		The sample.
	fold: str or None
		The fold that it is crossed with, if any.
	shared: bool
		Whether the sample's folds share peaks, bigWigs or negatives, made by its job without a fold. Default is False.
	"""

	batch: str
	sample: str
	fold: str | None = None
	shared: bool = False

	@property
	def name(self) -> str:
		"""The sample, and the fold: ``"K562.fold_0"``."""
		return self.sample if self.fold is None else f"{self.sample}.{self.fold}"

	@property
	def prepares(self) -> bool:
		"""Whether it makes what the folds of its sample share, and trains nothing."""
		return self.shared and self.fold is None

	@property
	def preparation(self) -> "Job | None":
		"""The job whose files it uses, and which has to be done before it starts, if there is one."""
		return replace(self, fold=None) if self.shared and self.fold is not None else None

	@property
	def prefix(self) -> str:
		"""The pipeline's `name`: how all its files begin."""
		return f"{self.batch}/{self.name}/{self.name}"

	@property
	def json_path(self) -> str:
		"""The pipeline's settings."""
		return f"{self.prefix}.pipeline.json"

	@property
	def record_path(self) -> str:
		"""What became of the job; see `cherimoya_cli.batch.records`."""
		return f"{self.prefix}.job.json"

	@property
	def lock_path(self) -> str:
		"""The file that is locked while the job runs."""
		return f"{self.prefix}.job.lock"

	@property
	def log_path(self) -> str:
		"""What the pipeline printed, one attempt after the other."""
		return f"{self.prefix}.job.log.txt"


def index_path(batch: str) -> Path:
	"""The list of a batch's jobs."""
	return Path(f"{batch}.jobs.json")


def write_index(batch: str, jobs: Iterable[Job]) -> None:
	"""Write the list of a batch's jobs, unless the file holds it already."""
	rows = [[job.sample, job.fold, job.shared] if job.shared else [job.sample, job.fold] for job in jobs]
	content = {"version": INDEX_VERSION, "jobs": rows}
	path, text = index_path(batch), json.dumps(content) + "\n"
	if not path.is_file() or path.read_text(encoding="utf-8") != text:
		write_text(path, text)


def read_index(batch: str) -> list[Job]:
	"""The jobs of a batch, in the order of its samples.

	Raises
	------
	MissingFileError
		No batch of this name was ever run.
	InputError
		The list cannot be read.
	"""
	path = index_path(batch)
	try:
		content = json.loads(path.read_text(encoding="utf-8"))
		version, jobs = content["version"], [Job(batch, *row) for row in content["jobs"]]
	except FileNotFoundError:
		raise MissingFileError(
			f"{path}: no such file, so no batch '{batch}' was run here; check the name and the folder that the command "
			"is given in, or start it with 'cherimoya batch run'"
		) from None
	except OSError as error:
		raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None
	except (ValueError, KeyError, TypeError):
		raise InputError(f"{path}: is damaged; 'cherimoya batch run' writes it again, and loses nothing") from None
	if version != INDEX_VERSION:
		raise InputError(f"{path}: was written by another version of cherimoya; give 'cherimoya batch run' again")
	return jobs


def select(jobs: Sequence[Job], patterns: Sequence[str]) -> list[Job]:
	"""The jobs that names or patterns such as ``"K562*"`` choose; all without any.

	Raises
	------
	SettingsError
		A name or pattern fits no job.
	"""
	if not patterns:
		return list(jobs)
	problems = []
	for pattern in patterns:
		if not any(fnmatchcase(job.name, pattern) for job in jobs):
			close = difflib.get_close_matches(pattern, (job.name for job in jobs), 1, 0.6)
			hint = f"did you mean '{close[0]}'?" if close else f"the first of them is '{jobs[0].name}'" if jobs else ""
			problems.append(f"--jobs {pattern}: fits none of the {len(jobs)} jobs; {hint}")
	if problems:
		raise SettingsError(join_problems(problems))
	return [job for job in jobs if any(fnmatchcase(job.name, pattern) for pattern in patterns)]
