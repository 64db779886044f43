"""Pictures of profiles, of the contributions of bases, of a training run, and of the GC content of background loci.

matplotlib (the extra ``report``) is imported when something is drawn. A function that is given no axes makes a figure
by pyplot, and otherwise leaves pyplot and its settings alone. Functions named ``draw_…`` paint checked arrays into
axes and set no limits or labels; the report draws with them too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cherimoya.errors import InputError, MissingFileError, SettingsError, missing_extra

if TYPE_CHECKING:
	import torch
	from matplotlib.axes import Axes
	from matplotlib.path import Path as Outline

	from cherimoya.io.negatives import Negatives
	from cherimoya.training import History

	Array = np.ndarray | torch.Tensor

INK, MUTED, RULE = "#1f2933", "#5b6773", "#d5dbe1"
OBSERVED, MODEL, BACKGROUND = "#9aa5b1", "#0b7285", "#c2642d"

LETTERS = "ACGT"
#: The field's colours of the four bases.
COLORS = {"A": "#1a9850", "C": "#2c5fb3", "G": "#f0a202", "T": "#d73027"}

#: The measures of a training log that `plot_training` knows, with the label of each.
MEASURES = {
	"MNLL": "Multinomial NLL (nats per locus)",
	"Count MSE": "MSE of log(1 + counts)",
	"Profile Pearson": "Profile Pearson correlation",
	"Count Pearson": "Count Pearson correlation",
}


def require_matplotlib(needed_for: str) -> None:
	"""MissingExtraError unless matplotlib can be imported."""
	try:
		import matplotlib.figure  # noqa: F401
	except ImportError:
		raise missing_extra("matplotlib", extra="report", needed_for=needed_for) from None


# ---------------------------------------------------------------------------------------------- profiles


def plot_profile(
	observed: Array | None = None,
	predicted: Array | None = None,
	*,
	chrom: str | None = None,
	start: int | None = None,
	sigma: float = 0.0,
	unit: str = "Reads per bp",
	title: str | None = None,
	ax: Axes | None = None,
) -> Axes:
	"""Observed and predicted reads along one locus; of a stranded pair the second strand is drawn below 0.

	Parameters
	----------
	observed, predicted: torch.Tensor or numpy.ndarray, shape=(out,), (1, out) or (2, out), optional
		Reads at each position, and expected counts (`ExpectedCountsWrapper`), of the channels of one group. At least
		one of them is needed. Observed reads are drawn as an area, predicted ones as a line.
	chrom, start: str, int, optional
		Where the first position lies in the genome, 0-based. Default is None: positions from the window's centre.
	sigma: float
		Standard deviation of a Gaussian that smooths both, in bp. Default is 0: none.
	unit: str
		The label of the y axis. Default is "Reads per bp".
	title: str, optional
		Default is None: none.
	ax: matplotlib.axes.Axes, optional
		Where to draw. Default is None: a new figure.

	Returns
	-------
	matplotlib.axes.Axes

	Raises
	------
	InputError
		When both are missing, have other shapes than those, differ in shape, or hold NaN or infinity.
	MissingExtraError
		When matplotlib is not installed.
	"""
	given = {"observed": observed, "predicted": predicted}
	tracks = {name: _tracks(name, value) for name, value in given.items() if value is not None}
	if not tracks:
		raise InputError("plot_profile draws observed or predicted reads, or both; got neither")
	shapes = {name: values.shape for name, values in tracks.items()}
	if len(set(shapes.values())) > 1:
		raise InputError(
			f"observed and predicted must have the same shape, got {' and '.join(map(str, shapes.values()))}"
		)
	ax = _axes(ax, (6.4, 2.8))
	length = next(iter(shapes.values()))[1]
	positions = np.arange(length) + (-(length // 2) if start is None else start)
	smoothed = {name: smooth(values, sigma) for name, values in tracks.items()}
	draw_profile(ax, positions, smoothed.get("observed"), smoothed.get("predicted"))
	_label_positions(ax, chrom, start, "Position from the window's centre (bp)")
	ax.set_xlim(positions[0], max(positions[-1], positions[0] + 1))
	ax.set_ylabel(unit)
	_finish(ax, title)
	if len(tracks) > 1:
		ax.legend(loc="upper right", ncols=2, frameon=False, borderaxespad=0.2)
	return ax


def draw_profile(ax: Axes, x: np.ndarray, observed: np.ndarray | None, predicted: np.ndarray | None) -> None:
	"""Observed reads as an area and predicted ones as a line, (C, L) each; a second strand below 0, both named."""
	from matplotlib.ticker import FuncFormatter, MaxNLocator

	n_channels = len(observed if observed is not None else predicted)
	for channel in range(n_channels):
		first, sign = channel == 0, 1 if channel == 0 else -1
		if observed is not None:
			ax.fill_between(
				x,
				sign * observed[channel],
				0,
				step="mid",
				color=OBSERVED,
				linewidth=0,
				alpha=0.75,
				label="observed" if first else None,
			)
		if predicted is not None:
			label = "predicted" if first else None
			ax.plot(x, sign * predicted[channel], color=MODEL, linewidth=1.1, label=label)
	if n_channels == 2:
		ax.axhline(0, color=MUTED, linewidth=0.6)
		for y, strand, at in ((0.97, "+ strand", "top"), (0.03, "− strand", "bottom")):
			ax.text(0.02, y, strand, transform=ax.transAxes, color=MUTED, fontsize="small", va=at)
	top = max([1e-9, *(float(values.max()) for values in (observed, predicted) if values is not None)])
	ax.set_ylim(-1.22 * top if n_channels == 2 else 0, 1.22 * top)
	ax.yaxis.set_major_locator(MaxNLocator(4))
	ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{abs(v):g}"))


def smooth(values: np.ndarray, sigma: float) -> np.ndarray:
	"""Gaussian smoothing along the last axis, (C, L) -> (C, L); zero outside. ``sigma`` 0 changes nothing."""
	if sigma <= 0:
		return values
	reach = int(4 * sigma)
	kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
	kernel /= kernel.sum()
	length = values.shape[-1]
	return np.stack([np.convolve(row, kernel)[reach : reach + length] for row in values])


# ---------------------------------------------------------------------------------------------- contributions


def plot_attributions(
	attributions: Array,
	X: Array,
	*,
	width: int | None = None,
	chrom: str | None = None,
	start: int | None = None,
	unit: str = "Contribution",
	title: str | None = None,
	ax: Axes | None = None,
) -> Axes:
	"""The contributions of the bases of one sequence as a logo: the height of a letter is what its base contributes.

	Parameters
	----------
	attributions: torch.Tensor or numpy.ndarray, shape=(4, W) or (W,)
		Scores of each base, hypothetical or of the base that is there alone; or the latter in one row.
	X: torch.Tensor or numpy.ndarray, shape=(4, W) or (W,)
		The sequence over the same positions: one-hot of any dtype, or uint8 base codes. An N draws nothing.
	width: int, optional
		Draw only the stretch of so many bp that contributes most; letters of more than about 120 bp are hard to read.
		Default is None: all of it.
	chrom, start: str, int, optional
		Where the first position of X lies in the genome, 0-based. Default is None: positions count from 0.
	unit: str
		The label of the y axis, such as "Δ log(1 + counts)". Default is "Contribution".
	title: str, optional
		Default is None: none.
	ax: matplotlib.axes.Axes, optional
		Where to draw. Default is None: a new figure.

	Returns
	-------
	matplotlib.axes.Axes

	Raises
	------
	InputError
		When the shapes are others or do not match, X is not one-hot, or a score is NaN or infinite.
	SettingsError
		When width is below 1.
	MissingExtraError
		When matplotlib is not installed.
	"""
	one_hot = _one_hot(X)
	heights = _heights(attributions, one_hot)
	if width is not None and width < 1:
		raise SettingsError(f"width must be at least 1 bp, got {width}")
	first = 0 if width is None else strongest_window(heights, width)
	shown = slice(first, len(heights) if width is None else first + width)
	ax = _axes(ax, (float(np.clip(0.09 * len(heights[shown]), 4.0, 14.0)), 2.2))
	at = first + (start or 0)
	draw_logo(ax, one_hot[:, shown], heights[shown], start=at)
	ax.axhline(0, color=MUTED, linewidth=0.6)
	ax.set_xlim(at, at + len(heights[shown]))
	ax.set_ylim(*height_limits(heights[shown]))
	mark_positions(ax, at, at + len(heights[shown]))
	_label_positions(ax, chrom, start, "Position (bp)")
	ax.set_ylabel(unit)
	_finish(ax, title)
	return ax


def draw_logo(
	ax: Axes,
	one_hot: np.ndarray,
	heights: np.ndarray,
	*,
	start: float = 0.0,
	gap: float = 0.06,
	bottoms: np.ndarray | None = None,
) -> None:
	"""Draw a logo as vector letters: the height of a letter is the contribution of the base that is there.

	Parameters
	----------
	ax: matplotlib.axes.Axes
		Where to draw; its limits are left alone.
	one_hot: numpy.ndarray, shape=(4, W)
		The bases, ACGT; a column of zeros (N) draws nothing.
	heights: numpy.ndarray, shape=(W,)
		Heights; a negative one hangs its letter upside down from 0.
	start: float
		The x of the left edge of the first letter; each letter is 1 wide. Default is 0.
	gap: float
		Free space at both sides of a letter, as a share of its width. Default is 0.06.
	bottoms: numpy.ndarray or None, shape=(W,)
		Where each letter begins, to stack several logos; None: at 0. Default is None.
	"""
	from matplotlib.patches import PathPatch
	from matplotlib.path import Path as Outline

	bottoms = np.zeros(len(heights)) if bottoms is None else bottoms
	for row, letter in enumerate(LETTERS):
		glyph = _glyph(letter)
		positions = np.flatnonzero((one_hot[row] != 0) & (heights != 0))
		if not len(positions):
			continue
		# one compound path for all letters of a kind keeps the file small
		scale = np.stack([np.full(len(positions), 1 - 2 * gap), heights[positions]], axis=1)  # (m, 2)
		offset = np.stack([start + positions + gap, bottoms[positions]], axis=1)  # (m, 2)
		vertices = glyph.vertices[None] * scale[:, None] + offset[:, None]  # (m, V, 2)
		path = Outline(vertices.reshape(-1, 2), np.tile(glyph.codes, len(positions)))  # (m, V, 2) -> (m * V, 2)
		ax.add_patch(PathPatch(path, facecolor=COLORS[letter], edgecolor="none"))


def strongest_window(contributions: np.ndarray, width: int) -> int:
	"""The start of the stretch of ``width`` positions with the largest sum of absolute contributions, (W,) -> int.

	The stretch is then moved so that what it holds stands in its middle, as far as the window allows.
	"""
	width = min(width, len(contributions))
	heights = np.abs(contributions)
	at = int(np.convolve(heights, np.ones(width), mode="valid").argmax())
	inside = heights[at : at + width] ** 2  # squares: the tall letters decide, not the noise around them
	if inside.sum() > 0:
		centre = at + float(inside @ np.arange(width)) / float(inside.sum()) + 0.5
		at = round(centre - width / 2)
	return min(max(at, 0), len(contributions) - width)


def height_limits(heights: np.ndarray) -> tuple[float, float]:
	"""Limits of the y axis that show every letter and 0, with a little room."""
	low, high = min(float(heights.min()), 0.0), max(float(heights.max()), 0.0)
	margin = 0.06 * max(high - low, 1e-9)
	return low - margin if low < 0 else 0.0, high + margin


def mark_positions(ax: Axes, first: int, last: int) -> None:
	"""Ticks at the middles of letters at round positions, their labels clear of the edges."""
	from matplotlib.ticker import MaxNLocator

	steps = (m * 10**k for k in range(9) for m in (1, 2, 5))
	step = next(s for s in steps if last - first <= 5 * s)
	clear = 0 if step < 10 else 2
	ticks = [t for t in range(first, last) if t % step == 0 and first + clear <= t < last - clear]
	ax.set_xticks([t + 0.5 for t in ticks], [f"{t:,}" for t in ticks])
	ax.yaxis.set_major_locator(MaxNLocator(3))


@cache
def _glyph(letter: str) -> Outline:
	"""The outline of a letter, scaled to the unit square."""
	from matplotlib.font_manager import FontProperties
	from matplotlib.path import Path as Outline
	from matplotlib.textpath import TextPath

	# DejaVu Sans comes with matplotlib, so the letters are the same on every machine
	outline = TextPath((0, 0), letter, size=1, prop=FontProperties(family="DejaVu Sans", weight="bold"))
	(x0, y0), (x1, y1) = outline.get_extents().get_points()
	return Outline((outline.vertices - (x0, y0)) / (x1 - x0, y1 - y0), outline.codes)


# ---------------------------------------------------------------------------------------------- training


def plot_training(
	source: str | os.PathLike | History | Sequence[Mapping[str, Any]],
	measure: str = "MNLL",
	*,
	title: str | None = None,
	ax: Axes | None = None,
) -> Axes:
	"""One measure over the epochs of a training run, with the epoch whose weights were saved.

	Parameters
	----------
	source: str, os.PathLike, History or sequence of dict
		``{name}.log`` or ``{name}.detailed.log``, of a run that may still be going on; or what
		`cherimoya.training.fit` returned, or its rows.
	measure: str
		"MNLL" (default), "Count MSE", "Profile Pearson" or "Count Pearson". The first two are drawn for the training
		loci as well. With correlations of each group, as in the detailed log, those are thin lines.
	title: str, optional
		Default is None: none.
	ax: matplotlib.axes.Axes, optional
		Where to draw. Default is None: a new figure.

	Returns
	-------
	matplotlib.axes.Axes

	Raises
	------
	MissingFileError, InputError
		When there is no such file, it is no training log, or no epoch is finished yet.
	SettingsError
		When there is no such measure.
	MissingExtraError
		When matplotlib is not installed.
	"""
	if measure not in MEASURES:
		raise SettingsError(f"measure must be one of {', '.join(map(repr, MEASURES))}, got {measure!r}")
	name = os.fspath(source) if isinstance(source, str | os.PathLike) else "the rows"
	columns = _columns(source)
	epochs = columns.get("Epoch", ())
	if "Epoch" in columns and not len(epochs):
		raise InputError(f"{name}: no epoch is finished yet; try again later")
	missing = [c for c in ("Epoch", f"Validation {measure}") if c not in columns]
	if missing:
		raise InputError(f"{name}: not a training log: it has no column {missing[0]!r}; give {{name}}.log")
	saved = np.flatnonzero(columns.get("Saved?", np.zeros(len(epochs))))
	ax = _axes(ax, (4.2, 2.9))
	groups = [column for column in columns if column.startswith(f"Validation {measure} ")]
	for column in groups if len(groups) > 1 else ():
		label = f"group {column.rsplit(' ', 1)[1]}"
		ax.plot(epochs, columns[column], linewidth=0.8, alpha=0.8, label=label)
	validation, training = columns[f"Validation {measure}"], columns.get(f"Training {measure}")
	draw_training(ax, epochs, training, validation, saved=int(saved[-1]) if len(saved) else None)
	ax.set_xlabel("Epoch")
	ax.set_ylabel(MEASURES[measure])
	_finish(ax, title)
	ax.legend(loc="best", frameon=False)
	return ax


def draw_training(
	ax: Axes, epochs: np.ndarray, training: np.ndarray | None, validation: np.ndarray, *, saved: int | None
) -> None:
	"""A measure over the epochs, (E,) each: training dashed, validation solid, and a dot at the row that was saved."""
	from matplotlib.ticker import MaxNLocator

	marker = "o" if len(epochs) == 1 else None
	if training is not None:
		ax.plot(epochs, training, color=OBSERVED, linestyle=(0, (3, 1.5)), marker=marker, label="training")
	ax.plot(epochs, validation, color=MODEL, marker=marker, label="validation")
	if saved is not None:
		ax.plot(epochs[saved], validation[saved], "o", color=MODEL, markersize=5, label="saved epoch")
	ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
	ax.yaxis.set_major_locator(MaxNLocator(5))
	ax.yaxis.grid(True, color=RULE, linewidth=0.5)
	ax.set_axisbelow(True)


def read_log(path: str | os.PathLike) -> dict[str, np.ndarray]:
	"""The columns of a training log, as numbers; ``Saved?`` as booleans. A last line cut short is left out.

	Parameters
	----------
	path: str or os.PathLike
		``{name}.log`` or ``{name}.detailed.log``.

	Returns
	-------
	dict of str to numpy.ndarray, shape=(epochs,)
		A value that is left out is NaN.

	Raises
	------
	MissingFileError, InputError
		When there is no such file, or it is no training log.
	"""
	path = Path(path)
	if not path.exists():
		raise MissingFileError(f"{path}: no such file; check the path of the training log")
	try:
		with path.open(encoding="utf-8", newline="") as file:
			lines = [line.rstrip("\r\n").split("\t") for line in file if line.strip()]
	except (OSError, UnicodeDecodeError) as error:
		raise InputError(f"{path}: cannot be read as a training log ({error}); give {{name}}.log") from error
	if not lines:
		raise InputError(f"{path}: empty; give the {{name}}.log of a training run")
	header, rows = lines[0], [line for line in lines[1:] if len(line) == len(lines[0])]
	try:
		return {key: _column(key, [row[i] for row in rows]) for i, key in enumerate(header)}
	except ValueError as error:
		raise InputError(f"{path}: not a training log, or damaged: {error}; give {{name}}.log") from error


# ---------------------------------------------------------------------------------------------- GC content


def plot_gc(
	source: str | os.PathLike | Negatives | Mapping[str, Any], *, title: str | None = None, ax: Axes | None = None
) -> Axes:
	"""GC content of loci and of the background found for them, with the distance between the two distributions.

	Parameters
	----------
	source: str, os.PathLike, Negatives or dict
		``{name}.negatives.record.json``, or its content; or what `cherimoya.io.negatives.gc_matched_negatives`
		returned.
	title: str, optional
		Default is None: none.
	ax: matplotlib.axes.Axes, optional
		Where to draw. Default is None: a new figure.

	Returns
	-------
	matplotlib.axes.Axes
		Percent of the loci, and of the background, in each bin of GC content in percent.

	Raises
	------
	MissingFileError, InputError
		When there is no such file, or it is no record of background loci.
	MissingExtraError
		When matplotlib is not installed.
	"""
	edges, loci, background, ks = _gc_record(source)
	ax = _axes(ax, (4.2, 2.9))
	draw_gc(ax, edges, loci, background)
	ax.set_xlabel("GC content of the input window (%)")
	ax.set_ylabel("Loci (%)")
	_finish(ax, title)
	ax.legend(loc="upper right", frameon=False, title=f"KS distance {ks:.3f}", alignment="left")
	return ax


def draw_gc(ax: Axes, edges: np.ndarray, loci: np.ndarray, background: np.ndarray) -> None:
	"""Percent of the loci, filled, and of the background, outlined, in bins: ``edges`` (B + 1,), counts (B,)."""
	shares = [100 * counts / max(counts.sum(), 1) for counts in (loci, background)]
	used = np.flatnonzero(loci + background)
	first, last = (int(used[0]), int(used[-1])) if len(used) else (0, len(loci) - 1)
	ax.stairs(shares[0], 100 * edges, fill=True, color=MODEL, alpha=0.85, label="loci")
	ax.stairs(shares[1], 100 * edges, color=BACKGROUND, linewidth=1.4, label="background")
	ax.set_xlim(100 * edges[max(first - 1, 0)], 100 * edges[min(last + 2, len(edges) - 1)])
	ax.set_ylim(0, 1.25 * max(float(max(share.max() for share in shares)), 1e-9))


def _gc_record(source: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
	"""Edges of bins, loci and background in each, and the distance, from a record of background loci."""
	name = os.fspath(source) if isinstance(source, str | os.PathLike) else "the record"
	if isinstance(source, str | os.PathLike):
		if not os.path.exists(name):
			raise MissingFileError(f"{name}: no such file; check the path of the record of the background loci")
		try:
			record = json.loads(Path(name).read_text(encoding="utf-8"))
		except (OSError, ValueError) as error:
			raise InputError(
				f"{name}: cannot be read as JSON ({error}); give {{name}}.negatives.record.json"
			) from error
	else:
		record = source if isinstance(source, Mapping) else source.to_dict()
	try:
		arrays = [np.asarray(record[key], dtype=float) for key in ("bin_edges", "gc_loci", "gc_negatives")]
		ks = float(record["ks"])
	except (KeyError, TypeError, ValueError) as error:
		raise InputError(
			f"{name}: is no record of background loci ({error!r}); give {{name}}.negatives.record.json"
		) from error
	if not (arrays[0].ndim == 1 and len(arrays[0]) - 1 == len(arrays[1]) == len(arrays[2]) > 0):
		shapes = ", ".join(str(a.shape) for a in arrays)
		raise InputError(f"{name}: bin_edges, gc_loci and gc_negatives have shapes {shapes}, not (B + 1,), (B,), (B,)")
	return *arrays, ks


# ---------------------------------------------------------------------------------------------- shared


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
	"""The axes to draw into: those given, or the ones of a new figure, in inches."""
	if ax is not None:
		return ax
	require_matplotlib("cherimoya.plot")
	import matplotlib.pyplot as plt

	return plt.subplots(figsize=size, layout="constrained")[1]


def _finish(ax: Axes, title: str | None) -> None:
	"""A title, if there is one, and no frame on the two sides without ticks."""
	ax.spines[["top", "right"]].set_visible(False)
	if title is not None:
		ax.set_title(title, loc="left", fontsize="medium")


def _label_positions(ax: Axes, chrom: str | None, start: int | None, otherwise: str) -> None:
	"""The x axis' label, and genome positions with their thousands apart."""
	from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter

	if start is None:
		ax.set_xlabel(otherwise)
	else:
		ax.set_xlabel(f"Position on {chrom} (bp)" if chrom else "Position (bp)")
	if isinstance(ax.xaxis.get_major_formatter(), ScalarFormatter):
		ax.xaxis.set_major_locator(MaxNLocator(5))
		ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.0f}".replace("-", "−")))


