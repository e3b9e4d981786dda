"""`epochal plan`."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import click

from epochal.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from epochal.scaling.planner import CriticalDataReport, PlanReport

WIDTH = 92


@click.command()
@click.option("--unique-tokens", "-U", metavar="N", help="Unique tokens, for example 100M.")
@click.option("--flops", metavar="C", help="Training FLOPs, 6·N·D, for example 1e20.")
@click.option("--gpus", metavar="KxGPU", help="GPUs instead of FLOPs, for example 8xH100.")
@click.option("--hours", type=float, help="Hours on these GPUs.")
@click.option("--mfu", type=float, help="Share of the GPUs' peak that is reached.  [default: 0.4]")
@click.option(
    "--laws",
    default="paper",
    show_default=True,
    metavar="NAME|FILE",
    help="paper (both families), muennighoff (AR), or a file of `epochal fit --out`.",
)
@click.option("--sizes", metavar="A,B,…", help="Sizes to choose from: ladder names or parameters.")
@click.option("--corpus", metavar="FOLDER", help="Take U and the vocabulary from a corpus.")
@click.option("--vocabulary", type=click.IntRange(min=2), help="For sizes.  [default: the laws']")
@click.option("--reverse", is_flag=True, help="Ask at which U diffusion wins with this budget.")
@click.option(
    "--recipe", metavar="FILE", help="Write recipes: the advised family's, and the other's beside."
)
@json_option
def plan(
    unique_tokens: str | None,
    flops: str | None,
    gpus: str | None,
    hours: float | None,
    mfu: float | None,
    laws: str,
    sizes: str | None,
    corpus: str | None,
    vocabulary: int | None,
    reverse: bool,
    recipe: str | None,
    as_json: bool,
) -> None:
    """What to train on so many unique tokens with a budget: size, epochs, family.

    Without --unique-tokens (and --corpus), or with --reverse, it answers at which U diffusion
    is predicted to win with the budget.

    \b
    Examples:
      epochal plan --unique-tokens 100M --flops 1e20
      epochal plan -U 1B --gpus 8xH100 --hours 24 --laws law.toml --recipe out.toml
      epochal plan --flops 1e20 --reverse
    """
    from epochal.scaling.plan import find_laws
    from epochal.scaling.plan import plan as run_plan
    from epochal.scaling.planner import CriticalDataReport
    from epochal.sizes import DEFAULT_MFU
    from epochal.units import parse_number

    if recipe is not None and not recipe.endswith(".toml"):
        raise click.UsageError(f"--recipe {recipe}: a recipe's name ends in .toml")
    if reverse:
        unique_tokens = corpus = None
    report = run_plan(
        parse_number(unique_tokens) if unique_tokens else None,
        parse_number(flops) if flops else None,
        laws=laws,
        gpus=gpus,
        hours=hours,
        mfu=DEFAULT_MFU if mfu is None else mfu,
        sizes=[s.strip() for s in sizes.split(",") if s.strip()] if sizes else None,
        corpus=corpus,
        vocabulary=vocabulary,
    )
    written = []
    if recipe is not None:
        if isinstance(report, CriticalDataReport):
            raise click.UsageError("--recipe needs --unique-tokens or --corpus")
        from epochal.scaling.plan_recipes import write_recipes

        written = write_recipes(recipe, report, find_laws(laws)[0], corpus)
    if as_json:
        print_json(report.as_dict())
        return
    if isinstance(report, CriticalDataReport):
        print_reverse(report)
    else:
        print_plan(report)
    for path in written:
        click.echo(f"recipe: {path}")


def print_plan(report: PlanReport) -> None:
    """Table, verdict, alternatives and notes, on standard output."""
    from epochal.units import format_count

    rows = []
    for p in report.families:
        interval = f"{p.interval[0]:.3f} – {p.interval[1]:.3f}" if p.interval else "–"
        what = [format_count(p.params), format_count(p.tokens), f"{p.epochs:.3g}"]
        rows.append([p.family, "best", *what, format_count(p.flops), f"{p.loss:.4f}", interval])
        if p.size is not None:
            s = p.size
            what = [format_count(s.params), format_count(s.tokens), f"{s.epochs:.3g}"]
            spent = format_count(6 * s.params * s.tokens)
            rows.append([p.family, f"size {s.name}", *what, spent, f"{s.loss:.4f}", ""])
        for a in p.alternatives:
            what = [format_count(a.params), format_count(a.tokens), f"{a.epochs:.3g}"]
            rows.append([p.family, a.what, *what, format_count(a.flops), f"{a.loss:.4f}", ""])
    header = ["family", "plan", "params", "tokens", "epochs", "FLOPs", "loss", "95 % interval"]
    print_table(header, rows, left=2)
    click.echo(f"\n{textwrap.fill(report.verdict, WIDTH)}\n")
    for p in report.families:
        floor = (
            f"{p.family}: floor {p.floor:.3f} on these tokens, reached to 0.001 nats at "
            f"{format_count(p.saturation_flops)} FLOPs"
        )
        _note(floor + ("; the budget is beyond that: more buys nothing" if p.saturated else ""))
        if p.extrapolation_warnings:
            _note(f"{p.family} extrapolates: {'; '.join(p.extrapolation_warnings)}")
    critical = report.critical
    if critical is not None and critical.interval is not None:
        ends = [format_count(e) if e is not None else "open" for e in critical.interval]
        _note(f"critical compute, interval: {ends[0]} – {ends[1]} FLOPs")
    if critical is not None:
        _note(
            f"cited only: the paper's closed form gives {format_count(report.closed_form_flops)} "
            "FLOPs; its own figure has another slope"
        )
    for note in report.notes:
        _note(note)


def print_reverse(report: CriticalDataReport) -> None:
    """The answer and its notes, on standard output."""
    click.echo(textwrap.fill(report.verdict, WIDTH) + "\n")
    for note in report.notes:
        _note(note)


def _note(text: str) -> None:
    click.echo(textwrap.fill(text, WIDTH, initial_indent="  · ", subsequent_indent="    "))
