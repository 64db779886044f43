"""What attributions that compare with references share: going through pairs, averages, and checks of their sums."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from tqdm import tqdm

from cherimoya.cherimoya import Cherimoya
from cherimoya.errors import InputError, SettingsError
from cherimoya.interpret._batches import (
	Array,
	autocast,
	check_arrays,
	evaluating,
	in_batches,
	parameter_dtype,
	to_batch,
	to_tensor,
)
from cherimoya.interpret.attribution import check_group, check_one_hot
from cherimoya.interpret.references import dinucleotide_shuffle
from cherimoya.io.genome import one_hot
from cherimoya.wrappers import ControlWrapper

References = Array | Literal["zeros"] | None
# Sequences whose references are drawn together.
_SEQUENCES = 64


class Attribution(NamedTuple):
	"""Scores of n sequences, and how exact they are for each of R references.

	Attributes
	----------
	scores: torch.Tensor, shape=(n, 4, end - start)
	differences: torch.Tensor, shape=(n, R)
		f(x) - f(reference).
	deltas: torch.Tensor, shape=(n, R)
		The sum of all contributions of the whole sequence, minus that difference: 0 but for rounding if exact.
	"""

	scores: torch.Tensor
	differences: torch.Tensor
	deltas: torch.Tensor

	@property
	def completeness_error(self) -> float:
		"""The largest absolute delta; 0 without sequences."""
		return float(self.deltas.abs().max()) if self.deltas.numel() else 0.0


class Pairs(NamedTuple):
	"""Multipliers of a sequence and some references, with the outputs.

	Attributes
	----------
	multipliers: torch.Tensor, shape=(R, 4, L)
	f: torch.Tensor, shape=(1,)
		Of the sequence.
	f0: torch.Tensor, shape=(R,)
		Of the references.
	"""

	multipliers: torch.Tensor
	f: torch.Tensor
	f0: torch.Tensor


class Options(NamedTuple):
	"""The arguments that `deep_lift_shap` and `integrated_gradients` share; see there."""

	references: References
	n_shuffles: int
	random_state: int
	start: int
	end: int
	hypothetical: bool
	batch_size: int
	device: str | torch.device | None
	dtype: str | torch.dtype | None
	verbose: bool
	progress: Callable[[int, int], None] | None


def check_inputs(X: Array, X_ctl: Array | None, references: References, n_shuffles: int, batch_size: int) -> int:
	"""Refuse sequences, controls and references that are not what they should be; returns the number of references."""
	check_arrays(X, X_ctl)
	check_one_hot(X)
	if batch_size < 1:
		raise SettingsError(f"batch_size must be at least 1, got {batch_size}")
	if references is None:
		if n_shuffles < 1:
			raise SettingsError(f"n_shuffles must be at least 1, got {n_shuffles}")
		return n_shuffles
	if isinstance(references, str):
		if references != "zeros":
			raise SettingsError(f'references must be an array, "zeros", or None for shuffles, got {references!r}')
		return 1
	n, length = len(X), X.shape[-1]
	codes = references.ndim == 3 and "uint8" in str(references.dtype)
	shape = (n, references.shape[1], length) if codes else (n, references.shape[1], 4, length)
	if tuple(references.shape) != shape or not references.shape[1]:
		raise InputError(
			f"references must have shape ({n}, R, 4, {length}), or ({n}, R, {length}) as uint8 base codes, for X of "
			f"shape {tuple(X.shape)}; got shape {tuple(references.shape)} and dtype {references.dtype}"
		)
	return references.shape[1]


def unwrap(model: torch.nn.Module, group: int | None, output: str) -> Cherimoya:
	"""The model itself, checked against what is to be explained."""
	inner = model.model if isinstance(model, ControlWrapper) else model
	if not isinstance(inner, Cherimoya):
		raise InputError(
			f"the model must be a Cherimoya, or a ControlWrapper around one, got {type(model).__name__}; output and "
			"group choose what is explained"
		)
	if output not in ("counts", "profile"):
		raise SettingsError(f'output must be "counts" or "profile", got {output!r}')
	check_group(model, group)
	return inner


def contrast(
	model: torch.nn.Module,
	pairs: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], Pairs],
	X: Array,
	X_ctl: Array | None,
	options: Options,
) -> Attribution:
	"""Scores A[b, i] = mean over references of (m[b, i] - Σ_c m[c, i]·reference[c, i]), with the multipliers of pairs.

	`pairs` takes a sequence (1, 4, L), some references (r, 4, L), and controls (1, tracks, L) or None.
	"""
	n, span = len(X), slice(options.start, options.end)
	n_references = check_inputs(X, X_ctl, options.references, options.n_shuffles, options.batch_size)
	total, done = n * n_references, 0
	scores, differences, deltas = [], [], []
	with (
		evaluating(model, options.device) as place,
		tqdm(total=total, unit="pair", disable=None if options.verbose else True) as bar,
	):
		dtype = parameter_dtype(model)
		for i in range(n):
			if i % _SEQUENCES == 0:
				drawn = _draw(X[i : i + _SEQUENCES], options, slice(i, i + _SEQUENCES))  # (m, R, L) or (m, R, 4, L)
			x, x_ctl = to_batch(X, X_ctl, slice(i, i + 1), device=place, dtype=dtype)
			score = x.new_zeros(4, options.end - options.start)
			for rows, (part, difference, delta) in in_batches(
				n_references,
				options.batch_size,
				partial(_compare, pairs, x, drawn[i % _SEQUENCES], x_ctl, options),
				device=place,
				what="the pair of a sequence and reference",
			):
				score += part[:, span]  # summed before it is cut: the same whatever the span
				differences.append(difference)
				deltas.append(delta)
				done += rows.stop - rows.start
				bar.update(rows.stop - rows.start)
				if options.progress is not None:
					options.progress(done, total)
			score /= n_references
			scores.append((score if options.hypothetical else score * x[0, :, span]).cpu())
	if not n:
		return Attribution(torch.empty(0, 4, options.end - options.start), *torch.empty(2, 0, n_references))
	shape = (n, n_references)
	return Attribution(torch.stack(scores), torch.cat(differences).view(shape), torch.cat(deltas).view(shape))


def _compare(
	pairs: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], Pairs],
	x: torch.Tensor,
	drawn: torch.Tensor,
	x_ctl: torch.Tensor | None,
	options: Options,
	rows: slice,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
	"""Scores summed over some references (4, L), and the difference and delta of each (r,), on the CPU."""
	given = drawn[rows].to(x.device)
	x0 = one_hot(given, dtype=x.dtype) if given.ndim == 2 else given.to(x.dtype)  # (r, L) -> (r, 4, L)
	with autocast(x.device, options.dtype):
		m, f, f0 = pairs(x, x0, x_ctl)
	taken = (m * x0).sum(1, keepdim=True)  # (r, 4, L) -> (r, 1, L)
	contributions = (m * x).sum(1, keepdim=True) - taken
	difference = (f - f0).double().cpu()
	return (m - taken).sum(0), difference, contributions.double().sum((1, 2)).cpu() - difference


def _draw(X: Array, options: Options, rows: slice) -> torch.Tensor:
	"""The references of some sequences, as base codes (m, R, L) or values (m, R, 4, L), on the CPU."""
	if options.references is None:
		return dinucleotide_shuffle(X, options.n_shuffles, random_state=options.random_state)
	if isinstance(options.references, str):
		return torch.zeros(len(X), 1, 4, X.shape[-1])
	return to_tensor(options.references[rows])
