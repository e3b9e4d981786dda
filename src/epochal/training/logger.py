"""What a run writes while it trains: run.json and metrics.jsonl; trackers get a copy."""

from __future__ import annotations

import json
from types import TracebackType
from typing import Any

from epochal import files
from epochal.errors import TrainingStopped
from epochal.recipe.schema import Log
from epochal.runs import RunFolder, Status, read_lines
from epochal.training.trackers import Trackers


class RunLogger:
    """Writes the record of one run; a context manager. Only that of rank 0 writes anything."""

    def __init__(self, folder: RunFolder, info: dict[str, Any], log: Log, main: bool) -> None:
        """`info` is the content of run.json without the status; `log` names the trackers; `main`:
        whether this is rank 0."""
        self.folder, self.info, self._main = folder, info, main
        names = (*(("tensorboard",) if log.tensorboard else ()), *log.trackers) if main else ()
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
        if self._main:
            self.info |= {"status": status, **more}
            self.folder.write_info(self.info)

    def drop_after(self, step: int) -> None:
        """Drop the lines of later steps; resuming writes them again, the same."""
        if not self._main:
            return
        path = self.folder.metrics_file
        lines = [line for line in read_lines(path) if line["step"] <= step]
        files.write_text(path, "".join(json.dumps(line) + "\n" for line in lines))

    def log(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Append one line to metrics.jsonl, and give its numbers to the trackers."""
        if not self._main:
            return
        path = self.folder.metrics_file
        with files.storage_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._trackers.log(kind, step, values)
