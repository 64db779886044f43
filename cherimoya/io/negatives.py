"""Background loci whose GC content is distributed like that of the loci.

Chromosomes are tiled; tiles that are no background are removed; the rest are drawn, bin of GC content by bin, as many
as there are loci in the bin. A bin that is short borrows from the nearest bins, from both sides alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from cherimoya.errors import InputError
from cherimoya.io.genome import Genome
from cherimoya.io.loci import Loci, Region, midpoints, overlaps_any, parse_regions, read_loci, rename_regions
from cherimoya.io.tracks import Tracks
from cherimoya.io.windows import Accounting, exclusions_of, extract_windows

FILTERS = ("overlaps a locus", "excluded", "too many N", "too many counts")
_COUNT_QUANTILE = 0.01


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
		Tiles of the chosen chromosomes.
	removed: dict of str to int
		For each of `FILTERS`, in this order, the tiles it removed; each tile counts once, for the first.
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
	random_state: int
		The seed.
	"""

	loci: Loci
	requested: int
	accounting: Accounting
	tiles: int
	removed: dict[str, int]
	ceilings: tuple[float, ...]
	bin_edges: np.ndarray
	gc_loci: np.ndarray
	gc_negatives: np.ndarray
	mean_gc_loci: float
	mean_gc_negatives: float
	ks: float
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
		lines.append(f"wanted {self.requested:,}, found {len(self):,}")
		if self.ceilings:
			lines.append("counts stay below " + ", ".join(f"{c:g}" for c in self.ceilings))
		lines.append(
			f"GC content: loci {self.mean_gc_loci:.3f}, background {self.mean_gc_negatives:.3f} on average; "
			f"Kolmogorov-Smirnov distance {self.ks:.3f}"
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
			"ceilings": list(self.ceilings),
			"bin_edges": self.bin_edges.tolist(),
			"gc_loci": self.gc_loci.tolist(),
			"gc_negatives": self.gc_negatives.tolist(),
			"mean_gc_loci": self.mean_gc_loci,
			"mean_gc_negatives": self.mean_gc_negatives,
			"ks": self.ks,
			"random_state": self.random_state,
		}


class _Tiles(NamedTuple):
	"""Tiles that passed the filters: chromosome, start and GC content of each, shape=(n,)."""

	chroms: np.ndarray
	starts: np.ndarray
	gc: np.ndarray


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
	random_state: int | None = 0,
	absolute: bool = False,
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
	random_state: int or None, default 0
		The seed; None draws one.
	absolute: bool, default False
		Take the absolute values of negative signals.
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
	_check_options(bin_width=bin_width, max_n_perc=max_n_perc, beta=beta, n=n)
	genome = genome if isinstance(genome, Genome) else Genome(genome)
	loci = read_loci(loci).renamed(genome.names)
	tracks = None if signals is None else Tracks(signals, absolute=absolute, names=genome.names)
	chroms = None if chroms is None else rename_regions(chroms, genome.names)
	windows = extract_windows(
		loci,
		genome,
		tracks,
		in_window=in_window,
		out_window=out_window,
		chroms=chroms,
		exclusion_lists=exclusion_lists,
		verbose=verbose,
	)
	gc_loci = gc_content(windows.codes)
	gc_loci = gc_loci[~np.isnan(gc_loci)]
	if not len(gc_loci):
		raise InputError(f"{', '.join(loci.files)}: all loci lie in stretches of N, so there is no GC content to match")
	ceilings = () if tracks is None else tuple(beta * np.quantile(windows.counts(), _COUNT_QUANTILE, axis=0))
	regions = _regions(chroms, windows.loci, genome, tracks)
	rules = _Rules(
		blocked=_input_windows(loci, in_window),
		excluded=exclusions_of(genome, exclusion_lists),
		max_n_perc=max_n_perc,
		tracks=tracks,
		ceilings=ceilings,
		in_window=in_window,
		out_window=out_window,
	)
	tiles, total, removed = _find_tiles(regions, genome, rules, verbose=verbose)
	if not len(tiles.starts):
		table = _tile_table(total, removed, "No background locus is left; where the tiles went:")
		raise InputError(
			f"{genome.name}: {table}\nGive more chromosomes, or loosen the filter that removed most (exclusion lists, "
			"max_n_perc, or beta, the ceiling on counts)"
		)
	seed = int(np.random.SeedSequence().generate_state(1)[0]) if random_state is None else random_state
	wanted = len(windows) if n is None else n
	edges = _bin_edges(bin_width)
	target = _scaled(_histogram(gc_loci, edges), wanted)
	chosen = match_bins(_bins(tiles.gc, edges), target, np.random.default_rng(seed))
	gc_chosen = tiles.gc[chosen]
	return Negatives(
		loci=_as_loci(tiles, chosen, in_window),
		requested=wanted,
		accounting=windows.accounting,
		tiles=total,
		removed=removed,
		ceilings=tuple(float(c) for c in ceilings),
		bin_edges=edges,
		gc_loci=_histogram(gc_loci, edges),
		gc_negatives=_histogram(gc_chosen, edges),
		mean_gc_loci=float(gc_loci.mean()),
		mean_gc_negatives=float(gc_chosen.mean()),
		ks=ks_distance(gc_loci, gc_chosen),
		random_state=seed,
	)


