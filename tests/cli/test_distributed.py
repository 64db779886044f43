"""``cherimoya fit`` on several devices: the same as on one, also when it is stopped, or a process of it dies."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("pyBigWig")

from cherimoya.errors import SettingsError
from cherimoya_cli.__main__ import main
from cherimoya_cli.launching import device_of_rank, resolve_devices

IN, OUT = 166, 60
EPOCHS = 4
FIT = [sys.executable, "-m", "cherimoya_cli", "fit"]


@pytest.fixture(autouse=True)
def by_itself(one_torch_thread, monkeypatch):
	"""One thread, in the processes that a test starts too, and nothing of an outer run of several processes."""
	monkeypatch.setenv("OMP_NUM_THREADS", "1")
	for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
		monkeypatch.delenv(key, raising=False)


@pytest.fixture(scope="module")
def settings(short_fit):
	"""Settings of a short run; the last batch of an epoch has 2 examples, fewer than three ranks."""
	return {**short_fit, "max_epochs": EPOCHS, "early_stopping": None, "batch_size": 23, "evaluate": False}


def _write(folder, settings, **changes):
	folder.mkdir(exist_ok=True)
	path = folder / "fit.json"
	path.write_text(json.dumps({"name": str(folder / "run"), **settings, **changes}))
	return str(path)


def _fit(folder, settings, **changes):
	return main(["fit", "-p", _write(folder, settings, **changes)])


def _start(command, env=None):
	return subprocess.Popen(
		command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, env=env
	)


def _log(folder):
	with open(folder / "run.detailed.log", encoding="utf-8") as file:
		return [{k: v for k, v in row.items() if "Time" not in k} for row in csv.DictReader(file, delimiter="\t")]


def _weights(folder, which="run.final.torch"):
	return torch.load(folder / which, weights_only=True)["state_dict"]


def _assert_same(folder, other):
	"""Logs and final weights agree to rounding."""
	assert len(_log(folder)) == len(_log(other))
	for a, b in zip(_log(folder), _log(other), strict=True):
		for key in a.keys() - {"Saved?"}:
			assert float(a[key]) == pytest.approx(float(b[key]), rel=1e-4, abs=1e-5), key
	for name, tensor in _weights(folder).items():
		if name == "fconv.bias":  # one channel's profile does not depend on it: its gradient is all rounding
			continue
		expected = _weights(other)[name]
		assert float((tensor - expected).norm()) <= 1e-4 * float(expected.norm()), name


@pytest.fixture
def pause(make_pause):
	"""All ranks wait after their second epoch: the state is saved once before the first, and after each."""
	return make_pause("cherimoya.training.loop:_Run.save", 3)


def _children(pid):
	"""The processes that a process has started, by their ranks."""
	with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
		found = [int(number) for number in file.read().split()]
	ranks = {}
	for child in found:
		with open(f"/proc/{child}/environ", "rb") as file:
			environ = dict(text.split(b"=", 1) for text in file.read().split(b"\0") if b"=" in text)
		ranks[int(environ[b"RANK"])] = child
	return ranks


@pytest.fixture(scope="module")
def whole(tmp_path_factory, settings):
	"""The results of a run by one process."""
	folder = tmp_path_factory.mktemp("whole")
	before = torch.get_num_threads()
	torch.set_num_threads(1)
	assert _fit(folder, settings) == 0
	torch.set_num_threads(before)
	return folder


def test_a_run_that_one_process_began_goes_on_in_three(whole, settings, tmp_path, capfd, monkeypatch):
	from cherimoya.training.loop import _Run

	def save(self):
		write(self)
		if self.progress.epoch == 1:
			os.kill(os.getpid(), signal.SIGTERM)

	write = _Run.save
	monkeypatch.setattr(_Run, "save", save)
	monkeypatch.setattr("cherimoya_cli.stopping.GRACE_SECONDS", 600.0)  # or this process ends on a slow machine
	assert _fit(tmp_path, settings) == 143
	monkeypatch.undo()
	capfd.readouterr()
	monkeypatch.setenv("OMP_NUM_THREADS", "1")
	assert _fit(tmp_path, settings, devices=["cpu"] * 3) == 0
	out = capfd.readouterr()
	assert "ranks was 1, is 3: the results will be equal to rounding, not bit by bit" in out.out
	assert "resuming from epoch 1, batch 1" in out.out
	assert "on cpu (1 thread) and 2 more" in out.out
	assert out.out.count("Training loci") == 1
	assert out.err == ""
	_assert_same(tmp_path, whole)
	assert json.loads((tmp_path / "run.fit.record.json").read_text())["devices"] == ["cpu"] * 3
	assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="finds the processes in /proc")
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_process_that_dies_ends_the_others_and_the_run_can_go_on(settings, pause, tmp_path, capsys, rank):
	process = _start([*FIT, "-p", _write(tmp_path, settings, devices=2)], pause.environment)
	try:
		pause.wait(process, 2)
		ranks = _children(process.pid)
		assert sorted(ranks) == [0, 1]
		os.kill(ranks[rank], signal.SIGKILL)
		pause.go()
		out, _ = process.communicate(timeout=600)  # less than TIMEOUT, after which a rank gives up anyway
	finally:
		process.kill()
	assert process.returncode == 4, out
	assert f"cherimoya fit: error: rank {rank} of 2 (process {ranks[rank]}, cpu) was killed by SIGKILL" in out
	assert out.count("error:") == 1
	assert "Traceback" not in out
	assert not any(os.path.exists(f"/proc/{pid}") for pid in ranks.values())
	assert not (tmp_path / "run.final.torch").exists()
	assert _fit(tmp_path, settings) == 0
	assert "resuming from epoch" in capsys.readouterr().out
	assert _fit(tmp_path / "other", settings) == 0
	_assert_same(tmp_path, tmp_path / "other")


def test_errors_of_all_are_told_once_and_cost_no_long_wait(settings, tmp_path, capfd):
	assert _fit(tmp_path, settings, devices=2, min_counts=1e6) == 3
	err = capfd.readouterr().err
	assert err.count("error:") == 1, err
	assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_stops_all_at_the_same_step(settings, pause, tmp_path, capsys, number):
	process = _start([*FIT, "-p", _write(tmp_path, settings, devices=2)], pause.environment)
	try:
		pause.wait(process, 2)
		process.send_signal(number)
		out, _ = process.communicate(timeout=300)
	finally:
		process.kill()
	assert process.returncode == 128 + number, out
	assert out.count("cherimoya fit: interrupted; training can go on from epoch") == 1
	assert "Traceback" not in out
	assert _fit(tmp_path, settings, devices=2) == 0
	assert _fit(tmp_path / "other", settings, devices=2) == 0
	assert _log(tmp_path) == _log(tmp_path / "other")
	for name, tensor in _weights(tmp_path).items():
		assert torch.equal(tensor, _weights(tmp_path / "other")[name]), name


@pytest.mark.slow
def test_the_ranks_end_with_the_process_that_started_them(settings, pause, tmp_path):
	process = _start([*FIT, "-p", _write(tmp_path, settings, devices=2)], pause.environment)
	try:
		pause.wait(process, 2)
		ranks = _children(process.pid)
	finally:
		process.kill()
	process.communicate(timeout=300)
	give_up = time.monotonic() + 300
	while any(os.path.exists(f"/proc/{pid}") for pid in ranks.values()):
		assert time.monotonic() < give_up
		time.sleep(0.05)


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *FIT[1:]]


@pytest.mark.slow
def test_torchrun(whole, settings, tmp_path):
	process = _start([*TORCHRUN, "-p", _write(tmp_path, settings, devices=1)])
	try:
		out, _ = process.communicate(timeout=300)
	finally:
		process.kill()
	assert process.returncode == 0, out
	assert out.count("Training loci") == 1
	_assert_same(tmp_path, whole)


@pytest.mark.slow
def test_torchrun_when_a_process_dies(settings, pause, tmp_path):
	process = _start([*TORCHRUN, "-p", _write(tmp_path, settings)], pause.environment)
	try:
		pause.wait(process, 2)
		os.kill(_children(process.pid)[1], signal.SIGKILL)
		pause.go()
		out, _ = process.communicate(timeout=600)
	finally:
		process.kill()
	assert process.returncode != 0
	assert "rank 0 of 2 has lost the others" in out or "Signal 9 (SIGKILL)" in out
	assert (tmp_path / "run.checkpoint").exists()


@pytest.mark.cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_all_gpus_do_what_one_does(settings, tmp_path):
	for name, changes in (("one", {"devices": ["cuda:0"]}), ("all", {"devices": "*"})):
		assert _fit(tmp_path / name, {**settings, "device": "auto"}, **changes) == 0
	_assert_same(tmp_path / "all", tmp_path / "one")


@pytest.mark.parametrize(
	("changes", "n_gpus", "found"),
	[
		pytest.param({}, 2, ["cuda"], id="one_by_default"),
		pytest.param({"devices": 1}, 0, ["cpu"], id="one"),
		pytest.param({"devices": 3}, 0, ["cpu"] * 3, id="CPU"),
		pytest.param({"devices": 2}, 3, ["cuda:0", "cuda:1"], id="GPUs"),
		pytest.param({"devices": 2, "device": "cpu"}, 3, ["cpu"] * 2, id="CPU_all_the_same"),
		pytest.param({"devices": "*"}, 3, ["cuda:0", "cuda:1", "cuda:2"], id="all"),
		pytest.param({"devices": "*"}, 0, ["cpu"], id="all_of_none"),
		pytest.param({"devices": ["cuda:2", "cuda:0"]}, 3, ["cuda:2", "cuda:0"], id="listed"),
		pytest.param({"devices": ["cpu", "cpu"]}, 3, ["cpu"] * 2, id="CPUs_listed"),
		pytest.param({"devices": 4}, 3, "devices is 4, but torch finds 3 GPUs here", id="too_many"),
		pytest.param({"devices": 2, "device": "cuda:1"}, 3, 'device is "cuda:1", which is a single one', id="single"),
		pytest.param({"devices": ["cuda:0", "cuda:0"]}, 3, "a GPU is named twice", id="twice"),
		pytest.param({"devices": ["cuda:0", "cpu"]}, 3, "devices has cpu and cuda", id="mixed"),
		pytest.param({"devices": ["cuda:3"]}, 3, "devices has cuda:3, but torch finds 3 GPUs", id="missing"),
		pytest.param({"devices": ["cuda:0"]}, 0, "devices has cuda:0, but torch finds no GPU here", id="none"),
		pytest.param({"devices": ["cpu"], "device": "cuda"}, 3, 'but device is "cuda"', id="contradiction"),
	],
)
def test_which_devices(monkeypatch, changes, n_gpus, found):
	_pretend_gpus(monkeypatch, n_gpus)
	settings = SimpleNamespace(**{"device": "auto", "devices": None, **changes})
	if isinstance(found, str):
		with pytest.raises(SettingsError, match=re.escape(found)):
			resolve_devices(settings)
	else:
		assert list(map(str, resolve_devices(settings))) == found


@pytest.mark.parametrize(
	("changes", "n_gpus", "rank", "found"),
	[
		pytest.param({}, 2, 1, "cuda:1", id="its_GPU"),
		pytest.param({}, 0, 1, "cpu", id="CPU"),
		pytest.param({"device": "cpu", "devices": 1}, 2, 1, "cpu", id="CPU_all_the_same"),
		pytest.param({"devices": ["cuda:3", "cuda:1"]}, 4, 1, "cuda:1", id="listed"),
		pytest.param({"devices": 3}, 4, 1, "2 processes were started on this machine, but devices names 3", id="three"),
		pytest.param({}, 1, 1, "and torch finds 1 GPU;", id="too_few"),
		pytest.param({"device": "cuda:1"}, 4, 1, 'device is "cuda:1"', id="single"),
	],
)
def test_the_device_of_each_process(monkeypatch, changes, n_gpus, rank, found):
	_pretend_gpus(monkeypatch, n_gpus)
	settings = SimpleNamespace(**{"device": "auto", "devices": None, **changes})
	if " " in found:
		with pytest.raises(SettingsError, match=re.escape(found)):
			device_of_rank(settings, rank, 2)
	else:
		assert str(device_of_rank(settings, rank, 2)) == found


def test_a_pipeline_says_it_before_it_starts(settings, tmp_path, capsys, monkeypatch):
	_pretend_gpus(monkeypatch, 0)
	top = {key: settings[key] for key in ("sequences", "loci", "negatives", "signals", "in_window", "out_window")}
	fit = {key: value for key, value in settings.items() if key not in top and key not in ("evaluate", "device")}
	path = tmp_path / "pipeline.json"
	fit["devices"] = ["cuda:0", "cuda:1"]
	path.write_text(json.dumps({**top, "name": str(tmp_path / "run"), "fit_parameters": fit}))
	assert main(["pipeline", "-p", str(path)]) == 2
	assert "devices has cuda:0, cuda:1, but torch finds no GPU here" in capsys.readouterr().err
	assert not list(tmp_path.glob("run.fit*"))


def _pretend_gpus(monkeypatch, n):
	monkeypatch.setattr(torch.cuda, "is_available", lambda: n > 0)
	monkeypatch.setattr(torch.cuda, "device_count", lambda: n)


@pytest.mark.parametrize(
	("environment", "text"),
	[
		pytest.param({"RANK": "2", "WORLD_SIZE": "2"}, "names rank 2 of 2", id="no_such_rank"),
		pytest.param({"RANK": "0", "WORLD_SIZE": "two"}, "WORLD_SIZE to 'two', which is no whole number", id="text"),
		pytest.param({"RANK": "0", "WORLD_SIZE": "2"}, "but not MASTER_ADDR and MASTER_PORT", id="no_address"),
	],
)
def test_an_environment_that_cannot_be(settings, tmp_path, capsys, monkeypatch, environment, text):
	for key in ("MASTER_ADDR", "MASTER_PORT"):
		monkeypatch.delenv(key, raising=False)
	for key, value in environment.items():
		monkeypatch.setenv(key, value)
	assert _fit(tmp_path, settings) == 2
	assert text in capsys.readouterr().err
