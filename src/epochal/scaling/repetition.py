"""What repeating costs each recipe: the coefficient P of an additive penalty.

P·R^delta·(N/U)^kappa nats are added by R repetitions of U unique tokens with N parameters (arXiv
2605.01640). A recipe is all that runs share but for size, unique tokens, length, seed and learning
rate. Each has its own P and its own A, B, E, alpha and beta, since regularisation changes these,
too. The exponents are those of all recipes together, so that P can be compared; or both are 1, so
that it can be compared with that of other texts. Overfitted runs are fitted, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from epochal.errors import DataError
from epochal.estimates import Floats
from epochal.families import family_names
from epochal.results import Note, NoteCode, note
from epochal.scaling.checks import Interval, with_floors
from epochal.scaling.estimate import PointFit, close_to_best, make_problem, point_fit
from epochal.scaling.fixed import Fixed, fixed_for
from epochal.scaling.forms.form import Form
from epochal.scaling.forms.penalties import LINEAR_PENALTY, PENALTY
from epochal.scaling.identified import unidentified
from epochal.scaling.joint import JointProblem
from epochal.scaling.law import TAIL, interval_of
from epochal.scaling.options import FitOptions
from epochal.scaling.points import Points
from epochal.scaling.resample import refit_resamples, resample_weights
from epochal.scaling.search import best_ends, minima_from

_SEEN = 1e-3
"""Nats of the largest penalty of the runs below which no cost is seen."""
ONE_SIZE = {"A": 1e-9, "alpha": 0.3}
"""Constants that are fixed in laws of one size: A/N^alpha is a part of E there."""
_EXPONENTS = ("delta", "kappa")
_STARTS = {"delta": (0.5, 1.0, 1.6), "kappa": (0.4, 1.0)}
"""Exponents that a joint fit starts from."""
_TRIED = 4
"""Minima of each recipe alone that it starts from."""
_POLISHED = 3


class PenaltyNote(NoteCode):
    """Warnings about a penalty on repetition."""

    FIRST_REPEAT_PUNISHED = "first_repeat_punished"
    """delta: below 1, the penalty rises steepest at the first repetition."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RepetitionCost:
    """P of one recipe, nats of the first repetition of as many unique tokens as parameters."""

    family: str
    recipe: str
    """What tells it from the family's others; "" if there are none."""
    penalty: float | None
    """None: no cost is seen, the largest penalty of the runs is below 0.001 nats."""
    interval: Interval | None
    """95 %; a lower end of None reaches to no cost. None without resamples."""
    ratio: float | None
    """P over the lowest P; None where either is not seen."""
    ratio_interval: Interval | None
    """95 %; an open end is None. None without resamples, and for the lowest itself."""
    runs: int
    """That were fitted."""
    longest: float
    """Epochs of the longest run."""
    samples: list[Floats] = field(metadata={"json": False})
    """Sets of P of resampled runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PenaltyFit:
    """P of all recipes with the same exponents."""

    exponents: dict[str, float]
    """delta and kappa."""
    exponent_intervals: dict[str, Interval]
    """95 %; empty for exponents that are not fitted, and without resamples."""
    floor: float | None
    """E of all recipes, nats per token, if it is shared; else each has its own."""
    costs: list[RepetitionCost]
    """Of the recipes whose runs determine P."""
    notes: list[Note]


@dataclass(frozen=True, slots=True, kw_only=True)
class RepetitionCosts:
    """What repeating costs, with either convention for the exponents."""

    fitted: PenaltyFit | None
    """With the exponents that fit all recipes best; None if the runs do not identify them."""
    linear: PenaltyFit | None
    """With both exponents 1; None if no recipe's runs determine P."""
    left_out: dict[str, str]
    """Recipes whose runs do not determine P ("ar", or "ar weight_decay=0.8"), and the error."""

    @property
    def headline(self) -> PenaltyFit | None:
        """The one to quote: with fitted exponents, unless these punish the first repetition."""
        return self.linear if self.fitted is None or self.fitted.notes else self.fitted


