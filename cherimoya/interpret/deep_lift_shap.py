"""Contributions of bases to a prediction by DeepLIFT/SHAP: exact rules, averaged over references."""

from collections.abc import Callable
from typing import Any, Literal

import torch

from cherimoya.cheri import CheriBlock
from cherimoya.cherimoya import Cherimoya
from cherimoya.groups import group_slices
from cherimoya.interpret import rules
from cherimoya.interpret._batches import Array
from cherimoya.interpret._contrast import Attribution, Options, Pairs, References, contrast, unwrap
from cherimoya.interpret.attribution import _check_span
from cherimoya.wrappers import Product


def deep_lift_shap(
	model: torch.nn.Module,
	X: Array,
	X_ctl: Array | None = None,
	*,
	output: Literal["counts", "profile"] = "counts",
	group: int | None = None,
	start: int | None = None,
	end: int | None = None,
	references: References = None,
	n_shuffles: int = 20,
	random_state: int = 0,
	hypothetical: bool = True,
	return_deltas: bool = False,
	batch_size: int = 20,
	device: str | torch.device | None = None,
	dtype: str | torch.dtype | None = None,
	verbose: bool = False,
	progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor | Attribution:
	"""Score each base by how much of the difference from reference sequences belongs to it.

	With f(x) the output, and m the multipliers of a sequence x and a reference x0, for which
	f(x) - f(x0) = Σ m·(x - x0) (see `cherimoya.interpret.rules`), the hypothetical score is
	A[b, i] = mean over references of Σ_c m[c, i]·(1[c = b] - x0[c, i]): what base b would contribute. The score of the
	base that is there (`projected_contributions`) is its contribution, and over the whole sequence these sum to
	f(x) - mean f(x0), but for rounding, where x0 has no base at the unknown bases (N) of x; shuffles have none.

	A sequence takes one forward pass, and each reference one forward pass and one of multipliers back.

	Parameters
	----------
	model: torch.nn.Module
		`Cherimoya`, or `ControlWrapper` around one.
	X: torch.Tensor or numpy.ndarray, shape=(n, 4, L) or (n, L)
		One-hot sequences of any dtype, or uint8 base codes (A, C, G, T = 0 to 3, anything else 4).
	X_ctl: torch.Tensor or numpy.ndarray, shape=(n, tracks, L), optional
		Control signal over the input window, for a model with control tracks; the same for the references.
	output: str
		"counts": f is the log(1 + counts) of `LogCountWrapper`, summed over groups when `group` is None.
		"profile": f is the summary of the profile's shape of `ProfileWrapper`. Default is "counts".
	group: int, optional
		The signal group whose output is explained. Default is None: all of them.
	start, end: int, optional
		The positions of X to score, 0-based and half-open. Default is all.
	references: torch.Tensor or numpy.ndarray, shape=(n, R, 4, L) or (n, R, L), or str, optional
		References of each sequence, as values or as uint8 base codes; "zeros" for one of all zeros. Default is None:
		`n_shuffles` of `dinucleotide_shuffle`.
	n_shuffles: int
		Shuffles of each sequence. Default is 20.
	random_state: int
		Seed of the shuffles; those of a sequence depend on nothing else but its bases. Default is 0.
	hypothetical: bool
		Whether to score all four bases (True, default), or only the base that is there, the others 0.
	return_deltas: bool
		Whether to return an `Attribution`, which tells how exact each pair is. Default is False.
	batch_size: int
		Pairs of a sequence and a reference at a time, each of about L·C·(2 + layers·(1 + expansion)) values: 24 MB at
		2,114 bp and the default model. A batch that does not fit in memory is halved. Default is 20.
	device: str or torch.device, optional
		Where to run. Default is the device that the model is on.
	dtype: str or torch.dtype, optional
		"bfloat16" or "float16" to make matrix products under autocast, which is not exact. Default is None: the dtype
		of the weights.
	verbose: bool
		Whether to show a progress bar, on a terminal only. Default is False.
	progress: callable, optional
		Called after each batch with the number of pairs done and to do.

	Returns
	-------
	torch.Tensor, shape=(n, 4, end - start)
		Scores on the CPU, in the dtype of the weights; with `return_deltas`, the `Attribution` that holds them.

	Raises
	------
	InputError
		When X, X_ctl or references have the wrong shape, X holds other columns than one-hot and all-zero ones, or the
		model is another.
	SettingsError
		When the output is unknown, or another option is out of range.

	References
	----------
	Shrikumar, Greenside & Kundaje (2017), "Learning important features through propagating activation differences",
	ICML.
	Lundberg & Lee (2017), "A unified approach to interpreting model predictions", NeurIPS (averaging over references).
	"""
	inner = unwrap(model, group, output)
	channels = slice(None) if group is None else group_slices(inner.signal_groups)[group]

	@torch.inference_mode()
	def pairs(x: torch.Tensor, x0: torch.Tensor, x_ctl: torch.Tensor | None) -> Pairs:
		if x_ctl is None and inner.n_control_tracks and inner is not model:
			x_ctl = x.new_zeros(1, inner.n_control_tracks, x.shape[-1])
		inner._check_inputs(x, x_ctl)
		traced = rules.trace(inner, x, x0)
		if output == "counts":
			f, f0, m = rules.counts_head(inner, traced, x_ctl, group)
		else:
			f, f0, m = rules.profile_head(inner, traced, x_ctl, channels)
		return Pairs(_to_sequence(inner, traced, m), f, f0)

	start, end = _check_span(start, end, X.shape[-1])
	options = Options(
		references, n_shuffles, random_state, start, end, hypothetical, batch_size, device, dtype, verbose, progress
	)
	attribution = contrast(model, pairs, X, X_ctl, options)
	return attribution if return_deltas else attribution.scores


def _to_sequence(model: Cherimoya, traced: rules.Trace, m: torch.Tensor) -> torch.Tensor:
	"""Multipliers at the bases, (R, 4, L), from those where the heads begin, (R, L, C)."""
	for block, rule in zip(reversed(model.blocks), reversed(traced.blocks), strict=True):
		m = rules.block_multipliers(block, rule, m)
	return rules.stem_multipliers(model, traced.stem, m)


def tangermeme_rules() -> dict[type[torch.nn.Module], Callable[..., tuple[torch.Tensor, ...]]]:
	"""The rules that tangermeme's ``deep_lift_shap`` lacks for this package's models and wrappers.

	They are for its argument ``additional_nonlinear_ops``, and cover `CheriBlock` as one operation and the products in
	wrappers; tangermeme's own rules for GELU and softmax do the rest.

	Returns
	-------
	dict of type to callable
		Each callable takes a module, ``grad_input`` and ``grad_output``, whose first half belongs to sequences and the
		second to their references, and returns what is to be passed on instead of ``grad_input``.
	"""
	return {CheriBlock: _block_rule, Product: _product_rule}


@torch.no_grad()
def _block_rule(module: CheriBlock, grad_input: Any, grad_output: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
	"""`rules.block_multipliers` for tangermeme, pair by pair; `module.input` holds sequences, then references."""
	x, x0 = module.input.chunk(2)
	m = torch.stack(grad_output[0].chunk(2))  # (2 * n, L, C) -> (2, n, L, C)
	passed = torch.empty_like(m)
	for i in range(len(x)):
		_, rule = rules.trace_block(module, x[i : i + 1], x0[i : i + 1].clone())
		for half in range(2):
			passed[half, i] = rules.block_multipliers(module, rule, m[half, i : i + 1].clone())[0]
	return (passed.flatten(0, 1),)


_block_rule._reads = ("input",)  # what tangermeme is to keep for it: of the output there is no need


def _product_rule(
	module: Product, grad_input: tuple[torch.Tensor, ...], grad_output: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
	"""The product rule as the mean of the two gradients, m·b and m·b0: the same m arrives at both halves."""
	means = ((x + x0) / 2 for x, x0 in (g.chunk(2) for g in grad_input))
	return tuple(torch.cat([mean, mean]) for mean in means)


_product_rule._reads = ()
