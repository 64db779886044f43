"""GC-matched background loci against a slow, obvious implementation, on random small genomes."""

import bisect
import itertools
import subprocess
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cherimoya.errors import InputError
from cherimoya.io._scan import scan
from cherimoya.io.genome import Genome
from cherimoya.io.negatives import FILTERS, _borrow, _scaled, gc_matched_negatives, ks_distance, least_ks_distance
from cherimoya.io.tracks import Tracks

POPEN = subprocess.Popen
CHROMS = ("chr2", "chr10", "chr1")  # in no alphabetical order


class Case(NamedTuple):
	"""One search: sequences, loci, exclusion regions, and the options."""

	sequences: dict[str, str]
	loci: list[tuple[str, int, int]]
	excluded: list[tuple[str, int, int]]
	values: dict[str, np.ndarray] | None
	line: int
	options: dict


@st.composite
def cases(draw, *, signals: bool) -> Case:
	rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
	in_window = draw(st.integers(1, 40))
	sizes = draw(st.lists(st.integers(1, 900), min_size=1, max_size=3))
	sequences = {chrom: _sequence(rng, size) for chrom, size in zip(CHROMS, sizes, strict=False)}
	names = [*sequences, "chrZ"] if draw(st.booleans()) else list(sequences)
	loci = _intervals(rng, sequences, names, draw(st.integers(1, 25)))
	excluded = _intervals(rng, sequences, names, draw(st.integers(0, 4)))
	options = {
		"in_window": in_window,
		"out_window": draw(st.integers(1, in_window + 5)),
		"bin_width": draw(st.sampled_from([0.02, 0.1, 0.15, 1 / 3, 1.0])),
		"max_n_perc": draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
		"n": draw(st.none() | st.integers(1, 60)),
		"tilings": draw(st.integers(1, min(4, in_window))),
		"random_state": draw(st.integers(0, 9)),
	}
	values = None
	if signals:
		options["beta"] = draw(st.sampled_from([0.0, 0.5, 1.0, 3.0]))
		values = {c: rng.poisson(0.3, len(s)).astype(np.float32) for c, s in sequences.items()}
	return Case(sequences, loci, excluded, values, draw(st.integers(1, 70)), options)


