"""The step that writes the report of TF-MoDISco: ``python -m cherimoya_cli.modisco_report -p JSON``.

The folder holds ``motifs.html``, the page of ``modisco report-simple``, with its pictures, and ``motifs.tsv``, the same
as a table. The page shows files of its folder alone, and asks nothing of the network.
"""

import contextlib
import io
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cherimoya.errors import CherimoyaError, InputError, SettingsError, ToolError
from cherimoya_cli.modisco import TRIM, nearest_motifs, read_patterns, require_modisco, threads
from cherimoya_cli.utils import say, write_text

if TYPE_CHECKING:
	from cherimoya.io.motifs import Motif
	from cherimoya_cli.modisco import Match, Pattern

PAGE, TABLE = "motifs.html", "motifs.tsv"
COLUMNS = ("pattern", "sign", "seqlets", "consensus")
"""Of the table; for each of the nearest motifs there are motif_1, p_value_1 and q_value_1, and so on."""

_OWN = frozenset({PAGE, TABLE, "trimmed_logos", "report.html", "logos", "seqlet_examples", "tomtom_logos", "tomtom"})
_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>TF-MoDISco</title>
<style>
body { font-family: sans-serif; margin: 2rem; }
table { border-collapse: collapse; border: 0; }
td, th { border: 0; border-bottom: 1px solid #ddd; padding: 0.4rem 0.8rem; text-align: left; }
</style>
</head>
<body>
<h1>TF-MoDISco</h1>
"""


def outputs(values: Mapping[str, Any]) -> list[str]:
	"""The files that the step leaves, from its settings; the pictures of its page are beside them."""
	return [f"{folder_of(values)}/{name}" for name in (PAGE, TABLE)]


def folder_of(values: Mapping[str, Any]) -> str:
	"""The folder of the report."""
	return (values["output_folder"] or f"{values['name']}_modisco").rstrip("/") or "/"


def results_path(values: Mapping[str, Any]) -> str:
	"""The file of TF-MoDISco's results."""
	return values["output_filename"] or f"{values['name']}_modisco_results.h5"


def make_report(values: Mapping[str, Any]) -> None:
	"""Read TF-MoDISco's results and the known motifs, compare, draw.

	Parameters
	----------
	values: dict
		The settings of the step, resolved.

	Raises
	------
	SettingsError
		The folder holds other things.
	InputError
		A file is missing or malformed, or the folder cannot be written.
	MissingExtraError
		A package of the extra ``motifs`` is not installed.
	ToolError
		modisco-lite cannot draw its page.
	"""
	motifs = prepare(values)
	patterns = read_patterns(results_path(values))
	write_report(patterns, motifs, values)


def prepare(values: Mapping[str, Any]) -> "list[Motif] | None":
	"""Check, before any work, what the report needs besides the results; returns the known motifs, if there are any."""
	from cherimoya_cli.annotation import load_motifs

	require_modisco(report=True)
	check_folder(folder_of(values))
	return load_motifs(values) if values["motifs"] else None


def check_folder(folder: str) -> None:
	"""SettingsError when a folder holds what no report does, as it will be replaced; InputError if it cannot be."""
	path = Path(folder)
	if path.exists() and not path.is_dir():
		raise SettingsError(f"{folder}: is a file; choose another output_folder for TF-MoDISco's report, or move it")
	try:
		present = list(path.iterdir()) if path.exists() else []
		os.makedirs(path.resolve().parent, exist_ok=True)
		with tempfile.TemporaryFile(dir=path.resolve().parent):
			pass
	except OSError as error:
		raise InputError(
			f"{folder}: cannot be written ({error.strerror}); choose another output_folder for TF-MoDISco's report"
		) from None
	others = sorted(entry.name for entry in present if entry.name not in _OWN and entry.suffix != ".png")
	if others:
		more = f" and {len(others) - 1:,} more" if others[1:] else ""
		raise SettingsError(
			f"{folder}: holds {others[0]}{more}, which no report of TF-MoDISco does, and the report would replace the "
			"folder; choose another output_folder"
		)


def write_report(patterns: "Sequence[Pattern]", motifs: "list[Motif] | None", values: Mapping[str, Any]) -> None:
	"""Compare patterns with known motifs, draw the page, write the table; all appear together."""
	from cherimoya_cli.elapsed import Elapsed

	folder = folder_of(values)
	matches = None
	n_matches = min(values["n_matches"], len(motifs or ()))
	with Elapsed("Report of TF-MoDISco", shown=values["verbose"]), replacing_folder(folder) as temporary:
		if motifs is not None:
			matches = nearest_motifs(patterns, motifs, n_matches=n_matches, n_jobs=values["n_jobs"])
		write_text(temporary / TABLE, table(patterns, motifs, matches, n_matches))
		page = draw(temporary, motifs, n_matches, values) if patterns else "<p>TF-MoDISco found no pattern.</p>\n"
		write_text(temporary / PAGE, f"{_HEAD}{page}\n</body>\n</html>\n")
	say(f"Wrote {', '.join(outputs(values))}")


@contextlib.contextmanager
def replacing_folder(folder: str) -> Iterator[Path]:
	"""A new folder that takes the name `folder` when the block ends well, in place of what had it; else it is removed.

	Raises
	------
	InputError
		The operating system refuses: the disk is full, say.
	"""
	final = Path(folder).resolve()
	try:
		temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".part", dir=final.parent))
		try:
			yield temporary
			umask = os.umask(0)
			os.umask(umask)
			temporary.chmod(0o777 & ~umask)  # mkdtemp makes folders private
			_exchange(temporary, final)
		finally:
			shutil.rmtree(temporary, ignore_errors=True)
	except OSError as error:
		if isinstance(error, CherimoyaError):
			raise
		raise InputError(
			f"{folder}: cannot be written ({error.strerror or error}); make room there, or choose another output_folder"
		) from error


