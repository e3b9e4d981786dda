"""What repeating costs each family: the coefficient P of an additive penalty.

P·R·N/U nats are added by R repetitions of U unique tokens with N parameters (arXiv 2605.01640,
both exponents fixed at 1, so that P can be compared between families and recipes). It is fitted
beside the law that was asked for, to overfitted runs, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from epochal.errors import DataError
from epochal.estimates import Floats
from epochal.families import family_names
from epochal.scaling.checks import Interval, spread
from epochal.scaling.estimate import close_to_best, point_fit
from epochal.scaling.fixed import Fixed, fixed_for
from epochal.scaling.forms.penalties import LINEAR_PENALTY
from epochal.scaling.law import TAIL, interval_of
from epochal.scaling.options import FitOptions
from epochal.scaling.points import Points

_SEEN = 1e-3
"""Nats of the largest penalty of the runs below which no cost is seen."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RepetitionCost:
    """P of one family, nats per repetition of as many unique tokens as parameters."""

    family: str
    penalty: float | None
    """None: no cost is seen, the largest penalty of the runs is below 0.001 nats."""
    interval: Interval | None
    """95 %; a lower end of None reaches to no cost. None without resamples."""
    runs: int
    """That were fitted."""
    longest: float
    """Epochs of the longest run."""
    samples: list[Floats] = field(metadata={"json": False})
    """Sets of P of resampled runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostRatio:
    """What repeating costs one family over what it costs another, P over P."""

    first: str
    second: str
    ratio: float
    interval: Interval | None
    """95 %; an open end is None. None without resamples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepetitionCosts:
    """P of all families, and their ratios."""

    families: list[RepetitionCost]
    """Those whose runs determine it."""
    pairs: list[CostRatio]
    """Every two families that both show a cost."""


def repetition_costs(points: Points, options: FitOptions, fixed: Fixed) -> RepetitionCosts:
    """P of each family of `points`, by the law linear-penalty.

    `fixed` are constants per family ("": all) that are not fitted; those that the law does not have
    are left aside. Families whose runs do not determine P are left out.
    """
    found = []
    for family in family_names():
        if family not in points.family:
            continue
        given = fixed_for(fixed, family).items()
        own = {name: value for name, value in given if name in LINEAR_PENALTY.constants}
        try:
            found.append(_cost(points.of_family(family), family, options, own))
        except DataError:  # said of the law that was asked for, if it matters
            continue
    pairs = [
        _ratio(first, second)
        for first, second in combinations(found, 2)
        if first.penalty is not None and second.penalty is not None
    ]
    return RepetitionCosts(families=found, pairs=pairs)


def _cost(
    points: Points, family: str, options: FitOptions, fixed: Mapping[str, float]
) -> RepetitionCost:
    """P of one family. Raises DataError if its points do not determine it."""
    fit = point_fit(points, family, LINEAR_PENALTY, options, fixed)
    at = LINEAR_PENALTY.index("P")
    lowest = float(fit.objectives[0])
    errors = spread(
        fit.problem, fit.constants[close_to_best(fit.objectives)], lowest, fit.rows, options, family
    )
    samples = [np.exp(draws[:, at]) for draws in errors.samples]
    rows = fit.rows
    largest = float(((rows.epochs - 1) * rows.params / rows.unique_tokens).max())
    value = float(np.exp(fit.constants[0, at]))
    interval: Interval | None = None
    if samples:
        low, high = (float(end) for end in interval_of(samples, whole_range=False))
        interval = (low if low * largest >= _SEEN else None, high)
    return RepetitionCost(
        family=family,
        penalty=value if value * largest >= _SEEN else None,
        interval=interval,
        runs=len(rows),
        longest=float(rows.epochs.max()),
        samples=samples,
    )


def _ratio(first: RepetitionCost, second: RepetitionCost) -> CostRatio:
    """First over second; ends are open where the other's, or its own, cost may be none."""
    assert first.penalty is not None
    assert second.penalty is not None
    interval: Interval | None = None
    if first.interval is not None and second.interval is not None:
        pairs = [x[: len(y)] / y[: len(x)] for x in first.samples for y in second.samples]
        low, high = (float(end) for end in interval_of(pairs, whole_range=False, tail=TAIL))
        interval = (
            low if first.interval[0] is not None else None,
            high if second.interval[0] is not None else None,
        )
    return CostRatio(
        first=first.family,
        second=second.family,
        ratio=first.penalty / second.penalty,
        interval=interval,
    )
