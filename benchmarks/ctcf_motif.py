"""Do contributions point at the motif of the protein? A model of CTCF, its contributions, and the motif from JASPAR.

	python benchmarks/ctcf_motif.py --shared ../shared --work WORK

makes bigWigs from ChIP-seq reads of chr22 and finds background loci, trains a small model on two regions, all by our
own commands, and keeps these in WORK: started again, the script goes on with what is there. At the strongest peaks of
the regions that did not train, saturation mutagenesis and DeepLIFT/SHAP score the bases by the predicted count. In each
peak the 15 bases in a row whose contributions have the largest sum are chosen, by nothing else, and are then compared
with the matrix of CTCF: the best log-odds of both strands, begun within 5 bp of the chosen start. It is a match if no
more than 1 % of all windows in held-out background loci score as high. Beside the chosen windows stand

- every window of the same regions, and in each the one that matches best, which no choice can beat,
- windows chosen by the same contributions in shuffled order, and by those of the model before it was trained,
- the chosen windows, scored by the matrix with its columns shuffled, and by every other matrix of JASPAR, each with a
  threshold of its own.

It takes five minutes or so on one core, most of it for training. Results: ``benchmarks/results/ctcf_motif.json``, and
the three strongest peaks drawn in ``imgs/ctcf.png``.
"""

import argparse
import gzip
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cherimoya import Cherimoya
from cherimoya.interpret import projected_contributions, saturation_mutagenesis
from cherimoya.interpret.deep_lift_shap import deep_lift_shap
from cherimoya.io import Windows, extract_windows, one_hot
from cherimoya.performance import spearman_corr

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results")

TRAINING = ["chr22:0-33,000,000", "chr22:42,000,000-50,818,468"]
VALIDATION = ["chr22:33,000,000-37,000,000"]
TEST = ["chr22:37,000,000-42,000,000"]
WINDOWS = {"in_window": 768, "out_window": 512}
MODEL = {"n_filters": 32, "n_layers": 7}
# As many background loci as peaks teach what peaks have that other places lack. The loss chooses the epoch, as a
# correlation over the 72 peaks of the validation region is too noisy.
FIT = {"batch_size": 16, "max_jitter": 64, "negative_ratio": 1.0, "early_stopping": None, "select_on": "loss"}

MEASURES = ("profile_pearson", "count_pearson", "auroc")

MOTIF, MOTIF_WIDTH, FLANK = "MA0139.2 CTCF", 15, 5  # bp
MARGIN = 25  # bp at both sides of a region, for matrices that are wider
LET_THROUGH = 0.01  # of the windows of background loci, by a threshold
METHODS = ("saturation_mutagenesis", "deep_lift_shap")
SHUFFLES = 20  # of contributions, and references of DeepLIFT/SHAP
SHUFFLED_MATRICES, RESAMPLES = 200, 2000
SIDES = ("left", "right")


def main() -> None:
	"""Train or reuse a model, score bases, compare with the motif, draw, write."""
	args = parse()
	torch.set_num_threads(args.threads)
	motifs = read_motifs(args.shared / "data" / "motifs" / "JASPAR2026_CORE_vertebrates_non-redundant.meme.gz")
	trained = train(args.shared, args.work, epochs=args.epochs, threads=args.threads)
	peaks = strongest_peaks(args.shared, args.work, args.peaks, apart=args.width)
	background = held_out(args.work / "negatives.bed", args.shared, args.work)
	contributions, seconds = contributions_of(trained, peaks, args.width)
	regions = Regions.of(peaks, background, args.width)
	found = compare(regions, contributions, motifs, in_test(peaks), np.random.default_rng(0))
	record = {
		"machine": {"processor": platform.machine(), "threads": args.threads, "torch": torch.__version__},
		"model": describe(args.work, trained, args.epochs),
		"peaks": {"n": len(peaks), "in_test_region": int(in_test(peaks).sum()), "region_bp": args.width},
		"background_loci": len(background),
		"motif": {"matrix": MOTIF, "width_bp": MOTIF_WIDTH, "flank_bp": FLANK, "let_through": LET_THROUGH},
		**found,
		"cpu_seconds": seconds,
	}
	args.output.parent.mkdir(parents=True, exist_ok=True)
	args.output.write_text(json.dumps(_rounded(record), indent="\t") + "\n")
	draw(peaks, contributions["saturation_mutagenesis"], regions, motifs[MOTIF], args.figure)
	print(json.dumps(_rounded(record), indent="\t"))


