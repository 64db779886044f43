"""Effects of variants, compared with windows cut out of text and formulas written out."""

import math

import numpy as np
import pytest
import torch

from cherimoya import Cherimoya
from cherimoya.errors import InputError, SettingsError
from cherimoya.interpret.variants import (
	BLOCK,
	REASONS,
	SCORED,
	SCORES,
	Reservoir,
	background_scores,
	check_alleles,
	encode,
	mean_and_spread,
	percentiles_of,
	place_alleles,
	score_alleles,
	variant_effects,
)
from cherimoya.io.genome import Genome, one_hot
from cherimoya.io.variants import Allele

W, TRIMMING = 61, 12
OUT = W - 2 * TRIMMING
OTHER = {"A": "C", "C": "G", "G": "T", "T": "A"}


def make_model(groups=(1,), seed=0, n_control_tracks=0, **options):
	"""A small model whose log counts depend on the sequence by more than they do at first."""
	options = {"n_filters": 8, "n_layers": 2, "trimming": TRIMMING, **options}
	model = Cherimoya(signal_groups=list(groups), n_control_tracks=n_control_tracks, random_state=seed, **options)
	generator = torch.Generator().manual_seed(seed)
	with torch.no_grad():
		for head in (model.linear, model.fconv):
			head.weight.copy_(torch.randn(head.weight.shape, generator=generator))
	return model


@pytest.fixture(scope="module")
def text():
	"""A chromosome of 400 bases, with an N far from most variants."""
	bases = np.random.default_rng(3).choice(list("ACGT"), 400)
	bases[300] = "N"
	return "".join(bases)


@pytest.fixture(scope="module")
def genome(text):
	return Genome({"chr1": text, "chr2": text[:100]})


def allele(text, position, ref, alt, chrom="chr1"):
	"""The allele that replaces `ref` bases at a position, counted from 1, by a text."""
	return Allele(chrom, position, ".", text[position - 1 : position - 1 + ref], alt)


