"""Going on with a run: after a stop at any step, a kill at any moment, a full disk, and what may have changed."""

import csv
import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from cherimoya import Cherimoya
from cherimoya.errors import InputError, Interrupted, ToolError
from cherimoya.io.sampler import EpochBatchSampler, PeakNegativeSampler, collate
from cherimoya.training import fit
from cherimoya.training import state as states
from cherimoya.training.monitor import COLUMNS

OUT, TRIMMING, JITTER = 24, 20, 4
WIDTH = OUT + 2 * TRIMMING
N_STEPS, N_VALIDATION = 3, 2  # batches of an epoch of `_loader`, and of `_validation`
TIMES = {"Training Time", "Validation Time"}


@pytest.fixture(autouse=True)
def one_thread():
	"""The models are too small to gain from more."""
	before = torch.get_num_threads()
	torch.set_num_threads(1)
	yield
	torch.set_num_threads(before)


def _model(**kwargs):
	return Cherimoya(**{"n_filters": 4, "n_layers": 2, "trimming": TRIMMING, "random_state": 0, **kwargs})


def _arrays(n, width, seed):
	generator = torch.Generator().manual_seed(seed)
	X = torch.nn.functional.one_hot(torch.randint(0, 4, (n, width), generator=generator), 4).transpose(1, 2).float()
	return X, torch.poisson(torch.full((n, 1, width - 2 * TRIMMING), 0.7), generator=generator)


def _loader(*, seed=5, batch_size=8):
	"""Jittered peaks and negatives, as `cherimoya.io.PeakGenerator` serves them: the loader can be told the epoch."""
	sampler = PeakNegativeSampler(
		*_arrays(16, WIDTH + 2 * JITTER, 1),
		*_arrays(10, WIDTH, 2),
		negative_ratio=0.25,
		in_window=WIDTH,
		out_window=OUT,
		max_jitter=JITTER,
		reverse_complement=True,
		random_state=seed,
	)
	batches = EpochBatchSampler(sampler, batch_size)
	return DataLoader(sampler, batch_sampler=batches, collate_fn=collate, generator=torch.Generator())


def _validation():
	return _arrays(12, WIDTH, 3)


def _fit(folder, *, model=None, loader=None, name="run", **options):
	folder.mkdir(exist_ok=True)
	options = {"max_epochs": 3, "n_warmup_epochs": 1, "batch_size": 8, "adam_lr": 0.02, **options}
	model = _model() if model is None else model
	return fit(model, _loader() if loader is None else loader, _validation(), name=folder / name, **options)


class StopAfter:
	"""Says stop at the n-th question and ever after."""

	def __init__(self, n):
		self.left = n

	def __call__(self):
		self.left -= 1
		return self.left < 0


def _untimed(path):
	"""A log without its times."""
	with open(path, encoding="utf-8") as file:
		return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file, delimiter="\t")]


def _results(folder, name="run"):
	"""All that a run must end with, bit by bit."""
	weights = {which: (folder / f"{name}{which}").read_bytes() for which in (".torch", ".final.torch")}
	return weights | {which: _untimed(folder / f"{name}{which}") for which in (".log", ".detailed.log")}


OPTIONS = {
	"plain": {},
	"fixed loss weights": {"loss_weights": (0.1, 1.0), "select_on": "loss"},
	"16 bits, clipped, in parts": {"dtype": "float16", "gradient_clip": 5.0, "gradient_accumulation": 3},
	"frozen parts": {"freeze": ["stem", "blocks.1", "count_head"]},
	"early stop": {"max_epochs": 6, "early_stopping": 1, "select_on": "count_mse", "adam_lr": 1e-9, "muon_lr": 1e-9},
}


