"""What is drawn is what was given: heights and places of letters, areas and lines, and the epochs of a log."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from cherimoya.errors import InputError, MissingExtraError, MissingFileError, SettingsError

pytest.importorskip("matplotlib")

from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from cherimoya.plot import (
	COLORS,
	MEASURES,
	MODEL,
	draw_logo,
	plot_attributions,
	plot_profile,
	plot_training,
	read_log,
	smooth,
	strongest_window,
)
from cherimoya.training.loop import History

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def ax():
	"""Axes of a figure that pyplot does not know."""
	return Figure(figsize=(6, 3), dpi=80).add_subplot()


def render(ax) -> None:
	"""Draw it all, so that ticks are placed and errors show."""
	from matplotlib.backends.backend_agg import FigureCanvasAgg

	FigureCanvasAgg(ax.figure).draw()


def letter_boxes(ax) -> list[tuple[str, float, float, float, float]]:
	"""(colour, x0, y0, x1, y1) of every letter drawn, left to right."""
	from matplotlib.path import Path as MplPath

	boxes = []
	for patch in ax.patches:
		codes, vertices = patch.get_path().codes, patch.get_path().vertices
		for a, b in pairwise([*np.flatnonzero(codes == MplPath.MOVETO), len(codes)]):
			extents = MplPath(vertices[a:b], codes[a:b]).get_extents()
			boxes.append((patch.get_facecolor(), *(float(v) for v in extents.extents)))
	return sorted(boxes, key=lambda b: b[1])


def codes_of(sequence: str) -> np.ndarray:
	return np.array(["ACGT".find(base) % 5 for base in sequence], dtype=np.uint8)


def one_hot_of(sequence: str) -> np.ndarray:
	return np.array([[letter == base for letter in sequence] for base in "ACGT"], dtype=np.int8)


def tick_labels(axis) -> list[str]:
	return [label.get_text() for label in axis.get_ticklabels()]


# Logos.


def test_logo_draws_each_letter_in_its_place(ax):
	sequence, heights = "TCNTC", np.array([1.5, -0.5, 3.0, 0.0, 0.25])  # letters of a single outline each
	draw_logo(ax, one_hot_of(sequence), heights, start=100, gap=0.1)
	expected = [("T", 100, 0, 1.5), ("C", 101, -0.5, 0), ("C", 104, 0, 0.25)]  # an N and a height of 0 draw nothing
	boxes = letter_boxes(ax)
	assert len(boxes) == len(expected)
	for (color, x0, y0, x1, y1), (letter, at, low, high) in zip(boxes, expected, strict=True):
		assert color == to_rgba(COLORS[letter])
		assert (x0, y0, x1, y1) == pytest.approx((at + 0.1, low, at + 0.9, high))


SEQUENCES = {
	"one-hot int8": one_hot_of,
	"one-hot tensor": lambda s: torch.from_numpy(one_hot_of(s)).float(),
	"codes": codes_of,
	"codes tensor": lambda s: torch.from_numpy(codes_of(s)),
}


@pytest.mark.parametrize("kind", SEQUENCES)
@pytest.mark.parametrize("scores", ["hypothetical", "projected", "one row", "tensor with a gradient"])
def test_attributions_are_those_of_the_bases_that_are_there(kind, scores, ax):
	sequence = "CTNCTTC"
	attributions = np.random.default_rng(0).normal(size=(4, 7))
	contributions = (attributions * one_hot_of(sequence)).sum(0)
	given = {
		"hypothetical": attributions,
		"projected": attributions * one_hot_of(sequence),
		"one row": np.where(one_hot_of(sequence).any(0), attributions[codes_of(sequence) % 4, np.arange(7)], 9.0),
		"tensor with a gradient": torch.tensor(attributions, requires_grad=True),
	}[scores]
	assert plot_attributions(given, SEQUENCES[kind](sequence), ax=ax, start=1000) is ax
	render(ax)
	boxes = letter_boxes(ax)
	assert [round(x0 - 0.06) - 1000 for _, x0, *_ in boxes] == [0, 1, 3, 4, 5, 6]
	for (color, x0, y0, _, y1), letter in zip(boxes, "CTCTTC", strict=True):
		height = contributions[round(x0 - 0.06) - 1000]
		assert color == to_rgba(COLORS[letter])
		assert (y0, y1) == pytest.approx((min(height, 0), max(height, 0)), abs=1e-6)
	low, high = ax.get_ylim()
	assert low < contributions.min() < 0 < contributions.max() < high
	assert ax.get_xlim() == (1000, 1007)


def test_the_strongest_stretch_is_drawn_at_its_place(ax):
	heights = np.zeros(400)
	heights[205], heights[20] = 2.0, 0.1
	plot_attributions(heights, np.ones(400, dtype=np.uint8), width=30, chrom="chrIX", start=41_000, ax=ax)
	render(ax)
	assert ax.get_xlim() == (41_190, 41_220)
	assert [round(x0) for _, x0, *_ in letter_boxes(ax)] == [41_205]
	assert ax.get_xlabel() == "Position on chrIX (bp)"
	assert tick_labels(ax.xaxis) == ["41,200", "41,210"]
	assert ax.get_xticks().tolist() == [41_200.5, 41_210.5]  # below the middle of a letter


@pytest.mark.parametrize(
	("length", "labels"),
	[
		(4, ["0", "1", "2", "3"]),
		(8, ["0", "2", "4", "6"]),
		(45, ["10", "20", "30", "40"]),
		(400, ["100", "200", "300"]),
	],
	ids=str,
)
def test_positions_are_round(length, labels, ax):
	plot_attributions(np.ones(length), np.zeros(length, dtype=np.uint8), ax=ax)
	render(ax)
	assert [label for label in tick_labels(ax.xaxis) if label != "0" or length < 10] == labels


def test_labels_of_a_logo(ax):
	plot_attributions(np.ones(5), codes_of("ACGTA"), unit="Δ log(1 + counts)", title="A motif", ax=ax)
	render(ax)
	assert (ax.get_xlabel(), ax.get_ylabel()) == ("Position (bp)", "Δ log(1 + counts)")
	assert ax.get_title(loc="left") == "A motif"
	assert tick_labels(ax.xaxis) == ["0", "1", "2", "3", "4"]
	assert not ax.spines["top"].get_visible()


@pytest.mark.parametrize("sequence", ["N" * 9, "A" * 9], ids=["no base known", "no contribution"])
def test_a_logo_of_nothing(sequence, ax):
	plot_attributions(np.full(9, float(sequence[0] == "N")), codes_of(sequence), ax=ax)
	render(ax)
	assert not letter_boxes(ax)


@pytest.mark.parametrize(
	("attributions", "X", "words"),
	[
		(np.zeros((4, 5)), np.zeros((4, 6)), r"shape of the sequence, \(4, 6\).*got \(4, 5\)"),
		(np.zeros((2, 4, 5)), np.zeros((2, 4, 5)), r"X must be one sequence.*got \(2, 4, 5\)"),
		(np.zeros((4, 5)), np.full((4, 5), 0.25), "X must be one-hot"),
		(np.zeros((4, 5)), np.ones((4, 5)), "a single 1 in each column"),
		(np.full((4, 5), np.nan), np.eye(4, 5), "20 of 20 values are NaN"),
		(np.zeros((4, 0)), np.zeros((4, 0)), r"got \(4, 0\)"),
	],
	ids=["length", "a batch", "frequencies", "all bases", "NaN", "empty"],
)
def test_bad_attributions(attributions, X, words, ax):
	with pytest.raises(InputError, match=words):
		plot_attributions(attributions, X, ax=ax)
	assert not ax.patches


def test_a_width_below_one(ax):
	with pytest.raises(SettingsError, match="width must be at least 1"):
		plot_attributions(np.zeros(5), codes_of("ACGTA"), width=0, ax=ax)


@pytest.mark.parametrize(
	("length", "peak", "width", "start"),
	[
		pytest.param(100, 50, 21, 40, id="middle"),
		pytest.param(100, 2, 20, 0, id="left-edge"),
		pytest.param(100, 98, 20, 80, id="right-edge"),
		pytest.param(10, 5, 50, 0, id="window-wider-than-the-locus"),
	],
)
def test_strongest_window_is_centred_on_its_letters(length, peak, width, start):
	heights = np.full(length, 1e-6)
	heights[peak] = -2.0
	assert strongest_window(heights, width) == start


def test_strongest_window_of_nothing():
	assert strongest_window(np.zeros(30), 10) == 0


# Profiles.


def area(ax, index: int) -> np.ndarray:
	"""The extreme values of a filled area's outline."""
	return ax.collections[index].get_paths()[0].vertices[:, 1]


