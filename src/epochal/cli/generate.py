"""`epochal generate`."""

from __future__ import annotations

import click

from epochal.cli.options import options, refuse
from epochal.cli.output import json_option, print_json
from epochal.generation.config import GenerationConfig


@click.command()
@click.argument("run")
@click.option("--prompt", default="", help="Text to continue, or with [MASK] to fill in.")
@options(GenerationConfig, into="config")
@click.option("--stream", is_flag=True, help="Print the text as it is settled.")
@click.option("--prompts", metavar="FILE", help="One prompt per line, or .jsonl with `prompt`.")
@click.option("--out", metavar="FILE", help="File for their texts; resumed if it exists.")
@click.option("--checkpoint", metavar="NAME", help="best, last, ema or a step.  [default: best]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@json_option
def generate(
    run: str,
    prompt: str,
    config: GenerationConfig,
    stream: bool,
    prompts: str | None,
    out: str | None,
    checkpoint: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Generate text, or fill in gaps.

    Masked diffusion models (MDM) also fill in: [MASK] in the prompt is one token, [MASK:12]
    twelve, [MASK:3-8] as many of three to eight as fit best.

    \b
    Examples:
      epochal generate quickstart/ar --prompt "The module provides" --stream
      epochal generate quickstart/mdm --prompt "Return the [MASK:3] of the list." --steps 2
      epochal generate quickstart/mdm --prompts prompts.txt --out texts.jsonl --samples 4
    """
    if (prompts is None) != (out is None):
        raise click.UsageError("--prompts FILE and --out FILE go together")
    if prompts is not None and (prompt or stream or as_json):
        raise click.UsageError("--prompts goes with neither --prompt, --stream nor --json")
    if stream and as_json:
        raise click.UsageError("--stream prints plain text; leave out --json")
    from epochal.generation.prompts import generate_file, read_prompts
    from epochal.interop.load import load

    file_prompts = read_prompts(prompts) if prompts is not None else []
    generator = load(run, checkpoint, device).generator
    refuse(generator.unused_options, generator.why_unused)
    if out is not None:
        new, before = generate_file(generator, file_prompts, out, config)
        existed = f", {before:,} already there" if before else ""
        click.echo(f"{out}: {new:,} prompts written{existed}")
        return
    if stream:
        for piece in generator.stream(prompt, config):
            click.echo(piece, nl=False)
        click.echo()
        return
    [(_, generations)] = generator.generate([prompt], config)
    texts = [generation.text for generation in generations]
    if as_json:
        print_json(texts)
    else:
        click.echo("\n---\n".join(texts))
