"""The list of families: one file here each, found by itself.

To add one: a file here with a `FAMILY`, and the objective that it names in `objectives/`.
"""

from __future__ import annotations

import importlib
import pkgutil

from epochal.errors import RecipeError, nearest
from epochal.families.family import Family

_REGISTRY: dict[str, Family] = {}


def register(new: Family) -> None:
    """Add a family to the list, after those that are there. Raises ValueError for a taken name."""
    if new.name in _REGISTRY:
        raise ValueError(f"the family {new.name} is registered twice")
    _REGISTRY[new.name] = new


def unregister(name: str) -> None:
    """Take a family off the list (for tests)."""
    del _REGISTRY[name]


def get_family(name: str) -> Family:
    """The family of that name. Raises RecipeError, naming those there are, for another."""
    if name not in _REGISTRY:
        hint = nearest(name, _REGISTRY) or f" Families are {', '.join(_REGISTRY)}."
        raise RecipeError(f"there is no family {name!r}.{hint}")
    return _REGISTRY[name]


def family_names() -> tuple[str, ...]:
    """All families, in the order of lists, tables and legends."""
    return tuple(_REGISTRY)


def default_families() -> tuple[str, ...]:
    """Names of those that commands train if none is named, in the same order."""
    return tuple(name for name, family in _REGISTRY.items() if family.by_default)


def named_families(text: str) -> tuple[str, ...]:
    """`ar,dual` → ("ar", "dual"); "all" are all. Raises RecipeError for one that is not there."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    return family_names() if names == ["all"] else tuple(get_family(one).name for one in names)


def families() -> tuple[Family, ...]:
    """All families, in the same order."""
    return tuple(_REGISTRY.values())


for _module in sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "family"):
    register(importlib.import_module(f"{__name__}.{_module}").FAMILY)

__all__ = [
    "Family",
    "default_families",
    "families",
    "family_names",
    "get_family",
    "named_families",
    "register",
    "unregister",
]
