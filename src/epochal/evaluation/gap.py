"""The difference between two runs on the same tokens, and whether it could be chance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from epochal.errors import OptionError
from epochal.estimates import gap as paired_gap
from epochal.evaluation.evaluate import distributed_eval, score
from epochal.evaluation.options import EvalOptions
from epochal.runs import NLLResult, RunRecord
from epochal.runs.comparable import SAME_SCALE, Condition, check_comparable

INTERVAL_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class GapResult:
    """NLL of run `a` minus that of run `b`, nats per token: positive where `b` is better."""

    a: str
    b: str
    results: list[NLLResult]
    """Of `a` and of `b`."""
    difference: float
    standard_error: float
    standard_error_draws: float
    standard_error_documents: float | None
    """None where there is a single document or row to judge by."""
    low: float
    """Of the 95 % interval."""
    high: float
    p_value: float | None
    """Two-sided, of no difference; None where the error is not known."""
    documents: int


def gap(
    a: str | Path | RunRecord, b: str | Path | RunRecord, options: EvalOptions | None = None
) -> GapResult:
    """Score runs `a` and `b` on the same tokens with the same masks, and compare them.

    Both results are stored with their runs, as `evaluate` does. The errors come from differences,
    document by document and (where both NLL are bounds, or one is exact) draw by draw, so they are
    smaller than those of the two NLL. They do not cover the seed of training. Raises UserError for
    runs that were not scored on the same tokens.
    """
    options = options or EvalOptions()
    records = [run if isinstance(run, RunRecord) else RunRecord(run) for run in (a, b)]
    if options.estimator == "paper" and records[0].family != records[1].family:
        raise OptionError(
            "estimator",
            "paper",
            "it does not score the same tokens for different families, so they cannot be paired",
        )
    # Only the same tokens in the same windows can be paired.
    needed = SAME_SCALE if options.corpus is None else (Condition.SEQUENCE_LENGTH,)
    hint = "compare their bits per byte with `epochal eval` on each instead"
    check_comparable(records, hint, needed)
    with distributed_eval() as shard:
        both = [score(record, options, shard) for record in records]
        if options.corpus is None and shard.rank == 0:
            for scored in both:
                scored.keep()
    found = paired_gap(both[0].found, both[1].found)
    low, high = found.interval(INTERVAL_CONFIDENCE)
    known = found.error_documents == found.error_documents
    return GapResult(
        a=both[0].record.name,
        b=both[1].record.name,
        results=[scored.result for scored in both],
        difference=found.difference,
        standard_error=found.error,
        standard_error_draws=found.error_draws,
        standard_error_documents=found.error_documents if known else None,
        low=low,
        high=high,
        p_value=found.p_value if found.error else None,
        documents=both[0].result.documents,
    )
