"""Time of a fit against the usual grid of L-BFGS starts, in one run on the same points.

    python benchmarks/fit_speed.py [--rows 240] [--sample 30] [--resamples 500]

The points are synthetic single-epoch runs of a planted Chinchilla law with 1 % noise. The usual
way is that of the replication of Chinchilla (Besiroglu et al. 2024): L-BFGS-B on the same
objective from 4500 starts, 6·6·5·5·5. Only a random sample of those starts is run and timed, and
the whole is that many times longer; `--sample 4500` runs them all. The peer here gets the
analytic gradient, which the original did not have. Variants take turns.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import numpy as np
from scipy.optimize import minimize

from epochal.scaling import known_law
from epochal.scaling.forms import FORMS, Where
from epochal.scaling.intervals import bootstrap, groups_of
from epochal.scaling.problem import Problem
from epochal.scaling.solver import polish
from epochal.scaling.starts import global_search

_PLANTED = {"A": 482.0, "B": 2085.0, "E": 1.817, "alpha": 0.348, "beta": 0.366}
_GRID = (
    range(0, 30, 5),  # log A
    range(0, 30, 5),  # log B
    np.arange(-1, 1.5, 0.5),  # log E
    np.arange(0, 2.5, 0.5),  # alpha
    np.arange(0, 2.5, 0.5),  # beta
)


def make_problem(rows: int, seed: int) -> Problem:
    """Points spread over 57M to 16B parameters and four decades of tokens."""
    generator = np.random.default_rng(seed)
    params = 10 ** generator.uniform(7.75, 10.2, rows)
    tokens = params * 10 ** generator.uniform(0.3, 2.3, rows)
    law = known_law("chinchilla", _PLANTED)
    loss = law.predict(params, tokens) * np.exp(0.01 * generator.standard_normal(rows))
    return Problem(FORMS["chinchilla"], Where.at(params, tokens, tokens), np.log(loss))


def ours(problem: Problem) -> float:
    """Objective of the whole search."""
    constants, _ = global_search(problem)
    return polish(problem, constants[0])[1]


def usual(problem: Problem, starts: np.ndarray) -> float:
    """Lowest objective of L-BFGS-B from some starts, analytic gradient, raw variables."""

    def value(point: np.ndarray) -> tuple[float, np.ndarray]:
        with np.errstate(over="ignore", invalid="ignore"):
            residuals, gradient = problem.residuals_with_gradient(point[None])
            clipped = np.clip(residuals[0], -problem.delta, problem.delta)
            return float(problem.huber(residuals).sum()), gradient[0] @ clipped

    ends = [minimize(value, s, jac=True, method="L-BFGS-B").fun for s in starts]
    return float(min(ends))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=240)
    parser.add_argument("--sample", type=int, default=30, help="of the 4500 starts, per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--resamples", type=int, default=500)
    arguments = parser.parse_args()
    grid = np.array(list(itertools.product(*_GRID)), dtype=float)
    problem = make_problem(arguments.rows, seed=1)
    groups = groups_of(range(arguments.rows))
    fits, peers, boots, lowest = [], [], [], np.inf
    objective = ours(problem)  # warms up
    best = global_search(problem)[0][:1]
    for number in range(arguments.rounds):
        begin = time.perf_counter()
        objective = ours(problem)
        fits.append(time.perf_counter() - begin)
        chosen = np.random.default_rng(number).choice(len(grid), arguments.sample, replace=False)
        begin = time.perf_counter()
        lowest = min(lowest, usual(problem, grid[chosen]))
        peers.append((time.perf_counter() - begin) * len(grid) / arguments.sample)
        begin = time.perf_counter()
        bootstrap(problem, best, groups, arguments.resamples, seed=number)
        boots.append(time.perf_counter() - begin)
    fit, peer = statistics.median(fits), statistics.median(peers)
    print(f"{arguments.rows} points, median of {arguments.rounds} rounds")
    print(f"fit                          {fit:>9.3f} s   objective {objective:.9g}")
    print(f"L-BFGS-B, {len(grid)} starts       {peer:>9.1f} s   objective {lowest:.9g} (sampled)")
    print(f"ratio                        {peer / fit:>9.0f}")
    print(f"bootstrap, {arguments.resamples:>5} resamples {statistics.median(boots):>10.3f} s")


if __name__ == "__main__":
    main()
