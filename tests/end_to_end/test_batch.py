"""A batch of real pipelines: one fails, one is killed, the batch itself is killed, and every job ends as if alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cherimoya_cli.batch.records import process_started

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ("a", "b", "broken", "killed", "e", "f")
SHARED = {
	"sequences": "genome.fa",
	"loci": "peaks.bed",
	"negatives": "negatives.bed",
	"in_window": 166,
	"out_window": 60,
	"device": "cpu",
	"skip_steps": ["predict", "attribute", "seqlets", "motifs", "modisco_report", "report"],
	"fit_parameters": {
		"n_filters": 4,
		"n_layers": 2,
		"n_warmup_epochs": 1,
		"max_epochs": 8,
		"early_stopping": None,
		"batch_size": 16,
		"max_jitter": 10,
		"num_workers": 0,
		"training_chroms": ["chr1"],
		"validation_chroms": ["chr2"],
		"test_chroms": ["chr3"],
	},
}
SAVED = "cherimoya.training.loop:_Run.save"  # called before the first epoch, and after each
BATCH = {**SHARED, "name": "out/batch", "samples": "samples.tsv", "jobs_per_device": 2}


def environment():
	return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def start(folder, *arguments, pause=None):
	"""A command in the folder, begun."""
	return subprocess.Popen(
		[sys.executable, "-m", "cherimoya_cli", *arguments],
		cwd=folder,
		env=environment() if pause is None else pause.environment,
		stdout=subprocess.PIPE,
		stderr=subprocess.STDOUT,
		text=True,
	)


def finish(folder, *arguments):
	"""A command in the folder, to its end: (exit code, output)."""
	process = start(folder, *arguments)
	output, _ = process.communicate(timeout=1200)
	return process.returncode, output


def record(folder, name):
	"""The record of a job, None before it has one."""
	try:
		return json.loads((folder / f"out/batch/{name}/{name}.job.json").read_text())
	except (OSError, ValueError):
		return None


def wait_for(condition, seconds=300):
	deadline = time.monotonic() + seconds
	while not condition():
		assert time.monotonic() < deadline
		time.sleep(0.02)


def weights(path):
	import torch

	return torch.load(path, weights_only=True)["state_dict"]


@pytest.fixture
def project(tiny_genome, tmp_path):
	"""A folder with the data of six samples, of which one has a damaged signal."""
	files = {"genome.fa": tiny_genome.fasta, "peaks.bed": tiny_genome.peaks, "negatives.bed": tiny_genome.negatives}
	for name, source in {**files, "plus.bw": tiny_genome.plus, "minus.bw": tiny_genome.minus}.items():
		shutil.copyfile(source, tmp_path / name)
	rows = "".join(
		f"{name}\t{name}.bw\t{seed}\n" if name == "broken" else f"{name}\tplus.bw,minus.bw\t{seed}\n"
		for seed, name in enumerate(SAMPLES)
	)
	(tmp_path / "samples.tsv").write_text("name\tsignals\trandom_state\n" + rows)
	(tmp_path / "broken.bw").write_bytes(tiny_genome.signal.read_bytes()[:3000])
	(tmp_path / "batch.json").write_text(json.dumps(BATCH))
	return tmp_path


def assert_as_if_alone(folder, name):
	"""The job's model and measures are those of a pipeline that was run by itself."""
	signals = ["broken.bw"] if name == "broken" else [["plus.bw", "minus.bw"]]
	alone = {**SHARED, "name": f"alone/{name}", "signals": signals, "random_state": SAMPLES.index(name)}
	(folder / "alone.json").write_text(json.dumps(alone))
	code, output = finish(folder, "pipeline", "-p", "alone.json")
	assert code == 0, output
	stems = folder / f"out/batch/{name}/{name}", folder / f"alone/{name}"
	for suffix in ("torch", "final.torch"):
		mine, other = (weights(f"{stem}.{suffix}") for stem in stems)
		assert mine.keys() == other.keys() and all((mine[key] == other[key]).all() for key in mine)
	mine, other = (Path(f"{stem}.test.performance.tsv").read_text() for stem in stems)
	assert mine == other


@pytest.mark.slow
def test_every_job_ends_done_once_whatever_happens(project, make_pause, tiny_genome):
	batch = ("batch", "run", "-p", "batch.json")
	pause = make_pause(SAVED, 4)
	first = start(project, *batch, pause=pause)
	pause.wait(first, 2)  # a and b train
	first.kill()  # the batch itself; its pipelines are ended by the system
	first.communicate()
	wait_for(lambda: not any(process_started(record(project, name)["pid"]) for name in "ab"))
	assert {record(project, name)["state"] for name in "ab"} == {"running"}
	code, output = finish(project, "batch", "status", "-p", "batch.json")
	assert code == 0 and output.count(" lost ") == 2, output

	pause = make_pause(SAVED, 4, only="killed.fit.json")
	second = start(project, *batch, pause=pause)
	pause.wait(second)
	os.kill(record(project, "killed")["pid"], signal.SIGKILL)
	pause.go()
	output, _ = second.communicate(timeout=1200)
	assert second.returncode == 4, output
	assert "broken: failed" in output and "killed: killed by SIGKILL" in output
	states = {name: record(project, name)["state"] for name in SAMPLES}
	assert states == {**dict.fromkeys(SAMPLES, "done"), "broken": "failed"}, output
	assert "broken.bw" in record(project, "broken")["reason"]
	for name in ("a", "b", "killed"):
		assert record(project, name)["attempts"] == 2
		assert "resuming from" in (project / f"out/batch/{name}/{name}.fit.log.txt").read_text()

	shutil.copyfile(tiny_genome.signal, project / "broken.bw")
	before = {name: record(project, name) for name in SAMPLES if name != "broken"}
	code, output = finish(project, "batch", "retry", "-p", "batch.json")
	assert code == 0 and "6 jobs: 6 done" in output, output
	assert {name: record(project, name) for name in before} == before
	code, output = finish(project, *batch)
	assert code == 0 and "6 jobs, 6 done, 0 failed earlier, 0 to run" in output

	for name in ("a", "killed"):
		assert_as_if_alone(project, name)

	code, output = finish(project, "batch", "collect", "-p", "batch.json")
	assert code == 0, output
	rows = [line.split("\t") for line in (project / "out/batch.performance.tsv").read_text().splitlines()]
	assert len(rows) == 1 + 2 * 6 and all(len(row) == len(rows[0]) for row in rows)
	assert (project / "out/batch.cohort.html").read_text().count("<tr id=") == 6
