"""From weighted sums per draw, row and document to an NLL and its two standard errors.

Notation: a row's weighted sum Σ w·NLL in one draw is an unbiased estimate of the row's bound;
so it still is after its control variates were taken off (`epochal.likelihood.controls`).

Error from the draws. The estimate is a mean over R draws; groups are independent, draws
uncorrelated.
With T the group's total in a draw, the variance of the mean is Σ_groups s²(T over draws)/R.

Error from the documents. Documents are the units that were sampled; tokens of a document are
alike. For the ratio μ = Σ D / Σ n of totals D and token counts n per document, the variance
is d/(d−1) · Σ (D − μ·n)² / (Σ n)² (the ratio estimator, Cochran, "Sampling techniques", 1977,
eq. 6.13, without the finite-population factor), less the part which the draws already explain.

A gap between two models. Both parts are taken from differences: of the documents' totals, since
documents hard for one are hard for the other, and of the groups' totals in each draw, since both
models meet the same masks. Interval and p-value are Student's, with Satterthwaite's degrees of
freedom for the sum of the two variances.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """NLL per token with its uncertainty, and what is needed to compare it with another."""

    nll: float
    error_draws: float
    """0 for an exact likelihood; NaN after a single draw, which has no spread."""
    error_documents: float
    """NaN if there is a single document or row to judge by."""
    unit_totals: Floats
    """[units] mean total per document (or per row, where there is only one document)."""
    unit_tokens: Integers
    """[units] scored tokens."""
    unit_variances: Floats
    """[units] variance of `unit_totals` from the draws; NaN after a single draw."""
    unit_draws: Floats | None = None
    """[R, units] totals in each draw, where they were kept."""
    group_draws: Floats | None = None
    """[R, groups] totals of the independent groups of rows in each draw, where they were kept."""

    def interval_draws(self) -> tuple[float, float]:
        """Student's 95 % confidence interval of this set's exact (bound on the) NLL.

        It covers the draws only: the documents are taken as given.
        """
        from scipy.special import stdtrit

        if self.group_draws is None or not self.error_draws > 0:
            return self.nll, self.nll
        freedom = (len(self.group_draws) - 1) * self.group_draws.shape[1]
        reach = self.error_draws * float(stdtrit(freedom, 0.975))
        return self.nll - reach, self.nll + reach

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


def estimate(layout: Layout, corrected: Floats, *, exact: bool) -> Estimate:
    """The estimate from [R, segments] sums of R draws, or from one exact scoring."""
    total_tokens = int(layout.tokens.sum())
    mean = corrected.mean(axis=0)
    nll = float(mean.sum() / total_tokens)

    group_of_segment = layout.group[layout.row]
    group_draws = _sums(corrected, group_of_segment)
    draws_variance = _variance_of_mean(group_draws, exact).sum()

    units = layout.document if layout.document.max() > layout.document.min() else layout.row
    unit_draws = _sums(corrected, units)
    unit_totals = unit_draws.mean(axis=0)
    unit_variances = _variance_of_mean(unit_draws, exact)
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
        unit_draws=unit_draws[:, present],
        group_draws=group_draws,
    )


@dataclass(frozen=True, slots=True)
class Gap:
    """NLL of one model minus that of another on the same documents, nats per token."""

    difference: float
    error_draws: float
    error_documents: float
    """NaN if there is a single document or row to judge by."""
    freedom: float
    """Degrees of freedom of `error`; infinite where it is of many."""
    error_seeds: float = 0.0
    """Of the mean over seeds; 0 with a single seed on either side, which has no spread."""

    @property
    def error(self) -> float:
        """Standard error of all parts together; unknown parts count as nothing."""
        parts = (self.error_draws, self.error_documents, self.error_seeds)
        return float(np.linalg.norm(np.nan_to_num(parts)))

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Student's confidence interval of the difference."""
        from scipy.special import stdtrit

        reach = self.error and self.error * float(stdtrit(self.freedom, (1 + confidence) / 2))
        return self.difference - reach, self.difference + reach

    @property
    def p_value(self) -> float:
        """Two-sided: how often two equally good models would differ by so much; NaN unknown."""
        from scipy.special import stdtr

        if not self.error:
            return float("nan")
        return float(2 * stdtr(self.freedom, -abs(self.difference) / self.error))