def parse() -> argparse.Namespace:
	"""The command line."""
	parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
	parser.add_argument("--shared", type=Path, required=True, help="folder that holds data/")
	parser.add_argument("--work", type=Path, required=True, help="folder for bigWigs, background loci and the model")
	parser.add_argument("--epochs", type=int, default=20, help="of training (default 20)")
	parser.add_argument("--peaks", type=int, default=100, help="the strongest so many (default 100)")
	parser.add_argument("--width", type=int, default=200, help="bp around each summit that are scored (default 200)")
	parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
	parser.add_argument("--output", type=Path, default=RESULTS / "ctcf_motif.json")
	parser.add_argument("--figure", type=Path, default=ROOT / "imgs" / "ctcf.png")
	return parser.parse_args()


# Training.


def train(shared: Path, work: Path, *, epochs: int, threads: int = 1) -> Cherimoya:
	"""The trained model; what is finished in the folder is not made again."""
	work.mkdir(parents=True, exist_ok=True)
	data = shared.resolve() / "data" / "human_chr22_hg38"
	common = {"sequences": str(data / "chr22.fa.gz")}
	reads = {"signals": [str(data / "CTCF_SE_ChIP_chr22.hg38.bed.gz")]}
	reads["controls"] = [str(data / "CTCF_SE_CTRL_chr22.hg38.bed.gz")]
	loci = {"loci": [str(_peaks_file(shared).resolve())]}
	_run("signals", {"name": "ctcf", **common, **reads}, work, "ctcf.control.-.bw", threads)
	negatives = {"output_filename": "negatives.bed", **common, **loci, **WINDOWS}
	_run("negatives", negatives, work, "negatives.bed", threads)
	splits = {"training_chroms": TRAINING, "validation_chroms": VALIDATION, "test_chroms": TEST}
	settings = {"name": "model", **common, **loci, "negatives": ["negatives.bed"], "summits": True, **splits}
	settings |= {"signals": [_pair("ctcf")], "controls": [_pair("ctcf.control")], **WINDOWS, **MODEL, **FIT}
	settings |= {"max_epochs": epochs, "random_state": 0, "device": "cpu", "num_workers": 0, "cache": None}
	_run("fit", settings, work, "model.fit.record.json", threads)
	return Cherimoya.load(work / "model.torch")


def _pair(stem: str) -> list[str]:
	"""The bigWigs of both strands."""
	return [f"{stem}.+.bw", f"{stem}.-.bw"]


def _peaks_file(shared: Path) -> Path:
	"""Peaks with their summits, and in the seventh column how much they are enriched over the control."""
	return shared / "data" / "human_chr22_hg38" / "CTCF_SE_peaks_macs3_q0.05.narrowPeak.gz"


def _run(step: str, settings: dict[str, Any], work: Path, made: str, threads: int) -> None:
	"""Run one of our commands in the folder, unless its last output is there and its settings are the same."""
	path, text = work / f"{step}.json", json.dumps(settings, indent="\t")
	if (work / made).exists() and path.exists() and path.read_text() == text:
		return
	path.write_text(text)
	module = ["cherimoya_cli.signals"] if step == "signals" else ["cherimoya_cli", step]
	environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
	environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), environment.get("PYTHONPATH", "")]).strip(os.pathsep)
	with open(work / f"{step}.out", "w") as log:
		command = [sys.executable, "-m", *module, "-p", path.name]
		done = subprocess.run(command, cwd=work, env=environment, stdout=log, stderr=subprocess.STDOUT)
	if done.returncode:
		raise SystemExit(f"{step} ended with {done.returncode}:\n{(work / f'{step}.out').read_text()}")


