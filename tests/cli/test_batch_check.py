"""``check`` of a batch: every job's preflight, each file looked at once, problems told once and not too many."""

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from cherimoya.errors import InputError, MissingFileError
from cherimoya_cli import preflight
from cherimoya_cli.__main__ import main
from cherimoya_cli.batch import checking

BASE = {
	"name": "out/batch",
	"samples": "samples.tsv",
	"fold_files": "fold_*.json",
	"sequences": "genome.fa",
	"negatives": "negatives.bed",
	"in_window": 128,
	"out_window": 64,
	"max_jitter": 10,
	"min_counts": None,
	"device": "cpu",
	"skip_steps": ["seqlets", "motifs", "modisco_report", "report"],
}
FOLDS = [{"train": ["chr1"], "valid": ["chr2"], "test": ["chr3"]}, {"train": ["chr2"], "valid": ["chr3"]}]


@pytest.fixture
def batch(tmp_path, tiny_genome, monkeypatch):
	"""Write the JSON of a batch, its folds, and samples with a bigWig of their own each; returns the JSON's path."""
	monkeypatch.chdir(tmp_path)
	for attribute, name in (("fasta", "genome.fa"), ("peaks", "peaks.bed"), ("negatives", "negatives.bed")):
		shutil.copyfile(getattr(tiny_genome, attribute), name)

	def write(samples=("a", "b", "c"), folds=FOLDS, loci="peaks.bed", **changes):
		for sample in samples:
			shutil.copyfile(tiny_genome.signal, f"{sample}.bw")
		for number, fold in enumerate(folds):
			Path(f"fold_{number}.json").write_text(json.dumps(fold))
		rows = "".join(f"{sample}\t{sample}.bw\t{loci}\n" for sample in samples)
		Path("samples.tsv").write_text(f"name\tsignals\tloci\n{rows}")
		Path("batch.json").write_text(json.dumps({**BASE, **changes}))
		return "batch.json"

	return write


def check(capsys, *flags, code=0):
	assert main(["check", "-p", "batch.json", *flags]) == code
	captured = capsys.readouterr()
	assert "Traceback" not in captured.err
	return captured.out if code == 0 else captured.err


def test_what_folds_share_is_checked_once_and_not_looked_for(batch, capsys):
	"""The background that a sample's preparation will make is not there yet when its folds are checked."""
	batch(samples=("a", "b"), negatives=None)
	text = check(capsys)
	assert "6 jobs, 2 samples in 2 folds" in text and "out/batch/a/a.*" in text
	assert "Steps of 2 jobs: negatives\n" in text and "Steps of 4 jobs: fit, evaluate, predict, attribute\n" in text
	Path("peaks.bed").write_text("chr1\t900\t900\n")
	assert check(capsys, code=3).count("batch.json: peaks.bed: ") == 1
	assert not Path("out").exists()


def test_every_file_is_looked_at_once_and_none_is_written(batch, capsys, monkeypatch):
	looked = Counter()

	def count(name, path_of):
		original = getattr(preflight, name)

		def look(*args):
			looked[name, path_of(*args)] += 1
			return original(*args)

		monkeypatch.setattr(preflight, name, look)

	count("_open_genome", lambda settings: settings.sequences)
	count("_check_track", lambda path, genome: path)
	count("_read_loci", lambda key, paths, summits, genome: f"{key}: {','.join(paths)}")
	batch()
	before = {path: path.read_bytes() for path in Path().iterdir()}
	text = check(capsys)
	assert looked == {
		("_open_genome", "genome.fa"): 1,
		**{("_check_track", f"{sample}.bw"): 1 for sample in "abc"},
		("_read_loci", "loci: peaks.bed"): 1,
		("_read_loci", "negatives: negatives.bed"): 1,
	}
	after = {path: path.read_bytes() for path in Path().iterdir() if path.suffix != ".fai"}
	assert after == before
	assert "for 'cherimoya batch'" in text and "6 jobs, 3 samples in 2 folds, executor local" in text
	for part in ("  genome.fa\n", "  fold_1.json\n", "  b.bw\n", "  out/batch/c.fold_1/c.fold_1.*\n"):
		assert part in text
	assert "Steps: fit, evaluate, predict, attribute\n" in text and text.endswith("No problems found.\n")


def test_what_jobs_need_together(batch, capsys, monkeypatch):
	found = []
	monkeypatch.setattr(checking, "show_needs", lambda plan, checked: found.append(checked))
	for samples in (["a"], ["a", "b", "c"]):
		batch(samples, folds=FOLDS[:1])
		check(capsys)
	one, three = found
	assert three.disk == 3 * one.disk > 0 and three.memory == one.memory > 0
	assert dict(three.steps) == {("fit", "evaluate", "predict", "attribute"): 3}


