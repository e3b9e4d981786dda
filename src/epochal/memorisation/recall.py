"""What a model gives back of a text: verbatim continuations, and its NLL of a span.

Shape letters: B rows, L positions, P prefix tokens, S tokens of the continuation or span.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from epochal import rng
from epochal.device import Machine
from epochal.likelihood.nll import row_nll
from epochal.models import Transformer
from epochal.objectives import Draw, Objective

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Recall:
    """A model and how it is read."""

    model: Transformer
    objective: Objective
    machine: Machine
    vocabulary: int
    mask: int
    batch_tokens: int = 16_384
    pad_to: int = 0
    """Rows are padded to this with masks that are not scored; 0: not at all."""

    def greedy_tokens_right(self, rows: Integers, prefix: int) -> NDArray[np.bool_]:
        """[B, P + S] rows → [B, S] which tokens after the prefix the model generates greedily.

        A family with an exact NLL takes the most likely next token; a row comes back verbatim if
        and only if each token is the most likely after the true ones before it, so one pass over
        the true text suffices, and a token after the first wrong one counts as wrong. Others
        unmask the token of highest confidence, one per pass, from the prefix and S masks; a row
        ends at its first wrong token, and what is still masked then counts as wrong.
        """
        if not len(rows):
            return np.zeros((0, rows.shape[1] - prefix), dtype=np.bool_)
        self.model.eval()
        size = max(1, self.batch_tokens // max(rows.shape[1], self.pad_to))
        right = self._next_tokens if self.objective.exact else self._unmasked
        parts = [rows[first : first + size] for first in range(0, len(rows), size)]
        return np.concatenate([right(torch.from_numpy(part), prefix) for part in parts])

    @torch.no_grad()
    def _next_tokens(self, rows: Tensor, prefix: int) -> NDArray[np.bool_]:
        hidden = self._hidden(rows, "causal")[:, prefix - 1 : -1]
        right = self._logits(hidden).argmax(dim=-1).cpu() == rows[:, prefix:]
        return right.long().cumprod(dim=1).bool().numpy()

    @torch.no_grad()
    def _unmasked(self, rows: Tensor, prefix: int) -> NDArray[np.bool_]:
        end = rows.shape[1]
        ids = F.pad(rows, (0, max(0, self.pad_to - end)), value=self.mask)
        ids[:, prefix:] = self.mask
        alive = torch.arange(len(rows))
        for _ in range(end - prefix):
            if not len(alive):
                break
            logits = self._logits(self._hidden(ids[alive], "bidirectional")[:, prefix:end])
            best, token = logits.float().softmax(dim=-1).max(dim=-1)
            best, token = best.cpu(), token.cpu()
            best[ids[alive, prefix:end] != self.mask] = -1
            position = best.argmax(dim=1)
            chosen = token.gather(1, position[:, None]).squeeze(1)
            right = chosen == rows[alive, prefix + position]
            alive, position, chosen = alive[right], position[right], chosen[right]
            ids[alive, prefix + position] = chosen
        return (ids[:, prefix:end] == rows[:, prefix:]).numpy()

    def span_nll(self, rows: Integers, scored: NDArray[np.bool_], draws: int, seed: int) -> Floats:
        """[B, L] rows → [B] −log p(scored tokens | the others): exact where the family's NLL is,
        the others being those before; else the mean of `draws` draws of the bound.

        All rows get the same masks if they score the same positions, so that they are
        comparable. Levels are one per slice of [0, 1).
        """
        missing = max(0, self.pad_to - rows.shape[1])
        rows = np.pad(rows, ((0, 0), (0, missing)), constant_values=self.mask)
        scored = np.pad(scored, ((0, 0), (0, missing)))
        size = max(1, self.batch_tokens // rows.shape[1])
        exact = self.objective.exact
        total = np.zeros(len(rows))
        for draw in range(1 if exact else draws):
            key = rng.stream_key(seed, "span", draw)
            level = (draw + rng.uniforms(np.array([key], dtype=np.uint64), 1)[0, 0]) / draws
            for first in range(0, len(rows), size):
                part = slice(first, first + size)
                count = len(rows[part])
                problem = self.objective.likelihood_problem(
                    torch.from_numpy(rows[part]),
                    torch.from_numpy(scored[part]),
                    Draw(np.full(count, level), np.full(count, key, dtype=np.uint64)),
                )
                total[part] += row_nll(self.model, problem, self.machine)
        return total if exact else total / draws

    def _hidden(self, ids: Tensor, rule: Literal["causal", "bidirectional"]) -> Tensor:
        with self.machine.autocast():
            hidden: Tensor = self.model(ids.to(self.machine.device), rule)
        return hidden

    def _logits(self, hidden: Tensor) -> Tensor:
        with self.machine.autocast():
            return F.linear(hidden, self.model.table)[..., : self.vocabulary]