def gc_content(codes: np.ndarray) -> np.ndarray:
	"""The fraction of C and G among the known bases of each row: shape=(n, L) to (n,); NaN where none is known."""
	known = (codes < 4).sum(axis=-1)
	gc = ((codes == 1) | (codes == 2)).sum(axis=-1)
	return np.divide(gc, known, out=np.full(known.shape, np.nan), where=known > 0)


def match_bins(bins: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
	"""Choose tiles so that their bins are filled like the target, as far as there are tiles.

	Each bin first takes its own tiles. What it is short of it borrows from the bins at distance 1, then 2, and so on,
	one from below and one from above in turn, so that the mean stays where it is.

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
	have = np.array([len(pool) for pool in pools], dtype=np.int64)
	used = np.minimum(have, target)
	short = target - used
	for distance in range(1, len(target)):
		for b in np.flatnonzero(short):
			sides = [s for s in (b - distance, b + distance) if 0 <= s < len(target)]
			free = [int(have[s] - used[s]) for s in sides]
			for side, taken in zip(sides, _share(int(short[b]), free), strict=True):
				used[side] += taken
				short[b] -= taken
		if not short.any():
			break
	return np.sort(np.concatenate([pool[:k] for pool, k in zip(pools, used, strict=True)]))


def ks_distance(a: np.ndarray, b: np.ndarray) -> float:
	"""The largest difference between the empirical distribution functions of two samples."""
	points = np.concatenate([a, b])
	below_a = np.searchsorted(np.sort(a), points, side="right") / len(a)
	below_b = np.searchsorted(np.sort(b), points, side="right") / len(b)
	return float(np.abs(below_a - below_b).max())


def _check_options(*, bin_width: float, max_n_perc: float, beta: float, n: int | None) -> None:
	"""Raise ValueError naming the first argument that is out of range."""
	if not 0 < bin_width <= 1:
		raise ValueError(f"bin_width must be above 0 and at most 1, got {bin_width}")
	if not 0 <= max_n_perc <= 1:
		raise ValueError(f"max_n_perc must be between 0 and 1, got {max_n_perc}")
	if not beta >= 0:
		raise ValueError(f"beta must be at least 0, got {beta}")
	if n is not None and n < 1:
		raise ValueError(f"n must be None or at least 1, got {n}")


def _share(wanted: int, free: list[int]) -> list[int]:
	"""How many of `wanted` each of one or two sides gives, half each while both can, the lower one the odd one."""
	if len(free) < 2:
		return [min(wanted, f) for f in free]
	lower = min(free[0], max((wanted + 1) // 2, wanted - free[1]))
	return [lower, min(free[1], wanted - lower)]


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
	"""The histogram scaled to a total, in whole numbers: rounded down, the largest remainders up."""
	exact = histogram * (total / histogram.sum())
	whole = np.floor(exact + 1e-9).astype(np.int64)
	remainders = np.argsort(-(exact - whole), kind="stable")
	whole[remainders[: total - whole.sum()]] += 1
	return whole


def _regions(chroms: Sequence[str] | None, kept: Loci, genome: Genome, tracks: Tracks | None) -> list[Region]:
	"""What to tile: the chosen regions, or the chromosomes of the kept loci, that all inputs have; in FASTA order."""
	chosen = [Region(c, 0, None) for c in set(kept.chroms.tolist())] if chroms is None else parse_regions(chroms)
	known = [r for r in chosen if r.chrom in genome.chrom_sizes and (tracks is None or r.chrom in tracks.chrom_sizes)]
	order = {chrom: i for i, chrom in enumerate(genome.chrom_sizes)}
	return sorted(known, key=lambda region: (order[region.chrom], region.start))


class _Rules(NamedTuple):
	"""What makes a tile fit: the intervals it must not overlap, its share of N, its counts."""

	blocked: Loci
	excluded: Loci | None
	max_n_perc: float
	tracks: Tracks | None
	ceilings: Sequence[float]
	in_window: int
	out_window: int

	def broken(self, name: str, chrom: str, codes: np.ndarray, starts: np.ndarray) -> np.ndarray:
		"""Which of the tiles of a chromosome one of `FILTERS` removes, shape=(n,)."""
		if name == "overlaps a locus":
			return _overlaps(self.blocked, chrom, starts, self.in_window)
		if name == "excluded":
			return _overlaps(self.excluded, chrom, starts, self.in_window)
		if name == "too many N":
			unknown = _over_tiles(codes, starts, self.in_window, lambda rows: (rows > 3).mean(axis=1))
			return (unknown > self.max_n_perc) | (unknown == 1)  # N alone has no GC content to match
		return self._loud(chrom, starts)

	def _loud(self, chrom: str, starts: np.ndarray) -> np.ndarray:
		"""Which tiles have, in any group, too many counts over their central out_window, shape=(n,)."""
		if self.tracks is None or not len(starts):
			return np.zeros(len(starts), dtype=bool)
		first = starts + self.in_window // 2 - self.out_window // 2
		# Outputs may be wider than inputs; at a chromosome's ends such a window is moved inside.
		first = np.clip(first, 0, max(0, self.tracks.chrom_sizes[chrom] - self.out_window))
		totals = self.tracks.sums(np.full(len(starts), chrom, dtype=object), first, self.out_window)  # (n, G)
		return ((totals >= np.asarray(self.ceilings)) & (totals > 0)).any(axis=1)


def _input_windows(loci: Loci, in_window: int) -> Loci:
	"""The input windows of the loci, also those that leave their chromosome."""
	mids = midpoints(loci)
	return replace(loci, starts=mids - in_window // 2, ends=mids + (in_window + 1) // 2)


def _find_tiles(
	regions: list[Region], genome: Genome, rules: _Rules, *, verbose: bool
) -> tuple[_Tiles, int, dict[str, int]]:
	"""The tiles that pass all filters, how many there were, and how many each filter removed."""
	from tqdm import tqdm

	removed, total = dict.fromkeys(FILTERS, 0), 0
	found = [_Tiles(np.empty(0, dtype=object), np.empty(0, dtype=np.int64), np.empty(0))]
	names = list(dict.fromkeys(region.chrom for region in regions))
	for chrom in tqdm(names, unit="chromosomes", desc="tiling", disable=None if verbose else True, delay=2):
		codes = genome.codes(chrom)
		starts = _tile_starts([r for r in regions if r.chrom == chrom], len(codes), rules.in_window)
		total += len(starts)
		for name in FILTERS:  # in this order, so that counts are read for as few tiles as possible
			drop = rules.broken(name, chrom, codes, starts)
			removed[name] += int(drop.sum())
			starts = starts[~drop]
		gc = _over_tiles(codes, starts, rules.in_window, gc_content)
		found.append(_Tiles(np.full(len(starts), chrom, dtype=object), starts, gc))
	return _Tiles(*(np.concatenate(column) for column in zip(*found, strict=True))), total, removed


def _tile_starts(regions: list[Region], size: int, width: int) -> np.ndarray:
	"""Starts of the tiles at multiples of the width that lie inside one of the regions, shape=(n,)."""
	starts = np.arange(0, size - width + 1, width, dtype=np.int64)
	inside = np.zeros(len(starts), dtype=bool)
	for region in regions:
		inside |= (starts >= region.start) & (starts + width <= (size if region.end is None else region.end))
	return starts[inside]


def _overlaps(loci: Loci | None, chrom: str, starts: np.ndarray, width: int) -> np.ndarray:
	"""Whether each tile shares a base with any of the loci, shape=(n,)."""
	if loci is None:
		return np.zeros(len(starts), dtype=bool)
	here = loci.chroms == chrom
	return overlaps_any(loci.starts[here], loci.ends[here], starts, starts + width)


def _over_tiles(codes: np.ndarray, starts: np.ndarray, width: int, function: Any) -> np.ndarray:
	"""A function of rows of codes over the tiles, some thousand at a time, shape=(n,)."""
	windows = np.lib.stride_tricks.sliding_window_view(codes, width) if len(starts) else None
	step = max(1, (1 << 23) // width)
	parts = [function(windows[starts[i : i + step]]) for i in range(0, len(starts), step)]
	return np.concatenate(parts) if parts else np.empty(0)


def _as_loci(tiles: _Tiles, chosen: np.ndarray, width: int) -> Loci:
	"""The chosen tiles as loci."""
	return Loci(
		chroms=tiles.chroms[chosen],
		starts=tiles.starts[chosen],
		ends=tiles.starts[chosen] + width,
		summits=np.full(len(chosen), -1, dtype=np.int64),
		files=("negatives",),
		file_index=np.zeros(len(chosen), dtype=np.int32),
	)


def _tile_table(total: int, removed: dict[str, int], title: str) -> str:
	"""Where the tiles went, as aligned text."""
	rows = [("tiles", total), *((f"  removed: {name}", k) for name, k in removed.items())]
	rows.append(("usable", total - sum(removed.values())))
	left = max(len(name) for name, _ in rows)
	right = max(len(f"{k:,}") for _, k in rows)
	lines = [f"{name:<{left}}  {k:>{right},}" for name, k in rows]
	return "\n".join([title, *lines] if title else lines)
