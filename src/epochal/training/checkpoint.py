"""Checkpoints: folders of safetensors files, complete with a manifest of their sums or not there.

    checkpoints/last-00000120/   model.safetensors, optimizer.safetensors, state.json, manifest.json
                                 (and ema.safetensors, where an average of the weights is kept)
    checkpoints/best-00000090/   model.safetensors, state.json, manifest.json

A run on many processes writes `last` in parts (`epochal.training.sharded`); any number of
processes reads either form. A folder is written under another name, synced and renamed; only
then is the previous one removed. So a kill or a full disk at any moment leaves a complete
checkpoint. Nothing in these files can run code: reading a stranger's checkpoint is safe.

Inside, all tensors have one name each, whatever the form: `model:` or `ema:` and the parameter,
or a key of AdamW's state (`exp_avg:`, `exp_avg_sq:`, `step:`) or Muon's (`momentum:`) and the
parameter.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from epochal import files
from epochal.errors import CheckpointError
from epochal.runs.checkpoints import (
    AVERAGE,
    MANIFEST,
    MODEL,
    OPTIMIZER,
    SHARDS,
    STATE,
    kind_and_step,
    of_kind,
)
from epochal.training import sharded
from epochal.training.optim import WeightAverage
from epochal.training.parallel.parallelize import copy_into_shard, gather_full
from epochal.training.parallel.world import World

Kind = Literal["last", "best", "interrupt", "permanent"]
"""last: the newest few. best: weights of the lowest validation NLL. interrupt: out of turn, until
the next `last`. permanent: never removed."""
_FILES = {"model": MODEL, "ema": AVERAGE}
"""What a name starts with → the file that has the tensor, without this part of the name."""
_REPLACED = ".old.tmp"


@dataclass(slots=True)
class TrainState:
    """Progress of a run; with weights and optimizer, all that is needed to resume it."""

    family: str = ""
    """The run's family; "" in checkpoints that were written before it was kept."""
    step: int = 0
    """Optimizer steps done; rows seen are step · global batch."""
    seconds: float = 0.0
    """Time spent in training so far, evaluations included."""
    best_step: int | None = None
    best_nll: float | None = None
    """Lowest validation NLL so far, nats per token."""
    loss_sum: float = 0.0
    """Sum of the training loss since the last line in metrics.jsonl."""
    loss_steps: int = 0
    """Steps in that sum."""
    teacher_kl_sum: float = 0.0
    """Sum of a student's T² · KL over the same steps."""
    noise_sums: list[float] = field(default_factory=list)
    """Sums by noise level over the same steps (`NoiseSums`)."""
    norms: list[float] = field(default_factory=list)
    """Gradient norms of the last steps, against which a spike is measured."""
    faults: int = 0
    """Steps so far whose update was not made."""
    faults_in_a_row: int = 0


def save(
    folder: Path,
    kind: Kind,
    state: TrainState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    average: WeightAverage | None = None,
    world: World | None = None,
    keep: int | None = 1,
) -> Path:
    """Write the checkpoint `<kind>-<step>` into `folder`; of its kind only the newest `keep`
    (None: all) stay.

    Called by all processes of `world` together: sharded tensors are gathered, and rank 0 writes.
    Raises StorageError if it cannot be written; the previous one is then still there.
    """
    world = World() if world is None else world
    content: dict[str, dict[str, Tensor]] = {} if optimizer is None else {OPTIMIZER: {}}
    for name, tensor in gather_full(_all_tensors(model, optimizer, average), world).items():
        file, key = _file_of(name)
        content.setdefault(file, {})[key] = tensor
    target = folder / f"{kind}-{state.step:08d}"
    temporary = folder / f".{target.name}.{os.getpid()}.tmp"

    def write() -> Path:
        with files.storage_errors(target):
            try:
                temporary.mkdir(parents=True)
                for file, tensors in content.items():
                    save_tensors(temporary / file, tensors)
                _commit(target, temporary, asdict(state), keep)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return target

    return world.run_on_rank_zero(write)


