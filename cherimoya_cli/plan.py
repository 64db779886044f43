"""A pipeline as a list of steps: what each reads and writes, and whether it is up to date.

A step is up to date when its completion record, ``{name}.{step}.done.json``, holds the same version,
the same settings (those that change the outcome) and the same content of inputs, and its outputs are
as it left them. Content decides, not the time of a file: small files are hashed whole, large ones by
their size and samples, and only when their size or time changed.

Imports neither torch nor numpy, so that a run with nothing to do takes a moment.
"""

import hashlib
import importlib
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from cherimoya.errors import SettingsError, join_problems
from cherimoya.io._files import identify, unchanged
from cherimoya_cli.reads import is_reads, read_groups
from cherimoya_cli.registry import COMMANDS
from cherimoya_cli.settings import SECTION_OF, SETTINGS, SPLIT_LOCI, TOP_LEVEL, PipelineSettings, Settings, input_files
from cherimoya_cli.signals import signal_paths

REASONS_SHOWN = 3
"""How many reasons to run a step are told."""

INDIFFERENT = frozenset(
	{
		"verbose",
		"cache",
		"num_workers",
		"n_jobs",
		"device",
		"devices",
		"skip",
		"dry_run",
		"resume",
		"tensorboard",
		"chunk_size",
		"shard",
	}
)
"""Settings that change how a step runs, but not what comes out."""

DATA_STEPS = {"peaks": ("loci",), "signals": ("signals", "controls"), "negatives": ("negatives",)}
"""The steps that make data, whatever the splits, and the top-level keys that can name what they make."""

MODULES = {
	"peaks": "cherimoya_cli.peaks",
	"signals": "cherimoya_cli.signals",
	"annotation": "cherimoya_cli.annotation",
	"modisco_report": "cherimoya_cli.modisco_report",
	"report": "cherimoya_cli.report",
}
"""The steps that are no commands, and the module that runs each."""

_WHY_NOT = {
	"peaks": "loci are given, or signals are bigWigs",
	"signals": "signals and controls are bigWigs",
	"negatives": "negatives are given",
	"fit": "model is given",
	"annotation": "motifs is null",
	"marginalize": "motifs is null",
	"variants": "variants_parameters.variants is null",
}
"""Why a run may be without a step."""


@dataclass(frozen=True)
class Step:
	"""One step of a pipeline.

	Attributes
	----------
	name: str
		Short name, as in file names: ``"fit"``.
	title: str
		What it does, in a few words.
	section: str
		The section of the pipeline JSON that holds its settings.
	settings: dict
		Its resolved settings, as written to `json_path`.
	argv: tuple of str
		The command, as a list of arguments.
	inputs: tuple of str
		Files that it needs.
	optional: tuple of str
		Files that it uses if they are there.
	outputs: tuple of str
		Files that it leaves.
	prefix: str
		Start of the names of the run's files.
	written_as: dict
		The place in the pipeline JSON of those keys that it holds, such as ``"fit_parameters.batch_size"``.
	rerun: bool
		Whether it is run even though it is up to date.
	"""

	name: str
	title: str
	section: str
	settings: dict[str, Any]
	argv: tuple[str, ...]
	inputs: tuple[str, ...]
	outputs: tuple[str, ...]
	prefix: str
	optional: tuple[str, ...] = ()
	written_as: Mapping[str, str] = field(default_factory=dict)
	rerun: bool = False

	@property
	def json_path(self) -> Path:
		"""The step's resolved settings."""
		return Path(f"{self.prefix}.{self.name}.json")

	@property
	def record_path(self) -> Path:
		"""The completion record."""
		return Path(f"{self.prefix}.{self.name}.done.json")

	@property
	def log_path(self) -> Path:
		"""What the step printed."""
		return Path(f"{self.prefix}.{self.name}.log.txt")

	def matters(self) -> dict[str, Any]:
		"""The settings that change the outcome."""
		return {key: value for key, value in self.settings.items() if key not in INDIFFERENT}

	def key_name(self, key: str) -> str:
		"""How a user writes a key of this step in the pipeline JSON."""
		return self.written_as.get(key) or (key if key in TOP_LEVEL else f"{self.section}.{key}")


