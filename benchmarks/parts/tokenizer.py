"""BPE through tiktoken against the library `tokenizers`, on one core, with equal ids."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as HFTokenizer

from epochal import progress
from epochal.data.builtin import builtin_documents
from epochal.data.fast_bpe import encode_slowly
from epochal.data.tokenizer import Tokenizer
from epochal.data.tokenizer_sources import load_tokenizer, train_bpe
from epochal.errors import UserError
from epochal.report.text import describe
from parts.options import Options
from parts.timing import Row, ratio_row, take_turns, time_rows


def chosen_tokenizer(options: Options) -> Tokenizer:
    """The tokenizer that was asked for, or a BPE of 8,192 tokens of the built-in text."""
    if options.tokenizer is not None:
        return load_tokenizer(options.tokenizer)
    progress.say("training a BPE of 8,192 tokens on the built-in text")
    return train_bpe(builtin_documents(), 8192)


def measure(options: Options) -> list[Row]:
    """MB of text per second, and the ratio."""
    texts = builtin_documents()
    tokenizer = chosen_tokenizer(options)
    if tokenizer.why_slow is not None:
        raise UserError(f"this tokenizer has no fast path here: {describe(tokenizer.why_slow)}")
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "tokenizer.json"
        tokenizer.save(path)
        slow = HFTokenizer.from_file(str(path))
    slow.encode_special_tokens = True
    if not all(np.array_equal(tokenizer.encode(t), encode_slowly(slow, t)) for t in texts):
        raise UserError("the two ways gave different ids; please report this tokenizer")
    variants = {
        "tiktoken (ours)": lambda: [tokenizer.encode(text) for text in texts],
        "tokenizers": lambda: [encode_slowly(slow, text) for text in texts],
    }
    times = take_turns("tokenizer", variants, options.rounds)
    size = sum(len(text.encode()) for text in texts) / 1e6
    rates = {name: [size / one for one in each] for name, each in times.items()}
    rows = time_rows("tokenizer", rates, "MB/s")
    return [*rows, ratio_row("tokenizer", times, "tokenizers", "tiktoken (ours)")]
