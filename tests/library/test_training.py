"""The training loop: loss, freezing, average, logs, stopping, determinism, and that it learns."""

import csv
import math

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from cherimoya import EMA, Cherimoya
from cherimoya.errors import InputError, SettingsError, ToolError
from cherimoya.losses import _mixture_loss
from cherimoya.training import TrainingOptions, build_optimizers, evaluate, fit, training_loss
from cherimoya.training.monitor import COLUMNS, duration

TRIMMING = 53  # of two blocks more than enough: 46 + 1 + 2 + 4
OUT = 40


def _model(**kwargs):
	return Cherimoya(**{"n_filters": 4, "n_layers": 2, "trimming": TRIMMING, "random_state": 0, **kwargs})


def _data(n=24, channels=1, controls=0, seed=0):
	"""Random one-hot sequences, controls, counts and labels (every third a negative)."""
	generator = torch.Generator().manual_seed(seed)
	codes = torch.randint(0, 4, (n, OUT + 2 * TRIMMING), generator=generator)
	X = torch.nn.functional.one_hot(codes, 4).transpose(1, 2).float()  # (n, L) -> (n, 4, L)
	y = torch.poisson(torch.full((n, channels, OUT), 0.7), generator=generator)
	labels = (torch.arange(n) % 3 != 2).long()
	if not controls:
		return X, y, labels
	X_ctl = torch.poisson(torch.full((n, controls, X.shape[-1]), 0.2), generator=generator)
	return X, X_ctl, y, labels


def _loader(*tensors, batch_size=10):
	return DataLoader(TensorDataset(*tensors), batch_size=batch_size, generator=torch.Generator())


def _fit(folder, *, data=None, model=None, name="run", batch_size=10, **options):
	"""A short run, validated on the peaks of its own training data."""
	data = _data() if data is None else data
	model = _model() if model is None else model
	peaks = data[-1] == 1
	validation = tuple(tensor[peaks] for tensor in data[:-1])
	options = {"max_epochs": 2, "n_warmup_epochs": 0, **options}
	return model, fit(model, _loader(*data, batch_size=batch_size), validation, name=folder / name, **options)


def _table(path):
	with open(path, encoding="utf-8") as file:
		return list(csv.reader(file, delimiter="\t"))


class TestLoss:
	def test_learned_weights_follow_the_formula(self):
		profile, count = torch.tensor([300.0, 20.0]), torch.tensor([0.5, 2.0])
		lw0, lw1 = torch.tensor([2.0, 3.0]), torch.tensor([0.5, 1.5])
		expected = sum(
			p / (2 * a**2) + c / (2 * b**2) + math.log(a) ** 2 + math.log(b) ** 2
			for p, c, a, b in zip(*(t.tolist() for t in (profile, count, lw0, lw1)), strict=True)
		)
		assert float(training_loss(profile, count, lw0, lw1)) == pytest.approx(expected, rel=1e-6)

	def test_frozen_weights_lose_the_logarithms_and_nothing_else(self):
		profile, count = torch.tensor([300.0]), torch.tensor([0.5])
		lw0, lw1 = torch.tensor([2.0]), torch.tensor([0.5])
		assert float(training_loss(profile, count, lw0, lw1, frozen=True)) == pytest.approx(300 / 8 + 0.5 * 2)

	def test_fixed_weights_ignore_the_learned_ones(self):
		profile, count = torch.tensor([300.0, 1.0]), torch.tensor([0.5, 2.0])
		loss = training_loss(profile, count, torch.tensor([7.0]), torch.tensor([9.0]), loss_weights=(0.5, 4.0))
		assert float(loss) == pytest.approx(0.5 * 301 + 4 * 2.5)


