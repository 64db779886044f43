"""``cherimoya motifs``: motifs that contributions share, found anew with TF-MoDISco, and its report."""

import argparse
import json
import math
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from cherimoya.errors import InputError, Interrupted, SettingsError, ToolError, join_problems
from cherimoya_cli import modisco_report
from cherimoya_cli.inference import check_outputs
from cherimoya_cli.modisco import CORE, MIN_WIDTH, MOST_IGNORED, most_seqlets, read_patterns, require_modisco
from cherimoya_cli.utils import say, settings_from_args, warn

if TYPE_CHECKING:
	import numpy as np

	from cherimoya_cli.commands.seqlets import StoredArray
	from cherimoya_cli.modisco import Pattern
	from cherimoya_cli.process import Finished

_SHOWN = 10  # patterns that are named on the screen


@dataclass
class Seen:
	"""What the windows hold that were read so far.

	Attributes
	----------
	low, high: float
		The smallest and largest contribution of a base.
	least, most: float
		The smallest and largest sum over a stretch of `CORE` bp.
	n: int
		Windows.
	different: set of int
		Hashes of the windows, as far as it matters how many of them differ.
	"""

	low: float = math.inf
	high: float = -math.inf
	least: float = math.inf
	most: float = -math.inf
	n: int = 0
	different: set[int] = field(default_factory=set)

	def add(self, used: "np.ndarray") -> None:
		"""Windows (m, 4, W) of the contributions of the bases that are there, 0 for the others."""
		import numpy as np

		contributions = used.sum(axis=1, dtype=np.float64)  # (m, 4, W) -> (m, W)
		totals = np.pad(contributions, ((0, 0), (1, 0))).cumsum(axis=1)  # (m, W + 1)
		sums = totals[:, CORE:] - totals[:, :-CORE]
		self.low, self.high = min(self.low, contributions.min()), max(self.high, contributions.max())
		self.least, self.most = min(self.least, sums.min()), max(self.most, sums.max())
		self.n += len(used)
		for window in used:
			if len(self.different) > MOST_IGNORED:
				break
			self.different.add(hash(window.tobytes()))


class Loaded(NamedTuple):
	"""What ``attribute`` has left, and the part of it that is used.

	Attributes
	----------
	ohe, attr: StoredArray
		One-hot sequences and hypothetical contributions, shape (n, 4, W).
	start, end: int
		The positions that are used.
	nothing: str
		Why there is no motif in it, in words; empty where there may be some.
	"""

	ohe: "StoredArray"
	attr: "StoredArray"
	start: int
	end: int
	nothing: str

	@property
	def size(self) -> str:
		"""How much it is, in words."""
		return f"{self.attr.shape[0]:,} windows of {self.end - self.start:,} bp"


def add_arguments(parser: argparse.ArgumentParser) -> None:
	"""No flags but those of all commands."""


def outputs(values: Mapping[str, Any]) -> list[str]:
	"""The files that the command leaves, from its settings: TF-MoDISco's results, and its report if wanted."""
	return [modisco_report.results_path(values), *(modisco_report.outputs(values) if values["report"] else [])]


def run(args: argparse.Namespace) -> int:
	"""Check contributions, run TF-MoDISco, write its results and report; returns the exit code."""
	settings = settings_from_args("motifs", args)
	values = settings.model_dump(mode="json")
	require_modisco(report=False)
	motifs = modisco_report.prepare(values) if values["report"] else None
	path = modisco_report.results_path(values)
	check_outputs(settings, [path])
	patterns = find_patterns(load(values), path, values)
	tell(patterns)
	say(f"Wrote {path}")
	if values["report"]:
		modisco_report.write_report(patterns, motifs, values)
	return 0


def load(values: Mapping[str, Any]) -> Loaded:
	"""Check the files of ``attribute``, a part at a time."""
	from cherimoya_cli.commands.seqlets import StoredArray, attribution_files, check_block

	paths = attribution_files({"idx_filename": None, "bed_filename": None, **values})
	ohe = StoredArray(paths["ohe_filename"], "one-hot sequences")
	attr = StoredArray(paths["attr_filename"], "contributions")
	check_shapes(ohe, attr)
	start, end = central(attr, values)
	seen = Seen()
	for hot, scores in zip(ohe.blocks(), attr.blocks(), strict=True):
		check_block(hot, scores, seen.n, ohe, attr)
		seen.add(scores[:, :, start:end] * hot[:, :, start:end])
	return Loaded(ohe, attr, start, end, nothing=check_contributions(seen, attr.path, end - start))


def check_contributions(seen: Seen, path: str, width: int) -> str:
	"""Why windows of `width` bp hold no motif, if that is plain; InputError if TF-MoDISco cannot work on them."""
	if seen.low == seen.high:
		return "all contributions are equal, so there is nothing to find"
	most = most_seqlets(width)
	if seen.n * most <= MOST_IGNORED:
		return f"{seen.n:,} windows of {width:,} bp hold {seen.n * most:,} of TF-MoDISco's seqlets at most, too few"
	if len(seen.different) * most <= MOST_IGNORED:
		raise InputError(
			f"{path}: holds {seen.n:,} windows of which only {len(seen.different):,} differ, too few for TF-MoDISco; "
			"give each locus once"
		)
	if seen.least >= 0 or seen.most < 0:
		does = "lowers" if seen.least >= 0 else "raises"
		raise InputError(
			f"{path}: no stretch of {CORE} bp {does} the prediction (its contributions sum up to {seen.least:.3g} at "
			f"least, {seen.most:.3g} at most), and TF-MoDISco needs both signs to tell what stands out; give "
			"contributions at more loci, or of wider windows (attr_window), with the small ones as they are"
		)
	return ""


