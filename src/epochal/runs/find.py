"""Find run folders below a place, by one rule for every command, and list them."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from epochal.errors import RunError
from epochal.families import family_names, get_family
from epochal.runs.record import RunRecord, Status
from epochal.runs.summary import RunSummary, summarise

TUNE_FILE = "tune.json"
"""In a folder of runs that a tuning made: its result."""
Sort = Literal["run", "nll", "flops", "epochs", "params", "progress", "speed"]


def list_runs(
    places: Sequence[str | Path] = ("runs",),
    *,
    sort: Sort = "run",
    status: Collection[Status] = (),
    family: str | None = None,
) -> list[RunSummary]:
    """Every run among and below `places`, sorted by folder or by `sort`.

    `nll` puts the lowest NLL first, the others the largest value; runs without the value come
    last. `status` and `family` keep only such runs. Raises RunError for a place without runs and
    RecipeError for an unknown family.
    """
    if family is not None:
        get_family(family)
    records = [RunRecord(path) for path in sorted(find_runs(places))]
    records = [
        record
        for record in records
        if (not status or record.status in status) and family in (None, record.family)
    ]
    differing = _differing([record.info.get("identity", {}) for record in records])
    lines = [summarise(record, own) for record, own in zip(records, differing, strict=True)]
    return lines if sort == "run" else sorted(lines, key=lambda line: _sort_key(line, sort))


def _sort_key(line: RunSummary, sort: Sort) -> float:
    if sort == "nll":
        return math.inf if line.nll is None else line.nll
    value = line.tokens_per_second if sort == "speed" else getattr(line, sort)
    return math.inf if value is None else -float(value)


_COLUMNS = ("family", "model.size", "data.unique_tokens", "train.epochs")
"""Settings with a column of their own."""
_ABSENT = "unset"
_HASHES = ("corpus.", "distill.teachers")


def _differing(identities: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each run the settings in which they differ; a family's options count within the family."""
    differing: list[dict[str, Any]] = [{} for _ in identities]
    for key in sorted({key for identity in identities for key in identity} - set(_COLUMNS)):
        compared = list(zip(identities, differing, strict=True))
        section = key.partition(".")[0]
        if section in family_names():
            compared = [pair for pair in compared if pair[0].get("family") == section]
        values = [identity.get(key, _ABSENT) for identity, _ in compared]
        if all(value == values[0] for value in values):
            continue
        for value, (_, own) in zip(values, compared, strict=True):
            # The first letters of a hash are enough to distinguish corpora or teachers.
            own[key] = value[:8] if key.startswith(_HASHES) else value
    return differing


_DEPTH = 4  # levels of folders that are searched
_ARCHIVED = re.compile(r"\.old-[0-9]+$")


def find_runs(places: Sequence[str | Path], *, needed: bool = True) -> list[Path]:
    """Run folders among and below `places`, each once.

    Raises RunError for a place without any, unless they are not `needed`. Runs that a restart
    archived (`NAME.old-N`) are left out unless they are named themselves.
    """
    if needed and not places:
        raise RunError("give at least one run folder, or a folder that holds runs")
    runs: dict[Path, Path] = {}
    for place in map(Path, places):
        if (place / "run.json").is_file():
            below = [place]
        elif needed and not place.is_dir():
            raise RunError(
                f"there is no folder {place}; give a run's folder or one that holds runs"
            )
        else:
            below = sorted(_search(place))
        if needed and not below:
            raise RunError(
                f"the folder {place} holds no runs (a run has a run.json); train one there with "
                "`epochal train` or give another folder"
            )
        for path in below:
            runs.setdefault(path.resolve(), path)
    return list(runs.values())


def _search(place: Path) -> Iterator[Path]:
    for depth in range(1, _DEPTH + 1):
        for file in place.glob("*/" * depth + "run.json"):
            names = file.parent.relative_to(place).parts
            if not any(name.startswith(".") or _ARCHIVED.search(name) for name in names):
                yield file.parent
