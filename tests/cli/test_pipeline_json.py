"""``pipeline-json``: a complete JSON out of flags, with a split that suits the genome."""

import json
from pathlib import Path

import pytest

from cherimoya_cli.__main__ import main
from cherimoya_cli.settings import defaults, load_settings
from cherimoya_cli.splits import propose_split

HUMAN = {f"chr{c}": 400 for c in [*range(1, 23), "X", "Y"]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
	"""An empty working folder with the files that the flags name."""
	monkeypatch.chdir(tmp_path)
	for name in ("a.bam", "b.bam", "c.bam", "s.+.bw", "s.-.bw", "p.bed", "q.bed", "n.bed", "m.meme"):
		(tmp_path / name).write_text("content")

	def genome(sizes):
		(tmp_path / "g.fa").write_text("".join(f">{chrom}\n{'A' * size}\n" for chrom, size in sizes.items()))
		return tmp_path

	return genome


def write(*flags):
	assert main(["pipeline-json", "-s", "g.fa", "-n", "out/x", "-o", "x.json", *flags]) == 0
	content = json.loads(Path("x.json").read_text())
	load_settings("pipeline", "x.json", check_files=True)
	return content


def test_the_json_is_complete(folder):
	folder(HUMAN)
	content = write("-i", "a.bam")
	expected = defaults("pipeline")
	assert content == {**expected, "sequences": "g.fa", "name": "out/x", "signals": ["a.bam"]}


@pytest.mark.parametrize(
	("flags", "section", "values"),
	[
		(["-i", "a.bam", "-i", "b.bam"], None, {"signals": ["a.bam", "b.bam"], "controls": None, "loci": None}),
		(["-i", "s.+.bw,s.-.bw"], None, {"signals": [["s.+.bw", "s.-.bw"]]}),
		(["-i", "a.bam", "-c", "b.bam", "-c", "c.bam"], None, {"controls": ["b.bam", "c.bam"]}),
		(
			["-i", "a.bam", "-p", "p.bed", "-p", "q.bed", "-neg", "n.bed"],
			None,
			{"loci": ["p.bed", "q.bed"], "negatives": ["n.bed"]},
		),
		(["-i", "a.bam", "-m", "m.meme"], None, {"motifs": "m.meme"}),
		(
			["-i", "a.bam", "-u", "-f", "-pe", "-ps", "4", "-ns", "-4", "-sf", "0.5"],
			"preprocessing_parameters",
			{
				"unstranded": True,
				"fragments": True,
				"paired_end": True,
				"pos_shift": 4,
				"neg_shift": -4,
				"scale_factor": 0.5,
			},
		),
		(
			["--inputs", "a.bam", "--unstranded", "--pos-shift", "4", "--neg_shift", "-5"],
			"preprocessing_parameters",
			{"unstranded": True, "fragments": False, "pos_shift": 4, "neg_shift": -5},
		),
	],
	ids=["replicates", "pair", "controls", "loci", "motifs", "short flags", "long flags"],
)
def test_flags(folder, flags, section, values):
	folder(HUMAN)
	content = write(*flags)
	part = content[section] if section else content
	assert {key: part[key] for key in values} == values


def test_another_genome_gets_a_split_of_its_own(folder, capsys):
	sizes = {"chrI": 900, "chrII": 800, "chrIII": 700, "chrIV": 600, "chrV": 500}
	folder(sizes)
	fit = write("-i", "a.bam")["fit_parameters"]
	assert [fit[f"{key}_chroms"] for key in ("training", "validation", "test")] == list(propose_split(sizes))
	assert "one was chosen by size" in capsys.readouterr().out


@pytest.mark.parametrize(
	("flags", "code", "fragments"),
	[
		(["-i", "absent.bam", "-c", "gone.bam"], 3, ("absent.bam: no such file", "gone.bam: no such file")),
		(
			["-i", "a.bam", "-sf", "-1"],
			2,
			("preprocessing_parameters.scale_factor must be a number above 0, or a list", "not -1.0"),
		),
		(["-i", "a.bam", "-ps", "four"], 2, ("invalid int value: 'four'",)),
		([], 2, ("required", "-i")),
	],
	ids=["missing files", "scale", "shift", "no input"],
)
def test_mistakes(folder, capsys, flags, code, fragments):
	place = folder(HUMAN)
	before = sorted(place.iterdir())
	assert main(["pipeline-json", "-s", "g.fa", "-n", "x", "-o", "x.json", *flags]) == code
	message = capsys.readouterr().err
	for fragment in fragments:
		assert fragment in message
	assert sorted(place.iterdir()) == before
