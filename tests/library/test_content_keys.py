"""What a file holds, told by a key: hashed once while it stays as it is."""

import os

import pytest

from cherimoya.io import _files
from cherimoya.io._files import content_key


@pytest.fixture
def hashed(monkeypatch):
	"""The paths that are hashed, in order, while files count as settled at once."""
	paths, whole = [], _files._hash
	monkeypatch.setattr(_files, "_hash", lambda path, size: paths.append(path) or whole(path, size))
	monkeypatch.setattr(_files, "_KEYS", {})
	monkeypatch.setattr(_files, "_SETTLED", -(10**9))
	return paths


def test_a_file_is_hashed_once_while_it_stays_as_it_is(tmp_path, hashed):
	path = tmp_path / "a"
	path.write_bytes(b"one")
	key = content_key(path)
	key.append("the caller's own")
	assert content_key(path) == key[:-1] and len(hashed) == 1


def test_a_file_that_was_only_just_written_is_hashed_each_time(tmp_path, hashed, monkeypatch):
	monkeypatch.setattr(_files, "_SETTLED", 3600 * 10**9)
	path = tmp_path / "a"
	path.write_bytes(b"one")
	assert content_key(path) == content_key(path) and len(hashed) == 2


@pytest.mark.parametrize("way", ["in place, with its old times", "by another file"])
def test_a_change_is_noticed(tmp_path, hashed, way):
	path = tmp_path / "a"
	path.write_bytes(b"one")
	before = os.stat(path)
	key = content_key(path)
	if way == "by another file":
		(tmp_path / "b").write_bytes(b"two")
		os.replace(tmp_path / "b", path)
	else:
		while os.stat(path).st_ctime_ns == before.st_ctime_ns:  # the clock of files has ticks of some milliseconds
			path.write_bytes(b"two")
			os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
	assert content_key(path) != key


def test_what_is_not_there_has_no_key(tmp_path):
	assert content_key(tmp_path / "none") is None
	assert content_key("https://example.org/a.bw") is None
