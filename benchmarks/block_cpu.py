"""Speed and memory of the block on the CPU against autograd through its definition.

Every case is first checked against the definition in float64; a wrong result gets no speed. Runs are interleaved, so
that whatever else the machine does falls on both sides alike, and medians are compared::

	python benchmarks/block_cpu.py --threads 2 --json block_cpu.json
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from cherimoya.cheri import fused_dilated_conv_norm
from cherimoya.kernels import cpu, reference

SCALE = 0.15
LIMIT = 1e-5


class Case(NamedTuple):
	"""One operation in both implementations.

	Attributes
	----------
	name: str
	ours, definition: Callable
		From tensors to the output.
	inputs: list[torch.Tensor]
		The tensors, which all require a gradient.
	"""

	name: str
	ours: Callable[..., torch.Tensor]
	definition: Callable[..., torch.Tensor]
	inputs: list[torch.Tensor]


def make_cases(n: int, length: int, channels: int, dilation: int) -> list[Case]:
	"""Conv + norm, and the whole block, at one shape."""
	generator = torch.Generator().manual_seed(0)
	sizes = [(n, length, channels), (3, channels), (2 * channels, channels), (channels, 2 * channels)]
	x, w, w1, w2 = (torch.randn(s, generator=generator) for s in sizes)
	weights = [t.div_(t.shape[-1] ** 0.5).requires_grad_() for t in (w, w1, w2)]
	inputs = [x.requires_grad_(), *weights]
	return [
		Case(
			"conv + norm",
			lambda x, w: fused_dilated_conv_norm(x, w, dilation),
			lambda x, w: reference.conv_norm(x, w, dilation),
			inputs[:2],
		),
		Case(
			"block",
			lambda *a: cpu.Block.apply(*a, dilation, SCALE, reference.EPS),
			lambda *a: reference.block(*a, dilation, SCALE),
			inputs,
		),
	]


def worst_error(case: Case) -> float:
	"""The largest relative error of the output and of every gradient against float64, on two of the examples."""
	inputs = [t.detach()[:2] if t.ndim == 3 else t.detach() for t in case.inputs]
	results = []
	for function, dtype in ((case.ours, torch.float32), (case.definition, torch.float64)):
		leaves = [t.to(dtype).requires_grad_() for t in inputs]
		out = function(*leaves)
		g = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
		results.append([out, *torch.autograd.grad(out, leaves, g.to(dtype))])
	return max(((f.double() - e).norm() / e.norm()).item() for f, e in zip(*results, strict=True))


def saved_bytes(function: Callable[..., torch.Tensor], inputs: list[torch.Tensor]) -> int:
	"""Bytes that the forward keeps for the backward, each storage once."""
	storages: dict[int, int] = {}

	def note(t: torch.Tensor) -> torch.Tensor:
		storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
		return t

	with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
		function(*inputs)
	return sum(storages.values())


def time_case(case: Case, repeats: int, *, backward: bool) -> tuple[list[float], list[float]]:
	"""Seconds of each run of ours and of the definition, taken in turn after one run of each to warm up."""
	g = torch.randn(case.inputs[0].shape, generator=torch.Generator().manual_seed(2))
	seconds: tuple[list[float], list[float]] = ([], [])
	for i in range(repeats + 1):
		for function, times in zip((case.ours, case.definition), seconds, strict=True):
			start = time.perf_counter()
			with torch.set_grad_enabled(backward):
				out = function(*case.inputs)
			if backward:
				torch.autograd.grad(out, case.inputs, g)
			if i:
				times.append(time.perf_counter() - start)
			del out
	return seconds


def main() -> int:
	"""Run every case; exit code 1 if one disagrees with its definition."""
	parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
	parser.add_argument("--shape", type=int, nargs=3, default=(64, 2114, 96), metavar=("N", "L", "C"))
	parser.add_argument("--dilation", type=int, default=16)
	parser.add_argument("--repeats", type=int, default=7)
	parser.add_argument("--threads", type=int, default=torch.get_num_threads())
	parser.add_argument("--json", type=Path, help="also write the results to this file")
	args = parser.parse_args()
	torch.set_num_threads(args.threads)
	rows = []
	print(f"{tuple(args.shape)} float32, dilation {args.dilation}, {args.threads} threads, torch {torch.__version__}")
	print(
		f"{'operation':24}{'ours ms':>10}{'autograd ms':>13}{'ratio':>8}{'error':>10}{'saved MB':>10}{'autograd':>10}"
	)
	for case in make_cases(*args.shape, args.dilation):
		error = worst_error(case)
		if not error <= LIMIT:
			print(f"{case.name}: relative error {error:.1e} is above {LIMIT:.0e}; no speed is given", file=sys.stderr)
			return 1
		saved = [saved_bytes(f, case.inputs) / 1e6 for f in (case.ours, case.definition)]
		for backward in (False, True):
			ours, definition = (1e3 * statistics.median(t) for t in time_case(case, args.repeats, backward=backward))
			row = {
				"operation": case.name + (", with gradients" if backward else ", forward"),
				"ours_ms": ours,
				"autograd_ms": definition,
				"ratio": definition / ours,
				"relative_error": error,
				"saved_mb": saved[0] if backward else 0.0,
				"autograd_saved_mb": saved[1] if backward else 0.0,
			}
			rows.append(row)
			print(
				f"{row['operation']:24}{ours:10.1f}{definition:13.1f}{row['ratio']:8.2f}{error:10.1e}"
				f"{row['saved_mb']:10.1f}{row['autograd_saved_mb']:10.1f}"
			)
	if args.json:
		record = {
			"shape": list(args.shape),
			"dilation": args.dilation,
			"threads": args.threads,
			"repeats": args.repeats,
			"torch": torch.__version__,
			"machine": platform.machine(),
			"results": rows,
		}
		args.json.write_text(json.dumps(record, indent="\t") + "\n")
	return 0


if __name__ == "__main__":
	raise SystemExit(main())
