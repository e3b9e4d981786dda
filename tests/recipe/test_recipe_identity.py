"""A run's identity: what decides its numbers, and nothing else."""

from __future__ import annotations

import pytest

from epochal.families import family_names
from epochal.recipe import identity, known_keys, load_recipe

BASE = {"train.steps": 10, "model.size": "7M", "family": "mdm"}

# For each key a value that is not its default (nor BASE's).
CHANGES = {
    "family": "ar",
    "seed": 1,
    "data.unique_tokens": 1000,
    "data.sequence_length": 16,
    "data.order": "megatron",
    "data.train_samples": 5000,
    "model.size": "14M",
    "model.d_model": 64,
    "model.init_std": 0.006,
    "model.stochastic_depth": 0.1,
    "model.layers": 1,
    "model.heads": 3,
    "model.head_dim": 16,
    "model.d_ff": 64,
    "model.tie_embeddings": False,
    "model.rope_theta": 5000.0,
    "model.norm_eps": 1e-6,
    "model.padded_vocab_size": 60000,
    "model.parametrisation": "completep",
    "model.base_width": 32,
    "model.base_depth": 2,
    "model.base_head_dim": 8,
    "model.noise_conditioning": True,
    "mdm.noise": "stratified",
    "mdm.eps": 0.01,
    "mdm.loss_weight": "mask_count",
    "mdm.ar_ratio": 0.5,
    "mdm.low_noise_start": True,
    "mdm.low_noise_iters": 10,
    "mdm.low_noise_ratio": 0.1,
    "mdm.random_length": 0.01,
    "mdm.schedule": "cosine",
    "mdm.polynomial_power": 3.0,
    "mdm.gaussian_mean": 0.3,
    "mdm.gaussian_std": 0.2,
    "mdm.second_share": 0.4,
    "mdm.second_mean": 0.8,
    "mdm.second_std": 0.1,
    "mdm.second_start": 0.5,
    "mdm.second_epochs": 3.0,
    "mdm.softening": 0.1,
    "mdm.window": [0.4, 0.6],
    "mdm.frequency_power": 0.02,
    "mdm.frequency_epochs": 9.0,
    "mdm.mask_unit": "word",
    "mdm.span_length": 4.0,
    "dual.causal_share": 0.5,
    "anyorder.left_to_right": 0.5,
    "block.size": 4,
    "hybrid.shift": 1.0,
    "ar.orders": 4,
    "ar.order_kind": "random",
    "ar.token_masking": 0.3,
    "ar.replacement": 0.15,
    "ar.right_to_left": 0.5,
    "ar.largest_offset": 5,
    "ar.masked_copy": 0.4,
    "train.epochs": 2,
    "train.tokens": 10**6,
    "train.steps": 11,
    "train.flops": 1e15,
    "train.global_batch_size": 8,
    "train.micro_batch_size": 4,
    "train.lr": 1e-3,
    "train.min_lr": 1e-5,
    "train.schedule": "linear",
    "train.warmup": 0.1,
    "train.decay": 0.2,
    "train.decay_shape": "sqrt",
    "train.cycles": 3,
    "train.lr_progress": "samples",
    "train.grad_clip_reduction": "sum",
    "train.grad_clip_microbatches": 2,
    "train.optimizer": "muon",
    "train.cautious_decay": True,
    "train.ema": 0.999,
    "train.average_epochs": 2.0,
    "train.on_nan": "skip",
    "train.on_spike": "stop",
    "train.spike_factor": 5.0,
    "eval.ema": True,
    "train.beta1": 0.8,
    "train.beta2": 0.99,
    "train.adam_eps": 1e-6,
    "train.weight_decay": 0.5,
    "train.grad_clip": 0.5,
    "train.attention_dropout": 0.1,
    "train.hidden_dropout": 0.1,
    "train.embedding_dropout": 0.1,
    "train.precision": "bf16",
    "train.compile": "off",
    "train.device": "cpu",
    "train.deterministic": True,
    "distill.share": 0.3,
    "distill.temperature": 2.0,
    "eval.every": "1%",
    "eval.draws": 2,
    "eval.max_tokens": 1000,
    "eval.batch_size": 2,
}
BASE_MODEL = {
    "model.parametrisation": "completep",
    "model.base_width": 64,
    "model.base_depth": 4,
}
GAUSSIAN = {"mdm.schedule": "gaussian"}
SECOND = GAUSSIAN | {"mdm.second_share": 0.2}
# What a key needs beside it to be allowed.
WITH = {
    "mdm.polynomial_power": {"mdm.schedule": "polynomial"},
    "mdm.gaussian_mean": GAUSSIAN,
    "mdm.gaussian_std": GAUSSIAN,
    "mdm.second_share": GAUSSIAN,
    "mdm.second_mean": SECOND,
    "mdm.second_std": SECOND,
    "mdm.second_epochs": SECOND,
    "mdm.second_start": SECOND | {"mdm.second_epochs": 1.0},
    "mdm.softening": GAUSSIAN,
    "mdm.frequency_epochs": {"mdm.frequency_power": 0.1},
    "mdm.span_length": {"mdm.mask_unit": "span"},
    "model.noise_conditioning": {"family": "uniform"},
    "model.base_width": BASE_MODEL,
    "model.base_depth": BASE_MODEL,
    "model.base_head_dim": BASE_MODEL,
    "eval.ema": {"train.ema": 0.9},
    "distill.share": {"distill.teachers": ["runs/x"]},
    "distill.temperature": {"distill.teachers": ["runs/x"]},
    "data.train_samples": {"data.order": "megatron"},
    "train.start_from": {"train.schedule": "wsd"},
    "train.start_step": {"train.schedule": "wsd", "train.start_from": "runs/x"},
}
NEUTRAL = {
    "run_dir": "elsewhere",
    "data.corpus": "x",
    "data.train": "x/train",
    "data.validation": "x/validation",
    "data.tokenizer": "gpt2",
    "train.start_from": "runs/trunk",
    "train.start_step": 8,
    "distill.teachers": ["runs/x"],
    "checkpoint.every": "1 minute",
    "checkpoint.keep": 5,
    "checkpoint.keep_every": "3 steps",
    "checkpoint.keep_at": [3],
    "log.every": "1%",
    "log.tensorboard": False,
    "log.law": "law.toml",
    "log.trackers": ["wandb"],
    "log.project": "x",
    "parallel.zero": 3,
    "parallel.data": 2,
    "parallel.shard": 2,
    "parallel.tensor": 2,
    "parallel.pipeline": 2,
    "parallel.sequence": True,
    "parallel.activation_checkpointing": "full",
    "parallel.offload": True,
    "parallel.timeout": 60.0,
}


