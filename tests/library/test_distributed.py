"""Ranks: what they exchange, and that training with several takes the steps of one. Processes are forked."""

import os
import pickle
import signal
import time
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from cherimoya import Cherimoya
from cherimoya.errors import InputError, Interrupted, LostRanksError, SettingsError, ToolError
from cherimoya.io.sampler import EpochBatchSampler, PeakNegativeSampler, collate
from cherimoya.training import Ranks, fit, join
from cherimoya.training.distributed import ALONE, RENDEZVOUS, places_in_batch
from cherimoya.training.evaluation import Examples

TRIMMING, OUT = 53, 40
LENGTH = OUT + 2 * TRIMMING

pytestmark = [
	pytest.mark.skipif(not hasattr(os, "fork") or not torch.distributed.is_available(), reason="needs fork and gloo"),
	pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def one_thread():
	"""Forked processes must not use the threads of the one that they come from."""
	before = torch.get_num_threads()
	torch.set_num_threads(1)
	yield
	torch.set_num_threads(before)


def _as_rank(results, environment, timeout, work, args):
	os.environ.update(environment)
	torch.set_num_threads(1)
	rank = int(environment["RANK"])
	try:
		with join(timeout=timeout) as ranks:
			value = work(ranks, *args)
	except Exception as error:
		value = error
	results.put((rank, pickle.dumps(value)))  # torch would send tensors through memory that ends with this process


def _run(tmp_path, size, work, *args, timeout=900.0):
	"""What `work(ranks, *args)` gives on each of several ranks; an exception is given too, None for a dead one."""
	context = get_context("fork")
	results = context.SimpleQueue()
	store = tmp_path / f"store{len(list(tmp_path.glob('store*')))}"
	processes = []
	for rank in range(size):
		environment = {"RANK": str(rank), "WORLD_SIZE": str(size), RENDEZVOUS: str(store), "GLOO_SOCKET_IFNAME": "lo"}
		process = context.Process(target=_as_rank, args=(results, environment, timeout, work, args), daemon=True)
		process.start()
		processes.append(process)
	store.touch()
	found, give_up = {}, time.monotonic() + 600
	while any(process.is_alive() for process in processes) or not results.empty():
		while not results.empty():
			rank, value = results.get()
			found[rank] = pickle.loads(value)
		assert time.monotonic() < give_up, found
		time.sleep(0.01)
	return [found.get(rank) for rank in range(size)]


# ---- what is exchanged ------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 64], ids="n{}".format)
@pytest.mark.parametrize("size", [1, 2, 3, 8], ids="ranks{}".format)
def test_shares_are_all_in_order(n, size):
	shares = [Ranks(rank, size).share(n) for rank in range(size)]
	assert [i for share in shares for i in share] == list(range(n))
	assert max(map(len, shares)) - min(map(len, shares)) <= 1
	assert n == 0 or len(shares[-1]) > 0  # of the last rank, which counts what a batch costs once


def test_places_in_a_batch():
	assert places_in_batch([(3, [0, 2]), (0, []), (4, [1])]) == [0, 2, 4]


def _exchange(ranks):
	one, two = torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(()))
	one.grad = torch.full((2, 3), float(ranks.rank + 1))
	if ranks.rank == 1:
		two.grad = torch.tensor(0.5)
	sums = ranks.add_gradients([one, two], torch.tensor([1.0, ranks.rank], dtype=torch.float64))
	model = torch.nn.Linear(2, 2)
	with torch.no_grad():
		model.weight.fill_(ranks.rank)
	ranks.copy_from_first(model)
	return {
		"ranks": (ranks.rank, ranks.size, ranks.is_first, ranks.is_last, ranks.alone),
		"gradients": (one.grad.tolist(), two.grad.tolist()),
		"sums": sums.tolist(),
		"add": ranks.add(torch.tensor([2, ranks.rank])).tolist(),
		"any": (ranks.any(ranks.rank == 1), ranks.any(False)),
		"gather": ranks.gather(("rank", ranks.rank)),
		"from_first": ranks.from_first(ranks.rank + 10),
		"weight": model.weight.sum().item(),
	}


