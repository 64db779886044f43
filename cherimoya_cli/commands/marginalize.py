"""``cherimoya marginalize``: the effect of each motif of a database on the predictions for background loci."""

import argparse
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cherimoya.errors import CherimoyaError, InputError, SettingsError
from cherimoya_cli.chunks import (
	Parts,
	Shard,
	add_chunk_arguments,
	at_work,
	chunk_flags,
	chunk_length,
	draw_seed,
	identity_of_results,
	stopping_soon,
	work_through,
)
from cherimoya_cli.inference import Progress, check_outputs, load_model, model_path
from cherimoya_cli.measuring import accounting_path, write_accounting
from cherimoya_cli.utils import resolve_device, say, settings_from_args, warn

if TYPE_CHECKING:
	from collections.abc import Callable

	import numpy as np
	import torch

	from cherimoya import Cherimoya
	from cherimoya.interpret.predict import Prediction
	from cherimoya.io.motifs import Motif
	from cherimoya.io.windows import Accounting, Windows
	from cherimoya_cli.marginalize_page import Results

FILES = ("marginalize.tsv", "index.html")
"""What the folder of results holds."""
BLANK = "no informative position"
"""Why a motif is left out."""
_FEW = 10  # backgrounds below which an average says little
_NAMED = 3


class Loaded(NamedTuple):
	"""What the work needs: the model, the M motifs that can be put in, and the n drawn backgrounds as base codes.

	`windows` are all background loci that can be used, and `accounts` say what became of loci and of motifs.
	"""

	model: "Cherimoya"
	motifs: "list[Motif]"
	codes: "np.ndarray"
	windows: "Windows"
	accounts: "dict[str, Accounting]"

	@property
	def n_groups(self) -> int:
		"""G, the signal groups of the model."""
		return len(self.model.signal_groups)


def add_arguments(parser: argparse.ArgumentParser) -> None:
	"""The flags of the command."""
	add_chunk_arguments(parser, "marginalize")


def outputs(values: Mapping[str, Any]) -> list[str]:
	"""The files that the command leaves, by its settings: the table and the page, and the account."""
	folder = results_folder(values["name"], values.get("output_filename"))
	return [*(f"{folder}/{name}" for name in FILES), accounting_path(values["name"], "marginalize")]


def results_folder(name: str, output_filename: str | None) -> str:
	"""The folder of the table and the page."""
	return (output_filename or f"{name}_marginalize").rstrip("/") or "/"


def run(args: argparse.Namespace) -> int:
	"""Load a model, motifs and background loci, put each motif into each, write; returns the exit code."""
	settings = settings_from_args("marginalize", args, flags=chunk_flags(args))
	folder = f"{settings.name}.marginalize.parts"
	draw_seed(settings, folder, merge=args.merge)
	check_folder(settings)
	device = resolve_device(settings.device)
	loaded = load(settings, device)
	identity = identity_of_results(settings, loaded.windows, unused=frozenset({"output_filename"}))
	parts = Parts(folder, "marginalize", identity, device, what=("motif", "motifs"))
	shard, unit, n = Shard.of(settings.shard), motifs_at_a_time(loaded), len(loaded.motifs)
	with at_work(parts, shard, merge=args.merge):
		rows = shard.rows(n, unit)
		if args.merge:
			parts.check_whole(n, unit)
		else:
			parts.take_over(settings.resume, rows, alone=shard.count == 1)
			compute(loaded, parts, rows, settings)
			if shard.count > 1:
				say(f"Shard {shard}: {len(rows):,} of {n:,} motifs are done; once all are, run with --merge")
				return 0
		write(loaded, parts, settings)
		parts.clear()
	return 0


def check_folder(settings: Any) -> None:
	"""Refuse, before any work, a place where the folder of results cannot be."""
	folder = results_folder(settings.name, settings.output_filename)
	if os.path.exists(folder) and not os.path.isdir(folder):
		raise SettingsError(
			f"{settings.source}: {folder} is a file, and marginalize writes a folder of this name; choose another in "
			"output_filename"
		)
	paths = outputs(settings.model_dump())
	check_outputs(settings, [folder, paths[-1], *(path for path in paths[:-1] if os.path.isdir(folder))])


