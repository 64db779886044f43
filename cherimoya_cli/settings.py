"""Every setting of the command line, declared once.

A key is declared in one class below (or, for training, in `cherimoya.training.options`), and each
command's settings inherit the classes that it reads. The loader, the JSON Schema, ``--help``, the
tables of the docs and the JSON that ``pipeline-json`` writes all follow from these declarations.

What a declaration may carry in ``json_schema_extra``: ``unit``; ``expects``, the accepted values in
words where the type alone does not say it.
"""

import json
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, WithJsonSchema
from pydantic.fields import FieldInfo

from cherimoya.training.options import TrainingOptions


def _as_list(value: Any) -> Any:
	"""A single text as a list of one, anything else as it is."""
	return [value] if isinstance(value, str) else value


def _all_jobs(value: Any) -> Any:
	"""None for -1, with which other programs ask for all cores."""
	return None if value == -1 and not isinstance(value, bool) else value


_TEXTS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
Files = Annotated[
	list[str], BeforeValidator(_as_list), Field(min_length=1), WithJsonSchema({"anyOf": [{"type": "string"}, _TEXTS]})
]
GroupedFiles = Annotated[
	list[str | list[str]],
	BeforeValidator(_as_list),
	Field(min_length=1),
	WithJsonSchema(
		{
			"anyOf": [
				{"type": "string"},
				{"type": "array", "minItems": 1, "items": {"anyOf": [{"type": "string"}, _TEXTS]}},
			]
		}
	),
]
ControlFiles = Annotated[
	list[str | list[str] | None],
	BeforeValidator(_as_list),
	Field(min_length=1),
	WithJsonSchema(
		{
			"anyOf": [
				{"type": "string"},
				{"type": "array", "minItems": 1, "items": {"anyOf": [{"type": "string"}, _TEXTS, {"type": "null"}]}},
			]
		}
	),
]
One = typing.TypeVar("One")
PerGroup = One | list[One]
"""A value for all groups of reads, or a list with one for each."""

Places = Annotated[
	list[str], BeforeValidator(_as_list), WithJsonSchema({"anyOf": [{"type": "string"}, {**_TEXTS, "minItems": 0}]})
]

StepNames = Annotated[
	list[str], BeforeValidator(_as_list), WithJsonSchema({"anyOf": [{"type": "string"}, {**_TEXTS, "minItems": 0}]})
]

_FILES = {"expects": "a file, or a list of at least one file", "files": True}
_GROUPS = {
	"expects": 'a list of files, in which a stranded pair is a list of its own: ["a.bw", ["b.+.bw", "b.-.bw"]]',
	"files": True,
}
_CONTROLS = {
	"expects": "files written like signals; with several groups of reads one entry is for all of them, or there is an "
	"entry for each, null for a group without control",
	"files": True,
}
_EACH = {"per_group": True}
_PLACES = {"expects": 'a list of chromosomes or regions, such as ["chr8", "chr22:33,000,000-37,000,000"]'}


class Origin(NamedTuple):
	"""Where a value came from: ``kind`` in words, and the dotted ``key`` under which it was written."""

	kind: str
	key: str


class Settings(BaseModel):
	"""Base of every command's settings: strict types, no unknown keys, one attribute per key."""

	model_config = ConfigDict(
		extra="forbid", strict=True, validate_default=False, allow_inf_nan=False, protected_namespaces=()
	)

	required: ClassVar[tuple[str, ...]] = ()
	"""Keys without which the command cannot run by itself (a pipeline makes some of them on the way)."""
	forced: ClassVar[dict[str, Any]] = {}
	"""Values that the pipeline sets whatever the JSON says."""

	_origins: dict[str, Origin] = PrivateAttr(default_factory=dict)
	_notices: list[str] = PrivateAttr(default_factory=list)
	_source: str = PrivateAttr(default="settings")

	@property
	def origins(self) -> dict[str, Origin]:
		"""Where each key's value came from."""
		return self._origins

	@property
	def notices(self) -> list[str]:
		"""What the user should know about keys that were accepted but have no effect, a line each."""
		return self._notices

	@property
	def source(self) -> str:
		"""The name of the JSON file, for messages."""
		return self._source


# Declarations, by subject. A class holds the keys that are always read together.


class NameKeys(BaseModel):
	"""Where results go."""

	name: str = Field(
		"cherimoya",
		min_length=1,
		description="Prefix of every output file; may begin with a folder, which is made if missing.",
		json_schema_extra={"expects": "a text that is not empty"},
	)


class SequenceKeys(BaseModel):
	"""The genome."""

	sequences: str | None = Field(
		None,
		min_length=1,
		description="FASTA file of the genome, plain or compressed with bgzip.",
		json_schema_extra={"expects": "the path of a FASTA file", "files": True},
	)
	chrom_aliases: bool | str | dict[str, str] = Field(
		False,
		description="Other names of the FASTA's chromosomes in other files: true (1 is chr1, MT is chrM), a mapping, "
		"or a table of names; false: none.",
		json_schema_extra={
			"expects": 'true, false, a mapping such as {"1": "chr1"}, or the path of a table, a chromosome a line',
			"files": True,
		},
	)


class LociKeys(BaseModel):
	"""The loci."""

	loci: Files | None = Field(
		None,
		description="BED or narrowPeak file, or a list of them; null in a pipeline: called from the reads with MACS3.",
		json_schema_extra=_FILES,
	)
	exclusion_lists: Files | None = Field(
		None,
		description="BED files of regions that no window may overlap; null: none.",
		json_schema_extra=_FILES,
	)


class SummitKeys(BaseModel):
	"""Which base a window is centred on."""

	summits: bool = Field(
		False, description="Centre windows on the summit (10th column of a narrowPeak) rather than on the middle."
	)


class NegativeKeys(BaseModel):
	"""Background loci."""

	negatives: Files | None = Field(
		None,
		description="BED files of background loci; null: none, and in a pipeline: found by matching GC content.",
		json_schema_extra=_FILES,
	)


class TrackKeys(BaseModel):
	"""The experiment."""

	signals: GroupedFiles | None = Field(
		None,
		description="bigWig files, an entry per assay and a (+, -) pair as a list of two; a pipeline also takes reads.",
		json_schema_extra=_GROUPS,
	)


class SignalKeys(TrackKeys):
	"""The experiment, and how its values are taken."""

	absolute_signals: bool = Field(
		False,
		description="Take absolute values of bigWigs, for minus strands below 0; false: they are an error.",
	)


class ControlKeys(BaseModel):
	"""The control experiment."""

	controls: ControlFiles | None = Field(
		None, description="Control tracks, written like signals; null: none.", json_schema_extra=_CONTROLS
	)


