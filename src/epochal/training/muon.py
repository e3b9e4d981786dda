"""Muon for the blocks' matrices, AdamW for all else; cautious weight decay for both."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from epochal.training.parallel.tensor import full_tensor, local_shard, own_part

MOMENTUM = 0.95
"""Decay of Muon's momentum."""
RMS = 0.2
"""Root mean square of an update at rate 1, about that of AdamW's (Liu et al., arXiv 2502.16982)."""
_SAFETY = 1.01
"""Rounding may lift a singular value above 1, where the polynomials are not made for it."""
_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
"""Odd polynomials a·x + b·x³ + c·x⁵, each nearest to 1 where the one before leads from [0.001, 1]
(Amsel et al., arXiv 2505.16932)."""


class MuonAdamW(torch.optim.AdamW):
    """AdamW whose groups may be Muon's, or decay cautiously.

    A group with `muon` = true has matrices only; their momentum is made orthogonal (`orthogonal`).
    A group's `own_decay` is decay that is done here, `weight_decay` what AdamW's kernel does.
    """

    def __init__(self, groups: list[dict[str, Any]], cautious: bool, **options: Any) -> None:
        """`cautious`: `own_decay` only where it does not work against the update: x ← x −
        lr·decay·x where update · x ≥ 0 (Chen et al., arXiv 2510.12402)."""
        super().__init__(groups, **options)
        self._cautious = cautious

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update all weights that have a gradient; Muon's lose it."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if group.get("muon"):
                    self._update(weight, group)
                    weight.grad = None
                elif group.get("own_decay"):
                    moment, gradient = self.state[weight].get("exp_avg"), local_shard(weight.grad)
                    beta = group["betas"][0]
                    if moment is not None:
                        gradient = local_shard(moment).lerp(gradient, 1 - beta)
                    self._decay(local_shard(weight), gradient, group)
        return super().step(closure)

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        """Nesterov momentum, orthogonal, with a root mean square of RMS: that of a matrix [m, n]
        with all singular values 1 is 1/√max(m, n).

        Of a sharded matrix, each process takes its part of the whole one's update.
        """
        state, gradient = self.state[weight], weight.grad
        assert gradient is not None
        if not state:
            state["momentum"] = torch.zeros_like(weight, requires_grad=False)
        momentum: Tensor = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        whole = orthogonal(full_tensor(gradient.lerp(momentum, MOMENTUM)))
        update, own = own_part(whole, weight), local_shard(weight)
        self._decay(own, update, group)
        own.sub_(update, alpha=group["lr"] * RMS * max(weight.shape) ** 0.5)

    def _decay(self, weight: Tensor, update: Tensor, group: dict[str, Any]) -> None:
        share = group["lr"] * group["own_decay"]
        if self._cautious:
            weight.sub_(weight * (update * weight >= 0), alpha=share)
        else:
            weight.mul_(1 - share)


def orthogonal(matrix: Tensor) -> Tensor:
    """[m, n] U·S·Vᵀ → U·S'·Vᵀ, [m, n], by five iterations: S' is in 0.84 … 1.13 where S is at
    least a thousandth of the matrix's Frobenius norm, and less where S is less. 0 stays 0."""
    x: Tensor = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / (_SAFETY * x.norm()).clamp_min(torch.finfo(x.dtype).tiny)
    for a, b, c in _POLAR_EXPRESS:
        gram = x @ x.mT
        gram = b / _SAFETY**3 * gram + c / _SAFETY**5 * (gram @ gram)
        x = a / _SAFETY * x + gram @ x
    return x.mT if matrix.shape[0] > matrix.shape[1] else x
