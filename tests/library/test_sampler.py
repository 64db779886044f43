"""The sampler of peaks and negatives: its epochs, its draws and its reverse complements."""

import itertools
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cherimoya.errors import InputError
from cherimoya.io import sampler as sampler_module
from cherimoya.io.batches import CompactBatch, to_device
from cherimoya.io.genome import one_hot
from cherimoya.io.sampler import (
	EpochBatchSampler,
	PeakNegativeSampler,
	Positions,
	collate,
	collate_compact,
	plan_epoch,
)

N, M, IN, OUT, JITTER = 13, 5, 9, 4, 3


def _data(groups=(1, 2, 1), controls=(2, 1), *, n=N, m=M, jitter=JITTER, seed=0):
	"""Peaks and negatives whose values are all different, so that any mix-up shows."""
	rng = np.random.default_rng(seed)
	T, C, wide = sum(groups), sum(controls), 2 * jitter

	def unique(*shape):
		return torch.from_numpy(rng.permutation(int(np.prod(shape))).astype(np.float32).reshape(shape))

	peaks = torch.from_numpy(rng.integers(0, 5, (n, IN + wide)).astype(np.uint8))
	negatives = torch.from_numpy(rng.integers(0, 5, (m, IN)).astype(np.uint8))
	return {
		"peak_sequences": peaks,
		"peak_signals": unique(n, T, OUT + wide),
		"negative_sequences": negatives,
		"negative_signals": -1 - unique(m, T, OUT),
		"peak_controls": unique(n, C, IN + wide) if C else None,
		"negative_controls": -1 - unique(m, C, IN) if C else None,
		"in_window": IN,
		"out_window": OUT,
		"max_jitter": jitter,
		"signal_groups": groups,
		"control_groups": controls or None,
	}


def _sampler(*args, **options):
	data = _data(*args)
	return PeakNegativeSampler(
		**{**data, "negative_ratio": 0.4, "reverse_complement": True, "random_state": 1, **options}
	)


def _same(a, b):
	return len(a) == len(b) and all(
		torch.equal(torch.as_tensor(x), torch.as_tensor(y)) for x, y in zip(a, b, strict=True)
	)


def _epoch(sampler, epoch):
	return sampler.batch([(epoch, i) for i in range(len(sampler))])


def _slow_flip(values, groups):
	"""Positions reversed, and the channels of each group; one example, shape=(T, L)."""
	rows = []
	first = 0
	for size in groups:
		rows += [values[c].flip(0) for c in range(first + size - 1, first - 1, -1)]
		first += size
	return torch.stack(rows)


@pytest.mark.parametrize("groups", [(1,), (2,), (1, 2, 1), (3, 1, 2)], ids=str)
@pytest.mark.parametrize("controls", [(), (1,), (2, 1)], ids=str)
def test_examples_are_the_plans_windows(groups, controls):
	"""The fast gathering against cutting and flipping each example by hand."""
	data = _data(groups, controls)
	sampler = PeakNegativeSampler(**data, negative_ratio=0.7, reverse_complement=True, random_state=3)
	for epoch in range(3):
		plan = sampler.plan(epoch)
		assert plan.flips.any() and not plan.flips.all() and not plan.is_peak.all()
		for i in range(len(sampler)):
			item = sampler[(epoch, i)]
			kind = "peak" if plan.is_peak[i] else "negative"
			j, row = plan.jitters[i], plan.rows[i]
			X = one_hot(data[f"{kind}_sequences"][row : row + 1, j : j + IN])[0]
			y = data[f"{kind}_signals"][row, :, j : j + OUT]
			X_ctl = data[f"{kind}_controls"][row, :, j : j + IN] if controls else None
			if plan.flips[i]:
				X, y = X.flip(0, 1), _slow_flip(y, groups)
				X_ctl = _slow_flip(X_ctl, controls) if controls else None
			assert _same(item, (X, X_ctl, y, int(plan.is_peak[i])) if controls else (X, y, int(plan.is_peak[i])))


def test_mixed_groups_flip_channel_by_channel():
	data = _data((1, 2, 1), ())
	sampler = PeakNegativeSampler(**data, negative_ratio=0, reverse_complement=True, shuffle=False, random_state=0)
	plan = sampler.plan(0)
	i = int(np.flatnonzero(plan.flips)[0])
	j = plan.jitters[i]
	raw = data["peak_signals"][i, :, j : j + OUT]
	_, y, _ = sampler[(0, i)]
	assert torch.equal(y[0], raw[0].flip(0))
	assert torch.equal(y[1], raw[2].flip(0))
	assert torch.equal(y[2], raw[1].flip(0))
	assert torch.equal(y[3], raw[3].flip(0))


