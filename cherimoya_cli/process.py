"""Running other programs: their output to the user and to a file, signals passed on, none left behind."""

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import BinaryIO, NamedTuple

TAIL_LINES = 15
"""Lines of output that a failure quotes."""

_PR_SET_PDEATHSIG = 1  # Linux: the signal that a process gets when its parent dies


class Finished(NamedTuple):
	"""How a program ended: exit code (negative: killed by that signal), last lines, the signal we passed on."""

	code: int
	tail: list[str]
	interrupted: int | None


def shell_line(argv: Sequence[str]) -> str:
	"""A command as one line that a shell takes."""
	return shlex.join(str(word) for word in argv)


def _become(parent: int, argv: Sequence[str]) -> None:
	"""Turn this process into a program that ends when its parent is killed, so that no orphan goes on writing.

	Done in the new process rather than between fork and exec, which is not safe once threads run (as torch's do).
	"""
	if sys.platform == "linux":
		ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
		if os.getppid() != parent:  # it was killed already
			sys.exit(128 + signal.SIGTERM)
	os.execvp(argv[0], list(argv))


def run_program(
	argv: Sequence[str], *, log: str | Path | None = None, echo: bool = True, append: bool = False
) -> Finished:
	"""Run a program to its end, copying its output as it comes.

	The program runs in a session of its own; SIGINT and SIGTERM that reach this process are passed on to it,
	and it is waited for. If this process is killed outright, the program is ended too (on Linux).

	Parameters
	----------
	argv: sequence of str
		The program and its arguments; no shell is involved.
	log: path or None
		File that gets the output. Default is None.
	echo: bool
		Copy the output to stdout too. Default is True.
	append: bool
		Add to `log` rather than start it anew. Default is False.

	Returns
	-------
	finished: Finished
		Exit code, last lines of output, and the signal that was passed on, if any.

	Raises
	------
	FileNotFoundError
		There is no such program.
	"""
	program = shutil.which(str(argv[0]))
	if program is None:
		raise FileNotFoundError(f"{argv[0]}: no such program")
	passed_on: list[int] = []
	running: list[subprocess.Popen] = []

	def pass_on(number: int, _frame: FrameType | None) -> None:
		passed_on.append(number)
		for process in running:
			try:
				process.send_signal(number)  # not to its children: a program ends those itself
			except ProcessLookupError:
				pass

	# before the program starts, so that no signal falls between
	previous = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
	try:
		process = subprocess.Popen(
			[sys.executable, "-I", "-S", __file__, str(os.getpid()), program, *(str(word) for word in argv[1:])],
			stdout=subprocess.PIPE,
			stderr=subprocess.STDOUT,
			stdin=subprocess.DEVNULL,
			env={**os.environ, "PYTHONUNBUFFERED": "1"},
			start_new_session=True,
		)
		running.append(process)
		if passed_on:
			pass_on(passed_on.pop(), None)
		with process:
			try:
				tail = _copy_output(process.stdout, log=log, echo=echo, append=append)  # type: ignore[arg-type]
				code = process.wait()
			except BaseException:
				process.kill()
				raise
	finally:
		for number, handler in previous.items():
			signal.signal(number, handler)
	return Finished(code, tail, passed_on[0] if passed_on else None)


def _copy_output(stream: BinaryIO, *, log: str | Path | None, echo: bool, append: bool) -> list[str]:
	"""Copy a stream line by line; return its last lines."""
	tail: deque[str] = deque(maxlen=TAIL_LINES)
	handle = open(log, "ab" if append else "wb") if log is not None else None
	try:
		for line in stream:
			if handle is not None:
				handle.write(line)
				handle.flush()
			text = line.decode("utf-8", errors="replace")
			if echo:
				try:
					sys.stdout.write(text)
					sys.stdout.flush()
				except BrokenPipeError:  # nobody listens any more; the work goes on
					echo = False
			if text.strip():
				tail.append(text.rstrip().split("\r")[-1])
	finally:
		if handle is not None:
			handle.close()
	return list(tail)


def how_it_ended(code: int) -> str:
	"""The exit code of a program that failed, or the signal that ended it, for a message."""
	if code >= 0:
		return f"exit code {code}"
	try:
		name = signal.Signals(-code).name
	except ValueError:
		name = f"signal {-code}"
	return f"killed by {name}" + " (as the system does when memory runs out)" * (-code == signal.SIGKILL)


def exit_code_of(finished: Finished) -> int:
	"""The exit code to pass on: 130 or 143 if interrupted, the user's 2 or 3 as they are, else 4."""
	if finished.interrupted is not None and finished.code != 0:
		return 128 + finished.interrupted
	if finished.code in (130, 143):
		return finished.code
	if finished.code in (-signal.SIGINT, -signal.SIGTERM):
		return 128 - finished.code
	if finished.code in (0, 2, 3):
		return finished.code
	return 4


if __name__ == "__main__":
	_become(int(sys.argv[1]), sys.argv[2:])
