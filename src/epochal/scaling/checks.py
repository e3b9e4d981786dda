"""What a fit says besides its constants: intervals, errors on runs left out, isoFLOP parabolas.

Resamples of runs show how far the constants can be trusted if the formula is right. Small models
bend away from any formula (they learn how often each token is before they learn anything else), so
beyond the runs the formula errs, by about as much as the loss is predicted to fall there.

IsoFLOP parabolas (Hoffmann et al. 2022, approach 2): per compute budget one of loss in log N, and
straight lines of log N_opt and log D_opt on log C through the vertices. Off-centre sampling and
α ≠ β bias this even without noise, so the parametric fit is the result and this is the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from epochal.estimates import Floats
from epochal.results import Note, NoteCode, note
from epochal.scaling.estimate import make_problem
from epochal.scaling.forms.form import FitProblem, Form, Inputs
from epochal.scaling.law import SINGLE_EPOCH, ScalingLaw, interval_of
from epochal.scaling.options import FitOptions
from epochal.scaling.points import Points
from epochal.scaling.resample import refit_resamples, resample_weights
from epochal.scaling.search import refitted, solve

_PROFILE = np.geomspace(0.05, 2e5, 45)
_CHI2 = 3.841
"""95 % point of χ² with one degree of freedom."""
_SHARES = (0.5, 0.25)
"""Runs with more than this share of the largest compute are predicted from the others. Chosen
by us: a factor of two and of four, about what a plan asks for."""
_TWICE = 2.0
"""Errors of a few runs, as root mean squares, times this cover nearly all of them."""
UNKNOWN_EXTRAPOLATION_ERROR = 1.0
"""If too few runs are left to test: the predicted fall may be all wrong, or twice as deep."""
_SAME_BUDGET = 1.12
"""Runs whose FLOPs differ by up to this factor are of one budget."""
_FEWEST = 3
_ENOUGH = 5
_CENTRAL_DECADES = 0.7


Interval = tuple[float | None, float | None]
"""An end of None is open; both None: not identified."""


@dataclass(slots=True)
class Spread:
    """Resamples and intervals of a fit's constants."""

    samples: list[Floats]
    """Sets of unconstrained constants, each [S, k]."""
    intervals: dict[str, Interval]
    profiles: dict[str, list[tuple[float, float]]]
    """Half-life → (value, objective) with it fixed there."""


def spread(
    problem: FitProblem,
    minima: Floats,
    objective: float,
    rows: Points,
    options: FitOptions,
    family: str,
) -> Spread:
    """Intervals from resamples; profiles of the half-lives widen and open theirs."""
    starts = with_floors(problem, minima)
    sets = resample_weights(rows, options, family) if options.bootstraps else []
    samples = [refit_resamples(problem, starts, weights) for weights in sets]
    intervals: dict[str, Interval] = {}
    if samples:
        lows, highs = interval_of([problem.form.constrain(s) for s in samples], whole_range=False)
        ends = zip(lows.tolist(), highs.tolist(), strict=True)
        intervals |= zip(problem.form.constants, ends, strict=True)
    curves: dict[str, list[tuple[float, float]]] = {}
    for name in ("R_D", "R_N"):
        if name not in problem.free:
            continue
        low, high, curves[name] = _profile(problem, starts, objective, name)
        before = intervals.get(name, (low, high))
        low = None if low is None or before[0] is None else min(low, before[0])
        high = None if high is None or before[1] is None else max(high, before[1])
        intervals[name] = (low, high)
    return Spread(samples, intervals, curves)


def with_floors(problem: FitProblem, minima: Floats) -> Floats:
    """The minima, and for one whose E is nearly 0 a start with a real floor.

    From E = 0 the logarithm of E hardly moves, so resamples would never leave it.
    """
    if "E" not in problem.free:
        return minima
    at = problem.form.index("E")
    floor = problem.log_loss.min() + np.log(0.4)
    lifted = minima[minima[:, at] < floor - 1.5][:1].copy()
    lifted[:, at] = floor
    return np.concatenate([minima, lifted])


def _profile(
    problem: FitProblem, minima: Floats, objective: float, name: str
) -> tuple[float | None, float | None, list[tuple[float, float]]]:
    """95 % profile interval of a half-life (None: open), and the profile (value, objective).

    The constant is fixed at each value of a log grid and all others are fitted again. Beyond δ
    Huber's terms are those of a Laplace distribution, whose log-likelihood at the best scale is
    −n·log(objective); within δ those of a normal one, −(n/2)·log(objective). The exponent of the
    limit in between follows the share of points within δ (our rule).
    """
    at = problem.form.index(name)
    values = np.log(_PROFILE)
    lowest = refitted(problem, minima, name, values, rounds=40)
    best = minima[0]
    within = problem.share_within(best)
    freedom = max(1.0, problem.rows - len(problem.free))
    least = min(objective, float(lowest.min()))
    limit = least * float(np.exp(0.5 * _CHI2 / freedom * (1 + within))) + 1e-18
    inside = np.flatnonzero(lowest <= limit)
    curve = list(zip(_PROFILE.tolist(), lowest.tolist(), strict=True))
    mine = float(np.exp(best[at]))
    if not len(inside):  # narrower than the grid
        return mine, mine, curve
    first, last = int(inside[0]), int(inside[-1])
    low = None if first == 0 else _crossing(values, lowest, first, first - 1, limit)
    high = None if last == len(values) - 1 else _crossing(values, lowest, last, last + 1, limit)
    return (
        None if low is None else min(low, mine),
        None if high is None else max(high, mine),
        curve,
    )


