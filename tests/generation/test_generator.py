"""Prompts in, texts out: gaps, searched lengths, batches, streams, files, quality."""

from __future__ import annotations

import json
import shutil

import pytest

from epochal.errors import UserError
from epochal.evaluation.prompts import generate_file, read_prompts
from epochal.evaluation.quality import quality
from epochal.evaluation.text_statistics import distinct, repetition
from epochal.generation.generator import Wish
from epochal.generation.sampling import Sampling
from epochal.generation.unmasking import Schedule
from epochal.interop.load import load
from epochal.runs import RunRecord


@pytest.fixture(scope="module")
def models(tiny_pair):
    return {family: load(tiny_pair / family, device="cpu") for family in ("ar", "mdm")}


PROMPTS = ["The list", "A name", "", "The list", "The value of it"]


def texts(model, prompts, wish):
    found = dict(model.writer.write(prompts, wish))
    return [[one.text for one in found[number]] for number in range(len(prompts))]


@pytest.mark.parametrize("family", ["ar", "mdm"])
def test_a_text_is_the_same_alone_and_in_a_batch(models, family):
    model, wish = models[family], Wish(tokens=9, samples=2, seed=3)
    together = texts(model, PROMPTS, wish)
    assert together[0] == together[3]
    assert together[0][0] != together[0][1]
    for prompt, found in zip(PROMPTS, together, strict=True):
        assert found == model.generate(prompt, tokens=9, samples=2, seed=3)
        assert model.generate(prompt, tokens=9, samples=1, seed=3) == found[:1]
        assert all(text.startswith(prompt) for text in found)


@pytest.mark.parametrize(("family", "block"), [("ar", None), ("mdm", None), ("mdm", 4)])
def test_a_stream_joined_is_the_text(models, family, block):
    for remask in (0.0, 0.4):
        schedule = Schedule() if family == "ar" else Schedule(block=block, remask=remask)
        wish = Wish(tokens=14, seed=4, schedule=schedule)
        pieces = list(models[family].writer.stream("The list", wish))
        [[whole]] = texts(models[family], ["The list"], wish)
        assert "".join(pieces) == whole
        if family == "ar" or block:
            assert len([piece for piece in pieces if piece]) > 1
    for gaps in ("if [MASK:3] is [MASK] then", "if [MASK:0] then"):  # the last needs no step
        [[whole]] = texts(models["mdm"], [gaps], Wish())
        assert "".join(models["mdm"].writer.stream(gaps, Wish())) == whole


def test_what_cannot_be_streamed(models):
    for prompt, wish in (("The", Wish(tokens=4, samples=2)), ("a [MASK:2-3]", Wish())):
        with pytest.raises(UserError, match="only one text can be streamed"):
            list(models["mdm"].writer.stream(prompt, wish))


def test_settings_of_diffusion_are_refused_by_ar(models):
    wish = Wish(tokens=4, schedule=Schedule(steps=2, block=2, remask=0.1))
    for write in (lambda: texts(models["ar"], ["a"], wish),
                  lambda: list(models["ar"].writer.stream("a", wish))):  # fmt: skip
        with pytest.raises(UserError, match="steps, remask, block: an autoregressive model"):
            write()


def test_the_searched_length_is_the_one_with_the_likeliest_tokens(models):
    """Against every length on its own: the sample whose mean log p is highest."""
    model, writer = models["mdm"], models["mdm"].writer
    wish = Wish(samples=4, seed=1, sampling=Sampling(temperature=0.8))
    [[*found]] = texts(model, ["if [MASK:1-5] is [MASK:2] then"], wish)
    for sample, text in enumerate(found):
        scores = {}
        for length in range(1, 6):
            [rows] = [writer._rows(0, f"if [MASK:{length}] is [MASK:2] then", wish)]
            keys = [row.key for row in writer._rows(0, "if [MASK:1-5] is [MASK:2] then", wish)]
            row = rows[sample]
            row = type(row)(0, sample, row.ids, keys[sample], True)
            [ids], [score] = writer._fill([row], wish)
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
        ("a [MASK: 3]", r"\[MASK: 3\] is no gap"),
        ("a [MASK:3-]", r"\[MASK:3-\] is no gap"),
    ],
)
def test_gaps_that_make_no_sense(models, prompt, message):
    with pytest.raises(UserError, match=message):
        models["mdm"].generate(prompt)


