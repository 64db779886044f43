"""The command batch: samples and folds to jobs, records and locks, the local queue, status, retry and collect."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cherimoya.errors import InputError, MissingFileError, SettingsError
from cherimoya_cli.__main__ import main
from cherimoya_cli.batch import cohort, memory, progress, records, sheet, status
from cherimoya_cli.batch.attempt import Attempt, command_of
from cherimoya_cli.batch.jobs import Job, read_index, select, write_index
from cherimoya_cli.batch.local import LocalExecutor, Slot, find_slots
from cherimoya_cli.batch.planning import digests_of, kind_of, make_plan, write_jobs
from cherimoya_cli.batch.records import Record, read_record, take_hold, write_record

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
	"""Each test works in a folder of its own, from which the package can be run."""
	monkeypatch.chdir(tmp_path)
	monkeypatch.setenv("PYTHONPATH", str(ROOT))


# Cells, tables, lists, patterns.


@pytest.mark.parametrize(
	("key", "cell", "value"),
	[
		("signals", "a.bw", ["a.bw"]),
		("signals", "a.bw;+.bw,-.bw", ["a.bw", ["+.bw", "-.bw"]]),
		("signals", " +.bw , -.bw ", [["+.bw", "-.bw"]]),
		("controls", "a.bw;;c.bw", ["a.bw", None, "c.bw"]),
		("controls", "null", None),
		("loci", "p.bed,q.bed; r.bed", ["p.bed", "q.bed", "r.bed"]),
		("training_chroms", "chr1;chr2:1,000-2,000", ["chr1", "chr2:1,000-2,000"]),
		("training_chroms", '["chr1"]', ["chr1"]),
		("sequences", "123", "123"),
		("random_state", "3", 3),
		("min_counts", "2.5", 2.5),
		("min_counts", "null", None),
		("summits", "true", True),
		("fragments", "true;false", [True, False]),
		("n_filters", "many", "many"),
		("chrom_aliases", "true", True),
		("chrom_aliases", "names.tsv", "names.tsv"),
	],
	ids=lambda value: str(value)[:30],
)
def test_a_cell_is_what_its_key_takes(key, cell, value):
	assert sheet.read_cell(key, cell) == value


@pytest.mark.parametrize(
	("key", "cell", "value"),
	[
		("signals", '"+.bw,-.bw"', [["+.bw", "-.bw"]]),
		("signals", '"a.bw; b.bw"', ["a.bw", "b.bw"]),
		("signals", '"[""a.bw"", [""+.bw"", ""-.bw""]]"', ["a.bw", ["+.bw", "-.bw"]]),
		("loci", '"a.bed,b.bed"', ["a.bed", "b.bed"]),
		("sequences", '"odd,name.fa"', "odd,name.fa"),
		("sequences", '"odd ""name"".fa"', 'odd "name".fa'),
	],
)
def test_quotes_of_a_spreadsheet_are_no_part_of_a_cell(key, cell, value):
	assert sheet.read_cell(key, cell) == value


def table(text, name="samples.tsv"):
	Path(name).write_text(text)
	return name


def samples_of(value, source="batch.json"):
	problems = []
	return sheet.read_samples(value, source, problems), problems


def test_a_table_of_samples():
	text = "\ufeff#name\tsignals\tloci\tfit_parameters.n_filters\n\na\ta.bw\tp.bed\t\n"
	text += "# no sample\nb\t+.bw,-.bw\t\t8\nc\tc.bw\n"
	samples, problems = samples_of(table(text))
	assert problems == []
	assert [(s.name, s.values, s.place) for s in samples] == [
		("a", {"signals": ["a.bw"], "loci": ["p.bed"]}, "samples.tsv: line 3"),
		("b", {"signals": [["+.bw", "-.bw"]], "fit_parameters": {"n_filters": 8}}, "samples.tsv: line 5"),
		("c", {"signals": ["c.bw"]}, "samples.tsv: line 6"),
	]


@pytest.mark.parametrize(
	("text", "words"),
	[
		("signals\tloci\na.bw\tb\n", ["line 1", "no column 'name'"]),
		("name\tsignal\na\tb\n", ["line 1", "'signal' is no key", "did you mean 'signals'"]),
		("name,signals\na,b\n", ["line 1", "single cell", "tabs"]),
		("name\tloci\tloci\na\tb\tc\n", ["'loci' is there twice"]),
		("name\tfit.n_filters\na\t3\n", ["no section 'fit'"]),
		("name\texecutor\na\tlocal\n", ["'executor' is for a whole batch"]),
		("name\tfit_parameters.name\na\tx\n", ["'fit_parameters.name' is for a whole batch"]),
		("name\t\na\tx\n", ["has no name"]),
		("name\tloci\na\tb\tc\td\n", ["line 2", "has 4 cells", "header has 2"]),
		("name\tloci\na b.bw\tp\n", ["line 2", '"a b.bw"', "separated by tabs"]),
		("name\tloci\n../a\tp\n", ["line 2", "cannot be that of files"]),
		("name\tloci\n\tp\n", ["line 2", "name is empty"]),
		("name\tloci\na\tp\nb\tp\nA\tp\n", ["line 4", "'A' is that of samples.tsv: line 2"]),
		("name\tloci\na\t[1,\n", ["line 2", "loci is", "not valid JSON"]),
		("name\tloci\n", ["samples.tsv", "names no sample"]),
	],
	ids=lambda value: None if isinstance(value, list) else repr(value)[:40],
)
def test_a_bad_table_is_told_by_line(text, words):
	_, problems = samples_of(table(text))
	assert len(problems) == 1
	for word in words:
		assert word in problems[0]


def test_all_problems_of_a_table_are_told_together():
	_, problems = samples_of(table("name\tloci\na b\tp\nc\td\te\nx\tp\nX\tp\n"))
	assert [problem.split(":")[1].strip() for problem in problems] == ["line 3", "line 2", "line 5"]


@pytest.mark.parametrize(
	("write", "error", "words"),
	[
		(lambda path: None, MissingFileError, "no such file"),
		(lambda path: path.write_bytes(b"\xff\xfe\x00"), InputError, "not text in UTF-8"),
		(lambda path: path.write_text(""), InputError, "is empty"),
		(lambda path: path.mkdir(), InputError, "cannot be read"),
	],
	ids=["missing", "binary", "empty", "folder"],
)
def test_a_table_that_cannot_be_read(write, error, words):
	write(Path("samples.tsv"))
	with pytest.raises(error, match=words):
		samples_of("samples.tsv")


def test_a_list_of_samples():
	samples, problems = samples_of(
		[{"name": "a", "signals": "a.bw"}, {"signals": "b.bw"}, {"name": "c", "max_memory": 3}]
	)
	assert samples[0] == sheet.Sample("a", {"signals": "a.bw"}, "batch.json: sample 1")
	assert [problem.partition(":")[2].split(";")[0] for problem in problems] == [
		" sample 2: has no name",
		" sample 3: max_memory is for a whole batch",
	]


def test_patterns_of_file_names():
	for name in ("K562.+.bw", "K562.-.bw", "GM.+.bw", "other.txt"):
		Path(name).touch()
	samples, problems = samples_of({"loci": "peaks/*.bed", "signals": [["*.+.bw", "*.-.bw"]], "summits": True})
	assert problems == []
	assert [s.name for s in samples] == ["GM", "K562"]
	assert samples[0].values == {"loci": "peaks/GM.bed", "signals": [["GM.+.bw", "GM.-.bw"]], "summits": True}
	for value, word in (({"loci": "x.bed"}, "no pattern with a *"), ({"signals": "*.bam"}, "no file is called *.bam")):
		assert word in samples_of(value)[1][0]


def test_each_star_of_a_pattern_is_the_same_text():
	for path in ("a/a.bw", "a/b.bw", "b/b.bw"):
		Path(path).parent.mkdir(exist_ok=True)
		Path(path).touch()
	assert sheet.matches("*/*.bw") == ["a", "b"]
	Path("[x]").mkdir()
	Path("[x]/c.bw").touch()
	assert sheet.matches("[x]/*.bw") == ["c"]


# Jobs.

BASE = {
	"name": "out/batch",
	"sequences": "g.fa",
	"loci": "p.bed",
	"negatives": "n.bed",
	"device": "cpu",
	"fit_parameters": {"training_chroms": ["chr1"], "validation_chroms": ["chr2"], "test_chroms": None},
	"samples": "samples.tsv",
}
SHEET = "name\tsignals\nb\tb.bw\na\ta.bw\n"


@pytest.fixture
def write():
	"""Write the JSON of a batch with changes, its table and the files it names; returns the JSON's path."""

	def write(text=SHEET, files=("g.fa", "p.bed", "n.bed", "a.bw", "b.bw"), **changes):
		for name in files:
			Path(name).write_text("x")
		table(text)
		content = {**BASE, **changes}
		Path("batch.json").write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
		return "batch.json"

	return write


