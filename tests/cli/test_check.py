"""``check``: which command a JSON is for, what it would read, write and need, and where its loci would go."""

import json
import shutil
from pathlib import Path

import pytest

from cherimoya_cli.__main__ import main
from cherimoya_cli.commands.check import CHECKED, detect
from cherimoya_cli.settings import SETTINGS, defaults

CONFIGS = Path(__file__).parent / "configs"
ROOT = Path(__file__).resolve().parents[2]

GOOD = {
	"name": "out/model",
	"sequences": "genome.fa",
	"loci": "peaks.bed",
	"negatives": "negatives.bed",
	"signals": [["plus.bw", "minus.bw"]],
	"controls": "control.bw",
	"in_window": 128,
	"out_window": 64,
	"max_jitter": 200,
	"training_chroms": ["chr1"],
	"validation_chroms": ["chr2:0-9000"],
	"test_chroms": ["chr3"],
	"exclusion_lists": "exclude.bed",
	"device": "cpu",
}


@pytest.fixture
def place(tmp_path, tiny_genome, monkeypatch):
	"""A folder with a small data set, and a writer of its JSON."""
	names = {"fasta": "genome.fa", "peaks": "peaks.bed", "negatives": "negatives.bed", "plus": "plus.bw"}
	names |= {"minus": "minus.bw", "control": "control.bw", "exclusion": "exclude.bed"}
	for attribute, name in names.items():
		shutil.copyfile(getattr(tiny_genome, attribute), tmp_path / name)
	monkeypatch.chdir(tmp_path)

	def write(**changes):
		(tmp_path / "x.json").write_text(json.dumps({**GOOD, **changes}))
		return tmp_path

	write()
	return write


def check(capsys, *flags):
	code = main(["check", "-p", "x.json", *flags])
	captured = capsys.readouterr()
	assert code == 0, captured.err
	return captured.out


def tables(text):
	"""The accounting tables of a report: title -> {row: number}."""
	found, title, previous = {}, "", ""
	for line in text.splitlines():
		name, _, number = line.strip().rpartition("  ")
		if name.strip() == "given":
			title = previous
			found[title] = {}
		if title and number.replace(",", "").isdigit():
			found[title][name.strip()] = int(number.replace(",", ""))
		previous = line
	return found


# Which command.


@pytest.mark.parametrize(
	("content", "command"),
	[
		({}, "pipeline"),
		({"sequences": "g.fa", "fit_parameters": {}}, "pipeline"),
		({"sequences": "g.fa", "seqlet_parameters": {}}, "pipeline"),
		({"signals": ["a.bam"]}, "pipeline"),
		({"signals": ["a.bw"], "loci": "p.bed", "skip_steps": ["report"]}, "pipeline"),
		({"signals": [["a.bed.gz"]]}, "pipeline"),
		({"signals": ["a.bw"], "loci": "p.bed"}, "fit"),
		({"n_filters": 3}, "fit"),
		({"baselines": True, "chroms": ["a"]}, "evaluate"),
		({"max_loci": 3, "attr_window": 5}, "attribute"),
		({"bin_width": 0.1, "beta": 0.5}, "negatives"),
		({"threshold": 0.1, "min_seqlet_len": 5}, "seqlets"),
		({"n_seqlets": 100}, "motifs"),
		({"n_loci": 100, "motifs": "m.meme"}, "marginalize"),
		({"variants": "v.vcf"}, "variants"),
		({"samples": "samples.tsv", "signals": ["a.bam"], "n_filters": 3}, "batch"),
	],
	ids=str,
)
def test_detection(tmp_path, content, command):
	path = tmp_path / "x.json"
	path.write_text(json.dumps(content))
	assert detect(str(path)) == command


@pytest.mark.parametrize("command", [command for command in CHECKED if command != "predict"])
def test_complete_files_are_recognised(tmp_path, command):
	path = tmp_path / "x.json"
	path.write_text(json.dumps({key: 1 if value is None else value for key, value in defaults(command).items()}))
	assert detect(str(path)) == command