class WindowKeys(BaseModel):
	"""Sizes of windows."""

	in_window: int = Field(
		2114, ge=1, description="Length of the sequence that the model reads.", json_schema_extra={"unit": "bp"}
	)
	out_window: int = Field(
		1000, ge=1, description="Length of the profile that the model predicts.", json_schema_extra={"unit": "bp"}
	)


class DeviceKeys(BaseModel):
	"""Where and how the model runs."""

	device: str = Field(
		"auto",
		pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
		description='"cuda", "cuda:1", "cpu", "mps", or "auto" (a GPU if there is one); a missing GPU is an error.',
		json_schema_extra={"expects": 'one of "auto", "cpu", "cuda", "cuda:1" (or another number), "mps"'},
	)
	batch_size: int = copy(TrainingOptions.model_fields["batch_size"])
	dtype: Literal["float32", "bfloat16", "float16"] = copy(TrainingOptions.model_fields["dtype"])


class VerboseKeys(BaseModel):
	"""How much is printed."""

	verbose: bool = Field(True, description="Print progress and the accounting of loci.")


class CacheKeys(BaseModel):
	"""Where extracted windows are kept."""

	cache: str | None = Field(
		"auto",
		min_length=1,
		description='Folder that keeps extracted windows for later runs; "auto": the user\'s cache folder, if they '
		"take 64 MiB or more; null: none.",
		json_schema_extra={"expects": 'the path of a folder, or "auto"'},
	)


class ResumeKeys(BaseModel):
	"""Going on from an interrupted run."""

	resume: bool | Literal["auto"] = Field(
		"auto",
		description="auto: go on from what this very run had finished when it was interrupted, else begin anew; true: "
		"go on (fit also with other max_epochs), or fail; false: begin anew.",
		json_schema_extra={"expects": 'true, false or "auto"'},
	)


def _check_shard(text: str) -> str:
	"""The text of a shard, "i/n" with 1 <= i <= n."""
	number, count = map(int, text.split("/"))
	if number > count:
		raise ValueError("there is no such shard")
	return text


Shard = Annotated[str, Field(pattern=r"^[1-9][0-9]*/[1-9][0-9]*$"), AfterValidator(_check_shard)]


class ChunkKeys(ResumeKeys):
	"""How the work over many loci, motifs or alleles is divided."""

	chunk_size: int | None = Field(
		None,
		ge=1,
		description="Loci, tiles, motifs or alleles whose results go to the disk together, rounded up to whole "
		"batches; null: chosen by what one costs.",
	)
	shard: Shard | None = Field(
		None,
		description='The part of the loci, tiles, motifs or alleles that this process does: "1/3" is the first of '
		"three, for --merge to put together; null, and in a pipeline: all.",
		json_schema_extra={"expects": 'a text "i/n" such as "2/3", with i from 1 to n'},
	)


class SeedKeys(BaseModel):
	"""Randomness."""

	random_state: int | None = Field(
		0, ge=0, description="Seed of every random draw; null: one is drawn, printed and recorded."
	)


class TrainedModelKeys(BaseModel):
	"""The trained model."""

	model: str | None = Field(
		None,
		min_length=1,
		description="Checkpoint of a trained model; null: {name}.torch. A pipeline with a model trains none.",
		json_schema_extra={"expects": "the path of a checkpoint", "files": True},
	)


class SplitKeys(BaseModel):
	"""Which parts of the genome train, validate and test. The defaults are for the human genome, hg38."""

	training_chroms: Places | None = Field(
		[f"chr{c}" for c in (2, 4, 5, 7, *range(9, 20), 21, 22, "X", "Y")],
		min_length=1,
		description="Chromosomes, or regions such as chr22:0-33,000,000, whose loci train; null: training_loci.",
		json_schema_extra={**_PLACES, "split": "train"},
	)
	validation_chroms: Places | None = Field(
		["chr8", "chr20"],
		min_length=1,
		description="Chromosomes or regions that choose the best epoch; null: validation_loci.",
		json_schema_extra={**_PLACES, "split": "valid"},
	)
	test_chroms: Places | None = Field(
		["chr1", "chr3", "chr6"],
		description="Chromosomes or regions that are used for the final measures alone; null: no test split.",
		json_schema_extra={**_PLACES, "split": "test"},
	)
	folds: str | None = Field(
		None,
		min_length=1,
		description='JSON file {"train": [...], "valid": [...], "test": [...]} instead of three keys; null: none.',
		json_schema_extra={"expects": "the path of a JSON file of folds", "files": True},
	)
	training_loci: Files | None = Field(
		None,
		description="BED files of the loci that train the model, for splits by loci; null: splits by chromosomes.",
		json_schema_extra={**_FILES, "split_loci": "train"},
	)
	validation_loci: Files | None = Field(
		None,
		description="BED files of the loci that choose the best epoch, given with training_loci; null: none.",
		json_schema_extra={**_FILES, "split_loci": "valid"},
	)
	test_loci: Files | None = Field(
		None,
		description="BED files of the loci for the final measures, given with training_loci; null: no test split.",
		json_schema_extra={**_FILES, "split_loci": "test"},
	)
	allow_shared_windows: bool = Field(
		False, description="Accept input windows of one split's loci that overlap another's; false: an error."
	)


class CountLimitKeys(BaseModel):
	"""Which loci are kept by their counts."""

	min_counts: float | None = Field(
		None,
		ge=0,
		description="Drop loci with fewer reads in the output window, in any group; null: no limit.",
		json_schema_extra={"unit": "reads"},
	)
	max_counts: float | None = Field(
		None,
		ge=0,
		description="Drop loci with more reads in the output window, in any group; null: no limit.",
		json_schema_extra={"unit": "reads"},
	)


class ModelKeys(BaseModel):
	"""The shape of the model."""

	n_filters: int = Field(96, ge=1, description="Channels of the model.")
	n_layers: int = Field(9, ge=0, le=20, description="Blocks; block i looks 2**i bp to each side.")
	expansion: int = Field(2, ge=1, description="Hidden width of a block's projections, in multiples of n_filters.")
	residual_scale: float = Field(0.15, description="Factor on what each block adds.")
	profile_kernel_size: int = Field(
		1, ge=1, description="Width of the profile head's convolution, an odd number.", json_schema_extra={"unit": "bp"}
	)
	single_count_output: bool = Field(
		True, description="Predict one count for each group of signals; false: one for each track."
	)


