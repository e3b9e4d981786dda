"""Measure speed and memory on this machine: `python benchmarks/run.py --help`."""

from __future__ import annotations

from dataclasses import replace

import click
import torch

from epochal.cli.options import options as dataclass_options
from epochal.cli.output import json_option, print_json, print_table
from epochal.errors import EpochalError
from parts import PARTS, run_parts
from parts.options import QUICK, Options

_HELP = """Speed and memory on this machine, as ratios within one run.

\b
Parts (all, if none is named):
{parts}

Variants take turns; the table has medians and, in brackets, the smallest and the largest value
over the rounds. Peers are plain versions written here, with the same trunk.

\b
Examples:
  python benchmarks/run.py --quick
  python benchmarks/run.py steps memory --rounds 15 --threads 1
"""


@click.command(
    help=_HELP.format(parts="\n".join(f"  {name:<11} {what}" for name, what in PARTS.items())),
    context_settings={"max_content_width": 100},
)
@click.argument("names", nargs=-1, metavar="[PART]...")
@click.option("--quick", is_flag=True, help="A small model, three rounds: about a minute.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads.  [default: torch's]")
@dataclass_options(Options)
@json_option
def main(
    names: tuple[str, ...], quick: bool, threads: int | None, options: Options, as_json: bool
) -> None:
    """Measure the parts and print their rows."""
    if threads is not None:
        torch.set_num_threads(threads)
    if options.rounds < 2:
        raise click.UsageError(f"--rounds {options.rounds}: give at least 2")
    if quick:
        options = replace(options, rounds=min(options.rounds, 3), **QUICK)
    try:
        rows = run_parts(names, options)
    except EpochalError as error:
        raise click.UsageError(str(error)) from None
    if as_json:
        print_json({"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows})
        return
    print_table(
        ["part", "what", "median", "range", ""],
        [
            [
                row.part,
                row.name,
                f"{_figures(row.value)} {row.unit}",
                f"({_figures(row.low)} – {_figures(row.high)})",
                row.note,
            ]
            for row in rows
        ],
        left=2,
    )


def _figures(value: float) -> str:
    """Three significant figures, large numbers in full."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
