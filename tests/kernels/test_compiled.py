"""Every kernel compiled ahead of time, from scratch and without a GPU: no spills, no atomics, memory that fits."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "kernel_resources.py"

pytestmark = pytest.mark.skipif(
	os.environ.get("TRITON_INTERPRET") == "1", reason="nothing is compiled where Triton interprets"
)


@pytest.fixture(scope="module")
def resources():
	"""The script as a module."""
	spec = importlib.util.spec_from_file_location("kernel_resources", SCRIPT)
	module = importlib.util.module_from_spec(spec)
	spec.loader.exec_module(module)
	return module


def _check(cache, *arguments):
	environment = {**os.environ, "TRITON_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "1"}
	command = [sys.executable, str(SCRIPT), "--check", *arguments]
	done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
	assert done.returncode == 0, done.stdout + done.stderr
	return done.stdout


@pytest.mark.parametrize(
	("sm", "dtype", "channels"),
	[("80", "float32", "128"), ("90", "bfloat16", "96"), ("100", "float16", "96")],
	ids=["sm_80 float32 128", "sm_90 bfloat16 96", "sm_100 float16 96"],
)
def test_kernels_compile_without_spills(tmp_path, sm, dtype, channels):
	table = _check(tmp_path, "--sm", sm, "--dtype", dtype, "--channels", channels, "--jobs", "1")
	kernels = "forward gradient hidden_gradient moments normalise statistics sum weight_gradient".split()
	assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == [f"| {kernel}" for kernel in kernels]


@pytest.mark.slow
def test_every_type_compiles_for_every_gpu_without_spills(tmp_path):
	_check(tmp_path)


@pytest.mark.slow
def test_every_width_fits_the_gpus_of_small_shared_memory(tmp_path):
	widths = ["8", "40", "64", "192", "256"]
	_check(tmp_path, "--sm", "86", "--dtype", "float32", "bfloat16", "--channels", *widths)


def _row(**changes):
	row = {"kernel": "forward", "sm": 90, "dtype": "float32", "channels": 96, "registers": 100}
	return {**row, "spilled_bytes": 0, "shared_bytes": 1024, "atomics": False, **changes}


COMPLAINTS = {
	"spills": ({"spilled_bytes": 8}, "8 bytes of registers spilled"),
	"shared memory": ({"shared_bytes": 240 * 1024}, "of shared memory, of 232448"),
	"atomics": ({"atomics": True}, "atomic operation"),
	"more registers": ({"registers": 101}, "101 registers, 100 in"),
}


@pytest.mark.parametrize("case", COMPLAINTS, ids=str)
def test_what_is_worse_is_said(resources, case):
	changes, message = COMPLAINTS[case]
	committed = {"triton": triton.__version__, "rows": [_row()]}
	assert resources.problems_of([_row()], committed) == []
	(problem,) = resources.problems_of([_row(**changes)], committed)
	assert problem.startswith("forward at sm_90, float32, 96 channels") and message in problem


def test_registers_of_another_triton_are_not_compared(resources):
	assert resources.problems_of([_row(registers=101)], {"triton": "1.0", "rows": [_row()]}) == []


@triton.jit
def _adds_atomically(x_ptr, C: tl.constexpr):
	tl.atomic_add(x_ptr + tl.arange(0, C), 1.0)


def test_an_atomic_operation_would_be_found(resources):
	source = triton.compiler.ASTSource(_adds_atomically, {"x_ptr": "*fp32", "C": "constexpr"}, {"C": 128})
	options = {"enable_fp_fusion": True}
	target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
	assert resources.ATOMIC.search(triton.compile(source, target=target, options=options).asm["ptx"])


def test_the_committed_table_is_whole(resources):
	committed = resources.json.loads(resources.TABLE.read_text())
	found = {(row["sm"], row["dtype"], row["channels"]) for row in committed["rows"]}
	assert found == {(sm, dtype, c) for sm in (80, 90, 100) for dtype in resources.DTYPES for c in resources.EXACT}
	assert resources.problems_of(committed["rows"]) == []
