"""Reads and fragments: from alignment files to the positions that a signal counts.

A read counts at its 5' end: the start of a read on the + strand, the last base of one on the - strand. Each mate of a
pair is a read. A fragment counts at both of its ends: its first base as a + end, its last base as a - end. Shifts are
added to those positions, so that ``pos_shift=4, neg_shift=-4`` turns raw ATAC-seq reads into the centres of Tn5's cuts:
``start + 4`` and ``end - 5`` for a half-open fragment.
"""

import gzip
import os
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from cherimoya.errors import InputError, MissingFileError, SettingsError, missing_extra
from cherimoya.io._files import is_remote
from cherimoya.io.names import REMEDY, ChromNames, alike

if TYPE_CHECKING:
	import numpy as np

Layout = Literal["bam", "cram", "sam", "bed", "bed_stranded", "bedpe", "bedpe_stranded", "fragments"]

ALIGNMENT_SUFFIXES = (".bam", ".cram", ".sam")
TEXT_SUFFIXES = (".bed", ".bedpe", ".tsv", ".txt", ".frag", ".fragments")
CHUNK_ROWS = 500_000
"""Rows that are turned into arrays at a time."""

_PEAKS_ALONE = frozenset({"paired_end", "callpeaks_format", "callpeaks_unit", "callpeaks_q"})
"""Settings of a group that its control's bigWig does not depend on."""

PROGRESS_READS = 5_000_000
"""Reads between two lines of progress."""

DROP_REASONS = (
	"unmapped",
	"secondary or supplementary",
	"failed quality checks",
	"not a proper pair",
	"chromosome not in FASTA",
)
"""Why a read or fragment is not used, in the order of the table."""


def is_reads(path: str) -> bool:
	"""Whether a file name is that of reads or fragments, rather than of a bigWig."""
	name = str(path).lower()
	if name.endswith(".gz"):
		name = name[: -len(".gz")]
	return name.endswith(ALIGNMENT_SUFFIXES + TEXT_SUFFIXES)


def read_groups(signals: str | Sequence[Any] | None) -> list[list[str]]:
	"""The read files of each experiment.

	A flat list holds replicates, pooled into one experiment; in a list that holds lists, each element
	(a file, or a list of replicates) is an experiment of its own.

	Parameters
	----------
	signals: str, list or None
		``"a.bam"``, ``["a.bam", "b.bam"]`` or ``[["a.bam", "b.bam"], "c.bam"]``; null among controls is a group
		without one.

	Returns
	-------
	groups: list of lists of str
		``[["a.bam", "b.bam"]]`` for a flat list; an empty list for null.
	"""
	if not signals:
		return []
	if isinstance(signals, str):
		return [[signals]]
	if all(isinstance(item, str) for item in signals):
		return [list(signals)]
	return [[item] if isinstance(item, str) else list(item or ()) for item in signals]


def group_values(values: Mapping[str, Any], index: int, n_groups: int) -> dict[str, Any]:
	"""The settings of one group of reads: of each list with a value for each group, that of the group.

	Parameters
	----------
	values: dict
		Settings of reads.
	index, n_groups: int
		The group, from 0, and how many there are.

	Raises
	------
	SettingsError
		A list has another length.
	"""
	from cherimoya_cli.settings import PER_GROUP

	found = dict(values)
	for key in PER_GROUP & values.keys():
		if isinstance(values[key], list):
			if len(values[key]) != n_groups:
				raise SettingsError(
					f"{key} has {len(values[key])} values, but there {'is' if n_groups == 1 else 'are'} {n_groups} "
					f"group{'s' * (n_groups != 1)} of reads; give one value for all, or a list with one for each group"
				)
			found[key] = values[key][index]
	return found


class Conversion(NamedTuple):
	"""Reads that become a track, or a pair of them: files, and the settings that hold for them.

	Attributes
	----------
	files: list of str
		Replicates, which are pooled; none for a group without control.
	values: dict
		The settings, with the group's value of those that have one for each group.
	"""

	files: list[str]
	values: dict[str, Any]