class SamplingKeys(BaseModel):
	"""How training examples are drawn."""

	max_jitter: int = Field(
		50, ge=0, description="Farthest that a training peak is moved to either side.", json_schema_extra={"unit": "bp"}
	)
	negative_ratio: float = Field(
		0.1, ge=0, description="Background loci drawn each epoch, as a fraction of the number of peaks; 0: none."
	)
	reverse_complement: bool = Field(True, description="Flip each training example with probability 1/2.")
	num_workers: int = Field(
		1, ge=0, description="Processes that prepare batches; 0: the training process itself does it."
	)


class ReverseComplementKeys(BaseModel):
	"""Averaging over strands."""

	reverse_complement_average: bool = Field(
		False, description="Average predictions over both strands of the sequence."
	)


class VariantKeys(BaseModel):
	"""Which variants are scored, by which models, and where the scores go."""

	variants: str | None = Field(
		None,
		min_length=1,
		description="VCF, or a table with the columns chrom, pos (from 1), ref and alt; plain, gzipped or bgzipped.",
		json_schema_extra={"expects": "the path of a VCF or of a table with a header", "files": True},
	)
	models: Files | None = Field(
		None,
		description="Checkpoints whose scores are averaged, such as those of several folds; null: model alone.",
		json_schema_extra={"expects": "a checkpoint, or a list of at least one checkpoint", "files": True},
	)
	n_background: int | None = Field(
		None,
		ge=1,
		description="Compare each score with those of this many variants in shuffled windows; null: no percentiles.",
		json_schema_extra={"unit": "variants"},
	)
	tsv_filename: str | None = Field(
		None,
		min_length=1,
		description="Table of scores to write, bgzipped if it ends in .gz; null: {name}.variants.tsv.",
	)
	vcf_filename: str | None = Field(
		None,
		min_length=1,
		description="VCF to write with the scores among its INFO, bgzipped if it ends in .gz; null: none.",
	)


class PlaceKeys(BaseModel):
	"""Which loci a command reads."""

	chroms: Places | None = Field(
		None,
		min_length=1,
		description="Chromosomes or regions whose loci are used; null: all (evaluate: the validation and test splits).",
		json_schema_extra=_PLACES,
	)


class PredictionKeys(BaseModel):
	"""What is predicted besides loci, and how predictions are kept."""

	regions: Places | None = Field(
		None,
		min_length=1,
		description='Chromosomes or regions to predict throughout, in tiles, and not loci; ["*"]: the whole genome; '
		"null: the loci.",
		json_schema_extra=_PLACES,
	)
	overlap: int | None = Field(
		None,
		ge=0,
		description="Bases that neighbouring tiles of regions share, blended; null: half of out_window.",
		json_schema_extra={"unit": "bp"},
	)
	output_format: Literal["auto", "npz", "hdf5"] | None = Field(
		"auto",
		description="File of the logits and log counts of each locus or tile, {name}.predictions.npz or .h5; auto: npz "
		"for loci, none for regions; null: none.",
	)


class EvaluationKeys(BaseModel):
	"""What is measured."""

	baselines: bool = Field(
		True,
		description="Also measure two baselines fitted on the training loci: GC and CpG content, and the mean profile.",
	)


class AttributionKeys(BaseModel):
	"""How contributions are computed."""

	algorithm: Literal["saturation_mutagenesis", "deep_lift_shap", "integrated_gradients"] = Field(
		"saturation_mutagenesis",
		description="How contributions are computed: every substitution predicted, or a comparison with references.",
	)
	references: Literal["shuffles", "zeros"] = Field(
		"shuffles",
		description="What deep_lift_shap and integrated_gradients compare with: shuffles of each sequence that keep "
		"its dinucleotides, or zeros.",
	)
	n_shuffles: int = Field(
		20, ge=1, description="Shuffles of each sequence.", json_schema_extra={"unit": "references"}
	)
	n_steps: int = Field(20, ge=1, description="Points on the path from a reference, for integrated_gradients.")
	warning_threshold: float = Field(
		0.001,
		ge=0,
		description="Warn when contributions miss the difference from a reference by more, in units of the output.",
	)
	output: Literal["counts", "logcounts", "profile"] = Field(
		"counts", description="The prediction that is explained; logcounts is another name of counts."
	)
	group: int | None = Field(
		None,
		ge=0,
		description="The group of signals that is explained, from 0; null: all (counts: their sum; profile: as one).",
	)
	attr_window: int | None = Field(
		400,
		ge=1,
		description="Central bases of each locus that get a score; null, or in_window is shorter: all of in_window.",
		json_schema_extra={"unit": "bp"},
	)
	max_loci: int | None = Field(
		None,
		ge=1,
		description="Keep this many loci, those with the most reads first; null: all.",
		json_schema_extra={"unit": "loci"},
	)


class ArrayFileKeys(BaseModel):
	"""Where contributions are written, and read."""

	ohe_filename: str | None = Field(
		None, min_length=1, description="File of the one-hot sequences; null: {name}.attributions.ohe.npz."
	)
	attr_filename: str | None = Field(
		None, min_length=1, description="File of the contributions; null: {name}.attributions.attr.npz."
	)


class AttributionFileKeys(ArrayFileKeys):
	"""The same, and of which loci they are."""

	idx_filename: str | None = Field(
		None, min_length=1, description="File of the mask over the loci; null: {name}.attributions.idxs.npy."
	)


class OutputKeys(BaseModel):
	"""The main result of a command."""

	output_filename: str | None = Field(
		None,
		min_length=1,
		description="File to write (marginalize: folder); null: {name} and an ending of the command's own, such as "
		".negatives.bed.",
	)


class MotifKeys(BaseModel):
	"""The known motifs."""

	motifs: str | None = Field(
		None,
		min_length=1,
		description="Motif database in MEME format, plain or gzipped; null: none, and no step that needs one.",
		json_schema_extra={"expects": "the path of a motif database", "files": True},
	)


class SeqletKeys(BaseModel):
	"""How stretches of high contribution are found."""

	bed_filename: str | None = Field(
		None, min_length=1, description="BED of the attributed windows; null: {name}.attributions.bed."
	)
	threshold: float = Field(0.01, gt=0, lt=1, description="The p-values of seqlets are below it.")
	min_seqlet_len: int = Field(4, ge=1, description="Length of the shortest seqlet.", json_schema_extra={"unit": "bp"})
	max_seqlet_len: int = Field(25, ge=1, description="Length of the longest seqlet.", json_schema_extra={"unit": "bp"})
	additional_flanks: int = Field(
		3, ge=0, description="Bases added to either side of each seqlet.", json_schema_extra={"unit": "bp"}
	)


