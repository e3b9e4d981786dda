"""`epochal downstream`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from epochal.cli.options import options
from epochal.cli.output import json_option, print_json, print_table
from epochal.downstream_tasks.options import DownstreamOptions
from epochal.families import get_family

if TYPE_CHECKING:
    from epochal.downstream_tasks.results import TaskResult


@click.command()
@click.argument("run")
@options(DownstreamOptions)
@json_option
def downstream(run: str, options: DownstreamOptions, as_json: bool) -> None:
    """Score a run on downstream tasks, with standard errors, beside chance and the paper.

    The tasks are those of lm-evaluation-harness, or with `--tasks babylm` those of the BabyLM
    evaluation. Autoregressive likelihoods are exact; those of masked diffusion (MDM) are bounds,
    by one of several modes. Results are saved in the run's folder. `torchrun -m epochal
    downstream …` splits the questions over GPUs.

    \b
    Examples:
      epochal downstream quickstart/mdm --tasks paper
      epochal downstream quickstart/mdm --tasks sciq,piqa --data my_rows --mode chain_rule
      epochal downstream quickstart/mdm --tasks babylm --data full_eval --score pseudo
    """
    from epochal.downstream_tasks.harness_tasks import go_offline_without_hub
    from epochal.downstream_tasks.options import BABYLM, check_babylm, check_downstream
    from epochal.runs import RunRecord

    record = RunRecord(run)
    babylm = options.tasks == BABYLM
    if babylm:
        check_babylm(record, options)  # before torch is imported
    else:
        check_downstream(record, options)
        go_offline_without_hub()
    from epochal.downstream_tasks.downstream import downstream as score

    results = score(record, options)
    if not results:  # not the first process of several
        return
    if as_json:
        print_json(results)
        return
    if babylm:
        header = ["task", "subtask", "score", "± items", "± draws", "chance"]
        print_table(header, [row for result in results for row in _parts(result)], left=2)
    else:
        header = ["task", "metric", "score", "± docs", "± draws", "chance", "paper 100M", "500M"]
        print_table(header, [row for result in results for row in _cells(result)], left=2)
    click.echo(_scoring(results[0]))
    if truncation := _truncation(results):
        click.echo(truncation)


def _cells(result: TaskResult) -> list[list[str]]:
    """Per metric: task, metric, score, ± docs, ± draws, chance, the paper's at 100M and at 500M."""
    rows = []
    for name, score in result.metrics.items():
        is_share = name.startswith(("acc", "exact_match"))
        paper = result.paper if name == "acc" and result.paper else {}
        values = [
            score.value,
            score.standard_error,
            score.standard_error_draws,
            result.chance if is_share else None,
            paper.get("100M"),
            paper.get("500M"),
        ]
        rows.append([result.task, name, *(_score(value, is_share) for value in values)])
    return rows


def _parts(result: TaskResult) -> list[list[str]]:
    """Of a BabyLM task: the macro average, then each subtask."""
    rows = {"macro average": result.metrics["macro_acc"], **result.groups["subtask"]}
    return [
        [
            result.task,
            name,
            *(
                _score(value, True)
                for value in (score.value, score.standard_error, score.standard_error_draws)
            ),
            _score(result.chance, True),
        ]
        for name, score in rows.items()
    ]


def _score(value: float | None, is_share: bool) -> str:
    if value is None:
        return "–"
    return f"{100 * value:.2f} %" if is_share else f"{value:.4g}"


def _scoring(result: TaskResult) -> str:
    """How a run was scored, on one line."""
    masks = f", up to {result.draws} masks" if result.draws else ""
    rows = ""
    if result.mode != "exact" and get_family(result.family).attention != "causal":
        rows = ", rows padded with masks" if result.padded else ", short rows not padded"
    return (
        f"{result.family}, {'mode' if result.harness else 'score'} {result.mode}{masks}{rows}, "
        f"checkpoint {result.checkpoint} (step {result.step:,})"
        + (f", lm-eval {result.harness}" if result.harness else "")
    )


def _truncation(results: Sequence[TaskResult]) -> str:
    """How many requests did not fit; '' if all did."""
    contexts = sum(result.truncated_contexts for result in results)
    continuations = sum(result.truncated_continuations for result in results)
    if not contexts:
        return ""
    scored = f", {continuations:,} of them part of what is scored" if continuations else ""
    return (
        f"{contexts:,} requests were longer than the model's context and lost their beginning"
        f"{scored}"
    )
