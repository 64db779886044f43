"""The HTML report: its verdict as a table of rules, its page as HTML, and its figures where they can be checked."""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from cherimoya.errors import InputError, MissingExtraError
from cherimoya_cli.report import sections, write_report
from cherimoya_cli.report.__main__ import main
from cherimoya_cli.report.findings import Seqlet
from cherimoya_cli.report.inputs import NOT_SELECTED, Accounting, Evaluation, Run, read_run
from cherimoya_cli.report.page import pick_apart, smoothing
from cherimoya_cli.report.pieces import duration, number, size
from cherimoya_cli.report.verdict import Comparison, compare, judge, two_decimals

LOG_COLUMNS = (
	"Epoch",
	"Iteration",
	"Training Time",
	"Validation Time",
	"Training MNLL",
	"Training Count MSE",
	"Validation MNLL",
	"Validation Profile Pearson",
	"Validation Count Pearson",
	"Validation Count MSE",
	"Saved?",
)
PROFILE = ("profile_mnll", "profile_jsd", "profile_pearson", "profile_spearman")
COUNT = ("count_pearson", "count_spearman", "count_mse")
ALL = ("all_count_pearson", "all_count_spearman", "all_count_mse", "auroc", "auprc")


# ------------------------------------------------------------------------------------------ a run's files


def write_table(path: Path, rows: list[dict[str, float]]) -> None:
	lines = ["\t".join(rows[0])] + ["\t".join(f"{v:.6g}" for v in row.values()) for row in rows]
	path.write_text("\n".join(lines) + "\n")


def write_log(path: Path, n_epochs: int = 20, *, overfit: bool = False, best: int | None = None) -> None:
	rng = np.random.default_rng(3)
	best = n_epochs - 4 if best is None else best
	lines = ["\t".join(LOG_COLUMNS)]
	for epoch in range(n_epochs):
		gain = 1 - np.exp(-(epoch + 1) / 4)
		training = 900 - 200 * gain - 2 * epoch
		validation = 905 - 180 * gain + (8 * max(0, epoch - 6) if overfit else 0) + rng.normal(0, 1)
		mse = 1.4 - 1.0 * gain + 0.01 * rng.normal()
		values = [epoch, (epoch + 1) * 40, 8.1, 1.2, training, mse, validation, 0.35 * gain, 0.7 * gain, mse + 0.1]
		lines.append("\t".join([*(f"{v:.6g}" for v in values), str(epoch <= best)]))
	path.write_text("\n".join(lines) + "\n")


def measure(observed: np.ndarray, predicted: np.ndarray, pearson: float) -> dict[str, float]:
	log_observed = np.log1p(observed)
	row = dict(zip(PROFILE, (650.0 - 300 * pearson, 0.6 - pearson / 3, pearson, pearson * 0.8), strict=True))
	correlation = np.corrcoef(log_observed, predicted)[0, 1] if len(observed) > 1 else 0.0
	return row | dict(
		zip(COUNT, (correlation, correlation - 0.02, np.mean((log_observed - predicted) ** 2)), strict=True)
	)


