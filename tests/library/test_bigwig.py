"""The quick reader of bigWigs: against pyBigWig and plain arrays, and what it leaves to pyBigWig."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cherimoya.errors import InputError
from cherimoya.io._bigwig import BigWig, Unusual
from cherimoya.io._bigwig_writer import BigWigWriter
from cherimoya.io.tracks import Tracks

pyBigWig = pytest.importorskip("pyBigWig")

SIZES = {"chr1": 400, "chr2": 90, "chrEmpty": 50}
KINDS = {"bedGraph": 1, "varStep": 2, "fixedStep": 3}


def _section(chrom_id, kind, entries):
	"""One section: entries are (start, end, value), of one span but for bedGraph, and of one step for fixedStep."""
	first, last = entries[0][0], entries[-1][1]
	span = entries[0][1] - first
	step = entries[1][0] - first if len(entries) > 1 else span
	head = struct.pack("<IIIIIBBH", chrom_id, first, last, step, span, KINDS[kind], 0, len(entries))
	pack = {
		"bedGraph": lambda start, end, value: struct.pack("<IIf", start, end, value),
		"varStep": lambda start, end, value: struct.pack("<If", start, value),
		"fixedStep": lambda start, end, value: struct.pack("<f", value),
	}[kind]
	return (chrom_id, first, last), head + b"".join(pack(*entry) for entry in entries)


def write_sections(path, sections, *, zipped=True, per_node=2):
	"""A bigWig of sections (chrom, kind, entries), in order, with an index of so many sections a node; no zooms."""
	names = list(SIZES)
	made = [_section(names.index(chrom), kind, entries) for chrom, kind, entries in sections]
	tree = struct.pack("<IIIIQQ", 0x78CA8C91, len(names), 8, 8, len(names), 0) + struct.pack("<BBH", 1, 0, len(names))
	tree += b"".join(struct.pack("<8sII", name.encode(), i, SIZES[name]) for i, name in enumerate(names))
	data_at = 64 + len(tree) + 40
	body, leaves = b"", []
	for place, raw in made:
		data = zlib.compress(raw) if zipped else raw
		leaves.append((*place, data_at + 8 + len(body), len(data)))
		body += data
	index_at = data_at + 8 + len(body)
	groups = [leaves[i : i + per_node] for i in range(0, len(leaves), per_node)]
	root_at, index = index_at + 48, b""
	at = root_at + 4 + 24 * len(groups)
	root = struct.pack("<BBH", 0, 0, len(groups))
	for group in groups:
		root += struct.pack("<IIIIQ", group[0][0], group[0][1], group[-1][0], group[-1][2], at + len(index))
		index += struct.pack("<BBH", 1, 0, len(group))
		index += b"".join(struct.pack("<IIIIQQ", c, a, c, b, o, n) for c, a, b, o, n in group)
	header = struct.pack("<IIQ", 0x2468ACE0, per_node, len(leaves)) + struct.pack("<IIII", 0, 0, len(names), 0)
	header += struct.pack("<QII", index_at, 1, 0)
	longest = max(len(raw) for _, raw in made)
	summary_at = 64 + len(tree)
	top = struct.pack(
		"<IHHQQQHHQQIQ", 0x888FFC26, 4, 0, 64, data_at, index_at, 0, 0, 0, summary_at, longest * zipped, 0
	)
	path.write_bytes(
		top
		+ tree
		+ bytes(40)
		+ struct.pack("<Q", len(made))
		+ body
		+ header
		+ root
		+ index
		+ struct.pack("<I", 0x888FFC26)
	)
	return str(path)


VALUES = {
	"counts": st.integers(0, 255).map(float),
	"large counts": st.integers(0, 70_000).map(float),
	"fractions": st.floats(0, 1000, width=32),
	"with NaN": st.one_of(st.just(float("nan")), st.integers(1, 9).map(float)),
}


@st.composite
def bigwigs(draw):
	"""Sections of all kinds on two chromosomes, in order and apart, and a kind of values."""
	values = VALUES[draw(st.sampled_from(list(VALUES)))]
	sections = []
	for chrom in draw(st.sampled_from([["chr1"], ["chr2"], ["chr1", "chr2"]])):
		at = 0
		for _ in range(draw(st.integers(1, 4))):
			kind = draw(st.sampled_from(list(KINDS)))
			span, step = draw(st.integers(1, 4)), draw(st.integers(4, 6))
			entries, at = [], at + draw(st.integers(0, 30))
			for _ in range(draw(st.integers(1, 6))):
				width = draw(st.integers(1, 12)) if kind == "bedGraph" else span
				if at + width <= SIZES[chrom]:
					entries.append((at, at + width, draw(values)))
				at += step if kind == "fixedStep" else width + draw(st.integers(0, 9))
			if entries:
				sections.append((chrom, kind, entries))
	return sections or [("chr2", "bedGraph", [(3, 4, 1.0)])]


@settings(max_examples=150)
@given(sections=bigwigs(), zipped=st.booleans(), per_node=st.integers(1, 3), data=st.data())
def test_windows_are_those_of_pybigwig(tmp_path, sections, zipped, per_node, data):
	path = write_sections(tmp_path / "a.bw", sections, zipped=zipped, per_node=per_node)
	width = data.draw(st.integers(1, 40))
	quick, slow = BigWig(path), pyBigWig.open(path)
	for chrom, size in SIZES.items():
		starts = np.array(sorted(data.draw(st.lists(st.integers(0, size - width), min_size=1, max_size=5))))
		stretch = quick.stretch(chrom, starts, starts + width, absolute=False)
		assert stretch.shape == (starts[-1] + width - starts[0],)
		for start in starts.tolist():
			expected = slow.values(chrom, start, start + width, numpy=True)
			found = stretch[start - starts[0] : start - starts[0] + width]
			assert np.array_equal(found, np.nan_to_num(expected))
	slow.close()


@pytest.mark.parametrize(
	"values, dtype",
	[([0, 255], np.uint8), ([1, 256], np.float32), ([0.5], np.float32), ([-1], np.float32), ([np.nan, 3], np.uint8)],
	ids=str,
)
def test_values_are_in_the_smallest_type_that_is_exact(tmp_path, values, dtype):
	entries = [(i, i + 1, value) for i, value in enumerate(values)]
	reader = BigWig(write_sections(tmp_path / "a.bw", [("chr1", "bedGraph", entries)]))
	found = reader.stretch("chr1", np.array([0]), np.array([5]), absolute=False)
	assert found.dtype == dtype
	assert found.tolist() == [*np.nan_to_num(values), *[0] * (5 - len(values))]


def test_absolute_values(tmp_path):
	reader = BigWig(write_sections(tmp_path / "a.bw", [("chr1", "bedGraph", [(0, 2, -3.0), (4, 5, 2.0)])]))
	assert reader.stretch("chr1", np.array([0]), np.array([6]), absolute=True).tolist() == [3, 3, 0, 0, 2, 0]


def test_only_blocks_with_windows_are_read(tmp_path):
	sections = [("chr1", "fixedStep", [(at, at + 10, float(at))]) for at in range(0, 400, 10)]
	reader = BigWig(write_sections(tmp_path / "a.bw", sections))
	starts = np.array([15, 18, 305])
	read = []
	unzipped = reader._unzipped
	reader._unzipped = lambda data: read.append(1) or unzipped(data)
	stretch = reader.stretch("chr1", starts, starts + 10, absolute=False)
	assert len(read) == 4  # 10-30 and 300-320
	assert stretch[:13].tolist() == [10] * 5 + [20] * 8 and stretch[-10:].tolist() == [300] * 5 + [310] * 5


@pytest.mark.parametrize("gap", [1, 20], ids=["dense", "sparse"])
@pytest.mark.parametrize("width", [1, 3])
def test_values_lie_where_they_belong(tmp_path, gap, width):
	entries = [(at, at + width, float(at + 1)) for at in range(5, 100, gap + width)]
	reader = BigWig(write_sections(tmp_path / "a.bw", [("chr1", "bedGraph", entries)]))
	expected = np.zeros(200)
	for start, end, value in entries:
		expected[start:end] = value
	for first, last in ((0, 150), (6, 90), (26, 27), (101, 150)):
		found = reader.stretch("chr1", np.array([first]), np.array([last]), absolute=False)
		assert np.array_equal(found, expected[first:last])


ONE = ("chr1", "bedGraph", [(0, 4, 1.0), (6, 9, 2.0)])
UNUSUAL = {
	"values that overlap": [("chr1", "bedGraph", [(0, 4, 1.0), (2, 9, 2.0)])],
	"values out of order": [("chr1", "varStep", [(0, 4, 1.0), (20, 24, 1.0), (12, 16, 2.0), (26, 30, 1.0)])],
	"values without a base": [("chr1", "bedGraph", [(0, 4, 1.0), (6, 6, 3.0), (7, 9, 2.0)])],
	"blocks that overlap": [ONE, ("chr1", "bedGraph", [(5, 12, 1.0)])],
}


@pytest.mark.parametrize("sections", UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_unusual_is_left_to_pybigwig(tmp_path, sections):
	path = write_sections(tmp_path / "a.bw", sections)
	with pytest.raises(Unusual):
		BigWig(path).stretch("chr1", np.array([0]), np.array([40]), absolute=False)
	with pyBigWig.open(path) as file:
		expected = np.nan_to_num(file.values("chr1", 0, 40, numpy=True))
	assert np.array_equal(Tracks(path).windows(["chr1"], [0], 40)[0, 0], expected)


def test_a_broken_block_is_an_error_of_the_file(tmp_path):
	path = tmp_path / "a.bw"
	write_sections(path, [ONE])
	data = bytearray(path.read_bytes())
	at = data.index(zlib.compress(_section(0, "bedGraph", ONE[2])[1]))
	data[at : at + 8] = b"\xff" * 8
	path.write_bytes(bytes(data))
	with pytest.raises(Unusual, match="broken"):
		BigWig(str(path)).stretch("chr1", np.array([0]), np.array([9]), absolute=False)
	with pytest.raises(InputError, match=r"a\.bw: chr1:0-9 cannot be read .* make it again"):
		Tracks(str(path)).windows(["chr1"], [0], 9)


def test_an_unusual_index_is_read_once(tmp_path):
	"""Else a file of many windows would cost its whole index at each of them."""
	path = tmp_path / "a.bw"
	write_sections(path, [ONE])
	data = bytearray(path.read_bytes())
	at = data.index(struct.pack("<IIII", 0, 0, 0, 9))  # of the leaf: a block from chr1 to chr2
	data[at + 8 : at + 12] = struct.pack("<I", 1)
	data[data.index(struct.pack("<IIII", 0, 0, 0, 9)) + 8] = 1
	path.write_bytes(bytes(data))
	reader, read = BigWig(str(path)), []
	index = reader._read_index
	reader._read_index = lambda: read.append(1) or index()
	for _ in range(3):
		with pytest.raises(Unusual, match="several chromosomes"):
			reader.stretch("chr1", np.array([0]), np.array([9]), absolute=False)
	assert len(read) == 1


def test_blocks_beyond_four_gigabytes(tmp_path):
	"""Offsets of 64 bits; the file is a sparse one."""
	path, far = tmp_path / "a.bw", 5 << 30
	with BigWigWriter(path, {"chr1": 250_000_000, "chr2": 3_000_000_000}) as file:
		file.add("chr1", 249_999_990, np.arange(10))
		file._file.seek(far)
		file.add("chr2", 2_999_999_990, np.arange(10, 20))
	assert path.stat().st_size > far
	with pyBigWig.open(str(path)) as file:
		assert file.values("chr2", 2_999_999_990, 3_000_000_000) == [*range(10, 20)]
	starts = np.array([2_999_999_985])
	assert BigWig(str(path)).stretch("chr2", starts, starts + 15, absolute=False).tolist() == [0] * 5 + [*range(10, 20)]
	assert Tracks(path).windows(["chr1", "chr2"], [249_999_995, 2_999_999_995], 5)[:, 0].tolist() == [
		[5, 6, 7, 8, 9],
		[15, 16, 17, 18, 19],
	]


def test_chromosomes_in_any_order_of_the_index(tmp_path):
	places = [("chr2", (0, 4, 1.0)), ("chr1", (2, 5, 3.0)), ("chr2", (6, 9, 2.0))]
	sections = [(chrom, "bedGraph", [entry]) for chrom, entry in places]
	reader = BigWig(write_sections(tmp_path / "a.bw", sections))
	found = {c: reader.stretch(c, np.array([0]), np.array([9]), absolute=False).tolist() for c in SIZES}
	assert found == {"chr1": [0, 0, 3, 3, 3, 0, 0, 0, 0], "chr2": [1] * 4 + [0] * 2 + [2] * 3, "chrEmpty": [0] * 9}


@pytest.mark.parametrize("cut", [10, 60, 120, 200])
def test_a_truncated_file_is_unusual(tmp_path, cut):
	path = tmp_path / "a.bw"
	write_sections(path, [ONE, ("chr2", "bedGraph", [(0, 4, 1.0)])])
	path.write_bytes(path.read_bytes()[:cut])
	with pytest.raises(Unusual):
		BigWig(str(path)).stretch("chr1", np.array([0]), np.array([9]), absolute=False)
