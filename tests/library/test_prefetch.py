"""Making items ahead of their use."""

import threading

import pytest

from cherimoya.io._prefetch import prefetch


@pytest.mark.parametrize("depth", [0, 1, 3, 50])
@pytest.mark.parametrize("n", [0, 1, 7])
def test_items_come_in_order(depth, n):
	assert list(prefetch(range(n), depth)) == list(range(n))
	assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@pytest.mark.parametrize("depth", [0, 1, 3, 50])
def test_an_error_comes_where_it_belongs(depth):
	def broken():
		yield 1
		yield 2
		raise KeyError("here")

	seen = []
	with pytest.raises(KeyError, match="here"):
		for item in prefetch(broken(), depth):
			seen.append(item)
	assert seen == [1, 2]


@pytest.mark.parametrize("depth", [0, 1, 3])
def test_items_are_made_at_most_so_far_ahead_and_a_pass_given_up_ends(depth):
	made = []

	def items():
		for i in range(1000):
			made.append(i)
			yield i

	running = prefetch(items(), depth)
	assert [next(running) for _ in range(5)] == [0, 1, 2, 3, 4]
	running.close()
	assert 5 <= len(made) <= 5 + depth
	assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_items_are_made_while_others_are_in_use():
	made = threading.Event()

	def items():
		yield 0
		made.set()
		yield 1

	running = prefetch(items(), 2)
	assert next(running) == 0
	assert made.wait(timeout=60), "the second item is made without being asked for"
	assert list(running) == [1]
