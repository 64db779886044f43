"""``cherimoya COMMAND``: parse, import one command, run it, turn its outcome into an exit code."""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType, ModuleType
from typing import NoReturn

from cherimoya.errors import CherimoyaError, InputError, Interrupted
from cherimoya_cli import stopping
from cherimoya_cli.registry import COMMANDS

INTERRUPTED, TERMINATED, BROKEN_PIPE = 130, 143, 141

DESCRIPTION = "Compact neural networks that predict sequencing experiments from DNA sequence."


class Terminated(BaseException):
	"""The process was asked to end (SIGTERM)."""


class _Formatter(argparse.RawDescriptionHelpFormatter):
	"""Help with room for names of commands, and the tables of settings as they are."""

	def __init__(self, prog: str) -> None:
		super().__init__(prog, max_help_position=30, width=118)


def _overview() -> argparse.ArgumentParser:
	"""The parser of ``cherimoya`` itself."""
	width = max(map(len, COMMANDS))
	commands = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
	parser = argparse.ArgumentParser(
		prog="cherimoya",
		usage="cherimoya [-h] [--version] COMMAND ...",
		description=DESCRIPTION,
		epilog=f"commands:\n{commands}\n\n'cherimoya COMMAND --help' shows the options and settings of a command.",
		formatter_class=_Formatter,
	)
	parser.add_argument("--version", action="store_true", help="show the version, and stop")
	return parser


def _unknown(name: str) -> str:
	"""The message on a command that does not exist."""
	import difflib

	close = difflib.get_close_matches(name, COMMANDS, 1, 0.5)
	hint = f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(COMMANDS)}"
	return f"cherimoya: error: there is no command '{name}'; {hint}"


def main(argv: Sequence[str] | None = None) -> int:
	"""Run one command.

	Parameters
	----------
	argv: Sequence[str] or None
		The arguments without the program's name; None (the default) takes those of the process.

	Returns
	-------
	int
		0 done, 2 bad settings, 3 missing or bad input, 4 a tool failed, 130 or 143 interrupted.
	"""
	argv = list(sys.argv[1:] if argv is None else argv)
	if not argv or argv[0].startswith("-"):
		return _without_command(argv)
	name, *rest = argv
	if name not in COMMANDS:
		print(_unknown(name), file=sys.stderr)
		return 2
	try:
		return _run(name, rest)
	except Interrupted as error:
		sys.stdout.flush()
		print(f"\ncherimoya {name}: interrupted; {error}. To go on, give the same command again", file=sys.stderr)
		return error.exit_code
	except CherimoyaError as error:
		sys.stdout.flush()
		print(f"cherimoya {name}: error: {error}", file=sys.stderr)
		return error.exit_code
	except KeyboardInterrupt:
		print(f"\ncherimoya {name}: interrupted", file=sys.stderr)
		return INTERRUPTED
	except Terminated:
		print(f"\ncherimoya {name}: terminated", file=sys.stderr)
		return TERMINATED
	except BrokenPipeError:
		# The reader of our output has gone (as in "| head"): nothing more to say, nor at exit.
		os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
		return BROKEN_PIPE
	except OSError as error:
		return say_disk_is_full(name, error)


def say_disk_is_full(name: str, error: OSError) -> int:
	"""Tell that there is no room for a file; the exit code. Any other error is raised again."""
	from cherimoya.io._files import no_room_for

	text = no_room_for(None, error)
	if text is None:
		raise error
	print(f"cherimoya {name}: error: {text}", file=sys.stderr)
	return InputError.exit_code


def _without_command(argv: list[str]) -> int:
	"""``cherimoya --help``, ``--version``, or a complaint."""
	parser = _overview()
	try:
		args = parser.parse_args(argv)
	except SystemExit as stop:
		return int(stop.code or 0)
	if args.version:
		from cherimoya import __version__

		print(f"cherimoya {__version__}")
		return 0
	print(parser.format_help(), file=sys.stderr, end="")
	return 2


