"""The truth is found: motifs, sites and broken variants of a genome whose signal depends on two planted motifs."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def planted():
	"""The benchmark, whose parts are used here."""
	spec = importlib.util.spec_from_file_location("planted", ROOT / "benchmarks" / "planted.py")
	module = importlib.util.module_from_spec(spec)
	spec.loader.exec_module(module)
	return module


@pytest.mark.slow
def test_the_pipeline_finds_what_was_planted(planted, tmp_path):
	for package in ("tangermeme", "memelite", "modiscolite", "matplotlib", "pyBigWig"):
		pytest.importorskip(package)
	planted.make(tmp_path, megabases=4, n_loci=1200, epochs=10)
	planted.run(tmp_path)
	found = planted.compare(tmp_path)

	assert found["evaluation"]["auroc"] > 0.95
	for motif in ("first", "second"):
		assert found["patterns"][motif]["agreement"] > 0.85, found["patterns"]
		assert found["patterns"][motif]["seqlets"] > 50
	assert found["patterns"]["first"]["pattern"] != found["patterns"]["second"]["pattern"]
	assert found["seqlets"]["strong_sites"] > 200
	assert found["seqlets"]["precision"] >= 0.8 and found["seqlets"]["recall_strong"] >= 0.8, found["seqlets"]
	assert found["seqlets"]["named_after_their_motif"] > 0.8
	ranks = found["marginalization_ranks"]
	assert {ranks["first"], ranks["second"]} == {1, 2} and ranks["motifs"] == 42
	assert found["variants"]["broken"] > 50
	assert found["variants"]["auroc"] >= 0.95, found["variants"]
	assert found["variants"]["median_log2fc_broken"] < -0.3 < found["variants"]["median_log2fc_silent"]
	report = (tmp_path / "run.report.html").read_text(encoding="utf-8")
	assert "first" in report and "second" in report


# How the benchmark counts, where the answer is known.


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("cut", [0, 2])
def test_agreement_finds_the_alignment(planted, turned, cut):
	text = "AGATAAGCATCC"
	ppm = np.full((30, 4), 0.25)
	ppm[7 + cut : 19] = [[base == other for other in "ACGT"] for base in text[cut:]]
	found = planted.agreement(ppm[::-1, ::-1] if turned else ppm, text)
	assert found == pytest.approx((12 - cut * 0.75) / 12)
	assert planted.agreement(np.full((30, 4), 0.25), text) == pytest.approx(0.25)


def test_variants_break_intact_sites_alone_and_leave_the_others_be(planted, tmp_path):
	(tmp_path / "genome.fa").write_text(">chr4\n" + "A" * 300 + "\n")
	text = "AGATAAGCATCC"
	intact = planted.Site("chr4", 100, 112, "first", "+", text, 106)
	altered = planted.Site("chr4", 200, 212, "first", "-", "T" + text[1:], 206)
	elsewhere = planted.Site("chr1", 100, 112, "first", "+", text, 106)
	planted.write_variants(tmp_path / "v.vcf", [intact, altered, elsewhere], tmp_path / "genome.fa")
	rows = planted.read_bed(tmp_path / "v.vcf")
	kinds = {row[2].split("_")[0]: row for row in rows}
	assert len(rows) == 2 and set(kinds) == {"broken", "silent"}
	assert 103 <= int(kinds["broken"][1]) - 1 < 109
	assert not any(a <= int(kinds["silent"][1]) - 1 < b for a, b in ((100, 112), (200, 212)))
	assert all(row[3] == "A" != row[4] for row in rows)


def test_seqlets_are_counted_against_the_truth(planted, tmp_path):
	text = "AGATAAGCATCC"
	sites = [
		planted.Site("chr4", 100, 112, "first", "+", text, 106),
		planted.Site("chr4", 140, 152, "first", "+", "TC" + text[2:], 106),  # weak
		planted.Site("chr4", 300, 312, "second", "+", "TTACCGGAAGTG", 306),
		planted.Site("chr4", 900, 912, "first", "+", text, 906),  # outside of the attributed windows
	]
	(tmp_path / "run.attributions.bed").write_text("chr4\t50\t450\n")
	header = "#chrom\tstart\tend\tattribution\tp-value"
	rows = [
		"chr4\t98\t115\t2\t0.001",
		"chr4\t141\t150\t1\t0.001",
		"chr4\t200\t215\t1\t0.001",
		"chr4\t300\t312\t-1\t0.1",
	]
	(tmp_path / "run.seqlets.bed").write_text("\n".join([header, *rows]) + "\n")
	named = [f"{row}\t+\t{name}\t0.01" for row, name in zip(rows, ("first", "decoy1", "first", "second"), strict=True)]
	(tmp_path / "run.seqlets_annotated.bed").write_text("\n".join([header, *named]) + "\n")
	found = planted.compare_seqlets(tmp_path, sites, {"first": text, "second": "TTACCGGAAGTG"})
	assert found["positive_seqlets"] == 3 and found["strong_sites"] == 2
	assert (found["precision"], found["recall_strong"]) == (0.667, 0.5)
	assert found["named_after_their_motif"] == 0.5
