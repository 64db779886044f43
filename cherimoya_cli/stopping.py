"""Stopping at a good moment: SIGINT and SIGTERM become a question that long work asks itself, with a time limit.

Imports the standard library alone.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

GRACE_SECONDS = 4.0
"""How long the work under way may take to come to a place where it can stop."""

LAST_SECONDS = 0.7
"""How much longer it may take to give up."""

in_command = False
"""Whether this process is a command, so that it is to end once it was asked to stop."""


class OutOfTime(BaseException):
	"""The work did not come to a place where it can stop, or the user asked twice."""


class StopRequest:
	"""Whether this process was asked to stop; call it to ask.

	Attributes
	----------
	number: int or None
		The signal that asked, if any.
	"""

	def __init__(self) -> None:
		self.number: int | None = None
		self._pid = os.getpid()
		self._asked, self._over = threading.Event(), threading.Event()

	def __call__(self) -> bool:
		"""Whether this process was asked to stop."""
		return self.number is not None

	@property
	def exit_code(self) -> int:
		"""128 and the signal's number."""
		return 128 + (self.number or signal.SIGINT)

	def ask(self, number: int, _frame: FrameType | None) -> None:
		"""Note a signal; a second one ends the work where it is. Processes forked from this one go on.

		SIGTERM may come several times: schedulers send it to all processes of a job, and those pass it on, too.
		"""
		if os.getpid() != self._pid:
			return
		if self.number is not None:
			if number == signal.SIGTERM:
				return
			raise OutOfTime
		self.number = number
		signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS)
		self._asked.set()

	def give_up(self, _number: int, _frame: FrameType | None) -> None:
		"""End the work where it is."""
		if os.getpid() == self._pid:
			raise OutOfTime

	def watch(self) -> None:
		"""End the process if it hears of no signal because it is inside of a long computation; runs in a thread."""
		self._asked.wait()
		if not self._over.wait(GRACE_SECONDS + LAST_SECONDS):
			os.write(2, b"\ncherimoya: stopped in the middle of a long computation; what was saved before is kept\n")
			leave_at_once(self.exit_code)

	def end(self) -> None:
		"""Let the watching thread go."""
		self._over.set()
		self._asked.set()


def leave_at_once(code: int) -> NoReturn:
	"""End this process and those that prepare its batches, without the seconds that taking leave of them may take."""
	multiprocessing = sys.modules.get("multiprocessing")
	for child in multiprocessing.active_children() if multiprocessing else ():
		child.kill()
	os._exit(code)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
	"""Let SIGINT and SIGTERM ask for a stop while the block runs.

	The block is to end soon after the request is true. If it has not within `GRACE_SECONDS`, or at a second SIGINT,
	`OutOfTime` is raised in it; and if it does not even hear of that, the process ends.

	Yields
	------
	request: StopRequest
	"""
	request = StopRequest()
	if threading.current_thread() is not threading.main_thread():  # Python lets no other thread hear signals
		yield request
		return
	handlers = {signal.SIGINT: request.ask, signal.SIGTERM: request.ask, signal.SIGALRM: request.give_up}
	before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
	threading.Thread(target=request.watch, name="stop", daemon=True).start()
	try:
		yield request
	finally:
		signal.setitimer(signal.ITIMER_REAL, 0)
		if request.number is None or not in_command:  # else the time limit holds for what is left to do at the end, too
			request.end()
		for number, handler in before.items():
			signal.signal(number, handler)


def leave_signals_to_parent(_worker: int = 0) -> None:
	"""Make a process that prepares batches deaf to what its parent hears too, and deals with."""
	for number in (signal.SIGINT, signal.SIGTERM):
		signal.signal(number, signal.SIG_IGN)


@contextmanager
def signals_heard() -> Iterator[list[int]]:
	"""The SIGINTs and SIGTERMs that this process gets while the block runs."""
	numbers: list[int] = []
	if threading.current_thread() is not threading.main_thread():  # Python lets no other thread hear signals
		yield numbers
		return
	before = {n: signal.signal(n, lambda got, _: numbers.append(got)) for n in (signal.SIGINT, signal.SIGTERM)}
	try:
		yield numbers
	finally:
		for number, handler in before.items():
			signal.signal(number, handler)
