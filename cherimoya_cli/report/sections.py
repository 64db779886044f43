"""The sections on motifs and variants: each is there when its step has left something."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np

from cherimoya.errors import CherimoyaError
from cherimoya_cli.report import figures
from cherimoya_cli.report.figures import Picture
from cherimoya_cli.report.findings import Effect, Marginalization, Patterns, Seqlet, Seqlets, Variants
from cherimoya_cli.report.inputs import Attributions, Run
from cherimoya_cli.report.pieces import absent_html, counted, grid_html, note_html, number, table_html

if TYPE_CHECKING:
	from cherimoya_cli.modisco import Pattern

MAX_PATTERNS = 12
"""Patterns that are drawn, those of the most seqlets first."""
MAX_MOTIFS = 15
"""Known motifs in the table of seqlets."""
N_SEQLETS, N_EFFECTS = 4, 3
"""Seqlets and known motifs that are drawn."""
AROUND = 12
"""Bases drawn on either side of a seqlet."""


def motif_sections(run: Run) -> list[tuple[str, str, str]]:
	"""The sections that a run has something for: key, title and HTML."""
	found = run.findings
	sections = []
	if found.seqlets is not None:
		sections.append(("seqlets", "Seqlets", seqlets_html(run, found.seqlets)))
	if found.patterns is not None:
		sections.append(("motifs", "Motifs that were found", patterns_html(run, found.patterns)))
	if found.marginalization is not None:
		title = "Known motifs put into background"
		sections.append(("marginalization", title, marginalization_html(run, found.marginalization)))
	if found.variants is not None:
		sections.append(("variants", "Effects of variants", variants_html(run, found.variants)))
	return sections


def unit_of(attributions: Attributions | None) -> str:
	"""What contributions are measured in."""
	output = attributions.settings.get("output", "counts") if attributions is not None else "counts"
	return "Δ profile score" if output == "profile" else "Δ log count"


def _link(run: Run, page: Path | None, text: str) -> str:
	"""A line with a link to a page beside the report; nothing without one."""
	if page is None:
		return ""
	address = quote(os.path.relpath(page, Path(run.name).parent).replace(os.sep, "/"))
	return f'<p><a href="{escape(address)}">{escape(text)}</a></p>'


def _power(value: float, form: str = ".1e") -> str:
	"""A small number such as a p-value: ``1.2e−05``."""
	return "–" if value != value else (f"{value:.3f}" if value >= 0.001 else f"{value:{form}}").replace("-", "−")


def _signed(value: float) -> str:
	"""A number with its sign."""
	return "–" if value != value else f"{value:+.3f}".replace("-", "−")


# ---- seqlets ----------------------------------------------------------------------------------------


def seqlets_html(run: Run, seqlets: Seqlets) -> str:
	"""How many seqlets there are, what known motifs they are like, and the strongest of them."""
	if not seqlets.n:
		return absent_html(
			"No stretch of contributions stood out: no seqlet was found at the threshold of the settings."
		)
	text = (
		f"{counted(seqlets.n, 'seqlet')}, stretches whose contributions stand out from the rest: {seqlets.positive:,} "
		f"raise the prediction, {seqlets.negative:,} lower it."
	)
	html = [f"<p>{escape(text)}</p>"]
	pictures = strongest_pictures(run.attributions, seqlets)
	if pictures:
		html.append(grid_html(pictures, "q", css="two wide"))
	if seqlets.counts:
		rows = [
			[escape(count.motif), f"{count.n:,}", f"{count.positive:,}", f"{count.negative:,}"]
			for count in seqlets.counts[:MAX_MOTIFS]
		]
		header = ["Known motif", "Seqlets", "Raise", "Lower"]
		html.append("<h3>Known motifs that seqlets are like</h3>")
		html.append(table_html(header, rows, label="Seqlets of each known motif", css="numbers"))
		more = len(seqlets.counts) - MAX_MOTIFS
		if more > 0:
			html.append(note_html(f"The {MAX_MOTIFS} most frequent of {len(seqlets.counts):,} motifs."))
		html.append(
			note_html(
				"A seqlet is counted under the motif that it is most like (Tomtom), if the match has an E-value of at "
				"most match_threshold; rare ones may be chance. Motifs of one family are alike, and the nearest is not "
				"always the factor that is bound."
			)
		)
	elif seqlets.counts is not None:
		html.append(absent_html("No seqlet is like a known motif at the match_threshold of the settings."))
	return "\n".join(html)


def strongest_pictures(attributions: Attributions | None, seqlets: Seqlets) -> list[Picture]:
	"""Logos of the strongest seqlets that do not overlap one another and whose contributions are at hand."""
	if attributions is None:
		return []
	width = attributions.scores.shape[2]
	contributions = None
	pictures: list[Picture] = []
	shown: list[Seqlet] = []
	for seqlet in seqlets.strongest:
		if len(pictures) == N_SEQLETS:
			break
		window = _window_of(attributions, seqlet, width)
		if window is None or any(_overlap(seqlet, other) for other in shown):
			continue
		contributions = attributions.contributions() if contributions is None else contributions  # (n, W)
		first = int(attributions.starts[window])
		low, high = max(seqlet.start - AROUND - first, 0), min(seqlet.end + AROUND - first, width)
		like = _like(seqlet, seqlets.match_threshold)
		pictures.append(
			figures.seqlet_logo(
				attributions.one_hot[window][:, low:high],
				contributions[window, low:high],
				chrom=seqlet.chrom,
				start=first + low,
				marked=(seqlet.start, seqlet.end),
				unit=unit_of(attributions),
				caption=f"{like}Sum of contributions {_signed(seqlet.attribution)}, p {_power(seqlet.p_value)}.",
			)
		)
		shown.append(seqlet)
	return pictures


def _like(seqlet: Seqlet, threshold: float | None) -> str:
	"""A sentence on the known motif nearest to a seqlet; empty where none was looked for."""
	if seqlet.motif is None:
		return ""
	if seqlet.motif == ".":
		return "Like no known motif. "
	if seqlet.motif_e != seqlet.motif_e:  # a file from elsewhere
		return f"Most like {seqlet.motif} (p {_power(seqlet.motif_p)}). "
	value = f"E {_power(seqlet.motif_e) if seqlet.motif_e < 0.1 else f'{seqlet.motif_e:,.1f}'}"
	if threshold is not None and seqlet.motif_e > threshold:
		return f"Like no known motif (the nearest, {seqlet.motif}, has {value}). "
	return f"Most like {seqlet.motif} ({value}). "


def _window_of(attributions: Attributions, seqlet: Seqlet, width: int) -> int | None:
	"""The attributed window that holds a seqlet, flanks and all."""
	inside = (attributions.starts <= seqlet.start) & (attributions.starts + width >= seqlet.end)
	return next((int(i) for i in np.flatnonzero(inside) if attributions.chroms[i] == seqlet.chrom), None)


def _overlap(a: Seqlet, b: Seqlet) -> bool:
	return a.chrom == b.chrom and a.start < b.end + AROUND and b.start < a.end + AROUND


# ---- patterns ---------------------------------------------------------------------------------------


def patterns_html(run: Run, found: Patterns) -> str:
	"""The logos of TF-MoDISco's patterns, with the known motifs nearest to them."""
	if found.problem:
		return absent_html(f"The patterns cannot be shown: {found.problem}.") + _link(
			run, found.page, "TF-MoDISco's report"
		)
	if not found.patterns:
		return absent_html(
			"TF-MoDISco found no pattern: it needs more than a hundred seqlets of a sign, and twenty that are alike. "
			"Contributions at more loci, or of a model that has learned more, may give some."
		) + _link(run, found.page, "TF-MoDISco's report")
	ranked = sorted(found.patterns, key=lambda pattern: -pattern.n_seqlets)[:MAX_PATTERNS]
	pictures = [_pattern_picture(pattern, found, unit_of(run.attributions)) for pattern in ranked]
	raising = sum(pattern.sign > 0 for pattern in found.patterns)
	text = (
		f"{counted(len(found.patterns), 'pattern')}: {raising:,} whose bases raise the prediction, and "
		f"{len(found.patterns) - raising:,} whose bases lower it."
	)
	if len(found.patterns) > MAX_PATTERNS:
		text += f" The {MAX_PATTERNS} of the most seqlets are drawn."
	note = (
		"Letters are mean contributions over the seqlets of a pattern, its ends cut off where they are small. Below "
		"are the nearest known motifs by Tomtom with their q-values: above 0.05 a name says little."
	)
	link = _link(run, found.page, "TF-MoDISco's report, with every pattern")
	return "\n".join([f"<p>{escape(text)}</p>", grid_html(pictures, "m"), note_html(note), link])


