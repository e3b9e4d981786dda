"""The page: what was collected, put into the template and written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

import epochal
from epochal import files
from epochal.errors import RunError
from epochal.recipe import FAMILY_TITLES
from epochal.report.collect import Run, read_runs
from epochal.report.figures import comparable, epochs_figure, flops_figure, show_losses
from epochal.report.text import count, duration, listed, power_of_ten, printable
from epochal.report.verdicts import Group, group_runs
from epochal.units import format_count

Pairs = list[tuple[str, str]]
LISTED_FILES = 20
"""Source files of a corpus that are named on the page."""
_STATUS = {
    "running": "is still running, or was killed: what follows is the state at its last line",
    "stopped": "was ended early; the same `epochal train` goes on with it",
    "diverged": "diverged: its loss stopped being finite",
}


@dataclass(frozen=True, slots=True)
class Report:
    """A page that was written."""

    path: Path
    runs: list[str]
    verdicts: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"report": str(self.path), "runs": self.runs, "verdicts": self.verdicts}


def write_report(places: Sequence[str | Path], out: str | Path = "report.html") -> Report:
    """Write the page about the runs in `places` (run folders, or folders that hold runs).

    Raises RunError for a place without runs or a damaged record, StorageError if `out` cannot
    be written.
    """
    runs = read_runs(places)
    groups = group_runs(runs)
    target = Path(out)
    if target.is_dir():
        raise RunError(
            f"{target} is a folder; name the page to write, such as {target}/report.html"
        )
    files.write_text(target, _render(runs, groups))
    return Report(target, [run.label for run in runs], [group.sentence for group in groups])


def _render(runs: list[Run], groups: list[Group]) -> str:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = printable
    drawn = any(run.curve is not None for run in runs)
    return environment.get_template("page.html.j2").render(
        title=_title(runs, groups),
        groups=groups,
        rows=[_row(run) for run in runs],
        warnings=[warning for group in groups for warning in _warnings(group)],
        epochs=epochs_figure(groups) if drawn else None,
        flops=flops_figure(groups) if drawn else None,
        losses=show_losses(runs),
        frontier=comparable(groups),
        families=[family for family in FAMILY_TITLES if any(r.family == family for r in runs)],
        titles=FAMILY_TITLES,
        written=[(run.label, run.family, _texts(run)) for run in runs if run.samples],
        differences=_differences(runs),
        labels=[run.label for run in runs],
        recipes=[(run.label, _recipe_text(run)) for run in runs],
        corpora=[_corpus(group) for group in groups],
        machines=[(run.label, _machine(run)) for run in runs],
        version=epochal.__version__,
    )


def _title(runs: list[Run], groups: list[Group]) -> str:
    tokens = listed([format_count(group.unique_tokens) for group in groups])
    return f"{count(len(runs), 'run')} on {tokens} unique tokens"


def _row(run: Run) -> dict[str, str]:
    """One line of the table; what is not known is a dash."""
    result, best, curve = run.result, run.best, run.curve
    nll = "–" if run.nll is None else f"{run.nll:.3f}"
    if result is not None:
        nll += f" ± {result.standard_error:.3f}"
    elif run.nll is not None:
        nll += " (in training)"
    per_byte = result.bits_per_byte if result is not None else None
    return {
        "label": run.label,
        "family": run.family,
        "params": format_count(run.params),
        "flops": power_of_ten(run.flops),
        "epochs": f"{run.epochs:.1f}",
        "nll": nll,
        "bits": "–" if per_byte is None else f"{per_byte:.3f}",
        "best": "–" if best is None else f"{best[0]:.1f}",
        "rise": "–" if curve is None else f"{curve.rise:.3f}",
        "status": run.status,
    }


def _warnings(group: Group) -> list[str]:
    found = [f"{r.label} {_STATUS[r.status]}." for r in group.runs if r.status in _STATUS]
    for run in group.runs:
        again = f"run `epochal eval {run.record.path}`"
        if run.outdated:
            found.append(f"{run.label} has a better checkpoint than the evaluated one; {again}.")
        elif run.result is None:
            found.append(f"{run.label} has not been evaluated: no error is known; {again}.")
    if group.left_out:
        names = listed([run.label for run in group.left_out])
        found.append(f"The verdict does not speak of {names}.")
    return found


def _texts(run: Run) -> list[tuple[str, str]]:
    """(prompt, what the model wrote after it) of each sample."""
    return [
        (sample["prompt"], sample["text"].removeprefix(sample["prompt"])) for sample in run.samples
    ]


def _differences(runs: list[Run]) -> list[tuple[str, list[str]]]:
    """Recipe keys that are not the same in all runs, with each run's value."""
    flat = [dict(_flatten(run.recipe)) for run in runs]
    keys = sorted({key for one in flat for key in one} - {"run_dir"})
    rows = [(key, [one.get(key, "–") for one in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Pairs:
    pairs: Pairs = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            pairs += _flatten(value, f"{prefix}{name}.")
        else:
            pairs.append((prefix + name, f"{value:,}" if type(value) is int else str(value)))
    return pairs


def _recipe_text(run: Run) -> str:
    return run.record.folder.recipe_file.read_text(encoding="utf-8", errors="replace").strip()


def _corpus(group: Group) -> list[tuple[str, Pairs, list[str]]]:
    """(role, facts, source files) of the training and of the validation store."""
    found = []
    for role, facts in group.runs[0].record.info["corpus"].items():
        passport = facts.get("passport")
        pairs = _flatten({key: value for key, value in facts.items() if key != "passport"})
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
    return _flatten(tree)


def _machine(run: Run) -> str:
    info = run.record.info
    parts = [f"{name} {value}" for name, value in info.get("software", {}).items()]
    machine = info.get("machine", {})
    parts += [str(machine[key]) for key in ("device", "precision") if key in machine]
    if "compiled" in machine:
        parts.append("compiled" if machine["compiled"] else "not compiled")
    if "seconds" in info:
        parts.append(f"trained in {duration(float(info['seconds']))}")
    return ", ".join(parts) or "not recorded"