def test_exchange(tmp_path):
	for rank, found in enumerate(_run(tmp_path, 3, _exchange)):
		assert found == {
			"ranks": (rank, 3, rank == 0, rank == 2, False),
			"gradients": ([[6.0] * 3] * 2, 0.5),
			"sums": [3.0, 3.0],
			"add": [6, 3],
			"any": (True, False),
			"gather": [("rank", 0), ("rank", 1), ("rank", 2)],
			"from_first": 10,
			"weight": 0.0,
		}


def test_a_process_by_itself_exchanges_nothing(monkeypatch):
	for key in ("RANK", "WORLD_SIZE"):
		monkeypatch.delenv(key, raising=False)
	with join() as ranks:
		assert ranks is ALONE
		assert ranks.gather(3) == [3]
		assert ranks.from_first(4) == 4
		assert ranks.any(True)
		with pytest.raises(InputError, match="bad"), ranks.together():
			raise InputError("bad")
	assert not torch.distributed.is_initialized()


def _fail_on(ranks, rank):
	with ranks.together():
		if ranks.rank >= rank:
			raise InputError(f"bad on rank {ranks.rank}")


def test_an_error_on_one_is_an_error_on_all(tmp_path):
	for error in _run(tmp_path, 3, _fail_on, 1):
		assert isinstance(error, InputError)
		assert str(error) == "bad on rank 1"
		assert error.on_all_ranks


def _check_same(ranks):
	ranks.check_same("the weights", 1, "do this")
	ranks.check_same("the weights", int(ranks.rank == 1), "do that")


def test_values_that_are_to_be_the_same(tmp_path):
	for error in _run(tmp_path, 2, _check_same):
		assert isinstance(error, ToolError)
		assert str(error) == "the weights of rank 1 differ from those of rank 0; do that"


def _die(ranks):
	if ranks.rank == 1:
		os.kill(os.getpid(), signal.SIGKILL)
	ranks.gather(0)


def _hang(ranks, given_up):
	deadline = time.monotonic() + 60
	while ranks.rank == 1 and not given_up.exists() and time.monotonic() < deadline:
		time.sleep(0.05)
	try:
		ranks.gather(0)
	finally:
		given_up.touch()


def test_a_rank_that_dies_is_noticed_at_once(tmp_path):
	found = _run(tmp_path, 2, _die)  # which gives up sooner than ranks do with one that hangs
	assert isinstance(found[0], LostRanksError)
	assert "rank 0 of 2 has lost the others" in str(found[0])


def test_a_rank_that_hangs_is_noticed_in_time(tmp_path):
	found = _run(tmp_path, 2, _hang, tmp_path / "given_up", timeout=1.5)
	assert isinstance(found[0], LostRanksError)
	assert "rank 0 of 2 has lost the others" in str(found[0])


# ---- training ---------------------------------------------------------------------------------------


def _arrays(n=23, m=9, channels=2):
	rng = np.random.default_rng(0)
	codes = rng.integers(0, 4, (n + m, LENGTH + 8)).astype(np.uint8)
	signals = rng.poisson(0.7, (n + m, channels, OUT + 8)).astype(np.float32)
	return codes[:n], signals[:n], codes[n:, 4:-4], signals[n:, :, 4:-4]


def _loader(ranks, batch_size=10, seed=1, bad=None):
	"""27 examples, in batches of which the last may be smaller than the number of ranks."""
	arrays = _arrays()
	if bad is not None:
		arrays[1][bad] = np.nan
	sampler = PeakNegativeSampler(
		*(torch.from_numpy(a) for a in arrays[:4]),
		negative_ratio=0.2,
		in_window=LENGTH,
		out_window=OUT,
		max_jitter=4,
		reverse_complement=True,
		random_state=seed,
	)
	batches = EpochBatchSampler(sampler, batch_size, ranks.rank, ranks.size)
	return torch.utils.data.DataLoader(sampler, batch_sampler=batches, collate_fn=collate, generator=torch.Generator())


class _Recorded:
	"""A loader that notes what it gave."""

	def __init__(self, loader):
		self.loader, self.seen = loader, []

	def __getattr__(self, name):
		return getattr(self.loader, name)

	def __len__(self):
		return len(self.loader)

	def __iter__(self):
		for batch in self.loader:
			self.seen.append([tensor.clone() for tensor in batch])
			yield batch


def _validation(n=11):
	codes, signals, *_ = _arrays()
	X = torch.nn.functional.one_hot(torch.from_numpy(codes[:n, 4:-4]).long(), 4).transpose(1, 2).float()
	return X, torch.from_numpy(signals[:n, :, 4:-4])


