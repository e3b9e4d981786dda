"""English about fits: why runs were left out, what constants are worth, which law was chosen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from epochal.families import get_family
from epochal.report.text.format import count, listed, power_of_ten, sentence
from epochal.results import NoteCode
from epochal.scaling.choose import AICC_LEAD, Choice
from epochal.scaling.isoflop import IsoFlop, Parabola
from epochal.scaling.notes import (
    ChoiceReason,
    ConstantStatus,
    DropReason,
    FitNote,
    PointsNote,
    VertexFlag,
)
from epochal.scaling.points import Dropped, ParamsConvention
from epochal.scaling.result import FamilyFit
from epochal.units import format_count

CHOICE_RULE = (
    "the law with the fewest constants, unless one with more has a lower held-out error by more "
    f"than one standard error and an AICc lower by more than {AICC_LEAD:g}"
)
CONVENTIONS = {
    ParamsConvention.AS_GIVEN: "as given; whether embeddings count is not known",
    ParamsConvention.PAPER: "the paper's N = 4ld² + 3ldh + 6ld + Vd, embeddings included",
}


def _dominated(values: Mapping[str, Any]) -> str:
    def part(prefix: str) -> str:
        setting = values[f"{prefix}setting"].items()
        names = ", ".join(f"{k}={'unset' if v is None else v}" for k, v in setting)
        runs = values[f"{prefix}runs"]
        mean = f" in the mean of {runs} runs" if runs > 1 else ""
        return f"{names} {{}}{values[f'{prefix}loss']:.4f} nats{mean}"

    own, best = part("").format("gave "), part("best_").format("")
    return f"not the best setting of its size, tokens and unique tokens: {own}, {best}"


def _better(values: Mapping[str, Any]) -> str:
    return (
        f"its held-out error is lower than that of {values['than']} by "
        f"{100 * values['error_lower']:.2f} ± {100 * values['standard_error']:.2f} % and its AICc "
        f"by {values['aicc_lower']:.1f}"
    )


def _unigram_level(values: Mapping[str, Any]) -> str:
    name = get_family(values["family"]).short
    return (
        f"{values['count']} of {values['total']} {name} runs do not beat the unigram baseline "
        f"({values['unigram_nll']:.3f} nats per token): they cannot show the fall that follows, so "
        "leave them out, or train longer"
    )


TEXTS: dict[NoteCode, Any] = {
    DropReason.DIVERGED: "diverged: its loss or gradient was not finite",
    DropReason.NOT_FINISHED: "not finished ({status}), so its learning rate has not decayed",
    DropReason.BRANCHED_FROM: "its learning rate has not decayed: {branch} starts from it and "
    "decays",
    DropReason.NO_FINITE_LOSS: "no evaluation with a finite loss",
    DropReason.LOSS_NOT_POSITIVE: "its loss {loss:g} is not a positive number",
    DropReason.DOMINATED_SETTING: _dominated,
    DropReason.TOO_MANY_EPOCHS: "more than {limit:g} epochs ({epochs:.3g})",
    DropReason.OVERFITTED: lambda v: (
        f"overfitted: {100 * v['above']:.1f} % above a shorter run of the same size on the same "
        f"tokens (rule: {100 * v['threshold']:g} %)"
    ),
    DropReason.ONLY_REPEATED: "a single multi-epoch run cannot identify a half-life",
    DropReason.UNIGRAM_LEVEL: "does not beat the unigram baseline ({unigram_nll:.3f} nats per "
    "token)",
    PointsNote.SINGLE_EPOCH_ASSUMED: "{file} has no column unique_tokens: every row is taken as "
    "one epoch",
    PointsNote.FAMILY_ASSUMED: lambda v: (
        f"{v['file']} has no column family: all rows are taken as {get_family(v['family']).short}"
    ),
    PointsNote.BEST_EVALUATIONS: "points are the best evaluations within runs; under a decaying "
    "learning rate they are not comparable with ends of shorter runs",
    PointsNote.TRAINING_EVALUATIONS: "{count} of {total} losses come from the evaluation during "
    "training, which is coarser than `epochal eval`",
    PointsNote.RUNS_AT_UNIGRAM_LEVEL: _unigram_level,
    ConstantStatus.FIXED: "fixed",
    ConstantStatus.FIXED_FROM_STAGE_1: "fixed from stage 1",
    ConstantStatus.NO_REPETITION: "not identified: fewer than two runs repeat their tokens",
    ConstantStatus.NO_LARGE_MODELS: "not identified: no two runs have N above 1.1·N_opt(U)",
    ConstantStatus.ANY_VALUE: "not identified: any value fits as well",
    ConstantStatus.AT_LEAST: "at least {low:.3g}",
    ConstantStatus.AT_MOST: "at most {high:.3g}",
    FitNote.NO_FLOOR: "E is nearly 0: the runs do not reach far enough to show a floor",
    FitNote.TRADE_OFF: "the constants trade off (condition {condition:.2g}): compare predictions "
    "and exponents, not A and B",
    FitNote.FIXED_CONSTANTS_OFF: lambda v: (
        f"at one epoch the fixed constants are off by {100 * v['offset']:+.1f} %: they come from "
        "other runs, and the half-lives absorb the difference"
    ),
    FitNote.HALF_LIFE_BEYOND_RUNS: "R_D = {half_life_constant:.3g} lies beyond the longest run "
    "({longest:.3g} epochs)",
    FitNote.ONE_UNIQUE_BUDGET: "all runs have one number of unique tokens: another U is "
    "extrapolation",
    ChoiceReason.NOTHING_REPEATS: "fewer than two runs repeat their tokens, so nothing separates "
    "the laws",
    ChoiceReason.ONLY_ONE: "it was the only one that could be fitted",
    ChoiceReason.BETTER: _better,
    ChoiceReason.FEWEST_CONSTANTS: "it has the fewest constants, and no other predicts held-out "
    "runs better",
    ChoiceReason.GAIN_UNCLEAR: lambda v: (
        f"it has the fewest constants, and the gain of {listed(v['ahead'])} is not clear"
    ),
    VertexFlag.FEW_SIZES: "only {sizes} sizes",
    VertexFlag.NO_MINIMUM: "opens downwards: no minimum",
    VertexFlag.OUTSIDE_SIZES: "minimum outside of the sizes that were run",
}


def _describe(value: Any) -> str:
    from epochal.report.text import describe

    return describe(value)


def dropped_line(dropped: Dropped) -> str:
    """A run that was left out, and why."""
    return f"{dropped.run}: {_describe(dropped.reason)}"


def constant_row(fit: FamilyFit, name: str) -> list[str]:
    """[name, value, 95 % interval, status] of a constant."""
    value = fit.constants[name]
    low, high = fit.intervals[name]
    if value is None or (low is None and high is None) or low == high:
        interval = ""
    else:
        left = "open" if low is None else f"{low:.4g}"
        interval = f"{left} – {'open' if high is None else f'{high:.4g}'}"
    status = fit.constant_status.get(name)
    shown = "–" if value is None else f"{value:.5g}"
    return [name, shown, interval, "" if status is None else _describe(status)]


def fit_lines(fit: FamilyFit, most: int) -> list[str]:
    """All about one family's fit beside its constants; lists are cut after `most`. A line that
    begins with spaces belongs to the one before."""
    points = fit.points
    lines = [
        f"{len(points)} points, objective {fit.objective:.5g} (sum of Huber terms), R² "
        f"{fit.r2:.4f}, condition {fit.condition:.3g}; N: {CONVENTIONS[points.n_convention]}"
        + ("; exponents tied" if fit.tied_exponents else "")
    ]
    if fit.half_life is not None:
        lines.append(f"a repeated token is worth half a fresh one after {fit.half_life:.3g} epochs")
    if len(fit.minima) > 1:
        lines.append(f"{len(fit.minima)} minima within 1 % of the lowest objective:")
        for minimum in fit.minima[:most]:
            values = ", ".join(f"{k} {v:.4g}" for k, v in minimum.items() if k != "objective")
            lines.append(f"  objective {minimum['objective']:.6g}: {values}")
    if fit.held_out is not None:
        held = fit.held_out
        lines.append(
            f"with its {count(len(held.runs), 'largest run')} held out, the law is off there by "
            f"{100 * held.mean_relative_error:.2f} % (at most "
            f"{100 * held.largest_relative_error:.2f} %)"
        )
    if fit.extrapolation_error:
        lines.append(
            "with its largest runs held out, the predicted drop in loss was wrong by up to "
            f"{100 * fit.extrapolation_error:.3g} %; `epochal plan` widens extrapolated intervals "
            "by that"
        )
    if fit.isoflop is not None and fit.isoflop.params_exponent is not None:
        lines.append(_isoflop_line(fit.isoflop))
    lines += [f"left out: {dropped_line(dropped)}" for dropped in fit.dropped[:most]]
    if len(fit.dropped) > most:
        lines.append(f"left out: {len(fit.dropped) - most} more, all in --json")
    return [*lines, *map(_describe, fit.notes)]


def _isoflop_line(isoflop: IsoFlop) -> str:
    """The line through the parabolas' vertices, and how far sampling moves it."""
    line = (
        f"isoFLOP parabolas: N_opt = {isoflop.params_scale:.3g}·C^{isoflop.params_exponent:.3f}, "
        f"D_opt grows as C^{isoflop.tokens_exponent:.3f}"
    )
    if isoflop.central_params_exponent is not None:
        near = isoflop.central_params_exponent
        line += f"; N_opt's exponent near the minima alone: {near:.3f}"
    return line