def test_published_files_are_pipelines():
	for path in CONFIGS.glob("published_*_good.json"):
		assert detect(str(path)) == "pipeline"


def test_explain_is_for_the_command_of_the_file(place, capsys):
	rows = {line.split()[0] for line in check(capsys, "--explain").splitlines()}
	assert rows == SETTINGS["fit"].model_fields.keys()


# What it says.


def test_fit(place, capsys):
	folder = place()
	before = sorted(path.name for path in folder.iterdir())
	text = check(capsys)
	assert "for 'cherimoya fit'" in text
	reads, writes = text.split("Writes:")
	for name in ("genome.fa", "peaks.bed", "negatives.bed", "plus.bw", "minus.bw", "control.bw", "exclude.bed"):
		assert f"  {name}\n" in reads
	for name in ("out/model.torch", "out/model.log", "out/model.test.performance.tsv", "out/model.fit.record.json"):
		assert f"  {name}\n" in writes
	assert "Device: cpu" in text and "GB of memory" in text and "GB of disk" in text
	assert sorted(path.name for path in folder.iterdir() if path.suffix != ".fai") == before


def test_the_accounting_is_that_of_the_windows(place, capsys, tiny_genome):
	found = tables(check(capsys))
	loci = tiny_genome.summits
	training = found["Training loci"]
	# The window of a training locus is widened by the jitter, so the exclusion list reaches further.
	excluded = sum(chrom == "chr1" and mid - 264 < 6_100 and mid + 264 > 5_900 for chrom, mid in loci)
	assert training["given"] == len(loci)
	assert training["dropped: chromosome not selected"] == sum(chrom != "chr1" for chrom, _ in loci)
	assert training["dropped: excluded"] == excluded > 0
	inside = sum(chrom == "chr2" and mid + 64 <= 9_000 for chrom, mid in loci)
	assert found["Validation loci"]["kept"] == inside
	assert found["Test loci"]["kept"] == sum(chrom == "chr3" for chrom, _ in loci)
	assert found["Background loci, training"]["given"] == len(loci)


def test_a_pipeline_from_reads(place, capsys, make_bed):
	folder = place(signals=["reads.bed"], controls=None, loci=None, negatives=None)
	make_bed(folder / "reads.bed", [("chr1", i, i + 30, ".", 0, "+") for i in range(0, 20_000, 10)])
	text = check(capsys)
	assert "for 'cherimoya pipeline'" in text and "cannot be accounted for yet" in text
	for step in ("peaks", "signals", "negatives", "fit", "evaluate", "predict", "attribute", "report"):
		assert f"  {step}" in text
	assert "out/model_peaks.narrowPeak" in text and not (folder / "out").exists()


def test_a_pipeline_from_reads_with_loci_counts_places_alone(place, capsys, make_bed):
	folder = place(signals=["reads.bed"], controls=None, min_counts=1e9)
	make_bed(folder / "reads.bed", [("chr1", i, i + 30, ".", 0, "+") for i in range(0, 20_000, 10)])
	assert tables(check(capsys))["Test loci"]["kept"] > 0


@pytest.mark.parametrize("command", ["evaluate", "predict", "attribute"])
def test_commands_with_a_model(place, capsys, command):
	from cherimoya import Cherimoya

	folder = place(name="model", attr_window=10)
	Cherimoya(n_filters=4, n_layers=1, trimming=32, signal_groups=[2], n_control_tracks=1, random_state=0).save(
		folder / "model.torch"
	)
	text = check(capsys, "--command", command)
	assert "Model: model.torch" in text and f"for 'cherimoya {command}'" in text and "  model.torch\n" in text
	assert tables(text)["Validation loci" if command == "evaluate" else "Loci"]["kept"] > 0


