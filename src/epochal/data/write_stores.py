"""Tokenise a planned corpus and write its folder: both stores, their passports, the tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from epochal import files, rng
from epochal.data.encoder import Tokenizer
from epochal.data.folder import TOKENIZER, TRAIN, VALIDATION, PreparedCorpus
from epochal.data.passport import Duplicates, Passport, Split
from epochal.data.plan import Part, Plan
from epochal.data.split import Mask, first_with_same_text
from epochal.data.store_writer import StoreWriter, remove_store, store_dtype
from epochal.progress import bar

_PROGRESS_EVERY = 32


@dataclass
class _Side:
    """One of the two stores while it is written."""

    role: Literal["train", "validation"]
    writer: StoreWriter
    part: Part
    """Where it comes from."""
    text_bytes: int = 0
    repeats: int = 0
    repeated_tokens: int = 0

    def add(self, ids: NDArray[np.int32], text_bytes: int, repeats: bool) -> None:
        """Add a document, its end mark included."""
        self.writer.add(ids)
        self.text_bytes += text_bytes
        self.repeats += repeats
        self.repeated_tokens += len(ids) if repeats else 0


def write_corpus(
    folder: Path,
    plan: Plan,
    tokenizer: Tokenizer,
    preparation: dict[str, Any],
    workers: int | None = None,
    shuffle: int | None = None,
) -> PreparedCorpus:
    """Write the corpus and open it. A kill at any moment leaves a whole corpus or none.

    `shuffle` is the seed of the training documents' order, None for that of the inputs.
    """
    dtype = store_dtype(tokenizer.vocabulary)
    with (
        StoreWriter(folder / TRAIN, dtype) as train_writer,
        StoreWriter(folder / VALIDATION, dtype) as validation_writer,
    ):
        train = _Side("train", train_writer, plan.parts[0])
        validation = _Side("validation", validation_writer, plan.parts[-1])
        with bar("Tokenising", plan.text_bytes) as progress:
            for part in plan.parts:
                _write_part(part, train, validation, tokenizer, workers, progress.update)
        if shuffle is not None:
            train_writer.reorder(random_order(shuffle, np.flatnonzero(plan.parts[0].train)))
        passports = _passports(train, validation, plan, tokenizer, preparation)
        with files.atomic_path(folder / TOKENIZER) as pending:
            tokenizer.save(pending)
            # All is on the disk. An older corpus goes before any of the new one comes.
            remove_store(folder / TRAIN)
            remove_store(folder / VALIDATION)
            if plan.has_validation:
                validation_writer.commit(passports[1])
            else:
                validation_writer.abort()
        train_writer.commit(passports[0])
    return PreparedCorpus.open(folder)


def random_order(seed: int, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Places of the documents `numbers` (of the inputs, counted from 0) in a random order.

    Each document's rank is a hash of (seed, its number), so two documents stay in the same order
    whatever else is there.
    """
    key = rng.stream_key(seed, "document order")
    return np.argsort(rng.row_keys(key, numbers), kind="stable")


def _write_part(
    part: Part,
    train: _Side,
    validation: _Side,
    tokenizer: Tokenizer,
    workers: int | None,
    update: Callable[[float, str], None],
) -> None:
    repeats = _repeats(part, part.train) | _repeats(part, part.validation)
    lengths = part.scan.lengths
    encoded = tokenizer.encode_documents(part.texts(part.used), workers)
    numbers = np.flatnonzero(part.used)
    for place, (number, ids) in enumerate(zip(numbers, encoded, strict=True)):
        side = train if part.train[number] else validation
        document = np.append(ids, np.int32(tokenizer.end_of_document))
        side.add(document, int(lengths[number]), bool(repeats[number]))
        if place % _PROGRESS_EVERY == 0:
            update(
                train.text_bytes + validation.text_bytes,
                f"{train.writer.unique_tokens + validation.writer.unique_tokens:,} tokens",
            )


def _repeats(part: Part, mask: Mask) -> Mask:
    """Documents under `mask` whose text an earlier document under it has."""
    numbers = np.flatnonzero(mask)
    repeats = np.zeros_like(mask)
    repeats[numbers] = first_with_same_text(part.scan.digests[numbers]) != np.arange(len(numbers))
    return repeats


def _passports(
    train: _Side,
    validation: _Side,
    plan: Plan,
    tokenizer: Tokenizer,
    preparation: dict[str, Any],
) -> tuple[Passport, Passport]:
    share = validation.text_bytes / (train.text_bytes + validation.text_bytes)
    split_off = plan.share > 0
    how = (
        f"{plan.share:g} of the text, whole documents, by a hash of the seed and the document's "
        "number"
        if split_off
        else "given by the user as a text of its own"
    )

    def passport(side: _Side) -> Passport:
        written = side.writer.finish()
        split = Split(
            role=side.role,
            how=how,
            share_of_text=share,
            seed=plan.seed if split_off else None,
            leaked_documents=plan.parts[0].leaked,
        )
        return Passport(
            unique_tokens=written.unique_tokens,
            documents=written.documents,
            text_bytes=side.text_bytes,
            tokenizer=tokenizer.facts,
            content_sha256=written.content_sha256,
            index_sha256=written.index_sha256,
            empty_documents=side.part.scan.empty,
            sources=side.part.corpus.facts(),
            duplicates=Duplicates(
                documents=side.repeats,
                share_of_tokens=side.repeated_tokens / max(1, written.unique_tokens),
                dropped=side.part.dropped,
            ),
            split=split if plan.has_validation else None,
            shuffled=preparation.get("shuffle") if side is train else None,
            preparation=preparation,
        )

    return passport(train), passport(validation)
