"""Fixed reading orders, for the order perturbation of arXiv 2507.15857 §3.5.

An order is a permutation π of 0 … L−1 for the tokens 1 … L of a row; token 0 stays first.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from epochal import rng
from epochal.objectives.problem import Rows

Orders = NDArray[np.int64]


def order_lists(
    count: int, length: int, kind: Literal["noise_sorted", "random"], seed: int
) -> Orders:
    """[count, length] orders, determined by `seed`; the first is left to right.

    noise_sorted: order i sorts position + i·N(0, 1), so a token moves by about i positions (the
    paper's algorithm 2). random: uniform permutations (its algorithm 1).
    """
    lists = [np.arange(length)]
    for number in range(1, count):
        key = np.array([rng.stream_key(seed, "reading order", number)], dtype=np.uint64)
        if kind == "random":
            scores = rng.uniforms(key, length)[0]
        else:
            scores = np.arange(length) + number * _normals(key, length)
        lists.append(np.argsort(scores, kind="stable"))
    return np.stack(lists)


def row_orders(lists: Orders, rows: Rows) -> Orders:
    """[B, L+1] positions of a window in each row's reading order; position 0 is first.

    Each row draws one of the lists, every list equally likely.
    """
    number = np.floor(rng.uniforms(rows.keys, 1)[:, 0] * len(lists)).astype(np.int64)
    places = np.zeros((len(number), lists.shape[1] + 1), dtype=np.int64)
    places[:, 1:] = lists[number] + 1
    return places


def _normals(key: rng.Keys, count: int) -> NDArray[np.float64]:
    """[count] standard normals by Box and Muller, the same with any version of NumPy."""
    pairs = rng.uniforms(key, 2 * count)[0].reshape(2, count)
    normals: NDArray[np.float64] = np.sqrt(-2 * np.log1p(-pairs[0])) * np.cos(2 * np.pi * pairs[1])
    return normals
