"""Whether a model is usable, and why, in words.

The rules, which ``tests/cli/test_report.py`` holds as a table:

1. The verdict rests on the test split; without one on the validation split, and then says so, since the epoch
   was chosen there.
2. Each group has two parts, profile and counts. A part is *better* than its baseline when the 95 % interval of
   the difference in Pearson correlation lies above 0, *worse* when it lies below, *no different* otherwise.
   The interval of the counts comes from a paired bootstrap over loci, that of the profile from the
   standard error over loci. Without values per locus a difference of more than 0.02 counts.
3. A part is *usable* when it is better than its baseline, its correlation reaches ``FLOORS``, and its error (profile
   loss, or mean squared error of log counts) is not above ``MOST_ERROR`` times the baseline's. Correlation alone
   would pass counts that are a hundred times too low.
4. All parts usable: "Usable". Some: "Usable in part". None: "Not usable as it is". Fewer than ``MIN_LOCI``
   held-out loci, or no measures, or no baselines: "No verdict".
5. Cautions never change the verdict; they say what limits it or what to do about it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from cherimoya_cli.report.inputs import Accounting, Evaluation, Run

#: Correlations below which a part is not worth using, even when it beats its baseline.
FLOORS = {"profile": 0.1, "counts": 0.3}
#: Errors, as multiples of the baseline's, above which a part is not worth using whatever its correlation.
MOST_ERROR = {"profile": 1.0, "counts": 1.5}
#: Held-out loci below which there is no verdict, and below which its figures are called uncertain.
MIN_LOCI, FEW_LOCI = 30, 200
#: Training loci below which more data is the first advice.
FEW_TRAINING_LOCI = 2000
#: Median reads per held-out locus below which profile measures are mostly sampling noise.
FEW_READS = 50
#: A drop in Pearson correlation from validation to test worth mentioning.
SPLIT_GAP = 0.1
#: Share of a split's loci whose loss is worth mentioning.
LOST_SHARE = 0.2
#: Area under the ROC curve below which the counts hardly tell peaks from background.
LOW_AUROC = 0.7
#: Share of the gain on the validation loss that may be lost again before it is called overfitting.
OVERFIT_SHARE = 0.1
#: Difference that counts when there are no values per locus.
MARGIN = 0.02
#: Training steps below which the model has hardly begun to learn.
FEW_STEPS = 300
#: Kolmogorov-Smirnov distance of GC content from which loci and background differ by composition alone.
GC_GAP = 0.2
N_BOOTSTRAP = 500

MEASURES = {"profile": "profile_pearson", "counts": "count_pearson"}
ERRORS = {"profile": "profile_mnll", "counts": "count_mse"}


class Comparison(NamedTuple):
	"""One part of one group against its baseline."""

	part: str  # "profile" or "counts"
	group: int
	model: float
	baseline: float
	low: float  # 95 % interval of the difference; NaN where it is unknown
	high: float
	error: float = math.nan  # profile loss or squared error; NaN where it was not measured
	baseline_error: float = math.nan

	@property
	def outcome(self) -> str:
		"""``better``, ``worse``, ``no different`` or ``unknown``."""
		if not (math.isfinite(self.model) and math.isfinite(self.baseline)):
			return "unknown"
		low, high = self.low, self.high
		if not (math.isfinite(low) and math.isfinite(high)):
			difference = self.model - self.baseline
			low, high = difference - MARGIN, difference + MARGIN
		return "better" if low > 0 else "worse" if high < 0 else "no different"

	@property
	def off(self) -> bool:
		"""Whether its error is too large beside the baseline's."""
		return self.error > MOST_ERROR[self.part] * self.baseline_error

	@property
	def usable(self) -> bool:
		"""Better than the baseline, without too large an error, and high enough to be of use."""
		return self.outcome == "better" and not self.off and self.model >= FLOORS[self.part]


