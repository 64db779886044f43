"""``cherimoya fit`` and ``cherimoya evaluate`` on a tiny genome: their files, records, and refusals."""

import csv
import hashlib
import json

import numpy as np
import pytest
import torch

pytest.importorskip("pyBigWig")

from cherimoya import Cherimoya
from cherimoya_cli.__main__ import main

pytestmark = pytest.mark.usefixtures("one_torch_thread")
IN, OUT = 166, 60
PROFILE = ["profile_mnll", "profile_jsd", "profile_pearson", "profile_spearman"]
COUNTS = ["count_pearson", "count_spearman", "count_mse"]
ALL = ["all_count_pearson", "all_count_spearman", "all_count_mse", "auroc", "auprc"]


@pytest.fixture(scope="module")
def settings(short_fit, tiny_genome):
	"""Settings of a short run on the stranded and the unstranded track, with a control."""
	signals = [str(tiny_genome.signal), [str(tiny_genome.plus), str(tiny_genome.minus)]]
	tracks = {"signals": signals, "controls": [str(tiny_genome.control)]}
	return {**short_fit, **tracks, "test_chroms": ["chr3"], "max_epochs": 2, "batch_size": 16}


def _run(command, folder, settings, **changes):
	"""Run a command on the settings with some changes, under the prefix `run` of a folder; its exit code."""
	folder.mkdir(exist_ok=True)
	path = folder / f"{command}.json"
	path.write_text(json.dumps({"name": str(folder / "run"), **settings, **changes}))
	return main([command, "-p", str(path)])


def _table(path):
	with open(path, encoding="utf-8") as file:
		return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory, settings):
	"""The folder of a run of fit."""
	folder = tmp_path_factory.mktemp("fitted")
	threads = torch.get_num_threads()
	torch.set_num_threads(1)
	assert _run("fit", folder, settings) == 0
	torch.set_num_threads(threads)
	return folder


def test_fit_leaves_its_files_and_nothing_else(fitted):
	splits = [f"run{split}.{rest}" for split in ("", ".test") for rest in ("performance.tsv", "performance.json")]
	splits += [f"run{split}.{rest}" for split in ("", ".test") for rest in ("baselines.tsv", "evaluation.npz")]
	run = [
		"run.torch",
		"run.final.torch",
		"run.log",
		"run.detailed.log",
		"run.checkpoint",
		"run.fit.record.json",
		"fit.json",
	]
	run.append("run.fit.accounting.tsv")
	assert sorted(path.name for path in fitted.iterdir()) == sorted(splits + run)


def test_the_model_has_the_shape_of_the_settings_and_of_the_data(fitted):
	model = Cherimoya.load(fitted / "run.torch")
	assert (model.n_filters, len(model.blocks), model.signal_groups, model.n_control_tracks) == (4, 2, (1, 2), 1)
	assert model.trimming == (IN - OUT) // 2
	assert model.name == "run"


