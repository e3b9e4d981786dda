"""Tokenizers: text ↔ ids 0 … vocabulary-1, with an end-of-document id and a mask id.

All of them, the byte tokenizer included, are kept as one real `tokenizer.json` that Hugging
Face's `tokenizers` and `transformers` load as it is. What that format has no key for (the
name, and which token ends a document) is in an extra key `model.epochal`, which their
readers skip (seen with tokenizers 0.21 and 0.23).
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cached_property, partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, NoReturn, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tokenizers import AddedToken
from tokenizers import Tokenizer as HFTokenizer

from epochal import files
from epochal.data.fast_bpe import FastBPE, Ids, encode_slowly, letters_to_bytes, why_unproven
from epochal.data.fields import Document
from epochal.data.metadata import TokenizerFacts
from epochal.errors import DataError, NamedOption

TOKENIZER_KEY = "epochal"
"""Key of our own facts in a tokenizer.json."""
END_TOKENS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "[EOS]", "[SEP]")
"""Usual names of an end-of-document token, most usual first."""
MASK_TEXT = "[MASK]"
UNKNOWN_CHARACTER = "<|unknown|>"
"""Token of a tokenizer of characters for those that its vocabulary does not have."""


class Tokenizer:
    """Text → ids and back."""

    def __init__(self, hf: HFTokenizer, name: str, end_token: str | None = None) -> None:
        """Wrap a tokenizer of Hugging Face's library.

        `end_token` ends documents; one of the usual names is looked for if it is not given.
        Special tokens that are spelt out in a text are ordinary text. Raises DataError if no
        end-of-document token is found, or if the tokenizer insists on special ids in text.
        """
        hf.no_truncation()
        hf.no_padding()
        hf.encode_special_tokens = True
        self.name = name
        self._hf = hf
        self._tokens = _by_id(hf)
        self.vocabulary = len(self._tokens)
        self.end_token = _find_end_token(hf, name, end_token)
        self.end_of_document = hf.get_vocab()[self.end_token]
        self.mask = self.vocabulary
        # An end token that is only an entry of vocab.json keeps its id by this.
        hf.add_special_tokens([AddedToken(self.end_token, special=True, normalized=False)])
        content = json.loads(hf.to_str())
        self._special = {added["content"] for added in content["added_tokens"] if added["special"]}
        self.unknown = _unknown(content["model"], hf)
        """Id of all text that the vocabulary has nothing for; None if there is none."""
        self._cuts: re.Pattern[str] | None = None
        self._forbidden: list[int] = []
        self._cut_special_tokens()
        self.kind = _kind(content, self._tokens, self.end_of_document, self._special)
        self.why_slow = None if self.kind == "bytes" else why_unproven(hf, content)
        """Why texts are encoded by `tokenizers`, not the faster tiktoken; None if they are not."""
        self._fast = (
            FastBPE(hf, content) if self.kind != "bytes" and self.why_slow is None else None
        )
        self.sha256 = _sha256(content, self.end_of_document)
        """SHA-256 of what decides the ids: vocabulary, merges, splitting, end of document.

        It is the same for GPT-2's two files, for tokenizer.json and for what `save` wrote, and
        does not depend on the name.
        """

    def encode(self, text: str) -> Ids:
        """Ids [n] of `text`, without an end-of-document id."""
        if self.kind == "bytes":
            return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)
        if self._fast is not None:
            return self._fast.encode(text)
        if self.kind == "characters":
            numbers = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
            return np.asarray(self._ids_of_characters[numbers], dtype=np.int32)
        return self._encode_in_parts(text)

    def encode_all(self, texts: Iterable[Document]) -> Iterator[Ids]:
        """Ids of each text, many short ones faster than one by one; ids are given as they are."""
        for are_texts, group in groupby(texts, key=lambda text: isinstance(text, str)):
            encode_all = self._fast.encode_all if self._fast else partial(map, self.encode)
            if are_texts:
                yield from encode_all(cast("Iterator[str]", group))
            else:
                yield from (np.asarray(ids, dtype=np.int32) for ids in group)

    def ends(self, text: str) -> NDArray[np.int64]:
        """[n] for each id of `encode(text)`, where in `text` ends what it stands for: the index
        behind its last character, also for a part of a character."""
        start, found = 0, []
        for part in self._parts(text):
            found += [
                start + end for _, end in self._hf.encode(part, add_special_tokens=False).offsets
            ]
            start += len(part)
        return np.array(found, dtype=np.int64)

    @cached_property
    def _ids_of_characters(self) -> Ids:
        """[0x110000] id of each character."""
        ids = np.full(sys.maxunicode + 1, self.unknown, dtype=np.int32)
        for number, token in enumerate(self._tokens):
            if token not in self._special:
                ids[ord(token)] = number
        return ids

    def _parts(self, text: str) -> list[str]:
        """Where `text` spells a special token that the vocabulary would find, it is cut in two."""
        cuts = [m.start() + 1 for m in self._cuts.finditer(text)] if self._cuts else []
        return [text[start:end] for start, end in pairwise([0, *cuts, len(text)])]

    def _encode_in_parts(self, text: str) -> Ids:
        try:
            ids = np.concatenate([encode_slowly(self._hf, part) for part in self._parts(text)])
        except Exception as error:  # the library raises nothing more precise
            raise DataError(
                f"the tokenizer {self.name} has nothing for {text!r:.40} ({error})"
            ) from error
        if self._forbidden:
            ids[np.isin(ids, self._forbidden)] = self.unknown
        return ids

    def normalized(self, text: str) -> str:
        """`text` as the tokenizer's normaliser changes it before anything else."""
        normalizer = self._hf.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def first_unknown(self, text: str) -> str:
        """The first part of `text` that is encoded to the unknown token; '' if there is none."""
        encoding = self._hf.encode(text, add_special_tokens=False)
        pairs = zip(encoding.ids, encoding.offsets, strict=True)
        lost = {self.unknown, *self._forbidden}
        return next((text[a:b] for number, (a, b) in pairs if number in lost), "")

    def decode(self, ids: ArrayLike) -> str:
        """Text of ids. A mask shows as [MASK], bytes that are not UTF-8 as U+FFFD."""
        numbers = np.asarray(ids).ravel().tolist()
        if self.token_byte_lengths is not None:
            parts = (
                self.token_bytes(i) if i < self.vocabulary else MASK_TEXT.encode() for i in numbers
            )
            return b"".join(parts).decode(errors="replace")
        runs = groupby(numbers, key=lambda number: number < self.vocabulary)
        return "".join(
            self._hf.decode(list(run), skip_special_tokens=False)
            if in_vocabulary
            else MASK_TEXT * len(list(run))
            for in_vocabulary, run in runs
        )

    def token_text(self, number: int) -> str:
        """The token as the vocabulary spells it."""
        return self._tokens[number]

    def token_bytes(self, number: int) -> bytes:
        """The UTF-8 bytes that id `number` stands for; its name for a special token.

        Raises DataError for a tokenizer that is not byte-level, whose tokens have none.
        """
        content = self._token_bytes[number]
        if content is None:
            raise DataError(
                f"token {number} of the tokenizer {self.name} does not stand for fixed bytes"
            )
        return content

    @cached_property
    def _token_bytes(self) -> list[bytes | None]:
        byte_level = self.kind in ("bytes", "byte-level-bpe")
        whole = str.encode if self.kind == "characters" else lambda token: None
        spell = letters_to_bytes if byte_level else whole
        return [
            token.encode() if token in self._special else spell(token) for token in self._tokens
        ]

    @cached_property
    def token_byte_lengths(self) -> NDArray[np.int64] | None:
        """[vocabulary] bytes of text per id, 0 for special tokens; None if not byte-level."""
        if any(content is None for content in self._token_bytes):
            return None
        return np.array(
            [
                0 if token in self._special else len(content or b"")
                for token, content in zip(self._tokens, self._token_bytes, strict=True)
            ]
        )

    @property
    def facts(self) -> TokenizerFacts:
        """The tokenizer's entry in a store's metadata."""
        return TokenizerFacts(
            name=self.name,
            kind=self.kind,
            sha256=self.sha256,
            vocabulary=self.vocabulary,
            end_of_document=self.end_of_document,
            mask=self.mask,
        )

    def save(self, path: str | Path) -> None:
        """Write everything to the one file `path`, which `load_tokenizer` restores."""
        content = json.loads(self._hf.to_str())
        content["model"][TOKENIZER_KEY] = {"name": self.name, "end_of_document": self.end_token}
        text = json.dumps(content, ensure_ascii=False, indent=2)
        files.write_text(Path(path), text + "\n")

    def _cut_special_tokens(self) -> None:
        """Let texts be cut behind a character, so that none gets the id of a special token.

        A token that is found in plain text all the same becomes the unknown token there; without
        one DataError is raised.
        """
        found = [spelt for token in sorted(self._special) for spelt in self._found_in_text(token)]
        if not found:
            return
        self._cuts = re.compile("|".join(f"(?={re.escape(spelt)})" for spelt in found))
        for token in sorted(self._special):
            if self._found_in_text(token):
                if self.unknown in (None, self.end_of_document):
                    raise DataError(
                        f"the tokenizer {self.name} turns the plain text {token!r} into its "
                        "special token, so text could end a document by accident, and has no "
                        "unknown token to use instead; use another tokenizer"
                    )
                self._forbidden.append(self._hf.get_vocab()[token])

    def _found_in_text(self, token: str) -> set[str]:
        """Spellings of a special token that are encoded to its id as if they were text.

        The unknown token's do not count: it is what any text may be encoded to.
        """
        number = self._hf.token_to_id(token)
        if number == self.unknown != self.end_of_document:
            return set()
        spelt = (letters_to_bytes(token) or token.encode()).decode(errors="replace")
        found = set()
        for text in {token, spelt}:
            with contextlib.suppress(DataError):  # it cannot be encoded at all
                if number in self._encode_in_parts(text):
                    found.add(text)
        return found


