"""Batched prediction gives what the model gives, whatever the dtype and the batch size, and leaves the model alone."""

import gc
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

from cherimoya import Cherimoya, ControlWrapper, ExpectedCountsWrapper, LogCountWrapper, ProfileWrapper
from cherimoya.errors import InputError, SettingsError
from cherimoya.interpret import _batches
from cherimoya.interpret._batches import bytes_per_example, choose_batch_size, in_batches, is_out_of_memory
from cherimoya.interpret.predict import Prediction, expected_counts, predict

LENGTH, OUT = 121, 23  # 46 + 1 + 2 = 49 bases are cut from each side


def make_model(groups: tuple[int, ...] = (1, 2), n_control_tracks: int = 0) -> Cherimoya:
	model = Cherimoya(
		n_filters=6, n_layers=2, n_control_tracks=n_control_tracks, signal_groups=list(groups), random_state=1
	)
	with torch.no_grad():  # larger weights than the initial ones, so that predictions differ
		for parameter in model.parameters():
			parameter.mul_(8)
	return model


def make_codes(n: int = 7, seed: int = 0) -> np.ndarray:
	codes = np.random.default_rng(seed).integers(0, 4, (n, LENGTH)).astype(np.uint8)
	codes[1::3, 60] = 4
	return codes


def to_one_hot(codes: np.ndarray) -> torch.Tensor:
	return torch.from_numpy(codes[:, None] == np.arange(4)[:, None]).float()  # (n, L) -> (n, 4, L)


def read_only(codes: np.ndarray) -> np.ndarray:
	codes.flags.writeable = False
	return codes


