"""What is stored of one machine over a span of time: scores, levels, states, events and changes of its normal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.storage import EventStore
from edgeasd.runtime.trend.watch import Change

EVERY = {"score": 0.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0}
"""Widths of a row in seconds; a score has its own time. Days are those of the local calendar."""
_ROWS = 48
"""Without a width, at most about so many rows."""


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """The scores and levels of one span of time."""

    at: float
    """Its beginning, in seconds since 1970."""
    count: int
    """Clip scores in it that were judged, 0 if none was."""
    mean: float
    low: float
    high: float
    """Mean, lowest and highest clip score; NaN without any."""
    level: float
    """Mean level in dBFS; NaN if it is not known."""
    state: str | None
    """The operating state in which the machine was longest, if it is known."""


@dataclass(frozen=True, slots=True)
class History:
    """A span of the history of one machine."""

    machine: str
    id: str
    since: float
    until: float
    every: str
    """One of EVERY."""
    rows: list[HistoryRow]
    threshold: float | None
    """That of the latest event, if there was one."""
    events: list[dict[str, Any]]
    """As `EventStore.events` has them."""
    changes: list[tuple[str, Change]]
    """Mode and change."""
    state_seconds: dict[str, float]
    """How long the machine was in each state."""


def read_history(
    store: EventStore, machine: str, id: str, since: float, until: float, every: str | None = None
) -> History:
    """The history of a machine from `since` to before `until` (wall clock in seconds).

    Raises InputError for a machine that is not stored, an empty span and an unknown width.
    """
    known = store.machines()
    if (machine, id) not in known:
        names = ", ".join(f"{machine} {id}" for machine, id in known) or "none"
        raise InputError(f"{machine} {id}: nothing is stored of it; stored are: {names}")
    if not since < until:
        raise InputError("the span is empty; give a --since before --until")
    every = every or _fitting_width(until - since)
    if every not in EVERY:
        raise InputError(f"{every}: not a width of rows; use {', '.join(EVERY)}")
    events = store.events(machine, id, until=until, limit=100_000)
    events = [one for one in events if one["cleared_at"] is None or one["cleared_at"] >= since]
    thresholds = [one["threshold"] for one in events if one["threshold"] is not None]
    return History(
        *(machine, id, since, until, every),
        rows=_rows(store, machine, id, since, until, every),
        threshold=thresholds[0] if thresholds else None,
        events=events,
        changes=[(mode, one) for mode, one in stored_changes(store, machine, id) if _touches(one, since, until)],
        state_seconds=store.state_hours(machine, id, since=since, until=until),
    )


def stored_changes(store: EventStore, machine: str, id: str) -> list[tuple[str, Change]]:
    """Mode and change, of all changes of the normal of a machine that are stored."""
    return [(mode, Change(**fields)) for mode, fields in store.changes(machine, id)]


def _touches(change: Change, since: float, until: float) -> bool:
    return change.began < until and (change.ended is None or change.ended >= since)


def _fitting_width(seconds: float) -> str:
    """The finest width of which the span has few enough rows for a terminal."""
    return next((name for name in ("minute", "hour") if seconds / EVERY[name] <= _ROWS), "day")


def _rows(store: EventStore, machine: str, id: str, since: float, until: float, every: str) -> list[HistoryRow]:
    span = {"since": since, "until": until}
    if every == "score":
        return [
            HistoryRow(
                one["at"],
                *(0 if one.get("state") else 1, one["score"], one["score"], one["score"], math.nan),
                state=one.get("state"),
            )
            for one in store.history(machine, id, "score", **span)
        ]
    stored = "minute" if every == "minute" else "hour"
    states = store.states_by_hour(machine, id, **span)
    groups: dict[float, _Group] = {}
    for one in store.history(machine, id, stored, **span):
        _group(groups, _begin(one["at"], every)).add_score(one)
    for one in store.levels(machine, id, stored, **span):
        _group(groups, _begin(one["at"], every)).add_level(one)
    for at, state, seconds in states:
        for begin in _begins(at, every, since, until):
            _group(groups, begin).add_state(state, seconds)
    return [groups[at].row(at) for at in sorted(groups)]


class _Group:
    """Adds up what falls into one row."""

    def __init__(self) -> None:
        self.count, self.total, self.low, self.high = 0, 0.0, math.inf, -math.inf
        self.levels, self.level_total = 0, 0.0
        self.states: dict[str, float] = {}

    def add_score(self, one: dict[str, Any]) -> None:
        self.count += one["count"]
        self.total += one["count"] * one["mean"]
        self.low, self.high = min(self.low, one["low"]), max(self.high, one["high"])

    def add_level(self, one: dict[str, Any]) -> None:
        self.levels += one["count"]
        self.level_total += one["count"] * one["mean"]

    def add_state(self, state: str, seconds: float) -> None:
        self.states[state] = self.states.get(state, 0.0) + seconds

    def row(self, at: float) -> HistoryRow:
        scores = (self.total / self.count, self.low, self.high) if self.count else (math.nan, math.nan, math.nan)
        level = self.level_total / self.levels if self.levels else math.nan
        return HistoryRow(at, self.count, *scores, level, max(self.states, key=self.states.__getitem__, default=None))


def _group(groups: dict[float, _Group], at: float) -> _Group:
    return groups.setdefault(at, _Group())


def _begin(at: float, every: str) -> float:
    """When the row begins that holds a time."""
    if every != "day":
        return at - at % EVERY[every]
    local = datetime.fromtimestamp(at)
    return datetime(local.year, local.month, local.day).timestamp()


def _begins(hour: float, every: str, since: float, until: float) -> Iterable[float]:
    """Rows that an hour's state belongs to: one of its own width or wider, or each minute in it."""
    if every != "minute":
        return [_begin(hour, every)]
    return [hour + 60.0 * i for i in range(60) if since <= hour + 60.0 * i < until]


