"""What can be known to fail before a pipeline starts: every problem is found first, and said together."""

import hashlib
import json
import platform
import shutil
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from cherimoya.errors import (
	CherimoyaError,
	InputError,
	MissingExtraError,
	MissingFileError,
	SettingsError,
	ToolError,
	join_problems,
	missing_extra,
	split_problems,
)
from cherimoya.io._files import cache_folder, is_remote
from cherimoya.io.names import REMEDY, alike
from cherimoya.memory import available_memory
from cherimoya_cli.launching import resolve_devices
from cherimoya_cli.measuring import check_splits_apart
from cherimoya_cli.modisco import require_modisco
from cherimoya_cli.plan import Step, after, has_reads, needed_extras, split_files
from cherimoya_cli.reads import (
	ReadAccounting,
	controls_of,
	conversions,
	describe_naming,
	detect_layout,
	is_reads,
	iterate_reads,
	read_groups,
)
from cherimoya_cli.resuming import check_beginning
from cherimoya_cli.settings import SECTIONS, SPLIT_LOCI, SPLITS, STEPS, PipelineSettings
from cherimoya_cli.utils import check_split, output_folder, resolve_device, warn, write_json

if TYPE_CHECKING:
	from cherimoya.io.genome import Genome
	from cherimoya.io.loci import Loci

ROWS_TRIED = 1000
"""Rows of a file of reads that are read to see whether it can be used."""

GIGABYTE = 10**9


def raise_together(errors: Sequence[CherimoyaError]) -> None:
	"""Raise one error that holds all of them; a wrong setting decides the exit code before a bad input does."""
	if not errors:
		return
	if len(errors) == 1:
		raise errors[0]
	texts = dict.fromkeys(line for error in errors for line in split_problems(str(error)))
	message = join_problems(texts)
	if any(isinstance(error, SettingsError) for error in errors):
		raise SettingsError(message)
	if all(isinstance(error, MissingFileError) for error in errors):
		raise MissingFileError(message)
	raise InputError(message)


# ---- settings alone ---------------------------------------------------------------------------------


def check_settings(settings: PipelineSettings) -> None:
	"""Raise SettingsError for settings that no plan can be made of; reads no file."""
	raise_together([SettingsError(f"{settings.source}: {text}") for text in _settings_problems(settings)])


def _settings_problems(settings: PipelineSettings) -> Iterator[str]:
	"""What is wrong with the settings of a pipeline as a whole, a sentence each."""
	for key in ("signals", "controls"):
		files = [path for group in read_groups(getattr(settings, key)) for path in group]
		reads = [path for path in files if is_reads(path)]
		if reads and len(reads) < len(files):
			other = next(path for path in files if path not in reads)
			yield (
				f"{key} holds reads ({reads[0]}) and bigWigs ({other}); give all of them as reads, or all as bigWigs "
				"(a pipeline with reads alone makes them)"
			)
		if any(item is None for item in getattr(settings, key) or ()) and not reads:
			yield f"{key} holds null, which marks a group of reads without control; leave it out for bigWigs"
	try:
		values = settings.preprocessing_parameters.model_dump()
		for key in ("signals", "controls"):
			values[key] = getattr(settings, key) if has_reads(getattr(settings, key)) else None
		conversions(values)
	except SettingsError as error:
		yield str(error)
	given = settings.loci or settings.fit_parameters.loci or split_files(settings.fit_parameters)
	if not given and not has_reads(settings.signals):
		yield (
			"loci is null and signals are bigWigs, but peaks can only be called from reads; name the peaks in loci, "
			"or give the reads as signals"
		)
	for section in SECTIONS:
		part = getattr(settings, section)
		for key in ("signals", "controls"):
			value = getattr(part, key, None)
			if value != getattr(settings, key) and has_reads(value):
				yield f"{section}.{key} holds reads; name reads in the {key} of the top level, which all steps share"


# ---- inputs -----------------------------------------------------------------------------------------


class Needs(NamedTuple):
	"""Bytes that a run needs, of disk in the output folder and of memory, and the device that it will use."""

	disk: int
	memory: int
	device: str


KEPT = 32
"""How many tables, genomes and models are kept for the checks of the next run."""


