"""What a run found about motifs and variants: seqlets, patterns, effects of known motifs and of alleles.

A step that left nothing is None. Tables are read line by line, and the strongest rows kept.
"""

from __future__ import annotations

import csv
import gzip
import heapq
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cherimoya.errors import MissingExtraError

if TYPE_CHECKING:
	from cherimoya_cli.modisco import Pattern

KEPT = 60
"""Rows of a table that are kept, the strongest."""
SHOWN_EFFECTS = 10
"""Rows of a table of effects that are shown of each group."""


class Seqlet(NamedTuple):
	"""A stretch of high contribution, and its nearest known motif with p- and E-value of the match (NaN: unknown)."""

	chrom: str
	start: int
	end: int
	attribution: float
	p_value: float
	motif: str | None
	motif_p: float
	motif_e: float


class MotifCount(NamedTuple):
	"""How many seqlets are like a known motif: all, those that raise the prediction, those that lower it."""

	motif: str
	n: int
	positive: int
	negative: int


@dataclass(frozen=True)
class Seqlets:
	"""All seqlets as numbers, the strongest of them, and the known motifs that they are like (None: not compared).

	They are like a motif if the match has an E-value of at most `match_threshold` (None: unknown).
	"""

	positive: int
	negative: int
	strongest: list[Seqlet]
	counts: list[MotifCount] | None
	match_threshold: float | None = None

	@property
	def n(self) -> int:
		"""How many there are."""
		return self.positive + self.negative


class Known(NamedTuple):
	"""A known motif near a pattern, with the q-value of the match."""

	motif: str
	q_value: float


@dataclass(frozen=True)
class Patterns:
	"""What TF-MoDISco found, the known motifs near each by its name, and its page; or why it cannot be read."""

	patterns: list[Pattern]
	known: dict[str, list[Known]]
	page: Path | None
	problem: str = ""


class Effect(NamedTuple):
	"""What inserting a known motif into background does to one group's predictions."""

	motif: str
	name: str
	inserted: str
	log2fc: float
	error: float
	same_sign: float
	jsd: float


@dataclass(frozen=True)
class Marginalization:
	"""The strongest effects of each group, the number of motifs, the page, and the file of the motifs."""

	groups: list[list[Effect]]
	n_motifs: int
	page: Path | None
	database: str | None


class AlleleEffect(NamedTuple):
	"""The scores of an allele in the group where its count changes most."""

	place: str
	name: str
	change: str
	group: int
	log2fc: float
	jsd: float
	l1: float


@dataclass(frozen=True)
class Variants:
	"""The strongest alleles, how many groups there are, and how many alleles were scored, or not, by reason."""

	strongest: list[AlleleEffect]
	n_groups: int
	statuses: dict[str, int]


@dataclass(frozen=True)
class Findings:
	"""What the steps after attribution left."""

	seqlets: Seqlets | None = None
	patterns: Patterns | None = None
	marginalization: Marginalization | None = None
	variants: Variants | None = None


def read_findings(name: str, settings: dict[str, dict[str, Any]], attempt: Callable[..., Any]) -> Findings:
	"""Read what a run left about motifs and variants.

	Parameters
	----------
	name: str
		The run's file prefix.
	settings: dict
		The settings of its steps, by name; where a step has none its files have their usual names.
	attempt: callable
		Calls a reader with a path, or gives None where there is no such file.
	"""

	def file_of(step: str, key: str, usual: str) -> str:
		return (settings.get(step) or {}).get(key) or f"{name}{usual}"

	annotated = file_of("annotation", "output_filename", ".seqlets_annotated.bed")
	counts = attempt(_read_counts, ".motif_seqlet_count.tsv")
	named = annotated if counts is not None and Path(annotated).is_file() else None
	seqlets = attempt(_read_seqlets, "", path=named or file_of("seqlets", "output_filename", ".seqlets.bed"))
	if seqlets is not None:
		seqlets = Seqlets(*seqlets, counts, (settings.get("annotation") or {}).get("match_threshold"))
	folder = Path(file_of("modisco_report", "output_folder", "_modisco"))
	patterns = attempt(_read_patterns, "", path=file_of("motifs", "output_filename", "_modisco_results.h5"))
	if patterns is not None:
		known = attempt(_read_known, "", path=str(folder / "motifs.tsv")) or {}
		found, problem = patterns
		patterns = Patterns(found, known, _if_there(folder / "motifs.html"), problem)
	folder = Path(file_of("marginalize", "output_filename", "_marginalize"))
	effects = attempt(_read_effects, "", path=str(folder / "marginalize.tsv"))
	if effects is not None:
		database = (settings.get("marginalize") or {}).get("motifs")
		effects = Marginalization(*effects, _if_there(folder / "index.html"), database)
	variants = attempt(_read_variants, "", path=file_of("variants", "tsv_filename", ".variants.tsv"))
	return Findings(seqlets, patterns, effects, variants)


