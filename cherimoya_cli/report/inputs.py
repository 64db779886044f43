"""What a run left behind, read into plain values.

A file that is not there is None; one that cannot be read is an error.
"""

from __future__ import annotations

import csv
import json
import math
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cherimoya.errors import InputError, join_problems
from cherimoya.plot import read_log
from cherimoya_cli.report.findings import Findings, read_findings
from cherimoya_cli.settings import STEPS

#: The splits that ``evaluate`` measures: their key, and the stem of their files after the run's name.
SPLIT_STEMS = {"test": ".test", "validation": ""}

#: Accounting's names for a locus that belongs to another split, or to none.
NOT_SELECTED = ("chromosome not selected", "in another split")

#: Names of the bigWigs of one of several groups of reads, after the run's name, and what they hold.
_GROUP_BIGWIG = re.compile(r"\.(?P<control>control\.)?(?P<group>\d+)(?:\.(?P<strand>[+-]))?\.bw")

#: Files of a run in the order of its steps: suffix, and what it holds.
KNOWN_FILES = (
	("_peaks.narrowPeak", "peaks called from the reads"),
	(".bw", "signal, reads per bp"),
	(".+.bw", "signal of the + strand, reads per bp"),
	(".-.bw", "signal of the − strand, reads per bp"),
	(".control.bw", "control signal, reads per bp"),
	(".control.+.bw", "control signal of the + strand, reads per bp"),
	(".control.-.bw", "control signal of the − strand, reads per bp"),
	(".signals.record.json", "how many reads of each file were used"),
	(".negatives.bed", "GC-matched background loci"),
	(".negatives.record.json", "how the background was found"),
	(".torch", "the model (best epoch)"),
	(".final.torch", "the model at the end of training"),
	(".log", "training log"),
	(".detailed.log", "training log with measures of each group"),
	(".fit.record.json", "record of the training run"),
	(".performance.tsv", "measures on the validation split"),
	(".performance.json", "what the measures on the validation split were made from"),
	(".baselines.tsv", "measures of the baselines on the validation split"),
	(".evaluation.npz", "values per validation locus"),
	(".test.performance.tsv", "measures on the test split"),
	(".test.performance.json", "what the measures on the test split were made from"),
	(".test.baselines.tsv", "measures of the baselines on the test split"),
	(".test.evaluation.npz", "values per test locus"),
	(".predictions.npz", "predictions at the loci"),
	(".attributions.ohe.npz", "sequences of the attributed windows, one-hot"),
	(".attributions.attr.npz", "hypothetical contributions"),
	(".attributions.idxs.npy", "which loci were attributed"),
	(".attributions.bed", "coordinates of the attributed windows"),
	(".attributions.bw", "contribution of the base that is there, per bp"),
	(".seqlets.bed", "stretches of high contribution"),
	(".seqlets_annotated.bed", "the same with their nearest known motifs"),
	(".motif_seqlet_count.tsv", "seqlets of each known motif"),
	("_modisco_results.h5", "what TF-MoDISco found"),
	("_modisco/motifs.html", "TF-MoDISco's report"),
	("_modisco/motifs.tsv", "its patterns and their nearest known motifs"),
	("_marginalize/index.html", "effects of known motifs, as a page"),
	("_marginalize/marginalize.tsv", "the same as a table"),
	(".variants.tsv", "effects of variants"),
)

#: Steps whose settings are shown: those after the reads.
SHOWN_STEPS = tuple(step for step in STEPS if step not in ("peaks", "signals", "report"))


@dataclass(frozen=True)
class Accounting:
	"""Loci given, kept, and dropped by reason."""

	given: int
	kept: int
	dropped: dict[str, int]
	files: dict[str, Accounting] = field(default_factory=dict)

	@property
	def not_selected(self) -> int:
		"""Loci that lie outside the split's chromosomes or regions, or belong to another."""
		return sum(self.dropped.get(reason, 0) for reason in NOT_SELECTED)

	@property
	def lost(self) -> dict[str, int]:
		"""Loci of the split that were dropped, by reason, without empty reasons."""
		return {reason: n for reason, n in self.dropped.items() if n and reason not in NOT_SELECTED}


