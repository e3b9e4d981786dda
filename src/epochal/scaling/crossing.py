"""Where two laws cross: the critical compute of a U, and the U at which a budget is critical.

Both are roots of L_second*(C, U) − L_first*(C, U), each family at its own best. Sign changes are
searched on a grid first, since none and several are both possible answers. Laws are solved over
many decades, but are not trusted far beyond their runs: see `trusted_flops`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from epochal.estimates import Floats
from epochal.scaling.law import LEVEL, TAIL, ScalingLaw
from epochal.scaling.optimum import first_place, optima

TRUSTED_FACTOR = 10.0
"""Laws are trusted up to this factor beyond the largest fitted compute, and beyond the fitted U on
both sides. Chosen by us."""
RESAMPLES = 200
"""Most resamples for the interval of a crossing: 5 lie beyond each end of a 95 % interval."""
_EQUAL = 1e-9  # nats that are no difference
_STEPS = 8  # per decade
_SPAN = 1e14
_LONGEST = 1e6  # epochs


@dataclass(frozen=True, slots=True)
class Crossings:
    """Where the lead of two families changes along one axis (FLOPs, or unique tokens)."""

    kind: Literal["none", "one", "several"]
    crossings: list[float]
    """Rising."""
    leaders: list[str | None]
    """Family in the lead before, between and after the crossings: one more than there are; None
    where the laws give no difference."""
    interval: tuple[float | None, float | None] | None
    """Interval of the first crossing where the second family's lead begins (along compute) or
    ends (along U), over resamples; an end of None: in some there is none on that side."""
    level: float | None
    """Of the interval, 0.95; None where it is the range of a law's readings."""
    resamples: int
    """Resamples behind the interval; 0 without one."""
    share: float | None
    """Share of the resamples that have such a crossing; None without resamples."""
    searched: tuple[float, float]

    def first_into(self, family: str) -> float | None:
        """First crossing at which the lead of `family` begins."""
        pairs = zip(self.crossings, self.leaders[1:], strict=True)
        return next((crossing for crossing, leader in pairs if leader == family), None)


def paper_critical_compute(unique_tokens: float) -> float:
    """C = 2.12·10^1.956·U^2.174, the line that arXiv 2507.15857 prints (U in tokens).

    A citation only: the line in its own figure has another slope, and its laws, solved, a third.
    """
    return float(2.12 * 10**1.956 * unique_tokens**2.174)


def trusted_flops(laws: Iterable[ScalingLaw]) -> float | None:
    """FLOPs up to which all of the laws are trusted; None if their runs are not known."""
    ends = [law.fitted_range["flops"][1] for law in laws if "flops" in law.fitted_range]
    return TRUSTED_FACTOR * min(ends) if ends else None


def trusted_unique_tokens(laws: Iterable[ScalingLaw]) -> tuple[float, float]:
    """Range of U in which all of the laws are trusted; (0, inf) if their runs are not known."""
    ends = [
        law.fitted_range["unique_tokens"] for law in laws if "unique_tokens" in law.fitted_range
    ]
    if not ends:
        return 0.0, float("inf")
    return max(low for low, _ in ends) / TRUSTED_FACTOR, min(high for _, high in ends) * (
        TRUSTED_FACTOR
    )


def paired_samples(
    first: ScalingLaw, second: ScalingLaw, most: int | None = None
) -> list[tuple[Floats, Floats]]:
    """Resamples of both laws side by side, one pair of [S, k] arrays per kind of resample.

    Resamples of fits are independent, so they are paired in order; readings of a figure are
    all combined with all.
    """
    pairs = []
    for index in range(max(len(first.samples), len(second.samples))):
        if not first.samples or not second.samples:
            break
        a = first.samples[min(index, len(first.samples) - 1)]
        b = second.samples[min(index, len(second.samples) - 1)]
        if first.whole_range or second.whole_range:
            a, b = a[:40], b[:40]
            a, b = np.repeat(a, len(b), axis=0), np.tile(b, (len(a), 1))
        count = min(len(a), len(b), most or len(a))
        pairs.append((a[:count], b[:count]))
    return pairs


def critical_compute(first: ScalingLaw, second: ScalingLaw, unique_tokens: float) -> Crossings:
    """Compute at which the lead changes on `unique_tokens`, from one epoch of a small model up."""
    smallest = min([law.fitted_range.get("params", (1e5,))[0] for law in (first, second)])
    low = 6.0 * min(smallest, unique_tokens) * unique_tokens
    return _crossings(
        lambda x, a, b: (
            optima(second, np.exp(x), unique_tokens, b).loss
            - optima(first, np.exp(x), unique_tokens, a).loss
        ),
        (first, second),
        (low, low * _SPAN),
        -1.0,
    )


