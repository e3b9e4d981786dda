"""Losses of ensembles by the number of members: from `epochal eval --ensemble`, or a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from epochal.errors import DataError, UserError
from epochal.estimates import Floats
from epochal.runs import RunRecord, parse_run_checkpoint
from epochal.scaling.law import read_table
from epochal.scaling.options import FitOptions
from epochal.scaling.points import Points
from epochal.scaling.read import FOR_CSV, FOR_RUNS, Source, refuse
from epochal.scaling.table import check_header, column_names, read_family, read_number, read_rows

_COLUMNS = ("params", "members", "unique_tokens", "val_loss")
_Row = tuple[str, float, float, float, float]
"""Family, N, K, U, loss."""


@dataclass(frozen=True, slots=True, eq=False)
class Ensembles:
    """Ensembles as points: N and U are those of each member, the loss is the ensemble's."""

    points: Points
    """Its tokens are not known, and NaN."""
    members: Floats
    """K of each; 1: a single model."""


def read_ensembles(source: Source, options: FitOptions) -> Ensembles:
    """Ensembles of a CSV file, or of JSON files that `epochal eval --ensemble --json` printed.

    A CSV has the columns params, members, unique_tokens, val_loss and, optionally, family. A JSON
    file gives the ensemble, those of 2, 3, … of its members, and each of them as an ensemble of
    one. Raises UserError for
    other sources, and for results of several kinds of average or validation sets.
    """
    places = [source] if isinstance(source, str | Path) else source
    if isinstance(places, Points):
        raise UserError("points have no number of members; give a CSV file or JSON files")
    paths = [Path(place) for place in places]
    kinds = {path.suffix.lower() for path in paths}
    if kinds == {".csv"} and len(paths) == 1:
        refuse(options, FOR_RUNS, "a CSV file; it needs run folders")
        return _from_csv(paths[0], options)
    if kinds != {".json"}:
        raise UserError(
            "the law ensemble needs one CSV file with a column members, or JSON files of `epochal "
            "eval RUN RUN --ensemble --json`"
        )
    refuse(options, (*FOR_RUNS, *FOR_CSV), "results of ensembles")
    return _from_results(paths)


def _from_csv(path: Path, options: FitOptions) -> Ensembles:
    names = column_names(options.columns, (*_COLUMNS, "family"))
    header, rows = read_rows(path)
    check_header(path, header, names, options.where, _COLUMNS)
    rows = [(n, r) for n, r in rows if all(r.get(k) == v for k, v in options.where.items())]
    if not rows:
        raise DataError(f"{path} holds no rows")
    found: list[_Row] = []
    for number, row in rows:
        n, k, u, loss = (read_number(path, number, names[name], row) for name in _COLUMNS)
        found.append((read_family(path, number, row.get(names["family"])), n, k, u, loss))
    return _ensembles(found)


def _from_results(paths: Sequence[Path]) -> Ensembles:
    rows: list[_Row] = []
    alone: dict[str, _Row] = {}
    kinds = set()
    for path in paths:
        content = read_table(path)
        try:
            whole, names = content["ensemble"], content["names"]
            places = {_place(path, name) for name in names}
            if len(places) > 1:
                raise DataError(f"{path}: its members differ in size or unique tokens")
            (params, unique) = places.pop()
            kinds.add((content["average"], whole["validation_sha256"]))
            family = str(whole["family"])
            loss = float(whole["nll_nats_per_token"])
            rows.append((family, params, float(len(names)), unique, loss))
            for rung in content["ladder"]:
                if rung["average"] == content["average"] and 1 < rung["members"] < len(names):
                    loss = float(rung["nll_nats_per_token"])
                    rows.append((family, params, float(rung["members"]), unique, loss))
            for name, member in zip(names, content["members"], strict=True):
                loss = float(member["nll_nats_per_token"])
                alone[name] = (family, params, 1.0, unique, loss)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path} is not the JSON of `epochal eval --ensemble` ({error!r})"
            ) from None
    if len(kinds) > 1:
        raise DataError(
            "the ensembles differ in what is averaged, or in the validation tokens; give results "
            "of one kind"
        )
    return _ensembles([*rows, *alone.values()])


def _place(path: Path, name: str) -> tuple[float, float]:
    """(N, U) of a member's run. Raises RunError if it is not there."""
    numbers: Mapping[str, Any] = RunRecord(parse_run_checkpoint(name)[0]).numbers
    return float(numbers["params"]), float(numbers["unique_tokens"])


def _ensembles(rows: Sequence[_Row]) -> Ensembles:
    families, *columns = zip(*rows, strict=True)
    n, k, u, loss = (np.array(column, dtype=float) for column in columns)
    names = [f"row {number + 1}" for number in range(len(rows))]
    unknown = np.full(len(rows), np.nan)
    points = Points(n, unknown, u, loss, list(families), names, [""] * len(rows))
    return Ensembles(points, k)
