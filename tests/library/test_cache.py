"""The cache of windows: equal to what is read anew, found again, and never wrong, whatever happens to it."""

import errno
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from cherimoya.errors import InputError
from cherimoya.io import _bigwig, _gather, cache, estimate_bytes, extract_windows, storage
from cherimoya.io.genome import Genome
from cherimoya.io.tracks import Tracks
from cherimoya.io.windows import Widths, load_windows, open_sources, plan_windows

WIDTHS = {"in_window": 101, "out_window": 40, "max_jitter": 7}
ARRAYS = ("codes", "signals", "controls")


@pytest.fixture(scope="module")
def world(tmp_path_factory, make_fasta, make_bigwig):
	"""Files of a genome of two chromosomes, three tracks of one chromosome more than loci need, and 400 loci."""
	folder = tmp_path_factory.mktemp("cache_world")
	rng = np.random.default_rng(5)
	sizes = {"chr1": 30_000, "chr2": 20_000, "chr3": 500}
	make_fasta(folder / "g.fa", {c: "".join(rng.choice(list("ACGTN"), size=s)) for c, s in sizes.items()})
	for i in range(3):
		track = {c: rng.poisson(0.5, s).astype(np.float32) for c, s in sizes.items()}
		for k, at in enumerate(range(300, 15_000, 2_000)):  # outliers, and more of them once the first are gone
			track["chr1"][at] += 40 * 2.0**k
		make_bigwig(folder / f"{i}.bw", sizes, track)
	chroms = rng.choice(["chr1", "chr2"], size=400)
	starts = rng.integers(0, 19_000, size=400)
	chroms[:3], starts[:3] = "chr2", (3, 8_990, 9_000)  # the first leaves its chromosome
	chroms[3:11], starts[3:11] = "chr1", range(295, 15_000, 2_000)
	(folder / "loci.bed").write_text("".join(f"{c}\t{s}\t{s + 9}\n" for c, s in zip(chroms, starts, strict=True)))
	return folder


def load(world, **options):
	"""The windows of the world, with the filters that need the counts."""
	files = {name: str(world / name) for name in ("loci.bed", "g.fa", "0.bw", "1.bw", "2.bw")}
	signals = options.pop("signals", [files["0.bw"], [files["1.bw"], files["2.bw"]]])
	given = {"controls": files["2.bw"], "min_counts": 12, "drop_outliers": True, **WIDTHS, **options}
	return extract_windows(files["loci.bed"], given.pop("sequences", files["g.fa"]), signals, **given)


def same(a, b):
	"""Whether two loads hold the same windows and the same account."""
	equal = all(np.array_equal(getattr(a, name), getattr(b, name)) for name in (*ARRAYS, "mask"))
	return equal and a.accounting == b.accounting and a.loci.starts.tolist() == b.loci.starts.tolist()


def only_entry(folder):
	"""The folder of a cache's only entry."""
	(entry,) = cache.entries(folder)
	return entry.path


def forget():
	"""Let go of the entries that this process has open."""
	for lock, _ in cache._HELD.values():
		os.close(lock)
	cache._HELD.clear()


@pytest.fixture
def small_chunks(monkeypatch):
	"""Chunks of some loci, so that there are many."""
	monkeypatch.setattr(_gather, "_CHUNK", 1 << 15)


# ---- the same windows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("with_tracks", [True, False], ids=["tracks", "sequences alone"])
def test_a_cached_load_equals_one_into_memory(world, tmp_path, small_chunks, workers, with_tracks):
	options = {} if with_tracks else {"signals": None, "controls": None, "min_counts": None, "drop_outliers": False}
	plain = load(world, **options)
	assert 0 < len(plain) < len(plain.mask)
	if with_tracks:  # some would be outliers now that the first are gone, if they were judged again
		assert plain.accounting.dropped["outlier"]
		assert (plain.counts() > 1.2 * np.quantile(plain.counts(), 0.99, axis=0)).any()
	parallel = load(world, workers=workers, **options)
	made = load(world, cache=tmp_path / "c", workers=workers, **options)
	found = load(world, cache=tmp_path / "c", workers=workers, **options)
	for other in (parallel, made, found):
		assert same(plain, other)
		assert torch.equal(plain.X(), other.X())
	for other in (made, found) if with_tracks else ():
		assert other.signals.dtype.itemsize <= 2 and isinstance(other.signals, np.memmap)
		assert other.y().dtype == torch.float32 and torch.equal(other.y(), plain.y())
		assert torch.equal(other.X_ctl(), plain.X_ctl())
		assert np.array_equal(other.counts(), plain.counts())
		assert torch.equal(other.centre().y(slice(2, 9)), plain.centre().y(slice(2, 9)))
	assert [path.name for path in (tmp_path / "c").iterdir()] == [only_entry(tmp_path / "c").name]


