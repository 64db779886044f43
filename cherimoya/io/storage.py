"""Where the arrays of windows live: in memory, or in the files of a cache; and how many bytes they take there."""

import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cherimoya.errors import InputError
from cherimoya.io import cache as caches
from cherimoya.io._gather import Arrays, Request, into_files, into_memory, keep, value_bytes
from cherimoya.memory import available_memory

AUTO = "auto"
"""A cache in the user's folder, for windows that are worth it."""
WORTH_CACHING = 64 * 2**20
"""Bytes of windows, as float32 in memory, from which on "auto" caches them."""

_PROCESS_BYTES = 200 * 10**6  # of a process that reads windows, from above
_GIGABYTE = 1e9


class Bytes(NamedTuple):
	"""Bytes that windows take.

	Attributes
	----------
	memory: int
		In memory, memory-mapped files aside.
	disk: int
		In the cache, at most; 0 without one.
	"""

	memory: int
	disk: int


def estimate_bytes(
	n_loci: int,
	*,
	in_window: int = 2114,
	out_window: int = 1000,
	max_jitter: int = 0,
	n_signals: int = 0,
	n_controls: int = 0,
	cache: str | os.PathLike | None = None,
	workers: int = 1,
) -> Bytes:
	"""The bytes that the windows of some loci take; nothing is read.

	A base takes 1 byte, and a value of a track 4 in memory. In a cache a value takes 1, 2 or 4, as few as hold all
	values exactly; 4 are assumed, so the number is an upper bound, and counts of reads mostly take a quarter of it.

	Parameters
	----------
	n_loci: int
		Loci.
	in_window, out_window, max_jitter: int, default 2114, 1000 and 0
		As in :func:`cherimoya.io.windows.extract_windows`, in bp.
	n_signals, n_controls: int, default 0
		Tracks.
	cache: path, "auto" or None, default None
		Where the windows are kept, as in :func:`cherimoya.io.windows.extract_windows`.
	workers: int, default 1
		Processes that read.

	Returns
	-------
	Bytes
		`memory` and `disk`.
	"""
	wide = 2 * max_jitter
	values = n_signals * (out_window + wide) + n_controls * (in_window + wide)
	total = n_loci * (in_window + wide + 4 * values)
	reading = workers * _PROCESS_BYTES if workers > 1 else 0
	if _folder(cache, total) is None:
		return Bytes(total + reading, 0)
	return Bytes(max(reading, _PROCESS_BYTES), total)


def load(
	request: Request,
	choose: Callable[[np.ndarray | None], np.ndarray],
	chosen_by: Any,
	*,
	cache: str | os.PathLike | None,
	workers: int | None,
	bar: bool,
	progress: Callable[[str], None] | None,
) -> tuple[Arrays, np.ndarray | None]:
	"""The arrays of the loci that are chosen, and the totals of all, from the cache if they are there.

	Parameters
	----------
	request: Request
		What to read.
	choose: callable
		From the totals of all loci, (n, T), which of them are kept, (n,).
	chosen_by: of what JSON can hold
		What decides the choice, besides the totals.
	cache, workers, progress
		See :func:`cherimoya.io.windows.extract_windows`.
	bar: bool
		Show a progress bar on a terminal.

	Raises
	------
	InputError
		The windows take more than the machine has, or the cache cannot be used.
	"""
	folder = _folder(cache, request.n_bytes())
	content = None if folder is None else request.content()
	say = progress or (lambda line: None)
	if content is not None:
		try:
			return _from_cache(folder, request, choose, [content, chosen_by], workers=workers, bar=bar, say=say)
		except caches.CacheError as error:
			if cache != AUTO:
				raise
			say(f"note: windows are read into memory, not into the cache: {error}")
	return _from_memory(request, choose, workers=workers, bar=bar, say=say)


def _folder(cache: str | os.PathLike | None, n_bytes: int) -> Path | None:
	"""The folder to cache so many bytes of windows in; None for memory."""
	if cache is None or (cache == AUTO and n_bytes < WORTH_CACHING):
		return None
	return caches.windows_folder() if cache == AUTO else Path(cache)


def _from_memory(
	request: Request,
	choose: Callable[[np.ndarray | None], np.ndarray],
	*,
	workers: int | None,
	bar: bool,
	say: Callable[[str], None],
) -> tuple[Arrays, np.ndarray | None]:
	"""Read the windows into memory, if they fit."""
	needed, free = request.n_bytes(), available_memory()
	if needed >= WORTH_CACHING:
		say(f"the windows of {len(request):,} loci take {_size(needed)} of memory")
	if free is not None and needed > free:
		raise InputError(
			f"the windows of {len(request):,} loci take {_size(needed)} of memory, and {_size(free)} are free; name a "
			"folder with room in cache, from which they are used without being in memory at once, or use fewer loci, "
			"fewer tracks or a smaller max_jitter"
		)
	arrays, totals = into_memory(request, workers=_workers(request, workers), bar=bar)
	kept = choose(totals)
	return Arrays(*(keep(array, kept) for array in arrays)), totals


def _from_cache(
	folder: Path,
	request: Request,
	choose: Callable[[np.ndarray | None], np.ndarray],
	content: list,
	*,
	workers: int | None,
	bar: bool,
	say: Callable[[str], None],
) -> tuple[Arrays, np.ndarray | None]:
	"""The windows from the cache, in which they are put if they are not there."""
	make = partial(_make, request, choose, workers=workers, bar=bar, say=say)
	arrays, _ = caches.open_entry(folder, caches.key_of(content), make, progress=say)
	return Arrays(*(arrays.get(name) for name in Arrays._fields)), arrays.get("totals")


def _make(
	request: Request,
	choose: Callable[[np.ndarray | None], np.ndarray],
	folder: Path,
	*,
	workers: int | None,
	bar: bool,
	say: Callable[[str], None],
) -> dict[str, Any]:
	"""Write an entry of the cache into a folder, if there is room; what it holds, for those who list it."""
	free = caches.free_disk(folder)
	needed = request.n_bytes()
	if needed > free:  # an upper bound: a look at some values tells what they take
		needed = request.n_bytes(value_bytes(request))
	if needed > free:
		raise caches.CacheError(
			f"{folder.parent}: the windows of {len(request):,} loci take about {_size(needed)} of disk, and "
			f"{_size(free)} are free; make room ('cherimoya cache clear' removes what is not in use), choose another "
			"folder in cache, or use fewer loci, fewer tracks or a smaller max_jitter"
		)
	say(f"the windows of {len(request):,} loci take at most {_size(needed)} of disk in {folder.parent}")
	dtypes = into_files(request, folder, choose, workers=_workers(request, workers), bar=bar)
	request.content()  # InputError, and no entry, if an input was changed while it was read
	tracks = [None if t is None else list(t.paths) for t in (request.tracks, request.controls)]
	return {
		"n_loci": len(request),
		"in_window": request.in_window,
		"out_window": request.out_window,
		"max_jitter": request.max_jitter,
		"sequences": request.genome.name,
		"signals": tracks[0],
		"controls": tracks[1],
		"dtypes": dtypes,
	}


def _workers(request: Request, workers: int | None) -> int:
	"""How many processes read: as many as asked for, or as pay off."""
	return request.default_workers() if workers is None else workers


def _size(n_bytes: float) -> str:
	"""Bytes in words: "840 MB", "1.2 GB"."""
	return f"{n_bytes / _GIGABYTE:.1f} GB" if n_bytes >= _GIGABYTE else f"{math.ceil(n_bytes / 1e6):,} MB"
