"""From random small genomes to examples, compared with an implementation of loops, slices and text alone."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cherimoya.io.sampler import EpochBatchSampler, PeakNegativeSampler
from cherimoya.io.windows import REASONS, extract_windows

pytest.importorskip("pyBigWig")

NAMES = ("chr1", "chr2", "2", "chrUn_random")
COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A"}
FEW, MANY = 60, 1500


# ---- random inputs --------------------------------------------------------------------------------------------------


@st.composite
def worlds(draw):
	"""A genome as text, tracks as arrays, loci with summits, and what is asked for."""
	rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
	names = list(NAMES[: draw(st.integers(1, 4))])
	sizes = {name: int(rng.integers(30, 260)) for name in names}
	letters = "ACGTacgtNnRYKM"
	weights = np.array([*[10] * 8, 2, 2, *[1] * 4]) / 88
	genome = {name: "".join(rng.choice(list(letters), size=size, p=weights)) for name, size in sizes.items()}
	groups = draw(st.sampled_from([(1,), (2,), (1, 2), (2, 1, 1), (3,)]))
	control_groups = draw(st.sampled_from([(), (), (1,), (2,), (1, 1)]))
	scale = draw(st.sampled_from(["counts", "counts", "many", "halves", "fractions"]))
	absent = draw(st.sampled_from([None, None, names[-1]])) if len(names) > 1 else None
	tracks = [
		{name: _track(rng, size, scale) for name, size in sizes.items() if name != absent}
		for _ in range(sum(groups) + sum(control_groups))
	]
	n_loci = draw(st.integers(1, 30))
	in_window, out_window = draw(st.integers(1, 50)), draw(st.integers(1, 40))
	region = f"{names[0]}:{draw(st.integers(0, 60))}-{draw(st.sampled_from(['', '150', '400']))}"
	return {
		"genome": genome,
		"sizes": sizes,
		"groups": groups,
		"control_groups": control_groups,
		"tracks": tracks,
		"loci": _loci(rng, [*names, "chrAway"], n_loci, sizes),
		"negatives": _loci(rng, names, 12, sizes),
		"exclusions": _loci(rng, names, draw(st.integers(0, 2)), sizes),
		"in_window": in_window,
		"out_window": out_window,
		"max_jitter": draw(st.integers(0, 7)),
		"summits": draw(st.booleans()),
		"chroms": draw(st.sampled_from([None, None, [names[0]], names[-2:], [region], [region, names[-1]]])),
		"min_counts": draw(st.sampled_from([None, None, 0, 3, 10])),
		"max_counts": draw(st.sampled_from([None, None, 0, 30, 3000])),
		"drop_outliers": draw(st.booleans()),
	}


def _track(rng, size, scale):
	"""Values per base, with gaps and runs."""
	values = rng.poisson(0.7, size).astype(np.float32)
	values *= {"counts": 1, "many": 140, "halves": 0.5, "fractions": 1 / 3}[scale]
	for _ in range(int(rng.integers(0, 5))):
		first = int(rng.integers(0, size))
		values[first : first + int(rng.integers(1, 40))] = rng.choice([0, values[first]])
	if rng.random() < 0.2:
		values[:] = 0
	return values


def _loci(rng, names, n, sizes):
	"""Rows of (chrom, start, end, offset of the summit), many of them near an edge."""
	rows = []
	for _ in range(n):
		name = str(rng.choice(names))
		size = sizes.get(name, 100)
		start, width = int(rng.integers(0, size + 20)), int(rng.integers(1, 50))
		rows.append((name, start, start + width, int(rng.integers(0, width))))
	return rows


def _table(rows):
	return {key: [row[i] for row in rows] for i, key in enumerate(("chrom", "start", "end", "summit"))}


def _files(world, folder, make_bigwig):
	"""The tracks as bigWigs, in groups: signals and controls."""
	paths = []
	for i, track in enumerate(world["tracks"]):
		sizes = {name: world["sizes"][name] for name in track}
		paths.append(str(make_bigwig(Path(folder) / f"{i}.bw", sizes, track)))
	found, first = [], 0
	for group in (*world["groups"], *world["control_groups"]):
		found.append(paths[first : first + group])
		first += group
	return found[: len(world["groups"])], found[len(world["groups"]) :] or None


# ---- the obvious implementation -------------------------------------------------------------------------------------


def _selected(chroms, name, lo, hi, size):
	"""Whether the input window, as far as it is on its chromosome, lies in one of the regions."""
	if chroms is None:
		return True
	for text in chroms:
		chrom, _, span = text.partition(":")
		first, _, last = span.partition("-")
		inside = max(lo, 0) >= int(first or 0) and min(hi, size) <= (int(last) if last else size)
		if chrom == name and inside:
			return True
	return False


def _slow(world, rows, *, max_jitter, summits, filters):
	"""For each locus [reason or None, text, signals, controls, totals]; the reason alone if it has no place."""
	found = []
	n_signals = sum(world["groups"])
	for name, start, end, offset in rows:
		mid = start + offset if summits else start + (end - start) // 2
		in_lo = mid - world["in_window"] // 2 - max_jitter
		in_hi = mid + (world["in_window"] + 1) // 2 + max_jitter
		out_lo = mid - world["out_window"] // 2 - max_jitter
		out_hi = mid + (world["out_window"] + 1) // 2 + max_jitter
		lo, hi = min(in_lo, out_lo), max(in_hi, out_hi)
		size = world["sizes"].get(name)
		if size is None:
			found.append(["chromosome not in FASTA"])
		elif any(name not in track for track in world["tracks"]):
			found.append(["chromosome not in bigWig"])
		elif not _selected(world["chroms"], name, in_lo, in_hi, size):
			found.append(["chromosome not selected"])
		elif lo < 0 or hi > size:
			found.append(["off the edge"])
		elif any(c == name and s < hi and lo < e for c, s, e, _ in world["exclusions"]):
			found.append(["excluded"])
		else:
			signals = [track[name][out_lo:out_hi].tolist() for track in world["tracks"][:n_signals]]
			controls = [track[name][in_lo:in_hi].tolist() for track in world["tracks"][n_signals:]]
			totals, first = [], 0
			for group in world["groups"]:
				centre = [row[max_jitter : max_jitter + world["out_window"]] for row in signals[first : first + group]]
				totals.append(sum(map(sum, centre)))
				first += group
			found.append([None, world["genome"][name][in_lo:in_hi].upper(), signals, controls, totals])
	if filters:
		_slow_counts(world, found)
	return found


def _slow_counts(world, found):
	"""Note the loci that drop for their counts."""
	for entry in found:
		if entry[0] is None and world["min_counts"] is not None and min(entry[4]) < world["min_counts"]:
			entry[0] = "too few counts"
		elif entry[0] is None and world["max_counts"] is not None and max(entry[4]) > world["max_counts"]:
			entry[0] = "too many counts"
	left = [entry for entry in found if entry[0] is None]
	if world["drop_outliers"] and left:
		ceilings = []
		for g in range(len(world["groups"])):
			totals = sorted(entry[4][g] for entry in left)
			place = 0.99 * (len(totals) - 1)  # between neighbours the quantile is linear
			below, above = totals[int(place)], totals[min(int(place) + 1, len(totals) - 1)]
			ceilings.append(1.2 * (below + (above - below) * (place - int(place))))
		for entry in left:
			# A total as good as on the ceiling may fall on either side of it: such data are not compared.
			near = any(abs(t - c) < 1e-6 * max(c, 1) for t, c in zip(entry[4], ceilings, strict=True))
			entry[0] = "unclear" if near else entry[0]
			if not near and any(t > c for t, c in zip(entry[4], ceilings, strict=True)):
				entry[0] = "outlier"


def _slow_example(world, entry, jitter, flip):
	"""(text, signals, controls) of one example."""
	text = entry[1][jitter : jitter + world["in_window"]]
	signals = [row[jitter : jitter + world["out_window"]] for row in entry[2]]
	controls = [row[jitter : jitter + world["in_window"]] for row in entry[3]]
	if not flip:
		return text, signals, controls
	text = "".join(COMPLEMENT.get(letter, "N") for letter in reversed(text))
	turned = []
	for rows, groups in ((signals, world["groups"]), (controls, world["control_groups"])):
		parts, first = [], 0
		for group in groups:
			parts += [row[::-1] for row in rows[first : first + group][::-1]]
			first += group
		turned.append(parts)
	return text, *turned


def _letters(hot):
	"""One-hot columns as text; N where there is none."""
	return "".join("ACGT"[int(column.argmax())] if column.any() else "N" for column in hot.T)


def _plain(text):
	"""Text in which every letter but A, C, G and T is N."""
	return "".join(letter if letter in "ACGT" else "N" for letter in text)


# ---- the comparison -------------------------------------------------------------------------------------------------


def _extract(world, rows, files, *, filters, max_jitter, summits, cache):
	"""The windows of the library."""
	signals, controls = files
	options = {k: world[k] for k in ("min_counts", "max_counts", "drop_outliers")} if filters else {}
	return extract_windows(
		_table(rows),
		world["genome"],
		signals,
		controls,
		in_window=world["in_window"],
		out_window=world["out_window"],
		max_jitter=max_jitter,
		summits=summits,
		chroms=world["chroms"],
		exclusion_lists=_table(world["exclusions"]) if world["exclusions"] else None,
		allow_empty=True,
		cache=cache,
		workers=1,
		**options,
	)


def _check_windows(windows, expected):
	"""The windows and their account against the obvious ones."""
	kept = [entry for entry in expected if entry[0] is None]
	assert windows.mask.tolist() == [entry[0] is None for entry in expected]
	assert windows.accounting.given == len(expected) and windows.accounting.kept == len(kept) == len(windows)
	assert windows.accounting.dropped == {reason: sum(e[0] == reason for e in expected) for reason in REASONS}
	for i, (_, text, signals, controls, totals) in enumerate(kept):
		assert "".join("ACGTN"[code] for code in windows.codes[i]) == _plain(text)
		assert windows.signals[i].tolist() == signals
		assert windows.controls is None or windows.controls[i].tolist() == controls
		assert np.allclose(windows.counts()[i], totals)


def _check_examples(world, peaks, negatives, expected, others):
	"""Two epochs of the sampler against the obvious examples, batch by batch."""
	kept, background = ([e for e in entries if e[0] is None] for entries in (expected, others))
	ratio = 0.6 if background else 0
	sampler = PeakNegativeSampler(
		peaks.codes,
		peaks.signals,
		negatives.codes if ratio else None,
		negatives.signals if ratio else None,
		peaks.controls,
		negatives.controls if ratio else None,
		negative_ratio=ratio,
		in_window=world["in_window"],
		out_window=world["out_window"],
		max_jitter=world["max_jitter"],
		reverse_complement=True,
		random_state=len(kept),
		signal_groups=world["groups"],
		control_groups=world["control_groups"] or None,
	)
	batches = EpochBatchSampler(sampler, 7)
	for epoch in range(2):
		plan = sampler.plan(epoch)
		assert len(plan.rows) == len(kept) + int(0.6 * len(kept)) * bool(background)
		tensors = [torch.cat(parts) for parts in zip(*map(sampler.batch, batches), strict=True)]
		X, *X_ctl, y, labels = tensors
		assert labels.tolist() == plan.is_peak.astype(int).tolist()
		for i, row in enumerate(plan.rows.tolist()):
			entry = kept[row] if plan.is_peak[i] else background[row]
			text, signals, controls = _slow_example(world, entry, int(plan.jitters[i]), bool(plan.flips[i]))
			assert _letters(X[i].numpy()) == _plain(text)
			assert y[i].tolist() == signals
			assert not X_ctl or X_ctl[0][i].tolist() == controls


def _check(world, make_bigwig, *, cached):
	"""Windows, in memory or out of a cache, and the examples made of them."""
	expected = _slow(world, world["loci"], max_jitter=world["max_jitter"], summits=world["summits"], filters=True)
	others = _slow(world, world["negatives"], max_jitter=0, summits=False, filters=False)
	if any(entry[0] == "unclear" for entry in expected):
		return
	with tempfile.TemporaryDirectory() as folder:
		files = _files(world, folder, make_bigwig)
		cache = Path(folder) / "cache" if cached else None
		jitter, summits = world["max_jitter"], world["summits"]
		for _ in range(1 + cached):  # made, and found again
			peaks = _extract(world, world["loci"], files, filters=True, max_jitter=jitter, summits=summits, cache=cache)
			negatives = _extract(
				world, world["negatives"], files, filters=False, max_jitter=0, summits=False, cache=cache
			)
			_check_windows(peaks, expected)
			_check_windows(negatives, others)
		if len(peaks):
			_check_examples(world, peaks, negatives, expected, others)


HEALTH = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@pytest.mark.parametrize("cached", [False, True], ids=["memory", "cache"])
@settings(max_examples=FEW, deadline=None, suppress_health_check=HEALTH)
@given(world=worlds())
def test_windows_and_examples_are_those_of_the_obvious_implementation(make_bigwig, cached, world):
	_check(world, make_bigwig, cached=cached)


@pytest.mark.slow
@pytest.mark.parametrize("cached", [False, True], ids=["memory", "cache"])
@settings(max_examples=MANY, deadline=None, suppress_health_check=HEALTH)
@given(world=worlds())
def test_many_windows_and_examples(make_bigwig, cached, world):
	_check(world, make_bigwig, cached=cached)
