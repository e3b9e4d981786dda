"""matplotlib figures: as inline SVG in the page's colours, and as files in print colours.

A figure is a `Plot`: what is drawn, and the numbers behind it as a table, from which come the
drawing on the page, the one for narrow screens, the CSV and the files for papers.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from epochal import files
from epochal.errors import UserError
from epochal.report.text.format import printable

FORMATS = ("pdf", "svg", "png")
_TIP = "tip:"
_BETWEEN = "\u241f"  # between a tip's run and its text


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of a drawing."""

    ink: str
    muted: str
    rule: str
    paper: str
    families: dict[str, str]


# Colours that stand for the page's own. Each is nearly black, so that a figure looked at
# outside the page can still be read.
PAGE = Palette("#000001", "#000002", "#000003", "#000004", {"ar": "#000005", "mdm": "#000006"})
PRINT = Palette("#1c2126", "#5d6873", "#dde2e7", "#ffffff", {"ar": "#0067a3", "mdm": "#c14f00"})
_THEME = {
    PAGE.ink: "var(--ink)",
    PAGE.muted: "var(--muted)",
    PAGE.rule: "var(--rule)",
    PAGE.paper: "var(--paper)",
    PAGE.families["ar"]: "var(--ar)",
    PAGE.families["mdm"]: "var(--mdm)",
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
    palette: Palette = PAGE


# Two drawings rather than one that shrinks: on a phone the letters would be too small.
WIDE = Canvas("wide", 760, 410, 13.0, 7)
NARROW = Canvas("narrow", 350, 340, 12.0, 4)
HALF = Canvas("half", 370, 340, 12.0, 4)

Cell = str | float | int | None
Key = tuple[str, str, str]
"""(family or "", marker or line, text) of what is explained above a drawing."""
_KEY_LINE = 1.6  # height of a line of keys, in letters


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One figure."""

    name: str
    """Of its files, and what keeps ids apart."""
    label: str
    """Read aloud: the figure in words."""
    title: str
    """Above the vertical axis: what it measures."""
    paint: Callable[[Axes, Canvas], None]
    """Draws into empty axes."""
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    """The numbers that are drawn."""
    fewer: Sequence[Sequence[Cell]] | None = None
    """Those that a page offers, where all would make it too large."""
    half: bool = False
    """Whether two stand side by side on a wide screen."""
    keys: Sequence[Key] = ()
    """What is explained above the drawing."""

    def csv(self, page: bool = False) -> str:
        """The numbers as CSV; `page`: as a page offers them."""
        rows = self.fewer if page and self.fewer is not None else self.rows
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows([[_cell(value) for value in row] for row in rows])
        return text.getvalue()


def _cell(value: Cell) -> str:
    """A number with all that is known of it; text never begins like a formula."""
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value[:1] in ("=", "+", "-", "@") else value
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def tip(artist: Artist, run: str, text: str) -> None:
    """Let the page show `text` where the pointer is over `artist`; `run` names its run or ''."""
    artist.set_gid(f"{_TIP}{printable(run)}{_BETWEEN}{printable(text)}".replace("\n", " "))


def inline(plot: Plot) -> Markup:
    """The figure's drawings, as HTML: one for wide and one for narrow screens."""
    canvases = (HALF,) if plot.half else (WIDE, NARROW)
    drawings = []
    for canvas in canvases:
        content = io.StringIO()
        with matplotlib.rc_context(_settings(canvas)):
            figure = _drawn(plot, canvas)
            figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
        drawings.append(_inlined(content.getvalue(), plot, canvas))
    return Markup("\n").join(drawings)


def check_formats(formats: Sequence[str]) -> None:
    """Raise UserError for a format of figures that is not known."""
    if unknown := [name for name in formats if name not in FORMATS]:
        raise UserError(
            f"figures = {unknown[0]!r}: give {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        )


def save(plots: Sequence[Plot], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write every figure into `folder`, in each format and as CSV; return what was written.

    Raises StorageError for a place that is not writable.
    """
    written = []
    for plot in plots:
        canvas = replace(HALF if plot.half else WIDE, palette=PRINT)
        for name in formats:
            path = folder / f"{plot.name}.{name}"
            content = io.BytesIO()
            with matplotlib.rc_context(_settings(canvas)):
                figure = _drawn(plot, canvas)
                # No date, so that the same runs give the same file.
                known = {"Date": None} if name == "svg" else {"CreationDate": None}
                figure.savefig(
                    content, format=name, dpi=200, metadata=known if name != "png" else None
                )
            files.write_bytes(path, content.getvalue())
            written.append(path)
        files.write_text(folder / f"{plot.name}.csv", plot.csv())
        written.append(folder / f"{plot.name}.csv")
    return written


def _settings(canvas: Canvas) -> dict[Any, Any]:
    colours = canvas.palette
    return {
        # Text stays text: it takes the page's font and can be searched and selected.
        "svg.fonttype": "none",
        "pdf.fonttype": 42,
        # Else the names inside an SVG, and so the page, would differ from call to call.
        "svg.hashsalt": "epochal",
        "font.size": canvas.font,
        "text.parse_math": False,
        "text.color": colours.ink,
        "axes.labelcolor": colours.ink,
        "axes.edgecolor": colours.muted,
        "xtick.color": colours.muted,
        "ytick.color": colours.muted,
        "xtick.labelcolor": colours.ink,
        "ytick.labelcolor": colours.ink,
        "grid.color": colours.rule,
    }


def _drawn(plot: Plot, canvas: Canvas) -> Figure:
    # 72 to the inch as in the SVG, so that room left for a label is of the label's size.
    figure = Figure(figsize=(canvas.width / 72, canvas.height / 72), dpi=72)
    axes = figure.add_axes((0, 0, 1, 1))
    _frame(axes, canvas, _key_lines(plot.keys, canvas))
    plot.paint(axes, canvas)
    _head(axes, canvas, plot)
    return figure


def _key_lines(keys: Sequence[Key], canvas: Canvas) -> list[list[tuple[float, Key]]]:
    """(left edge in pixels, key) of what is explained, in as many lines as it takes."""
    lines: list[list[tuple[float, Key]]] = []
    at = float(canvas.width)
    for key in keys:
        width = 18 + 0.52 * canvas.font * len(key[2])
        if at + width > canvas.width:
            lines.append([])
            at = 0.4 * canvas.font
        lines[-1].append((at, key))
        at += width + 12
    return lines


def _frame(axes: Axes, canvas: Canvas, keys: Sequence[object]) -> None:
    """Margins in pixels, light horizontal rules, no box. `keys`: lines of what is explained."""
    left, right = 3.6 * canvas.font, 1.3 * canvas.font
    top, bottom = (2.0 + _KEY_LINE * len(keys)) * canvas.font, 44
    width, height = canvas.width, canvas.height
    axes.set_position(
        (left / width, bottom / height, 1 - (left + right) / width, 1 - (top + bottom) / height)
    )
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.grid(axis="y", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(axis="y", length=0, pad=6)
    axes.tick_params(axis="x", length=4, width=0.8, pad=4)


def _head(axes: Axes, canvas: Canvas, plot: Plot) -> None:
    """The title above the vertical axis, and under it the marks explained."""
    top = canvas.height - 0.4 * canvas.font
    axes.text(0, top, plot.title, transform=None, va="top", fontsize=canvas.font)
    level = top - 2.2 * canvas.font
    for line in _key_lines(plot.keys, canvas):
        for at, key in line:
            _explain(axes, canvas, key, at, level)
        level -= _KEY_LINE * canvas.font


def _explain(axes: Axes, canvas: Canvas, key: Key, at: float, level: float) -> None:
    """One mark or line and what it stands for, its left edge at `at`, in pixels."""
    family, marker, text = key
    colour = canvas.palette.families.get(family, canvas.palette.ink)
    if marker in (".", "o", "D"):
        shape = "o" if marker == "." else marker
        size = {".": 4, "o": 7, "D": 6}[marker]
        style: dict[str, Any] = {"marker": shape, "markersize": size, "linestyle": "none"}
        axes.plot([at + 5], [level + 1], transform=None, clip_on=False, color=colour, **style)
    else:
        axes.plot(
            [at - 3, at + 13],
            [level + 1] * 2,
            transform=None,
            clip_on=False,
            color=colour,
            linestyle={"-": "-", ":": (0, (1, 1.6)), "--": (0, (5, 3))}[marker],
            linewidth=1.6,
        )
    axes.text(at + 18, level, text, transform=None, va="center", fontsize=0.92 * canvas.font)


def _inlined(svg: str, plot: Plot, canvas: Canvas) -> Markup:
    """The drawing without what only a file of its own needs, its ids made unlike all others."""
    name = f"{plot.name}-{canvas.name}"
    body = svg[svg.index("<svg") :]
    body = body[body.index(">") + 1 :]
    for useless in (r"<!--.*?-->", r"<metadata>.*?</metadata>", r"<style[^>]*>.*?</style>"):
        body = re.sub(useless, "", body, flags=re.DOTALL)
    body = body.replace("xlink:href=", "href=")
    body = re.sub(
        rf'<g id="{_TIP}([^"{_BETWEEN}]*){_BETWEEN}([^"]*)">',
        r'<g class="tip" data-run="\1" data-tip="\2">',
        body,
    )
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = body.replace('href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    body = re.sub(r"\bfont: ([0-9.]+)px [^;\"]+", r"font-size: \1px", body)
    body = re.sub(r"\n\s*", "\n", body)
    for colour, variable in _THEME.items():
        body = body.replace(colour, variable)
    head = Markup('<svg class="{}" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        f"drawing {canvas.name}", canvas.width, canvas.height, plot.label
    )
    return head + Markup(body)  # matplotlib has escaped the text in it