def conversions(values: Mapping[str, Any]) -> dict[str, list[Conversion]]:
	"""What the reads of settings are turned into: for signals and controls, a conversion for each entry.

	With as many entries of controls as groups of signals, each is the control of its group, and takes that group's
	settings; another entry is shared, and its settings must not differ between groups.

	Raises
	------
	SettingsError
		Lists of settings, signals and controls do not fit together.
	"""
	from cherimoya_cli.settings import PER_GROUP

	groups, controls = read_groups(values["signals"]), read_groups(values["controls"])
	n = len(groups) or len(controls)
	of_group = [group_values(values, i, n) for i in range(n)]
	if len(groups) > 1 and len(controls) > 1 and len(controls) != n:
		raise SettingsError(
			f"controls has {len(controls)} entries for {n} groups of signals; give one for all groups, or one for each "
			"(null for a group without control)"
		)
	paired = not groups or len(controls) == n
	if controls and not paired:
		keys = PER_GROUP.difference(_PEAKS_ALONE) & values.keys()
		differ = sorted(key for key in keys if any(part[key] != of_group[0][key] for part in of_group))
		if differ:
			raise SettingsError(
				f"{', '.join(differ)} differ between the groups of signals, so it is not known how their shared "
				"control is to be converted; give controls an entry for each group (a file may be named twice)"
			)
	return {
		"signals": [Conversion(files, part) for files, part in zip(groups, of_group, strict=True)] if groups else [],
		"controls": [Conversion(files, of_group[i if paired else 0]) for i, files in enumerate(controls)],
	}


def controls_of(index: int, values: Mapping[str, Any]) -> list[str]:
	"""The control files of one group of signals: its own entry, or else all that there are."""
	groups, controls = read_groups(values["signals"]), read_groups(values["controls"])
	if len(groups) > 1 and len(controls) == len(groups):
		return controls[index]
	return [path for entry in controls for path in entry]


def detect_layout(path: str) -> Layout:
	"""What the rows of a file of reads are, from its name and its first line of data.

	=================  ==========================================================================
	``bam cram sam``   alignments
	``bed``            chrom, start, end, and no strand (MACS3's BEDPE is this too)
	``bed_stranded``   chrom, start, end, name, score, strand
	``fragments``      chrom, start, end, barcode, count: one row a fragment, whatever its count
	``bedpe``          chrom, start, end of one mate and then of the other
	``bedpe_stranded`` the same, then name, score and the strands of the mates
	=================  ==========================================================================

	Raises
	------
	MissingFileError
		There is no such file.
	InputError
		The file is empty, damaged, or its first line has no chromosome, start and end.
	"""
	name = str(path).lower()
	if not is_remote(path) and not Path(path).is_file():
		raise MissingFileError(f"{path}: this file of reads does not exist; check the path")
	for suffix in ALIGNMENT_SUFFIXES:
		if name.endswith(suffix):
			return suffix[1:]  # type: ignore[return-value]
	if is_remote(path):
		raise InputError(f"{path}: only bigWig and alignment files are read over the network; download this file first")
	for number, fields in _rows(path):
		return _text_layout(path, number, fields)
	raise InputError(f"{path}: holds no reads; give a file with at least one line 'chrom start end ...'")


def _text_layout(path: str, number: int, fields: list[str]) -> Layout:
	"""The layout that one line of a text file shows."""
	if len(fields) < 3 or not (_is_int(fields[1]) and _is_int(fields[2])):
		raise InputError(
			f"{path}: line {number} has no chromosome, start and end in its first three columns "
			f"({' '.join(fields[:4])!r}); give BED, BEDPE or a fragment file"
		)
	if len(fields) >= 6 and _is_int(fields[4]) and _is_int(fields[5]):
		return "bedpe_stranded" if len(fields) >= 10 and fields[8] in "+-" and fields[9] in "+-" else "bedpe"
	if len(fields) >= 6 and fields[5] in ("+", "-"):
		return "bed_stranded"
	if len(fields) == 5 and fields[4].isdigit():
		return "fragments"
	return "bed"


def _is_int(text: str) -> bool:
	"""Whether a field is a whole number (BEDPE writes -1 for an unmapped mate)."""
	return text.lstrip("-").isdigit()


