"""``cherimoya seqlets``: stretches of high contribution, and the known motifs nearest to them."""

import argparse
import math
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from cherimoya.errors import InputError, SettingsError, join_problems
from cherimoya_cli import annotation
from cherimoya_cli.inference import check_outputs, publish_together
from cherimoya_cli.utils import say, settings_from_args, warn

if TYPE_CHECKING:
	import numpy as np

	from cherimoya.interpret.seqlets import Matches, Seqlets
	from cherimoya.io.loci import Loci

_BLOCK = 1_024  # windows that are read at a time
_KEY = "arr_0"


class Loaded(NamedTuple):
	"""What ``attribute`` has left, n windows of W bp.

	Attributes
	----------
	contributions: numpy.ndarray of float32, shape=(n, W)
		Those of the bases that are there.
	codes: numpy.ndarray of uint8, shape=(n, W), or None
		The bases; None where no motifs are given.
	windows: Loci
		Where they are.
	"""

	contributions: "np.ndarray"
	codes: "np.ndarray | None"
	windows: "Loci"


def add_arguments(parser: argparse.ArgumentParser) -> None:
	"""No flags but those of all commands."""


def outputs(values: Mapping[str, Any]) -> list[str]:
	"""The files that the command leaves, from its settings: seqlets, and with motifs their names and how many."""
	own = [values["output_filename"] or f"{values['name']}.seqlets.bed"]
	return [*own, *annotation.outputs({**values, "output_filename": None})] if values["motifs"] else own


def run(args: argparse.Namespace) -> int:
	"""Load contributions, find seqlets and their nearest motifs, write; returns the exit code."""
	from cherimoya.interpret.seqlets import check_lengths, find_seqlets, require_tangermeme

	settings = settings_from_args("seqlets", args)
	values = settings.model_dump(mode="json")
	lengths = {key: values[key] for key in ("threshold", "min_seqlet_len", "max_seqlet_len", "additional_flanks")}
	try:
		check_lengths(**lengths)
	except SettingsError as error:
		raise SettingsError(f"{settings.source}: {error}") from None
	require_tangermeme("finding seqlets")
	motifs = annotation.load_motifs(values) if values["motifs"] else None
	check_outputs(settings, outputs(values))
	loaded = load(values, with_bases=motifs is not None)
	seqlets = find_seqlets(loaded.contributions, loaded.windows, **lengths)
	tell(seqlets, loaded, values)
	matches = None if motifs is None else annotation.compare(bases(seqlets, loaded), motifs, values)
	write(seqlets, matches, values)
	return 0


# ---- reading ----------------------------------------------------------------------------------------


class StoredArray:
	"""An array of an .npz, of which only the rows at hand are in memory.

	Parameters
	----------
	path: str
		A file with the array `arr_0`.
	what: str
		What it holds, for messages.

	Attributes
	----------
	shape: tuple of int

	Raises
	------
	InputError
		It is no such file, or broken.
	"""

	def __init__(self, path: str, what: str) -> None:
		from cherimoya.io._files import check_exists

		self.path, self.what = path, what
		check_exists(path, what=f"{what}, which 'cherimoya attribute' writes")
		with self._open() as (_, header):
			self.shape, fortran, self._dtype = header
		if fortran or self._dtype.kind not in "fiub":
			kind = "column by column" if fortran else f"as {self._dtype}"
			raise InputError(f"{path}: {_KEY} is stored {kind}; store it row by row (C order) as numbers")

	def blocks(self) -> Iterator["np.ndarray"]:
		"""Its rows in order, `_BLOCK` at a time."""
		import numpy as np

		size = self._dtype.itemsize * math.prod(self.shape[1:])
		with self._open() as (file, _):
			for first in range(0, self.shape[0], _BLOCK):
				n = min(_BLOCK, self.shape[0] - first)
				data = file.read(n * size)
				if len(data) < n * size:
					raise EOFError("it ends too early")
				yield np.frombuffer(data, dtype=self._dtype).reshape(n, *self.shape[1:])

	@contextmanager
	def _open(self) -> Iterator[tuple[Any, tuple]]:
		"""The open file behind its header, and what that says: shape, order and type."""
		import numpy as np

		try:
			with zipfile.ZipFile(self.path) as archive:
				names = [name.removesuffix(".npy") for name in archive.namelist()]
				if _KEY not in names:
					raise InputError(
						f"{self.path}: holds {', '.join(names) or 'no array'}, but no {_KEY} ({self.what}); give the "
						"file that 'cherimoya attribute' writes"
					)
				with archive.open(f"{_KEY}.npy") as file:
					major, _ = np.lib.format.read_magic(file)
					of_major = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
					yield file, of_major[major](file)
		except InputError:
			raise
		except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, KeyError) as error:
			raise InputError(
				f"{self.path}: is no .npz, or broken ({error}); it should hold {self.what}, so attribute the loci again"
			) from None


def attribution_files(values: Mapping[str, Any]) -> dict[str, str]:
	"""The files of ``attribute`` by the keys that name them."""
	endings = {
		"ohe_filename": "ohe.npz",
		"attr_filename": "attr.npz",
		"idx_filename": "idxs.npy",
		"bed_filename": "bed",
	}
	return {key: values[key] or f"{values['name']}.attributions.{ending}" for key, ending in endings.items()}


