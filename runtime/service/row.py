"""The row of one stream in the view: its cells, side by side in columns, and the line below that says why."""

from __future__ import annotations

from collections.abc import Sequence

from edgeasd.runtime.service.state import StreamState
from edgeasd.runtime.terminal import level_bar, sparkline

RED, YELLOW, GREEN, FAINT = "31;1", "33", "32", "2"
"""Colours as SGR parameters (ECMA-48)."""
Cell = tuple[str, str]
"""Text and its colour, "" for none."""
HEADER = ("stream", "alarm", "score / limit", "latest scores", "level", "health", "p50/p99", "sound")
_TRACE = 24
_ALARMS = {"alarm": ("ALARM", RED), "acknowledged": ("acknowledged", YELLOW), "warning": ("warning", YELLOW)}
_STATES = {"failed": RED, "degraded": YELLOW}


def cells(one: StreamState) -> list[Cell]:
    """A stream under HEADER."""
    silent = one.state in ("starting", "failed") and one.clip_score is None
    score = "     -" if one.clip_score is None else f"{one.clip_score:6.3f}"
    limit = "none" if one.threshold is None else f"{one.threshold:.3f}"
    late = one.latency_seconds
    level = "-" if silent else f"{one.level_dbfs:6.1f} dBFS {level_bar(one.level_dbfs)}"
    return [
        (printable(one.name), ""),
        _alarm(one),
        (f"{score} / {limit}", ""),
        (sparkline(one.trace[-_TRACE:], one.threshold), ""),
        (level, ""),
        ("no sound", _STATES.get(one.state, "")) if silent else _health(one),
        ("-" if late is None else f"{1000 * late['p50']:.0f}/{1000 * late['p99']:.0f} ms", ""),
        _lost(one),
    ]


def why(one: StreamState) -> Cell | None:
    """What a stream is, where it does not simply run, and why."""
    if one.state == "running":
        return None
    return printable(one.state + (f": {one.reason}" if one.reason else "")), _STATES.get(one.state, "")


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


def _health(one: StreamState) -> Cell:
    if one.health:
        return ("SICK " if one.sick else "") + ", ".join(one.health), YELLOW
    return ("SICK", YELLOW) if one.sick else ("healthy", "")


def _lost(one: StreamState) -> Cell:
    lost = f"{one.dropped_seconds:.1f} s lost" if one.dropped_seconds else "none lost"
    skipped = f", {one.skipped_segments} skipped" if one.skipped_segments else ""
    return lost + skipped, YELLOW if one.dropped_seconds or one.skipped_segments else ""
