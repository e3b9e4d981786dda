"""The recipe's section `[distill]`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from epochal.errors import RecipeError
from epochal.families.family import OPTIONS_CONFIG, Share


@dataclass(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class Distill:
    """Training on what other runs predict, beside the text."""

    teachers: tuple[str, ...] = ()
    """Runs to learn from, RUN or RUN@CHECKPOINT, of the same family, tokenizer and sequence length.
    Their probabilities are averaged."""
    share: Share = 0.5
    """loss = (1 − share) · usual loss + share · T² · KL(teachers ‖ student), T the temperature, at
    the same positions with the same weights."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """T, by which all logits are divided in the KL; above 1 also unlikely tokens count."""

    def __post_init__(self) -> None:
        for key, default in (("share", 0.5), ("temperature", 1.0)):
            if not self.teachers and (value := getattr(self, key)) != default:
                raise RecipeError(f"`distill.{key}` = {value:g} needs `distill.teachers`")
