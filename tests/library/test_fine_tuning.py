"""Options of a step (clipping, parts of a batch, frozen parts), and beginning from a trained model."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from cherimoya import Cherimoya
from cherimoya.errors import InputError, SettingsError
from cherimoya.training import TrainingOptions, fit, init_from, split_parameters
from cherimoya.training.monitor import Pace
from cherimoya.training.trainer import Trainer
from cherimoya.training.transfer import freeze, parameters_of

OUT, TRIMMING = 24, 20


def _model(**kwargs):
	return Cherimoya(**{"n_filters": 4, "n_layers": 3, "trimming": TRIMMING, "random_state": 0, **kwargs})


def _batch(n=10, *, model=None, positive=None):
	"""(X, y, labels) or (X, X_ctl, y, labels) that fit a model; `positive` of the first examples are peaks."""
	model = _model() if model is None else model
	generator = torch.Generator().manual_seed(1)
	width = OUT + 2 * model.trimming
	X = torch.nn.functional.one_hot(torch.randint(0, 4, (n, width), generator=generator), 4).transpose(1, 2).float()
	y = torch.poisson(torch.full((n, model.n_outputs, OUT), 0.7), generator=generator)
	labels = (torch.arange(n) < (n if positive is None else positive)).long()
	X_ctl = torch.poisson(torch.full((n, model.n_control_tracks, width), 0.2), generator=generator)
	return [X, X_ctl, y, labels] if model.n_control_tracks else [X, y, labels]


def _trainer(model=None, **options):
	trainer = Trainer(_model() if model is None else model, TrainingOptions(**options), torch.device("cpu"))
	trainer.prepare(None, None, n_epochs=4, steps_per_epoch=5)
	return trainer


def _sgd_trainer(**options):
	"""A trainer whose step is the gradient itself."""
	model = _model()
	trainer = Trainer(model, TrainingOptions(**options), torch.device("cpu"))
	trainer.prepare([torch.optim.SGD(model.parameters(), lr=1.0)], [], n_epochs=1, steps_per_epoch=1)
	return trainer


def _step_norm(trainer):
	before = [p.detach().clone() for p in trainer.model.parameters()]
	trainer.step(_batch())
	moved = [p.detach() - old for p, old in zip(trainer.model.parameters(), before, strict=True)]
	return float(torch.cat([m.flatten() for m in moved]).norm()), moved


class TestParts:
	@pytest.mark.parametrize("parts", [2, 3, 10, 64])
	@pytest.mark.parametrize("positive", [10, 7, 3, 0], ids=lambda n: f"{n}_peaks_of_10")
	@pytest.mark.parametrize("options", [{}, {"loss_weights": (0.2, 3.0)}], ids=["learned", "fixed"])
	def test_gradients_and_losses_are_those_of_the_whole_batch(self, parts, positive, options):
		model = _model(signal_groups=[1, 2])
		model.lw0.data.fill_(1.5)
		batch = _batch(model=model, positive=positive)
		whole = _trainer(model, **options)._gradients(batch)
		expected = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
		found = _trainer(model, gradient_accumulation=parts, **options)._gradients(batch)
		assert (found.n_peaks, found.n_examples, found.suspects) == (positive, 10, [])
		assert found[:3] == pytest.approx(whole[:3], rel=1e-5)
		for parameter, gradient in zip(model.parameters(), expected, strict=True):
			if gradient is None:
				assert parameter.grad is None
			else:
				torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-5)

	def test_fewer_examples_go_through_the_model_at_once(self):
		model, sizes = _model(), []
		model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
		_trainer(model, gradient_accumulation=4).step(_batch(10))
		assert sizes == [3, 3, 3, 1]

	def test_the_example_that_is_not_finite_is_found_in_its_part(self):
		batch = _batch(10)
		batch[1][7, 0, 3] = float("inf")
		trainer = _trainer(gradient_accumulation=4)
		before = [p.detach().clone() for p in trainer.model.parameters()]
		assert trainer.step(batch).suspects == [7]
		assert trainer.n_steps == 0
		assert all(torch.equal(p, old) for p, old in zip(trainer.model.parameters(), before, strict=True))


class TestClipping:
	def test_a_long_gradient_is_shortened_in_its_direction(self):
		length, whole = _step_norm(_sgd_trainer())
		clipped_length, clipped = _step_norm(_sgd_trainer(gradient_clip=length / 4))
		assert clipped_length == pytest.approx(length / 4, rel=1e-4)
		for a, b in zip(whole, clipped, strict=True):
			torch.testing.assert_close(b, a / 4, rtol=1e-3, atol=1e-6)

	def test_a_short_gradient_is_left_alone(self):
		length, whole = _step_norm(_sgd_trainer())
		_, clipped = _step_norm(_sgd_trainer(gradient_clip=2 * length))
		assert all(torch.equal(a, b) for a, b in zip(whole, clipped, strict=True))

	def test_it_is_the_length_before_scaling_for_float16(self):
		length, _ = _step_norm(_sgd_trainer(dtype="float16"))
		clipped, _ = _step_norm(_sgd_trainer(dtype="float16", gradient_clip=length / 4))
		assert clipped == pytest.approx(length / 4, rel=1e-3)


class TestFloat16:
	@pytest.mark.parametrize("which", ["fconv.bias", "blocks.0.linear1.weight"], ids=["in_adamw", "in_muon"])
	def test_an_overflow_moves_nothing_but_the_scale(self, which):
		model = _model()
		trainer = _trainer(model, dtype="float16")
		before = {name: p.detach().clone() for name, p in model.named_parameters()}
		rates = [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
		scale = trainer.scaler.get_scale()
		hook = model.get_parameter(which).register_hook(lambda gradient: gradient * float("inf"))
		trainer.step(_batch())
		assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
		assert all(torch.equal(s, before[name]) for name, s in trainer.ema.shadow.items())
		assert rates == [optimizer.param_groups[0]["lr"] for optimizer in trainer.optimizers]
		assert (trainer.n_steps, trainer.scaler.get_scale()) == (0, scale / 2)
		hook.remove()
		trainer.step(_batch())
		assert trainer.n_steps == 1
		assert not torch.equal(model.get_parameter(which), before[which])


BLOCK = ("conv_weight", "linear1.weight", "linear2.weight")


class TestFreezing:
	@pytest.mark.parametrize(
		("parts", "names"),
		[
			(["stem"], {"iconv.weight", "iconv.bias"}),
			(["profile_head"], {"fconv.weight", "fconv.bias"}),
			(["count_head"], {"linear.weight", "linear.bias"}),
			(["blocks.1"], {f"blocks.1.{name}" for name in BLOCK}),
			(["blocks.1-2", "blocks.2"], {f"blocks.{i}.{name}" for i in (1, 2) for name in BLOCK}),
			(["blocks"], {f"blocks.{i}.{name}" for i in range(3) for name in BLOCK}),
		],
		ids=["stem", "profile_head", "count_head", "a_block", "ranges", "blocks"],
	)
	def test_parts_and_their_parameters(self, tmp_path, parts, names):
		model = _model()
		by_id = {id(p): name for name, p in model.named_parameters()}
		assert sorted(by_id[id(p)] for p in parameters_of(model, parts)) == sorted(names)
		before = {name: p.detach().clone() for name, p in model.named_parameters()}
		batch = _batch()
		loader = DataLoader(TensorDataset(*batch), batch_size=5, generator=torch.Generator())
		fit(model, loader, tuple(batch[:-1]), name=tmp_path / "run", max_epochs=2, n_warmup_epochs=0, freeze=parts)
		assert {name for name, p in model.named_parameters() if torch.equal(p, before[name])} == names
		assert all(p.requires_grad for p in model.parameters())

	def test_a_block_of_two_digits(self):
		model = _model(n_layers=12, trimming=4200)
		names = {
			name for name, p in model.named_parameters() if any(p is q for q in parameters_of(model, ["blocks.1"]))
		}
		assert all(name.startswith("blocks.1.") for name in names)
		assert len(parameters_of(model, ["blocks.10-11"])) == 6

	def test_their_gradient_is_not_computed_and_no_optimizer_has_them(self):
		model = _model()
		freeze(model, ["stem", "blocks.0-1"])
		trainer = _trainer(model)
		reached = []
		model.blocks[1].register_full_backward_hook(lambda *args: reached.append(1))
		trainer.step(_batch())
		frozen = {id(p) for p in parameters_of(model, ["stem", "blocks.0-1"])}
		assert all(p.grad is None for p in model.parameters() if id(p) in frozen)
		assert not reached
		held = {id(p) for o in trainer.optimizers for group in o.param_groups for p in group["params"]}
		assert held == {id(p) for p in model.parameters()} - frozen
		muon, _ = split_parameters(model)
		assert len(muon) == 2

	@pytest.mark.parametrize(
		("parts", "message"),
		[
			(["trunk"], "freeze has 'trunk', which is no part of the model; choose from stem"),
			(["blocks.3"], "freeze has 'blocks.3', but the blocks are 0 to 2"),
			(["blocks.2-1"], "freeze has 'blocks.2-1'"),
			(["blocks.a"], "no part of the model"),
			(["stem", "blocks", "profile_head", "count_head"], "is all of the model"),
			([], "freeze"),
		],
		ids=["unknown", "too_high", "backwards", "no_number", "everything", "nothing"],
	)
	def test_what_cannot_be_frozen(self, tmp_path, parts, message):
		batch = _batch()
		loader = DataLoader(TensorDataset(*batch), batch_size=5, generator=torch.Generator())
		model = _model()
		with pytest.raises(SettingsError, match=message):
			fit(model, loader, tuple(batch[:-1]), name=tmp_path / "run", freeze=parts)
		assert all(p.requires_grad for p in model.parameters())
		assert not list(tmp_path.iterdir())


class TestBeginning:
	def _saved(self, tmp_path, **kwargs):
		model = _model(random_state=7, **kwargs)
		model.save(tmp_path / "old.torch")
		return model.state_dict()

	def _taken(self, old, model):
		"""The parts whose weights are those of the file, of all the parts."""
		parts = {}
		for name, value in model.state_dict().items():
			same = name in old and old[name].shape == value.shape and torch.equal(old[name], value)
			parts.setdefault(name.split(".")[0], []).append(same)
		return {part for part, same in parts.items() if all(same)}

	ALL = frozenset({"iconv", "blocks", "fconv", "linear", "lw0", "lw1"})

	@pytest.mark.parametrize(
		("old", "new", "heads", "reasons"),
		[
			pytest.param({}, {}, (), [], id="the_same"),
			pytest.param({"trimming": 30}, {}, (), [], id="other_windows"),
			pytest.param({}, {"signal_groups": [1, 2]}, ("fconv", "linear"), ["[1]", "[1, 2]"], id="other_groups"),
			pytest.param(
				{"signal_groups": [2]}, {"signal_groups": [1, 1]}, ("fconv", "linear"), ["[2]"], id="other_nesting"
			),
			pytest.param({}, {"n_control_tracks": 2}, ("fconv", "linear"), ["0 control", "2"], id="with_controls"),
			pytest.param(
				{"n_control_tracks": 1}, {"n_control_tracks": 2}, ("fconv",), ["1 control"], id="more_controls"
			),
			pytest.param(
				{}, {"profile_kernel_size": 7}, ("fconv",), ["profile_kernel_size is 1", "7"], id="wider_profile_head"
			),
		],
	)
	def test_heads_that_do_not_fit_are_made_new(self, tmp_path, old, new, heads, reasons):
		state = self._saved(tmp_path, **old)
		for name in ("lw0", "lw1"):  # both models begin with ones: make a difference
			state[name].fill_(2.0)
		trained = _model(random_state=7, **old)
		trained.load_state_dict(state)
		trained.save(tmp_path / "old.torch")
		model = _model(**new)
		texts = init_from(model, tmp_path / "old.torch")
		missing = set(heads) | ({"lw0", "lw1"} if "linear" in heads else set())
		# Biases of new heads are zero in both models, so a head counts as new by its weight.
		assert self._taken(state, model) & self.ALL == self.ALL - missing
		assert len(texts) == len(heads)
		for reason in reasons:
			assert any(reason in text for text in texts)

	@pytest.mark.parametrize(
		("other", "message"),
		[
			({"n_filters": 6}, "it has n_filters 6, and the new model 4; set n_filters to 6"),
			({"n_layers": 2}, "set n_layers to 2"),
			({"expansion": 3}, "set expansion to 3"),
			({"residual_scale": 0.5}, "set residual_scale to 0.5"),
			({"n_filters": 6, "n_layers": 2}, "2 problems"),
		],
		ids=lambda value: "_".join(value) if isinstance(value, dict) else "",
	)
	def test_another_shape_is_said_with_what_to_set(self, tmp_path, other, message):
		self._saved(tmp_path, **other)
		model = _model()
		before = {name: value.clone() for name, value in model.state_dict().items()}
		with pytest.raises(InputError, match=message):
			init_from(model, tmp_path / "old.torch")
		assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

	@pytest.mark.parametrize("release", ["0.1.0", "0.2.0", "0.3.1"])
	@pytest.mark.parametrize("kind", ["small", "controls", "stranded"])
	def test_a_published_model_is_tuned_saved_and_loaded(self, shared, tmp_path, release, kind):
		path = shared / "fixtures" / "checkpoints" / f"v{release}.{kind}.torch"
		old = Cherimoya.load(path)
		config = {**old.config, "random_state": 0}
		model = Cherimoya(**config)
		assert init_from(model, path) == []
		assert all(torch.equal(value, old.state_dict()[name]) for name, value in model.state_dict().items())
		batch = _batch(4, model=model)
		loader = DataLoader(TensorDataset(*batch), batch_size=4, generator=torch.Generator())
		fit(model, loader, tuple(batch[:-1]), name=tmp_path / "run", max_epochs=1, freeze=["stem"])
		tuned = Cherimoya.load(tmp_path / "run.torch")
		assert tuned.config == model.config
		assert torch.equal(tuned.iconv.weight, old.iconv.weight)
		assert not torch.equal(tuned.linear.weight, old.linear.weight)


class TestPace:
	@pytest.fixture
	def clock(self, monkeypatch):
		clock = SimpleNamespace(now=0.0)
		monkeypatch.setattr("cherimoya.training.monitor.time", SimpleNamespace(monotonic=lambda: clock.now))
		return clock

	def _run(self, clock, n, *, seconds, lines, pace, examples=64):
		for _ in range(n):
			clock.now += seconds
			pace.step(examples)
		return lines

	def test_a_line_early_and_then_one_a_minute(self, clock):
		lines = []
		pace = Pace(lines.append, n_epochs=2, steps_per_epoch=500, n_validation_steps=0, every=60.0)
		self._run(clock, 20, seconds=0.5, lines=lines, pace=pace)
		assert len(lines) == 1
		assert lines[0].startswith("0.5 s per step (128 examples/s), about 4 min 10 s per epoch; all epochs would end")
		self._run(clock, 250, seconds=0.5, lines=lines, pace=pace)
		assert [line.split(";")[0] for line in lines[1:]] == [
			"epoch 0, step 140 of 500: 0.5 s per step, 128 examples/s",
			"epoch 0, step 260 of 500: 0.5 s per step, 128 examples/s",
		]

	def test_validation_does_not_count_as_a_step(self, clock):
		lines = []
		pace = Pace(lines.append, n_epochs=2, steps_per_epoch=100, n_validation_steps=0, every=60.0)
		self._run(clock, 100, seconds=0.5, lines=lines, pace=pace)
		clock.now += 1000
		pace.start_epoch(1, 0)
		self._run(clock, 100, seconds=1.0, lines=lines, pace=pace)
		assert len(lines) == 2
		assert "epoch 1, step 60 of 100: 1 s per step" in lines[1]

	def test_with_a_bar_there_is_one_line(self, clock):
		lines = []
		pace = Pace(lines.append, n_epochs=2, steps_per_epoch=500, n_validation_steps=9, every=None)
		assert len(self._run(clock, 500, seconds=3.0, lines=lines, pace=pace)) == 1

	def test_a_run_that_goes_on_near_the_end_of_an_epoch_tells_its_pace(self, clock):
		lines = []
		pace = Pace(lines.append, n_epochs=4, steps_per_epoch=50, n_validation_steps=0)
		pace.start_epoch(3, 48)
		self._run(clock, 2, seconds=0.1, lines=lines, pace=pace)
		assert len(lines) == 1
