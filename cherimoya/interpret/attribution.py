"""Contributions of bases to a prediction, by making every possible substitution."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from tqdm import tqdm

from cherimoya.cherimoya import STEM_WIDTH, Cherimoya
from cherimoya.errors import InputError, SettingsError
from cherimoya.interpret._batches import (
	Array,
	autocast,
	check_arrays,
	choose_batch_size,
	evaluating,
	in_batches,
	parameter_dtype,
	to_batch,
	to_tensor,
)
from cherimoya.wrappers import ControlWrapper, LogCountWrapper, ProfileWrapper

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
	batch_size: int | None = None,
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
	The first convolution alone sees a substitution at few positions: its output there replaces that of the sequence.

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
	batch_size: int, optional
		Sequences per forward pass; batches are filled across positions and sequences, and halved when one does not
		fit in memory. Default is None: as many as free memory allows, at most 64 on a CPU and 512 on a GPU.
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
	explained = _Explained.of(model, output, group)
	total = n_predictions(X, start=start, end=end)
	n = len(X)
	scores: torch.Tensor | None = None
	done = 0
	with evaluating(model, device) as place, tqdm(total=total, unit="seq", disable=None if verbose else True) as bar:

		def advance(count: int) -> None:
			nonlocal done
			done += count
			bar.update(count)
			if progress is not None:
				progress(done, total)

		size = choose_batch_size(model, X.shape[-1], batch_size=batch_size, device=place)
		block_size = sequences_per_block(size, start=start, end=end)
		for first in range(0, n, block_size):
			rows = slice(first, min(first + block_size, n))
			with torch.inference_mode(), autocast(place, dtype):
				block = _Block(*to_batch(X, X_ctl, rows, device=place, dtype=parameter_dtype(model)))
				values = _substitute_all(explained, block, start, end, size, advance)  # (m, 4, end - start)
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

	Raises
	------
	InputError
		The shapes differ.
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


def sequences_per_block(batch_size: int, *, start: int, end: int) -> int:
	"""How many sequences share batches: in slices of so many, a long array has the scores that it has as a whole."""
	return min(batch_size, -(-_BATCHES_PER_BLOCK * batch_size // (4 * (end - start))))


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


class _Edits(NamedTuple):
	"""Sequences of a block, by number, with one column, (4,), at one position each put in: three tensors of b rows."""

	sequence: torch.Tensor
	position: torch.Tensor
	column: torch.Tensor


class _Rest(torch.nn.Module):
	"""A model from its stem's output on; without the profile where nobody asks for it."""

	def __init__(self, model: Cherimoya, *, profile: bool) -> None:
		super().__init__()
		self.model, self.profile = model, profile
		self.signal_groups = model.signal_groups

	def forward(self, x: torch.Tensor, X_ctl: torch.Tensor | None = None) -> tuple[torch.Tensor | None, torch.Tensor]:
		"""Logits and log counts for the stem's output x, shape (N, L, C), which is overwritten."""
		if self.profile:
			return self.model._from_stem(x, X_ctl)
		return None, self.model._log_counts(self.model._trunk(x), X_ctl, x.shape[1])


class _Explained(NamedTuple):
	"""The number that is explained, of edited sequences.

	Attributes
	----------
	model: Cherimoya or None
		The model whose stem's output is edited in place of the sequences; None for one that is not as it was built.
	wrapper: torch.nn.Module
		From edited sequences, or from edited outputs of the stem, to numbers of shape (b, G).
	"""

	model: Cherimoya | None
	wrapper: torch.nn.Module

	@classmethod
	def of(cls, model: torch.nn.Module, output: str, group: int | None) -> "_Explained":
		"""The output that is explained; SettingsError if there is no such one."""
		if output not in ("counts", "profile"):
			raise SettingsError(f'output must be "counts" or "profile", got {output!r}')
		check_group(model, group)
		wrapper = LogCountWrapper if output == "counts" else ProfileWrapper
		inner = model.model if type(model) is ControlWrapper else model
		listened = any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
		if type(inner) is not Cherimoya or inner._use_compile or listened:
			return cls(None, wrapper(model, group))
		return cls(inner, wrapper(_Rest(inner, profile=output == "profile"), group))

	def prepare(self, block: _Block) -> Callable[[_Edits], torch.Tensor]:
		"""The function of edits of a block's sequences: b of them -> (b,)."""
		if self.model is None or block.X.shape[-1] < STEM_WIDTH:
			return lambda edits: self._predict(_edited(block.X, edits), block, edits)
		X_ctl = block.X_ctl
		if X_ctl is None and self.model.n_control_tracks:  # only a ControlWrapper comes without
			X_ctl = block.X.new_zeros(len(block.X), self.model.n_control_tracks, block.X.shape[-1])
		block = _Block(block.X, X_ctl)
		self.model._check_inputs(*block)
		x = self.model._stem(block.X)  # (m, 4, L) -> (m, L, C)
		return lambda edits: self._predict(_edited_stem(self.model, x, block.X, edits), block, edits)

	def _predict(self, edited: torch.Tensor, block: _Block, edits: _Edits) -> torch.Tensor:
		controls = () if block.X_ctl is None else (block.X_ctl[edits.sequence],)
		return self.wrapper(edited, *controls).sum(dim=-1)  # (b, G) -> (b,)


