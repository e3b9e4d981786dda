"""From text to a corpus: what is written, that it is found again, and every refusal."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest
from data_helpers import FILES, TEXTS, contents, lines
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.data.corpus import Corpus
from epochal.data.notes import CorpusNote
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.data.tokenizer_sources import load_tokenizer
from epochal.errors import DataError, UserError
from epochal.report.text import describe
from epochal.results import note


def documents(store):
    """Texts of a store of bytes."""
    found = [store.document(number) for number in range(store.documents)]
    assert all(ids[-1] == 256 for ids in found)
    return [bytes(ids[:-1].astype(np.uint8)).decode() for ids in found]


def test_documents_keep_their_order_and_end_with_the_mark(tmp_path):
    made = prepare(lines(tmp_path, TEXTS), tmp_path / "c", PrepareOptions(tokenizer="bytes"))
    train, validation = documents(made.train), documents(made.validation)
    assert sorted(train + validation) == sorted(TEXTS)
    for side in (train, validation):
        assert side == [text for text in TEXTS if text in side]
    assert not made.already_existed
    assert made.tokenizer.sha256 == load_tokenizer("bytes").sha256
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
        made = prepare(source, folder / "c", PrepareOptions(**options))
    except DataError:
        assert not different
        assert not (folder / "c").exists()
        return
    train = documents(made.train)
    validation = documents(made.validation) if made.validation_store else []
    assert not set(train) & set(validation)
    wanted = Counter(text for text in texts if text)
    assert set(train) | set(validation) == set(wanted)
    metadata = made.train.metadata
    leaked = metadata.split.leaked_documents if metadata.split else 0
    dropped = metadata.duplicates.dropped
    assert len(train) + len(validation) + leaked + dropped == sum(wanted.values())
    if drop:
        assert len(set(train)) == len(train)
    assert metadata.empty_documents == sum(not text for text in texts)
    assert metadata.duplicates.documents == len(train) - len(set(train))
    assert bool(made.validation_store) == (share > 0)


def test_leakage_is_counted(tmp_path):
    texts = TEXTS + TEXTS[:30]
    made = prepare(
        lines(tmp_path, texts), tmp_path / "c", PrepareOptions(tokenizer="bytes", validation=0.3)
    )
    counts = Counter(texts)
    held = documents(made.validation)
    leaked = sum(counts[text] for text in set(held)) - len(held)
    assert leaked > 0
    assert made.train.metadata.split.leaked_documents == leaked
    assert made.validation.metadata.split.leaked_documents == leaked
    assert note(CorpusNote.LEAKED, documents=leaked) in made.notes


def test_the_metadata_tells_everything(tmp_path):
    source = lines(tmp_path, [*TEXTS, "", TEXTS[0]])
    made = prepare(
        source, tmp_path / "c", PrepareOptions(tokenizer="bytes", validation=0.1, seed=7)
    )
    train, validation = made.train.metadata, made.validation.metadata
    for store, metadata, role in (
        (made.train, train, "train"),
        (made.validation, validation, "validation"),
    ):
        assert metadata.unique_tokens == store.unique_tokens
        assert metadata.documents == store.documents
        assert metadata.text_bytes == store.unique_tokens - store.documents
        assert metadata.tokenizer == made.tokenizer.facts
        assert metadata.split.role == role
        assert metadata.split.seed == 7
        assert metadata.empty_documents == 1
        assert [listed.name for listed in metadata.sources.listed] == ["x.jsonl"]
    total = train.text_bytes + validation.text_bytes
    assert train.split.share_of_text == validation.text_bytes / total
    assert train.split.share_of_text == pytest.approx(0.1, abs=0.03)


def test_a_validation_text_of_ones_own(tmp_path):
    source = lines(tmp_path, TEXTS)
    other = lines(tmp_path, ["of its own", TEXTS[3], "", "twice", "twice"], "v.jsonl")
    made = prepare(
        source, tmp_path / "c", PrepareOptions(tokenizer="bytes", validation_inputs=[other])
    )
    assert documents(made.validation) == ["of its own", TEXTS[3], "twice", "twice"]
    assert documents(made.train) == [text for text in TEXTS if text != TEXTS[3]]
    split = made.train.metadata.split
    assert (split.leaked_documents, split.seed) == (1, None)
    assert made.validation.metadata.empty_documents == 1
    assert made.validation.metadata.sources.listed[0].name == "v.jsonl"
    with pytest.raises(UserError, match="give one of the two"):
        prepare(source, tmp_path / "d", PrepareOptions(validation=0.1, validation_inputs=[other]))


def test_a_trained_tokenizer_sees_no_validation_text(tmp_path):
    source = lines(tmp_path, TEXTS)
    held = lines(tmp_path, ["zzqqzzqq " * 300], "v.jsonl")
    made = prepare(
        source, tmp_path / "c", PrepareOptions(tokenizer="bpe:300", validation_inputs=[held])
    )
    tokens = [made.tokenizer.token_bytes(number) for number in range(made.tokenizer.vocabulary)]
    assert not any(b"zz" in token for token in tokens)
    assert made.tokenizer.name == "bpe:300"
    assert any(b"document" in token for token in tokens)


def test_workers_change_nothing(tmp_path, english):
    source = lines(tmp_path, english)
    for workers in (1, 3):
        made = prepare(
            source, tmp_path / f"c{workers}", PrepareOptions(tokenizer="bpe:400", workers=workers)
        )
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
        prepare(
            source, tmp_path / source.suffix, PrepareOptions(tokenizer="bytes", documents="line")
        ).train
        for source in (plain, tmp_path / "x.parquet", tmp_path / "x.txt")
    ]
    assert len({store.content_sha256 for store in stores}) == 1


# The original's own files


@pytest.mark.parametrize("name", ["gpt2", "bpe500"])
def test_the_originals_store_comes_out_byte_for_byte(samples, tmp_path, name):
    prefix = samples / "data" / f"{'gpt2tok' if name == 'gpt2' else name}_pub_text_document"
    made = prepare(
        FILES / "docs.jsonl", tmp_path, PrepareOptions(tokenizer=samples / name, validation=0)
    )
    for suffix in (".bin", ".idx"):
        original = prefix.with_name(prefix.name + suffix).read_bytes()
        assert (tmp_path / f"train{suffix}").read_bytes() == original
    assert made.train.metadata.empty_documents == 1
    assert made.tokenizer.why_slow is None  # through tiktoken
    assert made.validation_store is None


# Options


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"validation": 1.0}, r"validation = 1.0: .* below 1"),
        ({"validation": -0.1}, r"validation = -0.1: "),
        ({"validation": float("nan")}, r"validation = nan: "),
        ({"tokenizer": "bpe:400", "end_of_document": "</s>"}, r"end_of_document = .*leave it out"),
        ({"tokenizer": "bpe:12"}, r"'bpe:12' is too small"),
        ({"tokenizer": "nowhere"}, r"there is no tokenizer 'nowhere'"),
        ({"documents": "page"}, r"documents = 'page': give one of file, line, blank-line"),
    ],
)
def test_options_that_cannot_be(tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence):
        prepare(lines(tmp_path, TEXTS), tmp_path / "c", PrepareOptions(**options))
    assert not (tmp_path / "c").exists()


def test_everything_is_held_out(tmp_path):
    source = lines(tmp_path, TEXTS)
    with pytest.raises(DataError, match=r"no text is left for training.*another validation set"):
        prepare(
            source, tmp_path / "c", PrepareOptions(tokenizer="bytes", validation_inputs=[source])
        )


def test_one_document_only(tmp_path):
    (tmp_path / "book.txt").write_text("One.\n\nTwo.\n\nThree.\n")
    options = PrepareOptions(tokenizer="bytes", documents="file")
    with pytest.raises(DataError, match=r"single document.*`documents` = blank-line"):
        prepare(tmp_path / "book.txt", tmp_path / "c", options)
    made = prepare(
        tmp_path / "book.txt",
        tmp_path / "c",
        PrepareOptions(tokenizer="bytes", documents="blank-line"),
    )
    assert made.train.documents + made.validation.documents == 3


def test_notes_on_the_inputs(tmp_path):
    lines(tmp_path, [*["same"] * 9, "a\0b", "", *TEXTS[:3], "long " * 2000])
    (tmp_path / "code.py").write_text("1")
    options = PrepareOptions(tokenizer="bpe:4000", validation=0.3)
    made = prepare(tmp_path, tmp_path.with_name("noted"), options)
    values = {each.code: each.values for each in made.notes}
    assert values[CorpusNote.SKIPPED_FILES] == {"files": 1, "suffixes": {".py": 1}}
    assert values[CorpusNote.REPEATED] == {"repeated": 8, "documents": 14}
    assert values[CorpusNote.EMPTY] == {"documents": 1}
    assert values[CorpusNote.WITH_NUL] == {"documents": 1}
    assert values[CorpusNote.VALIDATION_SHARE]["wanted"] == 0.3
    assert values[CorpusNote.SMALL_VOCABULARY]["vocabulary"] == made.tokenizer.vocabulary < 4000
    assert all(describe(each) for each in made.notes)


def test_a_large_text_trains_the_tokenizer_on_every_nth_document(tmp_path, monkeypatch):
    module = sys.modules["epochal.data.prepare"]  # by import it is the function
    monkeypatch.setattr(module, "_TRAINING_TEXT", 1000)
    source = lines(tmp_path, TEXTS)
    options = PrepareOptions(tokenizer="bpe:280", validation=0)
    made = prepare(source, tmp_path / "c", options)
    assert [each.code for each in made.notes] == [CorpusNote.TOKENIZER_SAMPLE]


# Corpus folders


def test_folders_that_are_no_corpus(tmp_path):
    with pytest.raises(
        DataError, match=r"not a prepared corpus \(the folder does not exist\); make"
    ):
        Corpus.open(tmp_path / "nowhere")
    prepare(lines(tmp_path, TEXTS), tmp_path / "c", PrepareOptions(tokenizer="bytes"))
    tokenizer = tmp_path / "c" / "tokenizer.json"
    content = tokenizer.read_text()
    tokenizer.write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer.json is not a tokenizer.json"):
        Corpus.open(tmp_path / "c")
    tokenizer.unlink()
    with pytest.raises(DataError, match=r"has no tokenizer.json; copy it there or prepare again"):
        Corpus.open(tmp_path / "c")
    prepare(lines(tmp_path, TEXTS), tmp_path / "d", PrepareOptions(tokenizer="bpe:300"))
    tokenizer.write_bytes((tmp_path / "d" / "tokenizer.json").read_bytes())
    with pytest.raises(DataError, match=r"made with the tokenizer bytes .*, not with bpe:300"):
        Corpus.open(tmp_path / "c")
    tokenizer.write_text(content)
    assert Corpus.open(tmp_path / "c").train.documents