@pytest.mark.parametrize("cached, workers", [("neither", 1), ("neither", 2), ("first", 1), ("second", 1), ("both", 1)])
def test_loads_together_are_those_apart(world, tmp_path, small_chunks, cached, workers):
	"""Two lots of loci, of other widths and filters, in memory or in a cache that has none, one or both of them."""
	sources = open_sources(str(world / "g.fa"), [str(world / "0.bw"), str(world / "1.bw")], str(world / "2.bw"))
	first, second = Widths(101, 40, 7), Widths(60, 80, 0)
	plans = [
		plan_windows(str(world / "loci.bed"), sources, first, drop_outliers=True),
		plan_windows(str(world / "loci.bed"), sources, second, chroms=["chr2"], max_counts=60),
	]
	call = (str(world / "loci.bed"), *sources)
	apart = [
		extract_windows(*call, **first._asdict(), drop_outliers=True),
		extract_windows(*call, **second._asdict(), chroms=["chr2"], max_counts=60),
	]
	assert all(0 < len(windows) < len(windows.mask) for windows in apart)
	for plan, name in zip(plans, ("first", "second"), strict=True):
		if cached in (name, "both"):
			load_windows([plan], cache=tmp_path)
	for folder in (None, tmp_path, tmp_path):
		found = load_windows(plans, cache=folder, workers=workers)
		assert all(same(a, b) for a, b in zip(found, apart, strict=True))
	assert len(cache.entries(tmp_path)) == len(list(tmp_path.iterdir())) == 2


def test_one_lot_in_the_cache_and_one_in_memory_are_read_together(world, tmp_path, monkeypatch):
	monkeypatch.setenv("CHERIMOYA_CACHE", str(tmp_path))
	monkeypatch.setattr(storage, "WORTH_CACHING", 100_000)
	sources = open_sources(str(world / "g.fa"), str(world / "0.bw"))
	plans = [plan_windows(str(world / "loci.bed"), sources, Widths(width, 40, 0)) for width in (50, 400)]
	times = []
	monkeypatch.setattr(storage, "gather", lambda loads, **options: times.append(1) or _gather.gather(loads, **options))
	small, large = load_windows(plans, cache="auto")
	assert not isinstance(small.codes, np.memmap) and isinstance(large.codes, np.memmap) and len(times) == 1
	for plan, windows in zip(plans, (small, large), strict=True):
		assert same(load_windows([plan])[0], windows)


def test_what_two_lots_share_is_read_once(world, tmp_path, monkeypatch):
	sources = open_sources(str(world / "g.fa"), str(world / "0.bw"))
	plans = [plan_windows(str(world / "loci.bed"), sources, Widths(width, 40, 0)) for width in (90, 101)]
	reads = []
	unzipped, read = _bigwig.BigWig._unzipped, Genome.read
	monkeypatch.setattr(_bigwig.BigWig, "_unzipped", lambda *args: reads.append("block") or unzipped(*args))
	monkeypatch.setattr(Genome, "read", lambda *args: reads.append("bases") or read(*args))
	counts = []
	for some in (plans[1:], plans):
		load_windows(some, workers=1)
		counts.append((reads.count("block"), reads.count("bases")))
		reads.clear()
	assert counts[0] == counts[1] and min(counts[0]) > 0


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("final", range(len(_gather.DTYPES)))
def test_kept_rows_are_moved_together_in_one_type(tmp_path, monkeypatch, seed, final):
	rng = np.random.default_rng([seed, final])
	n, shape = int(rng.integers(1, 60)), (2, 3)
	monkeypatch.setattr(_gather, "_PIECE", int(rng.integers(1, 200)))
	kinds = rng.choice(rng.choice(4, size=rng.integers(1, 5)), size=n).astype(np.uint8)
	kept = rng.random(n) < rng.choice([0, 0.5, 0.95, 1])
	values = rng.integers(0, 200, size=(n, *shape))
	for i in rng.permutation(n):  # as processes write them
		with _gather._Rows(tmp_path / f"a.{kinds[i]}", _gather.DTYPES[kinds[i]], shape) as file:
			file.write(int(i), values[i : i + 1])
	found = np.load(_gather._settle(str(tmp_path), "a", shape, kept, kinds, final))
	assert found.dtype == _gather.DTYPES[final] and np.array_equal(found, values[kept])


