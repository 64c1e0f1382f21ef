"""What a person sees of several streams: a table that is drawn again and again, or plain lines where that cannot be."""

from __future__ import annotations

import os
import shutil
from typing import TextIO

from edgeasd.runtime.service.row import FAINT, HEADER, RED, Cell, cells, columns, printable, urgency, why, written
from edgeasd.runtime.service.state import SiteState, StreamState

_REDRAW_SECONDS, _PLAIN_SECONDS = 0.5, 10.0
_PLAIN_WIDTHS = (12, 12, 14, 24, 22, 7, 9, 0)
"""Lines are written one by one, so no column can be as wide as its widest cell."""


class SiteView:
    """Draws a `SiteState` now and then."""

    def __init__(self, out: TextIO, *, live: bool | None = None) -> None:
        """`live` draws in place, in colour unless NO_COLOR is set; by default where `out` is a terminal."""
        self._out = out
        self._coloured = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._live = out.isatty() if live is None else live
        self._due, self._lines = 0.0, 0
        self._said: dict[str, tuple[str, ...]] = {}

    def draw(self, state: SiteState, now: float) -> None:
        """Show `state`; `now` is monotonic seconds. Cheap where nothing is due."""
        if self._live:
            if now >= self._due:
                self._due = now + _REDRAW_SECONDS
                self._redraw(state)
            return
        for one in state.streams:
            # What matters is said at once, figures now and then.
            what = (one.state, one.reason or "", one.alarm, *one.health)
            if now >= self._due or self._said.get(one.name) != what:
                self._said[one.name] = what
                self._out.write(_plain(one) + "\n")
        if now >= self._due:
            self._due = now + _PLAIN_SECONDS
        self._out.flush()

    def close(self, state: SiteState) -> None:
        """Show the last state, and leave the cursor on a line of its own."""
        self._due = 0.0
        if self._live:
            self._redraw(state)
        self._out.flush()

    def _redraw(self, state: SiteState) -> None:
        size = shutil.get_terminal_size()
        room = size.lines - 1
        rows = [_head(state), *_table(state.streams)]
        if len(rows) > room:
            # What needs somebody is seen first, and the reasons are the first to go.
            first = sorted(state.streams, key=urgency)[: max(0, room - 3)]
            more = f"… and {len(state.streams) - len(first)} more streams; make the window higher"
            rows = [_head(state), *_table(first, reasons=False), [(more, "")]]
        lines = [written(row, size.columns - 1, coloured=self._coloured) for row in rows]
        up = f"\x1b[{self._lines}A" if self._lines else ""
        body = "".join(f"\r{line}\x1b[K\n" for line in lines)
        self._out.write(f"{up}{body}\x1b[J")
        self._out.flush()
        self._lines = len(lines)


def _head(state: SiteState) -> list[Cell]:
    outputs = ", ".join(f"{one.name} {_output(one.connected)}, {one.queued} wait" for one in state.outputs)
    said = "; ".join(part for part in (f"{state.site}, up {state.uptime_seconds:.0f} s", outputs) if part)
    return [(printable(said), ""), *([(printable(f"TROUBLE: {state.trouble}"), RED)] if state.trouble else [])]


def _output(connected: bool | None) -> str:
    return {True: "connected", False: "NOT connected", None: "unknown"}[connected]


def _table(streams: list[StreamState], *, reasons: bool = True) -> list[list[Cell]]:
    """Header and rows; below a stream that does not simply run, why."""
    header: list[Cell] = [(text, FAINT) for text in HEADER]
    title, *rows = columns([header, *(cells(one) for one in streams)])
    lines = [title]
    for one, row in zip(streams, rows, strict=True):
        lines.append(row)
        reason = why(one)
        if reasons and reason is not None:
            lines.append([(f"    {reason[0]}", reason[1])])
    return lines


def _plain(one: StreamState) -> str:
    reason = why(one)
    padded = [(text.ljust(width), "") for (text, _), width in zip(cells(one), _PLAIN_WIDTHS, strict=True)]
    return written(padded) + ("" if reason is None else f"  [{reason[0]}]")
