"""Compact neural networks that predict sequencing experiments from DNA sequence.

Public names are imported on first use, so that importing the package costs milliseconds and loads
neither torch nor numpy.
"""

from importlib import import_module
from typing import Any

_HOMES = {
	"Cherimoya": "cherimoya.cherimoya",
	"CheriBlock": "cherimoya.cheri",
	"EMA": "cherimoya.ema",
	"ControlWrapper": "cherimoya.wrappers",
	"ExpectedCountsWrapper": "cherimoya.wrappers",
	"LogCountWrapper": "cherimoya.wrappers",
	"ProfileWrapper": "cherimoya.wrappers",
}

__all__ = [
	"EMA",
	"CheriBlock",
	"Cherimoya",
	"ControlWrapper",
	"ExpectedCountsWrapper",
	"LogCountWrapper",
	"ProfileWrapper",
	"__version__",
]


def __getattr__(name: str) -> Any:
	if name in _HOMES:
		value = getattr(import_module(_HOMES[name]), name)
	elif name == "__version__":
		value = _version()
	else:
		raise AttributeError(f"module 'cherimoya' has no attribute {name!r}")
	globals()[name] = value
	return value


def __dir__() -> list[str]:
	return sorted({*globals(), *__all__})


def _version() -> str:
	"""The installed version; ``"unknown"`` when the package is run from a folder without being installed."""
	from importlib.metadata import PackageNotFoundError, version

	try:
		return version("cherimoya")
	except PackageNotFoundError:
		return "unknown"
