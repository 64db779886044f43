"""``pipeline-json``: a complete JSON out of flags, with a split that suits the genome."""

import importlib.util
import json
from pathlib import Path

import pytest

from cherimoya_cli.__main__ import main
from cherimoya_cli.commands.pipeline_json import ASSAYS
from cherimoya_cli.reads import count_ends
from cherimoya_cli.recipes import RECIPES
from cherimoya_cli.settings import defaults, load_settings
from cherimoya_cli.splits import propose_split

_spec = importlib.util.spec_from_file_location("generate", Path(__file__).resolve().parents[2] / "docs" / "generate.py")
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)

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


# Recipes.

READS = {
	"a.bam": "content",
	"ends.bed": "chr1\t10\t60\tr\t0\t+\n",
	"plain.bed": "chr1\t10\t60\n",
	"pairs.bedpe": "chr1\t10\t60\tchr1\t90\t120\n",
	"cells.tsv": "# a comment\nchr1\t10\t60\tACGT-1\t2\n",
	"narrow.bed": "chr1\t10\t60\tp\t1\t.\t1\t1\t1\t20\n",
	"no_summit.bed": "chr1\t10\t60\tp\t1\t.\t1\t1\t1\t-1\n",
}


@pytest.fixture
def reads(folder):
	"""A working folder with reads of several layouts."""
	folder(HUMAN)
	for name, text in READS.items():
		Path(name).write_text(text)


@pytest.mark.parametrize("assay", RECIPES)
def test_an_assay_gives_what_the_docs_say(reads, assay, capsys):
	documented = generate.recipe_json(assay)
	content = write("--assay", assay, "-i", "a.bam")
	plain = defaults("pipeline")
	for key, value in documented.items():
		if isinstance(value, dict):
			assert content[key] == {**plain[key], **value}
		else:
			assert content[key] == value
	assert {key for key in content if content[key] != plain[key]} <= {*documented, "sequences", "name", "signals"}
	said = capsys.readouterr().out
	for choice in RECIPES[assay].choices:
		assert f"  {choice.dotted} = {json.dumps(choice.value)}: {choice.reason}" in said
		assert f"| `{choice.dotted}` | `{json.dumps(choice.value)}` | {choice.reason} |" in generate.recipes()
	settings = load_settings("pipeline", content)
	assert settings.notices == []


def test_the_flag_knows_every_recipe():
	assert ASSAYS == tuple(RECIPES)


READ_KEYS = ("unstranded", "fragments", "pos_shift", "neg_shift")


@pytest.mark.parametrize(
	("assay", "flags", "expected"),
	[
		("atac", ["-i", "a.bam"], (True, False, 4, -4)),
		("atac", ["-i", "ends.bed"], (True, False, 4, -4)),
		("atac", ["-i", "plain.bed"], (True, True, 4, -4)),
		("atac", ["-i", "pairs.bedpe", "-i", "plain.bed"], (True, True, 4, -4)),
		("atac", ["-i", "cells.tsv"], (True, True, 0, 1)),
		("dnase", ["-i", "a.bam"], (True, False, 0, 1)),
		("dnase", ["-i", "cells.tsv"], (True, True, 0, 1)),
		("chipseq-tf", ["-i", "a.bam", "-c", "b.bam"], (False, False, 0, 0)),
		("chipseq-tf", ["-i", "plain.bed"], (False, True, 0, 0)),
		("procap", ["-i", "ends.bed"], (False, False, 0, 0)),
		("chip-nexus", ["-i", "a.bam"], (False, False, 0, 0)),
		("atac", ["-i", "a.bam", "-ps", "0", "-ns", "0"], (True, False, 0, 0)),
		("atac", ["-i", "a.bam", "--no-unstranded", "-f"], (False, True, 4, -4)),
		("atac", ["-i", "s.+.bw"], (False, False, 0, 0)),
	],
	ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_files_and_flags_decide_too(reads, assay, flags, expected):
	content = write("--assay", assay, *flags)
	assert tuple(content["preprocessing_parameters"][key] for key in READ_KEYS) == expected


@pytest.mark.parametrize(
	("flags", "summits"),
	[
		(["-i", "a.bam"], True),
		(["-i", "a.bam", "-p", "narrow.bed"], True),
		(["-i", "s.+.bw", "-p", "narrow.bed"], True),
		(["-i", "a.bam", "-p", "narrow.bed", "-p", "p.bed"], False),
		(["-i", "a.bam", "-p", "no_summit.bed"], False),
		(["-i", "s.+.bw"], False),
	],
	ids=["called", "narrowPeak", "bigWig", "one without", "unknown", "bigWig without peaks"],
)
def test_summits_are_used_where_peaks_have_them(reads, flags, summits):
	assert write("--assay", "atac", *flags)["fit_parameters"]["summits"] is summits


def test_the_shifts_put_both_ends_of_a_footprint_on_one_base(reads):
	"""A Tn5 dimer on bases 100 to 108: the fragment to its right begins at 100, the one to its left ends after 108."""
	raw, shifted = [(100, 200), (20, 109)], [(104, 195), (24, 104)]  # the second as Cell Ranger writes it
	for name, rows in (("raw.bed", raw), ("cells.tsv", shifted)):
		barcode = "\tACGT-1\t1" if name == "cells.tsv" else ""
		Path(name).write_text("".join(f"chr1\t{start}\t{end}{barcode}\n" for start, end in sorted(rows)))
		values = write("--assay", "atac", "-i", name)["preprocessing_parameters"]
		options = {key: values[key] for key in ("fragments", "pos_shift", "neg_shift")}
		(track,), _ = count_ends(name, {"chr1": 300}, stranded=not values["unstranded"], **options)
		assert dict(zip(*track["chr1"], strict=True))[104] == 2


@pytest.mark.parametrize(
	("flags", "fragments"),
	[
		(["--assay", "procap", "-i", "plain.bed"], ("plain.bed: its lines have no strand", "PRO-cap", "6th column")),
		(["--assay", "chip-nexus", "-i", "cells.tsv"], ("cells.tsv: its lines have no strand",)),
		(["--assay", "atac", "-i", "cells.tsv", "-i", "a.bam"], ("cells.tsv is a fragment file", "a.bam is not")),
		(["--assay", "chipseq", "-i", "a.bam"], ("invalid choice: 'chipseq'",)),
	],
	ids=["PRO-cap", "ChIP-nexus", "two kinds", "unknown"],
)
def test_assays_that_do_not_suit_the_files(reads, capsys, flags, fragments):
	assert main(["pipeline-json", "-s", "g.fa", "-n", "x", "-o", "x.json", *flags]) == 2
	message = capsys.readouterr().err
	for fragment in fragments:
		assert fragment in message
	assert not Path("x.json").exists()
