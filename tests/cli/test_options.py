"""Every option of every command: code reads it, the docs show it, and a wrong value is one clear error that names it.

The keys are those of the declarations, and the flags those of the parsers, so that a new one is looked at by itself.
"""

import argparse
import ast
import functools
import importlib
import importlib.util
import json
from pathlib import Path

import pytest

from cherimoya.errors import SettingsError
from cherimoya_cli import plan
from cherimoya_cli.__main__ import build_parser, main
from cherimoya_cli.registry import COMMANDS
from cherimoya_cli.settings import SECTIONS, SETTINGS, SPLIT_LOCI, SPLITS, TOP_LEVEL, load_settings

ROOT = Path(__file__).resolve().parents[2]
BAD = json.loads((Path(__file__).parent / "configs" / "options_bad.json").read_text())
MODELS = {**SETTINGS, **{step: model for step, model in SECTIONS.values()}}
KEYS = {name: [key for key in model.model_fields if key not in SECTIONS] for name, model in MODELS.items()}

DECLARATIONS = ("cherimoya_cli.settings", "cherimoya_cli.loading", "cherimoya.training.options")
"""What declares keys and checks values, but uses none."""

NAMED = {"SPLITS": set(SPLITS.values()), "SPLIT_LOCI": set(SPLIT_LOCI.values())}
"""Keys that are read by way of a table of them."""

PARTS = ("training", "validation", "test")
"""What keys may be put together from: f"{part}_loci"."""

RESOLVED = {"folds"}
"""Keys that loading turns into others."""

RUN_BY = {
	**{name: [command.module] for name, command in COMMANDS.items()},
	**{name: [module] for name, module in plan.MODULES.items()},
	"preprocessing": ["cherimoya_cli.peaks", "cherimoya_cli.signals"],
	"report": ["cherimoya_cli.report.__main__"],
}
"""The modules that run a command or a step."""


# ---- read by code -----------------------------------------------------------------------------------


@functools.cache
def tree_of(module):
	"""The syntax of one of our modules; None for other packages."""
	base = ROOT / module.replace(".", "/")
	for path in (base.with_suffix(".py"), base / "__init__.py"):
		if path.is_file():
			return ast.parse(path.read_text(encoding="utf-8"))
	return None


@functools.cache
def imported(module):
	"""The modules of ours that a module imports, wherever in it; of a package, whose names are lazy, all of them."""
	found = set()
	for node in ast.walk(tree_of(module)):
		if isinstance(node, ast.Import):
			found |= {alias.name for alias in node.names}
		elif isinstance(node, ast.ImportFrom) and node.module:
			found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
	for name in list(found):
		folder = ROOT / name.replace(".", "/")
		if name.startswith("cherimoya.") and (folder / "__init__.py").is_file():
			found |= {f"{name}.{path.stem}" for path in folder.glob("*.py")}
	if "cherimoya" in found:
		found |= {f"cherimoya.{path.stem}" for path in (ROOT / "cherimoya").glob("*.py")}
	return {name for name in found if name.startswith("cherimoya") and tree_of(name) is not None}


@functools.cache
def words_of(module):
	"""The attributes that a module reads, its keyword arguments, and its texts other than docstrings."""
	docstrings = {
		node.value
		for node in ast.walk(tree_of(module))
		if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
	}
	words = set()
	for node in ast.walk(tree_of(module)):
		if isinstance(node, ast.Name):
			words |= NAMED.get(node.id, set())
		elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
			words.add(node.attr)
		elif isinstance(node, ast.JoinedStr):
			words |= {f"{part}{node.values[-1].value}" for part in PARTS if isinstance(node.values[-1], ast.Constant)}
		elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
			words.add(node.value)
	return words


@functools.cache
def read_by(*modules):
	"""The words of modules, and of all that they import."""
	todo, seen = [*modules], set(DECLARATIONS)
	words = set()
	while todo:
		module = todo.pop()
		if module not in seen:
			seen.add(module)
			words |= words_of(module)
			todo += imported(module)
	return words


@pytest.mark.parametrize("name", MODELS)
def test_every_key_is_read(name):
	words = read_by(*RUN_BY[name]) | RESOLVED
	assert RESOLVED <= words_of("cherimoya_cli.loading")
	assert [key for key in KEYS[name] if key not in words] == []


