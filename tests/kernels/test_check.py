"""The check of this machine's kernels, and the benchmark's gate before it."""

import argparse
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


@pytest.fixture
def bench():
	spec = importlib.util.spec_from_file_location("bench_kernels", ROOT / "bench_kernels.py")
	module = importlib.util.module_from_spec(spec)
	spec.loader.exec_module(module)
	return module


def test_quantiles(bench):
	assert bench.quantiles([5.0, 1.0, 2.0, 4.0, 3.0]) == pytest.approx((3.0, 1.8, 4.2))


def test_rates_are_bytes_and_operations_over_the_median(bench, monkeypatch, capsys):
	cases = [bench.Case("ours", None, 3 * 10**9, 2 * 10**12), bench.Case("torch", None, 0, 2 * 10**12)]
	monkeypatch.setattr(bench, "copy_bandwidth", lambda repeats: 4000.0)
	monkeypatch.setattr(bench, "measure", lambda call, repeats: bench.Timing(2.0, 1.9, 2.2, 512.0))
	monkeypatch.setattr(bench, "make_cases", lambda *a: iter(cases))
	monkeypatch.setattr(bench, "model_cases", lambda *a: iter(()))
	ours, other = bench.run(argparse.Namespace(dtype=["float32"], shape=(1, 2, 8, 1), repeats=3))
	assert ours["gb_per_s"] == pytest.approx(1500) and ours["share_of_copy"] == pytest.approx(0.375)
	assert ours["tflop_per_s"] == pytest.approx(1000) and ours["median"] == 2.0
	assert other["gb_per_s"] is None and other["share_of_copy"] is None
	assert capsys.readouterr().out.splitlines()[2].split()[-4:] == ["1500", "38%", "1000", "512"]


def test_a_shut_gate_reports_no_speed(bench, monkeypatch, capsys):
	monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
	monkeypatch.setattr(bench, "gate", lambda device, shapes, dtypes: False)
	monkeypatch.setattr(bench, "run", lambda options: pytest.fail("timed"))
	assert bench.main([]) == 1
	assert "no speed is reported" in capsys.readouterr().err
