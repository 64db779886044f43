"""A Sphinx extension that writes the docs' tables: of settings and commands from their declarations, and of results."""

import argparse
import importlib
import json
import math
from pathlib import Path
from typing import Any

from cherimoya_cli.__main__ import build_parser
from cherimoya_cli.recipes import RECIPES, SUMMITS, Choice
from cherimoya_cli.registry import COMMANDS
from cherimoya_cli.report.verdict import (
	FEW_LOCI,
	FEW_READS,
	FEW_TRAINING_LOCI,
	FLOORS,
	LOST_SHARE,
	LOW_AUROC,
	MIN_LOCI,
	MOST_ERROR,
	SPLIT_GAP,
)
from cherimoya_cli.settings import SECTIONS, SETTINGS, defaults, help_tables
from cherimoya_cli.utils import add_settings_arguments

FOLDER = Path(__file__).parent / "_generated"
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


def _cell(text: str) -> str:
	"""A text that a table's cell can hold."""
	return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _table(rows: list[dict[str, Any]]) -> str:
	"""One table of settings."""
	lines = ["| key | default | unit | accepts | meaning |", "|---|---|---|---|---|"]
	for row in rows:
		default = json.dumps(row["default"])
		cells = (f"`{row['key']}`", f"`{default}`", row["unit"], _cell(row["expects"]), _cell(row["help"]))
		lines.append("| " + " | ".join(cells) + " |")
	return "\n".join(lines)


def commands() -> str:
	"""The table of commands."""
	rows = [f"| [`{name}`](#{name}) | {command.summary} |" for name, command in COMMANDS.items()]
	return "\n".join(["| command | does |", "|---|---|", *rows]) + "\n"


def _flags(parser: argparse.ArgumentParser, *, without: frozenset[str] = frozenset()) -> list[str]:
	"""The rows of a parser's flags and arguments, and of those of its actions."""
	rows = []
	for action in parser._actions:
		if isinstance(action, argparse._SubParsersAction):
			for inner, sub in action.choices.items():
				rows += [row.replace("| ", f"| `{inner}` ", 1) for row in _flags(sub)]
		elif action.dest not in without | {"help"}:
			names = ", ".join(f"`{name}`" for name in action.option_strings or (action.metavar or action.dest,))
			value = f" `{action.metavar}`" if action.option_strings and action.metavar else ""
			choices = f" ({', '.join(map(str, action.choices))})" if action.choices else ""
			rows.append(f"| {names}{value} | {_cell((action.help or '').replace('%%', '%'))}{choices} |")
	return rows


def _flag_table(rows: list[str]) -> str:
	return "\n".join(["| flag | meaning |", "|---|---|", *rows]) + "\n"


def settings() -> str:
	"""A section for each command, with tables of its flags and settings, and for a pipeline of its sections'."""
	shared = argparse.ArgumentParser(add_help=False)
	add_settings_arguments(shared)
	tables = help_tables()
	parts = [f"## Flags that commands share\n\n{_flag_table(_flags(shared))}"]
	common = frozenset(action.dest for action in shared._actions)
	for name, command in COMMANDS.items():
		parts.append(f"## {name}\n\n{command.summary[0].upper()}{command.summary[1:]}.\n")
		module = importlib.import_module(command.module)
		without = common if getattr(module, "READS_SETTINGS", True) else frozenset()
		own = _flags(build_parser(name, module), without=without)
		if own:
			parts.append(_flag_table(own))
		if name not in SETTINGS:
			continue
		for section, rows in tables[name].items():
			if section:
				step = SECTIONS[section][0]
				parts.append(
					f"### {section}\n\nKeys of the step `{step}`; those of the top level may be given here as well.\n"
				)
			parts.append(_table(rows) + "\n")
	return "\n".join(parts)


def recipe_json(assay: str) -> dict[str, Any]:
	"""What ``pipeline-json --assay`` puts into the JSON, for a BAM whose peaks are called."""
	content: dict[str, Any] = {}
	for choice in _choices(assay):
		(content.setdefault(choice.section, {}) if choice.section else content)[choice.key] = choice.value
	return content