def local_text(at: float) -> str:
    """A time of the device's own clock with its offset, as 2027-01-31 08:00:00+01:00."""
    return datetime.fromtimestamp(at).astimezone().isoformat(" ", "seconds")


def csv_text(history: History) -> str:
    """The rows as CSV with a heading; what is not known is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("at", "local", "count", "mean", "low", "high", "level_dbfs", "state"))
    for row in history.rows:
        numbers = ["" if math.isnan(value) else f"{value:.9g}" for value in (row.mean, row.low, row.high, row.level)]
        writer.writerow((f"{row.at:.3f}", local_text(row.at), row.count, *numbers, row.state or ""))
    return text.getvalue()


def change_text(mode: str, change: Change) -> str:
    """A change in words, without a machine."""
    began = datetime.fromtimestamp(change.began).strftime("%Y-%m-%d")
    where = f" ({mode})" if mode else ""
    moved = "rose" if change.after > change.before else "fell"
    what = {
        "score": f"the score {moved} from {change.before:.3g} to {change.after:.3g}",
        "level": f"the level {moved} from {change.before:.1f} to {change.after:.1f} dBFS",
        "spread": f"the scores spread {change.size:.1f} times as wide",
    }[change.quantity]
    how = "slowly since" if change.shape == "slope" else "since"
    ended = "" if change.ended is None else f", until {datetime.fromtimestamp(change.ended).strftime('%Y-%m-%d')}"
    return f"{what}{where}, {how} {began}{ended}"


def gaps(rows: Sequence[HistoryRow], every: str) -> list[list[HistoryRow]]:
    """Rows with scores, cut where time is missing between them."""
    # The day on which the clocks are set back has 25 hours.
    longest = 1.5 * (EVERY[every] or EVERY["minute"])
    pieces: list[list[HistoryRow]] = []
    for row in rows:
        if math.isnan(row.mean):
            continue
        if not pieces or row.at - pieces[-1][-1].at > longest:
            pieces.append([])
        pieces[-1].append(row)
    return pieces