def load(values: Mapping[str, Any], *, with_bases: bool) -> Loaded:
	"""Read what ``attribute`` has left, and check that it is all of one run."""
	import numpy as np

	from cherimoya.io.loci import read_loci

	paths = attribution_files(values)
	ohe = StoredArray(paths["ohe_filename"], "one-hot sequences")
	attr = StoredArray(paths["attr_filename"], "contributions")
	windows = read_loci(paths["bed_filename"])
	check_shapes(ohe, attr, windows, paths)
	n, _, width = attr.shape
	contributions = np.empty((n, width), dtype=np.float32)
	codes = np.empty((n, width), dtype=np.uint8) if with_bases else None
	first = 0
	for hot, scores in zip(ohe.blocks(), attr.blocks(), strict=True):
		rows = slice(first, first + len(hot))
		check_block(hot, scores, first, ohe, attr)
		contributions[rows] = (scores.astype(np.float32) * hot).sum(axis=1)  # (m, 4, W) -> (m, W)
		if codes is not None:
			codes[rows] = np.where(hot.any(axis=1), hot.argmax(axis=1), 4)
		first = rows.stop
	return Loaded(contributions, codes, windows)


def check_shapes(ohe: StoredArray, attr: StoredArray, windows: "Loci", paths: Mapping[str, str]) -> None:
	"""InputError unless arrays, windows and mask are as many and as wide as each other."""
	problems = []
	for array in (ohe, attr):
		if len(array.shape) != 3 or array.shape[1] != 4 or not math.prod(array.shape):
			problems.append(
				f"{array.path}: {_KEY} has the shape {array.shape}, not (loci, 4, bp), the bases being A, C, G and T; "
				"give the file that 'cherimoya attribute' writes"
			)
	if not problems:
		n, _, width = attr.shape
		found = {ohe.path: ohe.shape[0], paths["bed_filename"]: len(windows), paths["idx_filename"]: None}
		if os.path.exists(paths["idx_filename"]):
			found[paths["idx_filename"]] = _count_mask(paths["idx_filename"])
		for path, count in found.items():
			if count not in (n, None):
				problems.append(f"{path}: has {count:,} loci, but {attr.path} has {n:,}; give the files of one run")
		if ohe.shape[2] != width:
			problems.append(
				f"{ohe.path}: is {ohe.shape[2]:,} bp wide, but {attr.path} {width:,} bp; give those of one run"
			)
		lengths = windows.ends - windows.starts
		if (wrong := lengths != width).any():
			i = int(wrong.argmax())
			problems.append(
				f"{paths['bed_filename']}: {int(wrong.sum()):,} intervals are not {width:,} bp long, as {attr.path} is "
				f"wide (first: {windows.chroms[i]}:{windows.starts[i]}-{windows.ends[i]}); give the files of one run"
			)
	if problems:
		raise InputError(join_problems(problems))


def _count_mask(path: str) -> int:
	"""How many loci a mask keeps."""
	import numpy as np

	try:
		return int(np.count_nonzero(np.load(path, allow_pickle=False)))
	except (ValueError, EOFError, OSError) as error:
		raise InputError(f"{path}: is no mask over loci ({error}); attribute the loci again") from None


def check_block(hot: "np.ndarray", scores: "np.ndarray", first: int, ohe: StoredArray, attr: StoredArray) -> None:
	"""InputError unless some rows are one-hot, and their scores finite."""
	import numpy as np

	known = hot.sum(axis=1)  # (m, 4, W) -> (m, W)
	mixed = ~(((hot == 0) | (hot == 1)).all(axis=(1, 2)) & (known <= 1).all(axis=1))
	if mixed.any():
		raise InputError(
			f"{ohe.path}: locus {first + int(mixed.argmax()) + 1:,} is not one-hot, with at most one 1 at a position "
			"and else 0; give the sequences, and the contributions as attr_filename"
		)
	broken = ~np.isfinite(scores).all(axis=(1, 2))
	if broken.any():
		raise InputError(
			f"{attr.path}: the contributions of locus {first + int(broken.argmax()) + 1:,} are no finite numbers; "
			"attribute the loci again, with a dtype of float32"
		)


# ---- results ----------------------------------------------------------------------------------------


def tell(seqlets: "Seqlets", loaded: Loaded, values: Mapping[str, Any]) -> None:
	"""Say what was found, or that nothing was."""
	n, width = loaded.contributions.shape
	positive = int((seqlets.attributions > 0).sum())
	again = f"; {seqlets.n_repeats:,} more are those of overlapping windows again" if seqlets.n_repeats else ""
	say(
		f"{len(seqlets):,} seqlets in {n:,} windows of {width:,} bp: {positive:,} positive and "
		f"{len(seqlets) - positive:,} negative{again}"
	)
	if not len(seqlets):
		flat = " (all contributions are equal)" if loaded.contributions.max() == loaded.contributions.min() else ""
		warn(
			f"note: no seqlet was found{flat}, so the files hold none; with a threshold above {values['threshold']:g} "
			f"or a min_seqlet_len below {values['min_seqlet_len']} there may be some"
		)


def bases(seqlets: "Seqlets", loaded: Loaded) -> "list[np.ndarray]":
	"""The base codes of each seqlet, out of those of its window."""
	starts = seqlets.starts - loaded.windows.starts[seqlets.rows]
	ends = seqlets.ends - loaded.windows.starts[seqlets.rows]
	places = zip(seqlets.rows.tolist(), starts.tolist(), ends.tolist(), strict=True)
	return [loaded.codes[row, start:end] for row, start, end in places]


def write(seqlets: "Seqlets", matches: "Matches | None", values: Mapping[str, Any]) -> None:
	"""The seqlets and, with motifs, their names and how many, which appear together."""
	from cherimoya.interpret.seqlets import write_seqlets

	paths = outputs(values)
	with publish_together(paths) as (bed_path, *others):
		write_seqlets(bed_path, seqlets)
		if matches is not None:
			annotation.write_tables(others, seqlets, matches, values)
	say(f"Wrote {', '.join(paths)}")