class Known:
	"""What checks have found, so that the checks of many runs look at each file once.

	Parameters
	----------
	source: str or None
		The name of the JSON in notes; None (the default) for that of each run.
	"""

	def __init__(self, source: str | None = None) -> None:
		self._source = source
		self._errors: dict[Hashable, tuple[type[CherimoyaError], str]] = {}
		self._passed: set[Hashable] = set()
		self._values: OrderedDict[Hashable, Any] = OrderedDict()

	def once(self, key: Hashable, check: Callable[..., Any], *args: Any) -> Any:
		"""What ``check(*args)`` gives or raises; it is not called if that is known of this key."""
		if key in self._errors:
			kind, text = self._errors[key]
			raise kind(text)
		if key in self._passed:
			return None
		if key in self._values:
			self._values.move_to_end(key)
			return self._values[key]
		try:
			value = check(*args)
		except CherimoyaError as error:
			self._errors[key] = type(error), str(error)  # the error itself would keep what its frames hold
			raise
		if value is None:
			self._passed.add(key)
			return None
		self._values[key] = value
		if len(self._values) > KEPT:
			self._values.popitem(last=False)
		return value

	def note(self, source: str, text: str) -> None:
		"""Tell a note once."""
		if text not in self._passed:
			self._passed.add(text)
			warn(f"note: {self._source or source}: {text}")


def check_run(
	settings: PipelineSettings,
	steps: Sequence[Step],
	running: set[str],
	*,
	known: Known | None = None,
	device: str | None = None,
) -> Needs:
	"""Check everything that the steps to be run depend on, and raise one error that says all that is wrong.

	Parameters
	----------
	settings: PipelineSettings
		The pipeline's settings.
	steps: sequence of Step
		Its plan.
	running: set of str
		Names of the steps that will run.
	known: Known or None
		What the checks of other runs have found, which is not looked for again. Default is None.
	device: str or None
		The kind of device that the run will have, on whatever machine; None (the default) looks for it on this one, and
		at the machine's memory and disk.

	Returns
	-------
	needs: Needs
		The disk and memory that the run takes, estimated.
	"""
	known, here = known or Known(), device is None
	sequences, aliases = (getattr(settings, key, None) for key in ("sequences", "chrom_aliases"))
	checks = _Checks(known, (sequences, json.dumps(aliases)))
	active = [step for step in steps if step.name in running]
	made = {path for step in steps for path in step.outputs}
	checks.errors += missing_extras(settings, steps, active)
	for path in dict.fromkeys(step.settings.get("motifs") for step in active):
		if path is not None:
			checks.once(("motifs", path), _check_motifs, path)
	if here:
		used = any("device" in step.settings for step in active)
		device = str(checks.attempt(resolve_device, settings.device)) if used else "cpu"
		if device.startswith("cuda"):
			checks.attempt(check_kernels)
	genome = checks.once("genome", _open_genome, settings) if sequences else None
	loci: dict[tuple[str, ...], int] = {}
	n_tiles = 0
	if genome is not None:
		_check_reads(active, genome, checks)
		_check_tracks(active, made, genome, checks)
		loci = _check_loci(settings, active, made, genome, checks)
		for values in (step.settings for step in active if step.settings.get("regions") is not None):
			n_tiles = checks.attempt(count_tiles, values, genome) or 0
	for step in active:
		if step.name == "fit":
			checks.attempt(check_beginning, SimpleNamespace(**step.settings))
			if here:
				checks.attempt(resolve_devices, SimpleNamespace(**step.settings))
		if step.name == "variants" and genome is not None and isinstance(settings, PipelineSettings):
			_check_variants(settings, checks)
	if settings.model is not None:
		_check_model(settings, active, checks)
	needs = estimate_needs(active, str(device), loci, n_tiles=n_tiles)
	if here:
		checks.attempt(_check_machine, settings, needs)
	raise_together(checks.errors)
	return needs


class _Checks:
	"""The checks of one run: what they have found wrong, and what is known from those of other runs.

	Parameters
	----------
	known: Known
		What other runs have found.
	where: tuple of str
		The genome that files are compared with.
	"""

	def __init__(self, known: Known, where: tuple[str | None, str]) -> None:
		self.known, self.where = known, where
		self.errors: list[CherimoyaError] = []

	def attempt(self, check: Callable[..., Any], *args: Any) -> Any:
		"""What ``check(*args)`` gives; None if it finds something wrong, which is kept."""
		try:
			return check(*args)
		except CherimoyaError as error:
			self.errors.append(error)
			return None

	def once(self, key: Hashable, check: Callable[..., Any], *args: Any) -> Any:
		"""As `attempt`, unless it is known of this key and genome."""
		return self.attempt(self.known.once, (self.where, key), check, *args)


