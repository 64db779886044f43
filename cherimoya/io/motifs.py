"""Motif databases: files in MEME's format, read with memelite (the extra ``motifs``) and checked."""

import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cherimoya.errors import InputError, missing_extra
from cherimoya.io._files import read_bytes

_TOLERANCE = 0.05  # databases round probabilities; by how far a position may miss a sum of 1
_SHOWN = 3


class Motif(NamedTuple):
	"""A motif of a database.

	Attributes
	----------
	id: str
		The first word of its MOTIF line, such as "MA0139.2".
	name: str
		The rest of that line, such as "CTCF"; the ID where there is nothing more.
	pwm: numpy.ndarray of float64, shape=(4, w)
		The probability of A, C, G and T at each position; columns sum to 1.
	"""

	id: str
	name: str
	pwm: np.ndarray

	def __str__(self) -> str:
		return self.id if self.name == self.id else f"{self.id} {self.name}"


def require_memelite(needed_for: str) -> None:
	"""MissingExtraError unless memelite can be imported."""
	try:
		import memelite.io  # noqa: F401
	except ImportError:
		raise missing_extra("memelite", extra="motifs", needed_for=needed_for) from None


def read_motifs(path: str | os.PathLike) -> list[Motif]:
	"""The motifs of a file in MEME's format, plain or gzipped, in its order.

	Parameters
	----------
	path: str or os.PathLike
		The file. What it says of the background and of the strands is not looked at.

	Returns
	-------
	list of Motif

	Raises
	------
	MissingFileError
		There is no such file.
	InputError
		It is not MEME, holds no motif, two motifs of one name or one that is cut off, or probabilities that are none.
	MissingExtraError
		memelite is not installed.
	"""
	path = os.fspath(path)
	data = read_bytes(path, what="motifs")
	require_memelite("reading motifs")
	titles = _titles(path, data)
	with tempfile.TemporaryDirectory() as folder:  # memelite opens files by their names, and plain ones alone
		plain = Path(folder) / "motifs.meme"
		plain.write_bytes(data)
		found = _read(path, plain)
	if lost := [title for title in titles if title not in found]:
		raise InputError(
			f"{path}: {len(lost):,} of {len(titles):,} motifs have no whole matrix (first: {lost[0]}); the file may be "
			"cut off, so copy or download it again"
		)
	motifs = [_motif(title, found[title]) for title in titles]
	if faults := [f"{motif} ({fault})" for motif in motifs if (fault := _fault(motif.pwm))]:
		more = f" and {len(faults) - _SHOWN:,} more" if len(faults) > _SHOWN else ""
		raise InputError(
			f"{path}: {', '.join(faults[:_SHOWN])}{more}; rows of a matrix must be the probabilities of A, C, G and T"
		)
	return [motif._replace(pwm=motif.pwm / motif.pwm.sum(axis=0)) for motif in motifs]


def information(pwm: np.ndarray) -> np.ndarray:
	"""The information of each position: 2 + Σ p log2 p, from 0 to 2.

	Parameters
	----------
	pwm: numpy.ndarray, shape=(4, w)
		Probabilities.

	Returns
	-------
	numpy.ndarray of float64, shape=(w,), bits

	References
	----------
	Schneider & Stephens (1990), "Sequence logos: a new way to display consensus sequences", Nucleic Acids Research 18.
	"""
	pwm = np.asarray(pwm, dtype=np.float64)
	terms = pwm * np.log2(pwm, out=np.zeros_like(pwm), where=pwm > 0)
	return np.clip(2 + terms.sum(axis=0), 0, 2)


def _titles(path: str, data: bytes) -> list[str]:
	"""What the MOTIF lines of a file say, their words joined by a space; InputError if there is none, or one twice."""
	titles = [" ".join(line.decode("utf-8", "replace").split()[1:]) for line in data.splitlines() if _begins(line)]
	if not titles:
		raise InputError(f"{path}: holds no motif; give a file in MEME's format, with a line 'MOTIF name' for each")
	if twice := [title for title, n in Counter(titles).items() if n > 1]:
		raise InputError(
			f"{path}: {len(twice):,} names are those of several motifs (first: {twice[0] or 'an empty one'}); "
			"give each its own"
		)
	return titles


def _begins(line: bytes) -> bool:
	return line[:5] == b"MOTIF" and (len(line) == 5 or line[5:6].isspace())


def _read(path: str, plain: Path) -> dict[str, np.ndarray]:
	"""What memelite reads: matrices of shape (4, w) by their titles."""
	from memelite.io import read_meme

	try:
		return read_meme(str(plain))
	except (ValueError, AttributeError, IndexError, TypeError) as error:
		raise InputError(
			f"{path}: is not in MEME's format ({error}); each motif needs a line 'letter-probability matrix: … w= 8', "
			"and as many lines of four numbers as w says"
		) from None


def _motif(title: str, pwm: np.ndarray) -> Motif:
	identifier, _, name = title.partition(" ")
	return Motif(identifier, name or identifier, np.asarray(pwm, dtype=np.float64))


def _fault(pwm: np.ndarray) -> str | None:
	"""What is wrong with a matrix, or None."""
	if not pwm.shape[1]:
		return "no position"
	if not np.isfinite(pwm).all() or (pwm < 0).any():
		return "a negative number, or none at all"
	sums = pwm.sum(axis=0)
	if (np.abs(sums - 1) > _TOLERANCE).any():
		at = int(np.abs(sums - 1).argmax())
		return f"position {at + 1} sums to {sums[at]:.3g}"
	return None
