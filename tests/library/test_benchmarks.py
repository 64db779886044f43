"""The benchmarks beside the published package: taking turns, our side of each, and the docs' tables of results."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from cherimoya import Cherimoya

ROOT = Path(__file__).parents[2]

WORKER = """
import sys
from _peer import serve
calls = []
def count(step):
	print("a package prints")
	calls.append(step)
	return {"calls": len(calls), "total": sum(calls)}
def fail():
	raise ValueError("no such model")
serve({"count": count, "fail": fail, "end": lambda: sys.exit(3)})
"""


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
	"""A function that imports a script of the repository by its path."""
	monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))

	def _load(path: str) -> ModuleType:
		spec = importlib.util.spec_from_file_location(f"loaded_{Path(path).stem}", ROOT / path)
		module = importlib.util.module_from_spec(spec)
		spec.loader.exec_module(module)
		return module

	yield _load
	sys.modules.pop("_peer", None)


@pytest.fixture
def workers(load, tmp_path: Path):
	"""Two workers that count their calls, and the module that runs them."""
	peer = load("benchmarks/_peer.py")
	script = tmp_path / "worker.py"
	script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT / 'benchmarks')!r})\n{WORKER}")
	sides = [peer.Side("ours", sys.executable), peer.Side("peer", sys.executable, compiled=True)]
	started = [peer.Worker(side, str(script), threads=1, folder=tmp_path) for side in sides]
	yield peer, started
	for worker in started:
		worker.__exit__()


def test_workers_take_turns_and_keep_what_they_print_out_of_their_answers(workers) -> None:
	peer, started = workers
	answers = peer.take_turns(started, "count", 3, step=5)
	assert answers == {name: {"calls": [1, 2, 3], "total": [5, 10, 15]} for name in ("ours", "peer")}
	assert peer.medians(answers) == {name: {"calls": 2, "total": 10} for name in ("ours", "peer")}


def test_a_task_that_fails_names_the_side_and_the_reason(workers) -> None:
	_, started = workers
	with pytest.raises(RuntimeError, match="peer: fail: ValueError: no such model"):
		started[1].ask("fail")
	assert started[1].ask("count", step=1) == {"calls": 1, "total": 1}


def test_only_a_compiled_model_is_left_out_where_it_fails(workers, capsys: pytest.CaptureFixture) -> None:
	peer, started = workers
	assert peer.able(started, "count", step=1) == started
	assert peer.able(started[1:], "fail") == []
	assert "left out: peer: fail: ValueError: no such model" in capsys.readouterr().err
	with pytest.raises(RuntimeError, match="ours: fail"):
		peer.able(started, "fail")


def test_a_worker_that_ends_is_told(workers) -> None:
	_, started = workers
	with pytest.raises(RuntimeError, match="ours: the process ended during 'end'"):
		started[0].ask("end")


def test_our_side_of_a_training_step(load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
	script = load("benchmarks/train_cpu.py")
	for name, value in {"LENGTH": 160, "WINDOW": 54, "JITTER": 3, "BATCH": 4, "N_PEAKS": 5, "N_NEGATIVES": 9}.items():
		monkeypatch.setattr(script, name, value)
	monkeypatch.chdir(tmp_path)
	script.write_data(tmp_path / script.DATA)
	Cherimoya(n_filters=8, n_layers=3, random_state=0, profile_kernel_size=5).save(tmp_path / script.CHECKPOINT)
	runner = script.Runner(ours=True, compiled=False)
	assert runner.load()["torch"] == torch.__version__
	runner.agree("first.npz")
	before = [p.detach().clone() for p in runner.model.parameters()]
	assert script.disagreement(tmp_path / "first.npz", tmp_path / "first.npz") == 0
	seconds = [runner.step() for _ in range(3)]  # more than one epoch
	for step in seconds:
		assert sum(step[part] for part in script.PARTS) == pytest.approx(step["step"])
	assert all(not torch.equal(a, b) for a, b in zip(before, runner.model.parameters(), strict=True))
	runner.agree("moved.npz")
	assert script.disagreement(tmp_path / "moved.npz", tmp_path / "first.npz") > script.LIMIT
	assert runner.memory()["peak_mb"] > 50


def test_our_side_of_attribution(load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
	script = load("benchmarks/attribution_cpu.py")
	monkeypatch.setattr(script, "LENGTH", 140)
	monkeypatch.setattr(script, "SPAN", (60, 66))
	monkeypatch.chdir(tmp_path)
	script.write_inputs(tmp_path / script.INPUTS)
	Cherimoya(n_filters=6, n_layers=2, random_state=0).save(tmp_path / script.CHECKPOINT)
	runner = script.Runner(ours=True, compiled=False)
	runner.load()
	runner.forward(n=3, save="forward.npz")
	runner.saturation_mutagenesis(width=4, save="edits.npz")
	runner.deep_lift_shap(n=2, shuffles=3, save="shap.npz")
	assert np.load("forward.npz")["log_counts"].shape == (3, 1)
	assert np.load("edits.npz")["scores"].shape == (1, 4, 4)
	assert np.load("shap.npz")["scores"].shape == (2, 4, 140)
	assert script.worst_error(tmp_path, "edits.npz", "edits.npz") == 0


def test_the_docs_show_the_numbers_of_the_results(load, tmp_path: Path) -> None:
	generate = load("docs/generate.py")
	peer = load("benchmarks/_peer.py")
	assert generate.benchmarks(tmp_path) == "No results are there yet.\n"
	machine = peer.machine(2, {"ours_torch": "2.9", "peer_cherimoya": "0.3.1"})
	shared = {"machine": machine, "shape": [64, 4, 2114], "filters": 96, "layers": 9}
	case = {"case": "deep_lift_shap", "seconds": {"ours": 2.0, "peer": 7.0}, "ratio": 3.5, "relative_error": 2e-6}
	peer.write(tmp_path / "attribution_cpu.json", {**shared, "results": [case]})
	text = generate.benchmarks(tmp_path)
	assert "| DeepLIFT/SHAP, 4 sequences with 20 references each | 2 s | 7 s | 3.50 |" in text
	assert "within a relative error of 2e-06" in text
	assert "A training step" not in text
	step = {
		"seconds": {"ours": {"data": 0.1, "step": 1.0}, "peer": {"data": 0.2, "step": 3.0}},
		"memory": {"ours": {"peak_mb": 1000.0}, "peer": {"peak_mb": 2500.0}},
	}
	peer.write(tmp_path / "train_cpu.json", {**shared, **step, "ratio": 3.0, "relative_error": 1e-7})
	text = generate.benchmarks(tmp_path)
	assert "| data | 0.1 s | 0.2 s |  |" in text
	assert "| step | 1 s | 3 s | 3.00 |" in text
	assert "this package 1,000 MB, published 2,500 MB" in text
	assert generate.duration(tmp_path / "none") == "No results are there yet.\n"
	text = generate.duration(tmp_path)
	assert "takes 1.0 s and 1,000 MB" in text and "50,000 peaks has 860 steps, and takes 0.2 hours" in text


def test_the_docs_say_when_a_model_is_usable_and_which_defaults_are_other_ones(load, monkeypatch) -> None:
	generate = load("docs/generate.py")
	monkeypatch.setitem(generate.FLOORS, "counts", 0.25)
	assert "at least 0.1 for profiles, 0.25 for counts" in generate.verdict()
	text = generate.published()
	assert "| `fit_parameters.max_epochs` | `50` | `20` |" in text
	monkeypatch.setitem(generate.PUBLISHED, "device", "auto")  # no longer another one
	assert "| `device` |" in text and "| `device` |" not in generate.published()


def test_the_docs_show_loading_background_and_accuracy(load, tmp_path: Path) -> None:
	generate, peer, accuracy = load("docs/generate.py"), load("benchmarks/_peer.py"), load("benchmarks/accuracy.py")
	load_of = {"seconds": 2.0, "resident_mib": 300.0, "anonymous_mib": 200.0}
	keys = {
		"first batch, peer / ours cold": 4.0,
		"first batch, peer / ours cached": 25.0,
		"examples a second, ours / peer": 3.5,
	}
	loading = {"loci": 100_000, "megabases": 300, "ratios": keys}
	loading["median"] = {"ours_cold": load_of, "ours_cached": load_of, "peer": {**load_of, "seconds": 8.0}}
	loading["examples_per_second"] = {"ours": 70_000.0, "peer": 20_000.0, "ours_no_thread": 50_000.0}
	peer.write(tmp_path / "loading.json", loading)
	side = {"seconds": 1.5, "peak_mb": 60.0, "ks": 0.01}
	case = {"ours": side, "published": {**side, "seconds": 6.0, "peak_mb": 240.0}}
	peer.write(tmp_path / "negatives.json", {"megabases": 100, "genome": "made", "cases": {"sequence only": case}})
	runs = [
		{"data": "yeast", "package": package, "seed": seed, **{key: {**values, "n": 7} for key in ("valid", "test")}}
		for package, r in (("ours", 0.5), ("published", 0.4))
		for seed, values in enumerate({"profile_pearson": r + i / 10, "count_pearson": r} for i in (0, 1))
	]
	accuracy.write(runs, accuracy.Size(24, 7, 1346, 1000, 16, 1200), tmp_path / "accuracy.json")
	text = generate.benchmarks(tmp_path)
	assert "| published | 8 s | 200 MiB | 300 MiB |" in text
	assert "4.0 times as soon, and from the cache 25 times" in text
	assert "| sequence only | 1.50 s | 6.00 s | 4.00 | 60 against 240 MB | 0.0100 against 0.0100 |" in text
	assert "| yeast | valid (7) | profile_pearson | 0.550 ± 0.071 (2 seeds) | 0.450 ± 0.071 (2 seeds) |" in text


def test_the_table_of_windows_shows_what_was_measured(load, tmp_path: Path) -> None:
	generate = load("docs/generate.py")
	assert generate.windows_memory(tmp_path) == "No results are there yet.\n"
	found = {"seconds": 17.3, "anonymous": 96e6, "batches_own_anonymous": 184e6, "signals": "uint8"}
	cold = {**found, "array_bytes": 3.3e9, "float32_bytes": 10.5e9}
	record = {
		"loci": 300_000,
		"tracks": 4,
		"megabases": 600,
		"cores": 2,
		"cold": cold,
		"again": {**found, "seconds": 1},
	}
	(tmp_path / "windows_memory.json").write_text(json.dumps(record))
	text = generate.windows_memory(tmp_path)
	assert "| read and put into the cache | 17 s | 96 MB | 184 MB |" in text and "genome of" not in text
	large = {**cold, "seconds": 108, "cache_bytes": 3.34e9, "estimated_memory": 400e6, "estimated_disk": 10.5e9}
	large = {**record, "megabases": 3000.0, "input_bytes": 4.5e9, "cold": large}
	(tmp_path / "windows_memory_3gb.json").write_text(json.dumps(large))
	text = generate.windows_memory(tmp_path)
	assert "genome of 3,000 Mb, 300,000 loci and 4 tracks, 4.5 GB of files, it took 108 s and 96 MB to read" in text
	assert "at most 400 MB of memory and 10.5 GB of disk; taken: 3.3 GB of disk" in text


def test_the_table_of_chunks_shows_what_was_measured(load, tmp_path: Path) -> None:
	generate = load("docs/generate.py")
	assert generate.chunks_memory(tmp_path) == "No results are there yet.\n"
	record = {
		"runs": [{"command": "predict", "loci": 8_000, "seconds": 1, "anonymous": 211_000_000, "result_bytes": 14e6}],
		"killed": {"kept": 4, "chunks": 8},
		"widths": {"in_window": 500, "out_window": 400},
	}
	(tmp_path / "chunks_memory.json").write_text(json.dumps(record))
	text = generate.chunks_memory(tmp_path)
	assert "| `predict` | 8,000 | 211 MB | 14 MB |" in text
	assert "4 of 8 chunks were finished" in text


def test_the_table_of_marginalize_shows_what_was_found(load, tmp_path: Path) -> None:
	generate = load("docs/generate.py")
	assert generate.marginalize(tmp_path) == "No results are there yet.\n"
	first = {"motif": "M1 CTCF", "rank": 1, "log2fc_counts": 1.812, "log2fc_counts_se": 0.05, "same_sign": 1.0}
	other = {**first, "motif": "M2 Other", "rank": 1_004, "log2fc_counts": -0.204, "same_sign": 0.75}
	record = {
		"machine": {"threads": 1},
		"model": {"n_filters": 32, "n_layers": 7},
		"motifs": 1_019,
		"backgrounds": 50,
		"ctcf": [first],
		"strongest_other": other,
		"shuffled": {"matrix": "M1", "n": 50, "median_effect": 0.011, "largest_effect": 0.131},
		"predictions": 101_950,
		"seconds": 150.0,
		"anonymous": 300e6,
		"page_bytes": 2.01e6,
	}
	(tmp_path / "marginalize.json").write_text(json.dumps(record))
	text = generate.marginalize(tmp_path)
	assert "| M1 CTCF | 1 | +1.81 ± 0.05 | 100% |\n| M2 Other | 1,004 | -0.20 ± 0.05 | 75% |" in text
	assert "effects of 0.01 by size in the median, and 0.13 at most" in text
	assert "101,950 predictions took 2.5 min on 1 core and 300 MB" in text and "the page is 2.0 MB" in text


def test_the_scale_of_batches_is_measured_and_shown(load, tmp_path: Path, monkeypatch) -> None:
	"""The script plans and looks at a few jobs; the table of the docs shows what it found."""
	script, generate = load("benchmarks/batch_scale.py"), load("docs/generate.py")
	assert generate.batch_scale(tmp_path) == "No results are there yet.\n"
	monkeypatch.setenv("PYTHONPATH", str(ROOT))
	monkeypatch.setattr(script, "AT_WORK", 1)
	output = tmp_path / "batch_scale.json"
	monkeypatch.setattr(sys, "argv", ["batch_scale.py", "--samples", "4", "--repeats", "1", "--output", str(output)])
	script.main()
	(size,) = json.loads(output.read_text())["sizes"]
	assert size["jobs"] == 20 and set(generate.BATCH_ACTIONS) < size.keys()
	assert all(size[key]["seconds"] > 0 and size[key]["resident"] > 10**6 for key in generate.BATCH_ACTIONS)
	assert "| 20 | " in generate.batch_scale(tmp_path)


def test_the_throughput_of_devices_is_shown(load, tmp_path: Path) -> None:
	generate = load("docs/generate.py")
	assert generate.batch_throughput(tmp_path) == "No results are there yet.\n"
	ways = [{"way": "1 at once", "seconds": 100.0, "steps": 200}, {"way": "2 at once", "seconds": 80.0, "steps": 200}]
	(tmp_path / "batch_throughput.json").write_text(json.dumps({"cpu": {"machine": {"cores": 2}, "ways": ways}}))
	text = generate.batch_throughput(tmp_path)
	assert "| `cpu` (2 cores) | 1 at once | 100 s | 7,200 | 1.00 |" in text
	assert "| `cpu` (2 cores) | 2 at once | 80 s | 9,000 | 1.25 |" in text


def test_thresholds_on_matches_are_shown(load, tmp_path: Path) -> None:
	generate = load("docs/generate.py")
	assert generate.match_threshold(tmp_path) == "No results are there yet.\n"
	first = [{"motif": f"M{i} X", "seqlets": 113 - i, "shuffled": i} for i in range(3)]
	row = {"value": "E", "threshold": 1.0, "named": 0.77, "shuffled_named": 0.571, "first": first}
	known = {"seqlets": 906, "motifs": 42, "thresholds": [{**row, "strong_right": 0.904, "strong_wrong": 0.042}]}
	record = {"planted": known, "ctcf": {"seqlets": 1_025, "motifs": 1_019, "thresholds": [row]}}
	(tmp_path / "match_threshold.json").write_text(json.dumps(record))
	text = generate.match_threshold(tmp_path)
	assert "1,019 motifs" in text
	assert text.endswith("| E-value ≤ 1 | 90% | 4% | 57% | 77% | 57% | M0 X 113 (0), M1 X 112 (1) |\n")


def test_what_was_planted_and_found_is_shown(load, tmp_path: Path) -> None:
	generate = load("docs/generate.py")
	assert generate.planted(tmp_path) == "No results are there yet.\n"
	record = {
		"genome_megabases": 8.0,
		"loci": 2_000,
		"epochs": 12,
		"patterns": {
			"first": {"pattern": "pattern_1", "seqlets": 318, "agreement": 0.964},
			"second": {"pattern": "pattern_0", "seqlets": 1_341, "agreement": 0.951},
			"positive_patterns": 3,
		},
		"seqlets": {"positive_seqlets": 869, "strong_sites": 785, "precision": 0.9966, "recall_strong": 0.985}
		| {"named_after_their_motif": 0.918},
		"marginalization_ranks": {"first": 1, "second": 2, "motifs": 42},
		"variants": {"broken": 159, "silent": 158, "auroc": 0.9996}
		| {"median_log2fc_broken": -0.613, "median_log2fc_silent": 0.001},
	}
	(tmp_path / "planted.json").write_text(json.dumps(record))
	text = generate.planted(tmp_path)
	assert "| 0.96 (318 seqlets) and 0.95 (1,341 seqlets) |" in text and "| 1 and 2 of 42 |" in text
	assert "| 99.7% of 869 |" in text and "| 98.5% of 785 |" in text and "| 1.000 |" in text
	assert "| -0.61 (159 broken), +0.001 (158 silent) |" in text


def test_the_times_of_pipelines_are_shown(load, tmp_path: Path) -> None:
	generate = load("docs/generate.py")
	assert generate.pipelines(tmp_path) == "No results are there yet.\n"
	ctcf = {
		"threads": 1,
		"seconds": {"peaks": 2.1, "fit": 169.3, "all": 171.4},
		"test": {"profile_pearson": 0.13, "count_pearson": 0.537, "auroc": 0.957},
		"seqlets": [{"motif": "MA0139.2 CTCF"}],
		"patterns": [],
		"marginalization": [{"name": "CTCF"}],
	}
	yeast = {**ctcf, "threads": 2, "seconds": {"fit": 60.0, "all": 60.0}}
	(tmp_path / "pipelines.json").write_text(json.dumps({"ctcf": ctcf, "yeast": yeast}))
	text = generate.pipelines(tmp_path)
	assert "| peaks | 2 s |  |" in text and "| fit | 169 s | 60 s |" in text and "| all | 171 s | 60 s |" in text
	assert "(1 thread): the most frequent motif of seqlets is MA0139.2 CTCF, the largest" in text
	assert "pattern of TF-MoDISco is most like none" in text
	assert "(2 threads)" in text and "CTCF has the largest effect in background" in text
