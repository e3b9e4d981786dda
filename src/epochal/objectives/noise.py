"""Noise levels and masks, seeded per row, the same on any machine.

Numbers are drawn with `epochal.rng`, so a row's mask does not depend on micro-batch, number of
processes or device. K is the number of masked tokens of a row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from epochal import rng
from epochal.objectives.problem import Rows
from epochal.rng import Keys

Masks = NDArray[np.bool_]
Levels = NDArray[np.float64]


def iid_levels(rows: Rows) -> Levels:
    """[B] t ~ U(0, 1), independent, as the original draws them."""
    return rng.uniforms(rows.keys, 1)[:, 0]


def stratified_levels(rows: Rows) -> Levels:
    """[B] levels spread evenly over the global batch, in mirrored pairs u and 1 − u.

    Rows 2j and 2j+1 of the batch share a stratum of [0, ½) and its mirror image, so that
    each pair masks L+1 of its 2·L tokens (see `exact_counts`) and any even micro-batch has
    the same number of scored tokens. The assignment of strata to pairs, and of the mirror image
    to a row, is drawn at each step, so every row's level is uniform on [0, 1). The last row of an
    odd batch has no partner and is drawn from [0, 1).
    """
    pairs = rows.global_batch_size // 2
    place = rows.place
    pair = np.minimum(place // 2, max(pairs - 1, 0))
    jitter, coin = rng.uniforms(rng.row_keys(rows.step_key, pair), 2).T
    stratum = rng.shuffled_index(rows.step_key, pair, max(pairs, 1))
    low = (stratum + jitter) / (2 * max(pairs, 1))
    mirrored = (place % 2 == 1) ^ (coin < 0.5)
    levels = np.where(mirrored, np.nextafter(1.0, 0.0) - low, low)
    alone = place >= 2 * pairs
    return np.where(alone, rng.uniforms(rows.keys, 1)[:, 0], levels)


def independent_masks(keys: Keys, mask_prob: Levels, length: int) -> Masks:
    """[B, L] masks, each token masked independently with its row's probability."""
    # Number 0 of a key is the row's level (`iid_levels`); its masks start at number 1.
    return rng.uniforms(keys, length + 1)[:, 1:] < mask_prob[:, None]


def ends(masks: Masks, moved: NDArray[np.bool_]) -> Masks:
    """[B, L] masks; where `moved`, the same number of tokens at the end of the row instead.

    A row without masked tokens has none then, either. The original's slice of the last 0 tokens
    takes all of them, with a weight of up to 1/ε.
    """
    length = masks.shape[1]
    at_end = np.arange(length)[None, :] >= length - masks.sum(axis=1, keepdims=True)
    moved_or_not: Masks = np.where(moved[:, None], at_end, masks)
    return moved_or_not


def at_least_one(masks: Masks, keys: Keys) -> Masks:
    """[B, L] masks; in a row without masked tokens, one at a random position."""
    place = np.floor(row_uniforms(keys, "one place") * masks.shape[1]).astype(np.int64)
    one = np.arange(masks.shape[1])[None, :] == place[:, None]
    either: Masks = masks | (one & ~masks.any(axis=1, keepdims=True))
    return either


def row_uniforms(keys: Keys, purpose: str) -> Levels:
    """[B] numbers uniform on [0, 1), independent of levels, masks and other purposes."""
    return rng.uniforms(rng.row_keys(rng.stream_key(0, purpose), keys), 1)[:, 0]


def exact_counts(levels: Levels, candidates: NDArray[np.int64]) -> NDArray[np.int64]:
    """K = 1 + ⌊u · m⌋ of each u, uniform on 1 … m for m candidates; 0 for m = 0."""
    count = 1 + np.floor(levels * candidates).astype(np.int64)
    return np.minimum(count, candidates)


def exact_masks(keys: Keys, counts: NDArray[np.int64], candidates: Masks) -> Masks:
    """Masks of the candidates' shape, [B, L], or [B, blocks, L / blocks] with counts [B, blocks]:
    exactly `counts` of the last axis are masked, every subset equally likely."""
    # Sorting the 64-bit draws and comparing with the K-th smallest is several times faster
    # than ranking them. Two equal draws in a row (1 in 10¹³ rows of 2048) would mask one more.
    row = candidates.size // max(1, len(candidates))
    draws = rng.outputs(keys[:, None], np.arange(1, row + 1)[None, :]).reshape(candidates.shape)
    draws[~candidates] = np.iinfo(np.uint64).max
    place = np.maximum(counts, 1)[..., None] - 1
    last = np.take_along_axis(np.sort(draws, axis=-1), place, axis=-1)
    return candidates & (draws <= last) & (counts > 0)[..., None]
