"""The family `mdm`: masked diffusion models, the masked tokens from the visible ones."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from epochal.families.family import OPTIONS_CONFIG, Family, Positive, Share


@dataclass(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class MaskedDiffusionOptions:
    """Settings of the masked diffusion objective (family = "mdm")."""

    noise: Literal["iid", "stratified"] = "iid"
    """iid: t ~ U(0,1) per row, tokens masked independently (the paper). stratified: numbers of
    masked tokens spread evenly over the global batch."""
    eps: Annotated[float, Field(ge=0, lt=1)] = 1e-3
    """Smallest masking probability, p = (1−eps)·t + eps. Only used by iid noise."""
    loss_weight: Literal["inverse_prob", "mask_fraction", "mask_count", "unweighted"] = (
        "inverse_prob"
    )
    """Weight of a masked token. inverse_prob: 1/p (the paper). mask_fraction: L/m for the m
    tokens that were masked, at least one (MegaDLMs). mask_count: exactly K = 1 + ⌊t·L⌋ masked,
    weight L/K (LLaDA's likelihood). unweighted: 1, mean over masked tokens (MaskGIT)."""
    ar_ratio: Share = 0.0
    """Share of rows whose n masked tokens are the last n of the row."""
    low_noise_start: bool = False
    """Start with less noise: t is multiplied by low_noise_ratio in the first steps."""
    low_noise_iters: Positive = 1000
    """Number of these steps."""
    low_noise_ratio: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Factor of t in these steps."""
    random_length: Share = 0.0
    """Share of steps whose rows are cut to a random length, 1 … L (0.01 in SMDM and LLaDA)."""


FAMILY = Family(
    name="mdm",
    title="masked diffusion",
    short="MDM",
    color="#c14f00",
    dark_color="#ff9d57",
    marker="D",
    exact=False,
    objective="epochal.objectives.masked_diffusion:MaskedDiffusion",
    attention="bidirectional",
    writer="epochal.generation.unmasking",
    aliases=("diffusion", "masked_diffusion", "masked diffusion"),
    options=MaskedDiffusionOptions,
    mask_token=True,
    small_model_options={"noise": "stratified"},
    scored_share=0.5,
    added_options=frozenset(
        {
            "loss_weight",
            "ar_ratio",
            "low_noise_start",
            "low_noise_iters",
            "low_noise_ratio",
            "random_length",
        }
    ),
    loss_is_nll=lambda options: (
        options.loss_weight == "inverse_prob" and not (options.ar_ratio or options.low_noise_start)
    ),
    reads_short_rows=lambda options: options.random_length > 0,
)
