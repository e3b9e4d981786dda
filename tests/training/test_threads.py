"""The number of threads is measured on a run's own steps, and changes no bit of it."""

from __future__ import annotations

import json

import pytest
import torch

from epochal.training.threads import STEPS, WINDOW, ThreadCount
from epochal.training.train import train
from tiny_runs import final_files, overrides


def run_steps(choice, seconds_of, steps):
    """The counts of `steps` steps that take `seconds_of[count]`."""
    counts = []
    for _ in range(steps):
        counts.append(choice.next())
        choice.took(counts[-1], seconds_of[counts[-1]])
    return counts


@pytest.mark.parametrize(
    ("most", "counts"), [(1, [1]), (2, [1, 2]), (3, [1, 2]), (8, [1, 2, 4, 8])]
)
def test_only_powers_of_two_are_tried(most, counts):
    choice = ThreadCount(most)
    tried = run_steps(choice, dict.fromkeys(counts, 1.0), 1 + STEPS * len(counts))
    assert sorted(set(tried)) == counts


@pytest.mark.parametrize("fastest", [1, 2, 4])
def test_the_fastest_count_is_kept(fastest):
    seconds = {1: 3.0, 2: 3.0, 4: 3.0, fastest: 1.0}
    counts = run_steps(ThreadCount(4), seconds, 100)
    assert set(counts[1 + 3 * STEPS :]) == {fastest}


def test_a_run_that_becomes_slow_tries_again_and_one_that_does_not_goes_on():
    choice = ThreadCount(2)
    run_steps(choice, {1: 2.0, 2: 1.0}, 10 * WINDOW)
    assert choice.next() == 2
    run_steps(choice, {1: 2.0, 2: 1.9}, 10 * WINDOW)  # not twice as slow
    assert choice.next() == 2
    counts = run_steps(choice, {1: 2.0, 2: 30.0}, 4 * WINDOW)  # others need the cores
    assert counts[-1] == 1
    assert counts.count(2) <= WINDOW + STEPS


@pytest.mark.parametrize("family", ["ar", "mdm"])
def test_the_weights_do_not_depend_on_the_number_of_threads(tiny_corpus, tmp_path, family):
    before = torch.get_num_threads()
    shape = {"data__sequence_length": 33, "model__d_model": 48, "train__global_batch_size": 5}
    files = []
    try:
        for most in (1, 8):
            torch.set_num_threads(most)
            folder = tmp_path / str(most)
            train(None, overrides(tiny_corpus, folder, family=family, **shape))
            assert torch.get_num_threads() == most
            files.append(final_files(folder))
            lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
            used = {line["threads"] for line in lines if line["kind"] == "train"}
            assert used == ({1} if most == 1 else {1, 2, 4, 8})
    finally:
        torch.set_num_threads(before)
    assert files[0] == files[1]
