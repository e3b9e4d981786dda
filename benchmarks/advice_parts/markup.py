"""Plain text of pages with markup: HTML and manual pages."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_HIDDEN = {"script", "style", "head", "svg", "nav"}
_BLOCKS = {
    *("p", "div", "li", "tr", "br", "pre", "table", "section", "dt", "dd", "ul", "ol"),
    *(f"h{level}" for level in range(1, 7)),
}
_BLANK_LINES = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_FONT = re.compile(r"\\f(?:\(..|\[[^\]]*\]|.)|\\s[-+]?\d+|\\[&|^/,%:cdu]")
_NAMED = re.compile(r"\\\((..)|\\\[([^\]]*)\]|\\\*(?:\(..|\[[^\]]*\]|.)")
_SYMBOLS = {"aq": "'", "cq": "'", "oq": "'", "lq": '"', "rq": '"', "em": "—", "en": "-", "bu": "*"}
_PARAGRAPHS = {"PP", "P", "LP", "TP", "IP", "HP", "Pp", "It", "sp"}
_MEASURES = {"TP", "HP", "sp"}
"""Requests whose arguments are lengths."""
_HEADINGS = {"SH", "SS", "Sh", "Ss"}
_STATE = {"TH", "ft", "nf", "fi", "RS", "RE", "in", "ne", "ad", "na", "nh", "hy", "if", "ie", "el"}
_STATE |= {"de", "ds", "nr", "rm", "tr", "so", "ll", "ta", "ti", "UE", "ME", "Dd", "Dt", "Os", "Bl"}
_STATE |= {"El", "Bd", "Ed", "TS", "TE", "EX", "EE", "PD", "DT", "."}


def html_text(page: str) -> str:
    """The visible text of an HTML page, blocks on lines of their own."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    text = "\n".join(line.strip() for line in "".join(reader.parts).splitlines())
    return _BLANK_LINES.sub("\n\n", text).strip()


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden: list[str] = []
        self._verbatim = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN:
            self._hidden.append(tag)
        self._verbatim += tag == "pre"
        if tag in _BLOCKS:
            self.parts.append("\n\n" if tag in ("p", "pre") or tag[0] == "h" else "\n")

    def handle_endtag(self, tag: str) -> None:
        if self._hidden and self._hidden[-1] == tag:
            self._hidden.pop()
        self._verbatim -= tag == "pre" and self._verbatim > 0
        if tag in ("p", "pre") or (tag in _BLOCKS and tag[0] == "h"):
            self.parts.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data if self._verbatim else re.sub(r"\s+", " ", data))


def manual_text(page: str) -> str:
    """A manual page without roff's requests and escapes; headings and paragraphs stay apart."""
    lines: list[str] = []
    for line in page.splitlines():
        if line[:1] not in (".", "'"):
            lines.append(_unescaped(line))
            continue
        request, _, rest = line[1:].strip().partition(" ")
        if request.startswith('\\"') or request in _STATE:
            continue
        if request == "IP":  # a label, then how far to indent
            rest = rest.split('"')[1] if rest.startswith('"') else rest.partition(" ")[0]
        words = _unescaped(rest.replace('"', "")).strip()
        if request in _PARAGRAPHS | _HEADINGS:
            lines.append("")
        if words and request not in _MEASURES:
            lines.append(words)
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def _unescaped(line: str) -> str:
    """A line of roff without its comment and escapes."""
    line = line.split('\\"', 1)[0].rstrip()
    line = _NAMED.sub(lambda m: _SYMBOLS.get(m[1] or m[2] or "", ""), _FONT.sub("", line))
    return line.replace("\\-", "-").replace("\\e", "\\").replace("\\ ", " ").replace("\\~", " ")
