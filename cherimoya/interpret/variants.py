"""The effects of variants: a model's predictions for a window of the genome with either allele, compared.

The reference allele is `ref` at the bases [p, p + r), the alternate allele `alt` has a bases. A window of w bases is

- of the reference: the bases [m - w // 2, m + (w + 1) // 2) around m = p + r // 2, as for a locus [p, p + r);
- of the alternate: as many bases of the genome with `alt` in place of `ref`, around the middle of `alt`, p + a // 2.

Either allele is so in the middle of its window, with flanks of one length to a base.
"""

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch

from cherimoya.errors import InputError, SettingsError
from cherimoya.groups import group_slices, reverse_complement_order
from cherimoya.interpret.predict import Prediction, predict
from cherimoya.interpret.references import dinucleotide_shuffle
from cherimoya.io.genome import Genome
from cherimoya.io.variants import BREAKEND, LETTERS, NO_ALTERNATE, SYMBOLIC, Allele, VariantFile, unfit
from cherimoya.wrappers import ControlWrapper

SCORES = ("log2fc_counts", "jsd_profile", "l1_profile", "ref_counts", "alt_counts")
"""What is computed for each allele and signal group; see `score_alleles`."""
RANKED = 3
"""So many of the scores, the first ones, are compared with a background."""

SCORED = "scored"
UNKNOWN_CHROM = "chromosome not in FASTA"
TOO_LONG = "allele too long"
OFF_THE_EDGE = "off the edge"
SWAPPED = "reference and alternate swapped"
MISMATCH = "reference mismatch"
REASONS = (NO_ALTERNATE, SYMBOLIC, BREAKEND, LETTERS, UNKNOWN_CHROM, TOO_LONG, OFF_THE_EDGE, SWAPPED, MISMATCH)
"""Why an allele has no scores; the first that holds."""

BLOCK = 256
"""Alleles whose predictions are held at a time, and which share batches."""
_WHOLE = 1_000  # where so many alleles in a row are on a chromosome, all of it is read, not each stretch by itself
_CODES = bytes.maketrans(b"ACGT", bytes(range(4)))
_COMPLEMENT = np.array([3, 2, 1, 0, 4], dtype=np.uint8)


class Placed(NamedTuple):
	"""Windows around alleles.

	Attributes
	----------
	ref_codes: numpy.ndarray of uint8, shape=(u, w)
		The reference windows, each once: alleles of one variant share theirs.
	ref_index: numpy.ndarray of int64, shape=(n,)
		Which of them belongs to each allele.
	alt_codes: numpy.ndarray of uint8, shape=(n, w)
		The alternate window of each allele.
	lengths: list of (int, int)
		Bases of the reference and of the alternate allele.
	"""

	ref_codes: np.ndarray
	ref_index: np.ndarray
	alt_codes: np.ndarray
	lengths: list[tuple[int, int]]


class Span(NamedTuple):
	"""The bases [start, end) of a chromosome that the two windows of an allele are made of; `at` is its first one."""

	start: int
	end: int
	at: int


class VariantEffects(NamedTuple):
	"""The effects of variants on predictions.

	Attributes
	----------
	alleles: list of Allele
		All alleles, in their order.
	status: list of str
		`SCORED`, or one of `REASONS`, shape=(n,).
	scores: dict of str to numpy.ndarray, shape=(n, G)
		Each of `SCORES`, the mean over the models; NaN for alleles that are not scored.
	spread: dict of str to numpy.ndarray, shape=(n, G), or None
		The standard deviation over the models (n - 1 in the denominator); None for a single one.
	percentiles: dict of str to numpy.ndarray, shape=(n, G), or None
		For the first `RANKED` scores the share of the background, in percent, that is nearer to 0; None without one.
	"""

	alleles: list[Allele]
	status: list[str]
	scores: dict[str, np.ndarray]
	spread: dict[str, np.ndarray] | None
	percentiles: dict[str, np.ndarray] | None


