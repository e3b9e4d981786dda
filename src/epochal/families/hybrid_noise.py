"""The family `hybrid`: diffusion whose noise masks some tokens and replaces others (GIDD)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from epochal.families.family import OPTIONS_CONFIG, Family


@dataclass(frozen=True, kw_only=True, config=OPTIONS_CONFIG)
class HybridOptions:
    """Settings of hybrid noise (family = "hybrid")."""

    shift: Annotated[float, Field(ge=-20, le=20)] = 0.0
    """The share of the noise that is random tokens is sigmoid(log-SNR + shift), the rest masks;
    −2, 0 and 2 in arXiv 2512.10858."""


FAMILY = Family(
    name="hybrid",
    title="hybrid-noise diffusion",
    short="Hybrid",
    color="#6b5b00",
    dark_color="#d8c24a",
    marker="P",
    exact=False,
    objective="epochal.objectives.jump_noise:JumpNoise",
    attention="bidirectional",
    writer="epochal.generation.denoising",
    cross_entropy=False,
    noise_level=True,
    by_default=False,
    options=HybridOptions,
    mask_token=True,
    scored_share=0.5625,
)