def test_the_record_of_a_fit(fitted, settings):
	record = json.loads((fitted / "run.fit.record.json").read_text())
	assert list(record["accounting"]) == [
		f"{split}{what}" for split in ("training", "validation", "test") for what in ("", "_negatives")
	]
	for account in record["accounting"].values():
		assert account["given"] == account["kept"] + sum(account["dropped"].values()) == 83
	assert record["seed"] == 3
	assert record["epochs"] == 2
	assert record["device"] == "cpu"
	assert record["signal_groups"] == [1, 2]
	assert record["n_control_tracks"] == 1
	assert record["n_parameters"] == sum(p.numel() for p in Cherimoya.load(fitted / "run.torch").parameters())
	assert record["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
	log = _table(fitted / "run.log")
	assert float(log[record["best_epoch"]]["Validation Count Pearson"]) == pytest.approx(record["best_score"], rel=1e-4)
	assert {key: record["settings"][key] for key in settings} == settings


@pytest.mark.parametrize("stem", ["run", "run.test"])
@pytest.mark.parametrize("kind", ["performance", "baselines"])
def test_measures_have_a_row_per_group_and_the_columns_in_order(fitted, stem, kind):
	rows = _table(fitted / f"{stem}.{kind}.tsv")
	assert len(rows) == 2
	assert list(rows[0]) == PROFILE + COUNTS + ALL
	assert all(np.isfinite(float(value)) for row in rows for value in row.values())


def test_the_record_of_an_evaluation(fitted, settings):
	record = json.loads((fitted / "run.test.performance.json").read_text())
	assert record["loci"] == settings["loci"]
	assert record["chroms"] == ["chr3"]
	assert record["accounting"]["loci"]["kept"] == record["n_loci"] > 10
	assert record["accounting"]["negatives"]["kept"] == record["n_negatives"] > 10
	assert record["model"]["sha256"] == hashlib.sha256((fitted / "run.torch").read_bytes()).hexdigest()
	assert record["settings"]["out_window"] == OUT


@pytest.mark.parametrize("stem", ["run", "run.test"])
def test_per_locus_arrays(fitted, stem, tiny_genome):
	arrays = np.load(fitted / f"{stem}.evaluation.npz")
	n = json.loads((fitted / f"{stem}.performance.json").read_text())["n_loci"]
	assert (arrays["end"] - arrays["start"]).tolist() == [OUT] * n
	assert arrays["profile_pearson"].shape == arrays["profile_jsd"].shape == (n, 3)
	assert arrays["predicted_log_counts"].shape == arrays["baseline_predicted_log_counts"].shape == (n, 2)
	assert arrays["negative_observed_counts"].shape == arrays["negative_predicted_log_counts"].shape
	assert arrays["example_observed"].shape == arrays["example_predicted"].shape == (3, 3, OUT)
	for chrom, start, counts in zip(arrays["chrom"], arrays["start"], arrays["observed_counts"], strict=True):
		tracks = [tiny_genome.tracks[name][chrom][start : start + OUT].sum() for name in ("signal", "plus", "minus")]
		assert counts.tolist() == [tracks[0], tracks[1] + tracks[2]]
	first = arrays["example_index"][0]
	plus = tiny_genome.tracks["plus"][arrays["chrom"][first]][arrays["start"][first] : arrays["end"][first]]
	np.testing.assert_array_equal(arrays["example_observed"][0, 1], plus)


def test_evaluate_repeats_what_fit_measured(fitted, settings, tmp_path):
	assert _run("evaluate", tmp_path, settings, model=str(fitted / "run.torch")) == 0
	for stem in ("run", "run.test"):
		for kind in ("performance.tsv", "baselines.tsv"):
			assert (tmp_path / f"{stem}.{kind}").read_text() == (fitted / f"{stem}.{kind}").read_text()


def test_evaluate_on_chosen_chromosomes_alone(fitted, settings, tmp_path, capsys):
	changes = {"chroms": ["chr3:0-8000"], "negatives": None, "baselines": False}
	assert _run("evaluate", tmp_path, settings, model=str(fitted / "run.torch"), **changes) == 0
	assert list(_table(tmp_path / "run.performance.tsv")[0]) == PROFILE + COUNTS
	assert not list(tmp_path.glob("*.test.*")) + list(tmp_path.glob("*baselines*"))
	arrays = np.load(tmp_path / "run.evaluation.npz")
	assert set(arrays["chrom"].tolist()) == {"chr3"}
	assert (arrays["end"] + (IN - OUT) // 2 <= 8000).all()
	assert "Chosen loci" in capsys.readouterr().out


def test_the_same_json_gives_the_same_bits(fitted, settings, tmp_path):
	assert _run("fit", tmp_path, settings, num_workers=1, evaluate=False) == 0
	assert (tmp_path / "run.final.torch").read_bytes() == (fitted / "run.final.torch").read_bytes()
	assert not list(tmp_path.glob("*performance*"))


def test_another_seed_gives_another_model(fitted, settings, tmp_path):
	assert _run("fit", tmp_path, settings, random_state=4, evaluate=False, max_epochs=1) == 0
	assert (tmp_path / "run.final.torch").read_bytes() != (fitted / "run.final.torch").read_bytes()


def test_a_null_seed_is_drawn_shown_and_recorded(settings, tmp_path, capsys):
	assert _run("fit", tmp_path, settings, random_state=None, evaluate=False, max_epochs=1) == 0
	seed = json.loads((tmp_path / "run.fit.record.json").read_text())["seed"]
	assert f"a seed was drawn: {seed}" in capsys.readouterr().out
	(tmp_path / "again").mkdir()
	assert _run("fit", tmp_path / "again", settings, random_state=seed, evaluate=False, max_epochs=1) == 0
	assert (tmp_path / "run.torch").read_bytes() == (tmp_path / "again" / "run.torch").read_bytes()


def test_fit_prints_where_loci_went_the_device_and_the_measures(settings, tmp_path, capsys):
	assert _run("fit", tmp_path, settings, max_epochs=1, test_chroms=None) == 0
	out = capsys.readouterr().out
	for text in ("Training loci\n", "Training negatives\n", "Validation loci\n", "dropped: chromosome not selected"):
		assert text in out
	for text in ("on cpu", "s per step", "baseline", "profile_pearson", "run.performance.tsv"):
		assert text in out
	assert "Test loci" not in out


def test_a_quiet_fit_prints_its_measures_alone(settings, tmp_path, capsys):
	assert _run("fit", tmp_path, settings, max_epochs=1, test_chroms=None, verbose=False) == 0
	assert capsys.readouterr().out.startswith("Validation loci: ")


@pytest.mark.parametrize(
	("command", "changes", "code", "texts"),
	[
		pytest.param(
			"fit",
			{"single_count_output": False},
			2,
			["single_count_output is false", "a group of 2 tracks", "set single_count_output to true"],
			id="a_count_for_each_strand",
		),
		pytest.param(
			"fit", {"device": "cuda:99"}, 2, ['device is "cuda:99"', 'set device to "auto"'], id="no_such_gpu"
		),
		pytest.param(
			"fit",
			{"min_counts": 1e9},
			3,
			["peaks.bed", "no locus is left", "too few counts", "Change the loci"],
			id="no_training_locus",
		),
		pytest.param(
			"fit",
			{"validation_chroms": ["chr2:0-300"]},
			3,
			["peaks.bed", "no locus is left", "chromosome not selected", "chr2:0-300"],
			id="no_validation_locus",
		),
		pytest.param(
			"evaluate",
			{"controls": None},
			3,
			["run.torch", "takes 1 control tracks, but 0 were given", "give 1 in controls"],
			id="controls_missing",
		),
		pytest.param(
			"evaluate",
			{"in_window": 100, "out_window": 60},
			3,
			["run.torch", "53 bp from each side", "set in_window to"],
			id="window_too_short",
		),
		pytest.param(
			"evaluate",
			{"out_window": 40},
			3,
			["run.torch", "gives predictions of 60 bp", "out_window is 40", "out_window to 60"],
			id="other_out_window",
		),
		pytest.param(
			"evaluate", {"model": "signal"}, 3, ["signal.bw", "not a readable checkpoint"], id="no_checkpoint"
		),
	],
)
def test_what_cannot_work_is_said_in_one_message(
	fitted, settings, tiny_genome, tmp_path, capsys, command, changes, code, texts
):
	if command == "evaluate":
		changes = {"model": str(fitted / "run.torch"), **changes}
	if changes.get("model") == "signal":
		changes["model"] = str(tiny_genome.signal)
	assert _run(command, tmp_path, settings, **changes) == code
	err = capsys.readouterr().err
	assert f"cherimoya {command}: error: " in err
	assert "Traceback" not in err
	for text in texts:
		assert text in err
	assert [path.name for path in tmp_path.iterdir()] == [f"{command}.json"]


@pytest.mark.parametrize(
	("signals", "text"),
	[
		pytest.param(["signal"], "predicts 3 channels, but the signals have 1", id="too_few"),
		pytest.param([["signal", "plus"], "minus"], "groups of [1, 2] channels, but the signals", id="other_groups"),
	],
)
def test_a_model_of_other_signals(fitted, settings, tiny_genome, tmp_path, capsys, signals, text):
	def path(name):
		return [path(part) for part in name] if isinstance(name, list) else str(getattr(tiny_genome, name))

	assert _run("evaluate", tmp_path, settings, model=str(fitted / "run.torch"), signals=path(signals)) == 3
	err = capsys.readouterr().err
	assert "run.torch" in err
	assert text in err
