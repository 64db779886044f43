"""The step that calls peaks with MACS3: ``python -m cherimoya_cli.peaks -p NAME.peaks.json``.

What is piled up follows from the experiment (``callpeaks_unit``):

- *cuts*: both ends of fragments, or 5' ends of reads, shifted as for the bigWigs, each smoothed over
  150 bp (``--nomodel --shift -75 --extsize 150 --keep-dup all``). The choice for unstranded
  experiments with shifts, such as ATAC-seq.
- *fragments*: whole fragments (MACS3's BAMPE, BEDPE and FRAG).
- *reads*: single reads, extended to the fragment length that MACS3 estimates.

Files that MACS3 reads in the same way are given to it as they are; others (CRAM, BEDPE with both mates,
a mixture of formats) are converted first. MACS3 works in a folder of its own; ``{name}_peaks.narrowPeak``
appears when the peaks are complete. With ``summits``, a peak has a row for each of its summits, else one.
"""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from cherimoya.errors import InputError, SettingsError, ToolError, missing_extra
from cherimoya_cli.process import exit_code_of, run_program, shell_line
from cherimoya_cli.reads import (
	Layout,
	ReadAccounting,
	controls_of,
	detect_layout,
	five_prime_ends,
	group_values,
	iterate_reads,
	on_chromosomes,
	read_groups,
)
from cherimoya_cli.utils import say, warn

if TYPE_CHECKING:
	from cherimoya.io.genome import Genome

Unit = Literal["cuts", "fragments", "reads"]

NATIVE: dict[str, dict[str, str]] = {
	"reads": {"bam": "BAM", "sam": "SAM", "bed_stranded": "BED"},
	"fragments": {"bam": "BAMPE", "bed": "BEDPE", "bed_stranded": "BEDPE", "fragments": "FRAG"},
	"cuts": {},
}
"""For each unit, the layouts that MACS3 reads as we do, and its name (-f) for each."""

_PIECE = 1 << 24  # bases that are counted at a time
NAMED_SIZES = {"hs": 2.9e9, "mm": 2.65e9, "ce": 1.0e8, "dm": 1.4e8}
"""The genome sizes that MACS3 knows by name, about, in bp."""

CUT_ARGUMENTS = ("--nomodel", "--shift", "-75", "--extsize", "150", "--keep-dup", "all")
"""How a cut becomes 150 bp of pile-up around it; two cuts at one place are two events."""


class Call(NamedTuple):
	"""One run of MACS3: the format (-f), whether files are converted first, and arguments of the unit."""

	format: str
	convert: bool
	arguments: tuple[str, ...]


def choose_unit(
	unit: str, *, unstranded: bool, fragments: bool, paired_end: bool, pos_shift: int, neg_shift: int
) -> Unit:
	"""What MACS3 piles up when the settings leave it open ("auto")."""
	if unit != "auto":
		return unit  # type: ignore[return-value]
	if unstranded and (pos_shift or neg_shift):
		return "cuts"
	return "fragments" if fragments or paired_end else "reads"


def choose_call(
	unit: Unit, layouts: Sequence[Layout], *, given_format: str | None = None, rename: bool = False
) -> Call:
	"""The format for MACS3, and whether the files must be converted to it.

	Parameters
	----------
	unit: str
		"cuts", "fragments" or "reads".
	layouts: sequence of str
		Layout of each file of the experiment and of its controls.
	given_format: str or None
		The user's format: files go to MACS3 as they are. Default is None.
	rename: bool
		Whether the files may name chromosomes differently, so that they are converted. Default is False.
	"""
	if given_format is not None:
		return Call(given_format, False, CUT_ARGUMENTS if unit == "cuts" else ())
	if unit == "cuts":
		return Call("BED", True, CUT_ARGUMENTS)
	names = {NATIVE[unit].get(layout) for layout in layouts}
	if len(names) == 1 and None not in names and not rename:
		name = names.pop()
		return Call(str(name), False, ("--max-count", "1") if name == "FRAG" else ())
	return Call("BEDPE" if unit == "fragments" else "BED", True, ())


def macs_command(
	program: str,
	call: Call,
	treatment: Sequence[str],
	control: Sequence[str],
	*,
	genome_size: str,
	q: float,
	summits: bool,
	extra: Sequence[str] | None,
	name: str,
	folder: str | Path,
) -> list[str]:
	"""The argument list of ``macs3 callpeak``."""
	command = [program, "callpeak", "-t", *treatment]
	if control:
		command += ["-c", *control]
	command += ["-f", call.format, "-g", genome_size, "-q", f"{q:g}", "-n", name, "--outdir", str(folder)]
	command += ["--tempdir", str(folder), *call.arguments]
	if summits:
		command.append("--call-summits")
	return command + list(extra or ())


