"""Making items ahead of their use."""

import itertools
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


@pytest.mark.parametrize("clock, ahead", [(lambda: 0.0, False), (itertools.count().__next__, True)], ids=["0 s", "1 s"])
def test_only_who_uses_items_for_a_while_has_a_thread_make_them(clock, ahead):
	"""The first item is made when it is asked for; a use of no time lets the thread pause."""
	names = list(prefetch((threading.current_thread().name for _ in range(50)), 2, clock=clock))
	assert [name.startswith("prefetch") for name in names[20:]] == [ahead] * 30


def test_items_are_made_ahead_again_once_they_are_in_use():
	ticks = iter([0, 0] * 20 + [0, 1] * 20)
	names = list(prefetch((threading.current_thread().name for _ in range(40)), 1, clock=ticks.__next__))
	made = [name.startswith("prefetch") for name in names]
	assert not any(made[15:20]) and all(made[25:])


def test_items_are_made_while_others_are_in_use():
	made = threading.Event()

	def items():
		yield 0
		made.set()
		yield 1

	running = prefetch(items(), 2)
	assert next(running) == 0
	assert made.wait(timeout=600), "the second item is made without being asked for"
	assert list(running) == [1]
