"""English about what searches show: tables and sentences, for the page and for Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from epochal.families import get_family
from epochal.report.collect import Run
from epochal.report.evidence import (
    TUNED,
    USUAL,
    Best,
    CriticalCompute,
    Difference,
    Evidence,
    Penalty,
    SearchCost,
    TextEvidence,
)
from epochal.report.text.format import duration, flops, listed, number, sentence
from epochal.report.text.tune import neighbour_text
from epochal.scaling.checks import Interval
from epochal.scaling.crossing import TRUSTED_FACTOR
from epochal.sizes import DEFAULT_MFU, get_gpu
from epochal.units import format_count

GPU = "H100"
_CELL = ("unique tokens", "parameters")
_TRAIN = ("rate", "decay", "epochs")
_COST = ("runs", "tokens", "FLOPs", "minutes")
_CRITICAL = ("seen", "largest run", "by the laws (95 %)")
NOTHING = (
    "There are no records yet, so nothing is shown about which family learns more from a text."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with a title and a line below it."""

    title: str
    head: list[str]
    rows: list[list[str]]
    below: str


def text_title(text: TextEvidence) -> str:
    """ "builtin, bpe:512"."""
    return f"{text.name}, {text.tokenizer}"


def findings(text: TextEvidence) -> list[str]:
    """What the differences of a text show, a sentence each, and what they do not."""
    found = [_finding(one, text.searches) for one in _widest(text, TUNED)]
    tuned = [one for one in text.critical if one.settings == TUNED]
    for families in dict.fromkeys(one.families for one in tuned):
        first, second = (get_family(name).title for name in families)
        if not any(one.seen for one in tuned if one.families == families):
            found.append(
                f"No run of these shows {second} below tuned {first}: on none of these numbers of "
                "unique tokens do the curves of tuned runs cross."
            )
    bounds = [one for one in {b.family for b in text.best} if not get_family(one).exact]
    found += [
        f"The NLL of {get_family(one).title} is an upper bound: it may be better than shown, never "
        "worse."
        for one in sorted(bounds)
    ]
    return found


def _widest(text: TextEvidence, settings: str) -> list[Difference]:
    """Per U and families the difference at the best sizes, or that of the only size."""
    last = {
        (one.unique_tokens, one.families): one
        for one in text.differences
        if one.settings == settings
    }
    return list(last.values())


def _finding(one: Difference, searches: Sequence[SearchCost]) -> str:
    first, second = (get_family(name).title for name in one.families)
    leader, other = (second, first) if one.difference < 0 else (first, second)
    exact = [get_family(name).exact for name in one.families]
    bound = (
        ""
        if len({*exact}) == 1
        else "at least "
        if exact[0] is (one.difference < 0)
        else "at most "
    )
    low, high = sorted(abs(end) for end in one.interval)
    scope = _scope(one, searches)
    at = f"On {_unique(one.unique_tokens)}"
    size = f"{format_count(one.params)} parameters" if one.params else "each at its best size"
    if not one.clear:
        return (
            f"{at} tuned {first} and tuned {second} ({size}) do not differ clearly: "
            f"{one.difference:+.3f} nats per token, 95 % from {one.interval[0]:+.3f} to "
            f"{one.interval[1]:+.3f}{scope}."
        )
    return (
        f"{at} tuned {leader} ({size}) is better than tuned {other} by {bound}"
        f"{abs(one.difference):.3f} nats per token, 95 % from {low:.3f} to {high:.3f}{scope}."
    )


def _scope(one: Difference, searches: Sequence[SearchCost]) -> str:
    """What the interval covers, and which of the searches is not certified."""
    seeds = f"{one.seeds[0]} and {one.seeds[1]} seeds" if min(one.seeds) > 1 else ""
    covered = f"documents, masks and {seeds}" if seeds else "documents and masks, one seed each"
    uncertified = {
        get_family(search.family).title
        for search in searches
        if search.unique_tokens == one.unique_tokens
        and search.params == (one.params or search.params)
        and search.family in one.families
        and not search.certified
    }
    if not uncertified:
        return f" ({covered}; both searches certified)"
    return f" ({covered}; not certified: {listed(sorted(uncertified))})"


