"""Text from masks, in few or many steps, anywhere in a row.

Shape letters: B samples, L positions, N masked positions of all samples, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from epochal.errors import OptionError
from epochal.generation.config import GenerationConfig
from epochal.generation.sampling import Certainty, certainty, sample, uniforms
from epochal.generation.writer import State, Task, Writer
from epochal.models.attention import LayerCache


def blocks(config: GenerationConfig, masks: int) -> list[tuple[int, int, int]]:
    """(first mask, last mask + 1, steps) of each block of a row with `masks` masks.

    Steps are shared in proportion. Raises OptionError for fewer steps than blocks, and for a
    cached prefix without blocks.
    """
    if config.cached and config.block is None:
        raise OptionError(
            "cached", True, "a cached prefix needs blocks; give their length too, such as block 32"
        )
    if not masks:
        return []
    size = min(config.block or masks, masks)
    return shared_steps([*range(size, masks, size), masks], config.steps or masks)


def shared_steps(ends: list[int], steps: int) -> list[tuple[int, int, int]]:
    """(first mask, last mask + 1, steps) of each block, given the ends of all blocks.

    Raises OptionError for fewer steps than blocks.
    """
    masks = ends[-1]
    if steps < len(ends):
        raise OptionError(
            "steps", steps, f"{len(ends)} blocks of {ends[0]} tokens need at least one step each"
        )
    # In whole numbers: at least one step each, the others by the block's end.
    shares = [(steps - len(ends)) * end // masks + number for number, end in enumerate(ends, 1)]
    firsts = [0, *ends[:-1]]
    taken = [after - before for after, before in zip(shares, [0, *shares[:-1]], strict=True)]
    return list(zip(firsts, ends, taken, strict=True))


@torch.no_grad()
def unmask(
    task: Task,
    shift: int = 0,
    parts: list[tuple[int, int, int]] | None = None,
    read: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Iterator[State]:
    """[B, L] ids, equally many `mask` in each → a state per step, the last without masks.

    A token is predicted at its own position, or, with a `shift` of 1, at the one before it; then
    the first of a row is no mask. `parts` are the blocks, if not those of `config`; `read` gives
    [N, V] logits from ids and masked positions, if a row is not to be read as a whole.

    `config.order`: confidence, margin and entropy propose a token for every mask in each step
    and keep the most certain, equally many per step (LLaDA, arXiv 2502.09992 §2.4; the three
    measures: Kim et al., arXiv 2502.06768 §4). ancestral is the reverse of the noise process:
    from time t to s each masked token is unmasked with probability (t − s)/t (MDLM, arXiv
    2406.07524 §3).

    Blocks: the masks of a row are split from left to right; later blocks stay masked, and are
    seen as masks, until their turn. With `config.cached`, a block's first step reads the whole
    row and caches keys and values of all tokens before the block; its other steps read only from
    the block on. The cache is exact for that first step, so with one step per block, and for a
    model of one layer, whose keys and values depend on one position alone; otherwise it is an
    approximation, since the tokens before would see the block being filled (arXiv 2505.22618).
    Raises OptionError for options that do not fit (`blocks`). `end` is not used.
    """
    task.model.eval()
    ids, config, mask = task.ids.clone(), task.config, task.mask
    gaps = ids == mask
    number = gaps.cumsum(dim=1) - 1  # at a masked position, how many masks come before it
    before = 0  # steps that the blocks so far were given
    logs, confidence = torch.zeros(ids.shape), torch.zeros(ids.shape)
    if parts is None:
        parts = blocks(config, int(gaps.sum(dim=1).max()))
    for first, last, steps in parts:
        block = gaps & (number >= first) & (number < last)
        start = int(block.any(dim=0).int().argmax())
        prefix = max(0, start - shift) if config.cached else 0
        logits_of = read or _Network(task, prefix, shift).logits
        for step in range(steps):
            masked = block & (ids == mask)
            filled = block & ~masked
            if not masked.any() and config.remask == 0:
                break
            proposal = _Proposal(ids, logs, confidence)
            # By the schedule, not by passes: how many it took depends on the rows of the batch.
            at = before + step
            if masked.any():
                uniform = uniforms(task.keys, at, ids.shape[1])[masked]
                logits = logits_of(ids, masked)
                proposal = _propose(proposal, logits, masked, uniform, config)
            if config.order == "ancestral":
                coins = uniforms(task.keys, at, ids.shape[1], purpose=1)
                reveal, hide = _by_chance(masked, filled, coins, config.remask, step, steps)
            else:
                reveal, hide = _by_confidence(
                    masked, proposal.confidence, filled, confidence, config.remask, steps - step
                )
            ids = torch.where(reveal, proposal.ids, ids).masked_fill(hide, mask)
            confidence = torch.where(reveal, proposal.confidence, confidence)
            logs = torch.where(reveal, proposal.logs, logs).masked_fill(hide, 0.0)
            final = config.remask == 0 or step + 1 == steps
            still_masked = (ids == mask).any(dim=0)
            ahead = int(still_masked.int().argmax()) if still_masked.any() else ids.shape[1]
            yield State(ids, ahead if final else min(start, ahead), logs)
        before += steps


@dataclass(frozen=True, slots=True)
class _Proposal:
    """A token for every masked position, its log p, and its confidence: [B, L] each."""

    ids: Tensor
    logs: Tensor
    confidence: Tensor


def _propose(
    old: _Proposal, logits: Tensor, masked: Tensor, uniform: Tensor, config: GenerationConfig
) -> _Proposal:
    token = sample(logits, uniform, config)
    kind: Certainty = "confidence" if config.order == "ancestral" else config.order
    own = certainty(logits, token, "confidence").log()
    return _Proposal(
        old.ids.masked_scatter(masked, token.cpu()),
        old.logs.masked_scatter(masked, own.cpu()),
        old.confidence.masked_scatter(masked, certainty(logits, token, kind).cpu()),
    )


class _Network:
    """Logits at masked positions; keys and values of a prefix are read once and cached."""

    def __init__(self, task: Task, prefix: int, shift: int) -> None:
        self._task, self._prefix, self._shift = task, prefix, shift
        self._caches: list[LayerCache] | None = None

    def logits(self, ids: Tensor, masked: Tensor) -> Tensor:
        """[N, V] for the masked positions, none of which is predicted in the prefix."""
        model, machine = self._task.model, self._task.machine
        fresh = self._caches is None
        if fresh and self._prefix:
            self._caches = model.new_caches(len(ids), ids.shape[1])
        first = 0 if fresh else self._prefix
        with machine.autocast():
            hidden = model(ids[:, first:].to(machine.device), "bidirectional", caches=self._caches)
            for cache in self._caches or ():
                cache.length = self._prefix  # what comes after is read again
            at = masked.roll(-self._shift, dims=1)
            scored = hidden[at[:, first:].to(machine.device)]
            return F.linear(scored, model.table[: self._task.vocabulary])


def _by_chance(
    masked: Tensor, filled: Tensor, coins: Tensor, remask: float, step: int, steps: int
) -> tuple[Tensor, Tensor]:
    """[B, L] positions to unmask and positions to mask again, each by its own coin.

    From time t = 1 − step/steps to s = t − 1/steps, with α = 1 − t: a filled one is masked
    again with probability r = remask · min(1, s/α_t), a masked one unmasked with probability
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


def _by_confidence(
    masked: Tensor, proposed: Tensor, filled: Tensor, kept: Tensor, remask: float, left: int
) -> tuple[Tensor, Tensor]:
    """[B, L] the ⌈masked/left⌉ most confident to unmask, and the least confident to mask again.

    `proposed` is the confidence in the token for a masked position, `kept` that in the token of a
    filled one when it was unmasked. Masked again are the ⌊remask · filled⌋ of least confidence,
    and as many more are unmasked, so that the schedule is kept; the last step masks none.
    """
    remaining = masked.sum(dim=1)
    again = (remask * filled.sum(dim=1)).long() if left > 1 else torch.zeros_like(remaining)
    reveal = _highest(-(-remaining // left) + again, proposed, masked)
    return reveal, _highest(again, -kept, filled)


def _highest(count: Tensor, score: Tensor, among: Tensor) -> Tensor:
    """[B, L] the `count` positions of highest score of each row, among those given."""
    ordered = score.masked_fill(~among, -torch.inf)
    rank = ordered.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return among & (rank < count[:, None])


WRITER = Writer(
    unmask,
    infills=True,
    order=None,
    options=frozenset({"steps", "order", "remask", "block", "cached"}),
    check=blocks,
)
