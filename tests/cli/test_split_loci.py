"""Splits given as files of loci: what is refused, what each command uses, and where background loci go."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cherimoya_cli.__main__ import main

IN, OUT, JITTER = 128, 64, 10
SETTINGS = {
	"name": "x",
	"sequences": "genome.fa",
	"training_loci": ["train.bed"],
	"validation_loci": "valid.bed",
	"test_loci": "test.bed",
	"negatives": "negatives.bed",
	"signals": "signal.bw",
	"in_window": IN,
	"out_window": OUT,
	"max_jitter": JITTER,
	"n_filters": 4,
	"n_layers": 1,
	"max_epochs": 1,
	"n_warmup_epochs": 0,
	"num_workers": 0,
	"device": "cpu",
}


@pytest.fixture
def place(tmp_path, tiny_genome, make_bed, monkeypatch):
	"""A folder with the tiny genome, whose loci are dealt out to three files, and a writer of its JSON."""
	shutil.copyfile(tiny_genome.fasta, tmp_path / "genome.fa")
	shutil.copyfile(tiny_genome.signal, tmp_path / "signal.bw")
	make_bed(tmp_path / "negatives.bed", [(chrom, mid + 250, mid + 260) for chrom, mid in tiny_genome.summits])
	parts = {"train": [], "valid": [], "test": []}
	for i, (chrom, mid) in enumerate(tiny_genome.summits):
		parts["test" if i % 5 == 1 else "valid" if i % 5 == 3 else "train"].append((chrom, mid - 20, mid + 20))
	for name, rows in parts.items():
		make_bed(tmp_path / f"{name}.bed", rows)
	monkeypatch.chdir(tmp_path)

	def write(**changes):
		(tmp_path / "x.json").write_text(json.dumps({**SETTINGS, **changes}))
		return tmp_path, parts

	write()
	return write


def run(command, *flags):
	return main([command, "-p", "x.json", *flags])


def read_table(path):
	with open(path) as handle:
		return {
			(row["split"], row["reason"]): int(row["count"])
			for row in csv.DictReader(handle, delimiter="\t")
			if row["file"] == "all"
		}


def test_each_split_uses_its_file_and_the_background_near_it(place, capsys, tiny_genome):
	folder, parts = place()
	assert run("fit") == 0, capsys.readouterr().err
	table = read_table("x.fit.accounting.tsv")
	for split, name in (("training", "train"), ("validation", "valid"), ("test", "test")):
		assert table[split, "given"] == table[split, "kept"] == len(parts[name])
	# Each background locus lies 255 bp right of a locus and 345 bp left of the next.
	shared = {split: table[f"{split}_negatives", "kept"] for split in ("training", "validation", "test")}
	assert list(shared.values()) == [len(part) for part in parts.values()]
	for split, kept in shared.items():
		assert table[f"{split}_negatives", "in another split"] == len(tiny_genome.summits) - kept
	for stem, name in (("x", "valid"), ("x.test", "test")):
		assert len(np.load(f"{stem}.evaluation.npz")["start"]) == len(parts[name])
		assert json.loads((folder / f"{stem}.performance.json").read_text())["loci"] == [f"{name}.bed"]
	out = capsys.readouterr().out
	assert "dropped: in another split" in out
	before = (folder / "x.test.performance.tsv").read_bytes()
	assert run("evaluate") == 0, capsys.readouterr().err
	assert (folder / "x.test.performance.tsv").read_bytes() == before
	assert read_table("x.evaluate.accounting.tsv")["test", "kept"] == len(parts["test"])


def test_check_shows_them(place, capsys):
	_, parts = place()
	assert run("check", "--accounting", "a.tsv") == 0, capsys.readouterr().err
	table = read_table("a.tsv")
	assert (table["training", "kept"], table["test", "kept"]) == (len(parts["train"]), len(parts["test"]))
	assert table["validation_negatives", "in another split"] > 0


def test_a_pipeline_uses_the_union(place, capsys):
	place(negatives=None, attr_window=4)
	assert run("pipeline", "--set", "dry_run=true") == 0, capsys.readouterr().err
	files = ["train.bed", "valid.bed", "test.bed"]
	steps = {
		name: json.loads(Path(f"x.{name}.json").read_text()) for name in ("negatives", "fit", "evaluate", "predict")
	}
	assert steps["negatives"]["loci"] == steps["predict"]["loci"] == files
	assert steps["evaluate"]["training_loci"] == ["train.bed"] and steps["evaluate"]["training_chroms"] is None
	for name in ("fit", "evaluate"):  # what a step is given, it can load
		assert main([name, "-p", f"x.{name}.json", "--explain"]) == 0


@pytest.mark.parametrize("command", ["fit", "evaluate", "check"])
def test_windows_of_two_splits_must_not_overlap(place, capsys, make_bed, command):
	folder, parts = place()
	chrom, start, end = parts["train"][0]
	# Apart by the width of a window, but not by the jitter of training; evaluate knows no jitter.
	shift = IN + (JITTER - 1 if command != "evaluate" else -1)
	make_bed(folder / "valid.bed", [*parts["valid"], (chrom, start + shift, end + shift)])
	from cherimoya import Cherimoya

	Cherimoya(n_filters=4, n_layers=1, trimming=(IN - OUT) // 2, random_state=0).save("x.torch")
	assert run(command) == 3
	message = capsys.readouterr().err
	for text in ("train.bed: 1 of", "training windows overlap a validation window (first: chr1:", "of valid.bed"):
		assert text in message
	assert "allow_shared_windows" in message and "Traceback" not in message
	place(allow_shared_windows=True)
	assert run(command) == 0, capsys.readouterr().err


@pytest.mark.parametrize(
	("changes", "words"),
	[
		({"validation_loci": None}, ["validation_loci is null, but training_loci splits by loci"]),
		({"training_loci": None}, ["training_loci is null, but validation_loci splits by loci"]),
		({"training_chroms": ["chr1"]}, ["training_chroms and training_loci both choose the splits"]),
		({"folds": "folds.json"}, ["both choose the splits"]),
		(
			{"training_loci": None, "validation_loci": None, "test_loci": None, "validation_chroms": None},
			["validation_chroms is null, and so is validation_loci", "loci is not given"],
		),
	],
	ids=["no validation", "no training", "chromosomes too", "folds too", "neither"],
)
def test_settings_that_contradict(place, capsys, changes, words):
	folder, _ = place(**changes)
	(folder / "folds.json").write_text('{"train": ["chr1"], "valid": ["chr2"]}')
	assert run("fit") == 2
	message = capsys.readouterr().err
	assert [word for word in words if word not in message] == []


def test_no_test_split(place, capsys):
	folder, _ = place(test_loci=None)
	assert run("fit") == 0, capsys.readouterr().err
	assert not (folder / "x.test.performance.tsv").exists()
	assert read_table("x.fit.accounting.tsv")["training", "kept"] > 0
