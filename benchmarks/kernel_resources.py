"""Registers, spills and shared memory of every kernel, from cubins compiled ahead of time; needs no GPU.

The launches that a forward and a backward make are recorded instead of run, so what is compiled is what runs, with the
configurations that the launch table has for each GPU. With ``--check`` the exit status is 1 if a kernel spills at 96 or
128 channels, asks for more shared memory than a program of that GPU can have, holds an atomic operation, or takes more
registers than the committed table says for the same version of Triton::

	python benchmarks/kernel_resources.py --check --json benchmarks/kernel_resources.json
"""

import argparse
import contextlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cherimoya.kernels import block, conv_norm

ARCHITECTURES = {80: 163, 86: 99, 90: 227, 100: 227}  # compute capability: KB of shared memory that a program can have
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
# At these widths nothing may spill.
EXACT = (96, 128)
ATOMIC = re.compile(r"atom|\bred\.")
TABLE = Path(__file__).with_name("kernel_resources.json")

Launch = tuple[Any, dict[str, torch.Tensor], dict[str, Any]]


@contextlib.contextmanager
def recording(capability: int) -> Iterator[list[Launch]]:
	"""Inside the with-block kernels are not run, but listed as launched on a GPU of that compute capability."""
	launches: list[Launch] = []

	def record(kernel: Any, grid: tuple[int, ...], tensors: dict[str, torch.Tensor], **arguments: Any) -> None:
		launches.append((kernel, tensors, arguments))

	with contextlib.ExitStack() as stack:
		for module in (conv_norm, block):
			stack.enter_context(mock.patch.object(module, "launch", record))
			stack.enter_context(mock.patch.object(module, "capability", lambda x: divmod(capability, 10)))
		yield launches


def launches_of(capability: int, dtype: torch.dtype, channels: int, expansion: int = 2) -> list[Launch]:
	"""What conv + norm and the block launch, forward and backward, with weights in float32; each kernel once."""
	x = torch.zeros(1, 2, channels, dtype=dtype)
	w, w1, w2 = (
		torch.zeros(s) for s in ((3, channels), (channels * expansion, channels), (channels, channels * expansion))
	)
	with recording(capability) as launches:
		_, stats = conv_norm.conv_norm(x, w, 1, 1e-3)
		conv_norm.conv_norm_backward(x, x, w, stats, 1, True, True)
		block.block(x, w, w1, w2, 1, 0.15, 1e-3, dtype)
		block.block_backward(x, x, w, w1, w2, stats, 1, 0.15, dtype, True, True)
	return list({launch[0].__name__: launch for launch in launches}.values())


def compile_launch(launch: Launch, capability: int) -> Any:
	"""The kernel of a launch, compiled for that GPU: PTX, cubin and metadata."""
	kernel, tensors, arguments = launch
	options = {k: v for k, v in arguments.items() if k in ("num_warps", "num_stages")}
	constants = {p.name: arguments[p.name] for p in kernel.params if p.is_constexpr}
	signature, attributes = {}, {}
	for i, name in enumerate(kernel.arg_names):
		if name in constants:
			signature[name] = "constexpr"
		elif name in tensors:
			signature[name], attributes[(i,)] = POINTERS[tensors[name].dtype], [["tt.divisibility", 16]]
		else:
			signature[name] = "fp32" if isinstance(arguments[name], float) else "i32"
	source = ASTSource(kernel, signature, constants, attributes)
	options["enable_fp_fusion"] = True
	return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def usage(cubin: bytes) -> tuple[int, int]:
	"""Registers, and bytes of stack (where spilled registers go), of a thread."""
	tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
	with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
		file.write(cubin)
		file.flush()
		done = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True)
	found = re.search(r"REG:(\d+) STACK:(\d+)", done.stdout)
	if found is None:
		raise RuntimeError(f"{tool}: no line with REG and STACK in {done.stdout!r}")
	return int(found[1]), int(found[2])


def measure(capability: int, dtype: str, channels: int) -> list[dict[str, Any]]:
	"""A row for every kernel at one GPU, type and width."""
	rows = []
	for launch in launches_of(capability, DTYPES[dtype], channels):
		compiled = compile_launch(launch, capability)
		registers, spilled = usage(compiled.asm["cubin"])
		_, _, arguments = launch
		rows.append(
			{
				"kernel": launch[0].__name__.removesuffix("_kernel"),
				"sm": capability,
				"dtype": dtype,
				"channels": channels,
				"rows": arguments.get("BLOCK_L"),
				"cols": arguments.get("BLOCK_H", arguments.get("BLOCK_C")),
				"warps": arguments.get("num_warps", 4),
				"stages": arguments.get("num_stages", 3),
				"registers": registers,
				"spilled_bytes": spilled,
				"shared_bytes": compiled.metadata.shared,
				"atomics": bool(ATOMIC.search(compiled.asm["ptx"])),
			}
		)
	return rows


