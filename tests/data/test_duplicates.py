"""Repeated text is counted as a slow count by hand does, and planted repeats are recovered."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from data_helpers import lines

from epochal.cli.main import main
from epochal.data.duplicates import find_duplicates, measure_duplicates
from epochal.data.inspection import verify
from epochal.data.near import NearDocuments, detection
from epochal.data.notes import CorpusNote
from epochal.data.options import DuplicateOptions, PrepareOptions
from epochal.data.passages import Passages
from epochal.data.prepare import prepare
from epochal.data.store_writer import StoreWriter
from epochal.data.tokenizer_sources import load_tokenizer

LINE_END, MARK = ord("\n"), 256


def write(prefix, documents):
    """A store of bytes, each document with its mark."""
    with StoreWriter(prefix, "<u2") as writer:
        for ids in documents:
            writer.add(np.append(ids, MARK))
        return writer.commit()


def texts(random, count, shortest=40, longest=300):
    return [random.integers(97, 123, random.integers(shortest, longest)) for _ in range(count)]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A training and a validation store with every kind of repeat, and their documents."""
    random = np.random.default_rng(3)
    documents = texts(random, 70)
    lines = [np.append(random.integers(97, 123, n), LINE_END) for n in (9, 30, 60)]
    for number in range(12):  # boilerplate, of which the line of 61 is a passage
        a, b = documents[number], texts(random, 1)[0]
        parts = [lines[0], a, [LINE_END], lines[1], b, [LINE_END], lines[2]]
        documents[number] = np.concatenate(parts)
    documents += [each.copy() for each in documents[20:30]]
    for each in documents[30:45]:
        changed = each.copy()
        changed[random.integers(len(each))] = 65
        documents.append(changed)
    documents += [np.append(texts(random, 1)[0], each[:70]) for each in documents[45:52]]
    documents.append(np.tile(random.integers(97, 123, 7), 20))  # repeats itself
    held_out = texts(random, 20)
    held_out[3:6] = [each.copy() for each in documents[55:58]]
    held_out[6] = np.append(documents[58], 65)
    held_out[7] = np.append(held_out[7], documents[59][:25])
    random.shuffle(documents)
    folder = tmp_path_factory.mktemp("planted")
    return write(folder / "train", documents), write(folder / "validation", held_out)


def whole(store):
    return [tuple(store.document(n).tolist()) for n in range(store.documents)]


def shingles(document):
    return {document[i : i + 5] for i in range(len(document) - 4)}


def near(a, b, similarity=0.8):
    return len(a & b) / len(a | b) >= similarity


def by_hand(documents, options):
    """(exact, near, passages, lines): documents, documents, tokens, tokens."""
    exact = [n for n, each in enumerate(documents) if each in documents[:n]]
    sets = [shingles(each) for each in documents]
    close = [
        n
        for n in range(len(documents))
        if n not in exact and any(near(sets[n], sets[m]) for m in range(n) if m not in exact)
    ]
    rest = [each for n, each in enumerate(documents) if n not in exact and n not in close]
    size, seen, covered = options.passage, set(), [set() for _ in rest]
    for number, each in enumerate(rest):
        for i in range(len(each) - size + 1):
            if each[i : i + size] in seen:
                covered[number] |= set(range(i, i + size))
            seen.add(each[i : i + size])
    holders, occurrences = defaultdict(set), []
    for number, each in enumerate(rest):
        start = 0
        for i, token in enumerate(each):
            if token == LINE_END or i == len(each) - 1:
                line = each[start : i + 1]
                if 8 <= len(line) < size:
                    holders[line].add(number)
                    occurrences.append((line, number, start))
                start = i + 1
    met, lines = set(), [set() for _ in rest]
    for line, number, start in occurrences:
        if line in met and len(holders[line]) >= options.line_documents:
            lines[number] |= set(range(start, start + len(line)))
        met.add(line)
    passages = sum(map(len, covered))
    return exact, close, passages, sum(len(a - b) for a, b in zip(lines, covered, strict=True))


def shared_13(documents, others):
    """Tokens in 13 in a row that the others have."""
    there = {each[i : i + 13] for each in others for i in range(len(each) - 12)}
    return sum(
        len({i + k for i in range(len(d) - 12) if d[i : i + 13] in there for k in range(13)})
        for d in documents
    )


def test_all_is_as_counted_by_hand(planted):
    train, validation = planted
    options = DuplicateOptions()
    found = find_duplicates(train, validation, load_tokenizer("bytes"), options)
    documents, held_out = whole(train), whole(validation)
    exact, close, passages, lines = by_hand(documents, options)
    assert (len(exact), len(close)) == (10, 15)
    assert passages > 600
    assert lines > 300
    assert (found.exact.documents, found.near.documents) == (10, 15)
    assert found.exact.tokens == sum(len(documents[n]) for n in exact)
    assert found.near.tokens == sum(len(documents[n]) for n in close)
    assert found.passages.tokens == passages
    assert found.lines.tokens == lines
    left = train.unique_tokens - found.exact.tokens - found.near.tokens - passages - lines
    assert found.effective.estimate == found.effective.high == left
    assert 0 <= left - found.effective.low < 10  # near duplicates are hardly ever missed

    assert found.leaked_documents.train.documents == len(set(documents) & set(held_out))
    sets, others = [shingles(d) for d in documents], [shingles(d) for d in held_out]
    leaked = [any(near(a, b) for b in others) for a in sets]
    assert found.leaked_near.train.documents == sum(leaked)
    assert found.leaked_near.validation.documents == sum(
        any(near(a, b) for a in sets) for b in others
    )
    assert found.leaked_ngrams.train.tokens == shared_13(documents, held_out)
    assert found.leaked_ngrams.validation.tokens == shared_13(held_out, documents)
    most = found.most_repeated[0]  # each is counted in the documents that are left
    there = sum(most.text in bytes(b for b in d if b < 256).decode() for d in documents)
    assert 8 <= most.documents <= there
    assert sum(one.times > one.documents for one in found.most_repeated) == 1


