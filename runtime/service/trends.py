"""Looks at the stored hours of each machine, once an hour, for a change of its normal sound."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, field, replace

from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.storage import EventStore
from edgeasd.runtime.trend.history import change_text, stored_changes
from edgeasd.runtime.trend.watch import HOUR, Change, Hour, TrendWatch

_REACH = 120 * 86_400.0
"""Hours further back are not read again after a start."""
_SAME = 2 * 86_400.0
"""Changes of one kind that began within so long of each other are one."""


@dataclass
class _Machine:
    """What is known of one machine."""

    since: float
    """Scores before it were made by another bundle."""
    read_until: float
    threshold: float | None
    watches: dict[str, TrendWatch] = field(default_factory=dict)
    """By mode."""
    known: list[tuple[str, Change]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TrendNews:
    """A change that was found, or that ended."""

    mode: str
    change: Change
    is_new: bool
    """False if it was found before, and went on or ended."""


class TrendMonitor:
    """The watches of all machines of a service. Used by the event recorder's thread."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._machines: dict[tuple[str, str], _Machine] = {}
        self._hour: float | None = None
        self._waiting: list[tuple[str, str]] = []

    def add(self, machine: str, id: str, manifest: Manifest, threshold: float | None, wall: float) -> None:
        """Watch a machine. Under a bundle that scores otherwise than the one before, its history begins at `wall`."""
        name, fingerprint = f"trend {machine} {id}", scoring_fingerprint(manifest)
        stored = (self._store.note(name) or "").partition(" ")
        since = float(stored[2]) if stored[0] == fingerprint else wall
        if stored[0] != fingerprint:
            self._store.store_note(name, f"{fingerprint} {wall:.3f}")
        known = [(mode, one) for mode, one in stored_changes(self._store, machine, id) if one.found >= since]
        # The hours are read again from the beginning, or as far back as the reach.
        start = max(since, wall - _REACH)
        self._machines[machine, id] = _Machine(since, start - start % HOUR, threshold, known=known)

    def remove(self, machine: str, id: str) -> None:
        """Watch a machine no longer."""
        self._machines.pop((machine, id), None)

    def texts(self, machine: str, id: str) -> tuple[str, ...]:
        """The changes of a machine that have not ended, in words."""
        one = self._machines.get((machine, id))
        if one is None:
            return ()
        return tuple(change_text(mode, change) for mode, change in one.known if change.ended is None)

    def look(self, wall: float) -> tuple[tuple[str, str], list[TrendNews]] | None:
        """Read the complete hours of one machine that is due; its key and what is new. None if none is due.

        Cheap if called each second. Raises DatabaseUnavailable, and then looks again at the next call.
        """
        hour = wall - wall % HOUR
        if self._hour != hour:
            self._hour, self._waiting = hour, list(self._machines)
        while self._waiting:
            key = self._waiting[-1]
            if key in self._machines:
                found = self._read(*key, hour)
                self._waiting.pop()
                return key, found
            self._waiting.pop()
        return None

    def _read(self, machine: str, id: str, hour: float) -> list[TrendNews]:
        one = self._machines[machine, id]
        rows = self._store.normal_hours(machine, id, since=one.read_until, until=hour)
        found: dict[tuple[str, str, float], tuple[str, Change]] = {}
        for row in rows:
            watch = one.watches.setdefault(row["mode"], TrendWatch(one.threshold))
            news = watch.add(Hour(row["at"], row["seconds"], row["mean"], row["std"], row["level"]))
            found |= {(row["mode"], change.quantity, change.began): (row["mode"], change) for change in news}
        changed = [(_counterpart(one.known, mode, change), mode, change) for mode, change in found.values()]
        with self._store.database.transaction():
            for before, mode, change in changed:
                self._store.put_change(machine, id, mode, asdict(_merged(before, change)))
        one.read_until = max(one.read_until, hour)
        told = []
        for before, mode, change in changed:
            merged = _merged(before, change)
            if before is not None:
                one.known.remove((mode, before))
            one.known.append((mode, merged))
            if before is None or (before.ended is None and merged.ended is not None):
                told.append(TrendNews(mode, merged, before is None))
        return told


def _counterpart(known: list[tuple[str, Change]], mode: str, change: Change) -> Change | None:
    """The same change as it is stored: after a start, fewer hours are read again, and blocks begin elsewhere."""
    near = [one for of, one in known if of == mode and one.quantity == change.quantity]
    near = [one for one in near if abs(one.began - change.began) <= _SAME]
    return min(near, key=lambda one: abs(one.began - change.began)) if near else None


def _merged(before: Change | None, change: Change) -> Change:
    return change if before is None else replace(change, began=before.began, found=before.found)


def scoring_fingerprint(manifest: Manifest) -> str:
    """16 hexadecimal digits that change with whatever changes scores."""
    # The head holds centroid, bank and constants, which change whenever the encoder does.
    parts = [manifest.files["head.onnx"].sha256, manifest.features.fingerprint(), manifest.amplitude.model_dump_json()]
    parts += [manifest.segments.model_dump_json(), manifest.score.model_dump_json()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
