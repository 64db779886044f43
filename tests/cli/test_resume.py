"""``cherimoya fit`` that is interrupted: exit codes, going on by itself, and what makes it begin anew."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("pyBigWig")

from cherimoya import Cherimoya
from cherimoya_cli.__main__ import main
from cherimoya_cli.stopping import OutOfTime, stop_on_signals

pytestmark = pytest.mark.usefixtures("one_torch_thread", "patient")
IN, OUT = 166, 60
EPOCHS = 15


@pytest.fixture
def patient(monkeypatch):
	"""Signals to this very process, which is that of all tests, never end it, however slow the machine is."""
	monkeypatch.setattr("cherimoya_cli.stopping.GRACE_SECONDS", 600.0)
	monkeypatch.setattr("cherimoya_cli.stopping.LAST_SECONDS", 600.0)


@pytest.fixture(scope="module")
def settings(short_fit):
	"""Settings of a run of many short epochs."""
	return {**short_fit, "max_epochs": EPOCHS, "early_stopping": None, "batch_size": 8, "evaluate": False}


def _write(folder, settings, **changes):
	folder.mkdir(exist_ok=True)
	path = folder / "fit.json"
	path.write_text(json.dumps({"name": str(folder / "run"), **settings, **changes}))
	return str(path)


def _fit(folder, settings, **changes):
	return main(["fit", "-p", _write(folder, settings, **changes)])


@pytest.fixture
def interrupt(make_pause):
	"""Start fit, and signal it once three epochs are done: its exit code, and what it printed."""

	def interrupt(folder, settings, number, *, whole_group=False, **changes):
		pause = make_pause("cherimoya.training.loop:_Run.save", 4)  # once before the first epoch, and after each
		process = subprocess.Popen(
			[sys.executable, "-m", "cherimoya_cli", "fit", "-p", _write(folder, settings, **changes)],
			stdout=subprocess.PIPE,
			stderr=subprocess.STDOUT,
			text=True,
			start_new_session=True,
			env=pause.environment,
		)
		try:
			pause.wait(process)
			(os.killpg if whole_group else os.kill)(process.pid, number)
			out, _ = process.communicate(timeout=300)
			return process.returncode, out
		finally:
			process.kill()

	return interrupt


def _results(folder):
	with open(folder / "run.detailed.log", encoding="utf-8") as file:
		log = [{k: v for k, v in row.items() if "Time" not in k} for row in csv.DictReader(file, delimiter="\t")]
	return (folder / "run.torch").read_bytes(), (folder / "run.final.torch").read_bytes(), log


@pytest.fixture(scope="module")
def whole(tmp_path_factory, settings):
	"""The results of a run that was not interrupted."""
	folder = tmp_path_factory.mktemp("whole")
	before = torch.get_num_threads()
	torch.set_num_threads(1)
	assert _fit(folder, settings) == 0
	torch.set_num_threads(before)
	return folder


@pytest.mark.parametrize(
	("number", "code", "workers"),
	[
		pytest.param(signal.SIGTERM, 143, 0, id="SIGTERM"),
		pytest.param(signal.SIGINT, 130, 1, id="SIGINT_to_the_whole_group"),
	],
)
def test_a_signal_saves_the_state_and_the_same_command_goes_on(
	whole, interrupt, settings, tmp_path, capsys, number, code, workers
):
	changes = {"num_workers": workers}
	found, out = interrupt(tmp_path, settings, number, whole_group=bool(workers), **changes)
	assert found == code, out
	assert "cherimoya fit: interrupted; training can go on from epoch" in out
	assert "To go on, give the same command again" in out
	assert "Traceback" not in out
	assert not (tmp_path / "run.fit.record.json").exists()
	assert not (tmp_path / "run.final.torch").exists()
	assert _fit(tmp_path, settings, **changes) == 0
	assert "resuming from epoch" in capsys.readouterr().out
	assert _results(tmp_path) == _results(whole)
	assert json.loads((tmp_path / "run.fit.record.json").read_text())["resumed_at"] == 3


def test_a_drawn_seed_is_that_of_the_run_that_goes_on(interrupt, settings, tmp_path, capsys):
	found, out = interrupt(tmp_path, settings, signal.SIGTERM, random_state=None)
	assert found == 143, out
	assert _fit(tmp_path, settings, random_state=None) == 0
	out = capsys.readouterr().out
	seed = json.loads((tmp_path / "run.fit.record.json").read_text())["seed"]
	assert f"the seed of the run that was interrupted is taken: {seed}" in out
	assert "resuming from epoch" in out
	assert _fit(tmp_path, settings, random_state=None, max_epochs=1) == 0
	assert json.loads((tmp_path / "run.fit.record.json").read_text())["seed"] != seed


def test_settings_that_changed_begin_a_new_run_or_are_refused(settings, tmp_path, capsys):
	short = {"max_epochs": 2}
	assert _fit(tmp_path, settings, **short) == 0
	assert _fit(tmp_path, settings, **short, max_jitter=5, resume=True) == 3
	err = capsys.readouterr().err
	assert "run.checkpoint: of another run: max_jitter was 10, is 5; " in err
	assert "set resume to false" in err
	assert _fit(tmp_path, settings, **short, max_jitter=5) == 0
	out = capsys.readouterr().out
	assert "is of another run: max_jitter was 10, is 5" in out
	assert "That run had ended. Training anew." in out
	assert _fit(tmp_path, settings, max_epochs=3, max_jitter=5, resume=True) == 0
	assert "resuming from epoch 2" in capsys.readouterr().out


def test_a_run_that_had_ended_is_not_trained_again(settings, tmp_path, capsys):
	assert _fit(tmp_path, settings, max_epochs=2) == 0
	before = _results(tmp_path)
	capsys.readouterr()
	assert _fit(tmp_path, settings, max_epochs=2, test_chroms=["chr3"], num_workers=1) == 0
	assert "nothing to train" in capsys.readouterr().out
	assert _results(tmp_path) == before
	assert _fit(tmp_path, settings, max_epochs=2, resume=False) == 0
	assert "nothing to train" not in capsys.readouterr().out
	assert _results(tmp_path) == before


def test_the_content_of_files_counts_and_not_their_place(settings, tiny_genome, tmp_path, capsys):
	assert _fit(tmp_path, settings, max_epochs=1) == 0
	moved = tmp_path / "moved.bed"
	moved.write_bytes(Path(tiny_genome.peaks).read_bytes())
	capsys.readouterr()
	assert _fit(tmp_path, settings, max_epochs=1, loci=[str(moved)]) == 0
	assert "nothing to train" in capsys.readouterr().out
	moved.write_bytes(b"\n".join(moved.read_bytes().splitlines()[1:]) + b"\n")
	assert _fit(tmp_path, settings, max_epochs=1, loci=[str(moved)], resume=True) == 3
	assert "other loci" in capsys.readouterr().err


def test_a_signal_as_training_ends_is_heard(settings, tmp_path, capsys, monkeypatch):
	from cherimoya.training.loop import _Run

	history = _Run._history

	def late(self):
		os.kill(os.getpid(), signal.SIGTERM)
		return history(self)

	monkeypatch.setattr(_Run, "_history", late)
	assert _fit(tmp_path, settings, max_epochs=1) == 143
	assert "interrupted; training is over" in capsys.readouterr().err
	assert not (tmp_path / "run.fit.record.json").exists()
	monkeypatch.undo()
	assert _fit(tmp_path, settings, max_epochs=1) == 0
	assert "nothing to train" in capsys.readouterr().out
	assert (tmp_path / "run.fit.record.json").exists()


class TestFineTuning:
	def test_it_begins_from_a_model(self, settings, tmp_path, capsys):
		assert _fit(tmp_path / "first", settings, max_epochs=2) == 0
		capsys.readouterr()
		start = str(tmp_path / "first" / "run.torch")
		changes = {"max_epochs": 1, "init_from": start, "freeze": ["stem", "blocks"], "random_state": 9}
		assert _fit(tmp_path / "second", settings, **changes) == 0
		assert f"The weights begin from {start}\n" in capsys.readouterr().out
		before, after = (Cherimoya.load(tmp_path / name / "run.torch") for name in ("first", "second"))
		changed = {name for name, p in after.named_parameters() if not torch.equal(p, before.get_parameter(name))}
		assert changed == {"fconv.weight", "fconv.bias", "linear.weight", "linear.bias", "lw0", "lw1"}

	@pytest.mark.parametrize(
		("changes", "code", "text"),
		[
			pytest.param(
				{"n_filters": 6}, 3, "it has n_filters 4, and the new model 6; set n_filters to 4", id="shape"
			),
			pytest.param({"freeze": ["trunk"]}, 2, "freeze has 'trunk', which is no part of the model", id="part"),
			pytest.param(
				{"freeze": ["blocks.1-2"]}, 2, "freeze has 'blocks.1-2', but the blocks are 0 to 1", id="block"
			),
			pytest.param(
				{"freeze": ["stem", "blocks", "count_head", "profile_head"]}, 2, "which is all of the model", id="all"
			),
			pytest.param({"init_from": "nowhere.torch"}, 3, "nowhere.torch: no such file", id="missing"),
		],
	)
	def test_what_cannot_work(self, settings, tmp_path, capsys, changes, code, text):
		model = tmp_path / "model.torch"
		Cherimoya(n_filters=4, n_layers=2, trimming=(IN - OUT) // 2, random_state=0).save(model)
		assert _fit(tmp_path / "run", settings, **{"init_from": str(model), "max_epochs": 1, **changes}) == code
		captured = capsys.readouterr()
		assert text in captured.err
		assert "Training loci" not in captured.out  # said before any data are read

	def test_a_pipeline_says_it_before_it_starts(self, settings, tmp_path, capsys):
		model = tmp_path / "model.torch"
		Cherimoya(n_filters=6, n_layers=2, random_state=0).save(model)
		top = {key: settings[key] for key in ("sequences", "loci", "negatives", "signals", "in_window", "out_window")}
		fit = {key: value for key, value in settings.items() if key not in top and key != "evaluate"}
		path = tmp_path / "pipeline.json"
		content = {**top, "name": str(tmp_path / "run"), "fit_parameters": {**fit, "init_from": str(model)}}
		path.write_text(json.dumps(content))
		assert main(["pipeline", "-p", str(path)]) == 3
		assert "it has n_filters 6, and the new model 4" in capsys.readouterr().err
		assert not list(tmp_path.glob("run.fit*"))


class TestTensorBoard:
	@pytest.mark.filterwarnings("ignore::DeprecationWarning")
	def test_curves_are_written_and_not_twice(self, settings, tmp_path):
		pytest.importorskip("tensorboard")
		from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

		assert _fit(tmp_path, settings, max_epochs=2, tensorboard=True) == 0
		assert _fit(tmp_path, settings, max_epochs=3, tensorboard=True, resume=True) == 0
		events = EventAccumulator(str(tmp_path / "run.tensorboard")).Reload()
		assert {"Training/MNLL", "Validation/Count Pearson", "Rate/0", "Rate/1"} <= set(events.Tags()["scalars"])
		with open(tmp_path / "run.log", encoding="utf-8") as file:
			log = [float(row["Training MNLL"]) for row in csv.DictReader(file, delimiter="\t")]
		shown = events.Scalars("Training/MNLL")
		assert [event.step for event in shown] == [0, 1, 2]
		assert [event.value for event in shown] == pytest.approx(log, rel=1e-5)

	def test_a_missing_package_is_said_before_any_work(self, settings, tmp_path, capsys, monkeypatch):
		monkeypatch.setattr("cherimoya.training.monitor.find_spec", lambda name: None)
		assert _fit(tmp_path, settings, tensorboard=str(tmp_path / "curves")) == 3
		captured = capsys.readouterr()
		assert "pip install 'cherimoya[tensorboard]'" in captured.err
		assert "Training loci" not in captured.out


class TestStopping:
	@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
	def test_a_signal_is_a_question_and_the_handlers_come_back(self, number):
		before = signal.getsignal(number)
		with stop_on_signals() as stop:
			assert not stop()
			os.kill(os.getpid(), number)
			assert stop()
			assert stop.exit_code == 128 + number
		assert signal.getsignal(number) is before

	def test_a_second_signal_does_not_wait(self):
		with pytest.raises(OutOfTime), stop_on_signals():
			os.kill(os.getpid(), signal.SIGINT)
			os.kill(os.getpid(), signal.SIGINT)

	def test_sigterm_may_come_several_times(self):
		with stop_on_signals() as stop:
			for _ in range(3):
				os.kill(os.getpid(), signal.SIGTERM)
			assert stop()
		assert stop.exit_code == 143

	def test_time_runs_out(self, monkeypatch):
		monkeypatch.setattr("cherimoya_cli.stopping.GRACE_SECONDS", 0.05)
		with pytest.raises(OutOfTime), stop_on_signals():
			os.kill(os.getpid(), signal.SIGTERM)
			time.sleep(300)

	def test_a_long_computation_is_ended_too(self):
		code = (
			"import hashlib, os, signal\n"
			"from cherimoya_cli import stopping\n"
			"stopping.GRACE_SECONDS, stopping.LAST_SECONDS = 0.1, 0.1\n"
			"with stopping.stop_on_signals():\n"
			"\tos.kill(os.getpid(), signal.SIGTERM)\n"
			"\thashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)\n"  # minutes, without hearing of signals
		)
		done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
		assert (done.returncode, done.stdout) == (143, "")
		assert "stopped in the middle of a long computation" in done.stderr


def test_tracks_in_other_groups_are_another_run(settings, tiny_genome, tmp_path, capsys):
	track = str(tiny_genome.signal)
	assert _fit(tmp_path, settings, max_epochs=1, signals=[track, track]) == 0
	capsys.readouterr()
	assert _fit(tmp_path, settings, max_epochs=1, signals=[[track, track]], resume=True) == 3
	assert "other signals" in capsys.readouterr().err
