"""How much memory a job will take, and whether there is room for it beside those that run."""

import gzip
import os
from collections.abc import Mapping
from functools import cache

from cherimoya.io._files import GZIP_MAGIC, is_remote
from cherimoya_cli.batch.jobs import Job

GIGABYTE = 10**9

PROCESS_BYTES = 500 * 10**6
"""What a process takes that has imported torch, before it holds any data."""

GPU_BYTES = 1500 * 10**6
"""What a process takes on top of that once it uses a GPU."""

SPARE_BYTES = 500 * 10**6
"""What is left to the rest of the machine."""


def estimate_memory(job: Job, *, gpu: bool) -> int:
	"""Bytes that a job takes, from above: as a pipeline's preflight estimates it, and its processes.

	Parameters
	----------
	job: Job
		The job; its JSON is there.
	gpu: bool
		Whether it runs on a GPU, so that its activations do not count.
	"""
	from cherimoya_cli.plan import make_plan
	from cherimoya_cli.preflight import estimate_needs
	from cherimoya_cli.settings import SPLIT_LOCI, load_settings

	settings = load_settings("pipeline", job.json_path)
	steps = make_plan(settings)
	counts: dict[tuple[str, ...], int] = {}
	for step in steps:
		for key in ("loci", "negatives", *SPLIT_LOCI.values()):
			paths = tuple(step.settings.get(key) or ())
			if paths:
				counts[paths] = sum(count_rows(path) for path in paths)
	most = max(counts.values(), default=0)
	counts = {
		paths: n or most for paths, n in counts.items()
	}  # a file that a step will make, about as long as the others
	needs = estimate_needs(steps, "cuda" if gpu else "cpu", counts)
	workers = max((step.settings.get("num_workers", 0) for step in steps), default=0)
	# the pipeline itself imports torch for its preflight
	return needs.memory + PROCESS_BYTES * (2 + workers) + (GPU_BYTES if gpu else 0)


def count_rows(path: str) -> int:
	"""Lines of a text file, plain or gzipped, counted again if it changes; 0 if it is not there or is elsewhere."""
	if is_remote(path):
		return 0
	try:
		found = os.stat(path)
	except OSError:
		return 0
	return _count_rows(path, found.st_size, found.st_mtime_ns)


@cache
def _count_rows(path: str, size: int, changed: int) -> int:
	"""Lines of a file of a size that was changed at a time."""
	try:
		with open(path, "rb") as handle:
			zipped = handle.read(2) == GZIP_MAGIC
		with gzip.open(path, "rb") if zipped else open(path, "rb") as handle:
			rows = 0
			while block := handle.read(2**20):
				rows += block.count(b"\n")
			return rows
	except (OSError, EOFError):
		return 0


def resident_bytes(pids: Mapping[int, object] | set[int]) -> dict[int, int]:
	"""Bytes of memory that processes of this machine and all their descendants have now; 0 where that is not known."""
	page = os.sysconf("SC_PAGE_SIZE")
	parents, sizes = {}, {}
	try:
		names = [name for name in os.listdir("/proc") if name.isdigit()]
	except OSError:
		names = []
	for name in names:
		try:
			with open(f"/proc/{name}/stat", "rb") as handle:
				fields = handle.read().rpartition(b")")[2].split()
		except OSError:
			continue  # it has ended
		parents[int(name)], sizes[int(name)] = int(fields[1]), int(fields[21]) * page
	totals = dict.fromkeys(pids, 0)
	for pid, size in sizes.items():
		ancestor = pid
		while ancestor and ancestor not in totals:
			ancestor = parents.get(ancestor, 0)
		if ancestor in totals:
			totals[ancestor] += size
	return totals


def room_for(need: int, running: Mapping[int, int], *, free: int | None, limit: int | None) -> bool:
	"""Whether a job can be started beside those that run.

	What a running job will still claim of its estimate is set aside.

	Parameters
	----------
	need: int
		Bytes that the job takes.
	running: dict of int to int
		Bytes that each running job takes, by its process.
	free: int or None
		Bytes of memory that are free; None if unknown.
	limit: int or None
		Bytes that all jobs may take together; None for no limit.
	"""
	if not running:
		return True  # else it could never run; its own preflight says if the machine is too small
	if limit is not None and sum(running.values()) + need > limit:
		return False
	if free is None:
		return True
	has = resident_bytes(set(running))
	claims = sum(max(takes - has[pid], 0) for pid, takes in running.items())
	return need + claims + SPARE_BYTES <= free
