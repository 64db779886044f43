"""Work over many loci in chunks: each goes to the disk when it is finished, and a later run goes on from there.

The loci are rows 0 to n. A part is a file with the results of some rows, in the folder ``{name}.{results}.parts``. Its
name holds the rows, and a fingerprint of all that decides the results, by which parts of other runs are told apart.
Chunks begin at multiples of the rows that a method takes at a time, so that its batches, and with them every bit of
the results, are the same whatever the chunks and the shards.
"""

import argparse
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from cherimoya.errors import CherimoyaError, InputError, Interrupted, MissingFileError, SettingsError
from cherimoya_cli.inference import Progress, model_path
from cherimoya_cli.resuming import content_of, identity_of
from cherimoya_cli.stopping import OutOfTime, StopRequest, stop_on_signals
from cherimoya_cli.utils import add_setting_argument, say, warn, write_json

if TYPE_CHECKING:
	import numpy as np
	import torch

	from cherimoya.io.windows import Windows

FORMAT = 1
"""Of the parts and of the manifest."""
PASSES = 20_000
"""Passes through the model that make up a chunk, unless its size is set: minutes on a CPU, seconds on a GPU."""
LARGEST_CHUNK, LARGEST_BYTES = 4_096, 64 * 2**20
"""Loci, and bytes of results, that a chunk whose size is not set holds at most."""
_HDF5_BLOCK = 2**18  # bytes of the smallest part of an HDF5 file that can be read

_MANIFEST, _LOCK = "manifest.json", "lock"
_OURS = re.compile(r"manifest\.json|lock|\..*\.(part|tmp)|[0-9a-f]{16}\.(\d+-\d+\.npz|ranking\.npy|\d+-of-\d+\.shard)")
# Settings that decide where results go and what is said about them, but nothing of what they are.
_BESIDE_RESULTS = frozenset(
	{"name", "ohe_filename", "attr_filename", "idx_filename", "warning_threshold", "output_format"}
)


def add_chunk_arguments(parser: argparse.ArgumentParser, command: str) -> None:
	"""The flags of a command whose work can be shared out."""
	group = parser.add_mutually_exclusive_group()
	add_setting_argument(group, command, "shard", "--shard", metavar="I/N")
	group.add_argument(
		"--merge", action="store_true", help="write the results out of the chunks that all shards have finished"
	)


def chunk_flags(args: argparse.Namespace) -> dict[str, Any]:
	"""What the flags of `add_chunk_arguments` say about settings."""
	return {} if args.shard is None else {"shard": args.shard}


