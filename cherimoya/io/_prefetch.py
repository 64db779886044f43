"""Make the next items while the last ones are in use."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


def prefetch(items: Iterable[Item], depth: int) -> Iterator[Item]:
	"""Yield the items, up to `depth` of which a thread makes ahead of their use; 0 makes each when it is asked for.

	What is yielded, and what is raised, is the same whatever the depth. A pass that is given up ends the thread.
	"""
	if not depth:
		yield from items
		return
	iterator = iter(items)
	with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as thread:
		pending = deque(thread.submit(next, iterator, _END) for _ in range(depth))
		try:
			while (item := pending.popleft().result()) is not _END:
				pending.append(thread.submit(next, iterator, _END))
				yield item
		finally:
			for future in pending:
				future.cancel()
