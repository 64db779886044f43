"""From the JSON of a batch to its jobs: samples crossed with folds, checked all at once, each with a pipeline JSON.

Jobs that differ in names and files alone are checked once; each job's settings are made when they are written, so that
thousands of them take no memory.
"""

import glob
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from cherimoya.errors import (
	CherimoyaError,
	InputError,
	MissingFileError,
	SettingsError,
	join_problems,
	split_problems,
)
from cherimoya.io._files import is_remote
from cherimoya_cli.batch.jobs import Job, write_index
from cherimoya_cli.batch.records import digest
from cherimoya_cli.batch.sheet import Sample, is_file_name, read_samples
from cherimoya_cli.loading import read_content, show
from cherimoya_cli.settings import SECTIONS, SETTINGS, BatchSettings, load_settings
from cherimoya_cli.utils import file_fault, write_text

FILE_KEYS: frozenset[str] = frozenset(
	key
	for model in (*SETTINGS.values(), *(model for _, model in SECTIONS.values()))
	for key, field in model.model_fields.items()
	if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("files")
)
"""Keys that hold paths of input files."""

MOST_PROBLEMS = 30
"""How many problems are listed."""

EVERY_GPU = "*"
"""The value of `device` for all GPUs of this machine."""


class Data(NamedTuple):
	"""What folds of a sample share, the same for all samples of a kind.

	Attributes
	----------
	files: dict
		Keys of a pipeline, and the files that they are to name, less the start, which is the preparation's prefix:
		``{"loci": ["_peaks.narrowPeak"], "signals": [[".bw"]]}``.
	later: tuple of str
		The steps that a preparation leaves out.
	"""

	files: dict[str, Any]
	later: tuple[str, ...]


@dataclass(frozen=True)
class Planned:
	"""A job, the sample that it is made from, its fold file, and what the sample's folds share, if anything."""

	job: Job
	sample: Sample
	fold_file: str | None
	data: Data | None = None


@dataclass(frozen=True)
class Plan:
	"""A batch whose settings were checked.

	Attributes
	----------
	settings: BatchSettings
		Those of the batch itself.
	shared: dict
		The settings that its pipelines share.
	device: str
		The key `device` as it was written.
	dry_run: bool
		Whether commands are to be printed and nothing is to run.
	jobs: list of Planned
		In the order of samples, and of folds within each, after the job that makes what they share.
	source: str
		The name of the JSON, for messages.
	"""

	settings: BatchSettings
	shared: dict[str, Any]
	device: str
	dry_run: bool
	jobs: list[Planned]
	source: str

	def content(self, planned: Planned) -> dict[str, Any]:
		"""The settings of a job's pipeline."""
		content = self.content_alone(planned)
		if planned.job.prepares:
			return _for_data(content, planned.data)
		if planned.job.preparation is not None:
			return _with_data(content, planned.data, planned.job.preparation.prefix)
		return content

	def content_alone(self, planned: Planned) -> dict[str, Any]:
		"""The settings that its pipeline would have if it shared nothing with other folds."""
		content = {**self.shared, "name": planned.job.prefix}
		sections = [planned.sample.values]
		if planned.fold_file is not None:
			sections.append({"fit_parameters": {"folds": planned.fold_file}})
		for values in sections:
			for key, value in values.items():
				both = isinstance(value, Mapping) and key in SECTIONS
				content[key] = {**(content.get(key) or {}), **value} if both else value
		return content

	def text(self, planned: Planned) -> str:
		"""The settings of a job's pipeline as its JSON holds them."""
		return json.dumps(self.content(planned), indent="\t", ensure_ascii=False) + "\n"


def make_plan(path: str, overrides: Sequence[str] = ()) -> Plan:
	"""Read the JSON of a batch, its samples and folds, and check all of them; writes nothing.

	Parameters
	----------
	path: str
		The JSON.
	overrides: sequence of str
		Texts ``key=value`` of ``--set``.

	Returns
	-------
	plan: Plan

	Raises
	------
	SettingsError
		Settings, samples or folds are wrong; the message lists every problem.
	InputError
		A file is missing or cannot be read.
	"""
	settings = load_settings("batch", path, overrides, check_files=True)
	content = read_content(path, overrides)
	device, dry_run = content.get("device", "auto"), content.pop("dry_run", False)
	shared = {key: value for key, value in content.items() if key not in BatchSettings.model_fields}
	if device == EVERY_GPU:
		shared["device"] = "auto"
	problems: list[str] = []
	if not isinstance(dry_run, bool):
		problems.append(f"{path}: dry_run must be true or false, not {show(dry_run)}")
	samples = read_samples(settings.samples, path, problems)
	folds = find_folds(settings.fold_files, path, problems)
	plan = Plan(settings, shared, device, dry_run is True, [], path)
	plan = replace(plan, jobs=_cross(plan, samples, folds))
	problems += _name_problems(plan)
	problems += _settings_problems(plan)
	_raise_all(problems, _file_problems(plan))
	return plan


