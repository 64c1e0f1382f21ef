"""The scores of a running service as they come, and how late each is."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from typing import IO, Any, NamedTuple

import numpy as np
from sounds import HOP_SAMPLES, RATE


class Figures(NamedTuple):
    """Scores of all streams in a span of time; delays in seconds beyond the shortest ever of a stream."""

    scores: int
    wanted: float
    """How many the sound of that span gives."""
    p50: float
    p99: float
    worst: float


class Pulse:
    """Reads the records that `run --config … --jsonl -` writes, and notes when each came.

    A source plays by a schedule, so the delay of a score is when it came less when its last sample was played. When
    a source began is not known; delays count from the shortest of its stream.
    """

    def __init__(self, out: IO[bytes], speed: float, streams: int) -> None:
        self._speed, self._streams = speed, streams
        self.records: list[tuple[float, dict[str, Any]]] = []
        self._thread = threading.Thread(target=self._read, args=(out,), daemon=True)
        self._thread.start()

    def _read(self, out: IO[bytes]) -> None:
        for line in out:
            self.records.append((time.monotonic(), json.loads(line)))

    def of(self, kind: str, id: str | None = None) -> list[dict[str, Any]]:
        """Records of a kind, of one stream or all."""
        return [one for _, one in list(self.records) if one["kind"] == kind and id in (None, one.get("id"))]

    def measure(self, seconds: float) -> Figures:
        """The scores of the next seconds."""
        begin = time.monotonic()
        time.sleep(seconds)
        return self.figures(begin, time.monotonic())

    def figures(self, begin: float, end: float) -> Figures:
        """The scores of a span of monotonic time."""
        played: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for at, one in list(self.records):
            if one["kind"] == "segment":
                played[one["id"]].append((at, at - one["body"]["end_sample"] / (RATE * self._speed)))
        delays: list[float] = []
        for times in played.values():
            first = min(late for _, late in times)
            delays += [late - first for at, late in times if begin <= at <= end]
        wanted = (end - begin) * self._speed * RATE / HOP_SAMPLES * self._streams
        p50, p99 = np.percentile(delays, [50, 99]) if delays else (float("inf"), float("inf"))
        return Figures(
            len(delays), wanted, round(float(p50), 4), round(float(p99), 4), round(max(delays, default=0.0), 4)
        )

    def check_unbroken(self, *ids: str) -> None:
        """Each score follows the one before by one hop: no sound was dropped, no segment skipped.

        Not so where the service has said that it cannot keep up: the machine has stood still for others meanwhile.
        """
        if overloads := [one for one in self.of("status") if one["body"].get("decimation", 1) > 1]:
            print(f"NOT CHECKED: whether scores are unbroken, on a machine that has stood still: {overloads[:2]}")
            return
        for id in ids:
            starts = [one["body"]["start_sample"] for one in self.of("segment", id)]
            assert starts == list(range(0, HOP_SAMPLES * len(starts), HOP_SAMPLES)), id
            assert self.of("gap", id) == []
