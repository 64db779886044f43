"""Loading and sampling beside the published package: memory, time to the first batch, examples a second.

Makes a synthetic data set (see ``make_genome.py``), then runs both packages as black boxes, each in a process of its
own, in turn: ours with an empty cache, the peer, ours with a full cache; then both again, side by side, for the rate at
which they yield batches as float32 on the CPU. Both must have read the same windows, else there is no result::

	python benchmarks/loading.py --peer-python PEER/bin/python --loci 100000 --megabases 300

takes some minutes and 4 GB in the temporary folder, and writes ``results/loading.json``. Memory is that of a process
and its children, sampled; `anonymous` leaves out pages of files, which the system takes back when it needs them.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BATCH = 64
SETTINGS = {"in_window": 2114, "out_window": 1000, "batch_size": BATCH, "pin_memory": False, "num_workers": 0}
TRAINING = {"max_jitter": 500, "negative_ratio": 0.25, "random_state": 0, "reverse_complement": True}
PLAIN = {"max_jitter": 0, "negative_ratio": 0.0, "shuffle": False, "reverse_complement": False}


# ---- in the process of one package ----------------------------------------------------------------------------------


def serve(threads: int) -> None:
	"""Answer one JSON request a line, with whatever package `cherimoya` is here."""
	import torch

	from cherimoya.io import PeakGenerator

	torch.set_num_threads(threads)
	loader, batches = None, None
	print(json.dumps({"ready": True}), flush=True)
	for line in sys.stdin:
		request = json.loads(line)
		if request["do"] == "load":
			began = time.perf_counter()
			loader = PeakGenerator(*request["files"], **request["options"])
			batches = iter(loader)
			next(batches)
			answer = {"seconds": time.perf_counter() - began, "examples": len(loader.dataset)}
		elif request["do"] == "feed":
			answer = measure_wait(loader, request["n_batches"], request["step"])
		elif request["do"] == "rate":
			answer = measure_rate(loader, request["n_batches"])
		else:
			answer = digest(PeakGenerator(*request["files"], **request["options"]))
		print(json.dumps(answer), flush=True)


def measure_rate(loader: Any, n_batches: int) -> dict[str, float]:
	"""Examples a second, as float32, over some batches; where an epoch ends the next one follows."""
	n_examples, done = 0, 0
	began = time.perf_counter()
	while done < n_batches:
		for X, y, *_ in loader:
			X, y = X.float(), y.float()
			n_examples, done = n_examples + len(X), done + 1
			if done == n_batches:
				break
	return {"examples_per_second": n_examples / (time.perf_counter() - began)}


def measure_wait(loader: Any, n_batches: int, step: float) -> dict[str, float]:
	"""Seconds that each step waits for its batch while a device, here a sleep, is busy for `step` seconds after it."""
	waits: list[float] = []
	while len(waits) < n_batches:
		batches = iter(loader)
		next(batches)
		for _ in range(min(n_batches - len(waits), len(loader) - 1)):
			time.sleep(step)
			began = time.perf_counter()
			next(batches)
			waits.append(time.perf_counter() - began)
	return {"wait": statistics.median(waits)}


def digest(loader: Any) -> dict[str, Any]:
	"""A hash of every example, sequence and signal, in sorted order."""
	import torch

	hashes = []
	for X, y, *_ in loader:
		for sequence, signal in zip(X.to(torch.int8).numpy(), y.float().numpy(), strict=True):
			hashes.append(hashlib.blake2b(sequence.tobytes() + signal.tobytes(), digest_size=8).hexdigest())
	return {"hashes": sorted(hashes)}


# ---- the measurement ------------------------------------------------------------------------------------------------


class Package:
	"""One package in a process of its own."""

	def __init__(self, python: str, threads: int) -> None:
		environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
		# -P: this folder, and so the checkout, is not where the package comes from.
		command = [python, "-P", str(Path(__file__).resolve()), "--serve", "--threads", str(threads)]
		self.process = subprocess.Popen(
			command,
			stdin=subprocess.PIPE,
			stdout=subprocess.PIPE,
			text=True,
			env=environment,
			cwd=tempfile.gettempdir(),
		)
		self.answer()

	def ask(self, **request: Any) -> dict[str, Any]:
		"""The answer to a request."""
		self.process.stdin.write(json.dumps(request) + "\n")
		self.process.stdin.flush()
		return self.answer()

	def answer(self) -> dict[str, Any]:
		"""The next answer, with the peak memory of the process and its children meanwhile, in MiB."""
		import selectors

		peak = {"resident_mib": 0.0, "anonymous_mib": 0.0}
		with selectors.DefaultSelector() as selector:
			selector.register(self.process.stdout, selectors.EVENT_READ)
			while not selector.select(timeout=0.02):
				used = memory_of(self.process.pid)
				peak = {k: max(v, used[k]) for k, v in peak.items()}
		line = self.process.stdout.readline()
		if not line:
			raise SystemExit(f"the process of {self.process.args[0]} ended with status {self.process.wait()}")
		used = memory_of(self.process.pid)
		return {**json.loads(line), **{k: max(v, used[k]) for k, v in peak.items()}}

	def close(self) -> None:
		"""End the process."""
		self.process.stdin.close()
		self.process.wait()


def memory_of(pid: int) -> dict[str, float]:
	"""What a process and its children hold in memory, in MiB: all of it, and without the pages of files."""
	total = {"resident_mib": 0.0, "anonymous_mib": 0.0}
	names = {"RssAnon:": ("resident_mib", "anonymous_mib"), "RssFile:": ("resident_mib",)}
	names["RssShmem:"] = names["RssAnon:"]  # memory that processes share, of no file
	waiting = [pid]
	while waiting:
		one = waiting.pop()
		try:
			for line in Path(f"/proc/{one}/status").read_text().splitlines():
				field, *values = line.split()
				for key in names.get(field, ()):
					total[key] += int(values[0]) / 1024
			for task in Path(f"/proc/{one}/task").iterdir():
				waiting += map(int, (task / "children").read_text().split())
		except (FileNotFoundError, ProcessLookupError):  # it has just ended
			continue
	return total


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
	"""All of the measurement, on data made in `folder`."""
	sys.path.insert(0, str(HERE))
	from make_genome import Design, write

	design = Design(
		megabases=args.megabases, n_chroms=8, n_loci=args.loci, negatives_per_locus=0.25, stranded=True, depth=30
	)
	paths = write(design, folder / "data")
	files = [paths["peaks"], paths["negatives"], paths["genome"], paths["signals"]]
	print(f"data of {args.megabases:g} Mb with {args.loci:,} loci are made; the reading of them begins", flush=True)
	cache = folder / "cache"
	options = {**SETTINGS, **TRAINING}
	ours = {**options, "cache": str(cache)}

	agreement = compare(args, files, ours)
	runs: dict[str, list[dict[str, Any]]] = {"ours_cold": [], "peer": [], "ours_cached": []}
	for _ in range(args.rounds):
		shutil.rmtree(cache, ignore_errors=True)
		for name, python, settings in (
			("ours_cold", sys.executable, ours),
			("peer", args.peer_python, options),
			("ours_cached", sys.executable, ours),
		):
			package = Package(python, args.threads)
			runs[name].append(package.ask(do="load", files=files, options=settings))
			package.close()
			print(name, json.dumps(runs[name][-1]), flush=True)
	rates = measure_rates(
		args, files, {"ours": ours, "ours_no_thread": {**ours, "prefetch_factor": 0}, "peer": options}
	)
	return {**summarize(args, agreement, runs, rates), "median wait in ms by way": measure_ways(args, files, ours)}


def compare(args: argparse.Namespace, files: list, ours: dict[str, Any]) -> dict[str, Any]:
	"""How many windows both packages have read alike, of the peaks without jitter; an error when few are."""
	plain = {**SETTINGS, **PLAIN}
	hashes = []
	for python, more in ((sys.executable, {"cache": ours["cache"]}), (args.peer_python, {})):
		package = Package(python, args.threads)
		hashes.append(set(package.ask(do="digest", files=files, options={**plain, **more})["hashes"]))
		package.close()
	agreement = {"ours": len(hashes[0]), "peer": len(hashes[1]), "both": len(hashes[0] & hashes[1])}
	print("windows read", json.dumps(agreement), flush=True)
	if agreement["both"] < 0.98 * min(agreement["ours"], agreement["peer"]):
		raise SystemExit("the packages have not read the same windows, so there is nothing to compare")
	return agreement


def measure_rates(args: argparse.Namespace, files: list, options: dict[str, dict]) -> dict[str, list[float]]:
	"""Examples a second of each, in turn; all stay alive meanwhile."""
	packages = {name: Package(args.peer_python if name == "peer" else sys.executable, args.threads) for name in options}
	for name, package in packages.items():
		package.ask(do="load", files=files, options=options[name])
		package.ask(do="rate", n_batches=args.batches)
	rates: dict[str, list[float]] = {name: [] for name in options}
	for _ in range(args.bursts):
		for name, package in packages.items():
			rates[name].append(package.ask(do="rate", n_batches=args.batches)["examples_per_second"])
	for package in packages.values():
		package.close()
	return rates


def measure_ways(args: argparse.Namespace, files: list, ours: dict[str, Any]) -> dict[str, float]:
	"""How long a step of 5 ms waits for its batch, in ms, for each way in which batches can be made; ours alone."""
	ways = {
		"in line, encoded": {"prefetch_factor": 0},
		"in line, compact": {"prefetch_factor": 0, "compact": True},
		"thread, encoded": {},
		"thread, compact": {"compact": True},
		"1 process, encoded": {"num_workers": 1},
		"1 process, compact": {"num_workers": 1, "compact": True},
	}
	waits = {}
	for name, way in ways.items():
		package = Package(sys.executable, args.threads)
		package.ask(do="load", files=files, options={**ours, **way})
		waits[name] = 1000 * package.ask(do="feed", n_batches=args.batches, step=0.005)["wait"]
		package.close()
	return waits


def summarize(args: argparse.Namespace, agreement: dict, runs: dict, rates: dict) -> dict[str, Any]:
	"""Medians, and ratios in our favour where they are above 1."""
	middle = {
		name: {k: statistics.median(run[k] for run in of_name) for k in ("seconds", "resident_mib", "anonymous_mib")}
		for name, of_name in runs.items()
	}
	rate = {name: statistics.median(values) for name, values in rates.items()}
	peer, cold, cached = middle["peer"], middle["ours_cold"], middle["ours_cached"]
	return {
		"loci": args.loci,
		"megabases": args.megabases,
		"threads": args.threads,
		"machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
		"windows_read": agreement,
		"examples": runs["peer"][0]["examples"],
		"median": middle,
		"examples_per_second": rate,
		"ratios": {
			"peak anonymous memory, peer / ours cold": peer["anonymous_mib"] / cold["anonymous_mib"],
			"peak anonymous memory, peer / ours cached": peer["anonymous_mib"] / cached["anonymous_mib"],
			"peak resident memory, peer / ours cold": peer["resident_mib"] / cold["resident_mib"],
			"first batch, peer / ours cold": peer["seconds"] / cold["seconds"],
			"first batch, peer / ours cached": peer["seconds"] / cached["seconds"],
			"examples a second, ours / peer": rate["ours"] / rate["peer"],
			"examples a second without a thread, ours / peer": rate["ours_no_thread"] / rate["peer"],
		},
		"runs": runs,
		"rates": rates,
	}


def main() -> None:
	"""The command line."""
	parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
	parser.add_argument("--peer-python", help="the Python of an environment that has the published package")
	parser.add_argument("--loci", type=int, default=100_000)
	parser.add_argument("--megabases", type=float, default=300)
	parser.add_argument("--rounds", type=int, default=3, help="loads of each kind, in turn")
	parser.add_argument("--bursts", type=int, default=9, help="measurements of the rate of each, in turn")
	parser.add_argument("--batches", type=int, default=1900, help="batches of a burst")
	parser.add_argument("--threads", type=int, default=1)
	parser.add_argument("--json", type=Path, default=HERE / "results" / "loading.json")
	parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
	args = parser.parse_args()
	if args.serve:
		serve(args.threads)
		return
	if not args.peer_python:
		parser.error("--peer-python is needed")
	with tempfile.TemporaryDirectory() as folder:
		result = measure(args, Path(folder))
	args.json.parent.mkdir(parents=True, exist_ok=True)
	args.json.write_text(json.dumps(result, indent="\t") + "\n")
	print(json.dumps({k: v for k, v in result.items() if k not in ("runs", "rates")}, indent="\t"))


if __name__ == "__main__":
	main()