class SeqletFileKeys(BaseModel):
	"""The seqlets to name."""

	seqlet_filename: str | None = Field(
		None, min_length=1, description="BED of the seqlets to annotate; null: {name}.seqlets.bed."
	)


class AnnotationKeys(BaseModel):
	"""How seqlets are compared with known motifs by Tomtom."""

	n_nearest: int = Field(
		1, ge=1, description="Motifs named for each seqlet, the nearest first.", json_schema_extra={"unit": "motifs"}
	)
	match_threshold: float = Field(
		1.0,
		gt=0,
		description="Largest E-value of a match that counts in the table of motifs: its p-value times the number of "
		"motifs in the database.",
	)
	n_score_bins: int = Field(100, ge=10, le=1000, description="Bins of Tomtom's scores of columns.")
	n_median_bins: int = Field(1000, ge=10, le=100_000, description="Bins for the medians of Tomtom's scores.")
	n_target_bins: int = Field(100, ge=10, le=5000, description="Bins that Tomtom rounds the motifs' columns to.")
	n_cache: int = Field(
		250, ge=1, le=1000, description="Room that Tomtom sets aside at first; no result depends on it."
	)


class ModiscoKeys(BaseModel):
	"""How TF-MoDISco finds motifs."""

	n_seqlets: int = Field(
		100_000,
		ge=20,
		description="Most seqlets of either sign that are clustered.",
		json_schema_extra={"unit": "seqlets"},
	)
	modisco_window: int | None = Field(
		None,
		ge=30,
		description="Central bases of each attributed window that are used; null: all.",
		json_schema_extra={"unit": "bp"},
	)


class ModiscoReportKeys(BaseModel):
	"""The report of TF-MoDISco."""

	output_folder: str | None = Field(
		None, min_length=1, description="Folder of TF-MoDISco's report; null: {name}_modisco."
	)
	n_matches: int = Field(
		3, ge=1, description="Known motifs shown beside each pattern.", json_schema_extra={"unit": "motifs"}
	)


class MarginalizationKeys(BaseModel):
	"""How motifs are inserted into background loci."""

	n_loci: int = Field(
		100, ge=1, description="Background loci that each motif is put into.", json_schema_extra={"unit": "loci"}
	)
	shuffle: bool = Field(False, description="Shuffle the background sequences first, keeping their dinucleotides.")
	min_information: float = Field(
		0.25,
		ge=0,
		le=2,
		description="Positions of a motif with less information keep the base of the background; 0: no position does.",
		json_schema_extra={"unit": "bits"},
	)
	attributions: bool = Field(
		False, description="Also compute the contributions of the bases of each inserted motif; slow."
	)


class JobKeys(BaseModel):
	"""How many processes read."""

	n_jobs: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_all_jobs)] = Field(
		None,
		description="Processes or threads that share the work; null, or -1: one per CPU core, or fewer where that is "
		"quicker.",
		json_schema_extra={"expects": "a whole number of at least 1, or -1"},
	)


class UnknownBaseKeys(BaseModel):
	"""Which windows hold too many unknown bases."""

	max_n_perc: float = Field(
		0.1,
		ge=0,
		le=1,
		description="Largest fraction of unknown bases (N) in a background locus, or in a tile of regions.",
	)


class MatchingKeys(BaseModel):
	"""How background loci are found."""

	bin_width: float = Field(0.02, gt=0, le=1, description="Width of the bins of GC content that are matched.")
	beta: float = Field(
		0.5, ge=0, description="A background locus has fewer reads than beta times the 1st percentile of the loci's."
	)
	n: int | None = Field(
		None, ge=1, description="Background loci wanted; null: as many as loci.", json_schema_extra={"unit": "loci"}
	)
	tilings: int = Field(
		1,
		ge=1,
		description="Tilings of the genome; above 1, bins of GC content that are short of background take tiles of "
		"shifted tilings before they borrow from other bins.",
	)
	plot_filename: str | None = Field(
		None,
		min_length=1,
		description="Picture (.png, .pdf or .svg) of the GC content of loci and background to draw; null: none.",
	)


class ReadKeys(BaseModel):
	"""Which positions reads count at."""

	unstranded: PerGroup[bool] = Field(
		False,
		description="Add both strands into one track; false: a (+, -) pair of tracks.",
		json_schema_extra=_EACH,
	)
	fragments: PerGroup[bool] = Field(
		False,
		description="A line, or proper pair, is a fragment whose two ends count; false: the 5' ends of reads count.",
		json_schema_extra=_EACH,
	)
	pos_shift: PerGroup[int] = Field(
		0,
		description="Shift of + strand ends (of the left end of fragments).",
		json_schema_extra={**_EACH, "unit": "bp"},
	)
	neg_shift: PerGroup[int] = Field(
		0,
		description="Shift of - strand ends (of the right end of fragments).",
		json_schema_extra={**_EACH, "unit": "bp"},
	)


class ConversionKeys(BaseModel):
	"""How counts of reads become bigWigs."""

	scale_factor: PerGroup[Annotated[float, Field(gt=0)]] = Field(
		1.0, description="Factor on every count; 1: none.", json_schema_extra=_EACH
	)
	read_depth: PerGroup[bool] = Field(
		False,
		description="Divide the counts by the number of reads, before scale_factor.",
		json_schema_extra=_EACH,
	)


class PeakCallingKeys(BaseModel):
	"""How MACS3 calls peaks."""

	paired_end: PerGroup[bool] = Field(
		False, description="Call peaks on the fragments that read pairs span.", json_schema_extra=_EACH
	)
	callpeaks_format: PerGroup[Annotated[str, Field(min_length=1)] | None] = Field(
		None,
		description="MACS3's name of the format of the reads (-f); null: found out from the files.",
		json_schema_extra=_EACH,
	)
	callpeaks_unit: PerGroup[Literal["auto", "cuts", "fragments", "reads"]] = Field(
		"auto",
		description="What MACS3 piles up: shifted ends, each smoothed over 150 bp (cuts), fragments, or single reads. "
		"auto: cuts if unstranded with a shift, else fragments if fragments or paired_end, else reads.",
		json_schema_extra=_EACH,
	)
	callpeaks_gsize: Annotated[str | float | None, Field(union_mode="left_to_right")] = Field(
		None,
		description='Genome size for MACS3 (-g): "hs", "mm", "ce", "dm" or a number; null: the FASTA\'s known bases.',
		json_schema_extra={"expects": '"hs", "mm", "ce", "dm" or a number', "unit": "bp"},
	)
	callpeaks_q: PerGroup[Annotated[float, Field(gt=0, le=1)]] = Field(
		0.05,
		description="Largest q-value (false discovery rate) of a peak, for MACS3 (-q).",
		json_schema_extra=_EACH,
	)
	callpeaks_arguments: list[str] | None = Field(
		None,
		description='More arguments for MACS3 callpeak, such as ["--nomodel", "--extsize", "200"]; null: none.',
		json_schema_extra={"expects": "a list of texts"},
	)


