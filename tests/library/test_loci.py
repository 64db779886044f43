"""BED-like files and tables: what is read, what is refused and how it is said."""

import gzip

import numpy as np
import pytest

from cherimoya.errors import InputError, MissingFileError, SettingsError
from cherimoya.io.loci import (
	Loci,
	Region,
	_read_regular,
	midpoints,
	overlapping_regions,
	overlaps_any,
	parse_region,
	read_exclusions,
	read_loci,
	rows_by_chrom,
	write_bed,
)


def _rows(loci: Loci) -> list[tuple]:
	return list(zip(loci.chroms.tolist(), loci.starts.tolist(), loci.ends.tolist(), strict=True))


READABLE = {
	"tabs": b"chr1\t1\t5\nchr2\t0\t1\n",
	"spaces": b"chr1 1 5\nchr2   0  1\n",
	"no final newline": b"chr1\t1\t5\nchr2\t0\t1",
	"windows line ends": b"chr1\t1\t5\r\nchr2\t0\t1\r\n",
	"comments and headers": b'#chrom\nbrowser position chr1\ntrack name="x y"\n\n \nchr1\t1\t5\n# end\nchr2\t0\t1\n',
	"more columns, names with spaces": b"chr1\t1\t5\ta name\t0\nchr2\t0\t1\tanother one\t3\n",
	"a byte order mark": b"\xef\xbb\xbfchr1\t1\t5\nchr2\t0\t1\n",
	"a byte order mark, gzipped": gzip.compress(b"\xef\xbb\xbfchr1 1 5\nchr2 0 1\n"),
	"gzipped whatever its name": gzip.compress(b"chr1\t1\t5\nchr2\t0\t1\n"),
}


@pytest.mark.parametrize("content", READABLE.values(), ids=READABLE)
def test_readable_files(tmp_path, content):
	path = tmp_path / "a.bed"
	path.write_bytes(content)
	loci = read_loci(path)
	assert _rows(loci) == [("chr1", 1, 5), ("chr2", 0, 1)]
	assert loci.starts.dtype == np.int64 and loci.files == (str(path),)


@pytest.mark.parametrize(
	"lines, expected",
	[
		(["chr1\t1\tx"], ["1 line(s)", "whole number", "line 1"]),
		(["chrom start end", "chr1 1 2"], ["whole number", "line 1", "column names"]),
		(["chr1\t1.0\t5"], ["whole number"]),
		(["chr1\t1_0\t50"], ["whole number"]),
		(["chr1\t1"], ["fewer than 3 columns", "line 1"]),
		(
			["#", "chr1\t1\t5", "chr1\t900\t900", "chr1\t9\t3"],
			["2 interval(s)", "start >= end", "line 3, chr1:900-900"],
		),
		(["chr1\t-4\t5"], ["negative start", "chr1:-4-5"]),
		(["# nothing"], ["holds no intervals"]),
		([], ["holds no intervals"]),
		(["chr1\t1", "chr1\t-1\t4", "chr1\t5\t5", "chr1\tone\t2"], ["4 problems", "fewer", "negative", ">=", "whole"]),
	],
	ids=["text end", "header", "float", "underscore", "two columns", "empty", "negative", "comment", "no line", "all"],
)
def test_problems_are_named_with_file_line_and_count(tmp_path, make_bed, lines, expected):
	path = make_bed(tmp_path / "bad.bed", lines)
	with pytest.raises(InputError) as caught:
		read_loci(path)
	message = str(caught.value)
	assert str(path) in message
	for text in expected:
		assert text in message
	assert caught.value.exit_code == 3


def test_problems_of_several_files_come_together(tmp_path, make_bed):
	paths = [
		make_bed(tmp_path / "a.bed", ["chr1\t5\t5"]),
		make_bed(tmp_path / "b.bed", ["chr1\tx\t5"]),
		tmp_path / "missing.bed",
	]
	with pytest.raises(InputError) as caught:
		read_loci(paths)
	for path in paths:
		assert str(path) in str(caught.value)


