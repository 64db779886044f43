"""Time and match of `cherimoya negatives` beside the published package's command.

Both commands run as programs, start-up and imports included, in turn: ours, theirs, ours, … so that whatever else the
machine does falls on both alike. Medians are compared. How well GC content matches is measured here, from the files
alone, in the same way for both; `ours, 4 tilings` is the option for data whose background is short of some GC content::

	python benchmarks/negatives.py --peer-python PEER/bin/python

takes some minutes at its 100 Mb, and writes ``results/negatives.json``; `--size 20` is quicker. Without `--peer-python`
only ours is measured. The genome is synthetic (``make_genome.py``), or a real one, with `--fasta` and `--loci`.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from make_genome import Design, write

from cherimoya.io.genome import Genome
from cherimoya.io.loci import read_loci
from cherimoya.io.negatives import gc_content, ks_distance

WIDTH = 2114
LOCI_PER_MB = 50
RESULTS = Path(__file__).parent / "results"


class World(NamedTuple):
	"""The files of one experiment; the bigWig may be missing."""

	fasta: Path
	loci: Path
	bigwig: Path | None


def make_world(folder: Path, megabases: float) -> World:
	"""Write a synthetic experiment into a folder."""
	paths = write(Design(megabases=megabases, n_chroms=8, n_loci=int(megabases * LOCI_PER_MB)), folder)
	return World(Path(paths["genome"]), Path(paths["peaks"]), Path(paths["signals"][0][0]))


def gc_of_file(genome: Genome, path: Path) -> np.ndarray:
	"""GC content over `WIDTH` bp around the middles of the intervals of a BED file, known ones only, shape=(n,)."""
	loci = read_loci(path)
	starts = loci.starts + (loci.ends - loci.starts) // 2 - WIDTH // 2
	parts = []
	for chrom in genome.chrom_sizes:
		here = starts[loci.chroms == chrom]
		here = here[(here >= 0) & (here + WIDTH <= genome.chrom_sizes[chrom])]
		parts.append(gc_content(np.lib.stride_tricks.sliding_window_view(genome.codes(chrom), WIDTH)[here]))
	gc = np.concatenate(parts)
	return gc[~np.isnan(gc)]


def apart(function: Callable, *args: Any) -> Any:
	"""What a function returns, called in a process of its own.

	The largest memory that the system notes for a program is at least that of the process that starts it, which
	therefore has to stay small.
	"""
	with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
		return pool.submit(function, *args).result()


def run(command: list[str]) -> tuple[float, float]:
	"""Seconds, and the largest memory in MB, of a program; its output is shown when it fails."""
	start = time.perf_counter()
	process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
	output = process.stdout.read()
	_, status, usage = os.wait4(process.pid, 0)
	seconds = time.perf_counter() - start
	process.returncode = os.waitstatus_to_exitcode(status)
	if process.returncode:
		raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{output}")
	return seconds, usage.ru_maxrss / 1024


def commands_of(world: World, folder: Path, *, peer: str | None, bigwig: bool) -> dict[str, list[str]]:
	"""The command line of each side: its default settings."""
	shared = ["negatives", "-i", str(world.loci), "-f", str(world.fasta)]
	shared += ["-b", str(world.bigwig)] if bigwig else []
	ours = [sys.executable, "-m", "cherimoya_cli", *shared]
	found = {"ours": [*ours, "-o", str(folder / "ours.bed")]}
	if peer is not None:
		program = str(Path(peer).parent / "cherimoya")  # its console script
		found["published"] = [peer, program, *shared, "-o", str(folder / "published.bed")]
	found["ours, 4 tilings"] = [*ours, "--tilings", "4", "-o", str(folder / "ours, 4 tilings.bed")]
	return found


def measure(world: World, folder: Path, *, peer: str | None, bigwig: bool, repeats: int) -> dict[str, dict]:
	"""Medians and ranges of time, memory, and the match of GC content of each side."""
	commands = commands_of(world, folder, peer=peer, bigwig=bigwig)
	runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
	for _ in range(repeats):
		for name, command in commands.items():
			runs[name].append(run(command))
	genome = Genome(world.fasta)
	gc_loci = apart(gc_of_file, genome, world.loci)
	results = {}
	for name, measured in runs.items():
		seconds = [s for s, _ in measured]
		gc = apart(gc_of_file, genome, folder / f"{name}.bed")
		results[name] = {
			"seconds": statistics.median(seconds),
			"seconds_range": [min(seconds), max(seconds)],
			"peak_mb": max(mb for _, mb in measured),
			"loci": len(gc_loci),
			"found": len(gc),
			"ks": ks_distance(gc_loci, gc),
			"mean_gc_loci": float(gc_loci.mean()),
			"mean_gc": float(gc.mean()),
		}
	return results


def main() -> int:
	"""Make the genome, run both commands in turn, print and write the results."""
	parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
	parser.add_argument("--size", type=float, default=100, help="of the synthetic genome, in Mb (default 100)")
	parser.add_argument("--fasta", type=Path, help="a real genome instead; plain, with its index")
	parser.add_argument("--loci", type=Path, help="the loci in the real genome")
	parser.add_argument("--repeats", type=int, default=5, help="runs of each command (default 5)")
	parser.add_argument("--peer-python", help="Python of an environment that holds the published package")
	parser.add_argument("--json", type=Path, default=RESULTS / "negatives.json", help="where to write the results")
	args = parser.parse_args()
	record = {"repeats": args.repeats, "cores": os.cpu_count(), "python": platform.python_version()}
	record |= {"numpy": np.__version__, "cases": {}}
	with tempfile.TemporaryDirectory() as temporary:
		folder = Path(temporary)
		world = World(args.fasta, args.loci, None) if args.fasta else apart(make_world, folder, args.size)
		genome = Genome(world.fasta)  # makes the index, which both sides use
		record["genome"] = args.fasta.name if args.fasta else f"synthetic, {args.size:g} Mb"
		record["megabases"] = sum(genome.chrom_sizes.values()) / 1e6
		for case in ("sequence only", "with a bigWig")[: 2 if world.bigwig else 1]:
			bigwig = case == "with a bigWig"
			results = measure(world, folder, peer=args.peer_python, bigwig=bigwig, repeats=args.repeats)
			if "published" in results:
				results["ratio"] = results["ours"]["seconds"] / results["published"]["seconds"]
			record["cases"][case] = results
			show(case, results)
	args.json.write_text(json.dumps(record, indent="\t") + "\n", encoding="utf-8")
	return 0


def show(case: str, results: dict) -> None:
	"""Print one case as a table."""
	print(case)
	print(f"  {'':16}{'seconds':>9}{'range':>16}{'MB':>7}{'loci':>8}{'found':>8}{'KS':>8}")
	for name, row in results.items():
		if name == "ratio":
			print(f"  ours takes {row:.3f} of the published command's time")
			continue
		span = "{:.2f} to {:.2f}".format(*row["seconds_range"])
		numbers = f"{row['seconds']:9.2f}{span:>16}{row['peak_mb']:7.0f}{row['loci']:8,}{row['found']:8,}"
		print(f"  {name:16}{numbers}{row['ks']:8.4f}")


if __name__ == "__main__":
	sys.exit(main())
