"""What the folds of a sample share is made once, by a job that theirs wait for: planning, waiting, failing, retry."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cherimoya_cli.__main__ import main
from cherimoya_cli.batch import local, memory, records, status
from cherimoya_cli.batch.jobs import Job, read_index, write_index
from cherimoya_cli.batch.local import LocalExecutor
from cherimoya_cli.batch.planning import digests_of, make_plan, write_jobs
from cherimoya_cli.batch.records import DONE, FAILED, QUEUED, RUNNING, STOPPED, WAITING, Record, read_record
from cherimoya_cli.plan import DATA_STEPS, names_without_step
from cherimoya_cli.plan import make_plan as make_pipeline
from cherimoya_cli.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]
BASE = {"name": "out/b", "sequences": "g.fa", "device": "cpu", "fold_files": ["f0.json", "f1.json"]}
BIGWIGS = {"signals": [["x.+.bw", "x.-.bw"]], "loci": ["p.bed"]}
AFTER_FIT = ["evaluate", "predict", "attribute", "seqlets", "motifs", "modisco_report", "report"]


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
	"""Each test works in a folder of its own, with two folds, from which the package can be run."""
	monkeypatch.chdir(tmp_path)
	monkeypatch.setenv("PYTHONPATH", str(ROOT))
	for i in (0, 1):
		Path(f"f{i}.json").write_text(json.dumps({"train": ["chr1"], "valid": [f"chr{i + 2}"], "test": ["chr4"]}))


def write(**changes):
	"""Write the JSON of a batch of the sample s, with changes, and the files that it names; the JSON's path."""
	content = {**BASE, "signals": ["x.bam"], "samples": [{"name": "s"}], **changes}
	for name in ("g.fa", "x.bam", "y.bam", "c.bam", "x.bw", "x.+.bw", "x.-.bw", "p.bed", "n.bed", "m.meme", "v.vcf"):
		Path(name).write_text("x")
	Path("batch.json").write_text(json.dumps(content))
	return "batch.json"


def names_of(plan):
	return [planned.job.name for planned in plan.jobs]


def content_of(plan, name):
	return next(plan.content(planned) for planned in plan.jobs if planned.job.name == name)


def steps_of(content):
	return make_pipeline(load_settings("pipeline", content))


# Planning.


@pytest.mark.parametrize(
	("changes", "made"),
	[
		({}, ["peaks", "signals", "negatives"]),
		({"signals": "x.bam"}, ["peaks", "signals", "negatives"]),
		({"loci": "p.bed"}, ["signals", "negatives"]),
		({"fit_parameters": {"loci": "p.bed"}}, ["signals", "negatives"]),
		({"negatives": "n.bed"}, ["peaks", "signals"]),
		({"fit_parameters": {"negatives": "n.bed"}}, ["peaks", "signals"]),
		(BIGWIGS, ["negatives"]),
		({**BIGWIGS, "controls": ["c.bam"]}, ["signals", "negatives"]),
		({"controls": ["c.bam"]}, ["peaks", "signals", "negatives"]),
		(
			{
				"signals": [["x.bam"], ["y.bam"]],
				"controls": [None, "c.bam"],
				"preprocessing_parameters": {"unstranded": [True, False], "pos_shift": [4, 0], "callpeaks_q": 0.01},
			},
			["peaks", "signals", "negatives"],
		),
		({"fit_parameters": {"summits": True}, "negatives_parameters": {"bin_width": 0.05}}, list(DATA_STEPS)),
		({"summits": True, "in_window": 1500, "exclusion_lists": "p.bed"}, list(DATA_STEPS)),
		({"attribute_parameters": {"loci": "p.bed"}, "predict_parameters": {"loci": None}}, list(DATA_STEPS)),
		({"motifs": "m.meme", "variants_parameters": {"variants": "v.vcf"}}, list(DATA_STEPS)),
		({"skip_steps": ["negatives", "report"], "fit_parameters": {"negative_ratio": 0}}, ["peaks", "signals"]),
		({"skip_steps": "report", "random_state": 5}, list(DATA_STEPS)),
		({"skip_steps": [step for step in AFTER_FIT if step != "evaluate"], "model": "x.bw"}, list(DATA_STEPS)),
	],
	ids=[
		"reads",
		"reads as a text",
		"peaks given",
		"peaks of fit given",
		"negatives given",
		"negatives of fit given",
		"bigWigs",
		"controls as reads",
		"with a control",
		"groups of reads",
		"settings of sections",
		"settings of the top level",
		"loci of sections",
		"more steps",
		"no negatives wanted",
		"a step left out",
		"model given",
	],
)
def test_a_fold_runs_the_steps_of_a_pipeline_alone_less_those_of_its_data(changes, made):
	"""Each step has the settings that it has in the pipeline of the fold alone, but for the names of shared files."""
	plan = make_plan(write(**changes))
	assert names_of(plan) == ["s", "s.f0", "s.f1"]
	alone = plan.content_alone(plan.jobs[2])
	assert alone["name"] == "out/b/s.f1/s.f1" and alone["fit_parameters"]["folds"] == "f1.json"
	expected = {step.name: step for step in steps_of(alone)}
	assert [name for name in expected if name in DATA_STEPS] == made
	text = json.dumps({name: step.settings for name, step in expected.items()})
	for path in (path for name in made for path in expected[name].outputs):
		text = text.replace(json.dumps(path), json.dumps(path.replace("s.f1", "s")))
	wanted = json.loads(text)

	first = {step.name: step.settings for step in steps_of(content_of(plan, "s"))}
	assert list(first) == made and not names_without_step(load_settings("pipeline", content_of(plan, "s")))
	for name, settings in first.items():
		assert settings == {**wanted[name], "name": "out/b/s/s"} and "folds" not in settings
	rest = {step.name: step.settings for step in steps_of(content_of(plan, "s.f1"))}
	assert rest == {name: settings for name, settings in wanted.items() if name not in made}


