"""The report page's own sentences: verdicts, warnings, notes about laws and the plan."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from epochal.families import get_family
from epochal.report.collect import NoVerdict
from epochal.report.text.format import count, flops, listed, sentence
from epochal.report.text.plan import extrapolation_text
from epochal.results import Note
from epochal.scaling.notes import PlanNote
from epochal.units import format_count, format_epochs

if TYPE_CHECKING:
    from epochal.comparison import Comparison
    from epochal.report.collect import FrontierLead, Group
    from epochal.report.laws import Laws
    from epochal.scaling.planner import FamilyPlan, PlanReport

_STATUS = {
    "running": "is still running, or was killed: what follows is the state at its last line",
    "stopped": "was stopped early; the same `epochal train` resumes it",
    "diverged": "diverged: its loss stopped being finite",
}


def _one_family(values: Mapping[str, Any]) -> str:
    title, runs = get_family(values["family"]).title, values["runs"]
    return (
        f"no verdict on these {values['unique_tokens']:,} unique tokens: "
        f"{'this run is' if runs == 1 else f'all {runs} runs are'} {title}, and a verdict needs a "
        "run of another family on the same tokens"
    )


def _not_evaluated(values: Mapping[str, Any]) -> str:
    commands = [f"`epochal eval {shlex.quote(path)}`" for path in values["runs"]]
    return (
        "no verdict yet: the best checkpoints of two families have not been evaluated; run "
        f"{' and '.join(commands)}"
    )


TEXTS = {
    NoVerdict.ONE_FAMILY: _one_family,
    NoVerdict.NOT_VALIDATED: lambda values: (
        f"no verdict yet: no {get_family(values['family']).title} run has a validation result yet"
    ),
    NoVerdict.NOT_EVALUATED: _not_evaluated,
    NoVerdict.NOT_COMPARABLE: "no verdict: {error}",
}


def describe_verdict(verdict: Comparison | Note) -> str:
    """The verdict on a group of runs, or why there is none, with a full stop."""
    from epochal.report.text import comparison, describe

    if isinstance(verdict, Note):
        return f"{sentence(describe(verdict))}."
    return comparison.verdict(verdict)


def page_title(groups: Sequence[Group]) -> str:
    """ "4 runs on 100M unique tokens"."""
    runs = sum(len(group.runs) for group in groups)
    sizes = list(dict.fromkeys(format_count(group.runs[0].unique_tokens) for group in groups))
    corpora = f" in {len(groups)} groups" if len(sizes) < len(groups) else ""
    return f"{count(runs, 'run')} on {listed(sizes)} unique tokens{corpora}"


def warnings(groups: Sequence[Group]) -> Iterator[str]:
    """What a reader must know of runs that are not finished or not evaluated."""
    for group in groups:
        for run in group.runs:
            if run.summary.status in _STATUS:
                yield f"{run.label} {_STATUS[run.summary.status]}."
        for run in group.runs:
            again = f"run `epochal eval {shlex.quote(str(run.record.path))}`"
            if run.result is None and run.curve is None:
                yield f"{run.label} has no validation result yet."
            elif run.outdated:
                yield f"{run.label} has a better checkpoint than the evaluated one; {again}."
            elif run.result is None:
                yield f"{run.label} has not been evaluated, so its error is unknown; {again}."
        if group.left_out:
            yield f"The verdict does not cover {listed([r.label for r in group.left_out])}."


def describe_crossing(groups: Sequence[Group], meets: bool, leads: Sequence[FrontierLead]) -> str:
    """What the figure against compute shows of the critical point; empty if none is sought."""
    if meets:
        return "The grey line is where two curves cross, the band its 95 % interval."
    return " ".join(map(_lead, leads))


def _lead(lead: FrontierLead) -> str:
    leader, behind = (get_family(name).title for name in (lead.leader, lead.behind))
    if lead.since is None:
        return (
            f"The {leader} frontier is below the {behind} one at every compute that both have: no "
            "critical compute within these runs."
        )
    return (
        f"A grey line is the critical compute, {flops(lead.since)} FLOPs: from there on the "
        f"{leader} frontier is below the {behind} one."
    )


def law_notes(laws: Laws) -> Iterator[str]:
    """The quality of each fit and all that is known of it."""
    from epochal.report.text import describe

    for family, fit in laws.families.items():
        condition = f"{fit.condition:.3g}".replace("inf", "infinite")
        parts = [
            f"{sentence(get_family(family).title)}: law {fit.form.name}, {len(fit.points)} runs, "
            f"R² {fit.r2:.4f}, condition {condition}"
        ]
        if len(fit.minima) > 1:
            parts[0] += f", {len(fit.minima)} minima within 1 % of each other"
        if fit.choice:
            parts.append(f"The law was chosen: {describe(fit.choice.reason)}")
        yield ". ".join([*parts, *(sentence(describe(one)) for one in fit.notes)]) + "."
    for family, notes in laws.notes.items():
        title = f"{get_family(family).title}: " if family else ""
        yield from (f"{sentence(title + describe(one))}." for one in notes)
    if laws.mismatch is not None:
        yield (
            f"There is no plan: {laws.mismatch}, so the laws are not on one scale; give runs of "
            "one corpus, tokenizer and context length."
        )


def plan_sentences(plan: PlanReport) -> Iterator[str]:
    """Beyond the table: what lies outside the fitted runs, and cheaper ways."""
    from epochal.report.text import describe

    for one in plan.families:
        title = sentence(get_family(one.family).title)
        yield from (f"{title}: {extrapolation_text(w)}." for w in one.extrapolation_warnings)
        if one.saturated:
            yield (
                f"{title}: the budget is more than these tokens can use; "
                f"{flops(one.saturation_flops)} FLOPs come within 0.001 nats of the floor, "
                f"{one.floor:.3f}."
            )
        for cheaper in one.alternatives:
            yield (
                f"{title}, {cheaper.what}: {format_count(cheaper.params)} parameters for "
                f"{format_epochs(cheaper.epochs)} ({flops(cheaper.flops)} FLOPs) reach "
                f"{cheaper.loss:.3f}."
            )
    # The page's recipes have the row length of a run, so notes about that do not apply.
    rows = (PlanNote.ROW_LENGTH_UNKNOWN, PlanNote.ROW_LENGTH_SHORTER)
    yield from (f"{sentence(describe(one))}." for one in plan.notes if one.code not in rows)


def plan_rows(plan: PlanReport) -> list[list[str]]:
    """Per family: best size, epochs, tokens, FLOPs and loss with its interval."""
    return [
        [
            get_family(one.family).title,
            format_count(one.params) + (f" (ladder: {one.size.name})" if one.size else ""),
            f"{one.epochs:.3g}",
            format_count(one.tokens),
            flops(one.flops),
            f"{one.loss:.3f}{_interval(one)}",
        ]
        for one in plan.families
    ]


def _interval(plan: FamilyPlan) -> str:
    return "" if plan.interval is None else f" ({plan.interval[0]:.3f} to {plan.interval[1]:.3f})"
