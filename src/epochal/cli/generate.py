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
    type=click.Choice(["confidence", "margin", "entropy", "ancestral"]),
    help="Diffusion: which tokens come to light first.  [default: confidence]",
)
@click.option("--remask", default=0.0, metavar="SHARE", help="Diffusion: mask so many again.")
@click.option("--block", type=int, help="Diffusion: fill so many masks, then the next ones.")
@click.option("--cached", is_flag=True, help="Diffusion: read what is left of a block only once.")
@click.option("--stream", is_flag=True, help="Print the text as it is settled.")
@click.option("--prompts", metavar="FILE", help="One prompt a line, or .jsonl with `prompt`.")
@click.option("--out", metavar="FILE", help="Where their texts go; goes on if it is there.")
@click.option("--checkpoint", metavar="NAME", help="best, last, ema or a step.  [default: best]")
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
    order: Literal["confidence", "margin", "entropy", "ancestral"] | None,
    remask: float,
    block: int | None,
    cached: bool,
    stream: bool,
    prompts: str | None,
    out: str | None,
    checkpoint: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Let a trained model write on, or fill in gaps.

    Masked diffusion models also fill in: [MASK] in the prompt stands for one token, [MASK:12]
    for twelve, [MASK:3-8] for as many of three to eight as fit best.

    \b
    Examples:
      epochal generate quickstart/ar --prompt "The module provides" --stream
      epochal generate quickstart/mdm --prompt "Return the [MASK:3] of the list." --steps 2
      epochal generate quickstart/mdm --prompts prompts.txt --out texts.jsonl --samples 4
    """
    _check(prompt, prompts, out, stream, as_json)
    from epochal.evaluation.prompts import generate_file, read_prompts
    from epochal.generation.generator import Wish, refuse_for_ar
    from epochal.generation.sampling import Sampling
    from epochal.generation.unmasking import Schedule
    from epochal.interop.load import load

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p)
    many = read_prompts(prompts) if prompts is not None else None
    model = load(run, checkpoint, device)
    options = {"steps": steps, "order": order, "remask": remask, "block": block, "cached": cached}
    # Before they are checked among themselves, and also where one is at its default.
    if model.family == "ar":
        refuse_for_ar([f"--{name}" for name, value in options.items() if value])
    schedule = Schedule(steps, order or "confidence", remask, block, cached)
    wish = Wish(tokens, samples, seed, sampling, schedule)
    if many is not None and out is not None:
        new, before = generate_file(model, many, out, wish)
        click.echo(f"{out}: {new:,} prompts written" + (f", {before:,} were there" * (before > 0)))
        return
    if stream:
        for piece in model.writer.stream(prompt, wish):
            click.echo(piece, nl=False)
        click.echo()
        return
    [(_, written)] = model.writer.write([prompt], wish)
    texts = [one.text for one in written]
    if as_json:
        print_json(texts)
    else:
        click.echo("\n---\n".join(texts))


def _check(prompt: str, prompts: str | None, out: str | None, stream: bool, as_json: bool) -> None:
    """Options that go together. Raises click's usage errors."""
    if (prompts is None) != (out is None):
        raise click.UsageError("--prompts FILE and --out FILE go together")
    if prompts is not None and (prompt or stream or as_json):
        raise click.UsageError("--prompts goes with neither --prompt, --stream nor --json")
    if stream and as_json:
        raise click.UsageError("--stream prints plain text; leave out --json")
