"""``cherimoya pipeline``: every step from reads to the report, each done once and redone only when it must be."""

import argparse
import fcntl
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cherimoya.errors import InputError
from cherimoya_cli.utils import output_folder, say, settings_from_args, warn, write_json

if TYPE_CHECKING:
	from collections.abc import Iterator

	from cherimoya_cli.plan import Status, Step
	from cherimoya_cli.preflight import Needs
	from cherimoya_cli.settings import PipelineSettings


class Failure(NamedTuple):
	"""A step that did not finish: its exit code, and the message for the user."""

	code: int
	message: str


def run(args: argparse.Namespace) -> int:
	"""Plan, check, run what is not up to date; returns the exit code."""
	from cherimoya_cli.plan import forecast, make_plan, names_without_step
	from cherimoya_cli.preflight import check_run, check_settings

	settings = settings_from_args("pipeline", args)
	check_settings(settings)
	steps = make_plan(settings)
	for text in names_without_step(settings):
		warn(f"note: {settings.source}: {text}")
	if settings.dry_run:
		dry_run(steps)
		return 0
	again = command_line(args)
	with only_one(settings.name):
		forecasts = forecast(steps, trust=settings.skip)
		say(header(settings, steps, forecasts))
		running = {name for name, status in forecasts.items() if status.run}
		if not running:
			say("Everything is up to date.")
			return 0
		needs = check_run(settings, steps, running)
		say(inputs_checked(needs))
		return execute(settings, steps, again)


def inputs_checked(needs: "Needs") -> str:
	"""What the checks have found; of the needs of steps that take little there is no estimate."""
	said = f"Inputs checked. Device: {needs.device}."
	if not needs.memory and not needs.disk:
		return said
	return f"{said} Needs, estimated: {_size(needs.memory)} of memory, {_size(needs.disk)} of disk."


def dry_run(steps: "Sequence[Step]") -> None:
	"""Write the settings of each step, and print the commands; standard output is a shell script that does the work."""
	from cherimoya_cli.process import shell_line

	for step in steps:
		output_folder(step.prefix).mkdir(parents=True, exist_ok=True)
		write_settings(step)
		say(f"# {step.name}: {step.title} -> {', '.join(step.outputs)}")
		say(shell_line(step.argv))


def write_settings(step: "Step") -> None:
	"""Write a step's resolved settings, unless the file holds them already."""
	import json

	try:
		known = json.loads(step.json_path.read_text(encoding="utf-8"))
	except (OSError, ValueError):
		known = None
	if known != step.settings:
		write_json(step.json_path, step.settings)


@contextmanager
def only_one(name: str) -> "Iterator[None]":
	"""Hold the lock of a run's name; InputError when another pipeline holds it. The lock ends with the process."""
	path = Path(f"{name}.pipeline.lock")
	with path.open("a") as handle:
		try:
			fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
		except BlockingIOError:
			raise InputError(
				f"{path}: another pipeline is at work on '{name}'; wait for it, end it, or choose another name"
			) from None
		yield


def command_line(args: argparse.Namespace) -> str:
	"""The command that this process was started with, to go on after an interruption."""
	from cherimoya_cli.process import shell_line

	words = ["cherimoya", "pipeline"] + (["-p", args.parameters] if args.parameters else [])
	return shell_line([*words, *(word for override in args.overrides for word in ("--set", override))])


def header(settings: "PipelineSettings", steps: "Sequence[Step]", forecasts: "dict[str, Status]") -> str:
	"""What will be done, and why."""
	lines = [f"Pipeline {settings.name} (device: {settings.device})"]
	width = max(len(step.name) for step in steps)
	for step in steps:
		status = forecasts[step.name]
		lines.append(f"  {step.name:<{width}}  {'run ' if status.run else 'skip'}  {status.why}")
	return "\n".join(lines)


