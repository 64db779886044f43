"""A Sphinx extension that writes the docs' tables of settings and of commands from their declarations."""

import json
from pathlib import Path
from typing import Any

from cherimoya_cli.registry import COMMANDS
from cherimoya_cli.settings import SECTIONS, SETTINGS, help_tables

FOLDER = Path(__file__).parent / "_generated"


def _cell(text: str) -> str:
	"""A text that a table's cell can hold."""
	return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def _table(rows: list[dict[str, Any]]) -> str:
	"""One table of settings."""
	lines = ["| key | default | unit | accepts | meaning |", "|---|---|---|---|---|"]
	for row in rows:
		default = json.dumps(row["default"])
		cells = (f"`{row['key']}`", f"`{default}`", row["unit"], _cell(row["expects"]), _cell(row["help"]))
		lines.append("| " + " | ".join(cells) + " |")
	return "\n".join(lines)


def commands() -> str:
	"""The table of commands."""
	rows = [f"| [`{name}`](#{name}) | {command.summary} |" for name, command in COMMANDS.items()]
	return "\n".join(["| command | does |", "|---|---|", *rows]) + "\n"


def settings() -> str:
	"""A section for each command, with a table of its settings, and for a pipeline of its sections'."""
	tables, parts = help_tables(), []
	for name, command in COMMANDS.items():
		parts.append(f"## {name}\n\n{command.summary[0].upper()}{command.summary[1:]}.\n")
		if name not in SETTINGS:
			parts.append(f"Its flags: `cherimoya {name} --help`.\n")
			continue
		for section, rows in tables[name].items():
			if section:
				step = SECTIONS[section][0]
				parts.append(
					f"### {section}\n\nKeys of the step `{step}`; those of the top level may be given here as well.\n"
				)
			parts.append(_table(rows) + "\n")
	return "\n".join(parts)


def write(app: Any = None) -> None:
	"""Write the generated pages."""
	FOLDER.mkdir(exist_ok=True)
	(FOLDER / "commands.inc.md").write_text(commands(), encoding="utf-8")
	(FOLDER / "settings.inc.md").write_text(settings(), encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
	"""Register with Sphinx: the pages are written before it reads its sources."""
	app.connect("builder-inited", write)
	return {"parallel_read_safe": True}
