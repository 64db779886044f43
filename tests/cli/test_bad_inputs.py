"""What users get wrong: the exit code, one message with file, place, finding and remedy, and nothing half-written."""

import gzip
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cherimoya_cli.__main__ import main

SETTINGS, INPUT = 2, 3

GOOD = {
	"name": "model",
	"sequences": "genome.fa",
	"loci": "peaks.bed",
	"negatives": "negatives.bed",
	"signals": ["signal.bw"],
	"in_window": 128,
	"out_window": 64,
	"n_filters": 4,
	"n_layers": 2,
	"max_epochs": 1,
	"max_jitter": 8,
	"batch_size": 16,
	"num_workers": 0,
	"training_chroms": ["chr1"],
	"validation_chroms": ["chr2"],
	"test_chroms": ["chr3"],
	"attr_window": 20,
	"device": "cpu",
	"verbose": False,
}


class Place(NamedTuple):
	"""A folder with a good set-up, which a case then breaks."""

	folder: Path
	genome: Any
	make_bed: Callable
	make_bigwig: Callable
	make_fasta: Callable
	monkeypatch: pytest.MonkeyPatch

	def settings(self, **changes: Any) -> None:
		"""Write the JSON with some values changed."""
		(self.folder / "good.json").write_text(json.dumps({**GOOD, **changes}))

	def text(self, name: str, content: str) -> None:
		"""Write a text file."""
		(self.folder / name).write_text(content)

	def bed(self, name: str, rows: list) -> None:
		"""Write a BED file."""
		self.make_bed(self.folder / name, rows)

	def bigwig(self, name: str, sizes: dict | None = None, values: dict | None = None) -> None:
		"""Write a bigWig: the genome's chromosomes and signal unless given."""
		sizes = self.genome.sizes if sizes is None else sizes
		self.make_bigwig(self.folder / name, sizes, self.genome.tracks["signal"] if values is None else values)

	def truncate(self, name: str, fraction: float = 0.5) -> None:
		"""Cut a file's end off."""
		path = self.folder / name
		path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])

	def model(self, **options: Any) -> None:
		"""Write a checkpoint that suits the set-up but for some arguments."""
		from cherimoya import Cherimoya

		arguments = {"n_filters": 4, "n_layers": 2, "trimming": 32, "signal_groups": [1], "random_state": 0}
		Cherimoya(**{**arguments, **options}).save(self.folder / "model.torch")


@pytest.fixture
def place(tmp_path, tiny_genome, make_bed, make_bigwig, make_fasta, monkeypatch) -> Place:
	"""A working folder in which ``cherimoya fit -p good.json`` would run."""
	copies = {
		"fasta": "genome.fa",
		"peaks": "peaks.bed",
		"narrowpeaks": "peaks.narrowPeak",
		"negatives": "negatives.bed",
	}
	copies |= {"signal": "signal.bw", "control": "control.bw", "exclusion": "exclude.bed"}
	for attribute, name in copies.items():
		shutil.copyfile(getattr(tiny_genome, attribute), tmp_path / name)
	monkeypatch.chdir(tmp_path)
	result = Place(tmp_path, tiny_genome, make_bed, make_bigwig, make_fasta, monkeypatch)
	result.settings()
	return result


class Case(NamedTuple):
	"""One mistake: the command, how it comes about, and what the user is told."""

	name: str
	command: str
	spoil: Callable[[Place], Any]
	code: int
	fragments: tuple[str, ...]
	flags: tuple[str, ...] = ("-p", "good.json")


def change(**values: Any) -> Callable[[Place], Any]:
	"""A mistake in the JSON alone."""
	return lambda place: place.settings(**values)


def rename_chromosomes(place: Place, names: dict[str, str]) -> None:
	"""Peaks whose chromosomes are named otherwise."""
	rows = [line.split("\t") for line in (place.folder / "peaks.bed").read_text().splitlines()]
	place.bed("peaks.bed", [(names[chrom], start, end) for chrom, start, end in rows])


def without(package: str) -> Callable[[Place], Any]:
	"""A package that is not installed, as imports see it."""

	def spoil(place: Place) -> None:
		import importlib.util

		find = importlib.util.find_spec
		hide = lambda name, *args: None if name.split(".")[0].lower() == package.lower() else find(name, *args)  # noqa: E731
		place.monkeypatch.setattr(importlib.util, "find_spec", hide)
		for module in [name for name in sys.modules if name in ("cherimoya_cli.preflight", "cherimoya_cli.modisco")]:
			place.monkeypatch.setattr(sys.modules[module], "find_spec", hide, raising=False)
		place.monkeypatch.setitem(sys.modules, package, None)

	return spoil


