"""Which points a law may be fitted to, and refusals of those that cannot determine it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from epochal.errors import DataError
from epochal.scaling.forms import Form
from epochal.scaling.known import SINGLE_EPOCH
from epochal.scaling.points import Dropped, Points
from epochal.scaling.problem import Problem
from epochal.units import format_count

RISE = 0.03
"""A run counts as overfitted if its loss is higher by this share than that of a shorter run of
the same size on the same tokens."""


def select_rows(
    points: Points, form: Form, rise: float, keep_overfitted: bool, max_epochs: float | None
) -> tuple[Points, list[Dropped]]:
    """The points that `form` is fitted to, and those left out with the rule.

    The Chinchilla law takes runs of about one epoch only. A law that is monotone in epochs
    takes no overfitted runs: it cannot express them, and they move its constants.
    """
    limit = max_epochs
    if limit is None and form.name == "chinchilla":
        limit = SINGLE_EPOCH
    keep = np.ones(len(points), dtype=bool)
    dropped = []
    if limit is not None:
        for index in np.flatnonzero(points.epochs > limit * (1 + 1e-9)).tolist():
            keep[index] = False
            reason = f"more than {limit:g} epochs ({points.epochs[index]:.3g})"
            dropped.append(points.drop(index, reason))
    if form.monotone and not keep_overfitted:
        for index, above in _overfitted(points, rise).items():
            if keep[index]:
                keep[index] = False
                reason = (
                    f"overfitted: {100 * above:.1f} % above a shorter run of the same size on the "
                    f"same tokens (rule: {100 * rise:g} %)"
                )
                dropped.append(points.drop(index, reason))
    return points.take(keep), dropped


def _overfitted(points: Points, rise: float) -> dict[int, float]:
    """Index → share by which the loss is above the lowest of shorter, otherwise equal runs."""
    alike: dict[tuple[float, float], list[int]] = defaultdict(list)
    for index in np.argsort(points.tokens, kind="stable"):
        alike[float(points.params[index]), float(points.unique_tokens[index])].append(int(index))
    found = {}
    for indices in alike.values():
        lowest = np.inf
        for index in indices:
            if points.loss[index] > lowest * (1 + rise):
                found[index] = float(points.loss[index] / lowest - 1)
            lowest = min(lowest, float(points.loss[index]))
    return found


def check_determined(
    problem: Problem, points: Points, family: str, left_out: Sequence[Dropped] = ()
) -> None:
    """Raise DataError, saying what is missing, where no fit could tell the constants.

    `left_out` are the points that the rules took away: too few may be left because of them.
    """
    free, rows = problem.free, len(points)
    if rows <= len(free):
        raise DataError(
            f"{family}: {rows} points cannot determine the {len(free)} constants of the law "
            f"{problem.form.name} ({', '.join(free)}); give at least {len(free) + 1}, tie the "
            f"exponents, or hold some constants with --hold{_taken_away(left_out)}"
        )
    if "alpha" not in free and "E" not in free:
        return
    need = 2 if problem.tie else 3
    sizes, lengths = (np.unique(np.round(np.log(v), 3)) for v in (points.params, points.tokens))
    if "A" in free and len(sizes) < need:
        raise DataError(
            f"{family}: all runs have {_few(points.params)} parameters, so A, alpha and E cannot "
            f"be told apart; give runs of at least {need} sizes, or hold constants with --hold"
        )
    if "B" in free and len(lengths) < need:
        raise DataError(
            f"{family}: all runs saw {_few(points.tokens)} tokens, so B, beta and E cannot be told "
            f"apart; give runs of at least {need} lengths, or hold constants with --hold"
        )
    single = bool((points.epochs <= SINGLE_EPOCH).all())
    if {"A", "B"} <= set(free) and single and np.ptp(np.log(points.flops)) < 0.1:
        raise DataError(
            f"{family}: all runs have one compute budget ({format_count(points.flops[0])} FLOPs), "
            "where more parameters always mean fewer tokens, so their effects cannot be told "
            "apart; give runs of at least two budgets"
        )


def _taken_away(left_out: Sequence[Dropped]) -> str:
    """How many points were left out and why the first was, to go on a sentence."""
    if not left_out:
        return ""
    return f" ({len(left_out)} left out, such as {left_out[0].run}: {left_out[0].reason})"


def _few(values: np.ndarray) -> str:
    return " or ".join(format_count(v) for v in np.unique(values)[:3])
