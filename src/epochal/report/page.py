"""The page: what was collected, put into the template and written."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from epochal import files
from epochal._version import __version__
from epochal.errors import RunError
from epochal.families import families, family_names
from epochal.report.beyond_loss import steps_plot, task_rows
from epochal.report.collect import Run, read_runs
from epochal.report.curve_table import points_of_a_curve
from epochal.report.facts import (
    corpus,
    differences,
    machines,
    passport_lines,
    recipe_text,
)
from epochal.report.figures import (
    comparable,
    critical_words,
    epochs_figure,
    flops_figure,
    several,
    show_losses,
)
from epochal.report.isoflop_figures import isoflop_notes
from epochal.report.law_figures import (
    constants_rows,
    half_life_text,
    law_plots,
)
from epochal.report.law_section import (
    Laws,
    find_laws,
    find_plan,
    held_out,
    read_study,
    regularised,
)
from epochal.report.plan_section import budget_plot, plan_content
from epochal.report.svg import Plot, check_formats, inline, save
from epochal.report.text.format import (
    commands,
    count,
    listed,
    power_of_ten,
    powers,
    printable,
    sentence,
)
from epochal.report.verdicts import Group, group_runs
from epochal.scaling.advisor import advise
from epochal.scaling.choose import check_law
from epochal.scaling.planner import PlanReport
from epochal.scaling.result import FitReport
from epochal.units import format_count

_SECTIONS = ("epochs", "flops", "isoflop", "contours", "repetition", "quality", "plan", "steps")
# What study.json may leave out.
_STUDY = {"recommendation": None, "budget": None, "machine": None, "not_tried": ""}
_STAGE = {"name": "–", "status": "–", "seconds": None, "note": ""}
_TRIED = dict.fromkeys(
    ("family", "setting", "run", "against", "plain", "nll", "difference", "error")
)
_HELD_OUT = {"run": "–", "predicted": None, "interval": None, "seen": None, "note": ""}
_STATUS = {
    "running": "is still running, or was killed: what follows is the state at its last line",
    "stopped": "was ended early; the same `epochal train` goes on with it",
    "diverged": "diverged: its loss stopped being finite",
}


@dataclass(frozen=True, slots=True)
class Report:
    """A page that was written."""

    path: Path
    runs: list[str]
    verdicts: list[str]
    sections: list[str] = field(default_factory=list)
    """Names of the sections with figures."""
    figures: list[Path] = field(default_factory=list)
    """Files written beside the page, if wanted."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "report": str(self.path),
            "runs": self.runs,
            "verdicts": self.verdicts,
            "sections": self.sections,
            "figures": [str(path) for path in self.figures],
        }


def write_report(
    places: Sequence[str | Path],
    out: str | Path = "report.html",
    *,
    law: str | None = None,
    flops: float | None = None,
    fit: FitReport | None = None,
    plan: PlanReport | None = None,
    figures: Sequence[str] = (),
) -> Report:
    """Write the page about the runs in `places` (run folders, or folders that hold runs).

    With five or more runs of a family, `law` ("data-constrained" if neither it nor a study in
    the folder says another) is fitted to them; `fit` is a fit made already. `figures` are
    formats (pdf, svg, png) in which every figure is also written, with its numbers as CSV, into
    `<out>-figures/`. Raises RunError for a place without runs or a damaged record, UserError
    for an unknown law or format, StorageError if `out` cannot be written.
    """
    target = Path(out)
    if target.is_dir():
        raise RunError(
            f"{target} is a folder; name the page to write, such as {target}/report.html"
        )
    check_formats(figures)
    study = read_study(places)
    law = check_law(law or str(study.get("law") or "data-constrained"))
    runs = read_runs(places)
    groups = group_runs(runs)
    laws = find_laws(runs, study, law, fit)
    budget = flops if flops is not None else study.get("flops")
    laws = replace(laws, plan=plan or find_plan(runs, laws, budget))
    plots = _plots(runs, groups, laws)
    files.write_text(target, _render(runs, groups, laws, plots))
    drawn = [plot for section in plots.values() for plot in section]
    folder = target.with_name(f"{target.stem}-figures")
    written = save(drawn, folder, figures) if figures else []
    sentences = [group.sentence for group in groups]
    return Report(target, [run.label for run in runs], sentences, list(plots), written)


def _plots(runs: list[Run], groups: list[Group], laws: Laws) -> dict[str, list[Plot]]:
    """The figures of each section that has any."""
    curves: dict[str, list[Plot]] = {}
    if any(run.curve is not None for run in runs):
        curves = {"epochs": [epochs_figure(groups)], "flops": [flops_figure(groups)]}
    sections = curves | law_plots(laws.families)
    if laws.plan is not None and laws.families:
        sections["plan"] = [budget_plot(laws.plan, laws.families)]
    if (steps := steps_plot(runs)) is not None:
        sections["steps"] = [steps]
    return {name: plots for name, plots in sections.items() if plots}