def test_a_second_load_reads_no_input(world, tmp_path, monkeypatch):
	load(world, cache=tmp_path)
	monkeypatch.setattr(Tracks, "windows", lambda *_: pytest.fail("a bigWig was read"))
	monkeypatch.setattr(_gather.Genome, "read", lambda *_: pytest.fail("the FASTA was read"))
	assert len(load(world, cache=tmp_path))


def test_nothing_kept_is_told_as_without_a_cache(world, tmp_path):
	for _ in range(2):
		with pytest.raises(InputError, match="no locus is left"):
			load(world, cache=tmp_path, min_counts=1e6)
		empty = load(world, cache=tmp_path, min_counts=1e6, allow_empty=True)
		assert len(empty) == 0 and empty.signals.shape == (0, 3, 54)


def test_no_locus_in_place_is_no_problem(world, tmp_path):
	for _ in range(2):
		empty = load(world, cache=tmp_path, chroms=["chr3"], allow_empty=True)
		assert len(empty) == 0 and empty.codes.shape == (0, 115) and empty.counts().shape == (0, 2)


@pytest.mark.parametrize(
	"values, dtype",
	[
		([0, 1, 255], np.uint8),
		([0, 256], np.int16),
		([32_767], np.int16),
		([32_768], np.float16),  # a power of two
		([32_769], np.float32),
		([0.5, 3, 255], np.float16),
		([0.1, 3], np.float32),
		([65_504.0], np.float16),
		([1e9], np.float32),
		([], np.uint8),
	],
	ids=str,
)
def test_values_are_kept_in_the_smallest_exact_type(values, dtype):
	values = np.array(values, dtype=np.float32)
	kept = _gather.smallest_exact(values)
	assert kept.dtype == dtype and np.array_equal(kept.astype(np.float32), values)


@pytest.mark.parametrize("scale, dtype", [(1, "uint8"), (300, "int16"), (0.5, "float16"), (0.1, "float32")], ids=str)
def test_one_large_or_broken_value_anywhere_widens_the_array(world, tmp_path, small_chunks, make_bigwig, scale, dtype):
	sizes = {"chr1": 30_000, "chr2": 20_000, "chr3": 500}
	track = {"chr1": np.ones(30_000, dtype=np.float32), "chr2": np.ones(20_000, dtype=np.float32)}
	track["chr2"][9_000] = scale
	path = str(make_bigwig(tmp_path / "x.bw", sizes, track))
	options = {"signals": path, "min_counts": None, "drop_outliers": False}
	windows = load(world, cache=tmp_path / "c", **options)
	assert windows.signals.dtype == dtype
	assert same(load(world, **options), windows)


def test_dropped_outliers_do_not_widen_the_array(world, tmp_path, small_chunks, make_bigwig):
	sizes = {"chr1": 30_000, "chr2": 20_000, "chr3": 500}
	track = {"chr1": np.ones(30_000, dtype=np.float32), "chr2": np.ones(20_000, dtype=np.float32)}
	track["chr2"][9_000] = 1e5
	path = str(make_bigwig(tmp_path / "x.bw", sizes, track))
	options = {"signals": path, "min_counts": None, "max_counts": 1e4, "controls": None}
	windows = load(world, cache=tmp_path / "c", **options)
	assert windows.signals.dtype == np.uint8 and windows.accounting.dropped["too many counts"]
	assert same(load(world, **options), windows)


def test_other_processes_use_the_same_files(world, tmp_path):
	windows = load(world, cache=tmp_path)
	program = f"""
		import json, sys
		from cherimoya.io import cache, extract_windows
		from cherimoya.io.tracks import Tracks
		Tracks.windows = None  # nothing is read
		w = {str(world)!r}
		windows = extract_windows(w + "/loci.bed", w + "/g.fa", [w + "/0.bw", [w + "/1.bw", w + "/2.bw"]], w + "/2.bw",
			min_counts=12, drop_outliers=True, cache={str(tmp_path)!r}, **{WIDTHS!r})
		print(json.dumps([str(windows.signals.filename), int(windows.signals.sum()), "torch" in sys.modules]))
	"""
	child = run_python(program)
	assert json.loads(child.stdout) == [str(windows.signals.filename), int(windows.signals.sum()), False]


def run_python(program, **options):
	"""The output of a program in a process of its own."""
	command = [sys.executable, "-c", textwrap.dedent(program)]
	return subprocess.run(command, capture_output=True, text=True, check=True, **options)


