"""Lists of numbers as command-line options."""

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
