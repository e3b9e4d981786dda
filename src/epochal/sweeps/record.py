"""The state of a sweep: one entry per run, kept in `sweep.json` beside the runs.

runs/isoflop/
    sweep.json              the state of each run
    recipes/NAME.toml       recipe of each run
    logs/NAME.log           output of the run's processes
    NAME/                   the run's record
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from epochal import files
from epochal.data.corpus import open_corpus
from epochal.errors import RunError
from epochal.recipe import Recipe
from epochal.recipe.renames import old_names
from epochal.results import Note, NoteCode, note, to_json
from epochal.runs import RunFolder, RunRecord
from epochal.runs.find import find_runs
from epochal.runs.teachers import run_identity


class FinishedRuns:
    """Finished runs below some folders, found by the settings that decide their numbers."""

    def __init__(self, places: Sequence[Path]) -> None:
        """Read every run record below `places`; damaged and archived ones are left out."""
        self._found: dict[str, list[Path]] = {}
        for path in find_runs(places, needed=False):
            info = _info(path)
            if info.get("status") == "finished" and isinstance(info.get("identity"), dict):
                self._found.setdefault(_recipe_hash(info["identity"]), []).append(path)

    def find(self, recipe: Recipe) -> Path | None:
        """Folder of a finished run with this recipe's identity and the same corpus, or None.

        The corpus is only hashed where a run has the recipe's identity. Raises DataError if it is
        missing.
        """
        candidates = self._found.get(recipe_hash(recipe), [])
        if not candidates:
            return None
        wanted = open_corpus(recipe.data).identity()
        for path in candidates:
            info = _info(path)
            if "start" in info and recipe.train.start_from is None:
                continue  # its recipe does not give the steps of its trunk's warm-up
            stored = info["identity"]
            if all(stored.get(key) == value for key, value in wanted.items()):
                return path
        return None


def recipe_hash(recipe: Recipe, version_0_1: bool = False) -> str:
    """Hash of the settings that decide a run's numbers, without the corpus.

    `version_0_1`: from the keys' names in that version, as its sweep.json has it.
    """
    values = run_identity(recipe)
    return _recipe_hash(old_names(values) if version_0_1 else values)


def needs_evaluation(record: RunRecord) -> bool:
    """Whether the best checkpoint has not been evaluated yet."""
    result = record.evaluation("best")
    best = (record.info.get("best") or {}).get("step")
    return result is None or (best is not None and result.step != best)


def _recipe_hash(values: dict[str, Any]) -> str:
    return files.sha256_json(
        {key: value for key, value in values.items() if not key.startswith("corpus.")}
    )


def _info(path: Path) -> dict[str, Any]:
    try:
        return RunFolder(path).read_info() or {}
    except (RunError, OSError):
        return {}


FORMAT = 2
"""Of sweep.json. Format 1 had the reason as a sentence, `why`."""


class State(StrEnum):
    """What a run of a sweep is doing, or how it ended."""

    WAITING = "waiting"
    TRAINING = "training"
    EVALUATING = "evaluating"
    FINISHED = "finished"
    FAILED = "failed"
    STOPPED = "stopped"
    ENDED_EARLY = "ended_early"
    LEFT_OUT = "left_out"


DONE = (State.FINISHED, State.FAILED, State.ENDED_EARLY, State.LEFT_OUT)
"""A run in one of these states is not started again without `retry`."""


class RunReason(NoteCode):
    """Why a run is in its state."""

    TRAINING_FAILED = "training_failed"
    """Values: exit_code, negative for a signal."""
    EVALUATION_FAILED = "evaluation_failed"
    """Values: exit_code."""
    TRUNK_NOT_FINISHED = "trunk_not_finished"
    """Values: trunk."""
    BRANCHES_FINISHED = "branches_finished"
    SAME_RUN = "same_run"
    """Finished in another folder. Values: run_dir."""
    NO_TIME = "no_time"
    VALIDATION_ROSE = "validation_rose"
    """Values: nll, step, best, best_step."""
    FAR_BEHIND = "far_behind"
    """Values: nll, share, rival, rival_nll."""
    EARLIER_VERSION = "earlier_version"
    """The sentence in a file of format 1. Values: text."""


@dataclass(slots=True, kw_only=True)
class RunState:
    """One run of a sweep and its state."""

    name: str
    family: str
    run_dir: str
    """Where the record is: in another sweep's folder if that had the same run."""
    identity: str
    """Hash of the recipe's identity without the corpus."""
    steps: int | None = None
    """Length of the run; None where it is not known."""
    state: State = State.WAITING
    reason: Note | None = None
    """Why it failed, was ended early or left out; where it was found if not in its own folder."""
    attempts: int = 0
    exit_code: int | None = None
    nll: float | None = None
    """Best validation NLL in nats per token: evaluated, else as seen in training."""
    seconds: float = 0.0
    """Spent by the processes of this run, over all sessions."""
    after: list[str] = field(default_factory=list)
    """Names of runs that must be finished first."""


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """Names of the files of a sweep."""

    path: Path

    @property
    def record_file(self) -> Path:
        """The states of the runs."""
        return self.path / "sweep.json"

    def run_dir(self, name: str) -> Path:
        """The run's own folder."""
        return self.path / name

    def recipe_file(self, name: str) -> Path:
        """The run's recipe, as its process reads it."""
        return self.path / "recipes" / f"{name}.toml"

    def log_file(self, name: str) -> Path:
        """Output of the run's processes."""
        return self.path / "logs" / f"{name}.log"

    def write(self, name: str, states: list[RunState]) -> None:
        """Write `sweep.json`."""
        content = {
            "format": FORMAT,
            "sweep": name,
            "states": Counter(state.state.value for state in states),
            "runs": states,
        }
        files.write_json(self.record_file, to_json(content))

    def read(self) -> dict[str, RunState]:
        """Name → state in `sweep.json`; empty before the first. Also reads format 1.

        Raises RunError for a file that is damaged or of another version.
        """
        if not self.record_file.exists():
            return {}
        try:
            content = json.loads(self.record_file.read_text(encoding="utf-8"))
            version = content["format"]
            if version in (1, FORMAT):
                return {run["name"]: _state(run) for run in content["runs"]}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problem = f"is damaged ({type(error).__name__}: {error})"
        else:
            problem = f"has format {version!r}, this version reads 1 and {FORMAT}"
        raise RunError(
            f"{self.record_file} {problem}; delete it and run the command again: which runs are "
            "finished is read from their own folders"
        )

    def log_tail(self, name: str) -> list[str]:
        """The last lines that the run's processes printed."""
        path = self.log_file(name)
        if not path.exists():
            return []
        text = path.read_text(encoding="utf-8", errors="replace")
        return [line for line in text.splitlines() if line.strip()][-8:]


def _state(run: Mapping[str, Any]) -> RunState:
    """One entry of sweep.json; keys that are not known are left out."""
    known = {key: run[key] for key in (one.name for one in fields(RunState)) if key in run}
    known["state"] = State(str(known["state"]).replace(" ", "_"))
    reason = known.pop("reason", None)
    if reason is not None:
        known["reason"] = Note(RunReason(reason["code"]), reason["values"])
    elif run.get("why"):
        known["reason"] = note(RunReason.EARLIER_VERSION, text=str(run["why"]))
    return RunState(**known)