def _crossing(values: Floats, lowest: Floats, inside: int, outside: int, limit: float) -> float:
    rise = lowest[outside] - lowest[inside]
    share = (limit - lowest[inside]) / rise if np.isfinite(rise) and rise > 0 else 0.0
    return float(np.exp(values[inside] + share * (values[outside] - values[inside])))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOutCheck:
    """The law fitted without the largest budget, and its relative errors there."""

    runs: list[str]
    flops_from: float
    """Smallest compute of the runs held out."""
    mean_relative_error: float
    largest_relative_error: float
    bias: float
    """Mean of predicted over seen, minus 1."""


def held_out_check(problem: FitProblem, start: Floats, rows: Points) -> HeldOutCheck | None:
    """Fit without the largest budget: FLOPs above half of the most, up to a fifth of the rows.

    None if too few rows are left.
    """
    order = np.argsort(-rows.flops, kind="stable")
    many = int((rows.flops >= 0.5 * rows.flops.max()).sum())
    out = order[: max(1, min(many, len(rows) // 5))]
    keep = np.setdiff1d(np.arange(len(rows)), out)
    if len(keep) <= len(problem.free) + 1:
        return None
    rest = rows.take(keep)
    part = replace(
        problem,
        where=Inputs.at(rest.params, rest.tokens, rest.unique_tokens),
        log_loss=np.log(rest.loss),
    )
    law = ScalingLaw(family="", form=problem.form, theta=solve(part, start[None])[0][0])
    predicted = law.predict(rows.params[out], rows.tokens[out], rows.unique_tokens[out])
    error = np.abs(predicted / rows.loss[out] - 1)
    return HeldOutCheck(
        runs=[rows.run[i] for i in out],
        flops_from=float(rows.flops[out].min()),
        mean_relative_error=float(error.mean()),
        largest_relative_error=float(error.max()),
        bias=float((predicted / rows.loss[out] - 1).mean()),
    )


def extrapolation_error(
    rows: Points,
    form: Form,
    theta: Floats,
    fixed: Mapping[str, float],
    unknown: frozenset[str],
    tie_exponents: bool,
) -> float:
    """Share of the predicted fall beyond the runs by which the law may be wrong.

    The law is fitted without the runs above a half, then a quarter, of the largest compute, and
    predicts them: twice the root mean square of its errors over that of the predicted falls, the
    larger of the two shares; 1 if too few runs are left for either. `fixed` are unconstrained
    values, those of `unknown` constants included.
    """
    errors = []
    options = FitOptions(tie_exponents=tie_exponents)
    for share in _SHARES:
        large = rows.flops > share * rows.flops.max() * 1.01
        rest, tested = rows.take(~large), rows.take(large)
        if not len(rest):
            continue
        problem = make_problem(rest, form, options, fixed, [])
        if len(rest) <= len(problem.free):
            continue
        law = ScalingLaw(
            family="",
            form=form,
            theta=solve(problem, theta[None])[0][0],
            unknown=unknown,
            fitted_range=rest.ranges,
            extrapolation_error=1.0,
        )
        where = (tested.params, tested.tokens, tested.unique_tokens)
        error = law.predict(*where) - tested.loss
        size = float(np.sqrt((law.extrapolation_margin(*where) ** 2).mean()))
        if size > 0:
            errors.append(_TWICE * float(np.sqrt((error**2).mean())) / size)
    return max(errors, default=UNKNOWN_EXTRAPOLATION_ERROR)


def optimistic_loss(points: Points, flops: float) -> float:
    """A loss that `flops` beyond the runs may reach, whatever the law: the lowest seen, less twice
    what it fell over the last such factor of compute.

    Twice, because small models fall faster once they learn from context (by up to 1.75 times
    over a factor of two to four, in our runs on the built-in text).
    """
    order = np.argsort(points.flops, kind="stable")
    spent, lowest = points.flops[order], np.minimum.accumulate(points.loss[order])
    factor = max(1.0, flops / float(spent[-1]))
    before = np.interp(np.log(spent[-1] / factor), np.log(spent), lowest)
    # Where the runs do not reach back so far, the fall continues as over all of them.
    span = np.log(spent[-1] / spent[0])
    share = max(1.0, np.log(factor) / span) if span > 0 else 1.0
    return float(lowest[-1] - 2 * share * (before - lowest[-1]))


class VertexFlag(NoteCode):
    """Why the minimum of an isoFLOP parabola may be unreliable."""

    FEW_SIZES = "few_sizes"
    """sizes: how many."""
    NO_MINIMUM = "no_minimum"
    OUTSIDE_SIZES = "outside_sizes"


@dataclass(frozen=True, slots=True)
class Parabola:
    """One budget: loss = vertex loss + curvature·(ln N − ln N_opt)²."""

    flops: float
    params: tuple[float, ...]
    loss: tuple[float, ...]
    optimal_params: float | None
    """Vertex; None if the parabola opens downwards."""
    optimal_loss: float | None
    curvature: float
    flags: tuple[Note, ...]
    """Why the vertex may be unreliable."""


@dataclass(frozen=True, slots=True)
class IsoFlop:
    """All budgets, and the power laws through their vertices."""

    parabolas: list[Parabola]
    params_exponent: float | None
    """a of N_opt ∝ C^a; None with fewer than two good vertices."""
    params_scale: float | None
    """N_opt = scale·C^a."""
    tokens_exponent: float | None
    """b of D_opt ∝ C^b; 1 − a, since C = 6·N·D."""
    central_params_exponent: float | None
    """a from points within 0.7 decades of each minimum only: how far sampling moves it."""


def isoflop(points: Points) -> IsoFlop | None:
    """Parabolas of the budgets with three or more sizes; None if there is no such budget."""
    budgets = _budgets(points)
    if not budgets:
        return None
    parabolas = [_parabola(*budget) for budget in budgets]
    exponent, scale = _line(parabolas)
    central, _ = _line([_parabola(*_central(*budget)) for budget in budgets])
    return IsoFlop(parabolas, exponent, scale, None if exponent is None else 1 - exponent, central)


def _budgets(points: Points) -> list[tuple[float, Floats, Floats]]:
    """(C, N, loss) of each budget, N rising. Runs that repeat are grouped by U, too."""
    repeats = points.epochs > SINGLE_EPOCH
    found = []
    for unique in np.unique(np.where(repeats, points.unique_tokens, 0.0)):
        alike = np.flatnonzero(np.where(repeats, points.unique_tokens, 0.0) == unique)
        order = alike[np.argsort(points.flops[alike], kind="stable")]
        flops = points.flops[order]
        for part in np.split(order, np.flatnonzero(flops[1:] > _SAME_BUDGET * flops[:-1]) + 1):
            spread = points.flops[part].max() / points.flops[part].min()
            sizes = np.unique(np.round(np.log(points.params[part]), 2))
            if len(sizes) < _FEWEST or spread > _SAME_BUDGET**2:
                continue
            rising = part[np.argsort(points.params[part], kind="stable")]
            middle = float(np.exp(np.log(points.flops[part]).mean()))
            found.append((middle, points.params[rising], points.loss[rising]))
    return sorted(found, key=lambda budget: budget[0])


def _central(flops: float, params: Floats, loss: Floats) -> tuple[float, Floats, Floats]:
    near = np.abs(np.log10(params / params[loss.argmin()])) <= _CENTRAL_DECADES
    enough = len(np.unique(np.round(np.log(params[near]), 2))) >= _FEWEST
    return (flops, params[near], loss[near]) if enough else (flops, params, loss)


def _parabola(flops: float, params: Floats, loss: Floats) -> Parabola:
    x = np.log(params)
    middle = x.mean()
    curvature, slope, level = np.polyfit(x - middle, loss, 2)
    flags = [] if len(x) >= _ENOUGH else [note(VertexFlag.FEW_SIZES, sizes=len(x))]
    if curvature <= 0:
        flags.append(note(VertexFlag.NO_MINIMUM))
        best = lowest = None
    else:
        at = -slope / (2 * curvature)
        best, lowest = float(np.exp(middle + at)), float(level + slope * at / 2)
        if not params[0] <= best <= params[-1]:
            flags.append(note(VertexFlag.OUTSIDE_SIZES))
    return Parabola(
        flops,
        tuple(params.tolist()),
        tuple(loss.tolist()),
        best,
        lowest,
        float(curvature),
        tuple(flags),
    )


def _line(parabolas: list[Parabola]) -> tuple[float | None, float | None]:
    """Exponent and scale of N_opt on C, through vertices that lie inside."""
    good = [
        (p.flops, p.optimal_params)
        for p in parabolas
        if p.optimal_params is not None and p.params[0] <= p.optimal_params <= p.params[-1]
    ]
    if len(good) < 2:
        return None, None
    flops, best = np.log(np.array(good)).T
    slope, level = np.polyfit(flops, best, 1)
    return float(slope), float(np.exp(level))
