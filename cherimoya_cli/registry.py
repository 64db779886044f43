"""The commands by name: the module that runs each, and a line of summary. Standard library only."""

from typing import NamedTuple


class Command(NamedTuple):
	"""One subcommand: the module that holds its ``run``, and the line that ``--help`` shows."""

	module: str
	summary: str


COMMANDS: dict[str, Command] = {
	"pipeline": Command("cherimoya_cli.commands.pipeline", "run every step, from reads to a model and its report"),
	"pipeline-json": Command("cherimoya_cli.commands.pipeline_json", "write the JSON of a pipeline from flags"),
	"check": Command("cherimoya_cli.commands.check", "validate a JSON and its inputs without running anything"),
	"negatives": Command("cherimoya_cli.commands.negatives", "find GC-matched background loci"),
	"fit": Command("cherimoya_cli.commands.fit", "train a model, then evaluate it on the held-out chromosomes"),
	"evaluate": Command("cherimoya_cli.commands.evaluate", "measure a model on loci"),
	"predict": Command("cherimoya_cli.commands.predict", "write predictions at loci as bigWigs and arrays"),
	"attribute": Command("cherimoya_cli.commands.attribute", "score the contribution of each base to the predictions"),
	"seqlets": Command("cherimoya_cli.commands.seqlets", "find stretches of high contribution, and their motifs"),
	"motifs": Command("cherimoya_cli.commands.motifs", "find motifs anew with TF-MoDISco, and report them"),
	"marginalize": Command("cherimoya_cli.commands.marginalize", "put known motifs into background loci and predict"),
	"variants": Command("cherimoya_cli.commands.variants", "score the effects of the variants of a VCF or a table"),
	"batch": Command("cherimoya_cli.commands.batch", "run many pipelines, on this machine or on a cluster"),
	"cache": Command("cherimoya_cli.commands.cache", "list or clear the windows that earlier runs have extracted"),
}
