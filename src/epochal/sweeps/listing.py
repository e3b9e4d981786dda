"""The runs of a sweep in numbers, before anything is spent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from epochal.errors import RecipeError
from epochal.recipe.estimate import estimate_time
from epochal.results import Note, NoteCode, note
from epochal.sizes import DEFAULT_MFU
from epochal.sweeps.designs import CorpusFacts, SweepRun, design_runs
from epochal.sweeps.file import Sweep
from epochal.sweeps.record import recipe_hash


class ListingNote(NoteCode):
    """What is worth knowing about a listing."""

    CORPUS_MISSING = "corpus_missing"
    """Values: vocabulary, the one that is used instead."""
    CORPUS_TOO_SMALL = "corpus_too_small"
    """Values: wanted, unique_tokens."""
    SAME_RUN = "same_run"
    """Two names, one run. Values: run, other."""
    BRANCHES = "branches"
    """Values: runs, flops of all together, flops_alone of the branches trained by themselves."""
    GPU_HOURS = "gpu_hours"
    """Values: gpu, mfu."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCost:
    """One run of a sweep in numbers."""

    name: str
    family: str
    size: str
    """Ladder name, or width x layers x heads."""
    params: int
    unique_tokens: int | None
    """None: the whole corpus, which is missing."""
    tokens: int
    epochs: float | None
    flops: float
    steps: int
    gpu_hours: float | None = None
    """For what the run itself trains."""
    after: str | None = None
    """The trunk of the sweep from which it starts."""
    incremental_tokens: int
    """Trained by the run itself, without its trunk's part."""
    incremental_flops: float
    """Spent by the run itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepTotal:
    """Sums over the runs of a sweep; what branches take over from a trunk counts once."""

    runs: int
    tokens: int
    flops: float
    gpu: str | None
    gpu_hours: float | None
    """On that GPU; None if none was named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """All runs of a sweep in numbers."""

    sweep: str
    runs: list[RunCost]
    total: SweepTotal
    notes: list[Note]


def list_sweep(sweep: Sweep, gpu: str | None = None, mfu: float = DEFAULT_MFU) -> Listing:
    """Every run with its parameters, tokens, epochs, FLOPs and steps, and GPU hours on `gpu`.

    GPU hours are those of `estimate_time`. Works without the corpus: then unique tokens are the
    recipe's and the vocabulary is GPT-2's. Raises RecipeError for a sweep without runs, for an
    unknown GPU and for a run in epochs whose unique tokens are not known.
    """
    facts = CorpusFacts.of(sweep)
    runs = design_runs(sweep, facts)
    costs = [_cost(run, facts, gpu, mfu) for run in runs]
    hours = [cost.gpu_hours for cost in costs if cost.gpu_hours is not None]
    total = SweepTotal(
        runs=len(costs),
        tokens=sum(cost.incremental_tokens for cost in costs),
        flops=sum(cost.incremental_flops for cost in costs),
        gpu=gpu,
        gpu_hours=sum(hours) if hours else None,
    )
    notes = [*_same(runs), *_corpus_notes(facts, costs)]
    if branches := [cost for cost in costs if cost.after]:
        alone = sum(cost.flops for cost in branches)
        notes.append(
            note(ListingNote.BRANCHES, runs=len(branches), flops=total.flops, flops_alone=alone)
        )
    if gpu is not None:
        notes.append(note(ListingNote.GPU_HOURS, gpu=gpu, mfu=mfu))
    return Listing(sweep=sweep.name, runs=costs, total=total, notes=notes)


def _cost(run: SweepRun, facts: CorpusFacts, gpu: str | None, mfu: float) -> RunCost:
    try:
        numbers = facts.numbers(run.recipe)
    except RecipeError as error:
        raise RecipeError(f"the run {run.name}: {error}") from None
    unique = facts.unique(run.recipe)
    model = run.recipe.model
    shape = model.architecture()
    hours = None
    if gpu is not None:
        incremental = 1 - run.start_step / numbers.steps
        hours = incremental * estimate_time(run.recipe, numbers, gpu, mfu=mfu).gpu_hours
    return RunCost(
        name=run.name,
        family=run.recipe.family,
        size=model.size or f"{shape.d_model}x{shape.layers}x{shape.heads}",
        params=numbers.params,
        unique_tokens=unique,
        tokens=numbers.tokens,
        epochs=None if unique is None else numbers.epochs,
        flops=numbers.flops,
        steps=numbers.steps,
        gpu_hours=hours,
        after=run.after,
        incremental_tokens=numbers.tokens - run.start_step * numbers.tokens_per_step,
        incremental_flops=numbers.flops - numbers.at(run.start_step).flops,
    )


def _same(runs: Sequence[SweepRun]) -> list[Note]:
    """A note for each run that is the same as another one under another name."""
    first: dict[str, str] = {}
    notes = []
    for run in runs:
        other = first.setdefault(recipe_hash(run.recipe), run.name)
        if other != run.name and run.after is None:
            notes.append(note(ListingNote.SAME_RUN, run=run.name, other=other))
    return notes


def _corpus_notes(facts: CorpusFacts, costs: Sequence[RunCost]) -> list[Note]:
    if facts.unique_tokens is None:
        return [note(ListingNote.CORPUS_MISSING, vocabulary=facts.vocabulary)]
    largest = max(cost.unique_tokens or 0 for cost in costs)
    if largest <= facts.unique_tokens:
        return []
    return [note(ListingNote.CORPUS_TOO_SMALL, wanted=largest, unique_tokens=facts.unique_tokens)]
