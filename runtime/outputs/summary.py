"""Five scores a second become one message every so many seconds."""

from __future__ import annotations

from typing import Any

from edgeasd.runtime.outputs.messages import iso_time


class ScoreSummary:
    """Gathers the clip scores of one machine; gives the body of a score message when it is due."""

    def __init__(self, every_seconds: float = 10.0) -> None:
        """`every_seconds` is counted on the monotonic clock that `add` is given."""
        self._every = every_seconds
        self._begun: float | None = None
        self._begin(0.0)

    def _begin(self, wall: float) -> None:
        self._since, self._count, self._sum = wall, 0, 0.0
        self._lowest, self._highest = float("inf"), float("-inf")

    def add(
        self, clip_score: float, *, complete: bool, threshold: float | None, time: float, wall: float
    ) -> dict[str, Any] | None:
        """Add a clip score; the body of a message (see `ScoreBody`) when `every_seconds` have passed, else None.

        `time` is monotonic seconds, `wall` seconds since 1970.
        """
        if self._begun is None:
            self._begun = time
            self._begin(wall)
        self._count += 1
        self._sum += clip_score
        self._lowest, self._highest = min(self._lowest, clip_score), max(self._highest, clip_score)
        if time - self._begun < self._every:
            return None
        body = {
            "since": iso_time(self._since),
            "count": self._count,
            "last": clip_score,
            "mean": self._sum / self._count,
            "lowest": self._lowest,
            "highest": self._highest,
            "threshold": threshold,
            "complete": complete,
        }
        self._begun = time
        self._begin(wall)
        return body
