"""One, two and four processes, in every mode, give one loss curve."""

from __future__ import annotations

import pytest

from epochal.workflows.train import train
from tiny_runs import figures, overrides
from torchrun import many

# Each mode once; what does not depend on the mode (micro-batches, recomputing) goes along.
TWO = {
    "ddp-accumulating": {"train__micro_batch": 1},
    "zero-1-accumulating": {"parallel__zero": 1, "train__micro_batch": 1},
    "zero-2-recomputing-some": {
        "parallel__zero": 2,
        "parallel__activation_checkpointing": "selective",
    },
    "zero-3-recomputing-offload": {
        "parallel__zero": 3,
        "parallel__activation_checkpointing": "full",
        "parallel__offload": True,
    },
    "tensor": {"parallel__tensor": 2},
    "tensor-sequence": {"parallel__tensor": 2, "parallel__sequence": True},
}
FOUR = {
    "hybrid": {"parallel__zero": 3, "parallel__shard": 2},
    "zero-3-tensor": {"parallel__zero": 3, "parallel__tensor": 2},
}
MODES = {2: TWO, 4: FOUR}
FAMILIES = ("ar", "mdm")


def values(corpus, folder, family, mode, **changes):
    """A run of 24 steps at a rate at which rounding does not grow."""
    changes = {
        "model__layers": 2,
        "train__lr": 5e-4,
        "train__min_lr": 1e-4,
        "parallel__timeout": 120,
        "eval__every": "24 steps",
    } | changes
    return overrides(corpus, folder / f"{family}-{mode}", family=family, **changes)


@pytest.fixture(scope="module")
def alone(tiny_corpus, tmp_path_factory):
    """Folder of the runs of one process."""
    folder = tmp_path_factory.mktemp("alone")
    for family in FAMILIES:
        train(None, values(tiny_corpus, folder, family, "one"))
    return folder


@pytest.fixture(scope="module", params=MODES)
def together(request, tiny_corpus, tmp_path_factory):
    """(processes, folder) of the runs of two and of four processes, in all their modes."""
    folder = tmp_path_factory.mktemp(f"together{request.param}")
    jobs = [
        values(tiny_corpus, folder, family, mode, **changes)
        for family in FAMILIES
        for mode, changes in MODES[request.param].items()
    ]
    many(request.param, jobs, folder)
    return request.param, folder


def test_every_mode_gives_the_loss_curve_of_one_process(alone, together):
    processes, folder = together
    for family in FAMILIES:
        expected = figures(alone / f"{family}-one")
        assert len(expected) >= 24
        for mode in MODES[processes]:
            found = figures(folder / f"{family}-{mode}")
            assert [line["step"] for line in found] == [line["step"] for line in expected]
            for one, many_ in zip(expected, found, strict=True):
                for key, value in one.items():
                    where = f"{family} {mode}: {key} at step {one['step']}"
                    if key == "kind":
                        continue
                    assert many_[key] == pytest.approx(value, rel=1e-5, abs=1e-9), where
