"""From a JSON file to checked settings: every problem at once, in words, and where each value came from."""

import difflib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from cherimoya.errors import InputError, MissingFileError, SettingsError, join_problems
from cherimoya_cli.settings import (
	FOLLOWED,
	INSTEAD,
	KNOWN,
	SECTION_OF,
	SECTIONS,
	SETTINGS,
	SPLIT_LOCI,
	SPLITS,
	STEPS,
	TOP_LEVEL,
	UNUSED,
	FitSettings,
	Origin,
	PipelineSettings,
	Settings,
	accepts_null,
	expected,
)


class Problems:
	"""What is wrong with a JSON, gathered so that it is said once and together."""

	def __init__(self, source: str) -> None:
		self.source = source
		self._found: dict[str, str] = {}
		self.settings_at_fault = False

	def add(self, key: str, text: str) -> None:
		"""Record a problem of a setting; only the first one of a key is kept."""
		self.settings_at_fault = True
		self._found.setdefault(key, f"{self.source}: {text}")

	def add_file(self, text: str) -> None:
		"""Record a problem of an input file or of the output folder."""
		self._found.setdefault(text, text)

	def __contains__(self, key: str) -> bool:
		return key in self._found

	def raise_if_any(self) -> None:
		"""SettingsError when a setting is at fault, else InputError (MissingFileError if all are missing files)."""
		texts = list(self._found.values())
		if not texts:
			return
		message = join_problems(texts)
		if self.settings_at_fault:
			raise SettingsError(message)
		if all("no such file" in text for text in texts):
			raise MissingFileError(message)
		raise InputError(message)


class Raw(NamedTuple):
	"""A JSON as it was read: its content, its name, the dotted keys that flags wrote and the flags' names."""

	content: dict[str, Any]
	source: str
	written: Mapping[str, str]


def show(value: Any, width: int = 60) -> str:
	"""A value as JSON, shortened."""
	text = json.dumps(value, ensure_ascii=False, default=str)
	return text if len(text) <= width else text[: width - 1] + "…"


def nearest(word: str, known: Iterable[str]) -> str:
	"""The remedy for a name that nobody knows: ``"; did you mean 'loci'?"``, or nothing."""
	known = sorted(known)
	found = difflib.get_close_matches(word, known, 1, 0.6) or difflib.get_close_matches(word.lower(), known, 1, 0.6)
	return f"; did you mean '{found[0]}'?" if found else ""


# Reading.


def read_json(path: str | Path) -> dict[str, Any]:
	"""A JSON file whose outermost value is an object.

	Raises
	------
	MissingFileError
		When there is no such file.
	InputError
		When the file cannot be read.
	SettingsError
		When it is no JSON (with line and column), holds a key twice, or is not an object.
	"""
	try:
		text = Path(path).read_text(encoding="utf-8-sig")
	except FileNotFoundError:
		raise MissingFileError(f"{path}: no such file; check the path of the JSON") from None
	except UnicodeDecodeError as error:
		raise SettingsError(
			f"{path}: not a JSON file (byte {error.start} is not text in UTF-8); give the JSON with -p"
		) from None
	except OSError as error:
		raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
	return parse_json(text, str(path))


def parse_json(text: str, source: str) -> dict[str, Any]:
	"""A JSON object from its text; `source` names the file in messages. Raises SettingsError, as `read_json`."""
	twice: list[str] = []

	def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
		result: dict[str, Any] = {}
		for key, value in pairs:
			if key in result:
				twice.append(key)
			result[key] = value
		return result

	def no_constant(name: str) -> None:
		raise SettingsError(f"{source}: {name} is no number that JSON allows; write a finite number, or null")

	try:
		result = json.loads(text, object_pairs_hook=no_repeats, parse_constant=no_constant)
	except json.JSONDecodeError as error:
		line = text.splitlines()[error.lineno - 1].strip() if text.strip() else ""
		raise SettingsError(
			f"{source}: line {error.lineno}, column {error.colno}: not valid JSON ({error.msg.lower()})"
			+ (f": {show(line)}" if line else "; the file is empty")
			+ "; check quotes, commas and brackets there (JSON has no comments, and no comma after the last entry)"
		) from None
	except RecursionError:
		raise SettingsError(f"{source}: nested too deeply; settings have sections of one level") from None
	problems = Problems(source)
	for key in dict.fromkeys(twice):
		problems.add(f"twice {key}", f"the key '{key}' appears twice in one object; keep one of them")
	if not isinstance(result, dict):
		problems.add("", f'must be an object of settings {{"key": value, …}}, not {show(result)}')
	problems.raise_if_any()
	return result


