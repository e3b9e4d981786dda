"""Text token by token, from left to right, with cached keys and values."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from epochal.generation.sampling import sample, uniforms
from epochal.generation.writer import State, Task, Writer

PREFILL_TOKENS = 1024
"""Tokens of a prompt that are read in one pass; bounds the memory of long prompts."""


@torch.no_grad()
def _generate(task: Task) -> Iterator[State]:
    """[B, P] prompts → up to `config.tokens` states, each with one more token per row.

    After `end` a row holds only `end`; generation stops when all rows have ended. The prompt is
    read in pieces, each later token alone, with all before it in the cache.
    """
    model, ids, config, end = task.model.eval(), task.ids, task.config, task.end
    machine, device = task.machine, task.machine.device
    caches = model.new_caches(len(ids), ids.shape[1] + config.tokens)
    with machine.autocast():
        for first in range(0, ids.shape[1], PREFILL_TOKENS):
            piece = ids[:, first : first + PREFILL_TOKENS].to(device)
            hidden = model(piece, "causal", caches=caches)
    done = torch.zeros(len(ids), dtype=torch.bool)
    for step in range(config.tokens):
        with machine.autocast():
            logits = F.linear(hidden[:, -1], model.table[: task.vocabulary])
        uniform = uniforms(task.keys, step, 1)[:, 0]
        token = sample(logits, uniform, config).cpu().masked_fill(done, end)
        done |= token == end
        ids = torch.cat((ids, token[:, None]), dim=1)
        yield State(ids, settled=ids.shape[1])
        if done.all() or step + 1 == config.tokens:
            return
        with machine.autocast():
            hidden = model(token[:, None].to(device), "causal", caches=caches)


WRITER = Writer(_generate, infills=False, order="left-to-right")