def _rows(path: str) -> Iterator[tuple[int, list[str]]]:
	"""Line number and fields of each line of data of a plain or gzipped text file."""
	opener = gzip.open if str(path).lower().endswith(".gz") else open
	try:
		with opener(path, "rt", encoding="utf-8") as handle:  # type: ignore[operator]
			for number, line in enumerate(handle, start=1):
				if line.startswith(("#", "track ", "browser ")) or not line.strip():
					continue
				yield number, line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
	except (EOFError, gzip.BadGzipFile, zlib.error) as error:
		raise InputError(
			f"{path}: this gzipped file is truncated or damaged ({error}); copy or make it again"
		) from error
	except UnicodeDecodeError as error:
		raise InputError(
			f"{path}: this is not a text file ({error.reason} at byte {error.start}); give BED or BAM"
		) from error


class Chunk(NamedTuple):
	"""Some reads or fragments as arrays: 0-based half-open intervals.

	Attributes
	----------
	chrom: np.ndarray, shape=(n,), int32
		Index into the chromosomes of the FASTA.
	start, end: np.ndarray, shape=(n,), int64
		Interval in bp.
	reverse: np.ndarray, shape=(n,), bool
		Whether a read is on the - strand; unused for fragments.
	"""

	chrom: "np.ndarray"
	start: "np.ndarray"
	end: "np.ndarray"
	reverse: "np.ndarray"


@dataclass
class ReadAccounting:
	"""Where the reads of one file went.

	Attributes
	----------
	file: str
		The file.
	unit: str
		``"reads"`` or ``"fragments"``.
	given, used: int
		How many the file holds, and how many are counted.
	dropped: dict[str, int]
		How many are not, by reason, in the order of `DROP_REASONS`.
	marked_duplicates: int
		Reads used although they are marked as duplicates.
	beyond: int
		Ends that lie off their chromosome, after the shift, and are not counted.
	unknown: dict[str, int]
		Reads on each chromosome that the FASTA lacks.
	"""

	file: str
	unit: str
	given: int = 0
	used: int = 0
	dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(DROP_REASONS, 0))
	marked_duplicates: int = 0
	beyond: int = 0
	unknown: dict[str, int] = field(default_factory=dict)

	def lines(self) -> list[str]:
		"""The accounting in words, a line for each number that is not zero."""
		lines = [f"{self.file}: {self.given:,} {self.unit}, {self.used:,} used"]
		for reason, n in self.dropped.items():
			if n:
				names = ""
				if reason == "chromosome not in FASTA":
					most = sorted(self.unknown, key=lambda chrom: -self.unknown[chrom])[:5]
					names = f" ({', '.join(most)}{', ...' if len(self.unknown) > 5 else ''})"
				lines.append(f"  {n:,} not used: {reason}{names}")
		if self.beyond:
			lines.append(f"  {self.beyond:,} ends not counted: off the chromosome after the shift")
		if self.marked_duplicates:
			lines.append(f"  {self.marked_duplicates:,} of those used are marked as duplicates")
		return lines

	def to_dict(self) -> dict[str, Any]:
		"""The accounting as a dict for a JSON file."""
		return dict(vars(self))


def iterate_reads(
	path: str,
	chrom_sizes: Mapping[str, int],
	*,
	fragments: bool,
	accounting: ReadAccounting,
	sequences: str | None = None,
	names: ChromNames | None = None,
	rows: int | None = None,
) -> Iterator[Chunk]:
	"""Reads, or fragments, of a file, a chunk at a time.

	Of alignments, those that are unmapped, secondary, supplementary or failed quality checks are left
	out; marked duplicates are kept. A fragment of alignments is a proper pair, taken once, from its
	leftmost mate and template length.

	Parameters
	----------
	path: str
		The file.
	chrom_sizes: dict
		Chromosomes of the FASTA, in its order, with their sizes in bp.
	fragments: bool
		Give fragments rather than reads.
	accounting: ReadAccounting
		Gains what was given, used and dropped.
	sequences: str or None
		The FASTA, which CRAM needs. Default is None.
	names: ChromNames or None
		Turns the file's names of chromosomes into the FASTA's. Default is None.
	rows: int or None
		Stop after as many rows; None (the default) reads them all.

	Yields
	------
	chunk: Chunk
		At most `CHUNK_ROWS` rows on chromosomes of the FASTA.

	Raises
	------
	SettingsError
		The file holds fragments, or no strands, and reads are asked for; or the reverse.
	InputError
		A row cannot be used, or the file is damaged.
	"""
	layout = detect_layout(path)
	if layout in ("bam", "cram", "sam"):
		records = _alignments(path, fragments=fragments, accounting=accounting, sequences=sequences)
	elif fragments:
		records = _text_fragments(path, layout, accounting)
	elif layout in ("bed_stranded", "bedpe_stranded"):
		records = _text_reads(path, layout, accounting)
	else:
		raise SettingsError(
			f"{path}: its rows have no strand, so the 5' end of a read is unknown; set fragments to true in "
			"preprocessing_parameters if each row is a fragment (both ends count), or give BED with six columns"
		)
	ids = _ChromIds(chrom_sizes, names, path)
	unknown: Counter[str] = Counter()
	columns: tuple[list[int], list[int], list[int], list[bool]] = ([], [], [], [])
	for chrom, start, end, reverse in islice(records, rows):
		index = ids[chrom]
		if index is None:
			unknown[chrom] += 1
			continue
		columns[0].append(index)
		columns[1].append(start)
		columns[2].append(end)
		columns[3].append(reverse)
		if len(columns[0]) == CHUNK_ROWS:
			yield _chunk(columns)
			accounting.used += CHUNK_ROWS
			columns = ([], [], [], [])
	if columns[0]:
		accounting.used += len(columns[0])
		yield _chunk(columns)
	accounting.unknown = dict(unknown)
	accounting.dropped["chromosome not in FASTA"] = sum(unknown.values())


