"""The page itself: what a run left, its verdict and its figures, as one HTML file without any request."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cherimoya.errors import InputError
from cherimoya.groups import group_slices
from cherimoya_cli.report import figures
from cherimoya_cli.report.figures import Picture
from cherimoya_cli.report.inputs import Accounting, Evaluation, Run
from cherimoya_cli.report.pieces import (
	absent_html,
	counted,
	duration,
	grid_html,
	note_html,
	number,
	size,
	table_html,
)
from cherimoya_cli.report.sections import motif_sections, unit_of
from cherimoya_cli.report.verdict import Verdict, judge, saved_epoch, two_decimals

#: Groups that get figures of their own; the measures of all are in the table.
MAX_DRAWN_GROUPS = 6
#: Profiles are smoothed before they are drawn: reads in the window below which, and the Gaussian's sigma (bp).
SMOOTHING = ((200, 15.0), (2000, 5.0))


class Measure(NamedTuple):
	"""A column of the performance table, as the page names it."""

	key: str
	label: str
	higher_is_better: bool


MEASURES = (
	Measure("profile_pearson", "Profile Pearson", True),
	Measure("profile_spearman", "Profile Spearman", True),
	Measure("profile_jsd", "Profile JSD (nats)", False),
	Measure("profile_mnll", "Profile loss (nats)", False),
	Measure("count_pearson", "Count Pearson", True),
	Measure("count_spearman", "Count Spearman", True),
	Measure("count_mse", "Count MSE", False),
	Measure("all_count_pearson", "Count Pearson, all loci", True),
	Measure("all_count_spearman", "Count Spearman, all loci", True),
	Measure("all_count_mse", "Count MSE, all loci", False),
	Measure("auroc", "Area under ROC", True),
	Measure("auprc", "Area under PR", True),
)

SPLIT_NAMES = {
	"training": "Training",
	"training_negatives": "Training background",
	"validation": "Validation",
	"validation_negatives": "Validation background",
	"test": "Test",
	"test_negatives": "Test background",
	"chosen": "Chosen",
	"chosen_negatives": "Chosen background",
}

ICONS = {"usable": "✓", "partly": "◐", "unusable": "✕", "unknown": "?"}


def build_page(run: Run, *, n_logos: int = 4) -> str:
	"""The report of a run as the text of an HTML page. The same run gives the same text, byte for byte."""
	verdict = judge(run)
	sections = [
		("performance", "Beside the baselines", _performance(run)),
		("counts", "Observed and predicted counts", _counts(run)),
		("profiles", "Profiles of three held-out loci", _profiles(run)),
		("contributions", "Contributions of bases", _contributions(run, n_logos)),
		*motif_sections(run),
		("loci", "Where the reads and loci went", _loci(run)),
		("training", "Training", _training(run)),
		("settings", "Settings", _settings(run)),
		("files", "Versions and files", _provenance(run)),
	]
	body = "\n".join(
		f'<section id="{key}" aria-labelledby="{key}-title">\n'
		f'<h2 id="{key}-title">{escape(title)}</h2>\n{html}\n</section>'
		for key, title, html in sections
	)
	links = "".join(f'<li><a href="#{key}">{escape(title)}</a></li>' for key, title, _ in sections)
	css = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
	return (
		"<!DOCTYPE html>\n"
		'<html lang="en">\n<head>\n<meta charset="utf-8">\n'
		'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
		'<meta http-equiv="Content-Security-Policy" '
		"content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
		f"<title>{escape(run.title)} – Cherimoya report</title>\n<style>\n{css}</style>\n</head>\n<body>\n"
		f"{_header(run)}\n<main>\n{_verdict(verdict)}\n{_tiles(run, verdict)}\n"
		f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n{body}\n</main>\n'
		f"<footer><p>{_made_with(run)}</p></footer>\n</body>\n</html>\n"
	)


def publish(path: str | Path, text: str) -> Path:
	"""Write a text under its final name at once: to a temporary file beside it, then renamed."""
	path = Path(path)
	try:
		handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
	except OSError as error:
		raise InputError(
			f"{path}: cannot be written ({error.strerror}); choose a name in a folder that exists and is writable"
		) from error
	try:
		with os.fdopen(handle, "w", encoding="utf-8") as file:
			file.write(text)
		umask = os.umask(0)
		os.umask(umask)
		os.chmod(temporary, 0o666 & ~umask)
		os.replace(temporary, path)
	except BaseException:
		Path(temporary).unlink(missing_ok=True)
		raise
	return path


# ---------------------------------------------------------------------------------------------- top of the page


def _header(run: Run) -> str:
	facts = []
	record = run.fit_record or {}
	if isinstance(record.get("n_parameters"), int):
		facts.append(f"{record['n_parameters']:,} parameters")
	groups = run.signal_groups
	stranded = sum(g == 2 for g in groups)
	if record.get("signal_groups"):
		text = counted(len(groups), "signal group")
		facts.append(
			f"{text}, {stranded} stranded"
			if len(groups) > 1
			else "stranded signal"
			if stranded
			else "unstranded signal"
		)
	if record.get("n_control_tracks"):
		facts.append(counted(int(record["n_control_tracks"]), "control track"))
	if "training" in run.accounting:
		facts.append(f"{counted(run.accounting['training'].kept, 'training locus', 'training loci')}")
	line = " · ".join(escape(fact) for fact in facts)
	return (
		f'<header class="top"><p class="kicker">Cherimoya report</p>\n<h1>{escape(run.title)}</h1>\n'
		f'<p class="facts">{line}</p></header>'
	)


def _verdict(verdict: Verdict) -> str:
	findings = "".join(f"<li>{escape(text)}</li>" for text in verdict.findings)
	cautions = "".join(f"<li>{escape(text)}</li>" for text in verdict.cautions)
	icon = f'<span class="icon" aria-hidden="true">{ICONS[verdict.level]}</span>'
	parts = [
		f'<section class="verdict {verdict.level}" id="verdict" aria-labelledby="verdict-title">',
		f'<h2 id="verdict-title">{icon}{verdict.title}</h2>',
		f'<p class="summary">{escape(verdict.summary)}</p>',
		f'<ul class="findings">{findings}</ul>' if findings else "",
		f'<h3>Limits</h3><ul class="cautions">{cautions}</ul>' if cautions else "",
		"</section>",
	]
	return "\n".join(part for part in parts if part)


def _tiles(run: Run, verdict: Verdict) -> str:
	evaluation = run.held_out
	if evaluation is None:
		return ""
	tiles = []
	several = len(evaluation.rows) > 1
	for part, label in (("profile", "Profile Pearson"), ("counts", "Count Pearson")):
		values = np.array([(c.model, c.baseline) for c in verdict.comparisons if c.part == part], dtype=np.float64)
		if not len(values) or not np.isfinite(values[:, 0]).any():
			continue
		model, baseline = np.nanmean(values[:, 0]), values[:, 1]
		known = baseline[np.isfinite(baseline)]
		text = f"baseline {two_decimals(known.mean())}" if len(known) else "no baseline"
		tiles.append((label, two_decimals(model), text + (", mean of groups" if several else "")))
	auroc = [row["auroc"] for row in evaluation.rows if math.isfinite(row.get("auroc", math.nan))]
	if auroc:
		text = "area under ROC; 0.5 is chance" + (", mean of groups" if several else "")
		tiles.append(("Peaks from background", f"{np.mean(auroc):.2f}", text))
	if evaluation.n_loci is not None:
		title = "Chosen loci" if evaluation.split == "chosen" else "Held-out loci"
		tiles.append((title, f"{evaluation.n_loci:,}", f"{evaluation.split} split"))
	inner = "".join(
		f'<div class="tile"><dt>{escape(label)}</dt><dd><span class="value">{escape(value)}</span> '
		f'<span class="unit">{escape(text)}</span></dd></div>'
		for label, value, text in tiles
	)
	return f'<dl class="tiles">{inner}</dl>'


# ---------------------------------------------------------------------------------------------- measures


def _performance(run: Run) -> str:
	if not run.evaluations:
		return absent_html("The model has not been evaluated: there is no performance table. Run evaluate to make one.")
	splits = [run.evaluations[key] for key in ("test", "validation", "chosen") if key in run.evaluations]
	header = ["Measure"]
	for evaluation in splits:
		kinds = ("model", "baseline") if evaluation.baselines else ("model",)
		header += [f"{evaluation.split.capitalize()}<br><span>{kind}</span>" for kind in kinds]
	html = []
	for group in range(len(splits[0].rows)):
		rows = [row for measure in MEASURES if (row := _measure_row(measure, splits, group)) is not None]
		name = run.group_names[group]
		if len(splits[0].rows) > 1:
			html.append(f"<h3>{escape(name)}</h3>")
		html.append(table_html(header, rows, label=f"Measures of {name}", css="numbers"))
	html.append(
		note_html(
			"The better of model and baseline is bold; ↑ higher is better, ↓ lower is better. Two baselines were "
			"fitted on the training loci: for profiles, the mean training profile, the same at every locus; for "
			"counts, a linear model of log(1 + reads) on the GC and CpG content of the sequence. Profile "
			"measures are means over loci: JSD is the Jensen–Shannon divergence, the loss the multinomial "
			"negative log-likelihood. Count measures are on log(1 + reads); MSE is the mean squared error. “All "
			"loci” are peaks and background together, which the areas under the ROC and the precision–recall "
			"(PR) curve tell apart by predicted counts."
		)
	)
	missing = [evaluation.split for evaluation in splits if not evaluation.baselines]
	if missing:
		html.append(
			absent_html(f"No baselines were measured on the {' and '.join(missing)} split: evaluate ran without them.")
		)
	if "test" not in run.evaluations:
		html.append(
			absent_html("There is no test split: the measures are those of the split on which the epoch was chosen.")
		)
	return "\n".join(html)


def _measure_row(measure: Measure, splits: Sequence[Evaluation], group: int) -> list[str] | None:
	cells, found = [], False
	for evaluation in splits:
		model = evaluation.rows[group].get(measure.key, math.nan)
		rows = evaluation.baselines or []
		baseline = rows[group].get(measure.key, math.nan) if rows else math.nan
		found = found or math.isfinite(model)
		better = math.isfinite(model) and math.isfinite(baseline) and model != baseline
		model_wins = better and (model > baseline) == measure.higher_is_better
		cells.append(f"<strong>{number(model)}</strong>" if model_wins else number(model))
		if rows:
			cells.append(f"<strong>{number(baseline)}</strong>" if better and not model_wins else number(baseline))
	arrow = (
		'<span class="arrow" title="higher is better">↑</span>'
		if measure.higher_is_better
		else ('<span class="arrow" title="lower is better">↓</span>')
	)
	return [f"{escape(measure.label)} {arrow}", *cells] if found else None


# ---------------------------------------------------------------------------------------------- counts


def _counts(run: Run) -> str:
	evaluation = run.held_out
	arrays = evaluation.arrays if evaluation else None
	if evaluation is None or arrays is None or not {"observed_counts", "predicted_log_counts"} <= set(arrays):
		return absent_html("There are no values per held-out locus to draw: evaluate has not written them.")
	pictures, html = [], []
	drawn = range(min(arrays["observed_counts"].shape[1], MAX_DRAWN_GROUPS))
	for group in drawn:
		pictures += _count_pictures(run, evaluation, arrays, group)
	html.append(grid_html(pictures, "c"))
	background = (
		" Grey points are background loci."
		if "negative_observed_counts" in arrays
		else (" Background loci were not measured.")
	)
	text = f"Each point is one {evaluation.split} locus; a perfect model puts all of them on the diagonal."
	if "baseline_predicted_log_counts" in arrays:
		text += " The baseline's plot shows what base composition alone predicts."
	text += background
	if "profile_pearson" in arrays:
		text += (
			" The histogram shows how well the shape of each profile is predicted, whatever its height; where "
			"reads are few, no model can come close to 1."
		)
	html.append(note_html(text))
	html += _left_out(run, arrays["observed_counts"].shape[1])
	return "\n".join(html)


def _left_out(run: Run, n_groups: int) -> list[str]:
	if n_groups <= MAX_DRAWN_GROUPS:
		return []
	return [
		note_html(
			f"The first {MAX_DRAWN_GROUPS} of {n_groups} groups are drawn; the measures of all of them are in the "
			"table above."
		)
	]


def _count_pictures(run: Run, evaluation: Evaluation, arrays: dict[str, np.ndarray], group: int) -> list[Picture]:
	several = arrays["observed_counts"].shape[1] > 1
	name = run.group_names[group]
	suffix = f", {name}" if several else ""
	observed = np.log1p(arrays["observed_counts"][:, group].astype(np.float64))
	predicted = arrays["predicted_log_counts"][:, group].astype(np.float64)
	reference = arrays.get("baseline_predicted_log_counts")
	negatives = None
	if {"negative_observed_counts", "negative_predicted_log_counts"} <= set(arrays):
		negatives = (
			np.log1p(arrays["negative_observed_counts"][:, group].astype(np.float64)),
			arrays["negative_predicted_log_counts"][:, group].astype(np.float64),
		)
	values = [observed, predicted] + (list(negatives) if negatives is not None else [])
	values = [v[np.isfinite(v)] for v in values]
	low, high = min(float(v.min()) for v in values if len(v)), max(float(v.max()) for v in values if len(v))
	margin = 0.04 * max(high - low, 0.5)
	limits = (low - margin, high + margin)
	loci = f"{evaluation.split}"
	pictures = [count_picture(f"Model{suffix}", observed, predicted, negatives, limits, loci)]
	if reference is not None:
		pictures.append(
			count_picture(f"GC and CpG baseline{suffix}", observed, reference[:, group], None, limits, loci)
		)
	if "profile_pearson" in arrays:
		channels = group_slices(run.signal_groups)[group]
		per_locus = _locus_means(arrays["profile_pearson"][:, channels])
		baseline = arrays.get("baseline_profile_pearson")
		baseline = _locus_means(baseline[:, channels]) if baseline is not None else None
		row = evaluation.baselines[group] if evaluation.baselines else {}
		mean = row.get("profile_pearson")
		if len(per_locus):
			picture = figures.histogram(per_locus, baseline, mean, title=f"Profiles{suffix}", loci=loci)
			low, middle, high = np.quantile(per_locus, [0.25, 0.5, 0.75])
			text = f"Median {two_decimals(middle)}, middle half {two_decimals(low)} to {two_decimals(high)}."
			pictures.append(picture._replace(caption=text))
	return pictures


def _locus_means(values: np.ndarray) -> np.ndarray:
	"""Mean over a group's channels of each locus that has a value, (n, channels) -> (m,)."""
	values = values[~np.isnan(values).all(axis=1)].astype(np.float64)
	return np.nanmean(values, axis=1) if len(values) else np.empty(0)


