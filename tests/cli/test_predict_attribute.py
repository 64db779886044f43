"""The commands predict and attribute, with models whose every output is known.

The model that is used here sees one motif of 12 bases, on either strand, and nothing else: its first filter is on
exactly at a forward motif, its second at a reverse one, its block adds nothing, and its heads read the filters.
"""

import json
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from cherimoya import Cherimoya
from cherimoya_cli.__main__ import main
from cherimoya_cli.commands.predict import prediction_paths

pyBigWig = pytest.importorskip("pyBigWig")

MOTIF = "GATTACACTGCC"
TRIMMING = 30
SPACING = 400
JITTERS = (0, 1, -1, 7, -8, 20, -23, 13)
LENGTHS = (100, 101, 1, 2, 37, 64)
FOLDER_NAME = "a folder"


class World(NamedTuple):
	"""A genome with motifs at known places, and loci near them."""

	fasta: Path
	sequences: dict[str, str]
	sizes: dict[str, int]
	sites: list[tuple[str, int, str]]  # chromosome, start of the motif, strand
	loci: list[tuple[str, int, int]]


def reverse_complement(sequence: str) -> str:
	return sequence[::-1].translate(str.maketrans("ACGT", "TGCA"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, make_fasta: Callable[..., Path]) -> World:
	folder = tmp_path_factory.mktemp("world")
	rng = np.random.default_rng(11)
	sizes = {"chr2": 2_801, "chr10": 1_650}
	sequences, sites, loci = {}, [], []
	for chrom, size in sizes.items():
		bases = rng.choice(list("ACGT"), size=size)
		for middle in range(SPACING // 2, size - 150, SPACING):
			strand = "+-"[len(sites) % 2]
			start = middle - 6
			bases[start : start + 12] = list(MOTIF if strand == "+" else reverse_complement(MOTIF))
			jitter, length = JITTERS[len(sites) % len(JITTERS)], LENGTHS[len(sites) % len(LENGTHS)]
			first = middle + jitter - length // 2
			loci.append((chrom, first, first + length))
			sites.append((chrom, start, strand))
		bases[SPACING - 2 : SPACING + 2] = "N"
		sequences[chrom] = "".join(bases)
	return World(make_fasta(folder / "genome.fa", sequences), sequences, sizes, sites, loci)


def motif_model(groups: Sequence[int] = (1,), n_control_tracks: int = 0) -> Cherimoya:
	"""Log counts: 2 per motif, and the log of the controls; logits: 10, in each channel, 6 bases into the motif."""
	model = Cherimoya(
		n_filters=2, n_layers=1, trimming=TRIMMING, signal_groups=list(groups), n_control_tracks=n_control_tracks
	)
	with torch.no_grad():
		for parameter in (model.iconv.weight, model.fconv.weight, model.fconv.bias, model.linear.weight):
			parameter.zero_()
		model.blocks[0].linear2.weight.zero_()
		for channel, motif in enumerate((MOTIF, reverse_complement(MOTIF))):
			for i, base in enumerate(motif):
				model.iconv.weight[channel, "ACGT".index(base), 10 - 6 + i] = 20
		model.iconv.bias.fill_(-20 * 11.5)  # 10 at a motif; -10 or less, so nothing after GELU, elsewhere
		model.linear.bias.fill_(0.5)
		model.linear.weight[:, :2] = 0.2
		model.linear.weight[:, 2:] = 1
		model.fconv.weight[:, :2] = 1
	return model


@pytest.fixture
def run(
	tmp_path: Path, world: World, make_bed: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str, Path]]:
	"""`run(command, model, in_window, **settings)` gives exit code, output, errors and the name of the results.

	The model's head reads a mean over the output window, so its weights are scaled to sum.
	"""

	def call(
		command: str, model: Cherimoya | Path | None = None, in_window: int = 200, **settings: Any
	) -> tuple[int, str, str, Path]:
		folder = tmp_path / FOLDER_NAME
		checkpoint = tmp_path / "motif.torch"
		if isinstance(model, Path):
			checkpoint = model
		else:
			model = model or motif_model()
			out_window = in_window - 2 * TRIMMING
			with torch.no_grad():
				model.linear.weight[:, :2] *= out_window
			model.save(checkpoint)
		name = folder / "out"
		loci = make_bed(tmp_path / "loci.bed", settings.pop("rows", world.loci))
		parameters = {
			"name": name,
			"sequences": world.fasta,
			"loci": loci,
			"model": checkpoint,
			"in_window": in_window,
			"out_window": in_window - 2 * TRIMMING,
			"device": "cpu",
			"batch_size": 50,
			**({"attr_window": 80} if command == "attribute" else {}),
			**settings,
		}
		path = tmp_path / "parameters.json"
		path.write_text(json.dumps(parameters, default=str))
		code = main([command, "-p", str(path)])
		out, err = capsys.readouterr()
		return code, out, err, name

	return call


def read_bigwig(path: Path | str) -> dict[str, np.ndarray]:
	"""Values of each chromosome; NaN where there are none."""
	with pyBigWig.open(str(path)) as file:
		return {chrom: file.values(chrom, 0, size, numpy=True) for chrom, size in file.chroms().items()}


def read_bed(path: Path | str) -> list[tuple[str, int, int]]:
	rows = [line.split("\t") for line in Path(path).read_text().splitlines()]
	return [(chrom, int(start), int(end)) for chrom, start, end in rows]


def midpoint(locus: tuple[str, int, int]) -> int:
	return locus[1] + (locus[2] - locus[1]) // 2


def leftovers(name: Path) -> list[str]:
	return sorted(path.name for path in name.parent.glob("*")) if name.parent.exists() else []


# Attribution: the motif is where it was planted, in every output.


@pytest.mark.parametrize("output", ["counts", "profile"])
@pytest.mark.parametrize(
	("in_window", "attr_window"),
	[(200, 80), (201, 81), (200, 81), (201, 80), (201, None), (200, 120)],
	ids=lambda value: str(value),
)
def test_planted_motif_is_found_where_it_is(
	run: Callable, world: World, output: str, in_window: int, attr_window: int | None
) -> None:
	code, _, err, name = run("attribute", in_window=in_window, attr_window=attr_window, output=output)
	assert code == 0, err
	width = attr_window or in_window
	ohe = np.load(f"{name}.attributions.ohe.npz")["arr_0"]
	attr = np.load(f"{name}.attributions.attr.npz")["arr_0"]
	bed = read_bed(f"{name}.attributions.bed")
	track = read_bigwig(f"{name}.attributions.bw")
	assert ohe.shape == attr.shape == (len(world.loci), 4, width) and ohe.dtype == np.int8
	assert np.load(f"{name}.attributions.idxs.npy").tolist() == [True] * len(world.loci)
	assert bed == [(locus[0], midpoint(locus) - width // 2, midpoint(locus) + (width + 1) // 2) for locus in world.loci]

	for i, ((chrom, start, end), (site_chrom, site, _)) in enumerate(zip(bed, world.sites, strict=True)):
		assert chrom == site_chrom
		expected = ["ACGT".find(base) for base in world.sequences[chrom][start:end]]
		found = np.where(ohe[i].any(axis=0), ohe[i].argmax(axis=0), -1)
		assert found.tolist() == expected
		contributions = (ohe[i] * attr[i]).sum(axis=0)
		top = start + np.flatnonzero(contributions > contributions.max() / 2)
		assert top.tolist() == list(range(site, site + 12))
		others = np.ones(width, dtype=bool)
		others[top - start] = False
		assert np.abs(contributions[others]).max() < 1e-4 * contributions.max()
		# Three of four bases of a motif's position switch it off, so each holds 3/4 of what the motif gives.
		if output == "counts":
			np.testing.assert_allclose(contributions[top - start], 0.75 * 2, rtol=1e-4)

	places = [(chrom, int(i)) for chrom in world.sizes for i in np.flatnonzero(np.nan_to_num(track[chrom]) > 0.1)]
	assert places == sorted(
		((chrom, site + i) for chrom, site, _ in world.sites for i in range(12)),
		key=lambda place: (list(world.sizes).index(place[0]), place[1]),
	)
	covered = {chrom: np.zeros(size, dtype=bool) for chrom, size in world.sizes.items()}
	for chrom, start, end in bed:
		covered[chrom][start:end] = True
	assert all(np.array_equal(~np.isnan(track[chrom]), covered[chrom]) for chrom in world.sizes)


def test_summits_are_the_centres(run: Callable, world: World) -> None:
	rows = [
		(chrom, site - 90, site + 60, "peak", 1, ".", 1.0, 1.0, 1.0, 90 + i)
		for i, (chrom, site, _) in enumerate(world.sites)
	]
	code, _, err, name = run("attribute", in_window=181, attr_window=61, summits=True, rows=rows)
	assert code == 0, err
	bed = read_bed(f"{name}.attributions.bed")
	assert bed == [(chrom, site + i - 30, site + i + 31) for i, (chrom, site, _) in enumerate(world.sites)]
	attr, ohe = (np.load(f"{name}.attributions.{kind}.npz")["arr_0"] for kind in ("attr", "ohe"))
	for i, (_, site, _) in enumerate(world.sites):
		top = np.flatnonzero((attr[i] * ohe[i]).sum(axis=0) > 1)
		assert (bed[i][1] + top).tolist() == list(range(site, site + 12))


def test_overlapping_loci_are_averaged(run: Callable, world: World) -> None:
	chrom, site, _ = world.sites[1]
	# The second locus has the motif at the edge of what it predicts, where only a part of it counts.
	rows = [(chrom, site, site + 12), (chrom, site + 25, site + 27)]
	code, _, err, name = run("attribute", rows=rows, attr_window=100)
	assert code == 0, err
	attr, ohe = (np.load(f"{name}.attributions.{kind}.npz")["arr_0"] for kind in ("attr", "ohe"))
	total, depth = np.zeros(world.sizes[chrom]), np.zeros(world.sizes[chrom])
	for i, (_, start, end) in enumerate(read_bed(f"{name}.attributions.bed")):
		total[start:end] += (attr[i] * ohe[i]).sum(axis=0)
		depth[start:end] += 1
	assert depth.max() == 2
	values = read_bigwig(f"{name}.attributions.bw")[chrom]
	np.testing.assert_allclose(values[depth > 0], (total / np.maximum(depth, 1))[depth > 0], rtol=1e-5, atol=1e-6)


def test_mask_is_over_the_loci_given(run: Callable, world: World) -> None:
	rows = [("chr2", 5, 9), ("chrUn", 500, 600), *world.loci, (world.loci[0][0], 2_790, 2_799)]
	code, out, err, name = run("attribute", rows=rows, chroms=["chr2"])
	assert code == 0, err
	mask = np.load(f"{name}.attributions.idxs.npy")
	expected = [False, False, *(locus[0] == "chr2" for locus in world.loci), False]
	assert mask.dtype == bool and mask.tolist() == expected
	assert len(read_bed(f"{name}.attributions.bed")) == sum(expected)
	for words in ("off the edge", "chromosome not in FASTA", "chromosome not selected"):
		assert words in out


@pytest.mark.parametrize("with_signals", [True, False], ids=["observed", "predicted"])
def test_max_loci_keeps_the_strongest(
	run: Callable, world: World, tmp_path: Path, make_bigwig: Callable[..., Path], with_signals: bool
) -> None:
	settings: dict[str, Any] = {"max_loci": 2}
	if with_signals:
		heights = [3, 9, 1, 8, 2, 5, 4, 6, 7, 3, 2]
		values = {chrom: np.zeros(size) for chrom, size in world.sizes.items()}
		for locus, height in zip(world.loci, heights, strict=True):
			values[locus[0]][midpoint(locus)] = height
		settings["signals"] = [make_bigwig(tmp_path / "signal.bw", world.sizes, values)]
		rows, best = world.loci, sorted(np.argsort(heights)[-2:].tolist())
	else:  # two loci see a motif, and three do not
		empty = [(chrom, site + 200, site + 210) for chrom, site, _ in world.sites[:3]]
		rows, best = [empty[0], world.loci[2], empty[1], world.loci[0], empty[2]], [1, 3]
	code, out, err, name = run("attribute", rows=rows, **settings)
	assert code == 0, err
	assert ("observed" if with_signals else "predicted") in out
	assert np.flatnonzero(np.load(f"{name}.attributions.idxs.npy")).tolist() == best
	assert [row[0] for row in read_bed(f"{name}.attributions.bed")] == [rows[i][0] for i in best]
	assert [start + 40 for _, start, _ in read_bed(f"{name}.attributions.bed")] == [midpoint(rows[i]) for i in best]


def test_names_of_the_files(run: Callable, world: World, tmp_path: Path) -> None:
	names = {key: tmp_path / "elsewhere" / key for key in ("ohe_filename", "attr_filename", "idx_filename")}
	code, _, err, name = run("attribute", rows=world.loci[:1], output="logcounts", **names)
	assert code == 0, err
	assert np.load(names["ohe_filename"])["arr_0"].shape == np.load(names["attr_filename"])["arr_0"].shape
	assert np.load(names["idx_filename"]).tolist() == [True]
	assert leftovers(name) == ["out.attribute.accounting.tsv", "out.attributions.bed", "out.attributions.bw"]


def test_group_of_several(run: Callable, world: World) -> None:
	model = motif_model((1, 2))
	with torch.no_grad():
		model.linear.weight[1] = 0  # the second group's counts do not see the motif
	for group, height in ((0, 1.5), (1, 0.0), (None, 1.5)):
		code, _, err, name = run("attribute", clone(model), group=group)
		assert code == 0, err
		track = read_bigwig(f"{name}.attributions.bw")["chr2"]
		assert np.nanmax(track) == pytest.approx(height, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("output", ["counts", "profile"])
@pytest.mark.parametrize("references", ["shuffles", "zeros"])
@pytest.mark.parametrize("algorithm", ["deep_lift_shap", "integrated_gradients"])
def test_comparison_with_references(run: Callable, world: World, algorithm: str, references: str, output: str) -> None:
	module = import_module(f"cherimoya.interpret.{algorithm}")
	settings = {"n_shuffles": 3, "random_state": 5, **({} if algorithm == "deep_lift_shap" else {"n_steps": 7})}
	code, out, err, name = run(
		"attribute", algorithm=algorithm, references=references, output=output, attr_window=None, **settings
	)
	assert code == 0, err
	assert ("3 shuffles each" in out) == (references == "shuffles")
	attr, ohe = (np.load(f"{name}.attributions.{kind}.npz")["arr_0"] for kind in ("attr", "ohe"))
	model = Cherimoya.load(name.parent.parent / "motif.torch")
	given = {} if references == "shuffles" else {"references": "zeros"}
	expected = getattr(module, algorithm)(model, ohe, output=output, **given, **settings)
	assert expected.abs().max() > 0.1
	np.testing.assert_allclose(attr, expected, rtol=1e-4, atol=1e-5)
	track = read_bigwig(f"{name}.attributions.bw")
	if output == "counts" and algorithm == "deep_lift_shap" and references == "shuffles":
		for chrom, site, _ in world.sites:  # a motif adds 2, which its bases share, as no shuffle has one
			assert track[chrom][site : site + 12].sum() == pytest.approx(2, rel=0.05)


ALGORITHMS: dict[str, dict[str, Any]] = {
	"saturation_mutagenesis": {},
	"deep_lift_shap": {"n_shuffles": 2, "random_state": 3},
	"integrated_gradients": {"n_shuffles": 2, "n_steps": 3, "random_state": 3},
}


def loud_model() -> Cherimoya:
	"""Two groups, of two channels and of one, whose counts and profiles all depend on the sequence in another way."""
	model = Cherimoya(n_filters=4, n_layers=2, trimming=TRIMMING, signal_groups=[2, 1], random_state=0)
	generator = torch.Generator().manual_seed(1)
	with torch.no_grad():
		for head in (model.linear, model.fconv):
			head.weight.copy_(torch.randn(head.weight.shape, generator=generator))
	return model


@pytest.mark.parametrize("output", ["counts", "profile"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_output_and_group(run: Callable, world: World, algorithm: str, output: str) -> None:
	"""The files hold what the library computes for the group that is asked for, or for all."""
	module = "attribution" if algorithm == "saturation_mutagenesis" else algorithm
	attribute = getattr(import_module(f"cherimoya.interpret.{module}"), algorithm)
	settings, model = ALGORITHMS[algorithm], loud_model()
	found, rows = {}, world.loci[:3]
	for group in (None, 0, 1):
		chunked = {"chunk_size": 1, "batch_size": 1}
		code, _, err, name = run(
			"attribute",
			clone(model),
			rows=rows,
			algorithm=algorithm,
			output=output,
			group=group,
			attr_window=12,
			**chunked,
			**settings,
		)
		assert code == 0, err
		attr, ohe = (np.load(f"{name}.attributions.{kind}.npz")["arr_0"] for kind in ("attr", "ohe"))
		found[group] = attr
		track = read_bigwig(f"{name}.attributions.bw")
		for i, (chrom, start, end) in enumerate(read_bed(f"{name}.attributions.bed")):
			np.testing.assert_allclose(track[chrom][start:end], (attr[i] * ohe[i]).sum(axis=0), rtol=1e-5, atol=1e-7)
		sequences = np.stack(
			[
				np.array(["ACGTN".index(base) for base in world.sequences[chrom][middle - 100 : middle + 100]])
				for chrom, middle in ((locus[0], midpoint(locus)) for locus in rows)
			]
		).astype(np.uint8)
		saved = Cherimoya.load(name.parent.parent / "motif.torch")
		expected = attribute(saved, sequences, output=output, group=group, start=94, end=106, **settings)
		np.testing.assert_allclose(attr, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
	scale = np.abs(found[None]).max()
	assert scale > 0 and np.abs(found[0] - found[1]).max() > 0.1 * scale
	if output == "counts":  # while the profile of all groups is one over all of their channels
		np.testing.assert_allclose(found[None], found[0] + found[1], rtol=1e-3, atol=2e-3 * scale)


def test_contributions_that_do_not_add_up_are_told(run: Callable) -> None:
	settings = {"algorithm": "integrated_gradients", "n_shuffles": 1, "n_steps": 1}
	code, _, err, _ = run("attribute", **settings)
	assert code == 0
	for words in ("warning_threshold (0.001)", "of 11 pairs", "more n_steps"):
		assert words in err
	code, _, err, _ = run("attribute", **settings, warning_threshold=1e6)
	assert code == 0 and "warning_threshold" not in err
	code, _, err, _ = run("attribute", algorithm="deep_lift_shap", n_shuffles=2)
	assert code == 0 and "warning_threshold" not in err


def test_a_seed_is_drawn_and_told(run: Callable, world: World) -> None:
	settings = {"algorithm": "deep_lift_shap", "n_shuffles": 2, "rows": world.loci[:2]}
	code, out, err, name = run("attribute", random_state=None, **settings)
	assert code == 0, err
	first = np.load(f"{name}.attributions.attr.npz")["arr_0"]
	seed = int(out.split("a seed was drawn: ")[1].split()[0])
	code, out, err, name = run("attribute", random_state=seed, **settings)
	assert code == 0 and "a seed was drawn" not in out
	np.testing.assert_array_equal(np.load(f"{name}.attributions.attr.npz")["arr_0"], first)


def clone(model: Cherimoya) -> Cherimoya:
	copy = Cherimoya(**model.config)
	copy.load_state_dict(model.state_dict())
	return copy


# Prediction.


@pytest.mark.parametrize(
	("groups", "names"),
	[
		((1,), [""]),
		((2,), [".+", ".-"]),
		((1, 2), [".0", ".1.+", ".1.-"]),
		((3, 1), [".0.0", ".0.1", ".0.2", ".1"]),
	],
	ids=str,
)
@pytest.mark.parametrize("in_window", [200, 201])
def test_predictions_are_where_and_what_they_should_be(
	run: Callable, world: World, groups: tuple[int, ...], names: list[str], in_window: int
) -> None:
	code, _, err, name = run("predict", motif_model(groups), in_window)
	assert code == 0, err
	files = [f"{name}.predictions{channel}.bw" for channel in names]
	assert files == prediction_paths(str(name), groups)
	others = [f"{name}.predictions.npz", f"{name}.predictions.tsv", f"{name}.predict.accounting.tsv"]
	assert leftovers(name) == sorted(Path(file).name for file in [*files, *others])
	arrays = np.load(f"{name}.predictions.npz")
	out_window = in_window - 2 * TRIMMING
	assert arrays["logits"].shape == (len(world.loci), sum(groups), out_window)
	np.testing.assert_allclose(arrays["log_counts"], 2.5, rtol=1e-5)
	tracks = [read_bigwig(file) for file in files]
	assert all(list(track) == list(world.sizes) for track in tracks)
	for i, (locus, (chrom, site, _)) in enumerate(zip(world.loci, world.sites, strict=True)):
		start, end = int(arrays["start"][i]), int(arrays["end"][i])
		assert (str(arrays["chrom"][i]), start, end) == (
			chrom,
			midpoint(locus) - out_window // 2,
			midpoint(locus) + (out_window + 1) // 2,
		)
		first = 0
		for size in groups:
			values = [track[chrom][start:end].astype(np.float64) for track in tracks[first : first + size]]
			assert sum(v.sum() for v in values) == pytest.approx(np.expm1(2.5), rel=1e-4)
			assert {start + int(v.argmax()) for v in values} == {site + 6}
			first += size


def test_controls_are_read_or_zero(
	run: Callable, world: World, tmp_path: Path, make_bigwig: Callable[..., Path]
) -> None:
	values = {chrom: np.full(size, 0.5) for chrom, size in world.sizes.items()}
	control = make_bigwig(tmp_path / "control.bw", world.sizes, values)
	code, out, err, name = run("predict", motif_model((1,), 1), controls=[control])
	assert code == 0, err
	log_counts = np.load(f"{name}.predictions.npz")["log_counts"]
	np.testing.assert_allclose(log_counts, 2.5 + np.log1p(0.5 * 140), rtol=1e-5)
	assert "every control value is taken as 0" not in out
	code, out, err, name = run("predict", motif_model((1,), 1))
	assert code == 0 and "every control value is taken as 0" in out
	np.testing.assert_allclose(np.load(f"{name}.predictions.npz")["log_counts"], 2.5, rtol=1e-5)
	for controls in (None, [str(control)]):
		code, out, err, name = run("attribute", motif_model((1,), 1), controls=controls, rows=world.loci[:2])
		assert code == 0, err
		assert np.nanmax(read_bigwig(f"{name}.attributions.bw")["chr2"]) == pytest.approx(1.5, rel=1e-4)


# What goes wrong.


def broken_checkpoint(folder: Path) -> Path:
	motif_model().save(folder / "whole.torch")
	data = (folder / "whole.torch").read_bytes()
	(folder / "cut.torch").write_bytes(data[: len(data) // 2])
	return folder / "cut.torch"


def nan_checkpoint(folder: Path) -> Path:
	model = motif_model()
	with torch.no_grad():
		model.linear.bias.fill_(float("nan"))
	model.save(folder / "nan.torch")
	return folder / "nan.torch"


@pytest.mark.parametrize("command", ["predict", "attribute"])
@pytest.mark.parametrize(
	("settings", "code", "words"),
	[
		({"in_window": 60, "out_window": 40, "attr_window": 40}, 3, ["motif.torch", "cuts 30 bp", "more than 60"]),
		({"model": lambda folder: folder / "none.torch"}, 3, ["none.torch", "no such file"]),
		({"model": broken_checkpoint}, 3, ["cut.torch"]),
		({"model": nan_checkpoint}, 3, ["nan.torch", "not finite"]),
		({"controls": ["control.bw"]}, 3, ["takes 0 control tracks", "lists 1", "set controls to null"]),
		({"model": "controls", "controls": ["control.bw", "control.bw"]}, 3, ["takes 1 control track", "lists 2"]),
		({"signals": ["control.bw", "control.bw"]}, 3, ["predicts 1 channel", "lists 2 bigWig files"]),
		({"chroms": ["chr7"]}, 3, ["no locus is left", "chromosome not selected"]),
		({"device": "cuda"}, 2, ["cuda"]),
	],
	ids=[
		"window too short",
		"model missing",
		"model truncated",
		"model with NaN",
		"controls not wanted",
		"too many controls",
		"other signals",
		"no loci",
		"no GPU",
	],
)
def test_bad_inputs(
	run: Callable,
	world: World,
	tmp_path: Path,
	make_bigwig: Callable[..., Path],
	command: str,
	settings: dict[str, Any],
	code: int,
	words: list[str],
) -> None:
	if settings.get("device") == "cuda" and torch.cuda.is_available():
		pytest.skip("this machine has a GPU")
	make_bigwig(tmp_path / "control.bw", world.sizes, {chrom: np.ones(size) for chrom, size in world.sizes.items()})
	settings = dict(settings)
	model = settings.pop("model", None)
	model = motif_model((1,), 1) if model == "controls" else model(tmp_path) if callable(model) else None
	for key in ("controls", "signals"):
		if key in settings:
			settings[key] = [tmp_path / path for path in settings[key]]
	if command == "predict":
		settings.pop("attr_window", None)
	found, _, err, name = run(command, model, **settings)
	assert found == code, err
	for word in words:
		assert word in err
	assert "Traceback" not in err
	assert leftovers(name) == []


@pytest.mark.parametrize(
	("command", "settings", "code", "words"),
	[
		("attribute", {"algorithm": "shapley"}, 2, ["shapley", "deep_lift_shap", "saturation_mutagenesis"]),
		("attribute", {"n_shuffles": 0}, 2, ["n_shuffles", "at least 1"]),
		("attribute", {"group": 1}, 2, ["1 signal groups", "got 1"]),
		("attribute", {"attr_window": 201}, 2, ["attr_window"]),
		("attribute", {"ohe_filename": "same.npz", "attr_filename": "same.npz"}, 2, ["same.npz", "two outputs"]),
		("attribute", {"ohe_filename": "/proc/none/ohe.npz"}, 3, ["/proc/none", "cannot be written"]),
		("predict", {"out_window": 142}, 3, ["gives 140 bp", "in_window to 202", "out_window to 140"]),
	],
	ids=["algorithm", "n_shuffles", "group", "attr_window", "one name twice", "folder", "out_window"],
)
def test_bad_settings(run: Callable, command: str, settings: dict[str, Any], code: int, words: list[str]) -> None:
	found, _, err, name = run(command, **settings)
	assert found == code, err
	for word in words:
		assert word in err
	assert leftovers(name) == []


@pytest.mark.parametrize(("command", "results"), [("predict", "predictions"), ("attribute", "attributions")])
def test_a_failure_while_writing_publishes_nothing_and_keeps_what_was_computed(
	run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, results: str
) -> None:
	from cherimoya.io import tracks

	def full(path: Path, *_: Any) -> None:
		Path(path).write_bytes(b"half of a file")
		raise OSError(28, "No space left on device")

	with monkeypatch.context() as patch:
		patch.setattr(tracks, "write_bigwig", full)
		code, _, err, name = run(command)
	assert code == 3 and "No space left on device" in err
	assert leftovers(name) == [f"out.{results}.parts"]
	assert not list(Path(f"{name}.{results}.parts").glob("*.tmp"))
	code, out, err, name = run(command, tmp_path / "motif.torch")
	assert code == 0, err
	assert "1 of 1 chunks are done" in out
	assert f"out.{results}.parts" not in leftovers(name) and f"out.{results}.bw" in leftovers(name)


@pytest.mark.parametrize("command", ["predict", "attribute"])
def test_a_signal_while_writing_publishes_nothing(run: Callable, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
	from cherimoya.io import tracks
	from cherimoya_cli.__main__ import Terminated

	def terminated(*_: Any) -> None:
		raise Terminated

	monkeypatch.setattr(tracks, "write_bigwig", terminated)
	code, _, err, name = run(command)
	assert code == 143 and f"cherimoya {command}: terminated" in err
	(folder,) = name.parent.iterdir()
	assert folder.suffix == ".parts" and len(list(folder.glob("*.npz"))) == 1
	assert not list(folder.glob(".*"))


def test_progress_draws_a_bar_on_a_terminal(
	monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
	from cherimoya_cli import inference

	monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
	progress = inference.Progress("predict")
	for done in (10, 30, 40):
		progress(done, 40)
	captured = capsys.readouterr()
	assert "100%" in captured.err and "40/40" in captured.err
	assert captured.out == ""


def test_progress_says_how_long_it_takes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
	from cherimoya_cli import inference

	clock = iter([0.0, 1.0, 3.0, 20.0, 40.0, 100.0])
	monkeypatch.setattr(inference, "time", SimpleNamespace(monotonic=lambda: next(clock)))
	progress = inference.Progress("attribute")
	for done in (64, 164, 364, 2_064, 4_064, 10_064):
		progress(done, 10_064)
	lines = capsys.readouterr().out.splitlines()
	assert lines == [
		"attribute: 100 predictions per second, about 2 min to go",
		"attribute: 4,064 of 10,064 predictions (40%), about 60 s to go",
	]
