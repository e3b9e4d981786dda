"""Text → token stores: scan, split by document, tokenise, write.

The inputs are read twice or, if a tokenizer is trained, three times, and are never held in memory.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from numpy.typing import NDArray

from epochal import files, rng
from epochal.data.cluster import encode_elsewhere
from epochal.data.corpus import (
    TOKENIZER,
    TRAIN,
    VALIDATION,
    Corpus,
    is_prepared,
    refuse_foreign,
)
from epochal.data.duplicates import find_repeated
from epochal.data.fidelity import Fidelity
from epochal.data.inputs import TextInputs
from epochal.data.metadata import Duplicates, Split, StoreMetadata
from epochal.data.notes import CorpusNote
from epochal.data.options import CUTS, DuplicateOptions, PrepareOptions
from epochal.data.parallel import Workers, cores
from epochal.data.proposal import proposed_rule
from epochal.data.removal import find_cut
from epochal.data.shards import KeptShards, Shard
from epochal.data.sides import Side
from epochal.data.split import CorpusSplit, Mask, Selection, first_with_same_text, split_corpus
from epochal.data.store_writer import StoreWriter, remove_store, store_dtype
from epochal.data.tokenizer import Tokenizer
from epochal.data.tokenizer_sources import (
    CHARACTERS,
    character_tokenizer,
    load_tokenizer,
    parse_bpe,
    train_bpe,
)
from epochal.errors import DataError, NamedOption, OptionError
from epochal.progress import bar, say
from epochal.results import Note, note

_TRAINING_TEXT = 1_000_000_000  # bytes a tokenizer learns from; chosen by us, minutes of work
_HASH_LENGTH = 64  # characters of a SHA-256
_RULES = 1  # to be raised when the same settings come to give another store
_LATER = {
    **dict.fromkeys(("shuffle", "lists", *CUTS)),
    "encoding": "utf-8",
    "token_type": "uint16",
    "drop_near_duplicates": False,
    "on_error": "stop",
}
"""Options that came later: at this default a corpus made before is still the same."""
_FOR_ONE_PROCESS = 1 << 23  # bytes of text, a second of work


def prepare(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    options: PrepareOptions | None = None,
) -> Corpus:
    """Make the corpus folder `out` from text files, folders or `builtin`.

    A corpus made before from the same inputs with the same settings is only opened. Raises
    DataError for whatever is wrong with the inputs, and for another corpus in `out` unless
    `overwrite`; OptionError for an option that does not fit.
    """
    options = options or PrepareOptions()
    if not str(out):  # Path("") would be the current folder
        raise OptionError("out", out, "name the folder to make, for example corpus")
    texts = TextInputs.find([inputs] if isinstance(inputs, str | Path) else inputs, options)
    if options.documents is None:
        options = replace(options, documents=proposed_rule(texts, options.share > 0))
        texts = replace(texts, options=options)
    own = options.validation_inputs
    held_out = TextInputs.find(own, options) if own else None
    size = parse_bpe(options.tokenizer)
    own_characters = str(options.tokenizer) == CHARACTERS
    if (size is not None or own_characters) and options.end_of_document is not None:
        problem = "is for an existing tokenizer; one made here has its own, so leave it out"
        raise OptionError("end_of_document", options.end_of_document, problem)
    is_ready = size is None and not own_characters
    ready = load_tokenizer(options.tokenizer, options.end_of_document) if is_ready else None
    texts = replace(texts, tokenizer=ready)
    held_out = held_out and replace(held_out, tokenizer=ready)
    settings = {
        "rules": _RULES,
        "inputs": texts.identity,
        "validation_inputs": held_out.identity if held_out else None,
        "validation": options.share,
        "tokenizer": ready.sha256 if ready else CHARACTERS if own_characters else f"bpe:{size}",
        "text_field": options.text_field,
        "documents": options.documents,
        "drop_duplicates": options.drop_duplicates,
        "invalid_utf8": options.invalid_utf8,
        "seed": options.seed,
    }
    settings |= {n: v for n, usual in _LATER.items() if (v := getattr(options, n)) != usual}
    folder = Path(out)
    with _sole_use(folder):
        if (existing := _made_before(folder, settings, options.overwrite)) is not None:
            return existing
        split = split_corpus(texts, held_out, options.share, options.seed, options.drops)
        kept = KeptShards(folder, settings, split.text_bytes, options.executor is not None)
        try:
            notes: list[Note] = []
            if own_characters:
                used = (text for each in split.selections for text in each.texts(each.used))
                tokenizer = character_tokenizer(map(str, used))
            elif ready is None:
                tokenizer, notes = _train(split.selections[0], size or 0, kept)
            else:
                tokenizer = ready
            fidelity = Fidelity(tokenizer, options.allow_lossy)
            if options.executor is not None:
                encode_elsewhere(split.selections, fidelity, kept, options)
            corpus = _write_corpus(folder, split, fidelity, settings, options.workers, kept)
        except BaseException:
            kept.leave()
            raise
        kept.remove()
        noted = [each for inputs in (texts, held_out) if inputs for each in inputs.notes()]
        noted += [*split.notes, *notes, *fidelity.notes(), *corpus.notes]
        return replace(corpus, notes=tuple(noted))


@contextlib.contextmanager
def _sole_use(folder: Path) -> Iterator[None]:
    """Lock the folder, making it if need be; it is removed again if nothing came of it.

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


