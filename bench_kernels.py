"""Speed of the GPU kernels, after a gate: a path that disagrees with its definition in float64 gets no speed.

Medians over runs with a cold L2, timed by CUDA events; bytes are those of the tensors that each launch reads and
writes, each counted once; the copy bandwidth that they are compared with is measured first, on the same GPU::

	python bench_kernels.py --json benchmarks/results/h200.json
	python bench_kernels.py --shape 64 2114 128 4 --dtype bfloat16
	python bench_kernels.py --tune weight_gradient --dtype bfloat16

Without CUDA the gate runs in Triton's interpreter, and there is no speed to report.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SCALE, EPS = 0.15, 1e-3
FLUSH_BYTES = 256 * 2**20  # five times the L2 of an H200


class Timing(NamedTuple):
	"""Milliseconds of a run: median, 20th and 80th percentile; and the most memory it took beyond its inputs, in MB."""

	median: float
	p20: float
	p80: float
	peak_mb: float


class Case(NamedTuple):
	"""Something to time: a name, a call, and the bytes of device memory and operations of the products it needs."""

	name: str
	call: Callable[[], Any]
	bytes: int
	operations: int


def quantiles(milliseconds: list[float]) -> tuple[float, float, float]:
	"""Median, 20th and 80th percentile.

	Examples
	--------
	>>> quantiles([5.0, 1.0, 2.0, 4.0, 3.0])
	(3.0, 1.8, 4.2)
	"""
	fifths = statistics.quantiles(milliseconds, n=5, method="inclusive")
	return statistics.median(milliseconds), fifths[0], fifths[3]


def measure(call: Callable[[], Any], repeats: int) -> Timing:
	"""Time a call on the current GPU, each run after the L2 was overwritten."""
	flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device="cuda")
	for _ in range(5):
		call()
	torch.cuda.synchronize()
	before = torch.cuda.memory_allocated()
	torch.cuda.reset_peak_memory_stats()
	pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
	for start, end in pairs:
		flush.zero_()
		start.record()
		call()
		end.record()
	torch.cuda.synchronize()
	peak = (torch.cuda.max_memory_allocated() - before) / 2**20
	return Timing(*quantiles([start.elapsed_time(end) for start, end in pairs]), peak)


def copy_bandwidth(repeats: int) -> float:
	"""GB/s of a copy of 2 GB on the current GPU, bytes read and written."""
	source = torch.empty(2**31, dtype=torch.uint8, device="cuda").zero_()
	target = torch.empty_like(source)
	return 2 * source.numel() / measure(lambda: target.copy_(source), repeats).median / 1e6


def launched_bytes(call: Callable[[], Any]) -> int:
	"""Bytes of the distinct tensors of each launch that a call makes."""
	from cherimoya.kernels import block, conv_norm

	real, total = conv_norm.launch, 0

	def count(kernel: Any, grid: tuple[int, ...], tensors: dict[str, torch.Tensor], **arguments: Any) -> None:
		nonlocal total
		total += sum({t.data_ptr(): t.numel() * t.element_size() for t in tensors.values() if t.numel()}.values())
		real(kernel, grid, tensors, **arguments)

	with mock.patch.object(conv_norm, "launch", count), mock.patch.object(block, "launch", count):
		call()
	return total


def make_cases(shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
	"""Conv + norm and the block, forward, and forward with backward; and the block as plain modules."""
	from cherimoya.kernels import block, check, conv_norm, reference

	n, length, channels, d = shape
	tensors, g = check.make_inputs((*shape, 2), dtype, device)
	leaves = [t.requires_grad_() for t in tensors]
	product = 2 * n * length * channels * 2 * channels

	def whole() -> torch.Tensor:
		return block.block(*leaves, d, SCALE, EPS, dtype)[0]

	def normal() -> torch.Tensor:
		return conv_norm.conv_norm(leaves[0], leaves[1], d, EPS)[0]

	def plain() -> torch.Tensor:
		x, w, w1, w2 = leaves
		return reference.block(x, w, w1.to(dtype), w2.to(dtype), d, SCALE)

	def without_gradients(function: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
		return torch.no_grad()(function)

	def step(function: Callable[[], torch.Tensor], count: int) -> Callable[[], Any]:
		return lambda: torch.autograd.grad(function(), leaves[:count], g)

	for name, call, products in (
		("conv + norm, inference", without_gradients(normal), 0),
		("conv + norm, forward and backward", step(normal, 2), 0),
		("block, inference", without_gradients(whole), 2),
		("block, training forward", whole, 2),
		("block, forward and backward", step(whole, 4), 6),
		("block in plain torch, inference", without_gradients(plain), 2),
		("block in plain torch, forward and backward", step(plain, 4), 6),
	):
		yield Case(name, call, launched_bytes(call), products * product)


def model_cases(dtype: torch.dtype, device: torch.device) -> Iterator[Case]:
	"""The whole model at 64 windows of 2,114 bp and 128 filters, without gradients."""
	from cherimoya import Cherimoya

	model = Cherimoya(n_filters=128, random_state=0).to(device, dtype).eval()
	x = torch.nn.functional.one_hot(torch.randint(4, (64, 2114), device=device), 4).transpose(1, 2).to(dtype)
	call = torch.no_grad()(lambda: model(x))
	yield Case("whole model, 64 × 2,114 bp, 128 filters, inference", call, launched_bytes(call), 0)


def gate(device: torch.device, shapes: list[tuple[int, int, int, int, int]], dtypes: list[torch.dtype]) -> bool:
	"""Print how the paths agree with the definition; whether all of them do."""
	from cherimoya.kernels import check

	results = check.compare(device, shapes=shapes, dtypes=dtypes)
	print(check.table(results))
	return all(r.ok for r in results)


def tune(kernel: str, shape: tuple[int, int, int, int], dtype: torch.dtype, repeats: int) -> None:
	"""Time a step with every configuration of one of the block's kernels that compiles and is right; print ten."""
	from triton.errors import TritonError

	from cherimoya.kernels import _tuning, check

	device, found = torch.device("cuda"), []
	for rows, cols, warps, stages, padded in itertools.product(
		(32, 64, 128), (16, 32, 64, 128), (4, 8), (1, 2, 3), (False, True)
	):
		config = _tuning.Config(rows, cols, warps, stages, padded)
		with _tuning.override(**{kernel: config}):
			try:
				right = all(r.ok for r in check.compare(device, shapes=[(2, *shape[1:], 2)], dtypes=[dtype]))
			except (TritonError, RuntimeError):  # too much shared memory, or a tile that the compiler refuses
				continue
			if right:
				case = next(c for c in make_cases(shape, dtype, device) if c.name == "block, forward and backward")
				found.append((measure(case.call, repeats), config))
	for timing, config in sorted(found)[:10]:
		print(f"{timing.median:8.3f} ms  {config}")


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
	"""Time every case, print a line each, and return the rows."""
	device, rows = torch.device("cuda"), []
	bandwidth = copy_bandwidth(options.repeats)
	print(f"copy bandwidth: {bandwidth:.0f} GB/s")
	print(
		f"{'':<60}{'type':<10}{'median':>9}{'p20':>9}{'p80':>9} ms{'GB/s':>8}{'of copy':>9}{'TFLOP/s':>9}{'peak MB':>9}"
	)
	for name in options.dtype:
		dtype = DTYPES[name]
		for case in itertools.chain(make_cases(tuple(options.shape), dtype, device), model_cases(dtype, device)):
			timing = measure(case.call, options.repeats)
			# Only our launches are counted: what plain torch moves is not known here.
			rate = case.bytes / timing.median / 1e6 if case.bytes else None
			teraflops = case.operations / timing.median / 1e9 if case.operations else None
			row = {"case": case.name, "dtype": name, "shape": list(options.shape), **timing._asdict()}
			row |= {"gb_per_s": rate, "tflop_per_s": teraflops, "copy_gb_per_s": bandwidth}
			row["share_of_copy"] = None if rate is None else rate / bandwidth
			rows.append(row)
			numbers = [f"{value:.0f}" if value is not None else "" for value in (rate, teraflops, timing.peak_mb)]
			share = "" if rate is None else f"{rate / bandwidth:.0%}"
			print(
				f"{case.name:<60}{name:<10}{timing.median:>9.3f}{timing.p20:>9.3f}{timing.p80:>9.3f}   "
				f"{numbers[0]:>8}{share:>9}{numbers[1]:>9}{numbers[2]:>9}"
			)
	return rows