class RunKeys(BaseModel):
	"""How a pipeline runs."""

	skip_steps: StepNames | None = Field(
		None,
		description='Steps to leave out, such as ["motifs", "modisco_report"]; null: none.',
		json_schema_extra={"expects": "a list of names of steps"},
	)
	rerun_steps: StepNames | None = Field(
		None,
		description="Steps to run even though they are up to date; null: none.",
		json_schema_extra={"expects": "a list of names of steps"},
	)
	skip: bool = Field(
		False, description="Trust outputs that exist: skip their steps even when settings or inputs have changed since."
	)
	dry_run: bool = Field(False, description="Print the steps and their commands, and run nothing.")


class BatchKeys(BaseModel):
	"""Which pipelines a batch has, and how many run at once."""

	samples: str | list[dict[str, Any]] | dict[str, Any] | None = Field(
		None,
		description="The samples: a table (TSV) with a line for each, a list of settings for each, or patterns of file "
		'names such as {"signals": "*.bw"}, in which * is the name of a sample.',
		json_schema_extra={"expects": "the path of a table, a list of objects, or an object of patterns of file names"},
	)
	fold_files: Files | None = Field(
		None,
		description="Fold files, or patterns of their names: each sample is run with each of them; null: once, with "
		"the splits of its settings.",
		json_schema_extra={"expects": "a file, or a list of at least one file or pattern"},
	)
	executor: Literal["local", "slurm"] = Field(
		"local", description="What runs the jobs: this machine, or a cluster under Slurm."
	)
	jobs_per_device: int = Field(
		1,
		ge=1,
		description='Jobs that run at once on each device of this machine; device may be "*" in a batch: all GPUs.',
		json_schema_extra={"unit": "jobs"},
	)
	job_memory: float | None = Field(
		None,
		gt=0,
		description="Memory that a job takes; null: estimated from its files and its model; under Slurm: what jobs get "
		"there by default.",
		json_schema_extra={"unit": "GB"},
	)
	max_memory: float | None = Field(
		None,
		gt=0,
		description="Memory that all jobs of this machine may take together; null: what is free.",
		json_schema_extra={"unit": "GB"},
	)
	max_attempts: int = Field(
		3, ge=1, description="How often a run starts a job that is killed, before it counts as failed."
	)


class SlurmKeys(BaseModel):
	"""What a batch asks of a cluster under Slurm, for each of its jobs."""

	partition: str | None = Field(
		None, min_length=1, description="Partition of the cluster; null: the one that Slurm takes by default."
	)
	time_limit: float = Field(
		24.0,
		gt=0,
		description="How long a job may run at a stretch; one that needs longer saves what it has, is requeued, and "
		"goes on.",
		json_schema_extra={"unit": "h"},
	)
	gpus: int | None = Field(
		None,
		ge=0,
		description='GPUs of each job; null: one, unless device is "cpu".',
		json_schema_extra={"unit": "GPUs"},
	)
	cpus: int = Field(4, ge=1, description="Cores of each job.", json_schema_extra={"unit": "cores"})
	jobs_at_once: int | None = Field(
		None,
		ge=1,
		description="Most jobs of a run that Slurm runs at once; null: as many as it can.",
		json_schema_extra={"unit": "jobs"},
	)
	stop_before: int = Field(
		120,
		ge=30,
		description="How long before its time limit a job is asked to save what it has.",
		json_schema_extra={"unit": "s"},
	)
	max_requeues: int = Field(
		20, ge=0, description="How often a job is requeued because it came to its time limit, before it stays stopped."
	)
	sbatch_options: dict[str, str | int | bool] | None = Field(
		None,
		description='More options of sbatch, such as {"account": "lab", "constraint": "a100"}; null: none.',
		json_schema_extra={"expects": "an object of options of sbatch, without their dashes"},
	)


# Settings of each command: the classes that it reads.


class ObservedSettings(
	WindowKeys,
	SummitKeys,
	ControlKeys,
	SignalKeys,
	NegativeKeys,
	LociKeys,
	SequenceKeys,
	NameKeys,
	Settings,
):
	"""What the commands that compare a model with an experiment have in common."""

	required: ClassVar = ("sequences", "loci", "signals")


DeviceNames = Annotated[list[Annotated[str, Field(pattern=r"^(cpu|cuda:\d+)$")]], Field(min_length=1)]


class FitSettings(
	SamplingKeys,
	CountLimitKeys,
	SplitKeys,
	ModelKeys,
	TrainingOptions,
	ResumeKeys,
	CacheKeys,
	VerboseKeys,
	SeedKeys,
	DeviceKeys,
	ObservedSettings,
):
	"""Settings of ``fit``."""

	forced: ClassVar = {"evaluate": False}

	init_from: str | None = Field(
		None,
		min_length=1,
		description="Checkpoint of a trained model to begin from, of this or the published package; null: new weights.",
		json_schema_extra={"expects": "the path of a checkpoint", "files": True},
	)
	devices: Annotated[int, Field(strict=True, ge=1)] | Literal["*"] | DeviceNames | None = Field(
		None,
		description='Devices to train on at once, a process on each: a number, a list, or "*" for all GPUs; null: one.',
		json_schema_extra={"expects": 'a whole number of at least 1, "*", or a list such as ["cuda:0", "cuda:1"]'},
	)
	tensorboard: bool | str = Field(
		False,
		description="Write curves for TensorBoard, to {name}.tensorboard or to the folder that is named.",
		json_schema_extra={"expects": "true, false or the path of a folder"},
	)
	evaluate: bool = Field(
		True, description="Evaluate the model once it is trained; a pipeline has a step of its own for that."
	)

	def training_options(self) -> TrainingOptions:
		"""The part that the library's training loop reads."""
		return TrainingOptions(**{key: getattr(self, key) for key in TrainingOptions.model_fields})


class EvaluateSettings(
	EvaluationKeys,
	ReverseComplementKeys,
	PlaceKeys,
	CountLimitKeys,
	SplitKeys,
	CacheKeys,
	VerboseKeys,
	TrainedModelKeys,
	DeviceKeys,
	ObservedSettings,
):
	"""Settings of ``evaluate``."""


