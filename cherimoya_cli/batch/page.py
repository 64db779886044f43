"""The cohort page: all jobs of a batch as one HTML file without any request."""

import math
import os
import statistics
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from cherimoya_cli.batch.cohort import FAR, FEWEST, MEASURES, Measure, Outlier, Summary, in_words, state_counts
from cherimoya_cli.batch.records import DONE, QUEUED, STATES, WAITING

LISTED = 100
"""How many outliers, and how many jobs that are not done, are listed; the table has all."""

_WIDTH, _HEIGHT, _LEFT, _TOP = 320, 110, 6, 8


def build_page(batch: str, summaries: Sequence[Summary], outliers: Sequence[Outlier]) -> str:
	"""The page as text; the same results give the same text, byte for byte."""
	from cherimoya import __version__

	marked: dict[str, dict[str, Outlier]] = {}
	for outlier in outliers:
		marked.setdefault(outlier.job, {})[outlier.measure] = outlier
	sections = [
		("outliers", "Jobs that stand out", _outliers(summaries, outliers)),
		("unfinished", "Jobs that are not done", _unfinished(summaries)),
		("spread", "How the jobs spread", _figures(summaries, outliers)),
		("jobs", "All jobs", _table(batch, summaries, marked)),
	]
	body = "\n".join(
		f'<section id="{key}" aria-labelledby="{key}-title">\n<h2 id="{key}-title">{title}</h2>\n{html}\n</section>'
		for key, title, html in sections
		if html
	)
	here, name = Path(__file__).parent, Path(batch).name
	css = (here.parent / "report" / "style.css").read_text(encoding="utf-8")
	css += (here / "cohort.css").read_text(encoding="utf-8")
	script = (here / "cohort.js").read_text(encoding="utf-8")
	return (
		"<!DOCTYPE html>\n"
		'<html lang="en">\n<head>\n<meta charset="utf-8">\n'
		'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
		'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
		"style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n"
		f"<title>{escape(name)} – Cherimoya cohort</title>\n<style>\n{css}</style>\n</head>\n<body>\n"
		f'<header class="top"><p class="kicker">Cherimoya cohort</p><h1>{escape(name)}</h1>'
		f'<p class="facts">{_facts(summaries)}</p></header>\n'
		f"<main>\n{_tiles(summaries, outliers)}\n{body}\n</main>\n"
		f"<footer><p>Made with cherimoya {escape(__version__)}.</p></footer>\n<script>\n{script}</script>\n"
		"</body>\n</html>\n"
	)


# ---- top of the page --------------------------------------------------------------------------------


def _facts(summaries: Sequence[Summary]) -> str:
	"""How many jobs of how many samples and folds."""
	samples = {item.job.sample for item in summaries}
	folds = {item.job.fold for item in summaries if item.job.fold is not None}
	text = f"{_counted(len(summaries), 'job')} of {_counted(len(samples), 'sample')}"
	return text + (f" and {_counted(len(folds), 'fold')}" if folds else "")


def _counted(n: int, singular: str) -> str:
	return f"{n:,} {singular}{'' if n == 1 else 's'}"


def _tiles(summaries: Sequence[Summary], outliers: Sequence[Outlier]) -> str:
	"""The numbers that come first."""
	counts = state_counts(summaries)
	others = ", ".join(f"{counts[state]:,} {state}" for state in STATES if state != DONE and counts.get(state))
	tiles = [("Done", f"{counts.get(DONE, 0):,}", others or "all jobs")]
	for measure in MEASURES:
		known = _known(summaries, measure)
		if known:
			low, high = (in_words(measure.key, value) for value in (min(known), max(known)))
			center = in_words(measure.key, statistics.median(known))
			tiles.append((f"Median {measure.label}", center, f"from {low} to {high}"))
	odd = {outlier.job for outlier in outliers if outlier.bad}
	tiles.append(("Stand out", f"{len(odd):,}", "jobs with a low score, lost loci or a long run"))
	cells = "".join(
		f'<div class="tile"><dt>{escape(title)}</dt><dd><span class="value">{escape(value)}</span>'
		f'<span class="unit">{escape(unit)}</span></dd></div>'
		for title, value, unit in tiles
	)
	return f'<dl class="tiles">{cells}</dl>'