class Shard(NamedTuple):
	"""The `number`-th, from 1, of `count` shares of the loci."""

	number: int
	count: int

	@classmethod
	def of(cls, text: str | None) -> "Shard":
		"""The shard that a setting names; the only one for None."""
		return cls(1, 1) if text is None else cls(*map(int, text.split("/")))

	def __str__(self) -> str:
		return f"{self.number}/{self.count}"

	def rows(self, n: int, unit: int) -> range:
		"""Its rows of n: neighbours, and whole units of rows but for the last."""
		units = -(-n // unit)
		first, stop = (min(n, units * i // self.count * unit) for i in (self.number - 1, self.number))
		return range(first, stop)


def chunk_length(chunk_size: int | None, unit: int, *, passes: int, n_bytes: int) -> int:
	"""Rows of a chunk: `chunk_size`, or a default by what a row costs, rounded up to whole units.

	Parameters
	----------
	chunk_size: int or None
		The setting.
	unit: int
		Rows that the method takes at a time.
	passes: int
		Passes through the model that a row takes.
	n_bytes: int
		Bytes of a row's results.
	"""
	wanted = chunk_size or max(1, min(LARGEST_CHUNK, PASSES // passes, LARGEST_BYTES // n_bytes))
	return -(-wanted // unit) * unit


def identity_of_results(settings: Any, windows: "Windows", *, unused: frozenset[str] = frozenset()) -> dict[str, Any]:
	"""All that decides the results of a command, files by their contents.

	Parameters
	----------
	settings: PredictSettings or AttributeSettings
		The settings, with a seed.
	windows: Windows
		The windows that they lead to.
	unused: frozenset of str
		Settings that have no effect beside the others.
	"""
	import torch

	from cherimoya import __version__

	return {
		**identity_of(settings, left_out=_BESIDE_RESULTS | unused),
		"model": content_of(model_path(settings)),
		"windows": f"sha256:{_digest(windows)}",
		"versions": {"cherimoya": __version__, "torch": str(torch.__version__)},
	}


def _digest(windows: "Windows") -> str:
	"""A hash of the places and of the bases of windows, a few at a time."""
	digest = hashlib.sha256("\n".join(windows.loci.chroms).encode())
	digest.update(windows.midpoints.astype("<i8").tobytes())
	for rows in blocks(len(windows), 4096):
		digest.update(windows.codes[rows].tobytes())
	return digest.hexdigest()


def blocks(n: int, size: int) -> Iterator[slice]:
	"""0 to n in slices of a size."""
	return (slice(first, min(first + size, n)) for first in range(0, n, size))


def draw_seed(settings: Any, folder: str | Path, *, merge: bool) -> None:
	"""Put a seed into the settings when they leave it open, and say it.

	Raises
	------
	SettingsError
		A shard leaves it open, and so might draw another than the other shards.
	"""
	if settings.random_state is not None:
		return
	if settings.shard is not None and not merge:
		raise SettingsError(
			f"{settings.source}: random_state is null, but the shards of a run need one seed; set it to a number"
		)
	earlier = _earlier_seed(folder) if settings.resume is not False or merge else None
	settings.random_state = secrets.randbits(31) if earlier is None else earlier
	origin = "a seed was drawn" if earlier is None else "the seed of the run that was interrupted is taken"
	say(f"random_state is null, so {origin}: {settings.random_state}")


def _earlier_seed(folder: str | Path) -> int | None:
	"""The seed of a run that has left parts, for one that leaves its own open; None if there is none."""
	manifest = _read_manifest(Path(folder))
	return None if manifest is None else manifest["identity"].get("random_state")


def _read_manifest(folder: Path) -> dict[str, Any] | None:
	"""What a folder of parts says about itself; None if nothing."""
	try:
		manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
	except (OSError, ValueError):
		return None
	keys = {"format", "fingerprint", "identity", "environment"}
	return manifest if isinstance(manifest, dict) and keys <= manifest.keys() else None


# ---- the parts on the disk --------------------------------------------------------------------------


class Part(NamedTuple):
	"""A file with the results of the rows from `first` to `stop`, without the last."""

	first: int
	stop: int
	path: Path


class Parts:
	"""The finished parts of one run.

	Parameters
	----------
	folder: path
		Where they are.
	command: str
		The command that makes them.
	identity: dict
		See `identity_of_results`.
	device: torch.device
		Where this process works.
	what: pair of str
		What a row is, one and several of them, for messages. Default is ("locus", "loci").

	Attributes
	----------
	folder: Path
	fingerprint: str
		A hash of the identity.
	"""

	def __init__(
		self,
		folder: str | Path,
		command: str,
		identity: Mapping[str, Any],
		device: "torch.device",
		*,
		what: tuple[str, str] = ("locus", "loci"),
	) -> None:
		import torch

		self.folder = Path(folder)
		self.row, self.rows = what
		self.identity = json.loads(json.dumps({"command": command, **identity}))
		text = json.dumps([FORMAT, self.identity], sort_keys=True)
		self.fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
		self.environment = {"device": device.type, "threads": torch.get_num_threads()}

	def found(self) -> list[Part]:
		"""The parts that are there, by their rows."""
		pattern = re.compile(rf"{self.fingerprint}\.(\d+)-(\d+)\.npz")
		matches = (pattern.fullmatch(name) for name in self._names())
		parts = (Part(int(m[1]), int(m[2]), self.folder / m[0]) for m in matches if m)
		return sorted(part for part in parts if zipfile.is_zipfile(part.path))  # not one that a crash has cut off

	def missing(self, rows: range, found: list[Part] | None = None) -> list[range]:
		"""The stretches of some rows that no part holds, of those that were found, or are found now."""
		gaps, at = [], rows.start
		for part in self.found() if found is None else found:
			if part.stop > at and part.first < rows.stop:
				gaps.append(range(at, part.first))
				at = part.stop
		return [gap for gap in (*gaps, range(at, rows.stop)) if gap]

	def check_room(self, rows: range, *, row_bytes: int, result_bytes: int) -> None:
		"""InputError when the disk has no room for the parts of some rows that are missing, and for the results.

		Parameters
		----------
		rows: range
			The rows that this process is to do.
		row_bytes, result_bytes: int
			What a row takes in a part, and what the results take that are written out of all parts.
		"""
		needed = row_bytes * sum(map(len, self.missing(rows))) + result_bytes
		free = shutil.disk_usage(self.folder).free
		if needed > free:
			raise InputError(
				f"{self.folder}: {len(rows):,} {self.rows} take about {needed / 1e9:,.2f} GB of disk, and "
				f"{free / 1e9:,.2f} GB are free there; make room, do fewer at a time, or choose another folder in name"
			)

	def save(self, rows: range, arrays: "Mapping[str, np.ndarray]") -> None:
		"""Put the results of some rows on the disk, whole or not at all; InputError if they cannot be written."""
		import numpy as np

		from cherimoya.io._files import replacing

		try:
			self.begin()
			with replacing(self._path(f"{rows.start:09d}-{rows.stop:09d}.npz")) as temporary:
				with open(temporary, "wb") as file:
					np.savez(file, **arrays)
					file.flush()
					os.fsync(file.fileno())
		except OSError as error:
			raise self._unwritable(error) from error

	def ranking(self, compute: "Callable[[], np.ndarray]") -> "np.ndarray":
		"""The rows that a ranking has chosen, worked out by whoever comes first, so that all shards have the same."""
		import numpy as np

		path = self._path("ranking.npy")
		try:
			self.begin()
			if not path.exists():
				temporary = path.with_name(f".{os.getpid()}.{path.name}.tmp")
				try:
					with temporary.open("wb") as file:
						np.save(file, compute())
					os.link(temporary, path)
				except FileExistsError:
					pass  # another shard was quicker
				finally:
					temporary.unlink(missing_ok=True)
			return np.load(path)
		except CherimoyaError:
			raise
		except (OSError, ValueError, EOFError) as error:
			raise self._unwritable(error) from error

	def begin(self) -> None:
		"""Make the folder and its manifest, unless they are there."""
		self.folder.mkdir(parents=True, exist_ok=True)
		known = _read_manifest(self.folder)
		if known is None or known["fingerprint"] != self.fingerprint:
			content = {"format": FORMAT, "fingerprint": self.fingerprint, "identity": self.identity}
			write_json(self.folder / _MANIFEST, {**content, "environment": self.environment})

	def take_over(self, resume: bool | str, rows: range, *, alone: bool) -> None:
		"""Deal with what an earlier run has left, as the setting `resume` says.

		Parameters
		----------
		resume: bool or "auto"
			False removes the parts of this run; unless it is true, those of others go, too.
		rows: range
			The rows that this process is to do, whose parts alone are removed.
		alone: bool
			Whether no other process is at work in the folder.

		Raises
		------
		InputError
			`resume` is true, and the parts are of another run.
		"""
		known = _read_manifest(self.folder)
		if known is not None and known["fingerprint"] != self.fingerprint:
			if resume is True:
				raise InputError(
					f"{self.folder}: of another run: {self._differences(known)}; go back to what was, set resume to "
					"false to begin anew, or choose another name"
				)
			say(f"{self.folder} is of another run: {self._differences(known)}. Its chunks are removed, to begin anew.")
		elif known is not None and known["environment"] != self.environment and resume is not False:
			before, here = known["environment"], self.environment
			moved = [f"{key} was {before.get(key)}, is {here[key]}" for key in here if before.get(key) != here[key]]
			say(f"note: {', '.join(moved)}: results will be equal to rounding, not bit by bit")
		for name in self._names():
			others = not name.startswith((self.fingerprint, ".")) and name not in (_MANIFEST, _LOCK)
			killed = alone and name.startswith(".")  # what a process was writing when it was killed
			if (others or killed) and _OURS.fullmatch(name):
				(self.folder / name).unlink(missing_ok=True)
		for part in self.found() if resume is False else ():
			if part.first < rows.stop and part.stop > rows.start:
				part.path.unlink(missing_ok=True)

	def check_same(self) -> None:
		"""InputError when there are no parts of this run to merge."""
		known = _read_manifest(self.folder)
		if known is None:
			raise MissingFileError(
				f"{self.folder}: no finished chunks to merge; run the shards first, with --shard 1/3 and so on"
			)
		if known["fingerprint"] != self.fingerprint:
			raise InputError(
				f"{self.folder}: of another run: {self._differences(known)}; merge with the shards' settings and files"
			)

	def check_whole(self, n: int, unit: int) -> None:
		"""InputError unless all of n rows are there; it names the shards that are missing."""
		found = self.found()
		gaps = self.missing(range(n), found)
		if not gaps:
			return
		markers = (re.fullmatch(rf"{self.fingerprint}\.\d+-of-(\d+)\.shard", name) for name in self._names())
		counts = {int(m[1]) for m in markers if m}
		if len(counts) == 1:
			texts = []
			for shard in (Shard(i, *counts) for i in range(1, next(iter(counts)) + 1)):
				rows = shard.rows(n, unit)
				if left := sum(map(len, self.missing(rows, found))):
					texts.append(f"{shard} ({len(rows) - left:,} of {len(rows):,} {self.rows} are done)")
			lacking = f"shards that are not finished: {', '.join(texts)}"
		else:
			stretches = [f"{gap.start + 1:,} to {gap.stop:,}" for gap in gaps]
			more = f" and {len(stretches) - 5} more stretches" if len(stretches) > 5 else ""
			lacking = f"{self.rows} {', '.join(stretches[:5])}{more} of {n:,} are not done"
		raise InputError(f"{self.folder}: {lacking}; run what is missing, and merge again")

	def pieces(self, n: int) -> Iterator[tuple[slice, Path, slice]]:
		"""Rows 0 to n in order: the rows, the file that holds them, and which of its rows they are."""
		at = 0
		for part in self.found():
			if part.stop > at:
				if part.first > at:
					break
				yield slice(at, part.stop), part.path, slice(at - part.first, part.stop - part.first)
				at = part.stop
		if at < n:
			raise InputError(
				f"{self.folder}: the results of {self.row} {at + 1:,} are gone; give the same command again"
			)

	def read(self, n: int, *names: str) -> "Iterator[tuple[slice, tuple[np.ndarray, ...]]]":
		"""Some arrays, a part at a time, with their rows.

		Raises
		------
		InputError
			A part is damaged; it is removed, so that the same command makes it again.
		"""
		import numpy as np

		for rows, path, inner in self.pieces(n):
			try:
				with np.load(path) as file:
					arrays = tuple(file[name][inner] for name in names)
			except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
				path.unlink(missing_ok=True)
				raise InputError(
					f"{path}: this chunk is damaged ({error}) and was removed; give the same command again to redo it"
				) from None
			yield rows, arrays

	@contextmanager
	def spool(self, shape: Sequence[int], blocks: "Iterator[np.ndarray]") -> "Iterator[np.ndarray]":
		"""An array that is written block by block to a file beside the parts and mapped into memory, then removed."""
		import numpy as np

		path = self.folder / f".{os.getpid()}.spool.tmp"
		try:
			with path.open("wb") as file:  # and not to the map itself, which would crash on a full disk
				write_array(file, shape, blocks)
			yield np.load(path, mmap_mode="r")
		finally:
			path.unlink(missing_ok=True)

	def mark(self, shard: Shard) -> Path:
		"""Leave a note that a shard has begun; its path."""
		path = self._path(f"{shard.number}-of-{shard.count}.shard")
		path.touch()
		return path

	def clear(self) -> None:
		"""Remove the folder with all that this module puts there."""
		for name in self._names():
			if _OURS.fullmatch(name):
				(self.folder / name).unlink(missing_ok=True)
		try:
			self.folder.rmdir()
		except FileNotFoundError:
			pass
		except OSError as error:
			warn(f"note: {self.folder} is no longer needed and cannot be removed ({error.strerror})")

	def close(self) -> None:
		"""Leave nothing behind where nothing was finished."""
		kept = (".npz", ".npy", ".shard")
		if not any(name.endswith(kept) and not name.startswith(".") for name in self._names()):
			self.clear()

	def _names(self) -> list[str]:
		"""What is in the folder."""
		try:
			return os.listdir(self.folder)
		except OSError:
			return []

	def _path(self, suffix: str) -> Path:
		return self.folder / f"{self.fingerprint}.{suffix}"

	def _differences(self, known: Mapping[str, Any]) -> str:
		"""In what another run differs from this one, in words."""
		from cherimoya.training.state import differences

		texts = differences(known["identity"], self.identity) or ["another format"]
		return "; ".join(texts[:4]) + (f"; and {len(texts) - 4} more" if len(texts) > 4 else "")

	def _unwritable(self, error: Exception) -> InputError:
		"""The error for a chunk that does not get to the disk."""
		reason = getattr(error, "strerror", None) or error
		return InputError(
			f"{self.folder}: a chunk cannot be written ({reason}); make room there, or make the folder writable. The "
			f"{len(self.found()):,} that are finished are kept, and the same command goes on from them"
		)


@contextmanager
def at_work(parts: Parts, shard: Shard, *, merge: bool) -> Iterator[None]:
	"""Keep a folder of parts to oneself, or to shards, which share it; InputError when others are at work there."""
	if merge:
		parts.check_same()
	shared = shard.count > 1 and not merge
	with _locked(parts, fcntl.LOCK_SH if shared else fcntl.LOCK_EX):
		try:
			with _marked(parts, shard) if shared else nullcontext():
				yield
		finally:
			parts.close()


@contextmanager
def _marked(parts: Parts, shard: Shard) -> Iterator[None]:
	"""Note that a shard is at work, or was; InputError when another process is at work on it."""
	with parts.mark(shard).open("a") as marker:
		_lock(marker, fcntl.LOCK_EX, parts.folder)
		try:
			yield
		finally:
			if not parts.found():
				Path(marker.name).unlink(missing_ok=True)


def _locked(parts: Parts, kind: int) -> IO[str]:
	"""The lock of a folder of parts, taken; the folder is made."""
	path = parts.folder / _LOCK
	while True:
		try:
			parts.folder.mkdir(parents=True, exist_ok=True)
			file = path.open("a")
		except OSError as error:
			raise parts._unwritable(error) from error
		try:
			_lock(file, kind, parts.folder)
		except BaseException:
			file.close()
			raise
		# A run that has just ended may have removed the folder with the file: this lock would keep nobody out.
		with suppress(FileNotFoundError):
			if os.path.samestat(os.fstat(file.fileno()), path.stat()):
				return file
		file.close()


def _lock(file: Any, kind: int, folder: Path) -> None:
	"""Take a lock that ends with the process."""
	try:
		fcntl.flock(file, kind | fcntl.LOCK_NB)
	except BlockingIOError:
		raise InputError(
			f"{folder}: another process is at work there; wait for it, end it, or choose another name"
		) from None
	except OSError:
		pass  # a file system without locks


# ---- working through the rows -----------------------------------------------------------------------


class Advance:
	"""Adds up over chunks what the library counts in each, tells the user, and stops when it is asked to.

	Called by the library after each batch.
	"""

	def __init__(self, progress: Progress | None, total: int, stop: StopRequest) -> None:
		self.progress, self.total, self.stop = progress, total, stop
		self.before = self.last = 0

	def __call__(self, done: int, total: int) -> None:
		"""Note that `done` of a chunk's `total` are made."""
		self.last = total
		if self.stop() and done < total:  # else the chunk is finished first
			raise Interrupted
		if self.progress is not None:
			self.progress(self.before + done, self.total)

	def next_chunk(self) -> None:
		"""What follows is counted from here."""
		self.before += self.last
		self.last = 0


def work_through(
	parts: Parts,
	rows: range,
	length: int,
	compute: "Callable[[range, Callable[[int, int], None]], Mapping[str, np.ndarray]]",
	*,
	count: Callable[[range], int],
	progress: Progress | None,
) -> None:
	"""Compute what no part holds yet, a chunk at a time, each of which is on the disk before the next is begun.

	Parameters
	----------
	parts: Parts
		Where results go.
	rows: range
		The rows to do.
	length: int
		Rows of a chunk.
	compute: callable
		The arrays of some rows; takes them, and what to call after each batch.
	count: callable
		What `compute` will count to for some rows.
	progress: Progress or None
		Tells the user.

	Raises
	------
	Interrupted
		A signal has asked for a stop; the batch under way was let end, and the finished chunks are kept.
	"""
	n_chunks, todo = -(-len(rows) // length), _unfinished(parts, rows, length)
	n_done = n_chunks - len(todo)
	if n_done:
		say(f"{parts.folder}: {n_done:,} of {n_chunks:,} chunks are done; going on from there")
	total = sum(count(piece) for pieces in todo for piece in pieces)
	with stop_on_signals() as stop:
		advance = Advance(progress, total, stop)
		try:
			for pieces in todo:
				for piece in pieces:
					if stop():
						raise Interrupted
					parts.save(piece, compute(piece, advance))
					advance.next_chunk()
				n_done += 1
			if stop():
				raise Interrupted
		except (Interrupted, OutOfTime):
			raise _interrupted(f"{n_done:,} of {n_chunks:,} chunks are done ({parts.folder})", stop) from None


def _unfinished(parts: Parts, rows: range, length: int) -> list[list[range]]:
	"""The chunks that are not done, each as the stretches of it that no part holds."""
	found: dict[int, list[range]] = {}
	for gap in parts.missing(rows):
		at = gap.start
		while at < gap.stop:
			chunk = (at - rows.start) // length
			end = min(gap.stop, rows.start + (chunk + 1) * length)
			found.setdefault(chunk, []).append(range(at, end))
			at = end
	return list(found.values())


def stopping_soon(work: "Callable[[Callable[[int, int], None]], Any]", progress: Progress | None, total: int) -> Any:
	"""What some work gives that calls its argument after each batch; it stops on signals, and nothing of it is kept."""
	with stop_on_signals() as stop:
		try:
			return work(Advance(progress, total, stop))
		except (Interrupted, OutOfTime):
			raise _interrupted("no chunk was begun yet", stop) from None


def _interrupted(text: str, stop: StopRequest) -> Interrupted:
	"""The error of work that a signal has ended."""
	error = Interrupted(text)
	error.exit_code = stop.exit_code
	return error


# ---- results out of parts ---------------------------------------------------------------------------


class Stream(NamedTuple):
	"""An array of a shape, as blocks of rows one after the other."""

	shape: Sequence[int]
	blocks: "Iterator[np.ndarray]"


def write_array(file: Any, shape: Sequence[int], blocks: "Iterator[np.ndarray]") -> None:
	"""Write an array to an open file in NumPy's format, block by block; there is at least one."""
	import numpy as np

	header = None
	for block in blocks:
		if header is None:
			description = np.lib.format.dtype_to_descr(block.dtype)
			header = {"descr": description, "fortran_order": False, "shape": tuple(shape)}
			np.lib.format.write_array_header_1_0(file, header)
		file.write(np.ascontiguousarray(block).data.cast("B"))


def save_streams(path: Path, **arrays: "Stream | np.ndarray") -> None:
	"""Write arrays to a compressed .npz under exactly this name; streams take no more memory than their blocks."""
	import numpy as np

	with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
		for name, array in arrays.items():
			with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
				if isinstance(array, Stream):
					write_array(file, array.shape, array.blocks)
				else:
					np.lib.format.write_array(file, array, allow_pickle=False)


def save_hdf5(path: Path, attributes: "Mapping[str, Any]", **arrays: "Stream | np.ndarray") -> None:
	"""Write arrays to a compressed HDF5 file under exactly this name; streams take no more memory than their blocks."""
	import h5py
	import numpy as np

	with h5py.File(path, "w") as file:
		file.attrs.update(attributes)
		for name, array in arrays.items():
			stream = array if isinstance(array, Stream) else Stream(array.shape, iter((array,)))
			dataset, at = None, 0
			for block in stream.blocks:
				text = block.dtype.kind == "U"
				if dataset is None:
					row_bytes = block.dtype.itemsize * int(np.prod(stream.shape[1:]))
					dataset = file.create_dataset(
						name,
						stream.shape,
						h5py.string_dtype() if text else block.dtype,
						chunks=(min(stream.shape[0], max(1, _HDF5_BLOCK // row_bytes)), *stream.shape[1:]),
						compression="gzip",
						compression_opts=1,
						shuffle=True,
					)
				dataset[at : at + len(block)] = block.astype(object) if text else block
				at += len(block)
