"""The training loss: multinomial likelihood of the profile, squared error of the log counts."""

from collections.abc import Sequence

import torch

from cherimoya.groups import check_signal_groups, group_slices


def _mixture_loss(
	y: torch.Tensor,
	y_hat_logits: torch.Tensor,
	y_hat_logcounts: torch.Tensor,
	labels: torch.Tensor | None = None,
	signal_groups: Sequence[int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
	"""Profile and count loss of each group.

	Profile: −log Multinomial(counts; softmax(logits)) of a group's channels and positions jointly, log-factorials
	included, mean over examples. Counts: (predicted log count − log(1 + observed total of the group))², mean over
	examples.

	Parameters
	----------
	y: torch.Tensor, shape=(N, T, L)
		Observed counts.
	y_hat_logits: torch.Tensor, shape=(N, T, L)
		Predicted profile, not normalised.
	y_hat_logcounts: torch.Tensor, shape=(N, G)
		Predicted log(1 + counts); (N,) is taken for one group.
	labels: torch.Tensor or None, shape=(N,)
		1 for a peak, 0 for a negative. The profile loss is over peaks alone, and 0 in a batch without any; the count
		loss is over all. None (default): all are peaks.
	signal_groups: sequence of int or None
		Channels of each group. None (default): all channels are one group.

	Returns
	-------
	profile_loss, count_loss: torch.Tensor, shape=(G,)
		Of shape () where signal_groups is None. At least float32.

	Raises
	------
	ValueError
		If shapes do not fit.

	References
	----------
	Avsec et al. (2021), "Base-resolution models of transcription-factor binding reveal soft motif syntax", Methods.
	"""
	groups = (y.shape[1],) if signal_groups is None else check_signal_groups(signal_groups)
	if y_hat_logcounts.ndim == 1:
		y_hat_logcounts = y_hat_logcounts[:, None]  # (N,) -> (N, 1)
	_check_shapes(y, y_hat_logits, y_hat_logcounts, labels, groups)
	dtype = torch.promote_types(y_hat_logits.dtype, torch.float32)
	y, y_hat_logits, y_hat_logcounts = y.to(dtype), y_hat_logits.to(dtype), y_hat_logcounts.to(dtype)

	slices = group_slices(groups)
	observed = torch.stack([y[:, s].sum((1, 2)) for s in slices], dim=1)  # (N, T, L) -> (N, G)
	count_loss = (y_hat_logcounts - torch.log1p(observed)).square().mean(0)  # (N, G) -> (G,)

	peaks = slice(None) if labels is None else labels.to(y.device) == 1
	y, y_hat_logits = y[peaks], y_hat_logits[peaks]
	nll = [_multinomial_nll(y_hat_logits[:, s].flatten(1), y[:, s].flatten(1)) for s in slices]
	profile_loss = torch.stack(nll, dim=1).sum(0) / max(1, len(y))  # (n, G) -> (G,)
	if signal_groups is None:
		return profile_loss[0], count_loss[0]
	return profile_loss, count_loss


def _multinomial_nll(logits: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
	"""−log Multinomial(counts; softmax(logits)) of each row: (n, K) and (n, K) -> (n,).

	The terms are large and cancel, so they are summed in float64 where the device has it.
	"""
	log_probabilities = torch.log_softmax(logits, dim=-1)
	wide = logits.dtype if logits.device.type == "mps" else torch.float64
	exact = counts.to(wide)
	constant = torch.lgamma(exact.sum(-1) + 1) - torch.lgamma(exact + 1).sum(-1)
	return (-constant - (counts * log_probabilities).sum(-1, dtype=wide)).to(logits.dtype)


def _check_shapes(
	y: torch.Tensor,
	y_hat_logits: torch.Tensor,
	y_hat_logcounts: torch.Tensor,
	labels: torch.Tensor | None,
	groups: Sequence[int],
) -> None:
	"""ValueError, naming the shapes, unless the loss's arguments fit each other."""
	problems = []
	if y.ndim != 3 or y.shape != y_hat_logits.shape:
		problems.append(
			f"y and y_hat_logits must both have shape (N, T, L), got {tuple(y.shape)} and {tuple(y_hat_logits.shape)}"
		)
	elif sum(groups) != y.shape[1]:
		problems.append(f"signal_groups {list(groups)} add up to {sum(groups)} channels, but y has {y.shape[1]}")
	if tuple(y_hat_logcounts.shape) != (y.shape[0], len(groups)):
		problems.append(
			f"y_hat_logcounts must have shape {(y.shape[0], len(groups))}, one count a group, "
			f"got {tuple(y_hat_logcounts.shape)}"
		)
	if labels is not None and tuple(labels.shape) != (y.shape[0],):
		problems.append(f"labels must have shape {(y.shape[0],)}, got {tuple(labels.shape)}")
	if problems:
		raise ValueError("; ".join(problems))
