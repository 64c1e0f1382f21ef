"""The sound that waits for the scorer: said when it grows, and segments left out before sound is lost."""

from __future__ import annotations

from typing import Any

from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.service.jsonl_records import record_of
from edgeasd.runtime.service.load_shedding import Overload

LATE_SECONDS = 5.0
"""Scoring that much behind a live sound is said, and again for every such step."""
WORKED_OFF = 0.25
"""Seconds of sound a second, at least, by which what came while the bundle was loaded has to shrink."""


class Backlog:
    """What `run` says and does about a live sound that waits. Times are monotonic seconds."""

    def __init__(self, manifest: Manifest, dropping_at: float, *, skips: bool) -> None:
        """`dropping_at` is the size of the ring in seconds; `skips`: whether segments may be left out."""
        self._manifest, self._dropping_at, self._skips = manifest, dropping_at, skips
        self._said = 0.0
        self._overload: Overload | None = None
        self._began, self._loaded, self._excused = 0.0, 0.0, 0.0

    @property
    def keep_every(self) -> int:
        """See `Overload`."""
        return 1 if self._overload is None else self._overload.keep_every

    def update(self, behind: float, busy: float, now: float) -> list[dict[str, Any]]:
        """Take in `behind`, seconds of sound that wait, and `busy`, seconds of work since the last call.

        Returns the records of it.
        """
        return self._say_if_late(behind) + (self._weigh(behind, busy, now) if self._skips else [])

    def _say_if_late(self, behind: float) -> list[dict[str, Any]]:
        if behind < 1.0:
            self._said = 0.0
        elif behind >= self._said + LATE_SECONDS:
            self._said = behind
            said = {"behind_seconds": round(behind, 3), "dropping_at": self._dropping_at}
            return [{**record_of("late", self._manifest), **said}]
        return []

    def _weigh(self, behind: float, busy: float, now: float) -> list[dict[str, Any]]:
        if self._overload is None:
            self._overload = Overload(now)
            self._began, self._loaded, self._excused = now, behind, behind
        # What came while the bundle was loaded is no sign of a slow device, as long as it is worked off.
        self._excused = max(0.0, min(self._excused, behind, self._loaded - WORKED_OFF * (now - self._began)))
        if not self._overload.update(behind - self._excused, busy, now):
            return []
        said = {"keep_every": self._overload.keep_every, "behind_seconds": round(behind, 3)}
        return [{**record_of("overload", self._manifest), **said}]
