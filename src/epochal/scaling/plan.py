"""From a corpus and a budget to a decision."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from epochal.data.corpus import open_corpus
from epochal.errors import UserError
from epochal.recipe.schema import Data
from epochal.scaling.law import ScalingLaw
from epochal.scaling.law_files import read_laws
from epochal.scaling.plan_memory import memory_notes
from epochal.scaling.planner import (
    CriticalDataReport,
    PlanReport,
    critical_unique_tokens,
    make_plan,
)
from epochal.scaling.presets import NOTES, PRESETS, preset
from epochal.scaling.result import FitReport
from epochal.scaling.verdict import TITLES
from epochal.sizes import DEFAULT_MFU, GPT2_VOCABULARY, gpu_peak
from epochal.units import format_count

Laws = str | Path | FitReport | Mapping[str, ScalingLaw]


def plan(
    unique_tokens: float | None = None,
    flops: float | None = None,
    *,
    laws: Laws = "paper",
    gpus: str | None = None,
    hours: float | None = None,
    mfu: float = DEFAULT_MFU,
    sizes: Sequence[str] | None = None,
    corpus: str | Path | None = None,
    vocabulary: int | None = None,
) -> PlanReport | CriticalDataReport:
    """What to train on so many unique tokens with a budget, or (without U) when diffusion wins.

    The budget is `flops`, or `gpus` ("8xH100") for `hours` at a share `mfu` of their peak.
    `laws` is "paper", "muennighoff", a file of `epochal fit --out` or a FitReport. A `corpus`
    gives U and the vocabulary, which is else
    `vocabulary`, or that of the laws. Raises UserError for a budget given twice or not at all.
    """
    notes = []
    budget, words = _budget(flops, gpus, hours, mfu)
    notes += words
    known, words = find_laws(laws)
    notes += words
    if corpus is not None:
        opened = open_corpus(Data(corpus=str(corpus)))
        vocabulary = vocabulary or opened.tokenizer.vocabulary
        unique_tokens = unique_tokens or opened.train.unique_tokens
        if unique_tokens > opened.train.unique_tokens:
            raise UserError(
                f"the corpus {corpus} holds {opened.train.unique_tokens:,} unique tokens, not "
                f"{unique_tokens:,.0f}; give no more, or another corpus"
            )
    if unique_tokens is None:
        return critical_unique_tokens(known, budget, notes)
    of_runs = {law.vocabulary for law in known.values() if law.vocabulary is not None}
    vocabulary = vocabulary or max(of_runs, default=GPT2_VOCABULARY)
    notes += _vocabulary_notes(known, vocabulary)
    report = make_plan(
        known, unique_tokens, budget, vocabulary=vocabulary, sizes=sizes, notes=notes
    )
    if gpus is None:
        return report
    more = memory_notes(report, *_gpus(gpus), vocabulary)
    return replace(report, notes=[*more, *report.notes])


def find_laws(laws: Laws) -> tuple[dict[str, ScalingLaw], list[str]]:
    """Laws by family, and what is to be said of them. Raises UserError."""
    if isinstance(laws, FitReport):
        return dict(laws.families), []
    if isinstance(laws, Mapping):
        return dict(laws), []
    if str(laws) in PRESETS:
        return preset(str(laws)), list(NOTES[str(laws)])
    if not Path(laws).is_file():
        raise UserError(
            f"there are no laws {str(laws)!r}: give {' or '.join(PRESETS)}, or a file written by "
            "`epochal fit RUNS --out law.toml`"
        )
    return read_laws(laws), []


def _vocabulary_notes(laws: Mapping[str, ScalingLaw], vocabulary: int) -> list[str]:
    """What is to be said of laws of other tokens than those of the plan."""
    return [
        f"the {TITLES[family]} law is of a vocabulary of {law.vocabulary:,} tokens, the plan of "
        f"one of {vocabulary:,}: nats per token do not carry over from one to the other"
        for family, law in laws.items()
        if law.vocabulary not in (None, vocabulary)
    ]


def _budget(
    flops: float | None, gpus: str | None, hours: float | None, mfu: float
) -> tuple[float, list[str]]:
    if flops is not None and (gpus is not None or hours is not None):
        raise UserError("give the budget once: --flops, or --gpus with --hours")
    if flops is not None:
        return flops, []
    if gpus is None or hours is None:
        raise UserError("give the budget: --flops 1e20, or --gpus 8xH100 --hours 24")
    if not 0 < mfu <= 1 or not hours > 0:
        raise UserError(f"--hours {hours:g} and --mfu {mfu:g}: hours above 0 and 0 < MFU ≤ 1")
    count, name = _gpus(gpus)
    peak = gpu_peak(name)
    total = count * peak * mfu * 3600 * hours
    if total <= 0:
        raise UserError(f"--gpus {gpus!r} is no GPU; write for example 8xH100")
    return total, [
        f"{count} × {name} for {hours:g} h at {100 * mfu:g} % of {format_count(peak)} FLOP/s: "
        f"{format_count(total)} FLOPs (the share is an assumption)"
    ]


def _gpus(text: str) -> tuple[int, str]:
    """Number and name: 8 and H100 of 8xH100. Raises UserError."""
    match = re.fullmatch(r"\s*(?:(\d+)\s*[x×*]\s*)?(.+?)\s*", text)
    if match is None:
        raise UserError(f"--gpus {text!r} is no GPU; write for example 8xH100")
    return int(match[1] or 1), match[2]
