"""Measures of how well predictions fit observations, for profiles and for counts.

Every measure is worked out in float64 (float32 on devices without it) and returned in float32. None of them is
differentiable on purpose: losses are in `cherimoya.losses`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from cherimoya.groups import check_signal_groups, group_slices

PROFILE_MEASURES = ("profile_mnll", "profile_jsd", "profile_pearson", "profile_spearman")
COUNT_MEASURES = ("count_pearson", "count_spearman", "count_mse")
LABEL_MEASURES = ("all_count_pearson", "all_count_spearman", "all_count_mse", "auroc", "auprc")

# Profiles are measured this many values at a time, so that float64 copies stay small beside the data.
_VALUES_AT_ONCE = 2**22


def pearson_corr(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
	"""Pearson correlation over the last dimension; 0 where either side is constant, NaN where it is empty or has a NaN.

	Parameters
	----------
	x, y: torch.Tensor, shape=(..., L)
		Of shapes that broadcast.

	Returns
	-------
	r: torch.Tensor, shape=(...)
		Between −1 and 1.
	"""
	x, y = torch.broadcast_tensors(_wide(x), _wide(y))
	if x.shape[-1] == 0:
		return x.new_full(x.shape[:-1], torch.nan).float()
	constant = (x.amax(-1) == x.amin(-1)) | (y.amax(-1) == y.amin(-1))
	x = x - x.mean(-1, keepdim=True)
	y = y - y.mean(-1, keepdim=True)
	r = (_unit(x) * _unit(y)).sum(-1).clamp(-1, 1)  # (..., L) -> (...)
	return torch.where(constant, torch.zeros_like(r), r).float()


def spearman_corr(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
	"""Spearman correlation over the last dimension, with average ranks for ties; 0 where either side is constant.

	Parameters
	----------
	x, y: torch.Tensor, shape=(..., L)
		Of shapes that broadcast. A NaN on either side gives NaN.

	Returns
	-------
	rho: torch.Tensor, shape=(...)
	"""
	x, y = torch.broadcast_tensors(x, y)
	undefined = x.isnan().any(-1) | y.isnan().any(-1)
	rho = pearson_corr(_ranks(x), _ranks(y))
	return torch.where(undefined, torch.full_like(rho, torch.nan), rho)


def mean_squared_error(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
	"""Mean of (x − y)² over the last dimension.

	Parameters
	----------
	x, y: torch.Tensor, shape=(..., L)
		Of shapes that broadcast.

	Returns
	-------
	mse: torch.Tensor, shape=(...)
	"""
	return (_wide(x) - _wide(y)).square().mean(-1).float()


def jensen_shannon_distance(logps: torch.Tensor, true_counts: torch.Tensor) -> torch.Tensor:
	"""Jensen–Shannon divergence of predicted and observed profile, in nats, without the square root.

	JSD(p, q) = ½ KL(p ‖ m) + ½ KL(q ‖ m) with m = (p + q) / 2, p = softmax(logps), q = counts / Σ counts.

	Parameters
	----------
	logps: torch.Tensor, shape=(..., L)
		Logits or log probabilities over the last dimension.
	true_counts: torch.Tensor, shape=(..., L)
		Observed counts, not negative.

	Returns
	-------
	jsd: torch.Tensor, shape=(...)
		Between 0 and ln 2; NaN where there are no counts.

	References
	----------
	Lin (1991), "Divergence measures based on the Shannon entropy", equation 3.3 with equal weights.
	"""
	return _jsd(torch.softmax(_wide(logps), dim=-1), _wide(true_counts))


def smooth_gaussian1d(x: torch.Tensor, kernel_sigma: float = 7, kernel_width: int = 81) -> torch.Tensor:
	"""Convolve the last dimension with a Gaussian that sums to one; zeros outside.

	Parameters
	----------
	x: torch.Tensor, shape=(..., L)
		What to smooth.
	kernel_sigma: float
		Standard deviation, in positions. Default 7.
	kernel_width: int
		Odd number of positions that the kernel covers. Default 81.

	Returns
	-------
	smooth: torch.Tensor, shape=(..., L), dtype of x where that is floating point

	Raises
	------
	ValueError
		If kernel_width is even or not positive, or kernel_sigma is not positive.
	"""
	if kernel_width < 1 or kernel_width % 2 == 0:
		raise ValueError(f"kernel_width must be odd and positive, so that the kernel has a middle, got {kernel_width}")
	if kernel_sigma <= 0:
		raise ValueError(f"kernel_sigma must be positive, got {kernel_sigma}")
	dtype = x.dtype if x.is_floating_point() else torch.float32
	half = kernel_width // 2
	offsets = torch.arange(-half, half + 1, dtype=dtype, device=x.device)
	kernel = torch.exp(-0.5 * (offsets / kernel_sigma).square())
	rows = x.to(dtype).reshape(-1, 1, x.shape[-1])  # (..., L) -> (n, 1, L)
	return F.conv1d(rows, (kernel / kernel.sum())[None, None], padding=half).view(x.shape)  # -> (..., L)


def auroc(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
	"""Area under the receiver operating characteristic: P(score of a positive > of a negative), ties counting half.

	Parameters
	----------
	scores: torch.Tensor, shape=(n,)
		Higher for what is thought positive.
	labels: torch.Tensor, shape=(n,)
		1 for positives, 0 for negatives.

	Returns
	-------
	area: torch.Tensor, shape=()
		NaN where either class is empty or a score is NaN.

	References
	----------
	Hanley and McNeil (1982), "The meaning and use of the area under a ROC curve": the Mann–Whitney statistic.
	"""
	positive = _positives(scores, labels)
	n_positive, n_negative = int(positive.sum()), int((~positive).sum())
	if not n_positive or not n_negative or scores.isnan().any():
		return scores.new_full((), torch.nan, dtype=torch.float32)
	u = _ranks(scores)[positive].sum() - n_positive * (n_positive + 1) / 2
	return (u / (n_positive * n_negative)).float()


def auprc(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
	"""Average precision, the area under the precision-recall curve by steps: Σ (R_i − R_{i−1})·P_i over thresholds.

	Parameters
	----------
	scores: torch.Tensor, shape=(n,)
		Higher for what is thought positive.
	labels: torch.Tensor, shape=(n,)
		1 for positives, 0 for negatives.

	Returns
	-------
	area: torch.Tensor, shape=()
		Equal scores are one threshold. NaN where there is no positive or a score is NaN.
	"""
	positive = _positives(scores, labels)
	if not positive.any() or scores.isnan().any():
		return scores.new_full((), torch.nan, dtype=torch.float32)
	scores, order = torch.sort(_wide(scores), descending=True)
	hits = torch.cumsum(_wide(positive[order]), dim=0)
	called = torch.arange(1, len(scores) + 1, dtype=hits.dtype, device=hits.device)
	last = torch.ones_like(positive)  # whether a position ends a run of equal scores
	last[:-1] = scores[1:] != scores[:-1]
	hits, called = hits[last], called[last]
	gained = torch.diff(hits, prepend=hits.new_zeros(1))
	return ((gained * hits / called).sum() / hits[-1]).float()


@torch.no_grad()
def calculate_performance_measures(
	logps: torch.Tensor,
	true_counts: torch.Tensor,
	pred_log_counts: torch.Tensor,
	kernel_sigma: float = 7,
	kernel_width: int = 81,
	smooth_true: bool = False,
	smooth_predictions: bool = False,
	measures: Sequence[str] | None = None,
	signal_groups: Sequence[int] | None = None,
	labels: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
	"""Profile measures of each example and channel, count measures of each group.

	Parameters
	----------
	logps: torch.Tensor, shape=(n, T, L)
		Predicted logits or log probabilities; a softmax over positions is taken for each channel.
	true_counts: torch.Tensor, shape=(n, T, L)
		Observed counts.
	pred_log_counts: torch.Tensor, shape=(n, G)
		Predicted log(1 + counts); (n,) is taken for one group.
	kernel_sigma, kernel_width: float and int
		Gaussian of the smoothing, in positions. Defaults 7 and 81.
	smooth_true, smooth_predictions: bool
		Smooth observed counts, or predicted probabilities, before every profile measure. Count measures take the
		counts as they are. Default False.
	measures: sequence of str or None
		Names of the measures wanted. None (default): all that can be had.
	signal_groups: sequence of int or None
		Channels of each group. None (default): all channels are one group where pred_log_counts has one column, and a
		group each where it has T.
	labels: torch.Tensor or None, shape=(n,)
		1 for peaks, 0 for negatives. With labels, profile and count measures are over peaks alone, and measures over
		all examples are added. None (default): all are peaks.

	Returns
	-------
	measures: dict[str, torch.Tensor]
		``profile_mnll``, ``profile_jsd``, ``profile_pearson``, ``profile_spearman`` of shape (n, T), or (peaks, T)
		with labels: `jensen_shannon_distance`, `pearson_corr`, `spearman_corr`, and the negative log-likelihood of
		the counts under a multinomial, log-factorials included.
		``count_pearson``, ``count_spearman``, ``count_mse`` of shape (G,), on log(1 + counts).
		With labels also ``all_count_pearson``, ``all_count_spearman``, ``all_count_mse``, and ``auroc`` and ``auprc``
		of predicted log counts telling peaks from negatives, of shape (G,).

	Raises
	------
	ValueError
		If shapes do not fit, or a measure is unknown or needs labels.
	"""
	if pred_log_counts.ndim == 1:
		pred_log_counts = pred_log_counts[:, None]  # (n,) -> (n, 1)
	groups = _groups_of(true_counts, pred_log_counts, signal_groups)
	_check_shapes(logps, true_counts, pred_log_counts, labels, groups)
	wanted = _wanted(measures, labels is not None)

	observed = torch.stack([_wide(true_counts[:, s]).sum((1, 2)) for s in group_slices(groups)])  # -> (G, n)
	observed, predicted = torch.log1p(observed), _wide(pred_log_counts).T  # both (G, n)
	results: dict[str, torch.Tensor] = {}
	if labels is not None:
		peaks = labels.to(true_counts.device) == 1
		results |= {f"all_{k}": v for k, v in _count_measures(observed, predicted).items() if f"all_{k}" in wanted}
		for name, area in (("auroc", auroc), ("auprc", auprc)):
			if name in wanted:
				results[name] = torch.stack([area(scores, peaks) for scores in predicted])
		logps, true_counts = logps[peaks], true_counts[peaks]
		observed, predicted = observed[:, peaks], predicted[:, peaks]
	results |= {k: v for k, v in _count_measures(observed, predicted).items() if k in wanted}

	profile = [name for name in PROFILE_MEASURES if name in wanted]
	smoothing = (kernel_sigma, kernel_width)
	size = max(1, _VALUES_AT_ONCE // max(1, logps[:1].numel()))
	parts: dict[str, list[torch.Tensor]] = {name: [] for name in profile}
	for p, y in zip(logps.split(size), true_counts.split(size), strict=True) if profile else ():
		log_p, counts = torch.log_softmax(_wide(p), dim=-1), _wide(y)
		probabilities = log_p.exp()
		if smooth_predictions:
			probabilities = smooth_gaussian1d(probabilities, *smoothing)
			probabilities = probabilities / probabilities.sum(-1, keepdim=True)  # what the ends lost
			log_p = probabilities.log()
		if smooth_true:
			counts = smooth_gaussian1d(counts, *smoothing)
		for name in profile:
			first = log_p if name == "profile_mnll" else probabilities
			parts[name].append(_PROFILE_FUNCTIONS[name](first, counts))
	results |= {name: torch.cat(values) for name, values in parts.items()}
	order = (*PROFILE_MEASURES, *COUNT_MEASURES, *LABEL_MEASURES)
	return {name: results[name] for name in order if name in results}


def _count_measures(observed: torch.Tensor, predicted: torch.Tensor) -> dict[str, torch.Tensor]:
	"""The count measures of (G, n) log counts, each of shape (G,)."""
	return {
		"count_pearson": pearson_corr(observed, predicted),
		"count_spearman": spearman_corr(observed, predicted),
		"count_mse": mean_squared_error(observed, predicted),
	}


def _mnll(log_p: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
	"""Negative log-likelihood of counts under a multinomial of log probabilities log_p, over the last dimension."""
	constant = torch.lgamma(counts.sum(-1) + 1) - torch.lgamma(counts + 1).sum(-1)
	likelihood = torch.where(counts > 0, counts * log_p, 0.0).sum(-1)  # 0 · −inf is 0 here
	return -(constant + likelihood).float()


def _jsd(p: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
	"""Jensen–Shannon divergence of probabilities and counts, over the last dimension."""
	total = counts.sum(-1, keepdim=True)
	q = counts / total  # 0 / 0 makes it NaN where there are no counts
	m = (p + q) / 2
	divergence = torch.xlogy(p, p) + torch.xlogy(q, q) - torch.xlogy(p, m) - torch.xlogy(q, m)
	return (0.5 * divergence.sum(-1)).clamp(min=0).float()


_PROFILE_FUNCTIONS = {
	"profile_mnll": _mnll,
	"profile_jsd": _jsd,
	"profile_pearson": pearson_corr,
	"profile_spearman": spearman_corr,
}


def _wide(x: torch.Tensor) -> torch.Tensor:
	"""In float64, or in float32 on a device that has no float64."""
	return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


def _unit(x: torch.Tensor) -> torch.Tensor:
	"""Scaled to length 1 over the last dimension; by the largest value first, whose square can be represented."""
	x = x / x.abs().amax(-1, keepdim=True)
	return x / x.norm(dim=-1, keepdim=True)


def _ranks(x: torch.Tensor) -> torch.Tensor:
	"""Ranks from 1 over the last dimension, equal values sharing the average of theirs."""
	x = x.contiguous()
	ordered = x.sort(dim=-1).values
	below = torch.searchsorted(ordered, x, right=False)
	through = torch.searchsorted(ordered, x, right=True)
	return (_wide(below) + _wide(through) + 1) / 2


def _positives(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
	"""Labels as booleans on the scores' device; ValueError where the shapes are not both (n,)."""
	if scores.ndim != 1 or scores.shape != labels.shape:
		raise ValueError(
			f"scores and labels must both have shape (n,), got {tuple(scores.shape)} and {tuple(labels.shape)}"
		)
	return labels.to(scores.device) == 1


