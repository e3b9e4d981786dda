"""Mask rates, rare tokens, words and spans: densities, one loss for all, rates that are kept."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from epochal import rng
from epochal.families import get_family
from epochal.families.masked_diffusion import MaskedDiffusionOptions as Options
from epochal.objectives import Draw, MaskedDiffusion, Rows, masking, noise

MASK = 99


def rows_of(count, step=0, text=None):
    keys = rng.row_keys(rng.stream_key(3, "rows", step), np.arange(count))
    return Rows(keys, np.arange(count), count, rng.stream_key(3, "step", step), step, text)


class Text:
    """Ten ids, of which 0 is the most frequent; words begin at ids below 5."""

    rows_per_epoch = 8
    ranks = np.arange(10.0)

    def word_starts(self, tokens):
        starts = tokens < 5
        starts[:, 0] = True
        return starts


BIMODAL = {"second_share": 0.4, "second_mean": 0.7, "second_std": 0.15}
DENSITIES = {  # of the rate before it is cut to the window, written down by itself
    "linear": ({}, lambda t: 1.0),
    "cosine": ({}, lambda t: 2 / np.pi / np.sqrt(t * (2 - t)) if t else np.inf),
    "polynomial": ({"polynomial_power": 3.0}, lambda t: t ** (-2 / 3) / 3 if t else np.inf),
    "gaussian": ({}, stats.norm(0.2, 0.12).pdf),
}
LEVELS = (np.arange(4000) + 0.5) / 4000


@pytest.mark.parametrize("window", [(0.0, 1.0), (0.05, 0.6)])
@pytest.mark.parametrize("schedule", DENSITIES)
def test_rates_are_quantiles_and_their_weights_the_inverse_density(schedule, window):
    changes, density = DENSITIES[schedule]
    options = Options(schedule=schedule, window=window, **changes)
    levels = np.array([0.01, 0.3, 0.6, 0.95])
    rates, weights = masking.mask_rates(options, levels, rows_of(4))
    whole = integrate.quad(density, *window)[0]
    for level, rate, weight in zip(levels, rates, weights, strict=True):
        below = integrate.quad(density, window[0], rate)[0]
        assert below / whole == pytest.approx(level, abs=1e-7)
        assert weight == pytest.approx(whole / density(rate) / (window[1] - window[0]))


def test_two_gaussians_have_their_shares_and_the_second_moves():
    options = Options(schedule="gaussian", **BIMODAL, second_start=0.3, second_epochs=2.0)
    for step, mean in ((0, 0.3), (32, 0.7 - 0.4 * np.exp(-2))):  # 32 · 4,000 rows are 2 · 8,000 …
        text = Text()
        text.rows_per_epoch = 8 * 4000
        rates, _ = masking.mask_rates(options, LEVELS, rows_of(4000, step, text))
        first, second = stats.norm(0.2, 0.12), stats.norm(mean, 0.15)
        for one, cut, share in ((rates[:2400], first, 0.6), (rates[2400:], second, 0.4)):
            assert len(one) == share * 4000
            inside = np.diff(cut.cdf([0, 1]))
            expected = integrate.quad(lambda t: t * cut.pdf(t), 0, 1)[0] / inside[0]  # noqa: B023
            assert one.mean() == pytest.approx(expected, abs=1e-3)


def test_the_original_softens_the_same_derivative():
    """The code of arXiv 2509.05056, away from the edges, which it clamps to and we cut off."""
    options = Options(schedule="gaussian", gaussian_mean=0.5, gaussian_std=0.05, softening=0.1)
    rates, weights = masking.mask_rates(options, np.array([0.2, 0.5, 0.9]), rows_of(3))
    z = np.sqrt(2) * special.erfinv(2 * np.array([0.2, 0.5, 0.9]) - 1)
    np.testing.assert_allclose(rates, 0.5 + 0.05 * z)
    np.testing.assert_allclose(weights, (0.05 * np.sqrt(2 * np.pi) * np.exp(z**2 / 2)) ** 0.1)


SCHEDULES = [
    {"schedule": "linear"},
    {"schedule": "cosine"},
    {"schedule": "polynomial", "polynomial_power": 0.7},
    {"schedule": "gaussian", "gaussian_mean": 0.3, "gaussian_std": 0.3},
    {"schedule": "gaussian", "gaussian_std": 0.3, **BIMODAL | {"second_std": 0.3}},
]
COSTS = np.random.default_rng(4).exponential(2.0, 7)
"""What a model's mean NLL of a masked token might be, by the number of masked tokens (of 6)."""