class _Dataset(torch.utils.data.Dataset):
	"""Windows one by one."""

	def __init__(self, windows):
		self.windows = windows

	def __len__(self):
		return len(self.windows)

	def __getitem__(self, i):
		return self.windows.X([i]), self.windows.y([i]), self.windows.X_ctl([i])


def test_loader_workers_get_the_examples_of_arrays_in_memory(world, tmp_path):
	plain, mapped = (_Dataset(load(world, cache=cache)[:20]) for cache in (None, tmp_path))
	loaders = [
		torch.utils.data.DataLoader(dataset, batch_size=7, num_workers=workers)
		for dataset, workers in ((plain, 0), (mapped, 2))
	]
	for a, b in zip(*loaders, strict=True):
		assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_writing_to_an_array_changes_no_file(world, tmp_path):
	windows = load(world, cache=tmp_path)
	before = windows.signals[0].copy()
	windows.signals[0] = 77
	forget()
	assert np.array_equal(load(world, cache=tmp_path).signals[0], before)


# ---- keys -----------------------------------------------------------------------------------------------------------


def _edit_fasta(world):
	"""Change one base in place, keeping the file's size and time."""
	path = world / "g.fa"
	status = path.stat()
	data = bytearray(path.read_bytes())
	at = data.index(b"A", 10_000)
	data[at] = ord("C")
	path.write_bytes(bytes(data))
	os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _replace_track(world):
	shutil.copy(world / "0.bw", world / "1.bw")


def _drop_a_locus(world):
	path = world / "loci.bed"
	path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
	"change, options",
	[
		(_edit_fasta, {}),
		(_replace_track, {}),
		(_drop_a_locus, {}),
		(None, {"in_window": 103}),
		(None, {"out_window": 42}),
		(None, {"max_jitter": 8}),
		(None, {"min_counts": 20}),
		(None, {"max_counts": 60}),
		(None, {"drop_outliers": False}),
		(None, {"chroms": ["chr1"]}),
		(None, {"controls": None}),
		(None, {"absolute": True}),
	],
	ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_other_content_gets_another_entry(world, tmp_path, change, options):
	here = tmp_path / "world"
	shutil.copytree(world, here)
	load(here, cache=tmp_path / "c")
	if change is not None:
		change(here)
	assert same(load(here, cache=tmp_path / "c", **options), load(here, **options))
	assert len(cache.entries(tmp_path / "c")) == 2


def test_the_groups_of_tracks_matter_where_counts_are_filtered(world, tmp_path):
	flat = [str(world / f"{i}.bw") for i in range(3)]
	load(world, cache=tmp_path)
	assert same(load(world, cache=tmp_path, signals=flat), load(world, signals=flat))
	assert len(cache.entries(tmp_path)) == 2


def test_the_place_of_the_files_does_not_matter(world, tmp_path):
	shutil.copytree(world, tmp_path / "elsewhere")
	load(world, cache=tmp_path / "c")
	(tmp_path / "elsewhere").rename(tmp_path / "moved")
	os.utime(tmp_path / "moved" / "0.bw")
	load(tmp_path / "moved", cache=tmp_path / "c")
	assert len(cache.entries(tmp_path / "c")) == 1


@pytest.mark.parametrize("name", ["g.fa", "1.bw"])
@pytest.mark.parametrize("workers", [1, 2])
def test_inputs_that_change_while_they_are_read_make_no_entry(world, tmp_path, monkeypatch, name, workers):
	here = tmp_path / "world"
	shutil.copytree(world, here)
	finish = _gather._Files.finish

	def changing(files):
		shutil.copyfile(here / name, here / "new")
		os.replace(here / "new", here / name)
		return finish(files)

	monkeypatch.setattr(_gather._Files, "finish", changing)
	with pytest.raises(InputError, match=rf"{name}: was changed or replaced while it was in use"):
		load(here, cache=tmp_path / "c", workers=workers)
	assert list((tmp_path / "c").iterdir()) == []


def test_sources_opened_before_their_files_were_replaced_are_refused(world, tmp_path):
	here = tmp_path / "world"
	shutil.copytree(world, here)
	genome, tracks = Genome(here / "g.fa"), Tracks([str(here / "0.bw")])
	assert load(here, sequences=genome, signals=tracks, cache=tmp_path / "c", drop_outliers=False, min_counts=None)
	shutil.copyfile(here / "1.bw", here / "new")
	os.replace(here / "new", here / "0.bw")
	with pytest.raises(InputError, match=r"0\.bw: was changed or replaced"):
		load(here, sequences=genome, signals=tracks, cache=tmp_path / "c")
	_edit_fasta(here)
	os.utime(here / "g.fa")
	with pytest.raises(InputError, match=r"g\.fa: was changed or replaced"):
		load(here, sequences=genome, cache=tmp_path / "c")


