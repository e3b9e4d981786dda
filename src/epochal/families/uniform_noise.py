"""The family `uniform`: diffusion whose noise replaces tokens by random ones."""

from __future__ import annotations

from epochal.families.family import Family

FAMILY = Family(
    name="uniform",
    title="uniform-noise diffusion",
    short="Uniform",
    color="#a3195b",
    dark_color="#f27eb2",
    marker="v",
    exact=False,
    objective="epochal.objectives.jump_noise:JumpNoise",
    attention="bidirectional",
    writer="epochal.generation.denoising",
    cross_entropy=False,
    noise_level=True,
    scored_share=0.5625,
    by_default=False,
)
