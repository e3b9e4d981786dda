"""`epochal submit`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from epochal.cli.options import options
from epochal.cli.output import json_option, print_json
from epochal.sweeps.options import Resources, SubmitOptions

if TYPE_CHECKING:
    from epochal.sweeps.submit import Submission


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
    from epochal.sweeps.submit import submit as run

    submission = run(source, overrides, resources, options)
    if as_json:
        print_json(submission)
    else:
        print_submission(submission)


def print_submission(submission: Submission) -> None:
    """The jobs, or after a dry run the script, on standard output."""
    from epochal.report.text import describe

    for run, reason in submission.skipped.items():
        click.echo(f"not submitted: {run} ({describe(reason)})", err=True)
    for run, job in submission.jobs.items():
        click.echo(f"job {job}: {run}")
    if submission.jobs:
        logs = submission.logs
        click.echo(f"\nLogs: {logs}. List jobs with `squeue --me`; end one with `scancel ID`.")
    elif submission.script:
        click.echo(submission.script, nl=False)
    else:
        click.echo("nothing to submit: all runs are done")
