"""`epochal audit`."""

from __future__ import annotations

import click

from epochal.cli.output import json_option, print_json, print_note, print_pairs


@click.command()
@click.argument("file", metavar="FILE.json")
@json_option
def audit(file: str, as_json: bool) -> None:
    """Check a claimed number of bits per byte against its own figures.

    FILE.json has the claim (`bits_per_byte`), what it goes back to (`nats_per_token`) and the text
    (`corpus`, `bytes_per_token`, or `bytes` and `tokens`). The number is recomputed; if it
    differs, the usual mistakes are tried: a constant number of bytes per token, nats for bits, the
    mean over masked tokens, clipped weights, missing terms. See docs/audit.md for more fields.

    \b
    Example:
      epochal audit claim.json
    """
    from epochal.comparison.audit import audit as check
    from epochal.report.text import describe

    found = check(file)
    if as_json:
        print_json(found)
        return
    print_pairs(
        [
            ("claimed", f"{found.claimed:.4f} bits per byte"),
            ("recomputed", f"{found.bits_per_byte:.4f} bits per byte"),
            ("from", f"{found.nats_per_token:.4f} nats per token"),
            ("bytes per token", f"{found.bytes_per_token:.4f}"),
            ("claim implies", f"{found.implied_bytes_per_token:.4f} bytes per token"),
        ]
    )
    for one in found.explanations:
        print_note(describe(one))
