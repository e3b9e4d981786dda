"""Which family learned more from the same unique tokens: a table and a sentence.

The sentence says no more than the numbers do. Errors cover the validation documents and, for
diffusion, the mask draws. They do not cover the seed: one run per family is one run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from epochal.comparison.meeting import Meeting, meeting_point
from epochal.errors import RunError
from epochal.estimates import Estimate, paired_difference
from epochal.families import family_names, get_family
from epochal.runs import NLLResult, RunRecord
from epochal.runs.comparable import SAME_TASK, check_comparable
from epochal.runs.curves import Curve, validation_curve
from epochal.units import format_count

CLOSE = 2.0
"""A difference of up to so many standard errors is too close to call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """A run as a line of the table."""

    name: str
    family: str
    status: str
    params: int
    flops: float
    """Of the whole run, 6·N·D."""
    epochs: float
    unique_tokens: int
    nll: float
    """Nats per token of the best checkpoint: exact for AR, an upper bound for MDM."""
    standard_error: float
    bits_per_byte: float | None
    best_epoch: float
    best_flops: float
    """Compute up to the best checkpoint."""
    rise_since_best: float
    """Nats by which the validation curve has gone up again."""
    still_falling: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Runs of both families on the same tokens."""

    runs: list[RunSummary]
    ar: str
    """Name of the best AR run."""
    mdm: str
    """Name of the best MDM run."""
    difference: float
    """NLL of MDM minus NLL of AR, nats per token, at their best."""
    difference_error: float
    meeting: Meeting | None
    verdict: str
    notes: list[str]
    left_out: list[str] = field(default_factory=list)
    """Names of runs whose evaluation is not a finite number."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def summarise(record: RunRecord) -> RunSummary:
    """The line of one run. Raises RunError if its best checkpoint has not been evaluated."""
    curve, result = validation_curve(record), _result(record)
    numbers = record.numbers
    reached = curve.steps[-1] / numbers["steps"]
    return RunSummary(
        name=record.name,
        family=record.family,
        status=record.status,
        params=numbers["params"],
        flops=numbers["flops"] * reached,
        epochs=numbers["epochs"] * reached,
        unique_tokens=numbers["unique_tokens"],
        nll=result.nll_nats_per_token,
        standard_error=result.standard_error,
        bits_per_byte=result.bits_per_byte,
        best_epoch=float(curve.epochs[curve.best]),
        best_flops=float(curve.flops[curve.best]),
        rise_since_best=curve.rise,
        still_falling=curve.still_falling,
    )


def compare_runs(records: Sequence[RunRecord], lost: Sequence[str] = ()) -> Comparison:
    """Compare the best run of each family.

    Runs whose evaluation is not finite are left out and listed, with those named in `lost`. Raises
    RunError if a family is missing or if the runs did not learn from the same tokens and were not
    judged on the same ones.
    """
    check_comparable(records, "give runs of one corpus and one number of unique tokens", SAME_TASK)
    records, left_out = _finite(records)
    left_out = [*lost, *left_out]
    summaries = [summarise(record) for record in records]
    best = {}
    for family in family_names():
        of_family = [
            pair for pair in zip(summaries, records, strict=True) if pair[0].family == family
        ]
        if not of_family:
            raise RunError(
                f"none of the runs is {get_family(family).title}"
                + (" and has a finite NLL" if left_out else "")
                + "; give at least one run of each family"
                + (f" (left out: {', '.join(left_out)})" if left_out else "")
            )
        best[family] = min(of_family, key=lambda pair: pair[0].nll)
    (ar, ar_record), (mdm, mdm_record) = best["ar"], best["mdm"]
    difference, error = nll_difference(mdm_record, ar_record)
    curves = {"ar": validation_curve(ar_record), "mdm": validation_curve(mdm_record)}
    meeting = meeting_point(curves["ar"], curves["mdm"])
    # The curves of training are of few mask draws. Where the evaluations do not bear out that
    # diffusion has passed AR (or that it has not yet), the curves' meeting says nothing.
    if meeting is not None and (meeting.how == "seen") != (difference < -CLOSE * error):
        meeting = None
    return Comparison(
        runs=summaries,
        ar=ar.name,
        mdm=mdm.name,
        difference=difference,
        difference_error=error,
        meeting=meeting,
        verdict=_verdict(ar, mdm, difference, error, curves, meeting),
        notes=_notes(summaries, ar, mdm, left_out),
        left_out=left_out,
    )


def _finite(records: Sequence[RunRecord]) -> tuple[list[RunRecord], list[str]]:
    """The runs with a finite NLL, and the names of the others."""
    kept = [record for record in records if np.isfinite(_result(record).nll_nats_per_token)]
    return kept, [record.name for record in records if record not in kept]


