"""Background loci whose GC content is distributed like that of the loci.

Chromosomes are tiled; tiles that are no background are removed; the rest are drawn, bin of GC content by bin, as many
as there are loci in the bin. A bin that is short borrows from the nearest bins, from both sides alike; before that, if
asked, it takes tiles of further tilings, shifted against the first.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from cherimoya.errors import InputError
from cherimoya.io._scan import Composition, scan
from cherimoya.io.genome import Genome
from cherimoya.io.loci import Loci, Region, midpoints, overlaps_any, read_loci, rename_regions, rows_by_chrom
from cherimoya.io.tracks import Tracks
from cherimoya.io.windows import Accounting, exclusions_of, extract_windows

FILTERS = ("overlaps a locus", "excluded", "too many N", "too many counts")
_COUNT_QUANTILE = 0.01
_LOCI_AT_ONCE = 20_000
_PARTS_OF_A_BIN = 20


@dataclass(frozen=True)
class Negatives:
	"""Background loci, and how they were found.

	Attributes
	----------
	loci: Loci
		The background loci, in the order of the FASTA.
	requested: int
		How many were asked for.
	accounting: Accounting
		Where the loci went whose GC content was to be matched.
	tiles: int
		Tiles of the chosen chromosomes, of the first tiling.
	removed: dict of str to int
		For each of `FILTERS`, in this order, the tiles it removed; each tile counts once, for the first.
	shifted: int
		How many of the background loci are of a further tiling.
	ceilings: tuple of float
		For each group of signals, the counts that a tile must stay below; empty without signals.
	bin_edges: numpy.ndarray, shape=(B + 1,)
		Edges of the bins of GC content.
	gc_loci, gc_negatives: numpy.ndarray of int64, shape=(B,)
		Loci, and background loci, in each bin.
	mean_gc_loci, mean_gc_negatives: float
		Mean GC content.
	ks: float
		Kolmogorov–Smirnov distance between the two distributions of GC content.
	ks_least: float
		The least distance that as many of the usable tiles of the first tiling could have, however chosen.
	random_state: int
		The seed.
	"""

	loci: Loci
	requested: int
	accounting: Accounting
	tiles: int
	removed: dict[str, int]
	shifted: int
	ceilings: tuple[float, ...]
	bin_edges: np.ndarray
	gc_loci: np.ndarray
	gc_negatives: np.ndarray
	mean_gc_loci: float
	mean_gc_negatives: float
	ks: float
	ks_least: float
	random_state: int

	def __len__(self) -> int:
		return len(self.loci)

	@property
	def usable(self) -> int:
		"""Tiles that passed every filter."""
		return self.tiles - sum(self.removed.values())

	def table(self, title: str = "", *, histogram: bool = True) -> str:
		"""Where the tiles went and how well GC content matches, as aligned text, with or without its histogram."""
		lines = [_tile_table(self.tiles, self.removed, title), ""]
		shifted = f", {self.shifted:,} of them of shifted tilings" if self.shifted else ""
		lines.append(f"wanted {self.requested:,}, found {len(self):,}{shifted}")
		if self.ceilings:
			lines.append("counts stay below " + ", ".join(f"{c:g}" for c in self.ceilings))
		lines.append(
			f"GC content: loci {self.mean_gc_loci:.3f}, background {self.mean_gc_negatives:.3f} on average; "
			f"Kolmogorov-Smirnov distance {self.ks:.3f} (one tiling allows {self.ks_least:.3f})"
		)
		if not histogram:
			return "\n".join(lines)
		lines.append("      GC content     loci  background")
		for i in np.flatnonzero(self.gc_loci + self.gc_negatives):
			low, high = self.bin_edges[i : i + 2]
			lines.append(f"  {low:.3f} to {high:.3f} {self.gc_loci[i]:>8,} {self.gc_negatives[i]:>11,}")
		return "\n".join(lines)

	def to_dict(self) -> dict[str, Any]:
		"""The numbers, for a JSON record."""
		return {
			"requested": self.requested,
			"found": len(self),
			"accounting": self.accounting.to_dict(),
			"tiles": self.tiles,
			"removed": dict(self.removed),
			"shifted": self.shifted,
			"ceilings": list(self.ceilings),
			"bin_edges": self.bin_edges.tolist(),
			"gc_loci": self.gc_loci.tolist(),
			"gc_negatives": self.gc_negatives.tolist(),
			"mean_gc_loci": self.mean_gc_loci,
			"mean_gc_negatives": self.mean_gc_negatives,
			"ks": self.ks,
			"ks_least": self.ks_least,
			"random_state": self.random_state,
		}


class _Tiles(NamedTuple):
	"""Tiles that passed the filters: chromosome, by its number, start and GC content of each, shape=(n,)."""

	chroms: np.ndarray
	starts: np.ndarray
	gc: np.ndarray

	def take(self, index: np.ndarray) -> "_Tiles":
		"""Some of the tiles."""
		return _Tiles(*(column[index] for column in self))


def gc_matched_negatives(
	loci: Any,
	genome: Any,
	*,
	signals: Any = None,
	chroms: Sequence[str] | None = None,
	exclusion_lists: Any = None,
	in_window: int = 2114,
	out_window: int = 1000,
	bin_width: float = 0.02,
	max_n_perc: float = 0.1,
	beta: float = 0.5,
	n: int | None = None,
	tilings: int = 1,
	random_state: int | None = 0,
	absolute: bool = False,
	workers: int | None = None,
	verbose: bool = False,
) -> Negatives:
	"""Find background loci with the GC content of the loci.

	Parameters
	----------
	loci: path, list of paths, DataFrame-like, or Loci
		The loci; their windows are centred at their middles.
	genome: path, mapping, or Genome
		The sequences.
	signals: path, list in groups, Tracks, or None
		With signals, only tiles whose counts over the central out_window are, for each group, below beta times the
		1st percentile of the loci's counts. Where that ceiling is 0, tiles without counts pass.
	chroms: list of str, or None
		Chromosomes or regions to tile; None takes the chromosomes of the loci.
	exclusion_lists: like loci, or None
		Regions that no tile may overlap.
	in_window, out_window: int, default 2114 and 1000
		Width of tiles, and of the part of them whose counts are looked at, in bp.
	bin_width: float, default 0.02
		Width of the bins of GC content, a fraction of bases.
	max_n_perc: float, default 0.1
		Largest fraction of a tile's bases that are not A, C, G or T.
	beta: float, default 0.5
		See `signals`.
	n: int or None, default None
		How many to find; None is as many as there are loci.
	tilings: int, default 1
		1 tiles the chromosomes once, from their first base. With k, bins of GC content that are short of tiles take
		more from k - 1 further tilings, shifted by in_window / k, 2 in_window / k and so on, before they borrow from
		other bins, unless GC content then matches less well. No two background loci ever overlap.
	random_state: int or None, default 0
		The seed; None draws one.
	absolute: bool, default False
		Take the absolute values of negative signals.
	workers: int or None, default None
		Processes that read the genome and the signals; None is one per core, or this one alone where that is quicker.
		The result does not depend on it.
	verbose: bool, default False
		Show a progress bar on a terminal.

	Returns
	-------
	Negatives
		With fewer loci than asked for when there are not enough tiles.

	Raises
	------
	ValueError
		An argument is out of range; the message names it.
	InputError
		An input cannot be used, no locus is left to match, or no tile is left.
	"""
	_check_options(bin_width=bin_width, max_n_perc=max_n_perc, beta=beta, n=n, tilings=tilings, in_window=in_window)
	genome = genome if isinstance(genome, Genome) else Genome(genome)
	loci = read_loci(loci).renamed(genome.names)
	search = _Search(
		genome=genome,
		tracks=None if signals is None else Tracks(signals, absolute=absolute, names=genome.names),
		excluded=exclusions_of(genome, exclusion_lists),
		in_window=in_window,
		out_window=out_window,
		max_n_perc=max_n_perc,
	)
	chroms = None if chroms is None else rename_regions(chroms, genome.names)
	placed, accounting = _place(loci, search, chroms)
	fields = [
		search.field(_regions(chroms, placed, search), in_window * k // tilings, _input_windows(loci, in_window))
		for k in range(tilings)
	]
	windows = [_starts_of(placed, in_window), *(field.starts for field in fields)]
	found = search.scan(windows, workers=workers, verbose=verbose)
	gc_loci = _gc_of_loci(found[0], loci.files)
	ceilings = _ceilings(found[0], beta)
	first, *further = (search.sift(f, c, ceilings) for f, c in zip(fields, found[1:], strict=True))
	if not len(first.tiles.starts):
		table = _tile_table(first.total, first.removed, "No background locus is left; where the tiles went:")
		raise InputError(
			f"{genome.name}: {table}\nGive more chromosomes, or loosen the filter that removed most (exclusion lists, "
			"max_n_perc, or beta, the ceiling on counts)"
		)
	seed = int(np.random.SeedSequence().generate_state(1)[0]) if random_state is None else random_state
	wanted = len(placed) if n is None else n
	edges = _bin_edges(bin_width)
	target = _scaled(_histogram(gc_loci, edges), wanted)
	chosen, shifted = _choose(first.tiles, gc_loci, edges, target, np.random.default_rng(seed)), 0
	if further:
		ground = _Ground(first.tiles, _bins(first.tiles.gc, edges), target, in_window)
		mixed, n_shifted = _choose_mixed(
			ground, [f.tiles for f in further], gc_loci, edges, np.random.default_rng(seed)
		)
		# A shifted tile stands on tiles that other bins might have borrowed, so that now and then it does harm.
		if (len(mixed.gc), -ks_distance(gc_loci, mixed.gc)) > (len(chosen.gc), -ks_distance(gc_loci, chosen.gc)):
			chosen, shifted = mixed, n_shifted
	return Negatives(
		loci=_as_loci(chosen, list(genome.chrom_sizes), in_window),
		requested=wanted,
		accounting=accounting,
		tiles=first.total,
		removed=first.removed,
		shifted=shifted,
		ceilings=ceilings,
		bin_edges=edges,
		gc_loci=_histogram(gc_loci, edges),
		gc_negatives=_histogram(chosen.gc, edges),
		mean_gc_loci=float(gc_loci.mean()),
		mean_gc_negatives=float(chosen.gc.mean()),
		ks=ks_distance(gc_loci, chosen.gc),
		ks_least=least_ks_distance(gc_loci, first.tiles.gc, min(len(chosen.gc), len(first.tiles.gc))),
		random_state=seed,
	)


def gc_content(codes: np.ndarray) -> np.ndarray:
	"""The fraction of C and G among the known bases of each row: shape=(n, L) to (n,); NaN where none is known."""
	known = (codes < 4).sum(axis=-1)
	gc = ((codes == 1) | (codes == 2)).sum(axis=-1)
	return np.divide(gc, known, out=np.full(known.shape, np.nan), where=known > 0)


def match_bins(bins: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
	"""Choose tiles so that their bins are filled like the target, as far as there are tiles.

	Each bin first takes its own tiles. What it is short of it borrows from the bins at distance 1, then 2, and so on:
	one half from below, one from above, so that the mean stays where it is; what one side cannot give, the other does.

	Parameters
	----------
	bins: numpy.ndarray of int, shape=(n_tiles,)
		The bin of each tile.
	target: numpy.ndarray of int, shape=(B,)
		Tiles wanted of each bin.
	rng: numpy.random.Generator
		Draws which tiles of a bin are taken.

	Returns
	-------
	numpy.ndarray of int64, shape=(min(n_tiles, target.sum()),)
		The chosen tiles, in ascending order.
	"""
	shuffled = rng.permutation(len(bins))
	pools = [shuffled[bins[shuffled] == b] for b in range(len(target))]
	used = _borrow(np.array([len(pool) for pool in pools], dtype=np.int64), np.asarray(target))
	return np.sort(np.concatenate([pool[:k] for pool, k in zip(pools, used, strict=True)]))


def _borrow(have: np.ndarray, target: np.ndarray) -> np.ndarray:
	"""How many tiles each bin gives, of those it has, for its own share and to the bins that are short, shape=(B,)."""
	used = np.minimum(have, target)
	short = target - used
	open_ = np.stack([(short + 1) // 2, short // 2])  # (2, B): to be borrowed from below, and from above
	for _ in range(2):  # in the second round, from the other side what the first could not give
		for distance in range(1, len(target)):
			for b in np.flatnonzero(open_.any(axis=0)):
				for side, giver in enumerate((b - distance, b + distance)):
					if 0 <= giver < len(target):
						taken = min(open_[side, b], have[giver] - used[giver])
						used[giver] += taken
						open_[side, b] -= taken
			if not open_.any():
				return used
		open_ = open_[::-1].copy()
	return used


def ks_distance(a: np.ndarray, b: np.ndarray) -> float:
	"""The largest difference between the empirical distribution functions of two samples."""
	points = np.concatenate([a, b])
	below_a = np.searchsorted(np.sort(a), points, side="right") / len(a)
	below_b = np.searchsorted(np.sort(b), points, side="right") / len(b)
	return float(np.abs(below_a - below_b).max())


def least_ks_distance(gc_loci: np.ndarray, gc_tiles: np.ndarray, n: int) -> float:
	"""The least Kolmogorov–Smirnov distance to the loci that any choice of n of the tiles can have.

	Over any stretch of GC content the choice has at most as many tiles as there are. Where n times the loci's share
	exceeds that, the two distribution functions part within the stretch: by all of the excess when the stretch reaches
	either end, else by half of it at least. The largest excess of a stretch is found in one pass, as by Kadane.
	Whole tiles can be short of this bound by less than 1 / n.

	Returns
	-------
	float
		From 0 to 1.
	"""
	points = np.unique(np.concatenate([gc_loci, gc_tiles]))
	wanted = np.bincount(np.searchsorted(points, gc_loci), minlength=len(points)) * (n / len(gc_loci))
	excess = wanted - np.bincount(np.searchsorted(points, gc_tiles), minlength=len(points))
	total = np.concatenate([[0.0], np.cumsum(excess)])
	inner = (total - np.minimum.accumulate(total)).max()
	return float(max(total.max(), total[-1] - total.min(), inner / 2)) / n


def _check_options(
	*, bin_width: float, max_n_perc: float, beta: float, n: int | None, tilings: int, in_window: int
) -> None:
	"""Raise ValueError naming the first argument that is out of range."""
	if not 0 < bin_width <= 1:
		raise ValueError(f"bin_width must be above 0 and at most 1, got {bin_width}")
	if not 0 <= max_n_perc <= 1:
		raise ValueError(f"max_n_perc must be between 0 and 1, got {max_n_perc}")
	if not beta >= 0:
		raise ValueError(f"beta must be at least 0, got {beta}")
	if n is not None and n < 1:
		raise ValueError(f"n must be None or at least 1, got {n}")
	if not 1 <= tilings <= in_window:
		raise ValueError(f"tilings must be from 1 to in_window, {in_window}, got {tilings}")


def _bin_edges(bin_width: float) -> np.ndarray:
	"""Edges from 0 to at least 1; the last bin may reach beyond 1."""
	n = int(np.ceil(1 / bin_width - 1e-9))
	return np.arange(n + 1) * bin_width


def _bins(gc: np.ndarray, edges: np.ndarray) -> np.ndarray:
	"""The bin of each GC content; a bin holds its lower edge, the last one its upper edge too."""
	return np.clip(np.searchsorted(edges, gc + 1e-9, side="right") - 1, 0, len(edges) - 2)


def _histogram(gc: np.ndarray, edges: np.ndarray) -> np.ndarray:
	"""How many fall into each bin, shape=(B,)."""
	return np.bincount(_bins(gc, edges), minlength=len(edges) - 1)


def _scaled(histogram: np.ndarray, total: int) -> np.ndarray:
	"""The histogram scaled to a total, in whole numbers, so that the sums up to each bin are as close as can be."""
	below = np.cumsum(histogram) * (total / histogram.sum())
	return np.diff(np.floor(below + 0.5 + 1e-9).astype(np.int64), prepend=0)


# ---- the loci -------------------------------------------------------------------------------------------------------


class _Unread(Genome):
	"""A genome for filters alone: its bases are not read, as a scan reads them later, together with those of tiles."""

	def codes(self, chrom: str, start: int = 0, end: int | None = None) -> np.ndarray:
		"""Unknown bases, without memory of their own."""
		end = self.chrom_sizes[chrom] if end is None else end
		return np.broadcast_to(np.uint8(4), (end - start,))

	read = codes


def _place(loci: Loci, search: "_Search", chroms: Sequence[Region] | None) -> tuple[Loci, Accounting]:
	"""The loci that can be used, and where the others went; some thousand at a time, so that memory stays small."""
	options: dict[str, Any] = {"in_window": search.in_window, "out_window": search.out_window, "chroms": chroms}
	options |= {"exclusion_lists": search.excluded, "workers": 1}
	genome, tracks = _Unread(search.genome), search.tracks
	# Counts, too, are read later: tracks are needed only to drop the loci that they have no chromosome for.
	without = np.array([tracks is not None and chrom not in tracks.chrom_sizes for chrom in loci.chroms.tolist()])
	parts = [(np.flatnonzero(without), tracks)]
	with_tracks = np.flatnonzero(~without)
	parts += [(with_tracks[at : at + _LOCI_AT_ONCE], None) for at in range(0, len(with_tracks), _LOCI_AT_ONCE)]
	kept, accounting = [], Accounting()
	for rows, signals in parts:
		if len(rows):
			windows = extract_windows(loci[rows], genome, signals, **options, allow_empty=True)
			kept.append(rows[windows.mask])
			accounting += windows.accounting
	placed = loci[np.sort(np.concatenate(kept))]
	if not len(placed):
		extract_windows(loci, genome, tracks, **options)  # raises, with the account and a hint at the cause
	if tracks is not None:
		used = set(placed.chroms.tolist())
		tracks.check_sizes({c: size for c, size in search.genome.chrom_sizes.items() if c in used}, search.genome.name)
	return placed, accounting


def _starts_of(loci: Loci, in_window: int) -> dict[str, np.ndarray]:
	"""For each chromosome the starts of the input windows of the loci."""
	starts = midpoints(loci) - in_window // 2
	return {chrom: starts[rows] for chrom, rows in rows_by_chrom(loci.chroms).items()}


def _input_windows(loci: Loci, in_window: int) -> Loci:
	"""The input windows of the loci, also those that leave their chromosome."""
	mids = midpoints(loci)
	return replace(loci, starts=mids - in_window // 2, ends=mids + (in_window + 1) // 2)


def _gc_of_loci(found: dict[str, Composition], files: Sequence[str]) -> np.ndarray:
	"""The GC content of the loci that have any known base; InputError if there is none."""
	gc = np.concatenate([composition.gc_content for composition in found.values()])
	gc = gc[~np.isnan(gc)]
	if not len(gc):
		raise InputError(f"{', '.join(files)}: all loci lie in stretches of N, so there is no GC content to match")
	return gc


def _ceilings(found: dict[str, Composition], beta: float) -> tuple[float, ...]:
	"""For each group the counts that tiles must stay below, from those of the loci; none without signals."""
	totals = [composition.totals for composition in found.values()]
	if totals[0] is None:
		return ()
	return tuple(float(beta * c) for c in np.quantile(np.concatenate(totals), _COUNT_QUANTILE, axis=0))


# ---- the tiles ------------------------------------------------------------------------------------------------------


class _Field(NamedTuple):
	"""The tiles of one tiling that are in a place of their own, for each chromosome their starts."""

	starts: dict[str, np.ndarray]
	total: int
	removed: dict[str, int]


class _Sifted(NamedTuple):
	"""The tiles of one tiling that passed all filters, how many there were, and how many each filter removed."""

	tiles: _Tiles
	total: int
	removed: dict[str, int]


@dataclass(frozen=True)
class _Search:
	"""What is searched, and what makes a tile fit."""

	genome: Genome
	tracks: Tracks | None
	excluded: Loci | None
	in_window: int
	out_window: int
	max_n_perc: float

	def field(self, regions: list[Region], offset: int, blocked: Loci) -> _Field:
		"""The tiles that overlap neither the blocked intervals nor the excluded ones."""
		starts, total = {}, 0
		removed = dict.fromkeys(FILTERS, 0)
		wanted: dict[str, list[Region]] = {}
		for region in regions:
			wanted.setdefault(region.chrom, []).append(region)
		lots = [(name, loci) for name, loci in zip(FILTERS, (blocked, self.excluded), strict=False) if loci is not None]
		rows = [rows_by_chrom(loci.chroms) for _, loci in lots]
		for chrom, here in wanted.items():
			tiles = _tile_starts(here, self.genome.chrom_sizes[chrom], self.in_window, offset)
			total += len(tiles)
			for (name, loci), rows_of in zip(lots, rows, strict=True):
				some = rows_of.get(chrom, np.empty(0, dtype=np.int64))
				drop = overlaps_any(loci.starts[some], loci.ends[some], tiles, tiles + self.in_window)
				removed[name] += int(drop.sum())
				tiles = tiles[~drop]
			starts[chrom] = tiles
		return _Field(starts, total, removed)

	def scan(
		self, windows: list[dict[str, np.ndarray]], *, workers: int | None, verbose: bool
	) -> list[dict[str, Composition]]:
		"""The composition of several sets of windows, in one pass over the genome."""
		together = {
			chrom: np.concatenate([part[chrom] for part in windows if chrom in part])
			for chrom in self.genome.chrom_sizes
			if any(chrom in part for part in windows)
		}
		options = {"in_window": self.in_window, "out_window": self.out_window, "workers": workers, "verbose": verbose}
		found = scan(self.genome, self.tracks, together, **options)
		taken = dict.fromkeys(together, 0)
		results: list[dict[str, Composition]] = []
		for part in windows:
			results.append({})
			for chrom, starts in part.items():
				rows = slice(taken[chrom], taken[chrom] + len(starts))
				taken[chrom] = rows.stop
				results[-1][chrom] = Composition(*(None if c is None else c[rows] for c in found[chrom]))
		return results

	def sift(self, field: _Field, found: dict[str, Composition], ceilings: Sequence[float]) -> _Sifted:
		"""The tiles of a field that hold few N, and few counts."""
		removed = dict(field.removed)
		parts = [_Tiles(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0))]
		numbers = {chrom: i for i, chrom in enumerate(self.genome.chrom_sizes)}
		for chrom, starts in field.starts.items():
			composition = found[chrom]
			unknown = (self.in_window - composition.known) / self.in_window
			# N alone has no GC content to match.
			masked = (unknown > self.max_n_perc) | (composition.known == 0)
			loud = np.zeros(len(starts), dtype=bool)
			if composition.totals is not None:
				totals = composition.totals  # (n, G)
				loud = ~masked & ((totals >= np.asarray(ceilings)) & (totals > 0)).any(axis=1)
			removed["too many N"] += int(masked.sum())
			removed["too many counts"] += int(loud.sum())
			fit = ~(masked | loud)
			chroms = np.full(int(fit.sum()), numbers[chrom], dtype=np.int64)
			parts.append(_Tiles(chroms, starts[fit], composition.gc_content[fit]))
		tiles = _Tiles(*(np.concatenate(column) for column in zip(*parts, strict=True)))
		return _Sifted(tiles, field.total, removed)


def _regions(chroms: Sequence[Region] | None, placed: Loci, search: _Search) -> list[Region]:
	"""What to tile: the chosen regions, or the chromosomes of the loci, that all inputs have; in FASTA order."""
	sizes, tracks = search.genome.chrom_sizes, search.tracks
	chosen = [Region(c, 0, None) for c in set(placed.chroms.tolist())] if chroms is None else chroms
	known = [r for r in chosen if r.chrom in sizes and (tracks is None or r.chrom in tracks.chrom_sizes)]
	order = {chrom: i for i, chrom in enumerate(sizes)}
	return sorted(known, key=lambda region: (order[region.chrom], region.start))


def _tile_starts(regions: list[Region], size: int, width: int, offset: int) -> np.ndarray:
	"""Starts of the tiles, a width apart from the offset on, that lie inside one of the regions, shape=(n,)."""
	starts = np.arange(offset, size - width + 1, width, dtype=np.int64)
	inside = np.zeros(len(starts), dtype=bool)
	for region in regions:
		inside |= (starts >= region.start) & (starts + width <= (size if region.end is None else region.end))
	return starts[inside]


# ---- the choice -----------------------------------------------------------------------------------------------------


def _choose(
	tiles: _Tiles, gc_loci: np.ndarray, edges: np.ndarray, target: np.ndarray, rng: np.random.Generator
) -> _Tiles:
	"""The chosen tiles of one tiling, in the order of the genome.

	Within a bin, tiles are matched to the loci again, by narrower bins: else they would lean to the side on which there
	are more tiles.
	"""
	bins, bins_of_loci = _bins(tiles.gc, edges), _bins(gc_loci, edges)
	used = _borrow(np.bincount(bins, minlength=len(target)), target)
	chosen = [np.empty(0, dtype=np.int64)]
	for b in np.flatnonzero(used):
		rows, low, high = np.flatnonzero(bins == b), edges[b], edges[b + 1]
		parts, wanted = _parts(tiles.gc[rows], low, high), _parts(gc_loci[bins_of_loci == b], low, high)
		if not len(wanted):  # the bin only lends
			parts, wanted = np.zeros(len(rows), dtype=np.int64), np.zeros(1, dtype=np.int64)
		finer = _scaled(np.bincount(wanted, minlength=_PARTS_OF_A_BIN), int(used[b]))
		chosen.append(rows[match_bins(parts, finer, rng)])
	return tiles.take(np.sort(np.concatenate(chosen)))


def _parts(gc: np.ndarray, low: float, high: float) -> np.ndarray:
	"""Which of the equal parts of the bin [low, high) each GC content lies in."""
	return np.clip(((gc - low) / (high - low) * _PARTS_OF_A_BIN + 1e-6).astype(np.int64), 0, _PARTS_OF_A_BIN - 1)


def _choose_mixed(
	ground: "_Ground", further: list[_Tiles], gc_loci: np.ndarray, edges: np.ndarray, rng: np.random.Generator
) -> tuple[_Tiles, int]:
	"""The chosen tiles of several tilings, in the order of the genome, and how many are of the further ones."""
	shifted = _Tiles(*(np.concatenate(column) for column in zip(*further, strict=True)))
	bins = _bins(shifted.gc, edges)
	taken = ground.fill(shifted, bins, rng)
	rest = ground.target - np.bincount(bins[taken], minlength=len(ground.target))
	own = _choose(ground.first.take(np.flatnonzero(~ground.gone)), gc_loci, edges, rest, rng)
	chosen = _Tiles(*(np.concatenate(column) for column in zip(own, shifted.take(taken), strict=True)))
	return chosen.take(np.lexsort((chosen.starts, chosen.chroms))), len(taken)


class _Ground:
	"""The tiles of the first tiling, some of which give way to shifted tiles for bins that are short.

	Parameters
	----------
	first: _Tiles
		The tiles of the first tiling.
	bins: numpy.ndarray of int, shape=(n,)
		Their bins of GC content.
	target: numpy.ndarray of int, shape=(B,)
		Tiles wanted of each bin.
	width: int
		Width of a tile in bp.

	Attributes
	----------
	first, target
		As given.
	gone: numpy.ndarray of bool, shape=(n,)
		The tiles of the first tiling on which a shifted tile stands.
	"""

	def __init__(self, first: _Tiles, bins: np.ndarray, target: np.ndarray, width: int) -> None:
		self.first, self.target = first, target
		self.gone = np.zeros(len(bins), dtype=bool)
		self._bins, self._width = bins, width
		self._spare = np.bincount(bins, minlength=len(target)) - target
		places = zip(first.chroms.tolist(), (first.starts // width).tolist(), strict=True)
		self._at = {place: i for i, place in enumerate(places)}
		self._taken: dict[int, list[int]] = {}  # starts of the shifted tiles taken, in order, of each chromosome

	def fill(self, shifted: _Tiles, bins: np.ndarray, rng: np.random.Generator) -> np.ndarray:
		"""Take shifted tiles for the bins that are short: those with the least of what they need come first.

		Returns
		-------
		numpy.ndarray of int64
			Which of the shifted tiles are taken, in ascending order.
		"""
		taken = []
		short = [int(b) for b in np.flatnonzero(self._spare < 0)]
		for b in sorted(short, key=lambda b: self._spare[b] / self.target[b]):
			rows = np.flatnonzero(bins == b)
			rows = rows[np.lexsort((shifted.starts[rows], shifted.chroms[rows]))]
			fitting = self._fitting(shifted.take(rows))
			if len(fitting) > -self._spare[b]:
				fitting = np.sort(rng.choice(fitting, int(-self._spare[b]), replace=False))
			for i in rows[fitting]:
				if self._take(int(shifted.chroms[i]), int(shifted.starts[i])):
					taken.append(i)
		return np.array(sorted(taken), dtype=np.int64)

	def _fitting(self, tiles: _Tiles) -> np.ndarray:
		"""From left to right, the tiles that fit in beside each other: so as many as can be."""
		fitting, last = [], (-1, 0)
		for i, (chrom, start) in enumerate(zip(tiles.chroms.tolist(), tiles.starts.tolist(), strict=True)):
			if (last[0] != chrom or start >= last[1] + self._width) and self._is_free(chrom, start):
				fitting.append(i)
				last = (chrom, start)
		return np.array(fitting, dtype=np.int64)

	def _under(self, chrom: int, start: int) -> list[int]:
		"""The tiles of the first tiling that a shifted tile would stand on."""
		cell = start // self._width
		found = (self._at.get((chrom, c)) for c in (cell, cell + 1))
		return [i for i in found if i is not None and not self.gone[i]]

	def _is_free(self, chrom: int, start: int) -> bool:
		"""Whether a shifted tile overlaps none that is taken, nor more of a bin's first tiles than it can spare."""
		starts = self._taken.get(chrom, [])
		i = bisect_left(starts, start - self._width + 1)
		if i < len(starts) and starts[i] < start + self._width:
			return False
		under = self._bins[self._under(chrom, start)]
		return bool((self._spare[under] >= np.bincount(under, minlength=1)[under]).all())

	def _take(self, chrom: int, start: int) -> bool:
		"""Take a shifted tile if it is free; the tiles under it are gone."""
		if not self._is_free(chrom, start):
			return False
		under = self._under(chrom, start)
		self.gone[under] = True
		np.subtract.at(self._spare, self._bins[under], 1)
		insort(self._taken.setdefault(chrom, []), start)
		return True


def _as_loci(tiles: _Tiles, chroms: Sequence[str], width: int) -> Loci:
	"""The chosen tiles as loci; `chroms` are the names of the chromosomes by their numbers."""
	return Loci(
		chroms=np.array([*chroms, None], dtype=object)[tiles.chroms],
		starts=tiles.starts,
		ends=tiles.starts + width,
		summits=np.full(len(tiles.starts), -1, dtype=np.int64),
		files=("negatives",),
		file_index=np.zeros(len(tiles.starts), dtype=np.int32),
	)


def _tile_table(total: int, removed: dict[str, int], title: str) -> str:
	"""Where the tiles went, as aligned text."""
	rows = [("tiles", total), *((f"  removed: {name}", k) for name, k in removed.items())]
	rows.append(("usable", total - sum(removed.values())))
	left = max(len(name) for name, _ in rows)
	right = max(len(f"{k:,}") for _, k in rows)
	lines = [f"{name:<{left}}  {k:>{right},}" for name, k in rows]
	return "\n".join([title, *lines] if title else lines)
