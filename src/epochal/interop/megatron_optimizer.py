"""Adam's moments in a Megatron-DeepSpeed checkpoint → ours, so that training can resume.

A float32 run keeps them per parameter in mp_rank_XX_model_states.pt, numbered through the
matrices and then through the norms, in the order of the pipeline's modules. A bfloat16 run
keeps flat vectors of all matrices and of all norms, cut into one piece per data-parallel rank,
together with float32 masters of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from epochal.errors import CheckpointError
from epochal.interop.foreign import Tensors
from epochal.interop.megatron_files import MegatronFiles, refuse_missing
from epochal.interop.megatron_weights import EMBEDDING, HEAD, is_matrix, merge, module_order
from epochal.interop.pickles import read_pickle
from epochal.sizes import Architecture

MOMENTS = ("exp_avg", "exp_avg_sq")
MASTERS = "weights"
_DAMAGE = (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError)
"""What taking a foreign file apart can raise."""
Kinds = dict[str, Tensors]
"""exp_avg, exp_avg_sq and perhaps the float32 masters → tensors by their names."""


def read_moments(
    files: MegatronFiles, contents: list[dict[str, Any]], shape: Architecture, stages: int
) -> tuple[Kinds, int]:
    """(whole tensors of each kind under their names, Adam's step count).

    `contents` are the unpickled files of `files.ranks`. Raises CheckpointError where the
    optimizer was not saved, lacks files or is spread in a way that is not known here.
    """
    if stages > 1 and len(contents) != stages:
        raise CheckpointError(
            f"the optimizer of {files.folder} is spread over {stages} pipeline stages and "
            f"{len(contents)} model-parallel ranks, which cannot be joined here; import the "
            "weights alone, without the optimizer"
        )
    try:
        return _joined(files, _with_first_blocks(contents), shape, stages)
    except _DAMAGE as error:
        raise CheckpointError(
            f"the optimizer of {files.folder} is damaged, or of a form that is not known here "
            f"({type(error).__name__}: {error}); import the weights alone, without the optimizer"
        ) from error


def _joined(
    files: MegatronFiles, contents: list[dict[str, Any]], shape: Architecture, stages: int
) -> tuple[Kinds, int]:
    if contents[0].get("optimizer") is None:
        per_rank, step = _from_flat_files(files, contents)
    else:
        numbered = [
            _from_numbered(files, content, shape, rank if stages > 1 else None, stages)
            for rank, content in enumerate(contents)
        ]
        per_rank, step = [kinds for kinds, _ in numbered], numbered[0][1]
    found: Kinds = {}
    for kind in per_rank[0]:
        pieces = [kinds[kind] for kinds in per_rank]
        if stages > 1:  # the first stage that has a tensor counts: a tied table is in two
            found[kind] = {name: x for piece in reversed(pieces) for name, x in piece.items()}
        else:
            found[kind] = merge(pieces)
    return found, step


def _from_numbered(
    files: MegatronFiles,
    content: Mapping[str, Any],
    shape: Architecture,
    stage: int | None,
    stages: int,
) -> tuple[Kinds, int]:
    """The float32 layout of one rank."""
    state = content["optimizer"].get("state", {})
    groups = [len(group["params"]) for group in content["optimizer"]["param_groups"]]
    names = module_order(shape)
    if stage is not None:
        names = _of_stage(names, groups[-1], stage, stages, content, shape)
    names = [n for n in names if is_matrix(n)] + [n for n in names if not is_matrix(n)]
    if len(state) != len(names) or sum(groups) != len(names):
        raise CheckpointError(
            f"the optimizer in {files.folder} has {len(state)} tensors, but the model has "
            f"{len(names)}; import the weights alone, without the optimizer"
        )
    ordered = [state[number] for number in range(len(names))]
    kinds = {
        kind: {name: one[kind].float() for name, one in zip(names, ordered, strict=True)}
        for kind in MOMENTS
    }
    return kinds, int(ordered[0]["step"])


def _of_stage(
    names: list[str],
    norms: int,
    stage: int,
    stages: int,
    content: Mapping[str, Any],
    shape: Architecture,
) -> list[str]:
    """Names of the parameters of a pipeline stage, in the order of its modules.

    A stage has two norms per block, and the last has one more. How many blocks earlier stages
    had follows from their number of parameters, which `content` carries as "first_block".
    """
    first, count = int(content["first_block"]), norms // 2
    modules = {str(2 + first + number) for number in range(count)}
    own = [name for name in names if name.partition(".")[0] in modules]
    last = stage == stages - 1
    table = [f"1.{EMBEDDING}"] if stage == 0 or (last and shape.tie_embeddings) else []
    end = names[len(names) - (1 if shape.tie_embeddings else 2) :] if last else []
    return [*table, *own, *end]


def _with_first_blocks(contents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each pipeline stage's content with the number of its first block."""
    first, found = 0, []
    for content in contents:
        found.append(content | {"first_block": first})
        groups = (content.get("optimizer") or {}).get("param_groups") or [{"params": []}]
        first += len(groups[-1]["params"]) // 2
    return found


def _from_flat_files(
    files: MegatronFiles, contents: list[dict[str, Any]]
) -> tuple[list[Kinds], int]:
    """The bfloat16 layout of all ranks: flat vectors in ZeRO files."""
    if not files.optimizer:
        refuse_missing([files.folder / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt"])
    found, step = [], 0
    for rank, content in enumerate(contents):
        pieces = files.optimizer.get(rank, {})
        width = int(content.get("dp_world_size") or 1)
        refuse_missing(
            [
                files.folder / f"bf16_zero_pp_rank_{piece}_mp_rank_{rank:02d}_optim_states.pt"
                for piece in range(width)
                if piece not in pieces
            ]
        )
        states = [read_pickle(pieces[piece])["optimizer_state_dict"] for piece in range(width)]
        kinds: Kinds = {kind: {} for kind in (*MOMENTS, MASTERS)}
        for group, sizes in enumerate(content["param_shapes"]):
            flat = _flat_vectors(states, group)
            for kind, vector in flat.items():
                kinds[kind] |= _cut(vector, sizes, files)
            step = _step(states[0], group, step)
        found.append(kinds)
    return found, step


def _flat_vectors(states: list[Mapping[str, Any]], group: int) -> Tensors:
    """Kind → the whole flat vector of a group, its pieces joined."""
    base = [state["base_optimizer_state"]["state"][group] for state in states]
    vectors = {kind: torch.cat([one[kind].flatten().float() for one in base]) for kind in MOMENTS}
    masters = [state["single_partition_of_fp32_groups"][group] for state in states]
    return vectors | {MASTERS: torch.cat([master.detach().flatten().float() for master in masters])}


def _cut(vector: Tensor, sizes: Mapping[str, Any], files: MegatronFiles) -> Tensors:
    """A flat vector → tensors by name; what is left at the end is padding."""
    found, start = {}, 0
    for name, size in sizes.items():
        shape = tuple(int(n) for n in size)
        count = int(torch.tensor(shape).prod()) if shape else 1
        if start + count > len(vector):
            raise CheckpointError(
                f"the optimizer files in {files.folder} hold {len(vector):,} numbers, too few "
                f"for the tensor {name}; a file of another rank or run may be among them"
            )
        found[_plain(name)] = vector[start : start + count].view(shape)
        start += count
    return found


def _plain(name: str) -> str:
    """`tied_modules.embed.word_embeddings.weight` → `1.word_embeddings.weight`."""
    if name.endswith(EMBEDDING):
        return f"1.{EMBEDDING}"
    number, _, key = name.partition(".")
    return f"{number}.{HEAD}" if key.endswith(HEAD) else name


def _step(state: Mapping[str, Any], group: int, known: int) -> int:
    """Adam's step count: beside the moments, or in the parameter group."""
    base = state["base_optimizer_state"]
    found = base["state"][group].get("step")
    if found is None:
        found = base.get("param_groups", [{}])[0].get("step")
    return known if found is None else int(found)
