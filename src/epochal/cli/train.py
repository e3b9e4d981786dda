"""`epochal train`."""

from __future__ import annotations

import click

from epochal.cli.output import json_option, print_json, print_pairs, recipe_arguments, split_recipe


@click.command()
@recipe_arguments
@click.option("--dry-run", is_flag=True, help="Print what the run amounts to, and end.")
@click.option(
    "--restart", is_flag=True, help="Start anew; an old run of the same name is put aside."
)
@click.option("--eval", "evaluate", is_flag=True, help="Then evaluate the best checkpoint.")
@json_option
def train(
    recipe_and_overrides: tuple[str, ...],
    dry_run: bool,
    restart: bool,
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

    Ctrl-C, SIGTERM or a file named STOP in the run's folder end it after the current step,
    with a checkpoint. A resumed run gives the same weights, bit for bit, as one that was not
    interrupted.
    """
    recipe, overrides = split_recipe(recipe_and_overrides)
    if dry_run:
        from epochal.workflows.train import dry_run as plan

        facts = plan(recipe, overrides)
        if as_json:
            print_json(facts)
        else:
            print_pairs([(key, _show(value)) for key, value in facts.items()])
        return
    from epochal.workflows.train import train as run

    record = run(recipe, overrides, restart=restart)
    from epochal.training.parallel.world import quiet

    if quiet():  # the first of many processes tells the end
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
        from epochal.workflows.evaluate import evaluate_best

        result = evaluate_best(record)
        facts["nll_nats_per_token"] = result.nll_nats_per_token
        facts["standard_error"] = result.standard_error
    if as_json:
        print_json(facts)
    else:
        print_pairs([(key, _show(value)) for key, value in facts.items()])
        click.echo(f"\nNext: epochal {'report' if evaluate else 'eval'} {record.path}")


def _show(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
