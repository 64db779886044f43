"""``predict`` and ``attribute`` in chunks: the same results however the work is divided, and interrupted."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

pytest.importorskip("pyBigWig")

from cherimoya import Cherimoya
from cherimoya_cli import chunks
from cherimoya_cli.__main__ import main
from cherimoya_cli.chunks import Parts, Shard, Stream, chunk_length, save_streams

N = 83  # loci of the tiny genome
FOLDERS = {"predict": "run.predictions.parts", "attribute": "run.attributions.parts"}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
	"""As the processes that are started here, so that results are the same bit by bit."""
	before = torch.get_num_threads()
	torch.set_num_threads(1)
	yield
	torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
	path = tmp_path_factory.mktemp("model") / "model.torch"
	made = Cherimoya(n_filters=8, n_layers=3, trimming=30, signal_groups=[2, 1], n_control_tracks=1, random_state=0)
	made.save(path)
	return path


@pytest.fixture(scope="module")
def settings(tiny_genome: Any, model: Path) -> dict[str, Any]:
	return {
		"sequences": str(tiny_genome.fasta),
		"loci": [str(tiny_genome.peaks)],
		"controls": [str(tiny_genome.control)],
		"model": str(model),
		"in_window": 160,
		"out_window": 100,
		"attr_window": 12,
		"batch_size": 5,
		"n_shuffles": 2,
		"n_steps": 2,
		"device": "cpu",
	}


class Run(NamedTuple):
	"""Runs a command in a folder, with some settings changed."""

	folder: Path
	settings: dict[str, Any]

	def argv(self, command: str, *flags: str, **changes: Any) -> list[str]:
		path = self.folder / f"{command}.json"
		path.write_text(json.dumps({"name": str(self.folder / "run"), **self.settings, **changes}))
		return [command, "-p", str(path), *flags]

	def __call__(self, command: str, *flags: str, **changes: Any) -> int:
		return main(self.argv(command, *flags, **changes))

	def parts(self, command: str) -> list[Path]:
		return sorted((self.folder / FOLDERS[command]).glob("*.npz"))

	def results(self) -> dict[str, Any]:
		"""The content of every file that a run leaves: arrays of .npz files, bytes of others."""
		found: dict[str, Any] = {}
		for path in sorted(self.folder.iterdir()):
			if path.suffix == ".npz":
				with np.load(path) as arrays:
					found |= {f"{path.name}:{name}": arrays[name] for name in arrays.files}
			elif path.suffix != ".json":
				found[path.name] = path.read_bytes()
		return found


@pytest.fixture
def make_run(tmp_path: Path, settings: dict[str, Any]) -> Callable[[str], Run]:
	"""`make_run(name)` makes a folder to run in."""

	def make(name: str) -> Run:
		(tmp_path / name).mkdir()
		return Run(tmp_path / name, settings)

	return make


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
	"""The same files, with the same bits in them."""
	assert found.keys() == expected.keys()
	for name, value in expected.items():
		if isinstance(value, np.ndarray):
			assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape), name
			assert found[name].tobytes() == value.tobytes(), name
		else:
			assert found[name] == value, name


# Division.


@pytest.mark.parametrize("unit", [1, 3, 64])
@pytest.mark.parametrize("n", [1, 2, 64, 65, 200])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shards_hold_each_row_once_and_whole_units(n: int, unit: int, count: int) -> None:
	shares = [Shard(i, count).rows(n, unit) for i in range(1, count + 1)]
	assert [row for rows in shares for row in rows] == list(range(n))
	assert all(rows.start % unit == 0 or rows.start == n for rows in shares)
	sizes = [-(-len(rows) // unit) for rows in shares]
	assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
	("chunk_size", "unit", "passes", "n_bytes", "expected"),
	[
		pytest.param(10, 1, 1, 4, 10, id="as set"),
		pytest.param(10, 4, 1, 4, 12, id="whole units"),
		pytest.param(1, 64, 1, 4, 64, id="one unit"),
		pytest.param(None, 64, 1, 4, 4096, id="at most"),
		pytest.param(None, 3, 1201, 6400, 18, id="by passes"),
		pytest.param(None, 1, 50_000, 6400, 1, id="at least one"),
		pytest.param(None, 1, 1, 2**24, 4, id="by bytes"),
		pytest.param(None, 1, 1, 2**30, 1, id="larger than a chunk should be"),
	],
)
def test_lengths_of_chunks(chunk_size: int | None, unit: int, passes: int, n_bytes: int, expected: int) -> None:
	assert chunk_length(chunk_size, unit, passes=passes, n_bytes=n_bytes) == expected


DIVIDED = [
	pytest.param("predict", {}, id="predict"),
	pytest.param("predict", {"controls": None, "dtype": "bfloat16"}, id="predict_bfloat16_without_controls"),
	pytest.param("attribute", {}, id="saturation_mutagenesis"),
	pytest.param("attribute", {"max_loci": 17}, id="saturation_mutagenesis_of_the_strongest"),
	pytest.param("attribute", {"algorithm": "deep_lift_shap", "output": "profile"}, id="deep_lift_shap"),
	pytest.param("attribute", {"algorithm": "integrated_gradients", "group": 1}, id="integrated_gradients"),
]


@pytest.mark.parametrize(("command", "changes"), DIVIDED)
def test_results_do_not_depend_on_chunks_or_shards(
	make_run: Callable[[str], Run], capsys: pytest.CaptureFixture[str], command: str, changes: dict[str, Any]
) -> None:
	whole, pieces, shards = make_run("whole"), make_run("pieces"), make_run("shards")
	assert whole(command, chunk_size=1000, **changes) == 0
	expected = whole.results()
	assert not (whole.folder / FOLDERS[command]).exists()
	assert pieces(command, chunk_size=7, **changes) == 0
	assert_same(pieces.results(), expected)

	for shard in ("3/3", "1/3", "2/3"):
		assert not (shards.folder / "run.predictions.npz").exists()
		assert shards(command, "--shard", shard, chunk_size=7, **changes) == 0
	out = capsys.readouterr().out
	assert "Shard 2/3" in out and "run with --merge" in out
	assert set(os.listdir(shards.folder)) == {f"{command}.json", FOLDERS[command]}
	assert shards(command, "--merge", **changes) == 0
	assert_same(shards.results(), expected)


def test_a_shard_without_loci(make_run: Callable[[str], Run], tiny_genome: Any, tmp_path: Path) -> None:
	loci = tmp_path / "two.bed"
	loci.write_text("".join(tiny_genome.peaks.read_text().splitlines(keepends=True)[:2]))
	whole, shards = make_run("whole"), make_run("shards")
	assert whole("predict", loci=[str(loci)]) == 0
	for i in range(1, 5):
		assert shards("predict", "--shard", f"{i}/4", loci=[str(loci)]) == 0
	assert shards("predict", "--merge", loci=[str(loci)]) == 0
	assert_same(shards.results(), whole.results())


# Interruptions.


def interrupt(run: Run, pause: Any, command: str, number: int, **changes: Any) -> tuple[int, str]:
	"""Signal the command at its pause; its exit code, and what it printed."""
	process = subprocess.Popen(
		[sys.executable, "-m", "cherimoya_cli", *run.argv(command, **changes)],
		stdout=subprocess.PIPE,
		stderr=subprocess.STDOUT,
		text=True,
		env=pause.environment,
	)
	try:
		pause.wait(process)
		process.send_signal(number)
		out, _ = process.communicate(timeout=300)
		return process.returncode, out
	finally:
		process.kill()


SAVED = "cherimoya_cli.chunks:Parts.save"
SHUFFLES = {"algorithm": "deep_lift_shap", "n_shuffles": 20}


@pytest.mark.parametrize(
	("command", "changes", "number", "code"),
	[
		pytest.param("predict", {"batch_size": 1}, signal.SIGKILL, -9, id="predict_SIGKILL"),
		pytest.param("predict", {"batch_size": 1}, signal.SIGTERM, 143, id="predict_SIGTERM"),
		pytest.param("attribute", {"batch_size": 2}, signal.SIGKILL, -9, id="saturation_mutagenesis_SIGKILL"),
		pytest.param("attribute", SHUFFLES, signal.SIGTERM, 143, id="deep_lift_shap_SIGTERM"),
		pytest.param("attribute", SHUFFLES, signal.SIGINT, 130, id="deep_lift_shap_SIGINT"),
	],
)
def test_the_same_command_goes_on_with_what_was_finished(
	make_run: Callable[[str], Run],
	make_pause: Callable[..., Any],
	capsys: pytest.CaptureFixture[str],
	command: str,
	changes: dict[str, Any],
	number: int,
	code: int,
) -> None:
	changes = {**changes, "chunk_size": 1}
	n_chunks = -(-N // 2) if changes.get("batch_size") == 2 else N
	whole, stopped = make_run("whole"), make_run("stopped")
	assert whole(command, **changes) == 0
	found, out = interrupt(stopped, make_pause(SAVED, 3), command, number, **changes)
	assert found == code, out
	kept = {path: path.stat().st_mtime_ns for path in stopped.parts(command)}
	assert 3 <= len(kept) < n_chunks
	assert set(os.listdir(stopped.folder)) == {f"{command}.json", FOLDERS[command]}
	if number != signal.SIGKILL:
		assert f"interrupted; {len(kept)} of {n_chunks} chunks are done" in out and "Traceback" not in out
		assert "To go on, give the same command again" in out
	untouched = {}
	real = Parts.save

	def save(parts: Parts, rows: range, arrays: Any) -> None:
		real(parts, rows, arrays)
		untouched.update({path: path.stat().st_mtime_ns for path in kept})

	capsys.readouterr()
	with pytest.MonkeyPatch.context() as patch:
		patch.setattr(Parts, "save", save)
		assert stopped(command, **changes) == 0
	assert f"{len(kept)} of {n_chunks} chunks are done; going on from there" in capsys.readouterr().out
	assert untouched == kept
	assert_same(stopped.results(), whole.results())


def test_other_chunks_take_up_what_is_there(make_run: Callable[[str], Run], capsys: pytest.CaptureFixture[str]) -> None:
	"""Chunks of another length, and a whole run after a shard, leave what is finished as it is."""
	whole, other = make_run("whole"), make_run("other")
	assert whole("predict") == 0
	assert other("predict", "--shard", "2/3", chunk_size=10) == 0
	parts = other.parts("predict")
	rows = Shard(2, 3).rows(N, 5)
	assert len(parts) == -(-len(rows) // 10)
	capsys.readouterr()
	assert other("predict", chunk_size=15) == 0
	done = sum(rows.start <= first and min(first + 15, N) <= rows.stop for first in range(0, N, 15))
	assert f"{done} of 6 chunks are done" in capsys.readouterr().out
	assert_same(other.results(), whole.results())


def fail_after(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
	"""Let the disk be full after some parts."""
	real, saved = np.savez, []

	def savez(file: Any, **arrays: Any) -> None:
		saved.append(file)
		if len(saved) > n:
			file.write(b"half")
			raise OSError(28, "No space left on device")
		real(file, **arrays)

	monkeypatch.setattr(np, "savez", savez)


def test_a_full_disk_keeps_what_is_finished(
	make_run: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
	whole, full = make_run("whole"), make_run("full")
	assert whole("predict") == 0
	with monkeypatch.context() as patch:
		fail_after(patch, 2)
		assert full("predict", chunk_size=20) == 3
	err = capsys.readouterr().err
	for words in ("run.predictions.parts", "No space left on device", "2 that are finished are kept", "make room"):
		assert words in err
	assert "Traceback" not in err
	assert sorted(path.name.split(".")[1] for path in full.parts("predict")) == [
		"000000000-000000020",
		"000000020-000000040",
	]
	assert full("predict", chunk_size=20) == 0
	assert "2 of 5 chunks are done" in capsys.readouterr().out
	assert_same(full.results(), whole.results())


def test_a_folder_that_cannot_be_made(make_run: Callable[[str], Run], capsys: pytest.CaptureFixture[str]) -> None:
	run = make_run("run")
	(run.folder / FOLDERS["predict"]).write_text("a file")
	assert run("predict") == 3
	err = capsys.readouterr().err
	assert "run.predictions.parts: a chunk cannot be written" in err and "Traceback" not in err
	assert (run.folder / FOLDERS["predict"]).read_text() == "a file"


def unfinished(run: Run, monkeypatch: pytest.MonkeyPatch, command: str = "predict", **changes: Any) -> None:
	"""Leave two chunks of an interrupted run."""
	with monkeypatch.context() as patch:
		fail_after(patch, 2)
		assert run(command, **{"chunk_size": 20, **changes}) == 3
	assert len(run.parts(command)) == 2


# What is found is of another run, or damaged.


@pytest.mark.parametrize(
	("changes", "words"),
	[
		pytest.param({"chroms": ["chr1", "chr2"]}, 'chroms was null, is ["chr1", "chr2"]', id="chroms"),
		pytest.param({"batch_size": 7}, "batch_size was 5, is 7", id="batch_size"),
		pytest.param({"controls": None}, "other controls", id="controls"),
	],
)
def test_another_run_begins_anew(
	make_run: Callable[[str], Run],
	monkeypatch: pytest.MonkeyPatch,
	capsys: pytest.CaptureFixture[str],
	changes: dict[str, Any],
	words: str,
) -> None:
	fresh, again = make_run("fresh"), make_run("again")
	assert fresh("predict", **changes) == 0
	unfinished(again, monkeypatch)
	capsys.readouterr()
	assert again("predict", resume=True, **changes) == 3
	err = capsys.readouterr().err
	assert "run.predictions.parts: of another run" in err and words in err and "set resume to false" in err
	assert len(again.parts("predict")) == 2
	assert again("predict", **changes) == 0
	out = capsys.readouterr().out
	assert f"is of another run: {words}" in out and "to begin anew" in out and "going on" not in out
	assert_same(again.results(), fresh.results())


def test_another_model_or_other_loci_begin_anew(
	make_run: Callable[[str], Run],
	monkeypatch: pytest.MonkeyPatch,
	capsys: pytest.CaptureFixture[str],
	model: Path,
	tiny_genome: Any,
	tmp_path: Path,
) -> None:
	"""The contents of files count, not their names."""
	copy, loci = tmp_path / "copy.torch", tmp_path / "copy.bed"
	copy.write_bytes(model.read_bytes())
	loci.write_bytes(tiny_genome.peaks.read_bytes())
	run = make_run("run")
	unfinished(run, monkeypatch)
	assert run("predict", "--shard", "1/9", model=str(copy), loci=[str(loci)]) == 0
	assert len(run.parts("predict")) == 2
	loci.write_text("".join(loci.read_text().splitlines(keepends=True)[:-1]))
	other = Cherimoya.load(copy)
	with torch.no_grad():
		other.linear.bias += 1
	other.save(copy)
	capsys.readouterr()
	assert run("predict", model=str(copy), loci=[str(loci)]) == 0
	out = capsys.readouterr().out
	assert "other loci" in out and "other model" in out


def test_resume_false_begins_anew(
	make_run: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
	run, whole = make_run("run"), make_run("whole")
	assert whole("predict") == 0
	unfinished(run, monkeypatch)
	capsys.readouterr()
	assert run("predict", resume=False) == 0
	assert "going on" not in capsys.readouterr().out
	assert_same(run.results(), whole.results())


def test_resume_false_of_a_shard_leaves_the_others(make_run: Callable[[str], Run]) -> None:
	run = make_run("run")
	assert run("predict", "--shard", "1/2") == 0
	before = {path: path.stat().st_ino for path in run.parts("predict")}
	assert run("predict", "--shard", "2/2", resume=False) == 0
	assert before.items() < {path: path.stat().st_ino for path in run.parts("predict")}.items()
	assert run("predict", "--merge") == 0


def test_settings_that_change_no_result_go_on(
	make_run: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
	run = make_run("run")
	unfinished(run, monkeypatch, "attribute", algorithm="deep_lift_shap")
	changes = {"algorithm": "deep_lift_shap", "warning_threshold": 0, "ohe_filename": str(run.folder / "ohe.npz")}
	capsys.readouterr()
	assert run("attribute", chunk_size=20, verbose=False, cache=None, signals=None, **changes) == 0
	captured = capsys.readouterr()
	assert "2 of 5 chunks are done" in captured.out
	assert f"of {2 * N} pairs" in captured.err  # those of the chunks that were there are counted too


def test_on_other_hardware_a_note_says_what_to_expect(
	make_run: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
	run = make_run("run")
	unfinished(run, monkeypatch)
	manifest = run.folder / FOLDERS["predict"] / "manifest.json"
	content = json.loads(manifest.read_text())
	manifest.write_text(json.dumps({**content, "environment": {"device": "cuda", "threads": 1}}))
	assert run("predict") == 0
	assert "device was cuda, is cpu: results will be equal to rounding" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["cut", "bits"])
def test_a_damaged_chunk_is_made_again(
	make_run: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
	whole, run = make_run("whole"), make_run("run")
	assert whole("predict") == 0
	unfinished(run, monkeypatch)
	path = run.parts("predict")[1]
	data = bytearray(path.read_bytes())
	if damage == "bits":
		data[len(data) // 2] ^= 255
	path.write_bytes(data if damage == "bits" else data[: len(data) // 2])
	capsys.readouterr()
	code = run("predict")
	if damage == "bits":  # which is noticed when it is read
		assert code == 3
		err = capsys.readouterr().err
		assert f"{path}: this chunk is damaged" in err and "was removed; give the same command again" in err
		assert not (run.folder / "run.predictions.npz").exists()
		code = run("predict")
	assert code == 0
	assert_same(run.results(), whole.results())


# Shards.


def test_a_merge_names_what_is_missing(make_run: Callable[[str], Run], capsys: pytest.CaptureFixture[str]) -> None:
	run = make_run("run")
	assert run("predict", "--merge") == 3
	assert "run.predictions.parts: no finished chunks to merge" in capsys.readouterr().err
	assert os.listdir(run.folder) == ["predict.json"]
	for shard in ("1/4", "4/4"):
		assert run("predict", "--shard", shard) == 0
	capsys.readouterr()
	assert run("predict", "--merge") == 3
	err = capsys.readouterr().err
	assert "shards that are not finished: 2/4 (0 of 20 loci are done), 3/4 (0 of 20 loci are done)" in err
	assert run("predict", "--merge", batch_size=6) == 3
	assert "batch_size was 5, is 6; merge with the shards' settings" in capsys.readouterr().err
	assert run("predict", "--shard", "2/3") == 0
	capsys.readouterr()
	assert run("predict", "--merge") == 3
	assert "loci 21 to 25, 56 to 60 of 83 are not done" in capsys.readouterr().err
	assert len(run.parts("predict")) == 3 and not (run.folder / "run.predictions.npz").exists()


def test_a_merge_is_of_all_shards(make_run: Callable[[str], Run], capsys: pytest.CaptureFixture[str]) -> None:
	run = make_run("run")
	assert run("predict", "--shard", "1/2", "--merge") == 2
	assert "not allowed with argument" in capsys.readouterr().err
	for shard in ("1/2", "2/2"):
		assert run("predict", shard=shard) == 0
	assert run("predict", "--merge", shard="1/2") == 0
	assert len(np.load(run.folder / "run.predictions.npz")["start"]) == N


def test_a_plain_run_after_the_shards_merges(
	make_run: Callable[[str], Run], capsys: pytest.CaptureFixture[str]
) -> None:
	run = make_run("run")
	for shard in ("1/2", "2/2"):
		assert run("predict", shard=shard) == 0
	assert run("predict") == 0
	assert "1 of 1 chunks are done" in capsys.readouterr().out
	assert (run.folder / "run.predictions.npz").exists()


def test_the_loci_of_a_ranking_are_chosen_once(make_run: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch) -> None:
	"""Predictions that differ by rounding between machines choose no other loci."""
	from cherimoya_cli.commands import attribute

	run = make_run("run")
	assert run("attribute", "--shard", "1/2", max_loci=10) == 0
	monkeypatch.setattr(attribute, "strengths", lambda *_: pytest.fail("ranked again"))
	assert run("attribute", "--shard", "2/2", max_loci=10) == 0
	assert run("attribute", "--merge", max_loci=10) == 0
	assert np.load(run.folder / "run.attributions.idxs.npy").sum() == 10


def test_a_seed_that_is_drawn_is_gone_on_with(
	make_run: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
	run, whole = make_run("run"), make_run("whole")
	changes = {"algorithm": "deep_lift_shap", "random_state": None}
	unfinished(run, monkeypatch, "attribute", **changes)
	seed = int(capsys.readouterr().out.split("a seed was drawn: ")[1].split()[0])
	assert run("attribute", chunk_size=20, **changes) == 0
	out = capsys.readouterr().out
	assert f"the seed of the run that was interrupted is taken: {seed}" in out and "2 of 5 chunks are done" in out
	assert whole("attribute", **{**changes, "random_state": seed}) == 0
	assert_same(run.results(), whole.results())
	assert run("attribute", "--shard", "1/2", **changes) == 2
	assert "the shards of a run need one seed" in capsys.readouterr().err


@pytest.mark.parametrize(
	("held", "flags"),
	[
		pytest.param(fcntl.LOCK_EX, (), id="whole_beside_whole"),
		pytest.param(fcntl.LOCK_SH, (), id="whole_beside_shard"),
		pytest.param(fcntl.LOCK_EX, ("--shard", "1/2"), id="shard_beside_whole"),
		pytest.param(fcntl.LOCK_SH, ("--merge",), id="merge_beside_shard"),
	],
)
def test_two_at_once_are_refused(
	make_run: Callable[[str], Run], capsys: pytest.CaptureFixture[str], held: int, flags: tuple[str, ...]
) -> None:
	run = make_run("run")
	assert run("predict", "--shard", "2/2") == 0
	with (run.folder / FOLDERS["predict"] / "lock").open("a") as lock:
		fcntl.flock(lock, held)
		assert run("predict", *flags) == 3
		assert "another process is at work there" in capsys.readouterr().err
	assert len(run.parts("predict")) == 1


def test_a_folder_that_is_removed_as_it_is_locked_is_made_again(
	tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
	"""A run that ends removes its folder; one that has opened the lock before keeps others out all the same."""
	parts = Parts(tmp_path / "parts", "predict", {}, torch.device("cpu"))
	flock, kinds = fcntl.flock, []

	def removing(file: Any, kind: int) -> None:
		kinds.append(kind)
		if len(kinds) == 1:
			shutil.rmtree(parts.folder)
		flock(file, kind)

	monkeypatch.setattr(fcntl, "flock", removing)
	with chunks.at_work(parts, Shard(1, 1), merge=False):
		assert len(kinds) == 2 and os.listdir(parts.folder) == ["lock"]
		with pytest.raises(chunks.InputError, match="another process is at work there"):
			with chunks.at_work(parts, Shard(1, 1), merge=False):
				pass
	assert not parts.folder.exists()


def test_the_same_shard_twice_at_once_is_refused(
	make_run: Callable[[str], Run], capsys: pytest.CaptureFixture[str]
) -> None:
	run = make_run("run")
	for shard in ("1/2", "2/2"):
		assert run("predict", "--shard", shard) == 0
	folder = run.folder / FOLDERS["predict"]
	with (folder / "lock").open("a") as lock, next(folder.glob("*.1-of-2.shard")).open("a") as own:
		fcntl.flock(lock, fcntl.LOCK_SH)
		fcntl.flock(own, fcntl.LOCK_EX)
		assert run("predict", "--shard", "2/2") == 0
		assert run("predict", "--shard", "1/2") == 3
	assert "another process is at work there" in capsys.readouterr().err
	assert run("predict", "--merge") == 0


# Files.


def test_streams_are_the_arrays_that_numpy_writes(tmp_path: Path) -> None:
	array = np.random.default_rng(0).normal(size=(11, 4, 3)).astype(np.float32)
	names = np.array(["chr1", "chr10"])
	blocks = (array[i : i + 4] for i in range(0, 11, 4))
	save_streams(tmp_path / "streamed.npz", arr_0=Stream(array.shape, blocks), names=names)
	np.savez_compressed(tmp_path / "whole.npz", arr_0=array, names=names)
	with np.load(tmp_path / "streamed.npz") as found, np.load(tmp_path / "whole.npz") as expected:
		assert found.files == expected.files
		for name in expected.files:
			assert found[name].dtype == expected[name].dtype
			np.testing.assert_array_equal(found[name], expected[name])


def test_parts_that_overlap_are_read_once(tmp_path: Path) -> None:
	parts = Parts(tmp_path / "parts", "predict", {}, torch.device("cpu"))
	for rows in (range(0, 6), range(4, 10), range(5, 7), range(12, 15)):
		parts.save(rows, {"x": np.arange(rows.start, rows.stop)})
	assert parts.missing(range(0, 20)) == [range(10, 12), range(15, 20)]
	assert parts.missing(range(2, 9)) == []
	parts.save(range(10, 12), {"x": np.arange(10, 12)})
	assert np.concatenate([x for _, (x,) in parts.read(15, "x")]).tolist() == list(range(15))
	assert [row for rows, _ in parts.read(15, "x") for row in range(rows.start, rows.stop)] == list(range(15))
	with pytest.raises(chunks.InputError, match="results of locus 16 are gone"):
		list(parts.read(16, "x"))
	(tmp_path / "parts" / "not ours").write_text("")
	parts.clear()
	assert os.listdir(tmp_path / "parts") == ["not ours"]


@pytest.mark.slow
def test_a_pipeline_goes_on_inside_of_a_step(
	make_run: Callable[[str], Run],
	make_pause: Callable[..., Any],
	tiny_genome: Any,
	model: Path,
	settings: dict[str, Any],
) -> None:
	run = make_run("run")
	top = {
		key: settings[key] for key in ("sequences", "loci", "controls", "in_window", "out_window", "device", "model")
	}
	content = {
		**top,
		"name": str(run.folder / "run"),
		"signals": [[str(tiny_genome.plus), str(tiny_genome.minus)], str(tiny_genome.signal)],
		"negatives": [str(tiny_genome.negatives)],
		"batch_size": 1,
		"fit_parameters": {
			"training_chroms": ["chr1"],
			"validation_chroms": ["chr2"],
			"test_chroms": ["chr3"],
		},
		"attribute_parameters": {**SHUFFLES, "chunk_size": 1},
	}
	path = run.folder / "pipeline.json"
	path.write_text(json.dumps(content))
	argv = [sys.executable, "-m", "cherimoya_cli", "pipeline", "-p", str(path)]
	options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
	pause = make_pause(SAVED, 3, only="attribute")
	process = subprocess.Popen(argv, **options, env=pause.environment)
	try:
		pause.wait(process)
		process.send_signal(signal.SIGTERM)
		out, _ = process.communicate(timeout=300)
	finally:
		process.kill()
	assert process.returncode == 143, out
	n_done = len(run.parts("attribute"))
	assert 3 <= n_done < N
	done = subprocess.run(argv, **options, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
	assert done.returncode == 0, done.stdout
	assert f"{n_done} of {N} chunks are done; going on from there" in done.stdout
	assert "predict: skipped, up to date" in done.stdout
	assert not (run.folder / FOLDERS["attribute"]).exists()
