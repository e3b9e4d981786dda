"""tiktoken's ids are those of `tokenizers`, or they are not used."""

from __future__ import annotations

import json
import re
import sys
import unicodedata

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as HFTokenizer

from epochal.data import fast_bpe as module
from epochal.data.fast_bpe import (
    FastBPE,
    byte_alphabet,
    encode_slowly,
    letters_to_bytes,
    same_class_everywhere,
    why_unproven,
)
from epochal.data.notes import SlowReason
from epochal.data.tokenizer_sources import load_tokenizer, train_bpe
from epochal.results import note

LETTERS = {byte: letter for letter, byte in byte_alphabet().items()}


def byte_level(*merges, vocabulary=None, **options):
    """A byte-level BPE with these merges of plain ASCII, tokens in the order of the merges."""
    if vocabulary is None:
        vocabulary = {LETTERS[byte]: byte for byte in range(256)}
        for left, right in merges:
            vocabulary.setdefault(left + right, len(vocabulary))
    hf = HFTokenizer(models.BPE(vocabulary, list(merges), **options))
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return hf


def content(hf):
    return json.loads(hf.to_str())


def unproven(hf):
    return why_unproven(hf, content(hf))


def without_check(hf):
    fast = FastBPE(hf, content(hf))
    fast._to_check = 0
    return fast


PIECES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.text("ab \n\t'stI1.\u00e9\u0301\u4e2d", max_size=40),
    st.sampled_from(
        ["the", " the", "'s", "'ll ", "  ", "\n\n", " \u00a0", "1234", "<|endoftext|>"]
    ),
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


@given(TEXTS)
@example("aaaa" * 50)
@settings(deadline=None, max_examples=300)
def test_ids_are_equal_on_any_text(bpe, text):
    assert bpe.why_slow is None
    fast = without_check(bpe._hf)
    assert fast.encode(text).tolist() == encode_slowly(bpe._hf, text).tolist()


@given(st.lists(st.text("ab c", min_size=1, max_size=30), min_size=1, max_size=6), TEXTS)
@settings(deadline=None, max_examples=60)
def test_ids_are_equal_for_any_trained_vocabulary(corpus, text):
    tokenizer = train_bpe(corpus, 300)
    assert tokenizer.why_slow is None
    fast = without_check(tokenizer._hf)
    for one in (text, *corpus, "abcab" * 9):
        assert fast.encode(one).tolist() == encode_slowly(tokenizer._hf, one).tolist()


@given(TEXTS)
@settings(deadline=None, max_examples=100)
def test_ids_are_equal_for_gpt2(samples, text):
    fast = gpt2(samples)
    assert fast.encode(text).tolist() == encode_slowly(fast._slow, text).tolist()


_cache = {}


def gpt2(samples):
    if "gpt2" not in _cache:
        tokenizer = load_tokenizer(samples / "gpt2")
        assert tokenizer.why_slow is None
        _cache["gpt2"] = without_check(tokenizer._hf)
    return _cache["gpt2"]


def test_ids_are_equal_on_real_text(samples, english):
    fast = gpt2(samples)
    for text in english:
        assert np.array_equal(fast.encode(text), encode_slowly(fast._slow, text))


