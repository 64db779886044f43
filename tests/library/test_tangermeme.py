"""Models and wrappers inside tangermeme's functions, without adapters; each value is computed once more by hand."""

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from cherimoya import Cherimoya, ControlWrapper, ExpectedCountsWrapper, LogCountWrapper, ProfileWrapper
from cherimoya.interpret import tangermeme_rules

pytest.importorskip("tangermeme")

import tangermeme.saturation_mutagenesis as tangermeme_mutagenesis
from tangermeme.ablate import ablate
from tangermeme.deep_lift_shap import deep_lift_shap
from tangermeme.dependency_map import dependency_map
from tangermeme.design import beam_substitution, greedy_marginalize, greedy_substitution, screen
from tangermeme.ersatz import shuffle
from tangermeme.marginalize import marginalize
from tangermeme.predict import predict
from tangermeme.saliency import saliency
from tangermeme.saturation_mutagenesis import saturation_mutagenesis
from tangermeme.space import space
from tangermeme.utils import PackedSequence, random_one_hot
from tangermeme.variant_effect import deletion_effect, insertion_effect, substitution_effect

LENGTH = 40
MOTIF = "TGACTCA"


def make_model(n_control_tracks: int = 0) -> Cherimoya:
	"""Groups of 1 and 2 channels, in training mode, with weights large enough to give profiles a shape."""
	model = Cherimoya(
		n_filters=5, n_layers=2, signal_groups=[1, 2], n_control_tracks=n_control_tracks, trimming=8, random_state=0
	)
	with torch.no_grad():
		for p in model.parameters():
			p.mul_(20) if p.ndim > 1 else None
		model.linear.bias.fill_(3)
	return model


# Every way to put a model into one of tangermeme's functions: a module of X, or of X and controls.
VIEWS: dict[str, Callable[[], torch.nn.Module]] = {
	"log counts": lambda: LogCountWrapper(make_model()),
	"log count of a group": lambda: LogCountWrapper(make_model(), 1),
	"profile": lambda: ProfileWrapper(make_model()),
	"profile of a group": lambda: ProfileWrapper(make_model(), 0),
	"expected counts": lambda: ExpectedCountsWrapper(make_model()),
	"controls left out": lambda: LogCountWrapper(ControlWrapper(make_model(2))),
	"controls given": lambda: ProfileWrapper(make_model(2)),
}
# Those that give one number, or one a group.
SCALARS = [name for name in VIEWS if name != "expected counts"]


def one_hot(n: int = 3, length: int = LENGTH, seed: int = 0) -> torch.Tensor:
	"""Random sequences as int8, as tangermeme keeps them."""
	codes = np.random.default_rng(seed).integers(0, 4, size=(n, length))
	return torch.from_numpy(np.eye(4, dtype=np.int8)[codes]).transpose(1, 2).contiguous()


def to_one_hot(text: str) -> torch.Tensor:
	return torch.tensor([[letter == base for letter in text] for base in "ACGT"]).to(torch.int8)


def controls_of(case: str, n: int = 3, length: int = LENGTH) -> tuple[torch.Tensor, ...] | None:
	"""The further arguments of a view: random controls where it needs them."""
	if case != "controls given":
		return None
	return (torch.rand(n, 2, length, generator=torch.Generator().manual_seed(0)) * 9,)


@torch.no_grad()
def by_hand(view: torch.nn.Module, X: torch.Tensor, args: tuple[torch.Tensor, ...] | None = None) -> torch.Tensor:
	"""What the view says, one sequence at a time."""
	rows = [view(X[i : i + 1].float(), *(a[i : i + 1] for a in args or ())) for i in range(len(X))]
	return torch.cat(rows)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
	torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(params=VIEWS)
def case(request: pytest.FixtureRequest) -> str:
	return request.param


@pytest.fixture
def view(case: str) -> Iterator[torch.nn.Module]:
	"""A view in training mode; afterwards it must be as it was: mode, weights, hooks, and able to train."""
	view = VIEWS[case]().train()
	before = {name: value.clone() for name, value in view.state_dict().items()}
	yield view
	assert all(module.training for module in view.modules())
	assert all(p.requires_grad and p.grad is None and p.device.type == "cpu" for p in view.parameters())
	assert all(torch.equal(value, before[name]) for name, value in view.state_dict().items())
	assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in view.modules())
	view(one_hot(1).float(), *(controls_of(case, 1) or ())).sum().backward()
	assert any(p.grad is not None for name, p in view.named_parameters() if name.endswith("iconv.weight"))


