"""MB and files by package of what `pip install epochal` installs, from the installed metadata.

Run it with the interpreter of an environment that has Epochal: `.venv/bin/python
benchmarks/install.py`. Needs nothing but the standard library.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator

_NAME = re.compile(r"[A-Za-z0-9._-]+")


def required(name: str) -> Iterator[str]:
    """Names of installed packages that a package needs, without extras."""
    for line in importlib.metadata.requires(name) or []:
        if "extra ==" not in line and (match := _NAME.match(line)):
            try:
                yield importlib.metadata.metadata(match[0])["Name"]
            except importlib.metadata.PackageNotFoundError:
                continue  # for another system or an older Python


def asked_by() -> dict[str, str]:
    """Package → the first of Epochal's dependencies, in their order, that brings it."""
    found: dict[str, str] = {}
    direct = sorted(required("epochal"), key=str.lower)
    found.update((name, name) for name in direct)
    for top in direct:
        open_ = [top]
        while open_:
            for name in required(open_.pop()):
                if name not in found:
                    found[name] = top
                    open_.append(name)
    return found


def measured(name: str) -> tuple[float, int]:
    """(MB on disk, files) of an installed package."""
    files = importlib.metadata.files(name) or []
    sizes = [path.stat().st_size for file in files if (path := file.locate()).is_file()]
    return sum(sizes) / 1e6, len(sizes)


def main() -> None:
    """Print the table, largest first; packages below 1 MB together."""
    by = asked_by()
    rows = sorted(((*measured(name), name) for name in by), reverse=True)
    print("| package | MB | files | asked for by |\n|---|---|---|---|")
    for size, count, name in rows:
        if size >= 1:
            print(f"| {name} | {size:,.1f} | {count:,} | {by[name]} |")
    small = [row for row in rows if row[0] < 1]
    for name, part in ((f"{len(small)} others", small), (f"all {len(rows)}", rows)):
        print(f"| {name} | {sum(r[0] for r in part):,.1f} | {sum(r[1] for r in part):,} | |")


if __name__ == "__main__":
    main()
