"""What the page shows: names, tables and sentences for its template."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from epochal._version import __version__
from epochal.families import families, get_family
from epochal.report import facts
from epochal.report.collect import (
    FrontierLead,
    Group,
    Run,
    curve_crossings,
    frontier_leads,
    frontiers,
    on_one_scale,
)
from epochal.report.curves import points_per_curve, show_losses
from epochal.report.drawing import Plot, shown
from epochal.report.laws import Laws, plan_recipes, study_list
from epochal.report.text import describe
from epochal.report.text.comparison import verdict
from epochal.report.text.fit import dropped_line, half_life, isoflop_notes
from epochal.report.text.format import count, flops, listed, number, sentence
from epochal.report.text.plan import advice_text, extrapolation_text, verdict_sentence
from epochal.runs.pack import is_archived
from epochal.scaling.advisor import advise
from epochal.scaling.fit import FamilyFit
from epochal.scaling.planner import FamilyPlan, PlanNote, PlanReport
from epochal.units import format_count, format_epochs

FIGURES = (
    "evidence",
    "epochs",
    "flops",
    "isoflop",
    "contours",
    "repetition",
    "quality",
    "plan",
    "steps",
)
"""Sections with figures."""
_SECTIONS = {
    "corpus": "Corpus",
    "families": "Families",
    "runs": "Runs",
    "evidence": "Tuned families",
    "advice": "Runs in progress",
    "epochs": "Epochs",
    "compute": "Compute",
    "isoflop": "Best size",
    "contours": "Size and epochs",
    "repetition": "Repetition",
    "fit": "Fit",
    "plan": "Plan",
    "held-out": "Held-out run",
    "regularisation": "Regularisation",
    "study": "Study",
    "tasks": "Tasks",
    "steps": "Steps",
    "texts": "Texts",
    "recipes": "Recipes",
}
"""Anchor → name in the list of contents."""
_STATUS = {
    "running": "is still running, or was killed: what follows is the state at its last line",
    "stopped": "was stopped early; the same `epochal train` resumes it",
    "diverged": "diverged: its loss stopped being finite",
}


def frame() -> dict[str, Any]:
    """What every page's template shows."""
    script = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
    return {
        "version": __version__,
        "script": Markup(script),
        "script_sum": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "families": families(),
    }


def page_content(
    runs: list[Run],
    groups: list[Group],
    laws: Laws,
    plan: PlanReport | None,
    plots: Mapping[str, list[Plot]],
    evidence: Sequence[Mapping[str, Any]] = (),
    standings: Sequence[str] = (),
) -> dict[str, Any]:
    """What the template shows; `standings` says where the runs stand on evidence of others."""
    meets, leads = bool(curve_crossings(groups)), frontier_leads(groups)
    study, fits = laws.study, laws.families
    unfinished = any(run.summary.status != "finished" for run in runs)
    present = [one for one in families() if any(run.family == one.name for run in runs)]
    context = {
        "title": _page_title(groups),
        **frame(),
        "present": present,
        "kicker": listed([one.title for one in present]),
        "verdicts": [_verdict(group) for group in groups],
        "compared": facts.compared(groups),
        "warnings": list(_warnings(groups)),
        "unfinished": unfinished,
        "labels": [run.label for run in runs],
        "runs": [_row(run)[: None if unfinished else -1] for run in runs],
        "advice": _advice(runs, fits),
        "plots": {name: [shown(plot) for plot in plots.get(name, [])] for name in FIGURES},
        "most_points": points_per_curve(runs),
        "losses": show_losses(runs),
        "comparable": on_one_scale(groups),
        "frontier": bool(frontiers(groups)),
        "critical": _describe_crossing(groups, meets, leads),
        "isoflop_notes": isoflop_notes(fits),
        "half_lives": [
            f"{sentence(get_family(f).title)}: {half_life(fit)}." for f, fit in fits.items()
        ],
        "constants": _constants(fits),
        "formulas": sorted({(fit.form.name, fit.form.formula) for fit in fits.values()}),
        "fit_titles": [get_family(family).title for family in fits],
        "law_notes": list(_law_notes(laws)),
        "refused": [(get_family(family).title, why) for family, why in laws.refused.items()],
        "dropped": [dropped_line(dropped) for fit in fits.values() for dropped in fit.dropped],
        "plan": None if plan is None else _plan(plan, runs),
        "study": {"recommendation": None, "budget": None, "machine": None, "not_tried": ""} | study,
        "held_out": [_held_out(one) for one in study_list(study, "held_out")],
        "tried": [_tried(one) for one in study_list(study, "regularisation")],
        "tried_runs": [str(one.get("run")) for one in study_list(study, "regularisation")],
        "stages": [_stage(one) for one in study_list(study, "stages")],
        "tasks": facts.task_rows(runs),
        "texts": [(run.label, run.family, _texts(run)) for run in runs if run.samples],
        "differences": facts.differences(runs),
        "recipes": [(run.label, _recipe_text(run)) for run in runs],
        "stores": facts.store_rows(groups),
        "corpora": [facts.corpus(group) for group in groups],
        "machines": facts.machines(runs),
        "evidence": evidence,
        "standings": standings,
    }
    return context | {"sections": _sections(context, plots)}


