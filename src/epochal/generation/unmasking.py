"""Text from a masked diffusion model: from masks, in few or many steps, anywhere in a row.

Shape letters: B samples, L places, N masked places of all samples, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from epochal.device import Machine
from epochal.errors import UserError
from epochal.generation.sampling import Certainty, Sampling, certainty, uniforms
from epochal.models import Transformer
from epochal.models.attention import LayerCache
from epochal.rng import Keys

Order = Literal["confidence", "margin", "entropy", "ancestral"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which masked places come to light when.

    confidence, margin, entropy: each step proposes a token for every masked place and keeps
    the surest, equally many per step (LLaDA, arXiv 2502.09992 §2.4; the three measures of
    sureness: Kim et al., arXiv 2502.06768 §4). ancestral: the reverse of the noise process;
    going from time t to s each masked place is revealed with probability (t − s)/t (MDLM,
    arXiv 2406.07524 §3).
    """

    steps: int | None = None
    """Forward passes; as many as the row has masks if None."""
    order: Order = "confidence"
    remask: float = 0.0
    """Share of what is allowed (ancestral) or revealed (others) that is masked again per step."""
    block: int | None = None
    """Fill so many masks, then the next so many to the right; all at once if None."""
    cached: bool = False
    """Keep keys and values of what lies left of the block; see `unmask_steps`."""

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise UserError(f"steps = {self.steps}: give at least 1")
        if not 0 <= self.remask < 1:
            raise UserError(f"remask = {self.remask}: give a share from 0 to below 1")
        if self.block is not None and self.block < 1:
            raise UserError(f"block = {self.block}: give at least 1 token")
        if self.cached and self.block is None:
            raise UserError("a cached prefix needs blocks; give their length, for example block=32")

    def given(self) -> list[str]:
        """Names of the settings that differ from the defaults."""
        return [each.name for each in fields(self) if getattr(self, each.name) != each.default]

    def blocks(self, masks: int) -> list[tuple[int, int, int]]:
        """(first mask, last mask + 1, steps) of each block of a row with so many masks.

        Steps are shared in proportion. Raises UserError for fewer steps than blocks.
        """
        if not masks:
            return []
        size = min(self.block or masks, masks)
        ends = [*range(size, masks, size), masks]
        steps = self.steps or masks
        if steps < len(ends):
            raise UserError(
                f"steps = {steps}: {len(ends)} blocks of {size} tokens need at least one step each"
            )
        # In whole numbers: at least one step each, the others by the block's end.
        shares = [(steps - len(ends)) * end // masks + number for number, end in enumerate(ends, 1)]
        firsts = [0, *ends[:-1]]
        taken = [after - before for after, before in zip(shares, [0, *shares[:-1]], strict=True)]
        return list(zip(firsts, ends, taken, strict=True))


@dataclass(frozen=True, slots=True)
class State:
    """Where a row stands after a step."""

    ids: Tensor
    """[B, L], still with masks."""
    log_probs: Tensor
    """[B, L] log p of each filled token when it was revealed; 0 elsewhere."""
    settled: int
    """Places before this one will not change any more."""
    step: int
    """Forward passes done."""


@torch.no_grad()
def unmask_steps(
    model: Transformer,
    ids: Tensor,
    schedule: Schedule,
    *,
    mask: int,
    vocabulary: int,
    sampling: Sampling,
    keys: Keys,
    machine: Machine,
) -> Iterator[State]:
    """[B, L] ids, equally many `mask` in each → a state per step, the last without masks.

    Blocks: the masks of a row are dealt out from left to right; later blocks stay masked, and
    seen as masks, until their turn. With `cached`, a block's first step reads the whole row
    and keeps keys and values of all places left of the block; its other steps read only from
    the block on and use those. They are exact for that first step, so with one step a block,
    and for a model of one layer, whose keys and values depend on one place alone; otherwise an
    approximation, since what lies left would see the block being filled (arXiv 2505.22618).
    Raises UserError for fewer steps than blocks.
    """
    model.eval()
    ids = ids.clone()
    open_places = ids == mask
    number = open_places.cumsum(dim=1) - 1  # at a masked place, how many masks lie before it
    done = before = 0  # forward passes, and the steps that the blocks so far were given
    logs, sure = torch.zeros(ids.shape), torch.zeros(ids.shape)
    for first, end, steps in schedule.blocks(int(open_places.sum(dim=1).max())):
        block = open_places & (number >= first) & (number < end)
        start = int(block.any(dim=0).int().argmax())
        network = _Network(model, machine, vocabulary, start if schedule.cached else 0)
        for step in range(steps):
            masked = block & (ids == mask)
            filled = block & ~masked
            if not masked.any() and schedule.remask == 0:
                break
            proposal = _Proposal(ids, logs, sure)
            # By the schedule, not by passes: how many it took depends on the rows of the batch.
            at = before + step
            if masked.any():
                chance = uniforms(keys, at, ids.shape[1])[masked]
                logits = network.logits(ids, masked)
                proposal = _propose(proposal, logits, masked, chance, sampling, schedule.order)
            if schedule.order == "ancestral":
                coins = uniforms(keys, at, ids.shape[1], purpose=1)
                reveal, hide = _by_chance(masked, filled, coins, schedule.remask, step, steps)
            else:
                places = _Sureness(masked, proposal.sure, filled, sure)
                reveal, hide = _by_certainty(places, schedule.remask, steps - step)
            ids = torch.where(reveal, proposal.ids, ids).masked_fill(hide, mask)
            sure = torch.where(reveal, proposal.sure, sure)
            logs = torch.where(reveal, proposal.logs, logs).masked_fill(hide, 0.0)
            done += 1
            final = schedule.remask == 0 or step + 1 == steps
            open_now = (ids == mask).any(dim=0)
            ahead = int(open_now.int().argmax()) if open_now.any() else ids.shape[1]
            yield State(ids, logs, ahead if final else min(start, ahead), done)
        before += steps


@dataclass(frozen=True, slots=True)
class _Proposal:
    """A token for every masked place, its log p, and how sure the model is of it: [B, L] each."""

    ids: Tensor
    logs: Tensor
    sure: Tensor


def _propose(
    old: _Proposal, logits: Tensor, masked: Tensor, chance: Tensor, sampling: Sampling, order: Order
) -> _Proposal:
    token = sampling.sample(logits, chance)
    kind: Certainty = "confidence" if order == "ancestral" else order
    own = certainty(logits, token, "confidence").log()
    return _Proposal(
        old.ids.masked_scatter(masked, token.cpu()),
        old.logs.masked_scatter(masked, own.cpu()),
        old.sure.masked_scatter(masked, certainty(logits, token, kind).cpu()),
    )


class _Network:
    """Logits at masked places; with a prefix, its keys and values are read once and kept."""

    def __init__(self, model: Transformer, machine: Machine, vocabulary: int, prefix: int) -> None:
        self.model, self.machine, self.vocabulary = model, machine, vocabulary
        self.prefix = prefix
        self._caches: list[LayerCache] | None = None

    def logits(self, ids: Tensor, masked: Tensor) -> Tensor:
        """[N, V] at the masked places, none of which lies in the prefix."""
        fresh = self._caches is None
        if fresh and self.prefix:
            self._caches = self.model.new_caches(len(ids), ids.shape[1])
        first = 0 if fresh else self.prefix
        device = self.machine.device
        with self.machine.autocast():
            hidden = self.model(ids[:, first:].to(device), "bidirectional", caches=self._caches)
            for cache in self._caches or ():
                cache.length = self.prefix  # what lies behind is read anew
            return F.linear(
                hidden[masked[:, first:].to(device)], self.model.table[: self.vocabulary]
            )


def _by_chance(
    masked: Tensor, filled: Tensor, coins: Tensor, remask: float, step: int, steps: int
) -> tuple[Tensor, Tensor]:
    """[B, L] places to reveal and places to mask again, each by its own coin.

    From time t = 1 − step/steps to s = t − 1/steps, with α = 1 − t: a filled place is masked
    again with probability r = remask · min(1, s/α_t), a masked one revealed with probability
    (α_s − (1 − r) α_t)/t. So the masked share is s whatever r (ReMDM, arXiv 2503.00307; r = 0
    is MDLM's).
    """
    left = steps - step
    if left == 1:
        return masked, torch.zeros_like(masked)
    t, s = left / steps, (left - 1) / steps
    again = remask * min(1.0, s / (1 - t)) if t < 1 else 0.0
    reveal = ((1 - s) - (1 - again) * (1 - t)) / t
    return masked & (coins < reveal), filled & (coins < again)


@dataclass(frozen=True, slots=True)
class _Sureness:
    """[B, L] each: open and filled places of a block, and how sure the model is or was there."""

    masked: Tensor
    proposed: Tensor
    filled: Tensor
    kept: Tensor


def _by_certainty(at: _Sureness, remask: float, left: int) -> tuple[Tensor, Tensor]:
    """[B, L] the surest ⌈masked/left⌉ places to reveal, and the least sure to mask again.

    Those masked again, ⌊remask · filled⌋, are the ones that were least sure when they were
    revealed, and as many more are revealed, so that the schedule is kept; the last step masks
    none.
    """
    remaining = at.masked.sum(dim=1)
    again = (remask * at.filled.sum(dim=1)).long() if left > 1 else torch.zeros_like(remaining)
    reveal = _highest(-(-remaining // left) + again, at.proposed, at.masked)
    return reveal, _highest(again, -at.kept, at.filled)


def _highest(count: Tensor, score: Tensor, among: Tensor) -> Tensor:
    """[B, L] the `count` places of highest score of each row among those given."""
    ordered = score.masked_fill(~among, -torch.inf)
    rank = ordered.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return among & (rank < count[:, None])
