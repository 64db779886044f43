"""The page on troubleshooting quotes messages that the code has, and names keys and columns that exist."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
QUOTED = re.findall(r"^### `(.*…?.*)`$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def texts(node: ast.AST) -> Iterator[str]:
	"""The texts of a module, those with values as with … in the values' place."""
	if isinstance(node, ast.JoinedStr):
		yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
	elif isinstance(node, ast.Constant) and isinstance(node.value, str):
		yield node.value
	for child in ast.iter_child_nodes(node):
		yield from texts(child)


@pytest.fixture(scope="module")
def messages() -> str:
	files = [path for package in ("cherimoya", "cherimoya_cli") for path in (ROOT / package).rglob("*.py")]
	return "\n".join(text for path in files for text in texts(ast.parse(path.read_text(encoding="utf-8"))))


def test_there_are_quoted_messages() -> None:
	assert len(QUOTED) > 10


@pytest.mark.parametrize("quoted", QUOTED)
def test_a_quoted_message_is_in_the_code(quoted: str, messages: str) -> None:
	assert quoted in messages
