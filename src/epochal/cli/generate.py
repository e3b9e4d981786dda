"""`epochal generate`."""

from __future__ import annotations

from typing import Literal

import click

from epochal.cli.output import json_option, print_json


@click.command()
@click.argument("run")
@click.option("--prompt", default="", help="Text to go on from, or with [MASK] to fill in.")
@click.option("--tokens", default=64, show_default=True, help="New tokens at most.")
@click.option("--samples", default=1, show_default=True, help="How many texts.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same texts.")
@click.option("--temperature", default=1.0, show_default=True, help="0: always the likeliest.")
@click.option("--top-k", type=int, help="Choose among so many likeliest tokens.")
@click.option("--top-p", type=float, help="Choose among tokens of this total probability.")
@click.option("--steps", type=int, help="Diffusion: forward passes.  [default: one per token]")
@click.option(
    "--order",
    type=click.Choice(["confidence", "ancestral"]),
    default="confidence",
    show_default=True,
    help="Diffusion: which tokens come to light first.",
)
@click.option("--checkpoint", type=click.Choice(["best", "last", "ema"]), help="[default: best]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@json_option
def generate(
    run: str,
    prompt: str,
    tokens: int,
    samples: int,
    seed: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    steps: int | None,
    order: Literal["confidence", "ancestral"],
    checkpoint: Literal["best", "last", "ema"] | None,
    device: str,
    as_json: bool,
) -> None:
    """Let a trained model write on, or fill in gaps.

    Masked diffusion models also fill in: [MASK] in the prompt stands for one token, [MASK:12]
    for twelve.

    \b
    Examples:
      epochal generate runs/quickstart/ar --prompt "The module provides"
      epochal generate runs/quickstart/mdm --prompt "Return the [MASK:3] of the list." --steps 2
    """
    from epochal.workflows.load import load

    texts = load(run, checkpoint, device).generate(
        prompt,
        tokens=tokens,
        samples=samples,
        seed=seed,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        steps=steps,
        order=order,
    )
    if as_json:
        print_json(texts)
    else:
        click.echo("\n---\n".join(texts))