def _check_loci(
	settings: PipelineSettings, active: Sequence[Step], made: set[str], genome: "Genome", checks: _Checks
) -> dict[tuple[str, ...], int]:
	"""Read the files of loci that no step makes, and compare them with the splits; how many loci there are in each."""
	loci: dict[tuple[tuple[str, ...], bool], Loci | None] = {}
	for step in active:
		for key in ("loci", "negatives", "exclusion_lists", *SPLIT_LOCI.values()):
			paths = tuple(path for path in step.settings.get(key) or () if path not in made)
			summits = key not in ("negatives", "exclusion_lists") and step.settings.get("summits", False)
			if paths and (paths, summits) not in loci:
				found = (key == "exclusion_lists", paths, summits)
				table, doubts = checks.once(found, _look_at_loci, key, list(paths), summits, genome) or (None, [])
				loci[paths, summits] = table
				for notice in doubts:
					checks.known.note(settings.source, notice)
	fit = next((step for step in active if step.name in ("fit", "evaluate")), None)
	before = len(checks.errors)
	if fit is not None and isinstance(settings, PipelineSettings):
		for notice in checks.attempt(check_split, settings, genome.chrom_sizes) or ():
			checks.known.note(settings.source, notice)
	if fit is not None and len(checks.errors) == before:
		_check_loci_of_splits(settings, fit, loci, genome, checks)
	return {paths: len(table) for (paths, _), table in loci.items() if table is not None}


def _check_loci_of_splits(
	settings: PipelineSettings,
	fit: Step,
	loci: "Mapping[tuple[tuple[str, ...], bool], Loci | None]",
	genome: "Genome",
	checks: _Checks,
) -> None:
	"""Look whether splits are apart and none is empty, as far as their loci are there."""
	if fit.settings["training_loci"] is not None:
		checks.attempt(check_splits_apart, SimpleNamespace(**fit.settings), genome)
		return
	table = loci.get((tuple(fit.settings["loci"]), fit.settings["summits"]))
	if table is not None:
		split = {key: fit.settings[key] for key in ("loci", "summits", "in_window", *SPLITS.values())}
		checks.once(("splits", fit.name, json.dumps(split)), _check_splits, settings, fit, table, genome)


def missing_extras(settings: Any, steps: Sequence[Step], active: Sequence[Step]) -> list[CherimoyaError]:
	"""An error for each package that the `active` ones among a run's steps need and that is not installed."""
	missing = [
		(need.step, str(missing_extra(need.package, extra=need.extra, needed_for=need.purpose)))
		for need in needed_extras(active)
		if find_spec(need.package) is None
	]
	for step in active:
		drawn = {"motifs": [False, *[True] * bool(step.settings.get("report"))], "modisco_report": [True]}
		for report in drawn.get(step.name, ()):
			try:
				require_modisco(report=report)
			except MissingExtraError as error:
				missing.append((step.name, str(error)))
	lost = {name: after(steps, [name]) for name, _ in missing}
	spared = {name for name, names in lost.items() if not {"fit", "evaluate"} & set(names)}  # the rest is worth having
	left_out = set(getattr(settings, "skip_steps", None) or ()).union(*(lost[name] for name in spared))
	hint = f", or go on without it: skip_steps: {json.dumps([name for name in STEPS if name in left_out])}"
	several = len(steps) > 1
	return [MissingExtraError(text + (hint if several and name in spared else "")) for name, text in missing]


def _check_motifs(path: str) -> None:
	"""Read a motif database, if what reads it is there."""
	if find_spec("memelite") is None:  # told already, with the command that adds it
		return
	from cherimoya.io.motifs import read_motifs

	read_motifs(path)


def _check_variants(settings: PipelineSettings, checks: _Checks) -> None:
	"""Read the first variants, and the models that are to score them where they are given."""
	part = settings.variants_parameters
	models = part.models or ([settings.model] if settings.model is not None else None)
	windows = part.in_window, part.out_window
	checks.once(("variants", part.variants, tuple(models or ()), windows), _try_variants, part, models is not None)


