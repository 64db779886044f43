"""Where loci go: every reason, in the table that each command prints and in the file that it leaves."""

import csv
import json
import shutil

import numpy as np
import pytest

from cherimoya.io.windows import REASONS
from cherimoya_cli.__main__ import main

IN, OUT, JITTER = 128, 64, 10
SIZES = {"chr1": 24_000, "chr2": 16_000, "chr3": 12_000, "chrS": 3_000}
ODD: dict[str, list[tuple[str, int, int]]] = {
	"chromosome not in FASTA": [("chrAway", 500, 600), ("chrAway", 700, 800)],
	"chromosome not in bigWig": [("chrS", 500, 600)],
	"off the edge": [("chr1", 0, 50), ("chr1", 23_990, 24_000), ("chr2", 4, 9), ("chr3", 11_990, 12_000)],
	"excluded": [("chr1", 5_950, 5_960), ("chr2", 9_000, 9_010), ("chr3", 9_000, 9_010)],
	"too few counts": [("chr1", 10_250, 10_260), ("chr2", 10_250, 10_260), ("chr3", 10_250, 10_260)],
	"too many counts": [("chr1", 15_250, 15_260), ("chr2", 12_250, 12_260), ("chr3", 8_250, 8_260)],
	"outlier": [("chr1", 20_250, 20_260)],
}
"""Loci that drop for each reason; chrS has no signal, and some places have none, too much, or much more than others."""

ALL_ODD = [row for rows in ODD.values() for row in rows]

LEVELS = {"too few counts": 0, "too many counts": 60, "outlier": 20}
"""Reads per base around those loci, where others have about one."""


