"""The page of ``marginalize``: all motifs in a table that sorts, and the strongest with their profiles, in one file."""

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cherimoya import __version__
from cherimoya.groups import group_slices
from cherimoya.io.motifs import Motif, information
from cherimoya.plot import COLORS, LETTERS, MODEL, MUTED, RULE

N_DRAWN = 20
"""Motifs of each group that are drawn with their profiles."""
MAX_GROUPS = 6
"""Signal groups that the page shows; the table beside it holds all."""

# Outlines in a square of 100 x 100 units, drawn for this page: moves, lines, and arcs of an ellipse (its half axes,
# whether the long way round, the direction, and where to).
_GLYPHS = {
	"A": "M2,100 L36,0 L64,0 L98,100 L76,100 L69,77 L31,77 L24,100 Z M37,59 L63,59 L50,18 Z",
	"C": "M95,29 A48,50,1,0,95,71 L74,63 A27,31,1,1,74,37 Z",
	"G": "M95,29 A48,50,1,0,97,77 L97,45 L54,45 L54,63 L74,63 L74,68 A27,31,1,1,74,37 Z",
	"T": "M3,0 L97,0 L97,20 L61,20 L61,100 L39,100 L39,20 L3,20 Z",
}
_UNIT = 50  # of a picture of letters: the width of a position, and the height of a bit
_LOWEST = 0.03  # bits; lower letters cannot be seen
_COLUMN, _WIDEST = 9, 190  # px: of a letter in the table, and of the widest logo there
_WIDTH, _HEIGHT = 320, 128  # of a chart, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 6, 8, 20  # its margins
_WITHOUT, _DASHES = "#77828d", ' stroke-dasharray="4 3"'


class Results(NamedTuple):
	"""The results of M motifs in G signal groups of T channels, and what they came from.

	Attributes
	----------
	motifs: list of Motif
	inserts: list of str
		What was put in; N where the background's base stays.
	summary: dict of str to numpy.ndarray, shape=(M, G)
		See `cherimoya.interpret.marginalize.summarize`.
	ranks: numpy.ndarray of int, shape=(M, G)
		From 1.
	profiles: dict of int to pair of numpy.ndarray, shape=(T, W)
		Expected counts around the motifs of `drawn_motifs`, without and with them.
	contributions: numpy.ndarray, shape=(M, G, widest w), or None
	signal_groups: tuple of int
		Channels of each group.
	title, model, database: str
		Name of the run, and the files of the model and of the motifs.
	loci: list of str
		The files of background loci.
	n_backgrounds: int
	shuffled: bool
	min_information: float, bits
	random_state: int
	"""

	motifs: list[Motif]
	inserts: list[str]
	summary: dict[str, np.ndarray]
	ranks: np.ndarray
	profiles: dict[int, tuple[np.ndarray, np.ndarray]]
	contributions: np.ndarray | None
	signal_groups: tuple[int, ...]
	title: str
	model: str
	database: str
	loci: list[str]
	n_backgrounds: int
	shuffled: bool
	min_information: float
	random_state: int


class Column(NamedTuple):
	"""A column of the table: its heading, the order that a first click gives, and the cells' summary and format."""

	heading: str
	first: str
	key: str
	form: str


COLUMNS = (
	Column("log2 fold change", "descending", "log2fc_counts", "+.3f"),
	Column("standard error", "ascending", "log2fc_counts_se", ".3f"),
	Column("same sign", "descending", "same_sign", ".0%"),
	Column("p", "ascending", "p_value", "p"),
	Column("as it is", "descending", "log2fc_counts_forward", "+.3f"),
	Column("reversed", "descending", "log2fc_counts_reverse", "+.3f"),
	Column("JSD (nats)", "descending", "jsd_profile", ".4f"),
	Column("L1", "descending", "l1_profile", ".3f"),
)


