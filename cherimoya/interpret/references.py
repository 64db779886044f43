"""Reference sequences, that attributions compare with: shuffles that keep the counts of dinucleotides."""

from collections.abc import Iterator
from hashlib import sha256

import numpy as np
import torch

from cherimoya.errors import SettingsError
from cherimoya.interpret._batches import Array, check_arrays, to_tensor
from cherimoya.interpret.attribution import check_one_hot

_UNKNOWN = 4
# Bits of a sorting key: the letter before, what decides the order, and the letter after.
_LETTER_BITS, _ORDER_BITS = 2, 60
_ORDER = np.uint64(((1 << _ORDER_BITS) - 1) << _LETTER_BITS)


def dinucleotide_shuffle(X: Array, n_shuffles: int = 20, *, random_state: int = 0) -> torch.Tensor:
	"""Shuffle each sequence so that every dinucleotide occurs as often as before.

	A sequence is a walk over letters, and walks that take the same steps, in any order, have the same dinucleotides.
	Such walks are drawn uniformly: a last step out of every letter but the final one, drawn until they lead to the
	final letter; the other steps in random order. The first and the last base stay. Unknown bases (N) stay where they
	are, and each run of known bases between them is shuffled by itself.

	The shuffles of a sequence depend on its bases and on `random_state` alone, not on the other sequences.

	Parameters
	----------
	X: torch.Tensor or numpy.ndarray, shape=(n, 4, L) or (n, L)
		One-hot sequences of any dtype, or uint8 base codes (A, C, G, T = 0 to 3, anything else 4).
	n_shuffles: int
		Shuffles of each sequence. Default is 20.
	random_state: int
		Seed, of at least 0. Default is 0.

	Returns
	-------
	torch.Tensor of uint8, shape=(n, n_shuffles, L)
		Base codes, on the CPU.

	Raises
	------
	InputError
		When X has the wrong shape, or holds other columns than one-hot and all-zero ones.
	SettingsError
		When `n_shuffles` is below 1, or `random_state` below 0.

	References
	----------
	Altschul & Erickson (1985), "Significance of nucleotide sequence alignments: a method for random sequence
	permutation that preserves dinucleotide and codon usage", Molecular Biology and Evolution 2.
	"""
	if n_shuffles < 1:
		raise SettingsError(f"n_shuffles must be at least 1, got {n_shuffles}")
	if random_state < 0:
		raise SettingsError(f"random_state must be at least 0, got {random_state}")
	check_arrays(X, None)
	check_one_hot(X)
	codes = to_codes(X)
	shuffled = np.repeat(codes[:, None], n_shuffles, axis=1)  # (n, L) -> (n, n_shuffles, L)
	generators = [_generator(row, random_state) for row in codes]
	whole = [i for i, row in enumerate(codes) if (row < _UNKNOWN).all()]
	if whole:  # of one length, so that they walk together
		shuffled[whole] = _shuffle(codes[whole], n_shuffles, [generators[i] for i in whole])
	for i in sorted(set(range(len(codes))) - set(whole)):
		for run in _runs(codes[i]):
			shuffled[i, :, run] = _shuffle(codes[i : i + 1, run], n_shuffles, [generators[i]])[0]
	return torch.from_numpy(shuffled)


def to_codes(X: Array) -> np.ndarray:
	"""Base codes, (n, L) of uint8, of one-hot sequences or of codes."""
	X = to_tensor(X).cpu()
	if X.ndim == 3:
		X = torch.where((X != 0).any(dim=1), (X != 0).to(torch.uint8).argmax(dim=1), _UNKNOWN)  # (n, 4, L) -> (n, L)
	return X.to(torch.uint8).numpy()


def _generator(codes: np.ndarray, random_state: int) -> np.random.Generator:
	"""A generator for a sequence, seeded by its bases and the seed."""
	digest = int.from_bytes(sha256(codes.tobytes()).digest()[:16], "little")
	return np.random.default_rng([random_state, digest])


