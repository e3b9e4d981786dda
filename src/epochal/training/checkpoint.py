"""Checkpoints: safetensors in a folder that is complete, with sums of its files, or not there.

    checkpoints/last-00000120/   model.safetensors, optimizer.safetensors, state.json, manifest.json
                                 (and ema.safetensors, where an average of the weights is kept)
    checkpoints/best-00000090/   model.safetensors, state.json, manifest.json

A folder is written under another name, synced and renamed; only then is the one before it
removed. So a kill or a full disk at any moment leaves a whole checkpoint. Nothing is pickled:
reading a file from a stranger runs no code of theirs.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from epochal import files
from epochal.errors import CheckpointError
from epochal.progress import say
from epochal.training.average import Average
from epochal.training.parallel.spread import place, whole
from epochal.training.parallel.world import World

_MODEL, _OPTIMIZER, _AVERAGE, _STATE, _MANIFEST = (
    "model.safetensors",
    "optimizer.safetensors",
    "ema.safetensors",
    "state.json",
    "manifest.json",
)


@dataclass(slots=True)
class TrainState:
    """How far a run is; with weights and optimizer, all that is needed to go on from there."""

    step: int = 0
    """Optimizer steps done; rows seen are step · global batch."""
    seconds: float = 0.0
    """Time spent in training so far, evaluations included."""
    best_step: int | None = None
    best_nll: float | None = None
    loss_sum: float = 0.0
    """Sum of the training loss since the last line in metrics.jsonl."""
    loss_steps: int = 0
    """Steps in that sum."""
    noise_sums: list[float] = field(default_factory=list)
    """Sums by noise level over the same steps (`NoiseSums`)."""
    norms: list[float] = field(default_factory=list)
    """Gradient norms of the last steps, against which a spike is measured."""
    faults: int = 0
    """Steps so far that were not taken."""
    faults_in_a_row: int = 0


def save(
    folder: Path,
    kind: str,
    state: TrainState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    average: Average | None = None,
    world: World | None = None,
) -> Path:
    """Write the checkpoint `<kind>-<step>` into `folder` and remove older ones of its kind.

    Called by all processes of `world` together: what is cut up is gathered, and the first one
    writes. Raises StorageError when it cannot be written; the one before is then still there.
    """
    world = World() if world is None else world
    weights = _model_tensors(model, world)
    moments = None if optimizer is None else _optimizer_tensors(model, optimizer, world)
    averaged = None if average is None else whole(average.weights, world)
    return world.first(lambda: _write(folder, kind, state, weights, moments, averaged))


def _write(
    folder: Path,
    kind: str,
    state: TrainState,
    weights: dict[str, Tensor],
    moments: dict[str, Tensor] | None,
    averaged: dict[str, Tensor] | None,
) -> Path:
    target = folder / f"{kind}-{state.step:08d}"
    temporary = folder / f".{target.name}.{os.getpid()}.tmp"
    with files.storage_errors(target):
        try:
            temporary.mkdir(parents=True)
            _save_tensors(temporary / _MODEL, weights)
            if moments is not None:
                _save_tensors(temporary / _OPTIMIZER, moments)
            if averaged is not None:
                _save_tensors(temporary / _AVERAGE, averaged)
            files.write_json(temporary / _STATE, asdict(state))
            sums = {path.name: files.sha256(path) for path in sorted(temporary.iterdir())}
            files.write_json(temporary / _MANIFEST, {"sha256": sums})
            if target.exists():  # left by a run that was killed after writing it
                shutil.rmtree(target)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    for older in _of_kind(folder, kind):
        if older != target:
            shutil.rmtree(older, ignore_errors=True)
    return target


def find(folder: Path, kind: str) -> Path | None:
    """The newest whole checkpoint of a kind; damaged ones are named and passed over.

    Returns None if there is none at all. Raises CheckpointError if all are damaged.
    """
    damaged = []
    for path in sorted(_of_kind(folder, kind), reverse=True):
        problem = _problem(path)
        if problem is None:
            return path
        say(f"checkpoint {path} is damaged ({problem}); looking for an older one")
        damaged.append(f"{path} ({problem})")
    if damaged:
        raise CheckpointError(
            f"no usable checkpoint: {'; '.join(damaged)}. Restore the files, or train anew with "
            "--restart"
        )
    return None


def find_to_go_on(folder: Path, step: int, *, exactly: bool = False) -> Path:
    """The whole checkpoint with an optimizer of this step, or else the last one before it.

    Raises CheckpointError, naming the steps that there are, if there is none.
    """
    paths = {
        int(path.name.rpartition("-")[2]): path
        for path in folder.glob("*-*")
        if re.fullmatch(r"\w+-\d+", path.name) and (path / _OPTIMIZER).exists()
    }
    fitting = [at for at in paths if at == step or (at < step and not exactly)]
    for at in sorted(fitting, reverse=True):
        if (problem := _problem(paths[at])) is None:
            return paths[at]
        say(f"checkpoint {paths[at]} is damaged ({problem})")
    there = ", ".join(f"{at:,}" for at in sorted(paths)) or "none"
    raise CheckpointError(
        f"{folder} has no usable checkpoint {'of' if exactly else 'up to'} step {step:,} to go on "
        f"from; there are those of steps: {there}"
    )


def all_of(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of every checkpoint folder of whatever kind, in order of steps."""
    found = [path for path in folder.glob("*-*") if re.fullmatch(r"\w+-\d+", path.name)]
    return sorted((int(path.name.rpartition("-")[2]), path) for path in found)


