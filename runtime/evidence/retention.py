"""What has to go: by age, by size, and for room on the disk; the oldest first, open events never."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edgeasd.runtime.evidence.settings import DAY, KeepSettings

REASONS = ("age", "size", "room")


@dataclass(frozen=True, slots=True)
class Kept:
    """Evidence that is on the disk."""

    event: str
    at: float
    """When the event was raised, wall clock in seconds."""
    size: int
    """Bytes."""
    open: bool = False
    """Not to be deleted: the event goes on, or its clip is being written."""


def choose(kept: Iterable[Kept], now: float, free: int, keep: KeepSettings) -> list[tuple[str, str]]:
    """(event, reason) of all that has to go, oldest first; reasons are those of `REASONS`.

    `now` is the wall clock in seconds, `free` the bytes that are left on the disk.
    """
    ordered = sorted(kept, key=lambda one: (one.at, one.event))
    young = {one.event for one in ordered[len(ordered) - min(keep.fewest, len(ordered)) :]}
    oldest = now - DAY * keep.max_age_days
    gone = {one.event: "age" for one in ordered if not one.open and one.at < oldest and one.event not in young}
    total = sum(one.size for one in ordered if one.event not in gone)
    free += sum(one.size for one in ordered if one.event in gone)
    for one in ordered:
        if total <= keep.max_bytes and free >= keep.min_free_bytes:
            break
        if one.open or one.event in gone:
            continue
        gone[one.event] = "size" if total > keep.max_bytes else "room"
        total -= one.size
        free += one.size
    return [(one.event, gone[one.event]) for one in ordered if one.event in gone]