def test_an_entry_of_another_format_is_not_opened(world, tmp_path, monkeypatch):
	load(world, cache=tmp_path)
	monkeypatch.setattr(cache, "FORMAT", cache.FORMAT + 1)
	load(world, cache=tmp_path)
	assert len(list(tmp_path.iterdir())) == 2


def test_tracks_that_are_hashed_ahead_have_the_same_key(world, tmp_path):
	here = shutil.copytree(world, tmp_path / "world")
	tracks = Tracks([str(here / "0.bw"), str(here / "1.bw")])
	tracks.hash_ahead()
	assert pickle.loads(pickle.dumps(tracks)).content_key(["chr1"]) == tracks.content_key(["chr1"])
	tracks.hash_ahead()
	shutil.copyfile(here / "2.bw", here / "new")
	os.replace(here / "new", here / "1.bw")
	with pytest.raises(InputError, match=r"1\.bw: was changed or replaced"):
		tracks.content_key(["chr1"])


# ---- broken, unfinished, contended, full ----------------------------------------------------------------------------


def _flip(place, name, at):
	data = bytearray((place / name).read_bytes())
	data[at] ^= 4
	(place / name).write_bytes(bytes(data))


def _quietly_flip(place, name, at):
	"""As _flip, with the time of the file as it was."""
	status = (place / name).stat()
	_flip(place, name, at)
	os.utime(place / name, ns=(status.st_atime_ns, status.st_mtime_ns))


def _zero(place, name):
	"""A stretch that was never written, as a disk that was pulled out leaves it."""
	data = bytearray((place / name).read_bytes())
	assert any(data[256:512])
	data[256:512] = bytes(256)
	(place / name).write_bytes(bytes(data))


def _truncate(place, name):
	os.truncate(place / name, (place / name).stat().st_size - 1)


def _edit_manifest(place):
	path = place / "manifest.json"
	manifest = json.loads(path.read_text())
	manifest["files"]["codes.npy"]["checksums"][0] ^= 1
	path.write_text(json.dumps(manifest))


BREAKS = {
	"flipped bit": (lambda place: _flip(place, "signals.npy", -1), "checksum"),
	"quietly flipped bit": (lambda place: _quietly_flip(place, "codes.npy", 300), "checksum"),
	"zeroed stretch": (lambda place: _zero(place, "codes.npy"), "checksum"),
	"two flipped bits": (lambda place: [_flip(place, "codes.npy", at) for at in (300, 308)], "checksum"),
	"broken header": (lambda place: _flip(place, "controls.npy", 20), "checksum"),
	"truncated": (lambda place: _truncate(place, "signals.npy"), "bytes instead of"),
	"longer": (lambda place: os.truncate(place / "totals.npy", 10**6), "bytes instead of"),
	"missing array": (lambda place: os.remove(place / "codes.npy"), "cannot be read"),
	"edited manifest": (_edit_manifest, "manifest"),
	"truncated manifest": (lambda place: _truncate(place, "manifest.json"), "manifest"),
	"missing manifest": (lambda place: os.remove(place / "manifest.json"), "manifest"),
	"missing lock": (lambda place: os.remove(place / "used"), "not whole"),
}


@pytest.mark.parametrize("held", [False, True], ids=["opened anew", "open already"])
@pytest.mark.parametrize("how", BREAKS)
def test_a_broken_entry_is_noticed_and_made_again(world, tmp_path, how, held):
	breaks, words = BREAKS[how]
	plain = load(world)
	load(world, cache=tmp_path)
	if not held:
		forget()
	breaks(only_entry(tmp_path))
	lines = []
	assert same(load(world, cache=tmp_path, progress=lines.append), plain)
	assert any(words in line and "made again" in line for line in lines)
	lines.clear()
	assert same(load(world, cache=tmp_path, progress=lines.append), plain)
	assert not lines and [path.name for path in tmp_path.iterdir()] == [only_entry(tmp_path).name]


