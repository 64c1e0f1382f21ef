"""The picture of a history: scores with threshold and events, level, and operating states. As SVG, or PNG with Pillow."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Protocol
from xml.sax.saxutils import escape

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.trend.history import EVERY, History, HistoryRow, gaps

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 1200, 70, 20, 34, 36
_SCORE_HEIGHT, _LEVEL_HEIGHT, _STATE_HEIGHT, _GAP = 240, 110, 16, 16
_HEIGHT = _TOP + _SCORE_HEIGHT + _GAP + _LEVEL_HEIGHT + _GAP + _STATE_HEIGHT + _BOTTOM
_INK, _GRID, _LINE, _BAND = "#282828", "#d2d2d2", "#1f5aa0", "#c3d4ea"
_ALARM, _EVENT, _CHANGE = "#d62728", "#f7d4d4", "#b36b00"
_STATES = ("#4c9f70", "#8a8a8a", "#c9a227", "#6a51a3", "#2b8cbe", "#a6611a")
"""running, off, idle, then modes in the order they come."""
_FIRST_STATES = ("running", "off", "idle")
_Point = tuple[float, float]


class _Canvas(Protocol):
    def line(self, points: Sequence[_Point], colour: str, width: float = 1.0, dashed: bool = False) -> None: ...

    def area(self, points: Sequence[_Point], colour: str) -> None: ...

    def text(self, at: _Point, text: str, anchor: str = "start") -> None: ...

    def finish(self) -> bytes: ...


def draw_history(history: History, kind: str) -> bytes:
    """A picture as bytes; `kind` is "svg" or "png". Raises InputError for another, and for PNG without Pillow."""
    if kind not in ("svg", "png"):
        raise InputError(f"{kind}: not a kind of picture; name a file that ends in .svg or .png")
    canvas: _Canvas = _Svg() if kind == "svg" else _Png()
    across = _axis(history.since, history.until, _LEFT, _WIDTH - _RIGHT)
    bottom = _TOP + _SCORE_HEIGHT
    _draw_events(canvas, history, across, bottom)
    _draw_scores(canvas, history, across, bottom)
    _draw_levels(canvas, history.rows, history.every, across, bottom + _GAP)
    _draw_states(canvas, history, across, bottom + 2 * _GAP + _LEVEL_HEIGHT)
    _draw_times(canvas, history, across)
    canvas.text((_LEFT, 20), f"{history.machine} {history.id}")
    return canvas.finish()


def _axis(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    scale = (end - start) / ((high - low) or 1.0)
    return lambda value: start + (min(max(value, low), high) - low) * scale


def _range(values: Sequence[float], least: float) -> tuple[float, float]:
    """Limits with a little air around finite values."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    air = max(0.05 * (high - low), 0.5 * (least - (high - low)), 0.0)
    return low - air, high + air


def _steps(low: float, high: float) -> list[float]:
    """Three to six round numbers between two."""
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * one for one in (1, 2, 5, 10) if power * one >= raw)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _draw_scale(canvas: _Canvas, low: float, high: float, down: Callable[[float], float], unit: str) -> None:
    for value in _steps(low, high):
        canvas.line([(_LEFT, down(value)), (_WIDTH - _RIGHT, down(value))], _GRID)
        canvas.text((_LEFT - 6, down(value) + 4), f"{value:g}", "end")
    canvas.text((6, down(high) + 12), unit)


def _draw_scores(canvas: _Canvas, history: History, across: Callable[[float], float], bottom: float) -> None:
    extra = [] if history.threshold is None else [history.threshold]
    values = [value for row in history.rows for value in (row.low, row.high)]
    low, high = _range([*values, *extra], 0.1)
    down = _axis(low, high, bottom, _TOP)
    _draw_scale(canvas, low, high, down, "score")
    for piece in gaps(history.rows, history.every):
        middle = [(across(_middle(row, history.every)), row) for row in piece]
        if len(piece) > 1 and history.every != "score":
            outline = [(x, down(row.high)) for x, row in middle] + [(x, down(row.low)) for x, row in reversed(middle)]
            canvas.area(outline, _BAND)
        points = [(x, down(row.mean)) for x, row in middle]
        canvas.line(points if len(points) > 1 else [points[0], (points[0][0] + 1, points[0][1])], _LINE, 1.5)
    if history.threshold is not None:
        y = down(history.threshold)
        canvas.line([(_LEFT, y), (_WIDTH - _RIGHT, y)], _ALARM, 1.0, dashed=True)
    for _, change in history.changes:
        if history.since <= change.began < history.until:
            x = across(change.began)
            canvas.line([(x, _TOP), (x, bottom)], _CHANGE, 1.5, dashed=True)
            canvas.text((x + 4, _TOP + 12), f"{change.quantity} {change.shape}")


def _draw_events(canvas: _Canvas, history: History, across: Callable[[float], float], bottom: float) -> None:
    for event in history.events:
        start, end = event["raised_at"], event["cleared_at"] or history.until
        x0, x1 = across(start), max(across(end), across(start) + 1.5)
        canvas.area([(x0, _TOP), (x1, _TOP), (x1, bottom), (x0, bottom)], _EVENT)
        canvas.line([(x0, _TOP), (x0, bottom)], _ALARM)


