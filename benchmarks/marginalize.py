"""Does ``marginalize`` put the motif of the protein first? A model of CTCF, and every vertebrate motif of JASPAR.

	python benchmarks/marginalize.py --shared ../shared --work WORK

trains the small model of ``ctcf_motif.py``, or takes it from the same folder, and puts every matrix of the database
into background loci of the regions that did not train. Beside them stands a control: the matrix of CTCF with its
columns shuffled, `SHUFFLED` times, which keeps its bases and not their order. Recorded are the ranks and effects of
CTCF's matrices, the strongest other one, the controls, and what the command takes: seconds, memory (RssAnon) and the
size of the page. It takes ten minutes or so on one core, half of them for training. Results:
``results/marginalize.json``.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from chunks_memory import memory_of
from ctcf_motif import MODEL, TEST, VALIDATION, WINDOWS, train

from cherimoya.io import Motif, read_motifs

RESULTS = Path(__file__).with_name("results")
DATABASE = "JASPAR2026_CORE_vertebrates_non-redundant.meme.gz"
MATRIX, SHUFFLED = "MA0139.2", 50
PAUSE = 0.05  # s


def main() -> None:
	"""Train or reuse a model, run the command on the database and on the controls, write."""
	args = parse()
	database = args.shared.resolve() / "data" / "motifs" / DATABASE
	train(args.shared, args.work, epochs=args.epochs, threads=args.threads)
	motifs = read_motifs(database)
	controls = shuffled(next(motif for motif in motifs if motif.id == MATRIX), np.random.default_rng(0))
	write_meme(args.work / "controls.meme", controls)
	found = marginalize(args, "database", str(database))
	control = marginalize(args, "controls", "controls.meme")
	known = [row for row in found["rows"] if row["name"] == "CTCF"]
	others = [row for row in found["rows"] if row["name"] != "CTCF"]
	record = {
		"machine": {"threads": args.threads},
		"model": {**MODEL, **WINDOWS, "epochs": args.epochs},
		"database": DATABASE,
		"motifs": len(motifs),
		"backgrounds": args.loci,
		"ctcf": [shown(row) for row in known],
		"strongest_other": shown(others[0]),
		"shuffled": {"matrix": MATRIX, "n": SHUFFLED, **spread(control["rows"])},
		"predictions": (2 * len(motifs) + 1) * args.loci,
		**{key: found[key] for key in ("seconds", "anonymous", "page_bytes")},
	}
	args.output.parent.mkdir(parents=True, exist_ok=True)
	args.output.write_text(json.dumps(record, indent="\t") + "\n")
	print(json.dumps(record, indent="\t"))


def parse() -> argparse.Namespace:
	"""The command line."""
	parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
	parser.add_argument("--shared", type=Path, required=True, help="folder that holds data/")
	parser.add_argument("--work", type=Path, required=True, help="folder for bigWigs, background loci and the model")
	parser.add_argument("--epochs", type=int, default=20, help="of training (default 20)")
	parser.add_argument("--loci", type=int, default=50, help="backgrounds (default 50)")
	parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
	parser.add_argument("--output", type=Path, default=RESULTS / "marginalize.json")
	return parser.parse_args()


def shuffled(motif: Motif, rng: np.random.Generator) -> list[Motif]:
	"""The matrix with its columns in random orders."""
	return [Motif(f"shuffled{i}", motif.name, rng.permutation(motif.pwm, axis=1)) for i in range(SHUFFLED)]


def write_meme(path: Path, motifs: list[Motif]) -> None:
	"""Motifs in MEME's format."""
	parts = ["MEME version 4\n\nALPHABET= ACGT\n"]
	for motif in motifs:
		rows = [" ".join(f"{p:.6f}" for p in row) for row in motif.pwm.T]
		matrix = f"letter-probability matrix: alength= 4 w= {len(rows)} nsites= 20 E= 0"
		parts.append("\n".join([f"MOTIF {motif}", matrix, *rows, ""]))
	path.write_text("\n".join(parts))


def marginalize(args: argparse.Namespace, name: str, motifs: str) -> dict[str, Any]:
	"""Run the command; the rows of its table, the strongest first, its seconds, memory, and the bytes of its page."""
	settings = {
		"name": name,
		"sequences": str(args.shared.resolve() / "data" / "human_chr22_hg38" / "chr22.fa.gz"),
		"loci": "negatives.bed",
		"chroms": VALIDATION + TEST,
		"motifs": motifs,
		"model": "model.torch",
		**WINDOWS,
		"n_loci": args.loci,
		"device": "cpu",
		"cache": None,
		"resume": False,
	}
	(args.work / f"{name}.json").write_text(json.dumps(settings))
	argv = [sys.executable, "-m", "cherimoya_cli", "marginalize", "-p", f"{name}.json"]
	root = str(Path(__file__).resolve().parents[1])
	environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "PYTHONPATH": root}
	began, largest = time.perf_counter(), 0
	process = subprocess.Popen(argv, cwd=args.work, env=environment, stdout=subprocess.DEVNULL)
	while process.poll() is None:
		largest = max(largest, memory_of(process.pid))
		time.sleep(PAUSE)
	if process.returncode:
		raise SystemExit(f"marginalize ended with {process.returncode}")
	folder = args.work / f"{name}_marginalize"
	with open(folder / "marginalize.tsv", newline="") as file:
		rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
	return {
		"rows": rows,
		"seconds": round(time.perf_counter() - began, 1),
		"anonymous": largest,
		"page_bytes": (folder / "index.html").stat().st_size,
	}


def shown(row: dict[str, str]) -> dict[str, Any]:
	"""What is recorded of a motif."""
	kept = ("log2fc_counts", "log2fc_counts_se", "same_sign")
	return {
		"motif": f"{row['motif']} {row['name']}",
		"rank": int(row["rank"]),
		**{key: float(row[key]) for key in kept},
	}


def spread(rows: list[dict[str, str]]) -> dict[str, float]:
	"""The median and the largest effect, by size."""
	sizes = np.abs([float(row["log2fc_counts"]) for row in rows])
	return {"median_effect": float(np.median(sizes)), "largest_effect": float(sizes.max())}


if __name__ == "__main__":
	main()
