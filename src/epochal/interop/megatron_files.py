"""Which files of a Megatron-DeepSpeed checkpoint are where, and which of them are missing.

Three layouts (docs/interop.md): layer files of DeepSpeed's pipeline engine, which the original
writes; one file per tensor-parallel rank with all weights (no pipeline); and Megatron's own
`iter_<N>` without DeepSpeed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from epochal.errors import CheckpointError

Layout = Literal["layers", "ranks", "iter"]
_STEP = re.compile(r"(?:global_step|iter_)(\d+)")
_LAYER = re.compile(r"layer_(\d+)-model_(\d+)-model_states\.pt")
_RANK = re.compile(r"mp_rank_(\d+)_model_states\.pt")
_ITER_RANK = re.compile(r"mp_rank_(\d+)(?:_(\d+))?")
_OPTIMIZER = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
_LATEST = ("latest", "latest_checkpointed_iteration.txt")


@dataclass(frozen=True, slots=True)
class MegatronFiles:
    """The files of one step."""

    folder: Path
    """`…/global_step<N>` or `…/iter_<N>`."""
    step: int
    layout: Layout
    layers: dict[int, dict[int, Path]]
    """Pipeline module → tensor-parallel rank → file; empty in the other layouts."""
    ranks: dict[int, Path]
    """Model-parallel rank → file of everything else (of all, in the other layouts); may be empty
    in the layout of layers."""
    optimizer: dict[int, dict[int, Path]]
    """Model-parallel rank → data-parallel rank → ZeRO optimizer file."""


def find_files(path: str | Path, step: int | None) -> MegatronFiles:
    """The files of step `step` (the newest, by `latest`, if not given).

    `path` is the folder given to --save, or one step's folder in it. Raises CheckpointError
    that says what is there instead, or names the files that are missing.
    """
    folder = _step_folder(Path(path), step)
    match = _STEP.fullmatch(folder.name)
    names = sorted(file.name for file in folder.iterdir())  # so that ranks come in order
    found = MegatronFiles(
        folder=folder,
        step=int(match[1]) if match else step or 0,
        layout="layers",
        layers=_numbered(folder, names, _LAYER),
        ranks={int(m[1]): folder / m[0] for m in map(_RANK.fullmatch, names) if m},
        optimizer={},
    )
    zero = _numbered(folder, names, _OPTIMIZER)
    by_rank: dict[int, dict[int, Path]] = {}
    for data_rank, files in zero.items():
        for rank, file in files.items():
            by_rank.setdefault(rank, {})[data_rank] = file
    found.optimizer.update(by_rank)
    if found.layers or found.ranks:
        layout: Layout = "layers" if found.layers else "ranks"
        return _checked(found, layout)
    ranks = _iter_ranks(folder, names)
    if not ranks:
        raise CheckpointError(
            f"{folder} holds no checkpoint of the original: it needs layer_01-model_00-model_"
            f"states.pt … and mp_rank_00_model_states.pt; there is {_there(folder)}"
        )
    return MegatronFiles(folder, found.step, "iter", {}, ranks, {})


def is_megatron(path: Path) -> bool:
    """Whether `path` looks like a checkpoint folder of the original."""
    if not path.is_dir():
        return False
    names = [file.name for file in path.iterdir()]
    return any(
        name in _LATEST or _STEP.fullmatch(name) or _LAYER.fullmatch(name) or _RANK.fullmatch(name)
        for name in names
    )


def _step_folder(path: Path, step: int | None) -> Path:
    """The folder of the wanted step."""
    if not path.is_dir():
        raise CheckpointError(f"there is no folder {path}; give the folder of a checkpoint")
    steps = {
        int(match[1]): file
        for file in sorted(path.iterdir())
        if (match := _STEP.fullmatch(file.name)) and file.is_dir()
    }
    if not steps:
        inside = _STEP.fullmatch(path.resolve().name)
        files = is_megatron(path) or (path / "mp_rank_00").is_dir()
        if not inside and not files:
            raise CheckpointError(
                f"{path} holds no checkpoint of the original: there is no `latest` file and no "
                f"folder global_step<N> or iter_<N> in it; there is {_there(path)}"
            )
        if step is not None and inside and int(inside[1]) != step:
            raise CheckpointError(f"{path} is step {int(inside[1])}, not {step}; give no step")
        return path
    if step is None:
        step = _latest(path, max(steps))
    if step not in steps:
        there = ", ".join(map(str, sorted(steps)))
        raise CheckpointError(f"{path} has no step {step}; there are the steps {there}")
    return steps[step]


def _latest(path: Path, newest: int) -> int:
    """The step that `latest` or `latest_checkpointed_iteration.txt` names, else the newest."""
    for name in _LATEST:
        file = path / name
        if file.is_file():
            text = file.read_text(encoding="utf-8", errors="replace").strip()
            match = re.fullmatch(r"(?:global_step)?(\d+)", text)
            if not match:
                raise CheckpointError(
                    f"{file} says {text[:40]!r} instead of a step such as global_step60; give "
                    "the step"
                )
            return int(match[1])
    return newest


def _numbered(
    folder: Path, names: list[str], pattern: re.Pattern[str]
) -> dict[int, dict[int, Path]]:
    found: dict[int, dict[int, Path]] = {}
    for match in filter(None, map(pattern.fullmatch, names)):
        found.setdefault(int(match[1]), {})[int(match[2])] = folder / match[0]
    return dict(sorted(found.items()))


def _iter_ranks(folder: Path, names: list[str]) -> dict[int, Path]:
    """Megatron's own layout: mp_rank_TT[_PPP]/model_optim_rng.pt."""
    found: dict[int, Path] = {}
    for match in filter(None, map(_ITER_RANK.fullmatch, names)):
        if match[2] is not None and int(match[2]):
            raise CheckpointError(
                f"{folder / match[0]} is a second pipeline stage of Megatron's own layout, whose "
                "layer numbers start anew in each stage; save the model with one stage first"
            )
        path = folder / match[0] / "model_optim_rng.pt"
        if not path.is_file():
            raise CheckpointError(f"the file {path} is missing; copy it from the original")
        found[int(match[1])] = path
    return found


def _checked(found: MegatronFiles, layout: Layout) -> MegatronFiles:
    """`found`, unless a tensor-parallel rank lacks files."""
    missing = []
    width = max((max(files) + 1 for files in found.layers.values()), default=0)
    for number in range(1, max(found.layers, default=0) + 1):
        missing += [
            found.folder / f"layer_{number:02d}-model_{rank:02d}-model_states.pt"
            for rank in range(width)
            if rank not in found.layers.get(number, {})
            # The tied use of the embedding has no file, and neither has what follows it.
        ]
    refuse_missing(missing)
    return MegatronFiles(
        found.folder, found.step, layout, found.layers, found.ranks, found.optimizer
    )


def refuse_missing(missing: list[Path]) -> None:
    """Raise CheckpointError that names every file in `missing`."""
    if missing:
        folder = missing[0].parent
        names = ", ".join(path.name for path in missing)
        what = "this file is" if len(missing) == 1 else f"these {len(missing)} files are"
        raise CheckpointError(
            f"the checkpoint {folder} is incomplete: {what} missing: {names}; copy them from the "
            "original"
        )


def _there(folder: Path) -> str:
    names = sorted(file.name for file in folder.iterdir())
    return ", ".join(names[:6]) + (" …" if len(names) > 6 else "") if names else "nothing"
