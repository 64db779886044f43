"""Effects of motifs in backgrounds, compared with windows made from text and loops that say what is meant."""

import math

import numpy as np
import pytest
import torch

from cherimoya import Cherimoya, ControlWrapper
from cherimoya.errors import InputError, SettingsError
from cherimoya.groups import group_slices
from cherimoya.interpret import draw_backgrounds
from cherimoya.interpret import marginalize as module
from cherimoya.interpret.deep_lift_shap import deep_lift_shap
from cherimoya.interpret.marginalize import (
	MEASURES,
	SUMMARIES,
	insert_of,
	letters,
	marginalize,
	motifs_at_a_time,
	ranks,
	signed_rank_test,
	summarize,
)
from cherimoya.interpret.predict import predict
from cherimoya.io.motifs import Motif

L, TRIMMING = 61, 12
OUT = L - 2 * TRIMMING
PAIRS = str.maketrans("ACGT", "TGCA")


def motif(text, name="M", strength=0.97):
	"""A motif that spells a text; N is a position without information."""
	pwm = np.full((4, len(text)), (1 - strength) / 3)
	for i, letter in enumerate(text):
		pwm[:, i] = 0.25 if letter == "N" else pwm[:, i]
		if letter != "N":
			pwm["ACGT".index(letter), i] = strength
	return Motif(name, name, pwm)


def codes_of(texts):
	return np.array([["ACGTN".index(letter) for letter in text] for text in texts], dtype=np.uint8)


def make_model(groups=(1,), seed=0, n_control_tracks=0):
	"""A small model in double precision whose predictions depend on the sequence by more than they do at first."""
	model = Cherimoya(
		signal_groups=list(groups),
		n_control_tracks=n_control_tracks,
		random_state=seed,
		n_filters=4,
		n_layers=2,
		trimming=TRIMMING,
	).double()
	generator = torch.Generator().manual_seed(seed)
	with torch.no_grad():
		for head in (model.linear, model.fconv):
			head.weight.copy_(torch.randn(head.weight.shape, generator=generator, dtype=torch.float64))
	return model