def test_the_prompt_at_fault_is_named_among_several(models):
    with pytest.raises(UserError, match=r"^prompt 'a \[MASK\]': an autoregressive model"):
        list(models["ar"].writer.write(["The", "a [MASK]"], Wish(tokens=2)))
    with pytest.raises(UserError, match=r"^an autoregressive model"):
        list(models["ar"].writer.write(["a [MASK]"], Wish(tokens=2)))


# --- files of prompts --------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["ar", "mdm"])
def test_a_file_of_prompts_goes_on_where_it_was_broken_off(models, tmp_path, family):
    wish, out = Wish(tokens=6, samples=2), tmp_path / "deep" / "texts.jsonl"
    assert generate_file(models[family], PROMPTS, out, wish) == (5, 0)
    whole = out.read_text()
    lines = [json.loads(line) for line in whole.splitlines()]
    assert [line["prompt"] for line in lines] == PROMPTS
    assert [line["texts"] for line in lines] == texts(models[family], PROMPTS, wish)
    assert generate_file(models[family], PROMPTS, out, wish) == (0, 5)
    assert out.read_text() == whole
    kept = whole.splitlines(keepends=True)
    out.write_text(kept[3] + kept[1] + kept[0][:20])  # killed in the middle of a line
    assert generate_file(models[family], PROMPTS, out, wish) == (3, 2)
    assert out.read_text() == whole
    with pytest.raises(UserError, match="for other prompts"):
        generate_file(models[family], PROMPTS[::-1], out, wish)
    with pytest.raises(UserError, match="with other settings"):
        generate_file(models[family], PROMPTS, out, Wish(tokens=7, samples=2))
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


# --- quality -----------------------------------------------------------------------------------


def test_figures_of_variety():
    some = [[1, 2, 1, 2, 1], [1, 2, 3]]
    assert distinct(some, 1) == 3 / 8
    assert distinct(some, 2) == 3 / 6  # 12 21 12 21 | 12 23
    assert repetition(some, 2) == 2 / 6
    assert repetition([[7] * 10]) == 6 / 7
    assert distinct([[1]], 2) == repetition([[1, 2]]) == 0


@pytest.fixture(scope="module")
def runs(tiny_pair, tmp_path_factory):
    return shutil.copytree(tiny_pair, tmp_path_factory.mktemp("quality") / "pair")


def test_quality_is_judged_and_kept(runs, models):
    found = quality(runs / "mdm", runs / "ar", steps=[1, 5], samples=6, tokens=12, device="cpu")
    assert [row.steps for row in found.rows] == [1, 5]
    assert found.reference.tokens > 0
    assert RunRecord(runs / "mdm").quality() == [json.loads(json.dumps(found.as_dict()))]
    # The figure, from the same texts and the judge's logits; its padding has no part in it.
    wish = Wish(tokens=12, samples=6, schedule=Schedule(steps=5))
    [(_, written)] = models["mdm"].writer.write([""], wish)
    end, total, count = models["ar"].tokenizer.end_of_document, 0.0, 0
    for one in written:
        if one.new:
            logits = models["ar"].logits([[end, *one.new]])[0, :-1]
            logs = logits[:, : models["ar"].tokenizer.vocabulary].double().log_softmax(-1)
            total -= sum(float(log[x]) for log, x in zip(logs, one.new, strict=True))
            count += len(one.new)
    assert found.rows[1].nll_nats_per_token == pytest.approx(total / count, rel=1e-4)
    assert found.rows[1].tokens == count
    assert found.rows[1].distinct_1 == distinct([one.new for one in written], 1)

    back = quality(runs / "ar", f"{runs / 'mdm'}@last", samples=6, tokens=12, device="cpu")
    assert [row.steps for row in back.rows] == [12]
    assert (back.order, back.judge_family) == ("left-to-right", "mdm")
    assert 1 < back.rows[0].nll_nats_per_token < 12


def test_what_cannot_be_judged(runs):
    for tokens in (1, 32):
        with pytest.raises(UserError, match="give 2 to 31"):
            quality(runs / "mdm", runs / "ar", tokens=tokens, device="cpu")
    for more in ({"steps": [2]}, {"order": "ancestral"}):
        with pytest.raises(UserError, match="is autoregressive and writes token by token"):
            quality(runs / "ar", runs / "mdm", tokens=8, **more)
    with pytest.raises(UserError, match="steps = 0"):
        quality(runs / "mdm", runs / "ar", steps=[0], tokens=8, device="cpu")
