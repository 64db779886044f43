"""GC-matched background loci: the filters, the matching, the files and the command."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cherimoya.errors import InputError, MissingFileError
from cherimoya.io.genome import Genome
from cherimoya.io.loci import read_loci
from cherimoya.io.negatives import FILTERS, gc_content, gc_matched_negatives, ks_distance, match_bins

W = 100


def _table(rows):
	return {"chrom": [r[0] for r in rows], "start": [r[1] for r in rows], "end": [r[2] for r in rows]}


@pytest.fixture(scope="module")
def world():
	"""Two chromosomes whose GC content wanders between 0.2 and 0.8, a stretch of N, and loci in the GC-rich parts."""
	rng = np.random.default_rng(4)
	sequences = {}
	for chrom, size in {"chrB": 60_050, "chrA": 30_000}.items():
		gc = 0.5 + 0.3 * np.sin(np.arange(size) / 900)
		strong = rng.random(size) < gc
		sequences[chrom] = np.where(strong, rng.choice(list("CG"), size), rng.choice(list("AT"), size))
	sequences["chrB"][20_000:21_030] = "N"
	sequences = {c: "".join(s) for c, s in sequences.items()}
	genome = Genome(sequences)
	rows = []
	for chrom, s in sequences.items():
		for mid in range(300, len(s) - 300, 130):
			window = s[mid - 50 : mid + 50]
			if rng.random() < 0.25 * ((window.count("G") + window.count("C")) / W) and "N" not in window:
				rows.append((chrom, mid - 20, mid + 20))
	return {"sequences": sequences, "genome": genome, "rows": rows}


def _find(world, **options):
	return gc_matched_negatives(_table(world["rows"]), world["genome"], in_window=W, out_window=40, **options)


@pytest.mark.parametrize("max_n_perc", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("excluded", [[], [("chrA", 5_000, 9_001), ("chrB", 99, 100)]], ids=["", "exclusion"])
def test_tiles_and_filters_agree_with_loops(world, max_n_perc, excluded):
	found = _find(world, exclusion_lists=[_table(excluded)] if excluded else None, max_n_perc=max_n_perc)
	removed, usable = dict.fromkeys(FILTERS, 0), set()
	for chrom, sequence in world["sequences"].items():
		for start in range(0, len(sequence) - W + 1, W):
			tile = (start, start + W)
			windows = [(s + 20 - 50, s + 20 + 50) for c, s, _ in world["rows"] if c == chrom]
			if any(lo < tile[1] and tile[0] < hi for lo, hi in windows):
				removed["overlaps a locus"] += 1
			elif any(c == chrom and s < tile[1] and tile[0] < e for c, s, e in excluded):
				removed["excluded"] += 1
			elif sequence[start : start + W].count("N") / W > max_n_perc:
				removed["too many N"] += 1
			else:
				usable.add((chrom, start, start + W))
	rows = list(zip(found.loci.chroms, found.loci.starts, found.loci.ends, strict=True))
	assert found.tiles == 600 + 300 and found.removed == removed and found.usable == len(usable)
	assert set(rows) <= usable and len(set(rows)) == len(rows) == len(found)


def test_gc_content_is_matched(world):
	found = _find(world)
	assert len(found) == found.requested == found.accounting.kept
	assert found.ks < 0.1 and abs(found.mean_gc_loci - found.mean_gc_negatives) < 0.01
	# Without matching the distance would be much larger: the loci were chosen to be rich in GC.
	tiles = np.array(
		[
			world["genome"].codes(c, s, s + W)
			for c in ("chrB", "chrA")
			for s in range(0, 30_000, W)
			if not 200 <= s // W <= 210
		]
	)
	loci = np.array([world["genome"].codes(c, s - 30, s + 70) for c, s, _ in world["rows"]])
	assert ks_distance(gc_content(loci), gc_content(tiles)) > 2 * found.ks
	assert found.gc_loci.sum() == len(loci) and found.gc_negatives.sum() == len(found)
	assert len(found.bin_edges) == len(found.gc_loci) + 1


def test_within_a_bin_gc_content_is_matched_too():
	"""Tiles lean to the low end of the one bin, loci to its high end."""
	rng = np.random.default_rng(0)
	gc = np.concatenate([np.repeat([0.30, 0.32, 0.34, 0.36, 0.38], [300, 200, 100, 60, 40])])
	tiles = ["C" * k + "A" * (W - k) for k in rng.permutation((100 * gc).round().astype(int))]
	loci = ["C" * k + "A" * (W - k) for k in np.repeat([30, 32, 34, 36, 38], [5, 10, 15, 20, 30])]
	genome = Genome({"chr1": "".join(tiles), "chr2": "".join(loci)})
	rows = [("chr2", i * W, (i + 1) * W) for i in range(len(loci))]
	found = gc_matched_negatives(
		_table(rows), genome, in_window=W, chroms=["chr1", "chr2"], bin_width=0.1, out_window=W
	)
	assert found.gc_negatives.tolist() == found.gc_loci.tolist() and found.ks == 0


def test_seeds(world):
	first, again, other = (_find(world, random_state=seed, n=60) for seed in (1, 1, 2))
	assert np.array_equal(first.loci.starts, again.loci.starts)
	assert not np.array_equal(first.loci.starts, other.loci.starts)
	drawn = _find(world, random_state=None, n=60)
	assert np.array_equal(drawn.loci.starts, _find(world, random_state=drawn.random_state, n=60).loci.starts)


def test_the_order_is_that_of_the_fasta(world):
	loci = _find(world).loci
	assert list(dict.fromkeys(loci.chroms)) == ["chrB", "chrA"]
	for chrom in ("chrB", "chrA"):
		assert (np.diff(loci.starts[loci.chroms == chrom]) > 0).all()


@pytest.mark.parametrize(
	"chroms, n", [(["chrA"], 300), (["chrA:1000-2000"], 10), (["chrA:1001-2000", "chrB"], 9 + 600)]
)
def test_only_the_chosen_regions_are_tiled(world, chroms, n):
	rows = [("chrA", 1_400, 1_500), ("chrB", 1_400, 1_500)]
	found = gc_matched_negatives(_table(rows), world["genome"], chroms=chroms, in_window=W, out_window=40)
	assert found.tiles == n


def test_more_than_there_are_gives_all_there_are(world):
	found = _find(world, n=5_000)
	assert found.requested == 5_000 and len(found) == found.usable < 900
	assert "wanted 5,000" in found.table() and "overlaps a locus" in found.table()


def test_counts_stay_below_the_ceiling(world, tmp_path, make_bigwig):
	sizes = world["genome"].chrom_sizes
	rng = np.random.default_rng(0)
	background = {c: rng.poisson(0.2, size) * 1.0 for c, size in sizes.items()}
	for chrom, start, _ in world["rows"]:
		background[chrom][start : start + 40] += 2
	second = {c: v[::-1].copy() for c, v in background.items()}
	paths = [str(make_bigwig(tmp_path / f"{i}.bw", sizes, v)) for i, v in enumerate((background, second))]
	for signals, tracks in ((paths[0], [[background]]), ([paths[0], paths], [[background], [background, second]])):
		found = _find(world, signals=signals, beta=0.2)
		for group, ceiling in zip(tracks, found.ceilings, strict=True):
			counts = [sum(t[c][s : s + 40].sum() for t in group) for c, s, _ in world["rows"]]
			assert ceiling == pytest.approx(0.2 * np.quantile(counts, 0.01))
			for chrom, start in zip(found.loci.chroms, found.loci.starts, strict=True):
				assert sum(t[chrom][start + 30 : start + 70].sum() for t in group) < ceiling
		assert found.removed["too many counts"] > 0


def test_a_ceiling_of_zero_lets_silent_tiles_pass(world, tmp_path, make_bigwig):
	sizes = world["genome"].chrom_sizes
	values = {c: (np.arange(size) % 1000 == 0) * 1.0 for c, size in sizes.items()}
	found = _find(world, signals=str(make_bigwig(tmp_path / "a.bw", sizes, values)), n=20)
	assert found.ceilings == (0.0,) and len(found) == 20 and found.removed["too many counts"] == 0
	values = {c: np.ones(size) for c, size in sizes.items()}
	with pytest.raises(InputError, match="No background locus is left") as caught:
		_find(world, signals=str(make_bigwig(tmp_path / "b.bw", sizes, values)), beta=0.5)
	assert "too many counts" in str(caught.value)


@pytest.mark.parametrize(
	"options, named",
	[
		({"bin_width": 0}, "bin_width"),
		({"max_n_perc": 1.5}, "max_n_perc"),
		({"beta": -1}, "beta"),
		({"n": 0}, "n must"),
		({"tilings": 0}, "tilings"),
		({"tilings": W + 1}, "tilings"),
	],
	ids=["bin width", "n fraction", "beta", "n", "no tiling", "more tilings than bases"],
)
def test_arguments_that_are_refused(world, options, named):
	with pytest.raises(ValueError, match=named):
		_find(world, **options)


def test_no_locus_to_match_is_an_error(world):
	with pytest.raises(InputError, match="no locus is left"):
		gc_matched_negatives(_table([("chrZ", 1, 9)]), world["genome"], in_window=W)
	with pytest.raises(InputError, match="stretches of N"):
		gc_matched_negatives(_table([("chrB", 20_500, 20_510)]), world["genome"], in_window=W, out_window=4)


@settings(max_examples=300, deadline=None)
@given(
	bins=st.lists(st.integers(0, 9), max_size=60),
	target=st.lists(st.integers(0, 12), min_size=10, max_size=10),
	seed=st.integers(0, 99),
)
def test_matching_takes_own_tiles_first_and_as_many_as_it_can(bins, target, seed):
	bins, target = np.array(bins, dtype=int), np.array(target)
	chosen = match_bins(bins, target, np.random.default_rng(seed))
	have, got = np.bincount(bins, minlength=10), np.bincount(bins[chosen], minlength=10)
	assert len(chosen) == min(len(bins), target.sum()) == len(set(chosen.tolist()))
	assert (got >= np.minimum(have, target)).all() and (np.diff(chosen) > 0).all()


@pytest.mark.parametrize(
	"have, target, expected",
	[
		([9, 9, 0, 9, 9], [0, 0, 6, 0, 0], [0, 3, 0, 3, 0]),
		([9, 9, 0, 9, 9], [0, 0, 5, 0, 0], [0, 3, 0, 2, 0]),
		([9, 1, 0, 9, 9], [0, 0, 6, 0, 0], [2, 1, 0, 3, 0]),
		([1, 1, 0, 9, 9], [0, 0, 6, 0, 0], [1, 1, 0, 4, 0]),
		([9, 1, 0, 2, 9], [0, 0, 6, 0, 0], [2, 1, 0, 2, 1]),
		([0, 9, 9, 9, 9], [4, 0, 0, 0, 0], [0, 4, 0, 0, 0]),
		([2, 2, 2, 2, 2], [9, 9, 9, 9, 9], [2, 2, 2, 2, 2]),
	],
	ids=["both sides", "odd", "further below", "one side is short", "further away", "at the edge", "all"],
)
def test_a_short_bin_borrows_from_the_nearest_on_both_sides(have, target, expected):
	bins = np.repeat(np.arange(5), have)
	chosen = match_bins(bins, np.array(target), np.random.default_rng(0))
	assert np.bincount(bins[chosen], minlength=5).tolist() == expected


def test_ks_distance_agrees_with_scipy():
	scipy_stats = pytest.importorskip("scipy.stats")
	rng = np.random.default_rng(0)
	for n, m in ((5, 9), (100, 40), (1, 1)):
		a, b = rng.normal(size=n).round(1), rng.normal(0.3, size=m).round(1)
		assert ks_distance(a, b) == pytest.approx(scipy_stats.ks_2samp(a, b).statistic, abs=1e-12)


def test_gc_content_leaves_unknown_bases_out():
	codes = np.array([[0, 1, 2, 3], [4, 4, 1, 0], [4, 4, 4, 4]], dtype=np.uint8)
	assert gc_content(codes)[:2].tolist() == [0.5, 0.5] and np.isnan(gc_content(codes)[2])


# ---- further tilings ------------------------------------------------------------------------------------------------


def test_shifted_tilings_fill_bins_that_are_short():
	"""A GC-rich stretch that lies across the border of two tiles fills neither, but one of the second tiling."""
	poor, rich = "AT" * 500, "CG" * 50
	genome = Genome({"chr1": poor + "A" * 50 + rich + poor, "chr2": rich * 2})
	options = {"in_window": W, "out_window": W, "chroms": ["chr1", "chr2"]}
	once, twice = (gc_matched_negatives(_table([("chr2", 50, 150)]), genome, **options, tilings=k) for k in (1, 2))
	assert once.loci.starts.tolist() in ([1000], [1100]) and once.mean_gc_negatives == 0.5 and once.shifted == 0
	assert twice.loci.starts.tolist() == [1050] and twice.mean_gc_negatives == 1 and twice.shifted == 1
	assert "1 of them of shifted tilings" in twice.table() and "shifted" not in once.table()
	assert once.ks_least == twice.ks_least == 1 and (once.ks, twice.ks) == (1, 0)


@pytest.mark.parametrize("n", [100, 300, 500, 900])
def test_further_tilings_never_match_worse(world, n):
	few = {**world, "rows": [row for row in world["rows"] if row[1] % 3 == 0]}
	once, twice, five = (_find(few, tilings=k, n=n) for k in (1, 2, 5))
	for more in (twice, five):
		assert (len(more), -more.ks) >= (len(once), -once.ks)
	if n == 300:
		assert five.shifted > 0 and five.ks < once.ks


# ---- the picture ----------------------------------------------------------------------------------------------------


def test_plot_gc_draws_shares_of_loci_and_background(world, tmp_path):
	pytest.importorskip("matplotlib")
	from matplotlib.figure import Figure

	from cherimoya.plot import plot_gc

	found = _find(world)
	path = tmp_path / "a.record.json"
	path.write_text(json.dumps(found.to_dict()))
	for source in (found, found.to_dict(), path):
		ax = plot_gc(source, ax=Figure().add_subplot(), title="GC")
		shares = [patch.get_data().values for patch in ax.patches]
		assert shares[0] == pytest.approx(100 * found.gc_loci / found.gc_loci.sum())
		assert shares[1] == pytest.approx(100 * found.gc_negatives / len(found))
		assert f"{found.ks:.3f}" in ax.get_legend().get_title().get_text()
		assert [text.get_text() for text in ax.get_legend().get_texts()] == ["loci", "background"]


SHORT = '{"bin_edges": [0, 1], "gc_loci": [], "gc_negatives": [], "ks": 0}'


@pytest.mark.parametrize(
	"content, expected",
	[("{", "JSON"), ('{"a": 1}', "no record"), (SHORT, "(0,)")],
	ids=["no JSON", "another record", "shapes"],
)
def test_plot_gc_names_what_is_no_record(tmp_path, content, expected):
	from cherimoya.plot import plot_gc

	path = tmp_path / "a.json"
	with pytest.raises(MissingFileError, match="no such file"):
		plot_gc(path)
	path.write_text(content)
	with pytest.raises(InputError) as caught:
		plot_gc(path)
	assert expected in str(caught.value) and "a.json" in str(caught.value)


# ---- the command ----------------------------------------------------------------------------------------------------


def _run(*argv):
	from cherimoya_cli.__main__ import main

	return main(["negatives", *map(str, argv)])


def _flags(tiny, output, *more):
	return ["-i", tiny.peaks, "-f", tiny.fasta, "-b", tiny.signal, "-o", output, "-w", "120", "-x", "60", *more]


def test_the_command_writes_the_same_file_twice(tiny_genome, tmp_path, capsys):
	for name in ("a", "b"):
		output = tmp_path / "new folder" / f"{name}.bed"
		assert _run(*_flags(tiny_genome, output, "--exclusion", tiny_genome.exclusion, "--seed", 3, "-v")) == 0
	first, second = ((tmp_path / "new folder" / f"{n}.bed").read_text() for n in "ab")
	assert first == second and len(first.splitlines()) == 82
	printed = capsys.readouterr().out
	assert "Loci to match" in printed and "overlaps a locus" in printed and "Kolmogorov" in printed
	record = json.loads((tmp_path / "new folder" / "a.record.json").read_text())
	assert record["found"] == 82 and record["random_state"] == 3 and record["accounting"]["dropped"]["excluded"] == 1
	loci = read_loci(tmp_path / "new folder" / "a.bed")
	assert ((loci.ends - loci.starts) == 120).all()
	rows = [line.split("\t") for line in (tmp_path / "new folder" / "a.accounting.tsv").read_text().splitlines()]
	assert rows[0] == ["split", "file", "reason", "count"]
	assert ["loci", "all", "excluded", "1"] in rows and ["loci", "all", "kept", "82"] in rows
	assert ["tiles", "all", "overlaps a locus", str(record["removed"]["overlaps a locus"])] in rows


def test_flags_beat_the_json_and_set(tiny_genome, tmp_path, capsys):
	parameters = tmp_path / "p.json"
	content = {
		"loci": str(tiny_genome.peaks),
		"sequences": str(tiny_genome.fasta),
		"in_window": 200,
		"out_window": 60,
		"name": str(tmp_path / "run"),
		"random_state": None,
		"verbose": False,
	}
	parameters.write_text(json.dumps(content))
	assert _run("-p", parameters, "--set", "n=7", "--chroms", "chr2", "chr3", "-w", 90) == 0
	loci = read_loci(tmp_path / "run.negatives.bed")
	assert len(loci) == 7 and set(loci.chroms) <= {"chr2", "chr3"} and ((loci.ends - loci.starts) == 90).all()
	assert "The seed drawn is" in capsys.readouterr().out
	assert _run("-p", parameters, "-w", 90, "--explain") == 0
	assert "in_window" in capsys.readouterr().out


@pytest.mark.parametrize("kind, magic", [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_the_command_draws_the_gc_content(tiny_genome, tmp_path, capsys, kind, magic):
	pytest.importorskip("matplotlib")
	picture = tmp_path / f"gc.{kind}"
	assert _run(*_flags(tiny_genome, tmp_path / "a.bed", "--plot", picture, "--tilings", 2, "-j", 1)) == 0
	assert picture.read_bytes().startswith(magic) and str(picture) in capsys.readouterr().out
	record = json.loads((tmp_path / "a.record.json").read_text())
	assert record["settings"]["tilings"] == 2 and record["settings"]["n_jobs"] == 1
	assert sorted(p.name for p in tmp_path.iterdir()) == ["a.accounting.tsv", "a.bed", "a.record.json", f"gc.{kind}"]


def test_the_command_does_not_import_torch(tiny_genome, tmp_path):
	code = (
		"import sys\n"
		"from cherimoya_cli.__main__ import main\n"
		"code = main(sys.argv[1:])\n"
		"sys.exit(code or 'torch' in sys.modules)"
	)
	argv = ["negatives", *map(str, _flags(tiny_genome, tmp_path / "a.bed"))]
	done = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=600)
	assert done.returncode == 0, done.stderr


def test_fewer_than_asked_for_is_said(tiny_genome, tmp_path, capsys):
	assert _run(*_flags(tiny_genome, tmp_path / "a.bed", "--set", "n=100000")) == 0
	captured = capsys.readouterr()
	assert "of the 100,000 background loci asked for" in captured.err and "wanted 100,000" in captured.out


@pytest.mark.parametrize(
	"more, code, expected",
	[
		(["-l", "0"], 2, "bin_width"),
		(["-n", "1.5"], 2, "max_n_perc"),
		(["-f", "missing.fa"], 3, "missing.fa"),
		(["--chroms", "chr9"], 3, "no locus is left"),
		(["-b", "missing.bw"], 3, "missing.bw"),
		(["--unknown"], 2, "--unknown"),
		(["--tilings", "121"], 2, "tilings is 121"),
		(["--plot", "a.doc"], 2, "a.doc"),
		(["--plot", "nowhere/a.png"], 3, "nowhere/a.png"),
	],
	ids=["bin width", "n fraction", "fasta", "chromosome", "bigwig", "flag", "tilings", "picture", "picture's folder"],
)
def test_what_the_command_refuses(tiny_genome, tmp_path, capsys, more, code, expected):
	assert _run(*_flags(tiny_genome, tmp_path / "a.bed", *more)) == code
	assert expected in capsys.readouterr().err
	assert not list(tmp_path.iterdir())
