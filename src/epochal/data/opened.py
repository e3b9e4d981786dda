"""The corpus that a recipe names, opened and checked: two stores and their tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from epochal.data.blend import Blend, open_train
from epochal.data.encoder import Tokenizer
from epochal.data.folder import TOKENIZER, TRAIN, VALIDATION, check_tokenizer
from epochal.data.store import TokenStore, suffixed
from epochal.data.tokenizer import load_tokenizer
from epochal.errors import DataError
from epochal.recipe.schema import Data


@dataclass(frozen=True, slots=True)
class Corpus:
    """What a run learns from and is judged on."""

    train: TokenStore | Blend
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

    def identity(self) -> dict[str, str]:
        """The corpus' part of a run's identity: the hash of each store's tokens."""
        stores = {"train": self.train, "validation": self.validation}
        return {f"corpus.{role}": store.content_sha256() for role, store in stores.items()}


def open_corpus(settings: Data) -> Corpus:
    """Open what `[data]` names.

    Raises DataError for stores or a tokenizer that are missing, damaged or do not fit.
    """
    folder = Path(settings.corpus)
    train_prefix = Path(settings.train) if settings.train else folder / TRAIN
    if not settings.train and not suffixed(train_prefix, ".idx").exists():
        raise DataError(
            f"there is no corpus in `data.corpus` = {folder}; make one with `epochal data prepare "
            f"YOUR_TEXT --out {folder}`, or set `data.train` and `data.validation` to stores that "
            "you have"
        )
    train = open_train(train_prefix)
    validation = _open_validation(settings, folder)
    if settings.unique_tokens is not None and isinstance(train, TokenStore):
        train = train.first(settings.unique_tokens)
    stores = train.stores if isinstance(train, Blend) else (train,)
    tokenizer = _tokenizer(settings, stores[0].prefix)
    for store in (*stores, validation):
        check_tokenizer(store, tokenizer)
    return Corpus(train, validation, tokenizer)


def _open_validation(settings: Data, folder: Path) -> TokenStore:
    if settings.validation:
        found = open_train(settings.validation)
        if isinstance(found, Blend):
            raise DataError(
                f"`data.validation` = {settings.validation} mixes {len(found.stores)} stores; "
                "give one, without weights"
            )
        return found
    if not suffixed(folder / VALIDATION, ".idx").exists():
        raise DataError(
            f"there is no validation set in `data.corpus` = {folder}; set `data.validation` to a "
            "store, or prepare the corpus again with a --validation share"
        )
    return TokenStore.open(folder / VALIDATION)


def _tokenizer(settings: Data, train_prefix: Path) -> Tokenizer:
    if settings.tokenizer is not None:
        return load_tokenizer(settings.tokenizer)
    beside = train_prefix.parent / TOKENIZER
    if beside.exists():
        return load_tokenizer(beside)
    raise DataError(
        f"there is no {TOKENIZER} beside the store {train_prefix}; name the tokenizer that "
        'made it with `data.tokenizer`, for example data.tokenizer="gpt2"'
    )