def drawn_motifs(ranks: np.ndarray) -> list[int]:
	"""The motifs of which the page draws profiles, out of ranks of shape (M, G)."""
	return np.flatnonzero((ranks[:, :MAX_GROUPS] <= N_DRAWN).any(axis=1)).tolist()


def build_page(results: Results) -> str:
	"""The page as text. The same results give the same text, byte for byte."""
	here = Path(__file__).parent
	css = "".join((here / name).read_text(encoding="utf-8") for name in ("report/style.css", "marginalize.css"))
	script = (here / "marginalize.js").read_text(encoding="utf-8")
	digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
	n_groups = min(len(results.signal_groups), MAX_GROUPS)
	groups = "\n".join(_group(results, group) for group in range(n_groups))
	return (
		"<!DOCTYPE html>\n"
		'<html lang="en">\n<head>\n<meta charset="utf-8">\n'
		'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
		'<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
		f"style-src 'unsafe-inline'; script-src 'sha256-{digest}'\">\n"
		f"<title>{escape(results.title)} – effects of motifs</title>\n<style>\n{css}</style>\n"
		"<noscript><style>[data-group][hidden] { display: block; }</style></noscript>\n</head>\n<body>\n"
		f"{_definitions(results)}\n{_header(results)}\n<main>\n{_in_words(results)}\n{_choice(results, n_groups)}\n"
		f"{groups}\n{_terms(results)}\n</main>\n<footer><p>Made with Cherimoya {escape(__version__)}.</p></footer>\n"
		f"<script>{script}</script>\n</body>\n</html>\n"
	)


# ---------------------------------------------------------------------------------------------- letters


def logo(pwm: np.ndarray) -> str:
	"""The letters of a motif's logo as SVG, in a box of 50 w x 100: heights are shares of a position's bits.

	Parameters
	----------
	pwm: numpy.ndarray, shape=(4, w)
		Probabilities.

	References
	----------
	Schneider & Stephens (1990), "Sequence logos: a new way to display consensus sequences", Nucleic Acids Research 18.
	"""
	drawn: dict[str, list[str]] = {}
	for x, (column, bits) in enumerate(zip(pwm.T, information(pwm), strict=True)):
		y = 2.0
		for base in np.argsort(column, kind="stable"):
			height = float(column[base] * bits)
			if height >= _LOWEST:
				drawn.setdefault(LETTERS[base], []).append(_outline(LETTERS[base], x, y - height, height))
			y -= height
	return _paths(drawn)


def contribution_logo(insert: str, values: np.ndarray) -> str:
	"""The bases that were put in as SVG, as tall as what they contribute, below 0 if negative: 50 w x 100."""
	high, low = max(float(values.max()), 0.0), min(float(values.min()), 0.0)
	scale = 2 / max(high - low, 1e-12)
	zero = high * scale
	drawn: dict[str, list[str]] = {}
	for x, (letter, value) in enumerate(zip(insert, (values * scale).tolist(), strict=True)):
		if letter != "N" and abs(value) >= _LOWEST:
			drawn.setdefault(letter, []).append(_outline(letter, x, zero - value, value))
	base = f'<path d="M0 {round(zero * _UNIT)}h{_UNIT * len(insert)}" stroke="{MUTED}"/>'
	return base + _paths(drawn)


def _paths(drawn: dict[str, list[str]]) -> str:
	"""All letters of a kind as one shape, which a browser shows far more quickly than each by itself."""
	return "".join(f'<path fill="{COLORS[letter]}" d="{"".join(drawn[letter])}"/>' for letter in sorted(drawn))