def variants(*lines: str, **changes: Any) -> Callable[[Place], Any]:
	"""A table of variants, and other settings."""

	def spoil(place: Place) -> None:
		place.text("v.tsv", "".join(f"{line}\n" for line in ("chrom\tpos\tref\talt", *lines)))
		place.settings(variants="v.tsv", **changes)

	return spoil


def another_model(name: str) -> Callable[[Place], Any]:
	"""A checkpoint of a stranded pair beside the first one."""

	def spoil(place: Place) -> None:
		first = (place.folder / "model.torch").read_bytes()
		place.model(signal_groups=[2])
		(place.folder / "model.torch").rename(place.folder / name)
		(place.folder / "model.torch").write_bytes(first)

	return spoil


def with_model(**options: Any) -> Callable[[Place], Any]:
	"""A checkpoint that does not suit the data."""
	return lambda place: place.model(**options)


def both(*spoils: Callable[[Place], Any]) -> Callable[[Place], Any]:
	"""Several steps one after the other."""
	return lambda place: [spoil(place) for spoil in spoils]


def _negative_signal(place: Place) -> None:
	values = {chrom: -array for chrom, array in place.genome.tracks["signal"].items()}
	place.bigwig("signal.bw", values=values)


def _wrong_base(place: Place) -> None:
	lines = (place.folder / "genome.fa").read_text().splitlines(keepends=True)
	lines[40] = lines[40][:10] + "*" + lines[40][11:]
	place.text("genome.fa", "".join(lines))


def _truncated_fasta(place: Place) -> None:
	from cherimoya.io.genome import Genome

	Genome(place.folder / "genome.fa").codes("chr1", 0, 1)
	place.truncate("genome.fa", 0.4)


