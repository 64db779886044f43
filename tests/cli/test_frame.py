"""The frame of the command line: help without heavy imports, exit codes, suggestions, printed declarations."""

import argparse
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cherimoya.errors import InputError, MissingExtraError, SettingsError, ToolError
from cherimoya_cli import registry, utils
from cherimoya_cli.__main__ import Terminated, main
from cherimoya_cli.registry import COMMANDS
from cherimoya_cli.settings import SETTINGS, defaults, schema
from cherimoya_cli.steps import main_of_step

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "numpy", "pydantic", "triton", "pyfaidx", "pyBigWig", "tqdm", "matplotlib")
HELPS = [["--help"], ["--version"], [], *([name, "--help"] for name in COMMANDS)]


def python(*args, **options):
	return subprocess.run([sys.executable, *args], cwd=ROOT, capture_output=True, text=True, timeout=600, **options)


# Help.


@pytest.mark.parametrize("argv", HELPS, ids=lambda argv: " ".join(argv) or "nothing")
def test_help_imports_nothing_heavy_and_one_command_at_most(argv):
	code = (
		"import sys\nfrom cherimoya_cli.__main__ import main\n"
		f"code = main({argv!r})\n"
		"import json; print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)"
	)
	result = python("-c", code)
	code, modules = json.loads(result.stderr.splitlines()[-1])
	assert code == (0 if argv else 2), result.stderr
	assert not [module for module in HEAVY if module in modules]
	commands = [module for module in modules if module.startswith("cherimoya_cli.commands.")]
	assert commands == ([COMMANDS[argv[0]].module] if argv and argv[0] in COMMANDS else [])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_every_key(name, capsys):
	assert main([name, "--help"]) == 0
	text = capsys.readouterr().out
	assert text.startswith(f"usage: cherimoya {name}")
	for key in SETTINGS[name].model_fields if name in SETTINGS else ():
		assert key.removesuffix("_parameters") in text


@pytest.mark.parametrize("name", ["predict", "attribute", "marginalize", "variants"])
def test_help_says_what_shards_and_chunks_are_of(name, capsys):
	assert main([name, "--help"]) == 0
	text = " ".join(capsys.readouterr().out.split())
	assert text.count("The part of the loci, tiles, motifs or alleles that this process does") == 2  # flag, and key
	assert "Loci, tiles, motifs or alleles whose results go to the disk together" in text


def test_the_overview_names_every_command(capsys):
	assert main(["--help"]) == 0
	text = capsys.readouterr().out
	for name, command in COMMANDS.items():
		assert name in text and command.summary in text


def test_the_module_is_the_program():
	result = python("-m", "cherimoya_cli", "--version")
	assert result.returncode == 0 and result.stdout.startswith("cherimoya ")


# Declarations on demand.


@pytest.mark.parametrize("name", SETTINGS.keys() & COMMANDS.keys())
def test_printed_declarations(name, capsys):
	assert main([name, "--print-defaults"]) == 0
	assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(defaults(name)))
	assert main([name, "--print-schema"]) == 0
	assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(schema(name)))


def test_explain(tmp_path, capsys):
	path = tmp_path / "p.json"
	path.write_text('{"sequences": "g.fa", "signals": ["a.bam"], "compile": true, "fit_parameters": {"n_layers": 2}}')
	assert main(["pipeline", "-p", str(path), "--explain", "--set", "dtype=float16"]) == 0
	captured = capsys.readouterr()
	rows = {line.split()[0]: line.split() for line in captured.out.splitlines()}
	assert rows["fit_parameters.n_layers"][1:] == ["2", "fit_parameters"]
	assert rows["dtype"][1:] == ['"float16"', "--set"]
	assert "compile: not used here" in captured.err


# Mistakes in the arguments.


@pytest.mark.parametrize(
	("argv", "fragments"),
	[
		(["fti"], ("no command 'fti'", "did you mean 'fit'?")),
		(["pipelinejson"], ("did you mean 'pipeline-json'?",)),
		(["zzz"], ("no command 'zzz'", "choose from pipeline, ")),
		(["predict"], ("no settings given", "-p FILE")),
		(["predict", "-p"], ("expected one argument",)),
		(["predict", "--pp", "x"], ("unrecognized arguments",)),
		(["--nonsense"], ("unrecognized arguments",)),
	],
	ids=" ".join,
)
def test_mistakes(argv, fragments, capsys):
	assert main(argv) == 2
	message = capsys.readouterr().err
	for fragment in fragments:
		assert fragment in message
	assert "Traceback" not in message


# Outcomes.


NO_ROOM = (
	"cannot be written (No space left); make room on that disk, or raise the quota or limit, and give the same command "
	"again"
)


@pytest.fixture
def command(monkeypatch):
	"""A command ``probe`` whose outcome the test chooses."""

	def install(outcome):
		module = type(sys)("probe_command")

		def run(args: argparse.Namespace) -> int:
			if isinstance(outcome, BaseException):
				raise outcome
			return outcome

		module.run, module.READS_SETTINGS = run, False
		monkeypatch.setitem(sys.modules, "probe_command", module)
		monkeypatch.setitem(registry.COMMANDS, "probe", registry.Command("probe_command", "nothing"))

	return install