def variant_effects(
	models: torch.nn.Module | Sequence[torch.nn.Module],
	variants: str | os.PathLike | Iterable[Allele],
	genome: Genome,
	*,
	in_window: int = 2114,
	reverse_complement_average: bool = False,
	n_background: int | None = None,
	random_state: int = 0,
	batch_size: int | None = None,
	device: str | torch.device | None = None,
	dtype: str | torch.dtype | None = None,
) -> VariantEffects:
	"""The effects of variants on the predictions of one model or of several.

	Parameters
	----------
	models: Cherimoya, or sequence of them
		Their signal groups and output windows must be the same. Controls are taken as zeros.
	variants: path or iterable of Allele
		A file as `VariantFile` takes it, or alleles.
	genome: Genome
		The sequences; its names of chromosomes count.
	in_window: int, bp
		w. Default is 2114.
	reverse_complement_average: bool
		Average the logits and log counts over both strands. Default is False.
	n_background: int or None
		Shuffled windows to compare with; see `background_scores`. Default is None: none.
	random_state: int
		Seed of the background. Default is 0.
	batch_size, device, dtype
		As for `predict`.

	Returns
	-------
	VariantEffects

	Raises
	------
	InputError
		The file is malformed, the models do not fit each other, or the window is too short.
	"""
	models = [models] if isinstance(models, torch.nn.Module) else list(models)
	out_window = check_models(models, in_window)
	alleles = list(VariantFile(variants).alleles() if isinstance(variants, str | os.PathLike) else variants)
	status = check_alleles(alleles, genome, in_window=in_window, out_window=out_window)
	options = {
		"in_window": in_window,
		"reverse_complement_average": reverse_complement_average,
		"batch_size": batch_size,
		"device": device,
		"dtype": dtype,
	}
	mean, spread = mean_and_spread(score_alleles(models, alleles, genome, status=status, **options))
	percentiles = None
	if n_background is not None:
		drawn = Reservoir(n_background, random_state)
		drawn.update(allele for allele, text in zip(alleles, status, strict=True) if text == SCORED)
		background = background_scores(models, drawn, genome, random_state=random_state, **options)
		percentiles = _by_name(percentiles_of(mean, background))
	return VariantEffects(alleles, status, _by_name(mean), None if spread is None else _by_name(spread), percentiles)


def check_models(models: Sequence[torch.nn.Module], in_window: int, names: Sequence[str] = ()) -> int:
	"""The output window in bp that models share; InputError when they do not, or the window is too short for one.

	Messages call the models by their names, or else by their numbers.
	"""
	if not models:
		raise InputError("no model was given; give at least one")
	names = names or [f"model {number}" for number in range(len(models))]
	for name, model in zip(names, models, strict=True):
		if tuple(model.signal_groups) != tuple(models[0].signal_groups):
			raise InputError(
				f"{name} predicts groups of {list(model.signal_groups)} channels, and {names[0]} groups of "
				f"{list(models[0].signal_groups)}; only models of the same experiments can be averaged"
			)
		if model.trimming != models[0].trimming:
			raise InputError(
				f"{name} cuts {model.trimming} bp from each side, and {names[0]} cuts {models[0].trimming} bp; only "
				"models with one output window can be averaged"
			)
	out_window = in_window - 2 * models[0].trimming
	if out_window < 2:
		raise InputError(
			f"{names[0]} cuts {models[0].trimming} bp from each side, so an in_window of {in_window} bp leaves nothing "
			f"to compare; give more than {2 * models[0].trimming + 1}"
		)
	return out_window


def check_alleles(alleles: Sequence[Allele], genome: Genome, *, in_window: int, out_window: int) -> list[str]:
	"""What becomes of each allele: `SCORED`, or the first of `REASONS` that holds.

	Parameters
	----------
	alleles: sequence of Allele, shape=(n,)
		Of one chromosome after the other, if this is to be quick.
	genome: Genome
		The reference alleles must be in it.
	in_window, out_window: int, bp
		Both windows of an allele must lie on the chromosome; an allele may be half as long as `out_window`.

	Returns
	-------
	list of str, shape=(n,)
	"""
	reader = _Reader(genome, alleles)
	return [_status(allele, reader, in_window, out_window) for allele in alleles]


