"""Windows: the sequences, signals and controls around loci, and the account of where every locus went.

With a locus's middle mid and a width w, a window is the bases [mid - w // 2, mid + (w + 1) // 2), widened by
`max_jitter` on both sides. Signals use `out_window`; sequences and controls use `in_window`.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cherimoya.errors import InputError
from cherimoya.io._gather import Arrays, Request, Sources, Widths
from cherimoya.io.genome import Genome, one_hot
from cherimoya.io.loci import (
	Loci,
	Region,
	midpoints,
	overlaps_any,
	read_exclusions,
	read_loci,
	rename_regions,
	rows_by_chrom,
)
from cherimoya.io.names import REMEDY, alike
from cherimoya.io.storage import Wanted, hash_ahead, load
from cherimoya.io.tracks import Tracks, group_totals, sum_groups

if TYPE_CHECKING:
	import torch

REASONS = (
	"chromosome not in FASTA",
	"chromosome not in bigWig",
	"chromosome not selected",
	"off the edge",
	"excluded",
	"too few counts",
	"too many counts",
	"outlier",
	"in another split",
)
_OUTLIER_FACTOR, _OUTLIER_QUANTILE = 1.2, 0.99


@dataclass(frozen=True)
class Accounting:
	"""Where the loci of one load went.

	Attributes
	----------
	given: int
		Loci in the files.
	kept: int
		Loci that are used.
	dropped: dict of str to int
		For each reason of `REASONS`, in this order, the loci dropped for it; each locus counts once, for the first
		reason that holds.
	files: dict of str to Accounting
		The same for each file, where the loci come from several; else empty.
	"""

	given: int = 0
	kept: int = 0
	dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
	files: dict[str, "Accounting"] = field(default_factory=dict)

	def __add__(self, other: "Accounting") -> "Accounting":
		reasons = [*self.dropped, *(r for r in other.dropped if r not in self.dropped)]
		names = dict.fromkeys([*self.files, *other.files])
		return Accounting(
			given=self.given + other.given,
			kept=self.kept + other.kept,
			dropped={r: self.dropped.get(r, 0) + other.dropped.get(r, 0) for r in reasons},
			files={name: self.files.get(name, Accounting()) + other.files.get(name, Accounting()) for name in names},
		)

	def without(self, loci: Loci, reason: str) -> "Accounting":
		"""The account with loci that were kept and are left out after all, for a reason."""
		some = Accounting.of(loci, np.full(len(loci), -1))
		files = {name: account._less(some.files[name].kept, reason) for name, account in self.files.items()}
		return replace(self._less(some.kept, reason), files=files)

	def _less(self, n: int, reason: str) -> "Accounting":
		"""The account with so many fewer kept."""
		return replace(self, kept=self.kept - n, dropped={**self.dropped, reason: self.dropped.get(reason, 0) + n})

	def with_others(self, loci: Loci, reason: str) -> "Accounting":
		"""The account with further loci given that were dropped for a reason."""
		return self + Accounting.of(loci, np.full(len(loci), REASONS.index(reason)))

	@classmethod
	def of(cls, loci: Loci, reason: np.ndarray) -> "Accounting":
		"""The account of loci whose reason is an index of `REASONS`, or negative where they are kept, shape=(n,)."""
		total = cls._tally(reason)
		if len(loci.files) < 2:
			return total
		parts = [cls._tally(reason[loci.file_index == i]) for i in range(len(loci.files))]
		files: dict[str, Accounting] = {}
		for name, part in zip(loci.files, parts, strict=True):  # a file may be listed twice
			files[name] = files[name] + part if name in files else part
		return replace(total, files=files)

	@classmethod
	def _tally(cls, reason: np.ndarray) -> "Accounting":
		"""The account of one lot of loci."""
		dropped = {name: int((reason == i).sum()) for i, name in enumerate(REASONS)}
		return cls(len(reason), int((reason < 0).sum()), dropped)

	def table(self, title: str = "") -> str:
		"""The account as aligned text below `title`, a column for each of several files, without reasons of 0."""
		columns = [self, *self.files.values()]
		rows = [["given", *(f"{column.given:,}" for column in columns)]]
		for reason, n in self.dropped.items():
			if n:
				rows.append([f"  dropped: {reason}", *(f"{column.dropped.get(reason, 0):,}" for column in columns)])
		rows.append(["kept", *(f"{column.kept:,}" for column in columns)])
		if self.files:
			rows.insert(0, ["", "all", *_short_names(self.files)])
		widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
		lines = []
		for name, *cells in rows:
			aligned = [f"{cell:>{width}}" for cell, width in zip(cells, widths[1:], strict=True)]
			lines.append("  ".join([f"{name:<{widths[0]}}", *aligned]))
		return "\n".join([title, *lines] if title else lines)

	def rows(self) -> list[tuple[str, str, int]]:
		"""The account as (file, reason, count): given, every reason, and kept; file "all", then each of several."""
		found = []
		for name, account in (("all", self), *self.files.items()):
			found.append((name, "given", account.given))
			found += [(name, reason, n) for reason, n in account.dropped.items()]
			found.append((name, "kept", account.kept))
		return found

	def to_dict(self) -> dict[str, Any]:
		"""The account as plain numbers, for a JSON record."""
		record: dict[str, Any] = {"given": self.given, "kept": self.kept, "dropped": dict(self.dropped)}
		if self.files:
			record["files"] = {name: account.to_dict() for name, account in self.files.items()}
		return record

	@classmethod
	def from_dict(cls, record: Mapping[str, Any]) -> "Accounting":
		"""The account of a record written by :meth:`to_dict`."""
		files = {name: cls.from_dict(account) for name, account in record.get("files", {}).items()}
		return cls(int(record["given"]), int(record["kept"]), dict(record["dropped"]), files)


def _short_names(paths: Iterable[str]) -> list[str]:
	"""The names of files without their folders, where that tells them apart."""
	paths = list(paths)
	names = [os.path.basename(path) or path for path in paths]
	return names if len(set(names)) == len(names) else paths


@dataclass(frozen=True)
class Windows:
	"""Windows of the kept loci, in the order given, as arrays; W = in_window + 2 * max_jitter.

	Attributes
	----------
	codes: numpy.ndarray of uint8, shape=(n, W)
		Base codes, A, C, G, T = 0 to 3, any other letter 4.
	signals: numpy.ndarray, shape=(n, T, out_window + 2 * max_jitter), or None
		float32 in memory; in a cache the smallest of uint8, int16, float16 and float32 that is exact.
	controls: numpy.ndarray, shape=(n, Tc, W), or None
		As `signals`.
	loci: Loci
		The kept loci.
	mask: numpy.ndarray of bool, shape=(n_given,)
		Which of the given loci were kept.
	accounting: Accounting
	signal_groups, control_groups: tuple of int
		Channels of each group; empty without signals or controls.
	in_window, out_window, max_jitter: int
		In bp.
	summits: bool
		Whether windows are centred at summits.
	"""

	codes: np.ndarray
	signals: np.ndarray | None
	controls: np.ndarray | None
	loci: Loci
	mask: np.ndarray
	accounting: Accounting
	signal_groups: tuple[int, ...]
	control_groups: tuple[int, ...]
	in_window: int
	out_window: int
	max_jitter: int
	summits: bool = False

	def __len__(self) -> int:
		return len(self.codes)

	def __getitem__(self, index: "slice | np.ndarray") -> "Windows":
		"""The windows of some of the kept loci; `mask` and `accounting` stay those of the load."""
		return replace(
			self,
			codes=self.codes[index],
			signals=None if self.signals is None else self.signals[index],
			controls=None if self.controls is None else self.controls[index],
			loci=self.loci[index],
		)

	@property
	def midpoints(self) -> np.ndarray:
		"""The middle base of each window, shape=(n,)."""
		return midpoints(self.loci, summits=self.summits)

	def X(self, index: Any = slice(None), dtype: "torch.dtype | None" = None) -> "torch.Tensor":
		"""One-hot sequences of the loci of `index`, all by default: shape=(m, 4, W); `dtype` None is float32."""
		return one_hot(self.codes[index], dtype)

	def y(self, index: Any = slice(None)) -> "torch.Tensor | None":
		"""Signals of the loci of `index`, shape=(m, T, out_window + 2 * max_jitter), float32; None without signals."""
		return _tensor(self.signals, index)

	def X_ctl(self, index: Any = slice(None)) -> "torch.Tensor | None":
		"""Controls of the loci of `index`, shape=(m, Tc, W), float32; None without controls."""
		return _tensor(self.controls, index)

	def counts(self) -> np.ndarray:
		"""Observed counts of each group over the central out_window, float64, (n, G); ValueError without signals."""
		if self.signals is None:
			raise ValueError("these windows hold no signals, so there are no counts")
		centre = slice(self.max_jitter, self.max_jitter + self.out_window)
		return group_totals(self.signals[:, :, centre], self.signal_groups)

	def centre(self) -> "Windows":
		"""The same windows without jitter (views, no copies)."""
		j = self.max_jitter
		cut = slice(j, -j if j else None)
		return replace(
			self,
			codes=self.codes[:, cut],
			signals=None if self.signals is None else self.signals[:, :, cut],
			controls=None if self.controls is None else self.controls[:, :, cut],
			max_jitter=0,
		)


def extract_windows(
	loci: Any,
	sequences: Any,
	signals: Any = None,
	controls: Any = None,
	*,
	in_window: int = 2114,
	out_window: int = 1000,
	max_jitter: int = 0,
	chroms: Sequence[str] | None = None,
	min_counts: float | None = None,
	max_counts: float | None = None,
	summits: bool = False,
	exclusion_lists: Any = None,
	drop_outliers: bool = False,
	absolute: bool = False,
	verbose: bool = False,
	allow_empty: bool = False,
	cache: str | os.PathLike | None = None,
	workers: int | None = None,
	progress: Callable[[str], None] | None = None,
) -> Windows:
	"""Extract the windows around loci, and account for every locus that is dropped.

	Parameters
	----------
	loci: path, list of paths, DataFrame-like, or Loci
		See :func:`cherimoya.io.loci.read_loci`.
	sequences: path, mapping, or Genome
		See :class:`cherimoya.io.genome.Genome`.
	signals, controls: path, list in groups, Tracks, or None
		See :class:`cherimoya.io.tracks.Tracks`. Controls are read over the input window.
	in_window, out_window: int, default 2114 and 1000
		Widths of the input and of the output, in bp.
	max_jitter: int, default 0
		How much windows are widened on both sides, in bp.
	chroms: list of str, or None
		Chromosomes, or regions such as `chr22:0-33000000`, whose loci are kept; None keeps all. With a region the
		input window, jitter included, must lie inside, so that regions without overlap share no base.
	min_counts, max_counts: float, or None
		Inclusive bounds on the counts over the central out_window; a locus stays if each group is within them.
	summits: bool, default False
		Centre windows at summits rather than at middles.
	exclusion_lists: like loci, or None
		Loci whose widest window overlaps one of these regions are dropped.
	drop_outliers: bool, default False
		For each group, drop loci with more than 1.2 times the 99th percentile of the counts of those kept so far.
	absolute: bool, default False
		Take the absolute values of negative signals.
	verbose: bool, default False
		Show a progress bar on a terminal.
	allow_empty: bool, default False
		Return no windows, rather than raise, when no locus is left.
	cache: path, "auto" or None, default None
		A folder in which the arrays are kept as files, mapped into memory and found again by later loads of the same
		content, in this process and in others; see :mod:`cherimoya.io.cache`. "auto" is the folder `windows` in the
		user's cache folder for windows of 64 MiB or more, and memory for less. None: memory, as float32. Remote
		tracks, whose content is not known, are always read into memory.
	workers: int or None, default None
		Processes that read; None takes one a core, and fewer where there is little to read.
	progress: callable or None, default None
		Called with lines of text: the bytes that are needed, and what holds up the load.

	Returns
	-------
	Windows

	Raises
	------
	InputError
		An input cannot be read, assemblies differ, no locus is left (it shows the account), or the windows take more
		memory, or disk in the cache, than there is; the last before anything is read.
	"""
	sources = open_sources(sequences, signals, controls, absolute=absolute)
	hash_ahead(sources, loci, cache)
	plan = plan_windows(
		loci,
		sources,
		Widths.checked(in_window, out_window, max_jitter),
		chroms=chroms,
		min_counts=min_counts,
		max_counts=max_counts,
		summits=summits,
		exclusion_lists=exclusion_lists,
		drop_outliers=drop_outliers,
		allow_empty=allow_empty,
	)
	(windows,) = load_windows([plan], cache=cache, workers=workers, verbose=verbose, progress=progress)
	return windows


def open_sources(sequences: Any, signals: Any = None, controls: Any = None, *, absolute: bool = False) -> Sources:
	"""The genome and the tracks of :func:`extract_windows`, opened."""
	genome = sequences if isinstance(sequences, Genome) else Genome(sequences)
	tracks = (None if t is None else Tracks(t, absolute=absolute, names=genome.names) for t in (signals, controls))
	return Sources(genome, *tracks)


@dataclass(frozen=True)
class Plan:
	"""Which windows are to be loaded.

	Attributes
	----------
	loci: Loci
		All loci given.
	reason: numpy.ndarray of int8, shape=(n,)
		Why each drops by its place, an index of `REASONS`; -1 where it does not.
	rows: numpy.ndarray of int64
		The loci that do not.
	wanted: Wanted
		What is to be loaded of those.
	reasons_by: callable
		From the totals of the tracks, (n_rows, T), the reasons of all loci.
	check: callable
		Raises InputError when, by their account, no locus is left.
	summits: bool
		Whether windows are centred at summits.
	"""

	loci: Loci
	reason: np.ndarray
	rows: np.ndarray
	wanted: Wanted
	reasons_by: Callable[[np.ndarray | None], np.ndarray]
	check: Callable[[Accounting], None]
	summits: bool

	def windows(self, arrays: Arrays, totals: np.ndarray | None) -> Windows:
		"""The windows of the loci that are kept."""
		reason = self.reasons_by(totals)  # again, as a cache knows the totals and not the reasons
		kept = reason[self.rows] < 0
		accounting = Accounting.of(self.loci, reason)
		self.check(accounting)
		_, tracks, controls = self.wanted.request.sources
		return Windows(
			*arrays,
			loci=self.loci[self.rows[kept]],
			mask=reason < 0,
			accounting=accounting,
			signal_groups=tracks.groups if tracks is not None else (),
			control_groups=controls.groups if controls is not None else (),
			**self.wanted.request.widths._asdict(),
			summits=self.summits,
		)


def plan_windows(
	loci: Any,
	sources: Sources,
	widths: Widths,
	*,
	chroms: Sequence[str] | None = None,
	min_counts: float | None = None,
	max_counts: float | None = None,
	summits: bool = False,
	exclusion_lists: Any = None,
	drop_outliers: bool = False,
	allow_empty: bool = False,
) -> Plan:
	"""The windows of loci that :func:`load_windows` is to load; see :func:`extract_windows`."""
	genome, tracks, _ = sources
	loci = read_loci(loci, summits=summits).renamed(genome.names)
	regions = None if chroms is None else rename_regions(chroms, genome.names)
	mids = midpoints(loci, summits=summits)
	spans = _Spans.around(mids, widths)
	given = [t for t in sources[1:] if t is not None]
	reason = _place_filters(loci, spans, genome, given, regions)
	_drop(reason, _excluded(loci, spans, exclusion_lists, genome), "excluded")
	rows = np.flatnonzero(reason < 0)

	def check(accounting: Accounting) -> None:
		_check_left(accounting, loci, genome, tracks, chroms, allow_empty)

	if not len(rows):
		check(Accounting.of(loci, reason))
	used = set(loci.chroms[rows].tolist())
	for t in given:
		t.check_sizes({c: s for c, s in genome.chrom_sizes.items() if c in used}, genome.name)

	def reasons_by(totals: np.ndarray | None) -> np.ndarray:
		found = reason.copy()
		if totals is not None:
			_count_filters(found, rows, sum_groups(totals, tracks.groups), min_counts, max_counts, drop_outliers)
		return found

	limited = tracks is not None and (min_counts is not None or max_counts is not None or drop_outliers)
	wanted = Wanted(
		Request(loci.chroms[rows], mids[rows], sources, widths),
		lambda totals: reasons_by(totals)[rows] < 0,
		[min_counts, max_counts, drop_outliers, tracks.groups] if limited else None,
	)
	return Plan(loci, reason, rows, wanted, reasons_by, check, summits)


def load_windows(
	plans: Sequence[Plan],
	*,
	cache: str | os.PathLike | None = None,
	workers: int | None = None,
	verbose: bool = False,
	progress: Callable[[str], None] | None = None,
) -> list[Windows]:
	"""The windows of plans, all of the same sources, which are read together; see :func:`extract_windows`."""
	found = load([plan.wanted for plan in plans], cache=cache, workers=workers, bar=verbose, progress=progress)
	return [plan.windows(*one) for plan, one in zip(plans, found, strict=True)]


class _Spans(NamedTuple):
	"""The input window with jitter, [lo, hi), and the widest window, [wide_lo, wide_hi), of each locus."""

	lo: np.ndarray
	hi: np.ndarray
	wide_lo: np.ndarray
	wide_hi: np.ndarray

	@classmethod
	def around(cls, mids: np.ndarray, widths: Widths) -> "_Spans":
		"""The spans around the middles."""
		widest, jitter = max(widths.in_window, widths.out_window), widths.max_jitter
		return cls(
			lo=mids - widths.in_window // 2 - jitter,
			hi=mids + (widths.in_window + 1) // 2 + jitter,
			wide_lo=mids - widest // 2 - jitter,
			wide_hi=mids + (widest + 1) // 2 + jitter,
		)


def _tensor(array: np.ndarray | None, index: Any) -> "torch.Tensor | None":
	"""Part of an array as a float32 tensor; None stays None."""
	import torch

	return None if array is None else torch.from_numpy(np.ascontiguousarray(array[index], dtype=np.float32))


def _drop(reason: np.ndarray, mask: np.ndarray, name: str) -> None:
	"""Note `name` as the reason of the masked loci that have none yet."""
	reason[(reason < 0) & mask] = REASONS.index(name)


def _place_filters(
	loci: Loci, spans: _Spans, genome: Genome, tracks: list[Tracks], regions: Sequence[Region] | None
) -> np.ndarray:
	"""The reason, -1 for none, for which each locus drops by its place alone, shape=(n,)."""
	reason = np.full(len(loci), -1, dtype=np.int8)
	names, inverse = _numbered(loci.chroms)
	in_fasta = np.array([name in genome.chrom_sizes for name in names])[inverse]
	in_tracks = np.array([all(name in t.chrom_sizes for t in tracks) for name in names])[inverse]
	sizes = np.array([genome.chrom_sizes.get(name, 0) for name in names], dtype=np.int64)[inverse]
	_drop(reason, ~in_fasta, "chromosome not in FASTA")
	_drop(reason, ~in_tracks, "chromosome not in bigWig")
	if regions is not None:
		selected = np.zeros(len(loci), dtype=bool)
		# A window that leaves its chromosome is off the edge, not out of the region, so it is cut to the chromosome.
		lo, hi = np.maximum(spans.lo, 0), np.minimum(spans.hi, sizes)
		for region in regions:
			inside = (lo >= region.start) & (hi <= (sizes if region.end is None else region.end))
			selected |= np.array([name == region.chrom for name in names])[inverse] & inside
		_drop(reason, ~selected, "chromosome not selected")
	_drop(reason, (spans.wide_lo < 0) | (spans.wide_hi > sizes), "off the edge")
	return reason


def _numbered(chroms: np.ndarray) -> tuple[list[str], np.ndarray]:
	"""The names of chromosomes, and the number of each locus's among them, shape=(n,); neighbours are mostly alike."""
	heads = np.flatnonzero(np.append(True, chroms[1:] != chroms[:-1])[: len(chroms)])
	numbers: dict[str, int] = {}
	found = [numbers.setdefault(chrom, len(numbers)) for chrom in chroms[heads].tolist()]
	return list(numbers), np.repeat(np.array(found, dtype=np.int64), np.diff(heads, append=len(chroms)))