LONG = {
    "letters": "a" * 100_000,
    "marks": "!" * 99_999,
    "spaces": " " * 100_000 + "a",
    "many spaces": " " * 1_500_000 + "a",
    "lines": "\n " * 500_000 + "x",
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_very_long_runs(bpe, text):
    fast = without_check(bpe._hf)
    assert np.array_equal(fast.encode(text), encode_slowly(bpe._hf, text))


def test_every_character_that_tiktoken_gets_is_split_alike():
    """All of Unicode, by experiment: wherever the two engines could split differently.

    Of the 250,000 ideographs, syllables and private characters every ninth.
    In this vocabulary "a", "1", "!" and " " are joined first to whatever byte follows them, so
    the ids show whether a character was put in one piece with them.
    """
    merges = [(LETTERS[ord(first)], LETTERS[byte]) for first in "a1! " for byte in range(256)]
    hf = byte_level(*merges)
    assert unproven(hf) is None
    fast = without_check(hf)
    stable = [
        chr(number)
        for number in range(sys.maxunicode + 1)
        if (unicodedata.category(chr(number)) not in ("Lo", "Co", "Cn", "Cs") or number % 9 == 0)
        and not 0xD800 <= number < 0xE000
        and same_class_everywhere(chr(number))
    ]
    assert len(stable) > 30_000
    for first in range(0, len(stable), 20_000):
        text = "".join(f"a{c}1{c}!{c} {c}  {c}{c}" for c in stable[first : first + 20_000])
        ours, theirs = fast.encode(text), encode_slowly(hf, text)
        assert np.array_equal(ours, theirs), hex(ord(stable[first]))


def test_characters_that_unicode_versions_class_differently():
    assert same_class_everywhere("plain é 中 \u3000 😀 ½ \U000f0000")
    newer = [
        chr(number)
        for number in range(0x30000)
        if unicodedata.category(chr(number))[0] == "L"
        and unicodedata.ucd_3_2_0.category(chr(number)) == "Cn"
    ]
    assert len(newer) > 10_000
    assert not any(map(same_class_everywhere, newer))
    assert not same_class_everywhere("\u0378")  # unassigned
    assert not same_class_everywhere("\u200b")  # a space in Unicode 3.2, none later
    assert not same_class_everywhere("plain text \u180e and more")


def test_such_texts_go_to_tokenizers(bpe, monkeypatch):
    fast = without_check(bpe._hf)
    asked = []
    monkeypatch.setattr(
        module, "encode_slowly", lambda hf, text: asked.append(text) or encode_slowly(hf, text)
    )
    fast.encode("plain é")
    fast.encode("new \u0221")
    assert asked == ["new \u0221"]
    asked.clear()
    text = "word \u200b" * 600 + " plain" * 10_000 + "\u0221"
    assert np.array_equal(fast.encode(text), encode_slowly(bpe._hf, text))
    assert sum(map(len, asked)) < 10_000


class Panic(BaseException):
    """As an older tiktoken ends where a newer one raises ValueError."""


Panic.__name__ = "PanicException"


@pytest.mark.parametrize("error", [ValueError("Max stack size exceeded"), Panic("unwrap")])
def test_a_text_that_tiktoken_gives_up_on(bpe, error):
    fast = without_check(bpe._hf)

    class GivesUp:
        def encode_to_numpy(self, *_, **__):
            raise error

    fast._fast = GivesUp()
    assert fast.encode("some text").tolist() == encode_slowly(bpe._hf, "some text").tolist()


def test_an_interrupt_is_not_taken_for_that(bpe):
    fast = without_check(bpe._hf)

    class Interrupted:
        def encode_to_numpy(self, *_, **__):
            raise KeyboardInterrupt

    fast._fast = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        fast.encode("x")


def test_a_disagreement_at_run_time_ends_the_use_of_tiktoken(bpe, capsys):
    fast = FastBPE(bpe._hf, content(bpe._hf))

    class Wrong:
        def encode_to_numpy(self, *_, **__):
            return np.array([1, 2, 3], dtype=np.uint32)

    fast._fast = Wrong()
    right = encode_slowly(bpe._hf, "some text").tolist()
    assert fast.encode("some text").tolist() == right
    assert "different ids" in capsys.readouterr().err
    fast._to_check = 0
    assert fast.encode("some text").tolist() == right


def test_the_run_time_comparison_ends(bpe):
    fast = FastBPE(bpe._hf, content(bpe._hf))
    fast.encode("a b " * 100_000)
    assert fast._to_check <= 0
    assert fast._trusted


def test_merges_out_of_the_order_of_ids_are_refused():
    vocabulary = {LETTERS[byte]: byte for byte in range(256)} | {"ab": 257, "bc": 256}
    hf = byte_level(("a", "b"), ("b", "c"), vocabulary=vocabulary)
    # What the refusal is for: tiktoken would join b and c first.
    assert encode_slowly(hf, "abc").tolist() == [257, ord("c")]
    assert without_check(hf).encode("abc").tolist() == [ord("a"), 256]
    assert unproven(hf) == note(SlowReason.MERGE_ORDER)


def test_a_token_that_its_own_text_does_not_give_is_refused():
    merges = (("b", "c"), ("a", "b"), ("ab", "c"))
    hf = byte_level(*merges)
    # abc → a bc, never abc; but tiktoken finds the whole piece.
    assert encode_slowly(hf, "abc").tolist() == [ord("a"), 256]
    assert without_check(hf).encode("abc").tolist() == [258]
    assert unproven(hf) == note(SlowReason.TOKEN, token="abc")


def test_a_token_without_a_merge_is_refused():
    vocabulary = {LETTERS[byte]: byte for byte in range(256)} | {"xyz": 256}
    assert unproven(byte_level(vocabulary=vocabulary)) == note(SlowReason.TOKEN, token="xyz")


def test_two_merges_of_one_token_are_refused():
    hf = byte_level(("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc"))
    assert unproven(hf) == note(SlowReason.MERGE_ORDER)


def test_a_merge_that_makes_a_special_token_is_refused():
    hf = byte_level(("a", "b"))
    hf.add_special_tokens([AddedToken("ab", special=True)])
    assert unproven(hf) == note(SlowReason.MERGE)


def prefix_space(hf):
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)


def no_pattern(hf):
    hf.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def none(hf):
    hf.pre_tokenizer = pre_tokenizers.Sequence([])


def normalizer(hf):
    hf.normalizer = normalizers.NFC()


def added(hf):
    hf.add_tokens(["hello"])


ODD = [
    (prefix_space, SlowReason.PRE_TOKENIZER),
    (no_pattern, SlowReason.PRE_TOKENIZER),
    (none, SlowReason.PRE_TOKENIZER),
    (normalizer, SlowReason.NORMALIZER),
    (added, SlowReason.ADDED_TOKENS),
]


@pytest.mark.parametrize(("change", "reason"), ODD)
def test_other_ways_to_split_are_refused(change, reason):
    hf = byte_level(("a", "b"))
    assert unproven(hf) is None
    change(hf)
    assert unproven(hf) == note(reason)


