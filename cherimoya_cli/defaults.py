"""The defaults of each command as plain dicts, derived from the declarations in `cherimoya_cli.settings`."""

from typing import Any

from cherimoya_cli.settings import defaults

default_pipeline_parameters: dict[str, Any] = defaults("pipeline")
default_preprocessing_parameters: dict[str, Any] = defaults("preprocessing")
default_negatives_parameters: dict[str, Any] = defaults("negatives")
default_fit_parameters: dict[str, Any] = defaults("fit")
default_evaluate_parameters: dict[str, Any] = defaults("evaluate")
default_predict_parameters: dict[str, Any] = defaults("predict")
default_attribute_parameters: dict[str, Any] = defaults("attribute")
default_seqlet_parameters: dict[str, Any] = defaults("seqlets")
default_annotation_parameters: dict[str, Any] = defaults("annotation")
default_modisco_motifs_parameters: dict[str, Any] = defaults("motifs")
default_modisco_report_parameters: dict[str, Any] = defaults("modisco_report")
default_marginalize_parameters: dict[str, Any] = defaults("marginalize")
default_variants_parameters: dict[str, Any] = defaults("variants")