@pytest.mark.parametrize(
	"changes",
	[
		{**BIGWIGS, "negatives": "n.bed"},
		{"skip_steps": ["fit", *AFTER_FIT]},
		{"fold_files": None, "device": "cpu"},
	],
	ids=["data given", "nothing but data", "no folds"],
)
def test_nothing_is_shared_where_there_is_nothing_to_share(changes):
	plan = make_plan(write(**changes))
	assert {planned.job.shared for planned in plan.jobs} == {False} and len(plan.jobs) in (1, 2)
	assert all(plan.content(planned) == plan.content_alone(planned) for planned in plan.jobs)


def test_samples_of_other_kinds_in_one_batch():
	samples = [{"name": "a"}, {"name": "b", **BIGWIGS, "negatives": "n.bed"}, {"name": "c", "signals": ["y.bam"]}]
	plan = make_plan(write(samples=samples))
	assert names_of(plan) == ["a", "a.f0", "a.f1", "b.f0", "b.f1", "c", "c.f0", "c.f1"]
	assert content_of(plan, "c")["signals"] == ["y.bam"]
	assert content_of(plan, "c.f0")["signals"] == [["out/b/c/c.+.bw", "out/b/c/c.-.bw"]]
	assert content_of(plan, "c.f1")["loci"] == ["out/b/c/c_peaks.narrowPeak"]
	assert content_of(plan, "c.f1")["negatives"] == ["out/b/c/c.negatives.bed"]
	write_jobs(plan)
	assert read_index("out/b") == [planned.job for planned in plan.jobs]
	assert digests_of(plan) == {planned.job.name: records.digest_of(planned.job) for planned in plan.jobs}


def test_an_index_of_jobs_that_share_nothing_is_what_it_was():
	Path("out").mkdir()
	write_index("out/b", [Job("out/b", "a", "f0"), Job("out/b", "b")])
	assert json.loads(Path("out/b.jobs.json").read_text()) == {"version": 1, "jobs": [["a", "f0"], ["b", None]]}
	Path("out/b.jobs.json").write_text('{"version": 1, "jobs": [["a", "f0", true, 1]]}')
	assert main(["batch", "status", "-n", "out/b"]) == 3


def test_the_preparation_asks_for_no_device_and_each_part_reruns_its_own_steps():
	plan = make_plan(write(device="auto", rerun_steps=["negatives", "fit"]))
	first, fold = content_of(plan, "s"), content_of(plan, "s.f0")
	assert (first["device"], fold["device"]) == ("cpu", "auto")
	assert (first["rerun_steps"], fold["rerun_steps"]) == (["negatives"], ["fit"])
	for content in (first, fold):
		assert [step.name for step in steps_of(content) if step.rerun] == content["rerun_steps"]


