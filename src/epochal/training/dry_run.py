"""Numbers of a run before it is started: size, length, memory and time; also without its corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from epochal.data.corpus import open_corpus
from epochal.data.store import store_prefix, suffixed
from epochal.data.tokenizer_sources import load_tokenizer
from epochal.errors import RecipeError
from epochal.recipe import Recipe, RecipeLike, RunNumbers, load_recipe, run_numbers
from epochal.recipe.estimate import Memory, Sharding, Time, estimate_memory, estimate_time
from epochal.recipe.numbers import micro_rows
from epochal.results import Note, NoteCode, note
from epochal.sizes import GPT2_VOCABULARY
from epochal.training.options import DryRunOptions
from epochal.training.parallel.mesh import plan_mesh

_UNLIMITED = 2**62


class DryRunNote(NoteCode):
    """Assumptions of a dry run."""

    STORE_MISSING = "store_missing"
    """`store`: path of the training store that does not exist."""
    GPT2_VOCABULARY = "gpt2_vocabulary"
    """No tokenizer is named."""
    SINGLE_EPOCH = "single_epoch"
    """The corpus is assumed to be large enough."""
    WITHOUT_TEACHERS = "without_teachers"
    """A student's teachers are not in its figures. Values: teachers."""


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What `train` would do, as numbers."""

    family: str
    size: str | None
    run_dir: str | None
    numbers: RunNumbers
    micro_batch_size: int
    """Rows per process and forward pass."""
    accumulation: int
    """Micro-batches per step and process."""
    precision: Literal["bf16", "fp32"]
    sharding: Sharding
    memory: Memory
    """On the device that needs most."""
    time: Time
    notes: tuple[Note, ...]
    """What was assumed."""


def dry_run(
    recipe: RecipeLike = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    options: DryRunOptions | None = None,
) -> DryRun:
    """Parameters, tokens, steps, FLOPs, memory and time of a run, without training.

    Works without the corpus: then U is `data.unique_tokens` and the vocabulary that of
    `data.tokenizer`, or GPT-2's. Raises RecipeError or DataError if the numbers cannot be
    derived, OptionError for an unknown GPU or a share above 1.
    """
    options = options or DryRunOptions()
    settings = load_recipe(recipe, overrides)
    notes: list[Note] = []
    numbers = _numbers(settings, notes)
    time = estimate_time(settings, numbers, options.gpu, options.gpus, options.mfu)
    plan = plan_mesh(settings, options.gpus, numbers.vocabulary)
    sharding = plan.sharding(settings.parallel)
    fused = settings.train.device != "cpu"
    bf16 = settings.train.precision != "fp32" and fused
    rows = -(-settings.train.global_batch_size // sharding.data)
    micro = micro_rows(settings, sharding.data, sharding.pipeline)
    if teachers := len(settings.distill.teachers):
        notes.append(note(DryRunNote.WITHOUT_TEACHERS, teachers=teachers))
    return DryRun(
        family=settings.family,
        size=settings.model.size,
        run_dir=settings.run_dir,
        numbers=numbers,
        micro_batch_size=micro,
        accumulation=-(-rows // micro),
        precision="bf16" if bf16 else "fp32",
        sharding=sharding,
        memory=estimate_memory(settings, numbers.vocabulary, sharding, bf16=bf16, fused=fused),
        time=time,
        notes=tuple(notes),
    )


def _numbers(settings: Recipe, notes: list[Note]) -> RunNumbers:
    """Numbers of a run whose corpus may not exist; assumptions are added to `notes`.

    Raises DataError for a damaged corpus, RecipeError for a length in epochs without a number of
    unique tokens.
    """
    data = settings.data
    train = Path(data.train) if data.train else Path(data.corpus) / "train"
    index = suffixed(store_prefix(train), ".idx")
    if index.exists() or not train.is_file():  # else a datapath file
        train = index
    if train.exists():
        corpus = open_corpus(data)
        return run_numbers(settings, corpus.train.unique_tokens, corpus.tokenizer.vocabulary)
    notes.append(note(DryRunNote.STORE_MISSING, store=str(train.with_suffix(""))))
    vocabulary = GPT2_VOCABULARY
    if data.tokenizer is None:
        notes.append(note(DryRunNote.GPT2_VOCABULARY))
    elif data.tokenizer != "gpt2":
        vocabulary = load_tokenizer(data.tokenizer).vocabulary
    unique = data.unique_tokens
    if unique is None:
        if settings.train.epochs is not None:
            raise RecipeError(
                f"`train.epochs` = {settings.train.epochs:g} of a corpus that does not exist "
                f"({train}): give `data.unique_tokens`, or prepare it first"
            )
        unique = run_numbers(settings, _UNLIMITED, vocabulary).tokens + 1
        notes.append(note(DryRunNote.SINGLE_EPOCH))
    return run_numbers(settings, unique, vocabulary)
