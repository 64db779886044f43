"""The check of this machine's kernels, and the benchmark's gate before it."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cherimoya.kernels import check

ROOT = Path(__file__).resolve().parents[2]
RIGHT = check.Result("training", "float32", (2, 257, 96, 16, 2), 4e-4, 1e-3, True)

VERDICTS = {
	"right": (RIGHT, True, "ok"),
	"too far": (RIGHT._replace(error=2e-3), False, "WRONG"),
	"not finite": (RIGHT._replace(error=float("inf")), False, "WRONG"),
	"NaN": (RIGHT._replace(error=float("nan")), False, "WRONG"),
	"does not repeat": (RIGHT._replace(repeats=False), False, "DIFFER"),
}


@pytest.mark.parametrize("case", VERDICTS, ids=str)
def test_verdicts(case, monkeypatch, capsys):
	result, ok, word = VERDICTS[case]
	monkeypatch.setattr(check, "find_device", lambda: (torch.device("cpu"), "a device"))
	monkeypatch.setattr(check, "compare", lambda device, shapes: [RIGHT, result])
	assert result.ok is ok
	assert check.main([]) == (0 if ok else 1)
	first, _, line, other = capsys.readouterr().out.splitlines()
	assert first == "a device" and line.endswith("ok") and word in other
	check.main(["--json"])
	assert [row["ok"] for row in json.loads(capsys.readouterr().out)["results"]] == [True, ok]


def test_errors_are_relative_to_the_norm():
	expected = torch.tensor([3.0, 4.0], dtype=torch.float64)
	assert check.relative_error(torch.tensor([3.0, 4.5]), expected) == pytest.approx(0.1)
	assert check.relative_error(torch.tensor([3.0, float("nan")]), expected) == float("inf")


def test_a_machine_without_gpu_is_told_so(monkeypatch, capsys):
	monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
	assert check.main([]) == 0
	assert capsys.readouterr().out.endswith("blocks run on the CPU, without Triton\n" if _has_triton() else "torch\n")


def _has_triton():
	return importlib.util.find_spec("triton") is not None


@pytest.mark.skipif(not _has_triton(), reason="Triton is not installed")
def test_the_benchmark_without_cuda_runs_its_gate_alone():
	environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
	command = [sys.executable, str(ROOT / "bench_kernels.py"), "--dtype", "bfloat16"]
	done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
	assert done.returncode == 0, done.stderr
	first, _, _, *lines = done.stdout.rstrip().splitlines()
	assert "no speed is reported" in first
	assert [line.split()[-1] for line in lines] == ["ok"] * 3


def test_quantiles():
	spec = importlib.util.spec_from_file_location("bench_kernels", ROOT / "bench_kernels.py")
	bench = importlib.util.module_from_spec(spec)
	spec.loader.exec_module(bench)
	assert bench.quantiles([5.0, 1.0, 2.0, 4.0, 3.0]) == pytest.approx((3.0, 1.8, 4.2))
