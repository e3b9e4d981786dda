"""The page: what was collected, put into the template and written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from epochal import files
from epochal.comparison import Comparison
from epochal.errors import OptionError, RunError
from epochal.report.collect import group_runs, read_runs
from epochal.report.content import FIGURES, page_content
from epochal.report.curves import curve_plots
from epochal.report.drawing import FORMATS, save
from epochal.report.evidence import Evidence
from epochal.report.evidence_figures import evidence_plots
from epochal.report.law_figures import law_plots
from epochal.report.laws import Laws, find_laws, find_plan, read_study
from epochal.report.options import ReportOptions
from epochal.report.searches import find_evidence
from epochal.report.text.evidence import page_texts, standings
from epochal.report.text.format import (
    for_page,
    printable,
    prose,
    sentence,
)
from epochal.results import Note
from epochal.runs.pack import unpacked
from epochal.scaling.fit import FitReport
from epochal.scaling.options import check_law
from epochal.scaling.planner import PlanReport


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
    evidence: Evidence | None = None,
) -> Report:
    """Write the page about the runs in `places`: run folders, folders of runs, or of records.

    `fit` and `plan` are results already made; else they are made here. `evidence` of other runs is
    shown beside these; by default that of searches in `places`, if there are any. With
    `options.figures` every figure is also written into `<out>-figures/`. Raises RunError for a
    place without runs or a damaged record, UserError for an unknown law or format, StorageError if
    `out` cannot be written.
    """
    with unpacked(places) as folders:
        return _write_report(folders, Path(out), options or ReportOptions(), fit, plan, evidence)


def _write_report(
    places: Sequence[Path],
    target: Path,
    options: ReportOptions,
    fit: FitReport | None,
    plan: PlanReport | None,
    evidence: Evidence | None,
) -> Report:
    if target.is_dir():
        raise RunError(
            f"{target} is a folder; name the page to write, such as {target}/report.html"
        )
    if unknown := [name for name in options.figures if name not in FORMATS]:
        raise OptionError("figures", unknown[0], "give pdf, svg or png")
    study = read_study(places)
    law = check_law(options.law or str(study.get("law") or "data-constrained"))
    found, shown = find_evidence(places)
    # Of searches only the runs that they end with; the others are in the section about them.
    runs = read_runs(shown or places)
    groups = group_runs(runs)
    laws = Laws() if shown and fit is None else find_laws(runs, study, law, fit)
    if plan is None:
        plan = find_plan(runs, laws, options.flops or study.get("flops"))
    others = evidence is not None  # the evidence is of other runs than these
    evidence = evidence or found
    with for_page():
        drawn = curve_plots(groups) | law_plots(laws.families, plan)
        drawn["evidence"] = evidence_plots(evidence)
        plots = {name: drawn[name] for name in FIGURES if drawn[name]}
        where = standings(runs, evidence) if others else []
        content = page_content(runs, groups, laws, plan, plots, page_texts(evidence), where)
        files.write_text(target, environment().get_template("page.html.j2").render(content))
    all_plots = [plot for section in plots.values() for plot in section]
    folder = target.with_name(f"{target.stem}-figures")
    written = save(all_plots, folder, options.figures) if options.figures else []
    verdicts = [group.verdict for group in groups]
    return Report(target, [run.label for run in runs], verdicts, list(plots), written)


def environment() -> jinja2.Environment:
    """Of the templates in this folder."""
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
