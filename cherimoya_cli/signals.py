"""The step that turns reads into bigWigs: ``python -m cherimoya_cli.signals -p NAME.signals.json``.

One conversion for each experiment and one for each control: ``{name}.bw``, or ``{name}.+.bw`` and
``{name}.-.bw``; with several experiments ``{name}.0.bw``, ``{name}.1.bw``, ...; controls are
``{name}.control.bw`` and so on, with numbers where there are several. Each group of signals, and its control, may have
settings of its own. ``{name}.signals.record.json`` says where the reads went.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cherimoya.errors import InputError
from cherimoya_cli.reads import Conversion, ReadAccounting, add_counts, conversions, count_ends, describe_naming
from cherimoya_cli.utils import say, write_json

if TYPE_CHECKING:
	import numpy as np

	from cherimoya.io.genome import Genome

ENTRIES_AT_ONCE = 1 << 20
"""Positions that are handed to the bigWig writer at a time."""


def signal_paths(name: str, values: Mapping[str, Any]) -> dict[str, list[list[str]]]:
	"""The bigWigs of each group of reads.

	Parameters
	----------
	name: str
		Prefix of the run's files.
	values: dict
		signals and controls (reads, grouped as `read_groups` says), and unstranded.

	Returns
	-------
	paths: dict
		For signals and controls, the bigWigs of each entry: ``[["x.+.bw", "x.-.bw"]]`` for one stranded experiment
		named x. With one entry its number is left out of the names; a group without control has none.
	"""
	paths: dict[str, list[list[str]]] = {}
	for kind, found in conversions(values).items():
		stem = f"{name}.control" if kind == "controls" else name
		stems = [stem] if len(found) == 1 else [f"{stem}.{i}" for i in range(len(found))]
		paths[kind] = [
			([f"{s}.bw"] if part.values["unstranded"] else [f"{s}.+.bw", f"{s}.-.bw"]) if part.files else []
			for s, part in zip(stems, found, strict=True)
		]
	return paths


def outputs(values: Mapping[str, Any]) -> list[str]:
	"""The files that the step leaves, from its settings: bigWigs, and the record of where the reads went."""
	made = signal_paths(values["name"], values).values()
	return [*(path for groups in made for group in groups for path in group), record_path(values["name"])]


def record_path(name: str) -> str:
	"""The file that says where a run's reads went."""
	return f"{name}.signals.record.json"


def write_signal(
	path: str | Path,
	chrom_sizes: Mapping[str, int],
	counts: Mapping[str, tuple["np.ndarray", "np.ndarray"]],
	*,
	scale: float = 1.0,
) -> None:
	"""Write counts at single positions as a bigWig that lists every chromosome of the FASTA.

	Parameters
	----------
	path: str or Path
		The bigWig; it appears under this name only when it is complete.
	chrom_sizes: dict
		Chromosomes in the order to write, with their sizes in bp.
	counts: dict
		chromosome -> (sorted 0-based positions, counts).
	scale: float
		Multiplies each count. Default is 1.
	"""
	from cherimoya.io._bigwig_writer import BigWigWriter
	from cherimoya.io._files import replacing

	with replacing(path) as temporary, BigWigWriter(temporary, chrom_sizes) as file:
		for chrom in chrom_sizes:
			positions, values = counts.get(chrom, ((), ()))
			for i in range(0, len(positions), ENTRIES_AT_ONCE):
				part = slice(i, i + ENTRIES_AT_ONCE)
				file.add_points(chrom, positions[part], values[part].astype("float64") * scale)


def make_signals(settings: Mapping[str, Any]) -> dict[str, Any]:
	"""Convert every experiment and control of a run; return the record of where the reads went.

	Parameters
	----------
	settings: dict
		name, sequences, chrom_aliases, signals and controls (reads, grouped as `read_groups` says), unstranded,
		fragments, pos_shift, neg_shift, scale_factor, read_depth (one value for all groups or a list), n_jobs, verbose.

	Returns
	-------
	record: dict
		``{"signals": [group, ...], "controls": [...]}``, each group with its files' accounting, its
		outputs, the ends counted and the scale.

	Raises
	------
	InputError
		A file cannot be used, or nothing of an experiment is left to count.
	"""
	from cherimoya.io.genome import Genome

	genome = Genome(settings["sequences"], chrom_aliases=settings["chrom_aliases"])
	paths = signal_paths(settings["name"], settings)
	record: dict[str, Any] = {"signals": [], "controls": []}
	for kind, found in conversions(settings).items():
		for part, outputs in zip(found, paths[kind], strict=True):
			if part.files:
				record[kind].append(_convert(part, outputs, genome))
	return record


def _convert(part: Conversion, outputs: Sequence[str], genome: "Genome") -> dict[str, Any]:
	"""Write the bigWigs of one experiment or control; return the record of where its reads went."""
	files, values = part
	chrom_sizes = dict(genome.chrom_sizes)
	read = partial(
		count_ends,
		chrom_sizes=chrom_sizes,
		stranded=not values["unstranded"],
		fragments=values["fragments"],
		pos_shift=values["pos_shift"],
		neg_shift=values["neg_shift"],
		sequences=values["sequences"],
		names=genome.names,
		progress=say if values["verbose"] else None,
	)
	counted = _over_files(read, files, n_jobs=values["n_jobs"])
	strands = [add_counts(part) for part in zip(*(counts for counts, _ in counted), strict=True)]
	accountings = [accounting for _, accounting in counted]
	for accounting in accountings:
		for line in accounting.lines():
			say(line)
	total = int(sum(values.sum() for strand in strands for _, values in strand.values()))
	if total == 0:
		raise InputError(_nothing_left(files, accountings, chrom_sizes))
	scale = values["scale_factor"] / (total if values["read_depth"] else 1)
	for path, counts in zip(outputs, strands, strict=True):
		write_signal(path, chrom_sizes, counts, scale=scale)
	say(f"  -> {', '.join(outputs)}: {total:,} ends counted" + (f", each as {scale:g}" if scale != 1 else ""))
	return {
		"files": [accounting.to_dict() for accounting in accountings],
		"outputs": list(outputs),
		"ends_counted": total,
		"scale": scale,
	}


def _over_files(read: Any, files: Sequence[str], *, n_jobs: int | None) -> list[tuple[Any, ReadAccounting]]:
	"""Read files one after the other, or several at once."""
	from cherimoya.io._workers import n_cores

	workers = min(n_jobs or n_cores(), len(files), n_cores())
	if workers <= 1:
		return [read(path) for path in files]
	with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
		return list(pool.map(read, files))


def _nothing_left(files: Sequence[str], accountings: Sequence[ReadAccounting], chrom_sizes: Mapping[str, int]) -> str:
	"""Why an experiment has no ends to count, in words."""
	unknown = [chrom for accounting in accountings for chrom in accounting.unknown]
	table = "\n".join(f"  {line}" for accounting in accountings for line in accounting.lines())
	naming = f"; {describe_naming(unknown, chrom_sizes)}" if unknown else ""
	return f"{', '.join(files)}: no read can be counted{naming}\n{table}"


def work(settings: dict[str, Any]) -> None:
	"""Convert, and write the record beside the bigWigs."""
	write_json(record_path(settings["name"]), make_signals(settings))


if __name__ == "__main__":
	from cherimoya_cli.steps import run_step

	run_step("signals", work)