# ---- what is read -----------------------------------------------------------------------------------


def load(settings: Any, device: "torch.device") -> Loaded:
	"""The model, the motifs and the backgrounds, checked against each other."""
	from cherimoya.interpret.marginalize import draw_backgrounds
	from cherimoya.io.motifs import read_motifs, require_memelite

	require_memelite("marginalize")
	given = read_motifs(settings.motifs)
	model = load_model(settings, device)
	check_out_window(settings, model)
	motifs, of_motifs = usable(given, settings)
	if model.n_control_tracks:
		say(f"{model_path(settings)}: trained with control tracks, of which every value is taken as 0")
	windows, of_loci = load_backgrounds(settings)
	seed = settings.random_state or 0  # null where nothing is to be computed, as in check
	codes = draw_backgrounds(windows.codes, settings.n_loci, shuffle=settings.shuffle, random_state=seed)
	return Loaded(model, motifs, codes, windows, {"loci": of_loci, "motifs": of_motifs})


def check_out_window(settings: Any, model: "Cherimoya") -> None:
	"""InputError when the model makes another output window of in_window than the settings say."""
	out_window = settings.in_window - 2 * model.trimming
	if out_window != settings.out_window:
		raise InputError(
			f"{model_path(settings)}: this model cuts {model.trimming} bp from each side, so an in_window of "
			f"{settings.in_window} bp gives {out_window} bp, and out_window is {settings.out_window}; set in_window to "
			f"{settings.out_window + 2 * model.trimming}, or out_window to {out_window}"
		)


def usable(motifs: "list[Motif]", settings: Any) -> "tuple[list[Motif], Accounting]":
	"""The motifs that have a position to put in, and the account of all.

	Raises
	------
	InputError
		None has, or one is longer than the output window.
	"""
	from cherimoya.interpret.marginalize import check_inserts, insert_of
	from cherimoya.io.windows import Accounting

	inserts = [insert_of(motif, settings.min_information) for motif in motifs]
	kept = [i for i, insert in enumerate(inserts) if (insert < 4).any()]
	blank = [str(motifs[i]) for i in sorted(set(range(len(motifs))) - set(kept))]
	accounting = Accounting(len(motifs), len(kept), {BLANK: len(blank)})
	say(accounting.table("Motifs"))
	if not kept:
		raise InputError(
			f"{settings.motifs}: none of its {len(motifs):,} motifs has a position of {settings.min_information:g} "
			"bits; lower min_information, or give motifs that say more"
		)
	if blank:
		more = f" and {len(blank) - _NAMED:,} more" if len(blank) > _NAMED else ""
		say(f"  {BLANK}: {', '.join(blank[:_NAMED])}{more}")
	chosen = [motifs[i] for i in kept]
	try:
		check_inserts(chosen, [inserts[i] for i in kept], settings.out_window)
	except InputError as error:
		raise InputError(f"{settings.motifs}: {error}") from None
	return chosen, accounting


def load_backgrounds(settings: Any) -> "tuple[Windows, Accounting]":
	"""All background windows that can be used, and the account of those that are."""
	import numpy as np

	from cherimoya.interpret.marginalize import drawn_rows
	from cherimoya.io.genome import Genome
	from cherimoya.io.windows import extract_windows

	windows = extract_windows(
		settings.loci,
		Genome(settings.sequences, chrom_aliases=settings.chrom_aliases),
		in_window=settings.in_window,
		out_window=settings.out_window,
		chroms=settings.chroms,
		summits=settings.summits,
		exclusion_lists=settings.exclusion_lists,
		verbose=settings.verbose,
		cache=settings.cache,
		progress=say if settings.verbose else None,
	)
	rows = drawn_rows(len(windows), settings.n_loci, settings.random_state or 0)
	accounting = windows.accounting
	if len(rows) < len(windows):
		left_out = np.setdiff1d(np.arange(len(windows)), rows)
		accounting = accounting.without(windows.loci[left_out], "beyond n_loci")
	say(accounting.table("Background loci"))
	if len(rows) < settings.n_loci:
		say(f"n_loci is {settings.n_loci:,}, and {len(rows):,} loci can be used: all of them are")
	if len(rows) < _FEW:
		warn(f"note: an average over {len(rows)} background loci depends much on which they are; 100 are usual")
	return windows, accounting


