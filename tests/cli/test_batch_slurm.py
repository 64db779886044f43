"""Jobs of a batch under Slurm, whose programs are stand-ins: what is asked of it, and what happens on a node."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("submitit")

from cherimoya.errors import MissingExtraError, SettingsError, ToolError
from cherimoya_cli.batch import slurm
from cherimoya_cli.batch.jobs import Job
from cherimoya_cli.batch.records import (
	DONE,
	FAILED,
	LOST,
	QUEUED,
	RUNNING,
	STOPPED,
	Record,
	digest_of,
	read_record,
	write_record,
)
from cherimoya_cli.batch.slurm import PipelineTask, SlurmExecutor, divide
from cherimoya_cli.settings import BatchSettings

SBATCH = """#!/bin/sh
echo "sbatch $*" >> {folder}/calls
case "$1" in --test-only) cat {folder}/refusal >&2; [ ! -s {folder}/refusal ]; exit ;; esac
[ ! -e {folder}/broken ] || {{ echo "sbatch: error: Batch job submission failed: out of order" >&2; exit 1; }}
n=$(($(cat {folder}/last) + 1))
echo $n > {folder}/last
cp "$1" {folder}/$n.sh
echo "Submitted batch job $n"
"""

SCONTROL = """#!/bin/sh
echo "scontrol $*" >> {folder}/calls
case "$2" in
	config) echo "MaxArraySize            = 4" ;;
	job) cat {folder}/state ;;
esac
"""

PIPELINE = """
import os, signal, sys, time

def saved(number, frame):
	print("saved what there was", flush=True)
	os._exit(143)

signal.signal(signal.SIGTERM, saved)
print("started with", os.environ["OMP_NUM_THREADS"], flush=True)
name = sys.argv[2].removesuffix(".pipeline.json")
for _ in range(60000):
	if os.path.exists(f"{name}.end"):
		code = int(open(f"{name}.end").read())
		os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)
	time.sleep(0.01)
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
	"""A folder to work in, with a Slurm of stand-ins on the path that takes arrays of four."""
	folder = tmp_path / "slurm"
	folder.mkdir()
	programs = {
		"sbatch": SBATCH,
		"scontrol": SCONTROL,
		"squeue": "#!/bin/sh\ncat {folder}/queue\n",
		"srun": "#!/bin/sh\nexit 1\n",
	}
	for name, text in programs.items():
		(folder / name).write_text(text.format(folder=folder))
		(folder / name).chmod(0o755)
	contents = {"calls": "", "refusal": "", "last": "100", "state": "JobId=101 JobState=RUNNING", "queue": ""}
	for name, text in contents.items():
		(folder / name).write_text(text)
	monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
	for key in [key for key in os.environ if key.startswith(("SLURM_", "SUBMITIT_", "OMP_NUM", "CUDA_VISIBLE"))]:
		monkeypatch.delenv(key)
	monkeypatch.chdir(tmp_path)
	return folder


def settings(**changes):
	return BatchSettings(**{"name": "run/b", "samples": "s.tsv", "executor": "slurm", "cpus": 2} | changes)


def make_jobs(n, device="auto"):
	"""Jobs with pipeline JSONs, as a batch writes them."""
	jobs = [Job("run/b", f"s{i}") for i in range(n)]
	for job in jobs:
		Path(job.json_path).parent.mkdir(parents=True, exist_ok=True)
		Path(job.json_path).write_text(json.dumps({"name": job.prefix, "device": device}))
	return jobs


def make_folds(n):
	"""Samples of two folds each, and the jobs that make what these share."""
	jobs = [Job("run/b", f"s{i}", fold, True) for i in range(n) for fold in (None, "f0", "f1")]
	for job in jobs:
		Path(job.json_path).parent.mkdir(parents=True, exist_ok=True)
		Path(job.json_path).write_text(json.dumps({"name": job.prefix, "device": "cpu" if job.prepares else "auto"}))
	return jobs


