"""English about sweeps: states of runs, runs that are not submitted, listings."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from typing import Any

from epochal.report.text import Text, describe
from epochal.report.text.format import flops
from epochal.results import NoteCode
from epochal.sweeps.listing import ListingNote
from epochal.sweeps.record import RunReason, RunState
from epochal.sweeps.submit import SkipReason


def state_text(state: RunState) -> str:
    """'failed: its training ended with exit code 3'."""
    words = state.state.replace("_", " ")
    return words if state.reason is None else f"{words}: {describe(state.reason)}"


def _training_failed(values: Mapping[str, Any]) -> str:
    code = int(values["exit_code"])
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"its training ended with {how}"


def _validation_rose(values: Mapping[str, Any]) -> str:
    nll, best = values["nll"], values["best"]
    return (
        f"validation rose: {nll:.3f} at step {values['step']:,}, {nll - best:.3f} above its best "
        f"{best:.3f} at step {values['best_step']:,}"
    )


def _far_behind(values: Mapping[str, Any]) -> str:
    return (
        f"far behind: best validation {values['nll']:.3f} after {100 * values['share']:.0f} % of "
        f"the run, where {values['rival']} had {values['rival_nll']:.3f}"
    )


def _done(values: Mapping[str, Any]) -> str:
    words = str(values["state"]).replace("_", " ")
    return words if values["reason"] is None else f"{words}: {describe(values['reason'])}"


TEXTS: Mapping[NoteCode, Text] = {
    RunReason.TRAINING_FAILED: _training_failed,
    RunReason.EVALUATION_FAILED: "its evaluation ended with exit code {exit_code}",
    RunReason.TRUNK_NOT_FINISHED: "{trunk}, from which it starts, is not finished",
    RunReason.BRANCHES_FINISHED: "all runs that start from it are finished",
    RunReason.SAME_RUN: "the same run as {run_dir}",
    RunReason.NO_TIME: "no time was left for it in the budget",
    RunReason.VALIDATION_ROSE: _validation_rose,
    RunReason.FAR_BEHIND: _far_behind,
    RunReason.EARLIER_VERSION: "{text}",
    SkipReason.DONE: _done,
    SkipReason.IN_USE: "another process is working on it",
    SkipReason.TRUNK_SKIPPED: lambda values: (
        f"{values['trunk']}, from which it starts: {describe(values['reason'])}"
    ),
    ListingNote.CORPUS_MISSING: (
        "the corpus does not exist: numbers are for GPT-2's vocabulary of {vocabulary:,}"
    ),
    ListingNote.CORPUS_TOO_SMALL: (
        "some runs want {wanted:,} unique tokens, the corpus has {unique_tokens:,}"
    ),
    ListingNote.SAME_RUN: "{run} is the same run as {other}, settings and seed",
    ListingNote.BRANCHES: lambda values: (
        f"{values['runs']} runs start from a trunk; incremental FLOPs are what a run itself "
        f"spends. All together spend {flops(values['flops'])}; the branches trained alone would "
        f"take {flops(values['flops_alone'])}"
    ),
    ListingNote.GPU_HOURS: lambda values: (
        f"GPU hours: {values['gpu']}, at {100 * values['mfu']:g} % of its dense bf16 peak"
    ),
}
