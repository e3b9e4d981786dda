"""`epochal submit`, and the options of a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from epochal.cli.output import json_option, print_json

if TYPE_CHECKING:
    from epochal.sweeps.slurm import Cluster, Resources
    from epochal.sweeps.submit import Submission

Command = TypeVar("Command", bound=Callable[..., Any])

_OPTIONS = (
    click.option("--partition", help="Partition of the cluster."),
    click.option("--time", default="4h", show_default=True, help="Limit of one sitting."),
    click.option("--nodes", default=1, show_default=True, help="Nodes per run."),
    click.option("--gpus", default=1, show_default=True, help="GPUs per node; 0 for none."),
    click.option("--cpus", type=int, help="CPUs per node."),
    click.option("--memory", type=float, metavar="GB", help="Memory per node."),
    click.option("--parallel", default=256, show_default=True, help="Jobs of an array at a time."),
    click.option("--requeues", default=100, show_default=True, help="Times to be queued again."),
    click.option("--grace", default=120, show_default=True, help="Seconds to save before the end."),
    click.option("--setup", multiple=True, metavar="LINE", help="Shell line before the command."),
    click.option("--sbatch", multiple=True, metavar="KEY=VALUE", help="Any other sbatch option."),
)
OPTION_NAMES = (
    "partition",
    "time",
    "nodes",
    "gpus",
    "cpus",
    "memory",
    "parallel",
    "requeues",
    "grace",
    "setup",
    "sbatch",
)


def cluster_options(command: Command) -> Command:
    """Add the options that `make_resources` reads."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def make_resources(options: dict[str, Any]) -> Resources:
    """What the options of a cluster ask for. Raises UserError."""
    from epochal.errors import UserError
    from epochal.sweeps.slurm import Resources, parse_minutes

    more = {}
    for text in options["sbatch"]:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"--sbatch {text!r}: write KEY=VALUE, like --sbatch account=mine")
        more[key] = value
    return Resources(
        partition=options["partition"],
        minutes=parse_minutes(options["time"]),
        nodes=options["nodes"],
        gpus=options["gpus"],
        cpus=options["cpus"],
        memory_gb=options["memory"],
        parallel=options["parallel"],
        requeues=options["requeues"],
        grace=options["grace"],
        setup=tuple(options["setup"]),
        more=more,
    )


@click.command()
@click.argument("name", metavar="RECIPE|SWEEP")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@cluster_options
@click.option("--out", help="Folder of the run or sweep.  [default: as train and sweep have it]")
@click.option("--retry", is_flag=True, help="Also runs that failed or were ended early.")
@click.option("--dry-run", is_flag=True, help="Print the sbatch script, and end.")
@click.option(
    "--cluster",
    type=click.Choice(["slurm", "local"]),
    default="slurm",
    show_default=True,
    help="local: the same jobs as processes of this machine.",
)
@json_option
def submit(
    name: str,
    overrides: tuple[str, ...],
    out: str | None,
    retry: bool,
    dry_run: bool,
    cluster: Cluster,
    as_json: bool,
    **options: Any,
) -> None:
    """Hand a recipe's run, or all runs of a sweep, to Slurm.

    The runs of a sweep become a job array. A job that is preempted, or that reaches its time
    limit, saves a checkpoint, is queued again and goes on. With several GPUs or nodes it is
    started by torchrun, a process per GPU.

    \b
    Examples:
      epochal submit quickstart family=mdm --partition gpu --time 4h --dry-run
      epochal submit isoflop.toml --gpus 8 --nodes 2 --time 1-00:00:00 --sbatch account=mine
    """
    from epochal.sweeps.submit import submit as run

    made = run(
        name,
        overrides,
        resources=make_resources(options),
        out=out,
        retry=retry,
        cluster=cluster,
        dry_run=dry_run,
    )
    if as_json:
        print_json(made.as_dict())
    else:
        print_submission(made, dry_run)


def print_submission(made: Submission, dry_run: bool) -> None:
    """The script, or the jobs, on standard output."""
    for run, why in made.skipped.items():
        click.echo(f"not submitted: {run} ({why})", err=True)
    if dry_run:
        click.echo(made.script, nl=False)
        return
    for run, job in made.jobs.items():
        click.echo(f"job {job}: {run}")
    if made.jobs:
        click.echo(f"\nLogs: {made.logs}. See them with `squeue --me`; end one with `scancel ID`.")
    else:
        click.echo("nothing to submit: all runs are done")