class TestSteps:
	def test_one_step_is_what_one_writes_by_hand(self, tmp_path):
		data = _data(n=8)
		trained, _ = _fit(tmp_path, data=data, batch_size=8, max_epochs=1)

		model = _model()
		optimizers = build_optimizers(model, TrainingOptions())
		X, y, labels = data
		losses = _mixture_loss(y, *model(X), labels=labels, signal_groups=[1])
		training_loss(*losses, model.lw0, model.lw1).backward()
		ema = EMA(model)
		for optimizer in optimizers:
			optimizer.step()
		ema.update(model, decay=0.1)  # (1 + t) / (10 + t) at t = 0
		ema.apply_shadow(model)
		for name, parameter in model.named_parameters():
			torch.testing.assert_close(dict(trained.named_parameters())[name], parameter, rtol=0, atol=0)

	@pytest.mark.parametrize(
		("decay", "expected"), [(0.999, (0.1, 2 / 11, 3 / 12, 4 / 13)), (0.2, (0.1, 2 / 11, 0.2, 0.2))]
	)
	def test_the_average_ramps_up_to_its_decay(self, tmp_path, monkeypatch, decay, expected):
		seen = []
		update = EMA.update
		monkeypatch.setattr(
			EMA, "update", lambda self, model, *, decay: (seen.append(decay), update(self, model, decay=decay))
		)
		_fit(tmp_path, data=_data(n=20), ema_decay=decay, max_epochs=2)
		assert seen == pytest.approx(expected)

	@pytest.mark.parametrize(("n", "steps"), [(20, 2), (21, 3), (9, 1)])
	def test_a_partial_last_batch_is_a_step(self, tmp_path, n, steps):
		_, history = _fit(tmp_path, data=_data(n=n), max_epochs=1)
		assert history.n_steps == steps

	def test_a_floor_on_steps_adds_epochs(self, tmp_path):
		_, history = _fit(tmp_path, max_epochs=1, min_total_steps=7)  # of three steps an epoch
		assert (history.n_steps, len(history.rows)) == (9, 3)

	def test_training_figures_are_means_over_the_examples_of_the_epoch(self, tmp_path):
		data = _data(n=25)
		_, history = _fit(tmp_path, data=data, max_epochs=1, muon_lr=1e-12, adam_lr=1e-12, muon_wd=0, adam_wd=0)
		X, y, labels = data
		with torch.no_grad():
			profile, count = _mixture_loss(y, *_model()(X), labels=labels, signal_groups=[1])
		assert history.rows[0]["Training MNLL"] == pytest.approx(float(profile), rel=1e-5)
		assert history.rows[0]["Training Count MSE"] == pytest.approx(float(count), rel=1e-5)

	def test_a_batch_of_negatives_alone_leaves_the_figures_finite(self, tmp_path):
		X, y, labels = _data(n=12)
		labels[:4] = 0
		_, history = _fit(tmp_path, data=(X, y, labels), batch_size=4, max_epochs=1)
		assert math.isfinite(history.rows[0]["Training MNLL"])


class TestLossWeights:
	def _course(self, tmp_path, factor):
		"""lw0 and lw1 at the end of each of four epochs, on counts times a factor."""
		X, y, labels = _data()
		model, course = _model(), []

		def progress(text):
			if text.startswith("epoch"):
				course.append((model.lw0.item(), model.lw1.item()))

		_fit(tmp_path, data=(X, factor * y, labels), model=model, max_epochs=4, n_warmup_epochs=1, progress=progress)
		return course

	def test_they_freeze_once_the_gradient_is_small(self, tmp_path):
		# Without counts the profile loss is 0, and so is the gradient of lw0 at 1.
		course = self._course(tmp_path, 0)
		assert course[0] != (1.0, 1.0)
		assert len(set(course)) == 1  # decay stops with the gradient

	def test_they_stay_free_while_the_gradient_is_large(self, tmp_path):
		course = self._course(tmp_path, 10)
		assert len(set(course)) == 4
		assert course[-1][0] > course[0][0] > 1

	def test_fixed_weights_leave_them_alone(self, tmp_path):
		model, _ = _fit(tmp_path, loss_weights=(1.0, 2.0))
		assert model.lw0.tolist() == model.lw1.tolist() == [1.0]

	def test_all_parameters_can_be_trained_again_afterwards(self, tmp_path):
		model, _ = _fit(tmp_path, loss_weights=(1.0, 2.0))
		assert all(parameter.requires_grad for parameter in model.parameters())


