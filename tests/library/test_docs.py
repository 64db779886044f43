"""The docs' Python is run as it stands: the blocks of a page one after another, in a folder with small files.

A block after a line ``<!-- not executed: reason -->`` is left out. A block ``text`` after a line ``<!-- output -->``
is what the Python block before it prints.
"""

import contextlib
import importlib
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from cherimoya import Cherimoya

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
SKIP = re.compile(r"<!-- not executed: (?P<reason>\S.*?) -->")
OUTPUT = "<!-- output -->"
# What a page needs beside the core.
NEEDED = {
	"tangermeme": ("tangermeme",),
	"plotting": ("matplotlib",),
	"attribution": ("tangermeme",),
	"motifs": ("tangermeme",),
}
# What it must leave behind.
WRITTEN = {
	"models": ("region.bw", "region.npz"),
	"plotting": ("profile.png", "contributions.png", "training.png"),
}


class Block(NamedTuple):
	"""A fenced block of a page: its language, its first line's number, its text, and the marker above it."""

	language: str
	line: int
	text: str
	marker: str


def blocks(text: str) -> Iterator[Block]:
	"""The fenced blocks of a page."""
	lines = text.splitlines()
	i = 0
	while i < len(lines):
		if not (fence := re.match(r"(```+)([^\s`]*)[^`]*$", lines[i])):
			i += 1
			continue
		above = next((line for line in reversed(lines[:i]) if line.strip()), "")
		end = next(j for j in range(i + 1, len(lines)) if lines[j].strip() == fence[1])
		yield Block(fence[2], i + 2, "\n".join(lines[i + 1 : end]), above.strip() if above.startswith("<!--") else "")
		i = end + 1


def run_page(name: str, text: str) -> int:
	"""Run a page's Python blocks in one namespace, and compare what they print; the number that ran."""
	namespace: dict[str, object] = {"__name__": f"docs.{name}"}
	printed, n = "", 0
	for block in blocks(text):
		if block.language == "python" and not SKIP.fullmatch(block.marker):
			code = compile("\n" * (block.line - 1) + block.text, f"docs/{name}.md", "exec")
			with contextlib.redirect_stdout(io.StringIO()) as out:
				exec(code, namespace)
			printed, n = out.getvalue(), n + 1
		elif block.marker == OUTPUT:
			assert printed.rstrip() == block.text.rstrip(), f"docs/{name}.md, line {block.line}: other output"
	return n


def published_model(path: Path, **sizes: object) -> None:
	"""A random model in the format of the published releases 0.2 and 0.3."""
	model = Cherimoya(**sizes, profile_kernel_size=75, random_state=0)
	config = {key: value for key, value in model.config.items() if key != "profile_kernel_size"}
	torch.save({"config": config, "state_dict": model.state_dict()}, path)


@pytest.fixture(scope="module")
def prepared(tiny_genome, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
	"""The small files that pages may name."""
	folder = tmp_path_factory.mktemp("docs")
	published_model(folder / "atlas.torch", n_filters=128)
	published_model(folder / "model.torch", n_filters=16, n_layers=4)
	columns = "Epoch\tTraining MNLL\tValidation MNLL\tValidation Count Pearson\tSaved?"
	rows = [f"{i}\t{300 - i}\t{310 - i}\t{0.1 * i:.1f}\t{i < 3}" for i in range(4)]
	(folder / "run.detailed.log").write_text("\n".join([columns, *rows]) + "\n")
	return {
		"genome.fa": tiny_genome.fasta,
		"signal.bw": tiny_genome.signal,
		"signal.+.bw": tiny_genome.plus,
		"signal.-.bw": tiny_genome.minus,
		"control.bw": tiny_genome.control,
		"peaks.bed": tiny_genome.peaks,
		"peaks.narrowPeak": tiny_genome.narrowpeaks,
		"negatives.bed": tiny_genome.negatives,
		"exclude.bed": tiny_genome.exclusion,
		"examples": ROOT / "examples",
		**{name: folder / name for name in ("atlas.torch", "model.torch", "run.detailed.log")},
	}


@pytest.fixture
def folder(prepared: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
	"""A working folder with those files, where figures need no screen."""
	for name, path in prepared.items():
		(tmp_path / name).symlink_to(path)
	monkeypatch.chdir(tmp_path)
	monkeypatch.setenv("MPLBACKEND", "agg")
	return tmp_path


@pytest.mark.parametrize("path", [p for p in PAGES if "```python" in p.read_text("utf-8")], ids=lambda p: p.stem)
def test_a_page_does_what_it_says(path: Path, folder: Path) -> None:
	for package in NEEDED.get(path.stem, ()):
		pytest.importorskip(package)
	try:
		run_page(path.stem, path.read_text(encoding="utf-8"))
	finally:
		if "matplotlib.pyplot" in sys.modules:
			sys.modules["matplotlib.pyplot"].close("all")
	assert all((folder / file).stat().st_size > 500 for file in WRITTEN.get(path.stem, ()))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_markers_have_a_reason_and_stand_above_a_block(path: Path) -> None:
	text = path.read_text(encoding="utf-8")
	marked = [b for b in blocks(text) if b.marker]
	assert all(b.language in ("python", "bash") for b in marked if b.marker.startswith("<!-- not"))
	assert text.count("<!-- not executed") == sum(bool(SKIP.fullmatch(b.marker)) for b in marked)
	assert text.count(OUTPUT) == sum(b.marker == OUTPUT for b in marked)


# What `fit` reads by its keyword arguments, which are the settings of the page on the command line.
SETTINGS = {"TrainingOptions"}


@pytest.mark.parametrize("name", ["cherimoya", "cherimoya.io", "cherimoya.interpret", "cherimoya.training"])
def test_the_api_page_has_every_public_name(name: str) -> None:
	"""Those that the package's `__dir__` lists, which are its lazy imports."""
	page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
	module = importlib.import_module(name)
	public = {export for export in module.__dir__() if not export.startswith("_")} - SETTINGS
	public = {export for export in public if getattr(getattr(module, export), "__module__", "").startswith("cherimoya")}
	assert len(public) > 5
	assert not {export for export in public if not re.search(rf"^\.\. auto\w+:: \S*\.{export}$", page, re.MULTILINE)}


# The runner itself.

PAGE = """# A page

```python
x = 1
print(x)
```

<!-- output -->
```text
1
```

```bash
exit 1
```

```{include} _generated/table.md
```

<!-- not executed: it takes an hour -->
```python
x = 2
```

```python
assert x == 1, "the block above ran"
```
"""


def test_blocks_run_in_one_namespace_but_for_those_that_are_marked() -> None:
	assert run_page("page", PAGE) == 2


@pytest.mark.parametrize(
	("old", "new", "words"),
	[
		("text\n1", "text\n2", r"docs/page\.md, line 10: other output"),
		("it takes an hour", "", "the block above ran"),
		("<!-- not executed: it takes an hour -->\n", "", "the block above ran"),
	],
	ids=["other output", "no reason", "no marker"],
)
def test_a_page_that_is_wrong_fails(old: str, new: str, words: str) -> None:
	with pytest.raises(AssertionError, match=words):
		run_page("page", PAGE.replace(old, new))


def test_an_error_names_the_line_of_the_page() -> None:
	with pytest.raises(ZeroDivisionError) as caught:
		run_page("page", PAGE.replace("x = 1", "x = 1 / 0"))
	last = caught.traceback[-1]
	assert (os.fspath(last.path).endswith("docs/page.md"), last.lineno + 1) == (True, 4)