def build_parser(name: str, module: ModuleType, *, epilog: str | None = None) -> argparse.ArgumentParser:
	"""The parser of a command, out of its module."""
	from cherimoya_cli import utils

	summary = COMMANDS[name].summary
	parser = argparse.ArgumentParser(
		prog=f"cherimoya {name}",
		description=f"{summary[0].upper()}{summary[1:]}.",
		epilog=epilog,
		formatter_class=_Formatter,
	)
	if getattr(module, "READS_SETTINGS", True):
		utils.add_settings_arguments(parser)
	if hasattr(module, "add_arguments"):
		module.add_arguments(parser)
	return parser


def _run(name: str, argv: list[str]) -> int:
	"""Import the command's module, parse its arguments, run it."""
	command = COMMANDS[name]
	module = importlib.import_module(command.module)
	from cherimoya_cli import utils

	reads_settings = getattr(module, "READS_SETTINGS", True)
	settings_of = getattr(module, "SETTINGS_COMMAND", name)
	wants_help = "-h" in argv or "--help" in argv
	parser = build_parser(
		name, module, epilog=utils.settings_help(settings_of) if reads_settings and wants_help else None
	)
	try:
		args = parser.parse_args(argv)
	except SystemExit as stop:
		return int(stop.code or 0)
	if reads_settings and (args.print_defaults or args.print_schema):
		return _print_declarations(settings_of, args)
	if reads_settings and args.explain and not hasattr(module, "explain"):
		return _explain(settings_of, args)
	_refuse_ranks(name, args)
	return module.run(args)


def _refuse_ranks(name: str, args: argparse.Namespace) -> None:
	"""SettingsError when this is one of several processes that would all do the same; fit shares its work out."""
	if name == "fit" or "RANK" not in os.environ or getattr(args, "shard", None) is not None:
		return
	from cherimoya_cli.launching import refuse_ranks

	remedies = {
		"pipeline": ", and let fit train on several devices: fit_parameters.devices: {size}",
		"batch": ', and let jobs run on all devices: device: "*"',
	}
	several = ", or give each process a --shard of its own" if hasattr(args, "shard") else ""
	refuse_ranks(name, remedies.get(name, several))


def _print_declarations(command: str, args: argparse.Namespace) -> int:
	"""``--print-defaults`` and ``--print-schema``."""
	import json

	from cherimoya_cli.settings import defaults, schema
	from cherimoya_cli.utils import say

	say(json.dumps(defaults(command) if args.print_defaults else schema(command), indent="\t", ensure_ascii=False))
	return 0


def _explain(command: str, args: argparse.Namespace) -> int:
	"""``--explain``."""
	from cherimoya_cli.loading import explain
	from cherimoya_cli.settings import load_settings
	from cherimoya_cli.utils import say, warn

	settings = load_settings(command, args.parameters or {}, args.overrides)
	say(explain(settings))
	for notice in settings.notices:
		warn(f"note: {settings.source}: {notice}")
	return 0


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
	"""Turn SIGTERM into an exception, so that files and children are cleaned up."""
	raise Terminated


def run() -> NoReturn:
	"""The console entry: as `main`, ending the process with its exit code."""
	signal.signal(signal.SIGTERM, _terminate)
	# Threads that spin while they wait slow down whatever else runs on the machine, and themselves with it.
	os.environ.setdefault("OMP_WAIT_POLICY", "passive")
	stopping.in_command = True
	code = main()
	try:
		sys.stdout.flush()
	except BrokenPipeError:
		os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
	if code in (INTERRUPTED, TERMINATED) or _was_rank():
		sys.stderr.flush()
		stopping.leave_at_once(code)
	sys.exit(code)


def _was_rank() -> bool:
	"""Whether this process was one of several: gloo's threads may abort it while the interpreter takes itself apart."""
	distributed = sys.modules.get("cherimoya.training.distributed")
	return distributed is not None and distributed.is_rank()


if __name__ == "__main__":
	run()
