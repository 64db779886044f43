"""Make the next items while the last ones are in use."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
_END = object()
_HANDOFF = 1e-4  # seconds, about, that it takes to get an item from another thread
_AT_ONCE = 8  # items asked for sooner than that in a row, after which the thread pauses


def prefetch(items: Iterable[Item], depth: int, *, clock: Callable[[], float] = time.perf_counter) -> Iterator[Item]:
	"""Yield the items, up to `depth` of which a thread makes ahead of their use; 0 makes each when it is asked for.

	What is yielded, and what is raised, is the same whatever the depth. Where the last items were in use for no time,
	by the clock, there is nothing to do meanwhile, and the next ones are made when they are asked for. A pass that is
	given up ends the thread.
	"""
	if not depth:
		yield from items
		return
	iterator = iter(items)
	pending: deque = deque()
	at_once = 0
	with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
		try:
			while True:
				item = pending.popleft().result() if pending else next(iterator, _END)
				if item is _END:
					return
				while at_once < _AT_ONCE and len(pending) < depth:
					pending.append(thread.submit(next, iterator, _END))
				began = clock()
				yield item
				at_once = at_once + 1 if clock() - began < _HANDOFF else 0
		finally:
			for future in pending:
				future.cancel()
