"""Draw the architecture of the default model: ``python imgs/architecture.py`` writes ``imgs/architecture.svg``.

Every number in the picture comes from the model's own defaults and from a model built with them.
"""

from __future__ import annotations

from html import escape
from pathlib import Path

from cherimoya import Cherimoya

INK, MUTED, RULE, GROUND = "#1f2933", "#5b6773", "#c6cdd4", "#ffffff"
SEQUENCE, TRUNK, PROFILE, COUNTS = "#eef1f4", "#d7edf0", "#fbe8cf", "#f6dcd3"
WIDTH, HEIGHT = 1080, 664
OUT = 1000  # bp of output that the default windows are made for


class Drawing:
	"""An SVG, piece by piece."""

	def __init__(self) -> None:
		self.parts: list[str] = []

	def box(self, x: float, y: float, w: float, h: float, lines: list[str], fill: str, *, size: float = 15) -> None:
		"""A rounded box with centred lines of text, the first of them bold."""
		self.parts.append(
			f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="9" fill="{fill}" stroke="{RULE}"/>'
		)
		step = size * 1.35
		top = y + h / 2 - step * (len(lines) - 1) / 2 + size * 0.35
		for i, line in enumerate(lines):
			bold, small = i == 0, 0 if i == 0 else 2
			self.text(x + w / 2, top + i * step, line, size=size - small, bold=bold, color=INK if bold else MUTED)

	def text(
		self,
		x: float,
		y: float,
		text: str,
		*,
		size: float = 13,
		bold: bool = False,
		color: str = MUTED,
		anchor: str = "middle",
	) -> None:
		"""A line of text on its baseline."""
		weight = ' font-weight="600"' if bold else ""
		self.parts.append(
			f'<text x="{x:g}" y="{y:g}" font-size="{size:g}"{weight} fill="{color}" '
			f'text-anchor="{anchor}">{escape(text)}</text>'
		)

	def arrow(self, *points: tuple[float, float], dashed: bool = False) -> None:
		"""An arrow along points."""
		path = " L".join(f"{x:g} {y:g}" for x, y in points)
		dash = ' stroke-dasharray="5 4"' if dashed else ""
		self.parts.append(
			f'<path d="M{path}" fill="none" stroke="{MUTED}" stroke-width="1.6"{dash} marker-end="url(#head)"/>'
		)

	def svg(self, title: str) -> str:
		"""The whole picture."""
		body = "\n".join(self.parts)
		return (
			f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
			"font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\">\n"
			f"<title>{escape(title)}</title>\n"
			'<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
			f'orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="{MUTED}"/></marker></defs>\n'
			f'<rect width="{WIDTH}" height="{HEIGHT}" rx="12" fill="{GROUND}"/>\n{body}\n</svg>\n'
		)


def draw() -> str:
	"""The picture as SVG text."""
	model = Cherimoya(random_state=0)
	n_parameters = sum(p.numel() for p in model.parameters())
	channels, n_layers, expansion = model.n_filters, model.n_layers, model.expansion
	stem = model.iconv.kernel_size[0]
	dilations = [block.dilation for block in model.blocks]
	in_window = OUT + 2 * model.trimming
	d = Drawing()
	title = f"The default model: {n_parameters:,} parameters"
	d.text(40, 46, title, size=21, bold=True, color=INK, anchor="start")
	d.text(40, 70, "From a sequence to a profile and to counts", size=14, anchor="start")

	# the trunk, left
	x, w = 40, 360
	d.box(x, 96, w, 62, ["DNA sequence, one-hot", f"4 × {in_window:,} bp"], SEQUENCE)
	d.box(x, 190, w, 62, [f"Stem: convolution of width {stem}, GELU", f"4 → {channels} channels"], TRUNK)
	for offset in (12, 6):
		d.box(x + offset, 284 + offset, w - offset, 112, [], TRUNK)
	blocks = [
		f"{n_layers} blocks, {channels} channels",
		"dilation " + ", ".join(map(str, dilations[:3])) + f", …, {dilations[-1]} bp",
		"each reaches twice as far as the one before",
	]
	d.box(x, 284, w, 112, blocks, TRUNK)
	d.box(x, 440, w, 62, ["Cut to the centre", f"{model.trimming} bp from each side: {OUT:,} bp are left"], TRUNK)
	centre = x + w / 2
	for top, bottom in ((158, 190), (252, 284), (408, 440)):
		d.arrow((centre, top), (centre, bottom))
	d.box(x, 546, 170, 66, ["Profile", "logits per channel, bp"], PROFILE)
	d.box(x + 190, 546, 170, 66, ["Counts", "log(1 + reads)"], COUNTS)
	d.arrow((centre - 60, 502), (centre - 60, 524), (x + 85, 524), (x + 85, 546))
	d.arrow((centre + 60, 502), (centre + 60, 524), (x + 275, 524), (x + 275, 546))
	d.text(x + 78, 536, "convolution", size=11.5, anchor="end")
	d.text(x + 284, 536, "mean, linear", size=11.5, anchor="start")

	d.text(x, 642, "Control tracks, where there are any, are one more input of both heads.", size=12.5, anchor="start")

	# one block, right
	left, bw = 560, 330
	d.parts.append(
		f'<rect x="500" y="96" width="540" height="516" rx="12" fill="#f8fafb" stroke="{RULE}" stroke-dasharray="5 4"/>'
	)
	d.text(524, 128, "One block", size=17, bold=True, color=INK, anchor="start")
	d.text(1016, 128, f"{channels} channels at each position", size=13, anchor="end")
	hidden = expansion * channels
	rows = [
		(158, ["Depthwise convolution, dilation d", "3 taps per channel: left, here, right"]),
		(242, ["Norm over all positions and channels", "of the example; no scale, no shift"]),
		(326, [f"Linear {channels} → {hidden}, GELU", "each position by itself"]),
		(410, [f"Linear {hidden} → {channels}", "each position by itself"]),
	]
	mid = left + bw / 2
	for y, lines in rows:
		d.box(left, y, bw, 58, lines, GROUND)
	d.box(left, 494, bw, 42, [f"× {model.residual_scale:g}"], GROUND)
	for top, bottom in ((138, 158), (216, 242), (300, 326), (384, 410), (468, 494)):
		d.arrow((mid, top), (mid, bottom))
	d.parts.append(f'<circle cx="{mid:g}" cy="568" r="13" fill="{GROUND}" stroke="{RULE}"/>')
	d.text(mid, 573.5, "+", size=18, color=INK)
	d.arrow((mid, 536), (mid, 555))
	d.arrow((mid, 581), (mid, 608))
	d.arrow((mid, 146), (980, 146), (980, 568), (mid + 14, 568))
	d.text(972, 352, "residual", size=13, anchor="end")
	d.arrow((400, 340), (500, 340), dashed=True)
	return d.svg(title)


if __name__ == "__main__":
	Path(__file__).with_suffix(".svg").write_text(draw(), encoding="utf-8")
