"""The folder of a prepared corpus: `train` and `validation` stores and their tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from epochal.data.corpus import BUILTIN
from epochal.data.encoder import METADATA, Tokenizer
from epochal.data.passport import read_passport
from epochal.data.store import TokenStore, suffixed
from epochal.data.tokenizer import load_tokenizer
from epochal.errors import DataError

TRAIN, VALIDATION, TOKENIZER = "train", "validation", "tokenizer.json"
SAMPLING_SEED = 1


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
        for store in filter(None, (train, validation)):
            check_tokenizer(store, tokenizer)
        return PreparedCorpus(folder, train, validation, tokenizer)


def is_prepared(folder: Path) -> bool:
    """Whether `folder` holds a prepared corpus."""
    return suffixed(folder / TRAIN, ".idx").is_file()


def order_for_sampling(folder: Path, text: str | Path | None) -> int | None:
    """The `shuffle` with which a text that will be cut is prepared in `folder`.

    That of the corpus that is there already, so that it is found again. None for the built-in
    text, which comes in a random order by itself.
    """
    if text is None or str(text) == BUILTIN:
        return None
    passport = TokenStore.open(folder / TRAIN).passport if is_prepared(folder) else None
    return SAMPLING_SEED if passport is None else passport.shuffled


def check_tokenizer(store: TokenStore, tokenizer: Tokenizer) -> None:
    """Raise DataError unless the ids of `store` are, as far as is known, `tokenizer`'s.

    With a passport the tokenizers' hashes must be equal. Without one all ids are read, and
    must lie in the vocabulary.
    """
    facts = store.passport.tokenizer if store.passport else None
    if facts is not None and facts.sha256 != tokenizer.sha256:
        raise DataError(
            f"the store {store.prefix} was made with the tokenizer {facts.name} "
            f"({facts.vocabulary:,} tokens, {facts.sha256[:12]}), not with {tokenizer.name} "
            f"({tokenizer.vocabulary:,} tokens, {tokenizer.sha256[:12]}); {_NAME_IT}"
        )
    if facts is None and (largest := int(store.tokens.max())) >= tokenizer.vocabulary:
        raise DataError(
            f"the store {store.prefix} holds the id {largest:,}, but the tokenizer "
            f"{tokenizer.name} has only {tokenizer.vocabulary:,} tokens; {_NAME_IT}"
        )


def refuse_foreign(folder: Path) -> None:
    """Raise DataError if making a corpus in `folder` would destroy files of something else.

    What a killed or failed `prepare` or `subset` left there is not foreign.
    """
    if (folder / "run.json").exists():
        raise DataError(f"{folder} is the folder of a run; choose another one for the corpus")
    refuse_foreign_store(folder / TRAIN)
    refuse_foreign_store(folder / VALIDATION)
    tokenizer = folder / TOKENIZER
    if tokenizer.exists() and f'"{METADATA}"' not in tokenizer.read_text(errors="replace"):
        raise DataError(f"{tokenizer} is there and was not made by Epochal; {_ELSEWHERE}")


def refuse_foreign_store(prefix: Path) -> None:
    """Raise DataError if a file at `prefix` is not of a store that Epochal wrote."""
    passport = read_passport(suffixed(prefix, ".json"))
    for suffix in (".idx", ".bin"):
        if passport is None and (path := suffixed(prefix, suffix)).exists():
            raise DataError(f"{path} is there and was not made by Epochal; {_ELSEWHERE}")


_NAME_IT = (
    "name the one that made it (--tokenizer, or `data.tokenizer` in a recipe) or prepare the "
    "text again"
)
_ELSEWHERE = "choose another place, or replace it with --overwrite"
