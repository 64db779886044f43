"""Contributions of bases to a prediction, by making every possible substitution."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from tqdm import tqdm

from cherimoya.errors import InputError, SettingsError
from cherimoya.interpret._batches import (
	Array,
	autocast,
	check_arrays,
	evaluating,
	parameter_dtype,
	to_batch,
	to_tensor,
)
from cherimoya.wrappers import LogCountWrapper, ProfileWrapper

# Sequences are taken in blocks of about this many batches, so that few batches are only partly filled.
_BATCHES_PER_BLOCK = 64


def saturation_mutagenesis(
	model: torch.nn.Module,
	X: Array,
	X_ctl: Array | None = None,
	*,
	output: Literal["counts", "profile"] = "counts",
	group: int | None = None,
	start: int | None = None,
	end: int | None = None,
	batch_size: int = 64,
	device: str | torch.device | None = None,
	dtype: str | torch.dtype | None = None,
	verbose: bool = False,
	progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
	"""Score each base at each position by putting it there and predicting again.

	With f(x) the output, and x[b, i] the sequence with base b at position i, the hypothetical score is
	A[b, i] = f(x[b, i]) - mean over b' of f(x[b', i]). The sum of A · x over bases is the contribution of the
	base that is there (`projected_contributions`). A position takes three predictions, as the fourth is that of
	the sequence itself, made once; a position that is not A, C, G or T (all zero) takes four. Every prediction
	is of a whole sequence: the normalization inside a block couples all positions, so no shorter cut is exact.

	Parameters
	----------
	model: torch.nn.Module
		A model that returns (logits, log counts) and has `signal_groups`: `Cherimoya`, or `ControlWrapper`.
	X: torch.Tensor or numpy.ndarray, shape=(n, 4, L) or (n, L)
		One-hot sequences of any dtype, or uint8 base codes (A, C, G, T = 0 to 3, anything else 4).
	X_ctl: torch.Tensor or numpy.ndarray, shape=(n, tracks, L), optional
		Control signal over the input window, for a model with control tracks; the same for all substitutions.
	output: str
		"counts": f is the log(1 + counts) of `LogCountWrapper`, summed over groups when `group` is None.
		"profile": f is the summary of the profile's shape of `ProfileWrapper`. Default is "counts".
	group: int, optional
		The signal group whose output is explained. Default is None: all of them.
	start, end: int, optional
		The positions of X to score, 0-based and half-open. Default is all.
	batch_size: int
		Sequences per forward pass; batches are filled across positions and sequences. Default is 64.
	device: str or torch.device, optional
		Where to run. Default is the device that the model is on.
	dtype: str or torch.dtype, optional
		"bfloat16" or "float16" to run under autocast: differences of single bases are often lost in the
		rounding. Default is None: the dtype of the weights.
	verbose: bool
		Whether to show a progress bar, on a terminal only. Default is False.
	progress: callable, optional
		Called after each batch with the number of predictions made and to make.

	Returns
	-------
	torch.Tensor, shape=(n, 4, end - start)
		Hypothetical scores on the CPU, in float32 at least. They sum to zero over bases.

	Raises
	------
	InputError
		When X or X_ctl have the wrong shape, or X holds other columns than one-hot and all-zero ones.
	SettingsError
		When the output is unknown, or `group`, `start` or `end` are out of range.

	References
	----------
	Zhou & Troyanskaya, "Predicting effects of noncoding variants with deep learning-based sequence model",
	Nature Methods 12, 2015 (in silico saturated mutagenesis).
	"""
	check_arrays(X, X_ctl)
	start, end = _check_span(start, end, X.shape[-1])
	check_one_hot(X)
	explained = _explained(model, output, group)
	total = n_predictions(X, start=start, end=end)
	n = len(X)
	block_size = -(-_BATCHES_PER_BLOCK * batch_size // (4 * (end - start)))
	scores: torch.Tensor | None = None
	done = 0
	with evaluating(model, device) as place, tqdm(total=total, unit="seq", disable=None if verbose else True) as bar:

		def advance(count: int) -> None:
			nonlocal done
			done += count
			bar.update(count)
			if progress is not None:
				progress(done, total)

		for first in range(0, n, block_size):
			rows = slice(first, min(first + block_size, n))
			with torch.inference_mode(), autocast(place, dtype):
				block = _Block(*to_batch(X, X_ctl, rows, device=place, dtype=parameter_dtype(model)))
				values = _substitute_all(explained, block, start, end, batch_size, advance)  # (m, 4, end - start)
			if scores is None:
				scores = torch.empty(n, 4, end - start, dtype=values.dtype)
			scores[rows] = values - values.mean(dim=1, keepdim=True)
	return torch.empty(0, 4, end - start) if scores is None else scores


def projected_contributions(attributions: Array, X: Array) -> torch.Tensor:
	"""The contribution of the base that is there: the sum over bases of attributions times one-hot bases.

	Parameters
	----------
	attributions: torch.Tensor or numpy.ndarray, shape=(n, 4, W)
		Hypothetical scores.
	X: torch.Tensor or numpy.ndarray, shape=(n, 4, W)
		One-hot sequences over the same positions, of any dtype; an all-zero column gives 0.

	Returns
	-------
	torch.Tensor, shape=(n, W)
	"""
	attributions, X = to_tensor(attributions), to_tensor(X)
	if attributions.shape != X.shape:
		raise InputError(
			f"attributions and sequences must cover the same positions, got shapes {tuple(attributions.shape)} "
			f"and {tuple(X.shape)}"
		)
	return (attributions * X).sum(dim=1)  # (n, 4, W) -> (n, W)


def n_predictions(X: Array, *, start: int, end: int) -> int:
	"""How many predictions the substitutions at positions [start, end) take: 3 a base, 4 an N, 1 a sequence."""
	window = X[..., start:end]
	known = int((window < 4).sum()) if X.ndim == 2 else int((window != 0).sum())
	return len(X) + 4 * len(X) * (end - start) - known


def check_group(model: torch.nn.Module, group: int | None) -> None:
	"""SettingsError unless `group` is None or the number of one of the model's signal groups."""
	n_groups = len(model.signal_groups)
	if group is not None and not 0 <= group < n_groups:
		raise SettingsError(
			f"group must be one of the model's {n_groups} signal groups, 0 to {n_groups - 1}, or null for all of them, "
			f"got {group}"
		)


