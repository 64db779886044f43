"""``cherimoya variants``: the effects of variants on the predictions of trained models."""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from cherimoya.errors import InputError, SettingsError
from cherimoya_cli.chunks import (
	Parts,
	Shard,
	add_chunk_arguments,
	at_work,
	chunk_flags,
	chunk_length,
	draw_seed,
	stopping_soon,
	work_through,
)
from cherimoya_cli.inference import Progress, check_outputs, load_model, model_path, publish_together
from cherimoya_cli.measuring import accounting_path, write_accounting
from cherimoya_cli.resuming import content_of, identity_of
from cherimoya_cli.utils import resolve_device, say, settings_from_args, warn

if TYPE_CHECKING:
	from collections.abc import Callable

	import numpy as np
	import torch

	from cherimoya import Cherimoya
	from cherimoya.interpret.variants import Reservoir
	from cherimoya.io.genome import Genome
	from cherimoya.io.variants import Allele, Record, VariantFile
	from cherimoya.io.windows import Accounting

_READ = 4_096  # alleles that are read and checked together
_EXAMPLES = 3  # skipped alleles of each kind that are named
_SUSPICIOUS = 0.05  # the share of mismatches from which on the wrong genome is suspected
_BESIDE_RESULTS = frozenset({"name", "tsv_filename", "vcf_filename", "model", "models"})
_INFO = "CHERIMOYA_"
_MEANINGS = {
	"log2fc_counts": "log2 fold change of (1 + predicted counts), alternate over reference",
	"jsd_profile": "Jensen-Shannon divergence of the predicted profiles in nats",
	"l1_profile": "Sum of absolute differences of the predicted profiles",
	"ref_counts": "Predicted counts with the reference allele",
	"alt_counts": "Predicted counts with the alternate allele",
}


class Loaded(NamedTuple):
	"""What scoring needs: models with the names of their files, variants, genome, and the output window in bp."""

	models: "list[Cherimoya]"
	paths: list[str]
	variants: "VariantFile"
	genome: "Genome"
	out_window: int

	@property
	def n_groups(self) -> int:
		"""G, the signal groups of the models."""
		return len(self.models[0].signal_groups)


class Survey(NamedTuple):
	"""What the file holds: its alleles, where they go, and a sample of those that can be scored."""

	n: int
	accounting: "Accounting"
	examples: dict[str, list[str]]
	drawn: "Reservoir | None"


def add_arguments(parser: argparse.ArgumentParser) -> None:
	"""The flags of this command alone."""
	add_chunk_arguments(parser, "variants")


def run(args: argparse.Namespace) -> int:
	"""Load models and variants, score in chunks, write; returns the exit code."""
	settings = settings_from_args("variants", args, flags=chunk_flags(args))
	folder = f"{settings.name}.variants.parts"
	if settings.n_background is not None:
		draw_seed(settings, folder, merge=args.merge)
	check_outputs(settings, outputs(vars(settings)))
	check_inputs_kept(settings)
	device = resolve_device(settings.device)
	loaded = load(settings, device)
	survey = look_through(loaded, settings)
	tell(survey, loaded)
	parts = Parts(folder, "variants", identity(loaded, settings), device, what=("allele", "alleles"))
	shard, unit = Shard.of(settings.shard), alleles_at_a_time()
	with at_work(parts, shard, merge=args.merge):
		rows = shard.rows(survey.n, unit)
		if args.merge:
			parts.check_whole(survey.n, unit)
		else:
			parts.take_over(settings.resume, rows, alone=shard.count == 1)
		background = compare_with(loaded, survey, parts, settings)
		if not args.merge:
			compute(loaded, parts, rows, settings)
			if shard.count > 1:
				say(f"Shard {shard}: {len(rows):,} of {survey.n:,} alleles are done; once all are, run with --merge")
				return 0
		write(loaded, survey, parts, background, settings)
		parts.clear()
	return 0


def outputs(values: Mapping[str, Any]) -> list[str]:
	"""The files that the command leaves, from its settings: the table, the account, and the VCF where one is wanted."""
	name = values["name"]
	paths = [values["tsv_filename"] or f"{name}.variants.tsv", accounting_path(name, "variants")]
	return [*paths, values["vcf_filename"]] if values["vcf_filename"] else paths


def check_inputs_kept(settings: Any) -> None:
	"""SettingsError when an output would take the place of the variants."""
	for path in outputs(vars(settings)):
		if os.path.exists(path) and os.path.samefile(path, settings.variants):
			raise SettingsError(
				f"{settings.source}: {path} is the file of variants itself; give the output another name"
			)