def test_each_key_is_one_or_the_other():
    assert set(CHANGES) | set(NEUTRAL) == set(known_keys())
    assert not set(CHANGES) & set(NEUTRAL)


@pytest.mark.parametrize("key", CHANGES)
def test_keys_that_matter(key):
    length = {"train.steps": None} if key in ("train.epochs", "train.tokens", "train.flops") else {}
    section = key.partition(".")[0]
    own = {"family": section} if section in family_names() else {}
    base = BASE | own | WITH.get(key, {})
    changed = load_recipe(None, base | length | {key: CHANGES[key]})
    base = load_recipe(None, base)
    assert identity(base) != identity(changed)


@pytest.mark.parametrize("key", NEUTRAL)
def test_keys_that_do_not_matter(key):
    base = BASE | WITH.get(key, {})
    changed = load_recipe(None, base | {key: NEUTRAL[key]})
    assert identity(load_recipe(None, base)) == identity(changed)


def test_the_other_familys_settings_do_not_matter():
    ar = BASE | {"family": "ar"}
    both = load_recipe(None, ar | {"mdm.eps": 0.1}, ["ar", "mdm"])
    assert identity(load_recipe(None, ar)) == identity(both)


def test_runs_of_the_first_release_keep_their_identity():
    """Keys added since are left out of it at their defaults; old ones are always in it."""
    ar = identity(load_recipe(None, {"train.steps": 10, "model.size": "7M"}))
    assert not [key for key in ar if key.startswith("ar.")]
    mdm = identity(load_recipe(None, BASE))
    assert [key for key in mdm if key.startswith("mdm.")] == ["mdm.noise", "mdm.eps"]
    assert not {"data.order", "model.init_std", "model.parametrisation"} & set(mdm)
