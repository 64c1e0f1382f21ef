"""Plots as inline SVG: axes, lines, bands, bars and marks, with a title and a description for who cannot see them.

Colours are names of the style sheet in html.py (normal, anomaly, accent, mark), so that a plot follows light
and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from edgeasd.toolkit.reports.html import Html, tag

WIDTH, HEIGHT = 420, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 12, 44


class Plot:
    """One set of axes over `x_range` and `y_range`; what is drawn later lies on top."""

    def __init__(
        self,
        title: str,
        description: str,
        x_label: str,
        y_label: str,
        x_range: tuple[float, float],
        y_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        self._title, self._description = title, description
        self._x_range, self._y_range = _with_width(x_range), _with_width(y_range)
        self._parts = [*self._axes(x_label, y_label)]

    def line(self, x: ArrayLike, y: ArrayLike, colour: str) -> None:
        """A line through the points, (n,) each."""
        self._parts.append(tag("polyline", points=self._points(x, y), class_="line", style=f"stroke: var(--{colour})"))

    def band(self, x: ArrayLike, low: ArrayLike, high: ArrayLike, colour: str) -> None:
        """The area between two lines over the same x, (n,) each."""
        points = f"{self._points(x, high)} {self._points(np.asarray(x)[::-1], np.asarray(low)[::-1])}"
        self._parts.append(tag("polygon", points=points, class_="band", style=f"fill: var(--{colour})"))

    def bars(self, edges: ArrayLike, heights: ArrayLike, colour: str) -> None:
        """A histogram: bin edges (n + 1,), heights (n,)."""
        sides, tops = np.asarray(edges, float), np.asarray(heights, float)
        for left, right, top in zip(sides[:-1], sides[1:], tops, strict=True):
            if top > 0:
                (x0, y0), (x1, y1) = self._place(left, top), self._place(right, self._y_range[0])
                self._parts.append(
                    tag(
                        "rect",
                        x=_short(x0 + 0.5),
                        y=_short(y0),
                        width=_short(max(x1 - x0 - 1, 0.5)),
                        height=_short(y1 - y0),
                        class_="bar",
                        style=f"fill: var(--{colour})",
                    )
                )

    def points(self, x: ArrayLike, y: ArrayLike, colour: str) -> None:
        """A dot for each pair, (n,) each."""
        for a, b in zip(np.asarray(x, float), np.asarray(y, float), strict=True):
            px, py = self._place(a, b)
            dot = tag("circle", cx=_short(px), cy=_short(py), r=3, class_="bar", style=f"fill: var(--{colour})")
            self._parts.append(dot)

    def vertical(self, x: float, label: str) -> None:
        """A dashed upright with a word beside it; nothing where it lies outside the axes."""
        if not self._x_range[0] <= x <= self._x_range[1]:
            return
        (px, top), (_, bottom) = self._place(x, self._y_range[1]), self._place(x, self._y_range[0])
        left_half = px < (WIDTH + _LEFT) / 2
        self._parts.append(tag("path", d=f"M{_short(px)} {_short(top)}V{_short(bottom)}", class_="mark"))
        anchor = "start" if left_half else "end"
        at = px + (5 if left_half else -5)
        self._parts.append(tag("text", label, x=_short(at), y=_short(top + 16), text_anchor=anchor))

    def chance(self, x: ArrayLike, y: ArrayLike) -> None:
        """A dotted line of no merit."""
        self._parts.append(tag("polyline", points=self._points(x, y), class_="chance"))

    def svg(self) -> Html:
        """The element."""
        return tag(
            "svg",
            tag("title", self._title),
            tag("desc", self._description),
            *self._parts,
            viewBox=f"0 0 {WIDTH} {HEIGHT}",
            role="img",
        )

    def _place(self, x: float, y: float) -> tuple[float, float]:
        (x0, x1), (y0, y1) = self._x_range, self._y_range
        across, up = (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)
        return _LEFT + across * (WIDTH - _LEFT - _RIGHT), HEIGHT - _BOTTOM - up * (HEIGHT - _TOP - _BOTTOM)

    def _points(self, x: ArrayLike, y: ArrayLike) -> str:
        pairs = zip(np.asarray(x, float), np.asarray(y, float), strict=True)
        return " ".join(f"{_short(px)},{_short(py)}" for px, py in (self._place(a, b) for a, b in pairs))

    def _axes(self, x_label: str, y_label: str) -> list[Html]:
        left, bottom = self._place(self._x_range[0], self._y_range[0])
        right, top = self._place(self._x_range[1], self._y_range[1])
        parts = []
        for value in ticks(*self._x_range):
            x, _ = self._place(value, 0)
            parts.append(tag("path", d=f"M{_short(x)} {_short(bottom)}v4", class_="axis"))
            parts.append(tag("text", _number(value), x=_short(x), y=_short(bottom + 17), text_anchor="middle"))
        for value in ticks(*self._y_range):
            _, y = self._place(self._x_range[0], value)
            parts.append(tag("path", d=f"M{_short(left)} {_short(y)}H{_short(right)}", class_="axis"))
            parts.append(tag("text", _number(value), x=_short(left - 6), y=_short(y + 4), text_anchor="end"))
        middle_x, middle_y = _short((left + right) / 2), _short((top + bottom) / 2)
        parts.append(tag("text", x_label, x=middle_x, y=HEIGHT - 8, text_anchor="middle"))
        turned = f"rotate(-90 12 {middle_y})"
        parts.append(tag("text", y_label, x=12, y=middle_y, text_anchor="middle", transform=turned))
        return parts


def ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values in [low, high], at steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def shared_edges(*groups: Sequence[float], bins: int = 24) -> np.ndarray:
    """Bin edges (bins + 1,) over all values of several groups."""
    values = np.concatenate([np.asarray(group, float) for group in groups])
    low, high = _with_width((float(values.min()), float(values.max())))
    return np.linspace(low, high, bins + 1)


def _with_width(span: tuple[float, float]) -> tuple[float, float]:
    low, high = span
    if high - low > 1e-12 * max(abs(low), abs(high), 1e-300):
        return low, high
    room = abs(low) / 2 or 0.5
    return low - room, high + room


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _number(value: float) -> str:
    return f"{value:.4g}"
