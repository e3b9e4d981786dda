"""From weighted sums per draw, row and document to an NLL and its two standard errors.

Notation: Z is a row's weighted sum Σ w·NLL in one draw, an unbiased estimate of the row's
bound. Each token's weight w has mean 1 over draws.

Control variate. With h(x) = −log(unigram frequency of x), the sum Σ w·h has the known mean
Σ h over the scored tokens. So Z − β·(Σ w·h − Σ h) has the mean of Z for any β that does not
depend on the row's own masks, and less variance, since a token's NLL goes with its rarity. β
is fitted for eight ranges of the masked share, on one half of the groups, and used on the
other half, so it stays independent (cross-fitting) and the estimate stays unbiased.

Error from the draws. The estimate is a mean over R draws; groups and draws are independent.
With T the group's total in a draw, the variance of the mean is Σ_groups s²(T over draws)/R.

Error from the documents. Documents are the units that were sampled; tokens of a document are
alike. For the ratio μ = Σ D / Σ n of totals D and token counts n per document, the variance
is d/(d−1) · Σ (D − μ·n)² / (Σ n)² (the ratio estimator, Cochran, "Sampling techniques", 1977,
eq. 6.13, without the finite-population factor), less the part which the draws already explain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

LEVEL_RANGES = 8


@dataclass(frozen=True, slots=True)
class Estimate:
    """NLL per token with its uncertainty, and what is needed to compare it with another."""

    nll: float
    error_draws: float
    """0 for an exact likelihood; NaN if one draw was made, which cannot tell."""
    error_documents: float
    """NaN if there is a single document or row to judge by."""
    unit_totals: Floats
    """[units] mean total per document (or per row, where there is only one document)."""
    unit_tokens: Integers
    """[units] scored tokens."""
    unit_variances: Floats
    """[units] variance of `unit_totals` from the draws; NaN after a single draw."""

    @property
    def error(self) -> float:
        """Standard error of both parts together; unknown parts count as nothing."""
        return float(np.hypot(np.nan_to_num(self.error_draws), np.nan_to_num(self.error_documents)))


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the segments (the part of one document in one row) belong."""

    row: Integers
    """[segments] row of each segment."""
    document: Integers
    """[segments] document of each segment."""
    tokens: Integers
    """[segments] scored tokens."""
    group: Integers
    """[rows] group of each row, of independent draws."""


def estimate(
    layout: Layout, values: Floats, controls: Floats, shares: Floats, *, exact: bool
) -> Estimate:
    """The estimate from R draws, or from one exact scoring.

    values [R, segments] are Σ w·NLL, controls [R, segments] are Σ w·h − Σ h, shares [R, rows]
    are the masked shares of the rows' scored tokens.
    """
    row_values = _sums(values, layout.row)
    row_controls = _sums(controls, layout.row)
    beta = _cross_fitted_slopes(row_values, row_controls, shares, layout)
    corrected = values - beta[:, layout.row] * controls
    total_tokens = int(layout.tokens.sum())
    mean = corrected.mean(axis=0)
    nll = float(mean.sum() / total_tokens)

    group_of_segment = layout.group[layout.row]
    draws_variance = _variance_of_mean(_sums(corrected, group_of_segment), exact).sum()

    units = layout.document if layout.document.max() > layout.document.min() else layout.row
    unit_totals = _sums(corrected, units).mean(axis=0)
    unit_variances = _variance_of_mean(_sums(corrected, units), exact)
    unit_tokens = np.bincount(units, weights=layout.tokens).astype(np.int64)
    present = unit_tokens > 0
    return Estimate(
        nll=nll,
        error_draws=float(np.sqrt(draws_variance) / total_tokens),
        error_documents=_document_error(
            unit_totals[present], unit_tokens[present], unit_variances[present]
        ),
        unit_totals=unit_totals[present],
        unit_tokens=unit_tokens[present],
        unit_variances=unit_variances[present],
    )


def paired_difference(a: Estimate, b: Estimate) -> tuple[float, float]:
    """NLL of `a` minus that of `b` on the same documents, and its standard error.

    Documents hard for one are hard for the other; pairing them takes that part out of the
    error. Raises ValueError if the two were not scored on the same documents.
    """
    if not np.array_equal(a.unit_tokens, b.unit_tokens):
        raise ValueError("the two results are of different validation sets")
    variances = np.nan_to_num(a.unit_variances) + np.nan_to_num(b.unit_variances)
    error = _document_error(a.unit_totals - b.unit_totals, a.unit_tokens, variances)
    draws = np.hypot(np.nan_to_num(a.error_draws), np.nan_to_num(b.error_draws))
    return a.nll - b.nll, float(np.hypot(np.nan_to_num(error), draws))


def _document_error(totals: Floats, tokens: Integers, variances: Floats) -> float:
    count, total_tokens = len(totals), tokens.sum()
    if count < 2:
        return float("nan")
    centred = totals - totals.sum() / total_tokens * tokens
    spread = count / (count - 1) * np.square(centred).sum()
    own = max(0.0, float(spread - np.nan_to_num(variances).sum()))
    return float(np.sqrt(own) / total_tokens)


def _variance_of_mean(totals: Floats, exact: bool) -> Floats:
    """[units] variance of the mean over draws of [R, units] totals."""
    draws = len(totals)
    if exact:
        return np.zeros(totals.shape[1])
    if draws == 1:
        return np.full(totals.shape[1], np.nan)
    return np.asarray(totals.var(axis=0, ddof=1) / draws)


def _sums(values: Floats, place: Integers) -> Floats:
    """[R, segments] → [R, places] sums."""
    size = int(place.max()) + 1
    return np.stack([np.bincount(place, weights=draw, minlength=size) for draw in values])


def _cross_fitted_slopes(values: Floats, controls: Floats, shares: Floats, at: Layout) -> Floats:
    """[R, rows] slope β for each row and draw, fitted on the other half of the groups."""
    tokens = np.broadcast_to(np.bincount(at.row, weights=at.tokens), values.shape)
    level_range = np.minimum((shares * LEVEL_RANGES).astype(np.int64), LEVEL_RANGES - 1)
    half = np.broadcast_to(at.group % 2, values.shape)
    slopes = np.zeros((2, LEVEL_RANGES))
    for own in (0, 1):
        other = half != own
        if not other.any():
            continue
        bins, control = level_range[other], controls[other]
        # What a row has above its expectation; the mean, too, is that of the other half.
        surprise = values[other] - values[other].sum() / tokens[other].sum() * tokens[other]
        product = np.bincount(bins, surprise * control, LEVEL_RANGES)
        square = np.bincount(bins, np.square(control), LEVEL_RANGES)
        slopes[own] = np.divide(product, square, out=np.zeros(LEVEL_RANGES), where=square > 0)
    return slopes[half, level_range]
