"""What the commands share: loading settings, printing, writing files whole, devices and versions.

Imports the standard library alone; what needs more is imported inside the functions.
"""

import argparse
import errno
import functools
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cherimoya.errors import SettingsError, join_problems

if TYPE_CHECKING:
	import torch

	from cherimoya_cli.settings import Settings


def say(text: str = "") -> None:
	"""Print a line for the user on standard output, at once."""
	print(text, flush=True)


def warn(text: str) -> None:
	"""Print a line for the user on standard error, at once."""
	print(text, file=sys.stderr, flush=True)


# Settings.


def add_settings_arguments(parser: argparse.ArgumentParser) -> None:
	"""The arguments of every command that reads a JSON of settings."""
	parser.add_argument("-p", "--parameters", metavar="JSON", help="JSON file of settings")
	parser.add_argument(
		"--set",
		dest="overrides",
		metavar="KEY=VALUE",
		action="append",
		default=[],
		help="use this value of a key in place of the JSON's; section.key=value in a pipeline JSON (repeatable)",
	)
	parser.add_argument("--print-defaults", action="store_true", help="print the defaults as a JSON, and stop")
	parser.add_argument("--print-schema", action="store_true", help="print the JSON Schema of the settings, and stop")
	parser.add_argument("--explain", action="store_true", help="print each value and where it came from, and stop")


@functools.cache
def _help_tables() -> dict[str, dict[str, list[dict[str, Any]]]]:
	"""The tables that ``python -m cherimoya_cli.settings --write-help`` wrote."""
	return json.loads(Path(__file__).with_name("help.json").read_text(encoding="utf-8"))


def settings_help(command: str, width: int = 110) -> str:
	"""The keys of a command's JSON as text for ``--help``: name, default, what it accepts, help."""
	import textwrap

	lines = []
	for section, rows in _help_tables()[command].items():
		lines += [f"keys of {section}:" if section else "keys of the JSON:"]
		for row in rows:
			unit = f" {row['unit']}" if row["unit"] and row["default"] is not None else ""
			lines.append(
				f"  {row['key']} " + ("(required)" if row["required"] else f"= {_short(row['default'])}{unit}")
			)
			text = f"{row['help']} [{row['expects']}]"
			lines += textwrap.wrap(
				text, width, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False
			)
		lines.append("")
	return "\n".join(lines)


def _short(value: Any) -> str:
	"""A default as JSON, shortened."""
	text = json.dumps(value)
	return text if len(text) <= 60 else text[:59] + "…"


def add_setting_argument(parser: argparse.ArgumentParser, command: str, key: str, *flags: str, **options: Any) -> None:
	"""An argument for one key of a command's settings, with the help text and default of its declaration.

	Parameters
	----------
	parser: argparse.ArgumentParser
		The parser of the command.
	command: str
		The command, or the section without ``_parameters``, that declares the key.
	key: str
		The key; also the name of the attribute on the parsed arguments, None when the flag is not given.
	flags: str
		The flags, such as ``"-w", "--in_window"``.
	options: Any
		More options of ``add_argument``.
	"""
	tables = _help_tables()
	rows = tables[command][""] if command in tables else tables["pipeline"][f"{command}_parameters"]
	row = next(row for row in rows if row["key"] == key)
	text = row["help"]
	if row["default"] not in (None, False) and not options.get("required"):
		text += f" (default {_short(row['default'])}{' ' + row['unit'] if row['unit'] else ''})"
	parser.add_argument(*flags, dest=key, default=None, help=text.replace("%", "%%"), **options)


def settings_from_args(
	command: str, args: argparse.Namespace, *, flags: Mapping[str, Any] | None = None, make_folder: bool = True
) -> "Settings":
	"""The checked settings of a command, out of its parsed arguments; notices are printed, the output folder is made.

	Parameters
	----------
	command: str
		The command whose settings are wanted.
	args: argparse.Namespace
		With ``parameters`` (the JSON's path) and ``overrides`` (texts ``key=value``).
	flags: Mapping[str, Any] or None
		Values of keys that flags of the command's own gave; they beat the JSON. Default is None.
	make_folder: bool
		Whether to make the output folder. Default is True.

	Returns
	-------
	Settings
		One attribute per key.

	Raises
	------
	SettingsError
		When a setting is wrong; the message lists every problem.
	InputError
		When a file is missing or cannot be read, or the output folder cannot be written.
	"""
	from cherimoya_cli.settings import load_settings

	source = args.parameters if args.parameters else {}
	if not args.parameters and not args.overrides and not flags:
		raise SettingsError(
			"no settings given; name a JSON with -p FILE ('cherimoya pipeline-json' writes one, and --print-defaults "
			"shows the keys)"
		)
	settings = load_settings(command, source, args.overrides, flags=flags, check_files=True)
	# A pipeline compares its splits with the genome in its preflight, together with everything else.
	notices = settings.notices + ([] if command == "pipeline" else check_split(settings))
	for notice in notices:
		warn(f"note: {settings.source}: {notice}")
	if make_folder and not getattr(settings, "dry_run", False):
		output_folder(settings.name).mkdir(parents=True, exist_ok=True)
	return settings


