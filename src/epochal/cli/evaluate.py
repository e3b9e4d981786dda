"""`epochal eval`."""

from __future__ import annotations

from typing import Literal

import click

from epochal.cli.output import json_option, print_json, print_pairs


@click.command("eval")
@click.argument("run")
@click.option("--checkpoint", type=click.Choice(["best", "last", "ema"]), help="[default: best]")
@click.option("--draws", type=int, help="Mask draws per row for diffusion.  [default: 8]")
@click.option(
    "--tolerance",
    type=float,
    metavar="NATS",
    help="Make as many draws as bring the error from them down to this, for example 0.01.",
)
@click.option(
    "--estimator",
    type=click.Choice(["stratified", "paper"]),
    default="stratified",
    show_default=True,
    help="paper: the original's (independent noise, 32 draws, windows of L+1 tokens).",
)
@click.option("--corpus", help="Another corpus folder, made with the same tokenizer.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@json_option
def evaluate(
    run: str,
    checkpoint: Literal["best", "last", "ema"] | None,
    draws: int | None,
    tolerance: float | None,
    estimator: Literal["stratified", "paper"],
    corpus: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Validation NLL of a run over the whole validation set, with its standard error.

    Exact for autoregressive models. For masked diffusion an upper bound, by Monte Carlo: the
    error from the draws says how far other masks would move the figure, the error from the
    documents how far other documents would. The same masks are used for every checkpoint.

    \b
    Examples:
      epochal eval runs/quickstart/mdm
      epochal eval runs/quickstart/mdm --tolerance 0.005 --checkpoint last
      epochal eval runs/quickstart/mdm --estimator paper --json
    """
    from epochal.workflows.evaluate import evaluate as score

    result = score(
        run,
        checkpoint=checkpoint,
        estimator=estimator,
        draws=draws,
        tolerance=tolerance,
        corpus=corpus,
        device=device,
    )
    if as_json:
        print_json(result.as_dict())
        return
    bound = "" if result.estimator == "exact" or result.family == "ar" else " (upper bound)"
    rows = [
        ("NLL", f"{result.nll_nats_per_token:.4f} ± {result.standard_error:.4f} nats/token{bound}"),
        ("  from the draws", f"± {result.standard_error_draws:.4f}"),
        ("  from the documents", _error(result.standard_error_documents)),
        ("bits per byte", f"{result.bits_per_byte:.4f}" if result.bits_per_byte else "not known"),
        ("perplexity", f"{2.718281828459045**result.nll_nats_per_token:,.1f}"),
        ("estimator", f"{result.estimator}, {result.draws} draws" if bound else result.estimator),
        ("scored", f"{result.tokens_scored:,} tokens, {result.documents:,} documents"),
        ("checkpoint", f"{result.checkpoint}, step {result.step:,}"),
    ]
    print_pairs(rows)


def _error(value: float | None) -> str:
    return "not known: a single document" if value is None else f"± {value:.4f}"
