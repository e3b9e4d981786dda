"""How far two runs are apart on the same tokens, and whether that could be chance."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from epochal.errors import UserError
from epochal.estimates import gap as paired_gap
from epochal.evaluation.distributed import shared_work
from epochal.evaluation.evaluate import score
from epochal.evaluation.options import Options
from epochal.runs import NLLResult, RunRecord
from epochal.runs.comparable import SAME_SCALE, Condition, check_comparable

CONFIDENCE = 0.95


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

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def gap(a: str | Path | RunRecord, b: str | Path | RunRecord, **options: Any) -> GapResult:
    """Score runs `a` and `b` on the same tokens with the same masks, and compare them.

    `options` are those of `evaluate`; both results are kept with their runs as it does. The
    errors are of differences, document by document and (where both are diffusion, or one is
    exact) draw by draw, so they are smaller than those of the two figures. They do not cover
    the seed of training. Raises UserError for runs that were not judged on the same tokens.
    """
    given = Options(**options)
    records = [run if isinstance(run, RunRecord) else RunRecord(run) for run in (a, b)]
    _check_pair(records[0], records[1], given)
    with shared_work() as share:
        both = [score(record, given, share) for record in records]
        if given.corpus is None and share.rank == 0:
            for scored in both:
                scored.keep()
    found = paired_gap(both[0].found, both[1].found)
    low, high = found.interval(CONFIDENCE)
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


def _check_pair(a: RunRecord, b: RunRecord, options: Options) -> None:
    """Only the same tokens in the same windows can be paired."""
    if options.estimator == "paper" and a.family != b.family:
        raise UserError(
            "the paper's estimator does not score the same tokens for both families, so they "
            "cannot be paired; leave out --estimator paper"
        )
    needed = SAME_SCALE if options.corpus is None else (Condition.SEQUENCE_LENGTH,)
    check_comparable(
        (a, b), "compare their bits per byte with `epochal eval` on each instead", needed
    )
