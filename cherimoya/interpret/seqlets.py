"""Seqlets: short stretches whose bases contribute much to a prediction, and the known motifs that they look like.

Stretches are found by tangermeme's recursive seqlets, and compared with motifs by memelite's Tomtom; both come with
the extra ``motifs``.
"""

import itertools
import os
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from cherimoya.errors import InputError, SettingsError, join_problems, missing_extra
from cherimoya.io._files import read_bytes, replacing
from cherimoya.io._workers import n_cores
from cherimoya.io.genome import Genome
from cherimoya.io.loci import Loci, read_loci
from cherimoya.io.motifs import Motif, read_motifs, require_memelite

COLUMNS = ("chrom", "start", "end", "attribution", "p-value")
"""Of a file of seqlets."""
FEW_MOTIFS = 25
"""Tomtom warns of databases with fewer: motifs are judged against all columns of the database."""

_BLOCK = 1_024  # windows that are projected, and seqlets that are compared, at a time
_SHOWN = 3


@dataclass(frozen=True)
class Seqlets:
	"""A table of seqlets.

	Attributes
	----------
	chroms: numpy.ndarray of str objects, shape=(n,)
		Chromosome names.
	starts, ends: numpy.ndarray of int64, shape=(n,)
		0-based, half-open intervals, with flanks.
	attributions: numpy.ndarray of float64, shape=(n,)
		Sums of the contributions of the bases in the intervals; its sign is the seqlet's.
	p_values: numpy.ndarray of float64, shape=(n,)
		Of the intervals without flanks.
	rows: numpy.ndarray of int64, shape=(n,), or None
		The window that each was found in; None for those of a file.
	n_repeats: int
		How many more were found, again, in windows that overlap.
	"""

	chroms: np.ndarray
	starts: np.ndarray
	ends: np.ndarray
	attributions: np.ndarray
	p_values: np.ndarray
	rows: np.ndarray | None = None
	n_repeats: int = 0

	def __len__(self) -> int:
		return len(self.starts)

	def __getitem__(self, index: np.ndarray | slice) -> "Seqlets":
		return Seqlets(
			*(getattr(self, name)[index] for name in ("chroms", "starts", "ends", "attributions", "p_values")),
			rows=None if self.rows is None else self.rows[index],
			n_repeats=self.n_repeats,
		)


class Matches(NamedTuple):
	"""The known motifs nearest to n seqlets, k of them, the nearest first.

	Attributes
	----------
	motifs: list of Motif
		The database.
	indices: numpy.ndarray of int64, shape=(n, k)
		Which of the motifs; -1 for a seqlet without a known base.
	p_values: numpy.ndarray of float64, shape=(n, k)
		Of the matches, by Tomtom; 1 where there is none.
	strands: numpy.ndarray of str, shape=(n, k)
		"+" where the sequence is like the motif, "-" where it is like its reverse complement, "." without a match.
	"""

	motifs: list[Motif]
	indices: np.ndarray
	p_values: np.ndarray
	strands: np.ndarray

	@property
	def e_values(self) -> np.ndarray:
		"""How many of the M motifs are expected to match as well by chance: p-values times M, shape (n, k)."""
		return self.p_values * len(self.motifs)


class MotifCount(NamedTuple):
	"""How many seqlets look like a motif: all, and those that raise and that lower the prediction."""

	motif: Motif
	n: int
	n_positive: int
	n_negative: int


def require_tangermeme(needed_for: str) -> None:
	"""MissingExtraError unless tangermeme's seqlets can be imported."""
	try:
		import tangermeme.seqlet  # noqa: F401
	except ImportError:
		raise missing_extra("tangermeme", extra="motifs", needed_for=needed_for) from None


# ---- finding ----------------------------------------------------------------------------------------


class _Calls(NamedTuple):
	"""Seqlets as windows' rows and positions, without flanks."""

	rows: np.ndarray
	starts: np.ndarray
	ends: np.ndarray
	p_values: np.ndarray

	def take(self, index: np.ndarray) -> "_Calls":
		return _Calls(*(array[index] for array in self))


