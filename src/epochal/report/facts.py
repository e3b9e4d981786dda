"""Settings, corpus and machine of the runs, as pairs of names and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from epochal.report.collect import Run
from epochal.report.text.format import duration, listed, power_of_ten
from epochal.report.verdicts import Group
from epochal.units import format_count

Pairs = list[tuple[str, str]]
LISTED_FILES = 20
"""Source files of a corpus that are named on the page."""


def differences(runs: list[Run]) -> list[tuple[str, list[str]]]:
    """Recipe keys that are not the same in all runs, with each run's value."""
    flat = [dict(flatten(run.recipe)) for run in runs]
    keys = sorted({key for one in flat for key in one} - {"run_dir"})
    rows = [(key, [one.get(key, "–") for one in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def flatten(tree: Mapping[str, Any], prefix: str = "", digits: int = 10) -> Pairs:
    """Nested values as dotted names and texts, fractions with so many digits."""
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
        plain = f"{value:.{digits}g}"
        short = power_of_ten(value)
        return short if abs(value) >= 1e6 and float(f"{value:.2e}") == value else plain
    return f"{value:,}" if type(value) is int else str(value)


def recipe_text(run: Run) -> str:
    """The run's recipe.toml as it is."""
    return run.record.folder.recipe_file.read_text(encoding="utf-8", errors="replace").strip()


def passport_lines(groups: list[Group]) -> list[list[str]]:
    """Per store: what it is, in the few figures that matter."""
    lines = []
    for group in groups:
        for role, facts in group.runs[0].record.info["corpus"].items():
            passport = facts.get("passport") or {}
            tokens = int(facts.get("unique_tokens") or passport.get("unique_tokens") or 0)
            bytes_of_text = passport.get("text_bytes")
            tokenizer = passport.get("tokenizer") or {}
            twice = passport.get("duplicates") or {}
            lines.append(
                [
                    str(role),
                    format_count(tokens) if tokens else "–",
                    f"{int(facts.get('documents') or 0):,}" if facts.get("documents") else "–",
                    f"{bytes_of_text / tokens:.2f}" if bytes_of_text and tokens else "–",
                    f"{tokenizer['name']} ({tokenizer['vocabulary']:,})" if tokenizer else "–",
                    f"{twice['share_of_tokens']:.1%}" if twice else "–",
                ]
            )
    return [line for number, line in enumerate(lines) if line not in lines[:number]]


def corpus(group: Group) -> list[tuple[str, Pairs, list[str]]]:
    """(role, facts, source files) of the training and of the validation store."""
    found = []
    for role, facts in group.runs[0].record.info["corpus"].items():
        passport = facts.get("passport")
        pairs = flatten({key: value for key, value in facts.items() if key != "passport"})
        names: list[str] = []
        if passport is None:
            pairs.append(("passport", "none: the store came without one"))
        else:
            listed_files = passport.get("sources", {}).get("listed", [])
            names = [str(file.get("name")) for file in listed_files[:LISTED_FILES]]
            pairs += _passport_facts(passport)
        found.append((str(role), pairs, names))
    return found


def _passport_facts(passport: Mapping[str, Any]) -> Pairs:
    """The passport's own facts; those of the store stand before them."""
    hidden = {"preparation", "format", "version", "content_sha256", "unique_tokens", "documents"}
    tree = {
        key: value for key, value in passport.items() if key not in hidden and value is not None
    }
    sources = tree.get("sources")
    if isinstance(sources, Mapping):
        tree["sources"] = {key: value for key, value in sources.items() if key != "listed"}
    return flatten(tree, digits=4)


def machines(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """(runs, software and machine): a line for all runs that were made alike."""
    alike: dict[str, list[Run]] = {}
    for run in runs:
        alike.setdefault(_machine(run), []).append(run)
    return [
        (listed([run.label for run in some], 4), text + _time(some)) for text, some in alike.items()
    ]


def _machine(run: Run) -> str:
    info = run.record.info
    parts = [f"{name} {value}" for name, value in info.get("software", {}).items()]
    kept = info.get("machine", {})
    parts += [str(kept[key]) for key in ("device", "precision") if key in kept]
    if "compiled" in kept:
        parts.append("compiled" if kept["compiled"] else "not compiled")
    return ", ".join(parts) or "not recorded"


def _time(runs: Sequence[Run]) -> str:
    known = [float(run.record.info["seconds"]) for run in runs if "seconds" in run.record.info]
    together = " together" if len(known) > 1 else ""
    return f", trained in {duration(sum(known))}{together}" if known else ""
