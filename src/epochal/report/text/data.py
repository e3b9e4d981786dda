"""English about corpora and token stores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from epochal.data.notes import Check, CorpusNote, SlowReason, StoreNote
from epochal.report.text.format import count

if TYPE_CHECKING:
    from epochal.data.duplicates import DuplicateReport, EffectiveUniqueTokens
    from epochal.data.inspection import Description, Finding
    from epochal.data.metadata import StoreMetadata
    from epochal.data.passages import Amount
    from epochal.data.portrait import TokenizerFit
    from epochal.data.vocabularies import VocabularyComparison
    from epochal.report.text import Text
    from epochal.results import NoteCode

_FEW = 5
_NO_TOKENIZER = "none known, so the ids cannot be checked; name one"
_RULES = {
    "endoftext": "its lines `<|endoftext|>` end documents",
    "blank-line": "its paragraphs are the documents",
    "line": "its lines are the documents",
}
_NO_METADATA = "none, so hashes, tokenizer and origin cannot be checked"


def _skipped(values: Mapping[str, Any]) -> str:
    kinds = _kinds(values["suffixes"])
    return (
        f"left out {count(values['files'], 'file')} of another kind ({kinds}); name one to read it"
    )


def _kinds(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in list(counts.items())[:_FEW])


def _of_files(text: str) -> Text:
    """`text`, which begins with what is true of the first file, with the number of the others."""

    def describe(values: Mapping[str, Any]) -> str:
        more = values["files"] - 1
        others = f" (and {count(more, 'more file')})" if more else ""
        return "{file}{others}: ".format(others=others, **values) + text.format(**values)

    return describe


def _validation_share(values: Mapping[str, Any]) -> str:
    return (
        f"the validation set is {values['share']:.1%} of the text, not {values['wanted']:.1%}: the "
        f"documents are too long to come nearer ({values['validation_documents']} of "
        f"{values['documents']} are in it)"
    )


def _other_records(values: Mapping[str, Any]) -> str:
    more = f" (and {count(values['files'] - 1, 'more file')})" if values["files"] > 1 else ""
    return (
        f"{values['file']}{more}: {values['read']:,} records of the archive are text; left out "
        f"{values['skipped']:,} ({_kinds(values['kinds'])})"
    )


TEXTS: dict[NoteCode, Text] = {
    CorpusNote.SKIPPED_FILES: _skipped,
    CorpusNote.SKIPPED_MEMBERS: _of_files(
        "{read:,} files of the archive are read, {skipped:,} are of another kind"
    ),
    CorpusNote.UNKNOWN_SUFFIX: _of_files("the suffix is unknown; read as {kind}"),
    CorpusNote.READ_AS: _of_files("read as {kind}"),
    CorpusNote.PROPOSED_DOCUMENTS: lambda values: (
        f"{values['file']}: {_RULES[values['rule']]}, by the look of it (`--documents "
        f"{values['rule']}`); give `--documents` to cut it otherwise"
    ),
    CorpusNote.ONE_SPLIT: lambda values: (
        f"{values['file']}: only the split {values['split']} is read, not "
        f"{', '.join(values['others'])}; name a split's folder to read it"
    ),
    CorpusNote.NULL_COLUMN: _of_files(
        "the column {field!r} holds nothing but nulls, so its rows are empty documents"
    ),
    CorpusNote.BINARY_AS_TEXT: _of_files("the column {field!r} holds bytes; read as UTF-8"),
    CorpusNote.SKIPPED_ROWS: lambda values: (
        f"skipped {count(values['files'], 'row')} that cannot be read: "
        + "; ".join(values["problems"])
        + (" …" if values["files"] > len(values["problems"]) else "")
    ),
    CorpusNote.OTHER_RECORDS: _other_records,
    CorpusNote.MARK_INSIDE: _of_files(
        "line {line:,} begins with a byte-order mark, as where files were joined; passed over"
    ),
    CorpusNote.REPEATED: (
        "{repeated:,} of {documents:,} documents repeat an earlier one word for word; "
        "`--drop-duplicates` leaves them out"
    ),
    CorpusNote.EMPTY: lambda values: f"left out {count(values['documents'], 'empty document')}",
    CorpusNote.WITH_NUL: lambda values: (
        f"NUL characters are in {count(values['documents'], 'document')}; is this text?"
    ),
    CorpusNote.LEAKED: lambda values: (
        f"left {count(values['documents'], 'document')} out of the training set because the "
        "validation set has the same text"
    ),
    CorpusNote.NEAR_DROPPED: lambda values: (
        f"left {count(values['documents'], 'near duplicate')} out of the training set, and "
        f"{count(values['leaked'], 'document')} near to one of the validation set"
    ),
    CorpusNote.REPEATS_CUT: lambda values: (
        f"cut {values['passages']:,} tokens of repeated passages, {values['lines']:,} of "
        f"boilerplate lines and {values['leaked']:,} of passages that the validation set has out "
        f"of {count(values['documents'], 'training document')}, and left "
        f"out the {values['empty']:,} of them that had nothing else"
    ),
    CorpusNote.VALIDATION_SHARE: _validation_share,
    CorpusNote.TOKENIZER_SAMPLE: (
        "the tokenizer was trained on one training document in {one_in} (1 GB of text)"
    ),
    CorpusNote.TEXT_LOST: (
        "the tokenizer loses characters of {documents:,} of {of:,} documents, first {lost!a}"
    ),
    CorpusNote.TEXT_CHANGED: (
        "the tokenizer's normaliser changes the text of {documents:,} of {of:,} documents, first "
        "{before!a} to {after!a}"
    ),
    CorpusNote.SMALL_VOCABULARY: (
        "the text gave the tokenizer only {vocabulary:,} of the {wanted:,} tokens wanted"
    ),
    StoreNote.LENGTHS_CORRECTED: (
        "{file}: the index leaves the end-of-document token (id {end_of_document}) out of "
        "{documents:,} documents' lengths, as preprocess_data.py --append-eod writes it; the "
        "lengths were corrected on reading"
    ),
    SlowReason.MODEL: "its model is {model}, not BPE",
    SlowReason.PRE_TOKENIZER: "its pre-tokenizer is not GPT-2's",
    SlowReason.NORMALIZER: "it normalizes text",
    SlowReason.ADDED_TOKENS: "it has added tokens that are not special",
    SlowReason.SETTING: "its BPE uses {setting}",
    SlowReason.BYTES_MISSING: "{bytes} of the 256 bytes are not in its vocabulary",
    SlowReason.MERGE: "a merge makes something that is not an ordinary token",
    SlowReason.MERGE_ORDER: "its merges are not in the order of the tokens they make",
    SlowReason.TOKEN: "its token {token!r} is not what its own text is encoded to",
}


def finding(finding: Finding) -> tuple[str, str]:
    """(check, outcome) of a finding of `verify`."""
    values = finding.values
    if "error" in values:
        return _CHECKS[finding.check], values["error"]
    outcome = _OUTCOMES[finding.check]
    return _CHECKS[finding.check], outcome(values) if callable(outcome) else outcome


_CHECKS = {
    Check.OPENS: "the files fit together",
    Check.LENGTHS_CORRECTED: "document lengths corrected on reading",
    Check.INDEX_MADE: "index made again from the ids",
    Check.CUT_OFF: "ids cut off, whole documents kept",
    Check.HAS_METADATA: "metadata",
    Check.IDS_HASH: "ids are those that were written",
    Check.INDEX_HASH: "index is the one that was written",
    Check.TOKENIZER_PRESENT: "its tokenizer exists",
    Check.TOKENIZER_MATCHES: "the tokenizer is the one that made it",
    Check.HAS_TOKENIZER: "tokenizer",
    Check.IDS_IN_VOCABULARY: "ids are in the vocabulary",
    Check.ENDS_MARKED: "each document ends with its end-of-document token",
    Check.MARKS_ONLY_AT_ENDS: "that token is nowhere else",
    Check.TEXT_BYTES: "ids stand for as much text as the metadata has",
    Check.NO_SHARED_DOCUMENTS: "no document is in both stores",
}


def _hash(values: Mapping[str, Any]) -> str:
    sha256, expected = values["sha256"], values["expected"]
    return f"SHA-256 {sha256[:12]}" + ("" if sha256 == expected else f", not {expected[:12]}")


def _marked(values: Mapping[str, Any]) -> str:
    cut = ", the last one is cut" if values["truncated"] else ""
    return f"{values['marked']:,} of {values['documents']:,}{cut}"


_OUTCOMES: dict[Check, Text] = {
    Check.OPENS: lambda v: f"{v['unique_tokens']:,} tokens in {count(v['documents'], 'document')}",
    Check.LENGTHS_CORRECTED: lambda v: (
        f"the index leaves the end-of-document token, id {v['end_of_document']}, out of "
        f"{v['documents']:,}"
    ),
    Check.INDEX_MADE: lambda v: f"ends of {count(v['documents'], 'document')} found",
    Check.CUT_OFF: lambda v: (
        f"{count(v['documents'], 'document')} kept, {v['lost_documents']:,} lost, with "
        f"{v['lost_tokens']:,} tokens; prepare the text again to have them"
    ),
    Check.HAS_METADATA: _NO_METADATA,
    Check.IDS_HASH: _hash,
    Check.INDEX_HASH: _hash,
    Check.TOKENIZER_PRESENT: "no tokenizer.json",
    Check.HAS_TOKENIZER: _NO_TOKENIZER,
    Check.IDS_IN_VOCABULARY: lambda v: (
        f"{v['lowest']:,} to {v['highest']:,} of {v['vocabulary']:,}"
    ),
    Check.ENDS_MARKED: _marked,
    Check.MARKS_ONLY_AT_ENDS: lambda v: f"{v['inside']:,} inside documents",
    Check.TEXT_BYTES: lambda v: f"{v['bytes']:,} bytes",
    Check.NO_SHARED_DOCUMENTS: lambda v: (
        f"{v['shared']:,} shared" if v["shared"] else "none shared"
    ),
}


def recommendation(found: VocabularyComparison) -> str:
    """What the table of vocabularies is about, and the rule behind the recommendation."""
    [chosen] = [each for each in found.vocabularies if each.name == found.recommended]
    limits = (
        "at most 5 % of the tokens are seen fewer than 10 times\n(so 95 % give 100 examples in ten "
        "epochs, the rule of arXiv 2004.02334) and the table is at most half of the model"
    )
    rule = f"has the fewest tokens of those where {limits}."
    if not chosen.fits:
        rule = f"has the smallest table. There is none where {limits}."
    return (
        f"{found.text_bytes:,} bytes in {count(found.documents, 'document')}; table: its share of "
        f"a model with {found.params:,} other parameters and width {found.d_model:,} (--params).\n"
        f"{found.recommended} {rule}"
    )


def measured_vocabularies(found: VocabularyComparison) -> str:
    """What the table of runs says, and what it does not."""
    if len({one.validation_bytes for one in found.measured}) > 1:
        return "These runs have different validation texts, so their figures cannot be compared."
    return (
        "bits/byte is the lowest validation NLL of these runs per byte of text. Within a family it "
        "compares\ntokenizers as far as their runs were tuned alike; sizes and lengths may differ."
    )


def description(found: Description) -> list[tuple[str, str]]:
    """(name, value) of what `inspect` found in a store."""
    rows = [
        ("store", f"{found.prefix} ({found.bytes:,} bytes, ids as {found.dtype})"),
        ("unique tokens", f"{found.unique_tokens:,}"),
        ("documents", f"{found.documents:,}"),
        (
            "tokens per document",
            f"{found.shortest:,} to {found.longest:,}, median {found.median:,.0f}, mean "
            f"{found.mean:,.1f}",
        ),
    ]
    if found.metadata is None:
        return [*rows, ("metadata", "none: tokenizer and origin are not known")]
    if found.bytes_per_token is not None:
        text = f"{found.metadata.text_bytes:,} bytes, {found.bytes_per_token:.3f} per token"
        rows.append(("text", text))
    return rows + _identity(found.metadata) + _origin(found.metadata)


def duplicates(found: DuplicateReport) -> list[list[str]]:
    """Rows of a table: what is repeated, documents, tokens, share of the tokens, ± of the share."""
    options = found.options
    rows: list[tuple[str, Amount | None]] = [
        ("documents equal to an earlier one", found.exact),
        (f"documents near to an earlier one (Jaccard ≥ {options.similarity:g})", found.near),
        (f"passages of {options.passage} tokens that stood earlier", found.passages),
        (f"lines of {options.line_documents} or more documents", found.lines),
    ]
    shared = (
        ("documents that the {} set has, too", found.leaked_documents),
        ("documents near to one of the {} set", found.leaked_near),
        ("13 tokens in a row that the {} set has", found.leaked_ngrams),
    )
    for what, leaked in shared:
        if leaked is not None:
            rows.append((f"training: {what.format('validation')}", leaked.train))
            rows.append((f"validation: {what.format('training')}", leaked.validation))
    return [_amount(what, amount) for what, amount in rows]


def _amount(what: str, amount: Amount | None) -> list[str]:
    if amount is None:
        return [what, "", "not known", "", ""]
    documents = "" if amount.documents is None else f"{amount.documents:,}"
    error = f"{amount.standard_error * amount.share / max(1, amount.tokens):.2%}"
    return [
        what,
        documents,
        f"{amount.tokens:,.0f}",
        f"{amount.share:.2%}",
        error if amount.standard_error else "",
    ]


def effective(found: DuplicateReport) -> list[str]:
    """What is left, and what the figure does not say."""
    left, total = found.effective, found.unique_tokens
    lines = [
        f"U_effective: {effective_tokens(left)}.",
        "What is repeated is taken away in the order of the table, each token once. The interval "
        "holds the error of sampling and near duplicates that MinHash misses (expected: "
        f"{found.missed.tokens:,.0f} tokens), not the choice of these limits.",
        "Text that says the same in other words (semantic duplicates) is not seen.",
    ]
    if found.sampled_tokens < total:
        lines.append(
            f"Passages and lines: {found.sampled_tokens:,} tokens, drawn at random, were compared "
            "with the whole store."
        )
    return lines


def effective_tokens(left: EffectiveUniqueTokens) -> str:
    """U_effective with its interval."""
    return (
        f"{left.estimate:,.0f} of {left.unique_tokens:,} tokens "
        f"({left.estimate / left.unique_tokens:.1%}); 95 % interval {left.low:,.0f} to "
        f"{left.high:,.0f}"
    )


ODD = {
    "rare": "rarest tokens",
    "common": "commonest tokens",
    "longest": "longest",
    "shortest": "shortest",
}
"""Why a document is odd."""


def tokenizer_fit(fit: TokenizerFit) -> list[tuple[str, str]]:
    """(name, value) of how a tokenizer fits a corpus."""
    rows = [
        ("tokenizer", f"{fit.name}, {fit.vocabulary:,} tokens"),
        ("never seen", f"{fit.unseen:,} ({fit.unseen / fit.vocabulary:.1%} of the vocabulary)"),
        ("seen fewer than 10 times", f"{fit.rare:,} ({fit.rare / fit.vocabulary:.1%})"),
        ("entropy of the frequencies", f"{fit.entropy:.3f} nats per token"),
    ]
    sides = (
        ("training", fit.train_bytes_per_token),
        ("validation", fit.validation_bytes_per_token),
    )
    for side, value in sides:
        if value is not None:
            rows.append((f"bytes per token, {side}", f"{value:.3f}"))
    return rows


def _identity(metadata: StoreMetadata) -> list[tuple[str, str]]:
    rows = []
    if (facts := metadata.tokenizer) is not None:
        rows = [
            ("tokenizer", f"{facts.name} ({facts.kind}, {facts.vocabulary:,} tokens)"),
            ("tokenizer SHA-256", facts.sha256),
            ("end of document, mask", f"id {facts.end_of_document:,}, id {facts.mask:,}"),
        ]
    for name, sha256 in (("ids", metadata.content_sha256), ("index", metadata.index_sha256)):
        if sha256 is not None:
            rows.append((f"{name} SHA-256", sha256))
    return [*rows, ("made with", metadata.created_with)]


def _origin(metadata: StoreMetadata) -> list[tuple[str, str]]:
    rows = []
    if (sources := metadata.sources) is not None:
        names = ", ".join(source.name for source in sources.listed[:3])
        more = sources.files - 3
        rows.append(("from", names + (f" and {more:,} more" if more > 0 else "")))
    if metadata.empty_documents:
        rows.append(("empty documents left out", f"{metadata.empty_documents:,}"))
    if (split := metadata.split) is not None:
        how = "given by the user"
        if split.seed is not None:
            how = f"whole documents, held out by a hash of seed {split.seed} and their number"
        text = f"{split.role}; validation is {split.share_of_text:.1%} of the text: {how}"
        rows.append(("split", text))
        rows.append(("leaked documents left out", f"{split.leaked_documents:,}"))
    if (repeated := metadata.duplicates) is not None:
        share = f"{repeated.documents:,} ({repeated.share_of_tokens:.1%} of the tokens)"
        rows.append(("repeated documents", f"{share}, {repeated.dropped:,} dropped"))
    if metadata.shuffled is not None:
        rows.append(("order", f"shuffled by seed {metadata.shuffled}"))
    if metadata.truncated_last_document:
        rows.append(("last document", "cut to hit the number of tokens"))
    if (parent := metadata.parent) is not None:
        how = f"the first {metadata.unique_tokens:,} tokens"
        if (mean := parent.tokens_per_document) is not None:
            how = f"the first {metadata.documents:,} documents, by the paper's rule at {mean:.6f} "
            how += "tokens per document"
        rows.append(("cut from", f"{parent.name} ({parent.unique_tokens:,} tokens): {how}"))
    return rows
