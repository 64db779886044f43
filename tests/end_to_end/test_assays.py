"""Two assays in one pipeline, from reads to the report: unstranded ATAC-seq fragments, and stranded ChIP reads.

The ChIP has a control of its own. The ATAC-seq file writes 1 where the genome and the other files write chr1.
"""

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("MACS3")
pytest.importorskip("matplotlib")

from cherimoya import Cherimoya
from cherimoya.io import Genome, Tracks

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
	"name": "run/x",
	"sequences": "genome.fa",
	"chrom_aliases": True,
	"signals": [["atac.bed.gz"], ["chip.1.bed", "chip.2.bed"]],
	"controls": [None, ["input.bed"]],
	"in_window": 256,
	"out_window": 128,
	"device": "cpu",
	"exclusion_lists": "exclude.bed",
	"preprocessing_parameters": {
		"unstranded": [True, False],
		"fragments": [True, False],
		"pos_shift": [4, 0],
		"neg_shift": [-4, 0],
		"callpeaks_arguments": ["--nomodel", "--scale-to", "large"],
	},
	"fit_parameters": {
		"n_filters": 4,
		"n_layers": 2,
		"max_epochs": 1,
		"n_warmup_epochs": 0,
		"batch_size": 32,
		"max_jitter": 8,
		"num_workers": 0,
		"training_chroms": ["1"],
		"validation_chroms": ["chr2"],
		"test_chroms": ["chr3"],
	},
	"attribute_parameters": {"attr_window": 10, "max_loci": 4},
	"skip_steps": ["seqlets", "motifs", "modisco_report"],
}


def run(folder, *arguments):
	command = [sys.executable, "-m", "cherimoya_cli", "pipeline", "-p", "x.json", *arguments]
	done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
	return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def project(tiny_genome, tmp_path_factory):
	"""A folder with reads of both assays around the genome's planted motifs."""
	folder = tmp_path_factory.mktemp("assays")
	shutil.copyfile(tiny_genome.fasta, folder / "genome.fa")
	rng = np.random.default_rng(1)
	atac, chip, background = [], [], []
	for chrom, mid in tiny_genome.summits:
		for start in (mid + rng.normal(0, 25, 90)).astype(int) - 40:
			atac.append((chrom.removeprefix("chr"), int(start), int(start) + 80))
		for start in (mid + rng.normal(0, 30, 120)).astype(int):
			plus = rng.random() < 0.5
			chip.append((chrom, int(start) - 60 * plus, int(start) + 60 - 60 * plus, ".", 0, "+" if plus else "-"))
	for chrom, size in tiny_genome.sizes.items():
		for start in rng.integers(0, size - 80, size // 50):
			background.append((chrom, int(start), int(start) + 60, ".", 0, "+-"[int(start) % 2]))
			atac.append((chrom.removeprefix("chr"), int(start), int(start) + 80))
	with gzip.open(folder / "atac.bed.gz", "wt") as handle:
		handle.writelines("\t".join(map(str, row)) + "\n" for row in sorted(atac))
	half = len(chip) // 2
	for name, rows in (("chip.1", chip[:half]), ("chip.2", [*chip[half:], *background]), ("input", background)):
		(folder / f"{name}.bed").write_text("".join("\t".join(map(str, row)) + "\n" for row in sorted(rows)))
	(folder / "exclude.bed").write_text("1\t5900\t6100\n")
	(folder / "x.json").write_text(json.dumps(SETTINGS))
	return folder, atac, chip, background


@pytest.mark.slow
def test_two_assays_make_one_model(project):
	folder, atac, chip, background = project
	code, output = run(folder)
	assert code == 0, output

	# Each group is converted by its own settings, into the FASTA's chromosomes.
	signals = ["run/x.0.bw", ["run/x.1.+.bw", "run/x.1.-.bw"]]
	genome = Genome(folder / "genome.fa")
	tracks = Tracks([str(folder / "run/x.0.bw"), [str(folder / path) for path in signals[1]]])
	assert list(tracks.chrom_sizes) == list(genome.chrom_sizes)
	size = genome.chrom_sizes["chr2"]
	values = tracks.windows(["chr2"], [0], size)[0]
	expected = np.zeros((3, size))
	for chrom, start, end in atac:
		if chrom == "2":
			for at in (start + 4, end - 5):
				expected[0, at] += 0 <= at < size
	for chrom, start, end, *_, strand in [*chip, *background]:
		if chrom == "chr2":
			expected[1 if strand == "+" else 2, start if strand == "+" else end - 1] += 1
	np.testing.assert_array_equal(values, expected)

	# Only the second group has a control, and it is stranded like its group.
	assert not (folder / "run/x.control.0.bw").exists()
	fit = json.loads((folder / "run/x.fit.json").read_text())
	assert fit["signals"] == [["run/x.0.bw"], signals[1]]
	assert fit["controls"] == [["run/x.control.1.+.bw", "run/x.control.1.-.bw"]]
	record = json.loads((folder / "run/x.fit.record.json").read_text())
	assert record["signal_groups"] == [1, 2] and record["n_control_tracks"] == 2
	assert record["accounting"]["training"]["dropped"]["excluded"] > 0
	assert Cherimoya.load(folder / "run/x.torch").signal_groups == (1, 2)

	# Peaks come from both assays, by the FASTA's names; MACS3 gets the control of the second alone.
	lines = [line.split("\t") for line in (folder / "run/x_peaks.narrowPeak").read_text().splitlines()]
	assert {line[0] for line in lines} == set(genome.chrom_sizes)
	assert {line[3].split("_peak")[0] for line in lines} == {"x.0", "x.1"}
	calls = [line for line in output.splitlines() if "macs3 callpeak -t" in line]
	assert len(calls) == 2 and " -c " not in calls[0] and " -c " in calls[1]

	for name in ("predictions.0.bw", "predictions.1.+.bw", "predictions.1.-.bw", "attributions.bw", "report.html"):
		assert (folder / f"run/x.{name}").is_file()
	report = (folder / "run/x.report.html").read_text()
	for name in ("atac.bed.gz", "chip.1.bed", "input.bed", "x.1.+.bw", "x.control.1.-.bw"):
		assert name in report

	code, output = run(folder)
	assert code == 0 and "Everything is up to date." in output


@pytest.mark.parametrize(
	("changes", "code", "words"),
	[
		(
			{"chrom_aliases": False},
			2,
			["atac.bed.gz: the reads name 1", "the FASTA names chr1", "set chrom_aliases to true"],
		),
		({"controls": [["input.bed"]]}, 2, ["fragments, neg_shift, pos_shift, unstranded differ", "shared control"]),
		({"controls": [["input.bed"], None, None]}, 2, ["controls has 3 entries for 2 groups"]),
		({"preprocessing_parameters": {"unstranded": [True] * 3}}, 2, ["unstranded has 3 values", "2 groups of reads"]),
		({"controls": [None, "x.bw"]}, 2, ["controls holds null", "leave it out for bigWigs"]),
	],
	ids=["other names", "shared control", "too many controls", "too many values", "null bigWig"],
)
def test_settings_that_do_not_fit_together(project, tmp_path, changes, code, words):
	folder = tmp_path / "copy"
	folder.mkdir()
	for path in project[0].iterdir():
		if path.is_file():
			shutil.copyfile(path, folder / path.name)
	(folder / "x.bw").write_bytes(b"not looked at")
	(folder / "x.json").write_text(json.dumps({**SETTINGS, **changes}))
	found, output = run(folder)
	assert found == code, output
	assert [word for word in words if word not in output] == []
	assert "Traceback" not in output