CASES = [
	# The JSON.
	Case(
		"misspelt key", "fit", change(max_epoch=3), SETTINGS, ("good.json", "'max_epoch'", "did you mean 'max_epochs'")
	),
	Case(
		"wrong type", "fit", change(n_filters="96"), SETTINGS, ("good.json", "n_filters must be a whole number", '"96"')
	),
	Case("null without meaning", "fit", change(in_window=None), SETTINGS, ("in_window", "null", "leave the key out")),
	Case("out of range", "fit", change(muon_lr=-1), SETTINGS, ("muon_lr must be a number above 0, not -1",)),
	Case("boolean for a number", "fit", change(max_epochs=True), SETTINGS, ("max_epochs", "whole number", "true")),
	Case("required key missing", "predict", change(loci=None), SETTINGS, ("good.json", "loci is null; name a file")),
	Case(
		"invalid JSON",
		"fit",
		lambda p: p.text("good.json", '{\n"name": "x",\n}'),
		SETTINGS,
		("good.json: line 3, column 1", "not valid JSON", "no comma after the last entry"),
	),
	Case(
		"duplicate key",
		"fit",
		lambda p: p.text("good.json", '{"name": "x", "name": "y"}'),
		SETTINGS,
		("good.json", "'name' appears twice", "keep one"),
	),
	Case("JSON that is a list", "fit", lambda p: p.text("good.json", "[]"), SETTINGS, ("must be an object", "[]")),
	Case("missing JSON", "fit", lambda p: None, INPUT, ("absent.json: no such file",), ("-p", "absent.json")),
	Case("no JSON", "evaluate", lambda p: None, SETTINGS, ("no settings given", "-p FILE"), ()),
	Case(
		"malformed --set",
		"fit",
		lambda p: None,
		SETTINGS,
		("--set max_epochs: must be key=value",),
		("-p", "good.json", "--set", "max_epochs"),
	),
	Case(
		"overlapping splits",
		"fit",
		change(validation_chroms=["chr1"]),
		SETTINGS,
		("training_chroms and validation_chroms share 'chr1'", "remove it"),
	),
	Case(
		"overlapping regions",
		"fit",
		change(training_chroms=["chr1:0-9000"], test_chroms=["chr1:8999-20000"]),
		SETTINGS,
		("share 'chr1:0-9000' and 'chr1:8999-20000'",),
	),
	Case(
		"split of another genome",
		"fit",
		change(training_chroms=["chrI"], validation_chroms=["chrII"], test_chroms=None),
		SETTINGS,
		(
			"training_chroms (chrI)",
			"no chromosome of genome.fa",
			"which has chr1, chr2, chr3",
			"a split of this genome would be",
		),
	),
	Case(
		"windows", "fit", change(out_window=256), SETTINGS, ("out_window (256 bp) is longer than in_window (128 bp)",)
	),
	Case(
		"negatives without a file",
		"fit",
		change(negatives=None),
		SETTINGS,
		("negatives is null, but negative_ratio is 0.1", "set negative_ratio to 0"),
	),
	Case(
		"device without GPU",
		"fit",
		change(device="cuda:77"),
		SETTINGS,
		('device is "cuda:77"', "torch finds", 'set device to "auto" or "cpu"'),
	),
	Case(
		"fold file of another form",
		"fit",
		both(
			lambda p: p.text("fold.json", '{"training": ["chr1"]}'),
			lambda p: p.text(
				"good.json",
				json.dumps({k: v for k, v in GOOD.items() if not k.endswith("_chroms")} | {"folds": "fold.json"}),
			),
		),
		SETTINGS,
		("good.json", "fold.json must hold", "'training'"),
	),
	Case(
		"algorithm that is not there",
		"attribute",
		both(with_model(), change(algorithm="shapley")),
		SETTINGS,
		("algorithm", "shapley", "deep_lift_shap", "saturation_mutagenesis"),
	),
	Case(
		"several at once",
		"fit",
		change(max_epoch=3, n_layers=-1, loci="absent.bed"),
		SETTINGS,
		("3 problems:", "'max_epoch'", "n_layers must be", "absent.bed: no such file"),
	),
	# Files that are not there, or cannot be written.
	Case(
		"missing files",
		"fit",
		change(sequences="absent.fa", signals=[["a.+.bw", "a.-.bw"]]),
		INPUT,
		("3 problems:", "absent.fa: no such file", "a.+.bw: no such file", "a.-.bw", "sequences in good.json"),
	),
	Case("missing model", "predict", lambda p: None, INPUT, ("model.torch", "no such file")),
	Case(
		"unwritable folder",
		"fit",
		both(lambda p: p.text("taken", "a file"), change(name="taken/model")),
		INPUT,
		("taken: is not a folder", "choose another folder in name"),
	),
	Case("folder as FASTA", "fit", change(sequences="."), INPUT, (".: is a folder; name a file in it",)),
	# Loci.
	Case("empty BED", "fit", lambda p: p.text("peaks.bed", ""), INPUT, ("peaks.bed: is empty", "loci in good.json")),
	Case("BED without loci", "fit", lambda p: p.text("peaks.bed", "# none\n\n"), INPUT, ("peaks.bed", "no")),
	Case(
		"start not below end",
		"fit",
		lambda p: p.bed("peaks.bed", [("chr1", 500, 700), ("chr1", 900, 900), ("chr2", 9, 3)]),
		INPUT,
		("peaks.bed: 2 interval(s) have start >= end", "line 2, chr1:900-900", "fix or remove"),
	),
	Case(
		"coordinates that are no numbers",
		"fit",
		lambda p: p.bed("peaks.bed", [("chrom", "start", "end"), ("chr1", 500, 700)]),
		INPUT,
		("peaks.bed", "line 1", "whole number"),
	),
	Case(
		"too few columns",
		"fit",
		lambda p: p.bed("peaks.bed", [("chr1", 5)]),
		INPUT,
		("peaks.bed", "line 1", "3 columns"),
	),
	Case("no summits", "fit", change(summits=True), INPUT, ("peaks.bed", "no summit", "set summits to false")),
	Case(
		"beyond the chromosome",
		"fit",
		lambda p: p.bed("peaks.bed", [("chr1", 30_000, 30_200), ("chr1", 23_990, 24_000)]),
		INPUT,
		("peaks.bed", "off the edge", "2"),
	),
	Case(
		"numeric chromosome names",
		"fit",
		lambda p: rename_chromosomes(p, {"chr1": "1", "chr2": "2", "chr3": "3"}),
		INPUT,
		(
			"peaks.bed",
			"chromosome not in FASTA",
			"the FASTA says chr1, chr2, chr3 (genome.fa)",
			"one side writes chr1 and the other 1",
		),
	),
	Case(
		"no locus on the chosen chromosomes",
		"fit",
		lambda p: p.bed("peaks.bed", [("chr1", 3_000, 3_200), ("chr3", 3_000, 3_200)]),
		INPUT,
		(
			"peaks.bed",
			"chromosome not selected",
			"The loci say chr1, chr3 and the selection says chr2",
			"select chromosomes that have loci",
		),
	),
	Case(
		"everything excluded",
		"fit",
		both(
			lambda p: p.bed("exclude.bed", [(f"chr{i}", 0, 24_000) for i in (1, 2, 3)]),
			change(exclusion_lists="exclude.bed"),
		),
		INPUT,
		("peaks.bed", "excluded"),
	),
	Case("too few counts", "fit", change(min_counts=1e6), INPUT, ("peaks.bed", "too few counts")),
	Case("file as cache", "fit", change(cache="genome.fa"), INPUT, ("genome.fa: the cache", "set cache to null")),
	# Tracks.
	Case(
		"bigWig with other chromosomes",
		"fit",
		lambda p: p.bigwig("signal.bw", {"chrI": 500}, {}),
		INPUT,
		("the bigWig says chrI (signal.bw)", "chromosome not in bigWig", "rename the chromosomes"),
	),
	Case(
		"bigWig of another assembly",
		"fit",
		lambda p: p.bigwig("signal.bw", {"chr1": 23_000, "chr2": 16_000, "chr3": 12_000}, {}),
		INPUT,
		("signal.bw: chr1 has 23,000 bp, but 24,000 bp in genome.fa", "assemblies"),
	),
	Case(
		"negative values", "fit", _negative_signal, INPUT, ("signal.bw: negative value", "at chr1:", "absolute_signals")
	),
	Case("truncated bigWig", "fit", lambda p: p.truncate("signal.bw"), INPUT, ("signal.bw", "truncated")),
	Case("text as bigWig", "fit", change(signals="peaks.bed"), INPUT, ("peaks.bed", "not a bigWig")),
	Case(
		"truncated control",
		"fit",
		both(change(controls="control.bw"), lambda p: p.truncate("control.bw")),
		INPUT,
		("control.bw",),
	),
	# The genome.
	Case("truncated FASTA", "fit", _truncated_fasta, INPUT, ("genome.fa", "chr")),
	Case("no FASTA", "fit", lambda p: p.text("genome.fa", "chr1\t5\t6\n"), INPUT, ("genome.fa", "'>'")),
	Case("character that is no base", "fit", _wrong_base, INPUT, ("genome.fa", "chr1", "'*'", "2,3")),
	Case(
		"gzipped FASTA",
		"fit",
		both(
			lambda p: (p.folder / "genome.fa.gz").write_bytes(gzip.compress((p.folder / "genome.fa").read_bytes())),
			change(sequences="genome.fa.gz"),
		),
		INPUT,
		("genome.fa.gz", "bgzip"),
	),
	# The model.
	Case(
		"truncated checkpoint",
		"evaluate",
		both(with_model(), lambda p: p.truncate("model.torch")),
		INPUT,
		("model.torch",),
	),
	Case("text as checkpoint", "predict", lambda p: p.text("model.torch", "weights"), INPUT, ("model.torch",)),
	Case("controls missing", "evaluate", with_model(n_control_tracks=1), INPUT, ("model.torch", "control")),
	Case(
		"controls too many",
		"predict",
		both(with_model(), change(controls="control.bw")),
		INPUT,
		("model.torch", "controls"),
	),
	Case("channels", "evaluate", with_model(signal_groups=[2]), INPUT, ("model.torch", "signals")),
	Case(
		"window too short",
		"predict",
		with_model(trimming=70),
		INPUT,
		("model.torch", "70 bp from each side", "set in_window"),
	),
	Case(
		"group that is not there",
		"attribute",
		both(with_model(), change(group=3)),
		SETTINGS,
		("group must be one of", "got 3"),
	),
	# Variants.
	Case(
		"variants that are not named",
		"variants",
		with_model(),
		SETTINGS,
		("variants is not given", "the path of a VCF or of a table"),
	),
	Case(
		"variants that are not there",
		"variants",
		both(with_model(), change(variants="absent.vcf")),
		INPUT,
		("absent.vcf: no such file",),
	),
	Case(
		"variants in a BED",
		"variants",
		both(with_model(), change(variants="peaks.bed")),
		INPUT,
		("peaks.bed: has the columns chr1", "give a VCF with its header"),
	),
	Case(
		"variants with broken lines",
		"variants",
		both(variants("chr1\tten\tA\tC", "chr1\t600\tA", "chr1\t700\t\tC"), with_model()),
		INPUT,
		(
			"3 problems",
			"v.tsv: 1 line(s) have a position",
			"line 2, 'chr1 ten A C'",
			"fewer columns",
			"no chromosome or",
		),
	),
	Case(
		"variants with other names of chromosomes",
		"variants",
		both(variants("1\t600\tA\tC", "1\t700\tA\tC"), with_model()),
		INPUT,
		(
			"v.tsv: none of its 2 alleles can be scored",
			"chromosome not in FASTA: 2",
			"1:600 A>C",
			"chrom_aliases to true",
		),
	),
	Case(
		"variants of another genome",
		"variants",
		both(variants("chr1\t600\tAAAAAAAAAA\tC", "chr2\t600\tCCCCCCCCCC\tA", "chr1\t5\tA\tC"), with_model()),
		INPUT,
		("reference mismatch: 2", "off the edge: 1", "the assembly of the genome that the variants are of"),
	),
	Case(
		"no variants",
		"variants",
		both(variants(), with_model()),
		INPUT,
		("v.tsv: holds no variants below its header",),
	),
	Case(
		"variants and a model of another window",
		"variants",
		both(variants("chr1\t600\tA\tC"), with_model(trimming=20)),
		INPUT,
		("model.torch: this model cuts 20 bp", "set in_window to 104, or out_window to 88"),
	),
	Case(
		"models of different experiments",
		"variants",
		both(
			variants("chr1\t600\tA\tC", models=["model.torch", "pair.torch"]), with_model(), another_model("pair.torch")
		),
		INPUT,
		("pair.torch predicts groups of [2] channels, and model.torch groups of [1]",),
	),
	Case(
		"two outputs of one name",
		"variants",
		both(variants("chr1\t600\tA\tC", tsv_filename="x.gz", vcf_filename="x.gz"), with_model()),
		SETTINGS,
		("x.gz: two outputs have this name",),
	),
	# Chunks and shards.
	Case("empty chunks", "predict", change(chunk_size=0), SETTINGS, ("chunk_size must be", "at least 1", "not 0")),
	Case("text as chunk size", "attribute", change(chunk_size="9"), SETTINGS, ("chunk_size must be", 'not "9"')),
	Case("shard beyond the last", "predict", change(shard="4/3"), SETTINGS, ("shard must be", "i/n", 'not "4/3"')),
	Case(
		"shard before the first",
		"attribute",
		lambda p: None,
		SETTINGS,
		("shard must be", "with i from 1 to n", 'not "0/3"'),
		("-p", "good.json", "--shard", "0/3"),
	),
	Case("number as shard", "attribute", change(shard=2), SETTINGS, ("shard must be", "not 2")),
	Case("resume in words", "predict", change(resume="yes"), SETTINGS, ("resume must be true, false", 'not "yes"')),
	Case(
		"shards without a seed",
		"attribute",
		both(with_model(), change(shard="1/2", random_state=None, algorithm="deep_lift_shap")),
		SETTINGS,
		("good.json: random_state is null", "shards of a run need one seed", "set it to a number"),
	),
	Case(
		"merge of nothing",
		"attribute",
		with_model(),
		INPUT,
		("model.attributions.parts: no finished chunks to merge", "--shard 1/3"),
		("-p", "good.json", "--merge"),
	),
	Case(
		"file in the place of chunks",
		"predict",
		both(with_model(), lambda p: p.text("model.predictions.parts", "a file")),
		INPUT,
		("model.predictions.parts: a chunk cannot be written", "make room there"),
	),
	# A pipeline.
	Case(
		"pipeline without reads or loci",
		"pipeline",
		change(loci=None),
		SETTINGS,
		("loci is null and signals are bigWigs", "name the peaks in loci"),
	),
	Case(
		"reads and bigWigs together",
		"pipeline",
		both(lambda p: p.bed("reads.bed", [("chr1", 1, 50)]), change(signals=["signal.bw", "reads.bed"])),
		SETTINGS,
		("signals holds reads (reads.bed) and bigWigs (signal.bw)",),
	),
	Case("missing extra", "pipeline", without("matplotlib"), INPUT, ("matplotlib", "pip install 'cherimoya[report]'")),
	Case(
		"missing extra of one step",
		"pipeline",
		without("modiscolite"),
		INPUT,
		(
			"modisco-lite",
			"pip install 'cherimoya[motifs]'",
			'go on without it: skip_steps: ["motifs", "modisco_report"]',
		),
	),
	Case(
		"step that does not exist",
		"pipeline",
		change(skip_steps=["predict", "atribute"]),
		SETTINGS,
		("skip_steps: there is no step 'atribute'; did you mean 'attribute'?",),
	),
	Case(
		"step left out that others need",
		"pipeline",
		change(skip_steps=["attribute"]),
		SETTINGS,
		("leaves out 'attribute', but seqlets", "model.attributions.ohe.npz", 'skip_steps: ["attribute", "seqlets"'),
	),
	Case(
		"motif database that is not there",
		"pipeline",
		change(motifs="absent.meme"),
		INPUT,
		("absent.meme: no such file",),
	),
	Case(
		"motif database that is none",
		"pipeline",
		change(motifs="peaks.bed"),
		INPUT,
		("peaks.bed: holds no motif", "MEME"),
	),
	Case(
		"pipeline with variants that are none",
		"pipeline",
		change(variants_parameters={"variants": "peaks.bed"}),
		INPUT,
		("peaks.bed: has the columns chr1",),
	),
	Case(
		"models of variants that are none",
		"pipeline",
		both(variants("chr1\t600\tA\tC"), change(variants="v.tsv", variants_parameters={"models": "peaks.bed"})),
		INPUT,
		("peaks.bed",),
	),
	Case(
		"pipeline with a truncated bigWig",
		"pipeline",
		lambda p: p.truncate("signal.bw"),
		INPUT,
		("signal.bw", "truncated"),
	),
	# Before a run.
	Case("check of a misspelt key", "check", change(loki="x"), SETTINGS, ("'loki'", "did you mean 'loci'")),
	Case("check of a truncated bigWig", "check", lambda p: p.truncate("signal.bw"), INPUT, ("signal.bw", "truncated")),
	Case(
		"check of numeric names",
		"check",
		lambda p: rename_chromosomes(p, {"chr1": "1", "chr2": "2", "chr3": "3"}),
		INPUT,
		("peaks.bed", "chr1"),
	),
	Case(
		"check without a model",
		"check",
		lambda p: None,
		INPUT,
		("model.torch: no such file",),
		("-p", "good.json", "--command", "predict"),
	),
	# Flags.
	Case(
		"negatives of a missing file",
		"negatives",
		lambda p: None,
		INPUT,
		("absent.bed: no such file",),
		("-i", "absent.bed", "-f", "genome.fa", "-o", "n.bed"),
	),
	Case(
		"negatives with an impossible fraction",
		"negatives",
		lambda p: None,
		SETTINGS,
		("max_n_perc must be", "not 7"),
		("-i", "peaks.bed", "-f", "genome.fa", "-o", "n.bed", "-n", "7"),
	),
]

