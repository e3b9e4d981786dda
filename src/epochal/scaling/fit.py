"""Fit scaling laws to runs or to a table of points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from epochal.errors import UserError
from epochal.scaling.extrapolation import with_doubt
from epochal.scaling.first_fit import FitSettings
from epochal.scaling.fitting import Hold, fit_points
from epochal.scaling.from_runs import At, read_points
from epochal.scaling.law_files import read_hold
from epochal.scaling.level import plateau_notes
from epochal.scaling.points import Points, read_csv
from epochal.scaling.result import FitReport

Source = Points | str | Path | Sequence[str | Path]


def fit(
    source: Source,
    *,
    law: str = "data-constrained",
    hold: str | Path | Mapping[str, Any] | None = None,
    two_stage: bool = False,
    tie: bool = False,
    huber: float = 1e-3,
    residual: Literal["log", "loss"] = "log",
    bootstraps: int = 500,
    seed: int = 0,
    keep_overfitted: bool = False,
    rise: float | None = None,
    max_epochs: float | None = None,
    at: At = "final",
    force: bool = False,
    all_settings: bool = False,
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
) -> FitReport:
    """Fit a law to each family of runs; all is said of what was left out and what is not known.

    `source` is a CSV of points, run folders or folders that hold runs, or Points. `law` is one
    of chinchilla, data-constrained, overfitting, penalty and coupled, or "auto": chosen for each
    family by its error on runs held out (`scaling/choosing.py`). `hold` are constants that
    stay as they are: a file, {"E": 1.9} or {"ar": {"E": 1.9}}. `at` is "final" (each run's last
    evaluation) or "best". Of runs with equal size, length and unique tokens the best setting
    (dropout, weight decay, …) stays, unless `all_settings`. See docs/fit.md for the other settings.
    Raises DataError, RunError or UserError for points that are damaged, not comparable or cannot
    determine the law.
    """
    for name, value in (("--rise", rise), ("--max-epochs", max_epochs), ("--huber", huber)):
        if value is not None and not value > 0:
            raise UserError(f"{name} {value:g}: give a positive number")
    points = read_source(
        source, at=at, force=force, all_settings=all_settings, columns=columns, where=where
    )
    settings = FitSettings(
        law=law,
        tie=tie,
        delta=huber,
        residual=residual,
        bootstraps=bootstraps,
        seed=seed,
        keep_overfitted=keep_overfitted,
        max_epochs=max_epochs,
        two_stage=two_stage,
    )
    if rise is not None:
        settings = replace(settings, rise=rise)
    report = with_doubt(fit_points(points, settings, _hold(hold)))
    return replace(report, notes=[*report.notes, *plateau_notes(points)])


def read_source(
    source: Source,
    *,
    at: At = "final",
    force: bool = False,
    all_settings: bool = False,
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
) -> Points:
    """The points of a CSV file, of run folders, or Points as they are."""
    if isinstance(source, Points):
        return source
    places = [source] if isinstance(source, str | Path) else list(source)
    tables = [place for place in places if Path(place).suffix.lower() == ".csv"]
    if not tables:
        return read_points(places, at, force, all_settings)
    if len(places) > 1:
        raise UserError("give one CSV file, or run folders, not both and not several files")
    return read_csv(tables[0], columns, where, all_settings)


def _hold(hold: str | Path | Mapping[str, Any] | None) -> Hold | None:
    if hold is None:
        return None
    if isinstance(hold, str | Path):
        return read_hold(hold)
    per_family = {k: dict(v) for k, v in hold.items() if isinstance(v, Mapping)}
    return per_family | {"": {k: float(v) for k, v in hold.items() if not isinstance(v, Mapping)}}