def _try_variants(part: Any, with_models: bool) -> None:
	"""InputError for variants that are none, or models that do not suit the windows or each other."""
	from cherimoya.io.variants import VariantFile
	from cherimoya_cli.commands import variants

	if not any(True for _ in islice(VariantFile(part.variants).alleles(), ROWS_TRIED)):
		raise InputError(f"{part.variants}: holds no variants below its header; give a file with at least one")
	if with_models:
		variants.load(part, "cpu")


def check_kernels() -> None:
	"""Compare the GPU kernels with their definition, once per machine and version.

	A record of success in the user's cache folder, named after the sources of the kernels, the GPU and the versions
	of torch and Triton, spares the next run the seconds that this takes.

	Raises
	------
	ToolError
		If a kernel's result is wrong or differs between two runs.
	"""
	record = _kernels_record()
	if record.is_file():
		return
	command = [sys.executable, "-m", "cherimoya.kernels.check", "--json"]
	child = subprocess.run(command, capture_output=True, text=True, check=False)
	remedy = "set device to cpu, or remove Triton (pip uninstall triton), so that the kernels are not used"
	try:
		found = json.loads(child.stdout)
	except ValueError:
		last = (child.stderr.strip() or "no output").splitlines()[-1]
		raise ToolError(
			f"the check of the GPU kernels ended with status {child.returncode} ({last}); {remedy}"
		) from None
	wrong = [row for row in found["results"] if not row["ok"]]
	if wrong:
		listed = "; ".join(f"{row['path']} in {row['dtype']} at {tuple(row['shape'])}" for row in wrong[:3])
		raise ToolError(
			f"{found['device']}: {len(wrong)} of {len(found['results'])} comparisons of the GPU kernels with their "
			f"definition failed ({listed}); {remedy}"
		)
	record.parent.mkdir(parents=True, exist_ok=True)
	write_json(record, found)


def _kernels_record() -> Path:
	"""Where the outcome for this machine, these kernels and these versions is kept."""
	import torch

	import cherimoya.kernels

	digest = hashlib.sha256()
	for source in sorted(Path(cherimoya.kernels.__file__).parent.glob("*.py")):
		digest.update(source.read_bytes())
	gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
	triton = version("triton") if find_spec("triton") else "none"
	digest.update(f"{platform.node()} {gpu} {torch.__version__} {triton}".encode())
	return cache_folder() / f"kernels.{digest.hexdigest()[:16]}.json"


def _open_genome(settings: PipelineSettings) -> "Genome":
	"""The genome, opened and indexed."""
	from cherimoya.io.genome import Genome

	return Genome(settings.sequences, chrom_aliases=settings.chrom_aliases)


def _check_reads(active: Sequence[Step], genome: "Genome", checks: _Checks) -> None:
	"""Read the first rows of each file of reads as the steps will."""
	from cherimoya_cli.peaks import planned_call

	before = len(checks.errors)
	tried: set[str] = set()
	for step in (step for step in active if step.name in ("peaks", "signals")):
		found = conversions(step.settings)
		for files, values in (part for parts in found.values() for part in parts):
			for path in (path for path in files if path not in tried):
				tried.add(path)
				checks.once(("reads", path, values["fragments"]), _check_read_file, path, values, genome)
		good = len(checks.errors) == before
		for i, (files, values) in enumerate(found["signals"] if step.name == "peaks" and good else ()):
			checks.attempt(planned_call, values, [*files, *controls_of(i, step.settings)])


def _check_read_file(path: str, values: Mapping[str, Any], genome: "Genome") -> None:
	"""Read the first rows of a file of reads; InputError if they cannot be used or name no chromosome of the FASTA."""
	detect_layout(path)
	if is_remote(path):  # what is streamed is read once
		return
	account = ReadAccounting(path, "")
	rows = iterate_reads(
		path,
		genome.chrom_sizes,
		fragments=values["fragments"],
		accounting=account,
		sequences=values["sequences"],
		names=genome.names,
		rows=ROWS_TRIED,
	)
	used = sum(len(chunk.chrom) for chunk in rows)
	if used or not account.unknown:
		return
	# Reads are sorted: the first rows may lie on one contig that the FASTA leaves out for good reasons.
	if alike(account.unknown, genome.chrom_sizes):
		raise InputError(f"{path}: {describe_naming(account.unknown, genome.chrom_sizes)}")