# Prediction.


@pytest.mark.parametrize("wrap", [None, ControlWrapper], ids=["the model", "controls filled in"])
def test_predict_gives_logits_and_log_counts(wrap) -> None:
	model, X = make_model(2 if wrap else 0).train(), one_hot()
	logits, log_counts = predict(wrap(model) if wrap else model, X, batch_size=2, device="cpu")
	expected = model.predict(X, torch.zeros(3, 2, LENGTH) if wrap else None)
	close(logits, expected.logits)
	close(log_counts, expected.log_counts)
	assert model.training


def test_predict_with_controls() -> None:
	model, X, args = make_model(2), one_hot(), controls_of("controls given")
	logits, log_counts = predict(model, X, args=args, batch_size=2, device="cpu")
	close(logits, model.predict(X, *args).logits)
	close(log_counts, model.predict(X, *args).log_counts)


def test_predict_of_every_view(case: str, view: torch.nn.Module) -> None:
	X, args = one_hot(), controls_of(case)
	close(predict(view, X, args=args, batch_size=2, device="cpu"), by_hand(view, X, args))


def test_packed_sequences(case: str, view: torch.nn.Module) -> None:
	X, args = one_hot(), controls_of(case)
	close(predict(view, PackedSequence.from_one_hot(X), args=args, device="cpu"), by_hand(view, X, args))


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_predict_in_another_type(dtype: str) -> None:
	view, X = LogCountWrapper(make_model()), one_hot()
	found, expected = predict(view, X, dtype=dtype, device="cpu"), by_hand(view, X)
	assert (found - expected).abs().max() < (0.1 if dtype == "bfloat16" else 1e-5)


def test_predict_of_weights_in_float64() -> None:
	view, X = ProfileWrapper(make_model().double()), one_hot()
	found = predict(view, X, device="cpu")
	assert found.dtype == torch.float64
	torch.testing.assert_close(found, view(X.double()).detach(), rtol=1e-12, atol=1e-12)


# Contributions.