class TestFiles:
	def test_logs_have_exactly_their_columns(self, tmp_path):
		_, history = _fit(tmp_path, data=_data(channels=3), model=_model(signal_groups=[1, 2]))
		per_group = [f"Validation {kind} Pearson {g}" for g in (0, 1) for kind in ("Profile", "Count")]
		log, detailed = _table(tmp_path / "run.log"), _table(tmp_path / "run.detailed.log")
		assert log[0] == list(COLUMNS)
		assert detailed[0] == [*COLUMNS, *per_group]
		assert [row[0] for row in log[1:]] == [row[0] for row in detailed[1:]] == ["0", "1"]
		assert [row[1] for row in log[1:]] == ["3", "6"]
		assert {row[-1] for row in log[1:]} <= {"True", "False"}
		assert list(history.rows[0]) == detailed[0]

	def test_the_best_and_the_final_average_are_saved(self, tmp_path):
		model, history = _fit(tmp_path, max_epochs=5, early_stopping=None)
		best = Cherimoya.load(tmp_path / "run.torch")
		final = Cherimoya.load(tmp_path / "run.final.torch")
		X, y, labels = _data()
		peaks = labels == 1
		for name, loaded in (("best", best), ("final", final)):
			row = history.rows[history.best_epoch if name == "best" else -1]
			measured = evaluate(loaded, (X[peaks], y[peaks])).rows[0]
			assert measured["count_pearson"] == pytest.approx(row["Validation Count Pearson"], abs=1e-5)
			assert measured["profile_pearson"] == pytest.approx(row["Validation Profile Pearson"], abs=1e-5)
		for name, parameter in model.named_parameters():
			assert torch.equal(parameter, dict(best.named_parameters())[name])

	def test_a_log_holds_each_epoch_as_soon_as_it_ends(self, tmp_path):
		lengths = []

		def progress(text):
			if text.startswith("epoch"):
				lengths.append(len(_table(tmp_path / "run.log")))

		_fit(tmp_path, max_epochs=3, progress=progress)
		assert lengths == [2, 3, 4]

	def test_progress_tells_device_pace_and_end(self, tmp_path):
		lines = []
		_fit(tmp_path, progress=lines.append)
		assert "on cpu" in lines[0]
		assert any("s per step" in line and "would end about" in line for line in lines)

	def test_a_missing_folder_is_said_before_training(self, tmp_path):
		with pytest.raises(InputError, match="does not exist; create it"):
			_fit(tmp_path / "nowhere")


class TestSelection:
	@pytest.mark.parametrize(
		("select_on", "column", "best"),
		[
			("count_pearson", "Validation Count Pearson", max),
			("profile_pearson", "Validation Profile Pearson", max),
			("profile_mnll", "Validation MNLL", min),
			("count_mse", "Validation Count MSE", min),
		],
	)
	def test_the_best_epoch_is_that_of_the_chosen_measure(self, tmp_path, select_on, column, best):
		said, options = [], {"early_stopping": None, "select_on": select_on, "adam_lr": 0.05}
		_, history = _fit(tmp_path, progress=said.append, max_epochs=6, **options)
		values = [row[column] for row in history.rows]
		assert history.best_score == best(values)
		assert history.best_epoch == values.index(best(values))
		running = [best(values[: i + 1]) for i in range(len(values))]
		assert [row["Saved?"] for row in history.rows] == [i == 0 or running[i] != running[i - 1] for i in range(6)]
		chosen = f"best: epoch {history.best_epoch}, with {select_on} {best(values):.3f}; {tmp_path}/run.torch holds it"
		assert said[-1] == chosen

	def test_selecting_on_the_loss_of_fixed_weights(self, tmp_path):
		_, history = _fit(tmp_path, max_epochs=5, early_stopping=None, select_on="loss", loss_weights=(0.0, 1.0))
		values = [row["Validation Count MSE"] for row in history.rows]
		assert history.best_epoch == values.index(min(values))

	def test_selecting_on_the_loss_of_learned_weights(self, tmp_path):
		_, history = _fit(tmp_path, max_epochs=8, early_stopping=None, select_on="loss", adam_lr=0.1)
		values = [math.log(row["Validation MNLL"]) + math.log(row["Validation Count MSE"]) for row in history.rows]
		assert history.best_epoch == values.index(min(values))

	def test_early_stopping(self, tmp_path):
		# Nothing learns at a rate of nearly 0, so the first epoch stays the best.
		options = {"muon_lr": 1e-12, "adam_lr": 1e-12, "muon_wd": 0, "adam_wd": 0, "select_on": "count_mse"}
		_, history = _fit(tmp_path, max_epochs=9, early_stopping=2, ema_decay=0.0, **options)
		assert history.stopped_early
		assert len(history.rows) == history.best_epoch + 3
		assert (tmp_path / "run.final.torch").exists()


