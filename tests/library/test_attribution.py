"""Saturation mutagenesis against its definition: put each base at each position, predict, subtract the mean."""

import numpy as np
import pytest
import torch

from cherimoya import Cherimoya, ControlWrapper, LogCountWrapper, ProfileWrapper
from cherimoya.errors import InputError, SettingsError
from cherimoya.interpret.attribution import n_predictions, projected_contributions, saturation_mutagenesis

LENGTH = 103  # 49 bases are cut from each side: an output of 5


def make_model(groups: tuple[int, ...] = (1, 2), n_control_tracks: int = 0) -> Cherimoya:
	model = Cherimoya(
		n_filters=5, n_layers=2, n_control_tracks=n_control_tracks, signal_groups=list(groups), random_state=3
	)
	with torch.no_grad():  # larger weights than the initial ones, so that single bases matter
		for parameter in model.parameters():
			parameter.mul_(8)
	return model


def make_codes(n: int = 3) -> np.ndarray:
	codes = np.random.default_rng(5).integers(0, 4, (n, LENGTH)).astype(np.uint8)
	codes[1::2, 50:52] = 4
	return codes


def to_one_hot(codes: np.ndarray) -> torch.Tensor:
	return torch.from_numpy(codes[:, None] == np.arange(4)[:, None]).float()  # (n, L) -> (n, 4, L)


def by_definition(f, X: torch.Tensor, start: int, end: int) -> torch.Tensor:
	"""f(x[b, i]) - mean over b', one substitution at a time, shape (n, 4, end - start)."""
	values = torch.zeros(len(X), 4, end - start, dtype=torch.float64)
	for base in range(4):
		for i in range(start, end):
			edited = X.clone()
			edited[:, :, i] = 0
			edited[:, base, i] = 1
			with torch.no_grad():
				values[:, base, i - start] = f(edited).sum(dim=-1)
	return values - values.mean(dim=1, keepdim=True)


@pytest.mark.parametrize("span", [(49, 54), (50, 51), (None, 4), (99, None)], ids=str)
@pytest.mark.parametrize("group", [None, 0, 1], ids=["all groups", "group 0", "group 1"])
@pytest.mark.parametrize("output", ["counts", "profile"])
def test_against_the_definition(output: str, group: int | None, span: tuple[int | None, int | None]) -> None:
	model, X = make_model().double(), to_one_hot(make_codes())
	start, end = span
	wrapper = (LogCountWrapper if output == "counts" else ProfileWrapper)(model, group)
	expected = by_definition(wrapper, X, start or 0, end or LENGTH)
	scores = saturation_mutagenesis(model, X, output=output, group=group, start=start, end=end, batch_size=7)
	assert scores.dtype == torch.float64 and expected.abs().max() > 1e-6
	torch.testing.assert_close(scores, expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("output", ["counts", "profile"])
def test_in_single_precision(output: str) -> None:
	model, X = make_model(), to_one_hot(make_codes())
	scores = saturation_mutagenesis(model, X, output=output, start=45, end=58, batch_size=10)
	exact = saturation_mutagenesis(model.double(), X, output=output, start=45, end=58)
	assert scores.dtype == torch.float32
	assert (scores - exact).abs().max() < 1e-4 * exact.abs().max()


@pytest.mark.parametrize("output", ["counts", "profile"])
def test_with_controls(output: str) -> None:
	model, X = make_model(n_control_tracks=2).double(), to_one_hot(make_codes()).double()
	X_ctl = torch.rand(3, 2, LENGTH, generator=torch.Generator().manual_seed(0)) * 9
	wrapper = (LogCountWrapper if output == "counts" else ProfileWrapper)(model)
	expected = by_definition(lambda edited: wrapper(edited, X_ctl), X, 48, 53)
	scores = saturation_mutagenesis(model, X, X_ctl, output=output, start=48, end=53, batch_size=8)
	torch.testing.assert_close(scores, expected, rtol=1e-7, atol=1e-12)
	without = by_definition(lambda edited: wrapper(edited, torch.zeros_like(X_ctl)), X, 48, 53)
	scores = saturation_mutagenesis(ControlWrapper(model), X, output=output, start=48, end=53)
	torch.testing.assert_close(scores, without, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 13, 64, 1000])
