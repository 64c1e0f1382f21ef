"""Progress on standard error: a live bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from edgeasd.calibration.progress import ProgressCallback, no_progress

__all__ = ["ProgressCallback", "no_progress", "progress"]

_PLAIN_EVERY_SECONDS = 10.0


@contextmanager
def progress(label: str) -> Iterator[ProgressCallback]:
    """Show the progress of one piece of work called `label` while the block runs."""
    if sys.stderr.isatty():
        yield from _bar(label)
    else:
        yield from _lines(label)


def _bar(label: str) -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[text]}"), console=Console(stderr=True)) as bars:
        task = bars.add_task(label, total=None, text="")

        def report(done: int, total: int, text: str = "") -> None:
            bars.update(task, completed=done, total=total, text=text)

        yield report


def _lines(label: str) -> Iterator[ProgressCallback]:
    started = shown = time.monotonic()

    def report(done: int, total: int, text: str = "") -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown >= _PLAIN_EVERY_SECONDS or (done == total and now - started >= 1.0):
            shown = now
            left = "" if done in (0, total) else f", {(now - started) * (total - done) / done:.0f} s left"
            print(f"{label}: {done}/{total}{left} {text}".rstrip(), file=sys.stderr, flush=True)

    yield report
