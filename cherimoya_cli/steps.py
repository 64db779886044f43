"""How a pipeline step that is no command of its own runs: ``python -m cherimoya_cli.MODULE -p STEP.json``."""

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from cherimoya.errors import CherimoyaError
from cherimoya_cli.__main__ import INTERRUPTED, TERMINATED, Terminated, _terminate, say_disk_is_full


def main_of_step(command: str, work: Callable[[dict[str, Any]], Any], argv: Sequence[str] | None = None) -> int:
	"""Read the settings of a step, do its work, turn the outcome into an exit code.

	Parameters
	----------
	command: str
		Name of the step's settings.
	work: callable
		Takes the resolved settings as a dict.
	argv: sequence of str or None
		Arguments; None for those of the process.

	Returns
	-------
	code: int
		0 done, 2 bad settings, 3 bad input, 4 a tool failed, 130 or 143 interrupted.
	"""
	parser = argparse.ArgumentParser(prog=f"python -m cherimoya_cli.{command}")
	parser.add_argument("-p", "--parameters", metavar="JSON", required=True, help="the step's settings")
	parser.add_argument(
		"--set", dest="overrides", metavar="KEY=VALUE", action="append", default=[], help="override a key"
	)
	args = parser.parse_args(argv)
	try:
		from cherimoya_cli.launching import refuse_ranks
		from cherimoya_cli.settings import load_settings
		from cherimoya_cli.utils import output_folder

		refuse_ranks(command)
		settings = load_settings(command, args.parameters, args.overrides, check_files=True)
		output_folder(settings.name).mkdir(parents=True, exist_ok=True)
		work(settings.model_dump(mode="json"))
	except CherimoyaError as error:
		sys.stdout.flush()
		print(f"cherimoya {command}: error: {error}", file=sys.stderr)
		return error.exit_code
	except KeyboardInterrupt:
		return INTERRUPTED
	except Terminated:
		return TERMINATED
	except OSError as error:
		return say_disk_is_full(command, error)
	return 0


def run_step(command: str, work: Callable[[dict[str, Any]], Any]) -> NoReturn:
	"""The entry of a step's module: as `main_of_step`, ending the process."""
	signal.signal(signal.SIGTERM, _terminate)
	sys.exit(main_of_step(command, work))