def test_other_models_and_options_are_refused():
    words = HFTokenizer(models.WordLevel({"a": 0}, "a"))
    assert unproven(words) == note(SlowReason.MODEL, model="WordLevel")
    for setting, value in (("dropout", 0.1), ("unk_token", "a")):
        hf = byte_level(("a", "b"), **{setting: value})
        assert unproven(hf) == note(SlowReason.SETTING, setting=setting)
    few = byte_level(vocabulary={LETTERS[byte]: byte for byte in range(200)})
    assert unproven(few) == note(SlowReason.BYTES_MISSING, bytes=56)


def test_the_alphabet_is_gpt2s():
    alphabet = byte_alphabet()
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(alphabet.values()) == list(range(256))
    for byte in (0, 10, 32, 65, 127, 160, 173, 255):
        [(pieces, _)] = pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(chr(byte))
        assert letters_to_bytes(pieces) == chr(byte).encode()
    assert letters_to_bytes("two words") is None


def test_the_pattern_is_gpt2s():
    """Cut at the marks, it must split like the published one; tried with ASCII classes."""
    pattern = module._PATTERN.replace(r"\s\p{L}\p{N}", r"\sa-z0-9")
    ours = re.compile(pattern.replace(r"\p{L}", "[a-z]").replace(r"\p{N}", "[0-9]"))
    published = re.compile(
        r"'s|'t|'re|'ve|'m|'ll|'d| ?[a-z]+| ?[0-9]+| ?[^\sa-z0-9]+|\s+(?!\S)|\s+"
    )
    rng = np.random.default_rng(0)
    for letters in ("ab1 '\n.tsdmlver", "a  \n\t'", "a \xa0\u3000\n"):
        for _ in range(1500):
            text = "".join(rng.choice(list(letters), size=rng.integers(1, 25)))
            parts = module._with_cuts(text).split("\0")
            assert [piece for part in parts for piece in ours.findall(part)] == published.findall(
                text
            )


@given(st.lists(st.one_of(TEXTS, st.sampled_from(["", "a \0 b", "\1", "x  ", "\u0221"]))))
@settings(deadline=None, max_examples=100)
def test_short_texts_share_a_call(bpe, texts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_TOGETHER", 60)
        fast = without_check(bpe._hf)
        got = [ids.tolist() for ids in fast.encode_all(texts)]
    assert got == [encode_slowly(bpe._hf, text).tolist() for text in texts]


def test_the_calls_for_many_short_texts_are_few(bpe):
    fast = without_check(bpe._hf)
    calls, original = [], fast._marked
    fast._marked = lambda text: calls.append(len(text)) or original(text)
    assert len(list(fast.encode_all(["a short text"] * 10_000))) == 10_000
    assert len(calls) <= 3


# Windows


RUNS = {
    "dna": "ACGT",
    "one letter": "a",
    "two": "ab",
    "base64": "ABCDEFGHIJKLMNOPabcdefghijklmnop0123456789+/",
    "chinese": "的一是不了人我在有他这中大来上国",
    "quotes": "a'l!s 't1",
    "marks": "é€😀 \t\n",
}


@pytest.mark.parametrize("window", [64, 200])
@pytest.mark.parametrize("letters", RUNS.values(), ids=RUNS)
def test_windows_give_the_ids_of_the_whole(bpe, monkeypatch, letters, window):
    monkeypatch.setattr(module, "_WINDOW", 2 * window)
    monkeypatch.setattr(module, "_RUN_WINDOW", window)
    monkeypatch.setattr(module, "_SEARCHED", 8)
    monkeypatch.setattr(module, "_BACK", 16)
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(list(letters), 4000))
    same = train_bpe([text[:1000]], 400)  # tokens of many letters, so that windows cut them
    for tokenizer in (bpe, same):
        fast = without_check(tokenizer._hf)
        assert np.array_equal(fast.encode(text), encode_slowly(tokenizer._hf, text))


@given(st.text("abc'd \n", min_size=200, max_size=900))
@settings(deadline=None, max_examples=60)
def test_windows_give_the_ids_of_any_text(bpe, text):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_WINDOW", 96)
        patch.setattr(module, "_RUN_WINDOW", 48)
        patch.setattr(module, "_SEARCHED", 2)
        patch.setattr(module, "_BACK", 16)
        fast = without_check(bpe._hf)
        assert fast.encode(text).tolist() == encode_slowly(bpe._hf, text).tolist()


@pytest.mark.parametrize("letters", ["ACGT", "的一是不了人我在有他这", "Ab0/+9zZ", "word and "])
def test_the_work_for_a_text_without_spaces_is_that_of_prose(bpe, letters):
    """The bytes given to tiktoken, and the most at once, by which its work per byte grows."""
    fast = without_check(bpe._hf)
    given, original = [], fast._at_once
    fast._at_once = lambda text: given.append(len(text)) or original(text)
    text = "".join(np.random.default_rng(0).choice(list(letters), 300_000))
    fast.encode(text)
    assert sum(given) <= 1.1 * len(text)
    assert max(given) <= 2 * module._WINDOW + module._SEARCHED