def _numpy(x: Any) -> np.ndarray:
	"""An array of a tensor on any device, with or without a gradient, or of an array."""
	return x.detach().cpu().float().numpy() if hasattr(x, "detach") else np.asarray(x)


def _tracks(name: str, x: Any) -> np.ndarray:
	"""One or two tracks as (C, L); InputError for anything else."""
	values = np.atleast_2d(_numpy(x).astype(np.float64))
	if values.ndim != 2 or len(values) > 2 or not values.shape[1]:
		raise InputError(
			f"{name} must be one track, or a pair of strands, of shape (out,), (1, out) or (2, out), got "
			f"{values.shape}; choose an example and the channels of one group, such as predicted[0, :1]"
		)
	return _finite(name, values)


def _one_hot(X: Any) -> np.ndarray:
	"""The sequence as (4, W); InputError unless it is one-hot or base codes."""
	x = _numpy(X)
	if x.ndim == 1:
		x = (x[None] == np.arange(4)[:, None]).astype(np.float64)  # (W,) -> (4, W)
	if x.ndim != 2 or len(x) != 4 or not x.shape[1]:
		raise InputError(f"X must be one sequence, of shape (4, W) or base codes of shape (W,), got {x.shape}")
	if not np.isin(x, (0, 1)).all() or (x.sum(axis=0) > 1).any():
		raise InputError("X must be one-hot: a single 1 in each column, or none where the base is unknown")
	return x