def row_loss(rates, sampler, length=6, eps=0.05):
    """[B] expected loss of rows of 6 tokens: Binomial(6, p) are masked, or exactly K."""
    if sampler == "stratified":
        return COSTS[np.minimum(1 + np.floor(rates * length).astype(int), length)]
    counts, p = np.arange(length + 1)[:, None], (1 - eps) * rates + eps
    chances = special.comb(length, counts) * p**counts * (1 - p) ** (length - counts)
    return (chances * counts * COSTS[:, None]).sum(axis=0) / (length * p)


@pytest.mark.parametrize("window", [(0.0, 1.0), (0.2, 0.7)])
@pytest.mark.parametrize("options", SCHEDULES)
@pytest.mark.parametrize("sampler", ["iid", "stratified"])
def test_all_schedules_have_one_loss(options, window, sampler, monkeypatch):
    """Over a fine grid of u: the bound, or its mean over the rates in the window."""
    grid = (np.arange(100_000) + 0.5) / 100_000
    expected = row_loss(window[0] + grid * (window[1] - window[0]), sampler).mean()
    monkeypatch.setattr(noise, f"{sampler}_levels", lambda rows: grid)
    it = MaskedDiffusion(Options(**options, window=window, noise=sampler), MASK)
    rates, weights = it._levels(rows_of(len(grid)))
    assert rates.min() >= window[0]
    assert rates.max() <= window[1]
    assert (weights * row_loss(rates, sampler)).mean() == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("sampler", ["iid", "stratified"])
def test_the_problem_has_rates_and_weights_of_its_schedule(sampler):
    options = Options(schedule="cosine", noise=sampler, softening=0.5, eps=0)
    rows = rows_of(4000)
    problem = MaskedDiffusion(options, MASK).training_problem(
        torch.zeros(4000, 33, dtype=torch.long), rows
    )
    draw = noise.stratified_levels if sampler == "stratified" else noise.iid_levels
    level = draw(rows)
    rate = 1 - np.cos(np.pi / 2 * level)
    np.testing.assert_allclose(problem.noise, rate, atol=1e-12)
    masked = (problem.inputs == MASK).numpy()
    assert masked.mean() == pytest.approx(1 - 2 / np.pi, abs=0.02)
    shares = (1 + np.floor(rate * 32)) / 32 if sampler == "stratified" else rate
    weight = np.sqrt(np.pi / 2 * np.sin(np.pi / 2 * level)) / shares
    np.testing.assert_allclose(
        problem.weights.numpy(), np.where(masked, weight[:, None], 0), rtol=1e-4
    )


# --- rare tokens, words and spans ----

ORIGINAL = {"frequency_power": 0.3}


def original_probabilities(ranks, rates, power):
    """As in the code of arXiv 2509.05056, one row at a time, without its 1e-8."""
    for row, rate in zip(ranks, rates, strict=True):
        span = row.max() - row.min()
        rarity = ((row - row.min()) / span) ** power if span else np.zeros(len(row))
        mean = rarity.mean()
        if mean > rate:
            yield rarity * rate / mean
        else:
            yield 1 - (1 - rarity) * (1 - rate) / (1 - mean)


def test_rare_tokens_are_masked_more_at_the_same_rate():
    tokens = np.random.default_rng(1).integers(0, 10, (50, 12))
    tokens[0] = 7  # all equally rare
    rates = np.linspace(0.01, 1, 50)
    units = masking.units(Options(), tokens, rows_of(50))
    rows = rows_of(50, text=Text())
    found = masking.inclusion(Options(**ORIGINAL), tokens, units, rates, rows)
    np.testing.assert_allclose(found, list(original_probabilities(tokens, rates, 0.3)), atol=1e-9)
    np.testing.assert_allclose(found.mean(axis=1), rates, atol=1e-12)
    options = Options(frequency_power=0.6, frequency_epochs=4.0)
    rows = dataclasses.replace(rows, step=2, global_batch_size=8)  # two of the four epochs
    np.testing.assert_array_equal(masking.inclusion(options, tokens, units, rates, rows), found)


