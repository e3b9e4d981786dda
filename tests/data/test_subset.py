"""Budgets of unique tokens: exact, nested, and as the paper cuts them."""

from __future__ import annotations

import json
import math
import os
from fractions import Fraction

import numpy as np
import pytest
from data_helpers import FILES, TEXTS, contents, lines, write_pair
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.data.corpus import Corpus
from epochal.data.inspection import verify
from epochal.data.options import PrepareOptions, SubsetOptions
from epochal.data.prepare import prepare
from epochal.data.store import TokenStore
from epochal.data.store_writer import StoreWriter
from epochal.data.subset import paper_documents, subset
from epochal.errors import DataError, OptionError, StorageError

SAMPLE = FILES / "bpe500_pub_text_document"


@pytest.fixture
def corpus(tmp_path):
    return prepare(lines(tmp_path, TEXTS), tmp_path / "corpus", PrepareOptions(tokenizer="bytes"))


@given(st.integers(1, 13_622))
@settings(deadline=None, max_examples=30)
def test_an_exact_budget(tmp_path_factory, budget):
    whole = TokenStore.open(SAMPLE)
    made = subset(SAMPLE, tmp_path_factory.mktemp("cut") / "x", budget)
    assert made.tokens.tolist() == whole.tokens[:budget].tolist()
    assert made.metadata.unique_tokens == budget
    starts = whole.document_starts
    inside = starts[starts < budget]
    assert made.document_starts.tolist() == [*inside, budget]
    assert made.metadata.truncated_last_document == (budget not in starts)
    assert made.content_sha256 == whole.first(budget).content_sha256


@given(st.integers(1, 13_622), st.one_of(st.none(), st.floats(50, 400)))
@settings(deadline=None, max_examples=30)
def test_like_the_paper(tmp_path_factory, budget, mean):
    whole = TokenStore.open(SAMPLE)
    per_document = Fraction(mean) if mean else Fraction(whole.unique_tokens, whole.documents)
    documents = paper_documents(budget, per_document)
    out = tmp_path_factory.mktemp("cut") / "x"
    if documents > whole.documents:
        with pytest.raises(DataError, match=rf"are {documents} documents, but .* holds 59"):
            subset(SAMPLE, out, budget, SubsetOptions(like_paper=True, tokens_per_document=mean))
        return
    made = subset(SAMPLE, out, budget, SubsetOptions(like_paper=True, tokens_per_document=mean))
    assert made.documents == documents
    assert made.tokens.tolist() == whole.tokens[: whole.document_starts[documents]].tolist()
    assert not made.metadata.truncated_last_document


@pytest.mark.parametrize(("mean", "documents"), [(478.625835, 208_931), (1058.057342, 94_513)])
def test_the_papers_figures_for_100m_tokens(mean, documents):
    assert paper_documents(100_000_000, Fraction(mean)) == documents


def test_halves_go_up_and_one_document_is_the_least():
    found = [paper_documents(unique, Fraction(10)) for unique in (1, 14, 15, 24, 25, 30)]
    assert found == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize("documents", [1, 20, 59])
def test_like_paper_is_the_original_on_the_first_documents(samples, tmp_path, documents):
    """The original keeps the first K lines and tokenises those; the subset is the same store."""
    with (FILES / "docs.jsonl").open() as file:
        texts = [json.loads(line)["text"] for line in file]
    kept = [text for text in texts if text][:documents]
    alone = prepare(
        lines(tmp_path, kept),
        tmp_path / "k",
        PrepareOptions(tokenizer=samples / "bpe500", validation=0),
    )
    prefix = samples / "data" / "bpe500_pub_text_document"
    budget, mean = 100 * documents, 100.0
    cut = subset(
        prefix, tmp_path / "cut", budget, SubsetOptions(like_paper=True, tokens_per_document=mean)
    )
    for suffix in (".bin", ".idx"):
        path = cut.prefix.with_name(cut.prefix.name + suffix)
        assert path.read_bytes() == (tmp_path / "k" / f"train{suffix}").read_bytes()
    assert cut.content_sha256 == alone.train.content_sha256