def critical_compute_of_size(
    first: ScalingLaw, second: ScalingLaw, unique_tokens: float, params: float
) -> Crossings:
    """Compute at which the lead changes between models of one size, trained equally long.

    From one epoch up. For laws fitted to runs of that size, which say nothing of other sizes.
    """

    def loss(law: ScalingLaw, x: Floats, constants: Floats | None) -> Floats:
        tokens = np.exp(x) / (6.0 * params)
        if constants is None:
            return law.predict(params, tokens, unique_tokens)
        # Of resamples all are asked at one compute.
        return law.predict_with(constants, params, tokens[0], unique_tokens)

    low = 6.0 * params * unique_tokens
    return _crossings(
        lambda x, a, b: loss(second, x, b) - loss(first, x, a),
        (first, second),
        (low, low * _LONGEST),
        -1.0,
    )


def critical_data(first: ScalingLaw, second: ScalingLaw, flops: float) -> Crossings:
    """U at which the lead changes when `flops` are spent."""
    return _crossings(
        lambda x, a, b: (
            optima(second, flops, np.exp(x), b).loss - optima(first, flops, np.exp(x), a).loss
        ),
        (first, second),
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
    signs = _signs(gap(grid, None, None))
    changes = np.flatnonzero(signs[1:] != signs[:-1])
    crossings = [_bisect(gap, grid[i], grid[i + 1], signs[i]) for i in changes]
    sides = [signs[0], *(signs[i + 1] for i in changes)]
    interval, share, resamples = _interval(gap, laws, grid, towards)
    return Crossings(
        kind="none" if not crossings else "one" if len(crossings) == 1 else "several",
        crossings=crossings,
        leaders=[None if s == 0 else laws[0 if s > 0 else 1].family for s in sides],
        interval=interval if share else None,
        level=None if any(law.whole_range for law in laws) else LEVEL,
        resamples=resamples if share else 0,
        share=share,
        searched=span,
    )


def _signs(values: Floats) -> Floats:
    """Signs of gaps, those too small to be a difference taken from the point before."""
    signs = np.where(np.abs(values) < _EQUAL, 0.0, np.sign(values))
    known = np.flatnonzero(signs)
    if not len(known):
        return np.zeros_like(signs)
    before = np.maximum.accumulate(np.where(signs != 0, np.arange(len(signs)), -1))
    return signs[np.where(before < 0, known[0], before)]


def _bisect(gap: Gap, low: float, high: float, sign: float) -> float:
    def other(grid: Floats) -> NDArray[np.bool_]:
        return np.asarray(np.sign(gap(grid, None, None)) != sign)

    low, high = first_place(other, low, high, cells=17, rounds=6)
    return float(np.exp(0.5 * (low + high)))


def _interval(
    gap: Gap, laws: tuple[ScalingLaw, ScalingLaw], grid: Floats, towards: float
) -> tuple[tuple[float | None, float | None] | None, float | None, int]:
    """First crossing towards a sign in each resample → (interval, share with one, resamples)."""
    low, high, shares, counts = [], [], [], []
    edge = 0.0 if any(law.whole_range for law in laws) else TAIL
    for a, b in paired_samples(*laws, most=RESAMPLES):
        columns = np.stack([gap(np.full(len(a), x), a, b) for x in grid[::2]], axis=1)
        firsts = np.array([_first(grid[::2], towards * row) for row in columns])
        low.append(np.quantile(firsts, edge, method="inverted_cdf"))
        high.append(np.quantile(firsts, 1 - edge, method="inverted_cdf"))
        shares.append(float(np.isfinite(firsts).mean()))
        counts.append(len(a))
    if not shares:
        return None, None, 0
    ends = [float(np.exp(v)) if np.isfinite(v) else None for v in (min(low), max(high))]
    return (ends[0], ends[1]), min(shares), min(counts)


def _first(grid: Floats, values: Floats) -> float:
    """log of the first place where `values` become positive; infinite if they never do."""
    signs = _signs(values)
    into = np.flatnonzero((signs[1:] > 0) & (signs[:-1] <= 0))
    if not len(into):
        return -np.inf if signs[0] > 0 else np.inf
    i = int(into[0])
    share = values[i] / (values[i] - values[i + 1]) if values[i] < values[i + 1] else 0.5
    return float(grid[i] + np.clip(share, 0, 1) * (grid[i + 1] - grid[i]))
