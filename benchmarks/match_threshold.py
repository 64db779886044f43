"""Which threshold tells a seqlet's known motif from a match by chance?

	python benchmarks/match_threshold.py --planted WORK --ctcf WORK/ctcf --shared ../shared

reads the seqlets of runs of ``benchmarks/planted.py``, where the truth is known, and of ``benchmarks/pipelines.py``
on CTCF, with the databases of these runs, and compares each seqlet with all motifs by Tomtom. To see what chance does,
each is compared once more with its bases shuffled. For each threshold on the p-value of the best match, on its E-value
(p-value times motifs), or on its q-value (Benjamini and Hochberg, over the best matches' p-values corrected for the
number of motifs), it writes how many seqlets and how many shuffled ones have a name; the motifs that the most seqlets
have, with the number of shuffled ones; and of the seqlets on strong planted sites how many have the right name and how
many a wrong one. Results: ``benchmarks/results/match_threshold.json``. Less than a minute.
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import planted

from cherimoya.interpret.seqlets import Seqlets, annotate_seqlets, read_seqlets, seqlet_codes
from cherimoya.io.genome import Genome
from cherimoya.io.motifs import Motif, read_motifs

RESULTS = Path(__file__).with_name("results") / "match_threshold.json"
THRESHOLDS = {"p": (0.05, 0.001), "E": (1.0, 0.5, 0.05), "q": (0.05,)}
FIRST = 3  # motifs that are recorded


class Compared(NamedTuple):
	"""Best matches: names of motifs, and the p-, E- and q-values, each of shape (n,)."""

	names: np.ndarray
	values: dict[str, np.ndarray]


def main() -> None:
	"""Compare, count, write."""
	parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
	parser.add_argument("--planted", type=Path, required=True, help="folder of benchmarks/planted.py")
	parser.add_argument("--ctcf", type=Path, required=True, help="folder of CTCF's run of benchmarks/pipelines.py")
	parser.add_argument("--shared", type=Path, required=True, help="folder that holds data/")
	parser.add_argument("--output", type=Path, default=RESULTS)
	args = parser.parse_args()
	seqlets = read_seqlets(args.planted / "run.seqlets.bed")
	motifs = read_motifs(args.planted / "motifs.meme")
	genome = Genome(args.planted / "genome.fa")
	found = {"planted": count(seqlets, genome, motifs, truth(args.planted, seqlets))}
	data = args.shared / "data"
	seqlets = read_seqlets(args.ctcf / "ctcf.seqlets.bed")
	motifs = read_motifs(data / "motifs" / "JASPAR2026_CORE_vertebrates_non-redundant.meme.gz")
	found["ctcf"] = count(seqlets, Genome(data / "human_chr22_hg38" / "chr22.fa.gz"), motifs, None)
	args.output.write_text(json.dumps(found, indent="\t") + "\n")
	print(json.dumps(found, indent="\t"))


def truth(folder: Path, seqlets: Seqlets) -> list[str | None]:
	"""The motif of the strong site that each positive seqlet shares half of the shorter one with, or None."""
	words = planted.generator().MOTIFS
	sites: dict[str, list[planted.Site]] = {}
	for site in planted.read_sites(folder / "truth.tsv"):
		if planted.altered(site, words) <= planted.STRONG:
			sites.setdefault(site.chrom, []).append(site)
	motifs: list[str | None] = []
	for chrom, start, end, total in zip(
		seqlets.chroms, seqlets.starts, seqlets.ends, seqlets.attributions, strict=True
	):
		near = [
			site.motif
			for site in sites.get(chrom, ())
			if 2 * (min(end, site.end) - max(start, site.start)) >= min(end - start, site.end - site.start)
		]
		motifs.append(near[0] if near and total > 0 else None)
	return motifs


def compare(sequences: list[np.ndarray], motifs: list[Motif]) -> Compared:
	"""The best match of each sequence."""
	matches = annotate_seqlets(sequences, motifs)
	p_values, e_values = matches.p_values[:, 0], matches.e_values[:, 0]
	corrected = -np.expm1(len(motifs) * np.log1p(-np.minimum(p_values, 1 - 1e-16)))
	order = np.argsort(corrected)
	scaled = corrected[order] * len(order) / np.arange(1, len(order) + 1)
	q_values = np.empty(len(order))
	q_values[order] = np.minimum.accumulate(scaled[::-1])[::-1]
	names = np.array([str(motif) for motif in motifs])[matches.indices[:, 0]]
	return Compared(names, {"p": p_values, "E": e_values, "q": q_values})


def count(seqlets: Seqlets, genome: Genome, motifs: list[Motif], known: list[str | None] | None) -> dict[str, Any]:
	"""What has a name at each threshold."""
	sequences = seqlet_codes(seqlets, genome)
	rng = np.random.default_rng(0)
	real, chance = compare(sequences, motifs), compare([rng.permutation(codes) for codes in sequences], motifs)
	rows = []
	for kind, thresholds in THRESHOLDS.items():
		for threshold in thresholds:
			named, by_chance = (found.values[kind] <= threshold for found in (real, chance))
			expected = Counter(chance.names[by_chance].tolist())
			most = Counter(real.names[named].tolist()).most_common(FIRST)
			row = {
				"value": kind,
				"threshold": threshold,
				"named": round(float(named.mean()), 3),
				"shuffled_named": round(float(by_chance.mean()), 3),
				"first": [{"motif": name, "seqlets": n, "shuffled": expected[name]} for name, n in most],
			}
			if known is not None:
				strong = np.array([motif is not None for motif in known])
				right = np.array([name == motif for name, motif in zip(real.names, known, strict=True)])
				row["strong_right"] = round(float((named & right)[strong].mean()), 3)
				row["strong_wrong"] = round(float((named & ~right)[strong].mean()), 3)
			rows.append(row)
	return {"seqlets": len(seqlets), "motifs": len(motifs), "thresholds": rows}


if __name__ == "__main__":
	main()
