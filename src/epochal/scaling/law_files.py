"""Laws in files: written by `epochal fit --out`, read by `epochal plan --laws`."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from epochal import files
from epochal.errors import UserError
from epochal.estimates import Floats
from epochal.families import family_names
from epochal.progress import say_renamed
from epochal.results import to_json
from epochal.scaling.choose import Choice
from epochal.scaling.forms import not_identified
from epochal.scaling.law import ScalingLaw, law_from_constants
from epochal.scaling.notes import PlanNote
from epochal.scaling.options import FitOptions

_FORMAT = 1
_DIGITS = 10
_WHOLE = {
    "sequence_length": "the tokens per row of its runs",
    "vocabulary": "the size of its runs' vocabulary",
}
_NO_CONSTANTS = ("law", *_WHOLE, "recipe", "extrapolation_error", "doubt")
"""Keys of a section that holds its constants directly."""
PRESETS = {
    "paper": (PlanNote.PAPER_CONSTANTS, PlanNote.PAPER_FIT, PlanNote.PAPER_BEST_RUNS),
    "muennighoff": (PlanNote.MUENNIGHOFF_CONSTANTS,),
}
"""Laws from the literature, preset_NAME.toml beside this file, and notes about each."""
RENAMED = {"doubt": "extrapolation_error", "fitted": "fitted_range"}
"""Keys of a family's section in files of version 0.1.0 → their names today."""


def write_laws(
    path: str | Path, laws: Sequence[ScalingLaw], options: FitOptions | None = None
) -> None:
    """Write laws with their resamples. Raises UserError unless the name ends in .toml or .json."""
    path = Path(path)
    content = {
        "format": _FORMAT,
        "options": {k: v for k, v in (to_json(options) or {}).items() if v not in (None, {})},
        "families": {law.family: _content(law) for law in laws},
    }
    if path.suffix == ".json":
        files.write_json(path, content)
    elif path.suffix == ".toml":
        files.write_text(path, _toml(content))
    else:
        raise UserError(f"laws are written to a .toml or .json file, not to {path.name!r}")


def _content(law: ScalingLaw) -> dict[str, Any]:
    # Optional, and TOML has no None.
    runs = {name: getattr(law, name) for name in (*_WHOLE, "recipe")}
    choice = getattr(law, "choice", None)
    return {
        "law": law.form.name,
        **{name: value for name, value in runs.items() if value is not None},
        **({"extrapolation_error": error} if (error := law.extrapolation_error) else {}),
        **({"whole_range": True, "reading_error": law.reading_error} if law.whole_range else {}),
        **({} if choice is None else {"choice": _choice(choice)}),
        "constants": {k: v for k, v in law.constants.items() if v is not None},
        "unknown": sorted(law.unknown),
        "fitted_range": {name: list(ends) for name, ends in law.fitted_range.items()},
        "samples": [_rounded(samples) for samples in law.samples],
    }


def _choice(choice: Choice) -> dict[str, Any]:
    """Why this law, with each candidate's scores; TOML has no None."""
    content: dict[str, Any] = to_json(choice)
    content["candidates"] = {
        candidate["law"]: {k: v for k, v in candidate.items() if k != "law" and v is not None}
        for candidate in content["candidates"]
    }
    return content


def _rounded(samples: Floats) -> list[list[float]]:
    return [[float(f"{value:.{_DIGITS}g}") for value in row] for row in samples.tolist()]


def _toml(content: Mapping[str, Any], prefix: str = "") -> str:
    """Plain TOML of nested tables, numbers, texts and lists."""
    plain = [f"{k} = {json.dumps(v)}" for k, v in content.items() if not isinstance(v, dict)]
    parts = ["\n".join(plain)] if plain else []
    for key, value in content.items():
        if isinstance(value, dict):
            inside = _toml(value, f"{prefix}{key}.")
            head = (
                f"[{prefix}{key}]\n" if any(not isinstance(v, dict) for v in value.values()) else ""
            )
            parts.append(f"{head}{inside.rstrip()}")
    return "\n\n".join(parts) + "\n"


