"""On a CPU, long runs take bf16 where it is faster; a resumed run keeps what it had."""

from __future__ import annotations

import time

import pytest
import torch

from epochal.device import Machine
from epochal.recipe import load_recipe, run_numbers
from epochal.training import precision
from epochal.training.step import Stepper
from epochal.training.train import train
from tiny_runs import figures, final_files, overrides

CPU = Machine(torch.device("cpu"), bf16=False, compiled=False)


def asked(monkeypatch, bf16_speed, bf16_pass, old=None, steps=10**6, comparable=False, **changes):
    """`runs_in_bf16` of a run on a machine whose fp32 makes 1e11 FLOP/s, with passes of 1 s."""
    values = {"model.d_model": 64, "model.layers": 3, "model.heads": 2, "train.steps": steps}
    recipe = load_recipe(None, values | {k.replace("__", "."): v for k, v in changes.items()})
    monkeypatch.setattr(
        Machine, "product_flops", lambda self, size: bf16_speed if self.bf16 else 1e11
    )
    monkeypatch.setattr(
        precision, "pass_seconds", lambda r, n, machine, s: bf16_pass if machine.bf16 else 1.0
    )
    return precision.runs_in_bf16(recipe, run_numbers(recipe, 10**7, 512), CPU, old, comparable)


@pytest.mark.parametrize(
    ("bf16_speed", "bf16_pass", "expected"),
    [(2e11, 0.5, True), (2e11, 0.9, False), (1e9, 0.5, False)],
)
def test_a_long_run_takes_what_is_faster(monkeypatch, bf16_speed, bf16_pass, expected):
    assert asked(monkeypatch, bf16_speed, bf16_pass) is expected


def test_short_runs_and_given_precisions_are_not_measured(monkeypatch):
    assert not asked(monkeypatch, 2e11, 0.5, steps=1)
    assert not asked(monkeypatch, 2e11, 0.5, train__precision="fp32")


def test_runs_of_a_comparison_share_the_precision(monkeypatch):
    assert not asked(monkeypatch, 2e11, 0.5, comparable=True)
    assert asked(monkeypatch, 2e11, 0.5, comparable=True, train__precision="bf16")
    old = {"machine": {"device": "CPU, 2 threads", "precision": "bf16"}}
    assert asked(monkeypatch, 2e11, 0.5, old, comparable=True)  # a run begun before this rule


@pytest.mark.parametrize(
    ("device", "before", "expected"),
    [("CPU, 2 threads", "bf16", True), ("CPU, 2 threads", "fp32", False), ("A100", "bf16", False)],
)
def test_a_resumed_run_keeps_its_precision(monkeypatch, device, before, expected):
    old = {"machine": {"device": device, "precision": before}}
    fast = 1e9 if expected else 2e11  # a measurement would say the opposite
    assert asked(monkeypatch, fast, 0.5, old) is expected


def test_a_run_whose_choice_was_bf16_resumes_bit_for_bit(tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "_LEAST_FLOPS", 0)
    monkeypatch.setattr(precision, "LEAST_SECONDS", 0)
    monkeypatch.setattr(precision, "pass_seconds", lambda r, n, machine, s: 2.0 - machine.bf16)
    monkeypatch.setattr(Machine, "product_flops", lambda self, size: 1e9 + 1e9 * self.bf16)
    plain = Stepper.__call__

    def cut(self, number, lr):
        if number == 5:
            raise KeyboardInterrupt
        return plain(self, number, lr)

    changes = {"train__steps": 8, "checkpoint__every": "4 steps"}
    auto = overrides(tiny_corpus, tmp_path / "auto", **changes)
    monkeypatch.setattr(Stepper, "__call__", cut)
    with pytest.raises(KeyboardInterrupt):
        train(None, auto)
    monkeypatch.setattr(Stepper, "__call__", plain)
    monkeypatch.setattr(Machine, "product_flops", lambda self, size: 1e9)  # fp32, from now on
    assert train(None, auto).info["machine"]["precision"] == "bf16"
    given = {"train__precision": "bf16"} | changes
    train(None, overrides(tiny_corpus, tmp_path / "given", **given))
    assert figures(tmp_path / "auto") == figures(tmp_path / "given")
    assert final_files(tmp_path / "auto") == final_files(tmp_path / "given")


@pytest.mark.parametrize("size", [{"model.size": "7M"}, {"model.size": "425M"}])
def test_a_pass_is_short_whatever_the_model(size):
    recipe = load_recipe(None, size | {"train.steps": 1})
    numbers = run_numbers(recipe, 10**7, 512)
    began = time.process_time()
    assert precision.pass_seconds(recipe, numbers, CPU, 2e10) > 0
    assert time.process_time() - began < 4
