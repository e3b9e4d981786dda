"""The verdict of a comparison, its table of families, its notes, and why there is none."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from epochal.comparison import Comparison, FamilyLine, Pair
from epochal.comparison.compare import ComparisonNote
from epochal.comparison.table import Missing
from epochal.families import get_family
from epochal.report.collect import NoVerdict
from epochal.report.text import Text, describe
from epochal.report.text.format import flops, listed, number, sentence
from epochal.results import Note, NoteCode
from epochal.runs.curves import CurveShape
from epochal.runs.summary import RunSummary
from epochal.units import format_count


def verdict(found: Comparison | Note) -> str:
    """Which family learned more, in one sentence that says no more than the numbers do.

    Of a note why there is no comparison. With a full stop.
    """
    if isinstance(found, Note):
        return f"{sentence(describe(found))}."
    runs = {family: found.best_run(family) for family in found.best}
    shapes = [text for family, run in runs.items() if (text := _shape(_short(family), run))]
    crossings = [_crossing(pair, runs) for pair in found.pairs]
    unknown = [pair for pair, text in zip(found.pairs, crossings, strict=True) if not text]
    parts = [_lead(found), ", ".join(shapes), *dict.fromkeys(crossings), _unknown(unknown)]
    return "; ".join(part for part in parts if part) + "."


def _short(family: str) -> str:
    return get_family(family).short


Table = tuple[list[str], list[list[str]]]
"""(head, rows)."""


def family_tables(found: Comparison) -> list[Table]:
    """What the families learned, and what it took, a row each; without columns that no family has
    a value for."""
    reach = f"FLOPs to {_short(found.reference)}'s best"
    tables = []
    for cells in (_learned, lambda line: _took(line, reach)):
        rows = [{"family": _short(line.family), **cells(line)} for line in found.families]
        head = [name for name in rows[0] if any(row[name] != "–" for row in rows)]
        tables.append((head, [[row[name] for name in head] for row in rows]))
    return tables


def _learned(line: FamilyLine) -> dict[str, str]:
    bound = "" if get_family(line.family).exact else "≤ "
    return {
        "seeds": str(len(line.runs)),
        "parameters": "–" if line.params is None else format_count(line.params),
        "FLOPs": flops(line.flops),
        "epochs": f"{line.epochs:.1f}",
        "best NLL": f"{bound}{line.nll:.3f} ± {line.error:.3f}",
        "over seeds": _or_dash(line.spread, ".3f"),
        "bits/byte": _or_dash(line.bits_per_byte, ".3f"),
        "best at epoch": _or_dash(line.best_epoch, ".1f"),
        "risen since": _or_dash(line.rise, ".3f"),
    }


def _took(line: FamilyLine, reach: str) -> dict[str, str]:
    pairs = "–"
    if line.pairs is not None:
        pairs = f"{100 * line.pairs:.1f} ± {100 * (line.pairs_error or 0):.1f} {line.pairs_mode}"
    penalty = "0" if Missing.NO_COST in [one.code for one in line.missing.values()] else "–"
    if line.penalty is not None:
        low, high = line.penalty_interval or (None, None)
        ends = "" if high is None else f" ({number(low or 0.0, 2)} to {number(high, 2)})"
        penalty = number(line.penalty, 2) + ends
    return {
        reach: "–" if line.reach_flops is None else flops(line.reach_flops),
        "P (95 %)": penalty,
        "minimal pairs, %": pairs,
        "training tok/s": "–" if line.train_speed is None else format_count(line.train_speed),
        "writing tok/s": _or_dash(line.write_speed, ".3g"),
    }


def _or_dash(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def missing_values(found: Comparison) -> list[str]:
    """Why lines have no value, a sentence each without a full stop; alike families together."""
    families: dict[str, list[str]] = {}
    for line in found.families:
        for why in line.missing.values():
            own = families.setdefault(describe(why), [])
            if _short(line.family) not in own:
                own.append(_short(line.family))
    return [f"{listed(names)}: {text}" for text, names in families.items()]


def _lead(comparison: Comparison) -> str:
    runs = {line.family: line for line in comparison.families}
    unique = comparison.runs[0].unique_tokens
    figures = ", ".join(
        f"{_short(family)} {'' if get_family(family).exact else 'at most '}{line.nll:.3f}"
        for family, line in runs.items()
    )
    first, *close = comparison.leaders
    rivals = [pair for pair in comparison.pairs if first in pair.families]
    if close:
        decisive = [pair for pair in rivals if pair.leader is None]
        differences = listed([_amount(pair) for pair in decisive])
        names = listed([_short(family) for family in comparison.leaders])
        among = "" if len(runs) == 2 else f" between {names}"
        verb = "difference is" if len(decisive) == 1 else "differences are"
        return (
            f"Too close to call{among} on {unique:,} unique tokens: the {verb} {differences} nats "
            f"per token ({figures})"
        )
    leads = []
    for pair in rivals:
        other = next(family for family in pair.families if family != first)
        than = "" if len(runs) == 2 else f" than {_short(other)}"
        leads.append(f"{than} by {_side(first, other)}{_amount(pair)}".strip())
    more = "" if len(runs) > 2 else ","
    return (
        f"{_short(first)} learned more from these {unique:,} unique tokens{more} {listed(leads)} "
        f"nats per token ({figures})"
    )


def _amount(pair: Pair) -> str:
    return f"{abs(pair.difference):.3f} ± {pair.standard_error:.3f}"


def _side(leader: str, other: str) -> str:
    """A bound's true NLL may be lower, so its lead may be larger, and another's over it smaller."""
    exact = get_family(leader).exact, get_family(other).exact
    return {(True, False): "at most ", (False, True): "at least "}.get(exact, "")


def _shape(name: str, run: RunSummary) -> str:
    if run.shape is CurveShape.OVERFITTED:
        return (
            f"{name} was best at epoch {run.best_epoch:.1f} and has since overfitted by "
            f"{run.rise_since_best:.2f}"
        )
    if run.shape is CurveShape.FALLING:
        return f"{name} was still falling at the end (epoch {run.epochs_seen:.1f})"
    return "" if run.shape is None else f"{name} had levelled off by epoch {run.epochs_seen:.1f}"


def _crossing(pair: Pair, runs: Mapping[str, RunSummary]) -> str:
    """Where the curves of two families cross; nothing where that is not known."""
    if (found := pair.crossing) is not None:
        earlier, later = _short(found.earlier), _short(found.later)
        if found.kind == "seen":
            return f"{later}'s curve passed {earlier}'s at {flops(found.flops)} FLOPs"
        low, high = map(flops, found.interval)
        return (
            f"extrapolated, {later}'s curve would come to {earlier}'s best near "
            f"{flops(found.flops)} FLOPs (95 % interval {low} to {high})"
        )
    names = [_short(family) for family in pair.families]
    both = "both" if len(runs) == 2 else listed(names)
    if all(runs[family].shape is CurveShape.OVERFITTED for family in pair.families):
        text = f"{both} overfit at these settings"
        if pair.leader is None:
            return text
        ahead, behind = names if pair.leader == pair.families[0] else names[::-1]
        return f"{text}, so training longer would not bring {behind} to {ahead}'s best"
    return ""


def _unknown(pairs: Sequence[Pair]) -> str:
    if not pairs:
        return ""
    names = listed([f"of {listed([_short(each) for each in pair.families])}" for pair in pairs])
    return f"these runs do not show whether the best losses {names} would cross later"


def _bounds(values: Mapping[str, Any]) -> str:
    bounds = listed([_short(family) for family in values["bounds"]])
    exact = listed([_short(family) for family in values["exact"]]) if values["exact"] else ""
    return f"the NLL of {bounds} is an upper bound, so it may be better than shown, never worse" + (
        f"; that of {exact} is exact" if exact else ""
    )


def _masked(values: Mapping[str, Any]) -> str:
    figures = [
        f"{_short(family)} at most {nll:.3f} ± {error:.3f}"
        for family, (nll, error) in values["nll"].items()
    ]
    return f"read in random orders instead of from left to right: {listed(figures)} nats per token"


def _scope(values: Mapping[str, Any]) -> str:
    seeds = min(values["seeds"].values()) > 1
    documents, draws = "validation documents", "mask draws"
    covered = f"{documents}, {draws} and seeds" if seeds else f"{documents} and {draws}"
    others = "other sizes" if seeds else "other seeds, sizes"
    return f"± is one standard error, over {covered}; it does not cover {others} or regularisation"


def _not_reached(values: Mapping[str, Any]) -> str:
    best = f"{_short(values['family'])}'s best"
    if values["above"] > 0:
        return f"{best} is not reached: the lowest NLL is {values['above']:.3f} nats above it"
    return f"{best} is not reached by all seeds"


def _flops(values: Mapping[str, Any]) -> str:
    spent = [f"{_short(family)} {flops(value)}" for family, value in values["flops"].items()]
    return f"the runs did not have the same compute (FLOPs): {', '.join(spent)}"


def _runs(values: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(values["runs"])


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


def _precisions(values: Mapping[str, Any]) -> str:
    own = [
        f"{get_family(family).title} in {' and '.join(found)}"
        for family, found in values["precisions"].items()
    ]
    return (
        f"not trained in one precision: {', '.join(own)}; their difference is uncertain in the "
        "third digit (set `train.precision`)"
    )


TEXTS: dict[NoteCode, Text] = {
    NoVerdict.ONE_FAMILY: _one_family,
    NoVerdict.NOT_VALIDATED: lambda values: (
        f"no verdict yet: no {get_family(values['family']).title} run has a validation result yet"
    ),
    NoVerdict.NOT_EVALUATED: _not_evaluated,
    NoVerdict.NOT_COMPARABLE: "no verdict: {error}",
    ComparisonNote.BOUNDS: _bounds,
    ComparisonNote.MASKED: _masked,
    ComparisonNote.ERROR_SCOPE: _scope,
    ComparisonNote.UNEQUAL_COMPUTE: _flops,
    ComparisonNote.UNEQUAL_PRECISION: _precisions,
    ComparisonNote.UNFINISHED: lambda values: f"not finished: {_runs(values)}",
    ComparisonNote.LEFT_OUT: lambda values: (
        f"left out, since their NLL is not finite: {_runs(values)}"
    ),
    ComparisonNote.NOT_VALIDATED: lambda values: (
        f"left out, since they have no validation result yet: {_runs(values)}"
    ),
    Missing.FEW_LENGTHS: "no P, which needs finished runs of {least} lengths or more",
    Missing.NOT_FITTED: "no P: {error}",
    Missing.NO_COST: "repeating costs nothing that these runs show",
    Missing.NO_CURVE: "no validation curve",
    Missing.NOT_REACHED: _not_reached,
    Missing.NO_PAIRS: "no score on minimal pairs (`epochal compare … --pairs FOLDER`)",
    Missing.NOT_TIMED: "no text was timed",
    Missing.NO_LOG: "no log of training",
}
