"""`epochal doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from epochal.cli.output import json_option, print_json, print_note, print_pairs

if TYPE_CHECKING:
    from epochal.diagnosis import Doctor

_LITTLE = 2 * 2**30
"""Bytes of memory or disk below which even small runs may fail."""
_FASTER = 1.3
"""Speed-up from which bf16 is advised."""


@click.command()
@click.argument("folder", default=".", type=click.Path(exists=True, file_okay=False))
@json_option
def doctor(folder: str, as_json: bool) -> None:
    """Show what this machine has: versions, cores, speed, compiler, GPUs, memory, disk, extras.

    FOLDER is where runs would go; this one if not given. Below the table stands what could be
    better, and how.

    \b
    Examples:
      epochal doctor
      epochal doctor runs --json
    """
    from epochal.diagnosis import doctor as look

    found = look(folder)
    if as_json:
        print_json(found)
        return
    load = "" if found.load is None else f", {found.load:.1f} in use over the last minute"
    print_pairs(
        [
            ("Epochal", f"{found.epochal}, Python {found.python}, torch {found.torch}"),
            ("system", found.system),
            ("cores", f"{found.cores}{load}"),
            (
                "GFLOP/s",
                ", ".join(f"{key} {value / 1e9:.3g}" for key, value in found.flops.items()),
            ),
            ("runs on", found.device),
            ("GPUs", ", ".join(f"{k} ({_gib(v)})" for k, v in found.gpus.items()) or "none"),
            ("C++ compiler", "yes" if found.compiler else "no"),
            ("free memory", "unknown" if found.memory is None else _gib(found.memory)),
            ("free disk", _gib(found.disk)),
            (
                "disk writes",
                "not allowed" if found.written is None else f"{found.written / 1e6:,.0f} MB/s",
            ),
            ("extras missing", ", ".join(found.missing) or "none"),
        ]
    )
    for problem in _problems(found):
        print_note(problem)


def _problems(found: Doctor) -> Iterator[str]:
    """What could be better, and how."""
    if found.load is not None and found.load > 0.5 * found.cores:
        yield "Other programs use the cores; runs share them and take longer."
    fp32 = max(value for key, value in found.flops.items() if key != "bf16")
    if found.device == "cpu" and found.flops["bf16"] > _FASTER * fp32:
        yield f'bf16 is {found.flops["bf16"] / fp32:.1f} × as fast: set train.precision="bf16".'
    if not found.compiler:
        yield 'Install g++ or clang++ for train.compile="on", which makes long runs faster.'
    if found.memory is not None and found.memory < _LITTLE:
        yield "Little memory is free; end other programs, or train small models only."
    if found.disk < _LITTLE:
        yield "Little disk is free; delete something, or give another folder."
    if found.written is None:
        yield "Nothing can be written to this folder; give another one."
    for extra, packages in found.missing.items():
        yield f"For {extra}: pip install 'epochal[{extra}]' ({', '.join(packages)})."


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