MAY_APPEAR = {"genome.fa.fai", "model.pipeline.lock"}
"""An index of the FASTA is no result, and a lock is empty."""


def contents(folder: Path) -> dict[str, bytes]:
	"""Every file of a folder, but those that may appear."""
	files = (path for path in folder.rglob("*") if path.name not in MAY_APPEAR)
	return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in files}


def test_the_set_up_itself_is_good(place, capsys):
	assert main(["check", "-p", "good.json"]) == 0
	assert "No problems found." in capsys.readouterr().out
	assert main(["fit", "-p", "good.json"]) == 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_inputs(case, place, capsys):
	case.spoil(place)
	before = contents(place.folder)
	code = main([case.command, *case.flags])
	captured = capsys.readouterr()
	lines = [line for line in captured.err.splitlines() if not line.startswith("note: ")]
	message = "\n".join(lines)
	assert code == case.code, captured
	assert message.startswith(f"cherimoya {case.command}: error: ") and message.count(" error: ") == 1, captured
	for fragment in case.fragments:
		assert fragment in message
	assert "Traceback" not in captured.err + captured.out
	assert contents(place.folder) == before


def test_more_negatives_than_exist(place, capsys):
	"""No error: what there is gets written, and the filter that removed most is named."""
	place.settings(n=10_000, output_filename="n.bed")
	assert main(["negatives", "-p", "good.json"]) == 0
	captured = capsys.readouterr()
	found = len((place.folder / "n.bed").read_text().splitlines())
	assert 0 < found < 10_000
	assert f"only {found:,} of the 10,000" in captured.err and "the filter" in captured.err
