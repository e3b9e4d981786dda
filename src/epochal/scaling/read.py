"""Points from run folders or from a CSV file.

A run gives one point: its last evaluation, at the end of its schedule. Evaluations before the end
of a decaying schedule are not points, since a run planned shorter would have been better
there. `at="best"` takes each run's best evaluation instead, with the tokens seen by then,
for runs whose learning rate does not decay.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from epochal.errors import DataError, OptionError, RecipeError, RunError, UserError
from epochal.families import family_names
from epochal.recipe import recipe_tree
from epochal.results import Note, note
from epochal.runs import RunRecord
from epochal.runs.comparable import check_comparable
from epochal.runs.find import find_runs
from epochal.scaling.options import At, FitOptions
from epochal.scaling.points import (
    Candidate,
    Dropped,
    DropReason,
    ParamsConvention,
    Points,
    PointsNote,
    dominated_settings,
    setting_of,
)
from epochal.scaling.recipes import recipe_labels
from epochal.scaling.table import check_header, column_names, read_family, read_number, read_rows

_COLUMNS = ("params", "tokens", "unique_tokens", "val_loss")
_REQUIRED = ("params", "tokens", "val_loss")
_OPTIONAL = ("family", "seed", "run", "setting", "recipe")
Source = Points | str | Path | Sequence[str | Path]
FOR_RUNS = ("at", "force")
"""Options that need run folders."""
FOR_CSV = ("columns", "where")
"""Options that need a CSV file."""


@dataclass(frozen=True, slots=True)
class Table:
    """All points of a source, before some are left out as no setting to choose."""

    points: Points
    candidates: Sequence[Candidate]
    """One per point."""

    def best(self, within_recipes: bool = False) -> Points:
        """The points of each family's best setting, or of each recipe's; the others as dropped."""
        reasons = dominated_settings(self.candidates, within_recipes)
        points = self.points
        rest = points.take(np.array([i not in reasons for i in range(len(points))], dtype=bool))
        dropped = [points.drop(index, reason) for index, reason in sorted(reasons.items())]
        return replace(rest, notes=points.notes, dropped=[*points.dropped, *dropped])


def read_all(source: Source, options: FitOptions) -> Table:
    """The points of a CSV file or of run folders, or Points as they are, with all settings.

    Raises OptionError for an option that the kind of source does not take.
    """
    if isinstance(source, Points):
        refuse(options, (*FOR_RUNS, *FOR_CSV, "all_settings"), "points that are already read")
        return Table(source, ())
    places = [source] if isinstance(source, str | Path) else list(source)
    tables = [place for place in places if Path(place).suffix.lower() == ".csv"]
    if not tables:
        refuse(options, FOR_CSV, "run folders; it needs a CSV file")
        return _read_runs(places, options.at, options.force)
    if len(places) > 1:
        raise UserError("give one CSV file, or run folders, not both and not several files")
    refuse(options, FOR_RUNS, "a CSV file; it needs run folders")
    return _read_table(tables[0], options.columns, options.where)


def refuse(options: FitOptions, names: Sequence[str], source: str) -> None:
    """Raise OptionError for one of `names` that is not at its default."""
    for name in names:
        if (value := getattr(options, name)) != getattr(FitOptions(), name):
            raise OptionError(name, value, f"has no effect on {source}")


def read_points(
    places: Sequence[str | Path],
    at: At = "final",
    force: bool = False,
    all_settings: bool = False,
) -> Points:
    """The points of the runs among and below `places`.

    Runs that diverged, are still running or ended early are dropped, and so are runs whose setting
    is not the best at their size, length and unique tokens, unless `all_settings`. Raises RunError
    for a place without runs, and for runs with several validation sets, vocabularies or
    sequence lengths unless `force`.
    """
    table = _read_runs(places, at, force)
    return table.points if all_settings else table.best()


def _read_runs(places: Sequence[str | Path], at: At, force: bool) -> Table:
    """All points of the runs among and below `places`."""
    records = [RunRecord(path) for path in find_runs(places)]
    if not force:
        hint = "give runs with one corpus, tokenizer and sequence length, or set force"
        check_comparable(records, hint)
    rows: list[_Row] = []
    dropped: list[Dropped] = []
    trunks = _trunks(records) if at == "final" else {}
    for record in records:
        row = _point(record, at, trunks)
        if isinstance(row, Dropped):
            dropped.append(row)
        else:
            rows.append(row)
    if not rows:
        examples = "; ".join(f"{d.run}: {d.reason.code}" for d in dropped[:3])
        raise RunError(f"none of the {len(records)} runs gives a point ({examples})")
    n, d, u, loss = (np.array([getattr(r, c) for r in rows], dtype=float) for c in _COLUMNS)
    recipes = recipe_labels([r.family for r in rows], [(Path(r.run), r.setting) for r in rows])
    points = Points(
        n,
        d,
        u,
        loss,
        family=[r.family for r in rows],
        run=[r.run for r in rows],
        seed=[r.seed for r in rows],
        n_convention=ParamsConvention.PAPER,
        dropped=dropped,
        notes=_notes(rows, at),
        sequence_length=_same(row.sequence_length for row in rows),
        vocabulary=_same(row.vocabulary for row in rows),
        recipes={row.run: row.recipe for row in rows if row.recipe is not None},
        recipe=recipes,
    )
    candidates = [
        Candidate(r.family, r.params, r.planned, r.unique_tokens, r.val_loss, r.setting, recipe)
        for r, recipe in zip(rows, recipes, strict=True)
    ]
    return Table(points, candidates)


def _trunks(records: Sequence[RunRecord]) -> dict[str, str]:
    """Identity of each run that others start from → the name of one of these."""
    starts = ((record.info.get("start"), record.path.name) for record in records)
    return {start["identity_sha256"]: name for start, name in starts if start}


@dataclass(frozen=True, slots=True)
class _Row:
    """One run's point."""

    params: float
    tokens: float
    unique_tokens: float
    val_loss: float
    family: str
    run: str
    seed: str
    sequence_length: int | None
    vocabulary: int | None
    recipe: Mapping[str, Any] | None
    evaluated: bool
    """Whether the loss comes from `epochal eval`, not from the evaluation during training."""
    planned: float
    """Tokens of the whole run."""
    setting: Mapping[str, Any]


