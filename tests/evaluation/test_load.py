"""A loaded model: logits, likelihoods, texts."""

from __future__ import annotations

import shutil

import pytest
import torch

from epochal.cli.main import main
from epochal.errors import RunError, UserError
from epochal.generation.config import GenerationConfig
from epochal.interop.load import load
from epochal.training.train import train
from tiny_runs import overrides


@pytest.fixture(scope="module")
def ar(tiny_pair):
    return load(tiny_pair / "ar")


@pytest.fixture(scope="module")
def mdm(tiny_pair):
    return load(tiny_pair / "mdm")


def some_ids(model, rows=3, length=12):
    generator = torch.Generator().manual_seed(4)
    return torch.randint(model.tokenizer.vocabulary, (rows, length), generator=generator)


def test_logits_are_float32_of_the_padded_vocabulary(ar, mdm):
    for model in (ar, mdm):
        logits = model.logits(some_ids(model))
        assert logits.shape == (3, 12, 384)
        assert logits.dtype == torch.float32
        assert torch.equal(model.logits(some_ids(model).numpy()), logits)


def test_ar_sees_the_past_only_and_mdm_both_sides(ar, mdm):
    for model, changes in ((ar, False), (mdm, True)):
        ids = some_ids(model)
        other = ids.clone()
        other[:, 8] = (other[:, 8] + 1) % model.tokenizer.vocabulary
        same = torch.equal(model.logits(ids)[:, :8], model.logits(other)[:, :8])
        assert same is not changes


def test_the_nll_of_ar_is_exact(ar):
    ids = some_ids(ar)
    nll, error = ar.nll(ids)
    logs = ar.logits(ids).double().log_softmax(-1)[:, :-1]
    expected = -logs.gather(2, ids[:, 1:, None]).squeeze(2).sum(1)
    torch.testing.assert_close(nll, expected, rtol=1e-5, atol=1e-5)
    assert not error.any()


def test_short_rows_of_mdm_have_masks_behind_them(mdm):
    """With one token scored the bound is exact: −log p of it in a row of the length trained on."""
    ids = some_ids(mdm, rows=5, length=2)
    full = torch.full((5, mdm.sequence_length), mdm.tokenizer.mask)
    full[:, 0] = ids[:, 0]
    logs = mdm.logits(full)[:, 1].double().log_softmax(-1)
    nll, error = mdm.nll(ids, draws=4)
    torch.testing.assert_close(nll, -logs.gather(1, ids[:, 1:]).squeeze(1), rtol=1e-4, atol=1e-4)
    assert (error < 1e-5).all()
    assert mdm.padded_length == mdm.sequence_length


def test_the_nll_of_mdm_has_the_error_it_tells(mdm):
    """Two sets of masks differ by some of the errors told, not by many."""
    ids = some_ids(mdm, rows=8)
    first, error = mdm.nll(ids, draws=64, seed=1)
    second, other = mdm.nll(ids, draws=64, seed=2)
    z = (first - second) / (error.square() + other.square()).sqrt()
    assert (z.abs() < 5).all()
    assert z.abs().max() > 0.05
    again, _ = mdm.nll(ids, draws=64, seed=1)
    assert torch.equal(first, again)


def test_greedy_text_is_the_same_without_the_cache(ar):
    prompt = "The "
    [text] = ar.generate(prompt, GenerationConfig(tokens=15, temperature=0.0))
    ids = [ar.tokenizer.end_of_document, *ar.tokenizer.encode(prompt).tolist()]
    start = len(ids)
    for _ in range(15):
        logits = ar.logits(torch.tensor([ids]))[0, -1, : ar.tokenizer.vocabulary]
        ids.append(int(logits.argmax()))
        if ids[-1] == ar.tokenizer.end_of_document:
            ids.pop()
            break
    assert text == prompt + ar.tokenizer.decode(ids[start:])