def repetition_costs(points: Points, options: FitOptions, fixed: Fixed) -> RepetitionCosts:
    """P of each recipe of `points`; with `options.share_floor`, E is one constant for all.

    `fixed` are constants per family ("": all) that are not fitted; those that the law does not have
    are left aside.
    """
    alone, left_out = _alone(points, options, fixed)
    return RepetitionCosts(
        fitted=_penalty_fit(alone, PENALTY, options, fixed) if alone else None,
        linear=_penalty_fit(alone, LINEAR_PENALTY, options, fixed) if alone else None,
        left_out=left_out,
    )


def family_costs(points: Points, options: FitOptions) -> tuple[PenaltyFit | None, dict[str, str]]:
    """P of each family with both exponents 1, None if no runs determine it; and the families left
    out, with the error.

    All settings of a family together, so also where the best depend on the length, and with
    `ONE_SIZE` fixed where all runs have one size.
    """
    fixed: Fixed = {"": ONE_SIZE} if len(set(points.params)) == 1 else {}
    points = replace(points, recipe=[""] * len(points))
    alone, left_out = _alone(points, options, fixed)
    return _penalty_fit(alone, LINEAR_PENALTY, options, fixed) if alone else None, left_out


def _alone(
    points: Points, options: FitOptions, fixed: Fixed
) -> tuple[dict[tuple[str, str], PointFit], dict[str, str]]:
    """Recipes' own fits with both exponents 1, by (family, recipe); and those left out."""
    alone: dict[tuple[str, str], PointFit] = {}
    left_out = {}
    for family in family_names():
        own = points.of_family(family)
        given = fixed_for(fixed, family)
        known = {name: given[name] for name in given if name in LINEAR_PENALTY.constants}
        for recipe in dict.fromkeys(own.recipe):
            part = own.take(np.array([one == recipe for one in own.recipe], dtype=bool))
            try:
                alone[family, recipe] = point_fit(
                    part, family, LINEAR_PENALTY, options, known, polished=_POLISHED
                )
            except DataError as error:
                left_out[f"{family} {recipe}".rstrip()] = str(error)
    return alone, left_out


def _penalty_fit(
    alone: Mapping[tuple[str, str], PointFit], form: Form, options: FitOptions, fixed: Fixed
) -> PenaltyFit | None:
    """All recipes by one form; None if its exponents are not identified. `alone` as of `_alone`."""
    fits = list(alone.values())
    parts = []
    for (family, _), fit in alone.items():
        given = {form.renamed.get(k, k): v for k, v in fixed_for(fixed, family).items()}
        exponents = {n: given[n] for n in _EXPONENTS if n in given and n in form.constants}
        parts.append(make_problem(fit.rows, form, options, fit.fixed | exponents, []))
    names = (*_EXPONENTS, "E") if options.share_floor else _EXPONENTS
    joint = JointProblem(
        parts, tuple(name for name in names if all(name in part.free for part in parts))
    )
    minima, objectives = minima_from(joint, _starts(joint, form, fits), most=_POLISHED)
    if set(_EXPONENTS) & set(unidentified(joint, minima[0])):
        return None
    minima = minima[close_to_best(objectives)]
    lifted = [
        with_floors(part, own[None])[-1]
        for part, own in zip(parts, np.split(minima[0], len(parts)), strict=True)
    ]
    draws: list[Floats] = []
    if options.bootstraps:
        sets = [resample_weights(fit.rows, options, " ".join(key)) for key, fit in alone.items()]
        draws = [
            refit_resamples(joint, np.vstack([minima, np.concatenate(lifted)]), np.hstack(weights))
            for weights in zip(*sets, strict=False)
        ]
    return _values(alone, form, joint, minima[0], draws)


def _starts(joint: JointProblem, form: Form, fits: Sequence[PointFit]) -> Floats:
    """Constants of all recipes to start from, [S, G·k]: their own, at each of some exponents."""
    free = [name for name in _EXPONENTS if name in form.constants]
    starts = []
    for values in product(*(_STARTS[name] for name in free)):
        ends = []
        for part, fit in zip(joint.parts, fits, strict=True):
            tried = {**dict(zip(free, values, strict=True)), **part.fixed}
            own = fit.constants[:_TRIED]
            own = np.column_stack([own, *(np.full(len(own), tried[name]) for name in free)])
            ends.append(best_ends(replace(part, fixed=tried), own, 1)[0][0])
        starts.append(np.concatenate(ends))
    return np.stack(starts)