def _outline(letter: str, x: int, y: float, height: float) -> str:
	"""A letter at the x-th position whose top is at y bits; one of negative height stands on its head."""
	left, text = x * _UNIT, []
	at = begun = (0, 0)
	for step in _GLYPHS[letter].split():
		if step == "Z":
			text.append("z")
			at = begun
			continue
		*arc, x100, y100 = map(int, step[1:].split(","))
		to = (left + round(x100 * _UNIT / 100), round((y + y100 * height / 100) * _UNIT))
		move = _pair(to[0] - at[0], to[1] - at[1])
		if arc:
			radii = _pair(round(arc[0] * _UNIT / 100), max(1, round(arc[1] * abs(height) * _UNIT / 100)))
			text.append(f"a{radii} 0 {arc[2]} {arc[3] if height > 0 else 1 - arc[3]} {move}")
		elif step[0] == "M":
			text.append(f"M{_pair(*to)}")
			begun = to
		else:
			text.append(f"l{move}")
		at = to
	return "".join(text)


def _pair(a: int, b: int) -> str:
	"""Two numbers of a path, a sign between them where that will do."""
	return f"{a}{b}" if b < 0 else f"{a} {b}"


def _picture(inner: str, width: int, css: str, label: str, px: int) -> str:
	"""Letters at so many positions, `px` wide on the page."""
	return (
		f'<svg class="{css}" role="img" aria-label="{escape(label)}" viewBox="0 0 {_UNIT * width} {2 * _UNIT}" '
		f'width="{px}" preserveAspectRatio="none">{inner}</svg>'
	)


def _definitions(results: Results) -> str:
	"""The logo of each motif, for the page's pictures to refer to."""
	logos = "\n".join(f'<g id="m{i}">{logo(motif.pwm)}</g>' for i, motif in enumerate(results.motifs))
	return f'<svg class="defs" aria-hidden="true"><defs>{logos}</defs></svg>'


# ---------------------------------------------------------------------------------------------- words


def _header(results: Results) -> str:
	n_groups = len(results.signal_groups)
	facts = [
		_counted(len(results.motifs), "motif"),
		_counted(results.n_backgrounds, "background locus", "background loci"),
		_counted(n_groups, "signal group"),
	]
	return (
		f'<header class="top"><p class="kicker">Effects of motifs</p>\n<h1>{escape(results.title)}</h1>\n'
		f'<p class="facts">{" · ".join(facts)}</p></header>'
	)


def _counted(n: int, singular: str, plural: str | None = None) -> str:
	return f"{n:,} {singular if n == 1 else plural or singular + 's'}"


def _in_words(results: Results) -> str:
	"""What was done, and what came out first."""
	shuffled = ", shuffled so that their dinucleotides stay" if results.shuffled else ""
	first = int(results.ranks[:, 0].argmin())
	effect = float(results.summary["log2fc_counts"][first, 0])
	same = float(results.summary["same_sign"][first, 0])
	group = " in signal group 0" if len(results.signal_groups) > 1 else ""
	verb = "multiplies" if effect >= 0 else "divides"
	return (
		'<section aria-labelledby="words-title">\n<h2 id="words-title">In words</h2>\n'
		f"<p>Each motif was put into the middle of {_counted(results.n_backgrounds, 'sequence')} of background"
		f"{shuffled}, as it is and as its reverse complement, and the model predicted the experiment with it and "
		"without it. What is shown is the difference, averaged: what the motif does by itself, to this model.</p>\n"
		f"<p>The largest effect{group} is that of <strong>{escape(results.motifs[first].name)}</strong> "
		f"({escape(results.motifs[first].id)}): on average it {verb} 1 + the predicted counts by "
		f"<strong>{2 ** abs(effect):.3g}</strong>, in the same direction in {same:.0%} of the sequences.</p>\n"
		"</section>"
	)


def _choice(results: Results, n_groups: int) -> str:
	"""What chooses the signal group, for a script to show; nothing for a single one."""
	if n_groups == 1:
		return ""
	options = "".join(f'<option value="{group}">{_group_name(results, group)}</option>' for group in range(n_groups))
	more = len(results.signal_groups) - n_groups
	note = f'<p class="more">The other {_counted(more, "group")}: in marginalize.tsv.</p>' if more else ""
	return (
		f'<form class="choice" hidden><label for="group">Show</label><select id="group">{options}</select></form>{note}'
	)


