"""The corpus that a recipe names, opened and checked: two stores and their tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from epochal.data.store import TokenStore, suffixed
from epochal.data.encoder import Tokenizer
from epochal.data.tokenizer import load_tokenizer
from epochal.errors import DataError
from epochal.recipe.schema import Data

TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class Corpus:
    """What a run learns from and is judged on."""

    train: TokenStore
    """Cut to the recipe's unique tokens."""
    validation: TokenStore
    tokenizer: Tokenizer

    @property
    def bytes_per_token(self) -> float | None:
        """UTF-8 bytes per token of the validation set, or None if the passport does not say."""
        passport = self.validation.passport
        if passport is None or not passport.text_bytes:
            return None
        return passport.text_bytes / self.validation.unique_tokens


def open_corpus(settings: Data) -> Corpus:
    """Open what `[data]` names.

    Raises DataError for stores or a tokenizer that are missing, damaged or do not fit.
    """
    folder = Path(settings.corpus)
    train_prefix = Path(settings.train) if settings.train else folder / "train"
    validation_prefix = Path(settings.validation) if settings.validation else folder / "validation"
    if not settings.train and not suffixed(train_prefix, ".idx").exists():
        raise DataError(
            f"there is no corpus in `data.corpus` = {folder}; make one with `epochal data prepare "
            f"YOUR_TEXT --out {folder}`, or set `data.train` and `data.validation` to stores that "
            "you have"
        )
    train = TokenStore.open(train_prefix)
    validation = TokenStore.open(validation_prefix)
    tokenizer = _tokenizer(settings, train_prefix)
    for store in (train, validation):
        _check_fit(store, tokenizer)
    if settings.unique_tokens is not None:
        train = train.first(settings.unique_tokens)
    return Corpus(train, validation, tokenizer)


def _tokenizer(settings: Data, train_prefix: Path) -> Tokenizer:
    if settings.tokenizer is not None:
        return load_tokenizer(settings.tokenizer)
    beside = train_prefix.parent / TOKENIZER_FILE
    if beside.exists():
        return load_tokenizer(str(beside))
    raise DataError(
        f"there is no {TOKENIZER_FILE} beside the store {train_prefix}; name the tokenizer that "
        'made it with `data.tokenizer`, for example data.tokenizer="gpt2"'
    )


def _check_fit(store: TokenStore, tokenizer: Tokenizer) -> None:
    """Raise DataError unless the store's ids are this tokenizer's."""
    facts = store.passport.tokenizer if store.passport is not None else None
    if facts is not None and facts.sha256 != tokenizer.sha256:
        raise DataError(
            f"the store {store.prefix} was made with the tokenizer {facts.name} "
            f"({facts.vocabulary:,} tokens), not with {tokenizer.name} "
            f"({tokenizer.vocabulary:,} tokens); set `data.tokenizer` to the right one or prepare "
            "the text again"
        )
    if facts is None and (largest := int(store.tokens.max())) >= tokenizer.vocabulary:
        raise DataError(
            f"the store {store.prefix} holds the id {largest:,}, but the tokenizer "
            f"{tokenizer.name} has only {tokenizer.vocabulary:,} tokens; set `data.tokenizer` to "
            "the one that made the store"
        )