def place_alleles(alleles: Sequence[Allele], genome: Genome, *, in_window: int) -> Placed:
	"""The reference and alternate windows of alleles that `check_alleles` lets pass.

	Parameters
	----------
	alleles: sequence of Allele, shape=(n,)
		What stands there.
	genome: Genome
		What surrounds it.
	in_window: int, bp
		w.

	Returns
	-------
	Placed
	"""
	return _place(alleles, _Reader(genome, alleles), in_window)


def _place(alleles: Sequence[Allele], reader: "_Reader", in_window: int) -> Placed:
	"""As `place_alleles`."""
	places: dict[tuple[str, int], int] = {}
	references, index = [], np.empty(len(alleles), dtype=np.int64)
	alternates = np.empty((len(alleles), in_window), dtype=np.uint8)
	for i, allele in enumerate(alleles):
		span = _span(allele, in_window)
		codes = reader.read(allele.chrom, span.start, span.end)
		at, after = span.at - span.start, span.at - span.start + len(allele.ref)
		key = (allele.chrom, span.at + len(allele.ref) // 2)
		if key not in places:
			places[key] = len(references)
			first = at - _before(len(allele.ref), in_window)
			references.append(codes[first : first + in_window])
		index[i] = places[key]
		before = _before(len(allele.alt), in_window)
		behind = in_window - before - len(allele.alt)
		parts = (codes[at - before : at], encode(allele.alt), codes[after : after + behind])
		np.concatenate(parts, out=alternates[i])
	stacked = np.stack(references) if references else np.empty((0, in_window), dtype=np.uint8)
	return Placed(stacked, index, alternates, [(len(allele.ref), len(allele.alt)) for allele in alleles])


def score_alleles(
	models: Sequence[torch.nn.Module],
	alleles: Sequence[Allele],
	genome: Genome,
	*,
	status: Sequence[str] | None = None,
	in_window: int = 2114,
	reverse_complement_average: bool = False,
	batch_size: int | None = None,
	device: str | torch.device | None = None,
	dtype: str | torch.dtype | None = None,
	progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
	"""The scores of alleles by each model, `BLOCK` alleles at a time.

	With x the log(1 + counts) that a model predicts for a signal group, and p its profile, the softmax of the logits
	over the positions and channels of the group:

	- ``log2fc_counts`` = (x_alt - x_ref) / ln 2, the log2 of (1 + counts) over (1 + counts);
	- ``jsd_profile`` = H((p_ref + p_alt) / 2) - (H(p_ref) + H(p_alt)) / 2 with H(p) = -sum p ln p, the Jensen-Shannon
	  divergence in nats, from 0 to ln 2;
	- ``l1_profile`` = the sum of abs(p_alt - p_ref), from 0 to 2;
	- ``ref_counts`` = exp(x_ref) - 1 and ``alt_counts`` = exp(x_alt) - 1.

	Where the alleles differ in length, profiles are compared at the positions that both windows have, each scaled to a
	sum of 1 over them: the bases beside the alleles, and the first bases of both up to the length of the shorter one.

	Parameters
	----------
	models: sequence of Cherimoya, shape=(K,)
		With the same signal groups and output windows. Controls are taken as zeros.
	alleles: sequence of Allele, shape=(n,)
		What to score.
	genome: Genome
		The sequences.
	status: sequence of str, shape=(n,), or None
		What `check_alleles` says of them. Default is None: all can be scored.
	in_window: int, bp
		Default is 2114.
	reverse_complement_average: bool
		Average logits and log counts with those of the reverse complement, whose channels are swapped within each
		group only. Default is False.
	batch_size, device, dtype
		As for `predict`.
	progress: callable, optional
		Called with the number of alleles done and to do.

	Returns
	-------
	numpy.ndarray of float64, shape=(K, n, G, 5)
		In the order of `SCORES`; NaN for alleles that cannot be scored.

	Raises
	------
	InputError, SettingsError
		As for `predict`; a model's predictions are not finite numbers.
	"""
	groups = tuple(models[0].signal_groups)
	scores = np.full((len(models), len(alleles), len(groups), len(SCORES)), np.nan)
	chosen = [i for i in range(len(alleles)) if status is None or status[i] == SCORED]
	reader = _Reader(genome, [alleles[i] for i in chosen])
	options = {"batch_size": batch_size, "device": device, "dtype": dtype}
	for first in range(0, len(alleles), BLOCK):
		stop = min(first + BLOCK, len(alleles))
		rows = chosen[bisect_left(chosen, first) : bisect_left(chosen, stop)]
		if rows:
			placed = _place([alleles[i] for i in rows], reader, in_window)
			for k, model in enumerate(models):
				prediction = _predict(model, placed, both_strands=reverse_complement_average, **options)
				scores[k, rows] = compare(prediction, placed, groups, in_window=in_window)
			_check_finite(scores[:, rows])
		if progress is not None:
			progress(stop, len(alleles))
	return scores


def compare(prediction: Prediction, placed: Placed, signal_groups: Sequence[int], *, in_window: int) -> np.ndarray:
	"""The scores out of the predictions for the u reference windows, then the n alternate ones.

	Returns
	-------
	numpy.ndarray of float64, shape=(n, G, 5)
		See `score_alleles`.
	"""
	n_references, index = len(placed.ref_codes), torch.from_numpy(placed.ref_index)
	counts = prediction.log_counts.double()
	ref_counts, alt_counts = counts[:n_references][index], counts[n_references:]
	scores = torch.empty(*alt_counts.shape, len(SCORES), dtype=torch.float64)  # (n, G, 5)
	scores[..., 0] = (alt_counts - ref_counts) / np.log(2)
	scores[..., 3], scores[..., 4] = ref_counts.expm1(), alt_counts.expm1()
	rows_of: dict[tuple[int, int], list[int]] = {}
	for row, (ref, alt) in enumerate(placed.lengths):
		rows_of.setdefault((0, 0) if ref == alt else (ref, alt), []).append(row)
	for lengths, chosen in rows_of.items():
		rows = torch.tensor(chosen)
		ref_logits, alt_logits = prediction.logits[index[rows]], prediction.logits[n_references + rows]
		if lengths != (0, 0):
			ref_logits, alt_logits = _shared(ref_logits, alt_logits, *lengths, in_window)
		for group, channels in enumerate(group_slices(signal_groups)):
			scores[rows, group, 1:3] = _profile_scores(ref_logits[:, channels], alt_logits[:, channels])
	return scores.numpy()


def mean_and_spread(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
	"""The mean over models, and the standard deviation with n - 1; (K, n, G, 5) -> (n, G, 5) each, None for one."""
	return scores.mean(axis=0), scores.std(axis=0, ddof=1) if len(scores) > 1 else None


class Reservoir:
	"""A random sample of a stream of alleles, each as likely as any other.

	Parameters
	----------
	size: int
		Alleles to keep.
	random_state: int
		Seed.

	Attributes
	----------
	size: int
	kept: list of Allele
		`size` of those that were seen, or all where there were fewer.
	"""

	def __init__(self, size: int, random_state: int) -> None:
		if isinstance(size, bool) or not isinstance(size, int) or size < 1:
			raise SettingsError(f"n_background must be a whole number of at least 1, or None for none, got {size!r}")
		self.size, self.kept = size, []
		self._seen, self._random = 0, Random(random_state)

	def update(self, alleles: Iterable[Allele]) -> None:
		"""Show some alleles to the sample."""
		for allele in alleles:
			self._seen += 1
			if len(self.kept) < self.size:
				self.kept.append(allele)
			elif (place := self._random.randrange(self._seen)) < self.size:
				self.kept[place] = allele


def background_scores(
	models: Sequence[torch.nn.Module],
	drawn: Reservoir,
	genome: Genome,
	*,
	in_window: int = 2114,
	random_state: int = 0,
	progress: Callable[[int, int], None] | None = None,
	**options: Any,
) -> np.ndarray:
	"""How large scores are without the variants' surroundings: the same alleles in shuffled windows.

	The stretch around each drawn allele is shuffled so that its dinucleotides, and with them GC and CpG content, stay;
	then both alleles are put in its middle and scored. Where fewer alleles were drawn than the size of the background,
	they take turns, with another shuffle each time.

	Parameters
	----------
	models: sequence of Cherimoya
		As for `score_alleles`.
	drawn: Reservoir
		Alleles that `check_alleles` lets pass.
	genome: Genome
		The sequences.
	in_window: int, bp
		Default is 2114.
	random_state: int
		Seed of the shuffles. Default is 0.
	progress, options
		As for `score_alleles`.

	Returns
	-------
	numpy.ndarray of float64, shape=(n_background, G, 3)
		Absolute values of the first `RANKED` scores, the means over the models, each column sorted.
	"""
	if not drawn.kept:
		return np.empty((0, len(models[0].signal_groups), RANKED))
	reader, found = _Reader(genome, drawn.kept), []
	for first in range(0, drawn.size, BLOCK):
		sequences, alleles = {}, []
		for number in range(first, min(first + BLOCK, drawn.size)):
			copy, i = divmod(number, len(drawn.kept))
			allele = drawn.kept[i]
			span = _span(allele, in_window)
			codes = reader.read(allele.chrom, span.start, span.end)[None]
			sequence = dinucleotide_shuffle(codes, 1, random_state=random_state + copy)[0, 0].numpy()
			at = span.at - span.start
			sequence[at : at + len(allele.ref)] = encode(allele.ref)
			sequences[str(number)] = sequence
			alleles.append(allele._replace(chrom=str(number), position=at + 1))
		scores = score_alleles(models, alleles, Genome(sequences), in_window=in_window, **options)
		found.append(np.abs(scores.mean(axis=0)[..., :RANKED]))
		if progress is not None:
			progress(min(first + BLOCK, drawn.size), drawn.size)
	return np.sort(np.concatenate(found), axis=0)


def percentiles_of(scores: np.ndarray, background: np.ndarray) -> np.ndarray:
	"""The share of a background, in percent, whose scores are nearer to 0.

	Parameters
	----------
	scores: numpy.ndarray, shape=(n, G, 5)
		In the order of `SCORES`.
	background: numpy.ndarray, shape=(b, G, 3)
		Absolute values, each column sorted.

	Returns
	-------
	numpy.ndarray of float64, shape=(n, G, 3)
	"""
	shares = np.full((*scores.shape[:2], RANKED), np.nan)
	for group in range(scores.shape[1]):
		for k in range(RANKED if len(background) else 0):
			below = np.searchsorted(background[:, group, k], np.abs(scores[:, group, k]), side="left")
			shares[:, group, k] = np.where(np.isnan(scores[:, group, k]), np.nan, 100 * below / len(background))
	return shares


def encode(bases: str) -> np.ndarray:
	"""The codes of a text of A, C, G and T, shape=(length,)."""
	return np.frombuffer(bases.encode().translate(_CODES), dtype=np.uint8)


class _Reader:
	"""Reads stretches of chromosomes: out of whole ones where many alleles are on them, else each by itself."""

	def __init__(self, genome: Genome, alleles: Sequence[Allele]) -> None:
		self.genome = genome
		counts: dict[str, int] = {}
		visits: dict[str, int] = {}
		for chrom, group in groupby(allele.chrom for allele in alleles):
			counts[chrom] = counts.get(chrom, 0) + sum(1 for _ in group)
			visits[chrom] = visits.get(chrom, 0) + 1
		self.names = {chrom: genome.names.resolve(chrom) for chrom in counts}
		self.whole = {chrom for chrom, n in counts.items() if n >= _WHOLE * visits[chrom]}

	def size(self, chrom: str) -> int | None:
		"""The length of a chromosome in bp; None where the genome has none of the name."""
		return self.genome.chrom_sizes.get(self.names[chrom])

	def read(self, chrom: str, start: int, end: int) -> np.ndarray:
		"""The codes of the bases [start, end)."""
		take = self.genome.codes if chrom in self.whole else self.genome.read
		return take(self.names[chrom], start, end)


def _status(allele: Allele, reader: _Reader, in_window: int, out_window: int) -> str:
	"""What becomes of an allele."""
	if (reason := unfit(allele)) is not None:
		return reason
	size = reader.size(allele.chrom)
	if size is None:
		return UNKNOWN_CHROM
	if max(len(allele.ref), len(allele.alt)) > out_window // 2:
		return TOO_LONG
	span = _span(allele, in_window)
	if span.start < 0 or span.end > size:
		return OFF_THE_EDGE
	there = reader.read(allele.chrom, span.at, min(size, span.at + max(len(allele.ref), len(allele.alt))))
	if np.array_equal(there[: len(allele.ref)], encode(allele.ref)):
		return SCORED
	return SWAPPED if np.array_equal(there[: len(allele.alt)], encode(allele.alt)) else MISMATCH


def _before(length: int, in_window: int) -> int:
	"""How many bases of a window are before an allele in its middle."""
	return in_window // 2 - length // 2


def _span(allele: Allele, in_window: int) -> Span:
	"""Where the bases of both windows are; the end covers an alternate allele in place of the reference, too."""
	at = allele.position - 1
	lengths = (len(allele.ref), len(allele.alt))
	before = max(_before(length, in_window) for length in lengths)
	behind = max(in_window - _before(length, in_window) - length for length in lengths)
	return Span(at - before, at + len(allele.ref) + behind, at)


def _shared(
	ref_logits: torch.Tensor, alt_logits: torch.Tensor, ref: int, alt: int, in_window: int
) -> tuple[torch.Tensor, torch.Tensor]:
	"""The logits at the positions that two windows share, in one order, (n, T, out) -> (n, T, shared) each."""
	out = ref_logits.shape[-1]
	trimming = (in_window - out) // 2
	ref_at, alt_at = (_before(length, in_window) - trimming for length in (ref, alt))  # where the alleles begin
	before = min(ref_at, alt_at)
	same = min(ref, alt)
	behind = min(out - ref_at - ref, out - alt_at - alt)
	cut = []
	for logits, at, length in ((ref_logits, ref_at, ref), (alt_logits, alt_at, alt)):
		left, right = logits[..., at - before : at + same], logits[..., at + length : at + length + behind]
		cut.append(torch.cat([left, right], dim=-1))
	return cut[0], cut[1]


def _profile_scores(ref_logits: torch.Tensor, alt_logits: torch.Tensor) -> torch.Tensor:
	"""Divergence and L1 distance of the profiles of a group, (n, c, out) of logits -> (n, 2)."""
	log_p, log_q = (logits.flatten(1).double().log_softmax(dim=-1) for logits in (ref_logits, alt_logits))
	p, q = log_p.exp(), log_q.exp()
	log_m = torch.logaddexp(log_p, log_q) - np.log(2)
	divergence = (p * (log_p - log_m) + q * (log_q - log_m)).sum(dim=-1) / 2
	return torch.stack([divergence.clamp(min=0), (p - q).abs().sum(dim=-1)], dim=-1)


def _predict(model: torch.nn.Module, placed: Placed, *, both_strands: bool, **options: Any) -> Prediction:
	"""The predictions for the reference windows, then the alternate ones, with zeros for controls."""
	wrapped = ControlWrapper(model) if model.n_control_tracks else model
	codes = np.concatenate([placed.ref_codes, placed.alt_codes])
	prediction = predict(wrapped, codes, **options)
	if not both_strands:
		return prediction
	return _averaged(prediction, predict(wrapped, _COMPLEMENT[codes[:, ::-1]], **options), model.signal_groups)


def _check_finite(scores: np.ndarray) -> None:
	"""InputError unless all scores are finite, (K, n, G, 5)."""
	broken = int((~np.isfinite(scores)).any(axis=(0, 2, 3)).sum())
	if broken:
		raise InputError(
			f"the predictions for {broken:,} of {scores.shape[1]:,} alleles are not finite numbers; a model may be "
			"broken, or dtype too narrow for it (float32 is the widest)"
		)


def _averaged(forward: Prediction, reverse: Prediction, signal_groups: Sequence[int]) -> Prediction:
	"""The mean of the predictions for sequences and for their reverse complements."""
	turned = reverse.logits[:, reverse_complement_order(signal_groups)].flip(-1)
	return Prediction((forward.logits + turned) / 2, (forward.log_counts + reverse.log_counts) / 2)


def _by_name(scores: np.ndarray) -> dict[str, np.ndarray]:
	"""(n, G, s) as an array of shape (n, G) for each of the first s scores."""
	return {name: scores[..., k] for k, name in enumerate(SCORES[: scores.shape[-1]])}
