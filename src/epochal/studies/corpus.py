"""The corpus of a user's text, as quickstart and study make it."""

from __future__ import annotations

from pathlib import Path

from epochal.data.corpus import Corpus, shuffle_seed_for
from epochal.data.options import DocumentRule, PrepareOptions
from epochal.data.prepare import prepare
from epochal.progress import say
from epochal.report.text import describe


def prepare_text(
    text: str | Path | None, folder: Path, tokenizer: str, validation: float | None = None
) -> Corpus:
    """Prepare a file, a folder or, without `text`, the built-in text; its notes are said."""
    # A single file is cut at blank lines, or there would be nothing to hold out.
    rule: DocumentRule = "blank-line" if text and Path(text).is_file() else "file"
    corpus = prepare(
        text or "builtin",
        folder,
        PrepareOptions(
            tokenizer=tokenizer,
            validation=validation,
            documents=rule,
            # Only a part of the text may be trained on, so that part should be a fair sample.
            shuffle=shuffle_seed_for(folder, text),
        ),
    )
    for note in corpus.notes:
        say(describe(note))
    return corpus
