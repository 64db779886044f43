"""A model in words and numbers: what it reads, what it predicts, and where its parameters are."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
	from cherimoya.cherimoya import Cherimoya

# The input window of the published models and of the settings' defaults, bp.
USUAL_WINDOW = 2114


class Part(NamedTuple):
	"""A part of the model: its name, what it is, and its number of parameters."""

	name: str
	shape: str
	n_parameters: int


def summarize(model: "Cherimoya") -> str:
	"""The text of `Cherimoya.summary`.

	Parameters
	----------
	model: Cherimoya
		Of any shape, wherever it came from.

	Returns
	-------
	str
		Its name; its groups, windows and weights; and a table of its parts with their parameters.
	"""
	facts = [
		("source", model.source or "made here, not loaded from a file"),
		("signal groups", _groups(model.signal_groups)),
		("controls", _count(model.n_control_tracks, "track") if model.n_control_tracks else "none"),
		("windows", _windows(model)),
		("smallest window", f"{2 * model.trimming + 1:,} bp of sequence to 1 bp of profile"),
		("trimming", f"{model.trimming:,} bp from each side"),
		("receptive field", f"{receptive_field(model):,} bp by the convolutions; the norms see the whole window"),
		("weights", f"{str(model.iconv.weight.dtype).removeprefix('torch.')} on {model.iconv.weight.device}"),
	]
	table = parts(model)
	table.append(Part("total", "", sum(part.n_parameters for part in table)))
	rows = [(part.name, part.shape, f"{part.n_parameters:,}") for part in table]
	return "\n".join([model.name, "", *_columns(facts), "", *_columns([("part", "shape", "parameters"), *rows])])


def receptive_field(model: "Cherimoya") -> int:
	"""How many positions of the sequence reach one position of the profile through convolutions, in bp.

	1 + 2 · (half the stem + the sum of the dilations + half the profile head). Each block's norm couples all positions
	of a window besides, through a mean and a variance.
	"""
	halves = (model.iconv.kernel_size[0] // 2, *(b.dilation for b in model.blocks), model.profile_kernel_size // 2)
	return 1 + 2 * sum(halves)


def parts(model: "Cherimoya") -> list[Part]:
	"""The model's parts from input to output; together they hold each of its parameters once."""
	blocks = model.blocks
	dilations = "1" if len(blocks) == 1 else f"1 to {blocks[-1].dilation}"
	features = _count(model.n_filters, "channel")
	controls = f" + {_count(model.n_control_tracks, 'control')}" if model.n_control_tracks else ""
	total = " + the controls' total" if model.n_control_tracks else ""
	return [
		Part("stem", f"4 to {features}, width {model.iconv.kernel_size[0]}", _size(model.iconv.parameters())),
		Part(
			_count(len(blocks), "block"),
			f"{features}, dilation {dilations}, hidden {model.expansion * model.n_filters}, "
			f"residual scale {model.residual_scale:g}",
			_size(blocks.parameters()),
		),
		Part(
			"profile head",
			f"{features}{controls} to {model.n_outputs}, width {model.profile_kernel_size}",
			_size(model.fconv.parameters()),
		),
		Part(
			"count head",
			f"{features}{total} to {model.n_groups}",
			_size(model.linear.parameters()),
		),
		Part("loss weights", f"2 a group, {_count(model.n_groups, 'group')}", _size((model.lw0, model.lw1))),
	]


def _groups(groups: tuple[int, ...]) -> str:
	"""The groups, their channels and their counts."""
	return f"{list(groups)}: {_count(sum(groups), 'profile channel')}, {_count(len(groups), 'count')}"


def _windows(model: "Cherimoya") -> str:
	"""What the usual window gives, if it is long enough."""
	out = USUAL_WINDOW - 2 * model.trimming
	if out < 1:
		return f"{USUAL_WINDOW:,} bp of sequence are too short"
	return f"{USUAL_WINDOW:,} bp of sequence to {out:,} bp of profile"


def _columns(rows: Iterable[tuple[str, ...]]) -> list[str]:
	"""Lines of aligned columns, the last of three to the right."""
	rows = list(rows)
	widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
	if len(widths) == 2:
		return [f"{name:<{widths[0]}}  {value}" for name, value in rows]
	return [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}" for a, b, c in rows]


def _count(n: int, noun: str) -> str:
	"""A number of things: ``1 track``, ``2 tracks``."""
	return f"{n:,} {noun}{'' if n == 1 else 's'}"


def _size(parameters: Iterable) -> int:
	"""How many numbers the parameters are."""
	return sum(p.numel() for p in parameters)
