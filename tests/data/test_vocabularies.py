"""Vocabularies are compared by counts that a plain count confirms; characters are a tokenizer."""

from __future__ import annotations

import math
from collections import Counter

import pytest
from data_helpers import TEXTS, lines

import made_runs
from epochal.cli.main import main
from epochal.data import vocabularies as module
from epochal.data.inspection import verify
from epochal.data.options import PrepareOptions, TokenizersOptions
from epochal.data.prepare import prepare
from epochal.data.tokenizer_sources import character_tokenizer, load_tokenizer, train_bpe
from epochal.data.vocabularies import compare_tokenizers
from epochal.errors import DataError, OptionError, RunError
from epochal.runs import RunFolder


@pytest.fixture(autouse=True)
def no_gpt2(monkeypatch):
    monkeypatch.setattr(module, "cached_gpt2", lambda: None)


def test_figures_are_those_of_a_plain_count(tmp_path, monkeypatch, english):
    texts = english[:40]
    monkeypatch.setattr(module, "_SIZES", (300, 400))
    found = compare_tokenizers(lines(tmp_path, texts), TokenizersOptions(params=1e6))
    assert [each.name for each in found.vocabularies] == ["bytes", "char", "bpe:300", "bpe:400"]
    size = sum(len(text.encode()) for text in texts)
    assert (found.text_bytes, found.documents, found.params) == (size, 40, 1_000_000)
    assert found.d_model == round((1e6 * 64 / 12) ** (1 / 3))
    bpe = train_bpe(texts, 400)
    counts = Counter(id for text in texts for id in bpe.encode(text).tolist())
    last = found.vocabularies[-1]
    assert last.tokens == counts.total() + 40
    assert last.bytes_per_token == pytest.approx(size / last.tokens)
    assert last.table_share == pytest.approx(400 * found.d_model / (400 * found.d_model + 1e6))
    assert last.rare == sum(counts[number] < 10 for number in range(256, 399))
    characters = Counter("".join(texts))
    assert found.vocabularies[1].rare == sum(times < 10 for times in characters.values())
    assert found.vocabularies[0].rare == 0


def test_the_rule(tmp_path):
    """A BPE whose tokens are rare, or whose table is most of the model, is not recommended."""
    source = lines(tmp_path, ["the cat sat on the mat " * 40] * 30)
    wide = compare_tokenizers(source, TokenizersOptions(params=10**9))
    assert wide.recommended == min(wide.vocabularies, key=lambda each: each.tokens).name
    small = compare_tokenizers(source, TokenizersOptions(params=1))
    assert not any(each.fits for each in small.vocabularies)
    assert small.recommended == "char"  # the smallest table
    assert compare_tokenizers(source).params == wide.text_bytes // 4


def test_at_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "_SIZES", ())
    source = lines(tmp_path, TEXTS)
    with pytest.raises(SystemExit) as ended:
        main(["data", "tokenizers", str(source), "--tokenizer", "bytes"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.count("bytes  ") == 2
    with pytest.raises(OptionError, match="positive number"):
        TokenizersOptions(params=0)


def test_measured_by_runs(tmp_path, capsys, monkeypatch):
    """The best run of each tokenizer and family, evaluated or not."""
    monkeypatch.setattr(module, "_SIZES", ())
    for name, family, nll, tokenizer, evaluated in (
        ("a", "ar", 1.5, "bytes", False),
        ("b", "ar", 1.4, "bytes", False),
        ("c", "mdm", 1.6, "bytes", False),
        ("d", "ar", 2.9, "bpe:512", True),
    ):
        record = made_runs.make_run(
            tmp_path / "runs" / name, family, [9.0, nll], evaluated=evaluated, nll=nll
        )
        folder = RunFolder(record.path)
        tokens = 1000 if tokenizer == "bytes" else 400
        facts = {"name": tokenizer, "sha256": tokenizer, "vocabulary": 257}
        metadata = {"unique_tokens": tokens, "text_bytes": 990, "tokenizer": facts}
        info = record.info
        info["corpus"]["validation"]["metadata"] = metadata
        folder.write_info(info)
    source = lines(tmp_path, TEXTS)
    found = compare_tokenizers(source, TokenizersOptions(runs=[tmp_path / "runs"]))
    shown = [(m.family, m.tokenizer, m.runs, m.bits_per_byte) for m in found.measured]
    assert shown == [
        ("ar", "bpe:512", 1, 1.1),
        ("ar", "bytes", 2, pytest.approx(1.4 / math.log(2) * 1000 / 990)),
        ("mdm", "bytes", 1, pytest.approx(1.6 / math.log(2) * 1000 / 990)),
    ]
    assert found.measured[1].best.endswith("/b")
    with pytest.raises(SystemExit):
        main(["data", "tokenizers", str(source), "--runs", str(tmp_path / "runs")])
    assert "bpe:512" in capsys.readouterr().out
    with pytest.raises(RunError, match="no folder"):
        compare_tokenizers(source, TokenizersOptions(runs=[tmp_path / "none"]))


# Characters


def test_characters_as_a_tokenizer(tmp_path):
    texts = ["añ ö", "日本 <|endoftext|>", "\n\x00 😀"]
    made = character_tokenizer(texts)
    made.save(tmp_path / "tokenizer.json")
    for tokenizer in (made, load_tokenizer(tmp_path / "tokenizer.json")):
        assert tokenizer.kind == "characters"
        assert tokenizer.vocabulary == len(set("".join(texts))) + 2
        assert tokenizer.end_of_document == tokenizer.vocabulary - 1
        for text in texts:
            ids = tokenizer.encode(text)
            assert len(ids) == len(text)
            assert tokenizer.decode(ids) == text
            assert tokenizer.token_byte_lengths[ids].sum() == len(text.encode())
        assert tokenizer.encode("aZ").tolist()[1] == tokenizer.unknown
        assert tokenizer.first_unknown("aZ") == "Z"
    assert made.sha256 == tokenizer.sha256


def test_a_corpus_of_characters(tmp_path):
    source, own = lines(tmp_path, TEXTS), lines(tmp_path, ["Ü only here"], "y.jsonl")
    options = PrepareOptions(tokenizer="char", validation_inputs=[own])
    corpus = prepare(source, tmp_path / "c", options)
    assert corpus.notes == ()
    assert corpus.tokenizer.vocabulary == len(set("".join(TEXTS) + "Ü only here")) + 2
    assert corpus.tokenizer.decode(corpus.train.document(0)[:-1]) == TEXTS[0]
    assert all(finding.ok for finding in verify(tmp_path / "c"))
    assert prepare(source, tmp_path / "c", options).already_existed
    other = PrepareOptions(tokenizer=tmp_path / "c" / "tokenizer.json", validation=0)
    with pytest.raises(DataError, match="has nothing for '!'"):
        prepare(lines(tmp_path, ["document!"], "z.jsonl"), tmp_path / "d", other)
