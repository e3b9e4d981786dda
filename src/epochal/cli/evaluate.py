"""`epochal eval`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from epochal.cli.options import options, refuse
from epochal.cli.output import json_option, loading, print_json, print_pairs, print_table
from epochal.errors import UserError
from epochal.evaluation.options import EvalOptions, check_runs

if TYPE_CHECKING:
    from epochal.evaluation.ensemble import EnsembleResult
    from epochal.evaluation.evaluate import NLLResultInParts
    from epochal.evaluation.gap import GapResult
    from epochal.likelihood.breakdown import Breakdown
    from epochal.likelihood.nll import Averaging
    from epochal.runs import NLLResult


@click.command("eval")
@click.argument("runs", nargs=-1, required=True, metavar="RUN[@CHECKPOINT]...")
@click.option(
    "--against",
    metavar="RUN",
    help="Also score this run; print the paired difference.",
)
@click.option("--ensemble", is_flag=True, help="Score several runs as one model.")
@click.option(
    "--average",
    "averaging",
    type=click.Choice(["probabilities", "logits"]),
    default="probabilities",
    show_default=True,
    help="With --ensemble: what of the runs is averaged.",
)
@click.option("--breakdown", is_flag=True, help="Split by position, document and noise level.")
@options(EvalOptions)
@json_option
def evaluate(
    runs: tuple[str, ...],
    against: str | None,
    ensemble: bool,
    averaging: Averaging,
    breakdown: bool,
    as_json: bool,
    options: EvalOptions,
) -> None:
    """Compute a run's NLL over the whole validation set, with its standard error.

    Exact for autoregressive models. For masked diffusion an upper bound, by Monte Carlo: the error
    from the draws is how much other masks would change the NLL, the error from the documents how
    much other documents would. The same masks are used for every checkpoint.
    Several processes share the work: torchrun --nproc-per-node 8 -m epochal eval RUN.

    \b
    Examples:
      epochal eval quickstart/mdm
      epochal eval quickstart/mdm --tolerance 0.005 --checkpoint last
      epochal eval quickstart/ar --against quickstart/mdm
      epochal eval quickstart/mdm --breakdown
      epochal eval runs/a runs/b@last --ensemble
      epochal eval runs/a runs/b --ensemble --average logits
      epochal eval quickstart/mdm --estimator paper --json
    """
    if sum((bool(against), ensemble, breakdown)) > 1:
        raise UserError("--against, --ensemble and --breakdown do not go together; give one")
    if not ensemble:
        refuse(["averaging"], "needs --ensemble")
    if len(runs) > 1 and not ensemble:
        raise UserError(f"{len(runs)} runs: give one, another with --against, or --ensemble")
    check_runs([*runs, *([against] if against else [])])
    from epochal.evaluation.ensemble import ensemble as score_ensemble

    with loading():
        from epochal.evaluation.evaluate import evaluate as score
        from epochal.evaluation.evaluate import evaluate_in_parts
    from epochal.evaluation.gap import gap
    from epochal.training.parallel.world import is_secondary_rank

    result: GapResult | EnsembleResult | NLLResultInParts | NLLResult
    if against:
        result = gap(runs[0], against, options)
    elif ensemble:
        result = score_ensemble(runs, options, averaging)
    elif breakdown:
        result = evaluate_in_parts(runs[0], options)
    else:
        result = score(runs[0], options)
    if is_secondary_rank():
        return
    if as_json:
        print_json(result)
    else:
        _print(result)


def _print(result: GapResult | EnsembleResult | NLLResultInParts | NLLResult) -> None:
    from epochal.evaluation.ensemble import EnsembleResult
    from epochal.evaluation.evaluate import NLLResultInParts
    from epochal.evaluation.gap import GapResult

    if isinstance(result, GapResult):
        _print_gap(result)
    elif isinstance(result, EnsembleResult):
        _print_ensemble(result)
    else:
        _print_result(result)
        if isinstance(result, NLLResultInParts):
            _print_parts(result.breakdown)


def _units(result: NLLResult) -> str:
    """What was sampled: the paper's estimator knows windows only."""
    unit = "window" if result.estimator == "paper" else "document"
    return unit if result.documents == 1 else f"{unit}s"