class TestDeterminism:
	def test_two_runs_are_equal_bit_by_bit(self, tmp_path):
		first, _ = _fit(tmp_path, name="a", max_epochs=3)
		second, _ = _fit(tmp_path, name="b", max_epochs=3)
		for a, b in zip(first.parameters(), second.parameters(), strict=True):
			assert torch.equal(a, b)
		assert (tmp_path / "a.final.torch").read_bytes() == (tmp_path / "b.final.torch").read_bytes()
		times = {COLUMNS.index("Training Time"), COLUMNS.index("Validation Time")}
		logs = [
			[
				[cell for i, cell in enumerate(row) if i not in times]
				for row in _table(tmp_path / f"{name}.detailed.log")
			]
			for name in "ab"
		]
		assert logs[0] == logs[1]

	def test_the_global_random_state_is_neither_read_nor_moved(self, tmp_path):
		torch.manual_seed(3)
		before = torch.get_rng_state()
		first, _ = _fit(tmp_path, name="a")
		assert torch.equal(before, torch.get_rng_state())
		torch.manual_seed(4)
		second, _ = _fit(tmp_path, name="b")
		assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))

	def test_real_windows_train_the_same_with_and_without_workers_and_compact(self, tmp_path, tiny_genome):
		from cherimoya.io import PeakGenerator, extract_windows

		before = torch.get_rng_state()
		states = []
		widths = {"in_window": OUT + 2 * TRIMMING, "out_window": OUT}
		for workers, compact in ((0, False), (1, False), (0, True), (1, True)):
			loader = PeakGenerator(
				tiny_genome.peaks,
				tiny_genome.negatives,
				tiny_genome.fasta,
				[str(tiny_genome.signal), [str(tiny_genome.plus), str(tiny_genome.minus)]],
				chroms=["chr1"],
				max_jitter=10,
				batch_size=16,
				num_workers=workers,
				compact=compact,
				random_state=5,
				**widths,
			)
			validation = extract_windows(
				tiny_genome.peaks,
				tiny_genome.fasta,
				[str(tiny_genome.signal), [str(tiny_genome.plus), str(tiny_genome.minus)]],
				chroms=["chr2"],
				**widths,
			)
			model = _model(signal_groups=[1, 2])
			fit(model, loader, validation, name=tmp_path / "run", max_epochs=2)
			states.append(model.state_dict())
		for state in states[1:]:
			assert all(torch.equal(states[0][name], state[name]) for name in state)
		assert torch.equal(before, torch.get_rng_state())


