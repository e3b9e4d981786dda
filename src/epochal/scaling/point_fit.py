"""The first fit of a law to a family's runs: rows, what they can tell, all minima."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from epochal.errors import DataError
from epochal.estimates import Floats
from epochal.scaling.forms import Form, Inputs, not_identified, unconstrain
from epochal.scaling.law import SINGLE_EPOCH, ScalingLaw, find_form
from epochal.scaling.points import Dropped, Points
from epochal.scaling.solver import HUBER_DELTA, FitProblem, polish
from epochal.scaling.starts import distinct, global_search
from epochal.units import format_count

STAGE_1_EPOCHS = 2.5
"""Rows of up to so many epochs go to stage 1 of a two-stage fit (Muennighoff's notebook)."""
_POLISH_WITHIN = 0.03
_MOST_POLISHED = 12
_LARGE = 1.1  # N above N_opt(u) by this factor says something of R_N


OVERFIT_SHARE = 0.03
"""A run counts as overfitted if its loss is higher by this share than that of a shorter run of
the same size on the same tokens."""


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How to fit."""

    law: str = "data-constrained"
    tie: bool = False
    """β = α."""
    delta: float = HUBER_DELTA
    """Huber's δ; infinite for least squares."""
    residual: Literal["log", "loss"] = "log"
    bootstraps: int = 500
    seed: int = 0
    rise: float = OVERFIT_SHARE
    keep_overfitted: bool = False
    max_epochs: float | None = None
    two_stage: bool = False
    """Fit A, B, E, α, β to rows of up to 2.5 epochs, hold them, fit the rest to all rows."""


@dataclass(slots=True)
class PointFit:
    """A law on the rows that it takes, with every minimum."""

    rows: Points
    left_out: list[Dropped]
    held: dict[str, float]
    """Inner values of constants that stay as they are."""
    unknown: list[str]
    """Half-lives that the rows say nothing of."""
    constant_status: dict[str, str]
    problem: FitProblem
    constants: Floats
    """Inner constants of the minima, best first, [M, k]."""
    objectives: Floats
    """[M]."""


def point_fit(
    points: Points,
    family: str,
    form: Form,
    settings: FitSettings,
    hold: Mapping[str, float] | None = None,
    polished: int = _MOST_POLISHED,
) -> PointFit:
    """Fit one family's points, without intervals; up to so many of the best minima `polished`.

    Raises DataError where they cannot determine the law.
    """
    rows, left_out = select_rows(
        points, form, settings.rise, settings.keep_overfitted, settings.max_epochs
    )
    held = held_constants(form, hold or {})
    constant_status: dict[str, str] = dict.fromkeys(held, "held")
    if settings.two_stage:
        held |= _stage_1(rows, family, form, settings, held)
        constant_status |= {
            name: "held from stage 1" for name in held if name not in constant_status
        }
    unknown = _unknown_from_rows(rows, form, held, constant_status)
    if "R_D" in unknown:
        rows, more = _single_epoch(rows)
        left_out += more
    problem = make_problem(rows, form, settings, held, unknown)
    check_determined(problem, rows, family, left_out)
    constants, objectives = search(problem, polished)
    if "R_N" in problem.free and not _large_models(rows, form, constants[0]):
        unknown.append("R_N")
        constant_status["R_N"] = "not identified: no two runs have N above 1.1·N_opt(U)"
        problem = make_problem(rows, form, settings, held, unknown)
        constants, objectives = search(problem, polished)
    return PointFit(rows, left_out, held, unknown, constant_status, problem, constants, objectives)


def _single_epoch(rows: Points) -> tuple[Points, list[Dropped]]:
    """The rows of one epoch, and the rest as left out: alone it cannot tell a half-life."""
    repeated = rows.epochs > SINGLE_EPOCH
    reason = "the only run that repeats its tokens, from which no half-life can be told"
    return rows.take(~repeated), [
        rows.drop(index, reason) for index in np.flatnonzero(repeated).tolist()
    ]


def _large_models(rows: Points, form: Form, constants: Floats) -> bool:
    """Whether two rows or more have N well above N_opt(u), which alone tell R_N."""
    law = ScalingLaw(family="", form=form, theta=constants)
    best = law.optimal_params(np.minimum(rows.tokens, rows.unique_tokens))
    return int((rows.params > _LARGE * best).sum()) >= 2


def held_constants(form: Form, hold: Mapping[str, float]) -> dict[str, float]:
    """Inner values of constants to hold. Raises DataError for one that the law has not."""
    strange = [name for name in hold if name not in form.constants]
    if strange:
        raise DataError(
            f"the law {form.name} has no constant {strange[0]!r} to hold; it has "
            f"{', '.join(form.constants)}"
        )
    bad = [name for name, value in hold.items() if not np.isfinite(value) or value <= 0]
    if bad:
        raise DataError(f"cannot hold {bad[0]} = {hold[bad[0]]!r}: it is not a positive number")
    full = np.array([hold.get(name, 1.0) for name in form.constants])
    values = unconstrain(form, full)
    return {name: float(values[form.index(name)]) for name in form.constants if name in hold}


def make_problem(
    rows: Points, form: Form, settings: FitSettings, held: Mapping[str, float], unknown: list[str]
) -> FitProblem:
    """The law on `rows`, with what is held and the rule for what is `unknown`."""
    everything = {**held, **not_identified(unknown)}
    return FitProblem(
        form,
        Inputs.at(rows.params, rows.tokens, rows.unique_tokens),
        np.log(rows.loss),
        settings.delta,
        settings.residual,
        settings.tie and "alpha" not in everything and "beta" not in everything,
        everything,
    )


def _unknown_from_rows(
    rows: Points, form: Form, held: Mapping[str, float], constant_status: dict[str, str]
) -> list[str]:
    """Constants that rows of one epoch say nothing of.

    Raises DataError for a law of overfitting.
    """
    if (rows.epochs > SINGLE_EPOCH).sum() >= 2:
        return []
    if "K" in form.constants and "K" not in held:
        raise DataError(
            f"fewer than two runs repeat their tokens, so the penalty on repetition of the law "
            f"{form.name} cannot be found; use --law chinchilla, or add runs of several epochs"
        )
    half_lives: tuple[str, ...] = ("R_D", "R_N")
    unknown = [name for name in half_lives if name in form.constants and name not in held]
    for name in unknown:
        constant_status[name] = "not identified: fewer than two runs repeat their tokens"
    return unknown


def search(problem: FitProblem, most: int = _MOST_POLISHED) -> tuple[Floats, Floats]:
    """All distinct minima, best first, up to `most` of the best polished: inner constants and
    objectives."""
    constants, objectives = global_search(problem)
    near = objectives <= objectives[0] * (1 + _POLISH_WITHIN) + 1e-24
    ends = [polish(problem, c) for c in constants[near][:most]]
    for index, (found, value) in enumerate(ends):
        if value < objectives[index]:
            constants[index], objectives[index] = found, value
    return distinct(problem, constants, objectives)


def _stage_1(
    rows: Points, family: str, form: Form, settings: FitSettings, held: Mapping[str, float]
) -> dict[str, float]:
    """A, B, E, α, β from rows of up to 2.5 epochs, by the Chinchilla law."""
    part = rows.take(rows.epochs <= STAGE_1_EPOCHS)
    five = find_form("chinchilla")
    kept = {name: value for name, value in held.items() if name in five.constants}
    problem = make_problem(part, five, settings, kept, [])
    check_determined(problem, part, f"{family}, stage 1 (up to {STAGE_1_EPOCHS:g} epochs)")
    best = search(problem)[0][0]
    return {name: float(best[five.index(name)]) for name in five.constants} | dict(held)


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
    problem: FitProblem, points: Points, family: str, left_out: Sequence[Dropped] = ()
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