def _made_before(folder: Path, settings: dict[str, Any], overwrite: bool) -> Corpus | None:
    """The corpus in `folder` if these settings made it. Raises DataError if others did."""
    if overwrite:
        return None
    if not is_prepared(folder):
        refuse_foreign(folder)
        return None
    corpus = Corpus.open(folder)
    before = corpus.train.metadata.preparation if corpus.train.metadata else None
    if before == settings:
        say(f"{folder} is already prepared from these inputs with these settings")
        return replace(corpus, already_existed=True)
    raise DataError(
        f"{folder} already holds another corpus (",
        *_difference(before or {}, settings),
        "); choose another folder, or replace it with ",
        NamedOption("overwrite"),
    )


def _difference(before: dict[str, Any], now: dict[str, Any]) -> Sequence[str | NamedOption]:
    """The first difference, in words; hashes are not shown."""
    key = next(key for key in now | before if before.get(key) != now.get(key))
    if key == "shuffle":
        was = "in the inputs' order" if key not in before else f"shuffled by seed {before[key]}"
        return [f"{was}, not ", NamedOption(key, str(now[key]))] if key in now else [was]
    old, new = before.get(key), now.get(key)
    if any(len(str(value)) == _HASH_LENGTH for value in (old, new)) or key not in before:
        return ["made with other ", NamedOption(key)]
    return ["made with ", NamedOption(key, str(old)), f", not {new}"]


