"""What a person sees of several streams: a table that is drawn again and again, or plain lines where that cannot be."""

from __future__ import annotations

import os
import shutil
from typing import TextIO

from edgeasd.runtime.service.row import cells, printable, urgency, why, written
from edgeasd.runtime.service.state import SiteState, StreamState
from edgeasd.runtime.service.table import connection, heading, table

_REDRAW_SECONDS, _PLAIN_SECONDS = 0.5, 10.0
_PLAIN_WIDTHS = (12, 12, 14, 13, 24, 22, 9, 0)
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
        self._trouble: str | None = None
        self._connected: dict[str, bool] = {}

    def draw(self, state: SiteState, now: float) -> None:
        """Show `state`; `now` is monotonic seconds. Cheap where nothing is due."""
        if self._live:
            if now >= self._due:
                self._due = now + _REDRAW_SECONDS
                self._redraw(state)
            return
        self._say_changes(state)
        for one in state.streams:
            # What matters is said at once, figures now and then.
            what = (one.state, one.reason or "", one.alarm, one.event or "", *one.health)
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

    def _say_changes(self, state: SiteState) -> None:
        """Trouble of the service, and outputs that come and go, as plain lines."""
        lines = []
        if state.trouble != self._trouble:
            lines.append(f"TROUBLE: {state.trouble}" if state.trouble else "no trouble any more")
            self._trouble = state.trouble
        for one in state.outputs:
            # Before its first attempt an output may say that it is not connected; that is no news.
            untried = one.name not in self._connected and not one.connected and one.last_error is None
            if one.connected is None or untried or self._connected.get(one.name) == one.connected:
                continue
            self._connected[one.name] = one.connected
            error = f": {one.last_error}" if one.last_error and not one.connected else ""
            lines.append(f"output {one.name} {connection(one)}{error}")
        self._out.writelines(printable(f"{state.site}: {line}") + "\n" for line in lines)

    def _redraw(self, state: SiteState) -> None:
        size = shutil.get_terminal_size()
        room, head = size.lines - 1, heading(state)
        rows = [*head, *table(state.streams, size.columns)]
        if len(rows) > room:
            # What needs somebody is seen first, and the reasons are the first to go.
            first = sorted(state.streams, key=urgency)[: max(0, room - len(head) - 2)]
            rows = [*head, *table(first, size.columns, reasons=False)]
            if len(first) < len(state.streams):
                more = f"… and {len(state.streams) - len(first)} more streams; make the window higher"
                rows.append([(more, "")])
        lines = [written(row, size.columns - 1, coloured=self._coloured) for row in rows[: max(1, room)]]
        up = f"\x1b[{self._lines}A" if self._lines else ""
        body = "".join(f"\r{line}\x1b[K\n" for line in lines)
        self._out.write(f"{up}{body}\x1b[J")
        self._out.flush()
        self._lines = len(lines)


def _plain(one: StreamState) -> str:
    reason = why(one)
    padded = [(text.ljust(width), "") for (text, _), width in zip(cells(one), _PLAIN_WIDTHS, strict=True)]
    return written(padded) + ("" if reason is None else f"  [{reason[0]}]")
