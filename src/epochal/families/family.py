"""What a family of language models is, to everything that is not its objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

OPTIONS_CONFIG = ConfigDict(
    extra="forbid", validate_default=True, allow_inf_nan=False, defer_build=True
)
"""For pydantic dataclasses of recipe options: unknown keys are errors.

Validators are built when first used: all of them take half a second."""

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]


def _always(options: Any) -> bool:
    return True


def _never(options: Any) -> bool:
    return False


@dataclass(frozen=True, kw_only=True)
class Family:
    """One way to model text: how it is named, drawn, trained, scored and sampled."""

    name: str
    """In recipes, on the command line and in JSON."""
    title: str
    """In a sentence: "autoregressive"."""
    short: str
    """In a table or a legend: "AR"."""
    color: str
    """Of its curves on a light page, #rrggbb."""
    dark_color: str
    """On a dark page."""
    marker: str
    """matplotlib's letter for its points."""
    exact: bool
    """Whether its NLL is exact; else it is an upper bound, estimated from draws."""
    objective: str
    """`module:Class`, built with `Class.from_recipe(recipe, mask_id)` (needs torch)."""
    attention: Literal["causal", "bidirectional", "blocks"]
    """Which positions see each other when the model is read; by blocks, a model cannot be asked
    about single tokens of a row."""
    writer: str
    """Module of `generation/` that writes text with it."""
    gap_writer: str | None = None
    """Module of `generation/` that fills gaps; None where `writer` does, or nothing can."""
    masked_reading: str | None = None
    """`module:Class`, built with `Class(mask_id)`, of the bound over random orders by which a
    family of exact NLL can be scored, too: with masks, if it has `mask_token`; else None."""
    cross_entropy: bool = True
    """Whether it learns the NLL of tokens given what is visible, so that its probabilities are
    those of the text; else it has a loss of its own, and cannot be asked about single tokens,
    averaged with others or taught by them."""
    noise_level: bool = False
    """Whether rows have a noise level that the network may be told (`model.noise_conditioning`)."""
    by_default: bool = True
    """Whether commands that train all families train it without being asked."""
    aliases: tuple[str, ...] = ()
    """Other spellings of the name that tables of points may use."""
    options: type[Any] | None = None
    """Dataclass of the recipe section with the family's name; None if it has no options. It is the
    only section of its kind that the family reads."""
    check: Callable[[Any, int], None] = lambda options, length: None
    """(options, L) → None; raises RecipeError for options that do not fit rows of L tokens."""
    mask_token: bool = False
    """Whether the embedding needs a row for a mask."""
    scored_share: float = 1.0
    """Expected share of positions whose logits are computed in a training step."""
    positions_per_token: Callable[[Any], int] = lambda options: 1
    """options → positions that a training step reads per token."""
    loss_is_nll: Callable[[Any], bool] = _always
    """options → whether the training loss is an NLL (or its bound), so that it can be set
    against validation; ablations may change that."""
    explicit_mask: Callable[[Any], bool] = _never
    """options → whether training gives attention an explicit mask, which takes memory."""
    reads_short_rows: Callable[[Any], bool] = _always
    """options → whether rows shorter than those trained on may be read as they are; else they
    are padded with masks to that length, since a row that ends early is new to the model."""
    decay_per_capacity: float | None = None
    """Weight decay over N / U that was best where tokens are repeated, for `epochal tune` to
    begin with; None where none is published."""
    in_run: Callable[[Any, float], Any] = lambda options, epochs: options
    """(options, epochs of the run) → options with the numbers that its rules give there."""
    small_model_options: Mapping[str, Any] = field(default_factory=dict)
    """Options with which small models learn sooner, for the probes of a study."""
    small_model_initial: float | None = None
    """Standard deviation of the initial weights, times √width, with which small models learn
    sooner; None for the recipe's default."""
    recipe_defaults: Mapping[str, Any] = field(default_factory=dict)
    """Dotted recipe keys whose defaults differ for this family, applied by `load_recipe`; only keys
    that have a default. They are part of a run's identity."""
    added_options: frozenset[str] = frozenset()
    """Options added after runs were made without them; at their defaults, which change nothing,
    they are not part of a run's identity."""

    @property
    def answers(self) -> bool:
        """Whether it gives probabilities of single tokens of a row, as tasks and `memorise` ask."""
        return self.cross_entropy and self.attention != "blocks"