def find_seqlets(
	attributions: Any,
	windows: Any,
	sequences: Any = None,
	*,
	threshold: float = 0.01,
	min_seqlet_len: int = 4,
	max_seqlet_len: int = 25,
	additional_flanks: int = 3,
) -> Seqlets:
	"""Find the stretches that raise or lower a prediction more than the windows' bases do elsewhere.

	A stretch is judged by the sum of its contributions. Were the bases of all windows shuffled, how often would as
	many in a row sum up to as much? That is its p-value. A stretch is a seqlet if it and all its parts of
	`min_seqlet_len` and more have p-values below `threshold`; the longest come first, and do not overlap. Negative
	seqlets are found in the same way with the sign turned; a sum that has the other sign with its flanks is none. As
	contributions of neighbours go together, p-values rank seqlets, and are no error rates.

	Where windows overlap, or a positive and a negative seqlet do, one of two seqlets that share at least half of the
	shorter one, without flanks, is kept: that with the lower p-value.

	Parameters
	----------
	attributions: numpy.ndarray or torch.Tensor, shape=(m, 4, W) or (m, W)
		Hypothetical contributions, or those of the bases that are there. All m windows are needed together, as the
		p-values depend on them; it takes 8 bytes a base beside the argument.
	windows: path, DataFrame-like or Loci, m intervals of W bp
		Where the windows are, as `read_loci` takes it.
	sequences: numpy.ndarray or torch.Tensor, shape=(m, 4, W), or None
		One-hot sequences, which hypothetical contributions need. Default is None.
	threshold: float
		p-values of seqlets are below it. Default is 0.01.
	min_seqlet_len, max_seqlet_len: int, bp
		The lengths that seqlets may have. Defaults are 4 and 25.
	additional_flanks: int, bp
		What is added to both sides afterwards, as far as the window goes. Default is 3.

	Returns
	-------
	Seqlets
		Sorted by chromosome name, start and end.

	Raises
	------
	InputError
		The arrays do not fit each other or the windows, or hold NaN or infinities.
	SettingsError
		The threshold or the lengths make no sense.
	MissingExtraError
		tangermeme is not installed.

	References
	----------
	The recursive seqlet algorithm: `tangermeme.seqlet.recursive_seqlets`. J. Schreiber, tangermeme (2024), bioRxiv
	2025.08.08.669296.
	"""
	check_lengths(threshold, min_seqlet_len, max_seqlet_len, additional_flanks)
	require_tangermeme("finding seqlets")
	values = _projected(attributions, sequences)
	loci = read_loci(windows)
	_check_windows(values, loci)
	options = {"threshold": threshold, "min_seqlet_len": min_seqlet_len, "max_seqlet_len": max_seqlet_len}
	calls = _call_both(values, additional_flanks, options)
	kept = _distinct(calls, loci)
	return _table(calls.take(kept), values, loci, additional_flanks, n_repeats=len(calls.rows) - len(kept))


def check_lengths(threshold: float, min_seqlet_len: int, max_seqlet_len: int, additional_flanks: int) -> None:
	"""SettingsError unless seqlets of such lengths can be."""
	if not 0 < threshold < 1:
		raise SettingsError(f"threshold must be a p-value between 0 and 1, got {threshold}")
	if not 1 <= min_seqlet_len <= max_seqlet_len:
		raise SettingsError(
			f"min_seqlet_len is {min_seqlet_len} and max_seqlet_len {max_seqlet_len}; the first must be at least 1 and "
			"no more than the second"
		)
	if additional_flanks < 0:
		raise SettingsError(f"additional_flanks must be at least 0, got {additional_flanks}")


def _projected(attributions: Any, sequences: Any) -> np.ndarray:
	"""The contributions of the bases that are there, float32, shape (m, W); the array itself where it is so already."""
	from cherimoya.interpret.attribution import projected_contributions

	attributions = _as_array(attributions)
	if attributions.ndim == 2:
		return np.ascontiguousarray(attributions, dtype=np.float32)
	if attributions.ndim != 3 or attributions.shape[1] != 4:
		raise InputError(f"attributions must have the shape (windows, 4, length), got {attributions.shape}")
	if sequences is None:
		raise InputError("hypothetical contributions need the sequences; give these, or contributions of their bases")
	sequences = _as_array(sequences)
	if attributions.shape != sequences.shape:
		raise InputError(
			f"attributions and sequences must have one shape, got {attributions.shape} and {sequences.shape}"
		)
	values = np.empty((len(attributions), attributions.shape[2]), dtype=np.float32)
	for first in range(0, len(values), _BLOCK):
		some = slice(first, first + _BLOCK)
		values[some] = projected_contributions(attributions[some].astype(np.float32), sequences[some]).numpy()
	return values


