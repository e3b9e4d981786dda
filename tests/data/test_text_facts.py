"""Facts of a training text that masks may depend on: ranks, words."""

from __future__ import annotations

from collections import Counter

import numpy as np
from data_helpers import write_pair
from tokenizers import Tokenizer as HFTokenizer
from tokenizers import models, pre_tokenizers

from epochal.data.blend import Blend
from epochal.data.store import TokenStore
from epochal.data.text_facts import TextFacts
from epochal.data.tokenizer import Tokenizer
from epochal.data.tokenizer_sources import load_tokenizer


def test_ranks_count_all_stores(tmp_path):
    drawn = [np.random.default_rng(seed).zipf(1.3, 300) % 40 for seed in (1, 2)]
    for number, ids in enumerate(drawn):
        write_pair(tmp_path / f"s{number}", ids, [len(ids)])
    stores = tuple(TokenStore.open(tmp_path / f"s{number}") for number in range(2))
    count = Counter(np.concatenate(drawn).tolist())
    expected = sorted(range(257), key=lambda token: (-count[token], token))
    facts = TextFacts(Blend(stores, (0.5, 0.5)), load_tokenizer("bytes"), 5)
    assert np.argsort(facts.ranks).tolist() == expected


def words(tokenizer, text):
    """The text's tokens, joined to words."""
    ids = tokenizer.encode(text)
    starts = TextFacts(None, tokenizer, 1).word_starts(ids[None].astype(np.int64))[0]
    pieces = np.split(ids, np.flatnonzero(starts)[1:])
    return [tokenizer.decode(piece) for piece in pieces]


def test_words_of_bytes_and_of_a_bpe(bpe):
    text = "Theories aren't naïve, (42)\n\nso."
    assert words(load_tokenizer("bytes"), text) == [
        *("Theories", " ", "aren", "'", "t", " ", "naïve", ",", " ", "(", "42", ")"),
        *("\n", "\n", "so", "."),
    ]
    assert words(bpe, "Theories, not naïve facts") == ["Theories", ",", " not", " naïve", " facts"]
    end = bpe.end_of_document
    ids = np.array([[*bpe.encode("the"), end, *bpe.encode("the")]], dtype=np.int64)
    starts = TextFacts(None, bpe, 1).word_starts(ids)[0]
    place = len(bpe.encode("the"))
    assert starts[[0, place, place + 1]].all()


def test_words_of_tokenizers_without_bytes():
    def made(model, split):
        hf = HFTokenizer(model)
        hf.pre_tokenizer = split
        hf.add_special_tokens(["</s>"])
        return Tokenizer(hf, "small")

    pieces = {"[UNK]": 0, "un": 1, "##do": 2, "it": 3, ",": 4}
    piece = made(models.WordPiece(pieces, unk_token="[UNK]"), pre_tokenizers.Whitespace())
    starts = TextFacts(None, piece, 1).word_starts(np.array([[1, 2, 3, 4, 1, 2]]))
    assert starts.tolist() == [[True, False, True, True, True, False]]
    scores = [("[UNK]", 0.0), ("▁un", -1.0), ("do", -1.0), ("▁it", -1.0), ("▁", -1.0)]
    sentence = made(models.Unigram(scores, 0), pre_tokenizers.Metaspace())
    starts = TextFacts(None, sentence, 1).word_starts(np.array([[1, 2, 3, 4, 2, 2]]))
    assert starts.tolist() == [[True, False, True, True, True, False]]
    whole = made(
        models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, "[UNK]"), pre_tokenizers.Whitespace()
    )
    assert TextFacts(None, whole, 1).word_starts(np.array([[1, 2, 2]])).all()
