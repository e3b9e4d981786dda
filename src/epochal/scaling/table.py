"""Rows of a CSV file of points, checked value by value."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from epochal.errors import DataError, OptionError, UserError, nearest
from epochal.families import families, family_names
from epochal.units import parse_number


def column_names(columns: Mapping[str, str] | None, known: Sequence[str]) -> dict[str, str]:
    """Our name → the file's own. Raises OptionError for a name that is not `known`."""
    given = dict(columns or {})
    if strange := [name for name in given if name not in known]:
        raise OptionError("columns", strange[0], f"unknown column; columns are {', '.join(known)}")
    return {name: name for name in known} | given


def read_rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """The header of a CSV file, and (line number, values) of each row. Raises DataError."""
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


def check_header(
    path: Path,
    header: Sequence[str],
    renamed: Mapping[str, str],
    where: Mapping[str, str],
    required: Sequence[str],
) -> None:
    """Raise DataError if the file lacks a required column (by its own name), or one of `where`."""
    for name in required:
        if renamed[name] not in header:
            hint = nearest(renamed[name], header)
            raise DataError(
                f"{path} has no column {renamed[name]!r}; it has {', '.join(header) or 'none'}."
                f"{hint} Rename it, or map it with columns: {name}=NAME"
            )
    for name in where:
        if name not in header:
            raise DataError(f"{path} has no column {name!r}; it has {', '.join(header)}")


def read_number(path: Path, row: int, column: str, values: Mapping[str, str]) -> float:
    """A positive number of a row. Raises DataError that names the row."""
    text = values.get(column, "")
    try:
        return parse_number(text)
    except UserError:
        raise DataError(
            f"{path}, row {row}: {column} = {text!r} is not a positive number; fix or remove "
            "the row"
        ) from None


def read_family(path: Path, row: int, text: str | None) -> str:
    """A family's name; without one, the first of the list. Raises DataError that names the row."""
    if not text:
        return family_names()[0]
    for family in families():
        if text.lower() in (family.name, *family.aliases):
            return family.name
    raise DataError(
        f"{path}, row {row}: unknown family {text!r}; write {' or '.join(family_names())}"
    )
