"""`epochal sizes`."""

from __future__ import annotations

import click

from epochal.cli.output import json_option, print_json, print_table


@click.command()
@click.option(
    "--vocabulary",
    type=click.IntRange(1, 10**9),
    default=50257,
    show_default=True,
    help="Size of the vocabulary, without mask id and padding; 50257 is GPT-2's.",
)
@json_option
def sizes(vocabulary: int, as_json: bool) -> None:
    """The paper's 54 model sizes.

    "params" is the paper's estimate N = 4ld² + 3ldh + 6ld + Vd, used in C = 6·N·D; "exact" is
    the number of trained weights. Names are labels: 425M has 416.9M parameters.

    \b
    Examples:
      epochal sizes
      epochal sizes --vocabulary 8192 --json
    """
    from epochal.sizes import ladder_sizes

    rows = ladder_sizes(vocabulary)
    if as_json:
        print_json(rows)
        return
    header = ["size", "d_model", "ffn", "head", "heads", "layers", "params", "without embedding"]
    header += ["exact", "FLOPs/token"]
    print_table(
        header,
        [
            [
                row.size,
                *map(str, (row.d_model, row.d_ff, row.head_dim, row.heads, row.layers)),
                f"{row.params:,}",
                f"{row.params_non_embedding:,}",
                f"{row.params_exact:,}",
                f"{row.flops_per_token:.3g}",
            ]
            for row in rows
        ],
    )
