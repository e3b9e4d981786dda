"""Compare vocabularies on a small text, and recommend one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from epochal.data.fidelity import Fidelity
from epochal.data.inputs import TextInputs
from epochal.data.options import PrepareOptions, TokenizersOptions
from epochal.data.parallel import Workers
from epochal.data.split import scan
from epochal.data.tokenizer import Tokenizer
from epochal.data.tokenizer_sources import (
    cached_gpt2,
    character_tokenizer,
    load_tokenizer,
    train_bpe,
)
from epochal.progress import bar
from epochal.runs.find import find_runs
from epochal.runs.record import RunRecord

_SIZES = (512, 1024, 2048, 4096, 8192, 16384)
RARE = 10
"""A token seen less often is rare. Over ten epochs it gives fewer than a hundred examples."""
LARGEST_RARE_SHARE = 0.05
"""Of a vocabulary that is recommended. With `RARE`: at least 95 % of the tokens give a hundred
examples, by which Gowda and May (arXiv 2004.02334) choose vocabularies."""
LARGEST_TABLE_SHARE = 0.5
"""Of the parameters of a model with a vocabulary that is recommended. Chosen by us."""
_BYTES_PER_PARAM = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """A tokenizer on the text."""

    name: str
    """What `data prepare --tokenizer` takes."""
    size: int
    """V, tokens without the mask."""
    tokens: int
    """Of the whole text, end-of-document tokens included."""
    bytes_per_token: float
    table_share: float
    """Of the model's parameters: V·d / (V·d + the others)."""
    rare: int
    """Tokens of the vocabulary that the text has fewer than 10 times; the bytes that a BPE needs
    for any text and special tokens are not counted."""
    fits: bool
    """Whether both shares are small enough: at most 5 % rare, half of the parameters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredVocabulary:
    """What the runs of one family with one tokenizer reached."""

    tokenizer: str
    family: str
    runs: int
    bits_per_byte: float
    """Lowest validation NLL of any of them, per byte of the validation text: as evaluated, else the
    lowest in training. A bound where the family's NLL is one."""
    best: str
    """Folder of that run."""
    validation_bytes: int
    """Of its validation text; figures of different texts cannot be compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VocabularyComparison:
    """Vocabularies on one text for one size of model."""

    text_bytes: int
    documents: int
    params: int
    """Non-embedding parameters of the model."""
    d_model: int
    """Width of its table: that of the ladder's shapes, 12·l·d² with l = d / 64."""
    vocabularies: tuple[Vocabulary, ...]
    recommended: str
    """The one with the fewest tokens among those that fit; if none does, the smallest table."""
    measured: tuple[MeasuredVocabulary, ...] = ()
    """Of the runs that were given, by rising bits per byte within a family."""


def compare_tokenizers(
    inputs: str | Path | Sequence[str | Path], options: TokenizersOptions | None = None
) -> VocabularyComparison:
    """Bytes, characters, BPEs trained on the text, GPT-2's if it is here, and the given ones.

    The text is read for each of them. BPE sizes end where the text gives no more tokens. Raises
    DataError for whatever is wrong with the inputs or a tokenizer.
    """
    options = options or TokenizersOptions()
    reading = PrepareOptions(text_field=options.text_field, encoding=options.encoding)
    texts = TextInputs.find([inputs] if isinstance(inputs, str | Path) else inputs, reading)
    lengths = scan(texts).lengths
    text_bytes, documents = int(lengths.sum()), len(lengths)
    params = int(options.params or max(1, text_bytes // _BYTES_PER_PARAM))
    d_model = max(1, round((params * 64 / 12) ** (1 / 3)))
    found = []
    for tokenizer in _tokenizers(texts, options.tokenizer):
        counts = _counts(texts, tokenizer)
        table = tokenizer.vocabulary * d_model
        rare = sum(counts[number] < RARE for number in _chosen_tokens(tokenizer))
        few = rare <= LARGEST_RARE_SHARE * tokenizer.vocabulary
        found.append(
            Vocabulary(
                name=tokenizer.name,
                size=tokenizer.vocabulary,
                tokens=int(counts.sum()),
                bytes_per_token=text_bytes / int(counts.sum()),
                table_share=table / (table + params),
                rare=int(rare),
                fits=bool(few and table <= LARGEST_TABLE_SHARE * (table + params)),
            )
        )
    fitting = [each for each in found if each.fits]
    best = min(fitting, key=lambda each: each.tokens) if fitting else None
    best = best or min(found, key=lambda each: each.size)
    return VocabularyComparison(
        text_bytes=text_bytes,
        documents=documents,
        params=params,
        d_model=d_model,
        vocabularies=tuple(found),
        recommended=best.name,
        measured=_measured(options.runs),
    )


def _measured(places: Sequence[str | Path]) -> tuple[MeasuredVocabulary, ...]:
    """The best run of each tokenizer and family. Raises RunError for a place without runs."""
    groups: dict[tuple[str, str, str], list[tuple[float, str, int]]] = {}
    for path in find_runs(places) if places else ():
        record = RunRecord(path)
        metadata = record.info.get("corpus", {}).get("validation", {}).get("metadata") or {}
        nll, tokenizer = record.best_nll, metadata.get("tokenizer")
        text_bytes, tokens = metadata.get("text_bytes"), metadata.get("unique_tokens")
        if nll is None or not (tokenizer and text_bytes and tokens):
            continue
        evaluated = record.evaluation("best")
        bits = evaluated.bits_per_byte if evaluated else None
        bits = bits or nll / math.log(2) * tokens / text_bytes
        key = (record.family, tokenizer["sha256"], tokenizer["name"])
        groups.setdefault(key, []).append((bits, str(path), text_bytes))
    best = [(family, *min(of), name, len(of)) for (family, _, name), of in groups.items()]
    return tuple(
        MeasuredVocabulary(
            tokenizer=name,
            family=family,
            runs=count,
            bits_per_byte=bits,
            best=path,
            validation_bytes=text_bytes,
        )
        for family, bits, path, text_bytes, name, count in sorted(best)
    )


def _tokenizers(texts: TextInputs, given: Sequence[str | Path]) -> Iterator[Tokenizer]:
    yield load_tokenizer("bytes")
    yield character_tokenizer(_texts(texts))
    for size in _SIZES:
        trained = train_bpe(_texts(texts), size)
        if trained.vocabulary < size:
            break
        yield trained
    if (gpt2 := cached_gpt2()) is not None:
        yield gpt2
    yield from map(load_tokenizer, given)


def _texts(texts: TextInputs) -> Iterator[str]:
    return (str(document) for document, _ in texts.documents() if len(document))


def _counts(texts: TextInputs, tokenizer: Tokenizer) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """[vocabulary] how often the text has each token."""
    counts = np.zeros(tokenizer.vocabulary, dtype=np.int64)
    fidelity, documents = Fidelity(tokenizer, allow_lossy=False), 0
    with bar(f"Counting {tokenizer.name}", None) as progress:
        for shard, _ in fidelity.encode(_texts(texts), Workers(fidelity.work, 1)):
            counts += np.bincount(shard.ids, minlength=len(counts))
            progress.update(documents := documents + len(shard.sizes), "documents")
    return counts


def _chosen_tokens(tokenizer: Tokenizer) -> Iterator[int]:
    """Tokens that are there for this text: no single bytes, no special tokens."""
    lengths = tokenizer.token_byte_lengths
    least = 1 if tokenizer.kind in ("characters", "unknown") else 2
    for number in range(tokenizer.vocabulary):
        if lengths is None or lengths[number] >= least:
            yield number