def _exchange(temporary: Path, final: Path) -> None:
	"""Give a new folder its name; one that had it is put back if that fails, and removed else."""
	if not final.exists():
		os.replace(temporary, final)
		return
	before = temporary.with_suffix(".old")
	os.replace(final, before)
	try:
		os.replace(temporary, final)
	except BaseException:
		os.replace(before, final)
		raise
	shutil.rmtree(before, ignore_errors=True)


def table(
	patterns: "Sequence[Pattern]",
	motifs: "Sequence[Motif] | None",
	matches: "Sequence[Sequence[Match]] | None",
	n_matches: int,
) -> str:
	"""The table of patterns, as text."""
	header = [*COLUMNS]
	for i in range(1, n_matches + 1):
		header += [f"motif_{i}", f"p_value_{i}", f"q_value_{i}"]
	lines = ["\t".join(header)]
	for i, pattern in enumerate(patterns):
		row = [pattern.name, "positive" if pattern.sign > 0 else "negative", str(pattern.n_seqlets), pattern.consensus]
		for match in matches[i] if matches else ():
			row += [str(motifs[match.motif]), f"{match.p_value:.4g}", f"{match.q_value:.4g}"]
		lines.append("\t".join(row))
	return "".join(line + "\n" for line in lines)


def draw(folder: Path, motifs: "Sequence[Motif] | None", n_matches: int, values: Mapping[str, Any]) -> str:
	"""Let modisco-lite draw its page and pictures into a folder; returns the body of the page."""
	os.environ["MPLBACKEND"] = "Agg"  # before pyplot is imported, which would look for a screen
	import numba
	from modiscolite.report import report_motifs

	numba.set_num_threads(threads(values["n_jobs"]))
	path = results_path(values)
	with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
		warnings.simplefilter("ignore")  # of its libraries, to their callers
		database = Path(scratch) / "motifs.meme"
		if motifs is not None:
			write_plain_meme(database, motifs)
		try:
			with contextlib.redirect_stdout(io.StringIO()):
				report_motifs(
					Path(path),
					str(folder),
					"./",
					str(database) if motifs is not None else None,
					False,
					top_n_matches=n_matches,
					trim_threshold=TRIM,
					ttl=True,
				)
		except OSError:
			raise
		except Exception as error:
			raise ToolError(
				f"{path}: modisco-lite cannot draw its report ({type(error).__name__}: {error}); try "
				f"'modisco report -i {path} -o FOLDER', or another version of it"
			) from error
	page = (folder / PAGE).read_text(encoding="utf-8")
	# from the fourth match on, it gives the names of pictures alone
	return re.sub(r"<td>(\./[^<>\"]*\.png)</td>", r'<td><img src="\1" width="240" ></td>', page)


def write_plain_meme(path: Path, motifs: "Sequence[Motif]") -> None:
	"""Write motifs in MEME's format under names that can be those of pictures, and be part of a page, each its own."""
	from memelite.io import write_meme

	named: dict[str, Any] = {}
	for motif in motifs:
		name = stem = re.sub(r"[^\w.:()+-]+", "_", str(motif))
		number = 1
		while name in named:
			number += 1
			name = f"{stem}_{number}"
		named[name] = motif.pwm
	write_meme(str(path), named)


if __name__ == "__main__":
	from cherimoya_cli.steps import run_step

	run_step("modisco_report", make_report)