def _heights(attributions: Any, one_hot: np.ndarray) -> np.ndarray:
	"""The score of the base that is there, (W,); InputError for shapes that do not match."""
	scores = _numpy(attributions).astype(np.float64)
	if scores.shape not in (one_hot.shape, one_hot.shape[1:]):
		raise InputError(
			f"attributions must have the shape of the sequence, {one_hot.shape}, or one score a position, "
			f"{one_hot.shape[1:]}, got {scores.shape}"
		)
	_finite("attributions", scores)
	return (scores * one_hot).sum(axis=0) if scores.ndim == 2 else scores * one_hot.any(axis=0)  # -> (W,)


def _finite(name: str, values: np.ndarray) -> np.ndarray:
	"""The values; InputError if one is NaN or infinite."""
	bad = int((~np.isfinite(values)).sum())
	if bad:
		raise InputError(f"{name}: {bad:,} of {values.size:,} values are NaN or infinite; replace them, by 0 for gaps")
	return values


def _columns(source: Any) -> dict[str, np.ndarray]:
	"""The columns of a training log, from its file or from rows."""
	if isinstance(source, str | os.PathLike):
		return read_log(source)
	rows = list(getattr(source, "rows", source))
	return {key: _column(key, [row[key] for row in rows]) for key in (rows[0] if rows else {"Epoch": 0})}


def _column(key: str, cells: Sequence[Any]) -> np.ndarray:
	"""Cells as numbers; those of ``Saved?`` as booleans."""
	if key == "Saved?":
		return np.array([str(cell).strip() in ("True", "1", "yes") for cell in cells], dtype=bool)
	return np.array([_number(key, cell) for cell in cells], dtype=np.float64)


def _number(key: str, cell: Any) -> float:
	"""A number or its text, NaN for none; ValueError for another text."""
	if cell is None or str(cell).strip() in ("", "NA", "None"):
		return float("nan")
	try:
		return float(cell)
	except ValueError:
		raise ValueError(f"{str(cell)[:40]!r} in the column {key!r} is no number") from None