def _as_array(x: Any) -> np.ndarray:
	"""An array of an array or a tensor, without a copy where that can be."""
	return x.detach().cpu().numpy() if hasattr(x, "detach") else np.asarray(x)


def _check_windows(values: np.ndarray, loci: Loci) -> None:
	"""InputError unless there is a window for each row, as wide as the rows, and all numbers are finite."""
	problems = []
	n, width = values.shape
	name = ", ".join(loci.files)
	if not values.size:
		problems.append(f"attributions: have the shape {values.shape}; give at least one window")
	if len(loci) != n:
		problems.append(f"{name}: has {len(loci):,} intervals for attributions of {n:,} windows; give those of one run")
	elif len(wrong := np.flatnonzero(loci.ends - loci.starts != width)):
		i = int(wrong[0])
		problems.append(
			f"{name}: {len(wrong):,} intervals are not as long as the attributed windows, {width:,} bp (first: "
			f"{loci.chroms[i]}:{loci.starts[i]}-{loci.ends[i]}); give those of one run"
		)
	broken = [
		first + int(row)
		for first in range(0, n, _BLOCK)
		for row in np.flatnonzero(~np.isfinite(values[first : first + _BLOCK]).all(axis=1))
	]
	if broken:
		problems.append(
			f"attributions: {len(broken):,} of {n:,} windows hold NaN or infinities (first: number {broken[0] + 1}); "
			"attribute them again"
		)
	if problems:
		raise InputError(join_problems(problems))


def _call_both(values: np.ndarray, flanks: int, options: dict[str, Any]) -> _Calls:
	"""Positive and negative seqlets of all windows.

	Where nearly all contributions are positive, those around 0 stand out once the sign is turned. Such a dip beside a
	motif is no negative seqlet: its sum, with its flanks, has the other sign.
	"""
	calls = []
	for sign in (1, -1):
		found = _call(values if sign > 0 else np.negative(values), options)
		starts, ends = _widened(found, flanks, values.shape[1])
		calls.append(found.take(sign * _sums(values, found.rows, starts, ends) > 0))
	return _Calls(*(np.concatenate(arrays) for arrays in zip(*calls, strict=True)))


def _call(values: np.ndarray, options: dict[str, Any]) -> _Calls:
	"""The seqlets of high sums."""
	from tangermeme.seqlet import recursive_seqlets

	found = recursive_seqlets(values, additional_flanks=0, **options)
	integers = (found[name].to_numpy(dtype=np.int64) for name in ("example_idx", "start", "end"))
	return _Calls(*integers, found["p-value"].to_numpy(dtype=np.float64))


def _distinct(calls: _Calls, loci: Loci) -> np.ndarray:
	"""Which calls are kept of those that are of the same stretch of the genome, shape (k,)."""
	_, chroms = np.unique(loci.chroms.astype(str), return_inverse=True)
	chroms = chroms[calls.rows]
	starts = loci.starts[calls.rows] + calls.starts
	ends = loci.starts[calls.rows] + calls.ends
	order = np.lexsort((ends, starts, chroms))
	span = int(ends.max(initial=0)) + 1
	places, stops = (chroms * span + starts)[order], (chroms * span + ends)[order]
	# A group begins where no earlier call reaches; only calls of one group may share bases.
	reach = np.maximum.accumulate(stops)
	bounds = [0, *(np.flatnonzero(places[1:] >= reach[:-1]) + 1).tolist(), len(order)]
	kept = np.ones(len(order), dtype=bool)
	for first, stop in itertools.pairwise(bounds):
		if stop - first > 1:
			ranking = np.lexsort((calls.rows[order[first:stop]], calls.p_values[order[first:stop]]))
			kept[first:stop] = _best(places[first:stop], stops[first:stop], ranking)
	return order[kept]


