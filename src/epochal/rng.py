"""Random numbers as pure functions: (seed, stream name, indices) → numbers.

There is no generator whose state would have to be saved. A stream is named by the run's
seed, a word and some integers; a row of the corpus has its own key; and the i-th number of
a key is SplitMix64's i-th output for it. So the same row meets the same masks on any number
of processes, in any micro-batch, on any device and after any resume.

SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
OOPSLA 2014. It is not for cryptography.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SMALL = 4096


def stream_key(seed: int, stream: str, *indices: int) -> int:
    """64-bit key of the stream called `stream` (and numbered by `indices`) of a run's seed."""
    text = ":".join([str(seed), stream, *map(str, indices)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def outputs(keys: Keys, index: NDArray[np.integer]) -> Keys:
    """Output number `index` (from 0) of SplitMix64 started at `keys`; shapes broadcast."""
    with np.errstate(over="ignore"):
        z: Keys = keys + _GOLDEN * (index.astype(np.uint64) + np.uint64(1))
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        return z ^ (z >> np.uint64(31))


def row_keys(key: int, *indices: NDArray[np.integer]) -> Keys:
    """One key per row: `key` descended through each array of indices in turn.

    `row_keys(key, epoch, index)` with two [B] arrays gives [B] keys.
    """
    keys = np.asarray(key, dtype=np.uint64)
    for index in indices:
        keys = outputs(keys, index)
    return keys


def uniforms(keys: Keys, count: int) -> NDArray[np.float64]:
    """[B] keys → [B, count] numbers uniform on [0, 1), each from the top 53 bits."""
    bits = outputs(keys[:, None], np.arange(count)[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def random_order(key: int, numbers: NDArray[np.integer]) -> NDArray[np.int64]:
    """Positions of `numbers` in a random order. Each number has its own rank, a hash of (key,
    number), so two of them stay in the same order whatever else is there."""
    return np.argsort(row_keys(key, numbers), kind="stable")


@lru_cache(maxsize=8)
def permutation(key: int, count: int) -> NDArray[np.int64]:
    """A uniformly random order of 0 … count−1, held in memory (for small counts)."""
    order = random_order(key, np.arange(count))
    order.flags.writeable = False
    return order


def shuffled_index(key: int, index: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """Places `index` of a random order of 0 … count−1, without making the order.

    A Feistel network over the smallest even number of bits that holds `count`, walked until
    the result lies below `count` (Black and Rogaway, "Ciphers with arbitrary finite domains",
    2002). It is a bijection for any key, so an epoch visits each row exactly once. Eight
    rounds, chosen by us. On few bits a Feistel network is visibly biased (cell counts at
    count 6 scatter 1.7 times as much as they should, at 64 as they should), so small orders
    are drawn outright.
    """
    result = np.asarray(index, dtype=np.uint64)
    if result.size and result.max() >= count:
        raise ValueError(f"index {int(result.max())} is outside of 0 … {count - 1}")
    if count <= _SMALL:
        return permutation(key, count)[result.astype(np.int64)]
    half = (int(count - 1).bit_length() + 1) // 2
    result = _feistel(key, result, half)
    while (outside := result >= count).any():
        result[outside] = _feistel(key, result[outside], half)
    return result.astype(np.int64)


def _feistel(key: int, value: Keys, half: int) -> Keys:
    """Eight Feistel rounds on 2·half bits."""
    shift, low = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = value >> shift, value & low
    for round_ in range(8):
        mixed = outputs(row_keys(key, np.asarray(round_)), right)
        left, right = right, left ^ (mixed >> np.uint64(64 - half))
    return (left << shift) | right
