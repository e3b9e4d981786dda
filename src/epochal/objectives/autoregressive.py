"""Autoregressive objective: the next token, from those before it (arXiv 2507.15857 §2.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from epochal.objectives.problem import Draw, Problem, Rows


class Autoregressive:
    """−log p(x) = Σ_i −log p(x_i | x_<i), exactly."""

    family = "ar"
    exact = True
    shift = 1

    def training_problem(self, tokens: Tensor, rows: Rows) -> Problem:
        """[B, L+1] tokens → predict tokens 1 … L from tokens 0 … L−1, all with weight 1."""
        return self._next_token(tokens)

    def likelihood_problem(self, tokens: Tensor, scored: Tensor, draw: Draw) -> Problem:
        """[B, L] tokens → the exact NLL of the scored ones; `draw` has no part in it."""
        # The last input has nothing to predict; a shorter row would do, but the same
        # length for both families keeps them on the same compiled shapes.
        targets = tokens.roll(-1, dims=1)
        weights = torch.zeros(tokens.shape)
        weights[:, :-1] = scored[:, 1:].float()
        return Problem(
            inputs=tokens,
            targets=targets,
            weights=weights,
            denominator=int(scored.sum()),
            attention="causal",
        )

    def paper_problem(self, tokens: Tensor, draw: Draw) -> Problem:
        """[B, L+1] tokens → the mean over L targets a row, as the original reports it."""
        return self._next_token(tokens)

    def _next_token(self, tokens: Tensor) -> Problem:
        inputs = tokens[:, :-1]
        return Problem(
            inputs=inputs,
            targets=tokens[:, 1:],
            weights=torch.ones(inputs.shape),
            denominator=inputs.numel(),
            attention="causal",
        )