def test_a_missing_file_is_a_file_not_found_error(tmp_path):
	with pytest.raises(MissingFileError, match=r"missing\.bed: no such file"):
		read_loci(tmp_path / "missing.bed")


@pytest.mark.parametrize(
	"content, expected",
	[
		(gzip.compress(b"chr1\t1\t5\n" * 1000)[:-20], "truncated"),
		(b"\x1f\x8b\x08\x00 no gzip at all", "broken"),
		(b"\xff\xfe\x00chr1", "not a text file"),
	],
	ids=["cut gzip", "false gzip", "binary"],
)
def test_files_that_are_no_text(tmp_path, content, expected):
	path = tmp_path / "a.bed.gz"
	path.write_bytes(content)
	with pytest.raises(InputError, match=expected):
		read_loci(path)


def test_several_files_keep_their_order_and_origin(tmp_path, make_bed):
	a = make_bed(tmp_path / "a.bed", [("chr2", 5, 9), ("chr1", 1, 3)])
	b = make_bed(tmp_path / "b.bed", [("chr1", 1, 3)])
	both = read_loci([a, read_loci([b, a])])
	assert [row[0] for row in _rows(both)] == ["chr2", "chr1", "chr1", "chr2", "chr1"]
	assert [both.files[i] for i in both.file_index] == [str(a), str(a), str(b), str(a), str(a)]
	assert _rows(both[np.array([2])]) == [("chr1", 1, 3)] and len(both[both.starts == 5]) == 2


class _Frame:
	"""As much of a data frame as is asked for."""

	def __init__(self, **columns):
		self.data = columns
		self.columns = list(columns)

	def __getitem__(self, name):
		return np.array(self.data[name], dtype=object)


@pytest.mark.parametrize(
	"table",
	[
		{"chrom": [1, "X"], "start": [3, 4], "end": [5, 6]},
		{"name": ["a", "b"], "End": [5, 6], "Start": [3, 4], "Chrom": ["1", "X"]},
		_Frame(first=["1", "X"], second=[3.0, 4.0], third=[5, 6]),
	],
	ids=["mapping", "by name in any order", "by position"],
)
def test_tables(table):
	assert _rows(read_loci(table)) == [("1", 3, 5), ("X", 4, 6)]


@pytest.mark.parametrize(
	"table, expected",
	[
		({"chrom": ["a"], "start": [1]}, "at least chrom, start and end"),
		({"chrom": [], "start": [], "end": []}, "holds no rows"),
		({"chrom": ["a", "a"], "start": [1, 7.5], "end": [2, 9]}, "row 1"),
		(7, "must be a path"),
		([7], "list with int"),
		([], "empty list"),
	],
	ids=["columns", "no rows", "fraction", "number", "list of numbers", "no file"],
)
def test_tables_and_sources_that_are_refused(table, expected):
	with pytest.raises(InputError, match=expected):
		read_loci(table)


NARROW = "chr1\t{}\t{}\tp\t1\t.\t1\t1\t1\t{}"


def test_midpoints_and_summits(tmp_path, make_bed):
	loci = read_loci(make_bed(tmp_path / "a", [NARROW.format(10, 20, 3), NARROW.format(10, 21, 0)]), summits=True)
	assert midpoints(loci).tolist() == [15, 15]
	assert midpoints(loci, summits=True).tolist() == [13, 10]
	table = read_loci({"chrom": ["chr1"], "start": [10], "end": [20], "summit": [4]}, summits=True)
	assert midpoints(table, summits=True).tolist() == [14]


@pytest.mark.parametrize(
	"line, expected",
	[
		("chr1\t1\t5", "no summit"),
		(NARROW.format(10, 20, -1), "no summit"),
		(NARROW.format(10, 20, "."), "no summit"),
		(NARROW.format(10, 20, 10), "outside of the interval"),
	],
	ids=["3 columns", "unknown", "dot", "outside"],
)
def test_summits_that_are_missing_or_wrong(tmp_path, make_bed, line, expected):
	path = make_bed(tmp_path / "a.bed", [line])
	with pytest.raises(InputError, match=expected):
		read_loci(path, summits=True)
	loose = read_loci(path)
	assert loose.summits.tolist() == [-1]
	with pytest.raises(InputError, match="no summit"):
		midpoints(loose, summits=True)
	with pytest.raises(InputError, match="no summit"):
		read_loci(loose, summits=True)