def tables(text: TextEvidence) -> list[Table]:
    """All tables of a text that have rows."""
    settings = list(dict.fromkeys(one.settings for one in text.differences))
    return [
        table
        for table in (
            Table(
                title="The best configurations",
                head=[*_CELL, "family", "settings", *_TRAIN, "NLL", "bits/byte", "seeds"],
                rows=[_best_row(one) for one in text.best],
                below=f"NLL in nats per token on {text.validation_tokens:,} held-out tokens of "
                f"{text.documents} documents, ± one standard error. {sentence(USUAL)}: the rate "
                "and decay that the search started from, at the best length run with them.",
            ),
            Table(
                title="The searches, and what they cost",
                head=[*_CELL, "family", "certified", *_COST, "not shown to be worse"],
                rows=[_search_row(one) for one in text.searches],
                below="Certified: every step of two in learning rate, weight decay and epochs is "
                "worse by more than its error. Minutes of training on the machine of the records.",
            ),
            Table(
                title="The differences",
                head=[*_CELL, "difference", *settings],
                rows=list(_difference_rows(text, settings)),
                below="Nats per token, paired by document, with the 95 % interval: above 0 the "
                "first-named family has the higher loss. What changes from one column to the next "
                "is the share of the gap that is settings.",
            ),
            Table(
                title="Critical compute",
                head=[*_CELL, "settings", *_CRITICAL, f"one {GPU}", "the paper's formula"],
                rows=[_critical_row(one) for one in text.critical],
                below="FLOPs of the smallest run below the other family's best of any length; by "
                "the laws fitted to the runs of the size, at equal length; and by C = 2.12 × "
                "10^1.956 × U^2.174 (arXiv 2507.15857). Laws are not trusted beyond ten times the "
                f"largest run. Time of one such run at {DEFAULT_MFU:.0%} of the {GPU}'s peak, "
                "which models this small do not reach.",
            ),
            Table(
                title="What repeating costs",
                head=["parameters", "family", "settings", "P", "95 %", "runs"],
                rows=[_penalty_row(one) for one in text.penalties],
                below="P·R·N/U nats are added by R repetitions of U unique tokens with N "
                "parameters (arXiv 2605.01640, exponents 1).",
            ),
        )
        if table.rows
    ]


def _cell(one: Best | SearchCost | CriticalCompute) -> list[str]:
    return [format_count(one.unique_tokens), format_count(one.params)]


def _best_row(one: Best) -> list[str]:
    family = get_family(one.family)
    return [
        *_cell(one),
        family.short,
        one.settings,
        f"{one.lr:.3g}",
        f"{one.weight_decay:.3g}" + (f", dropout {one.dropout:g}" if one.dropout else ""),
        f"{one.epochs:.4g}",
        f"{'' if family.exact else '≤ '}{one.nll:.3f} ± {one.error:.3f}",
        "–" if one.bits_per_byte is None else f"{one.bits_per_byte:.3f}",
        str(one.seeds),
    ]


def _search_row(one: SearchCost) -> list[str]:
    return [
        *_cell(one),
        get_family(one.family).short,
        "yes" if one.certified else "no",
        str(one.runs),
        format_count(one.tokens),
        flops(one.flops),
        f"{one.seconds / 60:.0f}",
        "; ".join(map(neighbour_text, one.open)) or "–",
    ]


def _difference_rows(text: TextEvidence, settings: Sequence[str]) -> Iterator[list[str]]:
    cells = {(d.unique_tokens, d.params, d.families, d.settings): d for d in text.differences}
    for unique, params, families in dict.fromkeys(key[:3] for key in cells):
        first, second = (get_family(name).short for name in families)
        yield [
            format_count(unique),
            "best of each" if params is None else format_count(params),
            f"{second} − {first}",
            *(_signed(cells.get((unique, params, families, one))) for one in settings),
        ]


def _signed(one: Difference | None) -> str:
    if one is None:
        return "–"
    low, high = one.interval
    return f"{one.difference:+.3f} ({low:+.3f} to {high:+.3f})"


def _critical_row(one: CriticalCompute) -> list[str]:
    within = one.law is not None and one.law <= TRUSTED_FACTOR * one.largest
    needed = one.seen if one.seen is not None else one.law if within else None
    return [
        *_cell(one),
        one.settings,
        "none" if one.seen is None else flops(one.seen),
        flops(one.largest),
        _by_law(one, within),
        "–" if needed is None else _gpu_time(needed),
        flops(one.paper),
    ]