def check_shapes(ohe: "StoredArray", attr: "StoredArray") -> None:
	"""InputError unless both arrays are of the shape (n, 4, W)."""
	problems = [
		f"{array.path}: arr_0 has the shape {array.shape}, not (loci, 4, bp), the bases being A, C, G and T; give the "
		"file that 'cherimoya attribute' writes"
		for array in (ohe, attr)
		if len(array.shape) != 3 or array.shape[1] != 4 or not math.prod(array.shape)
	]
	if not problems and ohe.shape != attr.shape:
		problems = [
			f"{ohe.path}: holds {ohe.shape[0]:,} loci of {ohe.shape[2]:,} bp, but {attr.path} {attr.shape[0]:,} of "
			f"{attr.shape[2]:,} bp; give the files of one run"
		]
	if problems:
		raise InputError(join_problems(problems))


def central(attr: "StoredArray", values: Mapping[str, Any]) -> tuple[int, int]:
	"""The central positions that `modisco_window` keeps."""
	width, window = attr.shape[2], values["modisco_window"]
	if width < MIN_WIDTH:
		raise InputError(
			f"{attr.path}: holds contributions of {width} bp a locus, and TF-MoDISco's seqlets are {MIN_WIDTH} bp "
			"long; attribute the loci again with a larger attr_window"
		)
	if window is None:
		return 0, width
	if window > width:
		raise SettingsError(
			f"modisco_window is {window:,} bp, but {attr.path} holds contributions of {width:,} bp a locus; set it to "
			f"null or at most {width:,}, or attribute the loci again with a larger attr_window"
		)
	start = width // 2 - window // 2
	return start, start + window


def find_patterns(loaded: Loaded, path: str, values: Mapping[str, Any]) -> "list[Pattern]":
	"""Run TF-MoDISco; its results appear under `path` when they are complete."""
	from cherimoya.io._files import replacing

	with replacing(path) as temporary:
		if loaded.nothing:
			warn(f"note: {loaded.attr.path}: {loaded.nothing}")
			write_nothing(temporary, loaded.end - loaded.start)
		else:
			discover(loaded, temporary, values)
		return read_patterns(temporary)


def write_nothing(path: str, width: int) -> None:
	"""A file of results without patterns."""
	import h5py

	with h5py.File(path, "w") as file:
		file.attrs["window_size"] = width


def discover(loaded: Loaded, path: str, values: Mapping[str, Any]) -> None:
	"""Run TF-MoDISco in a process of its own.

	Raises
	------
	ToolError
		It failed, or was killed.
	Interrupted
		A signal ended it.
	"""
	from cherimoya.io._workers import n_cores
	from cherimoya_cli.elapsed import Elapsed
	from cherimoya_cli.modisco_worker import Job
	from cherimoya_cli.process import exit_code_of, run_program

	job = Job(
		ohe=loaded.ohe.path,
		attr=loaded.attr.path,
		start=loaded.start,
		end=loaded.end,
		n_seqlets=values["n_seqlets"],
		n_jobs=values["n_jobs"] or n_cores(),
		output=path,
	)
	command = [sys.executable, "-m", "cherimoya_cli.modisco_worker", json.dumps(job._asdict())]
	with Elapsed("TF-MoDISco", shown=values["verbose"]):
		finished = run_program(command, echo=values["verbose"])
	code = exit_code_of(finished)
	if code in (130, 143):
		error = Interrupted("TF-MoDISco keeps nothing of what it had done")
		error.exit_code = code
		raise error
	if code:
		raise ToolError(failure(finished, loaded))


def failure(finished: "Finished", loaded: Loaded) -> str:
	"""What to say of a run of TF-MoDISco that failed."""
	lines = "\n".join(f"  {line}" for line in finished.tail)
	if finished.code == -signal.SIGKILL or (finished.tail and finished.tail[-1] == "out of memory"):
		what, remedy = "was killed", "it may have run out of memory: a smaller n_seqlets or n_jobs needs less"
	else:
		what = f"failed (exit code {finished.code})"
		remedy = "contributions at more loci, or more of each (attr_window, modisco_window), may help"
	return f"TF-MoDISco {what} on {loaded.size} of {loaded.attr.path}; {remedy}. Its last lines were:\n{lines}"


def tell(patterns: "list[Pattern]") -> None:
	"""Say what was found, or that nothing was."""
	positive = sum(pattern.sign > 0 for pattern in patterns)
	say(
		f"TF-MoDISco found {len(patterns):,} pattern{'s' * (len(patterns) != 1)}: {positive:,} of positive and "
		f"{len(patterns) - positive:,} of negative contributions"
	)
	for pattern in patterns[:_SHOWN]:
		say(f"  {pattern.name:<26} {pattern.n_seqlets:>7,} seqlets  {pattern.consensus}")
	if len(patterns) > _SHOWN:
		say(f"  and {len(patterns) - _SHOWN:,} more")
	if not patterns:
		warn(
			"note: TF-MoDISco needs more than 100 seqlets of a sign, and 20 that are alike for a pattern; "
			"contributions at more loci, or of a model that has learned more, may give some"
		)
