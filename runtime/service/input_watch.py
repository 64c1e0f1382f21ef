"""The health of the sound that `run` hears, and whether a clip score may raise an alarm."""

from __future__ import annotations

from collections import deque

from edgeasd.runtime.bundle.manifest import Manifest
from edgeasd.runtime.features.logmel import Float32Array
from edgeasd.runtime.health import HealthMonitor, HealthReport, HealthSettings, level_range
from edgeasd.runtime.health.monitor import WINDOW_SECONDS


class InputWatch:
    """Judges one sound; positions are samples since it began, lost ones included."""

    def __init__(self, settings: HealthSettings, manifest: Manifest) -> None:
        """Raises InputError for a sample rate at which health cannot be judged."""
        rate = manifest.features.sample_rate
        self._monitor = HealthMonitor(settings, rate, level_range(settings, manifest.amplitude, manifest.level))
        self._window = round(WINDOW_SECONDS * rate)
        self._begin, self._position = 0, 0
        self._changes: deque[tuple[int, HealthReport]] = deque()
        self._sick, self._healthy_from = False, 0
        self._starts: deque[int] = deque(maxlen=manifest.segments.sections)
        """First samples of the segments in the clip score."""
        self.settled = True
        """Whether the last clip score holds no sound that was sick."""

    @property
    def report(self) -> HealthReport:
        """All states after the last sample."""
        return self._monitor.report()

    def push(self, samples: Float32Array) -> None:
        """Judge samples (n,) float32, any n >= 0."""
        done = 0
        while done < samples.size:
            # Window by window, so that a report is that of its change however the sound was cut.
            taken = min(samples.size - done, self._window - (self._position - self._begin) % self._window)
            changed = self._monitor.push(samples[done : done + taken])
            done += taken
            self._position += taken
            if changed:
                self._changes.append((self._position, self._monitor.report()))

    def gap(self, position: int) -> None:
        """Sound was lost before `position`; as many samples as lie between, or an unknown number."""
        self._monitor.gap(max(0, position - self._position))
        self._begin = self._position = position
        self._starts.clear()

    def changes(self, end: int | None = None) -> list[HealthReport]:
        """The reports of what began or ended up to sample `end`, in order; each is handed out once."""
        found = []
        while self._changes and (end is None or self._changes[0][0] <= end):
            position, report = self._changes.popleft()
            if self._sick and not report.is_unhealthy:
                self._healthy_from = position
            self._sick = report.is_unhealthy
            found.append(report)
        return found

    def trusts(self, start: int) -> bool:
        """Take in the segment that begins at sample `start`; whether the clip score with it may raise an alarm.

        Call it after `changes` up to the end of the segment.
        """
        self._starts.append(start)
        self.settled = not self._sick and self._starts[0] >= self._healthy_from
        return self.settled
