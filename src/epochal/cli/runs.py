"""`epochal runs`."""

from __future__ import annotations

import click

from epochal.cli.output import json_option, print_json, print_table

_QUIET = 600


@click.command()
@click.argument("folders", nargs=-1, metavar="[FOLDER]...")
@json_option
def runs(folders: tuple[str, ...], as_json: bool) -> None:
    """List runs and compare them: status, progress, NLL, speed, differing settings.

    FOLDERS are runs or hold runs; `runs` if none is given. Runs in progress are listed, too.

    \b
    Examples:
      epochal runs
      epochal runs runs/isoflop quickstart --json
    """
    from epochal.report.listing import list_runs
    from epochal.units import format_count

    lines = list_runs(folders or ("runs",))
    if as_json:
        print_json([line.as_dict() for line in lines])
        return

    def count(value: float | None) -> str:
        return "–" if value is None else format_count(value)

    def nll(value: float | None) -> str:
        return "–" if value is None else f"{value:.4f}"

    header = ["run", "status", "family", "params", "unique", "epochs", "done", "best NLL"]
    header += ["at step", "evaluated", "tok/s", "differs in"]
    rows = [
        [
            line.run,
            line.status + _quiet(line.quiet_seconds),
            line.family,
            count(line.params),
            count(line.unique_tokens),
            "–" if line.epochs is None else f"{line.epochs:.4g}",
            f"{100 * line.progress:.0f}%",
            nll(line.best_nll),
            "–" if line.best_step is None else f"{line.best_step:,}",
            nll(line.evaluated_nll),
            count(line.tokens_per_second),
            " ".join(f"{key}={value}" for key, value in line.differs.items()),
        ]
        for line in lines
    ]
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    print_table(header, rows, left=3)


def _quiet(seconds: float | None) -> str:
    """A run that says nothing for long may have been killed."""
    if seconds is None or seconds < _QUIET:
        return ""
    return f", quiet for {seconds / 3600:.1f} h"