def choice_rows(choice: Choice) -> list[list[str]]:
    """[law, constants, held-out error, AICc above the lowest, chosen or refused] per candidate."""
    scores = [c.aicc for c in choice.candidates if c.aicc is not None]
    lowest = min(scores, default=np.nan)
    return [
        [
            candidate.law,
            str(candidate.constants),
            "–" if (e := candidate.held_out_error) is None else f"{100 * e:.2f} %",
            "–" if candidate.aicc is None else f"{candidate.aicc - lowest:.2f}",
            "chosen" if candidate.law == choice.law else "refused" * bool(candidate.refused),
        ]
        for candidate in choice.candidates
    ]


def choice_lines(choice: Choice) -> list[str]:
    """Why a law was chosen, the rule, and the candidates that could not be fitted."""
    lines = [f"{choice.law} was chosen: {_describe(choice.reason)}"]
    if choice.candidates:
        lines.append(f"rule: {CHOICE_RULE}; {choice.runs} runs in {choice.groups} groups held out")
    refused = (c for c in choice.candidates if c.refused is not None)
    return lines + [f"{candidate.law} refused: {candidate.refused}" for candidate in refused]


def parabola_flops(parabola: Parabola) -> str:
    """FLOPs of a parabola, two digits: it is the mean of runs that differ by some percent."""
    return power_of_ten(float(f"{parabola.flops:.2g}"))