def _choices(assay: str) -> list[Choice]:
	"""The choices for a BAM whose peaks are called."""
	summits = Choice("fit_parameters", "summits", True, SUMMITS.format(why="MACS3 tells it"))
	return [*RECIPES[assay].choices, summits]


def recipes() -> str:
	"""A section for each assay: the command, what it puts into the JSON, and why."""
	parts = []
	for assay, recipe in RECIPES.items():
		rows = [f"| `{c.dotted}` | `{json.dumps(c.value)}` | {_cell(c.reason)} |" for c in _choices(assay)]
		table = "\n".join(["| key | value | why |", "|---|---|---|", *rows])
		content = json.dumps(recipe_json(assay), indent="\t")
		parts.append(
			f"## {recipe.title}\n\n```bash\ncherimoya pipeline-json --assay {assay} -s hg38.fa -i reads.bam -n "
			f"{assay} -o {assay}.json\n```\n\n```json\n{content}\n```\n\n{table}\n"
		)
	return "\n".join(parts)


PUBLISHED = {
	"device": "cuda",
	"batch_size": 512,
	"preprocessing_parameters": {"n_jobs": 8, "callpeaks_gsize": "hs"},
	"fit_parameters": {
		"n_filters": 128,
		"muon_wd": 0.03,
		"adam_lr": 0.001,
		"adam_wd": 0.0,
		"max_epochs": 20,
		"min_total_steps": 20_000,
		"n_warmup_epochs": 2,
		"early_stopping": None,
		"max_jitter": 500,
		"negative_ratio": 0.25,
	},
	"attribute_parameters": {"algorithm": "deep_lift_shap", "attr_window": None, "group": 0},
}
"""What ``pipeline-json`` of the published package, release 0.3.1, writes where it is not what this one writes."""


def published() -> str:
	"""The table of defaults that are other ones in the published package."""
	ours = defaults("pipeline")
	lines = ["| key | here | published |", "|---|---|---|"]
	for key, value in PUBLISHED.items():
		of_section = value.items() if isinstance(value, dict) else [("", value)]
		for inner, theirs in of_section:
			mine = ours[key][inner] if inner else ours[key]
			name = f"{key}.{inner}" if inner else key
			if mine != theirs:
				lines.append(f"| `{name}` | `{json.dumps(mine)}` | `{json.dumps(theirs)}` |")
	return "\n".join(lines) + "\n"


def verdict() -> str:
	"""When the report calls a model usable, in the numbers of its rules."""
	return (
		"A part, the profiles or the counts of a group, is usable if all of this holds on the held-out loci, of which "
		f"there must be at least {MIN_LOCI}:\n\n"
		"- it is better than its baseline: the 95 % interval of the difference in Pearson correlation lies above 0;\n"
		f"- its correlation is at least {FLOORS['profile']:g} for profiles, {FLOORS['counts']:g} for counts;\n"
		f"- its error is not above that of the baseline for profiles (their loss), nor above {MOST_ERROR['counts']:g} "
		"times that of the baseline for counts (mean squared error of log(1 + counts)).\n\n"
		"*Usable* means all parts, *usable in part* some of them. Cautions below it say what limits the model, "
		f"and never change it: fewer than {FEW_TRAINING_LOCI:,} training loci, {FEW_LOCI} held-out ones or {FEW_READS} "
		f"reads in the median locus, {LOST_SHARE:.0%} of the loci lost or more, a correlation that falls by more than "
		f"{SPLIT_GAP:g} from validation to test, an area under the ROC curve below {LOW_AUROC:g} against background, "
		"and the like.\n"
	)


