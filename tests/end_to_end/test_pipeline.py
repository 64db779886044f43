"""From reads to the report in one command: a first run, a second, a changed setting, a kill while training."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cherimoya_cli.settings import STEPS as ALL_STEPS

pytest.importorskip("MACS3")
pytest.importorskip("matplotlib")

ROOT = Path(__file__).resolve().parents[2]

SETTINGS = {
	"name": "run/x",
	"sequences": "genome.fa",
	"signals": ["reads.bed.gz"],
	"in_window": 256,
	"out_window": 128,
	"device": "cpu",
	"preprocessing_parameters": {"unstranded": True, "fragments": True, "pos_shift": 4, "neg_shift": -4},
	"fit_parameters": {
		"summits": True,
		"n_filters": 8,
		"n_layers": 3,
		"max_epochs": 2,
		"n_warmup_epochs": 0,
		"batch_size": 16,
		"max_jitter": 8,
		"num_workers": 0,
		"training_chroms": ["chr1"],
		"validation_chroms": ["chr2"],
		"test_chroms": ["chr3"],
	},
	"attribute_parameters": {"attr_window": 40, "max_loci": 6},
	"skip_steps": ["seqlets", "annotation", "motifs", "modisco_report", "marginalize"],
}

OUTPUTS = (
	"_peaks.narrowPeak .bw .signals.record.json .negatives.bed .torch .final.torch .log .detailed.log .fit.record.json "
	".performance.tsv .test.performance.tsv .baselines.tsv .test.baselines.tsv .predictions.bw .predictions.npz "
	".attributions.ohe.npz .attributions.attr.npz .attributions.idxs.npy .attributions.bed .attributions.bw "
	".report.html"
).split()
STEPS = ("peaks", "signals", "negatives", "fit", "evaluate", "predict", "attribute", "report")


def command(*arguments):
	return [sys.executable, "-m", "cherimoya_cli", "pipeline", "-p", "x.json", *arguments]


def environment():
	return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def run(folder, *arguments):
	"""The pipeline in a folder: (exit code, output)."""
	done = subprocess.run(
		command(*arguments), cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
	)
	return done.returncode, done.stdout


def what_ran(output):
	"""The steps that the output says were done, in order."""
	return [name for name in ALL_STEPS if f"] {name}: done in" in output]


@pytest.fixture(scope="module")
def reads(tiny_genome, tmp_path_factory):
	"""A folder with a genome, fragments around its planted motifs, and settings."""
	import gzip

	folder = tmp_path_factory.mktemp("project")
	shutil.copyfile(tiny_genome.fasta, folder / "genome.fa")
	rng = np.random.default_rng(3)
	rows = []
	for chrom, mid in tiny_genome.summits:
		starts = mid + rng.normal(0, 25, int(rng.integers(60, 200))).astype(int) - 40
		rows += [
			(chrom, start, start + int(length))
			for start, length in zip(starts, rng.integers(50, 110, len(starts)), strict=True)
		]
	for chrom, size in tiny_genome.sizes.items():
		rows += [(chrom, start, start + 80) for start in rng.integers(0, size - 80, size // 60)]
	rows.sort()
	with gzip.open(folder / "reads.bed.gz", "wt") as handle:
		handle.writelines(f"{chrom}\t{start}\t{end}\n" for chrom, start, end in rows)
	(folder / "x.json").write_text(json.dumps(SETTINGS))
	return folder


@pytest.fixture(scope="module")
def finished(reads):
	"""The folder after a first run, and what that printed."""
	code, output = run(reads)
	assert code == 0, output
	return reads, output


@pytest.fixture
def copied(finished, tmp_path):
	"""A copy of the finished run, to be changed."""
	shutil.copytree(finished[0], tmp_path / "copy")
	return tmp_path / "copy"


def test_reads_to_report(finished):
	folder, output = finished
	assert what_ran(output) == list(STEPS)
	assert [suffix for suffix in OUTPUTS if not (folder / f"run/x{suffix}").stat().st_size] == []
	assert list(folder.glob("run/*.tmp")) == []
	for step in STEPS:
		record = json.loads((folder / f"run/x.{step}.done.json").read_text())
		assert record["step"] == step and set(record["outputs"])
		assert json.loads((folder / f"run/x.{step}.json").read_text())["name"] == "run/x"
		assert (folder / f"run/x.{step}.log.txt").exists()
	page = (folder / "run/x.report.html").read_text()
	assert "http://" not in page.replace("http://www.w3.org", "")


def test_the_signal_is_the_tn5_cuts_of_the_reads(finished):
	import gzip

	import pyBigWig

	folder, _ = finished
	with gzip.open(folder / "reads.bed.gz", "rt") as handle:
		rows = [line.split() for line in handle]
	expected = np.zeros(24_000)
	for chrom, start, end in rows:
		for position in (int(start) + 4, int(end) - 5):
			if chrom == "chr1" and 0 <= position < len(expected):
				expected[position] += 1
	with pyBigWig.open(str(folder / "run/x.bw")) as handle:
		np.testing.assert_array_equal(np.nan_to_num(handle.values("chr1", 0, 24_000, numpy=True)), expected)


def test_peaks_are_where_the_reads_are(finished, tiny_genome):
	folder, _ = finished
	rows = [line.split("\t") for line in (folder / "run/x_peaks.narrowPeak").read_text().splitlines()]
	found = {(row[0], int(row[1]) + int(row[9])) for row in rows}
	near = [any(chrom == c and abs(s - mid) < 60 for c, s in found) for chrom, mid in tiny_genome.summits]
	assert np.mean(near) > 0.8


def test_a_second_run_skips_everything(finished):
	folder, _ = finished
	before = {path: path.stat().st_mtime_ns for path in (folder / "run").iterdir() if path.suffix != ".lock"}
	code = (
		"import sys; from cherimoya_cli.__main__ import main; assert main(['pipeline', '-p', 'x.json']) == 0; "
		"print(sorted({'torch', 'pysam', 'matplotlib'} & sys.modules.keys()))"
	)
	done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment(), capture_output=True, text=True)
	lines = done.stdout.splitlines()
	assert lines[-2:] == ["Everything is up to date.", "[]"], done.stderr
	assert [line.split()[:2] for line in lines[1:9]] == [[step, "skip"] for step in STEPS]
	assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_changed_setting_redoes_what_depends_on_it(copied):
	code, output = run(copied, "--set", "attribute_parameters.max_loci=3")
	assert code == 0, output
	assert what_ran(output) == ["attribute", "report"]
	assert "attribute_parameters.max_loci changed from 6 to 3" in output
	with np.load(copied / "run/x.attributions.attr.npz") as arrays:
		assert arrays["arr_0"].shape == (3, 4, 40)


def weights(folder):
	import torch

	return torch.load(folder / "run/x.final.torch", weights_only=True)["state_dict"]


SAVED = "cherimoya.training.loop:_Run.save"  # called before the first epoch, and after each


def ended(pid):
	"""Whether a process has ended, though nobody may have asked for its status yet."""
	try:
		return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
	except OSError:
		return True


@pytest.mark.slow
def test_a_kill_during_fit_loses_fit_alone(copied, make_pause):
	"""After SIGKILL the next run redoes fit and what needs it, and nothing before; the model is that of a whole run."""
	whole = weights(copied)
	for name in ("fit", "evaluate", "predict", "attribute", "report"):
		(copied / f"run/x.{name}.done.json").unlink()
	for path in copied.glob("run/x*torch"):
		path.unlink()
	(copied / "run/x.log").unlink()
	(copied / "x.json").write_text(
		json.dumps(SETTINGS | {"fit_parameters": SETTINGS["fit_parameters"] | {"max_epochs": 20}})
	)
	pause = make_pause(SAVED, 3)
	running = subprocess.Popen(
		command(), cwd=copied, env=pause.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
	)
	try:
		pause.wait(running)
	finally:
		running.kill()
		running.wait()
	deadline = time.monotonic() + 300
	while not all(map(ended, pause.paused())):  # the step that was running is ended by the kernel, not by us
		assert time.monotonic() < deadline
		time.sleep(0.05)
	assert not (copied / "run/x.fit.done.json").exists()
	(copied / "x.json").write_text(json.dumps(SETTINGS))
	code, output = run(copied)
	assert code == 0, output
	assert what_ran(output)[0] == "fit"
	for name in ("peaks", "signals", "negatives"):
		assert f"] {name}: skipped, up to date" in output
	again = weights(copied)
	assert whole.keys() == again.keys() and all((whole[key] == again[key]).all() for key in whole)
	assert run(copied)[1].endswith("Everything is up to date.\n")


@pytest.mark.slow
def test_an_interruption_during_fit_is_gone_on_from(copied, make_pause, tmp_path):
	"""After SIGTERM the next run goes on within fit; its model and logs are those of a run that was not interrupted."""
	longer = SETTINGS | {"fit_parameters": SETTINGS["fit_parameters"] | {"max_epochs": 10, "early_stopping": None}}
	(copied / "x.json").write_text(json.dumps(longer))
	shutil.copytree(copied, tmp_path / "whole")
	code, output = run(tmp_path / "whole")
	assert code == 0, output
	pause = make_pause(SAVED, 4)
	running = subprocess.Popen(command(), cwd=copied, env=pause.environment, stdout=subprocess.PIPE, text=True)
	pause.wait(running)
	running.terminate()
	output, _ = running.communicate(timeout=300)
	assert running.returncode == 143, output
	assert not (copied / "run/x.fit.done.json").exists()
	code, output = run(copied)
	assert code == 0, output
	assert "resuming from epoch 3" in output
	for name in ("x.torch", "x.final.torch"):
		assert (copied / f"run/{name}").read_bytes() == (tmp_path / f"whole/run/{name}").read_bytes()


DATABASE = "MEME version 4\n\nALPHABET= ACGT\n"


def database(*motifs):
	"""The text of a database of consensus sequences."""
	text = DATABASE
	for i, motif in enumerate(motifs):
		rows = [" ".join("0.91" if base == letter else "0.03" for base in "ACGT") for letter in motif]
		text += f"\nMOTIF M{i} F{i}\nletter-probability matrix: alength= 4 w= {len(motif)}\n" + "\n".join(rows) + "\n"
	return text


ALL_OUTPUTS = (
	".seqlets.bed .seqlets_annotated.bed .motif_seqlet_count.tsv _modisco_results.h5 _modisco/motifs.html "
	"_modisco/motifs.tsv _marginalize/marginalize.tsv _marginalize/index.html .variants.tsv"
).split()


@pytest.mark.slow
def test_every_step_to_motifs_and_variants(copied, tiny_genome):
	"""From a finished model on: each step leaves its files, a second run does nothing, and one step can be redone."""
	for module in ("tangermeme", "memelite", "modiscolite"):
		pytest.importorskip(module)
	(copied / "m.meme").write_text(database(tiny_genome.motif, "AAACCCGT", "GGGTTTAC"))
	bases = [(mid, tiny_genome.sequences["chr3"][mid - 1]) for chrom, mid in tiny_genome.summits if chrom == "chr3"]
	rows = [("chr3", at, ref, "A" if ref != "A" else "C") for at, ref in bases]
	(copied / "v.tsv").write_text("chrom\tpos\tref\talt\n" + "".join("\t".join(map(str, row)) + "\n" for row in rows))
	content = SETTINGS | {"motifs": "m.meme", "variants": "v.tsv", "skip_steps": None}
	content["marginalize_parameters"] = {"n_loci": 10}
	(copied / "x.json").write_text(json.dumps(content))
	code, output = run(copied)
	assert code == 0, output
	added = ["seqlets", "annotation", "motifs", "modisco_report", "marginalize", "variants", "report"]
	assert what_ran(output) == added
	assert [suffix for suffix in ALL_OUTPUTS if not (copied / f"run/x{suffix}").stat().st_size] == []
	table = (copied / "run/x.variants.tsv").read_text().splitlines()
	assert len(table) == 1 + len(rows) and all("\tscored\t" in line for line in table[1:])
	page = (copied / "run/x.report.html").read_text()
	for key in ("seqlets", "motifs", "marginalization", "variants"):
		assert f'<section id="{key}"' in page
	assert run(copied)[1].endswith("Everything is up to date.\n")

	# The content of the database counts, and a missing file of a folder is made again.
	(copied / "m.meme").write_text(database(tiny_genome.motif, "AAACCCGT", "CCGTTTAC"))
	(copied / "run/x_marginalize/index.html").unlink()
	code, output = run(copied)
	assert code == 0, output
	assert what_ran(output) == ["annotation", "modisco_report", "marginalize", "report"]
	assert "annotation: name the known motifs nearest to the seqlets (input m.meme changed)" in output
	code, output = run(copied, "--set", 'rerun_steps=["seqlets"]')
	assert what_ran(output)[0] == "seqlets" and "rerun_steps names it" in output, output

	# A step that fails keeps those that need it from running, and no others.
	(copied / "run/x.attributions.bed").write_text("chr1\t1\t2\n")
	code, output = run(copied, "--set", "skip=true", "--set", 'rerun_steps=["seqlets", "marginalize", "annotation"]')
	assert code == 3 and "seqlets (cherimoya seqlets) failed" in output, output
	assert "annotation: not run, because it needs seqlets, which failed" in output and "marginalize: done" in output


@pytest.mark.slow
def test_the_example_beats_its_baselines(tmp_path):
	"""examples/yeast_atac from reads to report; the held-out profile beats the mean profile of training."""
	example = ROOT / "examples" / "yeast_atac"
	if not (example / "params.json").exists():
		pytest.skip("the example has no params.json")
	shutil.copytree(example, tmp_path / "example")
	done = subprocess.run(
		[sys.executable, "-m", "cherimoya_cli", "pipeline", "-p", "params.json"],
		cwd=tmp_path / "example",
		env={**environment(), "OMP_NUM_THREADS": str(os.cpu_count())},
	)
	assert done.returncode == 0
	name = json.loads((tmp_path / "example/params.json").read_text())["name"]

	def measures(kind):
		header, row = (tmp_path / f"example/{name}.test.{kind}.tsv").read_text().splitlines()[:2]
		return dict(zip(header.split("\t"), row.split("\t"), strict=True))

	assert float(measures("performance")["profile_pearson"]) > float(measures("baselines")["profile_pearson"])
