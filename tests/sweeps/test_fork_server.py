"""Processes of runs that are forked from a server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from epochal.errors import RunError
from epochal.sweeps.fork_server import LOST, ForkServer, start_epochal

ENV = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server whose children run a program in place of `epochal`, since that starts at once."""
    program = tmp_path / "stand_in.py"
    program.write_text(
        "import json, os, sys, time\n"
        "from epochal.sweeps.fork_server import serve\n"
        "def run(arguments):\n"
        "    if arguments[0] == 'exit': sys.exit(int(arguments[1]))\n"
        "    if arguments[0] == 'raise': raise ValueError('of the program')\n"
        "    if arguments[0] == 'sleep': time.sleep(60)\n"
        "    while time.process_time() < 0.3: pass\n"
        "    print(json.dumps({'cwd': os.getcwd(), 'value': os.environ.get('VALUE'),\n"
        "        'other': os.environ.get('OTHER'), 'arguments': sys.argv[1:],\n"
        "        'session': os.getsid(0) == os.getpid(), 'input': sys.stdin.read()}))\n"
        "serve(run, ['epochal.units'])\n"
    )
    monkeypatch.setattr("epochal.sweeps.fork_server.COMMAND", [sys.executable, str(program)])
    server = ForkServer(1)
    yield server
    server.close()


def test_a_child_is_as_a_process_of_its_own(server, monkeypatch, tmp_path):
    monkeypatch.setenv("OTHER", "of the parent")
    monkeypatch.chdir(tmp_path)
    log = tmp_path / "log"
    log.write_text("before\n")
    child = server.start(["show", "Ü"], {**ENV, "VALUE": "5"}, log)
    assert child.wait() == 0
    assert server.cpu_seconds >= 0.3
    before, said = log.read_text().splitlines()
    assert before == "before"
    assert json.loads(said) == {
        "cwd": str(tmp_path),
        "value": "5",
        "other": None,
        "arguments": ["show", "Ü"],
        "session": True,
        "input": "",
    }


def test_exit_codes_are_those_of_subprocess(server, tmp_path):
    asked = [["exit", "0"], ["exit", "2"], ["raise"], ["sleep"], ["sleep"]]
    children = [server.start(one, ENV, tmp_path / "log") for one in asked]
    for child, number in zip(children[3:], (signal.SIGTERM, signal.SIGKILL), strict=True):
        assert child.poll() is None
        os.killpg(child.pid, number)
    codes = [child.wait() for child in reversed(children)][::-1]
    assert codes == [0, 2, 1, -signal.SIGTERM, -signal.SIGKILL]
    assert "ValueError: of the program" in (tmp_path / "log").read_text()


def test_without_its_server_a_child_goes_on_and_none_is_started(server, tmp_path):
    child = server.start(["sleep"], ENV, tmp_path / "log")
    server.process.kill()
    with pytest.raises(RunError, match="exit code -9"):
        server.start(["show"], ENV, tmp_path / "log")
    assert server.ended
    assert child.poll() is None
    os.killpg(child.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert child.poll() == LOST


def test_where_nothing_can_be_forked_a_run_is_a_new_interpreter(monkeypatch, tmp_path):
    monkeypatch.setattr("epochal.sweeps.fork_server.FORKS", False)
    process = start_epochal(["--version"], ENV, tmp_path / "log")
    assert isinstance(process, subprocess.Popen)
    assert process.wait() == 0
    assert "epochal" in (tmp_path / "log").read_text()
