"""The result of an evaluation, as it is stored with a run."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from epochal.errors import RunError
from epochal.families import get_family

_LARGEST_EXPONENT = 709.0
"""exp of more is not finite."""
EVALUATE_AGAIN = "is missing or damaged; run `epochal eval {}` again"


@dataclass(frozen=True, slots=True, kw_only=True)
class NLLResult:
    """Validation NLL of one checkpoint, with its uncertainty. Unit: nats per token."""

    family: str
    checkpoint: str
    """best, last or ema."""
    step: int
    estimator: str
    """exact, stratified or paper; masked for the bound with masks of a family of exact NLL."""
    nll_nats_per_token: float
    """Exact, or an estimate of an upper bound on the NLL, by family."""
    standard_error: float
    """Of both parts below together."""
    standard_error_draws: float
    """From the Monte-Carlo draws: how much another set of masks would change the NLL."""
    standard_error_documents: float | None
    """From the finite validation set: how much other documents would change it. None with a
    single document."""
    bits_per_byte: float | None
    """The NLL per UTF-8 byte of the text, comparable across tokenizers; None if unknown."""
    tokens_scored: int
    rows: int
    documents: int
    draws: int
    """Mask draws per row; 1 for an exact NLL."""
    sequence_length: int
    validation_sha256: str
    seconds: float
    nats_missed: float = 0.0
    """What noise levels that the estimate leaves out may add, nats per token; 0 where it leaves out
    none."""
    perplexity: float = field(init=False)
    """exp(NLL)."""

    @property
    def is_bound(self) -> bool:
        """Whether the NLL is an upper bound."""
        return self.estimator == "masked" or not get_family(self.family).exact

    def __post_init__(self) -> None:
        nll = self.nll_nats_per_token
        object.__setattr__(
            self, "perplexity", math.exp(nll) if nll < _LARGEST_EXPONENT else math.inf
        )


def read_result(path: Path) -> NLLResult:
    """A result of `epochal eval`. Raises RunError for a damaged file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content.pop("perplexity", None)
        return NLLResult(**content)
    except (ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{path} {EVALUATE_AGAIN.format(path.parent.parent)}") from error