class Status(NamedTuple):
	"""Whether a step has to run, and why (or why not), in words."""

	run: bool
	why: str


# ---- is a step up to date? ------------------------------------------------------------------------


def program_version() -> str:
	"""The version of this package."""
	from cherimoya import __version__

	return __version__


def fingerprint(settings: Mapping[str, Any], inputs: Mapping[str, Any], program: str) -> str:
	"""One hash of what decides a step's outcome: settings, contents of inputs, and version."""
	contents = {path: (known or {}).get("sha256", (known or {}).get("url")) for path, known in inputs.items()}
	text = json.dumps([settings, contents, program], sort_keys=True)
	return hashlib.sha256(text.encode()).hexdigest()


def read_record(step: Step) -> dict[str, Any] | None:
	"""The completion record of a step; None if there is none that can be read."""
	try:
		record = json.loads(step.record_path.read_text(encoding="utf-8"))
	except (OSError, ValueError):
		return None
	keys = {"version", "settings", "inputs", "outputs"}
	return record if isinstance(record, dict) and keys <= record.keys() else None


def examine(step: Step, *, trust: bool = False, program: str | None = None) -> Status:
	"""Whether a step has to run now, with the files as they are.

	Parameters
	----------
	step: Step
		The step.
	trust: bool
		The setting ``skip``: a step whose outputs all exist is not run. Default is False.
	program: str or None
		The version to compare with; None for this one.

	Returns
	-------
	status: Status
		``Status(True, "fit_parameters.max_epochs changed from 10 to 20")``, for example.
	"""
	if step.rerun:
		return Status(True, "rerun_steps names it")
	missing = [path for path in step.outputs if not Path(path).is_file()]
	record = read_record(step)
	if trust and not missing:
		return Status(False, "its outputs exist, and skip is true")
	if record is None:
		return Status(
			True, "not done yet" if missing else "its outputs are there, but no record says that they are complete"
		)
	if missing:
		return Status(True, f"output missing: {missing[0]}")
	program = program_version() if program is None else program
	if record["version"] != program:
		return Status(True, f"made by version {record['version']}, this is {program}")
	reasons = changed_settings(step, record["settings"]) + changed_files(step, record)
	if not reasons:
		return Status(False, "up to date")
	more = f"; and {len(reasons) - REASONS_SHOWN} more" if len(reasons) > REASONS_SHOWN else ""
	return Status(True, "; ".join(reasons[:REASONS_SHOWN]) + more)


def changed_settings(step: Step, before: Mapping[str, Any]) -> list[str]:
	"""What differs between the settings of a record and those of now, in words."""
	now = json.loads(json.dumps(step.matters()))
	reasons = []
	for key in sorted(now.keys() | before.keys()):
		if key not in before:
			reasons.append(f"{step.key_name(key)} is new ({_short(now[key])})")
		elif key not in now:
			reasons.append(f"{step.key_name(key)} is gone")
		elif now[key] != before[key]:
			reasons.append(f"{step.key_name(key)} changed from {_short(before[key])} to {_short(now[key])}")
	return reasons


def changed_files(step: Step, record: Mapping[str, Any]) -> list[str]:
	"""Which inputs and outputs are not what they were when the step finished, in words."""
	reasons = []
	for path in (*step.inputs, *step.optional):
		if path not in record["inputs"]:
			reasons.append(f"input {path} is new")
		elif not unchanged(path, record["inputs"][path]):
			what = "changed" if record["inputs"][path] is not None else "was not there before"
			reasons.append(f"input {path} {what}")
	for path in step.outputs:
		if not unchanged(path, record["outputs"].get(path)):
			reasons.append(f"output {path} was changed since")
	return reasons


def _short(value: Any, width: int = 40) -> str:
	"""A value as JSON, cut in the middle of what is too long."""
	text = json.dumps(value)
	return text if len(text) <= width else f"{text[: width - 10]}…{text[-9:]}"


def identify_inputs(step: Step) -> dict[str, Any]:
	"""The inputs of a step as they are before it runs."""
	return {path: identify(path) for path in (*step.inputs, *step.optional)}


