"""The command marginalize: its table, its page, its account, and going on after an interruption."""

import base64
import csv
import gzip
import hashlib
import json
import math
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cherimoya import Cherimoya
from cherimoya.interpret.marginalize import SUMMARIES, draw_backgrounds, marginalize
from cherimoya.io import Genome, extract_windows
from cherimoya.io.motifs import read_motifs
from cherimoya_cli.__main__ import main
from cherimoya_cli.commands.marginalize import outputs, publish_folder

pytest.importorskip("memelite")

IN, TRIMMING = 61, 12
SPELLED = {"M1 Alpha": "TGACTCA", "M2 Be<ta>": "GNNCATTC", "M3": "CCGGAA", "M4 Delta": "GATAAG", "M5 Epsilon": "ACGT"}
COLUMNS = ["group", "rank", "motif", "name", "inserted", *SUMMARIES]
PAGE, TABLE = "out_marginalize/index.html", "out_marginalize/marginalize.tsv"


def meme(spelled: dict[str, str]) -> str:
	"""Motifs that spell these words in MEME's format; N is a position without information."""
	parts = ["MEME version 4\n\nALPHABET= ACGT\n\n"]
	for title, word in spelled.items():
		rows = [
			" ".join(f"{0.25 if letter == 'N' else 0.97 if base == letter else 0.01:.4f}" for base in "ACGT")
			for letter in word
		]
		matrix = f"letter-probability matrix: alength= 4 w= {len(word)} nsites= 20 E= 0"
		parts.append("\n".join([f"MOTIF {title}", matrix, *rows, "", ""]))
	return "".join(parts)


def save_model(path: str, seed: int = 0, groups: tuple[int, ...] = (1,), **options: Any) -> None:
	"""A small model whose predictions depend on the sequence."""
	options = {"n_filters": 4, "n_layers": 2, "trimming": TRIMMING, **options}
	model = Cherimoya(signal_groups=groups, random_state=seed, **options)
	with torch.no_grad():
		for head in (model.linear, model.fconv):
			head.weight.copy_(torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(seed)))
	model.save(path)


@pytest.fixture
def world(tmp_path: Path, make_fasta: Callable[..., Path], make_bed: Callable[..., Path], monkeypatch) -> Path:
	"""A working folder with a genome, background loci of which one leaves it, a model and motifs."""
	rng = np.random.default_rng(5)
	sequences = {chrom: "".join(rng.choice(list("ACGT"), size)) for chrom, size in (("chr1", 900), ("chr2", 300))}
	make_fasta(tmp_path / "genome.fa", sequences)
	starts = [("chr1", at) for at in range(5, 845, 60)] + [("chr2", at) for at in range(40, 200, 40)]
	make_bed(tmp_path / "background.bed", [(chrom, at, at + 40) for chrom, at in starts])
	(tmp_path / "motifs.meme.gz").write_bytes(gzip.compress(meme(SPELLED).encode()))
	monkeypatch.chdir(tmp_path)
	save_model("model.torch")
	return tmp_path


def run(**settings: Any) -> int:
	"""Run the command in the folder; the exit code."""
	flags = settings.pop("flags", [])
	parameters = {
		"name": "out",
		"sequences": "genome.fa",
		"loci": "background.bed",
		"motifs": "motifs.meme.gz",
		"model": "model.torch",
		"in_window": IN,
		"out_window": IN - 2 * TRIMMING,
		"n_loci": 12,
		"device": "cpu",
		"batch_size": 16,
		"cache": None,
		"verbose": False,
	}
	Path("settings.json").write_text(json.dumps({**parameters, **settings}))
	return main(["marginalize", "-p", "settings.json", *flags])


def table(path: str = TABLE) -> list[dict[str, str]]:
	with open(path, newline="") as file:
		return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def expected(**options: Any) -> Any:
	"""What the library finds with the settings of `run`."""
	drawn = {key: options.pop(key) for key in ("n_loci", "shuffle", "random_state") if key in options}
	windows = extract_windows("background.bed", Genome("genome.fa"), in_window=IN, out_window=IN - 2 * TRIMMING)
	codes = draw_backgrounds(windows.codes, **{"n_loci": 12, **drawn})
	model, motifs = Cherimoya.load("model.torch"), read_motifs("motifs.meme.gz")
	return marginalize(model, motifs, codes, batch_size=16, **options)


