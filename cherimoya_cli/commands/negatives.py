"""``cherimoya negatives``: background loci whose GC content is distributed like that of the loci."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cherimoya.errors import InputError, SettingsError
from cherimoya_cli.utils import add_setting_argument, say, settings_from_args, versions, warn, write_json

if TYPE_CHECKING:
	from cherimoya.io.negatives import Negatives

FLAGS = (
	"loci",
	"sequences",
	"signals",
	"output_filename",
	"bin_width",
	"max_n_perc",
	"beta",
	"in_window",
	"out_window",
	"chroms",
	"exclusion_lists",
	"random_state",
	"tilings",
	"n_jobs",
	"plot_filename",
)
PICTURES = (".png", ".pdf", ".svg")


def outputs(values: Mapping[str, Any]) -> list[str]:
	"""The files that the command leaves, from its settings: loci, the record beside them, and the account."""
	output = values["output_filename"] or f"{values['name']}.negatives.bed"
	return [output, *(f"{output.removesuffix('.bed')}.{end}" for end in ("record.json", "accounting.tsv"))]


def add_arguments(parser: argparse.ArgumentParser) -> None:
	"""The flags of the command; each beats the JSON's value of its key."""

	def add(key: str, *flags: str, **options: Any) -> None:
		add_setting_argument(parser, "negatives", key, *flags, **options)

	def repeat(key: str, *flags: str, what: str) -> None:
		parser.add_argument(*flags, dest=key, action="append", help=f"{what} (repeatable)", metavar="FILE")

	repeat("loci", "-i", "--peaks", what="BED or narrowPeak file of the loci")
	add("sequences", "-f", "--fasta", metavar="FASTA")
	repeat("signals", "-b", "--bigwig", what="bigWig whose counts a background locus must be low in")
	add("output_filename", "-o", "--output", metavar="BED")
	add("bin_width", "-l", "--bin_width", "--bin-width", type=float, metavar="WIDTH")
	add("max_n_perc", "-n", "--max_n_perc", "--max-n-perc", type=float, metavar="FRACTION")
	add("beta", "-a", "--beta", type=float, metavar="FACTOR")
	add("in_window", "-w", "--in_window", "--in-window", type=int, metavar="BP")
	add("out_window", "-x", "--out_window", "--out-window", type=int, metavar="BP")
	chroms_help = "chromosomes or regions to take background from (default those of the loci)"
	parser.add_argument("--chroms", nargs="+", metavar="CHROM", help=chroms_help)
	repeat("exclusion_lists", "--exclusion", what="BED file of regions that no background locus may overlap")
	add("random_state", "--seed", type=int, metavar="SEED")
	add("tilings", "--tilings", type=int, metavar="K")
	add("n_jobs", "-j", "--n_jobs", "--n-jobs", type=int, metavar="PROCESSES")
	add("plot_filename", "--plot", metavar="FILE")
	parser.add_argument("-v", "--verbose", action="store_true", help="show progress and the histogram of GC content")


def run(args: argparse.Namespace) -> int:
	"""Load the settings, find background loci, write them; returns the exit code."""
	if args.explain:
		return explain(args)
	settings = settings_from_args("negatives", args, flags=flag_values(args))
	output = output_path(settings)
	check_tilings(settings)
	check_picture(settings.plot_filename)
	negatives = compute(settings)
	write(output, negatives, settings)
	tell(output, negatives, settings)
	return 0


def explain(args: argparse.Namespace) -> int:
	"""Print each value and where it came from."""
	from cherimoya_cli.loading import explain as explain_settings
	from cherimoya_cli.settings import load_settings

	say(explain_settings(load_settings("negatives", args.parameters or {}, args.overrides, flags=flag_values(args))))
	return 0


def flag_values(args: argparse.Namespace) -> dict[str, Any]:
	"""The keys that flags were given for; without a JSON, -v alone decides on verbose."""
	values = {key: getattr(args, key) for key in FLAGS if getattr(args, key) is not None}
	if args.verbose or (values and not args.parameters):
		values["verbose"] = args.verbose
	return values