def test_a_flipped_sequence_is_its_reverse_complement():
	codes = torch.tensor([[0, 0, 1, 2, 4, 3, 3, 1, 1]], dtype=torch.uint8)  # AACGNTTCC -> GGAANCGTT
	sampler = PeakNegativeSampler(
		codes,
		torch.arange(9.0).reshape(1, 1, 9),
		None,
		None,
		negative_ratio=0,
		in_window=9,
		out_window=9,
		reverse_complement=True,
		random_state=0,
	)
	epoch = next(e for e in itertools.count() if sampler.plan(e).flips[0])
	X, y, label = sampler[(epoch, 0)]
	assert torch.equal(X, one_hot(torch.tensor([[2, 2, 0, 0, 4, 1, 2, 3, 3]], dtype=torch.uint8))[0])
	assert y[0].tolist() == list(range(8, -1, -1)) and label == 1


def test_one_hot_and_codes_give_the_same_examples():
	data = _data()
	codes = PeakNegativeSampler(**data, negative_ratio=0.5, reverse_complement=True, random_state=2)
	for dtype in (torch.float32, torch.int8):
		hot = {k: one_hot(v, dtype) if k.endswith("sequences") else v for k, v in data.items()}
		other = PeakNegativeSampler(**hot, negative_ratio=0.5, reverse_complement=True, random_state=2)
		assert _same(_epoch(codes, 1), _epoch(other, 1))


def test_the_arguments_stand_in_the_documented_order():
	d = _data()
	a = PeakNegativeSampler(
		d["peak_sequences"], d["peak_signals"], d["negative_sequences"], d["negative_signals"], d["peak_controls"],
		d["negative_controls"], 0.4, IN, OUT, JITTER, True, True, 1, signal_groups=(1, 2, 1), control_groups=(2, 1),
	)  # fmt: skip
	assert _same(_epoch(a, 0), _epoch(_sampler(), 0))


def test_wide_negatives_are_cut_to_their_centre():
	data = _data()
	wide = dict(data)
	for name in ("sequences", "signals", "controls"):
		narrow = data[f"negative_{name}"]
		pad = narrow[..., :JITTER]
		wide[f"negative_{name}"] = torch.cat([pad, narrow, pad], dim=-1)
	options = {"negative_ratio": 0.6, "random_state": 0}
	assert _same(_epoch(PeakNegativeSampler(**data, **options), 0), _epoch(PeakNegativeSampler(**wide, **options), 0))


@settings(max_examples=200, deadline=None)
@given(
	seed=st.integers(0, 2**40),
	epoch=st.integers(0, 1000),
	n_peaks=st.integers(1, 40),
	n_negatives=st.integers(1, 9),
	ratio=st.floats(0, 3),
	max_jitter=st.integers(0, 6),
	shuffle=st.booleans(),
	reverse_complement=st.booleans(),
)
def test_plans_hold_every_peak_once(seed, epoch, n_peaks, n_negatives, ratio, max_jitter, shuffle, reverse_complement):
	n_drawn = int(n_peaks * ratio)
	options = {
		"n_peaks": n_peaks,
		"n_negatives": n_negatives,
		"n_drawn": n_drawn,
		"max_jitter": max_jitter,
		"shuffle": shuffle,
		"reverse_complement": reverse_complement,
	}
	plan = plan_epoch(seed, epoch, **options)
	again = plan_epoch(seed, epoch, **options)
	assert all(np.array_equal(getattr(plan, k), getattr(again, k)) for k in ("rows", "is_peak", "jitters", "flips"))
	peaks, negatives = plan.rows[plan.is_peak], plan.rows[~plan.is_peak]
	assert len(plan.rows) == n_peaks + n_drawn and len(negatives) == n_drawn
	assert sorted(peaks) == list(range(n_peaks)) and (shuffle or (np.diff(peaks) == 1).all())
	assert ((negatives >= 0) & (negatives < n_negatives)).all()
	assert ((plan.jitters >= 0) & (plan.jitters <= 2 * max_jitter)).all() and not plan.jitters[~plan.is_peak].any()
	assert reverse_complement or not plan.flips.any()


