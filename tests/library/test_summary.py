"""The summary says what the model is, for every shape that a model can have."""

from pathlib import Path

import pytest
import torch

from cherimoya import Cherimoya, cheri
from cherimoya.kernels import reference
from cherimoya.summary import parts, receptive_field, summarize

FIXTURES = Path(__file__).resolve().parents[3] / "shared" / "fixtures" / "checkpoints"
RELEASED = sorted(FIXTURES.glob("*.torch"))

MODELS = {
	"default": {},
	"atlas": {"n_filters": 128, "profile_kernel_size": 75},
	"one block": {"n_filters": 4, "n_layers": 1},
	"groups and controls": {
		"n_filters": 6,
		"n_layers": 2,
		"signal_groups": [1, 2],
		"n_control_tracks": 3,
		"expansion": 3,
		"profile_kernel_size": 9,
	},
	"a wide margin": {"n_filters": 4, "n_layers": 2, "trimming": 1057, "residual_scale": 1.0},
}


def _facts(text: str) -> dict[str, str]:
	"""The lines of a summary by their first words."""
	return {line.split("  ")[0]: line.split("  ", 1)[1].strip() for line in text.splitlines() if "  " in line}


def test_the_default_model() -> None:
	facts = _facts(Cherimoya().summary())
	assert facts["source"] == "made here, not loaded from a file"
	assert facts["signal groups"] == "[1]: 1 profile channel, 1 count"
	assert facts["controls"] == "none"
	assert facts["windows"] == "2,114 bp of sequence to 1,000 bp of profile"
	assert facts["smallest window"] == "1,115 bp of sequence to 1 bp of profile"
	assert facts["trimming"] == "557 bp from each side"
	assert facts["receptive field"].startswith("1,043 bp")
	assert facts["weights"] == "float32 on cpu"
	assert facts["total"] == "342,724"


def test_groups_controls_and_a_wide_head() -> None:
	text = Cherimoya(**MODELS["groups and controls"], name="my model").double().summary()
	facts = _facts(text)
	assert text.startswith("my model\n")
	assert facts["signal groups"] == "[1, 2]: 3 profile channels, 2 counts"
	assert facts["controls"] == "3 tracks"
	assert facts["2 blocks"].startswith("6 channels, dilation 1 to 2, hidden 18, residual scale 0.15")
	assert facts["profile head"].startswith("6 channels + 3 controls to 3, width 9")
	assert facts["count head"].startswith("6 channels + the controls' total to 2")
	assert facts["weights"] == "float64 on cpu"


def test_a_window_that_is_too_short_is_said() -> None:
	facts = _facts(Cherimoya(**MODELS["a wide margin"]).summary())
	assert facts["windows"] == "2,114 bp of sequence are too short"
	assert facts["smallest window"] == "2,115 bp of sequence to 1 bp of profile"


@pytest.mark.parametrize("case", MODELS)
def test_parts_hold_every_parameter_once(case: str) -> None:
	model = Cherimoya(**MODELS[case])
	total = sum(p.numel() for p in model.parameters())
	assert sum(part.n_parameters for part in parts(model)) == total
	assert f"{total:,}" in summarize(model).splitlines()[-1]


@pytest.mark.parametrize("case", [case for case in MODELS if case != "atlas"])
def test_the_smallest_window_is_one(case: str) -> None:
	model = Cherimoya(**MODELS[case])
	smallest = 2 * model.trimming + 1
	controls = (torch.zeros(1, 3, smallest),) if model.n_control_tracks else ()
	assert model(torch.zeros(1, 4, smallest), *controls)[0].shape[-1] == 1
	with pytest.raises(ValueError):
		model(torch.zeros(1, 4, smallest - 1), *(c[..., 1:] for c in controls))


@pytest.mark.parametrize("case", ["one block", "groups and controls"])
def test_the_receptive_field_is_what_a_gradient_reaches_without_the_norms(
	case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
	model = Cherimoya(**MODELS[case], random_state=0).double()
	for block in model.blocks:
		block.linear1.register_forward_hook(lambda *_: None)  # module by module
	monkeypatch.setattr(cheri, "fused_dilated_conv_norm", reference.dilated_conv)
	length = 2 * model.trimming + 31
	X = torch.rand(1, 4, length, dtype=torch.float64, requires_grad=True)
	controls = (torch.zeros(1, 3, length),) if model.n_control_tracks else ()
	model(X, *controls)[0][0, 0, 15].backward()
	reached = X.grad.abs().sum(dim=(0, 1)).nonzero()[:, 0]
	assert int(reached[-1] - reached[0]) + 1 == len(reached) == receptive_field(model)


@pytest.mark.skipif(not RELEASED, reason="the recorded checkpoints in ../shared are not there")
@pytest.mark.parametrize("path", RELEASED, ids=lambda p: p.stem)
def test_released_checkpoints(path: Path) -> None:
	model = Cherimoya.load(path)
	facts = _facts(model.summary())
	release = "0.1" if path.stem.startswith("v0.1") else "0.2 or 0.3"
	assert facts["source"] == f"{path} (published release {release})"
	assert facts["signal groups"].startswith(f"{list(model.signal_groups)}: ")
	assert facts["total"] == f"{sum(p.numel() for p in model.parameters()):,}"
	assert f"width {1 if release == '0.1' else 75}" in facts["profile head"]


def test_a_model_saved_here_says_so(tmp_path: Path) -> None:
	Cherimoya(**MODELS["one block"]).save(tmp_path / "m.torch")
	model = Cherimoya.load(tmp_path / "m.torch")
	assert model.source == f"{tmp_path / 'm.torch'} (format of this package)"
	assert "source" not in model.config
