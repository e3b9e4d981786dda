"""`epochal downstream`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from epochal.cli.output import json_option, print_json, print_table

if TYPE_CHECKING:
    from epochal.downstream_tasks.downstream import TaskResult


@click.command()
@click.argument("run")
@click.option(
    "--tasks",
    default="paper",
    show_default=True,
    metavar="paper|NAME,NAME|FOLDER",
    help="The paper's nine, tasks of lm-eval by name, or a folder of YAML tasks.",
)
@click.option("--data", metavar="FOLDER", help="Local rows, as FOLDER/TASK/SPLIT.jsonl.")
@click.option(
    "--mode",
    type=click.Choice(["ar", "mc", "generate", "nll"]),
    help="Diffusion: left to right, Monte Carlo over all orders, generation only, or likelihood "
    "only.  [default: mc]",
)
@click.option("--draws", default=32, show_default=True, help="Masks per continuation at most.")
@click.option("--seed", default=0, show_default=True, help="Of the masks.")
@click.option(
    "--pad/--no-pad",
    default=None,
    help="Diffusion: lengthen rows with masks to the sequence length.  [default: pad, unless "
    "trained with mdm.random_length]",
)
@click.option("--limit", type=int, help="Only so many first documents of a task; nothing is kept.")
@click.option("--checkpoint", metavar="NAME", help="best, last, ema or a step.  [default: best]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@json_option
def downstream(
    run: str,
    tasks: str,
    data: str | None,
    mode: Literal["ar", "mc", "generate", "nll"] | None,
    draws: int,
    seed: int,
    pad: bool | None,
    limit: int | None,
    checkpoint: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Score a run on downstream tasks, with standard errors, beside chance and the paper.

    The tasks are those of lm-evaluation-harness. Autoregressive likelihoods are exact; those of
    masked diffusion are bounds, by one of several modes. Results are kept in the run's folder.
    `torchrun -m epochal downstream …` shares the questions out over GPUs.

    \b
    Examples:
      epochal downstream quickstart/mdm --tasks paper
      epochal downstream quickstart/mdm --tasks sciq,piqa --data my_rows --mode ar
    """
    from epochal.downstream_tasks.options import check_downstream
    from epochal.runs import RunRecord

    check_downstream(RunRecord(run), tasks=tasks, data=data, mode=mode, draws=draws, limit=limit)
    from epochal.downstream_tasks.downstream import downstream as score

    results = score(
        run,
        tasks=tasks,
        data=data,
        mode=mode,
        draws=draws,
        seed=seed,
        pad=pad,
        checkpoint=checkpoint,
        limit=limit,
        device=device,
    )
    if not results:  # not the first process of several
        return
    if as_json:
        print_json([result.as_dict() for result in results])
        return
    header = ["task", "metric", "score", "± docs", "± draws", "chance", "paper 100M", "500M"]
    print_table(header, [row for result in results for row in _rows(result)], left=2)
    first = results[0]
    masks = f", up to {first.draws} masks" if first.draws else ""
    rows = ""
    if first.family != "ar":
        rows = ", rows padded with masks" if first.padded else ", short rows not padded"
    click.echo(
        f"{first.family}, mode {first.mode}{masks}{rows}, checkpoint {first.checkpoint} "
        f"(step {first.step:,}), lm-eval {first.harness}"
    )
    cut = sum(result.cut_contexts for result in results)
    if cut:
        alone = sum(result.cut_continuations for result in results)
        click.echo(
            f"{cut:,} requests were longer than the model's context and lost their beginning"
            + (f", {alone:,} of them part of what is scored" if alone else "")
        )


def _rows(result: TaskResult) -> list[list[str]]:
    rows = []
    for name, score in result.metrics.items():
        share = name.startswith(("acc", "exact_match"))
        paper = result.paper if name == "acc" and result.paper else {}
        rows.append(
            [
                result.task,
                name,
                _number(score.value, share),
                _number(score.standard_error, share),
                _number(score.standard_error_draws, share),
                _number(result.chance if share else None, share),
                _number(paper.get("100M"), share),
                _number(paper.get("500M"), share),
            ]
        )
    return rows


def _number(value: float | None, share: bool) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.2f} %" if share else f"{value:.4g}"
