"""`epochal memorise`."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import click

from epochal.cli.numbers import count, numbers
from epochal.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from epochal.memorisation.analysis import CopiesExposure
    from epochal.memorisation.memorise import Memorisation

WIDTH = 92


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("--out", default="memorise", show_default=True, help="Folder for plot and figures.")
@click.option(
    "--prefixes", callback=numbers, default="8,16,32", show_default=True, metavar="TOKENS,...",
    help="Prefix lengths from which continuations are asked for.",
)  # fmt: skip
@click.option("--length", type=int, default=16, show_default=True, help="Tokens to be continued.")
@click.option("--places", type=int, default=200, show_default=True, help="Places in each text.")
@click.option(
    "--max-tokens",
    default="50k",
    show_default=True,
    callback=count,
    metavar="N",
    help="Of each set, for the gap.",
)
@click.option("--draws", type=int, default=8, show_default=True, help="Mask draws for diffusion.")
@click.option(
    "--canaries", help="Key made by `epochal data canaries`: canaries.json or its folder."
)
@click.option(
    "--references", type=int, default=256, show_default=True, help="Unseen secrets per canary."
)
@click.option(
    "--checkpoints", type=int, metavar="N",
    help="Measure so many of each run, evenly spread, best and last among them.  [default: all]",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@json_option
def memorise(runs: tuple[str, ...], as_json: bool, **settings: Any) -> None:
    """What runs remember of their training text, for each checkpoint that was kept.

    The gap between training and validation NLL by epoch; how often text comes back word for
    word, from training and, as a control, from validation documents; the exposure of canaries.
    Several runs are also compared where their validation NLL was equal. Keep more checkpoints
    with `checkpoint.keep_every`.

    \b
    Examples:
      epochal memorise quickstart/ar quickstart/mdm
      epochal memorise runs/private --canaries canaries --prefixes 16,64 --length 32
    """
    from epochal.memorisation.memorise import memorise as measure

    found = measure(runs, **settings)
    if as_json:
        print_json(found.as_dict())
        return
    _print(found)
    click.echo()
    for sentence in found.summary:
        click.echo(textwrap.fill(sentence, WIDTH))
    click.echo(f"\nPlot and figures: {settings['out']}/memorise.svg, .png, .json")


def _print(found: Memorisation) -> None:
    header = ["run", "step", "epochs", "train NLL", "validation NLL", "gap", "extracted", "control"]
    canaries = any(one.canaries for one in found.measured)
    header += ["canaries out", "exposure by copies"] * canaries
    rows = []
    for one in found.measured:
        last = one.extraction[-1]
        control = "–" if last.validation is None else f"{100 * last.validation:.1f} %"
        rows.append(
            [
                one.run,
                f"{one.step:,}",
                f"{one.epochs:.1f}",
                f"{one.train_nll:.3f}",
                f"{one.validation_nll:.3f}",
                f"{one.gap:+.3f}",
                f"{100 * last.train:.1f} %",
                control,
                *_canary_cells(one.exposures) * canaries,
            ]
        )
    print_table(header, rows)


def _canary_cells(groups: list[CopiesExposure]) -> list[str]:
    """Canaries written out, and mean exposure in bits by copies in the training text."""
    seen = [group for group in groups if group.least]
    out, count = sum(group.extracted for group in seen), sum(group.canaries for group in seen)
    means = [
        f"{group.least}–{group.most}: {group.mean:.1f}"
        if group.most > group.least
        else f"{group.least}: {group.mean:.1f}"
        for group in groups
    ]
    return [f"{out} of {count}", ", ".join(means)]
