"""What a motif does by itself: predictions for background sequences with and without it, compared.

A motif of w bases is put at the bases [L // 2 - w // 2, L // 2 - w // 2 + w) of a window of L bases, as itself and as
its reverse complement. Averaged over many backgrounds, the difference is the effect of the motif alone: what else is
around it comes and goes.

References
----------
Koo, Majdandzic, Ploenzke, Anand & Paul (2021), "Global importance analysis: an interpretability method to quantify
importance of genomic features in deep neural networks", PLoS Computational Biology 17.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from cherimoya.cherimoya import Cherimoya
from cherimoya.errors import InputError, SettingsError
from cherimoya.groups import reverse_complement_order
from cherimoya.interpret import rules
from cherimoya.interpret._batches import (
	Array,
	autocast,
	check_arrays,
	evaluating,
	in_batches,
	parameter_dtype,
	to_batch,
)
from cherimoya.interpret._contrast import unwrap
from cherimoya.interpret.deep_lift_shap import _to_sequence as to_sequence
from cherimoya.interpret.predict import Prediction, expected_counts, predict
from cherimoya.interpret.references import dinucleotide_shuffle, to_codes
from cherimoya.interpret.variants import Placed, compare
from cherimoya.io.motifs import Motif, information, read_motifs
from cherimoya.wrappers import ControlWrapper

MEASURES = ("log2fc_counts", "jsd_profile", "l1_profile", "counts_without", "counts_with")
"""What is computed for each motif, orientation, background and signal group; see `marginalize`."""
SUMMARIES = (
	"log2fc_counts",
	"log2fc_counts_se",
	"same_sign",
	"p_value",
	"log2fc_counts_forward",
	"log2fc_counts_reverse",
	"jsd_profile",
	"l1_profile",
	"counts_without",
	"counts_with",
)
"""What `summarize` makes of them for each motif and signal group."""
MIN_INFORMATION = 0.25
"""Bits below which a position of a motif keeps the background's base, unless another limit is given."""
PROFILE_WINDOW = 200
"""bp around a motif whose average profile is kept, unless another number is given."""

BLOCK = 512
"""Sequences whose predictions are held at a time; motifs share one where there are few backgrounds."""
_PAIRS = 20  # sequences with a motif, each beside its background, whose contributions are made at a time
_KEEP = 4  # in an insert: the background's base stays
_COMPLEMENT = np.array([3, 2, 1, 0, _KEEP], dtype=np.uint8)
_EXACT = 50  # the most differences whose signed ranks are counted rather than approximated


class Marginalization(NamedTuple):
	"""The effects of M motifs in n backgrounds.

	Attributes
	----------
	motifs: list of Motif
		The motifs, in their order.
	inserts: list of str
		The bases that were put in; N where the background's base stays.
	effects: numpy.ndarray of float64, shape=(M, 2, n, G, 5)
		As the motif is and as its reverse complement, in each background, for each signal group: `MEASURES`.
	before, after: numpy.ndarray of float32, shape=(M, T, W)
		Expected counts around the motif without and with it, the mean over backgrounds and orientations, as seen along
		the motif: in the reverse complement, positions and the channels of a group change places. Position j is that of
		the motif's base j - W // 2 + w // 2.
	contributions: numpy.ndarray of float64, shape=(M, G, widest w), or None
		What each base of the motif contributes to ``log2fc_counts``, the mean over backgrounds and orientations; NaN
		beyond the end of a motif. None unless they were asked for.
	"""

	motifs: list[Motif]
	inserts: list[str]
	effects: np.ndarray
	before: np.ndarray
	after: np.ndarray
	contributions: np.ndarray | None

	def summary(self) -> dict[str, np.ndarray]:
		"""Each of `SUMMARIES`, shape=(M, G); see `summarize`."""
		return summarize(self.effects)


