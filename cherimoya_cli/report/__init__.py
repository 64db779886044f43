"""The HTML report of a run: one self-contained page, ``python -m cherimoya_cli.report -p NAME.report.json``.

``inputs`` reads what a run left, ``verdict`` says in words what it is worth, ``figures`` draws, and ``page``
puts the page together. Importing this package imports none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
	from collections.abc import Mapping
	from pathlib import Path
	from typing import Any


def outputs(values: Mapping[str, Any]) -> list[str]:
	"""The files that the step leaves, from its settings."""
	return [f"{values['name']}.report.html"]


def write_report(name: str, *, path: str | None = None, n_logos: int = 4) -> Path:
	"""Write the HTML report of a run.

	Parameters
	----------
	name: str
		The run's file prefix, with its folder: ``"runs/yeast"`` for the files ``runs/yeast.*``.
	path: str or None
		Where to write; None: ``{name}.report.html``.
	n_logos: int, default 4
		Loci whose contributions are drawn as letters.

	Returns
	-------
	path: pathlib.Path
		The file written. It appears under its name only when it is complete.

	Raises
	------
	InputError
		If the run left nothing to report, or one of its files cannot be read.
	MissingExtraError
		If matplotlib is not installed.
	"""
	from cherimoya_cli.report.figures import require_matplotlib
	from cherimoya_cli.report.inputs import read_run
	from cherimoya_cli.report.page import build_page, publish

	require_matplotlib()
	run = read_run(name)
	return publish(path or outputs({"name": name})[0], build_page(run, n_logos=n_logos))
