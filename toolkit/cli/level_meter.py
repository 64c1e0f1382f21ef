"""The level of a sound while it is recorded: a line that is redrawn on a terminal, plain lines elsewhere."""

from __future__ import annotations

import shutil
import time
from typing import TextIO

from edgeasd.runtime.record.clip_folder import ClipFigures

_REFRESH_SECONDS, _PLAIN_SECONDS = 0.1, 10.0


class LevelMeter:
    """Shows level, peak and progress on `out`; `say` writes a line that stays."""

    def __init__(self, out: TextIO, title: str) -> None:
        self._out, self._title, self._live = out, title, out.isatty()
        self._shown = time.monotonic() - _PLAIN_SECONDS
        self._on_line = False

    def show(self, figures: ClipFigures, clips: int, clips_left: int, seconds_left: float) -> None:
        """Draw the level of the last sound, not more often than the eye or a log wants it."""
        now = time.monotonic()
        if now - self._shown < (_REFRESH_SECONDS if self._live else _PLAIN_SECONDS):
            return
        self._shown = now
        filled = min(10, max(0, round((figures.level_dbfs + 60.0) / 6.0)))
        minutes, seconds = divmod(round(seconds_left), 60)
        text = (
            f"{self._title}  clip {clips}/{clips + clips_left}  level {figures.level_dbfs:6.1f} dBFS "
            f"{'█' * filled}{'·' * (10 - filled)}  peak {figures.peak_dbfs:6.1f}  {minutes}:{seconds:02d} left"
        )
        if figures.complaints:
            text += f"  {', '.join(figures.complaints)}"
        if self._live:
            self._out.write("\r\x1b[K" + text[: shutil.get_terminal_size().columns - 1])
            self._out.flush()
            self._on_line = True
        else:
            self.say(text)

    def say(self, text: str) -> None:
        """A line of its own."""
        self.close("\r\x1b[K")
        self._out.write(f"{text}\n")
        self._out.flush()

    def close(self, end: str = "\n") -> None:
        """Leave the drawn line."""
        if self._on_line:
            self._out.write(end)
            self._on_line = False
        self._out.flush()
