"""Work shared by processes: the same number on any number of them, bit for bit."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_oracle import JOINT, evaluator, paper, stream

from epochal.likelihood.draws import EvalShard
from tiny_world import Oracle


@given(st.integers(1, 40), st.integers(1, 9))
def test_every_batch_is_dealt_once_and_all_make_as_many_passes(batches, world):
    slices = [slice(n, n + 1) for n in range(batches)]
    dealt = [list(EvalShard(rank, world).shard_batches(slices)) for rank in range(world)]
    counted = [part for one in dealt for part, counts in one if counts]
    assert sorted(part.start for part in counted) == list(range(batches))
    assert {len(one) for one in dealt} == {-(-batches // world)}


def together(world, work):
    """Run `work(shard)` in threads that sum their arrays as processes would."""
    barrier, arrays, found = threading.Barrier(world), [None] * world, [None] * world

    def one(rank):
        def total(values):
            arrays[rank] = values
            barrier.wait()
            summed = np.sum(arrays, axis=0)
            barrier.wait()
            return summed

        found[rank] = work(EvalShard(rank, world, total))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("family", ["ar", "mdm"])
@pytest.mark.parametrize("world", [2, 3, 7])
def test_the_same_result_on_any_number_of_processes(family, world):
    ids = stream(120)
    starts = np.array([0, 3, 50, 51, 90, 120])

    def work(shard):
        it = evaluator(family, ids, starts=starts)
        it.shard = shard
        for _ in range(3):
            it.add_draw(Oracle(JOINT))
        return it.result(), it.by_place(), it.by_level()[1]

    [alone] = together(1, work)
    for result, places, levels in together(world, work):
        assert result.nll == alone[0].nll
        assert result.error_draws == alone[0].error_draws
        np.testing.assert_array_equal(result.unit_totals, alone[0].unit_totals)
        np.testing.assert_array_equal(levels, alone[2])
        # Places are summed over batches, so in another order.
        np.testing.assert_allclose(places, alone[1], rtol=1e-12)


def test_the_papers_estimator_is_shared_too():
    def work(shard):
        it = paper("mdm", stream(120))
        it.batch, it.shard = 7, shard
        it.add_draw(Oracle(JOINT))
        it.add_draw(Oracle(JOINT))
        return it.result().nll

    [alone] = together(1, work)
    assert together(3, work) == [alone] * 3
