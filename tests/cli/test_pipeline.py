"""The command pipeline: order, failures, interruptions, the lock, the dry run, and what preflight finds."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from cherimoya.errors import ToolError
from cherimoya_cli import plan, process
from cherimoya_cli.__main__ import main
from cherimoya_cli.commands import pipeline
from cherimoya_cli.preflight import Needs
from cherimoya_cli.registry import COMMANDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def in_folder(tmp_path, monkeypatch):
	"""Each test works in a folder of its own, from which the package can be run."""
	monkeypatch.chdir(tmp_path)
	monkeypatch.setenv("PYTHONPATH", str(ROOT))


def step(name, code="", inputs=(), outputs=None, prefix="x"):
	"""A step that runs some Python and then writes its outputs."""
	outputs = (f"{name}.out",) if outputs is None else outputs
	program = f"{code}\nfor path in {list(outputs)!r}: open(path, 'w').write({name!r})"
	return plan.Step(
		name,
		f"do {name}",
		"s",
		{"key": name},
		(sys.executable, "-m", "code_of", program),
		tuple(inputs),
		outputs,
		prefix,
	)


@pytest.fixture
def go(tmp_path, monkeypatch):
	"""Run steps; the module ``code_of`` runs the text that it is given."""
	(tmp_path / "code_of.py").write_text("import sys\nexec(sys.argv[1])\n")
	monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")

	def run(*steps, skip=False, verbose=True):
		settings = SimpleNamespace(skip=skip, verbose=verbose, name="x", device="cpu")
		return pipeline.execute(settings, steps, "cherimoya pipeline -p x.json")

	return run


def test_steps_run_once(go, capfd):
	steps = [step("a", "print('hello from a')"), step("b", inputs=["a.out"])]
	assert go(*steps) == 0
	assert "hello from a" in capfd.readouterr().out
	assert Path("x.a.log.txt").read_text() == "hello from a\n"
	assert json.loads(Path("x.a.json").read_text()) == {"key": "a"}
	record = json.loads(Path("x.b.done.json").read_text())
	assert (record["step"], list(record["inputs"]), list(record["outputs"])) == ("b", ["a.out"], ["b.out"])
	assert go(*steps) == 0
	out = capfd.readouterr().out
	assert "[1/2] a: skipped, up to date" in out and "[2/2] b: skipped, up to date" in out


def test_not_verbose_keeps_output_in_the_log(go, capfd):
	assert go(step("a", "print('hello from a')"), verbose=False) == 0
	assert "hello" not in capfd.readouterr().out
	assert Path("x.a.log.txt").read_text() == "hello from a\n"


def test_same_output_stops_the_chain(go, capfd):
	"""A step that is redone with the same result does not redo the next one."""
	a, b = step("a"), step("b", inputs=["a.out"])
	assert go(a, b) == 0
	Path("x.a.done.json").unlink()
	capfd.readouterr()
	assert go(a, b) == 0
	out = capfd.readouterr().out
	assert "[1/2] a: done" in out and "[2/2] b: skipped" in out


@pytest.mark.parametrize(
	("code", "exit_code", "words"),
	[
		("print('reason'); sys.exit(1)", 4, ["exit code 1", "reason"]),
		("sys.exit('no such thing')", 4, ["no such thing"]),
		("sys.exit(2)", 2, ["exit code 2"]),
		("sys.exit(3)", 3, ["exit code 3"]),
		(
			"import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
			4,
			["killed by SIGKILL (as the system does when"],
		),
		("sys.exit(0)", 4, ["ended well, but left no b.out"]),
	],
	ids=["1", "text", "settings", "input", "killed", "no output"],
)
def test_a_failed_step(go, capfd, code, exit_code, words):
	"""It names itself, its tool, its last lines and its command; what does not need it still runs."""
	steps = [
		step("a"),
		step("b", code, ["a.out"]),
		step("c", "", ["b.out"]),
		step("d", "", ["c.out"]),
		step("e", "", ["a.out"]),
	]
	assert go(*steps) == exit_code
	captured = capfd.readouterr()
	for word in (*words, "b (python -m code_of) failed", "x.b.log.txt", "-m code_of", "go on with"):
		assert word in captured.err
	assert "[3/5] c: not run, because it needs b, which failed" in captured.out
	assert "[4/5] d: not run, because it needs b, which failed" in captured.out
	assert "[5/5] e: done" in captured.out
	assert not Path("x.b.done.json").exists()
	fixed = step("b", "", ["a.out"])
	assert go(*(fixed if s.name == "b" else s for s in steps)) == 0
	assert "[1/5] a: skipped" in capfd.readouterr().out


@pytest.mark.parametrize(
	("code", "words"),
	[(1, "exit code 1"), (-signal.SIGSEGV, "killed by SIGSEGV"), (-99, "killed by signal 99")],
)
def test_how_a_program_ended(code, words):
	assert process.how_it_ended(code) == words


@pytest.mark.parametrize(
	("disk", "memory", "words"),
	[
		(0, 0, ""),
		(10, 0, " Needs, estimated: 1 MB of memory, 1 MB of disk."),
		(2_400_000, 1_500_000_000, " Needs, estimated: 1.5 GB of memory, 2 MB of disk."),
	],
)
def test_needs_that_are_not_known_are_not_told(disk, memory, words):
	assert pipeline.inputs_checked(Needs(disk, memory, "cpu")) == f"Inputs checked. Device: cpu.{words}"


def test_a_step_is_not_done_while_it_runs(go):
	"""Its record goes before it starts, so a kill in the middle leaves a step that is redone."""
	assert go(step("a", "x = 1")) == 0
	assert go(step("a", "import os; assert not os.path.exists('x.a.done.json'); open('seen', 'w')\nx = 2")) == 0
	Path("a.out").write_text("other")
	assert go(step("a", "import os; assert not os.path.exists('x.a.done.json'); open('seen', 'w')\nx = 2")) == 0
	assert Path("seen").exists()


SLEEPER = """
import time, sys, signal, pathlib
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print('asleep', flush=True)
try:
	pathlib.Path('asleep').touch()
	time.sleep(3600)
