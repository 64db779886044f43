"""Accuracy beside the published package: the same loci, splits, model size and number of steps, several seeds.

	python benchmarks/accuracy.py --shared ../shared --peer-python PEER/bin/python --work WORK

prepares each data set once (bigWigs from reads, background loci), trains both packages with their own defaults of
everything that is not fixed here, and measures both checkpoints with one piece of code: profile Pearson (mean over
loci) and count Pearson on the validation and the test loci. A run that is already in WORK is not repeated, so the
script can be stopped and started again. Results: ``benchmarks/results/accuracy.json`` and ``accuracy.md``.

The CTCF data are of one chromosome, and the published package splits by chromosome only; so chr22 is cut into four
contigs, and both packages train on those.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).with_name("results")
MEASURES = ("profile_pearson", "count_pearson")


class Data(NamedTuple):
	"""A prepared data set: its files, grouped signals, and the chromosomes of each split."""

	sequences: str
	loci: str
	negatives: str
	signals: list[list[str]]
	controls: list[list[str]] | None
	splits: dict[str, list[str]]
	exclusion_lists: list[str] | None


class Size(NamedTuple):
	"""What both packages are given alike."""

	n_filters: int
	n_layers: int
	in_window: int
	out_window: int
	batch_size: int
	steps: int


def main() -> None:
	"""Prepare, train, measure, write."""
	args = parse()
	size = Size(args.n_filters, args.n_layers, args.in_window, args.out_window, args.batch_size, args.steps)
	records = []
	for name in args.data:
		data = prepare(name, args.shared, args.work / name, size)
		for seed in args.seeds:
			for package, python in (("ours", sys.executable), ("published", args.peer_python)):
				folder = args.work / name / f"{package}.{'.'.join(map(str, size))}.{seed}"
				records.append(
					{"data": name, "package": package, "seed": seed, **run(python, data, size, seed, folder)}
				)
				write(records, size, args.output)


def parse() -> argparse.Namespace:
	"""The command line."""
	parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
	parser.add_argument("--shared", type=Path, required=True, help="folder that holds data/")
	parser.add_argument("--peer-python", required=True, help="interpreter with the published package")
	parser.add_argument("--work", type=Path, required=True, help="folder for prepared data and finished runs")
	parser.add_argument("--output", type=Path, default=RESULTS / "accuracy.json")
	parser.add_argument("--data", nargs="+", default=["yeast_atac", "ctcf_chr22"], choices=["yeast_atac", "ctcf_chr22"])
	parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
	parser.add_argument("--n-filters", type=int, default=32)
	parser.add_argument("--n-layers", type=int, default=7)
	parser.add_argument("--in-window", type=int, default=1346)
	parser.add_argument("--out-window", type=int, default=1000)
	parser.add_argument("--batch-size", type=int, default=16)
	parser.add_argument("--steps", type=int, default=1500)
	return parser.parse_args()


# Preparing.


def prepare(name: str, shared: Path, folder: Path, size: Size) -> Data:
	"""The files that both packages read, made once."""
	folder.mkdir(parents=True, exist_ok=True)
	record = folder / f"data.{size.in_window}.json"
	if not record.exists():
		made = {"yeast_atac": _yeast, "ctcf_chr22": _ctcf}[name](shared / "data", folder, size)
		record.write_text(json.dumps(made._asdict(), indent="\t"))
	return Data(**json.loads(record.read_text()))


def _yeast(shared: Path, folder: Path, size: Size) -> Data:
	"""ATAC-seq of yeast: cuts of both ends of each fragment, one unstranded track."""
	source = shared / "yeast_atac_sacCer3"
	reads = {"signals": [str(source / "yeast_500k_SRR1822137.bedpe.gz")], "unstranded": True, "fragments": True}
	reads |= {"pos_shift": 4, "neg_shift": -4}
	sequences, loci = str(source / "sacCer3.fa.gz"), str(source / "peaks_macs3_q0.01.narrowPeak.gz")
	exclusions = [str(source / "exclude.bed")]
	_step("cherimoya_cli.signals", {"name": str(folder / "yeast"), "sequences": sequences, **reads}, folder)
	splits = {"valid": ["chrV", "chrVI"], "test": ["chrVII", "chrXIII"]}
	numerals = ["I", "II", "III", "IV", "VIII", "IX", "X", "XI", "XII", "XIV", "XV", "XVI"]
	splits["train"] = [f"chr{numeral}" for numeral in numerals]
	signals = [[str(folder / "yeast.bw")]]
	return _with_negatives(Data(sequences, loci, "", signals, None, splits, exclusions), folder, size)


def _ctcf(shared: Path, folder: Path, size: Size) -> Data:
	"""CTCF ChIP-seq of chr22: a stranded pair of tracks, and a stranded pair of controls."""
	source = shared / "human_chr22_hg38"
	# The suggested split: validation 33 to 37 Mb, test 37 to 42 Mb.
	cuts = [("chr22a", 0, 33_000_000), ("chr22v", 33_000_000, 37_000_000), ("chr22t", 37_000_000, 42_000_000)]
	cuts.append(("chr22b", 42_000_000, 50_818_468))
	sequence = "".join(line.strip() for line in _lines(source / "chr22.fa.gz") if not line.startswith(">"))
	sequences = folder / "chr22.parts.fa"
	with open(sequences, "w") as file:
		for contig, start, end in cuts:
			file.write(f">{contig}\n")
			file.writelines(f"{sequence[i : min(i + 60, end)]}\n" for i in range(start, end, 60))
	for output, kind in (("reads.bed", "SE_ChIP_chr22.hg38.bed.gz"), ("control.bed", "SE_CTRL_chr22.hg38.bed.gz")):
		_cut_bed(source / f"CTCF_{kind}", folder / output, cuts)
	loci = folder / "peaks.narrowPeak"
	_cut_bed(source / "CTCF_SE_peaks_macs3_q0.05.narrowPeak.gz", loci, cuts)
	step = {"name": str(folder / "ctcf"), "sequences": str(sequences)}
	step |= {"signals": [str(folder / "reads.bed")], "controls": [str(folder / "control.bed")]}
	_step("cherimoya_cli.signals", step, folder)
	pair = [str(folder / f"ctcf.{strand}.bw") for strand in "+-"]
	controls = [str(folder / f"ctcf.control.{strand}.bw") for strand in "+-"]
	splits = {"train": ["chr22a", "chr22b"], "valid": ["chr22v"], "test": ["chr22t"]}
	return _with_negatives(Data(str(sequences), str(loci), "", [pair], [controls], splits, None), folder, size)


def _cut_bed(source: Path, output: Path, cuts: list[tuple[str, int, int]]) -> None:
	"""The lines of a BED file that lie inside one of the parts, with the part's name and coordinates."""
	with open(output, "w") as file:
		for line in _lines(source):
			_, start, end, *rest = line.rstrip("\n").split("\t")
			for contig, first, last in cuts:
				if first <= int(start) and int(end) <= last:
					file.write("\t".join([contig, str(int(start) - first), str(int(end) - first), *rest]) + "\n")