def windows(text, variant, w=W):
	"""The two windows, cut out of the chromosome and of the chromosome with the other allele."""
	p = variant.position - 1
	found = []
	for length, whole in (
		(len(variant.ref), text),
		(len(variant.alt), text[:p] + variant.alt + text[p + len(variant.ref) :]),
	):
		middle = p + length // 2
		found.append(whole[middle - w // 2 : middle + (w + 1) // 2])
	return found


def reverse_complement(sequence):
	return sequence[::-1].translate(str.maketrans("ACGT", "TGCA"))


def one(model, sequence, both_strands=False):
	"""Logits (T, out) and log counts (G,) of one sequence."""
	model.eval()
	X = torch.zeros(1, 4, len(sequence))
	for i, base in enumerate(sequence):
		if base in "ACGT":
			X[0, "ACGT".index(base), i] = 1
	control = torch.zeros(1, model.n_control_tracks, len(sequence)) if model.n_control_tracks else None
	with torch.no_grad():
		logits, counts = (y[0].double() for y in model(X, control))
	if not both_strands:
		return logits, counts
	turned, other = one(model, reverse_complement(sequence))
	parts = [part.flip(0, 1) for part in turned.split(list(model.signal_groups))]
	return (logits + torch.cat(parts)) / 2, (counts + other) / 2


def entropy(p):
	return -sum(x * math.log(x) for x in p if x > 0)


def expected_scores(model, text, variant, both_strands=False, w=W):
	"""The five scores of each group, (G, 5), with positions named by the base that they are of."""
	ref_length, alt_length, p = len(variant.ref), len(variant.alt), variant.position - 1
	shared, predictions, out = [], [], w - 2 * TRIMMING
	for sequence, length in zip(windows(text, variant, w), (ref_length, alt_length), strict=True):
		first = p + length // 2 - w // 2 + TRIMMING
		names = {}
		for j in range(out):
			at = first + j  # in its own chromosome
			if at < p + min(ref_length, alt_length):
				names[at] = j
			elif at >= p + length:
				names[at - length + ref_length, "reference"] = j
		shared.append(names)
		predictions.append(one(model, sequence, both_strands))
	common = [name for name in shared[0] if name in shared[1]]
	if ref_length == alt_length:
		assert len(common) == out
	else:
		assert len(common) >= out - max(ref_length, alt_length)
	rows, start = [], 0
	for g, size in enumerate(model.signal_groups):
		profiles = []
		for (logits, _), names in zip(predictions, shared, strict=True):
			values = logits[start : start + size][:, [names[name] for name in common]].flatten().exp()
			profiles.append((values / values.sum()).tolist())
		start += size
		x, y = (float(counts[g]) for _, counts in predictions)
		middle = [(a + b) / 2 for a, b in zip(*profiles, strict=True)]
		jsd = entropy(middle) - (entropy(profiles[0]) + entropy(profiles[1])) / 2
		l1 = sum(abs(a - b) for a, b in zip(*profiles, strict=True))
		rows.append([math.log2(math.exp(y) / math.exp(x)), jsd, l1, math.exp(x) - 1, math.exp(y) - 1])
	return np.array(rows)


VARIANTS = {
	"SNV": (100, 1, "other"),
	"MNV": (100, 3, "other"),
	"inserted base": (100, 1, "TC"),
	"insertion": (101, 1, "TCCGAACT"),
	"deleted base": (100, 2, "first"),
	"deletion": (101, 9, "first"),
	"longest deletion": (101, OUT // 2, "first"),
	"longest insertion": (101, 1, "ACGTTGCAACGTTGCAAC"),
	"longer replacement": (150, 3, "GATTACA"),
	"shorter replacement": (150, 8, "GTA"),
	"beside N": (295, 1, "other"),
	"first that fits": (W // 2 + 1, 1, "other"),
	"last that fits": (400 - W // 2, 1, "other"),
}


def make_variant(text, name):
	position, length, alt = VARIANTS[name]
	ref = text[position - 1 : position - 1 + length]
	alt = {"other": "".join(OTHER[base] for base in ref), "first": ref[0]}.get(alt, alt)
	return Allele("chr1", position, name, ref, alt)


@pytest.mark.parametrize("w", [W, W - 1], ids="w{}".format)
@pytest.mark.parametrize("name", VARIANTS)
def test_windows_are_those_of_the_text(text, genome, name, w):
	variant = make_variant(text, name)
	assert check_alleles([variant], genome, in_window=w, out_window=OUT) == [SCORED]
	placed = place_alleles([variant], genome, in_window=w)
	letters = np.array(list("ACGTN"))
	found = ["".join(letters[codes]) for codes in (placed.ref_codes[0], placed.alt_codes[0])]
	assert found == windows(text, variant, w)
	assert variant.alt in found[1] and len(found[1]) == w


@pytest.mark.parametrize("w", [W, W - 1], ids="w{}".format)
@pytest.mark.parametrize("both_strands", [False, True], ids=["one strand", "both strands"])
@pytest.mark.parametrize("groups", [(1,), (2,), (1, 2)], ids=str)
@pytest.mark.parametrize("name", VARIANTS)
def test_scores_are_those_of_the_formulas(text, genome, name, groups, both_strands, w):
	model, variant = make_model(groups), make_variant(text, name)
	scores = score_alleles([model], [variant], genome, in_window=w, reverse_complement_average=both_strands)
	expected = expected_scores(model, text, variant, both_strands, w)
	assert scores.shape == (1, 1, len(groups), len(SCORES)) and scores.dtype == np.float64
	np.testing.assert_allclose(scores[0, 0], expected, rtol=1e-4, atol=1e-6)
	assert (expected[:, 1] > 0).all() and (expected[:, 2] > 1e-4).all() and (abs(expected[:, 0]) > 1e-5).all()


def test_a_variant_and_its_reverse_complement_score_the_same(text):
	"""Over both strands; on one strand alone they do not."""
	model, variant = make_model((2,)), make_variant(text, "SNV")
	turned = reverse_complement(text)
	other = Allele("chr1", 401 - variant.position, ".", OTHER_STRAND[variant.ref], OTHER_STRAND[variant.alt])
	for both_strands in (True, False):
		scores = [
			score_alleles([model], [v], Genome({"chr1": t}), in_window=W, reverse_complement_average=both_strands)
			for v, t in ((variant, text), (other, turned))
		]
		assert np.allclose(*scores, rtol=1e-4, atol=1e-7) == both_strands


OTHER_STRAND = {"A": "T", "C": "G", "G": "C", "T": "A"}

ONE_REASON = [
	("no alternate allele", lambda t: allele(t, 100, 1, ".")),
	("no alternate allele", lambda t: allele(t, 100, 1, t[99])),
	("symbolic allele", lambda t: allele(t, 100, 1, "<DEL>")),
	("breakend", lambda t: allele(t, 100, 1, "A[chr2:5[")),
	("letters other than ACGT", lambda t: allele(t, 301, 1, "A")),
	("letters other than ACGT", lambda t: allele(t, 100, 1, "N")),
	("chromosome not in FASTA", lambda t: allele(t, 100, 1, OTHER[t[99]], chrom="1")),
	("allele too long", lambda t: allele(t, 100, OUT // 2 + 1, "A")),
	("allele too long", lambda t: allele(t, 100, 1, "A" * (OUT // 2 + 1))),
	("off the edge", lambda t: allele(t, W // 2, 1, OTHER[t[W // 2 - 1]])),
	("off the edge", lambda t: allele(t, 401 - W // 2, 1, OTHER[t[400 - W // 2]])),
	("off the edge", lambda t: Allele("chr1", 0, ".", "A", "C")),
	("off the edge", lambda t: Allele("chr1", 10**12, ".", "A", "C")),
	("off the edge", lambda t: Allele("chr2", 90, ".", t[89], OTHER[t[89]])),
	("reference and alternate swapped", lambda t: Allele("chr1", 100, ".", OTHER[t[99]], t[99])),
	("reference mismatch", lambda t: Allele("chr1", 100, ".", OTHER[t[99]], OTHER[OTHER[t[99]]])),
	("reference mismatch", lambda t: Allele("chr1", 301, ".", "A", "C")),
]


@pytest.mark.parametrize(("reason", "make"), ONE_REASON, ids=[f"{i} {r}" for i, (r, _) in enumerate(ONE_REASON)])
def test_reasons(text, genome, reason, make):
	assert check_alleles([make(text)], genome, in_window=W, out_window=OUT) == [reason]
	assert reason in REASONS


def test_all_reasons_are_tested():
	assert {reason for reason, _ in ONE_REASON} == set(REASONS)


@pytest.mark.parametrize("ref", [5, 6], ids="ref{}".format)
@pytest.mark.parametrize("alt", [1, 2], ids="alt{}".format)
def test_a_deletion_needs_the_bases_that_move_in(text, ref, alt):
	"""The window of the shorter allele reaches farther out, so it decides where the last places are that fit."""
	genome = Genome({"chr1": text[:120]})
	for position in range(1, 121 - ref):
		variant = Allele("chr1", position, ".", text[position - 1 : position - 1 + ref], "A" * alt)
		p = position - 1
		starts = [p + length // 2 - W // 2 for length in (ref, alt)]
		ends = [p + ref // 2 + (W + 1) // 2, p + alt // 2 + (W + 1) // 2 + ref - alt]
		fits = min(starts) >= 0 and max(ends) <= 120
		status = check_alleles([variant], genome, in_window=W, out_window=OUT)[0]
		assert (status == "off the edge") == (not fits), position
		if status == SCORED:
			assert [len(window) for window in windows(text[:120], variant)] == [W, W]


def test_aliases(text):
	genome = Genome({"chr1": text}, chrom_aliases=True)
	variant = make_variant(text, "deletion")
	scores = [score_alleles([make_model()], [v], genome, in_window=W) for v in (variant, variant._replace(chrom="1"))]
	assert np.array_equal(*scores)


def many(text, n, seed=0):
	"""Variants of all kinds, two or three a place, in random order."""
	rng, found = np.random.default_rng(seed), []
	while len(found) < n:
		position, ref = int(rng.integers(60, 340)), int(rng.integers(1, 5))
		alts = {"".join(rng.choice(list("ACGT"), int(rng.integers(1, 5)))) for _ in range(3)}
		found += [allele(text, position, ref, alt) for alt in sorted(alts)]
	return found[:n]


def test_batches_do_not_matter(text, genome):
	"""1,000 variants: whatever the batch size, alone or together, in whole chromosomes or stretches of them."""
	alleles, model = many(text, 1_000), make_model((1, 2))
	status = check_alleles(alleles, genome, in_window=W, out_window=OUT)
	assert 800 < status.count(SCORED) < 1_000
	scores = score_alleles([model], alleles, genome, status=status, in_window=W, batch_size=512)
	for batch_size in (7, 64):
		other = score_alleles([model], alleles, genome, status=status, in_window=W, batch_size=batch_size)
		np.testing.assert_allclose(other, scores, rtol=1e-4, atol=1e-5)
	assert np.array_equal(np.isnan(scores).all(axis=(0, 2, 3)), [text != SCORED for text in status])
	# A chunk that begins with a block has the same bits.
	part = score_alleles(
		[model], alleles[BLOCK : 2 * BLOCK], genome, status=status[BLOCK : 2 * BLOCK], in_window=W, batch_size=512
	)
	assert np.array_equal(part, scores[:, BLOCK : 2 * BLOCK], equal_nan=True)
	for i in range(0, 1_000, 97):
		if status[i] == SCORED:
			np.testing.assert_allclose(scores[0, i], expected_scores(model, text, alleles[i]), rtol=1e-3, atol=1e-5)


def test_alleles_of_one_variant_share_their_reference(text, genome):
	alleles = [allele(text, 100, 2, alt) for alt in ("A", "CC", "GGG")]
	alleles += [allele(text, 100, 3, "A"), allele(text, 99, 1, "GTT")]
	placed = place_alleles(alleles, genome, in_window=W)
	assert placed.ref_index.tolist() == [0, 0, 0, 0, 1]  # the middle of 2 bases from 100, and of 3, is the same
	assert placed.ref_codes.shape == (2, W) and placed.alt_codes.shape == (5, W)


def test_several_models(text, genome):
	models = [make_model(seed=seed) for seed in range(3)]
	variants = [make_variant(text, "SNV"), allele(text, 5, 1, "TT"), make_variant(text, "deletion")]
	effects = variant_effects(models, variants, genome, in_window=W)
	singles = [variant_effects(model, variants, genome, in_window=W) for model in models]
	assert effects.status == [SCORED, "off the edge", SCORED] and effects.percentiles is None
	for name in SCORES:
		each = np.stack([single.scores[name] for single in singles])
		np.testing.assert_allclose(effects.scores[name], each.mean(axis=0))
		np.testing.assert_allclose(effects.spread[name], each.std(axis=0, ddof=1))
		assert effects.scores[name].shape == (3, 1) and np.isnan(effects.scores[name][1]).all()
	assert all(single.spread is None for single in singles)


def test_files(text, genome, tmp_path):
	"""A file of variants, by its path or its name, is its alleles."""
	variants = [make_variant(text, name)._replace(name=".") for name in ("SNV", "deletion")]
	path = tmp_path / "variants.tsv"
	lines = ["chrom\tpos\tref\talt", *(f"{v.chrom}\t{v.position}\t{v.ref}\t{v.alt}" for v in variants)]
	path.write_text("\n".join(lines))
	expected = variant_effects(make_model(), variants, genome, in_window=W)
	for source in (path, str(path)):
		found = variant_effects(make_model(), source, genome, in_window=W)
		assert found.alleles == variants
		assert all(np.array_equal(found.scores[name], expected.scores[name]) for name in SCORES)


def test_controls_are_zeros(text, genome):
	model, variant = make_model((2,), n_control_tracks=2), make_variant(text, "insertion")
	scores = score_alleles([model], [variant], genome, in_window=W)
	np.testing.assert_allclose(scores[0, 0], expected_scores(model, text, variant), rtol=1e-4, atol=1e-6)


def test_models_are_left_as_they_were(text, genome):
	model = make_model().train()
	score_alleles([model], [make_variant(text, "SNV")], genome, in_window=W)
	assert model.training


def test_background(text, genome):
	"""Shuffled windows with both alleles in the middle, as dinucleotides of the stretch allow; the same for a seed."""
	models = [make_model(seed=seed) for seed in range(2)]
	drawn = Reservoir(7, 0)
	drawn.update([make_variant(text, "SNV"), make_variant(text, "deletion")])
	background = background_scores(models, drawn, genome, in_window=W, random_state=4)
	assert background.shape == (7, 1, 3) and (background > 0).all() and len(np.unique(background[..., 0])) == 7
	assert np.array_equal(np.sort(background, axis=0), background)
	again, other = (background_scores(models, drawn, genome, in_window=W, random_state=seed) for seed in (4, 5))
	assert np.array_equal(again, background) and not np.array_equal(other, background)
	effects = variant_effects(models, drawn.kept, genome, in_window=W, n_background=7, random_state=4)
	for k, name in enumerate(SCORES[:3]):
		expected = [100 * np.mean(background[:, 0, k] < abs(x)) for x in effects.scores[name][:, 0]]
		np.testing.assert_allclose(effects.percentiles[name][:, 0], expected)


def test_alleles_take_turns_in_the_background(text, genome):
	alleles = [allele(text, position, 2, "GATT") for position in (90, 120, 150)]
	found = []
	for size in (3, 4):
		drawn = Reservoir(size, 0)
		drawn.update(alleles)
		found.append(background_scores([make_model()], drawn, genome, in_window=W)[:, 0, 0])
	assert np.isin(np.round(found[0], 6), np.round(found[1], 6)).all() and len(found[1]) == 4


def test_percentiles():
	scores = np.full((4, 1, 5), np.nan)
	scores[:3, 0, :3] = [[-2.5, 0, 3], [1, 1.5, 4], [0, 9, 0.5]]
	background = np.arange(1, 5, dtype=float)[:, None, None].repeat(3, axis=2)
	expected = [[50, 0, 50], [0, 25, 75], [0, 100, 0], [np.nan] * 3]
	np.testing.assert_array_equal(percentiles_of(scores, background)[:, 0], expected)


def test_a_sample_of_a_stream():
	"""Each allele is as likely as any other, and all are kept where there are few."""
	alleles = [Allele("chr1", i, ".", "A", "C") for i in range(20)]
	few = Reservoir(30, 0)
	few.update(alleles)
	assert few.kept == alleles
	counts = np.zeros(20)
	for seed in range(2_000):
		drawn = Reservoir(5, seed)
		drawn.update(alleles[:7])
		drawn.update(alleles[7:])
		counts[[a.position for a in drawn.kept]] += 1
	assert abs(counts - 500).max() < 5 * math.sqrt(2_000 * 0.25 * 0.75)


def test_spread():
	scores = np.array([[[[1.0]]], [[[3.0]]]])
	mean, spread = mean_and_spread(scores)
	assert mean.item() == 2 and spread.item() == pytest.approx(math.sqrt(2))
	assert mean_and_spread(scores[:1])[1] is None


def test_codes():
	assert encode("ACGTTA").tolist() == [0, 1, 2, 3, 3, 0]
	assert torch.equal(one_hot(encode("GA")[None])[0], torch.tensor([[0.0, 1], [0, 0], [1, 0], [0, 0]]))


@pytest.mark.parametrize(
	("call", "kind", "message"),
	[
		(lambda v, g: variant_effects([], v, g, in_window=W), InputError, "no model was given"),
		(
			lambda v, g: variant_effects([make_model(), make_model((2,))], v, g, in_window=W),
			InputError,
			"model 1 predicts",
		),
		(
			lambda v, g: variant_effects([make_model(), make_model(trimming=8)], v, g, in_window=W),
			InputError,
			"model 1 cuts 8 bp from each side, and model 0 cuts 12 bp",
		),
		(lambda v, g: variant_effects(make_model(), v, g, in_window=25), InputError, "leaves nothing"),
		(lambda v, g: variant_effects(make_model(), v, g, in_window=W, n_background=0), SettingsError, "n_background"),
		(lambda v, g: variant_effects(broken_model(), v, g, in_window=W), InputError, "1 of 1 alleles are not finite"),
	],
	ids=["no model", "other groups", "other windows", "window too short", "no background", "broken model"],
)
def test_errors(text, genome, call, kind, message):
	with pytest.raises(kind, match=message):
		call([make_variant(text, "SNV")], genome)


def broken_model():
	model = make_model()
	with torch.no_grad():
		model.linear.bias.fill_(float("nan"))
	return model


def test_progress(text, genome):
	calls = []
	alleles = [make_variant(text, "SNV")] * (BLOCK + 1)
	score_alleles([make_model()], alleles, genome, in_window=W, progress=lambda *counts: calls.append(counts))
	assert calls == [(BLOCK, BLOCK + 1), (BLOCK + 1, BLOCK + 1)]
