"""The family `dual`: one network that learns both the next token and masked tokens."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from epochal.families.family import OPTIONS_CONFIG, Family, Share


@dataclass(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class DualOptions:
    """Settings of dual-objective training (family = "dual")."""

    causal_share: Share = 0.75
    """Share of the rows that are read causally; the others are masked. arXiv 2512.14549 found
    63/64 best up to 16 epochs, and about 16 / epochs beyond."""


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
    explicit_mask=lambda options: 0 < options.causal_share < 1,
)
