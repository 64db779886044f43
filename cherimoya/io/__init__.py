"""From genome files to batches: loci, sequences, tracks, windows, and the sampler over them.

Names are imported when first used, so that importing this package costs nothing.
"""

from importlib import import_module

_HOMES = {
	"Accounting": "windows",
	"Allele": "variants",
	"ChromNames": "names",
	"CompactBatch": "batches",
	"EpochBatchSampler": "sampler",
	"Genome": "genome",
	"Loci": "loci",
	"Motif": "motifs",
	"Negatives": "negatives",
	"PeakGenerator": "peaks",
	"PeakNegativeSampler": "sampler",
	"Region": "loci",
	"Tracks": "tracks",
	"VariantFile": "variants",
	"Windows": "windows",
	"estimate_bytes": "storage",
	"encode_batch": "batches",
	"extract_windows": "windows",
	"gc_matched_negatives": "negatives",
	"midpoints": "loci",
	"one_hot": "genome",
	"overlapping_regions": "loci",
	"parse_groups": "tracks",
	"parse_region": "loci",
	"read_loci": "loci",
	"read_motifs": "motifs",
	"tile_windows": "tiling",
	"to_device": "batches",
	"write_bed": "loci",
	"write_bigwig": "tracks",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
	if name not in _HOMES:
		raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
	return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
	return sorted([*globals(), *_HOMES])