def describe(work: Path, model: Cherimoya, epochs: int) -> dict[str, Any]:
	"""What was trained, and how well it predicts the loci of the other two regions."""
	record = json.loads((work / "model.fit.record.json").read_text())
	about = {**MODEL, **WINDOWS, "parameters": sum(p.numel() for p in model.parameters()), "epochs": epochs}
	about |= {"best_epoch": record["best_epoch"]}
	for split, name in (("validation", "model.performance.tsv"), ("test", "model.test.performance.tsv")):
		names, values = (line.split("\t") for line in (work / name).read_text().splitlines()[:2])
		measured = dict(zip(names, map(float, values), strict=True))
		about[split] = {measure: measured[measure] for measure in MEASURES}
	return about


# Peaks and contributions.


def held_out(loci: Any, shared: Path, work: Path, *, summits: bool = False) -> Windows:
	"""The windows of the loci in the two regions that did not train."""
	return extract_windows(
		loci,
		shared / "data" / "human_chr22_hg38" / "chr22.fa.gz",
		[[str(work / path) for path in _pair("ctcf")]],
		[[str(work / path) for path in _pair("ctcf.control")]],
		**WINDOWS,
		chroms=VALIDATION + TEST,
		summits=summits,
	)


def strongest_peaks(shared: Path, work: Path, n: int, *, apart: int) -> Windows:
	"""The held-out peaks that are most enriched over the control, strongest first, their summits `apart` bp or more."""
	windows = held_out(_peaks_file(shared), shared, work, summits=True)
	with gzip.open(_peaks_file(shared), "rt") as file:
		enrichment = np.array([float(line.split("\t")[6]) for line in file])[windows.mask]
	chosen: list[int] = []
	for i in np.argsort(-enrichment, kind="stable"):
		if len(chosen) < n and (np.abs(windows.midpoints[chosen] - windows.midpoints[i]) >= apart).all():
			chosen.append(int(i))
	return windows[np.array(chosen)]


def in_test(windows: Windows) -> np.ndarray:
	"""Which windows lie in the region that neither trained nor chose the epoch, shape=(n,)."""
	start = int(TEST[0].split(":")[1].split("-")[0].replace(",", ""))
	return windows.midpoints >= start


def contributions_of(model: Cherimoya, peaks: Windows, width: int) -> tuple[dict[str, np.ndarray], dict[str, float]]:
	"""Contributions of the middle `width` bases to the log count, (n, width) by each method, and processor seconds."""
	untrained = Cherimoya(
		n_filters=model.n_filters,
		n_layers=model.n_layers,
		n_control_tracks=model.n_control_tracks,
		signal_groups=model.signal_groups,
		trimming=model.trimming,
		random_state=0,
	)
	methods: dict[str, Callable[..., Any]] = {
		"saturation_mutagenesis": lambda *given, **span: saturation_mutagenesis(model, *given, **span),
		"deep_lift_shap": lambda *given, **span: deep_lift_shap(model, *given, n_shuffles=SHUFFLES, **span),
		"untrained": lambda *given, **span: deep_lift_shap(untrained, *given, n_shuffles=SHUFFLES, **span),
	}
	start = (peaks.in_window - width) // 2
	bases = one_hot(peaks.codes[:, start : start + width])  # (n, width) -> (n, 4, width)
	contributions, seconds = {}, {}
	for name, method in methods.items():
		began = time.process_time()
		scores = method(peaks.codes, peaks.controls, output="counts", start=start, end=start + width)
		seconds[name] = time.process_time() - began
		contributions[name] = projected_contributions(scores, bases).numpy()  # (n, 4, width) -> (n, width)
	return contributions, {name: seconds[name] for name in METHODS}