def _best(starts: np.ndarray, ends: np.ndarray, ranking: np.ndarray) -> np.ndarray:
	"""Which intervals are kept if, in the order of a ranking, one is dropped that shares half or more with one kept."""
	kept = np.zeros(len(starts), dtype=bool)
	longest = int((ends - starts).max())
	chosen: list[tuple[int, int]] = []
	for i in ranking.tolist():
		start, end = int(starts[i]), int(ends[i])
		near = chosen[bisect_left(chosen, (start - longest, 0)) : bisect_left(chosen, (end, 0))]
		if not any(2 * (min(end, b) - max(start, a)) >= min(end - start, b - a) for a, b in near):
			insort(chosen, (start, end))
			kept[i] = True
	return kept


def _table(calls: _Calls, values: np.ndarray, loci: Loci, flanks: int, *, n_repeats: int) -> Seqlets:
	"""The calls with flanks and sums, in coordinates of the genome and sorted."""
	starts, ends = _widened(calls, flanks, values.shape[1])
	table = Seqlets(
		chroms=loci.chroms[calls.rows],
		starts=loci.starts[calls.rows] + starts,
		ends=loci.starts[calls.rows] + ends,
		attributions=_sums(values, calls.rows, starts, ends),
		p_values=calls.p_values,
		rows=calls.rows,
		n_repeats=n_repeats,
	)
	return table[np.lexsort((table.p_values, table.ends, table.starts, table.chroms.astype(str)))]


def _widened(calls: _Calls, flanks: int, width: int) -> tuple[np.ndarray, np.ndarray]:
	"""Where the calls begin and end in their windows, with flanks."""
	return np.maximum(calls.starts - flanks, 0), np.minimum(calls.ends + flanks, width)


