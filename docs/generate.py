"""Write the pages that follow from code and records (`pages`).

The evidence that the wheel carries is made anew where `results/records` changed, or by
`python docs/generate.py evidence`.
"""

from __future__ import annotations

import builtins
import dataclasses
import importlib
import inspect
import re
import sys
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import numpy as np

import epochal
from epochal import files
from epochal.cli.main import cli
from epochal.options import field_docs
from epochal.recipe import annotated_toml
from epochal.report.drawing import save
from epochal.report.evidence import SHIPPED, Evidence, shipped_evidence
from epochal.report.evidence_figures import evidence_plots
from epochal.report.searches import find_evidence
from epochal.report.text import texts
from epochal.report.text.evidence import markdown
from epochal.results import Note, to_json
from epochal.runs.pack import SUFFIX, unpacked

HERE = Path(__file__).parent
RECORDS, FIGURES = HERE / "results/records", HERE / "results/figures"
_BEGIN, _END = "<!-- from the records -->", "<!-- end of the records -->"

RESULTS: dict[str, str] = {
    # Command → type of what it prints with --json, or list[type]. To add one: let the command
    # call `print_json(result)` with a dataclass whose fields have their text below them, add a
    # line here, and run `make docs`. Dataclasses in its fields are followed.
    # tests/cli/test_json.py runs the cheap commands and compares what they print.
    "compare": "epochal.comparison.compare.Comparison",
    "quickstart": "epochal.studies.quickstart.Quickstart",
    "runs": "list[epochal.runs.summary.RunSummary]",
    "doctor": "epochal.diagnosis.Doctor",
    "data names": "list[epochal.data.paper_sets.PaperSet]",
    "generate": "list[str]",
    "quality": "epochal.evaluation.quality.Quality",
    "memorise": "epochal.memorisation.results.Memorisation",
    "downstream": "list[epochal.downstream_tasks.results.TaskResult]",
    "sweep": "epochal.sweeps.sweep.SweepResult",
    "sweep --dry-run": "epochal.sweeps.listing.Listing",
    "tune": "epochal.sweeps.tuned.TuneResult",
    "submit": "epochal.sweeps.submit.Submission",
    "report": "epochal.report.page.Report",
    "import megatron": "epochal.interop.imports.ImportedRun",
    "import hf": "epochal.interop.imports.ImportedRun",
    "export hf": "epochal.interop.exports.ExportedFolder",
    "export safetensors": "epochal.interop.exports.ExportedFile",
    "export records": "epochal.runs.pack.PackedRuns",
    "fit": "epochal.scaling.fit.FitReport",
    "plan": "epochal.scaling.planner.PlanReport",
    "plan --reverse": "epochal.scaling.planner.CriticalDataReport",
    "study": "epochal.report.study.StudyResult",
    "train": "epochal.cli.train.Trained",
    "distill": "epochal.cli.train.Trained",
    "train --dry-run": "epochal.training.dry_run.DryRun",
    "eval": "epochal.runs.result.NLLResult",
    "eval --breakdown": "epochal.evaluation.evaluate.NLLResultInParts",
    "eval --against": "epochal.evaluation.gap.GapResult",
    "eval --ensemble": "epochal.evaluation.ensemble.EnsembleResult",
    "average": "epochal.cli.average.Averaged",
    "audit": "epochal.comparison.audit.Audit",
    "sizes": "list[epochal.sizes.LadderSize]",
    "data prepare": "epochal.data.inspection.CorpusSummary",
    "data tokenizers": "epochal.data.vocabularies.VocabularyComparison",
    "data subset": "epochal.data.inspection.SubsetSummary",
    "data inspect": "epochal.data.inspection.Description",
    "data verify": "list[epochal.data.inspection.Finding]",
    "data duplicates": "epochal.data.duplicates.DuplicateReport",
    "data report": "epochal.report.corpus.CorpusPage",
    "data download": "epochal.data.download.Downloaded",
    "data canaries": "epochal.data.canaries.CanaryFiles",
}
SENTENCES: dict[str, str] = {
    "recipe": "The recipe as a tree of its keys, all of which [recipe.toml](recipe.toml) lists. "
    "Without RECIPE and KEY=VALUE, key → what it means.",
}
"""Commands that print what a table of fields cannot show."""

_HEAD = """\
# What `--json` prints

Written by `make docs` from the types of the results.

A command with `--json` prints one JSON value to standard output, in one piece at the end; notes and
progress go to standard error. If the command fails, standard output stays empty and the exit code
is not 0. Unknown values, and numbers that are not finite, are `null`. NLL is in nats per token,
errors are one standard error, times are in seconds, sizes in bytes, and shares run from 0 to 1.
Later versions may add keys. Python functions return the same types, with the keys as attributes.
"""


