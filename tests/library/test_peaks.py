"""The training loader over files: the same examples whatever the workers and batches."""

import itertools

import numpy as np
import pytest
import torch

from cherimoya.errors import InputError
from cherimoya.io.batches import CompactBatch, to_device
from cherimoya.io.peaks import PeakGenerator

# More workers than this machine has cores is a warning of the loader's; here it is the point.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

OPTIONS = {
	"in_window": 120,
	"out_window": 60,
	"max_jitter": 10,
	"negative_ratio": 0.5,
	"random_state": 5,
	"num_workers": 0,
}


def _loader(tiny, **options):
	signals = [str(tiny.signal), [str(tiny.plus), str(tiny.minus)], str(tiny.signal)]
	call = {"signals": signals, "controls": [str(tiny.control)], **OPTIONS, **options}
	return PeakGenerator(tiny.peaks, tiny.negatives, tiny.fasta, **call)


def _epochs(loader, n):
	return [[torch.cat(parts) for parts in zip(*loader, strict=True)] for _ in range(n)]


def _same(a, b):
	return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def reference(tiny_genome):
	return _epochs(_loader(tiny_genome, batch_size=1000), 2)


@pytest.mark.parametrize("num_workers, batch_size", [(0, 1), (0, 7), (1, 7), (1, 64), (4, 7), (4, 40)])
def test_workers_and_batches_do_not_change_the_examples(tiny_genome, reference, num_workers, batch_size):
	loader = _loader(tiny_genome, num_workers=num_workers, batch_size=batch_size)
	epochs = _epochs(loader, 2)
	assert all(_same(a, b) for a, b in zip(epochs, reference, strict=True))
	assert not _same(*epochs)
	loader.batch_sampler.set_epoch(1)
	assert _same(_epochs(loader, 1)[0], reference[1])


@pytest.mark.parametrize("num_workers, prefetch_factor", [(0, 0), (0, 1), (0, 5), (1, 2), (2, 3)])
@pytest.mark.parametrize("compact", [False, True], ids=["encoded", "compact"])
@pytest.mark.parametrize("cached", [False, True], ids=["memory", "cache"])
def test_neither_the_way_nor_the_cache_changes_the_examples(
	tiny_genome, reference, tmp_path_factory, num_workers, prefetch_factor, compact, cached
):
	options = {"num_workers": num_workers, "prefetch_factor": prefetch_factor, "compact": compact, "batch_size": 13}
	cache = tmp_path_factory.getbasetemp() / "peaks_cache" if cached else None
	loader = _loader(tiny_genome, cache=cache, **options)
	assert loader.peak_windows.signals.dtype == (np.uint8 if cached else np.float32)
	for epoch in range(2):
		batches = list(loader)
		assert all(isinstance(batch, CompactBatch) == compact for batch in batches)
		assert len(batches) == len(loader) and max(map(len, batches)) == (13 if compact else 4)
		tensors = [to_device(batch, "cpu") for batch in batches]
		assert _same([torch.cat(parts) for parts in zip(*tensors, strict=True)], reference[epoch])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_ranks_share_each_batch(tiny_genome, reference, num_workers):
	ranks = [_loader(tiny_genome, num_workers=num_workers, rank=r, world_size=3, batch_size=10) for r in range(3)]
	for epoch in range(2):
		steps = [[torch.cat(parts) for parts in zip(*shares, strict=True)] for shares in zip(*ranks, strict=True)]
		assert len(steps) == len(ranks[0])
		assert _same([torch.cat(parts) for parts in zip(*steps, strict=True)], reference[epoch])


def test_a_loader_starts_in_the_middle_of_an_epoch(tiny_genome, reference):
	for num_workers in (0, 1):
		loader = _loader(tiny_genome, num_workers=num_workers, batch_size=10)
		loader.batch_sampler.start_at(1, 4)
		assert _same(_epochs(loader, 1)[0], [tensor[40:] for tensor in reference[1]])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("compact", [False, True], ids=["encoded", "compact"])
def test_batches_are_the_same_on_a_gpu(tiny_genome, reference, compact):
	for num_workers in (0, 1):
		loader = _loader(tiny_genome, num_workers=num_workers, compact=compact, batch_size=16)
		tensors = [to_device(batch, "cuda") for batch in loader]
		assert all(tensor.is_cuda for tensor in tensors[0])
		assert _same([torch.cat(parts).cpu() for parts in zip(*tensors, strict=True)], reference[0])


def test_an_epoch_given_up_half_way_does_not_shift_the_examples(tiny_genome, reference):
	loader = _loader(tiny_genome, num_workers=1, batch_size=7)
	list(itertools.islice(loader, 2))
	assert _same(_epochs(loader, 1)[0], reference[1])