def test_a_profile_with_its_prediction(ax):
	observed, predicted = np.arange(11.0), torch.linspace(0, 5, 11, requires_grad=True)
	assert plot_profile(observed, predicted[None], title="chrI", ax=ax) is ax
	render(ax)
	(line,) = ax.lines
	assert line.get_xdata().tolist() == list(range(-5, 6))
	assert line.get_ydata() == pytest.approx(np.linspace(0, 5, 11)) and line.get_color() == MODEL
	assert area(ax, 0).max() == 10 and area(ax, 0).min() == 0
	assert [text.get_text() for text in ax.get_legend().get_texts()] == ["observed", "predicted"]
	assert (ax.get_xlabel(), ax.get_ylabel()) == ("Position from the window's centre (bp)", "Reads per bp")
	assert ax.get_ylim()[0] == 0 and ax.get_ylim()[1] > 10


def test_strands_are_drawn_on_both_sides_of_zero(ax):
	pair = np.array([[0.0, 3, 0, 1], [5, 0, 2, 0]])
	plot_profile(pair, pair / 2, ax=ax)
	render(ax)
	assert area(ax, 0).max() == 3 and area(ax, 1).min() == -5
	assert ax.lines[1].get_ydata().tolist() == [-2.5, 0, -1, 0]
	assert {"+ strand", "− strand"} == {text.get_text() for text in ax.texts}
	assert ax.get_ylim()[0] == -ax.get_ylim()[1]
	assert not any("-" in label or "−" in label for label in tick_labels(ax.yaxis))


