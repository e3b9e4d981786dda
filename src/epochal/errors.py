"""Everything that Epochal raises on purpose.

EpochalError                 one clear sentence; the command line prints it without a traceback
├── UserError                the user can fix it (exit code 2)
│   ├── OptionError          an option of a function; names the field
│   ├── RecipeError          a recipe key or value
│   ├── DataError            a corpus, token store or tokenizer
│   ├── RunError             a run directory: locked, changed, incomplete
│   ├── CheckpointError      a damaged or foreign checkpoint
│   └── StorageError         a full disk, a read-only or unwritable place
├── TrainingDiverged         loss or gradient not finite (exit code 1)
└── TrainingStopped          ended early on request, everything saved (exit codes 130, 143, 75)

A message says what is wrong, the value given, what is allowed and what to type.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, NamedTuple


class NamedOption(NamedTuple):
    """An option of a function, named in a message, perhaps with a value to give it.

    In Python it is its field, "`invalid_utf8` = replace"; the command line shows its flag.
    """

    name: str
    value: str | None = None

    def __str__(self) -> str:
        return f"`{self.name}`" if self.value is None else f"`{self.name}` = {self.value}"


class EpochalError(Exception):
    """Base of all errors raised on purpose. `exit_code` is the process's exit status.

    The message may come in parts, some of them the options that it names (`NamedOption`).
    """

    exit_code = 1

    def __str__(self) -> str:
        return "".join(map(str, self.args))


class UserError(EpochalError):
    """An error that the user can fix."""

    exit_code = 2


class OptionError(UserError):
    """An option of a function has a value that makes no sense.

    `name` is the field of the options; the command line shows its flag instead.
    """

    def __init__(self, name: str, value: Any, problem: str) -> None:
        super().__init__(f"{name} = {value!r}: {problem}")
        self.name, self.value, self.problem = name, value, problem


class RecipeError(UserError):
    """A recipe has an unknown key, a wrong value, or values that do not go together."""


class DataError(UserError):
    """A text input, token store or tokenizer is missing, damaged or does not fit."""


class RunError(UserError):
    """A run directory is in use, was made with another recipe, or lacks something."""


class NotFiniteError(RunError):
    """A model gives a loss that is not finite."""


class CheckpointError(UserError):
    """A checkpoint is missing, damaged or belongs to something else."""


class StorageError(UserError):
    """A file could not be written: the disk is full or the place is not writable."""


class TrainingDiverged(EpochalError):
    """Loss or gradient norm was not finite; the update was not made."""


class TrainingStopped(EpochalError):
    """Training ended early on request, with a checkpoint.

    `exit_code` is 130 after Ctrl-C, 143 after SIGTERM and 75 ("try again later") after a STOP
    file, so that a script does not take the run for a finished one; but 0 under
    `torchrun --max-restarts`, which would start it again at once.
    """

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def not_installed(need: str, library: str, extra: str) -> str:
    """The message where a library of an extra is missing; `need` is such as "executors need"."""
    return f"{need} {library}, which is not installed: run `pip install 'epochal[{extra}]'`"


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ' Did you mean `x`?' for the known word nearest to `word`, or ''."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean `{close[0]}`?" if close else ""