def duration(results: Path = RESULTS) -> str:
	"""How long an experiment takes to train on a CPU, from the time of a step."""
	record = _measured(results, "train_cpu")
	if record is None:
		return "No results are there yet.\n"
	n_peaks, (batch, _, length) = 50_000, record["shape"]
	steps = math.ceil(n_peaks * (1 + defaults("fit")["negative_ratio"]) / batch)
	step = record["seconds"]["ours"]["step"]
	memory = record["memory"]["ours"]["peak_mb"]
	return (
		f"A step of a model of {record['filters']} filters and {record['layers']} layers ({batch} windows of "
		f"{length:,} bp) takes {step:.1f} s and {memory:,.0f} MB, torch included, on {record['machine']['threads']} "
		f"threads of a server; an epoch of {n_peaks:,} peaks has {steps:,} steps, and takes {steps * step / 3600:.1f} "
		"hours there.\n"
	)


def _measured(results: Path, name: str) -> dict[str, Any] | None:
	"""The results of a benchmark; None if it was not run."""
	path = results / f"{name}.json"
	return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


SIDES = {"ours": "this package", "peer": "published", "peer compiled": "published, torch.compile"}
CASES = {
	"forward": "prediction of a batch",
	"saturation_mutagenesis": "saturation mutagenesis, 100 bp of a sequence",
	"deep_lift_shap": "DeepLIFT/SHAP, 4 sequences with 20 references each",
}


def _seconds(rows: dict[str, dict[str, float]], ratios: dict[str, float]) -> str:
	"""A table of seconds, with how many times as fast this package is as the published one at its faster."""
	sides = list(dict.fromkeys(side for row in rows.values() for side in row))
	lines = ["| | " + " | ".join(SIDES[side] for side in sides) + " | ratio |", "|---|" + "---:|" * (len(sides) + 1)]
	for name, row in rows.items():
		cells = [f"{row[side]:.3g} s" if side in row else "–" for side in sides]
		ratio = f"{ratios[name]:.2f}" if name in ratios else ""
		lines.append(f"| {name} | {' | '.join(cells)} | {ratio} |")
	return "\n".join(lines) + "\n"


def _conditions(record: dict[str, Any]) -> str:
	"""What the numbers were measured with."""
	m = record["machine"]
	n, _, length = record["shape"]
	return (
		f"{record['filters']} filters, {record['layers']} layers, {length} bp, batches of {n}; "
		f"{m['threads']} threads of {m['processor']}; "
		f"torch {m['ours_torch']}, published package {m['peer_cherimoya']}.\n"
	)


def benchmarks(results: Path = RESULTS) -> str:
	"""Sections of speed and memory beside the published package, for the benchmarks whose results are there."""
	parts = []
	record = _measured(results, "attribution_cpu")
	if record is not None:
		rows = {CASES[row["case"]]: row for row in record["results"]}
		table = _seconds({k: row["seconds"] for k, row in rows.items()}, {k: row["ratio"] for k, row in rows.items()})
		error = max(row["relative_error"] for row in record["results"])
		parts.append(
			f"## Prediction and attribution\n\n{_conditions(record)}\n{table}\n"
			f"The outputs agree within a relative error of {error:.0e}.\n"
		)
	record = _measured(results, "train_cpu")
	if record is not None:
		sides = list(record["seconds"])
		parts_of_step = list(record["seconds"]["ours"])
		rows = {part: {side: record["seconds"][side][part] for side in sides} for part in parts_of_step}
		memory = ", ".join(f"{SIDES[side]} {of['peak_mb']:,.0f} MB" for side, of in record["memory"].items())
		parts.append(
			f"## A training step\n\n{_conditions(record)}\n{_seconds(rows, {'step': record['ratio']})}\n"
			f"Resident memory at its largest: {memory}. Loss and gradients agree within a relative error of "
			f"{record['relative_error']:.0e}.\n"
		)
	parts += [section for section in (_loading(results), _negatives(results), _accuracy(results)) if section]
	return "\n".join(parts) or "No results are there yet.\n"


