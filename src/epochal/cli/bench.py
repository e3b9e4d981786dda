"""`epochal bench`."""

from __future__ import annotations

import click

from epochal.cli.output import json_option, print_table


@click.command()
@click.argument("names", nargs=-1, metavar="[PART]...")
@click.option("--rounds", type=click.IntRange(min=2), default=9, show_default=True)
@click.option("--quick", is_flag=True, help="A smaller vocabulary and fewer rounds: a minute.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: torch's]")
@click.option("--tokenizer", help="Tokenizer to time.  [default: one trained on built-in text]")
@json_option
def bench(
    names: tuple[str, ...],
    rounds: int,
    quick: bool,
    threads: int | None,
    tokenizer: str | None,
    as_json: bool,
) -> None:
    """Speed and memory on this machine, as ratios within one run.

    \b
    Parts (all, if none is named):
      help        time of `epochal --help`
      tokenizer   MB/s of BPE through tiktoken, against `tokenizers`
      loader      rows of a step, as a share of the step
      eval        a draw of `epochal eval` against the bare forward passes
      downstream  questions scored with 32 masks, against the original's way, one at a time
      generate    tokens/s of writing, with keys and values kept and with all read anew
      estimator   error of the MDM bound, ours against the paper's, at equal work
      fit         a law's fit of 240 points against 4500 L-BFGS starts, and 500 resamples
      step        time and peak memory of a training step, AR and MDM, against a step as
                  nanoGPT writes it (logits and cross-entropy of all positions, compiled)
                  and as SMDM does (logits of all positions, then the masked ones)

    Variants take turns; the table has medians and, in brackets, the smallest and the largest
    over the rounds. Peers are plain versions written here, with the same trunk.

    \b
    Examples:
      epochal bench --quick
      epochal bench step --rounds 15 --threads 1
    """
    import torch

    from epochal.bench.parts import Options, run_parts
    from epochal.bench.parts import as_json as to_json
    from epochal.bench.steps import Setting

    if threads is not None:
        torch.set_num_threads(threads)
    options = Options(rounds=rounds, tokenizer=tokenizer)
    if quick:
        small = Setting(d_model=128, layers=2, heads=2, sequence_length=128, vocabulary=8190)
        options = Options(
            rounds=min(rounds, 3),
            tokenizer=tokenizer,
            setting=small,
            memory=False,
            estimator_steps=60,
            estimator_repeats=12,
            fit_starts=5,
        )
    rows = run_parts(names, options)
    if as_json:
        click.echo(to_json(rows))
        return
    print_table(
        ["part", "what", "median", "range", ""],
        [
            [
                r.part,
                r.name,
                f"{_figures(r.value)} {r.unit}",
                f"({_figures(r.low)} – {_figures(r.high)})",
                r.note,
            ]
            for r in rows
        ],
        left=2,
    )


def _figures(value: float) -> str:
    """Three significant figures, large numbers in full."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
