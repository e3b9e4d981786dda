"""Numbers and lists of them as command-line options."""

from __future__ import annotations

import click


def numbers(context: click.Context, option: click.Parameter, value: str) -> tuple[int, ...]:
    """`8,16,32` → (8, 16, 32), as an option's callback."""
    try:
        return tuple(int(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is not a list of whole numbers, like 8,16,32"
        ) from None


def count(context: click.Context, option: click.Parameter, value: str) -> int:
    """`10k` → 10,000, as an option's callback; as counts are written in recipes."""
    from epochal.errors import UserError
    from epochal.units import parse_count

    try:
        return parse_count(value)
    except UserError as error:
        raise click.BadParameter(str(error)) from None