@pytest.mark.parametrize(
	("changes", "due"),
	[
		({"samples": [{"name": "s", "signals": ["y.bam"]}]}, ["s", "s.f0", "s.f1"]),
		({"preprocessing_parameters": {"unstranded": True}}, ["s", "s.f0", "s.f1"]),
		({"fit_parameters": {"n_filters": 8}}, ["s", "s.f0", "s.f1"]),
		({"attribute_parameters": {"max_loci": 10}}, ["s.f0", "s.f1"]),
		({"fold_files": ["f0.json", "f1.json", "f2.json"]}, ["s.f2"]),
		({}, []),
	],
	ids=["other reads", "converted otherwise", "training", "a later step", "one more fold", "nothing"],
)
def test_jobs_are_due_again_whose_settings_or_data_change(changes, due):
	plan = make_plan(write())
	write_jobs(plan)
	for planned in plan.jobs:
		records.write_record(planned.job, Record(DONE, settings=records.digest_of(planned.job)))
	Path("f2.json").write_text(Path("f0.json").read_text())
	plan = make_plan(write(**changes))
	digests = digests_of(plan)
	found = [p.job.name for p in plan.jobs if records.is_due(read_record(p.job), digests[p.job.name])]
	assert found == due


@pytest.mark.parametrize(
	("changes", "code", "words"),
	[
		({"fit_parameters": {"n_filters": 0}}, 2, "batch.json: fit_parameters.n_filters must be"),
		({"preprocessing_parameters": {"callpeaks_q": 7}}, 2, "batch.json: preprocessing_parameters.callpeaks_q"),
		({"samples": [{"name": "a"}, {"name": "s", "n_filters": 0}]}, 2, "batch.json: sample 2: n_filters must be"),
		({"samples": [{"name": "a"}, {"name": "s", "signals": "no.bam"}]}, 3, "sample 2: no.bam: no such file"),
		({"samples": [{"name": "s"}, {"name": "s.f0"}]}, 2, "the job 's.f0' is called like one of"),
		({"negatives_parameters": {"output_filename": "n2.bed"}}, 2, "n2.bed would be written by every job"),
		({"skip_steps": 3}, 2, "batch.json: skip_steps must be"),
		({"rerun_steps": [[]]}, 2, "batch.json: rerun_steps must be"),
		({"fit_parameters": 3}, 2, "batch.json: fit_parameters"),
	],
	ids=[
		"training",
		"conversion",
		"a sample",
		"a file",
		"names",
		"one output of all",
		"a type",
		"another",
		"a section",
	],
)
def test_what_is_wrong_is_told_once_where_it_is_to_be_mended(changes, code, words, capsys):
	assert main(["batch", "-p", write(**changes), "--dry-run"]) == code
	error = capsys.readouterr().err
	assert error.count(words) == 1 and not Path("out").exists(), error


# What may start.


@pytest.mark.parametrize(
	("state", "changed", "expected", "words"),
	[
		(DONE, False, None, ""),
		(DONE, True, WAITING, "which is to be run again"),
		(FAILED, True, WAITING, "which is to be run again"),
		(FAILED, False, FAILED, "the job s makes, which failed in the step peaks: no reads"),
		(STOPPED, False, WAITING, "which is not done (stopped)"),
		(RUNNING, False, WAITING, "which is not done (running)"),
		(WAITING, False, WAITING, "which is not done (waiting)"),
	],
	ids=lambda value: str(value) if isinstance(value, (str, bool)) else None,
)
def test_what_becomes_of_a_job_whose_preparation_is_in_a_state(state, changed, expected, words):
	plan = make_plan(write())
	write_jobs(plan)
	first, fold, _ = (planned.job for planned in plan.jobs)
	assert (first.prepares, first.preparation, fold.prepares, fold.preparation) == (True, None, False, first)
	settings = "other" if changed else records.digest_of(first)
	records.write_record(first, Record(state, settings=settings, step="peaks", reason="no reads"))
	assert records.held_up(first, Record()) is None
	found = records.held_up(fold, Record(attempts=2))
	if expected is None:
		assert found is None
		return
	assert (found.state, found.attempts) == (expected, 2) and words in found.reason
	assert records.is_due(found, records.digest_of(fold)) is (expected == WAITING)


def test_rows_of_a_file_are_counted_again_once_it_is_there():
	"""A preparation's memory is estimated before its peaks are there, those of its folds afterwards."""
	assert memory.count_rows("peaks.bed") == 0
	Path("peaks.bed").write_text("x\n" * 5)
	assert memory.count_rows("peaks.bed") == 5
	Path("peaks.bed").write_text("x\n" * 7)
	assert memory.count_rows("peaks.bed") == 7


# The local queue, with a program in place of the pipeline.