def find_program(name: str) -> str | None:
	"""Where a program is: beside this Python, or on the PATH; None if nowhere."""
	beside = Path(sys.executable).with_name(name)
	return str(beside) if os.access(beside, os.X_OK) else shutil.which(name)


def known_bases(genome: Any) -> int:
	"""How many bases of a genome are A, C, G or T: the genome size when none is given."""
	pieces = (
		(chrom, first, min(first + _PIECE, size))
		for chrom, size in genome.chrom_sizes.items()
		for first in range(0, size, _PIECE)
	)
	return sum(int((genome.read(*piece) < 4).sum()) for piece in pieces)


def convert_for_macs(
	path: str, target: Path, genome: "Genome", unit: Unit, settings: Mapping[str, Any]
) -> ReadAccounting:
	"""Write reads as BED with strands, fragments as MACS3's BEDPE, or cuts as BED of one base each."""
	fragments = unit == "fragments" or (unit == "cuts" and settings["fragments"])
	accounting = ReadAccounting(path, "fragments" if fragments else "reads")
	chrom_sizes = genome.chrom_sizes
	names = list(chrom_sizes)
	chunks = iterate_reads(
		path,
		chrom_sizes,
		fragments=fragments,
		accounting=accounting,
		sequences=settings["sequences"],
		names=genome.names,
	)
	with target.open("w") as handle:
		for chunk in chunks:
			if unit == "cuts":
				ends = five_prime_ends(
					chunk, fragments=fragments, pos_shift=settings["pos_shift"], neg_shift=settings["neg_shift"]
				)
				inside = on_chromosomes(ends, chrom_sizes)
				accounting.beyond += int((~inside).sum())
				rows = zip(
					ends.chrom[inside].tolist(),
					ends.position[inside].tolist(),
					ends.reverse[inside].tolist(),
					strict=True,
				)
				handle.writelines(f"{names[c]}\t{p}\t{p + 1}\t.\t.\t{'-' if r else '+'}\n" for c, p, r in rows)
				continue
			rows = zip(
				chunk.chrom.tolist(), chunk.start.tolist(), chunk.end.tolist(), chunk.reverse.tolist(), strict=True
			)
			if unit == "fragments":
				handle.writelines(f"{names[c]}\t{s}\t{e}\n" for c, s, e, _ in rows)
			else:
				handle.writelines(f"{names[c]}\t{s}\t{e}\t.\t.\t{'-' if r else '+'}\n" for c, s, e, r in rows)
	return accounting


def peaks_path(name: str) -> str:
	"""The file that holds a run's peaks."""
	return f"{name}_peaks.narrowPeak"


def outputs(values: Mapping[str, Any]) -> list[str]:
	"""The files that the step leaves, from its settings."""
	return [peaks_path(values["name"])]


def make_peaks(settings: Mapping[str, Any]) -> int:
	"""Call the peaks of each experiment, and write them together; return how many there are.

	Parameters
	----------
	settings: dict
		name, sequences, chrom_aliases, signals and controls (reads, grouped as `read_groups` says; an entry of
		controls for each group is for that group, else all are used for every one), summits, the shifts and
		strands of the reads, and callpeaks_*.

	Raises
	------
	MissingExtraError
		MACS3 is not installed.
	ToolError
		MACS3 failed; its last lines are in the message.
	InputError
		There are no peaks.
	"""
	from cherimoya.io.genome import Genome

	program = find_program("macs3")
	if program is None:
		raise missing_extra("macs3", extra="pipeline", needed_for="calling peaks")
	genome = Genome(settings["sequences"], chrom_aliases=settings["chrom_aliases"])
	groups = read_groups(settings["signals"])
	size = settings["callpeaks_gsize"]
	genome_size = f"{known_bases(genome) if size is None else size}"
	total = sum(genome.chrom_sizes.values())
	if total < NAMED_SIZES.get(genome_size, 0) / 2:
		warn(
			f"note: callpeaks_gsize is {genome_size} ({NAMED_SIZES[genome_size]:.2g} bp), but {settings['sequences']} "
			f"has {total:,} bp; a genome size that is too large calls noise as peaks: set it to null to count the "
			"FASTA's bases"
		)
	folder = Path(f"{settings['name']}.peaks.tmp")
	shutil.rmtree(folder, ignore_errors=True)  # left by a run that was killed
	folder.mkdir(parents=True)
	try:
		rows: list[str] = []
		for i in range(len(groups)):
			rows += _call_group(i, settings, program, genome, genome_size, folder)
		if not rows:
			raise InputError(
				f"{', '.join(groups[0])}: MACS3 found no peak with callpeaks_q {settings['callpeaks_q']} and a genome "
				f"size of {genome_size}; check callpeaks_gsize (null: counted from the FASTA), raise callpeaks_q, "
				"or give loci"
			)
		order = {chrom: k for k, chrom in enumerate(genome.chrom_sizes)}
		fields = [row.split("\t") for row in rows]
		ranked = sorted(range(len(rows)), key=lambda k: (order.get(fields[k][0], len(order)), int(fields[k][1])))
		target = peaks_path(settings["name"])
		temporary = folder / "peaks"
		temporary.write_text("".join(f"{rows[k]}\n" for k in ranked))
		os.replace(temporary, target)
		say(f"  -> {target}: {len(rows):,} {'summits' if settings['summits'] else 'peaks'}")
	finally:
		shutil.rmtree(folder, ignore_errors=True)
	return len(rows)