class Verdict(NamedTuple):
	"""The verdict in words: ``level`` is usable, partly, unusable or unknown."""

	level: str
	title: str
	summary: str
	findings: tuple[str, ...]
	cautions: tuple[str, ...]
	comparisons: tuple[Comparison, ...]


TITLES = {
	"usable": "Usable",
	"partly": "Usable in part",
	"unusable": "Not usable as it is",
	"unknown": "No verdict",
}


def judge(run: Run) -> Verdict:
	"""The verdict on a run."""
	comparisons = compare(run.held_out, run.signal_groups) if run.held_out else ()
	level = _level(run.held_out, comparisons)
	return Verdict(
		level=level,
		title=TITLES[level],
		summary=_summary(level, run, comparisons),
		findings=tuple(_finding(c, run) for c in comparisons),
		cautions=tuple(_cautions(run)),
		comparisons=comparisons,
	)


def compare(evaluation: Evaluation, signal_groups: tuple[int, ...]) -> tuple[Comparison, ...]:
	"""Each part of each group beside its baseline, with the interval of the difference."""
	comparisons = []
	for group, row in enumerate(evaluation.rows):
		baseline = evaluation.baselines[group] if evaluation.baselines else {}
		for part, measure in MEASURES.items():
			interval = _profile_interval if part == "profile" else _count_interval
			reference = baseline.get(measure, math.nan)
			low, high = interval(evaluation.arrays, group, signal_groups, reference)
			errors = (row.get(ERRORS[part], math.nan), baseline.get(ERRORS[part], math.nan))
			comparisons.append(Comparison(part, group, row.get(measure, math.nan), reference, low, high, *errors))
	return tuple(comparisons)


def _profile_interval(
	arrays: dict[str, np.ndarray] | None, group: int, signal_groups: tuple[int, ...], baseline: float
) -> tuple[float, float]:
	"""95 % interval of the mean difference over loci: paired where the baseline's values per locus are there."""
	if arrays is None or "profile_pearson" not in arrays:
		return math.nan, math.nan
	start = sum(signal_groups[:group])
	channels = slice(start, start + signal_groups[group])
	values = arrays["profile_pearson"][:, channels].astype(np.float64)  # (n, T) -> (n, channels)
	paired = arrays.get("baseline_profile_pearson")
	difference = values - (paired[:, channels] if paired is not None else baseline)
	per_locus = difference[~np.isnan(difference).all(axis=1)]
	per_locus = np.nanmean(per_locus, axis=1) if len(per_locus) else per_locus  # (n, channels) -> (n,)
	if len(per_locus) < 2:
		return math.nan, math.nan
	mean, error = float(per_locus.mean()), float(per_locus.std(ddof=1) / math.sqrt(len(per_locus)))
	return mean - 1.96 * error, mean + 1.96 * error


def _count_interval(
	arrays: dict[str, np.ndarray] | None, group: int, signal_groups: tuple[int, ...], baseline: float
) -> tuple[float, float]:
	"""95 % interval of the difference in Pearson correlation, by a paired bootstrap over loci (seeded)."""
	keys = ("observed_counts", "predicted_log_counts", "baseline_predicted_log_counts")
	if arrays is None or any(key not in arrays for key in keys):
		return math.nan, math.nan
	observed, model, reference = (arrays[key][:, group].astype(np.float64) for key in keys)
	observed = np.log1p(observed)
	n = len(observed)
	if n < 3:
		return math.nan, math.nan
	x, y, z = (values - values.mean() for values in (observed, model, reference))
	moments = np.stack([x, y, z, x * x, y * y, z * z, x * y, x * z], axis=1)  # (n, 8)
	rng = np.random.default_rng(0)
	draws = np.empty((N_BOOTSTRAP, 8))
	for i in range(N_BOOTSTRAP):
		weights = np.bincount(rng.integers(0, n, n), minlength=n)
		draws[i] = weights @ moments / n
	mx, my, mz, xx, yy, zz, xy, xz = draws.T
	sx, sy, sz = (np.sqrt(np.maximum(s - m * m, 0)) for s, m in ((xx, mx), (yy, my), (zz, mz)))
	difference = _ratio(xy - mx * my, sx * sy) - _ratio(xz - mx * mz, sx * sz)
	low, high = np.quantile(difference, [0.025, 0.975])
	return float(low), float(high)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
	"""The quotient, 0 where the denominator is (nearly) 0: a constant correlates with nothing."""
	constant = denominator < 1e-12
	return np.where(constant, 0.0, numerator / np.where(constant, 1.0, denominator))


