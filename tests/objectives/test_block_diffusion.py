"""Block diffusion: blocks of one token are AR exactly, one block is masked diffusion."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from epochal import rng
from epochal.data.rows import ScoredWindows
from epochal.families.block_diffusion import BlockOptions
from epochal.families.masked_diffusion import MaskedDiffusionOptions
from epochal.generation import blocks
from epochal.generation.config import GenerationConfig
from epochal.generation.sampling import sample_keys
from epochal.generation.writer import Task
from epochal.likelihood.nll import Evaluator, row_nll
from epochal.models import Transformer, initialise
from epochal.objectives import Autoregressive, Draw, MaskedDiffusion, Rows
from epochal.objectives.block_diffusion import BlockDiffusion
from epochal.sizes import Architecture
from tiny_world import (
    COMMON,
    LENGTH,
    MACHINE,
    MASK,
    VOCABULARY,
    Oracle,
    random_joint,
)

ORACLE = Oracle(random_joint(6), distort=0.4)
MASKED = MaskedDiffusion(MaskedDiffusionOptions(), MASK)


class BlockOracle:
    """Reads [noised | clean] rows as a network with the rule of blocks does."""

    def __init__(self, size):
        self.size, self.table, self.shape = size, ORACLE.table, ORACLE.shape

    def eval(self):
        return self

    def __call__(self, ids, rule, positions, log_snr=None):
        length = ids.shape[1] // 2
        noised, clean = ids[:, :length].numpy(), ids[:, length:].numpy()
        hidden = np.zeros((len(ids), 2 * length, VOCABULARY))
        for start in range(0, length, self.size):
            block = slice(start, min(start + self.size, length))
            seen = np.full((len(ids), LENGTH), MASK)
            seen[:, :start], seen[:, block] = clean[:, :start], noised[:, block]
            hidden[:, block] = ORACLE.conditionals[tuple(seen.T)][:, block]
        return torch.from_numpy(hidden)


def evaluated(goal, model, draws):
    random = np.random.default_rng(3)
    ids = random.choice(VOCABULARY, size=43, p=COMMON).astype(np.uint16)  # the last row is short
    windows = ScoredWindows(ids, LENGTH)
    it = Evaluator(goal, MACHINE, windows, np.array([0, 11, 43]), VOCABULARY, 4)
    for _ in range(draws):
        it.add_draw(model)
    return it


def test_blocks_of_one_token_are_ar_exactly():
    it = evaluated(BlockDiffusion(1, MASK), BlockOracle(1), 2)
    ar = evaluated(Autoregressive(), ORACLE, 1).result()
    found = it.result()
    assert found.nll == pytest.approx(ar.nll, rel=1e-12)
    assert found.error_draws == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(found.unit_totals, ar.unit_totals)


def test_one_block_is_masked_diffusion():
    found = evaluated(BlockDiffusion(LENGTH, MASK), BlockOracle(LENGTH), 3)
    other = evaluated(MASKED, ORACLE, 3)
    np.testing.assert_allclose(found.plain_values(), other.plain_values())
    one, two = found.result(), other.result()
    assert (one.nll, one.error_draws) == pytest.approx((two.nll, two.error_draws), rel=1e-12)


def test_blocks_between_have_the_enumerated_bound():
    """Over levels and masks the mean of a row's sum is the sum of the blocks' own bounds."""
    ids, count = np.array([1, 0, 2, 0, 1]), 20_000
    rows = torch.from_numpy(ids).expand(count, -1)
    scored = torch.ones(rows.shape, dtype=torch.bool)
    scored[:, 0] = False
    keys = rng.row_keys(rng.stream_key(0, "blocks"), np.arange(count))
    levels = (np.arange(count) + 0.5) / count
    problem = BlockDiffusion(2, MASK).likelihood_problem(rows, scored, Draw(levels, keys))
    sums = row_nll(BlockOracle(2), problem, MACHINE)
    expected = 0.0
    for block in ([1], [2, 3], [4]):
        after = list(range(block[-1] + 1, LENGTH))
        for size in range(1, len(block) + 1):
            subsets = list(combinations(block, size))
            each = [sum(ORACLE.nll(ids, i, [*m, *after]) for i in m) for m in subsets]
            expected += np.mean(each) / size
    assert abs(sums.mean() - expected) < 4 * sums.std() / np.sqrt(count)


def tokens(rows, length):
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(rows))


def rows_of(count):
    keys = rng.row_keys(rng.stream_key(1, "rows"), np.arange(count))
    return Rows(keys, np.arange(count), count, rng.stream_key(1, "step"))


def small_model(layers=2):
    model = Transformer(Architecture(16, layers, 2, 8, 20), VOCABULARY)
    initialise(model, 3, std=0.2)  # so that no probability is 1 after rounding
    return model.eval()


def test_training_masks_each_block_by_itself():
    ids, rows = tokens(8, 13), rows_of(8)
    problem = BlockDiffusion(4, MASK).training_problem(ids, rows)
    noised, clean = problem.inputs[:, :12], problem.inputs[:, 12:]
    assert torch.equal(clean, ids[:, :12])
    hidden = noised == MASK
    assert torch.equal(torch.where(hidden, clean, noised), clean)
    weights = problem.weights[:, :12].reshape(8, 3, 4)
    counts = hidden.reshape(8, 3, 4).sum(dim=2)
    assert (counts >= 1).all()
    assert torch.equal(weights > 0, hidden.reshape(8, 3, 4))
    torch.testing.assert_close(weights.sum(dim=2), torch.full((8, 3), 4.0))
    assert not problem.weights[:, 12:].any()
    assert problem.denominator == 96
    whole = BlockDiffusion(12, MASK).training_problem(ids, rows)
    options = MaskedDiffusionOptions(noise="stratified")
    same = MaskedDiffusion(options, MASK).training_problem(ids, rows)
    assert torch.equal(whole.inputs[:, :12], same.inputs)
    assert torch.equal(whole.weights[:, :12], same.weights)
    for start in (0, 3, 6):  # whatever the micro-batch
        part = slice(start, start + 3)
        cut = Rows(rows.keys[part], rows.place[part], 8, rows.step_key)
        mine = BlockDiffusion(4, MASK).training_problem(ids[part], cut)
        assert torch.equal(mine.inputs, problem.inputs[part])


@torch.no_grad()
def test_one_pass_reads_each_block_as_a_pass_of_its_own():
    model, ids = small_model(), tokens(3, 9)
    problem = BlockDiffusion(4, MASK).training_problem(ids, rows_of(3))
    found = model(*problem.arguments(torch.device("cpu")))
    block = torch.arange(8) // 4
    rule = (block[None, :] <= block[:, None])[None, None]
    noised, clean = problem.inputs[:, :8], problem.inputs[:, 8:]
    torch.testing.assert_close(found[:, :4], model(noised[:, :4], "bidirectional"))
    second = model(torch.cat((clean[:, :4], noised[:, 4:]), dim=1), rule)
    torch.testing.assert_close(found[:, 4:8], second[:, 4:])


@torch.no_grad()
def test_text_is_written_block_by_block_with_an_exact_cache():
    """Greedy, one token per step: each is the most certain one of its block, read without a cache.
    The prompt ends within a block."""
    model, size, length = small_model(), 3, 10
    ids = torch.full((4, length), MASK)
    ids[:, :4] = tokens(4, 4)
    task = Task(
        model=model,
        machine=MACHINE,
        ids=ids,
        config=GenerationConfig(temperature=0),
        keys=sample_keys(0, "", 4),
        mask=MASK,
        end=-1,
        vocabulary=VOCABULARY,
        trained=BlockOptions(size=size),
    )
    *_, last = blocks.WRITER.generate(task)
    block = torch.arange(length) // size
    for row, text in enumerate(last.ids):
        now = ids[row].clone()
        for start in range(3, length, size):
            end = min(start + size, length)
            rule = (block[None, :end] <= block[:end, None])[None, None]
            while (now[:end] == MASK).any():
                logits = model.logits(now[None, :end], rule)[0, :, :VOCABULARY]
                best, token = logits.softmax(dim=1).max(dim=1)
                best[now[:end] != MASK] = -1
                now[best.argmax()] = token[best.argmax()]
        assert torch.equal(text, now)
