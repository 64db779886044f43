"""The average of weights: its arithmetic, swapping, and refusals."""

import pytest
import torch

from cherimoya import EMA, Cherimoya


def _model() -> Cherimoya:
	return Cherimoya(n_filters=3, n_layers=2, random_state=0, signal_groups=[1, 2])


def _step(model: Cherimoya, seed: int) -> None:
	"""Move every parameter, as an optimizer does."""
	generator = torch.Generator().manual_seed(seed)
	with torch.no_grad():
		for p in model.parameters():
			p.add_(torch.randn(p.shape, generator=generator))


def test_update_is_its_formula_and_the_decay_can_be_ramped():
	model = _model()
	ema = EMA(model, decay=0.9)
	expected = {n: p.detach().double() for n, p in model.named_parameters()}
	for t in range(5):
		_step(model, t)
		decay = min(0.9, (1 + t) / (10 + t)) if t < 3 else 0.9
		ema.update(model, **({"decay": decay} if t < 3 else {}))
		expected = {n: decay * expected[n] + (1 - decay) * p.detach() for n, p in model.named_parameters()}
	for name, value in expected.items():
		torch.testing.assert_close(ema.shadow[name].double(), value, rtol=1e-5, atol=1e-6)
	assert ema.decay == 0.9


def test_default_decay():
	assert EMA(_model()).decay == 0.999


def test_swap_and_restore():
	model = _model()
	ema = EMA(model, decay=0.5)
	_step(model, 0)
	ema.update(model)
	own = {n: p.detach().clone() for n, p in model.named_parameters()}
	versions = {n: p._version for n, p in model.named_parameters()}
	identities = [id(p) for p in model.parameters()]
	ema.apply_shadow(model)
	assert all(torch.equal(p, ema.shadow[n]) for n, p in model.named_parameters())
	assert all(p._version > versions[n] for n, p in model.named_parameters())
	with torch.no_grad():
		model.iconv.weight.zero_()
	assert ema.shadow["iconv.weight"].any()
	ema.restore(model)
	assert all(torch.equal(p, own[n]) for n, p in model.named_parameters())
	assert [id(p) for p in model.parameters()] == identities


def test_the_forward_follows_the_swap():
	model = _model()
	X = torch.eye(4).repeat(1, 1, 40)
	ema = EMA(model)
	before = model(X)
	_step(model, 0)
	moved = model(X)
	ema.apply_shadow(model)
	for a, b in zip(model(X), before, strict=True):
		assert torch.equal(a, b)
	ema.restore(model)
	for a, b in zip(model(X), moved, strict=True):
		assert torch.equal(a, b)


def test_only_trainable_floating_parameters_have_shadows():
	model = _model()
	model.lw0.requires_grad_(False)
	model.register_parameter("steps", torch.nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False))
	ema = EMA(model)
	assert set(ema.shadow) == {n for n, _ in model.named_parameters()} - {"lw0", "steps"}
	assert not any(s.requires_grad for s in ema.shadow.values())
	model.lw1.requires_grad_(False)  # frozen later: its average still goes in and out
	ema.apply_shadow(model)
	ema.restore(model)


def test_misuse_is_refused():
	model = _model()
	ema = EMA(model)
	with pytest.raises(RuntimeError, match="without apply_shadow"):
		ema.restore(model)
	ema.apply_shadow(model)
	with pytest.raises(RuntimeError, match="called twice"):
		ema.apply_shadow(model)
	with pytest.raises(RuntimeError, match="call restore"):
		ema.update(model)
	ema.restore(model)
	with pytest.raises(RuntimeError, match="without apply_shadow"):
		ema.restore(model)
	for decay in (-0.1, 1.1):
		with pytest.raises(ValueError, match="between 0 and 1"):
			EMA(model, decay=decay)
	with pytest.raises(ValueError, match=r"named .*fconv\.weight"):
		ema.update(Cherimoya(n_filters=3, n_layers=2, random_state=0))


def test_state_survives_a_round_trip(tmp_path):
	model = _model()
	ema = EMA(model, decay=0.7)
	_step(model, 0)
	ema.update(model)
	torch.save(ema.state_dict(), tmp_path / "ema.pt")
	other = EMA(_model())
	other.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
	assert other.decay == 0.7
	assert all(torch.equal(other.shadow[n], s) for n, s in ema.shadow.items())
	_step(model, 1)
	ema.update(model)
	other.update(model)
	assert all(torch.equal(other.shadow[n], s) for n, s in ema.shadow.items())
	with pytest.raises(ValueError, match="another model"):
		EMA(Cherimoya(n_filters=4, n_layers=2)).load_state_dict(ema.state_dict())
