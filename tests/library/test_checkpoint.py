"""Checkpoints: the recorded files of every release, round trips, and files that must be refused."""

import os
import pickle
import sys
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from cherimoya import Cherimoya, ControlWrapper, ExpectedCountsWrapper, LogCountWrapper, ProfileWrapper
from cherimoya.checkpoint import load_checkpoint, save_atomically
from cherimoya.errors import InputError, MissingFileError, SettingsError

FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures" / "checkpoints"
RELEASED = sorted(FIXTURES.glob("*.torch"))
ARGUMENTS = {"n_filters": 4, "n_layers": 2, "trimming": 5, "random_state": 0}


@pytest.mark.skipif(not RELEASED, reason="the recorded checkpoints in ../shared are not there")
@pytest.mark.parametrize("path", RELEASED, ids=lambda p: p.stem)
def test_released_checkpoints_predict_what_was_recorded(path):
	recorded = np.load(path.with_suffix(".npz"))
	model = Cherimoya.load(path, verbose=False)
	controls = torch.from_numpy(recorded["X_ctl"]) if "X_ctl" in recorded else None
	with torch.no_grad():
		logits, log_counts = model(torch.from_numpy(recorded["X"]), controls)
	assert np.abs(logits.numpy() - recorded["profile"]).max() <= 1e-5
	assert np.abs(log_counts.numpy() - recorded["logcounts"]).max() <= 1e-5
	assert model.lw0.shape == model.lw1.shape == (model.n_groups,)


class _Recorded:
	"""A recorded checkpoint: its inputs, and what each view gives, computed from the recorded outputs in float64."""

	def __init__(self, path: Path) -> None:
		recorded = np.load(path.with_suffix(".npz"))
		self.model = Cherimoya.load(path)
		self.X = recorded["X"]
		self.X_ctl = recorded["X_ctl"] if "X_ctl" in recorded else None
		self.profile = recorded["profile"].astype(np.float64)
		self.log_counts = recorded["logcounts"].astype(np.float64)
		ends = np.cumsum(self.model.signal_groups)
		self.channels = [slice(end - size, end) for end, size in zip(ends, self.model.signal_groups, strict=True)]

	def shape_of(self, channels: slice) -> np.ndarray:
		"""Σ softmax(v)·v of the centred logits, (N, 1)."""
		v = self.profile[:, channels].reshape(len(self.X), -1)
		v = v - v.mean(1, keepdims=True)
		p = np.exp(v - v.max(1, keepdims=True))
		return (p / p.sum(1, keepdims=True) * v).sum(1, keepdims=True)

	def expected(self) -> np.ndarray:
		"""Counts of each channel and position, (N, T, out)."""
		parts = []
		for g, channels in enumerate(self.channels):
			p = np.exp(self.profile[:, channels] - self.profile[:, channels].max((1, 2), keepdims=True))
			parts.append(p / p.sum((1, 2), keepdims=True) * np.expm1(self.log_counts[:, g])[:, None, None])
		return np.concatenate(parts, axis=1)


@pytest.mark.skipif(not RELEASED, reason="the recorded checkpoints in ../shared are not there")
@pytest.mark.parametrize("path", RELEASED, ids=lambda p: p.stem)
def test_released_checkpoints_give_the_recorded_values_through_predict_and_every_wrapper(path):
	recorded = _Recorded(path)
	model, inputs = recorded.model, (recorded.X.astype(np.int8), recorded.X_ctl)
	compared = {
		"model": (model.predict(*inputs, batch_size=1), (recorded.profile, recorded.log_counts)),
		"controls": (ControlWrapper(model).predict(*inputs), (recorded.profile, recorded.log_counts)),
		"expected": ([ExpectedCountsWrapper(model).predict(*inputs)], [recorded.expected()]),
		"profile": ([ProfileWrapper(model).predict(*inputs)], [recorded.shape_of(slice(None))]),
		"counts": ([LogCountWrapper(ControlWrapper(model)).predict(*inputs)], [recorded.log_counts]),
	}
	for g, channels in enumerate(recorded.channels):
		compared[f"profile {g}"] = ([ProfileWrapper(model, g).predict(*inputs)], [recorded.shape_of(channels)])
		compared[f"counts {g}"] = ([LogCountWrapper(model, g).predict(*inputs)], [recorded.log_counts[:, g : g + 1]])
	for name, (found, expected) in compared.items():
		for y, wanted in zip(found, expected, strict=True):
			assert y.shape == wanted.shape, name
			assert np.abs(y.numpy() - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max()), name