PIPELINE = """
import json, os, sys
prefix = json.load(open(sys.argv[sys.argv.index("-p") + 1]))["name"]
name = os.path.basename(prefix)
def note(word):
	with open("journal", "a") as journal:
		journal.write(f"{name} {word}\\n")
note("start")
if "bad" in name and not os.path.exists("mended"):
	sys.exit("cherimoya peaks: error: bad.bam: no reads")
note("end")
"""


@pytest.fixture
def batch(monkeypatch):
	"""Run an action on a batch of the samples of these names, two folds each, two jobs at once."""
	Path("pipeline.py").write_text(PIPELINE)
	monkeypatch.setattr("cherimoya_cli.batch.planning.index_genomes", lambda plan: None)
	monkeypatch.setattr(local, "POLL_SECONDS", 0.02)
	original = LocalExecutor.from_settings

	def with_program(settings, device):
		return replace(original(settings, device), program=(sys.executable, "pipeline.py"))

	monkeypatch.setattr(LocalExecutor, "from_settings", with_program)

	def act(action, *words, samples=("a", "bad")):
		write(samples=[{"name": name} for name in samples], jobs_per_device=2, job_memory=0.001)
		return main(["batch", action, "-p", "batch.json", *words])

	return act


def journal(word):
	lines = Path("journal").read_text().splitlines() if Path("journal").exists() else []
	return [line.split()[0] for line in lines if line.split()[1] == word]


def states():
	return {job.name: read_record(job).state for job in read_index("out/b")}


def test_folds_start_once_their_data_are_made(batch, capfd):
	assert batch("run", samples=("a", "b", "c")) == 0
	lines = Path("journal").read_text().splitlines()
	for name in "abc":
		for fold in ("f0", "f1"):
			assert lines.index(f"{name} end") < lines.index(f"{name}.{fold} start")
	assert len(journal("end")) == 9 and set(states().values()) == {DONE}
	assert "9 jobs: 9 done" in capfd.readouterr().out
	assert batch("run", samples=("a", "b", "c")) == 0 and len(journal("start")) == 9


def test_a_preparation_that_fails_fails_its_folds_alone_and_retry_runs_all(batch, capfd):
	assert batch("run") == 4
	assert sorted(journal("start")) == ["a", "a.f0", "a.f1", "bad"]
	captured = capfd.readouterr()
	reason = "it needs the files that the job bad makes, which failed in the step peaks: bad.bam: no reads"
	assert f"bad.f0: failed: {reason}" in captured.err and f"bad.f1: failed: {reason}" in captured.err
	assert "6 jobs: 3 failed, 3 done" in captured.out
	record = read_record(Job("out/b", "bad", "f1", True))
	assert (record.state, record.attempts, record.reason) == (FAILED, 0, reason)
	assert batch("run") == 4 and len(journal("start")) == 4
	assert "6 jobs, 3 done, 3 failed earlier, 0 to run" in capfd.readouterr().out
	Path("mended").touch()
	assert batch("retry") == 0
	assert sorted(journal("end")) == ["a", "a.f0", "a.f1", "bad", "bad.f0", "bad.f1"]
	assert "6 jobs: 6 done" in capfd.readouterr().out


@pytest.mark.parametrize("action", ["run", "retry"])
def test_a_fold_that_is_chosen_brings_its_preparation(batch, action, capfd):
	if action == "retry":
		assert batch("run", samples=("bad",)) == 4
		Path("journal").unlink()
		Path("mended").touch()
	name = "bad" if action == "retry" else "a"
	assert batch(action, "--jobs", f"{name}.f1", samples=(name,)) == 0
	assert journal("end") == [name, f"{name}.f1"]
	assert states()[f"{name}.f0"] == (FAILED if action == "retry" else WAITING)
	assert batch(action, "--jobs", f"{name}.f1", samples=(name,)) == 0
	assert len(journal("start")) == 2


def test_mended_reads_bring_all_folds_without_retry(batch, capfd):
	assert batch("run", samples=("bad",)) == 4
	Path("mended").touch()
	assert batch("run", "--set", "preprocessing_parameters.unstranded=true", samples=("bad",)) == 0
	assert journal("end")[0] == "bad" and sorted(journal("end")) == ["bad", "bad.f0", "bad.f1"]


def test_retry_of_a_fold_makes_data_again_that_are_out_of_date(batch, capfd):
	assert batch("run", samples=("a",)) == 0
	fold = Job("out/b", "a", "f0", True)
	records.write_record(fold, replace(read_record(fold), state=FAILED))
	override = ("--set", "preprocessing_parameters.unstranded=true")
	assert batch("retry", *override, samples=("a",)) == 0
	assert journal("end")[3:] == ["a", "a.f0"]


