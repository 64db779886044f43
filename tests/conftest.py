"""Fixtures that every folder of tests may use: small files in the formats of the field, and a small data set."""

import gzip
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

# As the command line does: torch's threads that spin while they wait make tests ten times slower on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A shell that starts the tests in its background has SIGINT ignored, which all processes inherit that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
	signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]

try:
	import hypothesis
except ImportError:  # the tests of the kernels need none
	pass
else:
	# The same examples each time, on a slow machine, too; `--hypothesis-profile search` looks for others.
	PATIENT = {
		"deadline": None,
		"suppress_health_check": [
			hypothesis.HealthCheck.too_slow,
			hypothesis.HealthCheck.function_scoped_fixture,
		],
	}
	hypothesis.settings.register_profile("search", **PATIENT)
	hypothesis.settings.register_profile("tests", derandomize=True, **PATIENT)
	hypothesis.settings.load_profile("tests")


class TinyGenome(NamedTuple):
	"""A genome of three small chromosomes with tracks and loci, as files and as arrays."""

	folder: Path
	fasta: Path
	sequences: dict[str, str]
	sizes: dict[str, int]
	signal: Path
	plus: Path
	minus: Path
	control: Path
	tracks: dict[str, dict[str, np.ndarray]]
	peaks: Path
	narrowpeaks: Path
	negatives: Path
	exclusion: Path
	motif: str
	summits: list[tuple[str, int]]


def _fasta(path: Path, sequences: Mapping[str, str], *, width: int = 60, newline: str = "\n") -> Path:
	"""A FASTA file with lines of `width` bases; gzipped when the name ends in .gz."""
	parts = []
	for name, sequence in sequences.items():
		parts.append(f">{name} a description{newline}")
		parts += [sequence[i : i + width] + newline for i in range(0, len(sequence), width)]
	data = "".join(parts).encode()
	path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
	return path


def _bed(path: Path, rows: Iterable[Sequence | str]) -> Path:
	"""A BED file of the rows (a string is taken as a whole line); gzipped when the name ends in .gz."""
	lines = [row if isinstance(row, str) else "\t".join(str(v) for v in row) for row in rows]
	data = "".join(line + "\n" for line in lines).encode()
	path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
	return path


def _bigwig(path: Path, sizes: Mapping[str, int], values: Mapping[str, np.ndarray]) -> Path:
	"""A bigWig of per-base values from each chromosome's start; zeros and NaN are left out as gaps."""
	import pyBigWig

	bw = pyBigWig.open(str(path), "w")
	bw.addHeader(list(sizes.items()))
	for chrom in sizes:
		array = np.asarray(values.get(chrom, ()), dtype=np.float64)
		where = np.flatnonzero(np.nan_to_num(array))
		if len(where):
			bw.addEntries([chrom] * len(where), where.tolist(), ends=(where + 1).tolist(), values=array[where].tolist())
	bw.close()
	return path


@pytest.fixture(scope="session")
def shared() -> Path:
	"""The folder of shared real data beside the repository; tests that need it are skipped without it."""
	path = ROOT.parent / "shared"
	if not (path / "data").is_dir():
		pytest.skip("the folder ../shared with real data is not there")
	return path


@pytest.fixture(scope="session")
def make_fasta() -> Callable[..., Path]:
	"""`make_fasta(path, {name: sequence}, width=60, newline=...)` writes a FASTA file (gzip, not bgzip, for .gz)."""
	return _fasta


@pytest.fixture(scope="session")
def make_bed() -> Callable[..., Path]:
	"""`make_bed(path, rows)` writes a BED file."""
	return _bed


@pytest.fixture(scope="session")
def make_bigwig() -> Callable[..., Path]:
	"""`make_bigwig(path, sizes, {chrom: values})` writes a bigWig."""
	pytest.importorskip("pyBigWig")
	return _bigwig


@pytest.fixture(scope="session")
def tiny_genome(tmp_path_factory: pytest.TempPathFactory) -> TinyGenome:
	"""Three chromosomes (24,000, 16,000 and 12,000 bp), 83 peaks with a planted motif and reads around it.

	`signal.bw` is unstranded, `signal.+.bw` and `signal.-.bw` a stranded pair, `control.bw` a flat control;
	`peaks.bed` and `peaks.narrowPeak` hold the peaks, `negatives.bed` places between them, `exclude.bed` a region.
	All of chr1 can train, chr2 validate and chr3 test. Windows of up to 600 bp around any locus stay inside.
	"""
	pytest.importorskip("pyBigWig")
	folder = tmp_path_factory.mktemp("tiny_genome")
	rng = np.random.default_rng(7)
	motif = "TGACTCATGC"
	sizes = {"chr1": 24_000, "chr2": 16_000, "chr3": 12_000}
	sequences, summits = {}, []
	names = ("signal", "plus", "minus", "control")
	tracks: dict[str, dict[str, np.ndarray]] = {name: {} for name in names}
	for chrom, size in sizes.items():
		bases = rng.choice(list("ACGT"), size=size)
		rates = {name: np.full(size, 0.02) for name in names}
		rates["control"] += 0.05
		for mid in range(600, size - 500, 600):
			bases[mid - 5 : mid + 5] = list(motif)
			summits.append((chrom, mid))
			height = rng.uniform(0.4, 1.6)
			offsets = np.arange(-60, 61)
			shape = np.exp(-0.5 * (offsets / 25) ** 2)
			rates["signal"][mid - 60 : mid + 61] += 2 * height * shape
			rates["plus"][mid - 80 : mid + 41] += height * shape
			rates["minus"][mid - 40 : mid + 81] += height * shape
		sequences[chrom] = "".join(bases)
		for name in names:
			tracks[name][chrom] = rng.poisson(rates[name]).astype(np.float32)

	peaks = [(chrom, mid - 100, mid + 100) for chrom, mid in summits]
	narrow = [
		(chrom, mid - 90, mid + 110, f"peak{i}", 100, ".", 5.0, 10.0, 8.0, 90) for i, (chrom, mid) in enumerate(summits)
	]
	background = [(chrom, mid + 200, mid + 400) for chrom, mid in summits]
	return TinyGenome(
		folder=folder,
		fasta=_fasta(folder / "tiny.fa", sequences),
		sequences=sequences,
		sizes=sizes,
		signal=_bigwig(folder / "signal.bw", sizes, tracks["signal"]),
		plus=_bigwig(folder / "signal.+.bw", sizes, tracks["plus"]),
		minus=_bigwig(folder / "signal.-.bw", sizes, tracks["minus"]),
		control=_bigwig(folder / "control.bw", sizes, tracks["control"]),
		tracks=tracks,
		peaks=_bed(folder / "peaks.bed", peaks),
		narrowpeaks=_bed(folder / "peaks.narrowPeak", narrow),
		negatives=_bed(folder / "negatives.bed", background),
		exclusion=_bed(folder / "exclude.bed", [("chr1", 5_900, 6_100)]),
		motif=motif,
		summits=summits,
	)