def _edited(X: torch.Tensor, edits: _Edits) -> torch.Tensor:
	"""Edited sequences, shape (b, 4, L)."""
	edited = X[edits.sequence]  # a copy
	edited[torch.arange(len(edited), device=X.device), :, edits.position] = edits.column
	return edited


def _edited_stem(model: Cherimoya, x: torch.Tensor, X: torch.Tensor, edits: _Edits) -> torch.Tensor:
	"""The stem's output for edited sequences, (b, L, C): x, that of the sequences X, but around the edits."""
	sequence, position, column = edits
	width, reach = STEM_WIDTH, STEM_WIDTH // 2
	rows = torch.arange(len(sequence), device=x.device)
	first = (position - reach).clamp(0, x.shape[1] - width)  # of `width` positions that the edit is within reach of
	padded = F.pad(X, (reach, reach)).transpose(1, 2)  # (m, 4, L) -> (m, L + 2 * reach, 4)
	seen = first[:, None] + torch.arange(width + 2 * reach, device=x.device)
	pieces = padded[sequence[:, None], seen]  # (b, width + 2 * reach, 4), a copy
	pieces[rows, position - first + reach] = column
	edited = x[sequence]  # (b, L, C), a copy
	edited[rows[:, None], seen[:, :width]] = model._stem(pieces.transpose(1, 2), padding=0)  # (b, width, C)
	return edited


def _substitute_all(
	explained: _Explained,
	block: _Block,
	start: int,
	end: int,
	batch_size: int,
	advance: Callable[[int], None],
) -> torch.Tensor:
	"""The outputs with every base at every position of [start, end), shape (m, 4, end - start), on the CPU."""
	X = block.X
	m, window = len(X), X[:, :, start:end].cpu()  # (m, 4, end - start)
	new = (window == 0).nonzero()  # (n_edits, 3): sequence, base, position within the window
	# The sequences themselves come first: edits that put in what is there.
	sequence = torch.cat([torch.arange(m), new[:, 0]]).to(X.device)
	position = torch.cat([torch.zeros(m, dtype=torch.long), new[:, 2] + start]).to(X.device)
	column = torch.cat([X[:, :, 0], torch.eye(4, dtype=X.dtype, device=X.device)[new[:, 1].to(X.device)]])  # (b, 4)
	predict = explained.prepare(block)
	outputs = []
	for rows, found in in_batches(
		len(sequence),
		batch_size,
		lambda rows: predict(_Edits(sequence[rows], position[rows], column[rows])),
		device=X.device,
	):
		outputs.append(found)
		advance(rows.stop - rows.start)
	f = torch.cat(outputs).cpu()
	f = f.to(torch.promote_types(f.dtype, torch.float32))
	values = f[:m, None, None].repeat(1, 4, end - start)  # (m,) -> (m, 4, end - start)
	values[new[:, 0], new[:, 1], new[:, 2]] = f[m:]
	return values


def _check_span(start: int | None, end: int | None, length: int) -> tuple[int, int]:
	"""The positions to score as a checked (start, end)."""
	start = 0 if start is None else start
	end = length if end is None else end
	if not 0 <= start < end <= length:
		raise SettingsError(
			f"start and end must satisfy 0 <= start < end <= {length}, the length of X, got {start} and {end}"
		)
	return start, end