def test_draws_are_uniform():
	options = {"n_negatives": 10, "max_jitter": 4, "shuffle": True, "reverse_complement": True}
	plan = plan_epoch(0, 0, n_peaks=20_000, n_drawn=20_000, **options)
	jitters = np.bincount(plan.jitters[plan.is_peak], minlength=9)
	negatives = np.bincount(plan.rows[~plan.is_peak], minlength=10)
	# 5 standard deviations of a binomial count.
	assert (abs(jitters - 20_000 / 9) < 5 * np.sqrt(20_000 / 9)).all()
	assert (abs(negatives - 2_000) < 5 * np.sqrt(2_000)).all()
	assert abs(plan.flips.mean() - 0.5) < 5 * 0.5 / 200
	assert abs(plan.is_peak[:20_000].mean() - 0.5) < 5 * 0.5 / 141
	assert abs(np.corrcoef(plan.rows[plan.is_peak], np.arange(20_000))[0, 1]) < 5 / 141


def test_settings_do_not_change_what_others_draw():
	base = {
		"n_peaks": 50,
		"n_negatives": 9,
		"n_drawn": 10,
		"max_jitter": 3,
		"shuffle": True,
		"reverse_complement": True,
	}
	plan = plan_epoch(5, 2, **base)
	other = plan_epoch(5, 2, **{**base, "max_jitter": 0, "reverse_complement": False, "n_negatives": 4})
	assert np.array_equal(plan.rows[plan.is_peak], other.rows[other.is_peak])
	assert np.array_equal(plan.is_peak, other.is_peak)


def test_length_and_peak_ordering():
	sampler = _sampler(negative_ratio=0.4)
	assert len(sampler) == 13 + int(13 * 0.4) == 18
	orders = []
	for epoch in range(3):
		sampler.set_epoch(epoch)
		assert sampler.epoch == epoch
		labels = _epoch(sampler, epoch)[-1]
		assert labels.sum() == 13 and labels.dtype == torch.int64
		orders.append(sampler.peak_ordering.tolist())
		assert sorted(orders[-1]) == list(range(13))
	assert orders[0] != orders[1] != orders[2] != orders[0]
	assert _sampler(shuffle=False).peak_ordering.tolist() == list(range(13))


def test_a_smaller_bare_index_starts_the_next_epoch():
	sampler, named = _sampler(), _sampler()
	seen = [sampler[i] for i in (0, 3, 3, 17, 16, 17, 2)]
	expected = [named[pair] for pair in [(0, 0), (0, 3), (0, 3), (0, 17), (1, 16), (1, 17), (2, 2)]]
	assert all(_same(a, b) for a, b in zip(seen, expected, strict=True))
	assert sampler.epoch == 2


def test_named_epochs_leave_the_current_one_alone():
	sampler = _sampler()
	sampler[5]
	sampler[(7, 2)]
	assert sampler.epoch == 0 and _same(sampler[6], sampler[(0, 6)])


def test_batches_are_the_examples_in_order_also_across_epochs():
	sampler, single = _sampler(), _sampler()
	pairs = [(0, 4), (0, 1), (3, 1), (3, 0), (0, 4)]
	batch = sampler.batch(pairs)
	assert all(_same([t[k] for t in batch], single[pair]) for k, pair in enumerate(pairs))
	bare = sampler.__getitems__([2, 5, 1, 4])
	assert all(_same(a, single[p]) for a, p in zip(bare, [(0, 2), (0, 5), (1, 1), (1, 4)], strict=True))
	assert _same(collate(bare), torch.utils.data.default_collate(list(bare)))


def test_history_does_not_matter():
	fresh = _epoch(_sampler(), 4)
	used = _sampler()
	for index in (3, 1, (9, 2), 0):
		used[index]
	assert _same(_epoch(used, 4), fresh)
	assert not _same(_epoch(used, 5), fresh)
	assert not _same(_epoch(_sampler(random_state=2), 4), fresh)


def test_without_a_seed_one_is_drawn_and_kept():
	a, b = _sampler(random_state=None), _sampler(random_state=None)
	assert _same(_epoch(a, 0), _epoch(a, 0)) and isinstance(a.random_state, int)
	assert a.random_state != b.random_state
	assert _same(_epoch(a, 1), _epoch(_sampler(random_state=a.random_state), 1))


