"""Small pieces of the page: pictures, tables and lines as HTML, numbers as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from cherimoya_cli.report.figures import Picture, unique_ids


def figure_html(picture: Picture, key: str, *, css: str = "") -> str:
	"""A picture as a figure of the page, its ids under a key of its own."""
	svg = unique_ids(picture.svg, key)
	svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(picture.alt)}" class="figure"', 1)
	caption = f"<figcaption>{escape(picture.caption)}</figcaption>" if picture.caption else ""
	return f'<figure class="{css}">\n{svg}\n{caption}</figure>'


def grid_html(pictures: Sequence[Picture], key: str, css: str = "three") -> str:
	"""Pictures side by side, as many as there is room for."""
	inner = "\n".join(figure_html(picture, f"{key}{i}") for i, picture in enumerate(pictures))
	return f'<div class="grid {css}">\n{inner}\n</div>'


def table_html(header: Sequence[str], rows: Iterable[Sequence[str]], *, label: str, css: str = "") -> str:
	"""A table that scrolls inside its own box; cells are HTML already."""
	head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
	lines = []
	for row in rows:
		first, *rest = row
		lines.append(f'<tr><th scope="row">{first}</th>' + "".join(f"<td>{cell}</td>" for cell in rest) + "</tr>")
	return (
		f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">'
		f'<table class="{css}"><thead><tr>{head}</tr></thead><tbody>\n' + "\n".join(lines) + "\n</tbody></table></div>"
	)


def absent_html(text: str) -> str:
	"""A line on what is not there."""
	return f'<p class="absent">{escape(text)}</p>'


def note_html(text: str) -> str:
	"""A line of explanation."""
	return f'<p class="note">{escape(text)}</p>'


def number(value: float | None) -> str:
	"""A measure with three decimals, or whole digits where it is large; a dash where there is none."""
	if value is None or not math.isfinite(value):
		return "–"
	text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"
	return text.replace("-", "−")


def duration(seconds: float) -> str:
	"""A length of time in its two largest units: ``3 min 12 s``."""
	if seconds < 10:
		return f"{seconds:.1f} s"
	whole = round(seconds)
	if whole < 60:
		return f"{whole} s"
	minutes, rest = divmod(whole, 60)
	if minutes < 60:
		return f"{minutes} min {rest} s"
	return f"{minutes // 60} h {minutes % 60} min"


def size(n: int) -> str:
	"""A number of bytes in the unit that suits it."""
	value, unit = float(n), "B"
	for unit in ("B", "kB", "MB", "GB", "TB"):
		if value < 1000 or unit == "TB":
			break
		value /= 1000
	return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def counted(n: int, singular: str, plural: str | None = None) -> str:
	"""A number and what is counted: ``"1 locus"``, ``"2,000 loci"``."""
	return f"{n:,} {singular if n == 1 else plural or singular + 's'}"
