"""The state of a sweep: one entry per run, kept in `sweep.json` beside the runs.

runs/isoflop/
    sweep.json              what was asked for and what became of each run
    recipes/NAME.toml       recipe of each run
    logs/NAME.log           what the run's processes printed
    NAME/                   the run's record
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from epochal import files
from epochal.errors import RunError

State = Literal[
    "waiting", "training", "evaluating", "finished", "failed", "stopped", "ended early", "left out"
]
DONE: tuple[State, ...] = ("finished", "failed", "ended early", "left out")
"""States in which nothing more is done with a run by itself."""


@dataclass(slots=True, kw_only=True)
class RunState:
    """One run of a sweep and what became of it."""

    name: str
    family: str
    run_dir: str
    """Where the record is; a run of another sweep if that had the same run."""
    identity: str
    """Hash of the recipe's identity, corpus not included."""
    steps: int | None = None
    """Length of the run, where it is known."""
    state: State = "waiting"
    why: str = ""
    """For runs that failed, were ended early or left out; and where a run was taken from."""
    attempts: int = 0
    exit_code: int | None = None
    nll: float | None = None
    """Best validation NLL: evaluated if it is, else the one seen in training."""
    seconds: float = 0.0
    """Spent by the processes of this run, in all sittings."""
    after: list[str] = field(default_factory=list)
    """Names of runs that must be finished first."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """Names of the files of a sweep."""

    path: Path

    @property
    def record_file(self) -> Path:
        """What became of the runs."""
        return self.path / "sweep.json"

    def run_dir(self, name: str) -> Path:
        """The run's own folder."""
        return self.path / name

    def recipe_file(self, name: str) -> Path:
        """The run's recipe, as its process reads it."""
        return self.path / "recipes" / f"{name}.toml"

    def log_file(self, name: str) -> Path:
        """What the run's processes printed."""
        return self.path / "logs" / f"{name}.log"

    def write(self, name: str, states: list[RunState]) -> None:
        """Keep `sweep.json`."""
        counts: dict[str, int] = {}
        for state in states:
            counts[state.state] = counts.get(state.state, 0) + 1
        content = {
            "format": 1,
            "sweep": name,
            "states": counts,
            "runs": [state.as_dict() for state in states],
        }
        files.write_json(self.record_file, content)

    def read(self) -> dict[str, RunState]:
        """Name → state at the last writing; empty before. Raises RunError if damaged."""
        if not self.record_file.exists():
            return {}
        known = {one.name for one in fields(RunState)}
        try:
            content = json.loads(self.record_file.read_text(encoding="utf-8"))
            runs = [
                RunState(**{key: value for key, value in run.items() if key in known})
                for run in content["runs"]
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"{self.record_file} is damaged ({error}); delete it and run the command again, "
                "the runs themselves tell what is done"
            ) from None
        return {run.name: run for run in runs}

    def log_tail(self, name: str, lines: int = 8) -> list[str]:
        """The last lines that the run's processes printed."""
        path = self.log_file(name)
        if not path.exists():
            return []
        text = path.read_text(encoding="utf-8", errors="replace")
        return [line for line in text.splitlines() if line.strip()][-lines:]
