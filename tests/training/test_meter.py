"""The figures of speed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from epochal.training import loop
from epochal.training.checkpoint import TrainState
from epochal.training.step import StepResult


def meter_of(monkeypatch, processes, clock):
    """A meter of made-up runs: 64 tokens a step, 10 FLOPs a token, 1000 FLOP/s a device."""
    clock = iter(clock)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    numbers = SimpleNamespace(
        vocabulary=300,
        sequence_length=32,
        tokens_per_step=64,
        at=lambda step: SimpleNamespace(epochs=0),
    )
    shape = SimpleNamespace(matmul_flops_per_token=lambda vocabulary, length, share: 10 * share)
    made_up = SimpleNamespace(
        machine=SimpleNamespace(peak_flops=lambda: (1e3, "made up"), peak_memory=lambda: None),
        logger=SimpleNamespace(info={}),
        numbers=numbers,
        recipe=SimpleNamespace(model=SimpleNamespace(architecture=lambda: shape)),
        world=SimpleNamespace(size=processes),
    )
    bar = SimpleNamespace(update=lambda step, note: None)
    return loop._Meter(made_up, bar, 0.0)


STEP = StepResult(loss=1.0, grad_norm=1.0, scored=64)


@pytest.mark.parametrize("processes", [1, 2, 8])
def test_mfu_is_of_all_the_devices_together(monkeypatch, processes):
    meter = meter_of(monkeypatch, processes, [0.0, 0.0, 2.0])
    meter.step(TrainState(step=1), STEP)
    # 64 tokens of 10 FLOPs in 2 s, on so many devices of 1000 FLOP/s.
    assert meter._speed == 32
    assert meter._mfu == pytest.approx(320 / (1000 * processes))


def test_speed_is_measured_anew_though_every_step_is_followed_by_an_evaluation(monkeypatch):
    # The first step takes 4 s, each later one 0.5 s and then an evaluation of 10 s.
    clock = [0.0, 0.0, 4.0, 14.0, 14.5, 24.5, 25.0, 35.0, 35.5]
    meter = meter_of(monkeypatch, 1, clock)
    meter.step(TrainState(step=1), STEP)
    assert meter._speed == 16
    for step in (2, 3, 4):
        meter.skip()
        meter.step(TrainState(step=step), STEP)
    assert meter._speed == 128
