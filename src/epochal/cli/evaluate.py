"""`epochal eval`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from epochal.cli.output import json_option, print_json, print_pairs, print_table
from epochal.errors import UserError

if TYPE_CHECKING:
    from epochal.evaluation.ensemble import EnsembleResult
    from epochal.evaluation.gap import GapResult
    from epochal.likelihood.breakdown import Breakdown
    from epochal.runs import NLLResult


@click.command("eval")
@click.argument("runs", nargs=-1, required=True, metavar="RUN[@CHECKPOINT]...")
@click.option("--against", metavar="RUN", help="Also score this run, and pair the two.")
@click.option("--ensemble", is_flag=True, help="Of two or more: the mean of their probabilities.")
@click.option("--breakdown", is_flag=True, help="By place, by document and by noise level.")
@click.option("--checkpoint", metavar="NAME", help="best, last, ema or a step.  [default: best]")
@click.option("--draws", type=int, help="Mask draws per row for diffusion.  [default: 8]")
@click.option(
    "--tolerance",
    type=float,
    metavar="NATS",
    help="Make as many draws as bring the error from them down to this, for example 0.01.",
)
@click.option(
    "--estimator",
    type=click.Choice(["stratified", "paper"]),
    default="stratified",
    show_default=True,
    help="paper: the original's (independent noise, 32 draws, windows of L+1 tokens).",
)
@click.option("--corpus", help="Another corpus folder, made with the same tokenizer.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, mps.")
@json_option
def evaluate(
    runs: tuple[str, ...],
    against: str | None,
    ensemble: bool,
    breakdown: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Validation NLL of a run over the whole validation set, with its standard error.

    Exact for autoregressive models. For masked diffusion an upper bound, by Monte Carlo: the
    error from the draws says how far other masks would move the figure, the error from the
    documents how far other documents would. The same masks are used for every checkpoint.
    Several processes share the work: torchrun --nproc-per-node 8 -m epochal eval RUN.

    \b
    Examples:
      epochal eval quickstart/mdm
      epochal eval quickstart/mdm --tolerance 0.005 --checkpoint last
      epochal eval quickstart/ar --against quickstart/mdm
      epochal eval quickstart/mdm --breakdown
      epochal eval runs/a runs/b@last --ensemble
      epochal eval quickstart/mdm --estimator paper --json
    """
    from epochal.evaluation.options import Options, check_runs

    if sum((bool(against), ensemble, breakdown)) > 1:
        raise UserError("--against, --ensemble and --breakdown do not go together; give one")
    if len(runs) > 1 and not ensemble:
        raise UserError(f"{len(runs)} runs: give one, another with --against, or --ensemble")
    Options(**options).check()
    check_runs([*runs, *([against] if against else [])])
    from epochal.evaluation.ensemble import ensemble as score_ensemble
    from epochal.evaluation.evaluate import evaluate as score
    from epochal.evaluation.evaluate import evaluate_in_parts
    from epochal.evaluation.gap import gap
    from epochal.training.parallel.world import is_secondary_rank

    content: dict[str, Any]
    show: Callable[[], None]
    if against:
        pair = gap(runs[0], against, **options)
        content, show = pair.as_dict(), lambda: _print_gap(pair)
        content["results"] = [_content(result) for result in pair.results]
    elif ensemble:
        together = score_ensemble(runs, **options)
        content, show = together.as_dict(), lambda: _print_ensemble(together)
        content["ensemble"] = _content(together.ensemble)
        content["members"] = [_content(member) for member in together.members]
    elif breakdown:
        whole, parts = evaluate_in_parts(runs[0], Options(**options))
        content = _content(whole) | {"breakdown": parts.as_dict()}
        show = lambda: _print_result(whole, parts)  # noqa: E731
    else:
        result = score(runs[0], **options)
        content, show = _content(result), lambda: _print_result(result)
    if is_secondary_rank():
        return
    if as_json:
        print_json(content)
    else:
        show()


def _content(result: NLLResult) -> dict[str, Any]:
    return result.as_dict() | {"perplexity": math.exp(result.nll_nats_per_token)}


def _units(result: NLLResult) -> str:
    """What was sampled: the paper's estimator knows windows only."""
    unit = "window" if result.estimator == "paper" else "document"
    return unit if result.documents == 1 else f"{unit}s"


