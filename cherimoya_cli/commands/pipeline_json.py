"""``cherimoya pipeline-json``: write the JSON of a pipeline, complete with every default, from flags."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from cherimoya_cli.utils import add_setting_argument, chrom_sizes_of, say, write_json

if TYPE_CHECKING:
	from cherimoya_cli.recipes import Choice

READS_SETTINGS = False

ASSAYS = ("atac", "dnase", "chipseq-tf", "chip-nexus", "procap")
"""The names of `cherimoya_cli.recipes.RECIPES`, so that help need not import them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
	"""The flags of the command."""

	def add(section: str, key: str, *flags: str, **options: Any) -> None:
		add_setting_argument(parser, section, key, *flags, **options)

	many = {"action": "append", "metavar": "FILE"}
	add("pipeline", "sequences", "-s", "--sequences", required=True, metavar="FASTA")
	parser.add_argument(
		"-i",
		"--inputs",
		dest="signals",
		action="append",
		required=True,
		metavar="FILE",
		help="BAM, SAM, BED, fragment or bigWig file; a stranded pair of bigWigs as a.+.bw,a.-.bw (repeatable)",
	)
	parser.add_argument("-c", "--controls", **many, help="control file, written like an input (repeatable)")
	parser.add_argument("-p", "--peaks", dest="loci", **many, help="BED file of loci (repeatable); default: called")
	parser.add_argument("-neg", "--negatives", **many, help="BED file of background loci (repeatable); default: found")
	add("pipeline", "name", "-n", "--name", required=True, metavar="NAME")
	add("pipeline", "motifs", "-m", "--motifs", metavar="MEME")
	parser.add_argument("-o", "--output", required=True, metavar="JSON", help="the JSON to write")
	parser.add_argument(
		"--assay",
		choices=ASSAYS,
		help="choose strands, shifts, what reads are, windows and jitter for this assay, and say why; flags beat it",
	)
	read, either = "preprocessing", {"action": argparse.BooleanOptionalAction}
	add(read, "unstranded", "-u", "--unstranded", **either)
	add(read, "fragments", "-f", "--fragments", **either)
	add(read, "paired_end", "-pe", "--paired_end", "--paired-end", **either)
	add(read, "pos_shift", "-ps", "--pos_shift", "--pos-shift", type=int, metavar="BP")
	add(read, "neg_shift", "-ns", "--neg_shift", "--neg-shift", type=int, metavar="BP")
	add(read, "scale_factor", "-sf", "--scale_factor", "--scale-factor", type=float, metavar="FACTOR")


def run(args: argparse.Namespace) -> int:
	"""Read the flags, follow the assay's recipe, propose a split for the genome, write the JSON; the exit code."""
	content = compose(args)
	check(content)
	choices = follow(content, args) if args.assay else []
	if choices:
		check(content)
	split = propose(content)
	write_json(args.output, content)
	say(f"Wrote {args.output}")
	for choice in choices:
		say(f"  {choice.dotted} = {json.dumps(choice.value)}: {choice.reason}")
	if split:
		say(f"The default split is for hg38 and does not suit this genome; one was chosen by size: {split}")
		say(f"Change it under fit_parameters in {args.output} if other chromosomes should be held out.")
	say(f"Next: cherimoya check -p {args.output}, then cherimoya pipeline -p {args.output}")
	return 0


def compose(args: argparse.Namespace) -> dict[str, Any]:
	"""The content of the JSON: the defaults with the values of the flags."""
	from cherimoya_cli.settings import defaults

	content = defaults("pipeline")
	given = {key: value for key, value in vars(args).items() if value is not None and key not in ("output", "assay")}
	for key in ("signals", "controls"):
		if key in given:
			given[key] = [pair.split(",") if "," in pair else pair for pair in given[key]]
	reads = content["preprocessing_parameters"]
	for key, value in given.items():
		(reads if key in reads and key not in content else content)[key] = value
	return content


def follow(content: dict[str, Any], args: argparse.Namespace) -> "list[Choice]":
	"""Put the choices of the assay's recipe into the content, but for those that flags made; what was put there."""
	from cherimoya_cli.recipes import choose

	choices = choose(args.assay, content["signals"], content["loci"])
	taken = [choice for choice in choices if getattr(args, choice.key, None) is None]
	for choice in taken:
		(content[choice.section] if choice.section else content)[choice.key] = choice.value
	return taken


def propose(content: dict[str, Any]) -> str:
	"""Put a split into the content when the default one does not suit the genome; the split as text, or nothing."""
	from cherimoya_cli.settings import SPLITS
	from cherimoya_cli.splits import as_json, propose_split, suits

	fit = content["fit_parameters"]
	sizes = chrom_sizes_of(content["sequences"])
	if suits([fit[key] for key in SPLITS.values()], sizes):
		return ""
	split = propose_split(sizes)
	for key, places in zip(SPLITS.values(), split, strict=True):
		fit[key] = places
	return as_json(split)


def check(content: dict[str, Any]) -> None:
	"""Raise what a run of the JSON would raise about its settings and its files."""
	from cherimoya_cli.settings import load_settings

	load_settings("pipeline", content, check_files=True)
