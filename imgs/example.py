"""Draw a held-out locus of a finished run: ``python imgs/example.py RUN [-o imgs/example.png]``.

RUN is the prefix of a pipeline's outputs, such as ``examples/yeast_atac/out/yeast``. Of the test loci whose
contributions were computed, the one whose profile is predicted with the median correlation is drawn: neither a lucky
locus nor an unlucky one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cherimoya.errors import InputError
from cherimoya.plot import MODEL, MUTED, OBSERVED, RULE, draw_logo, smooth, strongest_window
from cherimoya_cli.report.figures import report_style
from cherimoya_cli.report.inputs import Attributions, Run, read_run

SIGMA = 5.0  # bp, of the smoothing of both curves
LETTERS = 80  # bp drawn as letters


def choose(run: Run) -> tuple[int, int]:
	"""The locus to draw: its index in the evaluation and in the attributions."""
	arrays = run.evaluations["test"].arrays if "test" in run.evaluations else None
	if arrays is None or run.attributions is None:
		raise InputError(
			f"{run.name}: a test split with values per locus and contributions are needed; run the pipeline"
		)
	middle = (arrays["start"] + arrays["end"]) // 2
	width = run.attributions.scores.shape[2]
	attributed = {
		(chrom, int(start) + width // 2): i
		for i, (chrom, start) in enumerate(zip(run.attributions.chroms, run.attributions.starts, strict=True))
	}
	both = [
		(int(k), attributed[place])
		for k in np.argsort(np.nan_to_num(arrays["profile_pearson"]).mean(axis=1), kind="stable")
		if (place := (str(arrays["chrom"][k]), int(middle[k]))) in attributed
	]
	if not both:
		raise InputError(f"{run.name}: contributions were computed for none of the test loci; raise max_loci")
	return both[len(both) // 2]


def track(path: Path, chrom: str, start: int, end: int) -> np.ndarray:
	"""Values of a bigWig over a stretch, (end - start,), gaps as 0."""
	import pyBigWig

	with pyBigWig.open(str(path)) as file:
		return np.nan_to_num(file.values(chrom, start, end, numpy=True)).astype(np.float64)


def draw(run: Run, path: Path) -> None:
	"""Write the picture of a run."""
	k, i = choose(run)
	arrays, attributions = run.evaluations["test"].arrays, run.attributions
	chrom, start, end = str(arrays["chrom"][k]), int(arrays["start"][k]), int(arrays["end"][k])
	observed = track(Path(f"{run.name}.bw"), chrom, start, end)
	predicted = track(Path(f"{run.name}.predictions.bw"), chrom, start, end)
	with report_style():
		figure = Figure(figsize=(9.6, 4.4), facecolor="white")
		top = figure.add_axes((0.075, 0.585, 0.905, 0.335))
		bottom = figure.add_axes((0.075, 0.115, 0.905, 0.3))
		at = strongest_window(attributions.contributions()[i], LETTERS)
		first = int(attributions.starts[i]) + at
		top.axvspan(first, first + LETTERS, color="#e3f1f3", linewidth=0)
		x = np.arange(start, end)
		top.fill_between(x, smooth(observed[None], SIGMA)[0], color=OBSERVED, alpha=0.75, linewidth=0, label="observed")
		top.plot(x, smooth(predicted[None], SIGMA)[0], color=MODEL, label="predicted from sequence")
		top.set_xlim(start, end)
		top.set_ylim(0, None)
		top.set_ylabel("Cuts per bp")
		top.set_title(f"A held-out locus, {chrom}:{start:,}–{end:,}")
		top.legend(loc="upper right", ncols=2)
		draw_letters(bottom, attributions, i, at)
		for ax in (top, bottom):
			ax.xaxis.set_major_formatter(lambda v, _: f"{v:,.0f}")
		bottom.set_xlabel(f"Position on {chrom} (bp)")
		figure.savefig(path, dpi=200, metadata={"Software": None})


def draw_letters(ax, attributions: Attributions, i: int, at: int) -> None:
	"""The contributions of the strongest stretch of a locus, as letters."""
	zoom = slice(at, at + LETTERS)
	heights = attributions.contributions()[i, zoom]
	first = int(attributions.starts[i]) + at
	draw_logo(ax, attributions.one_hot[i][:, zoom], heights, start=first)
	ax.axhline(0, color=RULE, linewidth=0.8)
	ax.set_xlim(first, first + LETTERS)
	low, high = min(float(heights.min()), 0.0), max(float(heights.max()), 0.0)
	ax.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
	ax.set_ylabel("Δ log count", color=MUTED)
	ax.set_title("Contribution of each base to the predicted count (shaded stretch)")


def main() -> None:
	"""Draw the run that the arguments name."""
	parser = argparse.ArgumentParser(description="Draw a held-out locus of a finished run.")
	parser.add_argument("run", help="prefix of the run's files")
	parser.add_argument("-o", "--output", default=str(Path(__file__).with_suffix(".png")), help="PNG to write")
	args = parser.parse_args()
	draw(read_run(args.run), Path(args.output))


if __name__ == "__main__":
	main()
