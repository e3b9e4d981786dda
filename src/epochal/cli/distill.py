"""`epochal distill`."""

from __future__ import annotations

from pathlib import Path

import click

from epochal.cli.output import json_option
from epochal.cli.train import print_trained
from epochal.errors import RecipeError
from epochal.evaluation.options import check_runs
from epochal.recipe.load import find_recipe
from epochal.runs import parse_run_checkpoint


@click.command()
@click.argument(
    "words", nargs=-1, required=True, metavar="RUN[@CHECKPOINT]... [RECIPE] [KEY=VALUE]..."
)
@click.option("--out", required=True, help="Folder of the student's run.")
@click.option(
    "--texts",
    type=click.IntRange(min=1),
    metavar="N",
    help="Learn from N texts that each teacher writes, not from its probabilities.",
)
@click.option(
    "--restart", is_flag=True, help="Start over; the existing run is renamed to NAME.old-N."
)
@click.option("--eval", "evaluate", is_flag=True, help="Then evaluate the best checkpoint.")
@json_option
def distill(
    words: tuple[str, ...],
    out: str,
    texts: int | None,
    restart: bool,
    evaluate: bool,
    as_json: bool,
) -> None:
    """Train one model, the student, on the mean prediction of runs, its teachers.

    loss = (1 - share) x usual loss + share x T^2 x KL(teachers || student), at the same positions
    with the same weights, with distill.share and T = distill.temperature. The teachers have one
    family, tokenizer and sequence length. Without RECIPE the student has the first teacher's.
    With --texts they write texts instead, in any family and tokenizer; distill.share is then the
    share of rows that are theirs, the rest is the corpus, and distill.temperature that of writing.
    It is an ordinary run: the same command resumes it, and other commands read it.

    \b
    Examples:
      epochal distill runs/a runs/b runs/c --out runs/student
      epochal distill runs/a runs/b --out runs/student distill.share=0.8 train.epochs=40
      epochal distill runs/big@last --out runs/small small.toml distill.temperature=2
      epochal distill runs/a runs/b --texts 1000 --out runs/student distill.share=0.75
    """
    runs, recipe, overrides = _split(words)
    check_runs(runs)
    if texts is None:
        from epochal.training.distill import distill as run

        record = run(runs, out, recipe, overrides, restart=restart)
    else:
        from epochal.evaluation.written import distill_texts

        record = distill_texts(runs, out, texts, recipe, overrides, restart=restart)
    print_trained(record, evaluate, as_json)


def _split(words: tuple[str, ...]) -> tuple[list[str], str | None, list[str]]:
    """(runs, recipe or None, overrides): the last word without `=` may be a recipe."""
    names = [word for word in words if "=" not in word]
    overrides = [word for word in words if "=" in word]
    if len(names) < 2 or _is_run(names[-1]):
        return names, None, overrides
    try:
        find_recipe(names[-1])
    except RecipeError as error:
        raise RecipeError(f"{names[-1]} is no run, and {error}") from None
    return names[:-1], names[-1], overrides


def _is_run(word: str) -> bool:
    return (Path(parse_run_checkpoint(word)[0]) / "run.json").is_file()