class TestStops:
	@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
	def test_a_run_stopped_anywhere_ends_as_if_it_had_not_been(self, tmp_path, options):
		history = _fit(tmp_path / "whole", **options)
		expected = _results(tmp_path / "whole")
		for n in range(2 * (N_STEPS + N_VALIDATION)):
			folder = tmp_path / str(n)
			with pytest.raises(Interrupted, match=r"can go on from epoch \d.*run\.checkpoint"):
				_fit(folder, stop=StopAfter(n), **options)
			resumed = _fit(folder, resume=True, **options)
			assert _results(folder) == expected
			assert (resumed.best_epoch, resumed.n_steps) == (history.best_epoch, history.n_steps)
			assert resumed.stopped_early == history.stopped_early

	def test_a_stop_after_every_step(self, tmp_path):
		_fit(tmp_path / "whole")
		for _ in range(3 * (N_STEPS + N_VALIDATION)):
			try:
				_fit(tmp_path / "often", resume="auto", stop=StopAfter(0))
			except Interrupted:
				continue
			break
		# Validation is begun again each time, so it must be let through.
		_fit(tmp_path / "often", resume="auto")
		assert _results(tmp_path / "often") == _results(tmp_path / "whole")

	@pytest.mark.parametrize("owns_generator", [True, False], ids=["own_generator", "global_generator"])
	def test_a_shuffled_loader_of_another_kind(self, tmp_path, owns_generator):
		X, y = _arrays(20, WIDTH, 1)

		def loader():
			torch.manual_seed(3)
			generator = torch.Generator().manual_seed(4) if owns_generator else None
			labels = torch.ones(20, dtype=torch.long)
			return DataLoader(TensorDataset(X, y, labels), batch_size=8, shuffle=True, generator=generator)

		_fit(tmp_path / "whole", loader=loader())
		for n in range(1, N_STEPS + N_VALIDATION + 2):
			with pytest.raises(Interrupted):
				_fit(tmp_path / str(n), loader=loader(), stop=StopAfter(n))
			_fit(tmp_path / str(n), loader=loader(), resume=True)
			assert _results(tmp_path / str(n)) == _results(tmp_path / "whole")

	def test_a_worker_that_dies_with_the_stop_is_no_error(self, tmp_path):
		loader = _loader()

		class Dying:
			"""A loader whose workers are gone after the first batch of the second epoch."""

			dataset, batch_sampler, epoch = loader.dataset, loader.batch_sampler, -1

			def __len__(self):
				return len(loader)

			def __iter__(self):
				self.epoch += 1
				for i, batch in enumerate(loader):
					if (self.epoch, i) == (1, 1):
						asked.append(True)
						raise RuntimeError("DataLoader worker (pid 7) exited unexpectedly")
					yield batch

		asked = []
		with pytest.raises(Interrupted, match="where it was last saved"):
			_fit(tmp_path / "cut", loader=Dying(), stop=lambda: bool(asked))
		_fit(tmp_path / "cut", resume=True)
		_fit(tmp_path / "whole")
		assert _results(tmp_path / "cut") == _results(tmp_path / "whole")


class TestState:
	def test_it_is_read_without_running_anything(self, tmp_path):
		_fit(tmp_path)
		state = torch.load(tmp_path / "run.checkpoint", weights_only=True)
		assert state["finished"] and len(state["progress"]["rows"]) == 3
		assert state["environment"]["threads"] == 1
		assert state["environment"]["torch"] == torch.__version__

	def test_nothing_else_is_left(self, tmp_path):
		_fit(tmp_path)
		suffixes = ("checkpoint", "detailed.log", "final.torch", "log", "torch")
		assert sorted(path.name for path in tmp_path.iterdir()) == [f"run.{suffix}" for suffix in suffixes]

	def test_a_run_that_has_ended_is_not_trained_again_and_its_files_are_mended(self, tmp_path):
		first = _fit(tmp_path)
		before, lines = _results(tmp_path), []
		(tmp_path / "run.torch").unlink()
		(tmp_path / "run.final.torch").write_bytes(b"damaged")
		(tmp_path / "run.log").write_text("damaged")
		model = _model()
		again = _fit(tmp_path, model=model, resume="auto", progress=lines.append)
		assert _results(tmp_path) == before
		assert again.rows == first.rows
		assert again.best_score == first.best_score
		assert any("which ended after epoch 2: there is nothing to train" in line for line in lines)
		best = Cherimoya.load(tmp_path / "run.torch").state_dict()
		assert all(torch.equal(value, best[key]) for key, value in model.state_dict().items())

	def test_without_resume_it_begins_anew(self, tmp_path):
		_fit(tmp_path)
		assert _fit(tmp_path, max_epochs=1).n_steps == N_STEPS

	def test_another_number_of_threads_is_told(self, tmp_path):
		with pytest.raises(Interrupted):
			_fit(tmp_path, stop=StopAfter(1))
		torch.set_num_threads(2)
		lines = []
		_fit(tmp_path, resume=True, progress=lines.append)
		assert "threads was 1, is 2: the results will be equal to rounding, not bit by bit" in lines[0]

	def test_leftovers_of_a_killed_process_are_removed(self, tmp_path):
		gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
		leftover = tmp_path / f".run.checkpoint.{gone.stdout.strip()}.tmp"
		mine, other = tmp_path / f".run.checkpoint.{os.getpid()}.tmp", tmp_path / ".other.checkpoint.1.tmp"
		for path in (leftover, mine, other):
			path.write_bytes(b"half")
		states.remove_leftovers([tmp_path / "run.checkpoint"])
		assert not leftover.exists() and mine.exists() and other.exists()


