"""`epochal tune`."""

from __future__ import annotations

import textwrap

import click

from epochal.cli.options import options
from epochal.cli.output import WIDTH, json_option, print_json, print_paragraph, print_table
from epochal.sweeps.options import TuneOptions


@click.command()
@click.argument("source", metavar="RECIPE")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@options(TuneOptions)
@json_option
def tune(source: str, overrides: tuple[str, ...], options: TuneOptions, as_json: bool) -> int:
    """Search each family's best learning rate, weight decay and epochs, with a certificate.

    Starts from RECIPE and doubles or halves one setting at a time, as long as the held-out NLL
    falls. The settings found are certified if every such step from them is worse by more than its
    error. More weight decay than 0.1 is only tried where held-out loss had turned up by the end of
    a run; where it has, autoregressive models first try 1.1·N/U. RECIPE may be a sweep file: each
    of its runs is then the start of a search.

    The same command resumes, and finished runs are not done again. With --budget every search may
    train for the same time.

    \b
    Examples:
      epochal tune quickstart data.corpus=corpus train.epochs=8 --jobs 2
      epochal tune mine.toml --family ar --axis lr --axis weight_decay --axis epochs --axis dropout
      epochal tune mine.toml --budget 2h --jobs 2 --out tuned
    """
    from epochal.families import get_family
    from epochal.report.text.tune import certificate, neighbour_text, nll_text
    from epochal.sweeps.tune import tune as run
    from epochal.sweeps.tuned import Verdict

    result = run(source, overrides, options)
    if as_json:
        print_json(result)
    else:
        for search in result.searches:
            print_paragraph(certificate(search))
            for one in search.neighbours:
                doubtful = one.verdict in (Verdict.CLOSE, Verdict.BETTER, Verdict.UNTRIED)
                mark = "!" if doubtful else "✓" if one.verdict is Verdict.WORSE else "·"
                click.echo(
                    textwrap.fill(
                        neighbour_text(one),
                        WIDTH,
                        initial_indent=f"  {mark} ",
                        subsequent_indent="    ",
                    )
                )
            click.echo()
        header = ["search", "runs", "tokens", "FLOPs", "minutes", "NLL at start", "NLL", "recipe"]
        rows = [
            [
                search.name,
                str(search.effort.runs),
                f"{search.effort.tokens:,}",
                f"{search.effort.flops:.3g}",
                f"{search.effort.seconds / 60:.1f}",
                nll_text(search.start, get_family(search.family).exact),
                nll_text(search.best, get_family(search.family).exact),
                str(search.recipe),
            ]
            for search in result.searches
        ]
        print_table(header, rows)
    return 1 if any(search.best.nll is None for search in result.searches) else 0
