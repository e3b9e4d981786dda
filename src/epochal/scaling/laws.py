"""Scaling laws as estimators, in scikit-learn's manner.

    law = DataConstrained().fit(X, y)      # X: params, tokens, unique_tokens; y: loss
    law.constants_["R_D"], law.intervals_["R_D"], law.predict(X)

The constructor stores its arguments unchanged, `fit` returns the estimator, and what it finds
ends in an underscore. Losses are nats per token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np

from epochal.errors import UserError
from epochal.estimates import Floats
from epochal.scaling.first_fit import FitSettings
from epochal.scaling.fitting import fit_family
from epochal.scaling.forms import FORMS
from epochal.scaling.known import KnownLaw, known_law
from epochal.scaling.points import make_points
from epochal.scaling.problem import HUBER_DELTA
from epochal.scaling.result import FamilyFit


class ScalingLaw:
    """Base of the laws below."""

    law: ClassVar[str]
    """Name of the formula in forms.py."""
    fit_: FamilyFit
    """All that the fit found."""
    known_: KnownLaw

    def __init__(
        self,
        *,
        tie: bool = False,
        delta: float = HUBER_DELTA,
        residual: Literal["log", "loss"] = "log",
        hold: Mapping[str, float] | None = None,
        bootstraps: int = 500,
        seed: int = 0,
    ) -> None:
        """`tie`: β = α. `delta`: Huber's, infinite for squares. `hold`: constants as they are."""
        self.tie = tie
        self.delta = delta
        self.residual = residual
        self.hold = hold
        self.bootstraps = bootstraps
        self.seed = seed

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The constructor's arguments, by name."""
        names = ("tie", "delta", "residual", "hold", "bootstraps", "seed")
        return {name: getattr(self, name) for name in names}

    def set_params(self, **params: Any) -> Self:
        """Change arguments of the constructor. Raises UserError for an unknown name."""
        for name, value in params.items():
            if name not in self.get_params():
                raise UserError(f"{type(self).__name__} has no setting {name!r}")
            setattr(self, name, value)
        return self

    def fit(self, X: Any, y: Any, groups: Sequence[object] | None = None) -> Self:
        """Fit to X [n, 3] (params, tokens, unique tokens) or [n, 2], and losses y [n].

        `groups` names each point's run: points of one run are resampled together. All points
        are used, overfitted ones too. Raises DataError where they cannot determine the law.
        """
        x = np.asarray(X, dtype=float)
        if x.ndim != 2 or x.shape[1] not in (2, 3):
            raise UserError(f"X has the shape {x.shape}; it should be [n, 2] or [n, 3]")
        points = make_points(
            x[:, 0],
            x[:, 1],
            x[:, 2] if x.shape[1] == 3 else None,
            y,
            run=None if groups is None else [str(g) for g in groups],
        )
        settings = FitSettings(
            law=self.law,
            tie=self.tie,
            delta=self.delta,
            residual=self.residual,
            bootstraps=self.bootstraps,
            seed=self.seed,
            keep_overfitted=True,
            max_epochs=float("inf"),
        )
        self.fit_ = fit_family(points, "ar", FORMS[self.law], settings, self.hold)
        self.known_ = self.fit_
        return self

    @classmethod
    def from_constants(cls, **constants: float | None) -> Self:
        """A law with known constants, ready to predict. Raises UserError."""
        law = cls()
        law.known_ = known_law(cls.law, constants)
        return law

    @property
    def constants_(self) -> dict[str, float | None]:
        """The constants by name; None: not identified."""
        return self.known_.constants

    @property
    def intervals_(self) -> dict[str, tuple[float | None, float | None]]:
        """95 % intervals of the constants."""
        return self.fit_.intervals

    @property
    def objective_(self) -> float:
        """Σ of Huber terms."""
        return self.fit_.objective

    @property
    def minima_(self) -> list[dict[str, float]]:
        """Every minimum within 1 % of the lowest."""
        return self.fit_.minima

    def predict(self, X: Any) -> Floats:
        """Losses [n] at X [n, 3] or [n, 2]."""
        return self.known_.predict(*np.asarray(X, dtype=float).T)

    def predict_interval(self, X: Any) -> tuple[Floats, Floats]:
        """95 % intervals of the predictions."""
        return self.known_.predict_interval(*np.asarray(X, dtype=float).T)

    def score(self, X: Any, y: Any) -> float:
        """R² of the predictions."""
        seen = np.asarray(y, dtype=float)
        spread = ((seen - seen.mean()) ** 2).sum()
        return float(1 - ((self.predict(X) - seen) ** 2).sum() / spread)


class Chinchilla(ScalingLaw):
    """L = E + A/N^α + B/D^β (Hoffmann et al. 2022)."""

    law = "chinchilla"


class DataConstrained(ScalingLaw):
    """The same in effective parameters and tokens (Muennighoff et al. 2023)."""

    law = "data-constrained"


class Overfitting(ScalingLaw):
    """The data-constrained law with a penalty on repetition; can turn up again. Ours."""

    law = "overfitting"


class Penalty(ScalingLaw):
    """The Chinchilla law with the same penalty. Ours."""

    law = "penalty"


class Coupled(ScalingLaw):
    """Parameters and data coupled as by Kaplan et al. 2020, with effective quantities."""

    law = "coupled"