BUILDER = """
	import signal, sys, time
	from cherimoya.io import _gather, extract_windows
	signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
	_gather._CHUNK = 1 << 16
	w, folder, workers, pause = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
	put, chunks = _gather._Files.put, []

	def pausing(self, rows, part):
		put(self, rows, part)
		chunks.append(rows)
		if pause and len(chunks) == 2:
			print("pauses", flush=True)
			time.sleep(3600)

	_gather._Files.put = pausing
	print("ready", flush=True)
	windows = extract_windows(w + "/many.bed", w + "/g.fa", [w + "/0.bw", w + "/1.bw"], w + "/2.bw", min_counts=8,
		cache=folder, workers=workers, in_window=301, out_window=101, progress=lambda line: print(line, flush=True))
	print(int(windows.signals.sum(dtype="i8")), flush=True)
"""


@pytest.fixture(scope="module")
def many(world):
	"""Several thousand loci, which take a moment to read; their windows."""
	rng = np.random.default_rng(9)
	rows = zip(rng.choice(["chr1", "chr2"], size=4000), rng.integers(200, 19_000, size=4000), strict=True)
	(world / "many.bed").write_text("".join(f"{c}\t{s}\t{s + 5}\n" for c, s in rows))
	return extract_windows(
		str(world / "many.bed"),
		str(world / "g.fa"),
		[str(world / "0.bw"), str(world / "1.bw")],
		str(world / "2.bw"),
		min_counts=8,
		in_window=301,
		out_window=101,
	)


def builder(world, folder, workers=1, *, pauses=False):
	"""A process that is about to load the windows of many loci, or that is in the middle of it and pauses."""
	command = [sys.executable, "-c", textwrap.dedent(BUILDER), str(world), str(folder), str(workers)]
	command += ["pauses"] if pauses else []
	child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
	for line in child.stdout:
		if line == ("pauses\n" if pauses else "ready\n"):
			return child
	raise AssertionError(f"it ended with {child.wait()}")


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_builder_leaves_nothing_that_is_used(world, many, tmp_path, times):
	child = builder(world, tmp_path / "timed")
	began = time.monotonic()
	child.communicate()
	takes = time.monotonic() - began
	rng = np.random.default_rng(times)
	folder = tmp_path / "c"
	for i in range(times):  # the first two in the middle of their work, the others at any time
		child = builder(world, folder, workers=1 + i % 2, pauses=i < 2)
		time.sleep(rng.uniform(0, takes) if i > 1 else 0)
		child.send_signal(signal.SIGKILL)
		child.communicate()
		assert i > 1 or any(folder.glob(".*.part"))
		for place in folder.glob("[0-9a-f]*[0-9a-f]"):  # a finished entry is whole, or it would not have its name
			assert same_files(place, many)
			shutil.rmtree(place)
	child = builder(world, folder)
	assert str(int(many.signals.sum(dtype=np.int64))) in child.communicate()[0].split()
	assert same_files(only_entry(folder), many)
	assert [path.name for path in folder.iterdir()] == [only_entry(folder).name]


def same_files(place, windows):
	"""Whether an entry's files hold these windows."""
	return all(np.array_equal(np.load(place / f"{name}.npy"), getattr(windows, name)) for name in ARRAYS)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
def test_the_processes_of_a_builder_end_with_it(world, many, tmp_path, number):
	child = builder(world, tmp_path, workers=2, pauses=True)
	children = [
		int(pid) for t in Path(f"/proc/{child.pid}/task").iterdir() for pid in (t / "children").read_text().split()
	]
	assert children and any(tmp_path.glob(".*.part"))
	child.send_signal(number)
	child.communicate()
	deadline = time.monotonic() + 300
	while any(Path(f"/proc/{pid}").exists() and _state_of(pid) != "Z" for pid in children):
		assert time.monotonic() < deadline, "a process outlived its parent"
		time.sleep(0.01)
	assert number == signal.SIGKILL or list(tmp_path.iterdir()) == []


def _state_of(pid):
	"""The letter of a process's state; Z when it has ended and nobody has asked for its status."""
	try:
		return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
	except OSError:
		return "Z"


def test_two_builders_at_once_make_one_entry(world, many, tmp_path):
	children = [builder(world, tmp_path, workers) for workers in (1, 2, 1)]
	outputs = [child.communicate()[0] for child in children]
	total = str(int(many.signals.sum(dtype=np.int64)))
	assert all(output.split()[-1] == total for output in outputs)
	assert sum("at most" in output for output in outputs) == 1, "one of them read the inputs"
	assert same_files(only_entry(tmp_path), many)


