"""The compute at which one run's validation curve comes below another's, if the runs show it.

Three answers: seen (the curves cross within the runs), extrapolated (the later run's curve,
extended, comes to the other's plateau, and the runs determine where), or none. The last is the
usual one for short runs, and it is an answer.

Extrapolation needs the earlier run to be past its best, so that there is a plateau, and the later
one to be still falling. Then L(C) = E + A·C^(−α) is fitted to the later curve after its first third
and extended. The curve comes from one run with a decaying learning rate, not from separate runs of
each length, so this is a rough guide even where it is given.

This is about two runs. `scaling/crossing.py` has the budget at which the optima of two fitted laws
cross.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from epochal import rng
from epochal.estimates import Floats
from epochal.runs.curves import Curve

MAX_EXTRAPOLATION = 10.0
"""An extrapolation is given only up to this many times the compute that was spent."""
MAX_SPREAD = 4.0
"""… and only if the ends of its 95 % interval differ by no more than this factor."""
_RESAMPLES = 400
_EXPONENTS = np.geomspace(0.02, 3.0, 60)


@dataclass(frozen=True, slots=True)
class CurveCrossing:
    """Where the best-so-far NLL of the `later` family's run comes below that of the `earlier`."""

    kind: Literal["seen", "extrapolated"]
    earlier: str
    later: str
    flops: float
    interval: tuple[float, float]
    """95 %; for a crossing that was seen, the two evaluations between which it lies."""


def curve_crossing(curves: Mapping[str, Curve]) -> CurveCrossing | None:
    """Where the best-so-far curve of one of two families comes below the other's for good, or None.

    The second is tried as the later one; the first as well if its best came after the second's.
    """
    (first, a), (second, b) = curves.items()
    found = _crossing(a, b)
    if found is not None:
        return CurveCrossing(found[0], first, second, *found[1:])
    if a.flops[a.best] > b.flops[b.best] and (found := _crossing(b, a)) is not None:
        return CurveCrossing(found[0], second, first, *found[1:])
    return None


_Found = tuple[Literal["seen", "extrapolated"], float, tuple[float, float]]


def _crossing(earlier: Curve, later: Curve) -> _Found | None:
    return _seen(earlier, later) or _extrapolated(earlier, later)


def _seen(earlier: Curve, later: Curve) -> _Found | None:
    low, high = max(earlier.flops[0], later.flops[0]), later.flops[-1]
    at = later.flops[(later.flops >= low) & (later.flops <= high)]
    if len(at) < 2:
        return None
    # After the end of the earlier run its best stays what it was.
    gap = _read(later, at) - _read(earlier, at)
    if gap[-1] >= 0 or (gap < 0).all():
        return None
    before = int(np.flatnonzero(gap >= 0)[-1])
    share = gap[before] / (gap[before] - gap[before + 1])
    x = np.log(at[before : before + 2])
    flops = float(np.exp(x[0] + share * (x[1] - x[0])))
    return "seen", flops, (float(at[before]), float(at[before + 1]))


def _read(curve: Curve, flops: Floats) -> Floats:
    """Best-so-far NLL at given compute, linear in its logarithm between evaluations."""
    return np.interp(np.log(flops), np.log(curve.flops), curve.best_so_far())


def _extrapolated(earlier: Curve, later: Curve) -> _Found | None:
    if not earlier.overfits or not later.still_falling or later.nll[-1] <= earlier.nll.min():
        return None
    tail = slice(len(later.nll) // 3, None)
    flops, nll = later.flops[tail] / later.flops[-1], later.nll[tail]
    if len(nll) < 8:
        return None
    target = float(earlier.nll.min())
    fitted, first = _fit(flops, nll, target)
    generator = np.random.Generator(np.random.Philox(rng.stream_key(0, "meeting point")))
    # Neighbouring residuals of one run are alike, so they are drawn in blocks.
    residuals = nll - fitted
    block = max(1, len(nll) // 5)
    crossings = []
    for _ in range(_RESAMPLES):
        starts = generator.integers(0, len(nll) - block + 1, size=-(-len(nll) // block))
        drawn = np.concatenate([residuals[s : s + block] for s in starts])[: len(nll)]
        crossings.append(_fit(flops, fitted + drawn * generator.choice((-1.0, 1.0)), target)[1])
    low, high = np.quantile(crossings, (0.025, 0.975), method="inverted_cdf")
    determined = np.isfinite(first) and np.isfinite(high) and high <= MAX_SPREAD * low
    if not determined or first > MAX_EXTRAPOLATION:
        return None
    spent = float(later.flops[-1])
    return "extrapolated", first * spent, (float(low) * spent, float(high) * spent)


def _fit(flops: Floats, nll: Floats, target: float) -> tuple[Floats, float]:
    """Least squares of E + A·C^(−α), A, E ≥ 0 → (fitted values, C at which it is `target`).

    C is infinite where the curve levels off above the target.
    """
    from scipy.optimize import nnls

    best: tuple[float, Floats, float] | None = None
    for exponent in _EXPONENTS:
        design = np.stack([np.ones_like(flops), flops**-exponent], axis=1)
        (floor, scale), error = nnls(design, nll)
        if best is None or error < best[0]:
            gap = target - floor
            crossing = (scale / gap) ** (1 / exponent) if gap > 0 and scale > 0 else np.inf
            best = error, design @ np.array([floor, scale]), float(crossing)
    assert best is not None
    return best[1], best[2]