def output_folder(name: str) -> Path:
	"""The folder of the files that a name is the prefix of."""
	return Path(name + "x").parent


def find_file_problems(parts: Iterable["Settings"]) -> Iterator[str]:
	"""What is wrong with the input files and the output folders of settings, a sentence each."""
	from cherimoya.io._files import is_remote
	from cherimoya_cli.settings import input_files

	seen: set[str] = set()
	for settings in parts:
		for key, path in input_files(settings):
			if path in seen or is_remote(path):
				continue
			seen.add(path)
			fault = file_fault(path)
			if fault:
				origin = settings.origins.get(key)
				yield f"{path}: {fault} ({origin.key if origin else key} in {settings.source})"
		name = getattr(settings, "name", None)
		if name is not None and f"name {name}" not in seen:
			seen.add(f"name {name}")
			fault = folder_fault(name)
			if fault:
				yield f"{output_folder(name)}: {fault} (name in {settings.source}); choose another folder in name"


def file_fault(path: str) -> str | None:
	"""What keeps an input file from being read, or None."""
	try:
		with open(path, "rb") as handle:
			if not handle.read(1):
				return "is empty; make it again, or name another file"
	except FileNotFoundError:
		return "no such file; check the path (relative ones start at the folder that the command is run in)"
	except IsADirectoryError:
		return "is a folder; name a file in it"
	except OSError as error:
		return f"cannot be read ({error.strerror}); check its permissions"
	return None


def folder_fault(name: str) -> str | None:
	"""What keeps files from being written under a name, or None. Nothing is left behind."""
	if name.endswith(("/", os.sep)):
		return f"the name '{name}' ends with the folder; add the beginning of the files' names"
	folder = output_folder(name)
	while not folder.exists() and folder != folder.parent:
		folder = folder.parent
	try:
		with tempfile.TemporaryFile(dir=folder):
			return None
	except OSError as error:
		why = "is not a folder" if error.errno == errno.ENOTDIR else f"cannot be written ({error.strerror})"
		return why if folder == output_folder(name) else f"cannot be made, because {folder} {why}"


# Chromosomes.


def index_sizes(fasta: str) -> dict[str, int] | None:
	"""The chromosomes of a FASTA and their lengths in bp, from its ``.fai`` index; None without a readable index."""
	try:
		with open(fasta + ".fai", encoding="utf-8") as handle:
			return {fields[0]: int(fields[1]) for fields in (line.rstrip("\n").split("\t") for line in handle)}
	except (OSError, ValueError, IndexError):
		return None


def chrom_sizes_of(fasta: str) -> dict[str, int]:
	"""The chromosomes of a FASTA and their lengths in bp; its index is made if missing."""
	sizes = index_sizes(fasta)
	if sizes:
		return sizes
	from cherimoya.io.genome import Genome

	return dict(Genome(fasta).chrom_sizes)


def check_split(settings: "Settings", chrom_sizes: Mapping[str, int] | None = None) -> list[str]:
	"""Compare the splits with the genome.

	Parameters
	----------
	settings: Settings
		Settings of a command; those without splits pass.
	chrom_sizes: Mapping[str, int] or None
		Length of each chromosome in bp; None (the default) takes them from the FASTA.

	Returns
	-------
	list[str]
		Notices on chromosomes that the genome does not have.

	Raises
	------
	SettingsError
		When a part has no chromosome of the genome; the message proposes a split.
	"""
	from cherimoya.io.names import ChromNames
	from cherimoya_cli.settings import SPLITS
	from cherimoya_cli.splits import rename_places, shared_problems, split_problems

	part = getattr(settings, "fit_parameters", settings)
	fasta = getattr(part, "sequences", None)
	if not hasattr(part, "training_chroms") or not fasta or getattr(part, "chroms", None):
		return []
	sizes = chrom_sizes or chrom_sizes_of(fasta)
	names = ChromNames(sizes, part.chrom_aliases, source=fasta)
	splits = {}
	for key in SPLITS.values():
		places = getattr(part, key)
		if places:
			origin = part.origins[key]
			splits[origin.key] = (rename_places(places, names), origin.kind == "default")
	problems, notices = split_problems(splits, sizes, fasta)
	if names.active:  # without other names, the settings alone have told what splits share
		problems += shared_problems({key: places for key, (places, _) in splits.items()})
	if problems:
		raise SettingsError(join_problems(f"{settings.source}: {problem}" for problem in problems))
	return notices