def _loading(results: Path) -> str:
	"""Loading windows and making batches of them, beside the published package."""
	record = _measured(results, "loading")
	if record is None:
		return ""
	names = {
		"ours_cold": "this package, first time",
		"ours_cached": "this package, from the cache",
		"peer": "published",
	}
	lines = ["| | to the first batch | memory | resident memory |", "|---|---:|---:|---:|"]
	for key, name in names.items():
		median = record["median"][key]
		memory = f"{median['anonymous_mib']:,.0f} MiB | {median['resident_mib']:,.0f} MiB"
		lines.append(f"| {name} | {median['seconds']:.3g} s | {memory} |")
	rate, ratios = record["examples_per_second"], record["ratios"]
	return (
		f"## Loading\n\n{record['loci']:,} loci of a stranded experiment, jitter 500 bp, a genome of "
		f"{record['megabases']:,.0f} Mb, without the time to import; memory leaves out files that are mapped.\n\n"
		+ "\n".join(lines)
		+ f"\n\nThe first batch is there {ratios['first batch, peer / ours cold']:.1f} times as soon, and from the "
		f"cache {ratios['first batch, peer / ours cached']:.0f} times. In one process, {rate['ours']:,.0f} examples a "
		f"second against {rate['peer']:,.0f}, {ratios['examples a second, ours / peer']:.1f} times as many, as one-hot "
		f"floats in batches of 64; without the thread that makes batches ahead, {rate['ours_no_thread']:,.0f}.\n"
	)


def _negatives(results: Path) -> str:
	"""Finding background loci, beside the published package."""
	record = _measured(results, "negatives")
	if record is None:
		return ""
	lines = [
		"| | this package | published | ratio | memory | distance in GC content |",
		"|---|---:|---:|---:|---:|---:|",
	]
	for name, case in record["cases"].items():
		ours, peer = case["ours"], case["published"]
		lines.append(
			f"| {name} | {ours['seconds']:.2f} s | {peer['seconds']:.2f} s | {peer['seconds'] / ours['seconds']:.2f} "
			f"| {ours['peak_mb']:,.0f} against {peer['peak_mb']:,.0f} MB | {ours['ks']:.4f} against {peer['ks']:.4f} |"
		)
	return (
		f"## Background loci\n\nThe command `negatives` on {record['megabases']:,.0f} Mb ({record['genome']}), "
		"start-up included; the distance is that of Kolmogorov and Smirnov between the GC content of loci and "
		"background.\n\n" + "\n".join(lines) + "\n"
	)


def _accuracy(results: Path) -> str:
	"""Accuracy of short training runs, beside the published package."""
	record, table = _measured(results, "accuracy"), results / "accuracy.md"
	if record is None:
		return ""
	size = record["size"]
	return (
		f"## Accuracy\n\nBoth packages with their own defaults, but for what is fixed: {size['n_filters']} filters, "
		f"{size['n_layers']} layers, windows of {size['in_window']} and {size['out_window']} bp, batches of "
		f"{size['batch_size']}, at least {size['steps']:,} steps; mean ± standard deviation over seeds, best epoch of "
		"each run. The published package's defaults are meant for 20,000 steps and more, so this says how soon a model "
		f"is good, not how good it gets.\n\n{table.read_text(encoding='utf-8')}"
	)


def windows_memory(results: Path = RESULTS) -> str:
	"""The table of what loading many windows takes."""
	record = _measured(results, "windows_memory")
	if record is None:
		return "No results are there yet.\n"
	lines = ["| | time | memory of all processes | memory while batches are gathered |", "|---|---:|---:|---:|"]
	for name, key in (("read and put into the cache", "cold"), ("found in the cache", "again")):
		found = record[key]
		cells = [f"{found[part] / 1e6:,.0f} MB" for part in ("anonymous", "batches_own_anonymous")]
		lines.append(f"| {name} | {found['seconds']:.0f} s | {' | '.join(cells)} |")
	cold = record["cold"]
	return (
		f"{record['loci']:,} loci of {record['tracks']} tracks, {record['cores']} cores; the arrays take "
		f"{cold['array_bytes'] / 1e9:.1f} GB as {cold['signals']}, and would take {cold['float32_bytes'] / 1e9:.1f} GB "
		"as float32. Memory-mapped files are not in these numbers.\n\n"
		+ "\n".join(lines)
		+ "\n"
		+ _whole_genome(results)
	)


