"""Work on a stream in processes: order kept, memory bounded."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from epochal.errors import NamedOption, UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2  # items that are read before a process is free


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workers(Generic[Item, Result]):
    """Processes that call one function; with one worker, this process itself does.

        with Workers(function, 4) as workers:
            for result in workers.map(items):

    They are forked, so what `function` needs is there. They end when this process does, however it
    ends, and hold none of its files.
    """

    def __init__(self, function: Callable[[Item], Result], workers: int) -> None:
        """Start them."""
        self._function = function
        self._processes: list[Any] = []
        self._connections: list[Connection] = []
        context = multiprocessing.get_context("fork")
        for _ in range(workers if workers > 1 else 0):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(function, theirs))
            process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)

    def map(self, items: Iterable[Item]) -> Iterator[Result]:
        """The function's result of each item, in order; few items and results are held at a time.

        What the function raises is raised. Raises UserError if a process was killed.
        """
        if not self._connections:
            yield from map(self._function, items)
            return
        idle: SimpleQueue[Connection] = SimpleQueue()
        for connection in self._connections:
            idle.put(connection)
        running: deque[Future[Result]] = deque()
        with ThreadPoolExecutor(len(self._connections)) as pool:
            try:
                for item in items:
                    running.append(pool.submit(_call, idle, item))
                    if len(running) >= len(self._connections) + _AHEAD:
                        yield running.popleft().result()
                while running:
                    yield running.popleft().result()
            finally:
                for future in running:
                    future.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join()


def _call(idle: SimpleQueue[Connection], item: Any) -> Any:
    """What a free process answers."""
    connection = idle.get()
    try:
        connection.send(item)
        answer, error = connection.recv()
    except (EOFError, OSError):
        raise UserError(
            "a process that encodes text was ended, perhaps for want of memory; run the command "
            "again, with fewer ",
            NamedOption("workers"),
        ) from None
    finally:
        idle.put(connection)
    if error is not None:
        raise error
    return answer


def _serve(function: Callable[[Any], Any], connection: Connection) -> None:
    """Answer until the other end is closed, by whatever ends the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads are not there after a fork
    # The other ends of the pipes, the corpus' lock, open stores: all are the parent's.
    os.closerange(3, connection.fileno())
    os.closerange(connection.fileno() + 1, os.sysconf("SC_OPEN_MAX"))
    with contextlib.suppress(EOFError, OSError):
        while True:
            item = connection.recv()
            answer: tuple[Any, Exception | None]
            try:
                answer = function(item), None
            except Exception as error:
                answer = None, error
            connection.send(answer)
