"""From a text to trained models of all families, their comparison and a report, in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from epochal.comparison import Comparison
from epochal.data.corpus import Corpus, shuffle_seed_for
from epochal.data.options import DocumentRule, PrepareOptions
from epochal.data.prepare import prepare
from epochal.families import default_families
from epochal.progress import say
from epochal.recipe import load_recipe
from epochal.report import write_report
from epochal.report.evidence import shipped_evidence
from epochal.report.text import describe
from epochal.studies.compare import compare
from epochal.studies.options import CompareOptions

_RECIPE = "quickstart"
_TOKENIZER = "bpe:512"
"""Small, so that most of a small model's weights are not its embedding."""


@dataclass(frozen=True, slots=True)
class Quickstart:
    """Result of a quickstart."""

    comparison: Comparison
    report: Path
    """The page about it."""


def quickstart(
    text: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    out: str | Path = "quickstart",
) -> Quickstart:
    """Prepare `text`, train all families on it, evaluate, compare and report.

    `text` is a file (plain text is cut into documents at blank lines) or a folder (one document
    per file); by default the documentation that comes with Python. The recipe is the shipped
    "quickstart", changed by `overrides`. Corpus, runs and page go to `out`; what already exists
    there is not made again. The page also shows the project's tuned runs, and where these stand.
    Raises what `prepare`, `compare` and `write_report` raise.
    """
    folder = Path(out)
    corpus = folder / "corpus"
    changes = [f'data.corpus="{corpus.as_posix()}"', *overrides]
    # Read before any work, so that a mistake in an override is reported at once.
    wanted = load_recipe(_RECIPE, changes, default_families()).data.unique_tokens
    made = prepare_text(text, corpus, _TOKENIZER)
    there = made.train.unique_tokens
    if wanted is not None and wanted > there:
        say(f"the text has {there:,} unique tokens, the recipe wants {wanted:,}: all are used")
        changes.append("data.unique_tokens=none")
    comparison = compare(_RECIPE, changes, CompareOptions(out=folder))
    own = [run.run for run in comparison.runs]
    report = write_report(own, folder / "report.html", evidence=shipped_evidence()).path
    return Quickstart(comparison, report)


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
