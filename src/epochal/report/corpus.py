"""The page about a corpus: what it holds, what is repeated, what leaks, how its tokenizer fits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from epochal import files
from epochal.data.options import DuplicateOptions
from epochal.data.portrait import Portrait, portray
from epochal.errors import DataError
from epochal.report.content import frame
from epochal.report.drawing import Cell, Palette, Plot, log_axis, shown, tip
from epochal.report.page import environment
from epochal.report.text import data as text
from epochal.report.text.format import for_page
from epochal.units import format_count

_MOST_RANKS = 400


@dataclass(frozen=True, slots=True)
class CorpusPage:
    """A page about a corpus that was written."""

    path: Path
    """The page."""
    unique_tokens: int
    effective: float
    """U_effective."""


def write_corpus_report(
    folder: str | Path,
    out: str | Path = "corpus.html",
    options: DuplicateOptions | None = None,
    *,
    samples: int = 5,
) -> CorpusPage:
    """Write the page about the corpus `folder`, which loads nothing from elsewhere.

    What is repeated is measured, if it has not been. Raises DataError if there is no corpus,
    StorageError if `out` cannot be written.
    """
    target = Path(out)
    if target.is_dir():
        raise DataError(f"{target} is a folder; name the page to write, as {target}/corpus.html")
    portrait = portray(folder, options, samples=samples)
    with for_page():
        content = _content(portrait, Path(folder).resolve().name)
        page = environment().get_template("corpus.html.j2").render(content)
        files.write_text(target, page)
    left = portrait.duplicates.effective
    return CorpusPage(target, left.unique_tokens, left.estimate)


def _content(portrait: Portrait, name: str) -> dict[str, Any]:
    found, train = portrait.duplicates, portrait.train
    plots = (_lengths(portrait), _parts(portrait), _frequencies(portrait))
    return {
        "title": name,
        **frame(),
        "effective": text.effective(found),
        "stores": [
            [
                role,
                f"{one.unique_tokens:,}",
                f"{one.documents:,}",
                f"{one.shortest:,} – {one.longest:,}",
                f"{one.median:,.0f}",
                "" if one.bytes_per_token is None else f"{one.bytes_per_token:.3f}",
            ]
            for role, one in (("training", train), ("validation", portrait.validation))
            if one is not None
        ],
        "repeated": text.duplicates(found),
        "passages": [
            [f"{p.documents:,}", f"{p.times:,}", p.text or ""] for p in found.most_repeated
        ],
        "passage": found.options.passage,
        "scripts": [[s.name, f"{s.characters:,}", f"{s.share:.2%}"] for s in portrait.scripts],
        "characters": format_count(portrait.characters),
        "odd": [
            (
                text.ODD[odd.why],
                f"document {odd.document:,}, {odd.tokens:,} tokens, "
                f"{odd.surprise:.2f} nats per token",
                odd.text,
            )
            for odd in portrait.odd
        ],
        "fit": text.tokenizer_fit(portrait.fit),
        "samples": [
            (f"document {s.document:,}, {s.tokens:,} tokens", s.text or "") for s in train.samples
        ],
        "facts": text.description(train),
        "plots": [shown(plot) for plot in plots],
    }


def _lengths(portrait: Portrait) -> Plot:
    """Documents and tokens by length."""
    bins = portrait.train.lengths
    documents = sum(one.documents for one in bins)
    tokens = max(1, sum(one.tokens for one in bins))
    rows = [[b.shortest, b.longest, b.documents, b.tokens] for b in bins]

    def paint(axes: Axes, palette: Palette) -> None:
        for shift, color, label, shares in (
            (-0.2, palette.muted, "documents", [b.documents / documents for b in bins]),
            (0.2, palette.ink, "tokens", [b.tokens / tokens for b in bins]),
        ):
            bars = axes.bar(
                np.arange(len(bins)) + shift, shares, width=0.38, color=color, label=label
            )
            for bar, one, share in zip(bars, bins, shares, strict=True):
                tip(bar, "", f"{share:.1%} of the {label}: {one.shortest:,} to {one.longest:,}")
        every = -(-len(bins) // 7)
        axes.set_xticks(range(0, len(bins), every), [f"{b.shortest:,}" for b in bins[::every]])

    return Plot(
        name="lengths",
        label="Shares of documents and of tokens by the length of the documents",
        title="share of",
        x_title="tokens per document, from",
        paint=paint,
        header=["from", "to", "documents", "tokens"],
        rows=rows,
    )


def _parts(portrait: Portrait) -> Plot:
    """What is repeated."""
    found = portrait.duplicates
    parts = [
        ("equal\ndocuments", found.exact),
        ("near\ndocuments", found.near),
        ("passages", found.passages),
        *([("lines", found.lines)] if found.lines else []),
    ]
    rows: list[list[Cell]] = [
        [n.replace("\n", " "), a.tokens, a.share, a.standard_error] for n, a in parts
    ]

    def paint(axes: Axes, palette: Palette) -> None:
        shares = [100 * amount.share for _, amount in parts]
        bars = axes.bar(
            range(len(parts)), shares, width=0.6, color=palette.ink, label="unique tokens, %"
        )
        for bar, (name, amount) in zip(bars, parts, strict=True):
            what = name.replace("\n", " ")
            tip(bar, "", f"{what}: {amount.tokens:,.0f} tokens, {amount.share:.2%}")
        axes.set_xticks(range(len(parts)), [name for name, _ in parts])
        axes.set_ylim(0, 1.1 * max(*shares, 0.1))

    return Plot(
        name="parts",
        label="Shares of the unique tokens that are repeated",
        title="repeated share of the",
        x_title="each token once, from left to right",
        paint=paint,
        header=["part", "tokens", "share", "standard error in tokens"],
        rows=rows,
    )


def _frequencies(portrait: Portrait) -> Plot:
    """How often each token occurs, by rank."""
    counts = portrait.fit.frequencies
    ranks = np.unique(np.geomspace(1, len(counts), _MOST_RANKS).astype(int))
    rows = [[int(rank), counts[rank - 1]] for rank in ranks]

    def paint(axes: Axes, palette: Palette) -> None:
        [line] = axes.plot(*zip(*rows, strict=True), color=palette.ink, label="of a token")
        tip(line, "", "each token of the vocabulary that occurs")
        log_axis(axes, "x", 1, max(2, len(counts)), format_count)
        log_axis(axes, "y", 1, max(2, counts[0]), format_count)

    return Plot(
        name="frequencies",
        label="How often each token occurs, from the most frequent one on",
        title="occurrences",
        x_title="rank",
        paint=paint,
        header=["rank", "occurrences"],
        rows=rows,
    )
