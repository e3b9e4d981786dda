"""How good the advice was: figures of a record, and of all against the targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from advice_parts.record import GridPoint, Record

CLOSE = 0.05
"""Nats per token; where families differ by no more, either may be named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyFigures:
    """A family's figures; None where there is nothing to take them from."""

    predicted: float | None
    seen: float | None
    error: float | None
    """(predicted − seen) / seen."""
    distance: float | None
    """Compute of the check over that of the largest probe."""
    width: float | None
    """Of the 90 % interval, nats per token."""
    inside: bool | None
    recommended: float | None
    """NLL of the recommended configuration."""
    best: GridPoint | None
    """Of the grid."""
    regret: float | None
    """NLL of the recommended configuration minus the best of the grid."""
    edges: tuple[str, ...]
    """Axes at whose end the best of the grid is, so that a wider grid may hold a better one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Figures of a record."""

    record: Record
    families: dict[str, FamilyFigures]
    better: str | None
    """The family with the lowest NLL in the grid; None without a grid of two families."""
    difference: float | None
    """By how much, to the next family."""
    right: bool | None
    """Whether the study named it; None where the families differ by CLOSE or less."""


@dataclass(frozen=True, slots=True)
class Target:
    """A target and what was reached."""

    what: str
    limit: float
    reached: float
    """Infinite (0 where more is better) where predictions or configurations are missing."""
    more_is_better: bool = False

    @property
    def met(self) -> bool:
        """Whether it is."""
        return self.reached >= self.limit if self.more_is_better else self.reached <= self.limit


def figures_of(record: Record) -> Figures:
    """Error, interval, regret and verdict of one record."""
    points = [] if record.grid is None else record.grid.points
    names = {*record.outcome.largest_probe, *record.outcome.checked}
    names |= {point.family for point in [*points, *record.recommended]}
    families = {family: _family(record, points, family) for family in sorted(names)}
    ranked = sorted(
        (one.best.nll, family)
        for family, one in families.items()
        if one.best is not None and one.best.nll is not None
    )
    if len(ranked) < 2:
        return Figures(record=record, families=families, better=None, difference=None, right=None)
    better, difference = ranked[0][1], ranked[1][0] - ranked[0][0]
    right = None if difference <= CLOSE else record.outcome.winner == better
    return Figures(
        record=record, families=families, better=better, difference=difference, right=right
    )


def _family(record: Record, points: Sequence[GridPoint], family: str) -> FamilyFigures:
    outcome = record.outcome
    checked, largest = outcome.checked.get(family), outcome.largest_probe.get(family)
    own = [point for point in points if point.family == family]
    best = min(_scored(own), key=lambda point: point.nll or 0.0, default=None)
    mine = [one for one in _scored(record.recommended) if one.family == family]
    recommended = mine[0].nll if mine else None
    error = distance = width = inside = regret = None
    if checked is not None:
        low, high = checked.interval
        error = (checked.predicted - checked.seen) / checked.seen
        width, inside = high - low, low <= checked.seen <= high
        if outcome.check_flops is not None and largest is not None:
            distance = outcome.check_flops / largest
    if best is not None and best.nll is not None and recommended is not None:
        regret = recommended - best.nll
    return FamilyFigures(
        predicted=None if checked is None else checked.predicted,
        seen=None if checked is None else checked.seen,
        error=error,
        distance=distance,
        width=width,
        inside=inside,
        recommended=recommended,
        best=best,
        regret=regret,
        edges=() if best is None else _edges(own, best),
    )


def _scored(points: Sequence[GridPoint]) -> list[GridPoint]:
    return [one for one in points if one.nll is not None and math.isfinite(one.nll)]


def _edges(points: Sequence[GridPoint], best: GridPoint) -> tuple[str, ...]:
    """Axes of which the best point has the smallest or the largest value.

    Sizes are ordered by their tokens, which fall with the size at one compute. Learning rates are
    compared among those of its size, since the grid's rates depend on it. An axis of a
    single value is at its end.
    """
    same_size = [one for one in points if one.size == best.size]
    axes: dict[str, tuple[list[float], float]] = {
        "size": ([one.tokens for one in points], best.tokens),
        "lr": ([one.lr for one in same_size], best.lr),
        "weight decay": ([one.weight_decay for one in points], best.weight_decay),
    }
    return tuple(
        name for name, (values, value) in axes.items() if value in (min(values), max(values))
    )


def targets(figures: Sequence[Figures]) -> list[Target]:
    """What was reached, over all families, texts and budgets, beside the targets.

    A prediction that is missing counts as one of infinite error and width that does not cover, a
    configuration that is missing as one of infinite regret.
    """
    families = [one for each in figures for one in each.families.values()]
    named = [each.right for each in figures if each.right is not None]
    if not families:
        return []
    errors = [_known(None if one.error is None else abs(one.error)) for one in families]
    covered = sum(bool(one.inside) for one in families) / len(families)
    found = [
        Target("error of the prediction, median", 0.03, median(errors)),
        Target("error of the prediction, worst", 0.06, max(errors)),
        Target("width of the interval, median", 0.3, median(_known(o.width) for o in families)),
        Target("coverage of the interval", 0.85, covered, more_is_better=True),
        Target("regret, median", 0.03, median(_known(one.regret) for one in families)),
    ]
    if named:
        share = sum(named) / len(named)
        found.append(Target("right family named", 1.0, share, more_is_better=True))
    return found


def _known(value: float | None) -> float:
    return math.inf if value is None else value