def _group_name(results: Results, group: int) -> str:
	channels = results.signal_groups[group]
	return f"signal group {group}" + (" (two strands)" if channels == 2 else "")


def _terms(results: Results) -> str:
	"""What the numbers mean, and what they do not."""
	terms = [
		(
			"log2 fold change",
			"log2 of (1 + counts with the motif) over (1 + counts without), the mean over sequences and both ways "
			"round: 1 is a doubling, −1 a halving, 0 no effect. Its standard error says how far it would move with "
			"other background sequences.",
		),
		("same sign", "The share of sequences in which the effect has the sign of the mean."),
		(
			"p",
			"Of Wilcoxon's signed-rank test that effects in single sequences are as often, and as far, above 0 as "
			"below. It tells a small effect from none, not an important one from a small one: with many sequences "
			"nearly every motif has a small p. With many motifs, some have one by chance.",
		),
		(
			"as it is, reversed",
			"The log2 fold change with the motif as the database has it, and as its reverse complement. They differ "
			"where the model cares which way the motif points.",
		),
		(
			"JSD, L1",
			"How far the shape of the predicted profile moves, whatever its height: the Jensen–Shannon divergence "
			"(0 to 0.69 nats) and the sum of absolute differences (0 to 2). Any change of a sequence moves it a "
			"little, so compare motifs with each other and not with 0.",
		),
		(
			"what is put in",
			"The likeliest base of each position of the motif. Positions of less than "
			f"{results.min_information:g} bits keep the base of the background.",
		),
	]
	if results.contributions is not None:
		terms.append(
			(
				"contributions",
				"How the log2 fold change is shared out among the bases of the motif (DeepLIFT/SHAP against the same "
				"sequence without the motif, averaged): the letters' heights sum to it.",
			)
		)
	terms.append(
		(
			"take care",
			"Effects are those of the model: it has to be a good one. Motifs of one family look alike, and so do "
			"their effects; the table does not say which protein binds. A motif that needs a partner, or other "
			"places than the middle, may do nothing here.",
		)
	)
	lines = "\n".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms)
	loci = ", ".join(results.loci)
	return (
		'<section aria-labelledby="terms-title">\n<h2 id="terms-title">What the numbers mean</h2>\n'
		f'<dl class="terms">\n{lines}\n</dl>\n'
		f'<p class="note">Model <code>{escape(results.model)}</code>, motifs <code>{escape(results.database)}</code>, '
		f"background loci <code>{escape(loci)}</code>, seed {results.random_state}. All numbers are in "
		'<a href="marginalize.tsv">marginalize.tsv</a>.</p>\n</section>'
	)


# ---------------------------------------------------------------------------------------------- a signal group


def _group(results: Results, group: int) -> str:
	"""The strongest motifs of a signal group, and the table of all."""
	order = np.argsort(results.ranks[:, group])
	several = f": {_group_name(results, group)}" if len(results.signal_groups) > 1 else ""
	drawn = order[:N_DRAWN]
	cards = "\n".join(_card(results, int(i), group) for i in drawn)
	strands = " Of a stranded pair the second strand is drawn below 0." if results.signal_groups[group] == 2 else ""
	key = f'<ul class="key"><li>{_key(MODEL, "")}with the motif</li><li>{_key(_WITHOUT, _DASHES)}without</li></ul>'
	hidden = " hidden" if group else ""  # a script shows the one that is chosen
	return (
		f'<div data-group="{group}"{hidden}>\n<section aria-labelledby="strongest{group}">\n'
		f'<h2 id="strongest{group}">The {len(drawn)} strongest{several}</h2>\n'
		"<p>Expected reads per base around the motif, which lies in the shaded stretch and points to the right."
		f'{strands}</p>\n{key}\n<ol class="cards">\n{cards}\n</ol>\n</section>\n'
		f'<section aria-labelledby="all{group}">\n<h2 id="all{group}">All motifs{several}</h2>\n'
		f"{_filter(results, group)}\n{_table(results, order, group)}\n"
		'<p class="none absent" hidden>No motif has all of these words.</p>\n</section>\n</div>'
	)


