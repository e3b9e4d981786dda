"""`epochal memorise`."""

from __future__ import annotations

import click

from epochal.cli.options import options, refuse
from epochal.cli.output import json_option, print_json, print_paragraph, print_table
from epochal.memorisation.options import MemoriseOptions


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@options(MemoriseOptions)
@json_option
def memorise(runs: tuple[str, ...], options: MemoriseOptions, as_json: bool) -> None:
    """Measure what runs reproduce of their training text, for each checkpoint that was kept.

    The gap between training and validation NLL by epoch; how often text is generated verbatim,
    from training and, as a control, from validation documents; the exposure of canaries.
    Several runs are also compared where their validation NLL was equal. Keep more checkpoints
    with `checkpoint.keep_every`.

    \b
    Examples:
      epochal memorise quickstart/ar quickstart/mdm
      epochal memorise runs/private --canaries canaries --prefix-lengths 16,64 --length 32
    """
    if options.canaries is None:
        refuse(["references"], "needs --canaries")
    from epochal.memorisation.memorise import memorise as measure
    from epochal.report.text.memorisation import summary, table

    result = measure(runs, options)
    if as_json:
        print_json(result)
        return
    print_table(*table(result))
    click.echo()
    for sentence in summary(result):
        print_paragraph(sentence)
    click.echo(f"\nPlot and results: {options.out}/memorise.svg, .png, .json")