def test_subsets_are_nested(tmp_path):
    small, large = (subset(SAMPLE, tmp_path / str(n), n) for n in (1000, 5000))
    assert large.tokens[:1000].tolist() == small.tokens.tolist()


def test_documents_of_several_sequences_become_one(tmp_path):
    write_pair(tmp_path / "x", range(10), [3, 2, 4, 1], [0, 2, 3, 4])
    made = subset(tmp_path / "x", tmp_path / "y", 7)
    assert made.document_starts.tolist() == [0, 5, 7]
    assert made.sizes.tolist() == [5, 2]
    assert made.metadata.tokenizer is made.metadata.text_bytes is None


def test_a_corpus_gives_a_corpus(tmp_path, corpus):
    made = subset(tmp_path / "corpus", tmp_path / "small", 500)
    small = Corpus.open(tmp_path / "small")
    assert small.train.tokens.tolist() == corpus.train.tokens[:500].tolist() == made.tokens.tolist()
    before, after = contents(tmp_path / "corpus"), contents(tmp_path / "small")
    for name in ("validation.bin", "validation.idx", "validation.json", "tokenizer.json"):
        assert after[name] == before[name]
    metadata = small.train.metadata
    assert metadata.text_bytes == 500 - metadata.documents + metadata.truncated_last_document
    assert metadata.parent.content_sha256 == corpus.train.content_sha256
    assert metadata.parent.tokens_per_document is None
    assert metadata.sources == corpus.train.metadata.sources
    assert metadata.preparation is None
    assert all(finding.ok for finding in verify(tmp_path / "small"))


def test_a_corpus_without_validation(tmp_path):
    source = lines(tmp_path, TEXTS)
    prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bytes", validation=0))
    subset(tmp_path / "c", tmp_path / "small", 100)
    small = Corpus.open(tmp_path / "small")
    assert small.validation_store is None
    with pytest.raises(DataError, match="small has no validation set"):
        _ = small.validation


def test_all_of_it(tmp_path, corpus):
    total = corpus.train.unique_tokens
    made = subset(tmp_path / "corpus" / "train", tmp_path / "x", total)
    assert made.metadata.text_bytes == corpus.train.metadata.text_bytes
    assert not made.metadata.truncated_last_document
    with pytest.raises(DataError, match=rf"`unique_tokens` = {total + 1:,} but .* holds {total:,}"):
        subset(tmp_path / "corpus", tmp_path / "y", total + 1)
    # A cut of a cut remembers that its last document is not whole.
    cut = subset(made.prefix, tmp_path / "cut", 33)
    again = subset(cut.prefix, tmp_path / "again", 33)
    assert cut.metadata.truncated_last_document
    assert again.metadata.truncated_last_document


@pytest.mark.parametrize("beside", ["none", "same", "other"])
def test_text_bytes_of_a_store_need_its_tokenizer(tmp_path, corpus, beside):
    tokenizer = tmp_path / "corpus" / "tokenizer.json"
    if beside == "none":
        tokenizer.unlink()
    elif beside == "other":
        prepare(lines(tmp_path, TEXTS), tmp_path / "d", PrepareOptions(tokenizer="bpe:300"))
        tokenizer.write_bytes((tmp_path / "d" / "tokenizer.json").read_bytes())
    made = subset(tmp_path / "corpus" / "train", tmp_path / "x", 100)
    assert (made.metadata.text_bytes is not None) == (beside == "same")


def test_again_does_nothing_and_another_is_refused(tmp_path, corpus, capsys):
    for source, out in ((SAMPLE, tmp_path / "x"), (tmp_path / "corpus", tmp_path / "small")):
        subset(source, out, 100)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
        subset(source, out, 100)
        assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
        assert "already holds this subset" in capsys.readouterr().err
        with pytest.raises(DataError, match=r"already exists; .*`overwrite`"):
            subset(source, out, 101)
        assert subset(source, out, 101, SubsetOptions(overwrite=True)).unique_tokens == 101


