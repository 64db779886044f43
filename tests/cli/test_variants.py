"""The command variants: its table, its VCF, its account, and going on after an interruption."""

import gzip
import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from cherimoya import Cherimoya
from cherimoya.interpret.variants import SCORED, variant_effects
from cherimoya.io import Allele, Genome
from cherimoya_cli.__main__ import main

IN, TRIMMING = 61, 12
OTHER = dict(zip("ACGT", "CGTA", strict=True))
SCORES = ["log2fc_counts", "jsd_profile", "l1_profile", "ref_counts", "alt_counts"]
NAMES = ["chrom", "pos", "id", "ref", "alt", "status"]


class World(NamedTuple):
	"""A folder with a genome, models and variants."""

	folder: Path
	sequences: dict[str, str]
	lines: list[list[str]]


@pytest.fixture
def world(tmp_path: Path, make_fasta: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> World:
	"""A working folder with two chromosomes, two folds of a model, and some variants of every kind."""
	rng = np.random.default_rng(5)
	sequences = {chrom: "".join(rng.choice(list("ACGT"), size)) for chrom, size in (("chr1", 400), ("chr2", 300))}
	make_fasta(tmp_path / "genome.fa", sequences)
	for seed in range(2):
		save_model(tmp_path / f"fold{seed}.torch", seed)
	one, two = sequences["chr1"], sequences["chr2"]
	lines = [
		["chr1", "100", "rs1", one[99], OTHER[one[99]], ".", "PASS", "AC=2;DB", "GT", "0/1"],
		["chr1", "120", ".", one[119:122], f"{one[119]},{one[119:122]}TT,<DEL>", "50", ".", ".", "GT", "1/2"],
		["chr1", "5", ".", one[4], OTHER[one[4]], ".", ".", ".", "GT", "0/0"],
		["chr2", "150", "rs2", OTHER[two[149]], two[149], ".", ".", "", "GT", "0/0"],
		["chr2", "160", "rs3", two[159], f"{two[159]}ACGT", ".", ".", "CHERIMOYA_STATUS=old;X=1", "GT", "0/0"],
		["chrUn", "10", ".", "A", "C", ".", ".", ".", "GT", "0/0"],
	]
	header = '##fileformat=VCFv4.2\n##INFO=<ID=CHERIMOYA_STATUS,Number=A,Type=String,Description="old">\n'
	columns = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tsample"
	body = "\n".join("\t".join(line) for line in lines)
	(tmp_path / "in.vcf").write_text(f"{header}{columns}\n{body}\n")
	monkeypatch.chdir(tmp_path)
	return World(tmp_path, sequences, lines)


def save_model(path: Path, seed: int, groups: tuple[int, ...] = (1,), **options: Any) -> None:
	"""A small model whose predictions depend on the sequence."""
	options = {"n_filters": 4, "n_layers": 2, "trimming": TRIMMING, **options}
	model = Cherimoya(signal_groups=groups, random_state=seed, **options)
	with torch.no_grad():
		for head in (model.linear, model.fconv):
			head.weight.copy_(torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(seed)))
	model.save(path)


def run(**settings: Any) -> int:
	"""Run the command in the folder; the exit code."""
	flags = settings.pop("flags", [])
	parameters = {
		"name": "out",
		"sequences": "genome.fa",
		"variants": "in.vcf",
		"model": "fold0.torch",
		"in_window": IN,
		"out_window": IN - 2 * TRIMMING,
		"device": "cpu",
		"batch_size": 16,
		"verbose": False,
	}
	Path("settings.json").write_text(json.dumps({**parameters, **settings}))
	return main(["variants", "-p", "settings.json", *flags])


def table(path: str = "out.variants.tsv") -> list[dict[str, str]]:
	"""The rows of a table of scores."""
	data = Path(path).read_bytes()
	text = gzip.decompress(data) if path.endswith(".gz") else data
	names, *rows = (line.split("\t") for line in text.decode().splitlines())
	return [dict(zip(names, row, strict=True)) for row in rows]


def alleles_of(world: World) -> list[Allele]:
	return [
		Allele(chrom, int(position), name, ref, alt)
		for chrom, position, name, ref, alts, *_ in world.lines
		for alt in alts.split(",")
	]


STATUS = [SCORED, SCORED, SCORED, "symbolic allele", "off the edge", "reference and alternate swapped", SCORED]
STATUS += ["chromosome not in FASTA"]


