"""The pictures of the documentation are what their scripts draw."""

import importlib.util
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[2]


def load(path: Path):
	spec = importlib.util.spec_from_file_location(path.stem, path)
	module = importlib.util.module_from_spec(spec)
	spec.loader.exec_module(module)
	return module


def test_architecture_is_up_to_date():
	drawn = load(ROOT / "imgs" / "architecture.py").draw()
	assert (ROOT / "imgs" / "architecture.svg").read_text(encoding="utf-8") == drawn, "run python imgs/architecture.py"
	ElementTree.fromstring(drawn)