def marginalize(
	model: torch.nn.Module,
	motifs: str | os.PathLike | Sequence[Motif],
	backgrounds: Array,
	*,
	without: Prediction | None = None,
	min_information: float = MIN_INFORMATION,
	profile_window: int = PROFILE_WINDOW,
	attributions: bool = False,
	batch_size: int | None = None,
	device: str | torch.device | None = None,
	dtype: str | torch.dtype | None = None,
	progress: Callable[[int, int], None] | None = None,
) -> Marginalization:
	"""The effect of each motif on the predictions for backgrounds.

	What is put in is the likeliest base of each position of the motif, the first of A, C, G and T where several are
	equally likely. Positions of less than `min_information` bits say too little to choose one: there the background's
	own base stays, so that its average over backgrounds counts.

	With x the log(1 + counts) that the model predicts for a signal group, and p its profile, the softmax of the logits
	over the positions and channels of the group, with the motif (w) and without (o):

	- ``log2fc_counts`` = (x_w - x_o) / ln 2;
	- ``jsd_profile``, the Jensen-Shannon divergence of p_w and p_o in nats, and ``l1_profile``, the sum of
	  abs(p_w - p_o), as for variants (`cherimoya.interpret.variants.score_alleles`);
	- ``counts_without`` = exp(x_o) - 1 and ``counts_with`` = exp(x_w) - 1.

	The contributions are those of `deep_lift_shap` with the background as the only reference. Over the bases of the
	motif they sum to ``log2fc_counts``, as no other base changes; a base that a background already has adds 0.

	Parameters
	----------
	model: torch.nn.Module
		`Cherimoya`, or another module with `signal_groups` that returns (logits, log counts). Controls are taken as
		zeros. Contributions need a `Cherimoya`.
	motifs: path or sequence of Motif, shape=(M,)
		A database as `read_motifs` takes it, or motifs.
	backgrounds: torch.Tensor or numpy.ndarray, shape=(n, 4, L) or (n, L)
		One-hot sequences, or uint8 base codes; see `draw_backgrounds`.
	without: Prediction, optional
		The predictions for the backgrounds, where they are known. Default is None: they are made.
	min_information: float, bits
		0 puts in a base at every position. Default is 0.25, where the likeliest base of an otherwise even position has
		a probability of 0.53.
	profile_window: int, bp
		W, the positions around the motif whose expected counts are kept; made even, and cut to the output window.
		Default is 200.
	attributions: bool
		Whether to compute contributions, each as slow as three predictions or more. Default is False.
	batch_size, device, dtype
		As for `predict`.
	progress: callable, optional
		Called after each batch with the number of predictions (and contributions) made and to make.

	Returns
	-------
	Marginalization

	Raises
	------
	InputError
		There is no motif or no background, a motif is longer than the output window or nowhere informative enough, the
		model is none that can be used, or its predictions are not finite numbers.
	SettingsError
		An option is out of range.

	References
	----------
	Koo et al. (2021), PLoS Computational Biology 17; Schneider & Stephens (1990), Nucleic Acids Research 18
	(information).
	"""
	motifs = read_motifs(motifs) if isinstance(motifs, str | os.PathLike) else list(motifs)
	codes = _check_backgrounds(backgrounds)
	options = {"batch_size": batch_size, "device": device, "dtype": dtype}
	wrapped = ControlWrapper(model) if getattr(model, "n_control_tracks", 0) and not _is_wrapped(model) else model
	without = predict(wrapped, codes, **options) if without is None else without
	out_window = without.logits.shape[-1]
	inserts = [insert_of(motif, min_information) for motif in motifs]
	check_inserts(motifs, inserts, out_window)
	half = min(profile_window // 2, (out_window - 1) // 2)
	if half < 1:
		raise SettingsError(f"profile_window must be at least 2 bp, and the output window 3, got {profile_window}")
	tell = _Tally(progress, 2 * len(codes) * len(motifs) * (1 + attributions * len(model.signal_groups)))
	work = _Work(wrapped, tuple(model.signal_groups), codes, without, half, attributions, options, tell)
	parts = [_score(work, inserts[some]) for some in _units(len(motifs), len(codes))]
	effects, before, after, contributions = zip(*parts, strict=True)
	return Marginalization(
		motifs,
		[letters(insert) for insert in inserts],
		np.concatenate(effects),
		np.concatenate(before),
		np.concatenate(after),
		_padded([rows for part in contributions for rows in part]) if attributions else None,
	)


def draw_backgrounds(codes: Array, n_loci: int = 100, *, shuffle: bool = False, random_state: int = 0) -> np.ndarray:
	"""Sequences drawn at random, each as likely as any other and none twice, in their order.

	Parameters
	----------
	codes: torch.Tensor or numpy.ndarray, shape=(n, 4, L) or (n, L)
		One-hot sequences or uint8 base codes, such as `Windows.codes` of background loci. May be memory-mapped.
	n_loci: int
		How many; all where there are no more. Default is 100.
	shuffle: bool
		Shuffle each so that its dinucleotides stay (`dinucleotide_shuffle`). Default is False.
	random_state: int
		Seed of the draw and of the shuffles. Default is 0.

	Returns
	-------
	numpy.ndarray of uint8, shape=(min(n, n_loci), L)
		Base codes.

	Raises
	------
	SettingsError
		`n_loci` is below 1.
	"""
	if n_loci < 1:
		raise SettingsError(f"n_loci must be at least 1, got {n_loci}")
	rows = drawn_rows(len(codes), n_loci, random_state)
	drawn = to_codes(codes[rows])
	return dinucleotide_shuffle(drawn, 1, random_state=random_state)[:, 0].numpy() if shuffle else drawn


def drawn_rows(n: int, n_loci: int, random_state: int) -> np.ndarray:
	"""Which of n sequences `draw_backgrounds` takes, in order."""
	return np.sort(np.random.default_rng(random_state).choice(n, min(n, n_loci), replace=False))


def insert_of(motif: Motif, min_information: float = MIN_INFORMATION) -> np.ndarray:
	"""The base codes that stand for a motif, shape=(w,) of uint8; 4 where the background's base stays."""
	if not 0 <= min_information <= 2:
		raise SettingsError(f"min_information must be from 0 to 2 bits, got {min_information:g}")
	chosen = motif.pwm.argmax(axis=0)
	return np.where(information(motif.pwm) >= min_information, chosen, _KEEP).astype(np.uint8)


def letters(insert: np.ndarray) -> str:
	"""The text of an insert; N where the background's base stays."""
	return "".join("ACGTN"[code] for code in insert)


def check_inserts(motifs: Sequence[Motif], inserts: Sequence[np.ndarray], out_window: int) -> None:
	"""InputError when there is no motif, one is longer than the output window in bp, or puts in no base."""
	if not motifs:
		raise InputError("no motif was given; give at least one")
	named = [(str(motif), insert) for motif, insert in zip(motifs, inserts, strict=True)]
	if too_long := [f"{name} ({len(insert)} bp)" for name, insert in named if len(insert) > out_window]:
		more = f" and {len(too_long) - 3:,} more" if len(too_long) > 3 else ""
		raise InputError(
			f"motifs longer than the output window of {out_window} bp: {', '.join(too_long[:3])}{more}; leave them "
			"out, or use longer windows"
		)
	if blank := [name for name, insert in named if not (insert < _KEEP).any()]:
		more = f" and {len(blank) - 3:,} more" if len(blank) > 3 else ""
		raise InputError(
			f"motifs without a position of min_information: {', '.join(blank[:3])}{more}; leave them out, or lower it"
		)


def motifs_at_a_time(n_backgrounds: int) -> int:
	"""How many neighbouring motifs share batches, so that work that is divided keeps them together."""
	return -(-BLOCK // (2 * n_backgrounds))


def summarize(effects: np.ndarray) -> dict[str, np.ndarray]:
	"""What effects are over backgrounds, the two orientations in each averaged first.

	- ``log2fc_counts``: the mean; ``log2fc_counts_se``: its standard error, s / √n (NaN for a single background);
	- ``same_sign``: the share of backgrounds in which the effect has the sign of the mean, from 0 to 1;
	- ``p_value``: of Wilcoxon's signed-rank test that effects are symmetric around 0 (`signed_rank_test`);
	- ``log2fc_counts_forward``, ``log2fc_counts_reverse``: the means of either orientation;
	- ``jsd_profile``, ``l1_profile``, ``counts_without``, ``counts_with``: the means of these measures.

	Parameters
	----------
	effects: numpy.ndarray, shape=(M, 2, n, G, 5)
		See `Marginalization`.

	Returns
	-------
	dict of str to numpy.ndarray of float64, shape=(M, G)
		In the order of `SUMMARIES`.
	"""
	both = effects.mean(axis=1)  # (M, 2, n, G, 5) -> (M, n, G, 5)
	means, folds = both.mean(axis=1), both[..., 0]  # (M, G, 5), (M, n, G)
	n = folds.shape[1]
	forward, reverse = effects[..., 0].mean(axis=2).swapaxes(0, 1)  # (M, 2, G) -> (2, M, G)
	found = {
		"log2fc_counts": means[..., 0],
		"log2fc_counts_se": folds.std(axis=1, ddof=1) / np.sqrt(n) if n > 1 else np.full(means.shape[:2], np.nan),
		"same_sign": (np.sign(folds) == np.sign(means[:, None, :, 0])).mean(axis=1),
		"p_value": np.apply_along_axis(signed_rank_test, 1, folds),
		"log2fc_counts_forward": forward,
		"log2fc_counts_reverse": reverse,
	}
	return {**found, **{name: means[..., k] for k, name in enumerate(MEASURES) if k}}


def ranks(log2fc_counts: np.ndarray) -> np.ndarray:
	"""The place of each motif within its group, from 1 for the largest absolute effect, (M, G) -> (M, G)."""
	order = np.argsort(-np.abs(log2fc_counts), axis=0, kind="stable")
	places = np.empty(log2fc_counts.shape, dtype=np.int64)
	np.put_along_axis(places, order, np.arange(1, len(order) + 1)[:, None], axis=0)
	return places


def signed_rank_test(differences: np.ndarray) -> float:
	"""The two-sided p-value of Wilcoxon's signed-rank test, that differences are symmetric around 0.

	Differences of 0 are left out. With W the sum of the ranks of the positive ones by absolute value, up to 50
	differences without ties are compared with all 2**n choices of signs; for more, or with ties (which share their mean
	rank), W is taken as normal with mean Σ r / 2 and variance Σ r² / 4.

	Parameters
	----------
	differences: numpy.ndarray, shape=(n,)
		Paired differences, or other values.

	Returns
	-------
	float
		1 where all are 0.

	References
	----------
	Wilcoxon (1945), "Individual comparisons by ranking methods", Biometrics Bulletin 1.
	"""
	differences = differences[differences != 0]
	n = len(differences)
	if not n:
		return 1.0
	_, index, counts = np.unique(np.abs(differences), return_inverse=True, return_counts=True)
	rank = (counts.cumsum() - (counts - 1) / 2)[index]
	positive = rank[differences > 0].sum()
	if n <= _EXACT and len(counts) == n:
		ways = np.ones(1)  # how many choices of signs give each sum of ranks
		for r in range(1, n + 1):
			ways = np.pad(ways, (0, r)) + np.pad(ways, (r, 0))
		tail = ways[: int(min(positive, n * (n + 1) / 2 - positive)) + 1].sum()
		return float(min(1.0, 2 * tail / 2.0**n))
	z = (positive - rank.sum() / 2) / np.sqrt((rank**2).sum() / 4)
	return float(torch.special.erfc(torch.tensor(abs(z) / np.sqrt(2), dtype=torch.float64)))


# ---- the work ---------------------------------------------------------------------------------------


class _Work(NamedTuple):
	"""What all motifs share: the model, the backgrounds and how it is run; `half` of the profiles' width in bp."""

	model: torch.nn.Module
	groups: tuple[int, ...]
	codes: np.ndarray
	without: Prediction
	half: int
	attributions: bool
	options: dict[str, Any]
	tell: "_Tally"


class _Tally:
	"""Adds up what the parts of the work count, and tells it."""

	def __init__(self, progress: Callable[[int, int], None] | None, total: int) -> None:
		self.progress, self.total, self.before = progress, total, 0

	def __call__(self, done: int, total: int) -> None:
		"""Note that `done` of a part's `total` are made."""
		if self.progress is not None:
			self.progress(self.before + done, self.total)
		if done == total:
			self.before += total


def _check_backgrounds(backgrounds: Array) -> np.ndarray:
	"""Base codes of the backgrounds, (n, L)."""
	check_arrays(backgrounds, None)
	if not len(backgrounds):
		raise InputError("no background sequence was given; give at least one")
	return to_codes(backgrounds)


def _is_wrapped(model: torch.nn.Module) -> bool:
	return isinstance(model, ControlWrapper)


def _units(n_motifs: int, n_backgrounds: int) -> Iterator[slice]:
	"""The motifs in the lots that share batches."""
	size = motifs_at_a_time(n_backgrounds)
	return (slice(first, first + size) for first in range(0, n_motifs, size))


def _place(codes: np.ndarray, insert: np.ndarray, *, reverse: bool) -> None:
	"""Put an insert, or its reverse complement, in the middle of sequences (m, L), which change."""
	insert = _COMPLEMENT[insert[::-1]] if reverse else insert
	start = codes.shape[1] // 2 - len(insert) // 2
	known = np.flatnonzero(insert < _KEEP)
	codes[:, start + known] = insert[known]


def _score(work: _Work, inserts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
	"""Effects, profiles before and after, and contributions of a lot of motifs."""
	n, total = len(work.codes), 2 * len(inserts) * len(work.codes)
	effects = np.empty((total, len(work.groups), len(MEASURES)))
	sums = np.zeros((2 * len(inserts), *work.without.logits.shape[1:]))
	for first in range(0, total, BLOCK):
		items = np.arange(first, min(first + BLOCK, total))
		which, rows = items // n, items % n  # the motif and orientation, and the background
		codes = work.codes[rows]
		for k in np.unique(which):
			chosen = which == k
			part = codes[chosen]
			_place(part, inserts[k // 2], reverse=bool(k % 2))
			codes[chosen] = part
		prediction = predict(work.model, codes, progress=work.tell, **work.options)
		effects[items] = _compare(work, prediction, rows)
		expected = expected_counts(prediction.logits.double(), prediction.log_counts.double(), work.groups).numpy()
		for k in np.unique(which):
			sums[k] += expected[which == k].sum(axis=0)
	before, after = _profiles(work, inserts, sums / n)
	contributions = _contributions(work, inserts) if work.attributions else []
	return effects.reshape(len(inserts), 2, n, *effects.shape[1:]), before, after, contributions


def _compare(work: _Work, prediction: Prediction, rows: np.ndarray) -> np.ndarray:
	"""The measures of sequences with motifs against those backgrounds without, (m, G, 5)."""
	m = len(rows)
	index = torch.from_numpy(rows)
	pairs = (
		torch.cat([work.without.logits[index], prediction.logits]),
		torch.cat([work.without.log_counts[index], prediction.log_counts]),
	)
	placed = Placed(work.codes[rows], np.arange(m), work.codes[rows], [(1, 1)] * m)
	scores = compare(Prediction(*pairs), placed, work.groups, in_window=work.codes.shape[1])
	if broken := int((~np.isfinite(scores)).any(axis=(1, 2)).sum()):
		raise InputError(
			f"the predictions for {broken:,} of {m:,} sequences are not finite numbers; the model may be broken, or "
			"dtype too narrow for it (float32 is the widest)"
		)
	return scores


def _profiles(work: _Work, inserts: Sequence[np.ndarray], means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
	"""Expected counts around motifs, (M, T, W) without and with, out of those with, (2 M, T, out)."""
	expected = expected_counts(work.without.logits.double(), work.without.log_counts.double(), work.groups)
	mean = expected.mean(dim=0).numpy()
	shape = (len(inserts), len(mean), 2 * work.half)
	before, after = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
	order = reverse_complement_order(work.groups)
	for i, insert in enumerate(inserts):
		start = mean.shape[1] // 2 - len(insert) // 2
		along = np.arange(2 * work.half) - work.half + len(insert) // 2  # counted from the motif's first base
		forward, reverse = start + along, start + len(insert) - 1 - along
		before[i] = (mean[:, forward] + mean[order][:, reverse]) / 2
		after[i] = (means[2 * i][:, forward] + means[2 * i + 1][order][:, reverse]) / 2
	return before, after


def _contributions(work: _Work, inserts: Sequence[np.ndarray]) -> list[np.ndarray]:
	"""What each base of some motifs contributes, the mean over backgrounds and orientations, (G, w) each.

	DeepLIFT's multipliers of a pair are the same either way round. So the background, of which there is one, is taken
	as the sequence, and the sequences with motifs as its references, many at a time.
	"""
	inner = unwrap(work.model, None, "counts")
	length, widest = work.codes.shape[1], max(map(len, inserts))
	left = length // 2 - widest // 2
	sums = np.zeros((2 * len(inserts), len(work.groups), widest))
	total, done = len(sums) * len(work.groups) * len(work.codes), 0
	with evaluating(work.model, work.options["device"]) as place:
		for codes in work.codes[:, None]:  # (1, L)
			changed = np.repeat(codes, len(sums), axis=0)
			for k in range(len(sums)):
				_place(changed[k : k + 1], inserts[k // 2], reverse=bool(k % 2))
			compute = partial(_contribute, work, inner, codes, changed, slice(left, left + widest), place)
			for rows, values in in_batches(len(sums), _PAIRS, compute, device=place, what="a sequence with a motif"):
				sums[rows] += values.cpu().double().numpy()
				done += len(work.groups) * (rows.stop - rows.start)
				work.tell(done, total)
	sums /= len(work.codes) * np.log(2)
	found = []
	for i, insert in enumerate(inserts):
		first = length // 2 - len(insert) // 2 - left
		forward, reverse = sums[2 * i : 2 * i + 2, :, first : first + len(insert)]
		found.append((forward + reverse[:, ::-1]) / 2)
	return found


@torch.inference_mode()
def _contribute(
	work: _Work,
	model: Cherimoya,
	codes: np.ndarray,
	changed: np.ndarray,
	span: slice,
	place: torch.device,
	rows: slice,
) -> torch.Tensor:
	"""Contributions to each group's log counts of a span of changed sequences, against the background: (r, G, span)."""
	dtype = parameter_dtype(model)
	x, x0 = (to_batch(some, None, slice(None), device=place, dtype=dtype)[0] for some in (codes, changed[rows]))
	controls = x.new_zeros(1, model.n_control_tracks, x.shape[-1]) if model.n_control_tracks else None
	with autocast(place, work.options["dtype"]):
		traced = rules.trace(model, x, x0)
		found = []
		for group in range(len(work.groups)):
			_, _, m = rules.counts_head(model, traced, controls, group)
			found.append(((x0 - x) * to_sequence(model, traced, m))[..., span].sum(dim=1))  # (r, 4, L) -> (r, span)
	return torch.stack(found, dim=1)


def _padded(rows: Sequence[np.ndarray]) -> np.ndarray:
	"""Arrays of shape (G, w) as one of shape (M, G, widest w), NaN beyond their ends."""
	padded = np.full((len(rows), len(rows[0]), max(row.shape[1] for row in rows)), np.nan)
	for i, row in enumerate(rows):
		padded[i, :, : row.shape[1]] = row
	return padded
