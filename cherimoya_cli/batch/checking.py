"""What can be known to fail before a batch starts: the preflight of every job, which looks at each file once."""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cherimoya.errors import CherimoyaError, SettingsError, split_problems
from cherimoya.memory import available_memory
from cherimoya_cli.batch.executors import make_executor
from cherimoya_cli.batch.planning import MOST_PROBLEMS, Plan, Planned, files_of, place_of
from cherimoya_cli.batch.planning import make_plan as plan_batch
from cherimoya_cli.plan import DATA_STEPS, Step, make_plan, names_without_step
from cherimoya_cli.preflight import Known, Needs, check_run, check_settings, raise_together
from cherimoya_cli.settings import load_settings
from cherimoya_cli.utils import output_folder, say, warn

SHOWN = 10
"""How many files, and jobs, are listed."""

JOBS_BETWEEN_LINES = 500
"""After how many jobs a line says how far it is."""


class Checked(NamedTuple):
	"""What the jobs of a batch will do.

	Attributes
	----------
	steps: dict of tuple of str to int
		Names of steps, and how many jobs have these.
	memory: int
		Bytes that the largest job takes.
	disk: int
		Bytes that all jobs take together.
	"""

	steps: Mapping[tuple[str, ...], int]
	memory: int
	disk: int


def check_batch(path: str, overrides: Sequence[str] = ()) -> None:
	"""Plan a batch as ``batch run`` does, check the inputs of all its jobs, and print what they would do.

	Parameters
	----------
	path: str
		The JSON.
	overrides: sequence of str
		Texts ``key=value`` of ``--set``.

	Raises
	------
	SettingsError
		Settings, samples or folds are wrong, or do not suit the files; the message lists the first problems of all.
	InputError
		A file is missing or cannot be used.
	"""
	plan = plan_batch(path, overrides)
	for notice in plan.settings.notices:
		warn(f"note: {path}: {notice}")
	show_plan(plan)
	checked = check_jobs(plan, device=device_of_jobs(plan))
	for names, n in checked.steps.items():
		say(f"Steps{f' of {n:,} jobs' if len(checked.steps) > 1 else ''}: {', '.join(names)}")
	show_needs(plan, checked)


# ---- the jobs ---------------------------------------------------------------------------------------


def device_of_jobs(plan: Plan) -> str:
	"""The kind of device that jobs will have: that of this machine if they run here, else what the JSON says."""
	if plan.settings.executor != "local":
		return "cpu" if plan.device == "cpu" else "cuda"
	executor = make_executor(plan.settings, plan.device)
	executor.check()
	return "cuda" if any(slot.gpu for slot in executor.slots()) else "cpu"


def check_jobs(plan: Plan, *, device: str) -> Checked:
	"""Check the inputs of every job as its pipeline will when it starts; each file is looked at once.

	Parameters
	----------
	plan: Plan
		The batch, whose settings were checked.
	device: str
		The kind of device that jobs will have: "cpu" or "cuda".

	Raises
	------
	SettingsError
		Settings do not suit the files; the message lists the first problems of all.
	InputError
		A file cannot be used.
	"""
	known = Known(plan.source)
	steps: Counter[tuple[str, ...]] = Counter()
	problems: dict[str, tuple[type[CherimoyaError], list[Planned]]] = {}
	memory = disk = 0
	for number, planned in enumerate(plan.jobs, start=1):
		try:
			own, needs = _check_job(plan, planned, known, device)
		except CherimoyaError as error:
			for text in split_problems(str(error)):
				problems.setdefault(text.removeprefix("settings: "), (type(error), []))[1].append(planned)
		else:
			steps[tuple(step.name for step in own)] += 1
			memory, disk = max(memory, needs.memory), disk + needs.disk
		if not number % JOBS_BETWEEN_LINES:
			say(f"{number:,} of {len(plan.jobs):,} jobs looked at, {len(problems):,} problems so far")
	_raise_first(plan, [(kind, text, members) for text, (kind, members) in problems.items()])
	return Checked(steps, memory, disk)


def _check_job(plan: Plan, planned: Planned, known: Known, device: str) -> tuple[list[Step], Needs]:
	"""The steps of a job and what they need, if nothing keeps it from running."""
	job = planned.job
	settings = load_settings("pipeline", plan.content(planned) if job.prepares else plan.content_alone(planned))
	check_settings(settings)
	steps = make_plan(settings)
	own = [step for step in steps if job.preparation is None or step.name not in DATA_STEPS]
	for text in names_without_step(settings):
		known.note(settings.source, text)
	return own, check_run(settings, steps, {step.name for step in own}, known=known, device=device)


def _raise_first(plan: Plan, problems: Sequence[tuple[type[CherimoyaError], str, list[Planned]]]) -> None:
	"""Raise one error of the first of all problems, those of settings before those of files."""
	problems = sorted(problems, key=lambda problem: not issubclass(problem[0], SettingsError))
	errors = [kind(f"{place_of(plan, members)}: {text}") for kind, text, members in problems[:MOST_PROBLEMS]]
	if len(problems) > MOST_PROBLEMS:
		errors.append(problems[-1][0](f"and {len(problems) - MOST_PROBLEMS:,} more"))
	raise_together(errors)


# ---- what is shown ----------------------------------------------------------------------------------


def show_plan(plan: Plan) -> None:
	"""What a batch would read and write."""
	samples = len({planned.sample.name for planned in plan.jobs})
	folds = len({planned.job.fold for planned in plan.jobs if not planned.job.prepares})
	crossed = f", {samples:,} samples in {folds} folds" if folds > 1 else ""
	say(f"Batch {plan.settings.name}: {len(plan.jobs):,} jobs{crossed}, executor {plan.settings.executor}")
	shared = dict.fromkeys(path for _, path in files_of(plan.shared))
	shared |= dict.fromkeys(planned.fold_file for planned in plan.jobs if planned.fold_file is not None)
	own = dict.fromkeys(path for planned in plan.jobs for _, path in files_of(planned.sample.values))
	show_some("Reads, for all jobs", list(shared))
	show_some("Reads, for single samples", [path for path in own if path not in shared])
	show_some("Writes", [f"{planned.job.prefix}.*" for planned in plan.jobs])


def show_some(title: str, paths: Sequence[str]) -> None:
	"""The first paths below a title, and how many more there are."""
	if paths:
		say(f"{title}:")
		say("\n".join(f"  {path}" for path in paths[:SHOWN]))
	if len(paths) > SHOWN:
		say(f"  and {len(paths) - SHOWN:,} more")


def show_needs(plan: Plan, checked: Checked) -> None:
	"""Memory of the largest job and disk of all; a note where this machine has less."""
	memory, disk = checked.memory / 1e9, checked.disk / 1e9
	say(f"Needs about {memory:.2f} GB of memory for the largest job, and {disk:.2f} GB of disk for all.")
	folder = output_folder(f"{plan.settings.name}/job").absolute()
	while not folder.exists():
		folder = folder.parent
	free = shutil.disk_usage(folder).free
	if checked.disk > free:
		warn(f"note: {folder}: {free / 1e9:.2f} GB of disk are free; free some, or choose another folder in name")
	room = available_memory() if plan.settings.executor == "local" else None
	if room is not None and checked.memory > room:
		warn(f"note: {room / 1e9:.2f} GB of memory are free here, and a job that finds too little does not start")
