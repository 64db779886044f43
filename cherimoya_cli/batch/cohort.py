"""What all jobs of a batch have measured, joined: one table, and the jobs that stand out among the others."""

import json
import math
import os
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from cherimoya_cli.batch.jobs import Job
from cherimoya_cli.batch.progress import mean_of, read_table
from cherimoya_cli.batch.records import DONE
from cherimoya_cli.batch.status import READERS, Row, read_rows
from cherimoya_cli.utils import write_text

SPLITS = {"validation": "", "test": ".test"}
"""The splits that a pipeline measures, and what their files are called after the job's name."""

FAR = 3.5
"""From which robust z on a value is an outlier (Iglewicz and Hoaglin 1993)."""

FEWEST = 5
"""Fewer values than these have no outliers."""

NOT_OF_SPLIT = ("chromosome not selected", "in another split")


class Measure(NamedTuple):
	"""A number of each job that outliers are looked for in.

	Attributes
	----------
	key: str
		Its name in `Summary.values`.
	label: str
		Its name for people.
	bad: int
		1 if high values are bad, -1 if low ones are.
	least: float
		A difference from the median (of logarithms, where `log`) below which nothing is an outlier.
	log: bool
		Whether ratios, rather than differences, count.
	"""

	key: str
	label: str
	bad: int
	least: float
	log: bool = False


MEASURES = (
	Measure("profile_pearson", "profile Pearson", -1, 0.02),
	Measure("count_pearson", "count Pearson", -1, 0.02),
	Measure("lost", "loci lost", 1, 0.01),
	Measure("seconds", "running time", 1, 0.25, log=True),
)


class Summary(NamedTuple):
	"""A job, and what its pipeline left behind.

	Attributes
	----------
	job: Job
		The job.
	row: Row
		Its state.
	split: str or None
		The split that its measures are of: "test", else "validation".
	values: dict
		Numbers by the keys of `MEASURES`, NaN where there is none.
	tables: dict
		The rows of measures of each split, one for each group of signals.
	kept, lost: dict
		Loci of each split that were used, and the fraction that was dropped of those that lie in it.
	seconds: dict
		How long each step took.
	report: str or None
		The path of its report.
	"""

	job: Job
	row: Row
	split: str | None
	values: dict[str, float]
	tables: dict[str, list[dict[str, str]]]
	kept: dict[str, int]
	lost: dict[str, float]
	seconds: dict[str, float]
	report: str | None


class Outlier(NamedTuple):
	"""A value that stands out: whose, which, how far (robust z), and in words."""

	job: str
	measure: str
	z: float
	bad: bool
	words: str


def collect(batch: str, jobs: Sequence[Job]) -> tuple[str, str]:
	"""Write ``{batch}.performance.tsv`` and ``{batch}.cohort.html`` of the jobs; their paths.

	Parameters
	----------
	batch: str
		The batch's name.
	jobs: sequence of Job
		Its jobs, or some of them; those that are not done have a row without measures.
	"""
	from cherimoya_cli.batch.page import build_page

	rows = read_rows(jobs)
	with ThreadPoolExecutor(READERS) as threads:
		summaries = list(threads.map(summarize, jobs, rows))
	outliers = find_outliers(summaries)
	table, page = f"{batch}.performance.tsv", f"{batch}.cohort.html"
	write_text(table, as_table(summaries, outliers))
	write_text(page, build_page(batch, summaries, outliers))
	return table, page


# ---- one job ----------------------------------------------------------------------------------------


def summarize(job: Job, row: Row) -> Summary:
	"""Read what a job's pipeline left behind; nothing is read of a job that is not done."""
	if row.state != DONE:
		return Summary(job, row, None, {}, {}, {}, {}, {}, None)
	tables = {split: read_table(f"{job.prefix}{stem}.performance.tsv") for split, stem in SPLITS.items()}
	tables = {split: table for split, table in tables.items() if table}
	split = next((name for name in ("test", "validation") if name in tables), None)
	kept, lost = _accounts(job)
	seconds = _seconds(job)
	values = {key: mean_of(tables[split], key) if split else math.nan for key in ("profile_pearson", "count_pearson")}
	values["lost"] = lost.get("training", math.nan)
	values["seconds"] = sum(seconds.values()) if seconds else math.nan
	report = f"{job.prefix}.report.html"
	return Summary(job, row, split, values, tables, kept, lost, seconds, report if os.path.isfile(report) else None)


def _accounts(job: Job) -> tuple[dict[str, int], dict[str, float]]:
	"""Loci of each split that were used, and the fraction that was dropped, from the tables that commands write."""
	counts: dict[str, dict[str, int]] = {}
	for step in ("fit", "evaluate"):
		for row in read_table(f"{job.prefix}.{step}.accounting.tsv"):
			if row.get("file") == "all" and (row.get("count") or "").isdigit():
				counts.setdefault(row["split"], {})[row["reason"]] = int(row["count"])
	kept, lost = {}, {}
	for split, found in counts.items():
		inside = found.get("given", 0) - sum(found.get(reason, 0) for reason in NOT_OF_SPLIT)
		kept[split] = found.get("kept", 0)
		lost[split] = 1 - kept[split] / inside if inside > 0 else math.nan
	return kept, lost


