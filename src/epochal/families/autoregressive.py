"""The family `ar`: autoregressive models, the next token from those before it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from epochal.families.family import OPTIONS_CONFIG, Family, Fraction, Positive, Share


@dataclass(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class AutoregressiveOptions:
    """Ablations of the autoregressive objective (family = "ar"); off by default, and always
    off in evaluation."""

    orders: Positive = 1
    """Number of fixed reading orders; each row draws one. The first is left to right."""
    order_kind: Literal["noise_sorted", "random"] = "noise_sorted"
    """noise_sorted: order i sorts position + i·N(0,1), so it is local (the paper's figure 7).
    random: uniform permutations."""
    token_masking: Share = 0.0
    """Share of positions from which each earlier token is hidden with a probability p, drawn for
    each of these positions (the paper's figure 8b)."""
    replacement: Share = 0.0
    """Share of the input tokens that are replaced by random ones of the vocabulary; targets stay
    (arXiv 2606.16246, with 0.15)."""
    right_to_left: Fraction = 0.0
    """Share of the rows that are read from right to left, after a marker that says so (arXiv
    2606.16246, with 0.5)."""
    largest_offset: Positive = 1
    """Each row predicts the i-th next token, i up to this with a probability that falls like
    exp(−i), after a marker of i unless it is 1 (arXiv 2606.16246, with 5)."""
    masked_copy: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the loss of a second copy of each row, of whose inputs a share from U(0, ½) is
    masked (MIR; arXiv 2606.06888, with 0.4). It doubles what a step costs."""


FAMILY = Family(
    name="ar",
    title="autoregressive",
    short="AR",
    color="#0067a3",
    dark_color="#5ab4e8",
    marker="o",
    exact=True,
    objective="epochal.objectives.autoregressive:Autoregressive",
    attention="causal",
    writer="epochal.generation.autoregressive",
    aliases=("autoregressive",),
    options=AutoregressiveOptions,
    decay_per_capacity=1.1,  # arXiv 2509.14786, within a factor of two of all its optima
    # 48x2x2, 100,000 tokens of the built-in text: 4.30 nats per token instead of 4.63 with 0.02,
    # and 4.04 with a rate of 4e-3. Masked diffusion learns later with it.
    small_model_initial=0.5,
    added_options=frozenset(AutoregressiveOptions.__dataclass_fields__),
    positions_per_token=lambda options: 2 if options.masked_copy else 1,
    loss_is_nll=lambda options: options == AutoregressiveOptions(order_kind=options.order_kind),
    explicit_mask=lambda options: options.token_masking > 0,
)
