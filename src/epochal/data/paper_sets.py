"""The paper's training sets by name: documents and tokens of each, and what it was used for.

`c4:100M` is the first K documents of C4's training set, K = budget / tokens per document. The
data-value sets are named by tokens and epochs: `c4:7B6_100ep` is a hundredth of `c4:7B6`, the
tokens that 1e19 FLOPs give the 217M model. Token counts are those of the original's files, with
GPT-2's tokenizer and an end mark per document.

Source: `utils/epoch_tokens.sh`, FULL_README.md and TRAIN.md of arXiv 2507.15857's code (d31c167).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from epochal.data.options import SubsetOptions
from epochal.data.store import TokenStore
from epochal.data.subset import paper_documents, subset
from epochal.errors import DataError, nearest
from epochal.sizes import GPT2_VOCABULARY, architecture

TOKENS_PER_DOCUMENT = {"c4": 478.625835, "slimpajama": 1058.057342}
"""Means with GPT-2's tokenizer, from huggingface/datablations."""

# name: tokens of the original's files for each number of epochs.
_BUDGETS = {
    "c4": {
        "25M": 24_743_247,
        "50M": 49_874_872,
        "100M": 99_952_399,
        "200M": 199_836_911,
        "500M": 499_791_318,
    },
    "slimpajama": {"100M": 100_555_177, "1B": 999_536_648, "1B5": 1_463_840_091},
}
_EPOCHS = (1, 2, 4, 10, 20, 50, 100)
# name: (FLOPs, model, tokens at each of _EPOCHS; 0 where there is no such set).
_DATA_VALUE: dict[str, tuple[float, str, tuple[int, ...]]] = {
    "7B6": (
        1e19,
        "217M",
        (7659172026, 3828933780, 1912366531, 765785518, 382715500, 153236635, 76353846),
    ),
    "12B": (
        3e19,
        "425M",
        (11989951744, 5994199162, 2996211869, 1197248201, 599002480, 239303648, 119915151),
    ),
    "13B5": (
        1e19,
        "117M",
        (13483058828, 6740277937, 3369504102, 1346088411, 673890685, 269182389, 134797413),
    ),
    "23B": (
        3e19,
        "217M",
        (22988018799, 11490703400, 5744951068, 2296463795, 1147274152, 459770397, 229473764),
    ),
    "23B8": (
        1e20,
        "724M",
        (23799431827, 11896289461, 5948135698, 2377968564, 1188094510, 0, 237404226),
    ),
    "40B": (
        1e20,
        "425M",
        (39984781511, 19993255532, 9992112872, 3995476798, 1995252321, 0, 399354803),
    ),
}


@dataclass(frozen=True, slots=True)
class PaperSet:
    """One of the paper's training sets."""

    name: str
    """Like c4:100M."""
    source: str
    """c4 or slimpajama."""
    budget: int
    """Tokens that it was cut for."""
    documents: int
    """K: the first K documents of the source, by the paper's rule, which its own files follow
    where it prints K (100M of C4 and of SlimPajama)."""
    tokens: int
    """Tokens that the original counted in it."""
    size: str | None = None
    """Model of the data-value experiments; None for sets that were used for many epochs."""
    flops: float | None = None
    """Training FLOPs of the data-value experiments."""
    epochs: int | None = None
    """Epochs of the data-value experiments."""


def _all() -> Iterator[PaperSet]:
    for source, sets in _BUDGETS.items():
        for name, tokens in sets.items():
            unit = 10**9 if "B" in name else 10**6
            budget = int(Fraction(name.replace("1B5", "1.5B").rstrip("MB")) * unit)
            documents = _documents(source, budget)
            yield PaperSet(f"{source}:{name}", source, budget, documents, tokens)
    for name, (flops, size, counts) in _DATA_VALUE.items():
        for epochs, tokens in zip(_EPOCHS, counts, strict=True):
            if tokens:
                per_token = architecture(size).flops_per_token(GPT2_VOCABULARY)
                budget = int(flops / per_token / epochs)
                full_name = f"c4:{name}" + ("" if epochs == 1 else f"_{epochs}ep")
                documents = _documents("c4", budget)
                yield PaperSet(full_name, "c4", budget, documents, tokens, size, flops, epochs)


def _documents(source: str, budget: int) -> int:
    return paper_documents(budget, Fraction(TOKENS_PER_DOCUMENT[source]))


PAPER_SETS: dict[str, PaperSet] = {each.name: each for each in _all()}


def paper_set(name: str) -> PaperSet:
    """The set `name`, in any case. Raises DataError with the nearest name."""
    by_lower_case = {key.lower(): each for key, each in PAPER_SETS.items()}
    if name.lower() in by_lower_case:
        return by_lower_case[name.lower()]
    hint = nearest(name, PAPER_SETS) or " `epochal data names` lists all."
    raise DataError(f"there is no data set {name!r} of the paper.{hint}")


def paper_subset(
    source: str | Path, out: str | Path, name: str, *, overwrite: bool = False
) -> TokenStore:
    """The paper's set `name` cut from a store or corpus of its source, as the paper cuts it.

    The first K documents, so the source must begin as C4's or SlimPajama's training set does;
    with GPT-2's tokenizer the result has the tokens that the set lists. Raises DataError.
    """
    wanted = paper_set(name)
    mean = TOKENS_PER_DOCUMENT[wanted.source]
    options = SubsetOptions(like_paper=True, tokens_per_document=mean, overwrite=overwrite)
    return subset(source, out, wanted.budget, options)
