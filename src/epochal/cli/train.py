"""`epochal train`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from epochal.cli.options import options, refuse
from epochal.cli.output import (
    json_option,
    loading,
    print_json,
    print_note,
    print_pairs,
    recipe_arguments,
    split_recipe,
)
from epochal.results import to_json
from epochal.training.options import DryRunOptions

if TYPE_CHECKING:
    from epochal.runs import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A finished or stopped run."""

    run: str
    """Its folder."""
    family: str
    steps: int
    """Of the whole run."""
    epochs: float
    """Of the whole run."""
    best_step: int | None
    """Step of the lowest validation NLL in training."""
    best_nll_nats_per_token: float | None
    """That NLL, estimated from few draws where it is a bound."""
    seconds: float
    nll_nats_per_token: float | None
    """With --eval: NLL of the best checkpoint over the whole validation set."""
    standard_error: float | None
    """Its standard error."""


@click.command()
@recipe_arguments
@click.option("--dry-run", is_flag=True, help="Print steps, FLOPs, memory and time, then exit.")
@options(DryRunOptions, into="machine")
@click.option(
    "--restart", is_flag=True, help="Start over; the existing run is renamed to NAME.old-N."
)
@click.option("--profile", is_flag=True, help="Record a few steps with torch's profiler.")
@click.option("--eval", "evaluate", is_flag=True, help="Then evaluate the best checkpoint.")
@click.option(
    "--comparable",
    is_flag=True,
    help="Leave train.precision=auto at fp32 on a CPU, as in all runs of a sweep.",
)
@json_option
def train(
    recipe_and_overrides: tuple[str, ...],
    dry_run: bool,
    machine: DryRunOptions,
    restart: bool,
    profile: bool,
    evaluate: bool,
    comparable: bool,
    as_json: bool,
) -> None:
    """Train a model from a recipe; the same command resumes an interrupted run.

    RECIPE is a TOML file or the name of a shipped one. KEY=VALUE sets any recipe key;
    `epochal recipe` lists them all. The length is given once, as train.epochs, train.tokens,
    train.steps or train.flops.

    \b
    Examples:
      epochal train quickstart family=mdm
      epochal train my.toml train.epochs=20 data.unique_tokens=10M
      epochal train family=ar model.size=7M data.corpus=corpus train.flops=1e15
      epochal train paper/quickstart-mdm --dry-run --gpu A100 --gpus 8

    Ctrl-C, SIGTERM or a file named STOP in the run's folder stop the run after the current
    step, with a checkpoint. A resumed run ends with the same weights, bit for bit, as an
    uninterrupted one.
    """
    recipe, overrides = split_recipe(recipe_and_overrides)
    if dry_run:
        refuse(
            ["restart", "profile", "evaluate", "comparable"],
            "has no effect with --dry-run; leave it out",
        )
        _dry_run(recipe, overrides, machine, as_json)
        return
    refuse(["gpu", "gpus", "mfu"], "needs --dry-run; a run uses the machine it is started on")
    with loading():
        from epochal.training.train import train as run

    record = run(recipe, overrides, restart=restart, profile=profile, comparable=comparable)
    print_trained(record, evaluate, as_json)


def print_trained(record: RunRecord, evaluate: bool, as_json: bool) -> None:
    """Evaluate a run if asked to, and print what came of it, on the main process."""
    from epochal.training.parallel.world import is_secondary_rank

    result = None
    if evaluate:
        from epochal.evaluation.evaluate import evaluate_best

        result = evaluate_best(record)  # by all processes together
    if is_secondary_rank():
        return
    best = record.info.get("best") or {}
    trained = Trained(
        run=str(record.path),
        family=record.family,
        steps=record.numbers["steps"],
        epochs=round(record.numbers["epochs"], 3),
        best_step=best.get("step"),
        best_nll_nats_per_token=best.get("nll_nats_per_token"),
        seconds=round(record.info["seconds"], 1),
        nll_nats_per_token=result.nll_nats_per_token if result else None,
        standard_error=result.standard_error if result else None,
    )
    if as_json:
        print_json(trained)
    else:
        facts = to_json(trained)
        if result is None:
            del facts["nll_nats_per_token"], facts["standard_error"]
        print_pairs([(key, _show(value)) for key, value in facts.items()])
        click.echo(
            f"\nNext: epochal {'report' if evaluate else 'eval'} {shlex.quote(str(record.path))}"
        )


def _dry_run(
    recipe: str | None, overrides: list[str], machine: DryRunOptions, as_json: bool
) -> None:
    from epochal.report.text.format import byte_count, duration
    from epochal.report.text.training import dry_run_notes
    from epochal.training.dry_run import dry_run
    from epochal.units import format_count

    result = dry_run(recipe, overrides, machine)
    if as_json:
        print_json(result)
        return
    facts = {
        "family": result.family,
        "size": result.size,
        "run_dir": result.run_dir,
        **to_json(result.numbers),
        "micro_batch_size": result.micro_batch_size,
        "accumulation": result.accumulation,
    }
    print_pairs([(key, _show(value)) for key, value in facts.items() if value is not None])
    click.echo("")
    sizes = {name: byte_count(size) for name, size in to_json(result.memory).items()}
    total, time = sizes.pop("total"), result.time
    parts = ", ".join(f"{name} {size}" for name, size in sizes.items())
    spent = (
        f"{duration(time.seconds)} on {time.gpus} x {time.gpu} ({time.gpu_hours:,.3g} GPU hours, "
        f"{format_count(time.matmul_flops)} FLOPs in matrix products)"
    )
    print_pairs([("memory per device", f"{total}: {parts}"), ("time", spent)])
    for text in dry_run_notes(result):
        print_note(text)


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
