"""Click options made from a dataclass: types, defaults, texts, old names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import click
import pytest
from click.testing import CliRunner

from epochal.cli.options import given, message_of, options
from epochal.errors import DataError, NamedOption, OptionError, UserError
from epochal.options import field_docs, option
from epochal.units import parse_count


@dataclass(frozen=True, kw_only=True)
class Base:
    """What both have."""

    device: str = "auto"
    """Where it runs."""


@dataclass(frozen=True, kw_only=True)
class Cook(Base):
    """All kinds of fields."""

    law: Literal["auto", "one"] = "one"
    """Which
    law."""
    tie_exponents: bool = option(False, renamed=["--tie"])
    """Tie them."""
    shuffle: bool = True
    """Mix first."""
    threshold: float | None = option(None, renamed=["--rise"])
    """Least rise."""
    unique_tokens: int | None = option(None, short="-U", parse=parse_count)
    """U."""
    prefixes: tuple[int, ...] = (8, 16)
    """Lengths."""
    fillings: Mapping[str, str] = field(default_factory=dict)
    """Names."""
    out: Path | None = option(None, metavar="FILE")
    """Where to."""
    inner: int = option(3, cli=False)
    """Not shown."""


@click.command()
@options(Cook)
def cook(options: Cook) -> None:
    """Print what was asked."""
    click.echo(repr(options))
    click.echo(given("law", "threshold"))


def ask(*words):
    done = CliRunner().invoke(cook, words)
    assert done.exit_code == 0, done.output
    return done.output


def test_defaults_are_the_dataclass_defaults():
    assert ask().startswith(repr(Cook()))


def test_values_arrive_with_their_types():
    words = "--law auto --tie-exponents --no-shuffle --threshold 0.5 -U 2k --prefixes 4"
    found = ask(*words.split(), "--fillings", "a=b", "--out", "x", "--device", "cpu")
    wanted = Cook(
        law="auto",
        tie_exponents=True,
        shuffle=False,
        threshold=0.5,
        unique_tokens=2000,
        prefixes=(4,),
        fillings={"a": "b"},
        out=Path("x"),
        device="cpu",
    )
    assert found.startswith(repr(wanted))


def test_only_what_was_typed_is_given():
    assert "[]" in ask("--device", "cpu")
    assert "['--law', '--threshold']" in ask("--law", "one", "--threshold", "1")


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--tie"], "tie_exponents", True),
        (["--rise", "0.25"], "threshold", 0.25),
        (["--rise", "-1"], "threshold", -1.0),
        (["--rise=-1"], "threshold", -1.0),
    ],
)
def test_old_names_are_read_but_not_shown(words, name, value):
    assert repr(Cook(**{name: value})) in ask(*words)
    assert words[0].partition("=")[0] + " " not in ask("--help").replace("\n", " ")


@pytest.mark.parametrize(
    "words", [["--law", "two"], ["--fillings", "a"], ["-U", "many"], ["--threshold", "x"]]
)
def test_what_makes_no_sense_is_refused(words):
    assert CliRunner().invoke(cook, words).exit_code == 2


def test_the_help_is_the_docstring_of_the_field():
    assert "Which law." in ask("--help")
    assert field_docs(Cook)["device"] == "Where it runs."
    assert "Not shown" not in ask("--help")


def told(error, kind=Cook):
    """What the command line prints of an error in a command with these options."""

    @click.command()
    @options(kind)
    def fail(options) -> None:
        raise error

    assert CliRunner().invoke(fail).exception is error
    return message_of(error)


def test_errors_of_the_library_show_flags_of_the_options_that_they_name():
    error = DataError(
        "set ", NamedOption("tie_exponents"), ", or ", NamedOption("law", "auto"), ", not"
    )
    assert told(error) == "set `--tie-exponents`, or `--law auto`, not"
    assert str(error) == "set `tie_exponents`, or `law` = auto, not"
    unheard = UserError("`data.unique_tokens` = 5; ", NamedOption("unheard_of", "3"))
    assert told(unheard) == "`data.unique_tokens` = 5; `unheard_of` = 3"
    assert told(OptionError("tie_exponents", 3, "no")) == "--tie-exponents 3: no"
    assert told(OptionError("fillings", {"a": "b"}, "no")) == "--fillings a=b: no"
    assert told(OptionError("prefixes", (0, 8), "no")) == "--prefixes 0,8: no"


def test_a_field_has_the_flag_that_the_command_gives_it():
    """Whatever a command before calls a field of this name."""

    @dataclass(frozen=True, kw_only=True)
    class Other:
        law: str = option("one", flag="--rule")

    error = DataError("give ", NamedOption("law"), " or ", NamedOption("shuffle"))
    assert told(error) == "give `--law` or `--shuffle`"
    assert told(error, Other) == "give `--rule` or `shuffle`"
    assert told(OptionError("law", "x", "no"), Other) == "--rule x: no"
    assert told(error) == "give `--law` or `--shuffle`"


def test_words_in_backticks_that_are_no_options_stay():
    for words in ("no column `law`", "no column `lw`. Did you mean `law`?", "`law` = 5,000"):
        assert told(DataError(words)) == words