# Files.


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
	"""A temporary path in the folder of `path`, renamed to it when the block ends well, removed when it does not."""
	path = Path(path)
	handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
	os.close(handle)
	try:
		yield Path(temporary)
		umask = os.umask(0)
		os.umask(umask)
		os.chmod(temporary, 0o666 & ~umask)
		os.replace(temporary, path)
	except BaseException:
		Path(temporary).unlink(missing_ok=True)
		raise


def write_text(path: str | Path, text: str) -> None:
	"""Write a text file whole or not at all."""
	with whole_file(path) as temporary:
		temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, obj: Any) -> None:
	"""Write a JSON file whole or not at all; NaN becomes null."""
	write_text(path, json.dumps(_finite(obj), indent="\t", ensure_ascii=False) + "\n")


def _finite(obj: Any) -> Any:
	"""The same with null for NaN and infinities, lists for tuples and arrays, plain numbers for NumPy's."""
	if isinstance(obj, Mapping):
		return {str(key): _finite(value) for key, value in obj.items()}
	if isinstance(obj, (list, tuple, set, frozenset)):
		return [_finite(value) for value in obj]
	if hasattr(obj, "tolist"):
		return _finite(obj.tolist())
	if isinstance(obj, os.PathLike):
		return os.fspath(obj)
	if isinstance(obj, float) and (obj != obj or obj in (float("inf"), float("-inf"))):
		return None
	return obj


# Machine.


def resolve_device(text: str) -> "torch.device":
	"""The torch device that a setting names; "auto" is a GPU if there is one.

	Raises
	------
	SettingsError
		When the device is not on this machine.
	"""
	import torch

	gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
	if text == "auto":
		return torch.device("cuda" if gpus else "cpu")
	try:
		device = torch.device(text)
	except RuntimeError:
		raise SettingsError(f'device must be "auto", "cpu", "cuda", "cuda:1" or "mps", not "{text}"') from None
	if device.type == "cuda" and (device.index or 0) >= gpus:
		found = "no GPU" if not gpus else f"{gpus} GPU{'s' if gpus > 1 else ''} (cuda:0 to cuda:{gpus - 1})"
		raise SettingsError(f'device is "{text}", but torch finds {found} here; set device to "auto" or "cpu"')
	if device.type == "mps" and not torch.backends.mps.is_available():
		raise SettingsError('device is "mps", but torch finds no Apple GPU here; set device to "auto" or "cpu"')
	return device


def versions() -> dict[str, str]:
	"""Versions of Python, of this package and of those that its numbers depend on, as far as they are installed."""
	import platform
	from importlib.metadata import PackageNotFoundError, version

	from cherimoya import __version__

	found = {"cherimoya": __version__, "python": platform.python_version()}
	for package in ("torch", "triton", "numpy", "pyBigWig", "pydantic", "macs3", "pysam", "matplotlib"):
		try:
			found[package] = version(package)
		except PackageNotFoundError:
			continue
	return found


# For programs that use the settings as plain dicts.


def merge_parameters(parameters: str | Path | Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
	"""A dict of settings: the given ones, and the defaults of the keys that are left out.

	Parameters
	----------
	parameters: str, Path or Mapping
		A JSON file, or its content.
	defaults: Mapping[str, Any]
		One of the dicts of `cherimoya_cli.defaults`, or one like them.

	Returns
	-------
	dict[str, Any]
		A new dict; keys that the defaults do not have are kept.

	Raises
	------
	FileNotFoundError
		When there is no such file.
	ValueError
		When a key that has no default is missing; the message names it.
	"""
	from cherimoya_cli.loading import read_json
	from cherimoya_cli.settings import required_keys

	given = dict(parameters) if isinstance(parameters, Mapping) else read_json(parameters)
	merged = {**deepcopy(dict(defaults)), **deepcopy(given)}
	missing = [key for key in required_keys(defaults) if merged.get(key) is None]
	if missing:
		name = "the settings" if isinstance(parameters, Mapping) else str(parameters)
		raise SettingsError(join_problems(f"{name}: the key '{key}' is required, and is missing" for key in missing))
	return merged
