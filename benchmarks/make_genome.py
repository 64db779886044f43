"""A synthetic experiment of any size, with the truth beside it: genome, loci, reads, bigWigs and planted motifs.

Everything is drawn chromosome by chromosome from the seed, so a genome of 3 Gb needs the memory of its largest
chromosome alone, and what a chromosome holds does not depend on which files are asked for::

	python benchmarks/make_genome.py out --megabases 100 --loci 100000 --groups 1 --stranded
	python benchmarks/make_genome.py out --megabases 5 --loci 1000 --groups 2 --reads --control

The genome has isochores (stretches of one GC content), runs of N at the ends and in the middle of each chromosome, and
soft-masked repeats. Loci prefer GC-rich places. Each locus holds one or two motifs near its summit, on either strand;
each has an effect on the reads of each group, and the 5' ends of the reads lie around it: those of the + strand
`shift` bp to its left, those of the - strand as far to its right. In the folder:

- ``genome.fa`` and its ``.fai``;
- ``peaks.narrowPeak``, with summits, and ``negatives.bed``, places without a planted motif;
- ``truth.tsv``: each planted motif with its place, strand, text, locus and expected reads in each group;
- ``signal.{g}.bw``, or ``signal.{g}.+.bw`` and ``signal.{g}.-.bw``: 5' ends of the reads of each group;
- with a control, ``control.bw`` (or ``control.+.bw`` and ``control.-.bw``), without any peaks;
- with reads, ``reads.{g}.bed.gz`` (and ``control.bed.gz``), which count to exactly these bigWigs.
"""

import argparse
import gzip
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

MOTIFS = {"first": "AGATAAGCATCC", "second": "TTACCGGAAGTG"}
"""The planted motifs; neither is its own reverse complement, nor like the other."""

LINE = 60
_CHUNK = LINE * 200_000
_COMPLEMENT = bytes.maketrans(b"ACGT", b"TGCA")


@dataclass(frozen=True)
class Design:
	"""What to make; everything else follows from it.

	Attributes
	----------
	megabases: float
		Size of the genome, in Mb. Default 5.
	n_chroms: int
		Chromosomes, named chr1, chr2, ..., each smaller than the one before. Default 4.
	n_loci: int
		Loci, shared out by the chromosomes' sizes. Default 1000.
	negatives_per_locus: float
		Places without a planted motif for each locus. Default 1.
	n_groups: int
		Experiments; the motifs' effects differ between them. Default 1.
	stranded: bool
		One bigWig for each strand rather than one of both. Default False.
	control: bool
		Also a control experiment, of background alone. Default False.
	reads: bool
		Also write the reads as BED. Default False.
	depth: float
		Expected reads of a group around a motif of no effect. Default 60.
	background: float
		Expected reads of a group for each kb of the genome. Default 2.
	strong, weak: float
		Natural logarithm of the factor by which a motif multiplies a locus's reads in the groups that follow it, and in
		the others. Default 1.5 and 0.3.
	fidelity: float
		Probability that a base of a planted motif is that of its consensus. Default 0.95.
	shift, spread: float
		How far the 5' ends of a strand's reads lie from their motif on average, and their standard deviation, in bp.
		Default 25 and 30.
	read_length: int
		Of the reads, in bp. Default 36.
	gc, gc_spread: float
		Mean and standard deviation of the isochores' GC contents. Default 0.41 and 0.06.
	isochore: int
		Mean length of an isochore, in bp. Default 100,000.
	gc_preference: float
		Loci lie in a place with a weight of exp(gc_preference * GC). Default 6.
	masked: float
		Fraction of the genome in lower case. Default 0.4.
	seed: int
		Default 0.
	"""

	megabases: float = 5
	n_chroms: int = 4
	n_loci: int = 1000
	negatives_per_locus: float = 1.0
	n_groups: int = 1
	stranded: bool = False
	control: bool = False
	reads: bool = False
	depth: float = 60
	background: float = 2
	strong: float = 1.5
	weak: float = 0.3
	fidelity: float = 0.95
	shift: float = 25
	spread: float = 30
	read_length: int = 36
	gc: float = 0.41
	gc_spread: float = 0.06
	isochore: int = 100_000
	gc_preference: float = 6
	masked: float = 0.4
	seed: int = 0

	def __post_init__(self) -> None:
		for name in ("megabases", "n_chroms", "n_loci", "n_groups", "read_length", "isochore"):
			if not getattr(self, name) > 0:
				raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
		slots = self.n_loci * (1 + self.negatives_per_locus)
		if self.megabases * 1e6 / slots < 400:
			raise ValueError(
				f"{self.megabases} Mb are too few for {slots:,.0f} loci and negatives; give {slots * 4e-4:g} Mb or more"
			)

	def chrom_sizes(self) -> dict[str, int]:
		"""The chromosomes: sizes fall to a fifth of the first one's."""
		weights = np.linspace(1, 0.2, self.n_chroms)
		sizes = np.round(self.megabases * 1e6 * weights / weights.sum()).astype(int)
		return {f"chr{i + 1}": int(size) for i, size in enumerate(sizes)}

	def effects(self) -> np.ndarray:
		"""Logarithm of each motif's factor on each group's reads, shape=(n_groups, n_motifs)."""
		follows = (np.arange(self.n_groups)[:, None] - np.arange(len(MOTIFS))) % self.n_groups == 0
		return np.where(follows, self.strong, self.weak)