def completion_record(step: Step, inputs: Mapping[str, Any], seconds: float) -> dict[str, Any]:
	"""The record of a step that has just finished."""
	program = program_version()
	return {
		"step": step.name,
		"version": program,
		"fingerprint": fingerprint(step.matters(), inputs, program),
		"settings": step.matters(),
		"inputs": dict(inputs),
		"outputs": {path: identify(path) for path in step.outputs},
		"seconds": round(seconds, 3),
		"finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
	}


def dependencies(steps: Sequence[Step]) -> dict[str, list[str]]:
	"""For each step, the earlier steps whose outputs it needs."""
	made: dict[str, str] = {}
	result = {}
	for step in steps:
		result[step.name] = list(dict.fromkeys(made[path] for path in step.inputs if path in made))
		made.update(dict.fromkeys(step.outputs, step.name))
	return result


def forecast(steps: Sequence[Step], *, trust: bool = False) -> dict[str, Status]:
	"""What each step would do if nothing fails: a step after one that runs is looked at again when it is its turn."""
	statuses: dict[str, Status] = {}
	made: dict[str, str] = {}
	for step in steps:
		status = examine(step, trust=trust)
		before = dict.fromkeys(
			made[path] for path in (*step.inputs, *step.optional) if path in made and statuses[made[path]].run
		)
		if not status.run and before and not trust:
			status = Status(True, f"after {', '.join(before)}, unless that leaves its inputs as they are")
		statuses[step.name] = status
		made.update(dict.fromkeys(step.outputs, step.name))
	return statuses


# ---- from settings to steps -----------------------------------------------------------------------


@dataclass
class _Draft:
	"""Paths that steps hand on while the plan is made."""

	settings: PipelineSettings
	steps: list[Step] = field(default_factory=list)

	def add(
		self,
		name: str,
		title: str,
		values: Mapping[str, Any],
		*,
		inputs: Iterable[str] = (),
		optional: Iterable[str] = (),
	) -> list[str]:
		"""Add a step, whose inputs are `inputs` and every file that its settings name; its outputs."""
		model = SETTINGS[name]
		outputs = step_outputs(name, values)
		content = json.loads(json.dumps({key: values[key] for key in model.model_fields}))
		named = (path for _, path in input_files(model.model_validate(content)))
		prefix = self.settings.name
		section = SECTION_OF.get(name, "preprocessing_parameters")
		origins = getattr(self.settings, section).origins
		argv = ("-m", MODULES[name]) if name in MODULES else ("-m", "cherimoya_cli", name)
		self.steps.append(
			Step(
				name=name,
				title=title,
				section=section,
				settings=content,
				argv=(sys.executable, *argv, "-p", f"{prefix}.{name}.json"),
				inputs=tuple(dict.fromkeys((*inputs, *named))),
				optional=tuple(dict.fromkeys(optional)),
				outputs=tuple(dict.fromkeys(outputs)),
				prefix=prefix,
				written_as={key: origin.key for key, origin in origins.items() if origin.kind != "default"},
			)
		)
		return outputs

	def command(self, name: str, title: str, made: Mapping[str, Any], inputs: Iterable[str] = ()) -> list[str]:
		"""Add a step whose settings are those of its section with what was made filled in; its outputs."""
		return self.add(name, title, _filled(self.settings, name, made), inputs=inputs)


def make_plan(settings: PipelineSettings) -> list[Step]:
	"""The steps that a pipeline runs, in order, with resolved settings: `every_step` without those of ``skip_steps``.

	Parameters
	----------
	settings: PipelineSettings
		The pipeline's settings.

	Returns
	-------
	steps: list of Step
		Some of `cherimoya_cli.settings.STEPS`.

	Raises
	------
	SettingsError
		When a step needs a file that is not there from one that is left out, or when two steps write one file.
	"""
	steps = every_step(settings)
	skipped, again = set(settings.skip_steps or ()), set(settings.rerun_steps or ())
	chosen = [replace(step, rerun=step.name in again) for step in steps if step.name not in skipped]
	problems = [*_problems_of_skipping(steps, chosen), *_problems_of_names(steps)]
	if any(step.name == "marginalize" and step.settings["loci"] is None for step in chosen):
		problems.append(
			"marginalize puts motifs into background loci, and there are none, as negatives is null and skip_steps "
			"leaves them out; name a BED of loci in marginalize_parameters.loci, or leave out marginalize too"
		)
	if not chosen:
		problems.append("skip_steps leaves no step to run; take some names out of it")
	if problems:
		raise SettingsError(join_problems(f"{settings.source}: {problem}" for problem in problems))
	return chosen