class _ChromIds(dict[str, "int | None"]):
	"""The index of each chromosome by the names in one file; None for those that the FASTA lacks."""

	def __init__(self, chrom_sizes: Mapping[str, int], names: ChromNames | None, path: str) -> None:
		super().__init__()
		self.known = {chrom: i for i, chrom in enumerate(chrom_sizes)}
		self.names, self.path = names, path
		self.first: dict[str, str] = {}

	def __missing__(self, chrom: str) -> int | None:
		"""Look up a name that is met for the first time; InputError when another name has meant its chromosome."""
		found = chrom if self.names is None else self.names.resolve(chrom)
		before = self.first.setdefault(found, chrom)
		if self.names is not None and before != chrom:
			self.names.renaming([before, chrom], self.path)
		self[chrom] = self.known.get(found)
		return self[chrom]


def _chunk(columns: tuple[list[int], list[int], list[int], list[bool]]) -> Chunk:
	"""Lists as arrays."""
	import numpy as np

	return Chunk(
		np.array(columns[0], dtype=np.int32),
		np.array(columns[1], dtype=np.int64),
		np.array(columns[2], dtype=np.int64),
		np.array(columns[3], dtype=bool),
	)


def _interval(path: str, number: int, start: str, end: str) -> tuple[int, int]:
	"""Two fields as an interval, checked."""
	try:
		first, last = int(start), int(end)
	except ValueError:
		raise InputError(
			f"{path}: line {number} has start {start!r} and end {end!r}, which are not whole numbers; fix or remove it"
		) from None
	if not 0 <= first < last:
		raise InputError(
			f"{path}: line {number} is the interval {first}-{last}; it needs 0 <= start < end; fix or remove it"
		)
	return first, last


def _too_short(path: str, number: int, fields: list[str], needed: int) -> InputError:
	"""The error for a line with fewer columns than the first one of its file."""
	return InputError(f"{path}: line {number} has {len(fields)} columns where {needed} are needed; fix or remove it")


def _text_fragments(path: str, layout: Layout, accounting: ReadAccounting) -> Iterator[tuple[str, int, int, bool]]:
	"""Fragments of BED-like rows; of BEDPE rows, from the first base of the mates to the last."""
	paired = layout in ("bedpe", "bedpe_stranded")
	for number, fields in _rows(path):
		accounting.given += 1
		if len(fields) < (6 if paired else 3):
			raise _too_short(path, number, fields, 6 if paired else 3)
		if not paired:
			start, end = _interval(path, number, fields[1], fields[2])
		else:
			if fields[0] != fields[3] or "-1" in (fields[1], fields[4]):
				accounting.dropped["not a proper pair"] += 1
				continue
			one = _interval(path, number, fields[1], fields[2])
			two = _interval(path, number, fields[4], fields[5])
			start, end = min(one[0], two[0]), max(one[1], two[1])
		yield fields[0], start, end, False