def options_of(script):
	"""The options of sbatch that a script holds, by name."""
	lines = [line.removeprefix("#SBATCH --") for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
	return {key: value for key, _, value in (line.partition("=") for line in lines)}


def calls(cluster, program):
	"""The calls of one of the stand-ins, without its name."""
	lines = (cluster / "calls").read_text().splitlines()
	return [line.removeprefix(f"{program} ") for line in lines if line.startswith(program)]


@pytest.mark.parametrize(
	"n_jobs, at_once, largest, expected",
	[
		pytest.param(1, None, 1001, [(1, 1, None)], id="one"),
		pytest.param(6, 2, 1001, [(6, 2, None)], id="capped"),
		pytest.param(3, 8, 1001, [(3, 3, None)], id="cap-larger-than-array"),
		pytest.param(7, None, 3, [(3, 3, None), (2, 2, None), (2, 2, None)], id="several-arrays"),
		pytest.param(7, 5, 3, [(3, 2, None), (2, 2, None), (2, 1, None)], id="cap-shared-out"),
		pytest.param(7, 2, 2, [(2, 1, None), (2, 1, None), (2, 1, 0), (1, 1, 1)], id="more-arrays-than-the-cap"),
		pytest.param(7500, 64, 1001, [(938, 8, None)] * 4 + [(937, 8, None)] * 4, id="thousands"),
	],
)
def test_jobs_are_divided_into_arrays(n_jobs, at_once, largest, expected):
	assert divide(n_jobs, at_once, largest) == expected


class TestCheck:
	def test_submitit_is_missing(self, cluster, monkeypatch):
		monkeypatch.setitem(sys.modules, "submitit", None)
		with pytest.raises(
			MissingExtraError, match=r"needs the package 'submitit'.*pip install 'cherimoya\[cluster\]'"
		):
			SlurmExecutor(settings()).check()

	def test_slurm_is_missing(self, cluster, monkeypatch):
		monkeypatch.setenv("PATH", str(cluster.parent))
		with pytest.raises(ToolError, match=r'sbatch, srun, squeue, scontrol, which.*set executor to "local"'):
			SlurmExecutor(settings()).check()

	def test_slurm_refuses(self, cluster):
		(cluster / "refusal").write_text("sbatch: error: invalid partition specified: fast\nallocation failure\n")
		with pytest.raises(
			SettingsError, match=r"--partition=fast.*invalid partition specified: fast allocation failure"
		):
			SlurmExecutor(settings(partition="fast")).check()

	@pytest.mark.parametrize("key", ["array", "--signal", "open-mode", "requeue"])
	def test_options_that_the_batch_sets(self, cluster, key):
		with pytest.raises(SettingsError, match=r"sbatch_options\.\w+: is set by the batch itself"):
			SlurmExecutor(settings(sbatch_options={key: "x"})).check()

	def test_slurm_does_not_answer(self, cluster):
		(cluster / "scontrol").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
		with pytest.raises(ToolError, match=r"scontrol failed: Unable to contact slurm controller; .*sinfo"):
			SlurmExecutor(settings()).check()

	def test_what_is_asked_for_is_what_is_tried(self, cluster):
		wanted = settings(partition="long", gpus=1, job_memory=12.5, time_limit=1.5, sbatch_options={"account": "lab"})
		SlurmExecutor(wanted).check()
		tried = "--test-only --time=90 --cpus-per-task=2 --partition=long --gpus-per-node=1 --mem=12500M --account=lab"
		assert calls(cluster, "sbatch") == [f"{tried} --wrap=true"]


class TestSubmitting:
	def test_arrays_and_records(self, cluster, capsys):
		jobs = make_jobs(6)
		more = {"mail-type": "END", "nice": True}
		wanted = settings(partition="long", job_memory=8, time_limit=2, jobs_at_once=3, sbatch_options=more)
		assert SlurmExecutor(wanted).run(jobs) == 0
		assert "Slurm has 6 jobs (101, 102)" in capsys.readouterr().out
		first, second = (options_of(cluster / f"{number}.sh") for number in (101, 102))
		asked = {
			"job-name": "b",
			"time": "120",
			"partition": "long",
			"cpus-per-task": "2",
			"gpus-per-node": "1",
			"mem": "8000M",
			"signal": "USR2@120",
			"array": "0-2%2",
			"requeue": "",
			"mail-type": "END",
			"nice": "",
		}
		assert first.items() >= asked.items()
		assert second["array"] == "0-2%1" and "dependency" not in second
		records = [read_record(job) for job in jobs]
		assert {record.state for record in records} == {QUEUED}
		assert [record.ticket for record in records] == ["101_0", "101_1", "101_2", "102_0", "102_1", "102_2"]
		assert {record.executor for record in records} == {"slurm"} and {record.attempts for record in records} == {0}

	@pytest.mark.parametrize(
		"device, gpus, expected", [("auto", None, "1"), ("cpu", None, None), ("cuda", 2, "2"), ("auto", 0, None)]
	)
	def test_gpus(self, cluster, device, gpus, expected):
		SlurmExecutor(settings(gpus=gpus)).run(make_jobs(1, device))
		assert options_of(cluster / "101.sh").get("gpus-per-node") == expected

	def test_an_array_waits_where_there_are_more_than_run_at_once(self, cluster):
		SlurmExecutor(settings(jobs_at_once=1)).run(make_jobs(5))
		assert [options_of(cluster / f"{n}.sh").get("dependency") for n in (101, 102)] == [None, "afterany:101"]

	def test_what_slurm_has_is_not_submitted_again(self, cluster, capsys):
		jobs = make_jobs(3)
		executor = SlurmExecutor(settings())
		executor.run(jobs)
		(cluster / "queue").write_text("101_0\n101_2\n7_1\n")
		write_record(jobs[0], Record(state=RUNNING, ticket="101_0"))
		capsys.readouterr()
		executor.run(jobs)
		assert "2 of 3 jobs are in Slurm's queue already" in capsys.readouterr().out
		assert [read_record(job).ticket for job in jobs] == ["101_0", "102", "101_2"]
		(cluster / "queue").write_text("101_0\n102\n101_2\n")
		assert executor.run(jobs) == 0 and not (cluster / "103.sh").exists()

	@pytest.mark.parametrize("gpus, expected", [(None, "1"), (2, "2"), (0, None)])
	def test_folds_wait_for_the_arrays_that_make_their_data(self, cluster, gpus, expected):
		"""Preparations come first, without GPUs; all others wait for the end of their arrays, however they end."""
		jobs = [*make_folds(5), *make_jobs(6)[5:]]
		SlurmExecutor(settings(gpus=gpus, jobs_at_once=2)).run(jobs)
		scripts = [options_of(cluster / f"{n}.sh") for n in range(101, 106)]
		assert [script["array"] for script in scripts] == ["0-2%1", "0-1%1", "0-3%1", "0-3%1", "0-2%1"]
		assert [script.get("gpus-per-node") for script in scripts] == [None, None, expected, expected, expected]
		after = [None, None, "afterany:101:102", "afterany:101:102", "afterany:101:102:103"]
		assert [script.get("dependency") for script in scripts] == after
		tickets = {job.name: read_record(job).ticket for job in jobs}
		assert [tickets[name] for name in ("s0", "s3", "s0.f0", "s0.f1", "s5")] == [
			"101_0",
			"102_0",
			"103_0",
			"103_1",
			"105_2",
		]

	def test_folds_wait_for_data_that_slurm_has_in_its_queue(self, cluster):
		first, *folds = make_folds(1)
		SlurmExecutor(settings()).run([first])
		(cluster / "queue").write_text("101\n")
		SlurmExecutor(settings()).run([first, *folds])
		assert options_of(cluster / "102.sh")["dependency"] == "afterany:101"
		(cluster / "queue").write_text("102_0\n")  # the data are made, and so is a fold that waits for nothing
		write_record(first, Record(state=DONE, ticket="101", settings=digest_of(first)))
		SlurmExecutor(settings()).run(folds)
		assert "dependency" not in options_of(cluster / "103.sh")

	@pytest.mark.parametrize("state", [DONE, FAILED])
	def test_a_job_that_ends_while_the_command_starts_is_not_submitted_again(self, cluster, state):
		jobs = make_jobs(2)
		ended = Record(state=state, ticket="55_1", attempts=1, settings=digest_of(jobs[1]))
		write_record(jobs[1], ended)
		SlurmExecutor(settings()).run(jobs)
		assert options_of(cluster / "101.sh").get("array") is None
		assert read_record(jobs[1]) == ended
		Path(jobs[1].json_path).write_text("{}")  # other settings: it is due again
		SlurmExecutor(settings()).run(jobs[1:])
		assert (read_record(jobs[1]).state, read_record(jobs[1]).ticket) == (QUEUED, "102")

	def test_a_job_that_another_process_has_is_left_to_it(self, cluster):
		from cherimoya_cli.batch.records import take_hold

		jobs = make_jobs(2)
		hold = take_hold(jobs[1])
		SlurmExecutor(settings()).run(jobs)
		hold.release()
		assert [read_record(job).ticket for job in jobs] == ["101", None]

	def test_a_refused_array_leaves_the_records_as_they_were(self, cluster):
		jobs = make_jobs(2)
		write_record(jobs[1], Record(state=LOST, attempts=2, ticket="55_1"))
		(cluster / "broken").touch()
		with pytest.raises(ToolError, match=r"did not take 2 jobs \(each with 1 GPU\): .*out of order; mend partition"):
			SlurmExecutor(settings()).run(jobs)
		assert [(read_record(job).state, read_record(job).ticket) for job in jobs] == [
			("waiting", None),
			(LOST, "55_1"),
		]


class Node:
	"""The process that Slurm would start on a node for a job that was submitted."""

	def __init__(self, cluster, job):
		self.cluster, self.job = cluster, job
		ticket = read_record(job).ticket
		folder = next(Path("run/b.slurm").iterdir())
		self.process = subprocess.Popen(
			[sys.executable, "-u", "-m", "submitit.core._submit", str(folder)],
			env={**os.environ, "SUBMITIT_EXECUTOR": "slurm", "SLURM_JOB_ID": ticket},
			stdout=subprocess.PIPE,
			stderr=subprocess.STDOUT,
			text=True,
		)

	def started(self, times=1):
		"""Wait until the pipeline has started, for the so-manieth time."""
		log = Path(self.job.log_path)
		for _ in range(6000):
			if log.exists() and log.read_text().count("started with") == times:
				return self
			assert self.process.poll() is None, self.process.communicate()[0]
			time.sleep(0.05)
		raise AssertionError("the pipeline did not start")

	def listens(self):
		"""Wait until submitit hears SIGUSR2."""
		status = Path(f"/proc/{self.process.pid}/status")
		while not int(re.search(r"SigCgt:\s*(\w+)", status.read_text())[1], 16) >> (signal.SIGUSR2 - 1) & 1:
			assert self.process.poll() is None, self.process.communicate()[0]
			time.sleep(0.01)
		return self

	def end(self, number=None):
		"""Send a signal, if any, and wait: the exit code, and the job's record."""
		if number is not None:
			self.process.send_signal(number)
		output, _ = self.process.communicate(timeout=600)
		self.output = output
		return self.process.returncode, read_record(self.job)


@pytest.fixture
def submitted(cluster, tmp_path):
	"""A function that submits a job whose pipeline is a stand-in, which ends when told to: the job."""
	(tmp_path / "pipeline.py").write_text(PIPELINE)

	def submit(**changes):
		(job,) = jobs = make_jobs(1)
		SlurmExecutor(settings(**changes), (sys.executable, str(tmp_path / "pipeline.py"))).run(jobs)
		return job

	return submit


def tell(job, code):
	"""Let a job's pipeline end with an exit code; negative: by that signal."""
	Path(f"{job.prefix}.end").write_text(str(code))


class TestOnANode:
	@pytest.mark.parametrize("code, state", [(0, DONE), (3, FAILED)], ids=["done", "failed"])
	def test_to_the_end(self, cluster, submitted, code, state):
		job = submitted()
		tell(job, code)
		ended, record = Node(cluster, job).end()
		assert (ended, record.state, record.exit_code, record.attempts) == (code, state, code, 1)
		assert (record.executor, record.ticket, record.device) == ("slurm", "101", "cpu")
		assert "started with 2" in Path(job.log_path).read_text()
		assert calls(cluster, "scontrol requeue") == []

	@pytest.mark.parametrize(
		"made, state, code",
		[(FAILED, FAILED, 4), (STOPPED, "waiting", 4), (DONE, DONE, 0)],
		ids=[FAILED, STOPPED, DONE],
	)
	def test_a_fold_whose_data_are_not_made_does_not_start(self, cluster, tmp_path, made, state, code):
		(tmp_path / "pipeline.py").write_text(PIPELINE)
		first, fold, _ = make_folds(1)
		SlurmExecutor(settings(), (sys.executable, str(tmp_path / "pipeline.py"))).run([fold])
		write_record(first, Record(state=made, settings=digest_of(first), step="signals", reason="no reads"))
		tell(fold, 0)
		node = Node(cluster, fold)
		ended, record = node.end()
		assert (ended, record.state, record.attempts) == (code, state, 1 if made == DONE else 0)
		assert ("which failed in the step signals: no reads" in record.reason) is (made == FAILED)
		assert Path(fold.log_path).exists() is (made == DONE)
		assert made == DONE or f"s0.f0: {state}, {record.reason}" in node.output

	def test_a_time_limit(self, cluster, submitted):
		"""The pipeline saves what it has, the job is requeued, and its next turn brings it to the end."""
		job = submitted()
		code, record = Node(cluster, job).started().end(signal.SIGUSR2)
		assert code == 255 and (record.state, record.ticket, record.attempts) == (QUEUED, "101", 1)
		assert "saved what there was" in Path(job.log_path).read_text()
		assert calls(cluster, "scontrol requeue") == ["101"]
		tell(job, 0)
		code, record = Node(cluster, job).end()
		assert (code, record.state, record.attempts) == (0, DONE, 2)

	def test_a_signal_before_the_pipeline_starts(self, cluster, submitted):
		"""The job is requeued all the same: here the process that ran it before has not ended yet."""
		from cherimoya_cli.batch.records import take_hold

		job = submitted()
		before = read_record(job)
		hold = take_hold(job)
		code, record = Node(cluster, job).listens().end(signal.SIGUSR2)
		hold.release()
		assert code == 255 and record == before
		assert calls(cluster, "scontrol requeue") == ["101"]
		tell(job, 0)
		code, record = Node(cluster, job).end()
		assert (code, record.state, record.attempts) == (0, DONE, 1)

	def test_too_many_time_limits(self, cluster, submitted):
		job = submitted(max_requeues=0, time_limit=0.1)
		code, record = Node(cluster, job).started().end(signal.SIGUSR2)
		assert (code, record.state) == (143, STOPPED) and "timed-out too many times" in record.reason
		assert calls(cluster, "scontrol requeue") == []

	@pytest.mark.parametrize(
		"slurm_says, code, state, requeued",
		[("RUNNING", 255, QUEUED, ["101"]), ("COMPLETING", 143, STOPPED, [])],
		ids=["pre-empted", "cancelled"],
	)
	def test_sigterm(self, cluster, submitted, slurm_says, code, state, requeued):
		"""A job that is to make room is requeued; one that was cancelled, or that Slurm requeues itself, is not."""
		(cluster / "state").write_text(f"JobId=101 JobState={slurm_says} Reason=None\n")
		job = submitted()
		ended, record = Node(cluster, job).started().end(signal.SIGTERM)
		assert (ended, record.state) == (code, state)
		assert "saved what there was" in Path(job.log_path).read_text()
		assert calls(cluster, "scontrol requeue") == requeued

	def test_a_done_job_is_not_done_again(self, cluster, submitted):
		job = submitted()
		tell(job, 0)
		assert Node(cluster, job).end()[0] == 0
		node = Node(cluster, job)
		code, record = node.end()
		assert (code, record.attempts) == (0, 1) and "s0: is done" in node.output

	def test_a_killed_pipeline_is_started_again(self, cluster, submitted, tmp_path, monkeypatch, capsys):
		job = submitted()
		tell(job, -signal.SIGKILL)
		monkeypatch.setattr(slurm, "REST_SECONDS", 0.0)
		monkeypatch.setenv("SLURM_JOB_ID", "101")
		before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)]
		with pytest.raises(SystemExit) as ended:
			PipelineTask(3, 2, (sys.executable, str(tmp_path / "pipeline.py")))(job)
		record = read_record(job)
		assert (ended.value.code, record.state, record.attempts) == (137, FAILED, 3)
		assert record.reason.endswith("3 times in a row") and "SIGKILL" in record.reason
		assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)] == before
