"""Repeated passages and boilerplate lines are cut out: planted ones, and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from data_helpers import lines, write_pair

from epochal.data import removal
from epochal.data.duplicates import measure_duplicates
from epochal.data.inspection import verify
from epochal.data.notes import CorpusNote
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.data.removal import find_cut
from epochal.data.store import TokenStore
from epochal.data.tokenizer_sources import load_tokenizer
from epochal.errors import DataError, OptionError

END, NEWLINE = 256, 10  # of the tokenizer `bytes`
PASSAGE, LINE = "a passage of thirty-two characters", "Subscribe to our newsletter!\n"


def by_loops(documents, order, length, many):
    """[document][token] flags, by the definitions."""
    gone = [[False] * len(ids) for ids in documents]
    at, first, line_in = 0, {}, {}
    for number, ids in enumerate(documents):
        for i in range(len(ids) - length + 1 if length and number in order else 0):
            window = tuple(ids[i : i + length])
            if first.setdefault(window, at + i) + length <= at + i:
                gone[number][i : i + length] = [True] * length
        at += len(ids)
        begin = 0
        for i, one in enumerate(ids):
            if many and number in order and (one == NEWLINE or i == len(ids) - 1):
                if 8 <= i + 1 - begin <= 4096:
                    line_in.setdefault(tuple(ids[begin : i + 1]), []).append((number, begin))
                begin = i + 1
    for line, places in line_in.items():
        if len({number for number, _ in places}) >= many:
            for number, begin in places[1:]:
                gone[number][begin : begin + len(line)] = [True] * len(line)
    for flags in gone:
        flags[-1] = False
    return np.concatenate([np.array(flags) for flags in gone])


@pytest.mark.parametrize(("length", "many"), [(10, None), (None, 3), (12, 2)])
@pytest.mark.parametrize("at_once", [1 << 24, 300])
def test_against_loops(random, tmp_path, monkeypatch, length, many, at_once):
    monkeypatch.setattr(removal, "_AT_ONCE", at_once)
    letters = [97, 97, 98, NEWLINE]
    planted = [[*random.choice([99, 100], 14), NEWLINE] for _ in range(3)]
    documents = []
    for _ in range(40):
        ids = random.choice(letters, int(random.integers(3, 40))).tolist()
        for one in random.integers(0, 5, 2):
            place = int(random.integers(0, len(ids)))
            ids[place:place] = planted[one] if one < 3 else [101] * int(random.integers(5, 30))
        documents.append([*ids, END])
    sizes = [len(ids) for ids in documents]
    write_pair(tmp_path / "x", [one for ids in documents for one in ids], sizes)
    store = TokenStore.open(tmp_path / "x")
    order = np.array([n for n in random.permutation(40) if n % 7])
    cut = find_cut(store, order, load_tokenizer("bytes"), length, many)
    expected = by_loops(documents, set(order.tolist()), length, many)
    assert expected.any()
    np.testing.assert_array_equal(np.asarray(cut.gone), expected)
    assert cut.passages + cut.lines == expected.sum()
    lost = np.add.reduceat(expected, np.cumsum(sizes) - sizes)
    np.testing.assert_array_equal(cut.text_bytes, lost)
    assert cut.empty == sum(n in order and lost[n] == sizes[n] - 1 for n in range(40))


@pytest.mark.parametrize("at_once", [1 << 22, 50])
def test_leaked_against_loops(random, tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(removal, "_SOUGHT", at_once)
    stores, both = [], []
    for name, count in (("x", 40), ("y", 12)):
        documents = [[*random.choice([97, 98], random.integers(3, 40)), END] for _ in range(count)]
        sizes = [len(ids) for ids in documents]
        write_pair(tmp_path / name, [one for ids in documents for one in ids], sizes)
        stores.append(TokenStore.open(tmp_path / name))
        both.append(documents)
    there = {tuple(ids[i : i + 10]) for ids in both[1] for i in range(len(ids) - 9)}
    order = np.array([n for n in random.permutation(40) if n % 7])
    expected = [np.zeros(len(ids), dtype=bool) for ids in both[0]]
    for number in order:
        ids = both[0][number]
        for i in range(len(ids) - 9):
            expected[number][i : i + 10] |= tuple(ids[i : i + 10]) in there
        expected[number][-1] = False
    cut = find_cut(stores[0], order, load_tokenizer("bytes"), None, None, 10, stores[1])
    np.testing.assert_array_equal(np.asarray(cut.gone), np.concatenate(expected))
    assert 0 < cut.leaked == cut.gone.sum() < len(cut.gone)


def test_passages_of_the_validation_set_are_cut_out(tmp_path):
    own = [f"{n:03} " * 3 + chr(97 + n % 26) * 9 + f"{n * 37 % 101:03}" for n in range(60)]
    for n in range(0, 60, 4):
        own[n] += f"{chr(65 + n % 26)}{PASSAGE}"
    options = PrepareOptions(tokenizer="bytes", validation=0.3, drop_leaked_passages=13)
    corpus = prepare(lines(tmp_path, own), tmp_path / "corpus", options)
    [told] = [one for one in corpus.notes if one.code == CorpusNote.REPEATS_CUT]
    counts = corpus.train.metadata.duplicates
    assert counts.cut_leaked == told.values["leaked"] == len(PASSAGE) * told.values["documents"] > 0
    leaked = measure_duplicates(corpus.folder).leaked_ngrams
    assert leaked.train.tokens == leaked.validation.tokens == 0
    assert all(finding.ok for finding in verify(corpus.folder))


def texts():
    """Of 30 with words of their own, five have the passage and ten the line; one is the passage."""
    own = [f"{n:02} " * 3 + chr(97 + n % 26) * 9 + f"{n * 37 % 101:03}" for n in range(30)]
    for n in range(3, 30, 6):
        own[n] += chr(65 + n) + PASSAGE + chr(65 + n)
    for n in range(0, 30, 3):
        own[n] = f"{own[n]}\n{LINE}{n}-"
    return [*own, PASSAGE]


@pytest.mark.parametrize("shuffle", [None, 1])
def test_planted(tmp_path, shuffle):
    """The first occurrence stays, the rest and its order too, and the counts are right."""
    given = texts()
    path = lines(tmp_path, given)
    options = PrepareOptions(
        tokenizer="bytes", validation=0, shuffle=shuffle,
        drop_repeated_passages=len(PASSAGE), drop_boilerplate_lines=10,
    )  # fmt: skip
    corpus = prepare(path, tmp_path / "corpus", options)
    train, metadata = corpus.train, corpus.train.metadata
    found = [
        bytes(np.asarray(train.document(n)[:-1], dtype=np.uint8)).decode()
        for n in range(train.documents)
    ]
    expected = [given[n] if n == 0 else given[n].replace(LINE, "") for n in range(30)]
    expected = [text if n == 3 else text.replace(PASSAGE, "") for n, text in enumerate(expected)]
    assert (sorted(found) if shuffle else found) == (sorted(expected) if shuffle else expected)
    assert metadata.text_bytes == sum(map(len, expected))
    counts = metadata.duplicates
    assert (counts.cut_passages, counts.cut_lines) == (5 * len(PASSAGE), 9 * len(LINE))
    assert counts.dropped == 1
    [told] = [one for one in corpus.notes if one.code == CorpusNote.REPEATS_CUT]
    assert told.values["empty"] == 1
    assert all(finding.ok for finding in verify(corpus.folder))
    left = measure_duplicates(corpus.folder)
    assert (left.lines.tokens, left.exact.tokens) == (0, 0)
    assert prepare(path, tmp_path / "corpus", options).already_existed


def test_bad_values(tmp_path):
    with pytest.raises(OptionError, match="give 10 or more"):
        PrepareOptions(drop_repeated_passages=3)
    with pytest.raises(OptionError, match="needs a validation set"):
        PrepareOptions(drop_leaked_passages=13, validation=0)
    path = lines(tmp_path, ["the same words again and again"] * 9)
    own = str(lines(tmp_path, ["the same words again and again and"], "own.jsonl"))
    options = PrepareOptions(tokenizer="bytes", validation_inputs=[own], drop_leaked_passages=10)
    with pytest.raises(DataError, match="no text is left for training"):
        prepare(path, tmp_path / "none", options)
    path = lines(tmp_path, ["1 2 3", "4 5 6", "7 8 9"])
    words = tmp_path / "words.json"
    words.write_text(
        '{"version": "1.0", "added_tokens": [{"id": 0, "content": "</s>", "special": true, '
        '"single_word": false, "lstrip": false, "rstrip": false, "normalized": false}], '
        '"normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, '
        '"decoder": null, "model": {"type": "WordLevel", "unk_token": "?", "vocab": {"</s>": 0, '
        + "".join(f'"{n}": {n}, ' for n in range(1, 10)) + '"?": 10}}}'
    )  # fmt: skip
    options = PrepareOptions(tokenizer=words, validation=0, drop_boilerplate_lines=2)
    with pytest.raises(DataError, match="has no lines"):
        prepare(path, tmp_path / "corpus", options)
