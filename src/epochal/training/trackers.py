"""Where else a run's figures go: TensorBoard, Weights & Biases, trackio, MLflow.

All are optional, and none can harm the run: one that raises, at whatever moment, is named once and
dropped. What the run itself keeps is metrics.jsonl, always.
"""

from __future__ import annotations

import importlib
import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from epochal import files
from epochal.progress import say

Values = dict[str, float]


class Tracker(Protocol):
    """What a tracker has to do."""

    def log(self, values: Values, step: int) -> None:
        """Take figures, named like train/loss, of a step."""
        ...

    def close(self, status: str) -> None:
        """End: nothing more will come. `status` is the run's."""
        ...


class Trackers:
    """All trackers of a run, of which each may fail."""

    def __init__(
        self, names: tuple[str, ...], folder: Path, project: str, config: dict[str, Any]
    ) -> None:
        """`config` are the recipe's keys, as dotted names, and whatever else identifies the run."""
        self._live: dict[str, Tracker] = {}
        self._failures = 0
        for name in dict.fromkeys(names):
            start = _KINDS[name]
            try:
                self._live[name] = start(folder, project, config)
            except ImportError:
                say(f"nothing goes to {name}: it is not installed (pip install {name})")
            except (Exception, SystemExit) as error:
                self._report(name, error)

    @property
    def names(self) -> list[str]:
        """Trackers that have not failed."""
        return list(self._live)

    def line(self, kind: str, step: int, values: dict[str, Any]) -> None:
        """The numbers of a line of metrics.jsonl."""
        flat = dict(numbers(values, f"{kind}/"))
        self._each(lambda tracker: tracker.log(flat, step))

    def close(self, status: str) -> None:
        """End all."""
        self._each(lambda tracker: tracker.close(status))
        self._live.clear()

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._live.items()):
            try:
                call(tracker)
            except (Exception, SystemExit) as error:
                del self._live[name]
                self._report(name, error)

    def _report(self, name: str, error: BaseException) -> None:
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        say(f"the tracker {name} failed ({first}); the run goes on without it")


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
    try:
        known: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    if name not in known:
        known[name] = make()
        files.write_json(path, known)
    return known[name]


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
