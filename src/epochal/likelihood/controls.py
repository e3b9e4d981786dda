"""Control variates: what can be said about a token's NLL without the model's masks.

In a draw, a token's weight w is random with mean 1. So for any feature x of a token that does
not depend on the draw's masks, Σ (w − 1)·x has mean 0, and taking slope · Σ (w − 1)·x off a
row's sum keeps its mean. The nearer slope · x comes to the token's NLL, the less is left to
the choice of the masked tokens. Features:

- the unigram NLL of the token, from the set's own counts;
- the model's own NLL of the token in earlier draws, above its unigram NLL, shrunk to 0
  where the token was seldom masked. A draw uses earlier draws only, so the corrected draws
  stay uncorrelated with equal means, and their scatter still gives the error without bias.

Bigram NLLs given the token before and after were tried beside them and took nothing away;
slopes of their own for ranges of the masked share took more noise in than they took out.

Slopes are fitted by least squares over masked tokens on one half of the groups of rows and used
on the other half (cross-fitting), so that they do not depend on the masks which they correct.
A token counts with w², as it does in the variance. The fit is drawn to slopes of 1 as if
`PRIOR_ROWS` more rows had shown them, so that a small set cannot make it wild.

Shape letters: B rows, S scored tokens of a row, J features.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from epochal.data.rows import ScoredWindows
from epochal.estimates import Floats, unigram_nll

FEATURES = 2
PRIOR_SLOPES = np.array([1.0, 1.0])
PRIOR_ROWS = 10.0
"""Chosen by us."""
_PRIOR_DRAWS = 0.5
"""Weight of "as the unigram says" in a token's history; chosen by us."""
_CHUNK = 1024


def scored_unigram_nll(windows: ScoredWindows, vocabulary: int) -> Floats:
    """[vocabulary] `unigram_nll` of the scored tokens of all windows."""
    counts = np.zeros(vocabulary)
    full = windows.full
    firsts = [*range(0, full, _CHUNK), *([full] if full < len(windows) else [])]
    for first in firsts:
        last = min(first + _CHUNK, full) if first < full else len(windows)
        ids = windows.rows(first, last - first)[:, 1:]
        counts += np.bincount(ids.ravel(), minlength=vocabulary)[:vocabulary]
    return unigram_nll(counts)


class History:
    """The NLL of each token in earlier draws, above its unigram NLL."""

    def __init__(self, rows: int, scored: int) -> None:
        self._sums = np.zeros((rows, scored), dtype=np.float32)
        self._times = np.zeros((rows, scored), dtype=np.float32)

    def feature(self, rows: slice, width: int) -> Floats:
        """[B, S] of some rows."""
        sums, times = self._sums[rows, :width], self._times[rows, :width]
        return np.asarray(sums / (times + _PRIOR_DRAWS), dtype=np.float64)

    def add(self, rows: slice, masked: NDArray[np.bool_], above: Floats) -> None:
        """Take note of a draw; `above` is NLL less unigram NLL where `masked`."""
        width = masked.shape[1]
        self._sums[rows, :width] += np.where(masked, above, 0)
        self._times[rows, :width] += masked


def normal_equations(weights: Floats, features: Floats, nll: Floats) -> Floats:
    """[B, J + 2, J + 2] products of (features, 1, NLL) over each row's tokens, times w²."""
    columns = np.concatenate((features, np.ones_like(nll)[None], nll[None]))
    scaled = (columns * weights).transpose(1, 0, 2)
    return np.asarray(scaled @ scaled.transpose(0, 2, 1))


def slopes(products: Floats, rows: float) -> Floats:
    """[J] slopes from the products of `rows` rows summed."""
    size = len(products) - 2
    inner, right = products[:-1, :-1].copy(), products[:-1, -1].copy()
    # An intercept is fitted, too, but Σ (w − 1) is 0: it needs no prior, only a value.
    centred = np.maximum(
        np.diag(inner)[:size] - inner[:size, size] ** 2 / max(inner[size, size], 1e-300), 0
    )
    prior = PRIOR_ROWS / max(rows, 1.0) * centred + 1e-9
    step = np.arange(size)
    inner[step, step] += prior
    right[:size] += prior * PRIOR_SLOPES[:size]
    inner[size, size] += 1e-9
    return np.asarray(np.linalg.solve(inner, right)[:size])
