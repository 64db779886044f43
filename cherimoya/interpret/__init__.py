"""What a trained model says about sequences: predictions, contributions of bases, effects of variants.

Imported lazily: naming this package costs neither torch nor numpy. Functions that have the name of their module are
not among its names: ``from cherimoya.interpret.deep_lift_shap import deep_lift_shap``, and likewise ``predict``,
``integrated_gradients`` and ``marginalize``.
"""

from importlib import import_module

_HOMES = {
	"Attribution": "cherimoya.interpret._contrast",
	"Marginalization": "cherimoya.interpret.marginalize",
	"Prediction": "cherimoya.interpret.predict",
	"expected_counts": "cherimoya.interpret.predict",
	"predict_regions": "cherimoya.interpret.predict",
	"dinucleotide_shuffle": "cherimoya.interpret.references",
	"draw_backgrounds": "cherimoya.interpret.marginalize",
	"Seqlets": "cherimoya.interpret.seqlets",
	"annotate_seqlets": "cherimoya.interpret.seqlets",
	"find_seqlets": "cherimoya.interpret.seqlets",
	"projected_contributions": "cherimoya.interpret.attribution",
	"saturation_mutagenesis": "cherimoya.interpret.attribution",
	"tangermeme_rules": "cherimoya.interpret.deep_lift_shap",
	"VariantEffects": "cherimoya.interpret.variants",
	"variant_effects": "cherimoya.interpret.variants",
}


def __getattr__(name: str) -> object:
	if name not in _HOMES:
		raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
	return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
	return sorted([*globals(), *_HOMES])
