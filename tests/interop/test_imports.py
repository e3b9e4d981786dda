"""Imported models are runs like any other: load, eval, generate, report, and train on."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import original
from epochal.cli.main import main
from epochal.data.options import PrepareOptions
from epochal.data.prepare import prepare
from epochal.errors import DataError, RunError, UserError
from epochal.evaluation.evaluate import evaluate
from epochal.evaluation.options import EvalOptions
from epochal.generation.config import GenerationConfig
from epochal.interop.imports import import_hf, import_megatron
from epochal.interop.load import load
from epochal.interop.options import ImportOptions, MegatronOptions
from epochal.report import write_report
from epochal.results import to_json
from epochal.runs import RunRecord
from epochal.studies.compare import compare_existing
from epochal.training.train import train

FAMILIES = list(original.FAMILIES)


def sample(family):
    return original.FILES / f"megatron_{family}"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A corpus whose tokenizer has 500 tokens, as the samples' had (not the same ones)."""
    folder = tmp_path_factory.mktemp("corpus")
    docs = original.FILES / "docs.jsonl"
    made = prepare(
        docs, folder / "c", PrepareOptions(tokenizer="bpe:500", validation=0.2, workers=1)
    )
    assert made.tokenizer.vocabulary == 500
    return made.folder


@pytest.fixture(scope="module", params=FAMILIES)
def bare(request, tmp_path_factory):
    """(family, run) imported with nothing but the checkpoint."""
    out = tmp_path_factory.mktemp("bare") / request.param
    return request.param, import_megatron(sample(request.param), out).path


def test_a_run_without_a_tokenizer_gives_logits_and_losses(bare):
    """Within 1e-4 of what the original wrote (here within 1e-5)."""
    family, run = bare
    given = original.arrays(family)
    model = load(run)
    assert (model.family, model.step, model.tokenizer.mask) == (family, 60, 500)
    logits = model.logits(given["logits/tokens"])[:, :: original.LOGITS_EVERY]
    assert np.abs(logits.numpy() - given["logits/logits"]).max() < 1e-5
    inputs, labels = torch.from_numpy(given["loss/input"]), torch.from_numpy(given["loss/labels"])
    nll = torch.nn.functional.cross_entropy(
        model.logits(inputs).flatten(0, 1), labels.flatten().long(), reduction="none"
    )
    weights = 1.0
    if family == "mdm":
        weights = torch.from_numpy(given["loss/masked"] / given["loss/p_mask"]).flatten()
    loss = (nll * weights).mean().item()
    assert loss == pytest.approx(float(given["loss/loss"]), abs=1e-5)
    values, errors = model.nll(given["loss/window"], draws=8)
    if family == "ar":
        assert values.mean().item() / 64 == pytest.approx(loss, abs=1e-5)
        assert not errors.any()
    assert torch.isfinite(values).all()


def test_what_it_cannot_do_without_a_tokenizer_is_said(bare, corpus):
    _, run = bare
    with pytest.raises(DataError, match="tokenizer"):
        load(run).generate("The ", GenerationConfig(tokens=3))
    with pytest.raises(RunError, match="was imported without a corpus"):
        evaluate(run)
    with pytest.raises(UserError, match="the imported run has no tokenizer"):
        evaluate(run, EvalOptions(corpus=corpus))


def test_the_report_takes_it(bare, tmp_path):
    family, run = bare
    made = write_report([run], tmp_path / "page.html")
    assert made.runs == [family]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_original_folder_can_be_loaded_as_it_is(family):
    given = original.arrays(family)
    logits = load(sample(family)).logits(given["logits/tokens"])[:, :: original.LOGITS_EVERY]
    assert np.abs(logits.numpy() - given["logits/logits"]).max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_with_a_corpus_and_the_optimizer_training_goes_on(family, corpus, tmp_path):
    run = tmp_path / family
    record = import_megatron(sample(family), run, MegatronOptions(corpus=corpus, optimizer=True))
    assert record.status == "stopped"
    before = evaluate(run)
    assert (before.checkpoint, before.step) == ("best", 60)
    assert load(run).generate("a", GenerationConfig(tokens=4))
    train(record.recipe)
    after = RunRecord(run)
    assert after.status == "finished"
    steps = [line["step"] for line in after.metrics("train")]
    assert steps == list(range(61, 81))
    # The text is new to the model, whose moments are of another: it must learn all the same.
    assert after.info["best"]["nll_nats_per_token"] < before.nll_nats_per_token - 0.1
    write_report([run], tmp_path / "page.html")