@pytest.mark.parametrize("mask_unit", ["token", "word", "span"])
@pytest.mark.parametrize("sampler", ["iid", "stratified"])
@pytest.mark.parametrize("frequency", [0.0, 0.3])
def test_masks_come_whole_with_the_chances_they_should_have(mask_unit, sampler, frequency):
    count, length = 20_000, 12
    tokens = np.tile(np.random.default_rng(1).integers(0, 10, length), (count, 1))
    options = Options(mask_unit=mask_unit, frequency_power=frequency)
    rows, rates = rows_of(count, text=Text()), np.full(count, 5 / 12)
    units = masking.units(options, tokens, rows)
    chance = masking.inclusion(options, tokens, units, rates, rows)
    np.testing.assert_allclose(chance.mean(axis=1), 5 / 12, atol=1e-12)
    choose = masking.independent if sampler == "iid" else masking.evenly
    masks = choose(rows.keys, chance, units)
    inside = np.diff(units, axis=1) == 0
    assert (masks[:, 1:][inside] == masks[:, :-1][inside]).all()
    assert np.abs(masks.mean(axis=0) - chance.mean(axis=0)).max() < 4 * 0.5 / np.sqrt(count)
    if mask_unit == "token" and sampler == "stratified":
        assert (masks.sum(axis=1) == 5).all()
    if mask_unit == "span":
        assert np.abs((1 - inside).mean() - 1 / 3) < 0.005  # spans of 3 tokens on average
        assert not np.array_equal(units[0], units[1])
    if mask_unit == "word":
        np.testing.assert_array_equal(np.diff(units[0]) == 1, tokens[0, 1:] < 5)


@pytest.mark.parametrize("unit", [{"mask_unit": "word"}, {"mask_unit": "span"}, ORIGINAL])
def test_micro_batches_and_processes_meet_the_same_masks(unit):
    ids = torch.from_numpy(np.random.default_rng(2).integers(0, 10, (6, 21)))
    options = Options(noise="stratified", schedule="cosine", **unit)
    it, rows = MaskedDiffusion(options, MASK), rows_of(6, 3, Text())
    whole = it.training_problem(ids, rows)
    for part in (slice(0, 2), slice(2, 6)):
        few = dataclasses.replace(rows, keys=rows.keys[part], place=rows.place[part])
        cut = it.training_problem(ids[part], few)
        assert torch.equal(cut.inputs, whole.inputs[part])
        assert torch.equal(cut.weights, whole.weights[part])
    masked = whole.inputs == MASK
    assert torch.equal(masked, whole.weights > 0)
    assert torch.equal(masked, it.training_problem(ids, rows).inputs == MASK)


def test_evaluation_does_not_know_of_it():
    ids = torch.arange(24).reshape(3, 8) % 10
    draw = Draw(np.array([0.1, 0.5, 0.9]), rows_of(3).keys)
    bimodal = BIMODAL | {"schedule": "gaussian", "softening": 0.1, "window": (0.1, 0.9)}
    other = MaskedDiffusion(Options(**bimodal, **ORIGINAL, mask_unit="word"), MASK)
    plain = MaskedDiffusion(Options(), MASK)
    for problem in ("likelihood_problem", "paper_problem"):
        arguments = (ids, ids > 0, draw) if problem == "likelihood_problem" else (ids, draw)
        a, b = (getattr(one, problem)(*arguments) for one in (other, plain))
        assert torch.equal(a.inputs, b.inputs)
        assert torch.equal(a.weights, b.weights)
    nll = get_family("mdm").loss_is_nll
    assert nll(Options(schedule="cosine", noise="stratified"))
    for change in ({"window": (0, 0.5)}, {"schedule": "cosine", "softening": 0.5}, ORIGINAL):
        assert not nll(Options(**change))
    assert not nll(Options(mask_unit="span"))