def count_picture(
	title: str,
	observed: np.ndarray,
	predicted: np.ndarray,
	negatives: tuple[np.ndarray, np.ndarray] | None,
	limits: tuple[float, float],
	loci: str,
) -> Picture:
	"""A scatter plot of counts with its correlation in the caption."""
	picture = figures.count_scatter(observed, predicted.astype(np.float64), negatives, limits, title=title, loci=loci)
	constant = len(observed) < 2 or observed.std() < 1e-12 or predicted.std() < 1e-12
	pearson = 0.0 if constant else float(np.corrcoef(observed, predicted)[0, 1])
	text = f"Pearson {two_decimals(pearson)} over {counted(len(observed), 'locus', 'loci')}."
	return picture._replace(caption=text, alt=f"{picture.alt} {text}")


# ---------------------------------------------------------------------------------------------- profiles


def _profiles(run: Run) -> str:
	evaluation = run.held_out
	arrays = evaluation.arrays if evaluation else None
	needed = {"example_index", "example_observed", "example_predicted"}
	if evaluation is None or arrays is None or not needed <= set(arrays) or not len(arrays["example_index"]):
		return absent_html("There are no example loci to draw: evaluate has not written any.")
	index = arrays["example_index"].astype(int)
	labels = ("Best", "Median", "Worst") if len(index) == 3 else tuple(f"Locus {i + 1}" for i in range(len(index)))
	slices = group_slices(run.signal_groups)
	html, smoothed = [], False
	for group, channels in enumerate(slices[:MAX_DRAWN_GROUPS]):
		pictures = []
		for k, label in enumerate(labels):
			observed = arrays["example_observed"][k, channels].astype(np.float64)  # (3, T, out) -> (channels, out)
			predicted = arrays["example_predicted"][k, channels].astype(np.float64)
			sigma = smoothing(float(observed.sum()))
			smoothed = smoothed or sigma > 0
			per_locus = arrays.get("profile_pearson")
			pearson = _mean_or_none(per_locus[index[k], channels]) if per_locus is not None else None
			place = _place(arrays, index[k])
			pictures.append(
				figures.profile(observed, predicted, title=f"{label} locus", label=place, sigma=sigma, pearson=pearson)
			)
		if len(slices) > 1:
			html.append(f"<h3>{escape(run.group_names[group])}</h3>")
		html.append(grid_html(pictures, f"p{group}x"))
	text = (
		f"The best, the median and the worst of the {evaluation.split} loci with at least the median number of "
		"reads, by the Pearson correlation of their profiles: shallower loci look poor under any model. "
		"Predicted reads are the predicted profile times the predicted count."
	)
	if smoothed:
		few, some = SMOOTHING
		text += (
			f" Where a window has fewer than {some[0]:,} reads, both curves are smoothed in the same way "
			f"(Gaussian, σ = {some[1]:g} bp; {few[1]:g} bp below {few[0]:,} reads); the correlations are those of "
			"the unsmoothed profiles."
		)
	html.append(note_html(text))
	html += _left_out(run, len(slices))
	return "\n".join(html)


