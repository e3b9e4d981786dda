"""What a run writes down while it goes on: run.json and metrics.jsonl; trackers get a copy."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

from epochal import files
from epochal.errors import RunError, TrainingStopped
from epochal.recipe.load import differing_keys
from epochal.recipe.schema import Log
from epochal.runs import RunFolder, Status, read_lines
from epochal.training.trackers import Trackers


class Journal:
    """Keeps the record of one run; use it as a context manager."""

    def __init__(self, folder: RunFolder, info: dict[str, Any], log: Log | None = None) -> None:
        """`info` is the content of run.json, but for the status; `log` names the trackers."""
        self.folder = folder
        self.info = info
        names = (
            () if log is None else (*(("tensorboard",) if log.tensorboard else ()), *log.trackers)
        )
        config = info.get("identity", {}) | info.get("numbers", {})
        self._trackers = Trackers(names, folder.path, log.project if log else "", config)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ended = error is None or isinstance(error, TrainingStopped)
        self._trackers.close(str(self.info.get("status")) if ended else "failed")

    def status(self, status: Status, **more: Any) -> None:
        """Write run.json with a new status and whatever else is known by now."""
        self.info |= {"status": status, **more}
        self.folder.write_info(self.info)

    def rewind(self, step: int) -> None:
        """Drop the lines of later steps: they will be written again, the same."""
        path = self.folder.metrics_file
        lines = [line for line in read_lines(path) if line["step"] <= step]
        files.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))

    def line(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl, and give its numbers to the trackers."""
        path = self.folder.metrics_file
        with files.storage_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._trackers.line(kind, step, values)


class NoJournal(Journal):
    """For the processes of a run that leave writing to the first one."""

    def __init__(self, folder: RunFolder, info: dict[str, Any]) -> None:
        super().__init__(folder, info)

    def status(self, status: Status, **more: Any) -> None:
        """Write nothing."""

    def rewind(self, step: int) -> None:
        """Leave the file alone."""

    def line(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Write nothing."""


def check_same_run(folder: RunFolder, old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether `new` is the identity of the folder's run but for what may change: what is done
    about faults, in a run that has so far stopped at them.

    Raises RunError, naming what differs, if it is that of another run.
    """
    differing = differing_keys(old, new)
    if not differing:
        return old != new
    changes = ", ".join(f"`{key}` {old.get(key)!r} → {new.get(key)!r}" for key in differing[:4])
    more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
    raise RunError(
        f"{folder.path} holds a run with other settings: {changes}{more}. Give this one another "
        "place with run_dir=…, or add --restart to put the old run aside and start anew"
    )
