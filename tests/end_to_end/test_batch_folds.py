"""Reads crossed with folds: peaks, bigWig and background are made once, and each model is that of its fold alone."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("MACS3")

ROOT = Path(__file__).resolve().parents[2]
MADE = ("_peaks.narrowPeak", ".bw", ".negatives.bed")
SETTINGS = {
	"sequences": "genome.fa",
	"in_window": 256,
	"out_window": 128,
	"device": "cpu",
	"random_state": 4,
	"preprocessing_parameters": {"unstranded": True, "fragments": True, "pos_shift": 4, "neg_shift": -4},
	"fit_parameters": {
		"summits": True,
		"n_filters": 4,
		"n_layers": 2,
		"max_epochs": 2,
		"n_warmup_epochs": 0,
		"batch_size": 16,
		"max_jitter": 8,
		"num_workers": 0,
	},
	"skip_steps": ["predict", "attribute", "seqlets", "motifs", "modisco_report", "report"],
}
FOLDS = [
	{"train": ["chr1"], "valid": ["chr2"], "test": ["chr3"]},
	{"train": ["chr2", "chr3"], "valid": ["chr1"], "test": None},
]
BATCH = {
	**SETTINGS,
	"name": "out/b",
	"fold_files": "fold_*.json",
	"samples": [{"name": "good", "signals": ["reads.bed.gz"]}, {"name": "bad", "signals": ["bad.bed.gz"]}],
	"jobs_per_device": 2,
}


@pytest.fixture
def project(tiny_genome, tmp_path):
	"""A folder with a genome, two folds, fragments around the genome's motifs, and some of another genome."""
	shutil.copyfile(tiny_genome.fasta, tmp_path / "genome.fa")
	rng = np.random.default_rng(3)
	rows = []
	for chrom, mid in tiny_genome.summits:
		starts = mid + rng.normal(0, 25, int(rng.integers(60, 200))).astype(int) - 40
		rows += [(chrom, start, start + 80) for start in starts]
	for chrom, size in tiny_genome.sizes.items():
		rows += [(chrom, start, start + 80) for start in rng.integers(0, size - 80, size // 60)]
	for name, part in (("reads.bed.gz", sorted(rows)), ("bad.bed.gz", [("plastid", 500, 580)])):
		with gzip.open(tmp_path / name, "wt") as handle:
			handle.writelines(f"{chrom}\t{start}\t{end}\n" for chrom, start, end in part)
	for i, fold in enumerate(FOLDS):
		(tmp_path / f"fold_{i}.json").write_text(json.dumps(fold))
	(tmp_path / "batch.json").write_text(json.dumps(BATCH))
	return tmp_path


def run(folder, *arguments, code=0):
	"""A command of cherimoya in a folder: what it printed."""
	done = subprocess.run(
		[sys.executable, "-m", "cherimoya_cli", *arguments],
		cwd=folder,
		env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
		stdout=subprocess.PIPE,
		stderr=subprocess.STDOUT,
		text=True,
	)
	assert done.returncode == code, done.stdout
	return done.stdout


@pytest.mark.slow
def test_reads_are_made_into_data_once_for_all_folds(project):
	output = run(project, "batch", "-p", "batch.json", code=4)
	assert "6 jobs: 3 failed, 3 done" in output
	reason = "it needs the files that the job bad makes, which failed in the step peaks: bad.bed.gz: "
	assert f"bad.fold_0: failed: {reason}" in output and f"bad.fold_1: failed: {reason}" in output
	out = project / "out/b"
	assert sorted(path.name for path in out.glob("*/*.bw")) == ["good.bw"]
	for suffix in MADE:
		assert (out / f"good/good{suffix}").stat().st_size and not list(out.glob(f"good.*/*{suffix}"))

	shutil.copy(project / "reads.bed.gz", project / "bad.bed.gz")
	before = {path: path.stat().st_mtime_ns for path in out.glob("good*/*")}
	assert "6 jobs: 1 failed, 5 done" in run(project, "batch", "retry", "-p", "batch.json", "--jobs", "bad.fold_1")
	assert {path: path.stat().st_mtime_ns for path in before} == before

	fold = {"fit_parameters": {**SETTINGS["fit_parameters"], "folds": "fold_0.json"}}
	alone = {**SETTINGS, **fold, "name": "alone/good.fold_0", "signals": ["reads.bed.gz"]}
	(project / "alone.json").write_text(json.dumps(alone))
	run(project, "pipeline", "-p", "alone.json")
	for suffix in (".torch", ".final.torch", ".test.performance.tsv"):
		mine, other = out / f"good.fold_0/good.fold_0{suffix}", project / f"alone/good.fold_0{suffix}"
		assert mine.read_bytes() == other.read_bytes(), suffix
	for suffix in MADE[1:]:
		assert (out / f"good/good{suffix}").read_bytes() == (project / f"alone/good.fold_0{suffix}").read_bytes()

	run(project, "batch", "collect", "-p", "batch.json")
	rows = [line.split("\t") for line in (project / "out/b.performance.tsv").read_text().splitlines()[1:]]
	names = [f"{sample}.fold_{i}" for sample in ("good", "bad") for i in (0, 1)]
	assert list(dict.fromkeys(row[0] for row in rows)) == names