def test_a_plain_loader_with_persistent_workers_gets_fresh_epochs():
	sampler, single = _sampler(), _sampler()
	loader = torch.utils.data.DataLoader(sampler, batch_size=5, num_workers=1, persistent_workers=True)
	for epoch in range(3):
		tensors = [torch.cat(parts) for parts in zip(*loader, strict=True)]
		assert _same(tensors, _epoch(single, epoch))


@pytest.mark.parametrize("index", [-1, 18, (0, 18), (-1, 0)], ids=str)
def test_indices_outside_are_an_index_error(index):
	with pytest.raises(IndexError):
		_sampler()[index]


def test_iterating_a_sampler_ends():
	assert len(list(_sampler())) == 18


@pytest.mark.parametrize(
	"change, named",
	[
		({"negative_ratio": -0.1}, "negative_ratio"),
		({"negative_ratio": float("nan")}, "negative_ratio"),
		({"max_jitter": -1}, "max_jitter"),
		({"in_window": 0}, "in_window"),
		({"out_window": 0}, "out_window"),
		({"random_state": -1}, "random_state"),
		({"negative_sequences": None, "negative_signals": None, "negative_controls": None}, "negative_ratio"),
		({"negative_sequences": torch.zeros(0, IN, dtype=torch.uint8)}, "negative_ratio"),
		({"negative_signals": None}, "negative_signals"),
		({"negative_controls": None}, "negative_controls"),
		({"peak_sequences": torch.zeros(N, IN, dtype=torch.uint8)}, "peak_sequences"),
		({"peak_sequences": torch.zeros(N, 5, IN + 6)}, "peak_sequences"),
		({"peak_sequences": torch.zeros(0, IN + 6, dtype=torch.uint8)}, "peak_sequences"),
		({"peak_signals": torch.zeros(N - 1, 4, OUT + 6)}, "peak_signals"),
		({"peak_signals": torch.zeros(N, OUT + 6)}, "peak_signals"),
		({"negative_signals": torch.zeros(M, 3, OUT)}, "negative_signals"),
		({"negative_sequences": torch.zeros(M, IN + 1, dtype=torch.uint8)}, "negative_sequences"),
		({"signal_groups": (2, 1)}, "signal_groups"),
		({"control_groups": (0, 3)}, "signal_groups"),
	],
	ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_arguments_that_are_refused_are_named(change, named):
	with pytest.raises(ValueError, match=named):
		PeakNegativeSampler(**{**_data(), "negative_ratio": 0.1, **change})


def test_no_negatives_are_needed_at_a_ratio_of_zero():
	data = {k: None if k.startswith("negative") else v for k, v in _data().items()}
	sampler = PeakNegativeSampler(**data, negative_ratio=0)
	assert len(sampler) == N and _epoch(sampler, 0)[-1].all()


def test_groups_default_to_one_of_all_channels():
	data = {**_data((2, 2), ()), "signal_groups": None}
	sampler = PeakNegativeSampler(**data, negative_ratio=0)
	assert sampler.signal_groups == (4,) and sampler.control_groups == ()


def test_epoch_batches():
	sampler = _sampler()
	batches = EpochBatchSampler(sampler, 7)
	iter(batches)  # asked for and not used: no epoch passes
	first = list(batches)
	assert len(batches) == 3 and [len(b) for b in first] == [7, 7, 4]
	assert [pair for b in first for pair in b] == [(0, i) for i in range(18)]
	next(iter(batches))  # begun and given up: an epoch passes
	assert next(iter(batches))[0] == (2, 0) and sampler.epoch == 2
	batches.set_epoch(9)
	assert next(iter(batches))[0] == (9, 0) and next(iter(batches))[0] == (10, 0)
	for call in (lambda: EpochBatchSampler(sampler, 0), lambda: batches.set_epoch(-1)):
		with pytest.raises(ValueError, match="at least"):
			call()


# ---- consecutive positions, shares of ranks, and starting in the middle ---------------------------------------------


def _joined(batches):
	return [torch.cat(parts) for parts in zip(*batches, strict=True)]


def test_positions_are_a_list_of_pairs():
	positions = Positions(3, 5, 9)
	assert list(positions) == [(3, 5), (3, 6), (3, 7), (3, 8)] and len(positions) == 4 and positions[-1] == (3, 8)
	assert repr(positions) == "Positions(3, 5, 9)"
	with pytest.raises(IndexError):
		positions[4]


@pytest.mark.parametrize("n_ahead", [0, 5, 7, 1000])
@pytest.mark.parametrize("batch_size", [1, 4, 18])
def test_reading_ahead_does_not_change_the_examples(monkeypatch, n_ahead, batch_size):
	sampler = _sampler()
	monkeypatch.setattr(sampler_module, "_AHEAD_BYTES", n_ahead * sampler._bytes_of_one())
	sampler = _sampler()
	assert sampler._n_ahead == n_ahead
	batches = EpochBatchSampler(sampler, batch_size)
	for epoch in (0, 1):
		assert _same(_joined([sampler.batch(positions) for positions in batches]), _epoch(_sampler(), epoch))
	jumps = [(1, 0, 4), (1, 4, 8), (1, 12, 16), (1, 8, 12), (1, 4, 8), (1, 8, 12), (1, 12, 16), (1, 16, 18), (0, 0, 4)]
	for epoch, first, last in jumps:
		expected = _sampler().batch([(epoch, i) for i in range(first, last)])
		assert _same(sampler.batch(Positions(epoch, first, last)), expected)


def test_a_batch_that_is_changed_changes_no_other():
	sampler = _sampler(random_state=1)
	for epoch in range(2):
		for first in (0, 4, 8, 8, 4):
			batch = sampler.compact_batch(Positions(epoch, first, first + 4))
			expected = _sampler().batch([(epoch, i) for i in range(first, first + 4)])
			assert _same(batch.encode(), expected)
			for tensor in (batch.sequences, batch.signals, batch.controls, batch.labels):
				tensor.fill_(77)


@pytest.mark.parametrize("first, last", [(-1, 2), (3, 2), (17, 19)], ids=str)
def test_positions_outside_are_an_index_error(first, last):
	with pytest.raises(IndexError, match="18 examples"):
		_sampler().batch(Positions(0, first, last))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8, 20])