def _level(evaluation: Evaluation | None, comparisons: tuple[Comparison, ...]) -> str:
	if evaluation is None or not comparisons or all(c.outcome == "unknown" for c in comparisons):
		return "unknown"
	if evaluation.n_loci is not None and evaluation.n_loci < MIN_LOCI:
		return "unknown"
	usable = [c.usable for c in comparisons]
	return "usable" if all(usable) else "partly" if any(usable) else "unusable"


def _summary(level: str, run: Run, comparisons: tuple[Comparison, ...]) -> str:
	evaluation = run.held_out
	if evaluation is None:
		return (
			"The model has not been measured on loci that it was not trained on, so nothing can be said about it; "
			"run evaluate."
		)
	n = evaluation.n_loci
	loci = f"{n:,} {evaluation.split} loci" if n is not None else f"the {evaluation.split} loci"
	held_out = "" if evaluation.split == "chosen" else ", which took no part in training,"
	if level == "unknown":
		if n is not None and n < MIN_LOCI:
			return (
				f"Only {n} {evaluation.split} loci were left to measure it on, and a verdict takes {MIN_LOCI}; "
				"hold out more of the genome."
			)
		return "There is no baseline to compare it with; run evaluate with baselines: true."
	if level == "usable":
		return (
			f"On {loci}{held_out} it predicts both where the reads fall and how many there "
			"are better than the baselines. Predictions, variant effects and contributions of bases can be used, "
			"within the limits below."
		)
	if level == "unusable":
		return (
			f"On {loci} neither its profiles nor its counts are good enough beside the baselines, which look at base "
			"composition and at the average locus alone. Do not draw conclusions from its predictions or "
			"contributions."
		)
	good = [c for c in comparisons if c.usable]
	poor = [c for c in comparisons if not c.usable]
	return (
		f"On {loci}, {_parts(good, run)} can be used; {_parts(poor, run)} should not be, and neither should "
		"contributions computed from them."
	)


def _parts(comparisons: list[Comparison], run: Run) -> str:
	"""``its profile predictions``, with the group's name where there are several."""
	several = len(run.signal_groups) > 1
	groups = {part: [c.group for c in comparisons if c.part == part] for part in MEASURES}
	texts = []
	for part, members in groups.items():
		word = "profile predictions" if part == "profile" else "count predictions"
		if not members:
			continue
		if several and len(members) < len(run.signal_groups):
			texts.append(f"its {word} for {', '.join(run.group_names[g] for g in members)}")
		else:
			texts.append(f"its {word}")
	return " and ".join(texts)