def test_samples_are_crossed_with_folds(write):
	for i in (0, 1):
		Path(f"fold_{i}.json").write_text(json.dumps({"train": ["chr1"], "valid": [f"chr{i + 2}"]}))
	plan = make_plan(write(fold_files="fold_*.json", fit_parameters={"n_filters": 8}))
	assert [p.job.name for p in plan.jobs] == ["b.fold_0", "b.fold_1", "a.fold_0", "a.fold_1"]
	write_jobs(plan)
	content = json.loads(Path("out/batch/a.fold_1/a.fold_1.pipeline.json").read_text())
	assert content == {
		"name": "out/batch/a.fold_1/a.fold_1",
		"sequences": "g.fa",
		"loci": "p.bed",
		"negatives": "n.bed",
		"device": "cpu",
		"signals": ["a.bw"],
		"fit_parameters": {"n_filters": 8, "folds": "fold_1.json"},
	}
	assert len(set(digests_of(plan).values())) == 4 and read_index("out/batch") == [p.job for p in plan.jobs]


def test_a_fold_file_is_used_once_by_a_pipeline(write):
	"""The settings of its steps hold the splits alone: a step would refuse both."""
	from cherimoya_cli.plan import make_plan as make_pipeline
	from cherimoya_cli.settings import load_settings

	Path("fold.json").write_text(json.dumps({"train": ["chr1"], "valid": ["chr2"]}))
	plan = make_plan(write(fold_files="fold.json", fit_parameters=...))
	steps = {step.name: step for step in make_pipeline(load_settings("pipeline", plan.content(plan.jobs[0])))}
	for name in ("fit", "evaluate"):
		values = steps[name].settings
		assert (values["folds"], values["training_chroms"], values["test_chroms"]) == (None, ["chr1"], None)
		load_settings(name, values)


def test_jsons_are_rewritten_only_if_they_change(write):
	path = write()
	write_jobs(make_plan(path))
	files = [Path(f"out/batch/{name}/{name}.pipeline.json") for name in "ab"] + [Path("out/batch.jobs.json")]
	for file in files:
		os.utime(file, (1, 1))
	write_jobs(make_plan(path))
	assert [file.stat().st_mtime for file in files] == [1, 1, 1]
	write_jobs(make_plan(write("name\tsignals\tloci\nb\tb.bw\ta.bw\na\ta.bw\n")))
	assert [file.stat().st_mtime == 1 for file in files] == [True, False, True]


def test_a_star_as_device_leaves_the_choice_to_the_executor(write):
	plan = make_plan(write(device="*"))
	assert plan.device == "*" and plan.content(plan.jobs[0])["device"] == "auto"


def test_overrides_reach_all_jobs(write):
	plan = make_plan(write(), ["fit_parameters.max_epochs=3", "jobs_per_device=4"])
	assert plan.settings.jobs_per_device == 4
	assert all(plan.content(p)["fit_parameters"]["max_epochs"] == 3 for p in plan.jobs)
	assert "jobs_per_device" not in plan.content(plan.jobs[0])


def test_jobs_that_differ_in_files_alone_are_of_one_kind():
	content = {"signals": ["a.bw"], "loci": "p.bed", "random_state": 1, "fit_parameters": {"folds": "f.json"}}
	same = {**content, "signals": ["b.bw"], "loci": "q.bed", "random_state": 2}
	assert kind_of(content) == kind_of(same)
	for change in (
		{"signals": ["b.bam"]},
		{"signals": [["b.bw", "c.bw"]]},
		{"signals": ["https://x/b.bw"]},
		{"loci": "a.bw"},
		{"random_state": -1},
		{"random_state": True},
		{"fit_parameters": {"folds": "g.json"}},
		{"fit_parameters": {"folds": "f.json", "n_layers": 3}},
	):
		assert kind_of({**same, **change}) != kind_of(content)


def complaint(capsys, code=2):
	assert main(["batch", "run", "-p", "batch.json", "--dry-run"]) == code
	error = capsys.readouterr().err
	assert "Traceback" not in error and not Path("out").exists()
	return error


