"""`epochal sweep`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from epochal.cli.output import json_option, print_json, print_table
from epochal.cli.submit import OPTION_NAMES, cluster_options, make_resources, print_submission

if TYPE_CHECKING:
    from epochal.sweeps.listing import Listing
    from epochal.sweeps.sweep import SweepResult


@click.command()
@click.argument("name", metavar="SWEEP")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--dry-run", is_flag=True, help="List the runs with their cost, and end.")
@click.option("--gpu", metavar="NAME", help="With --dry-run: GPU hours on this GPU, like H100.")
@click.option("--jobs", default=1, show_default=True, help="Runs at a time on this machine.")
@click.option("--out", help="Folder for the runs.  [default: runs/<sweep's name>]")
@click.option("--retry", is_flag=True, help="Try runs again that failed or were ended early.")
@click.option(
    "--reuse",
    multiple=True,
    metavar="FOLDER",
    help="Where to look for runs that are done.  [default: the folder that holds --out]",
)
@click.option("--slurm", is_flag=True, help="Hand the runs to Slurm; options as of submit.")
@cluster_options
@json_option
def sweep(
    name: str,
    overrides: tuple[str, ...],
    dry_run: bool,
    gpu: str | None,
    jobs: int,
    out: str | None,
    retry: bool,
    reuse: tuple[str, ...],
    slurm: bool,
    as_json: bool,
    **options: Any,
) -> int:
    """Many runs from one file: isoFLOP grids, epochs, data value, ablations, trunks, seeds.

    SWEEP is a TOML file with a [sweep] section, or the name of a shipped one. KEY=VALUE changes
    it: sweep.KEY what is varied, grid.KEY the values of a recipe key, and a bare recipe key the
    recipe of all runs.

    Runs that are finished, also in other sweeps, are recognised by recipe and corpus and not done
    again. A run that fails does not end the others; the exit code is then 1. Ctrl-C or SIGTERM
    ends all with a checkpoint, and the same command goes on.

    \b
    Examples:
      epochal sweep isoflop.toml --dry-run --gpu H100
      epochal sweep isoflop.toml --jobs 2
      epochal sweep isoflop.toml sweep.seeds=[1,2] train.global_batch_size=32
      epochal sweep isoflop.toml --slurm --gpus 8 --time 12h --dry-run
    """
    from epochal.sweeps import load_sweep

    _check_options(gpu, dry_run, slurm, jobs, reuse)
    if slurm:
        from epochal.sweeps.submit import submit

        made = submit(
            name,
            overrides,
            resources=make_resources(options),
            out=out,
            retry=retry,
            dry_run=dry_run,
        )
        if as_json:
            print_json(made.as_dict())
        else:
            print_submission(made, dry_run)
        return 0
    if dry_run:
        from epochal.sweeps.listing import list_sweep

        listing = list_sweep(load_sweep(name, overrides), gpu)
        if as_json:
            print_json(listing.as_dict())
        else:
            print_listing(listing)
        return 0
    from epochal.sweeps.sweep import sweep as run

    result = run(name, overrides, jobs=jobs, out=out, retry=retry, reuse=reuse or None)
    if as_json:
        print_json(result.as_dict())
    else:
        print_result(result)
    return 1 if result.failed else 0


def _check_options(
    gpu: str | None, dry_run: bool, slurm: bool, jobs: int, reuse: tuple[str, ...]
) -> None:
    """Refuse options that would do nothing."""
    from epochal.errors import UserError

    if gpu and (slurm or not dry_run):
        raise UserError("--gpu is for the estimate of --dry-run; runs take the GPUs there are")
    if slurm and (jobs != 1 or reuse):
        raise UserError("--jobs and --reuse are for this machine; with --slurm use --parallel")
    context = click.get_current_context()
    given = [
        option.name
        for option in context.command.params
        if option.name in OPTION_NAMES
        and context.get_parameter_source(option.name) is click.core.ParameterSource.COMMANDLINE
    ]
    if given and not slurm:
        raise UserError(f"--{given[0]} is for a cluster: add --slurm, or leave it out")


def print_listing(listing: Listing) -> None:
    """The runs, their sum and the notes, on standard output."""
    from epochal.units import format_count

    header = ["run", "family", "size", "params", "unique", "tokens", "epochs", "FLOPs", "steps"]
    trunks = any(row.after for row in listing.rows)
    if trunks:
        header.append("own FLOPs")
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
            *([f"{row.own_flops:.3g}"] if trunks else []),
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


def print_result(result: SweepResult) -> None:
    """What became of each run, and the ends of the logs of those that failed."""
    rows = [
        [run.name, run.state, "–" if run.nll is None else f"{run.nll:.4f}"] for run in result.runs
    ]
    print_table(["run", "state", "best NLL"], rows, left=2)
    told = [run for run in result.runs if run.why and run not in result.failed]
    if told:
        click.echo()
    for run in told:
        click.echo(f"{run.name}: {run.why}")
    for run in result.failed:
        click.echo(f"\n{run.name} failed: {run.why}")
        for line in result.log_tail(run):
            click.echo(f"  | {line}")
    counts = f"{len(result.finished)} of {len(result.runs)} runs finished"
    click.echo(f"\n{counts}; record: {result.path}/sweep.json")
    if result.failed:
        click.echo(f"{len(result.failed)} failed; the same command with --retry tries them again")
    else:
        click.echo(f"Next: epochal report {shlex.quote(str(result.path))}")
