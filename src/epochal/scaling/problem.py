"""A fit as a problem: points, residuals, which constants are free, tied or held.

Residual of a point: log of the prediction minus log of the loss seen (or, on request, their
plain difference). Objective: the sum of Huber terms, ½r² up to δ and δ·(|r| − ½δ) beyond
(Hoffmann et al. 2022: δ = 1e-3 on the logarithm).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from epochal.estimates import Floats
from epochal.scaling.forms import BOUNDS, Form, Where, predict, predict_with_gradient

HUBER_DELTA = 1e-3
"""Of Hoffmann et al. 2022, kept by all later fits."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is minimised."""

    form: Form
    where: Where
    log_loss: Floats
    delta: float = HUBER_DELTA
    """Huber's δ; infinite gives least squares."""
    residual: Literal["log", "loss"] = "log"
    tie: bool = False
    """β = α."""
    held: Mapping[str, float] = field(default_factory=dict)
    """Inner values of constants that stay as they are."""

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
            if name not in self.held and not (self.tie and name == "beta")
        ]

    def map(self) -> tuple[Floats, Floats]:
        """(p0 [k], M [k, m]): inner constants p = p0 + M·q of the free ones q.

        Besides holding and tying, q is centred: its A and B are the terms' sizes at the middle
        of log N and log D, so that they hardly depend on the exponents (the raw problem is
        very badly conditioned).
        """
        names, free = self.form.constants, self.free
        base, matrix = np.zeros(len(names)), np.zeros((len(names), len(free)))
        for name, value in self.held.items():
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
        """Inner constants [..., k] → q [..., m]."""
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