def _read_file(path: str | Path) -> dict[str, Any]:
    """A .toml or .json file as plain values. Raises UserError."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        content: dict[str, Any] = (
            json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        )
    except FileNotFoundError:
        raise UserError(f"there is no file {path}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no table of constants")
    return content


def read_preset(name: str) -> dict[str, ScalingLaw]:
    """The laws of PRESETS, by family."""
    laws = read_laws(Path(__file__).with_name(f"preset_{name}.toml"))
    return {family: replace(law, source=name) for family, law in laws.items()}


def read_laws(path: str | Path) -> dict[str, ScalingLaw]:
    """The laws of a file, by family: one written here, or constants alone.

    A family's section has `constants` (and, if it is not "data-constrained", `law`), or the
    constants directly: [ar] A = 521 B = 1488 … Raises UserError for what is missing.
    """
    content = _read_file(path)
    families = content.get("families", content)
    laws: dict[str, ScalingLaw] = {}
    for family in family_names():
        section = families.get(family) if isinstance(families, dict) else None
        if not isinstance(section, dict):
            continue
        section = _renamed(section)
        constants = section.get(
            "constants", {k: v for k, v in section.items() if k not in _NO_CONSTANTS}
        )
        if not isinstance(constants, dict):
            raise UserError(f"{path}: the constants of {family} are not a table; write A = 521 …")
        strange = [k for k, v in constants.items() if not (v is None or _is_number(v))]
        if strange:
            raise UserError(
                f"{path}: {strange[0]} of {family} is {constants[strange[0]]!r}, not a number"
            )
        default = "data-constrained" if {"R_D", "R_N"} & set(constants) else "chinchilla"
        try:
            law = law_from_constants(str(section.get("law", default)), constants, family, str(path))
        except UserError as error:
            raise UserError(f"{path}, {family}: {error}") from None
        laws[family] = _with_runs(_with_samples(law, section, path), section, path)
    if not laws:
        raise UserError(
            f"{path} holds no law: it has no section for a family ({' or '.join(family_names())}); "
            "write one with `epochal fit RUNS --out law.toml`"
        )
    return laws


def _renamed(section: Mapping[str, Any]) -> dict[str, Any]:
    """The section under today's keys, with one notice per key of an earlier version."""
    say_renamed("keys of the law file", {k: RENAMED[k] for k in RENAMED.keys() & section.keys()})
    return {RENAMED.get(key, key): value for key, value in section.items()}


def _with_runs(law: ScalingLaw, section: Mapping[str, Any], path: str | Path) -> ScalingLaw:
    """The law with what the file has about its runs: rows, vocabulary, recipe, error."""
    for name, meaning in _WHOLE.items():
        value = section.get(name)
        if value is not None and not (type(value) is int and value > 0):
            raise UserError(
                f"{path}: {name} of {law.family} is {value!r}; give {meaning}, a whole number, or "
                "leave it out"
            )
    recipe = section.get("recipe")
    if not (recipe is None or isinstance(recipe, dict)):
        raise UserError(f"{path}: the recipe of {law.family} is {recipe!r}, not a table of keys")
    error = section.get("extrapolation_error", 0.0)
    if not (_is_number(error) and error >= 0):
        raise UserError(
            f"{path}: extrapolation_error of {law.family} is {error!r}, not a number of 0 or more"
        )
    length, vocabulary = section.get("sequence_length"), section.get("vocabulary")
    return replace(
        law,
        sequence_length=length,
        vocabulary=vocabulary,
        recipe=recipe,
        extrapolation_error=float(error),
    )


def _with_samples(law: ScalingLaw, section: Mapping[str, Any], path: str | Path) -> ScalingLaw:
    try:
        samples = [np.asarray(s, dtype=float) for s in section.get("samples", [])]
        fitted = {k: (float(v[0]), float(v[1])) for k, v in section.get("fitted_range", {}).items()}
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise UserError(
            f"{path}: the samples or the fitted range of {law.family} are damaged ({error}); write "
            "the law again with `epochal fit RUNS --out`"
        ) from None
    for values in samples:
        if values.ndim != 2 or values.shape[1] != len(law.form.constants):
            raise UserError(
                f"{path}: the samples of {law.family} do not fit the law {law.form.name}"
            )
        for name, value in not_identified(law.unknown).items():
            values[:, law.form.index(name)] = value  # files of older versions have others
    return replace(
        law,
        samples=samples,
        fitted_range=fitted,
        whole_range=section.get("whole_range") is True,
        reading_error=float(section.get("reading_error", 0.0)),
    )


def read_fixed(path: str | Path) -> dict[str, dict[str, float]]:
    """Constants to fix, from a file: at the top level for all families, or per family.

    From a law file (`epochal fit --out`) A, B, E, alpha and beta are taken.
    """
    content = _read_file(path)
    families = content.get("families", content)
    sections = (*family_names(), "options", "settings")
    strange = [k for k, v in families.items() if isinstance(v, dict) and k not in sections]
    if strange:
        raise UserError(
            f"{path}: [{strange[0]}] is not a family; sections are {' and '.join(family_names())}"
        )
    fixed: dict[str, dict[str, float]] = {}
    _check_numbers(path, content if families is content else {})
    top = {k: float(v) for k, v in content.items() if _is_number(v) and k != "format"}
    if top:
        fixed[""] = top
    for family in family_names():
        section = families.get(family)
        if isinstance(section, dict):
            whole = "constants" in section
            constants = section.get("constants", section)
            if not whole:
                _check_numbers(path, constants)
            names = ("A", "B", "E", "alpha", "beta") if whole else tuple(constants)
            fixed[family] = {k: float(constants[k]) for k in names if _is_number(constants.get(k))}
    if not any(fixed.values()):
        raise UserError(f"{path} holds no constants; write for example: E = 1.87")
    return fixed


def _check_numbers(path: str | Path, constants: Mapping[str, Any]) -> None:
    """Raise UserError for a constant that is not a number."""
    for name, value in constants.items():
        if not (_is_number(value) or isinstance(value, dict) or name in _NO_CONSTANTS):
            raise UserError(f"{path}: {name} = {value!r} is not a number")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