@pytest.mark.parametrize(
	("arguments", "words"),
	[
		({"text": "name\tsignals\tn_filters\nb\tb.bw\t0\na\ta.bw\t8\n"}, ["samples.tsv: line 2: n_filters must be"]),
		(
			{"text": "name\tsignals\tn_filters\nb\tb.bw\tmany\na\ta.bw\tmany\n"},
			["batch.json: n_filters must be a whole number", '"many"'],
		),
		({"fit_parameters": {"max_epoch": 3}}, ["batch.json", "'fit_parameters.max_epoch'", "did you mean"]),
		({"jobs_per_device": 0}, ["jobs_per_device must be a whole number of at least 1, not 0"]),
		({"job_memory": 0}, ["job_memory must be a number above 0"]),
		({"max_memory": "8 GB"}, ["max_memory must be a number above 0", "8 GB"]),
		({"max_attempts": 0}, ["max_attempts must be"]),
		({"executor": "pbs"}, ["executor must be one of"]),
		({"samples": ...}, ["samples is not given; name the path of a table"]),
		({"samples": 3}, ["samples must be the path of a table"]),
		({"dry_run": "no"}, ["dry_run must be true or false"]),
		({"fold_files": "fold*.json"}, ["fold_files: no file is called fold*.json"]),
		({"name": "out/"}, ["ends with the folder"]),
		({"device": "gpu"}, ["batch.json: device must be one of"]),
		({"attribute_parameters": {"ohe_filename": "ohe.npz"}}, ["ohe.npz would be written by every job", "attribute"]),
		({"fit_parameters": {"name": "x"}}, ["x.torch would be written by every job"]),
	],
	ids=lambda value: None if isinstance(value, list) else str(value)[:40],
)
def test_bad_settings_are_told_before_anything_runs(write, capsys, arguments, words):
	write(**arguments)
	code = 3 if "ends with the folder" in words else 2
	error = complaint(capsys, code)
	for word in words:
		assert word in error


def test_problems_of_samples_settings_and_files_are_told_together(write, capsys):
	write(
		"name\tsignals\tn_filters\na b\ta.bw\t8\nc\tc.bw\t0\nd\tnone.bw\t8\n", files=("p.bed", "n.bed", "a.bw", "c.bw")
	)
	error = complaint(capsys)
	for word in (
		"4 problems",
		'line 2: the name "a b"',
		"line 3: n_filters must be",
		"line 4: none.bw: no such file",
		"batch.json: g.fa: no such file; check the path (relative ones start",
	):
		assert word in error


def test_a_bad_fold_is_told_by_its_file(write, capsys):
	for i, chrom in enumerate(("chr2", "chr1", "chr3")):
		Path(f"fold_{i}.json").write_text(json.dumps({"train": ["chr1"], "valid": [chrom]}))
	error = write(fold_files="fold_*.json", fit_parameters=...) and complaint(capsys)
	assert "batch.json: fold_files: fold_1.json: " in error and "chr1" in error and "problems" not in error


def test_missing_files_alone_are_exit_code_3(write, capsys):
	write(files=("g.fa", "p.bed", "n.bed", "a.bw"))
	assert "samples.tsv: line 2: b.bw: no such file" in complaint(capsys, 3)


def test_not_too_many_problems_are_listed(write, capsys):
	write("name\tsignals\n" + "".join(f"s{i}\tno{i}.bw\n" for i in range(50)))
	error = complaint(capsys, 3)
	assert "and 20 more" in error and "no29.bw" in error and "no30.bw" not in error


def test_a_dry_run_prints_commands(write, capsys):
	write()
	assert main(["batch", "-p", "batch.json", "--dry-run", "--jobs", "a*"]) == 0
	*_, line = capsys.readouterr().out.splitlines()
	assert line.endswith("-m cherimoya_cli pipeline -p out/batch/a/a.pipeline.json")
	write(dry_run=True)
	assert main(["batch", "-p", "batch.json"]) == 0
	assert len(capsys.readouterr().out.splitlines()) == 3 and not list(Path("out").rglob("*.job.json"))


def test_keys_without_effect_are_told(write, capsys):
	assert main(["batch", "-p", write(compile=True), "--dry-run"]) == 0
	assert "note: batch.json: compile: not used here" in capsys.readouterr().err


@pytest.mark.parametrize(
	("argv", "words"),
	[
		(["run"], "needs the JSON of the batch"),
		(["status"], "needs to know which batch"),
		(["status", "-n", "x", "-p", "y"], "both name a batch"),
		(["run", "-n", "x"], "does not read --name"),
		(["collect", "--state", "done"], "does not read --state"),
		(["run", "--json"], "does not read --json"),
		(["status", "--dry-run"], "does not read --dry-run"),
		(["status", "-n", "out/batch", "--state", "bad"], "there is no such state; choose from waiting"),
		(["status", "-n", "out/batch", "--jobs", "a", "c"], "--jobs c: fits none of the 2 jobs"),
	],
	ids=lambda value: None if isinstance(value, str) else " ".join(value),
)
def test_bad_arguments(argv, words, capsys):
	Path("out").mkdir()
	write_index("out/batch", [Job("out/batch", "a"), Job("out/batch", "b")])
	assert main(["batch", *argv]) == 2
	assert words in capsys.readouterr().err


def test_a_batch_that_was_never_run(capsys):
	assert main(["batch", "status", "-n", "out/x"]) == 3
	assert "no batch 'out/x' was run here" in capsys.readouterr().err
	Path("x.jobs.json").write_text("{")
	assert main(["batch", "status", "-n", "x"]) == 3
	assert "x.jobs.json: is damaged" in capsys.readouterr().err
	Path("x.jobs.json").write_text('{"version": 99, "jobs": []}')
	assert main(["batch", "collect", "-n", "x"]) == 3
	assert "another version" in capsys.readouterr().err


def test_select():
	jobs = [Job("x", sample, fold) for sample in ("K562", "GM") for fold in ("f0", "f1")]
	assert [job.name for job in select(jobs, ["K562*", "GM.f1"])] == ["K562.f0", "K562.f1", "GM.f1"]
	assert select(jobs, []) == jobs
	with pytest.raises(SettingsError, match=r"fits none of the 4 jobs; did you mean 'K562.f1'"):
		select(jobs, ["K562.f2"])


# Records and locks.

