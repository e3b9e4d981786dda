"""What a run amounts to and needs, before anything is spent; also without its corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from epochal.data import load_tokenizer
from epochal.data.opened import open_corpus
from epochal.data.store import store_prefix, suffixed
from epochal.errors import RecipeError
from epochal.recipe import Recipe, RunNumbers, find_recipe, load_recipe, run_numbers
from epochal.recipe.estimate import Sharding, estimate_memory, estimate_time
from epochal.recipe.numbers import micro_rows
from epochal.recipe.schema import Data
from epochal.sizes import DEFAULT_MFU, GPT2_VOCABULARY
from epochal.training.parallel.mesh import plan_mesh

_MUCH = 2**62


def dry_run(
    recipe: Recipe | str | Path | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    gpu: str = "H100",
    gpus: int = 1,
    mfu: float = DEFAULT_MFU,
) -> dict[str, Any]:
    """What `train` would do, as numbers, without doing it.

    Parameters, tokens, steps and FLOPs; `memory`, bytes per device; `time` on `gpus` of the GPU
    `gpu` at `mfu` of its peak; and `remarks`, what was assumed. Works without the corpus: then
    U is `data.unique_tokens` and the vocabulary that of `data.tokenizer`, or GPT-2's. Raises
    RecipeError or DataError where the numbers do not follow.
    """
    if isinstance(recipe, Recipe):
        settings = recipe
    else:
        settings = load_recipe(None if recipe is None else find_recipe(str(recipe)), overrides)
    remarks: list[str] = []
    numbers = planned_numbers(settings, remarks)
    cut = planned_sharding(settings, gpus, numbers.vocabulary)
    mine = -(-settings.train.global_batch_size // cut.data)
    micro = micro_rows(settings, cut.data, cut.pipeline)
    bf16, fused = settings.train.precision != "fp32", settings.train.device != "cpu"
    memory = estimate_memory(settings, numbers.vocabulary, cut, bf16=bf16 and fused, fused=fused)
    time = estimate_time(settings, numbers, gpu, gpus, mfu)
    remarks.append(
        f"time: {gpus} x {gpu} at {100 * mfu:g} % of the dense bf16 peak, an assumption; training "
        "alone, without evaluations"
    )
    remarks.append(
        f"memory: per device, {'bf16 autocast' if bf16 and fused else 'fp32'}, "
        f"{_in_words(cut, memory.stage)}; without what allocator and driver take"
    )
    return {
        "family": settings.family,
        "size": settings.model.size,
        "run_dir": settings.run_dir,
        **numbers.as_dict(),
        "micro_batch_size": micro,
        "accumulation": -(-mine // micro),
        "memory": memory.as_dict(),
        "time": asdict(time) | {"gpu_hours": time.gpu_hours},
        "remarks": remarks,
    }


def planned_sharding(settings: Recipe, gpus: int, vocabulary: int) -> Sharding:
    """How `[parallel]` spreads a run over `gpus` processes.

    Raises RecipeError for sizes that do not go into each other.
    """
    plan = plan_mesh(settings, gpus, vocabulary)
    parallel = settings.parallel
    return Sharding(
        data=plan.data,
        weights=plan.shard if plan.zero >= 3 else 1,
        gradients=plan.shard if plan.zero >= 2 else 1,
        optimizer=plan.shard if plan.zero >= 1 else 1,
        tensor=plan.tensor,
        pipeline=plan.pipeline,
        offload=parallel.offload,
        checkpointing=parallel.activation_checkpointing,
    )


def _in_words(cut: Sharding, stage: int) -> str:
    parts = {"weights": cut.weights, "gradients": cut.gradients, "optimizer": cut.optimizer}
    shared = [f"{what} in {count} parts" for what, count in parts.items() if count > 1]
    shared += [f"tensor parallel {cut.tensor}"] if cut.tensor > 1 else []
    if cut.pipeline > 1:
        shared.append(f"layers in {cut.pipeline} stages, of which number {stage + 1} needs most")
    shared += ["weights and optimizer in host memory"] if cut.offload else []
    if cut.checkpointing != "none":
        shared.append(f"{cut.checkpointing} activation checkpointing")
    return ", ".join(shared) or "all of the state on each"


def planned_numbers(settings: Recipe, remarks: list[str]) -> RunNumbers:
    """Numbers of a run whose corpus may not be there; what was assumed goes to `remarks`.

    Raises DataError for a corpus that is there but damaged, RecipeError for a length in epochs
    of nobody knows what.
    """
    data = settings.data
    train = _train_file(data)
    if train.exists():
        corpus = open_corpus(data)
        return run_numbers(settings, corpus.train.unique_tokens, corpus.tokenizer.vocabulary)
    vocabulary = GPT2_VOCABULARY
    if data.tokenizer not in (None, "gpt2"):
        vocabulary = load_tokenizer(str(data.tokenizer)).vocabulary
    assumed = (
        ""
        if data.tokenizer
        else "; numbers are for GPT-2's vocabulary, or name yours with data.tokenizer=…"
    )
    remarks.append(f"the training store {train.with_suffix('')} is not there{assumed}")
    unique = data.unique_tokens
    if unique is None:
        if settings.train.epochs is not None:
            raise RecipeError(
                f"`train.epochs` = {settings.train.epochs:g} of a corpus that is not there "
                f"({train}): give `data.unique_tokens`, or prepare it first"
            )
        unique = run_numbers(settings, _MUCH, vocabulary).tokens + 1
        remarks.append("the corpus is taken to be large enough for a single epoch")
    return run_numbers(settings, unique, vocabulary)


def _train_file(data: Data) -> Path:
    """The file that is there if the training set is: an index, or a datapath file."""
    prefix = Path(data.train) if data.train else Path(data.corpus) / "train"
    index = suffixed(store_prefix(prefix), ".idx")
    return prefix if prefix.is_file() and not index.exists() else index