INPUTS = {
	"float32": to_one_hot,
	"float16": lambda codes: to_one_hot(codes).half(),
	"float64": lambda codes: to_one_hot(codes).double(),
	"int8": lambda codes: to_one_hot(codes).to(torch.int8),
	"bool": lambda codes: to_one_hot(codes).bool(),
	"numpy int8": lambda codes: to_one_hot(codes).numpy().astype(np.int8),
	"codes": torch.from_numpy,
	"numpy codes": lambda codes: codes,
	"read-only codes": read_only,
	"not contiguous": lambda codes: to_one_hot(codes).transpose(1, 2).contiguous().transpose(1, 2),
}


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_predictions_are_those_of_the_model(kind: str, batch_size: int) -> None:
	model = make_model()
	codes = make_codes()
	with torch.no_grad():
		logits, log_counts = model(to_one_hot(codes))
	result = predict(model, INPUTS[kind](codes), batch_size=batch_size)
	assert isinstance(result, Prediction)
	assert result.logits.shape == (7, 3, OUT) and result.log_counts.shape == (7, 2)
	torch.testing.assert_close(result.logits, logits, rtol=1e-5, atol=1e-5)
	torch.testing.assert_close(result.log_counts, log_counts, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("as_numpy", [False, True], ids=["tensor", "array"])
def test_controls_reach_the_model(as_numpy: bool) -> None:
	model = make_model(n_control_tracks=2)
	X = to_one_hot(make_codes())
	X_ctl = torch.rand(7, 2, LENGTH, generator=torch.Generator().manual_seed(0)) * 9
	with torch.no_grad():
		logits, log_counts = model(X, X_ctl)
	result = predict(model, X, X_ctl.numpy() if as_numpy else X_ctl, batch_size=4)
	torch.testing.assert_close(result.logits, logits, rtol=1e-5, atol=1e-5)
	torch.testing.assert_close(result.log_counts, log_counts, rtol=1e-5, atol=1e-5)
	zeros = predict(ControlWrapper(model), X, batch_size=4)
	with torch.no_grad():
		expected = model(X, torch.zeros_like(X_ctl))
	torch.testing.assert_close(zeros.log_counts, expected[1], rtol=1e-5, atol=1e-5)
	assert not torch.allclose(zeros.log_counts, result.log_counts)


def test_the_model_is_left_as_it_was() -> None:
	model = make_model().train()
	model.iconv.eval()
	modes = [module.training for module in model.modules()]
	seen = []
	model.register_forward_pre_hook(lambda module, _: seen.append((module.training, torch.is_grad_enabled())))
	result = predict(model, make_codes(), batch_size=4)
	assert seen == [(False, False)] * 2
	assert [module.training for module in model.modules()] == modes
	assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
	weight = torch.ones((), requires_grad=True)  # results are plain tensors, which autograd may use
	(result.logits * weight).sum().backward()
	assert weight.grad is not None
	model(to_one_hot(make_codes()))[1].sum().backward()
	assert model.linear.weight.grad is not None


def test_modes_come_back_after_an_error() -> None:
	model = make_model().train()
	with pytest.raises(ValueError):
		predict(model, make_codes()[:, :98])
	assert model.training


def test_one_batch_at_a_time() -> None:
	model = make_model()
	sizes, progress = [], []
	model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
	predict(model, make_codes(11), batch_size=4, progress=lambda *counts: progress.append(counts))
	assert sizes == [4, 4, 3]
	assert progress == [(4, 11), (8, 11), (11, 11)]


@pytest.mark.parametrize("batch_size", [None, 1, 2, 5, 40])
def test_the_batch_size_changes_rounding_alone(batch_size: int | None) -> None:
	model, X = make_model(), make_codes(40)
	one_by_one = [predict(model, X[i : i + 1], batch_size=1) for i in range(40)]
	result = predict(model, X, batch_size=batch_size)
	for found, parts in zip(result, zip(*one_by_one, strict=True), strict=True):
		assert (found - torch.cat(parts)).abs().max() <= 1e-6 * found.abs().max().clamp(min=1)


def test_a_memory_map_is_read_batch_by_batch(tmp_path: Path) -> None:
	codes = make_codes(9)
	np.save(tmp_path / "codes.npy", codes)
	mapped = np.load(tmp_path / "codes.npy", mmap_mode="r")
	assert torch.equal(predict(make_model(), mapped, batch_size=4).logits, predict(make_model(), codes).logits)


@pytest.mark.parametrize("wrapper", [ExpectedCountsWrapper, LogCountWrapper, ProfileWrapper], ids=lambda w: w.__name__)
@pytest.mark.parametrize("n", [0, 5])
def test_a_view_gives_its_one_tensor(wrapper: type, n: int) -> None:
	model, X = make_model(), make_codes(n)
	with torch.no_grad():
		expected = wrapper(model)(to_one_hot(X))
	torch.testing.assert_close(predict(wrapper(model), X, batch_size=2), expected, rtol=1e-5, atol=1e-5)


# Batch sizes, and memory that runs out.

ERRORS = {
	"a GPU": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
	"a CPU": lambda: RuntimeError(
		"[enforce fail at alloc_cpu.cpp:116] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
		"allocate 9 bytes. Error code 12 (Cannot allocate memory)"
	),
	"Windows": lambda: RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
	"cuBLAS": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
	"Apple": lambda: RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"),
	"numpy": lambda: MemoryError("Unable to allocate 9 GiB"),
}


def limit_to(model: torch.nn.Module, most: int, error: BaseException) -> list[int]:
	"""Make the model fail on batches of more than `most`; the sizes that it is given."""
	sizes: list[int] = []

	def check(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
		sizes.append(len(inputs[0]))
		if sizes[-1] > most:
			raise error

	model.register_forward_pre_hook(check)
	return sizes


@pytest.mark.parametrize("kind", ERRORS)
def test_batches_that_do_not_fit_are_halved(kind: str) -> None:
	X, expected = make_codes(20), predict(make_model(), make_codes(20))
	model = make_model().train()
	sizes = limit_to(model, 3, ERRORS[kind]())
	progress: list[tuple[int, int]] = []
	result = predict(model, X, batch_size=13, progress=lambda *counts: progress.append(counts))
	assert sizes == [13, 6, *[3] * 6, 2]
	assert [done for done, _ in progress] == [3, 6, 9, 12, 15, 18, 20]
	assert model.training
	for found, y in zip(result, expected, strict=True):
		torch.testing.assert_close(found, y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ERRORS)
def test_a_sequence_that_does_not_fit_alone_is_an_error_with_a_remedy(kind: str) -> None:
	model = make_model().train()
	sizes = limit_to(model, 0, ERRORS[kind]())
	with pytest.raises(InputError, match=r"sequence 0 alone does not fit in the memory of cpu.*shorter sequences"):
		predict(model, make_codes(), batch_size=4)
	assert sizes == [4, 2, 1] and model.training


@pytest.mark.parametrize("error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), KeyError("memory")])
def test_other_errors_are_not_tried_again(error: Exception) -> None:
	model = make_model()
	sizes = limit_to(model, 0, error)
	with pytest.raises(type(error)):
		predict(model, make_codes(), batch_size=4)
	assert sizes == [4] and not is_out_of_memory(error)


def test_nothing_of_a_failed_batch_is_kept() -> None:
	alive: list[weakref.ref] = []

	def compute(rows: slice) -> int:
		gc.collect()
		assert all(reference() is None for reference in alive), "a tensor of the last try is still there"
		batch = torch.zeros(rows.stop - rows.start)
		alive.append(weakref.ref(batch))
		if len(batch) > 1:
			raise ERRORS["a GPU"]()
		return len(batch)

	assert [result for _, result in in_batches(3, 3, compute, device=torch.device("cpu"))] == [1, 1, 1]
	assert len(alive) == 4


def test_results_that_do_not_fit_are_an_error_before_any_work_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
	model, X = make_model(), make_codes()
	module = sys.modules["cherimoya.interpret.predict"]
	monkeypatch.setattr(module.torch, "empty", lambda *shape, **_: (_ for _ in ()).throw(ERRORS["a CPU"]()))
	with pytest.raises(InputError, match=r"predictions of 7 sequences take 0\.0 GB.*fewer at a time"):
		module._allocate(7, torch.zeros(2, 3, OUT))
	monkeypatch.undo()
	assert len(predict(model, X).logits) == 7


@pytest.mark.parametrize(
	("free", "factor", "expected"),
	[(10**15, 1.0, 64), (40, 1.0, 10), (41, 2.0, 5), (3, 1.0, 1), (0, 1.0, 1), (None, 1.0, 64)],
	ids=["plenty", "ten fit", "twice as much each", "none fits", "nothing", "unknown"],
)
def test_the_size_follows_the_memory_that_is_free(
	free: int | None, factor: float, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
	model = make_model()
	each = bytes_per_example(model, LENGTH)
	monkeypatch.setattr(_batches, "available_memory", lambda: free if free is None or free > 10**9 else free * each)
	found = choose_batch_size(model, LENGTH, batch_size=None, device=torch.device("cpu"), factor=factor)
	assert found == expected
	sizes = limit_to(model, 10**9, RuntimeError())
	predict(model, make_codes(70))
	assert sizes[0] == {5: 10}.get(expected, expected)


MODELS = {
	"default": {"n_layers": 3},
	"atlas": {"n_layers": 2, "n_filters": 128, "profile_kernel_size": 75},
	"narrow, many channels": {
		"n_filters": 8,
		"n_layers": 3,
		"signal_groups": [2, 4],
		"profile_kernel_size": 75,
		"n_control_tracks": 2,
	},
}


@pytest.mark.parametrize("hooked", [False, True], ids=["fused", "module by module"])
@pytest.mark.parametrize("case", MODELS)
@pytest.mark.filterwarnings("ignore")  # of the profiler
def test_the_estimate_is_above_what_a_forward_takes(case: str, hooked: bool) -> None:
	model = Cherimoya(**MODELS[case], random_state=0).eval()
	if hooked:
		model.blocks[0].linear1.register_forward_hook(lambda *_: None)
		model.blocks[1].linear1.register_forward_hook(lambda *_: None)
	length, n = 2 * model.trimming + 500, 3
	X = torch.zeros(n, 4, length, dtype=torch.int8)
	controls = (torch.zeros(n, 2, length),) if model.n_control_tracks else ()
	with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
		with torch.inference_mode():
			model(X, *controls)
	events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
	held = np.cumsum([event.nbytes() for event in events if event.name() == "[memory]"])
	estimate = n * bytes_per_example(model, length)
	assert 0.05 * estimate < held.max() <= estimate


def test_the_estimate_of_a_model_of_another_kind() -> None:
	other = torch.nn.Sequential(torch.nn.Conv1d(4, 32, 5), torch.nn.ReLU(), torch.nn.Conv1d(32, 2, 1))
	assert bytes_per_example(other, 100) == 4 * 100 * 8 * 32
	assert bytes_per_example(ControlWrapper(make_model()), 100) == bytes_per_example(make_model(), 100)
	assert bytes_per_example(make_model().double(), 100) == 2 * bytes_per_example(make_model(), 100)
	assert bytes_per_example(torch.nn.Identity(), 100) > 0


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, True, "8"], ids=repr)
def test_batch_sizes_that_are_none(batch_size: object) -> None:
	with pytest.raises(SettingsError, match="batch_size must be a whole number of at least 1"):
		predict(make_model(), make_codes(), batch_size=batch_size)


@pytest.mark.parametrize(("device", "words"), [("cuda:99", "no such GPU"), ("gpu", "device must be")])
def test_devices_that_are_not_there(device: str, words: str) -> None:
	with pytest.raises(SettingsError, match=words):
		predict(make_model(), make_codes(), device=device)


def test_no_earlier_batch_is_kept() -> None:
	model, alive = make_model(), []

	def check(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
		assert all(reference() is None for reference in alive)
		alive.append(weakref.ref(inputs[0]))

	model.register_forward_pre_hook(check)
	predict(model, make_codes(9), batch_size=2)
	assert len(alive) == 5


def test_no_sequences_give_empty_predictions() -> None:
	result = predict(make_model(), make_codes()[:0])
	assert result.logits.shape == (0, 3, OUT) and result.log_counts.shape == (0, 2)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "float16"], ids=str)
def test_autocast_results_are_float32_and_near(dtype: str | torch.dtype) -> None:
	model, X = make_model(), make_codes()
	exact, rounded = predict(model, X), predict(model, X, dtype=dtype)
	assert rounded.logits.dtype == rounded.log_counts.dtype == torch.float32
	assert 0 < (rounded.logits - exact.logits).abs().max() < 0.05 * exact.logits.abs().max()


def test_weights_in_float64_predict_in_float64() -> None:
	result = predict(make_model().double(), make_codes())
	assert result.logits.dtype == result.log_counts.dtype == torch.float64


@pytest.mark.parametrize(
	("X", "X_ctl", "words"),
	[
		(torch.zeros(2, 5, LENGTH), None, r"got shape \(2, 5, 121\)"),
		(torch.zeros(2, LENGTH), None, "dtype torch.float32"),
		(torch.zeros(LENGTH, dtype=torch.uint8), None, r"got shape \(121,\)"),
		(["ACGT"], None, "X must be an array or a tensor, got list"),
		(torch.zeros(2, 4, LENGTH), [0], "X_ctl must be an array or a tensor, got list"),
		(torch.zeros(2, 4, LENGTH), torch.zeros(3, 1, LENGTH), "n = 2"),
		(torch.zeros(2, 4, LENGTH), torch.zeros(2, 1, OUT), "whole input window"),
	],
	ids=[
		"five channels",
		"floating codes",
		"one dimension",
		"texts",
		"a list",
		"rows of controls",
		"length of controls",
	],
)
def test_bad_arrays(X: torch.Tensor, X_ctl: torch.Tensor | None, words: str) -> None:
	with pytest.raises(InputError, match=words):
		predict(make_model(), X, X_ctl)


def test_unknown_dtype() -> None:
	with pytest.raises(SettingsError, match="float8"):
		predict(make_model(), make_codes(), dtype="float8")


@pytest.mark.parametrize("groups", [(1,), (2,), (1, 1), (2, 1, 3)], ids=str)
def test_expected_counts(groups: tuple[int, ...]) -> None:
	model, X = make_model(groups), to_one_hot(make_codes())
	prediction = predict(model, X)
	expected = expected_counts(*prediction, groups)
	with torch.no_grad():
		torch.testing.assert_close(expected, ExpectedCountsWrapper(model)(X), rtol=1e-4, atol=1e-5)
	start = 0
	for g, size in enumerate(groups):
		totals = expected[:, start : start + size].double().sum(dim=(1, 2))
		torch.testing.assert_close(totals, torch.expm1(prediction.log_counts[:, g].double()), rtol=1e-5, atol=1e-6)
		start += size


@pytest.mark.parametrize(
	("groups", "words"),
	[
		((2,), r"logits of shape \(n, 2, out\)"),
		((1, 1, 1), r"log counts of shape \(n, 3\)"),
		((), "at least one group"),
	],
	ids=["channels", "groups", "none"],
)
def test_expected_counts_of_other_groups(groups: tuple[int, ...], words: str) -> None:
	with pytest.raises(ValueError, match=words):
		expected_counts(torch.zeros(4, 3, OUT), torch.zeros(4, 2), groups)
