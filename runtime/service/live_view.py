"""The screen of `run`: a table of the streams that is redrawn in place, or plain lines without a terminal."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from edgeasd.runtime.errors import printable
from edgeasd.runtime.outputs.base import OutputState
from edgeasd.runtime.service.status import ServiceStatus, StreamStatus
from edgeasd.runtime.states import RUNNING

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_REDRAW_SECONDS, _PLAIN_SECONDS = 0.5, 10.0
_NARROW, _WIDE = 100, 140
"""Columns of a window: everything is short below the first, there is room for a level bar from the second on."""
_BLOCKS = " ▁▂▃▄▅▆▇█"
_OLD_SECONDS = 60.0
"""A message that waits for so long at an output with an error does not merely wait for its turn."""
_RED, _YELLOW, _FAINT = "bold red", "yellow", "dim"
_ALARM_STYLES = {"alarm": ("ALARM", _RED), "acknowledged": ("acknowledged", _YELLOW), "warning": ("warning", _YELLOW)}
_STATE_STYLES = {"failed": _RED, "degraded": _YELLOW}
_TITLES = ("stream", "alarm", "score / limit", "health", "latest", "level", "p50/p99", "sound")
_LATEST = _TITLES.index("latest")
_SHRINK = (("stream", 16), ("latest", 8), ("sound", 6), ("health", 9), ("stream", 8), ("alarm", 6), ("latest", 6))
"""Columns that give room, in order, and their least width."""
Cell = tuple[str, str]
"""Text and its style, "" for none."""


class LiveView:
    """Shows a `ServiceStatus` now and then."""

    def __init__(self, out: TextIO, *, live: bool | None = None) -> None:
        """`live` redraws in place; by default if `out` is a terminal."""
        if live is None:
            live = out.isatty() and os.environ.get("TERM") != "dumb"
        self._out, self._due, self._look_at = out, 0.0, 0.0
        self._shown: dict[str, tuple[Any, ...]] = {}
        self._live: Any = None
        if live:
            from rich.console import Console
            from rich.live import Live

            # Log lines go above the table if they share its terminal, and nowhere else.
            shared = sys.stderr is not None and sys.stderr.isatty()
            self._console = Console(file=out, highlight=False)
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=shared,
            )
            self._live.start()

    def is_due(self, now: float) -> bool:
        """Whether `update` has something to do. To look at every stream costs more than it seems: ask this first."""
        return now >= self._look_at

    def update(self, status: ServiceStatus, now: float) -> None:
        """Show `status` if that is due; `now` is monotonic seconds."""
        self._look_at = now + _REDRAW_SECONDS
        if self._live is not None:
            if now >= self._due:
                self._due = now + _REDRAW_SECONDS
                size = self._console.size
                self._live.update(render(status, size.width, size.height - 1), refresh=True)
            return
        lines = [line for line in self._changed_lines(status) if line]
        for stream in status.streams:
            # A change is shown at once, figures now and then.
            operating = (stream.operating_state, stream.operating_phase, stream.notices)
            key = (stream.state, stream.reason, stream.alarm, stream.event, *operating, *stream.health)
            is_news = stream.state != "starting" or stream.reason is not None
            if is_news and (now >= self._due or self._shown.get(stream.name) != key):
                self._shown[stream.name] = key
                lines.append(plain_line(stream))
        if now >= self._due:
            self._due = now + _PLAIN_SECONDS
        self._out.writelines(f"{line}\n" for line in lines)
        self._out.flush()

    def close(self) -> None:
        """Take the table away; the cursor is left at the beginning of a line."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._out.flush()

    def _changed_lines(self, status: ServiceStatus) -> Iterable[str]:
        """Problems of the service, and outputs that are connected or disconnected."""
        before = self._shown.get("\0problem", (None,))[0]
        if status.problem != before:
            self._shown["\0problem"] = (status.problem,)
            yield printable(
                f"{status.site}: " + (f"PROBLEM: {status.problem}" if status.problem else "no problem left")
            )
        for output in status.outputs:
            was = self._shown.get(f"\0{output.name}")
            # Before its first attempt an output is not connected; that is no news.
            is_new = was is None and not output.connected and output.last_error is None
            if output.connected is None or is_new or was == (output.connected,):
                continue
            self._shown[f"\0{output.name}"] = (output.connected,)
            error = f": {output.last_error}" if output.last_error and not output.connected else ""
            yield printable(f"{status.site}: output {output.name} {connection(output)}{error}")


def print_status(status: ServiceStatus, console: Console | None = None) -> None:
    """Print the whole status once, as `edgeasd status` does."""
    from rich.console import Console

    console = console or Console(highlight=False)
    if not console.is_terminal:
        # A pipe has no width; nothing is cut.
        console = Console(highlight=False, width=400)
    console.print(render(status, console.width, None))