@pytest.mark.parametrize("name", ["observed", "predicted"])
def test_one_of_both_in_genome_coordinates(name, ax):
	plot_profile(**{name: np.ones((1, 2001))}, chrom="chr3", start=5_000_000, sigma=10, unit="Cuts per bp", ax=ax)
	render(ax)
	assert ax.get_xlim() == (5_000_000, 5_002_000)
	assert "5,000,800" in tick_labels(ax.xaxis)
	assert (ax.get_xlabel(), ax.get_ylabel()) == ("Position on chr3 (bp)", "Cuts per bp")
	assert ax.get_legend() is None


@pytest.mark.parametrize(
	("observed", "predicted", "words"),
	[
		(None, None, "got neither"),
		(np.ones(5), np.ones(6), r"same shape, got \(1, 5\) and \(1, 6\)"),
		(np.ones((3, 5)), None, r"observed must be one track.*got \(3, 5\)"),
		(None, np.ones((7, 1, 5)), r"predicted must be.*choose an example"),
		(np.array([1.0, np.nan]), None, "1 of 2 values are NaN"),
		(np.ones((1, 0)), None, r"got \(1, 0\)"),
	],
	ids=["nothing", "lengths", "three channels", "a batch", "NaN", "empty"],
)
def test_bad_profiles(observed, predicted, words, ax):
	with pytest.raises(InputError, match=words):
		plot_profile(observed, predicted, ax=ax)


def test_smoothing_keeps_the_reads():
	values = np.zeros((2, 201))
	values[0, 100], values[1, 60] = 3.0, 5.0
	smoothed = smooth(values, 5.0)
	assert smoothed.sum(axis=1) == pytest.approx([3, 5])
	assert smoothed.argmax(axis=1).tolist() == [100, 60]
	assert smooth(values, 0.0) is values


# Training.

HEADER = (
	"Epoch\tTraining MNLL\tTraining Count MSE\tValidation MNLL\tValidation Profile Pearson\tValidation Count Pearson"
	"\tValidation Count MSE\tSaved?\tValidation Profile Pearson 0\tValidation Profile Pearson 1"
)
LINES = [
	"0\t300.5\t2.5\t310.5\t0.25\t0.5\t2.25\tTrue\t0.3\t0.2",
	"1\t290.5\t1.5\t300.5\t0.35\t0.6\t1.25\tTrue\t0.4\t0.3",
	"2\t280.5\t1.0\t305.5\t0.30\tNA\t1.50\tFalse\t0.5\t0.1",
]


@pytest.fixture
def log(tmp_path):
	path = tmp_path / "run.detailed.log"
	path.write_text("\n".join([HEADER, *LINES, "3\t270.5\t0."]))  # the last line was cut by a kill
	return path


def rows() -> list[dict]:
	columns = HEADER.split("\t")
	cells = [line.replace("NA", "nan").split("\t") for line in LINES]
	return [
		{key: value == "True" if key == "Saved?" else float(value) for key, value in zip(columns, row, strict=True)}
		for row in cells
	]