# ---- what is computed -------------------------------------------------------------------------------


def motifs_at_a_time(loaded: Loaded) -> int:
	"""How many neighbouring motifs share batches, so that a chunk is to hold all of them."""
	from cherimoya.interpret.marginalize import motifs_at_a_time

	return motifs_at_a_time(len(loaded.codes))


def compute(loaded: Loaded, parts: Parts, rows: range, settings: Any) -> None:
	"""Leave parts with the summaries, profiles and contributions of some of the motifs."""
	from cherimoya.interpret.marginalize import PROFILE_WINDOW, marginalize

	options = {"batch_size": settings.batch_size, "dtype": settings.dtype}
	widest = max(motif.pwm.shape[1] for motif in loaded.motifs)
	each = 2 * len(loaded.codes)  # sequences with a motif
	units = each * (1 + loaded.n_groups * settings.attributions)
	known: list[Prediction] = []

	def compute_some(rows: range, advance: "Callable[[int, int], None]") -> "dict[str, np.ndarray]":
		if not known:
			known.append(predict_backgrounds(loaded, settings))
		found = marginalize(
			loaded.model,
			loaded.motifs[rows.start : rows.stop],
			loaded.codes,
			without=known[0],
			min_information=settings.min_information,
			attributions=settings.attributions,
			progress=advance,
			**options,
		)
		arrays = {**found.summary(), "before": found.before, "after": found.after}
		return arrays if found.contributions is None else {**arrays, "contributions": widened(found, widest)}

	passes = each * (1 + 3 * loaded.n_groups * settings.attributions)
	n_bytes = 8 * PROFILE_WINDOW * loaded.model.n_outputs + 8 * loaded.n_groups * (16 + widest)
	length = chunk_length(settings.chunk_size, motifs_at_a_time(loaded), passes=passes, n_bytes=n_bytes)
	say(
		f"{len(rows):,} motifs, both ways round in {len(loaded.codes):,} backgrounds: {units * len(rows):,} predictions"
	)
	progress = Progress("marginalize") if settings.verbose else None
	work_through(parts, rows, length, compute_some, count=lambda some: units * len(some), progress=progress)


def predict_backgrounds(loaded: Loaded, settings: Any) -> "Prediction":
	"""The predictions without any motif."""
	from cherimoya import ControlWrapper
	from cherimoya.interpret.predict import predict

	model = ControlWrapper(loaded.model) if loaded.model.n_control_tracks else loaded.model
	return stopping_soon(
		lambda advance: predict(
			model, loaded.codes, batch_size=settings.batch_size, dtype=settings.dtype, progress=advance
		),
		Progress("backgrounds") if settings.verbose else None,
		len(loaded.codes),
	)


def widened(found: Any, width: int) -> "np.ndarray":
	"""Contributions with as many columns as the widest of all motifs has, NaN beyond the end of each."""
	import numpy as np

	wide = np.full((*found.contributions.shape[:2], width), np.nan)
	wide[..., : found.contributions.shape[2]] = found.contributions
	return wide


# ---- what is written --------------------------------------------------------------------------------


def write(loaded: Loaded, parts: Parts, settings: Any) -> None:
	"""The account, and the folder with the table and the page, which appears when both are complete."""
	from cherimoya_cli.marginalize_page import build_page

	results = gather(loaded, parts, settings)
	folder = results_folder(settings.name, settings.output_filename)
	write_accounting(accounting_path(settings.name, "marginalize"), loaded.accounts)
	with publish_folder(folder) as temporary:
		(temporary / FILES[0]).write_text(table(results), encoding="utf-8")
		(temporary / FILES[1]).write_text(build_page(results), encoding="utf-8")
	first = int(results.ranks[:, 0].argmin())
	effect = results.summary["log2fc_counts"][first, 0]
	say(f"Strongest of {len(results.motifs):,} motifs: {results.motifs[first]}, log2 fold change {effect:+.3f}")
	say(f"Wrote {folder}/{FILES[0]} and {folder}/{FILES[1]}")


