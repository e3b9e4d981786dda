"""Quickstart's training with busy processes beside it: `python benchmarks/loaded.py`.

For each number of busy processes the same comparison is trained anew, as `epochal quickstart` does
it after its corpus is made. Ratios are to the first number's time. CPU seconds are those of the
training and all that it started; they grow where threads wait for each other by spinning.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from epochal.cli.output import json_option, print_json, print_table
from epochal.recipe import load_recipe
from epochal.studies.quickstart import _RECIPE, _TOKENIZER, prepare_text


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """`count` processes that compute without a pause, during the block; each in a session of its
    own, as programs of others are, since Linux may share its time out by session."""
    words = [sys.executable, "-S", "-c", "while True: pass"]
    others = [subprocess.Popen(words, start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(command: Sequence[str]) -> tuple[float, float]:
    """(seconds, CPU seconds of it and all that it waited for) of a command that must succeed."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, stdout=said, stderr=said)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            raise click.ClickException(said.read().decode(errors="replace")[-2000:])
    return time.monotonic() - began, used.ru_utime + used.ru_stime


@click.command(help=__doc__)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--busy", "counts", multiple=True, type=click.IntRange(0), default=(0, 2, 4))
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True)
@click.option("--text", type=click.Path(exists=True), help="Instead of the built-in text.")
@json_option
def main(
    overrides: tuple[str, ...],
    counts: tuple[int, ...],
    share: float,
    text: str | None,
    as_json: bool,
) -> None:
    """Measure and print a row for each number of busy processes."""
    rows = []
    epochs = share * float(load_recipe(_RECIPE, overrides).train.epochs or 0)
    with tempfile.TemporaryDirectory(prefix="epochal-loaded-") as folder:
        corpus = Path(folder) / "corpus"
        prepare_text(text, corpus, _TOKENIZER)
        for count in counts:
            out = Path(folder) / f"busy-{count}"
            changes = [f"data.corpus={json.dumps(str(corpus))}", f"train.epochs={epochs}"]
            words = ["compare", _RECIPE, *overrides, *changes, "--out", str(out)]
            with busy(count):
                seconds, cpu = measure([sys.executable, "-m", "epochal", *words])
            rows.append({"busy": count, "seconds": seconds, "cpu_seconds": cpu})
            rows[-1]["ratio"] = seconds / rows[0]["seconds"]
    if as_json:
        print_json({"share": share, "cores": os.cpu_count(), "rows": rows})
        return
    print_table(
        ["busy processes", "seconds", "times as long", "CPU seconds"],
        [
            [str(row["busy"]), *(f"{row[key]:.3g}" for key in ("seconds", "ratio", "cpu_seconds"))]
            for row in rows
        ],
    )


if __name__ == "__main__":
    main()
