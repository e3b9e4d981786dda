"""The page: what was collected, put into the template and written."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from epochal import files
from epochal._version import __version__
from epochal.comparison import Comparison
from epochal.errors import RunError
from epochal.families import families, get_family
from epochal.report import facts
from epochal.report.collect import (
    Group,
    Run,
    curve_crossings,
    frontier_leads,
    frontiers,
    group_runs,
    on_one_scale,
    read_runs,
)
from epochal.report.curves import curve_plots, points_per_curve, show_losses
from epochal.report.drawing import Plot, check_formats, inline, save
from epochal.report.law_figures import law_plots
from epochal.report.laws import Laws, find_laws, find_plan, plan_recipes, read_study, study_list
from epochal.report.options import ReportOptions
from epochal.report.text import describe
from epochal.report.text import page as text
from epochal.report.text.comparison import notes as comparison_notes
from epochal.report.text.fit import dropped_line, half_life, isoflop_notes
from epochal.report.text.format import (
    flops,
    for_page,
    listed,
    number,
    printable,
    prose,
    sentence,
)
from epochal.report.text.plan import advice_text, verdict_sentence
from epochal.results import Note
from epochal.scaling.advisor import advise
from epochal.scaling.options import check_law
from epochal.scaling.planner import PlanReport
from epochal.scaling.result import FamilyFit, FitReport
from epochal.units import format_count

_FIGURES = ("epochs", "flops", "isoflop", "contours", "repetition", "quality", "plan", "steps")
_SECTIONS = {
    "corpus": "Corpus",
    "runs": "Runs",
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


@dataclass(frozen=True, slots=True)
class Report:
    """A page that was written."""

    path: Path
    """The page."""
    runs: list[str]
    """Names of the runs on it; their folders where two have the same name."""
    verdicts: list[Comparison | Note]
    """Per group of comparable runs the comparison, or why there is none."""
    sections: list[str] = field(default_factory=list)
    """Names of the sections with figures."""
    figures: list[Path] = field(default_factory=list)
    """Files written beside the page, if wanted."""


def write_report(
    places: Sequence[str | Path],
    out: str | Path = "report.html",
    options: ReportOptions | None = None,
    *,
    fit: FitReport | None = None,
    plan: PlanReport | None = None,
) -> Report:
    """Write the page about the runs in `places` (run folders, or folders that hold runs).

    `fit` and `plan` are results already made; else they are made here. With `options.figures`
    every figure is also written into `<out>-figures/`. Raises RunError for a place without runs or
    a damaged record, UserError for an unknown law or format, StorageError if `out` cannot be
    written.
    """
    options = options or ReportOptions()
    target = Path(out)
    if target.is_dir():
        raise RunError(
            f"{target} is a folder; name the page to write, such as {target}/report.html"
        )
    check_formats(options.figures)
    study = read_study(places)
    law = check_law(options.law or str(study.get("law") or "data-constrained"))
    runs = read_runs(places)
    groups = group_runs(runs)
    laws = find_laws(runs, study, law, fit)
    if plan is None:
        plan = find_plan(runs, laws, options.flops or study.get("flops"))
    with for_page():
        drawn = curve_plots(groups) | law_plots(laws.families, plan)
        plots = {name: drawn[name] for name in _FIGURES if drawn[name]}
        content = _context(runs, groups, laws, plan, plots)
        files.write_text(target, _environment().get_template("page.html.j2").render(content))
    all_plots = [plot for section in plots.values() for plot in section]
    folder = target.with_name(f"{target.stem}-figures")
    written = save(all_plots, folder, options.figures) if options.figures else []
    verdicts = [group.verdict for group in groups]
    return Report(target, [run.label for run in runs], verdicts, list(plots), written)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Whatever a run, a text or a file is called, it can stand in a page.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters |= {"prose": prose, "sentence": sentence}
    return environment


def _context(
    runs: list[Run],
    groups: list[Group],
    laws: Laws,
    plan: PlanReport | None,
    plots: Mapping[str, list[Plot]],
) -> dict[str, Any]:
    """What the template shows."""
    script = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
    meets, leads = bool(curve_crossings(groups)), frontier_leads(groups)
    study, fits = laws.study, laws.families
    unfinished = any(run.summary.status != "finished" for run in runs)
    present = [one for one in families() if any(run.family == one.name for run in runs)]
    context = {
        "title": text.page_title(groups),
        "version": __version__,
        "script": Markup(script),
        "script_sum": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "families": families(),
        "present": present,
        "kicker": listed([one.title for one in present]),
        "verdicts": [_verdict(group) for group in groups],
        "warnings": list(text.warnings(groups)),
        "unfinished": unfinished,
        "labels": [run.label for run in runs],
        "runs": [_row(run)[: None if unfinished else -1] for run in runs],
        "advice": _advice(runs, fits),
        "plots": {name: [_shown(plot) for plot in plots.get(name, [])] for name in _FIGURES},
        "most_points": points_per_curve(runs),
        "losses": show_losses(runs),
        "comparable": on_one_scale(groups),
        "frontier": bool(frontiers(groups)),
        "critical": text.describe_crossing(groups, meets, leads),
        "isoflop_notes": isoflop_notes(fits),
        "half_lives": [
            f"{sentence(get_family(f).title)}: {half_life(fit)}." for f, fit in fits.items()
        ],
        "constants": _constants(fits),
        "formulas": sorted({(fit.form.name, fit.form.formula) for fit in fits.values()}),
        "fit_titles": [get_family(family).title for family in fits],
        "law_notes": list(text.law_notes(laws)),
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
        "recipes": [(run.label, facts.recipe_text(run)) for run in runs],
        "stores": facts.store_rows(groups),
        "corpora": [facts.corpus(group) for group in groups],
        "machines": facts.machines(runs),
    }
    return context | {"sections": _sections(context, plots)}


def _sections(context: Mapping[str, Any], plots: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(anchor, name) of the page's sections, for its list of contents."""
    shown = {name: bool(plots.get(name)) for name in _SECTIONS}
    shown |= {name: bool(context[name]) for name in ("advice", "plan", "tasks", "texts")}
    shown |= {
        "corpus": True,
        "runs": True,
        "recipes": True,
        "compute": "flops" in plots,
        "fit": "quality" in plots or bool(context["refused"]),
        "held-out": bool(context["held_out"]),
        "regularisation": bool(context["tried"]),
        "study": bool(context["stages"]),
    }
    return [(anchor, name) for anchor, name in _SECTIONS.items() if shown[anchor]]