def test_a_machine_too_small_is_noted(batch, capsys, monkeypatch):
	monkeypatch.setattr(checking.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
	monkeypatch.setattr(checking, "available_memory", lambda: 10)
	batch()
	assert main(["check", "-p", "batch.json"]) == 0
	err = capsys.readouterr().err
	assert "0.00 GB of disk are free" in err and "0.00 GB of memory are free here" in err


@pytest.mark.parametrize(
	("spoil", "code", "words"),
	[
		(
			lambda make: make(Path("b.bw"), {"chr9": 50}, {"chr9": [1.0] * 50}),
			3,
			["samples.tsv: line 3: b.bw: none of its chromosomes (chr9)"],
		),
		(lambda make: Path("genome.fa").write_text("no FASTA\n"), 3, ["batch.json: genome.fa: is not FASTA"]),
		(lambda make: Path("peaks.bed").write_text("chr7\t5\t9\n"), 3, ["batch.json: peaks.bed: none of the 1 loci"]),
		(
			lambda make: Path("fold_1.json").write_text(json.dumps({"train": ["chr1"], "valid": ["chr8"]})),
			2,
			["batch.json: fold_files: fold_1.json: ", "chr8"],
		),
		(lambda make: Path("c.bw").unlink(), 3, ["samples.tsv: line 4: c.bw: no such file"]),
	],
	ids=["a sample's track", "the genome", "loci of all", "a fold", "a missing file"],
)
def test_a_problem_is_told_once_and_where_it_is(batch, capsys, make_bigwig, spoil, code, words):
	batch()
	spoil(make_bigwig)
	err = check(capsys, code=code)
	assert [word for word in words if word not in err] == []
	assert "problems:" not in err and err.count("\n") == 1 and err.count("error:") == 1


def test_problems_of_many_samples_are_counted(batch, capsys, make_bigwig):
	names = [f"s{i}" for i in range(40)]
	batch(names, folds=FOLDS[:1])
	for name in names[2:]:
		make_bigwig(Path(f"{name}.bw"), {"chr9": 50}, {"chr9": [1.0] * 50})
	err = check(capsys, code=3)
	lines = err.splitlines()
	assert len(lines) == 32 and lines[0].endswith("31 problems:")
	assert "samples.tsv: line 4: s2.bw: none" in lines[1] and lines[-1].endswith("and 8 more")


def test_slurm_is_not_asked(batch, capsys, monkeypatch):
	monkeypatch.setenv("PATH", "")
	batch(executor="slurm", device="auto")
	assert "executor slurm" in check(capsys)


@pytest.mark.parametrize(
	("flags", "word"),
	[
		(["-p", "batch.json", "--accounting", "a.tsv"], "--accounting is for one pipeline"),
		(["--command", "batch", "--set", "samples=samples.tsv"], "name it with -p FILE"),
		(["-p", "batch.json", "--set", "jobs_per_device=0"], "jobs_per_device must be"),
	],
	ids=["accounting", "no JSON", "a key of the batch"],
)
def test_what_cannot_be_checked(batch, capsys, flags, word):
	batch()
	assert main(["check", *flags]) == 2
	assert word in capsys.readouterr().err and not Path("a.tsv").exists()


def test_a_batch_is_explained(batch, capsys):
	batch()
	text = check(capsys, "--explain")
	assert {"samples", "fold_files", "executor"} <= {line.split()[0] for line in text.splitlines()}


def test_what_is_known_is_not_looked_for_again(monkeypatch):
	monkeypatch.setattr(preflight, "KEPT", 2)
	known, calls = preflight.Known(), []

	def look(value):
		calls.append(value)
		if isinstance(value, type):
			raise value("broken")
		return value

	for value in (None, "a", InputError, "b", None, "a", InputError, "b"):
		try:
			assert known.once(value, look, value) == value
		except InputError as error:
			assert value is InputError and str(error) == "broken" and not isinstance(error, MissingFileError)
	assert calls == [None, "a", InputError, "b"]
	known.once("c", look, "c")  # only two values are kept, the last used
	known.once("b", look, "b")
	known.once("a", look, "a")
	assert calls == [None, "a", InputError, "b", "c", "a"]


def test_a_note_is_told_once(capsys):
	known = preflight.Known("batch.json")
	for source, text in (("settings", "one"), ("settings", "one"), ("settings", "two")):
		known.note(source, text)
	assert capsys.readouterr().err == "note: batch.json: one\nnote: batch.json: two\n"
