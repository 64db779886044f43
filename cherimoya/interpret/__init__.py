"""What a trained model says about sequences: predictions, and the contribution of each base.

Imported lazily: naming this package costs neither torch nor numpy. ``predict`` is not among its names,
since its module has that name: ``from cherimoya.interpret.predict import predict``.
"""

from importlib import import_module

_HOMES = {
	"Prediction": "cherimoya.interpret.predict",
	"expected_counts": "cherimoya.interpret.predict",
	"projected_contributions": "cherimoya.interpret.attribution",
	"saturation_mutagenesis": "cherimoya.interpret.attribution",
}


def __getattr__(name: str) -> object:
	if name not in _HOMES:
		raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
	return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
	return sorted([*globals(), *_HOMES])
