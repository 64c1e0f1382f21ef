"""Score history: every score for some days, minutes for months, hours for years."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

RESOLUTIONS = {"score": ("scores", 1), "minute": ("score_minutes", 60_000), "hour": ("score_hours", 3_600_000)}
"""Name to (table, milliseconds)."""

_MERGE = (
    "INSERT INTO {table} VALUES (?, ?, 1, ?, ?, ?) ON CONFLICT (machine, at) DO UPDATE SET count = count + 1, "
    "total = total + excluded.total, low = min(low, excluded.low), high = max(high, excluded.high)"
)


def add_scores(connection: sqlite3.Connection, key: int, scores: Sequence[tuple[int, float]]) -> int:
    """Add (milliseconds, score) pairs of a machine inside a transaction; returns how many were new.

    A score whose millisecond is taken is not counted again, at any resolution.
    """
    new = 0
    for at, score in scores:
        if not connection.execute("INSERT OR IGNORE INTO scores VALUES (?, ?, ?)", (key, at, score)).rowcount:
            continue
        new += 1
        for table, width in (RESOLUTIONS["minute"], RESOLUTIONS["hour"]):
            connection.execute(_MERGE.format(table=table), (key, at - at % width, score, score, score))
    return new


def read_history(
    connection: sqlite3.Connection, machine: str, id: str, resolution: str, since: float, until: float
) -> list[dict[str, float]]:
    """Rows from `since` to before `until` (seconds since 1970), in order of time."""
    table, _ = RESOLUTIONS[resolution]
    columns = "score" if resolution == "score" else "count, total / count, low, high"
    query = (
        f"SELECT at / 1000.0, {columns} FROM {table} JOIN machines ON key = {table}.machine "
        "WHERE machines.machine = ? AND id = ? AND at >= ? AND at < ? ORDER BY at"
    )
    rows = connection.execute(query, (machine, id, round(1000 * since), round(1000 * until)))
    names = ("at", "score") if resolution == "score" else ("at", "count", "mean", "low", "high")
    return [dict(zip(names, row, strict=True)) for row in rows]