def at_step(folder: Path, step: int) -> Path | None:
    """A whole checkpoint of that step, of whatever kind; None if there is none."""
    paths = (path for number, path in all_of(folder) if number == step)
    return next((path for path in paths if _problem(path) is None), None)


def remove(folder: Path, kind: str) -> None:
    """Remove the checkpoints of a kind."""
    for path in _of_kind(folder, kind):
        shutil.rmtree(path, ignore_errors=True)


def find_newest(folder: Path, kinds: tuple[str, ...]) -> Path | None:
    """The newest whole checkpoint of several kinds; None and errors as with `find`."""
    found = [path for kind in kinds if (path := find(folder, kind)) is not None]
    return max(found, key=lambda path: load_state(path).step, default=None)


def clean(folder: Path) -> None:
    """Remove what a killed save left behind."""
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def load_state(path: Path) -> TrainState:
    """Progress of the checkpoint in folder `path`."""
    return TrainState(**json.loads((path / _STATE).read_text(encoding="utf-8")))


def load_model(path: Path, model: nn.Module) -> None:
    """Fill `model` from the checkpoint. Raises CheckpointError where shapes do not fit."""
    _fill(path, model, _load_tensors(path / _MODEL))


def _fill(path: Path, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    own = model.state_dict()
    problems = [
        f"{name}: {_shape(tensors.get(name))} instead of {_shape(own.get(name))}"
        for name in sorted(own.keys() | tensors.keys())
        if _shape(own.get(name)) != _shape(tensors.get(name))
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{path} holds the weights of another model: {'; '.join(problems[:3])}{more}"
        )
    with torch.no_grad():
        for name, weight in own.items():
            place(weight, tensors[name])


def _shape(tensor: Tensor | None) -> list[int] | None:
    return None if tensor is None else list(tensor.shape)


def load_average(path: Path, model: nn.Module) -> None:
    """Fill `model` with the averaged weights. Raises CheckpointError if there are none."""
    if not (path / _AVERAGE).exists():
        raise CheckpointError(
            f"{path} holds no average of the weights; it is kept by a run with `train.ema` set, "
            "for example train.ema=0.999"
        )
    _fill(path, model, _load_tensors(path / _AVERAGE))


def load_training(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None
) -> None:
    """Fill all that a run needs to go on from the checkpoint."""
    load_model(path, model)
    load_optimizer(path, model, optimizer)
    if average is not None:
        with average.shown():
            load_average(path, model)


def load_optimizer(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Fill the optimizer's moments from the checkpoint."""
    tensors = _load_tensors(path / _OPTIMIZER)
    for name, weight in model.named_parameters():
        optimizer.state[weight] = {
            key: _place(tensors[f"{key}:{name}"], weight, key)
            for key in ("step", "exp_avg", "exp_avg_sq")
        }


def _place(tensor: Tensor, weight: Tensor, key: str) -> Tensor:
    """Fused AdamW keeps its step count on the weight's device, in float32."""
    if key == "step":
        return tensor.to(weight.device, torch.float32)
    moment = torch.empty_like(weight, requires_grad=False)
    place(moment, tensor)
    return moment


def _of_kind(folder: Path, kind: str) -> list[Path]:
    return [path for path in folder.glob(f"{kind}-*") if re.fullmatch(r"\w+-\d+", path.name)]


def _problem(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        sums: dict[str, str] = manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{_MANIFEST} is missing or unreadable"
    for name, expected in sums.items():
        file = path / name
        if not file.exists():
            return f"{name} is missing"
        if files.sha256(file) != expected:
            return f"{name} does not have the content that was saved"
    return None


def _model_tensors(model: nn.Module, world: World) -> dict[str, Tensor]:
    return whole(model.state_dict(), world)


def _optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, world: World
) -> dict[str, Tensor]:
    return whole(moments(model, optimizer), world)


def moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by names like "exp_avg:blocks.0.attention.query.weight"."""
    return {
        f"{key}:{name}": value.detach()
        for name, weight in model.named_parameters()
        for key, value in optimizer.state[weight].items()
    }


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        # The library gives the operating system's error as text only.
        code = re.search(r"code: (\d+)", str(error))
        raise OSError(int(code[1]) if code else errno.EIO, str(error)) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _load_tensors(path: Path) -> dict[str, Any]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
