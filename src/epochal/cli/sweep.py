"""`epochal sweep`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from epochal.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from epochal.sweeps.listing import Listing


@click.command()
@click.argument("name", metavar="SWEEP")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--dry-run", is_flag=True, help="List the runs with their cost, and end.")
@click.option("--gpu", metavar="NAME", help="With --dry-run: GPU hours on this GPU, like H100.")
@json_option
def sweep(
    name: str, overrides: tuple[str, ...], dry_run: bool, gpu: str | None, as_json: bool
) -> None:
    """Many runs from one file: isoFLOP grids, epochs, data value, ablations, seeds.

    SWEEP is a TOML file with a [sweep] section, or the name of a shipped one. KEY=VALUE changes
    it: sweep.KEY what is varied, grid.KEY the values of a recipe key, and a bare recipe key the
    recipe of all runs.

    \b
    Examples:
      epochal sweep isoflop.toml --dry-run --gpu H100
      epochal sweep isoflop.toml sweep.seeds=[1,2] train.global_batch=32 --dry-run
    """
    from epochal.errors import UserError
    from epochal.sweeps import load_sweep
    from epochal.sweeps.listing import list_sweep

    wanted = load_sweep(name, overrides)
    if not dry_run:
        raise UserError("give --dry-run: only that is there so far")
    listing = list_sweep(wanted, gpu)
    if as_json:
        print_json(listing.as_dict())
    else:
        print_listing(listing)


def print_listing(listing: Listing) -> None:
    """The runs, their sum and the notes, on standard output."""
    from epochal.units import format_count

    header = ["run", "family", "size", "params", "unique", "tokens", "epochs", "FLOPs", "steps"]
    if listing.gpu:
        header.append(f"{listing.gpu} hours")
    rows = [
        [
            row.name,
            row.family,
            row.size,
            format_count(row.params),
            "all" if row.unique_tokens is None else format_count(row.unique_tokens),
            format_count(row.tokens),
            "–" if row.epochs is None else f"{row.epochs:.4g}",
            f"{row.flops:.3g}",
            f"{row.steps:,}",
            *([] if row.gpu_hours is None else [f"{row.gpu_hours:,.1f}"]),
        ]
        for row in listing.rows
    ]
    print_table(header, rows, left=3)
    total = f"\n{len(rows)} runs, {format_count(listing.tokens)} tokens, {listing.flops:.3g} FLOPs"
    if listing.gpu_hours is not None:
        total += f", {listing.gpu_hours:,.1f} {listing.gpu} hours"
    click.echo(total)
    for note in listing.notes:
        click.echo(f"  · {note}")