def gap(a: Estimate, b: Estimate) -> Gap:
    """NLL of `a` minus that of `b`, paired by documents and, where kept, by draws.

    Raises ValueError if the two were not scored on the same documents.
    """
    if not np.array_equal(a.unit_tokens, b.unit_tokens):
        raise ValueError("the two results are of different validation sets")
    total_tokens = int(a.unit_tokens.sum())
    paired = _paired(a.group_draws, b.group_draws)
    if paired is not None:
        draws, variances = np.sqrt(_variance_of_mean(paired, False).sum()) / total_tokens, None
        if (units := _paired(a.unit_draws, b.unit_draws)) is not None:
            variances = _variance_of_mean(units, False)
    else:
        draws, variances = np.hypot(*np.nan_to_num([a.error_draws, b.error_draws])), None
    if variances is None:
        variances = np.nan_to_num(a.unit_variances) + np.nan_to_num(b.unit_variances)
    documents = _document_error(a.unit_totals - b.unit_totals, a.unit_tokens, variances)
    draws_freedom = np.inf if paired is None else (len(paired) - 1) * paired.shape[1]
    return Gap(
        difference=a.nll - b.nll,
        error_draws=float(draws),
        error_documents=documents,
        freedom=_satterthwaite(
            [(documents, len(a.unit_tokens) - 1), (float(draws), float(draws_freedom))]
        ),
    )


def gap_of_seeds(runs: Sequence[Estimate], others: Sequence[Estimate]) -> Gap:
    """Mean NLL of `runs`, seeds of one recipe, minus that of `others`, paired by documents.

    Documents and draws as in `gap`, of the seeds' mean totals; to these s²/n over the seeds of
    either side is added. Raises ValueError if not all were scored on the same documents.
    """
    found = gap(_mean(runs), _mean(others))
    parts = [
        (float(np.std([one.nll for one in side], ddof=1)) / len(side) ** 0.5, len(side) - 1.0)
        for side in (runs, others)
        if len(side) > 1
    ]
    return replace(
        found,
        error_seeds=float(np.linalg.norm([error for error, _ in parts])),
        freedom=_satterthwaite([(found.error, found.freedom), *parts]) if parts else found.freedom,
    )


def _mean(seeds: Sequence[Estimate]) -> Estimate:
    """The mean of estimates of several runs, whose draws are independent."""
    if len(seeds) == 1:
        return seeds[0]
    if any(not np.array_equal(one.unit_tokens, seeds[0].unit_tokens) for one in seeds):
        raise ValueError("the results are of different validation sets")
    count = len(seeds)
    return Estimate(
        nll=float(np.mean([one.nll for one in seeds])),
        error_draws=float(np.linalg.norm(np.nan_to_num([one.error_draws for one in seeds])))
        / count,
        error_documents=np.nan,
        unit_totals=np.mean([one.unit_totals for one in seeds], axis=0),
        unit_tokens=seeds[0].unit_tokens,
        unit_variances=np.sum([one.unit_variances for one in seeds], axis=0) / count**2,
    )


def _paired(a: Floats | None, b: Floats | None) -> Floats | None:
    """[R, …] differences in each draw; None unless both met the same two or more draws.

    An exact likelihood is a single draw that holds for all.
    """
    if a is None or b is None or a.shape[1:] != b.shape[1:]:
        return None
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        return None
    both = a - b
    return both if len(both) > 1 else None


def _satterthwaite(parts: list[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of independent variances, from (standard error, its own)."""
    known = [(error**2, freedom) for error, freedom in parts if np.nan_to_num(error) > 0]
    below = sum(variance**2 / freedom for variance, freedom in known)
    return float(sum(variance for variance, _ in known) ** 2 / below) if below else float("inf")


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


def unigram_nll(counts: Floats) -> Floats:
    """[vocabulary] −log frequency of each token, nats; one is added to each count."""
    smoothed = np.asarray(counts, dtype=float) + 1.0
    return np.asarray(-np.log(smoothed / smoothed.sum()))