def _gpu_time(compute: float) -> str:
    seconds = compute / (get_gpu(GPU).peak * DEFAULT_MFU)
    return "under 1 s" if seconds < 1 else duration(seconds)


def _by_law(one: CriticalCompute, within: bool) -> str:
    if one.refused is not None:
        return "no law"
    if one.law is None or not within:
        return "no crossing within 10 × the largest run"
    low, high = one.interval or (None, None)
    ends = [flops(end) if end is not None else "open" for end in (low, high)]
    share = "" if one.share in (None, 1.0) else f"; {one.share:.0%} of the resamples cross"
    return f"{flops(one.law)} ({ends[0]} to {ends[1]}{share})"


def _penalty_row(one: Penalty) -> list[str]:
    return [
        format_count(one.params),
        get_family(one.family).short,
        one.settings,
        "none seen" if one.penalty is None else number(one.penalty),
        _range(one.interval),
        str(one.runs),
    ]


def _range(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    low, high = interval
    return f"{'0' if low is None else number(low)} to {'open' if high is None else number(high)}"


def _refused(text: TextEvidence) -> list[str]:
    return list(dict.fromkeys(one.refused for one in text.critical if one.refused is not None))


def page_texts(evidence: Evidence) -> list[dict[str, Any]]:
    """Of each text its title, sentences and tables, for the template."""
    return [
        {
            "title": text_title(text),
            "findings": findings(text),
            "tables": tables(text),
            "refused": _refused(text),
        }
        for text in evidence.texts
    ]


def standings(runs: Sequence[Run], evidence: Evidence) -> list[str]:
    """Where evaluated runs stand on evidence of other runs, a sentence each."""
    found = []
    for run in runs:
        result = run.result
        if result is None or not evidence.texts:
            continue
        text = min(evidence.texts, key=lambda one: _distance(one, run))
        same = text.validation_sha256 == result.validation_sha256
        own, unit = result.nll_nats_per_token, "nats per token"
        if not same:
            if result.bits_per_byte is None:
                continue
            own, unit = result.bits_per_byte, "bits per byte"
        tuned: dict[int, list[float]] = {}
        for best in text.best:
            value = best.nll if same else best.bits_per_byte
            if best.settings == TUNED and best.family == run.family and value is not None:
                tuned.setdefault(best.unique_tokens, []).append(value)
        nearest = sorted(tuned, key=lambda unique: abs(math.log(unique / run.unique_tokens)))[:2]
        if not nearest:
            continue
        theirs = [
            f"{min(tuned[u]):.3f} on {format_count(u)} unique tokens" for u in sorted(nearest)
        ]
        found.append(
            f"{run.label} ({get_family(run.family).title}, {_unique(run.unique_tokens)}) has "
            f"{own:.3f} {unit}; models tuned by search have {listed(theirs)} ({text_title(text)})."
        )
        if not same:
            found[-1] += (
                " Held-out text or tokenizer are not the same, so this is a rough comparison."
            )
    return found


def _unique(tokens: int) -> str:
    return f"{format_count(tokens)} unique tokens"


def _distance(text: TextEvidence, run: Run) -> int:
    """How much less comparable a text is: same held-out tokens, same tokenizer, neither."""
    corpus = run.record.info["corpus"]["validation"]
    if text.validation_sha256 == corpus["content_sha256"]:
        return 0
    tokenizer = corpus.get("metadata", {}).get("tokenizer", {}).get("name")
    return 1 if text.tokenizer == tokenizer else 2


def markdown(evidence: Evidence, figures: Sequence[tuple[str, str]] = ()) -> str:
    """All of it as Markdown; `figures` are (what it shows, path)."""
    if not evidence.texts:
        return f"{NOTHING}\n"
    parts: list[str] = []
    for text in evidence.texts:
        parts += [f"## {sentence(text_title(text))}", "\n".join(f"- {f}" for f in findings(text))]
        for table in tables(text):
            lines = [table.head, ["---"] * len(table.head), *table.rows]
            parts += [f"### {table.title}", "\n".join(f"| {' | '.join(row)} |" for row in lines)]
            parts.append(table.below)
        parts += [f"No law: {why}" for why in _refused(text)]
    parts += [f"![{about}]({path})" for about, path in figures]
    return "\n\n".join(parts) + "\n"