@pytest.mark.parametrize(
	("settings", "groups"),
	[
		({}, (1,)),
		({"shuffle": True, "random_state": 4}, (2,)),
		({"attributions": True, "min_information": 0.0, "n_loci": 4}, (1, 2)),
		({"n_loci": 99}, (1,)),
	],
	ids=["plain", "shuffled", "contributions", "all loci"],
)
def test_table(world, capsys, settings, groups):
	"""Rows by group and rank, with what the library computes."""
	save_model("model.torch", groups=groups, n_control_tracks=len(groups) - 1)
	assert run(**settings) == 0
	found = expected(**{key: value for key, value in settings.items()})
	summary, rows = found.summary(), table()
	names = [*COLUMNS, *(["contribution", "contributions"] if settings.get("attributions") else [])]
	assert list(rows[0]) == names and len(rows) == len(groups) * len(SPELLED)
	titles = [str(motif) for motif in found.motifs]
	for group in range(len(groups)):
		part = [row for row in rows if row["group"] == str(group)]
		assert [int(row["rank"]) for row in part] == [1, 2, 3, 4, 5]
		sizes = [abs(float(row["log2fc_counts"])) for row in part]
		assert sizes == sorted(sizes, reverse=True) and sizes[-1] > 0
		for row in part:
			i = titles.index(row["motif"] if row["motif"] == row["name"] else f"{row['motif']} {row['name']}")
			assert row["inserted"] == found.inserts[i]
			for name in SUMMARIES:
				assert row[name] == f"{summary[name][i, group]:.6g}"
			if settings.get("attributions"):
				values = [float(value) for value in row["contributions"].split(",")]
				assert sum(values) == pytest.approx(float(row["log2fc_counts"]), rel=1e-3, abs=1e-5)
				put_in = [v for v, letter in zip(values, row["inserted"], strict=True) if letter != "N"]
				assert float(row["contribution"]) == pytest.approx(np.mean(put_in), rel=1e-3, abs=1e-6)
	printed = capsys.readouterr().out
	assert "Background loci" in printed and f"Strongest of 5 motifs: {rows[0]['motif']}" in printed
	lines = [line.split("\t") for line in Path("out.marginalize.accounting.tsv").read_text().splitlines()]
	account = {(split, reason): count for split, _, reason, count in lines[1:]}
	kept = min(17, settings.get("n_loci", 12))
	assert account["loci", "given"] == "18" and account["loci", "off the edge"] == "1"
	assert account["loci", "kept"] == str(kept) and account["motifs", "kept"] == "5"
	if kept < 17:
		assert account["loci", "beyond n_loci"] == str(17 - kept)
	before = {"genome.fa", "genome.fa.fai", "background.bed", "model.torch", "motifs.meme.gz", "settings.json"}
	made = {"out_marginalize", "out.marginalize.accounting.tsv"}
	assert {path.name for path in world.iterdir()} - before == made
	assert {path.name for path in (world / "out_marginalize").iterdir()} == {"index.html", "marginalize.tsv"}
	assert outputs({"name": "out", "output_filename": None}) == [TABLE, PAGE, "out.marginalize.accounting.tsv"]


# ---- the page ---------------------------------------------------------------------------------------


class Elements(HTMLParser):
	"""All start tags of a page, and whether tags are closed in order."""

	def __init__(self, text: str) -> None:
		super().__init__()
		self.found: list[tuple[str, dict[str, str | None]]] = []
		self.open: list[str] = []
		self.feed(text)

	def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
		self.found.append((tag, dict(attrs)))
		if tag not in ("meta", "input"):
			self.open.append(tag)

	def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
		self.found.append((tag, dict(attrs)))

	def handle_endtag(self, tag: str) -> None:
		assert self.open.pop() == tag


def elements(text: str) -> Elements:
	parsed = Elements(text)
	assert not parsed.open
	return parsed


