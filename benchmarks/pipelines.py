"""From reads to motifs on real data: how long each step of the pipeline takes, and whether the motif is found.

	python benchmarks/pipelines.py --shared ../shared --work WORK [--only ctcf|yeast]

``ctcf`` is CTCF's ChIP-seq on human chr22 with its control and the vertebrate motifs of JASPAR: peaks are called,
bigWigs made and background found, a small model is trained on two regions of the chromosome, and the steps on motifs
follow. ``yeast`` is the shipped example, ``examples/yeast_atac/params.json``, as it is, with its fungal motifs.

Both go on with what is in WORK. Results, with the seconds of each step and the first of every list of motifs:
``benchmarks/results/pipelines.json``.
"""

import argparse
import csv
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results") / "pipelines.json"
FIRST = 5  # motifs of every list that are recorded

CTCF: dict[str, Any] = {
	"name": "ctcf",
	"loci": None,
	"negatives": None,
	"in_window": 768,
	"out_window": 512,
	"device": "cpu",
	"preprocessing_parameters": {"callpeaks_q": 0.05},
	"fit_parameters": {
		"n_filters": 32,
		"n_layers": 7,
		"batch_size": 16,
		"max_jitter": 64,
		"negative_ratio": 1.0,
		"max_epochs": 20,
		"early_stopping": None,
		"select_on": "loss",
		"num_workers": 0,
		"summits": True,
		"training_chroms": ["chr22:0-33,000,000", "chr22:42,000,000-50,818,468"],
		"validation_chroms": ["chr22:33,000,000-37,000,000"],
		"test_chroms": ["chr22:37,000,000-42,000,000"],
	},
	"attribute_parameters": {"algorithm": "deep_lift_shap"},
}


def main() -> None:
	"""Run what was asked for, collect, write."""
	parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
	parser.add_argument("--shared", type=Path, required=True, help="folder that holds data/")
	parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
	parser.add_argument("--only", choices=("ctcf", "yeast"), help="one of the two (default: both)")
	parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of torch (default: one per core)")
	parser.add_argument("--output", type=Path, default=RESULTS)
	args = parser.parse_args()
	found = json.loads(args.output.read_text()) if args.output.exists() else {}
	for name, prepare in (("ctcf", prepare_ctcf), ("yeast", prepare_yeast)):
		if args.only in (None, name):
			folder = args.work / name
			folder.mkdir(parents=True, exist_ok=True)
			prefix = prepare(folder, args.shared.resolve())
			run(folder, args.threads)
			found[name] = {"processor": platform.machine(), "threads": args.threads, **collect(folder / prefix)}
	args.output.write_text(json.dumps(found, indent="\t") + "\n")
	print(json.dumps(found, indent="\t"))


def prepare_ctcf(folder: Path, shared: Path) -> str:
	"""Write the JSON; returns the prefix of the run's files."""
	data = shared / "data" / "human_chr22_hg38"
	motifs = shared / "data" / "motifs" / "JASPAR2026_CORE_vertebrates_non-redundant.meme.gz"
	settings = {
		**CTCF,
		"sequences": str(data / "chr22.fa.gz"),
		"signals": [str(data / "CTCF_SE_ChIP_chr22.hg38.bed.gz")],
		"controls": [str(data / "CTCF_SE_CTRL_chr22.hg38.bed.gz")],
		"motifs": str(motifs),
	}
	(folder / "params.json").write_text(json.dumps(settings, indent="\t") + "\n")
	return "ctcf"


def prepare_yeast(folder: Path, shared: Path) -> str:
	"""Copy the shipped example; returns the prefix of the run's files."""
	for path in (ROOT / "examples" / "yeast_atac").iterdir():
		if path.is_file():
			shutil.copy2(path, folder)
	return str(json.loads((folder / "params.json").read_text())["name"])


def run(folder: Path, threads: int) -> None:
	"""The pipeline, in the folder."""
	environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
	environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")]).strip(os.pathsep)
	command = [sys.executable, "-m", "cherimoya_cli", "pipeline", "-p", "params.json"]
	if subprocess.run(command, cwd=folder, env=environment).returncode:
		raise SystemExit(f"{folder}: the pipeline failed")


def collect(prefix: Path) -> dict[str, Any]:
	"""Seconds of each step, the test measures, and the first motifs of each kind."""
	records = [json.loads(path.read_text()) for path in prefix.parent.glob(f"{prefix.name}.*.done.json")]
	records.sort(key=lambda record: record["finished"])
	seconds = {record["step"]: round(record["seconds"], 1) for record in records}
	measured = read_table(Path(f"{prefix}.test.performance.tsv"))[0]
	marginal = sorted(
		read_table(Path(f"{prefix}_marginalize") / "marginalize.tsv"), key=lambda row: -float(row["log2fc_counts"])
	)
	return {
		"seconds": {**seconds, "all": round(sum(seconds.values()), 1)},
		"test": {key: round(float(measured[key]), 3) for key in ("profile_pearson", "count_pearson", "auroc")},
		"seqlets": read_table(Path(f"{prefix}.motif_seqlet_count.tsv"))[:FIRST],
		"patterns": read_table(Path(f"{prefix}_modisco") / "motifs.tsv")[:FIRST],
		"marginalization": marginal[:FIRST],
	}


def read_table(path: Path) -> list[dict[str, str]]:
	"""The rows of a table with a header."""
	with open(path, newline="") as file:
		return list(csv.DictReader((line for line in file if not line.startswith("##")), delimiter="\t"))


if __name__ == "__main__":
	main()
