"""A folder of arrays that were costly to make, kept on disk and mapped into memory by whoever needs them again.

An entry is a folder, named after its key, of ``.npy`` files and a manifest; the key is a hash of all that decides what
the arrays hold. Rules that keep it right:

- an entry is made in a folder with another name, and gets its own when it is whole. What a killed process leaves has
  no manifest and the wrong name; the next process that takes the key's lock removes it;
- one process at a time makes an entry: it holds a lock (flock) that the system lets go when the process dies;
- every file is checked against the sizes and checksums of the manifest before it is used, once per process and file.
  An entry with anything wrong is made anew;
- arrays are mapped copy-on-write: writing to one changes that process's view and never the file;
- an entry in use is never cleared. Were its files removed all the same, those that have mapped them would keep them.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cherimoya.errors import InputError
from cherimoya.io._files import cache_folder

FORMAT = 2
"""Version of the layout, and of what the arrays of a key hold; entries of other versions are never opened."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The errors of a disk, quota or largest file that is full."""

_MANIFEST, _USED = "manifest.json", "used"
_BLOCK = 1 << 24  # bytes that a thread reads
_PIECE = 1 << 20  # bytes that a checksum is of, which stay in a core's own cache
_COLUMNS = 256
_THREADS = 4
_HELD: dict[Path, tuple[int, tuple]] = {}  # entries open in this process: the lock's descriptor, and what was checked


class CacheError(InputError):
	"""The cache cannot be written; what is to be cached may be right all the same."""


class Entry(NamedTuple):
	"""An entry as :func:`entries` lists it.

	Attributes
	----------
	key: str
		Its name.
	path: Path
		Its folder.
	size: int
		Bytes on disk.
	created, used: float
		When it was made and when it was last opened, in seconds since 1970.
	about: dict
		What the maker says that it holds; empty when the manifest cannot be read.
	in_use: bool
		Whether a process has it open.
	"""

	key: str
	path: Path
	size: int
	created: float
	used: float
	about: dict[str, Any]
	in_use: bool


def windows_folder() -> Path:
	"""Where extracted windows are cached unless another folder is named."""
	return cache_folder() / "windows"


def key_of(content: Any) -> str:
	"""The key of what decides an entry's content: plain numbers, texts and lists that JSON can hold."""
	text = json.dumps([FORMAT, content], sort_keys=True)
	return hashlib.sha256(text.encode()).hexdigest()[:32]


def open_entries(
	folder: str | os.PathLike,
	keys: Sequence[str],
	make: Callable[[Mapping[str, Path]], Mapping[str, Mapping[str, Any]]],
	*,
	progress: Callable[[str], None] | None = None,
) -> dict[str, dict[str, np.ndarray]]:
	"""The arrays of entries by their keys; those that are missing or broken are made in one go.

	Parameters
	----------
	folder: path
		The cache; made when missing.
	keys: sequence of str
		The entries' names; see :func:`key_of`.
	make: callable
		Takes the folder of each entry that it is to make, writes the arrays there as ``NAME.npy``, and returns a
		description of each entry, of what JSON can hold. Its own further files and folders there are to be gone when
		it returns.
	progress: callable or None, default None
		Called with a line of text when another process is waited for, and when an entry is broken.

	Returns
	-------
	dict of str to dict of str to numpy.ndarray
		For each key its arrays by name, mapped copy-on-write.

	Raises
	------
	CacheError
		An InputError: the folder cannot be written, or the disk is full.
	"""
	folder = Path(os.path.abspath(folder))
	say = progress or (lambda line: None)
	found: dict[str, dict[str, np.ndarray]] = {}

	def look() -> dict[str, str]:
		"""The entries that are not found yet, and what is wrong with each."""
		problems = {}
		for key in sorted({*keys} - {*found}):  # in one order, lest two processes wait for each other
			arrays, problem = _opened(folder / key)
			if arrays is None:
				problems[key] = problem
			else:
				found[key] = arrays
		return problems

	with _told(folder):
		missing = look()
		if missing:
			folder.mkdir(parents=True, exist_ok=True)
			with ExitStack() as locks:
				for key in missing:
					locks.enter_context(_locked(folder / f"{key}.lock", say))
				_make_missing(folder, look(), make, say, found)  # another process may have made some meanwhile
	return found


