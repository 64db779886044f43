"""The example of a workflow: single commands as Snakemake's rules, with declared outputs and exit codes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SNAKEMAKE = shutil.which("snakemake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

pytestmark = [
	pytest.mark.slow,
	pytest.mark.skipif(SNAKEMAKE is None, reason="snakemake is not installed"),
	pytest.mark.skipif(shutil.which("cherimoya", path=Path(sys.executable).parent) is None, reason="not installed"),
]

OUTPUTS = (
	"torch final.torch log detailed.log fit.record.json performance.tsv test.performance.tsv baselines.tsv "
	"test.baselines.tsv attributions.ohe.npz attributions.attr.npz attributions.bed attributions.bw report.html"
).split()


def snakemake(folder, *arguments):
	"""Snakemake in a folder: (exit code, output)."""
	path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
	done = subprocess.run(
		[SNAKEMAKE, "--cores", "2", *arguments],
		cwd=folder,
		env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(folder / ".cache")},
		stdout=subprocess.PIPE,
		stderr=subprocess.STDOUT,
		text=True,
	)
	return done.returncode, done.stdout


@pytest.fixture(scope="module")
def example(tmp_path_factory):
	"""A copy of the examples, whose models train for two epochs."""
	folder = tmp_path_factory.mktemp("examples")
	for name in ("yeast_atac", "snakemake"):
		shutil.copytree(ROOT / "examples" / name, folder / name, ignore=shutil.ignore_patterns("out", ".snakemake"))
	path = folder / "snakemake/settings.json"
	short = {"max_epochs": 2, "n_filters": 8, "n_layers": 3, "attr_window": 20, "max_loci": 4}
	path.write_text(json.dumps(json.loads(path.read_text()) | short))
	return folder / "snakemake"


def test_the_workflow_runs_once(example):
	code, output = snakemake(example)
	logs = "\n".join(path.read_text() for path in sorted(example.glob("out/logs/*.txt")))
	assert code == 0, output + logs
	for fold in "ab":
		missing = [end for end in OUTPUTS if not (example / f"out/yeast.{fold}.{end}").stat().st_size]
		assert missing == []
	tables = [(example / f"out/yeast.{fold}.test.performance.tsv").read_text() for fold in "ab"]
	assert tables[0] != tables[1]
	code, output = snakemake(example)
	assert code == 0 and "Nothing to be done" in output


def test_the_outputs_of_a_rule_are_those_that_check_names(example):
	"""A rule's author finds the files to declare without running anything."""
	values = {"name": "out/yeast.a", "loci": "out/yeast_peaks.narrowPeak", "model": "out/yeast.a.torch"}
	overrides = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
	done = subprocess.run(
		[sys.executable, "-m", "cherimoya_cli", "check", "--command", "attribute", "-p", "settings.json", *overrides],
		cwd=example,
		capture_output=True,
		text=True,
	)
	assert done.returncode == 0, done.stderr
	for end in ("ohe.npz", "attr.npz", "idxs.npy", "bed", "bw"):
		assert f"out/yeast.a.attributions.{end}" in done.stdout


def test_a_command_that_fails_stops_what_needs_it(example):
	"""Its outputs are gone, its log says why, and what it needed is left as it was."""
	settings = json.loads((example / "settings.json").read_text())
	(example / "bad.json").write_text(json.dumps(settings | {"n_filters": 0}))
	negatives = (example / "out/yeast.negatives.bed").stat().st_mtime_ns
	changed = ("--config", "settings=bad.json", "--rerun-triggers", "mtime", "--forcerun", "fit")
	code, output = snakemake(example, *changed, "--retries", "0", "--keep-going")
	assert code == 1 and "Error in rule fit" in output
	assert "n_filters" in (example / "out/logs/yeast.a.fit.txt").read_text()
	assert not (example / "out/yeast.a.torch").exists() and not (example / "out/yeast.b.torch").exists()
	assert (example / "out/yeast.negatives.bed").stat().st_mtime_ns == negatives