def describe_parabola(parabola: Parabola) -> str:
    """ "10¹⁵ FLOPs: best size 2.1M"."""
    best = parabola.optimal_params
    size = "none" if best is None else format_count(best)
    if best is not None and not parabola.params[0] <= best <= parabola.params[-1]:
        size = "outside the sizes that were run"
    return f"{parabola_flops(parabola)} FLOPs: best size {size}"


def isoflop_notes(laws: Mapping[str, FamilyFit]) -> list[str]:
    """What the parabolas show about the best size, and why they may be unreliable."""
    notes = []
    for family, fit in laws.items():
        if fit.isoflop is None:
            continue
        title = sentence(get_family(family).title)
        if fit.isoflop.params_exponent is not None:
            notes.append(
                f"{title}: best size ∝ C^{fit.isoflop.params_exponent:.2f}, tokens ∝ "
                f"C^{fit.isoflop.tokens_exponent:.2f}."
            )
        notes += [
            f"{title} at {parabola_flops(one)} FLOPs: {'; '.join(map(_describe, one.flags))}."
            for one in fit.isoflop.parabolas
            if one.flags
        ]
    return notes


def half_life(fit: FamilyFit) -> str:
    """ "half-life 11 repetitions (95 %: 8 to 17)", or what is known of it."""
    if fit.half_life is None:
        return "the half-life of data is not determined by these runs"
    low, high = (
        None if end is None else np.log(2) * end for end in fit.intervals.get("R_D", (None, None))
    )
    longest = float(fit.points.epochs.max())
    if high is None and fit.half_life > longest:
        least = "" if low is None else f"at least {low:.3g} repetitions (95 %); "
        return f"half-life {least}too long to be seen in runs of up to {longest:.3g} epochs"
    interval = ""
    if low is not None:
        ends = f"at least {low:.3g}" if high is None else f"{low:.3g} to {high:.3g}"
        interval = f" (95 %: {ends})"
    return f"half-life {fit.half_life:.3g} repetitions{interval}"
