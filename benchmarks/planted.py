"""Is the truth found? A genome whose signal depends on two planted motifs, and the whole pipeline over it.

	python benchmarks/planted.py --work WORK

makes a synthetic experiment (``benchmarks/make_genome.py``), writes a database of motifs in which the two planted ones
stand among decoys, and a VCF of variants of the test chromosome: for each planted site that is intact one that breaks
it, and beside it one that leaves all sites alone. Then it runs ``cherimoya pipeline`` from the bigWig to the report,
and compares what came out with the truth:

- **de novo motifs**: the largest of TF-MoDISco's patterns that match each planted motif best, by the mean over the
  motif's bases of the pattern's frequency of the consensus base, in the best of all alignments and orientations;
- **seqlets** (those of positive contribution, in the attributed windows): precision, the fraction that overlap a
  planted site by half of the shorter one; recall, the fraction of the strong sites (one altered base at most) that
  such a seqlet covers; and how many of the annotated ones are named after the motif that lies there;
- **marginalization**: the ranks of the two planted motifs among all motifs of the database;
- **variants**: the area under the ROC curve of minus ``log2fc_counts`` for broken against silent, and both medians.

Results: ``benchmarks/results/planted.json``. A few minutes on one core.
"""

import argparse
import csv
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results") / "planted.json"
TRAINING, VALIDATION, TEST = ["chr1", "chr2"], ["chr3"], ["chr4"]
WINDOWS = {"in_window": 768, "out_window": 512}
ATTR_WINDOW = 200
N_DECOYS = 40
NEAR = 0.05  # patterns whose agreement is less than this below the best one's are taken for the same motif
STRONG = 1  # altered bases of a strong site, at most
BASES = "ACGT"


class Site(NamedTuple):
	"""A planted motif: where it lies (0-based, half-open), and what is there, as read on its own strand."""

	chrom: str
	start: int
	end: int
	motif: str
	strand: str
	text: str
	summit: int


def main() -> None:
	"""Make, run, compare, write."""
	parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
	parser.add_argument("--work", type=Path, required=True, help="folder for everything that is made")
	parser.add_argument("--megabases", type=float, default=8.0, help="size of the genome (default 8)")
	parser.add_argument("--loci", type=int, default=2000, help="default 2000")
	parser.add_argument("--epochs", type=int, default=20, help="of training (default 20)")
	parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
	parser.add_argument("--output", type=Path, default=RESULTS)
	args = parser.parse_args()
	settings = make(args.work, megabases=args.megabases, n_loci=args.loci, epochs=args.epochs)
	run(args.work, args.threads)
	found = {"genome_megabases": args.megabases, "loci": args.loci, "epochs": args.epochs, **compare(args.work)}
	found["settings"] = {key: settings["fit_parameters"][key] for key in ("n_filters", "n_layers", "batch_size")}
	args.output.write_text(json.dumps(found, indent="\t") + "\n")
	print(json.dumps(found, indent="\t"))


# Making.


def generator() -> Any:
	"""The module that makes synthetic genomes."""
	spec = importlib.util.spec_from_file_location("make_genome", Path(__file__).with_name("make_genome.py"))
	module = importlib.util.module_from_spec(spec)
	sys.modules[spec.name] = module  # its dataclasses look for their module there
	spec.loader.exec_module(module)
	return module


def make(work: Path, *, megabases: float, n_loci: int, epochs: int, **changes: Any) -> dict[str, Any]:
	"""Write the experiment, the motifs, the variants and the pipeline's JSON, whose content is returned."""
	genome = generator()
	paths = genome.write(genome.Design(megabases=megabases, n_loci=n_loci), work)
	write_motifs(work / "motifs.meme", genome.MOTIFS)
	write_variants(work / "variants.vcf", read_sites(work / "truth.tsv"), paths["genome"])
	settings = {
		"name": "run",
		"sequences": "genome.fa",
		"loci": ["peaks.narrowPeak"],
		"negatives": ["negatives.bed"],
		"signals": ["signal.0.bw"],
		"motifs": "motifs.meme",
		**WINDOWS,
		"device": "cpu",
		"fit_parameters": {
			"n_filters": 24,
			"n_layers": 6,
			"batch_size": 32,
			"max_epochs": epochs,
			"max_jitter": 64,
			"negative_ratio": 1.0,
			"early_stopping": None,
			"select_on": "loss",
			"num_workers": 0,
			"summits": True,
			"training_chroms": TRAINING,
			"validation_chroms": VALIDATION,
			"test_chroms": TEST,
		},
		"attribute_parameters": {
			"algorithm": "deep_lift_shap",
			"attr_window": ATTR_WINDOW,
			"chroms": VALIDATION + TEST,
		},
		"marginalize_parameters": {"n_loci": 20},
		"variants_parameters": {"variants": "variants.vcf"},
	}
	for section, values in changes.items():
		settings[section] = {**settings.get(section, {}), **values}
	(work / "params.json").write_text(json.dumps(settings, indent="\t") + "\n")
	return settings


