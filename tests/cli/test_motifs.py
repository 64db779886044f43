"""The command motifs, and the step modisco_report: planted motifs are found, and nothing is left half done."""

import gzip
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cherimoya.errors import InputError, MissingExtraError, SettingsError
from cherimoya.io.motifs import Motif
from cherimoya_cli import elapsed, modisco, modisco_report
from cherimoya_cli.__main__ import main
from cherimoya_cli.commands import motifs as command
from cherimoya_cli.modisco import (
	Pattern,
	consensus_of,
	most_seqlets,
	nearest_motifs,
	read_patterns,
	require_modisco,
)
from cherimoya_cli.modisco_worker import end_merging
from cherimoya_cli.process import Finished
from cherimoya_cli.steps import main_of_step

h5py = pytest.importorskip("h5py")
pytest.importorskip("modiscolite", reason="the extra motifs is not installed")

PLANTED = {"TGACTCATGG": 1, "CCGGAAGTAC": 1, "GATAAGATTT": -1}
"""Words, and the signs of their contributions."""
N = 110  # windows in which TF-MoDISco finds each word once
FILES = ["x.attributions.attr.npz", "x.attributions.ohe.npz"]


def turned(word: str) -> str:
	return word[::-1].translate(str.maketrans("ACGT", "TGCA"))


