"""How far a pipeline is and how it ended, from the files that it leaves; imports the standard library alone."""

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

TAIL_BYTES = 65_536
"""How much of the end of a log is read."""

REASON_LENGTH = 300

MEASURES = ("profile_pearson", "count_pearson")
"""The measures of a model that a job's record and the table of jobs show."""

_ERROR = re.compile(r"^cherimoya (?P<command>[\w-]+): error: (?P<text>.*)$")
_STEP_FAILED = re.compile(r"^\s*(?P<step>\w+) \(.*\) failed: (?P<text>.*)$")
_SUMMARY = "What was finished is kept"


class Epoch(NamedTuple):
	"""The last epoch of a training log: its number, and the measures of `MEASURES`, NaN where it has none."""

	number: int
	score: dict[str, float]


def tail_of(path: str | os.PathLike, size: int = TAIL_BYTES) -> str:
	"""The last bytes of a text file, from the start of a line on; nothing if there is no such file."""
	try:
		with open(path, "rb") as handle:
			end = handle.seek(0, os.SEEK_END)
			handle.seek(max(end - size, 0))
			data = handle.read(size)
	except OSError:
		return ""
	if end > size:
		data = data.partition(b"\n")[2]
	return data.decode("utf-8", errors="replace")


def current_step(prefix: str) -> str | None:
	"""The step of a pipeline whose log was written to last, of those that are not complete; None if there is none."""
	folder, stem = os.path.split(prefix)
	logs: dict[str, float] = {}
	done = set()
	try:
		with os.scandir(folder or ".") as entries:
			for entry in entries:
				if not entry.name.startswith(f"{stem}."):
					continue
				rest = entry.name[len(stem) + 1 :]
				if rest.endswith(".done.json"):
					done.add(rest.removesuffix(".done.json"))
				elif rest.endswith(".log.txt") and rest != "job.log.txt":
					logs[rest.removesuffix(".log.txt")] = entry.stat().st_mtime
	except OSError:
		return None
	open_ = [step for step in logs if step not in done]
	return max(open_, key=logs.__getitem__) if open_ else None


def last_epoch(prefix: str) -> Epoch | None:
	"""The last epoch of ``{prefix}.log``; None before the first."""
	path = f"{prefix}.log"
	try:
		with open(path, encoding="utf-8") as handle:
			header = handle.readline().rstrip("\n").split("\t")
	except (OSError, UnicodeDecodeError):
		return None
	rows = [line.split("\t") for line in tail_of(path, 8192).splitlines()]
	row = dict(zip(header, rows[-1], strict=False)) if rows else {}
	try:
		number = int(row["Epoch"])
	except (KeyError, ValueError):
		return None
	columns = dict(zip(MEASURES, ("Validation Profile Pearson", "Validation Count Pearson"), strict=True))
	return Epoch(number, {measure: _number(row.get(column)) for measure, column in columns.items()})


def _number(text: str | None) -> float:
	"""A cell as a number, NaN if it is none."""
	try:
		return float(text or "nan")
	except ValueError:
		return math.nan


def read_table(path: str) -> list[dict[str, str]]:
	"""The rows of a table with a header, by column; none if there is no such file."""
	try:
		with open(path, encoding="utf-8") as handle:
			header, *rows = (line.rstrip("\n").split("\t") for line in handle if line.strip())
	except (OSError, UnicodeDecodeError, ValueError):
		return []
	return [dict(zip(header, row, strict=False)) for row in rows]


def read_score(prefix: str) -> dict[str, Any]:
	"""The measures of a finished pipeline: the split ("test", else "validation"), and means over groups.

	Empty if nothing was measured. A measure that is not finite is None.
	"""
	for split, path in (("test", f"{prefix}.test.performance.tsv"), ("validation", f"{prefix}.performance.tsv")):
		rows = read_table(path)
		if rows:
			means = {measure: mean_of(rows, measure) for measure in MEASURES}
			return {"split": split, **finite(means)}
	return {}


def finite(values: Mapping[str, float]) -> dict[str, float | None]:
	"""The same with None for NaN and infinities, which JSON lacks."""
	return {key: value if math.isfinite(value) else None for key, value in values.items()}


def mean_of(rows: Sequence[Mapping[str, str]], column: str) -> float:
	"""The mean of a column, NaN without it."""
	values = [_number(row.get(column)) for row in rows]
	return sum(values) / len(values) if values else math.nan


def why_failed(log: str) -> tuple[str | None, str]:
	"""The step that failed, if one did, and why, in a line, from the end of what a pipeline printed.

	Parameters
	----------
	log: str
		The end of the log of the attempt.
	"""
	lines = log.splitlines()
	step, told = None, ""
	for line in lines:
		failed = _STEP_FAILED.match(line)
		if failed and step is None:
			step, told = failed["step"], failed["text"].split("; its last lines were")[0]
	errors = [(match, i) for i, line in enumerate(lines) if (match := _ERROR.match(line.strip()))]
	own = [(match, i) for match, i in errors if match["command"] != "pipeline"]
	if own:
		match, i = own[0]
		return step or match["command"], _with_list(match["text"], lines[i + 1 :])
	if step is not None:
		quoted = next((line.strip() for line in reversed(_quoted(lines, step)) if line.strip()), "")
		return step, _short(f"{told}: {quoted}" if quoted else told)
	for match, i in reversed(errors):
		if _SUMMARY not in match["text"]:
			return None, _with_list(match["text"], lines[i + 1 :])
	last = next((line.strip() for line in reversed(lines) if line.strip()), "")
	return None, _short(last or "it ended without a word")


def _quoted(lines: Sequence[str], step: str) -> list[str]:
	"""The last lines of a step that the message on its failure quotes."""
	begin = next(i for i, line in enumerate(lines) if (match := _STEP_FAILED.match(line)) and match["step"] == step)
	end = next((i for i, line in enumerate(lines) if i > begin and "All it printed is in" in line), len(lines))
	return list(lines[begin + 1 : end])


def _with_list(text: str, following: Sequence[str]) -> str:
	"""An error's text; for "3 problems:" with the first of them."""
	if text.endswith("problems:") and following:
		text = f"{text} {following[0].strip()}"
	return _short(text)


def _short(text: str) -> str:
	"""A text on one line, not too long."""
	text = " ".join(text.split())
	return text if len(text) <= REASON_LENGTH else f"{text[: REASON_LENGTH - 1]}…"


def score_in_words(score: Mapping[str, Any]) -> str:
	"""``"; profile 0.612, count 0.731 (test)"``, or nothing without measures."""
	parts = [
		f"{measure.removesuffix('_pearson')} {score[measure]:.3f}"
		for measure in MEASURES
		if isinstance(score.get(measure), (int, float))
	]
	return f"; {', '.join(parts)} ({score['split']})" if parts else ""


def duration(seconds: float) -> str:
	"""A time in words: ``"2 min 5 s"``, ``"3 h 20 min"``, ``"4 d 2 h"``."""
	if seconds < 60:
		return f"{seconds:.0f} s"
	minutes, rest = divmod(round(seconds), 60)
	hours, minutes = divmod(minutes, 60)
	days, hours = divmod(hours, 24)
	if days:
		return f"{days} d {hours} h"
	return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