class InferenceSettings(
	PlaceKeys,
	ChunkKeys,
	CacheKeys,
	VerboseKeys,
	TrainedModelKeys,
	DeviceKeys,
	WindowKeys,
	SummitKeys,
	ControlKeys,
	SignalKeys,
	LociKeys,
	SequenceKeys,
	NameKeys,
	Settings,
):
	"""What the commands that run a trained model over loci have in common."""

	required: ClassVar = ("sequences", "loci")
	forced: ClassVar = {"shard": None}


class PredictSettings(PredictionKeys, UnknownBaseKeys, InferenceSettings):
	"""Settings of ``predict``."""


class AttributeSettings(AttributionFileKeys, AttributionKeys, SeedKeys, InferenceSettings):
	"""Settings of ``attribute``."""


class AnnotationSettings(
	AnnotationKeys,
	SeqletFileKeys,
	OutputKeys,
	JobKeys,
	MotifKeys,
	VerboseKeys,
	SequenceKeys,
	NameKeys,
	Settings,
):
	"""Settings of the pipeline's step that names the seqlets' nearest motifs."""

	required: ClassVar = ("sequences", "motifs")


class SeqletsSettings(
	SeqletKeys,
	AttributionFileKeys,
	AnnotationKeys,
	OutputKeys,
	JobKeys,
	MotifKeys,
	VerboseKeys,
	NameKeys,
	Settings,
):
	"""Settings of ``seqlets``, which also annotates when motifs are given."""

	forced: ClassVar = {
		"motifs": None,
		**{key: field.default for key, field in {**AnnotationKeys.model_fields, **JobKeys.model_fields}.items()},
	}


class ModiscoReportSettings(ModiscoReportKeys, OutputKeys, JobKeys, MotifKeys, VerboseKeys, NameKeys, Settings):
	"""Settings of the pipeline's step that writes the report of TF-MoDISco; output_filename names its results."""


class MotifsSettings(ModiscoKeys, ArrayFileKeys, ModiscoReportSettings):
	"""Settings of ``motifs``."""

	forced: ClassVar = {"report": False, "motifs": None}

	report: bool = Field(True, description="Write TF-MoDISco's report too; a pipeline has a step of its own for that.")


class MarginalizeSettings(
	MarginalizationKeys,
	OutputKeys,
	MotifKeys,
	PlaceKeys,
	ChunkKeys,
	CacheKeys,
	VerboseKeys,
	SeedKeys,
	TrainedModelKeys,
	DeviceKeys,
	WindowKeys,
	SummitKeys,
	LociKeys,
	SequenceKeys,
	NameKeys,
	Settings,
):
	"""Settings of ``marginalize``; its loci are background, in a pipeline the negatives."""

	required: ClassVar = ("sequences", "loci", "motifs")
	forced: ClassVar = {"shard": None}


class VariantsSettings(
	VariantKeys,
	ReverseComplementKeys,
	ChunkKeys,
	VerboseKeys,
	SeedKeys,
	TrainedModelKeys,
	DeviceKeys,
	WindowKeys,
	SequenceKeys,
	NameKeys,
	Settings,
):
	"""Settings of ``variants``."""

	required: ClassVar = ("sequences", "variants")
	forced: ClassVar = {"shard": None}


class NegativesSettings(
	MatchingKeys,
	UnknownBaseKeys,
	OutputKeys,
	JobKeys,
	PlaceKeys,
	VerboseKeys,
	SeedKeys,
	WindowKeys,
	SignalKeys,
	LociKeys,
	SequenceKeys,
	NameKeys,
	Settings,
):
	"""Settings of ``negatives``."""

	required: ClassVar = ("sequences", "loci")


class PreprocessingSettings(PeakCallingKeys, ConversionKeys, JobKeys, ReadKeys, VerboseKeys, Settings):
	"""Settings of the pipeline's steps from reads to peaks and bigWigs."""


class SignalsSettings(
	ConversionKeys, JobKeys, ReadKeys, VerboseKeys, ControlKeys, TrackKeys, SequenceKeys, NameKeys, Settings
):
	"""Settings of the pipeline's step that turns reads into bigWigs."""

	required: ClassVar = ("sequences",)


class PeaksSettings(
	PeakCallingKeys, ReadKeys, SummitKeys, VerboseKeys, ControlKeys, TrackKeys, SequenceKeys, NameKeys, Settings
):
	"""Settings of the pipeline's step that calls peaks."""

	required: ClassVar = ("sequences", "signals")


class ReportSettings(NameKeys, Settings):
	"""Settings of the HTML report."""


class PipelineSettings(
	RunKeys,
	MotifKeys,
	CacheKeys,
	VerboseKeys,
	SeedKeys,
	TrainedModelKeys,
	DeviceKeys,
	WindowKeys,
	ControlKeys,
	SignalKeys,
	NegativeKeys,
	LociKeys,
	SequenceKeys,
	NameKeys,
	Settings,
):
	"""Settings of ``pipeline``: what its steps share, and a section for each step."""

	required: ClassVar = ("sequences", "signals")

	preprocessing_parameters: PreprocessingSettings = Field(
		default_factory=PreprocessingSettings, description="From reads to peaks and bigWigs."
	)
	negatives_parameters: NegativesSettings = Field(
		default_factory=NegativesSettings, description="Background loci, when negatives is null."
	)
	fit_parameters: FitSettings = Field(default_factory=FitSettings, description="Training.")
	evaluate_parameters: EvaluateSettings = Field(default_factory=EvaluateSettings, description="Evaluation.")
	predict_parameters: PredictSettings = Field(default_factory=PredictSettings, description="Predictions.")
	attribute_parameters: AttributeSettings = Field(default_factory=AttributeSettings, description="Contributions.")
	seqlet_parameters: SeqletsSettings = Field(
		default_factory=SeqletsSettings, description="Stretches of high contribution."
	)
	annotation_parameters: AnnotationSettings = Field(
		default_factory=AnnotationSettings, description="The known motifs nearest to the seqlets."
	)
	modisco_motifs_parameters: MotifsSettings = Field(default_factory=MotifsSettings, description="TF-MoDISco.")
	modisco_report_parameters: ModiscoReportSettings = Field(
		default_factory=ModiscoReportSettings, description="The report of TF-MoDISco."
	)
	marginalize_parameters: MarginalizeSettings = Field(
		default_factory=MarginalizeSettings, description="Effects of known motifs in background loci."
	)
	variants_parameters: VariantsSettings = Field(
		default_factory=VariantsSettings, description="Effects of variants, when variants names a file."
	)
	report_parameters: ReportSettings = Field(default_factory=ReportSettings, description="The HTML report.")