HOLDER = """
import sys, time
from cherimoya_cli.batch.jobs import Job
from cherimoya_cli.batch.records import take_hold
hold = take_hold(Job("out/batch", "a"))
print("held" if hold else "busy", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def job():
	"""A job with a folder and settings."""
	found = Job("out/batch", "a")
	Path(found.prefix).parent.mkdir(parents=True)
	Path(found.json_path).write_text('{"name": "out/batch/a/a"}\n')
	return found


def test_a_record_is_read_as_it_was_written(job):
	assert read_record(job) == Record()
	record = Record(
		records.FAILED, "abc", 2, "local", None, "cpu", "here", 1, 2, 3.5, 4.5, 5.0, 4, "fit", "why", {"x": 1}
	)
	write_record(job, record)
	assert read_record(job) == record
	assert [path.name for path in Path("out/batch/a").iterdir() if "tmp" in path.name] == []
	for text in ("{", "[]", '{"state": "odd"}', ""):
		Path(job.record_path).write_text(text)
		assert read_record(job) == Record()
	Path(job.record_path).write_text('{"state": "done", "later": 1}')
	assert read_record(job) == Record(records.DONE)


@pytest.mark.parametrize(
	("state", "same", "due"),
	[(state, same, state not in ("done", "failed") or not same) for state in records.STATES for same in (True, False)],
)
def test_what_is_due(job, state, same, due):
	record = Record(state, settings=records.digest_of(job) if same else "other")
	assert records.is_due(record, records.digest_of(job)) is due


def test_a_job_that_failed_waits_again(job):
	write_record(job, Record(records.FAILED, "abc", 2, seconds=7.0, exit_code=4, step="fit", reason="why"))
	records.reset(job)
	assert read_record(job) == Record(records.WAITING, "abc", 2, seconds=7.0)


@pytest.mark.parametrize("state", [records.DONE, records.RUNNING, records.QUEUED, records.WAITING])
def test_what_has_not_failed_is_left_as_it_is(job, state):
	"""Another process may have seen to a job after its record was read."""
	record = Record(state, "abc", 2, ticket="5", seconds=7.0)
	write_record(job, record)
	records.reset(job)
	assert read_record(job) == record


def test_a_failed_job_that_another_process_has_is_left_to_it(job):
	record = Record(records.FAILED, "abc", 2)
	write_record(job, record)
	hold = take_hold(job)
	records.reset(job)
	hold.release()
	assert read_record(job) == record


def test_one_process_at_a_time_holds_a_job(job):
	def start():
		return subprocess.Popen(
			[sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path.cwd(), text=True
		)

	with start() as first:
		assert first.stdout.readline() == "held\n"
		assert take_hold(job) is None
		with start() as second:
			assert second.stdout.readline() == "busy\n"
			second.stdin.close()
		first.kill()
		first.wait()
		hold = take_hold(job)
		assert hold is not None
		hold.release()
		hold.release()


def test_a_lock_that_cannot_be_made(job):
	with pytest.raises(InputError, match=r"b.job.lock: cannot be written"):
		take_hold(Job("out/batch", "b"))


def test_who_is_alive(job):
	"""A process of the same number that started at another time is another one; of other machines the pulse counts."""
	pid, host = os.getpid(), socket.gethostname()
	began = records.process_started(pid)
	assert began is not None and records.process_started(2**22 + 1) is None
	record = Record(records.RUNNING, host=host, pid=pid, pid_started=began)
	write_record(job, record)
	assert records.is_alive(job, record)
	assert not records.is_alive(job, replace(record, pid_started=began - 1))
	assert not records.is_elsewhere(job, record)
	far = replace(record, host="elsewhere")
	assert records.is_alive(job, far) and records.is_elsewhere(job, far)
	os.utime(job.record_path, (1, 1))
	assert not records.is_alive(job, far) and not records.is_elsewhere(job, far)
	assert not records.is_elsewhere(job, replace(far, state=records.DONE))


# How a pipeline ended.

STEP_FAILED = """[1/5] fit: train the model (not done yet)
cherimoya fit: error: p.bed: 3 intervals have start >= end; fix them
[1/5] fit: failed after 3 s
  fit (cherimoya fit) failed: exit code 3; its last lines were:
    cherimoya fit: error: p.bed: 3 intervals have start >= end; fix them
  All it printed is in x.fit.log.txt. To run this step alone:
    python -m cherimoya_cli fit -p x.fit.json
cherimoya pipeline: error: failed: fit; not run: evaluate. What was finished is kept; once mended, go on with:
  cherimoya pipeline -p x.json
"""
PREFLIGHT = """cherimoya pipeline: error: 2 problems:
  1. a.bw: none of its chromosomes is in g.fa; use files of one assembly
  2. b.bw: is damaged
"""
TRACEBACK = """[1/5] fit: failed after 3 s
  fit (cherimoya fit) failed: killed by SIGSEGV; its last lines were:
    epoch 3
  All it printed is in x.fit.log.txt. To run this step alone:
    python -m cherimoya_cli fit -p x.fit.json
cherimoya pipeline: error: failed: fit. What was finished is kept; once mended, go on with:
  cherimoya pipeline -p x.json
"""


@pytest.mark.parametrize(
	("log", "step", "reason"),
	[
		(STEP_FAILED, "fit", "p.bed: 3 intervals have start >= end; fix them"),
		(PREFLIGHT, None, "2 problems: 1. a.bw: none of its chromosomes is in g.fa; use files of one assembly"),
		(TRACEBACK, "fit", "killed by SIGSEGV: epoch 3"),
		("Traceback\n  File x\nKeyError: 3\n\n", None, "KeyError: 3"),
		("", None, "it ended without a word"),
		("x" * 1000, None, "x" * 299 + "…"),
	],
	ids=["a step", "preflight", "a killed step", "a defect", "nothing", "long"],
)
def test_why_a_pipeline_failed(log, step, reason):
	assert progress.why_failed(log) == (step, reason)


def test_how_far_a_pipeline_is(job):
	assert progress.current_step(job.prefix) is None and progress.last_epoch(job.prefix) is None
	for i, name in enumerate(("negatives", "fit", "job")):
		Path(f"{job.prefix}.{name}.log.txt").touch()
		os.utime(f"{job.prefix}.{name}.log.txt", (i, i))
	Path(f"{job.prefix}.negatives.done.json").touch()
	assert progress.current_step(job.prefix) == "fit"
	log = Path(f"{job.prefix}.log")
	header = "Epoch\tValidation Profile Pearson\tValidation Count Pearson\n"
	log.write_text(header)
	assert progress.last_epoch(job.prefix) is None
	log.write_text(header + "".join(f"{i}\t0.{i}\tnan\n" for i in range(5000)))
	epoch = progress.last_epoch(job.prefix)
	assert epoch.number == 4999 and epoch.score["profile_pearson"] == 0.4999
	assert progress.finite(epoch.score) == {"profile_pearson": 0.4999, "count_pearson": None}


def test_the_score_is_that_of_the_test_split(job):
	assert progress.read_score(job.prefix) == {}
	Path(f"{job.prefix}.performance.tsv").write_text("profile_pearson\tcount_pearson\n0.5\t0.25\n0.25\t0.75\n")
	assert progress.read_score(job.prefix) == {"split": "validation", "profile_pearson": 0.375, "count_pearson": 0.5}
	Path(f"{job.prefix}.test.performance.tsv").write_text("profile_pearson\tcount_pearson\n0.5\tnan\n")
	score = progress.read_score(job.prefix)
	assert score == {"split": "test", "profile_pearson": 0.5, "count_pearson": None}
	assert progress.score_in_words(score) == "; profile 0.500 (test)"


@pytest.mark.parametrize(
	("seconds", "words"), [(0.4, "0 s"), (59, "59 s"), (125, "2 min 5 s"), (12000, "3 h 20 min"), (352800, "4 d 2 h")]
)
def test_a_duration_in_words(seconds, words):
	assert progress.duration(seconds) == words


# The local queue, with a program in place of the pipeline.

PIPELINE = """
import json, os, signal, sys, time
prefix = json.load(open(sys.argv[sys.argv.index("-p") + 1]))["name"]
name = os.path.basename(prefix)
def note(word):
	with open("journal", "a") as journal:
		journal.write(f"{name} {word} {os.environ.get('SLOT', '')} {time.monotonic()}\\n")
