"""Seqlets: where they are found, what becomes of overlapping windows, their motifs, and their files."""

import gzip
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from cherimoya.errors import InputError, MissingExtraError, MissingFileError, SettingsError
from cherimoya.interpret import seqlets as module
from cherimoya.interpret.seqlets import (
	Matches,
	Seqlets,
	annotate_seqlets,
	count_motifs,
	find_seqlets,
	read_seqlets,
	seqlet_codes,
	write_seqlets,
)
from cherimoya.io.genome import Genome
from cherimoya.io.loci import Loci
from cherimoya.io.motifs import Motif

pytest.importorskip("tangermeme.seqlet")

WIDTH, NOISE = 60, 0.01
FEW = pytest.mark.filterwarnings("ignore:tomtom was given:UserWarning")


def windows(starts: Sequence[int], width: int = WIDTH, chroms: Sequence[str] = ()) -> Loci:
	"""Windows at some places, on chr1 unless chromosomes are given."""
	n = len(starts)
	names = np.empty(n, dtype=object)
	names[:] = list(chroms) or ["chr1"] * n
	first = np.array(starts, dtype=np.int64)
	return Loci(names, first, first + width, np.full(n, -1), ("w.bed",), np.zeros(n, dtype=np.int32))


def contributions(n: int, planted: dict[tuple[int, int, int], float], width: int = WIDTH) -> np.ndarray:
	"""Noise in n windows, with values added at [start, end) of some."""
	values = np.random.default_rng(1).laplace(0, NOISE, (n, width)).astype(np.float32)
	for (row, start, end), value in planted.items():
		values[row, start:end] += value
	return values


def places(found: Seqlets) -> list[tuple[str, int, int]]:
	return list(zip(found.chroms, found.starts.tolist(), found.ends.tolist(), strict=True))


PLANTED = {(3, 20, 30): 0.5, (7, 0, 8): 0.5, (8, 52, 60): 0.5, (5, 30, 40): -0.5}


def test_planted_stretches_are_found():
	"""Stretches of either sign, with flanks up to the window's ends, in order of the genome."""
	starts = [1_000 + 100 * i for i in range(40)]
	chroms = ["chr2"] * 5 + ["chr10"] * 35
	found = find_seqlets(contributions(40, PLANTED), windows(starts, chroms=chroms), threshold=1e-4)
	planted = [("chr10", 1_530, 1_540), ("chr10", 1_700, 1_708), ("chr10", 1_852, 1_860), ("chr2", 1_320, 1_330)]
	assert [chrom for chrom, _, _ in places(found)] == [chrom for chrom, _, _ in planted]
	for (_, start, end), (_, first, last), row in zip(places(found), planted, [5, 7, 8, 3], strict=True):
		window = starts[row]
		# A stretch of 4 bp that holds a planted base stands out, so 3 bp more belong to it; then come the flanks.
		assert max(first - 6, window) <= start <= max(first - 3, window)
		assert min(last + 3, window + WIDTH) <= end <= min(last + 6, window + WIDTH)
	assert (found.attributions < 0).tolist() == [True, False, False, False]
	assert found.rows.tolist() == [5, 7, 8, 3]
	assert found.attributions == pytest.approx([-5, 4, 4, 5], abs=0.2)
	assert (found.p_values < 1e-4).all() and found.n_repeats == 0