def names_without_step(settings: PipelineSettings) -> list[str]:
	"""Which names in ``skip_steps`` and ``rerun_steps`` are of steps that this run does not have, a sentence each."""
	if not settings.skip_steps and not settings.rerun_steps:
		return []
	there = {step.name for step in every_step(settings)}
	if "negatives" in (settings.skip_steps or ()) and settings.fit_parameters.negatives is None:
		there.add("negatives")  # which are not planned because they are skipped
	return [
		f"{key} names '{name}', a step that this run does not have, because {_WHY_NOT[name]}"
		for key in ("skip_steps", "rerun_steps")
		for name in dict.fromkeys(getattr(settings, key) or ())
		if name not in there
	]


def _problems_of_skipping(steps: Sequence[Step], chosen: Sequence[Step]) -> list[str]:
	"""Which steps that are left out have to leave a file that is not there, a sentence each."""
	kept = {step.name for step in chosen}
	problems = []
	for left_out in (step for step in steps if step.name not in kept):
		absent = {path for path in left_out.outputs if not Path(path).is_file()}
		needed = list(dict.fromkeys(path for step in chosen for path in step.inputs if path in absent))
		if needed:
			lost = after(chosen, [step.name for step in chosen if absent & set(step.inputs)])
			skipped = [step.name for step in steps if step.name in lost or step.name not in kept]
			problems.append(
				f"skip_steps leaves out '{left_out.name}', but {_listed(lost)} would need {needed[0]} from it, which "
				f"is not there; let it run, or leave out more: skip_steps: {json.dumps(skipped)}"
			)
	return problems


def after(steps: Sequence[Step], names: Iterable[str]) -> list[str]:
	"""The names, and those of all steps that cannot run without them, in order."""
	lost = set(names)
	for name, needed in dependencies(steps).items():
		if lost.intersection(needed):
			lost.add(name)
	return [step.name for step in steps if step.name in lost]


def _listed(names: Sequence[str]) -> str:
	"""Names in a sentence."""
	return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _problems_of_names(steps: Sequence[Step]) -> list[str]:
	"""Which files two steps would write, a sentence each."""
	makers: dict[str, list[str]] = {}
	for step in steps:
		for path in step.outputs:
			makers.setdefault(path, []).append(step.name)
	return [
		f"{path}: written by the steps {_listed(names)}; give each its own output_filename, in its section"
		for path, names in makers.items()
		if len(names) > 1
	]


def every_step(settings: PipelineSettings) -> list[Step]:
	"""Every step of a pipeline, those of ``skip_steps`` too.

	Peaks are called when `loci` is null, reads become bigWigs, negatives are found when null, and a model is trained
	when `model` is null. Seqlets are annotated and known motifs marginalized when there are `motifs`, and variants
	scored when a file of them is named.

	Parameters
	----------
	settings: PipelineSettings
		The pipeline's settings.

	Returns
	-------
	steps: list of Step
		Some of `cherimoya_cli.settings.STEPS`, in order.
	"""
	draft = _Draft(settings)
	made = _plan_data(draft)
	if settings.model is None:
		made["model"] = draft.command("fit", "train the model", made)[0]
	draft.command("evaluate", "measure the model on held-out loci", made)
	draft.command("predict", "write predictions", made)
	attributed = draft.command("attribute", "score each base's contribution", made)
	made |= zip(("ohe_filename", "attr_filename", "idx_filename", "bed_filename"), attributed, strict=False)
	_plan_motifs(draft, made, background=_filled(settings, "fit", made)["negatives"])
	if settings.variants_parameters.variants is not None:
		models = settings.variants_parameters.models
		draft.command("variants", "score variants", {**made, "model": None} if models else made)
	_plan_report(draft)
	return draft.steps