def smoothing(reads: float) -> float:
	"""The sigma, bp, with which a profile of so many reads is drawn; 0 where it is drawn as it is."""
	return next((sigma for below, sigma in SMOOTHING if reads < below), 0.0)


def _mean_or_none(values: np.ndarray) -> float | None:
	values = values[~np.isnan(values)]
	return float(values.mean()) if len(values) else None


def _place(arrays: dict[str, np.ndarray], i: int) -> str:
	if not {"chrom", "start", "end"} <= set(arrays):
		return f"locus {i}"
	return f"{arrays['chrom'][i]}:{int(arrays['start'][i]):,}–{int(arrays['end'][i]):,}"


# ---------------------------------------------------------------------------------------------- contributions


def _contributions(run: Run, n_logos: int) -> str:
	attributions = run.attributions
	if attributions is None:
		return absent_html(
			"Contributions have not been computed: run attribute to see which bases the predictions rest on."
		)
	if not len(attributions.starts):
		return absent_html("Contributions were computed for no locus.")
	contributions = attributions.contributions()  # (n, W)
	kernel = min(50, contributions.shape[1])
	sums = np.cumsum(np.pad(np.abs(contributions), ((0, 0), (1, 0))), axis=1)  # (n, W + 1)
	strength = (sums[:, kernel:] - sums[:, :-kernel]).max(axis=1)  # (n, W + 1 - kernel) -> (n,)
	output = attributions.settings.get("output", "counts")
	profile = output == "profile"
	pictures = []
	for i in pick_apart(strength, attributions.chroms, attributions.starts, contributions.shape[1], n_logos):
		pictures.append(
			figures.contribution_logo(
				attributions.one_hot[i],
				contributions[i],
				chrom=attributions.chroms[i],
				start=int(attributions.starts[i]),
				width=kernel,
				unit=unit_of(attributions),
			)
		)
	what = "the shape of the predicted profile" if profile else "the predicted log count"
	n = len(attributions.starts)
	text = (
		f"The {counted(len(pictures), 'locus', 'loci')} with the strongest {kernel} bp of contributions among "
		f"the {n:,} that were computed. The strip shows the whole window, the letters its shaded part. A letter's "
		f"height is the contribution of that base to {what}: how much higher the prediction is than the mean over "
		"all four bases at that position; letters below the line lower it. Recurring words in tall letters are "
		"what the model reads: look for the motifs of the factors you expect."
	)
	return grid_html(pictures, "a", css="two wide") + "\n" + note_html(text)