def _render(runs: list[Run], groups: list[Group], laws: Laws, plots: dict[str, list[Plot]]) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # Of runs that may go on; one that was never evaluated has nothing to be advised on.
    open_runs = [r for r in runs if r.status in ("running", "stopped") and r.curve is not None]
    environment.filters |= {"printable": printable, "sentence": sentence, "commands": commands}
    environment.filters["powers"] = powers
    script = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
    return environment.get_template("page.html.j2").render(
        title=_title(runs, groups),
        groups=groups,
        rows=[_row(run) for run in runs],
        advice=[
            (run.label, advise(run.record, laws.families.get(run.family))) for run in open_runs
        ],
        warnings=[warning for group in groups for warning in _warnings(group)],
        plots={name: [_shown(plot) for plot in plots.get(name, [])] for name in _SECTIONS},
        unfinished=any(run.status != "finished" for run in runs),
        losses=show_losses(runs),
        laws=laws,
        constants=constants_rows(laws.families),
        plan=plan_content(laws.plan, runs),
        formulas=sorted({(fit.form.name, fit.form.formula) for fit in laws.families.values()}),
        half_lives=[(f, half_life_text(fit)) for f, fit in laws.families.items()],
        isoflop_notes=isoflop_notes(laws.families),
        dropped=[d for fit in laws.families.values() for d in fit.dropped],
        held_out=[_HELD_OUT | dict(one) for one in held_out(laws.study)],
        tried=[_TRIED | {"better": False, "note": ""} | dict(t) for t in regularised(laws.study)],
        study=_STUDY | laws.study,
        stages=[_STAGE | dict(stage) for stage in laws.study.get("stages") or []],
        stores=passport_lines(groups),
        tasks=(tasks := task_rows(runs)),
        sections=_sections(plots, laws, any(run.samples for run in runs), bool(tasks), open_runs),
        script=Markup(script),
        script_sum=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        frontier=comparable(groups) and bool(several(runs)),
        critical=critical_words(groups),
        comparable=comparable(groups),
        named=[listed([run.label for run in group.runs], 3) for group in groups],
        most_points=points_of_a_curve(runs),
        families=[family for family in family_names() if any(r.family == family for r in runs)],
        titles={one.name: one.title for one in families()},
        written=[(run.label, run.family, _texts(run)) for run in runs if run.samples],
        differences=differences(runs),
        labels=[run.label for run in runs],
        recipes=[(run.label, recipe_text(run)) for run in runs],
        corpora=[corpus(group) for group in groups],
        machines=machines(runs),
        version=__version__,
    )


def _sections(
    plots: dict[str, list[Plot]], laws: Laws, texts: bool, tasks: bool, open_runs: list[Run]
) -> list[tuple[str, str]]:
    """(anchor, name) of the page's sections, for its list of contents."""
    there = {
        ("corpus", "Corpus"): True,
        ("runs", "Runs"): True,
        ("advice", "Going on"): bool(open_runs),
        ("epochs", "Epochs"): "epochs" in plots,
        ("compute", "Compute"): "flops" in plots,
        ("isoflop", "Best size"): "isoflop" in plots,
        ("contours", "Size and epochs"): "contours" in plots,
        ("repetition", "Repetition"): "repetition" in plots,
        ("fit", "Fit"): "quality" in plots or bool(laws.refusals),
        ("plan", "Plan"): laws.plan is not None,
        ("held-out", "Held-out run"): bool(laws.study.get("held_out")),
        ("regularisation", "Regularisation"): bool(regularised(laws.study)),
        ("study", "Study"): bool(laws.study.get("stages")),
        ("tasks", "Tasks"): tasks,
        ("steps", "Steps"): "steps" in plots,
        ("texts", "Texts"): texts,
        ("recipes", "Recipes"): True,
    }
    return [section for section, shown in there.items() if shown]


def _shown(plot: Plot) -> dict[str, Any]:
    """A figure as the template takes it; its CSV is part of the page."""
    table = "data:text/csv;charset=utf-8," + quote(plot.csv(page=True))
    return {"name": plot.name, "half": plot.half, "drawing": inline(plot), "table": table}


def _title(runs: list[Run], groups: list[Group]) -> str:
    sizes = list(dict.fromkeys(format_count(group.unique_tokens) for group in groups))
    several_of_a_size = f" of {len(groups)} corpora" if len(sizes) < len(groups) else ""
    return f"{count(len(runs), 'run')} on {listed(sizes)} unique tokens{several_of_a_size}"


def _row(run: Run) -> dict[str, str]:
    """One line of the table; what is not known is a dash."""
    result, best, curve = run.result, run.best, run.curve
    nll = "–" if run.nll is None else f"{run.nll:.3f}"
    if result is not None:
        nll += f" ± {result.standard_error:.3f}"
    elif run.nll is not None:
        nll += " (in training)"
    per_byte = result.bits_per_byte if result is not None else None
    return {
        "label": run.label,
        "family": run.family,
        "params": format_count(run.params),
        "flops": power_of_ten(run.flops),
        "epochs": f"{run.epochs:.1f}",
        "nll": nll,
        "bits": "–" if per_byte is None else f"{per_byte:.3f}",
        "best": "–" if best is None else f"{best[0]:.1f}",
        "rise": "–" if curve is None else f"{curve.rise:.3f}",
        "status": run.status,
    }


def _warnings(group: Group) -> list[str]:
    found = [f"{r.label} {_STATUS[r.status]}." for r in group.runs if r.status in _STATUS]
    for run in group.runs:
        again = f"run `epochal eval {shlex.quote(str(run.record.path))}`"
        if run.result is None and run.curve is None:
            found.append(f"{run.label} has not come to a validation: nothing is known of it.")
        elif run.outdated:
            found.append(f"{run.label} has a better checkpoint than the evaluated one; {again}.")
        elif run.result is None:
            found.append(f"{run.label} has not been evaluated: no error is known; {again}.")
    if group.left_out:
        names = listed([run.label for run in group.left_out])
        found.append(f"The verdict does not speak of {names}.")
    return found


def _texts(run: Run) -> list[tuple[str, str]]:
    """(prompt, what the model wrote after it) of each sample."""
    return [
        (sample["prompt"], sample["text"].removeprefix(sample["prompt"])) for sample in run.samples
    ]
