"""Copies of a run's figures in TensorBoard, Weights & Biases, trackio or MLflow.

All are optional, and none can harm the run: a tracker that raises or hangs, at whatever moment,
is named once and dropped. The run's own log is metrics.jsonl, always.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from epochal import files
from epochal.progress import say

Values = dict[str, float]
WAITING_LINES = 1000
"""A tracker with more unsent lines than this is dropped. This and the times are chosen by us."""
START_SECONDS = 15.0
CLOSE_SECONDS = 30.0
_MLFLOW_PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""By default it tries a server that is down for minutes. The user's own settings stay."""
_MLFLOW_PARAMS = 100
"""MLflow takes this many parameters per call, each of up to 500 characters."""
_ids_lock = threading.Lock()
"""Trackers start side by side and share trackers.json."""


class _Tracker(NamedTuple):
    """A tracker that has started."""

    log: Callable[[Values, int], object]
    """Called with figures named like train/loss, and their step."""
    close: Callable[[str], object]
    """Called once at the end with the run's status."""


class Trackers:
    """All trackers of a run, each of which may fail or hang."""

    def __init__(
        self, names: tuple[str, ...], folder: Path, project: str, config: dict[str, Any]
    ) -> None:
        """`config`: recipe keys as dotted names, and whatever else identifies the run.

        Waits until each has started, at most START_SECONDS in all.
        """
        self._senders = [
            _Sender(name, partial(_START[name], folder, project, config))
            for name in dict.fromkeys(names)
        ]
        end = time.monotonic() + START_SECONDS
        for sender in self._senders:
            if not sender.started.wait(max(0.0, end - time.monotonic())):
                say(
                    f"the tracker {sender.name} has not started after {START_SECONDS:g} s; "
                    "training starts, and its figures are kept until it has"
                )

    def log(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """Send the numbers of a line of metrics.jsonl."""
        flat = dict(_numbers(values, f"{kind}/"))
        for sender in self._senders:
            sender.put(lambda tracker: tracker.log(flat, step))

    def close(self, status: str) -> None:
        """End all; wait for what they have not sent yet, at most CLOSE_SECONDS."""
        for sender in self._senders:
            sender.put(lambda tracker: tracker.close(status))
            sender.put(None)
        end = time.monotonic() + CLOSE_SECONDS
        for sender in self._senders:
            sender.wait(max(0.0, end - time.monotonic()))
        self._senders = []


class _Sender:
    """Starts and serves one tracker in a thread of its own, so that the run never waits for it."""

    def __init__(self, name: str, start: Callable[[], _Tracker]) -> None:
        self.name = name
        self.started = threading.Event()
        self._alive = True
        self._calls: queue.Queue[Callable[[_Tracker], object] | None] = queue.Queue(WAITING_LINES)
        work = partial(copy_context().run, self._work, start)  # whether messages are shown
        self._thread = threading.Thread(target=work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def put(self, call: Callable[[_Tracker], object] | None) -> None:
        """Queue a call; None ends the thread. A tracker with a full queue is dropped."""
        if not self._alive:
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._drop(f"{WAITING_LINES:,} lines wait for it")

    def wait(self, seconds: float) -> None:
        """Wait for the end of the thread; report it if it does not come."""
        if not self._alive:
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._drop(f"it did not end within {CLOSE_SECONDS:g} s")

    def _work(self, start: Callable[[], _Tracker]) -> None:
        try:
            tracker = start()
            self.started.set()
            while self._alive and (call := self._calls.get()) is not None:
                call(tracker)
        except ImportError:
            self._alive = False
            say(f"nothing goes to {self.name}: it is not installed (pip install {self.name})")
        except (Exception, SystemExit) as error:
            self._drop(str(error).strip().partition("\n")[0] or type(error).__name__)
        finally:
            self.started.set()

    def _drop(self, reason: str) -> None:
        if self._alive:
            self._alive = False
            say(f"the tracker {self.name} failed ({reason}); the run continues without it")


def _numbers(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers among `values`; those in lists and dictionaries by place or name."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, list | tuple):
            places = {str(place): item for place, item in enumerate(value)}
            yield from _numbers(places, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + name, float(value)


def _run_id(folder: Path, name: str, make: Callable[[], str]) -> tuple[str, bool]:
    """(the run's id in a tracker, whether it is new); trackers.json keeps it for a resume."""
    path = folder / "trackers.json"
    if name in (ids := _read_ids(path)):
        return ids[name], False
    new = make()
    with _ids_lock:
        files.write_json(path, _read_ids(path) | {name: new})
    return new, True


def _read_ids(path: Path) -> dict[str, str]:
    try:
        ids: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return ids


def _tensorboard(folder: Path, project: str, config: dict[str, Any]) -> _Tracker:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder / "tensorboard"))

    def log(values: Values, step: int) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return _Tracker(log, lambda status: writer.close())


def _wandb(folder: Path, project: str, config: dict[str, Any]) -> _Tracker:
    run = importlib.import_module("wandb").init(
        project=project,
        name=folder.resolve().name,
        id=_run_id(folder, "wandb", lambda: uuid.uuid4().hex[:16])[0],
        resume="allow",
        dir=str(folder),
        config=config,
    )
    return _Tracker(
        lambda values, step: run.log(values, step=step),
        lambda status: run.finish(exit_code=0 if status in ("finished", "stopped") else 1),
    )


def _trackio(folder: Path, project: str, config: dict[str, Any]) -> _Tracker:
    trackio = importlib.import_module("trackio")
    name = folder.resolve().name
    run_name, _ = _run_id(folder, "trackio", lambda: f"{name}-{uuid.uuid4().hex[:6]}")
    trackio.init(project=project, name=run_name, config=config, resume="allow")
    return _Tracker(
        lambda values, step: trackio.log(values, step=step), lambda status: trackio.finish()
    )


def _mlflow(folder: Path, project: str, config: dict[str, Any]) -> _Tracker:
    for name, value in _MLFLOW_PATIENCE.items():
        os.environ.setdefault(name, value)
    mlflow = importlib.import_module("mlflow")
    mlflow.set_experiment(project)
    run_name = folder.resolve().name
    run_id, new = _run_id(
        folder, "mlflow", lambda: str(mlflow.start_run(run_name=run_name).info.run_id)
    )
    if new:
        items = [(key, str(value)[:500]) for key, value in config.items()]
        for first in range(0, len(items), _MLFLOW_PARAMS):
            mlflow.log_params(dict(items[first : first + _MLFLOW_PARAMS]))
    else:
        mlflow.start_run(run_id=run_id)
    ends = {"finished": "FINISHED", "stopped": "KILLED"}
    return _Tracker(
        lambda values, step: mlflow.log_metrics(values, step=step),
        lambda status: mlflow.end_run(status=ends.get(status, "FAILED")),
    )


_START: dict[str, Callable[[Path, str, dict[str, Any]], _Tracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
    "mlflow": _mlflow,
}