def pick_apart(strength: np.ndarray, chroms: Sequence[str], starts: np.ndarray, width: int, n: int) -> list[int]:
	"""Indices of the ``n`` strongest windows that do not overlap one another, strongest first."""
	picked: list[int] = []
	for i in np.argsort(-strength, kind="stable"):
		if len(picked) == n:
			break
		if all(chroms[i] != chroms[j] or abs(int(starts[i]) - int(starts[j])) >= width for j in picked):
			picked.append(int(i))
	return picked


# ---------------------------------------------------------------------------------------------- loci


def _loci(run: Run) -> str:
	return "\n".join([*_reads(run), _accounting(run), *_background(run)])


def _reads(run: Run) -> list[str]:
	if not run.reads:
		return []
	rows = []
	for file in run.reads:
		lost = "; ".join(f"{reason} {n:,}" for reason, n in file.dropped.items()) or "none"
		name = f"<code>{escape(file.name)}</code>" + (" (control)" if file.role == "control" else "")
		rows.append([name, escape(file.unit), f"{file.given:,}", f"{file.used:,}", escape(lost)])
	table = table_html(["File", "Unit", "Given", "Used", "Dropped"], rows, label="Reads used", css="numbers reads")
	return ["<h3>Reads</h3>", table, "<h3>Loci</h3>"]


