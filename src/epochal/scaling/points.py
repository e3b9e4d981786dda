"""Points to fit a law to: (N, D, U, loss) of finished runs, from a CSV or given as arrays."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epochal.errors import DataError, UserError, nearest
from epochal.estimates import Floats
from epochal.families import family_names
from epochal.units import format_count, parse_number

COLUMNS = ("params", "tokens", "unique_tokens", "val_loss")
OPTIONAL = ("family", "seed", "run", "setting")
_FAMILY_WORDS = {
    "ar": "ar",
    "autoregressive": "ar",
    "mdm": "mdm",
    "diffusion": "mdm",
    "masked_diffusion": "mdm",
    "masked diffusion": "mdm",
}
UNKNOWN_N = "as the points were given; whether embeddings are counted is not known"
PAPER_N = "the paper's N = 4ld² + 3ldh + 6ld + Vd, embeddings included"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A point that is not in the fit, and why."""

    run: str
    family: str
    params: float
    tokens: float
    unique_tokens: float
    loss: float | None
    """None where there was none."""
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Ends of training runs, one per element; arrays and lists of one length."""

    params: Floats
    """N."""
    tokens: Floats
    """D, tokens trained on."""
    unique_tokens: Floats
    """U."""
    loss: Floats
    """Validation loss, nats per token."""
    family: list[str]
    """ar or mdm."""
    run: list[str]
    """Name of the run; points of one name are resampled together."""
    seed: list[str]
    n_convention: str = UNKNOWN_N
    """How N counts parameters."""
    dropped: list[Dropped] = field(default_factory=list)
    """What was left out already on reading."""
    notes: list[str] = field(default_factory=list)
    sequence_length: int | None = None
    """Of all the runs; None if it is not known, or not the same."""
    vocabulary: int | None = None
    """Of the tokenizer of all the runs; None if it is not known, or not the same."""
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Run → its recipe, as plain tables; empty for points that are not of run folders."""

    def __len__(self) -> int:
        return len(self.params)

    @property
    def epochs(self) -> Floats:
        """D / min(U, D)."""
        return self.tokens / np.minimum(self.tokens, self.unique_tokens)

    @property
    def flops(self) -> Floats:
        """C = 6·N·D."""
        return 6.0 * self.params * self.tokens

    def take(self, rows: NDArray[Any]) -> Points:
        """Some of the points, by a mask or by indices; nothing is said to be dropped."""
        index = np.arange(len(self))[rows]
        return Points(
            self.params[index],
            self.tokens[index],
            self.unique_tokens[index],
            self.loss[index],
            [self.family[i] for i in index],
            [self.run[i] for i in index],
            [self.seed[i] for i in index],
            self.n_convention,
            sequence_length=self.sequence_length,
            vocabulary=self.vocabulary,
            recipes=self.recipes,
        )

    def of_family(self, family: str) -> Points:
        """The points of one family."""
        return self.take(np.array([name == family for name in self.family], dtype=bool))

    def drop(self, index: int, reason: str) -> Dropped:
        """What is to be said of a point that is left out."""
        return Dropped(
            self.run[index],
            self.family[index],
            float(self.params[index]),
            float(self.tokens[index]),
            float(self.unique_tokens[index]),
            float(self.loss[index]),
            reason,
        )


def make_points(
    params: Any,
    tokens: Any,
    unique_tokens: Any = None,
    loss: Any = None,
    *,
    family: str | Sequence[str] = "ar",
    run: Sequence[str] | None = None,
    seed: Sequence[str] | None = None,
    n_convention: str = UNKNOWN_N,
) -> Points:
    """Points from arrays; without `unique_tokens` every run is one epoch.

    Raises DataError naming the row for a value that is not positive and finite.
    """
    arrays = [np.atleast_1d(np.asarray(a, dtype=float)) for a in (params, tokens)]
    arrays.append(arrays[1] if unique_tokens is None else np.asarray(unique_tokens, dtype=float))
    arrays.append(np.asarray(loss, dtype=float))
    n, d, u, seen = (np.broadcast_to(a, arrays[0].shape).astype(float) for a in arrays)
    for name, values in zip(COLUMNS, (n, d, u, seen), strict=True):
        bad = ~(np.isfinite(values) & (values > 0))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"row {row + 1}: {name} = {values[row]:g} is not a positive number; mend the row "
                "or take it out"
            )
    count = len(n)
    families = [family] * count if isinstance(family, str) else [str(f) for f in family]
    return Points(
        n,
        d,
        u,
        seen,
        families,
        [f"row {i + 1}" for i in range(count)] if run is None else [str(r) for r in run],
        [""] * count if seed is None else [str(s) for s in seed],
        n_convention,
    )


