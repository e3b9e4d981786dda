"""Options of generation: how tokens are drawn and masks filled. No torch, so that the command
line can read them at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from epochal.errors import OptionError
from epochal.options import option

Order = Literal["confidence", "margin", "entropy", "ancestral"]


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How a token is drawn. Raises OptionError for a value outside of its range."""

    seed: int = 0
    """The same seed gives the same texts."""
    temperature: float = 1.0
    """0 takes the most likely token."""
    top_k: int | None = None
    """Draw from the k most likely tokens."""
    top_p: float | None = None
    """Draw from the most likely tokens that together have this probability."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise OptionError("temperature", self.temperature, "give 0 or a positive number")
        if self.top_k is not None and self.top_k < 1:
            raise OptionError("top_k", self.top_k, "give at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise OptionError("top_p", self.top_p, "give a share above 0 and up to 1")


@dataclass(frozen=True, kw_only=True)
class GenerationConfig(SamplingOptions):
    """What to write after each prompt, or into its gaps.

    Options that not every way of writing has are listed by the writers that use them
    (`Writer.options`).
    """

    tokens: int = 64
    """New tokens at most; gaps have their own number."""
    samples: int = 1
    """Texts per prompt."""
    steps: int | None = None
    """MDM: forward passes; one per masked token if not given."""
    order: Order = "confidence"
    """MDM: order in which tokens are unmasked."""
    remask: float = option(0.0, metavar="SHARE")
    """MDM: share of the unmasked tokens that is masked again per step (of what is possible, for
    ancestral)."""
    block: int | None = None
    """MDM: unmask blocks of this many masks from left to right; all at once if not given."""
    cached: bool = False
    """MDM: cache keys and values of the tokens before the block."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tokens", "samples", "steps", "block"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OptionError(name, value, "give at least 1")
        if not 0 <= self.remask < 1:
            raise OptionError("remask", self.remask, "give a share from 0 to below 1")

    def changed(self) -> set[str]:
        """Names of the options that differ from their defaults."""
        return {each.name for each in fields(self) if getattr(self, each.name) != each.default}
