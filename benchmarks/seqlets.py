"""How long ``seqlets`` takes, and how much memory, beside the published package where a Python with it is given.

Writes contributions of windows of 400 bp, noise with one short word in each, as ``attribute`` would leave them; finds
the seqlets of a part of the windows and of all, then once more with a database of random motifs. The published
package, which finds positive seqlets alone, does the part in turn with this one, and its seqlets are compared. Memory
is what processes have for themselves (RssAnon, the command and those it starts added up, every 20 ms)::

	python benchmarks/seqlets.py --peer-python PYTHON

takes some minutes and 1 GB of disk, and writes ``results/seqlets.json``. `--loci 1000 4000` is quicker.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _peer import machine
from chunks_memory import PAUSE, RESULTS, memory_of

WIDTH, WORD, N_MOTIFS, BLOCK = 400, 10, 500, 1_000


def blocks(n: int, kind: str) -> Iterator[np.ndarray]:
	"""One-hot sequences ("ohe") or contributions ("attr") of n windows, always the same, `BLOCK` at a time."""
	for first in range(0, n, BLOCK):
		rng = np.random.default_rng(first)
		m = min(BLOCK, n - first)
		hot = (rng.integers(0, 4, (m, 1, WIDTH)) == np.arange(4)[:, None]).astype(np.int8)
		if kind == "ohe":
			yield hot
			continue
		scores = rng.laplace(0, 0.01, hot.shape).astype(np.float32)
		for row, (start, sign) in enumerate(
			zip(rng.integers(20, WIDTH - 40, m), rng.choice([1, 1, -1], m), strict=True)
		):
			word = slice(start, start + WORD)
			scores[row, :, word] += sign * 0.1 * hot[row, :, word]
		yield scores


def prepare(folder: Path, n: int) -> dict[str, Any]:
	"""Leave the files of n windows in a folder; the settings that name them."""
	from cherimoya_cli.chunks import Stream, save_streams

	stem = folder / f"run{n}"
	for kind in ("ohe", "attr"):
		save_streams(Path(f"{stem}.attributions.{kind}.npz"), arr_0=Stream((n, 4, WIDTH), blocks(n, kind)))
	np.save(f"{stem}.attributions.idxs.npy", np.ones(n, dtype=bool))
	with open(f"{stem}.attributions.bed", "w") as file:
		file.writelines(f"chr1\t{i * WIDTH}\t{(i + 1) * WIDTH}\n" for i in range(n))
	return {"name": str(stem), "verbose": False}


def for_peer(settings: dict[str, Any]) -> dict[str, Any]:
	"""The same for the published package, whose file has another name."""
	stem = f"{settings['name']}.attributions"
	return {
		"ohe_filename": f"{stem}.ohe.npz",
		"attr_filename": f"{stem}.attr.npz",
		"idx_filename": f"{stem}.idxs.npy",
		"loci": [f"{stem}.bed"],
		"chroms": ["chr1"],
		"output_filename": f"{settings['name']}.peer.bed",
		"verbose": False,
	}


def write_motifs(path: Path) -> None:
	"""A database of random motifs."""
	rng = np.random.default_rng(0)
	with path.open("w") as file:
		file.write("MEME version 4\n\nALPHABET= ACGT\n\n")
		for i in range(N_MOTIFS):
			pwm = rng.dirichlet([0.3] * 4, rng.integers(6, 18))
			file.write(f"MOTIF M{i}\nletter-probability matrix: alength= 4 w= {len(pwm)}\n")
			file.writelines(" ".join(f"{p:.6f}" for p in row) + "\n" for row in pwm)


def run(python: str, program: str, settings: dict[str, Any]) -> dict[str, Any]:
	"""Run the command of a package; its seconds, and the most memory that it took."""
	path = Path(f"{settings['output_filename']}.json")
	path.write_text(json.dumps(settings))
	started, largest = time.perf_counter(), 0
	process = subprocess.Popen([python, *program.split(), "seqlets", "-p", str(path)], stdout=subprocess.DEVNULL)
	while process.poll() is None:
		largest = max(largest, memory_of(process.pid))
		time.sleep(PAUSE)
	if process.returncode:
		raise SystemExit(f"seqlets ended with exit code {process.returncode}")
	return {"seconds": round(time.perf_counter() - started, 2), "anonymous": largest}


def ours(settings: dict[str, Any]) -> dict[str, Any]:
	"""Run this package's command."""
	return run(sys.executable, "-m cherimoya_cli", {**settings, "output_filename": f"{settings['name']}.seqlets.bed"})