def _check_tracks(active: Sequence[Step], made: set[str], genome: "Genome", checks: _Checks) -> None:
	"""Open the bigWigs that no step makes, and compare their chromosomes with the FASTA's."""
	seen = set()
	for step in (step for step in active if step.name not in ("peaks", "signals")):
		for key in ("signals", "controls"):
			paths = tuple(path for group in read_groups(step.settings.get(key)) for path in group if path not in made)
			for path in (path for path in paths if path not in seen):
				seen.add(path)
				checks.once(("track", path), _check_track, path, genome)


def _check_track(path: str, genome: "Genome") -> None:
	"""Open a bigWig, and compare its chromosomes with the FASTA's."""
	from cherimoya.io.tracks import Tracks, check_streams

	if is_remote(path):
		check_streams(path)
		return
	tracks = Tracks([path], names=genome.names)
	tracks.check_sizes(genome.chrom_sizes, genome.name)
	if not genome.chrom_sizes.keys() & tracks.chrom_sizes.keys():
		raise InputError(
			f"{path}: none of its chromosomes ({_some(tracks.chrom_sizes)}) is in {genome.name} "
			f"({_some(genome.chrom_sizes)}); {_remedy(tracks.chrom_sizes, genome)}"
		)


def _remedy(names: Iterable[str], genome: "Genome") -> str:
	"""What to do about a file that shares no chromosome with the FASTA."""
	return REMEDY if alike(names, genome.chrom_sizes) else "use files of one assembly"


def _read_loci(key: str, paths: list[str], summits: bool, genome: "Genome") -> "Loci":
	"""Loci, negatives or exclusion regions; InputError if none lies on the FASTA's chromosomes (exclusions may)."""
	from cherimoya.io.loci import read_loci
	from cherimoya.io.windows import exclusions_of

	if key == "exclusion_lists":
		return exclusions_of(genome, paths)
	loci = read_loci(paths, summits=summits).renamed(genome.names)
	names = dict.fromkeys(loci.chroms.tolist())
	if not names.keys() & genome.chrom_sizes.keys():
		raise InputError(
			f"{', '.join(paths)}: none of the {len(loci):,} loci is on a chromosome of the FASTA: they are on "
			f"{_some(names)}, and the FASTA has {_some(genome.chrom_sizes)}; {_remedy(names, genome)}"
		)
	n_past, first = _past_ends(loci, genome)
	if n_past == len(loci):
		raise InputError(
			f"{', '.join(paths)}: all {len(loci):,} loci begin past the ends of their chromosomes (first: {first}); "
			"they are of another assembly than the FASTA"
		)
	return loci


def _look_at_loci(key: str, paths: list[str], summits: bool, genome: "Genome") -> "tuple[Loci, list[str]]":
	"""Loci, and what makes one doubt that they are of this genome."""
	loci = _read_loci(key, paths, summits, genome)
	return loci, list(_doubts(loci, genome))


def _past_ends(loci: "Loci", genome: "Genome") -> tuple[int, str]:
	"""How many loci begin past the end of their chromosome, and where the first of them is.

	MACS3 lets peaks end past it, by no more than it shifts and extends reads.
	"""
	import numpy as np

	past = np.flatnonzero(loci.starts >= np.array([genome.chrom_sizes.get(chrom, np.inf) for chrom in loci.chroms]))
	if not len(past):
		return 0, ""
	chrom, start, end = loci.chroms[past[0]], loci.starts[past[0]], loci.ends[past[0]]
	return len(past), f"{chrom}:{start:,}-{end:,}, and {chrom} has {genome.chrom_sizes[chrom]:,} bp"


def _doubts(loci: "Loci", genome: "Genome") -> Iterator[str]:
	"""What makes one doubt that loci, or exclusions, are of this genome, a sentence for each of their files."""
	for i, path in enumerate(loci.files):
		part = loci[loci.file_index == i]
		n_past, first = _past_ends(part, genome)
		if n_past:
			yield (
				f"{path}: {n_past:,} of {len(part):,} intervals begin past the end of their chromosome (first: "
				f"{first}); are they of the FASTA's assembly?"
			)
		elif not set(part.chroms.tolist()) & genome.chrom_sizes.keys():
			yield (
				f"{path}: none of its chromosomes ({_some(dict.fromkeys(part.chroms.tolist()))}) is in {genome.name} "
				f"({_some(genome.chrom_sizes)}), so it has no effect"
			)