@pytest.mark.parametrize("both_strands", [False, True], ids=["one strand", "both strands"])
def test_table(world, capsys, both_strands):
	"""A row for every allele in the order of the file, with what the library computes, or with the reason."""
	assert run(reverse_complement_average=both_strands) == 0
	rows = table()
	assert list(rows[0]) == [*NAMES, *SCORES]
	expected = alleles_of(world)
	assert [[row[name] for name in NAMES[:5]] for row in rows] == [[str(value) for value in a] for a in expected]
	assert [row["status"] for row in rows] == STATUS
	effects = variant_effects(
		Cherimoya.load("fold0.torch"),
		expected,
		Genome("genome.fa"),
		in_window=IN,
		reverse_complement_average=both_strands,
		batch_size=16,
	)
	for i, row in enumerate(rows):
		for name in SCORES:
			assert row[name] == (f"{effects.scores[name][i, 0]:.6g}" if row["status"] == SCORED else "")
	printed = capsys.readouterr()
	assert "Alleles to score" in printed.out and "Wrote the scores of 4 of 8 alleles" in printed.out
	assert "symbolic allele: chr1:120" in printed.out and "may be of another assembly" in printed.err
	account = dict(line.split("\t")[2:] for line in Path("out.variants.accounting.tsv").read_text().splitlines())
	assert account["given"] == "8" and account["kept"] == "4" and account["off the edge"] == "1"
	assert sum(int(n) for reason, n in account.items() if reason not in ("count", "given", "reason")) == 8
	made = {"out.variants.tsv", "out.variants.accounting.tsv"}
	before = {"genome.fa", "genome.fa.fai", "fold0.torch", "fold1.torch", "in.vcf", "settings.json"}
	assert {path.name for path in world.folder.iterdir()} - before == made


def test_folds_groups_and_background(world):
	for seed in range(2):
		save_model(Path(f"fold{seed}.torch"), seed, (1, 2), n_control_tracks=seed)
	assert run(models=["fold0.torch", "fold1.torch"], n_background=12, random_state=3) == 0
	rows = table()
	kinds = [*SCORES, *(f"{name}_sd" for name in SCORES), *(f"{name}_percentile" for name in SCORES[:3])]
	assert list(rows[0]) == [*NAMES, *(f"{kind}.{group}" for group in range(2) for kind in kinds)]
	models = [Cherimoya.load(f"fold{seed}.torch") for seed in range(2)]
	genome = Genome("genome.fa")
	effects = variant_effects(models, alleles_of(world), genome, in_window=IN, n_background=12, random_state=3)
	for i, row in enumerate(rows):
		if row["status"] == SCORED:
			for group in range(2):
				for name in SCORES:
					assert float(row[f"{name}.{group}"]) == pytest.approx(effects.scores[name][i, group], rel=1e-4)
					assert float(row[f"{name}_sd.{group}"]) == pytest.approx(effects.spread[name][i, group], rel=1e-3)
				for name in SCORES[:3]:
					percentile = float(row[f"{name}_percentile.{group}"])
					assert percentile == pytest.approx(effects.percentiles[name][i, group], rel=1e-4)
					assert 0 <= percentile <= 100


@pytest.mark.parametrize("name", ["out.vcf", "out.vcf.gz"])
def test_vcf(world, name):
	assert run(vcf_filename=name) == 0
	data = Path(name).read_bytes()
	lines = (gzip.decompress(data) if name.endswith(".gz") else data).decode().splitlines()
	given = Path("in.vcf").read_text().splitlines()
	header = [line for line in lines if line.startswith("#")]
	assert header[0] == given[0] and header[-1] == given[2]
	keys = [line.split("ID=")[1].split(",")[0] for line in header[1:-1]]
	assert keys == ["CHERIMOYA_STATUS", *(f"CHERIMOYA_{score.upper()}" for score in SCORES)]
	rows = iter(table())
	for line, before in zip(lines[len(header) :], world.lines, strict=True):
		fields = line.split("\t")
		assert fields[:7] + fields[8:] == before[:7] + before[8:]
		info = dict(text.split("=") if "=" in text else (text, "") for text in fields[7].split(";"))
		own = [next(rows) for _ in before[4].split(",")]
		assert info["CHERIMOYA_STATUS"] == ",".join(row["status"].replace(" ", "_") for row in own)
		for score in SCORES:
			values = [row[score] or "." for row in own]
			assert info.get(f"CHERIMOYA_{score.upper()}", ",".join("." for _ in own)) == ",".join(values)
	assert lines[len(header)].split("\t")[7].startswith("AC=2;DB;CHERIMOYA_STATUS=scored;CHERIMOYA_LOG2FC_COUNTS=")
	assert lines[len(header) + 3].split("\t")[7] == "CHERIMOYA_STATUS=reference_and_alternate_swapped"
	assert "X=1" in lines[len(header) + 4] and "STATUS=old" not in "".join(lines) and '"old"' not in "".join(lines)


