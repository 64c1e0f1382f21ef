"""Judges an input from its samples: eight health states, each with hysteresis in value and in time."""

from __future__ import annotations

import math
from collections import deque
from itertools import islice

import numpy as np

from edgeasd.runtime.errors import InputError
from edgeasd.runtime.features.logmel import Float32Array, check_samples
from edgeasd.runtime.health.detectors import DropoutDetector, StuckDetector, WindowFigures, WindowMeter
from edgeasd.runtime.health.report import UNITS, HealthChange, HealthReport, StateReport
from edgeasd.runtime.health.settings import FLOOR_DBFS, STATES, HealthSettings, LevelRange, StateSettings

WINDOW_SECONDS = 0.2
SPAN_WINDOWS = 50
"""Windows of a mean: 10 s, the span of a clip score."""
DROPOUT_WINDOWS = 300
"""Windows in which dropouts are counted: 60 s."""
RECENT_WINDOWS = 5
"""Windows whose level can make an input suspect: 1 s."""
STRETCH_WINDOWS = 5
"""Windows that are searched together for a repeated block: 1 s."""
MIN_RATE, MAX_RATE = 4_000, 768_000


class HoldTimer:
    """A state that begins after `on` windows in a row that meet its condition, and ends after `off` that meet the end's.

    A window that meets neither breaks both rows. Counts are at least 1.
    """

    def __init__(self, on: int, off: int) -> None:
        self._needed = (max(1, off), max(1, on))
        self.active = False
        self.since = 0
        """Sample at which the row of windows began that last changed the state."""
        self._row = 0
        self._row_began = 0

    @property
    def pending(self) -> bool:
        """Whether the last window met the condition and the state has not begun."""
        return self._row > 0 and not self.active

    def update(self, begin: bool, end: bool, position: int) -> bool:
        """Add the window that starts at sample `position`; True if the state changed."""
        if not (end if self.active else begin):
            self._row = 0
            return False
        if not self._row:
            self._row_began = position
        self._row += 1
        if self._row < self._needed[not self.active]:
            return False
        self.active = not self.active
        self.since, self._row = self._row_began, 0
        return True


class SlidingCount:
    """The running sum of the last `length` whole numbers."""

    def __init__(self, length: int) -> None:
        self._last: deque[int] = deque([0] * length, maxlen=length)
        self.total = 0

    def add(self, count: int) -> None:
        """Add a number; the oldest leaves."""
        self.total += count - self._last[0]
        self._last.append(count)


def _dbfs(value: float) -> float:
    return 20.0 * math.log10(value) if value > 1e-6 else FLOOR_DBFS


_Verdict = tuple[bool, bool, float | None]
"""Whether a window meets the condition of a state, whether it meets the end's, and the figure compared."""
_UNKNOWN: _Verdict = (False, False, None)


