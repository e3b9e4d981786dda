"""Find run folders below a place: the one rule for every command."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from epochal.errors import RunError

DEPTH = 4
"""Levels of folders that are searched."""
_ARCHIVED = re.compile(r"\.old-[0-9]+$")


def find_runs(places: Sequence[str | Path]) -> list[Path]:
    """Run folders among and below `places`, each once. Raises RunError for a place without any.

    Runs that a restart archived (`NAME.old-N`) are left out unless they are named themselves.
    """
    if not places:
        raise RunError("give at least one run folder, or a folder that holds runs")
    runs: dict[Path, Path] = {}
    for place in map(Path, places):
        if (place / "run.json").is_file():
            below = [place]
        elif not place.is_dir():
            raise RunError(
                f"there is no folder {place}; give a run's folder or one that holds runs"
            )
        else:
            below = sorted(_search(place))
        if not below:
            raise RunError(
                f"the folder {place} holds no runs (a run has a run.json); train one there with "
                "`epochal train` or give another folder"
            )
        for path in below:
            runs.setdefault(path.resolve(), path)
    return list(runs.values())


def runs_below(places: Sequence[Path]) -> Iterator[Path]:
    """Run folders among and below `places`, each once; a place without any is skipped."""
    seen: set[Path] = set()
    for place in places:
        own = [place] if (place / "run.json").is_file() else []
        for path in (*own, *sorted(_search(place))):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                yield path


def _search(place: Path) -> Iterator[Path]:
    for depth in range(1, DEPTH + 1):
        for file in place.glob("*/" * depth + "run.json"):
            names = file.parent.relative_to(place).parts
            if not any(name.startswith(".") or _ARCHIVED.search(name) for name in names):
                yield file.parent
