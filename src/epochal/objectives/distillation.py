"""Learning from soft targets: what teachers predict, beside the token that the text has.

At a scored position with logits z, the token y and the teachers' logits z_1 … z_k, the loss is

    (1 − share) · −log softmax(z)[y] + share · T² · KL(p ‖ softmax(z/T))

with p = (1/k) Σ_j softmax(z_j/T) (Hinton, Vinyals and Dean, arXiv 1503.02531; T² keeps the size of
the gradient as T grows), times the objective's own weight. For masked diffusion these are the
masked positions, and p is the ensemble's conditional given the same masked text.

Shape letters: P positions (B·L), S scored positions, C rows of a block, E a model's width,
V rows of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from epochal.objectives.cross_entropy import compute_dtype, linear_loss, widened


@dataclass(frozen=True, slots=True)
class SoftTargets:
    """What teachers predict at the scored positions: hidden states and tables, since their
    probabilities together would be a [S, V] tensor."""

    hidden: Sequence[Tensor]
    """[S, E] of each teacher."""
    tables: Sequence[Tensor]
    """[V, E] of each teacher."""
    temperature: float

    def probabilities(self, block: slice) -> Tensor:
        """[C, V] mean of the teachers' softmax(logits / T), float32 or wider."""
        total: Tensor | None = None
        for states, table in zip(self.hidden, self.tables, strict=True):
            logits = widened(states[block] @ table.T)
            p = torch.softmax(logits / self.temperature, dim=1)
            total = p if total is None else total.add_(p)
        if total is None:
            raise ValueError("there is no teacher")
        return total.div_(len(self.tables))


def soft_targets(
    hidden: Sequence[Tensor], tables: Sequence[Tensor], index: Tensor | None, temperature: float
) -> SoftTargets:
    """From [P, E] hidden states of each teacher, [V, E] tables, and the [S] scored positions (None
    for all). Where autocast is on, in its type."""
    states = [one if index is None else one[index] for one in hidden]
    return SoftTargets(
        [one.to(compute_dtype(one)) for one in states],
        [one.to(compute_dtype(one)) for one in tables],
        temperature,
    )


def distilled_loss(
    hidden: Tensor,
    table: Tensor,
    targets: Tensor,
    weights: Tensor,
    index: Tensor | None,
    soft: SoftTargets,
    share: float,
    *,
    figures: Tensor,
    compiled: bool = False,
) -> Tensor:
    """Scalar Σ_s weights[s] · the loss of this page at position index[s].

    hidden [P, E], table [V, E], targets and weights [S], index [S] of distinct positions or None
    for all. `figures` [2, S] is filled with the NLL and T² · KL of each position. Differentiable
    once in hidden and table, never in the teachers.
    """
    temperature = soft.temperature

    def score(logits: Tensor, block: slice) -> Tensor:
        z, target, weight = widened(logits), targets[block, None], weights[block, None]
        log_q, p = torch.log_softmax(z / temperature, dim=1), soft.probabilities(block)
        log_q1 = log_q if temperature == 1 else torch.log_softmax(z, dim=1)
        nll = -log_q1.gather(1, target).squeeze(1)
        kl = temperature**2 * (torch.xlogy(p, p) - p * log_q).sum(dim=1)
        grad = (1 - share) * log_q1.exp()
        grad.scatter_add_(1, target, torch.full_like(grad[:, :1], share - 1))
        grad += share * temperature * (log_q.exp() - p)
        logits.copy_(grad.mul_(weight))
        figures[0, block], figures[1, block] = nll, kl
        return (1 - share) * nll + share * kl

    return linear_loss(hidden, table, weights, index, score, compiled=compiled)
