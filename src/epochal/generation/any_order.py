"""Text into gaps with a model that is told the place it predicts: all tokens around the gaps are
read first, then the gaps are written from left to right, with cached keys and values, exactly.

Shape letters: B rows, L positions.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn import functional as F

from epochal.generation.sampling import sample, uniforms
from epochal.generation.writer import State, Task, Writer


@torch.no_grad()
def _generate(task: Task) -> Iterator[State]:
    """[B, L] ids, `mask` at the same positions in each but not at the first → a state per token."""
    model, ids, device = task.model.eval(), task.ids.clone(), task.machine.device
    gaps = ids[0] == task.mask
    order = torch.cat((~gaps, gaps)).nonzero().squeeze(1) % len(gaps)
    known, caches, logs = int((~gaps).sum()), model.new_caches(*ids.shape), torch.zeros(ids.shape)
    first = 0
    for number in range(known, len(order)):
        read, place = order[first:number], order[number]
        positions = torch.stack((read, order[first + 1 : number + 1] - 1))[:, None].to(device)
        with task.machine.autocast():
            hidden = model(ids[:, read].to(device), "causal", positions, caches=caches)
            logits = F.linear(hidden[:, -1], model.table[: task.vocabulary])
        uniform = uniforms(task.keys, number - known, 1)[:, 0]
        token = sample(logits, uniform, task.config)
        log_probs = logits.float().log_softmax(-1).gather(1, token[:, None]).squeeze(1)
        ids[:, place], logs[:, place] = token.cpu(), log_probs.cpu()
        first = number
        after = order[number + 1] if number + 1 < len(order) else len(order)
        yield State(ids.clone(), int(after), logs.clone())


WRITER = Writer(_generate, infills=True, order="left-to-right")
