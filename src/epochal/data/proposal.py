"""What is a document in one large text, as far as it looks."""

from __future__ import annotations

from epochal.data.formats import TEXT, start_of
from epochal.data.inputs import TextInputs
from epochal.data.notes import CorpusNote
from epochal.data.options import DocumentRule
from epochal.data.readers import END_LINE

_LARGEST_SHARE = 0.5  # of the sample, for one document; chosen by us


def proposed_rule(texts: TextInputs, needs_several: bool) -> DocumentRule:
    """How plain text is cut where the user does not say; what is not `file` is noted.

    At lines that are `<|endoftext|>`, if the beginning of the largest file has any. Else each
    file is a document; but if all text is one file and a validation set is wanted
    (`needs_several`), its paragraphs are, or its lines.
    """
    found = [each for each in texts.sources if each.kind is TEXT and each.path is not None]
    if not found:
        return "file"
    largest = max(found, key=lambda source: source.bytes)
    assert largest.path is not None
    start = start_of(largest.path, texts.options).replace("\r\n", "\n").replace("\r", "\n")
    rule: DocumentRule = "file"
    if END_LINE in start.splitlines():
        rule = "endoftext"
    elif needs_several and len(texts.sources) == 1:
        cuts: list[tuple[DocumentRule, str]] = [("blank-line", "\n\n"), ("line", "\n")]
        for possible, cut in cuts:
            longest = max(map(len, start.split(cut)))
            if longest <= _LARGEST_SHARE * len(start):
                rule = possible
                break
    if rule != "file":
        texts.tell(largest.place, CorpusNote.PROPOSED_DOCUMENTS, rule=rule)
    return rule
