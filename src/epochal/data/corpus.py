"""A corpus: a training and a validation store, and the tokenizer that made them.

`prepare` writes one as a folder; a recipe names a folder, or stores of other tools.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from epochal.data.blend import Blend, open_train
from epochal.data.inputs import BUILTIN
from epochal.data.metadata import read_metadata
from epochal.data.store import TokenStore, suffixed
from epochal.data.tokenizer import TOKENIZER_KEY, Tokenizer
from epochal.data.tokenizer_sources import load_tokenizer
from epochal.errors import DataError, NamedOption
from epochal.recipe.schema import Data
from epochal.results import Note

TRAIN, VALIDATION, TOKENIZER = "train", "validation", "tokenizer.json"
"""Names in a corpus folder: two stores and the tokenizer."""
SAMPLING_SEED = 1


@dataclass(frozen=True, slots=True)
class Corpus:
    """Two stores and their tokenizer."""

    train: TokenStore | Blend
    """Of a recipe's corpus, cut to its unique tokens."""
    validation_store: TokenStore | None
    tokenizer: Tokenizer
    already_existed: bool = False
    """Whether `prepare` found the corpus, made before from the same inputs and settings."""
    notes: tuple[Note, ...] = ()
    """What `prepare` noticed in the inputs."""

    @staticmethod
    def open(folder: str | Path) -> Corpus:
        """The corpus in `folder`. Raises DataError if there is none or its parts do not fit."""
        folder = Path(folder)
        if not is_prepared(folder):
            missing = "" if folder.is_dir() else " (the folder does not exist)"
            raise DataError(
                f"{folder} is not a prepared corpus{missing}; make one with "
                f"`epochal data prepare INPUTS --out {folder}`"
            )
        train = TokenStore.open(folder / TRAIN)
        has_validation = suffixed(folder / VALIDATION, ".idx").exists()
        validation = TokenStore.open(folder / VALIDATION) if has_validation else None
        if not (folder / TOKENIZER).is_file():
            raise DataError(f"{folder} has no {TOKENIZER}; copy it there or prepare again")
        return _checked(Corpus(train, validation, load_tokenizer(folder / TOKENIZER)))

    @property
    def folder(self) -> Path:
        """Folder of the training store (of a blend's first one)."""
        return self.stores[0].prefix.parent

    @property
    def validation(self) -> TokenStore:
        """The validation store. Raises DataError if the corpus was prepared without one."""
        if self.validation_store is None:
            raise DataError(
                f"the corpus {self.folder} has no validation set; prepare it "
                "again with a share for validation"
            )
        return self.validation_store

    @property
    def stores(self) -> Sequence[TokenStore]:
        """All stores: for training (several of a blend), and at last for validation, if any."""
        train = self.train.stores if isinstance(self.train, Blend) else (self.train,)
        return [*train, *([self.validation_store] if self.validation_store else [])]

    @property
    def bytes_per_token(self) -> float | None:
        """UTF-8 bytes per token of the validation set; None without metadata that says so."""
        metadata = self.validation.metadata
        if metadata is None or not metadata.text_bytes:
            return None
        return metadata.text_bytes / self.validation.unique_tokens

    def identity(self) -> dict[str, str]:
        """The corpus' part of a run's identity: the hash of each store's tokens."""
        stores = {"train": self.train, "validation": self.validation}
        return {f"corpus.{role}": store.content_sha256 for role, store in stores.items()}


def open_corpus(settings: Data) -> Corpus:
    """The corpus that a recipe's `[data]` names, with a validation set.

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
    first = train.stores[0] if isinstance(train, Blend) else train
    return _checked(Corpus(train, validation, _tokenizer(settings, first.prefix)))


def _open_validation(settings: Data, folder: Path) -> TokenStore:
    if settings.validation:
        store = open_train(settings.validation)
        if isinstance(store, Blend):
            raise DataError(
                f"`data.validation` = {settings.validation} mixes {len(store.stores)} stores; "
                "give one, without weights"
            )
        return store
    if not suffixed(folder / VALIDATION, ".idx").exists():
        raise DataError(
            f"there is no validation set in `data.corpus` = {folder}; set `data.validation` to a "
            "store, or prepare the corpus again with a ",
            NamedOption("validation"),
            " share",
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


def _checked(corpus: Corpus) -> Corpus:
    for store in corpus.stores:
        check_tokenizer(store, corpus.tokenizer)
    return corpus


def check_tokenizer(store: TokenStore, tokenizer: Tokenizer) -> None:
    """Raise DataError unless the ids of `store` are, as far as is known, `tokenizer`'s.

    With metadata the tokenizers' hashes must be equal. Without it all ids are read, and must lie
    in the vocabulary.
    """
    facts = store.metadata.tokenizer if store.metadata else None
    if facts is not None and facts.sha256 != tokenizer.sha256:
        raise DataError(
            f"the store {store.prefix} was made with the tokenizer {facts.name} "
            f"({facts.vocabulary:,} tokens, {facts.sha256[:12]}), not with {tokenizer.name} "
            f"({tokenizer.vocabulary:,} tokens, {tokenizer.sha256[:12]}); ",
            *_NAME_IT,
        )
    if facts is None and (largest := int(store.tokens.max())) >= tokenizer.vocabulary:
        raise DataError(
            f"the store {store.prefix} holds the id {largest:,}, but the tokenizer "
            f"{tokenizer.name} has only {tokenizer.vocabulary:,} tokens; ",
            *_NAME_IT,
        )


def is_prepared(folder: Path) -> bool:
    """Whether `folder` holds a prepared corpus."""
    return suffixed(folder / TRAIN, ".idx").is_file()


def shuffle_seed_for(folder: Path, text: str | Path | None) -> int | None:
    """The `shuffle` with which to prepare `text` in `folder` if only a part will be trained on.

    That of the corpus already in `folder`, so that it is found again. None for the built-in
    text, whose order is random by itself.
    """
    if text is None or str(text) == BUILTIN:
        return None
    metadata = TokenStore.open(folder / TRAIN).metadata if is_prepared(folder) else None
    return SAMPLING_SEED if metadata is None else metadata.shuffled


def refuse_foreign(folder: Path) -> None:
    """Raise DataError if making a corpus in `folder` would destroy files of something else.

    What a killed or failed `prepare` or `subset` left there is not foreign.
    """
    if (folder / "run.json").exists():
        raise DataError(f"{folder} is the folder of a run; choose another one for the corpus")
    refuse_foreign_store(folder / TRAIN)
    refuse_foreign_store(folder / VALIDATION)
    tokenizer = folder / TOKENIZER
    if tokenizer.exists() and f'"{TOKENIZER_KEY}"' not in tokenizer.read_text(errors="replace"):
        raise DataError(f"{tokenizer} exists and was not made by Epochal; ", *_ELSEWHERE)


def refuse_foreign_store(prefix: Path) -> None:
    """Raise DataError if a file at `prefix` is not of a store that Epochal wrote."""
    metadata = read_metadata(suffixed(prefix, ".json"))
    for suffix in (".idx", ".bin"):
        if metadata is None and (path := suffixed(prefix, suffix)).exists():
            raise DataError(f"{path} exists and was not made by Epochal; ", *_ELSEWHERE)


_NAME_IT = (
    "name the one that made it (",
    NamedOption("tokenizer"),
    ", or `data.tokenizer` in a recipe) or prepare the text again",
)
_ELSEWHERE = ("choose another place, or replace it with ", NamedOption("overwrite"))