def load(settings: Any, device: "torch.device") -> Loaded:
	"""The models, checked against each other and the windows, the variants and the genome."""
	from cherimoya.interpret.variants import check_models
	from cherimoya.io.genome import Genome
	from cherimoya.io.variants import VariantFile

	variants = VariantFile(settings.variants)
	paths = settings.models or [model_path(settings)]
	models = [load_model(settings.model_copy(update={"model": path}), device) for path in paths]
	out_window = check_models(models, settings.in_window, paths)
	if out_window != settings.out_window:
		cut = models[0].trimming
		raise InputError(
			f"{paths[0]}: this model cuts {cut} bp from each side, so an in_window of {settings.in_window} bp gives "
			f"{out_window} bp, and out_window is {settings.out_window}; set in_window to "
			f"{settings.out_window + 2 * cut}, or out_window to {out_window}"
		)
	if controlled := [path for path, model in zip(paths, models, strict=True) if model.n_control_tracks]:
		say(f"{', '.join(controlled)}: trained with control tracks, of which every value is taken as 0")
	genome = Genome(settings.sequences, chrom_aliases=settings.chrom_aliases)
	return Loaded(models, paths, variants, genome, out_window)


def look_through(loaded: Loaded, settings: Any) -> Survey:
	"""Check every line and every allele of the file before any is scored.

	Raises
	------
	InputError
		Lines are malformed, or there is nothing to score.
	"""
	from cherimoya.interpret.variants import REASONS, SCORED, Reservoir, check_alleles
	from cherimoya.io.windows import Accounting

	counts = dict.fromkeys((SCORED, *REASONS), 0)
	examples: dict[str, list[str]] = {}
	drawn = Reservoir(settings.n_background, settings.random_state) if settings.n_background else None
	source = loaded.variants.alleles()
	while alleles := list(islice(source, _READ)):
		status = check_alleles(alleles, loaded.genome, in_window=settings.in_window, out_window=loaded.out_window)
		for allele, text in zip(alleles, status, strict=True):
			counts[text] += 1
			if text != SCORED and len(named := examples.setdefault(text, [])) < _EXAMPLES:
				named.append(str(allele))
		if drawn is not None:
			drawn.update(allele for allele, text in zip(alleles, status, strict=True) if text == SCORED)
	n, kept = sum(counts.values()), counts.pop(SCORED)
	survey = Survey(n, Accounting(n, kept, counts), examples, drawn)
	if not kept:
		raise InputError(_nothing_left(survey, loaded))
	return survey


def tell(survey: Survey, loaded: Loaded) -> None:
	"""Say where the alleles go, and name some of those that are skipped."""
	from cherimoya.interpret.variants import MISMATCH, SWAPPED

	say(survey.accounting.table("Alleles to score"))
	for reason, named in survey.examples.items():
		more = survey.accounting.dropped[reason] - len(named)
		say(f"  {reason}: {', '.join(named)}" + (f" and {more:,} more" if more else ""))
	away = survey.accounting.dropped[MISMATCH] + survey.accounting.dropped[SWAPPED]
	if away > _SUSPICIOUS * (away + survey.accounting.kept):
		warn(
			f"note: {loaded.variants.path}: {away:,} of the reference alleles differ from {loaded.genome.name}; "
			"the variants may be of another assembly of the genome"
		)


def _nothing_left(survey: Survey, loaded: Loaded) -> str:
	"""Why no allele can be scored, in words."""
	from cherimoya.interpret.variants import MISMATCH, SWAPPED, UNKNOWN_CHROM
	from cherimoya.io.names import REMEDY

	if not survey.n:
		return f"{loaded.variants.path}: holds no variants below its header; give a file with at least one"
	dropped = survey.accounting.dropped
	reason = max(dropped, key=dropped.get)
	hint = "give variants that replace known bases, far enough from the ends of chromosomes"
	if reason == UNKNOWN_CHROM:
		ours = ", ".join(list(loaded.genome.chrom_sizes)[:3])
		hint = f"the chromosomes of {loaded.genome.name} are {ours} and so on; {REMEDY}"
	elif reason in (MISMATCH, SWAPPED):
		hint = f"give the assembly of the genome that the variants are of, or variants of {loaded.genome.name}"
	found = ", ".join(f"{text}: {n:,}" for text, n in dropped.items() if n)
	first = survey.examples[reason][0]
	return f"{loaded.variants.path}: none of its {survey.n:,} alleles can be scored ({found}; first: {first}); {hint}"


