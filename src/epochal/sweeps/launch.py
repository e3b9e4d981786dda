"""Running the runs of a sweep on this machine: one process per slot, until none is left.

A run's process is `epochal train RECIPE`, in a new session (setsid), so that Ctrl-C at the
terminal reaches only this process, which then asks each run to end with a checkpoint.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from epochal import files
from epochal.errors import EpochalError, RunError, TrainingStopped
from epochal.results import Note, note
from epochal.runs import RunFolder, RunRecord
from epochal.sweeps.fork_server import ForkedProcess, start_epochal
from epochal.sweeps.monitor import RunMonitor, SweepScreen, early_stop_reason
from epochal.sweeps.record import DONE, RunReason, RunState, State, SweepFolder, needs_evaluation
from epochal.sweeps.slots import EPOCHAL, Slot

POLL_SECONDS = 0.2
BUSY_SECONDS = 5.0
"""Until a run that another process holds is tried again."""
STOPPED_BY_FILE = 75
"""Exit code of a training that ended because of its STOP file."""
MayStart = Callable[[RunState], Note | None]
"""A run that could be started now → the reason to leave it out, or None."""


@dataclass(slots=True)
class _Active:
    """A running process of a run."""

    state: RunState
    slot: Slot
    process: subprocess.Popen[bytes] | ForkedProcess
    ended_early: Note | None = None
    began: float = field(default_factory=time.monotonic)


@dataclass(slots=True, kw_only=True)
class Launch:
    """A running sweep."""

    name: str
    folder: SweepFolder
    states: list[RunState]
    monitors: dict[str, RunMonitor]
    slots: list[Slot]
    screen: SweepScreen
    evaluate: bool = True
    early_stopping: bool = False
    may_start: MayStart | None = None
    _active: list[_Active] = field(default_factory=list)
    _not_before: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        """Work until every run is done or has failed.

        A failure does not end the others. Raises TrainingStopped after Ctrl-C, SIGTERM or a file
        STOP in the sweep's folder, when every run has saved a checkpoint to resume from.
        """
        self._save()
        self._stop_file.unlink(missing_ok=True)  # it ended an earlier session
        with _signals() as asked:
            try:
                while self._active or any(state.state not in DONE for state in self.states):
                    if asked or self._stop_file.exists():
                        self._end_all(asked)
                    self._reap()
                    self._start()
                    self._look()
                    self.screen.show(self.states, self.monitors)
                    time.sleep(POLL_SECONDS)
            finally:
                for active in self._active:  # only after an error of our own
                    _kill(active)
                    active.process.wait()
                self._save()

    @property
    def _stop_file(self) -> Path:
        """Ends the sweep; the one in a run's folder ends the run."""
        return RunFolder(self.folder.path).stop_file

    def _start(self) -> None:
        free = [slot for slot in self.slots if slot not in [one.slot for one in self._active]]
        busy = [one.state.name for one in self._active]
        by_name = {state.name: state for state in self.states}
        for state in self.states:
            if not free:
                return
            if state.state in DONE or state.name in busy or not self._is_due(state, by_name):
                continue
            if self._is_ready(state):
                self._train(state, free.pop(0))

    def _is_due(self, state: RunState, by_name: dict[str, RunState]) -> bool:
        """Whether it waits for nothing; a run fails if its trunk is not finished."""
        first = [by_name[name] for name in state.after]
        lost = [one.name for one in first if one.state in DONE and one.state != State.FINISHED]
        if lost:
            self._done(state, State.FAILED, note(RunReason.TRUNK_NOT_FINISHED, trunk=lost[0]))
            return False
        return time.monotonic() >= self._not_before.get(state.name, 0.0) and all(
            one.state == State.FINISHED for one in first
        )

    def _is_ready(self, state: RunState) -> bool:
        """Whether to start it now: not finished, not left out, not held by another process."""
        folder = RunFolder(self.folder.run_dir(state.name))
        try:
            with folder.lock():
                pass
        except RunError:
            if not self._not_before.get(state.name):
                self.screen.event(f"{state.name} is held by another process; waiting for it")
            self._not_before[state.name] = time.monotonic() + BUSY_SECONDS
            return False
        if _status(folder) == "finished" and not (
            self.evaluate and needs_evaluation(RunRecord(folder.path))
        ):
            self._done(state, State.FINISHED)
            return False
        reason = self.may_start(state) if self.may_start else None
        if reason:
            self._done(state, State.LEFT_OUT, reason)
        return not reason

    def _train(self, state: RunState, slot: Slot) -> None:
        state.state, state.reason, state.exit_code = State.TRAINING, None, None
        state.attempts += 1
        recipe = self.folder.recipe_file(state.name)
        self._spawn(state, slot, slot.train_command(recipe, self.evaluate))
        self.screen.event(f"{state.name} started")

    def _spawn(
        self, state: RunState, slot: Slot, command: list[str], early: Note | None = None
    ) -> None:
        path = self.folder.log_file(state.name)
        with files.storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            log = path.open("ab")
        env = {**os.environ, **slot.env}
        process: subprocess.Popen[bytes] | ForkedProcess
        with log:
            if command[:3] == EPOCHAL:
                process = start_epochal(command[3:], env, path)
            else:  # torchrun starts the processes of several GPUs
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=env,
                    start_new_session=True,
                )
        self._active.append(_Active(state, slot, process, early))
        self._save()

    def _reap(self) -> None:
        for active in list(self._active):
            code = active.process.poll()
            if code is None:
                continue
            self._active.remove(active)
            active.state.exit_code = code
            active.state.seconds += time.monotonic() - active.began
            self._ended(active, code)

    def _ended(self, active: _Active, code: int) -> None:
        state, folder = active.state, RunFolder(self.folder.run_dir(active.state.name))
        if state.state == State.EVALUATING:
            if code:
                self._done(state, State.FAILED, note(RunReason.EVALUATION_FAILED, exit_code=code))
            elif active.ended_early:
                self._done(state, State.ENDED_EARLY, active.ended_early)
            else:
                self._done(state, State.FINISHED)
            return
        finished = code == 0 and _status(folder) == "finished"
        if not finished and not (active.ended_early and code == STOPPED_BY_FILE):
            self._done(state, State.FAILED, note(RunReason.TRAINING_FAILED, exit_code=code))
        elif self.evaluate and needs_evaluation(RunRecord(folder.path)):
            state.state = State.EVALUATING
            command = active.slot.evaluate_command(str(folder.path))
            self._spawn(state, active.slot, command, active.ended_early)
        else:
            early = None if finished else active.ended_early
            self._done(state, State.ENDED_EARLY if early else State.FINISHED, early)

    def _done(self, state: RunState, how: State, reason: Note | None = None) -> None:
        state.state, state.reason = how, reason
        if _status(RunFolder(self.folder.run_dir(state.name))):
            state.nll = RunRecord(self.folder.run_dir(state.name)).best_nll
        done = sum(one.state in DONE for one in self.states)
        nll = "" if state.nll is None else f", NLL {state.nll:.4f}"
        why = "" if reason is None else f" ({reason.code.replace('_', ' ')})"
        text = f"{state.name} {how.replace('_', ' ')}{why}{nll}"
        self.screen.event(f"{text}  [{done} of {len(self.states)}]")
        self._save()

    def _look(self) -> None:
        """Read the metrics of the running runs; end bad ones early, if `early_stopping`."""
        for active in self._active:
            monitor = self.monitors[active.state.name]
            fresh = monitor.read()
            if not (fresh and self.early_stopping) or active.ended_early:
                continue
            reason = early_stop_reason(monitor, list(self.monitors.values()))
            if reason and active.state.state == State.TRAINING:
                active.ended_early = reason
                stop_file = RunFolder(self.folder.run_dir(active.state.name)).stop_file
                files.write_text(stop_file, f"{reason.code}\n")

    def _end_all(self, asked: list[int]) -> None:
        """Let every run save a checkpoint and end; a second signal kills them."""
        killed = False
        count = len(self._active)
        what = "the run after its" if count == 1 else f"{count} runs, each after its"
        self.screen.event(
            f"ending {what} step with a checkpoint; signal again to kill "
            f"{'it' if count == 1 else 'them'}"
        )
        for active in self._active:
            self._ask_to_end(active)
        while any(active.process.poll() is None for active in self._active):
            if len(asked) > 1 and not killed:
                killed = True
                for active in self._active:
                    _kill(active)
            time.sleep(POLL_SECONDS / 4)
        for active in self._active:
            active.state.state, active.state.exit_code = State.STOPPED, active.process.poll()
            active.state.seconds += time.monotonic() - active.began
        self._active.clear()
        self._save()
        left = sum(state.state not in DONE for state in self.states)
        by, code = f"the file {self._stop_file}", STOPPED_BY_FILE
        if asked:
            by, code = signal.Signals(asked[0]).name, 128 + asked[0]
        self._stop_file.unlink(missing_ok=True)
        raise TrainingStopped(
            f"by {by} with {left} of {len(self.states)} runs to go; run the same command to resume",
            code,
        )

    def _ask_to_end(self, active: _Active) -> None:
        """By SIGTERM to all its processes (torchrun has children); by a file on Windows."""
        if hasattr(os, "killpg"):
            with suppress(ProcessLookupError):
                os.killpg(active.process.pid, signal.SIGTERM)
        else:
            stop_file = RunFolder(self.folder.run_dir(active.state.name)).stop_file
            files.write_text(stop_file, "ended with the others\n")

    def _save(self) -> None:
        self.folder.write(self.name, self.states)


def _status(folder: RunFolder) -> str | None:
    try:
        info = folder.read_info()
    except EpochalError:
        return None
    return None if info is None else str(info.get("status"))


def _kill(active: _Active) -> None:
    """All processes of a run."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError):
            os.killpg(active.process.pid, signal.SIGKILL)
    elif isinstance(active.process, subprocess.Popen):
        active.process.kill()


@contextmanager
def _signals() -> Iterator[list[int]]:
    """The SIGINT and SIGTERM received so far. Only works in the main thread."""
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def take(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    before: dict[int, Any] = {
        number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
