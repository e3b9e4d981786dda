"""The main job in one call: a text, both families, the verdict and the page about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epochal.comparison import Comparison
from epochal.data.corpus import shuffle_seed_for
from epochal.data.options import DocumentRule, PrepareOptions
from epochal.data.prepare import prepare
from epochal.progress import say
from epochal.recipe import load_recipe
from epochal.report import write_report
from epochal.report.text import describe
from epochal.studies.compare import compare

RECIPE = "quickstart"
TOKENIZER = "bpe:512"
"""Small, so that most of a small model's weights are not its embedding."""


@dataclass(frozen=True, slots=True)
class Quickstart:
    """What came out."""

    comparison: Comparison
    page: Path
    """The report."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"report": str(self.page), **self.comparison.as_dict()}


def quickstart(
    text: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    out: str | Path = "quickstart",
) -> Quickstart:
    """Prepare `text`, train both families on it, evaluate, compare and report.

    `text` is a file (plain text is cut into documents at blank lines) or a folder (a document
    a file), the documentation that comes with Python if not given; the
    recipe is the shipped one named "quickstart", changed by `overrides`. Corpus, runs and page
    go to `out`, and what is there already is not made again. Raises what `prepare`, `compare`
    and `write_report` raise.
    """
    folder = Path(out)
    corpus = folder / "corpus"
    changes = [f'data.corpus="{corpus.as_posix()}"', *overrides]
    # Read before any work, so that a mistake in an override is told at once.
    wanted = load_recipe(RECIPE, changes).data.unique_tokens
    # A single file is cut at blank lines, or there would be nothing to hold out.
    rule: DocumentRule = "blank-line" if text and Path(text).is_file() else "file"
    # Only a part of the text may be trained on, so that part should be a fair sample of it.
    shuffle = shuffle_seed_for(corpus, text)
    options = PrepareOptions(tokenizer=TOKENIZER, documents=rule, shuffle=shuffle)
    made = prepare(text or "builtin", corpus, options)
    for note in made.notes:
        say(describe(note))
    there = made.train.unique_tokens
    if wanted is not None and wanted > there:
        say(f"the text has {there:,} unique tokens, the recipe wants {wanted:,}: all are used")
        changes.append("data.unique_tokens=none")
    comparison = compare(RECIPE, changes, out=folder)
    page = write_report([folder / "ar", folder / "mdm"], folder / "report.html").path
    return Quickstart(comparison, page)
