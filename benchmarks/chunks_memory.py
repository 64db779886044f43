"""How much memory ``predict`` and ``attribute`` take for few and for many loci, and what an interruption costs.

Writes a synthetic experiment (``make_genome.py``) and a very small model, so that what is measured is the handling of
the results and not the model. Runs both commands on a part of the loci and on all of them; ``predict`` over a part of
the genome, in tiles, and over four times as much; then ``predict`` on all loci again, killed (SIGKILL) once half of its
chunks are there, and started again. Memory is what processes have for
themselves (RssAnon, the command and those it starts added up, every 20 ms); files that are mapped into memory are not
in it, since the system takes that memory back whenever it is needed::

	python benchmarks/chunks_memory.py

takes some minutes and 1 GB of disk, and writes ``results/chunks_memory.json``. `--loci 2000 8000` is quicker.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from make_genome import Design, write
from windows_memory import anonymous, children_of

RESULTS = Path(__file__).parent / "results"
COMMANDS: dict[str, dict[str, Any]] = {
	"predict": {},
	"attribute": {"algorithm": "deep_lift_shap", "references": "zeros"},
}
PAUSE = 0.02
WIDTHS = {"in_window": 500, "out_window": 400}  # short, as the model is no part of what is measured


def memory_of(pid: int) -> int:
	"""Bytes of RssAnon of a process and of all that it has started."""
	try:
		return anonymous(pid) + sum(map(memory_of, children_of(pid)))
	except OSError:  # it has ended
		return 0


def run(
	command: str, settings: dict[str, Any], *, kill: Callable[[], bool] = lambda: False, code: int = 0
) -> dict[str, Any]:
	"""Run a command, unless it is to be killed; its seconds, and the most memory that it took."""
	path = Path(f"{settings['name']}.{command}.json")
	path.write_text(json.dumps(settings))
	started, largest = time.perf_counter(), 0
	argv = [sys.executable, "-m", "cherimoya_cli", command, "-p", str(path)]
	process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
	while process.poll() is None:
		largest = max(largest, memory_of(process.pid))
		if kill():
			process.send_signal(signal.SIGKILL)
		time.sleep(PAUSE)
	if process.returncode != code:
		raise SystemExit(f"{command} ended with exit code {process.returncode}")
	return {"seconds": round(time.perf_counter() - started, 2), "anonymous": largest}


def measure(folder: Path, loci: list[int], megabases: float) -> dict[str, Any]:
	"""Make the experiment and run everything."""
	from cherimoya import Cherimoya

	paths = write(Design(megabases=megabases, n_loci=loci[-1], negatives_per_locus=0), folder)
	Cherimoya(n_filters=4, n_layers=1, trimming=(WIDTHS["in_window"] - WIDTHS["out_window"]) // 2, random_state=0).save(
		folder / "model.torch"
	)
	lines = Path(paths["peaks"]).read_text().splitlines(keepends=True)
	common = {
		"sequences": paths["genome"],
		"model": str(folder / "model.torch"),
		"cache": str(folder / "cache"),
		"device": "cpu",
		"verbose": False,
		**WIDTHS,
	}
	runs = []
	for n in loci:
		bed = folder / f"{n}.narrowPeak"
		bed.write_text("".join(lines[:n]))
		for command, changes in COMMANDS.items():
			settings = {"name": str(folder / f"{command}_{n}"), "loci": str(bed), **common, **changes}
			run(
				command, {**settings, "shard": f"1/{len(lines)}"}
			)  # fills the cache of windows, which is measured elsewhere
			found = run(command, settings)
			results = sum(
				path.stat().st_size for path in folder.glob(f"{command}_{n}.*") if path.suffix in (".npz", ".bw")
			)
			runs.append({"command": command, "loci": n, **found, "result_bytes": results})
	regions = [predict_region(common, folder, name, size // part) for name, size in longest(paths) for part in (4, 1)]
	return {
		"runs": runs,
		"regions": regions,
		"killed": kill_and_go_on(folder, settings_of_last(common, folder, loci[-1]), runs),
	}


def longest(paths: dict[str, str]) -> list[tuple[str, int]]:
	"""The name and the size of the longest chromosome."""
	lines = (line.split("\t") for line in Path(f"{paths['genome']}.fai").read_text().splitlines())
	return [max(((name, int(size)) for name, size, *_ in lines), key=lambda chrom: chrom[1])]


def predict_region(common: dict[str, Any], folder: Path, chrom: str, size: int) -> dict[str, Any]:
	"""Predict the beginning of a chromosome in tiles."""
	name = folder / f"region_{size}"
	found = run("predict", {**common, "name": str(name), "regions": [f"{chrom}:0-{size}"]})
	n_tiles = len(Path(f"{name}.predictions.tsv").read_text().splitlines()) - 1
	return {"bases": size, "tiles": n_tiles, **found, "result_bytes": Path(f"{name}.predictions.bw").stat().st_size}


def settings_of_last(common: dict[str, Any], folder: Path, n: int) -> dict[str, Any]:
	"""Settings of ``predict`` on all loci under another name."""
	return {**common, "name": str(folder / "killed"), "loci": str(folder / f"{n}.narrowPeak")}


def kill_and_go_on(folder: Path, settings: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
	"""Kill ``predict`` once half of the chunks are there, start it again, and compare with the whole run."""
	import numpy as np

	n = runs[-1]["loci"]
	parts = folder / "killed.predictions.parts"
	chunk = 4_096
	wanted = -(-n // chunk) // 2
	first = run("predict", settings, kill=lambda: len(list(parts.glob("*.npz"))) >= wanted, code=-signal.SIGKILL)
	kept = len(list(parts.glob("*.npz")))
	second = run("predict", settings)
	with (
		np.load(folder / "killed.predictions.npz") as found,
		np.load(folder / f"predict_{n}.predictions.npz") as expected,
	):
		same = all(found[name].tobytes() == expected[name].tobytes() for name in expected.files)
	if not same:
		raise SystemExit("the run that was killed and gone on with has other results")
	return {"chunks": -(-n // chunk), "kept": kept, "first": first, "second": second, "same": same}


def main() -> None:
	"""Measure, print, and write the result."""
	parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
	parser.add_argument("--loci", type=int, nargs=2, default=[8_000, 32_000], help="few, and many")
	parser.add_argument("--megabases", type=float, default=40)
	parser.add_argument("--output", default=str(RESULTS / "chunks_memory.json"))
	args = parser.parse_args()
	with tempfile.TemporaryDirectory() as temporary:
		result = measure(Path(temporary), sorted(args.loci), args.megabases)
	result["widths"] = WIDTHS
	result["cores"] = len(os.sched_getaffinity(0))
	Path(args.output).write_text(json.dumps(result, indent="\t") + "\n")
	for found in result["runs"]:
		print(
			f"{found['command']}, {found['loci']:,} loci: {found['seconds']:.0f} s, at most "
			f"{found['anonymous'] / 2**20:,.0f} MiB; results of {found['result_bytes'] / 2**20:,.0f} MiB"
		)
	for found in result["regions"]:
		print(
			f"predict, {found['bases']:,} bp in {found['tiles']:,} tiles: {found['seconds']:.0f} s, at most "
			f"{found['anonymous'] / 2**20:,.0f} MiB; bigWig of {found['result_bytes'] / 2**20:,.0f} MiB"
		)
	killed = result["killed"]
	print(f"killed with {killed['kept']} of {killed['chunks']} chunks, and gone on with: the same results")


if __name__ == "__main__":
	main()