class HealthMonitor:
    """Judges the samples of one input, before resampling: afterwards clipping and stuck samples do not show.

    monitor = HealthMonitor(HealthSettings(), 48_000, level_range(settings, amplitude, None))
    for block in source:
        changes = monitor.push(block)
    monitor.report().is_unhealthy
    """

    def __init__(self, settings: HealthSettings, sample_rate: int, level: LevelRange | None = None) -> None:
        """`sample_rate` in Hz; without the expected range `level`, no level is judged.

        Raises InputError for a rate outside 4,000 to 768,000 Hz.
        """
        if not MIN_RATE <= sample_rate <= MAX_RATE:
            raise InputError(f"{sample_rate} Hz: health is judged at {MIN_RATE} to {MAX_RATE} Hz; use such a rate")
        self.settings, self.sample_rate, self.level = settings, sample_rate, level
        self._size = round(WINDOW_SECONDS * sample_rate)
        self._meter = WindowMeter(self._size, settings.clipping.full_scale)
        self._off = [name for name in STATES if not self._settings_of(name).enabled]
        self._excused: frozenset[str] = frozenset()
        self._begin()

    def _begin(self) -> None:
        settings, rate = self.settings, self.sample_rate
        self._position = 0
        self._held = 0
        self._stretch: Float32Array = np.empty(STRETCH_WINDOWS * self._size, np.float32)
        self._stuck = StuckDetector(STRETCH_WINDOWS * self._size)
        self._means: deque[float] = deque(maxlen=SPAN_WINDOWS)
        self._powers: deque[float] = deque(maxlen=SPAN_WINDOWS)
        self._clipped = SlidingCount(SPAN_WINDOWS)
        self._dropout_counts = SlidingCount(DROPOUT_WINDOWS)
        self._reported_gaps = 0
        drop = settings.dropouts
        edge = 10.0 ** (drop.edge_dbfs / 20.0)
        self._dropouts = DropoutDetector(
            max(1, round(drop.shortest_seconds * rate)), round(drop.longest_seconds * rate), edge if edge > 0 else 0.0
        )
        self._timers = {name: self._timer(name) for name in STATES}
        self._values: dict[str, float | None] = dict.fromkeys(STATES)
        self._unhealthy_since: int | None = None
        self.window: Float32Array = np.empty(0, np.float32)
        """The last whole window: a view, valid until the next samples come."""

    def _settings_of(self, name: str) -> StateSettings:
        found: StateSettings = getattr(self.settings, "level" if name.startswith("level_") else name)
        return found

    def _timer(self, name: str) -> HoldTimer:
        state = self._settings_of(name)
        return HoldTimer(*(math.ceil(s / WINDOW_SECONDS - 1e-9) for s in (state.on_seconds, state.off_seconds)))

    def reset(self) -> None:
        """Forget everything; the next sample is sample 0."""
        self._begin()

    @property
    def is_unhealthy(self) -> bool:
        """Whether a state is active that makes the input unhealthy."""
        return self._unhealthy_since is not None

    @property
    def is_suspect(self) -> bool:
        """Whether the sound of this moment is like that of an unhealthy input, which may not be known yet.

        Uses the level of the last second: the level of 10 s, which decides, takes long to leave its range.
        """
        named = [name for name in self.settings.unhealthy if name not in self._excused]
        out_of_range = self._out_of_range()
        return any((timer.pending or name == out_of_range) and name in named for name, timer in self._timers.items())

    def excuse(self, states: frozenset[str]) -> None:
        """States that do not make the input unhealthy from now on, because something else explains them."""
        if states != self._excused:
            self._excused = states
            self._update_unhealthy()

    @property
    def level_dbfs(self) -> float | None:
        """Level of the last 10 s without the offset; None until there are so many."""
        return self._level()

    @property
    def recent_dbfs(self) -> float | None:
        """The same of the last second."""
        if len(self._powers) < RECENT_WINDOWS:
            return None
        return _dbfs(math.sqrt(sum(islice(reversed(self._powers), RECENT_WINDOWS)) / RECENT_WINDOWS))

    @property
    def at_seconds(self) -> float:
        """Seconds of sound so far, lost sound included."""
        return (self._position + self._held % self._size) / self.sample_rate

    def push(self, samples: Float32Array) -> list[HealthChange]:
        """Judge samples (n,) float32 in [-1, 1), any n >= 0; returns the changes of states, in order.

        Raises InputError, before anything is accepted, for another dtype or shape and for NaN or infinities.
        """
        return self.push_checked(check_samples(samples, self._position + self._held % self._size, self.sample_rate))

    def push_checked(self, samples: Float32Array) -> list[HealthChange]:
        """`push` without its check, for samples that `check_samples` has passed."""
        changes: list[HealthChange] = []
        done = 0
        while done < samples.size:
            within = self._held % self._size
            taken = min(self._size - within, samples.size - done)
            self._stretch[self._held : self._held + taken] = samples[done : done + taken]
            self._held += taken
            done += taken
            if within + taken == self._size:
                changes += self._judge(self._stretch[self._held - self._size : self._held])
                self._held %= self._stretch.size
        return changes

    def gap(self, lost_samples: int = 0) -> None:
        """The source lost sound here, 0 samples if it does not know how many. Counts as one dropout.

        A window that has begun is dropped: no figure spans a gap.
        """
        if lost_samples < 0:
            raise InputError(f"gap of {lost_samples} samples: a loss is 0 samples or more; pass 0 if unknown")
        self._position += self._held % self._size + lost_samples
        self._held = 0
        self._stuck.reset()
        self._reported_gaps += 1
        self._dropouts.reset()

    def report(self) -> HealthReport:
        """All states now."""
        rate = self.sample_rate
        states = {}
        for name, timer in self._timers.items():
            since = timer.since / rate if timer.active else None
            states[name] = StateReport(timer.active, since, self._values[name], UNITS[name])
        unhealthy_since = None if self._unhealthy_since is None else self._unhealthy_since / rate
        return HealthReport(self.at_seconds, self.is_unhealthy, unhealthy_since, self._level(), states)

    def _judge(self, window: Float32Array) -> list[HealthChange]:
        self.window = window
        figures = self._meter.measure(window)
        self._take(window, figures)
        verdicts = self._verdicts(figures)
        start, self._position = self._position, self._position + self._size
        changed = []
        for name, (begin, end, value) in verdicts.items():
            self._values[name] = value
            if self._timers[name].update(begin, end, start):
                changed.append(name)
        if changed:
            self._update_unhealthy()
        rate = self.sample_rate
        return [
            HealthChange(
                state=name,
                active=self._timers[name].active,
                at_seconds=self._position / rate,
                since_seconds=self._timers[name].since / rate,
                value=self._values[name],
                unit=UNITS[name],
                is_unhealthy=self.is_unhealthy,
            )
            for name in changed
        ]

    def _take(self, window: Float32Array, figures: WindowFigures) -> None:
        self._means.append(figures.mean)
        self._powers.append(figures.power)
        self._clipped.add(figures.clipped)
        self._dropout_counts.add(self._dropouts.push(window, figures.zeros) + self._reported_gaps)
        self._reported_gaps = 0
        if self._held == self._stretch.size:
            self._stuck.push(self._stretch)

    def _level(self) -> float | None:
        return _dbfs(math.sqrt(sum(self._powers) / SPAN_WINDOWS)) if len(self._powers) == SPAN_WINDOWS else None

    def _out_of_range(self) -> str | None:
        """The level state that the last second alone would begin."""
        level = self.recent_dbfs
        if self.level is None or not self.settings.level.enabled or level is None:
            return None
        if level < self.level.low_dbfs:
            return "level_low"
        return "level_high" if level > self.level.high_dbfs else None

    def _update_unhealthy(self) -> None:
        active = [
            timer.since
            for name, timer in self._timers.items()
            if timer.active and name in self.settings.unhealthy and name not in self._excused
        ]
        if not active:
            self._unhealthy_since = None
        elif self._unhealthy_since is None:
            self._unhealthy_since = min(active)

    def _verdicts(self, figures: WindowFigures) -> dict[str, _Verdict]:
        settings = self.settings
        all_zero = figures.zeros == self._size
        level = _dbfs(math.sqrt(figures.power))
        quiet, clip, drop = settings.silence, settings.clipping, settings.dropouts
        clipped = self._clipped.total / (SPAN_WINDOWS * self._size)
        count = self._dropout_counts.total
        stuck = self._stuck.block if self._stuck.block is not None else (1 if figures.constant and not all_zero else 0)
        verdicts: dict[str, _Verdict] = {
            "digital_silence": (all_zero, not all_zero, figures.zeros / self._size),
            "silence": (level < quiet.on_dbfs and not figures.constant, level > quiet.off_dbfs, level),
            "clipping": (clipped >= clip.on_share, clipped <= clip.off_share, clipped),
            "dc_offset": self._dc_verdict(),
            "stuck": (stuck > 0, stuck == 0, float(stuck)),
            "dropouts": (count >= drop.on_count, count <= drop.off_count, float(count)),
            **self._level_verdicts(),
        }
        for name in self._off:
            verdicts[name] = (False, False, verdicts[name][2])
        return verdicts

    def _dc_verdict(self) -> _Verdict:
        if len(self._means) < SPAN_WINDOWS:
            return _UNKNOWN
        offset, limits = _dbfs(abs(sum(self._means)) / SPAN_WINDOWS), self.settings.dc_offset
        return (offset >= limits.on_dbfs, offset < limits.off_dbfs, offset)

    def _level_verdicts(self) -> dict[str, _Verdict]:
        level, limits, expected = self._level(), self.settings.level, self.level
        if level is None or expected is None:
            return {name: (False, False, level) for name in ("level_low", "level_high")}
        low, high, back = expected.low_dbfs, expected.high_dbfs, limits.hysteresis_db
        return {
            "level_low": (level < low, level >= min(low + back, high), level),
            "level_high": (level > high, level <= max(high - back, low), level),
        }
