"""What a run writes while it trains: run.json and metrics.jsonl; trackers get a copy."""

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


class RunLogger:
    """Writes the record of one run; a context manager."""

    def __init__(self, folder: RunFolder, info: dict[str, Any], log: Log | None = None) -> None:
        """`info` is the content of run.json without the status; `log` names the trackers."""
        self.folder = folder
        self.info = info
        log = log or Log(tensorboard=False)
        names = (*(("tensorboard",) if log.tensorboard else ()), *log.trackers)
        config = info.get("identity", {}) | info.get("numbers", {})
        self._trackers = Trackers(names, folder.path, log.project, config)

    def __enter__(self) -> RunLogger:
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

    def drop_after(self, step: int) -> None:
        """Drop the lines of later steps; resuming writes them again, the same."""
        path = self.folder.metrics_file
        lines = [line for line in read_lines(path) if line["step"] <= step]
        files.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))

    def log(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl, and give its numbers to the trackers."""
        path = self.folder.metrics_file
        with files.storage_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._trackers.log(kind, step, values)


class NullLogger(RunLogger):
    """Writes nothing; for the processes of a run other than rank 0."""

    def status(self, status: Status, **more: Any) -> None:
        """Do nothing."""

    def drop_after(self, step: int) -> None:
        """Do nothing."""

    def log(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Do nothing."""


def check_same_run(folder: RunFolder, old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether `new` differs from the folder's identity `old` in keys that may change on resume
    (`on_nan`, `on_spike` of a run that has stopped at every fault so far).

    Raises RunError, naming what differs, if it is the identity of another run.
    """
    differing = differing_keys(old, new)
    if not differing:
        return old != new
    changes = ", ".join(f"`{key}` {old.get(key)!r} → {new.get(key)!r}" for key in differing[:4])
    more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
    raise RunError(
        f"{folder.path} holds a run with other settings: {changes}{more}. Give this run another "
        "folder with run_dir=…, or add --restart to archive the existing run and start over"
    )
