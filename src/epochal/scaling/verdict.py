"""What a plan may say of the families: the verdict, and how far the laws are believed.

Laws are solved over many decades, but what they say far beyond their runs is no knowledge. So
no sentence on a crossing reaches beyond ten times what the laws were fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from epochal.scaling.crossing import Crossings
from epochal.scaling.law import ScalingLaw
from epochal.units import format_count

TITLES = {"ar": "AR", "mdm": "diffusion"}
TRUSTED_FACTOR = 10.0
"""So many times the largest fitted compute, and beyond the fitted U, laws are believed. Chosen
by us."""


class Predicted(Protocol):
    """One family's part of a plan, as far as it is put into words."""

    @property
    def family(self) -> str: ...

    @property
    def loss(self) -> float: ...


def trusted_flops(laws: Mapping[str, ScalingLaw]) -> float | None:
    """FLOPs up to which all of the laws are believed; None if nothing is known of their runs."""
    ends = [law.fitted_range["flops"][1] for law in laws.values() if "flops" in law.fitted_range]
    return TRUSTED_FACTOR * min(ends) if ends else None


def first_crossing(critical: Crossings | None) -> float | None:
    """First crossing into diffusion's lead."""
    if critical is None:
        return None
    into = [
        c for c, lead in zip(critical.crossings, critical.leaders[1:], strict=True) if lead == "mdm"
    ]
    return into[0] if into else None


def verdict_words(
    plans: Sequence[Predicted],
    winner: str | None,
    difference: float | None,
    interval: tuple[float, float] | None,
    share: float | None,
    *,
    short: bool = False,
) -> str:
    """Which family is better for the budget, without a word on other budgets, and no full stop.

    `short`: without difference, intervals and shares of resamples.
    """
    if difference is None:
        name = TITLES[plans[0].family]
        other = "AR" if plans[0].family == "mdm" else "diffusion"
        return f"{name} only: there is no law for {other}, so nothing is said of which to take"
    figures = f"AR {plans[0].loss:.3f}, diffusion {plans[1].loss:.3f} nats per token"
    if interval is None:
        lead = "diffusion" if difference < 0 else "AR"
        text = f"{lead[0].upper()}{lead[1:]} is predicted to be lower ({figures}), with no interval"
    else:
        details = f"interval {interval[0]:+.3f} to {interval[1]:+.3f}"
        if winner is None:
            text, details = "Too close to call", f"difference {difference:+.3f}, {details}"
        else:
            lead = "Diffusion" if winner == "mdm" else "AR"
            text = f"{lead} by {abs(difference):.3f} nats per token"
        text = f"{text} ({figures})" if short else f"{text} ({figures}; {details})"
    if short:
        return text
    if share is not None and winner is None and 0 < share < 1:
        text += f"; {100 * share:.0f} % of resamples favour diffusion"
    return text


def critical_words(critical: Crossings, flops: float, limit: float | None) -> str:
    """Where diffusion's lead begins, up to the `limit` of `reach`."""
    low, high = critical.searched
    if limit is None:
        high_words = f"{format_count(high)} FLOPs (nothing is known of the laws' runs)"
    else:
        high_words = f"{format_count(limit)} FLOPs, {TRUSTED_FACTOR:g} times the largest run fitted"
        high = min(high, limit)
    if high <= low:
        return (
            f"nothing can be said of a critical compute: it would lie above {format_count(low)} "
            f"FLOPs, and the laws are believed up to {high_words}"
        )
    at = [c for c in critical.crossings if c <= high]
    leaders = critical.leaders[: len(at) + 1]
    into = [c for c, lead in zip(at, leaders[1:], strict=True) if lead == "mdm"]
    if into:
        several = f"the lead changes {len(at)} times; " if len(at) > 1 else ""
        ratio = flops / into[0]
        side = f"{ratio:.3g} times" if ratio >= 1 else f"1/{1 / ratio:.3g} of"
        told = f"critical compute {format_count(into[0])} FLOPs, the budget is {side} that"
        return f"{several}{told}"
    if at:
        return f"diffusion leads only below {format_count(at[0])} FLOPs, up to {high_words}"
    if leaders[0] == "ar":
        later = first_crossing(critical)
        text = f"diffusion does not win up to {high_words}"
        if later is None:
            return text
        return (
            f"{text}: not within reach; the laws put it at {format_count(later)} FLOPs, where "
            "nothing was measured"
        )
    if leaders[0] == "mdm":
        return f"there is no critical compute: diffusion leads at every budget up to {high_words}"
    return f"the laws give no difference up to {high_words}"


def reverse_words(
    found: Crossings, flops: float, span: tuple[float, float], limit: float | None
) -> str:
    """At which U diffusion wins with the budget; `span` is the range of U that is believed."""
    budget = f"with {format_count(flops)} FLOPs"
    low, high = max(span[0], found.searched[0]), min(span[1], found.searched[1])
    where = f"from {format_count(low)} to {format_count(high)} unique tokens"
    if high <= low:
        return f"Nothing can be said {budget}: the laws were fitted to other numbers of tokens."
    at = [u for u in found.crossings if low <= u <= high]
    before = sum(u < low for u in found.crossings)
    leaders = found.leaders[before : before + len(at) + 1]
    beyond = ""
    if limit is not None and flops > limit:
        beyond = (
            f" The budget is more than {TRUSTED_FACTOR:g} times the largest run fitted, so "
            "this is a guess."
        )
    if not at:
        lead = TITLES.get(leaders[0], "neither family")
        outside = [u for u in found.crossings if not low <= u <= high]
        later = (
            f" The laws put a change at {format_count(outside[0])}, beyond what was measured."
            if outside
            else ""
        )
        return f"{budget[0].upper()}{budget[1:]} {lead} leads at every U {where}.{later}{beyond}"
    edges = [low, *at, high]
    words = []
    for first, last, lead in zip(edges[:-1], edges[1:], leaders, strict=True):
        if lead != "mdm":
            continue
        if first == low:
            words.append(f"below {format_count(last)}")
        elif last == high:
            words.append(f"above {format_count(first)}")
        else:
            words.append(f"from {format_count(first)} to {format_count(last)}")
    interval = ""
    if found.interval is not None and None not in found.interval and found.kind == "one":
        interval = f" (interval {' to '.join(format_count(e) for e in found.interval if e)})"
    text = f"{budget} diffusion is predicted to win {' and '.join(words)} unique tokens{interval}"
    return f"{text[0].upper()}{text[1:]}, AR otherwise, {where}.{beyond}"
