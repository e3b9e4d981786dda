"""Speed and memory of Epochal on this machine, as ratios to peers measured in the same run.

Each module here measures one thing: a function `measure(options)` returns rows of the table.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from epochal.errors import UserError, nearest
from parts.options import Options
from parts.timing import Row

PARTS: dict[str, str] = {
    "help": "time of `epochal --help`",
    "tokenizer": "MB/s of BPE through tiktoken, against `tokenizers`",
    "prepare": "MB/s of a whole `epochal data prepare` on one thread",
    "loader": "rows of a step, as a share of the step, and from a large store",
    "estimator": "error of the MDM bound, ours against the paper's, at equal work",
    "eval": "a draw of `epochal eval` against the bare forward passes",
    "fit": "a law's fit of 240 points against 4500 L-BFGS starts, and 500 resamples",
    "downstream": "questions scored with 32 masks, against the original's way, one at a time",
    "generation": "tokens/s, with keys and values cached and with all tokens read anew",
    "steps": "time of a training step, AR and MDM, against nanoGPT's and SMDM's way",
    "memory": "peak memory of the same steps",
}
"""Name → what it measures; the module has the same name."""


def run_parts(names: Sequence[str], options: Options) -> list[Row]:
    """Rows of the parts `names`, of all if there are none. Raises UserError for an unknown one."""
    for name in names:
        if name not in PARTS:
            known = ", ".join(PARTS)
            raise UserError(f"there is no benchmark {name!r}.{nearest(name, PARTS)} Known: {known}")
    return [
        row
        for name in (names or PARTS)
        for row in importlib.import_module(f"parts.{name}").measure(options)
    ]