@dataclass(frozen=True)
class Evaluation:
	"""Measures of the model and of the baselines on one split."""

	split: str
	rows: list[dict[str, float]]
	baselines: list[dict[str, float]] | None
	record: dict[str, Any]
	arrays: dict[str, np.ndarray] | None

	@property
	def n_loci(self) -> int | None:
		"""Loci that were measured, None where nothing says how many."""
		if self.arrays is not None and "observed_counts" in self.arrays:
			return len(self.arrays["observed_counts"])
		n = self.record.get("n_loci")
		return n if isinstance(n, int) else None


@dataclass(frozen=True)
class Attributions:
	"""Hypothetical contributions of some loci."""

	one_hot: np.ndarray  # (n, 4, W) int8
	scores: np.ndarray  # (n, 4, W) float
	chroms: list[str]
	starts: np.ndarray  # (n,)
	settings: dict[str, Any]

	def contributions(self) -> np.ndarray:
		"""The score of the base that is there at each position, shape (n, W)."""
		return np.einsum("ncw,ncw->nw", self.scores, self.one_hot, dtype=np.float64)  # (n, 4, W) -> (n, W)


class RunFile(NamedTuple):
	"""One file of the run."""

	name: str
	content: str
	size: int


class ReadFile(NamedTuple):
	"""A file of reads that became a signal or a control."""

	name: str
	role: str
	unit: str
	given: int
	used: int
	dropped: dict[str, int]


class Background(NamedTuple):
	"""How the background loci were found."""

	edges: np.ndarray  # (bins + 1,) GC content
	gc_loci: np.ndarray  # (bins,)
	gc_background: np.ndarray  # (bins,)
	ks: float
	requested: int
	found: int


@dataclass(frozen=True)
class Run:
	"""Everything the report is made from."""

	name: str
	fit_record: dict[str, Any] | None
	log: dict[str, np.ndarray] | None
	evaluations: dict[str, Evaluation]
	attributions: Attributions | None
	step_settings: dict[str, dict[str, Any]]
	step_seconds: dict[str, float]
	files: list[RunFile]
	reads: list[ReadFile] = field(default_factory=list)
	background: Background | None = None
	accounting: dict[str, Accounting] = field(default_factory=dict)
	findings: Findings = field(default_factory=Findings)

	@property
	def title(self) -> str:
		"""The run's name without its folder."""
		return Path(self.name).name

	@property
	def held_out(self) -> Evaluation | None:
		"""The evaluation that the verdict rests on: the test split, else the validation split, else chosen loci."""
		return next(
			(self.evaluations[key] for key in ("test", "validation", "chosen") if key in self.evaluations), None
		)

	@property
	def signal_groups(self) -> tuple[int, ...]:
		"""Channels per group, from the training record or the evaluation, else one channel per measured group."""
		groups = (self.fit_record or {}).get("signal_groups")
		held_out = self.held_out
		if groups is None and held_out is not None:
			groups = (held_out.arrays or {}).get("signal_groups", (1,) * len(held_out.rows))
		return tuple(int(g) for g in groups) if groups is not None else (1,)

	@property
	def group_names(self) -> list[str]:
		"""A name for each group: its files where the settings tell them, else its number."""
		groups = self.signal_groups
		signals = ((self.fit_record or {}).get("settings") or {}).get("signals")
		signals = [signals] if isinstance(signals, str) else signals
		if isinstance(signals, list) and len(signals) == len(groups):
			names = [" and ".join(Path(p).name for p in ([s] if isinstance(s, str) else s)) for s in signals]
			if len(set(names)) == len(names):
				return names
		return [f"group {i}" for i in range(1, len(groups) + 1)]


