"""Settings, corpus and machine of the runs, as names and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from epochal.families import get_family
from epochal.report.collect import Group, Run
from epochal.report.text.comparison import Table, family_tables, missing_values
from epochal.report.text.format import duration, listed, power_of_ten
from epochal.units import format_count

Pairs = list[tuple[str, str]]
_LISTED_FILES = 20
"""Source files of a corpus that are named on the page."""


def compared(groups: Sequence[Group]) -> list[tuple[str, list[Table], list[str]]]:
    """(runs, tables of families, why values are missing) of each group with a comparison."""
    return [
        (listed([run.label for run in group.runs], 3), family_tables(found), missing_values(found))
        for group in groups
        if (found := group.comparison) is not None
    ]


def differences(runs: list[Run]) -> list[tuple[str, list[str]]]:
    """Recipe keys that are not the same in all runs, with each run's value."""
    flat = [dict(flatten(run.recipe)) for run in runs]
    keys = sorted({key for settings in flat for key in settings} - {"run_dir"})
    rows = [(key, [settings.get(key, "–") for settings in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def flatten(tree: Mapping[str, Any], prefix: str = "", digits: int = 10) -> Pairs:
    """Nested values as dotted names and texts, fractions with `digits` digits."""
    pairs: Pairs = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            pairs += flatten(value, f"{prefix}{name}.", digits)
        else:
            pairs.append((prefix + name, _value(value, digits)))
    return pairs


def _value(value: object, digits: int) -> str:
    """A setting as text: 0.003, 10 for 10.0, 2.5×10¹⁰ for 25000000000.0."""
    if type(value) is float:
        short = abs(value) >= 1e6 and float(f"{value:.2e}") == value
        return power_of_ten(value) if short else f"{value:.{digits}g}"
    return f"{value:,}" if type(value) is int else str(value)


def store_rows(groups: Sequence[Group]) -> list[list[str]]:
    """Per token store its role and main figures."""
    rows: dict[tuple[str, ...], None] = {}
    for group in groups:
        for role, facts in group.runs[0].record.info["corpus"].items():
            metadata = facts.get("metadata") or {}
            tokens = int(facts.get("unique_tokens") or metadata.get("unique_tokens") or 0)
            text_bytes, tokenizer = metadata.get("text_bytes"), metadata.get("tokenizer")
            duplicates = metadata.get("duplicates")
            row = (
                str(role),
                format_count(tokens) if tokens else "–",
                f"{int(facts['documents']):,}" if facts.get("documents") else "–",
                f"{text_bytes / tokens:.2f}" if text_bytes and tokens else "–",
                f"{tokenizer['name']} ({tokenizer['vocabulary']:,})" if tokenizer else "–",
                f"{duplicates['share_of_tokens']:.1%}" if duplicates else "–",
            )
            rows.setdefault(row)
    return [list(row) for row in rows]


def corpus(group: Group) -> list[tuple[str, Pairs, list[str]]]:
    """(role, facts, source files) of the training and of the validation store."""
    stores = []
    for role, facts in group.runs[0].record.info["corpus"].items():
        metadata = facts.get("metadata")
        pairs = flatten({key: value for key, value in facts.items() if key != "metadata"})
        names: list[str] = []
        if metadata is None:
            pairs.append(("metadata", "none: the store came without any"))
        else:
            sources = metadata.get("sources", {}).get("listed", [])
            names = [str(file.get("name")) for file in sources[:_LISTED_FILES]]
            pairs += _metadata(metadata)
        stores.append((str(role), pairs, names))
    return stores


def _metadata(metadata: Mapping[str, Any]) -> Pairs:
    """The store's metadata without the facts that stand before it and lists of files."""
    hidden = {"preparation", "format", "version", "content_sha256", "unique_tokens", "documents"}
    tree = {k: value for k, value in metadata.items() if k not in hidden and value is not None}
    sources = tree.get("sources")
    if isinstance(sources, Mapping):
        tree["sources"] = {key: value for key, value in sources.items() if key != "listed"}
    return flatten(tree, digits=4)


def machines(runs: Sequence[Run]) -> Pairs:
    """(runs, software and machine): one line for all runs made in the same way."""
    together: dict[str, list[Run]] = {}
    for run in runs:
        together.setdefault(_machine(run), []).append(run)
    return [
        (listed([run.label for run in members], 4), machine + _time(members))
        for machine, members in together.items()
    ]


def _machine(run: Run) -> str:
    info = run.record.info
    parts = [f"{name} {value}" for name, value in info.get("software", {}).items()]
    machine = info.get("machine", {})
    parts += [str(machine[key]) for key in ("device", "precision") if key in machine]
    if "compiled" in machine:
        parts.append("compiled" if machine["compiled"] else "not compiled")
    return ", ".join(parts) or "not recorded"


def _time(runs: Sequence[Run]) -> str:
    seconds = [float(run.record.info["seconds"]) for run in runs if "seconds" in run.record.info]
    together = " together" if len(seconds) > 1 else ""
    return f", trained in {duration(sum(seconds))}{together}" if seconds else ""


def task_rows(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """(task, run, family, mode, metric, value ± error, chance, the paper's) of each result."""
    rows = []
    for run in runs:
        for result in run.record.downstream():
            chance, paper = result.get("chance"), result.get("paper") or {}
            mode = f"{result['mode']}, {result['checkpoint']}"
            for metric, measured in result["metrics"].items():
                value, error = f"{100 * measured['value']:.1f}", measured.get("standard_error")
                rows.append(
                    (
                        result["task"],
                        run.label,
                        get_family(run.family).short,
                        mode,
                        metric,
                        value if error is None else f"{value} ± {100 * error:.1f}",
                        "–" if chance is None else f"{100 * chance:.0f}",
                        ", ".join(f"{100 * share:.1f} ({n})" for n, share in paper.items()) or "–",
                    )
                )
    return sorted(rows)