def summary(stream: StreamStatus) -> str:
    """One line about a stream that has ended."""
    scored = f"{stream.segments} segments scored in {stream.seconds:.1f} s of sound"
    last = "" if stream.clip_score is None else f", last clip score {stream.clip_score:.3f}"
    if stream.highest is not None:
        last = f", highest clip score {stream.highest[0]:.3f} at {stream.highest[1]:.1f} s" + last
    limit = (
        "no threshold"
        if stream.threshold is None
        else f"threshold {stream.threshold:.3f}, {stream.events} alarm{'' if stream.events == 1 else 's'}"
    )
    lost = losses(stream)
    return printable(f"{stream.machine} {stream.id}: {scored}{last}; {limit}; {lost}")


def render(status: ServiceStatus, width: int, height: int | None) -> RenderableType:
    """Heading, table and reasons for a window of `width` columns and at most `height` lines."""
    from rich.console import Group
    from rich.text import Text

    above, below = [_heading(status), *_problems(status)], _reasons(status.streams)
    streams, more = list(status.streams), 0
    if height is not None and len(above) + 1 + len(streams) + len(below) > height:
        # Streams that need attention come first, and the reasons are the first to go.
        below = below[: max(0, height - len(above) - 1 - len(streams))]
        room = max(0, height - len(above) - 1 - len(below))
        if len(streams) > room:
            more = len(streams) - max(0, room - 1)
            streams = sorted(streams, key=_urgency)[: max(0, room - 1)]
    lines = [*above, _table(streams, width), *below]
    if more:
        lines.append((f"… and {more} more streams; make the window higher", ""))
    return Group(
        *(
            Text(line[0], line[1], no_wrap=True, overflow="ellipsis") if isinstance(line, tuple) else line
            for line in lines
        )
    )


def _table(streams: Sequence[StreamStatus], width: int) -> Any:
    from rich.table import Table
    from rich.text import Text

    rows = [cells(stream, width) for stream in streams]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style=_FAINT)
    widths = _column_widths(rows, width)
    for title, column in zip(_TITLES, widths, strict=True):
        table.add_column(title, no_wrap=True, overflow="ellipsis", width=column)
    for row in rows:
        # The newest scores stay in sight.
        history = row[_LATEST][0][-widths[_LATEST] :]
        table.add_row(*(Text(history if at == _LATEST else text, style) for at, (text, style) in enumerate(row)))
    return table


def _column_widths(rows: Sequence[Sequence[Cell]], width: int) -> list[int]:
    """As wide as the widest cell; what does not fit is taken from the columns that bear it."""
    widths = [max(len(title), *(len(row[at][0]) for row in rows)) for at, title in enumerate(_TITLES)]
    excess = sum(widths) + 2 * len(widths) - 2 - width
    for title, least in _SHRINK:
        at = _TITLES.index(title)
        taken = max(0, min(excess, widths[at] - least))
        widths[at] -= taken
        excess -= taken
    return widths


def cells(stream: StreamStatus, width: int) -> list[Cell]:
    """The row of a stream, for a window of `width` columns."""
    narrow = width < _NARROW
    silent = stream.state in ("starting", "failed") and stream.clip_score is None
    score = "-" if stream.clip_score is None else f"{stream.clip_score:.3f}"
    limit = "none" if stream.threshold is None else f"{stream.threshold:.3f}"
    late = stream.latency_seconds
    level = f"{stream.level_dbfs:.0f} dB" if narrow else f"{stream.level_dbfs:6.1f} dBFS"
    if width >= _WIDE:
        level += f" {level_bar(stream.level_dbfs)}"
    history = stream.score_history[-(8 if narrow else 24) :]
    return [
        (printable(stream.name), ""),
        _alarm_cell(stream),
        (f"{score} / {limit}", ""),
        ("no sound", _STATE_STYLES.get(stream.state, "")) if silent else _health_cell(stream, short=narrow),
        (sparkline(history, stream.threshold), ""),
        ("-" if silent else level, ""),
        ("-" if late is None else latency_text(late), ""),
        (losses(stream, short=width < _WIDE), _YELLOW if _has_losses(stream) else ""),
    ]


def plain_line(stream: StreamStatus) -> str:
    """A stream in one line without colour or place on a screen."""
    parts = [text for text, _ in cells(stream, _NARROW)]
    reason = _reason(stream)
    line = "{:<12}  {:<12}  {:<14}  {:<13}  {:<24}  {:<11}  {:<9}  {}".format(*parts)
    return line.rstrip() + ("" if reason is None else f"  [{reason[0]}]")


def concerns(status: ServiceStatus) -> list[str]:
    """One line for each thing that needs attention; empty if all is well."""
    lines = [text for text, _ in _problems(status)]
    for stream in status.streams:
        reason = _reason(stream)
        if stream.state in ("failed", "degraded") or stream.unhealthy or stream.event is not None or stream.notices:
            lines.append(printable(f"{stream.name}: {reason[0] if reason else stream.state}"))
    return lines


def _heading(status: ServiceStatus) -> Cell:
    outputs = [
        f"{output.name} {connection(output)}" + (f", {output.queued} wait" if _has_queue(output) else "")
        for output in status.outputs
    ]
    return printable("; ".join([f"{status.site}, up {status.uptime_seconds:.0f} s", *outputs])), ""


