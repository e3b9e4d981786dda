"""Dropout does not depend on the number of processes, only on where micro-batches are cut."""

from __future__ import annotations

import pytest
from one_after_another import many

from epochal.training.train import train
from tiny_runs import figures, overrides


@pytest.fixture(scope="module")
def curves(tiny_corpus, tmp_path_factory):
    """{run: training losses} of one process and of two, with micro-batches of 1 or 2 rows."""
    folder = tmp_path_factory.mktemp("dropout")

    def job(name, micro, **changes):
        rates = {f"train__{kind}_dropout": 0.2 for kind in ("attention", "hidden")}
        steady = {"train__lr": 5e-4, "train__min_lr": 1e-4, "parallel__timeout": 120}
        steady |= {"train__steps": 6, "train__global_batch_size": 4, "log__every": "1 step"}
        steady |= {"train__micro_batch_size": micro}
        return overrides(tiny_corpus, folder / name, **(steady | rates | changes))

    for micro in (1, 2):
        train(None, job(f"alone-{micro}", micro))
    modes = {"ddp": {}, "zero-3": {"parallel__zero": 3}}
    names = {f"{mode}-{micro}": (mode, micro) for mode in modes for micro in (1, 2)}
    many(2, [job(name, micro, **modes[mode]) for name, (mode, micro) in names.items()], folder)

    def losses(name):
        return [line["loss"] for line in figures(folder / name) if line["kind"] == "train"]

    return {name: losses(name) for name in (*names, "alone-1", "alone-2")}


@pytest.mark.parametrize("micro", [1, 2])
@pytest.mark.parametrize("mode", ["ddp", "zero-3"])
def test_two_processes_drop_what_one_does(curves, mode, micro):
    found, expected = curves[f"{mode}-{micro}"], curves[f"alone-{micro}"]
    assert len(expected) == 6
    assert found == pytest.approx(expected, rel=3e-6)


def test_micro_batches_cut_elsewhere_drop_others(curves):
    """What the test above can tell apart."""
    for one, two in zip(curves["alone-1"], curves["alone-2"], strict=True):
        assert abs(one - two) > 1e-4 * one