def _with_negatives(data: Data, folder: Path, size: Size) -> Data:
	"""The data with background loci matched in GC content."""
	output = folder / f"negatives.{size.in_window}.bed"
	settings = {"name": str(folder / "negatives"), "output_filename": str(output), "in_window": size.in_window}
	settings |= {"sequences": data.sequences, "loci": data.loci, "exclusion_lists": data.exclusion_lists}
	_command("negatives", settings, folder)
	return data._replace(negatives=str(output))


def _lines(path: Path) -> Iterator[str]:
	"""The lines of a gzipped text."""
	with gzip.open(path, "rt") as file:
		yield from file


def _step(module: str, settings: dict[str, Any], folder: Path) -> None:
	"""Run a step of the pipeline by itself."""
	path = folder / f"{module}.json"
	path.write_text(json.dumps(settings, indent="\t"))
	subprocess.run([sys.executable, "-m", module, "-p", str(path)], check=True)


def _command(command: str, settings: dict[str, Any], folder: Path) -> None:
	"""Run one of our commands."""
	path = folder / f"{command}.json"
	path.write_text(json.dumps(settings, indent="\t"))
	subprocess.run([sys.executable, "-m", "cherimoya_cli", command, "-p", str(path)], check=True)


# Training.


def run(python: str, data: Data, size: Size, seed: int, folder: Path) -> dict[str, Any]:
	"""Train one model in a process of its own and measure it; a finished run is read back."""
	record = folder / "record.json"
	if not record.exists():
		folder.mkdir(parents=True, exist_ok=True)
		settings = _settings(data, size, seed, str(folder / "model"))
		ours = python == sys.executable
		if ours:
			settings["early_stopping"] = None  # the published package does not stop early by default
		else:
			settings |= {"compile": False, "num_threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))}
		(folder / "fit.json").write_text(json.dumps(settings, indent="\t"))
		entry = [python, "-m", "cherimoya_cli"] if ours else [str(Path(python).with_name("cherimoya"))]
		environment = {key: value for key, value in os.environ.items() if ours or key != "PYTHONPATH"}
		began = time.monotonic()
		with open(folder / "output.txt", "w") as log:
			command = [*entry, "fit", "-p", str(folder / "fit.json")]
			subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT, cwd=folder, env=environment)
		seconds = time.monotonic() - began
		measured = {
			split: measure(folder / "model.torch", data, size, data.splits[split]) for split in ("valid", "test")
		}
		record.write_text(json.dumps({**measured, "seconds": round(seconds, 1)}, indent="\t"))
	return json.loads(record.read_text())