@pytest.mark.skipif(not RELEASED, reason="the recorded checkpoints in ../shared are not there")
@pytest.mark.parametrize("path", [p for p in RELEASED if "controls" in p.stem], ids=lambda p: p.stem)
def test_released_checkpoints_without_their_controls(path):
	recorded = _Recorded(path)
	with pytest.raises(InputError, match="the model has 2 control tracks; give X_ctl"):
		recorded.model.predict(recorded.X)
	found = ControlWrapper(recorded.model).predict(recorded.X)
	zeros = recorded.model.predict(recorded.X, np.zeros_like(recorded.X_ctl))
	assert torch.equal(found.logits, zeros.logits) and torch.equal(found.log_counts, zeros.log_counts)


@pytest.mark.skipif(not RELEASED, reason="the recorded checkpoints in ../shared are not there")
@pytest.mark.parametrize("path", RELEASED, ids=lambda p: p.stem)
def test_released_checkpoints_saved_again_are_the_same_model(path, tmp_path):
	model = Cherimoya.load(path)
	model.save(tmp_path / "again.torch")
	again = Cherimoya.load(tmp_path / "again.torch")
	assert again.config == model.config
	for name, tensor in model.state_dict().items():
		assert torch.equal(again.state_dict()[name], tensor), name


SAVED = {
	"plain": {},
	"groups, controls, wide head": {"signal_groups": [1, 2], "n_control_tracks": 3, "profile_kernel_size": 9},
	"a count a channel": {"n_outputs": 2, "single_count_output": False, "expansion": 1, "residual_scale": 0.5},
	"name": {"name": "my.model", "verbose": False, "compile": True},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", SAVED, ids=str)
def test_round_trip(case, dtype, tmp_path):
	model = Cherimoya(**{**ARGUMENTS, **SAVED[case]}).to(dtype)
	model.save(tmp_path / "m.torch")
	contents = torch.load(tmp_path / "m.torch", weights_only=True)
	assert set(contents) == {"config", "state_dict"}
	assert "compile" not in contents["config"] and "random_state" not in contents["config"]
	loaded = Cherimoya.load(tmp_path / "m.torch")
	assert loaded.config == model.config
	for name, tensor in model.state_dict().items():
		assert torch.equal(loaded.state_dict()[name], tensor), name
		assert loaded.state_dict()[name].dtype == dtype
	assert os.listdir(tmp_path) == ["m.torch"]


def test_run_time_options():
	with pytest.raises(TypeError, match="compile and verbose, got n_filters"):
		Cherimoya.load("nowhere.torch", n_filters=3)


def test_what_a_killed_process_of_the_same_number_left_is_replaced(tmp_path):
	"""In a container each run may have the same number."""
	leftover = tmp_path / f".m.torch.{os.getpid()}.tmp"
	leftover.write_bytes(b"half")
	Cherimoya(**ARGUMENTS).save(tmp_path / "m.torch")
	assert os.listdir(tmp_path) == ["m.torch"]
	assert Cherimoya.load(tmp_path / "m.torch").config["n_filters"] == 4


@pytest.mark.parametrize(("device", "words"), [("cuda:99", "no such GPU"), ("gpu", "device must be")])
def test_devices_that_are_not_there(device, words, tmp_path):
	Cherimoya(**ARGUMENTS).save(tmp_path / "m.torch")
	with pytest.raises(SettingsError, match=words):
		Cherimoya.load(tmp_path / "m.torch", device=device)


def test_one_loss_weight_of_0_1_is_given_to_every_group(tmp_path):
	model = Cherimoya(**ARGUMENTS, n_outputs=3, single_count_output=False)
	state = {**model.state_dict(), "lw0": torch.tensor([0.7]), "lw1": torch.tensor([1.3])}
	config = {"n_filters": 4, "n_layers": 2, "n_outputs": 3, "single_count_output": False, "trimming": 5}
	torch.save({"config": config, "state_dict": state}, tmp_path / "old.torch")
	loaded = Cherimoya.load(tmp_path / "old.torch")
	assert torch.equal(loaded.lw0, torch.full((3,), 0.7))
	assert torch.equal(loaded.lw1, torch.full((3,), 1.3))


def test_an_ordered_dictionary_is_read(tmp_path):
	model = Cherimoya(**ARGUMENTS)
	contents = {"config": model.config, "state_dict": OrderedDict(model.state_dict())}
	torch.save(contents, tmp_path / "m.torch")
	assert Cherimoya.load(tmp_path / "m.torch").config == model.config


class _Trap:
	"""Leaves a file behind when it is unpickled."""

	def __init__(self, marker: Path) -> None:
		self.marker = marker

	def __reduce__(self):
		return (open, (str(self.marker), "w"))


def _model_contents() -> dict:
	model = Cherimoya(**ARGUMENTS)
	return {"config": model.config, "state_dict": model.state_dict()}


@pytest.mark.parametrize("form", ["torch zip", "torch legacy", "plain pickle", "inside the config"])
def test_pickled_code_is_refused_and_never_run(form, tmp_path):
	marker, path = tmp_path / "marker", tmp_path / "evil.torch"
	evil = {**_model_contents(), "extra": _Trap(marker)}
	if form == "inside the config":
		evil = _model_contents()
		evil["config"]["name"] = _Trap(marker)
	if form == "plain pickle":
		path.write_bytes(pickle.dumps({"config": _Trap(marker), "state_dict": {}}))
	else:
		torch.save(evil, path, _use_new_zipfile_serialization=form != "torch legacy")
	with pytest.raises(InputError, match=r"evil\.torch: refused, because it holds pickled code") as caught:
		Cherimoya.load(path)
	assert caught.value.exit_code == 3
	assert not marker.exists()


def test_a_whole_pickled_model_is_refused(tmp_path):
	torch.save(Cherimoya(**ARGUMENTS), tmp_path / "whole.torch")
	with pytest.raises(InputError, match="holds pickled code"):
		Cherimoya.load(tmp_path / "whole.torch")


def _changed(**changes):
	"""A writer of a checkpoint with parts of it replaced; None removes a key."""

	def write(path):
		contents = _model_contents()
		for key, value in changes.items():
			part, _, name = key.partition("__")
			name = name.replace("_dot_", ".")
			contents[part] = {**contents[part], name: value} if name else value
			if name and value is None:
				del contents[part][name]
		torch.save({k: v for k, v in contents.items() if v is not None}, path)

	return write


def _truncated(path):
	torch.save(_model_contents(), path)
	path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN = {
	"empty": (lambda p: p.write_bytes(b""), r"bad\.torch: not a readable checkpoint \(0 bytes"),
	"text": (
		lambda p: p.write_text("chr1\t1\t2\n" * 30),
		r"bad\.torch: not a readable checkpoint.*copy or save it again",
	),
	"random bytes": (lambda p: p.write_bytes(bytes(range(256)) * 9), "not a readable checkpoint"),
	"truncated": (_truncated, r"bad\.torch: not a readable checkpoint.*cut short"),
	"bare zip head": (lambda p: p.write_bytes(b"PK\x03\x04" + b"\0" * 100), "not a readable checkpoint"),
	"folder": (lambda p: p.mkdir(), "a folder, not a checkpoint"),
	"a tensor": (lambda p: torch.save(torch.zeros(3), p), "not a Cherimoya checkpoint: it holds a Tensor"),
	"weights alone": (
		lambda p: torch.save(_model_contents()["state_dict"], p),
		"not a Cherimoya checkpoint.*blocks.0.conv_weight",
	),
	"no config": (_changed(config=None), "not a Cherimoya checkpoint.*state_dict"),
	"config a list": (_changed(config=[1]), "'config' is a list"),
	"weights a list": (_changed(state_dict=[1]), "'state_dict' is a list"),
	"unknown key": (_changed(config__n_heads=4), r"bad\.torch: its config has keys.*'n_heads'.*upgrade"),
	"missing key": (_changed(config__n_filters=None), "lacks 'n_filters'"),
	"bad value": (_changed(config__n_layers=-2), "its config makes no model.*n_layers"),
	"bad type": (_changed(config__residual_scale="big"), "its config makes no model"),
	"missing weight": (_changed(state_dict__iconv_dot_bias=None), r"lack 'iconv\.bias' of shape \(4,\)"),
	"missing head": (_changed(state_dict__fconv_dot_weight=None), r"lack a 'fconv\.weight' of 3 dimensions"),
	"extra weight": (_changed(state_dict__more=torch.zeros(2)), "hold 'more'"),
	"not a tensor": (_changed(state_dict__more=[1.0]), "no tensors: 'more'"),
	"wrong shape": (
		_changed(state_dict__linear_dot_bias=torch.zeros(5)),
		r"'linear\.bias' has shape \(5,\), but the config asks for \(1,\)",
	),
	"wrong width": (_changed(config__profile_kernel_size=9), r"'fconv\.weight' has shape \(1, 4, 1\)"),
}


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_broken_files_are_named_with_a_remedy(case, tmp_path):
	write, message = BROKEN[case]
	path = tmp_path / "bad.torch"
	write(path)
	with pytest.raises(InputError, match=message) as caught:
		Cherimoya.load(path)
	assert "\n" not in str(caught.value) or "problems:" in str(caught.value)


def test_a_missing_file(tmp_path):
	with pytest.raises(MissingFileError, match="no such file"):
		Cherimoya.load(tmp_path / "nothing.torch")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may read and write anything")
def test_permissions(tmp_path):
	path = tmp_path / "m.torch"
	Cherimoya(**ARGUMENTS).save(path)
	path.chmod(0)
	with pytest.raises(InputError, match="permissions"):
		Cherimoya.load(path)


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_a_folder_that_cannot_be_written_to(folder, tmp_path):
	(tmp_path / "file").write_text("in the way")
	with pytest.raises(
		InputError,
		match=r"m\.torch: cannot be written \((No such file|Not a dir)[a-z ]*\); check that the folder exists",
	):
		Cherimoya(**ARGUMENTS).save(tmp_path / folder / "m.torch")
	assert sorted(os.listdir(tmp_path)) == ["file"]


def test_a_failed_save_leaves_the_earlier_file_and_nothing_else(tmp_path, monkeypatch):
	path = tmp_path / "m.torch"
	Cherimoya(**ARGUMENTS).save(path)
	before = path.read_bytes()

	def full(obj, file):
		file.write(b"half a checkpoint")
		raise OSError(28, "No space left on device")

	monkeypatch.setattr(torch, "save", full)
	with pytest.raises(InputError, match="No space left"):
		save_atomically({}, path)
	assert path.read_bytes() == before
	assert os.listdir(tmp_path) == ["m.torch"]


def test_load_checkpoint_gives_plain_config_and_weights(tmp_path):
	model = Cherimoya(**ARGUMENTS, profile_kernel_size=3)
	model.save(tmp_path / "m.torch")
	config, state_dict, written_by = load_checkpoint(tmp_path / "m.torch")
	assert config == model.config
	assert written_by == "format of this package"
	assert set(state_dict) == set(model.state_dict())
