"""Compare the kernels with their definition on this machine's GPU, in seconds: ``python -m cherimoya.kernels.check``.

Exit status 0: they agree, or there is no GPU that they run on (which is said); 1: they do not. With TRITON_INTERPRET=1
they run in Triton's interpreter on the CPU instead.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch

from cherimoya.kernels import dispatch, reference

# N, L, C, dilation, expansion: two tiles of columns, a whole power of two, and a dilation beyond the sequence.
SHAPES = ((2, 257, 96, 16, 2), (3, 1000, 128, 4, 2), (2, 65, 24, 200, 3))
SCALE = 0.5

Tensors = Sequence[torch.Tensor]
Function = Callable[..., torch.Tensor]


class Result(NamedTuple):
	"""One path at one shape and type against the definition in float64.

	Attributes
	----------
	path: str
		``"conv_norm"``, ``"training"``, ``"training in autocast"`` or ``"inference"``.
	dtype: str
		Type of the input.
	shape: tuple[int, int, int, int, int]
		N, L, C, dilation and expansion.
	error: float
		The largest ‖found − expected‖ / ‖expected‖ of output and gradients; infinite where a value is not finite.
	limit: float
		What the error must stay below.
	repeats: bool
		A second run gave the same bits.
	"""

	path: str
	dtype: str
	shape: tuple[int, int, int, int, int]
	error: float
	limit: float
	repeats: bool

	@property
	def ok(self) -> bool:
		"""The error is below its limit, and a second run gave the same."""
		return self.error < self.limit and self.repeats


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
	"""‖found − expected‖ / ‖expected‖ in float64; infinite where a value is not finite."""
	if not found.isfinite().all():
		return float("inf")
	return ((found.double() - expected).norm() / expected.norm().clamp_min(1e-300)).item()


def make_inputs(
	shape: tuple[int, int, int, int, int], dtype: torch.dtype, device: torch.device
) -> tuple[list[torch.Tensor], torch.Tensor]:
	"""Random x and weights (conv_weight, W1, W2, in float32), and a gradient at the output."""
	n, length, channels, _, expansion = shape
	generator = torch.Generator().manual_seed(0)
	hidden = channels * expansion
	sizes = [(n, length, channels), (3, channels), (hidden, channels), (channels, hidden), (n, length, channels)]
	x, w, w1, w2, g = (torch.randn(size, generator=generator).to(device) for size in sizes)
	return [x.to(dtype), w, w1 / channels**0.5, w2 / hidden**0.5], g.to(dtype)


def _run(function: Function, tensors: Tensors, g: torch.Tensor | None) -> list[torch.Tensor]:
	"""The output, and with g the gradient of every tensor."""
	if g is None:
		with torch.no_grad():
			return [function(*tensors)]
	leaves = [t.detach().requires_grad_() for t in tensors]
	out = function(*leaves)
	return [out.detach(), *torch.autograd.grad(out, leaves, g)]


def _paths(shape: tuple[int, int, int, int, int], dtype: torch.dtype) -> Iterator[tuple]:
	"""Path, function, definition, how many of the tensors it takes, whether it is differentiated, and limit."""
	from cherimoya.kernels import block, conv_norm

	d = shape[3]
	loose = 1e-3 if dtype == torch.float32 else 1e-2
	definition = lambda *t: reference.block(*t, d, SCALE)  # noqa: E731
	fused = lambda *t, dot=dtype: block.block(*t, d, SCALE, reference.EPS, dot)[0]  # noqa: E731
	yield (
		"conv_norm",
		lambda x, w: conv_norm.conv_norm(x, w, d, reference.EPS)[0],
		lambda x, w: reference.conv_norm(x, w, d),
		2,
		True,
		1e-5 if dtype == torch.float32 else 1e-2,
	)
	yield "training", fused, definition, 4, True, loose
	if dtype == torch.float32:
		yield "training in autocast", lambda *t: fused(*t, dot=torch.bfloat16), definition, 4, True, 1e-2
	yield "inference", fused, definition, 4, False, loose


def compare(
	device: torch.device,
	*,
	shapes: Sequence[tuple[int, int, int, int, int]] = SHAPES,
	dtypes: Sequence[torch.dtype] = dispatch.TRITON_TYPES,
) -> list[Result]:
	"""Every path against the definition in float64, twice.

	Parameters
	----------
	device: torch.device
		An NVIDIA GPU; the CPU where Triton interprets.
	shapes: sequence of (N, L, C, dilation, expansion)
		Default `SHAPES`.
	dtypes: sequence of torch.dtype
		Types of the input. Default float32, bfloat16, float16.

	Returns
	-------
	results: list[Result]
	"""
	results = []
	for shape in shapes:
		for dtype in dtypes:
			tensors, g = make_inputs(shape, dtype, device)
			for path, function, definition, count, differentiated, limit in _paths(shape, dtype):
				given = tensors[:count]
				first, second = (_run(function, given, g if differentiated else None) for _ in range(2))
				right = _run(definition, [t.double() for t in given], g.double() if differentiated else None)
				error = max(relative_error(a, b) for a, b in zip(first, right, strict=True))
				same = all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
				name = str(dtype).removeprefix("torch.")
				results.append(Result(path, name, shape, error, limit, same))
	return results


def table(results: Sequence[Result]) -> str:
	"""The results to be read."""
	lines = [f"{'path':<22}{'type':<10}{'N, L, C, d, expansion':<26}{'error':>9}{'limit':>9}  bits  result"]
	for r in results:
		bits, verdict = "same" if r.repeats else "DIFFER", "ok" if r.ok else "WRONG"
		shape = ", ".join(map(str, r.shape))
		lines.append(f"{r.path:<22}{r.dtype:<10}{shape:<26}{r.error:>9.1e}{r.limit:>9.0e}  {bits}  {verdict}")
	return "\n".join(lines) + "\n"


def find_device() -> tuple[torch.device | None, str]:
	"""Where the kernels run on this machine, and what it is; None, and why not."""
	try:
		import triton
	except ImportError:
		return None, "Triton is not installed: blocks run in plain torch"
	if triton.knobs.runtime.interpret:
		return torch.device("cpu"), f"Triton {triton.__version__}, interpreted on the CPU"
	if not torch.cuda.is_available():
		return None, "no GPU is visible to torch: blocks run on the CPU, without Triton"
	device = torch.device("cuda", torch.cuda.current_device())
	capability = dispatch.capability(device)
	name = f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}, Triton {triton.__version__}"
	if capability is None or capability < dispatch.TRITON_CAPABILITY:
		return None, f"{name}: compute capability below 8.0, blocks run in plain torch"
	return device, name


def main(argv: Sequence[str] | None = None) -> int:
	"""Compare, and print a table or JSON."""
	parser = argparse.ArgumentParser(prog="python -m cherimoya.kernels.check", description=__doc__.splitlines()[0])
	parser.add_argument("--json", action="store_true", help="print JSON")
	options = parser.parse_args(argv)
	device, description = find_device()
	# The interpreter takes a minute for the sizes that a GPU needs to show anything.
	shapes = SHAPES if device is None or device.type == "cuda" else ((2, 33, 24, 3, 2),)
	results = [] if device is None else compare(device, shapes=shapes)
	if options.json:
		rows = [{**r._asdict(), "ok": r.ok} for r in results]
		sys.stdout.write(json.dumps({"device": description, "compared": device is not None, "results": rows}) + "\n")
	else:
		sys.stdout.write(f"{description}\n{table(results) if results else ''}")
	return 0 if all(r.ok for r in results) else 1


if __name__ == "__main__":
	sys.exit(main())
