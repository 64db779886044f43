"""Work spread over processes: this one, and others.

The others are new interpreters that import what the work needs and nothing else: neither the caller's main module,
which may start everything anew, nor its threads and GPU, which a forked process cannot use. They end with their parent.
"""

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from cherimoya.errors import ToolError

_PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from cherimoya.io._workers import serve; serve()"


def n_cores() -> int:
	"""The cores that this process may use."""
	return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def spread(work: Callable[[Any], Any], tasks: Sequence[Any], workers: int) -> Iterator[tuple[int, Any]]:
	"""Yield (i, work(tasks[i])) as results come, in any order; this process works too, while the others start.

	Parameters
	----------
	work: callable
		What pickle can carry: a function of a module, or a partial of one.
	tasks: sequence
		Its arguments, one call each; what pickle can carry.
	workers: int
		Processes, this one among them.

	Raises
	------
	ToolError
		A process died. What `work` raises is raised here.
	"""
	todo: queue.SimpleQueue = queue.SimpleQueue()
	done: queue.SimpleQueue = queue.SimpleQueue()
	for i, task in enumerate(tasks):
		todo.put((i, task))
	children = [_child() for _ in range(min(workers, len(tasks)) - 1)]
	setup = pickle.dumps(work) if children else b""
	threads = [threading.Thread(target=_feed, args=(child, setup, todo, done), daemon=True) for child in children]
	try:
		for thread in threads:
			thread.start()
		for _ in tasks:
			i, error, value = _next(work, todo, done)
			if error is not None:
				raise error
			yield i, value
	finally:
		for child in children:
			child.kill()  # they hold nothing that has to be saved
		for child, thread in zip(children, threads, strict=True):
			thread.join()
			child.wait()
			for pipe in (child.stdin, child.stdout):
				with suppress(OSError):  # a task that nobody takes any more
					pipe.close()


def _child() -> subprocess.Popen:
	"""A process that waits for work."""
	return subprocess.Popen(
		[sys.executable, "-c", _PROGRAM, *map(os.path.abspath, sys.path)],
		stdin=subprocess.PIPE,
		stdout=subprocess.PIPE,
		env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
	)


def _next(
	work: Callable[[Any], Any], todo: queue.SimpleQueue, done: queue.SimpleQueue
) -> tuple[int, Exception | None, Any]:
	"""The number of a task, its error if there was one, and its result: of another process, or else made here."""
	with suppress(queue.Empty):
		return done.get_nowait()
	try:
		i, task = todo.get_nowait()
	except queue.Empty:
		return done.get()
	return i, None, work(task)


def _feed(child: subprocess.Popen, setup: bytes, todo: queue.SimpleQueue, done: queue.SimpleQueue) -> None:
	"""Hand tasks to a process one by one until none is left."""
	i = -1
	try:
		child.stdin.write(setup)
		while True:
			try:
				i, task = todo.get_nowait()
			except queue.Empty:
				return
			pickle.dump(task, child.stdin)
			child.stdin.flush()
			done.put((i, *pickle.load(child.stdout)))
	except (OSError, EOFError, ValueError, pickle.UnpicklingError):
		status = child.wait()
		done.put(
			(i, ToolError(f"a process that reads data died (status {status}); it may have run out of memory"), None)
		)


def serve() -> None:
	"""What a process does: read the work, then tasks, from stdin, and write (error, result) of each to stdout."""
	signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
	source = sys.stdin.buffer
	with os.fdopen(os.dup(1), "wb") as sink:
		os.dup2(2, 1)  # whatever libraries print must not come between
		try:
			work = pickle.load(source)
			while True:
				task = pickle.load(source)
				try:
					reply = (None, work(task))
				except Exception as error:
					reply = (error, None)
				pickle.dump(reply, sink)
				sink.flush()
		except (EOFError, BrokenPipeError):
			os._exit(0)