def test_a_vcf_that_pysam_reads(world):
	pysam = pytest.importorskip("pysam")
	assert run(vcf_filename="out.vcf.gz") == 0
	with pysam.VariantFile("out.vcf.gz") as file:
		records = list(file)
	assert len(records) == 6 and len(records[1].info["CHERIMOYA_L1_PROFILE"]) == 3
	assert records[0].info["CHERIMOYA_STATUS"] == ("scored",)


def test_table_in_vcf_and_zipped_table_out(world):
	text = "chrom\tpos\tref\talt\n" + "".join("\t".join([*line[:2], *line[3:5]]) + "\n" for line in world.lines)
	Path("in.tsv").write_text(text)
	assert run() == 0
	expected = table()
	assert run(variants="in.tsv", vcf_filename="new/out.vcf", tsv_filename="new/out.tsv.gz") == 0
	found = table("new/out.tsv.gz")
	assert found == [{**row, "id": "."} for row in expected]
	lines = Path("new/out.vcf").read_text().splitlines()
	assert "##contig=<ID=chr2,length=300>" in lines
	assert lines[-1] == "chrUn\t10\t.\tA\tC\t.\t.\tCHERIMOYA_STATUS=chromosome_not_in_FASTA"


def test_aliases(world):
	assert run() == 0
	expected = table()
	Path("in.vcf").write_text(Path("in.vcf").read_text().replace("\nchr", "\n"))
	assert run(chrom_aliases=True) == 0
	assert table() == [{**row, "chrom": row["chrom"].removeprefix("chr")} for row in expected]


