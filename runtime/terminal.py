"""What a person sees of `run`: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import shutil
import time
from collections import deque
from typing import TextIO

from edgeasd.runtime.listen import Record

_BLOCKS = " ▁▂▃▄▅▆▇█"
_PLAIN_EVERY_SECONDS_OF_SOUND = 5.0
_REFRESH_SECONDS = 0.1


class TerminalView:
    """Draws level, score against threshold and status; `update` takes every record of the listener."""

    def __init__(self, out: TextIO, sample_rate: int, *, live: bool | None = None) -> None:
        """`live` redraws one line; by default where `out` is a terminal."""
        self._out, self._rate = out, sample_rate
        self._live = out.isatty() if live is None else live
        self._trace: deque[float] = deque(maxlen=24)
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
                self._out.write("\r\x1b[K" + self._text(record, level)[: width - 1])
                self._out.flush()
                self._on_line = True
        elif record["end_seconds"] >= self._next_plain:
            self._next_plain = record["end_seconds"] + _PLAIN_EVERY_SECONDS_OF_SOUND
            self._line(self._text(record, level))

    def _text(self, record: Record, level: float) -> str:
        threshold = record["threshold"]
        limit = "no threshold" if threshold is None else f"threshold {threshold:.3f}"
        if threshold is None:
            status = "uncalibrated"
        elif not record["complete"]:
            status = "listening in"
        else:
            status = "ALARM" if record["alarm"] else ("above" if record["clip_score"] > threshold else "normal")
        bar = _bar(level)
        return (
            f"{record['machine']} {record['id']}  {record['end_seconds']:9.2f} s  level {level:6.1f} dBFS {bar}  "
            f"score {record['clip_score']:6.3f} / {limit}  {status:<12} {self._sparkline(threshold)}"
        )

    def _sparkline(self, threshold: float | None) -> str:
        top = max([*filter(math.isfinite, self._trace), threshold or 0.0, 1e-9])
        return "".join(
            _BLOCKS[round(8 * (max(0.0, value) / top))] if math.isfinite(value) else "?" for value in self._trace
        )

    def _line(self, text: str) -> None:
        if self._on_line:
            self._out.write("\r\x1b[K")
            self._on_line = False
        self._out.write(text.rstrip() + "\n")
        self._out.flush()


def _bar(level: float) -> str:
    filled = min(10, max(0, round((level + 60.0) / 6.0)))
    return "█" * filled + "·" * (10 - filled)
