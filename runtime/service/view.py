"""What a person sees of several streams: a table that is drawn again and again, or plain lines where that cannot be."""

from __future__ import annotations

import shutil
from typing import TextIO

from edgeasd.runtime.service.state import SiteState, StreamState
from edgeasd.runtime.terminal import level_bar, sparkline

_REDRAW_SECONDS, _PLAIN_SECONDS = 0.5, 10.0
_TRACE = 24


class SiteView:
    """Draws a `SiteState` now and then."""

    def __init__(self, out: TextIO, *, live: bool | None = None) -> None:
        """`live` draws in place; by default where `out` is a terminal."""
        self._out = out
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
                self._out.write(_line(one) + "\n")
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
        lines = [_head(state), *(_line(one) for one in state.streams)]
        hidden = len(lines) - (size.lines - 1)
        if hidden > 0:
            lines = [*lines[: size.lines - 2], f"… and {hidden + 1} more streams; make the window higher"]
        up = f"\x1b[{self._lines}A" if self._lines else ""
        body = "".join(f"\r{line[: size.columns - 1]}\x1b[K\n" for line in lines)
        self._out.write(f"{up}{body}\x1b[J")
        self._out.flush()
        self._lines = len(lines)


def _head(state: SiteState) -> str:
    outputs = ", ".join(f"{one.name} {_output(one.connected)}, {one.queued} wait" for one in state.outputs)
    trouble = f"; TROUBLE: {state.trouble}" if state.trouble else ""
    said = "; ".join(part for part in (f"{state.site}, up {state.uptime_seconds:.0f} s", outputs) if part)
    return _printable(said + trouble)


def _output(connected: bool | None) -> str:
    return {True: "connected", False: "NOT connected", None: "unknown"}[connected]


def _line(one: StreamState) -> str:
    score = "     -" if one.clip_score is None else f"{one.clip_score:6.3f}"
    limit = "none" if one.threshold is None else f"{one.threshold:.3f}"
    latency = one.latency_seconds
    late = "-" if latency is None else f"{1000 * latency['p50']:.0f}/{1000 * latency['p99']:.0f} ms"
    lost = f"{one.dropped_seconds:.1f} s lost" if one.dropped_seconds else "none lost"
    skipped = f", {one.skipped_segments} skipped" if one.skipped_segments else ""
    text = (
        f"{one.name:<12} {_alarm(one):<13} {score} / {limit}  {sparkline(one.trace[-_TRACE:], one.threshold):<{_TRACE}}  "
        f"{one.level_dbfs:6.1f} dBFS {level_bar(one.level_dbfs)}  {_health(one):<9}  {late}, {lost}{skipped}"
    )
    reason = f"  [{one.state}{': ' + one.reason if one.reason else ''}]" if one.state != "running" else ""
    return _printable(text + reason)


def _alarm(one: StreamState) -> str:
    if one.maintenance:
        return "maintenance"
    shown = {"alarm": "ALARM", "acknowledged": "acknowledged"}.get(one.alarm, one.alarm)
    return f"{shown}, snoozed" if one.snoozed and one.alarm == "normal" else shown


def _health(one: StreamState) -> str:
    if one.health:
        return ("SICK " if one.sick else "") + ", ".join(one.health)
    return "SICK" if one.sick else "healthy"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