def _pattern_picture(pattern: Pattern, found: Patterns, unit: str) -> Picture:
	"""The logo of a pattern."""
	known = found.known.get(pattern.name, [])
	near = "; ".join(f"{motif.motif} (q {_power(motif.q_value)})" for motif in known)
	sign = "raises" if pattern.sign > 0 else "lowers"
	caption = f"{counted(pattern.n_seqlets, 'seqlet')}, {sign} the prediction. {f'Nearest: {near}.' if near else ''}"
	alt = f"Logo of {pattern.name}: {pattern.consensus}, {counted(pattern.n_seqlets, 'seqlet')}."
	return figures.matrix_logo(pattern.cwm[pattern.core], alt=alt, caption=caption.strip(), unit=unit)


# ---- marginalization --------------------------------------------------------------------------------


def marginalization_html(run: Run, found: Marginalization) -> str:
	"""The known motifs with the largest effects in each group, and the logos of the first."""
	html = []
	names = run.group_names
	logos = _pwms(found)
	for group, effects in enumerate(found.groups):
		if len(found.groups) > 1:
			html.append(f"<h3>{escape(names[group] if group < len(names) else f'group {group + 1}')}</h3>")
		pictures = [
			_effect_picture(effect, logos[effect.motif]) for effect in effects[:N_EFFECTS] if effect.motif in logos
		]
		if pictures:
			html.append(grid_html(pictures, f"k{group}x"))
		header = ["Known motif", "log2 fold change", "± error", "Same sign", "Profile JSD"]
		rows = [
			[
				f"{escape(effect.motif)} {escape(effect.name)}",
				_signed(effect.log2fc),
				number(effect.error),
				"–" if effect.same_sign != effect.same_sign else f"{effect.same_sign:.0%}",
				number(effect.jsd),
			]
			for effect in effects
		]
		html.append(table_html(header, rows, label="Effects of known motifs", css="numbers"))
	html.append(
		note_html(
			f"Each of {counted(found.n_motifs, 'known motif')} was put into the middle of background loci, both ways "
			"round; the log2 fold change is that of the predicted counts with and without it, averaged. A motif with "
			"no effect here may still matter beside others."
		)
	)
	html.append(_link(run, found.page, "The table of all motifs, with profiles"))
	return "\n".join(html)