class BatchSettings(SlurmKeys, BatchKeys, NameKeys, Settings):
	"""Settings of ``batch``, beside those of the pipelines that it runs."""

	required: ClassVar = ("samples",)


SETTINGS: dict[str, type[Settings]] = {
	"pipeline": PipelineSettings,
	"batch": BatchSettings,
	"negatives": NegativesSettings,
	"fit": FitSettings,
	"evaluate": EvaluateSettings,
	"predict": PredictSettings,
	"attribute": AttributeSettings,
	"seqlets": SeqletsSettings,
	"annotation": AnnotationSettings,
	"motifs": MotifsSettings,
	"modisco_report": ModiscoReportSettings,
	"marginalize": MarginalizeSettings,
	"variants": VariantsSettings,
	"report": ReportSettings,
	"peaks": PeaksSettings,
	"signals": SignalsSettings,
}
"""The settings of each command that reads a JSON."""

_STEP_OF = {"seqlet_parameters": "seqlets", "modisco_motifs_parameters": "motifs"}
SECTIONS: dict[str, tuple[str, type[Settings]]] = {
	key: (_STEP_OF.get(key, key.removesuffix("_parameters")), field.annotation)
	for key, field in PipelineSettings.model_fields.items()
	if isinstance(field.annotation, type) and issubclass(field.annotation, Settings)
}
"""The sections of a pipeline JSON: the step that each is for, and its settings."""

SECTION_OF: dict[str, str] = {step: section for section, (step, _) in SECTIONS.items()}
"""The section of each step that has one."""

TOP_LEVEL: frozenset[str] = frozenset(PipelineSettings.model_fields) - SECTIONS.keys()
"""The keys that a pipeline's steps share."""

KNOWN: frozenset[str] = frozenset().union(*(model.model_fields for model in SETTINGS.values())) | {
	key for _, model in SECTIONS.values() for key in model.model_fields
}
"""Every key of every command, and the names of the sections."""

SPLITS: dict[str, str] = {
	field.json_schema_extra["split"]: key
	for key, field in SplitKeys.model_fields.items()
	if isinstance(field.json_schema_extra, dict) and "split" in field.json_schema_extra
}
"""The splits by their names in a fold file (train, valid, test), and the key of each."""

SPLIT_LOCI: dict[str, str] = {
	field.json_schema_extra["split_loci"]: key
	for key, field in SplitKeys.model_fields.items()
	if isinstance(field.json_schema_extra, dict) and "split_loci" in field.json_schema_extra
}
"""The same for splits that are given by files of loci."""

PER_GROUP: frozenset[str] = frozenset(
	key
	for mixin in (ReadKeys, ConversionKeys, PeakCallingKeys)
	for key, field in mixin.model_fields.items()
	if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("per_group")
)
"""Keys on reads that take a value for all groups, or a list with one for each."""

STEPS: tuple[str, ...] = (
	*("peaks", "signals", "negatives", "fit", "evaluate", "predict", "attribute"),
	*("seqlets", "annotation", "motifs", "modisco_report", "marginalize", "variants", "report"),
)
"""The steps that a pipeline may have, in order."""


def _keys(*mixins: type[BaseModel]) -> frozenset[str]:
	"""The keys of some declarations that ``fit`` has too."""
	return frozenset(key for mixin in mixins for key in mixin.model_fields if key in FitSettings.model_fields)


_GENOME = _keys(SequenceKeys, WindowKeys)
_DATA = _GENOME | _keys(LociKeys, SummitKeys, NegativeKeys, SignalKeys, ControlKeys, SplitKeys, CountLimitKeys)

FOLLOWED: dict[str, frozenset[str]] = {
	"evaluate": _DATA,
	"predict": _DATA,
	"attribute": _DATA,
	"seqlets": _GENOME,
	"annotation": _GENOME,
	"marginalize": _GENOME,
	"variants": _GENOME,
}
"""Keys that a step takes from fit_parameters unless its own section has them: a model is judged on the data, and read
by the windows, that it was trained for."""

_LOSS = "the two losses' weights are learned by AdamW at adam_lr and adam_wd; loss_weights fixes them"
UNUSED = {
	"compile": "the model is run as it is, without torch.compile",
	"compile_mode": "the model is run as it is, without torch.compile",
	"lw_lr": _LOSS,
	"lw_wd": _LOSS,
	"lw_momentum": _LOSS,
	"count_loss_weight": _LOSS,
	"num_threads": "torch's own number of threads is used; the variable OMP_NUM_THREADS changes it",
	"progress_bar": "a progress bar is shown on a terminal, plain lines elsewhere",
	"performance_filename": "the measures go to {name}.performance.tsv",
	"minimal": "marginalize's page always shows every motif",
	"fast": "every score comes from whole sequences, as normalization couples all positions and no shortcut is exact",
}
"""Keys of the published package's JSON that have no effect here, and what happens instead."""

INSTEAD = {
	("annotation", "reverse_complement"): "a seqlet is compared with both orientations of a motif",
	("marginalize", "output_folder"): "the folder is named by output_filename",
}
"""The same for keys that another step reads: (step, key)."""


# Words and tables out of the declarations.


def _words(annotation: Any) -> str:
	"""A type in words: ``int`` is "a whole number"."""
	if annotation is type(None):
		return "null"
	origin = typing.get_origin(annotation)
	if origin is Annotated:
		return _words(typing.get_args(annotation)[0])
	if origin is Literal:
		return "one of " + ", ".join(json.dumps(value) for value in typing.get_args(annotation))
	if origin in (typing.Union, types.UnionType):
		return " or ".join(_words(arg) for arg in typing.get_args(annotation) if arg is not type(None))
	if origin is tuple:
		return f"a list of {len(typing.get_args(annotation))} numbers"
	if origin is list:
		return "a list of texts"
	return {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}.get(annotation, "a section")


def _bounds(field: FieldInfo, annotation: Any) -> str:
	"""The bounds of a number in words, or nothing."""
	parts, metadata = [], list(field.metadata)
	for arg in [annotation, *typing.get_args(annotation)]:
		for extra in typing.get_args(arg)[1:] if typing.get_origin(arg) is Annotated else ():
			metadata += getattr(extra, "metadata", [extra])
	for name, text in (("gt", "above"), ("ge", "of at least"), ("lt", "below"), ("le", "of at most")):
		for item in metadata:
			value = getattr(item, name, None)
			if value is not None:
				parts.append(f"{text} {value:g}")
	return " and ".join(dict.fromkeys(parts))


def accepts_null(field: FieldInfo) -> bool:
	"""Whether ``null`` means something for this key."""
	return type(None) in typing.get_args(field.annotation)


