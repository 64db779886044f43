"""Reading and writing files safely: text plain or gzipped, and outputs that appear only when whole."""

import gzip
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cherimoya.errors import InputError, MissingFileError

GZIP_MAGIC = b"\x1f\x8b"


def cache_folder() -> Path:
	"""Where this package keeps what it can make again: ``$XDG_CACHE_HOME/cherimoya``, or ``~/.cache/cherimoya``."""
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
	"""The whole content of a file, unzipped when it starts like a gzip file, whatever its name."""
	check_exists(path, what=what)
	data = Path(path).read_bytes()
	if data[:2] != GZIP_MAGIC:
		return data
	try:
		return gzip.decompress(data)
	except (EOFError, zlib.error, OSError) as error:
		raise InputError(f"{path}: the gzip data are broken or truncated ({error}); get the file again") from None


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[str]:
	"""A temporary path in the folder of `path`; renamed to it on success, removed on failure.

	Raises
	------
	InputError
		The folder is missing or cannot be written.
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
	except BaseException:
		if os.path.exists(temporary):
			os.remove(temporary)
		raise
