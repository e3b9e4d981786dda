"""`epochal downstream`."""

from __future__ import annotations

import click

from epochal.cli.options import options
from epochal.cli.output import json_option, print_json, print_table
from epochal.downstream_tasks.options import DownstreamOptions


@click.command()
@click.argument("run")
@options(DownstreamOptions)
@json_option
def downstream(run: str, options: DownstreamOptions, as_json: bool) -> None:
    """Score a run on downstream tasks, with standard errors, beside chance and the paper.

    The tasks are those of lm-evaluation-harness. Autoregressive likelihoods are exact; those of
    masked diffusion (MDM) are bounds, by one of several modes. Results are saved in the run's
    folder. `torchrun -m epochal downstream …` splits the questions over GPUs.

    \b
    Examples:
      epochal downstream quickstart/mdm --tasks paper
      epochal downstream quickstart/mdm --tasks sciq,piqa --data my_rows --mode chain_rule
    """
    from epochal.downstream_tasks.harness_tasks import go_offline_without_hub
    from epochal.downstream_tasks.options import check_downstream
    from epochal.runs import RunRecord

    record = RunRecord(run)
    check_downstream(record, options)  # before torch is imported
    go_offline_without_hub()
    from epochal.downstream_tasks.downstream import downstream as score

    results = score(record, options)
    if not results:  # not the first process of several
        return
    if as_json:
        print_json(results)
        return
    from epochal.report.text.tasks import describe_scoring, describe_truncation, task_cells

    header = ["task", "metric", "score", "± docs", "± draws", "chance", "paper 100M", "500M"]
    print_table(header, [row for result in results for row in task_cells(result)], left=2)
    click.echo(describe_scoring(results[0]))
    if truncation := describe_truncation(results):
        click.echo(truncation)
