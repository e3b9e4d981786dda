"""Where a search begins: variable projection over a grid of exponents, and grids of half-lives.

For fixed exponents the prediction is linear in (A, B, E), and log(prediction) − log(L) is nearly
prediction/L − 1. So each cell of the grid is a small weighted least-squares problem, and all
cells are solved together.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from epochal.estimates import Floats
from epochal.scaling.forms import FORMS, Form, Inputs, effective
from epochal.scaling.law import SINGLE_EPOCH
from epochal.scaling.solver import FitProblem, solve

EXPONENTS = np.geomspace(0.04, 1.6, 17)
_REWEIGHTINGS = 12
HALF_LIVES = np.array([0.5, 2.0, 8.0, 30.0, 120.0, 500.0, 3000.0])
_DEEPEN = 16
"""Rounds after which only the best starts are kept."""
_KEEP = 28


def _projected(problem: FitProblem, log_n: Floats, log_d: Floats, keep: int) -> Floats:
    """The best `keep` cells of the grid, [S, 5]: unconstrained A, B, E, α, β.

    `log_n` and `log_d` are (effective) parameters and tokens of the points. Cells with a
    negative constant are left out; where all have one, E is let go to almost nothing.
    """
    alphas, betas = np.meshgrid(EXPONENTS, EXPONENTS, indexing="ij")
    alpha, beta = alphas.ravel(), betas.ravel()
    if problem.tie:
        alpha = beta = EXPONENTS
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
    width = 1.5 * np.log(EXPONENTS[1] / EXPONENTS[0])
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


def _search_starts(problem: FitProblem) -> Floats:
    """Unconstrained constants to start from, [S, k], for any form."""
    form = problem.form
    starts = _fives(problem)
    if "R_D" in form.constants:
        starts = _with_half_lives(problem, starts)
    if "K" in form.constants:
        starts = _with_penalty(form, starts)
    return _with_fixed(problem, starts)


def _with_fixed(problem: FitProblem, starts: Floats) -> Floats:
    for name, value in problem.fixed.items():
        starts[:, problem.form.index(name)] = value
    return starts


def _fives(problem: FitProblem) -> Floats:
    """Starts for (A, B, E, α, β)."""
    where = problem.where
    if "R_D" not in problem.form.constants and problem.form.monotone:
        return _projected(problem, where.log_n, where.log_d, 8)
    found = []
    single = where.repetitions <= SINGLE_EPOCH - 1
    if single.sum() >= 6 and _varies(where, single):
        part = _rows(problem, single)
        found.append(_projected(part, part.where.log_n, part.where.log_d, 2))
    for star in (4.0, 60.0, 1e6):
        log_d = effective(where.log_u, where.repetitions, np.log(np.array(star)))[0]
        found.append(_projected(problem, where.log_n, log_d, 1))
    return np.concatenate(found)


def _varies(where: Inputs, rows: np.ndarray) -> bool:
    return bool(np.ptp(where.log_n[rows]) > 0.5 and np.ptp(where.log_d[rows]) > 0.5)


def _rows(problem: FitProblem, rows: np.ndarray) -> FitProblem:
    """The problem on some of its rows."""
    where = problem.where
    part = Inputs(*(getattr(where, field.name)[rows] for field in dataclasses.fields(Inputs)))
    return dataclasses.replace(problem, where=part, log_loss=problem.log_loss[rows], fixed={})


def _with_half_lives(problem: FitProblem, five: Floats) -> Floats:
    """Add every pair of half-lives of the grid, each to the start that fits best with it."""
    lives = np.log(np.array([(d, n) for d in HALF_LIVES for n in HALF_LIVES]))
    both = np.concatenate(
        [np.repeat(five, len(lives), axis=0), np.tile(lives, (len(five), 1))], axis=1
    )
    plain = dataclasses.replace(problem, form=FORMS["data-constrained"])
    if problem.form.name == "coupled":
        plain = problem
    both = _with_fixed(plain, both) if problem.form.monotone else both
    error = plain.objective(both).reshape(len(five), len(lives))
    best: Floats = both[error.argmin(axis=0) * len(lives) + np.arange(len(lives))]
    return best


def _with_penalty(form: Form, starts: Floats) -> Floats:
    """Add K, gamma, kappa: a penalty of about 0.3 nats at R = 30 and N = U, of several shapes."""
    shapes = [(g, k) for g in (0.5, 1.2) for k in (0.3, 1.0)]
    extra = np.array([[np.log(0.3) - g * np.log(30.0), g, k] for g, k in shapes])
    thinned = starts if len(starts) <= 40 else starts[:: -(-len(starts) // 40)]
    return np.concatenate(
        [np.repeat(thinned, len(extra), axis=0), np.tile(extra, (len(thinned), 1))], axis=1
    )


def global_search(problem: FitProblem) -> tuple[Floats, Floats]:
    """All distinct minima found, best first: unconstrained constants [M, k] and objectives [M]."""
    starts = _search_starts(problem)
    if len(starts) > _KEEP:
        early = solve(problem, starts, rounds=_DEEPEN)
        order = np.argsort(early.objective, kind="stable")[:_KEEP]
        starts = early.constants[order]
    done = solve(problem, starts, rounds=120)
    return distinct(problem, done.constants, done.objective)


def distinct(
    problem: FitProblem, constants: Floats, objective: Floats, apart: float = 0.02
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