@pytest.fixture(scope="module")
def data(tmp_path_factory, tiny_genome, make_bed, make_bigwig, make_fasta):
	"""A folder with the tiny genome's loci in one file and the odd ones in another, and a model."""
	from cherimoya import Cherimoya

	folder = tmp_path_factory.mktemp("accounting")
	rng = np.random.default_rng(0)
	make_fasta(folder / "genome.fa", {**tiny_genome.sequences, "chrS": "".join(rng.choice(list("ACGT"), 3_000))})
	values = {chrom: rng.integers(1, 3, size).astype(np.float32) for chrom, size in tiny_genome.sizes.items()}
	for reason, level in LEVELS.items():
		for chrom, start, _ in ODD[reason]:
			values[chrom][start - 100 : start + 110] = level
	make_bigwig(folder / "signal.bw", tiny_genome.sizes, values)
	good = [(chrom, mid - 50, mid + 50) for chrom, mid in tiny_genome.summits]
	make_bed(folder / "good.bed", [row for row in good if not any(near(row, odd) for odd in ALL_ODD)])
	make_bed(folder / "odd.bed", ALL_ODD)
	make_bed(folder / "background.bed", [(chrom, mid + 250, mid + 260) for chrom, mid in tiny_genome.summits])
	excluded = [(chrom, start, end) for chrom, start, end in ODD["excluded"]]
	make_bed(folder / "exclude.bed", excluded)
	Cherimoya(n_filters=4, n_layers=1, trimming=(IN - OUT) // 2, random_state=0).save(folder / "x.torch")
	return folder


def near(row, odd):
	return row[0] == odd[0] and row[1] < odd[2] + 300 and odd[1] - 300 < row[2]


SETTINGS = {
	"name": "x",
	"sequences": "genome.fa",
	"loci": ["good.bed", "odd.bed"],
	"negatives": "background.bed",
	"signals": "signal.bw",
	"exclusion_lists": "exclude.bed",
	"in_window": IN,
	"out_window": OUT,
	"max_jitter": JITTER,
	"min_counts": 10,
	"max_counts": 2_000,
	"training_chroms": ["chr1", "chrS", "chrAway"],
	"validation_chroms": ["chr2"],
	"test_chroms": ["chr3"],
	"n_filters": 4,
	"n_layers": 1,
	"max_epochs": 1,
	"n_warmup_epochs": 0,
	"num_workers": 0,
	"device": "cpu",
	"evaluate": False,
	"attr_window": 4,
	"bin_width": 0.5,
}
PLACE = ("chromosome not in FASTA", "off the edge", "excluded")
"""Reasons that need no signals."""

COUNTS = ("chromosome not in bigWig", "too few counts", "too many counts")


def run(command, folder, monkeypatch, capsys, *flags, **changes):
	monkeypatch.chdir(folder)
	(folder / "x.json").write_text(json.dumps({**SETTINGS, **changes}))
	code = main([command, "-p", "x.json", *flags])
	captured = capsys.readouterr()
	assert code == 0, captured.err
	return captured.out


def read_table(path):
	with open(path) as handle:
		rows = list(csv.DictReader(handle, delimiter="\t"))
	assert rows and list(rows[0]) == ["split", "file", "reason", "count"]
	return {(row["split"], row["file"], row["reason"]): int(row["count"]) for row in rows}


CASES = {
	"fit": ("training", "fit", [*PLACE, *COUNTS, "outlier", "chromosome not selected"]),
	"fit, validation": ("validation", "fit", [*PLACE, *COUNTS, "chromosome not selected"]),
	"evaluate": ("test", "evaluate", [*PLACE, *COUNTS, "chromosome not selected"]),
	"predict": ("loci", "predict", [*PLACE, COUNTS[0], "chromosome not selected"]),
	"attribute": ("loci", "attribute", [*PLACE, COUNTS[0], "chromosome not selected", "beyond max_loci"]),
	"negatives": ("loci", "negatives", [*PLACE, COUNTS[0], "chromosome not selected"]),
	"check": ("training", "check", [*PLACE, *COUNTS, "outlier", "chromosome not selected"]),
}
OPTIONS = {
	"predict": {"chroms": ["chr1", "chrAway"]},
	"attribute": {"chroms": ["chr1", "chrAway"], "max_loci": 5},
	"negatives": {"chroms": ["chr1", "chrS", "chrAway"], "output_filename": "x.negatives.bed", "beta": 10},
	"check": {"name": "new"},
}


@pytest.mark.parametrize("case", CASES)
def test_every_reason_is_told_and_written(data, tmp_path, monkeypatch, capsys, case):
	split, command, reasons = CASES[case]
	folder = tmp_path / "run"
	shutil.copytree(data, folder)
	flags = ["--command", "fit", "--accounting", "x.check.accounting.tsv"] if command == "check" else []
	text = run(command, folder, monkeypatch, capsys, *flags, **OPTIONS.get(command, {}))
	table = read_table(folder / f"x.{command}.accounting.tsv")
	expected = {reason for reason in REASONS if reason in reasons} | ({"beyond max_loci"} & set(reasons))
	files = ("all", "good.bed", "odd.bed")
	found = {reason for (part, file, reason), n in table.items() if part == split and file == "all" and n}
	assert found - {"given", "kept"} == expected
	for reason in expected:
		assert f"dropped: {reason}" in text
		if reason in ODD and command not in ("predict", "attribute", "negatives"):
			selected = SETTINGS[f"{split}_chroms"]
			wanted = sum(row[0] in selected for row in ODD[reason])
			wanted = len(ODD[reason]) if reason.startswith("chromosome not in") else wanted
			assert table[split, "odd.bed", reason] == wanted and table[split, "good.bed", reason] == 0
	for part in {key[0] for key in table}:
		for file in files:
			rows = {reason: n for (p, f, reason), n in table.items() if (p, f) == (part, file)}
			assert not rows or rows["given"] == sum(rows.values()) - rows["given"]
		if part == split:
			for reason in expected | {"given", "kept"}:
				parts = [table.get((part, file, reason), 0) for file in files]
				assert parts[0] == sum(parts[1:])
	assert "good.bed  odd.bed" in text


def test_background_is_accounted_for_too(data, tmp_path, monkeypatch, capsys):
	folder = tmp_path / "run"
	shutil.copytree(data, folder)
	run("fit", folder, monkeypatch, capsys, evaluate=True)
	table = read_table(folder / "x.fit.accounting.tsv")
	parts = [f"{split}{what}" for split in ("training", "validation", "test") for what in ("", "_negatives")]
	assert list(dict.fromkeys(key[0] for key in table)) == parts
	assert table["test_negatives", "all", "chromosome not selected"] > 0 and table["test_negatives", "all", "kept"] > 0
	record = json.loads((folder / "x.fit.record.json").read_text())["accounting"]
	for part in parts:
		assert record[part]["kept"] == table[part, "all", "kept"]
	assert set(record["training"]["files"]) == {"good.bed", "odd.bed"}
