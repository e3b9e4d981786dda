"""matplotlib figures as inline SVG that takes its colours and its font from the page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours that stand for the page's own. Each is nearly black, so that a figure looked at
# outside the page can still be read.
INK, MUTED, RULE, PAPER = "#000001", "#000002", "#000003", "#000004"
COLOURS = {"ar": "#000005", "mdm": "#000006"}
_THEME = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    RULE: "var(--rule)",
    PAPER: "var(--paper)",
    COLOURS["ar"]: "var(--ar)",
    COLOURS["mdm"]: "var(--mdm)",
}
_SETTINGS: dict[Any, Any] = {
    # Text stays text: it takes the page's font and can be searched and selected.
    "svg.fonttype": "none",
    # Else the names inside an SVG, and so the page, would differ from call to call.
    "svg.hashsalt": "epochal",
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": RULE,
}


@dataclass(frozen=True, slots=True)
class Canvas:
    """Room for a drawing, in CSS pixels."""

    name: str
    width: int
    height: int
    font: float
    ticks: int
    """Labels at most on the horizontal axis."""


# Two drawings rather than one that shrinks: on a phone the letters would be too small.
WIDE = Canvas("wide", 760, 400, 13.0, 7)
NARROW = Canvas("narrow", 370, 330, 12.0, 4)


def draw(name: str, label: str, paint: Callable[[Axes, Canvas], None]) -> Markup:
    """Both drawings of a figure, as HTML. `name` keeps ids apart; `label` is read aloud.

    `paint` draws into empty axes.
    """
    drawings = []
    for canvas in (WIDE, NARROW):
        with matplotlib.rc_context({**_SETTINGS, "font.size": canvas.font}):
            figure = Figure(figsize=(canvas.width / 72, canvas.height / 72))
            axes = figure.add_axes((0, 0, 1, 1))
            _frame(axes, canvas)
            paint(axes, canvas)
            content = io.StringIO()
            figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
        drawings.append(_inline(content.getvalue(), f"{name}-{canvas.name}", label, canvas))
    return Markup("\n").join(drawings)


def _frame(axes: Axes, canvas: Canvas) -> None:
    """Margins in pixels, light horizontal rules, no box."""
    left, right, top, bottom = 3.4 * canvas.font, 1.2 * canvas.font, 2.0 * canvas.font, 44
    width, height = canvas.width, canvas.height
    axes.set_position(
        (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    )
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0, pad=6)
    axes.tick_params(axis="x", length=4, width=0.8, pad=4)


def _inline(svg: str, name: str, label: str, canvas: Canvas) -> Markup:
    """The drawing without what only a file of its own needs, its ids made unlike all others."""
    body = svg[svg.index("<svg") :]
    body = body[body.index(">") + 1 :]
    for useless in (r"<!--.*?-->", r"<metadata>.*?</metadata>", r"<style[^>]*>.*?</style>"):
        body = re.sub(useless, "", body, flags=re.DOTALL)
    body = body.replace("xlink:href=", "href=")
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = body.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    body = re.sub(r"\bfont: ([0-9.]+)px [^;\"]+", r"font-size: \1px", body)
    body = re.sub(r"\n\s*", "\n", body)
    for colour, variable in _THEME.items():
        body = body.replace(colour, variable)
    head = Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        f"drawing {canvas.name}", canvas.width, canvas.height, label
    )
    return head + Markup(body)  # matplotlib has escaped the text in it
