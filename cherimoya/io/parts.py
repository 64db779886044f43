"""Splits that are given as loci: whether their windows keep apart, and which background locus belongs to which."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cherimoya.io.loci import Loci, midpoints, overlaps_any, rows_by_chrom


class Spans(NamedTuple):
	"""Windows [starts, ends) on chromosomes, shape=(n,) each."""

	chroms: np.ndarray
	starts: np.ndarray
	ends: np.ndarray

	def text(self, i: int) -> str:
		"""One window as chrom:start-end."""
		return f"{self.chroms[i]}:{self.starts[i]}-{self.ends[i]}"


class Overlap(NamedTuple):
	"""What two parts share: their names, how many windows of the first touch the second, and one such pair."""

	first: str
	second: str
	n: int
	example: tuple[str, str]


def input_spans(loci: Loci, in_window: int, *, max_jitter: int = 0, summits: bool = False) -> Spans:
	"""The input windows of loci, widened by `max_jitter` on both sides (all in bp)."""
	mids = midpoints(loci, summits=summits)
	return Spans(loci.chroms, mids - in_window // 2 - max_jitter, mids + (in_window + 1) // 2 + max_jitter)


def touching(ours: Spans, theirs: Sequence[Spans]) -> np.ndarray:
	"""Whether each of our windows shares a base with any of theirs, shape=(n,)."""
	mask = np.zeros(len(ours.starts), dtype=bool)
	rows_of = rows_by_chrom(ours.chroms)
	for other in theirs:
		for chrom, here in rows_by_chrom(other.chroms).items():
			rows = rows_of.get(chrom, here[:0])
			mask[rows] |= overlaps_any(other.starts[here], other.ends[here], ours.starts[rows], ours.ends[rows])
	return mask


def shared_windows(parts: Mapping[str, Spans]) -> list[Overlap]:
	"""Each two parts whose windows share bases."""
	names, found = list(parts), []
	for i, a in enumerate(names):
		for b in names[i + 1 :]:
			ours, theirs = parts[a], parts[b]
			rows = np.flatnonzero(touching(ours, [theirs]))
			if len(rows):
				k = rows[0]
				same = theirs.chroms == ours.chroms[k]
				twin = np.flatnonzero(same & (theirs.starts < ours.ends[k]) & (ours.starts[k] < theirs.ends))[0]
				found.append(Overlap(a, b, len(rows), (ours.text(k), theirs.text(twin))))
	return found


def nearest_part(spans: Spans, parts: Sequence[Spans]) -> np.ndarray:
	"""The part of the window that lies nearest, middle to middle, on the same chromosome.

	Parameters
	----------
	spans: Spans
		n windows.
	parts: sequence of Spans
		The windows of each part.

	Returns
	-------
	numpy.ndarray of int64, shape=(n,)
		Index of the part; the first where parts are equally near, or none has a window on the chromosome.
	"""
	mids = (spans.starts + spans.ends) // 2
	distances = np.full((len(parts), len(mids)), np.iinfo(np.int64).max)
	rows_of = rows_by_chrom(spans.chroms)
	for p, part in enumerate(parts):
		for chrom, here in rows_by_chrom(part.chroms).items():
			theirs = np.sort((part.starts[here] + part.ends[here]) // 2)
			rows = rows_of.get(chrom, here[:0])
			if len(rows):
				after = np.searchsorted(theirs, mids[rows])
				left = np.abs(mids[rows] - theirs[np.maximum(after - 1, 0)])
				right = np.abs(mids[rows] - theirs[np.minimum(after, len(theirs) - 1)])
				distances[p, rows] = np.minimum(left, right)
	return distances.argmin(axis=0)  # (parts, n) -> (n,)


def divide(spans: Spans, parts: Sequence[Spans], *, apart: bool = True) -> np.ndarray:
	"""Which part each background window belongs to: that of the nearest locus.

	Parameters
	----------
	spans: Spans
		n background windows.
	parts: sequence of Spans
		The windows of the loci of each part.
	apart: bool, default True
		Give no part (-1) to windows that share bases with a locus of another part, or with a background window of an
		earlier part.

	Returns
	-------
	numpy.ndarray of int64, shape=(n,)
	"""
	owner = nearest_part(spans, parts)
	if not apart:
		return owner
	taken: list[Spans] = []
	for p in range(len(parts)):
		rows = np.flatnonzero(owner == p)
		ours = Spans(*(column[rows] for column in spans))
		clash = touching(ours, [*(part for q, part in enumerate(parts) if q != p), *taken])
		owner[rows[clash]] = -1
		taken.append(Spans(*(column[~clash] for column in ours)))
	return owner
