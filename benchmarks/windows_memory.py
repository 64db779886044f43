"""How much memory it takes to load the windows of many loci through the cache.

Writes a synthetic experiment (``make_genome.py``), loads its windows into a new cache, opens them again in a new
process, and gathers batches of them at random. Memory is what processes have for themselves (RssAnon, the parent and
the processes that read added up, every 50 ms); files that are mapped into memory are not in it, since the system takes
that memory back whenever it is needed::

	python benchmarks/windows_memory.py

loads 300,000 loci of 4 tracks with 2,114 and 1,000 bp and a jitter of 500 bp, in some minutes with 8 GB of disk, and
writes ``results/windows_memory.json``. `--loci 20000 --megabases 40` is quicker; `--folder` keeps the experiment. A
genome and tracks as large as a human's, in a quarter of an hour with 12 GB of disk and 2 GB of memory to make them::

	python benchmarks/windows_memory.py --megabases 3000 --chroms 20 --background 10 \
		--output benchmarks/results/windows_memory_3gb.json
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from itertools import chain
from pathlib import Path
from typing import Any

from make_genome import Design, write

RESULTS = Path(__file__).parent / "results"
WIDTHS = {"in_window": 2114, "out_window": 1000, "max_jitter": 500}
BATCHES, BATCH = 200, 64


class Memory:
	"""The largest memory of this process and its children meanwhile; a context manager."""

	def __init__(self, pause: float = 0.05) -> None:
		self.own = self.all = 0
		self._pause, self._stop = pause, threading.Event()
		self._thread = threading.Thread(target=self._watch, daemon=True)

	def __enter__(self) -> "Memory":
		self._thread.start()
		return self

	def __exit__(self, *_: object) -> None:
		self._stop.set()
		self._thread.join()
		self._look()

	def _watch(self) -> None:
		while not self._stop.wait(self._pause):
			self._look()

	def _look(self) -> None:
		"""Note how much there is now."""
		own, *children = [anonymous(pid) for pid in (os.getpid(), *children_of(os.getpid()))]
		self.own, self.all = max(self.own, own), max(self.all, own + sum(children))


def children_of(pid: int) -> list[int]:
	"""The processes that a process has started."""
	found = []
	for task in Path(f"/proc/{pid}/task").iterdir():
		try:
			found += map(int, (task / "children").read_text().split())
		except OSError:  # the thread has ended
			continue
	return found


def anonymous(pid: int) -> int:
	"""Bytes of RssAnon of a process, 0 if it has ended."""
	try:
		lines = Path(f"/proc/{pid}/status").read_text().splitlines()
	except OSError:
		return 0
	return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def load(paths: dict[str, Any], folder: Path, workers: int | None) -> dict[str, Any]:
	"""Load the windows, and gather batches; seconds and memory of both."""
	import numpy as np

	from cherimoya.io import estimate_bytes, extract_windows

	tracks = sum(map(len, paths["signals"]))
	n_loci = Path(paths["peaks"]).read_bytes().count(b"\n")
	readers = workers or len(os.sched_getaffinity(0))
	expected = estimate_bytes(n_loci, n_signals=tracks, cache=folder, workers=readers, **WIDTHS)
	started = time.perf_counter()
	with Memory() as memory:
		windows = extract_windows(
			paths["peaks"],
			paths["genome"],
			paths["signals"],
			summits=True,
			drop_outliers=True,
			cache=folder,
			workers=workers,
			**WIDTHS,
		)
	seconds = time.perf_counter() - started
	found = {"seconds": round(seconds, 2), "own_anonymous": memory.own, "anonymous": memory.all}
	rng = np.random.default_rng(0)
	with Memory() as memory:
		total = 0.0
		for _ in range(BATCHES):
			rows = rng.integers(0, len(windows), BATCH)
			total += float(windows.y(rows).sum()) + float(windows.X(rows).sum())
	return {
		**found,
		"batches_own_anonymous": memory.own,
		"kept": len(windows),
		"signals": str(windows.signals.dtype),
		"array_bytes": windows.codes.nbytes + windows.signals.nbytes,
		"float32_bytes": windows.codes.size + 4 * windows.signals.size,
		"estimated_memory": expected.memory,
		"estimated_disk": expected.disk,
		"cache_bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
		"checksum": total,
	}


def in_a_new_process(paths: dict[str, Any], folder: Path, workers: int | None) -> dict[str, Any]:
	"""What `load` finds in a process of its own, whose memory holds nothing else."""
	request = json.dumps([paths, str(folder), workers])
	command = [sys.executable, os.path.abspath(__file__), "--worker", request]
	return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def main() -> None:
	"""Measure, print, and write the result."""
	parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
	parser.add_argument("--loci", type=int, default=300_000)
	parser.add_argument("--megabases", type=float, default=600)
	parser.add_argument("--chroms", type=int, default=8, help="20 and 3000 megabases make chromosomes as a human's")
	parser.add_argument("--groups", type=int, default=2, help="stranded experiments, two tracks each")
	parser.add_argument("--background", type=float, default=2, help="reads of an experiment for each kb of the genome")
	parser.add_argument("--workers", type=int, help="processes that read (default one a core)")
	parser.add_argument("--folder", help="where the experiment is kept, and found again (default a temporary folder)")
	parser.add_argument("--output", default=str(RESULTS / "windows_memory.json"))
	parser.add_argument("--worker", help=argparse.SUPPRESS)
	args = parser.parse_args()
	if args.worker:
		paths, folder, workers = json.loads(args.worker)
		print(json.dumps(load(paths, Path(folder), workers)))
		return
	with tempfile.TemporaryDirectory() as temporary:
		folder = Path(args.folder or temporary)
		paths = experiment(folder, args)
		cache = folder / "cache"
		shutil.rmtree(cache, ignore_errors=True)
		cold = in_a_new_process(paths, cache, args.workers)
		again = in_a_new_process(paths, cache, args.workers)
		shutil.rmtree(cache)
	if cold["checksum"] != again["checksum"]:
		raise SystemExit("the windows from the cache are not those that were put there")
	result = {
		"loci": args.loci,
		"tracks": 2 * args.groups,
		"megabases": args.megabases,
		"widths": WIDTHS,
		"input_bytes": sum(os.path.getsize(path) for path in (paths["genome"], *chain(*paths["signals"]))),
		"batches": [BATCHES, BATCH],
		"cores": len(os.sched_getaffinity(0)),
		"python": platform.python_version(),
		"cold": cold,
		"again": again,
	}
	Path(args.output).write_text(json.dumps(result, indent="\t") + "\n")
	for name, found in (("cold", cold), ("from the cache", again)):
		print(
			f"{name}: {found['seconds']:.1f} s, at most {found['anonymous'] / 2**20:,.0f} MiB in all processes, "
			f"{found['own_anonymous'] / 2**20:,.0f} MiB in the main one, "
			f"{found['batches_own_anonymous'] / 2**20:,.0f} MiB while batches are gathered"
		)
	print(f"arrays: {cold['array_bytes'] / 2**20:,.0f} MiB; as float32 {cold['float32_bytes'] / 2**20:,.0f} MiB")
	print(
		f"estimated before: at most {cold['estimated_memory'] / 2**20:,.0f} MiB of memory and "
		f"{cold['estimated_disk'] / 2**20:,.0f} MiB of disk; taken: {cold['cache_bytes'] / 2**20:,.0f} MiB of disk"
	)


def experiment(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
	"""The paths of the experiment, which is made unless the folder holds it already."""
	known = folder / "paths.json"
	wanted = [args.loci, args.megabases, args.chroms, args.groups, args.background]
	if known.is_file():
		made, paths = json.loads(known.read_text())
		if made == wanted:
			return paths
	design = Design(
		megabases=args.megabases,
		n_chroms=args.chroms,
		n_loci=args.loci,
		negatives_per_locus=0.1,
		n_groups=args.groups,
		background=args.background,
		stranded=True,
	)
	paths = write(design, folder)
	known.write_text(json.dumps([wanted, paths]))
	return paths


if __name__ == "__main__":
	main()