def write_many(world: World, n: int) -> None:
	"""A file of n SNVs, a few of which cannot be scored."""
	lines = ["chrom\tpos\tref\talt"]
	for i in range(n):
		chrom = ("chr1", "chr2")[i >= n // 2]
		position = 60 + i % 150 if i % 97 else 3
		base = world.sequences[chrom][position - 1]
		lines.append(f"{chrom}\t{position}\t{base}\t{OTHER[base]}")
	Path("in.vcf").write_text("\n".join(lines) + "\n")


@pytest.fixture
def whole(world: World) -> bytes:
	"""What a run over 700 variants in one chunk writes, with a background."""
	write_many(world, 700)
	assert run(n_background=5, random_state=1) == 0
	return Path("out.variants.tsv").read_bytes()


@pytest.mark.parametrize("chunk_size", [1, 300])
def test_chunks_do_not_matter(whole, chunk_size):
	Path("out.variants.tsv").unlink()
	assert run(n_background=5, random_state=1, chunk_size=chunk_size) == 0
	assert Path("out.variants.tsv").read_bytes() == whole
	assert not Path("out.variants.parts").exists()


def test_shards(whole, capsys):
	"""Three processes that do a part each, in any order; their results put together are those of one."""
	Path("out.variants.tsv").unlink()
	for shard in ("2/3", "3/3"):
		assert run(n_background=5, random_state=1, flags=["--shard", shard]) == 0
	assert not Path("out.variants.tsv").exists()
	assert run(n_background=5, random_state=1, flags=["--merge"]) == 3
	assert "1/3" in capsys.readouterr().err
	assert run(n_background=5, random_state=1, flags=["--shard", "1/3"]) == 0
	assert run(n_background=5, random_state=1, flags=["--merge"]) == 0
	assert Path("out.variants.tsv").read_bytes() == whole


def test_going_on_after_a_failure(whole, monkeypatch, capsys):
	"""What was finished is not done again, and the result has the same bits."""
	from cherimoya.interpret import variants

	Path("out.variants.tsv").unlink()
	score, calls = variants.score_alleles, []

	def failing(models: Any, alleles: Any, *args: Any, **options: Any) -> Any:
		if len(alleles) > 5:  # not the background
			calls.append(len(alleles))
			if len(calls) == 2:
				raise RuntimeError("the machine is gone")
		return score(models, alleles, *args, **options)

	monkeypatch.setattr(variants, "score_alleles", failing)
	settings = {"n_background": 5, "random_state": 1, "chunk_size": 256}
	with pytest.raises(RuntimeError, match="gone"):
		run(**settings)
	assert not Path("out.variants.tsv").exists()
	assert run(**settings) == 0
	assert calls == [256, 256, 256, 188]  # the second chunk again, and the third
	assert Path("out.variants.tsv").read_bytes() == whole
	assert "1 of 3 chunks are done; going on" in capsys.readouterr().out


def test_a_seed_that_is_drawn(world, capsys):
	assert run(n_background=4, random_state=None) == 0
	seed = int(capsys.readouterr().out.split("so a seed was drawn: ")[1].split()[0])
	first = table()
	assert run(n_background=4, random_state=seed) == 0
	assert table() == first
	assert all(math.isfinite(float(row["jsd_profile_percentile"])) for row in first if row["status"] == SCORED)


def test_the_input_is_never_overwritten(world, capsys):
	before = Path("in.vcf").read_bytes()
	assert run(vcf_filename="in.vcf") == 2
	assert "in.vcf is the file of variants itself" in capsys.readouterr().err
	assert Path("in.vcf").read_bytes() == before


# What can be scored, and what cannot, at the limits.

MIDDLE = IN // 2


def line_of(sequence: str, position: int, length: int, alts: str) -> list[str]:
	"""A variant of chr2 that replaces `length` bases; ``{other}`` is another base, ``{first}`` the first one."""
	ref = sequence[position - 1 : position - 1 + length]
	return ["chr2", str(position), ".", ref, alts.format(other=OTHER[ref[0]], first=ref[0])]


LIMITS = {
	"first SNV whose window fits": ((MIDDLE + 1, 1, "{other}"), [SCORED]),
	"SNV a base before it": ((MIDDLE, 1, "{other}"), ["off the edge"]),
	"last SNV whose window fits": ((300 - MIDDLE, 1, "{other}"), [SCORED]),
	"SNV a base after it": ((300 - MIDDLE + 1, 1, "{other}"), ["off the edge"]),
	"first insertion": ((MIDDLE + 1, 1, "{first}ACGT"), [SCORED]),
	"insertion before it": ((MIDDLE, 1, "{first}ACGT"), ["off the edge"]),
	"last insertion": ((300 - MIDDLE, 1, "{first}ACGT"), [SCORED]),
	"insertion after it": ((300 - MIDDLE + 1, 1, "{first}ACGT"), ["off the edge"]),
	# A deletion pulls in bases from beyond the reference window, more of them the longer it is.
	"first deletion": ((MIDDLE + 1, 9, "{first}"), [SCORED]),
	"deletion before it": ((MIDDLE, 9, "{first}"), ["off the edge"]),
	"last deletion": ((300 - MIDDLE - 8, 9, "{first}"), [SCORED]),
	"deletion after it": ((300 - MIDDLE - 7, 9, "{first}"), ["off the edge"]),
	"longest allele": ((150, (IN - 2 * TRIMMING) // 2, "{first}"), [SCORED]),
	"longer than that": ((150, (IN - 2 * TRIMMING) // 2 + 1, "{first}"), ["allele too long"]),
	"several alleles, of which some can be scored": (
		(150, 2, "{other},{first}N,{first}GTT,*,<DEL>,{first}]chr1:9]"),
		[SCORED, "letters other than ACGT", SCORED, "symbolic allele", "symbolic allele", "breakend"],
	),
	"no alternate allele": ((150, 1, "."), ["no alternate allele"]),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits(world, name, capsys):
	"""Each limit on either side, beside a variant that can be scored; all are in the table and in the account."""
	what, expected = LIMITS[name]
	lines = [line_of(world.sequences["chr2"], *what), line_of(world.sequences["chr2"], 150, 1, "{other}")]
	header = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
	Path("in.vcf").write_text(header + "".join("\t".join([*line, ".", ".", "."]) + "\n" for line in lines))
	assert run() == 0
	out, rows = capsys.readouterr().out, table()
	assert [row["status"] for row in rows] == [*expected, SCORED]
	assert [row["alt"] for row in rows] == [*lines[0][4].split(","), lines[1][4]]
	for row in rows:
		assert all(bool(row[score]) == (row["status"] == SCORED) for score in SCORES)
		if row["status"] == SCORED:
			assert all(math.isfinite(float(row[score])) for score in SCORES)
	account = dict(text.split("\t")[2:] for text in Path("out.variants.accounting.tsv").read_text().splitlines())
	for status in set(expected) - {SCORED}:
		assert int(account[status]) == expected.count(status)
		assert f"dropped: {status}" in out
	assert int(account["given"]) == len(rows) and int(account["kept"]) == 1 + expected.count(SCORED)


@pytest.mark.parametrize(
	("fields", "status"),
	[
		(["chr2", "150", "N", "A"], "letters other than ACGT"),
		(["chr2", "150", "{ref}", "N"], "letters other than ACGT"),
		(["chr2", "150", "{lower}", "{other}"], SCORED),
		(["chr2", "150", "{other}", "{third}"], "reference mismatch"),
		(["chr2", "150", "{other}", "{ref}"], "reference and alternate swapped"),
		(["chr7", "150", "A", "C"], "chromosome not in FASTA"),
		(["chr2", "301", "A", "C"], "off the edge"),
	],
	ids=["N in ref", "N in alt", "small letters", "mismatch", "swapped", "unknown contig", "beyond the end"],
)
def test_references(world, fields, status):
	base = world.sequences["chr2"][149]
	third = OTHER[OTHER[base]]
	texts = [text.format(ref=base, lower=base.lower(), other=OTHER[base], third=third) for text in fields]
	other = line_of(world.sequences["chr2"], 150, 1, "{other}")
	lines = ["chrom\tpos\tref\talt", "\t".join(texts), "\t".join([*other[:2], *other[3:]])]
	Path("in.vcf").write_text("\n".join(lines) + "\n")
	assert run() == 0
	assert [row["status"] for row in table()] == [status, SCORED]


def test_messages_are_about_alleles(world, capsys):
	write_many(world, 700)
	assert run(flags=["--shard", "2/2"]) == 0
	assert "Shard 2/2: 444 of 700 alleles are done" in capsys.readouterr().out
	assert run(flags=["--merge"]) == 3
	assert "1/2 (0 of 256 alleles are done)" in capsys.readouterr().err
	assert run(flags=["--shard", "3/3"]) == 0
	capsys.readouterr()
	assert run(flags=["--merge"]) == 3
	err = capsys.readouterr().err
	assert "alleles 1 to 256 of 700 are not done" in err and "loci" not in err


@pytest.mark.slow
def test_ten_thousand_variants_in_any_way(world, make_pause):
	"""In one run, as seven shards, and killed twice and gone on with: the same bytes."""
	rng = np.random.default_rng(9)
	lines = ["chrom\tpos\tref\talt"]
	for _ in range(10_000):
		chrom = str(rng.choice(["chr1", "chr2"]))
		position, length = int(rng.integers(1, len(world.sequences[chrom]) - 4)), int(rng.integers(1, 5))
		ref = world.sequences[chrom][position - 1 : position - 1 + length]
		alt = "".join(rng.choice(list("ACGTN"), int(rng.integers(1, 6)), p=[0.24] * 4 + [0.04]))
		lines.append(f"{chrom}\t{position}\t{ref}\t{alt}")
	Path("in.vcf").write_text("\n".join(lines) + "\n")
	settings = {
		"models": ["fold0.torch", "fold1.torch"],
		"n_background": 20,
		"random_state": 1,
		"vcf_filename": "out.vcf",
	}
	outputs = ("out.variants.tsv", "out.vcf", "out.variants.accounting.tsv")
	before = torch.get_num_threads()
	torch.set_num_threads(1)
	try:
		assert run(**settings) == 0
		whole = {name: Path(name).read_bytes() for name in outputs}
		rows = table()
		assert len(rows) == 10_000
		assert len({row["status"] for row in rows}) == 4 and sum(row["status"] == SCORED for row in rows) > 5_000
		for name in outputs:
			Path(name).unlink()
		for shard in (3, 7, 1, 2, 6, 5, 4):
			assert run(**settings, flags=["--shard", f"{shard}/7"]) == 0
		assert run(**settings, flags=["--merge"]) == 0
		assert {name: Path(name).read_bytes() for name in outputs} == whole
		for name in outputs:
			Path(name).unlink()
		for n_chunks, n_new in ((3, 3), (9, 6)):
			kill_after(n_chunks, make_pause("cherimoya_cli.chunks:Parts.save", n_new))
			assert not any(Path(name).exists() for name in outputs)
		assert run(**settings, chunk_size=256) == 0
		assert {name: Path(name).read_bytes() for name in outputs} == whole
	finally:
		torch.set_num_threads(before)


def kill_after(n_chunks: int, pause: Any) -> None:
	"""Run the command of settings.json as a process of its own, and kill it at its pause after so many chunks."""
	settings = json.loads(Path("settings.json").read_text())
	Path("killed.json").write_text(json.dumps({**settings, "chunk_size": 256}))
	process = subprocess.Popen(
		[sys.executable, "-m", "cherimoya_cli", "variants", "-p", "killed.json"], env=pause.environment
	)
	try:
		pause.wait(process)
		assert len(list(Path("out.variants.parts").glob("*.npz"))) == n_chunks
	finally:
		process.kill()
		process.wait()
	assert process.returncode == -signal.SIGKILL
