"""From unique tokens and a budget to a decision."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from epochal.data.corpus import open_corpus
from epochal.errors import OptionError, UserError
from epochal.recipe.schema import Data
from epochal.results import Note, note
from epochal.scaling.law import ScalingLaw
from epochal.scaling.law_files import PRESETS, read_laws, read_preset
from epochal.scaling.notes import PlanNote
from epochal.scaling.options import PlanOptions
from epochal.scaling.plan_recipes import memory_notes
from epochal.scaling.planner import (
    CriticalDataReport,
    PlanReport,
    make_critical_data,
    make_plan,
)
from epochal.scaling.result import FitReport
from epochal.sizes import DEFAULT_MFU, GPT2_VOCABULARY, gpu_peak


def plan(
    unique_tokens: float | None = None,
    flops: float | None = None,
    options: PlanOptions | None = None,
) -> PlanReport:
    """What to train on `unique_tokens` with a budget, per family, and which family to take.

    The budget is `flops`, or GPUs and hours in `options`; a corpus there gives the unique tokens
    if they are not given. Raises UserError for a budget given twice or not at all, and for more
    unique tokens than the corpus holds.
    """
    options = options or PlanOptions()
    budget, budget_notes = _budget(flops, options)
    laws, law_notes = find_laws(options.laws)
    vocabulary = options.vocabulary
    if options.corpus is not None:
        corpus = open_corpus(Data(corpus=str(options.corpus)))
        vocabulary = vocabulary or corpus.tokenizer.vocabulary
        unique_tokens = unique_tokens or corpus.train.unique_tokens
        if unique_tokens > corpus.train.unique_tokens:
            raise UserError(
                f"the corpus {options.corpus} holds {corpus.train.unique_tokens:,} unique tokens, "
                f"not {unique_tokens:,.0f}; give no more, or another corpus"
            )
    if unique_tokens is None:
        raise UserError(
            "a plan needs unique_tokens, or a corpus; critical_unique_tokens needs neither"
        )
    known = [law.vocabulary for law in laws.values() if law.vocabulary is not None]
    vocabulary = vocabulary or max(known, default=GPT2_VOCABULARY)
    notes = [*budget_notes, *law_notes, *_vocabulary_notes(laws, vocabulary)]
    report = make_plan(
        laws, unique_tokens, budget, vocabulary=vocabulary, sizes=options.sizes, notes=notes
    )
    if options.gpus is None:
        return report
    more = memory_notes(report, *_gpus(options.gpus), vocabulary)
    return replace(report, notes=[*more, *report.notes])


def critical_unique_tokens(
    flops: float | None = None, options: PlanOptions | None = None
) -> CriticalDataReport:
    """At which unique tokens each of two families leads when the budget is spent.

    Raises OptionError for options that only a plan takes, UserError for laws of one family and for
    a budget given twice or not at all.
    """
    options = options or PlanOptions()
    for name in ("corpus", "sizes", "vocabulary"):
        if value := getattr(options, name):
            raise OptionError(name, value, "only a plan for given unique tokens takes it")
    budget, budget_notes = _budget(flops, options)
    laws, law_notes = find_laws(options.laws)
    return make_critical_data(laws, budget, [*budget_notes, *law_notes])


def find_laws(laws: str | Path | Any) -> tuple[dict[str, ScalingLaw], list[Note]]:
    """Laws by family, and notes about them.

    `laws` is the name of a preset, a law file, a FitReport or a mapping of families to laws. Raises
    OptionError if it is none of these.
    """
    if isinstance(laws, FitReport):
        return dict(laws.families), []
    if isinstance(laws, Mapping):
        return dict(laws), []
    if str(laws) in PRESETS:
        return read_preset(str(laws)), [note(code) for code in PRESETS[str(laws)]]
    if not Path(laws).is_file():
        raise OptionError(
            "laws",
            str(laws),
            f"no such laws; give {' or '.join(PRESETS)}, or a file written by "
            "`epochal fit RUNS --out law.toml`",
        )
    return read_laws(laws), []


def _vocabulary_notes(laws: Mapping[str, ScalingLaw], vocabulary: int) -> list[Note]:
    """Laws with another vocabulary than the plan."""
    return [
        note(PlanNote.OTHER_VOCABULARY, family=family, law=law.vocabulary, plan=vocabulary)
        for family, law in laws.items()
        if law.vocabulary not in (None, vocabulary)
    ]


def _budget(flops: float | None, options: PlanOptions) -> tuple[float, list[Note]]:
    gpus, hours = options.gpus, options.hours
    if flops is not None:
        if gpus is not None or hours is not None:
            raise UserError("give the budget once: flops, or gpus with hours")
        if options.mfu is not None:
            raise OptionError("mfu", options.mfu, "it needs gpus and hours, not flops")
        return flops, []
    if gpus is None or hours is None:
        raise UserError("give the budget: flops such as 1e20, or gpus such as 8xH100 with hours")
    count, name = _gpus(gpus)
    mfu, peak = DEFAULT_MFU if options.mfu is None else options.mfu, gpu_peak(name)
    total = count * peak * mfu * 3600 * hours
    if total <= 0:
        raise OptionError("gpus", gpus, "not a GPU; write for example 8xH100")
    values = {"count": count, "gpu": name, "hours": hours, "mfu": mfu, "peak": peak}
    return total, [note(PlanNote.BUDGET_OF_GPUS, **values, flops=total)]


def _gpus(text: str) -> tuple[int, str]:
    """Number and name: 8 and H100 of 8xH100. Raises OptionError."""
    match = re.fullmatch(r"\s*(?:(\d+)\s*[x×*]\s*)?(.+?)\s*", text)
    if match is None:
        raise OptionError("gpus", text, "not a GPU; write for example 8xH100")
    return int(match[1] or 1), match[2]