def test_a_key_that_nobody_reads_is_found():
	words = read_by("cherimoya_cli.report.__main__")
	assert "name" in words and not {"callpeaks_q", "n_shuffles", "scale_factor"} & words


# ---- documented -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages():
	"""The generated tables of settings, by command."""
	spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
	generate = importlib.util.module_from_spec(spec)
	spec.loader.exec_module(generate)
	parts = ("\n" + generate.settings()).split("\n## ")[1:]
	return {part.split("\n", 1)[0]: part for part in parts}


@pytest.mark.parametrize("command", [name for name in SETTINGS if name in COMMANDS])
def test_every_key_is_documented(pages, command):
	for row in KEYS[command]:
		assert f"\n| `{row}` | " in pages[command]


def test_every_key_of_a_section_is_documented(pages):
	for section, (step, model) in SECTIONS.items():
		own = set(KEYS[step]) - TOP_LEVEL - model.forced.keys()
		text = pages["pipeline"].partition(f"\n### {section}\n")[2].partition("\n### ")[0]
		documented = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}
		followed = set(KEYS["fit"])  # told once, where they are declared
		assert own - followed <= documented, section


# ---- flags ------------------------------------------------------------------------------------------


def parsers():
	"""The parser of each command, and of each of its actions."""

	def walk(name, parser):
		yield name, parser
		for action in parser._actions:
			if isinstance(action, argparse._SubParsersAction):
				for inner, sub in action.choices.items():
					yield from walk(f"{name} {inner}", sub)

	for name, command in COMMANDS.items():
		yield from walk(name, build_parser(name, importlib.import_module(command.module)))


FLAGS = [
	pytest.param(name, action, id=f"{name} {max(action.option_strings, key=len)}")
	for name, parser in parsers()
	for action in parser._actions
	if action.option_strings and action.dest != "help"
]


@pytest.mark.parametrize(("name", "action"), FLAGS)
def test_every_flag_is_read_and_documented(pages, name, action):
	command = name.split()[0]
	flag = max(action.option_strings, key=len)
	assert action.help and f"`{flag}`" in pages[command] + pages["Flags that commands share"]
	module = COMMANDS[command].module
	words = read_by(module) | words_of("cherimoya_cli.__main__") | words_of("cherimoya_cli.utils")
	assert action.dest in words


@pytest.mark.parametrize(
	("name", "action"), [p for p in FLAGS if p.values[1].type in (int, float) or p.values[1].choices]
)
def test_a_wrong_value_of_a_flag_is_told(capsys, name, action):
	flag = max(action.option_strings, key=len)
	assert main([*name.split(), flag, "wrong"]) == 2
	message = capsys.readouterr().err
	assert f"argument {'/'.join(action.option_strings)}: invalid" in message and "'wrong'" in message
	assert "Traceback" not in message


# ---- wrong values -----------------------------------------------------------------------------------


def test_every_key_has_wrong_values():
	declared = {key for keys in KEYS.values() for key in keys}
	assert BAD.keys() == declared, "add the new keys, with values that they must refuse, to configs/options_bad.json"
	assert all(BAD.values())


GOOD = {"sequences": "g.fa", "loci": "p.bed", "negatives": "n.bed", "signals": "s.bw", "motifs": "m.meme"}
GOOD |= {"variants": "v.vcf", "samples": "s.tsv"}


@pytest.mark.parametrize("key", sorted(BAD))
def test_a_wrong_value_is_one_error_that_names_the_key(key):
	commands = [name for name in SETTINGS if key in KEYS[name]] or ["pipeline"]
	for command in commands:
		for value in BAD[key]:
			given = {name: text for name, text in GOOD.items() if name in KEYS[command]}
			if key not in KEYS[command]:  # of a section alone
				section = next(section for section, (step, _) in SECTIONS.items() if key in KEYS[step])
				given, named = {**given, section: {key: value}}, f"{section}.{key}"
			else:
				given, named = {**given, key: value}, key
			with pytest.raises(SettingsError) as caught:
				load_settings(command, given)
			message = str(caught.value)
			assert message.startswith(f"settings: {named} must be "), (command, message)
			assert ", not " in message and "\n" not in message, (command, message)