def _sections(context: Mapping[str, Any], plots: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(anchor, name) of the page's sections, for its list of contents."""
    shown = {name: bool(plots.get(name)) for name in _SECTIONS}
    shown |= {
        name: bool(context[name]) for name in ("evidence", "advice", "plan", "tasks", "texts")
    }
    shown |= {
        "corpus": True,
        "runs": True,
        "recipes": True,
        "compute": "flops" in plots,
        "fit": "quality" in plots or bool(context["refused"]),
        "families": bool(context["compared"]),
        "held-out": bool(context["held_out"]),
        "regularisation": bool(context["tried"]),
        "study": bool(context["stages"]),
    }
    return [(anchor, name) for anchor, name in _SECTIONS.items() if shown[anchor]]


def _verdict(group: Group) -> tuple[str, str, list[str]]:
    """(runs, verdict, notes)."""
    notes = [] if group.comparison is None else group.comparison.notes
    names = listed([run.label for run in group.runs], 3)
    return names, verdict(group.verdict), [f"{describe(one)}." for one in notes]


def _advice(runs: Sequence[Run], fits: Mapping[str, FamilyFit]) -> list[tuple[str, str]]:
    """(run, advice) of runs that can resume; a run that was never evaluated has no advice."""
    status = ("running", "stopped")
    in_progress = [r for r in runs if r.summary.status in status and r.curve is not None]
    return [(r.label, advice_text(advise(r.record, fits.get(r.family)))) for r in in_progress]


def _row(run: Run) -> list[str | Markup]:
    """One line of the table of runs; what is not known is a dash."""
    result, best, curve = run.result, run.best, run.curve
    nll = "–" if run.nll is None else f"{run.nll:.3f}"
    if result is not None:
        nll += f" ± {result.standard_error:.3f}"
    elif run.nll is not None:
        nll += " (in training)"
    per_byte = result.bits_per_byte if result is not None else None
    short = get_family(run.family).short
    return [
        run.label,
        Markup('<span class="family-{}">{}</span>').format(run.family, short),
        format_count(run.params),
        flops(run.summary.flops_spent),
        f"{run.summary.epochs_seen:.1f}",
        nll,
        "–" if per_byte is None else f"{per_byte:.3f}",
        "–" if best is None else f"{best[0]:.1f}",
        "–" if curve is None else f"{curve.rise:.3f}",
        run.summary.status,
    ]


def _constants(fits: Mapping[str, FamilyFit]) -> list[list[str]]:
    """Per constant its name and each family's value with its interval or status."""
    names = list(dict.fromkeys(name for fit in fits.values() for name in fit.constants))
    return [[name, *(_constant(fit, name) for fit in fits.values())] for name in names]


def _constant(fit: FamilyFit, name: str) -> str:
    value, known = fit.constants.get(name), fit.constant_status.get(name)
    status = None if known is None else describe(known)
    low, high = fit.intervals.get(name, (None, None))
    if status is None and low is not None and high is not None:
        status = f"{number(low, 4)} to {number(high, 4)}"
    if value is None:
        return status or "–"
    return number(value, 4) + (f" ({status})" if status else "")


def _plan(plan: PlanReport, runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "verdict": verdict_sentence(plan),
        "budget": flops(plan.flops),
        "tokens": format_count(plan.unique_tokens),
        "rows": _plan_rows(plan),
        "sentences": list(_plan_sentences(plan)),
        "recipes": [(get_family(f).title, recipe) for f, recipe in plan_recipes(plan, runs)],
    }


def _nats(value: Any, form: str = ".3f") -> str:
    return format(value, form) if isinstance(value, int | float) else "–"


def _held_out(one: Mapping[str, Any]) -> list[str]:
    interval = one.get("interval")
    return [
        str(one.get("run", "–")),
        _nats(one.get("predicted")),
        f"{_nats(interval[0])} to {_nats(interval[1])}" if interval else "–",
        _nats(one.get("seen")),
        str(one.get("note", "")),
    ]


def _tried(one: Mapping[str, Any]) -> list[str]:
    """A trial of regularisation; the version before wrote `plain` and `better`."""
    family, nll, difference = one.get("family"), one.get("nll"), one.get("difference")
    titles = {each.name: each.title for each in families()}
    known = all(isinstance(value, int | float) for value in (difference, one.get("error")))
    improved = one.get("improved", one.get("better"))
    outcome = "better" if improved else "not better"
    return [
        titles.get(str(family), str(family)),
        str(one.get("setting")),
        _nats(one.get("baseline_nll", one.get("plain"))),
        _nats(nll),
        f"{_nats(difference, '+.3f')} ± {_nats(one.get('error'))}" if known else "–",
        outcome if isinstance(nll, int | float) else "not tried",
    ]


def _stage(one: Mapping[str, Any]) -> list[str]:
    name, status, note = (str(one.get(key) or "–") for key in ("name", "status", "note"))
    return [name, status, _nats(one.get("seconds"), ".0f"), note]


def _recipe_text(run: Run) -> str:
    return run.record.folder.recipe_file.read_text(encoding="utf-8", errors="replace").strip()


def _texts(run: Run) -> list[tuple[str, str]]:
    """(prompt, what the model wrote after it) of each sample."""
    return [(prompt, sample.removeprefix(prompt)) for prompt, sample in run.samples]


def _page_title(groups: Sequence[Group]) -> str:
    """ "4 runs on 100M unique tokens"."""
    runs = sum(len(group.runs) for group in groups)
    sizes = list(dict.fromkeys(format_count(group.runs[0].unique_tokens) for group in groups))
    corpora = f" in {len(groups)} groups" if len(sizes) < len(groups) else ""
    return f"{count(runs, 'run')} on {listed(sizes)} unique tokens{corpora}"


def _warnings(groups: Sequence[Group]) -> Iterator[str]:
    """What a reader must know of runs that are not finished or not evaluated."""
    for group in groups:
        for run in group.runs:
            if run.summary.status in _STATUS:
                yield f"{run.label} {_STATUS[run.summary.status]}."
        for run in group.runs:
            path = shlex.quote(str(run.record.path))
            again = "" if is_archived(run.record.path) else f"; run `epochal eval {path}`"
            if run.result is None and run.curve is None:
                yield f"{run.label} has no validation result yet."
            elif run.outdated:
                yield f"{run.label} has a better checkpoint than the evaluated one{again}."
            elif run.result is None:
                yield f"{run.label} has not been evaluated, so its error is unknown{again}."
        if group.left_out:
            yield f"The verdict does not cover {listed([r.label for r in group.left_out])}."


def _describe_crossing(groups: Sequence[Group], meets: bool, leads: Sequence[FrontierLead]) -> str:
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


def _law_notes(laws: Laws) -> Iterator[str]:
    """The quality of each fit and all that is known of it."""
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


def _plan_sentences(plan: PlanReport) -> Iterator[str]:
    """Beyond the table: what lies outside the fitted runs, and cheaper ways."""
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


def _plan_rows(plan: PlanReport) -> list[list[str]]:
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
