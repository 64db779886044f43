"""Motif databases: what is read of a file in MEME's format, and what is refused."""

import gzip
import math
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from cherimoya.errors import InputError, MissingExtraError, MissingFileError
from cherimoya.io.motifs import information, read_motifs

HEADER = "MEME version 4\n\nALPHABET= ACGT\n\nstrands: + -\n\n"


def meme(motifs: Mapping[str, list[list[float]]]) -> str:
	"""The text of a file with these motifs, a row for each position."""
	parts = [HEADER]
	for title, rows in motifs.items():
		lines = [" ".join(f"{p:.6f}" for p in row) for row in rows]
		parts.append(f"MOTIF {title}\nletter-probability matrix: alength= 4 w= {len(rows)} nsites= 20 E= 0\n")
		parts.append("\n".join(lines) + "\nURL https://example.org\n\n")
	return "".join(parts)


ROWS = {"M1.1 Alpha beta": [[1, 0, 0, 0], [0, 0.25, 0.75, 0]], "M2": [[0.25, 0.25, 0.25, 0.25], [0, 0, 0, 1]]}


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzipped"])
def test_reads_all_motifs_in_order(tmp_path: Path, zipped: bool) -> None:
	pytest.importorskip("memelite")
	path = tmp_path / "motifs.txt"
	data = meme(ROWS).encode()
	path.write_bytes(gzip.compress(data) if zipped else data)
	motifs = read_motifs(path)
	assert [(motif.id, motif.name, str(motif)) for motif in motifs] == [
		("M1.1", "Alpha beta", "M1.1 Alpha beta"),
		("M2", "M2", "M2"),
	]
	for motif, rows in zip(motifs, ROWS.values(), strict=True):
		np.testing.assert_allclose(motif.pwm, np.transpose(rows))


def test_rounded_probabilities_are_scaled_to_one(tmp_path: Path) -> None:
	pytest.importorskip("memelite")
	(tmp_path / "m.meme").write_text(meme({"M": [[0.33, 0.33, 0.33, 0]]}))
	assert read_motifs(tmp_path / "m.meme")[0].pwm[:, 0] == pytest.approx([1 / 3, 1 / 3, 1 / 3, 0])


BAD = {
	"no motif": (HEADER, "holds no motif"),
	"empty": ("", "holds no motif"),
	"two of one name": (meme(ROWS) + meme(ROWS), r"2 names are those of several motifs \(first: M1.1 Alpha beta\)"),
	"cut off": (
		meme(ROWS).split("0.000000 0.000000 0.000000 1")[0],
		r"1 of 2 motifs have no whole matrix \(first: M2\)",
	),
	"no width": (meme(ROWS).replace("w= 2", ""), "is not in MEME's format"),
	"letters for numbers": (meme(ROWS).replace("0.750000", "x"), "is not in MEME's format"),
	"counts": (meme({"M": [[1, 0, 0, 0], [7, 3, 0, 0]]}), r"M \(position 2 sums to 10\)"),
	"negative": (meme({"M": [[1.5, -0.5, 0, 0]]}), r"M \(a negative number, or none at all\)"),
	"NaN": (meme({"M": [[math.nan, 1, 0, 0]]}), r"M \(a negative number, or none at all\)"),
	"many faults": (meme({f"M{i}": [[2, 0, 0, 0]] for i in range(5)}), r"M2 \(.*\) and 2 more; rows"),
	"broken gzip": (gzip.compress(meme(ROWS).encode())[:-9], "broken or truncated"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD)
def test_refuses(tmp_path: Path, content: str | bytes, message: str) -> None:
	pytest.importorskip("memelite")
	path = tmp_path / "bad.meme"
	path.write_bytes(content if isinstance(content, bytes) else content.encode())
	with pytest.raises(InputError, match=message) as error:
		read_motifs(path)
	assert str(error.value).startswith(str(path)) and ";" in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
	with pytest.raises(MissingFileError, match="no such file"):
		read_motifs(tmp_path / "none.meme")


def test_missing_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
	(tmp_path / "m.meme").write_text(meme(ROWS))
	monkeypatch.setitem(sys.modules, "memelite", None)
	monkeypatch.setitem(sys.modules, "memelite.io", None)
	with pytest.raises(MissingExtraError, match=r"'memelite', which is not installed.*cherimoya\[motifs\]"):
		read_motifs(tmp_path / "m.meme")


@pytest.mark.parametrize(
	("column", "bits"),
	[
		([1, 0, 0, 0], 2),
		([0.5, 0, 0.5, 0], 1),
		([0.25] * 4, 0),
		([0.7, 0.1, 0.1, 0.1], 2 + 0.7 * math.log2(0.7) + 0.3 * math.log2(0.1)),
	],
	ids=str,
)
def test_information(column: list[float], bits: float) -> None:
	assert information(np.array(column)[:, None]) == pytest.approx([bits])


def test_real_databases(shared: Path) -> None:
	"""All of JASPAR's vertebrates, each of which has a matrix of probabilities."""
	pytest.importorskip("memelite")
	motifs = read_motifs(shared / "data" / "motifs" / "JASPAR2024_CORE_vertebrates_non-redundant.meme.gz")
	assert len(motifs) == 879 and motifs[0][:2] == ("MA0002.3", "Runx1")
	ctcf = next(motif for motif in motifs if motif.id == "MA0139.2")
	assert "".join("ACGT"[i] for i in ctcf.pwm.argmax(axis=0)) == "GCCACCAGGGGGCGC"
	assert all(np.allclose(motif.pwm.sum(axis=0), 1) for motif in motifs)
