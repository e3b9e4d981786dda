"""Figures with matplotlib: inline SVG in the page's colours, and files in print colours.

A `Plot` is what is drawn and the numbers behind it as a table. From it come the drawing on the
page, its CSV and the files for papers.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from epochal import files
from epochal.estimates import Floats
from epochal.families import families, get_family
from epochal.report.text.format import power_of_ten, printable

FORMATS = ("pdf", "svg", "png")
WIDTH, HEIGHT, FONT = 420, 320, 12.5
"""Of a drawing, in CSS pixels. It scales with the screen: on a phone its letters have 10 pixels,
and at the largest width of `page.html.j2` they are about as large as the text around it."""
DOTTED = (0, (1, 1.6))
_TIP = "tip:"
_BETWEEN = "\u241f"  # between a tip's run and its text

Cell = str | float | int | None


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of a drawing, as #rrggbb."""

    ink: str
    muted: str
    rule: str
    paper: str
    families: Mapping[str, str]


def _page_palette() -> Palette:
    """Colours that stand for the page's variables until the drawing is put into the page.

    Each is nearly black, so that a figure seen outside the page can still be read.
    """
    family = {one.name: f"#{number:06x}" for number, one in enumerate(families(), start=5)}
    return Palette("#000001", "#000002", "#000003", "#000004", family)


def _print_palette() -> Palette:
    """Colours of the files for papers."""
    family = {one.name: one.color for one in families()}
    return Palette("#1c2126", "#5d6873", "#dde2e7", "#ffffff", family)


def _variables(palette: Palette) -> dict[str, str]:
    """Each colour's CSS variable."""
    named = {getattr(palette, name): f"--{name}" for name in ("ink", "muted", "rule", "paper")}
    return named | {color: f"--family-{name}" for name, color in palette.families.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """One figure."""

    name: str
    """Of its files; also keeps ids in the page apart."""
    label: str
    """The figure in words, read aloud."""
    title: str
    """What the vertical axis measures, written above it."""
    x_title: str
    """What the horizontal axis measures."""
    paint: Callable[[Axes, Palette], None]
    """Draws into empty axes; artists with a label are in the legend, after the families."""
    families: Sequence[str] = ()
    """Those in the legend."""
    height: tuple[float, float] | None = None
    """Ends of the vertical axis, to which a little room is added; else `paint` sets them."""
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    """The numbers that are drawn."""
    page_rows: Sequence[Sequence[Cell]] | None = None
    """Those that the page offers, where all would make it too large."""

    def csv(self, page: bool = False) -> str:
        """The numbers as CSV; `page`: as the page offers them."""
        rows = self.page_rows if page and self.page_rows is not None else self.rows
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.header)
        writer.writerows([[_cell(value) for value in row] for row in rows])
        return text.getvalue()


def _cell(value: Cell) -> str:
    """Ten digits of a number; text never begins like a spreadsheet's formula."""
    if value is None:
        return ""
    if isinstance(value, str):
        return f"'{value}" if value[:1] in ("=", "+", "-", "@") else value
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def tip(artist: Artist, run: str, text: str) -> None:
    """Show `text` on the page where the pointer is over `artist`; `run` names its run, or ''."""
    artist.set_gid(f"{_TIP}{printable(run)}{_BETWEEN}{printable(text)}".replace("\n", " "))


def draw_point(
    axes: Axes, family: str, at: tuple[float, float], run: str, about: str, **style: Any
) -> None:
    """One point with the family's marker and a tip."""
    [point] = axes.plot(*([value] for value in at), get_family(family).marker, **style)
    tip(point, run, about)


def draw_band(axes: Axes, color: str, x: Floats, line: Sequence[Floats], label: str) -> None:
    """A line (value, low, high) within its interval."""
    value, low, high = line
    axes.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    [drawn] = axes.plot(x, value, color=color, linewidth=1.7, zorder=3)
    tip(drawn, "", label)


def add_legend(axes: Axes, label: str, **style: Any) -> None:
    """An entry of the legend by itself: a marker, or a line if `style` has a linestyle."""
    axes.plot([], [], label=label, **({"linestyle": "none"} | style))


def log_axis(
    axes: Axes,
    which: Literal["x", "y"],
    low: float,
    high: float,
    label: Callable[[float], str] = "{:g}".format,
) -> None:
    """Make an axis logarithmic from `low` to `high` with a margin; `label` writes its numbers."""
    margin = max((high / low) ** 0.03, 1.05)
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low / margin, high * margin)})
    axis = axes.xaxis if which == "x" else axes.yaxis
    decades = np.log10(high / low)
    if decades < 0.5:
        axis.set_major_locator(MaxNLocator(5))
    else:
        subs = (1, 2, 3, 5) if decades < 1 else (1, 2, 5) if decades < 2 else (1, 3)
        axis.set_major_locator(LogLocator(subs=subs if decades < 3 else (1,), numticks=7))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: label(value)))


