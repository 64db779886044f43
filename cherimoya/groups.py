"""Signal groups: which channels belong to one assay.

A group is one assay whose channels share an orientation: an unstranded track is a group of 1, a
(+, -) pair a group of 2. Channels are ordered group by group.
"""

from collections.abc import Iterable, Sequence
from typing import Any


def check_signal_groups(signal_groups: Sequence[int]) -> tuple[int, ...]:
	"""The groups as a tuple of ints; ValueError unless each is a whole number of at least 1."""
	groups = tuple(signal_groups) if isinstance(signal_groups, Iterable) else ()
	if not groups or not all(map(_is_size, groups)):
		shown = list(groups) if groups else signal_groups
		raise ValueError(
			f"signal_groups must list at least one group of at least one channel each, got {shown!r}; "
			"an unstranded track is 1, a (+, -) pair is 2"
		)
	return tuple(int(g) for g in groups)


def _is_size(size: Any) -> bool:
	"""Whether this can be the number of channels of a group."""
	try:
		return not isinstance(size, bool) and int(size) == size and size >= 1
	except (TypeError, ValueError, OverflowError):
		return False


def group_slices(signal_groups: Sequence[int]) -> list[slice]:
	"""The slice of channels of each group: ``[1, 2]`` gives channels 0:1 and 1:3."""
	slices, start = [], 0
	for size in signal_groups:
		slices.append(slice(start, start + size))
		start += size
	return slices


def reverse_complement_order(signal_groups: Sequence[int]) -> list[int]:
	"""The order of channels after a reverse complement: reversed within each group only."""
	order: list[int] = []
	for s in group_slices(signal_groups):
		order.extend(reversed(range(s.start, s.stop)))
	return order