def test_page(world):
	"""Self-contained, well-formed and escaped, a row for each motif of each group, all references there."""
	save_model("model.torch", groups=(1, 2))
	assert run(attributions=True) == 0
	text = Path(PAGE).read_text(encoding="utf-8")
	parsed = elements(text)
	ids = [attributes["id"] for _, attributes in parsed.found if attributes.get("id")]
	assert len(ids) == len(set(ids))
	for _, attributes in parsed.found:
		for key in ("href", "src", "data", "action"):
			target = attributes.get(key)
			assert target is None or target == "marginalize.tsv" or (target[1:] in ids and target[0] == "#")
	assert "url(" not in text and "@import" not in text and "http" not in text.replace("http-equiv", "")
	policy = next(a["content"] for tag, a in parsed.found if tag == "meta" and "http-equiv" in a)
	script = re.search(r"<script>(.*?)</script>", text, re.DOTALL)[1]
	digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
	assert policy.startswith("default-src 'none';") and f"script-src 'sha256-{digest}'" in policy
	assert sum(tag == "tr" for tag, _ in parsed.found) == 2 * (1 + len(SPELLED))
	headings = [a for tag, a in parsed.found if tag == "th" and a.get("scope") == "col"]
	assert [a["aria-sort"] for a in headings if "aria-sort" in a] == ["ascending", "ascending"]
	pictures = [a for tag, a in parsed.found if tag == "svg" and a.get("role") == "img"]
	assert all(a["aria-label"] for a in pictures) and len(pictures) == 2 * 5 * (
		1 + 3
	)  # rows; logo, contributions, chart
	assert "Be&lt;ta&gt;" in text and "Be<ta>" not in text
	labels = {attributes["for"] for tag, attributes in parsed.found if tag == "label"}
	fields = {attributes["id"] for tag, attributes in parsed.found if tag in ("input", "select")}
	assert labels == fields == {"group", "filter0", "filter1"}


def test_page_of_a_thousand_motifs_is_small():
	"""Below 2.5 MB for a group."""
	from cherimoya.interpret.marginalize import insert_of, letters, ranks
	from cherimoya.io.motifs import Motif
	from cherimoya_cli.marginalize_page import Results, build_page, drawn_motifs

	rng = np.random.default_rng(0)
	motifs = [Motif(f"MA{i:04d}.1", f"Factor{i}", rng.dirichlet([0.3] * 4, 12).T) for i in range(1000)]
	summary = {name: rng.normal(0, 0.1, (1000, 1)) for name in SUMMARIES}
	places = ranks(summary["log2fc_counts"])
	results = Results(
		motifs=motifs,
		inserts=[letters(insert_of(motif)) for motif in motifs],
		summary=summary,
		ranks=places,
		profiles={i: tuple(rng.gamma(2, 0.1, (2, 1, 200))) for i in drawn_motifs(places)},
		contributions=None,
		signal_groups=(1,),
		title="many",
		model="m.torch",
		database="m.meme",
		loci=["b.bed"],
		n_backgrounds=100,
		shuffled=True,
		min_information=0.25,
		random_state=0,
	)
	page = build_page(results)
	assert 1e6 < len(page.encode()) < 2.5e6
	assert elements(page) and page.count('<li class="card">') == 20


def boxes(svg: str) -> dict[str, list[tuple[int, int, int, int]]]:
	"""The bounding boxes (left, top, right, bottom) of the letters of a picture, by color; arcs by their ends."""
	found: dict[str, list[tuple[int, int, int, int]]] = {}
	for color, path in re.findall(r'<path fill="(#\w+)" d="([^"]*)"', svg):
		x = y = 0
		for letter in re.findall(r"M.*?(?=M|$)", re.sub(r"zM", "z;M", path).replace(";M", "M")):
			points = []
			for step, numbers in re.findall(r"([Mlaz])([^Mlaz]*)", letter):
				values = [int(n) for n in re.findall(r"-?\d+", numbers)]
				if step == "M":
					x, y = values
				elif step != "z":
					x, y = x + values[-2], y + values[-1]
				points.append((x, y))
			xs, ys = zip(*points, strict=True)
			found.setdefault(color, []).append((min(xs), min(ys), max(xs), max(ys)))
	return found


def test_letters_of_a_logo_are_as_tall_as_their_share_of_the_bits():
	from cherimoya.plot import COLORS
	from cherimoya_cli.marginalize_page import contribution_logo, logo

	found = boxes(logo(np.array([[0.0, 0.5], [0, 0], [0, 0], [1, 0.5]])))
	assert set(found) == {COLORS["A"], COLORS["T"]}
	(left, top, right, bottom), (left2, top2, right2, bottom2) = found[COLORS["T"]]
	assert (top, bottom) == (0, 100) and 0 <= left < right <= 50  # 2 bits
	assert bottom2 - top2 == 25 and 50 <= left2 < right2 <= 100  # half of 1 bit
	above, hole = found[COLORS["A"]]
	assert {above[1], above[3], top2, bottom2} == {50, 75, 100} and above[0] < hole[0] < hole[2] < above[2]
	both = boxes(contribution_logo("TNT", np.array([3.0, 0.0, -1.0])))[COLORS["T"]]
	assert [(top, bottom) for _, top, _, bottom in both] == [(0, 75), (75, 100)]