CHANGES = {
	"an option": ({"adam_lr": 0.03}, "adam_lr was 0.02, is 0.03"),
	"the model's shape": ({"model": lambda: _model(n_filters=6)}, "n_filters was 4, is 6"),
	"the first weights": ({"model": lambda: _model(random_state=1)}, "other first weights"),
	"the seed of the data": ({"loader": lambda: _loader(seed=6)}, "other training data"),
	"the batches": ({"loader": lambda: _loader(batch_size=4)}, "training steps per epoch was 3, is 5"),
	"the caller's own": ({"identity": {"genome": "hg19"}}, 'genome was "hg38", is "hg19"'),
}


class TestOtherRuns:
	@pytest.fixture
	def interrupted(self, tmp_path):
		with pytest.raises(Interrupted):
			_fit(tmp_path, identity={"genome": "hg38"}, stop=StopAfter(7))
		return tmp_path

	@staticmethod
	def _options(changes):
		made = {key: value() if callable(value) else value for key, value in changes.items()}
		return {"identity": {"genome": "hg38"}, **made}

	@pytest.mark.parametrize(("changes", "text"), CHANGES.values(), ids=CHANGES.keys())
	def test_true_refuses_and_keeps_everything(self, interrupted, changes, text):
		before = {path.name: path.read_bytes() for path in interrupted.iterdir()}
		with pytest.raises(InputError, match=r"run\.checkpoint: of another run: .*set resume to false") as error:
			_fit(interrupted, resume=True, **self._options(changes))
		assert text in str(error.value)
		assert {path.name: path.read_bytes() for path in interrupted.iterdir()} == before

	@pytest.mark.parametrize(("changes", "text"), CHANGES.values(), ids=CHANGES.keys())
	def test_auto_begins_anew_and_keeps_the_state_aside(self, interrupted, tmp_path, changes, text):
		lines, state = [], (interrupted / "run.checkpoint").read_bytes()
		history = _fit(interrupted, resume="auto", progress=lines.append, **self._options(changes))
		assert text in lines[0] and "Training anew" in lines[0]
		assert history.resumed_at is None
		assert (interrupted / "run.previous.checkpoint").read_bytes() == state
		_fit(tmp_path / "fresh", **self._options(changes))
		assert _results(interrupted) == _results(tmp_path / "fresh")

	def test_true_goes_on_with_more_epochs_at_the_new_rates(self, tmp_path):
		_fit(tmp_path, max_epochs=2)
		seen, lines = [], []

		class Recorder(torch.optim.AdamW):
			def step(self, *args):
				seen.append(self.param_groups[0]["lr"])
				return super().step(*args)

		from cherimoya.training import TrainingOptions, build_optimizers, build_schedulers

		model = _model()
		muon, adam = build_optimizers(model, TrainingOptions(adam_lr=0.02))
		adam.__class__ = Recorder
		history = _fit(tmp_path, model=model, optimizers=(muon, adam), max_epochs=5, resume=True, progress=lines.append)
		assert (history.resumed_at, len(history.rows), history.n_steps) == (2, 5, 5 * N_STEPS)
		assert "max_epochs was 2, is 5" in lines[0]
		options = TrainingOptions(adam_lr=0.02, n_warmup_epochs=1, max_epochs=5)
		fresh = build_optimizers(_model(), options)
		schedule = build_schedulers(fresh, options, n_epochs=5, steps_per_epoch=N_STEPS)[1]
		rates = [0.02 * schedule.lr_lambdas[0](step) for step in range(2 * N_STEPS, 5 * N_STEPS)]
		assert seen == pytest.approx(rates, rel=1e-12)

	def test_fewer_epochs_than_are_done_do_not_fit(self, tmp_path):
		_fit(tmp_path, max_epochs=3)
		with pytest.raises(InputError, match="3 epochs are done, and 2 planned"):
			_fit(tmp_path, max_epochs=2, resume=True)

	@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"text"], ids=["empty", "cut", "text"])
	def test_a_damaged_state(self, tmp_path, content):
		(tmp_path / "run.checkpoint").write_bytes(content)
		with pytest.raises(InputError, match=r"run\.checkpoint: not a readable checkpoint"):
			_fit(tmp_path, resume=True)
		lines = []
		assert _fit(tmp_path, resume="auto", progress=lines.append).resumed_at is None
		assert "not a readable checkpoint" in lines[0] and "Training anew" in lines[0]

	def test_a_model_file_is_no_state(self, tmp_path):
		_model().save(tmp_path / "run.checkpoint")
		with pytest.raises(InputError, match="not the state of a training run"):
			_fit(tmp_path, resume=True)