@pytest.fixture(scope="module")
def texts():
	"""Seven backgrounds, one of them with an N in the middle."""
	rng = np.random.default_rng(1)
	rows = ["".join(rng.choice(list("ACGT"), L)) for _ in range(7)]
	rows[3] = rows[3][: L // 2] + "N" + rows[3][L // 2 + 1 :]
	return rows


MOTIFS = [motif("TGACTCA", "ap1"), motif("GNNCATTC", "gap"), motif("C", "one"), motif("ACGTNACGT", "palindrome")]


class Finder(torch.nn.Module):
	"""Counts the places where a word stands: log(1 + counts) is a half of a nat for each; the profile is flat."""

	signal_groups = (1,)

	def __init__(self, word):
		super().__init__()
		self.word = torch.from_numpy(codes_of([word])[0]).long()
		self.calls = 0

	def forward(self, X, X_ctl=None):
		found = torch.ones(len(X), X.shape[-1] - len(self.word) + 1, dtype=X.dtype)
		for i, base in enumerate(self.word):
			found = found * X[:, base, i : X.shape[-1] - len(self.word) + 1 + i]
		self.calls += len(X)
		return torch.zeros(len(X), 1, X.shape[-1] - 2 * TRIMMING), 0.5 * found.sum(dim=1, keepdim=True)


def with_motif(text, insert, *, reverse):
	"""A background with an insert in its middle, as texts; N in the insert keeps what is there."""
	insert = insert[::-1].translate(PAIRS) if reverse else insert
	start = len(text) // 2 - len(insert) // 2
	return "".join(
		insert[i - start] if 0 <= i - start < len(insert) and insert[i - start] != "N" else base
		for i, base in enumerate(text)
	)


def one(model, text):
	"""Logits (T, out) and log counts (G,) of one sequence."""
	X = torch.zeros(1, 4, len(text), dtype=torch.float64)
	for i, base in enumerate(text):
		if base in "ACGT":
			X[0, "ACGT".index(base), i] = 1
	tracks = model.n_control_tracks
	control = torch.zeros(1, tracks, len(text), dtype=torch.float64) if tracks else None
	model.eval()
	with torch.no_grad():
		logits, counts = model(X, control)
	return logits[0], counts[0]


def entropy(p):
	return -sum(x * math.log(x) for x in p if x > 0)


def expected_measures(model, before, after):
	"""The five measures of each group, (G, 5), of two sequences, and the expected counts (T, out) of both."""
	rows, expected = [], [[], []]
	predictions = [one(model, text) for text in (before, after)]
	for g, channels in enumerate(group_slices(model.signal_groups)):
		profiles = []
		for k, (logits, counts) in enumerate(predictions):
			values = logits[channels].exp()
			profiles.append((values / values.sum()).flatten().tolist())
			expected[k].append((values / values.sum() * counts[g].expm1()).numpy())
		x, y = (float(counts[g]) for _, counts in predictions)
		middle = [(a + b) / 2 for a, b in zip(*profiles, strict=True)]
		jsd = entropy(middle) - (entropy(profiles[0]) + entropy(profiles[1])) / 2
		l1 = sum(abs(a - b) for a, b in zip(*profiles, strict=True))
		rows.append([math.log2(math.exp(y) / math.exp(x)), jsd, l1, math.exp(x) - 1, math.exp(y) - 1])
	return np.array(rows), [np.concatenate(part) for part in expected]


def test_a_planted_word_ranks_first_with_its_exact_effect(texts):
	"""Once, in the orientation in which the model knows it; motifs that the model does not know have no effect."""
	word = "TGACTCAGG"
	plain = [text for text in texts if word not in text]
	motifs = [motif("CCCCCCC", "other"), motif(word, "known"), motif("GATTACA", "third")]
	found = marginalize(Finder(word), motifs, codes_of(plain))
	summary = found.summary()
	half = 0.5 / math.log(2)
	np.testing.assert_allclose(found.effects[1, 0, :, 0, 0], half, rtol=1e-6)
	np.testing.assert_array_equal(found.effects[1, 1, :, 0, 0], 0)
	np.testing.assert_array_equal(found.effects[[0, 2], ..., :3], 0)
	assert summary["log2fc_counts"][:, 0] == pytest.approx([0, half / 2, 0])
	assert summary["log2fc_counts_forward"][1, 0] == pytest.approx(half)
	assert summary["log2fc_counts_reverse"][1, 0] == 0 and summary["same_sign"][1, 0] == 1
	assert summary["counts_with"][1, 0] == pytest.approx((math.exp(0.5) - 1) / 2)
	assert ranks(summary["log2fc_counts"])[:, 0].tolist() == [2, 1, 3]


@pytest.mark.parametrize("n_control_tracks", [0, 2], ids=["no control", "controls"])
@pytest.mark.parametrize("groups", [(1,), (2,), (1, 2)], ids=str)
@pytest.mark.parametrize("length", [L, L - 1], ids="length{}".format)
def test_measures_and_profiles_are_those_of_a_loop(texts, one_torch_thread, groups, n_control_tracks, length):
	model, texts = make_model(groups, n_control_tracks=n_control_tracks), [text[:length] for text in texts]
	found = marginalize(model, MOTIFS, codes_of(texts), profile_window=20)
	assert found.effects.shape == (len(MOTIFS), 2, len(texts), len(groups), len(MEASURES))
	assert found.inserts == ["TGACTCA", "GNNCATTC", "C", "ACGTNACGT"]
	order = [c for part in group_slices(groups) for c in reversed(range(part.start, part.stop))]
	for i, insert in enumerate(found.inserts):
		profiles = []
		first = length // 2 - len(insert) // 2
		places = [first + len(insert) // 2 - 10 + j - TRIMMING for j in range(20)]  # of the profile, along the motif
		mirrored = [2 * first + len(insert) - 1 - (p + TRIMMING) - TRIMMING for p in places]
		for reverse in (False, True):
			for j, text in enumerate(texts):
				rows, expected = expected_measures(model, text, with_motif(text, insert, reverse=reverse))
				np.testing.assert_allclose(found.effects[i, int(reverse), j], rows, rtol=1e-9, atol=1e-12)
				assert (np.abs(rows[:, :3]) > 1e-7).all() or insert == "C"  # which may be there already
				profiles.append([e[order][:, mirrored] if reverse else e[:, places] for e in expected])
		means = np.mean(profiles, axis=0)
		np.testing.assert_allclose([found.before[i], found.after[i]], means, rtol=1e-5)


def test_a_motif_and_its_reverse_complement_mirror_each_other(texts):
	model = make_model((2,))
	ours, theirs = motif("TGACTCAG", "one"), motif("TGACTCAG"[::-1].translate(PAIRS), "two")
	found = marginalize(model, [ours, theirs], codes_of(texts), attributions=True)
	np.testing.assert_allclose(found.effects[0], found.effects[1, ::-1], rtol=1e-9)
	np.testing.assert_allclose(found.contributions[0], found.contributions[1, :, ::-1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("groups", [(1,), (1, 2)], ids=str)
def test_contributions_sum_to_the_effect(texts, groups):
	"""Exactly, and bases that keep the background's contribute nothing."""
	model = make_model(groups, n_control_tracks=1)
	found = marginalize(model, MOTIFS, codes_of(texts), attributions=True)
	assert found.contributions.shape == (len(MOTIFS), len(groups), 9)
	np.testing.assert_allclose(np.nansum(found.contributions, axis=2), found.summary()["log2fc_counts"], rtol=1e-6)
	for i, insert in enumerate(found.inserts):
		values = found.contributions[i]
		assert np.isnan(values[:, len(insert) :]).all() and np.isfinite(values[:, : len(insert)]).all()
		kept = np.array([letter == "N" for letter in insert])
		assert (values[:, : len(insert)][:, kept] == 0).all() and (values[:, : len(insert)][:, ~kept] != 0).all()
	assert marginalize(model, MOTIFS, codes_of(texts)).contributions is None


def test_contributions_are_those_of_deep_lift_shap(texts):
	"""Each sequence with a motif against its background; batches that hold several motifs."""
	model, codes = make_model((1, 2), n_control_tracks=1), codes_of(texts)
	found = marginalize(model, MOTIFS, codes, attributions=True)
	for i, insert in enumerate(found.inserts):
		start = L // 2 - len(insert) // 2
		for group in range(2):
			means = []
			for reverse in (False, True):
				changed = codes_of([with_motif(text, insert, reverse=reverse) for text in texts])
				scores = deep_lift_shap(
					ControlWrapper(model),
					changed,
					group=group,
					start=start,
					end=start + len(insert),
					references=codes[:, None],
					hypothetical=False,
				)
				values = scores.sum(dim=1).mean(dim=0).numpy()
				means.append(values[::-1] if reverse else values)
			expected = np.mean(means, axis=0) / math.log(2)
			np.testing.assert_allclose(found.contributions[i, group, : len(insert)], expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("block", [1, 5, 30], ids="block{}".format)
@pytest.mark.parametrize("batch_size", [1, 4, None], ids="batch{}".format)
def test_blocks_and_batches_change_nothing(texts, monkeypatch, block, batch_size):
	model, codes = make_model((1, 2)), codes_of(texts)
	expected = marginalize(model, MOTIFS, codes)
	monkeypatch.setattr(module, "BLOCK", block)
	found = marginalize(model, MOTIFS, codes, batch_size=batch_size)
	for name in ("effects", "before", "after"):
		np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-12)


def test_chunks_of_whole_lots_are_equal_bit_by_bit(texts, monkeypatch):
	monkeypatch.setattr(module, "BLOCK", 20)
	model, codes, motifs = make_model(), codes_of(texts), MOTIFS * 2
	unit = motifs_at_a_time(len(codes))
	assert unit == 2
	whole = marginalize(model, motifs, codes, attributions=True)
	without = predict(model, codes)
	parts = [
		marginalize(model, motifs[first : first + unit], codes, without=without, attributions=True)
		for first in range(0, len(motifs), unit)
	]
	for name in ("effects", "before", "after"):
		np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))


def test_progress_and_the_number_of_predictions(texts):
	"""Each background once, and each motif twice in each."""
	told, model = [], Finder("TGA")
	marginalize(model, MOTIFS, codes_of(texts), batch_size=3, progress=lambda done, total: told.append((done, total)))
	assert model.calls == 7 + 2 * 7 * len(MOTIFS)
	assert {total for _, total in told} == {56} and told[-1] == (56, 56)
	assert [done for done, _ in told] == sorted({done for done, _ in told})
	told.clear()
	model = make_model((1, 2))
	marginalize(
		model, MOTIFS, codes_of(texts), attributions=True, progress=lambda done, total: told.append((done, total))
	)
	assert told[-1] == (168, 168) and [done for done, _ in told] == sorted({done for done, _ in told})


def test_inputs_are_left_alone(texts):
	codes, model = codes_of(texts), make_model()
	model.train()
	before = codes.copy()
	marginalize(model, MOTIFS, codes)
	np.testing.assert_array_equal(codes, before)
	assert model.training


def test_one_hot_and_wrapped_models_are_the_same(texts):
	model, codes = make_model(n_control_tracks=1), codes_of(texts)
	one_hot = torch.from_numpy(codes[:, None] == np.arange(4)[:, None]).float()
	expected = marginalize(model, MOTIFS[:1], codes, attributions=True)
	for args in ((model, MOTIFS[:1], one_hot), (ControlWrapper(model), MOTIFS[:1], codes)):
		found = marginalize(*args, attributions=True)
		np.testing.assert_array_equal(found.effects, expected.effects)
		np.testing.assert_array_equal(found.contributions, expected.contributions)


@pytest.mark.parametrize(
	("columns", "limit", "expected"),
	[
		([[0.97, 0.01, 0.01, 0.01]], 0.25, "A"),
		([[0.5, 0, 0, 0.5], [0, 0.5, 0.5, 0]], 0.25, "AC"),
		([[0.25] * 4, [0, 0, 0, 1.0]], 0.25, "NT"),
		([[0.25] * 4, [0.2, 0.2, 0.4, 0.2]], 0.0, "AG"),
		([[0.2, 0.2, 0.4, 0.2], [0.55, 0.15, 0.15, 0.15]], 0.25, "NA"),
		([[0.0, 0.0, 1.0, 0.0], [0.97, 0.01, 0.01, 0.01]], 2.0, "GN"),
	],
	ids=["clear", "ties", "no information", "limit 0", "below and above", "limit 2"],
)
def test_what_is_put_in(columns, limit, expected):
	assert letters(insert_of(Motif("m", "m", np.transpose(columns)), limit)) == expected


def test_summaries_are_those_of_numpy(texts):
	effects = np.random.default_rng(0).normal(0.3, 1, (3, 2, 11, 2, 5))
	found = summarize(effects)
	assert tuple(found) == SUMMARIES
	for i in range(3):
		for g in range(2):
			values = (effects[i, 0, :, g, 0] + effects[i, 1, :, g, 0]) / 2
			got = {name: value[i, g] for name, value in found.items()}
			assert got["log2fc_counts"] == pytest.approx(values.mean())
			assert got["log2fc_counts_se"] == pytest.approx(values.std(ddof=1) / math.sqrt(11))
			assert got["same_sign"] == pytest.approx(np.mean((values > 0) == (values.mean() > 0)))
			assert got["p_value"] == signed_rank_test(values)
			assert got["log2fc_counts_forward"] == pytest.approx(effects[i, 0, :, g, 0].mean())
			assert got["log2fc_counts_reverse"] == pytest.approx(effects[i, 1, :, g, 0].mean())
			for k, name in enumerate(MEASURES):
				assert got[name] == pytest.approx(effects[i, :, :, g, k].mean())


def test_a_single_background():
	found = summarize(np.ones((2, 2, 1, 1, 5)))
	assert np.isnan(found["log2fc_counts_se"]).all() and (found["p_value"] == 1).all()


DIFFERENCES = {
	"few": np.array([0.3, -0.1, 0.7, 1.1, 0.2]),
	"one": np.array([0.5]),
	"all of one sign": np.arange(1.0, 13.0),
	"fifty": np.random.default_rng(2).normal(0.3, 1, 50),
	"many": np.random.default_rng(3).normal(0.2, 1, 200),
	"many of one sign": np.random.default_rng(4).uniform(1, 2, 1000),
	"ties": np.array([1.0, 1.0, -1.0, 2.0, 2.0, -3.0, 4.0, 5.0, 5.0, 5.0, 6.0]),
	"zeros": np.concatenate([np.zeros(9), np.random.default_rng(5).normal(0.5, 1, 60)]),
}


@pytest.mark.parametrize("values", DIFFERENCES.values(), ids=DIFFERENCES)
def test_signed_ranks_are_those_of_scipy(values):
	stats = pytest.importorskip("scipy.stats")
	nonzero = values[values != 0]
	exact = len(nonzero) <= 50 and len(np.unique(np.abs(nonzero))) == len(nonzero)
	expected = stats.wilcoxon(nonzero, method="exact" if exact else "approx", correction=False).pvalue
	assert signed_rank_test(values) == pytest.approx(expected, rel=1e-9)


def test_signed_ranks_of_nothing():
	assert signed_rank_test(np.zeros(4)) == 1


def test_ranks_are_by_size_whatever_the_sign():
	assert ranks(np.array([[0.1, 3.0], [-2.0, 1.0], [1.5, -2.0], [-0.1, 0.0]])).tolist() == [
		[3, 1],
		[1, 3],
		[2, 2],
		[4, 4],
	]


@pytest.mark.parametrize("shuffle", [False, True], ids=["as they are", "shuffled"])
def test_draws(shuffle):
	codes = np.random.default_rng(0).integers(0, 4, (50, 40)).astype(np.uint8)
	first, again = (draw_backgrounds(codes, 20, shuffle=shuffle, random_state=5) for _ in range(2))
	np.testing.assert_array_equal(first, again)
	assert first.shape == (20, 40) and first.dtype == np.uint8
	assert not np.array_equal(first, draw_backgrounds(codes, 20, shuffle=shuffle, random_state=6))
	drawn = draw_backgrounds(codes, 20, random_state=5)
	assert len({row.tobytes() for row in drawn}) == 20 and {r.tobytes() for r in drawn} <= {r.tobytes() for r in codes}
	if shuffle:
		pairs = [np.bincount(rows[:, :-1].ravel() * 4 + rows[:, 1:].ravel(), minlength=16) for rows in (first, drawn)]
		np.testing.assert_array_equal(*pairs)
		assert not np.array_equal(first, drawn)
	assert len(draw_backgrounds(codes, 100, shuffle=shuffle)) == 50


def test_shuffled_backgrounds_lose_what_was_in_them():
	"""A word in every background counts before; after a shuffle it is all but gone."""
	word = "TGACTCAGGA"
	rng = np.random.default_rng(0)
	texts = ["".join(rng.choice(list("ACGT"), 30)) + word + "".join(rng.choice(list("ACGT"), 30)) for _ in range(20)]
	codes, model = codes_of(texts), Finder(word)
	assert predict(model, codes).log_counts.mean() >= 0.5
	assert predict(model, draw_backgrounds(codes, shuffle=True)).log_counts.mean() < 0.1


BAD = {
	"no motif": ({"motifs": []}, InputError, "no motif was given"),
	"no background": ({"backgrounds": np.empty((0, L), np.uint8)}, InputError, "no background sequence was given"),
	"shape of backgrounds": ({"backgrounds": np.zeros((2, L))}, InputError, "X must be one-hot"),
	"motif too long": (
		{"motifs": [motif("ACGT" * 10, "wide")]},
		InputError,
		rf"longer than the output window of {OUT} bp: wide \(40 bp\)",
	),
	"motif without information": ({"motifs": [MOTIFS[0], motif("NN", "blank")]}, InputError, "min_information: blank"),
	"limit": ({"min_information": 2.5}, SettingsError, "min_information must be from 0 to 2 bits, got 2.5"),
	"profile": ({"profile_window": 1}, SettingsError, "profile_window must be at least 2 bp"),
	"batch size": ({"batch_size": 0}, SettingsError, "batch_size must be"),
	"file": ({"motifs": "none.meme"}, InputError, "none.meme: no such file"),
}


@pytest.mark.parametrize(("change", "error", "message"), BAD.values(), ids=BAD)
def test_refuses(texts, change, error, message):
	arguments = {"motifs": MOTIFS, "backgrounds": codes_of(texts), **change}
	with pytest.raises(error, match=message):
		marginalize(make_model(), **arguments)


def test_a_broken_model_is_an_error(texts):
	model = make_model()
	with torch.no_grad():
		model.linear.bias.fill_(math.nan)
	with pytest.raises(InputError, match="not finite numbers"):
		marginalize(model, MOTIFS, codes_of(texts))


def test_contributions_need_a_cherimoya(texts):
	with pytest.raises(InputError, match="must be a Cherimoya"):
		marginalize(Finder("TGA"), MOTIFS, codes_of(texts), attributions=True)