class TestFailures:
	def test_a_non_finite_loss_names_the_step_and_the_example(self, tmp_path):
		X, y, labels = _data(n=30)
		good = _loader(X, y, labels)
		bad = y.clone()
		bad[13, 0, 5] = math.inf

		class Turning:
			"""Good data in the first epoch, and one bad example from then on."""

			epoch = 0

			def __len__(self):
				return len(good)

			def __iter__(self):
				self.epoch += 1
				return iter(good if self.epoch == 1 else _loader(X, bad, labels))

		with pytest.raises(ToolError, match=r"step 4 \(epoch 1, batch 1\).*examples: number 3 of the batch\."):
			fit(_model(), Turning(), (X, y), name=tmp_path / "run", max_epochs=3)
		assert Cherimoya.load(tmp_path / "run.torch") is not None
		assert len(_table(tmp_path / "run.log")) == 2

	def test_a_non_finite_validation_loss_saves_no_model(self, tmp_path):
		X, y, labels = _data()
		bad = y.clone()
		bad[5, 0, 0] = math.inf
		with pytest.raises(ToolError, match=r"validation loss is not finite after step 3 \(epoch 0\).*number 5\."):
			fit(_model(), _loader(X, y, labels), (X, bad), name=tmp_path / "run")
		assert not list(tmp_path.glob("*.torch"))

	def test_a_non_finite_loss_names_the_locus(self, tmp_path, tiny_genome):
		from cherimoya.io import PeakGenerator, extract_windows

		widths = {"in_window": OUT + 2 * TRIMMING, "out_window": OUT}
		shared = (tiny_genome.fasta, str(tiny_genome.signal))
		loader = PeakGenerator(
			tiny_genome.peaks, None, *shared, chroms=["chr1"], negative_ratio=0, num_workers=0, random_state=1, **widths
		)
		loader.peak_windows.signals[4] = math.inf
		validation = extract_windows(tiny_genome.peaks, *shared, chroms=["chr2"], **widths)
		chrom, middle = [summit for summit in tiny_genome.summits if summit[0] == "chr1"][4]
		with pytest.raises(ToolError, match=rf"examples: peak {chrom}:{middle - 100}-{middle + 100}\."):
			fit(_model(), loader, validation, name=tmp_path / "run", max_epochs=1)

	@pytest.mark.parametrize(
		("options", "message"),
		[
			pytest.param({"max_epoch": 3}, "no option 'max_epoch'; did you mean 'max_epochs'", id="misspelt"),
			pytest.param({"max_epochs": 0}, "'max_epochs' is 0: .*greater than or equal to 1", id="out_of_range"),
			pytest.param({"dtype": "float8"}, "'dtype' is 'float8'", id="unknown_dtype"),
			pytest.param({"signal_groups": [2]}, r"signal_groups is \[2\], but the model has \[1\]", id="other_groups"),
		],
	)
	def test_wrong_options_are_said_in_words(self, tmp_path, options, message):
		with pytest.raises(SettingsError, match=message):
			_fit(tmp_path, **options)

	@pytest.mark.parametrize(
		("validation", "message"),
		[
			pytest.param(lambda X, y: (X[:0], y[:0]), "no validation loci", id="none"),
			pytest.param(lambda X, y: (X[..., :90], y), "in_window is 90, too short.*set in_window to 146", id="short"),
			pytest.param(lambda X, y: (X, y[..., :30]), "out_window is 30.*or out_window to 40", id="other_out_window"),
			pytest.param(lambda X, y: (X, X[:, :2], y), "takes 0 control tracks, but 2 were given", id="controls"),
			pytest.param(lambda X, y: (X, y.repeat(1, 2, 1)), "predicts 1 channels, but.*have 2", id="channels"),
			pytest.param(lambda X, y: (X, y[:3]), "must hold the same loci", id="lengths"),
			pytest.param(lambda X, y: (X,), "got 1 tensors", id="no_signals"),
			pytest.param(lambda X, y: None, "expected windows.*got NoneType", id="nothing"),
		],
	)
	def test_validation_data_that_do_not_fit(self, tmp_path, validation, message):
		X, y, labels = _data()
		with pytest.raises(InputError, match=message):
			fit(_model(), _loader(X, y, labels), validation(X, y), name=tmp_path / "run")
		assert not list(tmp_path.iterdir())

	@pytest.mark.parametrize(
		("batches", "found"),
		[
			pytest.param(lambda X, y, labels: _loader(X, y), "Tensor, Tensor;", id="no_labels"),
			pytest.param(
				lambda X, y, labels: [(X.numpy(), y.numpy(), labels.numpy())], "ndarray, ndarray", id="arrays"
			),
			pytest.param(lambda X, y, labels: (X, y, labels), "got Tensor; give a DataLoader", id="no_loader"),
		],
	)
	def test_batches_that_are_none(self, tmp_path, batches, found):
		X, y, labels = _data()
		with pytest.raises(InputError, match=rf"must be the tensors \(X, y, labels\) or.*{found}"):
			fit(_model(), batches(X, y, labels), (X, y), name=tmp_path / "run")

	def test_validation_data_may_be_arrays(self, tmp_path):
		data = _data()
		X, y, labels = data
		arrays = X[labels == 1].numpy(), y[labels == 1].numpy()
		history = fit(_model(), _loader(*data), arrays, name=tmp_path / "arrays", max_epochs=2, n_warmup_epochs=0)
		_, expected = _fit(tmp_path, data=data)
		assert [row["Validation MNLL"] for row in history.rows] == [row["Validation MNLL"] for row in expected.rows]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_it_learns_a_motif(tmp_path, dtype, device):
	"""Counts follow a motif's presence, and reads its place, so both heads must beat a constant."""
	if device == "cuda" and not torch.cuda.is_available():
		pytest.skip("no GPU")
	generator = torch.Generator().manual_seed(1)
	n = 320
	codes = torch.randint(0, 4, (n, OUT + 2 * TRIMMING), generator=generator)
	motif = torch.tensor([2, 0, 1, 3, 1, 0, 2, 2])
	places = torch.randint(TRIMMING, TRIMMING + OUT - 8, (n,), generator=generator)
	rate = torch.full((n, 1, OUT), 0.05)
	for i in range(0, n, 2):
		codes[i, places[i] : places[i] + 8] = motif
		rate[i, 0, places[i] - TRIMMING : places[i] - TRIMMING + 8] = 4.0
	X = torch.nn.functional.one_hot(codes, 4).transpose(1, 2).float()
	y = torch.poisson(rate, generator=generator)
	data = X[:256], y[:256], torch.ones(256, dtype=torch.long)
	model = _model(n_filters=8)
	history = fit(
		model,
		_loader(*data, batch_size=16),
		(X[256:], y[256:]),
		name=tmp_path / "run",
		max_epochs=14,
		n_warmup_epochs=1,
		adam_lr=0.02,
		dtype=dtype,
		device=device,
		early_stopping=None,
	)
	with_motif = evaluate(model, (X[256::2], y[256::2]), device=device).rows[0]
	assert history.best_score > 0.5
	assert with_motif["profile_pearson"] > 0.4  # about 0.2 for the mean profile


def test_controls_are_read(tmp_path):
	model, history = _fit(tmp_path, data=_data(controls=2), model=_model(n_control_tracks=2))
	assert len(history.rows) == 2
	assert model.fconv.weight.shape[1] == 4 + 2


def test_it_is_a_method_of_the_model_too(tmp_path):
	X, y, labels = _data()
	history = _model(name="mine").fit(_loader(X, y, labels), (X, y), name=tmp_path / "mine", max_epochs=1)
	assert history.paths["best"] == str(tmp_path / "mine.torch")


@pytest.mark.parametrize(
	("seconds", "text"),
	[
		(0.04, "0.0 s"),
		(9.94, "9.9 s"),
		(42.4, "42 s"),
		(59.7, "1 min 00 s"),
		(200, "3 min 20 s"),
		(18_720, "5 h 12 min"),
	],
)
def test_durations_read_well(seconds, text):
	assert duration(seconds) == text
