"""The loss in one thing that grows while the rest is at its best, and where it ends.

L = E + A/x^alpha (Kim et al. 2025, arXiv 2509.14786), on one number of unique tokens: x is the size
of the best run of each size (tuned regularisation), or the number of members of an ensemble. The
limits E of ensembles of several sizes follow the same law in N, whose limit is that of both. Over
several numbers of unique tokens, limits follow it in U (the data law).

For each alpha, E and A solve a line; so alpha alone is searched. Intervals are of draws: the curve
with noise as large as the residuals leave open (Student's t, points − 3 degrees of freedom), fitted
again. Limits of limits are fitted to the draws of those, too, and the wider interval counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from epochal import rng
from epochal.errors import DataError
from epochal.estimates import Floats
from epochal.scaling.checks import Interval
from epochal.scaling.ensembles import read_ensembles
from epochal.scaling.law import interval_of
from epochal.scaling.options import FitOptions
from epochal.scaling.points import Points
from epochal.scaling.read import FOR_CSV, FOR_RUNS, Source, read_all, refuse
from epochal.units import format_count

FEWEST = 4
"""Points that E, A and alpha need, one to spare."""
_TAKEN = ("law", "bootstraps", "seed", *FOR_RUNS, *FOR_CSV)
_ALPHAS = np.geomspace(0.02, 6.0, 240)
_ZOOMS, _CELLS = 5, 17
_NO_FLOOR = 0.01  # nats: a limit below it is none
_OPEN = 0.025
"""Share of draws without a limit from which an interval is open below."""


class Variable(StrEnum):
    """What grows."""

    PARAMS = "params"
    """In billions."""
    MEMBERS = "members"
    """Of the ensemble."""
    UNIQUE_TOKENS = "unique_tokens"
    """In billions."""


_WHAT = {
    Variable.PARAMS: "sizes",
    Variable.MEMBERS: "numbers of members",
    Variable.UNIQUE_TOKENS: "numbers of unique tokens",
}
_NAMES = ("E", "A", "alpha")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Limit:
    """L = E + A/x^alpha along one variable."""

    family: str
    variable: Variable
    unique_tokens: float | None
    """Of all points; None where U is the variable."""
    params: float | None
    """Of each member; None where N is, or has gone to its limit."""
    of_limits: bool
    """Whether the points are limits themselves: of ensembles, or over U."""
    constants: dict[str, float]
    """E, A and alpha, for x in the unit of the variable; nats per token."""
    intervals: dict[str, Interval]
    """95 %; an end of None is open. Empty without resamples."""
    x: list[float]
    """Of the points, in the unit of the variable."""
    loss: list[float]
    predicted: list[float]
    samples: list[Floats] = field(metadata={"json": False})
    """Draws of E, A and alpha, sets of [S, 3]; NaN: a draw without a limit."""

    @property
    def limit(self) -> float:
        """E."""
        return self.constants["E"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Of all families."""

    limits: list[Limit]
    """Per family and number of unique tokens (of ensembles, per size of the members)."""
    joint: list[Limit]
    """In N, of the limits of ensembles: members and size both without end."""
    data: list[Limit]
    """In U, of the limits at several numbers of unique tokens."""
    refused: list[str]
    """What could not be fitted, and why."""


def fit_limits(source: Source, options: FitOptions) -> Limits:
    """The law tuned-size or ensemble, as `options.law` says.

    Raises DataError if nothing can be fitted, OptionError for options of other laws.
    """
    names = tuple(name for name in FitOptions.__dataclass_fields__ if name not in _TAKEN)
    refuse(options, names, f"the law {options.law}")
    refused: list[str] = []
    joint: list[Limit] = []
    if options.law == "ensemble":
        ensembles = read_ensembles(source, options)
        limits = _each(ensembles.points, ensembles.members, options, refused)
        for family, unique in dict.fromkeys((one.family, one.unique_tokens) for one in limits):
            own = [one for one in limits if (one.family, one.unique_tokens) == (family, unique)]
            if len(own) > 1:  # one alone is no question
                joint += _of_limits(own, Variable.PARAMS, options, refused)
        last = joint
    else:
        points = _lowest(read_all(source, options).best())
        limits = last = _each(points, None, options, refused)
    data: list[Limit] = []
    for family in dict.fromkeys(one.family for one in last):
        own = [one for one in last if one.family == family]
        if len(own) > 1:
            data += _of_limits(own, Variable.UNIQUE_TOKENS, options, refused)
    if not limits:
        raise DataError("; ".join(refused))
    return Limits(limits=limits, joint=joint, data=data, refused=refused)


