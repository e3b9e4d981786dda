"""Training's choice of masks, beside uniform rates and independent tokens.

A schedule gives the mask rate t = Q(u) of a uniform u. With the weight dQ/du, E_u[dQ/du · f(Q(u))]
= ∫ f(t) dt for any f, so all schedules have the linear one's mean loss, and differ in where
their draws lie. In a window [a, b] rates are those of the schedule that lie in it, and the weight
is dQ/du / (b − a), so that the mean is that over t ~ U(a, b).

Kosmopoulou et al., "Masked diffusion language models with frequency-informed training", arXiv
2509.05056, and its code: cosine, Gaussians, softening (the weight to a power below 1), rare tokens.
Spans and words: Joshi et al., "SpanBERT", arXiv 1907.10529.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import special

from epochal import rng
from epochal.families.masked_diffusion import MaskedDiffusionOptions as Options
from epochal.objectives import noise
from epochal.objectives.problem import Rows
from epochal.rng import Keys

Numbers = NDArray[np.float64]
Units = NDArray[np.int64]
_TINY = 2.0**-53


def mask_rates(options: Options, levels: noise.Levels, rows: Rows) -> tuple[noise.Levels, Numbers]:
    """[B] u, uniform on [0, 1) → [B] mask rates Q(u), and [B] the weights of their rows."""
    low, high = options.window
    if options.schedule == "linear":
        return low + (high - low) * levels, np.ones(len(levels))
    if options.schedule == "cosine":
        ends = np.arccos(1 - np.array([low, high])) * 2 / np.pi
        place = ends[0] + (ends[1] - ends[0]) * levels
        rates, slope = 2 * np.sin(place * np.pi / 4) ** 2, np.sin(place * np.pi / 2) * np.pi / 2
        slope *= ends[1] - ends[0]
    elif options.schedule == "polynomial":
        power = options.polynomial_power
        ends = np.array([low, high]) ** (1 / power)
        place = np.maximum(ends[0] + (ends[1] - ends[0]) * levels, _TINY)
        rates, slope = place**power, power * place ** (power - 1) * (ends[1] - ends[0])
    else:
        rates, slope = _gaussian(options, levels, rows)
    return np.clip(rates, low, high), (slope / (high - low)) ** options.softening


def _gaussian(options: Options, levels: noise.Levels, rows: Rows) -> tuple[Numbers, Numbers]:
    """Quantiles of a Gaussian cut to the window, and their slope; the highest levels are those of
    the second Gaussian, spread over all of [0, 1). The slope is that of the row's own Gaussian, as
    in the code of arXiv 2509.05056, so that the rows of each have the whole loss."""
    share = options.second_share
    second = levels >= 1 - share
    inside = np.where(
        second, (levels - (1 - share)) / max(share, _TINY), levels / max(1 - share, _TINY)
    )
    way = 1.0
    if options.second_epochs:
        way -= np.exp(-rows.epochs / options.second_epochs)
    moved = options.second_start + (options.second_mean - options.second_start) * way
    mean = np.where(second, moved, options.gaussian_mean)
    std = np.where(second, options.second_std, options.gaussian_std)
    low, high = (special.ndtr((edge - mean) / std) for edge in options.window)
    z = special.ndtri(np.clip(low + (high - low) * inside, _TINY, 1 - _TINY))
    return mean + std * z, std * np.sqrt(2 * np.pi) * np.exp(z * z / 2) * (high - low)


def units(options: Options, tokens: NDArray[np.int64], rows: Rows) -> Units:
    """[B, L] tokens → [B, L] number, in its row, of the unit that is masked as a whole."""
    if options.mask_unit == "token":
        return np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    if options.mask_unit == "word":
        assert rows.text is not None
        starts = rows.text.word_starts(tokens)
    else:
        keys = rng.row_keys(rng.stream_key(0, "spans"), rows.keys)
        starts = rng.uniforms(keys, tokens.shape[1]) * options.span_length < 1
    return np.cumsum(starts, axis=1) - starts[:, :1]


def inclusion(
    options: Options, tokens: NDArray[np.int64], units: Units, rates: Numbers, rows: Rows
) -> Numbers:
    """[B, L] probability with which each token is masked; a row's mean is its rate."""
    rates = np.broadcast_to(rates[:, None], tokens.shape)
    if not options.frequency_power:
        return rates
    assert rows.text is not None
    rank = rows.text.ranks[tokens]
    lowest = rank.min(axis=1, keepdims=True)
    rarity = (rank - lowest) / np.maximum(rank.max(axis=1, keepdims=True) - lowest, 1)
    risen = min(1.0, rows.epochs / options.frequency_epochs) if options.frequency_epochs else 1.0
    rarity = rarity ** (options.frequency_power * risen)
    if options.mask_unit != "token":
        rarity = _mean_of_unit(rarity, units)
    mean = rarity.mean(axis=1, keepdims=True)
    fewer = rarity * rates / np.maximum(mean, _TINY)
    more = 1 - (1 - rarity) * (1 - rates) / np.maximum(1 - mean, _TINY)
    chosen: Numbers = np.clip(np.where(mean > rates, fewer, more), 0, 1)
    return chosen


def _mean_of_unit(values: Numbers, units: Units) -> Numbers:
    """[B, L] each token's value → the mean over its unit."""
    row = np.arange(len(values))[:, None] * values.shape[1]
    flat = (row + units).ravel()
    sums = np.bincount(flat, weights=values.ravel())
    means: Numbers = (sums / np.maximum(np.bincount(flat), 1))[flat].reshape(values.shape)
    return means


def independent(keys: Keys, probability: Numbers, units: Units) -> noise.Masks:
    """[B, L] masks, each unit masked independently of the others."""
    # Number 0 of a key is the row's level, as in `noise.independent_masks`.
    draws = rng.uniforms(keys, units.shape[1] + 1)[:, 1:]
    masks: noise.Masks = np.take_along_axis(draws, units, axis=1) < probability
    return masks


def evenly(keys: Keys, probability: Numbers, units: Units) -> noise.Masks:
    """[B, L] masks of units, as many in each row as the sum of their probabilities says, up to 1.

    Systematic sampling in random order (Madow, Ann. Math. Stat. 20, 1949): of the running sum of
    the probabilities, from a random start below 1, units are masked where it passes an integer.
    """
    count, length = units.shape
    each = np.zeros((count, length))
    np.put_along_axis(each, units, probability, axis=1)
    order = np.argsort(rng.uniforms(keys, length + 1)[:, 1:], axis=1)
    start = noise.row_uniforms(keys, "start")[:, None]
    sums = start + np.cumsum(np.take_along_axis(each, order, axis=1), axis=1)
    passed = np.diff(np.floor(sums), axis=1, prepend=np.floor(start)) > 0
    masked = np.empty((count, length), dtype=np.bool_)
    np.put_along_axis(masked, order, passed, axis=1)
    masks: noise.Masks = np.take_along_axis(masked, units, axis=1)
    return masks
