"""The commands that the docs show are run as they stand, page by page, in a folder with small files.

A block ``bash`` after a line ``<!-- not executed: reason -->`` is left out, and so are the README's marked ones, which
the checks before a release run. ``cherimoya`` is this package with the sizes of model and windows made small.
"""

import gzip
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from cherimoya import Cherimoya

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*/README.md")])
FENCE = re.compile(r"(?:<!-- (?P<marker>[^\n]*?) -->\n+)?^```bash\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)

WINDOWS = {"in_window": 256, "out_window": 128, "device": "cpu"}
SPLITS = {"training_chroms": ["chr1"], "validation_chroms": ["chr2"], "test_chroms": ["chr3"]}
FIT = {"n_filters": 8, "n_layers": 3, "max_epochs": 1, "n_warmup_epochs": 0, "batch_size": 16, "max_jitter": 8}
FIT |= {"num_workers": 0}
SMALL = {
	"pipeline": WINDOWS
	| {f"fit_parameters.{key}": value for key, value in FIT.items()}
	| {"preprocessing_parameters.callpeaks_arguments": ["--nomodel", "--extsize", "60"]}
	| {"attribute_parameters.attr_window": 40, "attribute_parameters.max_loci": 6, "marginalize_parameters.n_loci": 2},
	"fit": WINDOWS | FIT,
	"evaluate": WINDOWS,
	"predict": WINDOWS,
	"attribute": WINDOWS | {"attr_window": 40, "max_loci": 6},
	"marginalize": WINDOWS | {"n_loci": 2},
	"variants": WINDOWS,
	"negatives": {key: WINDOWS[key] for key in ("in_window", "out_window")},
}
"""What is made small in each command, by its own flag --set."""

PROGRAM = """#!{python}
import json, sys
from cherimoya_cli.__main__ import run

small = json.loads({small!r}).get(sys.argv[1] if len(sys.argv) > 1 else "", {{}})
if "-p" in sys.argv or "--parameters" in sys.argv:
	for key, value in small.items():
		sys.argv += ["--set", f"{{key}}={{json.dumps(value)}}"]
sys.exit(run())
"""


class Block(NamedTuple):
	"""A block of commands: the marker above it, its first line's number, and its text."""

	marker: str
	line: int
	text: str


def blocks(page: str) -> Iterator[Block]:
	"""The blocks of commands of a page."""
	for found in FENCE.finditer(page):
		line = page.count("\n", 0, found.start("text")) + 1
		yield Block(found["marker"] or "", line, found["text"])


def executed(block: Block) -> bool:
	"""Whether a block is to be run here."""
	return not block.marker.startswith(("not executed: ", "command: "))


def name_of(path: Path) -> str:
	return str(path.relative_to(ROOT))


def write_bam(path: Path, genome, *tracks: str) -> None:
	"""Reads whose 5' ends are those of the first track on the + strand, and of the last on the -."""
	import pysam

	names, length = list(genome.sizes), 30
	header = {"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": [{"SN": n, "LN": genome.sizes[n]} for n in names]}
	reads = []
	for reference, chrom in enumerate(names):
		for track, flag in zip((tracks[0], tracks[-1]), (0, 16), strict=True):
			counts = np.asarray(genome.tracks[track][chrom]).astype(int)
			for end in np.repeat(np.arange(len(counts)), counts).tolist():
				start = end if flag == 0 else end - length + 1
				if 0 <= start <= genome.sizes[chrom] - length:
					reads.append((reference, start, flag))
	with pysam.AlignmentFile(str(path), "wb", header=header) as bam:
		for i, (reference, start, flag) in enumerate(sorted(reads)):
			read = pysam.AlignedSegment()
			read.query_name, read.flag, read.reference_id, read.reference_start = f"r{i}", flag, reference, start
			read.mapping_quality, read.cigar = 60, [(0, length)]
			read.query_sequence = "A" * length
			bam.write(read)
	pysam.index(str(path))


def write_motifs(path: Path, *texts: str) -> None:
	lines = ["MEME version 4", "", "ALPHABET= ACGT", ""]
	for i, text in enumerate(texts):
		lines += [f"MOTIF m{i}", f"letter-probability matrix: alength= 4 w= {len(text)} nsites= 20 E= 0"]
		lines += [" ".join("0.91" if base == b else "0.03" for b in "ACGT") for base in text] + [""]
	path.write_text("\n".join(lines))


@pytest.fixture(scope="module")
def prepared(tiny_genome, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
	"""The files that pages may name."""
	pytest.importorskip("pysam")
	folder = tmp_path_factory.mktemp("commands")
	files = {"genome.fa": tiny_genome.fasta, "hg38.fa": tiny_genome.fasta, "signal.bw": tiny_genome.signal}
	files |= {"signal.+.bw": tiny_genome.plus, "signal.-.bw": tiny_genome.minus, "control.bw": tiny_genome.control}
	files |= {"peaks.bed": tiny_genome.peaks, "peaks.narrowPeak": tiny_genome.narrowpeaks}
	files |= {"negatives.bed": tiny_genome.negatives}
	for name in ("chip.bam", "reads.bam", "atac.bam"):
		write_bam(folder / name, tiny_genome, "plus", "minus")
	for name in ("input.bam", "control.bam"):
		write_bam(folder / name, tiny_genome, "control")
	write_motifs(folder / "motifs.meme", tiny_genome.motif, "ACGTTTGCAA")
	(folder / "JASPAR.meme.gz").write_bytes(gzip.compress((folder / "motifs.meme").read_bytes()))
	Cherimoya(n_filters=8, n_layers=3, trimming=64, random_state=0).save(folder / "model.torch")
	chrom = next(iter(tiny_genome.sequences))
	rows = []
	for position in (600, 1200, 1800):
		reference = tiny_genome.sequences[chrom][position]
		rows.append(f"{chrom}\t{position + 1}\t.\t{reference}\t{'A' if reference != 'A' else 'C'}\t.\t.\t.")
	text = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" + "\n".join(rows) + "\n"
	with gzip.open(folder / "patients.vcf.gz", "wt") as file:
		file.write(text)
	data = {"sequences": "genome.fa", "loci": "peaks.bed", "signals": ["signal.bw"]}
	trained = data | {"name": "run", "model": "model.torch"}
	pipeline = data | {"name": "run", "negatives": "negatives.bed", "motifs": "motifs.meme"}
	for name, content in {
		"params.json": pipeline | {"fit_parameters": SPLITS},
		"fit.json": data | SPLITS | {"negatives": "negatives.bed", "name": "run"},
		"model.json": trained,
		"attribute.json": trained,
		"predict.json": trained,
		"marginalize.json": trained | {"loci": "negatives.bed", "motifs": "motifs.meme"},
		"motifs.json": trained | {"motifs": "motifs.meme"},
		"seqlets.json": trained | {"motifs": "motifs.meme"},
		"run.annotation.json": {"name": "run", "sequences": "genome.fa", "motifs": "motifs.meme"},
		"batch.json": data
		| WINDOWS
		| {"name": "runs/atlas", "samples": [{"name": "a"}], "negatives": "negatives.bed"}
		| {"fit_parameters": SPLITS | FIT, "skip_steps": ["attribute", "seqlets", "motifs", "modisco_report"]},
		"variants.json": trained | {"variants": "patients.vcf.gz"},
	}.items():
		(folder / name).write_text(json.dumps(content))
	return files | {path.name: path for path in folder.iterdir()}


@pytest.fixture
def folder(prepared: dict[str, Path], tmp_path: Path) -> Path:
	"""A working folder with those files, and the program."""
	work = tmp_path / "work"
	work.mkdir()
	for name, path in prepared.items():
		(work / name).symlink_to(path)
	program = tmp_path / "bin" / "cherimoya"
	program.parent.mkdir()
	program.write_text(PROGRAM.format(python=sys.executable, small=json.dumps(SMALL)))
	program.chmod(0o755)
	return work


def run_block(block: Block, folder: Path) -> subprocess.CompletedProcess:
	"""Run a block in bash, in the folder, and see that it ends well."""
	environment = {**os.environ, "OMP_NUM_THREADS": "1", "CHERIMOYA_CACHE": str(folder.parent / "cache")}
	environment["PATH"] = os.pathsep.join(
		[str(folder.parent / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
	)
	environment["PYTHONPATH"] = str(ROOT)
	return subprocess.run(
		["bash", "-euo", "pipefail", "-c", block.text],
		cwd=folder,
		env=environment,
		stdin=subprocess.DEVNULL,
		stdout=subprocess.PIPE,
		stderr=subprocess.STDOUT,
		text=True,
	)


SHOWN = [path for path in PAGES if any(executed(block) for block in blocks(path.read_text(encoding="utf-8")))]


@pytest.mark.slow
@pytest.mark.parametrize("path", SHOWN, ids=name_of)
def test_the_commands_of_a_page_run(path: Path, folder: Path) -> None:
	for package in ("MACS3", "matplotlib", "modiscolite", "tangermeme"):
		pytest.importorskip(package)
	for block in blocks(path.read_text(encoding="utf-8")):
		if executed(block):
			done = run_block(block, folder)
			assert done.returncode == 0, f"{name_of(path)}, line {block.line}:\n{done.stdout[-4000:]}"


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_block_is_found_and_a_marker_has_a_reason(path: Path) -> None:
	text = path.read_text(encoding="utf-8")
	found = list(blocks(text))
	assert len(found) == text.count("```bash\n")
	for block in found:
		assert executed(block) or len(block.marker.partition(": ")[2]) > 3, block
		assert not (executed(block) and "pip install" in block.text), "no test installs anything: mark the block"


def test_a_block_that_fails_is_noticed(tmp_path: Path) -> None:
	assert run_block(Block("", 1, "false\ntrue\n"), tmp_path).returncode == 1
	assert run_block(Block("", 1, "true\n"), tmp_path).returncode == 0