@pytest.fixture(params=[False, True], ids=["whole", "captured"])
def fast(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
	"""Whether tangermeme captures the model with torch.export, however long that takes."""
	monkeypatch.setattr(tangermeme_mutagenesis, "_FAST_MIN_SECONDS", 0.0)
	monkeypatch.setattr(tangermeme_mutagenesis, "_FAST_MAX_RELATIVE_TIME", float("inf"))
	return request.param


def test_saturation_mutagenesis(case: str, view: torch.nn.Module) -> None:
	X, args = one_hot(2), controls_of(case, 2)
	y0, y_hat = saturation_mutagenesis(view, X, args=args, start=9, end=14, device="cpu", raw_outputs=True)[:2]
	close(y0, by_hand(view, X, args))
	for base, position in itertools.product(range(4), range(5)):
		mutant = X.clone()
		mutant[:, :, 9 + position] = 0
		mutant[:, base, 9 + position] = 1
		close(y_hat[:, base, position], by_hand(view, mutant, args))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
	"case",
	["log counts", pytest.param("controls given", marks=pytest.mark.slow)],
	indirect=True,
)
def test_saturation_mutagenesis_on_a_captured_graph(case: str, view: torch.nn.Module, fast: bool) -> None:
	# a failed capture, or other values than the whole model's, would be a warning, and so an error here
	X, args = one_hot(1), controls_of(case, 1)
	y_hat = saturation_mutagenesis(view, X, args=args, end=12, fast=fast, device="cpu", raw_outputs=True).y_hat
	mutant = X.clone()
	mutant[0, :, 11] = torch.tensor([0, 0, 1, 0])
	torch.testing.assert_close(y_hat[:, 2, 11], by_hand(view, mutant, args), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", SCALARS, indirect=True)
def test_saliency(case: str, view: torch.nn.Module) -> None:
	X, args = one_hot(2), controls_of(case, 2)
	found = saliency(view, X, args=args, hypothetical=True, gradient_correction=False, device="cpu")
	leaf = X.float().requires_grad_()
	(expected,) = torch.autograd.grad(view(leaf, *(args or ()))[:, 0].sum(), leaf)
	close(found, expected)


@pytest.mark.parametrize("case", ["log counts", "controls given"], indirect=True)
def test_dependency_map(case: str, view: torch.nn.Module) -> None:
	X, args = one_hot(1), controls_of(case, 1)
	found = dependency_map(view, X, args=args, start=18, end=20, device="cpu")
	plain = saliency(view, X, args=args, device="cpu").sum(dim=1)  # (1, 4, L) -> (1, L)
	for i, position in enumerate((18, 19)):
		others = [base for base in range(4) if not X[0, base, position]]
		mutants = X.repeat(3, 1, 1)
		mutants[:, :, position] = 0
		mutants[range(3), others, position] = 1
		changed = saliency(view, mutants, args=args and (args[0].expand(3, -1, -1),), device="cpu").sum(dim=1)
		close(found[0, :, i], (changed - plain).abs().mean(dim=0))


@pytest.mark.parametrize("case", SCALARS, indirect=True)
def test_deep_lift_shap_adds_up_and_leaves_no_trace(case: str, view: torch.nn.Module) -> None:
	X, args = one_hot(2), controls_of(case, 2)
	references = shuffle(X, n=3, random_state=0)  # (2, 3, 4, L)
	found = deep_lift_shap(
		view, X, args=args, references=references, device="cpu", additional_nonlinear_ops=tangermeme_rules()
	)
	repeated = args and tuple(a.repeat_interleave(3, dim=0) for a in args)
	away = by_hand(view, references.flatten(0, 1), repeated).unflatten(0, (2, 3)).mean(dim=1)
	change = (by_hand(view, X, args) - away)[:, 0]
	torch.testing.assert_close(found.sum(dim=(1, 2)), change, rtol=1e-3, atol=1e-4)


# Perturbations.


def test_marginalize(case: str, view: torch.nn.Module) -> None:
	X, args = one_hot(), controls_of(case)
	before, after = marginalize(view, X, MOTIF, start=12, args=args, device="cpu")
	inserted = X.clone()
	inserted[:, :, 12:19] = to_one_hot(MOTIF)
	close(before, by_hand(view, X, args))
	close(after, by_hand(view, inserted, args))
	assert not torch.allclose(before, after)


def test_ablate(case: str, view: torch.nn.Module) -> None:
	X, args = one_hot(), controls_of(case)
	before, after = ablate(view, X, 15, 25, n=2, args=args, device="cpu", random_state=3)
	shuffled = shuffle(X, start=15, end=25, n=2, random_state=3)  # (3, 2, 4, L)
	close(before, by_hand(view, X, args))
	for i in range(2):
		close(after[:, i], by_hand(view, shuffled[:, i], args))


def test_space(case: str, view: torch.nn.Module) -> None:
	X = one_hot()
	args = controls_of(case)
	before, after = space(view, X, ["TGA", "TCA"], [[1], [4]], start=10, args=args, device="cpu")
	close(before, by_hand(view, X, args))
	for i, gap in enumerate((1, 4)):
		inserted = X.clone()
		inserted[:, :, 10:13], inserted[:, :, 13 + gap : 16 + gap] = to_one_hot("TGA"), to_one_hot("TCA")
		close(after[:, i], by_hand(view, inserted, args))


# Variants.


def test_substitution_effect(case: str, view: torch.nn.Module) -> None:
	X, args = one_hot(), controls_of(case)
	changes = torch.tensor([[0, 20, 2], [1, 5, 0], [1, 30, 3], [2, 39, 1]])  # sequence, position, base
	before, after = substitution_effect(view, X, changes, args=args, device="cpu")
	changed = X.clone()
	for i, position, base in changes.tolist():
		changed[i, :, position] = 0
		changed[i, base, position] = 1
	close(before, by_hand(view, X, args))
	close(after, by_hand(view, changed, args))


@pytest.mark.parametrize("case", [name for name in VIEWS if name != "controls given"], indirect=True)
def test_deletion_effect(case: str, view: torch.nn.Module) -> None:
	X = one_hot(length=LENGTH + 2)
	gone = torch.tensor([[0, 10], [0, 11], [1, 0], [1, 41], [2, 20], [2, 30]])
	before, after = deletion_effect(view, X, gone, device="cpu")
	close(before, by_hand(view, X[:, :, :LENGTH]))
	for i in range(3):
		kept = [p for p in range(LENGTH + 2) if [i, p] not in gone.tolist()]
		close(after[i : i + 1], by_hand(view, X[i : i + 1, :, kept]))


@pytest.mark.parametrize("case", [name for name in VIEWS if name != "controls given"], indirect=True)
def test_insertion_effect(case: str, view: torch.nn.Module) -> None:
	X = one_hot()
	before, after = insertion_effect(view, X, torch.tensor([[0, 10, 3], [1, 0, 2], [2, 25, 1]]), device="cpu")
	close(before, by_hand(view, X))
	for i, (position, base) in enumerate(((10, "T"), (0, "G"), (25, "C"))):
		parts = (X[i, :, :position], to_one_hot(base), X[i, :, position:])
		close(after[i : i + 1], by_hand(view, torch.cat(parts, dim=1)[None, :, :LENGTH]))


# Design.


def all_insertions(X: torch.Tensor, motif: str) -> torch.Tensor:
	"""The sequence with the motif at each position in turn."""
	inserted = X.repeat(LENGTH - len(motif) + 1, 1, 1)
	for start in range(len(inserted)):
		inserted[start, :, start : start + len(motif)] = to_one_hot(motif)
	return inserted


@pytest.mark.parametrize("case", [name for name in SCALARS if name != "controls given"], indirect=True)
@pytest.mark.parametrize("goal", [None, 7.0], ids=["as much as possible", "a value"])
def test_greedy_substitution_takes_the_best_insertion(case: str, view: torch.nn.Module, goal: float | None) -> None:
	X = one_hot(1)
	y = None if goal is None else torch.full((1, by_hand(view, X).shape[1]), goal)
	found = greedy_substitution(view, X, y, motifs=["TGAC", "CCGG"], reverse_complement=False, max_iter=1, device="cpu")
	candidates = torch.cat([X, *(all_insertions(X, motif) for motif in ("TGAC", "CCGG"))])
	values = by_hand(view, candidates)
	loss = -values.mean(1) if goal is None else ((values - goal) ** 2).mean(1)
	assert float(by_loss(view, found, goal)) == pytest.approx(float(loss.min()), abs=1e-5)
	assert (candidates == found).all(dim=(1, 2)).any()


def by_loss(view: torch.nn.Module, X: torch.Tensor, goal: float | None) -> torch.Tensor:
	"""What a design minimises."""
	values = by_hand(view, X)
	return -values.mean() if goal is None else ((values - goal) ** 2).mean()


@pytest.mark.parametrize("case", ["log count of a group", "controls left out"], indirect=True)
def test_beam_substitution_is_no_worse_than_greedy(case: str, view: torch.nn.Module) -> None:
	X = one_hot(1)
	settings = {"motifs": ["TGAC", "GG"], "max_iter": 2, "device": "cpu"}
	beam, greedy = beam_substitution(view, X, beam_size=3, **settings), greedy_substitution(view, X, **settings)
	assert by_loss(view, beam, None) <= by_loss(view, greedy, None) + 1e-5 < by_loss(view, X, None)


@pytest.mark.parametrize("case", ["log counts", "profile of a group"], indirect=True)
def test_greedy_marginalize_takes_the_motif_with_the_wanted_mean_effect(case: str, view: torch.nn.Module) -> None:
	X, motifs = one_hot(4), ["TGAC", "GGGG", "ATAT"]
	before, effects = by_hand(view, X), {}
	for motif in motifs:
		inserted = X.clone()
		inserted[:, :, 19:23] = to_one_hot(motif)
		effects[motif] = by_hand(view, inserted) - before  # (4, outputs)
	goal = 100 * max((effect.mean(dim=0, keepdim=True) for effect in effects.values()), key=lambda mean: mean.norm())
	best = min(motifs, key=lambda motif: float(((effects[motif] - goal) ** 2).mean()))
	found = greedy_marginalize(view, X, goal, motifs, reverse_complement=False, max_iter=1, tol=-1.0, device="cpu")
	close(found.reshape(4, -1).float(), to_one_hot(best).float())


@pytest.mark.parametrize("case", ["log counts", "profile"], indirect=True)
def test_screen_keeps_the_best_of_what_it_draws(case: str, view: torch.nn.Module) -> None:
	settings = {"max_iter": 3, "batch_size": 8, "tol": -1e9, "random_state": 5, "device": "cpu"}
	found = screen(view, (4, LENGTH), loss=lambda y, y_hat: -y_hat, **settings)
	drawn = torch.cat([random_one_hot((8, 4, LENGTH), random_state=5 + i) for i in range(3)])
	best = drawn[by_hand(view, drawn).sum(dim=1).argmax()]
	assert torch.equal(found.squeeze(0).to(best.dtype), best)
