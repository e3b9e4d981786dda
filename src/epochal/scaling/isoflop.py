"""IsoFLOP parabolas (Hoffmann et al. 2022, approach 2), with the warnings that belong to them.

Per compute budget a parabola of loss in log N; through the vertices straight lines of log N_opt
and log D_opt on log C. Off-centre sampling and α ≠ β bias this even without noise, so the
parametric fit is the result and this is the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from epochal.estimates import Floats
from epochal.results import Note, note
from epochal.scaling.law import SINGLE_EPOCH
from epochal.scaling.notes import VertexFlag
from epochal.scaling.points import Points

SAME_BUDGET = 1.12
"""Runs whose FLOPs differ by up to this factor are of one budget."""
FEWEST = 3
ENOUGH = 5
CENTRAL_DECADES = 0.7


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
        for part in np.split(order, np.flatnonzero(flops[1:] > SAME_BUDGET * flops[:-1]) + 1):
            spread = points.flops[part].max() / points.flops[part].min()
            sizes = np.unique(np.round(np.log(points.params[part]), 2))
            if len(sizes) < FEWEST or spread > SAME_BUDGET**2:
                continue
            rising = part[np.argsort(points.params[part], kind="stable")]
            middle = float(np.exp(np.log(points.flops[part]).mean()))
            found.append((middle, points.params[rising], points.loss[rising]))
    return sorted(found, key=lambda budget: budget[0])


def _central(flops: float, params: Floats, loss: Floats) -> tuple[float, Floats, Floats]:
    near = np.abs(np.log10(params / params[loss.argmin()])) <= CENTRAL_DECADES
    enough = len(np.unique(np.round(np.log(params[near]), 2))) >= FEWEST
    return (flops, params[near], loss[near]) if enough else (flops, params, loss)


def _parabola(flops: float, params: Floats, loss: Floats) -> Parabola:
    x = np.log(params)
    middle = x.mean()
    curvature, slope, level = np.polyfit(x - middle, loss, 2)
    flags = [] if len(x) >= ENOUGH else [note(VertexFlag.FEW_SIZES, sizes=len(x))]
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