# The motif.


def read_motifs(path: Path) -> dict[str, np.ndarray]:
	"""The matrices of a MEME file: under id and name, the frequencies of A, C, G, T at each position, shape=(w, 4)."""
	motifs: dict[str, np.ndarray] = {}
	with gzip.open(path, "rt") as file:
		for line in file:
			if line.startswith("MOTIF"):
				name = line.removeprefix("MOTIF").strip()
			elif "w=" in line:
				width = int(line.split("w=")[1].split()[0])
				motifs[name] = np.array([next(file).split() for _ in range(width)], dtype=np.float64)
	return motifs


def log_odds(frequencies: np.ndarray, background: np.ndarray) -> np.ndarray:
	"""Log2 of frequencies over those of the background, (w, 4) -> (w, 5): unknown bases, the last column, score 0.

	Frequencies are those of about 900 sites, so 0.1 % of the background is added to what was never seen.
	"""
	smoothed = (frequencies + 0.001 * background) / 1.001
	return np.pad(np.log2(smoothed / background), ((0, 0), (0, 1)))


def scan(codes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
	"""The larger score of both strands at every start, (n, L) codes and (w, 5) -> (n, L - w + 1)."""
	width = len(matrix)
	n_starts = codes.shape[1] - width + 1
	reverse = matrix[::-1, [3, 2, 1, 0, 4]]
	forward, backward = (
		sum(strand[j][codes[:, j : j + n_starts]] for j in range(width)) for strand in (matrix, reverse)
	)
	return np.maximum(forward, backward)


class Regions(NamedTuple):
	"""The bases that are compared with the motif.

	Attributes
	----------
	peaks, background: numpy.ndarray of uint8, shape=(n, width + 2 * MARGIN)
		Base codes of the middles of peaks, and of background loci, with a margin at both sides.
	frequencies: numpy.ndarray, shape=(4,)
		Of A, C, G, T in both, the same for complementary bases.
	"""

	peaks: np.ndarray
	background: np.ndarray
	frequencies: np.ndarray

	@classmethod
	def of(cls, peaks: Windows, background: Windows, width: int) -> "Regions":
		"""The middles of windows."""
		start = (peaks.in_window - width) // 2
		span = slice(start - MARGIN, start + width + MARGIN)
		peaks, background = peaks.codes[:, span], background.codes[:, span]
		counts = np.bincount(np.concatenate([peaks.ravel(), background.ravel()]), minlength=5)[:4]
		return cls(peaks, background, (counts + counts[::-1]) / (2 * counts.sum()))

	def matches(self, frequencies: np.ndarray) -> tuple[np.ndarray, float]:
		"""How well each window of the peaks matches a matrix, (n, width - MOTIF_WIDTH + 1), and the score of a match.

		A matrix of another width is laid over the middle of the window.
		"""
		matrix = log_odds(frequencies, self.frequencies)
		first = MARGIN + (MOTIF_WIDTH - len(matrix)) // 2 - FLANK
		n_windows = self.peaks.shape[1] - 2 * MARGIN - MOTIF_WIDTH + 1
		last = first + n_windows - 1 + 2 * FLANK + len(matrix)
		peaks, background = (best_near(scan(codes[:, first:last], matrix)) for codes in (self.peaks, self.background))
		return peaks, float(np.quantile(background, 1 - LET_THROUGH))


def best_near(scores: np.ndarray) -> np.ndarray:
	"""The best score begun within `FLANK` bp of each start, (n, S + 2 * FLANK) -> (n, S)."""
	return np.lib.stride_tricks.sliding_window_view(scores, 2 * FLANK + 1, axis=1).max(axis=-1)


def strongest(contributions: np.ndarray) -> np.ndarray:
	"""The start of the `MOTIF_WIDTH` bases with the largest sum of contributions, (n, width) -> (n,)."""
	return np.lib.stride_tricks.sliding_window_view(contributions, MOTIF_WIDTH, axis=1).sum(axis=-1).argmax(axis=1)


# Comparing.


def compare(
	regions: Regions,
	contributions: dict[str, np.ndarray],
	motifs: dict[str, np.ndarray],
	test: np.ndarray,
	rng: np.random.Generator,
) -> dict[str, Any]:
	"""How often chosen windows match the motif, what controls do, and how far the two methods agree.

	The peaks for which `test` (n,) is true are counted by themselves as well.
	"""
	matches, threshold = regions.matches(motifs[MOTIF])
	starts = {name: strongest(values)[:, None] for name, values in contributions.items()}  # (n,) -> (n, 1)
	shuffled = rng.permuted(np.repeat(contributions["saturation_mutagenesis"], SHUFFLES, axis=0), axis=1)
	starts["shuffled_contributions"] = strongest(shuffled).reshape(-1, SHUFFLES)  # (n * 20,) -> (n, 20)
	starts["every_window"] = np.broadcast_to(np.arange(matches.shape[1]), matches.shape)
	starts["best_match"] = matches.argmax(axis=1)[:, None]
	chosen = {name: summary(matches, where, threshold, rng) for name, where in starts.items()}
	for name in contributions:  # the best match was chosen by what is counted here, so chance does not apply to it
		hits = np.take_along_axis(matches, starts[name], axis=1)[:, 0] > threshold
		chosen[name]["p"] = chance(hits, (matches > threshold).mean(axis=1))
	where = starts["saturation_mutagenesis"]
	return {
		"threshold_bits": threshold,
		"chosen": chosen,
		"test_region": {name: summary(matches[test], starts[name][test], threshold, rng) for name in METHODS},
		"shuffled_matrices": shuffled_matrices(regions, where, motifs[MOTIF], rng),
		"all_matrices": all_matrices(regions, where, motifs),
		"agreement": agreement(contributions["saturation_mutagenesis"], contributions["deep_lift_shap"]),
	}


def summary(matches: np.ndarray, starts: np.ndarray, threshold: float, rng: np.random.Generator) -> dict[str, Any]:
	"""How k chosen windows of each region, (n, k), compare with all of them, (n, S); 95 % by resampling regions.

	``auroc`` is the chance that a chosen window matches better than another of its region, ties counting half.
	"""
	chosen = np.take_along_axis(matches, starts, axis=1)  # (n, k)
	hits = (chosen > threshold).mean(axis=1)  # (n,)
	ranked = np.sort(matches, axis=1)
	sides = [[np.searchsorted(row, k, side).mean() for row, k in zip(ranked, chosen, strict=True)] for side in SIDES]
	beaten = np.mean(sides, axis=0) / matches.shape[1]  # (n,)
	resampled = rng.integers(0, len(hits), (RESAMPLES, len(hits)))
	return {
		"matching": float(hits.mean()),
		"matching_95": np.quantile(hits[resampled].mean(axis=1), [0.025, 0.975]).tolist(),
		"median_bits": float(np.median(chosen)),
		"auroc": float(beaten.mean()),
		"auroc_95": np.quantile(beaten[resampled].mean(axis=1), [0.025, 0.975]).tolist(),
	}


def chance(hits: np.ndarray, rates: np.ndarray) -> float:
	"""The probability of so many matches or more among windows drawn at random, one of each region; (n,) and (n,)."""
	probabilities = np.ones(1)  # of 0, 1, 2, ... matches among the regions so far
	for rate in rates:
		probabilities = np.convolve(probabilities, [1 - rate, rate])
	return float(probabilities[int(hits.sum()) :].sum())


def share(regions: Regions, starts: np.ndarray, frequencies: np.ndarray) -> float:
	"""The share of chosen windows, (n, 1), that match a matrix."""
	matches, threshold = regions.matches(frequencies)
	return float((np.take_along_axis(matches, starts, axis=1) > threshold).mean())


def shuffled_matrices(
	regions: Regions, starts: np.ndarray, frequencies: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
	"""The share of chosen windows that match, for matrices of the same columns in another order."""
	observed = share(regions, starts, frequencies)
	shares = [share(regions, starts, rng.permutation(frequencies)) for _ in range(SHUFFLED_MATRICES)]
	as_high = sum(value >= observed for value in shares)
	return {
		"matrices": len(shares),
		"mean_matching": float(np.mean(shares)),
		"most_matching": max(shares),
		"p": (1 + as_high) / (1 + len(shares)),
	}


def all_matrices(regions: Regions, starts: np.ndarray, motifs: dict[str, np.ndarray]) -> dict[str, Any]:
	"""The share of chosen windows that match, for each matrix of the collection, the highest first."""
	shares = {name: share(regions, starts, frequencies) for name, frequencies in motifs.items()}
	ranked = sorted(shares, key=lambda name: -shares[name])
	others = [name for name in ranked if not name.split()[1].startswith("CTCF")]
	return {
		"matrices": len(ranked),
		"rank": 1 + sum(value > shares[MOTIF] for value in shares.values()),
		"first": {name: shares[name] for name in ranked[:5]},
		"others": {name: shares[name] for name in others[:3]},
		"others_median": float(np.median([shares[name] for name in others])),
	}


def agreement(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
	"""Spearman correlation over the positions of each peak, and of each with the next peak; shapes (n, width)."""
	a, b = torch.from_numpy(a), torch.from_numpy(b)
	same, other = spearman_corr(a, b).numpy(), spearman_corr(a, b.roll(1, 0)).numpy()
	away = np.abs(strongest(a.numpy()) - strongest(b.numpy()))
	return {
		"spearman_median": float(np.median(same)),
		"spearman_quartiles": np.quantile(same, [0.25, 0.75]).tolist(),
		"spearman_least": float(same.min()),
		"spearman_with_another_peak": float(np.median(other)),
		"same_window": float((away <= FLANK).mean()),
	}


# Drawing and writing.


def draw(peaks: Windows, contributions: np.ndarray, regions: Regions, frequencies: np.ndarray, path: Path) -> None:
	"""The strongest 50 bp of the three strongest peaks as letters, the best match of the motif shaded."""
	from matplotlib.figure import Figure

	from cherimoya.plot import plot_attributions, strongest_window

	width = contributions.shape[1]
	start = (peaks.in_window - width) // 2
	codes = regions.peaks[:, MARGIN:-MARGIN]
	scores = scan(codes, log_odds(frequencies, regions.frequencies))
	figure = Figure(figsize=(9.6, 6.4), layout="constrained", facecolor="white")
	for i, ax in enumerate(figure.subplots(3, 1)):
		first = int(peaks.midpoints[i]) - peaks.in_window // 2 + start
		plot_attributions(
			contributions[i],
			peaks.codes[i, start : start + width],
			width=50,
			chrom=str(peaks.loci.chroms[i]),
			start=first,
			unit="Δ log(1 + counts)",
			ax=ax,
		)
		near = strongest_window(contributions[i], 50)
		seen = scores[i, near : near + 50 - MOTIF_WIDTH + 1]
		at = first + near + int(seen.argmax())
		ax.axvspan(at, at + MOTIF_WIDTH, color="#e3f1f3", linewidth=0, zorder=0)
		region = "test" if in_test(peaks)[i] else "validation"
		ax.set_title(f"{peaks.loci.chroms[i]}:{at:,}, {region} region; best match of {MOTIF}: {seen.max():.1f} bits")
	path.parent.mkdir(parents=True, exist_ok=True)
	figure.savefig(path, dpi=150, metadata={"Software": None})


def _rounded(value: Any) -> Any:
	"""Numbers with four significant digits."""
	if isinstance(value, dict):
		return {key: _rounded(item) for key, item in value.items()}
	if isinstance(value, list):
		return [_rounded(item) for item in value]
	return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
	main()