SOURCES = {
	"a path": lambda log: log,
	"text": str,
	"rows": lambda log: rows(),
	"a history": lambda log: History(rows(), 1, 0.6, 1.0, 3, False, {}),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_training_run(kind, log, ax):
	assert plot_training(SOURCES[kind](log), ax=ax) is ax
	render(ax)
	lines = {line.get_label(): line for line in ax.lines}
	assert lines["training"].get_ydata().tolist() == [300.5, 290.5, 280.5]
	assert lines["validation"].get_ydata().tolist() == [310.5, 300.5, 305.5]
	assert (lines["saved epoch"].get_xdata().tolist(), lines["saved epoch"].get_ydata().tolist()) == ([1], [300.5])
	assert (ax.get_xlabel(), ax.get_ylabel()) == ("Epoch", "Multinomial NLL (nats per locus)")


@pytest.mark.parametrize("measure", MEASURES)
def test_every_measure(measure, log, ax):
	plot_training(log, measure, title="A run", ax=ax)
	render(ax)
	labels = [line.get_label() for line in ax.lines]
	assert ("training" in labels) == (measure in ("MNLL", "Count MSE"))
	assert [label for label in labels if "group" in label] == (
		["group 0", "group 1"] if measure == "Profile Pearson" else []
	)
	assert ax.get_ylabel() == MEASURES[measure] and ax.get_title(loc="left") == "A run"


def test_a_log_is_read_as_numbers(log):
	columns = read_log(log)
	assert columns["Epoch"].tolist() == [0, 1, 2]
	assert columns["Saved?"].tolist() == [True, True, False]
	assert np.isnan(columns["Validation Count Pearson"][2])


@pytest.mark.parametrize(
	("text", "words"),
	[
		("", "empty"),
		(HEADER + "\n", "no epoch is finished yet"),
		("chr1\t100\t200\nchr1\t300\t400\n", "not a training log.*'chr1'.*is no number"),
		("a\tb\n1\t2\n", "not a training log.*no column 'Epoch'"),
		(HEADER + "\n" + LINES[0].replace("310.5", "31O.5"), "'31O.5' in the column 'Validation MNLL' is no number"),
		(b"\xff\xfe\x00", "cannot be read"),
	],
	ids=["empty", "no epoch", "a BED file", "another table", "damaged", "no text"],
)
def test_bad_logs(text, words, tmp_path, ax):
	path = tmp_path / "run.log"
	path.write_bytes(text if isinstance(text, bytes) else text.encode())
	with pytest.raises(InputError, match=rf"run\.log: .*{words}"):
		plot_training(path, ax=ax)


def test_logs_and_measures_that_are_not_there(tmp_path, log, ax):
	with pytest.raises(MissingFileError, match=r"none\.log: no such file"):
		plot_training(tmp_path / "none.log", ax=ax)
	with pytest.raises(SettingsError, match=r"measure must be one of 'MNLL'.*got 'loss'"):
		plot_training(log, "loss", ax=ax)
	with pytest.raises(InputError, match="no epoch is finished yet"):
		plot_training([], ax=ax)


# matplotlib.


def _run(code: str) -> None:
	subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT, timeout=600)


def test_pyplot_is_used_for_a_new_figure_alone():
	_run(
		"import sys, numpy as np, cherimoya.plot as plot\n"
		"assert 'matplotlib' not in sys.modules and 'torch' not in sys.modules\n"
		"from matplotlib.figure import Figure\n"
		"plot.plot_profile(np.ones(9), ax=Figure().add_subplot())\n"
		"assert 'matplotlib.pyplot' not in sys.modules\n"
		"import matplotlib; matplotlib.use('agg')\n"
		"now = lambda: {k: v for k, v in matplotlib.rcParams.items() if k != 'backend'}\n"
		"before = now()\n"
		"ax = plot.plot_attributions(np.ones(9), np.zeros(9, dtype=np.uint8))\n"
		"import matplotlib.pyplot as plt\n"
		"assert plt.get_fignums() == [1] and plt.gcf() is ax.figure and now() == before\n"
		"ax.figure.canvas.draw()\n"
	)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
	monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
	with pytest.raises(MissingExtraError, match=r"pip install 'cherimoya\[report\]'"):
		plot_profile(np.ones(9))