def _known(summaries: Sequence[Summary], measure: Measure) -> list[float]:
	"""The finite values of a measure."""
	values = (item.values.get(measure.key, math.nan) for item in summaries)
	return [value for value in values if math.isfinite(value)]


def _outliers(summaries: Sequence[Summary], outliers: Sequence[Outlier]) -> str:
	"""What stands out, in words."""
	n_done = state_counts(summaries).get(DONE, 0)
	if n_done < FEWEST:
		return f'<p class="absent">{_counted(n_done, "job")} done: too few to tell which stand out.</p>'
	if not outliers:
		return "<p>No job stands out in its scores, in the loci that it lost or in its running time.</p>"
	items = "".join(
		f'<li class="{"bad" if outlier.bad else "odd"}"><a href="#job-{escape(outlier.job)}">{escape(outlier.job)}</a>'
		f": {escape(outlier.words)}</li>"
		for outlier in outliers[:LISTED]
	)
	rest = len(outliers) - LISTED
	more = f'<p class="note">{rest:,} more are marked in the table.</p>' if rest > 0 else ""
	note = (
		f"A value stands out if it is more than {FAR} robust standard deviations from the median of all jobs. Low "
		"scores, lost loci and long runs come first; the others may be as they should."
	)
	return f'<ul class="list">{items}</ul>{more}<p class="note">{note}</p>'


def _unfinished(summaries: Sequence[Summary]) -> str:
	"""The jobs that are not done, and why; nothing if all are."""
	rest = [item for item in summaries if item.row.state not in (DONE, WAITING, QUEUED)]
	n_waiting = len(summaries) - len(rest) - state_counts(summaries).get(DONE, 0)
	rest.sort(key=lambda item: -list(STATES).index(item.row.state))
	items = "".join(
		f"<li><b>{escape(item.job.name)}</b>: {escape(item.row.state)}"
		+ (f" in the step {escape(item.row.step)}" if item.row.step else "")
		+ (f": {escape(item.row.note)}" if item.row.note else "")
		+ "</li>"
		for item in rest[:LISTED]
	)
	parts = [f'<ul class="list">{items}</ul>'] if items else []
	if len(rest) > LISTED:
		parts.append(f'<p class="note">{len(rest) - LISTED:,} more are in the table.</p>')
	if n_waiting:
		parts.append(f'<p class="note">{_counted(n_waiting, "job")} not started yet.</p>')
	return "".join(parts)


# ---- figures ----------------------------------------------------------------------------------------


def _figures(summaries: Sequence[Summary], outliers: Sequence[Outlier]) -> str:
	"""A histogram of each measure."""
	figures = []
	for measure in MEASURES:
		known = _known(summaries, measure)
		if len(known) < 2:
			continue
		odd = {outlier.job for outlier in outliers if outlier.measure == measure.key}
		values = [item.values[measure.key] for item in summaries if item.job.name in odd]
		figures.append(_histogram(measure, known, values))
	return f'<div class="grid four">{"".join(figures)}</div>' if figures else ""