def _background(run: Run) -> list[str]:
	found = run.background
	if found is None:
		return []
	picture = figures.gc_histogram(found.edges, found.gc_loci, found.gc_background)
	text = (
		f"{found.found:,} of {found.requested:,} background loci were found, matched to the loci in GC content "
		f"(Kolmogorov–Smirnov distance {found.ks:.2f}; 0 is a perfect match)."
	)
	return ["<h3>Background</h3>", grid_html([picture._replace(caption=text)], "g")]


def _accounting(run: Run) -> str:
	accounting = {key: run.accounting[key] for key in SPLIT_NAMES if key in run.accounting}
	if not accounting:
		return absent_html("There is no record of the loci: the run was not trained by this version's fit.")
	reasons = list(dict.fromkeys(reason for split in accounting.values() for reason, n in split.dropped.items() if n))
	header = ["Loci", *(SPLIT_NAMES[key] for key in accounting)]
	rows = [["Given", *(f"{split.given:,}" for split in accounting.values())]]
	for reason in reasons:
		cells = [f"−{split.dropped[reason]:,}" if split.dropped.get(reason) else "0" for split in accounting.values()]
		rows.append([escape(reason[:1].upper() + reason[1:]), *cells])
	rows.append(["<strong>Kept</strong>", *(f"<strong>{split.kept:,}</strong>" for split in accounting.values())])
	note = note_html("Every locus given is either kept or counted under one reason, split by split.")
	absent = [] if "test" in run.evaluations or "test" in accounting else [absent_html("There was no test split.")]
	table = table_html(header, rows, label="Where the loci went", css="numbers")
	return "\n".join([_bar(run), table, note, *_by_file(accounting), *absent])


