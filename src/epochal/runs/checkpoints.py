"""Which checkpoints a run's folder holds, and which of them are complete; no weights are read.

`training/checkpoint.py` writes and reads them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from epochal import files
from epochal.errors import CheckpointError
from epochal.progress import hidden, say
from epochal.runs.record import RunRecord

MODEL, OPTIMIZER, AVERAGE = "model.safetensors", "optimizer.safetensors", "ema.safetensors"
SHARDS = "shards"
"""Folder of a checkpoint that many processes wrote in parts."""
STATE, MANIFEST = "state.json", "manifest.json"
_OLD_KINDS = {"stop": "interrupt", "kept": "permanent"}
"""Names that version 0.1 gave to kinds."""
_OTHER = {"best": "last", "last": "best"}
"""The checkpoint to try where one cannot be read."""


def find(folder: Path, *kinds: str) -> Path | None:
    """The newest complete checkpoint of these kinds; damaged ones are reported and skipped. Those
    of kind `permanent` count as `last`.

    Returns None if there is none at all. Raises CheckpointError if all are damaged.
    """
    damaged = []
    kinds += ("permanent",) if "last" in kinds else ()
    paths = [path for kind in kinds for path in of_kind(folder, kind)]
    for path in sorted(paths, key=lambda path: kind_and_step(path)[1], reverse=True):
        problem = _problem(path)
        if problem is None:
            return path
        say(f"checkpoint {path} is damaged ({problem}); looking for an older one")
        damaged.append(f"{path} ({problem})")
    if damaged:
        raise CheckpointError(
            f"no usable checkpoint: {'; '.join(damaged)}. Restore the files, or start over with "
            "--restart"
        )
    return None


def find_resumable(folder: Path, step: int, *, exactly: bool = False) -> Path:
    """The complete checkpoint with an optimizer of this step, or else the last one before it.

    Raises CheckpointError, naming the steps that exist, if there is none.
    """
    resumable = (OPTIMIZER, SHARDS)
    paths = [
        one for one in list_checkpoints(folder) if any((one[1] / x).exists() for x in resumable)
    ]
    for at, path in reversed(paths):
        if at == step or (at < step and not exactly):
            if (problem := _problem(path)) is None:
                return path
            say(f"checkpoint {path} is damaged ({problem})")
    steps = ", ".join(f"{at:,}" for at in sorted({at for at, _ in paths})) or "none"
    raise CheckpointError(
        f"{folder} has no usable checkpoint {'of' if exactly else 'up to'} step {step:,} to resume "
        f"from; there are checkpoints of steps: {steps}"
    )


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of all checkpoint folders of any kind, in order of steps."""
    paths = [path for path in folder.glob("*-*") if re.fullmatch(r"\w+-\d+", path.name)]
    return sorted((kind_and_step(path)[1], path) for path in paths)


def checkpoint_at(folder: Path, name: str) -> Path | None:
    """A complete checkpoint by its step, as "4000" or, of a certain kind, "permanent-4000".

    None if there is none, or if `name` is no such name.
    """
    kind, _, number = name.rpartition("-")
    for step, path in list_checkpoints(folder) if number.isdecimal() else ():
        fits = not kind or kind_and_step(path)[0] == _OLD_KINDS.get(kind, kind)
        if fits and step == int(number) and _problem(path) is None:
            return path
    return None


def find_weights(record: RunRecord, name: str | None) -> Path:
    """Folder of a run's checkpoint. Raises CheckpointError naming what there is instead."""
    folder = record.folder.checkpoints
    if name is not None and name not in ("best", "last", "ema"):
        if (path := checkpoint_at(folder, name)) is not None:
            return path
        steps = sorted({step for step, _ in list_checkpoints(folder)})
        known = ", ".join(["best", "last", *(f"{step}" for step in steps)])
        raise CheckpointError(
            f"the run {record.path} has no checkpoint {name!r}; there are: {known}"
        )
    for wanted in ("last" if name == "ema" else name,) if name else ("best", "last"):
        try:
            path = find(folder, wanted)
        except CheckpointError as error:
            if not _is_there(folder, _OTHER[wanted]):
                raise
            hint = f"; or read another: --checkpoint {_OTHER[wanted]}"
            raise CheckpointError(f"{error}{hint}") from None
        if path is not None:
            return path
    other = _OTHER.get(name or "")
    hint = f"; try the checkpoint `{other}`" if other else ""
    raise CheckpointError(
        f"the run {record.path} has no {name or 'usable'} checkpoint{hint}, or train on with "
        "`epochal train` until one is saved"
    )


def kind_and_step(path: Path) -> tuple[str, int]:
    """(kind, step) of a checkpoint's folder, the kind under today's name."""
    kind, _, step = path.name.rpartition("-")
    return _OLD_KINDS.get(kind, kind), int(step)


def of_kind(folder: Path, kind: str) -> list[Path]:
    """Checkpoint folders of a kind, in order of steps."""
    return [path for _, path in list_checkpoints(folder) if kind_and_step(path)[0] == kind]


def _problem(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        sums = dict(manifest["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} is missing or unreadable"
    for name, expected in sums.items():
        file = path / name
        if not file.exists():
            return f"{name} is missing"
        if files.sha256(file) != expected:
            return f"{name} does not have the content that was saved"
    return None


def _is_there(folder: Path, kind: str) -> bool:
    with hidden():
        try:
            return find(folder, kind) is not None
        except CheckpointError:
            return False