def identity(loaded: Loaded, settings: Any) -> dict[str, Any]:
	"""All that decides the scores, files by their contents."""
	import torch

	from cherimoya import __version__

	unused = frozenset() if settings.n_background else frozenset({"random_state"})
	return {
		**identity_of(settings, left_out=_BESIDE_RESULTS | unused),
		"models": [content_of(path) for path in loaded.paths],
		"versions": {"cherimoya": __version__, "torch": str(torch.__version__)},
	}


def alleles_at_a_time() -> int:
	"""How many neighbouring alleles share batches, so that a chunk is to hold all of them."""
	from cherimoya.interpret.variants import BLOCK

	return BLOCK


def compare_with(loaded: Loaded, survey: Survey, parts: Parts, settings: Any) -> "np.ndarray | None":
	"""The scores of the background, which are the same for all shards; None without one."""
	if survey.drawn is None:
		return None
	from cherimoya.interpret.variants import background_scores

	def compute_all(advance: "Callable[[int, int], None]") -> "np.ndarray":
		return background_scores(
			loaded.models,
			survey.drawn,
			loaded.genome,
			random_state=settings.random_state,
			progress=advance,
			**_options(settings),
		)

	def background() -> "np.ndarray":
		parts.begin()
		progress = Progress("background", "variants") if settings.verbose else None
		return stopping_soon(compute_all, progress, settings.n_background)

	return parts.ranking(background)


def compute(loaded: Loaded, parts: Parts, rows: range, settings: Any) -> None:
	"""Leave parts with the scores of some of the alleles."""
	import numpy as np

	from cherimoya.interpret.variants import REASONS, SCORED, check_alleles, mean_and_spread, score_alleles

	codes = {text: code for code, text in enumerate((SCORED, *REASONS))}
	window = {"in_window": settings.in_window, "out_window": loaded.out_window}
	source = _Cursor(loaded.variants)

	def compute_some(rows: range, advance: "Callable[[int, int], None]") -> "dict[str, np.ndarray]":
		alleles = source.take(rows)
		status = check_alleles(alleles, loaded.genome, **window)
		scores = score_alleles(
			loaded.models, alleles, loaded.genome, status=status, progress=advance, **_options(settings)
		)
		mean, spread = mean_and_spread(scores)
		arrays = {"status": np.array([codes[text] for text in status], dtype=np.uint8), "mean": mean}
		return arrays if spread is None else {**arrays, "spread": spread}

	passes = 2 * len(loaded.models) * (1 + settings.reverse_complement_average)
	n_bytes = 2 * 8 * 5 * loaded.n_groups
	length = chunk_length(settings.chunk_size, alleles_at_a_time(), passes=passes, n_bytes=n_bytes)
	progress = Progress("variants", "alleles") if settings.verbose else None
	work_through(parts, rows, length, compute_some, count=len, progress=progress)


def _options(settings: Any) -> dict[str, Any]:
	"""How the models are run."""
	keys = ("in_window", "reverse_complement_average", "batch_size", "dtype")
	return {key: getattr(settings, key) for key in keys}


class _Cursor:
	"""Goes through the alleles of a file, which is read once if rows are asked for in order."""

	def __init__(self, variants: "VariantFile") -> None:
		self.variants, self.at, self.alleles = variants, 0, variants.alleles()

	def take(self, rows: range) -> "list[Allele]":
		"""The alleles of some rows."""
		if rows.start < self.at:
			self.at, self.alleles = 0, self.variants.alleles()
		found = list(islice(self.alleles, rows.start - self.at, rows.stop - self.at))
		self.at = rows.stop
		return found


# ---- what is written --------------------------------------------------------------------------------


def score_columns(n_groups: int, *, spread: bool, background: bool) -> list[str]:
	"""The names of the columns of scores.

	For each signal group the scores, the standard deviations over models, and the percentiles; the group's number,
	from 0, follows where there are several: ``log2fc_counts``, ``log2fc_counts_sd``, ``log2fc_counts_percentile.1``.
	"""
	from cherimoya.interpret.variants import RANKED, SCORES

	columns = []
	for group in range(n_groups):
		names = [*SCORES]
		names += [f"{name}_sd" for name in SCORES] if spread else []
		names += [f"{name}_percentile" for name in SCORES[:RANKED]] if background else []
		columns += [f"{name}.{group}" if n_groups > 1 else name for name in names]
	return columns


class Row(NamedTuple):
	"""What is written of an allele: its status, and the texts of its scores, empty where there are none."""

	status: str
	scores: list[str]


