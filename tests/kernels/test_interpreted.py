"""Runs interpreted_cases.py where Triton interprets: the variable has to be set before a kernel is defined."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("interpreted_cases.py")
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def _run(*arguments):
	command = [sys.executable, "-m", "pytest", str(CASES), "-q", "-p", "no:cacheprovider", *arguments]
	environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
	return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)


def test_kernels_agree_with_the_definition_in_the_interpreter():
	done = _run()
	assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]


@pytest.mark.slow
def test_large_shapes_agree_with_the_definition_in_the_interpreter():
	done = _run("-m", "slow")
	assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