def _print_result(result: NLLResult) -> None:
    bound = " (upper bound)" if result.is_bound else ""
    rows = [
        ("NLL", f"{_nll(result)}{bound}"),
        ("  from the draws", f"± {result.standard_error_draws:.4f}"),
        ("  from the documents", _error(result.standard_error_documents)),
        (
            "bits per byte",
            f"{result.bits_per_byte:.4f}{bound}" if result.bits_per_byte else "not known",
        ),
        ("perplexity", f"{result.perplexity:,.1f}{bound}"),
        ("estimator", f"{result.estimator}, {result.draws} draws" if bound else result.estimator),
        ("scored", f"{result.tokens_scored:,} tokens, {result.documents:,} {_units(result)}"),
        ("checkpoint", f"{result.checkpoint}, step {result.step:,}"),
    ]
    print_pairs(rows)


def _nll(result: NLLResult) -> str:
    return f"{result.nll_nats_per_token:.4f} ± {result.standard_error:.4f} nats/token"


def _error(value: float | None) -> str:
    return "not known: a single document" if value is None else f"± {value:.4f}"


def _print_gap(found: GapResult) -> None:
    a, b = found.results
    note = {
        (False, True): ", at least: the second is an upper bound",
        (True, False): ", at most: the first is an upper bound",
    }.get((a.is_bound, b.is_bound), "")
    names = (found.a, found.b) if found.a != found.b else (f"{found.a} (first)", found.b)
    chance = "not known" if found.p_value is None else f"{found.p_value:.2g}"
    rows = [
        (names[0], _nll(a)),
        (names[1], _nll(b)),
        ("difference", f"{found.difference:+.4f} ± {found.standard_error:.4f} nats/token{note}"),
        ("  from the draws", f"± {found.standard_error_draws:.4f}"),
        ("  from the documents", _error(found.standard_error_documents)),
        ("95 % interval", f"{found.low:+.4f} to {found.high:+.4f}"),
        ("p-value", chance),
        ("paired over", f"{found.documents:,} {_units(a)}"),
    ]
    print_pairs(rows)


def _print_parts(parts: Breakdown) -> None:
    click.echo()
    lines = [[f"{p.first:,}–{p.last:,}", f"{p.nll:.4f}", f"{p.error:.4f}"] for p in parts.places]
    print_table(["place in the window", "nats/token", "±"], lines)
    if parts.levels:
        click.echo()
        lines = [
            [
                f"{100 * p.low:.0f}–{100 * p.high:.0f} %",
                f"{p.nll:.4f}",
                "–" if p.error is None else f"{p.error:.4f}",
            ]
            for p in parts.levels
        ]
        print_table(["masked", "nats/masked token", "±"], lines)
    click.echo()
    ends = parts.documents
    lines = [
        [f"{d.document:,}", f"{d.tokens:,}", f"{d.nll:.4f}", f"{d.error:.4f}"]
        for d in dict.fromkeys([*ends.hardest, *ends.easiest[::-1]])
    ]
    print_table([ends.unit, "tokens", "nats/token", "±"], lines)


def _print_ensemble(found: EnsembleResult) -> None:
    per_byte = found.ensemble.bits_per_byte
    rows = [
        *((name, _nll(one)) for name, one in zip(found.names, found.members, strict=True)),
        (f"ensemble, mean {found.average}", _nll(found.ensemble)),
        ("gain over the best", f"{found.gain:+.4f} ± {found.gain_error:.4f} nats/token"),
        ("bits per byte", f"{per_byte:.4f}" if per_byte else "not known"),
        ("perplexity", f"{found.ensemble.perplexity:,.1f}"),
    ]
    print_pairs(rows)
    click.echo()
    averages = list(dict.fromkeys(one.average for one in found.ladder))
    header = ["members", *(f"mean {average}" for average in averages), "gain over one"]
    lines = []
    for size in range(1, len(found.members) + 1):
        same = [one for one in found.ladder if one.members == size]
        chosen = next(one for one in same if one.average == found.average)
        figures = [f"{one.nll_nats_per_token:.4f} ± {one.standard_error:.4f}" for one in same]
        gain = "–" if size == 1 else f"{chosen.gain:+.4f} ± {chosen.gain_error:.4f}"
        lines.append([str(size), *figures, gain])
    print_table(header, lines)
