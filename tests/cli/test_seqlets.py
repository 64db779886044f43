"""The command seqlets, and the step annotation: their files, and what they say of files that do not fit."""

import gzip
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from cherimoya.interpret.seqlets import find_seqlets, read_seqlets
from cherimoya_cli import annotation
from cherimoya_cli.__main__ import main
from cherimoya_cli.commands import seqlets as command
from cherimoya_cli.steps import main_of_step

pytest.importorskip("tangermeme.seqlet")

N, WIDTH, STEP = 40, 80, 200
FILES = ["run/x.motif_seqlet_count.tsv", "run/x.seqlets.bed", "run/x.seqlets_annotated.bed"]
WORDS = {"GCN4": "TGACTCA", "CBF1": "GTCACGTG", "ABF1": "CGTATATAGTGA", "REB1": "TTACCCG", "RAP1": "TGTATGGGTG"}


class World(NamedTuple):
	"""A genome whose windows hold a word each, and what ``attribute`` would have left of a model that sees words."""

	sequences: dict[str, str]
	sites: list[tuple[str, int, str, str, float]]  # chromosome, start, strand, word, contribution of each base
	windows: list[tuple[str, int, int]]
	hot: np.ndarray
	scores: np.ndarray


def turned(text: str) -> str:
	return text[::-1].translate(str.maketrans("ACGT", "TGCA"))