def test_both_families_of_the_original_can_be_compared(corpus, tmp_path):
    """A curve of one point each: which is ahead is told, where they meet is not."""
    runs = [
        import_megatron(sample(family), tmp_path / family, MegatronOptions(corpus=corpus)).path
        for family in FAMILIES
    ]
    found = compare_existing(runs)
    assert found.pairs[0].families == ("ar", "mdm")
    assert found.pairs[0].crossing is None
    made = write_report(runs, tmp_path / "page.html")
    assert to_json(made.verdicts) == [to_json(found)]


def test_with_the_originals_tokenizer_text_works(shared, tmp_path, corpus):
    tokenizer = shared / "samples" / "bpe500"
    record = import_megatron(
        sample("ar"),
        tmp_path / "ar",
        MegatronOptions(tokenizer=tokenizer, unique_tokens=12_000),
    )
    assert record.numbers["unique_tokens"] == 12_000
    [text] = load(record.path).generate("The ", GenerationConfig(tokens=8, temperature=0.0))
    assert text.startswith("The ")
    with pytest.raises(UserError, match="made with the tokenizer"):
        evaluate(record, EvalOptions(corpus=corpus))


def test_what_does_not_go_together_is_refused(tmp_path, corpus):
    with pytest.raises(UserError, match="has 500 tokens"):
        import_megatron(
            sample("ar"), tmp_path / "x", MegatronOptions(vocabulary=400, corpus=corpus)
        )
    with pytest.raises(UserError, match="600"):
        import_megatron(sample("ar"), tmp_path / "x", MegatronOptions(vocabulary=600))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").write_text("")
    with pytest.raises(RunError, match="already exists"):
        import_megatron(sample("ar"), tmp_path / "full")
    assert not (tmp_path / "x").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]
    with pytest.raises(UserError, match="which knows its family"):
        load(import_megatron(sample("ar"), tmp_path / "run").path, family="ar")


def test_a_corpus_that_is_not_there_is_said_to_be(tmp_path):
    for tokenizer in (None, "bytes"):
        with pytest.raises(DataError, match=r"nix.*does not exist"):
            import_megatron(
                sample("ar"),
                tmp_path / "run",
                MegatronOptions(tokenizer=tokenizer, corpus=tmp_path / "nix"),
            )


@pytest.mark.parametrize("tokens", [0, 10**15 + 1, 10**99])
def test_tokens_that_no_model_saw(tmp_path, tokens):
    for read, kind in ((import_megatron, MegatronOptions), (import_hf, ImportOptions)):
        with pytest.raises(UserError, match="unique_tokens"):
            read(sample("ar"), tmp_path / "run", kind(unique_tokens=tokens))


def test_a_mask_needs_a_row_in_the_table(tmp_path):
    """512 tokens in a table of 512 rows: fine for AR, impossible for diffusion."""
    model = load(
        import_megatron(sample("ar"), tmp_path / "ar", MegatronOptions(vocabulary=512)).path
    )
    assert model.logits(torch.tensor([[511, 1]])).shape == (1, 2, 512)
    with pytest.raises(UserError, match="0 to 511"):
        model.logits(torch.tensor([[512, 1]]))
    with pytest.raises(UserError, match="no row for the mask"):
        import_megatron(sample("mdm"), tmp_path / "mdm", MegatronOptions(vocabulary=512))


def test_the_command(tmp_path, capsys):
    words = ["import", "megatron", str(sample("mdm")), "--out", str(tmp_path / "run"), "--json"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["family"], told["imported"]["step"]) == ("mdm", 60)
    assert told["numbers"]["vocabulary"] == 500
    with pytest.raises(SystemExit) as ended:
        main([*words[:2], str(tmp_path), "--out", str(tmp_path / "other")])
    assert ended.value.code == 2
    assert "holds no checkpoint of the original" in capsys.readouterr().err