def _lowest(points: Points) -> Points:
    """Of runs of one family, size and U, those of the length with the lowest mean over seeds."""
    lengths = np.round(np.log(points.tokens), 2)
    means: dict[tuple[object, ...], dict[float, list[float]]] = {}
    curves = list(zip(points.family, points.params.tolist(), points.budgets.tolist(), strict=True))
    for curve, length, loss in zip(curves, lengths.tolist(), points.loss.tolist(), strict=True):
        means.setdefault(curve, {}).setdefault(length, []).append(loss)
    best = {curve: min(own, key=lambda d: np.mean(own[d])) for curve, own in means.items()}
    keep = [best[curve] == length for curve, length in zip(curves, lengths.tolist(), strict=True)]
    return points.take(np.array(keep, dtype=bool))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Curve:
    """Points along one variable."""

    family: str
    variable: Variable
    unique_tokens: float | None = None
    params: float | None = None
    x: Floats
    loss: Floats
    draws: Floats | None = None
    """Of the losses, [S, n], if these are limits themselves."""
    of_limits: bool = False

    @property
    def where(self) -> str:
        """For errors: "ar, 100M unique tokens, 7M parameters"."""
        u, n = self.unique_tokens, self.params
        parts = [] if u is None else [f"{format_count(u)} unique tokens"]
        parts += [] if n is None else [f"{format_count(n)} parameters"]
        return ", ".join([self.family, *parts])


def _each(
    points: Points, members: Floats | None, options: FitOptions, refused: list[str]
) -> list[Limit]:
    """The law of each family at each U, in `members` [n] at each size; without these, in size."""
    variable = Variable.PARAMS if members is None else Variable.MEMBERS
    sizes: list[float | None] = [None] * len(points)
    if members is not None:
        sizes = list(points.params.tolist())
    keys = list(zip(points.family, points.budgets.tolist(), sizes, strict=True))
    x = points.params / 1e9 if members is None else members
    curves = []
    for key in dict.fromkeys(keys):
        rows = np.array([one == key for one in keys])
        unique = float(np.median(points.unique_tokens[rows]))
        curves.append(
            _Curve(
                family=key[0],
                variable=variable,
                unique_tokens=unique,
                params=key[2],
                x=x[rows],
                loss=points.loss[rows],
            )
        )
    return _fit_all(curves, options, refused)


def _of_limits(
    limits: Sequence[Limit], variable: Variable, options: FitOptions, refused: list[str]
) -> list[Limit]:
    """The law of limits in `variable`, none or one."""
    first = limits[0]
    places = [getattr(one, variable) or np.nan for one in limits]
    count = min((len(one.samples[0]) for one in limits if one.samples), default=0)
    curve = _Curve(
        family=first.family,
        variable=variable,
        unique_tokens=first.unique_tokens if variable is Variable.PARAMS else None,
        x=np.array(places) / 1e9,
        loss=np.array([one.limit for one in limits]),
        draws=np.stack([one.samples[0][:count, 0] for one in limits], axis=1) if count else None,
        of_limits=True,
    )
    return _fit_all([curve], options, refused)


def _fit_all(curves: Sequence[_Curve], options: FitOptions, refused: list[str]) -> list[Limit]:
    found = []
    for curve in curves:
        try:
            found.append(_fit(curve, options))
        except DataError as error:
            refused.append(str(error))
    return found


def _fit(curve: _Curve, options: FitOptions) -> Limit:
    """Raises DataError for too few points, or a loss that does not fall."""
    distinct = len(np.unique(np.round(np.log(curve.x), 3)))
    what = _WHAT[curve.variable]
    if distinct < FEWEST:
        raise DataError(
            f"{curve.where}: {distinct} {what} cannot determine E, A and alpha; give at least "
            f"{FEWEST}"
            + (
                ", on one number of unique tokens (a size counts where it was trained on it)"
                if curve.variable is Variable.PARAMS and not curve.of_limits
                else ""
            )
        )
    constants = _solve(curve.x, curve.loss[None])[0]
    if np.isnan(constants).any():
        raise DataError(
            f"{curve.where}: the loss does not fall with the {what}, so it shows no limit; give "
            "runs at their best regularisation and length"
        )
    predicted = _predict(constants[None], curve.x)[0]
    samples = _draws(curve, predicted, options) if options.bootstraps else []
    return Limit(
        family=curve.family,
        variable=curve.variable,
        unique_tokens=curve.unique_tokens,
        params=curve.params,
        of_limits=curve.of_limits,
        constants=dict(zip(_NAMES, constants.tolist(), strict=True)),
        intervals=_intervals(samples) if samples else {},
        x=curve.x.tolist(),
        loss=curve.loss.tolist(),
        predicted=predicted.tolist(),
        samples=samples,
    )