def _notes(rows: Sequence[_Row], at: At) -> list[Note]:
    notes = [note(PointsNote.BEST_EVALUATIONS)] if at == "best" else []
    if count := sum(not row.evaluated for row in rows):
        notes.append(note(PointsNote.TRAINING_EVALUATIONS, count=count, total=len(rows)))
    return notes


def _same(values: Iterable[int | None]) -> int | None:
    """The value that all have, or None."""
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


def _point(record: RunRecord, at: At, trunks: Mapping[str, str]) -> _Row | Dropped:
    numbers = record.numbers
    params, unique = float(numbers["params"]), float(numbers["unique_tokens"])
    tokens = float(numbers["flops"]) / (6 * params)
    lines = [line for line in record.metrics("eval") if _loss(line) < math.inf]

    def out(code: DropReason, **values: Any) -> Dropped:
        reason = note(code, **values)
        return Dropped(str(record.path), record.family, params, tokens, unique, None, reason)

    if record.status == "diverged":
        return out(DropReason.DIVERGED)
    if at == "final" and record.status != "finished":
        return out(DropReason.NOT_FINISHED, status=record.status)
    if branch := trunks.get(str(record.info.get("identity_sha256"))):
        return out(DropReason.BRANCHED_FROM, branch=branch)
    if not lines:
        return out(DropReason.NO_FINITE_LOSS)
    chosen = min(lines, key=_loss) if at == "best" else lines[-1]
    step = int(chosen["step"])
    loss, evaluated = _loss(chosen), False
    for checkpoint in ("best", "last"):
        result = record.evaluation(checkpoint)
        if result is not None and result.step == step and result.estimator != "paper":
            loss, evaluated = result.nll_nats_per_token, True
    if not 0 < loss < math.inf:
        return out(DropReason.LOSS_NOT_POSITIVE, loss=loss)
    return _Row(
        params,
        tokens * step / int(numbers["steps"]),
        unique,
        loss,
        record.family,
        str(record.path),
        str(record.info.get("identity", {}).get("seed", "")),
        record.numbers.get("sequence_length"),
        record.numbers.get("vocabulary"),
        _recipe(record),
        evaluated,
        tokens,
        setting_of(record.info.get("identity", {})),
    )