def _by_file(accounting: dict[str, Accounting]) -> list[str]:
	"""Where the loci of each file went, for splits whose loci come from several."""
	rows = []
	for split, account in accounting.items():
		for name, part in account.files.items():
			lost = "; ".join(f"{reason} {n:,}" for reason, n in part.dropped.items() if n) or "none"
			cells = [SPLIT_NAMES[split], f"<code>{escape(Path(name).name)}</code>", f"{part.given:,}", f"{part.kept:,}"]
			rows.append([*cells, escape(lost)])
	if not rows:
		return []
	header = ["Split", "File", "Given", "Kept", "Dropped"]
	return [
		"<h4>File by file</h4>",
		table_html(header, rows, label="Where the loci of each file went", css="numbers reads"),
	]


def _bar(run: Run) -> str:
	"""One bar of all peaks: each split, what was dropped, and what belongs to no split."""
	splits = [(key, run.accounting[key]) for key in ("training", "validation", "test") if key in run.accounting]
	if not splits or len({split.given for _, split in splits}) != 1 or splits[0][1].given == 0:
		return ""
	given = splits[0][1].given
	parts = [(key, SPLIT_NAMES[key], split.kept) for key, split in splits]
	lost = sum(sum(split.lost.values()) for _, split in splits)
	rest = given - sum(n for *_, n in parts) - lost
	if rest < 0:
		return ""
	parts += [("lost", "Dropped", lost), ("rest", "On other chromosomes or regions", rest)]
	parts = [part for part in parts if part[2]]
	bar = "".join(f'<span class="{css}" style="flex-grow:{n}"></span>' for css, _, n in parts)
	legend = "".join(
		f'<li><span class="swatch {css}" aria-hidden="true"></span>{escape(label)} <strong>{n:,}</strong> '
		f"<span>({n / given:.1%})</span></li>"
		for css, label, n in parts
	)
	return (
		f'<figure class="loci"><div class="bar" aria-hidden="true">{bar}</div>'
		f'<ul class="legend">{legend}</ul><figcaption>The {given:,} loci that were given.</figcaption></figure>'
	)