def _train(selection: Selection, size: int, kept: KeptShards) -> tuple[Tokenizer, list[Note]]:
    """A BPE trained on the training documents: all, or every n-th of a very large corpus."""
    numbers = np.flatnonzero(selection.train)
    total = int(selection.scan.lengths[numbers].sum())
    every = -(-total // _TRAINING_TEXT)
    wanted = np.zeros_like(selection.train)
    wanted[numbers[::every]] = True
    if kept.tokenizer.exists():
        tokenizer = load_tokenizer(kept.tokenizer)
    else:
        with bar(f"Training the tokenizer bpe:{size}", total / every) as progress:
            tokenizer = train_bpe(_counted(selection, wanted, progress.update), size)
        if kept.folder.exists():
            tokenizer.save(kept.tokenizer)
    notes = []
    if every > 1:
        notes.append(note(CorpusNote.TOKENIZER_SAMPLE, one_in=every))
    if tokenizer.vocabulary < size:
        values = {"vocabulary": tokenizer.vocabulary, "wanted": size}
        notes.append(note(CorpusNote.SMALL_VOCABULARY, **values))
    return tokenizer, notes


def _counted(selection: Selection, wanted: Mask, update: Callable[[float], None]) -> Iterator[Any]:
    """The wanted texts, reporting the characters given so far."""
    done = 0
    for text in selection.texts(wanted):
        yield text
        done += len(text)
        update(done)


def _write_corpus(
    folder: Path,
    split: CorpusSplit,
    fidelity: Fidelity,
    settings: dict[str, Any],
    workers: int | None,
    kept: KeptShards,
) -> Corpus:
    """Write the corpus and open it. A kill at any moment leaves a whole corpus or none."""
    tokenizer = fidelity.tokenizer
    dtype = store_dtype(tokenizer.vocabulary)
    processes = 1 if split.text_bytes < _FOR_ONE_PROCESS else workers or cores()
    with (
        Workers(fidelity.work, processes) as at_work,
        StoreWriter(folder / TRAIN, dtype) as train_writer,
        StoreWriter(folder / VALIDATION, dtype) as validation_writer,
    ):
        train = Side("train", train_writer, split.selections[0])
        validation = Side("validation", validation_writer, split.selections[-1])
        with bar("Tokenising", split.text_bytes) as progress:
            for selection in split.selections:
                shards = fidelity.encode(selection.texts(selection.used), at_work, kept)
                _write(selection, train, validation, shards, progress.update)
        order: NDArray[np.int64] = np.arange(train_writer.documents)
        notes: list[Note] = []
        if (seed := settings.get("shuffle")) is not None:
            key = rng.stream_key(seed, "document order")
            order = rng.random_order(key, np.flatnonzero(split.selections[0].train))
        if settings.get("drop_near_duplicates"):
            remaining, notes = _without_near(train, validation if split.has_validation else None)
            order = order[remaining[order]]
        gone: Mask | None = None
        length, many, leak = (settings.get(name) for name in CUTS)
        if length or many or leak:
            held_out = validation.writer.view() if split.has_validation else None
            cut = find_cut(train.writer.view(), order, tokenizer, length, many, leak, held_out)
            order, gone, notes = order[cut.kept[order]], cut.gone, notes + cut.notes()
            if not len(order):
                raise DataError(
                    "no text is left for training after what was cut; give more text, or ask for "
                    "longer passages and for lines of more documents"
                )
            train.take(cut)
        if seed is not None or gone is not None or len(order) < train_writer.documents:
            train_writer.reorder(order, gone)
        metadata = _metadata(train, validation, split, tokenizer, settings)
        with files.atomic_path(folder / TOKENIZER) as pending:
            tokenizer.save(pending)
            # All is on the disk. An older corpus goes before any of the new one comes.
            remove_store(folder / TRAIN)
            remove_store(folder / VALIDATION)
            other = validation_writer.commit(metadata[1]) if split.has_validation else None
            validation_writer.abort()
        made = train_writer.commit(metadata[0])
    return Corpus(made, other, tokenizer, notes=tuple(notes))


def _without_near(train: Side, validation: Side | None) -> tuple[Mask, list[Note]]:
    """[training documents] which to keep; the others are no longer counted."""
    other = validation.writer.view() if validation else None
    found = find_repeated(train.writer.view(), other, DuplicateOptions().similarity)
    near = found.near > 0
    leaked = ~near & found.leaked_near[0] if found.leaked_near else np.zeros_like(near)
    kept = ~(near | leaked)
    if not kept.any():
        raise DataError(
            "no text is left for training: every document is near to one of the validation set; "
            "give more text, or do without ",
            NamedOption("drop_near_duplicates"),
        )
    train.dropped = int((~kept).sum())
    train.text_bytes = int(np.array(train.lengths)[kept].sum())
    values = {"documents": int(near.sum()), "leaked": int(leaked.sum())}
    return kept, [note(CorpusNote.NEAR_DROPPED, **values)] if train.dropped else []


def _write(
    selection: Selection,
    train: Side,
    validation: Side,
    shards: Iterator[tuple[Shard, bool]],
    update: Callable[[float, str], None],
) -> None:
    repeats = _repeats(selection, selection.train) | _repeats(selection, selection.validation)
    numbers = np.flatnonzero(selection.used)
    first = going_on = 0  # a shard's first document; characters of the one that goes on
    start, before = time.monotonic(), train.text_bytes + validation.text_bytes
    for shard, was_found in shards:
        of = numbers[first : first + len(shard.sizes)]
        lengths = np.where(shard.kept < 0, selection.scan.lengths[of], shard.kept)
        train.add(shard, selection.train[of], lengths, repeats[of])
        validation.add(shard, ~selection.train[of], lengths, repeats[of])
        first += len(of) - (shard.going_on > 0)
        going_on = shard.going_on + (going_on if len(of) == 1 and shard.going_on else 0)
        done = train.text_bytes + validation.text_bytes + going_on
        if was_found:  # takes no time that would tell how long the others take
            start, before = time.monotonic(), done
            continue
        rate = (done - before) / 1e6 / max(1e-9, time.monotonic() - start)
        tokens = train.writer.unique_tokens + validation.writer.unique_tokens
        update(done, f"{tokens:,} tokens, {rate:.1f} MB/s")


def _knows_bytes(side: Side, tokenizer: Tokenizer) -> bool:
    """Whether lengths are bytes of text: not where ids of unknown text were given, or cut out."""
    of_ids = side.selection.scan.given_as_ids or (side.cut is not None and side.cut.documents > 0)
    return not of_ids or tokenizer.token_byte_lengths is not None


def _repeats(selection: Selection, mask: Mask) -> Mask:
    """Documents under `mask` whose text an earlier document under it has."""
    numbers = np.flatnonzero(mask)
    repeats = np.zeros_like(mask)
    digests = selection.scan.digests[numbers]
    repeats[numbers] = first_with_same_text(digests) != np.arange(len(numbers))
    return repeats


def _metadata(
    train: Side,
    validation: Side,
    split: CorpusSplit,
    tokenizer: Tokenizer,
    settings: dict[str, Any],
) -> list[StoreMetadata]:
    """The metadata of the training and of the validation store."""
    share = validation.text_bytes / (train.text_bytes + validation.text_bytes)
    both = []
    for side in (train, validation):
        written = side.writer.finish()
        own_split = Split(
            role=side.role,
            share_of_text=share,
            seed=split.seed,
            leaked_documents=split.selections[0].leaked,
        )
        both.append(
            replace(
                written,
                text_bytes=side.text_bytes if _knows_bytes(side, tokenizer) else None,
                tokenizer=tokenizer.facts,
                empty_documents=side.selection.scan.empty,
                sources=side.selection.inputs.facts(),
                duplicates=Duplicates(
                    documents=side.repeats,
                    share_of_tokens=side.repeated_tokens / max(1, written.unique_tokens),
                    dropped=side.selection.dropped + side.dropped,
                    cut_passages=None if side.cut is None else side.cut.passages,
                    cut_lines=None if side.cut is None else side.cut.lines,
                    cut_leaked=None if side.cut is None else side.cut.leaked,
                ),
                split=own_split if split.has_validation else None,
                shuffled=settings.get("shuffle") if side is train else None,
                preparation=settings,
            )
        )
    return both