def _sequence(rng, size):
	gc = np.repeat(rng.uniform(0.1, 0.9, size // 50 + 1), 50)[:size]
	letters = np.where(rng.random(size) < gc, rng.choice(list("CGcg"), size), rng.choice(list("ATat"), size))
	for _ in range(rng.integers(0, 4)):
		start = rng.integers(0, size)
		letters[start : start + rng.integers(1, 60)] = rng.choice(list("NnRy"))
	return "".join(letters)


def _intervals(rng, sequences, names, n):
	rows = []
	for _ in range(n):
		chrom = names[rng.integers(len(names))]
		start = int(rng.integers(0, len(sequences.get(chrom, "N" * 500))))
		rows.append((chrom, start, start + int(rng.integers(1, 30))))
	return rows


def _table(rows):
	return {"chrom": [r[0] for r in rows], "start": [r[1] for r in rows], "end": [r[2] for r in rows]}


# ---- the slow implementation ----------------------------------------------------------------------------------------


class Slow:
	"""The definition, with loops."""

	def __init__(self, case: Case) -> None:
		self.case, self.w, self.out = case, case.options["in_window"], case.options["out_window"]
		self.loci = [row for row in case.loci if self.usable(row)]
		self.windows = [(c, *self.window(s, e)) for c, s, e in case.loci]
		self.gc_loci = [g for c, s, e in self.loci if (g := self.gc(c, self.window(s, e)[0])) is not None]

	def window(self, start: int, end: int) -> tuple[int, int]:
		mid = start + (end - start) // 2
		return mid - self.w // 2, mid + (self.w + 1) // 2

	def usable(self, row) -> bool:
		chrom, start, end = row
		if chrom not in self.case.sequences:
			return False
		mid, widest = start + (end - start) // 2, max(self.w, self.out)
		low, high = mid - widest // 2, mid + (widest + 1) // 2
		inside = low >= 0 and high <= len(self.case.sequences[chrom])
		return inside and not any(c == chrom and s < high and low < e for c, s, e in self.case.excluded)

	def gc(self, chrom: str, start: int) -> float | None:
		text = self.case.sequences[chrom][start : start + self.w].upper()
		known = sum(text.count(base) for base in "ACGT")
		return (text.count("C") + text.count("G")) / known if known else None

	def counts(self, chrom: str, start: int) -> float:
		first = start + self.w // 2 - self.out // 2
		first = min(max(0, first), max(0, len(self.case.sequences[chrom]) - self.out))
		return float(self.case.values[chrom][first : first + self.out].sum())

	def ceiling(self) -> float:
		counts = [self.counts(c, self.window(s, e)[0]) for c, s, e in self.loci]
		return self.case.options["beta"] * float(np.quantile(counts, 0.01))

	def why_not(self, chrom: str, start: int) -> str | None:
		"""The first filter that removes a tile."""
		end = start + self.w
		text = self.case.sequences[chrom][start:end].upper()
		unknown = self.w - sum(text.count(base) for base in "ACGT")
		if any(c == chrom and s < end and start < e for c, s, e in self.windows):
			return "overlaps a locus"
		if any(c == chrom and s < end and start < e for c, s, e in self.case.excluded):
			return "excluded"
		if unknown / self.w > self.case.options["max_n_perc"] or unknown == self.w:
			return "too many N"
		if self.case.values is not None and self.counts(chrom, start) > 0:
			if self.counts(chrom, start) >= self.ceiling():
				return "too many counts"
		return None

	def tiles(self, offset: int) -> dict[tuple[str, int], str | None]:
		"""The tiles of one tiling, each with the filter that removes it."""
		chroms = [c for c in self.case.sequences if any(row[0] == c for row in self.loci)]
		return {
			(c, start): self.why_not(c, start)
			for c in chroms
			for start in range(offset, len(self.case.sequences[c]) - self.w + 1, self.w)
		}

	def bin(self, gc: float) -> int:
		width = self.case.options["bin_width"]
		edges = [i * width for i in range(int(np.ceil(1 / width - 1e-9)) + 1)]
		return min(bisect.bisect_right(edges, gc + 1e-9) - 1, len(edges) - 2)

	def histogram(self, gcs, n_bins: int) -> np.ndarray:
		return np.array([sum(self.bin(gc) == b for gc in gcs) for b in range(n_bins)])


def slow_borrow(have, target) -> list[int]:
	"""One tile after the other: own ones; then from the nearest, half of them from each side; then from any side."""
	used = [min(h, t) for h, t in zip(have, target, strict=True)]
	owed = [[(t - u + 1) // 2, (t - u) // 2] for t, u in zip(target, used, strict=True)]
	for round_ in (0, 1):
		for distance in range(1, len(have)):
			for b in range(len(have)):
				for side, giver in ((0, b - distance), (1, b + distance)):
					while 0 <= giver < len(have) and owed[b][side ^ round_] and used[giver] < have[giver]:
						used[giver] += 1
						owed[b][side ^ round_] -= 1
	return used


def _write_fasta(path, case: Case) -> None:
	with open(path, "w", newline="") as file:
		end = "\r\n" if case.line % 3 == 0 else "\n"
		for chrom, text in case.sequences.items():
			file.write(f">{chrom} of a test{end}")
			for at in range(0, len(text), case.line):
				file.write(text[at : at + case.line] + end)


def _run(case: Case, folder, make_bigwig, **more):
	for path in folder.iterdir():
		path.unlink()
	_write_fasta(folder / "genome.fa", case)
	signals = None
	if case.values is not None:
		sizes = {c: len(s) for c, s in case.sequences.items()}
		signals = str(make_bigwig(folder / "signal.bw", sizes, case.values))
	excluded = [_table(case.excluded)] if case.excluded else None
	return gc_matched_negatives(
		_table(case.loci),
		folder / "genome.fa",
		signals=signals,
		exclusion_lists=excluded,
		**case.options,
		**more,
	)


def _check(case: Case, folder, make_bigwig) -> None:
	slow = Slow(case)
	n_tilings = case.options["tilings"]
	by_tiling = [slow.tiles(slow.w * k // n_tilings) for k in range(n_tilings)]
	usable = {place for place, why in by_tiling[0].items() if why is None}
	if not slow.gc_loci or not usable:
		with pytest.raises(InputError):
			_run(case, folder, make_bigwig)
		return
	found = _run(case, folder, make_bigwig)
	rows = list(zip(found.loci.chroms.tolist(), found.loci.starts.tolist(), strict=True))
	shifted = {place for tiles in by_tiling[1:] for place, why in tiles.items() if why is None}

	# Where everything went.
	assert found.accounting.given == len(case.loci) and found.accounting.kept == len(slow.loci)
	assert found.tiles == len(by_tiling[0]) and found.usable == len(usable)
	assert found.removed == {name: list(by_tiling[0].values()).count(name) for name in FILTERS}
	assert set(rows) <= usable | shifted and found.shifted == len(set(rows) - usable)
	if case.values is not None:
		assert found.ceilings == pytest.approx((slow.ceiling(),))

	# In the order of the FASTA, without overlaps.
	order = {chrom: i for i, chrom in enumerate(case.sequences)}
	assert rows == sorted(rows, key=lambda row: (order[row[0]], row[1]))
	for (c, s), (d, t) in itertools.pairwise(rows):
		assert c != d or t - s >= slow.w
	assert (found.loci.ends - found.loci.starts == slow.w).all()

	# How many of each bin.
	n_bins = len(found.bin_edges) - 1
	gcs = [slow.gc(*row) for row in rows]
	have = slow.histogram([slow.gc(*place) for place in usable], n_bins)
	wanted = case.options["n"] or len(slow.loci)
	target = _scaled(slow.histogram(slow.gc_loci, n_bins), wanted)
	got = slow.histogram(gcs, n_bins)
	assert found.requested == wanted
	assert found.gc_loci.tolist() == slow.histogram(slow.gc_loci, n_bins).tolist()
	assert found.gc_negatives.tolist() == got.tolist()
	assert (got >= np.minimum(have, target)).all()
	if n_tilings == 1:
		assert got.tolist() == slow_borrow(have.tolist(), target.tolist())
		assert len(rows) == min(wanted, len(usable))
		assert found.ks_least <= found.ks + 1 / len(rows)
	assert found.ks == pytest.approx(ks_distance(np.array(slow.gc_loci), np.array(gcs)))

	again = _run(case, folder, make_bigwig)
	assert again.loci.starts.tolist() == found.loci.starts.tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
	return tmp_path_factory.mktemp("negatives")


RELAXED = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}


@settings(max_examples=150, **RELAXED)
@given(case=cases(signals=False))
def test_the_search_agrees_with_loops(case, folder):
	_check(case, folder, None)


@settings(max_examples=50, **RELAXED)
@given(case=cases(signals=True))
def test_the_search_with_counts_agrees_with_loops(case, folder, make_bigwig):
	_check(case, folder, make_bigwig)


@pytest.mark.slow
@settings(max_examples=3000, **RELAXED)
@given(case=cases(signals=False))
def test_the_search_agrees_with_loops_in_thousands_of_cases(case, folder):
	_check(case, folder, None)


@pytest.mark.slow
@settings(max_examples=1000, **RELAXED)
@given(case=cases(signals=True))
def test_the_search_with_counts_agrees_with_loops_in_a_thousand_cases(case, folder, make_bigwig):
	_check(case, folder, make_bigwig)


BINS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=12)


@settings(max_examples=300, **RELAXED)
@given(bins=BINS)
def test_borrowing_agrees_with_one_tile_after_the_other(bins):
	have, target = (np.array(column) for column in zip(*bins, strict=True))
	used = _borrow(have, target)
	assert used.tolist() == slow_borrow(have.tolist(), target.tolist())
	assert used.sum() == min(have.sum(), target.sum()) and (used <= have).all()


@settings(max_examples=300, **RELAXED)
@given(histogram=st.lists(st.integers(0, 50), min_size=1, max_size=20).filter(any), total=st.integers(1, 200))
def test_a_scaled_histogram_is_as_close_as_whole_numbers_can_be(histogram, total):
	histogram = np.array(histogram)
	scaled, exact = _scaled(histogram, total), histogram * total / histogram.sum()
	assert scaled.sum() == total and (np.abs(scaled - exact) < 1 + 1e-6).all() and (scaled >= 0).all()
	assert (np.abs(np.cumsum(scaled) - np.cumsum(exact)) <= 0.5 + 1e-6).all()


GCS = st.lists(st.integers(0, 9), min_size=1, max_size=7)


@settings(max_examples=200, **RELAXED)
@given(loci=GCS, tiles=GCS, n=st.integers(1, 7))
def test_the_least_distance_is_that_of_the_best_choice(loci, tiles, n):
	n = min(n, len(tiles))
	loci, tiles = np.array(loci) / 10, np.array(tiles) / 10
	best = min(ks_distance(loci, np.array(choice)) for choice in itertools.combinations(tiles, n))
	least = least_ks_distance(loci, tiles, n)
	assert least <= best + 1e-12 and best - least < 1 / n + 1e-12


@settings(max_examples=60, **RELAXED)
@given(seed=st.integers(0, 2**32 - 1), width=st.integers(1, 3000), line=st.integers(1, 200))
def test_a_scan_in_pieces_agrees_with_the_codes(seed, width, line, folder):
	rng = np.random.default_rng(seed)
	text = _sequence(rng, 3_000)
	case = Case({"chr1": text}, [], [], None, line, {})
	for path in folder.iterdir():
		path.unlink()
	_write_fasta(folder / "genome.fa", case)
	starts = rng.integers(0, len(text) - width + 1, 20)
	with pytest.MonkeyPatch.context() as patch:
		patch.setattr("cherimoya.io._scan._PIECE", int(rng.integers(1, 4_000)))
		found = scan(Genome(folder / "genome.fa"), None, {"chr1": starts}, in_window=width, out_window=1)["chr1"]
	codes = Genome(case.sequences).codes("chr1")
	rows = np.stack([codes[s : s + width] for s in starts])
	assert found.gc.tolist() == ((rows == 1) | (rows == 2)).sum(axis=1).tolist()
	assert found.known.tolist() == (rows < 4).sum(axis=1).tolist()


@pytest.fixture
def larger():
	"""A search in two chromosomes, of which each is a piece."""
	rng = np.random.default_rng(5)
	return Case(
		{"chr2": _sequence(rng, 9_000), "chr1": _sequence(rng, 5_000)},
		[("chr2", 1_000, 1_100), ("chr1", 300, 500)],
		[],
		{"chr2": rng.poisson(0.2, 9_000) * 1.0, "chr1": rng.poisson(0.2, 5_000) * 1.0},
		60,
		{"in_window": 50, "out_window": 20, "beta": 3.0, "n": 60},
	)


def test_processes_do_not_change_the_result(larger, tmp_path, make_bigwig, monkeypatch):
	one = _run(larger, tmp_path, make_bigwig, workers=1)
	started = []
	monkeypatch.setattr("subprocess.Popen", lambda *a, **k: started.append(1) or POPEN(*a, **k))
	several = _run(larger, tmp_path, make_bigwig, workers=2)
	assert len(started) == 1  # this process works too
	assert one.loci.starts.tolist() == several.loci.starts.tolist() and one.to_dict() == several.to_dict()


def test_pieces_are_smaller_than_chromosomes(monkeypatch, tmp_path, make_bigwig):
	"""A piece bounds the memory; the counts, too, are taken piece by piece."""
	text = {"chr1": "ACGT" * 500}
	(tmp_path / "a.fa").write_text(">chr1\n" + text["chr1"] + "\n")
	tracks = Tracks(str(make_bigwig(tmp_path / "a.bw", {"chr1": 2_000}, {"chr1": np.arange(2_000) * 1.0})))
	starts = np.arange(0, 1_990, 10)
	asked = []
	sums = Tracks.sums
	monkeypatch.setattr("cherimoya.io._scan._PIECE", 100)
	monkeypatch.setattr(Tracks, "sums", lambda self, c, s, w: asked.append(len(s)) or sums(self, c, s, w))
	found = scan(Genome(tmp_path / "a.fa"), tracks, {"chr1": starts}, in_window=10, out_window=4)["chr1"]
	assert asked == [10] * 19 + [9]
	assert found.totals[:, 0].tolist() == [sum(range(s + 3, s + 7)) for s in starts.tolist()]


SCANNED = "ACGTNacgtn" * 30


@pytest.mark.parametrize(
	"text",
	[
		"\n".join(SCANNED[at : at + 7] for at in range(0, 300, 7)),
		SCANNED[:10] + "\n" + SCANNED[10:30] + "\n" + SCANNED[30:],
		"\r\n".join(SCANNED[at : at + 60] for at in range(0, 300, 60)),
		SCANNED,
	],
	ids=["regular", "lines of several lengths", "CRLF", "one line"],
)
@pytest.mark.parametrize("end", ["\n", "", "\n>chr2\nACGT\n"], ids=["newline", "no newline", "a record follows"])
def test_a_scan_reads_any_layout(tmp_path, text, end):
	newline = "\r\n" if "\r" in text else "\n"
	(tmp_path / "a.fa").write_text(f">chr1\n{text}{end}".replace("\r", ""), newline=newline)
	starts = np.array([290, 0, 3, 147])
	found = scan(Genome(tmp_path / "a.fa"), None, {"chr1": starts}, in_window=10, out_window=1)["chr1"]
	assert found.gc.tolist() == [4] * 4 and found.known.tolist() == [8] * 4


@pytest.mark.parametrize(
	"old, new, expected",
	[("ACGT", "AC-T", "'-' at offset"), ("ACGTACGTAC\n", "ACGTACG\n", "genome.fa")],
	ids=["no base", "a line is shorter than the index says"],
)
def test_a_scan_refuses_what_the_genome_refuses(tmp_path, old, new, expected):
	path = tmp_path / "genome.fa"
	path.write_text(">chr1\n" + "ACGTACGTAC\n" * 30)
	genome = Genome(path)
	path.write_text(path.read_text().replace(old, new, 1))
	with pytest.raises(InputError, match=expected):
		scan(genome, None, {"chr1": np.arange(0, 290, 10)}, in_window=10, out_window=1)