def output_path(settings: Any) -> Path:
	"""The BED file to write; its folder is made, and an error raised before any work if it cannot be."""
	path = Path(outputs(vars(settings))[0])
	try:
		path.parent.mkdir(parents=True, exist_ok=True)
	except OSError as error:
		reason = error.strerror
		raise InputError(f"{path.parent}: this folder cannot be made ({reason}); choose another output") from None
	if path.is_dir():
		raise InputError(f"{path}: is a folder; name the BED file to write")
	return path


def check_tilings(settings: Any) -> None:
	"""SettingsError where tilings cannot be told apart: shifts are whole bases."""
	if settings.tilings > settings.in_window:
		raise SettingsError(
			f"tilings is {settings.tilings}, more than the {settings.in_window} bp of in_window; give a few, such as 4"
		)


def check_picture(path: str | None) -> None:
	"""An error, before any work, when a picture that is asked for cannot be drawn or written."""
	if path is None:
		return
	from cherimoya.plot import require_matplotlib

	if Path(path).suffix.lower() not in PICTURES:
		raise SettingsError(f"plot_filename: {path} does not say the kind of picture; end it in {', '.join(PICTURES)}")
	if not Path(path).parent.is_dir():
		raise InputError(f"{path}: its folder does not exist; make it, or choose another place for plot_filename")
	require_matplotlib("plot_filename")


def compute(settings: Any) -> "Negatives":
	"""The background loci."""
	from cherimoya.io.genome import Genome
	from cherimoya.io.negatives import gc_matched_negatives

	return gc_matched_negatives(
		settings.loci,
		Genome(settings.sequences, chrom_aliases=settings.chrom_aliases),
		signals=settings.signals,
		chroms=settings.chroms,
		exclusion_lists=settings.exclusion_lists,
		in_window=settings.in_window,
		out_window=settings.out_window,
		bin_width=settings.bin_width,
		max_n_perc=settings.max_n_perc,
		beta=settings.beta,
		n=settings.n,
		tilings=settings.tilings,
		random_state=settings.random_state,
		absolute=settings.absolute_signals,
		workers=settings.n_jobs,
		verbose=settings.verbose,
	)


def write(output: Path, negatives: "Negatives", settings: Any) -> None:
	"""Write the BED file and, beside it, the record of how it was made and the account; and the picture."""
	from cherimoya.io.loci import write_bed
	from cherimoya.io.windows import Accounting
	from cherimoya_cli.inference import publish_together
	from cherimoya_cli.measuring import write_accounting

	record = {
		**negatives.to_dict(),
		"output": str(output),
		"versions": versions(),
		"settings": settings.model_dump(mode="json"),
	}
	paths = outputs(vars(settings))
	if settings.plot_filename is not None:
		paths.append(settings.plot_filename)
	with publish_together(paths) as (bed, as_json, tsv, *pictures):
		write_bed(bed, negatives.loci.chroms, negatives.loci.starts, negatives.loci.ends)
		write_json(as_json, record)
		tiles = Accounting(negatives.tiles, negatives.usable, negatives.removed)
		write_accounting(tsv, {"loci": negatives.accounting, "tiles": tiles})
		for picture in pictures:
			draw(picture, negatives)


def draw(path: Path, negatives: "Negatives") -> None:
	"""Write the picture of the GC content of loci and background."""
	from matplotlib.figure import Figure

	from cherimoya.plot import plot_gc

	figure = Figure(figsize=(4.6, 3.2), layout="constrained")
	plot_gc(negatives, ax=figure.add_subplot())
	figure.savefig(path, dpi=200)


def tell(output: Path, negatives: "Negatives", settings: Any) -> None:
	"""Print where loci and tiles went, how well GC content matches, and what was written."""
	say(negatives.accounting.table("Loci to match"))
	say()
	say(negatives.table("Background", histogram=settings.verbose))
	if len(negatives) < negatives.requested:
		most = max(negatives.removed, key=negatives.removed.get)
		warn(
			f"note: only {len(negatives):,} of the {negatives.requested:,} background loci asked for were found; the "
			f"filter '{most}' removed most tiles ({negatives.removed[most]:,} of {negatives.tiles:,})"
		)
	if settings.random_state is None:
		say(f"The seed drawn is {negatives.random_state}")
	say(f"Wrote {output}" + (f" and {settings.plot_filename}" if settings.plot_filename is not None else ""))