def problems_of(rows: list[dict[str, Any]], committed: dict[str, Any] | None = None) -> list[str]:
	"""What --check complains about, a line each."""
	found = []
	limits = {}
	if committed is not None and committed["triton"] == triton.__version__:
		limits = {_key(row): row["registers"] for row in committed["rows"]}
	for row in rows:
		place = "{kernel} at sm_{sm}, {dtype}, {channels} channels".format(**row)
		if row["spilled_bytes"] and row["channels"] in EXACT:
			found.append(f"{place}: {row['spilled_bytes']} bytes of registers spilled")
		if row["shared_bytes"] > ARCHITECTURES[row["sm"]] * 1024:
			found.append(f"{place}: {row['shared_bytes']} bytes of shared memory, of {ARCHITECTURES[row['sm']] * 1024}")
		if row["atomics"]:
			found.append(f"{place}: an atomic operation in its PTX")
		if row["registers"] > limits.get(_key(row), 255):
			found.append(
				f"{place}: {row['registers']} registers, {limits[_key(row)]} in {TABLE.name}; accept with --json"
			)
	return found


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
	return row["kernel"], row["sm"], row["dtype"], row["channels"]


def markdown(rows: list[dict[str, Any]]) -> str:
	"""The rows as a table: a line per kernel, type and width, a column per GPU."""
	architectures = sorted({row["sm"] for row in rows})
	head = ["kernel", "type", "C", *(f"sm_{a}: tile, registers, spilled, shared KB" for a in architectures)]
	lines = [" | ".join(head), " | ".join("---" for _ in head)]
	groups: dict[tuple[Any, ...], dict[int, str]] = {}
	for row in rows:
		text = "{rows}×{cols}, {registers}, {spilled_bytes}, {shared:.0f}".format(
			shared=row["shared_bytes"] / 1024, **row
		)
		groups.setdefault((row["kernel"], row["dtype"], row["channels"]), {})[row["sm"]] = text.replace(
			"None×None, ", ""
		)
	lines += [" | ".join([*map(str, key), *(cells.get(a, "") for a in architectures)]) for key, cells in groups.items()]
	return "\n".join(f"| {line} |" for line in lines) + "\n"


def main(argv: list[str] | None = None) -> int:
	"""Compile, print the table, and write or check it."""
	parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
	parser.add_argument("--sm", type=int, nargs="+", choices=ARCHITECTURES, default=[80, 90, 100])
	parser.add_argument("--dtype", nargs="+", choices=DTYPES, default=list(DTYPES))
	parser.add_argument("--channels", type=int, nargs="+", default=list(EXACT))
	parser.add_argument("--jobs", type=int, default=2, help="compilations at a time; default 2")
	parser.add_argument("--json", type=Path, help="write the table there")
	parser.add_argument("--markdown", type=Path, help="write the table there, to be read")
	parser.add_argument("--check", action="store_true", help="exit with 1 if a kernel is worse than allowed")
	options = parser.parse_args(argv)
	if triton.knobs.runtime.interpret:
		parser.error("TRITON_INTERPRET is set, so nothing would be compiled; unset it")
	committed = json.loads(TABLE.read_text()) if options.check and TABLE.exists() else None
	cases = [(sm, dtype, c) for c in options.channels for dtype in options.dtype for sm in options.sm]
	with ProcessPoolExecutor(options.jobs) as pool:
		rows = [row for part in pool.map(measure, *zip(*cases, strict=True)) for row in part]
	rows.sort(key=lambda row: (row["kernel"], row["dtype"], row["channels"], row["sm"]))
	sys.stdout.write(markdown(rows))
	problems = problems_of(rows, committed) if options.check else []
	sys.stderr.write("".join(f"{problem}\n" for problem in problems))
	if options.json:
		options.json.write_text(json.dumps({"triton": triton.__version__, "rows": rows}, indent="\t") + "\n")
	if options.markdown:
		note = f"Made by `python benchmarks/kernel_resources.py` with Triton {triton.__version__}.\n\n"
		options.markdown.write_text(f"# Registers, spills and shared memory of the kernels\n\n{note}{markdown(rows)}")
	return 1 if problems else 0


if __name__ == "__main__":
	sys.exit(main())