def _make_missing(
	folder: Path,
	missing: Mapping[str, str],
	make: Callable[[Mapping[str, Path]], Mapping[str, Mapping[str, Any]]],
	say: Callable[[str], None],
	found: dict[str, dict[str, np.ndarray]],
) -> None:
	"""Make the entries that this process has the locks of, and add them to those that are found."""
	for key, problem in missing.items():
		if problem:
			say(f"{folder / key}: {problem}; it is not used, and made again")
			_remove(folder / key)
	if not missing:
		return
	_sweep(folder, missing)
	_make([folder / key for key in missing], make)
	for key in missing:
		arrays, problem = _opened(folder / key, check=False)  # its checksums have just been taken
		if arrays is None:
			raise CacheError(
				f"{folder / key}: was written, but {problem}; the disk is faulty: choose another folder in cache"
			)
		found[key] = arrays


def entries(folder: str | os.PathLike) -> list[Entry]:
	"""What a cache holds, the last used first; unfinished entries that no process is making are removed."""
	folder = Path(os.path.abspath(folder))
	if not folder.is_dir():
		return []
	_sweep(folder)
	found = []
	for place in folder.iterdir():
		if _is_key(place.name) and place.is_dir():
			manifest = _read_manifest(place) or {}
			created, used = (_time(place / name) for name in (_MANIFEST, _USED))
			about = manifest.get("about", {})
			with suppress(FileNotFoundError):  # another process has just cleared it
				found.append(Entry(place.name, place, _size(place), created, max(created, used), about, _in_use(place)))
	return sorted(found, key=lambda entry: -entry.used)


def select(folder: str | os.PathLike, keys: Sequence[str] | None = None, *, unused_for: float = 0.0) -> list[Entry]:
	"""Entries to be cleared.

	Parameters
	----------
	folder: path
		The cache.
	keys: sequence of str, or None
		Keys, or beginnings of keys; None takes all.
	unused_for: float, default 0.0
		Leave out entries that were opened within so many seconds.

	Raises
	------
	InputError
		No entry has one of the keys.
	"""
	found = entries(folder)
	unknown = [key for key in keys or () if not any(entry.key.startswith(key) for entry in found)]
	if unknown:
		raise InputError(f"{folder}: has no entry {', '.join(unknown)}; 'cherimoya cache list' shows those there are")
	if keys is not None:
		found = [entry for entry in found if entry.key.startswith(tuple(keys))]
	return [entry for entry in found if time.time() - entry.used >= unused_for]


def clear(
	folder: str | os.PathLike, keys: Sequence[str] | None = None, *, unused_for: float = 0.0
) -> tuple[list[Entry], list[Entry]]:
	"""Remove the entries that :func:`select` finds, but for those that a process has open.

	Returns
	-------
	removed, kept: lists of Entry
		What is gone, and what is in use.

	Raises
	------
	InputError
		No entry has one of the keys, or an entry cannot be removed.
	"""
	removed, kept = [], []
	for entry in select(folder, keys, unused_for=unused_for):
		with _told(folder):
			(removed if _remove_unused(entry.path) else kept).append(entry)
	return removed, kept


# ---- an entry -------------------------------------------------------------------------------------------------------


def _opened(place: Path, *, check: bool = True) -> tuple[dict[str, np.ndarray] | None, str]:
	"""The arrays of an entry; or None, and what is wrong with it (nothing when there is none)."""
	lock = _hold(place)
	if lock is None:
		return None, "it is not whole" if place.is_dir() else ""
	manifest = _read_manifest(place)
	state = _state(place, manifest)
	problem = "its manifest is missing or broken" if manifest is None else ""
	if not problem and check and _HELD.get(place, (None, None))[1] != state:
		problem = _compare(place, manifest["files"])
	arrays: dict[str, np.ndarray] = {}
	if not problem:
		try:
			arrays = {name.removesuffix(".npy"): _map(place / name) for name in manifest["files"]}
		except (OSError, ValueError) as error:
			problem = f"an array cannot be read ({error})"
	if problem:
		os.close(lock)
		return None, problem
	before = _HELD.pop(place, None)
	_HELD[place] = (lock, state)
	if before is not None:
		os.close(before[0])
	with suppress(OSError):  # a cache that others share may be read-only
		os.utime(place / _USED)
	return arrays, ""


def _hold(place: Path) -> int | None:
	"""A descriptor that keeps the entry from being cleared; None when there is no whole entry."""
	while True:
		try:
			lock = os.open(place / _USED, os.O_RDONLY)
		except (FileNotFoundError, NotADirectoryError):
			return None
		fcntl.flock(lock, fcntl.LOCK_SH)
		with suppress(OSError):  # it may have been cleared between the two calls
			if os.fstat(lock).st_ino == os.stat(place / _USED).st_ino:
				return lock
		os.close(lock)


