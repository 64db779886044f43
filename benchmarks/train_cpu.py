"""A training step on the CPU, part by part: this package against the published one.

Both start from the same weights and see the same batches; losses and gradients of the first one must agree before any
speed is given. Then they take turns, each in its own process, and medians are compared. The published package runs as
it is and through torch.compile, its default, and the ratio is to the faster of the two::

	python benchmarks/train_cpu.py --peer-python /path/to/python --threads 2

A step is what `fit` does with a batch (64 loci of 2114 bp, 96 filters, 9 layers): take it from the sampler (peaks and
negatives, jitter, reverse complements), forward and loss, backward, every optimizer, and the average of the weights.
Memory is the resident set of the process, at its largest during the steps and before the first of them. About ten
minutes on two idle cores. Results: ``benchmarks/results/train_cpu.json``.
"""

import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _peer import Side, Worker, able, machine, medians, parser, serve, sides, take_turns, write

LENGTH, WINDOW, JITTER, FILTERS, LAYERS, BATCH = 2114, 1000, 50, 96, 9, 64
N_PEAKS, N_NEGATIVES = 192, 64
CHECKPOINT, DATA = "model.torch", "data.npz"
PARTS = ("data", "forward", "backward", "optimizers", "average")
LIMIT = 1e-3


class Runner:
	"""The tasks of a worker; files go through the folder that it runs in."""

	def __init__(self, *, ours: bool, compiled: bool) -> None:
		self.ours, self.compiled = ours, compiled

	def make(self) -> dict[str, Any]:
		"""Write a new model of the published package."""
		from cherimoya import Cherimoya

		Cherimoya(n_filters=FILTERS, n_layers=LAYERS, random_state=0, compile=False).save(CHECKPOINT)
		return {}

	def load(self) -> dict[str, Any]:
		"""Build model, sampler and optimizers as `fit` does; the versions."""
		import cherimoya
		from cherimoya.io import PeakNegativeSampler

		arrays = {name: torch.from_numpy(array) for name, array in np.load(DATA).items()}
		if not self.ours:  # it takes one-hot sequences, which its loader keeps as bytes
			for name in ("peak_sequences", "negative_sequences"):
				codes = arrays[name].long()
				arrays[name] = torch.nn.functional.one_hot(codes, 4).transpose(1, 2).to(torch.int8).contiguous()
		settings = {"negative_ratio": 0.1, "max_jitter": JITTER, "reverse_complement": True, "random_state": 0}
		self.sampler = PeakNegativeSampler(**arrays, in_window=LENGTH, out_window=WINDOW, **settings)
		self.model = cherimoya.Cherimoya.load(CHECKPOINT, compile=self.compiled).train()
		self.ema = cherimoya.EMA(self.model)
		self.optimizers = self._our_optimizers() if self.ours else self._peer_optimizers()
		self.batches = iter(())
		return {"cherimoya": cherimoya.__version__, "torch": torch.__version__}

	def _our_optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
		from cherimoya.training import TrainingOptions, build_optimizers

		return build_optimizers(self.model, TrainingOptions())

	def _peer_optimizers(self) -> tuple[torch.optim.Optimizer, ...]:
		"""The three that its documentation names, with its default rates."""
		named = dict(self.model.named_parameters())
		muon = [n for n in named if n.startswith("blocks.") and n.endswith(("linear1.weight", "linear2.weight"))]
		adam = [n for n in named if n not in muon and n not in ("lw0", "lw1")]
		return (
			torch.optim.Muon([named[n] for n in muon], lr=0.025, weight_decay=0.03),
			torch.optim.AdamW([named[n] for n in adam], lr=0.001, weight_decay=0.0),
			torch.optim.SGD([self.model.lw0, self.model.lw1], lr=0.001, momentum=0.9),
		)

	def _loader(self) -> Any:
		"""Whole batches of the sampler, made in this process."""
		if not self.ours:
			from cherimoya.io import ShardedEpochSampler

			order = ShardedEpochSampler(len(self.sampler), BATCH)
			return torch.utils.data.DataLoader(self.sampler, batch_size=BATCH, sampler=order, drop_last=True)
		from cherimoya.io.sampler import EpochBatchSampler, collate

		order = EpochBatchSampler(self.sampler, BATCH)
		return torch.utils.data.DataLoader(self.sampler, batch_sampler=order, collate_fn=collate)

	def _batch(self) -> list[torch.Tensor]:
		"""The next batch of 64; the partial one that ends an epoch is passed over."""
		while True:
			batch = next(self.batches, None)
			if batch is None:
				self.batches = iter(self._loader())
			elif len(batch[0]) == BATCH:
				return list(batch)

	def _loss(self, batch: list[torch.Tensor]) -> torch.Tensor:
		"""The training loss with learned weights."""
		from cherimoya.losses import _mixture_loss

		X, y, labels = batch
		logits, log_counts = self.model(X.float())
		groups = list(self.model.signal_groups)
		profile, count = _mixture_loss(y, logits, log_counts, labels=labels, signal_groups=groups)
		lw0, lw1 = self.model.lw0, self.model.lw1
		loss = (profile / (2 * lw0**2)).sum() + (count / (2 * lw1**2)).sum()
		return loss + (torch.log(lw0) ** 2).sum() + (torch.log(lw1) ** 2).sum()

	def agree(self, save: str) -> dict[str, Any]:
		"""Write loss and gradients of a fixed batch; no weight moves."""
		arrays = np.load(DATA)
		codes = torch.from_numpy(arrays["negative_sequences"][:8]).long()
		X = torch.nn.functional.one_hot(codes, 4).transpose(1, 2).float()  # (n, L) -> (n, 4, L)
		y, labels = torch.from_numpy(arrays["negative_signals"][:8]), torch.ones(8, dtype=torch.long)
		loss = self._loss([X, y, labels])
		loss.backward()
		named = self.model.named_parameters()
		gradients = {n.replace(".conv.", "."): p.grad.numpy().copy() for n, p in named if p.grad is not None}
		np.savez(save, loss=loss.item(), **gradients)
		self.model.zero_grad(set_to_none=True)
		return {"baseline_mb": _resident_mb()}

	def step(self) -> dict[str, float]:
		"""One step; seconds of each part."""
		times = [time.perf_counter()]

		def lap() -> None:
			times.append(time.perf_counter())

		batch = self._batch()
		lap()
		for optimizer in self.optimizers:
			optimizer.zero_grad(set_to_none=True)
		loss = self._loss(batch)
		lap()
		loss.backward()
		lap()
		for optimizer in self.optimizers:
			optimizer.step()
		lap()
		self.ema.update(self.model)
		lap()
		seconds = {name: b - a for name, a, b in zip(PARTS, times[:-1], times[1:], strict=True)}
		return {**seconds, "step": times[-1] - times[0]}

	def memory(self) -> dict[str, float]:
		"""The largest resident set since the process began, in MB."""
		unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
		return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6}


