"""Training loss by noise level: the NLL of masked tokens in ten bins of t.

The few rows with little noise dominate the weighted loss of masked diffusion; these figures
show the model's NLL at each level, and cost one pass over the scored positions' NLL.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from epochal.objectives import Problem

BINS = 10


class NoiseSums:
    """Sums over the micro-batches of a step, kept on the device until the step is done."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(2 * BINS, device=device)
        """Sums of the NLL of masked tokens with t in each tenth, then their counts."""

    def nll_buffer(self, problem: Problem, index: Tensor | None) -> Tensor | None:
        """[scored positions] buffer for their NLL; None for a problem without noise."""
        if problem.noise is None:
            return None
        count = problem.targets.numel() if index is None else len(index)
        return torch.zeros(count, device=self.sums.device)

    def add(self, problem: Problem, index: Tensor | None, nll: Tensor | None) -> None:
        """Add the NLL that was written to `nll_buffer`."""
        if problem.noise is None or nll is None:
            return
        tenth = torch.from_numpy(np.minimum((problem.noise * BINS).astype(np.int64), BINS - 1))
        places = tenth[:, None].expand(problem.targets.shape).flatten()
        places = (places if index is None else places[index]).to(nll.device, non_blocking=True)
        self.sums.index_add_(0, places, nll)
        self.sums.index_add_(0, places + BINS, torch.ones_like(nll))


def by_noise(sums: list[float]) -> dict[str, float]:
    """`nll_noise_5` … `nll_noise_95`: mean NLL of masked tokens, by the middle of each tenth of t
    in percent, without empty tenths."""
    totals, counts = sums[:BINS], sums[BINS:]
    return {
        f"nll_noise_{10 * number + 5}": total / count
        for number, (total, count) in enumerate(zip(totals, counts, strict=True))
        if count
    }
