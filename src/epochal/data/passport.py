"""The passport of a token store, `<prefix>.json`: what its tokens are and where they come from.

Megatron's pair .bin/.idx says nothing about tokenizer, text or origin. The passport does, in
JSON that a person can read. A store works without one, but then the tokenizer must be named
by hand and there is no figure per byte of text.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from epochal import files
from epochal._version import __version__
from epochal.errors import DataError

FORMAT = "epochal token store"
VERSION = 1

_CONFIG = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class TokenizerFacts:
    """Which tokenizer made the ids."""

    name: str
    kind: str
    sha256: str
    """Of what decides the ids, so that it does not depend on names or on the file's form."""
    vocabulary: int
    """Ids run from 0 to vocabulary - 1, the end-of-document mark included."""
    end_of_document: int
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
    """Of names, sizes and sums of all files, in order."""
    listed: tuple[SourceFile, ...]
    """Each file, or the first ones where there are many."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Duplicates:
    """Documents whose text an earlier document of the store has already."""

    documents: int
    """How many are in the store."""
    share_of_tokens: float
    dropped: int
    """How many were left out on request."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Split:
    """Which side of the split the store is, and how it was made."""

    role: Literal["train", "validation"]
    how: str
    share_of_text: float
    """The validation set's share of all text that went into either store."""
    leaked_documents: int
    """Training documents left out because the validation set has the same text."""
    seed: int | None = None
    """None where the user brought a validation text."""


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Parent:
    """The store that a subset was cut from."""

    name: str
    unique_tokens: int
    documents: int
    content_sha256: str
    how: str


@dataclass(frozen=True, kw_only=True, config=_CONFIG)
class Passport:
    """What a token store is. None where it is not known."""

    unique_tokens: int
    documents: int
    text_bytes: int | None = None
    """UTF-8 bytes of the documents' text, end-of-document marks not counted."""
    tokenizer: TokenizerFacts | None = None
    content_sha256: str | None = None
    """Of the .bin."""
    index_sha256: str | None = None
    """Of the .idx."""
    truncated_last_document: bool = False
    empty_documents: int = 0
    """Documents without text, left out (the original leaves them out too)."""
    sources: Sources | None = None
    duplicates: Duplicates | None = None
    split: Split | None = None
    parent: Parent | None = None
    shuffled: int | None = None
    """Seed of the random order that the documents were put in; None: that of the inputs."""
    preparation: dict[str, Any] | None = None
    """Every setting that decides the content: the same settings give the same store."""
    created_with: str = f"epochal {__version__}"

    def write(self, path: Path) -> None:
        """Keep the passport as JSON, in one piece."""
        files.write_json(path, self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """The passport as plain values; what is not known is left out."""
        known = _ADAPTER.dump_python(self, mode="json", exclude_none=True)
        return {"format": FORMAT, "version": VERSION, **known}

    def cut(
        self, *, unique_tokens: int, documents: int, truncated: bool, parent: Parent
    ) -> Passport:
        """Passport of the first `unique_tokens` tokens; hashes and text bytes become unknown."""
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

    def with_content(
        self, *, content_sha256: str, index_sha256: str, text_bytes: int | None
    ) -> Passport:
        """The passport with what is only known once the store is written."""
        return dataclasses.replace(
            self, content_sha256=content_sha256, index_sha256=index_sha256, text_bytes=text_bytes
        )


_ADAPTER = TypeAdapter(Passport)


def read_passport(path: Path) -> Passport | None:
    """The passport at `path`, or None if there is none.

    Raises DataError for a file that is damaged, foreign or of a later version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"the passport {path} cannot be read ({error}); {_MEND}") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise DataError(f"{path} lies where a store's passport should, but is not one; {_MEND}")
    if (version := content.pop("version", None)) != VERSION:
        raise DataError(
            f"the passport {path} has version {version!r} but this is epochal "
            f"{__version__}, which knows version {VERSION}; update epochal"
        )
    try:
        return _ADAPTER.validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DataError(
            f"the passport {path} is damaged: `{key}`: {first['msg']}; {_MEND}"
        ) from None


_MEND = "prepare the store again, or move that file away to use the store without it"
