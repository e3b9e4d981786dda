"""`epochal quality`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from epochal.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from epochal.evaluation.quality import QualityRow


@click.command()
@click.argument("run")
@click.option(
    "--judge", required=True, metavar="RUN", help="A run of the other family, or RUN@CHECKPOINT."
)
@click.option("--steps", metavar="N,N,…", help="Forward passes per text.  [default: 1,2,4,…]")
@click.option("--tokens", type=int, help="Tokens per text at most.  [default: up to 64]")
@click.option("--samples", default=64, show_default=True, help="Texts per number of steps.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same texts.")
@click.option("--temperature", default=1.0, show_default=True, help="0: always the likeliest.")
@click.option("--top-k", type=int, help="Choose among so many likeliest tokens.")
@click.option("--top-p", type=float, help="Choose among tokens of this total probability.")
@click.option(
    "--order",
    type=click.Choice(["confidence", "margin", "entropy", "ancestral"]),
    default="confidence",
    show_default=True,
    help="Which tokens come to light first.",
)
@click.option("--checkpoint", metavar="NAME", help="best, last, ema or a step.  [default: best]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@json_option
def quality(
    run: str,
    judge: str,
    steps: str | None,
    tokens: int | None,
    samples: int,
    seed: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    order: Literal["confidence", "margin", "entropy", "ancestral"],
    checkpoint: str | None,
    device: str,
    as_json: bool,
) -> None:
    """How good a run's texts are, by the number of steps that a text may take.

    The judge's NLL of the texts, how varied they are, and how often they repeat themselves,
    beside the same figures of real text. Kept in the run's folder.

    \b
    Example:
      epochal quality quickstart/mdm --judge quickstart/ar --steps 1,4,16,64
    """
    try:
        counts = [int(word) for word in steps.split(",")] if steps else None
    except ValueError:
        raise click.BadParameter(
            f"{steps!r} is no list of whole numbers such as 1,4,16", param_hint="--steps"
        ) from None
    from epochal.evaluation.quality import quality as judged

    found = judged(
        run,
        judge,
        steps=counts,
        tokens=tokens,
        samples=samples,
        seed=seed,
        order=order,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        checkpoint=checkpoint,
        device=device,
    )
    if as_json:
        print_json(found.as_dict())
        return
    rows = [_cells(row) for row in found.rows]
    if found.reference is not None:
        rows.append(_cells(found.reference))
    header = ["steps", "NLL", "±", "distinct-1", "distinct-2", "repetition", "tokens", "tokens/s"]
    print_table(header, rows)
    click.echo(
        f"{found.family} ({found.order}, temperature {found.temperature:g}), judged by "
        f"{found.judge} ({found.judge_family}), {found.samples} texts each"
    )


def _cells(row: QualityRow) -> list[str]:
    return [
        "real text" if row.steps is None else f"{row.steps:,}",
        f"{row.nll_nats_per_token:.3f}",
        "–" if row.standard_error is None else f"{row.standard_error:.3f}",
        f"{row.distinct_1:.3f}",
        f"{row.distinct_2:.3f}",
        f"{row.repetition:.3f}",
        f"{row.tokens:,}",
        "–" if not row.seconds else f"{row.tokens / row.seconds:,.0f}",
    ]
