"""Work spread over processes: results, errors, and processes that die."""

import os

import pytest

from cherimoya.errors import InputError, ToolError
from cherimoya.io._workers import n_cores, spread
from cherimoya.io.genome import Genome
from cherimoya.io.loci import parse_region


@pytest.mark.parametrize("workers", [1, 2, 9])
@pytest.mark.parametrize("n", [0, 1, 5])
def test_each_task_is_done_once(workers, n):
	tasks = [f"chr{i}" for i in range(n)]
	found = dict(spread(parse_region, tasks, workers))
	assert [found[i].chrom for i in range(n)] == tasks


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_the_work_is_raised_here(workers):
	with pytest.raises(ValueError, match="invalid literal"):
		list(spread(int, ["1", "one", "2"], workers))
	with pytest.raises(InputError, match=r"absent\.fa: no such file"):
		list(spread(Genome, ["absent.fa"] * 2, workers))


def elsewhere(program):
	"""Tasks of which this process does each slowly and to no effect, so that another one runs the program."""
	here = f"__import__('os').getpid() == {os.getpid()}"
	return [f"__import__('time').sleep(0.02) if {here} else {program}"] * 2000


def test_a_process_that_dies_is_an_error():
	with pytest.raises(ToolError, match=r"died \(status 3\)"):
		list(spread(eval, elsewhere("__import__('os')._exit(3)"), 2))


def test_this_process_works_too():
	program = "__import__('os').getpid()"
	assert set(dict(spread(eval, [program] * 3, 1)).values()) == {os.getpid()}
	assert os.getpid() in dict(spread(eval, [program] * 1000, 2)).values()


def test_the_processes_import_neither_the_main_module_nor_torch(capfd):
	program = (
		"sorted({'torch', '__mp_main__'} & set(__import__('sys').modules)) or print('a line on stdout', flush=True)"
	)
	assert set(dict(spread(eval, elsewhere(f"({program})"), 2)).values()) == {None}
	assert "a line on stdout" in capfd.readouterr().err, "what a library prints does not come between"


def test_the_cores_are_those_that_may_be_used():
	assert 1 <= n_cores() <= os.cpu_count()