def _whole_genome(results: Path) -> str:
	"""A paragraph on the same with a genome of a human's size, if that was measured."""
	record = _measured(results, "windows_memory_3gb")
	if record is None:
		return ""
	cold, again = record["cold"], record["again"]
	return (
		f"\nWith a genome of {record['megabases']:,.0f} Mb, {record['loci']:,} loci and {record['tracks']} tracks, "
		f"{record['input_bytes'] / 1e9:.1f} GB of files, it took {cold['seconds']:.0f} s and "
		f"{cold['anonymous'] / 1e6:,.0f} MB to read, {again['seconds']:.0f} s and {again['anonymous'] / 1e6:,.0f} MB "
		f"from the cache. Said before: at most {cold['estimated_memory'] / 1e6:,.0f} MB of memory and "
		f"{cold['estimated_disk'] / 1e9:.1f} GB of disk; taken: {cold['cache_bytes'] / 1e9:.1f} GB of disk.\n"
	)


def chunks_memory(results: Path = RESULTS) -> str:
	"""The table of the memory that predict and attribute take for few and for many loci."""
	record = _measured(results, "chunks_memory")
	if record is None:
		return "No results are there yet.\n"
	lines = ["| command | loci | memory of all processes | results on the disk |", "|---|---:|---:|---:|"]
	for found in record["runs"]:
		sizes = [f"{found[key] / 1e6:,.0f} MB" for key in ("anonymous", "result_bytes")]
		lines.append(f"| `{found['command']}` | {found['loci']:,} | {' | '.join(sizes)} |")
	if "regions" in record:
		lines += ["", "| `predict`, regions of | tiles | memory of all processes | bigWig |", "|---|---:|---:|---:|"]
	for found in record.get("regions", ()):
		sizes = [f"{found[key] / 1e6:,.0f} MB" for key in ("anonymous", "result_bytes")]
		lines.append(f"| {found['bases'] / 1e6:,.1f} Mb | {found['tiles']:,} | {' | '.join(sizes)} |")
	widths, killed, table = record["widths"], record["killed"], "\n".join(lines)
	return (
		f"A very small model with windows of {widths['in_window']:,} and {widths['out_window']:,} bp; memory-mapped "
		f"files are not in these numbers.\n\n{table}\n\n`predict` on all of these loci, killed when "
		f"{killed['kept']} of {killed['chunks']} chunks were finished and started again, gave the same bits.\n"
	)


def marginalize(results: Path = RESULTS) -> str:
	"""The table of what marginalize finds for a model of CTCF, and what it takes."""
	record = _measured(results, "marginalize")
	if record is None:
		return "No results are there yet.\n"
	lines = ["| motif | rank | log2 fold change | same sign |", "|---|---:|---:|---:|"]
	for found in (*record["ctcf"], record["strongest_other"]):
		effect = f"{found['log2fc_counts']:+.2f} ± {found['log2fc_counts_se']:.2f}"
		lines.append(f"| {found['motif']} | {found['rank']:,} | {effect} | {found['same_sign']:.0%} |")
	model, control, minutes = record["model"], record["shuffled"], record["seconds"] / 60
	return (
		f"A model of CTCF in human cells ({model['n_filters']} filters, {model['n_layers']} layers, trained on most of "
		f"one chromosome), {record['motifs']:,} motifs of vertebrates and {record['backgrounds']} held-out background "
		"loci: the matrices of CTCF and the strongest other.\n\n" + "\n".join(lines) + "\n\n"
		f"The columns of {control['matrix']} in {control['n']} random orders have effects of "
		f"{control['median_effect']:.2f} by size in the median, and {control['largest_effect']:.2f} at most. The "
		f"{record['predictions']:,} predictions took {minutes:.1f} min on {record['machine']['threads']} core and "
		f"{record['anonymous'] / 1e6:,.0f} MB, start-up and page included; the page is "
		f"{record['page_bytes'] / 1e6:.1f} MB.\n"
	)