def update_layout(axes: Axes) -> None:
    """Place the axes, so that positions in the figure are known."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()


def mark_flops(axes: Axes, palette: Palette, flops: float, text: str, **style: Any) -> None:
    """A grey vertical line at `flops` with a note at its top."""
    axes.axvline(flops, color=palette.muted, linewidth=1, **style)
    note = f"{text} {power_of_ten(flops)}"
    where: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    axes.annotate(note, (flops, 0.99), xytext=(-5, 0), ha="right", va="top", **where)


def inline(plot: Plot) -> Markup:
    """The figure as HTML."""
    palette, content = _page_palette(), io.StringIO()
    with matplotlib.rc_context(_settings(palette)):
        figure = _make_figure(plot, palette)
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    body = _strip_svg(content.getvalue(), plot.name)
    for color, variable in _variables(palette).items():
        body = body.replace(color, f"var({variable})")
    head = Markup('<svg class="drawing" viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
        WIDTH, HEIGHT, plot.label
    )
    return head + Markup(body)  # matplotlib has escaped the text in it


def shown(plot: Plot) -> dict[str, Any]:
    """A figure as a template takes it; its CSV is part of the page."""
    table = "data:text/csv;charset=utf-8," + quote(plot.csv(page=True))
    return {"name": plot.name, "drawing": inline(plot), "table": table}


def save(plots: Sequence[Plot], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write every figure into `folder`, in each format and as CSV; return what was written.

    Raises StorageError for a place that is not writable.
    """
    written, palette = [], _print_palette()
    for plot in plots:
        for name in formats:
            path = folder / f"{plot.name}.{name}"
            content = io.BytesIO()
            # No date, so that the same runs give the same file.
            metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": None}[name]
            with matplotlib.rc_context(_settings(palette)):
                figure = _make_figure(plot, palette)
                figure.savefig(content, format=name, dpi=200, metadata=metadata)
            files.write_bytes(path, content.getvalue())
            written.append(path)
        files.write_text(folder / f"{plot.name}.csv", plot.csv())
        written.append(folder / f"{plot.name}.csv")
    return written


def _settings(palette: Palette) -> dict[Any, Any]:
    return {
        # Text stays text: it takes the page's font and can be searched and selected.
        "svg.fonttype": "none",
        "pdf.fonttype": 42,
        # Else the names inside an SVG, and so the page, would differ from call to call.
        "svg.hashsalt": "epochal",
        "font.size": FONT,
        "text.parse_math": False,
        "text.color": palette.ink,
        "axes.labelcolor": palette.ink,
        "axes.edgecolor": palette.muted,
        "axes.spines.left": False,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "grid.color": palette.rule,
        "grid.linewidth": 0.8,
        "legend.frameon": False,
        "legend.fontsize": 0.92 * FONT,
        "legend.title_fontsize": FONT,
        "legend.handlelength": 1.4,
        "legend.handletextpad": 0.4,
        "legend.columnspacing": 1.2,
        "legend.borderaxespad": 0,
        "legend.borderpad": 0.1,
        "lines.solid_joinstyle": "round",
        "xtick.color": palette.muted,
        "ytick.color": palette.muted,
        "xtick.labelcolor": palette.ink,
        "ytick.labelcolor": palette.ink,
        "ytick.major.size": 0,
    }


def _make_figure(plot: Plot, palette: Palette) -> Figure:
    """The painted figure: above the axes a legend under its title, in as many columns as fit."""
    # 72 to the inch as in the SVG, so that room left for a label is of the label's size.
    figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), dpi=72, layout="constrained")
    axes = figure.add_subplot()
    axes.locator_params(nbins=6)
    axes.set_xlabel(plot.x_title)
    for family in families():
        if family.name in plot.families:
            color = palette.families[family.name]
            add_legend(axes, family.title, marker=family.marker, color=color)
    if plot.height is not None:
        low, high = plot.height
        room = 0.06 * (high - low)
        axes.set_ylim(low - room, high + room)
    plot.paint(axes, palette)
    entries = len(axes.get_legend_handles_labels()[0])
    for columns in range(entries, 0, -1):
        legend = figure.legend(
            title=plot.title, alignment="left", loc="outside upper left", ncols=columns
        )
        if columns == 1 or legend.get_window_extent().width <= WIDTH:
            break
        legend.remove()
    return figure


def _strip_svg(svg: str, name: str) -> str:
    """An SVG without what only a file of its own needs, its ids unlike those of all others."""
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
    return re.sub(r"\n\s*", "\n", body)
