"""Numbers of a run before it starts: with its corpus and without it."""

from __future__ import annotations

import pytest

from epochal.errors import DataError, OptionError, RecipeError
from epochal.report.text.training import dry_run_notes
from epochal.training.dry_run import DryRunNote, dry_run
from epochal.training.options import DryRunOptions
from tiny_runs import overrides

PAPER = {
    "model.size": "140M",
    "train.epochs": 50,
    "data.sequence_length": 2048,
    "data.order": "megatron",
    "train.micro_batch_size": 8,
}


def codes(result):
    return {note.code for note in result.notes}


def test_without_the_corpus():
    result = dry_run(None, PAPER | {"data.unique_tokens": 99_952_399}, DryRunOptions(gpus=8))
    numbers = result.numbers
    assert (numbers.steps, numbers.vocabulary) == (9532, 50257)
    assert numbers.params == 144_834_816
    assert numbers.flops == pytest.approx(4.34e18, rel=1e-3)
    assert (result.micro_batch_size, result.accumulation) == (8, 4)
    assert result.time.gpus == 8
    assert result.memory.total > 16 * numbers.params_exact
    assert codes(result) == {DryRunNote.STORE_MISSING, DryRunNote.GPT2_VOCABULARY}


def test_vocabulary_of_a_tokenizer_that_is_named(tiny_corpus):
    changes = PAPER | {"data.unique_tokens": "10M"}
    file = str(tiny_corpus / "tokenizer.json")
    for tokenizer, vocabulary in (("bytes", 257), ("gpt2", 50257), (file, 300)):
        result = dry_run(None, changes | {"data.tokenizer": tokenizer})
        assert result.numbers.vocabulary == vocabulary
        assert codes(result) == {DryRunNote.STORE_MISSING}


def test_a_single_epoch_of_a_corpus_of_unknown_size():
    result = dry_run(None, {"model.size": "7M", "train.flops": 1e16, "data.sequence_length": 2048})
    assert result.numbers.epochs == pytest.approx(1, rel=1e-2)
    assert DryRunNote.SINGLE_EPOCH in codes(result)
    with pytest.raises(RecipeError, match=r"`train.epochs` = 50 .* give `data.unique_tokens`"):
        dry_run(None, PAPER)


def test_with_the_corpus(tiny_corpus, tmp_path):
    result = dry_run(None, overrides(tiny_corpus, tmp_path / "run"))
    assert result.numbers.unique_tokens == 1000
    assert result.numbers.vocabulary == 300
    assert not result.notes
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "field"),
    [({"gpu": "H101"}, "gpu"), ({"gpus": 0}, "gpus"), ({"mfu": 40}, "mfu"), ({"mfu": 0}, "mfu")],
)
def test_a_machine_that_cannot_be(options, field):
    with pytest.raises(OptionError) as refused:
        dry_run(None, PAPER | {"data.unique_tokens": "10M"}, DryRunOptions(**options))
    assert refused.value.name == field


def test_mistakes(tiny_corpus, tmp_path):
    with pytest.raises(RecipeError, match=r"`parallel.data` = 300 does not divide"):
        dry_run(None, PAPER | {"data.unique_tokens": "10M"}, DryRunOptions(gpus=300))
    with pytest.raises(RecipeError, match=r"`block.size` = 30 .* is 32"):
        dry_run(None, PAPER | {"family": "block", "block.size": 30})
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
    eight, many = (dry_run(None, base, DryRunOptions(gpus=gpus)) for gpus in (8, 64))
    state = 16 * eight.numbers.params_exact
    for result, gpus in ((eight, 8), (many, 64)):
        memory = result.memory
        kept = memory.weights + memory.gradients + memory.optimizer
        assert kept == pytest.approx(state / gpus, rel=1e-6)
        assert result.accumulation == 256 // gpus
        assert result.sharding.weights == gpus
    assert many.memory.total < 20e9 < 30e9 < eight.memory.total < 80e9
    changes = {"parallel.zero": 0, "parallel.tensor": 8}
    tensor = dry_run(None, base | changes, DryRunOptions(gpus=8))
    assert tensor.memory.weights == pytest.approx(state / 4 / 8, rel=1e-2)


def test_its_words_name_what_was_assumed():
    changes = PAPER | {"data.unique_tokens": "10M", "parallel.zero": 3}
    words = "\n".join(dry_run_notes(dry_run(None, changes, DryRunOptions(gpus=8))))
    for part in ("corpus/train", "data.tokenizer", "8 x H100", "40 %", "bf16", "weights in 8"):
        assert part in words
    staged = PAPER | {"data.unique_tokens": "10M", "parallel.pipeline": 2}
    assert "2 stages" in "\n".join(dry_run_notes(dry_run(None, staged, DryRunOptions(gpus=2))))