def _print_result(result: NLLResult, parts: Breakdown | None = None) -> None:
    bound = "" if result.estimator == "exact" or result.family == "ar" else " (upper bound)"
    rows = [
        ("NLL", f"{result.nll_nats_per_token:.4f} ± {result.standard_error:.4f} nats/token{bound}"),
        ("  from the draws", f"± {result.standard_error_draws:.4f}"),
        ("  from the documents", _error(result.standard_error_documents)),
        (
            "bits per byte",
            f"{result.bits_per_byte:.4f}{bound}" if result.bits_per_byte else "not known",
        ),
        ("perplexity", f"{math.exp(result.nll_nats_per_token):,.1f}{bound}"),
        ("estimator", f"{result.estimator}, {result.draws} draws" if bound else result.estimator),
        ("scored", f"{result.tokens_scored:,} tokens, {result.documents:,} {_units(result)}"),
        ("checkpoint", f"{result.checkpoint}, step {result.step:,}"),
    ]
    print_pairs(rows)
    if parts is not None:
        _print_parts(parts)


def _error(value: float | None) -> str:
    return "not known: a single document" if value is None else f"± {value:.4f}"


def _print_gap(found: GapResult) -> None:
    a, b = found.results
    # One figure exact, the other a bound: say which way the truth may lie.
    bounds = [result.family == "mdm" for result in found.results]
    note = ""
    if bounds == [False, True]:
        note = ", at least: the second is an upper bound"
    elif bounds == [True, False]:
        note = ", at most: the first is an upper bound"
    names = (found.a, found.b) if found.a != found.b else (f"{found.a} (first)", found.b)
    chance = "not known" if found.p_value is None else f"{found.p_value:.2g}"
    rows = [
        *(
            (name, f"{r.nll_nats_per_token:.4f} ± {r.standard_error:.4f} nats/token")
            for name, r in zip(names, (a, b), strict=True)
        ),
        ("difference", f"{found.difference:+.4f} ± {found.standard_error:.4f} nats/token{note}"),
        ("  from the draws", f"± {found.standard_error_draws:.4f}"),
        ("  from the documents", _error(found.standard_error_documents)),
        ("95 % interval", f"{found.low:+.4f} to {found.high:+.4f}"),
        ("p-value", chance),
        ("paired over", f"{found.documents:,} {_units(a)}"),
    ]
    print_pairs(rows)


def _print_parts(parts: Breakdown) -> None:
    content = parts.as_dict()
    click.echo()
    lines = [
        [f"{p['first']:,}–{p['last']:,}", f"{p['nll']:.4f}", f"{p['error']:.4f}"]
        for p in content["places"]
    ]
    print_table(["place in the window", "nats/token", "±"], lines)
    if content["levels"]:
        click.echo()
        lines = [
            [
                f"{100 * p['low']:.0f}–{100 * p['high']:.0f} %",
                f"{p['nll']:.4f}",
                "–" if p["error"] is None else f"{p['error']:.4f}",
            ]
            for p in content["levels"]
        ]
        print_table(["masked", "nats/masked token", "±"], lines)
    click.echo()
    ends = content["documents"]
    lines = [
        [f"{d['document']:,}", f"{d['tokens']:,}", f"{d['nll']:.4f}", f"{d['error']:.4f}"]
        for d in [*ends["hardest"], *ends["easiest"][::-1]]
    ]
    unique = list(dict.fromkeys(map(tuple, lines)))
    print_table([ends["unit"], "tokens", "nats/token", "±"], [list(line) for line in unique])


def _print_ensemble(found: EnsembleResult) -> None:
    def line(result: NLLResult) -> str:
        return f"{result.nll_nats_per_token:.4f} ± {result.standard_error:.4f} nats/token"

    rows = [(name, line(one)) for name, one in zip(found.names, found.members, strict=True)]
    rows.append(("ensemble", line(found.ensemble)))
    perplexity = math.exp(found.ensemble.nll_nats_per_token)
    per_byte = found.ensemble.bits_per_byte
    rows += [
        ("gain over the best", f"{found.gain:+.4f} ± {found.gain_error:.4f} nats/token"),
        ("bits per byte", f"{per_byte:.4f}" if per_byte else "not known"),
        ("perplexity", f"{perplexity:,.1f}"),
    ]
    print_pairs(rows)
