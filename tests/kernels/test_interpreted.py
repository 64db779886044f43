"""Runs interpreted_cases.py where Triton interprets: the variable has to be set before a kernel is defined."""

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("interpreted_cases.py")
ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def _run_side_by_side(*choices):
	"""Run the cases that each choice takes, all choices at the same time, as in turn they take twice as long."""
	environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
	command = [sys.executable, "-m", "pytest", str(CASES), "-q", "-p", "no:cacheprovider"]
	pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
	started = [subprocess.Popen([*command, *choice], env=environment, cwd=ROOT, **pipes) for choice in choices]
	with ThreadPoolExecutor(len(started)) as threads:
		printed = list(threads.map(lambda process: process.communicate()[0], started))
	for process, text in zip(started, printed, strict=True):
		assert process.returncode == 0, text[-8000:]


def test_kernels_agree_with_the_definition_in_the_interpreter():
	_run_side_by_side(("-k", "test_block"), ("-k", "not test_block"))


@pytest.mark.slow
def test_large_shapes_agree_with_the_definition_in_the_interpreter():
	_run_side_by_side(("-m", "slow", "-k", "test_block"), ("-m", "slow", "-k", "not test_block"))
