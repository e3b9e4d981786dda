"""Tokenizers: exact round trips, one file that restores everything, clear refusals."""

from __future__ import annotations

import json
import sys
import types

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as HFTokenizer

from epochal.data.tokenizer import Tokenizer
from epochal.data.tokenizer_sources import load_tokenizer, parse_bpe, train_bpe
from epochal.errors import DataError

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
ODD = "a\0b <|endoftext|>[MASK]\r\n\u0378\U0001fae8 \ufffd\u2028  x"
BYTES = load_tokenizer("bytes")


@given(texts)
@example(ODD)
@example("")
@settings(deadline=None, max_examples=150)
def test_text_comes_back_exactly(bpe, text):
    for tokenizer in (BYTES, bpe):
        ids = tokenizer.encode(text)
        assert ids.dtype == np.int32
        assert tokenizer.decode(ids) == text
        assert tokenizer.end_of_document not in ids
        assert ids.size == 0 or 0 <= ids.min() <= ids.max() < tokenizer.vocabulary
        assert b"".join(map(tokenizer.token_bytes, ids.tolist())) == text.encode()
        assert tokenizer.token_byte_lengths[ids].sum() == len(text.encode())


def test_the_byte_tokenizer():
    assert (BYTES.name, BYTES.kind, BYTES.vocabulary) == ("bytes", "bytes", 257)
    assert (BYTES.end_of_document, BYTES.mask) == (256, 257)
    assert BYTES.encode("aä").tolist() == [97, 195, 164]
    assert BYTES.token_byte_lengths.tolist() == [1] * 256 + [0]


def test_what_is_no_text_is_still_shown(bpe):
    for tokenizer in (BYTES, bpe):
        a = tokenizer.encode("a")[0]
        shown = tokenizer.decode([a, tokenizer.mask, tokenizer.end_of_document, a, 10**6])
        assert shown == "a[MASK]<|endoftext|>a[MASK]"
    assert BYTES.decode([195]) == "\ufffd"


@pytest.mark.parametrize("kind", ["bytes", "bpe", "sample"])
def test_one_file_restores_everything(tmp_path, request, kind):
    if kind == "sample":
        before = load_tokenizer(request.getfixturevalue("samples") / "bpe500")
    else:
        before = BYTES if kind == "bytes" else request.getfixturevalue("bpe")
    before.save(tmp_path / "tokenizer.json")
    for spec in (tmp_path / "tokenizer.json", str(tmp_path)):
        after = load_tokenizer(spec)
        assert after.facts == before.facts
        assert after.encode(ODD).tolist() == before.encode(ODD).tolist()
    # It is a real tokenizer.json: the library itself reads it and gives the same ids.
    library = HFTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert library.encode("plain text").ids == before.encode("plain text").tolist()
    assert library.decode(before.encode("plain text").tolist()) == "plain text"
    assert library.token_to_id("<|endoftext|>") == before.end_of_document


def test_gpt2_files_have_the_reference_numbers(samples):
    tokenizer = load_tokenizer(samples / "gpt2")
    assert (tokenizer.name, tokenizer.vocabulary) == ("gpt2", 50257)
    assert (tokenizer.end_of_document, tokenizer.mask) == (50256, 50257)
    assert tokenizer.why_slow is None
    assert tokenizer.encode("Hello world").tolist() == [15496, 995]
    small = load_tokenizer(samples / "bpe500")
    assert (small.vocabulary, small.end_of_document, small.mask) == (500, 499, 500)


