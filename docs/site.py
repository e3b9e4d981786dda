"""For mkdocs: pages outside docs/ become pages of the site, and links lead to them there."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

OUTSIDE = {
    "benchmarks/README.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""File of the repository → page of the site."""
_LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s]+)(#[^)]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from outside."""
    from mkdocs.structure.files import File  # here, so that tests read OUTSIDE without mkdocs

    root = Path(config.config_file_path).parent
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(root / source)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links of the repository → links of the site; what is no page of it becomes plain text."""
    pages = {source: page for page, source in _sources(files).items()}
    folder = posixpath.dirname(_sources(files)[page.file.src_uri])

    def lead(link: re.Match[str]) -> str:
        text, target, part = link[1], link[2], link[3] or ""
        if ":" in target:
            return link[0]
        source = posixpath.normpath(posixpath.join(folder, target))
        if source not in pages:
            return text
        here = posixpath.dirname(page.file.src_uri)
        return f"[{text}]({posixpath.relpath(pages[source], here or '.')}{part})"

    return _LINK.sub(lead, markdown)


def _sources(files: Any) -> dict[str, str]:
    """Page or file of the site → its path in the repository."""
    named = {page: source for source, page in OUTSIDE.items()}
    return {file.src_uri: named.get(file.src_uri, f"docs/{file.src_uri}") for file in files}