def _cross(plan: Plan, samples: Sequence[Sample], folds: Mapping[str | None, str | None]) -> list[Planned]:
	"""The jobs of all samples: one for each fold, after that which makes what they share."""
	data = {} if None in folds else shared_data(plan, samples)
	jobs = []
	for sample in samples:
		made = data.get(kind_of(sample.values)) if data else None
		for fold, file in ({None: None} | folds if made else folds).items():
			jobs.append(Planned(Job(plan.settings.name, sample.name, fold, made is not None), sample, file, made))
	return jobs


def _raise_all(problems: Sequence[str], files: Sequence[str]) -> None:
	"""Raise one error of all problems, of settings and of files, of which not too many are listed."""
	texts = list(dict.fromkeys([*problems, *files]))
	if not texts:
		return
	more = [f"and {len(texts) - MOST_PROBLEMS} more"] if len(texts) > MOST_PROBLEMS else []
	message = join_problems([*texts[:MOST_PROBLEMS], *more])
	if problems:
		raise SettingsError(message)
	raise (MissingFileError if all("no such file" in text for text in files) else InputError)(message)


def find_folds(files: Sequence[str] | None, source: str, problems: list[str]) -> dict[str | None, str | None]:
	"""The fold files by the names of folds, ``{None: None}`` without any; patterns take the files that they fit.

	Parameters
	----------
	files: list of str or None
		Paths and patterns.
	source: str
		The name of the JSON, for messages.
	problems: list of str
		Gets what is wrong with them, a sentence each.
	"""
	if files is None:
		return {None: None}
	found: dict[str | None, str | None] = {}
	for text in files:
		paths = sorted(glob.glob(text)) if glob.has_magic(text) and not os.path.exists(text) else [text]
		if not paths:
			problems.append(f"{source}: fold_files: no file is called {text}; check the pattern and the folder")
		for path in paths:
			before = found.setdefault(Path(path).stem, path)
			if before != path:
				problems.append(
					f"{source}: fold_files: {before} and {path} are both called {Path(path).stem}; rename one"
				)
	return found


# ---- data that folds share --------------------------------------------------------------------------


_DATA_SECTIONS = ("preprocessing_parameters", "negatives_parameters", "fit_parameters")
"""The sections that steps of `cherimoya_cli.plan.DATA_STEPS` are planned from."""


def shared_data(plan: Plan, samples: Iterable[Sample]) -> dict[str, Data]:
	"""What is made once for all folds of a sample, by its kind (see `kind_of`): peaks, bigWigs, negatives.

	Parameters
	----------
	plan: Plan
		The batch, of which the jobs are not there yet.
	samples: iterable of Sample
		Its samples.

	Returns
	-------
	data: dict of str to Data
		Kinds are left out whose data are given, that have no step after these, or whose settings are wrong.
	"""
	from cherimoya_cli.plan import DATA_STEPS, every_step, made_data

	data: dict[str, Data] = {}
	tried: set[str] = set()
	for sample in samples:
		kind = kind_of(sample.values)
		if kind in tried:
			continue
		tried.add(kind)
		job = Job(plan.settings.name, sample.name)
		try:
			settings = load_settings("pipeline", _of_data(plan.content_alone(Planned(job, sample, None))))
			made = made_data(settings)
			later = tuple(step.name for step in every_step(settings) if step.name not in DATA_STEPS)
		except CherimoyaError:
			continue  # told with those of its jobs
		if made and set(later).difference(settings.skip_steps or ()):
			data[kind] = Data({key: _moved(value, job.prefix, "") for key, value in made.items()}, later)
	return data


def _moved(value: Any, before: str, after: str) -> Any:
	"""A path, or lists of them, that begins otherwise."""
	if isinstance(value, str):
		return after + value.removeprefix(before)
	return [_moved(item, before, after) for item in value]