def _quantile(values: np.ndarray, q: float) -> np.ndarray:
	"""``np.quantile(values, q, axis=0)`` of float64, bit for bit, without the modules that its first call imports."""
	place = q * (len(values) - 1)
	below = int(place)
	above, share = min(below + 1, len(values) - 1), place - below
	low, high = np.partition(values, [below, above], axis=0)[[below, above]].astype(np.float64)
	return low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)


def exclusions_of(genome: Genome, exclusion_lists: Any) -> Loci | None:
	"""The regions of exclusion lists by the genome's names; InputError where a file uses other names throughout."""
	exclusions = read_exclusions(exclusion_lists)
	if exclusions is None:
		return None
	exclusions = exclusions.renamed(genome.names)
	for i, file in enumerate(exclusions.files):
		theirs = set(exclusions.chroms[exclusions.file_index == i].tolist())
		if alike(theirs, genome.chrom_sizes):
			raise InputError(
				f"{file}: the exclusion list says {_few(theirs)} and {genome.name} says {_few(genome.chrom_sizes)}, so "
				f"it would exclude nothing; {REMEDY}"
			)
	return exclusions


def _excluded(loci: Loci, spans: _Spans, exclusion_lists: Any, genome: Genome) -> np.ndarray:
	"""Whether each locus's widest window overlaps an exclusion region, shape=(n,)."""
	mask = np.zeros(len(loci), dtype=bool)
	exclusions = exclusions_of(genome, exclusion_lists)
	if exclusions is None:
		return mask
	rows = rows_by_chrom(loci.chroms)
	for chrom, theirs in rows_by_chrom(exclusions.chroms).items():
		ours = rows.get(chrom, theirs[:0])
		mask[ours] = overlaps_any(
			exclusions.starts[theirs], exclusions.ends[theirs], spans.wide_lo[ours], spans.wide_hi[ours]
		)
	return mask