def _check_splits(settings: PipelineSettings, step: Step, loci: "Loci", genome: "Genome") -> None:
	"""SettingsError when a split has no locus whose window lies in it."""
	import numpy as np

	from cherimoya.io.loci import midpoints
	from cherimoya_cli.splits import as_json, parse_places, propose_split, rename_places

	values = step.settings
	mids = midpoints(loci, summits=values["summits"])
	starts = mids - values["in_window"] // 2
	ends = starts + values["in_window"]
	sizes = np.array([genome.chrom_sizes.get(chrom, -1) for chrom in loci.chroms])
	empty = []
	for key in SPLITS.values():
		inside = np.zeros(len(loci), dtype=bool)
		for place in parse_places(rename_places(values[key] or [], genome.names))[0]:
			last = np.minimum(sizes, place.end)
			inside |= (loci.chroms == place.chrom) & (starts >= place.start) & (ends <= last)
		if values[key] and not inside.any() and not (step.name == "evaluate" and key == "training_chroms"):
			empty.append(f"{key} ({_some(values[key])})")
	if empty:
		split = propose_split({chrom: size for chrom, size in genome.chrom_sizes.items() if chrom in set(loci.chroms)})
		raise SettingsError(
			f"{settings.source}: no locus of {', '.join(values['loci'])} is in {' or in '.join(empty)} with its whole "
			f"window of {values['in_window']:,} bp; a split of the chromosomes that have loci would be: "
			f"{as_json(split)}"
		)


def _check_model(settings: PipelineSettings, active: Sequence[Step], checks: _Checks) -> None:
	"""Load a model that was given, and compare it with the settings of the steps that use it."""
	from cherimoya import Cherimoya
	from cherimoya_cli.measuring import check_model_fits

	if is_remote(str(settings.model)):
		return
	model = checks.once(("model", settings.model), Cherimoya.load, settings.model)
	if model is None:
		return
	for step in active:
		values = dict(step.settings)
		if step.name in ("marginalize", "variants") and values["model"] == settings.model:
			# They read no tracks, and zeros stand in for controls.
			values["signals"] = [["?"] * channels for channels in model.signal_groups]
			values["controls"] = ["?"] * model.n_control_tracks or None
		elif step.name != "evaluate":  # whose windows and tracks predict and attribute share
			continue
		checks.attempt(partial(check_model_fits, source=settings.model), model, SimpleNamespace(**values))


def _some(names: Iterable[str], most: int = 4) -> str:
	"""The first few names."""
	names = list(names)
	return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


# ---- the machine ------------------------------------------------------------------------------------


BYTES_PER_TILE = 200
"""What a prediction over regions holds of a tile while it is not at work on it: where it lies, and what is left out."""


def count_tiles(values: Mapping[str, Any], genome: "Genome") -> int:
	"""The tiles of the regions of a prediction, those too that unknown bases or exclusions will leave out.

	Raises
	------
	InputError
		A region is not on the genome.
	"""
	from cherimoya.io.tiling import check_overlap, spans_to_tile, tile_starts

	width = values["out_window"]
	overlap = check_overlap(values["overlap"], width)
	spans, _ = spans_to_tile(values["regions"], genome, in_window=values["in_window"], out_window=width)
	return sum(len(tile_starts(span.start, span.end, width, overlap)) for span in spans)