def planted_arrays(n: int, width: int, *, noise: float = 0.002, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
	"""One-hot windows (n, 4, width) with the words in either orientation, the last twice, and hypothetical scores."""
	words = [*PLANTED.items(), list(PLANTED.items())[-1]]
	rng = np.random.default_rng(seed)
	codes = rng.integers(0, 4, (n, width))
	scores = rng.normal(0, noise, (n, 4, width))
	for i in range(n):
		places = rng.permutation(np.arange(20, width - 40, 40))[: len(words)]
		for (word, sign), start in zip(words, places + rng.integers(0, 10, len(places)), strict=False):
			strength = 0.1 * sign * rng.uniform(0.5, 1.5)
			bases = np.array(["ACGT".index(base) for base in (word if rng.random() < 0.5 else turned(word))])
			at = slice(start, start + len(word))
			codes[i, at] = bases
			scores[i, :, at] += np.where(np.arange(4)[:, None] == bases, strength, -0.3 * strength)
	one_hot = np.eye(4, dtype=np.int8)[codes].transpose(0, 2, 1)  # (n, W, 4) -> (n, 4, W)
	return one_hot, scores.astype(np.float32)


def save(folder: Path, one_hot: np.ndarray, scores: np.ndarray) -> None:
	np.savez_compressed(folder / "x.attributions.ohe.npz", one_hot)
	np.savez_compressed(folder / "x.attributions.attr.npz", scores)


def motif_database(path: Path, n: int = 27) -> Path:
	"""A gzipped MEME file of the planted words, one of them turned, and of n random motifs."""
	rng = np.random.default_rng(1)
	named = {f"M{i} <word {word}>": np.eye(4)[["ACGT".index(c) for c in word]] for i, word in enumerate(PLANTED)}
	named["M1 <word CCGGAAGTAC>"] = named["M1 <word CCGGAAGTAC>"][::-1, ::-1]
	named |= {f"R{i} a/b c": rng.dirichlet(np.full(4, 0.3), 8) for i in range(n)}
	lines = ["MEME version 4\n\nALPHABET= ACGT\n"]
	for name, rows in named.items():
		lines.append(f"MOTIF {name}\nletter-probability matrix: alength= 4 w= {len(rows)} nsites= 20 E= 0")
		lines += [" ".join(f"{p:.6f}" for p in row / row.sum()) for row in rows]
		lines.append("")
	path.write_bytes(gzip.compress("\n".join(lines).encode()))
	return path


def start(folder: Path, **settings: Any) -> list[str]:
	overrides = [f"--set={key}={json.dumps(value)}" for key, value in {"name": "x", **settings}.items()]
	return [sys.executable, "-m", "cherimoya_cli", "motifs", *overrides]


def run_in(folder: Path, **settings: Any) -> subprocess.CompletedProcess[str]:
	return subprocess.run(start(folder, **settings), cwd=folder, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
	"""A folder where the command found the planted words, and what it printed."""
	folder = tmp_path_factory.mktemp("motifs")
	save(folder, *planted_arrays(N, 200))
	motif_database(folder / "known.meme.gz")
	done = run_in(folder, n_jobs=1, motifs="known.meme.gz", n_matches=4, n_seqlets=1000)
	assert done.returncode == 0, done.stderr + done.stdout
	return folder, done.stdout


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
	"""A working folder with contributions at as few loci as TF-MoDISco may find something in."""
	save(tmp_path, *planted_arrays(10, 200))
	monkeypatch.chdir(tmp_path)
	return tmp_path


def run_here(**settings: Any) -> int:
	return main(start(Path(), **settings)[3:])


# ---- what is found ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_planted_words_are_found_with_their_signs(found: tuple[Path, str]) -> None:
	folder, printed = found
	patterns = read_patterns(folder / "x_modisco_results.h5")
	assert [pattern.sign for pattern in patterns] == [1, 1, -1]
	words = [max(PLANTED, key=lambda word: shared_letters(pattern.consensus, word)) for pattern in patterns]
	assert sorted(words) == sorted(PLANTED)
	for pattern, word in zip(patterns, words, strict=True):
		assert PLANTED[word] == pattern.sign and shared_letters(pattern.consensus, word) >= 9, pattern.consensus
		assert 30 <= pattern.n_seqlets <= 2 * N
		core = pattern.cwm[pattern.core]
		assert np.sign(core.sum()) == pattern.sign and len(core) <= 14
		np.testing.assert_allclose(pattern.ppm.sum(axis=1), 1)
		assert pattern.consensus in printed
	assert "3 patterns: 2 of positive and 1 of negative contributions" in printed


def shared_letters(text: str, word: str) -> int:
	"""The most positions at which a text equals a word or its other strand, at any shift."""
	padded = "-" * len(word) + text + "-" * len(word)
	return max(
		sum(a == b for a, b in zip(padded[i:], strand, strict=False))
		for strand in (word, turned(word))
		for i in range(len(padded) - len(word) + 1)
	)


@pytest.mark.slow
def test_threads_are_those_of_n_jobs(found: tuple[Path, str]) -> None:
	assert "at work on 110 windows of 200 bp with 1 thread\n" in found[1]


@pytest.mark.slow
def test_table_names_the_planted_motifs(found: tuple[Path, str]) -> None:
	folder, _ = found
	header, *rows = [line.split("\t") for line in (folder / "x_modisco/motifs.tsv").read_text().splitlines()]
	assert header[:7] == ["pattern", "sign", "seqlets", "consensus", "motif_1", "p_value_1", "q_value_1"]
	assert len(header) == 4 + 3 * 4 and all(len(row) == len(header) for row in rows)
	assert [row[1] for row in rows] == ["positive", "positive", "negative"]
	assert sorted(row[4] for row in rows) == sorted(f"M{i} <word {word}>" for i, word in enumerate(PLANTED))
	for row in rows:
		p_values, q_values = np.array(row[5::3], dtype=float), np.array(row[6::3], dtype=float)
		assert p_values[0] < 1e-4 and (np.diff(p_values) >= 0).all() and (q_values >= p_values).all()


@pytest.mark.slow
def test_page_shows_pictures_of_its_folder_alone(found: tuple[Path, str]) -> None:
	folder = found[0] / "x_modisco"
	page = (folder / "motifs.html").read_text()
	pictures = re.findall(r'src="([^"]*)"', page)
	assert len(pictures) == 3 * (2 + 4) and all((folder / picture).is_file() for picture in pictures)
	assert page.startswith("<!DOCTYPE html>") and "<word" not in page and ".png</td>" not in page
	assert not re.search(r"https?:|//|<script|@import|url\(", page)
	table = (folder / "motifs.tsv").read_text()
	for name in re.findall(r"<td>(M\d)_", page):
		assert f"{name} <word" in table


@pytest.mark.slow
def test_nothing_else_is_left(found: tuple[Path, str]) -> None:
	names = {path.name for path in found[0].iterdir()}
	assert names == {*FILES, "known.meme.gz", "x_modisco", "x_modisco_results.h5"}
	assert (found[0] / "x_modisco").stat().st_mode & 0o077 == 0o077 & ~umask()


def umask() -> int:
	value = os.umask(0)
	os.umask(value)
	return value


def test_flat_contributions_give_an_empty_result(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
	one_hot, scores = planted_arrays(6, 200)
	save(here, one_hot, np.zeros_like(scores))
	assert run_here(motifs=str(motif_database(here / "known.meme.gz"))) == 0
	out, err = capsys.readouterr()
	assert "all contributions are equal" in err and "found 0 patterns" in out
	assert read_patterns("x_modisco_results.h5") == []
	assert Path("x_modisco/motifs.tsv").read_text().startswith("pattern\tsign\tseqlets\tconsensus\tmotif_1")
	assert "found no pattern" in Path("x_modisco/motifs.html").read_text()


@pytest.mark.parametrize("width, most", [(30, 1), (45, 1), (46, 2), (200, 11), (400, 24)])
def test_a_window_holds_so_many_seqlets(width: int, most: int) -> None:
	assert most_seqlets(width) == most


@pytest.mark.parametrize("n, width", [(1, 400), (4, 400), (5, 200), (9, 200), (100, 40)])
def test_too_few_loci_for_any_pattern_are_told_without_a_run(
	here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], n: int, width: int
) -> None:
	one_hot, scores = (array[:, :, :width].copy() for array in planted_arrays(n, 400))
	save(here, one_hot, np.abs(scores))
	monkeypatch.setattr("cherimoya_cli.process.run_program", lambda *args, **options: pytest.fail("it was run"))
	assert run_here(report=False) == 0
	out, err = capsys.readouterr()
	assert re.search(rf"{n} windows of {width} bp hold \d+ of TF-MoDISco's seqlets at most, too few", err)
	assert "more than 100 seqlets of a sign" in err and "found 0 patterns" in out
	assert read_patterns("x_modisco_results.h5") == []


# ---- what does not fit ------------------------------------------------------------------------------


def cut(path: Path) -> None:
	path.write_bytes(path.read_bytes()[:-200])


def broken_arrays(change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Callable[[Path], None]:
	return lambda folder: save(folder, *change(*planted_arrays(6, 200)))


def write_nan(one_hot: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
	scores[3, 2, 100] = np.nan
	return one_hot, scores


def more(one_hot: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
	"""Other windows too, in which the bases run the other way."""
	return np.concatenate([one_hot, one_hot[:, :, ::-1]]), np.concatenate([scores, scores[:, :, ::-1]])


def foreign_folder(folder: Path) -> None:
	(folder / "x_modisco").mkdir()
	(folder / "x_modisco/thesis.tex").write_text("years of work")


REFUSED: Mapping[str, tuple[Callable[[Path], Any] | None, dict[str, Any], int, str]] = {
	"no_file": (lambda folder: (folder / FILES[0]).unlink(), {}, 3, "x.attributions.attr.npz: no such file"),
	"cut_off": (lambda folder: cut(folder / FILES[0]), {}, 3, "x.attributions.attr.npz: is no .npz, or broken"),
	"other_array": (lambda folder: np.savez(folder / FILES[1], codes=[1]), {}, 3, "holds codes, but no arr_0"),
	"other_shape": (broken_arrays(lambda a, b: (a, b.transpose(0, 2, 1))), {}, 3, "not (loci, 4, bp)"),
	"no_loci": (broken_arrays(lambda a, b: (a[:0], b[:0])), {}, 3, "has the shape (0, 4, 200)"),
	"other_run": (broken_arrays(lambda a, b: (a[:5], b)), {}, 3, "give the files of one run"),
	"not_one_hot": (broken_arrays(lambda a, b: (a * 2, b)), {}, 3, "locus 1 is not one-hot"),
	"not_finite": (broken_arrays(write_nan), {}, 3, "locus 4 are no finite numbers"),
	"same_loci": (broken_arrays(lambda a, b: tuple(c[[0, 1, 2] * 9] for c in (a, b))), {}, 3, "which only 3 differ"),
	"none_lowers": (broken_arrays(lambda a, b: more(a, np.abs(b))), {}, 3, "no stretch of 20 bp lowers"),
	"none_raises": (
		broken_arrays(lambda a, b: more(a, -np.abs(b))),
		{},
		3,
		"no stretch of 20 bp raises the prediction",
	),
	"narrow": (broken_arrays(lambda a, b: (a[:, :, :29], b[:, :, :29])), {}, 3, "with a larger attr_window"),
	"wide_window": (None, {"modisco_window": 201}, 2, "set it to null or at most 200"),
	"narrow_window": (None, {"modisco_window": 29}, 2, "modisco_window must be a whole number of at least 30"),
	"few_seqlets": (None, {"n_seqlets": 19}, 2, "n_seqlets must be a whole number of at least 20"),
	"no_motifs": (None, {"motifs": "none.meme"}, 3, "none.meme: no such file"),
	"no_meme": (None, {"motifs": FILES[0]}, 3, "holds no motif"),
	"foreign_folder": (foreign_folder, {}, 2, "x_modisco: holds thesis.tex, which no report"),
	"file_for_folder": (None, {"output_folder": FILES[0]}, 2, "is a file; choose another output_folder"),
	"folder_in_file": (None, {"output_folder": f"{FILES[0]}/y"}, 3, "y: cannot be written"),
}


@pytest.mark.parametrize("prepare, settings, code, message", REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_before_any_work(
	here: Path, capsys: pytest.CaptureFixture[str], prepare: Any, settings: dict, code: int, message: str
) -> None:
	if prepare is not None:
		prepare(here)
	before = sorted(path.relative_to(here) for path in here.rglob("*"))
	assert run_here(**settings) == code
	err = capsys.readouterr().err
	assert message in err and "Traceback" not in err
	assert sorted(path.relative_to(here) for path in here.rglob("*")) == before


@pytest.mark.parametrize("report", [False, True], ids=["motifs", "report"])
@pytest.mark.parametrize("package", ["modiscolite", "h5py"])
def test_missing_package_is_named_with_the_command_that_adds_it(
	monkeypatch: pytest.MonkeyPatch, package: str, report: bool
) -> None:
	monkeypatch.setattr(modisco, "find_spec", lambda name: None if name == package else name)
	with pytest.raises(MissingExtraError, match=r"pip install 'cherimoya\[motifs\]'"):
		require_modisco(report=report)


@pytest.mark.parametrize("version, refused", [("2.4.0", True), ("3.0.0", False), ("3.1rc1", False), ("10", False)])
def test_old_modisco_is_refused(monkeypatch: pytest.MonkeyPatch, version: str, refused: bool) -> None:
	monkeypatch.setattr(modisco, "version", lambda name: version)
	if refused:
		with pytest.raises(MissingExtraError, match=r"2\.4\.0 is installed; replace it with: pip install --upgrade"):
			require_modisco(report=False)
	else:
		require_modisco(report=False)


@pytest.mark.parametrize(
	"finished, message",
	[
		(
			Finished(4, ["IndexError: x"], None),
			r"failed \(exit code 4\) on 10 windows of 200 bp.*attr_window.*\n  IndexError",
		),
		(Finished(-9, [], None), "was killed .* smaller n_seqlets"),
		(Finished(4, ["out of memory"], None), "was killed .* smaller n_seqlets"),
	],
	ids=["error", "killed", "memory"],
)
def test_failure_of_the_tool_is_told_with_its_last_lines(
	here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], finished: Finished, message: str
) -> None:
	monkeypatch.setattr("cherimoya_cli.process.run_program", lambda *args, **options: finished)
	assert run_here(report=False) == 4
	assert re.search(message, capsys.readouterr().err)
	assert sorted(path.name for path in here.iterdir()) == FILES


# ---- an end to merging ------------------------------------------------------------------------------


class Merging:
	"""In the place of modisco-lite's aggregator: numbers are merged into their sum as long as two are near each other.

	A sum above `most` has no seqlet left: the two stay, and it tries again, as modisco-lite does.
	"""

	def __init__(self, most: int) -> None:
		self.most, self.rounds = most, 0

	def _subsamples(self, patterns: list[list[int]], n: int) -> list[list[int]]:
		self.rounds += 1
		assert self.rounds < 50, "it goes on for ever"
		return patterns

	def SimilarPatternsCollapser(self, patterns: list[list[int]], n: int) -> tuple[list[list[int]], str]:
		while True:
			patterns = sorted(self._subsamples(patterns, n), key=lambda pattern: -pattern[0])
			pairs = [(a, b) for a, b in itertools.pairwise(patterns) if a[0] - b[0] < 3]
			if not pairs:
				return patterns, "how"
			for a, b in pairs:
				if a[0] + b[0] <= self.most:
					patterns = [c for c in patterns if c is not a and c is not b] + [[a[0] + b[0]]]
					break


@pytest.mark.parametrize(
	"most, numbers, merged, how",
	[
		(100, [5, 20, 6, 12], [23, 20], "how"),
		(100, [5, 20, 50], [50, 20, 5], "how"),
		(20, [5, 20, 6, 12], [20, 12, 11], None),
		(10, [6, 5], [6, 5], None),
		(10, [6, 5, 5], [10, 6], "how"),
		(0, [5], [5], "how"),
		(0, [], [], "how"),
	],
	ids=["all", "none_near", "rest_stuck", "stuck", "another_way", "one", "empty"],
)
def test_merging_ends_and_is_else_left_alone(most: int, numbers: list, merged: list, how: str | None) -> None:
	aggregator = Merging(most)
	end_merging(aggregator)
	for _ in range(2):  # the second knows nothing of the first
		aggregator.rounds = 0
		patterns = [[number] for number in numbers]
		for _ in range(3):
			aggregator._subsamples(patterns, 1)  # outside of merging, too
		found, tree = aggregator.SimilarPatternsCollapser(patterns, 1)
		assert [pattern[0] for pattern in found] == merged and tree == how


def test_the_parts_of_modisco_that_merging_needs_are_there() -> None:
	from modiscolite import aggregator

	assert callable(aggregator.SimilarPatternsCollapser) and callable(aggregator._subsamples)
	other = SimpleNamespace(SimilarPatternsCollapser=len)
	end_merging(other)
	assert other == SimpleNamespace(SimilarPatternsCollapser=len)


# ---- reading results --------------------------------------------------------------------------------


def write_results(path: Path, groups: Mapping[str, list[int]]) -> None:
	"""A file of results with patterns of the given numbers of seqlets."""
	rng = np.random.default_rng(0)
	with h5py.File(path, "w") as file:
		file.attrs["window_size"] = 100
		for group, sizes in groups.items():
			for i, n in enumerate(sizes):
				pattern = file.create_group(f"{group}/pattern_{i}")
				pattern["sequence"] = rng.dirichlet(np.ones(4), 12)
				pattern["contrib_scores"] = rng.normal(size=(12, 4))
				pattern["seqlets/n_seqlets"] = np.array([n])


def test_patterns_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
	write_results(tmp_path / "r.h5", {"neg_patterns": [5], "pos_patterns": list(range(30, 18, -1))})
	patterns = read_patterns(tmp_path / "r.h5")
	assert [pattern.name for pattern in patterns] == [f"pos_patterns.pattern_{i}" for i in range(12)] + [
		"neg_patterns.pattern_0"
	]
	assert [pattern.n_seqlets for pattern in patterns] == [*range(30, 18, -1), 5]
	assert patterns[0].cwm.shape == patterns[0].ppm.shape == (12, 4)


def no_results(path: Path) -> None:
	with h5py.File(path, "w") as file:
		file["x"] = [1]


def without_scores(path: Path) -> None:
	write_results(path, {"pos_patterns": [5]})
	with h5py.File(path, "a") as file:
		del file["pos_patterns/pattern_0/contrib_scores"]


@pytest.mark.parametrize(
	"write, message",
	[
		(lambda path: path.write_text("text"), "is no HDF5 file of TF-MoDISco's results, or broken"),
		(no_results, "holds no results of TF-MoDISco"),
		(without_scores, "or broken"),
		(lambda path: None, "no such file"),
	],
	ids=["text", "other_hdf5", "incomplete", "missing"],
)
def test_files_without_results_are_refused(tmp_path: Path, write: Callable[[Path], Any], message: str) -> None:
	write(tmp_path / "r.h5")
	with pytest.raises(InputError, match=message):
		read_patterns(tmp_path / "r.h5")


@pytest.mark.parametrize(
	"rows, letters",
	[
		([[0.9, 0.1, 0, 0], [0, 0, 0.5, 0.25]], "AG"),
		([[0.5, 0.3, 0.2, 0], [0.1, 0.1, 0.4, 0.4]], "MK"),
		([[0.25, 0.25, 0.25, 0.25], [0.4, 0.3, 0.3, 0]], "NN"),
		([], ""),
	],
	ids=["clear", "pairs", "unclear", "empty"],
)
def test_consensus(rows: list[list[float]], letters: str) -> None:
	assert consensus_of(np.array(rows)) == letters


def test_ends_with_small_contributions_are_cut_off() -> None:
	sizes = np.array([0.1, 0.29, 0.3, 0.0, 1.0, 0.2])
	cwm = np.zeros((6, 4))
	cwm[:, 1] = -sizes
	ppm = np.eye(4)[[0, 1, 2, 3, 0, 1]]
	assert Pattern("neg_patterns.pattern_0", -1, 20, cwm, ppm).consensus == "GTA"


def test_nearest_motifs_are_those_of_tomtom() -> None:
	tomtom = pytest.importorskip("memelite").tomtom
	rng = np.random.default_rng(2)
	motifs = [Motif(f"M{i}", f"M{i}", rng.dirichlet(np.full(4, 0.3), 8).T) for i in range(30)]
	cwm = np.ones((8, 4))
	patterns = [Pattern(f"p{i}", 1, 20, cwm, motifs[i].pwm.T) for i in (4, 9)]
	p_values = tomtom([motifs[i].pwm for i in (4, 9)], [motif.pwm for motif in motifs], n_jobs=1)[0]
	nearest = nearest_motifs(patterns, motifs, n_matches=5, n_jobs=1)
	for found, values, own in zip(nearest, p_values, (4, 9), strict=True):
		assert found[0].motif == own
		assert [match.p_value for match in found] == sorted(values)[:5]
		ranked = np.sort(values) * 30 / np.arange(1, 31)
		assert [match.q_value for match in found] == [min(1.0, ranked[i:].min()) for i in range(5)]
	assert len(nearest_motifs(patterns, motifs, n_matches=50, n_jobs=1)[0]) == 30
	assert nearest_motifs([], motifs) == []


# ---- the folder of the report -----------------------------------------------------------------------


def test_report_replaces_the_one_before(tmp_path: Path) -> None:
	folder = tmp_path / "report"
	for content in ("old", "new"):
		with modisco_report.replacing_folder(str(folder)) as temporary:
			(temporary / f"{content}.png").write_text(content)
			assert content == "old" or [p.name for p in folder.iterdir()] == ["old.png"]
	assert [path.name for path in folder.iterdir()] == ["new.png"] and list(tmp_path.iterdir()) == [folder]


def test_failed_report_leaves_the_one_before(tmp_path: Path) -> None:
	folder = tmp_path / "report"
	folder.mkdir()
	(folder / "motifs.tsv").write_text("old")
	with pytest.raises(KeyboardInterrupt), modisco_report.replacing_folder(str(folder)) as temporary:
		(temporary / "motifs.tsv").write_text("half")
		raise KeyboardInterrupt
	assert (folder / "motifs.tsv").read_text() == "old" and list(tmp_path.iterdir()) == [folder]


def test_full_disk_is_told(tmp_path: Path) -> None:
	with pytest.raises(InputError, match=r"cannot be written \(No space left"):
		with modisco_report.replacing_folder(str(tmp_path / "report")):
			raise OSError(28, "No space left on device")
	assert list(tmp_path.iterdir()) == []


def test_folder_behind_a_link_is_replaced_where_it_is(tmp_path: Path) -> None:
	(tmp_path / "far").mkdir()
	(tmp_path / "link").symlink_to(tmp_path / "far")
	with modisco_report.replacing_folder(str(tmp_path / "link")) as temporary:
		(temporary / "motifs.tsv").write_text("new")
	assert (tmp_path / "link").is_symlink() and (tmp_path / "far/motifs.tsv").read_text() == "new"


@pytest.mark.parametrize(
	"names", [["motifs.html", "MA0001.png", "trimmed_logos", "report.html"], []], ids=["own", "empty"]
)
def test_folders_that_hold_nothing_else_may_be_replaced(tmp_path: Path, names: list[str]) -> None:
	for name in names:
		(tmp_path / name).touch()
	modisco_report.check_folder(str(tmp_path))
	(tmp_path / "notes.txt").touch()
	with pytest.raises(SettingsError, match=r"holds notes\.txt, which"):
		modisco_report.check_folder(str(tmp_path))


def test_step_needs_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
	(tmp_path / "x.json").write_text(json.dumps({"name": str(tmp_path / "x")}))
	assert main_of_step("modisco_report", modisco_report.make_report, ["-p", str(tmp_path / "x.json")]) == 3
	assert "x_modisco_results.h5: no such file" in capsys.readouterr().err
	assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.slow
def test_outputs_are_what_is_left(found: tuple[Path, str]) -> None:
	values = {"name": "x", "output_filename": None, "output_folder": None, "report": True}
	assert all((found[0] / path).is_file() for path in command.outputs(values))
	assert command.outputs({**values, "report": False}) == ["x_modisco_results.h5"]
	assert modisco_report.outputs({**values, "output_folder": "far/"}) == ["far/motifs.html", "far/motifs.tsv"]


def test_long_work_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
	monkeypatch.setattr(elapsed, "LINE_SECONDS", 0.01)
	said: list[str] = []
	monkeypatch.setattr(elapsed, "say", said.append)
	with elapsed.Elapsed("Work"):
		while not said:
			time.sleep(0.01)
	with elapsed.Elapsed("Rest", shown=False):
		time.sleep(0.03)
	assert set(said) == {"Work: at work for 0 minutes"}


# ---- runs that take longer --------------------------------------------------------------------------


@pytest.mark.slow
def test_few_loci_give_an_honest_nothing(tmp_path: Path) -> None:
	save(tmp_path, *planted_arrays(10, 200))
	done = run_in(tmp_path, n_jobs=1)
	assert done.returncode == 0 and "found 0 patterns" in done.stdout and "more than 100 seqlets" in done.stderr
	assert read_patterns(tmp_path / "x_modisco_results.h5") == []


@pytest.mark.slow
def test_windows_that_patterns_leave_do_not_keep_it_at_work_for_ever(tmp_path: Path) -> None:
	"""In these windows, which are narrow for a pattern, modisco-lite's own merging finds no end."""
	rng = np.random.default_rng(0)
	codes, scores = rng.integers(0, 4, (300, 100)), rng.normal(0, 0.002, (300, 4, 100))
	word = np.array(["ACGT".index(base) for base in "TGACTCATGG"])
	for i in range(300):
		if rng.random() < 0.8:
			at = slice(start := 20 + rng.integers(0, 10), start + len(word))
			codes[i, at] = word if rng.random() >= 0.5 else 3 - word[::-1]
			strength = rng.uniform(0.05, 0.15)
			scores[i, :, at] += np.where(np.arange(4)[:, None] == codes[i, at], strength, -0.3 * strength)
	one_hot = np.eye(4, dtype=np.int8)[codes].transpose(0, 2, 1)  # (n, W, 4) -> (n, 4, W)
	save(tmp_path, one_hot, scores.astype(np.float32))
	done = run_in(tmp_path, n_jobs=1, report=False)
	assert done.returncode == 0 and "TF-MoDISco found" in done.stdout, done.stderr


@pytest.mark.slow
def test_crash_of_the_tool_leaves_nothing(tmp_path: Path) -> None:
	one_hot, scores = (np.repeat(array, 300, axis=0) for array in planted_arrays(1, 100))
	scores[:, :, 0] += np.arange(300)[:, None] * 1e-6  # elsewhere all are the same, which TF-MoDISco cannot cluster
	save(tmp_path, one_hot, scores)
	done = run_in(tmp_path, n_jobs=1, verbose=False)
	assert done.returncode == 4 and "Traceback" not in done.stderr, done.stderr
	assert re.search(r"TF-MoDISco failed .* may help.*last lines were:\n.*Error: ", done.stderr, re.DOTALL)
	assert sorted(path.name for path in tmp_path.iterdir()) == FILES


@pytest.mark.slow
def test_results_are_those_of_the_program_with_any_threads(found: tuple[Path, str], tmp_path: Path) -> None:
	save(tmp_path, *planted_arrays(N, 200))
	program = Path(sys.executable).with_name("modisco")
	own = [program, "motifs", "-s", FILES[1], "-a", FILES[0], "-n", "1000", "-w", "200", "-o", "own.h5"]
	subprocess.run(own, cwd=tmp_path, check=True, capture_output=True)
	done = run_in(tmp_path, n_jobs=2, n_seqlets=1000, report=False)
	assert "with 2 threads" in done.stdout
	for other in (tmp_path / "own.h5", found[0] / "x_modisco_results.h5"):
		assert_same_hdf5(tmp_path / "x_modisco_results.h5", other)


def assert_same_hdf5(one: Path, other: Path) -> None:
	with h5py.File(one) as a, h5py.File(other) as b:
		names: list[str] = []
		a.visit(names.append)
		assert len(names) > 20
		for name in names:
			if isinstance(a[name], h5py.Dataset):
				np.testing.assert_array_equal(a[name][()], b[name][()], err_msg=name)
		assert dict(a.attrs) == dict(b.attrs)


@pytest.mark.slow
def test_window_is_the_central_one(found: tuple[Path, str], tmp_path: Path) -> None:
	one_hot, scores = planted_arrays(N, 200)
	save(tmp_path, *(np.concatenate([a[::-1, :, :50], a, a[::-1, :, 50:101]], axis=2) for a in (one_hot, scores)))
	done = run_in(tmp_path, n_jobs=1, n_seqlets=1000, modisco_window=200, report=False)
	assert "110 windows of 200 bp" in done.stdout
	assert_same_hdf5(tmp_path / "x_modisco_results.h5", found[0] / "x_modisco_results.h5")


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_end_in_the_middle_leaves_no_result(tmp_path: Path, number: int, code: int) -> None:
	save(tmp_path, *planted_arrays(300, 400))
	process = subprocess.Popen(
		start(tmp_path, n_jobs=2), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
	)
	with process:
		for line in process.stdout:
			if line.startswith("Using"):
				break
		process.send_signal(number)
		process.stdout.read()  # until every process that holds it has ended
		err = process.stderr.read()
	assert process.returncode == code and "Traceback" not in err
	left = sorted(path.name for path in tmp_path.iterdir())
	assert [name for name in left if not name.endswith(".part")] == FILES
	if number != signal.SIGKILL:
		assert left == FILES and "interrupted; TF-MoDISco keeps nothing" in err