def places(path: str) -> dict[tuple[str, ...], tuple[float, float]]:
	"""Attribution and p-value of each seqlet of a file by its place."""
	rows = (line.split() for line in Path(path).read_text().splitlines() if not line.startswith("#"))
	return {tuple(row[:3]): (float(row[3]), float(row[4])) for row in rows}


def beside_peer(settings: dict[str, Any], python: str, rounds: int) -> dict[str, Any]:
	"""Both packages in turn, and whether the published one's seqlets are among this one's."""
	theirs = for_peer(settings)
	program = str(Path(python).with_name("cherimoya"))
	times: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
	for _ in range(rounds):
		times["ours"].append(ours(settings))
		times["peer"].append(run(python, program, theirs))
	mine, other = places(f"{settings['name']}.seqlets.bed"), places(theirs["output_filename"])
	equal = sum(place in mine and np.allclose(mine[place], other[place], rtol=1e-4) for place in other)
	return {
		**{side: {key: statistics.median(t[key] for t in found) for key in found[0]} for side, found in times.items()},
		"ours_seqlets": len(mine),
		"ours_positive": sum(total > 0 for total, _ in mine.values()),
		"peer_seqlets": len(other),
		"equal": equal,
	}


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
	"""Make the files and run everything."""
	few, many = sorted(args.loci)
	settings = {n: prepare(folder, n) for n in (few, many)}
	record: dict[str, Any] = {"width": WIDTH, "motifs": N_MOTIFS, "runs": []}
	for n in (few, many):
		found = ours(settings[n])
		record["runs"].append({"loci": n, "seqlets": len(places(f"{settings[n]['name']}.seqlets.bed")), **found})
	write_motifs(folder / "motifs.meme")
	named = {**settings[few], "motifs": str(folder / "motifs.meme")}
	ours(named)  # the first run compiles what later ones find
	record["named"] = {"loci": few, "seqlets": record["runs"][0]["seqlets"], **ours(named)}
	if args.peer_python:
		record["beside"] = {"loci": few, **beside_peer(settings[few], args.peer_python, args.rounds)}
	return record


def main() -> None:
	"""Measure, print, and write the result."""
	parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
	parser.add_argument("--loci", type=int, nargs=2, default=[10_000, 100_000], help="few, and many")
	parser.add_argument("--peer-python", help="a Python that has the published package; left out by default")
	parser.add_argument("--rounds", type=int, default=3, help="turns of each package; medians are compared")
	parser.add_argument("--output", default=str(RESULTS / "seqlets.json"))
	args = parser.parse_args()
	with tempfile.TemporaryDirectory() as temporary:
		record = measure(Path(temporary), args)
	record["machine"] = machine(len(os.sched_getaffinity(0)), {})
	Path(args.output).write_text(json.dumps(record, indent="\t") + "\n")
	for found in (*record["runs"], record["named"]):
		print(
			f"{found['loci']:,} windows, {found['seqlets']:,} seqlets: {found['seconds']:.0f} s, at most "
			f"{found['anonymous'] / 2**20:,.0f} MiB"
		)
	if beside := record.get("beside"):
		print(
			f"{beside['loci']:,} windows, medians: {beside['ours']['seconds']:.1f} s and "
			f"{beside['ours']['anonymous'] / 2**20:,.0f} MiB, the published package {beside['peer']['seconds']:.1f} s "
			f"and {beside['peer']['anonymous'] / 2**20:,.0f} MiB; of its {beside['peer_seqlets']:,} seqlets "
			f"{beside['equal']:,} are among ours"
		)


if __name__ == "__main__":
	main()
