"""`epochal plan`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from epochal.cli.options import options, refuse
from epochal.cli.output import json_option, print_json, print_note, print_paragraph, print_table
from epochal.scaling.options import PlanOptions

if TYPE_CHECKING:
    from epochal.recipe import Recipe
    from epochal.scaling.law import ScalingLaw
    from epochal.scaling.planner import CriticalDataReport, FamilyPlan, PlanReport


@click.command()
@click.option("--unique-tokens", "-U", metavar="N", help="Unique tokens, for example 100M.")
@click.option("--flops", metavar="C", help="Training FLOPs, 6·N·D, for example 1e20.")
@options(PlanOptions)
@click.option(
    "--reverse", is_flag=True, help="Find the unique tokens at which the lead changes instead."
)
@click.option(
    "--recipe",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write recipes: the advised family's here, the others' beside it.",
)
@json_option
def plan(
    unique_tokens: str | None,
    flops: str | None,
    options: PlanOptions,
    reverse: bool,
    recipe: Path | None,
    as_json: bool,
) -> None:
    """Choose size, epochs and family for a number of unique tokens and a budget.

    Without --unique-tokens and --corpus, or with --reverse, it gives the unique tokens at which
    the lead changes from one family to another with the budget.

    \b
    Examples:
      epochal plan --unique-tokens 100M --flops 1e20
      epochal plan -U 1B --gpus 8xH100 --hours 24 --laws law.toml --recipe out.toml
      epochal plan --flops 1e20 --reverse
    """
    from epochal.units import parse_number

    if recipe is not None and recipe.suffix != ".toml":
        raise click.UsageError(f"--recipe {recipe}: the name of a recipe ends in .toml")
    budget = parse_number(flops) if flops else None
    if reverse:
        why = "does not go with --reverse, which finds the unique tokens for a budget"
        refuse(["unique_tokens", "corpus", "sizes", "vocabulary"], why)
    if reverse or (unique_tokens is None and options.corpus is None):
        from epochal.scaling.plan import critical_unique_tokens

        if recipe is not None:
            raise click.UsageError("--recipe needs --unique-tokens or --corpus")
        critical = critical_unique_tokens(budget, options)
        print_json(critical) if as_json else _print_critical(critical)
        return
    from epochal.scaling.plan import find_laws, planned_recipes
    from epochal.scaling.plan import plan as run_plan

    report = run_plan(parse_number(unique_tokens) if unique_tokens else None, budget, options)
    written = []
    if recipe is not None:
        corpus = None if options.corpus is None else str(options.corpus)
        laws, _ = find_laws(options.laws)
        planned = planned_recipes(report, laws, corpus)
        written = _write_recipes(recipe, report, planned, laws)
    if as_json:
        print_json(report)
        return
    _print_plan(report)
    for path in written:
        click.echo(f"recipe: {path}")


def _write_recipes(
    path: Path,
    report: PlanReport,
    planned: Sequence[tuple[FamilyPlan, Recipe]],
    laws: Mapping[str, ScalingLaw],
) -> list[Path]:
    """Write the first recipe to `path`, the others beside it with their family's name."""
    from epochal import files
    from epochal.recipe import recipe_toml
    from epochal.report.text.plan import recipe_head

    written: list[Path] = []
    for plan, recipe in planned:
        place = path.with_name(f"{path.stem}-{plan.family}{path.suffix}") if written else path
        head = recipe_head(plan, report, like_run=laws[plan.family].recipe is not None)
        files.write_text(place, head + recipe_toml(recipe))
        written.append(place)
    return written


def _print_plan(report: PlanReport) -> None:
    """Table, verdict, alternatives and notes, on standard output."""
    from epochal.report.text import describe
    from epochal.report.text.plan import plan_lines, verdict_sentence
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
    click.echo("")
    print_paragraph(verdict_sentence(report))
    click.echo("")
    for line in plan_lines(report):
        print_note(line)
    for one in report.notes:
        print_note(describe(one))


def _print_critical(report: CriticalDataReport) -> None:
    """The answer and its notes, on standard output."""
    from epochal.report.text import describe
    from epochal.report.text.plan import critical_data_text

    print_paragraph(critical_data_text(report))
    click.echo("")
    for one in report.notes:
        print_note(describe(one))
