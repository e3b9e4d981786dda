"""What a fit gives: constants, intervals, minima, checks, and all that was left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from epochal.estimates import Floats
from epochal.scaling.choosing import Choice
from epochal.scaling.isoflop import IsoFlop
from epochal.scaling.known import KnownLaw
from epochal.scaling.points import Dropped, Points

Interval = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FamilyFit(KnownLaw):
    """A law fitted to one family's points."""

    objective: float
    """Σ of Huber terms."""
    intervals: dict[str, Interval]
    """95 %; an upper end of None is open, and both None: not identified."""
    statements: dict[str, str]
    """What is to be said of constants that are held, open or not identified."""
    minima: list[dict[str, float]]
    """Every minimum within 1 % of the lowest objective: its constants and `objective`."""
    profiles: dict[str, list[tuple[float, float]]]
    """(value, objective) of half-lives held there, all others fitted again."""
    points: Points
    """The points of the fit."""
    predicted: Floats
    residuals: Floats
    """log predicted − log seen."""
    dropped: list[Dropped]
    r2: float
    """Of the loss."""
    condition: float
    """Of the scaled gradient in centred variables: 1 is best, above 1e3 constants trade off."""
    held_out: dict[str, Any] | None
    """The same law fitted without the largest budget, and its errors there."""
    tied: bool
    held: list[str]
    isoflop: IsoFlop | None
    notes: list[str]
    choice: Choice | None = None
    """Why it is this law, where it was not given."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "law": self.form.name,
            "choice": None if self.choice is None else self.choice.as_dict(),
            "constants": self.constants,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()},
            "objective": self.objective,
            "rows": len(self.points),
            "r2": _finite(self.r2),
            "condition": _finite(self.condition),
            "half_life": self.half_life,
            "statements": self.statements,
            "minima": self.minima,
            "tied_exponents": self.tied,
            "held": self.held,
            "n_convention": self.points.n_convention,
            "sequence_length": self.sequence_length,
            "vocabulary": self.vocabulary,
            "doubt": self.doubt,
            "fitted_range": {name: list(ends) for name, ends in self.fitted.items()},
            "held_out": self.held_out,
            "isoflop": self.isoflop.as_dict() if self.isoflop else None,
            "residuals": [
                {
                    "run": run,
                    "params": n,
                    "tokens": d,
                    "unique_tokens": u,
                    "val_loss": seen,
                    "predicted": said,
                }
                for run, n, d, u, seen, said in zip(
                    self.points.run,
                    self.points.params.tolist(),
                    self.points.tokens.tolist(),
                    self.points.unique_tokens.tolist(),
                    self.points.loss.tolist(),
                    self.predicted.tolist(),
                    strict=True,
                )
            ],
            "dropped": [d.as_dict() for d in self.dropped],
            "notes": self.notes,
        }


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FitReport:
    """Fits of all families of a set of points."""

    law: str
    """As asked for; with "auto" each family has its own, `form.name`."""
    families: dict[str, FamilyFit]
    refused: dict[str, str]
    """Families whose points cannot determine the law, and why."""
    settings: dict[str, Any]
    """Law, residual, δ, exponents tied, constants held, bootstraps, seed, rules for rows."""
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "law": self.law,
            "families": {name: fit.as_dict() for name, fit in self.families.items()},
            "refused": self.refused,
            "settings": self.settings,
            "notes": self.notes,
        }

    def save(self, path: str | Path) -> None:
        """Write the laws, with their resamples, to a .toml or .json file for `epochal plan`."""
        from epochal.scaling.law_files import write_laws

        write_laws(path, list(self.families.values()), self.settings)


def _finite(value: float) -> float | None:
    """JSON knows no NaN and no infinity."""
    return value if np.isfinite(value) else None


def range_of(points: Points) -> dict[str, tuple[float, float]]:
    """Smallest and largest of each quantity of the points."""
    columns = {
        "params": points.params,
        "tokens": points.tokens,
        "unique_tokens": points.unique_tokens,
        "flops": points.flops,
        "epochs": points.epochs,
    }
    return {name: (float(np.min(v)), float(np.max(v))) for name, v in columns.items()}
