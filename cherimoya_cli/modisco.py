"""TF-MoDISco's results: the patterns in its file, what they look like, and the known motifs nearest to them."""

import os
import warnings
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from cherimoya.errors import InputError, MissingExtraError, missing_extra

if TYPE_CHECKING:
	import numpy as np

	from cherimoya.io.motifs import Motif

CORE, FLANK = 20, 5
"""Lengths of TF-MoDISco's seqlets: the stretch whose contributions are summed up, and what is added to both sides."""

MIN_WIDTH = CORE + 2 * FLANK
"""Shortest window that holds one of TF-MoDISco's seqlets."""

MOST_IGNORED = 100
"""TF-MoDISco clusters the seqlets of a sign if it has more than these."""

TRIM = 0.3
"""A pattern's ends are cut off where contributions are below this fraction of its largest."""

_PACKAGES = ("modiscolite", "h5py", "hdf5plugin", "numba", "sklearn", "igraph", "leidenalg")
_OF_REPORT = ("modiscolite", "h5py", "hdf5plugin", "memelite", "pandas", "logomaker", "matplotlib")
_OLDEST = 3
_GROUPS = {"pos_patterns": 1, "neg_patterns": -1}

_PAIRS = {"AC": "M", "AG": "R", "AT": "W", "CG": "S", "CT": "Y", "GT": "K"}


class Pattern(NamedTuple):
	"""A motif that TF-MoDISco found, L bp long.

	Attributes
	----------
	name: str
		As TF-MoDISco names it, such as "pos_patterns.pattern_0".
	sign: int
		1 if its contributions raise the prediction, -1 if they lower it.
	n_seqlets: int
		The seqlets that it is made of.
	cwm: numpy.ndarray of float64, shape=(L, 4)
		Their mean contributions of A, C, G and T.
	ppm: numpy.ndarray of float64, shape=(L, 4)
		The fractions of A, C, G and T among them.
	"""

	name: str
	sign: int
	n_seqlets: int
	cwm: "np.ndarray"
	ppm: "np.ndarray"

	@property
	def core(self) -> slice:
		"""The positions that are left when ends with contributions below `TRIM` times the largest are cut off."""
		import numpy as np

		sizes = np.abs(self.cwm).sum(axis=1)  # (L, 4) -> (L,)
		kept = np.flatnonzero(sizes >= TRIM * sizes.max())
		return slice(int(kept[0]), int(kept[-1]) + 1)

	@property
	def consensus(self) -> str:
		"""The bases of its core in IUPAC's letters; see `consensus_of`."""
		return consensus_of(self.ppm[self.core])


class Match(NamedTuple):
	"""A known motif near a pattern: its place in the database, and Tomtom's p-value and q-value."""

	motif: int
	p_value: float
	q_value: float


def require_modisco(*, report: bool) -> None:
	"""MissingExtraError unless TF-MoDISco, or what draws its report, is installed. Nothing large is imported.

	Parameters
	----------
	report: bool
		Whether the report is wanted, rather than TF-MoDISco itself.
	"""
	needed_for = "the report of TF-MoDISco" if report else "TF-MoDISco"
	for package in _OF_REPORT if report else _PACKAGES:
		if not _installed(package):
			name = "modisco-lite" if package == "modiscolite" else package
			raise missing_extra(name, extra="motifs", needed_for=needed_for)
	try:
		found = version("modisco-lite")
		major = int(found.split(".")[0])
	except (PackageNotFoundError, ValueError):  # a copy of its own making; take it as it is
		return
	if major < _OLDEST:
		raise MissingExtraError(
			f"{needed_for} needs modisco-lite {_OLDEST}.0 or later, and {found} is installed; "
			"replace it with: pip install --upgrade 'cherimoya[motifs]'"
		)


def _installed(package: str) -> bool:
	try:
		return find_spec(package) is not None
	except (ImportError, ValueError):
		return False


def most_seqlets(width: int) -> int:
	"""The most of TF-MoDISco's seqlets in a window of `width` bp, as their cores begin 16 bp apart or more."""
	return (width - MIN_WIDTH) // (CORE // 2 + FLANK + 1) + 1