def write_evaluation(
	prefix: str,
	groups: tuple[int, ...],
	n: int,
	*,
	negatives: bool,
	baselines: bool,
	quality: float,
	reads: float,
	seed: int,
) -> None:
	"""The table, the baselines' table and the values per locus of one split."""
	rng = np.random.default_rng(seed)
	n_channels, n_groups, out = sum(groups), len(groups), 1000
	log_counts = rng.normal(np.log(reads), 0.7, (n, n_groups))
	observed = rng.poisson(np.exp(log_counts)).astype(np.float32)
	spread = rng.normal(0, 0.7, (n, n_groups))
	predicted = quality * (log_counts - np.log(reads)) + np.sqrt(1 - quality**2) * 0.6 * spread + np.log(reads)
	baseline = 0.3 * (log_counts - np.log(reads)) + 0.5 * rng.normal(0, 0.7, (n, n_groups)) + np.log(reads)
	pearson = np.clip(rng.normal(0.45 * quality + 0.1, 0.15, (n, n_channels)), -0.2, 0.98)
	negative_observed = rng.poisson(reads / 12, (n // 2, n_groups)).astype(np.float32)
	negative_predicted = rng.normal(np.log1p(reads / 12), 0.5, (n // 2, n_groups))
	rows, baseline_rows = [], []
	for g in range(n_groups):
		rows.append(measure(observed[:, g], predicted[:, g], float(pearson.mean())))
		baseline_rows.append(measure(observed[:, g], baseline[:, g], 0.24))
		if negatives:
			extra = dict(zip(ALL, (0.85, 0.8, 0.3, 0.96, 0.97), strict=True))
			rows[-1] |= extra
			baseline_rows[-1] |= {key: value * 0.8 for key, value in extra.items()}
	write_table(Path(f"{prefix}.performance.tsv"), rows)
	x = np.arange(out)
	shape = np.exp(-0.5 * ((x - 480) / 60) ** 2) + 0.8 * np.exp(-0.5 * ((x - 600) / 35) ** 2) + 0.05
	order = np.argsort(-pearson.mean(axis=1))
	index = order[[0, n // 2, n - 1]]
	total = observed[index].mean(axis=1) / n_channels
	expected = np.stack([np.roll(shape, 40 * c) for c in range(n_channels)])[None] / shape.sum() * total[:, None, None]
	arrays = {
		"signal_groups": np.array(groups),
		"chrom": np.array([f"chr{1 + i % 2}" for i in range(n)]),
		"start": np.arange(n) * 3000,
		"end": np.arange(n) * 3000 + out,
		"observed_counts": observed,
		"predicted_log_counts": predicted.astype(np.float32),
		"profile_pearson": pearson.astype(np.float32),
		"profile_jsd": (0.6 - pearson / 3).astype(np.float32),
		"example_index": index,
		"example_observed": rng.poisson(expected).astype(np.float32),
		"example_predicted": expected.astype(np.float32),
	}
	if negatives:
		arrays |= {"negative_observed_counts": negative_observed, "negative_predicted_log_counts": negative_predicted}
	if baselines:
		write_table(Path(f"{prefix}.baselines.tsv"), baseline_rows)
		arrays["baseline_predicted_log_counts"] = baseline.astype(np.float32)
	np.savez(f"{prefix}.evaluation.npz", **arrays)
	record = {
		"split": "Test loci" if prefix.endswith(".test") else "Validation loci",
		"chroms": ["chr8"],
		"n_loci": n,
		"model": {"path": "run.torch", "sha256": "ab" * 32},
		"versions": {"cherimoya": "0.4.0"},
	}
	Path(f"{prefix}.performance.json").write_text(json.dumps(record))


def write_attributions(prefix: str, n: int = 40, width: int = 400) -> None:
	rng = np.random.default_rng(5)
	codes = rng.integers(0, 4, (n, width))
	scores = rng.normal(0, 0.004, (n, 4, width))
	motif = [0, 1, 1, 0, 3, 3, 2, 1, 2]
	for i in range(n):
		at = 120 + 3 * i
		codes[i, at : at + len(motif)] = motif
		scores[i, motif, np.arange(at, at + len(motif))] += 0.1 + 0.05 * rng.random(len(motif))
		scores[i, :, at + 14 : at + 20] -= 0.03
	one_hot = (np.arange(4)[None, :, None] == codes[:, None]).astype(np.int8)
	np.savez_compressed(f"{prefix}.attributions.ohe.npz", one_hot)
	np.savez_compressed(f"{prefix}.attributions.attr.npz", scores.astype(np.float32))
	rows = [f"chr{1 + i % 3}\t{1000 + i * 700}\t{1000 + i * 700 + width}" for i in range(n)]
	Path(f"{prefix}.attributions.bed").write_text("\n".join(rows) + "\n")


def accounting(given: int, kept: int, **dropped: int) -> dict:
	reasons = {"chromosome not in FASTA": 0, "off the edge": 0, "excluded": 0, "outlier": 0, NOT_SELECTED[0]: 0}
	named = {reason.replace("_", " "): n for reason, n in dropped.items()}
	reasons |= named
	reasons[NOT_SELECTED[0]] = given - kept - sum(named.values())
	return {"given": given, "kept": kept, "dropped": reasons}


def make_run(
	folder: Path,
	name: str = "yeast",
	*,
	groups: tuple[int, ...] = (1,),
	n: int = 600,
	test: bool = True,
	validation: bool = True,
	negatives: bool = True,
	baselines: bool = True,
	attributions: bool = True,
	log: bool = True,
	record: bool = True,
	overfit: bool = False,
	quality: float = 0.9,
	reads: float = 300,
	signals: list | None = None,
	training: int = 4100,
	ks: float = 0.03,
) -> str:
	"""The files that a run leaves, in `folder`; returns the run's prefix."""
	prefix = str(folder / name)
	chosen = {"negatives": negatives, "baselines": baselines, "quality": quality, "reads": reads}
	if validation:
		write_evaluation(prefix, groups, n, seed=1, **chosen)
	if test:
		write_evaluation(f"{prefix}.test", groups, n, seed=2, **chosen)
	if log:
		write_log(Path(f"{prefix}.log"), overfit=overfit)
	if attributions:
		write_attributions(prefix)
	if record:
		splits = {
			"training": accounting(5600, training, outlier=37, off_the_edge=3),
			"training_negatives": accounting(5600, training),
			"validation": accounting(5600, n, excluded=2),
		}
		if test:
			splits["test"] = accounting(5600, n, off_the_edge=1)
		settings = {
			"name": name,
			"signals": signals or [f"{name}.bw"],
			"sequences": "genome.fa",
			"training_chroms": [f"chr{i}" for i in range(9, 20)],
			"max_epochs": 50,
			"batch_size": 64,
			"min_counts": None,
			"negative_ratio": 0.1,
		}
		content = {
			"accounting": splits,
			"seed": 0,
			"device": "cpu",
			"versions": {"cherimoya": "0.4.0", "torch": "2.9.0", "python": "3.11.2"},
			"epochs": 20,
			"best_epoch": 16,
			"best_score": 0.68,
			"seconds": 187.3,
			"seconds_per_epoch": 9.3,
			"n_parameters": 339_877,
			"signal_groups": list(groups),
			"n_control_tracks": 0,
			"settings": settings,
		}
		Path(f"{prefix}.fit.record.json").write_text(json.dumps(content))
		Path(f"{prefix}.fit.json").write_text(json.dumps(settings))
		Path(f"{prefix}.evaluate.json").write_text(json.dumps(settings | {"batch_size": 128}))
		Path(f"{prefix}.attribute.json").write_text(json.dumps({"name": name, "output": "counts", "attr_window": 400}))
		reads = {"file": f"in/{name}.bam", "unit": "reads", "given": 5000, "used": 4900, "dropped": {"unmapped": 100}}
		Path(f"{prefix}.signals.record.json").write_text(
			json.dumps({"signals": [{"files": [reads]}], "controls": [{"files": [reads | {"file": "input.bam"}]}]})
		)
		gc = np.exp(-0.5 * ((np.arange(50) - 20) / 3) ** 2).round(3).tolist()
		edges = np.linspace(0, 1, 51).tolist()
		search = {"bin_edges": edges, "gc_loci": gc, "gc_negatives": gc, "ks": ks, "requested": 5600, "found": 5590}
		Path(f"{prefix}.negatives.record.json").write_text(json.dumps(search))
		Path(f"{prefix}.fit.done.json").write_text(json.dumps({"seconds": 190.2, "fingerprint": "00"}))
	return prefix


MOTIF = "TGACTCATGC"
PATTERNS = {"pos_patterns": [412, 96], "neg_patterns": [31]}


def write_patterns(path: Path) -> None:
	"""A file such as TF-MoDISco leaves: an informative core in each pattern, and flanks without."""
	h5py = pytest.importorskip("h5py")
	rng = np.random.default_rng(4)
	with h5py.File(path, "w") as file:
		file.attrs["window_size"] = 20
		for group, sizes in PATTERNS.items():
			for i, n in enumerate(sizes):
				bases = rng.permutation(list(MOTIF))
				ppm = np.full((30, 4), 0.25)
				ppm[10:20] = 0.04 + 0.84 * (np.array(list("ACGT")) == bases[:, None])
				sign = 1 if group.startswith("pos") else -1
				cwm = rng.normal(0, 0.0005, (30, 4))
				cwm[10:20] += sign * 0.05 * (ppm[10:20] - 0.2)
				place = file.create_group(f"{group}/pattern_{i}")
				place["contrib_scores"], place["sequence"] = cwm, ppm
				place["seqlets/n_seqlets"] = np.array([n])


def write_findings(prefix: str, *, groups: int = 1, patterns: bool = True) -> None:
	"""What the steps after attribution leave."""
	rows = ["#chrom\tstart\tend\tattribution\tp-value\tstrand\tmotif\tmotif_p-value\tmotif_E-value"]
	for i in range(40):  # on the motifs of `write_attributions`
		start = 1000 + i * 700 + 120 + 3 * i
		value, motif = (0.9 - i / 100, "MA1 AP-1") if i % 4 else (-0.5, "MA2 <other>")
		rows.append(f"chr{1 + i % 3}\t{start}\t{start + 9}\t{value:.4f}\t0.0001\t+\t{motif}\t2.5e-06\t0.0025")
	Path(f"{prefix}.seqlets_annotated.bed").write_text("\n".join(rows) + "\n")
	counts = "motif\tseqlets\tpositive\tnegative\nMA1 AP-1\t30\t30\t0\nMA2 <other>\t10\t0\t10\n"
	Path(f"{prefix}.motif_seqlet_count.tsv").write_text(counts)
	if patterns:
		write_patterns(Path(f"{prefix}_modisco_results.h5"))
	folder = Path(f"{prefix}_modisco")
	folder.mkdir()
	(folder / "motifs.html").write_text("a page")
	header = "pattern\tsign\tseqlets\tconsensus\tmotif_1\tp_value_1\tq_value_1"
	(folder / "motifs.tsv").write_text(f"{header}\npos_patterns.pattern_0\tpositive\t412\tTGA\tMA1 AP-1\t1e-9\t2e-08\n")
	folder = Path(f"{prefix}_marginalize")
	folder.mkdir()
	(folder / "index.html").write_text("a page")
	keys = (
		"group",
		"rank",
		"motif",
		"name",
		"inserted",
		"log2fc_counts",
		"log2fc_counts_se",
		"same_sign",
		"jsd_profile",
	)
	rows = ["\t".join(keys)]
	for group in range(groups):
		for i in range(12):
			rows.append(f"{group}\t{i + 1}\tMA{i}\tF{i}\t{MOTIF}\t{1.5 - i / 10:.3f}\t0.021\t0.98\t0.0432")
	(folder / "marginalize.tsv").write_text("\n".join(rows) + "\n")
	scores = [
		f"{key}.{g}" if groups > 1 else key
		for g in range(groups)
		for key in ("log2fc_counts", "jsd_profile", "l1_profile")
	]
	rows = ["\t".join(["chrom", "pos", "id", "ref", "alt", "status", *scores])]
	for i in range(30):
		values = [f"{(-1) ** i * i / 20 + g:.4f}\t0.01\t0.1" for g in range(groups)]
		rows.append(f"chr1\t{1000 + i}\trs{i}\tA\tC\tscored\t" + "\t".join(values))
	blank = "\t" * len(scores)
	rows += [f"chr9\t5\t.\tA\tC\tchromosome not in FASTA{blank}", f"chr1\t5\t.\tA\tC\treference mismatch{blank}"]
	Path(f"{prefix}.variants.tsv").write_text("\n".join(rows) + "\n")


# ------------------------------------------------------------------------------------------ the verdict

NAN = math.nan


@pytest.mark.parametrize(
	("part", "model", "baseline", "low", "high", "outcome", "usable"),
	[
		pytest.param("profile", 0.5, 0.3, 0.15, 0.25, "better", True, id="interval-above-zero"),
		pytest.param("profile", 0.5, 0.49, -0.01, 0.03, "no different", False, id="interval-holds-zero"),
		pytest.param("counts", 0.2, 0.5, -0.4, -0.2, "worse", False, id="interval-below-zero"),
		pytest.param("profile", 0.08, 0.02, 0.04, 0.08, "better", False, id="better-but-below-the-profile-floor"),
		pytest.param("counts", 0.25, 0.02, 0.1, 0.3, "better", False, id="better-but-below-the-count-floor"),
		pytest.param("counts", 0.3, 0.02, 0.1, 0.3, "better", True, id="at-the-count-floor"),
		pytest.param("counts", 0.55, 0.5, NAN, NAN, "better", True, id="no-interval-clear-difference"),
		pytest.param("counts", 0.51, 0.5, NAN, NAN, "no different", False, id="no-interval-small-difference"),
		pytest.param("counts", 0.45, 0.5, NAN, NAN, "worse", False, id="no-interval-worse"),
		pytest.param("counts", 0.9, NAN, NAN, NAN, "unknown", False, id="no-baseline"),
		pytest.param("counts", NAN, 0.5, NAN, NAN, "unknown", False, id="not-measured"),
	],
)
def test_a_part_against_its_baseline(part, model, baseline, low, high, outcome, usable):
	comparison = Comparison(part, 0, model, baseline, low, high)
	assert comparison.outcome == outcome
	assert comparison.usable is usable


@pytest.mark.parametrize(
	("part", "error", "baseline_error", "usable", "words"),
	[
		pytest.param(
			"counts", 12.9, 0.57, False, "off by a factor of about 36.3, the baseline by 2.1", id="counts-off"
		),
		pytest.param("counts", 0.57, 0.57, True, "moderate agreement.", id="counts-equal"),
		pytest.param("counts", 0.6, 0.4, True, "less so for absolute numbers", id="counts-at-the-limit"),
		pytest.param("counts", 0.61, 0.4, False, "off by a factor of about 2.2", id="counts-above-the-limit"),
		pytest.param("counts", 0.3, NAN, True, "moderate agreement", id="baseline-error-unknown"),
		pytest.param("profile", 361.3, 355.1, False, "loss is higher (361.3 against 355.1 nats)", id="profile-off"),
		pytest.param("profile", 340.0, 355.1, True, "better than the baseline.", id="profile-fine"),
	],
)
def test_a_correlation_is_not_enough(part, error, baseline_error, usable, words):
	measure, loss = {"counts": ("count_pearson", "count_mse"), "profile": ("profile_pearson", "profile_mnll")}[part]
	run = bare_run([{measure: 0.6, loss: error}], [{measure: 0.2, loss: baseline_error}])
	verdict = judge(run)
	comparison = next(c for c in verdict.comparisons if c.part == part)
	assert comparison.outcome == "better" and comparison.usable is usable
	assert any(words in finding for finding in verdict.findings)


def bare_run(rows, baselines, *, split="test", n=500, groups=None, **fields) -> Run:
	"""A run in memory with one evaluation that has measures, and no values per locus."""
	evaluation = Evaluation(split, rows, baselines, {"n_loci": n}, None)
	record = {"signal_groups": groups or [1] * len(rows)}
	blank = {"log": None, "attributions": None, "step_settings": {}, "step_seconds": {}, "files": []}
	return Run(name="run", fit_record=record, evaluations={split: evaluation}, **(blank | fields))


GOOD, POOR = {"profile_pearson": 0.5, "count_pearson": 0.7}, {"profile_pearson": 0.3, "count_pearson": 0.4}
PROFILE_ONLY, COUNTS_ONLY = GOOD | {"count_pearson": 0.4}, GOOD | {"profile_pearson": 0.3}


@pytest.mark.parametrize(
	("rows", "baselines", "n", "level", "words"),
	[
		pytest.param([GOOD], [POOR], 500, "usable", "both where the reads fall and how many", id="both-beat"),
		pytest.param([POOR], [POOR], 500, "unusable", "Do not draw conclusions", id="neither-beats"),
		pytest.param([POOR], [GOOD], 500, "unusable", "neither its profiles nor its counts", id="both-worse"),
		pytest.param([PROFILE_ONLY], [POOR], 500, "partly", "its profile predictions can be used", id="profile-only"),
		pytest.param([COUNTS_ONLY], [POOR], 500, "partly", "its count predictions can be used", id="counts-only"),
		pytest.param([GOOD, GOOD], [POOR, POOR], 500, "usable", "both", id="two-groups-both"),
		pytest.param([GOOD, POOR], [POOR, POOR], 500, "partly", "for group 1 can be used", id="one-of-two-groups"),
		pytest.param([GOOD], None, 500, "unknown", "baselines: true", id="no-baselines"),
		pytest.param([GOOD], [POOR], 29, "unknown", "Only 29 test loci", id="too-few-held-out"),
		pytest.param([GOOD], [POOR], 30, "usable", "30 test loci", id="just-enough-held-out"),
		pytest.param([{}], [{}], 500, "unknown", "no baseline", id="nothing-measured"),
	],
)
def test_verdict_follows_its_rules(rows, baselines, n, level, words):
	verdict = judge(bare_run(rows, baselines, n=n))
	assert verdict.level == level
	assert words in verdict.summary
	assert len(verdict.findings) == 2 * len(rows)


def test_a_run_that_was_not_measured_has_no_verdict(tmp_path):
	run = read_run(make_run(tmp_path, test=False, validation=False))
	verdict = judge(run)
	assert verdict.level == "unknown" and "run evaluate" in verdict.summary and not verdict.findings


@pytest.mark.parametrize(
	("options", "expected"),
	[
		pytest.param({}, None, id="nothing-to-warn-of"),
		pytest.param({"training": 1999}, "Few training loci (1,999", id="few-training-loci"),
		pytest.param({"n": 150}, "Few held-out loci (150", id="few-held-out-loci"),
		pytest.param({"reads": 30}, "Shallow data", id="shallow"),
		pytest.param({"test": False}, "no test split", id="validation-only"),
		pytest.param({"negatives": False}, "Not measured on background", id="no-negatives"),
		pytest.param({"ks": 0.21}, "differ in GC content", id="background-of-other-composition"),
		pytest.param({"overfit": True}, "Overfitting: the validation profile loss", id="overfit"),
	],
)
def test_cautions(tmp_path, options, expected):
	cautions = judge(read_run(make_run(tmp_path, attributions=False, **options))).cautions
	if expected is None:
		assert cautions == ()
	else:
		assert len(cautions) == 1 and expected in cautions[0]


@pytest.mark.parametrize(
	("fields", "expected"),
	[
		pytest.param(
			{"accounting": {"training": Accounting(6000, 3000, {"excluded": 2000, NOT_SELECTED[0]: 1000})}},
			"2,000 of 5,000 training loci were dropped, most of them (2,000) for this reason: excluded",
			id="many-lost",
		),
		pytest.param(
			{"accounting": {"training": Accounting(6000, 4100, {"excluded": 900, NOT_SELECTED[0]: 1000})}},
			None,
			id="some-lost",
		),
		pytest.param(
			{"log": {"Epoch": np.arange(4), "Iteration": np.arange(4) * 99}}, "Only 297 training steps", id="few-steps"
		),
		pytest.param({"log": {"Epoch": np.arange(4), "Iteration": np.arange(4) * 100}}, None, id="enough-steps"),
		pytest.param(
			{"log": {"Epoch": np.arange(4), "Saved?": np.arange(4) < 1}}, "The first epoch", id="first-is-best"
		),
		pytest.param(
			{"log": {"Epoch": np.arange(4), "Saved?": np.array([True] * 4)}}, "larger max_epochs", id="last-is-best"
		),
		pytest.param(
			{"log": {"Epoch": np.arange(4), "Saved?": np.array([True, True, False, False])}}, None, id="stopped-well"
		),
	],
)
def test_cautions_from_the_record(fields, expected):
	run = bare_run([GOOD | {"auroc": 0.9}], [POOR], **fields)
	assert [expected in text for text in judge(run).cautions] == ([True] if expected else [])


@pytest.mark.parametrize(("auroc", "warned"), [(0.69, True), (0.7, False), (0.95, False)])
def test_caution_about_background(auroc, warned):
	cautions = judge(bare_run([GOOD | {"auroc": auroc}], [POOR])).cautions
	assert any("hardly tell peaks" in text for text in cautions) is warned


@pytest.mark.parametrize(("drop", "warned"), [(0.0, False), (0.09, False), (0.11, True), (-0.3, False)])
def test_caution_about_a_gap_between_validation_and_test(drop, warned):
	run = bare_run([GOOD | {"auroc": 0.9}], [POOR])
	better = {key: value + drop for key, value in GOOD.items()}
	run.evaluations["validation"] = Evaluation("validation", [better], [POOR], {}, None)
	texts = [text for text in judge(run).cautions if "falls from" in text]
	assert len(texts) == (2 if warned else 0)


def test_chosen_loci_are_not_called_held_out(tmp_path):
	prefix = make_run(tmp_path, test=False, attributions=False, log=False)
	record = Path(f"{prefix}.performance.json")
	record.write_text(json.dumps(json.loads(record.read_text()) | {"split": "Chosen loci"}))
	verdict = judge(read_run(prefix))
	assert "took no part" not in verdict.summary and "chosen loci" in verdict.summary
	assert any("chosen by name" in text for text in verdict.cautions)
	assert "Chosen loci" in write_report(prefix).read_text()


def test_interval_of_counts_is_that_of_a_paired_bootstrap():
	rng = np.random.default_rng(11)
	n = 120
	truth = rng.normal(5, 1, n)
	model, baseline = truth + rng.normal(0, 0.4, n), truth + rng.normal(0, 1.5, n)
	observed = np.expm1(truth)
	arrays = {
		"observed_counts": observed[:, None],
		"predicted_log_counts": model[:, None],
		"baseline_predicted_log_counts": baseline[:, None],
	}
	evaluation = Evaluation("test", [GOOD], [POOR], {}, arrays)
	counts = compare(evaluation, (1,))[1]
	again = np.random.default_rng(99)
	draws = []
	for _ in range(2000):
		i = again.integers(0, n, n)
		draws.append(np.corrcoef(truth[i], model[i])[0, 1] - np.corrcoef(truth[i], baseline[i])[0, 1])
	assert counts.low == pytest.approx(np.quantile(draws, 0.025), abs=0.02)
	assert counts.high == pytest.approx(np.quantile(draws, 0.975), abs=0.02)


def test_interval_of_a_baseline_that_is_constant():
	x = np.arange(50.0)
	arrays = {
		"observed_counts": np.expm1(x / 10)[:, None],
		"predicted_log_counts": x[:, None],
		"baseline_predicted_log_counts": np.full((50, 1), 3.0),
	}
	counts = compare(Evaluation("test", [GOOD], [POOR], {}, arrays), (1,))[1]
	assert counts.low == pytest.approx(1) and counts.high == pytest.approx(1)


@pytest.mark.parametrize("paired", [True, False], ids=["paired", "against-the-mean"])
def test_interval_of_profiles(paired):
	rng = np.random.default_rng(2)
	values = rng.normal(0.5, 0.1, (400, 3))
	reference = values - 0.2 + rng.normal(0, 0.01, values.shape)
	arrays = {"profile_pearson": values} | ({"baseline_profile_pearson": reference} if paired else {})
	row = [{"profile_pearson": 0.3}] * 2
	profile = compare(Evaluation("test", row, row, {}, arrays), (1, 2))[2]  # the second group: channels 1 and 2
	difference = (values[:, 1:] - (reference[:, 1:] if paired else 0.3)).mean(axis=1)
	error = difference.std(ddof=1) / 20
	assert profile.low == pytest.approx(difference.mean() - 1.96 * error)
	assert profile.high == pytest.approx(difference.mean() + 1.96 * error)


# ------------------------------------------------------------------------------------------ the page

SECTIONS = ("verdict", "performance", "counts", "profiles", "contributions", "loci", "training", "settings", "files")
VOID = {"meta", "br", "link", "img", "hr"}


class Page(HTMLParser):
	"""Every tag with its attributes, and a check that tags close in order."""

	def __init__(self, text: str) -> None:
		super().__init__()
		self.tags: list[tuple[str, dict[str, str | None]]] = []
		self.open: list[str] = []
		self.text: list[str] = []
		self.feed(text)
		self.close()

	def handle_starttag(self, tag, attrs):
		self.tags.append((tag, dict(attrs)))
		if tag not in VOID:
			self.open.append(tag)

	def handle_startendtag(self, tag, attrs):
		self.tags.append((tag, dict(attrs)))

	def handle_endtag(self, tag):
		assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
		self.open.pop()

	def handle_data(self, data):
		self.text.append(data)

	def values(self, *attributes: str) -> list[str]:
		return [attrs[a] for _, attrs in self.tags for a in attributes if a in attrs]


@pytest.fixture(scope="module")
def full_page(tmp_path_factory) -> tuple[str, str]:
	"""A report with everything in it: the run's prefix and the page's text."""
	folder = tmp_path_factory.mktemp("report")
	prefix = make_run(folder, "multi", groups=(1, 2), signals=["assay.bw", ["chip.+.bw", "chip.-.bw"]])
	return prefix, write_report(prefix).read_text(encoding="utf-8")


def test_page_is_well_formed_and_accessible(full_page):
	page = Page(full_page[1])
	assert page.open == []
	ids = page.values("id")
	assert len(ids) == len(set(ids))
	figures = [attrs for tag, attrs in page.tags if tag == "svg"]
	# two groups: two scatter plots, a histogram and three profiles each; four curves, four logos, GC content
	assert len(figures) == 2 * 3 + 2 * 3 + 4 + 4 + 1
	assert all(len(attrs["aria-label"]) > 20 and attrs["role"] == "img" for attrs in figures)
	assert [tag for tag, _ in page.tags].count("h1") == 1
	references = [v[1:] for v in page.values("href", "xlink:href", "aria-labelledby") if v.startswith("#")]
	assert set(references) <= set(ids) and set(page.values("aria-labelledby")) <= set(ids)
	assert set(re.findall(r"url\(#([^)]*)\)", full_page[1])) <= set(ids)


def test_page_makes_no_request(full_page):
	text = full_page[1]
	page = Page(text)
	for value in page.values("src", "href", "xlink:href", "data", "action", "poster", "srcset"):
		assert value.startswith(("#", "data:image/png;base64,")), value
	assert all(match.startswith("#") for match in re.findall(r"url\(([^)]*)\)", text))
	assert "@import" not in text and not {"script", "link", "iframe"} & {tag for tag, _ in page.tags}
	policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
	assert "default-src 'none'" in policy
	addresses = set(re.findall(r"https?://[^\s\"'<>]*", text))
	assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_page_has_every_section(full_page):
	page = Page(full_page[1])
	assert [attrs["id"] for tag, attrs in page.tags if tag == "section"] == list(SECTIONS)
	text = " ".join(" ".join(page.text).split())
	for words in (
		"assay.bw",
		"chip.+.bw and chip.-.bw",
		"+ strand",
		"Best locus",
		"Worst locus",
		"training_chroms",
		"2.9.0",
	):
		assert words in text
	assert 'class="absent"' not in full_page[1]


def test_page_is_the_same_for_the_same_run(full_page):
	prefix, text = full_page
	for path in Path(prefix).parent.iterdir():
		os.utime(path, (1, 1))
	assert write_report(prefix).read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
	("options", "expected"),
	[
		pytest.param(
			{"negatives": False, "attributions": False, "baselines": False},
			("Background loci were not measured", "run attribute", "No baselines were measured"),
			id="no-negatives-attributions-or-baselines",
		),
		pytest.param(
			{"test": False, "log": False, "record": False, "attributions": False},
			("There is no test split", "There is no training log", "There is no record of the loci"),
			id="no-test-split-log-or-record",
		),
		pytest.param({"test": False, "validation": False}, ("has not been evaluated",), id="not-evaluated"),
		pytest.param({"n": 1, "attributions": False}, ("Only 1 test loci",), id="one-locus"),
	],
)
def test_page_says_what_is_missing(tmp_path, options, expected):
	page = Page(write_report(make_run(tmp_path, **options)).read_text(encoding="utf-8"))
	text = " ".join(page.text)
	for words in expected:
		assert words in text
	assert [attrs["id"] for tag, attrs in page.tags if tag == "section"] == list(SECTIONS)


def test_page_without_values_per_locus(tmp_path):
	prefix = make_run(tmp_path, attributions=False, log=False)
	Path(f"{prefix}.test.evaluation.npz").unlink()
	text = write_report(prefix).read_text(encoding="utf-8")
	assert "There are no values per held-out locus" in text and "There are no example loci" in text


def test_user_text_is_escaped(tmp_path):
	bad = '<script>alert("x")</script> & co'
	prefix = make_run(
		tmp_path, "a<b>&c", groups=(1, 1), signals=[f"{bad}.bw", "other.bw"], attributions=False, log=False
	)
	text = write_report(prefix).read_text(encoding="utf-8")
	page = Page(text)
	assert "script" not in {tag for tag, _ in page.tags} and "b" not in {tag for tag, _ in page.tags}
	assert "a<b>&c" in page.text
	assert any("<script>alert" in data for data in page.text)


def test_page_of_many_loci_stays_small(tmp_path):
	prefix = make_run(tmp_path, n=50_000, test=False, attributions=False, log=False)
	assert write_report(prefix).stat().st_size < 3_000_000


def test_bar_adds_up_to_the_loci_given(full_page):
	bar = full_page[1].split('class="bar"')[1].split("</div>")[0]
	assert sum(int(n) for n in re.findall(r"flex-grow:(\d+)", bar)) == 5600


# ------------------------------------------------------------------------------------------ motifs and variants

FOUND = ("seqlets", "motifs", "marginalization", "variants")


@pytest.fixture(scope="module")
def found_page(tmp_path_factory) -> tuple[str, str]:
	"""A report of a run that found motifs and scored variants: its prefix and the text of the page."""
	folder = tmp_path_factory.mktemp("found")
	prefix = make_run(folder, "multi", groups=(1, 2), n=60, log=False)
	write_findings(prefix, groups=2)
	database = "MEME version 4\n\nALPHABET= ACGT\n\n"
	for i in range(2):
		rows = [" ".join("0.91" if base == letter else "0.03" for base in "ACGT") for letter in MOTIF]
		database += (
			f"MOTIF MA{i} F{i}\nletter-probability matrix: alength= 4 w= {len(MOTIF)}\n" + "\n".join(rows) + "\n\n"
		)
	(folder / "m.meme").write_text(database)
	Path(f"{prefix}.marginalize.json").write_text(json.dumps({"motifs": str(folder / "m.meme"), "n_loci": 100}))
	return prefix, write_report(prefix).read_text(encoding="utf-8")


def section_of(text: str, key: str) -> str:
	return text.partition(f'<section id="{key}"')[2].partition("</section>")[0]


def test_what_was_found_has_sections_of_its_own(found_page):
	pytest.importorskip("memelite")
	text = found_page[1]
	page = Page(text)
	at = SECTIONS.index("contributions") + 1
	assert [attrs["id"] for tag, attrs in page.tags if tag == "section"] == [*SECTIONS[:at], *FOUND, *SECTIONS[at:]]
	ids = page.values("id")
	assert page.open == [] and len(ids) == len(set(ids))
	assert {key: section_of(text, key).count("<figure") for key in FOUND} == {
		"seqlets": 4,
		"motifs": 3,
		"marginalization": 2 * 2,  # two groups, and two motifs of the database
		"variants": 0,
	}
	assert "n_loci" in section_of(text, "settings") and "multi_modisco/motifs.tsv" in section_of(text, "files")


@pytest.mark.parametrize(
	("key", "words"),
	[
		(
			"seqlets",
			[
				"40 seqlets",
				"30 raise the prediction, 10 lower it",
				"Most like MA1 AP-1 (E 0.003)",
				"MA2 &lt;other&gt;",
			],
		),
		(
			"motifs",
			["3 patterns: 2 whose bases raise", "412 seqlets, raises the prediction. Nearest: MA1 AP-1 (q 2.0e−08)."],
		),
		("marginalization", ["Each of 12 known motifs", "+1.500", "98%", "MA9 F9", "group 1", "group 2"]),
		("variants", ["30 of 32 alleles scored", "chr1:1,028 rs28", "+2.400", "group 2", "Reference mismatch"]),
	],
)
def test_what_was_found_is_told(found_page, key, words):
	html = section_of(found_page[1], key)
	assert [word for word in words if word not in html] == []


@pytest.mark.parametrize(
	("motif", "e_value", "threshold", "words"),
	[
		("MA1 X", 0.00025, 1.0, "Most like MA1 X (E 2.5e−04). "),
		("MA1 X", 0.72, 1.0, "Most like MA1 X (E 0.7). "),
		("MA1 X", 1.0, 1.0, "Most like MA1 X (E 1.0). "),
		("MA1 X", 1012.3, 1.0, "Like no known motif (the nearest, MA1 X, has E 1,012.3). "),
		("MA1 X", 5.0, None, "Most like MA1 X (E 5.0). "),
		("MA1 X", math.nan, 1.0, "Most like MA1 X (p 2.0e−04). "),
		(".", 1019.0, 1.0, "Like no known motif. "),
		(None, math.nan, 1.0, ""),
	],
	ids=["clear", "within", "at_it", "beyond", "no_threshold", "no_e_value", "no_base", "not_compared"],
)
def test_what_a_seqlet_is_like(motif, e_value, threshold, words):
	seqlet = Seqlet("chr1", 10, 20, 1.5, 1e-5, motif, 0.0002, e_value)
	assert sections._like(seqlet, threshold) == words


def test_pages_of_steps_are_linked_and_not_loaded(found_page):
	page = Page(found_page[1])
	links = [attrs["href"] for tag, attrs in page.tags if tag == "a" and not attrs["href"].startswith("#")]
	assert links == ["multi_modisco/motifs.html", "multi_marginalize/index.html"]
	folder = Path(found_page[0]).parent
	assert all((folder / link).is_file() for link in links)


def test_the_strongest_rows_are_shown(found_page):
	strongest = re.findall(r"chr1:(1,0\d\d) rs", section_of(found_page[1], "variants"))
	values = {i: max(abs((-1) ** i * i / 20 + g) for g in range(2)) for i in range(30)}
	assert strongest == [f"{1000 + i:,}" for i in sorted(values, key=values.get, reverse=True)[:10]]
	places = re.findall(r"seqlet (chr\d):([\d,]+)–", section_of(found_page[1], "seqlets"))
	assert len(set(places)) == 4


def test_patterns_without_the_package_that_reads_them(tmp_path, monkeypatch):
	prefix = make_run(tmp_path, log=False, attributions=False, n=40)
	write_findings(prefix)
	monkeypatch.setitem(sys.modules, "h5py", None)
	text = section_of(write_report(prefix).read_text(encoding="utf-8"), "motifs")
	assert 'class="absent"' in text and "pip install &#x27;cherimoya[motifs]&#x27;" in text and "motifs.html" in text


@pytest.mark.parametrize(
	("spoil", "expected"),
	[
		pytest.param(lambda p: Path(f"{p}_modisco_results.h5").write_text("x"), "_modisco_results.h5", id="patterns"),
		pytest.param(lambda p: Path(f"{p}.variants.tsv").write_text("a\tb\n1\n"), ".variants.tsv", id="variants"),
		pytest.param(
			lambda p: Path(f"{p}_marginalize/marginalize.tsv").write_text("group\trank\n0\t1\n"),
			"marginalize.tsv",
			id="effects",
		),
		pytest.param(lambda p: Path(f"{p}.motif_seqlet_count.tsv").write_text("motif\nx\n"), "count.tsv", id="counts"),
	],
)
def test_broken_findings_are_named(tmp_path, spoil, expected):
	prefix = make_run(tmp_path, log=False, attributions=False, n=40)
	write_findings(prefix)
	spoil(prefix)
	with pytest.raises(InputError, match=re.escape(expected)):
		write_report(prefix)


def test_steps_that_found_nothing_say_so(tmp_path):
	h5py = pytest.importorskip("h5py")
	prefix = make_run(tmp_path, log=False, attributions=False, n=40)
	Path(f"{prefix}.seqlets.bed").write_text("#chrom\tstart\tend\tattribution\tp-value\n")
	with h5py.File(f"{prefix}_modisco_results.h5", "w") as file:
		file.attrs["window_size"] = 20
	Path(f"{prefix}.variants.tsv").write_text(
		"chrom\tpos\tid\tref\talt\tstatus\tlog2fc_counts\njunk\t1\t.\tA\tC\toff the edge\t\n"
	)
	text = write_report(prefix).read_text(encoding="utf-8")
	assert "no seqlet was found" in text and "TF-MoDISco found no pattern" in text and "0 of 1 allele scored" in text
	assert 'id="marginalization"' not in text


def test_letters_of_a_matrix_are_stacked_by_height():
	matplotlib = pytest.importorskip("matplotlib")
	from cherimoya_cli.report import figures

	drawn = []
	matrix = np.array([[0.5, 0.1, -0.2, 0.0], [0.0, 0.0, 0.3, -0.4]])

	def record(ax, one_hot, heights, *, bottoms, **_):
		for i in range(len(heights)):
			if heights[i]:
				drawn.append((i, "ACGT"[int(one_hot[:, i].argmax())], round(heights[i], 6), round(bottoms[i], 6)))

	assert matplotlib
	original, figures.draw_logo = figures.draw_logo, record
	try:
		figures.matrix_logo(matrix, alt="a", caption="c", unit="u")
	finally:
		figures.draw_logo = original
	assert sorted(drawn) == sorted(
		[(0, "C", 0.1, 0.0), (0, "A", 0.5, 0.1), (0, "G", -0.2, 0.0), (1, "G", 0.3, 0.0), (1, "T", -0.4, 0.0)]
	)


# ------------------------------------------------------------------------------------------ figures


def test_logos_are_of_loci_that_do_not_overlap():
	strength = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
	chroms, starts = ["chr1", "chr1", "chr2", "chr1", "chr1"], np.array([1000, 1399, 1000, 1400, 601])
	assert pick_apart(strength, chroms, starts, 400, 3) == [0, 2, 3]
	assert pick_apart(strength, chroms, starts, 400, 9) == [0, 2, 3]


def test_figures_leave_matplotlib_as_it_was():
	code = (
		"import sys, matplotlib\n"
		"matplotlib.rcParams['font.size'] = 31\n"
		"from cherimoya_cli.report import figures\n"
		"import numpy as np\n"
		"now = lambda: {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != 'backend'}\n"
		"before = now()\n"
		"p = figures.profile(np.ones((2, 50)), np.ones((2, 50)), title='t', label='l', sigma=0, pearson=None)\n"
		"assert now() == before and 'matplotlib.pyplot' not in sys.modules\n"
		"assert 'font-size: 8px' in p.svg and 'font-size: 31px' not in p.svg\n"
	)
	subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize(
	("function", "value", "text"),
	[
		(duration, 0.234, "0.2 s"),
		(duration, 59.6, "1 min 0 s"),
		(duration, 187.3, "3 min 7 s"),
		(duration, 7322, "2 h 2 min"),
		(size, 999, "999 B"),
		(size, 1_400_000, "1.4 MB"),
		(size, 250_000, "250 kB"),
		(number, 0.12345, "0.123"),
		(number, -0.5, "−0.500"),
		(number, 543.21, "543.2"),
		(number, 12345.6, "12,346"),
		(number, NAN, "–"),
		(number, None, "–"),
		(two_decimals, -0.001, "0.00"),
		(two_decimals, -0.25, "−0.25"),
		(two_decimals, 0.999, "1.00"),
		(smoothing, 10, 15.0),
		(smoothing, 500, 5.0),
		(smoothing, 5000, 0.0),
	],
)
def test_values_as_text(function, value, text):
	assert function(value) == text


# ------------------------------------------------------------------------------------------ the program


def write_settings(folder: Path, prefix: str) -> str:
	path = folder / "report.json"
	path.write_text(json.dumps({"name": prefix}))
	return str(path)


def test_program_writes_the_report(tmp_path, capsys):
	prefix = make_run(tmp_path, attributions=False, log=False)
	assert main(["-p", write_settings(tmp_path, prefix)]) == 0
	assert f"{prefix}.report.html" in capsys.readouterr().out
	assert Path(f"{prefix}.report.html").read_text().startswith("<!DOCTYPE html>")


def test_nothing_to_report(tmp_path, capsys):
	assert main(["-p", write_settings(tmp_path, str(tmp_path / "none"))]) == 3
	error = capsys.readouterr().err
	assert "none.fit.record.json" in error and str(tmp_path) in error and "Traceback" not in error
	assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def truncate(path: str) -> None:
	data = Path(path).read_bytes()
	Path(path).write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
	("suffix", "spoil"),
	[
		pytest.param(".test.evaluation.npz", truncate, id="truncated-npz"),
		pytest.param(".attributions.attr.npz", truncate, id="truncated-attributions"),
		pytest.param(".fit.record.json", truncate, id="truncated-record"),
		pytest.param(".test.performance.tsv", lambda p: Path(p).write_text("a\tb\n1\tx\n"), id="table-not-numeric"),
		pytest.param(".log", lambda p: Path(p).write_text(""), id="empty-log"),
		pytest.param(
			".attributions.bed",
			lambda p: Path(p).write_text("chr1\t0\t400\n"),
			id="attributions-that-do-not-fit-together",
		),
		pytest.param(
			".test.performance.tsv",
			lambda p: Path(p).write_text(Path(p).read_text() + Path(p).read_text().splitlines()[1] + "\n"),
			id="more-rows-than-groups",
		),
	],
)
def test_a_spoilt_file_is_named(tmp_path, capsys, suffix, spoil):
	prefix = make_run(tmp_path)
	spoil(prefix + suffix)
	assert main(["-p", write_settings(tmp_path, prefix)]) == 3
	error = capsys.readouterr().err
	assert f"{prefix}{'.attributions.' if 'attributions' in suffix else suffix}" in error
	assert "again" in error and "Traceback" not in error
	assert not list(tmp_path.glob("*.html*")) and not list(tmp_path.glob(".*.tmp"))


def test_all_spoilt_files_are_named_at_once(tmp_path):
	prefix = make_run(tmp_path)
	truncate(f"{prefix}.evaluation.npz")
	truncate(f"{prefix}.fit.record.json")
	with pytest.raises(InputError, match=r"2 problems:(?s:.*)fit\.record\.json(?s:.*)evaluation\.npz"):
		write_report(prefix)


def test_a_log_cut_short_by_a_kill_is_drawn(tmp_path):
	prefix = make_run(tmp_path, attributions=False, test=False, validation=False)
	log = Path(f"{prefix}.log")
	log.write_text(log.read_text()[:-30])
	assert len(read_run(prefix).log["Epoch"]) == 19
	write_report(prefix)


def test_a_folder_that_is_not_there(tmp_path):
	prefix = make_run(tmp_path, test=False, validation=False, attributions=False, log=False)
	with pytest.raises(InputError, match=r"nowhere/x\.html: cannot be written"):
		write_report(prefix, path=str(tmp_path / "nowhere" / "x.html"))


def test_without_matplotlib(tmp_path, monkeypatch):
	prefix = make_run(tmp_path)
	for module in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
		monkeypatch.delitem(sys.modules, module)
	monkeypatch.setitem(sys.modules, "matplotlib", None)
	with pytest.raises(MissingExtraError, match=r"matplotlib.*pip install 'cherimoya\[report\]'"):
		write_report(prefix)
	assert not Path(f"{prefix}.report.html").exists()


# ------------------------------------------------------------------------------------------ the picture of an example


def test_example_picture_is_of_the_median_attributed_test_locus(tmp_path, make_bigwig):
	path = Path(__file__).parents[2] / "imgs" / "example.py"
	spec = importlib.util.spec_from_file_location("example_picture", path)
	picture = importlib.util.module_from_spec(spec)
	spec.loader.exec_module(picture)
	prefix = make_run(tmp_path, n=40)
	with np.load(f"{prefix}.test.evaluation.npz") as arrays:
		chroms, starts, quality = arrays["chrom"], arrays["start"], arrays["profile_pearson"].mean(axis=1)
	windows = [(str(chroms[k]), int(starts[k]) + 300) for k in range(40)]  # 400 bp around the same centres
	worst, *others = np.argsort(quality, kind="stable").tolist()
	windows[worst] = ("chr9", 0)  # its contributions were not computed
	rows = [f"{chrom}\t{start}\t{start + 400}" for chrom, start in windows]
	Path(f"{prefix}.attributions.bed").write_text("\n".join(rows) + "\n")
	run = read_run(prefix)
	assert picture.choose(run) == (others[39 // 2], others[39 // 2])
	sizes = {"chr1": 200_000, "chr2": 200_000}
	values = {chrom: np.ones(size) for chrom, size in sizes.items()}
	make_bigwig(Path(f"{prefix}.bw"), sizes, values)
	make_bigwig(Path(f"{prefix}.predictions.bw"), sizes, values)
	picture.draw(run, tmp_path / "example.png")
	assert (tmp_path / "example.png").read_bytes().startswith(b"\x89PNG")


def test_loci_of_several_files_and_splits_by_loci(tmp_path):
	"""Each file is accounted for, what belongs to another split is not lost, and tracks of groups are listed."""
	prefix = make_run(tmp_path)
	record = json.loads(Path(f"{prefix}.fit.record.json").read_text())
	files = {"in/a.bed": accounting(3000, 2000, excluded=11), "in/b.bed": accounting(2600, 1500)}
	record["accounting"]["training"]["files"] = files
	background = {"given": 900, "kept": 300, "dropped": {"in another split": 590, "excluded": 10}}
	record["accounting"]["training_negatives"] = background
	Path(f"{prefix}.fit.record.json").write_text(json.dumps(record))
	for name in (".0.bw", ".1.+.bw", ".1.-.bw", ".control.1.bw", ".fit.accounting.tsv", ".other.bw"):
		Path(f"{prefix}{name}").write_text("x")
	run = read_run(str(prefix))
	assert run.accounting["training_negatives"].lost == {"excluded": 10}
	assert run.accounting["training_negatives"].not_selected == 590
	contents = {file.name.removeprefix(Path(prefix).name): file.content for file in run.files}
	assert contents[".1.+.bw"] == "signal of the + strand of group 2, reads per bp"
	assert contents[".control.1.bw"] == "control signal of group 2, reads per bp"
	assert contents[".fit.accounting.tsv"] == "where the loci went" and ".other.bw" not in contents
	page = write_report(str(prefix)).read_text()
	for text in ("File by file", "<code>a.bed</code>", "<code>b.bed</code>", "excluded 11", "In another split"):
		assert text in page