def test_the_sum_does_not_depend_on_the_form(tmp_path, samples):
    files = load_tokenizer(samples / "bpe500")
    files.save(tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    del content["model"]["epochal"]
    # As the hub writes GPT-2's: empty strings for null, a post-processor that only trims.
    content["model"] |= {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
    content["post_processor"] = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": False,
        "use_regex": True,
    }
    content["pre_tokenizer"]["trim_offsets"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    other = load_tokenizer(tmp_path)
    assert other.sha256 == files.sha256
    assert other.why_slow is None
    assert other.sha256 != BYTES.sha256


def test_the_sum_depends_on_what_decides_ids(bpe, english):
    assert train_bpe(english, 601).sha256 != bpe.sha256


def test_training_is_deterministic_and_exact(bpe, english):
    again = train_bpe(iter(english), 600)
    assert again.sha256 == bpe.sha256
    assert (again.name, again.vocabulary, again.end_of_document) == ("bpe:600", 600, 599)
    assert again.why_slow is None
    assert len(again.encode(english[0])) < 0.7 * len(english[0].encode())


def test_a_small_text_gives_a_small_vocabulary():
    tokenizer = train_bpe(["abc"], 5000)
    assert tokenizer.vocabulary == 257
    assert tokenizer.decode(tokenizer.encode(ODD)) == ODD


def test_an_error_of_the_text_survives_training():
    def broken():
        yield "text"
        raise DataError("the file is broken")

    with pytest.raises(DataError, match="the file is broken"):
        train_bpe(broken(), 300)


def test_bpe_specs():
    assert parse_bpe("bpe:8192") == 8192
    assert parse_bpe("bpe:8_192") == 8192
    assert parse_bpe("bytes") is None
    for spec in ("bpe:256", "bpe:0"):
        with pytest.raises(DataError, match=r"too small.*bpe:257"):
            parse_bpe(spec)
    with pytest.raises(DataError, match="write for example bpe:8192"):
        parse_bpe("bpe:many")


def test_names_that_are_no_tokenizer(tmp_path):
    with pytest.raises(DataError, match=r"no tokenizer 'byte'. Did you mean `bytes`\? Give"):
        load_tokenizer("byte")
    with pytest.raises(DataError, match="only `epochal data prepare` does"):
        load_tokenizer("bpe:8192")
    with pytest.raises(DataError, match=r"holds no tokenizer: it needs a tokenizer.json, or one"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"is not a tokenizer.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(DataError, match="for GPT-2's two files give their folder"):
        load_tokenizer(tmp_path / "vocab.json")


def test_gpt2_files_under_the_originals_names(tmp_path, samples):
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / f"gpt2-{name}").write_bytes((samples / "bpe500" / name).read_bytes())
    assert load_tokenizer(tmp_path).vocabulary == 500
    (tmp_path / "gpt2-vocab.json").write_text("not JSON")
    with pytest.raises(DataError, match=r"cannot read the tokenizer .*gpt2-vocab.json"):
        load_tokenizer(tmp_path)


def hub(monkeypatch, download, answer=lambda url, timeout: None):
    module = types.ModuleType("huggingface_hub")
    module.hf_hub_download = download
    module.hf_hub_url = "https://hub/{}/{}".format
    module.get_hf_file_metadata = answer
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


def test_gpt2_comes_from_the_hub(monkeypatch, samples):
    asked = []

    def download(repository, name, local_files_only):
        asked.append((repository, name, local_files_only))
        if local_files_only and not cached:
            raise FileNotFoundError("not in the cache")
        return str(samples / "bpe500" / name)

    hub(monkeypatch, download)
    names = ("vocab.json", "merges.txt")
    for cached in (True, False):
        assert load_tokenizer("gpt2").name == "gpt2"
        expected = [("openai-community/gpt2", name, cached) for name in names]
        assert asked[-2:] == expected


def test_gpt2_offline(monkeypatch):
    def none_cached(*_, local_files_only):
        assert local_files_only  # a download would try for half a minute
        raise FileNotFoundError

    def fail(url, timeout):
        try:
            raise ConnectionError("no route to host\nand a long trace")
        except OSError as error:
            raise FileNotFoundError("some long-winded advice") from error

    hub(monkeypatch, none_cached, fail)
    with pytest.raises(DataError, match=r"\(no route to host\); go online once, or download vocab"):
        load_tokenizer("gpt2")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DataError, match=r"pip install 'epochal\[hub\]'`, or download vocab.json"):
        load_tokenizer("gpt2")


def word_level(*tokens, special=(), split=None):
    hf = HFTokenizer(models.WordLevel({t: n for n, t in enumerate(tokens)}, unk_token=tokens[0]))
    hf.pre_tokenizer = split or pre_tokenizers.Whitespace()
    hf.add_special_tokens(list(special))
    return hf


def save(hf, folder):
    hf.save(str(folder / "tokenizer.json"))
    return folder


def test_an_end_of_document_is_found_or_named(tmp_path):
    save(word_level("[UNK]", "a", "b", special=["</s>", "<stop>"]), tmp_path)
    assert load_tokenizer(tmp_path).end_token == "</s>"
    named = load_tokenizer(tmp_path, "<stop>")
    assert named.end_of_document == 4
    (tmp_path / "run").mkdir()
    named.save(tmp_path / "run" / "tokenizer.json")
    assert load_tokenizer(tmp_path / "run").end_token == "<stop>"
    with pytest.raises(DataError, match=r"has no token '<end>'; name a token .*`end_of_document`"):
        load_tokenizer(tmp_path, "<end>")
    save(word_level("[UNK]", "a"), tmp_path)
    with pytest.raises(DataError, match=r"has none of the usual end-of-document tokens \(<\|endof"):
        load_tokenizer(tmp_path)


def test_the_byte_tokenizer_has_its_own_end():
    assert load_tokenizer("bytes", "<|endoftext|>").end_of_document == 256
    with pytest.raises(DataError, match="leave `end_of_document` out"):
        load_tokenizer("bytes", "</s>")


def test_a_special_token_that_the_vocabulary_finds_in_text_is_cut(tmp_path):
    hf = word_level("[UNK]", "a", "</s>", "<", "/s>", split=pre_tokenizers.WhitespaceSplit())
    tokenizer = load_tokenizer(save(hf, tmp_path))
    assert tokenizer.encode("a </s> a").tolist() == [1, 3, 4, 1]
    pieces = [("<unk>", 0.0), ("</s>", -1.0), *((letter, -2.0) for letter in "▁</s>ab")]
    unigram = HFTokenizer(models.Unigram(pieces, unk_id=0))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    unigram.decoder = decoders.Metaspace(prepend_scheme="never")
    tokenizer = load_tokenizer(save(unigram, tmp_path))
    assert tokenizer.unknown == 0
    for text in ("a</s>b", "</s></s>", "a b"):
        ids = tokenizer.encode(text)
        assert tokenizer.end_of_document not in ids
        assert tokenizer.decode(ids) == text


def test_the_unknown_token_is_no_fault_of_the_text(tmp_path):
    """WordPiece encodes what it has nothing for, such as its own brackets, to [UNK]."""
    hf = HFTokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "[SEP]": 2}, unk_token="[UNK]"))
    hf.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    hf.add_special_tokens(["[UNK]", "[SEP]"])
    tokenizer = load_tokenizer(save(hf, tmp_path))
    assert tokenizer.end_of_document == 2
    assert tokenizer.encode("a [UNK] [SEP]").tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert tokenizer.first_unknown("a (a)") == "("
    assert tokenizer.first_unknown("a a") == ""