def estimate_needs(
	active: Sequence[Step], device: str, n_loci: Mapping[tuple[str, ...], int], *, n_tiles: int = 0
) -> Needs:
	"""Disk and memory that the steps take, from above: sizes of files, numbers of loci, and the shape of the model.

	Parameters
	----------
	active: sequence of Step
		The steps that will run.
	device: str
		The device; on "cpu" the activations of training take the machine's memory.
	n_loci: dict
		Number of loci in each list of files that is known already.
	n_tiles: int
		Tiles of the regions to predict, if predict has regions. Default is 0.
	"""
	from cherimoya.io.storage import estimate_bytes

	disk = memory = 0
	for step in active:
		values = step.settings
		n = _count_loci(values, n_loci)
		if step.name in ("peaks", "signals"):
			files = [path for key in ("signals", "controls") for group in read_groups(values[key]) for path in group]
			size = sum(Path(path).stat().st_size for path in files if Path(path).is_file())
			disk += (8 if step.name == "peaks" else 3) * size  # plain text of gzipped or binary reads; counts at 1 bp
			memory = max(memory, 8 * size)
		channels = sum(len(group) for group in read_groups(values.get("signals")))
		over_regions = values.get("regions") is not None
		if step.name in ("fit", "evaluate", "predict", "attribute") and not over_regions:
			windows = estimate_bytes(
				n,
				in_window=values["in_window"],
				out_window=values["out_window"],
				max_jitter=values.get("max_jitter", 0),
				n_signals=channels,
				n_controls=sum(len(group) for group in read_groups(values.get("controls"))),
				cache=values.get("cache"),
			)
			memory = max(memory, windows.memory)
		if step.name == "fit" and device == "cpu":
			layer = 4 * values["batch_size"] * values["in_window"] * values["n_filters"]  # bytes of its activations
			memory = max(memory, windows.memory + layer * (2 * (1 + values["expansion"]) * values["n_layers"] + 4))
		if step.name in ("seqlets", "motifs"):
			memory = max(memory, _memory_on_motifs(step, active, n_loci))
		if over_regions:
			tiles = _needs_of_tiles(values, n_tiles)
			disk, memory = disk + tiles.disk, max(memory, tiles.memory)
		elif step.name == "predict":
			disk += 16 * n * channels * values["out_window"]  # twice: the finished chunks, and then the results
		if step.name == "attribute":
			disk += 11 * 4 * min(n, values["max_loci"] or n) * (values["attr_window"] or values["in_window"])
	return Needs(disk, memory, device)


def _needs_of_tiles(values: Mapping[str, Any], n: int) -> Needs:
	"""Disk and memory of a prediction over regions, which reads and holds a chunk of tiles at a time."""
	from cherimoya_cli.chunks import chunk_length

	channels, controls = (sum(len(group) for group in read_groups(values[key])) for key in ("signals", "controls"))
	results = 4 * max(1, channels) * values["out_window"]  # bytes of a tile's logits
	chunk = min(n, chunk_length(values["chunk_size"], values["batch_size"], passes=1, n_bytes=results))
	held = values["in_window"] * (1 + 4 * controls) + 3 * results
	arrays = values["output_format"] in ("npz", "hdf5")
	# The finished chunks; then the bigWigs, of at most half, and the arrays with what was observed, if wanted.
	return Needs((4 if arrays else 2) * n * results, n * BYTES_PER_TILE + chunk * held, "")


BYTES_PER_SEQLET = 10_000
"""What TF-MoDISco holds of one seqlet: its matrices, and how near it is to hundreds of others."""


def _memory_on_motifs(step: Step, active: Sequence[Step], n_loci: Mapping[tuple[str, ...], int]) -> int:
	"""Bytes that finding seqlets or motifs takes, by the windows that attribute will leave; 0 if it has left them."""
	attribute = next((other for other in active if other.name == "attribute"), None)
	if attribute is None:
		return 0
	values = attribute.settings
	n = min(_count_loci({**values, "negatives": None}, n_loci), values["max_loci"] or sys.maxsize)
	bases = n * (values["attr_window"] or values["in_window"])
	if step.name == "seqlets":
		return 40 * bases
	return 100 * bases + BYTES_PER_SEQLET * min(2 * step.settings["n_seqlets"], bases // 20)


def _count_loci(values: Mapping[str, Any], n_loci: Mapping[tuple[str, ...], int]) -> int:
	"""Loci, and background loci, whose windows a step holds at once."""
	keys = [*SPLIT_LOCI.values()] if values.get("training_loci") is not None else ["loci"]
	return sum(n_loci.get(tuple(values.get(key) or ()), 0) for key in (*keys, "negatives"))


def _check_machine(settings: PipelineSettings, needs: Needs) -> None:
	"""InputError when the disk or the memory is too small."""
	problems = []
	folder = output_folder(settings.name)
	while not folder.exists():
		folder = folder.parent
	free = shutil.disk_usage(folder).free
	if needs.disk > free:
		problems.append(
			f"{folder}: the run needs about {needs.disk / GIGABYTE:.1f} GB of disk, and {free / GIGABYTE:.1f} GB are "
			"free; free some, or choose another folder in name"
		)
	memory = available_memory()
	if memory is not None and needs.memory > memory:
		problems.append(
			f"{settings.source}: the run needs about {needs.memory / GIGABYTE:.1f} GB of memory, and "
			f"{memory / GIGABYTE:.1f} GB are free; lower fit_parameters.batch_size, n_filters or max_jitter, or use "
			"fewer loci"
		)
	if problems:
		raise InputError(join_problems(problems))