# ---------------------------------------------------------------------------------------------- training


CURVES = (
	("Profile loss", "MNLL", "Nats per locus", True),
	("Count error", "Count MSE", "Squared error of log(1 + reads)", True),
	("Profile Pearson", "Profile Pearson", "Pearson correlation", False),
	("Count Pearson", "Count Pearson", "Pearson correlation", False),
)


def _training(run: Run) -> str:
	record = run.fit_record or {}
	html = []
	facts = []
	if isinstance(record.get("epochs"), int):
		facts.append(counted(record["epochs"], "epoch"))
	if isinstance(record.get("seconds"), int | float):
		facts.append(f"in {duration(record['seconds'])}")
	if isinstance(record.get("seconds_per_epoch"), int | float):
		facts.append(f"({duration(record['seconds_per_epoch'])} per epoch)")
	if record.get("device"):
		facts.append(f"on {record['device']}")
	if record.get("seed") is not None:
		facts.append(f"with random seed {record['seed']}")
	if facts:
		html.append(f"<p>{escape(' '.join(facts))}.</p>")
	log = run.log
	if log is None or "Epoch" not in log or not len(log["Epoch"]):
		html.append(absent_html("There is no training log to draw."))
	else:
		saved = saved_epoch(log)
		pictures = []
		for title, column, unit, both in CURVES:
			validation = log.get(f"Validation {column}")
			if validation is None or not np.isfinite(validation).any():
				continue
			training = log.get(f"Training {column}") if both else None
			picture = figures.training_curve(log["Epoch"], training, validation, title=title, unit=unit, saved=saved)
			pictures.append(picture)
		html.append(grid_html(pictures, "t", css="four"))
		html.append(
			note_html(
				"Solid: validation loci, measured with the averaged weights that are saved. Dashed: training "
				"loci, mean over the epoch. The dot marks the epoch whose weights became the model."
			)
		)
	if run.step_seconds:
		rows = [[escape(step), duration(seconds)] for step, seconds in run.step_seconds.items()]
		html += [
			"<h3>Time of each step</h3>",
			table_html(["Step", "Time"], rows, label="Time of each step", css="numbers narrow"),
		]
	return "\n".join(html)


