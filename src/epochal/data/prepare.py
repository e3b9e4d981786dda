"""Text → token stores: scan, split by document, tokenise, write.

The inputs are gone through twice or, if a tokenizer is trained, three times, and are never
held in memory.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from epochal import files
from epochal.data import notices
from epochal.data.corpus import RawCorpus
from epochal.data.encoder import Tokenizer
from epochal.data.folder import (
    TOKENIZER,
    TRAIN,
    VALIDATION,
    PreparedCorpus,
    is_prepared,
    refuse_foreign,
)
from epochal.data.plan import Part, make_plan
from epochal.data.readers import DocumentRule, InvalidUTF8, ReadOptions
from epochal.data.split import Mask
from epochal.data.tokenizer import load_tokenizer, parse_bpe, train_bpe
from epochal.data.write_stores import write_corpus
from epochal.errors import DataError
from epochal.progress import bar, say

DEFAULT_VALIDATION = 0.05
_TRAINING_TEXT = 1_000_000_000  # bytes a tokenizer learns from; chosen by us, minutes of work
_HASH_LENGTH = 64  # characters of a SHA-256
_RULES = 1  # to be raised when the same settings come to give another store


def prepare(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    tokenizer: str | Path = "bpe:8192",
    validation: float | None = None,
    validation_inputs: Sequence[str | Path] | None = None,
    text_field: str = "text",
    documents: DocumentRule = "file",
    end_of_document: str | None = None,
    drop_duplicates: bool = False,
    invalid_utf8: InvalidUTF8 = "error",
    seed: int = 1234,
    shuffle: int | None = None,
    overwrite: bool = False,
    workers: int | None = None,
) -> PreparedCorpus:
    """Make the corpus folder `out` from text files, folders or `builtin`.

    `tokenizer` is bpe:SIZE (trained on the training documents) or what `load_tokenizer`
    takes. `validation` is the share of the text to hold out (5 % if not given, 0 for none),
    unless `validation_inputs` bring a validation text. `shuffle` is the seed of a random order
    of the training documents; without it they lie as in the inputs. A corpus made before from
    the same inputs with the same settings is only opened. Raises DataError for whatever is
    wrong with the inputs, and for another corpus in `out` unless `overwrite`.
    """
    inputs = [inputs] if isinstance(inputs, str | Path) else inputs
    if not str(out):  # Path("") would be the folder one is in
        raise DataError("`out` is empty; name the folder to make, for example --out corpus")
    share = _validation_share(validation, validation_inputs)
    options = ReadOptions(text_field, documents, invalid_utf8)
    corpus = RawCorpus.find(inputs, options)
    held_out = RawCorpus.find(validation_inputs, options) if validation_inputs else None
    size = parse_bpe(tokenizer)
    if size is not None and end_of_document is not None:
        raise DataError(
            f"`end_of_document` = {end_of_document!r} is for a tokenizer that exists; a BPE "
            "trained here brings its own, so leave --end-of-document out"
        )
    ready = load_tokenizer(tokenizer, end_of_document) if size is None else None
    settings = {
        "rules": _RULES,
        "inputs": corpus.identity,
        "validation_inputs": held_out.identity if held_out else None,
        "validation": share,
        "tokenizer": ready.sha256 if ready else f"bpe:{size}",
        "text_field": text_field,
        "documents": documents,
        "drop_duplicates": drop_duplicates,
        "invalid_utf8": invalid_utf8,
        "seed": seed,
    }
    if shuffle is not None:  # a corpus made before there was such a setting is still the same
        settings["shuffle"] = shuffle
    folder = Path(out)
    with _sole_use(folder):
        if (found := _made_before(folder, settings, overwrite)) is not None:
            return found
        notices.skipped_files(corpus, held_out)
        plan = make_plan(corpus, held_out, share, seed, drop_duplicates)
        made = ready or _train(plan.parts[0], size or 0)
        return write_corpus(folder, plan, made, settings, workers, shuffle)


def _validation_share(validation: float | None, inputs: Sequence[str | Path] | None) -> float:
    if inputs:
        if validation is not None:
            raise DataError(
                "`validation` and `validation_inputs` both say where the validation set comes "
                "from; give one of them"
            )
        return 0.0
    share = DEFAULT_VALIDATION if validation is None else validation
    if not 0 <= share < 1:
        raise DataError(
            f"`validation` = {share:g} is no share of the text; give a number from 0 (no "
            "validation set) to below 1, such as 0.05"
        )
    return share


@contextlib.contextmanager
def _sole_use(folder: Path) -> Iterator[None]:
    """Hold the folder, making it if need be; it goes again if nothing came of it.

    Raises DataError if another process prepares the same corpus.
    """
    is_new = not folder.exists()
    lock = filelock.FileLock(folder / ".lock")
    with files.storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise DataError(f"another process is preparing {folder}; wait for it") from None
    try:
        for name in (TRAIN, VALIDATION, TOKENIZER):
            for pattern in (f".{name}.*.tmp", f"..{name}.*.tmp"):
                for leftover in folder.glob(pattern):  # of a process that was killed
                    leftover.unlink(missing_ok=True)
        yield
    except BaseException:
        if is_new:
            (folder / ".lock").unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    finally:
        lock.release()


def _made_before(folder: Path, settings: dict[str, Any], overwrite: bool) -> PreparedCorpus | None:
    """The corpus in `folder` if these settings made it. Raises DataError if others did."""
    if overwrite:
        return None
    if not is_prepared(folder):
        refuse_foreign(folder)
        return None
    found = PreparedCorpus.open(folder)
    before = found.train.passport.preparation if found.train.passport else None
    if before == settings:
        say(f"{folder} is already prepared from these inputs with these settings")
        return replace(found, already_there=True)
    raise DataError(
        f"{folder} holds another corpus already ({_differences(before or {}, settings)}); choose "
        "another folder, or replace it with --overwrite"
    )


def _differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs first, in words; hashes are not shown."""
    key = next(key for key in now | before if before.get(key) != now.get(key))
    if key == "shuffle":
        was = "in the inputs' order" if key not in before else f"shuffled by seed {before[key]}"
        return f"{was}; this command says --shuffle {now[key]}" if key in now else was
    old, new = before.get(key), now.get(key)
    if any(len(str(value)) == _HASH_LENGTH for value in (old, new)) or key not in before:
        return f"made with other `{key}`"
    return f"made with `{key}` = {old}, not {new}"


def _train(part: Part, size: int) -> Tokenizer:
    """A BPE trained on the training documents: all, or every n-th of a very large corpus."""
    numbers = np.flatnonzero(part.train)
    total = int(part.scan.lengths[numbers].sum())
    every = -(-total // _TRAINING_TEXT)
    wanted = np.zeros_like(part.train)
    wanted[numbers[::every]] = True
    with bar(f"Training the tokenizer bpe:{size}", total / every) as progress:
        made = train_bpe(_counted(part, wanted, progress.update), size)
    if every > 1:
        say(f"the tokenizer was trained on one training document in {every} (1 GB of text)")
    if made.vocabulary < size:
        say(f"the text gave the tokenizer only {made.vocabulary:,} of the {size:,} tokens wanted")
    return made


def _counted(part: Part, wanted: Mask, update: Callable[[float], None]) -> Iterator[str]:
    """The wanted texts of `part`, telling the bytes given so far."""
    done = 0
    lengths = part.scan.lengths[wanted]
    for length, text in zip(lengths, part.texts(wanted), strict=True):
        yield text
        done += int(length)
        update(done)
