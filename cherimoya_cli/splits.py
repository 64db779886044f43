"""Splits of a genome into training, validation and test parts: reading, comparing and proposing them."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cherimoya.io.names import ChromNames

_REGION = re.compile(r"^(?P<chrom>.+):(?P<start>\d[\d,]*)-(?P<end>\d[\d,]*)?$")


class Place(NamedTuple):
	"""A chromosome, or a half-open region of it counted from 0; ``end`` is infinity for "to its end"."""

	text: str
	chrom: str
	start: int
	end: float


class Split(NamedTuple):
	"""Places of each part, as settings hold them."""

	training: list[str]
	validation: list[str]
	test: list[str]


def parse_places(texts: Sequence[str]) -> tuple[list[Place], list[str]]:
	"""Chromosomes and regions out of their texts, and what is wrong with those that cannot be read.

	The same texts as `cherimoya.io.loci.parse_region` reads, without its import of NumPy.
	"""
	places, faults = [], []
	for text in map(str.strip, texts):
		match = _REGION.match(text)
		if not text:
			faults.append("an empty text names no chromosome; write chr8 or chr22:33,000,000-37,000,000")
		elif not match:
			places.append(Place(text, text, 0, math.inf))
		else:
			start = int(match["start"].replace(",", ""))
			end = int(match["end"].replace(",", "")) if match["end"] else math.inf
			if start < end:
				places.append(Place(text, match["chrom"], start, end))
			else:
				faults.append(f"'{text}' is an empty region; its start must be below its end")
	return places, faults


def shared_places(splits: Mapping[str, Sequence[Place]]) -> list[tuple[str, str, str, str]]:
	"""Pairs of splits that share bases: both splits' names and the first places that overlap."""
	names, found = list(splits), []
	for i, a in enumerate(names):
		for b in names[i + 1 :]:
			for p in splits[a]:
				twin = next((q for q in splits[b] if p.chrom == q.chrom and p.start < q.end and q.start < p.end), None)
				if twin is not None:
					found.append((a, b, p.text, twin.text))
					break
	return found


def rename_places(texts: Sequence[str], names: ChromNames) -> list[str]:
	"""The places with a genome's names of chromosomes; those that cannot be read are left out."""
	return [names.resolve(place.chrom) + place.text.removeprefix(place.chrom) for place in parse_places(texts)[0]]


def shared_problems(splits: Mapping[str, Sequence[str]]) -> list[str]:
	"""For each two splits that share bases, a sentence on what they share."""
	found = []
	for a, b, first, second in shared_places({key: parse_places(places)[0] for key, places in splits.items()}):
		twin = f"'{first}'" if first == second else f"'{first}' and '{second}'"
		found.append(f"{a} and {b} share {twin}; a base may be in one split only, so remove it from one of them")
	return found


def propose_split(chrom_sizes: Mapping[str, int]) -> Split:
	"""A split of a genome: about 10 % of its bases for validation and 15 % for test, in whole chromosomes if possible.

	Chromosomes shorter than a hundredth of the longest (unplaced contigs) and mitochondrial or
	chloroplast ones are left out. With fewer than four chromosomes the parts are regions.

	Parameters
	----------
	chrom_sizes: Mapping[str, int]
		Length of each chromosome in bp.

	Returns
	-------
	Split
		Training, validation and test places.
	"""
	organelles = {"m", "mt", "mito", "mitochondrion", "pt", "c", "plastid", "chloroplast"}
	longest = max(chrom_sizes.values())
	main = {
		chrom: size
		for chrom, size in chrom_sizes.items()
		if size * 100 >= longest and chrom.lower().removeprefix("chr") not in organelles
	} or dict(chrom_sizes)
	if len(main) < 4:
		return _propose_regions(main)
	total = sum(main.values())
	# Sex chromosomes and the longest one differ from the rest, so they stay in training.
	spare = sorted(
		(chrom for chrom in main if chrom.lower().removeprefix("chr") not in {"x", "y", "z", "w"}),
		key=lambda chrom: (-main[chrom], chrom),
	)[1:]
	test = _gather(spare, main, 0.15 * total)
	validation = _gather([chrom for chrom in spare if chrom not in test], main, 0.10 * total)
	order = list(main)
	training = [chrom for chrom in order if chrom not in test and chrom not in validation]
	return Split(training, sorted(validation, key=order.index), sorted(test, key=order.index))


def _gather(chroms: Sequence[str], sizes: Mapping[str, int], wanted: float) -> list[str]:
	"""One or two chromosomes whose lengths come nearest to the wanted sum; one at least is left over."""
	options = [[a] for a in chroms]
	if len(chroms) > 3:
		options += [[a, b] for i, a in enumerate(chroms) for b in chroms[i + 1 :]]
	return min(options, key=lambda option: (abs(sum(sizes[c] for c in option) - wanted), len(option)))


def _propose_regions(sizes: Mapping[str, int]) -> Split:
	"""The first three quarters of each chromosome for training, then 10 % for validation and 15 % for test."""
	split = Split([], [], [])
	for chrom, size in sizes.items():
		a, b = round(0.75 * size), round(0.85 * size)
		for places, start, end in zip(split, (0, a, b), (a, b, size), strict=True):
			places.append(f"{chrom}:{start}-{end}")
	return split


def as_json(split: Split) -> str:
	"""The three keys as one would write them in a JSON."""
	parts = zip(("training_chroms", "validation_chroms", "test_chroms"), split, strict=True)
	return ", ".join(f'"{key}": [' + ", ".join(f'"{place}"' for place in places) + "]" for key, places in parts)


def split_problems(
	splits: Mapping[str, tuple[Sequence[str], bool]], chrom_sizes: Mapping[str, int], fasta: str
) -> tuple[list[str], list[str]]:
	"""What of a split is not in the genome.

	Parameters
	----------
	splits: Mapping[str, tuple[Sequence[str], bool]]
		For each part, by the key that a message names, its places and whether they are the default, for hg38.
	chrom_sizes: Mapping[str, int]
		Length of each chromosome of the genome in bp.
	fasta: str
		The name of the genome's file.

	Returns
	-------
	tuple[list[str], list[str]]
		Problems (a part that has no chromosome of the genome, with a proposal), and notices (a part
		some of whose chromosomes are not in the genome).
	"""
	absent, notices = [], []
	for name, (places, default) in splits.items():
		parsed, _ = parse_places(places)
		missing = [p.text for p in parsed if p.chrom not in chrom_sizes or p.start >= chrom_sizes[p.chrom]]
		if missing and len(missing) == len(parsed):
			absent.append(f"{name} ({'the default, for hg38: ' if default else ''}{_some(missing)})")
		elif missing:
			notices.append(f"{name}: not in {fasta}, and passed over: {_some(missing)}")
	if not absent:
		return [], notices
	verb = "has" if len(absent) == 1 else "have"
	return [
		f"{', '.join(absent[:-1])}{' and ' * (len(absent) > 1)}{absent[-1]} {verb} no chromosome of {fasta}, "
		f"which has {_some(list(chrom_sizes))}; "
		f"a split of this genome would be: {as_json(propose_split(chrom_sizes))}"
	], notices


def _some(names: Sequence[str], most: int = 6) -> str:
	"""The first few names."""
	return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")


def suits(parts: Sequence[Sequence[str]], chrom_sizes: Mapping[str, int]) -> bool:
	"""Whether each part of a split names at least one chromosome of a genome."""
	return all(any(place.chrom in chrom_sizes for place in parse_places(part)[0]) for part in parts)
