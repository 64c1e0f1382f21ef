"""What a person sees of `run`: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TextIO

from edgeasd.runtime.service.listen import Record
from edgeasd.runtime.service.standing import Standing

_BLOCKS = " ▁▂▃▄▅▆▇█"
_PLAIN_EVERY_SECONDS_OF_SOUND = 5.0
_REFRESH_SECONDS = 0.1
_TRACE = 24
_LEAST_TRACE = 6
"""Scores of the trace that a line keeps rather than its bar, its words or its time."""


class TerminalView:
    """Draws level, score against threshold, status and standing; `update` takes every record of the listener."""

    def __init__(
        self,
        out: TextIO,
        sample_rate: int,
        *,
        live: bool | None = None,
        standing: Callable[[], Standing] | None = None,
    ) -> None:
        """`live` redraws one line; by default where `out` is a terminal. `standing` is asked for every line."""
        self._out, self._rate, self._standing = out, sample_rate, standing
        self._live = out.isatty() if live is None else live
        self._trace: deque[float] = deque(maxlen=_TRACE)
        self._drawn = 0.0
        self._next_plain = 0.0
        self._on_line = False

    def update(self, record: Record, level: float) -> None:
        """Show one record; `level` is the level of the sound in dBFS."""
        kind = record["type"]
        if kind == "score":
            self._score(record, level)
        elif kind == "alarm":
            what = "ALARM  " if record["state"] == "raised" else "cleared"
            self._line(
                f"{what} {record['machine']} {record['id']} at {record['end_seconds']:.2f} s: clip score "
                f"{record['clip_score']:.3f}, threshold {record['threshold']:.3f}, {record['consecutive']} in a row"
            )
        elif kind == "late":
            self._line(
                f"LATE    {record['machine']} {record['id']}: scoring is {record['behind_seconds']:.1f} s behind the "
                f"sound, which is dropped from {record['dropping_at']} s on"
            )
        elif kind == "overload":
            every, behind = record["keep_every"], record["behind_seconds"]
            scored = "every segment" if every == 1 else f"one of {every} segments"
            self._line(
                f"SCORES  {record['machine']} {record['id']}: {scored} from here on; {behind:.1f} s of sound wait"
            )
        elif kind == "health":
            self._line(_health_line(record))
        elif kind == "source":
            state, lost = record["state"].upper(), record["lost_seconds"]
            missing = f"; {lost:.2f} s of sound lost" if lost else ""
            self._line(f"{state:<8} {record['machine']} {record['id']}: {record['detail']}{missing}")
        elif kind == "gap":
            lost = f"{record['lost_samples'] / self._rate:.2f} s of sound"
            if record["driver_overrun"]:
                lost = "an unknown stretch of sound"
            self._line(f"LOST    {record['machine']} {record['id']}: {lost}; scoring starts afresh")

    def close(self) -> None:
        """Leave the cursor on a line of its own."""
        if self._on_line:
            self._out.write("\n")
            self._on_line = False
        self._out.flush()

    def _score(self, record: Record, level: float) -> None:
        self._trace.append(record["clip_score"])
        if self._live:
            now = time.monotonic()
            if now - self._drawn >= _REFRESH_SECONDS:
                self._drawn = now
                width = shutil.get_terminal_size().columns
                self._out.write("\r\x1b[K" + self._fitting(record, level, width - 1))
                self._out.flush()
                self._on_line = True
        elif record["end_seconds"] >= self._next_plain:
            self._next_plain = record["end_seconds"] + _PLAIN_EVERY_SECONDS_OF_SOUND
            self._line("  ".join([*_cells(record, level), *self._standing_texts(), self._drawn_trace(record)]))

    def _fitting(self, record: Record, level: float, width: int) -> str:
        """The fullest line of at most `width` characters; a shorter trace is given up first."""
        trace, standing, head = self._drawn_trace(record), self._standing_texts(), ""
        for leave_out in ((), ("bar",), ("bar", "words"), ("bar", "words", "time")):
            head = "  ".join([*_cells(record, level, leave_out), *standing, ""])
            if len(head) + min(_LEAST_TRACE, len(trace)) <= width:
                break
        room = max(0, width - len(head))
        return (head + (trace[-room:] if room else ""))[:width]

    def _drawn_trace(self, record: Record) -> str:
        return sparkline(self._trace, record["threshold"])

    def _standing_texts(self) -> list[str]:
        return [] if self._standing is None else self._standing().texts()

    def _line(self, text: str) -> None:
        if self._on_line:
            self._out.write("\r\x1b[K")
            self._on_line = False
        self._out.write(text.rstrip() + "\n")
        self._out.flush()


def _cells(record: Record, level: float, leave_out: tuple[str, ...] = ()) -> list[str]:
    """Machine, time, level and score, without the `leave_out`: "bar", "words" (and columns) or "time"."""
    threshold, name = record["threshold"], f"{record['machine']} {record['id']}"
    time_cell = [] if "time" in leave_out else [f"{record['end_seconds']:9.2f} s"]
    if "words" in leave_out:
        time_cell = [one.strip() for one in time_cell]
        limit = "none" if threshold is None else f"{threshold:.3f}"
        score = f"{record['clip_score']:.3f}/{limit} {_status(record)}"
        return [name, *time_cell, f"{level:.1f} dBFS", score]
    limit = "no threshold" if threshold is None else f"threshold {threshold:.3f}"
    bar = "" if "bar" in leave_out else f" {level_bar(level)}"
    score = f"score {record['clip_score']:6.3f} / {limit}"
    return [name, *time_cell, f"level {level:6.1f} dBFS{bar}", score, f"{_status(record):<12}"]


def _status(record: Record) -> str:
    threshold = record["threshold"]
    if threshold is None:
        return "uncalibrated"
    if not record["complete"]:
        return "listening in"
    return "ALARM" if record["alarm"] else ("above" if record["clip_score"] > threshold else "normal")


def _health_line(record: Record) -> str:
    active = [
        name if state["value"] is None else f"{name} ({state['value']:.3g} {state['unit']})"
        for name, state in record["states"].items()
        if state["active"]
    ]
    what = "SICK   " if record["sick"] else "HEALTH "
    silenced = "; raises no alarm" if record["sick"] else ""
    found = ", ".join(active) or "healthy"
    return f"{what} {record['machine']} {record['id']} at {record['at_seconds']:.2f} s: {found}{silenced}"


def sparkline(trace: Iterable[float], threshold: float | None) -> str:
    """One block a score, oldest first; the highest block is the greatest of the scores and the threshold."""
    values = list(trace)
    top = max([*filter(math.isfinite, values), threshold or 0.0, 1e-9])
    return "".join(_BLOCKS[round(8 * (max(0.0, value) / top))] if math.isfinite(value) else "?" for value in values)


def level_bar(level: float) -> str:
    """Ten places from -60 dBFS to full scale."""
    filled = min(10, max(0, round((level + 60.0) / 6.0)))
    return "█" * filled + "·" * (10 - filled)
