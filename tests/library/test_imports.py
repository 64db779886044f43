"""Who may import whom, what importing costs, and what it must leave alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "cherimoya").rglob("*.py"))

# What a part of the library may import of ours; a part is a file or folder directly below cherimoya.
ALLOWED = {
	"groups": set(),
	"errors": set(),
	"kernels": {"kernels"},
	"io": {"io", "groups", "errors", "memory"},
	"losses": {"groups", "errors"},
	"performance": {"groups", "errors"},
}
THIRD_PARTY_OF_KERNELS = {"torch", "triton"}


def _part(path: Path) -> str:
	"""``kernels`` for cherimoya/kernels/cpu.py, ``losses`` for cherimoya/losses.py, ``__init__`` for the package."""
	return path.relative_to(ROOT / "cherimoya").parts[0].removesuffix(".py")


def _imports(path: Path) -> list[tuple[int, str]]:
	"""Line and absolute name of every import in a file, inside functions too, except those for type checkers."""
	package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
	tree = ast.parse(path.read_text(encoding="utf-8"))
	typing_only = {
		id(node)
		for block in ast.walk(tree)
		if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
		for child in block.body
		for node in ast.walk(child)
	}
	found = []
	for node in ast.walk(tree):
		if id(node) in typing_only:
			continue
		if isinstance(node, ast.Import):
			found += [(node.lineno, alias.name) for alias in node.names]
		elif isinstance(node, ast.ImportFrom):
			base = node.module or ""
			if node.level:
				parent = package.split(".")[: len(package.split(".")) - node.level + 1]
				base = ".".join([*parent, base] if base else parent)
			# "from cherimoya import losses" names a module, so names count too
			found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
	return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_import_rules(path):
	part, wrong = _part(path), []
	for line, name in _imports(path):
		top, _, rest = name.partition(".")
		if top == "cherimoya_cli":
			wrong.append(f"line {line}: the library must not import the command line ({name})")
		if top == "cherimoya" and part in ALLOWED and rest.split(".")[0] not in ALLOWED[part]:
			wrong.append(f"line {line}: {part} must not import {name}")
		third_party = top not in sys.stdlib_module_names and top != "cherimoya"
		if part == "kernels" and third_party and top not in THIRD_PARTY_OF_KERNELS:
			wrong.append(f"line {line}: kernels import torch and Triton alone, not {name}")
		if part in ("groups", "errors") and third_party:
			wrong.append(f"line {line}: {part} imports the standard library alone, not {name}")
	assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_library_neither_prints_nor_asserts(path):
	tree = ast.parse(path.read_text(encoding="utf-8"))
	prints = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "print"]
	asserts = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Assert)]
	assert not prints, f"print in lines {prints}"
	assert not asserts, f"assert in lines {asserts}"


def _run(code: str, *, blocked: tuple[str, ...] = ()) -> str:
	"""The output of code in a fresh interpreter, in which importing a blocked package fails."""
	guard = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
	result = subprocess.run(
		[sys.executable, "-W", "error", "-c", guard + code], capture_output=True, text=True, cwd=ROOT, timeout=600
	)
	assert result.returncode == 0, result.stderr
	return result.stdout.strip()


def test_importing_the_package_loads_neither_torch_nor_numpy():
	heavy = "'torch', 'numpy', 'pydantic', 'pyBigWig', 'pyfaidx', 'matplotlib'"
	code = f"import cherimoya, sys; dir(cherimoya); print([m for m in ({heavy}) if m in sys.modules])"
	assert _run(code) == "[]"


def test_public_names():
	code = (
		"import cherimoya, cherimoya.cherimoya, cherimoya.cheri\n"
		"for name in cherimoya.__all__: getattr(cherimoya, name)\n"
		"from cherimoya import Cherimoya, CheriBlock, EMA, ControlWrapper, ProfileWrapper\n"
		"from cherimoya import LogCountWrapper, ExpectedCountsWrapper\n"
		"assert cherimoya.cherimoya.EMA is EMA and cherimoya.cheri.HAS_TRITON in (True, False)\n"
		"try: cherimoya.nothing\n"
		"except AttributeError as error: print(error)\n"
	)
	assert _run(code) == "module 'cherimoya' has no attribute 'nothing'"


def test_model_and_kernels_need_torch_alone():
	"""A machine with torch and numpy, but no package that reads genomics files, settings or pictures."""
	blocked = ("pyfaidx", "pyBigWig", "pysam", "tqdm", "matplotlib", "pydantic", "scipy", "pandas")
	code = (
		"import torch, cherimoya.losses, cherimoya.performance, cherimoya.wrappers, cherimoya.kernels.cpu\n"
		"from cherimoya import Cherimoya\n"
		"model = Cherimoya(n_filters=4, n_layers=1, trimming=3)\n"
		"sum(t.sum() for t in model(torch.zeros(2, 4, 20))).backward()\n"
		"print(model.iconv.weight.grad.shape)"
	)
	assert _run(code, blocked=blocked) == "torch.Size([4, 4, 21])"


def test_importing_and_building_changes_no_global_state_of_torch():
	code = """
import torch, warnings
torch.manual_seed(3)
def state():
	return (
		torch.get_default_dtype(), torch.get_num_threads(), torch.get_num_interop_threads(), torch.is_grad_enabled(),
		torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled(),
		torch.get_rng_state().tolist(), torch.get_default_device(),
		torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32,
		torch.backends.mkldnn.enabled, torch.is_autocast_enabled("cpu"), list(warnings.filters),
	)
before = state()
import cherimoya, cherimoya.cherimoya, cherimoya.cheri, cherimoya.losses, cherimoya.performance, cherimoya.wrappers
model = cherimoya.Cherimoya(n_filters=4, n_layers=2, trimming=3)
imported = state()
with torch.no_grad():
	model(torch.zeros(1, 4, 30))
sum(t.sum() for t in model(torch.zeros(1, 4, 30))).backward()
assert imported == before, [i for i, (a, b) in enumerate(zip(before, imported)) if a != b]
assert state() == before
print("same")
"""
	assert _run(code) == "same"
