"""What the commands that use a trained model share: loading, windows that fit it, progress, and publishing files."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cherimoya.errors import CherimoyaError, InputError, SettingsError, join_problems
from cherimoya_cli.utils import say

if TYPE_CHECKING:
	import torch

	from cherimoya import Cherimoya
	from cherimoya.io.genome import Genome
	from cherimoya.io.windows import Windows


def model_path(settings: Any) -> str:
	"""The checkpoint to use: `model`, or the one that ``fit`` writes under the same name."""
	return settings.model or f"{settings.name}.torch"


def load_model(settings: Any, device: "torch.device") -> "Cherimoya":
	"""The model of the settings on the device; InputError when the window is too short for it."""
	from cherimoya import Cherimoya

	path = model_path(settings)
	model = Cherimoya.load(path, device=device)
	if settings.in_window <= 2 * model.trimming:
		raise InputError(
			f"{path}: this model cuts {model.trimming} bp from each side, so an in_window of "
			f"{settings.in_window} bp leaves nothing; set in_window to more than {2 * model.trimming} "
			f"({2 * model.trimming + settings.out_window} gives the out_window of {settings.out_window} bp)"
		)
	return model


def control_tracks(settings: Any, model: "Cherimoya") -> list | None:
	"""The control tracks to read for the model: those of the settings, or None where zeros stand in for them.

	Raises
	------
	InputError
		When the number of tracks is not the model's.
	"""
	from cherimoya.io.tracks import parse_groups

	wanted = model.n_control_tracks
	if settings.controls is None:
		if wanted:
			say(
				f"{model_path(settings)} was trained with {wanted} control track{'s' * (wanted > 1)}, and controls is "
				"null: every control value is taken as 0"
			)
		return None
	paths, _ = parse_groups(settings.controls)
	if len(paths) != wanted:
		raise InputError(
			f"{model_path(settings)}: this model takes {wanted} control track{'s' * (wanted != 1)}, and controls lists "
			f"{len(paths)} ({', '.join(str(path) for path in paths)}); "
			+ (f"list the {wanted} that it was trained with" if wanted else "set controls to null")
		)
	return settings.controls


def load_windows(
	settings: Any, model: "Cherimoya", title: str, *, signals: list | None = None
) -> "tuple[torch.nn.Module, Windows, Genome]":
	"""The windows of the settings' loci, accounted for under a title, and the model with zeros for missing controls."""
	from cherimoya import ControlWrapper
	from cherimoya.io.genome import Genome
	from cherimoya.io.windows import extract_windows

	controls = control_tracks(settings, model)
	genome = Genome(settings.sequences, chrom_aliases=settings.chrom_aliases)
	windows = extract_windows(
		settings.loci,
		genome,
		signals=signals,
		controls=controls,
		in_window=settings.in_window,
		out_window=settings.out_window,
		chroms=settings.chroms,
		summits=settings.summits,
		exclusion_lists=settings.exclusion_lists,
		absolute=settings.absolute_signals,
		verbose=settings.verbose,
		cache=settings.cache,
		progress=say if settings.verbose else None,
	)
	say(windows.accounting.table(title))
	zeros = model.n_control_tracks and controls is None
	return ControlWrapper(model) if zeros else model, windows, genome


def load_tiles(
	settings: Any, model: "Cherimoya", title: str, *, signals: list | None = None
) -> "tuple[torch.nn.Module, Windows, Genome]":
	"""As `load_windows`, of tiles of the settings' regions, which are read when they are taken."""
	from cherimoya import ControlWrapper
	from cherimoya.io.genome import Genome
	from cherimoya.io.tiling import tile_windows

	controls = control_tracks(settings, model)
	genome = Genome(settings.sequences, chrom_aliases=settings.chrom_aliases)
	windows = tile_windows(
		settings.regions,
		genome,
		signals,
		controls,
		in_window=settings.in_window,
		out_window=settings.out_window,
		overlap=settings.overlap,
		max_n_perc=settings.max_n_perc,
		exclusion_lists=settings.exclusion_lists,
		absolute=settings.absolute_signals,
	)
	say(windows.accounting.table(title))
	zeros = model.n_control_tracks and controls is None
	return ControlWrapper(model) if zeros else model, windows, genome


def observed_tracks(settings: Any) -> list | None:
	"""The signals to set beside predictions: None without signals, and, with a note, where some of them are reads."""
	from cherimoya.io.tracks import parse_groups

	if settings.signals is None:
		return None
	reads = [str(path) for path in parse_groups(settings.signals)[0] if not _is_bigwig(path)]
	if reads:
		say(f"note: {', '.join(reads)}: not bigWig files, so nothing observed is set beside the predictions")
		return None
	return settings.signals


def _is_bigwig(path: Any) -> bool:
	"""Whether a file is a bigWig, by its name."""
	return str(path).lower().endswith((".bw", ".bigwig"))


