"""What a run amounts to: with its corpus, without it, and what cannot be said."""

from __future__ import annotations

import json

import pytest

from epochal.errors import DataError, RecipeError
from epochal.training.dry_run import dry_run
from tiny_runs import overrides

PAPER = {
    "model.size": "140M",
    "train.epochs": 50,
    "data.sequence_length": 2048,
    "data.order": "megatron",
    "train.micro_batch_size": 8,
}


def test_without_the_corpus():
    facts = dry_run(None, PAPER | {"data.unique_tokens": 99_952_399}, gpus=8)
    assert (facts["steps"], facts["vocabulary"]) == (9532, 50257)
    assert facts["params"] == 144_834_816
    assert facts["flops"] == pytest.approx(4.34e18, rel=1e-3)
    assert (facts["micro_batch_size"], facts["accumulation"]) == (8, 4)
    assert facts["time"]["gpus"] == 8
    assert facts["memory"]["total"] > 16 * facts["params_exact"]
    assert "not there; numbers are for GPT-2's vocabulary" in facts["remarks"][0]
    assert "data.tokenizer" in facts["remarks"][0]
    json.dumps(facts)


def test_vocabulary_of_a_tokenizer_that_is_named(tiny_corpus):
    changes = PAPER | {"data.unique_tokens": "10M"}
    facts = dry_run(None, changes | {"data.tokenizer": "bytes"})
    assert facts["vocabulary"] == 257
    assert not any("GPT-2" in remark for remark in facts["remarks"])
    named = dry_run(None, changes | {"data.tokenizer": "gpt2"})
    assert named["vocabulary"] == 50257
    assert "GPT-2's" not in named["remarks"][0]
    file = str(tiny_corpus / "tokenizer.json")
    assert dry_run(None, changes | {"data.tokenizer": file})["vocabulary"] == 300


def test_a_single_epoch_of_a_corpus_of_unknown_size():
    facts = dry_run(None, {"model.size": "7M", "train.flops": 1e16, "data.sequence_length": 2048})
    assert facts["epochs"] == pytest.approx(1, rel=1e-2)
    assert any("single epoch" in remark for remark in facts["remarks"])
    with pytest.raises(RecipeError, match=r"`train.epochs` = 50 .* give `data.unique_tokens`"):
        dry_run(None, PAPER)


def test_with_the_corpus(tiny_corpus, tmp_path):
    facts = dry_run(None, overrides(tiny_corpus, tmp_path / "run"))
    assert facts["unique_tokens"] == 1000
    assert facts["vocabulary"] == 300
    assert not any("not there" in remark for remark in facts["remarks"])
    assert not (tmp_path / "run").exists()


def test_mistakes(tiny_corpus, tmp_path):
    with pytest.raises(RecipeError, match=r"`parallel.data` = 300 does not divide"):
        dry_run(None, PAPER | {"data.unique_tokens": "10M"}, gpus=300)
    (tmp_path / "train.idx").write_bytes(b"nothing")
    (tmp_path / "train.bin").write_bytes(b"nothing")
    with pytest.raises(DataError, match="is not the index"):
        dry_run(None, PAPER | {"data.corpus": str(tmp_path)})


def test_sixteen_billion_weights_on_eight_and_on_sixty_four_gpus():
    base = {
        "model.size": "16183M",
        "train.flops": 1e21,
        "data.sequence_length": 2048,
        "train.micro_batch_size": 1,
        "parallel.zero": 3,
        "parallel.activation_checkpointing": "full",
    }
    eight, many = (dry_run(None, base, gpus=gpus) for gpus in (8, 64))
    state = 16 * eight["params_exact"]
    for facts, gpus in ((eight, 8), (many, 64)):
        memory = facts["memory"]
        kept = memory["weights"] + memory["gradients"] + memory["optimizer"]
        assert kept == pytest.approx(state / gpus, rel=1e-6)
        assert facts["accumulation"] == 256 // gpus
        assert any(f"weights in {gpus} parts" in remark for remark in facts["remarks"])
    assert many["memory"]["total"] < 20e9 < 30e9 < eight["memory"]["total"] < 80e9
    tensor = dry_run(None, base | {"parallel.zero": 0, "parallel.tensor": 8}, gpus=8)
    assert tensor["memory"]["weights"] == pytest.approx(state / 4 / 8, rel=1e-2)
