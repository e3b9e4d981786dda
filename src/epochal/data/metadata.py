"""The metadata of a token store, `<prefix>.json`: what its tokens are and where they come from.

Megatron's pair .bin/.idx holds neither tokenizer nor text nor origin. This file does, as JSON that
a person can read. A store works without it, but then its tokenizer must be named by hand, and there
is no figure per byte of text.
"""

from __future__ import annotations

import dataclasses
import json
import re
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from epochal import files
from epochal._version import __version__
from epochal.errors import DataError

FORMAT = "epochal token store"
VERSION = 2
"""1, up to epochal 0.1.0, described split and cut in a sentence `how`; it is still read."""

_CONFIG = ConfigDict(extra="forbid", defer_build=True)


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class TokenizerFacts:
    """Which tokenizer made the ids."""

    name: str
    kind: str
    """bytes, byte-level-bpe, or the name of the model."""
    sha256: str
    """Of what decides the ids, so it does not depend on names or on the file's form."""
    vocabulary: int
    """Ids run from 0 to vocabulary - 1, the end-of-document token included."""
    end_of_document: int
    """Id that ends each document."""
    mask: int
    """Id of the mask of diffusion models: one past the vocabulary; never in a store."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class SourceFile:
    """One input."""

    name: str
    """Relative to the folder that was given, or the file's own name."""
    bytes: int
    sha256: str
    """Of the file; of the extracted text for the built-in corpus."""
    interpreter: str | None = None
    """The Python that the built-in corpus was taken from."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Sources:
    """All inputs."""

    files: int
    bytes: int
    sha256: str
    """Of names, sizes and hashes of all files, in order."""
    listed: tuple[SourceFile, ...]
    """Each file, or the first ones where there are many."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Duplicates:
    """Documents with the same text as an earlier document of the store."""

    documents: int
    """Number in the store."""
    share_of_tokens: float
    dropped: int
    """Number left out on request."""
    cut_passages: int | None = None
    """Tokens of repeated passages that were cut out on request."""
    cut_lines: int | None = None
    """Other tokens of boilerplate lines that were."""
    cut_leaked: int | None = None
    """Tokens of passages of the validation set that were cut out before those."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Split:
    """Which side of the train-validation split the store is, and how the split was made."""

    role: Literal["train", "validation"]
    share_of_text: float
    """The validation set's share of all text that went into either store."""
    leaked_documents: int
    """Training documents left out because the validation set has the same text."""
    seed: int | None = None
    """Whole documents are held out by a hash of this seed and the document's number; None where
    the user gave a validation text."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Parent:
    """The store that a subset was cut from: its first tokens, or its first documents."""

    name: str
    unique_tokens: int
    documents: int
    content_sha256: str
    tokens_per_document: float | None = None
    """Mean by which the number of documents was chosen, as the paper does; None for an exact
    number of tokens."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class StoreMetadata:
    """What a token store is. None where it is not known."""

    unique_tokens: int
    documents: int
    text_bytes: int | None = None
    """UTF-8 bytes of the documents' text, end-of-document tokens not counted."""
    tokenizer: TokenizerFacts | None = None
    content_sha256: str | None = None
    """Of the .bin."""
    index_sha256: str | None = None
    """Of the .idx."""
    truncated_last_document: bool = False
    empty_documents: int = 0
    """Documents without text, left out (the original leaves them out, too)."""
    sources: Sources | None = None
    duplicates: Duplicates | None = None
    split: Split | None = None
    parent: Parent | None = None
    shuffled: int | None = None
    """Seed of the documents' random order; None for the order of the inputs."""
    preparation: dict[str, Any] | None = None
    """Every setting that decides the content: the same settings give the same store."""
    created_with: str = f"epochal {__version__}"

    def write(self, path: Path) -> None:
        """Write the metadata to `path` as JSON, atomically."""
        files.write_json(path, self.as_json())

    def as_json(self) -> dict[str, Any]:
        """The content of the file: format, version, and all that is known."""
        known = _adapter().dump_python(self, mode="json", exclude_none=True)
        return {"format": FORMAT, "version": VERSION, **known}

    def cut(
        self, *, unique_tokens: int, documents: int, truncated: bool, parent: Parent
    ) -> StoreMetadata:
        """Metadata of the first `unique_tokens` tokens; hashes and text bytes become unknown."""
        return dataclasses.replace(
            self,
            unique_tokens=unique_tokens,
            documents=documents,
            text_bytes=None,
            content_sha256=None,
            index_sha256=None,
            truncated_last_document=truncated,
            duplicates=None,
            parent=parent,
            preparation=None,
        )


@cache
def _adapter() -> TypeAdapter[StoreMetadata]:
    return TypeAdapter(StoreMetadata)


def read_metadata(path: Path) -> StoreMetadata | None:
    """The metadata at `path`, or None if there is none.

    Raises DataError for a file that is damaged, foreign or of a later version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"the metadata {path} cannot be read ({error}); {_FIX}") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise DataError(f"{path} is not the metadata of a store, though it has its name; {_FIX}")
    if (version := content.pop("version", None)) not in range(1, VERSION + 1):
        raise DataError(
            f"the metadata {path} has version {version!r} but this is epochal "
            f"{__version__}, which reads versions up to {VERSION}; update epochal"
        )
    try:
        return _adapter().validate_python(_without_prose(content))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"the metadata {path} is damaged: `{key}`: {first['msg']}; {_FIX}"
        ) from None


def _without_prose(content: dict[str, Any]) -> dict[str, Any]:
    """`content` of version 1 in the keys of version 2."""
    for key in ("split", "parent"):
        if isinstance(content.get(key), dict):
            content[key] = dict(content[key])
            how = str(content[key].pop("how", ""))
            if mean := re.fullmatch(
                r"the first .* as the paper cuts .* at ([\d.]+) a document", how
            ):
                content[key]["tokens_per_document"] = float(mean[1])
    return content


_FIX = "prepare the store again, or move that file away to use the store without it"