def _make(places: Sequence[Path], make: Callable[[Mapping[str, Path]], Mapping[str, Mapping[str, Any]]]) -> None:
	"""Make entries under other names, and rename each when it is whole."""
	building = {place: place.with_name(f".{place.name}.part") for place in places}
	try:
		for part in building.values():
			_remove(part)
			part.mkdir()
		about = make({place.name: part for place, part in building.items()})
		for place, part in building.items():
			files = {path.name: _summary(path) for path in sorted(part.glob("*.npy"))}
			content = {"format": FORMAT, "key": place.name, "about": dict(about[place.name]), "files": files}
			(part / _USED).touch()
			text = json.dumps({**content, "checksum": _checksum(content)}, indent="\t")
			(part / _MANIFEST).write_text(text, encoding="utf-8")
			os.rename(part, place)
	except BaseException:
		for part in building.values():
			shutil.rmtree(part, ignore_errors=True)
		raise


def _checksum(content: Mapping[str, Any]) -> str:
	"""The hash that tells an edited manifest."""
	return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _read_manifest(place: Path) -> dict[str, Any] | None:
	"""The manifest of an entry; None unless it is whole and the entry's own."""
	try:
		manifest = json.loads((place / _MANIFEST).read_text(encoding="utf-8"))
		checksum = manifest.pop("checksum")
		right = checksum == _checksum(manifest) and (manifest["format"], manifest["key"]) == (FORMAT, place.name)
	except (OSError, ValueError, KeyError, TypeError, AttributeError):
		return None
	return manifest if right else None


def _summary(path: Path) -> dict[str, Any]:
	"""The size of a file, and a checksum of each of its pieces: the CRC-32 of the sums of every 256th 64-bit word.

	The sums pass over the bytes as fast as memory gives them, several times as fast as a CRC of all would. One changed
	word always shows; several are missed only where they cancel out in a sum, so in 256ths of a piece of 1 MiB.
	"""
	size = path.stat().st_size
	file = os.open(path, os.O_RDONLY)

	def block(offset: int) -> list[int]:
		piece = np.empty(_PIECE, dtype=np.uint8)
		words = piece.view(np.uint64).reshape(-1, _COLUMNS)
		checksums = []
		for start in range(offset, min(offset + _BLOCK, size), _PIECE):
			n = 0
			while n < _PIECE and (more := os.preadv(file, [memoryview(piece)[n:]], start + n)):
				n += more
			piece[n:] = 0
			checksums.append(zlib.crc32(np.add.reduce(words, axis=0)))
		return checksums

	try:
		with ThreadPoolExecutor(_THREADS) as pool:  # reading and summing let go of the interpreter's lock
			checksums = list(chain.from_iterable(pool.map(block, range(0, size, _BLOCK))))
	finally:
		os.close(file)
	return {"size": size, "checksums": checksums}


def _compare(place: Path, files: Mapping[str, Mapping[str, Any]]) -> str:
	"""What is wrong with the files of an entry; nothing when they are what the manifest says."""
	for name, known in files.items():
		try:
			size = (place / name).stat().st_size
			if size != known["size"]:
				return f"{name} has {size:,} bytes instead of {known['size']:,}"
			if _summary(place / name) != known:
				return f"{name} was changed since it was written (its checksum differs)"
		except OSError as error:
			return f"{name} cannot be read ({error.strerror})"
	return ""


def _state(place: Path, manifest: Mapping[str, Any] | None) -> tuple:
	"""What changes when a file of an entry is written to, so that one process checks a file once."""
	found = []
	for name in (_MANIFEST, *(manifest or {}).get("files", ())):
		try:
			stat = os.stat(place / name)
			found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
		except OSError:
			found.append(())
	return tuple(found)


def _map(path: Path) -> np.ndarray:
	"""An array mapped copy-on-write, so that nobody who writes to it changes the file."""
	tiny = path.stat().st_size <= 4096  # empty arrays cannot be mapped
	return np.load(path, mmap_mode=None if tiny else "c", allow_pickle=False)


# ---- locks and leftovers --------------------------------------------------------------------------------------------


