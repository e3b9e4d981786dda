"""What `epochal data inspect` says of a store, as pairs of name and value."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from epochal.data import Description, Passport


def description_pairs(found: Description) -> list[tuple[str, str]]:
    """(name, value) of what `epochal data inspect` tells of a store."""
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
    rows += [("note", note) for note in found.notes]
    if found.passport is None:
        return [*rows, ("passport", "none: tokenizer and origin are not known")]
    if found.bytes_per_token is not None:
        text = f"{found.passport.text_bytes:,} bytes, {found.bytes_per_token:.3f} a token"
        rows.append(("text", text))
    return rows + _identity(found.passport) + _origin(found.passport)


def _identity(passport: Passport) -> list[tuple[str, str]]:
    rows = []
    if (facts := passport.tokenizer) is not None:
        rows = [
            ("tokenizer", f"{facts.name} ({facts.kind}, {facts.vocabulary:,} tokens)"),
            ("tokenizer SHA-256", facts.sha256),
            ("end of document, mask", f"id {facts.end_of_document:,}, id {facts.mask:,}"),
        ]
    for name, known in (("ids", passport.content_sha256), ("index", passport.index_sha256)):
        if known is not None:
            rows.append((f"{name} SHA-256", known))
    return [*rows, ("made by", passport.created_with)]


def _origin(passport: Passport) -> list[tuple[str, str]]:
    rows = []
    if (sources := passport.sources) is not None:
        names = ", ".join(source.name for source in sources.listed[:3])
        more = sources.files - 3
        rows.append(("from", names + (f" and {more:,} more" if more > 0 else "")))
    if passport.empty_documents:
        rows.append(("empty documents left out", f"{passport.empty_documents:,}"))
    if (split := passport.split) is not None:
        whole = f"{split.role}; validation is {split.share_of_text:.1%} of the text: {split.how}"
        rows.append(("split", whole))
        rows.append(("leaked documents left out", f"{split.leaked_documents:,}"))
    if (repeated := passport.duplicates) is not None:
        share = f"{repeated.documents:,} ({repeated.share_of_tokens:.1%} of the tokens)"
        rows.append(("repeated documents", f"{share}, {repeated.dropped:,} dropped"))
    if passport.shuffled is not None:
        rows.append(("order", f"shuffled by seed {passport.shuffled}"))
    if passport.truncated_last_document:
        rows.append(("last document", "cut to hit the number of tokens"))
    if (parent := passport.parent) is not None:
        rows.append(("cut from", f"{parent.name} ({parent.unique_tokens:,} tokens): {parent.how}"))
    return rows
