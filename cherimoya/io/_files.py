"""Reading and writing files safely: text plain or gzipped, what a file holds, and outputs that appear only when whole.

Imports neither torch nor numpy.
"""

import codecs
import errno
import gzip
import hashlib
import os
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cherimoya.errors import InputError, MissingFileError

GZIP_MAGIC = b"\x1f\x8b"
HASHED_WHOLE = 64 * 2**20
"""Files up to this many bytes are compared by a hash of all their bytes."""
SAMPLE = 2**20
"""Bytes of each sample (start, middle, end) of a larger file."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_SETTLED = 2 * 10**9  # nanoseconds after which a file's times tell that it is written to
_KEYS: dict[tuple[int, ...] | None, list[Any]] = {}  # contents that this process has hashed, by stamp


def cache_folder() -> Path:
	"""Where this package keeps what it can make again.

	The folder of the environment variable ``CHERIMOYA_CACHE``, else ``$XDG_CACHE_HOME/cherimoya``, else
	``~/.cache/cherimoya``.
	"""
	if chosen := os.environ.get("CHERIMOYA_CACHE"):
		return Path(chosen)
	home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
	return Path(home) / "cherimoya"


def is_remote(path: str | os.PathLike) -> bool:
	"""Whether the path is a URL, for tools that can stream it."""
	return str(path).lower().startswith(("http://", "https://", "ftp://", "s3://", "gs://"))


def check_exists(path: str | os.PathLike, *, what: str) -> None:
	"""Raise MissingFileError unless `path` is a file that can be read."""
	if not os.path.exists(path):
		raise MissingFileError(f"{path}: no such file ({what}); check the path, relative paths start at {os.getcwd()}")
	if os.path.isdir(path):
		raise InputError(f"{path}: is a folder, not a file ({what}); name the file itself")
	if not os.access(path, os.R_OK):
		raise InputError(f"{path}: cannot be read ({what}); check its permissions")


def read_bytes(path: str | os.PathLike, *, what: str) -> bytes:
	"""The content of a text file, unzipped when it starts like a gzip file; without the mark of UTF-8 of Windows."""
	check_exists(path, what=what)
	data = Path(path).read_bytes()
	if data[:2] != GZIP_MAGIC:
		return data.removeprefix(codecs.BOM_UTF8)
	try:
		return gzip.decompress(data).removeprefix(codecs.BOM_UTF8)
	except (EOFError, zlib.error, OSError) as error:
		raise InputError(f"{path}: the gzip data are broken or truncated ({error}); get the file again") from None


def identify(path: str | os.PathLike) -> dict[str, Any] | None:
	"""Size, time and hash of a file; None if it is not there; a URL stands for itself."""
	if is_remote(path):
		return {"url": str(path)}
	try:
		stat = os.stat(path)
	except OSError:
		return None
	return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": _hash(path, stat.st_size)}


def unchanged(path: str | os.PathLike, known: Mapping[str, Any] | None) -> bool:
	"""Whether a file holds what it held when it was identified."""
	if is_remote(path):
		return known == {"url": str(path)}
	try:
		stat = os.stat(path)
	except OSError:
		return known is None
	if known is None or stat.st_size != known.get("size"):
		return False
	if stat.st_size > HASHED_WHOLE and stat.st_mtime_ns == known.get("mtime_ns"):
		return True
	return _hash(path, stat.st_size) == known.get("sha256")


def file_state(path: str | os.PathLike) -> tuple[int, int, int] | None:
	"""What tells whether a path still leads to the file, unchanged, that it led to before; None for a URL."""
	if is_remote(path):
		return None
	stat = os.stat(path)
	return stat.st_ino, stat.st_size, stat.st_mtime_ns


def check_state(path: str | os.PathLike, before: tuple[int, int, int] | None) -> None:
	"""Raise InputError when a file is no longer the one that was opened."""
	if before is not None and not is_remote(path) and (not os.path.exists(path) or file_state(path) != before):
		raise InputError(f"{path}: was changed or replaced while it was in use; open it again")


def content_key(path: str | os.PathLike) -> list[Any] | None:
	"""What a file holds, whatever its name: its size and hash, and its time too where only samples are hashed.

	None for a URL or a file that is not there, whose content is not known.
	"""
	stamp = None if is_remote(path) else _stamp(path)
	if stamp in _KEYS:
		return list(_KEYS[stamp])
	known = None if stamp is None else identify(path)
	if known is None:
		return None
	sampled = known["size"] > HASHED_WHOLE
	key = [known["size"], known["sha256"], known["mtime_ns"] if sampled else None]
	# A file that was only just written may be written again without another time.
	if _stamp(path) == stamp and time.time_ns() - max(stamp[-2:]) > _SETTLED:
		_KEYS[stamp] = list(key)
	return key


def _stamp(path: str | os.PathLike) -> tuple[int, ...] | None:
	"""What changes whenever a file is written to: device, inode, size, and the times of content and of inode."""
	try:
		stat = os.stat(path)
	except OSError:
		return None
	return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _hash(path: str | os.PathLike, size: int) -> str:
	"""SHA-256 of all bytes of a small file, or of samples of a large one."""
	digest = hashlib.sha256()
	with open(path, "rb") as handle:
		if size <= HASHED_WHOLE:
			while block := handle.read(2**22):
				digest.update(block)
		else:
			for offset in (0, size // 2, size - SAMPLE):
				handle.seek(offset)
				digest.update(handle.read(SAMPLE))
	return digest.hexdigest()


class _FullDiskError(InputError, OSError):
	"""There is no room for a file; an OSError too, for those that handle what keeps a file from being written."""

	def __str__(self) -> str:
		return str(self.args[0])


def no_room_for(path: str | os.PathLike | None, error: BaseException) -> str | None:
	"""What to say of an error that came as a disk, a quota or a limit was full; None for any other error."""
	if not isinstance(error, OSError) or error.errno not in _FULL:
		return None
	return (
		f"{path or error.filename or 'a file'}: cannot be written ({error.strerror}); make room on that disk, or raise "
		"the quota or limit, and give the same command again"
	)


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[str]:
	"""A temporary path in the folder of `path`; renamed to it on success, removed on failure.

	Raises
	------
	InputError
		The folder is missing or cannot be written, or the disk or a quota is full.
	"""
	folder, name = os.path.split(os.path.abspath(path))
	try:
		handle, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".part", dir=folder)
	except OSError as error:
		reason = error.strerror or error
		raise InputError(f"{path}: cannot be written ({reason}); choose a folder that exists and is writable") from None
	os.close(handle)
	try:
		yield temporary
		mask = os.umask(0)
		os.umask(mask)
		os.chmod(temporary, 0o666 & ~mask)  # mkstemp makes files private
		os.replace(temporary, path)
	except BaseException as error:
		if os.path.exists(temporary):
			os.remove(temporary)
		if full := no_room_for(path, error):
			raise _FullDiskError(full) from error
		raise
