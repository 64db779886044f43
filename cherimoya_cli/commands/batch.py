"""``cherimoya batch``: many pipelines out of one JSON, run here or on a cluster, watched, repeated and summed up."""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from cherimoya.errors import SettingsError
from cherimoya_cli.utils import say, warn

if TYPE_CHECKING:
	from collections.abc import Callable

	from cherimoya_cli.batch.jobs import Job
	from cherimoya_cli.batch.planning import Plan

ACTIONS = {
	"run": "start what is not done, and go on with what was interrupted (the default)",
	"status": "show where each job is; works while they run",
	"retry": "run again what failed",
	"collect": "write the measures of all jobs as one table and one page",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
	"""The action and the flags of the command."""
	parser.add_argument(
		"action",
		nargs="?",
		choices=ACTIONS,
		default="run",
		help="; ".join(f"{name}: {text}" for name, text in ACTIONS.items()),
	)
	parser.add_argument("-n", "--name", metavar="NAME", help="the batch's name in place of its JSON (status, collect)")
	parser.add_argument(
		"--jobs", nargs="+", default=[], metavar="JOB", help="only these jobs: names, or patterns such as 'K562*'"
	)
	parser.add_argument("--state", nargs="+", default=[], metavar="STATE", help="status: only jobs in these states")
	parser.add_argument("--json", action="store_true", help="status: print JSON")
	parser.add_argument("--dry-run", action="store_true", help="run, retry: print the commands, and run nothing")
	shared = "All other keys are those of a pipeline, and hold for all jobs: see 'cherimoya pipeline --help'."
	parser.epilog = f"{parser.epilog or ''}{shared}"


def run(args: argparse.Namespace) -> int:
	"""Do what the action says; returns the exit code."""
	_check_arguments(args)
	return {"run": run_jobs, "retry": retry, "status": status, "collect": collect}[args.action](args)


def _check_arguments(args: argparse.Namespace) -> None:
	"""SettingsError for flags that the action does not read."""
	looks = args.action in ("status", "collect")
	unread = {
		"--name": args.name is not None and not looks,
		"--state": bool(args.state) and args.action != "status",
		"--json": args.json and args.action != "status",
		"--dry-run": args.dry_run and looks,
	}
	for flag in (flag for flag, given in unread.items() if given):
		raise SettingsError(f"'batch {args.action}' does not read {flag}; leave it out")


# ---- run and retry ----------------------------------------------------------------------------------


def run_jobs(args: argparse.Namespace) -> int:
	"""Plan, check, and run what is due."""
	from cherimoya_cli.batch.planning import digests_of
	from cherimoya_cli.batch.records import DONE, FAILED, is_due, read_record

	plan, jobs = _plan(args)
	digests = digests_of(plan)
	records = {job.name: read_record(job) for job in jobs}
	due = [job for job in jobs if is_due(records[job.name], digests[job.name])]
	names = {job.name for job in due}
	counts = Counter("due" if job.name in names else records[job.name].state for job in jobs)
	text = f"{len(jobs)} jobs, {counts[DONE]} done, {counts[FAILED]} failed earlier, {len(due)} to run"
	return _execute(plan, due, args, text) or (4 if counts[FAILED] else 0)


def retry(args: argparse.Namespace) -> int:
	"""Run again what failed or was lost, of the jobs chosen."""
	from cherimoya_cli.batch.planning import digests_of
	from cherimoya_cli.batch.records import FAILED, LOST, RUNNING, is_alive, is_due, read_record, reset

	plan, jobs = _plan(args)
	records = {job.name: read_record(job) for job in jobs}
	failed = {name for name, record in records.items() if record.state == FAILED}
	again = [
		job
		for job in jobs
		if (record := records[job.name]).state in (FAILED, LOST)
		or (record.state == RUNNING and not is_alive(job, record))
	]
	needed = {job.preparation for job in again} - {None, *again}
	digests = digests_of(plan) if needed else {}
	due = {job for job in needed if is_due(records[job.name], digests[job.name])}
	again = [job for job in jobs if job in due.union(again)]

	def let_wait() -> None:
		for job in again:
			if job.name in failed:
				reset(job)

	return _execute(plan, again, args, f"{len(again)} failed jobs to run again", let_wait)


def _plan(args: argparse.Namespace) -> "tuple[Plan, list[Job]]":
	"""The checked batch, and the jobs chosen of it, with those that prepare them."""
	from cherimoya_cli.batch.jobs import select
	from cherimoya_cli.batch.planning import make_plan

	if args.parameters is None:
		raise SettingsError(f"'batch {args.action}' needs the JSON of the batch; name it with -p FILE")
	plan = make_plan(args.parameters, args.overrides)
	for notice in plan.settings.notices:
		warn(f"note: {args.parameters}: {notice}")
	jobs = [planned.job for planned in plan.jobs]
	chosen = set(select(jobs, args.jobs))
	chosen |= {job.preparation for job in chosen}
	return plan, [job for job in jobs if job in chosen]


def _execute(
	plan: "Plan", jobs: "list[Job]", args: argparse.Namespace, text: str, prepare: "Callable[[], None] | None" = None
) -> int:
	"""Run jobs, or print their commands; nothing is written before the executor is known to work."""
	from cherimoya_cli.batch.attempt import command_of
	from cherimoya_cli.batch.executors import make_executor
	from cherimoya_cli.batch.planning import index_genomes, write_jobs
	from cherimoya_cli.process import shell_line

	text = f"Batch {plan.settings.name}: {text}"
	if args.dry_run or plan.dry_run:
		write_jobs(plan)
		say(f"# {text}")
		for part in ([job for job in jobs if job.prepares], [job for job in jobs if not job.prepares]):
			if part and part[0].prepares:
				say("# These make what several folds need; run them before the others:")
			for job in part:
				say(shell_line(command_of(job)))
		return 0
	say(text)
	code = 0
	if jobs:
		executor = make_executor(plan.settings, plan.device)
		executor.check()
		write_jobs(plan)
		index_genomes(plan)
		if prepare is not None:
			prepare()
		code = executor.run(jobs)
	_conclude(plan, args)
	return code


def _conclude(plan: "Plan", args: argparse.Namespace) -> None:
	"""Say how many jobs are in each state, and what to do next."""
	from cherimoya_cli.batch.records import DONE, FAILED, LOST, STOPPED, WAITING
	from cherimoya_cli.batch.status import read_rows, summary
	from cherimoya_cli.process import shell_line

	rows = read_rows([planned.job for planned in plan.jobs])
	say(summary(rows))
	states = {row.state for row in rows}

	def again(action: str, *words: str) -> str:
		overrides = [word for override in args.overrides for word in ("--set", override)]
		return shell_line(["cherimoya", "batch", action, "-p", args.parameters, *overrides, *words])

	if FAILED in states:
		warn(f"Some jobs failed. To see why: {again('status', '--state', FAILED)}; to run them again: {again('retry')}")
	if states & {STOPPED, LOST, WAITING}:
		say(f"To go on: {again('run')}")
	if states == {DONE}:
		say(f"Next: {again('collect')}")


# ---- status and collect -----------------------------------------------------------------------------


def status(args: argparse.Namespace) -> int:
	"""Print where each job is."""
	from cherimoya_cli.batch.jobs import read_index, select
	from cherimoya_cli.batch.records import STATES
	from cherimoya_cli.batch.status import read_rows, summary, table

	for state in args.state:
		if state not in STATES:
			raise SettingsError(f"--state {state}: there is no such state; choose from {', '.join(STATES)}")
	rows = read_rows(select(read_index(_name(args)), args.jobs))
	shown = [row for row in rows if not args.state or row.state in args.state]
	if args.json:
		say(json.dumps([row._asdict() for row in shown], indent="\t", allow_nan=False))
		return 0
	if shown:
		say(table(shown))
	say(summary(rows))
	return 0


def collect(args: argparse.Namespace) -> int:
	"""Join what all jobs have measured."""
	from cherimoya_cli.batch.cohort import collect as collect_all
	from cherimoya_cli.batch.jobs import read_index, select

	name = _name(args)
	models = [job for job in read_index(name) if not job.prepares]
	for path in collect_all(name, select(models, args.jobs)):
		say(f"Wrote {path}")
	return 0


def _name(args: argparse.Namespace) -> str:
	"""The batch's name, from the flag or from the JSON, without the seconds that checking all of it may take."""
	if args.name is not None:
		if args.parameters is not None:
			raise SettingsError("--name and -p both name a batch; leave one of them out")
		return args.name
	if args.parameters is None:
		raise SettingsError(
			f"'batch {args.action}' needs to know which batch; name its JSON with -p, or the batch with --name"
		)
	try:
		content = json.loads(Path(args.parameters).read_text(encoding="utf-8-sig"))
		name = content.get("name", "cherimoya")
	except (OSError, ValueError, AttributeError):
		name = None
	if args.overrides or not isinstance(name, str) or not name:
		from cherimoya_cli.settings import load_settings

		return load_settings("batch", args.parameters, args.overrides).name
	return name