def _text_reads(path: str, layout: Layout, accounting: ReadAccounting) -> Iterator[tuple[str, int, int, bool]]:
	"""Reads of rows that tell the strand; each mate of a BEDPE row is a read."""
	mates = ((0, 1, 2, 5),) if layout == "bed_stranded" else ((0, 1, 2, 8), (3, 4, 5, 9))
	for number, fields in _rows(path):
		for chrom, start, end, strand in mates:
			if len(fields) <= strand:
				raise _too_short(path, number, fields, strand + 1)
			accounting.given += 1
			if fields[chrom] == "." or fields[start] == "-1":
				accounting.dropped["unmapped"] += 1
				continue
			if fields[strand] not in ("+", "-"):
				raise InputError(
					f"{path}: line {number} has strand {fields[strand]!r}, so the 5' end of the read is unknown; "
					"write + or -, or remove the line"
				)
			first, last = _interval(path, number, fields[start], fields[end])
			yield fields[chrom], first, last, fields[strand] == "-"


def _alignments(
	path: str, *, fragments: bool, accounting: ReadAccounting, sequences: str | None
) -> Iterator[tuple[str, int, int, bool]]:
	"""Primary alignments, or proper pairs, of a SAM, BAM or CRAM file."""
	try:
		import pysam
	except ImportError as error:
		raise missing_extra("pysam", extra="pipeline", needed_for=f"reading {path}") from error
	reason = accounting.dropped
	pysam.set_verbosity(0)  # htslib's own messages repeat what the errors below say
	# htslib would download a remote file's index into the current folder, though it is not read here.
	place = f"{path}##idx##{os.devnull}" if is_remote(path) else path
	try:
		with pysam.AlignmentFile(place, check_sq=False, reference_filename=sequences) as handle:
			names = handle.references
			for read in handle.fetch(until_eof=True):
				flag = read.flag
				if fragments and flag & 0x3 == 0x3 and not flag & 0x90C and read.template_length < 0:
					continue  # the right mate of a pair that is counted at its left one
				accounting.given += 1
				if flag & 0x4:
					reason["unmapped"] += 1
				elif flag & 0x900:
					reason["secondary or supplementary"] += 1
				elif flag & 0x200:
					reason["failed quality checks"] += 1
				elif fragments and (flag & 0x3 != 0x3 or read.template_length <= 0):
					reason["not a proper pair"] += 1
				else:
					start = read.reference_start
					end = start + read.template_length if fragments else read.reference_end
					accounting.marked_duplicates += bool(flag & 0x400)
					yield names[read.reference_id], start, end, bool(flag & 0x10)
	except (OSError, ValueError) as error:
		if isinstance(error, InputError):
			raise
		raise InputError(f"{path}: cannot be read as alignments ({error}); copy or make the file again") from error
	if fragments and accounting.given and sum(reason.values()) == accounting.given:
		raise SettingsError(
			f"{path}: none of its {accounting.given:,} alignments is in a proper pair; set fragments to false in "
			"preprocessing_parameters, so that each read counts at its 5' end"
		)


class Ends(NamedTuple):
	"""Positions that count: chromosome index (n,), 0-based position (n,) in bp, whether of the - strand (n,)."""

	chrom: "np.ndarray"
	position: "np.ndarray"
	reverse: "np.ndarray"


def five_prime_ends(chunk: Chunk, *, fragments: bool, pos_shift: int = 0, neg_shift: int = 0) -> Ends:
	"""The positions at which reads or fragments count.

	Parameters
	----------
	chunk: Chunk
		n reads or fragments.
	fragments: bool
		Count both ends of each row: the first base as +, the last base as -.
	pos_shift, neg_shift: int
		Added to the positions of + and of - ends, in bp. Default is 0.

	Returns
	-------
	ends: Ends
		n positions of reads, 2n of fragments.
	"""
	import numpy as np

	if fragments:
		n = len(chunk.chrom)
		return Ends(
			np.concatenate([chunk.chrom, chunk.chrom]),  # (n,) -> (2n,)
			np.concatenate([chunk.start + pos_shift, chunk.end - 1 + neg_shift]),  # (n,) -> (2n,)
			np.repeat([False, True], n),
		)
	position = np.where(chunk.reverse, chunk.end - 1 + neg_shift, chunk.start + pos_shift)
	return Ends(chunk.chrom, position, chunk.reverse)


