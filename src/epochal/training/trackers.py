"""Where else a run's figures go: TensorBoard, Weights & Biases, trackio, MLflow.

All are optional, and none can harm the run: one that raises or hangs, at whatever moment, is named
once and dropped. What the run itself keeps is metrics.jsonl, always.
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
from typing import Any, Protocol

from epochal import files
from epochal.progress import say

Values = dict[str, float]
WAITING_LINES = 1000
"""A tracker that leaves so many lines unsent is dropped. This and the times are chosen by us."""
START_SECONDS = 15.0
CLOSE_SECONDS = 30.0
_PATIENCE_OF_MLFLOW = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
"""By itself it tries a server that is not there for minutes. What the user set stays."""
_ids = threading.Lock()
"""Trackers start side by side and share trackers.json."""


class Tracker(Protocol):
    """What a tracker has to do."""

    def log(self, values: Values, step: int) -> None:
        """Take figures, named like train/loss, of a step."""
        ...

    def close(self, status: str) -> None:
        """End: nothing more will come. `status` is the run's."""
        ...


class Trackers:
    """All trackers of a run, of which each may fail or hang."""

    def __init__(
        self, names: tuple[str, ...], folder: Path, project: str, config: dict[str, Any]
    ) -> None:
        """`config` are the recipe's keys, as dotted names, and whatever else identifies the run.

        Waits until each has started, but no longer than START_SECONDS in all.
        """
        self._senders = [
            _Sender(name, partial(_KINDS[name], folder, project, config))
            for name in dict.fromkeys(names)
        ]
        end = time.monotonic() + START_SECONDS
        for sender in self._senders:
            if not sender.started.wait(max(0.0, end - time.monotonic())):
                say(
                    f"the tracker {sender.name} has not started after {START_SECONDS:g} s; the run "
                    "goes on and keeps its figures for it"
                )

    @property
    def names(self) -> list[str]:
        """Trackers that have not failed."""
        return [sender.name for sender in self._senders if sender.alive]

    def line(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """The numbers of a line of metrics.jsonl."""
        flat = dict(numbers(values, f"{kind}/"))
        for sender in self._senders:
            sender.put(lambda tracker: tracker.log(flat, step))

    def close(self, status: str) -> None:
        """End all; wait for what they have not sent yet, but no longer than CLOSE_SECONDS."""
        for sender in self._senders:
            sender.put(lambda tracker: tracker.close(status))
            sender.put(None)
        end = time.monotonic() + CLOSE_SECONDS
        for sender in self._senders:
            sender.wait(max(0.0, end - time.monotonic()))
        self._senders = []


class _Sender:
    """Starts and serves one tracker in a thread of its own, so that the run never waits for it."""

    def __init__(self, name: str, start: Callable[[], Tracker]) -> None:
        self.name, self.alive = name, True
        self.started = threading.Event()
        self._calls: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(WAITING_LINES)
        context = copy_context()  # whether anything is shown
        work = partial(context.run, self._work, start)
        self._thread = threading.Thread(target=work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def put(self, call: Callable[[Tracker], None] | None) -> None:
        """Have it called soon; a tracker that leaves too many waiting is dropped."""
        if not self.alive:
            return
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            self._drop(f"{WAITING_LINES:,} lines wait for it")

    def wait(self, seconds: float) -> None:
        """Wait for the end of the thread; say so if it does not come."""
        if not self.alive:
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._drop(f"it did not end within {CLOSE_SECONDS:g} s")

    def _work(self, start: Callable[[], Tracker]) -> None:
        try:
            tracker = start()
            self.started.set()
            while self.alive and (call := self._calls.get()) is not None:
                call(tracker)
        except ImportError:
            self.alive = False
            say(f"nothing goes to {self.name}: it is not installed (pip install {self.name})")
        except (Exception, SystemExit) as error:
            first = str(error).strip().partition("\n")[0] or type(error).__name__
            self._drop(first)
        finally:
            self.started.set()

    def _drop(self, why: str) -> None:
        if self.alive:
            self.alive = False
            say(f"the tracker {self.name} failed ({why}); the run goes on without it")


def numbers(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers among `values`; those in lists and dictionaries by place or name."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from numbers(value, f"{prefix}{name}/")
        elif isinstance(value, list | tuple):
            yield from numbers(
                {str(place): one for place, one in enumerate(value)}, f"{prefix}{name}/"
            )
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield prefix + name, float(value)


def _kept_id(folder: Path, name: str, make: Callable[[], str]) -> str:
    """The run's id in a tracker, which a resumed run goes on with: in trackers.json."""
    path = folder / "trackers.json"
    known = _known_ids(path)
    if name not in known:
        made = make()
        with _ids:
            files.write_json(path, _known_ids(path) | {name: made})
        return made
    return known[name]


def _known_ids(path: Path) -> dict[str, str]:
    try:
        known: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known


class _TensorBoard:
    def __init__(self, folder: Path, project: str, config: dict[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def log(self, values: Values, step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, status: str) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, folder: Path, project: str, config: dict[str, Any]) -> None:
        wandb = importlib.import_module("wandb")
        self._run = wandb.init(
            project=project,
            name=folder.resolve().name,
            id=_kept_id(folder, "wandb", lambda: uuid.uuid4().hex[:16]),
            resume="allow",
            dir=str(folder),
            config=config,
        )

    def log(self, values: Values, step: int) -> None:
        self._run.log(values, step=step)

    def close(self, status: str) -> None:
        self._run.finish(exit_code=0 if status in ("finished", "stopped") else 1)


class _Trackio:
    def __init__(self, folder: Path, project: str, config: dict[str, Any]) -> None:
        trackio = importlib.import_module("trackio")
        name = folder.resolve().name
        made = _kept_id(folder, "trackio", lambda: f"{name}-{uuid.uuid4().hex[:6]}")
        self._trackio = trackio
        trackio.init(project=project, name=made, config=config, resume="allow")

    def log(self, values: Values, step: int) -> None:
        self._trackio.log(values, step=step)

    def close(self, status: str) -> None:
        self._trackio.finish()


class _MLflow:
    _AT_ONCE = 100
    """MLflow takes so many parameters in one call, each of up to 500 letters."""

    def __init__(self, folder: Path, project: str, config: dict[str, Any]) -> None:
        for name, value in _PATIENCE_OF_MLFLOW.items():
            os.environ.setdefault(name, value)
        self._mlflow = mlflow = importlib.import_module("mlflow")
        mlflow.set_experiment(project)
        fresh: list[str] = []

        def start() -> str:
            run = mlflow.start_run(run_name=folder.resolve().name)
            fresh.append(str(run.info.run_id))
            return fresh[0]

        known = _kept_id(folder, "mlflow", start)
        if not fresh:
            mlflow.start_run(run_id=known)
            return
        items = [(key, str(value)[:500]) for key, value in config.items()]
        for first in range(0, len(items), self._AT_ONCE):
            mlflow.log_params(dict(items[first : first + self._AT_ONCE]))

    def log(self, values: Values, step: int) -> None:
        self._mlflow.log_metrics(values, step=step)

    def close(self, status: str) -> None:
        ends = {"finished": "FINISHED", "stopped": "KILLED"}
        self._mlflow.end_run(status=ends.get(status, "FAILED"))


_KINDS: dict[str, Callable[[Path, str, dict[str, Any]], Tracker]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
    "trackio": _Trackio,
    "mlflow": _MLflow,
}
