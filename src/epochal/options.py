"""Options of a function as one documented dataclass.

The text under a field is its documentation. `cli/options.py` makes the options of a command
from it and `docs/` its tables, so that a command, its function and its page cannot differ.

    @dataclass(frozen=True, kw_only=True)
    class FitOptions:
        law: Literal["auto", "chinchilla"] = "auto"
        \"\"\"Form of the law; auto chooses by the error on held-out runs.\"\"\"
        fix: Path | None = option(None, metavar="FILE")
        \"\"\"TOML or JSON file with constants that are not fitted.\"\"\"
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any


def option(
    default: Any = dataclasses.MISSING,
    *,
    default_factory: Any = dataclasses.MISSING,
    flag: str = "",
    short: str = "",
    metavar: str = "",
    parse: Callable[[str], Any] | None = None,
    choices: Callable[[], Sequence[str]] | None = None,
    renamed: Sequence[str] = (),
    cli: bool = True,
    json: bool | str = True,
) -> Any:
    """A dataclass field with what the command line needs beside name, type, default and text.

    `flag` is --field-name if not given, `short` a letter like -U. `parse` turns the typed text
    into the value and raises UserError; `choices` gives the allowed words. `renamed` are earlier
    flags, still read with a notice. `cli=False` leaves the field off the command line.
    """
    return dataclasses.field(
        default=default,
        default_factory=default_factory,
        metadata={
            "flag": flag,
            "short": short,
            "metavar": metavar,
            "parse": parse,
            "choices": choices,
            "renamed": tuple(renamed),
            "cli": cli,
            "json": json,
        },
    )


@cache
def field_docs(kind: type[Any], unwrap: bool = True) -> dict[str, str]:
    """Field → the text under it, its lines joined if `unwrap`; of base classes, too."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for item, below in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(item, ast.AnnAssign)
                and isinstance(item.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                text = inspect.cleandoc(below.value.value)
                docs[item.target.id] = " ".join(text.split()) if unwrap else text
    return docs
