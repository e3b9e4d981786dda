"""The folder of a prepared corpus: `train` and `validation` stores and their tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from epochal.data.encoder import Tokenizer
from epochal.data.store import TokenStore, suffixed
from epochal.data.tokenizer import load_tokenizer
from epochal.errors import DataError

TRAIN, VALIDATION, TOKENIZER = "train", "validation", "tokenizer.json"


@dataclass(frozen=True, slots=True)
class PreparedCorpus:
    """A corpus ready for training."""

    folder: Path
    train: TokenStore
    validation: TokenStore | None
    """None if none was wanted."""
    tokenizer: Tokenizer
    already_there: bool = False
    """Whether `prepare` found it made before from the same inputs and settings."""

    @staticmethod
    def open(folder: str | Path) -> PreparedCorpus:
        """The corpus in `folder`. Raises DataError if there is none or its parts do not fit."""
        folder = Path(folder)
        if not is_prepared(folder):
            there = "" if folder.is_dir() else " (the folder does not exist)"
            raise DataError(
                f"{folder} holds no prepared corpus{there}; make one with "
                f"`epochal data prepare INPUTS --out {folder}`"
            )
        train = TokenStore.open(folder / TRAIN)
        validation = None
        if suffixed(folder / VALIDATION, ".idx").exists():
            validation = TokenStore.open(folder / VALIDATION)
        if not (folder / TOKENIZER).is_file():
            raise DataError(f"{folder} has no {TOKENIZER}; copy it there or prepare again")
        tokenizer = load_tokenizer(folder / TOKENIZER)
        for store in (train, validation):
            check_tokenizer(store, tokenizer)
        return PreparedCorpus(folder, train, validation, tokenizer)


def is_prepared(folder: Path) -> bool:
    """Whether `folder` holds a prepared corpus."""
    return suffixed(folder / TRAIN, ".idx").is_file()


def check_tokenizer(store: TokenStore | None, tokenizer: Tokenizer) -> None:
    """Raise DataError if the passport of `store` names another tokenizer."""
    facts = store.passport.tokenizer if store and store.passport else None
    if store and facts and facts.sha256 != tokenizer.sha256:
        raise DataError(
            f"the store {store.prefix} was made with another tokenizer ({facts.name}, "
            f"{facts.vocabulary:,} tokens, {facts.sha256[:12]}) than {tokenizer.name} "
            f"({tokenizer.vocabulary:,} tokens, {tokenizer.sha256[:12]}); use the one that made it"
        )