def _of_data(content: Mapping[str, Any]) -> dict[str, Any]:
	"""The settings of a pipeline without those that are for its later steps."""
	kept = {key: value for key, value in content.items() if key not in SECTIONS or key in _DATA_SECTIONS}
	return {**kept, "device": "cpu"}


def _for_data(content: Mapping[str, Any], data: Data) -> dict[str, Any]:
	"""The settings of a pipeline for the steps alone that make its data."""
	from cherimoya_cli.plan import DATA_STEPS

	filled = {"skip_steps": list(dict.fromkeys([*_names(content, "skip_steps"), *data.later]))}
	if "rerun_steps" in content:
		filled["rerun_steps"] = [step for step in _names(content, "rerun_steps") if step in DATA_STEPS]
	return {**_of_data(content), **filled}


def _with_data(content: Mapping[str, Any], data: Data, prefix: str) -> dict[str, Any]:
	"""The settings of a pipeline with the data that the preparation makes."""
	from cherimoya_cli.plan import DATA_STEPS

	filled = {key: _moved(value, "", prefix) for key, value in data.files.items()}
	if "rerun_steps" in content:
		filled["rerun_steps"] = [step for step in _names(content, "rerun_steps") if step not in DATA_STEPS]
	return {**content, **filled}


def _names(content: Mapping[str, Any], key: str) -> list[str]:
	"""A list of names, of which one may stand for itself."""
	value = content.get(key) or []
	return [value] if isinstance(value, str) else list(value)


# ---- names ------------------------------------------------------------------------------------------


def _name_problems(plan: Plan) -> list[str]:
	"""Jobs that would have one name, and folds whose names cannot be those of files."""
	seen: dict[str, Planned] = {}
	problems = []
	for planned in plan.jobs:
		job, before = planned.job, seen.setdefault(planned.job.name.lower(), planned)
		if before.job != job and before.sample.name.lower() != planned.sample.name.lower():
			problems.append(
				f"{planned.sample.place}: the job '{job.name}' is called like one of {before.sample.place}; rename the "
				"sample, or a fold file"
			)
		if job.fold is not None and not is_file_name(job.fold):
			problems.append(
				f"{plan.source}: fold_files: the name of {planned.fold_file} cannot be part of a job's; use letters, "
				"digits and . _ + -, and begin with a letter or a digit"
			)
	return problems


# ---- settings of the jobs ---------------------------------------------------------------------------


def _settings_problems(plan: Plan) -> list[str]:
	"""What is wrong with the settings of jobs: each kind of sample is loaded with one fold, and each fold."""
	kinds: dict[str, list[Planned]] = {}
	for planned in plan.jobs:
		kinds.setdefault(kind_of(planned.sample.values), []).append(planned)
	folds: dict[str | None, list[Planned]] = {}
	for planned in plan.jobs:
		if not planned.job.prepares:
			folds.setdefault(planned.job.fold, []).append(planned)
	groups = list(kinds.values()) + [members for members in list(folds.values())[1:]]
	found: dict[str, list[Planned]] = {}
	for members in groups:
		tried = {planned.job.prepares: planned for planned in reversed(members)}  # the first of each
		for text in dict.fromkeys(text for planned in tried.values() for text in _problems_of(plan, planned)):
			found.setdefault(text, []).extend(members)
	return [f"{place_of(plan, members)}: {text}" for text, members in found.items()]


def kind_of(content: Mapping[str, Any]) -> str:
	"""A text that is the same for settings that differ in names of files and in seeds alone."""
	numbers: dict[str, int] = {}

	def stand_in(path: str) -> str:
		name = path.lower().removesuffix(".gz")
		number = numbers.setdefault(path, len(numbers))
		return f"{'remote' if is_remote(path) else 'file'} {number}{os.path.splitext(name)[1]}"

	def walk(value: Any, key: str) -> Any:
		if isinstance(value, Mapping):
			return {inner: walk(item, inner) for inner, item in value.items()}
		if isinstance(value, list):
			return [walk(item, key) for item in value]
		if key == "random_state" and type(value) is int and value >= 0:
			return "a seed"
		# what a fold file says is a matter of settings
		return stand_in(value) if isinstance(value, str) and key in FILE_KEYS and key != "folds" else value

	return json.dumps({key: walk(value, key) for key, value in content.items()}, sort_keys=True)