def gather(loaded: Loaded, parts: Parts, settings: Any) -> "Results":
	"""The results of all motifs out of the parts, and the profiles of those that the page draws."""
	import numpy as np

	from cherimoya.interpret.marginalize import SUMMARIES, insert_of, letters, ranks
	from cherimoya_cli.marginalize_page import Results, drawn_motifs

	names = [*SUMMARIES, *(["contributions"] if settings.attributions else [])]
	found: dict[str, list[np.ndarray]] = {name: [] for name in names}
	for _, arrays in parts.read(len(loaded.motifs), *names):
		for name, array in zip(names, arrays, strict=True):
			found[name].append(array)
	whole = {name: np.concatenate(pieces) for name, pieces in found.items()}
	places, profiles = ranks(whole["log2fc_counts"]), {}
	drawn = drawn_motifs(places)
	for rows, (before, after) in parts.read(len(loaded.motifs), "before", "after"):
		of_part = (i for i in drawn if rows.start <= i < rows.stop)
		profiles |= {i: (before[i - rows.start].copy(), after[i - rows.start].copy()) for i in of_part}
	return Results(
		motifs=loaded.motifs,
		inserts=[letters(insert_of(motif, settings.min_information)) for motif in loaded.motifs],
		summary={name: whole[name] for name in SUMMARIES},
		ranks=places,
		profiles=profiles,
		contributions=whole.get("contributions"),
		signal_groups=tuple(loaded.model.signal_groups),
		title=Path(settings.name).name,
		model=model_path(settings),
		database=settings.motifs,
		loci=list(settings.loci),
		n_backgrounds=len(loaded.codes),
		shuffled=settings.shuffle,
		min_information=settings.min_information,
		random_state=settings.random_state,
	)


def table(results: "Results") -> str:
	"""The text of the table: a row for each motif and signal group, group by group, the largest effects first."""
	import numpy as np

	columns = ["group", "rank", "motif", "name", "inserted", *results.summary]
	if results.contributions is not None:
		columns += ["contribution", "contributions"]
	lines = ["\t".join(columns)]
	for group in range(len(results.signal_groups)):
		for i in np.argsort(results.ranks[:, group]):
			motif = results.motifs[i]
			cells = [str(group), str(results.ranks[i, group]), motif.id, motif.name, results.inserts[i]]
			cells += [_number(values[i, group]) for values in results.summary.values()]
			if results.contributions is not None:
				values = results.contributions[i, group, : len(results.inserts[i])]
				put_in = [letter != "N" for letter in results.inserts[i]]
				cells += [_number(values[put_in].mean()), ",".join(_number(value) for value in values)]
			lines.append("\t".join(cells))
	return "\n".join(lines) + "\n"


def _number(value: float) -> str:
	"""Six significant digits; nothing for NaN."""
	return "" if value != value else f"{value:.6g}"


@contextmanager
def publish_folder(folder: str) -> Iterator[Path]:
	"""A temporary folder, whose files appear under the final name when the block ends well.

	A folder that is there keeps what else is in it: its files are replaced one by one.
	"""
	final = Path(folder)
	temporary = final.with_name(f".{os.getpid()}.{final.name}")
	try:
		temporary.mkdir()
		yield temporary
		if final.exists():
			for source in sorted(temporary.iterdir(), reverse=True):
				os.replace(source, final / source.name)
		else:
			os.rename(temporary, final)
	except OSError as error:
		if isinstance(error, CherimoyaError):
			raise
		raise InputError(
			f"{final}: the results cannot be written ({error.strerror or error}); make room there, or choose another "
			"folder in output_filename"
		) from error
	finally:
		shutil.rmtree(temporary, ignore_errors=True)