def save_in_parts(
    folder: Path,
    kind: Kind,
    state: TrainState,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    world: World,
    keep: int | None,
) -> sharded.Pending:
    """`save`, each process its own part, in the background: it returns once all is copied."""
    target = folder / f"{kind}-{state.step:08d}"
    temporary = folder / f".{target.name}.parts.tmp"
    tensors, progress = _all_tensors(model, optimizer, average), asdict(state)
    return sharded.begin(
        target, temporary, tensors, world, lambda: _commit(target, temporary, progress, keep)
    )


def _commit(target: Path, temporary: Path, state: dict[str, Any], keep: int | None) -> None:
    """Turn the folder `temporary` into the checkpoint `target`, with sums of its files, and remove
    those beyond `keep`. Raises StorageError."""
    with files.storage_errors(target):
        files.write_json(temporary / STATE, state)
        written = sorted(path for path in temporary.rglob("*") if path.is_file())
        sums = {path.relative_to(temporary).as_posix(): files.sha256(path) for path in written}
        files.write_json(temporary / MANIFEST, {"sha256": sums})
        # One of this step is renamed, not removed: a kill in between loses nothing (`clean`).
        replaced = target.with_name(f".{target.name}{_REPLACED}")
        if target.exists():
            target.rename(replaced)
        temporary.rename(target)
        files.sync(target.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    kind, step = kind_and_step(target)
    others = [path for path in of_kind(target.parent, kind) if path != target]
    surplus = [path for path in others if kind_and_step(path)[1] == step]  # under an old name
    others = [path for path in others if path not in surplus]
    if keep is not None:
        surplus += others[: max(0, len(others) - keep + 1)]
    if kind == "last":
        surplus += of_kind(target.parent, "interrupt")
    for path in surplus:
        shutil.rmtree(path, ignore_errors=True)


def clean(folder: Path) -> None:
    """Remove the leftovers of a killed save; what it was about to replace comes back."""
    for path in folder.glob(f".*{_REPLACED}"):
        if not (target := path.with_name(path.name[1:].removesuffix(_REPLACED))).exists():
            path.rename(target)
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def load_state(path: Path, family: str = "") -> TrainState:
    """Progress of the checkpoint in folder `path`.

    Raises CheckpointError if state.json was written by a version with other entries, or is of
    another family than `family`, if that is given.
    """
    file = path / STATE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {file}: {error}") from None
    if not isinstance(values, dict) or not isinstance(values.get("step"), int):
        raise CheckpointError(f"{file} names no step; restore the checkpoint from a copy")
    known = {one.name for one in fields(TrainState)}
    if unknown := sorted(values.keys() - known):
        raise CheckpointError(
            f"{file} has entries that this version of Epochal does not know: "
            f"{', '.join(unknown)}; use the version that wrote it (named in run.json)"
        )
    state = TrainState(**values)
    if family and state.family not in ("", family):
        raise CheckpointError(
            f"{path} is a checkpoint of the family {state.family}, but its run is of {family}; "
            "restore the files that belong to the run"
        )
    state.family = state.family or family
    return state


def load_model(path: Path, model: nn.Module, averaged: bool = False) -> None:
    """Fill `model` from the checkpoint, or with the average of the weights. Raises CheckpointError
    if shapes differ, or if there is no average."""
    if averaged:
        _read_average(path, dict(model.named_parameters()))
    else:  # a stage of a pipeline takes its own tensors and leaves the others
        _read(path, _named("model", model.state_dict()), exact=not getattr(model, "part", False))


def load_training(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None
) -> None:
    """Fill all that a run needs to resume from the checkpoint."""
    load_model(path, model)
    # Before the first update the optimizer has no moments.
    if any(name.startswith("exp_avg:") for name in _saved_shapes(path, "exp_avg")):
        for group in optimizer.param_groups:
            keys = ("momentum",) if group.get("muon") else ("exp_avg", "exp_avg_sq")
            for weight in group["params"]:
                state = {key: torch.zeros_like(weight, requires_grad=False) for key in keys}
                if len(state) > 1:  # fused AdamW has its step count on the weight's device
                    state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
                optimizer.state[weight] = state
        _read(path, _moments(model, optimizer))
    if average is not None:
        _read_average(path, average.weights)


def _all_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer | None, average: WeightAverage | None
) -> dict[str, Tensor]:
    """Everything that is saved, each tensor under its name, as this process has it."""
    tensors = _named("model", model.state_dict())
    if optimizer is not None:
        tensors |= _moments(model, optimizer)
    return tensors | (_named("ema", average.weights) if average is not None else {})