def read_csv(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
    all_settings: bool = False,
) -> Points:
    """The points of a CSV file with a header.

    Columns: params, tokens, val_loss; unique_tokens (missing: every row is one epoch), family
    (missing: ar), seed, run and setting. Of rows that have all numbers in common but the loss
    the best `setting` stays (settings.py), unless `all_settings`. `columns` maps these names to
    the file's own; `where` keeps only rows whose column has that text. Counts may be written
    like 100M. Raises DataError naming the row for what is not a positive number.
    """
    path = Path(path)
    renamed = {name: name for name in (*COLUMNS, *OPTIONAL)} | dict(columns or {})
    header, rows = _read(path)
    _check_header(path, header, renamed, where or {})
    rows = [(n, r) for n, r in rows if all(r.get(k) == v for k, v in (where or {}).items())]
    if not rows:
        raise DataError(f"{path} holds no rows" + (" that fit --where" if where else ""))
    values: dict[str, list[float]] = {name: [] for name in COLUMNS}
    texts: dict[str, list[str]] = {name: [] for name in OPTIONAL}
    single = renamed["unique_tokens"] not in header
    for number, row in rows:
        for name in COLUMNS:
            source = "tokens" if name == "unique_tokens" and single else name
            values[name].append(_number(path, number, renamed[source], row))
        texts["family"].append(_family(path, number, row.get(renamed["family"])))
        texts["seed"].append(row.get(renamed["seed"]) or "")
        texts["run"].append(row.get(renamed["run"]) or f"row {number}")
        texts["setting"].append(row.get(renamed["setting"]) or "none")
    notes = []
    if single:
        notes.append(f"{path.name} has no column unique_tokens: every row is taken as one epoch")
    if renamed["family"] not in header:
        notes.append(f"{path.name} has no column family: all rows are taken as AR")
    n, d, u, loss = (np.array(values[name]) for name in COLUMNS)
    points = Points(n, d, u, loss, texts["family"], texts["run"], texts["seed"], notes=notes)
    return points if all_settings else _best_settings(points, texts["setting"])


def _best_settings(points: Points, settings: Sequence[str]) -> Points:
    """The points of the best setting each, the others as dropped."""
    columns = (points.params, points.tokens, points.unique_tokens, points.loss)
    runs = [
        Candidate(family, n, d, u, loss, {"setting": setting})
        for family, n, d, u, loss, setting in zip(
            points.family, *(column.tolist() for column in columns), settings, strict=True
        )
    ]
    left_out = dominated_settings(runs)
    rest = points.take(np.array([i not in left_out for i in range(len(points))], dtype=bool))
    dropped = [points.drop(index, reason) for index, reason in sorted(left_out.items())]
    return replace(rest, notes=points.notes, dropped=dropped)