def _settings(data: Data, size: Size, seed: int, name: str) -> dict[str, Any]:
	"""The JSON of ``fit``, in keys that both packages know."""
	flat = [pair[0] if len(pair) == 1 else pair for pair in data.signals]
	controls = None if data.controls is None else [pair[0] if len(pair) == 1 else pair for pair in data.controls]
	return {
		"name": name,
		"sequences": data.sequences,
		"loci": data.loci,
		"negatives": data.negatives,
		"signals": flat,
		"controls": controls,
		"exclusion_lists": data.exclusion_lists,
		"training_chroms": data.splits["train"],
		"validation_chroms": data.splits["valid"],
		"test_chroms": data.splits["test"],
		"n_filters": size.n_filters,
		"n_layers": size.n_layers,
		"in_window": size.in_window,
		"out_window": size.out_window,
		"batch_size": size.batch_size,
		"max_epochs": 1,
		"min_total_steps": size.steps,
		"device": "cpu",
		"random_state": seed,
	}


# Measuring.


def measure(checkpoint: Path, data: Data, size: Size, chroms: list[str]) -> dict[str, float]:
	"""Profile and count Pearson of a checkpoint of either package on the peaks of some chromosomes."""
	import numpy as np
	import torch

	from cherimoya import Cherimoya
	from cherimoya.interpret.predict import predict
	from cherimoya.io.windows import extract_windows
	from cherimoya.performance import calculate_performance_measures

	model = Cherimoya.load(checkpoint)
	windows = extract_windows(
		data.loci,
		data.sequences,
		data.signals,
		data.controls,
		in_window=size.in_window,
		out_window=size.out_window,
		chroms=chroms,
		exclusion_lists=data.exclusion_lists,
	)
	logits, log_counts = predict(model, windows.codes, windows.controls)
	logps = torch.log_softmax(logits, dim=-1)
	measures = calculate_performance_measures(
		logps, windows.y().float(), log_counts, measures=list(MEASURES), signal_groups=model.signal_groups
	)
	return {name: float(np.nanmean(measures[name].numpy())) for name in MEASURES} | {"n": len(windows)}


# Writing.


def write(records: list[dict[str, Any]], size: Size, output: Path) -> None:
	"""The results so far, as JSON and as a table."""
	output.parent.mkdir(parents=True, exist_ok=True)
	output.write_text(json.dumps({"size": size._asdict(), "runs": records}, indent="\t") + "\n")
	output.with_suffix(".md").write_text("\n".join(table(records)) + "\n")


def table(records: list[dict[str, Any]]) -> Iterable[str]:
	"""A row for each data set, split and measure: mean and standard deviation over seeds."""
	yield "| data | split (loci) | measure | this package | published 0.3.1 |"
	yield "|---|---|---|---|---|"
	for data in dict.fromkeys(record["data"] for record in records):
		for split in ("valid", "test"):
			for measure_name in MEASURES:
				cells = []
				for package in ("ours", "published"):
					chosen = [r[split] for r in records if r["data"] == data and r["package"] == package]
					values = [r[measure_name] for r in chosen]
					spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
					cells.append(f"{statistics.mean(values):.3f}{spread} ({len(values)} seeds)" if values else "")
				n = next(r[split]["n"] for r in records if r["data"] == data)
				yield f"| {data} | {split} ({n}) | {measure_name} | {' | '.join(cells)} |"


if __name__ == "__main__":
	main()