def on_chromosomes(ends: Ends, chrom_sizes: Mapping[str, int]) -> "np.ndarray":
	"""Which ends lie on their chromosome: a mask of shape (n,)."""
	import numpy as np

	sizes = np.fromiter(chrom_sizes.values(), dtype=np.int64, count=len(chrom_sizes))
	return (ends.position >= 0) & (ends.position < sizes[ends.chrom])


def count_ends(
	path: str,
	chrom_sizes: Mapping[str, int],
	*,
	stranded: bool,
	fragments: bool,
	pos_shift: int = 0,
	neg_shift: int = 0,
	sequences: str | None = None,
	names: ChromNames | None = None,
	progress: Callable[[str], None] | None = None,
) -> tuple[list[dict[str, tuple["np.ndarray", "np.ndarray"]]], ReadAccounting]:
	"""How many ends of a file's reads lie at each position.

	Parameters
	----------
	path: str
		Reads or fragments.
	chrom_sizes: dict
		Chromosomes of the FASTA with their sizes in bp.
	stranded: bool
		Count the + and the - ends apart.
	fragments: bool
		Rows are fragments, of which both ends count.
	pos_shift, neg_shift: int
		Shifts of + and - ends in bp. Default is 0.
	sequences: str or None
		The FASTA, which CRAM needs. Default is None.
	names: ChromNames or None
		Turns the file's names of chromosomes into the FASTA's. Default is None.
	progress: callable or None
		Gets a line now and then. Default is None.

	Returns
	-------
	counts: list of dicts
		For each strand (one, or + and then -): chromosome -> (positions, counts), sorted by position.
	accounting: ReadAccounting
		Where the reads went.
	"""
	import numpy as np

	accounting = ReadAccounting(path, "fragments" if fragments else "reads")
	chroms, told = list(chrom_sizes), 0
	collected: list[list[list[np.ndarray]]] = [[[] for _ in chroms] for _ in range(1 + stranded)]
	chunks = iterate_reads(
		path, chrom_sizes, fragments=fragments, accounting=accounting, sequences=sequences, names=names
	)
	for chunk in chunks:
		if progress is not None and accounting.given >= told + PROGRESS_READS:
			told = accounting.given
			progress(f"{path}: {told:,} {accounting.unit} so far")
		ends = five_prime_ends(chunk, fragments=fragments, pos_shift=pos_shift, neg_shift=neg_shift)
		inside = on_chromosomes(ends, chrom_sizes)
		accounting.beyond += int((~inside).sum())
		strand = ends.reverse[inside] if stranded else np.zeros(int(inside.sum()), dtype=bool)
		for s in range(1 + stranded):
			where, positions = ends.chrom[inside][strand == s], ends.position[inside][strand == s]
			for i in np.unique(where):
				collected[s][i].append(positions[where == i].astype(np.uint32))
	return [
		{
			chroms[i]: tuple(np.unique(np.concatenate(parts), return_counts=True))  # type: ignore[misc]
			for i, parts in enumerate(per_chrom)
			if parts
		}
		for per_chrom in collected
	], accounting


def add_counts(
	parts: Iterable[Mapping[str, tuple["np.ndarray", "np.ndarray"]]],
) -> dict[str, tuple["np.ndarray", "np.ndarray"]]:
	"""The sum of several files' counts by chromosome: (positions, counts), sorted by position."""
	import numpy as np

	parts = list(parts)
	total = {}
	for chrom in dict.fromkeys(chrom for part in parts for chrom in part):
		positions = np.concatenate([part[chrom][0] for part in parts if chrom in part])
		counts = np.concatenate([part[chrom][1] for part in parts if chrom in part])
		unique, inverse = np.unique(positions, return_inverse=True)
		total[chrom] = unique, np.bincount(inverse, weights=counts)
	return total


def describe_naming(given: Iterable[str], known: Iterable[str]) -> str:
	"""The two sets of chromosome names, for the message that they do not meet."""
	given, known = list(given), list(known)

	def some(names: list[str]) -> str:
		return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")

	remedy = REMEDY if alike(given, known) else "use files of one assembly, or rename the chromosomes of one of them"
	return f"the reads name {some(given)}; the FASTA names {some(known)}; {remedy}"