def _read(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The header, and (line number, values) of each row."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(line for line in file if not line.startswith("#"))
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            rows = [
                (number, {k: (v or "").strip() for k, v in row.items() if k is not None})
                for number, row in enumerate(reader, start=1)
            ]
    except FileNotFoundError:
        raise DataError(f"there is no file {path}; give a CSV of points or run folders") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {path} as a CSV file: {error}") from error
    return header, rows


def _check_header(
    path: Path, header: Sequence[str], renamed: Mapping[str, str], where: Mapping[str, str]
) -> None:
    if strange := [name for name in renamed if name not in (*COLUMNS, *OPTIONAL)]:
        raise DataError(
            f"--column {strange[0]}=…: there is no such name; columns are "
            f"{', '.join((*COLUMNS, *OPTIONAL))}"
        )
    for name in ("params", "tokens", "val_loss"):
        if renamed[name] not in header:
            hint = nearest(renamed[name], header)
            raise DataError(
                f"{path} has no column {renamed[name]!r}; it has {', '.join(header) or 'none'}."
                f"{hint} Rename it, or say which one it is with --column {name}=NAME"
            )
    for name in where:
        if name not in header:
            raise DataError(f"{path} has no column {name!r}; it has {', '.join(header)}")


def _number(path: Path, row: int, column: str, values: Mapping[str, str]) -> float:
    text = values.get(column, "")
    try:
        return parse_number(text)
    except UserError:
        raise DataError(
            f"{path}, row {row}: {column} = {text!r} is not a positive number; mend the row or "
            "take it out"
        ) from None


def _family(path: Path, row: int, text: str | None) -> str:
    if not text:
        return "ar"
    word = _FAMILY_WORDS.get(text.lower())
    if word is None:
        raise DataError(
            f"{path}, row {row}: family = {text!r} is not known; "
            f"write {' or '.join(family_names())}"
        )
    return word


def describe_point(params: float, tokens: float, unique_tokens: float) -> str:
    """ "124M params, 4.9B tokens, 49 epochs", for messages."""
    epochs = tokens / min(tokens, unique_tokens)
    return f"{format_count(params)} params, {format_count(tokens)} tokens, {epochs:.3g} epochs"


_OF_THE_POINT = frozenset(
    {
        "family",
        "seed",
        "data.unique_tokens",
        "train.steps",
        "train.tokens",
        "train.epochs",
        "train.flops",
        "train.device",
        "train.compile",
        "train.deterministic",
    }
)
_ALIKE = 0.01
"""Lengths within this share of each other are equal: batches round them to whole steps."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A run as one of several at its point."""

    family: str
    params: float
    tokens: float
    """Of the whole run, as planned."""
    unique_tokens: float
    loss: float
    setting: Mapping[str, Any]
    """All that may differ at one point, by name."""


def setting_of(identity: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's identity is neither its point, nor its seed, corpus or evaluation."""
    return {
        key: value
        for key, value in identity.items()
        if key == "eval.ema" or not (key in _OF_THE_POINT or key.startswith(("corpus.", "eval.")))
    }


def dominated_settings(runs: Sequence[Candidate]) -> dict[int, str]:
    """Index → why the run is left out: another setting has the lower mean loss at its point."""
    found: dict[int, str] = {}
    for indices in _points(runs):
        by_setting: dict[Hashable, list[int]] = defaultdict(list)
        for index in indices:
            by_setting[_key(runs[index].setting)].append(index)
        if len(by_setting) < 2:
            continue
        groups = list(by_setting.values())
        means = [float(np.mean([runs[i].loss for i in group])) for group in groups]
        best = int(np.argmin(means))
        names = _names([runs[group[0]].setting for group in groups])
        for number, group in enumerate(groups):
            if number == best:
                continue
            reason = (
                f"not the best setting of its size, tokens and unique tokens: {names[number]} gave "
                f"{_mean(means[number], group)}, {names[best]} {_mean(means[best], groups[best])}"
            )
            found |= dict.fromkeys(group, reason)
    return found


def _points(runs: Sequence[Candidate]) -> list[list[int]]:
    """Indices of runs of one family at one point."""
    curves: dict[Hashable, list[int]] = defaultdict(list)
    for index, run in enumerate(runs):
        curves[run.family, run.params, run.unique_tokens].append(index)
    points = []
    for indices in curves.values():
        indices.sort(key=lambda i: runs[i].tokens)
        group = indices[:1]
        for index in indices[1:]:
            if runs[index].tokens > runs[group[0]].tokens * (1 + _ALIKE):
                points.append(group)
                group = []
            group.append(index)
        points.append(group)
    return points


def _key(setting: Mapping[str, Any]) -> Hashable:
    return tuple(sorted((name, repr(value)) for name, value in setting.items()))


def _names(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each setting by what is not the same in all."""
    keys = sorted({key for setting in settings for key in setting})
    differing = [key for key in keys if len({repr(s.get(key)) for s in settings}) > 1]
    return [", ".join(f"{k}={s.get(k, 'unset')}" for k in differing) for s in settings]


def _mean(loss: float, group: Sequence[int]) -> str:
    return f"{loss:.4f} nats" + (f" in the mean of {len(group)} runs" if len(group) > 1 else "")
