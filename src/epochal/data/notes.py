"""Reason codes of the data room. Their texts are in `report/text/data.py`."""

from __future__ import annotations

from enum import StrEnum

from epochal.results import NoteCode


class CorpusNote(NoteCode):
    """What `prepare` noticed in the inputs, or in what it made of them."""

    SKIPPED_FILES = "skipped_files"
    """`files` in folders are not read: `suffixes` (suffix → files)."""
    SKIPPED_MEMBERS = "skipped_archive_members"
    """Of the archive `file` (and others, `files` in all) `read` files are read and `skipped` not.
    `file` and `files` mean the same in the notes below."""
    UNKNOWN_SUFFIX = "unknown_suffix"
    """Named files of an unknown suffix are read as `kind`."""
    READ_AS = "read_as"
    """Standard input is read as `kind`."""
    PROPOSED_DOCUMENTS = "proposed_documents"
    """No rule was given, so plain text is cut by `rule`, as it looks."""
    ONE_SPLIT = "one_split"
    """Of a saved data set the split `split` is read, `others` are not."""
    NULL_COLUMN = "null_column"
    """The column `field` holds nulls only: its rows are empty documents."""
    BINARY_AS_TEXT = "binary_as_text"
    """The column `field` holds bytes, which are read as UTF-8."""
    SKIPPED_ROWS = "skipped_rows"
    """`files` rows that could not be read were skipped: the first `problems`."""
    OTHER_RECORDS = "other_records"
    """Of a web archive's records `read` are text and `skipped` are not: `kinds` (content type →
    records)."""
    MARK_INSIDE = "byte_order_mark_inside"
    """A line, the first one `line`, begins with a byte-order mark, which is passed over."""
    REPEATED = "repeated_documents"
    """`repeated` of `documents` have the text of an earlier one."""
    EMPTY = "empty_documents"
    """`documents` without text were left out."""
    WITH_NUL = "documents_with_nul"
    """`documents` have NUL characters, so they may be binary data."""
    LEAKED = "leaked_documents"
    """`documents` left out of training because the validation set has their text."""
    NEAR_DROPPED = "near_documents_dropped"
    """`documents` left out of training since they are near to an earlier one, and `leaked` others
    since they are near to one of the validation set."""
    REPEATS_CUT = "repeats_cut"
    """`leaked` tokens of passages of the validation set, `passages` of repeated ones and `lines` of
    boilerplate lines were cut out of `documents` training documents; `empty` had nothing else."""
    VALIDATION_SHARE = "validation_share"
    """Documents are so long that the validation set is `share` of the text, not `wanted`:
    `validation_documents` of `documents`."""
    TOKENIZER_SAMPLE = "tokenizer_sample"
    """The tokenizer was trained on one training document in `one_in`."""
    TEXT_LOST = "text_lost"
    """`documents` of `of` have characters that the tokenizer loses, the first one `lost`."""
    TEXT_CHANGED = "text_changed"
    """The tokenizer's normaliser changes the text of `documents` of `of`, first `before` to
    `after`."""
    SMALL_VOCABULARY = "small_vocabulary"
    """The text gave the tokenizer only `vocabulary` of the `wanted` tokens."""


class StoreNote(NoteCode):
    """What was corrected while a store was opened."""

    LENGTHS_CORRECTED = "lengths_corrected"
    """The index of `file` left the end-of-document token, id `end_of_document`, out of the
    lengths of `documents`."""


class SlowReason(NoteCode):
    """Why a tokenizer is not run by tiktoken: equal ids are not proven."""

    MODEL = "model_is_not_bpe"
    """It is `model`."""
    PRE_TOKENIZER = "other_pre_tokenizer"
    NORMALIZER = "normalizes_text"
    ADDED_TOKENS = "added_tokens_not_special"
    SETTING = "bpe_setting"
    """The BPE uses `setting`."""
    BYTES_MISSING = "bytes_missing"
    """`bytes` of the 256 are not in the vocabulary."""
    MERGE = "merge_without_token"
    MERGE_ORDER = "merges_not_in_order"
    TOKEN = "token_not_reproduced"
    """The text of `token` is encoded to something else."""


class Check(StrEnum):
    """What `verify` checks, and the values of its finding."""

    OPENS = "opens"
    """The files fit together: `unique_tokens`, `documents`, or the `error`."""
    LENGTHS_CORRECTED = "lengths_corrected"
    """Not a fault (see `StoreNote`): `documents`, `end_of_document`."""
    INDEX_MADE = "index_made"
    """The index was made again from the ids; not ok if that gave another one than was written,
    which was left alone: `documents`."""
    CUT_OFF = "cut_off"
    """The .bin was cut off, and its whole `documents` are kept: `lost_documents`, `lost_tokens`.
    Not ok, since text is lost."""
    HAS_METADATA = "has_metadata"
    """Only listed if there is none, which is not a fault."""
    IDS_HASH = "ids_hash"
    """The .bin is the one that was written: `sha256`, `expected`."""
    INDEX_HASH = "index_hash"
    """The .idx is the one that was written: `sha256`, `expected`."""
    TOKENIZER_PRESENT = "tokenizer_present"
    """Only listed if the corpus folder has no tokenizer.json."""
    TOKENIZER_MATCHES = "tokenizer_matches"
    """Only listed if the tokenizer is not the one that made the store: `error`."""
    HAS_TOKENIZER = "has_tokenizer"
    """Only listed if there is none to check ids against, which is not a fault."""
    IDS_IN_VOCABULARY = "ids_in_vocabulary"
    """`lowest` and `highest` id, `vocabulary`."""
    ENDS_MARKED = "ends_marked"
    """Each document ends with its end-of-document token: `marked` of `documents`; `truncated`
    if the last one is cut."""
    MARKS_ONLY_AT_ENDS = "marks_only_at_ends"
    """`inside`: end-of-document tokens elsewhere."""
    TEXT_BYTES = "text_bytes"
    """The ids stand for as much text as the metadata has: `bytes`, `expected`."""
    NO_SHARED_DOCUMENTS = "no_shared_documents"
    """`shared` documents are in both stores of the corpus."""