def _named(what: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{what}:{name}": tensor.detach() for name, tensor in tensors.items()}


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{key}:{name}": value.detach()
        for name, weight in model.named_parameters()
        for key, value in optimizer.state[weight].items()
    }


def _file_of(name: str) -> tuple[str, str]:
    """(safetensors file of a tensor, its name in there)."""
    what, _, rest = name.partition(":")
    return (_FILES[what], rest) if what in _FILES else (OPTIMIZER, name)


def _saved_shapes(path: Path, what: str) -> dict[str, list[int]]:
    """Name → shape of the checkpoint's tensors, of all parts or of the file that has `what`."""
    if (path / SHARDS).exists():
        return sharded.saved_shapes(path)
    file, prefix = path / _file_of(f"{what}:")[0], f"{what}:" if what in _FILES else ""
    try:
        with safe_open(file, "pt") as saved:
            names = saved.keys()
            return {f"{prefix}{name}": saved.get_slice(name).get_shape() for name in names}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {file}: {error}") from None


def _read(path: Path, targets: Mapping[str, Tensor], *, exact: bool = False) -> None:
    """Fill `targets`, all of one file, of which this process may hold only its shards.

    Raises CheckpointError if the checkpoint lacks one, has another shape, or, where `exact`, has
    others besides.
    """
    parts, what = (path / SHARDS).exists(), next(iter(targets)).partition(":")[0]
    saved_shapes = _saved_shapes(path, what)
    shapes = {name: list(tensor.shape) for name, tensor in targets.items()}
    # Parts have all tensors of a run, whatever is asked for.
    names = shapes.keys() | saved_shapes.keys() if exact and not parts else shapes.keys()
    problems = [
        f"{name.partition(':')[2]}: {saved_shapes.get(name)} instead of {shapes.get(name)}"
        for name in sorted(names)
        if saved_shapes.get(name) != shapes.get(name)
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{path} holds the weights of another model: {'; '.join(problems[:3])}{more}"
        )
    if parts:
        sharded.read(path, targets)
        return
    with torch.no_grad(), safe_open(path / _file_of(f"{what}:")[0], "pt") as saved:
        for name, tensor in targets.items():
            copy_into_shard(tensor, saved.get_tensor(_file_of(name)[1]))


def _read_average(path: Path, weights: Mapping[str, Tensor]) -> None:
    parts = (path / SHARDS).exists() and any(n.startswith("ema:") for n in _saved_shapes(path, ""))
    if not parts and not (path / AVERAGE).exists():
        raise CheckpointError(
            f"{path} holds no average of the weights; it is kept by a run with `train.ema` or "
            "`train.average_epochs` set, for example train.ema=0.999"
        )
    _read(path, _named("ema", weights))


def save_tensors(
    path: Path, tensors: dict[str, Tensor], facts: dict[str, str] | None = None
) -> None:
    """Write one safetensors file, with `facts` in its header, and sync it. Raises OSError."""
    try:
        save_file(tensors, path, metadata=facts)
    except SafetensorError as error:
        # The library gives the operating system's error as text only.
        code = re.search(r"os error (?:code: )?(\d+)", str(error))
        raise OSError(int(code[1]) if code else errno.EIO, str(error)) from error
    with path.open("rb") as file:
        os.fsync(file.fileno())
