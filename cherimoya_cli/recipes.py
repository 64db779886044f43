"""What the settings of an assay should be, and why: the recipes of ``pipeline-json --assay``."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from cherimoya.errors import SettingsError
from cherimoya_cli.reads import Layout, detect_layout, is_reads


class Choice(NamedTuple):
	"""The value of a key of a pipeline JSON, and a sentence on why."""

	section: str
	key: str
	value: Any
	reason: str

	@property
	def dotted(self) -> str:
		"""The key as ``--set`` takes it."""
		return f"{self.section}.{self.key}" if self.section else self.key


class Recipe(NamedTuple):
	"""An assay: its name in words, its choices, and whether each read has to tell its strand."""

	title: str
	choices: tuple[Choice, ...]
	stranded: bool


_READS, _FIT = "preprocessing_parameters", "fit_parameters"
_UNSTRANDED = "A cut says nothing of a strand, so the ends of both are added up in one track."
_FRAGMENTS = "Both ends of a fragment are events; in a file whose lines have no strand they are its two coordinates."
_ENDS = "Each read counts at its 5' end, by itself: of a pair both mates do."
_NO_SHIFT = "The 5' end of a read is the event itself."
_WINDOWS = (
	Choice("", "in_window", 2114, "1,000 bp of profile, and the sequence on both sides that a model of 9 layers sees."),
	Choice("", "out_window", 1000, "Wide enough for the reads around one bound site, or one accessible region."),
)
_OPEN_JITTER = Choice(
	_FIT,
	"max_jitter",
	500,
	"Accessible regions are wide and their middles arbitrary: every place in them should train.",
)
_SITE_JITTER = Choice(
	_FIT, "max_jitter", 128, "Summits are near the bound site; moving the window keeps it from learning its own middle."
)
_CUTS = Choice(
	_READS,
	"callpeaks_unit",
	"cuts",
	"Signal is piled up where the ends are, smoothed over 150 bp: reads have no fragment to be extended to.",
)
SUMMITS = "Windows are centred on the summit, where the signal is highest; {why}."
LIKE_10X = (
	Choice(
		_READS, "pos_shift", 0, "Fragment files with barcodes, as Cell Ranger writes them, are shifted by +4 already."
	),
	Choice(
		_READS, "neg_shift", 1, "Their right ends were shifted by −5, one base more than the middle of the footprint."
	),
)

RECIPES: dict[str, Recipe] = {
	"atac": Recipe(
		"ATAC-seq",
		(
			Choice(_READS, "unstranded", True, _UNSTRANDED),
			Choice(_READS, "fragments", False, _ENDS),
			Choice(
				_READS,
				"pos_shift",
				4,
				"Tn5 joins its adapters 9 bp apart; +4 is the middle of the footprint, from the left.",
			),
			Choice(
				_READS,
				"neg_shift",
				-4,
				"−4 from the last base is the same base, from the right. Tools that count from the end of a half-open "
				"interval call it −5.",
			),
			Choice(_READS, "callpeaks_unit", "auto", "With shifts and without strands, MACS3 piles up the cuts."),
			*_WINDOWS,
			_OPEN_JITTER,
		),
		False,
	),
	"dnase": Recipe(
		"DNase-seq",
		(
			Choice(_READS, "unstranded", True, _UNSTRANDED),
			Choice(_READS, "fragments", False, _ENDS),
			Choice(
				_READS, "pos_shift", 0, "The first base of a read on the + strand is the one to the right of the cut."
			),
			Choice(
				_READS,
				"neg_shift",
				1,
				"The last base of a read on the − strand is the one to the left of its cut; +1 makes it the one to the "
				"right.",
			),
			Choice(_READS, "callpeaks_unit", "auto", "With shifts and without strands, MACS3 piles up the cuts."),
			*_WINDOWS,
			_OPEN_JITTER,
		),
		False,
	),
	"chipseq-tf": Recipe(
		"ChIP-seq of a transcription factor",
		(
			Choice(
				_READS,
				"unstranded",
				False,
				"Reads of the two strands lie on either side of a bound site: that offset is what the profile is.",
			),
			Choice(_READS, "fragments", False, _ENDS),
			Choice(_READS, "pos_shift", 0, _NO_SHIFT),
			Choice(_READS, "neg_shift", 0, _NO_SHIFT),
			Choice(
				_READS,
				"callpeaks_unit",
				"auto",
				"MACS3 estimates the length of fragments, or takes it from pairs (-pe).",
			),
			*_WINDOWS,
			_SITE_JITTER,
		),
		False,
	),
	"chip-nexus": Recipe(
		"ChIP-nexus and ChIP-exo",
		(
			Choice(
				_READS, "unstranded", False, "The exonuclease stops on each strand at its own side of the bound site."
			),
			Choice(_READS, "fragments", False, "The stop is at the 5' end; the other end of a fragment is chance."),
			Choice(_READS, "pos_shift", 0, _NO_SHIFT),
			Choice(_READS, "neg_shift", 0, _NO_SHIFT),
			_CUTS,
			*_WINDOWS,
			_SITE_JITTER,
		),
		True,
	),
	"procap": Recipe(
		"PRO-cap",
		(
			Choice(_READS, "unstranded", False, "RNA is made of one strand, and promoters start it on both."),
			Choice(_READS, "fragments", False, "The start of transcription is the 5' end; the other end is none."),
			Choice(_READS, "pos_shift", 0, _NO_SHIFT),
			Choice(_READS, "neg_shift", 0, _NO_SHIFT),
			_CUTS,
			Choice("", "absolute_signals", True, "bigWigs of the − strand are often written with values below 0."),
			*_WINDOWS,
			Choice(
				_FIT,
				"max_jitter",
				200,
				"Starts are sharp, and a peak may hold several: each should be seen off centre.",
			),
		),
		True,
	),
}
"""The assays that ``--assay`` knows."""


def choose(assay: str, signals: Sequence[Any], loci: Sequence[str] | None) -> list[Choice]:
	"""The choices for an assay, with what its files decide.

	Parameters
	----------
	assay: str
		One of `RECIPES`.
	signals: list
		Signals as in a pipeline JSON.
	loci: list of str or None
		Files of peaks; None where they are to be called.

	Returns
	-------
	choices: list of Choice
		In the order of the recipe.

	Raises
	------
	SettingsError
		When the reads do not tell their strand and the assay needs it, or differ in whether they are shifted.
	InputError
		When a file cannot be read.
	"""
	recipe = RECIPES[assay]
	layouts = {path: detect_layout(path) for path in _files(signals) if is_reads(path)}
	if not layouts:
		kept = [choice for choice in recipe.choices if choice.section != _READS]  # bigWigs are taken as they are
	else:
		kept = _by_layout(assay, recipe, layouts)
	why = "MACS3 tells it" if loci is None else "the 10th column of the peaks tells it"
	if (loci is None and layouts) or (loci is not None and all(_has_summits(path) for path in loci)):
		kept.append(Choice(_FIT, "summits", True, SUMMITS.format(why=why)))
	return kept


def _files(signals: Sequence[Any]) -> list[str]:
	"""The files of signals, without their groups."""
	return [path for item in signals for path in ([item] if isinstance(item, str) else item)]


def _by_layout(assay: str, recipe: Recipe, layouts: dict[str, Layout]) -> list[Choice]:
	"""The choices of a recipe for files of these layouts."""
	without = [path for path, layout in layouts.items() if layout in ("bed", "bedpe", "fragments")]
	if without and recipe.stranded:
		raise SettingsError(
			f"{without[0]}: its lines have no strand, which {recipe.title} cannot do without; give the reads as BAM, "
			"or as BED with the strand in the 6th column"
		)
	shifted = [path for path, layout in layouts.items() if layout == "fragments"]
	if assay == "atac" and shifted and len(shifted) < len(layouts):
		other = next(path for path in layouts if path not in shifted)
		raise SettingsError(
			f"{shifted[0]} is a fragment file with barcodes, whose ends are shifted already, and {other} is not; make "
			"a JSON for each kind, or give both as fragment files"
		)
	choices = []
	for choice in recipe.choices:
		if choice.key == "fragments" and without:
			choice = choice._replace(value=True, reason=_FRAGMENTS)
		if assay == "atac" and shifted:
			choice = next((other for other in LIKE_10X if other.key == choice.key), choice)
		choices.append(choice)
	return choices


def _has_summits(path: str) -> bool:
	"""Whether the first line of a file of loci has a summit, as a narrowPeak has."""
	from cherimoya.io._files import read_bytes

	for line in read_bytes(path, what="loci").splitlines():
		fields = line.split(b"\t")
		if len(fields) >= 3 and not line.startswith((b"#", b"track", b"browser")):
			return len(fields) >= 10 and fields[9].isdigit()
	return False