def rows_to_write(loaded: Loaded, n: int, parts: Parts, background: "np.ndarray | None") -> Iterator[Row]:
	"""The rows of all alleles, in their order."""
	import numpy as np

	from cherimoya.interpret.variants import REASONS, SCORED, percentiles_of

	words = (SCORED, *REASONS)
	names = ("status", "mean", "spread") if len(loaded.models) > 1 else ("status", "mean")
	for _, (codes, mean, *spread) in parts.read(n, *names):
		arrays = [mean, *spread]
		if background is not None:
			arrays.append(percentiles_of(mean, background))
		values = np.concatenate(arrays, axis=-1).reshape(len(codes), -1)  # (n, G, s) -> (n, G * s)
		for code, scores in zip(codes.tolist(), values.tolist(), strict=True):
			yield Row(words[code], [f"{score:.6g}" if code == 0 else "" for score in scores])


def write(loaded: Loaded, survey: Survey, parts: Parts, background: "np.ndarray | None", settings: Any) -> None:
	"""The table, the account and the VCF, which appear together when all are complete."""
	from cherimoya.io.variants import open_output

	paths = outputs(vars(settings))
	columns = score_columns(loaded.n_groups, spread=len(loaded.models) > 1, background=background is not None)
	with publish_together(paths) as temporary:
		with open_output(temporary[0], compressed=paths[0].endswith(".gz")) as file:
			file.write("\t".join(["chrom", "pos", "id", "ref", "alt", "status", *columns]) + "\n")
			rows = rows_to_write(loaded, survey.n, parts, background)
			for (chrom, *rest), row in zip(loaded.variants.alleles(), rows, strict=True):
				file.write("\t".join([chrom, *map(str, rest), row.status, *row.scores]) + "\n")
		write_accounting(temporary[1], {"variants": survey.accounting})
		if settings.vcf_filename:
			with open_output(temporary[2], compressed=paths[2].endswith(".gz")) as file:
				file.writelines(f"{line}\n" for line in vcf_header(loaded, columns))
				rows = rows_to_write(loaded, survey.n, parts, background)
				for record in loaded.variants:
					of_record = list(islice(rows, len(record.alleles)))
					file.write(vcf_line(record, of_record, columns, is_vcf=loaded.variants.is_vcf) + "\n")
	say(f"Wrote the scores of {survey.accounting.kept:,} of {survey.n:,} alleles to {', '.join(paths)}")


def vcf_header(loaded: Loaded, columns: Sequence[str]) -> list[str]:
	"""The lines above the variants: those of the file without what an earlier run added, and one for each score."""
	variants = loaded.variants
	if variants.is_vcf:
		meta = [line for line in variants.header[:-1] if not line.startswith(f"##INFO=<ID={_INFO}")]
		names = variants.header[-1].split("\t")
		names += ["QUAL", "FILTER", "INFO"][len(names) - 5 :] if len(names) < 8 else []
	else:
		meta = ["##fileformat=VCFv4.3"]
		meta += [f"##contig=<ID={chrom},length={size}>" for chrom, size in loaded.genome.chrom_sizes.items()]
		names = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO"]
	added = [f'##INFO=<ID={_INFO}STATUS,Number=A,Type=String,Description="Scored, or why the allele is not">']
	for column in columns:
		added.append(f'##INFO=<ID={_info_key(column)},Number=A,Type=Float,Description="{_meaning(column)}">')
	return [*meta, *added, "\t".join(names)]


def vcf_line(record: "Record", rows: Sequence[Row], columns: Sequence[str], *, is_vcf: bool) -> str:
	"""A variant with the scores of its alleles among its INFO."""
	if is_vcf:
		fields = [*record.fields, *["."] * (8 - len(record.fields))]
	else:
		first = record.alleles[0]
		alts = ",".join(allele.alt for allele in record.alleles)
		fields = [first.chrom, str(first.position), first.name, first.ref, alts, ".", ".", "."]
	info = [text for text in fields[7].split(";") if text not in ("", ".") and not text.startswith(_INFO)]
	info.append(
		f"{_INFO}STATUS={','.join(row.status.replace(', ', ',').replace(',', '/').replace(' ', '_') for row in rows)}"
	)
	for k, column in enumerate(columns):
		if any(row.scores[k] for row in rows):
			info.append(f"{_info_key(column)}={','.join(row.scores[k] or '.' for row in rows)}")
	fields[7] = ";".join(info)
	return "\t".join(fields)


def _info_key(column: str) -> str:
	"""The key of a column among a VCF's INFO."""
	return _INFO + column.upper()


def _meaning(column: str) -> str:
	"""What a column of scores holds, in words."""
	name, _, group = column.partition(".")
	base = next(score for score in _MEANINGS if name.startswith(score))
	kind = {"": "", "_sd": ", standard deviation over models", "_percentile": ", percentile among shuffled windows"}
	return _MEANINGS[base] + kind[name.removeprefix(base)] + (f", signal group {group}" if group else "")
