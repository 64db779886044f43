"""How long ``cherimoya batch`` takes to plan, look at and sum up thousands of jobs, and the memory that it takes.

Writes a table of samples and fold files whose inputs are there but hold nothing, plans the batch (``run --dry-run``,
which checks all settings and files and writes each job's JSON), gives each job the files that a finished, failed or
running pipeline leaves, and asks for ``status``, for ``run`` with nothing left to do, and for ``collect``. All of it is
done for few jobs and for many. Times are those of whole commands, medians of several; memory is the largest resident
set of the process. Nothing is trained::

	python benchmarks/batch_scale.py

takes a few minutes and 0.5 GB of disk, and writes ``results/batch_scale.json``. `--samples 20 100` is quicker, and
`--reads` gives each sample reads alone, so that its folds share what another job makes of these.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cherimoya_cli.batch.jobs import Job, read_index
from cherimoya_cli.batch.records import DONE, FAILED, RUNNING, Record, digest_of, process_started, write_record

RESULTS = Path(__file__).parent / "results"
FOLDS = 5
AT_WORK = 64
"""Jobs that are at work when the state of all is asked for."""

SHARED = {
	"sequences": "genome.fa",
	"exclusion_lists": "exclude.bed",
	"device": "cpu",
	"fold_files": "fold_*.json",
	"samples": "samples.tsv",
	"fit_parameters": {"n_filters": 64, "n_layers": 8, "max_epochs": 50},
	"attribute_parameters": {"max_loci": 10_000},
}
HEADER = "Epoch\tIteration\tValidation Profile Pearson\tValidation Count Pearson\n"


def write_inputs(n_samples: int, *, reads: bool) -> None:
	"""The files of a batch, in the current folder: bigWigs, peaks and background of each sample, or reads alone."""
	for name in ("genome.fa", "exclude.bed"):
		Path(name).write_text("x")
	Path("genome.fa.fai").write_text("chr1\t1000000\t6\t60\t61\n")
	for i in range(FOLDS):
		split = {"train": [f"chr{c}" for c in range(1, 17)], "valid": [f"chr{17 + i}"], "test": ["chr22"]}
		Path(f"fold_{i}.json").write_text(json.dumps(split))
	Path("data").mkdir()
	rows = []
	for i in range(n_samples):
		ends = ("bam",) if reads else ("plus.bw", "minus.bw", "narrowPeak", "negatives.bed")
		paths = [f"data/s{i}.{end}" for end in ends]
		for path in paths:
			Path(path).write_text("x")
		given = (paths[0], "", "") if reads else (f"{paths[0]},{paths[1]}", paths[2], paths[3])
		rows.append("\t".join((f"s{i:04d}", *given, f"{i}\n")))
	Path("samples.tsv").write_text("name\tsignals\tloci\tnegatives\trandom_state\n" + "".join(rows))
	Path("batch.json").write_text(json.dumps({**SHARED, "name": "out/batch"}))


def finish(jobs: list[Job], *, at_work: int) -> None:
	"""What the pipelines of all jobs would have left behind: most are done, some failed, the first are at work."""
	draw = random.Random(0)
	for i, job in enumerate(jobs):
		profile, count = draw.gauss(0.6, 0.05), draw.gauss(0.7, 0.04)
		common = {
			"settings": digest_of(job),
			"attempts": 1,
			"executor": "local",
			"device": "cuda:0",
			"host": platform.node(),
		}
		Path(f"{job.prefix}.log").write_text(HEADER + "".join(f"{e}\t{e}\t{profile}\t{count}\n" for e in range(50)))
		Path(f"{job.prefix}.fit.log.txt").write_text("epoch 3\n")
		if i < at_work:
			now = {"pid": os.getpid(), "pid_started": process_started(os.getpid()), "started": time.time()}
			write_record(job, Record(RUNNING, **common, **now))
			continue
		if i % 20 == 19:
			write_record(job, Record(FAILED, **common, step="fit", exit_code=3, reason="p.bed: no locus is left"))
			continue
		score = {"split": "test", "profile_pearson": profile, "count_pearson": count}
		write_record(job, Record(DONE, **common, seconds=1000.0, exit_code=0, score=score))
		for stem in ("", ".test"):
			measures = f"profile_pearson\tcount_pearson\n{profile}\t{count}\n"
			Path(f"{job.prefix}{stem}.performance.tsv").write_text(measures)
		accounting = "split\tfile\treason\tcount\ntraining\tall\tgiven\t9000\ntraining\tall\tkept\t8900\n"
		Path(f"{job.prefix}.fit.accounting.tsv").write_text(accounting)
		for n, step in enumerate(("fit", "evaluate", "predict", "attribute", "report")):
			done = {"step": step, "finished": f"2026-01-01T0{n}", "seconds": draw.lognormvariate(5, 0.1)}
			Path(f"{job.prefix}.{step}.done.json").write_text(json.dumps(done))


def run(*arguments: str, code: int = 0) -> dict[str, float]:
	"""A command to its end: seconds, seconds of the processor, and the largest resident set in bytes."""
	started = time.perf_counter()
	process = subprocess.Popen([sys.executable, "-m", "cherimoya_cli", "batch", *arguments], stdout=subprocess.DEVNULL)
	_, state, usage = os.wait4(process.pid, 0)
	process.returncode = os.waitstatus_to_exitcode(state)
	if process.returncode != code:
		raise SystemExit(f"batch {' '.join(arguments)} ended with exit code {process.returncode}")
	seconds = time.perf_counter() - started
	return {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "resident": usage.ru_maxrss * 1024}


def median(found: list[dict[str, float]]) -> dict[str, float]:
	"""The median of each number."""
	return {key: round(statistics.median(item[key] for item in found), 3) for key in found[0]}


def measure(n_samples: int, repeats: int, *, reads: bool) -> dict[str, Any]:
	"""Plan, status, an empty run and collect, in the current folder."""
	write_inputs(n_samples, reads=reads)
	parameters = ("-p", "batch.json")
	found: dict[str, Any] = {"plan, first time": run("run", *parameters, "--dry-run")}
	found["plan, again"] = median([run("run", *parameters, "--dry-run") for _ in range(repeats)])
	jobs = read_index("out/batch")
	found["jobs"] = len(jobs)
	finish(jobs, at_work=AT_WORK)
	found["status"] = median([run("status", *parameters) for _ in range(repeats)])
	finish(jobs[:AT_WORK], at_work=0)
	found["run with nothing to do"] = median([run("run", *parameters, code=4) for _ in range(repeats)])
	found["collect"] = median([run("collect", *parameters) for _ in range(repeats)])
	return found


def main() -> None:
	"""Measure few and many jobs, and write the results."""
	parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
	parser.add_argument("--samples", type=int, nargs="+", default=[150, 1500], help=f"samples, of {FOLDS} folds each")
	parser.add_argument("--repeats", type=int, default=3)
	parser.add_argument("--reads", action="store_true", help="give each sample reads alone")
	parser.add_argument("--output", type=Path, default=RESULTS / "batch_scale.json")
	args = parser.parse_args()
	output, home, sizes = args.output.resolve(), Path.cwd(), []
	for n in args.samples:
		with tempfile.TemporaryDirectory(prefix="cherimoya-batch-") as folder:
			os.chdir(folder)
			try:
				sizes.append(measure(n, args.repeats, reads=args.reads))
			finally:
				os.chdir(home)
		print(json.dumps(sizes[-1], indent="\t"), flush=True)
	machine = {"cores": os.cpu_count(), "python": platform.python_version()}
	output.write_text(json.dumps({**machine, "folds": FOLDS, "sizes": sizes}, indent="\t") + "\n")


if __name__ == "__main__":
	main()