@pytest.fixture(scope="module")
def world() -> World:
	rng = np.random.default_rng(4)
	sequences, sites, windows, hots, scores = {}, [], [], [], []
	for chrom in ("chr2", "chr10"):
		bases = rng.choice(list("ACGT"), size=N // 2 * STEP + 100)
		for i in range(N // 2):
			name = list(WORDS)[i % len(WORDS)]
			strand, value = "+-"[i // 2 % 2], -0.3 if name == "RAP1" else 0.3
			start = i * STEP + 20 + i
			bases[start : start + len(WORDS[name])] = list(WORDS[name] if strand == "+" else turned(WORDS[name]))
			sites.append((chrom, start, strand, name, value))
			windows.append((chrom, i * STEP, i * STEP + WIDTH))
		bases[5] = "N"
		sequences[chrom] = "".join(bases)
	for chrom, start, end in windows:
		letters = np.array(list(sequences[chrom][start:end]))
		hot = (letters == np.array(list("ACGT"))[:, None]).astype(np.int8)
		value = rng.laplace(0, 0.01, hot.shape).astype(np.float32)
		for place, first, _, name, height in sites:
			if place == chrom and start <= first < end:
				value[:, first - start : first - start + len(WORDS[name])] += (
					height * (2 * hot - 1)[:, first - start : first - start + len(WORDS[name])]
				)
		hots.append(hot)
		scores.append(value)
	return World(sequences, sites, windows, np.stack(hots), np.stack(scores))


@pytest.fixture
def folder(world, tmp_path, make_fasta, make_bed, monkeypatch) -> Path:
	"""A working folder with the files of `world` and a motif database."""
	monkeypatch.chdir(tmp_path)
	Path("run").mkdir()
	make_fasta(tmp_path / "genome.fa", world.sequences)
	store(world)
	write_motifs(Path("motifs.meme"))
	return tmp_path


def store(world: World, make: Callable = np.savez_compressed) -> None:
	"""Leave files as ``attribute`` does."""
	make("run/x.attributions.ohe.npz", world.hot)
	make("run/x.attributions.attr.npz", world.scores)
	np.save("run/x.attributions.idxs.npy", np.ones(N, dtype=bool))
	rows = ("\t".join(map(str, row)) + "\n" for row in world.windows)
	Path("run/x.attributions.bed").write_text("".join(rows))


def write_motifs(path: Path) -> None:
	"""The words as motifs, and others up to 30, so that Tomtom does not complain; gzipped if named so."""
	rng = np.random.default_rng(0)
	words = {**WORDS, **{f"X{i}": "".join(rng.choice(list("ACGT"), 9)) for i in range(25)}}
	lines = ["MEME version 4", "", "ALPHABET= ACGT", ""]
	for name, word in words.items():
		lines += [f"MOTIF {name} the_{name}", f"letter-probability matrix: alength= 4 w= {len(word)} nsites= 20 E= 0"]
		lines += [" ".join("0.97" if base == letter else "0.01" for letter in "ACGT") for base in word] + [""]
	data = "\n".join(lines).encode()
	path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def alike(queries: list[np.ndarray], targets: list[np.ndarray], *, n_nearest: int, **_: Any) -> tuple:
	"""In the place of Tomtom, which takes long to compile: log odds at any offset, as if p-values."""
	found = np.zeros((6, len(queries), n_nearest))
	for i, query in enumerate(queries):
		scores = np.zeros((2, len(targets)))
		for strand, turn in enumerate((1, -1)):
			for j, target in enumerate(targets):
				n = target.shape[1]
				wide = np.pad(query, ((0, 0), (n, n)))
				scores[strand, j] = max(
					(wide[:, k : k + n] * np.log2(4 * target[::turn, ::turn])).sum()
					for k in range(wide.shape[1] - n + 1)
				)
		nearest = np.argsort(-scores.max(axis=0), kind="stable")[:n_nearest]
		found[0, i], found[5, i] = np.exp(-scores.max(axis=0)[nearest]), nearest
		found[4, i] = scores.argmax(axis=0)[nearest]
	return tuple(found)


@pytest.fixture
def quick_tomtom(monkeypatch):
	monkeypatch.setattr(pytest.importorskip("memelite.tomtom"), "tomtom", alike)


def run(*flags: str, **settings: Any) -> int:
	"""Run the command in the folder; the exit code."""
	Path("s.json").write_text(json.dumps({"name": "run/x", "verbose": False, "threshold": 1e-4, **settings}))
	return main(["seqlets", "-p", "s.json", *flags])


def annotate(**settings: Any) -> int:
	"""Run the step in the folder; the exit code."""
	values = {"name": "run/x", "verbose": False, "sequences": "genome.fa", "motifs": "motifs.meme", **settings}
	Path("a.json").write_text(json.dumps(values))
	return main_of_step("annotation", annotation.annotate, ["-p", "a.json"])


def results() -> list[str]:
	"""What is in the folder of results beside what ``attribute`` has left."""
	return sorted(str(path) for path in Path("run").iterdir() if ".attributions." not in path.name)


def rows(path: str) -> list[list[str]]:
	return [line.split("\t") for line in Path(path).read_text().splitlines()]


def test_seqlets(world, folder, capsys):
	"""Each word is a seqlet, in order of the genome, with the sign of its contributions; the table is the library's."""
	assert run() == 0
	assert (
		results()
		== ["run/x.seqlets.bed"]
		== command.outputs({"name": "run/x", "output_filename": None, "motifs": None})
	)
	head, *found = rows("run/x.seqlets.bed")
	assert head == ["#chrom", "start", "end", "attribution", "p-value"]
	expected = sorted((chrom, start, start + len(WORDS[name]), value) for chrom, start, _, name, value in world.sites)
	assert len(found) == len(expected)
	for (chrom, start, end, total, p_value), (place, first, last, value) in zip(found, expected, strict=True):
		assert chrom == place and first - 6 <= int(start) < first and last < int(end) <= last + 6
		assert float(total) == pytest.approx(value * (last - first), abs=0.3) and float(p_value) < 1e-4
	table = find_seqlets(world.scores, "run/x.attributions.bed", world.hot, threshold=1e-4)
	assert found == [
		[table.chroms[i], str(table.starts[i]), str(table.ends[i]), f"{table.attributions[i]:.6g}", row[4]]
		for i, row in enumerate(found)
	]
	n_negative = sum(value < 0 for *_, value in world.sites)
	out = capsys.readouterr().out
	assert f"{N} seqlets in {N} windows of 80 bp: {N - n_negative} positive and {n_negative} negative" in out


@pytest.mark.parametrize("block", [1, 7])
@pytest.mark.parametrize("make", [np.savez, np.savez_compressed])
def test_seqlets_in_blocks(world, folder, monkeypatch, make, block):
	"""The same bytes, however many windows are read at a time, and again."""
	assert run() == 0
	before = Path("run/x.seqlets.bed").read_bytes()
	monkeypatch.setattr(command, "_BLOCK", block)
	store(world, make)
	assert run() == 0
	assert Path("run/x.seqlets.bed").read_bytes() == before


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_other_types_of_numbers(world, folder, dtype):
	np.savez("run/x.attributions.attr.npz", world.scores.astype(dtype))
	np.savez("run/x.attributions.ohe.npz", world.hot.astype("float32" if dtype == "float16" else "bool"))
	assert run() == 0
	assert len(rows("run/x.seqlets.bed")) == N + 1


def test_other_names(world, folder):
	"""Files may have other names; the mask is not needed."""
	for kind, ending in (("ohe", "npz"), ("attr", "npz"), ("bed", "")):
		name = f"run/x.attributions.{kind}.{ending}".rstrip(".")
		Path(name).rename(f"my.{kind}")
	Path("run/x.attributions.idxs.npy").unlink()
	assert run(ohe_filename="my.ohe", attr_filename="my.attr", bed_filename="my.bed", output_filename="mine.bed") == 0
	assert results() == [] and len(read_seqlets("mine.bed")) == N


def check_annotation(world: World) -> None:
	"""The files tell the words, their strands and their signs."""
	head, *found = rows("run/x.seqlets_annotated.bed")
	assert head[5:8] == ["strand", "motif", "motif_p-value"]
	expected = {(chrom, first): (strand, f"{name} the_{name}") for chrom, first, strand, name, _ in world.sites}
	told = 0
	for chrom, start, end, _, _, strand, motif, p_value, *_ in found:
		site = next(place for place in expected if place[0] == chrom and int(start) <= place[1] < int(end))
		told += expected[site] == (strand, motif) or (expected[site][1] == motif == "CBF1 the_CBF1")  # has no strand
		assert float(p_value) < 0.05
	assert told == N
	head, *counts = rows("run/x.motif_seqlet_count.tsv")
	assert head == ["motif", "seqlets", "positive", "negative"]
	assert sum(int(row[1]) for row in counts) == N
	assert all(int(row[1]) == int(row[2]) + int(row[3]) for row in counts)
	assert [int(row[1]) for row in counts] == sorted((int(row[1]) for row in counts), reverse=True)
	assert ["RAP1 the_RAP1", "8", "0", "8"] in counts and ["GCN4 the_GCN4", "8", "8", "0"] in counts


def check_step_alone(world: World, motifs: str) -> None:
	"""The command with motifs, and the step that takes bases out of the FASTA, write the same bytes, and again."""
	assert run(motifs=motifs, n_nearest=2) == 0
	assert results() == FILES
	assert sorted(command.outputs({"name": "run/x", "output_filename": None, "motifs": motifs})) == FILES
	check_annotation(world)
	before = {path: Path(path).read_bytes() for path in FILES}
	for path in (FILES[0], FILES[2]):
		Path(path).unlink()
	assert annotate(motifs=motifs, n_nearest=2) == 0
	assert {path: Path(path).read_bytes() for path in results()} == before
	assert annotate(motifs=motifs, n_nearest=2, output_filename="named.bed") == 0
	assert Path("named.bed").read_bytes() == before[FILES[2]]


@pytest.mark.parametrize("motifs", ["motifs.meme", "zipped.meme.gz"])
def test_annotation(world, folder, quick_tomtom, motifs):
	"""Seqlets get the names of their words, by the command and by the step alone, from a plain or gzipped file."""
	write_motifs(Path(motifs))
	check_step_alone(world, motifs)


@pytest.mark.slow
def test_annotation_by_tomtom(world, folder):
	"""The same with Tomtom itself."""
	check_step_alone(world, "motifs.meme")


def test_match_threshold(folder, quick_tomtom, capsys):
	"""Matches of higher E-values, which are p-values times the number of motifs, are not counted, but listed."""
	assert run(motifs="motifs.meme", match_threshold=30e-9) == 0
	head, *found = rows("run/x.seqlets_annotated.bed")
	assert len(found) == N and head[7:] == ["motif_p-value", "motif_E-value"]
	assert [float(row[8]) for row in found] == pytest.approx([30 * float(row[7]) for row in found], rel=1e-5)
	within = sum(float(row[8]) <= 30e-9 for row in found)
	_, *counts = rows("run/x.motif_seqlet_count.tsv")
	assert counts == [["ABF1 the_ABF1", "8", "8", "0"]] and within == 8 < sum(float(row[7]) < 30e-9 for row in found)
	assert f"8 of {N} seqlets are like a motif (E-value of at most 3e-08)" in capsys.readouterr().out


def test_few_motifs(folder, quick_tomtom, capsys):
	"""A small database is used, with a word on what its p-values mean, and on motifs that there are not."""
	text = Path("motifs.meme").read_text()
	Path("few.meme").write_text(text[: text.index("MOTIF ABF1")])
	assert run(motifs="few.meme", n_nearest=5) == 0
	err = capsys.readouterr().err
	assert "few.meme: has 2 motifs; p-values of matches depend on the database" in err
	assert "n_nearest is 5, but there are 2 motifs" in err
	assert len(rows("run/x.seqlets_annotated.bed")[0]) == 5 + 2 * 4


def test_nothing_found(world, folder, quick_tomtom, capsys):
	"""No seqlet is a result: files with their first line alone, and a note."""
	np.savez("run/x.attributions.attr.npz", np.zeros_like(world.scores))
	assert run(motifs="motifs.meme") == 0
	assert "no seqlet was found (all contributions are equal)" in capsys.readouterr().err
	assert results() == FILES and [len(rows(path)) for path in FILES] == [1, 1, 1]
	before = {path: Path(path).read_bytes() for path in FILES}
	assert annotate() == 0
	assert "run/x.seqlets.bed holds no seqlets" in capsys.readouterr().err
	assert {path: Path(path).read_bytes() for path in FILES} == before


def test_after_attribute(shared, tmp_path, monkeypatch):
	"""On real sequences: a seqlet's attribution is the sum of the bigWig that ``attribute`` writes, at its place."""
	import torch

	from cherimoya import Cherimoya

	pyBigWig = pytest.importorskip("pyBigWig")
	monkeypatch.chdir(tmp_path)
	data = shared / "data" / "yeast_atac_tiny"
	model = Cherimoya(n_filters=4, n_layers=2, trimming=30, signal_groups=[1], random_state=0)
	with torch.no_grad():
		model.linear.weight.copy_(torch.randn(model.linear.weight.shape, generator=torch.Generator().manual_seed(0)))
	model.save("m.torch")
	peaks = gzip.decompress((data / "tiny.peaks.narrowPeak.gz").read_bytes()).decode().splitlines()
	apart = [line for before, line in itertools.pairwise(peaks) if before.split("\t")[1] != line.split("\t")[1]]
	Path("loci.bed").write_text("\n".join(apart[:25]) + "\n")
	settings = {
		"name": "out",
		"sequences": str(data / "tiny.fa.gz"),
		"loci": "loci.bed",
		"model": "m.torch",
		"in_window": 160,
		"out_window": 100,
		"attr_window": 61,
		"device": "cpu",
		"verbose": False,
		"threshold": 0.05,
	}
	Path("s.json").write_text(json.dumps(settings))
	assert main(["attribute", "-p", "s.json"]) == 0
	assert main(["seqlets", "-p", "s.json"]) == 0
	found = read_seqlets("out.seqlets.bed")
	with pyBigWig.open("out.attributions.bw") as bigwig:
		places = zip(found.chroms, found.starts.tolist(), found.ends.tolist(), strict=True)
		sums = [np.nansum(bigwig.values(*place)) for place in places]
	assert found.attributions == pytest.approx(sums, rel=1e-4, abs=1e-6)
	assert len(found) > 5


# ---- what does not fit ------------------------------------------------------------------------------


def save(kind: str, array: Any, **names: Any) -> None:
	np.savez(f"run/x.attributions.{kind}.npz", **{"arr_0": array, **names})


def with_nan(world: World) -> None:
	scores = world.scores.copy()
	scores[17, 2, 3] = np.inf
	save("attr", scores)


def cut(path: str) -> None:
	data = Path(path).read_bytes()
	Path(path).write_bytes(data[: len(data) // 2])


def spoil(path: str) -> None:
	"""Change bytes in the middle, where a checksum tells."""
	data = bytearray(Path(path).read_bytes())
	data[len(data) // 2 : len(data) // 2 + 50] = bytes(50)
	Path(path).write_bytes(data)


OHE, ATTR, BED, MASK = (f"run/x.attributions.{end}" for end in ("ohe.npz", "attr.npz", "bed", "idxs.npy"))
UNFIT: dict[str, tuple[Callable[[World], Any], list[str]]] = {
	"no sequences": (lambda w: Path(OHE).unlink(), [OHE, "no such file", "cherimoya attribute"]),
	"no contributions": (lambda w: Path(ATTR).unlink(), [ATTR, "no such file"]),
	"no windows": (lambda w: Path(BED).unlink(), [BED, "no such file"]),
	"fewer sequences": (lambda w: save("ohe", w.hot[1:]), [OHE, "39 loci", "40", "one run"]),
	"fewer contributions": (lambda w: save("attr", w.scores[1:]), [OHE, "40 loci", BED, "39"]),
	"narrower": (lambda w: save("ohe", w.hot[..., 1:]), [OHE, "79 bp wide", "80 bp"]),
	"another mask": (lambda w: np.save(MASK, np.arange(50) < 41), [MASK, "41 loci", "40"]),
	"no mask": (lambda w: Path(MASK).write_text("x"), [MASK, "no mask over loci"]),
	"other windows": (
		lambda w: Path(BED).write_text("chr2\t0\t80\n" * 39 + "chr2\t1\t80\n"),
		[BED, "chr2:1-80", "80 bp"],
	),
	"fewer windows": (lambda w: Path(BED).write_text("chr2\t0\t80\n"), [BED, "1 loci", "40"]),
	"negative start": (lambda w: Path(BED).write_text("chr2\t-9\t71\n" * 40), [BED, "line 1", "negative start"]),
	"projected": (lambda w: save("attr", w.scores.sum(axis=1)), [ATTR, "(40, 80)", "(loci, 4, bp"]),
	"turned": (lambda w: save("attr", np.ascontiguousarray(w.scores.swapaxes(1, 2))), [ATTR, "(40, 80, 4)"]),
	"columns": (lambda w: save("attr", np.asfortranarray(w.scores)), [ATTR, "column by column", "C order"]),
	"objects": (lambda w: save("attr", w.scores.astype(object)), [ATTR, "numbers"]),
	"another key": (lambda w: np.savez(ATTR, scores=w.scores), [ATTR, "holds scores, but no arr_0"]),
	"no array": (lambda w: Path(ATTR).write_text("nothing"), [ATTR, "no .npz"]),
	"plain array": (lambda w: Path(MASK).replace(ATTR), [ATTR, "no .npz"]),
	"cut off": (lambda w: cut(ATTR), [ATTR, "no .npz, or broken"]),
	"spoilt": (lambda w: spoil(ATTR), [ATTR, "broken", "attribute the loci again"]),
	"not one-hot": (lambda w: save("ohe", w.hot + 1), [OHE, "locus 1 is not one-hot"]),
	"exchanged": (lambda w: (save("ohe", w.scores), save("attr", w.hot)), [OHE, "not one-hot", "attr_filename"]),
	"infinite": (with_nan, [ATTR, "locus 18", "no finite numbers"]),
}


@pytest.mark.parametrize(("spoil", "words"), UNFIT.values(), ids=UNFIT)
def test_unfit_files(world, folder, capsys, spoil, words):
	"""One error that names the file, and nothing is written; what an earlier run has written stays."""
	Path("run/x.seqlets.bed").write_text("earlier\n")
	spoil(world)
	assert run(motifs="motifs.meme") == 3
	err = capsys.readouterr().err
	assert err.startswith("cherimoya seqlets: error: ") and "Traceback" not in err
	assert all(word in err for word in words), err
	assert results() == ["run/x.seqlets.bed"] and Path("run/x.seqlets.bed").read_text() == "earlier\n"


@pytest.mark.parametrize(
	("settings", "code", "words"),
	[
		({"min_seqlet_len": 30}, 2, ["s.json", "min_seqlet_len is 30 and max_seqlet_len 25"]),
		({"threshold": 1}, 2, ["threshold"]),
		({"motifs": "none.meme"}, 3, ["none.meme", "no such file"]),
		({"motifs": "genome.fa"}, 3, ["genome.fa", "holds no motif"]),
		(
			{"motifs": "motifs.meme", "output_filename": "run/x.seqlets_annotated.bed"},
			2,
			["two outputs have this name"],
		),
		({"output_filename": "genome.fa/x.bed"}, 3, ["genome.fa", "choose another folder"]),
	],
	ids=["lengths", "threshold", "no motifs", "no MEME", "one name twice", "no folder"],
)
def test_unfit_settings(folder, capsys, settings, code, words):
	assert run(**settings) == code
	err = capsys.readouterr().err
	assert all(word in err for word in words), err
	assert results() == []


@pytest.mark.parametrize(
	("text", "settings", "code", "words"),
	[
		(None, {}, 3, ["run/x.seqlets.bed", "no such file"]),
		("chr2\t1\t9\n", {}, 3, ["run/x.seqlets.bed: line 1: 3 columns", "cherimoya seqlets"]),
		("chr2\t1\t9000\t1\t0.1\n", {}, 3, ["run/x.seqlets.bed", "not in genome.fa", "chr2:1-9000"]),
		("chrQ\t1\t9\t1\t0.1\n", {}, 3, ["run/x.seqlets.bed", "genome.fa has no chrQ"]),
		("2\t1\t9\t1\t0.1\n", {"chrom_aliases": True}, 0, []),
		("chr2\t1\t9\t1\t0.1\n", {"output_filename": "run/x.seqlets.bed"}, 2, ["file of the seqlets themselves"]),
		("chr2\t1\t9\t1\t0.1\n", {"motifs": "genome.fa"}, 3, ["genome.fa", "holds no motif"]),
		("chr2\t1\t9\t1\t0.1\n", {"motifs": None}, 2, ["motifs"]),
	],
	ids=[
		"missing",
		"three columns",
		"beyond the end",
		"no chromosome",
		"other names",
		"overwritten",
		"no MEME",
		"none",
	],
)
def test_unfit_seqlets(folder, quick_tomtom, capsys, text, settings, code, words):
	"""What the step says of seqlets that it cannot name."""
	if text is not None:
		Path("run/x.seqlets.bed").write_text(text)
	assert annotate(**settings) == code
	err = capsys.readouterr().err
	assert all(word in err for word in words), err
	if code:
		assert results() == ["run/x.seqlets.bed"] * (text is not None)
	if text is not None:
		assert Path("run/x.seqlets.bed").read_text() == text


@pytest.mark.parametrize(
	("package", "motifs"), [("tangermeme.seqlet", None), ("memelite.io", "motifs.meme")], ids=["tangermeme", "memelite"]
)
def test_missing_packages(folder, monkeypatch, capsys, package, motifs):
	"""A package that is not installed is named with the command that adds it, before any work."""
	monkeypatch.setitem(sys.modules, package, None)
	assert run(motifs=motifs) == 3
	assert "pip install 'cherimoya[motifs]'" in capsys.readouterr().err
	assert results() == []
