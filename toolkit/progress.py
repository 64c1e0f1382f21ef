"""Progress on standard error: one live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from edgeasd.calibration.progress import ProgressCallback, no_progress

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import Progress, Task

__all__ = ["ProgressCallback", "no_progress", "progress"]

_PLAIN_LINE_SECONDS = 10.0
_LONGEST_BAR = 24
_active: Progress | None = None
"""The display of the outermost block; an inner one adds a line to it."""
_lock = threading.RLock()


@contextmanager
def progress(label: str) -> Iterator[ProgressCallback]:
    """Show the progress of the work called `label` while the block runs. Blocks may nest."""
    if sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown"):
        yield from _on_terminal(label)
    else:
        yield from _plain(label)


def _plain(label: str) -> Iterator[ProgressCallback]:
    started = shown = time.monotonic()

    def report(done: int, total: int, text: str = "") -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= _PLAIN_LINE_SECONDS or (done == total and now - started >= 1.0):
            shown = now
            speed = done / (now - started)
            pace = f", {_rate(speed)}, {_clock((total - done) / speed)} left" if 0 < done < total else ""
            # One write, so that lines of two writers do not mix.
            sys.stderr.write(f"{label}: {done}/{total}{pace} {text}".rstrip() + "\n")
            sys.stderr.flush()

    yield report


def _on_terminal(label: str) -> Iterator[ProgressCallback]:
    global _active
    with _lock:
        bars, is_outermost = _active or _display(), _active is None
        _active = bars
        if is_outermost:
            bars.start()
    task = bars.add_task(label, total=None, text="")

    def report(done: int, total: int, text: str = "") -> None:
        bars.update(task, completed=done, total=total, text=text)

    try:
        yield report
    finally:
        with _lock:
            bars.remove_task(task)
            if is_outermost:
                bars.stop()
                _active = None


def _display() -> Progress:
    from rich.console import Console
    from rich.progress import Progress

    class Lines(Progress):
        """One line for each task, cut to the terminal's width; removed at the end."""

        def get_renderables(self) -> Iterable[RenderableType]:
            return [_line(task, console.width) for task in self.tasks]

    console = Console(stderr=True)
    # Other output appears above the line; standard output only if it goes to a terminal too.
    return Lines(console=console, transient=True, redirect_stdout=sys.stdout.isatty(), refresh_per_second=5)


def _line(task: Task, width: int) -> RenderableType:
    """Rate and time left always; then as much of count, label, bar and text as fits."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    left = _clock(task.elapsed or 0.0) if task.time_remaining is None else f"{_clock(task.time_remaining)} left"
    pace = Text(f"{_rate(task.speed or 0.0)} {left}".strip(), "cyan")
    # The last column stays free: some terminals wrap when it is written.
    room = width - 1 - pace.cell_len

    def fitted(text: Text, least: int) -> Text:
        """`text` cut to the room that is left, or nothing if that is less than `least`."""
        nonlocal room
        if room <= least:
            return Text()
        text.truncate(room - 1, overflow="ellipsis")
        room -= text.cell_len + 1
        return text

    count = Text(f"{task.completed:.0f}/{task.total:.0f}" if task.total else "")
    count = fitted(count, count.cell_len)
    label = fitted(Text(task.description), 4)
    bar: RenderableType = Text()
    if room > 5:
        bar = ProgressBar(task.total, task.completed, width=min(_LONGEST_BAR, room - 1), pulse=task.total is None)
        room -= min(_LONGEST_BAR, room - 1) + 1
    note = fitted(Text(str(task.fields["text"]), "dim"), 5)
    line = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
    parts = [part for part in (label, bar, count, pace, note) if part]
    for _ in parts:
        line.add_column(no_wrap=True)
    line.add_row(*parts)
    return line


def _rate(per_second: float) -> str:
    if per_second <= 0:
        return ""
    if per_second < 1:
        return f"{1 / per_second:.1f} s each"
    return f"{per_second:.3g}/s" if per_second < 1000 else f"{per_second:.0f}/s"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