def pages() -> dict[str, str]:
    """File name → content."""
    return {
        "recipe.toml": "# All recipe keys with their defaults. Written by `make docs`.\n\n"
        + annotated_toml(),
        "cli.md": "# Commands\n\nWritten by `make docs` from `--help`.\n\n" + "\n".join(_help()),
        "json.md": "\n".join([_HEAD, *_json()]).rstrip() + "\n",
        "api.md": "\n".join(_api()),
        "results/README.md": _results(),
    }


def _api() -> Iterator[str]:
    """The public names, for mkdocstrings to fill in."""
    yield "# Python API\n\nMade from the docstrings. [Python](python.md) shows the names at work.\n"
    options = {"GenerationConfig", "Resources"}
    functions = {name for name in epochal.__all__ if name[0].islower()}
    options |= {name for name in epochal.__all__ if name.endswith("Options")}
    kinds = {
        "Functions": functions,
        "Options": options,
        "Results": set(epochal.__all__) - functions - options,
    }
    for heading, names in kinds.items():
        yield f"## {heading}\n"
        yield from (f"::: epochal.{name}\n" for name in sorted(names))


def _results() -> str:
    """The page of results, its part between the two marks made from the evidence."""
    head, begin, rest = (HERE / "results/README.md").read_text("utf-8").partition(_BEGIN)
    _, end, tail = rest.partition(_END)
    evidence = shipped_evidence()
    figures = [(plot.label, f"figures/{plot.name}.svg") for plot in evidence_plots(evidence)]
    return f"{head}{begin}\n\n{markdown(evidence, figures)}\n{end}{tail}"


def record_sums() -> dict[str, str]:
    """Name of each archive of records → its SHA-256."""
    return {path.name: files.sha256(path) for path in sorted(RECORDS.glob(f"*{SUFFIX}"))}


def make_evidence() -> Evidence:
    """What the records show; takes seconds per search."""
    if not record_sums():
        return Evidence(texts=[])
    with unpacked([RECORDS]) as folders:
        return dataclasses.replace(find_evidence(folders)[0], records=record_sums())


def write_evidence() -> None:
    """Write the evidence and its figures."""
    evidence = make_evidence()
    files.write_json(SHIPPED, to_json(evidence))
    for old in FIGURES.glob("*"):
        old.unlink()
    save(evidence_plots(evidence), FIGURES, ("svg",))


def _help(
    command: click.Command = cli, name: str = "epochal", parent: click.Context | None = None
) -> Iterator[str]:
    settings = {**command.context_settings, "max_content_width": 90, "terminal_width": 90}
    context = click.Context(command, info_name=name.split()[-1], parent=parent, **settings)
    yield f"## {name}\n\n```\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from _help(found, f"{name} {child}", context)


def result_type(command: str) -> Any:
    """The type that RESULTS names for a command."""
    match = re.fullmatch(r"(list\[)?(?:([\w.]+)\.)?(\w+)\]?", RESULTS[command])
    assert match, RESULTS[command]
    kind: Any = getattr(importlib.import_module(match[2]) if match[2] else builtins, match[3])
    return list[kind] if match[1] else kind


def keys(kind: type[Any]) -> dict[str, tuple[Any, str]]:
    """JSON key → (type, text) of a dataclass, by the rules of `results.to_json`."""
    hints, docs = typing.get_type_hints(kind), field_docs(kind)
    table = {}
    for field in dataclasses.fields(kind):
        shown = field.metadata.get("json", True)
        if shown is not False:
            key = field.name if shown is True else shown
            hint, choices = hints[field.name], field.metadata.get("choices")
            if choices and hint is str:
                hint = Literal[tuple(choices())]
            table[key] = hint, docs.get(field.name, "")
    return table


def _json() -> Iterator[str]:
    """Sections of the commands, then of the types inside, then of the reason codes."""
    tables: dict[type[Any], str] = {}  # dataclass → the heading it stands under
    for command in RESULTS:
        for kind in _dataclasses(result_type(command)):
            tables.setdefault(kind, command)
    top = set(tables)
    for kind in list(tables):
        for inner in _reachable(kind):
            tables.setdefault(inner, _free_heading(inner, tables.values()))
    for command in RESULTS:
        kind = result_type(command)
        yield f"## {command}\n"
        at_top = [one for one in _dataclasses(kind) if tables[one] == command]
        if not at_top:
            yield f"{_sentence(_name(kind, tables))}.\n"
        for one in at_top:
            if get_origin(kind) is list:
                yield "A list; of each:\n"
            yield from _table(one, tables)
    for command, text in SENTENCES.items():
        yield f"## {command}\n\n{text}\n"
    yield "# Types\n"
    for kind, heading in sorted(tables.items(), key=lambda item: item[1].lower()):
        if kind not in top:
            yield f"## {heading}\n"
            yield from _table(kind, tables)
    yield from _reasons()


