"""A batch on a real Slurm of one node, which .ci/slurm/start.sh starts on loopback, with two GPUs that are none."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("submitit")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / ".ci" / "slurm"
PATH = f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin"
MISSING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name, path=PATH) is None]

pytestmark = [
	pytest.mark.slow,
	pytest.mark.skipif(bool(MISSING), reason=f"a program of Slurm is missing: {', '.join(MISSING)}"),
	pytest.mark.skipif(not SCRIPTS.is_dir(), reason="the script that starts Slurm is not there"),
]

MODEL = {"n_filters": 8, "n_layers": 3, "max_epochs": 1, "n_warmup_epochs": 0, "num_workers": 0}
STEPS_LEFT_OUT = ["predict", "attribute", "seqlets", "motifs", "modisco_report", "report"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
	"""The environment in which Slurm's programs find the one that was started for these tests."""
	folder = tmp_path_factory.mktemp("slurm")
	started = subprocess.run(
		[SCRIPTS / "start.sh", folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600
	)
	try:
		assert started.returncode == 0, started.stdout
		yield {
			**{key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SUBMITIT_"))},
			"SLURM_CONF": str(folder / "slurm.conf"),
			"PYTHONPATH": str(ROOT),
			"OMP_NUM_THREADS": "1",
		}
	finally:
		subprocess.run([SCRIPTS / "stop.sh", folder], timeout=600)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
	"""A folder with the yeast example's peaks, signal and background loci, and the settings of a small model."""
	folder = tmp_path_factory.mktemp("project")
	example = ROOT / "examples/yeast_atac"
	for path in (*example.glob("tiny.fa.gz*"), *example.glob("tiny.bedpe.gz")):
		shutil.copy(path, folder)
	params = json.loads((example / "params.json").read_text())
	params = {key: value for key, value in params.items() if key != "motifs"}
	params |= {"in_window": 1200, "fit_parameters": params["fit_parameters"] | MODEL}
	leave_out = ["fit", "evaluate", *STEPS_LEFT_OUT]
	(folder / "reads.json").write_text(json.dumps(params | {"name": "reads/yeast", "skip_steps": leave_out}))
	run(folder, "pipeline", "-p", "reads.json")
	made = {
		"signals": ["reads/yeast.bw"],
		"loci": ["reads/yeast_peaks.narrowPeak"],
		"negatives": ["reads/yeast.negatives.bed"],
		"skip_steps": STEPS_LEFT_OUT,
	}
	(folder / "settings.json").write_text(json.dumps(params | made))
	return folder


def run(folder, *arguments, code=0, environment=os.environ):
	"""A command of cherimoya in a folder: what it printed."""
	done = subprocess.run(
		[sys.executable, "-m", "cherimoya_cli", *arguments],
		cwd=folder,
		env={"PYTHONPATH": str(ROOT), **environment, "OMP_NUM_THREADS": "1"},
		stdout=subprocess.PIPE,
		stderr=subprocess.STDOUT,
		text=True,
	)
	assert done.returncode == code, done.stdout
	return done.stdout


def ask(environment, *argv):
	"""What a program of Slurm says."""
	return subprocess.run(argv, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=600).stdout


def record(folder, name):
	"""A job's record."""
	return json.loads((folder / f"out/b/{name}/{name}.job.json").read_text())


def show_logs(folder):
	"""Print what jobs, and Slurm, had to say, for who looks at a test that failed."""
	for path in sorted([*folder.glob("out/b/*/*.job.log.txt"), *folder.glob("out/b.slurm/*/*.out")]):
		print(f"--- {path}\n{path.read_text()}")


def measures(path):
	"""The rows of a training log without its times."""
	header, *rows = (line.split("\t") for line in path.read_text().splitlines())
	return [[cell for name, cell in zip(header, row, strict=True) if "Time" not in name] for row in (header, *rows)]


def wait_for(condition, folder, seconds=1200):
	"""Wait until a condition holds, or show the logs and fail."""
	deadline = time.monotonic() + seconds
	while not condition():
		if time.monotonic() > deadline:
			show_logs(folder)
			pytest.fail(f"waited {seconds} s")
		time.sleep(0.3)


def batch_settings(project):
	"""Six samples: one that trains for long, four that are alike, and one with a broken signal."""
	settings = json.loads((project / "settings.json").read_text())
	(project / "broken.bw").write_bytes(b"this is no bigWig")
	longer = {"max_epochs": 6, "early_stopping": None}
	samples = [{"name": "long", "random_state": 5, "fit_parameters": longer}]
	samples += [{"name": f"s{i}", "random_state": i} for i in range(4)]
	samples += [{"name": "broken", "random_state": 4, "signals": ["broken.bw"]}]
	asked = {"executor": "slurm", "gpus": 1, "cpus": 1, "jobs_at_once": 2, "time_limit": 1.0, "job_memory": 1.0}
	return settings | {"name": "out/b", "samples": samples, **asked}


def send_usr2(slurm, project, ticket):
	"""Send a job the signal of its time limit until it is heard; scancel may go on, as if it had not been sent."""
	sending = subprocess.Popen(["scancel", "--signal=USR2", ticket], env=slurm)
	try:
		wait_for(lambda: record(project, "long")["state"] != "running", project)
	finally:
		sending.kill()
		sending.wait()


def test_six_jobs(slurm, project, make_pause):
	"""An array of six, two at once: one is requeued at its limit, one fails and is retried, others are left alone."""
	(project / "batch.json").write_text(json.dumps(batch_settings(project)))
	# "long" is saved before its first epoch and after each, and waits after its second for its signal.
	pause = make_pause("cherimoya.training.loop:_Run.save", 3, only="long.fit.json")
	paused = {**slurm, "PYTHONPATH": pause.environment["PYTHONPATH"]}
	output = run(project, "batch", "run", "-p", "batch.json", environment=paused)
	assert "Slurm has 6 jobs" in output
	wait_for(pause.paused, project)
	ticket = record(project, "long")["ticket"]
	send_usr2(slurm, project, ticket)
	pause.go()
	assert "in Slurm's queue already" in run(project, "batch", "run", "-p", "batch.json", environment=slurm)

	at_once = []

	def is_empty():
		states = ask(slurm, "squeue", "--noheader", "--array", "--format=%T").split()
		at_once.append(states.count("RUNNING"))
		return not states

	wait_for(is_empty, project)
	assert 1 <= max(at_once) <= 2
	names = [f"s{i}" for i in range(4)]
	records = {name: record(project, name) for name in (*names, "broken", "long")}
	found = {name: (values["state"], values["attempts"]) for name, values in records.items()}
	expected = {**dict.fromkeys(names, ("done", 1)), "broken": ("failed", 1), "long": ("done", 2)}
	show_logs(project)
	assert found == expected
	assert records["long"]["ticket"] == ticket and "broken.bw" in records["broken"]["reason"]
	assert {values["device"] for values in records.values()} == {"cuda:0", "cuda:1"}
	printed = (project / "out/b/long/long.job.log.txt").read_text()
	assert printed.count("$ ") == 2 and "interrupted" in printed

	before = {path: path.stat().st_mtime_ns for name in (*names, "long") for path in project.glob(f"out/b/{name}/*")}
	shutil.copy(project / "reads/yeast.bw", project / "broken.bw")
	assert "Slurm has 1 job" in run(project, "batch", "retry", "-p", "batch.json", environment=slurm)
	wait_for(lambda: record(project, "broken")["state"] in ("done", "failed"), project)
	assert (record(project, "broken")["state"], record(project, "broken")["attempts"]) == ("done", 2)
	assert {path: path.stat().st_mtime_ns for path in before} == before
	assert "Slurm has" not in run(project, "batch", "run", "-p", "batch.json", environment=slurm)


def test_the_requeued_model_is_that_of_an_undisturbed_run(slurm, project):
	if not (project / "out/b/long/long.fit.done.json").exists():
		pytest.skip("the batch did not come to its end")
	settings = json.loads((project / "out/b/long/long.pipeline.json").read_text())
	(project / "whole.json").write_text(json.dumps(settings | {"name": "whole/long"}))
	run(project, "pipeline", "-p", "whole.json")
	resumed = json.loads((project / "out/b/long/long.fit.record.json").read_text())["resumed_at"]
	assert resumed
	for name in ("long.torch", "long.final.torch"):
		assert (project / "out/b/long" / name).read_bytes() == (project / "whole" / name).read_bytes(), name
	assert measures(project / "out/b/long/long.log") == measures(project / "whole/long.log")