def _histogram(measure: Measure, values: Sequence[float], odd: Sequence[float]) -> str:
	"""How often values occur, with their median; outliers are drawn in another colour on top, and told in words."""
	low, high = min(values), max(values)
	span = high - low or 1.0
	n = max(6, min(40, 2 * math.isqrt(len(values))))
	bins, marks = [0] * n, [0] * n
	for store, found in ((bins, values), (marks, odd)):
		for value in found:
			store[min(int((value - low) / span * n), n - 1)] += 1
	top, width = max(bins), (_WIDTH - 2 * _LEFT) / n
	bars = []
	for i, (count, marked) in enumerate(zip(bins, marks, strict=True)):
		height, part = (max(_HEIGHT * number / top, 2 if number else 0) for number in (count, marked))
		for css, size in (("bars", height), ("marked", part)):
			if size:
				bars.append(
					f'<rect class="{css}" x="{_LEFT + i * width + 0.5:.1f}" y="{_TOP + _HEIGHT - size:.1f}" '
					f'width="{max(width - 1, 1):.1f}" height="{size:.1f}"/>'
				)
	center = statistics.median(values)
	x = _LEFT + (center - low) / span * (_WIDTH - 2 * _LEFT)
	base = _TOP + _HEIGHT
	ends = (
		f'<text x="{_LEFT}" y="{base + 16}">{escape(in_words(measure.key, low))}</text>'
		f'<text x="{_WIDTH - _LEFT}" y="{base + 16}" text-anchor="end">{escape(in_words(measure.key, high))}</text>'
	)
	told = f"median {in_words(measure.key, center)}, from {in_words(measure.key, low)} to {in_words(measure.key, high)}"
	caption = f"{measure.label[0].upper()}{measure.label[1:]}: {told}" + (
		f"; {_counted(len(odd), 'outlier')} in red" if odd else ""
	)
	return (
		f'<figure><svg class="figure" role="img" aria-label="{escape(caption)}" viewBox="0 0 {_WIDTH} {base + 22}">'
		f'{"".join(bars)}<line class="axis" x1="{_LEFT}" x2="{_WIDTH - _LEFT}" y1="{base}" y2="{base}"/>'
		f'<line class="median" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 4}" y2="{base}"/>{ends}</svg>'
		f"<figcaption>{escape(caption)}.</figcaption></figure>"
	)


# ---- the table --------------------------------------------------------------------------------------


def _table(batch: str, summaries: Sequence[Summary], marked: Mapping[str, Mapping[str, Outlier]]) -> str:
	"""All jobs; a click on a heading sorts by it."""
	folder = os.path.dirname(batch) or "."
	titles = [
		"Job",
		"State",
		"Split",
		*(f"{m.label[0].upper()}{m.label[1:]}" for m in MEASURES),
		"Training loci",
		"Starts",
	]
	head = "".join(
		f'<th scope="col" aria-sort="none"><button type="button">{escape(title)}</button></th>' for title in titles
	)
	rows = "\n".join(_line(item, folder, marked.get(item.job.name, {})) for item in summaries)
	filter_ = (
		'<p class="filter"><label>Show jobs whose name or state holds <input id="filter" type="search" '
		'autocomplete="off"></label> <span id="shown" role="status"></span></p>'
	)
	return (
		f'{filter_}<div class="scroll" role="region" tabindex="0" aria-label="All jobs"><table class="numbers cohort">'
		f"<thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div>"
	)


def _line(item: Summary, folder: str, odd: Mapping[str, Outlier]) -> str:
	"""The row of a job."""
	name = escape(item.job.name)
	if item.report is not None:
		name = f'<a href="{escape(quote(os.path.relpath(item.report, folder)))}">{name}</a>'
	cells = [f'<td class="text">{escape(item.row.state)}</td>', f'<td class="text">{escape(item.split or "")}</td>']
	for measure in MEASURES:
		value, outlier = item.values.get(measure.key, math.nan), odd.get(measure.key)
		mark = ""
		if outlier is not None:
			side = "high" if outlier.z > 0 else "low"
			mark = f' <span class="{"bad" if outlier.bad else "odd"}">unusually {side}</span>'
		sort = f"{value:.9g}" if math.isfinite(value) else ""
		cells.append(f'<td data-value="{sort}">{escape(in_words(measure.key, value))}{mark}</td>')
	kept = item.kept.get("training")
	cells.append(f'<td data-value="{"" if kept is None else kept}">{"–" if kept is None else f"{kept:,}"}</td>')
	cells.append(f'<td data-value="{item.row.attempts}">{item.row.attempts}</td>')
	return f'<tr id="job-{escape(item.job.name)}"><th scope="row">{name}</th>{"".join(cells)}</tr>'