def _draw_levels(
    canvas: _Canvas, rows: Sequence[HistoryRow], every: str, across: Callable[[float], float], top: float
) -> None:
    known = [row for row in rows if math.isfinite(row.level)]
    low, high = _range([row.level for row in known], 6.0) if known else (-60.0, 0.0)
    down = _axis(low, high, top + _LEVEL_HEIGHT, top)
    _draw_scale(canvas, low, high, down, "dBFS")
    line: list[_Point] = []
    for row in rows:
        if math.isfinite(row.level):
            line.append((across(_middle(row, every)), down(row.level)))
        elif line:
            canvas.line(line, _INK)
            line = []
    if len(line) > 1:
        canvas.line(line, _INK)


def _draw_states(canvas: _Canvas, history: History, across: Callable[[float], float], top: float) -> None:
    names = list(dict.fromkeys([*_FIRST_STATES, *(row.state for row in history.rows if row.state)]))
    colours = {name: _STATES[i % len(_STATES)] for i, name in enumerate(names)}
    width = EVERY[history.every] or 1.0
    for row in history.rows:
        if row.state is not None:
            x0, x1 = across(row.at), max(across(row.at + width), across(row.at) + 1)
            canvas.area(
                [(x0, top), (x1, top), (x1, top + _STATE_HEIGHT), (x0, top + _STATE_HEIGHT)], colours[row.state]
            )
    x = float(_WIDTH - _RIGHT)
    for name in reversed([name for name in names if any(row.state == name for row in history.rows)]):
        x -= 8 * len(name) + 26
        canvas.area([(x, 10), (x + 10, 10), (x + 10, 20), (x, 20)], colours[name])
        canvas.text((x + 14, 20), name)


def _draw_times(canvas: _Canvas, history: History, across: Callable[[float], float]) -> None:
    span = history.until - history.since
    form = "%H:%M" if span <= 2 * 86_400 else "%m-%d" if span <= 300 * 86_400 else "%Y-%m"
    for i in range(7):
        at = history.since + span * i / 6
        x = across(at)
        canvas.line([(x, _HEIGHT - _BOTTOM), (x, _HEIGHT - _BOTTOM + 5)], _INK)
        canvas.text((x, _HEIGHT - 14), datetime.fromtimestamp(at).strftime(form), "middle")


def _middle(row: HistoryRow, every: str) -> float:
    return row.at + EVERY[every] / 2


class _Svg:
    def __init__(self) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
            f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="13">',
            f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        ]

    def line(self, points: Sequence[_Point], colour: str, width: float = 1.0, dashed: bool = False) -> None:
        dash = ' stroke-dasharray="6 4"' if dashed else ""
        style = f'fill="none" stroke="{colour}" stroke-width="{width}"{dash}'
        self._parts.append(f'<polyline points="{_coordinates(points)}" {style}/>')

    def area(self, points: Sequence[_Point], colour: str) -> None:
        self._parts.append(f'<polygon points="{_coordinates(points)}" fill="{colour}"/>')

    def text(self, at: _Point, text: str, anchor: str = "start") -> None:
        shown = escape("".join(c if c.isprintable() else " " for c in text))
        self._parts.append(f'<text x="{at[0]:.1f}" y="{at[1]:.1f}" text-anchor="{anchor}" fill="{_INK}">{shown}</text>')

    def finish(self) -> bytes:
        return ("\n".join([*self._parts, "</svg>"]) + "\n").encode()


def _coordinates(points: Sequence[_Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


class _Png:
    def __init__(self) -> None:
        try:
            from PIL import Image, ImageDraw, ImageFont
        except ImportError:
            raise InputError(
                "pictures: Pillow is not installed; pip install 'edgeasd[serve]', or draw an SVG"
            ) from None
        self._image = Image.new("RGB", (_WIDTH, _HEIGHT), "#ffffff")
        self._draw: Any = ImageDraw.Draw(self._image)
        self._font = ImageFont.load_default(13)

    def line(self, points: Sequence[_Point], colour: str, width: float = 1.0, dashed: bool = False) -> None:
        if not dashed:
            self._draw.line(list(points), fill=colour, width=max(1, round(width)))
            return
        (x0, y0), (x1, y1) = points[0], points[-1]
        length = math.hypot(x1 - x0, y1 - y0) or 1.0
        for begin in range(0, int(length), 10):
            ends = [min(length, begin + part) / length for part in (0, 6)]
            self._draw.line([(x0 + t * (x1 - x0), y0 + t * (y1 - y0)) for t in ends], fill=colour)

    def area(self, points: Sequence[_Point], colour: str) -> None:
        self._draw.polygon(list(points), fill=colour)

    def text(self, at: _Point, text: str, anchor: str = "start") -> None:
        place = {"start": "ls", "middle": "ms", "end": "rs"}[anchor]
        self._draw.text(at, text, fill=_INK, font=self._font, anchor=place)

    def finish(self) -> bytes:
        data = io.BytesIO()
        self._image.save(data, "PNG")
        return data.getvalue()