def _values(
    alone: Mapping[tuple[str, str], PointFit],
    form: Form,
    joint: JointProblem,
    best: Floats,
    draws: Sequence[Floats],
) -> PenaltyFit:
    """The numbers of a joint fit; `best` [G·k], `draws` of resamples, each [S, G·k]."""
    values = [form.constrain(one) for one in np.split(best, len(alone))]
    sets = [[form.constrain(one) for one in np.split(d, len(alone), axis=1)] for d in draws]

    def at(name: str, number: int) -> list[Floats]:
        return [own[number][:, form.index(name)] for own in sets]

    exponents = {
        name: float(values[0][form.index(name)]) if name in form.constants else 1.0
        for name in _EXPONENTS
    }
    costs = [
        _cost(key, fit.rows, float(own[form.index("P")]), at("P", number), exponents)
        for number, ((key, fit), own) in enumerate(zip(alone.items(), values, strict=True))
    ]
    intervals: dict[str, Interval] = {
        name: _ends(at(name, 0)) for name in _EXPONENTS if name in joint.shared and draws
    }
    shared = "E" in joint.shared
    return PenaltyFit(
        exponents=exponents,
        exponent_intervals=intervals,
        floor=float(values[0][form.index("E")]) if shared else None,
        costs=_with_ratios(costs),
        notes=penalty_notes(form, dict(zip(form.constants, values[0].tolist(), strict=True))),
    )


def penalty_notes(form: Form, values: Mapping[str, float]) -> list[Note]:
    """Warnings about the constants of a law that has a penalty on repetition."""
    if "P" in form.constants and values.get("delta", 1.0) < 1:
        return [note(PenaltyNote.FIRST_REPEAT_PUNISHED, delta=values["delta"])]
    return []


def _ends(samples: Sequence[Floats]) -> tuple[float, float]:
    low, high = interval_of(samples, whole_range=False, tail=TAIL)
    return float(low), float(high)


def _cost(
    key: tuple[str, str],
    rows: Points,
    value: float,
    samples: list[Floats],
    exponents: Mapping[str, float],
) -> RepetitionCost:
    """P of one recipe, without its ratio."""
    crowding = (rows.params / rows.unique_tokens) ** exponents["kappa"]
    largest = float(((rows.epochs - 1) ** exponents["delta"] * crowding).max())
    interval: Interval | None = None
    if samples:
        low, high = _ends(samples)
        interval = (low if low * largest >= _SEEN else None, high)
    return RepetitionCost(
        family=key[0],
        recipe=key[1],
        penalty=value if value * largest >= _SEEN else None,
        interval=interval,
        ratio=None,
        ratio_interval=None,
        runs=len(rows),
        longest=float(rows.epochs.max()),
        samples=samples,
    )


def _with_ratios(costs: Sequence[RepetitionCost]) -> list[RepetitionCost]:
    """With each P over the lowest; ends are open where one of the two costs may be none."""
    seen = [cost for cost in costs if cost.penalty is not None]
    if not seen:
        return list(costs)
    lowest = min(seen, key=lambda cost: cost.penalty or 0.0)
    found = []
    for cost in costs:
        if cost.penalty is None or lowest.penalty is None:
            found.append(cost)
            continue
        interval: Interval | None = None
        if cost is not lowest and cost.interval is not None and lowest.interval is not None:
            pairs = [x / y for x, y in zip(cost.samples, lowest.samples, strict=True)]
            low, high = _ends(pairs)
            interval = (
                low if cost.interval[0] is not None else None,
                high if lowest.interval[0] is not None else None,
            )
        ratio = cost.penalty / lowest.penalty
        found.append(replace(cost, ratio=ratio, ratio_interval=interval))
    return found