@pytest.mark.parametrize(
	("outcome", "code", "message"),
	[
		(0, 0, ""),
		(4, 4, ""),
		(SettingsError("wrong"), 2, "cherimoya probe: error: wrong\n"),
		(InputError("bad"), 3, "cherimoya probe: error: bad\n"),
		(MissingExtraError("extra"), 3, "cherimoya probe: error: extra\n"),
		(ToolError("tool"), 4, "cherimoya probe: error: tool\n"),
		(KeyboardInterrupt(), 130, "\ncherimoya probe: interrupted\n"),
		(Terminated(), 143, "\ncherimoya probe: terminated\n"),
		(OSError(errno.ENOSPC, "No space left"), 3, f"cherimoya probe: error: a file: {NO_ROOM}\n"),
		(OSError(errno.EDQUOT, "No space left", "a.tsv"), 3, f"cherimoya probe: error: a.tsv: {NO_ROOM}\n"),
	],
	ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value).strip(),
)
def test_outcomes(command, capsys, outcome, code, message):
	command(outcome)
	assert main(["probe"]) == code
	assert capsys.readouterr().err == message


@pytest.mark.parametrize("bug", [ZeroDivisionError("a bug"), PermissionError(errno.EACCES, "a bug")], ids=repr)
def test_a_bug_keeps_its_traceback(command, bug):
	command(bug)
	with pytest.raises(type(bug), match="a bug"):
		main(["probe"])


def test_a_step_tells_of_a_full_disk(tmp_path, capsys):
	def work(_):
		raise OSError(errno.ENOSPC, "No space left")

	(tmp_path / "a.fa").write_text(">chr1\nACGT\n")
	values = {"name": f"{tmp_path}/x", "sequences": f"{tmp_path}/a.fa", "signals": [f"{tmp_path}/a.fa"]}
	(tmp_path / "step.json").write_text(json.dumps(values))
	assert main_of_step("signals", work, ["-p", f"{tmp_path}/step.json"]) == 3
	assert capsys.readouterr().err == f"cherimoya signals: error: a file: {NO_ROOM}\n"


def test_a_reader_that_leaves_is_no_error():
	process = subprocess.Popen(
		[sys.executable, "-m", "cherimoya_cli", "pipeline", "--print-schema"],
		cwd=ROOT,
		stdout=subprocess.PIPE,
		stderr=subprocess.PIPE,
	)
	process.stdout.close()
	assert process.stderr.read() == b""
	process.stderr.close()
	assert process.wait(600) == 141


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
def test_signals_end_with_their_codes(number, code):
	program = (
		# Where the tests run in the background of a shell, SIGINT is ignored and children inherit that.
		"import signal, sys, time, types\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
		"from cherimoya_cli import __main__, registry\n"
		"module = types.ModuleType('probe_command'); module.READS_SETTINGS = False\n"
		"def run(args):\n\tprint('ready', flush=True)\n\ttime.sleep(3600)\n"
		"module.run = run; sys.modules['probe_command'] = module\n"
		"registry.COMMANDS['probe'] = registry.Command('probe_command', 'waits')\n"
		"sys.argv = ['cherimoya', 'probe']\n__main__.run()"
	)
	process = subprocess.Popen(
		[sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
	)
	try:
		assert process.stdout.readline() == b"ready\n"
		process.send_signal(number)
		_, errors = process.communicate(timeout=600)
	finally:
		process.kill()
	assert process.returncode == code
	assert b"Traceback" not in errors and b"cherimoya probe: " in errors


# Files and machine.


def test_a_file_appears_whole_or_not_at_all(tmp_path):
	path = tmp_path / "x.txt"
	with pytest.raises(RuntimeError), utils.whole_file(path) as temporary:
		temporary.write_text("half")
		raise RuntimeError
	assert list(tmp_path.iterdir()) == []
	utils.write_text(path, "all")
	assert path.read_text() == "all" and list(tmp_path.iterdir()) == [path]
	mask = os.umask(0)
	os.umask(mask)
	assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_json_holds_numbers_that_json_has(tmp_path):
	numpy = pytest.importorskip("numpy")
	path = tmp_path / "x.json"
	utils.write_json(
		path,
		{"a": float("nan"), "b": (1, numpy.float32(0.5)), "c": numpy.arange(2), "d": tmp_path, 5: numpy.inf, "e": True},
	)
	assert json.loads(path.read_text()) == {
		"a": None,
		"b": [1, 0.5],
		"c": [0, 1],
		"d": str(tmp_path),
		"5": None,
		"e": True,
	}


def test_devices():
	torch = pytest.importorskip("torch")
	gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
	assert utils.resolve_device("cpu").type == "cpu"
	assert utils.resolve_device("auto").type == ("cuda" if gpus else "cpu")
	with pytest.raises(SettingsError, match=r'device is "cuda:99".*torch finds'):
		utils.resolve_device("cuda:99")
	if not gpus:
		with pytest.raises(SettingsError, match='torch finds no GPU here; set device to "auto" or "cpu"'):
			utils.resolve_device("cuda")
	with pytest.raises(SettingsError, match="device must be"):
		utils.resolve_device("gpu")


def test_versions():
	found = utils.versions()
	assert found["python"] == ".".join(map(str, sys.version_info[:3])) and "cherimoya" in found and "torch" in found