def test_a_preparation_that_cannot_be_recorded_holds_up_its_folds_alone(batch, capfd):
	write(samples=[{"name": "a"}, {"name": "b"}])
	write_jobs(make_plan("batch.json"))
	Path(Job("out/b", "a").record_path).mkdir()
	assert batch("run", samples=("a", "b")) == 4
	assert sorted(journal("end")) == ["b", "b.f0", "b.f1"]
	assert "a.f0: waiting: it needs the files that the job a makes, which is not done" in capfd.readouterr().err
	assert states() == {"a": WAITING, "a.f0": WAITING, "a.f1": WAITING, "b": DONE, "b.f0": DONE, "b.f1": DONE}


def test_two_batches_at_once_make_data_once(batch):
	driver = (
		"import sys; from cherimoya_cli.batch import local; from cherimoya_cli.batch.jobs import read_index; "
		"local.LOOK_SECONDS = 0.3; "
		"executor = local.LocalExecutor(device='cpu', jobs_per_device=2, job_memory=1, "
		"program=(sys.executable, 'pipeline.py')); sys.exit(executor.run(read_index('out/b')))"
	)
	assert batch("run", "--dry-run", samples=("a", "b", "c")) == 0
	both = [subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, text=True) for _ in range(2)]
	outputs = [process.communicate(timeout=60)[0] for process in both]
	assert [process.returncode for process in both] == [0, 0], outputs
	assert sorted(journal("end")) == sorted(journal("start")) == sorted(states())


def test_a_dry_run_prints_preparations_first(batch, capfd):
	assert batch("run", "--dry-run", "--jobs", "*.f1") == 0
	_, note, *lines = capfd.readouterr().out.splitlines()
	assert note.startswith("# ") and "before the others" in note
	assert [line.rpartition("/")[2] for line in lines] == [f"{n}.pipeline.json" for n in ("a", "bad", "a.f1", "bad.f1")]


def test_an_interrupted_batch_leaves_what_is_held_waiting(batch, monkeypatch):
	"""The queue forgets nothing: what waits for a preparation is in its turn, is held, or is told why not."""
	write()
	write_jobs(make_plan("batch.json"))
	executor = LocalExecutor(device="cpu", job_memory=1, program=(sys.executable, "pipeline.py"))
	run = local._Run(executor, read_index("out/b"), [])
	assert run.start_next() and run.start_next() and run.start_next() and not run.waiting
	assert {job.name: [fold.name for fold in held] for job, held in run.held.items()} == {"s": ["s.f0", "s.f1"]}
	run.end_all()
	assert states()["s.f0"] == WAITING and not journal("end")


# Status and collect.


def test_status_says_what_a_fold_waits_for():
	write()
	write_jobs(make_plan("batch.json"))
	first, *folds = read_index("out/b")
	records.write_record(folds[0], Record(WAITING, reason="from an earlier run"))
	records.write_record(folds[1], Record(QUEUED))
	needs = "needs the files that s makes, which"
	for state, words in (
		(WAITING, ""),
		(STOPPED, f"{needs} is stopped"),
		(FAILED, f"{needs} failed"),
		(DONE, ""),
	):
		records.write_record(first, Record(state))
		rows = status.read_rows([first, *folds])
		assert [(row.job, row.state, row.note) for row in rows] == [
			("s", state, ""),
			("s.f0", WAITING, words),
			("s.f1", QUEUED, words),
		]
	assert [row.note for row in status.read_rows(folds)] == ["from an earlier run", ""]


def test_collect_has_no_row_for_preparations(batch, capfd):
	assert batch("run") == 4
	assert batch("collect") == 0
	rows = [line.split("\t")[:4] for line in Path("out/b.performance.tsv").read_text().splitlines()[1:]]
	assert [(row[0], row[3]) for row in rows] == [
		("a.f0", DONE),
		("a.f1", DONE),
		("bad.f0", FAILED),
		("bad.f1", FAILED),
	]
	page = Path("out/b.cohort.html").read_text()
	assert page.count("<tr id=") == 4 and "4 jobs of 2 samples and 2 folds" in page
	assert batch("collect", "--jobs", "a") == 2
	assert "--jobs a: fits none of the 4 jobs; the first of them is 'a.f0'" in capfd.readouterr().err
