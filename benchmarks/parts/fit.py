"""Time of a fit of a law against the usual grid of L-BFGS starts, in one run on the same points.

The points are synthetic single-epoch runs of a planted Chinchilla law with 1 % noise. The usual
way is that of the replication of Chinchilla (Besiroglu et al. 2024): L-BFGS-B on the same
objective from 4500 starts, 6·6·5·5·5. Only a random sample of those starts is run and timed, and
the whole is that many times longer. The peer here gets the analytic gradient, which the original
did not have. Variants take turns.
"""

from __future__ import annotations

import itertools

import numpy as np
from scipy.optimize import minimize

from epochal.estimates import Floats
from epochal.scaling.forms import FORMS
from epochal.scaling.forms.form import FitProblem, Inputs
from epochal.scaling.law import law_from_constants
from epochal.scaling.resample import refit_resamples
from epochal.scaling.search import search
from parts.options import Options
from parts.timing import Row, ratio_row, take_turns, time_rows

_PLANTED = {"A": 482.0, "B": 2085.0, "E": 1.817, "alpha": 0.348, "beta": 0.366}
_GRID = (
    range(0, 30, 5),  # log A
    range(0, 30, 5),  # log B
    np.arange(-1, 1.5, 0.5),  # log E
    np.arange(0, 2.5, 0.5),  # alpha
    np.arange(0, 2.5, 0.5),  # beta
)


def make_problem(rows: int, seed: int) -> FitProblem:
    """Points spread over 57M to 16B parameters and four decades of tokens."""
    generator = np.random.default_rng(seed)
    params = 10 ** generator.uniform(7.75, 10.2, rows)
    tokens = params * 10 ** generator.uniform(0.3, 2.3, rows)
    law = law_from_constants("chinchilla", _PLANTED)
    loss = law.predict(params, tokens) * np.exp(0.01 * generator.standard_normal(rows))
    return FitProblem(FORMS["chinchilla"], Inputs.at(params, tokens, tokens), np.log(loss))


def ours(problem: FitProblem) -> float:
    """Objective of the whole search."""
    return float(search(problem, most=1)[1][0])


def usual(problem: FitProblem, starts: Floats) -> float:
    """Lowest objective of L-BFGS-B from some starts, analytic gradient, raw variables."""

    def value(point: Floats) -> tuple[float, Floats]:
        with np.errstate(over="ignore", invalid="ignore"):
            residuals, gradient = problem.residuals_with_gradient(point[None])
            clipped = np.clip(residuals[0], -problem.delta, problem.delta)
            return float(problem.huber(residuals).sum()), gradient[0] @ clipped

    ends = [minimize(value, s, jac=True, method="L-BFGS-B").fun for s in starts]
    return float(min(ends))


def measure(options: Options) -> list[Row]:
    """Our fit, some of the peer's 4500 starts scaled up, bootstrap resamples."""
    starts, points, resamples = options.starts, options.points, options.resamples
    grid = np.array(list(itertools.product(*_GRID)), dtype=float)
    problem = make_problem(points, seed=1)
    shares = np.full(points, 1 / points)
    weights = np.random.default_rng(0).multinomial(points, shares, size=resamples).astype(float)
    best = search(problem, most=1)[0][:1]
    peer_name = f"L-BFGS-B, {len(grid)} starts"
    reached: dict[str, list[float]] = {"ours": [], peer_name: []}
    draws = iter(range(10**6))

    def peer() -> None:
        chosen = np.random.default_rng(next(draws)).choice(
            len(grid), min(starts, len(grid)), replace=False
        )
        reached[peer_name].append(usual(problem, grid[chosen]))

    times = take_turns(
        "fit",
        {
            "fit": lambda: reached["ours"].append(ours(problem)),
            peer_name: peer,
            "resamples": lambda: refit_resamples(problem, best, weights),
        },
        options.rounds,
    )
    scale = len(grid) / min(starts, len(grid))
    times[peer_name] = [scale * seconds for seconds in times[peer_name]]
    named = {
        f"fit of {points} points": times["fit"],
        peer_name: times[peer_name],
        f"{resamples} bootstrap resamples": times["resamples"],
    }
    above = reached["ours"][0] / min(reached[peer_name]) - 1
    note = f"{reached['ours'][0]:.9g}, ours; up to 0: no higher than the peer's lowest"
    return [
        *time_rows("fit", named),
        ratio_row("fit", times, peer_name, "fit", f"the peer's time from {starts} starts a round"),
        Row(
            "fit",
            "objective above the peer's lowest",
            100 * above,
            "%",
            100 * above,
            100 * above,
            note,
        ),
    ]
