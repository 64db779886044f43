"""Where each job of a batch is, from the records on disk; works while they run, and on any machine that sees them.

Imports the standard library alone, and opens one file for a job that does not run.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from cherimoya_cli.batch.jobs import Job
from cherimoya_cli.batch.progress import MEASURES, current_step, duration, finite, last_epoch
from cherimoya_cli.batch.records import (
	DONE,
	FAILED,
	LOST,
	QUEUED,
	RUNNING,
	STATES,
	WAITING,
	Record,
	heard_of,
	is_alive,
	read_record,
)

READERS = 8
"""Threads that read records, for file systems across a network."""


class Row(NamedTuple):
	"""A job as the table shows it.

	Attributes
	----------
	job: str
		Its name.
	state: str
		One of `cherimoya_cli.batch.records.STATES`; a job that says that it is running, and does not, is lost.
	step: str or None
		The step that it is in, or was in when it ended.
	epoch: int or None
		The last epoch of training, while it runs.
	score: dict
		The measures of the model: of the last epoch while it runs, else on held-out loci.
	device: str
		Where it runs or ran.
	seconds: float
		How long, over all attempts.
	attempts: int
		How often it was started.
	note: str
		Why it failed, in a line.
	"""

	job: str
	state: str
	step: str | None
	epoch: int | None
	score: dict[str, Any]
	device: str
	seconds: float
	attempts: int
	note: str


def read_rows(jobs: Sequence[Job]) -> list[Row]:
	"""The state of each job."""
	now = time.time()
	with ThreadPoolExecutor(READERS) as threads:
		rows = list(threads.map(lambda job: row_of(job, now), jobs, chunksize=64))
	states = {job: row.state for job, row in zip(jobs, rows, strict=True) if job.prepares}
	return [_with_preparation(row, job, states) for job, row in zip(jobs, rows, strict=True)]


def _with_preparation(row: Row, job: Job, states: Mapping[Job, str]) -> Row:
	"""The row of a job that waits with a note on the job that makes its files, if it has begun and is not done."""
	state = states.get(job.preparation) if job.preparation is not None else None
	if row.state not in (WAITING, QUEUED) or state is None:
		return row
	if state in (WAITING, QUEUED, DONE):
		return row._replace(note="")
	what = "failed" if state == FAILED else f"is {state}"
	return row._replace(note=f"needs the files that {job.preparation.name} makes, which {what}")


def row_of(job: Job, now: float) -> Row:
	"""The state of a job at a time, in seconds since 1970."""
	record = read_record(job)
	where = f"{record.device} on {record.host}" if record.device and record.host else record.device or record.host
	row = Row(
		job=job.name,
		state=record.state,
		step=record.step,
		epoch=None,
		score=dict(record.score),
		device=where,
		seconds=record.seconds,
		attempts=record.attempts,
		note=record.reason,
	)
	if record.state != RUNNING:
		return row
	if not is_alive(job, record, now=now):
		return _lost(job, record, row, now)
	epoch = last_epoch(job.prefix)
	return row._replace(
		step=current_step(job.prefix),
		epoch=None if epoch is None else epoch.number,
		score={} if epoch is None else {"split": "validation", **finite(epoch.score)},
		seconds=record.seconds + max(now - (record.started or now), 0),
	)


def _lost(job: Job, record: Record, row: Row, now: float) -> Row:
	"""The row of a job whose record says that it is running, though it does not."""
	heard = max(heard_of(job), record.started or 0)
	silent = duration(max(now - heard, 0))
	return row._replace(
		state=LOST,
		step=current_step(job.prefix),
		seconds=record.seconds + max(heard - (record.started or heard), 0),
		note=f"its process is gone; it was last heard of {silent} ago, and goes on with 'batch run'",
	)


def summary(rows: Iterable[Row]) -> str:
	"""How many jobs are in each state: ``"6 jobs: 2 running, 4 done"``."""
	counts = Counter(row.state for row in rows)
	parts = [f"{counts[state]} {state}" for state in STATES if counts[state]]
	total = sum(counts.values())
	return f"{total} job{'s' if total != 1 else ''}: {', '.join(parts) or 'none'}"


def table(rows: Sequence[Row]) -> str:
	"""The rows as aligned text."""
	lines = [
		("job", "state", "step", "epoch", *(m.removesuffix("_pearson") for m in MEASURES), "device", "elapsed", "")
	]
	for row in rows:
		scores = (f"{row.score[m]:.3f}" if isinstance(row.score.get(m), (int, float)) else "" for m in MEASURES)
		elapsed = duration(row.seconds) if row.seconds else ""
		epoch = "" if row.epoch is None else str(row.epoch)
		lines.append((row.job, row.state, row.step or "", epoch, *scores, row.device, elapsed, row.note))
	widths = [max(map(len, column)) for column in zip(*lines, strict=True)][:-1]
	return "\n".join(
		"  ".join([*(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=False)), line[-1]]).rstrip()
		for line in lines
	)
