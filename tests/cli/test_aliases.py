"""Inputs that name chromosomes as 1 where the FASTA says chr1, through every command."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from cherimoya.io.loci import read_loci
from cherimoya_cli.__main__ import main

NAMES = {"chr1": "1", "chr2": "2", "chr3": "MT"}
SETTINGS = {
	"name": "x",
	"sequences": "genome.fa",
	"loci": "peaks.bed",
	"negatives": "negatives.bed",
	"signals": [["plus.bw", "minus.bw"]],
	"controls": "control.bw",
	"exclusion_lists": "exclude.bed",
	"in_window": 128,
	"out_window": 64,
	"max_jitter": 10,
	"n_filters": 4,
	"n_layers": 1,
	"max_epochs": 1,
	"n_warmup_epochs": 0,
	"num_workers": 0,
	"device": "cpu",
	"attr_window": 6,
	"max_loci": 5,
	"beta": 10,
	"bin_width": 0.5,
	"output_filename": "x.n.bed",
	"training_chroms": ["chr1"],
	"validation_chroms": ["chr2"],
	"test_chroms": ["chr3"],
	"chrom_aliases": {"MT": "chr3", "1": "chr1", "chr2": "2"},
}
COMMANDS = ("fit", "evaluate", "predict", "attribute", "negatives")
FILES = ("x.performance.tsv", "x.test.performance.tsv", "x.attributions.bed", "x.n.bed")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory, tiny_genome, make_bed, make_bigwig):
	"""Two folders with the same data: under the FASTA's names, and under others."""
	folders = {}
	for scheme in ("own", "other"):
		folder = folders[scheme] = tmp_path_factory.mktemp(scheme)
		names = NAMES if scheme == "other" else {chrom: chrom for chrom in NAMES}
		shutil.copyfile(tiny_genome.fasta, folder / "genome.fa")
		for name in ("peaks", "negatives", "exclusion"):
			loci = read_loci(getattr(tiny_genome, name))
			rows = [(names[c], s, e) for c, s, e in zip(loci.chroms, loci.starts, loci.ends, strict=True)]
			make_bed(folder / f"{name.replace('exclusion', 'exclude')}.bed", rows)
		sizes = {names[chrom]: size for chrom, size in tiny_genome.sizes.items()}
		for name in ("plus", "minus", "control"):
			values = {names[chrom]: array for chrom, array in tiny_genome.tracks[name].items()}
			make_bigwig(folder / f"{name}.bw", sizes, values)
	return folders


def run(folder, monkeypatch, command, **changes):
	monkeypatch.chdir(folder)
	Path("x.json").write_text(json.dumps({**SETTINGS, **changes}))
	return main([command, "-p", "x.json"])


def test_every_command_gives_the_same(worlds, monkeypatch, capsys):
	"""Splits, too, may be given in the other scheme. Outputs have the FASTA's names."""
	splits = {"training_chroms": ["1"], "validation_chroms": ["2:0-16000"], "test_chroms": ["MT"]}
	for command in COMMANDS:
		assert run(worlds["own"], monkeypatch, command, chrom_aliases=False) == 0, capsys.readouterr().err
		assert run(worlds["other"], monkeypatch, command, **splits) == 0, capsys.readouterr().err
	own, other = worlds["own"], worlds["other"]
	for name in FILES:
		assert (own / name).read_bytes() == (other / name).read_bytes(), name
	for name in ("x.predictions.npz", "x.evaluation.npz"):
		with np.load(own / name) as a, np.load(other / name) as b:
			assert set(b["chrom"]) <= set(NAMES)
			for key in a.files:
				np.testing.assert_array_equal(a[key], b[key])
	import pyBigWig

	with pyBigWig.open(str(other / "x.predictions.+.bw")) as file:
		assert list(file.chroms()) == list(NAMES)
	assert run(other, monkeypatch, "check", **splits) == 0, capsys.readouterr().err


@pytest.mark.parametrize("command", ["fit", "negatives", "check"])
def test_without_aliases_both_schemes_and_the_key_are_shown(worlds, monkeypatch, capsys, command):
	code = run(worlds["other"], monkeypatch, command, chrom_aliases=False, exclusion_lists=None, name="new/y")
	message = capsys.readouterr().err
	assert code == 3
	for text in ("1, 2, MT", "chr1, chr2, chr3", "set chrom_aliases to true"):
		assert text in message


@pytest.mark.parametrize(
	("changes", "code", "words"),
	[
		({"chrom_aliases": "absent.tsv"}, 3, ["absent.tsv: no such file", "chrom_aliases in x.json"]),
		({"chrom_aliases": "peaks.bed"}, 3, ["peaks.bed: none of its names is a chromosome of genome.fa"]),
		({"chrom_aliases": 3}, 2, ["chrom_aliases must be true, false, a mapping"]),
		({"chrom_aliases": {"chr1": "chr2"}}, 3, ["'chr1' and 'chr2' are both chromosomes of genome.fa"]),
		({"training_chroms": ["1", "chr2"], "validation_chroms": ["2"]}, 2, ["share", "'chr2'"]),
		({"loci": "both.bed"}, 3, ["both.bed: has both '1' and 'chr1'", "'chr1' of genome.fa"]),
	],
	ids=["missing", "no table", "number", "ambiguous", "splits that share", "both names"],
)
def test_aliases_that_cannot_be_used(worlds, monkeypatch, capsys, make_bed, changes, code, words):
	make_bed(worlds["other"] / "both.bed", [("1", 600, 700), ("chr1", 1200, 1300), ("2", 600, 700), ("MT", 600, 700)])
	assert run(worlds["other"], monkeypatch, "fit", **{"evaluate": False, **changes}) == code
	message = capsys.readouterr().err
	assert [word for word in words if word not in message] == [], message