def execute(settings: "PipelineSettings", steps: "Sequence[Step]", again: str) -> int:
	"""Run the steps in order; one that fails keeps only those that need it from running."""
	from cherimoya_cli.plan import dependencies, examine

	needed = dependencies(steps)
	failures: dict[str, Failure] = {}
	lost: dict[str, str] = {}  # a step that did not run: the failed step that it needs
	for number, step in enumerate(steps, start=1):
		title = f"[{number}/{len(steps)}] {step.name}"
		cause = next((lost.get(name, name) for name in needed[step.name] if name in failures or name in lost), None)
		if cause is not None:
			lost[step.name] = cause
			say(f"{title}: not run, because it needs {cause}, which failed")
			continue
		status = examine(step, trust=settings.skip)
		if not status.run:
			say(f"{title}: skipped, {status.why}")
			continue
		say(f"{title}: {step.title} ({status.why})")
		started = time.monotonic()
		failure = run_one(step, verbose=settings.verbose)
		seconds = time.monotonic() - started
		if failure is None:
			say(f"{title}: done in {_duration(seconds)}")
			continue
		if failure.code in (130, 143):
			warn(f"{title}: interrupted after {_duration(seconds)}; what was finished is kept. To go on:\n  {again}")
			return failure.code
		failures[step.name] = failure
		warn(f"{title}: failed after {_duration(seconds)}\n{failure.message}")
	if not failures:
		say(f"Done: {steps[-1].outputs[0]}")
		return 0
	names = ", ".join(failures)
	rest = f"; not run: {', '.join(lost)}" if lost else ""
	warn(
		f"cherimoya pipeline: error: failed: {names}{rest}. What was finished is kept; once mended, go on with:\n"
		f"  {again}"
	)
	return next(iter(failures.values())).code


def run_one(step: "Step", *, verbose: bool) -> Failure | None:
	"""Run one step as a process of its own; write its completion record, or say how it failed."""
	from cherimoya_cli.plan import completion_record, identify_inputs
	from cherimoya_cli.process import exit_code_of, how_it_ended, run_program, shell_line

	step.record_path.unlink(missing_ok=True)  # from here until it has finished, the step is not done
	write_settings(step)
	inputs = identify_inputs(step)
	missing = [path for path in step.inputs if inputs[path] is None]
	if missing:
		return Failure(3, f"  {', '.join(missing)}: no such file; it was there when the pipeline began")
	started = time.monotonic()
	finished = run_program(step.argv, log=step.log_path, echo=verbose)
	code = exit_code_of(finished)
	absent = [path for path in step.outputs if not Path(path).is_file()]
	if code == 0 and not absent:
		write_json(step.record_path, completion_record(step, inputs, time.monotonic() - started))
		return Failure(128 + finished.interrupted, "") if finished.interrupted else None
	if code in (130, 143):
		return Failure(code, "")
	what = how_it_ended(finished.code) if code else f"it ended well, but left no {', '.join(absent)}"
	quoted = "\n".join(f"    {line}" for line in finished.tail)
	message = (
		f"  {step.name} ({_tool(step)}) failed: {what}; its last lines were:\n{quoted}\n"
		f"  All it printed is in {step.log_path}. To run this step alone:\n    {shell_line(step.argv)}"
	)
	return Failure(code or 4, message)


def _tool(step: "Step") -> str:
	"""What a step runs, as a user knows it."""
	module = step.argv[step.argv.index("-m") + 1]
	return f"cherimoya {step.name}" if module == "cherimoya_cli" else f"python -m {module}"


def _duration(seconds: float) -> str:
	"""Seconds in words: ``"2 min 5 s"``."""
	if seconds < 60:
		return f"{seconds:.1f} s"
	minutes, rest = divmod(round(seconds), 60)
	hours, minutes = divmod(minutes, 60)
	return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _size(n: int) -> str:
	"""Bytes in GB or MB, of which 1 is the least."""
	return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{max(1, round(n / 1e6))} MB"