def main(argv: list[str] | None = None) -> int:
	"""Gate, then time; 1 if the gate is shut."""
	parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
	parser.add_argument("--shape", type=int, nargs=4, metavar=("N", "L", "C", "D"), default=(512, 1024, 128, 4))
	parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=["bfloat16", "float32"])
	parser.add_argument("--repeats", type=int, default=100, help="timed runs of each case; default 100")
	parser.add_argument("--json", type=Path, help="write the rows there, with GPU and versions")
	parser.add_argument("--tune", choices=("forward", "hidden_gradient", "weight_gradient"), help="try configurations")
	options = parser.parse_args(argv)
	if not torch.cuda.is_available():
		os.environ["TRITON_INTERPRET"] = "1"
		print("No CUDA: the gate runs in Triton's interpreter on the CPU, and no speed is reported.\n")
		return 0 if gate(torch.device("cpu"), [(2, 33, 24, 3, 2)], [DTYPES[d] for d in options.dtype]) else 1
	if not gate(torch.device("cuda"), [(4, *options.shape[1:], 2)], [DTYPES[d] for d in options.dtype]):
		print("A path disagrees with its definition: no speed is reported.", file=sys.stderr)
		return 1
	if options.tune:
		tune(options.tune, tuple(options.shape), DTYPES[options.dtype[0]], options.repeats)
		return 0
	rows = run(options)
	if options.json:
		import triton

		versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "triton": triton.__version__}
		gpu = torch.cuda.get_device_properties(0)
		record = {"gpu": gpu.name, "capability": [gpu.major, gpu.minor], "versions": versions, "rows": rows}
		options.json.write_text(json.dumps(record, indent="\t") + "\n")
	return 0


if __name__ == "__main__":
	sys.exit(main())