def _problems(status: ServiceStatus) -> list[Cell]:
    lines = [(printable(f"PROBLEM: {status.problem}"), _RED)] if status.problem else []
    for output in status.outputs:
        problem = output_problem(output)
        if problem is not None:
            lines.append((printable(problem), _RED if output.connected is False else _YELLOW))
    return lines


def _reasons(streams: Iterable[StreamStatus]) -> list[Cell]:
    found = [(stream.name, _reason(stream)) for stream in streams]
    return [(printable(f"{name}: {reason[0]}"), reason[1]) for name, reason in found if reason is not None]


def connection(output: OutputState) -> str:
    """Whether an output reaches its receiver; for a metrics page, whether it was ever fetched."""
    if not _has_queue(output):
        return "scraped" if output.delivered else "not scraped yet"
    return {True: "connected", False: "NOT connected", None: "not tried yet"}[output.connected]


def _has_queue(output: OutputState) -> bool:
    return output.type != "prometheus"


def output_problem(output: OutputState) -> str | None:
    """One line if an output needs attention.

    A last error stays after the receiver is back. It counts only if the receiver is not reached, if the error has no
    time because it holds now, or if messages have waited for a minute.
    """
    waiting = f"{output.queued} wait"
    if output.connected is False:
        return f"output {output.name} NOT connected, {waiting}{f': {output.last_error}' if output.last_error else ''}"
    if output.last_error and (output.last_error_at is None or output.oldest_seconds > _OLD_SECONDS):
        return f"output {output.name}, {waiting}: {output.last_error}"
    return None


def _reason(stream: StreamStatus) -> Cell | None:
    """Why a stream is not simply running: state and reason, health, open event."""
    parts = []
    if stream.state != "running":
        parts.append(stream.state + (f": {stream.reason}" if stream.reason else ""))
    if stream.unhealthy:
        parts.append(f"unhealthy: {', '.join(stream.health) or 'its input cannot be trusted yet'}")
    if stream.event is not None:
        parts.append(f"event {stream.event}")
    if stream.operating_phase is not None:
        parts.append(f"{stream.operating_phase}, no alarm is raised")
    parts += stream.notices
    if stream.burn_in is not None:
        parts.append(stream.burn_in)
    style = _STATE_STYLES.get(stream.state, _YELLOW if stream.unhealthy else "")
    return (printable("; ".join(parts)), style) if parts else None


def _urgency(stream: StreamStatus) -> int:
    if stream.alarm == "alarm" and not stream.maintenance:
        return 0
    if stream.state == "failed":
        return 1
    return 2 if stream.unhealthy or stream.state == "degraded" or stream.alarm != "normal" else 3


def _alarm_cell(stream: StreamStatus) -> Cell:
    if stream.maintenance:
        return "maintenance", _YELLOW
    shown, style = _ALARM_STYLES.get(stream.alarm, (stream.alarm, ""))
    if stream.operating_state not in (None, RUNNING):
        shown = str(stream.operating_state) if stream.alarm == "normal" else f"{shown}, {stream.operating_state}"
    return (f"{shown}, snoozed" if stream.snoozed and stream.alarm == "normal" else shown), style


def _health_cell(stream: StreamStatus, *, short: bool) -> Cell:
    if stream.health and not (short and stream.unhealthy):
        return ("UNHEALTHY " if stream.unhealthy else "") + ", ".join(stream.health), _YELLOW
    return ("UNHEALTHY", _YELLOW) if stream.unhealthy else ("healthy", "")


def _has_losses(stream: StreamStatus) -> bool:
    return bool(stream.dropped_seconds or stream.overruns or stream.skipped_segments)


def losses(stream: StreamStatus, *, short: bool = False) -> str:
    """Lost sound, overruns and left-out segments in a few words; `short`: in fewer."""
    seconds = stream.dropped_seconds
    parts = [f"{seconds:.1f} s" + ("" if short else " lost")] if seconds else []
    # An overrun loses an unknown amount.
    parts += [f"{stream.overruns} overruns"] if stream.overruns else []
    parts = parts or ["none" if short else "none lost"]
    return ", ".join(parts + ([f"{stream.skipped_segments} skipped"] if stream.skipped_segments else []))


def latency_text(latency: dict[str, float]) -> str:
    """p50 and p99 of `Latencies.percentiles`."""
    return f"{1000 * latency['p50']:.0f}/{1000 * latency['p99']:.0f} ms"


def sparkline(history: Iterable[float], threshold: float | None) -> str:
    """One block per score, oldest first; the full block is the greatest of the scores and the threshold."""
    values = list(history)
    top = max([*filter(math.isfinite, values), threshold or 0.0, 1e-9])
    return "".join(_BLOCKS[round(8 * (max(0.0, value) / top))] if math.isfinite(value) else "?" for value in values)


def level_bar(level: float) -> str:
    """Ten places from -60 dBFS to full scale."""
    filled = min(10, max(0, round((level + 60.0) / 6.0)))
    return "█" * filled + "·" * (10 - filled)