except KeyboardInterrupt:
	pathlib.Path('woken').touch()
	sys.exit(130)
"""

DRIVER = """
import sys
from cherimoya_cli.commands.pipeline import execute
from cherimoya_cli.plan import Step
from types import SimpleNamespace
step = Step("a", "sleep", "s", {}, (sys.executable, "-m", "code_of", sys.argv[1]), (), ("a.out",), "x")
sys.exit(execute(SimpleNamespace(skip=False, verbose=True), [step], "cherimoya pipeline -p x.json"))
"""


def start_sleeper():
	driver = [sys.executable, "-c", DRIVER, SLEEPER]
	running = subprocess.Popen(driver, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
	for _ in range(6000):
		if Path("asleep").exists():
			return running
		time.sleep(0.05)
	running.kill()
	raise RuntimeError("the step did not start")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_interruptions_are_passed_on(go, number, code):
	running = start_sleeper()
	running.send_signal(number)
	out, _ = running.communicate(timeout=600)
	assert running.returncode == code, out
	assert "interrupted" in out and "To go on:\n  cherimoya pipeline -p x.json" in out
	assert Path("woken").exists() == (code == 130)
	assert not Path("x.a.done.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends children of a killed parent on Linux alone")
def test_no_orphan_survives_a_kill(go):
	running = start_sleeper()
	children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
	assert len(children) == 1
	running.kill()
	running.communicate(timeout=600)
	for _ in range(6000):
		state = Path(f"/proc/{children[0]}/stat")
		if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
			return
		time.sleep(0.05)
	raise AssertionError("the step outlived the pipeline")


def test_output_is_copied_and_its_end_kept(tmp_path, capfd):
	code = "for i in range(40): print('line', i)\nprint('bar 1\\rbar 2')"
	finished = process.run_program([sys.executable, "-c", code], log=tmp_path / "log")
	assert finished.tail[-1] == "bar 2" and finished.tail[0] == "line 26" and len(finished.tail) == process.TAIL_LINES
	assert (tmp_path / "log").read_bytes().decode() == capfd.readouterr().out


def test_a_program_that_does_not_exist(tmp_path):
	with pytest.raises(FileNotFoundError):
		process.run_program([str(tmp_path / "nothing")])


def test_one_pipeline_per_name():
	with pipeline.only_one("x"):
		other = "from cherimoya_cli.commands.pipeline import only_one\nwith only_one('x'): pass"
		run = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True)
		assert "another pipeline is at work on 'x'" in run.stderr
	with pipeline.only_one("x"):
		pass


# The real command on a small data set.


@pytest.fixture
def project(tiny_genome, tmp_path):
	"""Settings of a pipeline on small bigWigs; a test changes them, and writes them with the function returned."""
	settings = {
		"name": "run/x",
		"sequences": str(tiny_genome.fasta),
		"loci": [str(tiny_genome.narrowpeaks)],
		"signals": [str(tiny_genome.signal)],
		"in_window": 128,
		"out_window": 64,
		"verbose": False,
		"device": "cpu",
		"fit_parameters": {
			"n_filters": 4,
			"n_layers": 2,
			"max_epochs": 1,
			"max_jitter": 8,
			"num_workers": 0,
			"training_chroms": ["chr1"],
			"validation_chroms": ["chr2"],
			"test_chroms": ["chr3"],
		},
		"attribute_parameters": {"attr_window": 20},
		"skip_steps": ["seqlets", "annotation", "motifs", "modisco_report"],
	}

	def write(fit=None, attribute=None, preprocessing=None, **changes):
		content = {**settings, **changes}
		content["fit_parameters"] = {**settings["fit_parameters"], **(fit or {})}
		content["attribute_parameters"] = {**settings["attribute_parameters"], **(attribute or {})}
		content["preprocessing_parameters"] = preprocessing or {}
		Path("x.json").write_text(json.dumps(content))
		return "x.json"

	return write


def test_dry_run_is_a_script(project, capfd):
	"""Standard output is shell; it names each step, and no step has run."""
	assert main(["pipeline", "-p", project(name="my run/it's", dry_run=True)]) == 0
	lines = capfd.readouterr().out.splitlines()
	commands = [line for line in lines if not line.startswith("#")]
	names = [line.split(":")[0].removeprefix("# ") for line in lines if line.startswith("#")]
	assert names == ["negatives", "fit", "evaluate", "predict", "attribute", "report"]
	assert len(commands) == len(names)
	shell = subprocess.run(["sh", "-n"], input="\n".join(lines), text=True, capture_output=True)
	assert shell.returncode == 0, shell.stderr
	words = subprocess.run(["sh", "-c", f"printf '%s\\n' {commands[1]}"], capture_output=True, text=True).stdout.split(
		"\n"
	)
	assert words[1:6] == ["-m", "cherimoya_cli", "fit", "-p", "my run/it's.fit.json"]
	assert sorted(path.suffix for path in Path("my run").iterdir()) == [".json"] * 6
	assert json.loads(Path("my run/it's.fit.json").read_text())["n_filters"] == 4


def bed(path, rows):
	Path(path).write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
	return path


READS = [("chr1", 100, 150, ".", 0, "+"), ("chr1", 300, 350, ".", 0, "-")]

BAD = {
	"bigWigs and no loci": ({"loci": None}, 2, ["loci is null", "only be called from reads", "name the peaks"]),
	"reads and bigWigs": ({"signals": ["a.bed", "b.bw"]}, 2, ["reads (a.bed)", "bigWigs (b.bw)"]),
	"reads in a section": ({"fit": {"signals": ["a.bed"]}}, 2, ["fit_parameters.signals", "top level"]),
	"empty split": (
		{"fit": {"test_chroms": ["chr3:0-200"]}},
		2,
		["test_chroms (chr3:0-200)", "no locus", "training_chroms"],
	),
	"no strand": ({"signals": ["nostrand.bed"]}, 2, ["nostrand.bed", "fragments to true"]),
	"reads of other names": ({"signals": ["other.bed"]}, 3, ["other.bed", "reads name 1", "rename"]),
	"truncated bigWig": ({"signals": ["cut.bw"]}, 3, ["cut.bw", "truncated"]),
	"loci of another genome": ({"loci": ["elsewhere.bed"]}, 3, ["elsewhere.bed", "none of the 1 loci", "chrZ"]),
	"loci past the ends": (
		{"loci": ["past.bed"]},
		3,
		["past.bed", "all 2 loci begin past", "chr1:10,000,000-"],
	),
	"broken loci": ({"loci": ["broken.bed"]}, 3, ["broken.bed", "start >= end"]),
	"broken exclusions": ({"exclusion_lists": ["broken.bed"]}, 3, ["broken.bed", "start >= end"]),
	"not a model": ({"model": "broken.bed"}, 3, ["broken.bed"]),
	"no summits": ({"loci": ["nosummit.bed"], "fit": {"summits": True}}, 3, ["nosummit.bed", "summit"]),
}


@pytest.fixture
def bad_files(tiny_genome, tmp_path):
	"""Files that preflight has to object to, in the working folder."""
	(tmp_path / "cut.bw").write_bytes(tiny_genome.signal.read_bytes()[:-500])
	(tmp_path / "b.bw").write_bytes(tiny_genome.signal.read_bytes())
	bed("a.bed", READS)
	bed("nostrand.bed", [row[:3] for row in READS])
	bed("other.bed", [("1", *row[1:]) for row in READS])
	bed("elsewhere.bed", [("chrZ", 1, 5)])
	bed("past.bed", [("chr1", 10**7, 10**7 + 5), ("chr2", 10**8, 10**8 + 5)])
	bed("broken.bed", [("chr1", 9, 9)])
	bed("nosummit.bed", [("chr1", 1000, 1100)])


@pytest.mark.parametrize("case", BAD)
def test_preflight(project, bad_files, capfd, case):
	"""Each mistake is told before any step runs, with the right exit code."""
	changes, code, words = BAD[case]
	assert main(["pipeline", "-p", project(**changes)]) == code
	err = capfd.readouterr().err
	assert [word for word in words if word not in err] == []
	assert "Traceback" not in err
	left = {path.name for path in Path("run").iterdir()} if Path("run").exists() else set()
	assert left <= {"x.pipeline.lock"}


def test_preflight_doubts_intervals_of_another_genome(project, bad_files, tiny_genome, capfd):
	"""Loci some of which cannot be of this genome, and exclusions that have no effect, are no error."""
	some = Path("some.bed")
	some.write_text(Path(tiny_genome.peaks).read_text() + Path("past.bed").read_text())
	n = len(some.read_text().splitlines())
	assert main(["check", "-p", project(loci=[str(some)], exclusion_lists=["elsewhere.bed"])]) == 0
	err = capfd.readouterr().err
	assert f"some.bed: 2 of {n} intervals begin past the end of their chromosome (first: chr1:10,000,000-" in err
	assert "elsewhere.bed: none of its chromosomes (chrZ) is in" in err and "so it has no effect" in err
	assert main(["check", "-p", project()]) == 0
	err = capfd.readouterr().err
	assert "begin past" not in err and "no effect" not in err


def test_preflight_says_everything_at_once(project, bad_files, capfd):
	assert (
		main(["pipeline", "-p", project(signals=["cut.bw"], loci=["broken.bed"], exclusion_lists=["nosummit.bed"])])
		== 3
	)
	err = capfd.readouterr().err
	assert "2 problems:" in err and "cut.bw" in err and "broken.bed" in err and err.count("error") == 1


@pytest.mark.parametrize(
	("package", "words"),
	[("MACS3", ["calling peaks", "cherimoya[pipeline]"]), ("matplotlib", ["the HTML report", "cherimoya[report]"])],
)
def test_missing_extras_are_told_first(project, bad_files, capfd, monkeypatch, package, words):
	from cherimoya_cli import preflight

	monkeypatch.setattr(preflight, "find_spec", lambda name: None if name == package else object())
	assert main(["pipeline", "-p", project(signals=["a.bed"], loci=None)]) == 3
	err = capfd.readouterr().err
	assert [word for word in (package, *words) if word not in err] == []


@pytest.mark.parametrize(
	("package", "shown", "skip"),
	[
		("logomaker", "logomaker", ["modisco_report"]),
		("tangermeme", "tangermeme", ["seqlets", "annotation"]),
		("memelite", "memelite", ["annotation", "modisco_report", "marginalize"]),
		("modiscolite", "modisco-lite", ["motifs", "modisco_report"]),
		("MACS3", "MACS3", None),
	],
)
def test_what_can_be_had_without_an_extra(monkeypatch, package, shown, skip):
	from cherimoya_cli import modisco, preflight
	from cherimoya_cli.settings import load_settings

	content = {"name": "x", "sequences": "g.fa", "signals": ["a.bed"], "motifs": "m.meme", "skip_steps": ["predict"]}
	steps = plan.make_plan(load_settings("pipeline", content))
	for module in (preflight, modisco):
		monkeypatch.setattr(module, "find_spec", lambda name: None if name == package else object())
	errors = [str(error) for error in preflight.missing_extras(load_settings("pipeline", content), steps, steps)]
	assert errors and all(shown in text and "pip install 'cherimoya[" in text for text in errors)
	hint = f"skip_steps: {json.dumps(['predict', *skip])}" if skip else ""
	assert all(hint in text if hint else "skip_steps" not in text for text in errors)


def test_motifs_that_are_none_are_told_first(project, bad_files, capfd):
	pytest.importorskip("memelite")
	Path("m.meme").write_text("MOTIF\n")
	assert main(["pipeline", "-p", project(motifs="m.meme")]) == 3
	err = capfd.readouterr().err
	assert "m.meme" in err and "Traceback" not in err


def test_a_model_that_was_given_has_to_suit_every_step(project, bad_files, capfd):
	from cherimoya import Cherimoya

	pytest.importorskip("memelite")
	Path("m.meme").write_text(
		"MEME version 4\n\nALPHABET= ACGT\n\nMOTIF A\nletter-probability matrix: alength= 4 w= 1\n1 0 0 0\n"
	)
	Cherimoya(n_filters=4, n_layers=1, trimming=32, signal_groups=[1], random_state=0).save("m.torch")
	changes = {"model": "m.torch", "motifs": "m.meme", "marginalize_parameters": {"in_window": 100}}
	assert main(["pipeline", "-p", project(**changes)]) == 3
	err = capfd.readouterr().err
	assert "m.torch" in err and "in_window" in err and "36" in err and "Traceback" not in err


REFUSED = {
	"pipeline": (["-p", "x.json"], "fit_parameters.devices: 2"),
	"pipeline-json": (["-s", "g.fa", "-i", "a.bam", "-n", "x", "-o", "new.json"], "start it by itself"),
	"check": (["-p", "x.json"], "start it by itself"),
	"negatives": (["-p", "x.json"], "start it by itself"),
	"evaluate": (["-p", "x.json"], "start it by itself"),
	"predict": (["-p", "x.json"], "or give each process a --shard of its own"),
	"attribute": (["-p", "x.json", "--merge"], "or give each process a --shard of its own"),
	"seqlets": (["-p", "x.json"], "start it by itself"),
	"motifs": (["-p", "x.json"], "start it by itself"),
	"marginalize": (["-p", "x.json"], "or give each process a --shard of its own"),
	"variants": (["-p", "x.json"], "or give each process a --shard of its own"),
	"batch": (["run", "-p", "x.json"], 'let jobs run on all devices: device: "*"'),
	"cache": (["clear"], "start it by itself"),
}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "fit"])
def test_torchrun_is_refused_by_every_command_that_is_one(name, tmp_path, monkeypatch, capfd):
	monkeypatch.chdir(tmp_path)
	monkeypatch.setenv("RANK", "0")
	monkeypatch.setenv("WORLD_SIZE", "2")
	argv, remedy = REFUSED[name]
	assert main([name, *argv]) == 2
	err = capfd.readouterr().err
	assert f"has started 2 processes of 'cherimoya {name}', which is one" in err and remedy in err
	assert err.count("\n") == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
	("argv", "environment"),
	[
		(["predict", "--shard", "1/2"], {"RANK": "0", "WORLD_SIZE": "2"}),
		(["predict"], {"RANK": "0", "WORLD_SIZE": "1"}),
		(["predict"], {"WORLD_SIZE": "2"}),
	],
	ids=["a shard", "one process", "no rank"],
)
def test_torchrun_is_not_refused_where_processes_share_the_work(argv, environment, tmp_path, monkeypatch, capfd):
	monkeypatch.chdir(tmp_path)
	for key, value in environment.items():
		monkeypatch.setenv(key, value)
	main([*argv, "-p", "absent.json"])
	assert "which is one" not in capfd.readouterr().err


def test_torchrun_is_refused_by_steps_that_are_no_commands(tmp_path, monkeypatch, capfd):
	from cherimoya_cli.steps import main_of_step

	monkeypatch.chdir(tmp_path)
	monkeypatch.setenv("RANK", "0")
	monkeypatch.setenv("WORLD_SIZE", "2")
	assert main_of_step("signals", pytest.fail, ["-p", "x.json"]) == 2
	assert "has started 2 processes of 'cherimoya signals'" in capfd.readouterr().err


@pytest.mark.parametrize(
	("rank", "words"), [("0", ["started 2 processes", "fit_parameters.devices: 2"]), ("1", [])], ids=["first", "second"]
)
def test_torchrun_is_refused(project, capfd, monkeypatch, rank, words):
	from cherimoya_cli import launching

	monkeypatch.setattr(launching, "SPEAK_SECONDS", 0)
	monkeypatch.setenv("RANK", rank)
	monkeypatch.setenv("WORLD_SIZE", "2")
	if rank == "0":
		assert main(["pipeline", "-p", project()]) == 2
	else:
		with pytest.raises(SystemExit, match="2"):
			main(["pipeline", "-p", project()])
	err = capfd.readouterr().err
	assert [word for word in words if word not in err] == [] and bool(err) is (rank == "0")
	assert not Path("run").exists()


def test_steps_that_a_run_does_not_have_are_noted(project, capfd):
	path = project(dry_run=True, rerun_steps=["variants"])
	assert main(["pipeline", "-p", path]) == 0
	err = capfd.readouterr().err
	assert [line for line in err.splitlines() if "does not have" in line] == [
		"note: x.json: skip_steps names 'annotation', a step that this run does not have, because motifs is null",
		"note: x.json: rerun_steps names 'variants', a step that this run does not have, because "
		"variants_parameters.variants is null",
	]


def test_rerun_steps_run_what_is_up_to_date(go, capfd):
	from dataclasses import replace

	a, b = step("a"), step("b", inputs=["a.out"])
	assert go(a, b) == 0
	capfd.readouterr()
	assert go(replace(a, rerun=True), b) == 0
	out = capfd.readouterr().out
	assert "[1/2] a: do a (rerun_steps names it)" in out and "[2/2] b: skipped, up to date" in out


@pytest.mark.parametrize(("what", "word"), [("disk", "GB of disk"), ("memory", "GB of memory")])
def test_a_machine_too_small(project, capfd, monkeypatch, what, word):
	from cherimoya_cli import preflight

	usage = SimpleNamespace(free=10 if what == "disk" else 10**15)
	monkeypatch.setattr(preflight.shutil, "disk_usage", lambda _: usage)
	monkeypatch.setattr(preflight, "available_memory", lambda: 10 if what == "memory" else 10**15)
	assert main(["pipeline", "-p", project()]) == 3
	assert word in capfd.readouterr().err


def test_nothing_heavy_is_imported_for_a_dry_run(project):
	code = (
		"import sys; from cherimoya_cli.__main__ import main; assert main(['pipeline', '-p', 'x.json']) == 0; "
		"print(sorted({'torch', 'pysam', 'matplotlib'} & sys.modules.keys()))"
	)
	project(dry_run=True)
	run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
	assert run.stdout.splitlines()[-1] == "[]", run.stderr


class TestKernelsCheck:
	"""The GPU kernels are compared with their definition once, and a wrong one stops the run."""

	@pytest.fixture
	def outcome(self, monkeypatch, tmp_path):
		"""What the check prints, and how often it ran; its record goes to a folder of the test's."""
		from cherimoya_cli import preflight

		state = SimpleNamespace(stdout="", runs=0)

		def run(command, **_):
			assert command[1:] == ["-m", "cherimoya.kernels.check", "--json"]
			state.runs += 1
			return SimpleNamespace(stdout=state.stdout, stderr="RuntimeError: no kernel image\n", returncode=1)

		monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
		monkeypatch.setattr(preflight.subprocess, "run", run)
		return state

	@staticmethod
	def _printed(ok):
		row = {"path": "training", "dtype": "bfloat16", "shape": [2, 65, 24, 200, 3], "ok": ok}
		return json.dumps({"device": "a GPU", "compared": True, "results": [row]})

	def test_success_is_remembered(self, outcome):
		from cherimoya_cli.preflight import check_kernels

		outcome.stdout = self._printed(True)
		check_kernels()
		check_kernels()
		assert outcome.runs == 1

	def test_a_wrong_kernel_is_named_each_time(self, outcome):
		from cherimoya_cli.preflight import check_kernels

		outcome.stdout = self._printed(False)
		for _ in range(2):
			with pytest.raises(ToolError, match=r"a GPU: 1 of 1 .*training in bfloat16 at \(2, 65.*device to cpu"):
				check_kernels()
		assert outcome.runs == 2

	def test_a_check_that_fails_to_run_says_why(self, outcome):
		from cherimoya_cli.preflight import check_kernels

		with pytest.raises(ToolError, match=r"status 1 \(RuntimeError: no kernel image\).*pip uninstall triton"):
			check_kernels()

	def test_without_a_gpu_the_real_check_passes(self, monkeypatch, tmp_path):
		from cherimoya_cli.preflight import check_kernels

		monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
		check_kernels()
		assert [p.name.split(".")[0] for p in (tmp_path / "cherimoya").iterdir()] == ["kernels"]