def check_signals(settings: Any, model: "Cherimoya") -> None:
	"""Refuse bigWig signals that are not as many as the model's channels: it was trained on something else.

	Reads, which a pipeline's file may list, are not counted: they become one track or two.
	"""
	from cherimoya.io.tracks import parse_groups

	if settings.signals is None:
		return
	paths, _ = parse_groups(settings.signals)
	if all(map(_is_bigwig, paths)) and len(paths) != model.n_outputs:
		raise InputError(
			f"{model_path(settings)}: this model predicts {model.n_outputs} "
			f"channel{'s' * (model.n_outputs != 1)} (groups of {list(model.signal_groups)}), and signals lists "
			f"{len(paths)} bigWig file{'s' * (len(paths) != 1)}; list those that it was trained on"
		)


def check_finite(values: "torch.Tensor", what: str, settings: Any, *, rows: str = "loci") -> None:
	"""InputError when some of the values that a model gave are NaN or infinite; `rows` says what they are of."""
	broken = int((~values.isfinite()).reshape(len(values), -1).any(dim=1).sum())
	if broken:
		raise InputError(
			f"{model_path(settings)}: the {what} of {broken:,} of {len(values):,} {rows} are not finite numbers; the "
			f"model may be broken, or dtype {settings.dtype} too narrow for it (float32 is the widest)"
		)


class Progress:
	"""Says how many predictions (or what else is counted) there are, how long they will take, and how far they are.

	Called after each batch. On a terminal there is a bar, beside which only the estimate is printed.
	"""

	def __init__(self, what: str, unit: str = "predictions") -> None:
		self.what = what
		self.unit = unit
		self.on_terminal = sys.stderr.isatty()
		self.bar: Any = None
		self.first: tuple[float, int] | None = None
		self.said = False
		self.next_line = 0.0

	def __call__(self, done: int, total: int) -> None:
		"""Note that `done` of `total` predictions are made; print what there is to say."""
		if self.on_terminal:
			self._draw(done, total)
		now = time.monotonic()
		if self.first is None:  # the first batch pays for warming up, so the clock starts after it
			self.first = (now, done)
			return
		seconds, made = now - self.first[0], done - self.first[1]
		left = seconds / made * (total - done)
		if not self.said:
			if seconds < 2 and done < total:
				return
			self.said, self.next_line = True, now + 30
			if done < total:
				rate = made / max(seconds, 1e-9)
				say(f"{self.what}: {rate:,.0f} {self.unit} per second, about {_span(left)} to go")
		elif not self.on_terminal and now >= self.next_line and done < total:
			self.next_line = now + 30
			say(f"{self.what}: {done:,} of {total:,} {self.unit} ({done / total:.0%}), about {_span(left)} to go")

	def _draw(self, done: int, total: int) -> None:
		"""Draw the bar."""
		from tqdm import tqdm

		if self.bar is None:
			self.bar = tqdm(total=total, unit=self.unit.removesuffix("s"))
		self.bar.update(done - self.bar.n)
		if done == total:
			self.bar.close()


def check_outputs(settings: Any, paths: Sequence[str]) -> None:
	"""Make the folders of the outputs; refuse, before any work, names used twice and folders that cannot be written."""
	twice = sorted({path for path in paths if list(paths).count(path) > 1})
	if twice:
		raise SettingsError(f"{settings.source}: {', '.join(twice)}: two outputs have this name; give each its own")
	problems = []
	for folder in dict.fromkeys(Path(path).parent for path in paths):
		try:
			folder.mkdir(parents=True, exist_ok=True)
			with tempfile.TemporaryFile(dir=folder):
				pass
		except OSError as error:
			problems.append(f"{folder}: cannot be written ({error.strerror}); choose another folder for the results")
	if problems:
		raise InputError(join_problems(problems))


@contextmanager
def publish_together(paths: Sequence[str | Path]) -> Iterator[list[Path]]:
	"""Temporary names beside the final ones, renamed all at once when the block ends well, and removed otherwise.

	Raises
	------
	InputError
		When the operating system refuses a file: the disk is full, say.
	"""
	finals = [Path(path) for path in paths]
	temporary = [path.with_name(f".{os.getpid()}.{path.name}") for path in finals]
	try:
		yield temporary
		for source, final in zip(temporary, finals, strict=True):
			os.replace(source, final)
	except OSError as error:
		if isinstance(error, CherimoyaError):
			raise
		raise InputError(
			f"{finals[0].parent}: the results cannot be written ({error.strerror or error}); make room there, or "
			"choose another folder in name"
		) from error
	finally:
		for source in temporary:
			source.unlink(missing_ok=True)


def save_arrays(path: Path, *args: Any, **arrays: Any) -> None:
	"""Write arrays to a compressed .npz under exactly this name."""
	import numpy as np

	with open(path, "wb") as file:
		np.savez_compressed(file, *args, **arrays)


def _span(seconds: float) -> str:
	"""A duration in words: "40 s", "12 min", "3.5 h"."""
	if seconds < 90:
		return f"{seconds:.0f} s"
	return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