def _sums(values: np.ndarray, rows: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
	"""The sum of each stretch [start, end) of a row, in float64, shape (k,)."""
	sums = np.empty(len(rows))
	order = np.argsort(rows, kind="stable")
	for first in range(0, len(order), _BLOCK):
		some = order[first : first + _BLOCK]
		used, at = np.unique(rows[some], return_inverse=True)
		totals = np.zeros((len(used), values.shape[1] + 1))
		np.cumsum(values[used], axis=1, dtype=np.float64, out=totals[:, 1:])
		sums[some] = totals[at, ends[some]] - totals[at, starts[some]]
	return sums


# ---- naming -----------------------------------------------------------------------------------------


def annotate_seqlets(
	sequences: Sequence[np.ndarray],
	motifs: str | os.PathLike | Sequence[Motif],
	*,
	n_nearest: int = 1,
	n_jobs: int | None = None,
	n_score_bins: int = 100,
	n_median_bins: int = 1000,
	n_target_bins: int = 100,
	n_cache: int = 250,
	progress: Callable[[int, int], None] | None = None,
) -> Matches:
	"""The known motifs that each of n sequences is most like.

	Sequences are compared as one-hot matrices with the motifs and their reverse complements, at any offset.

	Parameters
	----------
	sequences: sequence of numpy.ndarray of uint8, each of shape=(L,)
		Base codes A, C, G, T = 0, 1, 2, 3, and 4 for other letters; see `seqlet_codes`.
	motifs: path or sequence of Motif
		A file in MEME's format, plain or gzipped, or its motifs.
	n_nearest: int
		k, of all motifs at most. Default is 1.
	n_jobs: int or None
		Threads, of the cores there are at most. Default is None: one per core.
	n_score_bins, n_median_bins, n_target_bins, n_cache: int
		As for `memelite.tomtom.tomtom`. Defaults are 100, 1000, 100 and 250.
	progress: callable or None
		Is called with the sequences done so far and n, after some of them. Default is None.

	Returns
	-------
	Matches

	Raises
	------
	InputError
		The file is not MEME or holds no motif.
	MissingExtraError
		memelite is not installed.

	References
	----------
	Gupta, Stamatoyannopoulos, Bailey & Noble (2007), "Quantifying similarity between motifs", Genome Biology 8:R24.
	"""
	require_memelite("the nearest motifs of seqlets")
	motifs = read_motifs(motifs) if isinstance(motifs, str | os.PathLike) else list(motifs)
	if not motifs:
		raise InputError("no motif was given; give at least one")
	from memelite.tomtom import tomtom
	from numba import config

	options = {
		"n_nearest": min(n_nearest, len(motifs)),
		"n_jobs": min(n_jobs or n_cores(), n_cores(), config.NUMBA_NUM_THREADS),
		"n_score_bins": n_score_bins,
		"n_median_bins": n_median_bins,
		"n_target_bins": n_target_bins,
		"n_cache": n_cache,
	}
	targets = [motif.pwm for motif in motifs]
	shape = (len(sequences), options["n_nearest"])
	matches = Matches(motifs, np.full(shape, -1, dtype=np.int64), np.ones(shape), np.full(shape, ".", dtype="<U1"))
	known = [i for i, codes in enumerate(sequences) if (np.asarray(codes) < 4).any()]
	for first in range(0, len(known), _BLOCK):
		some = known[first : first + _BLOCK]
		p_values, _, _, _, strands, indices = tomtom([_one_hot(sequences[i]) for i in some], targets, **options)
		matches.p_values[some] = p_values
		matches.indices[some] = indices
		matches.strands[some] = np.where(strands == 0, "+", "-")
		if progress is not None:
			progress(len(sequences) if first + len(some) == len(known) else some[-1] + 1, len(sequences))
	return matches


def _one_hot(codes: np.ndarray) -> np.ndarray:
	"""A sequence as a matrix, shape (4, L); unknown bases are columns of zeros."""
	return np.eye(5, 4)[np.asarray(codes)].T  # (L, 4) -> (4, L)


def seqlet_codes(seqlets: Seqlets, genome: Genome, *, source: str = "seqlets") -> list[np.ndarray]:
	"""The base codes of seqlets.

	Parameters
	----------
	seqlets: Seqlets
		In any order.
	genome: Genome
		Where the bases are; its other names of chromosomes count.
	source: str
		What messages call the seqlets. Default is "seqlets".

	Returns
	-------
	list of numpy.ndarray of uint8, shape=(end - start,)
		A, C, G, T = 0 to 3, anything else 4.

	Raises
	------
	InputError
		A seqlet is on no chromosome of the genome, or leaves it.
	"""
	renaming = genome.names.renaming(dict.fromkeys(seqlets.chroms.tolist()), source)
	chroms = [renaming[chrom] for chrom in seqlets.chroms]
	places = list(zip(chroms, seqlets.starts.tolist(), seqlets.ends.tolist(), strict=True))
	outside = [place for place in places if not 0 <= place[1] <= place[2] <= genome.chrom_sizes.get(place[0], -1)]
	if outside:
		chrom, start, end = outside[0]
		size = genome.chrom_sizes.get(chrom)
		found = f"{genome.name} has no {chrom}" if size is None else f"{chrom} has {size:,} bp"
		raise InputError(
			f"{source}: {len(outside):,} of {len(places):,} seqlets are not in {genome.name} (first: "
			f"{chrom}:{start}-{end}; {found}); give the genome that they were found in"
		)
	codes: list[np.ndarray] = [np.empty(0, dtype=np.uint8)] * len(places)
	for i in sorted(range(len(places)), key=chroms.__getitem__):  # each chromosome is read once, whatever the order
		codes[i] = np.array(genome.codes(*places[i]))
	return codes


def count_motifs(seqlets: Seqlets, matches: Matches, *, match_threshold: float = 1.0) -> list[MotifCount]:
	"""How many seqlets have each motif as their nearest, with an E-value of at most `match_threshold`.

	Parameters
	----------
	seqlets: Seqlets
		The n seqlets.
	matches: Matches
		Their nearest motifs.
	match_threshold: float
		The largest of `matches.e_values` that counts. Default is 1.

	Returns
	-------
	list of MotifCount
		The motifs that any seqlet has, the most frequent first, those of one number as in the database.
	"""
	near = matches.e_values[:, 0] <= match_threshold
	near &= matches.indices[:, 0] >= 0
	counts = [
		np.bincount(matches.indices[near & sign, 0], minlength=len(matches.motifs))
		for sign in (seqlets.attributions > 0, seqlets.attributions < 0, np.ones(len(seqlets), dtype=bool))
	]
	positive, negative, total = (count.tolist() for count in counts)
	ranking = sorted((i for i, n in enumerate(total) if n), key=lambda i: (-total[i], i))
	return [MotifCount(matches.motifs[i], total[i], positive[i], negative[i]) for i in ranking]


# ---- files ------------------------------------------------------------------------------------------


def write_seqlets(path: str | os.PathLike, seqlets: Seqlets, matches: Matches | None = None) -> None:
	"""Write seqlets as BED with the `COLUMNS`, and for each of the nearest motifs strand, motif and p-value.

	Their E-values come last. A first line, a comment, names the columns. The file appears under its name when it is
	whole.

	Parameters
	----------
	path: str or os.PathLike
		The file.
	seqlets: Seqlets
		n seqlets, written in their order.
	matches: Matches or None
		Their nearest motifs. Default is None: the five columns alone.
	"""
	names = list(COLUMNS)
	k = 0 if matches is None else matches.indices.shape[1]
	for number in range(k):
		names += [f"{name}_{number + 1}" if number else name for name in ("strand", "motif", "motif_p-value")]
	names += [f"motif_E-value_{number + 1}" if number else "motif_E-value" for number in range(k)]
	titles = [] if matches is None else [str(motif) for motif in matches.motifs] + ["."]  # the last one is that of -1
	e_values = None if matches is None else matches.e_values
	with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
		file.write("#" + "\t".join(names) + "\n")
		for i in range(len(seqlets)):
			fields = [f"{seqlets.chroms[i]}\t{seqlets.starts[i]}\t{seqlets.ends[i]}"]
			fields.append(f"{seqlets.attributions[i]:.6g}\t{seqlets.p_values[i]:.6g}")
			for j in range(k):
				title = titles[matches.indices[i, j]]
				fields.append(f"{matches.strands[i, j]}\t{title}\t{matches.p_values[i, j]:.6g}")
			fields += [f"{e_values[i, j]:.6g}" for j in range(k)]
			file.write("\t".join(fields) + "\n")


def read_seqlets(path: str | os.PathLike) -> Seqlets:
	"""The seqlets of a file with the `COLUMNS`, and perhaps more, plain or gzipped; lines with # are skipped.

	Parameters
	----------
	path: str or os.PathLike
		The file, as `write_seqlets` writes it.

	Returns
	-------
	Seqlets
		In the order of the file.

	Raises
	------
	MissingFileError
		There is no such file.
	InputError
		Lines are no such rows; the message names the first.
	"""
	path = os.fspath(path)
	text = read_bytes(path, what="seqlets").decode("utf-8", "replace")
	rows, bad = [], []
	for number, line in enumerate(text.splitlines(), start=1):
		if not line.strip() or line.startswith(("#", "track", "browser")):
			continue
		row = _row(line.rstrip("\n").split("\t"))
		if isinstance(row, str):
			bad.append(f"line {number}: {row}")
		else:
			rows.append(row)
	if bad:
		more = f" and {len(bad) - _SHOWN:,} more" if len(bad) > _SHOWN else ""
		raise InputError(
			f"{path}: {'; '.join(bad[:_SHOWN])}{more}; a file of seqlets has the columns {', '.join(COLUMNS)}, "
			"separated by tabs, as 'cherimoya seqlets' writes it"
		)
	columns = list(zip(*rows, strict=True)) if rows else [[] for _ in COLUMNS]
	chroms = np.empty(len(rows), dtype=object)
	chroms[:] = columns[0]
	integers = (np.array(column, dtype=np.int64) for column in columns[1:3])
	return Seqlets(chroms, *integers, *(np.array(column, dtype=np.float64) for column in columns[3:]))


def _row(fields: list[str]) -> tuple[str, int, int, float, float] | str:
	"""The values of a line, or what is wrong with it."""
	if len(fields) < len(COLUMNS):
		return f"{len(fields)} columns"
	try:
		start, end = int(fields[1]), int(fields[2])
		attribution, p_value = float(fields[3]), float(fields[4])
	except ValueError as error:
		return str(error)
	if not 0 <= start < end:
		return f"the interval {start}-{end}"
	if not np.isfinite(attribution) or not 0 <= p_value <= 1:
		return f"attribution {fields[3]}, p-value {fields[4]}"
	return fields[0], start, end, attribution, p_value