def _groups_of(
	true_counts: torch.Tensor, pred_log_counts: torch.Tensor, signal_groups: Sequence[int] | None
) -> tuple[int, ...]:
	"""The signal groups, worked out from the number of predicted counts where they are not given."""
	if signal_groups is not None:
		return check_signal_groups(signal_groups)
	n_channels = true_counts.shape[1] if true_counts.ndim > 1 else 1
	return (n_channels,) if pred_log_counts.shape[-1] == 1 else (1,) * n_channels


def _wanted(measures: Sequence[str] | None, labelled: bool) -> set[str]:
	"""The measures to work out; ValueError for one that is unknown or needs labels that are missing."""
	possible = (*PROFILE_MEASURES, *COUNT_MEASURES, *(LABEL_MEASURES if labelled else ()))
	if measures is None:
		return set(possible)
	if isinstance(measures, str):
		raise ValueError(f"measures must be a list of names, got the text {measures!r}; write [{measures!r}]")
	unknown = [name for name in measures if name not in possible]
	if unknown:
		hint = "" if labelled else f"; {', '.join(LABEL_MEASURES)} need labels"
		raise ValueError(f"measures that cannot be had: {', '.join(unknown)}; choose from {', '.join(possible)}{hint}")
	return set(measures)


def _check_shapes(
	logps: torch.Tensor,
	true_counts: torch.Tensor,
	pred_log_counts: torch.Tensor,
	labels: torch.Tensor | None,
	groups: Sequence[int],
) -> None:
	"""ValueError, naming the shapes, unless predictions and observations fit each other."""
	problems = []
	if logps.ndim != 3 or logps.shape != true_counts.shape:
		problems.append(
			"logps and true_counts must both have shape (n, T, L), "
			f"got {tuple(logps.shape)} and {tuple(true_counts.shape)}"
		)
	elif sum(groups) != logps.shape[1]:
		problems.append(
			f"signal_groups {list(groups)} add up to {sum(groups)} channels, but logps has {logps.shape[1]}"
		)
	if tuple(pred_log_counts.shape) != (len(logps), len(groups)):
		problems.append(
			f"pred_log_counts must have shape {(len(logps), len(groups))}, one count a group, "
			f"got {tuple(pred_log_counts.shape)}; give signal_groups if channels are grouped"
		)
	if labels is not None and tuple(labels.shape) != (len(logps),):
		problems.append(f"labels must have shape {(len(logps),)}, got {tuple(labels.shape)}")
	if problems:
		raise ValueError("; ".join(problems))