def _finding(comparison: Comparison, run: Run) -> str:
	c = comparison
	where = f" ({run.group_names[c.group]})" if len(run.signal_groups) > 1 else ""
	what, reference = (
		("Profile", "the mean training profile")
		if c.part == "profile"
		else ("Counts", "a linear model on GC and CpG content")
	)
	if c.outcome == "unknown":
		if math.isfinite(c.model):
			return f"{what}{where}: Pearson {two_decimals(c.model)}; no baseline was measured."
		return f"{what}{where}: not measured."
	words = {"better": "better than", "worse": "worse than", "no different": "not distinguishable from"}[c.outcome]
	interval = ""
	if math.isfinite(c.low):
		interval = f", difference {_signed(c.model - c.baseline)} (95% interval {_signed(c.low)} to {_signed(c.high)})"
	text = (
		f"{what}{where}: Pearson {two_decimals(c.model)} against {two_decimals(c.baseline)} for "
		f"{reference}{interval}: {words} the baseline"
	)
	if c.outcome == "better" and c.off:
		if c.part == "counts":
			factors = [f"{math.exp(math.sqrt(error)):.1f}" for error in (c.error, c.baseline_error)]
			return f"{text} in rank, but off by a factor of about {factors[0]}, the baseline by {factors[1]}."
		losses = [f"{error:.1f}" for error in (c.error, c.baseline_error)]
		loss = f"its loss is higher ({losses[0]} against {losses[1]} nats)"
		return f"{text} in correlation, but {loss}: too flat or too sure."
	if c.outcome == "better" and not c.usable:
		return f"{text}, but too low to be of use (below {FLOORS[c.part]:g})."
	if c.usable and c.part == "counts":
		ranks = "; good for ranking loci, less so for absolute numbers" if c.error > c.baseline_error else ""
		return f"{text}; {strength(c.model)} agreement{ranks}."
	return f"{text}."


def two_decimals(value: float) -> str:
	"""A correlation as text, with a true minus sign, and none before a zero."""
	text = f"{value:.2f}"
	return "0.00" if text == "-0.00" else text.replace("-", "−")


def _signed(value: float) -> str:
	text = two_decimals(value)
	return text if text == "0.00" or text.startswith("−") else f"+{text}"


def strength(correlation: float) -> str:
	"""A word for a correlation of counts: weak below 0.5, moderate below 0.7, strong from there."""
	return "strong" if correlation >= 0.7 else "moderate" if correlation >= 0.5 else "weak"


def _cautions(run: Run) -> list[str]:
	cautions = []
	cautions += _data_cautions(run)
	cautions += _split_cautions(run)
	cautions += _background_cautions(run)
	cautions += _training_cautions(run)
	return cautions


def _data_cautions(run: Run) -> list[str]:
	texts = []
	training = run.accounting.get("training")
	if training is not None and training.kept < FEW_TRAINING_LOCI:
		texts.append(
			f"Few training loci ({training.kept:,}; below {FEW_TRAINING_LOCI:,}): more loci, a laxer peak "
			"threshold or a smaller model may help."
		)
	for split in ("training", "validation", "test"):
		text = _lost(split, run.accounting.get(split))
		if text:
			texts.append(text)
	evaluation = run.held_out
	if evaluation is not None:
		n = evaluation.n_loci
		if n is not None and MIN_LOCI <= n < FEW_LOCI:
			texts.append(f"Few held-out loci ({n}; below {FEW_LOCI}): the measures are uncertain.")
		counts = (evaluation.arrays or {}).get("observed_counts")
		if counts is not None and len(counts):
			for group, median in enumerate(np.median(counts, axis=0)):
				if median < FEW_READS:
					where = f" ({run.group_names[group]})" if counts.shape[1] > 1 else ""
					texts.append(
						f"Shallow data{where}: the median held-out locus has {median:.0f} reads. Profile measures "
						"are then limited by sampling noise, for any model."
					)
	return texts


def _lost(split: str, accounting: Accounting | None) -> str | None:
	if accounting is None or not accounting.lost:
		return None
	selected = accounting.given - accounting.not_selected
	lost = sum(accounting.lost.values())
	if selected == 0 or lost / selected < LOST_SHARE:
		return None
	reason, n = max(accounting.lost.items(), key=lambda item: item[1])
	return (
		f"{lost:,} of {selected:,} {split} loci were dropped, most of them ({n:,}) for this reason: {reason}. "
		"Look at the table of loci."
	)


