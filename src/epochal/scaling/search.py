"""Every minimum of a fit: starts for the search, many small fits at once, an exact polish.

For fixed exponents the prediction is linear in (A, B, E), and log(prediction) − log(L) is nearly
prediction/L − 1. So each cell of a grid of exponents is a small weighted least-squares problem, and
the best cells, with grids of the other constants, are the starts.

All starts, resamples or fixed values of a profile are rows of one batch of damped Gauss–Newton on
Huber weights, so numpy does the work that a loop over an optimiser would. A round tries the step of
the re-weighted squares (weights min(1, δ/|r|), which never overshoots) or of the true second
derivative (weights 1 within δ, 0 beyond, fast near the end), whichever did better for that row
last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from epochal.estimates import Floats
from epochal.scaling.forms.form import FitProblem, Grid, Inputs, effective
from epochal.scaling.joint import Problem
from epochal.scaling.law import SINGLE_EPOCH

_TOLERANCE = 1e-11
"""Relative gain of a round below which a row counts as done (three times in a row)."""
_POLISHES = 4
_POLISH_WITHIN = 0.03
_MOST_POLISHED = 12
_EXPONENTS = np.geomspace(0.04, 1.6, 17)
_REWEIGHTINGS = 12
_DEEPEN = 16
"""Rounds after which only the best starts are kept."""
_KEEP = 28


def search(problem: FitProblem, most: int = _MOST_POLISHED) -> tuple[Floats, Floats]:
    """All distinct minima, best first, up to `most` of the best polished: unconstrained constants
    [M, k] and objectives [M]."""
    return minima_from(problem, _starts(problem), most)


def minima_from(problem: Problem, starts: Floats, most: int) -> tuple[Floats, Floats]:
    """As `search`, from `starts` [S, k]."""
    if len(starts) > _KEEP:
        early, reached = solve(problem, starts, rounds=_DEEPEN)
        starts = early[np.argsort(reached, kind="stable")[:_KEEP]]
    constants, objectives = _distinct(problem, *solve(problem, starts, rounds=120))
    near = objectives <= objectives[0] * (1 + _POLISH_WITHIN) + 1e-24
    ends = [_polish(problem, c) for c in constants[near][:most]]
    for index, (end, value) in enumerate(ends):
        if value < objectives[index]:
            constants[index], objectives[index] = end, value
    return _distinct(problem, constants, objectives)


def _distinct(
    problem: Problem, constants: Floats, objective: Floats, apart: float = 0.02
) -> tuple[Floats, Floats]:
    """Ends that differ by more than `apart` in some free unconstrained constant, best first."""
    base_free = problem.to_free(constants)
    chosen: list[int] = []
    for index in np.argsort(objective, kind="stable"):
        if not np.isfinite(objective[index]):
            break
        if all(np.abs(base_free[index] - base_free[c]).max() > apart for c in chosen):
            chosen.append(int(index))
    return constants[chosen], objective[chosen]


def solve(
    problem: Problem,
    starts: Floats,
    weights: Floats | None = None,
    rounds: int = 60,
    tolerance: float = _TOLERANCE,
    base: Floats | None = None,
) -> tuple[Floats, Floats]:
    """Minimise from each start, [S, k]: where each ended, [S, k] unconstrained, and objectives [S].

    `weights` [S, n] of the points differ per row of a bootstrap; `base` [S, k] replaces the
    fixed constants per row of a profile.
    """
    state = _State(problem, np.atleast_2d(starts).astype(float), weights, base)
    for _ in range(rounds):
        if not state.active.any():
            break
        state.round(tolerance)
    return state.base + state.q @ state.matrix.T, state.objective


def best_ends(
    problem: Problem,
    minima: Floats,
    count: int,
    weights: Floats | None = None,
    rounds: int = 60,
    tolerance: float = _TOLERANCE,
    base: Floats | None = None,
) -> tuple[Floats, Floats]:
    """`solve` for `count` rows from each of the `minima` [M, k]: the best end of each row."""
    tried = [
        solve(problem, np.repeat(start[None], count, axis=0), weights, rounds, tolerance, base)
        for start in minima
    ]
    ends, objectives = (np.stack(one) for one in zip(*tried, strict=True))
    best, row = objectives.argmin(axis=0), np.arange(count)
    return ends[best, row], objectives[best, row]


def refitted(problem: FitProblem, minima: Floats, name: str, values: Floats, rounds: int) -> Floats:
    """Lowest objectives with one constant fixed at each of the unconstrained `values`, [V]."""
    part = replace(problem, fixed={**problem.fixed, name: 0.0})
    base = np.repeat(part.map()[0][None], len(values), axis=0)
    base[:, problem.form.index(name)] = values
    return best_ends(part, minima, len(values), rounds=rounds, base=base)[1]


class _State:
    """A batch on its way."""

    def __init__(
        self, problem: Problem, starts: Floats, weights: Floats | None, base: Floats | None
    ) -> None:
        self.problem = problem
        fixed, self.matrix = problem.map()
        self.base = np.broadcast_to(fixed if base is None else base, starts.shape)
        self.low, self.high = problem.bounds()
        inverse = np.linalg.pinv(self.matrix)
        self.q = np.clip((starts - self.base) @ inverse.T, self.low, self.high)
        count = len(starts)
        self.weights = np.ones((count, 1)) if weights is None else weights
        self.damping = np.full(count, 1e-3)
        self.newton = np.zeros(count, dtype=bool)
        self.idle = np.zeros(count, dtype=int)
        self.active = np.ones(count, dtype=bool)
        self.residuals, self.gradient = self._evaluate(self.q, np.arange(count))
        self.objective = self._sum(self.residuals, self.weights)

    def _evaluate(self, q: Floats, rows: NDArray[np.int64]) -> tuple[Floats, Floats]:
        constants = self.base[rows] + q @ self.matrix.T
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            residuals, gradient = self.problem.residuals_with_gradient(constants)
            return residuals, np.matmul(self.matrix.T, gradient)

    def _sum(self, residuals: Floats, weights: Floats) -> Floats:
        with np.errstate(invalid="ignore", over="ignore"):
            total = (weights * self.problem.huber(residuals)).sum(axis=1)
        return np.where(np.isfinite(total), total, np.inf)

    def round(self, tolerance: float) -> None:
        """One step of every row that is not done."""
        rows = np.flatnonzero(self.active)
        q, weights = self.q[rows], self.weights[rows]
        step = self._step(rows, weights)
        new = np.clip(q + step, self.low, self.high)
        residuals, gradient = self._evaluate(new, rows)
        objective, before = self._sum(residuals, weights), self.objective[rows]
        better = objective < before
        gain = np.where(better, (before - objective) / np.maximum(before, 1e-300), 0.0)
        taken = rows[better]
        self.q[taken], self.objective[taken] = new[better], objective[better]
        self.residuals[taken], self.gradient[taken] = residuals[better], gradient[better]
        self.damping[rows] = np.where(
            better, np.maximum(self.damping[rows] * 0.2, 1e-12), self.damping[rows] * 6.0
        )
        # A row whose kind of step failed or hardly gained tries the other kind next.
        self.newton[rows] ^= gain < 0.05
        small = (gain < tolerance) | (objective < 1e-28)
        self.idle[rows] = np.where(small, self.idle[rows] + 1, 0)
        self.active[rows] = (self.idle[rows] < 8) & (before > 1e-30)

    def _step(self, rows: NDArray[np.int64], weights: Floats) -> Floats:
        delta = self.problem.delta
        residuals, gradient = self.residuals[rows], self.gradient[rows]
        size = np.abs(residuals)
        soft = np.minimum(1.0, delta / np.maximum(size, 1e-300))
        hard = np.where(size <= delta, 1.0, 0.02 * soft)
        curvature = np.where(self.newton[rows, None], hard, soft) * weights
        slope = np.matmul(gradient, (weights * soft * residuals)[:, :, None])[:, :, 0]
        hessian = np.matmul(gradient * curvature[:, None, :], gradient.transpose(0, 2, 1))
        q = self.q[rows]
        stuck = ((q <= self.low) & (slope > 0)) | ((q >= self.high) & (slope < 0))
        slope = np.where(stuck, 0.0, slope)
        free = ~stuck
        hessian *= free[:, :, None] & free[:, None, :]
        diagonal = np.einsum("sii->si", hessian)
        scale = np.maximum(diagonal, 1e-14 * diagonal.max(axis=1, keepdims=True) + 1e-300)
        diagonal += self.damping[rows, None] * scale + stuck
        bad = ~np.isfinite(hessian).all(axis=(1, 2)) | ~np.isfinite(slope).all(axis=1)
        hessian[bad], slope[bad] = np.eye(len(self.low)), 0.0
        step = -_solve(hessian, slope)
        # No more than a factor e⁴ at once in any constant: the formula is far from linear.
        limited: Floats = step / np.maximum(1.0, np.abs(step).max(axis=1, keepdims=True) / 4.0)
        return limited


def _solve(matrices: Floats, sides: Floats) -> Floats:
    """Solve each symmetric system in units in which its diagonal is 1."""
    scale = 1 / np.sqrt(np.maximum(np.einsum("sii->si", matrices), 1e-300))
    scaled = matrices * scale[:, :, None] * scale[:, None, :]
    scaled += 1e-15 * np.eye(matrices.shape[1])
    try:
        solved = np.linalg.solve(scaled, (sides * scale)[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        solved = np.stack(
            [
                np.linalg.lstsq(m, s, rcond=None)[0]
                for m, s in zip(scaled, sides * scale, strict=True)
            ]
        )
    result: Floats = solved * scale
    return result


def _polish(problem: Problem, start: Floats) -> tuple[Floats, float]:
    """BFGS on the exact objective with its gradient → (unconstrained constants [k], objective).

    The objective is scaled up, or the stopping rules would fire early. The better of start and
    end is returned.
    """
    base, matrix = problem.map()
    low, high = problem.bounds()
    q = np.clip(problem.to_free(start), low, high)

    def value(free: Floats) -> tuple[float, Floats]:
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            residuals, gradient = problem.residuals_with_gradient((base + matrix @ free)[None])
            total = float(problem.huber(residuals).sum())
            soft = np.clip(residuals, -problem.delta, problem.delta)[0]
            slope = matrix.T @ (gradient[0] @ soft)
        if not np.isfinite(total):
            return 1e30, np.zeros_like(free)
        return 1e3 * total, 1e3 * slope

    before = value(q)[0]
    best, lowest = q, before
    for _ in range(_POLISHES):
        inside = np.flatnonzero((best > low) & (best < high))
        if not len(inside) or lowest == 0.0:
            break
        found = np.clip(_descend(value, best, inside), low, high)
        after = value(found)[0]
        if not after < lowest:
            break
        gain, best, lowest = 1 - after / lowest, found, after
        if gain < 1e-12:
            break
    return base + matrix @ best, lowest / 1e3


def _descend(
    value: Callable[[Floats], tuple[float, Floats]], start: Floats, inside: NDArray[np.int64]
) -> Floats:
    """BFGS over the coordinates `inside`; the others, at their bounds, stay."""

    from scipy.optimize import minimize

    def part(free: Floats) -> tuple[float, Floats]:
        whole = start.copy()
        whole[inside] = free
        total, slope = value(whole)
        return total, slope[inside]

    options = {"gtol": 1e-13, "maxiter": 400}
    end = start.copy()
    end[inside] = minimize(part, start[inside], jac=True, method="BFGS", options=options).x
    return end


def _starts(problem: FitProblem) -> Floats:
    """Unconstrained constants to start from, [S, k], for any form."""
    starts = _fives(problem)
    for grid in problem.form.grids:
        starts = _with_grid(problem, starts, grid)
    return _with_fixed(problem, starts)


def _with_fixed(problem: FitProblem, starts: Floats) -> Floats:
    for name, value in problem.fixed.items():
        starts[:, problem.form.index(name)] = value
    return starts


def _fives(problem: FitProblem) -> Floats:
    """Starts for (A, B, E, α, β)."""
    where = problem.where
    if not problem.form.grids:
        return _projected(problem, where.log_n, where.log_d, 8)
    found = []
    single = where.repetitions <= SINGLE_EPOCH - 1
    log_n, log_d = where.log_n[single], where.log_d[single]
    if single.sum() >= 6 and np.ptp(log_n) > 0.5 and np.ptp(log_d) > 0.5:
        part = replace(
            problem,
            where=Inputs(*(getattr(where, one.name)[single] for one in fields(Inputs))),
            log_loss=problem.log_loss[single],
            fixed={},
        )
        found.append(_projected(part, log_n, log_d, 2))
    for star in (4.0, 60.0, 1e6):
        log_d = effective(where.log_u, where.repetitions, np.log(np.array(star)))[0]
        found.append(_projected(problem, where.log_n, log_d, 1))
    return np.concatenate(found)


def _with_grid(problem: FitProblem, starts: Floats, grid: Grid) -> Floats:
    """The starts with constants of the grid added."""
    rows = len(grid.values)
    if grid.keep_all and len(starts) > 40:
        starts = starts[:: -(-len(starts) // 40)]
    both = np.concatenate(
        [np.repeat(starts, rows, axis=0), np.tile(grid.values, (len(starts), 1))], axis=1
    )
    if grid.keep_all:
        return both
    core = problem.form.core
    judge = problem if core is None else replace(problem, form=core)
    both = _with_fixed(problem, both) if core is None else both
    error = judge.objective(both).reshape(len(starts), rows)
    best: Floats = both[error.argmin(axis=0) * rows + np.arange(rows)]
    return best


def _projected(problem: FitProblem, log_n: Floats, log_d: Floats, keep: int) -> Floats:
    """The best `keep` cells of the grid, [S, 5]: unconstrained A, B, E, α, β.

    `log_n` and `log_d` are (effective) parameters and tokens of the points. Cells with a
    negative constant are left out; where all have one, E is let go to almost nothing.
    """
    alphas, betas = np.meshgrid(_EXPONENTS, _EXPONENTS, indexing="ij")
    alpha, beta = alphas.ravel(), betas.ravel()
    if problem.tie:
        alpha = beta = _EXPONENTS
    middle_n, middle_d = log_n.mean(), log_d.mean()
    loss = np.exp(problem.log_loss)
    design = (
        np.stack(
            [
                np.exp(-alpha[:, None] * (log_n - middle_n)),
                np.exp(-beta[:, None] * (log_d - middle_d)),
                np.ones((len(alpha), len(loss))),
            ],
            axis=1,
        )
        / loss
    )
    weights = np.ones((len(alpha), len(loss)))
    delta = problem.delta if np.isfinite(problem.delta) else 1e9
    for _ in range(_REWEIGHTINGS):
        weighted = design * weights[:, None, :]
        normal = np.matmul(weighted, design.transpose(0, 2, 1))
        normal += 1e-10 * np.eye(3) * np.einsum("sii->s", normal)[:, None, None]
        linear = np.linalg.solve(normal, weighted.sum(axis=2)[:, :, None])[:, :, 0]
        residuals = np.einsum("ski,sk->si", design, linear) - 1
        weights = np.minimum(1.0, delta / np.maximum(np.abs(residuals), 1e-300))
    error = problem.huber(residuals).sum(axis=1)
    error = np.where((linear > 0).all(axis=1), error, np.inf)
    if not np.isfinite(error).any():
        linear = np.maximum(linear, 1e-3 * loss.min())
        error = np.abs(np.log(np.einsum("ski,sk->si", design, linear))).sum(axis=1)
    best = _spread(error, alpha, beta, keep)
    found = linear[best]
    return np.stack(
        [
            np.log(found[:, 0]) + alpha[best] * middle_n,
            np.log(found[:, 1]) + beta[best] * middle_d,
            np.log(found[:, 2]),
            alpha[best],
            beta[best],
        ],
        axis=1,
    )


def _spread(error: Floats, alpha: Floats, beta: Floats, keep: int) -> list[int]:
    """The best cells, none a direct neighbour of a better one."""
    chosen: list[int] = []
    width = 1.5 * np.log(_EXPONENTS[1] / _EXPONENTS[0])
    for index in np.argsort(error, kind="stable"):
        if not np.isfinite(error[index]) or len(chosen) == keep:
            break
        apart = all(
            max(abs(np.log(alpha[index] / alpha[c])), abs(np.log(beta[index] / beta[c]))) > width
            for c in chosen
        )
        if apart:
            chosen.append(int(index))
    return chosen
