"""docs/json.md describes what the commands print: the registry of docs/generate.py against them."""

from __future__ import annotations

import dataclasses
import json
import re
import runpy
import shutil
import types
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import click
import numpy as np
import pytest

from epochal.cli.main import cli, main
from epochal.report.text import texts
from epochal.results import NoteCode
from tiny_runs import as_words, overrides

PAGE = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "generate.py"))
RESULTS, SENTENCES = PAGE["RESULTS"], PAGE["SENTENCES"]


def leaves(command, prefix=""):
    """(name, command) of everything that can be called."""
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            child = command.get_command(click.Context(command), name)
            yield from leaves(child, f"{prefix} {name}".strip())
    else:
        yield prefix, command


def test_every_command_with_json_is_described():
    with_json = {
        name for name, command in leaves(cli) if "as_json" in {p.name for p in command.params}
    }
    described = {re.sub(r" --.*", "", name) for name in [*RESULTS, *SENTENCES]}
    assert described == with_json


def assert_fits(value, hint, place):
    """`value`, read from JSON, is what `results.to_json` makes of a value of type `hint`."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        assert_fits(value, inner[0], place)
    elif origin in (types.UnionType, typing.Union):
        assert_fits_one(value, inner, place)
    elif dataclasses.is_dataclass(hint):
        assert isinstance(value, dict), f"{place}: {value!r} is not a {hint.__name__}"
        keys = PAGE["keys"](hint)
        assert set(value) == set(keys), place
        for key, (kind, _) in keys.items():
            assert_fits(value[key], kind, f"{place}.{key}")
    elif origin is typing.Literal:
        assert value in inner, place
    elif hint is NoteCode:
        assert value in texts(), place
    elif isinstance(hint, type) and issubclass(hint, Enum):
        assert value in [member.value for member in hint], place
    elif isinstance(origin, type) and issubclass(origin, Mapping):
        assert isinstance(value, dict), place
        for key, one in value.items():
            assert_fits(one, inner[1], f"{place}.{key}")
    elif origin is np.ndarray:
        assert isinstance(value, list), place
    elif origin is not None:
        assert isinstance(value, list), place
        kinds = [inner[0]] * len(value) if origin is not tuple or inner[-1] is ... else inner
        for number, (one, kind) in enumerate(zip(value, kinds, strict=True)):
            assert_fits(one, kind, f"{place}[{number}]")
    elif hint is type(None):
        assert value is None, f"{place}: {value!r} is not null"
    elif hint in (int, float, str, bool, Path):
        wanted = {float: int | float | None, int: int, Path: str}.get(hint, hint)
        assert isinstance(value, wanted), f"{place}: {value!r} is not {hint.__name__}"
        assert hint is bool or not isinstance(value, bool), f"{place}: {value!r}"


def assert_fits_one(value, hints, place):
    problems = []
    for hint in hints:
        try:
            assert_fits(value, hint, place)
        except AssertionError as problem:
            problems.append(str(problem))
        else:
            return
    raise AssertionError("; ".join(problems))


@pytest.mark.parametrize(
    ("value", "hint"),
    [(1, str), ("a", int | None), (["a"], list[int]), ({"a": 1}, dict[str, str]), (True, int)],
)
def test_the_check_can_fail(value, hint):
    with pytest.raises(AssertionError):
        assert_fits(value, hint, "x")


@pytest.fixture
def check(capsys):
    """Run `epochal WORDS --json` and hold what it prints against the registry's type."""

    def run(name, *words):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, words), "--json"])
        out, err = capsys.readouterr()
        assert ended.value.code == 0, err
        value = json.loads(out)
        assert_fits(value, PAGE["result_type"](name), name)
        return value

    return run


def test_commands_that_read_runs(check, tiny_pair, tmp_path):
    pair = shutil.copytree(tiny_pair, tmp_path / "pair")
    ar, mdm = pair / "ar", pair / "mdm"
    check("eval", "eval", mdm, "--draws", 2)
    check("eval --breakdown", "eval", ar, "--breakdown")
    check("eval --against", "eval", ar, "--against", mdm, "--draws", 2)
    check("eval --ensemble", "eval", ar, ar, "--ensemble")
    check("compare", "compare", ar, mdm)
    check("runs", "runs", pair)
    check("report", "report", ar, "--out", tmp_path / "r.html")
    small = ("--prefix-lengths", 8, "--length", 8, "--max-tokens", "0.2k")
    check("memorise", "memorise", ar, "--out", tmp_path, *small)
    check("generate", "generate", ar, "--prompt", "The", "--tokens", 4)
    words = ("--judge", ar, "--samples", 2, "--tokens", 8, "--steps", 2)
    check("quality", "quality", mdm, *words)
    check("average", "average", ar, "--out", tmp_path / "mean")


def test_import_and_export(check, tiny_pair, tmp_path):
    run = tiny_pair / "ar"
    check("export hf", "export", "hf", run, "--out", tmp_path / "hf")
    single = tmp_path / "x.safetensors"
    check("export safetensors", "export", "safetensors", run, "--out", single)
    check("export records", "export", "records", tiny_pair, "--out", tmp_path / "records.zip")
    check("import hf", "import", "hf", tmp_path / "hf", "--out", tmp_path / "back")
    original = Path(__file__).parents[1] / "data_files" / "megatron_ar"
    words = (original, "--out", tmp_path / "theirs", "--family", "ar", "--vocabulary", 500)
    check("import megatron", "import", "megatron", *words)


def test_training(check, tiny_corpus, tmp_path):
    words = as_words(overrides(tiny_corpus, tmp_path / "run") | {"train.steps": 2})
    check("train --dry-run", "train", "quickstart", *words, "--dry-run")
    check("train", "train", "quickstart", *words)


def test_data(check, tmp_path):
    source = tmp_path / "text.jsonl"
    source.write_text("".join(json.dumps({"text": f"document {n}"}) + "\n" for n in range(40)))
    corpus, cut = tmp_path / "c", tmp_path / "cut"
    check("data prepare", "data", "prepare", source, "--out", corpus, "--tokenizer", "bytes")
    check("data subset", "data", "subset", corpus, cut, "--unique-tokens", 50)
    check("data inspect", "data", "inspect", corpus)
    check("data duplicates", "data", "duplicates", corpus)
    check("data report", "data", "report", corpus, "--out", tmp_path / "corpus.html")
    check("data verify", "data", "verify", corpus)
    check("data names", "data", "names")
    check("data canaries", "data", "canaries", "--out", tmp_path / "k")


def test_laws_plans_and_sizes(check, tmp_path):
    paper = ("--flops", "1e20", "--laws", "paper")
    check("plan", "plan", "--unique-tokens", "100M", *paper)
    check("plan --reverse", "plan", "--reverse", *paper)
    check("sweep --dry-run", "sweep", "paper/isoflop", "--dry-run")
    check("sizes", "sizes")
    lines = ["family,params,tokens,unique_tokens,val_loss"]
    for n in (1e6, 3e6, 1e7, 3e7):
        for d in (1e8, 3e8, 1e9):
            loss = 1.7 + 400 / n**0.34 + 410 / d**0.28
            lines.append(f"ar,{n:.0f},{d:.0f},{d:.0f},{loss:.6f}")
    points = tmp_path / "points.csv"
    points.write_text("\n".join(lines))
    check("fit", "fit", points, "--law", "chinchilla", "--bootstraps", 2)
