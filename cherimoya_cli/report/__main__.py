"""``python -m cherimoya_cli.report -p NAME.report.json``: write the HTML report of a run."""

from __future__ import annotations

import argparse
import sys

from cherimoya.errors import CherimoyaError
from cherimoya_cli.report import write_report


def main(argv: list[str] | None = None) -> int:
	"""Write the report that the arguments ask for; the exit code."""
	parser = argparse.ArgumentParser(
		prog="python -m cherimoya_cli.report", description="Write the HTML report of a run from the files that it left."
	)
	parser.add_argument("-p", "--parameters", required=True, metavar="JSON", help="settings; only `name` is needed")
	parser.add_argument(
		"--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting for this run"
	)
	args = parser.parse_args(argv)
	from cherimoya_cli.settings import load_settings
	from cherimoya_cli.utils import say

	try:
		settings = load_settings("report", args.parameters, overrides=args.set)
		path = write_report(settings.name)
	except CherimoyaError as error:
		print(f"cherimoya report: error: {error}", file=sys.stderr)
		return error.exit_code
	say(f"Wrote {path}")
	return 0


if __name__ == "__main__":
	try:
		sys.exit(main())
	except KeyboardInterrupt:
		sys.exit(130)