def _runs(codes: np.ndarray) -> Iterator[slice]:
	"""The stretches of known bases."""
	known = np.concatenate([[False], codes < _UNKNOWN, [False]])
	edges = np.flatnonzero(known[1:] != known[:-1])
	return (slice(start, end) for start, end in edges.reshape(-1, 2).tolist())


def _shuffle(codes: np.ndarray, n_shuffles: int, generators: list[np.random.Generator]) -> np.ndarray:
	"""Shuffles of sequences of known bases, (n, L) -> (n, n_shuffles, L)."""
	n, length = codes.shape
	if length < 4:  # a walk of two steps has one order, as its first and last letter stay
		return np.repeat(codes[:, None], n_shuffles, axis=1)
	order = np.concatenate([_steps(row, n_shuffles, rng) for row, rng in zip(codes, generators, strict=True)])
	firsts = [np.searchsorted(np.sort(row[:-1]), np.arange(4)) for row in codes]  # where a letter's steps begin
	walks = len(order)
	step = np.repeat(firsts, n_shuffles, axis=0).ravel()  # (walks * 4): the next step out of each letter
	step += np.repeat(np.arange(walks) * (length - 1), 4)  # in all walks' steps, one after the other
	flat, row = order.ravel(), np.arange(walks) * 4
	out = np.empty((length, walks), dtype=np.uint8)
	out[0] = np.repeat(codes[:, 0], n_shuffles)
	at = out[0].astype(np.int64)
	for position in range(1, length):
		at += row
		chosen = step[at]
		step[at] = chosen + 1
		at = flat[chosen].astype(np.int64)
		out[position] = at
	return out.T.reshape(n, n_shuffles, length)


def _steps(codes: np.ndarray, n_shuffles: int, rng: np.random.Generator) -> np.ndarray:
	"""The letters that the steps of each shuffle lead to, in order, by the letter that they leave: (n_shuffles, L - 1).

	A key holds the letter left, the random order, and the letter reached, so that one sort does it all. The last step
	out of a letter has the greatest order.
	"""
	before, after = codes[:-1].astype(np.uint64), codes[1:].astype(np.uint64)
	keys = rng.integers(0, 1 << 64, size=(n_shuffles, len(before)), dtype=np.uint64) & _ORDER
	keys |= after
	pairs, first, counts = np.unique(before * 4 + after, return_index=True, return_counts=True)
	table, place = np.zeros((4, 4)), np.zeros((4, 4), dtype=np.int64)
	table.ravel()[pairs], place.ravel()[pairs] = counts, first
	final = int(codes[-1])
	last = _last_steps(table, final, n_shuffles, rng)  # (n_shuffles, 4)
	for letter in np.flatnonzero(table.sum(axis=1)):
		if letter != final:
			keys[np.arange(n_shuffles), place[letter, last[:, letter]]] |= _ORDER
	keys |= before << np.uint64(_LETTER_BITS + _ORDER_BITS)
	keys.sort(axis=1)
	return (keys & np.uint64(3)).astype(np.uint8)


def _last_steps(table: np.ndarray, final: int, n_shuffles: int, rng: np.random.Generator) -> np.ndarray:
	"""The letter that the last step out of each letter leads to, (n_shuffles, 4), such that all lead to the final one.

	`table` (4, 4) counts the steps. Letters that are never left count as the final one.
	"""
	totals = table.sum(axis=1)
	bounds = (table / np.maximum(totals, 1)[:, None]).cumsum(axis=1)
	last = np.full((n_shuffles, 4), final)
	todo = np.arange(n_shuffles)
	while len(todo):
		drawn = np.minimum((rng.random((len(todo), 4, 1)) >= bounds).sum(axis=2), 3)
		drawn[:, totals == 0] = final
		drawn[:, final] = final
		twice = np.take_along_axis(drawn, drawn, axis=1)
		arrived = (np.take_along_axis(twice, twice, axis=1) == final).all(axis=1)  # after four steps, three suffice
		last[todo[arrived]] = drawn[arrived]
		todo = todo[~arrived]
	return last
