"""The first fit of a law to a family's runs: rows, what they can tell, all minima."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from epochal.errors import DataError
from epochal.estimates import Floats
from epochal.scaling.forms import Form, Where, inner, not_identified
from epochal.scaling.known import SINGLE_EPOCH, KnownLaw, find_form
from epochal.scaling.points import Dropped, Points
from epochal.scaling.problem import HUBER_DELTA, Problem
from epochal.scaling.rows import RISE, check_determined, select_rows
from epochal.scaling.solver import polish
from epochal.scaling.starts import distinct, global_search

STAGE_1_EPOCHS = 2.5
"""Rows of up to so many epochs go to stage 1 of a two-stage fit (Muennighoff's notebook)."""
_POLISH_WITHIN = 0.03
_MOST_POLISHED = 12
_LARGE = 1.1  # N above N_opt(u) by this factor says something of R_N


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
    rise: float = RISE
    keep_overfitted: bool = False
    max_epochs: float | None = None
    two_stage: bool = False
    """Fit A, B, E, α, β to rows of up to 2.5 epochs, hold them, fit the rest to all rows."""


@dataclass(slots=True)
class FirstFit:
    """A law on the rows that it takes, with every minimum."""

    rows: Points
    left_out: list[Dropped]
    held: dict[str, float]
    """Inner values of constants that stay as they are."""
    unknown: list[str]
    """Half-lives that the rows say nothing of."""
    statements: dict[str, str]
    problem: Problem
    constants: Floats
    """Inner constants of the minima, best first, [M, k]."""
    objectives: Floats
    """[M]."""


def first_fit(
    points: Points,
    family: str,
    form: Form,
    settings: FitSettings,
    hold: Mapping[str, float] | None = None,
    polished: int = _MOST_POLISHED,
) -> FirstFit:
    """Fit one family's points, without intervals; up to so many of the best minima `polished`.

    Raises DataError where they cannot determine the law.
    """
    rows, left_out = select_rows(
        points, form, settings.rise, settings.keep_overfitted, settings.max_epochs
    )
    held = held_constants(form, hold or {})
    statements: dict[str, str] = dict.fromkeys(held, "held")
    if settings.two_stage:
        held |= _stage_1(rows, family, form, settings, held)
        statements |= {name: "held from stage 1" for name in held if name not in statements}
    unknown = _unknown_from_rows(rows, form, held, statements)
    if "R_D" in unknown:
        rows, more = _single_epoch(rows)
        left_out += more
    problem = make_problem(rows, form, settings, held, unknown)
    check_determined(problem, rows, family, left_out)
    constants, objectives = search(problem, polished)
    if "R_N" in problem.free and not _large_models(rows, form, constants[0]):
        unknown.append("R_N")
        statements["R_N"] = "not identified: no two runs have N above 1.1·N_opt(U)"
        problem = make_problem(rows, form, settings, held, unknown)
        constants, objectives = search(problem, polished)
    return FirstFit(rows, left_out, held, unknown, statements, problem, constants, objectives)


def _single_epoch(rows: Points) -> tuple[Points, list[Dropped]]:
    """The rows of one epoch, and the rest as left out: alone it cannot tell a half-life."""
    repeated = rows.epochs > SINGLE_EPOCH
    reason = "the only run that repeats its tokens, from which no half-life can be told"
    return rows.take(~repeated), [
        rows.drop(index, reason) for index in np.flatnonzero(repeated).tolist()
    ]


def _large_models(rows: Points, form: Form, constants: Floats) -> bool:
    """Whether two rows or more have N well above N_opt(u), which alone tell R_N."""
    law = KnownLaw(family="", form=form, inner=constants)
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
    values = inner(form, full)
    return {name: float(values[form.index(name)]) for name in form.constants if name in hold}


def make_problem(
    rows: Points, form: Form, settings: FitSettings, held: Mapping[str, float], unknown: list[str]
) -> Problem:
    """The law on `rows`, with what is held and the rule for what is `unknown`."""
    everything = {**held, **not_identified(unknown)}
    return Problem(
        form,
        Where.at(rows.params, rows.tokens, rows.unique_tokens),
        np.log(rows.loss),
        settings.delta,
        settings.residual,
        settings.tie and "alpha" not in everything and "beta" not in everything,
        everything,
    )


def _unknown_from_rows(
    rows: Points, form: Form, held: Mapping[str, float], statements: dict[str, str]
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
        statements[name] = "not identified: fewer than two runs repeat their tokens"
    return unknown


def search(problem: Problem, most: int = _MOST_POLISHED) -> tuple[Floats, Floats]:
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