def _count_filters(
	reason: np.ndarray,
	wanted: np.ndarray,
	totals: np.ndarray,
	min_counts: float | None,
	max_counts: float | None,
	drop_outliers: bool,
) -> None:
	"""Note the loci that drop for their counts; `totals` has shape (n_wanted, G)."""
	mask = np.zeros(len(reason), dtype=bool)
	if min_counts is not None:
		mask[wanted] = (totals < min_counts).any(axis=1)
		_drop(reason, mask, "too few counts")
	if max_counts is not None:
		mask[wanted] = (totals > max_counts).any(axis=1)
		_drop(reason, mask, "too many counts")
	left = reason[wanted] < 0
	if drop_outliers and left.any():
		ceilings = _OUTLIER_FACTOR * _quantile(totals[left], _OUTLIER_QUANTILE)  # (n_left, G) -> (G,)
		mask[wanted] = (totals > ceilings).any(axis=1)
		_drop(reason, mask, "outlier")


def _check_left(
	accounting: Accounting,
	loci: Loci,
	genome: Genome,
	tracks: Tracks | None,
	chroms: Sequence[str] | None,
	allow_empty: bool,
) -> None:
	"""Raise InputError, with the account and a hint at the cause, when no locus is left."""
	if accounting.kept or allow_empty:
		return
	sources = ", ".join(loci.files) or "loci"
	lines = [f"{sources}: no locus is left; where the loci went:", _indent(accounting.table())]
	ours = set(loci.chroms.tolist())
	others = [("FASTA", genome.name, genome.chrom_sizes)]
	if tracks is not None:
		others.append(("bigWig", ", ".join(tracks.paths), tracks.chrom_sizes))
	if chroms is not None:
		others.append(("selection", "", {region.chrom: 0 for region in rename_regions(chroms, genome.names)}))
	lines += [hint for name, file, sizes in others if (hint := _naming_hint(ours, sizes, name, file))]
	if accounting.dropped["off the edge"] == accounting.given:
		lines.append(f"All windows leave their chromosome: are these loci of another assembly than {genome.name}?")
	selected = accounting.given - sum(accounting.dropped[reason] for reason in REASONS[:3])
	if accounting.dropped["chromosome not selected"] and not selected and len(lines) == 2:
		lines.append(
			f"The loci are on {_few(ours)}; selected are {', '.join(map(str, chroms))}: choose chromosomes there."
		)
	if len(lines) == 2:
		lines.append("Change the loci, the chromosomes, the exclusion lists or the bounds on counts that dropped them.")
	raise InputError("\n".join(lines))


def _naming_hint(ours: set[str], theirs: Mapping[str, int], name: str, file: str) -> str:
	"""What to say when no chromosome is shared: that one side says chr1 and the other 1, or both lists."""
	if ours & set(theirs):
		return ""
	close = alike(ours, theirs)
	scheme = "one side writes chr1 and the other 1" if close else "no name is shared"
	remedy = REMEDY if close else "rename the chromosomes of one" if file else "select chromosomes that have loci"
	where = f" ({file})" if file else ""
	return f"The loci say {_few(ours)} and the {name} says {_few(theirs)}{where}: {scheme}; {remedy}."


def _few(names: Any) -> str:
	"""The first few names in order, for a message."""
	names = sorted(map(str, names))
	return ", ".join(names[:5]) + (f", … ({len(names)} in all)" if len(names) > 5 else "")


def _indent(text: str) -> str:
	"""The text with each line moved in."""
	return "\n".join(f"  {line}" for line in text.split("\n"))