@pytest.mark.parametrize("flanks", [0, 3, 40])
def test_as_tangermeme_finds_them(flanks):
	"""Positive seqlets are tangermeme's, and negative ones those of the contributions with the sign turned."""
	from tangermeme.seqlet import recursive_seqlets

	values = contributions(50, {(i, 10 + i // 2, 18 + i // 2): (-1) ** i * 0.1 for i in range(0, 50, 3)})
	options = {"threshold": 0.005, "min_seqlet_len": 5, "max_seqlet_len": 12, "additional_flanks": flanks}
	found = find_seqlets(values, windows([100 * i for i in range(50)]), **options)
	expected = []
	for sign in (1, -1):
		table = recursive_seqlets(sign * values, **options)
		rows = zip(*(table[name].tolist() for name in table.columns), strict=True)
		expected += [(100 * row + start, 100 * row + end, sign * total, p) for row, start, end, total, p in rows]
	ours = zip(found.starts, found.ends, found.attributions, found.p_values, strict=True)
	assert [tuple(row) for row in ours] == sorted(expected)
	assert len(expected) > 10


@pytest.mark.parametrize("dip", [0.001, -0.001], ids=["above 0", "below 0"])
def test_where_nearly_all_contributions_are_positive_the_weakest_are_no_negative_seqlets(dip):
	"""With the sign turned, stretches near 0 stand out among sums far below it."""
	rng = np.random.default_rng(0)
	values = np.abs(rng.normal(0.2, 0.05, (60, 100))).astype(np.float32)
	values[::2, 40:50] += 2
	values[1::2, 60:64] = dip
	found = find_seqlets(values, windows([200 * i for i in range(60)], width=100), threshold=0.05)
	assert (found.attributions > 0).all()
	assert set(found.rows.tolist()) == set(range(0, 60, 2))
	assert all(30 < start - 200 * row < 60 for start, row in zip(found.starts, found.rows, strict=True))


@pytest.mark.parametrize("wrap", [np.asarray, torch.tensor, lambda x: torch.tensor(x, requires_grad=True)])
@pytest.mark.parametrize("block", [7, 1_024])
def test_hypothetical_contributions(monkeypatch, wrap, block):
	"""Hypothetical contributions and one-hot sequences give what those of the bases there are give, in any blocks."""
	values = contributions(30, PLANTED)
	rng = np.random.default_rng(2)
	codes = rng.integers(0, 4, values.shape)
	hot = (codes[:, None] == np.arange(4)[:, None]).astype(np.int8)
	hypothetical = rng.normal(size=hot.shape).astype(np.float32)
	np.put_along_axis(hypothetical, codes[:, None], values[:, None], axis=1)
	where = windows([100 * i for i in range(30)])
	expected = find_seqlets(values, where)
	monkeypatch.setattr(module, "_BLOCK", block)
	found = find_seqlets(wrap(hypothetical), where, torch.tensor(hot))
	for name in ("starts", "ends", "attributions", "p_values", "rows"):
		np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
	assert len(found) == len(PLANTED)


def test_overlapping_windows():
	"""A stretch that two windows have is kept once, with the lower p-value; one that follows another is another."""
	planted = {(0, 40, 50): 0.5, (1, 20, 30): 0.6, (3, 10, 20): 0.5, (4, 31, 41): -0.9}
	found = find_seqlets(
		contributions(40, planted),
		windows([0, 20, 200, 300, 279, *range(1_000, 4_500, 100)]),
		threshold=1e-4,
		additional_flanks=0,
	)
	(_, *one), (_, *other) = places(found)
	assert 37 <= one[0] <= 40 and 50 <= one[1] <= 53 and 307 <= other[0] <= 310 and 320 <= other[1] <= 323
	assert found.rows.tolist() == [1, 4] and (found.attributions < 0).tolist() == [False, True]
	assert found.n_repeats == 2


@pytest.mark.parametrize("seed", range(5))
def test_which_of_overlapping_calls_are_kept(seed):
	"""As an obvious loop keeps them: by p-value, unless half of the shorter one is shared with one that is kept."""
	rng = np.random.default_rng(seed)
	n = 300
	starts = rng.integers(0, 600, n)
	lengths = rng.integers(4, 26, n)
	chroms = rng.choice(["chr1", "chr2", "chrX"], n)
	p_values = rng.choice([1e-3, 1e-4, 1e-5, 1e-6], n)
	calls = module._Calls(np.arange(n), starts % 7, starts % 7 + lengths, p_values)
	kept = module._distinct(calls, windows(starts - starts % 7, chroms=chroms))
	ends = starts + lengths
	expected: list[int] = []
	for i in sorted(range(n), key=lambda i: (p_values[i], i)):
		for j in expected:
			shared = min(ends[i], ends[j]) - max(starts[i], starts[j])
			if chroms[i] == chroms[j] and 2 * shared >= min(lengths[i], lengths[j]):
				break
		else:
			expected.append(i)
	assert sorted(kept.tolist()) == sorted(expected)
	assert 0 < len(expected) < n


@pytest.mark.parametrize(
	("values", "options"),
	[
		(np.zeros((3, 50)), {}),
		(np.full((1, 1), 0.5), {}),
		(contributions(20, PLANTED)[:, :10], {"min_seqlet_len": 11}),
		(contributions(20, PLANTED), {"threshold": 1e-300}),
	],
	ids=["zeros", "one base", "windows shorter than a seqlet", "low threshold"],
)
def test_no_seqlets(values, options):
	"""Where there is nothing to find, the table has no rows."""
	found = find_seqlets(values, windows([200 * i for i in range(len(values))], values.shape[1]), **options)
	assert len(found) == 0 and places(found) == [] and found.n_repeats == 0


GOOD = contributions(3, {})
NAN = np.where(np.arange(3)[:, None] == 1, np.nan, GOOD)


@pytest.mark.parametrize(
	("values", "where", "options", "kind", "words"),
	[
		(GOOD, windows([0, 100]), {}, InputError, "w.bed: has 2 intervals for attributions of 3 windows"),
		(GOOD, windows([0, 100, 200], 61), {}, InputError, r"3 intervals are not .* 60 bp \(first: chr1:0-61\)"),
		(NAN, windows([0, 100, 200]), {}, InputError, r"1 of 3 windows hold NaN or infinities \(first: number 2\)"),
		(GOOD[0], windows([0]), {}, InputError, r"shape \(windows, 4, length\), got \(60,\)"),
		(np.zeros((2, 60, 4)), windows([0, 1]), {}, InputError, r"shape \(windows, 4, length\)"),
		(np.zeros((2, 4, 60)), windows([0, 1]), {}, InputError, "hypothetical contributions need the sequences"),
		(np.zeros((2, 4, 60)), windows([0, 1]), {"sequences": np.zeros((1, 4, 60))}, InputError, "must have one shape"),
		(np.zeros((0, 60)), windows([0]), {}, InputError, "give at least one window"),
		(GOOD, windows([0, 1, 2]), {"threshold": 1.0}, SettingsError, "threshold"),
		(GOOD, windows([0, 1, 2]), {"threshold": float("nan")}, SettingsError, "threshold"),
		(GOOD, windows([0, 1, 2]), {"min_seqlet_len": 26}, SettingsError, "min_seqlet_len is 26 and max_seqlet_len 25"),
		(GOOD, windows([0, 1, 2]), {"min_seqlet_len": 0}, SettingsError, "at least 1"),
		(GOOD, windows([0, 1, 2]), {"additional_flanks": -1}, SettingsError, "additional_flanks"),
	],
)
def test_unfit_arguments(values, where, options, kind, words):
	with pytest.raises(kind, match=words):
		find_seqlets(values, where, **options)


@pytest.mark.parametrize(
	("package", "call"),
	[
		("tangermeme.seqlet", lambda: find_seqlets(GOOD, windows([0, 1, 2]))),
		("memelite.io", lambda: annotate_seqlets([np.zeros(4, dtype=np.uint8)], MOTIFS)),
	],
)
def test_missing_packages(monkeypatch, package, call):
	monkeypatch.setitem(sys.modules, package, None)
	with pytest.raises(MissingExtraError, match=r"pip install 'cherimoya\[motifs\]'"):
		call()


# ---- motifs -----------------------------------------------------------------------------------------


def motif(name: str, bases: str) -> Motif:
	pwm = np.full((4, len(bases)), 0.02)
	for i, base in enumerate(bases):
		pwm["ACGT".index(base), i] = 0.94
	return Motif(name, name, pwm)


def codes(bases: str) -> np.ndarray:
	return np.array(["ACGTN".index(base) for base in bases], dtype=np.uint8)


WORDS = ["TGACTCA", "CCACGTGG", "GATAAGCC", "TTAACCGG", "AAAATTTCC", "GGGCGGGG"]
MOTIFS = [motif(f"M{i}", word) for i, word in enumerate(WORDS)]
FLIP = str.maketrans("ACGT", "TGCA")


def alike(queries: list[np.ndarray], targets: list[np.ndarray], *, n_nearest: int, **_: Any) -> tuple:
	"""In the place of Tomtom, which takes long to compile: the most bases alike at any offset, as if p-values."""
	found = np.zeros((6, len(queries), n_nearest))
	for i, query in enumerate(queries):
		scores = np.zeros((2, len(targets)))
		for strand, turned in enumerate([targets, [target[::-1, ::-1] for target in targets]]):
			for j, target in enumerate(turned):
				wide = np.pad(query, ((0, 0), (target.shape[1], target.shape[1])))
				offsets = range(wide.shape[1] - target.shape[1] + 1)
				scores[strand, j] = max((wide[:, k : k + target.shape[1]] * target).sum() for k in offsets)
		nearest = np.argsort(-scores.max(axis=0), kind="stable")[:n_nearest]
		found[0, i] = np.exp(-scores.max(axis=0)[nearest])
		found[4, i] = scores.argmax(axis=0)[nearest]
		found[5, i] = nearest
	return tuple(found)


@pytest.fixture
def quick_tomtom(monkeypatch):
	monkeypatch.setattr(pytest.importorskip("memelite.tomtom"), "tomtom", alike)


def check_known_words(matches: Matches) -> None:
	"""Words of the database and their reverse complements are told, and a sequence of Ns is like none."""
	assert matches.indices[:, 0].tolist() == [0, 0, 2, -1, 4, 4]
	assert matches.strands[:, 0].tolist() == ["+", "-", "+", ".", "-", "+"]
	assert matches.p_values[3, 0] == 1 and (np.delete(matches.p_values[:, 0], 3) < 0.05).all()


def words() -> list[np.ndarray]:
	turned = [WORDS[i].translate(FLIP)[::-1] for i in range(len(WORDS))]
	return [codes(text) for text in ("GTGACTCAA", f"CC{turned[0]}G", WORDS[2], "NNNNNN", turned[4], f"{WORDS[4]}NN")]


@pytest.mark.parametrize("block", [1, 2, 1_024])
def test_nearest_motifs(quick_tomtom, monkeypatch, block):
	"""Nearest motifs with strands, in any blocks; progress reaches the end."""
	monkeypatch.setattr(module, "_BLOCK", block)
	seen: list[tuple[int, int]] = []
	matches = annotate_seqlets(words(), MOTIFS, n_nearest=2, progress=lambda done, total: seen.append((done, total)))
	check_known_words(matches)
	assert matches.indices.shape == (6, 2) and (matches.p_values[:, 0] <= matches.p_values[:, 1]).all()
	assert seen[-1] == (6, 6) and [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_no_sequences_and_more_motifs_than_there_are(quick_tomtom):
	assert annotate_seqlets([], MOTIFS).indices.shape == (0, 1)
	assert annotate_seqlets(words(), MOTIFS, n_nearest=100).indices.shape == (6, len(MOTIFS))
	with pytest.raises(InputError, match="no motif was given"):
		annotate_seqlets(words(), [])


@pytest.mark.slow
@FEW
@pytest.mark.parametrize("n_jobs", [None, 1, 99])
def test_nearest_motifs_by_tomtom(n_jobs):
	"""Tomtom itself tells the words."""
	check_known_words(annotate_seqlets(words(), MOTIFS, n_jobs=n_jobs))


@pytest.mark.slow
def test_as_tangermeme_names_them(monkeypatch, shared, tmp_path):
	"""Motifs and p-values are those of tangermeme's function, in blocks too, from a gzipped file and a plain one."""
	from tangermeme.annotate import annotate_seqlets as expected_seqlets

	pandas = pytest.importorskip("pandas")
	path = shared / "data" / "motifs" / "JASPAR2024_CORE_fungi_non-redundant.meme.gz"
	rng = np.random.default_rng(3)
	lengths = rng.integers(6, 25, 40)
	sequences = [rng.integers(0, 4, length).astype(np.uint8) for length in lengths]
	matches = annotate_seqlets(sequences, path, n_nearest=3)
	X = torch.zeros((len(sequences), 4, max(lengths)), dtype=torch.float64)
	for i, sequence in enumerate(sequences):
		X[i, :, : len(sequence)] = torch.tensor(sequence == np.arange(4)[:, None])
	table = pandas.DataFrame({"example": range(40), "start": 0, "end": lengths})
	motifs = {str(motif): torch.tensor(motif.pwm) for motif in matches.motifs}
	indices, p_values = expected_seqlets(X, table, motifs, n_nearest=3, n_cache=250)
	np.testing.assert_array_equal(matches.indices, indices.numpy())
	np.testing.assert_allclose(matches.p_values, p_values.numpy(), rtol=1e-9)
	plain = tmp_path / "plain.meme"
	plain.write_bytes(gzip.decompress(path.read_bytes()))
	monkeypatch.setattr(module, "_BLOCK", 7)
	again = annotate_seqlets(sequences, plain, n_nearest=3)
	for name in ("indices", "p_values", "strands"):
		np.testing.assert_array_equal(getattr(again, name), getattr(matches, name))


def table(*rows: tuple[str, int, int, float]) -> Seqlets:
	"""Seqlets of which p-values do not matter."""
	chroms = np.empty(len(rows), dtype=object)
	chroms[:] = [row[0] for row in rows]
	starts, ends = (np.array([row[i] for row in rows], dtype=np.int64) for i in (1, 2))
	return Seqlets(chroms, starts, ends, np.array([row[3] for row in rows]), np.full(len(rows), 0.001))


def test_counts_of_motifs():
	"""Nearest motifs within the threshold, by sign; the most frequent first, then in the order of the database."""
	found = table(*(("chr1", 10 * i, 10 * i + 5, total) for i, total in enumerate([1, -1, 2, 3, -4, 5])))
	indices = np.array([[2, 0], [2, 1], [1, 0], [0, 1], [0, 1], [-1, -1]])
	p_values = np.array([[0.1, 1], [0.25, 1], [0.2, 1], [0.3, 1], [0.34, 1], [1, 1]])  # E-values are 3 times as large
	matches = Matches(MOTIFS[:3], indices, p_values, np.full((6, 2), "+"))
	counts = [(str(count.motif), *count[1:]) for count in count_motifs(found, matches)]
	assert counts == [("M2", 2, 1, 1), ("M0", 1, 1, 0), ("M1", 1, 1, 0)]
	assert [count.n for count in count_motifs(found, matches, match_threshold=0.75)] == [2, 1]  # equal is within
	assert [count.n for count in count_motifs(found, matches, match_threshold=3)] == [2, 2, 1]
	assert count_motifs(found[:0], Matches(MOTIFS, indices[:0], p_values[:0], matches.strands[:0])) == []


# ---- sequences and files ----------------------------------------------------------------------------


def test_sequences_of_seqlets():
	genome = Genome({"chr1": "ACGTNACGT", "2": "TTTT"}, chrom_aliases=True)
	found = seqlet_codes(table(("chr1", 2, 6, 1), ("chr2", 0, 4, 1), ("chr1", 0, 9, -1)), genome)
	assert [sequence.tolist() for sequence in found] == [[2, 3, 4, 0], [3] * 4, [0, 1, 2, 3, 4, 0, 1, 2, 3]]
	assert seqlet_codes(table(), genome) == []


def test_seqlets_in_any_order_read_each_chromosome_once(tmp_path, make_fasta, monkeypatch):
	read = []
	monkeypatch.setattr(
		"cherimoya.io.genome._read_record", lambda file, chrom, record: read.append(chrom) or np.zeros(20, np.uint8)
	)
	genome = Genome(make_fasta(tmp_path / "a.fa", {"chr1": "A" * 20, "chr2": "C" * 20}))
	seqlet_codes(table(*(("chr1", 0, 4, 1), ("chr2", 5, 9, 1)) * 3), genome)
	assert read == ["chr1", "chr2"]


@pytest.mark.parametrize(
	("row", "words"),
	[
		(("chr1", 5, 10, 1), r"x.bed: 1 of 2 seqlets are not in arrays \(first: chr1:5-10; chr1 has 9 bp\)"),
		(("chrQ", 5, 10, 1), "arrays has no chrQ"),
		(("chr1", -1, 3, 1), "chr1:-1-3"),
	],
)
def test_seqlets_off_the_genome(row, words):
	with pytest.raises(InputError, match=words):
		seqlet_codes(table(("chr1", 0, 4, 1), row), Genome({"chr1": "ACGTNACGT"}), source="x.bed")


def test_files(tmp_path):
	"""What is written is read again; the first line names the columns, and motifs come behind them."""
	found = table(("chr1", 5, 12, 1.23456789), ("chrX", 0, 7, -2e-7))
	write_seqlets(tmp_path / "x.bed", found)
	text = "#chrom\tstart\tend\tattribution\tp-value\nchr1\t5\t12\t1.23457\t0.001\nchrX\t0\t7\t-2e-07\t0.001\n"
	assert (tmp_path / "x.bed").read_text() == text
	(tmp_path / "x.bed.gz").write_bytes(gzip.compress(text.encode()))
	for name in ("x.bed", "x.bed.gz"):
		again = read_seqlets(tmp_path / name)
		assert places(again) == places(found) and again.rows is None
		assert again.attributions.tolist() == [1.23457, -2e-7] and again.p_values.tolist() == [0.001] * 2
	indices = np.array([[1, 0], [-1, -1]])
	strands = np.array([["+", "-"], [".", "."]])
	matches = Matches(MOTIFS[:2], indices, np.array([[1e-9, 0.5], [1, 1]]), strands)
	write_seqlets(tmp_path / "y.bed", found, matches)
	head, first, second = (tmp_path / "y.bed").read_text().splitlines()
	names = ["strand", "motif", "motif_p-value", "strand_2", "motif_2", "motif_p-value_2"]
	assert head.split("\t")[5:] == [*names, "motif_E-value", "motif_E-value_2"]
	assert first.split("\t")[5:] == ["+", "M1", "1e-09", "-", "M0", "0.5", "2e-09", "1"]
	assert second.split("\t")[5:] == [".", ".", "1", ".", ".", "1", "2", "2"]  # no base to compare: it has no name
	assert places(read_seqlets(tmp_path / "y.bed")) == places(found)


def test_files_without_seqlets(tmp_path):
	write_seqlets(tmp_path / "x.bed", table())
	assert len(read_seqlets(tmp_path / "x.bed")) == 0


@pytest.mark.parametrize(
	("text", "words"),
	[
		(
			"chr1\t1\t5\n",
			"line 1: 3 columns; a file of seqlets has the columns chrom, start, end, attribution, p-value",
		),
		("#x\nchr1\t1\t5\t0.1\t0.1\nchr1\t7\t7\t0.1\t0.1\n", "line 3: the interval 7-7"),
		("chr1\t-1\t7\t0.1\t0.1\n", "line 1: the interval -1-7"),
		("chr1\tA\t7\t0.1\t0.1\n", "line 1: .*'A'"),
		("chr1\t1\t7\tnan\t0.1\n", "line 1: attribution nan"),
		("chr1\t1\t7\t0.1\t2\n", "line 1: .*p-value 2"),
		("x\n" * 5, "line 1: 1 columns; line 2: 1 columns; line 3: 1 columns and 2 more"),
	],
	ids=["three columns", "empty", "negative", "no number", "nan", "p-value above 1", "many"],
)
def test_malformed_files(tmp_path, text, words):
	(tmp_path / "x.bed").write_text(text)
	with pytest.raises(InputError, match=f"x.bed: {words}"):
		read_seqlets(tmp_path / "x.bed")


def test_missing_file(tmp_path):
	with pytest.raises(MissingFileError, match="no such file"):
		read_seqlets(tmp_path / "x.bed")
