"""Speed of a whole `prepare` on one thread: scan, hash, split, tokenise, write, open again.

    python benchmarks/prepare_speed.py FOLDER [--rounds 5]

FOLDER holds GPT-2's vocab.json and merges.txt. The text is the built-in corpus, ten times over,
as JSON lines. `epochal bench tokenizer` times the tokenizer alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from epochal.bench.timing import take_turns
from epochal.data import prepare
from epochal.data.builtin import builtin_documents, interpreter
from epochal.progress import hidden

_COPIES = 10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, help="folder with vocab.json and merges.txt")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    texts = builtin_documents()
    copies = [f"Copy {copy}.\n{text}" for copy in range(_COPIES) for text in texts]
    megabytes = sum(len(text.encode()) for text in copies) / 1e6
    with tempfile.TemporaryDirectory() as scratch, hidden():
        source = Path(scratch) / "text.jsonl"
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in copies))

        def once() -> None:
            out = Path(scratch) / "corpus"
            prepare(source, out, tokenizer=arguments.folder, workers=1, overwrite=True)

        [times] = take_turns("prepare", {"prepare": once}, arguments.rounds).values()
    rates = sorted(megabytes / one for one in times)
    print(f"{len(copies)} documents, {megabytes:.1f} MB, {interpreter()}")
    print(f"MB/s: {statistics.median(rates):.2f} ({rates[0]:.2f} to {rates[-1]:.2f})")


if __name__ == "__main__":
    main()
