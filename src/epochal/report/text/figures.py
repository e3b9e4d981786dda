"""Figures in words: labels that are read aloud, and tips under the pointer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from epochal.families import families, get_family
from epochal.report.text.format import power_of_ten, sentence
from epochal.units import format_count, format_epochs

if TYPE_CHECKING:
    from epochal.comparison import CurveCrossing
    from epochal.report.collect import Run
    from epochal.scaling.isoflop import Parabola
    from epochal.scaling.planner import FamilyPlan
    from epochal.scaling.points import Points
    from epochal.scaling.result import FamilyFit

_FEW = 6
"""Up to this many runs each curve is described in a figure's label, else each family's best."""


def describe_run(run: Run) -> str:
    """A run in one line."""
    facts = [
        get_family(run.family).title,
        f"{format_count(run.params)} parameters",
        f"{format_count(run.unique_tokens)} unique tokens",
        f"{run.summary.epochs_seen:.3g} epochs",
        f"{power_of_ten(run.summary.flops_spent)} FLOPs",
    ]
    if run.nll is not None and run.best is not None:
        error = "" if run.result is None else f" ± {run.result.standard_error:.3f}"
        facts.append(f"best {run.nll:.3f}{error} at epoch {run.best[0]:.3g}")
    return f"{run.label}: {', '.join(facts)}"


def epochs_label(runs: Sequence[Run]) -> str:
    """The figure against epochs: best and end of each curve."""
    return f"Validation NLL in nats per token against epochs. {_describe_curves(runs)}"


def flops_label(runs: Sequence[Run], crossings: Sequence[CurveCrossing]) -> str:
    """The figure against compute: best and end of each curve, and where they cross."""
    ends = f"up to {power_of_ten(max(run.summary.flops_spent for run in runs))} FLOPs"
    label = f"Validation NLL in nats per token against training compute, {ends}."
    cross = [f"The curves cross at {power_of_ten(crossing.flops)} FLOPs." for crossing in crossings]
    return " ".join([label, _describe_curves(runs), *cross])


def _describe_curves(runs: Sequence[Run]) -> str:
    sentences = []
    drawn = [run for run in runs if run.nll is not None and run.best is not None]
    for family in families():
        members = [run for run in drawn if run.family == family.name]
        if len(drawn) > _FEW and members:
            sentences.append(f"{len(members)} {family.title} runs, the best of which:")
            members = [min(members, key=lambda run: run.nll or 0.0)]
        for run in members:
            at = f" at epoch {run.best[0]:.1f}" if run.best is not None else ""
            text = f"{run.label} ({family.title}): best {run.nll:.3f}{at}"
            if run.curve is not None:
                text += f", {run.curve.nll[-1]:.3f} at the end, epoch {run.curve.epochs[-1]:.1f}"
            sentences.append(f"{text}.")
    return " ".join(sentences)


def frontier_tip(family: str, nll: float) -> str:
    """A family's frontier that ends at `nll`."""
    return f"{get_family(family).title}: lowest loss by each compute, {nll:.3f} at last"


def quality_tip(result: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """One row of a result of `epochal quality`."""
    about = f"{result['order']}, checkpoint {result['checkpoint']}, judged by {result['judge']}"
    return (
        f"{row['steps']} steps ({about}): {row['nll_nats_per_token']:.3f} nats, "
        f"distinct-2 {row['distinct_2']:.2f}, repetition {row['repetition']:.2f}"
    )


def real_text_tip(nll: float) -> str:
    """The line of real text."""
    return f"real text: {nll:.3f} nats per token by the same judge"


def run_name(points: Points, index: int) -> str:
    """A point's run, as the other figures call it."""
    return Path(points.run[index]).name


def describe_point(points: Points, index: int) -> str:
    """A point in one line."""
    n, d, u = points.params[index], points.tokens[index], points.unique_tokens[index]
    return (
        f"{run_name(points, index)}: {format_count(n)} parameters, {d / u:.3g} epochs over "
        f"{format_count(u)} unique tokens, {power_of_ten(6 * n * d)} FLOPs, "
        f"{points.loss[index]:.3f} nats"
    )


def budget(parabola: Parabola) -> str:
    """FLOPs of a parabola, two digits: it is the mean of runs that differ by some percent."""
    return power_of_ten(float(f"{parabola.flops:.2g}"))


def describe_parabola(parabola: Parabola) -> str:
    """ "10¹⁵ FLOPs: best size 2.1M"."""
    best = parabola.optimal_params
    size = "none" if best is None else format_count(best)
    if best is not None and not parabola.params[0] <= best <= parabola.params[-1]:
        size = "outside the sizes that were run"
    return f"{budget(parabola)} FLOPs: best size {size}"


def isoflop_notes(laws: Mapping[str, FamilyFit]) -> list[str]:
    """What the parabolas show about the best size, and why they may be unreliable."""
    from epochal.report.text import describe

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
            f"{title} at {budget(parabola)} FLOPs: {'; '.join(map(describe, parabola.flags))}."
            for parabola in fit.isoflop.parabolas
            if parabola.flags
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


def describe_plan(plan: FamilyPlan) -> str:
    """A family's plan in one line."""
    return (
        f"{get_family(plan.family).title}: {plan.loss:.3f} nats with {format_count(plan.params)} "
        f"parameters and {format_epochs(plan.epochs)} ({power_of_ten(plan.flops)} FLOPs)"
    )