def _if_there(path: Path) -> Path | None:
	return path if path.is_file() else None


def _float(text: str | None) -> float:
	return float(text) if text else math.nan


def _rows(path: Path) -> Iterator[dict[str, str]]:
	"""The rows of a tab-separated table with a header, plain or compressed."""
	opener = gzip.open if path.suffix == ".gz" else open
	with opener(path, "rt", encoding="utf-8", newline="") as file:
		for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
			if None in row or None in row.values():
				raise ValueError("rows of different lengths")
			yield row


def _read_seqlets(path: Path) -> tuple[int, int, list[Seqlet]]:
	"""How many seqlets raise and lower the prediction, and the strongest of them."""
	signs: Counter[bool] = Counter()

	def seqlets() -> Iterator[Seqlet]:
		for row in _rows(path):
			value = float(row["attribution"])
			signs[value > 0] += 1
			place = row["#chrom"], int(row["start"]), int(row["end"])
			match = row.get("motif"), _float(row.get("motif_p-value")), _float(row.get("motif_E-value"))
			yield Seqlet(*place, value, float(row["p-value"]), *match)

	strongest = heapq.nlargest(KEPT, seqlets(), key=lambda seqlet: abs(seqlet.attribution))
	return signs[True], signs[False], strongest


def _read_counts(path: Path) -> list[MotifCount]:
	keys = ("seqlets", "positive", "negative")
	return [MotifCount(row["motif"], *(int(row[key]) for key in keys)) for row in _rows(path)]


def _read_patterns(path: Path) -> tuple[list[Pattern], str]:
	"""TF-MoDISco's patterns, and why there are none to show if what reads them is not installed."""
	from cherimoya_cli.modisco import read_patterns

	try:
		return read_patterns(path), ""
	except MissingExtraError as error:
		return [], str(error)


def _read_known(path: Path) -> dict[str, list[Known]]:
	known = {}
	for row in _rows(path):
		numbers = (key.removeprefix("motif_") for key in row if key.startswith("motif_"))
		known[row["pattern"]] = [Known(row[f"motif_{i}"], _float(row[f"q_value_{i}"])) for i in numbers]
	return known


def _read_effects(path: Path) -> tuple[list[list[Effect]], int]:
	"""The strongest effects of each group, and the number of motifs."""
	groups: dict[str, list[Effect]] = {}
	n: Counter[str] = Counter()
	for row in _rows(path):  # in the order of their ranks
		n[row["group"]] += 1
		if n[row["group"]] <= SHOWN_EFFECTS:
			keys = ("log2fc_counts", "log2fc_counts_se", "same_sign", "jsd_profile")
			effect = Effect(row["motif"], row["name"], row["inserted"], *(_float(row[key]) for key in keys))
			groups.setdefault(row["group"], []).append(effect)
	return list(groups.values()), max(n.values(), default=0)


def _read_variants(path: Path) -> Variants:
	statuses: Counter[str] = Counter()
	n_groups = 1

	def scored() -> Iterator[AlleleEffect]:
		nonlocal n_groups
		for row in _rows(path):
			statuses[row["status"]] += 1
			columns = [key for key in row if key == "log2fc_counts" or key.startswith("log2fc_counts.")]
			n_groups = len(columns)
			values = [_float(row[key]) for key in columns]
			if row["status"] == "scored" and all(math.isfinite(value) for value in values):
				group = max(range(n_groups), key=lambda i: abs(values[i]))
				end = f".{group}" if n_groups > 1 else ""
				change = f"{row['ref']}>{row['alt']}"
				profile = (_float(row[f"jsd_profile{end}"]), _float(row[f"l1_profile{end}"]))
				place = f"{row['chrom']}:{int(row['pos']):,}"
				yield AlleleEffect(place, row["id"], change, group, values[group], *profile)

	strongest = heapq.nlargest(SHOWN_EFFECTS, scored(), key=lambda allele: abs(allele.log2fc))
	return Variants(strongest, n_groups, dict(statuses.most_common()))