def stopped(number, frame):
	note("stopped")
	sys.exit(128 + number)
signal.signal(signal.SIGTERM, stopped)
signal.signal(signal.SIGINT, stopped)
note("start")
tries = sum(line.startswith(f"{name} start") for line in open("journal"))
print("hello from", name, flush=True)
if "crash" in name and not os.path.exists("mended"):
	note("gone")
	sys.exit("cherimoya pipeline: error: no such luck")
if "killed" in name and tries == 1 or "doomed" in name:
	note("gone")
	os.kill(os.getpid(), signal.SIGKILL)
if "long" in name and tries == 1:
	time.sleep(3600)
time.sleep(0.1)
with open(f"{prefix}.test.performance.tsv", "w") as file:
	file.write("profile_pearson\\tcount_pearson\\n0.5\\t0.25\\n")
note("done")
"""
DRIVER = """
import sys
from cherimoya_cli.batch import local
from cherimoya_cli.batch.jobs import read_index
local.REST_SECONDS = local.LOOK_SECONDS = 0.3
executor = local.LocalExecutor(device="cpu", jobs_per_device=2, job_memory=1, program=(sys.executable, "pipeline.py"))
sys.exit(executor.run(read_index("out/batch")))
"""


@pytest.fixture
def queue(monkeypatch):
	"""Jobs of these names, and an executor whose pipeline is a small program."""
	from cherimoya_cli.batch import local

	monkeypatch.setattr(local, "REST_SECONDS", 0.3)
	monkeypatch.setattr(local, "LOOK_SECONDS", 0.3)
	Path("pipeline.py").write_text(PIPELINE)

	def make(*names, **options):
		jobs = [Job("out/batch", name) for name in names]
		for job in jobs:
			Path(job.prefix).parent.mkdir(parents=True)
			Path(job.json_path).write_text(json.dumps({"name": job.prefix}))
		write_index("out/batch", jobs)
		options = {"device": "cpu", "job_memory": 1, "program": (sys.executable, "pipeline.py"), **options}
		return jobs, LocalExecutor(**options)

	return make


def journal(word):
	"""The jobs of the lines of the journal with a word, in order."""
	return [line.split()[0] for line in Path("journal").read_text().splitlines() if line.split()[1] == word]


def most_at_once():
	"""How many jobs ran at once."""
	running, most = set(), 0
	for line in Path("journal").read_text().splitlines():
		name, word = line.split()[:2]
		(running.add if word == "start" else running.discard)(name)
		most = max(most, len(running))
	return most


def states(jobs):
	return {job.name: read_record(job).state for job in jobs}


def driver():
	"""A process that runs the batch."""
	return subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, process=None):
	for _ in range(6000):
		if condition():
			return
		assert process is None or process.poll() is None, process.communicate()[0]
		time.sleep(0.05)
	raise AssertionError("it did not happen")


def test_failures_leave_other_jobs_alone(queue, capfd):
	jobs, executor = queue("a", "crash", "killed", "b", "c", "d", jobs_per_device=2)
	assert executor.run(jobs) == 4
	assert states(jobs) == {"crash": "failed"} | dict.fromkeys(("a", "killed", "b", "c", "d"), "done")
	assert sorted(journal("done")) == ["a", "b", "c", "d", "killed"]
	assert sorted(journal("start")) == ["a", "b", "c", "crash", "d", "killed", "killed"]
	assert most_at_once() <= 2
	captured = capfd.readouterr()
	assert "crash: failed: no such luck" in captured.err
	assert "killed: killed by SIGKILL; the system does so when memory runs out; it will go on" in captured.err
	assert "[6/6]" in captured.out + captured.err
	assert "a: done in" in captured.out and "profile 0.500, count 0.250 (test)" in captured.out
	record = read_record(jobs[2])
	assert (record.attempts, record.exit_code, record.executor, record.device) == (2, 0, "local", "cpu")
	log = Path(jobs[2].log_path).read_text()
	assert (
		log.count("hello from killed") == 2
		and log.count("$ ") == 2
		and "-p out/batch/killed/killed.pipeline.json" in log
	)


def test_a_job_that_is_killed_again_and_again_fails(queue, capfd):
	jobs, executor = queue("doomed", max_attempts=2)
	assert executor.run(jobs) == 4
	record = read_record(jobs[0])
	assert (
		(record.state, record.attempts) == ("failed", 2) and "SIGKILL" in record.reason and "2 times" in record.reason
	)


def test_a_done_job_is_not_run_again(queue):
	jobs, executor = queue("a", "b")
	assert executor.run(jobs[:1]) == 0
	assert executor.run(jobs) == 0
	assert sorted(journal("start")) == ["a", "b"]
	Path(jobs[0].json_path).write_text(json.dumps({"name": jobs[0].prefix, "other": 1}))
	assert executor.run(jobs) == 0
	assert sorted(journal("start")) == ["a", "a", "b"]


def test_a_killed_batch_goes_on_and_repeats_nothing(queue):
	"""SIGKILL of the batch: its jobs end too, on their own, and the next run does what is left, once."""
	jobs, _ = queue("a", "long1", "long2", "b", "c")
	first = driver()
	wait_for(lambda: Path("journal").exists() and {"long1", "long2"} <= set(journal("start")), first)
	running = {name: read_record(Job("out/batch", name)).pid for name in ("long1", "long2")}
	first.kill()
	first.communicate()
	second = driver()
	output, _ = second.communicate(timeout=600)
	assert second.returncode == 0, output
	assert states(jobs) == dict.fromkeys(("a", "long1", "long2", "b", "c"), "done")
	assert sorted(journal("done")) == ["a", "b", "c", "long1", "long2"]
	assert all(records.process_started(pid) is None for pid in running.values())


def test_two_batches_at_once_share_the_jobs(queue):
	jobs, _ = queue(*(f"job{i}" for i in range(8)))
	both = [driver(), driver()]
	outputs = [process.communicate(timeout=600)[0] for process in both]
	assert [process.returncode for process in both] == [0, 0], outputs
	assert sorted(journal("done")) == sorted(journal("start")) == [job.name for job in jobs]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
def test_an_interrupted_batch_stops_its_jobs_in_order(queue, number, code):
	jobs, _ = queue("long1", "long2", "a")
	process = driver()
	wait_for(lambda: Path("journal").exists() and len(journal("start")) == 2, process)
	process.send_signal(number)
	output, _ = process.communicate(timeout=600)
	assert process.returncode == code, output
	assert sorted(journal("stopped")) == ["long1", "long2"]
	assert states(jobs) == {"long1": "stopped", "long2": "stopped", "a": "waiting"}
	assert read_record(jobs[0]).exit_code == 143
	assert take_hold(jobs[0]) is not None


def test_a_record_that_cannot_be_written_keeps_no_other_job_from_stopping(queue, capfd):
	from cherimoya_cli.batch.local import _Run

	jobs, executor = queue("long1", "long2", jobs_per_device=2)
	run = _Run(executor, jobs, [])
	while run.waiting:
		assert run.start_next()
	wait_for(lambda: Path("journal").exists() and len(journal("start")) == 2)
	Path(jobs[0].record_path).unlink()
	Path(jobs[0].record_path).mkdir()
	run.end_all()
	assert sorted(journal("stopped")) == ["long1", "long2"]
	assert "long1: out/batch/long1/long1.job.json: cannot be written" in capfd.readouterr().err
	assert read_record(jobs[1]).state == "stopped"


def test_jobs_wait_for_memory(queue, monkeypatch, capfd):
	jobs, executor = queue("a", "b", "c", jobs_per_device=3, job_memory=4 * 10**9, max_memory=10 * 10**9)
	assert executor.run(jobs) == 0
	assert most_at_once() <= 2
	assert "c: waits for memory; it takes about 4.0 GB" in capfd.readouterr().out


def test_room_is_what_is_free_less_what_running_jobs_will_claim(monkeypatch):
	room = memory.room_for
	assert room(10**12, {}, free=0, limit=1)  # nothing else runs
	monkeypatch.setattr(memory, "resident_bytes", lambda pids: {1: 10**9, 2: 5 * 10**9})
	running = {1: 4 * 10**9, 2: 3 * 10**9}  # the first will take 3 GB more, the second took more than was thought
	assert room(2 * 10**9, running, free=6 * 10**9, limit=None)
	assert not room(2 * 10**9, running, free=5 * 10**9, limit=None)
	assert not room(2 * 10**9, running, free=60 * 10**9, limit=8 * 10**9)
	assert room(2 * 10**9, running, free=None, limit=None)


def test_memory_of_a_process_and_its_children():
	code = "import subprocess, sys; x = bytearray(60_000_000); subprocess.run([sys.executable, '-c', {!r}])"
	child = "x = bytearray(50_000_000); print('ready', flush=True); input()"
	with subprocess.Popen(
		[sys.executable, "-c", code.format(child)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
	) as process:
		assert process.stdout.readline() == "ready\n"
		found = memory.resident_bytes({process.pid, 2**22 + 1})
		process.communicate("\n")
	assert 110_000_000 < found[process.pid] < 250_000_000 and found[2**22 + 1] == 0


def test_a_job_takes_more_memory_with_more_loci(job, tiny_genome):
	values = {
		"name": job.prefix,
		"sequences": str(tiny_genome.fasta),
		"signals": [str(tiny_genome.signal)],
		"cache": None,
		"fit_parameters": {"num_workers": 0},
	}
	sizes = {}
	for n in (1000, 100_000):
		Path("many.bed").write_text("chr1\t600\t700\n" * n)
		Path(job.json_path).write_text(json.dumps({**values, "loci": "many.bed"}))
		sizes[n] = memory.estimate_memory(job, gpu=True)
	# negatives, which the pipeline finds, are as many again
	assert sizes[1000] >= 2 * memory.PROCESS_BYTES and sizes[100_000] - sizes[1000] > 99_000 * 2 * 2114
	assert memory.estimate_memory(job, gpu=False) != sizes[100_000]
	assert memory.count_rows("none.bed") == memory.count_rows("https://x/y.bed") == 0


def test_places_for_jobs(monkeypatch):
	import torch

	monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
	monkeypatch.setattr("cherimoya.io._workers.n_cores", lambda: 9)
	assert find_slots("cpu", 2) == [Slot("cpu", (), {"OMP_NUM_THREADS": "4"})] * 2
	monkeypatch.setenv("OMP_NUM_THREADS", "3")
	assert find_slots("cpu", 1) == [Slot("cpu")]
	monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
	monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
	monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5,7")
	found = find_slots("*", 2)
	assert [slot.device for slot in found] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
	assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in found] == ["GPU-5", "7", "GPU-5", "7"]
	assert found[0].overrides == ("device=cuda",) and found[0].gpu
	assert find_slots("cuda:1", 1) == [Slot("cuda:1")]
	with pytest.raises(SettingsError, match="torch finds 2 GPUs"):
		find_slots("cuda:2", 1)
	monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
	assert [slot.device for slot in find_slots("auto", 1)] == ["cpu"]
	for device, words in (("*", 'finds none here; set device to "cpu"'), ("cuda", "torch finds no GPU")):
		with pytest.raises(SettingsError, match=words):
			find_slots(device, 1)


def test_a_slot_tells_its_job_where_to_run(queue, monkeypatch):
	from cherimoya_cli.batch import local

	jobs, executor = queue("a", "b")
	slots = [Slot("cuda:0", ("device=cuda",), {"SLOT": "first"}), Slot("cuda:1", (), {"SLOT": "second"})]
	monkeypatch.setattr(local, "find_slots", lambda device, n: list(slots))
	assert executor.run(jobs) == 0
	lines = [line.split() for line in Path("journal").read_text().splitlines() if " start " in line]
	assert {(name, slot) for name, _, slot, _ in lines} == {("a", "first"), ("b", "second")}
	assert "--set device=cuda" in Path(jobs[0].log_path).read_text()
	assert [read_record(job).device for job in jobs] == ["cuda:0", "cuda:1"]


def test_settings_that_change_as_a_job_starts_are_seen_to(queue, monkeypatch):
	"""The pipeline may read its JSON at any time after it is started, so that the digest is taken before."""
	(job,), executor = queue("a")
	digest, popen = records.digest_of(job), subprocess.Popen

	def changing(*args, **options):
		Path(job.json_path).write_text(json.dumps({"name": job.prefix, "other": 1}))
		return popen(*args, **options)

	monkeypatch.setattr(subprocess, "Popen", changing)
	attempt = Attempt(job, take_hold(job), executor="local", program=executor.program)
	record = attempt.wait()
	assert (record.state, record.settings) == ("done", digest)
	assert records.is_due(record, records.digest_of(job))


def test_an_attempt_is_watched_stopped_and_recorded(queue):
	(job,), executor = queue("long")
	attempt = Attempt(job, take_hold(job), executor="slurm", device="node", ticket="12_3", program=executor.program)
	try:
		wait_for(lambda: Path("journal").exists() and journal("start") == ["long"])
		assert attempt.poll() is None and take_hold(job) is None
		running = read_record(job)
		assert (running.state, running.ticket, running.host) == ("running", "12_3", socket.gethostname())
		assert records.is_alive(job, running)
		assert status.row_of(job, time.time()).state == "running"
	finally:
		record = attempt.stop()
	assert (record.state, record.exit_code, record.pid) == ("stopped", 143, None)
	assert read_record(job) == record == attempt.poll()
	assert take_hold(job) is not None


def test_a_running_job_shows_that_it_is_alive(queue, monkeypatch):
	(job,), executor = queue("long")
	attempt = Attempt(job, take_hold(job), executor="local", program=executor.program)
	try:
		os.utime(job.record_path, (1, 1))
		attempt.poll()
		assert records.heard_of(job) == 1
		monkeypatch.setattr("cherimoya_cli.batch.attempt.HEARTBEAT_SECONDS", 0.0)
		attempt.poll()
		assert time.time() - records.heard_of(job) < 100
	finally:
		attempt.kill()
	assert read_record(job).state == "stopped"


@pytest.mark.parametrize("broken", [False, True], ids=["right", "wrong"])
def test_the_kernels_of_gpus_are_checked_once_for_all_jobs(monkeypatch, broken):
	from cherimoya.errors import ToolError
	from cherimoya_cli.batch import local

	calls = []

	def check():
		calls.append(1)
		if broken:
			raise ToolError("a kernel is wrong")

	monkeypatch.setattr("cherimoya_cli.preflight.check_kernels", check)
	LocalExecutor(device="cpu").check()
	assert calls == []
	monkeypatch.setattr(local, "find_slots", lambda device, n: [Slot("cuda:0"), Slot("cuda:1")])
	if broken:
		with pytest.raises(ToolError):
			LocalExecutor(device="*").check()
	else:
		LocalExecutor(device="*").check()
	assert calls == [1]


def test_the_index_of_a_genome_is_made_before_jobs_start(write, tiny_genome):
	from cherimoya_cli.batch.planning import index_genomes

	plan = make_plan(write())
	Path("g.fa").write_bytes(tiny_genome.fasta.read_bytes())
	index_genomes(plan)
	assert Path("g.fa.fai").read_text().splitlines()[0].startswith("chr1\t24000\t")


def test_a_record_that_cannot_be_written_ends_its_job_alone(queue, capfd):
	jobs, executor = queue("a", "b")
	Path(jobs[0].record_path).mkdir()
	assert executor.run(jobs) == 4
	assert "a: failed: out/batch/a/a.job.json: cannot be written" in capfd.readouterr().err
	assert read_record(jobs[1]).state == "done"


def test_the_command_of_a_job(job):
	assert command_of(job, ("x",), ("device=cuda",)) == ["x", "-p", job.json_path, "--set", "device=cuda"]


# The command, with a program in place of the pipeline.


@pytest.fixture
def batch(write, monkeypatch):
	"""Run an action on a batch of the samples a, b and crash whose pipeline is a small program."""
	from cherimoya_cli.batch import local

	Path("pipeline.py").write_text(PIPELINE)
	rows = "".join(f"{name}\ta.bw\n" for name in ("a", "b", "crash"))
	text = "name\tsignals\n" + rows
	write(text, jobs_per_device=2, job_memory=0.001)
	monkeypatch.setattr("cherimoya_cli.batch.planning.index_genomes", lambda plan: None)
	original = local.LocalExecutor.from_settings

	def with_program(settings, device):
		return replace(original(settings, device), program=(sys.executable, "pipeline.py"))

	monkeypatch.setattr(local.LocalExecutor, "from_settings", with_program)
	return lambda action, *words: main(["batch", action, "-p", "batch.json", *words])


def test_run_status_retry(batch, capfd):
	assert batch("run") == 4
	captured = capfd.readouterr()
	assert "Batch out/batch: 3 jobs, 0 done, 0 failed earlier, 3 to run" in captured.out
	assert "3 jobs: 1 failed, 2 done" in captured.out and "cherimoya batch retry -p batch.json" in captured.err
	assert batch("run") == 4
	assert "3 jobs, 2 done, 1 failed earlier, 0 to run" in capfd.readouterr().out
	assert batch("status") == 0
	header, *rows, last = capfd.readouterr().out.splitlines()
	assert header.split() == ["job", "state", "step", "epoch", "profile", "count", "device", "elapsed"]
	assert [row.split()[:2] for row in rows] == [["a", "done"], ["b", "done"], ["crash", "failed"]]
	assert rows[0].split()[2:5] == ["0.500", "0.250", "cpu"] and rows[2].endswith("no such luck")
	assert last == "3 jobs: 1 failed, 2 done"
	assert batch("status", "--state", "failed", "--json") == 0
	(row,) = json.loads(capfd.readouterr().out)
	assert (row["job"], row["state"], row["attempts"], row["note"]) == ("crash", "failed", 1, "no such luck")
	Path("mended").touch()
	assert batch("retry", "--jobs", "a", "b") == 0
	assert "0 failed jobs to run again" in capfd.readouterr().out
	assert batch("retry") == 0
	assert "3 jobs: 3 done\nNext: cherimoya batch collect -p batch.json" in capfd.readouterr().out
	assert sorted(journal("start")) == ["a", "b", "crash", "crash"]
	assert batch("run") == 0


def test_a_device_that_is_not_there_is_told_before_anything_is_written(batch, capfd):
	assert batch("run", "--set", "device=cuda:7") == 2
	assert 'device is "cuda:7"' in capfd.readouterr().err and not Path("out").exists()


def test_status_tells_lost_jobs(job, capsys):
	write_index("out/batch", [job])
	write_record(
		job, Record(records.RUNNING, host=socket.gethostname(), pid=2**22 + 1, pid_started=1, started=time.time())
	)
	assert main(["batch", "status", "-n", "out/batch"]) == 0
	out = capsys.readouterr().out
	assert "its process is gone" in out and "1 job: 1 lost" in out


def test_status_imports_nothing_heavy(job):
	write_index("out/batch", [job])
	Path("batch.json").write_text('{"name": "out/batch"}')
	code = (
		"import sys; from cherimoya_cli.__main__ import main; "
		"assert main(['batch', 'status', '-p', 'batch.json']) == 0; "
		"print(sorted({'torch', 'numpy', 'pydantic'} & sys.modules.keys()))"
	)
	run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
	assert run.stdout.splitlines()[-1] == "[]", run.stderr
	Path("batch.json").write_text('{"name": "out/batch", "samples": []}')
	assert main(["batch", "status", "-p", "batch.json", "--set", "name=none"]) == 3


# What came out of all.


def finished(name, profile, count=0.5, lost=0.01, seconds=100.0):
	"""A job that is done, with these measures."""
	job = Job("out/batch", name)
	Path(job.prefix).parent.mkdir(parents=True, exist_ok=True)
	write_record(job, Record(records.DONE, attempts=1, seconds=seconds))
	Path(f"{job.prefix}.test.performance.tsv").write_text(f"profile_pearson\tcount_pearson\n{profile}\t{count}\n")
	Path(f"{job.prefix}.performance.tsv").write_text("profile_pearson\tcount_pearson\n0.9\t0.9\n")
	n = round(1000 * lost)
	lines = [("given", 3000), ("chromosome not selected", 1500), ("in another split", 500), ("off the edge", n)]
	rows = "".join(f"training\tall\t{reason}\t{count}\n" for reason, count in [*lines, ("kept", 1000 - n)])
	Path(f"{job.prefix}.fit.accounting.tsv").write_text(f"split\tfile\treason\tcount\n{rows}training\tx.bed\tkept\t7\n")
	for i, step in enumerate(("fit", "evaluate")):
		record = {"step": step, "finished": f"2026-01-0{i + 1}", "seconds": seconds / 2}
		Path(f"{job.prefix}.{step}.done.json").write_text(json.dumps(record))
	return job


@pytest.mark.parametrize(
	("values", "z"),
	[
		([1.0, 2.0, 3.0, 4.0, 100.0], [-2 * 0.6745, -0.6745, 0, 0.6745, 97 * 0.6745]),
		([0.0, 0.0, 0.0, 0.0, 5.0], [0, 0, 0, 0, 5 / 1.2533]),
		([2.0, 2.0, 2.0], [0, 0, 0]),
		([1.0, float("nan"), 3.0], [-0.6745, None, 0.6745]),
		([float("nan")], [None]),
	],
	ids=["MAD", "mean deviation", "same", "NaN", "nothing"],
)
def test_robust_z(values, z):
	found = cohort.robust_z(values)
	assert [None if x != x else pytest.approx(x) for x in found] == z


def test_collect(capsys):
	jobs = [finished(f"s{i}", 0.6 + i / 500, 0.5 + i / 500, 0.01, 100 + i) for i in range(8)]
	jobs += [finished("low", 0.2), finished("lossy", 0.6, lost=0.4), finished("slow", 0.6, seconds=900)]
	failed, waiting = Job("out/batch", "failed"), Job("out/batch", "wait<b>", "f")
	Path(failed.prefix).parent.mkdir()
	write_record(failed, Record(records.FAILED, step="fit", reason="a <bad>\tfile"))
	Path(f"{jobs[0].prefix}.report.html").touch()
	write_index("out/batch", [*jobs, failed, waiting])
	assert main(["batch", "collect", "-n", "out/batch"]) == 0
	assert capsys.readouterr().out == "Wrote out/batch.performance.tsv\nWrote out/batch.cohort.html\n"
	rows = progress.read_table("out/batch.performance.tsv")
	assert len(rows) == 2 * 11 + 2 and all(len(row) == len(rows[0]) for row in rows)
	first = {row["split"]: row for row in rows if row["job"] == "s0"}
	assert first["test"]["profile_pearson"] == "0.6" and first["validation"]["profile_pearson"] == "0.9"
	assert (first["test"]["training_loci"], first["test"]["training_lost"]) == ("990", "0.01")
	assert (first["test"]["seconds"], first["test"]["seconds.fit"]) == ("100", "50")
	marked = {row["job"]: row["outlier"] for row in rows if row["split"] == "test" and row["outlier"]}
	assert marked == {
		"low": "profile Pearson 0.200 is unusually low (median 0.604)",
		"lossy": "loci lost 40.0 % is unusually high (median 1.0 %)",
		"slow": "running time 15 min 0 s is unusually high (median 1 min 43 s)",
	}
	(bad,) = (row for row in rows if row["job"] == "failed")
	assert (bad["state"], bad["note"], bad["split"]) == ("failed", "a <bad> file", "")


def test_the_cohort_page_asks_for_nothing_and_says_what_stands_out(monkeypatch):
	jobs = [finished(f"s{i}", 0.6 + i / 500) for i in range(8)] + [finished("low", 0.2)]
	Path(f"{jobs[0].prefix}.report.html").touch()
	failed, waiting = Job("out/batch", "bad"), Job("out/batch", "wait", "f0")
	Path(failed.prefix).parent.mkdir()
	write_record(failed, Record(records.FAILED, step="fit", reason="a <bad> file"))
	cohort.collect("out/batch", [*jobs, failed, waiting])
	page = Path("out/batch.cohort.html").read_text()
	assert "http://" not in page and "https://" not in page and "url(" not in page and "src=" not in page
	assert "profile Pearson 0.200 is unusually low (median 0.606)" in page
	assert "failed in the step fit: a &lt;bad&gt; file" in page and "1 job not started yet" in page
	assert 'href="batch/s0/s0.report.html"' in page and "batch/s1/s1.report.html" not in page
	assert page.count("<tr id=") == 11 and page.count("<svg") == 4
	cohort.collect("out/batch", [*jobs, failed, waiting])
	assert Path("out/batch.cohort.html").read_text() == page


def test_a_cohort_of_few_has_no_outliers():
	job = finished("a", 0.5)
	cohort.collect("out/batch", [job])
	page = Path("out/batch.cohort.html").read_text()
	assert "1 job done: too few to tell" in page
	cohort.collect("out/batch", [Job("out/batch", "never")])
	assert "0 jobs done: too few to tell" in Path("out/batch.cohort.html").read_text()
