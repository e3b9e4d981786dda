"""What tokenizers lose or change of a text is refused, allowed or said, and the store verifies."""

from __future__ import annotations

import pytest
from data_helpers import CASES, TEXTS, contents, lines
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as HFTokenizer

from epochal.data.inspection import verify
from epochal.data.notes import CorpusNote
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.errors import DataError
from epochal.report.text import describe


def byte_level(folder, alphabet, normalizer=None):
    """A byte-level BPE learnt from TEXTS that has the letters of `alphabet`."""
    hf = HFTokenizer(models.BPE())
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    hf.decoder = decoders.ByteLevel()
    hf.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    hf.train_from_iterator(TEXTS, trainer)
    hf.add_special_tokens([AddedToken("</s>", special=True, normalized=False)])
    folder.mkdir()
    hf.save(str(folder / "tokenizer.json"))
    return folder


def made(tmp_path, tokenizer, texts, **options):
    source = lines(tmp_path, texts)
    return prepare(source, tmp_path / "c", PrepareOptions(tokenizer=tokenizer, **options))


def test_a_lost_character_is_refused_or_allowed(tmp_path):
    tokenizer = byte_level(tmp_path / "t", [])
    texts = [*TEXTS, "document für 日本"]
    with pytest.raises(DataError, match=r"tokenizer t has nothing for 'f' .*`allow_lossy`\)"):
        made(tmp_path, tokenizer, texts)
    assert not (tmp_path / "c").exists()
    corpus = made(tmp_path, tokenizer, texts, allow_lossy=True)
    [note] = [note for note in corpus.notes if note.code == CorpusNote.TEXT_LOST]
    assert note.values == {"documents": 1, "of": 61, "lost": "f"}
    assert "loses characters of 1 of 61 documents, first 'f'" in describe(note)
    assert all(finding.ok for finding in verify(tmp_path / "c"))
    total = sum(store.metadata.text_bytes for store in corpus.stores)
    assert total == sum(map(len, TEXTS)) + len("document r ")  # f, ü, 日本 are gone


def test_a_text_that_loses_nothing_needs_no_leave(tmp_path):
    tokenizer = byte_level(tmp_path / "t", [])
    corpus = made(tmp_path, tokenizer, TEXTS)
    assert corpus.notes == ()
    before = contents(tmp_path / "c")
    made(tmp_path, tokenizer, TEXTS, allow_lossy=True, overwrite=True)
    assert contents(tmp_path / "c") == before


def test_a_normaliser_is_told_once_and_the_store_verifies(tmp_path):
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = byte_level(tmp_path / "t", alphabet, normalizers.NFC())
    corpus = made(tmp_path, tokenizer, [*TEXTS, "cafe\u0301", "re\u0301sume\u0301"])
    [note] = [note for note in corpus.notes if note.code == CorpusNote.TEXT_CHANGED]
    assert note.values == {"documents": 2, "of": 62, "before": "e\u0301", "after": "\xe9"}
    assert describe(note).endswith(r"of 2 of 62 documents, first 'e\u0301' to '\xe9'")
    assert all(finding.ok for finding in verify(tmp_path / "c"))
    total = sum(store.metadata.text_bytes for store in corpus.stores)
    assert total == sum(map(len, TEXTS)) + len("café résumé".encode()) - 1


def test_an_unknown_token_is_text_lost(tmp_path):
    hf = HFTokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "b": 2}, unk_token="[UNK]"))
    hf.normalizer = normalizers.Lowercase()
    hf.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    hf.add_special_tokens(["[UNK]", "[SEP]"])
    hf.save(str(tmp_path / "t.json"))
    texts = ["a", "b a", "A b", "a ü b"]
    with pytest.raises(DataError, match=r"has nothing for 'ü'"):
        made(tmp_path, tmp_path / "t.json", texts)
    corpus = made(tmp_path, tmp_path / "t.json", texts, allow_lossy=True)
    values = {note.code: note.values["documents"] for note in corpus.notes if "of" in note.values}
    assert values == {CorpusNote.TEXT_LOST: 1, CorpusNote.TEXT_CHANGED: 1}
    assert all(finding.ok for finding in verify(tmp_path / "c"))


# The tokenizers that failed for users


@pytest.fixture
def cases():
    if not CASES.is_dir():
        pytest.skip(f"the collection of files that failed is not here ({CASES})")
    return CASES


def test_the_cases(cases, tmp_path):
    text, english = cases / "unicode" / "a.jsonl", cases / "ds_csv"
    tokenizers = {path.stem: path for path in (cases / "tokenizers").iterdir()}

    def run(inputs, name, **options):
        options = PrepareOptions(tokenizer=tokenizers.pop(name), overwrite=True, **options)
        corpus = prepare(inputs, tmp_path / "c", options)
        assert all(finding.ok for finding in verify(tmp_path / "c"))
        return {note.code for note in corpus.notes}

    with pytest.raises(DataError, match=r"has nothing for 'न' \(first in document 0\).*`allow_lo"):
        prepare(text, tmp_path / "c", PrepareOptions(tokenizer=tokenizers["noalpha"]))
    assert CorpusNote.TEXT_LOST in run(text, "noalpha", allow_lossy=True)
    assert CorpusNote.TEXT_CHANGED in run(text, "bl_nfc")
    assert run(english, "wordpiece") == {CorpusNote.TEXT_CHANGED}
    assert not tokenizers
