"""The compute at which diffusion's curve meets AR's, if the runs determine it.

Three answers: seen (the curves meet within the runs), extrapolated (diffusion's own curve,
carried on, meets AR's plateau, and the runs pin that down), or none. The last is the usual one
for short runs, and it is an answer.

Extrapolation needs AR to be past its best, so that there is a plateau to meet, and diffusion
to be still falling. Then L(C) = E + A·C^(−α) is fitted to diffusion's curve after its first
third and carried on. The curve is that of one run with a decaying learning rate, not of
separate runs of each length, so this is a rough guide even where it is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import nnls

from epochal import rng
from epochal.estimates import Floats
from epochal.runs.curves import Curve

REACH = 10.0
"""An extrapolation is given only up to so many times the compute that was spent."""
SPREAD = 4.0
"""… and only if its 90 % interval spans no more than this factor."""
_RESAMPLES = 400
_EXPONENTS = np.geomspace(0.02, 3.0, 60)


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where the two curves meet."""

    how: Literal["seen", "extrapolated"]
    flops: float
    interval: tuple[float, float]
    """90 %; for a meeting that was seen, the two evaluations between which it lies."""


def meeting_point(ar: Curve, mdm: Curve) -> Meeting | None:
    """Where the best-so-far curve of `mdm` comes below that of `ar` for good, or None."""
    return _seen(ar, mdm) or _extrapolated(ar, mdm)


def _seen(ar: Curve, mdm: Curve) -> Meeting | None:
    low, high = max(ar.flops[0], mdm.flops[0]), mdm.flops[-1]
    at = mdm.flops[(mdm.flops >= low) & (mdm.flops <= high)]
    if len(at) < 2:
        return None
    # After the end of AR's run its best stays what it was.
    gap = _read(mdm, at) - _read(ar, at)
    if gap[-1] >= 0 or (gap < 0).all():
        return None
    before = int(np.flatnonzero(gap >= 0)[-1])
    share = gap[before] / (gap[before] - gap[before + 1])
    x = np.log(at[before : before + 2])
    flops = float(np.exp(x[0] + share * (x[1] - x[0])))
    return Meeting("seen", flops, (float(at[before]), float(at[before + 1])))


def _read(curve: Curve, flops: Floats) -> Floats:
    """Best-so-far NLL at given compute, linear in its logarithm between evaluations."""
    return np.interp(np.log(flops), np.log(curve.flops), curve.best_so_far())


def _extrapolated(ar: Curve, mdm: Curve) -> Meeting | None:
    if not ar.overfits or not mdm.still_falling or mdm.nll[-1] <= ar.nll.min():
        return None
    tail = slice(len(mdm.nll) // 3, None)
    flops, nll = mdm.flops[tail] / mdm.flops[-1], mdm.nll[tail]
    if len(nll) < 8:
        return None
    target = float(ar.nll.min())
    fitted, first = _fit(flops, nll, target)
    generator = np.random.Generator(np.random.Philox(rng.stream_key(0, "meeting point")))
    # Neighbouring residuals of one run are alike, so they are drawn in blocks.
    residuals = nll - fitted
    block = max(1, len(nll) // 5)
    meets = []
    for _ in range(_RESAMPLES):
        starts = generator.integers(0, len(nll) - block + 1, size=-(-len(nll) // block))
        drawn = np.concatenate([residuals[s : s + block] for s in starts])[: len(nll)]
        meets.append(_fit(flops, fitted + drawn * generator.choice((-1.0, 1.0)), target)[1])
    low, high = np.quantile(meets, (0.05, 0.95), method="inverted_cdf")
    if not np.isfinite(first) or first > REACH or not np.isfinite(high) or high > SPREAD * low:
        return None
    spent = float(mdm.flops[-1])
    return Meeting("extrapolated", first * spent, (float(low) * spent, float(high) * spent))


def _fit(flops: Floats, nll: Floats, target: float) -> tuple[Floats, float]:
    """Least squares of E + A·C^(−α), A, E ≥ 0 → (fitted values, C at which it is `target`).

    C is infinite where the curve levels off above the target.
    """
    best: tuple[float, Floats, float] | None = None
    for exponent in _EXPONENTS:
        design = np.stack([np.ones_like(flops), flops**-exponent], axis=1)
        (floor, scale), error = nnls(design, nll)
        if best is None or error < best[0]:
            gap = target - floor
            meets = (scale / gap) ** (1 / exponent) if gap > 0 and scale > 0 else np.inf
            best = error, design @ np.array([floor, scale]), float(meets)
    assert best is not None
    return best[1], best[2]