def _split_cautions(run: Run) -> list[str]:
	evaluation = run.held_out
	if evaluation is None:
		return []
	if evaluation.split == "validation":
		return [
			"There is no test split: the measures are those of the validation loci, on which the epoch was "
			"chosen, and may be a little too good."
		]
	if evaluation.split == "chosen":
		return [
			"The loci were chosen by name of chromosome or region, not by the split of the training run: whether "
			"they took no part in training is for you to know."
		]
	validation = run.evaluations.get("validation")
	if validation is None:
		return []
	texts = []
	for group, (test, valid) in enumerate(zip(evaluation.rows, validation.rows, strict=True)):
		for part, measure in MEASURES.items():
			gap = valid.get(measure, math.nan) - test.get(measure, math.nan)
			if gap > SPLIT_GAP:
				where = f" ({run.group_names[group]})" if len(evaluation.rows) > 1 else ""
				texts.append(
					f"The {part.removesuffix('s')} correlation{where} falls from {valid[measure]:.2f} on the "
					f"validation split to {test[measure]:.2f} on the test split: expect the lower figure "
					"elsewhere."
				)
	return texts


def _background_cautions(run: Run) -> list[str]:
	if run.held_out is None:
		return []
	texts = []
	for group, row in enumerate(run.held_out.rows):
		where = f" ({run.group_names[group]})" if len(run.held_out.rows) > 1 else ""
		auroc = row.get("auroc", math.nan)
		if math.isfinite(auroc) and auroc < LOW_AUROC:
			texts.append(
				f"Predicted counts hardly tell peaks from background{where}: area under the ROC curve {auroc:.2f}. "
				"Do not use them to find peaks."
			)
	if run.background is not None and run.background.ks > GC_GAP:
		texts.append(
			f"Loci and background differ in GC content (Kolmogorov–Smirnov distance {run.background.ks:.2f}), so "
			"some of telling them apart may rest on base composition; compare the areas under ROC of model and "
			"baseline."
		)
	if not any(math.isfinite(row.get("auroc", math.nan)) for row in run.held_out.rows):
		texts.append("Not measured on background loci: whether it tells peaks from background is not known.")
	return texts


def saved_epoch(log: dict[str, np.ndarray]) -> int | None:
	"""Index of the row whose weights were saved as the model: the last one marked so."""
	saved = log.get("Saved?")
	if saved is None or not saved.any():
		return None
	return int(np.flatnonzero(saved)[-1])


def _training_cautions(run: Run) -> list[str]:
	log = run.log
	if log is None or "Epoch" not in log or len(log["Epoch"]) < 3:
		return []
	texts = []
	best, last = saved_epoch(log), len(log["Epoch"]) - 1
	steps = log.get("Iteration")
	if steps is not None and steps[-1] < FEW_STEPS:
		texts.append(
			f"Only {steps[-1]:,.0f} training steps were taken (below {FEW_STEPS}): set min_total_steps, or a smaller "
			"batch_size, so that few loci are seen more often."
		)
	if best == 0:
		texts.append(
			"The first epoch was kept as the best one: the measure that picks the epoch never improved on it. Train "
			"longer, or pick by another measure (select_on)."
		)
	planned = ((run.fit_record or {}).get("settings") or {}).get("max_epochs")
	if best == last and (planned is None or last + 1 >= planned):
		texts.append("The last epoch was the best one: it may still improve with a larger max_epochs.")
	for label, column in (("profile loss", "MNLL"), ("count error", "Count MSE")):
		validation, training = log.get(f"Validation {column}"), log.get(f"Training {column}")
		if validation is None or training is None or not np.isfinite(validation).all():
			continue
		low = int(validation.argmin())
		gained, lost = validation[0] - validation[low], validation[-1] - validation[low]
		if gained > 0 and lost > OVERFIT_SHARE * gained and training[-1] < training[low]:
			kept = f"; the saved weights are those of epoch {log['Epoch'][best]:g}" if best is not None else ""
			texts.append(
				f"Overfitting: the validation {label} was lowest at epoch {log['Epoch'][low]:g} and rose again by "
				f"{min(lost / gained, 9.99):.0%} of what had been gained, while the training loss went on "
				f"falling{kept}."
			)
	return texts