def _draws(curve: _Curve, predicted: Floats, options: FitOptions) -> list[Floats]:
    """Constants of curves with the noise that the residuals leave open, and of the points' own
    draws, each [S, 3]."""
    name = f"limit {curve.where} {curve.variable}"
    generator = np.random.Generator(np.random.Philox(rng.stream_key(options.seed, name)))
    count, size = options.bootstraps, len(curve.x)
    freedom = size - len(_NAMES)
    scale = np.sqrt(((curve.loss - predicted) ** 2).sum() / generator.chisquare(freedom, count))
    noise = scale[:, None] * generator.standard_normal((count, size))
    sets = [_solve(curve.x, predicted + noise)]
    if curve.draws is not None:
        own = np.where(np.isnan(curve.draws), curve.loss, curve.draws)
        sets.append(_solve(curve.x, predicted + own - curve.loss))
    return sets


def _intervals(samples: Sequence[Floats]) -> dict[str, Interval]:
    """95 % of the draws; where more than 2.5 % have no limit, E is open below."""
    known = [one[~np.isnan(one).any(axis=1)] for one in samples]
    if not all(len(one) for one in known):
        return dict.fromkeys(_NAMES, (None, None))
    low, high = interval_of(known, whole_range=False)
    ends: dict[str, Interval] = {
        name: (float(a), float(b)) for name, a, b in zip(_NAMES, low, high, strict=True)
    }
    lost = any(
        len(one) < (1 - _OPEN) * len(every) for one, every in zip(known, samples, strict=True)
    )
    if lost or low[0] < _NO_FLOOR:
        ends["E"] = (None, ends["E"][1])
        ends["alpha"] = (None, ends["alpha"][1])
    return ends


def _predict(constants: Floats, x: Floats) -> Floats:
    """[S, 3] → [S, n]."""
    floor, scale, alpha = constants.T[:, :, None]
    result: Floats = floor + scale * x**-alpha
    return result


def _solve(x: Floats, losses: Floats) -> Floats:
    """E, A and alpha of the least squares of each row of `losses` [S, n], [S, 3].

    NaN where no alpha has positive E and A.
    """
    logs = np.log(x) - np.log(x).mean()
    alphas = np.broadcast_to(_ALPHAS, (len(losses), len(_ALPHAS)))
    rows = np.arange(len(losses))
    for _ in range(_ZOOMS):
        errors, floors, scales = _lines(logs, losses, alphas)
        best = errors.argmin(axis=1)
        chosen = [one[rows, best] for one in (errors, floors, scales, alphas)]
        low = alphas[rows, np.maximum(best - 1, 0)]
        high = alphas[rows, np.minimum(best + 1, alphas.shape[1] - 1)]
        alphas = np.geomspace(low, high, _CELLS, axis=1)
    error, floor, scale, alpha = chosen
    found = np.stack([floor, scale * np.exp(alpha * np.log(x).mean()), alpha], axis=1)
    found[~np.isfinite(error)] = np.nan
    return found


def _lines(logs: Floats, losses: Floats, alphas: Floats) -> tuple[Floats, Floats, Floats]:
    """Squared error, E and A of the line through losses [S, n] at each of `alphas` [S, G].

    The error is infinite where E or A is not positive.
    """
    powers = np.exp(-alphas[:, :, None] * logs)
    about = powers - powers.mean(axis=2, keepdims=True)
    off = losses - losses.mean(axis=1, keepdims=True)
    scales = np.einsum("sgn,sn->sg", about, off) / (about**2).sum(axis=2)
    floors = losses.mean(axis=1)[:, None] - scales * powers.mean(axis=2)
    errors = ((off[:, None, :] - scales[:, :, None] * about) ** 2).sum(axis=2)
    return np.where((scales > 0) & (floors > 0), errors, np.inf), floors, scales
