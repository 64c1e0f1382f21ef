"""Figure 2 as SVG: AUC against the number of known anomalies, a panel for each machine type, a line for each method."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from edgeasd.toolkit.reports.html import Html, tag
from edgeasd.toolkit.reports.plots import ticks
from edgeasd.toolkit.reproduction.table import Cell

_LOOKS = {
    "bce": ("#0072b2", "circle", None),
    "dsad": ("#e69f00", "square", "6 3"),
    "ddcsad": ("#009e73", "triangle", "2 3"),
    "bce+dsad": ("#cc3311", "diamond", "8 3 2 3"),
    "bce+ddcsad": ("#6a3d9a", "circle", None),
}
"""Colour (told apart by most colour-blind readers), mark and dashes of each method."""
_ACROSS, _PANEL_WIDTH, _PANEL_HEIGHT = 3, 330, 250
_LEFT, _RIGHT, _TOP, _BOTTOM, _LEGEND = 48, 10, 30, 44, 34
_APART = 3.0
"""Pixels between the methods at one count, so that their bars do not cover each other."""


def figure_two(title: str, cells: Sequence[Cell]) -> Html:
    """The whole picture, which stands alone as a file. Cells without an AUC leave a gap in their line."""
    machines = list(dict.fromkeys(cell.machine for cell in cells))
    methods = list(dict.fromkeys(cell.method for cell in cells))
    counts = sorted({cell.count for cell in cells})
    low = _lowest(cells)
    width = _PANEL_WIDTH * max(1, min(_ACROSS, len(machines)))
    # A single panel is narrower than the names of five methods beside each other.
    legend, legend_height = _legend(methods, width)
    height = legend_height + _PANEL_HEIGHT * math.ceil(len(machines) / _ACROSS)
    panels = []
    for number, machine in enumerate(machines):
        x, y = number % _ACROSS * _PANEL_WIDTH, legend_height + number // _ACROSS * _PANEL_HEIGHT
        panel = _panel(machine, [cell for cell in cells if cell.machine == machine], methods, counts, low)
        panels.append(tag("g", *panel, transform=f"translate({x} {y})"))
    return tag(
        "svg",
        tag("title", title),
        tag("desc", _description(cells)),
        tag("rect", width=width, height=height, fill="#fff"),
        *legend,
        *panels,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        font_family="system-ui, Helvetica, sans-serif",
        font_size=12,
        fill="#333",
    )


def _panel(machine: str, cells: Sequence[Cell], methods: list[str], counts: list[int], low: float) -> list[Html]:
    left, right, top, bottom = _LEFT, _PANEL_WIDTH - _RIGHT, _TOP, _PANEL_HEIGHT - _BOTTOM

    def across(count: int, method: str) -> float:
        """0 stands where 1/2 would on the logarithmic axis."""
        last = max(_position(counts[-1]), 1.0)
        room = right - left - 30
        return left + 15 + room * _position(count) / last + _APART * (methods.index(method) - (len(methods) - 1) / 2)

    def up(auc: float) -> float:
        return bottom - (min(max(auc, low), 1.0) - low) / (1.0 - low) * (bottom - top)

    parts = [tag("text", machine, x=(left + right) / 2, y=top - 10, text_anchor="middle", font_weight="bold")]
    for value in ticks(100 * low, 100.0):
        y = _short(up(value / 100))
        parts.append(tag("path", d=f"M{left} {y}H{right}", stroke="#ddd"))
        parts.append(tag("text", f"{value:.4g}", x=left - 6, y=_short(up(value / 100) + 4), text_anchor="end"))
    middle = methods[len(methods) // 2]
    shift = _APART * (len(methods) // 2 - (len(methods) - 1) / 2)
    for count in counts:
        x = _short(across(count, middle) - shift)
        parts.append(tag("path", d=f"M{x} {bottom}v4", stroke="#999"))
        parts.append(tag("text", count, x=x, y=bottom + 17, text_anchor="middle"))
    parts.append(tag("text", "known anomalies", x=(left + right) / 2, y=bottom + 35, text_anchor="middle"))
    turned = f"rotate(-90 12 {(top + bottom) / 2})"
    parts.append(tag("text", "AUC %", x=12, y=(top + bottom) / 2, text_anchor="middle", transform=turned))
    for method in methods:
        own = sorted((cell for cell in cells if cell.method == method), key=lambda cell: cell.count)
        colour, mark, dashes = _LOOKS[method]
        for piece in _pieces(own):
            points = " ".join(f"{_short(across(c.count, method))},{_short(up(c.auc or 0.0))}" for c in piece)
            look = {"fill": "none", "stroke": colour, "stroke_width": 1.8, "stroke_dasharray": dashes}
            parts.append(tag("polyline", points=points, **look))
            for cell in piece:
                parts += _point(cell, across(cell.count, method), up, colour, mark)
    return parts


def _point(cell: Cell, x: float, up: Callable[[float], float], colour: str, mark: str) -> list[Html]:
    auc, half = cell.auc or 0.0, cell.half_width or 0.0
    named = tag("title", f"{cell.method}, n = {cell.count}: {100 * auc:.2f} ± {100 * half:.2f} %")
    bar = tag(
        "path", d=f"M{_short(x)} {_short(up(auc + half))}V{_short(up(auc - half))}", stroke=colour, stroke_opacity=0.6
    )
    return [bar, _mark(mark, x, up(auc), colour, named)]


def _mark(kind: str, x: float, y: float, colour: str, *inside: Html) -> Html:
    if kind == "circle":
        return tag("circle", *inside, cx=_short(x), cy=_short(y), r=3.2, fill=colour)
    shapes = {
        "square": "m-3-3h6v6h-6z",
        "triangle": "m0-4l3.8 6.5h-7.6z",
        "diamond": "m0-4.2l4.2 4.2l-4.2 4.2l-4.2-4.2z",
    }
    return tag("path", *inside, d=f"M{_short(x)} {_short(y)}{shapes[kind]}", fill=colour)


def _legend(methods: list[str], width: int) -> tuple[list[Html], int]:
    step = 110
    across = max(1, (width - 20) // step)
    parts = []
    for number, method in enumerate(methods):
        colour, mark, dashes = _LOOKS[method]
        x, y = 15 + number % across * step, 20 + number // across * 18
        parts.append(tag("path", d=f"M{x} {y}h26", stroke=colour, stroke_width=1.8, stroke_dasharray=dashes))
        parts.append(_mark(mark, x + 13, y, colour))
        parts.append(tag("text", method, x=x + 32, y=y + 4))
    return parts, _LEGEND + 18 * ((len(methods) - 1) // across)


def _pieces(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Runs of neighbours that have an AUC."""
    pieces: list[list[Cell]] = [[]]
    for cell in cells:
        if cell.auc is not None:
            pieces[-1].append(cell)
        elif pieces[-1]:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _lowest(cells: Sequence[Cell]) -> float:
    """Where the AUC axis begins: 10 points below the lowest bar at the most, on a round number."""
    lows = [cell.auc - (cell.half_width or 0.0) for cell in cells if cell.auc is not None]
    lowest = max(0.0, min(lows, default=0.5))
    return min(0.9, math.floor(10 * lowest) / 10)


def _position(count: int) -> float:
    return 0.0 if count == 0 else 1.0 + math.log2(count)


def _description(cells: Sequence[Cell]) -> str:
    said = [
        f"{cell.machine}, {cell.method}, n = {cell.count}: {100 * cell.auc:.1f}"
        for cell in cells
        if cell.auc is not None
    ]
    return (
        f"AUC in % against the number n of known anomalies, with 95 % intervals. {'; '.join(said) or 'No figures yet'}."
    )


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
