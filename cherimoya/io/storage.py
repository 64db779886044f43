"""Where the arrays of windows live: in memory, or in the files of a cache; and how many bytes they take there."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cherimoya.errors import InputError
from cherimoya.io import cache as caches
from cherimoya.io._gather import Arrays, Load, Loaded, Request, Sources, gather, value_bytes
from cherimoya.memory import available_memory

AUTO = "auto"
"""A cache in the user's folder, for windows that are worth it."""
WORTH_CACHING = 64 * 2**20
"""Bytes of windows, as float32 in memory, from which on "auto" caches them."""

_LARGE_FILE = 1 << 20  # bytes of a file of loci whose windows are worth caching
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


class Wanted(NamedTuple):
	"""Windows to be loaded.

	Attributes
	----------
	request: Request
		What to read.
	choose: callable
		From the totals of all loci, (n, T), which of them are kept, (n,).
	chosen_by: of what JSON can hold
		What decides the choice, besides the totals.
	"""

	request: Request
	choose: Callable[[np.ndarray | None], np.ndarray]
	chosen_by: Any


def load(
	wanted: Sequence[Wanted],
	*,
	cache: str | os.PathLike | None,
	workers: int | None,
	bar: bool,
	progress: Callable[[str], None] | None,
) -> list[tuple[Arrays, np.ndarray | None]]:
	"""The arrays of the loci that are chosen, and the totals of all, from the cache if they are there.

	Parameters
	----------
	wanted: sequence of Wanted
		One or more lots of windows, all of the same sources; those that have to be read are read together.
	cache, workers, progress
		See :func:`cherimoya.io.windows.extract_windows`.
	bar: bool
		Show a progress bar on a terminal.

	Raises
	------
	InputError
		The windows take more than the machine has, or the cache cannot be used.
	"""
	say = progress or (lambda line: None)
	read = partial(gather, workers=workers, bar=bar)
	folders = [_folder(cache, lot.request.n_bytes()) for lot in wanted]
	contents = [f if f is None else lot.request.content() for f, lot in zip(folders, wanted, strict=True)]
	keys = [c if c is None else caches.key_of([c, lot.chosen_by]) for c, lot in zip(contents, wanted, strict=True)]
	try:
		return _load(wanted, keys, next((f for f in folders if f is not None), None), read, say)
	except caches.CacheError as error:
		if cache != AUTO:
			raise
		say(f"note: windows are read into memory, not into the cache: {error}")
	return _load(wanted, [None] * len(wanted), None, read, say)


def _load(
	wanted: Sequence[Wanted],
	keys: Sequence[str | None],
	folder: Path | None,
	read: Callable[[Sequence[Load]], list[Loaded]],
	say: Callable[[str], None],
) -> list[tuple[Arrays, np.ndarray | None]]:
	"""The windows, from the cache those that have a key; all that is not there is read in one go."""
	plain = [lot for lot, key in zip(wanted, keys, strict=True) if key is None]
	_check_memory([lot.request for lot in plain], say)
	in_memory: list[Loaded] = []

	def make(places: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
		lots = {key: wanted[keys.index(key)] for key in places}
		_check_disk([lot.request for lot in lots.values()], next(iter(places.values())), say)
		loads = [Load(lot.request, lot.choose, places[key]) for key, lot in lots.items()]
		found = read([*loads, *(Load(lot.request, lot.choose, None) for lot in plain)])
		in_memory.extend(found[len(loads) :])
		for lot in lots.values():
			lot.request.content()  # InputError, and no entry, if an input was changed while it was read
		return {key: _about(lot.request, one.dtypes) for (key, lot), one in zip(lots.items(), found, strict=False)}

	found = caches.open_entries(folder, [key for key in keys if key is not None], make, progress=say) if folder else {}
	if plain and not in_memory:
		in_memory += read([Load(lot.request, lot.choose, None) for lot in plain])
	others = iter(in_memory)
	return [_arrays_of(found[key]) if key is not None else tuple(next(others)[:2]) for key in keys]


def _arrays_of(entry: Mapping[str, np.ndarray]) -> tuple[Arrays, np.ndarray | None]:
	"""The arrays, and the totals, of an entry of the cache."""
	return Arrays(*(entry.get(name) for name in Arrays._fields)), entry.get("totals")


def hash_ahead(sources: Sources, loci: Any, cache: str | os.PathLike | None) -> None:
	"""Begin to hash the tracks, which takes a while, where the windows of these loci are likely to be cached."""
	large = isinstance(loci, (str, os.PathLike)) and os.path.isfile(loci) and os.path.getsize(loci) >= _LARGE_FILE
	for tracks in sources[1:]:
		if tracks is not None and cache is not None and (cache != AUTO or large):
			tracks.hash_ahead()


def _folder(cache: str | os.PathLike | None, n_bytes: int) -> Path | None:
	"""The folder to cache so many bytes of windows in; None for memory."""
	if cache is None or (cache == AUTO and n_bytes < WORTH_CACHING):
		return None
	return caches.windows_folder() if cache == AUTO else Path(cache)


def _check_memory(requests: Sequence[Request], say: Callable[[str], None]) -> None:
	"""Raise InputError unless the windows fit into memory."""
	needed, free = sum(request.n_bytes() for request in requests), available_memory()
	n_loci = sum(map(len, requests))
	if needed >= WORTH_CACHING:
		say(f"the windows of {n_loci:,} loci take {_size(needed)} of memory")
	if free is not None and needed > free:
		raise InputError(
			f"the windows of {n_loci:,} loci take {_size(needed)} of memory, and {_size(free)} are free; name a "
			"folder with room in cache, from which they are used without being in memory at once, or use fewer loci, "
			"fewer tracks or a smaller max_jitter"
		)


def _check_disk(requests: Sequence[Request], folder: Path, say: Callable[[str], None]) -> None:
	"""Raise CacheError unless there is room for entries of the cache, one of which is made in the folder."""
	free, n_loci = caches.free_disk(folder), sum(map(len, requests))
	needed = sum(request.n_bytes() for request in requests)
	if needed > free:  # an upper bound: a look at some values tells what they take
		needed = sum(request.n_bytes(value_bytes(request)) for request in requests)
	if needed > free:
		raise caches.CacheError(
			f"{folder.parent}: the windows of {n_loci:,} loci take about {_size(needed)} of disk, and "
			f"{_size(free)} are free; make room ('cherimoya cache clear' removes what is not in use), choose another "
			"folder in cache, or use fewer loci, fewer tracks or a smaller max_jitter"
		)
	say(f"the windows of {n_loci:,} loci take at most {_size(needed)} of disk in {folder.parent}")


def _about(request: Request, dtypes: dict[str, str] | None) -> dict[str, Any]:
	"""What an entry of the cache holds, for those who list it."""
	tracks = [None if t is None else list(t.paths) for t in request.sources[1:]]
	return {
		"n_loci": len(request),
		**request.widths._asdict(),
		"sequences": request.sources.genome.name,
		"signals": tracks[0],
		"controls": tracks[1],
		"dtypes": dtypes,
	}


def _size(n_bytes: float) -> str:
	"""Bytes in words: "840 MB", "1.2 GB"."""
	return f"{n_bytes / _GIGABYTE:.1f} GB" if n_bytes >= _GIGABYTE else f"{math.ceil(n_bytes / 1e6):,} MB"
