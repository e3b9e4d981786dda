"""Busy processes end with their block; a command's CPU seconds are its own and its children's."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest

import loaded


def test_busy_processes_end_with_the_block(monkeypatch):
    started = []
    plain = subprocess.Popen
    monkeypatch.setattr(
        loaded.subprocess, "Popen", lambda *a, **k: started.append(plain(*a, **k)) or started[-1]
    )
    with loaded.busy(2):
        assert [one.poll() for one in started] == [None, None]
    assert all(one.returncode for one in started)


def test_cpu_seconds_count_children_but_not_neighbours():
    work = "import time\nwhile time.process_time() < 0.2: pass"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {work!r}])"
    with loaded.busy(1):
        seconds, cpu = loaded.measure([sys.executable, "-S", "-c", outer])
    assert 0.2 <= cpu <= 0.2 + seconds
    with pytest.raises(click.ClickException, match="no good"):
        loaded.measure([sys.executable, "-S", "-c", "raise SystemExit('no good')"])