def test_the_tenth_column_of_bed12_is_no_summit(tmp_path, make_bed):
	path = make_bed(tmp_path / "a.bed", ["chr1\t10\t90\tn\t0\t+\t10\t90\t0\t2\t5,5\t0,70"])
	assert read_loci(path).summits.tolist() == [-1]


@pytest.mark.parametrize(
	"text, region",
	[
		("chr8", Region("chr8", 0, None)),
		(" 8 ", Region("8", 0, None)),
		("chr22:33,000,000-37,000,000", Region("chr22", 33_000_000, 37_000_000)),
		("chr22:37000000-", Region("chr22", 37_000_000, None)),
		("HLA-A*01:01:01:01", Region("HLA-A*01:01:01:01", 0, None)),
	],
)
def test_regions(text, region):
	assert parse_region(text) == region


@pytest.mark.parametrize("text", ["chr1:5-5", "chr1:9-3", ""])
def test_regions_that_are_refused(text):
	with pytest.raises(SettingsError):
		parse_region(text)


@pytest.mark.parametrize(
	"a, b, n",
	[
		(["chr1"], ["chr2"], 0),
		(["chr1"], ["chr1:0-5"], 1),
		(["chr1:0-5"], ["chr1:5-9"], 0),
		(["chr1:0-6"], ["chr1:5-9"], 1),
		(["chr1:7-"], ["chr1:5-8", "chr1:8-9"], 2),
		("chr1", "chr1", 1),
	],
)
def test_overlapping_regions(a, b, n):
	assert len(overlapping_regions(a, b)) == len(overlapping_regions(b, a)) == n


def test_overlaps_any_agrees_with_comparing_all_pairs():
	rng = np.random.default_rng(0)
	for n in (0, 1, 7, 40):
		starts = rng.integers(0, 300, n)
		ends = starts + rng.integers(1, 30, n)
		lo = rng.integers(-20, 320, 200)
		hi = lo + rng.integers(1, 20, 200)
		slow = ((lo[:, None] < ends) & (starts < hi[:, None])).any(axis=1)
		assert (overlaps_any(starts, ends, lo, hi) == slow).all()


def test_exclusions_may_be_absent(tmp_path, make_bed):
	assert read_exclusions(None) is None and read_exclusions([]) is None
	assert len(read_exclusions(make_bed(tmp_path / "a", [("chr1", 1, 2)]))) == 1


def test_write_bed_is_read_back_and_leaves_nothing_half_written(tmp_path):
	path = tmp_path / "out.bed"
	write_bed(path, ["chr1", "chr2"], [1, 2], np.array([5, 6]), ["a", "b"])
	assert path.read_text() == "chr1\t1\t5\ta\nchr2\t2\t6\tb\n"
	with pytest.raises(ValueError, match="one length"):
		write_bed(path, ["chr1"], [1, 2], [5, 6])
	with pytest.raises(InputError, match="cannot be written"):
		write_bed(tmp_path / "no" / "folder.bed", ["chr1"], [1], [5])
	assert [p.name for p in tmp_path.iterdir()] == ["out.bed"]


