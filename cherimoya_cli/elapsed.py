"""How long something has been at work that cannot say how far it is. Standard library alone."""

import sys
import threading
import time
from types import TracebackType
from typing import Any

from cherimoya_cli.utils import say

FIRST_SECONDS = 2.0
LINE_SECONDS = 60.0


class Elapsed:
	"""Says now and then, while its block runs, how long that has been: a bar on a terminal, lines elsewhere.

	Parameters
	----------
	what: str
		What is at work.
	shown: bool
		Whether to say anything. Default is True.
	"""

	def __init__(self, what: str, *, shown: bool = True) -> None:
		self.what, self.shown = what, shown
		self._over = threading.Event()
		self._thread = threading.Thread(target=self._tell, name="elapsed", daemon=True)

	def __enter__(self) -> "Elapsed":
		if self.shown:
			self._thread.start()
		return self

	def __exit__(
		self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
	) -> None:
		self._over.set()
		if self.shown:
			self._thread.join()

	def _tell(self) -> None:
		"""What the thread does."""
		started = time.monotonic()
		if sys.stderr.isatty():
			if not self._over.wait(FIRST_SECONDS):
				self._draw()
			return
		while not self._over.wait(LINE_SECONDS):
			minutes = round((time.monotonic() - started) / 60)
			say(f"{self.what}: at work for {minutes} minute{'s' * (minutes != 1)}")

	def _draw(self) -> None:
		"""A bar without an end, which shows the time."""
		from tqdm import tqdm

		bar: Any = tqdm(desc=self.what, bar_format="{desc}: at work for {elapsed}", initial=0, leave=False)
		while not self._over.wait(1.0):
			bar.refresh()
		bar.close()