def read_run(name: str) -> Run:
	"""Read the outputs of the run whose file prefix is ``name``.

	Raises
	------
	InputError
		If there is nothing to report, or files cannot be read (all of them in one message).
	"""
	problems: list[str] = []

	def attempt(read: Callable[[Path], Any], suffix: str, *, path: str | None = None) -> Any:
		place = Path(path or name + suffix)
		if not place.is_file():
			return None
		try:
			return read(place)
		except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
			remedy = "remove it and run the step that writes it again"
			problems.append(f"{place}: cannot be read ({_one_line(error)}); {remedy}")
			return None

	fit_record = attempt(_read_json, ".fit.record.json")
	log = attempt(read_log, ".log")
	evaluations = {}
	for split, stem in SPLIT_STEMS.items():
		rows = attempt(_read_table, f"{stem}.performance.tsv")
		baselines = attempt(_read_table, f"{stem}.baselines.tsv")
		record = attempt(_read_json, f"{stem}.performance.json") or {}
		arrays = attempt(_read_arrays, f"{stem}.evaluation.npz")
		if rows:
			# evaluate writes loci that the user chose under the same name as the validation split
			split = "chosen" if str(record.get("split", "")).lower().startswith("chosen") else split
			evaluations[split] = Evaluation(split, rows, baselines or None, record, arrays)
	attributions = _read_attributions(name, attempt, problems)
	step_settings = {step: attempt(_read_json, f".{step}.json") for step in SHOWN_STEPS}
	step_seconds = _read_seconds(name, attempt)
	reads = attempt(_read_reads, ".signals.record.json") or []
	background = attempt(_read_background, ".negatives.record.json")
	findings = read_findings(name, {step: settings or {} for step, settings in step_settings.items()}, attempt)
	if problems:
		raise InputError(join_problems(problems))
	if fit_record is None and log is None and not evaluations:
		raise InputError(
			f"{name}: no {Path(name).name}.fit.record.json, .log or .performance.tsv in "
			f"{Path(name).parent.resolve()}; give the prefix of a run that has been trained or evaluated"
		)
	run = Run(
		name=name,
		fit_record=fit_record,
		log=log,
		evaluations=evaluations,
		attributions=attributions,
		step_settings={step: settings for step, settings in step_settings.items() if settings},
		step_seconds=step_seconds,
		files=_list_files(name),
		reads=reads,
		background=background,
		accounting=_read_accounting(fit_record, evaluations),
		findings=findings,
	)
	_check_groups(run)
	return run


def _check_groups(run: Run) -> None:
	"""InputError unless every evaluation measures the groups that the model has."""
	groups = run.signal_groups
	problems = []
	for split, evaluation in run.evaluations.items():
		path = f"{run.name}{SPLIT_STEMS.get(split, '')}.performance.tsv"
		if len(evaluation.rows) != len(groups):
			problems.append(
				f"{path}: {len(evaluation.rows)} rows, but the model has {len(groups)} signal groups; run "
				"evaluate again"
			)
		elif evaluation.baselines and len(evaluation.baselines) != len(groups):
			problems.append(f"{path}: another number of rows than the table of the baselines; run evaluate again")
	if problems:
		raise InputError(join_problems(problems))


def _one_line(error: BaseException) -> str:
	return (str(error).splitlines() or [type(error).__name__])[0]


def _read_json(path: Path) -> dict[str, Any]:
	value = json.loads(path.read_text(encoding="utf-8"))
	if not isinstance(value, dict):
		raise ValueError("not a JSON object")
	return value


def _number(text: str) -> float:
	return math.nan if text.strip() in ("", "NA", "None") else float(text)


def _read_table(path: Path) -> list[dict[str, float]]:
	"""The numeric columns of a tab-separated table, one dict per row."""
	with path.open(encoding="utf-8", newline="") as file:
		rows = list(csv.DictReader(file, delimiter="\t"))
	if any(None in row or None in row.values() for row in rows):
		raise ValueError("rows of different lengths")
	return [
		{key: _number(value) for key, value in row.items() if key not in ("group", "name", "split")} for row in rows
	]


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
	with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
		return {key: archive[key] for key in archive.files}


def _read_attributions(name: str, attempt: Callable[..., Any], problems: list[str]) -> Attributions | None:
	settings = attempt(_read_json, ".attribute.json") or {}
	one_hot = attempt(_read_arrays, ".attributions.ohe.npz", path=settings.get("ohe_filename"))
	scores = attempt(_read_arrays, ".attributions.attr.npz", path=settings.get("attr_filename"))
	windows = attempt(_read_bed, ".attributions.bed")
	if one_hot is None or scores is None or windows is None:
		return None
	X, attr = one_hot.get("arr_0"), scores.get("arr_0")
	if X is None or attr is None or X.shape != attr.shape or len(X) != len(windows):
		problems.append(
			f"{name}.attributions.*: the sequences, the scores and the coordinates do not fit together "
			"(different numbers of loci or widths); run attribute again"
		)
		return None
	starts = np.array([start for _, start in windows], dtype=np.int64)
	return Attributions(X, attr, [chrom for chrom, _ in windows], starts, settings)