def _problems_of(plan: Plan, planned: Planned) -> list[str]:
	"""What is wrong with the settings of a job, a sentence each."""
	from cherimoya_cli.plan import make_plan as make_pipeline
	from cherimoya_cli.preflight import check_settings

	try:
		settings = load_settings("pipeline", plan.content(planned))
		check_settings(settings)
		outputs = {path: step for step in make_pipeline(settings) for path in step.outputs}
	except CherimoyaError as error:
		return [text.removeprefix("settings: ") for text in split_problems(str(error))]
	return [
		f"{path} would be written by every job ({step.section}); leave its key out, so that each job has its own"
		for path, step in outputs.items()
		if not path.startswith(planned.job.prefix)
	]


def place_of(plan: Plan, members: Sequence[Planned]) -> str:
	"""Where a problem of some jobs is to be mended: the JSON if all have it, a fold if all of that do, or a sample."""
	names = {planned.job.name for planned in members}
	kinds = {planned.job.prepares for planned in members}
	if names == {planned.job.name for planned in plan.jobs if planned.job.prepares in kinds}:
		return plan.source
	fold = members[0].job.fold
	if fold is not None and names == {planned.job.name for planned in plan.jobs if planned.job.fold == fold}:
		return f"{plan.source}: fold_files: {members[0].fold_file}"
	places = list(dict.fromkeys(planned.sample.place for planned in members))
	return places[0] + (f" (and {len(places) - 1:,} more samples)" if len(places) > 1 else "")


# ---- files ------------------------------------------------------------------------------------------


def _file_problems(plan: Plan) -> list[str]:
	"""Input files that are missing or cannot be read; each is looked at once."""
	places: dict[tuple[str, str], str] = {}
	for key, path in files_of(plan.shared):
		places.setdefault((path, key), plan.source)
	for planned in plan.jobs:
		for key, path in files_of(planned.sample.values):
			places.setdefault((path, key), planned.sample.place)
		if planned.fold_file is not None:
			places.setdefault((planned.fold_file, "fold_files"), plan.source)
	faults = {path: file_fault(path) for path in dict.fromkeys(path for path, _ in places) if not is_remote(path)}
	return [f"{place}: {path}: {faults[path]} ({key})" for (path, key), place in places.items() if faults.get(path)]


def files_of(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
	"""The input files that settings name, as (key, path), those of sections too."""

	def texts(value: Any) -> Iterator[str]:
		if isinstance(value, str):
			yield value
		elif isinstance(value, list):
			for item in value:
				yield from texts(item)

	for key, value in content.items():
		if key in SECTIONS and isinstance(value, Mapping):
			yield from ((f"{key}.{inner}", path) for inner, path in files_of(value))
		elif key in FILE_KEYS:
			yield from ((key, path) for path in texts(value))


# ---- writing ----------------------------------------------------------------------------------------


def digests_of(plan: Plan) -> dict[str, str]:
	"""What stands for the settings of each job, by its name; see `cherimoya_cli.batch.records.is_due`."""
	texts, digests = {}, {}
	for planned in plan.jobs:
		text = plan.text(planned)
		if planned.job.prepares:
			texts[planned.job] = text
		digests[planned.job.name] = digest(text + texts.get(planned.job.preparation, ""))
	return digests


def write_jobs(plan: Plan) -> None:
	"""Make each job's folder and write its pipeline JSON, unless the file holds it already, and the list of jobs.

	Raises
	------
	InputError
		A file cannot be written.
	"""
	for planned in plan.jobs:
		text, path = plan.text(planned), Path(planned.job.json_path)
		try:
			path.parent.mkdir(parents=True, exist_ok=True)
			if not _holds(path, text):
				write_text(path, text)
		except OSError as error:
			raise InputError(f"{path}: cannot be written ({error.strerror}); choose another folder in name") from error
	write_index(plan.settings.name, (planned.job for planned in plan.jobs))


def _holds(path: Path, text: str) -> bool:
	"""Whether a file holds a text."""
	try:
		return path.read_text(encoding="utf-8") == text
	except (OSError, ValueError):
		return False


def index_genomes(plan: Plan) -> None:
	"""Open each FASTA, which makes its index if it has none, so that no two jobs do."""
	from cherimoya.io.genome import Genome

	for path in dict.fromkeys(_fastas(plan)):
		if not is_remote(path):
			Genome(path)


def _fastas(plan: Plan) -> Iterable[str]:
	"""The FASTA files of all jobs."""
	contents = [plan.shared, *(planned.sample.values for planned in plan.jobs)]
	return (path for content in contents for key, path in files_of(content) if key.rpartition(".")[2] == "sequences")
