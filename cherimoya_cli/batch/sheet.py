"""The samples of a batch: from a table, a list of settings, or patterns of file names, with every problem at once."""

import functools
import glob
import json
import re
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cherimoya.errors import InputError, MissingFileError
from cherimoya_cli.loading import nearest, show
from cherimoya_cli.settings import KNOWN, SECTIONS, SETTINGS, BatchSettings

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_GROUPED = ("signals", "controls")
_BATCH_ONLY = frozenset(BatchSettings.model_fields) - {"name"}
_COLUMNS = KNOWN - SECTIONS.keys() - _BATCH_ONLY - {"name"}


@dataclass(frozen=True)
class Sample:
	"""One sample.

	Attributes
	----------
	name: str
		Its name, which its files are called after.
	values: dict
		Its settings, as a pipeline JSON has them: keys, and sections of keys.
	place: str
		Where it is written: ``"samples.tsv: line 3"``.
	"""

	name: str
	values: dict[str, Any]
	place: str


def read_samples(value: Any, source: str, problems: list[str]) -> list[Sample]:
	"""The samples that the key `samples` names.

	Parameters
	----------
	value: str, list or dict
		A table's path, the samples' settings, or patterns of file names.
	source: str
		The name of the JSON, for messages.
	problems: list of str
		Gets what is wrong with samples, a sentence each.

	Returns
	-------
	samples: list of Sample
		In the order in which they are written; patterns: in that of their names.

	Raises
	------
	InputError
		The table cannot be read.
	"""
	before = len(problems)
	if isinstance(value, str):
		samples = _read_table(value, problems)
	elif isinstance(value, list):
		samples = _read_list(value, source, problems)
	else:
		samples = _read_patterns(value, source, problems)
	_check_names(samples, problems)
	if not samples and len(problems) == before:
		problems.append(f"{value if isinstance(value, str) else source}: samples names no sample; add one")
	return samples


def is_file_name(name: str) -> bool:
	"""Whether a name can be part of the names of files everywhere."""
	return _NAME.fullmatch(name) is not None


def _check_names(samples: Sequence[Sample], problems: list[str]) -> None:
	"""Record names that cannot be those of files, and those of two samples."""
	seen: dict[str, Sample] = {}
	for sample in samples:
		if not sample.name:
			problems.append(f"{sample.place}: the name is empty; give each sample one")
			continue
		if not is_file_name(sample.name):
			hint = " (are the columns separated by tabs?)" if " " in sample.name else ""
			problems.append(
				f"{sample.place}: the name {show(sample.name)} cannot be that of files; begin with a letter or digit, "
				f"and go on with these and . _ + -{hint}"
			)
		before = seen.setdefault(sample.name.lower(), sample)
		if before is not sample:
			problems.append(
				f"{sample.place}: the name '{sample.name}' is that of {before.place} already; choose another, which "
				"differs in more than upper and lower case"
			)


# ---- a table ----------------------------------------------------------------------------------------


def _read_table(path: str, problems: list[str]) -> list[Sample]:
	"""The samples of a table: a header of keys, and a line for each sample."""
	try:
		text = Path(path).read_text(encoding="utf-8-sig")
	except FileNotFoundError:
		raise MissingFileError(f"{path}: no such file (samples); check the path of the table") from None
	except UnicodeDecodeError as error:
		raise InputError(
			f"{path}: byte {error.start} is not text in UTF-8; save the table as tab-separated text"
		) from None
	except OSError as error:
		raise InputError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
	lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
	if not lines:
		raise InputError(f"{path}: is empty; it must have a header and a line for each sample")
	number, line = lines[0]
	header = [cell.strip() for cell in line.removeprefix("#").split("\t")]
	faults = _header_problems(header)
	problems += [f"{path}: line {number}: {text}" for text in faults]
	if faults:
		return []
	samples = []
	for number, line in lines[1:]:
		cells = [cell.strip() for cell in line.split("\t")]
		if line.startswith("#"):
			continue
		place = f"{path}: line {number}"
		if len(cells) > len(header):
			problems.append(f"{place}: has {len(cells)} cells, but the header has {len(header)}; remove the others")
			continue
		samples.append(_sample_of_cells(dict(zip(header, cells, strict=False)), place, problems))
	return samples


