"""``cherimoya check``: validate a JSON and its inputs, and say what a run would read, write and need."""

import argparse
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from cherimoya.errors import CherimoyaError, InputError, MissingFileError, SettingsError
from cherimoya_cli.measuring import write_accounting
from cherimoya_cli.utils import say, settings_from_args, warn

if TYPE_CHECKING:
	from cherimoya.io import Accounting, Genome, Loci
	from cherimoya_cli.plan import Step
	from cherimoya_cli.settings import PipelineSettings, Settings

SETTINGS_COMMAND = "pipeline"
CHECKED = (
	*("pipeline", "negatives", "fit", "evaluate", "predict", "attribute"),
	*("seqlets", "motifs", "marginalize", "variants"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
	"""The flags of the command."""
	parser.add_argument(
		"--command",
		choices=(*CHECKED, "batch"),
		help="the command that the JSON is for (default: found out from its keys)",
	)
	parser.add_argument("--accounting", metavar="TSV", help="also write where the loci would go to this file")


def run(args: argparse.Namespace) -> int:
	"""Load, look at every input, report; returns the exit code."""
	if args.explain:
		return explain(args)
	command = args.command or detect(args.parameters)
	say(f"Checking {args.parameters or 'the settings'} for 'cherimoya {command}'")
	if command == "batch":
		check_jobs_of(args)
	else:
		settings = settings_from_args(command, args, make_folder=False)
		accounts = check_pipeline(settings) if command == "pipeline" else check_command(command, settings)
		if args.accounting:
			write_accounting(args.accounting, accounts)
			say(f"Wrote {args.accounting}")
	say("No problems found.")
	return 0


def check_jobs_of(args: argparse.Namespace) -> None:
	"""Check a batch."""
	from cherimoya_cli.batch.checking import check_batch

	if args.parameters is None:
		raise SettingsError("a batch is checked by its JSON; name it with -p FILE")
	if args.accounting is not None:
		raise SettingsError("--accounting is for one pipeline or command; leave it out, or name the JSON of one job")
	check_batch(args.parameters, args.overrides)


def explain(args: argparse.Namespace) -> int:
	"""Print each value and where it came from, for the command that the JSON is for."""
	from cherimoya_cli.loading import explain as explain_settings
	from cherimoya_cli.settings import load_settings

	command = args.command or detect(args.parameters)
	say(explain_settings(load_settings(command, args.parameters or {}, args.overrides)))
	return 0


def detect(path: str | None) -> str:
	"""The command that a JSON is for: a batch by its samples, a pipeline by its keys or reads, else by keys of its own.

	Parameters
	----------
	path: str or None
		The JSON; None is taken for a pipeline.

	Returns
	-------
	str
		One of `CHECKED`, or batch; fit when no key decides.
	"""
	from cherimoya_cli.loading import read_json
	from cherimoya_cli.reads import is_reads
	from cherimoya_cli.settings import SECTIONS, SETTINGS, RunKeys

	content = read_json(path) if path else {}
	if "samples" in content:
		return "batch"
	if not content or content.keys() & (SECTIONS.keys() | RunKeys.model_fields.keys()):
		return "pipeline"
	signals = content.get("signals")
	if isinstance(signals, (str, list)) and any(isinstance(p, str) and is_reads(p) for p in _flat(signals)):
		return "pipeline"
	keys = {command: SETTINGS[command].model_fields.keys() for command in CHECKED[1:]}
	own = {
		command: len(content.keys() & known.difference(*(keys[other] for other in keys if other != command)))
		for command, known in ((command, frozenset(found)) for command, found in keys.items())
	}
	return max(("fit", *CHECKED[1:]), key=lambda command: own[command])


def _flat(value: Any) -> list[Any]:
	"""The elements of lists in lists."""
	return [item for part in value for item in _flat(part)] if isinstance(value, list) else [value]


# ---- a pipeline -------------------------------------------------------------------------------------


def check_pipeline(settings: "PipelineSettings") -> "dict[str, Accounting]":
	"""Check a pipeline as its preflight does, and show its plan and the accounting of its loci."""
	from cherimoya_cli.plan import forecast, make_plan, names_without_step
	from cherimoya_cli.preflight import check_run, check_settings

	check_settings(settings)
	steps = make_plan(settings)
	for text in names_without_step(settings):
		warn(f"note: {settings.source}: {text}")
	forecasts = forecast(steps, trust=settings.skip)
	show_files(steps)
	say("Steps:")
	width = max(len(step.name) for step in steps)
	for step in steps:
		status = forecasts[step.name]
		say(f"  {step.name:<{width}}  {'run ' if status.run else 'skip'}  {status.why}")
	needs = check_run(settings, steps, {name for name, status in forecasts.items() if status.run})
	show_needs(needs.memory, needs.disk, settings.device)
	made = {path for step in steps for path in step.outputs}
	accounts = {}
	fit = next((step for step in steps if step.name in ("fit", "evaluate")), None)
	if fit is not None and made & set(fit.settings["loci"] or ()):
		say("Loci: called from the reads, so they cannot be accounted for yet.")
	elif fit is not None:
		accounts = account(fit.settings, made)
	for step in (step for step in steps if step.name in ("predict", "attribute", "marginalize")):
		if step.settings.get("regions") is not None or not made & set(step.settings["loci"] or ()):
			values = {**step.settings, "signals": None, "controls": None}
			(accounts[step.name],) = account_all(values, f"Loci to {step.name}").values()
	if any(step.name == "variants" for step in steps):
		accounts["variants"] = account_variants(settings.variants_parameters)
	return accounts


# ---- one command ------------------------------------------------------------------------------------


def check_command(command: str, settings: "Settings") -> "dict[str, Accounting]":
	"""Check one command as a pipeline of that one step."""
	from cherimoya_cli.plan import Step, step_outputs
	from cherimoya_cli.preflight import check_run, raise_together
	from cherimoya_cli.settings import input_files

	values = settings.model_dump(mode="json")
	named = [path for _, path in input_files(settings)]
	models = models_of(settings)
	arrays = arrays_of(command, values)
	step = Step(
		name=command,
		title="",
		section="",
		settings=values,
		argv=(),
		inputs=tuple(dict.fromkeys((*named, *models, *arrays))),
		outputs=tuple(step_outputs(command, values)),
		prefix=settings.name,
	)
	show_files([step])
	whole = SimpleNamespace(**{"device": "cpu", **values, "source": settings.source, "model": None})
	errors: list[CherimoyaError] = []
	needs = None
	try:
		needs = check_run(whole, [step], {command})
	except CherimoyaError as error:
		errors.append(error)
	for path in models:
		try:
			check_model(command, settings, path)
		except CherimoyaError as error:
			errors.append(error)
	if command == "fit" and not errors:
		errors += fit_errors(settings)
	raise_together(errors)
	show_needs(needs.memory, needs.disk, whole.device)
	return account_command(command, settings)


def models_of(settings: "Settings") -> list[str]:
	"""The checkpoints that a command reads."""
	if not hasattr(settings, "model"):
		return []
	return getattr(settings, "models", None) or [settings.model or f"{settings.name}.torch"]


def arrays_of(command: str, values: dict[str, Any]) -> list[str]:
	"""The files of ``attribute`` that a command reads."""
	from cherimoya_cli.commands.seqlets import attribution_files

	if command not in ("seqlets", "motifs"):
		return []
	files = attribution_files({"bed_filename": None, "idx_filename": None, **values})
	return [path for key, path in files.items() if command == "seqlets" or key in ("ohe_filename", "attr_filename")]


def account_command(command: str, settings: "Settings") -> "dict[str, Accounting]":
	"""Print where the loci, windows, motifs or variants of a command would go."""
	values = settings.model_dump(mode="json")
	if "training_chroms" in values:
		return account(values, set())
	if command == "marginalize":
		import torch

		from cherimoya_cli.commands import marginalize

		return marginalize.load(settings, torch.device("cpu")).accounts
	if command == "variants":
		return {"variants": account_variants(settings)}
	if command in ("seqlets", "motifs"):
		account_arrays(arrays_of(command, values))
		return {}
	return account_all(values)


def account_variants(settings: "Settings") -> "Accounting":
	"""Print which alleles of a file can be scored."""
	from cherimoya.io.genome import Genome
	from cherimoya.io.variants import VariantFile
	from cherimoya_cli.commands import variants

	genome = Genome(settings.sequences, chrom_aliases=settings.chrom_aliases)
	loaded = variants.Loaded([], [], VariantFile(settings.variants), genome, settings.out_window)
	survey = variants.look_through(loaded, settings)
	variants.tell(survey, loaded)
	return survey.accounting


def account_arrays(paths: Sequence[str]) -> None:
	"""Print how many windows were attributed; InputError for arrays that are missing, broken or of different runs."""
	from cherimoya_cli.commands.seqlets import StoredArray, check_shapes

	ohe, attr = StoredArray(paths[0], "one-hot sequences"), StoredArray(paths[1], "contributions")
	if len(paths) > 2:
		from cherimoya.io.loci import read_loci

		check_shapes(ohe, attr, read_loci(paths[3]), {"idx_filename": paths[2], "bed_filename": paths[3]})
	elif ohe.shape != attr.shape:
		raise InputError(
			f"{paths[0]}: has the shape {ohe.shape}, but {paths[1]} {attr.shape}; give the files of one run"
		)
	say(f"Contributions: {attr.shape[0]:,} windows of {attr.shape[-1]:,} bp")


def check_model(command: str, settings: "Settings", path: str) -> None:
	"""Load the checkpoint, and compare it with the settings."""
	from pathlib import Path

	from cherimoya_cli.inference import load_model
	from cherimoya_cli.measuring import check_model_fits

	if not Path(path).is_file():
		raise MissingFileError(f"{path}: no such file (model in {settings.source}); train one with 'cherimoya fit'")
	model = load_model(settings.model_copy(update={"model": path}), "cpu")
	say(f"Model: {path}, {sum(parameter.numel() for parameter in model.parameters()):,} parameters")
	if command == "evaluate":
		check_model_fits(model, settings, source=path)


def fit_errors(settings: "Settings") -> list[CherimoyaError]:
	"""What is wrong with the model that fit would make."""
	from cherimoya_cli.commands.fit import check_counts_per_track

	try:
		check_counts_per_track(settings)
	except CherimoyaError as error:
		return [error]
	return []


# ---- what is shown ----------------------------------------------------------------------------------


def show_files(steps: "Sequence[Step]") -> None:
	"""What would be read and written."""
	made = {path for step in steps for path in step.outputs}
	read = dict.fromkeys(path for step in steps for path in step.inputs if path not in made)
	for title, paths in (("Reads", read), ("Writes", dict.fromkeys(path for step in steps for path in step.outputs))):
		say(f"{title}:")
		for path in paths:
			say(f"  {path}")


def show_needs(memory: int, disk: int, device: str) -> None:
	"""Bytes of memory and disk, and the device."""
	from cherimoya.memory import available_memory
	from cherimoya_cli.utils import resolve_device

	free = available_memory()
	beside = f" ({free / 1e9:.1f} GB are free)" if free is not None else ""
	say(f"Needs about {memory / 1e9:.2f} GB of memory{beside} and {disk / 1e9:.2f} GB of disk.")
	say(f"Device: {resolve_device(device)}")


def account(values: dict[str, Any], made: set[str]) -> "dict[str, Accounting]":
	"""Print where the loci of each split, and the background of each, would go.

	Counts apply where the signals are bigWigs that are there. Files that steps make (`made`) are passed over.
	"""
	from cherimoya_cli.measuring import background_of, open_genome, split_of, splits_of

	settings = SimpleNamespace(**values)
	genome = open_genome(settings)
	chosen = bool(values.get("chroms"))
	splits = splits_of(settings) if chosen else [split_of(settings, "training"), *splits_of(settings)]
	known = values["negatives"] is not None and not made & set(values["negatives"])
	accounts = {}
	for split in splits:
		training = split.part == "training"
		accounts[split.part] = _account(values, made, genome, split.loci, split.chroms, split.title, training=training)
		if known:
			loci, others = background_of(settings, split, genome)
			if len(loci):
				title = f"Background loci, {split.part}"
				account = _account(values, made, genome, loci, split.chroms, title, background=True, others=others)
				accounts[f"{split.part}_negatives"] = account
	return accounts


def account_all(values: dict[str, Any], title: str = "Loci") -> "dict[str, Accounting]":
	"""Print where the loci of a command without splits would go."""
	from cherimoya_cli.measuring import open_genome

	genome = open_genome(SimpleNamespace(**values))
	if values.get("regions") is not None:
		return {"tiles": _account_tiles(values, genome)}
	return {"loci": _account(values, set(), genome, values["loci"], values["chroms"], title)}


def _account_tiles(values: dict[str, Any], genome: "Genome") -> "Accounting":
	"""Print the table of the tiles of regions that are kept and dropped."""
	from cherimoya.io.tiling import tile_windows
	from cherimoya_cli.inference import observed_tracks

	signals = observed_tracks(SimpleNamespace(**values))
	keys = ("controls", "in_window", "out_window", "overlap", "max_n_perc", "exclusion_lists")
	options = {key: values[key] for key in keys}
	accounting = tile_windows(values["regions"], genome, signals, **options).accounting
	say(accounting.table("Tiles"))
	return accounting


def _account(
	values: dict[str, Any],
	made: set[str],
	genome: "Genome",
	loci: Any,
	chroms: Sequence[str] | None,
	title: str,
	*,
	training: bool = False,
	background: bool = False,
	others: "Loci | None" = None,
) -> "Accounting":
	"""Extract the windows of one part, and print the table of what is kept and dropped."""
	from cherimoya.io import extract_windows, parse_groups
	from cherimoya.io._files import is_remote

	tracks = {}
	for name in ("signals", "controls"):
		given = values.get(name)
		known = given and not any(path in made or is_remote(path) for path in parse_groups(given)[0])
		tracks[name] = given if known else None
	limits = not background and tracks["signals"] is not None
	accounting = extract_windows(
		loci,
		genome,
		tracks["signals"],
		tracks["controls"],
		in_window=values["in_window"],
		out_window=values["out_window"],
		max_jitter=values.get("max_jitter", 0) if training else 0,
		chroms=chroms,
		min_counts=values.get("min_counts") if limits else None,
		max_counts=values.get("max_counts") if limits else None,
		summits=values.get("summits", False) and not background,
		exclusion_lists=values["exclusion_lists"],
		drop_outliers=training and limits,
		absolute=values.get("absolute_signals", False),
		allow_empty=background,
		# The run will read the same windows, and finds them there.
		cache=values.get("cache") if tracks["signals"] is not None else None,
	).accounting
	if others is not None:
		accounting = accounting.with_others(others, "in another split")
	say(accounting.table(title))
	return accounting