def expected(field: FieldInfo, *, required: bool = False) -> str:
	"""What a key accepts, in words: ``"a whole number of at least 1, or null"``; no null where the key is required."""
	extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
	annotation, each = field.annotation, ""
	if extra.get("per_group"):
		single = [option for option in typing.get_args(annotation) if typing.get_origin(option) is not list]
		annotation = typing.Union[tuple(single)]  # noqa: UP007
		each = ", or a list with one for each group of reads"
	words = extra.get("expects") or " ".join(filter(None, (_words(annotation), _bounds(field, annotation)))) + each
	return f"{words}, or null" if accepts_null(field) and not required else str(words)


class Row(NamedTuple):
	"""A key as tables and ``--help`` show it."""

	key: str
	expects: str
	required: bool
	default: Any
	unit: str
	help: str


def describe(model: type[Settings]) -> list[Row]:
	"""The keys of a command's settings (sections left out), in the order of the declarations.

	Parameters
	----------
	model: type[Settings]
		One of `SETTINGS`' values.

	Returns
	-------
	list[Row]
		Key, accepted values in words, whether it must be given, default, unit and help text of each.
	"""
	rows = []
	for key, field in model.model_fields.items():
		if key not in SECTIONS:
			extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
			default = field.get_default(call_default_factory=True)
			required = key in model.required
			words = expected(field, required=required)
			rows.append(Row(key, words, required, default, str(extra.get("unit", "")), field.description or ""))
	return rows


def input_files(settings: Settings) -> Iterator[tuple[str, str]]:
	"""The input files that the settings name, as (key, path); the sections of a pipeline are left out."""
	for key, field in type(settings).model_fields.items():
		extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
		if extra.get("files"):
			yield from ((key, path) for path in _flatten(getattr(settings, key)))


def _flatten(value: Any) -> Iterator[str]:
	"""Every text in nested lists; nothing of null."""
	if isinstance(value, str):
		yield value
	elif isinstance(value, list):
		for item in value:
			yield from _flatten(item)


def defaults(command: str) -> dict[str, Any]:
	"""The defaults of a command as a plain dict that ``json`` can write.

	In a pipeline's sections, keys that the top level also has are null: they inherit.
	"""
	model = (
		SETTINGS[command]
		if command in SETTINGS
		else next(section for step, section in SECTIONS.values() if step == command)
	)
	result = {row.key: _plain(row.default) for row in describe(model)}
	if model is PipelineSettings:
		for key, (_, section) in SECTIONS.items():
			result[key] = _section_defaults(section)
	return result


def required_keys(known: Mapping[str, Any]) -> list[str]:
	"""The keys of a dict of defaults that have none: what its command requires, else null where null means nothing."""
	for command, model in SETTINGS.items():
		if known.keys() == defaults(command).keys():
			return list(model.required)
	meaningful = {key for model in SETTINGS.values() for key in model.model_fields if key not in model.required}
	return [key for key, value in known.items() if value is None and key not in meaningful]


def _section_defaults(section: type[Settings]) -> dict[str, Any]:
	"""The defaults of a section of a pipeline; what it inherits is null or left out."""
	step = next(step for step, model in SECTIONS.values() if model is section)
	rows = {row.key: _plain(row.default) for row in describe(section)}
	result = {}
	for key, value in rows.items():
		if key in section.forced or key in FOLLOWED.get(step, ()):
			continue
		result[key] = None if key in TOP_LEVEL else value
	return result


def _plain(value: Any) -> Any:
	"""A copy of a default that ``json`` can write."""
	return json.loads(json.dumps(value))


def schema(command: str) -> dict[str, Any]:
	"""The JSON Schema of a command's file, with every key of every command allowed by name."""
	result = SETTINGS[command].model_json_schema()
	for definition in [result, *result.get("$defs", {}).values()]:
		definition.pop("additionalProperties", None)
		section = definition is not result
		for key, declared in definition.get("properties", {}).items():
			for name in ("files", "expects", "split", "split_loci", "per_group"):
				declared.pop(name, None)
			if section and key in TOP_LEVEL and not _allows_null(declared):
				_allow_null(declared)
		definition["propertyNames"] = {"enum": sorted(KNOWN | UNUSED.keys())}
	return {"$schema": "https://json-schema.org/draft/2020-12/schema", **result, "title": f"cherimoya {command}"}


def _allows_null(declared: Mapping[str, Any]) -> bool:
	"""Whether a property of a schema allows null."""
	return declared.get("type") == "null" or any(_allows_null(option) for option in declared.get("anyOf", ()))


def _allow_null(declared: dict[str, Any]) -> None:
	"""Allow null for a property that a section inherits from the top level."""
	kept = {key: declared.pop(key) for key in list(declared) if key in ("title", "default", "description", "unit")}
	inner = dict(declared)
	declared.clear()
	declared.update({**kept, "anyOf": [inner, {"type": "null"}]})


def load_settings(
	command: str,
	source: str | Path | Mapping[str, Any],
	overrides: Iterable[str] = (),
	*,
	flags: Mapping[str, Any] | None = None,
	check_files: bool = False,
) -> Settings:
	"""The settings of a command, from a JSON file or a dict; see `cherimoya_cli.loading.load`."""
	from cherimoya_cli.loading import load

	return load(command, source, overrides, flags=flags, check_files=check_files)


def help_tables() -> dict[str, Any]:
	"""What ``COMMAND --help`` shows of the settings: the rows of each command and of each section."""

	def rows(model: type[Settings], keys: Iterable[str] | None = None) -> list[dict[str, Any]]:
		return [
			{**row._asdict(), "default": _plain(row.default)}
			for row in describe(model)
			if keys is None or row.key in keys
		]

	tables: dict[str, Any] = {command: {"": rows(model)} for command, model in SETTINGS.items()}
	for key, (_, model) in SECTIONS.items():
		own = [row.key for row in describe(model) if row.key in _section_defaults(model) and row.key not in TOP_LEVEL]
		if own:
			tables["pipeline"][key] = rows(model, own)
	return tables


HELP_FILE = Path(__file__).with_name("help.json")


def main() -> None:
	"""Write the tables that ``--help`` reads (so that it need not import pydantic)."""
	import argparse

	parser = argparse.ArgumentParser(prog="python -m cherimoya_cli.settings", description=main.__doc__)
	parser.add_argument("--write-help", action="store_true", required=True, help=f"write {HELP_FILE.name}")
	parser.parse_args()
	HELP_FILE.write_text(json.dumps(help_tables(), indent="\t", ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
	main()
