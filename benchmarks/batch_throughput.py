"""How many models an hour a device trains with 1, 2 and 4 jobs at once, and with one job over all cores or devices.

Makes a synthetic experiment and trains the same small model with several seeds as a batch on one device, again and
again with another ``jobs_per_device``; the data are in the cache from a run before. On the CPU the jobs share out the
cores, and a fourth way is the model trained by as many processes as there are cores (``devices``), one model after the
other. Steps an hour are those of training, of all jobs together; the time is that of the whole batch, start-up too::

	python benchmarks/batch_throughput.py
	python benchmarks/batch_throughput.py --device cuda --jobs 8

takes some minutes on two cores, and writes ``results/batch_throughput.json``, a record for each device.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from make_genome import Design, write

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "batch_throughput.json"
AT_ONCE = (1, 2, 4)
N_STEPS_OF_NO_USE = ["predict", "attribute", "seqlets", "motifs", "modisco_report", "report"]
EPOCHS, BATCH = 6, 64


def settings(paths: dict[str, Any], device: str, n_filters: int, n_jobs: int) -> dict[str, Any]:
	"""The JSON of a batch; one seed is one sample."""
	return {
		"samples": [{"name": f"seed{i}", "random_state": i} for i in range(n_jobs)],
		"sequences": paths["genome"],
		"loci": [paths["peaks"]],
		"negatives": [paths["negatives"]],
		"signals": paths["signals"],
		"device": device,
		"cache": "windows",
		"skip_steps": N_STEPS_OF_NO_USE,
		"fit_parameters": {
			"n_filters": n_filters,
			"batch_size": BATCH,
			"max_epochs": EPOCHS,
			"early_stopping": None,
			"num_workers": 0,
			"training_chroms": ["chr1", "chr2"],
			"validation_chroms": ["chr3"],
			"test_chroms": ["chr4"],
		},
	}


def batch(name: str, content: dict[str, Any], **changes: Any) -> float:
	"""Run a batch to its end; seconds."""
	fit = {**content["fit_parameters"], **changes.pop("fit_parameters", {})}
	Path(f"{name}.json").write_text(json.dumps({**content, "name": name, "fit_parameters": fit, **changes}))
	environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
	environment.pop("OMP_NUM_THREADS", None)
	command = [sys.executable, "-m", "cherimoya_cli", "batch", "run", "-p", f"{name}.json"]
	started = time.perf_counter()
	done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
	if done.returncode:
		raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}")
	return time.perf_counter() - started


def steps_of(name: str) -> int:
	"""The training steps that all jobs of a batch took."""
	logs = Path(name).glob("*/*.fit.record.json")
	return sum(json.loads(path.read_text())["steps"] for path in logs)


def measure(paths: dict[str, Any], device: str, n_filters: int, n_jobs: int) -> list[dict[str, Any]]:
	"""Each way in turn, in the current folder."""
	content = settings(paths, device, n_filters, n_jobs)
	batch("warm", {**content, "samples": content["samples"][:1]}, fit_parameters={"max_epochs": 1})
	ways = [(f"{n} at once", {"jobs_per_device": n}) for n in AT_ONCE]
	if device == "cpu":
		cores = os.cpu_count() or 1
		ways.append((f"1 over {cores} processes", {"jobs_per_device": 1, "fit_parameters": {"devices": cores}}))
	found = []
	for i, (way, changes) in enumerate(ways):
		seconds = batch(f"way{i}", content, **changes)
		found.append({"way": way, "jobs": n_jobs, "seconds": round(seconds, 1), "steps": steps_of(f"way{i}")})
		print(json.dumps(found[-1]), flush=True)
	return found


def main() -> None:
	"""Measure one device, and add its record to the results."""
	parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
	parser.add_argument("--device", default="cpu")
	parser.add_argument("--jobs", type=int, default=4)
	parser.add_argument("--filters", type=int, default=16)
	parser.add_argument("--loci", type=int, default=1000)
	parser.add_argument("--output", type=Path, default=RESULTS)
	args = parser.parse_args()
	output, home = args.output.resolve(), Path.cwd()
	with tempfile.TemporaryDirectory(prefix="cherimoya-throughput-") as folder:
		os.chdir(folder)
		try:
			paths = write(Design(megabases=args.loci * 4e-3, n_loci=args.loci), Path(folder) / "data")
			ways = measure(paths, args.device, args.filters, args.jobs)
		finally:
			os.chdir(home)
	known = json.loads(output.read_text()) if output.exists() else {}
	known[args.device] = {
		"machine": {"cores": os.cpu_count(), "processor": platform.machine()},
		"model": {"n_filters": args.filters, "in_window": 2114, "batch_size": BATCH},
		"ways": ways,
	}
	output.write_text(json.dumps(known, indent="\t") + "\n")


if __name__ == "__main__":
	main()
