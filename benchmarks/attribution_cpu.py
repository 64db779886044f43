"""Prediction and attribution on the CPU: this package against the published one, with the same weights.

Both predict the same sequences, and the outputs must agree before any speed is given. Then they take turns, each in
its own process, and medians are compared. The forward pass of the published package runs as it is and through
torch.compile, its default, and the ratio is to the faster of the two; attribution runs as it is::

	python benchmarks/attribution_cpu.py --peer-python /path/to/python --threads 2

The cases are a forward pass (64 sequences of 2114 bp, 96 filters, 9 layers), saturation mutagenesis of 100 bp of a
sequence (the log counts), and DeepLIFT/SHAP of 4 sequences with 20 shuffled references each (the log counts too).
About ten minutes on two idle cores. Results: ``benchmarks/results/attribution_cpu.json``.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _peer import Worker, able, machine, medians, parser, serve, sides, take_turns, write

LENGTH, FILTERS, LAYERS = 2114, 96, 9
SPAN = (1007, 1107)
CHECKPOINT, INPUTS = "model.torch", "inputs.npz"


class Runner:
	"""The tasks of a worker; files go through the folder that it runs in."""

	def __init__(self, *, ours: bool, compiled: bool) -> None:
		self.ours, self.compiled = ours, compiled
		self.model: Any = None
		self.X = torch.empty(0)
		self.references = torch.empty(0)

	def make(self) -> dict[str, Any]:
		"""Write a model of the published package with weights that every base matters to."""
		from cherimoya import Cherimoya

		model = Cherimoya(n_filters=FILTERS, n_layers=LAYERS, random_state=0, compile=False)
		generator = torch.Generator().manual_seed(1)
		with torch.no_grad():
			for name, parameter in model.named_parameters():
				if name.endswith("weight"):
					fan = parameter[0].numel() if parameter.shape[0] != 3 else 3
					parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan**0.5)
		model.save(CHECKPOINT)
		return {}

	def load(self) -> dict[str, Any]:
		"""Load the model and the inputs; the versions."""
		import cherimoya

		self.model = cherimoya.Cherimoya.load(CHECKPOINT, compile=self.compiled).eval()
		arrays = np.load(INPUTS)
		self.X, self.references = (torch.from_numpy(arrays[name]).float() for name in ("X", "references"))
		return {"cherimoya": cherimoya.__version__, "torch": torch.__version__}

	def forward(self, n: int = 64, save: str | None = None) -> dict[str, float]:
		"""Seconds of one forward pass."""
		X = self.X[:n]
		with torch.inference_mode() if not self.compiled else torch.no_grad():
			start = time.perf_counter()
			logits, log_counts = self.model(X)
			seconds = time.perf_counter() - start
		if save:
			np.savez(save, logits=logits.numpy(), log_counts=log_counts.numpy())
		return {"seconds": seconds}

	def saturation_mutagenesis(self, width: int = SPAN[1] - SPAN[0], save: str | None = None) -> dict[str, float]:
		"""Seconds for `width` bases of one sequence; the scores are centred over bases."""
		X, start, end = self.X[:1], SPAN[0], SPAN[0] + width
		begun = time.perf_counter()
		if self.ours:
			from cherimoya.interpret import saturation_mutagenesis

			scores = saturation_mutagenesis(self.model, X, start=start, end=end)
		else:
			from tangermeme.saturation_mutagenesis import saturation_mutagenesis

			from cherimoya import ControlWrapper, LogCountWrapper

			wrapped = LogCountWrapper(ControlWrapper(self.model))
			scores = saturation_mutagenesis(
				wrapped, X, start=start, end=end, batch_size=64, device="cpu", hypothetical=True
			)
		seconds = time.perf_counter() - begun
		if save:
			scores = scores - scores.mean(dim=1, keepdim=True)
			np.savez(save, scores=scores[..., start:end].numpy() if scores.shape[-1] == LENGTH else scores.numpy())
		return {"seconds": seconds}

	def deep_lift_shap(self, n: int = 4, shuffles: int = 20, save: str | None = None) -> dict[str, float]:
		"""Seconds for n sequences with the given references of each."""
		X, references = self.X[:n], self.references[:n, :shuffles]
		begun = time.perf_counter()
		if self.ours:
			from cherimoya.interpret.deep_lift_shap import deep_lift_shap

			scores = deep_lift_shap(self.model, X, references=references, hypothetical=True)
		else:
			from cherimoya.deep_lift_shap import deep_lift_shap

			scores = deep_lift_shap(
				self.model, X, references=references, hypothetical=True, device="cpu", warning_threshold=None
			)
		seconds = time.perf_counter() - begun
		if save:
			np.savez(save, scores=scores.numpy())
		return {"seconds": seconds}


def write_inputs(path: Path) -> None:
	"""Random sequences, and references that are shuffles of the first four."""
	rng = np.random.default_rng(0)
	codes = rng.integers(0, 4, (64, LENGTH))
	shuffled = np.stack([[rng.permutation(row) for _ in range(20)] for row in codes[:4]])
	bases = np.arange(4)
	np.savez(
		path,
		X=(codes[:, None] == bases[:, None]).astype(np.int8),  # (n, L) -> (n, 4, L)
		references=(shuffled[:, :, None] == bases[:, None]).astype(np.int8),  # (n, k, L) -> (n, k, 4, L)
	)


CASES = (
	# task, arguments of the check of agreement, limit of the relative error, whether the peer can be compiled
	("forward", {"n": 8}, 1e-4, True),
	("saturation_mutagenesis", {"width": 8}, 1e-3, False),
	("deep_lift_shap", {"n": 1, "shuffles": 4}, 1e-3, False),
)


def worst_error(folder: Path, ours: str, peer: str) -> float:
	"""The largest relative error ‖ours − peer‖ / ‖peer‖ over the arrays of two files."""
	a, b = np.load(folder / ours), np.load(folder / peer)
	return max(float(np.linalg.norm(a[k].astype(float) - b[k]) / np.linalg.norm(b[k].astype(float))) for k in b)


def compare(workers: list[Worker], folder: Path, rounds: int, cases: list[str]) -> list[dict[str, Any]]:
	"""Check and measure every case; RuntimeError where outputs disagree."""
	rows = []
	for task, arguments, limit, compilable in (case for case in CASES if case[0] in cases):
		taking_part = []
		errors = []
		for worker in (w for w in workers if compilable or not w.side.compiled):  # this compiles too
			if not able([worker], task, save=f"{worker.side.name}.npz", **arguments):
				continue
			taking_part.append(worker)
			if worker.side.name != "ours":
				errors.append(worst_error(folder, "ours.npz", f"{worker.side.name}.npz"))
		if not max(errors) <= limit:
			raise RuntimeError(f"{task}: relative error {max(errors):.1e} is above {limit:.0e}; no speed is given")
		if task == "forward":  # at the measured shape, which is compiled for itself
			taking_part = able(taking_part, task)
		turns = take_turns(taking_part, task, rounds if task == "forward" else min(rounds, 3))
		seconds = {side: values["seconds"] for side, values in medians(turns).items()}
		peer = min(value for side, value in seconds.items() if side != "ours")
		row = {"case": task, "seconds": seconds, "ratio": peer / seconds["ours"], "relative_error": max(errors)}
		rows.append({**row, "rounds": {side: values["seconds"] for side, values in turns.items()}})
		shown = "".join(f"{side}: {value:.2f} s   " for side, value in seconds.items())
		print(f"{task:24}{shown}ratio {row['ratio']:.2f}, relative error {row['relative_error']:.1e}", flush=True)
	return rows


def main() -> int:
	"""Run every case; exit code 1 if the packages disagree."""
	names = [case[0] for case in CASES]
	options = parser(__doc__, "attribution_cpu.json")
	options.add_argument("--cases", nargs="+", choices=names, default=names, help="default: all")
	args = options.parse_args()
	torch.set_num_threads(args.threads)
	if args.worker:
		runner = Runner(ours=args.worker == "ours", compiled=args.worker.endswith("compiled"))
		serve({name: getattr(runner, name) for name in ("make", "load", *names)})
		return 0
	if not args.peer_python:
		options.error("--peer-python is required: a Python that has the published package")
	with tempfile.TemporaryDirectory() as name:
		folder = Path(name)
		write_inputs(folder / INPUTS)
		started = [
			Worker(side, __file__, threads=args.threads, folder=folder)
			for side in sides(args.peer_python, compiled=not args.no_compile)
		]
		try:
			started[1].ask("make")
			versions = {worker.side.name: worker.ask("load") for worker in started}
			rows = compare(started, folder, args.rounds, args.cases)
		except RuntimeError as error:
			print(error, file=sys.stderr)
			return 1
		finally:
			for worker in started:
				worker.__exit__()
	versions = {f"{side}_{key}": value for side, found in versions.items() for key, value in found.items()}
	shape = {"shape": [64, 4, LENGTH], "filters": FILTERS, "layers": LAYERS}
	write(args.json, {"machine": machine(args.threads, versions), **shape, "results": rows})
	return 0


if __name__ == "__main__":
	raise SystemExit(main())
