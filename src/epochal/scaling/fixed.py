"""Constants that are not fitted, as given or from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epochal.errors import UserError
from epochal.families import family_names
from epochal.scaling.law import NO_CONSTANTS, is_number, read_table

Fixed = Mapping[str, Mapping[str, float]]
"""family → constants (A, B, …) that are not fitted; the key "" is for all families."""


def read_fixed(fix: str | Path | Mapping[str, Any] | None) -> Fixed:
    """Constants to fix per family, from a file, {"E": 1.9} or {family: {"E": 1.9}}.

    Raises UserError for a file that holds none, or values that are no numbers.
    """
    if fix is None:
        return {}
    if isinstance(fix, str | Path):
        return _read_fixed(fix)
    per_family = {k: dict(v) for k, v in fix.items() if isinstance(v, Mapping)}
    return per_family | {"": {k: float(v) for k, v in fix.items() if not isinstance(v, Mapping)}}


def fixed_for(fixed: Fixed, family: str) -> dict[str, float]:
    """The constants of one family, those for all families among them."""
    return {**fixed.get("", {}), **fixed.get(family, {})}


def _read_fixed(path: str | Path) -> dict[str, dict[str, float]]:
    """Constants to fix, from a file: at the top level for all families, or per family.

    From a law file (`epochal fit --out`) A, B, E, alpha and beta are taken.
    """
    content = read_table(path)
    families = content.get("families", content)
    sections = (*family_names(), "options", "settings")
    strange = [k for k, v in families.items() if isinstance(v, dict) and k not in sections]
    if strange:
        raise UserError(
            f"{path}: [{strange[0]}] is not a family; sections are {' and '.join(family_names())}"
        )
    fixed: dict[str, dict[str, float]] = {}
    _check_numbers(path, content if families is content else {})
    top = {k: float(v) for k, v in content.items() if is_number(v) and k != "format"}
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
            fixed[family] = {k: float(constants[k]) for k in names if is_number(constants.get(k))}
    if not any(fixed.values()):
        raise UserError(f"{path} holds no constants; write for example: E = 1.87")
    return fixed


def _check_numbers(path: str | Path, constants: Mapping[str, Any]) -> None:
    """Raise UserError for a constant that is not a number."""
    for name, value in constants.items():
        if not (is_number(value) or isinstance(value, dict) or name in NO_CONSTANTS):
            raise UserError(f"{path}: {name} = {value!r} is not a number")