@pytest.fixture
def one_torch_thread():
	"""One thread for small models, which gain nothing from more."""
	torch = pytest.importorskip("torch")
	before = torch.get_num_threads()
	torch.set_num_threads(1)
	yield
	torch.set_num_threads(before)


@pytest.fixture(scope="session")
def short_fit(tiny_genome):
	"""Settings of ``fit`` for a small model of the unstranded track, to which tests add epochs and batches."""
	return {
		"sequences": str(tiny_genome.fasta),
		"loci": [str(tiny_genome.peaks)],
		"negatives": [str(tiny_genome.negatives)],
		"signals": [str(tiny_genome.signal)],
		"in_window": 166,
		"out_window": 60,
		"training_chroms": ["chr1"],
		"validation_chroms": ["chr2"],
		"test_chroms": None,
		"n_filters": 4,
		"n_layers": 2,
		"n_warmup_epochs": 1,
		"max_jitter": 10,
		"negative_ratio": 0.25,
		"num_workers": 0,
		"device": "cpu",
		"random_state": 3,
	}


# Python runs this as it starts, where its folder is on the path: processes that are started by others pause, too.
PAUSING = """
import importlib.machinery, os, signal, sys, time

class Finder:
	def find_spec(self, name, path=None, target=None):
		if name != {module!r}:
			return None
		spec = importlib.machinery.PathFinder.find_spec(name, path)
		run = spec.loader.exec_module
		def exec_module(module):
			run(module)
			change(getattr(module, {owner!r}))
		spec.loader.exec_module = exec_module
		return spec

def change(owner):
	method, calls = getattr(owner, {method!r}), []
	def pausing(*args, **options):
		result = method(*args, **options)
		calls.append(None)
		if len(calls) == {nth} and {only!r} in " ".join(sys.argv):
			open(os.path.join({folder!r}, f"{{os.getpid()}}.paused"), "w").close()
			# A process that was asked to stop has a timer for that.
			while not (os.path.exists({go!r}) or any(signal.getitimer(signal.ITIMER_REAL))):
				time.sleep(0.005)
		return result
	setattr(owner, {method!r}, pausing)

sys.meta_path.insert(0, Finder())
"""


@dataclass
class Pause:
	"""A place in the program at which processes wait until they are told to `go`, asked to stop, or killed."""

	folder: Path

	@property
	def environment(self) -> dict[str, str]:
		"""The variables of processes that are to pause, and of those that start them."""
		path = [str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")]), str(ROOT)]
		return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OMP_NUM_THREADS": "1"}

	def paused(self) -> list[int]:
		"""The processes that have come there."""
		return [int(path.stem) for path in self.folder.glob("*.paused")]

	def wait(self, process: subprocess.Popen | None = None, n: int = 1) -> None:
		"""Wait until so many have come there; fail if the process that is to bring them there ends before."""
		deadline = time.monotonic() + 600
		while len(self.paused()) < n:
			assert process is None or process.poll() is None, process.communicate()[0]
			assert time.monotonic() < deadline, f"{len(self.paused())} of {n} processes came to the place"
			time.sleep(0.01)

	def go(self) -> None:
		"""Let those that wait go on, and none wait from now on."""
		(self.folder / "go").touch()


@pytest.fixture
def make_pause(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Pause]:
	"""`make_pause("package.module:Class.method", nth)`: a `Pause` after the nth call of a method in a process.

	Signals that are to come in the middle of some work come there at any speed of the machine. `only` is a text that
	the arguments of a process must hold for it to pause.
	"""

	def make(place: str, nth: int, *, only: str = "") -> Pause:
		folder = tmp_path_factory.mktemp("pause")
		module, _, name = place.partition(":")
		owner, _, method = name.partition(".")
		words = {"folder": str(folder), "go": str(folder / "go"), "nth": nth, "only": only}
		(folder / "sitecustomize.py").write_text(PAUSING.format(module=module, owner=owner, method=method, **words))
		return Pause(folder)

	return make
