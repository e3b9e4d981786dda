"""Checkpoints: safetensors in a folder that is complete, with sums of its files, or not there.

    checkpoints/last-00000120/   model.safetensors, optimizer.safetensors, state.json, manifest.json
                                 (and ema.safetensors, where an average of the weights is kept)
    checkpoints/best-00000090/   model.safetensors, state.json, manifest.json

Of a run on many processes `last` is written in parts (`epochal.training.sharded`); any number
of processes reads either form. A folder is written under another name, synced and renamed;
only then is the one before it removed. So a kill or a full disk at any moment leaves a whole
checkpoint. Nothing in these files can run code: reading one from a stranger is safe.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
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
from epochal.training import sharded
from epochal.training.average import Average
from epochal.training.parallel.parallelize import place, whole
from epochal.training.parallel.world import World
from epochal.training.sharded import SHARDS

_MODEL, _OPTIMIZER, _AVERAGE, _STATE, _MANIFEST = (
    "model.safetensors",
    "optimizer.safetensors",
    "ema.safetensors",
    "state.json",
    "manifest.json",
)
_ASIDE = ".old.tmp"


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
    keep: int | None = 1,
) -> Path:
    """Write the checkpoint `<kind>-<step>` into `folder`; of its kind only the newest `keep`
    (None: all) stay.

    Called by all processes of `world` together: what is cut up is gathered, and the first one
    writes. Raises StorageError when it cannot be written; the one before is then still there.
    """
    world = World() if world is None else world
    weights = whole(model.state_dict(), world)
    moments = None if optimizer is None else _optimizer_tensors(model, optimizer, world)
    averaged = None if average is None else whole(average.weights, world)
    return world.first(lambda: _write(folder, kind, state, weights, moments, averaged, keep))


def _write(
    folder: Path,
    kind: str,
    state: TrainState,
    weights: dict[str, Tensor],
    moments: dict[str, Tensor] | None,
    averaged: dict[str, Tensor] | None,
    keep: int | None,
) -> Path:
    target, temporary = places(folder, kind, state.step, str(os.getpid()))
    with files.storage_errors(target):
        try:
            temporary.mkdir(parents=True)
            save_tensors(temporary / _MODEL, weights)
            if moments is not None:
                save_tensors(temporary / _OPTIMIZER, moments)
            if averaged is not None:
                save_tensors(temporary / _AVERAGE, averaged)
            commit(target, temporary, state_text(state), keep)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def places(folder: Path, kind: str, step: int, writer: str) -> tuple[Path, Path]:
    """(the checkpoint's folder, where `writer` makes it)."""
    target = folder / f"{kind}-{step:08d}"
    return target, folder / f".{target.name}.{writer}.tmp"


def state_text(state: TrainState) -> str:
    """Content of state.json."""
    return json.dumps(asdict(state), indent=2, allow_nan=False) + "\n"


def commit(target: Path, temporary: Path, state: str, keep: int | None) -> None:
    """Make the checkpoint written in `temporary` the one in `target`, with sums of its files,
    and remove those that are too many. Raises StorageError."""
    with files.storage_errors(target):
        files.write_text(temporary / _STATE, state)
        found = sorted(path for path in temporary.rglob("*") if path.is_file())
        sums = {path.relative_to(temporary).as_posix(): files.sha256(path) for path in found}
        files.write_json(temporary / _MANIFEST, {"sha256": sums})
        # One of this step is put aside, not removed: a kill in between loses nothing (`clean`).
        aside = target.with_name(f".{target.name}{_ASIDE}")
        if target.exists():
            target.rename(aside)
        temporary.rename(target)
        files.sync(target.parent)
        shutil.rmtree(aside, ignore_errors=True)
    kind = target.name.rpartition("-")[0]
    if kind == "last":
        for path in _of_kind(target.parent, "stop"):
            shutil.rmtree(path, ignore_errors=True)
    if keep is not None:
        older = [path for path in sorted(_of_kind(target.parent, kind)) if path != target]
        for path in older[: max(0, len(older) - keep + 1)]:
            shutil.rmtree(path, ignore_errors=True)


def find(folder: Path, kind: str) -> Path | None:
    """The newest whole checkpoint of a kind; damaged ones are named and passed over. Those
    `kept` for good count as `last`.

    Returns None if there is none at all. Raises CheckpointError if all are damaged.
    """
    return find_newest(folder, (kind,))


def find_newest(folder: Path, kinds: tuple[str, ...]) -> Path | None:
    """The newest whole checkpoint of several kinds; None and errors as with `find`."""
    damaged = []
    kinds += ("kept",) if "last" in kinds else ()
    paths = [path for kind in kinds for path in _of_kind(folder, kind)]
    for path in sorted(paths, key=_step, reverse=True):
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
    paths = [
        (at, path)
        for at, path in all_of(folder)
        if (path / _OPTIMIZER).exists() or (path / SHARDS).exists()
    ]
    for at, path in reversed(paths):
        if at == step or (at < step and not exactly):
            if (problem := _problem(path)) is None:
                return path
            say(f"checkpoint {path} is damaged ({problem})")
    there = ", ".join(f"{at:,}" for at in sorted({at for at, _ in paths})) or "none"
    raise CheckpointError(
        f"{folder} has no usable checkpoint {'of' if exactly else 'up to'} step {step:,} to go on "
        f"from; there are those of steps: {there}"
    )


def all_of(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of every checkpoint folder of whatever kind, in order of steps."""
    found = [path for path in folder.glob("*-*") if re.fullmatch(r"\w+-\d+", path.name)]
    return sorted((int(path.name.rpartition("-")[2]), path) for path in found)


def at_step(folder: Path, step: int, kind: str | None = None) -> Path | None:
    """A whole checkpoint of that step, of whatever kind if none is given; None if there is none."""
    paths = (
        path
        for number, path in all_of(folder)
        if number == step and kind in (None, path.name.rpartition("-")[0])
    )
    return next((path for path in paths if _problem(path) is None), None)


def clean(folder: Path) -> None:
    """Remove what a killed save left behind; what it had put aside goes back."""
    for path in folder.glob(f".*{_ASIDE}"):
        if not (target := path.with_name(path.name[1:].removesuffix(_ASIDE))).exists():
            path.rename(target)
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def load_state(path: Path) -> TrainState:
    """Progress of the checkpoint in folder `path`."""
    return TrainState(**json.loads((path / _STATE).read_text(encoding="utf-8")))


def load_model(path: Path, model: nn.Module) -> None:
    """Fill `model` from the checkpoint. Raises CheckpointError where shapes do not fit."""
    if (path / SHARDS).exists():
        sharded.fill(path, _named("model", model.state_dict()))
    else:
        _fill(path, model, _load_tensors(path / _MODEL))


def _fill(path: Path, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    own = model.state_dict()
    # A stage of a pipeline takes its own of what is there.
    known = own.keys() if getattr(model, "part", False) else own.keys() | tensors.keys()
    problems = [
        f"{name}: {_shape(tensors.get(name))} instead of {_shape(own.get(name))}"
        for name in sorted(known)
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
    if (path / SHARDS).exists():
        averaged = _named("ema", dict(model.named_parameters()))
        if averaged.keys() <= sharded.names(path):
            sharded.fill(path, averaged)
            return
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
    """Fill the optimizer's moments from the checkpoint; before the first update there are none."""
    if (path / SHARDS).exists():
        if not any(name.startswith("exp_avg:") for name in sharded.names(path)):
            return
        _empty_moments(model, optimizer)
        sharded.fill(path, moments(model, optimizer))
        return
    tensors = _load_tensors(path / _OPTIMIZER)
    for name, weight in model.named_parameters() if tensors else ():
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


def _empty_moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Memory for the moments of a model that has made no step."""
    for weight in model.parameters():
        optimizer.state[weight] = {
            "step": torch.zeros((), dtype=torch.float32, device=weight.device),
            "exp_avg": torch.zeros_like(weight, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(weight, requires_grad=False),
        }


def all_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None
) -> dict[str, Tensor]:
    """Everything that is saved, each under its own name, as this process has it."""
    found = _named("model", model.state_dict()) | moments(model, optimizer)
    return found | (_named("ema", average.weights) if average is not None else {})


def _named(what: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{what}:{name}": tensor.detach() for name, tensor in tensors.items()}


def _step(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


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


def save_tensors(
    path: Path, tensors: dict[str, Tensor], facts: dict[str, str] | None = None
) -> None:
    """Write one safetensors file, with `facts` in its header, onto the disk. Raises OSError."""
    try:
        save_file(tensors, path, metadata=facts)
    except SafetensorError as error:
        # The library gives the operating system's error as text only.
        code = re.search(r"os error (?:code: )?(\d+)", str(error))
        raise OSError(int(code[1]) if code else errno.EIO, str(error)) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _load_tensors(path: Path) -> dict[str, Any]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from None