def seqlets(results: Path = RESULTS) -> str:
	"""The table of the time and memory that seqlets takes, and how its seqlets compare with the published package's."""
	record = _measured(results, "seqlets")
	if record is None:
		return "No results are there yet.\n"
	lines = ["| windows | seqlets | motifs | time | memory |", "|---:|---:|---:|---:|---:|"]
	for found in (*record["runs"], record["named"]):
		motifs = f"{record['motifs']:,}" if found is record["named"] else "none"
		cells = (f"{found['loci']:,}", f"{found['seqlets']:,}", motifs, f"{found['seconds']:.0f} s")
		lines.append(f"| {' | '.join(cells)} | {found['anonymous'] / 1e6:,.0f} MB |")
	text = (
		f"Windows of {record['width']} bp, {record['machine']['threads']} cores; most of a short run is compiling.\n\n"
	)
	text += "\n".join(lines) + "\n"
	if beside := record.get("beside"):
		text += (
			f"\nThe published package takes {beside['peer']['seconds']:.0f} s for {beside['loci']:,} windows, this one "
			f"{beside['ours']['seconds']:.0f} s. It finds {beside['peer_seqlets']:,} seqlets, all positive, of which "
			f"{beside['equal']:,} are among the {beside['ours_positive']:,} positive ones here, with the same sums and "
			"p-values.\n"
		)
	return text


def batch_scale(results: Path = RESULTS) -> str:
	"""The table of what batches of many jobs take."""
	record = _measured(results, "batch_scale")
	if record is None:
		return "No results are there yet.\n"
	lines = ["| jobs | " + " | ".join(BATCH_ACTIONS.values()) + " |", "|---:|" + "---:|" * len(BATCH_ACTIONS)]
	for size in record["sizes"]:
		cells = [f"{size[key]['seconds']:.1f} s, {size[key]['resident'] / 1e6:.0f} MB" for key in BATCH_ACTIONS]
		lines.append(f"| {size['jobs']:,} | {' | '.join(cells)} |")
	return (
		f"Time and largest memory of whole commands, for samples crossed with {record['folds']} folds; "
		f"{record['cores']} cores.\n\n" + "\n".join(lines) + "\n"
	)


BATCH_ACTIONS = {
	"plan, first time": "planned, first time",
	"plan, again": "planned again",
	"run with nothing to do": "`run`, nothing to do",
	"status": "`status`",
	"collect": "`collect`",
}


def batch_throughput(results: Path = RESULTS) -> str:
	"""How many steps an hour devices train, with one job and with several at once."""
	record = _measured(results, "batch_throughput")
	if record is None:
		return "No results are there yet.\n"
	lines = [
		"| device | jobs at once | time of the batch | steps an hour | beside one at once |",
		"|---|---|---:|---:|---:|",
	]
	for device, found in record.items():
		rates = [way["steps"] / way["seconds"] * 3600 for way in found["ways"]]
		for way, rate in zip(found["ways"], rates, strict=True):
			cells = f"{way['seconds']:,.0f} s | {rate:,.0f} | {rate / rates[0]:.2f}"
			lines.append(f"| `{device}` ({found['machine']['cores']} cores) | {way['way']} | {cells} |")
	return "\n".join(lines) + "\n"


CHOSEN = {
	"saturation_mutagenesis": "contributions by saturation mutagenesis",
	"deep_lift_shap": "contributions by DeepLIFT/SHAP",
	"best_match": "the motif itself: the best that can be reached",
	"every_window": "nothing: every window",
	"shuffled_contributions": "the contributions in shuffled order",
	"untrained": "contributions before training",
}