# ---- going on, shards, seeds ------------------------------------------------------------------------


@pytest.fixture
def whole(world, monkeypatch) -> dict[str, bytes]:
	"""The files of a run at once, lots of two motifs sharing batches."""
	from cherimoya.interpret import marginalize as module

	monkeypatch.setattr(module, "BLOCK", 40)
	assert run() == 0
	return {name: Path(name).read_bytes() for name in (TABLE, PAGE)}


def remove() -> None:
	for name in (TABLE, PAGE):
		Path(name).unlink()
	Path("out_marginalize").rmdir()


def test_going_on_after_a_failure(whole, monkeypatch, capsys):
	"""What was finished is not done again, and the result has the same bytes."""
	from cherimoya.interpret import marginalize as module

	remove()
	compute, calls = module.marginalize, []

	def failing(model: Any, motifs: Any, *args: Any, **options: Any) -> Any:
		calls.append([motif.id for motif in motifs])
		if len(calls) == 2:
			raise RuntimeError("the machine is gone")
		return compute(model, motifs, *args, **options)

	monkeypatch.setattr(module, "marginalize", failing)
	with pytest.raises(RuntimeError, match="gone"):
		run(chunk_size=1)
	assert not Path("out_marginalize").exists()
	assert run(chunk_size=1) == 0
	assert calls == [["M1", "M2"], ["M3", "M4"], ["M3", "M4"], ["M5"]]
	assert {name: Path(name).read_bytes() for name in (TABLE, PAGE)} == whole
	assert "1 of 3 chunks are done; going on" in capsys.readouterr().out
	assert not Path("out.marginalize.parts").exists()


def test_shards(whole, capsys):
	remove()
	assert run(flags=["--shard", "2/2"]) == 0
	assert not Path("out_marginalize").exists()
	assert run(flags=["--merge"]) == 3
	assert "1/2 (0 of 2 motifs are done)" in capsys.readouterr().err
	assert run(flags=["--shard", "1/2"]) == 0
	assert run(flags=["--merge"]) == 0
	assert {name: Path(name).read_bytes() for name in (TABLE, PAGE)} == whole


def test_another_run_begins_anew(whole, capsys):
	"""Chunks of other motifs, or of another number of loci, are not taken for those of this run."""
	assert run(flags=["--shard", "1/2"]) == 0
	assert run(n_loci=5) == 0
	assert "is of another run: n_loci" in capsys.readouterr().out
	assert Path(TABLE).read_bytes() != whole[TABLE]


def test_a_seed_that_is_drawn(world, capsys):
	assert run(random_state=None) == 0
	seed = int(capsys.readouterr().out.split("so a seed was drawn: ")[1].split()[0])
	first = table()
	assert run(random_state=seed) == 0
	assert table() == first
	assert run(random_state=seed + 1) == 0
	assert table() != first


def test_loading_without_a_seed(world):
	"""As a check does, which computes nothing."""
	from cherimoya_cli.commands.marginalize import load
	from cherimoya_cli.settings import load_settings

	assert run() == 0
	given = {**json.loads(Path("settings.json").read_text()), "random_state": None, "shuffle": True}
	loaded = load(load_settings("marginalize", given), torch.device("cpu"))
	assert len(loaded.codes) == loaded.accounts["loci"].kept == 12 and loaded.accounts["motifs"].kept == 5


def test_a_rerun_replaces_its_files_and_leaves_others(world):
	assert run(output_filename="results/effects/") == 0
	Path("results/effects/notes.txt").write_text("mine")
	first = table("results/effects/marginalize.tsv")
	assert run(output_filename="results/effects/", n_loci=5) == 0
	assert table("results/effects/marginalize.tsv") != first
	names = {path.name for path in Path("results/effects").iterdir()}
	assert names == {"index.html", "marginalize.tsv", "notes.txt"}
	assert [path.name for path in Path("results").iterdir()] == ["effects"]


