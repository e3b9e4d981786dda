"""Records as Markdown, for benchmarks/README.md."""

from __future__ import annotations

import math
from collections.abc import Sequence

from advice_parts.figures import CLOSE, Figures, Target, figures_of, targets
from advice_parts.record import Record, budget_name
from epochal.families import get_family

_NATS = ("width of the interval, median", "regret, median")


def markdown(records: Sequence[Record]) -> str:
    """Tables of predictions, regret, verdicts and targets; held-out texts for themselves."""
    parts = []
    for held_out in (False, True):
        figures = [figures_of(one) for one in records if one.text.held_out == held_out]
        if figures:
            title = "Texts that were held out" if held_out else "Texts"
            parts += [f"### {title}", _predictions(figures), _verdicts(figures)]
            parts += [_targets(targets(figures)), _made_with(figures)]
    return "\n\n".join(part for part in parts if part)


def _predictions(figures: Sequence[Figures]) -> str:
    header = ["text", "time", "family", "predicted", "seen", "error", "× largest probe", "width"]
    header += ["inside", "recommended", "best of grid", "regret", "at the grid's end"]
    rows = []
    for each in figures:
        for family, one in each.families.items():
            best = None if one.best is None else one.best.nll
            inside = {None: "–", True: "yes", False: "no"}[one.inside]
            numbers = [_number(one.predicted), _number(one.seen), _percent(one.error, signed=True)]
            numbers += [_number(one.distance, 1), _number(one.width, 2), inside]
            numbers += [_number(one.recommended), _number(best), _number(one.regret)]
            edges = ", ".join(one.edges) or "–"
            rows.append([*_where(each), get_family(family).short, *numbers, edges])
    return _table(header, rows)


def _verdicts(figures: Sequence[Figures]) -> str:
    header = ["text", "time", "better in the grid", "by", "named", "from", "right"]
    rows = []
    for each in figures:
        outcome = each.record.outcome
        named = "none" if outcome.winner is None else get_family(outcome.winner).short
        better = "–" if each.better is None else get_family(each.better).short
        right = {None: "close", True: "yes", False: "no"}[each.right]
        right = "–" if each.better is None else right
        basis = outcome.basis.replace("_", " ")
        rows.append([*_where(each), better, _number(each.difference), named, basis, right])
    return _table(header, rows) + (
        f"\n\nClose: the families differ by {CLOSE:g} nats or less, so either may be named."
    )


def _targets(found: Sequence[Target]) -> str:
    rows = []
    for one in found:
        sign = "≥" if one.more_is_better else "≤"
        show = _nats if one.what in _NATS else _percent
        reached = show(one.reached) if math.isfinite(one.reached) else "some are missing"
        rows.append([one.what, f"{sign} {show(one.limit)}", reached, "yes" if one.met else "no"])
    return _table(["", "target", "reached", "met"], rows)


def _made_with(figures: Sequence[Figures]) -> str:
    """Machine and effort."""
    machines = {
        f"{one.cores} cores, {one.jobs} runs at a time, Python {one.python}, torch {one.torch}"
        for one in (each.record.machine for each in figures)
    }
    versions = {each.record.epochal for each in figures}
    spent = {
        stage: sum(each.record.cpu_seconds.get(stage, 0.0) for each in figures) / 3600
        for stage in ("study", "grid")
    }
    return (
        f"Epochal {', '.join(sorted(versions))}; {'; '.join(sorted(machines))}. CPU hours: "
        f"{spent['study']:.1f} for the studies, {spent['grid']:.1f} for the grids."
    )


def _where(each: Figures) -> list[str]:
    return [each.record.text.name, budget_name(each.record.budget)]


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _nats(value: float) -> str:
    return f"{value:.3g} nats"


def _percent(value: float | None, signed: bool = False) -> str:
    if value is None:
        return "–"
    return f"{100 * value:{'+' if signed else ''}.1f} %"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
