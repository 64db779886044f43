"""URLs as inputs: alignments are streamed; what cannot be streamed is told before any work, with the remedy."""

import json
import shutil
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pyBigWig
import pytest

from cherimoya_cli import reads
from cherimoya_cli.__main__ import main


class Quiet(SimpleHTTPRequestHandler):
	"""A server of a folder that prints nothing."""

	def log_message(self, *_args):
		return


@pytest.fixture(scope="module")
def server(tiny_genome, tmp_path_factory, make_fasta):
	"""The address of a local server, and the folder that it serves."""
	pysam = pytest.importorskip("pysam")
	folder = tmp_path_factory.mktemp("served")
	for name in ("fasta", "signal", "peaks", "negatives"):
		shutil.copyfile(getattr(tiny_genome, name), folder / getattr(tiny_genome, name).name)
	header = {"HD": {"VN": "1.6"}, "SQ": [{"SN": c, "LN": n} for c, n in tiny_genome.sizes.items()]}
	with pysam.AlignmentFile(folder / "reads.bam", "wb", header=header) as handle:
		for i in range(2_000):
			read = pysam.AlignedSegment(handle.header)
			read.query_name, read.flag = f"r{i}", 16 * (i % 2)
			read.reference_id, read.reference_start = 0, 11 * i
			read.query_sequence, read.cigartuples = "A" * 30, [(0, 30)]
			handle.write(read)
	pysam.index(str(folder / "reads.bam"))
	with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as httpd:
		thread = threading.Thread(target=httpd.serve_forever, daemon=True)
		thread.start()
		yield f"http://127.0.0.1:{httpd.server_port}", folder
		httpd.shutdown()
		thread.join()


def settings(url, **changes):
	return {
		"name": "out/x",
		"sequences": "tiny.fa",
		"loci": "peaks.bed",
		"negatives": "negatives.bed",
		"signals": f"{url}/reads.bam",
		"in_window": 128,
		"out_window": 64,
		"device": "cpu",
		"training_chroms": ["chr1"],
		"validation_chroms": ["chr2"],
		"test_chroms": ["chr3"],
		**changes,
	}


@pytest.fixture
def here(server, tmp_path, monkeypatch):
	"""A folder with local copies of what can only be read locally."""
	for name in ("tiny.fa", "peaks.bed", "negatives.bed"):
		shutil.copyfile(server[1] / name, tmp_path / name)
	monkeypatch.chdir(tmp_path)
	return tmp_path


def test_alignments_are_streamed(server, here):
	url, folder = server
	given = {"name": "x", "sequences": "tiny.fa", "signals": [f"{url}/reads.bam"]}
	(here / "x.signals.json").write_text(json.dumps(given))
	before = {path.name for path in here.iterdir()}
	done = subprocess.run(
		[sys.executable, "-m", "cherimoya_cli.signals", "-p", "x.signals.json"], capture_output=True, text=True
	)
	assert done.returncode == 0, done.stderr
	assert f"{url}/reads.bam: 2,000 reads, 2,000 used" in done.stdout
	made = {path.name for path in here.iterdir()} - before
	assert made == {"x.+.bw", "x.-.bw", "x.signals.record.json", "tiny.fa.fai"}  # no copy of the file or its index
	# The streaming process is another one: pysam keeps Python's lock, and the server is a thread of this process.
	local, _ = reads.count_ends(str(folder / "reads.bam"), {"chr1": 24_000}, stranded=True, fragments=False)
	for strand, counts in zip("+-", local, strict=True):
		with pyBigWig.open(f"x.{strand}.bw") as streamed:
			entries = streamed.intervals("chr1")
		positions, values = counts["chr1"]
		assert [(start, value) for start, _, value in entries] == list(zip(positions, values, strict=True))


def test_the_preflight_passes_urls_on(server, here, capsys):
	(here / "x.json").write_text(json.dumps(settings(server[0])))
	assert main(["check", "-p", "x.json"]) == 0, capsys.readouterr().err
	assert f"  {server[0]}/reads.bam\n" in capsys.readouterr().out


@pytest.mark.parametrize(
	("changes", "words"),
	[
		({"sequences": "{url}/tiny.fa"}, ["{url}/tiny.fa", "must be a local file", "download the FASTA"]),
		({"loci": "{url}/peaks.bed"}, ["{url}/peaks.bed", "read from disk; download"]),
		({"signals": ["{url}/reads.bed"]}, ["{url}/reads.bed", "download this file first"]),
	],
	ids=["FASTA", "loci", "reads as text"],
)
def test_what_cannot_be_streamed(server, here, capsys, changes, words):
	text = json.dumps(settings(server[0], **changes)).replace("{url}", server[0])
	(here / "x.json").write_text(text)
	assert main(["check", "-p", "x.json", "--command", "pipeline"]) == 3
	message = capsys.readouterr().err
	assert [word for word in words if word.replace("{url}", server[0]) not in message] == [], message
	assert not (here / "out").exists()


def test_a_url_that_is_not_there(server, here):
	given = {"name": "x", "sequences": "tiny.fa", "signals": [f"{server[0]}/absent.bam"]}
	(here / "x.signals.json").write_text(json.dumps(given))
	done = subprocess.run(
		[sys.executable, "-m", "cherimoya_cli.signals", "-p", "x.signals.json"], capture_output=True, text=True
	)
	assert done.returncode == 3 and f"{server[0]}/absent.bam: cannot be read as alignments" in done.stderr
	assert "Traceback" not in done.stderr


def test_remote_bigwigs(server, here, capsys):
	"""They are read where pyBigWig can; else the error says that it cannot."""
	import pyBigWig

	from cherimoya.io.tracks import Tracks

	url = f"{server[0]}/signal.bw"
	if pyBigWig.remote:
		remote, local = Tracks(url), Tracks(server[1] / "signal.bw")
		assert (remote.windows(["chr1"], [0], 500) == local.windows(["chr1"], [0], 500)).all()
		return
	for command in ("fit", "check"):
		(here / "x.json").write_text(json.dumps(settings(url, signals=url)))
		assert main([command, "-p", "x.json"]) == 3
		message = capsys.readouterr().err
		for word in (url, "built without libcurl", "download the file"):
			assert word in message