def read_sites(path: Path) -> list[Site]:
	"""The planted sites of a truth table."""
	with open(path, newline="") as file:
		return [
			Site(
				row["chrom"],
				int(row["start"]),
				int(row["end"]),
				row["motif"],
				row["strand"],
				row["sequence"],
				int(row["summit"]),
			)
			for row in csv.DictReader(file, delimiter="\t")
		]


def write_motifs(path: Path, planted: dict[str, str], n_decoys: int = N_DECOYS) -> None:
	"""The planted motifs, and as many decoys of random consensus, as a MEME file; 0.85 for each base of a consensus."""
	rng = np.random.default_rng(0)
	decoys = {f"decoy{i}": "".join(rng.choice(list(BASES), rng.integers(8, 14))) for i in range(n_decoys)}
	lines = ["MEME version 4", "", "ALPHABET= ACGT", "", "strands: + -", ""]
	for name, text in {**decoys, **planted}.items():
		lines += [f"MOTIF {name}", f"letter-probability matrix: alength= 4 w= {len(text)} nsites= 20 E= 0"]
		lines += [" ".join("0.85" if base == other else "0.05" for other in BASES) for base in text] + [""]
	path.write_text("\n".join(lines))


def write_variants(path: Path, sites: list[Site], fasta: str) -> None:
	"""A VCF: for each intact site of the test chromosome one SNV in its middle bases, and one outside of all sites."""
	rng = np.random.default_rng(1)
	planted = generator().MOTIFS
	letters = read_fasta(fasta)
	taken = {(site.chrom, position) for site in sites for position in range(site.start, site.end)}
	rows = set()
	for site in sites:
		if site.chrom not in TEST or altered(site, planted) > 0:
			continue
		inside = int(rng.integers(site.start + 3, site.end - 3))
		outside = site.summit + int(rng.integers(-100, 100))
		while (site.chrom, outside) in taken:
			outside = site.summit + int(rng.integers(-100, 100))
		for position, kind in ((inside, "broken"), (outside, "silent")):
			reference = letters[site.chrom][position]
			other = str(rng.choice([base for base in BASES if base != reference]))
			rows.add((site.chrom, position + 1, f"{kind}_{site.chrom}_{position}", reference, other))
	header = ["##fileformat=VCFv4.2", *(f"##contig=<ID={c},length={len(t)}>" for c, t in letters.items())]
	lines = ["\t".join((c, str(p), name, ref, alt, ".", "PASS", ".")) for c, p, name, ref, alt in sorted(rows)]
	path.write_text("\n".join([*header, "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO", *lines]) + "\n")


def read_fasta(path: str) -> dict[str, str]:
	"""The upper-case sequence of each record."""
	records: dict[str, list[str]] = {}
	for line in Path(path).read_text().splitlines():
		if line.startswith(">"):
			records[line[1:]] = []
		else:
			records[next(reversed(records))].append(line.upper())
	return {name: "".join(lines) for name, lines in records.items()}


def altered(site: Site, planted: dict[str, str]) -> int:
	"""How many bases of a site are not those of its motif."""
	return sum(a != b for a, b in zip(site.text, planted[site.motif], strict=True))


def run(work: Path, threads: int = 1) -> None:
	"""The pipeline, in the folder."""
	environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
	environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")]).strip(os.pathsep)
	command = [sys.executable, "-m", "cherimoya_cli", "pipeline", "-p", "params.json"]
	if subprocess.run(command, cwd=work, env=environment).returncode:
		raise SystemExit(f"{work}: the pipeline failed")


# Comparing.


def compare(work: Path) -> dict[str, Any]:
	"""What the pipeline found, beside the truth."""
	planted = generator().MOTIFS
	sites = read_sites(work / "truth.tsv")
	return {
		"evaluation": measures(work / "run.test.performance.tsv"),
		"patterns": compare_patterns(work / "run_modisco_results.h5", planted),
		"seqlets": compare_seqlets(work, sites, planted),
		"marginalization_ranks": compare_marginalization(work / "run_marginalize" / "marginalize.tsv", planted),
		"variants": compare_variants(work / "run.variants.tsv"),
	}


def measures(path: Path) -> dict[str, float]:
	"""The first row of a performance table."""
	names, values = (line.split("\t") for line in path.read_text().splitlines()[:2])
	found = dict(zip(names, values, strict=True))
	return {name: round(float(found[name]), 3) for name in ("profile_pearson", "count_pearson", "auroc")}