def _recipe(record: RunRecord) -> dict[str, Any] | None:
    """The run's recipe as plain tables; None if it has unknown keys."""
    try:
        return recipe_tree(record.recipe)
    except RecipeError:
        return None


def _loss(line: dict[str, Any]) -> float:
    value = line.get("nll_nats_per_token")
    return float(value) if value is not None and math.isfinite(float(value)) else math.inf


def read_csv(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
    all_settings: bool = False,
) -> Points:
    """The points of a CSV file with a header.

    Columns: params, tokens, val_loss; unique_tokens (missing: every row is one epoch), family
    (missing: the first of the list), seed, run, setting and recipe. Of rows that share all numbers
    but the loss the best setting and recipe stays, unless `all_settings`. `columns` maps these
    names to the file's own; `where` keeps only rows whose column has that text. Counts may be
    written like 100M. Raises DataError naming the row for a value that is not a positive number.
    """
    table = _read_table(path, columns, where)
    return table.points if all_settings else table.best()


def _read_table(
    path: str | Path,
    columns: Mapping[str, str] | None,
    where: Mapping[str, str] | None,
) -> Table:
    """All points of a CSV file."""
    path = Path(path)
    renamed = column_names(columns, (*_COLUMNS, *_OPTIONAL))
    header, rows = read_rows(path)
    check_header(path, header, renamed, where or {}, _REQUIRED)
    rows = [(n, r) for n, r in rows if all(r.get(k) == v for k, v in (where or {}).items())]
    if not rows:
        raise DataError(
            f"{path} holds no rows"
            + (" with " + ", ".join(f"{k}={v}" for k, v in where.items()) if where else "")
        )
    values: dict[str, list[float]] = {name: [] for name in _COLUMNS}
    texts: dict[str, list[str]] = {name: [] for name in _OPTIONAL}
    single = renamed["unique_tokens"] not in header
    for number, row in rows:
        for name in _COLUMNS:
            source = "tokens" if name == "unique_tokens" and single else name
            values[name].append(read_number(path, number, renamed[source], row))
        texts["family"].append(read_family(path, number, row.get(renamed["family"])))
        texts["seed"].append(row.get(renamed["seed"]) or "")
        texts["run"].append(row.get(renamed["run"]) or f"row {number}")
        texts["setting"].append(row.get(renamed["setting"]) or "none")
        texts["recipe"].append(row.get(renamed["recipe"]) or "")
    notes = []
    if single:
        notes.append(note(PointsNote.SINGLE_EPOCH_ASSUMED, file=path.name))
    if renamed["family"] not in header:
        default = family_names()[0]
        notes.append(note(PointsNote.FAMILY_ASSUMED, file=path.name, family=default))
    n, d, u, loss = (np.array(values[name]) for name in _COLUMNS)
    points = Points(
        n,
        d,
        u,
        loss,
        texts["family"],
        texts["run"],
        texts["seed"],
        notes=notes,
        recipe=texts["recipe"],
    )
    named = ("setting", "recipe") if renamed["recipe"] in header else ("setting",)
    candidates = [
        Candidate(
            texts["family"][i],
            float(n[i]),
            float(d[i]),
            float(u[i]),
            float(loss[i]),
            {name: texts[name][i] for name in named},
            texts["recipe"][i],
        )
        for i in range(len(n))
    ]
    return Table(points, candidates)
