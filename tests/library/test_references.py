"""Dinucleotide shuffles: what they keep, that every walk is as likely, and what they depend on."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch

from cherimoya.errors import InputError, SettingsError
from cherimoya.interpret.references import dinucleotide_shuffle


def codes_of(*sequences: str) -> np.ndarray:
	return np.array([["ACGTN".index(base) for base in sequence] for sequence in sequences], dtype=np.uint8)


def dinucleotides(codes: np.ndarray) -> list[tuple[int, int]]:
	return sorted(zip(codes[:-1].tolist(), codes[1:].tolist(), strict=True))


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 37, 500])
@pytest.mark.parametrize("letters", [1, 2, 4], ids=lambda n: f"{n} letters")
def test_dinucleotides_and_ends_stay(length: int, letters: int) -> None:
	codes = np.random.default_rng(length).integers(0, letters, (5, length)).astype(np.uint8)
	shuffled = dinucleotide_shuffle(codes, 6, random_state=1).numpy()
	assert shuffled.shape == (5, 6, length) and shuffled.dtype == np.uint8
	for row, walks in zip(codes, shuffled, strict=True):
		for walk in walks:
			assert dinucleotides(walk) == dinucleotides(row)
			assert walk[0] == row[0] and walk[-1] == row[-1]
	if length == 500 and letters > 1:
		assert len({walk.tobytes() for walk in shuffled[0]}) == 6
		assert (shuffled[0, 0] != codes[0]).mean() > 0.2


@pytest.mark.parametrize("text", ["ACAGATCA", "AACAGTAC", "ACGTACGA", "AATTCCAA"])
def test_every_walk_is_as_likely(text: str) -> None:
	codes = codes_of(text)[0]
	middle = [tuple(order) for order in set(permutations(codes[1:-1].tolist()))]
	walks = [(int(codes[0]), *order, int(codes[-1])) for order in middle]
	walks = [walk for walk in walks if dinucleotides(np.array(walk)) == dinucleotides(codes)]
	draws = 2_000 * len(walks)
	found = Counter(tuple(walk) for walk in dinucleotide_shuffle(codes[None], draws)[0].tolist())
	assert set(found) == set(walks) and len(walks) > 1
	# Orders of the steps that give one and the same walk are as many for each walk.
	statistic = sum((count - 2_000) ** 2 / 2_000 for count in found.values())
	assert statistic < len(walks) + 5 * np.sqrt(2 * len(walks))


def test_unknown_bases_stay_where_they_are() -> None:
	codes = codes_of("NNACGATTACAGACCGATNAGCATGCANCATG", "ACGTTGCAACGTGTCAACGTGACTGATCGATT")
	shuffled = dinucleotide_shuffle(codes, 8).numpy()
	assert np.array_equal(shuffled[0] == 4, np.broadcast_to(codes[0] == 4, shuffled[0].shape))
	for run in (slice(2, 18), slice(19, 27), slice(28, 32)):
		assert all(dinucleotides(walk[run]) == dinucleotides(codes[0, run]) for walk in shuffled[0])
	assert any(not np.array_equal(walk[2:18], codes[0, 2:18]) for walk in shuffled[0])
	assert (dinucleotide_shuffle(codes_of("NNNN"), 2) == 4).all()


def test_depend_on_the_sequence_and_the_seed_alone() -> None:
	codes = np.random.default_rng(0).integers(0, 4, (4, 90)).astype(np.uint8)
	together = dinucleotide_shuffle(codes, 5, random_state=3)
	alone = torch.cat([dinucleotide_shuffle(codes[i : i + 1], 5, random_state=3) for i in (3, 0, 1, 2)])
	assert torch.equal(together[[3, 0, 1, 2]], alone)
	one_hot = torch.from_numpy(codes[:, None] == np.arange(4)[:, None]).to(torch.int8)
	assert torch.equal(together, dinucleotide_shuffle(one_hot, 5, random_state=3))
	assert not torch.equal(together, dinucleotide_shuffle(codes, 5, random_state=4))


@pytest.mark.parametrize(
	("X", "options", "error", "words"),
	[
		(codes_of("ACGT"), {"n_shuffles": 0}, SettingsError, "n_shuffles"),
		(codes_of("ACGT"), {"random_state": -1}, SettingsError, "random_state"),
		(codes_of("ACGT") + 2, {}, InputError, "position 3"),
		(torch.full((1, 4, 9), 0.25), {}, InputError, "sequence 0, position 0"),
	],
	ids=["no shuffles", "seed", "codes", "soft bases"],
)
def test_bad_arguments(X: object, options: dict, error: type[Exception], words: str) -> None:
	with pytest.raises(error, match=words):
		dinucleotide_shuffle(X, **options)