def _read_bed(path: Path) -> list[tuple[str, int]]:
	rows = []
	for line in path.read_text(encoding="utf-8").splitlines():
		if line.strip():
			fields = line.split("\t")
			rows.append((fields[0], int(fields[1])))
	return rows


def _read_reads(path: Path) -> list[ReadFile]:
	"""The files of reads, from the record of their conversion to bigWigs."""
	record = _read_json(path)
	files = []
	for role, key in (("signal", "signals"), ("control", "controls")):
		for conversion in record.get(key) or []:
			for file in conversion["files"]:
				dropped = {str(reason): int(n) for reason, n in file["dropped"].items() if n}
				name, unit = Path(file["file"]).name, str(file["unit"])
				files.append(ReadFile(name, role, unit, int(file["given"]), int(file["used"]), dropped))
	return files


def _read_background(path: Path) -> Background:
	"""The GC content of loci and background, from the record of the search."""
	record = _read_json(path)
	edges, loci, found = (np.asarray(record[key], dtype=float) for key in ("bin_edges", "gc_loci", "gc_negatives"))
	return Background(edges, loci, found, float(record["ks"]), int(record["requested"]), int(record["found"]))


def _read_seconds(name: str, attempt: Callable[..., Any]) -> dict[str, float]:
	"""Seconds of each finished step of a pipeline, in the order in which they were finished."""
	seconds = {}
	folder, stem = Path(name).parent, Path(name).name
	paths = sorted(folder.glob(f"{_glob_escape(stem)}.*.done.json")) if folder.is_dir() else []
	for path in paths:
		step = path.name[len(stem) + 1 : -len(".done.json")]
		record = attempt(_read_json, f".{step}.done.json") or {}
		if step != "report" and isinstance(record.get("seconds"), int | float):
			seconds[step] = float(record["seconds"])
	return dict(sorted(seconds.items(), key=lambda item: (STEPS.index(item[0]) if item[0] in STEPS else 99, item[0])))


def _glob_escape(text: str) -> str:
	return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def _group_track(path: Path, stem: str) -> str:
	"""What the bigWig of one of several groups of reads holds; nothing for other files."""
	match = _GROUP_BIGWIG.fullmatch(path.name.removeprefix(stem)) if path.name.startswith(stem) else None
	if match is None:
		return ""
	strand = {"+": " of the + strand", "-": " of the − strand", None: ""}[match["strand"]]
	return f"{'control ' * bool(match['control'])}signal{strand} of group {int(match['group']) + 1}, reads per bp"


def _list_files(name: str) -> list[RunFile]:
	known = [(Path(name + suffix), content) for suffix, content in KNOWN_FILES]
	folder, stem = Path(name).parent, Path(name).name
	predictions = sorted(folder.glob(f"{_glob_escape(stem)}.predictions*.bw")) if folder.is_dir() else []
	known += [(path, "expected reads per bp") for path in predictions]
	if folder.is_dir():
		known += [(path, content) for path in sorted(folder.glob("*.bw")) if (content := _group_track(path, stem))]
		tables = sorted(folder.glob(f"{_glob_escape(stem)}.*.accounting.tsv"))
		known += [(path, "where the loci went") for path in tables]
	there = ((path, content) for path, content in known if path.is_file())
	return [RunFile(path.relative_to(folder).as_posix(), content, path.stat().st_size) for path, content in there]


def _read_accounting(fit_record: dict[str, Any] | None, evaluations: dict[str, Evaluation]) -> dict[str, Accounting]:
	"""Accounting of each split, from the training record, else from the record of an evaluation."""
	found: dict[str, Any] = dict((fit_record or {}).get("accounting") or {})
	for split, evaluation in evaluations.items():
		record = evaluation.record.get("accounting") or {}
		for key, part in ((split, "loci"), (f"{split}_negatives", "negatives")):
			if found.get(key) is None:
				found[key] = record.get(part)
	return {
		split: _as_accounting(value)
		for split, value in found.items()
		if isinstance(value, dict) and {"given", "kept", "dropped"} <= set(value)
	}


def _as_accounting(value: dict[str, Any]) -> Accounting:
	dropped = {str(reason): int(n) for reason, n in value["dropped"].items()}
	files = {str(name): _as_accounting(account) for name, account in (value.get("files") or {}).items()}
	return Accounting(int(value["given"]), int(value["kept"]), dropped, files)