def _verdict(group: Group) -> tuple[str, str, list[str]]:
    """(runs, verdict, notes)."""
    notes = [] if group.comparison is None else comparison_notes(group.comparison)
    return listed([run.label for run in group.runs], 3), text.describe_verdict(group.verdict), notes


def _advice(runs: Sequence[Run], fits: Mapping[str, FamilyFit]) -> list[tuple[str, str]]:
    """(run, advice) of runs that can resume; a run that was never evaluated has no advice."""
    status = ("running", "stopped")
    in_progress = [r for r in runs if r.summary.status in status and r.curve is not None]
    return [(r.label, advice_text(advise(r.record, fits.get(r.family)))) for r in in_progress]


def _shown(plot: Plot) -> dict[str, Any]:
    """A figure as the template takes it; its CSV is part of the page."""
    table = "data:text/csv;charset=utf-8," + quote(plot.csv(page=True))
    return {"name": plot.name, "drawing": inline(plot), "table": table}


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
        "rows": text.plan_rows(plan),
        "sentences": list(text.plan_sentences(plan)),
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


def _texts(run: Run) -> list[tuple[str, str]]:
    """(prompt, what the model wrote after it) of each sample."""
    return [(prompt, sample.removeprefix(prompt)) for prompt, sample in run.samples]