def _plan_motifs(draft: _Draft, made: dict[str, Any], *, background: list[str] | None) -> None:
	"""Add the steps on motifs: those that are found, and those that are known."""
	settings = draft.settings
	arrays = [made["ohe_filename"], made["attr_filename"]]
	seqlets = draft.command("seqlets", "find seqlets", made, [*arrays, made["bed_filename"]])
	if settings.annotation_parameters.motifs is not None:
		made["seqlet_filename"] = seqlets[0]
		draft.command("annotation", "name the known motifs nearest to the seqlets", made, seqlets[:1])
	found = draft.command("motifs", "find motifs with TF-MoDISco", made, arrays)
	made["output_filename"] = found[0]
	draft.command("modisco_report", "write the report of TF-MoDISco", made, found[:1])
	del made["output_filename"]
	if settings.marginalize_parameters.motifs is not None:
		draft.command("marginalize", "put known motifs into background loci", {**made, "loci": background})


def _plan_data(draft: _Draft) -> dict[str, Any]:
	"""Add the steps of `DATA_STEPS` that are needed; what the later steps get."""
	made = _plan_reads(draft)
	fit = _filled(draft.settings, "fit", made)
	unwanted = "negatives" in (draft.settings.skip_steps or ()) and fit["negative_ratio"] == 0
	if fit["negatives"] is None and not unwanted:
		_plan_negatives(draft, made)
	return made


def made_data(settings: PipelineSettings) -> dict[str, list[Any]]:
	"""What a pipeline makes of its reads and of null before it trains: files, by the top-level keys that can name them.

	Parameters
	----------
	settings: PipelineSettings
		The pipeline's settings; steps of their ``skip_steps`` make nothing.

	Returns
	-------
	made: dict
		Some of loci, signals, controls and negatives: ``{"loci": ["x_peaks.narrowPeak"], "signals": [["x.bw"]]}``. With
		these in its settings, and its data steps left out, a pipeline's other steps are what they were.
	"""
	draft = _Draft(settings)
	made = _plan_data(draft)
	steps = {step.name for step in draft.steps} - set(settings.skip_steps or ())
	keys = [key for step, found in DATA_STEPS.items() if step in steps for key in found]
	return {key: made[key] for key in keys if made[key] != getattr(settings, key)}


MADE = (
	*("loci", "negatives", "model", "ohe_filename", "attr_filename", "idx_filename", "bed_filename"),
	*("seqlet_filename", "output_filename"),
)
"""Keys that take what earlier steps make when they are null."""


def _filled(settings: PipelineSettings, step: str, made: Mapping[str, Any]) -> dict[str, Any]:
	"""The settings of a step, with what earlier steps make in place of null and of reads."""
	section: Settings = getattr(settings, SECTION_OF[step])
	values = section.model_dump(mode="json")
	for key in MADE:
		if key in values and values[key] is None:
			values[key] = made.get(key)
	for key in ("signals", "controls"):
		if key in values and values[key] == made.get(f"{key}_given"):
			values[key] = made[key]
	if "folds" in values:
		values["folds"] = None  # the three splits hold what the fold file says
	return values


def split_files(settings: Any) -> list[str]:
	"""The files of loci that make the splits, each once; none where chromosomes make them."""
	files = (getattr(settings, key) or [] for key in SPLIT_LOCI.values())
	return list(dict.fromkeys(path for part in files for path in part))


def has_reads(tracks: Sequence[Any] | None) -> bool:
	"""Whether a list of signals or controls names reads rather than bigWigs."""
	return any(is_reads(path) for group in read_groups(tracks) for path in group)


