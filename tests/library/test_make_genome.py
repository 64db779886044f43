"""The synthetic data that benchmarks and planted-truth tests are made of."""

import csv
import gzip
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from cherimoya.io.genome import Genome
from cherimoya.io.loci import midpoints, read_loci
from cherimoya.io.windows import extract_windows

pytest.importorskip("pyBigWig")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "make_genome.py"
SMALL = {
	"megabases": 0.4,
	"n_chroms": 3,
	"n_loci": 150,
	"n_groups": 2,
	"stranded": True,
	"control": True,
	"reads": True,
	"isochore": 5_000,
}


@pytest.fixture(scope="module")
def maker():
	spec = importlib.util.spec_from_file_location("make_genome", SCRIPT)
	module = importlib.util.module_from_spec(spec)
	sys.modules["make_genome"] = module  # dataclasses look their module up
	spec.loader.exec_module(module)
	yield module
	del sys.modules["make_genome"]


@pytest.fixture(scope="module")
def made(maker, tmp_path_factory):
	"""The paths of a small data set."""
	return maker.write(maker.Design(**SMALL, seed=3), tmp_path_factory.mktemp("made"))


def _truth(path):
	with open(path) as file:
		return list(csv.DictReader(file, delimiter="\t"))


def test_the_index_is_the_one_that_reading_makes(made, tmp_path):
	copy = tmp_path / "copy.fa"
	copy.write_bytes(Path(made["genome"]).read_bytes())
	genome = Genome(copy)
	assert Path(f"{copy}.fai").read_text() == Path(f"{made['genome']}.fai").read_text()
	assert genome.chrom_sizes == made["chrom_sizes"]
	assert abs(sum(genome.chrom_sizes.values()) - 400_000) < 3
	codes = np.concatenate([genome.codes(chrom) for chrom in genome.chrom_sizes])
	text = Path(made["genome"]).read_text()
	assert 0.02 < np.mean(codes == 4) < 0.05 and 0.35 < np.isin(codes[codes < 4], (1, 2)).mean() < 0.47
	assert 0.3 < sum(text.count(base) for base in "acgtn") / len(codes) < 0.5


def test_motifs_stand_where_the_truth_says(maker, made):
	genome, rows = Genome(made["genome"]), _truth(made["truth"])
	summits = midpoints(read_loci(made["peaks"], summits=True), summits=True)
	assert len(summits) == 150 and len({row["locus"] for row in rows}) == 150 < len(rows)
	alike = []
	for row in rows:
		codes = genome.codes(row["chrom"], int(row["start"]), int(row["end"]))
		codes = 3 - codes[::-1] if row["strand"] == "-" else codes
		assert "".join("ACGT"[c] for c in codes) == row["sequence"]
		assert summits[int(row["locus"].removeprefix("locus"))] == int(row["summit"])
		alike.append(np.mean([a == b for a, b in zip(row["sequence"], maker.MOTIFS[row["motif"]], strict=True)]))
	assert 0.94 < np.mean(alike) < 0.99


def test_reads_lie_around_the_motifs_as_the_truth_says(maker, made):
	windows = extract_windows(
		made["peaks"], made["genome"], made["signals"], in_window=10, out_window=200, summits=True
	)
	assert windows.signal_groups == (2, 2) and len(windows) == 150
	expected = np.zeros((150, 2))
	for row in _truth(made["truth"]):
		expected[int(row["locus"].removeprefix("locus"))] += [float(row["reads.0"]), float(row["reads.1"])]
	for g in range(2):
		assert np.corrcoef(windows.counts()[:, g], expected[:, g])[0, 1] > 0.95
	effects = maker.Design(**SMALL).effects()
	assert effects.shape == (2, 2) and effects[0, 0] == effects[1, 1] > effects[0, 1] == effects[1, 0]
	profile = np.asarray(windows.signals, dtype=float).sum(axis=0)
	plus, minus = ((profile[c] * np.arange(200)).sum() / profile[c].sum() for c in (0, 1))
	assert 30 < minus - plus < 60  # twice the shift, less what the background adds


def test_reads_count_to_the_bigwigs(made):
	"""5' ends counted by hand."""
	import pyBigWig

	for bed, tracks in zip([*made["reads"], made["control_reads"]], [*made["signals"], made["controls"]], strict=True):
		counts = {(sign, c): np.zeros(size) for c, size in made["chrom_sizes"].items() for sign in "+-"}
		with gzip.open(bed, "rt") as file:
			for line in file:
				chrom, start, end, _, _, sign = line.rstrip().split("\t")
				counts[sign, chrom][int(start) if sign == "+" else int(end) - 1] += 1
		for sign, path in zip("+-", tracks, strict=True):
			with pyBigWig.open(path) as file:
				for chrom, size in made["chrom_sizes"].items():
					values = np.nan_to_num(file.values(chrom, 0, size, numpy=True))
					assert values.any() and np.array_equal(values, counts[sign, chrom])


def test_negatives_hold_no_planted_motif(made):
	peaks, negatives = read_loci(made["peaks"]), read_loci(made["negatives"])
	assert len(negatives) == 150
	for chrom in made["chrom_sizes"]:
		ours, theirs = midpoints(negatives)[negatives.chroms == chrom], midpoints(peaks)[peaks.chroms == chrom]
		assert abs(ours[:, None] - theirs).min() > 100
	counts = [
		extract_windows(source, made["genome"], made["signals"], in_window=10, out_window=200).counts().mean()
		for source in (made["peaks"], made["negatives"])
	]
	assert counts[0] > 10 * counts[1]


def test_a_seed_names_the_data_and_other_outputs_leave_them_alone(maker, made, tmp_path):
	plain = {**SMALL, "reads": False, "stranded": False}
	again = maker.write(maker.Design(**SMALL, seed=3), tmp_path / "again")
	fewer = maker.write(maker.Design(**plain, seed=3), tmp_path / "fewer")
	other = maker.write(maker.Design(**plain, seed=4), tmp_path / "other")
	for key in ("genome", "peaks", "truth"):
		first, second, third, fourth = (Path(paths[key]).read_bytes() for paths in (made, again, fewer, other))
		assert first == second == third != fourth
	assert Path(made["signals"][1][0]).read_bytes() == Path(again["signals"][1][0]).read_bytes()
	assert len(fewer["signals"][0]) == 1 and fewer["reads"] is None
	together = extract_windows(made["peaks"], made["genome"], made["signals"], in_window=9, out_window=99).counts()
	unstranded = extract_windows(made["peaks"], made["genome"], fewer["signals"], in_window=9, out_window=99).counts()
	assert np.array_equal(together, unstranded)


def test_the_command_line_writes_the_same(maker, made, tmp_path, capsys):
	flags = "--megabases 0.4 --chroms 3 --loci 150 --groups 2 --stranded --control --reads --isochore 5000 --seed 3"
	maker.main([str(tmp_path), *flags.split()])
	assert '"genome"' in capsys.readouterr().out
	names = sorted(path.name for path in Path(made["genome"]).parent.iterdir() if not path.name.endswith(".gz"))
	assert names == sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".gz"))
	for name in names:
		assert (tmp_path / name).read_bytes() == (Path(made["genome"]).parent / name).read_bytes()


@pytest.mark.parametrize(
	"change, expected", [({"n_loci": 0}, "n_loci"), ({"megabases": 0.01}, "too few for 300 loci")], ids=["none", "full"]
)
def test_designs_that_make_no_sense(maker, change, expected):
	with pytest.raises(ValueError, match=expected):
		maker.Design(**{**SMALL, **change})
