"""From text to a corpus: what is written, that it is found again, and every refusal."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest
from data_helpers import FILES, TEXTS, contents, lines
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.data import PreparedCorpus, prepare
from epochal.data.tokenizer import byte_tokenizer
from epochal.errors import DataError


def documents(store):
    """Texts of a store of bytes."""
    found = [store.document(number) for number in range(store.documents)]
    assert all(ids[-1] == 256 for ids in found)
    return [bytes(ids[:-1].astype(np.uint8)).decode() for ids in found]


def test_documents_keep_their_order_and_end_with_the_mark(tmp_path):
    made = prepare(lines(tmp_path, TEXTS), tmp_path / "c", tokenizer="bytes")
    train, validation = documents(made.train), documents(made.validation)
    assert sorted(train + validation) == sorted(TEXTS)
    for side in (train, validation):
        assert side == [text for text in TEXTS if text in side]
    assert not made.already_there
    assert made.tokenizer.sha256 == byte_tokenizer().sha256
    names = {"tokenizer.json"} | {f"{s}.{e}" for s in ("train", "validation") for e in SUFFIXES}
    assert set(contents(tmp_path / "c")) - {".lock"} == names


SUFFIXES = ("bin", "idx", "json")


@given(
    st.lists(st.text(alphabet="aä\n ", max_size=4), min_size=4, max_size=25),
    st.sampled_from([0.0, 0.2, 0.5]),
    st.booleans(),
    st.integers(0, 3),
)
@settings(deadline=None, max_examples=60)
def test_the_split_leaks_nothing_and_loses_nothing(tmp_path_factory, texts, share, drop, seed):
    folder = tmp_path_factory.mktemp("split")
    options = {"validation": share, "drop_duplicates": drop, "seed": seed, "tokenizer": "bytes"}
    source = lines(folder, texts)
    different = {text for text in texts if text}
    if len(different) < 2 or (share > 0 and not drop and max(map(texts.count, different)) > 1):
        different = set()  # whether enough is left for training depends on what is held out
    try:
        made = prepare(source, folder / "c", **options)
    except DataError:
        assert not different
        assert not (folder / "c").exists()
        return
    train = documents(made.train)
    validation = documents(made.validation) if made.validation else []
    assert not set(train) & set(validation)
    wanted = Counter(text for text in texts if text)
    assert set(train) | set(validation) == set(wanted)
    passport = made.train.passport
    leaked = passport.split.leaked_documents if passport.split else 0
    dropped = passport.duplicates.dropped
    assert len(train) + len(validation) + leaked + dropped == sum(wanted.values())
    if drop:
        assert len(set(train)) == len(train)
    assert passport.empty_documents == sum(not text for text in texts)
    assert passport.duplicates.documents == len(train) - len(set(train))
    assert bool(made.validation) == (share > 0)


def test_leakage_is_counted(tmp_path, capsys):
    texts = TEXTS + TEXTS[:30]
    made = prepare(lines(tmp_path, texts), tmp_path / "c", tokenizer="bytes", validation=0.3)
    counts = Counter(texts)
    held = documents(made.validation)
    leaked = sum(counts[text] for text in set(held)) - len(held)
    assert leaked > 0
    assert made.train.passport.split.leaked_documents == leaked
    assert made.validation.passport.split.leaked_documents == leaked
    assert f"left {leaked} documents out of the training set" in capsys.readouterr().err


def test_the_passport_tells_everything(tmp_path):
    source = lines(tmp_path, [*TEXTS, "", TEXTS[0]])
    made = prepare(source, tmp_path / "c", tokenizer="bytes", validation=0.1, seed=7)
    train, validation = made.train.passport, made.validation.passport
    for store, passport, role in (
        (made.train, train, "train"),
        (made.validation, validation, "validation"),
    ):
        assert passport.unique_tokens == store.unique_tokens
        assert passport.documents == store.documents
        assert passport.text_bytes == store.unique_tokens - store.documents
        assert passport.tokenizer == made.tokenizer.facts
        assert passport.split.role == role
        assert passport.split.seed == 7
        assert passport.empty_documents == 1
        assert [listed.name for listed in passport.sources.listed] == ["x.jsonl"]
    total = train.text_bytes + validation.text_bytes
    assert train.split.share_of_text == validation.text_bytes / total
    assert train.split.share_of_text == pytest.approx(0.1, abs=0.03)


def test_a_validation_text_of_ones_own(tmp_path):
    source = lines(tmp_path, TEXTS)
    other = lines(tmp_path, ["of its own", TEXTS[3], "", "twice", "twice"], "v.jsonl")
    made = prepare(source, tmp_path / "c", tokenizer="bytes", validation_inputs=[other])
    assert documents(made.validation) == ["of its own", TEXTS[3], "twice", "twice"]
    assert documents(made.train) == [text for text in TEXTS if text != TEXTS[3]]
    split = made.train.passport.split
    assert (split.leaked_documents, split.seed) == (1, None)
    assert "given by the user" in split.how
    assert made.validation.passport.empty_documents == 1
    assert made.validation.passport.sources.listed[0].name == "v.jsonl"
    with pytest.raises(DataError, match="give one of them"):
        prepare(source, tmp_path / "d", validation=0.1, validation_inputs=[other])


def test_a_trained_tokenizer_sees_no_validation_text(tmp_path):
    source = lines(tmp_path, TEXTS)
    held = lines(tmp_path, ["zzqqzzqq " * 300], "v.jsonl")
    made = prepare(source, tmp_path / "c", tokenizer="bpe:300", validation_inputs=[held])
    tokens = [made.tokenizer.token_bytes(number) for number in range(made.tokenizer.vocabulary)]
    assert not any(b"zz" in token for token in tokens)
    assert made.tokenizer.name == "bpe:300"
    assert any(b"document" in token for token in tokens)


def test_workers_change_nothing(tmp_path, english):
    source = lines(tmp_path, english)
    for workers in (1, 3):
        made = prepare(source, tmp_path / f"c{workers}", tokenizer="bpe:400", workers=workers)
    one, three = contents(tmp_path / "c1"), contents(tmp_path / "c3")
    assert one == three
    assert made.train.tokens.dtype == np.uint16


def test_the_same_text_in_every_packing_gives_the_same_ids(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    plain = lines(tmp_path, TEXTS)
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "x.parquet")
    (tmp_path / "x.txt").write_text("\n".join(TEXTS))
    stores = [
        prepare(source, tmp_path / source.suffix, tokenizer="bytes", documents="line").train
        for source in (plain, tmp_path / "x.parquet", tmp_path / "x.txt")
    ]
    assert len({store.content_sha256() for store in stores}) == 1


# The original's own files


@pytest.mark.parametrize("name", ["gpt2", "bpe500"])
def test_the_originals_store_comes_out_byte_for_byte(samples, tmp_path, name):
    prefix = samples / "data" / f"{'gpt2tok' if name == 'gpt2' else name}_pub_text_document"
    made = prepare(FILES / "docs.jsonl", tmp_path, tokenizer=samples / name, validation=0)
    for suffix in (".bin", ".idx"):
        original = prefix.with_name(prefix.name + suffix).read_bytes()
        assert (tmp_path / f"train{suffix}").read_bytes() == original
    assert made.train.passport.empty_documents == 1
    assert made.tokenizer.why_slow is None  # through tiktoken
    assert made.validation is None


# Options


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"validation": 1.0}, r"`validation` = 1 is no share .* below 1"),
        ({"validation": -0.1}, r"`validation` = -0.1 is no share"),
        ({"validation": float("nan")}, r"`validation` = nan is no share"),
        ({"tokenizer": "bpe:400", "end_of_document": "</s>"}, r"leave --end-of-document out"),
        ({"tokenizer": "bpe:12"}, r"'bpe:12' is too small"),
        ({"tokenizer": "nowhere"}, r"there is no tokenizer 'nowhere'"),
        ({"documents": "page"}, r"`documents` = 'page' is not one of file, line, blank-line"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, sentence):
    with pytest.raises(DataError, match=sentence):
        prepare(lines(tmp_path, TEXTS), tmp_path / "c", **options)
    assert not (tmp_path / "c").exists()


def test_everything_is_held_out(tmp_path):
    source = lines(tmp_path, TEXTS)
    with pytest.raises(DataError, match=r"no text is left for training.*another validation set"):
        prepare(source, tmp_path / "c", tokenizer="bytes", validation_inputs=[source])


def test_one_document_only(tmp_path):
    (tmp_path / "book.txt").write_text("One.\n\nTwo.\n\nThree.\n")
    with pytest.raises(DataError, match=r"single document.*--documents blank-line"):
        prepare(tmp_path / "book.txt", tmp_path / "c", tokenizer="bytes")
    made = prepare(tmp_path / "book.txt", tmp_path / "c", tokenizer="bytes", documents="blank-line")
    assert made.train.documents + made.validation.documents == 3


def test_what_a_person_is_told(tmp_path, capsys):
    lines(tmp_path, [*["same"] * 9, "a\0b", "", *TEXTS[:3], "long " * 2000])
    (tmp_path / "code.py").write_text("1")
    prepare(tmp_path, tmp_path.with_name("told"), tokenizer="bpe:4000", validation=0.3)
    told = " ".join(capsys.readouterr().err.split())
    assert "left out 1 file of no known kind of text (1 .py); name one to read it" in told
    assert "8 of 14 documents repeat an earlier one word for word; --drop-duplicates" in told
    assert "left out 1 empty document" in told
    assert "NUL characters are in 1 document; is this text?" in told
    assert "the validation set is" in told
    assert "the text gave the tokenizer only" in told


def test_a_large_text_trains_the_tokenizer_on_every_nth_document(tmp_path, monkeypatch, capsys):
    module = sys.modules["epochal.data.prepare"]  # by import it is the function
    monkeypatch.setattr(module, "_TRAINING_TEXT", 1000)
    source = lines(tmp_path, TEXTS)
    prepare(source, tmp_path / "c", tokenizer="bpe:280", validation=0)
    assert "trained on one training document in" in capsys.readouterr().err


# Corpus folders


def test_folders_that_are_no_corpus(tmp_path):
    with pytest.raises(DataError, match=r"no prepared corpus \(the folder does not exist\); make"):
        PreparedCorpus.open(tmp_path / "nowhere")
    prepare(lines(tmp_path, TEXTS), tmp_path / "c", tokenizer="bytes")
    tokenizer = tmp_path / "c" / "tokenizer.json"
    content = tokenizer.read_text()
    tokenizer.write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer.json is not a tokenizer.json"):
        PreparedCorpus.open(tmp_path / "c")
    tokenizer.unlink()
    with pytest.raises(DataError, match=r"has no tokenizer.json; copy it there or prepare again"):
        PreparedCorpus.open(tmp_path / "c")
    prepare(lines(tmp_path, TEXTS), tmp_path / "d", tokenizer="bpe:300")
    tokenizer.write_bytes((tmp_path / "d" / "tokenizer.json").read_bytes())
    with pytest.raises(DataError, match=r"made with the tokenizer bytes .*, not with bpe:300"):
        PreparedCorpus.open(tmp_path / "c")
    tokenizer.write_text(content)
    assert PreparedCorpus.open(tmp_path / "c").train.documents
