"""Time and memory of `epochal data prepare` by kind of text."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import click

from epochal.cli.output import print_table
from epochal.data.builtin import builtin_documents

_POLL = 0.05
_CHINESE = 3000  # characters that a text mostly consists of


class Kind(NamedTuple):
    """A kind of text: its file's suffix, how it is cut, and endlessly many pieces."""

    suffix: str
    rule: str
    pieces: Callable[[random.Random], Iterator[str]]


class Cost(NamedTuple):
    """What a `prepare` took."""

    seconds: float
    cpu: float
    peak: float
    """Bytes of all its processes together, shared ones counted once, at most."""
    sha256: str
    """Of the stores and their metadata."""


@functools.cache
def _paragraphs() -> list[str]:
    return "\n\n".join(builtin_documents()).split("\n\n")


def _prose(rng: random.Random) -> Iterator[str]:
    while True:
        yield rng.choice(_paragraphs()) + "\n\n"


def _one_line(rng: random.Random) -> Iterator[str]:
    return (" ".join(piece.split()) + " " for piece in _prose(rng))


def _json_lines(rng: random.Random) -> Iterator[str]:
    for number, first in enumerate(_prose(rng)):
        text = f"Document {number}. {first}" + "".join(rng.choices(_paragraphs(), k=8))
        yield json.dumps({"text": text}) + "\n"


def _code(rng: random.Random) -> Iterator[str]:
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    while True:
        yield rng.choice(paths).read_text(encoding="utf-8", errors="ignore")


def _chinese(rng: random.Random) -> Iterator[str]:
    characters = [chr(0x4E00 + 6 * number) for number in range(_CHINESE)]
    weights = [1 / (rank + 10) for rank in range(_CHINESE)]
    while True:
        sentence = "".join(rng.choices(characters, weights, k=2000))
        yield "".join(sentence[at : at + 17] + "\uff0c\u3002"[at % 2] for at in range(0, 2000, 17))


def _dna(rng: random.Random) -> Iterator[str]:
    while True:
        yield "".join(rng.choices("ACGT", k=10_000))


def _base64(rng: random.Random) -> Iterator[str]:
    while True:
        yield base64.b64encode(rng.randbytes(7500)).decode()


KINDS = {
    "prose": Kind(".txt", "file", _prose),
    "prose, documents": Kind(".jsonl", "file", _json_lines),
    "prose, short lines": Kind(".txt", "line", _prose),
    "prose, one line": Kind(".txt", "file", _one_line),
    "Python": Kind(".txt", "file", _code),
    "Chinese, one line": Kind(".txt", "file", _chinese),
    "DNA, one line": Kind(".txt", "file", _dna),
    "base64, one line": Kind(".txt", "file", _base64),
}


def make(kind: Kind, path: Path, size: int) -> None:
    """Write about `size` bytes of a kind."""
    done = 0
    with path.open("wb") as file:
        for piece in kind.pieces(random.Random(0)):
            done += file.write(piece.encode())
            if done >= size:
                break


def measure(text: Path, kind: Kind, tokenizer: str, workers: int) -> Cost:
    """`epochal data prepare` of a text, in processes of its own."""
    with tempfile.TemporaryDirectory(dir=text.parent) as out:
        options = ["--tokenizer", tokenizer, "--workers", str(workers), "--documents", kind.rule]
        options += ["--validation", "0"] if kind.suffix == ".txt" and kind.rule == "file" else []
        command = [sys.executable, "-m", "epochal", "data", "prepare", str(text), "--out", out]
        log = text.with_suffix(".log").open("w")
        start, peak = time.monotonic(), 0
        process = subprocess.Popen([*command, *options], stdout=log, stderr=log, process_group=0)
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            peak = max(peak, _memory(process.pid))
            time.sleep(_POLL)
        seconds = time.monotonic() - start
        process.returncode = os.waitstatus_to_exitcode(ended[1])
        if process.returncode:
            raise click.ClickException(Path(log.name).read_text())
        content = hashlib.sha256()
        for path in sorted(Path(out).glob("*.*")):
            if path.is_file() and path.name != ".lock":
                content.update(path.read_bytes())
        return Cost(seconds, ended[2].ru_utime + ended[2].ru_stime, peak, content.hexdigest())


def _memory(group: int) -> int:
    """Bytes of the processes of a group, shared pages in equal shares."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(folder.name)) == group:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += sum(1024 * int(one.split()[1]) for one in lines if one.startswith("Pss:"))
        except OSError:  # it has ended
            continue
    return total


@click.command(context_settings={"max_content_width": 100})
@click.option("--tokenizer", required=True, help="For example a folder with GPT-2's two files.")
@click.option("--megabytes", default=30, help="Size of each text.  [default: 30]")
@click.option(
    "--workers", multiple=True, type=int, default=(1,), help="May be given several times."
)
@click.option("--kind", "names", multiple=True, type=click.Choice(list(KINDS)), help="Only these.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder for the texts.")
def main(
    tokenizer: str, megabytes: int, workers: tuple[int, ...], names: tuple[str, ...], work: Path
) -> None:
    """Time and memory of `epochal data prepare` for texts of several kinds, made here.

    The ratio is that of CPU seconds per MB to the first row's.
    """
    rows = []
    with tempfile.TemporaryDirectory(dir=work) as folder:
        first = 0.0
        for name in names or KINDS:
            kind = KINDS[name]
            text = Path(folder) / f"text{kind.suffix}"
            make(kind, text, megabytes * 1_000_000)
            size = text.stat().st_size / 1e6
            for number in workers:
                cost = measure(text, kind, tokenizer, number)
                first = first or cost.cpu / size
                figures = [size / cost.seconds, cost.cpu / size * 1e3, cost.cpu / size / first]
                mine = [f"{cost.seconds:.1f}", *(f"{each:.3g}" for each in figures)]
                rows.append([name, str(number), *mine, f"{cost.peak / 1e6:.0f}", cost.sha256[:12]])
                click.echo("  ".join(rows[-1]), err=True)
            text.unlink()
    header = ["text", "workers", "seconds", "MB/s", "CPU ms/MB", "ratio", "peak MB", "SHA-256"]
    print_table(header, rows, left=1)


if __name__ == "__main__":
    main()