def _pwms(found: Marginalization) -> dict[str, np.ndarray]:
	"""The matrices of the motifs that are to be drawn, by their IDs; none where their file cannot be read any more."""
	wanted = {effect.motif for effects in found.groups for effect in effects[:N_EFFECTS]}
	if found.database is None or not wanted:
		return {}
	from cherimoya.io.motifs import read_motifs

	try:
		return {motif.id: motif.pwm for motif in read_motifs(found.database) if motif.id in wanted}
	except CherimoyaError:
		return {}


def _effect_picture(effect: Effect, pwm: np.ndarray) -> Picture:
	"""The logo of a known motif."""
	from cherimoya.io.motifs import information

	title = " ".join(dict.fromkeys((effect.motif, effect.name)))
	caption = f"{title}: log2 fold change {_signed(effect.log2fc)}."
	bits = (pwm * information(pwm)).T  # (4, w) -> (w, 4)
	return figures.matrix_logo(bits, alt=f"Logo of {title}: {effect.inserted}.", caption=caption, unit="Bits")


# ---- variants ---------------------------------------------------------------------------------------


def variants_html(run: Run, found: Variants) -> str:
	"""The alleles with the largest effects, and how many could not be scored."""
	scored = found.statuses.get("scored", 0)
	given = sum(found.statuses.values())
	html = [f"<p>{scored:,} of {counted(given, 'allele')} scored.</p>"]
	if found.strongest:
		several = found.n_groups > 1
		header = ["Allele", "Change", *(["Group"] if several else []), "log2 fold change", "Profile JSD", "Profile L1"]
		rows = []
		for allele in found.strongest:
			name = f" {escape(allele.name)}" if allele.name not in ("", ".") else ""
			group = [escape(run.group_names[allele.group])] if several and allele.group < len(run.group_names) else []
			change = allele.change if len(allele.change) <= 24 else f"{allele.change[:23]}…"
			cells = [f"{allele.place}{name}", f"<code>{escape(change)}</code>", *group]
			rows.append([*cells, _signed(allele.log2fc), number(allele.jsd), number(allele.l1)])
		html.append(table_html(header, rows, label="Strongest variants", css="numbers"))
	others = [(status, n) for status, n in found.statuses.items() if status != "scored"]
	if others:
		rows = [[escape(status[:1].upper() + status[1:]), f"{n:,}"] for status, n in others]
		html.append("<h3>Alleles that were not scored</h3>")
		html.append(table_html(["Reason", "Alleles"], rows, label="Alleles not scored", css="numbers narrow"))
	html.append(
		note_html(
			"The largest changes of predicted counts, as log2 of alternate over reference; the profile's change is the "
			"Jensen–Shannon divergence in nats, and the sum of absolute differences (L1)."
		)
	)
	return "\n".join(html)