class Isochores(NamedTuple):
	"""Stretches of one GC content: their ends and GC contents, shape=(k,)."""

	ends: np.ndarray
	gc: np.ndarray

	def at(self, positions: np.ndarray) -> np.ndarray:
		"""The GC content of the stretch that holds each position."""
		return self.gc[np.searchsorted(self.ends, positions, side="right")]


class Sites(NamedTuple):
	"""The planted motifs of one chromosome, m of them in n loci.

	Attributes
	----------
	locus: numpy.ndarray of int64, shape=(m,)
		The locus of each, from 0 within the chromosome.
	starts: numpy.ndarray of int64, shape=(m,)
	motifs: numpy.ndarray of int64, shape=(m,)
		Which of `MOTIFS`.
	reverse: numpy.ndarray of bool, shape=(m,)
		Whether it lies on the - strand.
	rates: numpy.ndarray of float64, shape=(m, n_groups)
		Expected reads around it.
	"""

	locus: np.ndarray
	starts: np.ndarray
	motifs: np.ndarray
	reverse: np.ndarray
	rates: np.ndarray


class Chromosome(NamedTuple):
	"""All that one chromosome holds; see :func:`make_chromosome`.

	Attributes
	----------
	name: str
	letters: numpy.ndarray of uint8, shape=(size,)
		The sequence as ASCII.
	summits: numpy.ndarray of int64, shape=(n,)
		The middle of each locus, from left to right.
	negatives: numpy.ndarray of int64, shape=(n_negatives,)
		The middle of each place without a planted motif, from left to right.
	sites: Sites
	reads: list of tuple of two numpy.ndarray of int64
		The sorted 5' ends on the + and on the - strand, for each group, and for the control if there is one.
	"""

	name: str
	letters: np.ndarray
	summits: np.ndarray
	negatives: np.ndarray
	sites: Sites
	reads: list[tuple[np.ndarray, np.ndarray]]


def make_chromosome(design: Design, index: int) -> Chromosome:
	"""One chromosome of a design, by its number from 0."""
	sizes = design.chrom_sizes()
	name, size = list(sizes.items())[index]
	streams = iter(np.random.default_rng(s) for s in np.random.SeedSequence([design.seed, index]).spawn(7))
	isochores = make_isochores(next(streams), size, design)
	letters = make_letters(next(streams), size, isochores)
	gaps = _gaps(size)
	summits, negatives = choose_places(next(streams), size, gaps, isochores, _shares(design)[index], design)
	sites = choose_sites(next(streams), summits, design)
	plant(next(streams), letters, sites, design.fidelity)
	mask(next(streams), letters, design.masked)
	for first, last in gaps:
		letters[first:last] = ord("N")
	return Chromosome(name, letters, summits, negatives, sites, make_reads(next(streams), size, sites, design))


def make_isochores(rng: np.random.Generator, size: int, design: Design) -> Isochores:
	"""Stretches whose lengths are exponential and whose GC contents are normal, cut to 0.2 to 0.8."""
	n = int(size / design.isochore * 1.5) + 20
	ends = np.cumsum(np.maximum(1, rng.exponential(design.isochore, n)).astype(np.int64))
	last = min(int(np.searchsorted(ends, size)), n - 1)
	ends = ends[: last + 1]
	ends[-1] = size
	return Isochores(ends, rng.normal(design.gc, design.gc_spread, n)[: last + 1].clip(0.2, 0.8))