@pytest.mark.parametrize("name", ["x.bin", "x.json"])
def test_a_file_of_something_else_stays(tmp_path, name):
    (tmp_path / name).write_text('{"precious": 1}')
    with pytest.raises(DataError, match=r"was not made by Epochal|is not the metadata"):
        subset(SAMPLE, tmp_path / "x", 100)
    assert (tmp_path / name).read_text() == '{"precious": 1}'
    assert subset(SAMPLE, tmp_path / "x", 100, SubsetOptions(overwrite=True)).unique_tokens == 100


def test_a_folder_of_something_else_stays(tmp_path, corpus):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "train.bin").write_text("precious")
    with pytest.raises(DataError, match=r"train.bin exists and was not made by Epochal"):
        subset(tmp_path / "corpus", tmp_path / "other", 100)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["train.bin"]


def test_onto_itself(tmp_path, corpus):
    with pytest.raises(DataError, match="is the corpus itself; give another folder"):
        subset(
            tmp_path / "corpus", tmp_path / "x" / ".." / "corpus", 10, SubsetOptions(overwrite=True)
        )
    with pytest.raises(DataError, match="is the store itself; give another place"):
        subset(
            tmp_path / "corpus" / "train",
            f"{tmp_path}/corpus/train.bin",
            10,
            SubsetOptions(overwrite=True),
        )


def test_a_full_disk_keeps_what_was_there(tmp_path, corpus, monkeypatch):
    subset(tmp_path / "corpus", tmp_path / "small", 100)
    before = contents(tmp_path / "small")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="the disk is full"):
        subset(tmp_path / "corpus", tmp_path / "small", 200, SubsetOptions(overwrite=True))
    assert contents(tmp_path / "small") == before


@pytest.mark.parametrize(
    ("budget", "options", "sentence"),
    [
        (0, {}, "unique_tokens = 0: "),
        (-3, {"like_paper": True}, r"unique_tokens = -3: "),
        (10, {"tokens_per_document": 5.0}, "only with like_paper"),
        (
            10,
            {"like_paper": True, "tokens_per_document": 0.0},
            "tokens_per_document = 0.0: give a positive",
        ),
        (
            10,
            {"like_paper": True, "tokens_per_document": math.inf},
            "tokens_per_document = inf: give a positive",
        ),
    ],
)
def test_numbers_that_cannot_be(tmp_path, budget, options, sentence):
    with pytest.raises(OptionError, match=sentence):
        subset(SAMPLE, tmp_path / "x", budget, SubsetOptions(**options))
    assert list(tmp_path.iterdir()) == []


def test_no_store(tmp_path):
    with pytest.raises(DataError, match="there is no token store"):
        subset(tmp_path / "nowhere", tmp_path / "x", 10)


def test_its_own_mean_gives_the_whole_store(tmp_path):
    """The whole store by its own mean is all its documents, to the last."""
    with StoreWriter(tmp_path / "x", "<u2") as writer:
        for size in [3] * 48 + [2] * 2 + [5]:
            writer.add(np.zeros(size))
    whole = TokenStore.open(tmp_path / "x")
    budget = whole.unique_tokens
    made = subset(tmp_path / "x", tmp_path / "y", budget, SubsetOptions(like_paper=True))
    assert made.documents == whole.documents


@pytest.mark.parametrize(("shuffle", "budget", "told"), [(None, 20, 1), (1, 20, 0), (None, 0, 0)])
def test_a_cut_of_files_in_their_order_is_told(tmp_path, capsys, shuffle, budget, told):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in zip("abcd", TEXTS, strict=False):
        (folder / f"{name}.txt").write_text(f"{text} of the file {name}")
    made = prepare(
        folder,
        tmp_path / "corpus",
        PrepareOptions(tokenizer="bytes", validation=0.3, shuffle=shuffle),
    )
    subset(tmp_path / "corpus", tmp_path / "cut", budget or made.train.unique_tokens)
    said = capsys.readouterr().err
    assert said.count(" files in their order; if the files differ") == told
