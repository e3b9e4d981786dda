"""What a sweep amounts to, run by run, before anything is spent."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from epochal.data.opened import Corpus, open_corpus
from epochal.errors import DataError, RecipeError
from epochal.recipe import Recipe, RunNumbers
from epochal.recipe.estimate import estimate_time
from epochal.recipe.schema import Data
from epochal.sizes import DEFAULT_MFU, GPT2_VOCABULARY
from epochal.sweeps.designs import SweepRun, design_runs, numbers_on
from epochal.sweeps.file import Sweep
from epochal.sweeps.finished import recipe_hash


@dataclass(frozen=True, slots=True)
class CorpusFacts:
    """What a design needs to know of the corpus."""

    vocabulary: int
    unique_tokens: int | None
    """Of the whole corpus; None if it is not on this disk."""
    found: bool
    """Whether the corpus is there; else the vocabulary is GPT-2's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run of a sweep in numbers."""

    name: str
    family: str
    size: str
    """Ladder name, or width x layers x heads."""
    params: int
    unique_tokens: int | None
    """None: the whole corpus, which is not there to be counted."""
    tokens: int
    epochs: float | None
    flops: float
    steps: int
    gpu_hours: float | None = None
    """Of what the run itself trains."""
    after: str | None = None
    """The trunk of the sweep from which it starts."""
    own_tokens: int
    """Seen by the run itself, without its trunk's part."""
    own_flops: float
    """Spent by the run itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """All runs of a sweep in numbers."""

    sweep: str
    rows: list[Row]
    notes: list[str]
    gpu: str | None = None

    @property
    def flops(self) -> float:
        """Spent by all runs together; what branches take over from a trunk is counted once."""
        return sum(row.own_flops for row in self.rows)

    @property
    def tokens(self) -> int:
        """Seen by all runs together."""
        return sum(row.own_tokens for row in self.rows)

    @property
    def gpu_hours(self) -> float | None:
        """Of all runs together, on the GPU that was named."""
        hours = [row.gpu_hours for row in self.rows if row.gpu_hours is not None]
        return sum(hours) if hours else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "sweep": self.sweep,
            "runs": [dataclasses.asdict(row) for row in self.rows],
            "total": {
                "runs": len(self.rows),
                "tokens": self.tokens,
                "flops": self.flops,
                "gpu": self.gpu,
                "gpu_hours": self.gpu_hours,
            },
            "notes": self.notes,
        }


def corpus_facts(sweep: Sweep) -> CorpusFacts:
    """Vocabulary and unique tokens of the corpus in `[base]`, or what can be said without it."""
    data = {key: value for key, value in sweep.base.get("data", {}).items() if key in _CORPUS_KEYS}
    corpus = _opened(Data(**data))
    if corpus is None:
        return CorpusFacts(GPT2_VOCABULARY, None, found=False)
    return CorpusFacts(corpus.tokenizer.vocabulary, corpus.train.unique_tokens, found=True)


_CORPUS_KEYS = ("corpus", "train", "validation", "tokenizer")


def _opened(data: Data) -> Corpus | None:
    try:
        return open_corpus(data)
    except DataError:
        return None


def list_sweep(sweep: Sweep, gpu: str | None = None, mfu: float = DEFAULT_MFU) -> Listing:
    """Every run with its parameters, tokens, epochs, FLOPs and steps, and GPU hours if wanted.

    GPU hours are as `estimate_time` counts them. Works without the corpus: then unique tokens
    are the recipe's and the vocabulary is GPT-2's. Raises RecipeError for a sweep that makes no
    runs, for a GPU that is not known and for a run in epochs whose unique tokens are not.
    """
    facts = corpus_facts(sweep)
    runs = design_runs(sweep, facts.vocabulary, facts.unique_tokens)
    rows = [_row(run, facts, gpu, mfu) for run in runs]
    notes = _same(runs) + _notes(facts, rows, gpu, mfu)
    return Listing(sweep=sweep.name, rows=rows, notes=notes, gpu=gpu)


def numbers_of(recipe: Recipe, facts: CorpusFacts) -> tuple[RunNumbers, int | None]:
    """(numbers, unique tokens or None where they are not known).

    Raises RecipeError for a length in epochs of something unknown.
    """
    numbers = numbers_on(recipe, facts.vocabulary, facts.unique_tokens)
    return numbers, recipe.data.unique_tokens or facts.unique_tokens


def _row(run: SweepRun, facts: CorpusFacts, gpu: str | None, mfu: float) -> Row:
    try:
        numbers, unique = numbers_of(run.recipe, facts)
    except RecipeError as error:
        raise RecipeError(f"the run {run.name}: {error}") from None
    model = run.recipe.model
    shape = model.architecture()
    own = 1 - run.start_step / numbers.steps
    return Row(
        name=run.name,
        family=run.recipe.family,
        size=model.size or f"{shape.d_model}x{shape.layers}x{shape.heads}",
        params=numbers.params,
        unique_tokens=unique,
        tokens=numbers.tokens,
        epochs=None if unique is None else numbers.epochs,
        flops=numbers.flops,
        steps=numbers.steps,
        gpu_hours=(
            None
            if gpu is None
            else own * estimate_time(run.recipe, numbers, gpu, mfu=mfu).gpu_hours
        ),
        after=run.after,
        own_tokens=numbers.tokens - run.start_step * numbers.tokens_per_step,
        own_flops=numbers.flops - numbers.at(run.start_step).flops,
    )


def _same(runs: Sequence[SweepRun]) -> list[str]:
    """A note for each run that does what another one does under another name."""
    first: dict[str, str] = {}
    notes = []
    for run in runs:
        known = first.setdefault(recipe_hash(run.recipe), run.name)
        if known != run.name and run.after is None:
            notes.append(f"{run.name} is the same run as {known}, settings and seed")
    return notes


def _notes(facts: CorpusFacts, rows: Sequence[Row], gpu: str | None, mfu: float) -> list[str]:
    notes = []
    if not facts.found:
        notes.append(
            f"the corpus is not there: numbers are for GPT-2's vocabulary of {GPT2_VOCABULARY:,}"
        )
    elif facts.unique_tokens is not None:
        largest = max(row.unique_tokens or 0 for row in rows)
        if largest > facts.unique_tokens:
            notes.append(
                f"some runs want {largest:,} unique tokens, the corpus has {facts.unique_tokens:,}"
            )
    if branches := [row for row in rows if row.after]:
        alone = sum(row.flops for row in branches)
        spent = sum(row.own_flops for row in rows)
        notes.append(
            f"{len(branches)} runs start from a trunk; own FLOPs are what a run itself spends. "
            f"All together spend {spent:.3g}; the branches trained alone would take {alone:.3g}"
        )
    if gpu is not None:
        notes.append(f"GPU hours: {gpu}, at {100 * mfu:g} % of its dense bf16 peak")
    return notes