@pytest.mark.parametrize("batch_size", [1, 4, 7, 18, 64])
def test_shares_of_ranks_make_up_the_batches(world_size, batch_size):
	whole = list(EpochBatchSampler(_sampler(), batch_size))
	ranks = [EpochBatchSampler(_sampler(), batch_size, rank, world_size) for rank in range(world_size)]
	assert {len(rank) for rank in ranks} == {len(whole)}
	shares = [list(rank) for rank in ranks]
	for step, batch in enumerate(whole):
		parts = [share[step] for share in shares]
		assert [pair for part in parts for pair in part] == list(batch)
		assert max(map(len, parts)) - min(map(len, parts)) <= 1
	sampler = _sampler()
	last = [sampler.batch(share[-1]) for share in shares]  # some of them empty
	assert _same(_joined(last), sampler.batch(whole[-1]))


@pytest.mark.parametrize(
	"options, named", [((0, 0), "world_size"), ((2, 2), "rank"), ((-1, 2), "rank")], ids=["world", "rank", "negative"]
)
def test_ranks_that_make_no_sense(options, named):
	with pytest.raises(ValueError, match=named):
		EpochBatchSampler(_sampler(), 4, *options)


def test_a_pass_can_start_in_the_middle_of_an_epoch():
	sampler = _sampler()
	batches = EpochBatchSampler(sampler, 7)
	batches.start_at(4, 1)
	assert [b[0] for b in batches] == [(4, 7), (4, 14)] and sampler.epoch == 4
	assert [b[0] for b in batches] == [(5, 0), (5, 7), (5, 14)]
	batches.start_at(1, 3)
	assert list(batches) == [] and next(iter(batches))[0] == (2, 0)
	for call in ((-1, 0), (0, -1), (0, 4)):
		with pytest.raises(ValueError, match="must be at least 0"):
			batches.start_at(*call)


# ---- compact batches, types and processes ---------------------------------------------------------------------------


def test_compact_batches_encode_to_the_examples():
	sampler = _sampler()
	for pairs in ([(0, 3), (0, 9)], [(0, 3), (2, 9), (2, 1)], []):
		examples = sampler.__getitems__(pairs)
		compact = collate_compact(examples)
		assert (
			isinstance(compact, CompactBatch) and compact.sequences.dtype == torch.uint8 and len(compact) == len(pairs)
		)
		assert _same(compact.encode(), sampler.batch(pairs)) and _same(compact.encode(), collate(examples))
		assert _same(to_device(compact, "cpu"), collate(examples)) and _same(
			to_device(collate(examples), "cpu"), compact.encode()
		)
		assert [tensor.dtype for tensor in compact.encode()] == [torch.float32] * 3 + [torch.int64]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32", "float16", "float32", "float64"])