def _header_problems(header: Sequence[str]) -> list[str]:
	"""What is wrong with the header of a table."""
	if len(header) == 1 and header[0] != "name":
		return [f"the header {show(header[0])} is a single cell; separate columns by tabs"]
	problems = [] if "name" in header else ["the header has no column 'name'; add it"]
	problems += [f"the column '{column}' is there twice; keep one" for column in header if header.count(column) > 1]
	for column in header:
		section, _, key = column.rpartition(".")
		if column == "name":
			continue
		if not column:
			problems.append("a column of the header has no name; write the key that it holds")
		elif section and section not in SECTIONS:
			problems.append(f"the column '{column}': there is no section '{section}'{nearest(section, SECTIONS)}")
		elif key in _BATCH_ONLY or (section and key == "name"):
			problems.append(f"the column '{column}' is for a whole batch; move the key to the JSON")
		elif key not in _COLUMNS:
			problems.append(f"the column '{column}' is no key of a pipeline{nearest(key, _COLUMNS) or '; remove it'}")
	return list(dict.fromkeys(problems))


def _sample_of_cells(cells: Mapping[str, str], place: str, problems: list[str]) -> Sample:
	"""A line of a table; empty cells leave the key to the JSON."""
	values: dict[str, Any] = {}
	for column, cell in cells.items():
		if column == "name" or not cell:
			continue
		section, _, key = column.rpartition(".")
		target = values.setdefault(section, {}) if section else values
		try:
			target[key] = read_cell(key, cell)
		except ValueError as error:
			problems.append(f"{place}: {column} is {show(cell)}: {error}")
	return Sample(cells["name"], values, place)


def read_cell(key: str, cell: str) -> Any:
	"""The value of a cell: files and places as lists, numbers, true and false as in JSON, anything else as text.

	``a.bw;b.+.bw,b.-.bw`` among signals and controls is ``["a.bw", ["b.+.bw", "b.-.bw"]]``; an empty group is null.
	Quotes around a cell, as spreadsheets write them, are no part of it.

	Raises
	------
	ValueError
		A cell that starts like JSON is none.
	"""
	inner = cell[1:-1].replace('""', '"').strip()
	if cell[0] == cell[-1] == '"' and "\\" not in inner and re.search('[,;"]', inner):
		return read_cell(key, inner)  # spreadsheets put quotes around such cells, and double those within
	if cell[0] in '[{"':
		try:
			return json.loads(cell)
		except ValueError:
			raise ValueError("is not valid JSON; check its quotes and brackets") from None
	if cell == "null":
		return None
	types = _types_of(key)
	if key in _GROUPED:
		return [_group(part) for part in cell.split(";")]
	if types <= {list, type(None)}:
		separator = r"[;,]" if _is_file(key) else ";"  # a region may hold commas
		return [part.strip() for part in re.split(separator, cell) if part.strip()]
	if types <= {str, type(None)}:
		return cell
	if list in types and ";" in cell:
		return [_plain(part.strip()) for part in cell.split(";")]
	return _plain(cell)


def _plain(text: str) -> Any:
	"""A number, true, false or null as JSON has them; anything else is the text itself."""
	try:
		return json.loads(text)
	except ValueError:
		return text


def _group(text: str) -> str | list[str] | None:
	"""A group of tracks: a file, or several."""
	files = [part.strip() for part in text.split(",") if part.strip()]
	return None if not files else files[0] if len(files) == 1 else files


