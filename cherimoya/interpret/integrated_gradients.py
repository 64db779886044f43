"""Contributions of bases to a prediction by integrated gradients: plain gradients along a path from references."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch.func import functional_call

from cherimoya.errors import SettingsError
from cherimoya.interpret._batches import Array
from cherimoya.interpret._contrast import Attribution, Options, Pairs, References, contrast, unwrap
from cherimoya.interpret.attribution import _check_span
from cherimoya.wrappers import LogCountWrapper, ProfileWrapper


def integrated_gradients(
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
	n_steps: int = 20,
	random_state: int = 0,
	hypothetical: bool = True,
	return_deltas: bool = False,
	batch_size: int = 20,
	device: str | torch.device | None = None,
	dtype: str | torch.dtype | None = None,
	verbose: bool = False,
	progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor | Attribution:
	"""Score each base by the gradient of the output, averaged along a straight path from reference sequences.

	The multipliers of a sequence x and a reference x0 are m = ∫ ∂f/∂x (x0 + t·(x - x0)) dt over t from 0 to 1, by
	Gauss-Legendre quadrature of `n_steps` points; hypothetical scores follow from them as in `deep_lift_shap`. The
	contributions sum to f(x) - f(x0) as closely as the quadrature is exact: see `Attribution.deltas`.

	A pair takes `n_steps` forward and backward passes, so with one reference (``references="zeros"``) a sequence takes
	about as long as with `deep_lift_shap` and its 20 shuffles, and with as many references `n_steps` times as long.

	Parameters
	----------
	model: torch.nn.Module
		`Cherimoya`, or `ControlWrapper` around one.
	X: torch.Tensor or numpy.ndarray, shape=(n, 4, L) or (n, L)
		One-hot sequences of any dtype, or uint8 base codes (A, C, G, T = 0 to 3, anything else 4).
	X_ctl: torch.Tensor or numpy.ndarray, shape=(n, tracks, L), optional
		Control signal over the input window, for a model with control tracks; the same all along the path.
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
	n_steps: int
		Points of the quadrature. Default is 20.
	random_state: int
		Seed of the shuffles; those of a sequence depend on nothing else but its bases. Default is 0.
	hypothetical: bool
		Whether to score all four bases (True, default), or only the base that is there, the others 0.
	return_deltas: bool
		Whether to return an `Attribution`, which tells how exact each pair is. Default is False.
	batch_size: int
		Sequences per forward and backward pass; a batch that does not fit in memory is halved. Default is 20.
	device: str or torch.device, optional
		Where to run. Default is the device that the model is on.
	dtype: str or torch.dtype, optional
		"bfloat16" or "float16" to run under autocast. Default is None: the dtype of the weights.
	verbose: bool
		Whether to show a progress bar, on a terminal only. Default is False.
	progress: callable, optional
		Called after each batch of pairs with the number of pairs done and to do.

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
	Sundararajan, Taly & Yan (2017), "Axiomatic attribution for deep networks", ICML, section 3.
	"""
	unwrap(model, group, output)
	if n_steps < 1:
		raise SettingsError(f"n_steps must be at least 1, got {n_steps}")
	start, end = _check_span(start, end, X.shape[-1])
	wrapper = LogCountWrapper(model, group) if output == "counts" else ProfileWrapper(model, group)
	nodes, weights = np.polynomial.legendre.leggauss(n_steps)
	points = [((node + 1) / 2, weight / 2) for node, weight in zip(nodes, weights, strict=True)]  # of [-1, 1] to [0, 1]

	def pairs(x: torch.Tensor, x0: torch.Tensor, x_ctl: torch.Tensor | None) -> Pairs:
		# Blocks work out the gradients of weights that want one, even where nobody asks for them.
		fixed = {name: parameter.detach() for name, parameter in wrapper.named_parameters()}

		def outputs(x: torch.Tensor) -> torch.Tensor:
			controls = () if x_ctl is None else (x_ctl.expand(len(x), -1, -1),)
			return functional_call(wrapper, fixed, (x, *controls)).sum(1)  # (r, G) -> (r,)

		m = torch.zeros_like(x0)
		for t, weight in points:
			between = torch.lerp(x0, x.expand_as(x0), t).requires_grad_()
			with torch.enable_grad():
				(gradient,) = torch.autograd.grad(outputs(between).sum(), between)
			m.add_(gradient, alpha=weight)
		with torch.no_grad():
			return Pairs(m, outputs(x), outputs(x0))

	options = Options(
		references, n_shuffles, random_state, start, end, hypothetical, batch_size, device, dtype, verbose, progress
	)
	attribution = contrast(model, pairs, X, X_ctl, options)
	return attribution if return_deltas else attribution.scores