def test_batches_do_not_matter(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
	monkeypatch.setattr("cherimoya.interpret.attribution._BATCHES_PER_BLOCK", 2)  # several blocks
	model, codes = make_model().double(), make_codes(5)
	expected = by_definition(LogCountWrapper(model), to_one_hot(codes), 49, 53)
	for X in (codes, torch.from_numpy(codes), to_one_hot(codes).to(torch.int8)):
		scores = saturation_mutagenesis(model, X, start=49, end=53, batch_size=batch_size)
		torch.testing.assert_close(scores, expected, rtol=1e-7, atol=1e-12)


def test_the_sequence_itself_is_predicted_once() -> None:
	model, codes, sizes, progress = make_model(), make_codes(), [], []
	model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
	saturation_mutagenesis(
		model, codes, start=49, end=54, batch_size=16, progress=lambda *counts: progress.append(counts)
	)
	expected = 3 + 3 * 5 * 3 + 2  # itself, three others at five positions, and a fourth where a base is unknown
	assert sum(sizes) == expected == n_predictions(codes, start=49, end=54)
	assert n_predictions(to_one_hot(codes), start=49, end=54) == expected
	assert all(size == 16 for size in sizes[:-1])
	assert progress[-1] == (expected, expected) and len(progress) == len(sizes)


def test_scores_sum_to_zero_and_the_model_is_left_as_it_was() -> None:
	model = make_model().train()
	scores = saturation_mutagenesis(model, make_codes())
	assert scores.shape == (3, 4, LENGTH)
	assert scores.sum(dim=1).abs().max() < 1e-5
	assert model.training and all(parameter.grad is None for parameter in model.parameters())
	assert not scores.is_inference()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("output", ["counts", "profile"])
def test_on_a_gpu(output: str) -> None:
	model, codes = make_model(n_control_tracks=1), make_codes(5)
	X_ctl = torch.ones(5, 1, LENGTH)
	exact = saturation_mutagenesis(model.double(), codes, X_ctl, output=output, start=45, end=58)
	scores = saturation_mutagenesis(
		model.float(), codes, X_ctl, output=output, start=45, end=58, device="cuda", batch_size=9
	)
	assert scores.device.type == "cpu" and next(model.parameters()).device.type == "cpu"
	assert (scores - exact).abs().max() < 2e-2 * exact.abs().max()


@pytest.mark.parametrize("output", ["counts", "profile"])
@pytest.mark.parametrize("n_control_tracks", [0, 2], ids=["no controls", "controls left out"])
def test_editing_the_stems_output_is_editing_the_sequence(output: str, n_control_tracks: int) -> None:
	"""Over all positions, the ends included; a model that somebody listens to predicts edited sequences instead."""
	model = make_model(n_control_tracks=n_control_tracks)
	model = ControlWrapper(model) if n_control_tracks else model
	codes = make_codes(2)
	codes[1, [0, -1]] = 4
	calls: list[int] = []
	found = saturation_mutagenesis(model, codes, output=output, batch_size=37)
	hook = model.register_forward_hook(lambda module, inputs, outputs: calls.append(len(inputs[0])))
	expected = saturation_mutagenesis(model, codes, output=output, batch_size=37)
	hook.remove()
	assert sum(calls) == n_predictions(codes, start=0, end=LENGTH)
	torch.testing.assert_close(found, expected, rtol=0, atol=3e-5 * float(expected.abs().max()))


def test_the_profile_head_is_left_out_where_counts_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
	model, codes = make_model(), make_codes(1)
	expected = saturation_mutagenesis(model, codes, start=50, end=53)
	monkeypatch.setattr(Cherimoya, "_profile_head", None)
	assert torch.equal(saturation_mutagenesis(model, codes, start=50, end=53), expected)


def test_batches_that_do_not_fit_are_halved(monkeypatch: pytest.MonkeyPatch) -> None:
	model, codes, sizes = make_model(), make_codes(2), []
	expected = saturation_mutagenesis(model, codes, start=50, end=56)
	trunk = Cherimoya._trunk

	def small(self: Cherimoya, x: torch.Tensor) -> torch.Tensor:
		sizes.append(len(x))
		if len(x) > 9:
			raise torch.OutOfMemoryError("too large")
		return trunk(self, x)

	monkeypatch.setattr(Cherimoya, "_trunk", small)
	found = saturation_mutagenesis(model, codes, start=50, end=56, batch_size=16)
	torch.testing.assert_close(found, expected, rtol=0, atol=3e-5 * float(expected.abs().max()))
	assert sizes[:3] == [16, 8, 8]


def test_no_sequences_give_empty_scores() -> None:
	assert saturation_mutagenesis(make_model(), make_codes()[:0], start=3, end=9).shape == (0, 4, 6)


def test_contribution_of_the_base_that_is_there() -> None:
	scores = torch.arange(24.0).reshape(2, 4, 3)
	X = torch.zeros(2, 4, 3, dtype=torch.int8)
	X[0, [0, 2, 3], [0, 1, 2]] = 1
	X[1, 1, 0] = 1  # the other two columns are unknown bases
	expected = torch.tensor([[0.0, 7, 11], [15, 0, 0]])
	assert torch.equal(projected_contributions(scores, X), expected)
	assert torch.equal(projected_contributions(scores.numpy(), X.numpy()), expected)
	with pytest.raises(InputError, match="same positions"):
		projected_contributions(scores, X[..., 1:])


@pytest.mark.parametrize(
	("options", "error", "words"),
	[
		({"output": "logits"}, SettingsError, '"counts" or "profile"'),
		({"group": 2}, SettingsError, "2 signal groups, 0 to 1"),
		({"group": -1}, SettingsError, "got -1"),
		({"start": 9, "end": 9}, SettingsError, "got 9 and 9"),
		({"end": LENGTH + 1}, SettingsError, f"<= {LENGTH}"),
		({"X": torch.full((2, 4, LENGTH), 0.25)}, InputError, "sequence 0, position 0"),
		({"X": torch.full((2, LENGTH), 5, dtype=torch.uint8)}, InputError, "base code"),
		({"X": torch.zeros(2, 3, LENGTH)}, InputError, r"\(2, 3, 103\)"),
	],
	ids=["output", "group", "negative group", "empty span", "span beyond", "soft bases", "codes", "three rows"],
)
def test_bad_arguments(options: dict, error: type[Exception], words: str) -> None:
	options = {"X": make_codes(), **options}
	with pytest.raises(error, match=words):
		saturation_mutagenesis(make_model(), **options)