def test_the_interval_of_a_sample_holds_the_whole(tmp_path):
    random = np.random.default_rng(5)
    documents = texts(random, 300, 60, 300)
    for number in range(150, 300, 2):
        documents[number] = np.append(documents[number], documents[number - 150][:90])
    store = write(tmp_path / "s", documents)
    kept, inside = np.ones(store.documents, dtype=bool), 0
    truth = Passages(store, kept, None, DuplicateOptions()).measure().passages
    assert truth.standard_error == 0
    for seed in range(12):
        found = Passages(store, kept, None, DuplicateOptions(sample=12_000, seed=seed)).measure()
        assert found.sampled_tokens < store.unique_tokens / 3
        error = abs(found.passages.tokens - truth.tokens)
        inside += error <= 1.96 * found.passages.standard_error
    assert inside >= 9  # of 12 at 95 %: 8 or fewer have a chance of 0.2 %
    sampled = find_duplicates(store, options=DuplicateOptions(sample=12_000))
    assert sampled.effective.low < sampled.effective.estimate < sampled.effective.high


def test_near_documents_are_found_as_often_as_is_said(tmp_path):
    random = np.random.default_rng(7)
    documents, similarity = [], 0.55
    for _ in range(400):  # sets of 296 shingles, 210 of them shared: 210 / 382
        first, second = random.integers(0, 250, 300), random.integers(0, 250, 300)
        second[:214] = first[:214]
        documents += [first, second]
    found = NearDocuments([write(tmp_path / "s", documents)]).earlier(0.5, np.ones(800, bool))
    expected = detection(np.array([found[found > 0].mean()]))[0]
    assert abs(found[found > 0].mean() - similarity) < 0.01
    assert abs((found > 0).sum() / 400 - expected) < 4 * (expected * (1 - expected) / 400) ** 0.5


def test_it_is_measured_once(planted, tmp_path, monkeypatch, capsys):
    train, _ = planted
    prefix = tmp_path / "again"
    write(prefix, [train.document(n)[:-1] for n in range(50)])
    (tmp_path / "again.duplicates.json").mkdir()  # in the way
    assert measure_duplicates(prefix).documents == 50
    assert "not kept" in capsys.readouterr().err
    (tmp_path / "again.duplicates.json").rmdir()
    first = measure_duplicates(prefix)
    monkeypatch.setattr("epochal.data.duplicates.find_duplicates", None)
    assert measure_duplicates(prefix) == first
    with pytest.raises(TypeError):  # measured anew
        measure_duplicates(prefix, DuplicateOptions(passage=40))
    write(prefix, [train.document(n)[:-1] for n in range(51)])
    with pytest.raises(TypeError):
        measure_duplicates(prefix)
    for words in ([prefix, "--similarity", "2"], [tmp_path / "nothing"]):
        with pytest.raises(SystemExit, match="2"):
            main(["data", "duplicates", *map(str, words)])
    assert "similarity" in capsys.readouterr().err


def test_near_documents_are_left_out_on_request(tmp_path):
    random = np.random.default_rng(11)
    words = [bytes(each.tolist()).decode() for each in texts(random, 60)]
    near = [each + "!" for each in words[:10]]
    held_out = [
        words[20] + "?",
        words[21] + "?",
        *(bytes(t.tolist()).decode() for t in texts(random, 5)),
    ]
    inputs = lines(tmp_path, [*words, *near, words[30]])
    others = lines(tmp_path, held_out, "held_out.jsonl")
    options = {"tokenizer": "bytes", "validation_inputs": [others], "shuffle": 3}
    plain = prepare(inputs, tmp_path / "plain", PrepareOptions(**options))
    options |= {"drop_near_duplicates": True}
    corpus = prepare(inputs, tmp_path / "c", PrepareOptions(**options))
    kept = [text for number, text in enumerate(words) if number not in (20, 21)]
    assert sorted(corpus.tokenizer.decode(d[:-1]) for d in whole(corpus.train)) == sorted(kept)
    assert corpus.train.metadata.text_bytes == sum(map(len, kept))
    assert corpus.train.metadata.duplicates.dropped == 13
    assert [(n.code, n.values) for n in corpus.notes] == [
        (CorpusNote.NEAR_DROPPED, {"documents": 10, "leaked": 2})
    ]
    order = [d for d in whole(plain.train) if d in set(whole(corpus.train))]
    assert list(dict.fromkeys(order)) == whole(corpus.train)  # in the order of the seed
    assert all(finding.ok for finding in verify(tmp_path / "c"))
    assert prepare(inputs, tmp_path / "c", PrepareOptions(**options)).already_existed
    found = measure_duplicates(tmp_path / "c")
    assert (found.near.documents, found.leaked_near.train.documents) == (0, 0)
