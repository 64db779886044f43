"""The report's figures, each an SVG as text. matplotlib is imported when the first one is drawn, pyplot never."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cherimoya.plot import (
	INK,
	MODEL,
	MUTED,
	RULE,
	draw_gc,
	draw_logo,
	draw_profile,
	draw_training,
	height_limits,
	mark_positions,
	smooth,
	strongest_window,
)
from cherimoya.plot import require_matplotlib as _require_matplotlib

if TYPE_CHECKING:
	from matplotlib.axes import Axes
	from matplotlib.figure import Figure

BASELINE, PAST = "#c2642d", "#b9c2cb"

#: Panel sizes in inches; a panel is shown about 1.35 times as large, on a phone as on a desktop.
PANEL, WIDE = (3.5, 2.7), (4.4, 2.3)
#: Most points drawn of one kind in a scatter plot.
MAX_POINTS = 60_000

STYLE = {
	"svg.hashsalt": "cherimoya",
	"svg.fonttype": "none",
	"font.family": "sans-serif",
	"font.sans-serif": ["DejaVu Sans"],
	"font.size": 8.0,
	"axes.labelsize": 8.0,
	"axes.titlesize": 8.5,
	"axes.titleweight": "bold",
	"axes.titlelocation": "left",
	"axes.titlepad": 6.0,
	"axes.labelcolor": MUTED,
	"axes.edgecolor": RULE,
	"axes.linewidth": 0.8,
	"axes.spines.top": False,
	"axes.spines.right": False,
	"axes.unicode_minus": True,
	"xtick.labelsize": 7.5,
	"ytick.labelsize": 7.5,
	"xtick.color": RULE,
	"ytick.color": RULE,
	"xtick.labelcolor": MUTED,
	"ytick.labelcolor": MUTED,
	"xtick.major.size": 3.0,
	"ytick.major.size": 3.0,
	"text.color": INK,
	"lines.linewidth": 1.4,
	"legend.frameon": False,
	"legend.fontsize": 7.5,
	"legend.handlelength": 1.4,
	"savefig.dpi": 220.0,
	"figure.facecolor": "none",
	"axes.facecolor": "none",
	"path.simplify_threshold": 0.3,
}


class Picture(NamedTuple):
	"""A figure: its SVG, what it shows in words for those who cannot see it, and its caption."""

	svg: str
	alt: str
	caption: str = ""


def require_matplotlib() -> None:
	"""Raise MissingExtraError unless matplotlib can be imported."""
	_require_matplotlib("the HTML report")


@contextmanager
def report_style() -> Iterator[None]:
	"""The report's style, whatever the user's; what was set before is set again afterwards."""
	import matplotlib

	with matplotlib.rc_context():
		matplotlib.rcdefaults()
		matplotlib.rcParams.update(STYLE)
		yield


def _draw(paint: Callable[[Figure], None], size: tuple[float, float]) -> str:
	"""The SVG of a figure that ``paint`` fills."""
	from matplotlib.figure import Figure

	with report_style():
		figure = Figure(figsize=size)
		paint(figure)
		buffer = io.StringIO()
		figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
	return _clean(buffer.getvalue())


def _clean(svg: str) -> str:
	"""Leave out what a page has no use for, and shorten numbers in paths."""
	svg = svg[svg.index("<svg") :]
	svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
	svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
	svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
	svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
	svg = re.sub(r'\bd="[^"]*"', lambda m: re.sub(r"(\d\.\d\d)\d+", r"\1", m.group()), svg)
	return re.sub(r"\n\s*", "\n", svg).strip()


def unique_ids(svg: str, prefix: str) -> str:
	"""The SVG with every id, and every reference to one, under a prefix: many share a page."""
	svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
	svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
	return svg.replace("url(#", f"url(#{prefix}-")


def _axes(figure: Figure, *, left: float = 0.16, right: float = 0.97, bottom: float = 0.17, top: float = 0.88) -> Axes:
	return figure.add_axes((left, bottom, right - left, top - bottom))


# ---------------------------------------------------------------------------------------------- training


def training_curve(
	epochs: np.ndarray,
	training: np.ndarray | None,
	validation: np.ndarray,
	*,
	title: str,
	unit: str,
	saved: int | None,
) -> Picture:
	"""One measure over the epochs, with the epoch whose weights were saved."""

	def paint(figure: Figure) -> None:
		ax = _axes(figure, left=0.19)
		draw_training(ax, epochs, training, validation, saved=saved)
		ax.set_xlabel("Epoch")
		ax.set_ylabel(unit)
		ax.set_title(title)
		ax.legend(loc="best")

	best = validation[saved] if saved is not None else validation[-1]
	alt = (
		f"{title} on the validation split over {len(epochs)} epochs: from {validation[0]:.4g} to "
		f"{validation[-1]:.4g}, {best:.4g} at the epoch that was saved."
	)
	return Picture(_draw(paint, PANEL), alt)


# ---------------------------------------------------------------------------------------------- counts


def _density(x: np.ndarray, y: np.ndarray, low: float, high: float, bins: int = 80) -> np.ndarray:
	"""Density of points at each point, 0 to 1: a two-dimensional histogram, smoothed."""
	edges = np.linspace(low, high, bins + 1)
	grid, _, _ = np.histogram2d(x, y, bins=(edges, edges))  # (bins, bins)
	kernel = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
	kernel /= kernel.sum()
	for axis in (0, 1):
		grid = np.apply_along_axis(np.convolve, axis, grid, kernel, mode="same")
	column = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, bins - 1)
	row = np.clip(np.searchsorted(edges, y, side="right") - 1, 0, bins - 1)
	density = grid[column, row]  # (bins, bins) -> (n,)
	return density / max(float(density.max()), 1e-12)


def _count_ticks(low: float, high: float) -> list[int]:
	"""Read counts for an axis of log(1 + reads) from ``low`` to ``high``: 1, 10, 100 …, or finer."""
	decades = [0] + [10**k for k in range(9)]
	inside = [v for v in decades if low <= np.log1p(v) <= high]
	if len(inside) >= 3:
		return inside
	finer = [0] + [m * 10**k for k in range(9) for m in (1, 2, 5)]
	inside = [v for v in finer if low <= np.log1p(v) <= high]
	return inside[:: max(1, len(inside) // 6)]


def count_scatter(
	observed: np.ndarray,
	predicted: np.ndarray,
	negatives: tuple[np.ndarray, np.ndarray] | None,
	limits: tuple[float, float],
	*,
	title: str,
	loci: str,
) -> Picture:
	"""Predicted against observed counts, both as log(1 + reads), coloured by density."""
	low, high = limits
	shown = slice(None, None, max(1, -(-len(observed) // MAX_POINTS)))
	x, y = observed[shown], np.clip(predicted[shown], low, high)

	def paint(figure: Figure) -> None:
		from matplotlib.colors import LinearSegmentedColormap

		ax = _axes(figure, left=0.17, bottom=0.145, top=0.9)
		ax.plot([low, high], [low, high], color=RULE, linewidth=1.0, zorder=0)
		size = float(np.clip(1500 / max(len(x), 1), 1.5, 9))
		if negatives is not None and len(negatives[0]):
			every = slice(None, None, max(1, -(-len(negatives[0]) // MAX_POINTS)))
			ax.scatter(
				negatives[0][every],
				np.clip(negatives[1][every], low, high),
				s=size,
				color=PAST,
				linewidths=0,
				rasterized=True,
				zorder=1,
			)
		density = _density(x, y, low, high)
		order = np.argsort(density, kind="stable")
		colors = LinearSegmentedColormap.from_list("reads", ["#9fd3dc", MODEL, "#05303a"])
		points = ax.scatter(
			x[order],
			y[order],
			c=density[order],
			s=size,
			cmap=colors,
			linewidths=0,
			rasterized=True,
			zorder=2,
			vmin=0,
			vmax=1,
		)
		ax.set_xlim(low, high)
		ax.set_ylim(low, high)
		ticks = _count_ticks(low, high)
		for axis in (ax.xaxis, ax.yaxis):
			axis.set_ticks([np.log1p(v) for v in ticks], [f"{v:,}" for v in ticks])
		ax.set_xlabel("Observed reads per locus (log scale)")
		ax.set_ylabel("Predicted reads per locus (log scale)")
		ax.set_title(title)
		key = figure.add_axes((0.70, 0.235, 0.22, 0.02))
		bar = figure.colorbar(points, cax=key, orientation="horizontal")
		bar.set_ticks([0.06, 0.94], labels=["sparse", "dense"])
		bar.ax.tick_params(length=0, pad=1.5)
		bar.outline.set_visible(False)

	alt = f"Scatter plot of predicted against observed reads at {len(observed):,} {loci} loci: {title}."
	return Picture(_draw(paint, (3.7, 3.7)), alt)


def histogram(
	values: np.ndarray, baseline: np.ndarray | None, baseline_mean: float | None, *, title: str, loci: str
) -> Picture:
	"""Distribution over loci of the profile correlation, with that of the baseline or its mean."""
	edges = np.linspace(min(0.0, float(values.min())), max(1.0, float(values.max())), 51)

	def paint(figure: Figure) -> None:
		from matplotlib.ticker import MaxNLocator

		ax = _axes(figure, left=0.17, bottom=0.145, top=0.9)
		ax.hist(values, bins=edges, color=MODEL, alpha=0.85, label="model")
		if baseline is not None:
			ax.hist(baseline, bins=edges, histtype="step", color=BASELINE, linewidth=1.4, label="mean training profile")
		elif baseline_mean is not None:
			ax.axvline(baseline_mean, color=BASELINE, linewidth=1.4, label="mean of the baseline")
		ax.set_xlim(edges[0], edges[-1])
		ax.set_ylim(0, 1.2 * ax.get_ylim()[1])  # room for the legend
		ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
		ax.set_xlabel("Pearson correlation of a locus's profile")
		ax.set_ylabel("Loci")
		ax.set_title(title)
		ax.legend(loc="upper right")

	alt = (
		f"Histogram of the profile correlation over {len(values):,} {loci} loci: median {np.median(values):.2f}, "
		f"middle half {np.quantile(values, 0.25):.2f} to {np.quantile(values, 0.75):.2f}."
	)
	return Picture(_draw(paint, (3.7, 3.7)), alt)


def gc_histogram(edges: np.ndarray, loci: np.ndarray, background: np.ndarray) -> Picture:
	"""GC content of loci and background, as shares of each: ``edges`` (bins + 1,), the others (bins,)."""

	def paint(figure: Figure) -> None:
		ax = _axes(figure)
		draw_gc(ax, edges, loci, background)
		ax.set_xlabel("GC content of the input window (%)")
		ax.set_ylabel("Loci (%)")
		ax.set_title("GC content")
		ax.legend(loc="upper right")

	middle = (edges[:-1] + edges[1:]) / 2
	means = [float(values @ middle) / max(float(values.sum()), 1) for values in (loci, background)]
	alt = f"Histogram of GC content: loci {means[0]:.0%} on average, background {means[1]:.0%}."
	return Picture(_draw(paint, PANEL), alt)


# ---------------------------------------------------------------------------------------------- profiles


def profile(
	observed: np.ndarray, predicted: np.ndarray, *, title: str, label: str, sigma: float, pearson: float | None
) -> Picture:
	"""Observed and predicted reads at one locus, (C, L) each; a second strand is drawn below 0."""
	shown, expected = smooth(observed, sigma), smooth(predicted, sigma)
	length = observed.shape[1]

	def paint(figure: Figure) -> None:
		from matplotlib.ticker import MaxNLocator

		ax = _axes(figure, bottom=0.16, top=0.87, left=0.17)
		x = np.arange(length) - length // 2
		draw_profile(ax, x, shown, expected)
		ax.set_xlim(x[0], x[-1])
		ax.set_xlabel("Position from the window's centre (bp)")
		ax.set_ylabel("Reads per bp")
		ax.xaxis.set_major_locator(MaxNLocator(5))
		ax.set_title(title)
		ax.legend(loc="upper right", ncols=2, borderaxespad=0, columnspacing=1.0, handletextpad=0.5)

	measure = (
		f"; profile Pearson {pearson:.2f}".replace("-", "−") if pearson is not None and np.isfinite(pearson) else ""
	)
	reads = f"{observed.sum():,.0f} reads observed, {predicted.sum():,.0f} predicted"
	alt = f"{title}, {label}: {reads} in {length:,} bp{measure}."
	return Picture(_draw(paint, PANEL), alt, f"{label}{measure}. {reads}.")


# ---------------------------------------------------------------------------------------------- contributions


SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def _power_of_ten(largest: float) -> int:
	"""The power to take out of an axis whose largest value is given: 0 unless it is below 0.1."""
	return 0 if largest >= 0.1 or largest == 0 else int(np.floor(np.log10(largest)))


def contribution_logo(
	one_hot: np.ndarray, contributions: np.ndarray, *, chrom: str, start: int, width: int = 50, unit: str
) -> Picture:
	"""Contributions over a whole window, and its strongest stretch as letters.

	Parameters
	----------
	one_hot: numpy.ndarray, shape=(4, W)
		The bases, ACGT; a column of zeros is an N.
	contributions: numpy.ndarray, shape=(W,)
		The score of the base that is there.
	chrom, start: str, int
		Where the window begins in the genome.
	width: int, default 50
		Letters drawn, bp.
	unit: str
		What a contribution is measured in.
	"""
	length = len(contributions)
	width = min(width, length)
	at = strongest_window(contributions, width)
	power = _power_of_ten(float(np.abs(contributions).max()))
	contributions = contributions / 10.0**power
	unit = f"{unit} (×10{str(power).translate(SUPERSCRIPT)})" if power else unit
	zoom = slice(at, at + width)
	sequence = "".join("NACGT"[int(c.argmax()) + 1 if c.any() else 0] for c in one_hot[:, zoom].T)
	place = f"{chrom}:{start + at:,}–{start + at + width:,}"

	def paint(figure: Figure) -> None:
		above = figure.add_axes((0.135, 0.755, 0.85, 0.13))
		above.axvspan(at, at + width, color="#e3f1f3", linewidth=0)
		above.fill_between(np.arange(length) + 0.5, contributions, 0, step="mid", color=MODEL, linewidth=0)
		above.axhline(0, color=RULE, linewidth=0.6)
		above.set_xlim(0, length)
		above.set_xticks([])
		above.set_yticks([])
		for side in ("left", "bottom"):
			above.spines[side].set_visible(False)
		above.set_title(f"{chrom}:{start:,}–{start + length:,} ({length} bp)", pad=4)
		ax = figure.add_axes((0.135, 0.2, 0.85, 0.5))
		heights = contributions[zoom]
		draw_logo(ax, one_hot[:, zoom], heights, start=start + at)
		ax.axhline(0, color=MUTED, linewidth=0.6)
		ax.set_xlim(start + at, start + at + width)
		ax.set_ylim(*height_limits(heights))
		mark_positions(ax, start + at, start + at + width)
		ax.set_ylabel(unit)
		ax.set_xlabel(f"Position on {chrom} (bp)")

	tallest = start + at + int(np.abs(contributions[zoom]).argmax())
	alt = f"Contribution logo of {place}: {sequence}, tallest at {chrom}:{tallest:,}."
	return Picture(_draw(paint, WIDE), alt)


# ---------------------------------------------------------------------------------------------- motifs

LOGO = (3.5, 1.5)
"""Size of the logo of a motif in inches."""


def matrix_logo(matrix: np.ndarray, *, alt: str, caption: str, unit: str) -> Picture:
	"""A motif as letters: those with positive values are stacked above 0, the tallest on top, the others below.

	Parameters
	----------
	matrix: numpy.ndarray, shape=(L, 4)
		The height of A, C, G and T at each position.
	alt, caption, unit: str
		What it shows, the text below it, and what heights are measured in.
	"""
	stacked = np.clip(matrix, 0, None).sum(axis=1), np.clip(matrix, None, 0).sum(axis=1)  # (L, 4) -> (L,), (L,)
	power = _power_of_ten(float(max(stacked[0].max(), -stacked[1].min())))
	matrix = matrix / 10.0**power

	def paint(figure: Figure) -> None:
		from matplotlib.ticker import MaxNLocator

		ax = _axes(figure, left=0.17, right=0.98, bottom=0.06, top=0.87)
		if power:
			ax.set_title(f"×10{str(power).translate(SUPERSCRIPT)}", fontsize=7.5, color=MUTED, pad=3, weight="normal")
		for sign in (1, -1):
			bottoms = np.zeros(len(matrix))
			heights = np.where(sign * matrix > 0, matrix, 0.0)
			order = np.argsort(np.abs(heights), axis=1)  # the smallest stands next to 0
			for place in range(4):
				of_place = np.take_along_axis(heights, order[:, place, None], axis=1)[:, 0]  # (L, 4) -> (L,)
				letters = (np.arange(4)[:, None] == order[:, place]).astype(np.int8)  # (4, L)
				draw_logo(ax, letters, of_place, bottoms=bottoms)
				bottoms += of_place
		ax.axhline(0, color=MUTED, linewidth=0.6)
		ax.set_xlim(0, max(len(matrix), 8))  # short motifs keep the shape of their letters
		ax.set_ylim(*height_limits(np.concatenate(stacked) / 10.0**power))
		ax.set_xticks([])
		ax.yaxis.set_major_locator(MaxNLocator(3))
		ax.spines["bottom"].set_visible(False)
		ax.set_ylabel(unit)

	return Picture(_draw(paint, LOGO), alt, caption)


def seqlet_logo(
	one_hot: np.ndarray,
	contributions: np.ndarray,
	*,
	chrom: str,
	start: int,
	marked: tuple[int, int],
	unit: str,
	caption: str,
) -> Picture:
	"""Contributions around a seqlet as letters, the seqlet itself shaded.

	Parameters
	----------
	one_hot: numpy.ndarray, shape=(4, w)
		The bases, ACGT.
	contributions: numpy.ndarray, shape=(w,)
		The score of the base that is there.
	chrom, start: str, int
		Where the stretch begins in the genome.
	marked: tuple of int
		Start and end of the seqlet in the genome.
	unit, caption: str
		What a contribution is measured in, and the text below.
	"""
	end = start + len(contributions)
	power = _power_of_ten(float(np.abs(contributions).max()))
	heights = contributions / 10.0**power
	unit = f"{unit} (×10{str(power).translate(SUPERSCRIPT)})" if power else unit
	inside = slice(marked[0] - start, marked[1] - start)
	sequence = "".join("NACGT"[int(c.argmax()) + 1 if c.any() else 0] for c in one_hot[:, inside].T)
	place = f"{chrom}:{marked[0]:,}–{marked[1]:,}"

	def paint(figure: Figure) -> None:
		ax = _axes(figure, left=0.135, right=0.985, bottom=0.24, top=0.86)
		ax.axvspan(*marked, color="#e3f1f3", linewidth=0)
		draw_logo(ax, one_hot, heights, start=start)
		ax.axhline(0, color=MUTED, linewidth=0.6)
		ax.set_xlim(start, end)
		ax.set_ylim(*height_limits(heights))
		mark_positions(ax, start, end)
		ax.set_ylabel(unit)
		ax.set_xlabel(f"Position on {chrom} (bp)")
		ax.set_title(place)

	return Picture(_draw(paint, (4.4, 1.8)), f"Contribution logo of the seqlet {place}: {sequence}.", caption)
