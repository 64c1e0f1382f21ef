"""How a site is doing, as lines of cells: a heading with what is wrong with the service, and a table of the streams."""

from __future__ import annotations

from collections.abc import Sequence

from edgeasd.runtime.outputs.state import OutputState
from edgeasd.runtime.service.row import FAINT, RED, YELLOW, Cell, cells, columns, header, printable, why
from edgeasd.runtime.service.state import SiteState, StreamState

_OLD_SECONDS = 60.0
"""A message that waits for so long at an output with an error does not merely wait its turn."""


def heading(state: SiteState) -> list[list[Cell]]:
    """What stands above the streams: the site in one line, and one for each thing that needs somebody."""
    outputs = [
        f"{one.name} {connection(one)}" + (f", {one.queued} wait" if _queues(one) else "") for one in state.outputs
    ]
    said = [f"{state.site}, up {state.uptime_seconds:.0f} s", *outputs]
    lines: list[list[Cell]] = [[(printable("; ".join(said)), "")]]
    if state.trouble:
        lines.append([(printable(f"TROUBLE: {state.trouble}"), RED)])
    for one in state.outputs:
        text = output_problem(one)
        if text is not None:
            lines.append([(printable(text), RED if one.connected is False else YELLOW)])
    return lines


def table(streams: Sequence[StreamState], width: int | None = None, *, reasons: bool = True) -> list[list[Cell]]:
    """Header and rows for a window of `width` characters; below a stream that does not simply run, why."""
    titles: list[Cell] = [(text, FAINT) for text in header(width)]
    title, *rows = columns([titles, *(cells(one, width, reasons=reasons) for one in streams)])
    lines = [title]
    for one, row in zip(streams, rows, strict=True):
        lines.append(row)
        reason = why(one)
        if reasons and reason is not None:
            lines.append([(f"    {reason[0]}", reason[1])])
    return lines


def connection(one: OutputState) -> str:
    """Whether an output reaches its receiver, in a word or two; of a page, whether it was ever fetched."""
    if not _queues(one):
        return "scraped" if one.delivered else "not scraped yet"
    return {True: "connected", False: "NOT connected", None: "not tried yet"}[one.connected]


def _queues(one: OutputState) -> bool:
    return one.type != "prometheus"


def output_problem(one: OutputState) -> str | None:
    """One line where an output needs somebody.

    A last error stays after it was mended, so one counts only where the receiver is not reached, where it has no
    time because it holds now, or where messages have waited for a minute.
    """
    if one.connected is False:
        return f"output {one.name} NOT connected, {one.queued} wait{f': {one.last_error}' if one.last_error else ''}"
    if one.last_error and (one.last_error_at is None or one.oldest_seconds > _OLD_SECONDS):
        return f"output {one.name}, {one.queued} wait: {one.last_error}"
    return None


def concerns(state: SiteState) -> list[str]:
    """One line for each thing that needs somebody; none where all is well."""
    found = [f"TROUBLE: {state.trouble}"] if state.trouble else []
    found += [text for one in state.outputs if (text := output_problem(one)) is not None]
    for stream in state.streams:
        reason = why(stream)
        if stream.state in ("failed", "degraded") or stream.sick or stream.event is not None:
            found.append(f"{stream.name}: {reason[0] if reason else stream.state}")
    return [printable(line) for line in found]
