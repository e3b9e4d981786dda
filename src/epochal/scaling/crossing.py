"""Where two laws cross: the critical compute of a U, and the U at which a budget is critical.

Both are roots of L_mdm*(C, U) − L_ar*(C, U), each family at its own best. Sign changes are
looked for on a grid first, since none and several are both possible answers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from epochal.estimates import Floats
from epochal.scaling.law import ScalingLaw
from epochal.scaling.optimum import optima

_EQUAL = 1e-9  # nats that are no difference
_STEPS = 8  # per decade
_MOST_SAMPLES = 60
_SPAN = 1e14


@dataclass(frozen=True, slots=True)
class Crossings:
    """Where the lead changes along one axis (FLOPs, or unique tokens)."""

    kind: Literal["none", "one", "several"]
    crossings: list[float]
    """The crossings, rising."""
    leaders: list[str]
    """Family in the lead before, between and after them: one more than `at`."""
    interval: tuple[float | None, float | None] | None
    """95 % of the first crossing where diffusion's lead begins (along compute) or ends (along
    U), over resamples; an end of None: in some there is none on that side."""
    share: float | None
    """Share of the resamples that have such a crossing; None without resamples."""
    searched: tuple[float, float]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def closed_form(unique_tokens: float) -> float:
    """C = 2.12·10^1.956·U^2.174, the paper's published line (U in tokens). A citation only: the
    line in its own figure has another slope, and its laws, solved, a third."""
    return float(2.12 * 10**1.956 * unique_tokens**2.174)


def pairs(ar: ScalingLaw, mdm: ScalingLaw, most: int | None = None) -> list[tuple[Floats, Floats]]:
    """Resamples of both laws side by side, one pair of [S, k] arrays per kind of resample.

    Resamples of fits are independent, so they are paired in order; readings of a figure are
    all combined with all.
    """
    found = []
    for index in range(max(len(ar.samples), len(mdm.samples))):
        if not ar.samples or not mdm.samples:
            break
        a = ar.samples[min(index, len(ar.samples) - 1)]
        b = mdm.samples[min(index, len(mdm.samples) - 1)]
        if ar.whole_range or mdm.whole_range:
            a, b = a[:40], b[:40]
            a, b = np.repeat(a, len(b), axis=0), np.tile(b, (len(a), 1))
        count = min(len(a), len(b), most or len(a))
        found.append((a[:count], b[:count]))
    return found


def gaps(
    ar: ScalingLaw, mdm: ScalingLaw, flops: Floats | float, unique_tokens: Floats | float
) -> Floats:
    """L_mdm* − L_ar* at each budget; below 0 diffusion leads."""
    result: Floats = optima(mdm, flops, unique_tokens).loss - optima(ar, flops, unique_tokens).loss
    return result


def critical_compute(ar: ScalingLaw, mdm: ScalingLaw, unique_tokens: float) -> Crossings:
    """Compute at which the lead changes on `unique_tokens`, from one epoch of a small model up."""
    smallest = min([law.fitted_range.get("params", (1e5,))[0] for law in (ar, mdm)])
    low = 6.0 * min(smallest, unique_tokens) * unique_tokens
    return _crossings(
        lambda x, a, b: (
            optima(mdm, np.exp(x), unique_tokens, b).loss
            - optima(ar, np.exp(x), unique_tokens, a).loss
        ),
        (ar, mdm),
        (low, low * _SPAN),
        -1.0,
    )


def critical_data(ar: ScalingLaw, mdm: ScalingLaw, flops: float) -> Crossings:
    """U at which the lead changes when `flops` are spent."""
    return _crossings(
        lambda x, a, b: (
            optima(mdm, flops, np.exp(x), b).loss - optima(ar, flops, np.exp(x), a).loss
        ),
        (ar, mdm),
        (1e4, max(1e6, min(1e14, flops / 6e4))),
        1.0,
    )


Gap = Callable[[Floats, Floats | None, Floats | None], Floats]


def _crossings(
    gap: Gap, laws: tuple[ScalingLaw, ScalingLaw], span: tuple[float, float], towards: float
) -> Crossings:
    """`towards` is the sign of the gap after the crossing that the interval is of."""
    low, high = np.log(span[0]), np.log(span[1])
    grid = np.linspace(low, high, int((high - low) / np.log(10) * _STEPS) + 2)
    values = gap(grid, None, None)
    signs = _signs(values)
    changes = np.flatnonzero(signs[1:] != signs[:-1])
    at = [_bisect(gap, grid[i], grid[i + 1], signs[i]) for i in changes]
    leads = [_name(signs[0]), *(_name(signs[i + 1]) for i in changes)]
    interval, share = _interval(gap, laws, grid, towards)
    return Crossings(
        "none" if not at else "one" if len(at) == 1 else "several",
        at,
        leads,
        interval if share else None,
        share,
        span,
    )


def _signs(values: Floats) -> Floats:
    """Signs of gaps, those too small to be a difference taken from the point before."""
    signs = np.where(np.abs(values) < _EQUAL, 0.0, np.sign(values))
    known = np.flatnonzero(signs)
    if not len(known):
        return np.zeros_like(signs)
    before = np.maximum.accumulate(np.where(signs != 0, np.arange(len(signs)), -1))
    return signs[np.where(before < 0, known[0], before)]


def _name(sign: float) -> str:
    return "neither" if sign == 0 else "ar" if sign > 0 else "mdm"


def _bisect(gap: Gap, low: float, high: float, sign: float) -> float:
    for _ in range(6):
        grid = np.linspace(low, high, 17)
        other = np.flatnonzero(np.sign(gap(grid, None, None)) != sign)
        at = int(other[0]) if len(other) else len(grid) - 1
        low, high = float(grid[max(at - 1, 0)]), float(grid[at])
    return float(np.exp(0.5 * (low + high)))


def _interval(
    gap: Gap, laws: tuple[ScalingLaw, ScalingLaw], grid: Floats, towards: float
) -> tuple[tuple[float | None, float | None] | None, float | None]:
    """First crossing towards a sign in each resample → (95 % interval, share that have one)."""
    low, high, shares = [], [], []
    for a, b in pairs(*laws, most=_MOST_SAMPLES):
        columns = np.stack([gap(np.full(len(a), x), a, b) for x in grid[::2]], axis=1)
        firsts = np.array([_first(grid[::2], towards * row) for row in columns])
        edge = 0.0 if laws[0].whole_range else 0.025
        low.append(np.quantile(firsts, edge, method="inverted_cdf"))
        high.append(np.quantile(firsts, 1 - edge, method="inverted_cdf"))
        shares.append(float(np.isfinite(firsts).mean()))
    if not shares:
        return None, None
    ends = [float(np.exp(v)) if np.isfinite(v) else None for v in (min(low), max(high))]
    return (ends[0], ends[1]), min(shares)


def _first(grid: Floats, values: Floats) -> float:
    """log of the first place where `values` become positive; infinite if they never do."""
    signs = _signs(values)
    into = np.flatnonzero((signs[1:] > 0) & (signs[:-1] <= 0))
    if not len(into):
        return -np.inf if signs[0] > 0 else np.inf
    i = int(into[0])
    share = values[i] / (values[i] - values[i + 1]) if values[i] < values[i + 1] else 0.5
    return float(grid[i] + np.clip(share, 0, 1) * (grid[i + 1] - grid[i]))
