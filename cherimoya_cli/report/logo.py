"""Sequence logos as vector letters: the height of a letter is the contribution of the base that is there."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
	from matplotlib.axes import Axes
	from matplotlib.path import Path

LETTERS = "ACGT"
#: The field's colours of the four bases.
COLORS = {"A": "#1a9850", "C": "#2c5fb3", "G": "#f0a202", "T": "#d73027"}


@cache
def _glyph(letter: str) -> Path:
	"""The outline of a letter, scaled to the unit square."""
	from matplotlib.font_manager import FontProperties
	from matplotlib.path import Path
	from matplotlib.textpath import TextPath

	# DejaVu Sans comes with matplotlib, so the letters are the same on every machine
	outline = TextPath((0, 0), letter, size=1, prop=FontProperties(family="DejaVu Sans", weight="bold"))
	(x0, y0), (x1, y1) = outline.get_extents().get_points()
	return Path((outline.vertices - (x0, y0)) / (x1 - x0, y1 - y0), outline.codes)


def draw_logo(ax: Axes, one_hot: np.ndarray, heights: np.ndarray, *, start: float = 0.0, gap: float = 0.06) -> None:
	"""Draw a logo into an axis.

	Parameters
	----------
	ax: matplotlib.axes.Axes
		Where to draw; its limits are left alone.
	one_hot: numpy.ndarray, shape=(4, W)
		The bases, ACGT; a column of zeros (N) draws nothing.
	heights: numpy.ndarray, shape=(W,)
		Heights; a negative one hangs its letter upside down from 0.
	start: float, default 0.0
		The x of the left edge of the first letter; each letter is 1 wide.
	gap: float, default 0.06
		Free space at both sides of a letter, as a share of its width.
	"""
	from matplotlib.patches import PathPatch
	from matplotlib.path import Path

	for row, letter in enumerate(LETTERS):
		glyph = _glyph(letter)
		positions = np.flatnonzero((one_hot[row] != 0) & (heights != 0))
		if not len(positions):
			continue
		# one compound path for all letters of a kind keeps the file small
		scale = np.stack([np.full(len(positions), 1 - 2 * gap), heights[positions]], axis=1)  # (m, 2)
		offset = np.stack([start + positions + gap, np.zeros(len(positions))], axis=1)  # (m, 2)
		vertices = glyph.vertices[None] * scale[:, None] + offset[:, None]  # (m, V, 2)
		path = Path(vertices.reshape(-1, 2), np.tile(glyph.codes, len(positions)))  # (m, V, 2) -> (m * V, 2)
		ax.add_patch(PathPatch(path, facecolor=COLORS[letter], edgecolor="none"))