@pytest.fixture
def with_model(place, tiny_genome):
	"""The folder with a small model that suits its tracks, and contributions of two loci."""
	import numpy as np

	from cherimoya import Cherimoya

	def write(**changes):
		folder = place(name="model", **changes)
		Cherimoya(n_filters=4, n_layers=1, trimming=32, signal_groups=[2], n_control_tracks=1, random_state=0).save(
			folder / "model.torch"
		)
		arrays = np.zeros((2, 4, 30), dtype=np.int8)
		arrays[:, 1] = 1
		for kind in ("ohe", "attr"):
			np.savez_compressed(folder / f"model.attributions.{kind}.npz", arrays)
		np.save(folder / "model.attributions.idxs.npy", np.array([True, False, True]))
		(folder / "model.attributions.bed").write_text("chr1\t100\t130\nchr1\t700\t730\n")
		(folder / "m.meme").write_text(
			"MEME version 4\n\nALPHABET= ACGT\n\nMOTIF A a\nletter-probability matrix: alength= 4 w= 2\n"
			"0.9 0.1 0 0\n0 0 1 0\n"
		)
		ref = tiny_genome.sequences["chr1"][599]
		rows = [("chrom", "pos", "ref", "alt"), ("chr1", 600, ref, "A" if ref != "A" else "C")]
		rows += [("chr9", 600, "A", "C"), ("chr1", 2, "A", "C")]
		(folder / "v.tsv").write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
		return folder

	return write


REGIONS = {
	"a chromosome": (["chr2"], None),
	"all, half of each shared": (["*"], None),
	"nothing shared": (["chr1", "chr3:100-7,000"], 0),
	"nearly all shared": (["chr3:1,000-1,500"], 63),
	"shorter than a tile": (["chr3:1,000-1,010"], 5),
}


@pytest.mark.parametrize("case", REGIONS)
def test_tiles_of_regions_are_counted(case, tiny_genome):
	from cherimoya.io.genome import Genome
	from cherimoya.io.tiling import tile_windows
	from cherimoya_cli.preflight import count_tiles

	regions, overlap = REGIONS[case]
	values = {"regions": regions, "overlap": overlap, "in_window": 128, "out_window": 64}
	genome = Genome(tiny_genome.fasta)
	assert count_tiles(values, genome) == tile_windows(sequences=genome, max_n_perc=1.0, **values).accounting.given


def test_a_prediction_over_regions_needs_room_for_its_tiles(with_model, capsys, monkeypatch):
	from cherimoya_cli import preflight

	seen, estimate = {}, preflight.estimate_needs

	def look(*args, **kwargs):
		seen["needs"] = estimate(*args, **kwargs)
		return seen["needs"]

	monkeypatch.setattr(preflight, "estimate_needs", look)
	found = {}
	for name, changes in (
		("a part", {"regions": ["chr1:0-2,000"]}),
		("all", {"regions": ["*"]}),
		("arrays", {"regions": ["*"], "output_format": "npz"}),
	):
		with_model(loci=None, **changes)
		n = tables(check(capsys, "--command", "predict"))["Tiles"]["given"]
		found[name] = n, seen["needs"]
		assert seen["needs"].memory > n * preflight.BYTES_PER_TILE
	assert found["all"][0] > 10 * found["a part"][0]
	for name, copies in (("a part", 2), ("all", 2), ("arrays", 4)):
		n, needs = found[name]
		assert needs.disk == copies * 4 * 2 * 64 * n  # float32 of two channels


@pytest.mark.parametrize("command", ["predict", "pipeline"])
def test_regions_that_the_genome_does_not_have(with_model, capsys, command):
	content = {"fit_parameters": {key: GOOD[key] for key in GOOD if key.endswith("_chroms")}, "min_counts": None}
	with_model(**(content if command == "pipeline" else {}), regions=["chr7"])
	assert main(["check", "-p", "x.json", "--command", command]) == 3
	err = capsys.readouterr().err
	assert "has no chromosome chr7" in err and err.count("chr7") == 1