def test_entries_made_together_do_not_wait_for_each_other(tmp_path):
	"""Two that want the same entries in another order; one makes them, as a lock is taken in one order by all."""
	keys, made = [digit * 32 for digit in "ab"], []

	def make(places):
		time.sleep(0.05)
		made.append(sorted(places))
		for place in places.values():
			np.save(place / "codes.npy", np.arange(9))
		return {key: {} for key in places}

	with ThreadPoolExecutor(4) as pool:
		orders = [keys, keys[::-1], keys, keys[:1]]
		found = list(pool.map(lambda order: cache.open_entries(tmp_path, order, make), orders, timeout=300))
	assert [sorted(entries) for entries in found] == [sorted(order) for order in orders]
	assert sorted(key for some in made for key in some) == keys
	forget()


def test_entries_made_together_are_all_left_out_when_one_fails(tmp_path):
	def make(places):
		np.save(places["a" * 32] / "codes.npy", np.arange(9))
		raise InputError("no")

	with pytest.raises(InputError, match="no"):
		cache.open_entries(tmp_path, ["b" * 32, "a" * 32], make)
	assert list(tmp_path.iterdir()) == []


def test_a_waiting_process_says_so_and_goes_on_when_the_other_dies(world, many, tmp_path):
	child = builder(world, tmp_path, pauses=True)
	other = builder(world, tmp_path)
	assert "waiting for it" in other.stdout.readline()
	child.send_signal(signal.SIGKILL)
	child.communicate()
	assert other.communicate()[0].split()[-1] == str(int(many.signals.sum(dtype=np.int64)))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_an_error_that_leaves_nothing(world, many, tmp_path, workers):
	program = BUILDER.replace("extract_windows(w", "caught(extract_windows, w", 1).replace(
		"print(int(windows.signals", "pass #"
	)
	program = (
		"""
	def caught(load, *args, **options):
		from cherimoya.errors import InputError
		try:
			load(*args, **options)
		except InputError as error:
			print("CAUGHT", error, flush=True)
"""
		+ program
	)
	command = [sys.executable, "-c", textwrap.dedent(program), str(world), str(tmp_path / "c"), str(workers)]
	limit = 300_000
	child = subprocess.run(
		command,
		capture_output=True,
		text=True,
		check=False,
		preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
	)
	assert "CAUGHT" in child.stdout and "make room" in child.stdout, child.stderr
	assert list((tmp_path / "c").iterdir()) == []


def test_a_small_file_system_that_fills_up(world, many, tmp_path, monkeypatch):
	folder = tmp_path / "small"
	folder.mkdir()
	mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
	if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, check=False).returncode:
		pytest.skip("a file system can only be mounted by root")
	try:
		options = {"in_window": 301, "out_window": 101, "cache": folder}
		call = (str(world / "many.bed"), str(world / "g.fa"), str(world / "0.bw"))
		with pytest.raises(InputError, match=r"take about 2 MB of disk, and 2 MB are free|are free; make room"):
			extract_windows(*call, **options)
		monkeypatch.setattr(cache, "free_disk", lambda _: 10**12)  # someone else fills the disk meanwhile
		with pytest.raises(InputError, match=r"No space left on device.*nothing half-made is left"):
			extract_windows(*call, **options)
		assert list(folder.iterdir()) == []
	finally:
		subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS], ids=errno.errorcode.get)
def test_auto_goes_on_in_memory_where_a_named_folder_is_an_error(world, tmp_path, monkeypatch, number):
	def fail(*_):
		raise OSError(number, os.strerror(number))

	monkeypatch.setattr(storage, "WORTH_CACHING", 0)
	monkeypatch.setenv("CHERIMOYA_CACHE", str(tmp_path / "auto"))
	monkeypatch.setattr(os, "pwrite", fail)
	with pytest.raises(InputError, match=rf"{os.strerror(number)}.*choose"):
		load(world, cache=tmp_path / "named")
	lines = []
	assert same(load(world, cache="auto", progress=lines.append), load(world))
	assert any("into memory, not into the cache" in line for line in lines)
	assert not any((tmp_path / "auto" / "windows").iterdir())


def test_errors_of_inputs_are_told_as_without_a_cache(world, tmp_path, make_bigwig):
	sizes = {"chr1": 30_000, "chr2": 20_000, "chr3": 500}
	path = str(make_bigwig(tmp_path / "x.bw", sizes, {"chr1": np.full(30_000, -1.0)}))
	for workers in (1, 2):
		with pytest.raises(InputError, match=r"x\.bw: negative value"):
			load(world, signals=path, cache=tmp_path / "c", workers=workers)
		assert list((tmp_path / "c").iterdir()) == []