def make_letters(rng: np.random.Generator, size: int, isochores: Isochores) -> np.ndarray:
	"""Random bases of the isochores' GC contents, as ASCII, shape=(size,)."""
	letters = np.empty(size, dtype=np.uint8)
	table = np.frombuffer(b"ATCG", dtype=np.uint8)
	bounds = np.concatenate([[0], isochores.ends])
	for first in range(0, size, _CHUNK):
		last = min(first + _CHUNK, size)
		draws = rng.integers(0, 1 << 16, last - first, dtype=np.uint16)  # 15 bits choose the pair, 1 bit the base
		lengths = np.diff(bounds.clip(first, last))
		limits = np.repeat((isochores.gc * (1 << 15)).astype(np.uint16), lengths)
		letters[first:last] = table[(((draws >> 1) < limits) << 1) | (draws & 1)]
	return letters


def choose_places(
	rng: np.random.Generator,
	size: int,
	gaps: list[tuple[int, int]],
	isochores: Isochores,
	n_loci: int,
	design: Design,
) -> tuple[np.ndarray, np.ndarray]:
	"""The middles of loci and of negatives, each in a slot of its own that keeps off the runs of N."""
	n_negatives = round(n_loci * design.negatives_per_locus)
	if not n_loci:
		return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
	inner = [(gaps[i][1], gaps[i + 1][0]) for i in range(len(gaps) - 1)]
	margin = min(4000, size // 50)
	room = sum(last - first - 2 * margin for first, last in inner)
	width = min(50_000, int(room / (1.1 * (n_loci + n_negatives) + 2)))
	starts = np.concatenate([np.arange(a + margin, b - margin - width + 1, width) for a, b in inner])
	middles = starts + width // 4 + rng.integers(0, width // 2, len(starts))
	# The n largest of these keys are a weighted sample without replacement (Efraimidis and Spirakis 2006).
	keys = design.gc_preference * isochores.at(middles) + rng.gumbel(size=len(middles))
	order = np.argsort(-keys, kind="stable")
	if len(order) < n_loci + n_negatives:
		raise ValueError(f"{n_loci + n_negatives} loci and negatives do not fit a chromosome of {size} bp")
	others = rng.permutation(order[n_loci:])[:n_negatives]
	return np.sort(middles[order[:n_loci]]), np.sort(middles[others])


def choose_sites(rng: np.random.Generator, summits: np.ndarray, design: Design) -> Sites:
	"""One motif, at a locus's summit, or two of different kinds some 40 bp apart; half the loci have two."""
	n, n_motifs, width = len(summits), len(MOTIFS), len(next(iter(MOTIFS.values())))
	kinds = rng.integers(0, n_motifs, n)
	two = np.flatnonzero(rng.random(n) < 0.5)
	offsets = rng.integers(20, 60, len(two)) * rng.choice([-1, 1], len(two))
	locus = np.concatenate([np.arange(n), two])
	motifs = np.concatenate([kinds, (kinds[two] + 1) % n_motifs])
	starts = np.concatenate([summits, summits[two] + offsets]) - width // 2
	order = np.lexsort((starts, locus))
	locus, motifs, starts = locus[order], motifs[order], starts[order]

	effects = design.effects()[:, motifs].T  # (m, n_groups)
	total = np.zeros((n, design.n_groups))
	np.add.at(total, locus, effects)  # effects of the motifs of a locus multiply
	height = design.depth * np.exp(total + rng.normal(0, 0.3, (n, 1)))
	weights = np.exp(effects)
	shared = np.zeros((n, design.n_groups))
	np.add.at(shared, locus, weights)
	rates = height[locus] * weights / shared[locus]
	return Sites(locus, starts, motifs, rng.random(len(locus)) < 0.5, rates)


def plant(rng: np.random.Generator, letters: np.ndarray, sites: Sites, fidelity: float) -> None:
	"""Write the motifs into the sequence, in place; a base is replaced with probability 1 - fidelity."""
	for k, motif in enumerate(MOTIFS.values()):
		for reverse in (False, True):
			text = motif.encode().translate(_COMPLEMENT)[::-1] if reverse else motif.encode()
			rows = np.flatnonzero((sites.motifs == k) & (sites.reverse == reverse))
			bases = np.tile(np.frombuffer(text, dtype=np.uint8), (len(rows), 1))
			wrong = rng.random(bases.shape) > fidelity
			bases[wrong] = rng.choice(np.frombuffer(b"ACGT", dtype=np.uint8), int(wrong.sum()))
			letters[sites.starts[rows, None] + np.arange(len(text))] = bases


def mask(rng: np.random.Generator, letters: np.ndarray, fraction: float, length: int = 300) -> None:
	"""Put repeats of some `length` bp into lower case, in place."""
	if not fraction:
		return
	if fraction >= 1:
		letters |= 0x20
		return
	gap = length * (1 - fraction) / fraction
	n = int(len(letters) / (length + gap) * 1.2) + 50
	spans = np.stack([rng.exponential(gap, n), rng.exponential(length, n)], axis=1)
	ends = np.cumsum(spans.ravel()).astype(np.int64).clip(max=len(letters))
	bits = np.repeat(np.tile(np.array([0, 0x20], dtype=np.uint8), n), np.diff(ends, prepend=0))
	letters[: len(bits)] |= bits


def make_reads(
	rng: np.random.Generator, size: int, sites: Sites, design: Design
) -> list[tuple[np.ndarray, np.ndarray]]:
	"""The sorted 5' ends on the + and - strand of each group, and of the control, so that reads stay inside."""
	width, read = len(next(iter(MOTIFS.values()))), design.read_length
	found = []
	for g in range(design.n_groups + design.control):
		strands = []
		for sign in (1, -1):
			parts = [rng.integers(0, size, rng.poisson(design.background * size / 2000))]
			if g < design.n_groups:
				counts = rng.poisson(sites.rates[:, g] / 2)
				middles = np.repeat(sites.starts + width // 2, counts)
				parts.append(np.rint(middles - sign * design.shift + rng.normal(0, design.spread, len(middles))))
			ends = np.concatenate(parts).astype(np.int64)
			inside = (ends >= 0) & (ends <= size - read) if sign > 0 else (ends >= read - 1) & (ends < size)
			strands.append(np.sort(ends[inside]))
		found.append((strands[0], strands[1]))
	return found


def write(design: Design, folder: str | Path) -> dict[str, Any]:
	"""Make everything and write it to a folder.

	Returns
	-------
	dict
		The paths: `genome`, `peaks`, `negatives`, `truth`, `signals` (in groups, as the library takes them),
		`controls` (or None), `reads` and `control_reads` (or None); and `chrom_sizes`.
	"""
	folder = Path(folder)
	folder.mkdir(parents=True, exist_ok=True)
	paths = _paths(design, folder)
	sizes = design.chrom_sizes()
	with ExitStack() as stack:
		texts = {k: stack.enter_context(open(paths[k], "w")) for k in ("peaks", "negatives", "truth")}
		fasta = stack.enter_context(open(paths["genome"], "wb"))
		index = stack.enter_context(open(f"{paths['genome']}.fai", "w"))
		tracks = [
			[_bigwig(path, sizes, stack) for path in group]
			for group in [*paths["signals"], *([paths["controls"]] if design.control else [])]
		]
		names = [*(paths["reads"] or ()), *([paths["control_reads"]] if design.control and design.reads else [])]
		beds = [stack.enter_context(gzip.open(name, "wt", compresslevel=1)) for name in names]
		texts["truth"].write("\t".join([*_TRUTH, *(f"reads.{g}" for g in range(design.n_groups))]) + "\n")
		n_before = 0
		for i in range(design.n_chroms):
			chromosome = make_chromosome(design, i)
			_write_fasta(fasta, index, chromosome)
			_write_loci(texts, chromosome, n_before)
			n_before += len(chromosome.summits)
			for group, files in zip(chromosome.reads, tracks, strict=True):
				_write_counts(files, chromosome.name, group)
			for group, bed in zip(chromosome.reads, beds, strict=False):
				bed.writelines(_bed_lines(chromosome.name, group, design.read_length))
	paths["chrom_sizes"] = sizes
	Path(folder / "design.json").write_text(json.dumps(asdict(design), indent="\t") + "\n")
	return paths


_TRUTH = ("chrom", "start", "end", "motif", "strand", "sequence", "locus", "summit")


def _shares(design: Design) -> list[int]:
	"""How many loci each chromosome has."""
	sizes = np.array(list(design.chrom_sizes().values()))
	return np.diff(np.round(np.concatenate([[0], np.cumsum(sizes) / sizes.sum()]) * design.n_loci)).astype(int).tolist()


def _gaps(size: int) -> list[tuple[int, int]]:
	"""The runs of N: 10 kb at both ends and 1 % of the chromosome in its middle, less on a small one."""
	end, half = min(10_000, size // 100), size // 200
	return [(0, end), (size // 2 - half, size // 2 + half), (size - end, size)]


def _paths(design: Design, folder: Path) -> dict[str, Any]:
	"""Where everything goes."""

	def tracks(name: str) -> list[str]:
		suffixes = (".+.bw", ".-.bw") if design.stranded else (".bw",)
		return [str(folder / f"{name}{suffix}") for suffix in suffixes]

	return {
		"genome": str(folder / "genome.fa"),
		"peaks": str(folder / "peaks.narrowPeak"),
		"negatives": str(folder / "negatives.bed"),
		"truth": str(folder / "truth.tsv"),
		"signals": [tracks(f"signal.{g}") for g in range(design.n_groups)],
		"controls": tracks("control") if design.control else None,
		"reads": [str(folder / f"reads.{g}.bed.gz") for g in range(design.n_groups)] if design.reads else None,
		"control_reads": str(folder / "control.bed.gz") if design.reads and design.control else None,
	}


def _bigwig(path: str, sizes: dict[str, int], stack: ExitStack) -> Any:
	"""A bigWig to be written, closed with the stack."""
	import pyBigWig

	file = pyBigWig.open(path, "w")
	stack.callback(file.close)
	file.addHeader(list(sizes.items()))
	return file


def _write_fasta(fasta: IO[bytes], index: IO[str], chromosome: Chromosome) -> None:
	"""One record, in lines of 60 bases, and its line of the index."""
	fasta.write(f">{chromosome.name}\n".encode())
	size, first_byte = len(chromosome.letters), fasta.tell()
	index.write(f"{chromosome.name}\t{size}\t{first_byte}\t{LINE}\t{LINE + 1}\n")
	for first in range(0, size, _CHUNK):
		part = chromosome.letters[first : first + _CHUNK]
		whole = len(part) // LINE
		lines = np.full((whole, LINE + 1), ord("\n"), dtype=np.uint8)
		lines[:, :LINE] = part[: whole * LINE].reshape(whole, LINE)
		fasta.write(lines.tobytes())
		if len(part) > whole * LINE:
			fasta.write(part[whole * LINE :].tobytes() + b"\n")


def _write_loci(texts: dict[str, IO[str]], chromosome: Chromosome, n_before: int) -> None:
	"""The lines of the loci, of the negatives and of the truth; loci are numbered on from `n_before`."""
	name, summits, sites = chromosome.name, chromosome.summits, chromosome.sites
	for number, summit in enumerate(summits.tolist(), start=n_before):
		texts["peaks"].write(f"{name}\t{summit - 90}\t{summit + 110}\tlocus{number}\t0\t.\t1\t1\t1\t90\n")
	texts["negatives"].writelines(f"{name}\t{mid - 100}\t{mid + 100}\n" for mid in chromosome.negatives.tolist())
	width = len(next(iter(MOTIFS.values())))
	names = list(MOTIFS)
	rows = zip(
		*(a.tolist() for a in (sites.starts, sites.motifs, sites.reverse, sites.locus)), sites.rates, strict=True
	)
	for start, kind, reverse, locus, rates in rows:
		text = chromosome.letters[start : start + width].tobytes().upper()
		text = text.translate(_COMPLEMENT)[::-1] if reverse else text
		fields = [name, start, start + width, names[kind], "-" if reverse else "+", text.decode()]
		fields += [f"locus{n_before + locus}", int(summits[locus]), *(f"{rate:.3f}" for rate in rates)]
		texts["truth"].write("\t".join(map(str, fields)) + "\n")


def _write_counts(files: list[Any], chrom: str, strands: tuple[np.ndarray, np.ndarray]) -> None:
	"""The 5' ends of one group on one chromosome: one file of both strands, or one of each."""
	for file, ends in zip(files, strands if len(files) == 2 else [np.concatenate(strands)], strict=True):
		positions, counts = np.unique(ends, return_counts=True)
		if len(positions):
			file.addEntries(chrom, positions, values=counts.astype(np.float64), span=1)


def _bed_lines(chrom: str, strands: tuple[np.ndarray, np.ndarray], length: int) -> Iterator[str]:
	"""The reads of one group on one chromosome as BED6, sorted by start."""
	plus, minus = strands
	starts = np.concatenate([plus, minus - length + 1])
	signs = np.repeat(["+", "-"], [len(plus), len(minus)])
	order = np.argsort(starts, kind="stable")
	for start, sign in zip(starts[order].tolist(), signs[order].tolist(), strict=True):
		yield f"{chrom}\t{start}\t{start + length}\tr\t0\t{sign}\n"


def main(arguments: list[str] | None = None) -> None:
	"""The command line: a flag for each attribute of :class:`Design`."""
	parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
	parser.add_argument("folder", help="where to write")
	for name, value in asdict(Design()).items():
		flag = "--" + name.removeprefix("n_").replace("_", "-")
		kind = {"action": "store_true"} if isinstance(value, bool) else {"type": type(value)}
		if name == "megabases":
			kind = {"type": float}
		parser.add_argument(flag, dest=name, default=value, **kind)
	options = vars(parser.parse_args(arguments))
	paths = write(Design(**{k: v for k, v in options.items() if k != "folder"}), options["folder"])
	print(json.dumps(paths, indent="\t"))


if __name__ == "__main__":
	main()
