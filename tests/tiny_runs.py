"""Very small runs on real text, for tests of training and of everything after it."""

from __future__ import annotations

import json

SPEED = ("tokens_per_second", "mfu", "data_wait", "peak_memory_bytes", "threads")


def make_corpus(folder):
    """A corpus folder of a few built-in documents with a BPE of 300 tokens."""
    from epochal.data.builtin import builtin_documents
    from epochal.data.options import PrepareOptions
    from epochal.data.prepare import prepare

    source = folder / "text.jsonl"
    texts = [text for text in builtin_documents() if len(text) < 4000][:60]
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return prepare(
        source, folder / "corpus", PrepareOptions(tokenizer="bpe:300", validation=0.1, workers=1)
    ).folder


def overrides(corpus, run_dir, **changes):
    """Overrides of a run of 24 steps over some three epochs; keys with __ for the dot."""
    values = {
        "run_dir": str(run_dir),
        "data.corpus": str(corpus),
        "data.unique_tokens": 1000,
        "data.sequence_length": 32,
        "model.d_model": 32,
        "model.layers": 1,
        "model.heads": 2,
        "train.steps": 24,
        "train.global_batch_size": 4,
        "train.lr": 1e-2,
        "train.min_lr": 1e-3,
        "train.device": "cpu",
        "eval.every": "6 steps",
        "eval.max_tokens": 600,
        "checkpoint.every": "8 steps",
        "log.every": "1 steps",
        "log.tensorboard": False,
    }
    return values | {key.replace("__", "."): value for key, value in changes.items()}


def as_words(values):
    """Overrides as the command line takes them."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def final_files(run_dir):
    """Content of the last checkpoint's tensors."""
    last = max((run_dir / "checkpoints").glob("last-*"))
    return {path.name: path.read_bytes() for path in last.glob("*.safetensors")}


def figures(run_dir):
    """metrics.jsonl without what depends on the machine's speed."""
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [{key: value for key, value in line.items() if key not in SPEED} for line in lines]