# ---- estimates, auto ------------------------------------------------------------------------------------------------


def test_estimates():
	wide, out = 2114 + 1000, 1000 + 1000
	shape = {"max_jitter": 500, "n_signals": 4, "n_controls": 1}
	values = 4 * out + wide
	assert estimate_bytes(300_000, **shape) == (300_000 * (wide + 4 * values), 0)
	found = estimate_bytes(300_000, cache="somewhere", **shape)
	assert found.disk == 300_000 * (wide + 4 * values) and found.memory < 2 * 2**30
	assert estimate_bytes(10, cache="auto", **shape).disk == 0
	assert estimate_bytes(300_000, cache="auto", **shape) == found


def test_the_estimate_is_what_a_load_takes(world, tmp_path):
	options = {"min_counts": None, "drop_outliers": False}
	windows = load(world, **options)
	taken = sum(getattr(windows, name).nbytes for name in ARRAYS)
	known = {"n_signals": 3, "n_controls": 1}
	assert estimate_bytes(len(windows), **known, **WIDTHS).memory == taken
	load(world, cache=tmp_path, **options)
	assert cache.entries(tmp_path)[0].size < estimate_bytes(len(windows), cache=tmp_path, **known, **WIDTHS).disk


def test_too_little_memory_or_disk_is_an_error_before_anything_is_read(world, tmp_path, monkeypatch):
	monkeypatch.setattr(storage, "gather", lambda *_, **__: pytest.fail("windows were read"))
	monkeypatch.setattr(storage, "available_memory", lambda: 1000)
	with pytest.raises(InputError, match=r"400 loci|loci take 1 MB of memory, and 1 MB are free; name a folder"):
		load(world)
	monkeypatch.setattr(cache, "free_disk", lambda _: 1000)
	with pytest.raises(InputError, match=r"take about 1 MB of disk, and 1 MB are free; make room"):
		load(world, cache=tmp_path)


def test_auto_caches_what_is_worth_it(world, tmp_path, monkeypatch):
	monkeypatch.setenv("CHERIMOYA_CACHE", str(tmp_path))
	assert not isinstance(load(world, cache="auto").signals, np.memmap)
	assert list(tmp_path.iterdir()) == []
	monkeypatch.setattr(storage, "WORTH_CACHING", 1000)
	assert isinstance(load(world, cache="auto").signals, np.memmap)
	assert len(cache.entries(tmp_path / "windows")) == 1


# ---- listing and clearing -------------------------------------------------------------------------------------------


def test_entries_in_use_are_not_cleared(world, tmp_path):
	load(world, cache=tmp_path)
	load(world, cache=tmp_path, in_window=99)
	removed, kept = cache.clear(tmp_path)
	assert not removed and len(kept) == 2 and all(entry.in_use for entry in kept)
	forget()
	first, second = cache.entries(tmp_path)
	assert first.used >= second.used and not first.in_use
	assert first.about["n_loci"] and first.about["signals"] == [str(world / f"{i}.bw") for i in range(3)]
	removed, kept = cache.clear(tmp_path, unused_for=3600)
	assert not removed and not kept
	removed, _ = cache.clear(tmp_path, [second.key[:9]])
	assert [entry.key for entry in removed] == [second.key]
	with pytest.raises(InputError, match="has no entry"):
		cache.clear(tmp_path, [second.key])
	cache.clear(tmp_path)
	assert list(tmp_path.iterdir()) == [] == cache.entries(tmp_path / "nowhere")


def test_an_entry_that_is_cleared_as_it_is_listed_is_left_out(world, tmp_path, monkeypatch):
	load(world, cache=tmp_path)
	load(world, cache=tmp_path, in_window=99)
	forget()
	first, second = cache.entries(tmp_path)
	read = cache._read_manifest

	def clearing(place):
		manifest = read(place)
		if place == first.path:
			shutil.rmtree(place)
		return manifest

	monkeypatch.setattr(cache, "_read_manifest", clearing)
	assert [entry.key for entry in cache.entries(tmp_path)] == [second.key]


def test_listing_removes_what_dead_builders_left(tmp_path):
	key = "0" * 32
	(tmp_path / f".{key}.part").mkdir()
	(tmp_path / f".{key}.part" / "codes.npy").write_bytes(b"x")
	(tmp_path / f"{key}.lock").touch()
	(tmp_path / ".x.trash").mkdir()
	(tmp_path / "a file of someone else").touch()
	cache.entries(tmp_path)
	assert [path.name for path in tmp_path.iterdir()] == ["a file of someone else"]
