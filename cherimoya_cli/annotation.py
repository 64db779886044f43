"""The step that names the known motifs nearest to seqlets: ``python -m cherimoya_cli.annotation -p JSON``.

``cherimoya seqlets`` does the same when it is given motifs; its sequences are those that were attributed, here they
come from the FASTA.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from cherimoya.errors import SettingsError
from cherimoya_cli.inference import Progress, check_outputs, publish_together
from cherimoya_cli.utils import say, warn

if TYPE_CHECKING:
	import numpy as np

	from cherimoya.interpret.seqlets import Matches, Seqlets
	from cherimoya.io.motifs import Motif

_OF_TOMTOM = ("n_nearest", "n_jobs", "n_score_bins", "n_median_bins", "n_target_bins", "n_cache")
_SHOWN = 5  # motifs that are named on the screen
COUNT_COLUMNS = ("motif", "seqlets", "positive", "negative")
"""Of the table of motifs."""


def outputs(values: Mapping[str, Any]) -> list[str]:
	"""The files that the step leaves, from its settings: the seqlets with their motifs, and how many each motif has."""
	name = values["name"]
	return [values["output_filename"] or f"{name}.seqlets_annotated.bed", f"{name}.motif_seqlet_count.tsv"]


def annotate(values: Mapping[str, Any]) -> None:
	"""Read seqlets, motifs and sequences, compare, write.

	Parameters
	----------
	values: dict
		The settings of the step, resolved.

	Raises
	------
	InputError
		A file is missing or malformed, or the seqlets are not in the genome.
	MissingExtraError
		memelite is not installed.
	"""
	from cherimoya.interpret.seqlets import read_seqlets, seqlet_codes
	from cherimoya.io.genome import Genome

	path = values["seqlet_filename"] or f"{values['name']}.seqlets.bed"
	if path in outputs(values):
		raise SettingsError(f"output_filename is {path}, the file of the seqlets themselves; give another name")
	motifs = load_motifs(values)
	check_outputs(SimpleNamespace(source="output_filename"), outputs(values))
	seqlets = read_seqlets(path)
	codes = seqlet_codes(seqlets, Genome(values["sequences"], chrom_aliases=values["chrom_aliases"]), source=path)
	if not len(seqlets):
		warn(f"note: {path} holds no seqlets, so the files hold none")
	matches = compare(codes, motifs, values)
	with publish_together(outputs(values)) as paths:
		write_tables(paths, seqlets, matches, values)
	say(f"Wrote {', '.join(outputs(values))}")


def load_motifs(values: Mapping[str, Any]) -> "list[Motif]":
	"""The motif database; says when it is too small for its p-values to be trusted."""
	from cherimoya.interpret.seqlets import FEW_MOTIFS
	from cherimoya.io.motifs import read_motifs

	motifs = read_motifs(values["motifs"])
	if len(motifs) < FEW_MOTIFS:
		warn(
			f"note: {values['motifs']}: has {len(motifs):,} motifs; p-values of matches depend on the database, and "
			f"with fewer than {FEW_MOTIFS} they mean little"
		)
	return motifs


def compare(codes: "Sequence[np.ndarray]", motifs: "list[Motif]", values: Mapping[str, Any]) -> "Matches":
	"""The motifs nearest to sequences, with the settings' options; tells how far it is."""
	from cherimoya.interpret.seqlets import annotate_seqlets

	say(f"Comparing {len(codes):,} seqlets with {len(motifs):,} motifs")
	if values["n_nearest"] > len(motifs):
		warn(f"note: n_nearest is {values['n_nearest']}, but there are {len(motifs)} motifs; all are listed")
	progress = Progress("annotate", "seqlets") if values["verbose"] else None
	with warnings.catch_warnings():
		warnings.filterwarnings("ignore", "tomtom was given", UserWarning)  # `load_motifs` has said it
		return annotate_seqlets(codes, motifs, progress=progress, **{key: values[key] for key in _OF_TOMTOM})


def write_tables(paths: Sequence[Path], seqlets: "Seqlets", matches: "Matches", values: Mapping[str, Any]) -> None:
	"""Write the seqlets with their motifs, and how many seqlets each motif has, to two paths."""
	from cherimoya.interpret.seqlets import count_motifs, write_seqlets

	counts = count_motifs(seqlets, matches, match_threshold=values["match_threshold"])
	write_seqlets(paths[0], seqlets, matches)
	rows = [COUNT_COLUMNS, *counts]
	Path(paths[1]).write_text("".join("\t".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
	near = sum(count.n for count in counts)
	say(f"{near:,} of {len(seqlets):,} seqlets are like a motif (E-value of at most {values['match_threshold']:g})")
	if counts:
		say("  most often " + ", ".join(f"{count.motif} ({count.n:,})" for count in counts[:_SHOWN]))


if __name__ == "__main__":
	from cherimoya_cli.steps import run_step

	run_step("annotation", annotate)
