"""A whole `prepare` on one thread: scan, hash, split, tokenise, write, open again."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from epochal import PrepareOptions, prepare
from epochal.data.builtin import builtin_documents
from epochal.progress import hidden
from parts.options import Options
from parts.timing import Row, take_turns, time_rows
from parts.tokenizer import chosen_tokenizer

_COPIES = 10


def measure(options: Options) -> list[Row]:
    """MB/s for the built-in text, ten times over, as JSON lines."""
    texts = [f"Copy {copy}.\n{text}" for copy in range(_COPIES) for text in builtin_documents()]
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    with tempfile.TemporaryDirectory() as scratch:
        source, tokenizer = Path(scratch) / "text.jsonl", Path(scratch) / "tokenizer.json"
        source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        chosen_tokenizer(options).save(tokenizer)
        choices = PrepareOptions(tokenizer=tokenizer, workers=1, overwrite=True)

        def work() -> None:
            out = Path(scratch) / "corpus"
            with hidden():
                prepare(source, out, choices)

        times = take_turns("prepare", {"data prepare": work}, options.rounds)
    rates = {name: [megabytes / one for one in each] for name, each in times.items()}
    note = f"{len(texts):,} documents, {megabytes:.0f} MB"
    return time_rows("prepare", rates, "MB/s", note=note)
