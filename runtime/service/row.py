"""The row of one stream in the view: its cells, side by side in columns, and the line below that says why."""

from __future__ import annotations

from collections.abc import Sequence

from edgeasd.runtime.service.standing import latency_text, losses_text
from edgeasd.runtime.service.state import StreamState
from edgeasd.runtime.service.terminal import level_bar, sparkline

RED, YELLOW, GREEN, FAINT = "31;1", "33", "32", "2"
"""Colours as SGR parameters (ECMA-48)."""
Cell = tuple[str, str]
"""Text and its colour, "" for none."""
HEADER = ("stream", "alarm", "score / limit", "health", "latest", "level", "p50/p99", "sound")
_TRACE, _SHORT_TRACE = 24, 8
_NARROW, _WIDE = 100, 120
"""Characters of a window: below the first all that can be is short, from the second on there is room for a bar."""
_ALARMS = {"alarm": ("ALARM", RED), "acknowledged": ("acknowledged", YELLOW), "warning": ("warning", YELLOW)}
_STATES = {"failed": RED, "degraded": YELLOW}


def header(width: int | None = None) -> tuple[str, ...]:
    """Titles of the columns, for a window of `width` characters; None for one without an end."""
    return (*HEADER[:-1], "lost") if _narrow(width) else HEADER


def cells(one: StreamState, width: int | None = None, *, reasons: bool = False) -> list[Cell]:
    """A stream under `header`; `reasons`: what makes it sick stands in the line below."""
    narrow, wide = _narrow(width), width is None or width >= _WIDE
    silent = one.state in ("starting", "failed") and one.clip_score is None
    score = "     -" if one.clip_score is None else f"{one.clip_score:6.3f}"
    limit = "none" if one.threshold is None else f"{one.threshold:.3f}"
    late = one.latency_seconds
    level = f"{one.level_dbfs:.0f} dB" if narrow else f"{one.level_dbfs:6.1f} dBFS"
    if wide:
        level += f" {level_bar(one.level_dbfs)}"
    trace = one.trace[-(_SHORT_TRACE if narrow else _TRACE) :]
    return [
        (printable(one.name), ""),
        _alarm(one),
        (f"{score.lstrip() if narrow else score} / {limit}", ""),
        ("no sound", _STATES.get(one.state, "")) if silent else _health(one, short=narrow and reasons),
        (sparkline(trace, one.threshold), ""),
        ("-" if silent else level, ""),
        ("-" if late is None else latency_text(late), ""),
        _lost(one, short=narrow),
    ]


def why(one: StreamState) -> Cell | None:
    """What a stream is, where it does not simply run: state and reason, what makes it sick, its open event."""
    parts = []
    if one.state != "running":
        parts.append(one.state + (f": {one.reason}" if one.reason else ""))
    if one.sick:
        parts.append(f"sick: {', '.join(one.health) or 'its input cannot be trusted yet'}")
    if one.event is not None:
        parts.append(f"event {one.event}")
    colour = _STATES.get(one.state, YELLOW if one.sick else "")
    return (printable("; ".join(parts)), colour) if parts else None


def urgency(one: StreamState) -> int:
    """For an order in which what needs somebody comes first."""
    if one.alarm == "alarm" and not one.maintenance:
        return 0
    if one.state == "failed":
        return 1
    return 2 if one.sick or one.state == "degraded" or one.alarm != "normal" else 3


def columns(rows: Sequence[Sequence[Cell]]) -> list[list[Cell]]:
    """The same with every column as wide as its widest cell; the last one is left as it is."""
    widths = [max(len(row[at][0]) for row in rows) for at in range(len(rows[0]))]
    widths[-1] = 0
    return [[(text.ljust(width), colour) for (text, colour), width in zip(row, widths, strict=True)] for row in rows]


def written(row: Sequence[Cell], width: int | None = None, *, coloured: bool = False) -> str:
    """Cells as a line of at most `width` characters, colours not counted."""
    parts, left = [], width
    for number, (text, colour) in enumerate(row):
        shown = ("  " if number else "") + text
        shown = shown if left is None else shown[:left]
        left = None if left is None else left - len(shown)
        parts.append(f"\x1b[{colour}m{shown}\x1b[0m" if coloured and colour and shown.strip() else shown)
    return "".join(parts).rstrip()


def printable(text: str) -> str:
    """The text without anything that a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)


def _alarm(one: StreamState) -> Cell:
    if one.maintenance:
        return "maintenance", YELLOW
    shown, colour = _ALARMS.get(one.alarm, (one.alarm, ""))
    return (f"{shown}, snoozed" if one.snoozed and one.alarm == "normal" else shown), colour


def _narrow(width: int | None) -> bool:
    return width is not None and width < _NARROW


def _health(one: StreamState, *, short: bool) -> Cell:
    if one.health and not (short and one.sick):
        return ("SICK " if one.sick else "") + ", ".join(one.health), YELLOW
    return ("SICK", YELLOW) if one.sick else ("healthy", "")


def _lost(one: StreamState, *, short: bool) -> Cell:
    losses = one.dropped_seconds, one.overruns, one.skipped_segments
    return losses_text(*losses, short=short), YELLOW if any(losses) else ""