@pytest.mark.parametrize("family", ["ar", "mdm"])
def test_the_seed_decides(ar, mdm, family):
    model = {"ar": ar, "mdm": mdm}[family]
    first = model.generate("The ", GenerationConfig(tokens=12, samples=3, seed=1))
    assert first == model.generate("The ", GenerationConfig(tokens=12, samples=3, seed=1))
    assert first != model.generate("The ", GenerationConfig(tokens=12, samples=3, seed=2))
    assert len(set(first)) > 1
    assert all(text.startswith("The ") for text in first)


@pytest.mark.parametrize("order", ["confidence", "ancestral"])
@pytest.mark.parametrize("steps", [1, 3, None])
def test_infilling_keeps_what_was_given(mdm, order, steps):
    [text] = mdm.generate(
        "if [MASK:3] is [MASK] then", GenerationConfig(order=order, steps=steps, seed=2)
    )
    assert text.startswith("if ")
    assert " is " in text
    assert text.endswith(" then")
    assert "[MASK" not in text


def test_bf16_writes_text_too(tiny_corpus, tmp_path):
    for family in ("ar", "mdm"):
        values = overrides(
            tiny_corpus, tmp_path / family, family=family, train__precision="bf16", train__steps=4
        )
        train(None, values)
        model = load(tmp_path / family)
        assert model.machine.precision == "bf16"
        [text] = model.generate("The ", GenerationConfig(tokens=8, seed=1))
        assert text.startswith("The ")
        assert model.logits(some_ids(model)).dtype == torch.float32


@pytest.mark.parametrize("prompt", ["word " * 60, "The "])
def test_texts_longer_than_the_model_was_trained_on_are_refused(ar, mdm, prompt):
    config = GenerationConfig(tokens=4 if len(prompt) > 60 else 200)
    for model in (ar, mdm):
        with pytest.raises(UserError, match="was trained on 32"):
            model.generate(prompt, config)


def test_ar_cannot_fill_in(ar):
    with pytest.raises(UserError, match="cannot fill in"):
        ar.generate("a [MASK] b")


def test_ids_that_are_none_of_the_models(mdm):
    for bad in ([[400]], [[-1]], [1, 2]):
        with pytest.raises(UserError, match=r"\[B, L\] ids from 0"):
            mdm.logits(torch.tensor(bad))
    with pytest.raises(UserError, match="at least 2"):
        mdm.nll(some_ids(mdm), draws=1)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(RunError, match="is not a run"):
        load(tmp_path)


def said(capsys, *words):
    """What the command says as it ends with exit code 2."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert end.value.code == 2
    return capsys.readouterr().err


def test_a_damaged_checkpoint_names_the_other(tiny_pair, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(tiny_pair / "ar", run)
    [best] = (run / "checkpoints").glob("best-*")
    (best / "model.safetensors").write_bytes(b"short")
    message = said(capsys, "generate", run, "--prompt", "a")
    assert "or read another: --checkpoint last" in message
    assert len(load(run, "last").generate("a", GenerationConfig(tokens=2, samples=1))) == 1
    for other in (run / "checkpoints").glob("last-*"):
        (other / "model.safetensors").write_bytes(b"short")
    message = said(capsys, "generate", run, "--prompt", "a")
    assert "no usable checkpoint" in message
    assert "--checkpoint" not in message


def test_checkpoints_where_they_do_not_belong(tiny_pair, tmp_path, capsys):
    ar = tiny_pair / "ar"
    message = said(capsys, "generate", f"{ar}@last", "--prompt", "a")
    assert f"give {ar} --checkpoint last instead" in message
    message = said(capsys, "average", f"{ar}@last", "--out", tmp_path / "mean")
    assert "is a single checkpoint, so there is nothing to average" in message


@pytest.mark.parametrize(
    "given", ["--order confidence", "--order margin", "--cached", "--steps 4", "--remask 0.5"]
)
def test_options_that_ar_does_not_use_are_refused(tiny_pair, capsys, given):
    message = said(capsys, "generate", tiny_pair / "ar", "--prompt", "a", *given.split())
    assert given.split()[0] in message
    assert "autoregressive" in message
