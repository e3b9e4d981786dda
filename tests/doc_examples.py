"""Examples of docs/extending.md, which are run as they stand there."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs/extending.md"


def example(title):
    """The block of the page with that title."""
    text = PAGE.read_text(encoding="utf-8")
    (block,) = re.findall(rf'```\w+ title="{re.escape(title)}"\n(.*?)```', text, flags=re.DOTALL)
    return block


def example_module(title, folder):
    """A module made from a block, importable under the name that its path in src/ gives it."""
    name = title.removeprefix("src/").removesuffix(".py").replace("/", ".")
    file = folder / title
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(example(title), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, file)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