def _call_group(
	index: int,
	settings: Mapping[str, Any],
	program: str,
	genome: "Genome",
	genome_size: str,
	folder: Path,
) -> list[str]:
	"""The rows of narrowPeak of one experiment."""
	groups = read_groups(settings["signals"])
	files, controls = groups[index], controls_of(index, settings)
	settings = group_values(settings, index, len(groups))
	unit, call = planned_call(settings, [*files, *controls])
	treatment, control = list(files), list(controls)
	if call.convert:
		for paths in (treatment, control):
			for k, path in enumerate(paths):
				target = folder / f"{index}.{'treatment' if paths is treatment else 'control'}.{k}.bed"
				for line in convert_for_macs(path, target, genome, unit, settings).lines():
					say(line)
				paths[k] = str(target)
	name = Path(settings["name"]).name + (f".{index}" if len(groups) > 1 else "")
	command = macs_command(
		program,
		call,
		treatment,
		control,
		genome_size=genome_size,
		q=settings["callpeaks_q"],
		summits=settings["summits"],
		extra=settings["callpeaks_arguments"],
		name=name,
		folder=folder,
	)
	say(shell_line(command))
	finished = run_program(command, echo=settings["verbose"])
	code = exit_code_of(finished)
	if code in (130, 143):
		sys.exit(code)
	result = folder / f"{name}_peaks.narrowPeak"
	if finished.code != 0 or not result.is_file():
		quoted = "\n".join(f"  {line}" for line in finished.tail)
		raise ToolError(
			f"macs3 callpeak failed on {', '.join(files)} (exit code {finished.code}); its last lines were:\n{quoted}\n"
			"if it could not estimate the fragment length, give it one: "
			'"callpeaks_arguments": ["--nomodel", "--extsize", "200"]'
		)
	rows = [line.split("\t") for line in result.read_text().splitlines()]
	renaming = genome.names.renaming(dict.fromkeys(row[0] for row in rows), ", ".join(files))
	return ["\t".join([renaming[row[0]], *row[1:]]) for row in rows]


def planned_call(settings: Mapping[str, Any], files: Sequence[str]) -> tuple[Unit, Call]:
	"""What is piled up, and how MACS3 is called, for the files of one experiment and its controls."""
	unit = choose_unit(
		settings["callpeaks_unit"],
		unstranded=settings["unstranded"],
		fragments=settings["fragments"],
		paired_end=settings["paired_end"],
		pos_shift=settings["pos_shift"],
		neg_shift=settings["neg_shift"],
	)
	layouts = [detect_layout(path) for path in files]
	if unit == "fragments" and not settings["fragments"]:
		for path, layout in zip(files, layouts, strict=True):
			if layout == "bed_stranded":
				raise SettingsError(
					f"{path}: each line is a single read, so there are no pairs to call peaks on; set paired_end to "
					"false, or fragments to true if each line is a fragment"
				)
	rename = bool(settings["chrom_aliases"])
	return unit, choose_call(unit, layouts, given_format=settings["callpeaks_format"], rename=rename)


if __name__ == "__main__":
	from cherimoya_cli.steps import run_step

	run_step("peaks", make_peaks)