REGULAR = {
	"three columns": b"chr1\t1\t5\nchr2\t0\t1\nchr1\t007\t123456789012345678\n",
	"comments first": b"# made by hand\ntrack name=x\nbrowser position chr1\n#\tchrom\tstart\nchr1\t1\t5\n",
	"no final newline": b"chr1\t1\t5\nchr10\t0\t10",
	"narrowPeak": b"chr1\t1\t5\tn m\t0\t.\t1.5\t-1\t-1\t3\nchrX\t10\t15\ta\t0\t+\t1\t2\t3\t0\n",
	"a summit outside": b"chr1\t1\t5\tn\t0\t.\t1\t-1\t-1\t7\n",
	"BED12": b"chr1\t1\t5\tn\t0\t.\t1\t1\t1\t2\t3,4\t0,5\n",
	"a name like a header's": b"track1\t1\t5\nbrowser2\t2\t5\n",
}
IRREGULAR = {
	"nothing": b"",
	"comments alone": b"# one\n# two",
	"a comment between": b"chr1\t1\t5\n#\t1\t2\nchr1\t1\t5\n",
	"a track line between": b"chr1\t1\t5\ntrack\t1\t2\nchr1\t1\t5\n",
	"an empty line": b"chr1\t1\t5\n\nchr1\t1\t5\n",
	"columns that differ": b"chr1\t1\t5\tx\nchr1\t1\nchr1\t2\t3\n",
	"tabs of another line": b"chr1\t1\nchr1\t1\t5\t2\nchr1\t2\t3\n",
	"spaces": b"chr1 1 5\nchr1 1 5\n",
	"a space in a name": b"chr1 \t1\t5\n",
	"a space in a number": b"chr1\t1 \t5\n",
	"no name": b"\t1\t5\n",
	"a sign": b"chr1\t-1\t5\n",
	"no number": b"chr1\tx\t5\n",
	"a number too long": b"chr1\t1\t1234567890123456789\n",
	"start at end": b"chr1\t5\t5\n",
	"windows line ends": b"chr1\t1\t5\r\n",
	"a form feed": b"chr1\t1\t5\ta\x0cb\n",
	"not ASCII": "chr1\t1\t5\té\n".encode(),
	"not text": b"chr1\t1\t5\t\xff\n",
	"an empty last column": b"chr1\t1\t5\tn\t0\t.\t1\t-1\t-1\t2\t\n",
	"a summit that is unknown": b"chr1\t1\t5\tn\t0\t.\t1\t-1\t-1\t-1\n",
	"a name too long": b"x" * 65 + b"\t1\t5\n",
}


def _read(path, *, summits):
	"""What reading gives: the table, or the text of the error."""
	try:
		found = read_loci(path, summits=summits)
	except InputError as error:
		return str(error)
	return [_rows(found), found.summits.tolist(), found.file_index.tolist(), found.files, found.starts.dtype]


@pytest.mark.parametrize("summits", [False, True])
@pytest.mark.parametrize("name", [*REGULAR, *IRREGULAR])
def test_reading_columns_at_once_gives_what_reading_lines_does(tmp_path, monkeypatch, name, summits):
	content = {**REGULAR, **IRREGULAR}[name]
	path = tmp_path / "a.bed"
	path.write_bytes(content)
	found = _read(path, summits=summits)
	if not summits:
		assert (_read_regular(content, "a.bed", summits=False) is not None) == (name in REGULAR)
	monkeypatch.setattr("cherimoya.io.loci._read_regular", lambda *args, **options: None)
	assert found == _read(path, summits=summits)


@pytest.mark.parametrize("names", [[], ["b"], ["b", "a", "b"], [*"cabca", "chr10", "c"]], ids=len)
def test_rows_of_each_chromosome(names):
	rows = rows_by_chrom(np.array(names, dtype=object))
	assert list(rows) == list(dict.fromkeys(names))
	assert {chrom: some.tolist() for chrom, some in rows.items()} == {
		chrom: [i for i, name in enumerate(names) if name == chrom] for chrom in names
	}


def test_rows_of_as_many_chromosomes_as_an_assembly_has_scaffolds():
	"""One pass: to compare all rows with each name would be 10^10 comparisons."""
	names = np.array([f"scaffold_{i}" for i in range(100_000)], dtype=object)
	rows = rows_by_chrom(np.concatenate([names, names[::-1]]))
	assert rows["scaffold_3"].tolist() == [3, 199_996] and len(rows) == 100_000