def _fields_of(key: str) -> list[Any]:
	"""The declarations of a key, which are all the same."""
	models = [*SETTINGS.values(), *(model for _, model in SECTIONS.values())]
	return [model.model_fields[key] for model in models if key in model.model_fields]


@functools.cache
def _types_of(key: str) -> set[Any]:
	"""The types that a key takes: list, str, int, ..."""
	found: set[Any] = set()

	def walk(annotation: Any) -> None:
		origin = typing.get_origin(annotation)
		if origin in (list, dict, tuple):
			found.add(origin)
		elif origin is typing.Literal:
			found.update(type(value) for value in typing.get_args(annotation))
		elif origin is None:
			found.add(annotation)
		else:
			for argument in typing.get_args(annotation)[: 1 if origin is typing.Annotated else None]:
				walk(argument)

	for field in _fields_of(key)[:1]:
		walk(field.annotation)
	return found


@functools.cache
def _is_file(key: str) -> bool:
	"""Whether a key holds paths of input files."""
	extra = _fields_of(key)[0].json_schema_extra
	return isinstance(extra, dict) and bool(extra.get("files"))


# ---- a list of settings -----------------------------------------------------------------------------


def _read_list(items: Sequence[Any], source: str, problems: list[str]) -> list[Sample]:
	"""The samples of a list of settings; what the settings hold is checked with the jobs."""
	samples = []
	for number, item in enumerate(items, start=1):
		place, name = f"{source}: sample {number}", item.get("name")
		if not isinstance(name, str):
			problems.append(f"{place}: has no name; give each sample a text as its name")
			continue
		misplaced = sorted(item.keys() & _BATCH_ONLY)
		if misplaced:
			problems.append(f"{place}: {misplaced[0]} is for a whole batch; move it out of the sample")
		samples.append(Sample(name, {key: value for key, value in item.items() if key != "name"}, place))
	return samples


# ---- patterns of file names -------------------------------------------------------------------------


def _read_patterns(patterns: Mapping[str, Any], source: str, problems: list[str]) -> list[Sample]:
	"""A sample for each text that stands for * in the names of existing files."""
	texts = [text for key in sorted(patterns, key=lambda key: key != "signals") for text in _texts(patterns[key])]
	deciding = next((text for text in texts if "*" in text), None)
	if deciding is None:
		problems.append(f'{source}: samples has no pattern with a *, such as {{"signals": "bigwigs/*.bw"}}; add one')
		return []
	names = matches(deciding)
	if not names:
		problems.append(f"{source}: samples: no file is called {deciding}; check the pattern and the folder")
	misplaced = sorted(patterns.keys() & (_BATCH_ONLY | {"name"}))
	if misplaced:
		problems.append(f"{source}: samples.{misplaced[0]} is for a whole batch; move it out of samples")
	return [Sample(name, _fill(dict(patterns), name), f"{source}: sample '{name}' of {deciding}") for name in names]


def matches(pattern: str) -> list[str]:
	"""What stands for * in the names of the existing files that a pattern fits, sorted; each * is the same text."""
	parts = pattern.split("*")
	first, *others = (re.escape(part) for part in parts)
	expression = first + r"(?P<name>[^/]+)" + r"(?P=name)".join(others)
	paths = glob.glob("*".join(glob.escape(part) for part in parts))
	return sorted({found["name"] for path in paths if (found := re.fullmatch(expression, path))})


def _texts(value: Any) -> list[str]:
	"""The texts of a value, of lists in lists too."""
	if isinstance(value, str):
		return [value]
	return [text for item in value for text in _texts(item)] if isinstance(value, list) else []


def _fill(value: Any, name: str) -> Any:
	"""A value with the name in place of each *."""
	if isinstance(value, str):
		return value.replace("*", name)
	if isinstance(value, list):
		return [_fill(item, name) for item in value]
	if isinstance(value, dict):
		return {key: _fill(item, name) for key, item in value.items()}
	return value