class UnknownTokenizer(Tokenizer):
    """Stands for the tokenizer of an imported model that came without one: only its size is known.

    Logits and likelihoods of ids work; whatever needs text raises DataError with what to do.
    """

    def __init__(self, vocabulary: int) -> None:
        """Ids 0 … vocabulary − 1; as in GPT-2's the last ends a document, and the mask follows."""
        self.name = "unknown"
        self.kind = "unknown"
        self.vocabulary = vocabulary
        self.mask = vocabulary
        self.end_of_document = vocabulary - 1
        self.end_token = ""
        self.why_slow = None
        self.sha256 = f"unknown-{vocabulary}"
        """A value that no real tokenizer has."""

    def encode(self, text: str) -> NoReturn:
        """Raise DataError: there is no vocabulary to look text up in."""
        raise DataError(_TOKENIZER_NEEDED)

    def decode(self, ids: ArrayLike) -> NoReturn:
        """Raise DataError: there is no vocabulary to look ids up in."""
        raise DataError(_TOKENIZER_NEEDED)

    def save(self, path: str | Path) -> NoReturn:
        """Raise DataError: there is nothing to save."""
        raise DataError(_TOKENIZER_NEEDED)

    @cached_property
    def token_byte_lengths(self) -> NDArray[np.int64] | None:
        """None: bytes per token are not known."""
        return None


