"""Windows around loci against a slow, obvious implementation; the account of every locus."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cherimoya.errors import InputError
from cherimoya.io.genome import Genome
from cherimoya.io.loci import read_loci
from cherimoya.io.tracks import Tracks
from cherimoya.io.windows import REASONS, Accounting, _quantile, extract_windows

FASTA_SIZES = {"chr1": 400, "chr2": 150, "chrNoSignal": 200}
SIGNAL_SIZES = {"chr1": 400, "chr2": 150, "chrOther": 99}


@pytest.fixture(scope="module")
def world(tmp_path_factory, make_bigwig):
	"""A small random genome with two signal groups (1 and 2 channels) and a control: arrays, Genome and Tracks."""
	folder = tmp_path_factory.mktemp("windows")
	rng = np.random.default_rng(11)
	sequences = {c: "".join(rng.choice(list("ACGTN"), size=s)) for c, s in FASTA_SIZES.items()}
	tracks = [{c: rng.poisson(0.5, size=s).astype(np.float32) for c, s in SIGNAL_SIZES.items()} for _ in range(4)]
	paths = [str(make_bigwig(folder / f"{i}.bw", SIGNAL_SIZES, track)) for i, track in enumerate(tracks)]
	return {
		"sequences": sequences,
		"tracks": tracks,
		"genome": Genome(sequences),
		"signals": Tracks([paths[0], paths[1:3]]),
		"controls": Tracks([paths[3]]),
		"paths": paths,
	}


def _slow(world, rows, *, in_window, out_window, max_jitter, chroms, exclusions, min_counts, max_counts, outliers):
	"""(reason or None, sequence, signals, controls) of each locus, by loops and plain slices."""
	found = []
	for chrom, start, end in rows:
		mid = start + (end - start) // 2
		lo, hi = mid - in_window // 2 - max_jitter, mid + (in_window + 1) // 2 + max_jitter
		out_lo, out_hi = mid - out_window // 2 - max_jitter, mid + (out_window + 1) // 2 + max_jitter
		wide_lo, wide_hi = min(lo, out_lo), max(hi, out_hi)
		if chrom not in FASTA_SIZES:
			found.append(["chromosome not in FASTA"])
		elif chrom not in SIGNAL_SIZES:
			found.append(["chromosome not in bigWig"])
		elif chroms is not None and chrom not in chroms:
			found.append(["chromosome not selected"])
		elif wide_lo < 0 or wide_hi > FASTA_SIZES[chrom]:
			found.append(["off the edge"])
		elif any(c == chrom and s < wide_hi and wide_lo < e for c, s, e in exclusions):
			found.append(["excluded"])
		else:
			y = np.stack([track[chrom][out_lo:out_hi] for track in world["tracks"][:3]])
			centre = y[:, max_jitter : max_jitter + out_window]
			totals = [centre[:1].sum(), centre[1:].sum()]
			reason = None
			if min_counts is not None and min(totals) < min_counts:
				reason = "too few counts"
			elif max_counts is not None and max(totals) > max_counts:
				reason = "too many counts"
			found.append([reason, world["sequences"][chrom][lo:hi], y, world["tracks"][3][chrom][lo:hi], totals])
	if outliers:
		left = [f for f in found if f[0] is None]
		ceilings = [1.2 * np.quantile([f[4][g] for f in left], 0.99) for g in range(2)] if left else []
		for f in left:
			if any(t > c for t, c in zip(f[4], ceilings, strict=True)):
				f[0] = "outlier"
	return found


@st.composite
def _cases(draw):
	chrom = st.sampled_from([*FASTA_SIZES, "chrAway"])
	rows = draw(
		st.lists(
			st.tuples(chrom, st.integers(0, 390), st.integers(1, 60)).map(lambda r: (r[0], r[1], r[1] + r[2])),
			min_size=1,
			max_size=25,
		)
	)
	exclusions = draw(
		st.lists(st.tuples(st.sampled_from(list(FASTA_SIZES)), st.integers(0, 380), st.integers(1, 30)), max_size=2)
	)
	return rows, {
		"in_window": draw(st.integers(1, 70)),
		"out_window": draw(st.integers(1, 50)),
		"max_jitter": draw(st.integers(0, 9)),
		"chroms": draw(st.sampled_from([None, None, ["chr1"], ["chr2", "chrNoSignal"]])),
		"exclusions": [(c, s, s + n) for c, s, n in exclusions],
		"min_counts": draw(st.sampled_from([None, 5, 12])),
		"max_counts": draw(st.sampled_from([None, 20, 45])),
		"outliers": draw(st.booleans()),
	}


@settings(max_examples=250)
@given(case=_cases())
def test_extraction_agrees_with_plain_slices(world, case):
	rows, options = case
	expected = _slow(world, rows, **options)
	exclusions = options.pop("exclusions")
	table = {"chrom": [r[0] for r in rows], "start": [r[1] for r in rows], "end": [r[2] for r in rows]}
	windows = extract_windows(
		table,
		world["genome"],
		world["signals"],
		world["controls"],
		drop_outliers=options.pop("outliers"),
		exclusion_lists=[{k: [e[i] for e in exclusions] for i, k in enumerate(("chrom", "start", "end"))}]
		if exclusions
		else None,
		allow_empty=True,
		**options,
	)
	kept = [f for f in expected if f[0] is None]
	assert windows.mask.tolist() == [f[0] is None for f in expected]
	assert windows.accounting.given == len(rows) and windows.accounting.kept == len(windows) == len(kept)
	assert windows.accounting.dropped == {r: sum(f[0] == r for f in expected) for r in REASONS}
	assert len(windows.loci) == len(kept)
	for i, (_, sequence, y, control, totals) in enumerate(kept):
		assert ["ACGTN"[c] for c in windows.codes[i]] == list(sequence)
		assert np.array_equal(windows.signals[i], y)
		assert np.array_equal(windows.controls[i, 0], control)
		assert windows.counts()[i].tolist() == totals


ROWS = [("chr1", 100, 120), ("chr1", 200, 221), ("chr2", 60, 70)]


def _table(rows):
	return {"chrom": [r[0] for r in rows], "start": [r[1] for r in rows], "end": [r[2] for r in rows]}


def test_tensors_and_centre(world):
	windows = extract_windows(
		_table(ROWS), world["genome"], world["signals"], in_window=31, out_window=12, max_jitter=4
	)
	assert windows.X().shape == (3, 4, 39) and windows.X().dtype == torch.float32
	assert windows.y().shape == (3, 3, 20) and windows.X_ctl() is None
	assert windows.X(np.array([2, 0])).shape == (2, 4, 39) and windows.X(slice(1), torch.int8).dtype == torch.int8
	plain = extract_windows(_table(ROWS), world["genome"], world["signals"], in_window=31, out_window=12)
	centre = windows.centre()
	assert torch.equal(centre.X(), plain.X()) and torch.equal(centre.y(), plain.y())
	assert centre.max_jitter == 0 and np.array_equal(centre.counts(), windows.counts())
	assert torch.equal(centre.centre().X(), plain.X())
	assert windows.midpoints.tolist() == [110, 210, 65]
	part = windows[np.array([True, False, True])]
	assert len(part) == 2 and part.loci.chroms.tolist() == ["chr1", "chr2"] and part.signals.shape[0] == 2


def test_summits_centre_the_window(world, tmp_path, make_bed):
	path = make_bed(tmp_path / "a.narrowPeak", ["chr1\t100\t140\tp\t1\t.\t1\t1\t1\t7"])
	windows = extract_windows(path, world["genome"], in_window=5, out_window=1, summits=True)
	assert ["ACGTN"[c] for c in windows.codes[0]] == list(world["sequences"]["chr1"][105:110])
	assert windows.midpoints.tolist() == [107] and windows.signals is None
	with pytest.raises(ValueError, match="no signals"):
		windows.counts()


@pytest.mark.parametrize(
	"chroms, rows", [(["chr1:0-300"], [0]), (["chr1:100-300"], []), (["chr1:94-"], [0, 1])], ids=str
)
def test_a_region_holds_whole_windows_only(world, chroms, rows):
	# With in_window 30 and a jitter of 1 the first locus's window is chr1:94-126, the second one's chr1:340-372.
	table = _table([("chr1", 100, 120), ("chr1", 351, 360), ("chr2", 60, 70)])
	options = {"in_window": 30, "out_window": 10, "max_jitter": 1, "allow_empty": True}
	windows = extract_windows(table, world["genome"], chroms=chroms, **options)
	assert np.flatnonzero(windows.mask).tolist() == rows
	assert windows.accounting.dropped["chromosome not selected"] == 3 - len(rows)


def test_regions_side_by_side_share_no_base(world):
	rows = [("chr1", s, s + 1) for s in range(60, 340)]
	spans = []
	for region in ("chr1:0-200", "chr1:200-400"):
		windows = extract_windows(
			_table(rows), world["genome"], in_window=21, out_window=5, max_jitter=3, chroms=[region]
		)
		mids = windows.midpoints
		spans.append((mids.min() - 10 - 3, mids.max() + 11 + 3))
	assert spans[0][1] == 200 and spans[1][0] == 200


def test_off_the_edge_is_not_taken_for_out_of_the_region(world):
	windows = extract_windows(
		_table([("chr1", 0, 4), ("chr1", 100, 104)]),
		world["genome"],
		in_window=30,
		out_window=4,
		chroms=["chr1:0-300"],
	)
	assert windows.accounting.dropped["off the edge"] == 1


@pytest.mark.parametrize(
	"rows, options, expected",
	[
		([("1", 100, 120)], {}, ["no locus is left", "chromosome not in FASTA", "loci say 1", "chr1 and the other 1"]),
		([("scaffold_3", 1, 9)], {}, ["scaffold_3", "FASTA says chr1", "no name is shared"]),
		(
			[("chrNoSignal", 90, 99)],
			{"signals": True},
			["chromosome not in bigWig", "bigWig says chr1, chr2, chrOther"],
		),
		([("chr1", 100, 120)], {"chroms": ["chr2"]}, ["chromosome not selected", "selection says chr2", "no name"]),
		([("chr1", 100, 120)], {"chroms": ["chr1:0-9"]}, ["not selected", "selected are chr1:0-9"]),
		([("chr1", 9000, 9010)], {}, ["off the edge", "another assembly"]),
		([("chr1", 100, 120)], {"signals": True, "min_counts": 1e6}, ["too few counts", "bounds on counts"]),
	],
	ids=["chr prefix", "scaffold", "bigwig", "chromosome", "region", "assembly", "counts"],
)
def test_nothing_left_shows_the_account_and_a_hint(world, rows, options, expected):
	signals = world["signals"] if options.pop("signals", False) else None
	call = {"in_window": 30, "out_window": 10, **options}
	with pytest.raises(InputError) as caught:
		extract_windows(_table(rows), world["genome"], signals, **call)
	for text in expected:
		assert text in str(caught.value)
	empty = extract_windows(_table(rows), world["genome"], signals, allow_empty=True, **call)
	assert len(empty) == 0 and empty.X().shape == (0, 4, 30) and empty.accounting.kept == 0
	assert (empty.signals is None) == (signals is None)


def test_another_assembly_is_an_error(world, tmp_path, make_bigwig):
	path = make_bigwig(tmp_path / "a.bw", {"chr1": 500, "chr2": 9}, {"chr1": np.ones(500)})
	with pytest.raises(InputError, match=r"a\.bw: chr1 has 500 bp, but 400 bp in arrays"):
		extract_windows(_table(ROWS), world["genome"], str(path), in_window=30, out_window=10)


@pytest.mark.parametrize("name, value", [("in_window", 0), ("out_window", -3), ("max_jitter", -1), ("in_window", 2.5)])
def test_widths_that_make_no_sense(world, name, value):
	with pytest.raises(ValueError, match=name):
		extract_windows(_table(ROWS), world["genome"], **{"in_window": 9, "out_window": 3, name: value})


def test_accounting_adds_tabulates_and_goes_through_json():
	first = Accounting(10, 7, {**dict.fromkeys(REASONS, 0), "excluded": 3})
	second = Accounting(1200, 1195, {**dict.fromkeys(REASONS, 0), "excluded": 1, "outlier": 4})
	both = first + second
	assert (both.given, both.kept, both.dropped["excluded"], both.dropped["outlier"]) == (1210, 1202, 4, 4)
	assert both.given == both.kept + sum(both.dropped.values())
	assert list(both.dropped) == list(REASONS)
	assert Accounting.from_dict(both.to_dict()) == both
	assert both.table("Peaks") == "\n".join(
		[
			"Peaks",
			"given                1,210",
			"  dropped: excluded      4",
			"  dropped: outlier       4",
			"kept                 1,202",
		]
	)
	assert (Accounting() + first).to_dict() == first.to_dict()


def test_loci_given_as_loci_are_used_as_they_are(world):
	loci = read_loci(_table(ROWS))
	assert len(extract_windows(loci, world["genome"], in_window=30, out_window=10)) == 3


def test_yeast_loci_are_all_accounted_for(shared):
	folder = shared / "data" / "yeast_atac_sacCer3"
	windows = extract_windows(
		folder / "peaks_macs3_q0.01.narrowPeak.gz",
		folder / "sacCer3.fa.gz",
		exclusion_lists=folder / "exclude.bed",
		summits=True,
		max_jitter=50,
	)
	assert windows.accounting.given == 2451
	assert windows.accounting.kept + sum(windows.accounting.dropped.values()) == 2451
	assert windows.accounting.kept == len(windows) > 2300


def test_an_account_by_file(tmp_path, make_bed):
	"""Several files are accounted for one by one, in the table, in the rows and in the record."""
	first = make_bed(tmp_path / "a.bed", [("chr1", 100, 110), ("chr9", 5, 8), ("chr1", 2, 4)])
	second = make_bed(tmp_path / "b.bed", [("chr1", 200, 210), ("chr1", 390, 399)])
	files = [str(first), str(second)]
	account = extract_windows(files, {"chr1": "ACGT" * 100}, in_window=40, out_window=20).accounting
	assert (account.given, account.kept) == (5, 2)
	assert [(part.given, part.kept) for part in account.files.values()] == [(3, 1), (2, 1)]
	assert account == Accounting.from_dict(account.to_dict())
	assert account.table("T").splitlines() == [
		"T",
		"                                    all  a.bed  b.bed",
		"given                                 5      3      2",
		"  dropped: chromosome not in FASTA    1      1      0",
		"  dropped: off the edge               2      1      1",
		"kept                                  2      1      1",
	]
	rows = account.rows()
	assert ("all", "off the edge", 2) in rows and (files[1], "off the edge", 1) in rows
	assert sum(n for name, reason, n in rows if name == files[0] and reason != "given") == 3
	assert (account + account).files[files[0]].given == 6
	twice = extract_windows([files[0]] * 2, {"chr1": "ACGT" * 100}, in_window=40, out_window=20).accounting
	assert twice.files == {files[0]: account.files[files[0]] + account.files[files[0]]}


@pytest.mark.parametrize("n", [1, 2, 3, 100, 101, 997])
@pytest.mark.parametrize("q", [0.01, 0.5, 0.99])
def test_quantiles_are_those_of_numpy(n, q):
	values = np.random.default_rng(n).lognormal(3, 2, (n, 2)).round(1)
	np.testing.assert_array_equal(_quantile(values, q), np.quantile(values, q, axis=0))