@contextmanager
def _locked(path: Path, say: Callable[[str], None]) -> Iterator[None]:
	"""Hold the lock that lets one process at a time make an entry."""
	lock = _take(path, wait=False)
	if lock is None:
		say(f"{path.with_suffix('')}: another process is making this entry of the cache; waiting for it")
		lock = _take(path, wait=True)
	try:
		yield
	finally:
		path.unlink(missing_ok=True)
		os.close(lock)


def _take(path: Path, *, wait: bool) -> int | None:
	"""The descriptor of a lock file that is locked now; None when another process has it and `wait` is false."""
	while True:
		lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
		try:
			fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
			# Whoever had it has removed the file: then this lock is on a file that nobody else can find.
			if os.path.exists(path) and os.fstat(lock).st_ino == os.stat(path).st_ino:
				return lock
		except BlockingIOError:
			os.close(lock)
			return None
		except FileNotFoundError:
			pass
		except BaseException:
			os.close(lock)
			raise
		os.close(lock)


def _sweep(folder: Path, mine: Iterable[str] = ()) -> None:
	"""Remove what processes that died have left; `mine` are the keys that this process has the locks of."""
	for path in folder.glob(".*.part"):
		key = path.name[1:].removesuffix(".part")
		if key in mine:
			_remove(path)
		elif _is_key(key):
			lock = _take(folder / f"{key}.lock", wait=False)
			if lock is not None:
				_remove(path)
				(folder / f"{key}.lock").unlink(missing_ok=True)
				os.close(lock)
	for path in folder.glob(".*.trash"):
		_remove(path)


def _remove(path: Path) -> None:
	"""Remove a folder, under another name first, so that no half of it is ever found; nothing if there is none."""
	if not path.is_dir():
		return
	if path.suffix != ".trash":
		trash = Path(tempfile.mkdtemp(prefix=f".{path.name.strip('.')}.", suffix=".trash", dir=path.parent))
		with suppress(FileNotFoundError):  # another process was faster
			os.rename(path, trash)  # an empty folder is replaced
		path = trash
	shutil.rmtree(path, ignore_errors=True)


def _remove_unused(place: Path) -> bool:
	"""Remove an entry unless a process has it open."""
	with _unused(place) as unused:
		if unused:
			_remove(place)
	return unused


def _in_use(place: Path) -> bool:
	"""Whether a process has an entry open."""
	with _unused(place) as unused:
		return not unused


@contextmanager
def _unused(place: Path) -> Iterator[bool]:
	"""Whether no process has an entry open; if so, none can open it meanwhile."""
	try:
		lock = os.open(place / _USED, os.O_RDONLY)
	except OSError:
		yield True
		return
	try:
		fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
		free = True
	except BlockingIOError:
		free = False
	try:
		yield free
	finally:
		os.close(lock)


@contextmanager
def _told(folder: str | os.PathLike) -> Iterator[None]:
	"""Turn errors of the file system into errors that say what to do."""
	try:
		yield
	except OSError as error:
		if isinstance(error, InputError):
			raise
		reason = error.strerror or error
		if error.errno in DISK_FULL:
			free = shutil.disk_usage(_existing(Path(folder))).free
			raise CacheError(
				f"{folder}: the cache cannot be written ({reason}; {free / 1e9:.1f} GB are free); nothing half-made is "
				"left there: make room ('cherimoya cache clear' removes what is not in use), or choose another folder "
				"in cache"
			) from None
		raise CacheError(
			f"{folder}: the cache cannot be used ({reason}{f': {error.filename}' if error.filename else ''}); choose a "
			"folder that can be written in cache, or set cache to null"
		) from None


def _existing(folder: Path) -> Path:
	"""The folder, or the first above it that exists."""
	while not folder.exists() and folder != folder.parent:
		folder = folder.parent
	return folder


def free_disk(folder: str | os.PathLike) -> int:
	"""Bytes that are free where a folder is, or will be."""
	return shutil.disk_usage(_existing(Path(os.path.abspath(folder)))).free


def _is_key(name: str) -> bool:
	"""Whether a name is that of an entry."""
	return len(name) == 32 and set(name) <= set("0123456789abcdef")


def _size(folder: Path) -> int:
	"""Bytes of the files of a folder."""
	return sum(_stat_size(path) for path in folder.iterdir())


def _stat_size(path: Path) -> int:
	"""Bytes of a file, 0 if it has gone."""
	try:
		return path.stat().st_size
	except OSError:
		return 0


def _time(path: Path) -> float:
	"""When a file was last written, 0 if it has gone."""
	try:
		return path.stat().st_mtime
	except OSError:
		return 0.0
