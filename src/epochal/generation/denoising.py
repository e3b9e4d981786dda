"""Text from noise that replaces tokens: the reverse of `objectives.jump_noise`, step by step.

From λ to a higher λ', with p' = α'·x̂ + (1 − α')·π' the noised text that the network expects and
p = α·x̂ + (1 − α)·π, a token z stays with probability (α/α')·p'(z)/p(z) and is else drawn from p'.
All tokens may change until the last step, which draws from x̂ alone.

Shape letters: B samples, L positions, N positions that are written, of all samples, V tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from epochal.generation.sampling import probabilities, sample, uniforms
from epochal.generation.writer import State, Task, Writer
from epochal.objectives.jump_noise import uniform_share


@torch.no_grad()
def _generate(task: Task) -> Iterator[State]:
    """[B, L] ids, written where they are `mask` → a state per step, the last without noise.

    The levels 1 − α are 1, 1 − 1/steps, … 0. The other tokens stay as they are.
    """
    model, machine, mask = task.model.eval(), task.machine, task.mask
    gaps = task.ids == mask
    if not gaps.any():
        return
    steps = task.config.steps or int(gaps.sum(dim=1).max())
    shift = getattr(task.trained, "shift", np.inf)
    ids = torch.where(gaps, _noise(task, gaps, 0, 0.0, shift), task.ids)
    for step in range(steps):
        keep, later = step / steps, (step + 1) / steps
        level = torch.full((len(ids),), keep, dtype=torch.float64).logit().to(machine.device)
        with machine.autocast():
            hidden = model(ids.to(machine.device), "bidirectional", None, level)
            logits = F.linear(hidden[gaps.to(machine.device)], model.table[: task.vocabulary])
        drawn = torch.zeros_like(ids)
        purpose = uniforms(task.keys, 3 * step + 1, ids.shape[1])
        drawn[gaps] = sample(logits, purpose[gaps], task.config).cpu()
        x_hat = probabilities(logits, task.config).cpu()
        now = _expected(x_hat, ids[gaps], keep, shift)
        then = _expected(x_hat, ids[gaps], later, shift)
        stays = torch.zeros(ids.shape, dtype=torch.float64)
        stays[gaps] = keep / later * then / now
        coins = uniforms(task.keys, 3 * step + 2, ids.shape[1], purpose=1)
        clean = uniforms(task.keys, 3 * step + 2, ids.shape[1]) < later
        fresh = torch.where(clean, drawn, _noise(task, gaps, 3 * step + 3, later, shift))
        ids = torch.where(gaps & (coins >= stays), fresh, ids)
        logs = torch.zeros(ids.shape)
        chosen = logits.float().log_softmax(dim=-1).cpu()
        at = ids[gaps].clamp(max=task.vocabulary - 1)[:, None]
        logs[gaps] = chosen.gather(1, at).squeeze(1)
        done = ids.shape[1] if step + 1 == steps else int(gaps.any(dim=0).int().argmax())
        yield State(ids, done, logs)


def _share(keep: float, shift: float) -> float:
    """s, of the noise at α = `keep`."""
    with np.errstate(divide="ignore"):
        return float(uniform_share(np.log(keep) - np.log1p(-keep), shift))


def _noise(task: Task, gaps: Tensor, number: int, keep: float, shift: float) -> Tensor:
    """[B, L] ids drawn from π at α = `keep`; `number` tells draws apart."""
    coins = uniforms(task.keys, number, gaps.shape[1])
    places = uniforms(task.keys, number, gaps.shape[1], purpose=1)
    tokens = (places * task.vocabulary).long()
    return torch.where(coins < _share(keep, shift), tokens, task.mask)


def _expected(x_hat: Tensor, seen: Tensor, keep: float, shift: float) -> Tensor:
    """[N] p(z) of the tokens that are seen, from [N, V] x̂."""
    vocabulary = x_hat.shape[1]
    masked = seen >= vocabulary
    share = _share(keep, shift)
    own = x_hat.gather(1, seen.clamp(max=vocabulary - 1)[:, None]).squeeze(1).double()
    noise = torch.where(masked, 1 - share, share / vocabulary)
    return keep * own.masked_fill(masked, 0.0) + (1 - keep) * noise


WRITER = Writer(_generate, infills=True, order="ancestral", options=frozenset({"steps"}))
