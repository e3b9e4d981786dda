"""Numbers that follow from a recipe and a corpus: rows, steps, tokens, FLOPs, epochs."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from epochal.errors import RecipeError
from epochal.recipe.schema import Recipe, Train
from epochal.sizes import Architecture
from epochal.units import Progress

MICRO_BATCH_TOKENS = 16_384
"""Tokens per forward pass if the recipe gives no micro-batch size."""


def micro_batch_size(recipe: Recipe) -> int:
    """Rows per forward pass."""
    most = max(1, MICRO_BATCH_TOKENS // recipe.data.sequence_length)
    return min(recipe.train.micro_batch_size or most, recipe.train.global_batch_size)


def micro_rows(recipe: Recipe, data: int, stages: int = 1) -> int:
    """Rows per forward pass of each of `data` processes, or pipelines of `stages` processes.

    Micro-batches of a pipeline have one size. If the recipe gives none, there are at least
    four per stage if the rows allow, so that stages wait less than a quarter of the time.
    """
    mine = -(-recipe.train.global_batch_size // data)
    rows = min(micro_batch_size(recipe), mine)
    if stages == 1 or recipe.train.micro_batch_size is not None:
        return rows
    rows = min(rows, max(1, mine // (4 * stages)))
    return max(size for size in range(1, rows + 1) if mine % size == 0)


@dataclass(frozen=True, slots=True)
class RunNumbers:
    """Size and length of a run, as numbers."""

    vocabulary: int
    """Tokenizer's vocabulary, without mask id and padding."""
    unique_tokens: int
    """U, tokens of the training data."""
    sequence_length: int
    """L, tokens per row."""
    rows_per_epoch: int
    """⌊U / L⌋."""
    global_batch_size: int
    """Rows per optimizer step."""
    steps: int
    """Optimizer steps."""
    params: int
    """N by the paper's formula."""
    params_non_embedding: int
    """N without the embedding."""
    params_exact: int
    """Trained weights of the model as built."""
    flops_per_token: int
    """6·N."""
    rows: int
    """Rows in the length given; those that fill no whole step are not seen."""
    tokens: int = field(init=False)
    """D, tokens seen in the whole run."""
    flops: float = field(init=False)
    """C = 6·N·D."""
    epochs: float = field(init=False)
    """Passes over the unique tokens."""

    def __post_init__(self) -> None:
        whole = self.at(self.steps)
        for name in ("tokens", "flops", "epochs"):
            object.__setattr__(self, name, getattr(whole, name))

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimizer step."""
        return self.global_batch_size * self.sequence_length

    def at(self, step: int) -> Progress:
        """Progress after `step` optimizer steps."""
        tokens = step * self.tokens_per_step
        return Progress(
            steps=step,
            tokens=tokens,
            epochs=step * self.global_batch_size / self.rows_per_epoch,
            flops=float(self.flops_per_token) * tokens,
            percent=100 * step / self.steps,
        )


def decay_begin(settings: Train, total: int) -> float:
    """Step (or row) out of `total` after which the schedule "wsd" decays."""
    return total * (1 - settings.decay)


def cycle_ends(settings: Train, steps: int) -> list[int]:
    """Steps after which the schedule's cycles end, the last one `steps`."""
    return [round(steps * (n + 1) / settings.cycles) for n in range(settings.cycles)]


def run_numbers(recipe: Recipe, unique_tokens: int, vocabulary: int) -> RunNumbers:
    """The numbers of `recipe` on a corpus of `unique_tokens` tokens.

    A length in epochs is rounded down to whole rows and then to whole steps:
    rows = ⌊⌊U / L⌋ · epochs⌋, steps = ⌊rows / global batch⌋. In the original's order rows cross
    epochs, so there, as in its scripts, rows = ⌊U · epochs / L⌋. Raises RecipeError for a corpus
    shorter than one row and for a length below one step.
    """
    shape: Architecture = recipe.model.architecture()
    length, batch = recipe.data.sequence_length, recipe.train.global_batch_size
    rows_per_epoch = unique_tokens // length
    if unique_tokens <= length:
        raise RecipeError(
            f"`data.sequence_length` = {length} needs more than {length} unique tokens, but the "
            f"training data holds {unique_tokens:,}; lower it or prepare more text"
        )
    flops_per_token = shape.flops_per_token(vocabulary)
    key = recipe.train.budget_key()
    amount = getattr(recipe.train, key)
    if key == "epochs" and recipe.data.order == "megatron":
        rows = int(unique_tokens * Decimal(str(amount)) / length)
    elif key == "epochs":
        # Without rounding, 3 · (1/3 epoch) could come out just below a whole row.
        rows = int(round(rows_per_epoch * amount, 6))
    elif key == "steps":
        rows = amount * batch
    else:
        rows = int(amount if key == "tokens" else amount / flops_per_token) // length
    if rows < batch:
        raise RecipeError(
            f"`train.{key}` = {amount:g} is {rows} rows of {length} tokens, less than one step of "
            f"`train.global_batch_size` = {batch}; train longer or lower the batch"
        )
    if recipe.train.cycles > rows // batch:
        raise RecipeError(
            f"`train.cycles` = {recipe.train.cycles} are more than the run's {rows // batch:,} "
            "steps; train longer or lower them"
        )
    return RunNumbers(
        vocabulary=vocabulary,
        unique_tokens=unique_tokens,
        sequence_length=length,
        rows_per_epoch=rows_per_epoch,
        global_batch_size=batch,
        steps=rows // batch,
        params=shape.params(vocabulary),
        params_non_embedding=shape.params_non_embedding,
        params_exact=shape.params_exact(vocabulary),
        flops_per_token=flops_per_token,
        rows=rows,
    )
