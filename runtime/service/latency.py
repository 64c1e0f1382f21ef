"""Percentiles of the latest latencies."""

from __future__ import annotations

from collections import deque

KEPT = 2000
"""Segments that are remembered: some six minutes of one stream."""


class Latencies:
    """Seconds from the last sample of a segment to its score."""

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=KEPT)

    def add(self, seconds: float) -> None:
        """Remember one."""
        self._last.append(seconds)

    def percentiles(self) -> dict[str, float] | None:
        """p50, p95 and p99 (nearest rank) in seconds; None before there is one."""
        ordered = sorted(self._last.copy())
        if not ordered:
            return None
        ranks = {"p50": 0.50, "p95": 0.95, "p99": 0.99}
        return {name: round(ordered[min(len(ordered) - 1, int(p * len(ordered)))], 6) for name, p in ranks.items()}
