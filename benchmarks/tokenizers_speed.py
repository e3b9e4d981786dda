"""Speed of GPT-2's BPE through tiktoken and through tokenizers, on one core, and of `prepare`.

    python benchmarks/tokenizers_speed.py FOLDER [--rounds 9]

FOLDER holds GPT-2's vocab.json and merges.txt. The text is the built-in corpus. The two ways
take turns, so that whatever else runs on the machine disturbs both alike. Every round's ids
are compared. `prepare` is timed whole (tokenizer loaded, scan, hash, split, tokenise, write,
open again) on JSON lines of the same text, ten times over, on one thread.
"""

from __future__ import annotations

import os

os.environ["RAYON_NUM_THREADS"] = "1"  # one core for `tokenizers`, before it is imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as HFTokenizer

from epochal.data import Tokenizer, load_tokenizer, prepare
from epochal.data.builtin import builtin_documents, interpreter
from epochal.data.fast_bpe import Ids, encode_slowly
from epochal.progress import hidden

_COPIES = 10  # of the corpus, for `prepare`


def seconds(work: Callable[[], object]) -> float:
    """Wall time of `work`."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def slow_tokenizer(folder: Path) -> HFTokenizer:
    """The same vocabulary in the library `tokenizers`, as our encoder falls back to it."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "tokenizer.json"
        load_tokenizer(folder).save(path)
        slow = HFTokenizer.from_file(str(path))
    slow.encode_special_tokens = True
    return slow


def compare(
    tokenizer: Tokenizer, slow: HFTokenizer, texts: tuple[str, ...], rounds: int
) -> tuple[list[float], list[float]]:
    """Seconds per round, of tiktoken and of tokenizers, in turn. Stops if an id differs."""
    fast_times, slow_times = [], []
    for number in range(rounds + 1):
        found: dict[str, list[Ids]] = {}

        def through_tiktoken(found: dict[str, list[Ids]] = found) -> None:
            found["fast"] = [tokenizer.encode(text) for text in texts]

        def through_tokenizers(found: dict[str, list[Ids]] = found) -> None:
            found["slow"] = [encode_slowly(slow, text) for text in texts]

        fast, other = seconds(through_tiktoken), seconds(through_tokenizers)
        if not all(map(np.array_equal, found["fast"], found["slow"])):
            raise SystemExit("the two ways gave different ids")
        if number:  # the first round warms caches and holds the encoder's own comparison
            fast_times.append(fast)
            slow_times.append(other)
    return fast_times, slow_times


def time_prepare(folder: Path, texts: tuple[str, ...], rounds: int) -> tuple[float, list[float]]:
    """(MB of text, seconds per round) of a whole `prepare` on one thread."""
    copies = [f"Copy {copy}.\n{text}" for copy in range(_COPIES) for text in texts]
    with tempfile.TemporaryDirectory() as scratch, hidden():
        source = Path(scratch) / "text.jsonl"
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in copies))

        def once() -> None:
            prepare(source, Path(scratch) / "corpus", tokenizer=folder, workers=1, overwrite=True)

        times = [seconds(once) for _ in range(rounds)]
    return sum(len(text.encode()) for text in copies) / 1e6, times


def row(name: str, megabytes: float, times: list[float]) -> str:
    """One line of the table: MB/s of the median round, the slowest and the fastest."""
    rates = sorted(megabytes / one for one in times)
    return f"{name:<22}{statistics.median(rates):8.2f}{rates[0]:10.2f}{rates[-1]:10.2f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder with vocab.json and merges.txt")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    texts = builtin_documents()
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    begin = time.perf_counter()
    tokenizer = load_tokenizer(arguments.folder)
    loading = time.perf_counter() - begin
    if tokenizer.why_slow is not None:
        raise SystemExit(f"this tokenizer does not go through tiktoken: {tokenizer.why_slow}")
    fast, slow = compare(tokenizer, slow_tokenizer(arguments.folder), texts, arguments.rounds)
    ratios = sorted(one / other for other, one in zip(fast, slow, strict=True))
    whole_megabytes, whole = time_prepare(arguments.folder, texts, max(1, arguments.rounds // 3))
    print(f"{len(texts)} documents, {megabytes:.2f} MB, {interpreter()}, {arguments.rounds} rounds")
    print(f"loading the tokenizer, proof of equal ids included: {loading:.2f} s")
    print(f"{'one core, MB/s':<22}{'median':>8}{'slowest':>10}{'fastest':>10}")
    print(row("tiktoken (ours)", megabytes, fast))
    print(row("tokenizers", megabytes, slow))
    print(row("prepare, whole", whole_megabytes, whole))
    print(
        f"tiktoken / tokenizers: {statistics.median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f}), ids equal in every round"
    )


if __name__ == "__main__":
    main()