def test_variants(with_model, capsys):
	with_model(variants="v.tsv")
	text = check(capsys, "--command", "variants", "--accounting", "a.tsv")
	found = tables(text)["Alleles to score"]
	assert (
		found["given"] == 3 and found["dropped: chromosome not in FASTA"] == 1 and found["dropped: off the edge"] == 1
	)
	assert "  model.variants.tsv\n" in text and "Model: model.torch" in text
	assert "variants\tall\tgiven\t3" in Path("a.tsv").read_text()


def test_marginalize(with_model, capsys):
	pytest.importorskip("memelite")
	with_model(motifs="m.meme", loci="negatives.bed", n_loci=10)
	found = tables(check(capsys, "--command", "marginalize"))
	assert found["Motifs"]["kept"] == 1 and found["Background loci"]["kept"] == 10


@pytest.mark.parametrize("command", ["seqlets", "motifs"])
def test_contributions(with_model, capsys, command):
	pytest.importorskip("tangermeme")
	pytest.importorskip("modiscolite")
	with_model()
	text = check(capsys, "--command", command)
	assert "Contributions: 2 windows of 30 bp" in text and "  model.attributions.attr.npz\n" in text


@pytest.mark.parametrize(
	("command", "spoil", "code", "fragments"),
	[
		("seqlets", lambda f: (f / "model.attributions.attr.npz").unlink(), 3, ("attr.npz: no such file", "attribute")),
		("seqlets", lambda f: (f / "model.attributions.bed").write_text("chr1\t1\t31\n"), 3, ("1 loci", "has 2")),
		(
			"motifs",
			lambda f: (f / "model.attributions.ohe.npz").write_text("x"),
			3,
			("ohe.npz", "attribute the loci again"),
		),
		("variants", lambda f: (f / "model.torch").unlink(), 3, ("model.torch: no such file", "cherimoya fit")),
		("variants", lambda f: (f / "v.tsv").write_text("x\n"), 3, ("v.tsv",)),
		("marginalize", lambda f: (f / "m.meme").write_text("x\n"), 3, ("m.meme: holds no motif",)),
	],
	ids=["no array", "another run", "broken array", "no model", "no variants", "no motifs"],
)
def test_what_is_wrong_with_them(with_model, capsys, command, spoil, code, fragments):
	for module in ("tangermeme", "memelite", "modiscolite"):
		pytest.importorskip(module)
	folder = with_model(motifs="m.meme", variants="v.tsv", loci="negatives.bed")
	spoil(folder)
	assert main(["check", "-p", "x.json", "--command", command]) == code
	message = capsys.readouterr().err
	for fragment in fragments:
		assert fragment in message
	assert message.count("error:") == 1 and "Traceback" not in message


def test_a_pipeline_accounts_for_every_step(with_model, capsys):
	for module in ("tangermeme", "memelite", "modiscolite", "matplotlib"):
		pytest.importorskip(module)
	content = {"fit_parameters": {key: GOOD[key] for key in GOOD if key.endswith("_chroms")}, "min_counts": None}
	with_model(motifs="m.meme", variants="v.tsv", **content)
	found = tables(check(capsys, "--command", "pipeline"))
	for title in ("Training loci", "Loci to predict", "Loci to attribute", "Loci to marginalize", "Alleles to score"):
		assert found[title]["given"] > 0


def test_the_example_is_good(capsys, monkeypatch, tmp_path):
	example = ROOT / "examples" / "yeast_atac"
	for path in example.iterdir():
		if path.is_file():
			shutil.copyfile(path, tmp_path / path.name)
	monkeypatch.chdir(tmp_path)
	for module in ("MACS3", "matplotlib", "tangermeme", "memelite", "modiscolite"):
		pytest.importorskip(module)
	assert main(["check", "-p", "params.json"]) == 0, capsys.readouterr().err