def check_one_hot(X: Array) -> None:
	"""Refuse base codes above 4, and columns that are neither one-hot nor all zero; InputError says where."""
	for first in range(0, len(X), 256):
		block = to_tensor(X[first : first + 256])
		if block.ndim == 2:
			bad = block > 4
		else:
			bad = ((block != 0) & (block != 1)).any(dim=1) | ((block != 0).sum(dim=1) > 1)  # (m, 4, L) -> (m, L)
		if bad.any():
			row, position = (int(i) for i in bad.nonzero()[0])
			raise InputError(
				f"sequence {first + row}, position {position}: {block[row, ..., position].tolist()} is not a one-hot "
				"base (all zero for an unknown one), nor a base code of 0 to 4; substitutions need known bases"
			)


class _Block(NamedTuple):
	"""Some sequences on the device: X (m, 4, L), and X_ctl (m, tracks, L) or None."""

	X: torch.Tensor
	X_ctl: torch.Tensor | None


def _substitute_all(
	explained: Callable[..., torch.Tensor],
	block: _Block,
	start: int,
	end: int,
	batch_size: int,
	advance: Callable[[int], None],
) -> torch.Tensor:
	"""The outputs with every base at every position of [start, end), shape (m, 4, end - start), on the CPU."""
	X, X_ctl = block
	m, window = len(X), X[:, :, start:end].cpu()  # (m, 4, end - start)
	edits = (window == 0).nonzero()  # (n_edits, 3): sequence, base, position within the window
	sequence = torch.cat([torch.arange(m), edits[:, 0]]).to(X.device)  # the sequences themselves come first
	base, position = edits[:, 1].to(X.device), edits[:, 2].to(X.device) + start
	outputs = []
	for first in range(0, len(sequence), batch_size):
		last = min(first + batch_size, len(sequence))
		X_edited = X[sequence[first:last]]  # (batch, 4, L), a copy
		edited = torch.arange(max(m - first, 0), last - first, device=X.device)
		which = slice(max(first - m, 0), max(last - m, 0))
		X_edited[edited, :, position[which]] = 0
		X_edited[edited, base[which], position[which]] = 1
		controls = () if X_ctl is None else (X_ctl[sequence[first:last]],)
		outputs.append(explained(X_edited, *controls))
		advance(last - first)
	f = torch.cat(outputs).cpu()
	f = f.to(torch.promote_types(f.dtype, torch.float32))
	values = f[:m, None, None].repeat(1, 4, end - start)  # (m,) -> (m, 4, end - start)
	values[edits[:, 0], edits[:, 1], edits[:, 2]] = f[m:]
	return values


def _explained(model: torch.nn.Module, output: str, group: int | None) -> Callable[..., torch.Tensor]:
	"""The function of sequences that is explained: (batch, 4, L) -> (batch,)."""
	if output not in ("counts", "profile"):
		raise SettingsError(f'output must be "counts" or "profile", got {output!r}')
	check_group(model, group)
	wrapper = LogCountWrapper(model, group) if output == "counts" else ProfileWrapper(model, group)
	return lambda *arguments: wrapper(*arguments).sum(dim=-1)  # (batch, G) -> (batch,)


def _check_span(start: int | None, end: int | None, length: int) -> tuple[int, int]:
	"""The positions to score as a checked (start, end)."""
	start = 0 if start is None else start
	end = length if end is None else end
	if not 0 <= start < end <= length:
		raise SettingsError(
			f"start and end must satisfy 0 <= start < end <= {length}, the length of X, got {start} and {end}"
		)
	return start, end