NOT_KNOWN = "not known"
"""Stands for a checksum in the record of a run that was imported without a corpus."""

_TOKENIZER_NEEDED = (
    "this imported model came without a tokenizer, so its ids cannot be turned into text; import "
    "it again with a tokenizer (a tokenizer.json, a folder with vocab.json and merges.txt, or gpt2)"
)


def _by_id(hf: HFTokenizer) -> list[str]:
    """Every token in the order of ids; a hole gets an unused name."""
    vocabulary: dict[str, int] = hf.get_vocab(with_added_tokens=True)
    if not vocabulary:
        raise DataError("the tokenizer has no tokens")
    tokens = [f"<unused {number}>" for number in range(max(vocabulary.values()) + 1)]
    for token, number in vocabulary.items():
        tokens[number] = token
    return tokens


def _find_end_token(hf: HFTokenizer, name: str, end_token: str | None) -> str:
    candidates = END_TOKENS if end_token is None else (end_token,)
    for candidate in candidates:
        if hf.token_to_id(candidate) is not None:
            return candidate
    if end_token is not None:
        problem = f"has no token {end_token!r}"
    else:
        problem = f"has none of the usual end-of-document tokens ({', '.join(END_TOKENS)})"
    raise DataError(
        f"the tokenizer {name} {problem}; name a token of its vocabulary (",
        NamedOption("end_of_document"),
        ")",
    )


def _unknown(model: dict[str, Any], hf: HFTokenizer) -> int | None:
    if (number := model.get("unk_id")) is not None:
        return int(number)
    token = model.get("unk_token")
    return hf.token_to_id(token) if token else None


def _kind(content: dict[str, Any], tokens: list[str], end: int, special: set[str]) -> str:
    """bytes, characters, byte-level-bpe, or the name of the model."""
    model: str = content["model"]["type"]
    if content["model"].get("unk_token") == UNKNOWN_CHARACTER and all(
        len(token) == 1 or token in special for token in tokens
    ):
        return "characters"
    pre = json.dumps(content["pre_tokenizer"])
    if model != "BPE" or '"ByteLevel"' not in pre:
        return model.lower()
    plain = content["normalizer"] is None and not content["model"]["merges"]
    if plain and '"use_regex": false' in pre and len(tokens) == 257 and end == 256:
        numbers = [letters_to_bytes(token) for token in tokens[:256]]
        if numbers == [bytes([number]) for number in range(256)]:
            return "bytes"
    return "byte-level-bpe"


def _sha256(content: dict[str, Any], end_of_document: int) -> str:
    """SHA-256 of the parts of a tokenizer.json that decide ids, as all versions write them."""
    model, pre = content["model"], content["pre_tokenizer"]
    # Settings of the model that are off are written as null, false, "" or not at all,
    # depending on the library's version. Decoder and post-processor decide no ids.
    settings = {k: v for k, v in model.items() if v is not None and v is not False and v != ""}
    merges = [m if isinstance(m, str) else " ".join(m) for m in model.get("merges", ())]
    decisive = {
        "model": settings | {"merges": merges},
        "normalizer": content["normalizer"],
        "pre_tokenizer": pre and {k: v for k, v in pre.items() if k != "trim_offsets"},
        "added": sorted([added["id"], added["content"]] for added in content["added_tokens"]),
        "end_of_document": end_of_document,
    }
    return files.sha256_json(decisive)