def _seconds(job: Job) -> dict[str, float]:
	"""How long each step took when it was last run, in the order in which they finished."""
	folder, stem = os.path.split(job.prefix)
	found = []
	for name in os.listdir(folder):
		if name.startswith(f"{stem}.") and name.endswith(".done.json"):
			try:
				record = json.loads(Path(folder, name).read_text(encoding="utf-8"))
				found.append((str(record["finished"]), str(record["step"]), float(record["seconds"])))
			except (OSError, ValueError, KeyError, TypeError):
				continue  # it is being written, or of no step
	return {step: seconds for _, step, seconds in sorted(found)}


# ---- the table --------------------------------------------------------------------------------------


def as_table(summaries: Sequence[Summary], outliers: Iterable[Outlier]) -> str:
	"""The joined table as text: a row for each job, split and group of signals."""
	words: dict[str, list[str]] = {}
	for outlier in outliers:
		words.setdefault(outlier.job, []).append(outlier.words)
	measures = _in_order(key for item in summaries for rows in item.tables.values() for row in rows for key in row)
	steps = _in_order(step for item in summaries for step in item.seconds)
	header = ["job", "sample", "fold", "state", "split", "group", *measures]
	header += ["training_loci", "training_lost", "split_loci", "split_lost", "attempts", "seconds"]
	header += [f"seconds.{step}" for step in steps] + ["outlier", "note"]
	lines = ["\t".join(header)]
	for item in summaries:
		parts = [(split, str(g), row) for split, rows in item.tables.items() for g, row in enumerate(rows)]
		for split, group, row in parts or [("", "", {})]:
			cells = [item.job.name, item.job.sample, item.job.fold or "", item.row.state, split, group]
			cells += [row.get(measure, "") for measure in measures]
			for part in ("training", split):
				cells += [str(item.kept.get(part, "")), _number(item.lost.get(part))]
			cells += [str(item.row.attempts), _number(item.values.get("seconds"))]
			cells += [_number(item.seconds.get(step)) for step in steps]
			cells += ["; ".join(words.get(item.job.name, ())), item.row.note]
			lines.append("\t".join(re.sub(r"\s", " ", cell) for cell in cells))
	return "\n".join(lines) + "\n"


def _in_order(names: Iterable[str]) -> list[str]:
	"""Each name once, in the order of first appearance."""
	return list(dict.fromkeys(names))


def _number(value: float | None) -> str:
	"""A number with six digits; nothing where there is none."""
	return "" if value is None or not math.isfinite(value) else f"{value:.6g}"


# ---- outliers ---------------------------------------------------------------------------------------


def robust_z(values: Sequence[float]) -> list[float]:
	"""How far each value is from the median, in robust standard deviations.

	z = 0.6745 (x - median) / MAD, with the median absolute deviation; where that is 0, 1.2533 times the mean absolute
	deviation divides; 0 where all values are the same. NaN stays, and counts for nothing.

	References
	----------
	Iglewicz and Hoaglin (1993), "How to Detect and Handle Outliers", section 3.
	"""
	known = [value for value in values if math.isfinite(value)]
	if not known:
		return [math.nan] * len(values)
	center = statistics.median(known)
	deviations = [abs(value - center) for value in known]
	spread = statistics.median(deviations) / 0.6745 or 1.2533 * statistics.fmean(deviations)
	return [(value - center) / spread if spread else 0.0 * value for value in values]


def find_outliers(summaries: Sequence[Summary]) -> list[Outlier]:
	"""The values that stand out among those of all jobs that are done, those farthest out on the bad side first."""
	found = []
	for measure in MEASURES:
		values = [item.values.get(measure.key, math.nan) for item in summaries]
		known = [value for value in values if math.isfinite(value)]
		if len(known) < FEWEST:
			continue
		scaled = [math.log2(max(value, 1e-3)) if measure.log else value for value in values]
		center = statistics.median(known)
		middle = math.log2(max(center, 1e-3)) if measure.log else center
		for item, value, x, z in zip(summaries, values, scaled, robust_z(scaled), strict=True):
			if math.isfinite(z) and abs(z) > FAR and abs(x - middle) >= measure.least:
				bad = z * measure.bad > 0
				words = (
					f"{measure.label} {in_words(measure.key, value)} is unusually {'high' if z > 0 else 'low'} "
					f"(median {in_words(measure.key, center)})"
				)
				found.append(Outlier(item.job.name, measure.key, z, bad, words))
	return sorted(found, key=lambda outlier: (not outlier.bad, -abs(outlier.z)))


def in_words(key: str, value: float | None) -> str:
	"""A number of `MEASURES` as people read it; a dash where there is none."""
	from cherimoya_cli.batch.progress import duration

	if value is None or not math.isfinite(value):
		return "–"
	if key == "seconds":
		return duration(value)
	return f"{100 * value:.1f} %" if key == "lost" else f"{value:.3f}".replace("-", "−")


def state_counts(summaries: Sequence[Summary]) -> Mapping[str, int]:
	"""How many jobs are in each state."""
	counts: dict[str, Any] = {}
	for item in summaries:
		counts[item.row.state] = counts.get(item.row.state, 0) + 1
	return counts
