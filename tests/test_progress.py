"""Progress: sparse lines in a log, a bar on a terminal, nothing when hidden."""

from __future__ import annotations

import io
import sys

import pytest

from epochal import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_soon_and_then_every_fifteen_seconds(clock, capsys):
    with progress.bar("train", 200) as bar:
        for second in range(61):
            clock[0] = second
            bar.update(second, f"loss {second}")
    lines = capsys.readouterr().err.splitlines()
    left = {5: "0:03:15", 20: "0:03:00", 35: "0:02:45", 50: "0:02:30"}
    assert lines == [f"train {s / 2:3.0f}% loss {s}, {left[s]} left" for s in left]


def test_an_unknown_amount_is_counted(clock, capsys):
    with progress.bar("read", None) as bar:
        clock[0] = 20
        bar.update(1234)
    assert capsys.readouterr().err == "read 1234\n"


def test_hidden_is_silent_also_inside_of_hidden(clock, capsys):
    with progress.hidden():
        with progress.hidden():
            pass
        progress.say("hush")
        with progress.bar("train", 10) as bar:
            clock[0] = 100
            bar.update(5, "x")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    progress.say("[not markup] 12 :smile:")
    assert capsys.readouterr().err == "[not markup] 12 :smile:\n"


def test_a_terminal_gets_a_bar_that_goes_away(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.bar("train", 10) as bar:
        bar.update(5, "loss 3.2")
    assert "train" in terminal.getvalue()
    assert "loss 3.2" in terminal.getvalue()
    assert terminal.getvalue().endswith(("\x1b[2K", "\x1b[?25h", "\r"))
