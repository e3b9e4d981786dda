"""How good and how varied generated texts are, as figures.

Texts are lists of token ids. n-grams are runs of n ids within one text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

REPETITION_N = 4
"""Length of the runs whose repetition is counted, chosen by us."""

Text = Sequence[int]


def distinct(texts: Sequence[Text], n: int) -> float:
    """Different n-grams of all texts together, as a share of all their n-grams.

    Li et al., arXiv 1510.03055 §5. It falls with the amount of text, so compare equal amounts.
    0 if no text has n tokens.
    """
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(texts: Sequence[Text], n: int = REPETITION_N) -> float:
    """Share of n-grams that occurred before in the same text, over all texts.

    0 if nothing is said twice (Welleck et al., arXiv 1908.04319 §6, "seq-rep-n").
    """
    total = repeated = 0
    for text in texts:
        grams = list(_grams(text, n))
        total += len(grams)
        repeated += len(grams) - len(set(grams))
    return repeated / total if total else 0.0


def _grams(text: Text, n: int) -> Iterator[tuple[int, ...]]:
    return (tuple(text[i : i + n]) for i in range(len(text) - n + 1))
