"""``cherimoya pipeline-json``: write the JSON of a pipeline, complete with every default, from flags."""

import argparse
from typing import Any

from cherimoya_cli.utils import add_setting_argument, chrom_sizes_of, say, write_json

READS_SETTINGS = False


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
	read = "preprocessing"
	add(read, "unstranded", "-u", "--unstranded", action="store_true")
	add(read, "fragments", "-f", "--fragments", action="store_true")
	add(read, "paired_end", "-pe", "--paired_end", "--paired-end", action="store_true")
	add(read, "pos_shift", "-ps", "--pos_shift", "--pos-shift", type=int, metavar="BP")
	add(read, "neg_shift", "-ns", "--neg_shift", "--neg-shift", type=int, metavar="BP")
	add(read, "scale_factor", "-sf", "--scale_factor", "--scale-factor", type=float, metavar="FACTOR")


def run(args: argparse.Namespace) -> int:
	"""Read the flags, propose a split for the genome, write the JSON; returns the exit code."""
	content = compose(args)
	check(content)
	split = propose(content)
	write_json(args.output, content)
	say(f"Wrote {args.output}")
	if split:
		say(f"The default split is for hg38 and does not suit this genome; one was chosen by size: {split}")
		say(f"Change it under fit_parameters in {args.output} if other chromosomes should be held out.")
	say(f"Next: cherimoya check -p {args.output}, then cherimoya pipeline -p {args.output}")
	return 0


def compose(args: argparse.Namespace) -> dict[str, Any]:
	"""The content of the JSON: the defaults with the values of the flags."""
	from cherimoya_cli.settings import defaults

	content = defaults("pipeline")
	given = {key: value for key, value in vars(args).items() if value is not None and key != "output"}
	for key in ("signals", "controls"):
		if key in given:
			given[key] = [pair.split(",") if "," in pair else pair for pair in given[key]]
	reads = content["preprocessing_parameters"]
	for key, value in given.items():
		(reads if key in reads and key not in content else content)[key] = value
	return content


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
