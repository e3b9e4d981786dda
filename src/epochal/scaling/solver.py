"""Many small fits at once: damped Gauss–Newton on Huber weights, then an exact polish.

All starts, resamples or fixed values of a profile are rows of one batch, so numpy does the work
that a loop over an optimiser would. A round tries the step of the re-weighted squares
(weights min(1, δ/|r|), which never overshoots) or of the true second derivative (weights 1
within δ, 0 beyond, fast near the end), whichever did better for that row last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from epochal.estimates import Floats
from epochal.scaling.forms import BOUNDS, Form, Inputs, predict, predict_with_gradient
from epochal.scaling.options import HUBER_DELTA, Residual

ROUNDS = 60
_POLISHES = 4
_TOLERANCE = 1e-11
"""Relative gain of a round below which a row counts as done (three times in a row)."""


@dataclass(slots=True)
class Solutions:
    """Where a batch of starts ended."""

    constants: Floats
    """Unconstrained constants, [S, k]."""
    objective: Floats
    """[S]."""


def solve(
    problem: FitProblem,
    starts: Floats,
    weights: Floats | None = None,
    rounds: int = ROUNDS,
    tolerance: float = _TOLERANCE,
    base: Floats | None = None,
) -> Solutions:
    """Minimise from each start, [S, k] unconstrained constants.

    `weights` [S, n] of the points differ per row of a bootstrap; `base` [S, k] replaces the
    fixed constants per row of a profile.
    """
    state = _State(problem, np.atleast_2d(starts).astype(float), weights, base)
    for _ in range(rounds):
        if not state.active.any():
            break
        state.round(tolerance)
    return Solutions(state.constants(), state.objective)


class _State:
    """A batch on its way."""

    def __init__(
        self, problem: FitProblem, starts: Floats, weights: Floats | None, base: Floats | None
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

    def constants(self, q: Floats | None = None) -> Floats:
        """Unconstrained constants of the rows."""
        return self.base + (self.q if q is None else q) @ self.matrix.T

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


def polish(problem: FitProblem, start: Floats) -> tuple[Floats, float]:
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

    def part(free: Floats) -> tuple[float, Floats]:
        whole = start.copy()
        whole[inside] = free
        total, slope = value(whole)
        return total, slope[inside]

    options = {"gtol": 1e-13, "maxiter": 400}
    end = start.copy()
    end[inside] = minimize(part, start[inside], jac=True, method="BFGS", options=options).x
    return end


@dataclass(frozen=True, slots=True)
class FitProblem:
    """What is minimised."""

    form: Form
    where: Inputs
    log_loss: Floats
    delta: float = HUBER_DELTA
    """Huber's δ; infinite gives least squares."""
    residual: Residual = "log"
    tie: bool = False
    """β = α."""
    fixed: Mapping[str, float] = field(default_factory=dict)
    """Unconstrained values of constants that are not fitted."""

    @property
    def rows(self) -> int:
        """Number of points."""
        return len(self.log_loss)

    @property
    def free(self) -> list[str]:
        """Names of the constants that are searched; with `tie`, β follows α."""
        return [
            name
            for name in self.form.constants
            if name not in self.fixed and not (self.tie and name == "beta")
        ]

    def map(self) -> tuple[Floats, Floats]:
        """(p0 [k], M [k, m]): unconstrained constants p = p0 + M·q of the free ones q.

        Besides fixing and tying, q is centred: its A and B are the terms' sizes at the middle
        of log N and log D, so that they hardly depend on the exponents (the raw problem is
        very badly conditioned).
        """
        names, free = self.form.constants, self.free
        base, matrix = np.zeros(len(names)), np.zeros((len(names), len(free)))
        for name, value in self.fixed.items():
            base[names.index(name)] = value
        for column, name in enumerate(free):
            matrix[names.index(name), column] = 1.0
        if self.tie:
            matrix[names.index("beta"), free.index("alpha")] = 1.0
        for scale, exponent, values in (
            ("A", "alpha", self.where.log_n),
            ("B", "beta", self.where.log_d),
        ):
            if scale in free:
                middle = float(np.mean(values))
                row, source = names.index(scale), names.index(exponent)
                matrix[row] += middle * matrix[source]
                base[row] += middle * base[source]
        if "K" in free and "kappa" in free:
            middle = float(np.mean(self.where.log_n - self.where.log_unique))
            matrix[names.index("K"), free.index("kappa")] -= middle
        return base, matrix

    def bounds(self) -> tuple[Floats, Floats]:
        """Lowest and highest q; A, B and K (centred) are not bounded."""
        wide = ("A", "B", "K")
        pairs = [(-np.inf, np.inf) if name in wide else BOUNDS[name] for name in self.free]
        return np.array([low for low, _ in pairs]), np.array([high for _, high in pairs])

    def to_free(self, constants: Floats) -> Floats:
        """Unconstrained constants [..., k] → q [..., m]."""
        base, matrix = self.map()
        result: Floats = (constants - base) @ np.linalg.pinv(matrix).T
        return result

    def residuals(self, constants: Floats) -> Floats:
        """[S, k] → [S, n]."""
        log_prediction = predict(self.form, constants, self.where)
        if self.residual == "log":
            return log_prediction - self.log_loss
        return np.exp(log_prediction) - np.exp(self.log_loss)

    def residuals_with_gradient(self, constants: Floats) -> tuple[Floats, Floats]:
        """[S, k] → [S, n] and [S, k, n]."""
        log_prediction, gradient = predict_with_gradient(self.form, constants, self.where)
        if self.residual == "log":
            return log_prediction - self.log_loss, gradient
        prediction = np.exp(log_prediction)
        return prediction - np.exp(self.log_loss), gradient * prediction[:, None, :]

    def huber(self, residuals: Floats) -> Floats:
        """Huber's term of each residual."""
        size = np.abs(residuals)
        if not np.isfinite(self.delta):
            return 0.5 * residuals**2
        inside = np.minimum(size, self.delta)
        result: Floats = inside * (size - 0.5 * inside)
        return result

    def objective(self, constants: Floats, weights: Floats | float = 1.0) -> Floats:
        """Σ weights · Huber terms, [S]; NaN counts as infinite."""
        total = (weights * self.huber(self.residuals(constants))).sum(axis=-1)
        return np.where(np.isfinite(total), total, np.inf)