def _resident_mb() -> float:
	"""The resident set now, in MB; not a number where the system does not tell."""
	status = Path("/proc/self/statm")
	return int(status.read_text().split()[1]) * resource.getpagesize() / 1e6 if status.is_file() else float("nan")


def write_data(path: Path) -> None:
	"""Random loci with counts that are larger in the middle."""
	rng = np.random.default_rng(0)
	arrays = {}
	for name, n, spare in (("peak", N_PEAKS, 2 * JITTER), ("negative", N_NEGATIVES, 0)):
		arrays[f"{name}_sequences"] = rng.integers(0, 4, (n, LENGTH + spare)).astype(np.uint8)
		shape = np.exp(-(np.linspace(-3, 3, WINDOW + spare) ** 2))
		arrays[f"{name}_signals"] = rng.poisson(shape, (n, 1, WINDOW + spare)).astype(np.float32)
	np.savez(path, **arrays)


def disagreement(a: Path, b: Path) -> float:
	"""The larger of the relative errors of the loss and of all gradients as one vector, ‖a − b‖ / ‖b‖.

	Some gradients are zero but for rounding, such as that of a bias under a softmax, and have no relative error.
	"""
	ours, peer = np.load(a), np.load(b)
	loss = abs(float(ours["loss"]) / float(peer["loss"]) - 1)
	names = [name for name in peer if name != "loss"]
	difference = sum(float(np.square(ours[k].astype(float) - peer[k]).sum()) for k in names)
	return max(loss, (difference / sum(float(np.square(peer[k].astype(float)).sum()) for k in names)) ** 0.5)


