"""Two installed packages of one name, each in a process of its own, that take turns at the same work.

A benchmark is one script. Started by a user it is the parent, which starts itself once for each package with that
package's Python; there it is a worker, which answers the parent's requests one at a time and sleeps in between. So
both packages meet the same machine at about the same time, and neither runs while the other is measured.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).parent / "results"

Tasks = dict[str, Callable[..., dict[str, Any]]]
Answers = dict[str, dict[str, list[float]]]


class Side(NamedTuple):
	"""One of the packages that are compared.

	Attributes
	----------
	name: str
		``"ours"``, ``"peer"`` or ``"peer compiled"``.
	python: str
		The interpreter that has the package.
	compiled: bool
		Whether its models run through torch.compile.
	"""

	name: str
	python: str
	compiled: bool = False


class Worker:
	"""A process that runs the tasks of a benchmark with one package; a context manager, which ends it."""

	def __init__(self, side: Side, script: str, *, threads: int, folder: Path) -> None:
		self.side = side
		arguments = [
			side.python,
			"-W",
			"ignore",
			os.path.abspath(script),
			"--worker",
			side.name,
			"--threads",
			str(threads),
		]
		environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
		environment.pop("PYTHONPATH", None)
		self._process = subprocess.Popen(
			arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder, env=environment
		)

	def __enter__(self) -> "Worker":
		return self

	def __exit__(self, *_: Any) -> None:
		self._process.stdin.close()
		self._process.stdout.close()
		self._process.wait()

	def ask(self, task: str, **arguments: Any) -> dict[str, Any]:
		"""The answer to one task; RuntimeError, with what went wrong there, if it failed."""
		try:
			self._process.stdin.write(json.dumps([task, arguments]) + "\n")
			self._process.stdin.flush()
			line = self._process.stdout.readline()
		except BrokenPipeError:
			line = ""
		if not line:
			raise RuntimeError(f"{self.side.name}: the process ended during '{task}'; its messages are above")
		answer = json.loads(line)
		if "error" in answer:
			raise RuntimeError(f"{self.side.name}: {task}: {answer['error']}")
		return answer


def serve(tasks: Tasks) -> None:
	"""Answer the parent's requests until it closes the pipe; whatever a package prints goes to stderr."""
	answers = os.fdopen(os.dup(1), "w")
	os.dup2(2, 1)
	for line in sys.stdin:
		task, arguments = json.loads(line)
		try:
			answer = tasks[task](**arguments)
		except Exception as error:  # the parent reports it, whatever it is
			answer = {"error": f"{type(error).__name__}: {error}"}
		answers.write(json.dumps(answer) + "\n")
		answers.flush()


def take_turns(workers: Iterable[Worker], task: str, rounds: int, **arguments: Any) -> Answers:
	"""Every number that each worker answers in each round, by worker and by name; the first to go changes."""
	workers = list(workers)
	answers: Answers = {w.side.name: {} for w in workers}
	for turn in range(rounds):
		first = turn % len(workers)
		for worker in workers[first:] + workers[:first]:
			for name, value in worker.ask(task, **arguments).items():
				answers[worker.side.name].setdefault(name, []).append(value)
	return answers


def able(workers: Iterable[Worker], task: str, **arguments: Any) -> list[Worker]:
	"""The workers that can do a task, each of which has done it once then; only a compiled model may be unable to."""
	found = []
	for worker in workers:
		try:
			worker.ask(task, **arguments)
		except RuntimeError as error:
			if not worker.side.compiled:
				raise
			print(f"left out: {str(error).splitlines()[0]}", file=sys.stderr)
			continue
		found.append(worker)
	return found


def medians(answers: Answers) -> dict[str, dict[str, float]]:
	"""The median over rounds of every number."""
	return {side: {name: statistics.median(v) for name, v in values.items()} for side, values in answers.items()}


def parser(description: str, results: str) -> argparse.ArgumentParser:
	"""The options that the benchmarks share."""
	options = argparse.ArgumentParser(description=description.split("\n")[0])
	options.add_argument("--peer-python", help="a Python that has the published package (required)")
	options.add_argument("--threads", type=int, default=os.cpu_count())
	options.add_argument("--rounds", type=int, default=3, help="turns of each package; medians are compared")
	options.add_argument("--no-compile", action="store_true", help="leave out the peer under torch.compile")
	options.add_argument("--json", type=Path, default=RESULTS / results, help="where the results go")
	options.add_argument("--worker", help=argparse.SUPPRESS)
	return options


def sides(peer_python: str, *, compiled: bool) -> list[Side]:
	"""Ours and the published package, the latter once more through torch.compile, its default, where that is wanted."""
	both = [Side("ours", sys.executable), Side("peer", peer_python)]
	return [*both, Side("peer compiled", peer_python, compiled=True)] if compiled else both


def machine(threads: int, versions: dict[str, str]) -> dict[str, Any]:
	"""What the numbers depend on besides the code."""
	model = ""
	if Path("/proc/cpuinfo").is_file():
		lines = Path("/proc/cpuinfo").read_text().splitlines()
		model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
	load = [round(v, 2) for v in os.getloadavg()] if hasattr(os, "getloadavg") else None
	return {
		"processor": model or platform.machine(),
		"threads": threads,
		"load_average_at_end": load,
		"python": platform.python_version(),
		**versions,
	}


def write(path: Path, record: dict[str, Any]) -> None:
	"""The record as JSON at the path."""
	path.parent.mkdir(parents=True, exist_ok=True)
	path.write_text(json.dumps(record, indent="\t") + "\n")