def read_patterns(path: str | os.PathLike) -> list[Pattern]:
	"""The patterns in a file of TF-MoDISco's results: those of positive contributions first, by number.

	Parameters
	----------
	path: str or os.PathLike
		An HDF5 file that ``cherimoya motifs`` or ``modisco motifs`` wrote.

	Returns
	-------
	list of Pattern
		None where it found none.

	Raises
	------
	MissingFileError
		There is no such file.
	InputError
		It is no such file, or broken.
	MissingExtraError
		h5py is not installed.
	"""
	from cherimoya.io._files import check_exists

	check_exists(path, what="results of TF-MoDISco")
	try:
		import h5py
	except ImportError:
		raise missing_extra("h5py", extra="motifs", needed_for="reading TF-MoDISco's results") from None
	try:
		with h5py.File(path) as file:
			if "window_size" not in file.attrs and not any(group in file for group in _GROUPS):
				raise InputError(f"{path}: holds no results of TF-MoDISco; give a file that 'cherimoya motifs' writes")
			return [
				_read_pattern(f"{group}.{name}", sign, file[group][name])
				for group, sign in _GROUPS.items()
				for name in sorted(file.get(group, ()), key=_number)
			]
	except InputError:
		raise
	except (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
		raise InputError(
			f"{path}: is no HDF5 file of TF-MoDISco's results, or broken ({error}); run 'cherimoya motifs' again"
		) from None


def _number(name: str) -> int:
	"""The number at the end of a pattern's name."""
	return int(name.rsplit("_", 1)[-1])


def _read_pattern(name: str, sign: int, group: "object") -> Pattern:
	"""A pattern out of its group of an HDF5 file."""
	import numpy as np

	cwm, ppm = (np.asarray(group[key][:], dtype=np.float64) for key in ("contrib_scores", "sequence"))
	if cwm.ndim != 2 or cwm.shape[1] != 4 or cwm.shape != ppm.shape or not len(cwm):
		raise ValueError(f"{name} has matrices of the shapes {cwm.shape} and {ppm.shape}")
	return Pattern(name, sign, int(group["seqlets/n_seqlets"][0]), cwm, ppm)


def consensus_of(ppm: "np.ndarray") -> str:
	"""The letters of a matrix of probabilities.

	A base stands where it has at least half of the probability and twice that of the second; two bases share a letter
	where they have three quarters of it; N stands elsewhere.

	Parameters
	----------
	ppm: numpy.ndarray, shape=(L, 4)
		Probabilities of A, C, G and T.

	Returns
	-------
	str
		L of IUPAC's letters.

	References
	----------
	Cavener (1987), "Comparison of the consensus sequence flanking translational start sites in Drosophila and
	vertebrates", Nucleic Acids Research 15.
	"""
	letters = []
	for row in ppm:
		first, second = sorted(range(4), key=lambda base: -row[base])[:2]
		if row[first] >= 0.5 and row[first] >= 2 * row[second]:
			letters.append("ACGT"[first])
		elif row[first] + row[second] >= 0.75:
			letters.append(_PAIRS["".join(sorted("ACGT"[base] for base in (first, second)))])
		else:
			letters.append("N")
	return "".join(letters)


def nearest_motifs(
	patterns: Sequence[Pattern], motifs: "Sequence[Motif]", *, n_matches: int = 3, n_jobs: int | None = None
) -> list[list[Match]]:
	"""The known motifs nearest to each pattern's core by Tomtom, in either orientation, the nearest first.

	Parameters
	----------
	patterns: sequence of Pattern
		What TF-MoDISco found.
	motifs: sequence of Motif
		The database, of M motifs.
	n_matches: int
		How many for each pattern, or all if there are fewer. Default is 3.
	n_jobs: int or None
		Threads; None for all cores. Default is None.

	Returns
	-------
	list of list of Match
		A list for each pattern. A q-value is the smallest false discovery rate at which the match is one, among the
		pattern's p-values for all M motifs.

	References
	----------
	Gupta et al. (2007), "Quantifying similarity between motifs", Genome Biology 8. Benjamini & Hochberg (1995),
	"Controlling the false discovery rate", Journal of the Royal Statistical Society B 57.
	"""
	import numpy as np
	from memelite import tomtom

	if not patterns:
		return []
	queries = [np.ascontiguousarray(pattern.ppm[pattern.core].T) for pattern in patterns]  # (L, 4) -> (4, L)
	with warnings.catch_warnings():
		warnings.filterwarnings("ignore", "tomtom was given", UserWarning)  # a small database: the caller says so
		p_values = tomtom(queries, [motif.pwm for motif in motifs], n_jobs=threads(n_jobs))[0]
	found = []
	for values in np.asarray(p_values):
		q_values = _q_values(values)
		order = np.argsort(values, kind="stable")[:n_matches]
		found.append([Match(int(i), float(values[i]), float(q_values[i])) for i in order])
	return found


def threads(n_jobs: int | None) -> int:
	"""The threads that numba may use: n_jobs, or all cores."""
	from numba import config

	from cherimoya.io._workers import n_cores

	return max(1, min(n_jobs or n_cores(), config.NUMBA_NUM_THREADS))


def _q_values(p_values: "np.ndarray") -> "np.ndarray":
	"""Benjamini and Hochberg's q-values: min over j >= i of p_(j) M / j, for p-values in order."""
	import numpy as np

	order = np.argsort(p_values, kind="stable")
	scaled = p_values[order] * len(p_values) / np.arange(1, len(p_values) + 1)
	result = np.empty(len(p_values))
	result[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
	return result
