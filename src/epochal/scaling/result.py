"""What a fit gives: constants, intervals, minima, checks, and all that was left out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from epochal.estimates import Floats
from epochal.scaling.choose import Choice
from epochal.scaling.forms import Form, Inputs, constrain
from epochal.scaling.isoflop import IsoFlop
from epochal.scaling.law import SINGLE_EPOCH, ScalingLaw
from epochal.scaling.points import Dropped, Points
from epochal.scaling.solver import FitProblem, solve

Interval = tuple[float | None, float | None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FamilyFit(ScalingLaw):
    """A law fitted to one family's points."""

    objective: float
    """Σ of Huber terms."""
    intervals: dict[str, Interval]
    """95 %; an upper end of None is open, and both None: not identified."""
    constant_status: dict[str, str]
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
            "constant_status": self.constant_status,
            "minima": self.minima,
            "tied_exponents": self.tied,
            "held": self.held,
            "n_convention": self.points.n_convention,
            "sequence_length": self.sequence_length,
            "vocabulary": self.vocabulary,
            "doubt": self.extrapolation_error,
            "fitted_range": {name: list(ends) for name, ends in self.fitted_range.items()},
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


_TRADE_OFF = 1e3


def r_squared(seen: Floats, predicted: Floats) -> float:
    """R² of the loss; NaN where all losses are the same."""
    spread = ((seen - seen.mean()) ** 2).sum()
    return float(1 - ((predicted - seen) ** 2).sum() / spread) if spread > 0 else float("nan")


def condition_of(problem: FitProblem, constants: Floats) -> float:
    """Largest over smallest singular value of the gradient, its columns scaled to length 1."""
    _, matrix = problem.map()
    gradient = (matrix.T @ problem.residuals_with_gradient(constants[None])[1][0]).T
    lengths = np.linalg.norm(gradient, axis=0)
    if (lengths == 0).any():
        return float("inf")
    values = np.linalg.svd(gradient / lengths, compute_uv=False)
    return float(values[0] / values[-1]) if values[-1] > 0 else float("inf")


def held_out_check(problem: FitProblem, start: Floats, rows: Points) -> dict[str, Any] | None:
    """Fit without the largest budget: FLOPs above half of the most, up to a fifth of the rows."""
    order = np.argsort(-rows.flops, kind="stable")
    many = int((rows.flops >= 0.5 * rows.flops.max()).sum())
    out = order[: max(1, min(many, len(rows) // 5))]
    keep = np.setdiff1d(np.arange(len(rows)), out)
    if len(keep) <= len(problem.free) + 1:
        return None
    rest = rows.take(keep)
    part = dataclasses.replace(
        problem,
        where=Inputs.at(rest.params, rest.tokens, rest.unique_tokens),
        log_loss=np.log(rest.loss),
    )
    end = solve(part, start[None])
    law = ScalingLaw(family="", form=problem.form, theta=end.constants[0])
    said = law.predict(rows.params[out], rows.tokens[out], rows.unique_tokens[out])
    error = np.abs(said / rows.loss[out] - 1)
    return {
        "runs": [rows.run[i] for i in out],
        "flops_from": float(rows.flops[out].min()),
        "mean_relative_error": float(error.mean()),
        "largest_relative_error": float(error.max()),
        "bias": float((said / rows.loss[out] - 1).mean()),
    }


def fit_notes(
    problem: FitProblem,
    constants: Floats,
    rows: Points,
    residuals: Floats,
    form: Form,
) -> list[str]:
    """Warnings that belong to the numbers."""
    notes = []
    values = dict(zip(form.constants, constrain(form, constants), strict=True))
    if "E" in problem.free and values["E"] < 0.01:
        notes.append("E came out as nothing: the runs do not reach far enough to show a floor")
    condition = condition_of(problem, constants)
    if condition > _TRADE_OFF:
        notes.append(
            f"the constants trade off (condition {condition:.2g}): compare predictions and "
            "exponents, not A and B"
        )
    single = rows.epochs <= SINGLE_EPOCH
    if "R_D" in form.constants and "A" not in problem.free and single.sum() >= 3:
        offset = float(np.median(residuals[single]))
        if abs(offset) > 0.005:
            notes.append(
                f"at one epoch the held constants are off by {100 * offset:+.1f} %: they come from "
                "other runs, and the half-lives absorb the difference"
            )
    if "R_D" in problem.free and rows.epochs.max() < values["R_D"]:
        notes.append(
            f"R_D = {values['R_D']:.3g} lies beyond the longest run "
            f"({rows.epochs.max():.3g} epochs)"
        )
    budgets = np.unique(np.round(np.log(rows.unique_tokens), 2))
    if "R_D" in problem.free and len(budgets) == 1:
        notes.append("all runs have one number of unique tokens: another U is extrapolation")
    return notes