def _plan_reads(draft: _Draft) -> dict[str, Any]:
	"""Add the steps peaks and signals where they are needed; what the later steps get."""
	settings = draft.settings
	made: dict[str, Any] = {
		"signals_given": settings.signals,
		"signals": settings.signals,
		"controls_given": settings.controls,
		"controls": settings.controls,
		"loci": settings.loci or settings.fit_parameters.loci or split_files(settings.fit_parameters) or None,
		"negatives": settings.negatives,
		"model": settings.model,
	}
	preprocessing = settings.preprocessing_parameters.model_dump(mode="json")
	values = {**preprocessing, "name": settings.name, "sequences": settings.sequences}
	values["chrom_aliases"] = settings.chrom_aliases
	values["summits"] = settings.fit_parameters.summits
	reads = {key: read_groups(made[key]) if has_reads(made[key]) else [] for key in ("signals", "controls")}
	values |= {key: [group or None for group in groups] or None for key, groups in reads.items()}
	if made["loci"] is None and reads["signals"]:
		made["loci"] = draft.add("peaks", "call peaks with MACS3", values)
	if any(reads.values()):
		paths = signal_paths(settings.name, values)
		made |= {key: [group for group in paths[key] if group] for key, groups in reads.items() if groups}
		draft.add("signals", "turn reads into bigWigs", values)
	return made


def _plan_negatives(draft: _Draft, made: dict[str, Any]) -> None:
	"""Add the step that finds background loci."""
	values = _filled(draft.settings, "negatives", made)
	values["loci"] = list(dict.fromkeys([*values["loci"], *split_files(draft.settings.fit_parameters)]))
	values["output_filename"] = step_outputs("negatives", values)[0]
	made["negatives"] = draft.add("negatives", "find background loci of the same GC content", values)[:1]


def step_outputs(name: str, values: Mapping[str, Any]) -> list[str]:
	"""The files that a step leaves: the function ``outputs`` of its module knows.

	Parameters
	----------
	name: str
		The step.
	values: dict
		Its resolved settings.

	Returns
	-------
	outputs: list of str
		Their paths. Without signals the channels of predictions are not known, and one is taken.
	"""
	module = importlib.import_module(MODULES.get(name) or COMMANDS[name].module)
	return module.outputs(values)


def _plan_report(draft: _Draft) -> None:
	"""Add the report, which needs the training or the evaluation, and shows whatever else is there."""
	values = draft.settings.report_parameters.model_dump(mode="json")
	skipped = draft.settings.skip_steps or ()
	shown = [step for step in draft.steps if step.name in ("fit", "evaluate")]
	needed = [step for step in shown if step.name not in skipped] or shown
	inputs = [path for step in needed for path in step.outputs]
	others = [path for step in draft.steps for path in step.outputs if path not in inputs]
	draft.add("report", "write the report", values, inputs=inputs, optional=others)


class Need(NamedTuple):
	"""A package beyond the core that a step needs: the extra that brings it, and what for."""

	package: str
	extra: str
	purpose: str
	step: str


_ON_MOTIFS = {
	"seqlets": ("tangermeme", "finding seqlets"),
	"annotation": ("memelite", "naming the motifs nearest to seqlets"),
	"marginalize": ("memelite", "reading motifs"),
}


def needed_extras(steps: Sequence[Step]) -> list[Need]:
	"""The packages beyond the core that steps need, each with the first step that does; TF-MoDISco knows its own."""
	needs = []
	for step in steps:
		if step.name == "peaks":
			needs.append(Need("MACS3", "pipeline", "calling peaks", step.name))
		if step.name in ("peaks", "signals"):
			files = [p for key in ("signals", "controls") for group in read_groups(step.settings[key]) for p in group]
			if any(path.lower().endswith((".bam", ".sam", ".cram")) for path in files):
				needs.append(Need("pysam", "pipeline", "reading SAM, BAM and CRAM", step.name))
		if step.settings.get("tensorboard"):
			needs.append(Need("tensorboard", "tensorboard", "the setting tensorboard", step.name))
		if step.settings.get("output_format") == "hdf5":
			needs.append(Need("h5py", "hdf5", "output_format hdf5", step.name))
		if step.settings.get("plot_filename") is not None:
			needs.append(Need("matplotlib", "report", "plot_filename", step.name))
		if step.name == "report":
			needs.append(Need("matplotlib", "report", "the HTML report", step.name))
		if step.name in _ON_MOTIFS:
			package, purpose = _ON_MOTIFS[step.name]
			needs.append(Need(package, "motifs", purpose, step.name))
	return list({need[:3]: need for need in reversed(needs)}.values())[::-1]