def _apply_overrides(content: dict[str, Any], overrides: Iterable[str], problems: Problems) -> dict[str, str]:
	"""Write each ``key=value`` of ``--set`` into `content`; the dotted keys that were written."""
	written = {}
	for override in overrides:
		dotted, equals, text = override.partition("=")
		dotted = dotted.strip()
		parts = dotted.split(".")
		if not equals or not all(parts):
			problems.add(
				f"--set {override}", f"--set {override}: must be key=value, such as --set fit_parameters.max_epochs=10"
			)
			continue
		try:
			value = json.loads(text, parse_constant=str)
		except ValueError:
			value = text
		target = content
		for part in parts[:-1]:
			inner = target.get(part)
			target[part] = dict(inner) if isinstance(inner, Mapping) else {}
			target = target[part]
		target[parts[-1]] = value
		written[dotted] = "--set"
	return written


def read_content(path: str | Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
	"""What a JSON holds, with each ``key=value`` of ``--set`` written into it; errors as those of `load`."""
	content, problems = read_json(path), Problems(str(path))
	_apply_overrides(content, overrides, problems)
	problems.raise_if_any()
	return content


# Resolving: which value each key takes.


class Value(NamedTuple):
	"""A value and where it came from."""

	value: Any
	origin: Origin


def _candidates(raw: Raw, key: str, step: str | None, standalone: bool) -> list[Value]:
	"""The values that the JSON gives for a key of a step, the decisive one first; null stays among them."""
	places = []
	if step is not None:
		section = SECTION_OF.get(step, f"{step}_parameters")
		places.append((section, section))
		if key in FOLLOWED.get(step, ()):
			places.append(("fit_parameters", "fit_parameters"))
		if step == "evaluate" and key == "reverse_complement_average":
			places.append(("fit_parameters", "fit_parameters"))
	places.append(("", "file" if standalone else "top level"))
	in_pipeline = not standalone or bool(raw.content.keys() & SECTIONS.keys())
	found = []
	for section, kind in places:
		values = raw.content.get(section) if section else raw.content
		name = key
		if step == "marginalize" and key == "loci" and not section and in_pipeline:
			name = "negatives"  # the loci of a pipeline are peaks, and motifs go into background
		if isinstance(values, Mapping) and name in values:
			dotted = f"{section}.{name}" if section else name
			found.append(Value(values[name], Origin(raw.written.get(dotted, kind), dotted)))
	return found


def _decide(candidates: list[Value], key: str, raw: Raw, default: Any) -> Value:
	"""The value of a key: a section's null inherits when there is something to inherit from."""
	for i, candidate in enumerate(candidates):
		in_section = "." in candidate.origin.key
		inherits = in_section and (i + 1 < len(candidates) or key in TOP_LEVEL)
		if candidate.value is None and inherits:
			continue
		return candidate
	return Value(default, Origin("default", key))


def _resolve(raw: Raw, model: type[Settings], step: str | None, standalone: bool, problems: Problems) -> Settings:
	"""The settings of one command or section; problems are recorded, and their keys take the default."""
	values: dict[str, Value] = {}
	for key, field in model.model_fields.items():
		if key in SECTIONS:
			continue
		if key in model.forced and not standalone:
			values[key] = Value(model.forced[key], Origin("pipeline", key))
			continue
		default = field.get_default(call_default_factory=True)
		candidate = _decide(_candidates(raw, key, step, standalone), key, raw, default)
		if candidate.value is None and candidate.origin.kind != "default" and not accepts_null(field):
			problems.add(
				candidate.origin.key,
				f"{candidate.origin.key} must be {expected(field)}, but is null, which means nothing here; "
				f"leave the key out for its default ({show(default)})",
			)
			candidate = Value(default, Origin("default", key))
		values[key] = candidate
	if "folds" in values and values["folds"].value is not None:
		_read_folds(values, problems)
	if "training_loci" in values:
		_take_split_loci(values, problems)
	settings = _validate(model, values, problems)
	settings._source = raw.source
	settings._origins = {key: value.origin for key, value in values.items()}
	return settings


def _validate(model: type[Settings], values: dict[str, Value], problems: Problems) -> Settings:
	"""The settings out of decided values; each key that is wrong is recorded and takes its default."""
	given = {key: value.value for key, value in values.items() if value.origin.kind != "default"}
	try:
		return model.model_validate_json(json.dumps(given))
	except ValidationError as error:
		for key in dict.fromkeys(str(item["loc"][0]) for item in error.errors()):
			field, origin = model.model_fields[key], values[key].origin
			default = field.get_default(call_default_factory=True)
			hint = f" (default {show(default)})" if default is not None else ""
			words = expected(field, required=key in model.required)
			problems.add(origin.key, f"{origin.key} must be {words}, not {show(given.pop(key))}{hint}")
		return model.model_validate_json(json.dumps(given))


def _read_folds(values: dict[str, Value], problems: Problems) -> None:
	"""Replace the three splits by those of the fold file."""
	path, origin = values["folds"]
	for key in SPLITS.values():
		kind = values[key].origin.kind
		if kind != "default" and not (origin.kind == "--set" and kind != "--set"):
			problems.add(
				f"folds {key}",
				f"{origin.key} ({path}) and {values[key].origin.key} both choose the splits; remove one of them",
			)
			return
	if not isinstance(path, str) or not path:
		return  # Reported as any value of a wrong type.
	try:
		folds = read_json(path)
	except MissingFileError:
		return  # Reported with the other missing files.
	except (SettingsError, InputError) as error:
		problems.add(origin.key, f"{origin.key}: {error}")
		return
	unknown = [name for name in folds if name not in SPLITS]
	missing = [name for name in ("train", "valid") if not folds.get(name)]
	if unknown or missing:
		found = ", ".join(f"'{name}'" for name in folds) or "nothing"
		problems.add(
			origin.key,
			f'{origin.key}: {path} must hold {{"train": [...], "valid": [...], "test": [...]}} with at least one '
			f"chromosome in train and in valid, but holds {found}",
		)
		return
	for name, key in SPLITS.items():
		values[key] = Value(folds.get(name), Origin(f"fold file {path}", f"{path}: {name}"))


def _take_split_loci(values: dict[str, Value], problems: Problems) -> None:
	"""Let files of loci, where they are given, choose the splits in place of chromosomes."""
	given = [key for key in SPLIT_LOCI.values() if values[key].value is not None]
	if not all(isinstance(values[key].value, (str, list)) and values[key].value for key in given):
		return  # Reported as any value of a wrong type.
	for part, key in SPLITS.items():
		loci_key, (chroms, origin) = SPLIT_LOCI[part], values[key]
		if not given:
			if chroms is None and part != "test":
				problems.add(
					origin.key,
					f"{origin.key} is null, and so is {loci_key}; name chromosomes in the one, or files in the other",
				)
		elif chroms is not None and origin.kind != "default":
			problems.add(
				f"{origin.key} {loci_key}",
				f"{origin.key} and {values[given[0]].origin.key} both choose the splits; remove one of them",
			)
		else:
			values[key] = Value(None, Origin("split by loci", key))
			if values[loci_key].value is None and part != "test":
				problems.add(
					values[loci_key].origin.key,
					f"{loci_key} is null, but {values[given[0]].origin.key} splits by loci; name the files of "
					"the other splits too",
				)


# Checking what one declaration alone cannot say.


def _check_keys(raw: Raw, command: str, problems: Problems) -> list[str]:
	"""Record unknown keys and sections that are no objects; notices on keys without effect."""
	notices: dict[str, str] = {}
	unused: dict[str, list[str]] = {}

	def check(key: str, value: Any, dotted: str, section: str) -> None:
		if key in UNUSED:
			unused.setdefault(UNUSED[key], []).append(dotted)
		elif key not in KNOWN:
			problems.add(dotted, f"unknown key '{dotted}'{nearest(key, KNOWN) or '; remove it'}")
		elif section and key in SECTIONS:
			problems.add(dotted, f"{dotted}: a section cannot hold a section; move it to the top level")

	for key, value in raw.content.items():
		if key in SECTIONS:
			if value is None:
				continue
			if not isinstance(value, Mapping):
				problems.add(key, f"{key} must be a section {{…}} of settings, not {show(value)}")
				continue
			step, model = SECTIONS[key]
			for inner, inner_value in value.items():
				check(inner, inner_value, f"{key}.{inner}", key)
				if inner in KNOWN and inner not in SECTIONS and inner_value is not None and command == "pipeline":
					_notice_unread(step, model, key, inner, notices)
		else:
			check(key, value, key, "")
	return [f"{', '.join(keys)}: not used here; {reason}" for reason, keys in unused.items()] + list(notices.values())


def _notice_unread(step: str, model: type[Settings], section: str, key: str, notices: dict[str, str]) -> None:
	"""A notice on a known key in a section whose step does not read it."""
	followed = section == "fit_parameters" and key == "reverse_complement_average"
	if key in model.forced:
		notices[f"{section}.{key}"] = f"{section}.{key} has no effect: the pipeline has a step of its own for that"
	elif key not in model.model_fields and not followed:
		why = INSTEAD.get((step, key), f"the step '{step}' does not read it")
		notices[f"{section}.{key}"] = f"{section}.{key} has no effect: {why}"


def _notices_beaten(raw: Raw, pipeline: Settings, sections: Iterable[Settings]) -> list[str]:
	"""Notices on keys of the top level that only sections read, all of which have another value of their own."""
	notices = []
	for key, value in raw.content.items():
		readers = [part for part in sections if key in part.origins]
		origins = list(dict.fromkeys(part.origins[key].key for part in readers))
		if key in pipeline.origins or value is None or not readers or any("." not in origin for origin in origins):
			continue
		if all(getattr(part, key) != value for part in readers):
			verb = "is" if len(origins) == 1 else "are"
			beaten = f"{', '.join(origins)} {verb} given, and beat{'s' * (len(origins) == 1)} the top level"
			notices.append(f"{key} has no effect: {beaten}; change it there")
	return notices


def _notices_twice(settings: Settings) -> list[str]:
	"""Notices on groups of tracks, such as the strands of a pair, that name a file twice."""
	notices = []
	for key in ("signals", "controls"):
		groups = [group for group in getattr(settings, key, None) or () if isinstance(group, list)]
		twice = [path for group in groups for path in dict.fromkeys(group) if group.count(path) > 1]
		notices += [
			f"{key} names {path} twice in one group; the + and - strands are files of their own" for path in twice
		]
	return notices


def _cross_check(settings: Settings, problems: Problems) -> None:
	"""Record values that contradict each other."""

	def where(key: str) -> str:
		return settings.origins[key].key

	def both(a: str, b: str) -> bool:
		return hasattr(settings, a) and hasattr(settings, b) and where(a) not in problems and where(b) not in problems

	if both("in_window", "out_window"):
		wide, narrow = settings.in_window, settings.out_window
		if narrow > wide or (wide - narrow) % 2:
			fault = "is longer than" if narrow > wide else "is not an even number of bp shorter than"
			problems.add(
				f"{where('in_window')} {where('out_window')}",
				f"out_window ({narrow} bp) {fault} in_window ({wide} bp); the model trims as many bp from each side",
			)
	if both("min_counts", "max_counts") and settings.min_counts is not None and settings.max_counts is not None:
		if settings.min_counts > settings.max_counts:
			problems.add(
				where("min_counts") + " limits",
				f"{where('min_counts')} ({settings.min_counts:g}) is above {where('max_counts')} "
				f"({settings.max_counts:g}), so no locus can be kept; lower the one or raise the other",
			)
	if both("attr_window", "in_window") and (settings.attr_window or 0) > settings.in_window:
		if settings.origins["attr_window"].kind == "default":
			settings.attr_window = settings.in_window
		else:
			problems.add(
				where("attr_window") + " window",
				f"{where('attr_window')} ({settings.attr_window} bp) is longer than in_window ({settings.in_window} bp)"
				"; shorten it, or null for the whole of in_window",
			)
	if hasattr(settings, "profile_kernel_size") and settings.profile_kernel_size % 2 == 0:
		problems.add(
			where("profile_kernel_size"),
			f"{where('profile_kernel_size')} must be an odd number, not {settings.profile_kernel_size}; "
			f"take {settings.profile_kernel_size + 1}",
		)
	if both("regions", "chroms") and settings.regions is not None and settings.chroms is not None:
		problems.add(
			where("regions") + " chroms",
			f"{where('regions')} and {where('chroms')} both say where to predict; remove one of them",
		)
	if both("overlap", "out_window") and (settings.overlap or 0) >= settings.out_window:
		problems.add(
			where("overlap"),
			f"{where('overlap')} ({settings.overlap} bp) must be below out_window ({settings.out_window} bp), or tiles "
			"do not advance; lower it, or null for half of out_window",
		)
	if isinstance(settings, PipelineSettings):
		_check_steps(settings, problems)
	_check_places(settings, problems)


def _check_steps(settings: PipelineSettings, problems: Problems) -> None:
	"""Record names in skip_steps and rerun_steps that no step has, and steps that are in both."""
	for key in ("skip_steps", "rerun_steps"):
		for name in getattr(settings, key) or ():
			if name not in STEPS:
				hint = nearest(name, STEPS) or f"; the steps are {', '.join(STEPS)}"
				problems.add(f"{key} {name}", f"{settings.origins[key].key}: there is no step '{name}'{hint}")
	for name in sorted(set(settings.skip_steps or ()) & set(settings.rerun_steps or ())):
		problems.add(f"both {name}", f"skip_steps and rerun_steps both name '{name}'; take it out of one of them")


def _check_places(settings: Settings, problems: Problems) -> None:
	"""Record regions that cannot be read, and parts of the genome that are in two splits."""
	from cherimoya_cli.splits import parse_places, shared_problems

	def name(key: str) -> str:
		origin = settings.origins[key]
		return f"{origin.key} (its default, for hg38)" if origin.kind == "default" else origin.key

	readable = {}
	for key in (*SPLITS.values(), "chroms", "regions"):
		places = getattr(settings, key, None)
		if places is None:
			continue
		_, faults = parse_places(places)
		origin = settings.origins[key]
		if faults:
			problems.add(origin.key, f"{origin.key}: {'; '.join(faults)}")
		elif key in SPLITS.values():
			readable[name(key)] = places
	for text in shared_problems(readable):
		problems.add(f"splits {text}", text)


def _check_required(settings: Settings, problems: Problems) -> None:
	"""Record keys without which the command cannot run."""
	for key in type(settings).required:
		origin = settings.origins[key]
		others = (getattr(settings, other, None) for other in ("training_loci", "regions"))
		instead = key == "loci" and any(value is not None for value in others)
		if getattr(settings, key) is None and origin.key not in problems and not instead:
			found = "is not given" if origin.kind == "default" else "is null"
			problems.add(
				origin.key,
				f"{key} {found}; name {expected(type(settings).model_fields[key], required=True)}",
			)
	if not isinstance(settings, FitSettings) or settings.origins["negative_ratio"].key in problems:
		return
	if settings.negatives is None and settings.negative_ratio > 0:
		problems.add(
			settings.origins["negatives"].key,
			f"negatives is null, but negative_ratio is {settings.negative_ratio:g}; make background loci with "
			"'cherimoya negatives' and name their BED, or set negative_ratio to 0",
		)


def load(
	command: str,
	source: str | Path | Mapping[str, Any],
	overrides: Iterable[str] = (),
	*,
	flags: Mapping[str, Any] | None = None,
	check_files: bool = False,
) -> Settings:
	"""The settings of a command, checked.

	A key's value is that of the command's section, else the top level's, else the default; evaluate,
	predict and attribute take what describes the data from ``fit_parameters`` before the top level.
	A section's null inherits where there is something to inherit.

	Parameters
	----------
	command: str
		A command of `cherimoya_cli.settings.SETTINGS`.
	source: str, Path or Mapping
		A JSON file, or its content.
	overrides: Iterable[str]
		Texts ``key=value``, dotted for sections, whose value is JSON or else text. Default is none.
	flags: Mapping[str, Any] or None
		Values of keys that flags of their own gave; they beat the JSON and ``--set``. Default is None.
	check_files: bool
		Whether to look for missing input files and an output folder that cannot be written too. Default is False.

	Returns
	-------
	Settings
		One attribute per key; for a pipeline one more per section.

	Raises
	------
	SettingsError
		When a setting is wrong; the message lists every problem.
	InputError
		When settings are right, but a file is missing or cannot be read.
	"""
	if isinstance(source, Mapping):
		content = json.loads(json.dumps(source, default=os.fspath))
		name = "settings" if content else "command line"
	else:
		content, name = read_json(source), str(source)
	problems = Problems(name)
	written = _apply_overrides(content, overrides, problems)
	for key, value in (flags or {}).items():
		content[key] = value
		written[key] = "flag"
	raw = Raw(content, name, written)
	notices = _check_keys(raw, command, problems)
	model = SETTINGS[command]
	step = None if model is PipelineSettings else command
	settings = _resolve(raw, model, step, model is not PipelineSettings, problems)
	parts = [settings]
	if isinstance(settings, PipelineSettings):
		for key, (section_step, section_model) in SECTIONS.items():
			section = _resolve(raw, section_model, section_step, False, problems)
			setattr(settings, key, section)
			parts.append(section)
		notices += _notices_beaten(raw, settings, parts[1:])
	for part in parts:
		_cross_check(part, problems)
	_check_required(settings, problems)
	if check_files:
		from cherimoya_cli.utils import find_file_problems

		for text in find_file_problems(parts):
			problems.add_file(text)
	problems.raise_if_any()
	settings._notices = notices + _notices_twice(settings)
	return settings


def explain(settings: Settings) -> str:
	"""Each value and where it came from, as aligned text."""
	rows = []

	def add(part: Settings, prefix: str) -> None:
		for key in type(part).model_fields:
			if key in SECTIONS:
				continue
			origin = part.origins[key]
			kind = origin.kind
			if prefix and origin.key not in (key, f"{prefix}.{key}") and kind == "--set":
				kind = f"--set {origin.key}"
			rows.append((f"{prefix}.{key}" if prefix else key, show(getattr(part, key), 76), kind))

	add(settings, "")
	if isinstance(settings, PipelineSettings):
		for key in SECTIONS:
			add(getattr(settings, key), key)
	widths = [max(len(row[i]) for row in rows) for i in range(2)]
	return "\n".join(f"{key:<{widths[0]}}  {value:<{widths[1]}}  {kind}".rstrip() for key, value, kind in rows)