def test_a_folder_that_is_not_complete_never_appears(tmp_path):
	final = tmp_path / "folder"
	with pytest.raises(RuntimeError, match="stopped"), publish_folder(str(final)) as temporary:
		(temporary / "index.html").write_text("half of it")
		raise RuntimeError("stopped")
	assert list(tmp_path.iterdir()) == []


# ---- what is refused --------------------------------------------------------------------------------


def write_motifs(**spelled: str) -> str:
	Path("other.meme").write_text(meme(spelled))
	return "other.meme"


BAD = {
	"no motif": (lambda: {"motifs": write_motifs()}, 3, "other.meme: holds no motif; give"),
	"a BED for motifs": (lambda: {"motifs": "background.bed"}, 3, "background.bed: holds no motif; give"),
	"motif file that is not there": (lambda: {"motifs": "absent.meme"}, 3, "absent.meme: no such file"),
	"motif too long": (
		lambda: {"motifs": write_motifs(Wide="ACGT" * 10, Fits="ACGT")},
		3,
		"other.meme: motifs longer than the output window of 37 bp: Wide (40 bp); leave them out",
	),
	"no informative motif": (
		lambda: {"motifs": write_motifs(Blank="NNN")},
		3,
		"other.meme: none of its 1 motifs has a position of 0.25 bits; lower min_information",
	),
	"no usable background": (lambda: {"chroms": ["chr9"]}, 3, "chr9"),
	"loci that are not there": (lambda: {"loci": "absent.bed"}, 3, "absent.bed: no such file"),
	"loci at the edges": (lambda: {"in_window": 961, "out_window": 937}, 3, "off the edge"),
	"out_window of another model": (lambda: {"out_window": 35}, 3, "gives 37 bp, and out_window is 35; set in_window"),
	"no loci": (lambda: {"n_loci": 0}, 2, "n_loci must be a whole number of at least 1"),
	"information": (
		lambda: {"min_information": 3},
		2,
		"min_information must be a number of at least 0 and of at most 2",
	),
	"folder that is a file": (
		lambda: {"output_filename": "genome.fa"},
		2,
		"genome.fa is a file, and marginalize writes a folder of this name; choose another in output_filename",
	),
	"seed of shards": (
		lambda: {"random_state": None, "flags": ["--shard", "1/2"]},
		2,
		"random_state is null, but the shards of a run need one seed",
	),
	"motifs not given": (lambda: {"motifs": None}, 2, "motifs is null; name the path of a motif database"),
}


@pytest.mark.parametrize(("change", "code", "message"), BAD.values(), ids=BAD)
def test_refuses(world, capsys, change, code, message):
	assert run(**change()) == code
	error = capsys.readouterr().err
	assert message in error and "Traceback" not in error
	assert not Path("out_marginalize").exists() and not Path("out.marginalize.parts").exists()
	assert Path("genome.fa").is_file()


def test_a_motif_without_information_is_counted_and_left_out(world, capsys):
	assert run(motifs=write_motifs(Blank="NN", Said="GATAAG")) == 0
	printed = capsys.readouterr().out
	assert "dropped: no informative position" in printed and "no informative position: Blank" in printed
	assert [row["motif"] for row in table()] == ["Said"]
	lines = Path("out.marginalize.accounting.tsv").read_text().splitlines()
	assert "motifs\tall\tno informative position\t1" in lines


def test_missing_extra(world, capsys, monkeypatch):
	for name in ("memelite", "memelite.io"):
		monkeypatch.setitem(sys.modules, name, None)
	assert run() == 3
	assert "marginalize needs the package 'memelite'" in (error := capsys.readouterr().err)
	assert "pip install 'cherimoya[motifs]'" in error


def test_few_backgrounds_are_a_note(world, capsys):
	assert run(n_loci=1) == 0
	assert "an average over 1 background loci" in capsys.readouterr().err
	assert all(row["log2fc_counts_se"] == "" and float(row["p_value"]) == 1 for row in table())
	assert not any(math.isnan(float(row["log2fc_counts"])) for row in table())


def test_a_broken_model_is_an_error(world, capsys):
	model = Cherimoya.load("model.torch")
	with torch.no_grad():
		model.linear.bias.fill_(math.nan)
	model.save("model.torch")
	assert run() == 3
	assert "not finite numbers" in capsys.readouterr().err
	assert not Path("out_marginalize").exists()
