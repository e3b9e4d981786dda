"""MB and files by package of what `pip install epochal` installs, from the installed metadata.

Run it with the interpreter of an environment that has Epochal: `.venv/bin/python
benchmarks/install.py`. `--time` also installs each package anew, alone, into a temporary folder,
with the same version and without compiling modules, and gives wall and CPU seconds; the download
is in them where pip has no copy. Needs nothing but the standard library.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import time
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


def timed(name: str) -> tuple[float, float]:
    """(seconds, CPU seconds) of pip installing a package alone, in the installed version."""
    wanted = f"{name}=={importlib.metadata.version(name)}"
    with tempfile.TemporaryDirectory() as folder:
        words = ["install", "-q", "--no-deps", "--no-compile", "--target", folder, wanted]
        began = time.monotonic()
        child = subprocess.Popen([sys.executable, "-m", "pip", *words])
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"pip could not install {wanted}")
    return time.monotonic() - began, used.ru_utime + used.ru_stime


def main(times: bool) -> None:
    """Print the table, largest first; packages below 1 MB together."""
    by = asked_by()
    rows = []
    for name in by:
        seconds = timed(name) if times else ()
        rows.append((*measured(name), *seconds, name))
    rows.sort(reverse=True)
    small = [row for row in rows if row[0] < 1]
    titles = ["package", "MB", "files", *(["seconds", "CPU seconds"] if times else [])]
    print(f"| {' | '.join(titles)} | asked for by |\n|{'---|' * (1 + len(titles))}")
    whole = [(f"{len(small)} others", small), (f"all {len(rows)}", rows)]
    for name, part in [*((row[-1], [row]) for row in rows if row[0] >= 1), *whole]:
        size, count, *seconds = (sum(column) for column in list(zip(*part, strict=True))[:-1])
        cells = [name, f"{size:,.1f}", f"{count:,}", *(f"{spent:.1f}" for spent in seconds)]
        print(f"| {' | '.join(cells)} | {by.get(name, '')} |")


if __name__ == "__main__":
    main(times=sys.argv[1:] == ["--time"])
