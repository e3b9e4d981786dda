"""The built-in corpus: technical English that every Python installation has.

The language reference as `help()` shows it (`pydoc_data.topics`, one document per topic) and
the standard library's docstrings, read from the source files without importing them. About
570 documents, 2 MB, under the PSF licence.

A module's docstrings are one document. Alone most are a line or two, far shorter than a
row of training; and those of one module share names and phrases, so that a split by
docstring would leave near-copies of validation text in the training text. By module the
border between the two sets is as clean as between two files of a user.

Documents come in the order of their texts' hashes, which is random but always the same, so
that a cut to U tokens is a representative sample. By name the language reference would come first.

The text differs between versions of Python, so figures compare only within one; the metadata
records interpreter and SHA-256. Docstrings are taken once: of equal ones the first stays.
"""

from __future__ import annotations

import ast
import hashlib
import os
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from epochal.errors import DataError
from epochal.progress import bar

_SHORTEST_DOCSTRING = 41  # characters; shorter ones hold little more than a name
_LEFT_OUT = {
    "__pycache__",
    "_bundled",
    "dist-packages",
    "idlelib",
    "lib2to3",
    "site-packages",
    "test",
    "tests",
    "turtledemo",
}


def interpreter() -> str:
    """The Python that the text is taken from, for example 'CPython 3.11.7'."""
    return f"{platform.python_implementation()} {platform.python_version()}"


@cache
def builtin_documents(library: Path | None = None) -> tuple[str, ...]:
    """The documents, topics and modules mixed in an order fixed by their texts.

    `library` is the folder of the standard library, this interpreter's if not given. Raises
    DataError where the sources are missing, as in stripped or zipped builds.
    """
    library = library or Path(sysconfig.get_path("stdlib"))
    topics = _topics(library / "pydoc_data" / "topics.py")
    paths = list(_modules(library))
    if not topics or not paths:
        raise DataError(
            "the built-in corpus is not in this Python: its help topics or library sources are "
            f"missing from {library}; use text of your own: `epochal quickstart --text FOLDER`"
        )
    seen: set[str] = set()
    documents = list(topics)
    with bar("Reading the built-in corpus", len(paths)) as progress:
        for number, path in enumerate(paths, 1):
            fresh = [text for text in dict.fromkeys(_docstrings(path)) if text not in seen]
            seen.update(fresh)
            if fresh:
                documents.append("\n\n".join(fresh))
            progress.update(number)
    return tuple(sorted(documents, key=lambda text: hashlib.sha256(text.encode()).digest()))


def _docstrings(path: Path) -> list[str]:
    """Docstrings of more than 40 characters in a source file, in the order of the source."""
    tree = _parsed(path)
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    owners = [node for node in ast.walk(tree) if isinstance(node, kinds)] if tree else []
    owners.sort(key=lambda node: getattr(node, "lineno", 0))
    texts = (ast.get_docstring(node) or "" for node in owners)
    return [text for text in texts if len(text) >= _SHORTEST_DOCSTRING and _is_unicode(text)]


def _topics(path: Path) -> list[str]:
    """The different texts of the dictionary `topics`, in the order of their names."""
    tree = _parsed(path) if path.is_file() else None
    for node in tree.body if tree else []:
        # Newer versions write `topics: dict[str, str] = {…}` or plain `topics = {…}`.
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            topics = ast.literal_eval(node.value)
            return list(dict.fromkeys(topics[name] for name in sorted(topics)))
    return []


def _modules(library: Path) -> Iterator[Path]:
    """Source files of the library, sorted, without tests and installed packages."""
    for folder, folders, names in os.walk(library):
        folders[:] = sorted(name for name in folders if name not in _LEFT_OUT)
        yield from (Path(folder) / name for name in sorted(names) if name.endswith(".py"))


def _parsed(path: Path) -> ast.Module | None:
    """The syntax tree, or None for a file that this Python cannot read (there are a few)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
