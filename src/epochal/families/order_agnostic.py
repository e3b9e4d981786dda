"""The family `anyorder`: autoregressive in any order, each state told which place it predicts."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from epochal.families.family import OPTIONS_CONFIG, Family, Share


@dataclass(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class AnyOrderOptions:
    """Settings of any-order autoregressive training (family = "anyorder")."""

    left_to_right: Share = 0.0
    """Share of the rows that are read from left to right; the others in a random order each."""


FAMILY = Family(
    name="anyorder",
    title="any-order autoregressive",
    short="Any-order",
    color="#4f5b66",
    dark_color="#b3bec9",
    marker="X",
    exact=True,
    objective="epochal.objectives.order_agnostic:AnyOrder",
    attention="causal",
    writer="epochal.generation.autoregressive",
    gap_writer="epochal.generation.any_order",
    masked_reading="epochal.objectives.order_agnostic:RandomOrders",
    options=AnyOrderOptions,
    by_default=False,
    loss_is_nll=lambda options: options.left_to_right == 1,
)