def _key(color: str, extra: str) -> str:
	line = f'<path d="M0 6H28" stroke="{color}" stroke-width="2.5"{extra}/>'
	return f'<svg viewBox="0 0 28 12" aria-hidden="true">{line}</svg>'


def _filter(results: Results, group: int) -> str:
	return (
		f'<form class="filter" role="search" hidden><label for="filter{group}">Filter</label>'
		f'<input type="search" id="filter{group}" autocomplete="off" spellcheck="false" '
		'placeholder="name, ID or bases">'
		f'<span role="status">{_counted(len(results.motifs), "motif")}</span></form>'
	)


def _table(results: Results, order: np.ndarray, group: int) -> str:
	heads = [
		'<th scope="col" data-first="ascending" aria-sort="ascending">Rank</th>',
		'<th scope="col" data-first="ascending">Motif</th>',
		*(f'<th scope="col" data-first="{column.first}">{column.heading}</th>' for column in COLUMNS),
	]
	heads.insert(3, '<th scope="col">Logo</th>')  # beside the first number, which a phone shows, too
	rows = "\n".join(_row(results, int(i), group) for i in order)
	return (
		'<div class="scroll" role="region" tabindex="0" aria-label="Effects of all motifs">'
		f'<table class="motifs"><thead><tr>{"".join(heads)}</tr></thead><tbody>\n{rows}\n</tbody></table></div>'
	)


def _row(results: Results, i: int, group: int) -> str:
	motif, insert = results.motifs[i], results.inserts[i]
	width = len(insert)
	picture = _picture(f'<use href="#m{i}"/>', width, "", f"logo: {insert}", min(_COLUMN * width, _WIDEST))
	identifier = f'<span class="id">{escape(motif.id)}</span>' if motif.name != motif.id else ""
	cells = [f"<td>{_text(results.summary[c.key][i, group], c.form)}</td>" for c in COLUMNS]
	cells.insert(1, f'<td class="logo">{picture}</td>')
	return (
		f'<tr data-bases="{insert}"><td>{results.ranks[i, group]}</td>'
		f'<th scope="row">{escape(motif.name)}{identifier}</th>{"".join(cells)}</tr>'
	)


def _text(value: float, form: str) -> str:
	"""A number as the table shows it; a dash where there is none."""
	if not np.isfinite(value):
		return "–"
	if form == "p":
		return f"{value:.2g}" if value >= 1e-99 else "<1e-99"
	text = f"{value:{form}}"
	return text.replace("-", "−") if any(c in "123456789" for c in text) else text.lstrip("+-")


def _card(results: Results, i: int, group: int) -> str:
	"""A motif with its logo, its average profile with and without it, and contributions where there are some."""
	motif, insert = results.motifs[i], results.inserts[i]
	effect = results.summary["log2fc_counts"][i, group]
	error = results.summary["log2fc_counts_se"][i, group]
	before, after = (results.summary[f"counts_{kind}"][i, group] for kind in ("without", "with"))
	px = min(_COLUMN * 2 * len(insert), 300)
	parts = [_picture(f'<use href="#m{i}"/>', len(insert), "letters", f"logo: {insert}", px)]
	if results.contributions is not None:
		values = results.contributions[i, group, : len(insert)]
		parts.append('<p class="caption">Contributions of the bases put in</p>')
		label = f"contributions of {insert}, from {values.min():.2g} to {values.max():.2g}"
		parts.append(_picture(contribution_logo(insert, values), len(insert), "letters", label, px))
	parts.append(_chart(results, i, group))
	identifier = f'<span class="id">{escape(motif.id)}</span>' if motif.name != motif.id else ""
	plus = f" ± {error:.3f}" if np.isfinite(error) else ""
	return (
		f'<li class="card"><h4>{escape(motif.name)} {identifier}</h4>'
		f"<p><strong>{_text(effect, '+.3f')}</strong>{plus} log2; "
		f"{_reads(before)} → {_reads(after)} expected reads</p>{''.join(parts)}</li>"
	)


