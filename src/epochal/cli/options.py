"""Click options made from the dataclasses of the functions that commands call."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
from click.core import ParameterSource

from epochal.errors import EpochalError, NamedOption, OptionError, UserError
from epochal.options import field_docs

Command = TypeVar("Command", bound=Callable[..., Any])

_flags: dict[str, str] = {}
"""Option → its flag, of the command that runs or ran last; for errors that name the option."""


def message_of(error: EpochalError) -> str:
    """An error's message with flags for the options that it names: "`invalid_utf8` = replace"
    becomes "`--invalid-utf8 replace`"."""
    if isinstance(error, OptionError):
        flag = _flags.get(error.name, "--" + error.name.replace("_", "-"))
        return f"{flag} {_typed(error.value)}: {error.problem}"
    return "".join(map(_with_flag, error.args))


def _typed(value: Any) -> str:
    """A value as it is typed: params=N for {"params": "N"}, 8,16 for (8, 16)."""
    if isinstance(value, Mapping):
        return ",".join(f"{name}={one}" for name, one in value.items())
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _with_flag(part: str | NamedOption) -> str:
    """A part of a message; an option that the command does not have stays as it is."""
    if not isinstance(part, NamedOption) or part.name not in _flags:
        return str(part)
    flag = _flags[part.name]
    return f"`{flag}`" if part.value is None else f"`{flag} {part.value}`"


def options(
    kind: type[Any], into: str = "options", leave_out: Collection[str] = ()
) -> Callable[[Command], Command]:
    """Add an option for each field of the dataclass `kind`.

    The command gets one argument, named `into`, with an instance of it. Fields of `leave_out`
    stay at their defaults.
    """
    hints = typing.get_type_hints(kind)
    docs = field_docs(kind)  # type: ignore[arg-type]  # a class is hashable
    shown = [
        one
        for one in dataclasses.fields(kind)
        if one.metadata.get("cli", True) and one.name not in leave_out
    ]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def call(*args: Any, **values: Any) -> Any:
            _flags.clear()
            _flags.update(_flags_of(click.get_current_context().command))
            picked = {one.name: values.pop(one.name) for one in shown}
            return command(*args, **values, **{into: kind(**picked)})

        wrapped: Any = call
        for one in reversed(shown):
            wrapped = _option(one, hints[one.name], docs.get(one.name, ""))(wrapped)
            for old in one.metadata.get("renamed", ()):
                wrapped = _old_name(old, one)(wrapped)
        return typing.cast(Command, wrapped)

    return decorate


def _flags_of(command: click.Command) -> dict[str, str]:
    return {one.name or "": one.opts[-1] for one in command.params if isinstance(one, click.Option)}


def given(*names: str) -> list[str]:
    """Those of the current command's options that were typed, as flags."""
    context = click.get_current_context()
    flags = _flags_of(context.command)
    return [
        flags[name]
        for name in names
        if context.get_parameter_source(name)
        in (ParameterSource.COMMANDLINE, ParameterSource.DEFAULT_MAP)  # the latter by an old name
    ]


def refuse(names: Sequence[str], why: str) -> None:
    """Raise UsageError if any of these options was typed: `--mfu needs --dry-run`."""
    if typed := given(*names):
        raise click.UsageError(f"{' and '.join(typed)} {why}")


def _flag(one: dataclasses.Field[Any]) -> str:
    return one.metadata.get("flag") or "--" + one.name.replace("_", "-")


def _option(one: dataclasses.Field[Any], hint: Any, text: str) -> Callable[[Any], Any]:
    more = one.metadata
    flag = _flag(one)
    names = [name for name in (more.get("short"), flag) if name]
    default = one.default
    if one.default_factory is not dataclasses.MISSING:
        default = one.default_factory()
    settings: dict[str, Any] = {"help": text}
    if more.get("metavar"):
        settings["metavar"] = more["metavar"]
    settings |= _kind(hint, default, more.get("parse"))
    if choices := more.get("choices"):
        settings["type"] = click.Choice(list(choices()))
    if default is dataclasses.MISSING:
        settings["required"] = True
    elif not isinstance(default, bool):
        settings["default"] = default
        settings["show_default"] = default not in (None, (), {}, "")
    if isinstance(default, bool) or bool in get_args(hint):
        names = [flag if default is False else f"{flag}/--no-{flag[2:]}"]
        settings |= {"is_flag": True, "default": default}
    return click.option(*names, one.name, **settings)


def _old_name(old: str, one: dataclasses.Field[Any]) -> Callable[[Any], Any]:
    """A flag of an earlier version: not in the help, read as the new one, with a notice."""

    def take(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value in (None, False, ()):
            return
        click.echo(f"{old} is now {_flag(one)}; the old name is still read", err=True)
        if isinstance(value, tuple) and one.metadata.get("parse"):
            value = ",".join(value)  # what was repeated is a list now
        context.default_map = {**(context.default_map or {}), one.name: value}

    # `is_flag=False` would tell click that the value may be missing, and --rise -1 would be two
    # options.
    kind: dict[str, Any] = {"is_flag": True} if isinstance(one.default, bool) else {}
    if isinstance(one.default, tuple):
        kind = {"multiple": True}
    return click.option(
        old,
        "old_" + old.lstrip("-").replace("-", "_"),
        hidden=True,
        is_eager=True,
        expose_value=False,
        callback=take,
        **kind,
    )


def _kind(hint: Any, default: Any, parse: Callable[[str], Any] | None) -> dict[str, Any]:
    """What click has to know of a field's type."""
    if get_origin(hint) in (types.UnionType, typing.Union):
        inner = [part for part in get_args(hint) if part is not type(None)]
        hint = inner[0] if len(inner) == 1 else str
    if get_origin(hint) is typing.Annotated:
        hint = get_args(hint)[0]
    if parse is not None:
        # Without a type, click would take one from a tuple that is the default.
        return {"callback": functools.partial(_parsed, parse), "type": click.UNPROCESSED}
    origin = get_origin(hint)
    if origin is Literal:
        return {"type": click.Choice([str(word) for word in get_args(hint)])}
    if origin in (tuple, list) or (isinstance(origin, type) and issubclass(origin, Sequence)):
        of = get_args(hint)[0]
        of = str if get_origin(of) in (types.UnionType, typing.Union) else of
        kind = click.Choice([str(w) for w in get_args(of)]) if get_origin(of) is Literal else of
        return {"multiple": True, "type": kind}
    if origin is dict or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return {"multiple": True, "callback": _pairs, "default": ()}
    if hint is Path:
        return {"type": click.Path(path_type=Path)}
    return {} if isinstance(default, bool) else {"type": hint}


def _parsed(
    parse: Callable[[str], Any], context: click.Context, parameter: click.Parameter, value: Any
) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return parse(value)
    except UserError as error:
        raise click.BadParameter(str(error)) from None


def _pairs(context: click.Context, parameter: click.Parameter, words: Any) -> dict[str, str]:
    found = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise click.UsageError(f"{parameter.opts[-1]} {word}: write NAME=VALUE")
        found[name.strip()] = value.strip()
    return found