def _free_heading(kind: type[Any], taken: Collection[str]) -> str:
    """The type's name; with its module if something else has that name already."""
    if _anchor(kind.__name__) in map(_anchor, taken):
        return f"{kind.__module__.removeprefix('epochal.')}.{kind.__name__}"
    return kind.__name__


def _reachable(kind: type[Any], seen: set[type[Any]] | None = None) -> Iterator[type[Any]]:
    """All dataclasses in the fields of `kind`, and in theirs."""
    seen = set() if seen is None else seen
    for hint, _ in keys(kind).values():
        for inner in _dataclasses(hint):
            if inner not in seen:
                seen.add(inner)
                yield inner
                yield from _reachable(inner, seen)


def _dataclasses(hint: Any) -> Iterator[type[Any]]:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and hint is not Note:
        yield hint
    for part in get_args(hint):
        yield from _dataclasses(part)


def _table(kind: type[Any], tables: Mapping[type[Any], str]) -> Iterator[str]:
    summary = inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0]
    yield f"{' '.join(summary.split())}\n"
    rows = [
        f"| `{key}` | {_name(hint, tables)} | {_cell(text)} |"
        for key, (hint, text) in keys(kind).items()
    ]
    yield "\n".join(["| key | value | meaning |", "| --- | --- | --- |", *rows, ""])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


_PLAIN = {
    bool: "true or false",
    int: "integer",
    float: "number",
    str: "string",
    Path: "path",
    Any: "any",
    type(None): "null",
    object: "any",
    Note: "[note](#notes)",
}


def _name(hint: Any, tables: Mapping[type[Any], str]) -> str:
    """A type in words, with links to the tables of dataclasses."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return _name(inner[0], tables)
    if isinstance(hint, typing.TypeVar):
        return "any"
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(_name(part, tables) for part in inner))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin is np.ndarray or (isinstance(hint, type) and issubclass(hint, np.ndarray)):
        return "list of numbers"
    if isinstance(hint, type) and hint in tables:
        return f"[{hint.__name__}](#{_anchor(tables[hint])})"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return ", ".join(f"`{member.value}`" for member in hint)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"object: {_name(inner[0], tables)} → {_name(inner[1], tables)}"
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"[{', '.join(_name(part, tables) for part in inner)}]"
    if isinstance(origin, type) and issubclass(origin, Sequence | Collection):
        return f"list of {_plural(_name(inner[0], tables))}"
    if isinstance(hint, type):
        return {"dict": "object", "Mapping": "object"}.get(hint.__name__, hint.__name__)
    raise TypeError(f"docs/generate.py has no words for the type {hint}")


def _plural(name: str) -> str:
    return name + "s" if name in ("integer", "number", "string", "path", "object") else name


def _anchor(heading: str) -> str:
    """The fragment that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _reasons() -> Iterator[str]:
    """The reason codes, by room."""
    yield "# Notes\n"
    yield (
        "A note is an object with `code`, one of these reason codes, and `values`, the numbers "
        "and names that its text uses.\n"
    )
    rooms: dict[type[Any], list[str]] = {}
    for code, text in texts().items():
        meaning = text if isinstance(text, str) else _sentence_of(text)
        rooms.setdefault(type(code), []).append(f"| `{code.value}` | {_cell(meaning)} |")
    for kind, rows in rooms.items():
        yield f"## {kind.__name__}\n"
        yield "\n".join(["| code | text |", "| --- | --- |", *rows, ""])


def _sentence_of(function: Any) -> str:
    """What is said of a text that depends on its values: its function's docstring, if any."""
    summary = (inspect.getdoc(function) or "").partition("\n\n")[0]
    return " ".join(summary.split()) or "*(its words depend on the values)*"


if __name__ == "__main__":
    if sys.argv[1:] == ["evidence"] or record_sums() != shipped_evidence().records:
        write_evidence()
    for file, content in pages().items():
        (HERE / file).write_text(content, encoding="utf-8")
        print(HERE / file, file=sys.stderr)
