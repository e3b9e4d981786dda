"""`epochal sweep` and `epochal submit`."""

from __future__ import annotations

import shlex
from dataclasses import fields
from typing import TYPE_CHECKING

import click

from epochal.cli.options import options, refuse
from epochal.cli.output import json_option, print_json, print_note, print_table
from epochal.sweeps.options import Resources, SubmitOptions, SweepOptions

if TYPE_CHECKING:
    from epochal.sweeps.listing import Listing
    from epochal.sweeps.sweep import SweepResult


@click.command()
@click.argument("source", metavar="SWEEP")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--dry-run", is_flag=True, help="List the runs with their cost, then exit.")
@click.option("--gpu", metavar="NAME", help="With --dry-run: GPU hours on this GPU, like H100.")
@options(SweepOptions)
@click.option("--slurm", is_flag=True, help="Submit the runs to Slurm; its options follow.")
@options(Resources, into="resources")
@json_option
def sweep(
    source: str,
    overrides: tuple[str, ...],
    dry_run: bool,
    gpu: str | None,
    options: SweepOptions,
    slurm: bool,
    resources: Resources,
    as_json: bool,
) -> int:
    """Train many runs from one file: isoFLOP grids, epochs, data value, ablations, trunks, seeds.

    SWEEP is a TOML file with a [sweep] section, or the name of a shipped one; with sweep.design=…
    it may be a recipe. KEY=VALUE changes it: sweep.KEY what is varied, grid.KEY the values of a
    recipe key, and a bare recipe key the recipe of all runs.

    Runs that are finished, also in other sweeps, are recognised by recipe and corpus and not done
    again. A run that fails does not end the others; the exit code is then 1. Ctrl-C or SIGTERM
    ends all with a checkpoint, and the same command resumes.

    \b
    Examples:
      epochal sweep isoflop.toml --dry-run --gpu H100
      epochal sweep isoflop.toml --jobs 2
      epochal sweep isoflop.toml sweep.seeds=[1,2] train.global_batch_size=32
      epochal sweep tuned-ar.toml sweep.design=ensemble sweep.seeds=[1,2,3,4]
      epochal sweep isoflop.toml --slurm --gpus 8 --time 12h --dry-run
    """
    if slurm:
        refuse(["jobs", "reuse"], "is for this machine; with --slurm use --parallel")
        refuse(["gpu"], "is for a --dry-run without --slurm")
        wanted = SubmitOptions(out=options.out, retry=options.retry, dry_run=dry_run)
        _submit(source, overrides, resources, wanted, as_json)
        return 0
    refuse([field.name for field in fields(Resources)], "is for a cluster: add --slurm")
    if dry_run:
        refuse([field.name for field in fields(SweepOptions)], "has no effect with --dry-run")
        from epochal.sweeps.file import load_sweep
        from epochal.sweeps.listing import list_sweep

        listing = list_sweep(load_sweep(source, overrides), gpu)
        print_json(listing) if as_json else _print_listing(listing)
        return 0
    refuse(["gpu"], "needs --dry-run; runs take the GPUs of this machine")
    from epochal.sweeps.sweep import sweep as run

    result = run(source, overrides, options)
    if as_json:
        print_json(result)
    else:
        _print_result(result)
    return 1 if result.failed else 0


@click.command()
@click.argument("source", metavar="RECIPE|SWEEP")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@options(Resources, into="resources")
@options(SubmitOptions)
@json_option
def submit(
    source: str,
    overrides: tuple[str, ...],
    resources: Resources,
    options: SubmitOptions,
    as_json: bool,
) -> None:
    """Submit a recipe's run, or all runs of a sweep, to Slurm.

    The runs of a sweep become a job array. A job that is preempted, or that reaches its time
    limit, saves a checkpoint, is queued again and resumes. With several GPUs or nodes it is
    started by torchrun, one process per GPU.

    \b
    Examples:
      epochal submit quickstart family=mdm --partition gpu --time 4h --dry-run
      epochal submit isoflop.toml --gpus 8 --nodes 2 --time 1-00:00:00 --sbatch account=mine
    """
    _submit(source, overrides, resources, options, as_json)


def _submit(
    source: str,
    overrides: tuple[str, ...],
    resources: Resources,
    options: SubmitOptions,
    as_json: bool,
) -> None:
    from epochal.report.text import describe
    from epochal.sweeps.submit import submit as run

    submission = run(source, overrides, resources, options)
    if as_json:
        print_json(submission)
        return
    for place, reason in submission.skipped.items():
        click.echo(f"not submitted: {place} ({describe(reason)})", err=True)
    for place, job in submission.jobs.items():
        click.echo(f"job {job}: {place}")
    if submission.jobs:
        logs = submission.logs
        click.echo(f"\nLogs: {logs}. List jobs with `squeue --me`; end one with `scancel ID`.")
    elif submission.script:
        click.echo(submission.script, nl=False)
    else:
        click.echo("nothing to submit: all runs are done")


def _print_listing(listing: Listing) -> None:
    """The runs, their sum and the notes, on standard output."""
    from epochal.report.text import describe
    from epochal.units import format_count

    total = listing.total
    header = ["run", "family", "size", "params", "unique", "tokens", "epochs", "FLOPs", "steps"]
    trunks = any(run.after for run in listing.runs)
    if trunks:
        header.append("incremental FLOPs")
    if total.gpu:
        header.append(f"{total.gpu} hours")
    rows = [
        [
            run.name,
            run.family,
            run.size,
            format_count(run.params),
            "all" if run.unique_tokens is None else format_count(run.unique_tokens),
            format_count(run.tokens),
            "–" if run.epochs is None else f"{run.epochs:.4g}",
            f"{run.flops:.3g}",
            f"{run.steps:,}",
            *([f"{run.incremental_flops:.3g}"] if trunks else []),
            *([] if run.gpu_hours is None else [f"{run.gpu_hours:,.1f}"]),
        ]
        for run in listing.runs
    ]
    print_table(header, rows, left=3)
    text = f"\n{total.runs} runs, {format_count(total.tokens)} tokens, {total.flops:.3g} FLOPs"
    if total.gpu_hours is not None:
        text += f", {total.gpu_hours:,.1f} {total.gpu} hours"
    click.echo(text)
    for note in listing.notes:
        print_note(describe(note))


def _print_result(result: SweepResult) -> None:
    """The state of each run, and the ends of the logs of those that failed."""
    from epochal.report.text.sweep import state_text

    rows = [
        [
            run.name,
            run.state.replace("_", " "),
            "–" if run.nll is None else f"{run.nll:.4f}",
        ]
        for run in result.runs
    ]
    print_table(["run", "state", "best NLL"], rows, left=2)
    explained = [run for run in result.runs if run.reason and run not in result.failed]
    if explained:
        click.echo()
    for run in explained:
        click.echo(f"{run.name} {state_text(run)}")
    for run in result.failed:
        click.echo(f"\n{run.name} {state_text(run)}")
        for line in result.log_tails.get(run.name, []):
            click.echo(f"  | {line}")
    counts = f"{len(result.finished)} of {len(result.runs)} runs finished"
    click.echo(f"\n{counts}; record: {result.path}/sweep.json")
    if result.failed:
        click.echo(f"{len(result.failed)} failed; the same command with --retry tries them again")
    else:
        click.echo(f"Next: epochal report {shlex.quote(str(result.path))}")