def ctcf_motif(results: Path = RESULTS) -> str:
	"""How well contributions of a model of CTCF point at the motif of CTCF."""
	record = _measured(results, "ctcf_motif")
	if record is None:
		return "No results are there yet.\n"
	model, peaks, test = record["model"], record["peaks"], record["model"]["test"]
	lines = ["| windows chosen by | match the motif (95 %) | AUROC (95 %) | median score |", "|---|---:|---:|---:|"]
	for name, text in CHOSEN.items():
		found = record["chosen"][name]
		share = f"{found['matching']:.1%} ({' to '.join(f'{v:.0%}' for v in found['matching_95'])})"
		area = f"{found['auroc']:.3f} ({' to '.join(f'{v:.3f}' for v in found['auroc_95'])})"
		lines.append(f"| {text} | {share} | {area} | {found['median_bits']:.1f} bits |")
	table = "\n".join(lines)
	return (
		f"The model has {model['parameters']:,} parameters, {model['n_layers']} layers and {model['in_window']} bp "
		f"of input. In the test region its counts have a Pearson correlation of {test['count_pearson']:.2f} over "
		f"peaks, and tell peaks from background with an AUROC of {test['auroc']:.2f}. Scored are "
		f"{peaks['region_bp']} bp at each of {peaks['n']} peaks; a match has more than "
		f"{record['threshold_bits']:.1f} bits.\n\n{table}\n\n{_ctcf_controls(record)}"
	)


def planted(results: Path = RESULTS) -> str:
	"""What the pipeline finds of motifs that were planted."""
	record = _measured(results, "planted")
	if record is None:
		return "No results are there yet.\n"
	seqlets, variants, ranks = record["seqlets"], record["variants"], record["marginalization_ranks"]
	patterns = [found for found in record["patterns"].values() if isinstance(found, dict)]
	similar = " and ".join(f"{found['agreement']:.2f} ({found['seqlets']:,} seqlets)" for found in patterns)
	places = " and ".join(str(place) for name, place in ranks.items() if name != "motifs")
	return (
		f"| {record['genome_megabases']:g} Mb, {record['loci']:,} loci, {record['epochs']} epochs | |\n|---|---:|\n"
		f"| TF-MoDISco: mean frequency of each motif's consensus in its pattern | {similar} |\n"
		f"| positive seqlets that lie on a planted site (precision) | {seqlets['precision']:.1%} of "
		f"{seqlets['positive_seqlets']:,} |\n"
		f"| strong sites that have a seqlet (recall) | {seqlets['recall_strong']:.1%} of "
		f"{seqlets['strong_sites']:,} |\n"
		f"| of the seqlets on sites, named after their motif | {seqlets['named_after_their_motif']:.1%} |\n"
		f"| ranks of the planted motifs by marginalization | {places} of {ranks['motifs']} |\n"
		f"| variants that break a site against silent ones, AUROC | {variants['auroc']:.3f} |\n"
		f"| log2 fold change, median | {variants['median_log2fc_broken']:+.2f} ({variants['broken']} broken), "
		f"{variants['median_log2fc_silent']:+.3f} ({variants['silent']} silent) |\n"
	)


VALUES = {"p": "p-value", "E": "E-value", "q": "q-value over all seqlets"}


def match_threshold(results: Path = RESULTS) -> str:
	"""How many seqlets have names at thresholds on different values, beside what chance does."""
	record = _measured(results, "match_threshold")
	if record is None:
		return "No results are there yet.\n"
	known, ctcf = record["planted"], record["ctcf"]
	lines = [
		f"| named if | planted, {known['motifs']} motifs: right at strong sites | wrong there | shuffled, any | "
		f"CTCF, {ctcf['motifs']:,} motifs: any | shuffled, any | most often (shuffled) |",
		"|---|---:|---:|---:|---:|---:|---|",
	]
	for a, b in zip(known["thresholds"], ctcf["thresholds"], strict=True):
		first = ", ".join(f"{found['motif']} {found['seqlets']} ({found['shuffled']})" for found in b["first"][:2])
		lines.append(
			f"| {VALUES[a['value']]} ≤ {a['threshold']:g} | {a['strong_right']:.0%} | {a['strong_wrong']:.0%} | "
			f"{a['shuffled_named']:.0%} | {b['named']:.0%} | {b['shuffled_named']:.0%} | {first} |"
		)
	return "\n".join(lines) + "\n"


PIPELINES = {"ctcf": "CTCF, human chr22", "yeast": "The example, ATAC-seq of yeast"}


