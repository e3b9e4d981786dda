"""The family `dual`: one network that learns both the next token and masked tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from pydantic.dataclasses import dataclass

from epochal.families.family import OPTIONS_CONFIG, Family, Share


@dataclass(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class DualOptions:
    """Settings of dual-objective training (family = "dual")."""

    causal_share: Share | Literal["16/R"] = 0.75
    """Share of the rows that are read causally; the others are masked. "16/R" is the rule of arXiv
    2512.14549: 16 / epochs, so that the causal part sees the text 16 times, at most 63/64."""


def _by_rule(options: DualOptions, epochs: float) -> DualOptions:
    """The same, with a number for the rule."""
    if options.causal_share != "16/R":
        return options
    return replace(options, causal_share=min(63 / 64, 16 / epochs))


FAMILY = Family(
    name="dual",
    title="dual-objective",
    short="Dual",
    color="#7a3f9d",
    dark_color="#c79be6",
    marker="s",
    exact=True,
    objective="epochal.objectives.dual_objective:DualObjective",
    attention="causal",
    writer="epochal.generation.autoregressive",
    gap_writer="epochal.generation.unmasking_next",
    masked_reading="epochal.objectives.dual_objective:MaskedNextToken",
    options=DualOptions,
    mask_token=True,
    by_default=False,
    loss_is_nll=lambda options: options.causal_share == 1,
    explicit_mask=lambda options: options.causal_share not in (0, 1),
    in_run=_by_rule,
)