class TestFailures:
	def test_after_a_loss_that_is_not_finite_the_last_good_epoch_is_there(self, tmp_path):
		model = _model()

		def spoil(text):
			if text.startswith("epoch 0 of"):
				model.linear.bias.data.fill_(float("nan"))

		with pytest.raises(ToolError, match=r"not finite at step 3 \(epoch 1, batch 0\)"):
			_fit(tmp_path, model=model, progress=spoil)
		_fit(tmp_path, resume=True)
		_fit(tmp_path / "whole")
		assert _results(tmp_path) == _results(tmp_path / "whole")

	@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on the size of files")
	@pytest.mark.parametrize("limit", [0, 1, 1000, 4096, 20_000])
	def test_a_full_disk_keeps_the_state_before(self, tmp_path, limit):
		with pytest.raises(Interrupted):
			_fit(tmp_path, stop=StopAfter(N_STEPS + N_VALIDATION + 1))
		before = (tmp_path / "run.checkpoint").read_bytes()
		assert limit < len(before)
		soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
		resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
		try:
			with pytest.raises(InputError, match=r"run\..*cannot be written.*check that.* the disk is not full"):
				_fit(tmp_path, resume=True)
		finally:
			resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
		assert (tmp_path / "run.checkpoint").read_bytes() == before
		assert not list(tmp_path.glob(".*"))
		_fit(tmp_path, resume=True)
		_fit(tmp_path / "whole")
		assert _results(tmp_path) == _results(tmp_path / "whole")

	def test_a_log_that_cannot_be_written(self, tmp_path):
		(tmp_path / "run.log").mkdir()
		with pytest.raises(InputError, match=r"run\.log: cannot be written"):
			_fit(tmp_path)


DRIVER = """
import os, random, signal, sys, time
from pathlib import Path

import torch
import torch._dynamo  # which optimizers import: once, here, rather than in each process

torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
import test_resume as t

folder, kind, seed, n = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
rng = random.Random(seed)


def die_in(place, nth):
	'''Kill this process at the nth call of a function of os.'''
	call, left = getattr(os, place), [nth]

	def dying(*args, **kwargs):
		left[0] -= 1
		if left[0] < 0:
			os.kill(os.getpid(), signal.SIGKILL)
		return call(*args, **kwargs)

	setattr(os, place, dying)


def child(where, prepare):
	'''Run fit in a process of its own; its pid.'''
	pid = os.fork()
	if pid:
		return pid
	prepare()
	t._fit(where, resume='auto', max_epochs=4)
	os._exit(0)


def go(where, prepare=lambda: None, delay=None):
	'''Whether the run came to its end.'''
	pid = child(where, prepare)
	status = None
	if delay is not None:
		give_up = time.monotonic() + delay
		while status is None and time.monotonic() < give_up:
			time.sleep(0.002)
			gone, code = os.waitpid(pid, os.WNOHANG)
			status = code if gone else None
		if status is None:
			os.kill(pid, signal.SIGKILL)
	if status is None:
		_, status = os.waitpid(pid, 0)
	if status not in (0, signal.SIGKILL):
		sys.exit(f'the run ended with {status}')
	return status == 0


whole = folder / 'whole'
start = time.monotonic()
assert go(whole)
length = time.monotonic() - start
expected = t._results(whole)
kills = runs = 0
while kills < n:
	where = folder / str(runs)
	runs += 1
	if kind == 'writing':
		ended = go(where, lambda: die_in(rng.choice(['replace', 'fsync']), kills))
		kills += 1
	else:
		ended = False
		while not ended and kills < n:
			began = time.monotonic()
			ended = go(where, delay=rng.uniform(0, length))
			kills += not ended
			if ended:  # a machine that was slow at first may be faster now
				length = min(length, time.monotonic() - began)
	while not ended:
		ended = go(where)
	assert t._results(where) == expected, where
	assert not [p.name for p in where.glob('.*.tmp')]
print(kills)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
	("kind", "n"),
	[
		pytest.param("writing", 6, id="while_writing"),
		pytest.param("anywhere", 3, id="anywhere"),
		pytest.param("writing", 25, id="while_writing_25_times", marks=pytest.mark.slow),
		pytest.param("anywhere", 25, id="anywhere_25_times", marks=pytest.mark.slow),
	],
)
def test_a_run_that_is_killed_ends_as_if_it_had_not_been(tmp_path, kind, n):
	seed = random.SystemRandom().randrange(2**31)
	command = [sys.executable, "-c", DRIVER, str(Path(__file__).parent), str(tmp_path), kind, str(seed), str(n)]
	done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
	assert done.returncode == 0, f"seed {seed}: {done.stderr}"
	assert int(done.stdout) >= n


def test_columns_of_time_are_the_only_ones_that_may_differ():
	assert set(COLUMNS) > TIMES
	assert json.dumps(sorted(TIMES)) == '["Training Time", "Validation Time"]'
