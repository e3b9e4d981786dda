"""`epochal train`."""

from __future__ import annotations

import shlex
from typing import Any

import click

from epochal.cli.output import json_option, print_json, print_pairs, recipe_arguments, split_recipe


@click.command()
@recipe_arguments
@click.option("--dry-run", is_flag=True, help="Print what the run amounts to and needs, and end.")
@click.option("--gpu", default="H100", show_default=True, help="With --dry-run: the GPU to time.")
@click.option("--gpus", type=int, default=1, show_default=True, help="With --dry-run: how many.")
@click.option("--mfu", type=float, help="With --dry-run: share of its peak.  [default: 0.4]")
@click.option(
    "--restart", is_flag=True, help="Start anew; an old run of the same name is put aside."
)
@click.option("--profile", is_flag=True, help="Record a few steps with torch's profiler.")
@click.option("--eval", "evaluate", is_flag=True, help="Then evaluate the best checkpoint.")
@json_option
def train(
    recipe_and_overrides: tuple[str, ...],
    dry_run: bool,
    gpu: str,
    gpus: int,
    mfu: float | None,
    restart: bool,
    profile: bool,
    evaluate: bool,
    as_json: bool,
) -> None:
    """Train one model by a recipe; the same command goes on with a run that was ended.

    RECIPE is a TOML file or the name of a shipped one. KEY=VALUE sets any recipe key;
    `epochal recipe` lists them all. The length is given once, as train.epochs, train.tokens,
    train.steps or train.flops.

    \b
    Examples:
      epochal train quickstart family=mdm
      epochal train my.toml train.epochs=20 data.unique_tokens=10M
      epochal train family=ar model.size=7M data.corpus=corpus train.flops=1e15
      epochal train paper/quickstart-mdm --dry-run --gpu A100 --gpus 8

    Ctrl-C, SIGTERM or a file named STOP in the run's folder end it after the current step,
    with a checkpoint. A resumed run gives the same weights, bit for bit, as one that was not
    interrupted.
    """
    recipe, overrides = split_recipe(recipe_and_overrides)
    if dry_run:
        _dry_run(recipe, overrides, as_json, gpu=gpu, gpus=gpus, **({"mfu": mfu} if mfu else {}))
        return
    from epochal.training.train import train as run

    record = run(recipe, overrides, restart=restart, profile=profile)
    from epochal.training.parallel.world import is_secondary_rank

    if is_secondary_rank():  # the first of many processes tells the end
        return
    best = record.info.get("best") or {}
    facts = {
        "run": str(record.path),
        "family": record.family,
        "steps": record.numbers["steps"],
        "epochs": round(record.numbers["epochs"], 3),
        "best_step": best.get("step"),
        "best_nll_nats_per_token": best.get("nll_nats_per_token"),
        "seconds": round(record.info["seconds"], 1),
    }
    if evaluate:
        from epochal.evaluation.evaluate import evaluate_best

        result = evaluate_best(record)
        facts["nll_nats_per_token"] = result.nll_nats_per_token
        facts["standard_error"] = result.standard_error
    if as_json:
        print_json(facts)
    else:
        print_pairs([(key, _show(value)) for key, value in facts.items()])
        click.echo(
            f"\nNext: epochal {'report' if evaluate else 'eval'} {shlex.quote(str(record.path))}"
        )


def _dry_run(recipe: str | None, overrides: list[str], as_json: bool, **machine: Any) -> None:
    from epochal.training.dry_run import dry_run
    from epochal.units import format_count

    facts = dry_run(recipe, overrides, **machine)
    if as_json:
        print_json(facts)
        return
    memory, time, remarks = (facts.pop(key) for key in ("memory", "time", "remarks"))
    print_pairs([(key, _show(value)) for key, value in facts.items() if value is not None])
    click.echo("")
    parts = ", ".join(f"{name} {_bytes(size)}" for name, size in memory.items() if name != "total")
    print_pairs(
        [
            ("memory per device", f"{_bytes(memory['total'])}: {parts}"),
            (
                "time",
                f"{_duration(time['seconds'])} on {time['gpus']} x {time['gpu']} "
                f"({time['gpu_hours']:,.3g} GPU hours, {format_count(time['matmul_flops'])} FLOPs "
                "in matrix products)",
            ),
        ]
    )
    for remark in remarks:
        click.echo(f"  · {remark}")


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.3g} {unit}"
    return f"{seconds:.2g} seconds"


def _bytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e8 else f"{size / 1e6:.3g} MB"


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