def measure(workers: list[Worker], folder: Path, rounds: int) -> dict[str, Any]:
	"""Check and measure; RuntimeError where the packages disagree."""
	workers = able(workers, "agree", save="unused.npz")  # compiles too
	baseline = {w.side.name: w.ask("agree", save=f"{w.side.name}.npz")["baseline_mb"] for w in workers}
	errors = [disagreement(folder / "ours.npz", folder / f"{w.side.name}.npz") for w in workers[1:]]
	if not max(errors) <= LIMIT:
		raise RuntimeError(
			f"the relative error of a gradient is {max(errors):.1e}, above {LIMIT:.0e}; no speed is given"
		)
	workers = able(workers, "step")  # the warm-up
	turns = take_turns(workers, "step", rounds)
	memory = {w.side.name: {"baseline_mb": baseline[w.side.name], **w.ask("memory")} for w in workers}
	seconds = medians(turns)
	others = [w.side.name for w in workers[1:]]
	fastest = min(others, key=lambda side: seconds[side]["step"])
	return {
		"seconds": seconds,
		"ratio": seconds[fastest]["step"] / seconds["ours"]["step"],
		"memory": memory,
		"memory_ratio": memory["ours"]["peak_mb"] / min(memory[side]["peak_mb"] for side in others),
		"relative_error": max(errors),
		"rounds": turns,
	}


def show(result: dict[str, Any]) -> None:
	"""The results as a table."""
	names = list(result["seconds"])
	print("".join(f"{name:>16}" for name in ("seconds", *names)))
	for part in (*PARTS, "step"):
		print(f"{part:>16}" + "".join(f"{result['seconds'][name][part]:16.3f}" for name in names))
	for kind in ("baseline_mb", "peak_mb"):
		print(f"{kind:>16}" + "".join(f"{result['memory'][name][kind]:16.0f}" for name in names))
	print(f"{result['ratio']:.2f} times as fast, {result['memory_ratio']:.2f} of the memory")


def main() -> int:
	"""Measure a step; exit code 1 if the packages disagree."""
	options = parser(__doc__, "train_cpu.json")
	args = options.parse_args()
	torch.set_num_threads(args.threads)
	if args.worker:
		runner = Runner(ours=args.worker == "ours", compiled=args.worker.endswith("compiled"))
		serve({name: getattr(runner, name) for name in ("make", "load", "agree", "step", "memory")})
		return 0
	if not args.peer_python:
		options.error("--peer-python is required: a Python that has the published package")
	with tempfile.TemporaryDirectory() as name:
		folder = Path(name)
		write_data(folder / DATA)
		with Worker(Side("peer", args.peer_python), __file__, threads=args.threads, folder=folder) as maker:
			maker.ask("make")
		started = [
			Worker(side, __file__, threads=args.threads, folder=folder)
			for side in sides(args.peer_python, compiled=not args.no_compile)
		]
		try:
			versions = {worker.side.name: worker.ask("load") for worker in started}
			result = measure(started, folder, args.rounds)
		except RuntimeError as error:
			print(error, file=sys.stderr)
			return 1
		finally:
			for worker in started:
				worker.__exit__()
	show(result)
	versions = {f"{side}_{key}": value for side, found in versions.items() for key, value in found.items()}
	shape = {"shape": [BATCH, 4, LENGTH], "filters": FILTERS, "layers": LAYERS}
	write(args.json, {"machine": machine(args.threads, versions), **shape, **result})
	return 0


if __name__ == "__main__":
	raise SystemExit(main())