@pytest.mark.parametrize("groups", [(1, 2, 1), (4,), (1, 1, 1, 1)], ids=str)
def test_types_of_signals_do_not_change_the_examples(dtype, groups):
	plain, typed = _data(groups), _data(groups)
	for k in ("peak_signals", "negative_signals", "peak_controls", "negative_controls"):
		plain[k] = plain[k].remainder(101).abs()
		typed[k] = plain[k].numpy().astype(dtype if k.startswith("peak") else "uint8")
	options = {"negative_ratio": 0.5, "reverse_complement": True, "random_state": 2}
	a, b = PeakNegativeSampler(**plain, **options), PeakNegativeSampler(**typed, **options)
	assert _same(_epoch(a, 0), _epoch(b, 0)) and _same(_epoch(a, 1), _epoch(b, 1))
	assert b.compact_batch([(0, 0)]).signals.numpy().dtype == np.result_type(dtype, "uint8")


def test_bfloat16_signals_are_taken_as_float32():
	data = _data()
	data["peak_signals"], data["negative_signals"] = (
		data[k].remainder(101).bfloat16() for k in ("peak_signals", "negative_signals")
	)
	plain = {k: v.float() if k in ("peak_signals", "negative_signals") else v for k, v in data.items()}
	samplers = [PeakNegativeSampler(**d, reverse_complement=True, random_state=0) for d in (data, plain)]
	assert _same(*(_epoch(sampler, 0) for sampler in samplers))


def _on_disk(folder, data, views):
	"""The data with arrays that are mapped from files, some of them views of wider ones."""
	mapped = dict(data)
	for name, value in data.items():
		if not isinstance(value, torch.Tensor):
			continue
		array = value.numpy()
		if views:  # part of a larger file: an offset in each axis
			wide = np.pad(array, [(2, 1)] * array.ndim)
			np.save(folder / f"{name}.npy", wide)
			mapped[name] = np.load(folder / f"{name}.npy", mmap_mode="r")[tuple(slice(2, -1) for _ in array.shape)]
		else:
			np.save(folder / f"{name}.npy", array)
			mapped[name] = np.load(folder / f"{name}.npy", mmap_mode="c")
	return mapped


@pytest.mark.parametrize("views", [False, True], ids=["whole", "views"])
def test_mapped_arrays_are_sent_as_paths(tmp_path, views):
	data = _data(n=400, m=100)
	options = {"negative_ratio": 0.4, "reverse_complement": True, "random_state": 1}
	sampler = PeakNegativeSampler(**_on_disk(tmp_path, data, views), **options)
	expected = _epoch(PeakNegativeSampler(**data, **options), 1)
	assert _same(_epoch(sampler, 1), expected)
	sent = pickle.dumps(sampler)
	assert len(sent) < 4_000 < sum(v.numpy().nbytes for v in data.values() if isinstance(v, torch.Tensor))
	assert _same(_epoch(pickle.loads(sent), 1), expected)
	(tmp_path / "peak_signals.npy").unlink()
	with pytest.raises(InputError, match=r"peak_signals\.npy.*keep the cache"):
		pickle.loads(sent)


def test_arrays_that_cannot_be_written_to_are_left_alone():
	data = _data()
	for name in ("peak_signals", "peak_sequences"):
		data[name] = data[name].numpy()
		data[name].flags.writeable = False
	before = data["peak_signals"].copy()
	samplers = [PeakNegativeSampler(**d, reverse_complement=True, random_state=0) for d in (data, _data())]
	assert _same(*(_epoch(sampler, 0) for sampler in samplers))
	assert np.array_equal(before, data["peak_signals"])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "memory"])
def test_spawned_workers_yield_the_same(tmp_path, method, mapped):
	sampler = PeakNegativeSampler(
		**(_on_disk(tmp_path, _data(), False) if mapped else _data()), negative_ratio=0.4, random_state=1
	)
	loader = torch.utils.data.DataLoader(
		sampler,
		batch_sampler=EpochBatchSampler(sampler, 5),
		collate_fn=collate,
		num_workers=1,
		multiprocessing_context=multiprocessing.get_context(method),
	)
	assert _same(_joined(loader), _epoch(PeakNegativeSampler(**_data(), negative_ratio=0.4, random_state=1), 0))