def _result(record: RunRecord) -> NLLResult:
    result = record.evaluation("best")
    if result is None:
        raise RunError(
            f"the best checkpoint of {record.path} has not been evaluated; run `epochal eval "
            f"{record.path}`"
        )
    return result


def nll_difference(run: RunRecord, other: RunRecord) -> tuple[float, float]:
    """NLL of `run` minus that of `other` at their best, on the same documents, and its error.

    Raises RunError where one was not evaluated, or not on the same tokens in the same way.
    """
    results = _result(run), _result(other)
    if results[0].validation_sha256 == results[1].validation_sha256:
        try:
            return paired_difference(_estimate(run), _estimate(other))
        except ValueError:
            pass
    raise RunError(
        f"the best checkpoints of {run.path} and {other.path} were not scored on the same tokens "
        "in the same way (another validation set, estimator or sequence length), so their NLL "
        "cannot be compared; run `epochal eval` on both again"
    )


def _estimate(record: RunRecord) -> Estimate:
    result = _result(record)
    totals, tokens, variances = record.document_sums(result)
    return Estimate(
        nll=result.nll_nats_per_token,
        error_draws=result.standard_error_draws,
        error_documents=np.nan,
        unit_totals=totals,
        unit_tokens=tokens,
        unit_variances=variances,
    )


def _verdict(
    ar: RunSummary,
    mdm: RunSummary,
    difference: float,
    error: float,
    curves: dict[str, Curve],
    meeting: Meeting | None,
) -> str:
    amount = f"{abs(difference):.3f} ± {error:.3f} nats per token"
    # Diffusion's figure is a bound: its true NLL may be lower, so its lead may be larger.
    side = "at most" if difference > 0 else "at least"
    figures = f"AR {ar.nll:.3f}, diffusion at most {mdm.nll:.3f}"
    tokens = f"{ar.unique_tokens:,} unique tokens"
    if abs(difference) <= CLOSE * error:
        lead = f"Too close to call on {tokens}: the difference is {amount} ({figures})"
    else:
        winner = "AR" if difference > 0 else "Diffusion"
        lead = f"{winner} learned more from these {tokens}, by {side} {amount} ({figures})"
    meets = _meets(meeting)
    if meeting is None and curves["ar"].overfits and curves["mdm"].overfits:
        behind = difference > CLOSE * error
        meets = "both overfit at these settings" + (
            ", so training longer would not bring diffusion to AR's best" if behind else ""
        )
    return f"{lead}; {_shape(ar, curves['ar'])}, {_shape(mdm, curves['mdm'])}; {meets}."


def _shape(run: RunSummary, curve: Curve) -> str:
    name = "AR" if run.family == "ar" else "diffusion"
    if curve.overfits:
        return (
            f"{name} was best at epoch {run.best_epoch:.1f} and has since overfitted by "
            f"{run.rise_since_best:.2f}"
        )
    if curve.still_falling:
        return f"{name} was still falling at the end (epoch {run.epochs:.1f})"
    return f"{name} had levelled off by epoch {run.epochs:.1f}"


def _meets(meeting: Meeting | None) -> str:
    if meeting is None:
        return "where the two curves would meet, if they do, cannot be told from these runs"
    flops, (low, high) = meeting.flops, meeting.interval
    if meeting.how == "seen":
        return f"diffusion's curve passed AR's at {format_count(flops)} FLOPs"
    return (
        f"carried on as it went, diffusion's curve would meet AR's best near {format_count(flops)} "
        f"FLOPs (90 % interval {format_count(low)} to {format_count(high)})"
    )


def _notes(
    runs: Sequence[RunSummary], ar: RunSummary, mdm: RunSummary, left_out: Sequence[str]
) -> list[str]:
    notes = [
        "AR's NLL is exact; diffusion's is an upper bound on its NLL, so it may be better than "
        "shown, never worse.",
        "± is one standard error, over validation documents and mask draws. It does not cover "
        "other seeds, sizes or regularisation.",
    ]
    if abs(np.log(ar.flops / mdm.flops)) > 0.02:
        notes.append(
            f"The two did not have the same compute: AR {format_count(ar.flops)} FLOPs, diffusion "
            f"{format_count(mdm.flops)} FLOPs."
        )
    if unfinished := [run.name for run in runs if run.status != "finished"]:
        notes.append(f"Not finished: {', '.join(unfinished)}.")
    if left_out:
        notes.append(f"Left out, since their NLL is not finite: {', '.join(left_out)}.")
    return notes
