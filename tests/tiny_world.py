"""A world small enough to enumerate: a random joint distribution of L tokens out of V.

`Oracle` stands in for a trained model: its hidden states are the logarithms of the joint's own
conditionals and its output table is the identity, all in float64. So whatever the evaluator
makes of it must be the joint's own NLL.
"""

from __future__ import annotations

from itertools import combinations, product
from types import SimpleNamespace

import numpy as np
import torch
from torch.nn import functional

from epochal.device import Machine

VOCABULARY, LENGTH, MASK = 3, 5, 3
MACHINE = Machine(device=torch.device("cpu"), bf16=False, compiled=False)


COMMON = np.array([0.75, 0.2, 0.05])
"""How common the tokens are: with rare ones, the evaluator's control variate has work to do."""


def random_joint(seed, concentration=0.3):
    """p[x1, …, xL], far from uniform and with all dependencies."""
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.full(VOCABULARY**LENGTH, concentration)) + 1e-3
    p = p.reshape((VOCABULARY,) * LENGTH)
    for place in range(LENGTH):
        p = p * COMMON.reshape([-1 if place == axis else 1 for axis in range(LENGTH)])
    return p / p.sum()


def all_conditionals(joint):
    """[4, …, 4, L, V] log p(x_i | the visible places), for each row in which 3 is a mask."""
    table = np.zeros((VOCABULARY + 1,) * LENGTH + (LENGTH, VOCABULARY))
    for ids in product(range(VOCABULARY + 1), repeat=LENGTH):
        for place in range(LENGTH):
            seen = tuple(
                slice(None) if x == MASK or i == place else slice(x, x + 1)
                for i, x in enumerate(ids)
            )
            others = tuple(i for i in range(LENGTH) if i != place)
            p = joint[seen].sum(axis=others)
            table[(*ids, place)] = np.log(p / p.sum())
    return table


class Oracle:
    """Knows the joint. Rows shorter than L are the joint's marginal of the first places."""

    def __init__(self, joint, distort=0.0):
        """`distort` adds a fixed error to every conditional, so that the bound is a bound."""
        self.conditionals = all_conditionals(joint)
        if distort:
            noise = np.random.default_rng(1).normal(0, distort, self.conditionals.shape)
            logits = self.conditionals + noise
            self.conditionals = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
        self.table = torch.eye(VOCABULARY, dtype=torch.float64)
        self.shape = SimpleNamespace(rows=lambda vocabulary: vocabulary + 1)
        self.positions_computed = 0

    def eval(self):
        return self

    def __call__(self, ids, rule, positions=None, log_snr=None):
        assert positions is None
        rows, length = ids.shape
        self.positions_computed += rows * length
        full = np.full((rows, LENGTH), MASK)
        full[:, :length] = ids.numpy()
        if rule == "bidirectional":
            return torch.from_numpy(self.conditionals[tuple(full.T)][:, :length])
        assert rule == "causal"
        hidden = np.zeros((rows, length, VOCABULARY))
        for place in range(length - 1):
            seen = full.copy()
            seen[:, place + 1 :] = MASK
            hidden[:, place] = self.conditionals[tuple(seen.T)][:, place + 1]
        return torch.from_numpy(hidden)

    def nll(self, ids, place, masked):
        """−log of what the model gives to token `place` with the places `masked` hidden."""
        seen = np.full(LENGTH, MASK)
        seen[: len(ids)] = ids
        seen[list(masked)] = MASK
        return -self.conditionals[(*seen, place, ids[place])]


def true_nll(joint, ids):
    """−log p(x2 … | x1), from the joint itself."""
    p = joint.sum(axis=tuple(range(len(ids), LENGTH)))
    return -np.log(p[tuple(ids)] / p[ids[0]].sum())


def enumerated_bound(oracle, ids):
    """E_K E_M [m/K · Σ_{i∈M} NLL_i] over all sets M of the m places after the first."""
    m = len(ids) - 1
    total = 0.0
    for size in range(1, m + 1):
        subsets = list(combinations(range(1, m + 1), size))
        sums = [sum(oracle.nll(ids, i, masked) for i in masked) for masked in subsets]
        total += np.mean(sums) / size
    return total


def weighted_nll(logits, problem):
    """Σ weights · NLL / denominator from [B, L, V] logits: the definition."""
    nll = functional.cross_entropy(
        logits.flatten(0, 1), problem.targets.flatten(), reduction="none"
    )
    weights = problem.weights.flatten().to(nll.dtype)
    return torch.where(weights > 0, weights * nll, 0).sum() / problem.denominator