def test_examples_are_the_files_values(tiny_genome):
	loader = _loader(tiny_genome, max_jitter=0, reverse_complement=False, negative_ratio=0, shuffle=False, batch_size=9)
	X, X_ctl, y, labels = _epochs(loader, 1)[0]
	assert labels.all() and len(X) == loader.accounting["peaks"].kept == len(loader.peak_windows)
	kept = np.flatnonzero(loader.peak_windows.mask)
	for row, locus in enumerate(kept):
		chrom, mid = tiny_genome.summits[locus]
		sequence = tiny_genome.sequences[chrom][mid - 60 : mid + 60]
		assert "".join("ACGT"[b] for b in X[row].argmax(0)) == sequence
		tracks = [tiny_genome.tracks[k][chrom][mid - 30 : mid + 30] for k in ("signal", "plus", "minus", "signal")]
		assert np.array_equal(y[row].numpy(), np.stack(tracks))
		assert np.array_equal(X_ctl[row, 0].numpy(), tiny_genome.tracks["control"][chrom][mid - 60 : mid + 60])
	assert tiny_genome.motif in sequence


def test_what_the_loader_says_about_itself(tiny_genome):
	loader = _loader(
		tiny_genome, chroms=["chr1", "chr2:0-8000"], exclusion_lists=str(tiny_genome.exclusion), batch_size=32
	)
	peaks, negatives = loader.accounting["peaks"], loader.accounting["negatives"]
	assert peaks.given == 83 and peaks.dropped["excluded"] == 1
	assert peaks.dropped["chromosome not selected"] == 19 + 12
	assert peaks.kept + sum(peaks.dropped.values()) == 83 and negatives.dropped["outlier"] == 0
	assert loader.signal_groups == (1, 2, 1) and loader.n_control_tracks == 1 and loader.control_groups == (1,)
	assert len(loader.dataset) == peaks.kept + int(0.5 * peaks.kept)
	assert len(loader.negative_windows) == negatives.kept and loader.peak_windows.max_jitter == 10
	assert len(loader) == -(-len(loader.dataset) // 32)
	assert not loader.pin_memory or torch.cuda.is_available()


def test_outliers_are_dropped_among_peaks_only(tiny_genome, tmp_path, make_bigwig):
	values = {c: v.copy() for c, v in tiny_genome.tracks["signal"].items()}
	values["chr2"][1200] = 5000  # in a peak
	values["chr2"][1500] = 5000  # in a negative
	path = str(make_bigwig(tmp_path / "spike.bw", tiny_genome.sizes, values))
	loader = _loader(tiny_genome, signals=path, controls=None)
	assert loader.accounting["peaks"].dropped["outlier"] == 1
	assert loader.accounting["negatives"].kept == 83
	assert len(next(iter(loader))) == 3


def test_negatives_are_not_read_at_a_ratio_of_zero(tiny_genome):
	call = {"signals": str(tiny_genome.signal), **OPTIONS, "negative_ratio": 0}
	loader = PeakGenerator(tiny_genome.peaks, "no such file", tiny_genome.fasta, **call)
	assert loader.negative_windows is None and loader.accounting["negatives"].given == 0
	assert loader.accounting["negatives"].table("Negatives")


def test_summits_and_bounds_on_counts(tiny_genome):
	call = {"signals": str(tiny_genome.signal), **OPTIONS, "max_jitter": 0}
	middle = PeakGenerator(tiny_genome.peaks, tiny_genome.negatives, tiny_genome.fasta, **call)
	summit = PeakGenerator(tiny_genome.narrowpeaks, tiny_genome.negatives, tiny_genome.fasta, summits=True, **call)
	assert np.array_equal(middle.peak_windows.codes, summit.peak_windows.codes)
	counts = middle.peak_windows.counts()[:, 0]
	low, high = np.quantile(counts, [0.2, 0.8])
	bounded = PeakGenerator(
		tiny_genome.peaks, tiny_genome.negatives, tiny_genome.fasta, min_counts=low, max_counts=high, **call
	)
	kept = bounded.peak_windows.counts()
	assert kept.min() >= low and kept.max() <= high
	assert bounded.accounting["negatives"].kept == 83


@pytest.mark.parametrize(
	"options, error, expected",
	[
		({"negative_ratio": -1}, ValueError, "negative_ratio"),
		({"max_jitter": -1}, ValueError, "max_jitter"),
		({"batch_size": 0}, ValueError, "batch_size"),
		({"num_workers": -1}, ValueError, "num_workers"),
		({"prefetch_factor": -1}, ValueError, "prefetch_factor"),
		({"num_workers": 1, "prefetch_factor": 0}, ValueError, "prefetch_factor"),
		({"rank": 2, "world_size": 2}, ValueError, "rank"),
		({"chroms": ["chr9"]}, InputError, "no locus is left"),
		({"in_window": 30_000}, InputError, "off the edge"),
	],
	ids=["ratio", "jitter", "batch", "workers", "ahead", "workers ahead", "rank", "chromosome", "window"],
)
def test_arguments_that_are_refused(tiny_genome, options, error, expected):
	with pytest.raises(error, match=expected):
		_loader(tiny_genome, **options)


def test_negatives_must_be_given_for_a_ratio(tiny_genome):
	with pytest.raises(ValueError, match="negatives is None"):
		PeakGenerator(tiny_genome.peaks, None, tiny_genome.fasta, str(tiny_genome.signal))
