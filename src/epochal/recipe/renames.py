"""Recipe keys that had another name before: they are still read, with one notice each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from epochal.progress import say_renamed

RENAMED = {
    "data.samples": "data.train_samples",
    "model.head_width": "model.head_dim",
    "model.ffn_width": "model.d_ff",
    "model.untied": "model.tie_embeddings",
    "model.table_rows": "model.padded_vocab_size",
    "train.global_batch": "train.global_batch_size",
    "train.micro_batch": "train.micro_batch_size",
    "train.lr_by": "train.lr_progress",
    "train.clip": "train.grad_clip",
    "train.clip_of": "train.grad_clip_reduction",
    "train.clip_parts": "train.grad_clip_microbatches",
    "eval.batch": "eval.batch_size",
}
"""Old dotted key → today's."""
_NEGATED = {"model.untied"}
"""Switches whose new name says the opposite."""


def rename_flat(values: Mapping[str, Any], *, notice: bool = True) -> dict[str, Any]:
    """Dotted keys under today's names. A key given under both names keeps today's value."""
    renamed = {key: value for key, value in values.items() if key not in RENAMED}
    for old, new in RENAMED.items():
        if old not in values:
            continue
        value = values[old]
        if old in _NEGATED:
            value = _negated(value)
        renamed.setdefault(new, value)
    if notice:
        say_renamed("recipe keys", {old: new for old, new in RENAMED.items() if old in values})
    return renamed


def rename_tree(tree: Mapping[str, Any], *, notice: bool = True) -> dict[str, Any]:
    """A copy of nested sections under today's names."""
    sections = {old.partition(".")[0] for old in RENAMED}
    inside = {key: part for key, part in tree.items() if key in sections and isinstance(part, dict)}
    flat = {f"{key}.{name}": value for key, part in inside.items() for name, value in part.items()}
    copy = {key: {} if key in inside else part for key, part in tree.items()}
    for dotted, value in rename_flat(flat, notice=notice).items():
        section, _, name = dotted.partition(".")
        copy[section][name] = value
    return copy


def old_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys under the names of version 0.1: the inverse of `rename_flat`."""
    old = {new: old for old, new in RENAMED.items()}
    named = {old.get(key, key): value for key, value in values.items()}
    return {key: _negated(v) if key in _NEGATED else v for key, v in named.items()}


def _negated(value: Any) -> Any:
    """`not value`; for a list (a sweep's grid), of each item. Other types are unchanged."""
    if isinstance(value, list):
        return [_negated(one) for one in value]
    return not value if isinstance(value, bool) else value
