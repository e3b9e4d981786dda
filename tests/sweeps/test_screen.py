"""The live table of a sweep fits the terminal, and the runs can be told apart."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from epochal.sweeps.monitor import RunMonitor, SweepScreen
from epochal.sweeps.record import RunState, State

NAMES = [f"mdm-{size}-U4k-{epochs}ep" for size in ("32x2x2", "48x2x2") for epochs in (1, 2)]


def table_lines(tmp_path, width, names=NAMES, height=26):
    states = [
        RunState(name=name, family="mdm", run_dir=name, identity="", state=State.TRAINING)
        for name in names
    ]
    monitors = {
        name: RunMonitor(tmp_path, "mdm", 10, step=5, epochs=1.5, loss=6.5, speed=123456.0)
        for name in names
    }
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=False)
    console.print(SweepScreen("grid", console).table(states, monitors))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [120, 80, 60, 40, 28])
def test_each_run_is_told_from_the_others_at_any_width(tmp_path, width):
    lines = table_lines(tmp_path, width)
    assert max(map(len, lines)) <= width
    shown = [line.split()[0] for line in lines[1:5]]
    assert shown == NAMES
    assert ("tok/s" in lines[0]) == (width >= 80)


def test_a_name_too_long_keeps_its_end(tmp_path):
    long = "mdm-dropout-of-attention-0.25-weight_decay1.6-U100k-"
    lines = table_lines(tmp_path, 30, [f"{long}s1", f"{long}s2"])
    assert max(map(len, lines)) <= 30
    assert [line.split()[0][-4:] for line in lines[1:3]] == ["k-s1", "k-s2"]
    assert lines[1].startswith("…")


def test_the_table_is_no_longer_than_the_terminal(tmp_path):
    assert len(table_lines(tmp_path, 80, [f"r{number}" for number in range(50)], height=14)) == 10