# ---------------------------------------------------------------------------------------------- provenance


def _value(value: Any) -> str:
	if isinstance(value, str):
		return value
	return json.dumps(value, ensure_ascii=False)


def _pairs(settings: dict[str, Any]) -> str:
	"""Settings as a list of names and values, in columns where there is room."""
	items = "".join(
		f"<div><dt><code>{escape(key)}</code></dt><dd><code>{escape(_value(value))}</code></dd></div>"
		for key, value in settings.items()
	)
	return f'<dl class="pairs">{items}</dl>'


def _settings(run: Run) -> str:
	training = (run.fit_record or {}).get("settings") or run.step_settings.get("fit") or {}
	html = ["<h3>Training</h3>", _pairs(training)] if training else []
	titles = {
		"negatives": "Background loci",
		"evaluate": "Evaluation",
		"predict": "Prediction",
		"attribute": "Contributions",
		"seqlets": "Seqlets",
		"annotation": "Nearest known motifs",
		"motifs": "TF-MoDISco",
		"modisco_report": "Report of TF-MoDISco",
		"marginalize": "Marginalization",
		"variants": "Variants",
	}
	for step, title in titles.items():
		settings = run.step_settings.get(step, {})
		own = {key: value for key, value in settings.items() if key not in training or training[key] != value}
		if own:
			html += [f"<h3>{escape(title)}</h3>", _pairs(own)]
	if not html:
		return absent_html("No settings were recorded.")
	return "\n".join([*html, note_html("Later steps list only what differs from training.")])


def _versions(run: Run) -> dict[str, str]:
	found: dict[str, str] = {}
	records = [run.fit_record or {}, *(evaluation.record for evaluation in run.evaluations.values())]
	for record in records:
		versions = record.get("versions")
		if isinstance(versions, dict):
			for key, value in versions.items():
				found.setdefault(str(key), _value(value))
	return found


def _provenance(run: Run) -> str:
	html = []
	versions = _versions(run)
	if versions:
		rows = [[escape(key), f"<code>{escape(value)}</code>"] for key, value in versions.items()]
		html.append(table_html(["Software", "Version"], rows, label="Versions", css="settings narrow"))
	else:
		html.append(absent_html("No versions were recorded."))
	models = {}
	for evaluation in run.evaluations.values():
		digest = _digest(evaluation.record)
		if digest:
			models.setdefault(digest, []).append(evaluation.split)
	for digest, splits in models.items():
		html.append(
			f"<p>SHA-256 of the model measured on the {escape(' and '.join(sorted(splits)))} split: "
			f"<code>{escape(digest)}</code></p>"
		)
	if run.files:
		rows = [[f"<code>{escape(file.name)}</code>", escape(file.content), size(file.size)] for file in run.files]
		html.append("<h3>Files of the run</h3>")
		html.append(table_html(["File", "Content", "Size"], rows, label="Files of the run", css="files"))
	return "\n".join(html)


def _digest(record: dict[str, Any]) -> str | None:
	model = record.get("model")
	digest = model.get("sha256") if isinstance(model, dict) else None
	return digest if isinstance(digest, str) else None


def _made_with(run: Run) -> str:
	version = _versions(run).get("cherimoya")
	return f"Made with Cherimoya {escape(version)}." if version else "Made with Cherimoya."