def _train(ranks, folder, options, stop_at=None, resume=False, seed=1, n_validation=11, model_seed=0, bad=None):
	"""A short run; what a rank has seen, and ends with."""
	model = Cherimoya(n_filters=4, n_layers=2, trimming=TRIMMING, signal_groups=[2], random_state=model_seed)
	loader = _Recorded(_loader(ranks, batch_size=options.get("batch_size", 10), seed=seed, bad=bad))
	steps = iter(range(10**6))
	history = fit(
		model,
		loader,
		_validation(n_validation),
		name=folder / "run",
		ranks=ranks,
		resume=resume,
		stop=None if stop_at is None else lambda: next(steps) == stop_at and ranks.is_last,
		**{"max_epochs": 3, "n_warmup_epochs": 0, "early_stopping": None, **options},
	)
	return {"seen": loader.seen, "weights": dict(model.state_dict()), "rows": history.rows, "steps": history.n_steps}


def _final(folder):
	return torch.load(folder / "run.final.torch", weights_only=True)["state_dict"]


def _assert_close(weights, expected):
	for name, tensor in weights.items():
		assert float((tensor - expected[name]).norm()) <= 1e-4 * float(expected[name].norm()) + 1e-7, name


def _assert_same_rows(rows, expected, rel=1e-5):
	assert len(rows) == len(expected)
	for row, other in zip(rows, expected, strict=True):
		for key in row.keys() - {"Training Time", "Validation Time"}:
			assert row[key] == pytest.approx(other[key], rel=rel, abs=rel), key


CASES = [
	pytest.param(2, {}, 11, id="2_ranks"),
	pytest.param(3, {"batch_size": 13, "select_on": "loss"}, 2, id="3_ranks_fewer_examples_than_ranks"),
	pytest.param(2, {"gradient_clip": 0.5, "gradient_accumulation": 3}, 11, id="clipped_and_in_parts"),
	pytest.param(2, {"loss_weights": (0.5, 2.0), "freeze": ["stem"]}, 11, id="fixed_weights"),
	pytest.param(3, {"batch_size": 26, "gradient_clip": 5.0}, 11, id="one_example_left_for_three"),
	pytest.param(1, {}, 11, id="a_group_of_one"),
]


@pytest.mark.parametrize(("size", "options", "n_validation"), CASES)
def test_several_do_what_one_does(tmp_path, size, options, n_validation):
	(tmp_path / "one").mkdir()
	(tmp_path / "all").mkdir()
	one = _train(ALONE, tmp_path / "one", options, n_validation=n_validation)
	found = _run(tmp_path, size, _train, tmp_path / "all", options, None, False, 1, n_validation)
	for result in found:
		assert isinstance(result, dict), result
		assert result["steps"] == one["steps"]
		_assert_same_rows(result["rows"], found[0]["rows"], rel=0)
		for name, tensor in result["weights"].items():
			assert torch.equal(tensor, found[0]["weights"][name]), name
	for step, batch in enumerate(one["seen"]):
		for whole, *shares in zip(batch, *(result["seen"][step] for result in found), strict=True):
			assert torch.equal(torch.cat(shares), whole), step
	_assert_same_rows(found[0]["rows"], one["rows"])
	_assert_close(_final(tmp_path / "all"), _final(tmp_path / "one"))
	_assert_close(found[0]["weights"], one["weights"])


def test_the_number_of_ranks_may_change(tmp_path):
	for name in ("one", "moved"):
		(tmp_path / name).mkdir()
	one = _train(ALONE, tmp_path / "one", {})
	# The last rank alone is asked to stop: after the second step, then as the first epoch is validated, then at once.
	for size, stop_at, place in ((2, 1, "epoch 0, batch 2"), (3, 1, "epoch 0, batch 3"), (2, 1, "epoch 1, batch 1")):
		stopped = _run(tmp_path, size, _train, tmp_path / "moved", {}, stop_at, "auto")
		assert [type(error) for error in stopped] == [Interrupted] * size, stopped
		assert all(f"go on from {place}, which" in str(error) for error in stopped), stopped
	again = _train(ALONE, tmp_path / "moved", {}, resume=True)
	_assert_same_rows(again["rows"], one["rows"])
	_assert_close(_final(tmp_path / "moved"), _final(tmp_path / "one"))


