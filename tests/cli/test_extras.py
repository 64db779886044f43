"""Without an extra: what needs it names the command that adds it before any work, and the core runs without any."""

import importlib.machinery
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from cherimoya_cli import annotation, modisco_report, peaks, signals
from cherimoya_cli.__main__ import main
from cherimoya_cli.report.__main__ import main as report_main
from cherimoya_cli.steps import main_of_step

ROOT = Path(__file__).resolve().parents[2]
OF_EXTRAS = ["tangermeme", "memelite", "modiscolite", "h5py", "matplotlib", "MACS3", "pysam", "tensorboard", "submitit"]
"""A package of each extra; not one is among the core's."""


class _Hiding:
	"""Finds modules as before, but for some packages, which it does not find: they are as if not installed."""

	def __init__(self, packages: Iterable[str]) -> None:
		self.packages = frozenset(packages)

	def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> Any:
		if name.split(".")[0] in self.packages:
			return None
		return importlib.machinery.PathFinder.find_spec(name, path, target)


@pytest.fixture
def hide(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
	"""`hide("h5py", ...)` makes packages look as if they were not installed."""

	def without(*packages: str) -> None:
		if "MACS3" in packages:  # it is a program, too
			monkeypatch.setattr(peaks, "find_program", lambda name: None)
		finders = [
			_Hiding(packages) if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path
		]
		monkeypatch.setattr(sys, "meta_path", finders)
		for name in list(sys.modules):
			if name.split(".")[0] in packages:
				monkeypatch.delitem(sys.modules, name)

	return without


@pytest.fixture
def work(tmp_path: Path, tiny_genome: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
	"""A working folder with contributions, seqlets, motifs and reads."""
	one_hot = np.eye(4, dtype=np.int8)[np.random.default_rng(0).integers(0, 4, (4, 60))].transpose(0, 2, 1)
	np.savez(tmp_path / "x.attributions.ohe.npz", one_hot)
	np.savez(tmp_path / "x.attributions.attr.npz", one_hot * np.float32(0.1))
	(tmp_path / "x.attributions.bed").write_text("".join(f"chr1\t{i * 100}\t{i * 100 + 60}\n" for i in range(4)))
	(tmp_path / "x.seqlets.bed").write_text("#chrom\tstart\tend\tattribution\tp-value\nchr1\t5\t15\t0.5\t0.001\n")
	rows = "letter-probability matrix: alength= 4 w= 2 nsites= 1 E= 0\n1 0 0 0\n0 1 0 0\n"
	(tmp_path / "known.meme").write_text(f"MEME version 4\n\nALPHABET= ACGT\n\nMOTIF A\n{rows}")
	(tmp_path / "reads.bam").write_bytes(b"\x1f\x8b")
	(tmp_path / "reads.bed").write_text("chr1\t100\t150\tr\t0\t+\n")
	monkeypatch.chdir(tmp_path)
	return tmp_path


def as_command(name: str) -> Callable[[dict[str, Any]], int]:
	return lambda settings: main([name, *(f"--set={key}={json.dumps(value)}" for key, value in settings.items())])


def as_step(name: str, run: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], int]:
	def start(settings: dict[str, Any]) -> int:
		Path("step.json").write_text(json.dumps(settings))
		try:
			return main_of_step(name, run, ["-p", "step.json"])
		finally:
			Path("step.json").unlink()

	return start


def as_report(settings: dict[str, Any]) -> int:
	Path("step.json").write_text(json.dumps(settings))
	try:
		return report_main(["-p", "step.json"])
	finally:
		Path("step.json").unlink()


KNOWN = {"motifs": "known.meme"}
BACKGROUND = {"loci": "PEAKS", **KNOWN}
CHROMS = {"training_chroms": ["chr1"], "validation_chroms": ["chr2"], "test_chroms": None}
FIT = {"loci": "PEAKS", "negatives": "NEGATIVES", "signals": "SIGNAL", **CHROMS, "tensorboard": True}
READS = {"signals": ["reads.bam"], "unstranded": True}
NEEDS: dict[str, tuple[Callable[[dict[str, Any]], int], dict[str, Any], str, str, str]] = {
	"seqlets": (as_command("seqlets"), {}, "tangermeme", "tangermeme", "motifs"),
	"seqlets_known": (as_command("seqlets"), KNOWN, "memelite", "memelite", "motifs"),
	"annotation": (as_step("annotation", annotation.annotate), KNOWN, "memelite", "memelite", "motifs"),
	"motifs": (as_command("motifs"), {}, "modiscolite", "modisco-lite", "motifs"),
	"motifs_numba": (as_command("motifs"), {"report": False}, "numba", "numba", "motifs"),
	"motifs_leiden": (as_command("motifs"), {}, "leidenalg", "leidenalg", "motifs"),
	"motifs_logos": (as_command("motifs"), {}, "logomaker", "logomaker", "motifs"),
	"motifs_known": (as_command("motifs"), KNOWN, "memelite", "memelite", "motifs"),
	"modisco_report": (
		as_step("modisco_report", modisco_report.make_report),
		{},
		"modiscolite",
		"modisco-lite",
		"motifs",
	),
	"marginalize": (as_command("marginalize"), BACKGROUND, "memelite", "memelite", "motifs"),
	"predict": (as_command("predict"), {"loci": "PEAKS", "output_format": "hdf5"}, "h5py", "h5py", "hdf5"),
	"fit": (as_command("fit"), FIT, "tensorboard", "tensorboard", "tensorboard"),
	"negatives": (
		as_command("negatives"),
		{"loci": "PEAKS", "plot_filename": "gc.png"},
		"matplotlib",
		"matplotlib",
		"report",
	),
	"report": (as_report, {}, "matplotlib", "matplotlib", "report"),
	"peaks": (as_step("peaks", peaks.make_peaks), {"signals": ["reads.bed"]}, "MACS3", "macs3", "pipeline"),
	"signals": (as_step("signals", signals.work), READS, "pysam", "pysam", "pipeline"),
}


@pytest.mark.parametrize("start, settings, package, told, extra", NEEDS.values(), ids=NEEDS)
def test_missing_extra_is_named_before_any_work(
	work: Path,
	tiny_genome: Any,
	hide: Callable[..., None],
	capsys: pytest.CaptureFixture[str],
	start: Callable[[dict[str, Any]], int],
	settings: dict[str, Any],
	package: str,
	told: str,
	extra: str,
) -> None:
	files = {"PEAKS": tiny_genome.peaks, "NEGATIVES": tiny_genome.negatives, "SIGNAL": tiny_genome.signal}
	given = {
		key: str(files[value]) if isinstance(value, str) and value in files else value
		for key, value in settings.items()
	}
	hide(package)
	before = sorted(path.relative_to(work) for path in work.rglob("*"))
	assert start({"name": "x", "sequences": str(tiny_genome.fasta), **given}) == 3
	err = capsys.readouterr().err
	assert f"pip install 'cherimoya[{extra}]'" in err and re.search(rf"'{told}'", err, re.IGNORECASE), err
	assert "Traceback" not in err
	assert sorted(path.relative_to(work) for path in work.rglob("*")) == before


# ---- the core alone ---------------------------------------------------------------------------------


def closure(names: Iterable[str]) -> dict[str, Any]:
	"""The installed distributions that some need, themselves among them."""
	found: dict[str, Any] = {}
	todo = list(names)
	while todo:
		name = re.match(r"[\w.-]+", todo.pop()).group().lower().replace("_", "-")
		if name in found:
			continue
		try:
			found[name] = distribution(name)
		except PackageNotFoundError:  # of another platform
			continue
		todo += [requirement for requirement in found[name].requires or () if "extra ==" not in requirement]
	return found


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
	"""A Python with nothing but what the core of this project needs."""
	folder = tmp_path_factory.mktemp("core")
	tomllib = pytest.importorskip("tomllib")  # of Python 3.11
	project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
	subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
	packages = folder / "packages"
	packages.mkdir()
	for package in closure(project["dependencies"]).values():
		for name in {file.parts[0] for file in package.files or () if file.parts[0] != ".."}:
			if name != "__pycache__" and not (packages / name).exists():
				(packages / name).symlink_to(Path(str(package.locate_file(name))))
	(packages / "cherimoya").symlink_to(ROOT / "cherimoya")
	(packages / "cherimoya_cli").symlink_to(ROOT / "cherimoya_cli")
	return folder


def run_core(core: Path, folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
	environment = {**os.environ, "PYTHONPATH": str(core / "packages"), "PYTHONDONTWRITEBYTECODE": "1"}
	command = [core / "venv/bin/python", *argv]
	return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_pipeline_of_the_core_needs_no_extra(core: Path, tmp_path: Path, tiny_genome: Any, short_fit: dict) -> None:
	code = f"from importlib.util import find_spec; print([p for p in {OF_EXTRAS} if find_spec(p)])"
	assert run_core(core, tmp_path, "-c", code).stdout == "[]\n"
	shared = {key: short_fit[key] for key in ("sequences", "loci", "signals", "in_window", "out_window", "device")}
	fit = {key: value for key, value in short_fit.items() if key not in {*shared, "negatives"}}
	settings = {
		**shared,
		"name": "x",
		"fit_parameters": {**fit, "max_epochs": 2},
		"attribute_parameters": {"attr_window": 20, "max_loci": 4},
	}
	(tmp_path / "p.json").write_text(json.dumps(settings))
	refused = run_core(core, tmp_path, "-m", "cherimoya_cli", "pipeline", "-p", "p.json")
	assert refused.returncode == 3 and "Traceback" not in refused.stderr
	for extra in ("motifs", "report"):
		assert f"pip install 'cherimoya[{extra}]'" in refused.stderr
	assert not list(tmp_path.glob("x.*.bed")) and not list(tmp_path.glob("x*.torch"))
	skipped = '--set=skip_steps=["seqlets", "motifs", "modisco_report", "report"]'
	done = run_core(core, tmp_path, "-m", "cherimoya_cli", "pipeline", "-p", "p.json", skipped)
	assert done.returncode == 0, done.stdout + done.stderr
	for name in ("negatives.bed", "torch", "performance.tsv", "predictions.bw", "attributions.attr.npz"):
		assert (tmp_path / f"x.{name}").is_file(), name
