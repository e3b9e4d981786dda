"""Prompts in, texts out: gaps, searched lengths, batches, streams, files."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from epochal.errors import UserError
from epochal.generation.config import GenerationConfig
from epochal.generation.prompts import generate_file, read_prompts
from epochal.interop.load import load


@pytest.fixture(scope="module")
def models(tiny_pair):
    return {family: load(tiny_pair / family, device="cpu") for family in ("ar", "mdm")}


PROMPTS = ["The list", "A name", "", "The list", "The value of it"]


def texts(model, prompts, config):
    found = dict(model.generator.generate(prompts, config))
    return [[one.text for one in found[number]] for number in range(len(prompts))]


@pytest.mark.parametrize("family", ["ar", "mdm"])
def test_a_text_is_the_same_alone_and_in_a_batch(models, family):
    model, config = models[family], GenerationConfig(tokens=9, samples=2, seed=3)
    together = texts(model, PROMPTS, config)
    assert together[0] == together[3]
    assert together[0][0] != together[0][1]
    for prompt, found in zip(PROMPTS, together, strict=True):
        assert found == model.generate(prompt, config)
        assert model.generate(prompt, replace(config, samples=1)) == found[:1]
        assert all(text.startswith(prompt) for text in found)


@pytest.mark.parametrize(("family", "block"), [("ar", None), ("mdm", None), ("mdm", 4)])
def test_a_stream_joined_is_the_text(models, family, block):
    for remask in (0.0, 0.4):
        more = {} if family == "ar" else {"block": block, "remask": remask}
        config = GenerationConfig(tokens=14, seed=4, **more)
        pieces = list(models[family].generator.stream("The list", config))
        [[whole]] = texts(models[family], ["The list"], config)
        assert "".join(pieces) == whole
        if family == "ar" or block:
            assert len([piece for piece in pieces if piece]) > 1
    for gaps in ("if [MASK:3] is [MASK] then", "if [MASK:0] then"):  # the last needs no step
        [[whole]] = texts(models["mdm"], [gaps], GenerationConfig())
        assert "".join(models["mdm"].generator.stream(gaps, GenerationConfig())) == whole


@pytest.mark.parametrize(
    ("prompt", "options"), [("The", {"tokens": 4, "samples": 2}), ("a [MASK:2-3]", {})]
)
def test_what_cannot_be_streamed(models, prompt, options):
    stream = models["mdm"].generator.stream(prompt, GenerationConfig(**options))
    with pytest.raises(UserError, match="only one text can be streamed"):
        list(stream)


def test_options_that_a_family_does_not_use_are_refused(models):
    generator = models["ar"].generator
    config = GenerationConfig(tokens=4, steps=2, block=2, remask=0.1)
    for text in (generator.generate(["a"], config), generator.stream("a", config)):
        with pytest.raises(UserError, match=r"^steps, remask, block cannot be used with"):
            list(text)
    assert generator.unused_options == ["steps", "order", "remask", "block", "cached"]
    assert models["mdm"].generator.unused_options == []


def test_the_searched_length_is_the_one_with_the_likeliest_tokens(models):
    """Against every length on its own: the sample whose mean log p is highest."""
    model, generator = models["mdm"], models["mdm"].generator
    config = GenerationConfig(samples=4, seed=1, temperature=0.8)
    [[*found]] = texts(model, ["if [MASK:1-5] is [MASK:2] then"], config)
    for sample, text in enumerate(found):
        scores = {}
        for length in range(1, 6):
            [rows] = [generator._rows(0, f"if [MASK:{length}] is [MASK:2] then", config)]
            keys = [row.key for row in generator._rows(0, "if [MASK:1-5] is [MASK:2] then", config)]
            row = rows[sample]
            row = type(row)(0, sample, row.ids, keys[sample], None)
            [ids], [score] = generator._fill([row], config)
            scores[score] = model.tokenizer.decode(ids[1:])
        assert text == scores[max(scores)]
    assert all(text.startswith("if ") and text.endswith(" then") for text in found)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a [MASK:3-2]", "give a range such as"),
        ("a [MASK:0-2]", "give a range such as"),
        ("a [MASK:1-99]", "at most 64 lengths"),
        ("a [MASK:1-2] b [MASK:1-2]", "only one gap"),
        ("a [MASK:99]", "was trained on 32"),
        ("a [MASK: 3]", r"\[MASK: 3\] is not a gap"),
        ("a [MASK:3-]", r"\[MASK:3-\] is not a gap"),
    ],
)
def test_gaps_that_make_no_sense(models, prompt, message):
    with pytest.raises(UserError, match=message):
        models["mdm"].generate(prompt)


def test_the_prompt_at_fault_is_named_among_several(models):
    generator, config = models["ar"].generator, GenerationConfig(tokens=2)
    with pytest.raises(UserError, match=r"^prompt 'a \[MASK\]': autoregressive models cannot"):
        list(generator.generate(["The", "a [MASK]"], config))
    with pytest.raises(UserError, match=r"^autoregressive models cannot"):
        list(generator.generate(["a [MASK]"], config))


# --- files of prompts --------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["ar", "mdm"])
def test_a_file_of_prompts_is_resumed(models, tmp_path, family):
    config, out = GenerationConfig(tokens=6, samples=2), tmp_path / "deep" / "texts.jsonl"
    assert generate_file(models[family].generator, PROMPTS, out, config) == (5, 0)
    whole = out.read_text()
    lines = [json.loads(line) for line in whole.splitlines()]
    assert [line["prompt"] for line in lines] == PROMPTS
    assert [line["texts"] for line in lines] == texts(models[family], PROMPTS, config)
    assert generate_file(models[family].generator, PROMPTS, out, config) == (0, 5)
    assert out.read_text() == whole
    kept = whole.splitlines(keepends=True)
    out.write_text(kept[3] + kept[1] + kept[0][:20])  # killed in the middle of a line
    assert generate_file(models[family].generator, PROMPTS, out, config) == (3, 2)
    assert out.read_text() == whole
    with pytest.raises(UserError, match="for other prompts"):
        generate_file(models[family].generator, PROMPTS[::-1], out, config)
    with pytest.raises(UserError, match="with other settings"):
        generate_file(models[family].generator, PROMPTS, out, GenerationConfig(tokens=7, samples=2))
    assert out.read_text() == whole


def test_reading_prompts(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\nthree\n")
    assert read_prompts(tmp_path / "a.txt") == ["one", "", "three"]
    (tmp_path / "a.jsonl").write_text('{"prompt": "a\\nb", "id": 3}\n{"prompt": ""}\n')
    assert read_prompts(tmp_path / "a.jsonl") == ["a\nb", ""]
    bad = {"b.jsonl": '{"prompt": "a"}\n{"text": "b"}\n', "c.jsonl": "[1]\n", "d.jsonl": "x\n"}
    for name, content in bad.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match=r"line \d has no prompt"):
            read_prompts(tmp_path / name)
    (tmp_path / "e.txt").write_text("")
    with pytest.raises(UserError, match="is empty"):
        read_prompts(tmp_path / "e.txt")
    with pytest.raises(UserError, match="cannot read the prompts"):
        read_prompts(tmp_path / "nothing")