def test_a_tokenizer_that_insists_on_special_ids_in_text(tmp_path):
    newline = HFTokenizer(models.BPE({"Ċ": 0, "a": 1}, []))
    newline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    with pytest.raises(DataError, match="into its special token"):
        load_tokenizer(save(newline, tmp_path), "Ċ")


def test_a_special_token_that_no_cut_keeps_out_becomes_unknown(tmp_path):
    """The vocabulary finds a token of one character in text whatever is cut."""
    hf = word_level("[UNK]", "a", "#", "##", split=pre_tokenizers.WhitespaceSplit())
    tokenizer = load_tokenizer(save(hf, tmp_path), "#")
    assert tokenizer.encode("a # a").tolist() == [1, 0, 1]
    assert tokenizer.first_unknown("a # a") == "#"


def test_a_tokenizer_of_words_works_but_has_no_bytes(tmp_path):
    hf = word_level("[UNK]", "hello", "world", special=["</s>"])
    hf.enable_truncation(1)
    hf.enable_padding(length=7)
    hf.normalizer = normalizers.Lowercase()
    tokenizer = load_tokenizer(save(hf, tmp_path))
    assert tokenizer.kind == "wordlevel"
    assert tokenizer.why_slow.values == {"model": "WordLevel"}
    assert tokenizer.encode("Hello WORLD").tolist() == [1, 2]
    assert tokenizer.decode([1, 4, 2]) == "hello[MASK]world"
    assert tokenizer.token_byte_lengths is None
    with pytest.raises(DataError, match="does not stand for fixed bytes"):
        tokenizer.token_bytes(1)


def test_holes_in_the_vocabulary():
    hf = HFTokenizer(models.WordLevel({"a": 0, "b": 5}, unk_token="a"))
    hf.add_special_tokens([AddedToken("</s>", special=True)])
    hf.decoder = decoders.ByteLevel()
    tokenizer = Tokenizer(hf, "holes")
    assert tokenizer.vocabulary == 6
    assert tokenizer.mask == 6


def test_no_tokens_at_all():
    with pytest.raises(DataError, match="no tokens"):
        Tokenizer(HFTokenizer(models.BPE()), "empty")
