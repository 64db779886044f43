"""TF-MoDISco in a process of its own: ``python -m cherimoya_cli.modisco_worker JOB``, JOB a JSON of `Job`'s fields.

Its threads, its forked children, its prints and its crashes stay apart from the command, which checks the input before
and the output after. The settings are those of the program ``modisco motifs``, so that the results are the same.
"""

import ctypes
import json
import operator
import os
import signal
import sys
import traceback
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
	from types import ModuleType

	import numpy as np

	from cherimoya_cli.commands.seqlets import StoredArray

AS_PROGRAM = {
	"sliding_window_size": 20,
	"flank_size": 5,
	"trim_to_window_size": 30,
	"initial_flank_to_add": 10,
	"final_flank_to_add": 0,
	"target_seqlet_fdr": 0.05,
	"n_leiden_runs": 2,
}
"""The defaults of ``modisco motifs`` where they are not those of the function."""

_THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PR_SET_PDEATHSIG = 1  # Linux: the signal that a process gets when its parent dies


class Job(NamedTuple):
	"""What to do.

	Attributes
	----------
	ohe, attr: str
		Files of one-hot sequences and of hypothetical contributions, n windows.
	start, end: int
		The W positions of each window that are used.
	n_seqlets: int
		Most seqlets of either sign.
	n_jobs: int
		Threads.
	output: str
		The HDF5 file to write.
	"""

	ohe: str
	attr: str
	start: int
	end: int
	n_seqlets: int
	n_jobs: int
	output: str


def main(job: Job) -> int:
	"""Do it; the exit code: 0 done, 4 TF-MoDISco failed."""
	for name in _THREADS:  # before numba and numpy are imported, which read them
		os.environ[name] = str(job.n_jobs)
	for number in (signal.SIGINT, signal.SIGTERM):  # end at once, in the middle of a kernel too
		signal.signal(number, signal.SIG_DFL)
	if sys.platform == "linux":
		os.register_at_fork(after_in_child=_end_with_parent)
	warnings.simplefilter("ignore")  # divisions by 0 on the way, which TF-MoDISco deals with
	try:
		discover(job)
	except MemoryError:
		print("out of memory", flush=True)
		return 4
	except Exception as error:
		place = traceback.extract_tb(error.__traceback__)[-1]
		name = os.path.join(*place.filename.split(os.sep)[-2:])
		print(f"{type(error).__name__}: {error} ({name}, line {place.lineno})", flush=True)
		return 4
	return 0


def _end_with_parent() -> None:
	"""Let a forked child of TF-MoDISco be killed when this process dies, so that none works on, or holds the output."""
	ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def discover(job: Job) -> None:
	"""Read the arrays, run TF-MoDISco on both signs, write what it finds."""
	import numba
	from modiscolite import aggregator
	from modiscolite.io import save_hdf5
	from modiscolite.tfmodisco import TFMoDISco

	from cherimoya_cli.commands.seqlets import StoredArray

	one_hot = central(StoredArray(job.ohe, "one-hot sequences"), job.start, job.end)
	scores = central(StoredArray(job.attr, "contributions"), job.start, job.end)
	print(f"TF-MoDISco: at work on {len(one_hot):,} windows of {job.end - job.start:,} bp", end="", flush=True)
	n = numba.get_num_threads()
	print(f" with {n} thread{'s' * (n != 1)}", flush=True)
	end_merging(aggregator)
	positive, negative = TFMoDISco(
		one_hot=one_hot,
		hypothetical_contribs=scores,
		max_seqlets_per_metacluster=job.n_seqlets,
		verbose=True,
		**AS_PROGRAM,
	)
	save_hdf5(job.output, positive, negative, job.end - job.start)


class _Unchanged(Exception):
	"""Patterns that a round of merging has left as they were."""


def end_merging(aggregator: "ModuleType") -> None:
	"""Let modisco-lite's merging of similar patterns end where it would go on for ever.

	It goes in rounds, until a round finds no patterns to merge. But where the merged pattern of two has no seqlet left,
	as all of them would leave their windows, the two stay; and as nothing is drawn at random, every further round is
	the same. What a round leaves as it was is the result. Where that does not happen, results are what they were.

	Parameters
	----------
	aggregator: module
		`modiscolite.aggregator`, in which functions are replaced; left alone where it does not have them.
	"""
	merge = getattr(aggregator, "SimilarPatternsCollapser", None)
	subsamples = getattr(aggregator, "_subsamples", None)  # called with the patterns as a round begins
	if merge is None or subsamples is None:
		return
	before: list[Any] | None = None
	merging = False

	def begin_round(patterns: list[Any], *args: Any, **options: Any) -> Any:
		nonlocal before
		if merging:
			if before is not None and len(before) == len(patterns) and all(map(operator.is_, before, patterns)):
				raise _Unchanged(patterns)
			before = list(patterns)
		return subsamples(patterns, *args, **options)

	def merge_to_an_end(*args: Any, **options: Any) -> Any:
		nonlocal before, merging
		before, merging = None, True
		try:
			return merge(*args, **options)
		except _Unchanged as unchanged:
			return unchanged.args[0], None  # how they came about, which is not used
		finally:
			before, merging = None, False

	aggregator._subsamples = begin_round
	aggregator.SimilarPatternsCollapser = merge_to_an_end


def central(array: "StoredArray", start: int, end: int) -> "np.ndarray":
	"""Some positions of a stored array (n, 4, W), as float32 of shape (n, end - start, 4).

	A view of an array (n, 4, end - start), as ``modisco motifs`` makes it: sums over it then have the same bits.
	"""
	import numpy as np

	result = np.empty((array.shape[0], 4, end - start), dtype=np.float32)
	first = 0
	for block in array.blocks():
		result[first : first + len(block)] = block[:, :, start:end]
		first += len(block)
	return result.transpose(0, 2, 1)  # (n, 4, W) -> (n, W, 4)


if __name__ == "__main__":
	sys.exit(main(Job(**json.loads(sys.argv[1]))))