def test_two_ranks_stopped_and_gone_on_with_give_the_same_bits(tmp_path):
	for name in ("whole", "parts"):
		(tmp_path / name).mkdir()
	whole = _run(tmp_path, 2, _train, tmp_path / "whole", {})
	_run(tmp_path, 2, _train, tmp_path / "parts", {}, 4)
	parts = _run(tmp_path, 2, _train, tmp_path / "parts", {}, None, "auto")
	for name, tensor in whole[0]["weights"].items():
		assert torch.equal(tensor, parts[1]["weights"][name]), name
	for name, tensor in _final(tmp_path / "whole").items():
		assert torch.equal(tensor, _final(tmp_path / "parts")[name]), name


@pytest.mark.slow  # 16-bit floats are slow on a CPU
def test_float16_goes_on_at_a_batch_with_empty_shares(tmp_path):
	options = {"dtype": "float16", "batch_size": 26}
	stopped = _run(tmp_path, 3, _train, tmp_path, options, 0)
	assert all("epoch 0, batch 1, which" in str(error) for error in stopped), stopped
	found = _run(tmp_path, 3, _train, tmp_path, options, None, True)
	for result in found:
		assert isinstance(result, dict), result
		assert all(torch.equal(tensor, found[0]["weights"][name]) for name, tensor in result["weights"].items())


def test_a_loss_that_is_not_finite_names_the_examples(tmp_path):
	(tmp_path / "one").mkdir()
	with pytest.raises(ToolError) as alone:
		_train(ALONE, tmp_path / "one", {}, bad=5)
	errors = _run(tmp_path, 3, _train, tmp_path / "one", {}, None, False, 1, 11, 0, 5)
	for error in errors:
		assert isinstance(error, ToolError)
		assert str(error).split("examples: ")[1] == str(alone.value).split("examples: ")[1]
		assert "number" in str(error)


def _train_with_own(ranks, folder, what):
	return _train(ranks, folder, {}, **{what: ranks.rank})


def test_ranks_with_other_data_are_told_and_other_weights_are_replaced(tmp_path):
	for error in _run(tmp_path, 2, _train_with_own, tmp_path, "seed"):
		assert isinstance(error, ToolError)
		assert "the settings or data of rank 1 differ from those of rank 0; give all ranks the same" in str(error)
	first, second = _run(tmp_path, 2, _train_with_own, tmp_path, "model_seed")
	assert all(torch.equal(tensor, second["weights"][name]) for name, tensor in first["weights"].items())


def _drift(ranks, folder):
	from cherimoya.training.trainer import Trainer

	def move(self):
		before(self)
		if ranks.rank == 1 and self.n_steps == 5:
			with torch.no_grad():
				self.model.iconv.bias[0] += 1e-6

	before = Trainer._move
	Trainer._move = move  # in a process of its own
	return _train(ranks, folder, {})


def test_weights_that_drift_apart_end_the_run(tmp_path):
	for error in _run(tmp_path, 2, _drift, tmp_path):
		assert isinstance(error, ToolError), error
		assert "after epoch 1 the weights of rank 1 differ from those of rank 0" in str(error)
	assert len(torch.load(tmp_path / "run.checkpoint", weights_only=True)["progress"]["rows"]) == 1


def test_a_loader_of_another_share_is_refused(tmp_path):
	data = TensorDataset(*_validation(), torch.ones(11))
	batches = EpochBatchSampler(_loader(ALONE).dataset, 4, 1, 2)
	loader = torch.utils.data.DataLoader(data, batch_sampler=batches)
	model = Cherimoya(n_filters=4, n_layers=2, trimming=TRIMMING, signal_groups=[2], random_state=0)
	with pytest.raises(SettingsError, match="the training data are share 1 of 2, but this is rank 0 of 1"):
		fit(model, loader, _validation(), name=tmp_path / "run")


def test_batches_of_a_share_of_the_examples():
	X, y = _validation()
	examples = Examples.of((X, y))
	found = [len(y) for _, _, y in examples.batches(4, among=range(3, 10))]
	assert found == [4, 3]
	assert torch.equal(torch.cat([y for _, _, y in examples.batches(4, among=range(3, 10))]), y[3:10])
	assert list(examples.batches(4, among=range(3, 3))) == []
