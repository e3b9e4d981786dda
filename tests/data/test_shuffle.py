"""`prepare(shuffle=…)`: a permutation, the same everywhere, written down, and a fair sample."""

from __future__ import annotations

import re

import numpy as np
import pytest
from click.testing import CliRunner
from data_helpers import TEXTS, contents, lines
from hypothesis import given, settings
from hypothesis import strategies as st

from epochal.cli.main import cli
from epochal.data.corpus import SAMPLING_SEED, Corpus, shuffle_seed_for
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.data.store import TokenStore
from epochal.data.store_writer import StoreWriter
from epochal.data.subset import subset
from epochal.errors import DataError


def texts_of(store):
    """The documents' ids as tuples."""
    return [tuple(store.document(number).tolist()) for number in range(store.documents)]


@given(
    st.lists(st.lists(st.integers(0, 60000), max_size=9), min_size=1, max_size=20),
    st.randoms(use_true_random=False),
    st.integers(1, 40),
)
@settings(deadline=None, max_examples=60)
def test_reordering_in_pieces(tmp_path_factory, documents, random, at_once):
    documents[0].append(7)  # a store has one token at least
    order = list(range(len(documents)))
    random.shuffle(order)
    folder = tmp_path_factory.mktemp("reorder")
    with StoreWriter(folder / "plain", "<u2") as writer:
        for number in order:
            writer.add(documents[number])
    with StoreWriter(folder / "moved", "<u2") as writer:
        writer.reordered_at_once = at_once
        for document in documents:
            writer.add(document)
        writer.reorder(np.array(order, dtype=np.int64))
        moved, tokens = writer.finish(), writer.unique_tokens
    assert tokens == sum(map(len, documents))
    plain = TokenStore.open(folder / "plain")
    assert plain.content_sha256 == moved.content_sha256
    for suffix in ("bin", "idx"):
        same = [(folder / f"{name}.{suffix}").read_bytes() for name in ("plain", "moved")]
        assert same[0] == same[1]
    assert not list(folder.glob(".*"))


def test_same_split_and_text_in_another_order_for_any_workers(tmp_path, capsys):
    source = lines(tmp_path, TEXTS)
    base = {"tokenizer": "bpe:300"}
    plain = prepare(source, tmp_path / "plain", PrepareOptions(**base))
    made = prepare(source, tmp_path / "a", PrepareOptions(**base, shuffle=5, workers=1))
    prepare(source, tmp_path / "b", PrepareOptions(**base, shuffle=5, workers=3))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    other = prepare(source, tmp_path / "other", PrepareOptions(**base, shuffle=6))
    assert texts_of(made.train) != texts_of(plain.train) != texts_of(other.train)
    assert texts_of(made.train) != texts_of(other.train)
    assert sorted(texts_of(made.train)) == sorted(texts_of(plain.train))
    assert made.validation.content_sha256 == plain.validation.content_sha256
    assert made.tokenizer.sha256 == plain.tokenizer.sha256
    assert made.train.content_sha256 != plain.train.content_sha256
    assert made.train.metadata.text_bytes == plain.train.metadata.text_bytes
    capsys.readouterr()
    assert prepare(source, tmp_path / "a", PrepareOptions(**base, shuffle=5)).already_existed


def test_the_seed_is_written_down_and_other_seeds_are_refused(tmp_path):
    source = lines(tmp_path, TEXTS)
    made = prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bytes", shuffle=5))
    assert made.train.metadata.shuffled == made.train.metadata.preparation["shuffle"] == 5
    assert made.validation.metadata.shuffled is None
    shown = CliRunner().invoke(cli, ["data", "inspect", str(tmp_path / "c")]).output
    assert re.search(r"order +shuffled by seed 5", shown)
    with pytest.raises(DataError, match=r"\(shuffled by seed 5, not `shuffle` = 6\)"):
        prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bytes", shuffle=6))
    with pytest.raises(DataError, match=r"corpus \(shuffled by seed 5\); choose"):
        prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bytes"))
    cut = subset(tmp_path / "c", tmp_path / "cut", 500)
    assert cut.metadata.shuffled == 5


def test_without_it_nothing_changes(tmp_path):
    source = lines(tmp_path, TEXTS)
    made = prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bytes"))
    assert "shuffle" not in made.train.metadata.preparation
    assert "shuffled" not in made.train.metadata.as_json()
    with pytest.raises(DataError, match=r"in the inputs' order, not `shuffle` = 0"):
        prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bytes", shuffle=0))


def test_a_cut_of_a_sorted_folder_is_a_fair_sample(tmp_path):
    """Ten subjects with a letter each, sorted: a cut to a tenth sees one of them, or all."""
    folder = tmp_path / "sorted"
    for letter in "abcdefghij":
        (folder / letter).mkdir(parents=True)
        for number in range(40):
            (folder / letter / f"{number:02}.txt").write_text(letter * 99)
    options = {"tokenizer": "bytes", "validation": 0}
    prepare(folder, tmp_path / "plain", PrepareOptions(**options))
    prepare(folder, tmp_path / "mixed", PrepareOptions(**options, shuffle=1))
    counts = {}
    for name in ("plain", "mixed"):
        cut = subset(tmp_path / name, tmp_path / f"{name}-cut", 4000)
        firsts = [document[0] - ord("a") for document in texts_of(cut)]
        counts[name] = np.bincount(firsts, minlength=10)
    assert (counts["plain"] > 0).sum() == 1
    # 40 of 400 without replacement: each count is hypergeometric, mean 4, variance 3.25.
    assert ((counts["mixed"] - 4) ** 2).sum() / 3.25 < 27.9
    assert counts["mixed"].sum() == 40


def test_a_full_disk_while_shuffling_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    source = lines(tmp_path, TEXTS)
    monkeypatch.setattr(StoreWriter, "_gather", full)
    with pytest.raises(Exception, match="the disk is full"):
        prepare(source, tmp_path / "c", PrepareOptions(tokenizer="bytes", shuffle=1))
    assert not (tmp_path / "c").exists()


def test_which_order_study_and_quickstart_ask_for(tmp_path):
    source = lines(tmp_path, TEXTS)
    new, old = tmp_path / "new", tmp_path / "old"
    assert shuffle_seed_for(new, None) is shuffle_seed_for(new, "builtin") is None
    assert shuffle_seed_for(new, source) == SAMPLING_SEED
    prepare(source, old, PrepareOptions(tokenizer="bytes"))
    assert shuffle_seed_for(old, source) is None  # made before, and found again
    prepare(source, new, PrepareOptions(tokenizer="bytes", shuffle=9))
    assert shuffle_seed_for(new, source) == 9
    assert Corpus.open(new).train.metadata.shuffled == 9
