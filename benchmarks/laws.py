"""Try every scaling law on tables of public runs: `python benchmarks/laws.py --help`."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np

from epochal.errors import DataError
from epochal.estimates import Floats
from epochal.scaling.choose import choose_law
from epochal.scaling.estimate import PointFit, point_fit
from epochal.scaling.forms import FORMS
from epochal.scaling.forms.form import Form, Inputs
from epochal.scaling.identified import unidentified
from epochal.scaling.options import FitOptions
from epochal.scaling.points import Points
from epochal.scaling.read import read_csv

_REPOSITORY = Path(__file__).parents[1]
_GRID = "tests/data_files/paper_grid_100M.csv"
_PUBLIC = "samples/scaling/gadre_overtraining.csv"
_OPTIONS = FitOptions(keep_overfitted=True, bootstraps=0)
"""All laws see the same runs, as with `fit --law auto`."""
HELD_OUT = 0.2
"""Share of the runs, those of the largest compute, that a law is not fitted to."""
GPT2, NEOX = 50_257, 50_277
"""Vocabularies of the two tables' tokenizers, for the loss of a model that knows nothing."""


@dataclass(frozen=True, slots=True)
class Score:
    """One law on one table."""

    table: str
    law: str
    extrapolation: float | None
    """Mean of |log predicted − log seen| at the held-out runs of the largest compute."""
    groups: float | None
    """The same of held-out groups (`epochal.scaling.choose`), by which auto chooses."""
    chosen: bool
    """By auto."""
    reason: str = ""
    """Refused, or which constants the runs that are left do not identify."""


def tables(shared: Path) -> Iterator[tuple[str, str, Points]]:
    """(name, family, points) of each table; says which are not there."""
    grid = replace(read_csv(_REPOSITORY / _GRID), vocabulary=GPT2)
    for family, name in (("ar", "AR"), ("mdm", "diffusion")):
        yield f"paper's grid, {name}", family, grid.of_family(family)
    path = shared / _PUBLIC
    if not path.exists():
        click.echo(f"skipped: there is no {path}", err=True)
        return
    with path.open(newline="", encoding="utf-8") as file:
        corpora = sorted({row["train_data"] for row in csv.DictReader(file)})
    for corpus in corpora:
        columns = {"val_loss": "loss_c4_val"}
        points = read_csv(path, columns, {"train_data": corpus})
        yield f"one epoch, {corpus}", "ar", replace(points, vocabulary=NEOX)


def scores(name: str, family: str, points: Points) -> list[Score]:
    """Every law on one table."""
    choice = choose_law(points, family, _OPTIONS)
    groups = {one.law: one.held_out_error for one in choice.candidates}
    order = np.argsort(points.flops, kind="stable")
    cut = len(points) - max(1, round(HELD_OUT * len(points)))
    rest, largest = points.take(order[:cut]), points.take(order[cut:])
    found = []
    for law, form in FORMS.items():
        error, reason = None, ""
        try:
            fit = point_fit(rest, family, form, _OPTIONS, polished=2)
            error = float(_errors(fit, form, largest).mean())
            if lost := unidentified(fit.problem, fit.constants[0]):
                reason = f"not identified: {', '.join(lost)}"
        except DataError:
            reason = "refused"
        found.append(Score(name, law, error, groups.get(law), law == choice.law, reason))
    return found


def _errors(fit: PointFit, form: Form, points: Points) -> Floats:
    where = Inputs.at(points.params, points.tokens, points.unique_tokens)
    errors: Floats = np.abs(form.predict(fit.constants[:1], where)[0] - np.log(points.loss))
    return errors


def markdown(found: list[Score]) -> str:
    """Laws down, tables across: error at the largest runs / of held-out groups, in percent."""
    names = list(dict.fromkeys(one.table for one in found))
    lines = [f"| law | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for law in FORMS:
        cells = [_cell(one) for one in found if one.law == law]
        lines.append(f"| `{law}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(one: Score) -> str:
    text = "–" if one.extrapolation is None else f"{100 * one.extrapolation:.2f}"
    if one.extrapolation is not None and one.reason:
        text += "†"
    if one.groups is not None:
        text += f" / {100 * one.groups:.2f}"
    return f"**{text}**" if one.chosen else text


@click.command()
@click.option(
    "--shared",
    type=click.Path(path_type=Path),
    default=_REPOSITORY.parent / "shared",
    help="Folder with samples/scaling/; tables that are not there are skipped.",
)
def main(shared: Path) -> None:
    """Held-out errors of every law on the paper's loss grid and on public one-epoch runs.

    Each law is fitted without the fifth of the runs with the largest compute, and predicts these.
    Prints the table of benchmarks/README.md; takes some minutes.
    """
    found: list[Score] = []
    for name, family, points in tables(shared):
        found += scores(name, family, points)
        click.echo(f"done: {name}", err=True)
    click.echo(markdown(found))
    for one in found:
        if one.reason:
            click.echo(f"{one.table}, {one.law}: {one.reason}", err=True)


if __name__ == "__main__":
    main()
