"""Splits given as loci: shared windows, and the division of background loci, against loops over all pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cherimoya.io.loci import read_loci
from cherimoya.io.parts import Spans, divide, input_spans, nearest_part, shared_windows


def spans(rows):
	chroms = np.array([row[0] for row in rows], dtype=object)
	numbers = np.array([row[1:] for row in rows], dtype=np.int64).reshape(len(rows), 2)
	return Spans(chroms, numbers[:, 0], numbers[:, 1])


def share(a, b):
	return a[0] == b[0] and a[1] < b[2] and b[1] < a[2]


_ROW = st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 60), st.integers(1, 9)).map(
	lambda row: (row[0], row[1], row[1] + row[2])
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(_ROW, max_size=5), min_size=2, max_size=3))
def test_shared_windows(parts):
	found = {
		(o.first, o.second): (o.n, o.example) for o in shared_windows({str(i): spans(p) for i, p in enumerate(parts)})
	}
	for i, ours in enumerate(parts):
		for j in range(i + 1, len(parts)):
			hits = [row for row in ours if any(share(row, other) for other in parts[j])]
			if not hits:
				assert (str(i), str(j)) not in found
				continue
			n, example = found[str(i), str(j)]
			assert n == len(hits)
			texts = [[f"{c}:{s}-{e}" for c, s, e in part] for part in (ours, parts[j])]
			assert share(ours[texts[0].index(example[0])], parts[j][texts[1].index(example[1])])


@settings(max_examples=200, deadline=None)
@given(st.lists(_ROW, max_size=8), st.lists(st.lists(_ROW, max_size=5), min_size=2, max_size=3), st.booleans())
def test_division(rows, parts, apart):
	def middle(row):
		return (row[1] + row[2]) // 2

	expected = []
	for row in rows:
		far = [
			min([abs(middle(row) - middle(other)) for other in part if other[0] == row[0]], default=10**9)
			for part in parts
		]
		expected.append(far.index(min(far)))
	assert nearest_part(spans(rows), [spans(part) for part in parts]).tolist() == expected
	if apart:
		for p in range(len(parts)):
			others = [row for q, part in enumerate(parts) if q != p for row in part]
			others += [row for row, owner in zip(rows, expected, strict=True) if 0 <= owner < p]
			expected = [
				-1 if owner == p and any(share(row, other) for other in others) else owner
				for row, owner in zip(rows, expected, strict=True)
			]
	assert divide(spans(rows), [spans(part) for part in parts], apart=apart).tolist() == expected


@pytest.mark.parametrize(("jitter", "expected"), [(0, (80, 121)), (7, (73, 128))], ids=str)
def test_input_spans(jitter, expected):
	found = input_spans(read_loci({"chrom": ["a"], "start": [95], "end": [106]}), 41, max_jitter=jitter)
	assert (found.starts[0], found.ends[0]) == expected
