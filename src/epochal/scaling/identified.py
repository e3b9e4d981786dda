"""Which constants a fit's points determine, by the gradient of its residuals at the minimum."""

from __future__ import annotations

import numpy as np

from epochal.estimates import Floats
from epochal.scaling.forms.form import FitProblem
from epochal.scaling.joint import JointProblem

_NO_EFFECT = 1e-4
"""A constant that changes no prediction by this share when it is multiplied by e (an exponent: plus
1) may have any value below, or beyond."""
_SINGULAR = 1e-6
"""Share of the largest singular value below which a direction leaves all predictions alone."""
_PART = 0.3  # of a direction of length 1, from which a constant takes part in it


def condition_of(problem: FitProblem | JointProblem, constants: Floats) -> float:
    """Largest over smallest singular value of the gradient, its columns scaled to length 1."""
    gradient = _gradient(problem, constants)
    lengths = np.linalg.norm(gradient, axis=0)
    if (lengths == 0).any():
        return float("inf")
    values = np.linalg.svd(gradient / lengths, compute_uv=False)
    return float(values[0] / values[-1]) if values[-1] > 0 else float("inf")


def unidentified(problem: FitProblem | JointProblem, constants: Floats) -> tuple[str, ...]:
    """Free constants without effect on any point, and those that trade off exactly.

    `constants` [k] are those of the minimum. E is never named: a floor of nearly 0 says that the
    runs do not show one.
    """
    gradient, names = _gradient(problem, constants), np.array(problem.free)
    flat = (np.abs(gradient) < _NO_EFFECT).all(axis=0)
    scaled = gradient[:, ~flat] / np.linalg.norm(gradient[:, ~flat], axis=0)
    _, values, directions = np.linalg.svd(scaled, full_matrices=True)
    sizes = np.zeros(len(directions))
    sizes[: len(values)] = values
    free = directions[sizes < _SINGULAR * sizes.max(initial=0.0)]
    traded = names[~flat][(np.abs(free) > _PART).any(axis=0)]
    lost = {*names[flat].tolist(), *traded.tolist()} - {"E"}
    return tuple(name for name in problem.free if name in lost)


def _gradient(problem: FitProblem | JointProblem, constants: Floats) -> Floats:
    """Of the residuals by the free constants, centred, [points, free]."""
    _, matrix = problem.map()
    gradient: Floats = (matrix.T @ problem.residuals_with_gradient(constants[None])[1][0]).T
    return gradient