def _reads(value: float) -> str:
	"""A number of reads with three digits, or all of its whole ones."""
	text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
	return text.replace("-", "−")


def _chart(results: Results, i: int, group: int) -> str:
	"""The average profiles around a motif; of a stranded pair the second strand is below 0."""
	channels = group_slices(results.signal_groups)[group]
	before, after = (profile[channels] for profile in results.profiles[i])  # (c, W)
	if len(before) > 2:
		before, after = before.sum(axis=0, keepdims=True), after.sum(axis=0, keepdims=True)
	mirrored, width = len(before) == 2, before.shape[1]
	top = max(float(before.max()), float(after.max()), 1e-12)
	zero = (_HEIGHT - _BOTTOM + _TOP) / 2 if mirrored else _HEIGHT - _BOTTOM
	per_read, per_bp = (zero - _TOP) / top, (_WIDTH - _LEFT - _RIGHT) / width

	def x(position: float) -> float:
		return _LEFT + (position + width // 2) * per_bp

	first = -(len(results.inserts[i]) // 2)
	shade = (
		f'<rect x="{x(first):.1f}" y="{_TOP}" width="{len(results.inserts[i]) * per_bp:.1f}" '
		f'height="{_HEIGHT - _TOP - _BOTTOM}" fill="#e3f1f3"/>'
	)
	lines = [shade, f'<path d="M{_LEFT} {zero:.1f}H{_WIDTH - _RIGHT}" stroke="{RULE}"/>']
	for values, color, extra in ((before, _WITHOUT, _DASHES), (after, MODEL, "")):
		for sign, row in zip((1, -1), values, strict=False):
			path = _line(_LEFT + per_bp / 2, per_bp, zero - sign * per_read * row)
			lines.append(f'<path d="{path}" fill="none" stroke="{color}" stroke-width="1.6"{extra}/>')
	texts = [(f"{top:.2g}", _TOP, "hanging"), ("0", zero, "middle")]
	texts += [(f"{top:.2g}", _HEIGHT - _BOTTOM, "auto")] if mirrored else []
	lines += [
		f'<text x="{_LEFT - 5}" y="{y:.0f}" text-anchor="end" dominant-baseline="{base}">{text}</text>'
		for text, y, base in texts
	]
	half = width // 2
	ticks = [(-half, "start"), (0, "middle"), (half, "end")]
	lines += [
		f'<text x="{x(p):.0f}" y="{_HEIGHT - 6}" text-anchor="{anchor}">{_sign(p)}{" bp" if p == half else ""}</text>'
		for p, anchor in ticks
	]
	tops = f"up to {after.max():.2g} with it and {before.max():.2g} without"
	label = f"Expected reads per base over {width} bp around the motif: {tops}"
	return (
		f'<svg class="chart" role="img" aria-label="{label}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
		f'stroke-linejoin="round">{"".join(lines)}</svg>'
	)


def _sign(position: int) -> str:
	return f"{position:+d}".replace("-", "−") if position else "0"


def _line(left: float, step: float, heights: Sequence[float] | np.ndarray) -> str:
	"""A path through heights at equal steps, in relative moves of a tenth of a unit."""
	xs = np.round(left + step * np.arange(len(heights)), 1)
	ys = np.round(np.asarray(heights, dtype=np.float64), 1)
	moves = [
		f"{dx:g},{dy:g}"
		for dx, dy in zip(np.round(np.diff(xs), 1).tolist(), np.round(np.diff(ys), 1).tolist(), strict=True)
	]
	return f"M{xs[0]:g},{ys[0]:g}l{' '.join(moves)}"
