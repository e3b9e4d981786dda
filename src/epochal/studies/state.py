"""The state of a study, `state.json`: the time used, and what it decided."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from epochal import files
from epochal.errors import RunError
from epochal.report.study import Stage
from epochal.results import Note
from epochal.studies.probes import Costs, Layout

FORMAT = 1
"""Of state.json; the first version did not write it."""


class StudyState:
    """The time that a study has used over all its sessions, and what it decided, in a file."""

    def __init__(self, path: Path, budget: float) -> None:
        """`budget` in seconds. Raises RunError for a file that is damaged or of another version."""
        self.path, self.budget = path, budget
        self.values: dict[str, Any] = _read(path) if path.exists() else {}
        self.stages: list[Stage] = []
        self._before = float(self.values.get("used", 0.0))
        self._start = time.monotonic()

    @property
    def used(self) -> float:
        """Seconds used so far."""
        return self._before + time.monotonic() - self._start

    @property
    def left(self) -> float:
        """Seconds of the budget that are left; negative if it is overdrawn."""
        return self.budget - self.used

    @property
    def costs(self) -> Costs | None:
        """The measured costs, once they are."""
        kept = self.values.get("costs")
        return None if kept is None else _read_costs(kept)

    def save(self, **more: Any) -> None:
        """Write the time used, and more values."""
        self.values |= more | {"used": self.used, "format": FORMAT}
        files.write_json(self.path, self.values)

    def decide(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was decided before for this budget, else what `make` decides now, which is kept.

        So a study that resumes does the same.
        """
        kept = self.values.get(key)
        if kept is None or kept["budget"] != self.budget:
            kept = {"budget": self.budget, **make()}
            self.save(**{key: kept})
        return dict(kept)

    def add_stage(self, name: str, began: float, outcome: Note) -> None:
        """Note a stage that is done; it `began` at that time.monotonic()."""
        self.stages.append(Stage(name, round(time.monotonic() - began, 1), outcome))


def _read(path: Path) -> dict[str, Any]:
    """state.json, checked as far as it is used."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        version = values.get("format", 1)
        if version == FORMAT:
            float(values.get("used", 0.0))
            float(values.get("factor", 1.0))
            if "costs" in values:
                _read_costs(values["costs"])
            for key, part in (("ladder", "layout"), ("tune", "seconds"), ("check", "flops")):
                if key in values:
                    float(values[key]["budget"])
                    Layout(**values[key][part]) if part == "layout" else float(values[key][part])
            return dict(values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"is damaged ({type(error).__name__}: {error})"
    else:
        problem = f"has format {version!r}, this version reads {FORMAT}"
    raise RunError(
        f"{path} {problem}; delete it and run the command again: finished runs are kept, the time "
        "used is counted from 0"
    )


def _read_costs(kept: Mapping[str, Any]) -> Costs:
    speeds = {(str(f), str(size)): float(s) for f, size, s in kept["seconds_per_token"]}
    return Costs(speeds, float(kept["overhead"]), float(kept["evaluation_tokens"]))
