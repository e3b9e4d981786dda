"""Words about evaluations."""

from __future__ import annotations

from epochal.families import get_family


def bound_of(family: str) -> str:
    """What stands behind an NLL: nothing if it is exact."""
    return "" if get_family(family).exact else " (upper bound)"


def gap_bound(first: str, second: str) -> str:
    """On which side the true difference may lie, where one NLL is exact and the other a bound."""
    exact = get_family(first).exact, get_family(second).exact
    if exact == (True, False):
        return "at least: the second is an upper bound"
    return "at most: the first is an upper bound" if exact == (False, True) else ""