def pipelines(results: Path = RESULTS) -> str:
	"""The seconds that each step takes on real data, and the motifs that come first."""
	record = _measured(results, "pipelines")
	if record is None:
		return "No results are there yet.\n"
	found = {name: record[name] for name in PIPELINES if name in record}
	steps = list(dict.fromkeys(step for run in found.values() for step in run["seconds"] if step != "all"))
	lines = ["| step | " + " | ".join(PIPELINES[name] for name in found) + " |", "|---|" + "---:|" * len(found)]
	for step in [*steps, "all"]:
		cells = [f"{run['seconds'][step]:.0f} s" if step in run["seconds"] else "" for run in found.values()]
		lines.append(f"| {step} | {' | '.join(cells)} |")
	text = "\n".join(lines) + "\n"
	for name, run in found.items():
		threads = run["threads"]
		first = [("seqlets", "motif"), ("patterns", "motif_1"), ("marginalization", "name")]
		motifs = [run[key][0][column] if run[key] else "none" for key, column in first]
		text += (
			f"\n**{PIPELINES[name]}** ({threads} thread{'s' if threads > 1 else ''}): the most frequent motif of "
			f"seqlets is {motifs[0]}, the largest pattern of TF-MoDISco is most like {motifs[1]}, and {motifs[2]} has "
			f"the largest effect in background. Test loci: count Pearson {run['test']['count_pearson']:.2f}, area "
			f"under the ROC curve {run['test']['auroc']:.2f}.\n"
		)
	return text


def _ctcf_controls(record: dict[str, Any]) -> str:
	"""The test region by itself, other matrices, and how far both methods agree."""
	test = {name: f"{found['matching']:.1%}" for name, found in record["test_region"].items()}
	shuffled, every, same = record["shuffled_matrices"], record["all_matrices"], record["agreement"]
	other, most = next(iter(every["others"].items()))
	low, high = same["spearman_quartiles"]
	seconds = record["cpu_seconds"]
	ours, others = record["motif"]["matrix"], "the first that is not of CTCF or CTCFL"
	return (
		f"- **The test region by itself** ({record['peaks']['in_test_region']} peaks): "
		f"{test['saturation_mutagenesis']} by saturation mutagenesis, {test['deep_lift_shap']} by DeepLIFT/SHAP.\n"
		f"- **Other matrices**, each with its own threshold: with its columns shuffled, {shuffled['matrices']} times, "
		f"the matrix matches {shuffled['mean_matching']:.1%} of the windows of saturation mutagenesis on average. Of "
		f"the {every['matrices']:,} matrices of vertebrates in JASPAR, {ours} ranks {every['rank']}; {others} is "
		f"{other}, with {most:.0%}, and the median of those is {every['others_median']:.1%}.\n"
		f"- **The two methods** have a Spearman correlation of {same['spearman_median']:.2f} over the positions of a "
		f"peak (median; quartiles {low:.2f} and {high:.2f}), and of {abs(same['spearman_with_another_peak']):.2f} "
		f"with another peak. At {same['same_window']:.0%} of the peaks they choose the same window, to "
		f"{record['motif']['flank_bp']} bp. They take {seconds['saturation_mutagenesis']:.0f} and "
		f"{seconds['deep_lift_shap']:.0f} seconds of one core for all peaks.\n"
	)


PAGES = (
	*(
		commands,
		settings,
		recipes,
		published,
		verdict,
		duration,
		benchmarks,
		windows_memory,
		chunks_memory,
		batch_scale,
	),
	*(batch_throughput, seqlets, match_threshold, marginalize, ctcf_motif, planted, pipelines),
)
"""What makes each page; it is named after the function."""


def write(app: Any = None) -> None:
	"""Write the generated pages."""
	FOLDER.mkdir(exist_ok=True)
	for make in PAGES:
		(FOLDER / f"{make.__name__}.inc.md").write_text(make(), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
	"""Register with Sphinx: the pages are written before it reads its sources."""
	app.connect("builder-inited", write)
	return {"parallel_read_safe": True}