def compare_patterns(path: Path, planted: dict[str, str]) -> dict[str, Any]:
	"""For each planted motif the largest pattern that is like it: its name, seqlets, and how much of the consensus."""
	from cherimoya_cli.modisco import read_patterns

	found: dict[str, Any] = {}
	patterns = [pattern for pattern in read_patterns(path) if pattern.sign > 0]
	for name, text in planted.items():
		scored = [(agreement(np.asarray(pattern.ppm), text), pattern) for pattern in patterns]
		top = max((score for score, _ in scored), default=0.0)
		near = [(score, pattern) for score, pattern in scored if score > top - NEAR]
		score, best = max(near, key=lambda pair: pair[1].n_seqlets, default=(0.0, None))
		found[name] = {
			"pattern": None if best is None else best.name,
			"seqlets": 0 if best is None else int(best.n_seqlets),
			"agreement": round(float(score), 3),
		}
	found["positive_patterns"] = len(patterns)
	return found


def agreement(ppm: np.ndarray, consensus: str) -> float:
	"""Mean frequency of the consensus's bases in the best alignment of both orientations; outside it is 1/4."""
	length, width = len(ppm), len(consensus)
	padded = np.full((length + 2 * width, 4), 0.25)
	padded[width : width + length] = ppm
	columns = np.array([BASES.index(base) for base in consensus])
	best = 0.0
	for matrix in (padded, padded[::-1, ::-1]):
		for start in range(len(matrix) - width + 1):
			best = max(best, float(matrix[start + np.arange(width), columns].mean()))
	return best


def read_bed(path: Path) -> list[list[str]]:
	"""The fields of each line that is no comment."""
	return [line.split("\t") for line in path.read_text().splitlines() if line and not line.startswith("#")]


def compare_seqlets(work: Path, sites: list[Site], planted: dict[str, str]) -> dict[str, Any]:
	"""Precision and recall of the positive seqlets in the attributed windows, and of their names."""
	windows = [(row[0], int(row[1]), int(row[2])) for row in read_bed(work / "run.attributions.bed")]
	rows = [row for row in read_bed(work / "run.seqlets.bed") if float(row[3]) > 0]
	seqlets = [(row[0], int(row[1]), int(row[2])) for row in rows]
	inside = [s for s in sites if any(s.chrom == c and a <= s.start and s.end <= b for c, a, b in windows)]
	strong = [site for site in inside if altered(site, planted) <= STRONG]

	def overlap(seqlet: tuple[str, int, int], site: Site) -> bool:
		shared = min(seqlet[2], site.end) - max(seqlet[1], site.start)
		return seqlet[0] == site.chrom and 2 * shared >= min(seqlet[2] - seqlet[1], site.end - site.start)

	at = [next((site for site in inside if overlap(seqlet, site)), None) for seqlet in seqlets]
	covered = sum(any(overlap(seqlet, site) for seqlet in seqlets) for site in strong)
	names: dict[tuple[str, int, int], str] = {}
	for row in read_bed(work / "run.seqlets_annotated.bed"):
		names.setdefault((row[0], int(row[1]), int(row[2])), "\t".join(row[3:]))
	named = [site.motif in names.get(seqlet, "") for seqlet, site in zip(seqlets, at, strict=True) if site is not None]
	return {
		"attributed_windows": len(windows),
		"positive_seqlets": len(seqlets),
		"strong_sites": len(strong),
		"precision": round(float(np.mean([site is not None for site in at])), 3) if at else None,
		"recall_strong": round(covered / len(strong), 3) if strong else None,
		"named_after_their_motif": round(float(np.mean(named)), 3) if named else None,
	}


def compare_marginalization(path: Path, planted: dict[str, str]) -> dict[str, Any]:
	"""The ranks of the planted motifs by their effect on the counts, from 1, and how many motifs there are."""
	with open(path, newline="") as file:
		rows = list(csv.DictReader((line for line in file if not line.startswith("#")), delimiter="\t"))
	order = sorted(rows, key=lambda row: -float(row["log2fc_counts"]))
	names = [row["motif"] for row in order]
	return {**{name: names.index(name) + 1 for name in planted}, "motifs": len(names)}


def compare_variants(path: Path) -> dict[str, Any]:
	"""How well minus log2fc_counts tells broken sites from silent variants."""
	with open(path, newline="") as file:
		rows = list(csv.DictReader((line for line in file if not line.startswith("##")), delimiter="\t"))
	scores = {kind: [] for kind in ("broken", "silent")}
	for row in rows:
		scores[row["id"].split("_")[0]].append(float(row["log2fc_counts"]))
	broken, silent = (np.array(scores[kind]) for kind in ("broken", "silent"))
	wins = (broken[:, None] < silent[None]).mean() + 0.5 * (broken[:, None] == silent[None]).mean()
	return {
		"broken": len(broken),
		"silent": len(silent),
		"auroc": round(float(wins), 4),
		"median_log2fc_broken": round(float(np.median(broken)), 3),
		"median_log2fc_silent": round(float(np.median(silent)), 3),
	}


if __name__ == "__main__":
	main()
